"""Child process: executes a student's file, tries its functions, and writes the observations.

Started by `process.observe`. It can be stopped at any moment: earlier observations are on disk.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ddim_keras.check import observations
from ddim_keras.check.experiments import EXPERIMENTS, Found, Laboratory, find
from ddim_keras.check.gaps import EXERCISE, LAB
from ddim_keras.check.parameters import CannotCall
from ddim_keras.check.source import LocalModules, MissingModule, Source, describe, plain
from ddim_keras.check.stand_ins import UnknownAttribute
from ddim_keras.check.tensors import without_compilation

BUSY = "busy.txt"  # the name of the gap being tried
FILE = "file.npz"


class TimeIsUp(BaseException):
    """A function of the student took too long."""


def main(arguments: Sequence[str] | None = None) -> None:
    """`child.py FILE FOLDER SECONDS MEBIBYTES [GAP ...]`."""
    path, folder, seconds, mebibytes, *only = arguments or sys.argv[1:]
    limit_memory(int(mebibytes))
    os.environ.setdefault("KERAS_BACKEND", default_backend())
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("MPLBACKEND", "agg")
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    # Tiny arrays, and exact results: a GPU may round products. A cluster names its GPUs here; an
    # empty text would be no variable on Windows. The last one is for the GPU of a Mac.
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "KERAS_TORCH_DEVICE": "cpu"}
    out = Path(folder)

    def write(name: str, value: dict[str, Any]) -> None:
        observations.save(out / name, value)

    def busy(gap: str) -> None:
        (out / BUSY).write_text(gap)

    try_file(Path(path), write, busy, int(seconds), only)


def limit_memory(mebibytes: int) -> None:
    """Limits the memory of this process and the size of files it writes, on POSIX."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limits = ((resource.RLIMIT_DATA, mebibytes * 2**20), (resource.RLIMIT_FSIZE, 512 * 2**20))
    for limit, value in limits:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


def default_backend() -> str:
    """The Keras backend for a file that sets none."""
    import importlib.util

    installed = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
    return installed[0] if installed else "tensorflow"


def try_file(
    path: Path,
    write: Callable[[str, dict[str, Any]], None],
    busy: Callable[[str], None] = lambda gap: None,
    seconds: int = 60,
    only: Sequence[str] = (),
) -> None:
    """Executes the harmless part of a file and runs the experiment of each gap that it fills.

    Args:
        write: called with a file name and the observations of the file, then of each gap.
        busy: called with the name of the next gap.
        seconds: time limit of each experiment.
        only: the gaps to try; by default all that are found.
    """
    # At the end: a file beside it may have the name of a library.
    sys.path.append(str(path.parent))
    finder = LocalModules(path.parent)
    sys.meta_path.insert(0, finder)
    try:
        source = Source(path)
        busy("import")
        source.execute([plain(gap) for gap in (*LAB, *EXERCISE)])
        without_compilation()
        found = find(source)
        names = {
            gap: {"name": item.name, "owner": item.owner.__name__ if item.owner else None}
            for gap, item in found.items()
        }
        write(FILE, {"found": names, "problems": source.problems, "numbers": source.numbers()})
        laboratory = Laboratory(source, found)
        for gap in found:
            if not only or gap in only:
                busy(gap)
                write(f"{gap}.npz", try_gap(laboratory, found[gap], seconds))
        busy("")
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(str(path.parent))
        sys.modules.pop(f"student_{path.stem}", None)


def try_gap(laboratory: Laboratory, found: Found, seconds: int) -> dict[str, Any]:
    """Runs one experiment, in turn with tensors of each library that the function may expect."""
    problems: list[dict[str, Any]] = []
    for library in laboratory.libraries(found.gap):
        laboratory.recorder.take()
        try:
            with time_limit(seconds):
                result = EXPERIMENTS[found.gap](laboratory, library)
            return {"library": library, "result": result}
        except TimeIsUp:
            return {"library": library, "error": f"no result within {seconds} s", "kind": "time"}
        except (CannotCall, MissingModule, UnknownAttribute, NotImplementedError) as error:
            kind = "missing" if isinstance(error, MissingModule) else "unknown"
            if isinstance(error, NotImplementedError) and _raised_by(error, laboratory):
                kind = "unfinished"
            problems.append({"library": library, "error": str(error), "kind": kind})
        except MemoryError:
            return {"library": library, "error": "more memory than allowed", "kind": "memory"}
        except (Exception, SystemExit) as error:
            problem = {"library": library, "error": describe(error), "kind": "exception"}
            if _needs_file(error):
                text = f"it needs a file or folder that is not here: {describe(error)}"
                problem |= {"error": text, "kind": "unknown"}
            problems.append({**problem, "line": _line(error, laboratory)})
    return problems[0]


def _needs_file(error: BaseException) -> bool:
    """Whether a file cannot be read or written, for example on the student's Google Drive."""
    of_torch = isinstance(error, RuntimeError) and "Parent directory" in str(error)
    return of_torch or isinstance(error, FileNotFoundError | PermissionError)


def _frames(error: BaseException, laboratory: Laboratory) -> list[traceback.FrameSummary]:
    file = laboratory.namespace["__file__"]
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if frame.filename.startswith(str(file))]


def _line(error: BaseException, laboratory: Laboratory) -> int | None:
    """The line of the student's file in which an exception was raised."""
    frames = _frames(error, laboratory)
    return frames[-1].lineno if frames else None


def _raised_by(error: BaseException, laboratory: Laboratory) -> bool:
    return bool(_frames(error, laboratory))


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raises TimeIsUp in this block after some seconds, if the system has alarms."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: Any) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    main()
