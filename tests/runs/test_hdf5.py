"""What a weights file may not hold, since reading it would read or allocate something else."""

import h5py
import numpy as np
import pytest

from ddim_keras.config import InputError
from ddim_keras.runs.hdf5 import opened


def external_link(file, secret):
    file["group/secret"] = h5py.ExternalLink(str(secret), "/values")


def soft_link(file, secret):
    file["group/other"] = h5py.SoftLink("/elsewhere")


def external_storage(file, secret):
    file.create_dataset("secret", (4,), "uint8", external=[(str(secret), 0, 4)])


def virtual_data_set(file, secret):
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(secret), "values", shape=(4,))
    file.create_virtual_dataset("secret", layout)


def shape_bomb(file, secret):
    file.create_dataset("large", (1_000_000, 1_000_000), "f4", chunks=(1, 1))


def text(file, secret):
    file["text"] = "run me"


@pytest.mark.parametrize(
    "put", [external_link, soft_link, external_storage, virtual_data_set, shape_bomb, text]
)
def test_files_that_refer_elsewhere_or_lie_are_refused(put, tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["values"] = np.ones(4, "float32")
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["honest"] = np.ones(4, "float32")
        put(file, secret)
    with pytest.raises(InputError, match="is not a weights file that can be trusted"), opened(path):
        pass


def test_two_names_of_one_group_and_loops_are_seen_once(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file["network/kernel"] = np.ones(1000, "float32")
        file["average"] = file["network"]
        file["network/loop"] = file["/"]
    with opened(path) as file:
        assert file["average/kernel"].shape == (1000,)
