import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from ddim_keras import (
    DiffusionModel,
    InputError,
    ModelConfig,
    NetworkConfig,
    backends,
    draw_flowers,
)
from ddim_keras.presets import PRESETS

SIZE = 8
PLAIN = NetworkConfig(image_size=SIZE, widths=(8,), depths=(1,))
ADAPTIVE = NetworkConfig(
    image_size=SIZE, widths=(8,), depths=(1,), block="adaptive", attention_sizes=(SIZE,)
)
CONFIGS = {
    "noise": ModelConfig(network=PLAIN),
    "velocity": ModelConfig(network=ADAPTIVE, prediction="velocity", max_signal_rate=0.99),
}


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype="float32")


def randomised(config):
    """A model whose two networks differ from each other and from zero."""
    model = DiffusionModel(config)
    for seed, network in enumerate((model.network, model.ema_network)):
        for index, weight in enumerate(network.weights):
            if "moving" not in weight.path:
                weight.assign(0.2 * normal(*weight.shape, seed=[seed, index]))
    model.pixel_means.assign([0.5, 0.4, 0.3])
    model.pixel_variances.assign([0.1, 0.09, 0.08])
    return model


WITH_DROPOUT = ModelConfig(network=dataclasses.replace(ADAPTIVE, dropout=0.5))

# Trainings of one model are enough by default; `-m slow` has the other one.
both_slowly = pytest.mark.parametrize(
    "config",
    [
        pytest.param(CONFIGS["noise"], id="noise"),
        pytest.param(CONFIGS["velocity"], id="velocity", marks=pytest.mark.slow),
    ],
    indirect=True,
)


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def config(request):
    return request.param


# The contract of the lab.


def test_schedule_of_the_lab():
    model = DiffusionModel(CONFIGS["noise"])
    times = np.linspace(0, 1, 11, dtype="float32").reshape(-1, 1, 1, 1)
    noise_rates, signal_rates = map(numpy, model.diffusion_schedule(times))
    assert noise_rates.shape == signal_rates.shape == times.shape
    np.testing.assert_allclose(noise_rates**2 + signal_rates**2, 1, atol=1e-6)
    assert signal_rates[0] == pytest.approx(0.95)
    assert signal_rates[-1] == pytest.approx(0.02, abs=1e-6)
    assert np.all(np.diff(noise_rates[:, 0, 0, 0]) > 0)


def test_denoise_splits_noisy_images_into_signal_and_noise(config):
    model = randomised(config)
    noisy_images = normal(3, SIZE, SIZE, 3)
    noise_rates = np.array([0.4, 0.8, 0.96], "float32").reshape(3, 1, 1, 1)
    signal_rates = np.sqrt(1 - noise_rates**2)
    inputs = map(ops.convert_to_tensor, (noisy_images, noise_rates, signal_rates))
    pred_noises, pred_images = map(numpy, model.denoise(*inputs, training=False))
    np.testing.assert_allclose(
        signal_rates * pred_images + noise_rates * pred_noises, noisy_images, atol=1e-4
    )
    prediction = numpy(model.ema_network([noisy_images, noise_rates**2]))
    target = {
        "noise": pred_noises,
        "velocity": signal_rates * pred_noises - noise_rates * pred_images,
    }
    np.testing.assert_allclose(prediction, target[config.prediction], rtol=1e-3, atol=1e-3)


