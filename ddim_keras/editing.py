"""Editing with a trained denoiser: interpolation, encoding, inpainting.

No further training is needed. All functions take any `denoise`; all except `inpaint`, which is
stochastic, work with any deterministic sampler of `samplers`.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from keras import ops

from ddim_keras.config import InputError
from ddim_keras.samplers import ddim
from ddim_keras.types import Callback, Denoise, Tensor


def interpolate(start: np.ndarray, end: np.ndarray, num_images: int) -> np.ndarray:
    """Spherical interpolation between two noises (Song et al. 2020, appendix D.5, equation 67).

    In high dimensions, normal noise lies close to a sphere. Linear interpolation would shorten the
    noises, and the images would lose contrast.

    Args:
        start, end: (H, W, C), standard normal.
        num_images: at least 2.

    Returns:
        (num_images, H, W, C), from `start` to `end`.
    """
    if num_images < 2:
        raise InputError(f"an interpolation needs 2 images or more, not {num_images}")
    cosine = np.sum(start * end) / (np.linalg.norm(start) * np.linalg.norm(end))
    angle = np.arccos(np.clip(cosine, -1, 1))
    fractions = np.linspace(0, 1, num_images).reshape(-1, 1, 1, 1)
    if np.sin(angle) < 1e-6:  # parallel noises: there is no arc between them
        return ((1 - fractions) * start + fractions * end).astype(start.dtype)
    weights = np.sin((1 - fractions) * angle), np.sin(fractions * angle)
    return ((weights[0] * start + weights[1] * end) / np.sin(angle)).astype(start.dtype)


def add_noise(images: Tensor, noises: Tensor, signal_rate: float) -> Tensor:
    """`signal_rate * images + noise_rate * noises`; the squared rates sum to 1."""
    images, noises = (ops.convert_to_tensor(each, dtype="float32") for each in (images, noises))
    return signal_rate * images + _noise_rate(signal_rate) * noises


def remove_noise(noisy_images: Tensor, noises: Tensor, signal_rate: float) -> Tensor:
    """The inverse of `add_noise`."""
    noises = ops.convert_to_tensor(noises, dtype=noisy_images.dtype)
    return (noisy_images - _noise_rate(signal_rate) * noises) / signal_rate


def _noise_rate(signal_rate: float) -> float:
    return math.sqrt((1.0 - signal_rate) * (1.0 + signal_rate))


def encode(
    denoise: Denoise,
    images: Tensor,
    added_noises: Tensor,
    signal_rates: Sequence[float],
    sampler: Callable[..., Tensor] = ddim,
) -> Tensor:
    """Runs the sampler backwards, from images to the noises that lead to them.

    DDIM inversion (Song et al. 2020, section 4.3 and equation 14). The path starts at the last
    signal rate below 1, where the network expects noisy images. So noise is added first, and is
    part of the code: without it, the result is a faint copy of the image instead of noise. `decode`
    reverses this up to the discretisation error, which falls with the number of steps and the
    sampler's order.

    Args:
        images: (B, H, W, C), normalised.
        added_noises: (B, H, W, C), standard normal.
        signal_rates: rising to 1, as from `spacing.sampling_signal_rates`.
        sampler: a deterministic sampler.

    Returns:
        Noises (B, H, W, C) for `decode`.
    """
    rates = list(signal_rates[:-1])
    return sampler(denoise, add_noise(images, added_noises, rates[-1]), rates[::-1])


def decode(
    denoise: Denoise,
    noises: Tensor,
    signal_rates: Sequence[float],
    sampler: Callable[..., Tensor] = ddim,
    added_noises: Tensor | None = None,
) -> Tensor:
    """The inverse of `encode`, with the same signal rates and sampler.

    Args:
        added_noises: the noises added by `encode`, subtracted at the end to return the encoded
            images, up to the discretisation error. None: returns the images that the network
            predicts; for noises that do not encode an image, such as interpolated ones.

    Returns:
        Images (B, H, W, C), normalised.
    """
    if added_noises is None:
        return sampler(denoise, noises, signal_rates)
    rates = list(signal_rates[:-1])
    return remove_noise(sampler(denoise, noises, rates), added_noises, rates[-1])


def inpaint(
    denoise: Denoise,
    images: Tensor,
    mask: Tensor,
    initial_noise: Tensor,
    signal_rates: Sequence[float],
    draw_noises: Callable[[int, int], Tensor],
    *,
    resample: int = 5,
    clip_range: tuple[Tensor, Tensor] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Fills in masked parts of images by resampling (RePaint).

    Lugmayr et al. 2022, https://arxiv.org/abs/2201.09865, algorithm 1. After each step of ancestral
    sampling, the known pixels are replaced by noisy pixels of the image. The filled-in pixels do
    not match them yet, so the step is undone, by adding noise, and repeated. Takes `resample`
    network calls per step, and one in the last step.

    The mask may be grey: a pixel counts as known while the share of remaining steps exceeds its
    value, so that lighter mask pixels change more (Levin and Fried 2023,
    https://arxiv.org/abs/2306.00950).

    The network predicts a seamless image, but slightly smoother and with other colours than the
    known pixels, which replace its pixels at the end. To hide the difference at the border, it is
    added to the filled-in pixels, fading inwards; see `membrane`.

    Args:
        images: (B, H, W, C), normalised.
        mask: broadcastable to `images`, in [0, 1]: 0 for known pixels, which are returned
            unchanged, 1 for pixels to fill in.
        initial_noise: (B, H, W, C), standard normal.
        signal_rates: rising to 1.
        draw_noises: called as `draw_noises(step, repetition)`, returns three standard normal noises
            of the shape of `images`: for the unknown pixels, for the known ones, and for undoing
            the step.
        resample: repetitions of each step except the last, at least 1.
        clip_range: as for `samplers.ddim`.
        callback: called as `callback(call, noisy_images, pred_images)` in each network call.

    Returns:
        Images (B, H, W, C), normalised.
    """
    if resample < 1:
        raise InputError(f"resample must be at least 1, not {resample}")
    images = ops.convert_to_tensor(images, dtype="float32")
    noisy_images = ops.convert_to_tensor(initial_noise, dtype="float32")
    calls = itertools.count()
    steps = len(signal_rates) - 1
    for step, (rate, next_rate) in enumerate(itertools.pairwise(signal_rates)):
        known = ops.convert_to_tensor(np.asarray(mask) < 1 - step / steps)
        repetitions = resample if step < steps - 1 else 1
        for repetition in range(repetitions):
            unknown_noises, known_noises, noises_back = draw_noises(step, repetition)
            noisy_images = ddim(
                denoise,
                noisy_images,
                (rate, next_rate),
                clip_range=clip_range,
                callback=_numbered(callback, next(calls)),
                eta=1.0,
                fresh_noises=[unknown_noises],
            )
            known_images = add_noise(images, known_noises, next_rate)
            if step == steps - 1:
                noisy_images += membrane(known_images - noisy_images, known)
            noisy_images = ops.where(known, known_images, noisy_images)
            if repetition < repetitions - 1:
                noisy_images = add_noise(noisy_images, noises_back, rate / next_rate)
    return noisy_images


MEMBRANE_ITERATIONS = 30


def membrane(differences: Tensor, known: Tensor) -> Tensor:
    """Spreads differences from known pixels smoothly over nearby pixels, like a membrane.

    Seamless cloning (Perez et al. 2003, "Poisson image editing", section 3): the Laplace equation,
    here with a fixed number of Jacobi iterations from 0, which reach about 5 pixels.

    Args:
        differences: (B, H, W, C).
        known: booleans, broadcastable to `differences`.

    Returns:
        (B, H, W, C): `differences` at known pixels, fading away from them.
    """
    differences = ops.where(known, differences, 0.0)
    spread = differences
    for _ in range(MEMBRANE_ITERATIONS):
        padded = ops.pad(spread, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
        rows = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1]
        columns = padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
        spread = ops.where(known, differences, (rows + columns) / 4)
    return spread


def _numbered(callback: Callback | None, call: int) -> Callback | None:
    """A callback for a single-step sampler that reports the number of the call."""
    if callback is None:
        return None
    return lambda _, noisy_images, pred_images: callback(call, noisy_images, pred_images)
