"""Atomic writing: files and folders that are written completely or not at all."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PART = "part-"  # prefix of files being written, or left by a killed process
# Seconds before each new try to rename. On Windows that fails while another program, such as a
# virus scanner, has the file open.
WAITS: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8) if os.name == "nt" else ()


@contextlib.contextmanager
def written_whole(
    path: Path, before_renaming: Callable[[Path], None] = lambda part: None
) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` when the block succeeds.

    Until then, and if the block fails, the old file stays. A killed process leaves at most the
    temporary file; see `remove_parts`. The new contents are flushed to disk before renaming, so
    that a power failure leaves either the old or the new file.

    Args:
        before_renaming: called with the temporary path once it is complete.
    """
    part = _part_of(path)
    try:
        yield part
        before_renaming(part)
        _to_disk(part)
        move(part, path)
        _to_disk(path.parent)
    except OSError as error:
        # The error of a write to a full disk, unlike that of a failed open, does not name the file.
        error.filename = error.filename or str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, renamed to `path` when the block succeeds.

    If another process creates `path` meanwhile, its folder stays, and this one is removed.
    """
    part = _part_of(path)
    try:
        part.mkdir(exist_ok=True)
        yield part
        try:
            move(part, path)
        except OSError:
            if not path.is_dir():
                raise
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def move(part: Path, path: Path) -> None:
    """Renames a file, replacing an old one, or a folder; on Windows tries for a second or two."""
    for seconds in WAITS:
        with contextlib.suppress(PermissionError):
            part.replace(path)
            return
        time.sleep(seconds)
    part.replace(path)


def _part_of(path: Path) -> Path:
    """The temporary path; shortened, since the prefix could make a long name too long."""
    return path.with_name(f"{PART}{os.getpid()}-{path.name[-50:]}")


def require_writable(folder: Path) -> None:
    """Creates a folder if it is missing; raises OSError early if no file can be created in it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        error.filename = str(folder)
        raise


def reserve(path: Path, size: int) -> None:
    """Raises OSError if a file of this size does not fit on the disk or within the quota.

    For code that crashes when a write fails, such as HDF5 and memory maps. The file keeps what it
    holds.
    """
    with open(path, "r+b" if path.exists() else "wb") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                error.filename = str(path)
                raise


def remove_parts(folder: Path) -> None:
    """Removes the leftovers of killed processes from a folder to which no process is writing."""
    for part in folder.glob(f"{PART}*"):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()


def _to_disk(path: Path) -> None:
    """Flushes a file, or the names in a folder, to disk if the system supports it."""
    # Windows flushes only files that are open for writing.
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    with contextlib.suppress(OSError):  # folders cannot be opened on Windows
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
