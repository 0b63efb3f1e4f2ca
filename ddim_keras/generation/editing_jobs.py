"""Editing jobs of generate.py: inpainting, image to image, and encoding of given images.

Images are uint8, (H, W, C), of the model's size; results are float32 in [0, 1].
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from ddim_keras.editing import add_noise, decode, encode, inpaint
from ddim_keras.guidance import Guidance
from ddim_keras.samplers import Sampler, image_noises
from ddim_keras.types import Callback, Denoise, Tensor

# Encoding starts at this signal rate at most, whatever the model's schedule: with less noise, more
# of its steps would be spent on invisible details.
LARGEST_ENCODED_RATE = 0.98


def encoded_signal_rate(model: Any) -> float:
    """The signal rate at which encoding starts: the largest that the network was trained with."""
    _, signal_rate = model.schedule(0.0, np)
    return min(float(signal_rate), LARGEST_ENCODED_RATE)


def denoiser(
    model: Any, labels: np.ndarray, guidance: Guidance, callback: Callback | None = None
) -> Denoise:
    """The model's denoiser for images of these classes; -1 is any class.

    Args:
        callback: called as `callback(call, noisy_images, pred_images)` in each call.
    """
    denoise = guidance(model.compiled_denoise, labels if model.num_classes else None)
    if callback is None:
        return denoise
    calls = itertools.count()

    def watched(noisy_images: Tensor, *rates: Tensor) -> tuple[Tensor, Tensor]:
        pred_noises, pred_images = denoise(noisy_images, *rates)
        callback(next(calls), noisy_images, pred_images)
        return pred_noises, pred_images

    return watched


def inpainted(
    model: Any,
    image: np.ndarray,
    mask: np.ndarray,
    labels: np.ndarray,
    *,
    signal_rates: Sequence[float],
    resample: int,
    guidance: Guidance,
    seed: int,
    batch_size: int,
    clip: bool = False,
    callback: Callback | None = None,
) -> np.ndarray:
    """Fills in an image, once for each label; see `editing.inpaint`.

    Result i depends on the seed and i only, not on the batch size or the backend.

    Args:
        image: (H, W, C), uint8.
        mask: (H, W, 1) in [0, 1]: 0 where the image is known, and returned exactly.
        labels: (N,), the class of each result, -1 for any.

    Returns:
        (N, H, W, C), in [0, 1].
    """
    num_batches = -(-len(labels) // batch_size)
    # Batches of one size, so that the denoiser is compiled once.
    batch_size = -(-len(labels) // num_batches)
    batches = np.resize(np.arange(len(labels)), (num_batches, batch_size))
    known_images = ops.convert_to_numpy(model.normalize(image))

    def fill_in(numbers: np.ndarray) -> np.ndarray:
        def draw_noises(step: int, repetition: int) -> list[np.ndarray]:
            return [
                image_noises(image.shape, seed, numbers, step, repetition, use) for use in range(3)
            ]

        filled = inpaint(
            denoiser(model, labels[numbers], guidance),
            known_images,
            mask,
            image_noises(image.shape, seed, numbers, 0),
            signal_rates,
            draw_noises,
            resample=resample,
            clip_range=model.pixel_range if clip else None,
            callback=callback,
        )
        return ops.convert_to_numpy(model.denormalize(filled))

    filled = np.concatenate([fill_in(numbers) for numbers in batches])[: len(labels)]
    return np.where(mask == 0, image / np.float32(255), filled)


def starting_points(
    model: Any, image: np.ndarray, num_images: int, seed: int, signal_rate: float
) -> np.ndarray:
    """Noisy versions of an image, from which `DiffusionModel.generate` redraws it.

    Image to image, SDEdit (Meng et al. 2021, https://arxiv.org/abs/2108.01073, algorithm 1): large
    features that survive the noise are kept, such as colours and composition; the rest is redrawn.

    Returns:
        (num_images, H, W, C), normalised, each with the noise that `generate` would start from.
    """
    noises = model.draw_noise(num_images, np.random.default_rng(seed))
    return ops.convert_to_numpy(add_noise(model.normalize(image), noises, signal_rate))


@dataclass(frozen=True)
class EncodedImages:
    """Images, the noises that encode them, and the decoded images.

    Attributes:
        images: (N, H, W, C), uint8.
        noises: (N, H, W, C), of standard deviation 1 if encoding succeeded.
        decoded: with the added noise subtracted: the images up to the discretisation error.
        predicted: the network's predicted images for the decoded noisy images; without the finest
            details, since the network does not know the added noise.
    """

    images: np.ndarray
    noises: np.ndarray
    decoded: np.ndarray
    predicted: np.ndarray

    def describe(self) -> list[str]:
        """A line for each image: its errors, and statistics of its noise."""

        def errors(reconstructed: np.ndarray) -> np.ndarray:
            differences = 255 * reconstructed - self.images
            return np.sqrt(np.mean(differences**2, axis=(1, 2, 3)))

        lines = []
        for noise, error, predicted_error in zip(
            self.noises, errors(self.decoded), errors(self.predicted), strict=True
        ):
            correlation = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
            lines.append(
                f"reconstruction error {error:.1f} of 255 (root mean square), of the predicted "
                f"image {predicted_error:.1f}; standard deviation of the noise {np.std(noise):.3f},"
                f" correlation of neighbours {correlation:.3f}"
            )
        return lines


def encoded(
    model: Any,
    denoise: Denoise,
    images: np.ndarray,
    sampler: Sampler,
    signal_rates: Sequence[float],
    seed: int,
) -> EncodedImages:
    """Encodes images (N, H, W, C) and decodes them again; see `editing.encode`."""
    added_noises = image_noises(images.shape[1:], seed, range(len(images)), 0)
    noises = encode(denoise, model.normalize(images), added_noises, signal_rates, sampler)
    decoded, predicted = (
        ops.convert_to_numpy(model.denormalize(decode(denoise, noises, signal_rates, sampler, add)))
        for add in (added_noises, None)
    )
    return EncodedImages(images, ops.convert_to_numpy(noises), decoded, predicted)
