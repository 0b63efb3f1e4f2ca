"""Diffusion schedules: how much of a noisy image is signal and how much is noise.

A schedule maps diffusion times in [0, 1] (0: clean, 1: noise) to the two rates of
`noisy_images = signal_rates * images + noise_rates * noises`. In the symbols of DDIM (Song et al.
2020, https://arxiv.org/abs/2010.02502) the signal rate is sqrt(alpha_t) and the noise rate
sqrt(1 - alpha_t); DDPM writes alpha-bar for that alpha. Their squares sum to 1, so images of unit
variance stay at unit variance.

Each schedule is a frozen object with its limits. It is called with a tensor of times of any shape,
and returns `noise_rates, signal_rates` of that shape. With `numpy` as the second argument it takes
an array and computes in double precision.
"""

import math
from dataclasses import dataclass
from typing import Any

import keras

from ddim_keras.config import ModelConfig
from ddim_keras.types import Tensor

# Earlier times are clamped to this one by schedules that start without noise: a prediction of the
# noise divides by the noise rate, which would be 0 at time 0.
EARLIEST_TIME = 1e-5


class Schedule:
    """Base class of all schedules."""

    def __call__(self, diffusion_times: Tensor, ops: Any = keras.ops) -> tuple[Tensor, Tensor]:
        """`noise_rates, signal_rates` at these times."""
        raise NotImplementedError

    def between(self, max_signal_rate: float, min_signal_rate: float) -> "Schedule":
        """This schedule with other limits; a schedule with fixed limits is returned unchanged."""
        return self


@dataclass(frozen=True)
class OffsetCosine(Schedule):
    """Cosine schedule between two signal rates: the angle of (signal, noise) grows linearly.

    The cosine schedule of Nichol and Dhariwal 2021 (https://arxiv.org/abs/2102.09672, equation 17)
    with its offsets given as signal rates. Starting below 1 omits noise that is too weak to see;
    ending above 0 bounds `pred_images`, which are divided by the signal rate.

    Args:
        max_signal_rate: signal rate at time 0, in (0, 1].
        min_signal_rate: signal rate at time 1, in (0, max_signal_rate).
    """

    max_signal_rate: float = 0.95
    min_signal_rate: float = 0.02

    def __call__(self, diffusion_times: Tensor, ops: Any = keras.ops) -> tuple[Tensor, Tensor]:
        start_angle = math.acos(self.max_signal_rate)
        end_angle = math.acos(self.min_signal_rate)
        diffusion_angles = start_angle + diffusion_times * (end_angle - start_angle)
        return ops.sin(diffusion_angles), ops.cos(diffusion_angles)

    def between(self, max_signal_rate: float, min_signal_rate: float) -> Schedule:
        return OffsetCosine(max_signal_rate, min_signal_rate)


@dataclass(frozen=True)
class Linear(Schedule):
    """Noise added at a rate beta that grows linearly: DDPM in continuous time.

    The variance preserving process of Song et al. 2021 (https://arxiv.org/abs/2011.13456,
    equation 33), the limit of `ddpm.linear_betas` for many steps. With 1000 steps, the noise
    variances differ by 10 % after the first step, and by less after each later one. The signal rate
    starts at 1, up to `EARLIEST_TIME`, and ends at 0.0066.

    Args:
        smallest_beta, largest_beta: variance of the added noise per unit of time, at times 0 and 1.
    """

    smallest_beta: float = 0.1
    largest_beta: float = 20.0

    def __call__(self, diffusion_times: Tensor, ops: Any = keras.ops) -> tuple[Tensor, Tensor]:
        times = ops.clip(diffusion_times, EARLIEST_TIME, 1.0)
        beta_growth = self.largest_beta - self.smallest_beta
        added_noise = times * self.smallest_beta + times**2 * beta_growth / 2
        # expm1 keeps the digits that 1 - exp would lose at low noise.
        return ops.sqrt(-ops.expm1(-added_noise)), ops.exp(-added_noise / 2)


@dataclass(frozen=True)
class Cosine(Schedule):
    """The cosine schedule as published (Nichol and Dhariwal 2021, equation 17).

    `signal_rate = cos(angle) / cos(first angle)` starts at 1, up to `EARLIEST_TIME`. It would end
    at 0, where the noise says nothing about the image, so it is limited to `min_signal_rate`.
    (Clipping the betas of `ddpm.cosine_betas` limits it too, to 4.9e-5 with 1000 steps.)

    Args:
        offset: the time by which the cosine starts late, so that noise grows from the start.
        min_signal_rate: smallest signal rate, in (0, 1); reached at time 0.9994.
    """

    offset: float = 0.008
    min_signal_rate: float = 0.001

    def __call__(self, diffusion_times: Tensor, ops: Any = keras.ops) -> tuple[Tensor, Tensor]:
        first_angle = math.pi / 2 * self.offset / (1 + self.offset)
        largest_turn = math.acos(self.min_signal_rate * math.cos(first_angle)) - first_angle
        turns = math.pi / 2 / (1 + self.offset) * ops.clip(diffusion_times, EARLIEST_TIME, 1.0)
        turns = ops.minimum(turns, largest_turn)
        # 1 - signal_rate**2, written as a product that keeps its digits at low noise.
        noise_variances = ops.sin(turns) * ops.sin(turns + 2 * first_angle)
        cosine_of_first = math.cos(first_angle)
        return (
            ops.sqrt(noise_variances) / cosine_of_first,
            ops.cos(turns + first_angle) / cosine_of_first,
        )


@dataclass(frozen=True)
class UpTo(Schedule):
    """The part of another schedule up to `latest_time`, which becomes time 1."""

    schedule: Schedule
    latest_time: float

    def __call__(self, diffusion_times: Any, ops: Any = keras.ops) -> tuple[Any, Any]:
        return self.schedule(self.latest_time * diffusion_times, ops)


# Keyed by the names in `config.SCHEDULES`.
SCHEDULES: dict[str, Schedule] = {
    "offset_cosine": OffsetCosine(),
    "linear": Linear(),
    "cosine": Cosine(),
}


def schedule_of(config: ModelConfig) -> Schedule:
    """The schedule of a model, with its limits."""
    return SCHEDULES[config.schedule].between(config.max_signal_rate, config.min_signal_rate)


def offset_cosine(
    diffusion_times: Tensor, max_signal_rate: float = 0.95, min_signal_rate: float = 0.02
) -> tuple[Tensor, Tensor]:
    """`noise_rates, signal_rates` of the assignment's schedule; see `OffsetCosine`."""
    return OffsetCosine(max_signal_rate, min_signal_rate)(diffusion_times)
