"""Langevin dynamics: the score of noisy images, and a corrector for any single-step sampler.

A noise prediction gives the score, the gradient of the log-density of noisy images: denoising score
matching (Vincent 2011; Song and Ermon 2019, https://arxiv.org/abs/1907.05600). Small steps along
the score, each with fresh noise, sample that density at one noise level. As "correctors" they
reduce the errors of a sampler between two of its steps: Song et al. 2021
(https://arxiv.org/abs/2011.13456, section 4.2 and algorithms 4 and 5).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from ddim_keras.config import InputError
from ddim_keras.samplers import Sampler, as_generator, ddim
from ddim_keras.types import Callback, Denoise, Tensor


def score(pred_noises: Tensor, noise_rates: Tensor) -> Tensor:
    """Gradient of the log-density of noisy images, from the predicted noises: - noise / rate."""
    return -pred_noises / noise_rates


def langevin_steps(
    denoise: Denoise,
    noisy_images: Tensor,
    signal_rate: float,
    num_steps: int,
    *,
    step_ratio: float = 0.16,
    seed: int | keras.random.SeedGenerator | None = None,
) -> Tensor:
    """Unadjusted Langevin dynamics at one noise level (Song et al. 2021, algorithm 5).

    `images + size * score + sqrt(2 * size) * noise` with the size 2 (step_ratio * noise_rate)**2.
    This is the paper's size for predicted noises of unit variance, independent of the batch, and
    without its factor alpha, which is near 1. Takes one network call per step.

    Args:
        noisy_images: (B, H, W, C) of this level.
        signal_rate: in (0, 1).
        num_steps: number of steps; with more, the density is closer to the model's at this level,
            and depends less on the starting images.
        step_ratio: r of the paper: half the ratio of the step's noise to the noise in the images.
            Steps of finite size sample a slightly wider density.
        seed: seed of the noises; a generator draws different noise in each call.
    """
    if not 0 < signal_rate < 1:
        raise InputError(f"Langevin steps need a signal rate between 0 and 1, not {signal_rate}")
    if not 0 < step_ratio < 0.5:
        raise InputError(f"step_ratio must be between 0 and 0.5, not {step_ratio}")
    noisy_images = ops.convert_to_tensor(noisy_images)
    shape, dtype = ops.shape(noisy_images), noisy_images.dtype
    generator = as_generator(seed)
    noise_rate = ((1 - signal_rate) * (1 + signal_rate)) ** 0.5
    noise_rates, signal_rates = (
        ops.full((shape[0], 1, 1, 1), rate, dtype=dtype) for rate in (noise_rate, signal_rate)
    )
    size = 2 * (step_ratio * noise_rate) ** 2
    for _ in range(num_steps):
        pred_noises, _ = denoise(noisy_images, noise_rates, signal_rates)
        fresh_noises = keras.random.normal(shape, dtype=dtype, seed=generator)
        noisy_images = noisy_images + size * score(pred_noises, noise_rates)
        noisy_images = noisy_images + (2 * size) ** 0.5 * fresh_noises
    return noisy_images


def langevin_corrected(
    sampler: Sampler | str | Callable[..., Tensor] = ddim,
    corrections: int = 1,
    *,
    step_ratio: float = 0.16,
    seed: int | keras.random.SeedGenerator | None = None,
) -> Callable[..., Tensor]:
    """A sampler with Langevin steps after each of its own (predictor-corrector).

    None follow the step to signal rate 1, after which there is no noise.

        model.generate(8, 20, sampler=Sampler(langevin_corrected(ddim, corrections=2)))

    Args:
        sampler: of single steps, `ddim` or `heun`. Samplers that remember earlier steps start anew
            after each correction, and are no better than `ddim`. A `Sampler` may have an `eta`;
            its other options belong to the one that the result is given to.
        corrections: Langevin steps, and network calls, for each step of the sampler.
        step_ratio: as for `langevin_steps`.
        seed: seed of the noises, those of an `eta` included. Each call of the result draws other
            noises. They do not depend on the seed given to `DiffusionModel.generate`.

    Returns:
        A function with the signature of `samplers`.
    """
    if corrections < 0:
        raise InputError(f"corrections must be at least 0, not {corrections}")
    chosen = Sampler.of(sampler)
    if chosen != Sampler(chosen.method, eta=chosen.eta):
        raise InputError(
            "of the sampler to correct only eta is used; give spacing, last_signal_rate and clip "
            "to Sampler(langevin_corrected(...))"
        )
    generator = as_generator(seed)
    fresh = {"seed": generator} if chosen.eta else {}

    def corrected(
        denoise: Denoise,
        initial_noise: Tensor,
        signal_rates: Sequence[float],
        *,
        clip_range: tuple[Tensor, Tensor] | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Tensor:
        images = initial_noise
        for step, (rate, next_rate) in enumerate(itertools.pairwise(signal_rates)):

            def call_back(
                _: int, noisy_images: Tensor, pred_images: Tensor, at: int = step
            ) -> None:
                if callback is not None:
                    callback(at, noisy_images, pred_images)

            images = chosen(
                denoise,
                images,
                [rate, next_rate],
                clip_range=clip_range,
                callback=call_back,
                **(fresh | options),
            )
            if next_rate < 1:
                images = langevin_steps(
                    denoise,
                    images,
                    float(next_rate),
                    corrections,
                    step_ratio=step_ratio,
                    seed=generator,
                )
        return images

    corrected.__name__ = f"{chosen} with {corrections} Langevin steps"
    return corrected
