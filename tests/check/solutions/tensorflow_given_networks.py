"""A TensorFlow class that is given both networks, with a train_step."""

import numpy as np
import tensorflow as tf

EMA = 0.999
batch_size = 32
image_size = 32

class MyDiffusion(tf.keras.Model):
    def __init__(self, network, ema_network):
        super().__init__()
        self.network = network
        self.ema_network = ema_network
        self.normalizer = tf.keras.layers.Normalization()
        self.loss_tracker = tf.keras.metrics.Mean(name="n_loss")

    def diffusion_schedule(self, diffusion_times):
        lo, hi = np.arccos(0.95), np.arccos(0.02)
        ang = lo + diffusion_times * (hi - lo)
        return tf.sin(ang), tf.cos(ang)

    def denoise(self, noisy_images, noise_rates, signal_rates, training):
        network = self.network if training else self.ema_network
        noise_hat = network([noisy_images, tf.square(noise_rates)], training=training)
        image_hat = tf.math.divide(noisy_images - tf.multiply(noise_rates, noise_hat), signal_rates)
        return noise_hat, image_hat

    @tf.function
    def reverse_diffusion(self, initial_noise, diffusion_steps):
        n = tf.shape(initial_noise)[0]
        step = 1.0 / diffusion_steps
        x = initial_noise
        for i in range(diffusion_steps):
            t = tf.ones((n, 1, 1, 1)) - i * step
            nr, sr = self.diffusion_schedule(t)
            e, x0 = self.denoise(x, nr, sr, training=False)
            nr, sr = self.diffusion_schedule(t - step)
            x = sr * x0 + nr * e
        return x0

    @tf.function
    def train_step(self, images):
        images = self.normalizer(images, training=True)
        noises = tf.random.normal(tf.shape(images))
        t = tf.random.uniform((tf.shape(images)[0], 1, 1, 1))
        nr, sr = self.diffusion_schedule(t)
        xt = sr * images + nr * noises
        with tf.GradientTape() as tape:
            e, x0 = self.denoise(xt, nr, sr, training=True)
            loss = tf.reduce_mean(tf.square(noises - e))
        grads = tape.gradient(loss, self.network.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.network.trainable_variables))
        self.loss_tracker.update_state(loss)
        for w, a in zip(self.network.weights, self.ema_network.weights):
            a.assign(EMA * a + (1 - EMA) * w)
        return {"n_loss": self.loss_tracker.result()}
