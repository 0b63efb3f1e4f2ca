"""Samplers: exact on closed forms, of their order, equal to the lab's DDIM and to diffusers."""

import functools
import math

import keras
import numpy as np
import pytest
from keras import ops

from ddim_keras import config, deprecated
from ddim_keras.config import InputError, ModelConfig, NetworkConfig
from ddim_keras.ddpm import alpha_bars_of, linear_betas
from ddim_keras.model import DiffusionModel
from ddim_keras.samplers import (
    EQUAL_STEP_WEIGHTS,
    LAST_SIGNAL_RATE,
    SAMPLERS,
    Sampler,
    adams_bashforth,
    ddim,
    heun,
)
from ddim_keras.schedules import OffsetCosine
from ddim_keras.spacing import SPACINGS, sampling_signal_rates
from tests.helpers import denoiser, mixture, root_mean_square, standard_normal

FIRST, LAST = 0.2, 0.9  # signal rates between which convergence is measured
ALL = [*SAMPLERS.items(), ("ddpm", functools.partial(ddim, eta=1.0, seed=0))]

all_samplers = pytest.mark.parametrize("sampler", [s for _, s in ALL], ids=[n for n, _ in ALL])


@pytest.fixture(autouse=True)
def float64():
    """Lets JAX keep float64, as the other backends do: float32 would hide the high orders."""
    if keras.backend.backend() == "jax":
        import jax

        with jax.enable_x64(True):
            yield
    else:
        yield


# Data whose perfect denoiser is known. Images are (B, 1, 1, 2): points of the plane.


def gaussian(mean, covariance):
    """Normally distributed points."""
    mean, covariance = np.asarray(mean), np.asarray(covariance)

    def pred_images_of(noisy_images, noise_rates, signal_rates):
        signal, noise = signal_rates.flat[0], noise_rates.flat[0]
        noisy_covariance = signal**2 * covariance + noise**2 * np.eye(2)
        gain = signal * covariance @ np.linalg.inv(noisy_covariance)
        return mean + (noisy_images - signal * mean) @ gain.T

    return pred_images_of


# The probability-flow ordinary differential equation, and convergence to its solution.


def exact_for_gaussian(noisy_images, mean, variance, first, last):
    """Whitened images do not change along the flow."""

    def deviation(signal_rate):
        return np.sqrt(signal_rate**2 * variance + 1 - signal_rate**2)

    return last * mean + (noisy_images - first * mean) * deviation(last) / deviation(first)


@functools.cache
def exact_for_mixture():
    """Runge-Kutta of order 4 in the angle, in steps so short that its error is below 1e-10."""

    def slope(images, angle):  # of noisy_images / signal_rate
        noise, signal = (np.full((len(images), 1, 1, 1), f(angle)) for f in (np.sin, np.cos))
        pred_images = mixture(signal * images, noise, signal)
        return (images - pred_images) / noise / signal

    start, end, steps = math.acos(FIRST), math.acos(LAST), 400
    size = (end - start) / steps
    images = standard_normal(16) / FIRST
    for angle in start + size * np.arange(steps):
        slope1 = slope(images, angle)
        slope2 = slope(images + size / 2 * slope1, angle + size / 2)
        slope3 = slope(images + size / 2 * slope2, angle + size / 2)
        slope4 = slope(images + size * slope3, angle + size)
        images = images + size / 6 * (slope1 + 2 * slope2 + 2 * slope3 + slope4)
    return LAST * images


def rates(steps):
    """Steps uniform in the log-SNR that end below signal rate 1."""
    schedule = OffsetCosine(min_signal_rate=FIRST)
    return sampling_signal_rates(steps + 1, "log_snr", LAST, schedule)[:-1]