def test_training_uses_the_network_and_inference_its_average(config):
    model = randomised(config)
    rates = ops.full((2, 1, 1, 1), 0.5**0.5)
    noisy_images = ops.convert_to_tensor(normal(2, SIZE, SIZE, 3))
    trained, _ = model.denoise(noisy_images, rates, rates, training=True)
    averaged, _ = model.denoise(noisy_images, rates, rates, training=False)
    assert np.abs(numpy(trained) - numpy(averaged)).max() > 0.01
    model.ema_network.set_weights(model.network.get_weights())
    same, _ = model.denoise(noisy_images, rates, rates, training=False)
    if config.network.block == "adaptive":  # batch norm differs between training and inference
        np.testing.assert_allclose(numpy(trained), numpy(same), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_ddim_with_a_perfect_denoiser_returns_the_image(steps):
    images = normal(4, SIZE, SIZE, 3, seed=1)

    class Perfect(DiffusionModel):
        def denoise(self, noisy_images, noise_rates, signal_rates, training):
            return (noisy_images - signal_rates * images) / noise_rates, ops.copy(images)

    initial_noise = normal(4, SIZE, SIZE, 3)
    generated = Perfect(CONFIGS["noise"]).reverse_diffusion(initial_noise, steps)
    np.testing.assert_allclose(numpy(generated), images, atol=1e-5)


def test_ddim_on_gaussian_data_ends_at_the_exact_solution():
    mean, variance = 0.7, 0.3

    class Gaussian(DiffusionModel):
        """Predicts E[image | noisy image] of independent Gaussian pixels, which is linear."""

        def denoise(self, noisy_images, noise_rates, signal_rates, training):
            noisy_variances = signal_rates**2 * variance + noise_rates**2
            gain = signal_rates * variance / noisy_variances
            pred_images = mean + gain * (noisy_images - signal_rates * mean)
            return (noisy_images - signal_rates * pred_images) / noise_rates, pred_images

    model = Gaussian(CONFIGS["noise"])
    initial_noise = normal(16, SIZE, SIZE, 3)
    generated = numpy(model.reverse_diffusion(initial_noise, 500))

    # Along the exact path the standardised noisy image stays what it was in the beginning.
    (start_noise, start_signal), (end_noise, end_signal) = (
        [float(rate) for rate in model.diffusion_schedule(ops.convert_to_tensor(time))]
        for time in (1.0, 0.0)
    )
    standardised = (initial_noise - start_signal * mean) / np.sqrt(
        start_signal**2 * variance + start_noise**2
    )
    end_scale = np.sqrt(end_signal**2 * variance + end_noise**2)
    expected = mean + end_signal * variance / end_scale * standardised
    np.testing.assert_allclose(generated, expected, atol=0.01)
    assert generated.mean() == pytest.approx(mean, abs=0.02)
    assert generated.std() == pytest.approx(end_signal * variance / end_scale, rel=0.03)


def test_reverse_diffusion_calls_back_once_a_step(config):
    calls = []
    randomised(config).reverse_diffusion(
        normal(2, SIZE, SIZE, 3),
        4,
        callback=lambda step, noisy, pred: calls.append(
            (step, tuple(noisy.shape), tuple(pred.shape))
        ),
    )
    assert calls == [(step, (2, SIZE, SIZE, 3), (2, SIZE, SIZE, 3)) for step in range(4)]


def test_generated_images_depend_on_seed_and_position_alone(config):
    model = randomised(config)
    images = model.generate(7, 3, seed=5)
    assert images.shape == (7, SIZE, SIZE, 3)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0.01
    # Far below one grey level: the first step divides by a signal rate of 0.02.
    np.testing.assert_allclose(model.generate(7, 3, seed=5, batch_size=2), images, atol=1e-3)
    np.testing.assert_allclose(model.generate(4, 3, seed=5), images[:4], atol=1e-3)
    assert np.abs(model.generate(7, 3, seed=6) - images).max() > 0.01
    assert np.abs(model.generate(7, 3) - model.generate(7, 3)).max() > 0.01


def test_the_noise_of_each_image_is_the_one_given_for_it():
    model = randomised(CONFIGS["noise"])
    noises = normal(5, SIZE, SIZE, 3, seed=7)
    expected = numpy(model.denormalize(model.reverse_diffusion(noises, 3)))
    generated = model.generate(5, 3, initial_noise=noises, batch_size=2)
    np.testing.assert_allclose(generated, expected, atol=1e-3)


def test_building_a_model_leaves_the_random_numbers_of_others_alone():
    draws = []
    for build in (False, True):
        random.seed(5)
        np.random.seed(5)
        if build:
            DiffusionModel(CONFIGS["noise"])
        draws.append((random.random(), np.random.rand()))
    assert draws[0] == draws[1]
    first, second = (DiffusionModel(CONFIGS["noise"]).get_weights() for _ in range(2))
    np.testing.assert_equal(first, second)


def test_images_of_another_range_are_refused():
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3))
    with pytest.raises(ValueError, match=r"uint8, or float in \[0, 1\]"):
        DiffusionModel(CONFIGS["noise"]).adapt(images.astype("float32"))


