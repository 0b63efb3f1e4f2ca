"""Averages of other lengths: their profile, the resume of a training, and what is exported."""

import dataclasses
import math
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from ddim_keras import Dataset, InputError, ModelConfig, NetworkConfig, TrainingConfig, train
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import Run, load_model
from ddim_keras.training import averages
from ddim_keras.training.averages import PowerAverages, exponent_of
from ddim_keras.training.callbacks import Interrupted
from tests.helpers import InterruptAt

CONFIG = RunConfig(
    "tiny",
    ModelConfig(network=NetworkConfig(image_size=8, widths=(8,), depths=(1,))),
    TrainingConfig(batch_size=8, repetitions=1, averages=(0.1, 0.25)),
    epochs=3,
)
STEPS = 15


@pytest.fixture(scope="module")
def dataset():
    images, labels = draw_flowers(48, 8)
    return Dataset("drawn", images[:40], labels[:40], images[40:], labels[40:], ("a",) * 10)


@pytest.fixture(autouse=True, scope="module")
def every_third_step():
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(averages, "UPDATE_EVERY", 3)
        yield


def new_run(folder):
    run = Run(folder)
    run.save_config(CONFIG)
    return run


def flat_weights(network):
    return np.concatenate([ops.convert_to_numpy(each).ravel() for each in network.weights])


class Weights(keras.callbacks.Callback):
    """The trained weights after each step."""

    def __init__(self):
        super().__init__()
        self.after = []

    def on_train_batch_end(self, batch, logs=None):
        self.after.append(flat_weights(self.model.network))


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """An uninterrupted training: its run, model, and weights after each step."""
    run, weights = new_run(tmp_path_factory.mktemp("whole")), Weights()
    return run, train(run, CONFIG, dataset, callbacks=[weights]), weights.after


@pytest.mark.parametrize(("width", "exponent"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_exponents_are_those_of_the_paper(width, exponent):
    assert exponent_of(width) == pytest.approx(exponent, abs=0.005)


@pytest.mark.parametrize("width", [0.03, 0.1, 0.2, 0.28])
def test_the_steps_that_count_have_the_width_as_their_deviation(width):
    times = (np.arange(100_000) + 0.5) / 100_000
    shares = times ** exponent_of(width)
    shares /= shares.sum()
    mean = (shares * times).sum()
    assert math.sqrt((shares * (times - mean) ** 2).sum()) == pytest.approx(width, rel=1e-4)


def test_weights_count_by_the_power_of_their_step(whole):
    run, model, weights = whole
    # Those of step s stand for the steps since the update before: the integral of s^e over them.
    steps = np.arange(0, STEPS + 1, 3)
    for width in CONFIG.training.averages:
        shares = np.diff((steps / STEPS) ** (exponent_of(width) + 1))
        expected = sum(
            share * weights[step - 1] for share, step in zip(shares, steps[1:], strict=True)
        )
        exported = load_model(run.folder / "averages" / f"{width:g}")
        np.testing.assert_allclose(
            flat_weights(exported.ema_network), expected, rtol=2e-3, atol=1e-5
        )
        assert np.isfinite(exported.generate(2, 2, seed=0)).all()
    own = load_model(run.last_weights)  # the usual average stays as it was
    np.testing.assert_array_equal(*map(flat_weights, (model.ema_network, own.ema_network)))


def test_a_call_of_fewer_steps_counts_only_those(tmp_path):
    """As the last of an epoch, when a GPU makes many steps per call."""
    feed = SimpleNamespace(steps_per_call=3, steps_per_epoch=5)
    kept = PowerAverages(Run(tmp_path), (0.1,), 0, 10, feed)
    kept.set_model(SimpleNamespace(network=SimpleNamespace(weights=[np.ones(2)])))
    for epoch in range(2):
        for call in range(2):
            kept.on_train_batch_end(call)
        kept.on_epoch_end(epoch)
    files = {path.name for path in kept.folder.iterdir()}
    assert files == {"step_5.npz", "step_10.npz"}  # the steps of the checkpoints


def test_a_training_that_was_killed_at_its_end_makes_up_for_averages(dataset, whole, tmp_path):
    run = Run(shutil.copytree(whole[0].folder, tmp_path / "run"))
    missing, there = (Run(run.folder / "averages" / name) for name in ("0.1", "0.25"))
    expected = flat_weights(load_model(missing.folder).ema_network)
    shutil.rmtree(missing.folder)
    there.save_sampling_steps({1: [0.5, 1.0]})  # searched since
    train(run, CONFIG, dataset)
    np.testing.assert_array_equal(flat_weights(load_model(missing.folder).ema_network), expected)
    assert there.read_sampling_steps() == {1: [0.5, 1.0]}


@pytest.mark.slow
def test_an_interrupted_training_has_the_same_averages(dataset, whole, tmp_path):
    run, stopped = whole[0], new_run(tmp_path / "stopped")
    for step in (7, 4, 4):  # within the second epoch, within the third, and at its end
        with pytest.raises(Interrupted):
            train(stopped, CONFIG, dataset, callbacks=[InterruptAt(step)])
    assert Run(stopped.folder / "averages" / "0.1").best_weights.exists()
    train(stopped, CONFIG, dataset)
    files = sorted(path.name for path in (run.folder / "averages").glob("step_*.npz"))
    assert files == ["step_10.npz", "step_15.npz"]  # of the last checkpoint and the one before
    pair = [np.load(each.folder / "averages" / files[-1])["averages"] for each in (run, stopped)]
    np.testing.assert_array_equal(*pair)


@pytest.mark.slow
def test_a_killed_training_keeps_the_averages_of_its_checkpoint(dataset, tmp_path):
    run = new_run(tmp_path / "run")
    train(run, dataclasses.replace(CONFIG, epochs=1), dataset)
    checkpoint = run.last_weights.read_bytes()
    train(run, dataclasses.replace(CONFIG, epochs=2), dataset)
    # As after a kill between the averages of step 10 and its weights, twice.
    for _ in range(2):
        run.last_weights.write_bytes(checkpoint)
        (run.folder / "manifest.json").unlink()
        train(run, dataclasses.replace(CONFIG, epochs=2), dataset)
        assert (run.folder / "averages" / "step_5.npz").exists()


def test_missing_or_damaged_averages_are_an_error_before_the_training(dataset, whole, tmp_path):
    run = Run(shutil.copytree(whole[0].folder, tmp_path / "run"))
    longer = dataclasses.replace(CONFIG, epochs=4)
    file = run.folder / "averages" / "step_15.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match=r"step_15\.npz"):
        train(run, longer, dataset)
    file.unlink()
    with pytest.raises(InputError, match="missing"):
        train(run, longer, dataset)
