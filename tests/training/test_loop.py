import dataclasses
import math
import operator
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from ddim_keras import (
    Dataset,
    InputError,
    KernelInceptionDistance,
    ModelConfig,
    NetworkConfig,
    TrainingConfig,
    draw_flowers,
    train,
)
from ddim_keras.metrics.encoders import Encoder
from ddim_keras.metrics.kid import Distance
from ddim_keras.runs.configuration import KIDProtocol, RunConfig
from ddim_keras.runs.folder import Run, load_model
from ddim_keras.runs.losses import loss_of_no_prediction
from ddim_keras.runs.report import write_report
from ddim_keras.training.callbacks import Interrupted, KIDCallback, SampleGrid
from ddim_keras.training.loop import build_model, build_optimizer, even_part
from tests.helpers import EPOCH, InterruptAt

CONFIG = RunConfig(
    preset="lab",
    model=ModelConfig(network=NetworkConfig(image_size=8, widths=(8,), depths=(1,))),
    training=TrainingConfig(batch_size=8, repetitions=1, flip=True, cosine_decay=True),
    dataset=None,
    data_dir=None,
    epochs=3,
)


@pytest.fixture(scope="module")
def dataset():
    images, labels = draw_flowers(56, 8)
    return Dataset("drawn", images[:40], labels[:40], images[40:], labels[40:], ("a",) * 10)


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run")
    run.save_config(CONFIG)
    return run


def losses(run):
    names = ("epoch", "noise_loss", "image_loss", "val_noise_loss", "val_image_loss")
    return [[row[name] for name in names] for row in run.read_history()]


@pytest.fixture(scope="module")
def uninterrupted(dataset, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("uninterrupted"))
    run.save_config(CONFIG)
    return run, train(run, CONFIG, dataset)


def test_a_run_records_every_epoch(uninterrupted):
    run, _ = uninterrupted
    history = run.read_history()
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert [row["images"] for row in history] == [40, 80, 120]
    for row in history:
        assert np.isfinite([row["noise_loss"], row["image_loss"], row["val_noise_loss"]]).all()
    assert run.last_weights.exists()
    assert not run.best_weights.exists()  # no KID was measured
    assert (run.folder / "curves.png").exists()
    assert not list(run.folder.glob("*part*"))


class Killed(Exception):
    """Ends a training at once, and nothing is saved any more, as with kill -9."""


class KillAt(InterruptAt):
    """Kills in some step."""

    def stop(self):
        raise Killed


# Seed 9 kills in step 10 of 15, the last of an epoch, and interrupts in step 14, within the last
# epoch; seed 11 kills in step 7 and interrupts in step 7, with a whole epoch left.
@pytest.mark.parametrize(
    "seed", [9, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 1, 4, 6, 11))]
)
def test_a_run_that_was_stopped_anywhere_ends_bit_identically(run, dataset, uninterrupted, seed):
    """Killed in some step after the first checkpoint, then interrupted in some step of the rest."""
    steps, epochs = 5, CONFIG.epochs
    random = np.random.default_rng(seed)
    killed_at = int(random.integers(steps + 1, epochs * steps + 1))
    saved = (killed_at - 1) // steps  # epochs
    pressed_at = int(random.integers(1, (epochs - saved) * steps + 1))
    with pytest.raises(Killed):
        train(run, CONFIG, dataset, callbacks=[KillAt(killed_at)])
    assert [row["epoch"] for row in run.read_history()] == [*range(1, saved + 1)]
    # Killed after the history was written, before the checkpoint: a row too many.
    run.write_history([*run.read_history(), {**EPOCH, "epoch": saved + 1, "noise_loss": 123.0}])
    with pytest.raises(Interrupted):
        train(run, CONFIG, dataset, callbacks=[InterruptAt(pressed_at)])
    rest = InterruptAt(1000)
    model = train(run, CONFIG, dataset, callbacks=[rest])
    assert 1000 - rest.steps_left == (epochs - saved) * steps - pressed_at  # none is repeated
    expected_run, expected = uninterrupted
    assert losses(run) == losses(expected_run)
    for variables in ("variables", "optimizer.variables"):
        pairs = (operator.attrgetter(variables)(each) for each in (model, expected))
        for variable, same in zip(*pairs, strict=True):
            np.testing.assert_array_equal(*map(ops.convert_to_numpy, (variable, same)))


