import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ddim_keras.config import InputError
from ddim_keras.runs import lock
from ddim_keras.runs.lock import locked

HOLDER = """
import sys
from pathlib import Path
from ddim_keras.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(folder)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match=f"in use by process {holder.pid} on"), locked(folder):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with locked(folder):  # the system freed it with the process
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_a_second_process_can_wait(tmp_path, capsys):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    threading.Timer(0.5, holder.communicate).start()  # it ends, and removes its file
    with locked(tmp_path, wait=True):
        assert holder.wait() == 0
        with pytest.raises(InputError, match="in use by process"), locked(tmp_path):
            pass
    assert f"waiting for {tmp_path}, in use by process {holder.pid}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_folder_made_for_nothing_goes_again(tmp_path):
    with locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "config.json").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


@pytest.mark.parametrize("is_open_elsewhere", [False, True])
def test_without_locks_of_the_system_the_file_is_removed_once_closed(
    tmp_path, monkeypatch, is_open_elsewhere
):
    """As Windows demands it."""
    opened, open_file, unlink = [], Path.open, Path.unlink

    def keep(path, *arguments, **options):
        opened.append(open_file(path, *arguments, **options))
        return opened[-1]

    def remove(path, **options):
        if is_open_elsewhere or not all(file.closed for file in opened):
            raise PermissionError(13, "The process cannot access the file", str(path))
        unlink(path, **options)

    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(Path, "open", keep)
    monkeypatch.setattr(Path, "unlink", remove)
    with locked(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["lock"] * is_open_elsewhere
