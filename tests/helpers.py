"""Helpers that the tests share: a tiny recipe and run, commands run here, known denoisers."""

import contextlib
import signal
import sys

import keras
import numpy as np
import pytest
from keras import ops

from ddim_keras.cli.startup import run_command
from ddim_keras.config import ModelConfig, NetworkConfig, TrainingConfig
from ddim_keras.model import DiffusionModel
from ddim_keras.presets import Preset
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import Run
from ddim_keras.runs.weights import save_weights

# With everything whose state a resumed training must find again: batch norm, flips, schedule.
TINY = Preset(
    model=ModelConfig(network=NetworkConfig(image_size=16, widths=(8,), depths=(1,)), ema=0.9),
    training=TrainingConfig(batch_size=16, repetitions=1, flip=True, cosine_decay=True),
    summary="for tests",
)


def run(command, *arguments):
    """Runs a command in this process; returns its exit status, or its one line of error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{command.__name__}.py", *map(str, arguments)])
        try:
            run_command(command.main)
        except SystemExit as ending:
            return ending.code
    return 0


class InterruptAt(keras.callbacks.Callback):
    """Presses Ctrl-C in some step."""

    def __init__(self, steps):
        super().__init__()
        self.steps_left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.steps_left -= 1
        if not self.steps_left:
            self.stop()

    def stop(self):
        signal.raise_signal(signal.SIGINT)


# A row of history.csv.
EPOCH = {
    **{"epoch": 1, "images": 32, "seconds": 0.5},
    **{"noise_loss": 0.1, "image_loss": 0.2, "val_noise_loss": 0.1, "val_image_loss": 0.2},
}


@contextlib.contextmanager
def without_steps():
    """Replaces Keras's `fit` by one that is over at once, for what happens around a training.

    The first batch of each epoch must give finite losses; the optimizer counts, but does not learn.
    """

    def fit(model, batches, *, steps_per_epoch, initial_epoch, epochs, callbacks, **_):
        callbacks = keras.callbacks.CallbackList(
            callbacks, model=model, steps=steps_per_epoch, epochs=epochs
        )
        callbacks.on_train_begin()
        for epoch in range(initial_epoch, epochs):
            callbacks.on_epoch_begin(epoch)
            images, labels = map(ops.convert_to_tensor, next(iter(batches)))
            _, losses = model.compute_losses(images, training=False, labels=labels)
            logs = {name: float(value) for name, value in losses.items()}
            model.optimizer.iterations.assign_add(steps_per_epoch)
            callbacks.on_epoch_end(epoch, logs | {f"val_{name}": logs[name] for name in logs})
        callbacks.on_train_end()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionModel, "fit", fit)
        yield


NAMES = ("sunflower", "sweet pea", "rose")
SIZE = 16


def make_run(folder, num_classes, seed=0, block="plain"):
    """A run folder with a model that was not trained, but whose weights are not zero."""
    network = NetworkConfig(
        image_size=SIZE, widths=(8,), depths=(1,), block=block, num_classes=num_classes
    )
    config = RunConfig(
        preset="tiny",
        model=ModelConfig(network=network, prediction="velocity", max_signal_rate=0.99),
        training=TrainingConfig(),
        dataset="drawn_flowers",
        data_dir=None,
        epochs=1,
        class_names=NAMES[:num_classes],
    )
    model = DiffusionModel(config.model)
    random = np.random.default_rng(seed)
    for weight in model.ema_network.weights:
        if "moving" not in weight.path:
            weight.assign(0.1 * random.standard_normal(weight.shape))
    model.pixel_means.assign([0.5, 0.4, 0.3])
    model.pixel_variances.assign([0.04, 0.04, 0.04])
    run = Run(folder)
    run.save_config(config)
    save_weights(model, run.last_weights)
    return run


# Data whose perfect denoiser is known. Images are (B, 1, 1, 2): points of the plane.


def denoiser(pred_images_of):
    """A `denoise` function from numpy's `pred_images_of(noisy_images, noise, signal)`."""

    def denoise(*tensors):
        noisy_images, noise_rates, signal_rates = map(ops.convert_to_numpy, tensors)
        pred_images = pred_images_of(noisy_images, noise_rates, signal_rates)
        pred_noises = (noisy_images - signal_rates * pred_images) / noise_rates
        return ops.convert_to_tensor(pred_noises), ops.convert_to_tensor(pred_images)

    return denoise


def mixture(noisy_images, noise_rates, signal_rates):
    """A mixture of three isotropic Gaussians."""
    means = np.array([[1.2, 0.4], [-0.8, 0.9], [-0.2, -1.1]])
    variances = np.array([0.16, 0.25, 0.36])
    noisy_variances = signal_rates**2 * variances + noise_rates**2
    differences = noisy_images[..., None, :] - signal_rates[..., None] * means
    log_densities = -np.sum(differences**2, axis=-1) / (2 * noisy_variances)
    shares = np.exp(log_densities) / noisy_variances
    shares /= shares.sum(axis=-1, keepdims=True)
    gains = (signal_rates * variances / noisy_variances)[..., None]
    return np.sum(shares[..., None] * (means + gains * differences), axis=-2)


def standard_normal(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 1, 1, 2))


def root_mean_square(differences):
    return float(np.sqrt(np.mean(np.square(differences))))