def assert_same_training(run, model, uninterrupted):
    expected_run, expected_model = uninterrupted
    np.testing.assert_allclose(losses(run), losses(expected_run), rtol=1e-4)
    for weight, expected in zip(model.weights, expected_model.weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(weight), ops.convert_to_numpy(expected), rtol=1e-3, atol=1e-5
        )


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="each step is a call of its own")
def test_many_steps_per_execution_are_the_same_steps(run, dataset, uninterrupted):
    # Five an epoch: JAX makes 3 and 2 of them, with the images on the device; Keras 5 under
    # TensorFlow. JAX is interrupted within the second epoch. TensorFlow is interrupted within the
    # first, after single steps: the number of steps per call then changes after that epoch.
    before, steps = (3, 3) if keras.backend.backend() == "jax" else (1, 5)
    with pytest.raises(Interrupted):
        train(run, CONFIG, dataset, callbacks=[InterruptAt(3)], steps_per_execution=before)
    model = train(run, CONFIG, dataset, steps_per_execution=steps)
    assert_same_training(run, model, uninterrupted)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")
@pytest.mark.skipif(sys.platform == "darwin", reason="Keras avoids XLA there")
@pytest.mark.parametrize("loss", ["mse", "hybrid", "bound"])
def test_xla_compiles_what_a_gpu_runs(run, dataset, monkeypatch, loss):
    """The whole path of a GPU, on the CPU: XLA, and many steps per call."""
    gpu = SimpleNamespace(device_type="GPU")
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda *_: [gpu])
    learned = {"schedule": "cosine", "discrete_steps": 10, "variance": "learned"}
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, **(learned if loss != "mse" else {})),
        training=dataclasses.replace(CONFIG.training, loss=loss),
    )
    model = train(run, config, dataset)
    assert (model.jit_compile, model.steps_per_execution) == (True, 5)
    assert np.isfinite(losses(run)).all()
    images = model.generate(2, 2, seed=0)
    assert images.shape == (2, 8, 8, 3)
    assert np.isfinite(images).all()


def test_steps_per_execution_divide_an_epoch_or_nearly_do():
    assert even_part(511) == 73
    assert even_part(40) == 40
    assert even_part(509) == 85  # prime: five times 85 and 84
    assert even_part(1) == 1


def test_a_diverging_loss_is_an_error_and_keeps_the_checkpoint(run, dataset):
    recipe = dataclasses.replace(CONFIG.training, learning_rate=1e6)
    model = build_model(CONFIG.model, recipe, 15)
    model.adapt(dataset.train_images)
    run.save_last(model)
    before = run.last_weights.read_bytes()
    with pytest.raises(InputError, match="diverged"):
        train(run, dataclasses.replace(CONFIG, training=recipe), dataset)
    assert run.last_weights.read_bytes() == before


def test_kid_grids_guides_and_report(run, dataset):
    config = dataclasses.replace(CONFIG, epochs=2)
    pixels = keras.Input((75, 75, 3))
    features = keras.layers.AveragePooling2D(25)(pixels)
    encoder = Encoder("colours", keras.Model(pixels, keras.layers.Flatten()(features)))
    kid = KernelInceptionDistance(encoder, dataset.validation_images, batch_size=8)
    callbacks = [KIDCallback(kid, 16, diffusion_steps=2), SampleGrid(run, 4, diffusion_steps=2)]
    model = train(run, config, dataset, protocol=kid.protocol, callbacks=callbacks)

    history = run.read_history()
    assert all(row["kid_standard_error"] > 0 for row in history)
    last = kid(model.generate(16, 2, seed=0))
    assert history[-1]["kid"] == pytest.approx(last.value, rel=1e-3)  # EMA weights, fixed noise
    best = min(history, key=lambda row: row["kid"])["epoch"]
    same = run.best_weights.read_bytes() == run.last_weights.read_bytes()
    assert same == (best == 2)
    grids = sorted(path.name for path in (run.folder / "samples").glob("*.png"))
    assert grids == [f"epoch_{epoch:04d}.png" for epoch in (1, 2)]

    (folder,) = (run.folder / "guides").iterdir()  # 1/16, 1/8 and 1/4 of 2 epochs: the first
    assert folder.name == "epoch_0001"
    guide = load_model(folder / "best.weights.h5")
    early, late = guide.ema_network.get_weights(), model.ema_network.get_weights()
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(early, late, strict=True))

    floor = kid(dataset.train_images[:16])
    protocol = KIDProtocol(kid.protocol, images=16, steps=2, guidance=1.0)
    write_report(run, config, dataset, model, history, protocol, floor)
    report = (run.folder / "report.md").read_text()
    for expected in (
        "KID, colours, 27, batches of 8, 2 steps of ddim, 16 images, guidance 1",
        f"{history[-1]['kid']:.4f}",
        str(floor),
        "samples/epoch_0002.png",
        "curves.png",
        "80 images seen",
    ):
        assert expected in report

    # Resumed without KID, the floor is not known; and KID need not fall.
    history[0] |= {"kid": 0.0, "kid_standard_error": math.nan}
    write_report(run, config, dataset, model, history, protocol, None)
    report = (run.folder / "report.md").read_text()
    assert "the floor: not measured" in report
    assert "KID did not fall below the 0.000 of its first epoch" in report
    assert "| 0.0000 (one batch) |" in report


