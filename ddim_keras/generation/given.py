"""Given images: the images to edit, read and checked before the model is loaded."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddim_keras.cli.generate import GenerateOptions
from ddim_keras.config import InputError, NetworkConfig
from ddim_keras.data.images import load_image, load_mask


@dataclass(frozen=True)
class GivenImages:
    """Images of the model's size, and a mask for the first.

    Attributes:
        images: (N, H, W, C), uint8.
        mask: (H, W, 1) in [0, 1], 1 where the image is to be filled in.
    """

    images: np.ndarray
    mask: np.ndarray | None = None

    @classmethod
    def read(cls, paths: Iterable[Path], network: NetworkConfig) -> "GivenImages":
        """Reads image files, cropped and resized to the size of the network."""
        size, channels = network.image_size, network.channels
        return cls(np.stack([load_image(path, size, channels) for path in paths]))

    def shown(self) -> np.ndarray:
        """The first image with its masked part in grey: (H, W, C) uint8."""
        if self.mask is None:
            return self.images[0]
        hidden = (1 - self.mask) * self.images[0] + self.mask * 128
        return np.round(hidden).astype("uint8")


def read_given(options: GenerateOptions, network: NetworkConfig) -> GivenImages | None:
    """Reads the images to edit, and the mask."""
    if not options.inpaint:
        return GivenImages.read(options.inputs, network) if options.inputs else None
    image, mask = options.inpaint
    weights = load_mask(mask, image, network.image_size)
    if not weights.any():
        raise InputError(f"the mask {mask} is black; paint the part to fill in white")
    return GivenImages(GivenImages.read([image], network).images, weights)
