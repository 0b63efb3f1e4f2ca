"""File of the child process's observations: JSON and plain arrays, nothing executable."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ddim_keras.atomic import move
from ddim_keras.config import InputError

LARGEST = 256 * 2**20  # bytes


def save(path: Path, observations: dict[str, Any]) -> None:
    """Writes nested dictionaries and lists of numbers, strings and arrays, atomically."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_encode(observations, arrays))
    contents: dict[str, Any] = {"json": np.array(text), **arrays}
    temporary = path.with_suffix(".part.npz")
    np.savez(temporary, **contents)
    move(temporary, path)


def load(path: Path) -> dict[str, Any]:
    """Reads a file written by `save`.

    Raises:
        InputError: if the file is not of this kind.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path.name} is too large")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _decode(json.loads(str(arrays.pop("json"))), arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"the observations cannot be read: {error}") from None


def _encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        return {str(key): _encode(inner, arrays) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(inner, arrays) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        value = np.asarray(value)
        if value.dtype.kind not in "fiub":
            return f"values of type {value.dtype}"
        if value.dtype == np.float16:
            value = value.astype("float32")
        name = f"array{len(arrays)}"
        arrays[name] = value
        return {"$array": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(type(value).__name__)


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"$array"}:
            return arrays[value["$array"]]
        return {key: _decode(inner, arrays) for key, inner in value.items()}
    if isinstance(value, list):
        return [_decode(inner, arrays) for inner in value]
    return value