def rates_with_short_start(steps, order):
    """As `rates`, after a step of the size h ** (order / 2), and one of h ** (order / 3).

    The local errors of these steps, of order 1 and 2, are then no larger than h ** order.
    """
    sizes = [(1 / steps) ** (order / step_order) for step_order in range(2, order)]
    positions = [*np.cumsum([0, *sizes])[:-1], *np.linspace(sum(sizes), 1, steps - len(sizes) + 1)]
    start, end = (math.log(math.sqrt(1 - rate**2) / rate) for rate in (FIRST, LAST))
    return 1 / np.hypot(1, np.exp(start + (end - start) * np.array(positions)))


def slope_of(error_for, step_counts=(20, 40, 80)):
    """Minus the slope of log(error) over log(steps)."""
    errors = [error_for(steps) for steps in step_counts]
    return -np.polyfit(np.log(step_counts), np.log(errors), deg=1)[0]


def multistep(name, order):
    return functools.partial(SAMPLERS[name], order=order)


def short_start(order):
    return functools.partial(rates_with_short_start, order=order)


ORDERS = {
    "ddim": (ddim, rates, 1),
    "dpm_solver": (SAMPLERS["dpm_solver"], rates, 2),
    "heun": (SAMPLERS["heun"], rates, 2),
    "ipndm 2": (multistep("ipndm", 2), rates, 2),
    "ipndm 4": (multistep("ipndm", 4), rates, 2),
    "adams_bashforth 2": (multistep("adams_bashforth", 2), rates, 2),
    "adams_bashforth 3": (multistep("adams_bashforth", 3), short_start(3), 3),
    "adams_bashforth 4": (multistep("adams_bashforth", 4), short_start(4), 4),
    "adams_bashforth 4, equal start": (multistep("adams_bashforth", 4), rates, 2),
}
deterministic = pytest.mark.parametrize(
    ("sampler", "rates_of", "order"), ORDERS.values(), ids=ORDERS.keys()
)


@deterministic
def test_converges_with_its_order_for_a_mixture(sampler, rates_of, order):
    def error(steps):
        images = sampler(denoiser(mixture), standard_normal(16), rates_of(steps))
        return root_mean_square(ops.convert_to_numpy(images) - exact_for_mixture())

    assert slope_of(error, step_counts=(30, 60, 120)) == pytest.approx(order, abs=0.2)


@deterministic
def test_converges_with_its_order_for_a_gaussian(sampler, rates_of, order):
    mean, variance = np.array([0.5, -1.0]), np.array([0.2, 1.5])
    denoise = denoiser(gaussian(mean, np.diag(variance)))
    exact = exact_for_gaussian(standard_normal(4), mean, variance, FIRST, LAST)

    def error(steps):
        images = sampler(denoise, standard_normal(4), rates_of(steps))
        return root_mean_square(ops.convert_to_numpy(images) - exact)

    assert slope_of(error) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize(
    ("sampler", "order"),
    # Heun: the leading errors there and back cancel, as in every one-step method of even order.
    [(ddim, 1), (SAMPLERS["dpm_solver"], 2), (adams_bashforth, 2), (SAMPLERS["heun"], 3)],
    ids=["ddim", "dpm_solver", "adams_bashforth", "heun"],
)
def test_sampling_undoes_encoding_with_an_error_of_its_order(sampler, order):
    images = exact_for_mixture()

    def error(steps):
        noises = sampler(denoiser(mixture), images, rates(steps)[::-1])
        decoded = sampler(denoiser(mixture), noises, rates(steps))
        return root_mean_square(ops.convert_to_numpy(decoded) - images)

    assert slope_of(error) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("order", EQUAL_STEP_WEIGHTS)
def test_weights_for_equal_steps_integrate_polynomials_exactly(order):
    positions = -np.arange(order)  # the step goes from 0 to 1
    for degree in range(order):
        integral = np.dot(EQUAL_STEP_WEIGHTS[order], positions.astype(float) ** degree)
        assert integral == pytest.approx(1 / (degree + 1))


# Fresh noise.


