"""Files and folders that are written whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

PART = "part-"  # of a name: a file that a process is writing, or was when it was killed


@contextlib.contextmanager
def written_whole(
    path: Path, before_renaming: Callable[[Path], None] = lambda part: None
) -> Iterator[Path]:
    """Gives a path to write to, beside `path`, that becomes `path` when the block ends well.

    Until then, and if the block fails, what was at `path` before stays. A killed process leaves at
    most that other file, see `remove_parts`. The new contents are on the disk before they get their
    name, so that a power cut leaves the old or the new ones.

    Args:
        before_renaming: called with the other path once it is complete.
    """
    part = _part_of(path)
    try:
        yield part
        before_renaming(part)
        _to_disk(part)
        part.replace(path)
        _to_disk(path.parent)
    except OSError as error:
        # A full disk fails a write, and that, unlike a failed open, does not tell the file.
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Gives a folder to write to, beside `path`, that becomes `path` when the block ends well.

    If another process makes `path` meanwhile, its folder stays, and this one is dropped.
    """
    part = _part_of(path)
    try:
        part.mkdir(exist_ok=True)
        yield part
        try:
            part.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part_of(path: Path) -> Path:
    """The path to write to; a name may be as long as the system lets it, and the prefix is more."""
    return path.with_name(f"{PART}{os.getpid()}-{path.name[-50:]}")


def require_writable(folder: Path) -> None:
    """Makes a folder if it is missing; raises OSError, before the work, if no file can be made."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        error.filename = str(folder)
        raise


def reserve(path: Path, size: int) -> None:
    """Raises OSError if a file of so many bytes cannot be written: a disk, or a quota, is full.

    For libraries that do not survive a failed write, as HDF5, which ends the process in a crash.
    """
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def remove_parts(folder: Path) -> None:
    """Removes what killed processes left in a folder; nobody else may be writing to it."""
    for part in folder.glob(f"{PART}*"):
        if part.is_file():
            part.unlink()


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk, where the system can."""
    with contextlib.suppress(OSError):  # folders cannot be opened on Windows
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
