"""Schedules: rates of unit power, exact ends, and digits kept where there is little noise."""

import numpy as np
import pytest
from keras import ops

from ddim_keras import config
from ddim_keras.config import ModelConfig
from ddim_keras.schedules import SCHEDULES, Linear, OffsetCosine, UpTo, offset_cosine

LIMITS = [(0.95, 0.02), (0.995, 0.01), (1.0, 0.1)]


def cosine_rates(times, *limits):
    noise_rates, signal_rates = offset_cosine(ops.convert_to_tensor(times, "float32"), *limits)
    return ops.convert_to_numpy(noise_rates), ops.convert_to_numpy(signal_rates)


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
    _, signal_rates = Linear()(ops.convert_to_tensor(np.arange(1, 101) / 100, "float32"))
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
    assert tuple(SCHEDULES) == config.SCHEDULES
    assert [ModelConfig(schedule=name).schedule for name in SCHEDULES] == list(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_double_precision_agrees(name):
    times = np.linspace(0, 1, 11)
    tensors = SCHEDULES[name](ops.convert_to_tensor(times, "float32"))
    for tensor, array in zip(tensors, SCHEDULES[name](times, np), strict=True):
        assert array.dtype == "float64"
        np.testing.assert_allclose(ops.convert_to_numpy(tensor), array, rtol=1e-5, atol=1e-6)


def test_a_part_of_a_schedule_ends_where_it_says():
    times = np.array([0.0, 0.5, 1.0])
    part = UpTo(Linear(), 0.6)(times, np)
    np.testing.assert_allclose(part, Linear()(0.6 * times, np))


def test_only_the_offset_cosine_has_limits_to_choose():
    limits = (0.9, 0.1)
    assert SCHEDULES["offset_cosine"].between(*limits) == OffsetCosine(*limits)
    assert SCHEDULES["linear"].between(*limits) == Linear()
