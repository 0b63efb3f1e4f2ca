"""The two commands end to end, on tiny settings."""

import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import generate
import train
from ddim_keras.data.cache import Dataset
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.generation import files, pictures
from ddim_keras.presets import PRESETS
from ddim_keras.runs.folder import Run
from ddim_keras.training import callbacks
from ddim_keras.training.preparation import complete_config
from tests.helpers import TINY, make_run, run, without_steps

ROOT = Path(__file__).parents[2]
DESCRIPTIONS = ("config.json", "manifest.json")
LOSSES = ("epoch", "images", "noise_loss", "image_loss", "val_noise_loss", "val_image_loss")
# Ends just before the weights of the second epoch would take the place of those of the first.
KILLED_IN_SECOND_EPOCH = """
import os
import signal

import train
from tests.helpers import TINY, run
from ddim_keras import atomic
from ddim_keras.presets import PRESETS

saved = 0

def replace(path, target):
    global saved
    saved += target.name == "last.weights.h5"
    if saved == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    os.replace(path, target)

PRESETS["tiny"] = TINY
atomic.Path.replace = replace
train.main()
"""


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder of its own to run in, with the tiny recipe as a preset."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINY)
        place = tmp_path_factory.mktemp("place")
        patch.chdir(place)
        yield place


@pytest.fixture(scope="module")
def options(flowers_file, place):
    return (
        *("--preset", "tiny", "--dataset", flowers_file, "--image-size", "16", "--epochs", "2"),
        *("--no-kid", "--cache-dir", place / "cache"),
    )


@pytest.fixture(scope="module")
def finished(options, place):
    """A run that was never interrupted."""
    assert run(train, *options, "--output", place / "runs" / "finished") == 0
    return Run(place / "runs" / "finished")


