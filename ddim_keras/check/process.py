"""Parent side of the child process: starts it, waits, and reads its observations."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddim_keras.config import InputError

IMPORT_SECONDS = 60  # at least; libraries may be slow to import
GRACE_SECONDS = 10  # for a function that its alarm has not stopped
PROJECT = Path(__file__).resolve().parents[2]


def observe(path: Path, only: Sequence[str], seconds: int, mebibytes: int) -> dict[str, Any]:
    """Runs a student's file in a separate process, with limits of time and memory.

    Args:
        path: a module or notebook.
        only: the gaps to try; empty for all.
        seconds: time limit for each gap; imports have at least a minute.
        mebibytes: memory limit.

    Returns:
        The observations of the file, with those of each gap under "gaps". If the process was
        stopped, the current gap has an error and later ones are absent.

    Raises:
        InputError: if the file cannot be checked at all.
    """
    from ddim_keras.check import observations
    from ddim_keras.check.child import BUSY, FILE

    # A process that was stopped may still have its folder open on Windows, for a moment.
    with tempfile.TemporaryDirectory(
        prefix="ddim_keras_check_", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        (folder / "empty").mkdir()
        paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            # Whatever the student's code prints is no mistake; a file on Windows has cp1252.
            "PYTHONIOENCODING": "utf-8:backslashreplace",
        }
        command = [sys.executable, "-m", "ddim_keras.check.child"]
        command += [str(path.resolve()), str(folder), str(seconds), str(mebibytes), *only]
        with open(folder / "output.txt", "w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                command,
                cwd=folder / "empty",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                in_time = _wait(process, folder / BUSY, seconds)
            finally:
                _kill(process)
            output.seek(max(0, output.seek(0, os.SEEK_END) - 2000))
            last_lines = [line.strip() for line in output.read().splitlines() if line.strip()]
        busy = (folder / BUSY).read_text() if (folder / BUSY).exists() else "import"
        reason = f"no result within {seconds} s" if not in_time else _ending(process, last_lines)
        if not (folder / FILE).exists():
            raise InputError(f"{path}: {reason}")
        result = observations.load(folder / FILE)
        result["gaps"] = {
            gap: observations.load(folder / f"{gap}.npz")
            for gap in result["found"]
            if (folder / f"{gap}.npz").exists()
        }
        if busy in result["found"] and busy not in result["gaps"]:
            result["gaps"][busy] = {"library": None, "error": reason, "kind": "stopped"}
        return result


def _wait(process: subprocess.Popen, busy: Path, seconds: int) -> bool:
    """Waits for the end; False if one gap took much longer than its alarm allows."""
    stage, deadline = None, time.monotonic() + max(seconds, IMPORT_SECONDS)
    while True:
        try:
            process.wait(timeout=0.05)
            return True
        except subprocess.TimeoutExpired:
            pass
        now = busy.read_text() if busy.exists() else None
        if now != stage:
            limit = max(seconds, IMPORT_SECONDS) if now == "import" else seconds + GRACE_SECONDS
            stage, deadline = now, time.monotonic() + limit
        elif time.monotonic() > deadline:
            return False


def _kill(process: subprocess.Popen) -> None:
    """Ends the process and its children."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _ending(process: subprocess.Popen, last_lines: list[str]) -> str:
    """Why a child process has written nothing, in one line."""
    if last_lines and ("InputError" in last_lines[-1] or "Error" in last_lines[-1]):
        return last_lines[-1].removeprefix("ddim_keras.config.InputError: ")
    return f"the process ended with status {process.returncode}"
