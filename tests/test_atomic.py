import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ddim_keras import atomic
from ddim_keras.atomic import (
    folder_written_whole,
    remove_parts,
    require_writable,
    written_whole,
)

ROOT = Path(__file__).parents[1]


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("before")
    return file


def test_the_new_contents_appear_at_once(file):
    with written_whole(file) as part:
        part.write_text("after")
        assert file.read_text() == "before"
    assert file.read_text() == "after"
    assert list(file.parent.iterdir()) == [file]


def test_the_other_name_has_the_same_folder_and_ending(file):
    with written_whole(file) as part:
        assert part.parent == file.parent
        assert part.name.endswith(".txt")
        part.touch()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_file_that_another_program_has_open_for_a_moment_is_replaced(file, monkeypatch, times):
    """As on Windows, where a virus scanner opens each new file."""
    refused, replace = [], Path.replace

    def refuse(part, target):
        if len(refused) < times:
            refused.append(part)
            raise PermissionError(errno.EACCES, "Access is denied", str(part))
        return replace(part, target)

    monkeypatch.setattr(atomic, "WAITS", (0, 0))
    monkeypatch.setattr(Path, "replace", refuse)
    if times > 2:
        with pytest.raises(PermissionError), written_whole(file) as part:
            part.write_text("after")
    else:
        with written_whole(file) as part:
            part.write_text("after")
    assert file.read_text() == ("before" if times > 2 else "after")
    assert list(file.parent.iterdir()) == [file]


def test_the_contents_are_flushed_as_windows_demands_it(file, monkeypatch):
    """Of a file that is open for writing; before it gets its name."""
    fcntl = pytest.importorskip("fcntl")
    flushed = []

    def fsync(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
            flushed.append((os.fstat(descriptor).st_ino, file.read_text()))

    monkeypatch.setattr(os, "fsync", fsync)
    with written_whole(file) as part:
        part.write_text("after")
    assert flushed == [(file.stat().st_ino, "before")]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(file, failure):
    def fail_halfway():
        with written_whole(file) as part:
            part.write_text("half")
            raise failure

    with pytest.raises(failure):
        fail_halfway()
    assert file.read_text() == "before"
    assert list(file.parent.iterdir()) == [file]


def test_a_kill_leaves_at_most_the_other_file(file):
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from ddim_keras.atomic import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as part:\n"
        "    part.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, file], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert file.read_text() == "before"
    (part,) = {*file.parent.iterdir()} - {file}
    assert part.name.startswith("part-")


def test_a_full_disk_is_told_with_the_file(file):
    with pytest.raises(OSError, match="No space left") as caught, written_whole(file):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(file)


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "none" / "file") as part:
        part.write_text("after")


class TestFolders:
    def test_it_appears_at_once(self, tmp_path):
        with folder_written_whole(tmp_path / "new") as part:
            (part / "file").write_text("contents")
            assert not (tmp_path / "new").exists()
        assert (tmp_path / "new" / "file").read_text() == "contents"
        assert list(tmp_path.iterdir()) == [tmp_path / "new"]

    def test_one_that_exists_stays(self, tmp_path):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "file").write_text("first")
        with folder_written_whole(tmp_path / "new") as part:
            (part / "file").write_text("second")
        assert (tmp_path / "new" / "file").read_text() == "first"
        assert list(tmp_path.iterdir()) == [tmp_path / "new"]

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
    def test_a_failure_leaves_nothing(self, tmp_path, failure):
        def fail_halfway():
            with folder_written_whole(tmp_path / "new") as part:
                (part / "file").write_text("half")
                raise failure

        with pytest.raises(failure):
            fail_halfway()
        assert list(tmp_path.iterdir()) == []


def test_names_as_long_as_a_file_system_takes(tmp_path):
    for name in ("l" * 251 + ".png", "ü" * 125 + ".png"):
        with written_whole(tmp_path / name) as part:
            assert part.suffix == ".png"
            part.write_text("whole")
        assert (tmp_path / name).read_text() == "whole"
    with folder_written_whole(tmp_path / ("f" * 255)):
        pass
    assert (tmp_path / ("f" * 255)).is_dir()


def test_a_folder_that_cannot_be_written_to_is_named_before_the_work(tmp_path, monkeypatch):
    require_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []

    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system", "/a/temporary/name")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="Read-only") as caught:
        require_writable(tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "part-12-last.weights.h5").touch()
    (tmp_path / "part-abc").mkdir()  # of an export
    (tmp_path / "part-abc" / "average.weights.h5").touch()
    (tmp_path / "last.weights.h5").touch()
    remove_parts(tmp_path)
    remove_parts(tmp_path / "missing")
    assert [path.name for path in tmp_path.iterdir()] == ["last.weights.h5"]
