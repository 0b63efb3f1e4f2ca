"""Langevin dynamics: the score against its derivative, and densities that the steps draw from."""

import keras
import numpy as np
import pytest
from keras import ops

from ddim_keras.config import InputError, ModelConfig, NetworkConfig
from ddim_keras.langevin import langevin_corrected, langevin_steps, score
from ddim_keras.model import DiffusionModel
from ddim_keras.samplers import Sampler, adams_bashforth, ddim, heun
from tests.helpers import denoiser, mixture

VARIANCE = 0.25  # of data that are normal, with mean 0


def gaussian(noisy_images, noise_rates, signal_rates):
    return signal_rates * VARIANCE / (signal_rates**2 * VARIANCE + noise_rates**2) * noisy_images


denoise_mixture = denoiser(lambda *inputs: mixture(*inputs).astype("float32"))


def normal(num_points, seed=0):
    return np.random.default_rng(seed).standard_normal((num_points, 1, 1, 2)).astype("float32")


def test_score_is_the_gradient_of_the_log_density():
    points = normal(5)
    rates = np.full((5, 1, 1, 1), 0.8, "float32"), np.full((5, 1, 1, 1), 0.6, "float32")
    pred_noises, _ = denoiser(gaussian)(points, *rates)
    scores = ops.convert_to_numpy(score(pred_noises, rates[0]))
    np.testing.assert_allclose(scores, -points / (0.36 * VARIANCE + 0.64), rtol=1e-5)


@pytest.mark.parametrize("step_ratio", [0.1, 0.3])
def test_steps_reach_the_density_wherever_they_start(step_ratio):
    """Each step maps a variance w to (1 - size / v)**2 w + 2 size, with a fixed point near v."""
    start = 3 + 0.1 * normal(20_000)
    rate, variance = 0.6, 0.36 * VARIANCE + 0.64
    num_steps = round(3 / step_ratio**2)
    points = ops.convert_to_numpy(
        langevin_steps(denoiser(gaussian), start, rate, num_steps, step_ratio=step_ratio, seed=1)
    )
    size = 2 * step_ratio**2 * 0.64
    assert points.mean() == pytest.approx(3 * (1 - size / variance) ** num_steps, abs=0.03)
    assert points.var() == pytest.approx(variance / (1 - size / (2 * variance)), rel=0.03)


def energy_distance(first, second):
    """Of two sets of points, squared: 0 where their distributions are equal."""
    between = lambda a, b: np.linalg.norm(a[:, None] - b[None], axis=-1).mean()  # noqa: E731
    return 2 * between(first, second) - between(first, first) - between(second, second)


@pytest.mark.parametrize("sampler", [ddim, heun], ids=["ddim", "heun"])
def test_corrections_take_back_errors_of_few_steps(sampler):
    """On the three peaks of a mixture: against a fine solution, from other noises."""
    fine = heun(denoise_mixture, normal(1500, seed=9), [*np.linspace(0.02, 0.98, 80)])
    truth = ops.convert_to_numpy(fine)[:, 0, 0]
    rates = [0.02, 0.6, 0.98]

    def distance(corrections):
        process = langevin_corrected(sampler, corrections, seed=0)
        points = process(denoise_mixture, normal(1500), rates)
        return energy_distance(ops.convert_to_numpy(points)[:, 0, 0], truth)

    plain, corrected = distance(0), distance(40)
    assert corrected < plain / 2


def test_without_corrections_it_is_the_sampler():
    rates = [0.1, 0.5, 0.9, 1.0]
    for eta in (0.0, 0.7):
        plain = ddim(denoise_mixture, normal(4), rates, eta=eta, seed=keras.random.SeedGenerator(1))
        process = langevin_corrected(ddim, 0)
        other = process(
            denoise_mixture, normal(4), rates, eta=eta, seed=keras.random.SeedGenerator(1)
        )
        np.testing.assert_allclose(*map(ops.convert_to_numpy, (plain, other)), rtol=1e-5)
    # A sampler with a memory becomes one of order 1.
    forgetful = langevin_corrected(adams_bashforth, 0)(denoise_mixture, normal(4), rates)
    plain = ddim(denoise_mixture, normal(4), rates)
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (plain, forgetful)), rtol=1e-4, atol=1e-6)


def test_a_model_generates_with_corrections():
    model = DiffusionModel(ModelConfig(NetworkConfig(image_size=8, widths=(8,), depths=(1,))))
    steps = []
    sampler = Sampler(langevin_corrected(ddim, 2, seed=0))
    images = model.generate(
        3, 4, seed=0, sampler=sampler, callback=lambda step, *_: steps.append(step)
    )
    assert images.shape == (3, 8, 8, 3)
    assert np.isfinite(images).all()
    assert steps == [0, 1, 2, 3]
    assert sampler.network_calls(sampler.signal_rates(model, 4)) == 4 + 3 * 2
    assert str(sampler) == "ddim with 2 Langevin steps"


def test_a_sampler_with_its_options_can_be_corrected():
    rates = [0.1, 0.5, 0.9, 1.0]
    images = []
    for sampler in (ddim, "ddim", Sampler("ddim")):
        process = langevin_corrected(sampler, 2, seed=0)
        images.append(ops.convert_to_numpy(process(denoise_mixture, normal(4), rates)))
        assert process.__name__ == "ddim with 2 Langevin steps"
        np.testing.assert_array_equal(images[0], images[-1])
    process = langevin_corrected(Sampler(eta=1.0), 2, seed=0)
    assert process.__name__ == "ddim, eta 1 with 2 Langevin steps"
    noisy = ops.convert_to_numpy(process(denoise_mixture, normal(4), rates))
    assert not np.allclose(images[0], noisy)
    # The seed determines the noise of eta as well, and each step draws its own.
    again = langevin_corrected(Sampler(eta=1.0), 2, seed=0)(denoise_mixture, normal(4), rates)
    np.testing.assert_array_equal(noisy, ops.convert_to_numpy(again))
    other = langevin_corrected(Sampler(eta=1.0), 2, seed=1)(denoise_mixture, normal(4), rates)
    assert not np.allclose(noisy, ops.convert_to_numpy(other))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: langevin_steps(None, None, 1.0, 1), "between 0 and 1, not 1.0"),
        (lambda: langevin_steps(None, None, 0.5, 1, step_ratio=0.7), "step_ratio must be"),
        (lambda: langevin_corrected(ddim, -1), "at least 0, not -1"),
        (lambda: langevin_corrected(Sampler(spacing="rho")), "only eta is used; give spacing"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