@pytest.mark.parametrize(
    ("eta", "variance"), [(0.5, "small"), (0.5, "large"), (1.0, "small"), (1.0, "large")]
)
def test_fresh_noise_keeps_mean_and_covariance(eta, variance):
    mean, covariance = np.array([0.5, -1.0]), np.array([[0.4, 0.25], [0.25, 0.8]])

    def noisy_covariance(signal_rate):
        return signal_rate**2 * covariance + (1 - signal_rate**2) * np.eye(2)

    points = standard_normal(10_000) @ np.linalg.cholesky(noisy_covariance(FIRST)).T + FIRST * mean
    images = ddim(
        denoiser(gaussian(mean, covariance)),
        points,
        rates(80),
        eta=eta,
        variance=variance,
        seed=1,
    )
    points = ops.convert_to_numpy(images).reshape(-1, 2)
    np.testing.assert_allclose(np.mean(points, axis=0), LAST * mean, atol=0.03)
    np.testing.assert_allclose(np.cov(points.T), noisy_covariance(LAST), atol=0.04)


def test_small_variance_is_too_small_and_large_exact_for_standard_normal_data():
    def variance_of_images(variance):
        denoise = denoiser(gaussian(mean=[0, 0], covariance=np.eye(2)))
        noise = standard_normal(20_000)
        images = ddim(denoise, noise, [0.02, 0.4, 0.9], eta=1.0, variance=variance, seed=1)
        return np.var(ops.convert_to_numpy(images))

    assert variance_of_images("large") == pytest.approx(1, abs=0.03)
    assert variance_of_images("small") < 0.9


def test_seed_decides_the_fresh_noise():
    def images(seed):
        return ops.convert_to_numpy(
            ddim(denoiser(mixture), standard_normal(3), rates(4), eta=1.0, seed=seed)
        )

    np.testing.assert_array_equal(images(1), images(1))
    assert np.any(images(1) != images(2))
    assert np.any(images(None) != images(None))
    generator = keras.random.SeedGenerator(1)
    np.testing.assert_array_equal(images(generator), images(1))
    assert np.any(images(generator) != images(1))


# What holds for every sampler.


@all_samplers
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_a_perfect_denoiser_returns_its_image(sampler, steps):
    image = np.random.default_rng(1).uniform(-1, 1, (1, 4, 4, 3))
    initial_noise = np.random.default_rng(2).standard_normal((2, 4, 4, 3))
    denoise = denoiser(lambda noisy_images, *_: np.broadcast_to(image, noisy_images.shape))
    images = sampler(denoise, initial_noise, sampling_signal_rates(steps))
    np.testing.assert_allclose(
        ops.convert_to_numpy(images), np.repeat(image, 2, axis=0), atol=1e-10
    )


@all_samplers
def test_callback_sees_each_step_once(sampler):
    seen = []
    images = sampler(
        denoiser(mixture),
        standard_normal(3),
        sampling_signal_rates(4),
        callback=lambda *arguments: seen.append(arguments),
    )
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert all(tuple(noisy.shape) == tuple(pred.shape) == (3, 1, 1, 2) for _, noisy, pred in seen)
    np.testing.assert_array_equal(seen[0][1], standard_normal(3))
    np.testing.assert_allclose(seen[-1][2], images, rtol=1e-9)