def test_kid_and_grids_of_some_epochs_and_always_of_the_last(run, dataset):
    images = dataset.validation_images[:4] / 255
    model = SimpleNamespace(generate=lambda *_, **__: images)
    kid = KIDCallback(lambda _: Distance(0.5, 0.1), 4, every=3)
    grid = SampleGrid(run, 4, every=3)
    measured = []
    for callback in (kid, grid):
        callback.set_params({"epochs": 7})
        callback.set_model(model)
    for epoch in range(7):
        logs = {}
        kid.on_epoch_end(epoch, logs)
        grid.on_epoch_end(epoch)
        measured += [epoch + 1] if logs == {"kid": 0.5, "kid_standard_error": 0.1} else []
    grid.wait()
    assert measured == [3, 6, 7]
    grids = sorted(path.name for path in (run.folder / "samples").glob("*.png"))
    assert grids == [f"epoch_{epoch:04d}.png" for epoch in measured]


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_loss_of_no_prediction(loss):
    recipe = TrainingConfig(loss=loss, huber_delta=0.5)
    model = build_model(CONFIG.model, recipe, 10)
    noises = np.random.default_rng(0).standard_normal((100_000, 1)).astype("float32")
    measured = float(model.mean_error(noises, np.zeros_like(noises)))
    assert loss_of_no_prediction(recipe) == pytest.approx(measured, rel=0.01)


def test_half_precision_is_for_the_layers_alone(tmp_path, dataset):
    few = dataclasses.replace(
        dataset,
        train_images=dataset.train_images[:8],
        train_labels=dataset.train_labels[:8],
        validation_images=dataset.validation_images[:8],
        validation_labels=dataset.validation_labels[:8],
    )
    losses = []
    try:
        for precision in ("float32", "mixed_bfloat16"):
            recipe = dataclasses.replace(CONFIG.training, precision=precision)
            config = dataclasses.replace(CONFIG, training=recipe, epochs=1)
            run = Run(tmp_path / precision)
            run.save_config(config)
            model = train(run, config, few)
            losses.append(run.read_history()[0]["noise_loss"])
        images = ops.convert_to_tensor(dataset.train_images[:4])
        noisy_images = model.normalize(images)
        times = ops.full((4, 1, 1, 1), 0.5)
        rates = model.diffusion_schedule(times)
        predictions = model.denoise(noisy_images, *rates, training=False)
        for value in (noisy_images, *rates, *predictions, *model.compute_losses(images, False)[:1]):
            assert keras.backend.standardize_dtype(value.dtype) == "float32"
    finally:
        keras.config.set_dtype_policy("float32")
    # Moving averages move by a thousandth of their distance: not in half precision.
    assert {weight.dtype for weight in model.weights if "seed" not in weight.path} == {"float32"}
    assert any(layer.compute_dtype == "bfloat16" for layer in model.network.layers)
    assert model.network.layers[-1].compute_dtype == "float32"
    exact, rounded = losses
    assert rounded == pytest.approx(exact, rel=0.02)


def test_learning_rate_warms_up_and_decays():
    recipe = TrainingConfig(learning_rate=0.1, warmup_steps=10, cosine_decay=True)
    rate = build_optimizer(recipe, total_steps=110)._learning_rate
    values = [float(ops.convert_to_numpy(rate(step))) for step in (0, 5, 10, 60, 110)]
    assert values == pytest.approx([0, 0.05, 0.1, 0.05, 0], abs=1e-6)
    constant = dataclasses.replace(recipe, cosine_decay=False)
    rate = build_optimizer(constant, total_steps=110)._learning_rate
    values = [float(ops.convert_to_numpy(rate(step))) for step in (0, 5, 10, 110)]
    assert values == pytest.approx([0, 0.05, 0.1, 0.1])
