"""Checks of a model's arguments (images, labels, numbers), made before any graph is built."""

import numbers
from typing import Any

import numpy as np

from ddim_keras.config import InputError


def require_counts(**values: Any) -> None:
    """Raises InputError unless each is a whole number of at least 1."""
    for name, value in values.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")


def require_images(images: Any, channels: int, image_size: int | None = None) -> None:
    """Raises InputError unless these are one or more images of this shape.

    Args:
        images: an array; only its shape is checked.
        channels: number of channels of each image.
        image_size: height and width of each image; None: any.
    """
    expected = ("H", "W") if image_size is None else (image_size, image_size)
    shape = np.shape(images)
    fits = len(shape) == 4 and 0 not in shape and shape[3] == channels
    if not fits or (image_size is not None and shape[1:3] != expected):
        height, width = expected
        raise InputError(
            f"images must be one or more of shape (N, {height}, {width}, {channels}), not {shape}"
        )


def require_batch(images: Any) -> None:
    """Raises InputError unless this is a tensor of several images, as data sets have to yield."""
    shape = getattr(images, "shape", None)
    if shape is None:
        found = type(images).__name__
        raise InputError(f"data must consist of images, or of (images, labels), not of a {found}")
    if len(shape) != 4:
        raise InputError(
            f"images must come in batches of shape (B, H, W, C), not {tuple(shape)}; a data set of "
            "single images needs .batch(64)"
        )


def require_pixels(pixels: np.ndarray) -> None:
    """Raises InputError unless an array of images is uint8, or float in [0, 1]."""
    if pixels.dtype == np.uint8:
        return
    if pixels.dtype.kind != "f" or not 0 <= pixels.min() <= pixels.max() <= 1:
        raise InputError("images must be uint8, or float in [0, 1]")


def checked_labels(labels: Any, num_images: int, num_classes: int) -> np.ndarray:
    """Labels (num_images,) as an array; InputError unless each is a class, or -1 for any."""
    labels = np.asarray(labels)
    if labels.shape != (num_images,):
        raise InputError(
            f"{num_images} images need as many labels, in an array of shape ({num_images},), "
            f"not {labels.shape}"
        )
    is_whole = labels.dtype.kind in "iu"
    if not is_whole or not -1 <= labels.min() <= labels.max() < num_classes:
        found = f"from {labels.min()} to {labels.max()}" if is_whole else f"of type {labels.dtype}"
        if not num_classes:
            found += "; the model has no classes"
        raise InputError(f"labels must be whole numbers from -1 to {num_classes - 1}, not {found}")
    return labels


def checked_noise(noise: Any, num_images: int, shape: tuple[int, ...]) -> np.ndarray:
    """Initial noise (num_images, *shape) in float32; InputError unless it is that, and finite."""
    try:
        noise = np.asarray(noise, "float32")
    except (TypeError, ValueError):
        raise InputError("initial_noise must be an array of numbers") from None
    if noise.shape != (num_images, *shape) or not np.all(np.isfinite(noise)):
        raise InputError(
            f"initial_noise must be finite and of shape {(num_images, *shape)}; it has shape "
            f"{noise.shape}"
        )
    return noise