def test_the_model_can_be_called():
    model = randomised(CONFIGS["noise"])
    noisy_images = ops.convert_to_tensor(normal(2, SIZE, SIZE, 3))
    times = ops.full((2, 1, 1, 1), 0.5)
    expected = model.denoise(noisy_images, *model.diffusion_schedule(times), training=False)
    for result, value in zip(model((noisy_images, times)), expected, strict=True):
        np.testing.assert_allclose(numpy(result), numpy(value), atol=1e-5)

    network = dataclasses.replace(PLAIN, num_classes=3)
    model = randomised(ModelConfig(network=network))
    labels = ops.convert_to_tensor([2, 0], dtype="int32")
    rates = model.diffusion_schedule(times)
    (expected, _), (of_any, _) = (
        model.denoise(noisy_images, *rates, training=False, labels=each) for each in (labels, None)
    )
    assert np.abs(numpy(expected) - numpy(of_any)).max() > 0.01
    noises, _ = model((noisy_images, times, labels))
    np.testing.assert_allclose(numpy(noises), numpy(expected), atol=1e-5)


def test_the_model_can_be_called_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = randomised(CONFIGS["velocity"])
        noisy_images = ops.convert_to_tensor(normal(2, SIZE, SIZE, 3))
        times = ops.full((2, 1, 1, 1), 0.3)
        expected = model.denoise(noisy_images, *model.diffusion_schedule(times), training=False)
        results = model((noisy_images, times))
    finally:
        keras.config.set_dtype_policy("float32")
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(numpy(result), numpy(value), atol=1e-5)


def test_training_alone_learns_the_statistics_of_batches():
    model = randomised(CONFIGS["noise"])
    model.compile(loss="mse")
    means, theirs = (
        next(weight for weight in network.weights if "moving_mean" in weight.path)
        for network in (model.network, model.ema_network)
    )
    images = ops.convert_to_tensor(draw_flowers(16, SIZE)[0])
    before = [numpy(weight) for weight in (means, theirs)]
    model.compute_losses(images, training=False)
    np.testing.assert_array_equal(numpy(means), before[0])
    model.compute_losses(images, training=True)
    assert np.abs(numpy(means) - before[0]).max() > 1e-3
    np.testing.assert_array_equal(numpy(theirs), before[1])


def test_validation_is_that_of_the_average():
    model = randomised(CONFIGS["noise"])
    model.compile(loss="mse", run_eagerly=True)
    for weight in model.network.weights:
        weight.assign(np.full(weight.shape, np.nan))
    images = draw_flowers(8, SIZE)[0]
    losses = model.evaluate(images, batch_size=8, verbose=0, return_dict=True)
    assert all(np.isfinite(list(losses.values())))


# What the network predicts, and when.


def with_network(config, output):
    """A model whose network returns `output`, whatever it is given."""
    model = DiffusionModel(config)
    object.__setattr__(model, "ema_network", lambda inputs, training: output)
    return model


