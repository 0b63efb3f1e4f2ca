"""Residual U-Net that predicts the noise from a noisy image and its noise variance.

U-Net: Ronneberger et al. 2015 (https://arxiv.org/abs/1505.04597). Residual blocks: He et al. 2015
(https://arxiv.org/abs/1512.03385). Diffusion with a residual U-Net: Ho et al. 2020
(https://arxiv.org/abs/2006.11239). Adaptive group norm and attention at low resolution: Dhariwal
and Nichol 2021 (https://arxiv.org/abs/2105.05233).
"""

import math
from typing import Any

import keras
from keras import layers, ops

from ddim_keras.backends.devices import are_replicas
from ddim_keras.config import NetworkConfig
from ddim_keras.types import Tensor

GROUPS = 8  # of the group norm
FINE_WIDTH = 24  # channels of the last, full-resolution block after patches


@keras.saving.register_keras_serializable(package="ddim_keras")
class SinusoidalEmbedding(layers.Layer):
    """Sines and cosines of a scalar at geometrically spaced frequencies.

    Lets a network resolve small differences of the noise variance, as the position encoding of
    Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762, section 3.5) does for positions.
    Computed in float32 under every dtype policy: 1000 periods do not fit into half precision.

    Args:
        dims: length of the embedding, even; half are sines, half cosines.
        min_frequency, max_frequency: in periods per unit of the input.

    Call: (..., 1) -> (..., dims), values in [-1, 1].
    """

    def __init__(
        self,
        dims: int = 32,
        min_frequency: float = 1.0,
        max_frequency: float = 1000.0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if dims < 2 or dims % 2:
            raise ValueError(f"dims must be even and at least 2, not {dims}")
        self.dims = dims
        self.min_frequency = min_frequency
        self.max_frequency = max_frequency

    def call(self, inputs: Tensor) -> Tensor:
        frequencies = ops.exp(
            ops.linspace(math.log(self.min_frequency), math.log(self.max_frequency), self.dims // 2)
        )
        angles = 2.0 * math.pi * ops.cast(frequencies, "float32") * inputs
        return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:-1], self.dims)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "dims": self.dims,
            "min_frequency": self.min_frequency,
            "max_frequency": self.max_frequency,
        }


