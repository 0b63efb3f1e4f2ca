"""Trains a DCGAN for comparison with diffusion: the same images, KID and computing time.

    python examples/gan.py --seconds 1200 --run runs/gan
    python examples/gan.py --run runs/gan --compare runs/other

The run folder gets `gan.json` with the history, curves, a grid of images from the same noises for
each measurement, and a figure of all grids. Repeating the command continues an interrupted training
from the last measurement. `--compare` measures how similar the images of two trainings, of GANs or
of diffusion models, are for equal noises.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from ddim_keras.atomic import written_whole
from ddim_keras.cli.options import (
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    at_least,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError

WIDTH = 32  # of DCGAN; 128 in the paper
# After 301 CPU seconds, batches of 16 and 64 had a KID of 0.46 and 0.83: at equal time, more steps
# help more than larger batches.
BATCH_SIZE = 16
LEARNING_RATE = 2e-4
MEASUREMENTS = 10  # of a training, evenly in its time
BLOCK_STEPS = 10  # between two looks at the time
GRID_IMAGES = 32
EVOLUTION_IMAGES = 4
# The settings that determine a training, and must be the same when it continues.
SETTINGS = (
    *("dataset", "image_size", "seconds", "batch_size", "learning_rate", "leave_out"),
    *("num_images", "seed"),
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--run",
        type=Path,
        metavar="DIR",
        default=Path("runs/gan"),
        help="run folder (default: %(default)s)",
    )
    add("--compare", type=Path, metavar="DIR", help="another run to compare with; no training")
    add("--dataset", help="as in train.py (default: Oxford Flowers 102, else drawn flowers)")
    add(
        "--image-size",
        type=at_least(8),
        metavar="N",
        default=64,
        help="height and width in pixels, a power of 2 (default: 64)",
    )
    add(
        "--seconds",
        type=at_least(1),
        metavar="S",
        default=1200,
        help="CPU seconds of training, of all cores together (default: %(default)s)",
    )
    add(
        "--batch-size",
        type=at_least(2),
        metavar="N",
        default=BATCH_SIZE,
        help="images per step (default: %(default)s)",
    )
    add(
        "--learning-rate",
        type=float,
        metavar="R",
        default=LEARNING_RATE,
        help="learning rate of Adam (default: %(default)s)",
    )
    add(
        "--leave-out",
        type=float,
        metavar="SHARE",
        default=0.0,
        help="share of the training images to omit, drawn at random (default: %(default)s)",
    )
    add(
        "--num-images",
        type=at_least(GRID_IMAGES),
        metavar="N",
        default=256,
        help="generated images per KID (default: 256)",
    )
    add("--seed", type=at_least(0), metavar="N", default=0, help="random seed (default: 0)")
    add_data_options(parser, "~/tensorflow_datasets")
    add_kid_weights_option(parser)
    add_backend_option(parser)
    return parser.parse_args()


def require_power_of_2(image_size: int) -> None:
    """Raises InputError for a size that layers which double or halve it cannot reach."""
    if image_size & (image_size - 1):
        raise InputError(f"--image-size must be a power of 2, not {image_size}")


def main() -> None:
    arguments = parse_arguments()
    require_power_of_2(arguments.image_size)
    if not 0 < arguments.learning_rate < math.inf or not 0 <= arguments.leave_out < 1:
        raise InputError("--learning-rate must be above 0, and --leave-out at least 0 and below 1")
    choose_backend(arguments.backend)

    # Keras is imported only now, after --help and the choice of the backend.
    import_keras()
    if arguments.compare:
        images = [
            images_of(run, arguments.num_images) for run in (arguments.run, arguments.compare)
        ]
        same, others = correlations(*images)
        print(f"correlation of images: {same:.3f} from equal noises, {others:.3f} from different")
        return
    import keras

    from ddim_keras.backends.devices import fast_precision
    from ddim_keras.data.cache import load_dataset
    from ddim_keras.metrics.encoders import choose_encoder
    from ddim_keras.metrics.kid import KernelInceptionDistance

    settings = {name: getattr(arguments, name) for name in SETTINGS}
    record = GanRecord(arguments.run, settings)
    dataset = load_dataset(
        arguments.dataset, arguments.image_size, arguments.data_dir, arguments.cache_dir
    )
    print(f"data: {dataset.describe()}", flush=True)
    images = without_share(dataset.train_images, arguments.leave_out, arguments.seed)
    encoder = choose_encoder(arguments.kid_weights)
    of_kid = min(64, len(dataset.validation_images), arguments.num_images)
    kid = KernelInceptionDistance(encoder, dataset.validation_images, of_kid)
    keras.config.set_dtype_policy(fast_precision())
    gan = build_gan(dataset.train_images.shape[1:], settings)
    record.load(gan)
    train(gan, images, record, kid)


class GanRecord:
    """The run folder: `gan.json`, the weights of the last measurement, and pictures.

    Attributes:
        settings: settings of the training.
        history: a dictionary for each measurement.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings, self.history = folder, settings, []
        if self.file.exists():
            found = read_record(folder)
            if found["settings"] != settings:
                raise InputError(f"{folder} holds a run of other settings; choose another --run")
            self.history = found["history"]
        elif folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} holds something else; choose another --run")

    @property
    def file(self) -> Path:
        return self.folder / "gan.json"

    def load(self, gan: Any) -> None:
        """Loads the state of the last measurement, if any, into a GAN."""
        from ddim_keras.runs.weights import load_weights

        if self.history:
            load_weights(gan, weights_file(self.folder, self.history))

    def add(self, gan: Any, row: dict[str, Any], images: np.ndarray, protocol: str) -> None:
        """Saves the state of a measurement, and draws; a kill loses at most this measurement."""
        from ddim_keras.plots.figures import image_grid, read_samples, save_figure, save_samples
        from ddim_keras.runs.weights import save_weights

        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        old, self.history = self.history, [*self.history, row]
        save_weights(gan, weights_file(self.folder, self.history))
        with written_whole(self.file) as part:
            record = {
                "settings": self.settings,
                "image_shape": images.shape[1:],
                "protocol": protocol,
                "history": self.history,
            }
            part.write_text(json.dumps(record, indent=2) + "\n")
        if old:
            weights_file(self.folder, old).unlink(missing_ok=True)
        title = f"DCGAN, {row['seconds']:.0f} CPU seconds, seed 0"
        grids = [self.folder / "samples" / f"{i:02d}.png" for i in range(1, len(self.history) + 1)]
        save_samples(images[:GRID_IMAGES], title, grids[-1])
        evolution = np.concatenate([read_samples(grid)[:EVOLUTION_IMAGES] for grid in grids])
        title = "the same noises over time"
        figure = image_grid(evolution, title, columns=EVOLUTION_IMAGES, zoom=1)
        save_figure(figure, self.folder / "evolution.png")
        save_figure(curves(self.history, protocol), self.folder / "curves.png")