@pytest.fixture
def at_once():
    """Trainings that are over at once."""
    with without_steps():
        yield


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the finished run that may be spoilt."""
    return Run(shutil.copytree(finished.folder, tmp_path / "copy"))


def assert_same_course(run, other):
    for row, expected in zip(run.read_history(), other.read_history(), strict=True):
        assert [row[name] for name in LOSSES] == pytest.approx(
            [expected[name] for name in LOSSES], rel=1e-5
        )


def pixels_of(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


class TestTrain:
    def test_a_run_leaves_everything_behind(self, finished):
        files = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*.*")}
        assert files == {
            "config.json",
            "curves.png",
            *(f"guides/epoch_0001/{name}" for name in ("best.weights.h5", *DESCRIPTIONS)),
            "history.csv",
            "last.weights.h5",
            "manifest.json",
            "report.md",
            *(f"samples/epoch_000{epoch}.{kind}" for epoch in (1, 2) for kind in ("npy", "png")),
        }
        history = finished.read_history()
        assert [(row["epoch"], row["images"]) for row in history] == [(1, 80), (2, 160)]
        assert all(np.isfinite(row[name]) for row in history for name in LOSSES)
        config = finished.read_config()
        assert (config.preset, config.epochs, config.num_images) == ("tiny", 2, 80)

    @pytest.mark.slow  # the default run stops one of test_loop.py
    def test_a_killed_run_ends_as_any_other(self, finished, options, place):
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_IN_SECOND_EPOCH, *options, "--output", "stopped"],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        stopped = Run(place / "stopped")
        # Besides, the curves may have been half drawn, by the thread that draws.
        assert len(list(stopped.folder.glob("part-*-last.weights.h5"))) == 1
        assert run(train, "--resume", "--output", "stopped", *options[-3:]) == 0
        assert_same_course(stopped, finished)
        assert not list(stopped.folder.glob("part-*"))

    def test_an_interrupted_run_says_how_to_continue_it(
        self, at_once, options, place, monkeypatch, capsys
    ):
        original = callbacks.RunRecord.on_epoch_end

        def press_control_c(self, epoch, logs=None):
            original(self, epoch, logs)
            if epoch == 0:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(callbacks.RunRecord, "on_epoch_end", press_control_c)
        assert run(train, *options, "--output", "pressed") == 130
        assert len(Run(place / "pressed").read_history()) == 1
        (line,) = [s for s in capsys.readouterr().out.splitlines() if s.startswith("saved;")]
        command = shlex.split(line.removeprefix("saved; continue with: "))
        assert command[:2] == ["python", "train.py"]
        assert run(train, *command[2:]) == 0
        assert len(Run(place / "pressed").read_history()) == 2

    def test_a_longer_run_goes_on(self, at_once, copy, options, capsys):
        before = copy.read_history()
        copy.keep_last_as_best()  # as if its KID had been measured
        arguments = ("--no-kid", "--cache-dir", options[-1], "--resume", "--output", copy.folder)
        arguments += ("--kid-weights", "compact")  # of the command that began it
        assert run(train, *arguments, "--epochs", 3) == 0
        printed = capsys.readouterr().out
        assert f"without KID, {copy.best_weights} stays as it is" in printed
        assert "3 epochs instead of 2" in printed
        assert copy.read_history()[:2] == before
        assert len(copy.read_history()) == copy.read_config().epochs == 3
        assert run(train, *arguments, "--epochs", 2) == (
            f"error: {copy.folder} has 3 epochs already; --epochs must be at least that"
        )

    def test_a_run_is_not_overwritten(self, copy, options):
        before = copy.last_weights.read_bytes()
        error = run(train, *options, "--output", copy.folder)
        assert error.startswith(f"error: {copy.folder} already holds a run; add --resume")
        assert copy.last_weights.read_bytes() == before

    @pytest.mark.parametrize(
        "changed",
        [
            *("--preset fast", "--image-size 32", "--batch-size 8", "--loss mae", "--seed 1"),
            *("--prediction velocity", "--schedule cosine", "--discrete-steps 1000"),
        ],
    )
    def test_a_resumed_run_keeps_its_settings(self, copy, changed):
        error = run(train, "--resume", "--output", copy.folder, *changed.split())
        assert error.startswith(f"error: cannot resume with {changed}: the run uses ")
        assert "start a new run" in error

    def test_a_resumed_run_keeps_its_data(self, copy, options, tmp_path):
        images = np.zeros((50, 16, 16, 3), "uint8")
        np.savez(tmp_path / "other.npz", images=images)
        config = dataclasses.replace(copy.read_config(), dataset=str(tmp_path / "other.npz"))
        copy.save_config(config)
        error = run(train, "--resume", "--output", copy.folder, *options[-3:])
        assert error == (
            "error: the run was trained on 80 images of 3 channels, but other now has 40 of 3; "
            "start a new run"
        )

    def test_data_that_could_not_be_had_are_not_tried_again(self, finished):
        images, labels = draw_flowers(10, 16)
        drawn = Dataset("drawn_flowers", images, labels, images, labels, ())
        config = dataclasses.replace(finished.read_config(), dataset=None)
        assert complete_config(config, drawn, is_resumed=False).dataset == "drawn_flowers"

    def test_nothing_to_resume(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert run(train, "--resume") == (
            "error: no run under runs/; train one with: python train.py"
        )
        error = run(train, "--resume", "--output", "none")
        assert error.startswith("error: there is no run none: neither the folder none")

    def test_a_report_needs_the_history(self, copy, options):
        copy.history_file.unlink()
        error = run(train, "--resume", "--output", copy.folder, *options[-3:])
        assert error.startswith(f"error: no report: {copy.history_file} is missing")

    def test_a_full_disk_keeps_what_was_saved(self, at_once, copy, options, monkeypatch):
        before = copy.last_weights.read_bytes()
        usage = SimpleNamespace(free=1000)
        monkeypatch.setattr("ddim_keras.runs.weights.shutil.disk_usage", lambda folder: usage)
        arguments = ("--resume", "--output", copy.folder, "--epochs", 3, *options[-3:])
        assert run(train, *arguments) == (
            f"error: {copy.last_weights}: No space left on device; what was saved before is kept"
        )
        assert copy.last_weights.read_bytes() == before

    def test_a_place_that_cannot_be_written(self, options, tmp_path):
        (tmp_path / "file").touch()
        error = run(train, *options, "--output", tmp_path / "file" / "run")
        assert error == (
            f"error: {tmp_path / 'file' / 'run'}: Not a directory; what was saved before is kept"
        )

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--dataset none.npz", "there is no file none.npz"),
            ("--dataset no/such/folder", "there is no folder or file no/such/folder"),
            ("--no-kid --kid-weights compact", "--no-kid does not use --kid-weights; omit it"),
            (
                "--schedule linear --max-signal-rate 0.9",
                "only the schedule offset_cosine uses --max-signal-rate; omit it",
            ),
            (
                "--preset likelihood --min-signal-rate 0.1",
                "only the schedule offset_cosine uses --min-signal-rate; omit it",
            ),
        ],
    )
    def test_mistakes(self, arguments, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        error = run(train, *arguments.split())
        assert error.startswith(f"error: {message}")
        assert "\n" not in error
        assert list(tmp_path.iterdir()) == []

    def test_the_recipe_can_be_that_of_ddpm(self, at_once, options, tmp_path):
        recipe = ("--schedule", "linear", "--discrete-steps", 1000, "--prediction", "noise")
        output = ("--output", tmp_path / "run")
        assert run(train, *options, "--epochs", 1, *recipe, *output) == 0
        model = Run(tmp_path / "run").read_config().model
        assert (model.schedule, model.discrete_steps, model.prediction) == ("linear", 1000, "noise")

    def test_a_run_does_not_depend_on_where_it_was_begun(
        self, at_once, options, flowers_file, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(flowers_file.parent)
        relative = ("--dataset", flowers_file.name, "--epochs", 1)
        assert run(train, *options, *relative, "--output", tmp_path / "run") == 0
        monkeypatch.chdir(tmp_path)
        more = ("--resume", "--output", "run", "--epochs", 2, *options[-3:])
        assert run(train, *more, "--dataset", flowers_file) == 0

    def test_labels_are_learned_on_demand(self, at_once, options, flowers_file, tmp_path):
        output = ("--output", tmp_path / "run")
        assert run(train, *options, "--epochs", 1, "--class-conditional", *output) == 0
        num_classes = len(set(np.load(flowers_file)["labels"]))
        assert Run(tmp_path / "run").read_config().model.network.num_classes == num_classes
        assert run(train, "--resume", "--epochs", 2, "--no-kid", *output, *options[-2:]) == 0
        grid = ("--output", tmp_path / "grid.png", "--steps", 2)
        assert run(generate, "--run", tmp_path / "run", "--class", 1, 0, *grid) == 0

    def test_labels_must_be_there(self, options, copy, tmp_path):
        np.savez(tmp_path / "plain.npz", images=draw_flowers(50, 16)[0])
        data = ("--dataset", tmp_path / "plain.npz", "--output", tmp_path / "run")
        error = run(train, *options, *data, "--class-conditional")
        assert error.startswith("error: plain has no labels. Omit --class-conditional")
        error = run(train, "--resume", "--output", copy.folder, "--class-conditional")
        assert "the resumed run is not class-conditional" in error

    def test_a_start_that_fails_leaves_no_run(self, options, copy, tmp_path):
        output = ("--output", tmp_path / "run")
        other = ("--start-from", copy.folder, "--prediction", "image")
        assert "its prediction is" in run(train, *options, *other, *output)
        make_run(tmp_path / "classes", num_classes=3)
        other = ("--start-from", tmp_path / "classes", "--prediction", "velocity")
        assert "see --class-conditional" in run(train, *options, *other, *output)
        assert not (tmp_path / "run").exists()

    def test_weights_without_a_training_are_not_resumed(self, copy, options):
        copy.last_weights.rename(copy.best_weights)
        before = copy.best_weights.read_bytes()
        error = run(train, "--resume", "--output", copy.folder, "--epochs", 9, *options[-3:])
        assert f"--start-from {copy.folder}" in error
        assert copy.best_weights.read_bytes() == before

    def test_tensorboard_is_missed_before_the_work(self, options, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        error = run(train, *options, "--tensorboard")
        assert error == "error: --tensorboard needs: pip install tensorboard"

    def test_a_batch_larger_than_the_data(self, options):
        error = run(train, *options, "--output", "large", "--batch-size", 81)
        assert error.startswith("error: batch size 81 is larger than the 80 images of an epoch")


class TestGenerate:
    def test_a_grid_and_single_images(self, finished, tmp_path, capsys):
        output, folder = tmp_path / "new" / "grid.png", tmp_path / "images"
        arguments = ("--run", finished.folder, "--steps", 3, "--num-images", 5)
        assert run(generate, *arguments, "--output", output, "--images-dir", folder) == 0
        printed = capsys.readouterr().out
        assert f"5 images, 3 steps of ddim, from {finished.last_weights}" in printed
        assert [path.name for path in sorted(folder.iterdir())] == [
            f"0000{i}.png" for i in range(5)
        ]
        images = pixels_of(folder)
        assert images.shape == (5, 16, 16, 3)
        grid = np.asarray(Image.open(output).convert("RGB"))
        rows, columns, gap, zoom, title_height = 2, 3, 1, 2, 30
        assert grid.shape[0] == zoom * (rows * (16 + gap) + gap) + title_height
        assert grid.shape[1] >= zoom * (columns * (16 + gap) + gap)
        # The grid shows the very pixels of the files.
        rows_of_grid = {grid[i, j : j + 32].tobytes() for i in range(30, 99) for j in range(200)}
        assert images[0][0].repeat(zoom, axis=0).tobytes() in rows_of_grid

    def test_a_grid_has_its_bounds(self, finished, tmp_path, monkeypatch):
        for module in (files, pictures):
            monkeypatch.setattr(module, "MOST_IN_GRID", 4)
        arguments = ("--run", finished.folder, "--steps", 1, "--num-images", 6)
        arguments += ("--output", tmp_path / "grid.png")
        assert run(generate, *arguments) == (
            "error: a grid shows 4 images at most; for more, add --images-dir"
        )
        assert run(generate, *arguments, "--images-dir", tmp_path / "images") == 0
        assert len(pixels_of(tmp_path / "images")) == 6

    def test_images_depend_on_the_seed_alone(self, finished, tmp_path):
        def images(*arguments):
            folder = tmp_path / "_".join(map(str, arguments))
            arguments = (*arguments, "--run", finished.folder, "--steps", 2)
            output = ("--output", tmp_path / "grid.png", "--images-dir", folder)
            assert run(generate, *arguments, *output) == 0
            return pixels_of(folder).astype(int)

        together = images("--seed", 7, "--num-images", 5)
        apart = images("--seed", 7, "--num-images", 5, "--batch-size", 2)
        assert np.abs(together - apart).max() <= 1
        assert np.abs(images("--seed", 8, "--num-images", 5) - together).max() > 1

    def test_a_new_process_shows_the_newest_run(self, finished, place, tmp_path):
        """The command itself, as it is typed, and the same images in another process."""
        here = ("--weights", finished.last_weights, "--output", tmp_path / "here.png")
        assert run(generate, *here, "--num-images", 4, "--images-dir", tmp_path / "here") == 0
        arguments = ("--num-images", "4", "--images-dir", tmp_path / "there")
        there = subprocess.run(
            [sys.executable, ROOT / "generate.py", "--steps", "20", *arguments],
            cwd=place,
            check=False,
            capture_output=True,
            text=True,
        )
        assert there.returncode == 0, there.stderr
        assert "wrote generated.png" in there.stdout
        assert (place / "generated.png").is_file()
        difference = pixels_of(tmp_path / "here").astype(int) - pixels_of(tmp_path / "there")
        assert np.abs(difference).max() <= 1

    def test_grey_images(self, at_once, copy, place, tmp_path, flowers_file):
        with np.load(flowers_file) as arrays:
            np.save(tmp_path / "grey.npy", arrays["images"][..., 0])
        options = ("--preset", "tiny", "--dataset", tmp_path / "grey.npy", "--image-size", 16)
        options += ("--epochs", 1, "--no-kid", "--cache-dir", tmp_path)
        assert run(train, *options, "--output", tmp_path / "run") == 0
        output = ("--output", tmp_path / "grid.png", "--images-dir", tmp_path / "images")
        assert run(generate, "--run", tmp_path / "run", "--num-images", 3, *output) == 0
        assert pixels_of(tmp_path / "images").shape == (3, 16, 16)

    def test_mistakes(self, copy, tmp_path):
        def error(*arguments):
            return run(generate, "--output", tmp_path / "grid.png", *arguments)

        assert error("--run", tmp_path) == (
            f"error: {tmp_path} is not a run folder: it holds no config.json"
        )
        missing = tmp_path / "none.weights.h5"
        assert error("--weights", missing) == f"error: there is no weights file {missing}"
        assert run(generate, "--run", copy.folder, "--output", "grid.jpg") == (
            "error: --output must end in .png, not 'grid.jpg'"
        )

        network = dataclasses.replace(TINY.model.network, widths=(16,))
        model = dataclasses.replace(TINY.model, network=network)
        copy.save_config(dataclasses.replace(copy.read_config(), model=model))
        assert "does not hold the weights of this model" in error("--run", copy.folder)
        copy.last_weights.unlink()
        assert error("--run", copy.folder) == (
            f"error: {copy.folder} holds no weights yet: its first epoch has not ended"
        )
        assert not (tmp_path / "grid.png").exists()
