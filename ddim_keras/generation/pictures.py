"""Pictures of generated images: the grid, and the animation of the steps."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops
from PIL import Image

from ddim_keras.cli.generate import MOST_IN_ANIMATION, MOST_IN_GRID, GenerateOptions
from ddim_keras.generation.files import forget_record, image_file, note_made, write_images
from ddim_keras.generation.given import GivenImages
from ddim_keras.generation.labels import name_of
from ddim_keras.model import DiffusionModel
from ddim_keras.plots import figures
from ddim_keras.progress import sampling_progress
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.types import Tensor


class Trajectory:
    """Collects, over the steps of one batch, a picture of the noisy and the predicted images."""

    def __init__(self, model: DiffusionModel, steps: int) -> None:
        self.model = model
        self.steps = steps
        self.frames: list[np.ndarray] = []

    def add(self, noisy_images: Any, pred_images: Any) -> None:
        """Adds a frame, until the steps of the first batch are complete."""
        if len(self.frames) < self.steps:
            halves = (
                figures.tiled(
                    ops.convert_to_numpy(self.model.denormalize(images[:MOST_IN_ANIMATION]))
                )
                for images in (noisy_images, pred_images)
            )
            self.frames.append(np.concatenate(list(halves), axis=1))


class Progress:
    """A progress bar, and the frames of an animation if one is wanted: the callback of sampling."""

    def __init__(self, options: GenerateOptions, model: DiffusionModel, num_images: int) -> None:
        num_batches = -(-num_images // options.batch_size)
        self.show = sampling_progress(num_batches, options.network_steps)
        self.trajectory = Trajectory(model, options.network_steps) if options.trajectory else None

    def __call__(self, step: int, noisy_images: Tensor, pred_images: Tensor) -> None:
        if self.trajectory:
            self.trajectory.add(noisy_images, pred_images)
        self.show(step, noisy_images, pred_images)

    def save(self, options: GenerateOptions) -> None:
        """Writes the animation."""
        if self.trajectory and options.trajectory:
            figures.save_animation(self.trajectory.frames, options.trajectory)
            print(f"wrote {options.trajectory}")


def collect(batches: Iterable[np.ndarray], folder: Path | None, start: int) -> np.ndarray:
    """Writes images into a folder, if there is one; returns those for the grid, uint8."""
    shown = []
    if folder and start:
        made = [
            np.asarray(Image.open(image_file(folder, n))) for n in range(min(start, MOST_IN_GRID))
        ]
        shown.append(np.stack(made).reshape(len(made), *made[0].shape[:2], -1))
    for images in batches:
        pixels = np.round(255 * images).astype("uint8")
        start += len(pixels)
        if folder:
            write_images(pixels, folder, start - len(pixels))
            note_made(folder, start)
        if sum(map(len, shown)) < MOST_IN_GRID:
            shown.append(pixels)
    return np.concatenate(shown)


def save_pictures(
    options: GenerateOptions,
    config: RunConfig,
    batches: Iterable[np.ndarray],
    labels: np.ndarray,
    given: GivenImages | None,
    title: str,
    start: int = 0,
) -> None:
    """Writes each image if that was asked for, as they come, and the grid of the first.

    Args:
        batches: images (B, H, W, C) in [0, 1].
        start: number of the first; those before it are in --images-dir.
    """
    pixels = collect(batches, options.images_dir, start)
    total, of_each = len(labels), options.num_images
    if given is not None:
        rows = np.split(pixels, len(options.classes or [None]))
        pixels = np.concatenate([part for row in rows for part in (given.shown()[None], row)])
    columns, names = None, []
    if total > MOST_IN_GRID:
        title += f", the first {MOST_IN_GRID} of {total}"
        pixels = pixels[:MOST_IN_GRID]
    if options.classes:
        of_each += given is not None
        columns = max(number for number in range(1, 21) if of_each % number == 0)
        if 2 * columns < figures.grid_columns(of_each):  # such as 1, of a prime number
            columns = figures.grid_columns(of_each)
        if total <= MOST_IN_GRID:
            names = [name_of(label, config) for label in labels[:: options.num_images]]
            blank = np.full((-of_each % columns, *pixels.shape[1:]), 255, "uint8")
            rows = np.split(pixels, len(names))
            pixels = np.concatenate([part for row in rows for part in (row, blank)])
    if options.images_dir:
        forget_record(options.images_dir)
        print(f"wrote {total - start} images into {options.images_dir}")
    figure = figures.image_grid(pixels, title, columns, names=names)
    figures.save_figure(figure, options.output)
    print(f"wrote {options.output}")
