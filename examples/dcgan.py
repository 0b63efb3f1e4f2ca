"""The deep convolutional GAN of Radford et al. 2015 (https://arxiv.org/abs/1511.06434).

A generator maps noises to images, a discriminator distinguishes them from photographs, and each is
trained against the other. `gan.py` trains it and compares it with diffusion.
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from ddim_keras import backends

NOISE_SIZE = 100  # length of the noise vector of an image
COARSEST_SIZE = 4  # pixels of the first feature map of the generator, the last of the discriminator
KERNEL_SIZE = 4
INITIALIZER_SCALE = 0.02
LEAK = 0.2  # negative slope of the discriminator's activations
BATCH_NORM_MOMENTUM = 0.9  # of the statistics that generate
ADAM_MOMENTUM = 0.5  # beta 1


class DCGAN(keras.Model):
    """Generator and discriminator, trained with the non-saturating loss of Goodfellow et al. 2014.

    Both take a step on each batch, from one forward pass of the generator; in the paper they
    alternate. Noises are normally distributed; in the paper, uniformly.

    Args:
        image_size: a power of 2 of at least 8 pixels.
        width: feature channels at half the image size; twice as many at each lower resolution.
        seed: of the initial weights.
    """

    def __init__(self, image_size: int, channels: int, width: int, seed: int) -> None:
        super().__init__()
        keras.utils.set_random_seed(seed)
        self.generator = generator(image_size, channels, width)
        self.discriminator = discriminator(image_size, channels, width)
        self.built = True

    def compile(self, learning_rate: float) -> None:
        """One Adam for both networks, since it scales each weight separately."""
        super().compile(keras.optimizers.Adam(learning_rate, beta_1=ADAM_MOMENTUM))
        self.optimizer.build(self.trainable_variables)

    def train_step(self, *arguments: Any) -> Any:
        """A step of both networks, on images and noises; see `ddim_keras.backends`."""
        with backends.Step(self, *arguments) as step:
            return step.results(step.minimize(self.compute_losses))

    def compute_losses(
        self, images: Any, training: bool, labels: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The sum of both losses, each with gradients for its own network only.

        Args:
            images: (B, H, W, C) uint8.
            labels: (B, NOISE_SIZE), standard normal: the noises to generate from.

        Returns:
            The scalar to minimise, and the scalars to report.
        """
        images = ops.cast(images, "float32") / 127.5 - 1.0
        generated = self.generator(labels, training=training)
        judge = self.discriminator
        real = judge(images, training=training)
        fake = judge(ops.stop_gradient(generated), training=training)
        # The generator's loss passes through the discriminator without changing its weights.
        fixed = [ops.stop_gradient(variable.value) for variable in judge.trainable_variables]
        others = [variable.value for variable in judge.non_trainable_variables]
        for_generator, _ = judge.stateless_call(fixed, others, generated, training=training)
        losses = {
            "discriminator_loss": ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake)),
            "generator_loss": ops.mean(ops.softplus(-for_generator)),
        }
        return sum(losses.values()), losses

    def generate(self, num_images: int, seed: int = 0, batch_size: int = 64) -> np.ndarray:
        """Images (N, H, W, C) float32 in [0, 1]; image i depends only on the seed and i."""
        noises = draw_noises(num_images, np.random.default_rng(seed))
        images = self.generator.predict(noises, batch_size=batch_size, verbose=0)
        return np.asarray(images, "float32") / 2 + 0.5


def draw_noises(num_images: int, random: np.random.Generator) -> np.ndarray:
    """Standard normal noises (num_images, NOISE_SIZE), float32."""
    return random.standard_normal((num_images, NOISE_SIZE), dtype="float32")


def generator(image_size: int, channels: int, width: int) -> keras.Model:
    """(B, NOISE_SIZE) -> (B, H, W, C) in [-1, 1]; each layer doubles the resolution."""
    noises = keras.Input((NOISE_SIZE,))
    size, features = COARSEST_SIZE, width * image_size // (2 * COARSEST_SIZE)
    x = layers.Dense(size * size * features, use_bias=False, kernel_initializer=initializer())(
        noises
    )
    x = normalised(layers.Reshape((size, size, features))(x), "relu")
    while size < image_size // 2:
        size, features = 2 * size, features // 2
        x = normalised(layers.Conv2DTranspose(features, **options(use_bias=False))(x), "relu")
    x = layers.Conv2DTranspose(channels, **options())(x)
    return keras.Model(noises, layers.Activation("tanh", dtype="float32")(x))


def discriminator(image_size: int, channels: int, width: int) -> keras.Model:
    """(B, H, W, C) in [-1, 1] -> (B, 1), logits of being real; each layer halves the resolution."""
    images = keras.Input((image_size, image_size, channels))
    x = layers.LeakyReLU(LEAK)(layers.Conv2D(width, **options())(images))
    size, features = image_size // 2, width
    while size > COARSEST_SIZE:
        size, features = size // 2, 2 * features
        x = normalised(
            layers.Conv2D(features, **options(use_bias=False))(x), layers.LeakyReLU(LEAK)
        )
    x = layers.Dense(1, kernel_initializer=initializer())(layers.Flatten()(x))
    return keras.Model(images, layers.Activation("linear", dtype="float32")(x))


def normalised(x: Any, activation: Any) -> Any:
    """Batch norm and an activation."""
    x = layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, epsilon=1e-5)(x)
    return layers.Activation(activation)(x)


def options(**others: Any) -> dict[str, Any]:
    """Those of every convolution."""
    return {
        "kernel_size": KERNEL_SIZE,
        "strides": 2,
        "padding": "same",
        "kernel_initializer": initializer(),
        **others,
    }


def initializer() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=INITIALIZER_SCALE)
