"""Files and folders that are written whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path to write to, beside `path`, that becomes `path` when the block ends well.

    Until then, and if the block fails, what was at `path` before stays. A killed process leaves at
    most that other file, whose name starts with "part-" and ends like that of `path`.
    """
    part = path.with_name(f"part-{os.getpid()}-{path.name}")
    try:
        yield part
        part.replace(path)
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
    part = path.with_name(f"part-{os.getpid()}-{path.name}")
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
