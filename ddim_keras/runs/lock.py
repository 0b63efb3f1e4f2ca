"""Lock of a folder: one training of a run, or one drawing of trajectories, at a time.

The operating system releases the lock when the process ends for any reason.
"""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ddim_keras.config import InputError

try:
    import fcntl
except ImportError:  # Windows has no such locks: two trainings in one folder go undetected
    fcntl = None  # type: ignore[assignment]

NAME = "lock"


@contextlib.contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a folder, which is created if missing.

    Args:
        wait: whether to wait for another process that holds it.

    Raises:
        InputError: if another process holds it, without `wait`; the message names that process.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / NAME
    while (file := _taken(path, wait)) is None:
        if not wait:
            raise InputError(f"{folder} was in use until now; start again")
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            if not fcntl:
                file.close()  # Windows removes no open file
            with contextlib.suppress(OSError):  # open in another process, or they hold something
                path.unlink(missing_ok=True)
                for empty in made:  # the training failed before it wrote anything
                    empty.rmdir()


def _taken(path: Path, wait: bool) -> TextIO | None:
    """The file of a lock, opened and locked; None if its holder has removed it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")  # names of machines may have any letters
    if fcntl:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            if not wait:
                file.close()
                raise InputError(
                    f"{path.parent} is in use by {holder}; wait for it, or choose another --output"
                ) from None
            print(f"waiting for {path.parent}, in use by {holder}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    file.close()
    return None
