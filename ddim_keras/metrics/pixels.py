"""Pixel statistics: colours, contrast and detail, to which feature distances are insensitive."""

import numpy as np


def pixel_statistics(images: np.ndarray) -> dict[str, float]:
    """Means over images of statistics that need no network, in units of the pixel range.

    `contrast` is the standard deviation over an image's pixels, per channel, `saturation` the
    difference between the largest and the smallest channel, and `detail` the root mean square
    difference of adjacent pixels. Blurred images lack detail; averaged predictions lack contrast.

    Args:
        images: (N, H, W, C), uint8 or float in [0, 1]; 1 or 3 channels.
    """
    pixels = images.astype("float32") / (255 if images.dtype == np.uint8 else 1)
    names = ("red", "green", "blue") if pixels.shape[3] == 3 else ("brightness",)
    differences = [np.diff(pixels, axis=axis) for axis in (1, 2)]
    squares = [np.mean(each**2, axis=(1, 2, 3)) for each in differences]
    return {
        **{name: float(pixels[..., channel].mean()) for channel, name in enumerate(names)},
        "contrast": float(pixels.std(axis=(1, 2)).mean()),
        "saturation": float(np.mean(pixels.max(axis=3) - pixels.min(axis=3))),
        "detail": float(np.mean(np.sqrt((squares[0] + squares[1]) / 2))),
    }
