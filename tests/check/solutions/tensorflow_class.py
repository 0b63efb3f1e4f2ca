"""A TensorFlow class without arguments, compiled functions, and attributes of its own."""

import tensorflow as tf


class Diffusion(tf.Module):
    def __init__(self):
        super().__init__()
        self.max_rate, self.min_rate = 0.95, 0.02
        self.angle_range = tf.acos([self.max_rate, self.min_rate])
        self.unet = build_unet()
        self.unet_ema = build_unet()

    @tf.function
    def diffusion_schedule(self, t):
        start, end = self.angle_range[0], self.angle_range[1]
        angle = start * (1.0 - t) + end * t
        return tf.sin(angle), tf.cos(angle)

    def denoise(self, x, noise_rates, signal_rates, training=False):
        net = self.unet if training else self.unet_ema
        eps = net((x, tf.square(noise_rates)), training=training)
        x0 = x / signal_rates - (noise_rates / signal_rates) * eps
        return eps, x0

    @tf.function
    def reverse_diffusion(self, initial_noise, diffusion_steps):
        batch = tf.shape(initial_noise)[0]
        x = tf.identity(initial_noise)
        times = tf.linspace(1.0, 0.0, diffusion_steps + 1)
        for k in range(diffusion_steps):
            n, s = self.diffusion_schedule(tf.fill([batch, 1, 1, 1], times[k]))
            eps, x0 = self.denoise(x, n, s)
            n, s = self.diffusion_schedule(tf.fill([batch, 1, 1, 1], times[k + 1]))
            x = s * x0 + n * eps
        return x0


def build_unet():
    inputs = tf.keras.Input((64, 64, 3)), tf.keras.Input((1, 1, 1))
    outputs = tf.keras.layers.Conv2D(3, 3, padding="same")(inputs[0])
    return tf.keras.Model(inputs, outputs)