@pytest.mark.parametrize("prediction", ["noise", "velocity", "image"])
def test_the_three_predictions_are_convertible(prediction):
    """From the truth of any one of them, the model finds the noise and the image."""
    images, noises = normal(3, SIZE, SIZE, 3), normal(3, SIZE, SIZE, 3, seed=1)
    noise_rates = np.array([0.4, 0.8, 0.96], "float32").reshape(3, 1, 1, 1)
    signal_rates = np.sqrt(1 - noise_rates**2)
    outputs = {
        "noise": noises,
        "velocity": signal_rates * noises - noise_rates * images,
        "image": images,
    }
    model = with_network(
        ModelConfig(network=PLAIN, prediction=prediction),
        ops.convert_to_tensor(outputs[prediction]),
    )
    noisy_images = signal_rates * images + noise_rates * noises
    inputs = map(ops.convert_to_tensor, (noisy_images, noise_rates, signal_rates))
    pred_noises, pred_images = model.denoise(*inputs, training=False)
    np.testing.assert_allclose(numpy(pred_noises), noises, atol=2e-5)
    np.testing.assert_allclose(numpy(pred_images), images, atol=2e-5)


@pytest.mark.parametrize("loss_on", ["prediction", "noise", "velocity", "image"])
@pytest.mark.parametrize("prediction", ["noise", "velocity", "image"])
def test_the_loss_compares_what_it_is_told_to(prediction, loss_on, monkeypatch):
    """At one noise level the three errors are multiples of each other: 1, signal and noise rate."""
    config = ModelConfig(network=PLAIN, prediction=prediction)
    model = with_network(config, ops.convert_to_tensor(normal(4, SIZE, SIZE, 3, seed=2)))
    model.compile(loss="mse", loss_on=loss_on)
    noises = ops.convert_to_tensor(normal(4, SIZE, SIZE, 3, seed=1))
    times = ops.full((4, 1, 1, 1), 0.6)
    monkeypatch.setattr(model, "draw_noises_and_times", lambda images: (noises, times))
    noise_rate, signal_rate = (float(rate[0, 0, 0, 0]) for rate in model.diffusion_schedule(times))
    images = np.random.default_rng(0).uniform(0, 1, (4, SIZE, SIZE, 3)).astype("float32")
    loss, losses = model.compute_losses(ops.convert_to_tensor(images), training=False)
    noise_loss, image_loss = float(losses["noise_loss"]), float(losses["image_loss"])
    assert noise_loss == pytest.approx((signal_rate / noise_rate) ** 2 * image_loss, rel=1e-4)
    velocity_loss = image_loss / noise_rate**2
    expected = {"noise": noise_loss, "velocity": velocity_loss, "image": image_loss}
    compared = prediction if loss_on == "prediction" else loss_on
    assert float(loss) == pytest.approx(expected[compared], rel=1e-4)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss_on must be prediction, noise, velocity or image"):
        DiffusionModel(CONFIGS["noise"]).compile(loss_on="score")


def test_discrete_times_are_the_continuous_ones_rounded_up():
    def times_and_noises(**fields):
        model = DiffusionModel(ModelConfig(network=PLAIN, **fields))
        return map(numpy, model.draw_noises_and_times(ops.zeros((500, 2, 2, 1))))

    noises, times = times_and_noises()
    same_noises, discrete_times = times_and_noises(discrete_steps=8)
    np.testing.assert_array_equal(same_noises, noises)
    np.testing.assert_allclose(discrete_times, np.floor(8 * times + 1) / 8, atol=1e-6)
    assert set(np.round(8 * discrete_times).ravel()) == set(range(1, 9))


def test_stratified_times_are_at_equal_distances_and_each_is_uniform():
    model = DiffusionModel(ModelConfig(network=PLAIN, stratified_times=True))
    images = ops.zeros((8, 2, 2, 1))
    batches = np.array([numpy(model.draw_noises_and_times(images)[1]).ravel() for _ in range(200)])
    assert np.all((batches >= 0) & (batches < 1))
    np.testing.assert_allclose(
        np.sort(batches) - np.sort(batches)[:, :1], [np.arange(8) / 8] * 200, atol=1e-6
    )
    np.testing.assert_allclose(batches.mean(axis=0), 0.5, atol=0.1)
    assert np.all(batches.std(axis=0) > 0.25)  # of a uniform one 0.289
    with pytest.raises(InputError, match="draw their own steps"):
        ModelConfig(variance="learned", discrete_steps=10, stratified_times=True)


