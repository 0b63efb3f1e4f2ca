"""Kernel Inception Distance: how far generated images are from real ones, in feature space.

Binkowski et al. 2018, "Demystifying MMD GANs" (https://arxiv.org/abs/1801.01401). The squared
maximum mean discrepancy between two sets of features, with a cubic polynomial kernel, in its
unbiased form: 0 is expected, and slightly negative values occur, when both sets come from one
distribution. Small is good. Values compare only under one protocol: the encoder, the image size
that it sees, and the steps of the sampler; the batch size changes the noise, not the mean.
"""

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from ddim_keras.config import InputError

ENCODER_IMAGE_SIZE = 75  # pixels, the smallest that Inception v3 takes


@dataclass(frozen=True)
class Encoder:
    """Maps images to feature vectors; `name` and the feature count name the protocol."""

    name: str
    network: keras.Model  # (B, 75, 75, 3) in [-1, 1] -> (B, D)

    @property
    def description(self) -> str:
        """What the features are, such as "Keras InceptionV3, 2048"."""
        return f"{self.name}, {self.network.output_shape[-1]}"

    @property
    def protocol(self) -> str:
        """For every KID and its axis, such as "KID, Keras InceptionV3, 2048"."""
        return f"KID, {self.description}"

    def features(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Encodes images, uint8 or float in [0, 1], of 1 or 3 channels: (N, H, W, C) -> (N, D)."""
        features = []
        for start in range(0, len(images), batch_size):
            batch = np.asarray(images[start : start + batch_size])
            pixels = batch.astype("float32") / (255 if batch.dtype == np.uint8 else 1)
            pixels = np.broadcast_to(pixels, (*pixels.shape[:-1], 3))  # grey to RGB
            pixels = 2.0 * resize_bilinear(pixels, ENCODER_IMAGE_SIZE) - 1.0
            features.append(self.network.predict_on_batch(pixels))
        return np.concatenate(features).astype("float64")


def inception_encoder(weights: str | Path | None = None) -> Encoder:
    """Builds the encoder of the KID.

    Args:
        weights: by default Keras's ImageNet weights of InceptionV3, downloaded once: 2048 features,
            the protocol of the Keras DDIM example. Or a `.weights.h5` file of the network up to
            its layer `mixed7`: 768 features, such as those of the Inception that FID is defined on.

    Raises:
        InputError: if the weights cannot be downloaded or read.
    """
    source = "imagenet" if weights is None else None
    if weights is not None and not Path(weights).is_file():
        raise InputError(f"there is no file {weights} of encoder weights")
    # Features are measured in full precision, whatever the model is trained in.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        backbone = keras.applications.InceptionV3(
            include_top=False,
            weights=source,
            input_shape=(ENCODER_IMAGE_SIZE, ENCODER_IMAGE_SIZE, 3),
        )
        last_layer = "mixed10" if weights is None else "mixed7"
        features = keras.layers.GlobalAveragePooling2D()(backbone.get_layer(last_layer).output)
        network = keras.Model(backbone.input, features)
        if weights is not None:
            network.load_weights(weights)
    except Exception as error:  # Keras raises bare Exception for a failed download
        if weights is None:
            message = "Keras's InceptionV3 weights cannot be downloaded; pass --kid-weights FILE"
        else:
            message = f"{weights} does not hold InceptionV3 up to mixed7 in Keras's .weights.h5"
        raise InputError(message) from error
    finally:
        keras.config.set_dtype_policy(policy)
    return Encoder("Keras InceptionV3" if weights is None else "FID Inception", network)


def resize_bilinear(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes (N, H, W, C) images to (N, size, size, C) by two matrix products.

    The same on every backend, unlike their own resize operations. For enlarging: where it shrinks,
    pixels between the samples are skipped.
    """
    rows = _interpolation_matrix(images.shape[1], size)
    columns = _interpolation_matrix(images.shape[2], size)
    return np.einsum("yh,xw,nhwc->nyxc", rows, columns, images, optimize=True)


def _interpolation_matrix(size_from: int, size_to: int) -> np.ndarray:
    """(size_to, size_from) weights of linear interpolation between pixel centres."""
    centres = (np.arange(size_to) + 0.5) * size_from / size_to - 0.5
    centres = np.clip(centres, 0, size_from - 1)
    distances = np.abs(centres[:, None] - np.arange(size_from)[None, :])
    return np.maximum(0.0, 1.0 - distances).astype("float32")


def squared_mmd(real_features: np.ndarray, generated_features: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018, section 3).

    Args:
        real_features, generated_features: (N, D) and (M, D), with N and M at least 2.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    def mean_without_diagonal(matrix: np.ndarray) -> float:
        # An image compared with itself would bias the mean.
        count = len(matrix)
        return (matrix.sum() - np.trace(matrix)) / (count * (count - 1))

    return (
        mean_without_diagonal(kernel(real_features, real_features))
        + mean_without_diagonal(kernel(generated_features, generated_features))
        - 2.0 * kernel(real_features, generated_features).mean()
    )


@dataclass(frozen=True)
class Distance:
    """A KID, and the standard error of its mean over batches."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.standard_error:.4f}"


class KernelInceptionDistance:
    """KID between fixed real images and any generated ones, as a mean over batches.

    Args:
        encoder: of both sets; the real images are encoded once, here.
        real_images: (N, H, W, C), uint8 or float in [0, 1]; N at least `batch_size`.
        batch_size: images of each set in one estimate; 64 in the Keras example.
    """

    def __init__(self, encoder: Encoder, real_images: np.ndarray, batch_size: int = 64) -> None:
        if not 2 <= batch_size <= len(real_images):
            raise InputError(
                f"KID needs at least one batch of {batch_size} real images, not {len(real_images)}"
            )
        self.encoder = encoder
        self.batch_size = batch_size
        self.real_features = encoder.features(real_images)

    def __call__(self, generated_images: np.ndarray) -> Distance:
        """Compares batch i of the generated images with batch i of the real ones.

        Where more are generated than there are real images, these are used again; images beyond
        the last full batch are left out.
        """
        return self.of_features(self.encoder.features(generated_images))

    def of_features(self, generated: np.ndarray) -> Distance:
        """The same for images (N, D) that the encoder has seen already."""
        num_batches = len(generated) // self.batch_size
        num_real_batches = len(self.real_features) // self.batch_size
        if num_batches < 1:
            raise InputError(
                f"KID needs at least {self.batch_size} generated images, not {len(generated)}"
            )
        distances = []
        for batch in range(num_batches):
            real_start = batch % num_real_batches * self.batch_size
            start = batch * self.batch_size
            distances.append(
                squared_mmd(
                    self.real_features[real_start : real_start + self.batch_size],
                    generated[start : start + self.batch_size],
                )
            )
        spread = np.std(distances, ddof=1) if num_batches > 1 else np.nan
        return Distance(float(np.mean(distances)), float(spread / np.sqrt(num_batches)))
