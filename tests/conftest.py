"""What the tests share: the Keras backend, and a tiny data set and recipe for whole trainings."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

from ddim_keras.config import ModelConfig, NetworkConfig, Preset, TrainingConfig
from ddim_keras.drawn_flowers import draw_flowers

# With everything whose state a resumed training must find again: batch norm, flips, schedule.
TINY = Preset(
    model=ModelConfig(network=NetworkConfig(image_size=16, widths=(8,), depths=(1,)), ema=0.9),
    training=TrainingConfig(batch_size=16, repetitions=1, flip=True, cosine_decay=True),
    summary="for tests",
)


@pytest.fixture(scope="session")
def flowers_file(tmp_path_factory):
    """An array file of 100 labelled flowers of 16 px."""
    path = tmp_path_factory.mktemp("flowers") / "flowers.npz"
    images, labels = draw_flowers(100, 16)
    np.savez(path, images=images, labels=labels)
    return path
