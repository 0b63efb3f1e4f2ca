"""The published Keras example of DDIM in its original structure, as a baseline for speed.

After https://keras.io/examples/generative/ddim/ (TensorFlow): bilinear upsampling, everything in
one train_step, an eager loop for sampling. Three things are fixed. The averaged weights start as
the trained ones. The average is short at first, as in this project, since with constant momentum it
would consist mostly of initial weights for a thousand steps. Under mixed precision the last layer
computes in float32, which the loss needs.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from ddim_keras.network import SinusoidalEmbedding
from ddim_keras.schedules import offset_cosine


def residual_block(x: Any, width: int) -> Any:
    residual = x if x.shape[-1] == width else layers.Conv2D(width, 1)(x)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    x = layers.Conv2D(width, 3, padding="same", activation="swish")(x)
    return layers.Add()([layers.Conv2D(width, 3, padding="same")(x), residual])


def unet(size: int, widths: tuple[int, ...] = (32, 64, 96, 128)) -> keras.Model:
    noisy_images, variances = keras.Input((size, size, 3)), keras.Input((1, 1, 1))
    embedding = layers.UpSampling2D(size, interpolation="nearest")(SinusoidalEmbedding()(variances))
    x = layers.Concatenate()([layers.Conv2D(widths[0], 1)(noisy_images), embedding])
    skips = []
    for width in widths[:-1]:
        for _ in range(2):
            x = residual_block(x, width)
            skips.append(x)
        x = layers.AveragePooling2D(2)(x)
    for _ in range(2):
        x = residual_block(x, widths[-1])
    for width in reversed(widths[:-1]):
        x = layers.UpSampling2D(2, interpolation="bilinear")(x)
        for _ in range(2):
            x = residual_block(layers.Concatenate()([x, skips.pop()]), width)
    x = layers.Conv2D(3, 1, kernel_initializer="zeros", dtype="float32")(x)
    return keras.Model([noisy_images, variances], x)


class KerasExample(keras.Model):
    """The example's `DiffusionModel`; images are square, uint8, of `size` pixels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.normalizer = layers.Normalization(dtype="float32")
        self.network = unet(size)
        self.ema_network = keras.models.clone_model(self.network)
        self.ema_network.set_weights(self.network.get_weights())
        self.noise_loss_tracker = keras.metrics.Mean(name="n_loss")
        self.image_loss_tracker = keras.metrics.Mean(name="i_loss")
        self.built = True

    @property
    def metrics(self) -> list[keras.Metric]:
        return [self.noise_loss_tracker, self.image_loss_tracker]

    def denoise(
        self, noisy_images: Any, noise_rates: Any, signal_rates: Any, training: bool
    ) -> tuple[Any, Any]:
        network = self.network if training else self.ema_network
        pred_noises = network([noisy_images, noise_rates**2], training=training)
        return pred_noises, (noisy_images - noise_rates * pred_noises) / signal_rates

    def reverse_diffusion(self, initial_noise: Any, diffusion_steps: int) -> Any:
        noisy_images = initial_noise
        for step in range(diffusion_steps):
            times = tf.ones((len(initial_noise), 1, 1, 1)) - step / diffusion_steps
            pred_noises, pred_images = self.denoise(
                noisy_images, *offset_cosine(times), training=False
            )
            noise_rates, signal_rates = offset_cosine(times - 1 / diffusion_steps)
            noisy_images = signal_rates * pred_images + noise_rates * pred_noises
        return pred_images

    def generate(self, num_images: int, diffusion_steps: int) -> np.ndarray:
        """(num_images, size, size, 3) float32 in [0, 1]."""
        noise = tf.random.normal((num_images, *self.network.output_shape[1:]))
        images = self.reverse_diffusion(noise, diffusion_steps)
        images = self.normalizer.mean + images * self.normalizer.variance**0.5
        return tf.clip_by_value(images, 0.0, 1.0).numpy()

    def train_step(self, data: Any) -> dict[str, Any]:
        images = self.normalizer(tf.cast(data[0], "float32") / 255)
        noises = tf.random.normal(tf.shape(images))
        times = tf.random.uniform((tf.shape(images)[0], 1, 1, 1))
        noise_rates, signal_rates = offset_cosine(times)
        noisy_images = signal_rates * images + noise_rates * noises
        with tf.GradientTape() as tape:
            pred_noises, pred_images = self.denoise(
                noisy_images, noise_rates, signal_rates, training=True
            )
            noise_loss = tf.reduce_mean(keras.losses.mean_squared_error(noises, pred_noises))
            image_loss = tf.reduce_mean(keras.losses.mean_squared_error(images, pred_images))
        gradients = tape.gradient(noise_loss, self.network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.network.trainable_weights, strict=True))
        self.noise_loss_tracker.update_state(noise_loss)
        self.image_loss_tracker.update_state(image_loss)
        steps = tf.cast(self.optimizer.iterations.value, "float32")
        momentum = tf.minimum(0.999, (1.0 + steps) / (10.0 + steps))
        for weight, average in zip(self.network.weights, self.ema_network.weights, strict=True):
            average.assign(momentum * average + (1.0 - momentum) * weight)
        return {metric.name: metric.result() for metric in self.metrics}