@all_samplers
def test_network_is_called_once_a_step_and_by_heun_twice(sampler):
    calls = []

    def denoise(noisy_images, noise_rates, signal_rates):
        assert tuple(noise_rates.shape) == tuple(signal_rates.shape) == (3, 1, 1, 1)
        calls.append((ops.convert_to_numpy(noise_rates)[0], ops.convert_to_numpy(signal_rates)[0]))
        return denoiser(mixture)(noisy_images, noise_rates, signal_rates)

    signal_rates = np.array(sampling_signal_rates(4))
    sampler(denoise, standard_normal(3), signal_rates)
    expected = signal_rates[:-1]
    if sampler is SAMPLERS["heun"]:
        expected = np.repeat(expected, 2)[1:]
    noise_rates, signal_rates = np.squeeze(calls).T
    np.testing.assert_allclose(signal_rates, expected, rtol=1e-9)
    np.testing.assert_allclose(noise_rates**2 + signal_rates**2, 1, rtol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_network_calls_are_counted_without_a_network(name):
    signal_rates = sampling_signal_rates(4)
    is_heun = name == "heun"
    assert Sampler(name).network_calls(signal_rates) == (7 if is_heun else 4)
    assert Sampler(name).network_calls(signal_rates[:-1]) == (6 if is_heun else 3)
    assert Sampler(name).network_calls(signal_rates, is_guided=True) == (7 if is_heun else 4)


def test_network_calls_are_counted_in_float32():
    """A Mac's GPU has no other."""
    dtypes = []

    def method(denoise, initial_noise, signal_rates):
        dtypes.append(str(initial_noise.dtype))
        return initial_noise

    assert Sampler(method).network_calls(sampling_signal_rates(4)) == 0
    assert dtypes == ["float32"]


def test_too_few_fresh_noises():
    rates = sampling_signal_rates(3)
    noises = [standard_normal(2)] * 2
    samples = functools.partial(ddim, denoiser(lambda images, *_: images), noises[0], rates)
    samples(eta=1.0, fresh_noises=noises)
    with pytest.raises(InputError, match="fresh_noises has too few"):
        samples(eta=1.0, fresh_noises=noises[:1])


@all_samplers
def test_clipping(sampler):
    smallest, largest = np.array([-0.3, -0.2]), 0.25
    seen = []
    images = sampler(
        denoiser(mixture),
        standard_normal(16),
        sampling_signal_rates(5),
        clip_range=(smallest, largest),
        callback=lambda *arguments: seen.append(ops.convert_to_numpy(arguments[2])),
    )
    for pred_images in [*seen, ops.convert_to_numpy(images)]:
        assert np.all(pred_images >= smallest - 1e-12)
        assert np.all(pred_images <= largest + 1e-12)
    assert np.any(seen[-1] == largest)
    assert np.any(seen[-1][..., 0] == smallest[0])


def test_noise_follows_clipped_images():
    noisy_images, signal_rates = standard_normal(16), [0.3, 0.6]
    images = ddim(denoiser(mixture), noisy_images, signal_rates, clip_range=(0.1, 0.1))
    noises = (noisy_images - 0.3 * 0.1) / math.sqrt(1 - 0.3**2)
    np.testing.assert_allclose(images, 0.6 * 0.1 + 0.8 * noises, rtol=1e-9)


@pytest.mark.parametrize("name", ["adams_bashforth", "ipndm", "dpm_solver"])
@pytest.mark.parametrize(("steps", "low"), [(14, True), (15, False)])
def test_last_of_few_steps_has_order_1(name, steps, low):
    seen = []
    images = SAMPLERS[name](
        denoiser(mixture),
        standard_normal(3),
        rates(steps),
        callback=lambda *arguments: seen.append(arguments),
    )
    last_step = ddim(denoiser(mixture), seen[-1][1], rates(steps)[-2:])
    assert np.allclose(images, last_step, rtol=1e-9) == low


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("signal_rates", "options", "message"),
    [
        ([0.5], {}, "two or more"),
        ([0.1, 0.5, 0.5], {}, "rising or falling"),
        ([0.1, 0.5, 0.4], {}, "rising or falling"),
        ([0.0, 0.5], {}, r"in \(0, 1\]"),
        ([0.5, 1.1], {}, r"in \(0, 1\]"),
        ([1.0, 0.5], {}, "first below 1"),
    ],
)
def test_mistakes_in_the_rates_are_named(name, signal_rates, options, message):
    with pytest.raises(ValueError, match=message):
        SAMPLERS[name](denoiser(mixture), standard_normal(1), signal_rates, **options)


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        (adams_bashforth, {"order": 1}, "order must be 2, 3 or 4, not 1"),
        (adams_bashforth, {"order": 5}, "order must be 2, 3 or 4, not 5"),
        (ddim, {"eta": 1.5}, r"eta must be in \[0, 1\]"),
        (ddim, {"eta": 1.0, "variance": "medium"}, "variance must be one of small, large"),
    ],
)
def test_mistakes_in_the_options_are_named(sampler, options, message):
    with pytest.raises(ValueError, match=message):
        sampler(denoiser(mixture), standard_normal(1), rates(3), **options)


