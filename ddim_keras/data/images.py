"""Single images: read, cropped to their centre square, and resized."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ddim_keras.config import InputError


def crop_and_resize(image: np.ndarray, image_size: int) -> np.ndarray:
    """Crops to the centre square and resizes it, averaging over all merged pixels.

    Args:
        image: (H, W) or (H, W, C) uint8; an alpha channel is dropped.

    Returns:
        (image_size, image_size, C) uint8.
    """
    image = image[..., None] if image.ndim == 2 else image[..., :3]
    height, width, channels = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[top : top + side, left : left + side]
    if side != image_size:
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        # Pillow widens the bilinear kernel when it shrinks an image: no aliasing.
        picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
        image = np.asarray(picture).reshape(image_size, image_size, channels)
    return image


def load_image(path: Path, image_size: int, channels: int = 3) -> np.ndarray:
    """Reads an image file, cropped and resized: (image_size, image_size, channels) uint8.

    Raises:
        InputError: where there is no file, or it is no image.
    """
    if not path.is_file():
        raise InputError(f"there is no image file {path}")
    try:
        pixels = read_image(path)
    except Exception as error:  # Pillow's readers raise a dozen kinds for damaged files
        raise InputError(f"{path} cannot be read as an image: {first_line(error)}") from error
    if channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    return crop_and_resize(pixels, image_size)


def read_image(file: Path) -> np.ndarray:
    """Reads an image file, upright: (H, W, 3) uint8; Pillow's errors are raised as they come."""
    with Image.open(file) as image:
        if image.mode == "F" or image.mode.startswith("I"):
            raise ValueError("more than 8 bits a channel")  # Pillow would clip them
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def first_line(error: Exception) -> str:
    """First line of another library's error, short enough to be quoted in ours."""
    return f"{type(error).__name__}: {str(error).strip().split(chr(10))[0][:200]}"
