"""Untrusted HDF5 files: checked before anything in them is read.

HDF5 can refer to other files through external links, external storage and virtual data sets, and
can declare arrays much larger than the file. Weights files need none of this.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddim_keras.config import InputError
from ddim_keras.foreign import first_line


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Opens an HDF5 file for reading, after checking all its groups and arrays.

    Raises:
        InputError: if it refers to other files or places, holds anything except numbers, or
            declares more than it holds.
        OSError: if it is not an HDF5 file.
    """
    import h5py  # a part of Keras, which --help should not wait for

    with h5py.File(path) as file:
        try:
            _check(file, path.stat().st_size)
        except Exception as error:  # h5py raises several kinds for damaged files
            reason = str(error) if isinstance(error, _Refused) else f"damaged, {first_line(error)}"
            raise InputError(
                f"{path} is not a weights file that can be trusted: {reason}"
            ) from None
        yield file


class _Refused(Exception):
    """A feature that no weights file needs."""


def _check(file: Any, file_size: int) -> None:
    import h5py

    declared, seen, groups = 0, set(), [file]
    while groups:
        group = groups.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _Refused(f"{group.name}/{name} is a link to another place")
            item = group[name]
            number = h5py.h5o.get_info(item.id).addr
            if number in seen:  # two names of one object: an average that is also the network
                continue
            seen.add(number)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif not isinstance(item, h5py.Dataset):
                raise _Refused(f"{item.name} is neither a group nor an array")
            else:
                if item.external or item.is_virtual:
                    raise _Refused(f"{item.name} is stored in another file")
                if item.dtype.kind not in "fiub":
                    raise _Refused(f"{item.name} holds {item.dtype}, not numbers")
                declared += item.size * item.dtype.itemsize
    if declared > file_size:
        raise _Refused(f"it declares {declared:,} bytes of arrays, but has {file_size:,} bytes")
