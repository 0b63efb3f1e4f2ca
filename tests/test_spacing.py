"""Spacings: exact ends, inverses, and where the steps are."""

import numpy as np
import pytest
from keras import ops

from ddim_keras.schedules import OffsetCosine, offset_cosine
from ddim_keras.spacing import SPACINGS, sampling_signal_rates

LIMITS = [(0.95, 0.02), (0.995, 0.01), (1.0, 0.1)]


def log_snr(signal_rates):
    signal_rates = np.asarray(signal_rates)
    return np.log(signal_rates**2 / (1 - signal_rates**2))


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
@pytest.mark.parametrize("limits", LIMITS)
def test_spacing_in_time_is_that_of_reverse_diffusion(steps, limits):
    times = ops.convert_to_tensor(1 - np.arange(steps) / steps, "float32")
    _, expected = map(ops.convert_to_numpy, offset_cosine(times, *limits))
    signal_rates = sampling_signal_rates(steps, schedule=OffsetCosine(*limits))
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
    signal_rates = sampling_signal_rates(18, "rho", last, OffsetCosine(0.95, first))
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
        (
            {"steps": 5, "spacing": {3: [], 8: []}},
            "for 3, 8 steps only; .* --search-steps 5",
        ),
        (
            {"steps": 1, "spacing": {1: []}, "last_signal_rate": 0.9},
            "cannot be combined with searched",
        ),
        ({"steps": 5, "last_signal_rate": 1.0}, "last signal rate must be between"),
        ({"steps": 5, "last_signal_rate": 0.02}, "last signal rate must be between"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        sampling_signal_rates(**arguments)
