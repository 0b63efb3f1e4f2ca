"""Diffusion schedules: how much of a noisy image is signal and how much is noise.

A schedule maps diffusion times in [0, 1] (0: clean, 1: noise) to the two rates of
`noisy_images = signal_rates * images + noise_rates * noises`. In the symbols of DDIM (Song et al.
2020, https://arxiv.org/abs/2010.02502) the signal rate is sqrt(alpha_t) and the noise rate
sqrt(1 - alpha_t); DDPM writes alpha-bar for that alpha. Their squares sum to 1, so images of unit
variance stay at unit variance.
"""

import math
from typing import Any

import numpy as np
from keras import ops

from ddim_keras.config import InputError


def offset_cosine(
    diffusion_times: Any, max_signal_rate: float = 0.95, min_signal_rate: float = 0.02
) -> tuple[Any, Any]:
    """Cosine schedule between two signal rates: the angle of (signal, noise) grows linearly.

    The cosine schedule of Nichol and Dhariwal 2021 (https://arxiv.org/abs/2102.09672, equation 17)
    with its offsets given as signal rates: starting below 1 spares the network noise that is too
    weak to see, ending above 0 keeps `pred_images`, which divides by the signal rate, bounded.

    Args:
        diffusion_times: tensor of any shape, in [0, 1].
        max_signal_rate: signal rate at time 0, in (0, 1].
        min_signal_rate: signal rate at time 1, in (0, max_signal_rate).

    Returns:
        `noise_rates` and `signal_rates`, each of the shape of `diffusion_times`.
    """
    start_angle = math.acos(max_signal_rate)
    end_angle = math.acos(min_signal_rate)
    diffusion_angles = start_angle + diffusion_times * (end_angle - start_angle)
    return ops.sin(diffusion_angles), ops.cos(diffusion_angles)


# Where the steps of a sampler lie: uniform in a function of the ratio noise_rate / signal_rate,
# given with its inverse.
SPACINGS = {
    # The angle of (signal, noise), and so the time of the cosine schedule.
    "time": (np.arctan, np.tan),
    # The logarithm of the signal-to-noise ratio.
    "log_snr": (np.log, np.exp),
    # Karras et al. 2022 (https://arxiv.org/abs/2206.00364, equation 5), with their rho of 7.
    "rho": (lambda ratios: ratios ** (1 / 7), lambda roots: roots**7),
}


def sampling_signal_rates(
    steps: int,
    spacing: str = "time",
    last_signal_rate: float | None = None,
    max_signal_rate: float = 0.95,
    min_signal_rate: float = 0.02,
) -> list[float]:
    """The signal rates of a reverse process: where the network is called, and 1 for the result.

    Args:
        steps: number of network calls, at least 1.
        spacing: "time", "log_snr" or "rho": that in which the signal rates are evenly spaced.
        last_signal_rate: the largest signal rate at which the network is called, in
            (min_signal_rate, 1). It bounds how fine the details are, since the result is the mean
            of all images that agree with the noisy image of this signal rate. By default that of
            the time 1 / steps in the schedule: with "time", the times 1, 1 - 1 / steps, ...,
            1 / steps of `DiffusionModel.reverse_diffusion`.
        max_signal_rate, min_signal_rate: as for `offset_cosine`; the first call is at the latter.

    Returns:
        steps + 1 rising numbers, from `min_signal_rate` to 1.
    """
    if spacing not in SPACINGS:
        raise InputError(f"spacing must be one of {', '.join(SPACINGS)}, not {spacing!r}")
    if steps < 1:
        raise InputError(f"steps must be at least 1, not {steps}")
    if last_signal_rate is None:
        start_angle, end_angle = math.acos(max_signal_rate), math.acos(min_signal_rate)
        last_signal_rate = math.cos(start_angle + (end_angle - start_angle) / steps)
    elif not min_signal_rate < last_signal_rate < 1:
        raise InputError(
            f"the last signal rate must be between {min_signal_rate} and 1, not {last_signal_rate}"
        )
    function, inverse = SPACINGS[spacing]
    first, last = (math.sqrt(1 - rate**2) / rate for rate in (min_signal_rate, last_signal_rate))
    ratios = inverse(np.linspace(function(first), function(last), steps))
    return [*(1 / np.sqrt(1 + ratios**2)).tolist(), 1.0]
