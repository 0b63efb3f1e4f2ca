"""DDPM: each formula against probability theory, on data for which the answer is known."""

import functools
import itertools
import math

import keras
import numpy as np
import pytest
import scipy.special
from keras import ops

from ddim_keras import backends
from ddim_keras.config import ModelConfig, NetworkConfig
from ddim_keras.ddpm import (
    alpha_bars_of,
    ancestral_sampling,
    cosine_betas,
    decoder_bits,
    forward_step,
    gaussian_kl,
    hybrid_loss,
    interpolated_variances,
    linear_betas,
    log_normal_cdf,
    mean_prediction_loss,
    noise_error_weights,
    posterior_mean_from_images,
    posterior_mean_from_noises,
    posterior_variances,
    prior_bits,
    reverse_variances,
    sample_xt,
    step_bits,
    training_loss,
    variational_bound,
)
from ddim_keras.model import DiffusionModel
from ddim_keras.schedules import SCHEDULES

BETAS = {"linear": linear_betas, "cosine": cosine_betas}
MEAN, DEVIATION = 0.3, 0.4  # of the normally distributed data


@pytest.fixture(params=[linear_betas(100), cosine_betas(100)], ids=BETAS)
def betas(request):
    return request.param


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype="float32")


def tensor(values):
    return ops.convert_to_tensor(values, dtype="float32")


def numpy(values):
    return ops.convert_to_numpy(values)


def gaussian_denoise(noisy_images, noise_rates, signal_rates, deviation=DEVIATION):
    """The exact denoiser of independent pixels with MEAN and a standard deviation."""
    gain = signal_rates * deviation**2 / (signal_rates**2 * deviation**2 + noise_rates**2)
    pred_images = MEAN + gain * (noisy_images - signal_rates * MEAN)
    return (noisy_images - signal_rates * pred_images) / noise_rates, pred_images


# Schedules.


def test_the_published_linear_betas():
    betas = linear_betas()
    assert betas.shape == (1001,)
    assert betas[[0, 1, 1000]].tolist() == [0, 1e-4, 0.02]
    np.testing.assert_allclose(np.diff(betas[1:], 2), 0, atol=1e-15)
    # The signal that the published models are left with.
    assert alpha_bars_of(betas)[-1] == pytest.approx(4.04e-5, rel=0.01)


