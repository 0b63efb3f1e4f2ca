"""What the tests share: the Keras backend, and a tiny data set and recipe for whole trainings."""

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

from ddim_keras.command_line import run_command
from ddim_keras.config import ModelConfig, NetworkConfig, Preset, TrainingConfig
from ddim_keras.drawn_flowers import draw_flowers

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


@pytest.fixture(autouse=True)
def same_random_numbers():
    """The order of images in `fit`, say, is drawn from the backend's global seed."""
    import keras  # not above: the process that only hands out the tests needs none

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def flowers_file(tmp_path_factory):
    """An array file of 100 labelled flowers of 16 px."""
    path = tmp_path_factory.mktemp("flowers") / "flowers.npz"
    images, labels = draw_flowers(100, 16)
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(scope="session")
def encoder():
    """An encoder for the KID that needs no download: convolutions with random weights."""
    import keras

    from ddim_keras.kid import Encoder

    pixels = keras.Input((75, 75, 3))
    features = keras.layers.Conv2D(32, 7, strides=4, activation="relu")(pixels)
    features = keras.layers.Conv2D(64, 3, strides=2, activation="relu")(features)
    features = keras.layers.GlobalAveragePooling2D()(features)
    network = keras.Model(pixels, 5.0 * features)
    for index, weight in enumerate(network.weights):  # the same on every backend
        random = np.random.default_rng(index)
        scale = np.prod(weight.shape[:-1]) ** -0.5 if weight.ndim > 1 else 0.0  # biases
        weight.assign(random.normal(0, scale, weight.shape))
    return Encoder("random convolution", network)
