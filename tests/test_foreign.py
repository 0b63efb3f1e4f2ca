"""The corpus of files that once got past a reader, or stopped it with a traceback."""

import contextlib
import tempfile

import numpy as np
import pytest
from PIL import Image

from ddim_keras.config import InputError
from ddim_keras.data import images as image_files
from ddim_keras.data.cache import PREPARED, open_cache
from ddim_keras.data.images import load_image
from ddim_keras.data.sources import find_source
from ddim_keras.evaluation.table import read_rows
from ddim_keras.foreign import MOST_TEXT, read_arrays
from ddim_keras.plots.figures import read_samples
from ddim_keras.runs.configuration import read_config
from ddim_keras.runs.folder import Run
from ddim_keras.runs.manifest import read_manifest
from tests.helpers import EPOCH

PIXELS = np.zeros((4, 8, 8, 3), "uint8")
TEXTS = {  # no reader takes these
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "UTF-16": "{}".encode("utf-16"),
    "Latin-1": b'{"preset": "\xe9"}',
    "zeros": bytes(64),
    "long number": '{"2": ' + "9" * 5000 + "}",
    "long": b" " * (MOST_TEXT + 1),
}
READERS = {
    "config.json": read_config,
    "manifest.json": read_manifest,
    "sampling_steps.json": lambda folder: Run(folder).read_sampling_steps(),
    PREPARED: lambda folder: open_cache(folder, "data"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_none(tmp_path, name, text):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=" is not "):
        READERS[name](tmp_path)


@pytest.mark.parametrize(
    "steps",
    ['{"1": [NaN, 1]}', '{"1": [0.1, 1e999]}', '{"1": [0.9, 0.5]}', '{"0": [1]}', '{"1": [0, 1]}'],
)
def test_steps_that_no_sampler_takes(tmp_path, steps):
    (tmp_path / "sampling_steps.json").write_text(steps)
    with pytest.raises(InputError, match="is not a file of searched steps"):
        Run(tmp_path).read_sampling_steps()


HEADER, ROW = ",".join(EPOCH), ",".join(map(str, EPOCH.values()))


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n{ROW},1\n",
        f"{HEADER}\n1,,,,,,\n",
        f"{HEADER}\n-1{ROW[1:]}\n",
        f"{HEADER}\n{ROW.replace('0.1', 'nan')}\n",
        f"{HEADER},kid\n{ROW},low\n",
        "epoch,images\n1,32\n",
        "\n1\n2\n",
    ],
)
def test_a_history_of_no_run(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(InputError, match=r"history\.csv is not the history of a run"):
        Run(tmp_path).read_history()


def test_a_history_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "history.csv").write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\n{ROW}\n".encode())
    assert Run(tmp_path).read_history() == [EPOCH]


@pytest.mark.parametrize(
    "text", ["kid,steps\nlow,5\n", "kid\n0.1,0.2\n", "kid\n\xe9\n", "kid;steps\n0.1;5\n"]
)
def test_a_table_of_no_evaluation(tmp_path, text):
    path = tmp_path / "evaluation.csv"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="is not a table of results"):
        read_rows(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.uint8(3)},
        {"images": PIXELS, "labels": np.int32(3)},
        {"images": PIXELS, "labels": np.full(4, 10**9)},
        {"images": PIXELS, "labels": np.full(4, -5)},
        {"images": PIXELS, "labels": np.full(4, 2**63, "uint64")},
        {"images": PIXELS, "class_names": np.array("rose")},
        {"images": PIXELS, "class_names": np.arange(3)},
        {"images": PIXELS, "class_names": np.array([b"\xff"])},
    ],
)
def test_arrays_of_no_data_set(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=r"a\.npz"):
        find_source(tmp_path / "a.npz", 16, None).read()


def test_an_array_that_is_much_larger_than_its_file(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((16, 512, 512, 3), "uint8"))
    with pytest.raises(InputError, match=r"images of .* bytes is packed into"):
        find_source(tmp_path / "a.npz", 16, None).read()
    with open(tmp_path / "a.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64, 3)}
        np.lib.format.write_array_header_1_0(file, header)
    for read in (lambda path: find_source(path, 16, None).read(), read_samples):
        with pytest.raises(InputError, match=r"a\.npy is not an"):
            read(tmp_path / "a.npy")


def test_unpacked_arrays_are_removed_with_the_last_of_them(tmp_path, monkeypatch):
    """Where mapped files cannot be removed at once, as on Windows."""
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=np.arange(4))

    @contextlib.contextmanager
    def kept(**_):
        (tmp_path / "unpacked").mkdir()
        yield str(tmp_path / "unpacked")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", kept)
    arrays = read_arrays(tmp_path / "a.npz", ("images", "labels"))
    image = arrays["images"][0]
    assert len([*(tmp_path / "unpacked").iterdir()]) == 2
    arrays.clear()
    np.testing.assert_array_equal(image, PIXELS[0])
    del image
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_samples_of_other_channels(tmp_path):
    np.save(tmp_path / "epoch_0001.npy", PIXELS[..., :2])
    with pytest.raises(InputError, match="are not images"):
        read_samples(tmp_path / "epoch_0001.png")


def test_an_image_of_too_many_pixels(tmp_path, monkeypatch):
    Image.new("1", (100, 100)).save(tmp_path / "large.png")
    monkeypatch.setattr(image_files, "MOST_PIXELS", 100 * 100 - 1)
    with pytest.raises(InputError, match="more than 0 megapixels; make it smaller"):
        load_image(tmp_path / "large.png", 8)