@keras.saving.register_keras_serializable(package="ddim_keras")
class GroupNorm(layers.Layer):
    """Group norm, then a scale and shift of each channel, learned or given as inputs.

    Wu and He 2018 (https://arxiv.org/abs/1803.08494, equation 1). Like Keras's
    `GroupNormalization`, with only one multiplication and one addition per feature, which speeds up
    training on a CPU. Statistics are computed in float32 under every dtype policy.

    Args:
        groups: number of groups; the channels of each share a mean and a variance.
        learned: whether the layer learns its scale and shift.

    Call: features (B, H, W, C) and, unless learned, scale and shift (B, 1, 1, C) -> (B, H, W, C).
    """

    def __init__(self, groups: int = GROUPS, learned: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.groups = groups
        self.learned = learned

    def build(self, input_shape: tuple, *_: tuple) -> None:
        if self.learned:
            channels = (input_shape[-1],)
            self.scale = self.add_weight(shape=channels, initializer="ones", name="scale")
            self.shift = self.add_weight(shape=channels, initializer="zeros", name="shift")

    def call(self, features: Tensor, scale: Tensor = None, shift: Tensor = None) -> Tensor:
        channels = features.shape[-1]
        if self.learned:
            scale, shift = self.scale, self.shift
        scale, shift = (ops.cast(ops.reshape(x, (-1, channels)), "float32") for x in (scale, shift))
        precise = ops.cast(features, "float32")
        means = self.over_groups(ops.mean(precise, axis=(1, 2)))
        variances = self.over_groups(ops.mean(ops.square(precise), axis=(1, 2))) - means**2
        scale = scale * ops.rsqrt(ops.maximum(variances, 0.0) + 1e-3)
        shift = shift - scale * means
        scale, shift = (ops.cast(x, features.dtype)[:, None, None] for x in (scale, shift))
        return features * scale + shift

    def over_groups(self, means: Tensor) -> Tensor:
        """Replaces each channel's mean by its group's mean: (B, C) -> (B, C)."""
        channels_of_group = means.shape[-1] // self.groups
        groups = ops.mean(ops.reshape(means, (-1, self.groups, channels_of_group)), axis=-1)
        return ops.repeat(groups, channels_of_group, axis=-1)

    def compute_output_shape(self, input_shape: tuple, *_: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "groups": self.groups, "learned": self.learned}


@keras.saving.register_keras_serializable(package="ddim_keras")
class PatchesToPixels(layers.Layer):
    """Maps the features of each patch linearly to features of its pixels.

    Equals a transposed convolution whose kernel size is its stride, with the same weights, but is
    computed as a matrix product, which is fast on every backend and in ONNX runtimes.

    Args:
        features: number of features per pixel.
        patch_size: height and width of a patch in pixels.

    Call: (B, H, W, C) -> (B, H * patch_size, W * patch_size, features).
    """

    def __init__(self, features: int, patch_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = features
        self.patch_size = patch_size

    def build(self, input_shape: tuple) -> None:
        kernel_shape = (self.patch_size, self.patch_size, self.features, input_shape[-1])
        self.kernel = self.add_weight(shape=kernel_shape, name="kernel")
        self.bias = self.add_weight(shape=(self.features,), initializer="zeros", name="bias")

    def call(self, patches: Tensor) -> Tensor:
        _, height, width, channels = patches.shape
        size = self.patch_size
        pixels = ops.matmul(patches, ops.transpose(ops.reshape(self.kernel, (-1, channels))))
        pixels = ops.reshape(pixels, (-1, height, width, size, size, self.features))
        pixels = ops.transpose(pixels, (0, 1, 3, 2, 4, 5))  # rows of pixels, then their columns
        return ops.reshape(pixels, (-1, height * size, width * size, self.features)) + self.bias

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, _ = input_shape
        return batch, height * self.patch_size, width * self.patch_size, self.features

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "features": self.features,
            "patch_size": self.patch_size,
        }


@keras.saving.register_keras_serializable(package="ddim_keras")
class SeededDropout(layers.Dropout):
    """Dropout from the layer's own seed; under PyTorch, Keras's layer uses the global seed."""

    def call(self, features: Tensor, training: bool = False) -> Tensor:
        if not training:
            return features
        draws = keras.random.uniform(ops.shape(features), seed=self.seed_generator)
        return ops.where(draws < self.rate, 0.0, features / (1.0 - self.rate))


def residual_unet(
    config: NetworkConfig, outputs_per_channel: int = 1, name: str = "network"
) -> keras.Model:
    """Builds the network.

    Inputs: `noisy_images` (B, H, W, C) of about unit variance, `noise_variances` (B, 1, 1, 1)
    in [0, 1] and, if there are classes, `labels` (B,) in [0, num_classes], where num_classes means
    any class. A student with several step counts also takes the index (B,) of its step count.
    Output: (B, H, W, outputs_per_channel * C), float32, zero at initialisation.
    """
    noisy_images = keras.Input((config.image_size, config.image_size, config.channels))
    noise_variances = keras.Input((1, 1, 1))
    embedding = SinusoidalEmbedding(
        config.embedding_dims, max_frequency=config.embedding_max_frequency
    )(noise_variances)
    if config.block == "adaptive":
        embedding = layers.Dense(4 * config.embedding_dims, activation="swish")(embedding)
        embedding = layers.Dense(4 * config.embedding_dims, activation="swish")(embedding)
    inputs = [noisy_images, noise_variances]
    if config.num_classes:
        inputs.append(keras.Input((), dtype="int32"))
        class_embedding = label_embedding(inputs[-1], config.num_classes, embedding.shape[-1])
        embedding = layers.Add()([embedding, class_embedding])
    if config.step_counts:
        inputs.append(keras.Input((), dtype="int32"))
        # Zeros: a student starts as its teacher, for every step count.
        step_embedding = layers.Embedding(
            config.step_counts, embedding.shape[-1], "zeros", name="step_embedding"
        )(inputs[-1])
        step_embedding = layers.Reshape((1, 1, embedding.shape[-1]))(step_embedding)
        embedding = layers.Add()([embedding, step_embedding])

    pixels = noisy_images
    if any(config.margin):
        pixels = layers.ZeroPadding2D((config.margin, config.margin))(pixels)
    if config.block == "plain":
        # The noise level enters once, as extra channels that are constant over the image.
        x = layers.Conv2D(config.widths[0], kernel_size=1)(pixels)
        embedding_map = layers.UpSampling2D(x.shape[1], interpolation="nearest")(embedding)
        x = layers.Concatenate()([x, embedding_map])
    else:
        # The noise level enters in every block, as a vector.
        x = layers.Conv2D(
            config.widths[0],
            kernel_size=2 + config.patch_size,
            strides=config.patch_size,
            padding="same",
        )(pixels)

    def block(x: Tensor, width: int) -> Tensor:
        if config.block == "plain":
            x = plain_block(x, width)
        else:
            x = adaptive_block(x, embedding, width, dropout=config.dropout)
        if x.shape[1] in config.attention_sizes:
            x = attention_block(x, config.head_channels)
        return x

    def resample(x: Tensor, layer: type[layers.Layer]) -> Tensor:
        if config.resampling == "pool":
            return layer(2)(x)
        return adaptive_block(x, embedding, x.shape[-1], layer, config.dropout)

    *outer_levels, (bottom_width, bottom_depth) = zip(config.widths, config.depths, strict=True)
    skips = []
    for width, depth in outer_levels:
        for _ in range(depth):
            x = block(x, width)
            skips.append(x)
        x = resample(x, layers.AveragePooling2D)

    for _ in range(bottom_depth):
        x = block(x, bottom_width)

    for width, depth in reversed(outer_levels):
        # Nearest: the gradient of bilinear upsampling is unreliable under TensorFlow's XLA.
        x = resample(x, layers.UpSampling2D)
        for _ in range(depth):
            if config.skips:
                x = layers.Concatenate()([x, skips.pop()])
            x = block(x, width)

    if config.patch_size > 1:
        # Features for each pixel of a patch, plus the pixels themselves for finer details.
        x = PatchesToPixels(FINE_WIDTH, config.patch_size)(x)
        details = layers.Conv2D(FINE_WIDTH, kernel_size=3, padding="same")(pixels)
        x = adaptive_block(layers.Add()([x, details]), embedding, FINE_WIDTH)
    if config.block == "adaptive":
        x = layers.Activation("swish")(GroupNorm()(x))
    # Zeros: training starts from the mean of the target.
    x = layers.Conv2D(
        outputs_per_channel * config.channels,
        kernel_size=(1 if config.block == "plain" else 3),
        padding="same",
        kernel_initializer="zeros",
        dtype="float32",
    )(x)
    if any(config.margin):
        x = layers.Cropping2D((config.margin, config.margin), dtype="float32")(x)
    return keras.Model(inputs, x, name=name)


def label_embedding(labels: Tensor, num_classes: int, dims: int) -> Tensor:
    """A learned vector for each class, and one for any class: (B,) -> (B, 1, 1, dims)."""
    vectors = layers.Embedding(
        num_classes + 1,
        dims,
        # About as large as the noise embedding, to which the vectors are added.
        embeddings_initializer=keras.initializers.RandomNormal(stddev=0.3),
    )(labels)
    return layers.Reshape((1, 1, dims))(vectors)


def plain_block(x: Tensor, width: int) -> Tensor:
    """The assignment's residual block: batch norm, 3x3 convolution, swish, 3x3 convolution."""
    residual = x if x.shape[-1] == width else layers.Conv2D(width, kernel_size=1)(x)
    # The next convolution can scale and shift.
    x = layers.BatchNormalization(center=False, scale=False, synchronized=are_replicas())(x)
    x = layers.Conv2D(width, kernel_size=3, padding="same", activation="swish")(x)
    x = layers.Conv2D(width, kernel_size=3, padding="same")(x)
    return layers.Add()([x, residual])


def adaptive_block(
    x: Tensor,
    embedding: Tensor,
    width: int,
    resample: type[layers.Layer] | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Residual block with adaptive group norm (Dhariwal and Nichol 2021, equation 3).

    The noise embedding (B, 1, 1, D) scales and shifts the normalised features between the two
    convolutions. If its input and output widths are equal, the block is the identity at
    initialisation. With `resample` both branches change the resolution by a factor of 2, as in
    BigGAN (Brock et al. 2018, https://arxiv.org/abs/1809.11096).
    """
    residual = x if x.shape[-1] == width else layers.Conv2D(width, kernel_size=1)(x)
    x = layers.Activation("swish")(GroupNorm()(x))
    if resample is not None:
        residual, x = resample(2)(residual), resample(2)(x)
    x = layers.Conv2D(width, kernel_size=3, padding="same")(x)
    scale = layers.Dense(width, kernel_initializer="zeros", bias_initializer="ones")(embedding)
    shift = layers.Dense(width, kernel_initializer="zeros")(embedding)
    x = layers.Activation("swish")(GroupNorm(learned=False)(x, scale, shift))
    if dropout:
        x = SeededDropout(dropout)(x)
    x = layers.Conv2D(width, kernel_size=3, padding="same", kernel_initializer="zeros")(x)
    return layers.Add()([x, residual])


def attention_block(x: Tensor, head_channels: int = 64) -> Tensor:
    """Residual self-attention, `head_channels` or more per head (Dhariwal and Nichol 2021)."""
    _, height, width, channels = x.shape
    heads = max(1, channels // head_channels)
    tokens = layers.Reshape((height * width, channels))(GroupNorm()(x))
    tokens = layers.MultiHeadAttention(heads, key_dim=channels // heads)(tokens, tokens)
    return layers.Add()([x, layers.Reshape((height, width, channels))(tokens)])
