"""Trainings with equal computing time, in a folder to which each completed part is added.

On a CPU, seconds are summed over all cores, so that other processes have little influence; on a GPU
they are wall-clock time. Compiling and measuring do not count.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ddim_keras.atomic import written_whole
from ddim_keras.config import InputError, ModelConfig, TrainingConfig

WARM_UP = 2  # steps that compile, and are not timed
PROBED_STEPS = 20


class Contender(Protocol):
    """A model to train."""

    def train(self, first_step: int, num_steps: int) -> None:
        """Trains a number of steps, starting at step `first`, counted from 0."""


class DiffusionTraining:
    """A diffusion model without classes, and its recipe in the fastest precision of the device."""

    def __init__(
        self, config: ModelConfig, recipe: TrainingConfig, images: np.ndarray, total_steps: int
    ) -> None:
        from ddim_keras.backends.devices import fast_precision

        _, size, _, channels = images.shape
        network = dataclasses.replace(config.network, image_size=size, channels=channels)
        self.config = dataclasses.replace(config, network=network)
        self.recipe = dataclasses.replace(recipe, precision=fast_precision())
        self.images = images
        self.model = self.build(total_steps)
        self.model.adapt(images)

    def build(self, total_steps: int) -> Any:
        """The compiled model."""
        from ddim_keras.training.loop import build_model

        return build_model(self.config, self.recipe, total_steps)

    def train(self, first_step: int, num_steps: int) -> None:
        for batch in self.batches(first_step, num_steps):
            self.model.train_on_batch(*batch)

    def batches(self, first_step: int, num_steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images and labels for a number of steps."""
        from ddim_keras.data.batches import training_batches

        labels = np.zeros(len(self.images), "int32")
        order = (self.recipe.batch_size, 1, self.recipe.flip, self.config.seed, first_step)
        return itertools.islice(training_batches(self.images, labels, *order), num_steps)


def computing_clock() -> Callable[[], float]:
    """Computing time in seconds."""
    from ddim_keras.backends import describe_device

    return time.process_time if describe_device() == "CPU" else time.perf_counter


def steps_within(
    seconds: float, contender: Contender, clock: Callable[[], float], fewest: int
) -> int:
    """The number of steps in a training of given seconds, estimated from a few steps."""
    contender.train(0, WARM_UP)
    start = clock()
    contender.train(WARM_UP, PROBED_STEPS)
    steps = int(seconds * PROBED_STEPS / (clock() - start))
    return max(steps, fewest)


def require_same_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Writes the settings of a new folder; raises InputError if it has other settings."""
    file = folder / "settings.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as part:
            part.write_text(json.dumps(settings) + "\n")
    elif json.loads(file.read_text()) != settings:
        raise InputError(f"{folder} holds trainings of other settings; choose another --output")