def test_the_published_cosine_betas():
    betas = cosine_betas()
    alpha_bars = alpha_bars_of(betas)
    expected = np.cos((np.arange(1000) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    np.testing.assert_allclose(alpha_bars[:-1], expected / expected[0], rtol=1e-9)
    assert betas[-1] == 0.999
    # Nichol and Dhariwal, section 3.2: the offset was chosen for the root of the first beta to be
    # slightly smaller than the size of a pixel's bin.
    assert 0.7 / 127.5 < math.sqrt(betas[1]) < 1 / 127.5


@pytest.mark.parametrize("num_steps", [21, 100, 1000])
@pytest.mark.parametrize("schedule", BETAS)
def test_betas_are_probabilities_and_alpha_bars_fall_from_1(schedule, num_steps):
    betas = BETAS[schedule](num_steps)
    alpha_bars = alpha_bars_of(betas)
    assert betas.shape == alpha_bars.shape == (num_steps + 1,)
    assert betas[0] == 0
    assert alpha_bars[0] == 1
    assert np.all(np.diff(betas) > 0)
    assert betas[-1] < 1
    assert np.all(np.diff(alpha_bars) < 0)
    assert alpha_bars[-1] > 0


@pytest.mark.parametrize(("schedule", "order"), [("linear", 1), ("cosine", None)])
def test_discrete_schedules_tend_to_the_continuous_ones(schedule, order):
    """Linear: at the rate 1 / T, of a product that tends to an exponential. Cosine: at once."""
    errors = []
    for num_steps in (200, 400, 800):
        steps = np.arange(1, num_steps)
        _, signal_rates = SCHEDULES[schedule](tensor(steps / num_steps))
        alpha_bars = alpha_bars_of(BETAS[schedule](num_steps))[steps]
        errors.append(np.abs(numpy(signal_rates) ** 2 - alpha_bars).max())
    if order is None:
        assert max(errors) < 1e-5
    else:
        ratios = [coarse / fine for coarse, fine in itertools.pairwise(errors)]
        np.testing.assert_allclose(ratios, 2**order, rtol=0.05)


@pytest.mark.parametrize("schedule", BETAS)
def test_training_at_discrete_times_sees_the_noise_of_the_steps(schedule):
    config = ModelConfig(
        network=NetworkConfig(image_size=8, widths=(8,), depths=(1,)),
        schedule=schedule,
        discrete_steps=1000,
    )
    model = DiffusionModel(config)
    _, times = model.draw_noises_and_times(ops.zeros((4000, 1, 1, 1)))
    steps = 1000 * numpy(times)[:, 0, 0, 0]
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    assert steps.min() >= 1
    assert steps.max() <= 1000.001
    assert steps.mean() == pytest.approx(500.5, abs=5 * 1000 / math.sqrt(12 * 4000))
    _, signal_rates = model.diffusion_schedule(times)
    alpha_bars = alpha_bars_of(BETAS[schedule](1000))[np.round(steps).astype(int)]
    np.testing.assert_allclose(numpy(signal_rates)[:, 0, 0, 0] ** 2, alpha_bars, atol=2e-3)


# The forward process.


def test_two_steps_are_one_with_merged_noise(betas):
    """Composed by hand, the steps t - 1 and t have the mean and variance of q(x_t | x_{t-2})."""
    images, zeros = tensor([[1.0]]), tensor([[0.0]])
    first, second = tensor([[1.0]]), tensor([[1.0]])
    step = functools.partial(forward_step, betas=betas)
    mean = step(step(images, 49, zeros), 50, zeros)
    from_first = step(step(zeros, 49, first), 50, zeros)
    from_second = step(zeros, 50, second)
    alphas = 1 - betas
    np.testing.assert_allclose(numpy(mean), math.sqrt(alphas[49] * alphas[50]), rtol=1e-6)
    np.testing.assert_allclose(
        numpy(from_first) ** 2 + numpy(from_second) ** 2, 1 - alphas[49] * alphas[50], rtol=1e-5
    )


def test_all_steps_composed_are_the_marginal(betas):
    alpha_bars = alpha_bars_of(betas)
    mean, variance = tensor([[1.0]]), 0.0
    for step in range(1, 101):
        mean = forward_step(mean, step, ops.zeros_like(mean), betas)
        noise = forward_step(ops.zeros_like(mean), step, ops.ones_like(mean), betas)
        variance = (1 - betas[step]) * variance + float(numpy(noise)[0, 0]) ** 2
        if step in (1, 50, 100):
            at_once = sample_xt(tensor([[1.0]]), step, tensor([[0.0]]), alpha_bars)
            noise_at_once = sample_xt(tensor([[0.0]]), step, tensor([[1.0]]), alpha_bars)
            np.testing.assert_allclose(numpy(mean), numpy(at_once), rtol=2e-5)
            np.testing.assert_allclose(variance, numpy(noise_at_once)[0, 0] ** 2, rtol=2e-5)


def test_sample_xt_takes_a_step_for_each_image_or_one_for_all(betas):
    alpha_bars = alpha_bars_of(betas)
    images, noises = normal(3, 2, 2, 1), normal(3, 2, 2, 1, seed=1)
    steps = np.array([0, 7, 100])
    together = numpy(sample_xt(images, steps, noises, alpha_bars))
    for index, step in enumerate(steps):
        alone = numpy(sample_xt(images[index : index + 1], step, noises[index], alpha_bars))
        np.testing.assert_allclose(together[index], alone[0], rtol=1e-6)
    np.testing.assert_array_equal(together[0], images[0])
    expected = np.sqrt(alpha_bars[7]) * images[1] + np.sqrt(1 - alpha_bars[7]) * noises[1]
    np.testing.assert_allclose(together[1], expected, atol=1e-6)


def test_sample_xt_draws_the_noise_that_is_not_given():
    alpha_bars = alpha_bars_of(linear_betas(100))
    images = np.full((200, 8, 8, 1), 0.5, "float32")
    noisy_images = numpy(sample_xt(images, 60, None, alpha_bars, seed=3))
    again = numpy(sample_xt(images, 60, None, alpha_bars, seed=3))
    other = numpy(sample_xt(images, 60, None, alpha_bars, seed=4))
    np.testing.assert_array_equal(noisy_images, again)
    assert np.abs(noisy_images - other).max() > 1
    assert noisy_images.mean() == pytest.approx(0.5 * math.sqrt(alpha_bars[60]), abs=0.04)
    assert noisy_images.var() == pytest.approx(1 - alpha_bars[60], rel=0.05)


def test_whole_numbers_and_double_precision_are_taken(betas):
    alpha_bars = alpha_bars_of(betas)
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1))
    noises = normal(2, 4, 4, 1)
    expected = numpy(sample_xt(images.astype("float32"), 5, noises, alpha_bars))
    for given in (images, images.astype("uint8"), images.tolist()):
        np.testing.assert_allclose(
            numpy(sample_xt(given, 5, noises.astype("float64"), alpha_bars)), expected, rtol=1e-5
        )
    assert numpy(sample_xt(images, 5, None, alpha_bars, seed=0)).shape == images.shape
    precise = (images / 127.5 - 1, 0.9 * (images / 127.5 - 1), np.full((1, 1, 1, 1), 0.01))
    bits = numpy(decoder_bits(*precise))
    single = (array.astype("float32") for array in precise)
    np.testing.assert_allclose(bits, numpy(decoder_bits(*single)), rtol=1e-3)
    losses = [
        float(numpy(hybrid_loss(*(each.astype(dtype) for each in given), [2, 9], betas)))
        for dtype in ("float32", "float64")
        for given in [(precise[0], noises, 0.5 * noises, np.full_like(noises, 0.5))]
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_noise_of_the_first_step_keeps_its_digits():
    """1 - alpha-bar is 1e-4 there; taken in float32 it would be off by 3e-4 of itself."""
    alpha_bars = alpha_bars_of(linear_betas())
    noises = numpy(sample_xt(np.zeros((1, 1), "float32"), 1, tensor([[1.0]]), alpha_bars))
    assert noises[0, 0] == pytest.approx(0.01, rel=1e-6)


# The posterior.


@pytest.mark.parametrize("step", [2, 3, 50, 100])
def test_posterior_is_bayes_rule(betas, step):
    """q(x_t | x_{t-1}) q(x_{t-1} | x_0), as a function of x_{t-1} on a grid, normalised."""
    image, noisy_image = 0.8, -0.5
    alpha_bars = alpha_bars_of(betas)
    previous = np.linspace(-12, 12, 200_001)
    log_density = -((noisy_image - math.sqrt(1 - betas[step]) * previous) ** 2) / (
        2 * betas[step]
    ) - (previous - math.sqrt(alpha_bars[step - 1]) * image) ** 2 / (2 * (1 - alpha_bars[step - 1]))
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    mean = np.sum(density * previous)
    variance = np.sum(density * (previous - mean) ** 2)

    assert posterior_variances(betas)[step] == pytest.approx(variance, rel=1e-3)
    result = posterior_mean_from_images(tensor([[noisy_image]]), tensor([[image]]), step, betas)
    assert numpy(result)[0, 0] == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("schedule", BETAS)
def test_both_means_of_the_posterior_agree(schedule):
    betas = BETAS[schedule](50)
    images, noises = tensor(normal(49, 2, 2, 3)), tensor(normal(49, 2, 2, 3, seed=1))
    steps = np.arange(1, 50)
    noisy_images = sample_xt(images, steps, noises, alpha_bars_of(betas))
    np.testing.assert_allclose(
        numpy(posterior_mean_from_images(noisy_images, images, steps, betas)),
        numpy(posterior_mean_from_noises(noisy_images, noises, steps, betas)),
        atol=1e-4,
    )


def test_the_first_step_ends_at_the_image(betas):
    images, noises = tensor(normal(2, 3)), tensor(normal(2, 3, seed=1))
    noisy_images = sample_xt(images, 1, noises, alpha_bars_of(betas))
    result = posterior_mean_from_images(noisy_images, images, 1, betas)
    np.testing.assert_allclose(numpy(result), numpy(images), atol=1e-6)
    assert posterior_variances(betas)[1] == 0


def test_posterior_variances_are_smaller_than_those_of_the_forward_steps(betas):
    posterior = posterior_variances(betas)
    assert np.all(posterior[1:] < betas[1:])
    small, large = (reverse_variances(betas, name) for name in ("small", "large"))
    # As in the published code, which appends the other betas to the posterior's second variance.
    assert small[1] == large[1] == posterior[2]
    np.testing.assert_array_equal(small[2:], posterior[2:])
    np.testing.assert_array_equal(large[2:], betas[2:])
    large[2:] = 0
    assert np.all(betas[2:] > 0), "the caller's own array"


def test_learned_variances_run_from_small_to_large(betas):
    steps = np.array([1, 30, 100])
    small, large = reverse_variances(betas, "small")[steps], betas[steps]  # beta_1 in step 1, too
    for fraction, expected in ((0.0, small), (1.0, large), (0.5, np.sqrt(small * large))):
        fractions = np.full((3, 2, 2, 1), fraction, "float32")
        variances = numpy(interpolated_variances(fractions, steps, betas))
        np.testing.assert_allclose(variances[:, 1, 1, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_to_predict_the_mean_is_to_predict_the_noise(betas, variance):
    """Ho et al., equations 8 and 12: the same loss, up to the weight of the step."""
    steps = np.array([2, 3, 40, 99])
    images, noises = tensor(normal(4, 4, 4, 1)), tensor(normal(4, 4, 4, 1, seed=1))
    pred_noises = 0.7 * noises + 0.3 * tensor(normal(4, 4, 4, 1, seed=2))
    noisy_images = sample_xt(images, steps, noises, alpha_bars_of(betas))
    pred_means = posterior_mean_from_noises(noisy_images, pred_noises, steps, betas)
    variances = reverse_variances(betas, variance)
    losses = numpy(mean_prediction_loss(images, noises, pred_means, steps, betas, variances))
    errors = np.mean((numpy(noises) - numpy(pred_noises)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(
        losses, noise_error_weights(betas, variances)[steps] * errors, rtol=2e-3
    )


# Algorithms 1 and 2.


def test_training_loss_of_a_blind_and_of_a_perfect_prediction():
    alpha_bars = alpha_bars_of(linear_betas(100))
    images = normal(64, 8, 8, 1)

    def blind(noisy_images, noise_rates, signal_rates):
        return ops.zeros_like(noisy_images), noisy_images

    def perfect(noisy_images, noise_rates, signal_rates):
        return (noisy_images - signal_rates * images) / noise_rates, images

    assert float(numpy(training_loss(blind, images, alpha_bars, seed=0))) == pytest.approx(
        1, abs=0.07
    )
    assert float(numpy(training_loss(perfect, images, alpha_bars, seed=0))) < 1e-6


def test_training_loss_of_the_best_denoiser_is_its_variance():
    """The noise's variance given the noisy image, averaged over all steps alike, 1 to T."""
    alpha_bars = alpha_bars_of(cosine_betas(5))
    images = tensor(MEAN + DEVIATION * normal(20_000, 4))

    def denoise(noisy_images, noise_rates, signal_rates):
        assert tuple(noise_rates.shape) == (20_000, 1)
        return gaussian_denoise(noisy_images, noise_rates, signal_rates)

    signal_variances = alpha_bars[1:] * DEVIATION**2
    expected = np.mean(signal_variances / (signal_variances + 1 - alpha_bars[1:]))
    loss = float(numpy(training_loss(denoise, images, alpha_bars, seed=1)))
    assert loss == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_sampling_is_algorithm_2_line_by_line(variance):
    betas = linear_betas(25)
    sigmas = np.sqrt(betas if variance == "large" else posterior_variances(betas))
    noise_rates = np.sqrt(1 - alpha_bars_of(betas))
    initial_noise = normal(3, 2, 2, 1)
    sampled = ancestral_sampling(
        gaussian_denoise, initial_noise, alpha_bars_of(betas), variance=variance, seed=5
    )

    random = keras.random.SeedGenerator(5)
    noisy_images = tensor(initial_noise)
    for step in range(25, 0, -1):
        pred_noises, _ = gaussian_denoise(
            noisy_images, float(noise_rates[step]), math.sqrt(1 - noise_rates[step] ** 2)
        )
        noisy_images = (
            noisy_images - float(betas[step] / noise_rates[step]) * pred_noises
        ) / math.sqrt(1 - betas[step])
        if step > 1:
            fresh_noises = keras.random.normal((3, 2, 2, 1), seed=random)
            noisy_images = noisy_images + float(sigmas[step]) * fresh_noises
    np.testing.assert_allclose(numpy(sampled), numpy(noisy_images), atol=1e-5)


@pytest.mark.parametrize(("variance", "tolerance"), [("small", 0.04), ("large", 0.015)])
def test_ancestral_sampling_reproduces_the_data(variance, tolerance):
    """Of normal data, one step of whose chain needs a variance between the two, close to large."""
    samples = numpy(
        ancestral_sampling(
            gaussian_denoise,
            normal(5000, 1, 1, 4),
            alpha_bars_of(cosine_betas(150)),
            variance=variance,
            seed=0,
        )
    )
    assert samples.mean() == pytest.approx(MEAN, abs=0.01)
    assert samples.std() == pytest.approx(DEVIATION, rel=tolerance)


def test_ancestral_sampling_clips_and_calls_back():
    calls = []
    samples = ancestral_sampling(
        gaussian_denoise,
        normal(50, 1, 1, 4),
        alpha_bars_of(cosine_betas(10)),
        seed=0,
        clip_range=(0.2, 0.5),
        callback=lambda step, noisy_images, pred_images: calls.append(step),
    )
    assert calls == list(range(10))
    assert 0.2 <= numpy(samples).min() <= numpy(samples).max() <= 0.5


def test_the_hybrid_loss_trains_the_means_by_the_noises_alone(betas):
    images, noises, pred_noises = (tensor(normal(3, 4, 4, 1, seed=seed)) for seed in range(3))
    fractions = ops.full((3, 4, 4, 1), 0.5)

    def loss(pred_noises):
        return hybrid_loss(images, noises, pred_noises, fractions, [2, 9, 40], betas)

    one = ops.ones(())
    _, gradients = backends.vector_jacobian_product(loss, pred_noises, one)
    expected = 2 * (numpy(pred_noises) - numpy(noises)) / (3 * 4 * 4)
    np.testing.assert_allclose(numpy(gradients), expected, rtol=1e-4, atol=1e-6)


# The variational bound.


def test_kl_is_its_integral():
    points = np.linspace(-30, 30, 400_001)
    mean, variance, other_mean, other_variance = 0.4, 0.3, -0.2, 1.7
    density = np.exp(-((points - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    log_ratio = (
        0.5 * math.log(other_variance / variance)
        - (points - mean) ** 2 / (2 * variance)
        + (points - other_mean) ** 2 / (2 * other_variance)
    )
    expected = np.sum(density * log_ratio) * (points[1] - points[0])
    kl = gaussian_kl(tensor(mean), tensor(variance), other_mean, other_variance)
    assert float(numpy(kl)) == pytest.approx(expected, rel=1e-5)
    same = gaussian_kl(tensor(mean), tensor(variance), mean, variance)
    assert float(numpy(same)) == pytest.approx(0, abs=1e-7)


def test_l_t_minus_1_is_the_weighted_error_of_the_noise(betas):
    """Ho et al., equation 12: for beta-tilde as the variance, nothing but the means is left."""
    steps = np.array([2, 40, 99])
    images, noises = tensor(normal(3, 4, 4, 1)), tensor(normal(3, 4, 4, 1, seed=1))
    pred_noises = noises + 0.1 * tensor(normal(3, 4, 4, 1, seed=2))
    noisy_images = sample_xt(images, steps, noises, alpha_bars_of(betas))
    pred_means = posterior_mean_from_noises(noisy_images, pred_noises, steps, betas)
    variances = reverse_variances(betas, "small")
    of_steps = tensor(variances[steps].reshape(-1, 1, 1, 1))
    bits = numpy(step_bits(images, noisy_images, pred_means, of_steps, steps, betas))
    errors = np.mean((numpy(noises) - numpy(pred_noises)) ** 2, axis=(1, 2, 3))
    expected = noise_error_weights(betas, variances)[steps] * errors / math.log(2)
    np.testing.assert_allclose(bits, expected, rtol=5e-3)


def test_nothing_is_left_of_the_images_in_the_end():
    images = tensor(np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)))
    bits = numpy(prior_bits(images, alpha_bars_of(linear_betas())))
    assert bits.shape == (4,)
    assert np.all(bits < 3e-5)  # about 1e-5, says section 4 of Ho et al.
    early = numpy(prior_bits(images, alpha_bars_of(linear_betas())[:500]))
    assert np.all(early > 100 * bits)


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (-1.7, 2.2)])
def test_probabilities_of_a_pixel_s_values_sum_to_1(value_range):
    values = np.linspace(*value_range, 256).reshape(-1, 1)
    for mean, variance in ((0.1, 0.04), (0.95, 0.01), (-1.5, 0.3)):
        bits = numpy(decoder_bits(tensor(values), mean, variance, value_range))
        assert np.sum(2.0**-bits) == pytest.approx(1, abs=1e-4)


def test_probability_of_a_pixel_s_value_is_that_of_its_bin():
    variance, mean, value = 0.04, 0.1, -1 + 2 * 140 / 255
    points = np.linspace(value - 1 / 255, value + 1 / 255, 2001)
    density = np.exp(-((points - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    bits = numpy(decoder_bits(tensor([[value]]), mean, variance))
    assert 2.0 ** -bits[0] == pytest.approx(density.mean() * 2 / 255, rel=1e-3)


def test_logarithm_of_the_normal_distribution_function():
    values = np.array([*np.linspace(-50, 5, 1000), -1e3, -1e5, 30.0], "float32")
    expected = scipy.special.log_ndtr(values.astype("float64"))
    np.testing.assert_allclose(
        numpy(log_normal_cdf(tensor(values))), expected, rtol=2e-6, atol=2e-7
    )


@pytest.mark.parametrize("deviation", [0.003, 0.02, 0.3])
def test_bits_of_a_pixel_s_value_at_any_distance(deviation):
    """Against SciPy, in double precision, on both sides; and with a gradient towards the mean."""
    values = np.linspace(-1, 1, 256)
    means = np.array([-7.0, -0.8, 0.0, 0.31, 5.0])
    distances, half = values[:, None] - means, 1 / 255
    upper = scipy.special.log_ndtr((half - np.abs(distances)) / deviation)
    lower = scipy.special.log_ndtr((-half - np.abs(distances)) / deviation)
    expected = upper + np.log1p(-np.exp(lower - upper))
    expected[0] = scipy.special.log_ndtr((distances[0] + half) / deviation)
    expected[-1] = scipy.special.log_ndtr((half - distances[-1]) / deviation)
    for mean, column in zip(means, expected.T, strict=True):
        bits = numpy(decoder_bits(tensor(values[:, None]), mean, deviation**2))
        np.testing.assert_allclose(bits, -column / math.log(2), rtol=1e-3, atol=1e-3)


def test_the_cost_of_a_value_far_from_the_mean_has_a_slope():
    """Clamped, as in the published code, it would be 39.9 bits from 7 deviations on."""
    deviation = 0.05
    costs = [
        float(numpy(decoder_bits(tensor([[0.0]]), distance * deviation, deviation**2))[0])
        for distance in (7.0, 7.01, 20.0, 20.01)
    ]
    # Of the squared distance over 2, in bits: the distance itself, times the step of 0.01.
    slopes = np.array([costs[1] - costs[0], costs[3] - costs[2]]) / 0.01 * math.log(2)
    np.testing.assert_allclose(slopes, [7, 20], rtol=0.03)


def test_value_ranges_can_differ_between_channels():
    images = tensor([[[[0.2, 0.4]]]])
    both = numpy(decoder_bits(images, 0.0, 0.1, (np.array([-1.0, -2.0]), np.array([1.0, 2.0]))))
    alone = [
        numpy(decoder_bits(images[..., index : index + 1], 0.0, 0.1, (-1.0 - index, 1.0 + index)))
        for index in (0, 1)
    ]
    np.testing.assert_allclose(both, np.mean(alone, axis=0), rtol=1e-5)


def test_the_bound_lies_above_the_entropy_and_falls_towards_it():
    """With the exact denoiser all that is lost is that "large" is only nearly the right variance,
    and in step 1 that of step 2 is too small for so few steps.

    The entropy of the rounded pixels is that of the normal distribution less the bin's logarithm.
    """
    deviation = DEVIATION / 2  # so that few pixels lie beyond the range
    pixels = np.round(127.5 * (1 + MEAN + deviation * normal(3000, 2, 2, 1)))
    images = tensor(pixels / 127.5 - 1)
    denoise = functools.partial(gaussian_denoise, deviation=deviation)

    entropy = 0.5 * math.log2(2 * math.pi * math.e * deviation**2) - math.log2(2 / 255)
    bounds = []
    for num_steps in (20, 80):
        terms = variational_bound(denoise, images, cosine_betas(num_steps), "large", seed=0)
        assert terms.shape == (num_steps + 1, 3000)
        assert terms[1:].min() > -1e-6
        bounds.append(terms.sum(axis=0).mean())
    assert entropy < bounds[1] < bounds[0]
    assert bounds[1] - entropy < 0.16
    assert bounds[1] - entropy < 0.6 * (bounds[0] - entropy)


def test_hybrid_loss_is_the_simple_one_plus_the_cost_of_wrong_variances():
    betas = cosine_betas(50)
    steps = np.array([2, 20, 45])
    images, noises = tensor(normal(3, 4, 4, 1)), tensor(normal(3, 4, 4, 1, seed=1))

    def loss(pred_noises, fraction):
        fractions = ops.full((3, 4, 4, 1), fraction)
        return float(numpy(hybrid_loss(images, noises, pred_noises, fractions, steps, betas)))

    # Of known noises the posterior is the step, and beta-tilde its variance.
    assert loss(noises, 0.0) == pytest.approx(0, abs=1e-6)
    small, large = reverse_variances(betas, "small")[steps], betas[steps]
    nats = 0.5 * (small / large - 1 - np.log(small / large))
    expected = 0.001 * 50 * nats.mean() / math.log(2)
    assert loss(noises, 1.0) == pytest.approx(expected, rel=1e-3)
    # Errors of the noise are best met by a larger variance, at the cost of the simple loss.
    errors = noises + 0.5
    assert loss(errors, 0.0) > loss(errors, 0.6) > 0.25


def test_hybrid_loss_has_the_decoder_s_likelihood_in_step_1():
    """Nichol and Dhariwal, equation 4: L_0 in place of a divergence, as `variational_bound`."""
    betas = cosine_betas(50)
    steps = np.array([1, 7, 1])
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)) / 127.5 - 1
    images, noises = tensor(images), tensor(normal(3, 4, 4, 1, seed=1))
    pred_noises, fractions = 0.9 * noises, ops.full((3, 4, 4, 1), 0.3)
    loss = hybrid_loss(images, noises, pred_noises, fractions, steps, betas, bound_weight=1.0)

    noisy_images = sample_xt(images, steps, noises, alpha_bars_of(betas))
    means = posterior_mean_from_noises(noisy_images, pred_noises, steps, betas)
    variances = interpolated_variances(fractions, steps, betas)
    bits = numpy(step_bits(images, noisy_images, means, variances, steps, betas))
    bits = np.where(steps == 1, numpy(decoder_bits(images, means, variances)), bits)
    simple = np.mean(numpy(noises - pred_noises) ** 2)
    assert float(numpy(loss)) == pytest.approx(simple + 50 * bits.mean(), rel=1e-5)


# Mistakes.


def hybrid_loss_at(step, channels=3):
    images = np.zeros((1, 2, 2, 3), "float32")
    return hybrid_loss(images, images, images, images[..., :channels], [step], cosine_betas(9))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_betas(20), "more than 20 steps, not 20"),
        (lambda: cosine_betas(0), "at least 1, not 0"),
        (lambda: reverse_variances(linear_betas(), "tiny"), "one of small, large, not 'tiny'"),
        (lambda: reverse_variances(cosine_betas(1)), "at least 2 steps"),
        (lambda: reverse_variances(cosine_betas(1), "large"), "at least 2 steps"),
        (lambda: hybrid_loss_at(0), "steps must be from 1 to 9, not"),
        (lambda: hybrid_loss_at(10), "steps must be from 1 to 9, not"),
        (lambda: hybrid_loss_at(1, channels=1), "fractions must have the shape of the noises"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