def test_the_seed_decides_the_noises_and_times_of_training():
    def drawn(seed):
        model = DiffusionModel(ModelConfig(network=PLAIN, seed=seed))
        return [numpy(each) for each in model.draw_noises_and_times(ops.zeros((2, 4, 4, 1)))]

    for first, same, other in zip(drawn(1), drawn(1), drawn(2), strict=True):
        np.testing.assert_array_equal(first, same)
        assert np.abs(first - other).max() > 1e-3


def test_a_device_has_its_part_of_the_stratified_times_of_the_whole_batch(monkeypatch):
    """Under TensorFlow, where each device draws for all, and takes its own part."""
    model = DiffusionModel(ModelConfig(network=PLAIN, stratified_times=True))
    state = numpy(model.seed_generator.state)
    _, whole = model.draw_noises_and_times(ops.zeros((8, 2, 2, 1)))
    model.seed_generator.state.assign(state)
    draw = backends.draw

    def second_half(model, distribution, shape):
        return draw(model, distribution, (2 * shape[0], *shape[1:]))[shape[0] :]

    monkeypatch.setattr(backends, "draw", second_half)
    _, part = model.draw_noises_and_times(ops.zeros((4, 2, 2, 1)))
    np.testing.assert_array_equal(numpy(part), numpy(whole)[4:])


@pytest.mark.parametrize(("schedule", "prediction"), [("linear", "image"), ("cosine", "velocity")])
def test_models_of_the_published_schedules_have_losses_and_generate(schedule, prediction):
    config = ModelConfig(
        network=PLAIN, schedule=schedule, discrete_steps=100, prediction=prediction
    )
    assert ModelConfig.from_dict(config.to_dict()) == config
    images, _ = draw_flowers(256, SIZE)
    model = DiffusionModel(config)
    model.adapt(images)
    model.compile(loss="mse")
    loss, losses = model.compute_losses(ops.convert_to_tensor(images), training=True)
    # For an output of zeros, of a target of unit variance.
    assert float(numpy(ops.stop_gradient(loss))) == pytest.approx(1, abs=0.05)
    assert all(np.isfinite(numpy(ops.stop_gradient(value))) for value in losses.values())
    generated = model.generate(2, 3, seed=0)
    assert np.all(np.isfinite(generated))


# Training.


def test_the_initial_loss_is_the_mean_square_of_the_noise(config):
    images, _ = draw_flowers(256, SIZE)
    model = DiffusionModel(config)
    model.adapt(images)
    model.compile(loss=keras.losses.mean_squared_error, run_eagerly=True)
    results = model.evaluate(images, batch_size=64, verbose=0, return_dict=True)
    assert set(results) == {"noise_loss", "image_loss"}
    value, _ = model.compute_losses(ops.convert_to_tensor(images), training=True)
    assert tuple(value.shape) == ()
    assert float(value) == pytest.approx(1, abs=0.05)
    if config.prediction == "noise":
        assert results["noise_loss"] == pytest.approx(1, abs=0.02)


def test_mae_starts_at_the_mean_absolute_noise():
    images, _ = draw_flowers(256, SIZE)
    model = DiffusionModel(CONFIGS["noise"])
    model.adapt(images)
    model.compile(loss="mae", run_eagerly=True)
    results = model.evaluate(images, batch_size=64, verbose=0, return_dict=True)
    assert results["noise_loss"] == pytest.approx(np.sqrt(2 / np.pi), abs=0.02)


