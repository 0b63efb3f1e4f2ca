"""Schedules and spacings: rates of unit power, exact ends, inverses, and where the steps lie."""

import numpy as np
import pytest
from keras import ops

from ddim_keras.config import ModelConfig
from ddim_keras.schedules import (
    SCHEDULES,
    SPACINGS,
    linear,
    offset_cosine,
    sampling_signal_rates,
)

LIMITS = [(0.95, 0.02), (0.995, 0.01), (1.0, 0.1)]


def cosine_rates(times, *limits):
    noise_rates, signal_rates = offset_cosine(ops.convert_to_tensor(times, "float32"), *limits)
    return ops.convert_to_numpy(noise_rates), ops.convert_to_numpy(signal_rates)


def log_snr(signal_rates):
    signal_rates = np.asarray(signal_rates)
    return np.log(signal_rates**2 / (1 - signal_rates**2))


@pytest.mark.parametrize("limits", LIMITS)
def test_offset_cosine_has_unit_power_falls_and_ends_at_its_limits(limits):
    noise_rates, signal_rates = cosine_rates(np.linspace(0, 1, 101), *limits)
    np.testing.assert_allclose(noise_rates**2 + signal_rates**2, 1, atol=1e-6)
    np.testing.assert_allclose(signal_rates[[0, -1]], limits, atol=1e-6)
    assert np.all(np.diff(signal_rates) < 0)
    assert np.all(np.diff(noise_rates) > 0)


def test_offset_cosine_keeps_the_shape():
    noise_rates, signal_rates = cosine_rates(np.full((5, 1, 1, 1), 0.3))
    assert noise_rates.shape == signal_rates.shape == (5, 1, 1, 1)


@pytest.mark.parametrize(("name", "last"), [("linear", 0.00657), ("cosine", 0.001)])
def test_published_schedules_have_unit_power_fall_and_end_at_their_rates(name, last):
    times = np.linspace(0, 1, 101).reshape(-1, 1, 1, 1)
    rates = SCHEDULES[name](ops.convert_to_tensor(times, "float32"))
    noise_rates, signal_rates = map(ops.convert_to_numpy, rates)
    assert noise_rates.shape == signal_rates.shape == times.shape
    np.testing.assert_allclose(noise_rates**2 + signal_rates**2, 1, atol=1e-6)
    assert np.all(np.diff(signal_rates[:, 0, 0, 0]) < 0)
    assert 0 < noise_rates[0] < 0.0011  # next to nothing, yet it can be divided by
    assert signal_rates[-1] == pytest.approx(last, rel=1e-3)


def test_linear_adds_noise_at_a_rate_that_grows_linearly():
    """The variance preserving equation: d log(signal_rate**2) = -beta dt, summed up in steps."""
    betas = 0.1 + (np.arange(100_000) + 0.5) / 100_000 * (20 - 0.1)
    signal_variances = np.exp(-np.cumsum(betas) / 100_000)[999::1000]
    _, signal_rates = linear(ops.convert_to_tensor(np.arange(1, 101) / 100, "float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(signal_rates) ** 2, signal_variances, rtol=1e-4)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_small_noise_keeps_its_digits(name):
    """Where 1 - signal_rate**2, in float32, would lose all but a few."""
    time = 1e-4
    variance = {
        "linear": -np.expm1(-0.1 * time - 19.9 * time**2 / 2),
        "cosine": 1
        - (np.cos((time + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2,
    }[name]
    noise_rates, _ = SCHEDULES[name](ops.convert_to_tensor([time], "float32"))
    np.testing.assert_allclose(ops.convert_to_numpy(noise_rates), np.sqrt(variance), rtol=1e-5)


def test_models_can_be_configured_with_each_schedule():
    assert [ModelConfig(schedule=name).schedule for name in SCHEDULES] == list(SCHEDULES)


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
@pytest.mark.parametrize("limits", LIMITS)
def test_spacing_in_time_is_that_of_reverse_diffusion(steps, limits):
    _, expected = cosine_rates(1 - np.arange(steps) / steps, *limits)
    signal_rates = sampling_signal_rates(
        steps, max_signal_rate=limits[0], min_signal_rate=limits[1]
    )
    np.testing.assert_allclose(signal_rates, [*expected, 1], atol=1e-6)


@pytest.mark.parametrize("last_signal_rate", [None, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_spacings_share_their_ends_and_rise(spacing, last_signal_rate):
    signal_rates = sampling_signal_rates(7, spacing, last_signal_rate)
    assert len(signal_rates) == 8
    assert np.all(np.diff(signal_rates) > 0)
    assert all(type(rate) is float for rate in signal_rates)
    last = last_signal_rate or sampling_signal_rates(7)[-2]
    assert signal_rates[0] == pytest.approx(0.02)
    assert signal_rates[-1] == 1
    assert signal_rates[-2] == pytest.approx(last)


def test_each_spacing_is_uniform_in_what_it_says():
    def differences(spacing, function):
        signal_rates = np.array(sampling_signal_rates(9, spacing, 0.98)[:-1])
        return np.diff(function(signal_rates))

    def seventh_root_of_ratio(signal_rates):
        return (np.sqrt(1 - signal_rates**2) / signal_rates) ** (1 / 7)

    for spacing, function in [
        ("time", np.arccos),
        ("log_snr", log_snr),
        ("rho", seventh_root_of_ratio),
    ]:
        steps = differences(spacing, function)
        np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


def test_rho_spacing_is_the_published_one():
    # EDM's 18 steps on CIFAR-10: sigma from 80 to 0.002, https://arxiv.org/abs/2206.00364, table 1.
    sigmas = (80 ** (1 / 7) + np.arange(18) / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    first, last = 1 / np.hypot(1, sigmas[[0, -1]])
    signal_rates = sampling_signal_rates(18, "rho", last, min_signal_rate=first)
    np.testing.assert_allclose(signal_rates[:-1], 1 / np.hypot(1, sigmas), rtol=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_single_step_starts_at_the_smallest_signal_rate(spacing):
    np.testing.assert_allclose(sampling_signal_rates(1, spacing), [0.02, 1])


def test_signal_rates_that_a_search_found_are_taken_as_they_are():
    searched = {1: [0.02, 1.0], 2: [0.02, 0.7, 1.0]}
    assert sampling_signal_rates(2, searched) == searched[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 5, "spacing": "linear"}, "spacing must be one of time, log_snr, rho"),
        ({"steps": 5, "spacing": {3: [], 8: []}}, "for 3, 8 steps, not for 5; find them with"),
        ({"steps": 1, "spacing": {1: []}, "last_signal_rate": 0.9}, "have their own last one"),
        ({"steps": 5, "last_signal_rate": 1.0}, "last signal rate must be between"),
        ({"steps": 5, "last_signal_rate": 0.02}, "last signal rate must be between"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        sampling_signal_rates(**arguments)
