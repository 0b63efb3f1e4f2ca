"""Diffusion schedules: how much of a noisy image is signal and how much is noise.

A schedule maps diffusion times in [0, 1] (0: clean, 1: noise) to the two rates of
`noisy_images = signal_rates * images + noise_rates * noises`. In the symbols of DDIM (Song et al.
2020, https://arxiv.org/abs/2010.02502) the signal rate is sqrt(alpha_t) and the noise rate
sqrt(1 - alpha_t); DDPM writes alpha-bar for that alpha. Their squares sum to 1, so images of unit
variance stay at unit variance.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from ddim_keras.config import InputError

# Before it, schedules that start without noise stand still: a noise rate of 0 cannot be divided by.
EARLIEST_TIME = 1e-5


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


def linear(
    diffusion_times: Any, smallest_beta: float = 0.1, largest_beta: float = 20.0
) -> tuple[Any, Any]:
    """Noise that is added at a rate beta, which grows linearly: DDPM in continuous time.

    The variance preserving process of Song et al. 2021 (https://arxiv.org/abs/2011.13456,
    equation 33), to which `ddpm.linear_betas` leads as its steps shrink: of 1000 steps, the noise
    variance differs by 10 % after the first, and by less after each that follows. The signal rate
    ends at 0.0066, and starts at 1, except for `EARLIEST_TIME`.

    Args:
        diffusion_times: tensor of any shape, in [0, 1].
        smallest_beta, largest_beta: variance of the added noise per unit of time, at times 0 and 1.

    Returns:
        `noise_rates` and `signal_rates`, each of the shape of `diffusion_times`.
    """
    times = ops.clip(diffusion_times, EARLIEST_TIME, 1.0)
    added_noise = times * smallest_beta + times**2 * (largest_beta - smallest_beta) / 2
    # expm1 keeps the digits that 1 - exp would lose where there is little noise.
    return ops.sqrt(-ops.expm1(-added_noise)), ops.exp(-added_noise / 2)


def cosine(
    diffusion_times: Any, offset: float = 0.008, min_signal_rate: float = 0.001
) -> tuple[Any, Any]:
    """The cosine schedule as it was published (Nichol and Dhariwal 2021, equation 17).

    `signal_rate = cos(angle) / cos(first angle)` starts at 1, except for `EARLIEST_TIME`, and would
    end at 0, where a predicted noise says nothing of the image; it is held at `min_signal_rate`.
    (The clipped betas of `ddpm.cosine_betas` hold it as well: at 4.9e-5, with 1000 steps.)

    Args:
        diffusion_times: tensor of any shape, in [0, 1].
        offset: the time by which the cosine is begun late, so that noise grows from the start.
        min_signal_rate: smallest signal rate, in (0, 1); reached at time 0.9994.

    Returns:
        `noise_rates` and `signal_rates`, each of the shape of `diffusion_times`.
    """
    first_angle = math.pi / 2 * offset / (1 + offset)
    largest_turn = math.acos(min_signal_rate * math.cos(first_angle)) - first_angle
    turns = math.pi / 2 / (1 + offset) * ops.clip(diffusion_times, EARLIEST_TIME, 1.0)
    turns = ops.minimum(turns, largest_turn)
    # 1 - signal_rate**2, as a product, which keeps its digits where there is little noise.
    noise_variances = ops.sin(turns) * ops.sin(turns + 2 * first_angle)
    cosine_of_first = math.cos(first_angle)
    return (
        ops.sqrt(noise_variances) / cosine_of_first,
        ops.cos(turns + first_angle) / cosine_of_first,
    )


SCHEDULES = {"offset_cosine": offset_cosine, "linear": linear, "cosine": cosine}


# Where the steps of a sampler lie: uniform in a function of the ratio noise_rate / signal_rate,
# given with its inverse.
SPACINGS = {
    # The angle of (signal, noise), and so the time of the offset cosine schedule.
    "time": (np.arctan, np.tan),
    # The logarithm of the signal-to-noise ratio.
    "log_snr": (np.log, np.exp),
    # Karras et al. 2022 (https://arxiv.org/abs/2206.00364, equation 5), with their rho of 7.
    "rho": (lambda ratios: ratios ** (1 / 7), lambda roots: roots**7),
}


def sampling_signal_rates(
    steps: int,
    spacing: str | Mapping[int, Sequence[float]] = "time",
    last_signal_rate: float | None = None,
    max_signal_rate: float = 0.95,
    min_signal_rate: float = 0.02,
) -> list[float]:
    """The signal rates of a reverse process: where the network is called, and 1 for the result.

    Args:
        steps: number of network calls, at least 1.
        spacing: "time", "log_snr" or "rho": that in which the signal rates are evenly spaced. Or
            the signal rates themselves, for each number of steps, as `step_search` finds them.
        last_signal_rate: the largest signal rate at which the network is called, in
            (min_signal_rate, 1). It bounds how fine the details are, since the result is the mean
            of all images that agree with the noisy image of this signal rate. By default that of
            the time 1 / steps in the schedule: with "time", the times 1, 1 - 1 / steps, ...,
            1 / steps of `DiffusionModel.reverse_diffusion`.
        max_signal_rate, min_signal_rate: as for `offset_cosine`; the first call is at the latter.

    Returns:
        steps + 1 rising numbers, from `min_signal_rate` to 1.
    """
    if steps < 1:
        raise InputError(f"steps must be at least 1, not {steps}")
    if isinstance(spacing, Mapping):
        if steps not in spacing:
            raise InputError(
                f"there are searched signal rates for {', '.join(map(str, spacing))} steps, not "
                f"for {steps}; find them with: python evaluate.py --search-steps {steps}"
            )
        if last_signal_rate is not None:
            raise InputError("searched signal rates have their own last one; leave yours away")
        return list(spacing[steps])
    if spacing not in SPACINGS:
        raise InputError(
            f"spacing must be one of {', '.join(SPACINGS)}, or the signal rates that a search "
            f"found, not {spacing!r}"
        )
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
