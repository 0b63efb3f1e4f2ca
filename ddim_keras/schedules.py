"""Diffusion schedules: how much of a noisy image is signal and how much is noise.

A schedule maps diffusion times in [0, 1] (0: clean, 1: noise) to the two rates of
`noisy_images = signal_rates * images + noise_rates * noises`. In the symbols of DDIM (Song et al.
2020, https://arxiv.org/abs/2010.02502) the signal rate is sqrt(alpha_t) and the noise rate
sqrt(1 - alpha_t); DDPM writes alpha-bar for that alpha. Their squares sum to 1, so images of unit
variance stay at unit variance.
"""

import math
from typing import Any

from keras import ops


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
