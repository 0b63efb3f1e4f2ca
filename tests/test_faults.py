"""Faults against commands: killed, stopped, without disk, run or cache; nothing saved is lost."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.runs.folder import Run, load_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SMALL = "--image-size 16 --widths 8 --depths 1 --patch-size 1 --block plain --attention-sizes"
DATA = "--cache-dir cache --kid-weights compact"
TRAIN = (
    f"train.py --preset fast --dataset flowers.npz {SMALL} --repetitions 1 --batch-size 16 {DATA}"
)
COMMANDS = {
    "train": f"{TRAIN} --epochs 2 --output new",
    "resume": f"train.py --resume --output run --epochs 3 {DATA}",
    "generate": "generate.py --run run --num-images 40 --images-dir images",
    "evaluate": f"evaluate.py --run run --num-images 128 --steps 2 {DATA}",
    "search": "evaluate.py --run run --search-steps 2",
    "export": "-m ddim_keras.export --run run --output exported",
}
FAULTS = ("kill", "terminate", "full disk", "deleted run", "truncated cache")
OUTPUTS = {
    **{"train": "new", "resume": "run", "generate": "images"},
    **{"evaluate": "run", "search": "run", "export": "exported"},
}
# File modes do not stop root; a mount of its own for the command does, where it may be made.
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


def start(folder, command, within=()):
    words = command.split()
    words = words if words[0] == "-m" else [str(ROOT / words[0]), *words[1:]]
    return subprocess.Popen(
        [*within, sys.executable, *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with data, their cache and a run of one epoch."""
    folder = tmp_path_factory.mktemp("prepared")
    images, labels = draw_flowers(80, 16)
    np.savez(folder / "flowers.npz", images=images, labels=labels)
    process = start(folder, f"{TRAIN} --epochs 1 --output run")
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return folder


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_fault_loses_nothing(prepared, tmp_path, name, fault):
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder)
    if fault == "truncated cache":
        (file,) = (folder / "cache").glob("*/train_images.npy")
        os.truncate(file, file.stat().st_size // 2)
    quota = ("bash", "-c", 'ulimit -f 8; exec "$@"', "-")
    process = start(folder, COMMANDS[name], within=quota if fault == "full disk" else ())
    if fault in ("kill", "terminate", "deleted run"):
        time.sleep(np.random.default_rng([len(name), len(fault)]).uniform(2, 12))
        if fault == "deleted run":
            shutil.rmtree(folder / "run")
        else:
            process.send_signal(signal.SIGKILL if fault == "kill" else signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    assert process.returncode in (0, 1, 130, -signal.SIGKILL, -signal.SIGTERM), errors
    if fault != "deleted run":
        load_model(Run(folder / "run").weights_to_show())  # with its hashes
    if (folder / "new" / "last.weights.h5").exists():
        load_model(Run(folder / "new").last_weights)


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@contextlib.contextmanager
def read_only(folder):
    """Gives what a command must be run within so that it can write nothing in a folder."""
    if os.geteuid() != 0:
        modes = {path: path.stat().st_mode for path in (folder, *folder.rglob("*"))}
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        yield ()
        for path, mode in modes.items():
            path.chmod(mode)
        return
    within = ("unshare", "--mount", "bash", "-c", READ_ONLY, str(folder))
    if not shutil.which("unshare") or subprocess.run([*within, "true"], check=False).returncode:
        pytest.skip("root, whom file modes do not stop, may not mount here")
    yield within


@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_folder_is_named_before_the_work(prepared, tmp_path, name):
    folder = tmp_path / "folder"
    shutil.copytree(prepared, folder)
    output = folder / OUTPUTS[name]
    output.mkdir(exist_ok=True)
    before = contents(folder)
    with read_only(output) as within:
        process = start(folder, COMMANDS[name], within)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert OUTPUTS[name] in line
    assert contents(folder) == before
    load_model(Run(folder / "run").weights_to_show())