@both_slowly
def test_the_loss_falls_within_a_few_dozen_steps(config):
    images, _ = draw_flowers(64, SIZE)
    model = DiffusionModel(config)
    model.adapt(images)
    model.compile(optimizer=keras.optimizers.AdamW(5e-3), loss="mse")
    history = model.fit(images, batch_size=32, epochs=30, verbose=0).history
    assert np.mean(history["noise_loss"][-5:]) < 0.5
    # Predicting a velocity of zero already gives half of the noise away.
    share = {"noise": 0.7, "velocity": 0.85}[config.prediction]
    assert history["noise_loss"][-1] < share * history["noise_loss"][0]


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_the_closed_form_of_the_weights_it_followed(warmup):
    network = NetworkConfig(image_size=SIZE, widths=(8,), depths=(1,))
    momentum = 0.8
    model = DiffusionModel(ModelConfig(network=network, ema=momentum, ema_warmup=warmup))
    model.compile(optimizer=keras.optimizers.AdamW(1e-2), run_eagerly=True)
    images, _ = draw_flowers(16, SIZE)

    assert len(model.network.weights) == len(model.ema_network.weights)
    assert any("moving_mean" in weight.path for weight in model.ema_network.weights)
    expected = [numpy(weight) for weight in model.network.weights]
    for average, weight in zip(model.ema_network.weights, expected, strict=True):
        np.testing.assert_array_equal(numpy(average), weight)  # starts as a copy
    for step in range(1, 5):
        model.train_on_batch(images)
        kept = min(momentum, (1 + step) / (10 + step)) if warmup else momentum
        expected = [
            kept * value + (1 - kept) * numpy(weight)
            for value, weight in zip(expected, model.network.weights, strict=True)
        ]
    for average, value in zip(model.ema_network.weights, expected, strict=True):
        np.testing.assert_allclose(numpy(average), value, rtol=1e-4, atol=1e-6)


def test_the_average_is_not_trained():
    model = DiffusionModel(CONFIGS["noise"])
    assert len(model.trainable_weights) == len(model.network.trainable_weights)


# Pixels.