def test_encoding_with_fresh_noise_is_refused():
    with pytest.raises(ValueError, match="eta 0"):
        ddim(denoiser(mixture), standard_normal(1), rates(3)[::-1], eta=1.0)


# The lab's reverse diffusion.


@pytest.fixture(scope="module", params=["noise", "velocity"])
def model(request):
    """An untrained model, whose outputs react to their inputs, yet not so that errors explode."""
    network = NetworkConfig(
        image_size=16, widths=(8, 16), depths=(1, 1), embedding_max_frequency=10
    )
    model = DiffusionModel(ModelConfig(network=network, prediction=request.param))
    random = np.random.default_rng(0)
    weights = model.ema_network.get_weights()
    model.ema_network.set_weights([w + random.uniform(-0.05, 0.05, w.shape) for w in weights])
    return model


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_ddim_is_the_lab_s_reverse_diffusion(model, steps):
    noise = np.random.default_rng(1).standard_normal((2, 16, 16, 3), dtype="float32")
    expected = ops.convert_to_numpy(model.reverse_diffusion(noise, steps))
    images = ops.convert_to_numpy(Sampler().reverse_diffusion(model, noise, steps))
    assert images.dtype == "float32"
    np.testing.assert_allclose(images, expected, atol=1e-4 * np.std(expected))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_ddim_is_reverse_diffusion_under_other_schedules(schedule):
    network = NetworkConfig(image_size=8, widths=(8,), depths=(1,))
    model = DiffusionModel(ModelConfig(network=network, schedule=schedule, prediction="velocity"))
    noise = np.random.default_rng(1).standard_normal((2, 8, 8, 3), dtype="float32")
    for steps in (1, 7):
        expected = ops.convert_to_numpy(model.reverse_diffusion(noise, steps))
        images = ops.convert_to_numpy(Sampler().reverse_diffusion(model, noise, steps))
        # The lab's rates are float32: of the smallest, 0.001, four digits are exact.
        np.testing.assert_allclose(images, expected, atol=2e-4 * np.std(expected))


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("spacing", ["time", "log_snr", "rho"])
@pytest.mark.parametrize(("schedule", "first"), [("linear", 0.00657), ("cosine", 0.001)])
def test_reverse_processes_start_where_the_schedule_ends(schedule, first, spacing, steps):
    network = NetworkConfig(image_size=8, widths=(8,), depths=(1,))
    model = DiffusionModel(ModelConfig(network=network, schedule=schedule))
    seen = []

    def denoise(noisy_images, noise_rates, signal_rates):
        seen.append(float(ops.convert_to_numpy(signal_rates)[0, 0, 0, 0]))
        return noisy_images, noisy_images

    noise = np.zeros((1, 8, 8, 3), "float32")
    Sampler(spacing=spacing).reverse_diffusion(model, noise, steps, denoise=denoise)
    _, (last,) = model.schedule(np.array([1 / steps]), np)
    assert len(seen) == steps
    assert seen[0] == pytest.approx(first, rel=1e-3)
    assert seen[-1] == pytest.approx(last, rel=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_model_generates_with_every_sampler(model, name):
    steps = []
    images = model.generate(
        3,
        4,
        seed=1,
        batch_size=2,
        callback=lambda step, *_: steps.append(step),
        sampler=Sampler(name, "log_snr", 0.9),
    )
    assert images.shape == (3, 16, 16, 3)
    assert steps == [0, 1, 2, 3] * 2


def test_where_the_steps_lie_unless_asked_for(model):
    assert Sampler().signal_rates(model, 5) == sampling_signal_rates(5)
    for steps in (5, 20):
        rates = Sampler("ipndm").signal_rates(model, steps)
        assert rates == sampling_signal_rates(steps, "time", LAST_SIGNAL_RATE)
    assert Sampler("ipndm").signal_rates(model, 1) == pytest.approx([0.02, 1])
    assert Sampler("heun", "log_snr").signal_rates(model, 5) == sampling_signal_rates(5, "log_snr")
    assert Sampler("heun", None, 0.8).signal_rates(model, 5)[-2] == pytest.approx(0.8)
    _, expected = model.schedule(np.array([0.4, 0.2]), np)
    assert Sampler("heun").signal_rates(model, 2, first_time=0.4) == pytest.approx([*expected, 1])


# The object.


def test_every_name_of_a_choice_is_there():
    assert tuple(SAMPLERS) == config.SAMPLERS
    assert (*SPACINGS, "searched") == config.SPACINGS
    assert all(function.__name__ == name for name, function in SAMPLERS.items())


def test_a_name_a_sampler_and_a_function_generate_alike(model):
    whole = Sampler("heun", "time").signal_rates(model, 3)
    chosen = ("heun", Sampler("heun", {3: whole}), heun)
    named, object_, function = (model.generate(2, 3, seed=1, sampler=each) for each in chosen)
    np.testing.assert_array_equal(function, object_)  # along the whole schedule
    assert np.abs(named - object_).max() > 1e-4  # up to LAST_SIGNAL_RATE
    noise = standard_normal(3)
    images = Sampler("ipndm")(denoiser(mixture), noise, rates(4))
    np.testing.assert_array_equal(images, SAMPLERS["ipndm"](denoiser(mixture), noise, rates(4)))


def test_searched_steps_are_those_of_the_model(model, monkeypatch):
    sampler = Sampler("dpm_solver", "searched")
    with pytest.raises(InputError, match=r"not been searched for this model.*--search-steps 2"):
        sampler.signal_rates(model, 2)
    monkeypatch.setattr(model, "searched_steps", {2: [0.02, 0.7, 1.0]})
    assert sampler.signal_rates(model, 2) == [0.02, 0.7, 1.0]


def test_fresh_noise_of_an_image_does_not_depend_on_the_batch(model):
    def images(**options):
        return model.generate(5, 4, sampler=Sampler(eta=1.0), seed=3, **options)

    together = images()
    np.testing.assert_allclose(images(batch_size=2), together, atol=2e-3)
    np.testing.assert_array_equal(images(), together)
    assert np.abs(together - model.generate(5, 4, sampler="ddim", seed=3)).max() > 0.1
    unseeded = [model.generate(1, 2, sampler=Sampler(eta=1.0)) for _ in range(2)]
    assert np.abs(unseeded[0] - unseeded[1]).max() > 0.1


def test_clipping_keeps_predicted_images_in_the_range_of_pixels(model):
    extremes = []

    def callback(step, noisy_images, pred_images):
        pixels = model.pixel_means + pred_images * ops.sqrt(model.pixel_variances)
        extremes.append(ops.convert_to_numpy(pixels))

    for clip in (False, True):
        model.generate(2, 3, sampler=Sampler("ipndm", clip=clip), seed=0, callback=callback)
    free, clipped = np.split(np.array(extremes), 2)
    assert np.min(free) < -0.1
    assert -1e-5 < np.min(clipped) < np.max(clipped) < 1 + 1e-5


def test_samplers_are_described_by_what_is_not_as_usual():
    assert str(Sampler()) == "ddim"
    assert str(Sampler("heun", "rho", 0.98)) == "heun, rho to 0.98"
    assert str(Sampler("ddim", {1: [0.02, 1]}, clip=True, eta=0.5)) == (
        "ddim, searched, eta 0.5, clipped"
    )
    assert str(Sampler(adams_bashforth)) == "adams_bashforth"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "euler"}, "sampler must be one of ddim, .*, not 'euler'"),
        ({"spacing": "even"}, "spacing must be one of time, .*, searched, not 'even'"),
        ({"eta": 2.0}, r"eta must be in \[0, 1\], not 2.0"),
        ({"method": "heun", "eta": 0.5}, "eta is an option of the sampler ddim, not of heun"),
    ],
)
def test_mistakes_in_the_object_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        Sampler(**arguments)


