"""Spacing: the signal rates at which a sampler calls the network.

A spacing is a name in SPACINGS, for rates uniform in a function of the noise-to-signal ratio, or
the rates themselves for each number of steps, as found by `step_search`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ddim_keras.config import InputError
from ddim_keras.schedules import OffsetCosine, Schedule

Spacing = str | Mapping[int, Sequence[float]]

# Each function of noise_rate / signal_rate with its inverse.
Function = Callable[[np.ndarray], np.ndarray]
SPACINGS: dict[str, tuple[Function, Function]] = {
    # The angle of (signal, noise), and so the time of the offset cosine schedule.
    "time": (np.arctan, np.tan),
    # The logarithm of the signal-to-noise ratio.
    "log_snr": (np.log, np.exp),
    # Karras et al. 2022 (https://arxiv.org/abs/2206.00364, equation 5), with their rho of 7.
    "rho": (lambda ratios: ratios ** (1 / 7), lambda roots: roots**7),
}
LAB_SCHEDULE = OffsetCosine()


def sampling_signal_rates(
    steps: int,
    spacing: Spacing = "time",
    last_signal_rate: float | None = None,
    schedule: Schedule = LAB_SCHEDULE,
) -> list[float]:
    """The signal rates at which a sampler calls the network, and 1 for the result.

    Args:
        steps: number of network calls, at least 1.
        spacing: a name in SPACINGS, or a mapping from the number of steps to its signal rates.
        last_signal_rate: the largest signal rate at which the network is called, between the first
            rate and 1. It limits the finest details, since the result is the mean of all images
            that agree with the noisy image at this rate. By default the schedule's rate at time
            1 / steps: with "time", the calls are at the times 1, 1 - 1 / steps, ..., 1 / steps of
            `DiffusionModel.reverse_diffusion`.
        schedule: the schedule whose time 1 is the first call.

    Returns:
        steps + 1 rising numbers, the last of them 1.

    Raises:
        InputError: for invalid arguments.
    """
    if steps < 1:
        raise InputError(f"steps must be at least 1, not {steps}")
    if isinstance(spacing, Mapping):
        return _given_rates(steps, spacing, last_signal_rate)
    if spacing not in SPACINGS:
        raise InputError(
            f"spacing must be one of {', '.join(SPACINGS)}, or the signal rates that a search "
            f"found, not {spacing!r}"
        )
    noise_rates, signal_rates = schedule(1.0 - np.arange(steps) / steps, np)
    ratios = noise_rates / signal_rates
    if spacing != "time" or last_signal_rate is not None:
        first, last = ratios[0], ratios[-1]
        if last_signal_rate is not None:
            if not signal_rates[0] + 1e-9 < last_signal_rate < 1:
                raise InputError(
                    f"the last signal rate must be between {signal_rates[0]:.4g} and 1, "
                    f"not {last_signal_rate}"
                )
            last = np.sqrt(1 - last_signal_rate**2) / last_signal_rate
        function, inverse = SPACINGS[spacing]
        ratios = inverse(np.linspace(function(first), function(last), steps))
    return [*(1 / np.hypot(1, ratios)).tolist(), 1.0]


def _given_rates(
    steps: int, rates: Mapping[int, Sequence[float]], last_signal_rate: float | None
) -> list[float]:
    if steps not in rates:
        known = f"have been searched for {', '.join(map(str, rates))} steps only"
        raise InputError(
            f"signal rates {known if rates else 'have not been searched for this model'}; search "
            f"them with: python evaluate.py --search-steps {steps}"
        )
    if last_signal_rate is not None:
        raise InputError("last_signal_rate cannot be combined with searched steps")
    return list(rates[steps])