def read_record(folder: Path) -> dict[str, Any]:
    """Reads gan.json; raises InputError if it is broken."""
    try:
        record = json.loads((folder / "gan.json").read_text())
        if not isinstance(record["settings"], dict) or not record["history"]:
            raise ValueError("there is no measurement in it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'gan.json'} is not the record of a GAN: {error}") from error
    return record


def weights_file(folder: Path, history: list[dict[str, Any]]) -> Path:
    """The weights of the last row, named by its step so that they always match."""
    return folder / f"step_{history[-1]['step']:06d}.weights.h5"


def without_share(images: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The images in order, without a share of them chosen by the seed."""
    order = np.random.default_rng([seed, 1]).permutation(len(images))
    return np.asarray(images[np.sort(order[round(share * len(images)) :])])


def build_gan(shape: tuple[int, ...], settings: dict[str, Any]) -> Any:
    """A compiled DCGAN for images of a shape (H, W, C)."""
    from dcgan import DCGAN

    gan = DCGAN(shape[0], shape[-1], WIDTH, settings["seed"])
    gan.compile(settings["learning_rate"])
    return gan


def train(gan: Any, images: np.ndarray, record: GanRecord, kid: Any) -> None:
    """Trains from the last measurement until the computing time of the settings is used up."""
    seconds, seed, batch_size = (
        record.settings[name] for name in ("seconds", "seed", "batch_size")
    )
    last = record.history[-1] if record.history else {"step": 0, "seconds": 0.0}
    step, spent = last["step"], last["seconds"]
    while spent < seconds:
        target = min(seconds, (len(record.history) + 1) * seconds / MEASUREMENTS)
        blocks = []
        while spent < target or not blocks:
            start = time.process_time()
            blocks.append(train_steps(gan, images, step, BLOCK_STEPS, batch_size, seed))
            spent += time.process_time() - start
            step += BLOCK_STEPS
        losses = {name: float(np.mean([block[name] for block in blocks])) for name in blocks[0]}
        if not all(map(math.isfinite, losses.values())):
            raise InputError("the losses are not finite any more: the training diverged")
        generated = gan.generate(record.settings["num_images"], seed=0)
        distance = kid(generated)
        row = {
            "step": step,
            "images": step * batch_size,
            "seconds": round(spent, 1),
            **losses,
            "kid": distance.value,
            "kid_standard_error": distance.standard_error,
        }
        record.add(gan, row, generated, kid.protocol)
        print(f"{spent:.0f} s, {row['images']} images, {kid.protocol}: {distance}", flush=True)


def train_steps(
    gan: Any, images: np.ndarray, first_step: int, num_steps: int, batch_size: int, seed: int
) -> dict[str, float]:
    """Trains from a step on batches that depend only on the seed; returns the mean losses."""
    from dcgan import draw_noises

    from ddim_keras.data.batches import training_batches

    labels = np.zeros(len(images), "int32")
    batches = training_batches(
        images, labels, batch_size, flip=True, seed=seed, start_step=first_step
    )
    logs = []
    for step in range(first_step, first_step + num_steps):
        noises = draw_noises(batch_size, np.random.default_rng([seed, step]))
        logs.append(gan.train_on_batch(next(batches)[0], noises, return_dict=True))
    return {name: float(np.mean([float(log[name]) for log in logs])) for name in logs[0]}


def images_of(folder: Path, num_images: int) -> np.ndarray:
    """Images (N, H, W, C) in [0, 1] from seed 0, of a run of a GAN or diffusion model."""
    if not (folder / "gan.json").exists():
        from ddim_keras.runs.folder import Run, load_model

        return load_model(Run(folder).weights_to_show()).generate(num_images, 20, seed=0)
    from ddim_keras.runs.weights import load_weights

    record = read_record(folder)
    gan = build_gan(record["image_shape"], record["settings"])
    load_weights(gan, weights_file(folder, record["history"]))
    return gan.generate(num_images, seed=0)


def correlations(images: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Mean correlation of the pixels of image i with those of image i, and of image i + 1.

    For differences from the mean image of each set.
    """
    rows, other_rows = (unit_differences(each, each.mean(axis=0)) for each in (images, others))
    same, shuffled = (
        float(np.mean(np.sum(rows * np.roll(other_rows, shift, axis=0), axis=1)))
        for shift in (0, 1)
    )
    return same, shuffled


def unit_differences(images: np.ndarray, mean_image: np.ndarray) -> np.ndarray:
    """Differences from an image as unit vectors (N, H * W * C); products are correlations."""
    differences = (images - mean_image).reshape(len(images), -1)
    lengths = np.linalg.norm(differences, axis=1, keepdims=True)
    return differences / np.maximum(lengths, 1e-6)


def curves(history: list[dict[str, Any]], protocol: str) -> Any:
    """Losses and KID against the computing time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss_axes, kid_axes = figure.subplots(1, 2)
    seconds = [row["seconds"] for row in history]
    for name in ("discriminator_loss", "generator_loss"):
        values = [row[name] for row in history]
        loss_axes.plot(seconds, values, marker=".", label=name.replace("_", " "))
    loss_axes.axhline(
        2 * math.log(2), color="grey", linestyle=":", label="discriminator that guesses"
    )
    loss_axes.set(ylabel="loss")
    loss_axes.legend()
    distances, errors = ([row[name] for row in history] for name in ("kid", "kid_standard_error"))
    kid_axes.errorbar(seconds, distances, yerr=errors, marker=".", capsize=2, color="tab:green")
    kid_axes.set(ylabel=protocol)
    for axes in (loss_axes, kid_axes):
        axes.set(xlabel="CPU seconds of training")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    run_command(main)