def test_the_names_of_the_previous_release_still_work_and_warn(model):
    with pytest.warns(DeprecationWarning, match="give generate a sampler="):
        process = deprecated.reverse_process(model, "adams_bashforth", "rho", order=2)
    with pytest.warns(DeprecationWarning, match="use sampler="):
        images = model.generate(2, 3, seed=0, reverse_process=process)
    sampler = Sampler(functools.partial(adams_bashforth, order=2), "rho")
    np.testing.assert_array_equal(images, model.generate(2, 3, seed=0, sampler=sampler))


# diffusers.


def diffusers_scheduler(name, **options):
    diffusers = pytest.importorskip("diffusers")
    return getattr(diffusers, name)(beta_schedule="squaredcos_cap_v2", **options)


def run_diffusers(scheduler, signal_rates, **step_options):
    """Runs the steps of a scheduler; returns the noisy images of each, and the last images."""
    torch = pytest.importorskip("torch")

    images = torch.tensor(standard_normal(8))
    trajectory = [images.numpy()]
    for step, time in enumerate(scheduler.timesteps):
        signal = np.full((8, 1, 1, 1), signal_rates[step])
        noise = np.sqrt(1 - signal**2)
        pred_images = mixture(images.numpy(), noise, signal)
        pred_noises = torch.tensor((images.numpy() - signal * pred_images) / noise)
        options = {key: values[step] for key, values in step_options.items()}
        images = scheduler.step(pred_noises, time, images, **options).prev_sample
        trajectory.append(images.numpy())
    return np.stack(trajectory)


