"""A diffusion model against a GAN: five observations from the course's report as experiments.

    python -m benchmarks.quality.gan_experiments --output runs/gan_experiments --kid-weights FILE

trains `fast` and the DCGAN of examples/gan.py from random weights on the same images, each for the
same computing time: with its own recipe, with 5 % of the images left out, with another seed, and
with its learning rate multiplied and divided by 3. On a CPU, seconds are summed over all cores, so
that other processes have little influence; on a GPU they are wall-clock time. Compiling, generating
and measuring do not count. The number of steps is determined once for all trainings of a kind.

The output folder gets `trainings.csv` with a line for each measurement, the last images of each
training, and two figures. The same command continues after the last complete training.
"""

import argparse
import csv
import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import gan

from benchmarks.quality import gan_report
from benchmarks.quality.equal_time import (
    WARM_UP,
    DiffusionTraining,
    computing_clock,
    require_same_settings,
    steps_within,
)
from benchmarks.quality.gan_report import (
    CALLS,
    DATA,
    EXPERIMENTS,
    KINDS,
    PHOTOGRAPHS,
    SHOWN,
    TWIN,
    Curves,
    Row,
    draw,
    table_of_trainings,
)
from ddim_keras.atomic import written_whole
from ddim_keras.cli.options import (
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    at_least,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError
from ddim_keras.presets import FAST


@dataclass(frozen=True)
class Variation:
    """How a training differs from its recipe."""

    leave_out: float = 0.0
    seed: int = 0
    rate_factor: float = 1.0


VARIATIONS = {
    "recipe": Variation(),
    "left_out": Variation(leave_out=0.05),
    "other_seed": Variation(seed=1),
    "rate_times_3": Variation(rate_factor=3.0),
    "rate_by_3": Variation(rate_factor=1 / 3),
}
MEASUREMENTS = 8  # of a training, evenly in its steps
SETTINGS = ("dataset", "image_size", "seconds", "num_images")  # the same for a whole folder


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=gan_report.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--only",
        type=int,
        nargs="+",
        choices=EXPERIMENTS,
        metavar="N",
        default=list(EXPERIMENTS),
        help="experiments, 1 to 5, as listed below (default: all)",
    )
    seconds = "CPU seconds per training, of all cores together (default: %(default)s)"
    add("--seconds", type=at_least(1), metavar="S", default=1200, help=seconds)
    add("--dataset", default="oxford_flowers102", help="as in train.py (default: %(default)s)")
    size = "pixels, a power of 2 (default: %(default)s)"
    add("--image-size", type=at_least(8), metavar="N", default=64, help=size)
    count = "generated images per measurement (default: %(default)s)"
    add("--num-images", type=at_least(SHOWN), metavar="N", default=512, help=count)
    place = Path("runs/gan_experiments")
    add("--output", type=Path, metavar="DIR", default=place, help="folder (default: %(default)s)")
    add_data_options(parser, "~/tensorflow_datasets")
    add_kid_weights_option(parser)
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    folder = arguments.output
    gan.require_power_of_2(arguments.image_size)
    require_same_settings(folder, {name: getattr(arguments, name) for name in SETTINGS})
    chosen = [EXPERIMENTS[number] for number in sorted(set(arguments.only))]
    wanted = {"recipe", *itertools.chain(*(experiment.variations for experiment in chosen))}
    names = [f"{kind} {variation}" for variation in VARIATIONS for kind in KINDS]
    missing = [
        name for name in names if name.split()[1] in wanted and name not in read_curves(folder)
    ]
    if missing:
        choose_backend(arguments.backend)
        import_keras()
        train_all(arguments, missing)
    curves = read_curves(folder)
    images = {name: read_images(folder, name) for name in names if name in curves}
    correlations = {
        (kind, each): gan.correlations(images[f"{kind} recipe"], images[f"{kind} {each}"])
        for kind, each in itertools.product(KINDS, DATA)
        if f"{kind} {each}" in images
    }
    print(table_of_trainings(curves))
    print("\n| observation | measured | verdict |\n|---|---|---|")
    for experiment in chosen:
        cells = (experiment.observation, *experiment.judge(curves, correlations))
        print(f"| {' | '.join(cells)} |")
    draw(folder, curves, images)


# Files.


def read_curves(folder: Path) -> Curves:
    """The rows of trainings.csv by training, in their order."""
    curves: Curves = {}
    if (folder / "trainings.csv").exists():
        with (folder / "trainings.csv").open(newline="") as file:
            for line in csv.DictReader(file):
                texts = {name: line.pop(name) for name in ("training", "protocol")}
                values = {name: float(value) for name, value in line.items()}
                curves.setdefault(texts["training"], []).append(texts | values)
    return curves


