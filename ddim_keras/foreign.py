"""Untrusted files: JSON, tables and arrays that others may have made, read within limits.

Any fault of such a file becomes an `InputError` of one line. HDF5 is read by `runs/hdf5.py`, images
by `data/images.py`.
"""

import contextlib
import csv
import errno
import io
import json
import math
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddim_keras.config import InputError

MOST_TEXT = 2**24  # bytes of a JSON file or a table
MOST_COMPRESSION = 200  # an array with a larger compression ratio is not unpacked


@contextlib.contextmanager
def contents_of(path: Path, what: str, advice: str = "") -> Iterator[None]:
    """Turns any error in the contents of a file into an InputError.

    Args:
        what: what the file should contain, such as "the configuration of a run".
        advice: what to do, such as "; remove it".
    """
    try:
        yield
    except Exception as error:  # parsers raise a dozen kinds for damaged files
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG):
            raise  # of the disk that it was unpacked to
        reason = str(error) if isinstance(error, InputError) else first_line(error)
        raise InputError(f"{path} is not {what} ({reason}){advice}") from error


def first_line(error: Exception) -> str:
    """First line of another library's error, shortened to be quoted."""
    return f"{type(error).__name__}: {str(error).strip().split(chr(10))[0][:200]}"


def printable(text: str) -> str:
    r"""A text that is safe in files and figures: bytes that are not UTF-8 become \udcff."""
    return text.encode(errors="backslashreplace").decode()


def read_json(path: Path) -> Any:
    """Reads a UTF-8 JSON file with finite numbers; to be used within `contents_of`."""
    return json.loads(_text(path), parse_float=_finite, parse_constant=_finite)


def read_table(path: Path) -> list[dict[str, int | float | str]]:
    """Reads a CSV file with a header, without its empty cells; to be used within `contents_of`."""
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    rows = []
    for row in reader:
        if None in row:
            raise ValueError(f"line {reader.line_num} has more cells than the header")
        rows.append({name: _number_or_text(cell) for name, cell in row.items() if cell})
    return rows


def read_array(path: Path) -> np.ndarray:
    """Maps an .npy file into memory; to be used within `contents_of`."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("a .npz file, with a wrong suffix")
    return array


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Maps those arrays that an .npz file has into memory; to be used within `contents_of`.

    They are unpacked into temporary files, which disappear with the arrays; NumPy itself would read
    each array into memory. Unpacking also verifies the checksum.

    Args:
        names: names of the arrays; the first must exist.
    """
    arrays = {}
    with (
        zipfile.ZipFile(path) as archive,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
    ):
        members = {info.filename: info for info in archive.infolist()}
        if f"{names[0]}.npy" not in members:
            held = ", ".join(name.removesuffix(".npy") for name in members) or "nothing"
            raise ValueError(f"it must hold an array {names[0]!r}, but holds {held}")
        for name in names:
            member = members.get(f"{name}.npy")
            if member is None:
                continue
            if member.file_size > MOST_COMPRESSION * (member.compress_size + 1024):
                raise ValueError(
                    f"{name} of {member.file_size:,} bytes is packed into {member.compress_size:,}"
                )
            if member.file_size > shutil.disk_usage(folder).free:
                raise ValueError(f"{name} of {member.file_size:,} bytes does not fit on the disk")
            arrays[name] = read_array(Path(archive.extract(member, folder)))
    if Path(folder).exists():  # Windows removes no mapped file
        for array in arrays.values():
            weakref.finalize(array.base, shutil.rmtree, folder, ignore_errors=True)
    return arrays


def _text(path: Path) -> str:
    size = path.stat().st_size
    if size > MOST_TEXT:
        raise ValueError(f"{size:,} bytes are more than {MOST_TEXT:,}")
    return path.read_bytes().decode("utf-8-sig")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
