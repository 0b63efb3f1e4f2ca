"""Single images: read, cropped to their centre square, and resized."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ddim_keras.config import InputError
from ddim_keras.foreign import first_line

# An image of this size takes 200 MB when decoded; photographs are smaller.
MOST_PIXELS = 2**26
# Half of Pillow's own limit, so that this limit applies first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def crop_and_resize(image: np.ndarray, image_size: int) -> np.ndarray:
    """Crops to the centre square and resizes it with antialiasing.

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
        InputError: if there is no file, or it is not an image.
    """
    pixels = _readable(path)
    return crop_and_resize(_grey(pixels) if channels == 1 else pixels, image_size)


def load_mask(path: Path, image: Path, image_size: int) -> np.ndarray:
    """Reads a mask for an image file, cropped and resized like the image by `load_image`.

    Args:
        path: an image file with the proportions of `image`, at any resolution.

    Returns:
        (image_size, image_size, 1) float32, 0 for black to 1 for white. A pixel is 0 only if all
        its merged pixels are black, to the precision of a byte. Otherwise it is the mean of the
        non-black ones: the edge of a black and white mask stays sharp, inside the black area.

    Raises:
        InputError: if there is no file, it is not an image, or has other proportions than `image`.
    """
    grey = _grey(_readable(path))
    (height, width), (image_height, image_width, _) = grey.shape, _readable(image).shape
    if abs(height * image_width - width * image_height) > 0.01 * height * image_width:
        raise InputError(
            f"the mask {path} has {width} x {height} pixels, but {image} has "
            f"{image_width} x {image_height}; give both the same shape"
        )
    values = crop_and_resize(grey, image_size).astype("float32")
    shares = crop_and_resize(np.where(grey > 0, 255, 0).astype("uint8"), image_size)
    return np.clip(values / np.maximum(shares, 1), 0, 1)


def _readable(path: Path) -> np.ndarray:
    """Reads an image file: (H, W, 3) uint8."""
    if not path.is_file():
        raise InputError(f"there is no image file {path}")
    try:
        return read_image(path)
    except Exception as error:  # Pillow's readers raise a dozen kinds for damaged files
        raise InputError(f"{path} cannot be read as an image: {first_line(error)}") from error


def _grey(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def _opened(file: Path) -> Image.Image:
    """Opens an image file of reasonable size without decoding it."""
    try:
        image = Image.open(file)
        if image.width * image.height <= MOST_PIXELS:
            return image
        image.close()
    except Image.DecompressionBombError:
        pass
    raise ValueError(f"more than {MOST_PIXELS / 1e6:.0f} megapixels; make it smaller")


def read_image(file: Path) -> np.ndarray:
    """Reads an image file, upright: (H, W, 3) uint8; raises Pillow's errors unchanged."""
    with _opened(file) as image:
        if image.mode == "F" or image.mode.startswith("I"):
            raise ValueError("more than 8 bits a channel")  # Pillow would clip them
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