def add_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Adds the rows of a training to trainings.csv atomically."""
    rows = [*itertools.chain(*read_curves(folder).values()), *rows]
    with written_whole(folder / "trainings.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def read_images(folder: Path, name: str) -> np.ndarray:
    """The last images of a training, (N, H, W, C) in [0, 1]."""
    from ddim_keras.plots.figures import read_samples

    return read_samples(picture(folder, name)) / np.float32(255)


def picture(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '_')}.png"


# Training and measuring.


class Diffusion(DiffusionTraining):
    """`fast`, without classes."""

    def __init__(self, images: np.ndarray, variation: Variation, total_steps: int) -> None:
        rate = FAST.training.learning_rate * variation.rate_factor
        config = dataclasses.replace(FAST.model, seed=variation.seed)
        recipe = dataclasses.replace(FAST.training, learning_rate=rate)
        super().__init__(config, recipe, images, total_steps)
        self.batch_size = recipe.batch_size

    def generate(self, num_images: int) -> np.ndarray:
        return self.model.generate(num_images, CALLS["diffusion"], seed=0)


class Gan:
    """The DCGAN of examples/gan.py."""

    batch_size = gan.BATCH_SIZE

    def __init__(self, images: np.ndarray, variation: Variation, total_steps: int) -> None:
        import keras

        from ddim_keras.backends.devices import fast_precision

        keras.config.set_dtype_policy(fast_precision())
        rate = gan.LEARNING_RATE * variation.rate_factor
        settings = {"seed": variation.seed, "learning_rate": rate}
        self.images, self.seed = images, variation.seed
        self.model = gan.build_gan(images.shape[1:], settings)

    def train(self, first_step: int, num_steps: int) -> None:
        steps = (first_step, num_steps, self.batch_size)
        gan.train_steps(self.model, self.images, *steps, self.seed)

    def generate(self, num_images: int) -> np.ndarray:
        return self.model.generate(num_images, seed=0)


CONTENDERS: dict[str, Any] = {"diffusion": Diffusion, "gan": Gan}


def train_all(arguments: argparse.Namespace, missing: Sequence[str]) -> None:
    """Runs the missing trainings, and saves each as soon as it is complete."""
    from ddim_keras.data.batches import random_images
    from ddim_keras.data.cache import load_dataset
    from ddim_keras.metrics.encoders import choose_encoder
    from ddim_keras.metrics.kid import KernelInceptionDistance
    from ddim_keras.plots.figures import save_samples
    from ddim_keras.progress import duration

    clock = computing_clock()
    folder, place = arguments.output, (arguments.data_dir, arguments.cache_dir)
    data = load_dataset(arguments.dataset, arguments.image_size, *place)
    kid = KernelInceptionDistance(choose_encoder(arguments.kid_weights), data.validation_images)
    photographs = np.asarray(data.train_images)
    mean_image = photographs.mean(axis=0) / 255
    start, count = time.monotonic(), arguments.num_images
    floor = measured(random_images(photographs, count) / np.float32(255), kid, mean_image)
    if PHOTOGRAPHS not in read_curves(folder):
        cost = {"step": 0, "steps": 0, "images": 0, "seconds": 0.0, "generated_per_second": 0.0}
        add_rows(folder, [{"training": PHOTOGRAPHS, **cost, **floor}])
    elif read_curves(folder)[PHOTOGRAPHS][0]["protocol"] != floor["protocol"]:
        raise InputError(f"{folder} was measured with other --kid-weights; choose another --output")
    for number, name in enumerate(missing):
        kind, key = name.split()
        variation = VARIATIONS[key]
        known = read_curves(folder).get(f"{kind} recipe")
        if known:
            steps = int(known[0]["steps"])
        else:
            probe = CONTENDERS[kind](photographs, variation, 1000)
            steps = steps_within(arguments.seconds, probe, clock, WARM_UP + MEASUREMENTS)
        kept = gan.without_share(photographs, variation.leave_out, variation.seed)
        rows = []
        for row, images in training(CONTENDERS[kind](kept, variation, steps), steps, count, clock):
            rows.append({"training": name, **row, **measured(images, kid, mean_image)})
            share = number + len(rows) / MEASUREMENTS
            left = duration((time.monotonic() - start) / share * (len(missing) - share))
            text = f"{name}, {row['seconds']:.0f} CPU s: KID {rows[-1]['kid']:.4f}"
            print(f"{number + 1}/{len(missing)}: {text}; {left} left", flush=True)
        save_samples(images, f"{name}, seed 0", picture(folder, name))
        add_rows(folder, rows)


def training(
    contender: Any, steps: int, num_images: int, clock: Callable[[], float]
) -> Iterator[tuple[Row, np.ndarray]]:
    """Trains; yields the cost so far and generated images, until the end or infinite weights."""
    contender.train(0, WARM_UP)
    done, spent = WARM_UP, 0.0
    for number in range(1, MEASUREMENTS + 1):
        until = WARM_UP + (steps - WARM_UP) * number // MEASUREMENTS
        start = clock()
        contender.train(done, until - done)
        trained = clock()
        images = contender.generate(num_images)
        spent, done = spent + trained - start, until
        row = {
            "step": done,
            "steps": steps,
            "images": done * contender.batch_size,
            "seconds": spent * done / (done - WARM_UP),
            "generated_per_second": num_images / (clock() - trained),
        }
        yield row, images
        if not np.isfinite(images).all():
            return


def measured(images: np.ndarray, kid: Any, mean_image: np.ndarray) -> Row:
    """Quality and variety of images; NaN if they are not finite."""
    from ddim_keras.metrics.feature_distances import precision_and_recall

    values = dict.fromkeys(("kid", "kid_standard_error", "recall", "twins"), math.nan)
    if np.isfinite(images).all():
        features = kid.encoder.features(images)
        distance = kid.of_all_pairs(features)
        _, recall = precision_and_recall(kid.real_features, features)
        found = (distance.value, distance.standard_error, recall)
        values = dict(zip(values, (*found, share_of_twins(images, mean_image)), strict=True))
    return {**values, "protocol": f"KID of all pairs, {kid.encoder.description}"}


def share_of_twins(images: np.ndarray, mean_image: np.ndarray) -> float:
    """Share of images that are nearly identical to another one."""
    rows = gan.unit_differences(images, mean_image)
    products = rows @ rows.T
    np.fill_diagonal(products, -1)
    return float(np.mean(products.max(axis=1) > TWIN))


if __name__ == "__main__":
    run_command(main)
