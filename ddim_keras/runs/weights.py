"""Weights files: saved atomically, and checked when loaded."""

import contextlib
import errno
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddim_keras.atomic import reserve
from ddim_keras.config import InputError
from ddim_keras.runs import hdf5
from ddim_keras.runs.manifest import recorded

# Layer names of earlier versions in weights files, and the current names.
RENAMED_LAYERS = {"conv2d_transpose": "patches_to_pixels"}


def save_weights(model: Any, path: Path) -> None:
    """Saves all weights of a Keras model atomically as `.weights.h5`.

    Used instead of Keras's `ModelCheckpoint` and `BackupAndRestore`, which overwrite the file to
    restore: a kill during writing would lose both states.

    Raises:
        OSError: if the disk is full.
    """
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    size = sum(4 * math.prod(variable.shape) + 4096 for variable in variables)  # bytes, generously
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    with recorded(path) as part:
        reserve(part, size)
        model.save_weights(part, overwrite=True)


def require_finite(model: Any, what: str) -> None:
    """Raises InputError, starting with `what`, if a weight is infinite or not a number."""
    import numpy as np  # not before: --help should not wait for it

    for variable in model.variables:
        if not np.all(np.isfinite(np.asarray(variable))):
            raise InputError(
                f"{what}: its weights are not finite ({variable.path}). The training diverged; try "
                "a smaller learning rate or --precision float32"
            )


def load_weights(model: Any, path: Path) -> None:
    """Loads weights.

    Raises:
        InputError: if the file is missing or damaged, holds the weights of another model, refers to
            other files, or has weights that are not finite.
    """
    if not path.is_file():
        raise InputError(f"there is no weights file {path}")
    if not path.name.endswith(".weights.h5"):
        raise InputError(f"{path} is not named as a weights file, which ends in .weights.h5")
    try:
        with warnings.catch_warnings():
            # Weights that Keras would skip and leave at their initial values.
            warnings.filterwarnings("error", "Skipping", UserWarning)
            with under_new_names(path) as renamed:
                model.load_weights(renamed)
    except InputError:
        raise
    except (ValueError, OSError, KeyError, RuntimeError, UserWarning) as error:
        raise InputError(
            f"{path} does not hold the weights of this model: it is damaged, or its config.json "
            f"describes another architecture ({type(error).__name__})"
        ) from error
    require_finite(model, f"{path} cannot be used")
    _require_statistics(model, path)


def _require_statistics(model: Any, path: Path) -> None:
    """Raises InputError if a model's pixel variances or class frequencies are impossible."""
    import numpy as np  # not before: --help should not wait for it

    variances, frequencies = (
        np.asarray(getattr(model, name, np.ones(1)))
        for name in ("pixel_variances", "class_frequencies")
    )
    if variances.min() <= 0 or frequencies.min() < 0 or not 0 < frequencies.sum() < np.inf:
        raise InputError(f"{path} cannot be used: invalid pixel variances or class frequencies")


@contextlib.contextmanager
def under_new_names(path: Path) -> Iterator[Path]:
    """Yields a weights file, or a copy with current layer names if an earlier version wrote it."""
    with hdf5.opened(path) as file:
        found = [
            (group, old, new)
            for group in ("ema_network", *(f"layers/{name}" for name in file.get("layers", ())))
            for old, new in RENAMED_LAYERS.items()
            if f"{group}/layers/{old}" in file
        ]
    if not found:
        yield path
        return
    import h5py  # a part of Keras, which --help should not wait for

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            for group, old, new in found:
                if f"{group}/layers/{old}" in file:  # one group may have two names
                    file.move(f"{group}/layers/{old}", f"{group}/layers/{new}")
        yield copy