def run_ours(sampler, signal_rates, **options):
    trajectory = []
    images = sampler(
        denoiser(mixture),
        standard_normal(8),
        signal_rates,
        callback=lambda _, noisy_images, __: trajectory.append(ops.convert_to_numpy(noisy_images)),
        **options,
    )
    return np.stack([*trajectory, ops.convert_to_numpy(images)])


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim_takes_the_steps_of_diffusers(steps, eta):
    torch = pytest.importorskip("torch")

    scheduler = diffusers_scheduler("DDIMScheduler", clip_sample=False)
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    signal_rates = [*np.sqrt(scheduler.alphas_cumprod.numpy()[scheduler.timesteps]), 1.0]

    generator = keras.random.SeedGenerator(3)
    noises = [
        torch.tensor(
            ops.convert_to_numpy(keras.random.normal((8, 1, 1, 2), dtype="float64", seed=seed))
        )
        for seed in [generator] * steps
    ]
    theirs = run_diffusers(scheduler, signal_rates, eta=[eta] * steps, variance_noise=noises)
    ours = run_ours(ddim, signal_rates, eta=eta, seed=3)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize(
    ("sampler", "name", "options"),
    [
        (SAMPLERS["dpm_solver"], "DPMSolverMultistepScheduler", {}),
        (SAMPLERS["dpm_solver"], "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        (functools.partial(adams_bashforth, order=2), "DEISMultistepScheduler", {}),
    ],
    ids=["dpm_solver", "dpm_solver, rho", "adams_bashforth"],
)
def test_multistep_takes_the_steps_of_diffusers(sampler, name, options, steps):
    scheduler = diffusers_scheduler(name, solver_order=2, **options)
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    scheduler.sigmas = scheduler.sigmas.double()
    signal_rates = 1 / np.sqrt(1 + scheduler.sigmas.numpy() ** 2)
    theirs = run_diffusers(scheduler, signal_rates)
    ours = run_ours(sampler, signal_rates)
    np.testing.assert_allclose(ours, theirs, atol=5e-6)  # theirs are computed in float32


# The values of diffusers' own tests (tests/schedulers), with the "model" and the "images" there:
# the prediction at step t is t / (t + 1) of the noisy images, which are numbers from 0 to 1.


def published_loop(sampler, steps, final_step=None, prediction="noise", clip=False, **options):
    """Runs a sampler over steps of the 1000 linear betas; returns the magnitudes of the result.

    Args:
        steps: where the model is called, from noise to image; 0 is the first of 1000.
        final_step: where the result is taken from; None: the clean images.
        clip: whether predicted images are clipped to [-1, 1], and the predicted noises are not.
    """
    alpha_bars = alpha_bars_of(linear_betas())[1:]
    calls = iter(steps)

    def denoise(noisy_images, noise_rates, signal_rates):
        step = next(calls)
        np.testing.assert_allclose(
            ops.convert_to_numpy(signal_rates)[0, 0, 0, 0], np.sqrt(alpha_bars[step]), rtol=1e-6
        )
        output = noisy_images * (step / (step + 1))
        if prediction == "velocity":
            pred_noises = noise_rates * noisy_images + signal_rates * output
            pred_images = signal_rates * noisy_images - noise_rates * output
        else:
            pred_noises = output
            pred_images = (noisy_images - noise_rates * output) / signal_rates
        return pred_noises, ops.clip(pred_images, -1.0, 1.0) if clip else pred_images

    size = 4 * 3 * 8 * 8
    images = np.arange(size, dtype="float32").reshape(3, 8, 8, 4).transpose(3, 1, 2, 0) / size
    final = 1.0 if final_step is None else np.sqrt(alpha_bars[final_step])
    signal_rates = [*np.sqrt(alpha_bars[list(steps)]), final]
    result = sampler(denoise, ops.convert_to_tensor(images), signal_rates, **options)
    return np.abs(ops.convert_to_numpy(result))


@pytest.mark.parametrize(("prediction", "total"), [("noise", 172.0067), ("velocity", 52.5302)])
def test_published_value_of_ddim(prediction, total):
    result = published_loop(ddim, range(900, -1, -100), prediction=prediction, clip=True)
    assert result.sum() == pytest.approx(total, abs=1e-2)


@pytest.mark.parametrize(
    ("sampler", "prediction", "mean"),
    [
        (SAMPLERS["dpm_solver"], "noise", 0.3301),
        (SAMPLERS["dpm_solver"], "velocity", 0.2251),
        (functools.partial(adams_bashforth, order=2), "noise", 0.2392),
        (functools.partial(adams_bashforth, order=2), "velocity", 0.091),
    ],
    ids=["dpm_solver", "dpm_solver, velocity", "deis", "deis, velocity"],
)
def test_published_values_of_multistep_samplers(monkeypatch, sampler, prediction, mean):
    if sampler is SAMPLERS["dpm_solver"]:  # there, at few steps, too, the last is of order 2
        monkeypatch.setattr("ddim_keras.samplers.STEPS_FOR_HIGH_ORDER_END", 0)
    steps = np.linspace(0, 999, 11).round().astype(int)[:0:-1]
    result = published_loop(sampler, steps, final_step=0, prediction=prediction)
    assert result.mean() == pytest.approx(mean, abs=1e-3)


def test_published_value_of_ancestral_sampling(monkeypatch):
    torch = pytest.importorskip("torch")
    generator = torch.manual_seed(0)

    def normal(shape, dtype, seed):  # theirs have the channels first
        noises = torch.randn((shape[0], shape[3], *shape[1:3]), generator=generator)
        return ops.convert_to_tensor(noises.numpy().transpose(0, 2, 3, 1))

    monkeypatch.setattr(keras.random, "normal", normal)
    result = published_loop(ddim, range(999, -1, -1), eta=1.0, clip_range=(-1.0, 1.0))
    assert result.sum() == pytest.approx(258.9606, abs=1e-2)