@pytest.mark.parametrize("channels", [1, 3])
def test_the_normaliser_makes_training_images_standard(channels):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (1500, SIZE, SIZE, channels), "uint8")  # more than one chunk
    network = NetworkConfig(image_size=SIZE, channels=channels, widths=(8,), depths=(1,))
    model = DiffusionModel(ModelConfig(network=network))
    model.adapt(images)
    normalised = numpy(model.normalize(ops.convert_to_tensor(images)))
    np.testing.assert_allclose(normalised.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(normalised.std(axis=(0, 1, 2)), 1, atol=1e-3)
    floats = (images / 255).astype("float32")
    same = numpy(model.normalize(ops.convert_to_tensor(floats)))
    np.testing.assert_allclose(same, normalised, atol=1e-4)
    means = numpy(model.pixel_means)
    model.adapt(floats)
    np.testing.assert_allclose(numpy(model.pixel_means), means, atol=1e-6)
    np.testing.assert_allclose(numpy(model.denormalize(normalised)), floats, atol=1e-5)


def test_one_colour_does_not_divide_by_zero():
    model = DiffusionModel(CONFIGS["noise"])
    model.adapt(np.full((4, SIZE, SIZE, 3), 200, "uint8"))
    images = np.full((1, SIZE, SIZE, 3), 200, "uint8")
    assert np.all(np.isfinite(numpy(model.normalize(ops.convert_to_tensor(images)))))


# Saving.


@pytest.mark.slow
def test_saved_models_generate_the_same_images_in_a_new_process(config, tmp_path):
    model = randomised(config)
    model.compile(loss="mae", loss_on="image")
    model.train_on_batch(draw_flowers(8, SIZE)[0])
    model.save(tmp_path / "whole.keras")
    model.save_weights(tmp_path / "only.weights.h5")
    np.save(tmp_path / "images.npy", model.generate(4, 3, seed=0))
    program = """
import keras, numpy as np
from ddim_keras import DiffusionModel
whole = keras.models.load_model("whole.keras", safe_mode=True)
assert whole.elementwise_loss is keras.losses.mean_absolute_error, whole.elementwise_loss
assert whole.loss_on == "image"
assert int(whole.optimizer.iterations) == 1
only = DiffusionModel(whole.config)
only.load_weights("only.weights.h5")
for model in (whole, only):
    difference = np.abs(model.generate(4, 3, seed=0) - np.load("images.npy")).max()
    assert difference < 5e-4, difference  # an eighth of a grey level
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("config", [*CONFIGS.values(), WITH_DROPOUT])
def test_the_average_alone_generates_the_same_images(config, tmp_path):
    model = randomised(config)
    model.save_weights(tmp_path / "both.weights.h5")
    average = DiffusionModel(config, only_average=True)
    average.load_weights(tmp_path / "both.weights.h5")
    assert average.network is average.ema_network
    np.testing.assert_array_equal(average.generate(4, 3, seed=0), model.generate(4, 3, seed=0))


# Keras's warning about an optimizer that has not made a step.
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
@pytest.mark.parametrize("only_average", [False, True])
def test_models_are_saved_whole_before_and_after_compile(only_average, tmp_path):
    model = DiffusionModel(CONFIGS["noise"], only_average=only_average)
    for compiled in (False, True):
        if compiled:
            model.compile(loss="mae", loss_on="image")
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
        assert loaded.only_average == only_average
        assert loaded.compiled == compiled
        if compiled:
            assert loaded.elementwise_loss is keras.losses.mean_absolute_error
            assert loaded.loss_on == "image"
        expected = model.generate(2, 2, seed=0)
        np.testing.assert_allclose(loaded.generate(2, 2, seed=0), expected, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        CONFIGS["noise"],
        pytest.param(WITH_DROPOUT, id="dropout", marks=pytest.mark.slow),
    ],
)
def test_a_loaded_model_continues_with_the_same_random_numbers(config, tmp_path):
    images, _ = draw_flowers(16, SIZE)
    model = DiffusionModel(config)
    model.adapt(images)
    model.compile(loss="mse", run_eagerly=True)
    model.train_on_batch(images)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert int(copy.optimizer.iterations) == 1
    assert float(copy.noise_loss_tracker.result()) == float(model.noise_loss_tracker.result()) > 0
    for _ in range(2):
        expected = model.train_on_batch(images, return_dict=True)
        actual = copy.train_on_batch(images, return_dict=True)
        assert actual == pytest.approx(expected, rel=1e-5)


def test_states_of_dropout_are_saved(tmp_path):
    model, other = (DiffusionModel(WITH_DROPOUT) for _ in range(2))
    for number, state in enumerate(model.dropout_states):
        state.assign([7, number])
    model.save_weights(tmp_path / "a.weights.h5")
    other.load_weights(tmp_path / "a.weights.h5")
    assert len(model.dropout_states) == 2  # of the block, in each of the two networks
    for number, state in enumerate(other.dropout_states):
        assert numpy(state).tolist() == [7, number]


def test_config_round_trips_through_json_types():
    for preset in PRESETS.values():
        assert ModelConfig.from_dict(preset.model.to_dict()) == preset.model
    with pytest.raises(InputError, match="no field depth"):
        ModelConfig.from_dict({**ModelConfig().to_dict(), "depth": 3})


def test_the_lab_preset_is_the_assignment():
    lab = PRESETS["lab"]
    assert lab.model.network == NetworkConfig(widths=(32, 64, 96, 128), depths=(2, 2, 2, 2))
    assert (lab.model.max_signal_rate, lab.model.min_signal_rate) == (0.95, 0.02)
    assert (lab.model.prediction, lab.model.ema) == ("noise", 0.999)
    assert (lab.training.learning_rate, lab.training.batch_size) == (1e-3, 64)
    assert lab.training.loss == "mse"


@pytest.mark.parametrize("shape", [(0, 16, 16, 3), (4, 16, 16, 1), (16, 16, 3)])
def test_images_of_another_shape_are_not_adapted_to(shape):
    model = DiffusionModel(ModelConfig(network=NetworkConfig(16, widths=(8,), depths=(1,))))
    with pytest.raises(InputError, match="images must be one or more of shape"):
        model.adapt(np.zeros(shape, "uint8"))
