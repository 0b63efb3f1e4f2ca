"""Batches for training and validation: their order, flips and number."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from ddim_keras.config import InputError


def random_images(images: np.ndarray, num_images: int) -> np.ndarray:
    """A fixed random selection of the images; all of them if there are fewer."""
    order = np.random.default_rng(0).permutation(len(images))
    return images[np.sort(order[:num_images])]


def steps_per_epoch(num_images: int, batch_size: int, repetitions: int) -> int:
    """Number of full batches in `repetitions` passes over the images; raises InputError if 0."""
    steps = num_images * repetitions // batch_size
    if steps < 1:
        raise InputError(
            f"batch size {batch_size} is larger than the {num_images * repetitions} images of an "
            "epoch; choose a smaller one"
        )
    return steps


def training_orders(
    num_images: int,
    batch_size: int,
    repetitions: int = 1,
    flip: bool = False,
    seed: int = 0,
    start_step: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields for each step, endlessly, the (B,) indices of its images and which to mirror.

    An epoch is `repetitions` passes over the images, split into full batches. Its order and flips
    depend only on the seed and the epoch's number, so a run resumed at any step (counted from the
    start of the training) gets the same batches as an uninterrupted one.
    """
    steps = steps_per_epoch(num_images, batch_size, repetitions)
    for epoch in itertools.count(start_step // steps):
        random = np.random.default_rng([seed, epoch])
        order = np.concatenate([random.permutation(num_images) for _ in range(repetitions)])
        flips = random.random(len(order)) < (0.5 if flip else 0.0)
        first = start_step - epoch * steps if epoch == start_step // steps else 0
        for step in range(first, steps):
            chosen = slice(step * batch_size, (step + 1) * batch_size)
            yield order[chosen], flips[chosen]


def training_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, *args: Any, **kwargs: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields shuffled batches endlessly: (B, H, W, C) uint8 images and their (B,) labels.

    Their order is that of `training_orders`, which takes the other arguments.
    """
    for order, flips in training_orders(len(images), batch_size, *args, **kwargs):
        batch = images[order]
        batch[flips] = batch[flips, :, ::-1]
        yield batch, labels[order]


def dispatches(
    orders: Iterator[tuple[np.ndarray, np.ndarray]], steps_an_epoch: int, steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups `training_orders` for calls of `steps` steps each: (K, B) int32 indices and flips.

    The last group of an epoch is smaller if its steps are not divisible.
    """
    while True:
        for start in range(0, steps_an_epoch, steps):
            group = itertools.islice(orders, min(steps, steps_an_epoch - start))
            indices, flips = zip(*group, strict=True)
            yield np.stack(indices).astype("int32"), np.stack(flips)


class ValidationBatches(keras.utils.PyDataset):
    """One pass over images and their labels in order, all batches of one size.

    The last one is filled up with images from the start, so that only one shape is compiled and
    several devices can share each batch equally.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, batch_size: int) -> None:
        super().__init__()
        self.images = images
        self.labels = labels
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        batch %= len(self.images)
        return self.images[batch], self.labels[batch]
