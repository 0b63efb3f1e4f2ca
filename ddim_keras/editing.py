"""What DDIM's fixed path between noise and image is good for: interpolating, encoding, filling in.

All of it works with any `denoise` and any deterministic sampler of `samplers`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from ddim_keras.config import InputError
from ddim_keras.samplers import Denoise, ddim


def interpolate(start: np.ndarray, end: np.ndarray, num_images: int) -> np.ndarray:
    """Noises on the great circle between two (Song et al. 2020, appendix D.5, equation 67).

    On a straight line they would lose length, and the images contrast: in high dimensions normal
    noise lies close to a sphere.

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
    if np.sin(angle) < 1e-6:  # one direction: there is no circle to follow
        return ((1 - fractions) * start + fractions * end).astype(start.dtype)
    weights = np.sin((1 - fractions) * angle), np.sin(fractions * angle)
    return ((weights[0] * start + weights[1] * end) / np.sin(angle)).astype(start.dtype)


def encode(
    denoise: Denoise,
    images: Any,
    signal_rates: Sequence[float],
    sampler: Callable[..., Any] = ddim,
) -> Any:
    """Follows the reverse process backwards, from images to the noises that lead to them.

    DDIM inversion (Song et al. 2020, section 4.3 and equation 14). The path starts at the last
    signal rate below 1, where the little noise of real noisy images is missing: that, and the
    error of the steps, which falls with the sampler's order, is what `decode` cannot undo.

    Args:
        images: (B, H, W, C), normalised.
        signal_rates: rising, as `schedules.sampling_signal_rates` makes them.
        sampler: a deterministic one.

    Returns:
        Noises (B, H, W, C) for `decode`.
    """
    rates = list(signal_rates[:-1])
    return sampler(denoise, rates[-1] * ops.convert_to_tensor(images), rates[::-1])


def decode(
    denoise: Denoise,
    noises: Any,
    signal_rates: Sequence[float],
    sampler: Callable[..., Any] = ddim,
) -> Any:
    """The inverse of `encode`, with the same arguments: noises to images, normalised."""
    rates = list(signal_rates[:-1])
    return sampler(denoise, noises, rates) / rates[-1]


def filled_in(denoise: Denoise, images: Any, mask: Any) -> Denoise:
    """A `denoise` that knows a part of the images, so that a sampler fills in the rest.

    Every predicted image is made to agree with what is known (DDNM, Wang et al. 2022,
    https://arxiv.org/abs/2212.00490, equation 13 for masks). Needs no training, and no more calls.

    Args:
        images: (B, H, W, C), normalised.
        mask: broadcastable to `images`: 1 where they are known, 0 where they are to be filled in.
    """
    images = ops.convert_to_tensor(images, dtype="float32")
    mask = ops.convert_to_tensor(mask, dtype="float32")

    def knowing(noisy_images: Any, noise_rates: Any, signal_rates: Any) -> tuple[Any, Any]:
        _, pred_images = denoise(noisy_images, noise_rates, signal_rates)
        pred_images = mask * images + (1.0 - mask) * pred_images
        return (noisy_images - signal_rates * pred_images) / noise_rates, pred_images

    return knowing
