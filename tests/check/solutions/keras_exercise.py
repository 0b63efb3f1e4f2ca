"""The exercise in Keras on TensorFlow."""

import keras
import tensorflow as tf
from keras import ops


def sample_xt(x0, t, epsilon, alphaBars):
    bars = ops.reshape(ops.take(alphaBars, t), (-1, 1, 1, 1))
    if epsilon is None:
        epsilon = keras.random.normal(ops.shape(x0))
    return ops.sqrt(bars) * x0 + ops.sqrt(1.0 - bars) * epsilon


def sample(ddpm, n_samples):
    x = keras.random.normal((n_samples, *ddpm.image_shape))
    for t in reversed(range(ddpm.n_steps)):
        noise = ddpm.network([x, ops.full((n_samples,), t)], training=False)
        beta, bar = ddpm.betas[t], ddpm.alpha_bars[t]
        x = (x - beta / ops.sqrt(1.0 - bar) * noise) / ops.sqrt(1.0 - beta)
        if t > 0:
            x = x + ops.sqrt(beta) * keras.random.normal(ops.shape(x))
    return x


def train(ddpm, loader, n_epochs, optim, device=None):
    for _ in range(n_epochs):
        for images, _labels in loader:
            t = keras.random.randint((len(images),), 0, ddpm.n_steps)
            noise = keras.random.normal(images.shape)
            noisy = sample_xt(images, t, noise, ddpm.alpha_bars)
            with tf.GradientTape() as tape:
                predicted = ddpm.network([noisy, t], training=True)
                loss = ops.mean(ops.square(noise - predicted))
            weights = ddpm.network.trainable_weights
            optim.apply_gradients(zip(tape.gradient(loss, weights), weights))
