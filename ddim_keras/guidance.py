"""Guidance: class-conditional generation, and a stronger pull towards the class.

A wrapper around `denoise`, so that every sampler has it.
"""

from collections.abc import Callable
from typing import Any

from keras import ops


def guided(denoise: Callable[..., Any], labels: Any, guidance: float = 0.0) -> Callable[..., Any]:
    """Classifier-free guidance (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, eq. 6).

    `(1 + guidance) * conditional - guidance * unconditional` prediction, of noises and of images
    alike. Costs one network call, twice as large with guidance: the two predictions are made in
    one batch.

    Args:
        denoise: `denoise(noisy_images, noise_rates, signal_rates, labels=...)`, such as
            `DiffusionModel.compiled_denoise`.
        labels: (B,) integers, -1 for any class.
        guidance: strength. 0 is the conditional prediction, -1 the unconditional one; 0.5 to 3
            make images more typical of their class, and less varied.

    Returns:
        A function `denoise(noisy_images, noise_rates, signal_rates)`.
    """
    labels = ops.convert_to_tensor(labels, dtype="int32")

    def conditional(noisy_images: Any, noise_rates: Any, signal_rates: Any) -> tuple[Any, Any]:
        return denoise(noisy_images, noise_rates, signal_rates, labels=labels)

    def extrapolated(*inputs: Any) -> tuple[Any, Any]:
        twice = (ops.concatenate([values, values]) for values in inputs)
        both_labels = ops.concatenate([labels, ops.full_like(labels, -1)])
        predictions = []
        for both in denoise(*twice, labels=both_labels):
            with_class, without_class = ops.split(both, 2)
            predictions.append((1.0 + guidance) * with_class - guidance * without_class)
        return tuple(predictions)

    return extrapolated if guidance else conditional
