"""Fixtures for all tests; sets the Keras backend before anything imports it."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

from ddim_keras.cli.interruption import raise_again
from ddim_keras.data.drawn_flowers import draw_flowers


@pytest.fixture(autouse=True)
def ctrl_c_ends_the_tests():
    """A command that ran in this process has left Ctrl-C to the system."""
    yield
    raise_again()


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

    from ddim_keras.metrics.encoders import Encoder

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
