"""Lock of a run folder: one training at a time.

The operating system releases the lock when the process ends for any reason.
"""

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from ddim_keras.config import InputError

try:
    import fcntl
except ImportError:  # Windows has no such locks: two trainings in one folder go undetected
    fcntl = None  # type: ignore[assignment]

NAME = "lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is created if missing.

    Raises:
        InputError: if another process holds it; the message names that process.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    with path.open("a+") as file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise InputError(
                    f"{folder} is in use by {holder}; wait for it, or choose another --output"
                ) from None
            except OSError:
                pass  # a file system without locks
        if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise InputError(f"{folder} was in use until now; start again")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # they hold something
                for empty in made:  # the training failed before it wrote anything
                    empty.rmdir()
