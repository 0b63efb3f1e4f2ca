"""Encoders: the networks whose features the metrics compare.

Inception v3 (Szegedy et al. 2015, https://arxiv.org/abs/1512.00567), trained on ImageNet, as in the
Keras DDIM example; and an included compact network, for machines without Inception's weights.
Distances measured with different encoders are not comparable.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers
from PIL import Image

from ddim_keras.arguments import require_images
from ddim_keras.config import InputError
from ddim_keras.runs import hdf5

INCEPTION_IMAGE_SIZE = 75  # pixels, the smallest input of Inception v3
FID_LAYER = "mixed7"  # pytorch-fid's `--dims 768`; FID's Inception equals Keras's up to mixed9
COMPACT_IMAGE_SIZE = 64  # pixels
COMPACT_FEATURES = 768  # as many as Inception has at mixed7
COMPACT_CONVOLUTIONS = ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (160, 2), (160, 1))
COMPACT_WEIGHTS = Path(__file__).parents[1] / "pretrained" / "compact_encoder.weights.h5"


@dataclass(frozen=True)
class Encoder:
    """Maps images to feature vectors; `name` and the number of features identify the protocol."""

    name: str
    network: keras.Model  # (B, S, S, 3) in [-1, 1] -> (B, D)

    @property
    def image_size(self) -> int:
        """S, in pixels; images of other sizes are resized to it."""
        return self.network.input_shape[1]

    @property
    def description(self) -> str:
        """Name of the features, such as "Keras InceptionV3, 2048"."""
        return f"{self.name}, {self.network.output_shape[-1]}"

    def features(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Encodes images, uint8 or float in [0, 1], of 1 or 3 channels: (N, H, W, C) -> (N, D).

        Raises:
            InputError: if there are no images, or they have another range or shape.
        """
        require_images(images, channels=1 if np.shape(images)[-1:] == (1,) else 3)
        features = []
        for start in range(0, len(images), batch_size):
            batch = np.asarray(images[start : start + batch_size])
            # NaN passes: a training that diverges is stopped by its loss.
            if batch.dtype != np.uint8 and (
                batch.dtype.kind != "f" or batch.min() < 0 or batch.max() > 1
            ):
                raise InputError("images must be uint8, or float in [0, 1]")
            pixels = batch.astype("float32") / (255 if batch.dtype == np.uint8 else 1)
            pixels = np.broadcast_to(pixels, (*pixels.shape[:-1], 3))  # grey to RGB
            pixels = 2.0 * resize_bilinear(pixels, self.image_size) - 1.0
            features.append(self.network.predict_on_batch(pixels))
        return np.concatenate(features).astype("float64")


def choose_encoder(weights: str | None = None) -> Encoder:
    """The encoder chosen by `--kid-weights`.

    Args:
        weights: a file for `inception_encoder`, or "compact" for `compact_encoder`. By default
            Inception is downloaded; if that fails, the compact encoder is used, with a message.
    """
    if weights == "compact":
        return compact_encoder()
    try:
        return inception_encoder(weights)
    except InputError as error:
        if weights:
            raise
        print(f"{error}; measuring with the compact encoder instead", flush=True)
        return compact_encoder()


def inception_encoder(weights: str | Path | None = None) -> Encoder:
    """Builds the encoder of the KID.

    Args:
        weights: by default Keras's ImageNet weights of InceptionV3, downloaded once: 2048 features,
            the protocol of the Keras DDIM example. Or a `.weights.h5` file of the network up to
            its layer `mixed7`, 768 features, such as FID's Inception converted by
            `ddim_keras.metrics.convert_inception`.

    Raises:
        InputError: if the weights cannot be downloaded or read.
    """
    source = "imagenet" if weights is None else None
    if weights is not None and not Path(weights).is_file():
        raise InputError(f"there is no file {weights} of encoder weights")
    try:
        network = inception_network(source, "mixed10" if weights is None else FID_LAYER)
        if weights is not None:
            with hdf5.opened(Path(weights)):
                network.load_weights(weights)
    except InputError:
        raise
    except Exception as error:  # Keras raises bare Exception for a failed download
        if weights is None:
            message = "Keras's InceptionV3 weights cannot be downloaded; --kid-weights takes a file"
        else:
            message = f"{weights} does not hold InceptionV3 up to mixed7 in Keras's .weights.h5"
        raise InputError(message) from error
    return Encoder("Keras InceptionV3" if weights is None else "FID Inception", network)


def inception_network(weights: str | None, last_layer: str) -> keras.Model:
    """Inception v3 up to a layer, pooled: (B, 75, 75, 3) in [-1, 1] -> (B, D).

    Args:
        weights: "imagenet", or None for random ones.
        last_layer: "mixed0" to "mixed10", as Keras names the blocks.
    """
    with _full_precision():
        backbone = keras.applications.InceptionV3(
            include_top=False,
            weights=weights,
            input_shape=(INCEPTION_IMAGE_SIZE, INCEPTION_IMAGE_SIZE, 3),
        )
        features = layers.GlobalAveragePooling2D()(backbone.get_layer(last_layer).output)
        return keras.Model(backbone.input, features)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """A context in which networks are built in float32, whatever the training precision."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def compact_encoder() -> Encoder:
    """Builds the included encoder, 768 features of 64 px.

    `benchmarks/quality/compact_encoder.py` trained it to classify the species of Oxford Flowers,
    and to match the features of FID's Inception for sharp and degraded images.
    `benchmarks/quality/compare_encoders.py` measures how well it ranks models.
    """
    with _full_precision():
        network = compact_network()
    network.load_weights(COMPACT_WEIGHTS)
    return Encoder("compact flower encoder", network)


def compact_network() -> keras.Model:
    """The network of the compact encoder: (B, 64, 64, 3) in [-1, 1] -> (B, 768).

    With batch norm, since normalising single images would hide their noise and contrast.
    """
    pixels = keras.Input((COMPACT_IMAGE_SIZE, COMPACT_IMAGE_SIZE, 3))
    x = pixels
    for width, stride in COMPACT_CONVOLUTIONS:
        x = layers.Conv2D(width, kernel_size=3, strides=stride, padding="same", use_bias=False)(x)
        x = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.Conv2D(COMPACT_FEATURES, kernel_size=1, activation="relu")(x)
    return keras.Model(pixels, layers.GlobalAveragePooling2D(dtype="float32")(x))


def resize_bilinear(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes (N, H, W, C) float32 images to (N, size, size, C) with Pillow.

    The same on every backend, unlike the backends' resize operations. When it shrinks an image, the
    triangle kernel widens to cover all pixels.
    """
    resized = np.empty((len(images), size, size, images.shape[-1]), "float32")
    for image, target in zip(images, resized, strict=True):
        for channel in range(images.shape[-1]):  # Pillow's images of floats have one
            picture = Image.fromarray(image[..., channel])
            target[..., channel] = picture.resize((size, size), Image.Resampling.BILINEAR)
    return resized
