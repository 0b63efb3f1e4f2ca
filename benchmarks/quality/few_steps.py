"""Quality in few network calls: samplers, a free first call, and a distilled student.

    python -m benchmarks.quality.few_steps --calls 3 4 5 --csv few_steps.csv --kid-weights FILE

measures DDIM and iPNDM with guidance. "Free first" replaces the first call, whose noisy images are
almost pure noise, by a table of the mean image of each class. That is an analytical first step
(Dockhorn et al. 2022, https://arxiv.org/abs/2210.05475), here from the training images.

    python -m benchmarks.quality.few_steps --student flowers-few --calls 4 --teacher-steps 20 \
        --grid grid.png --csv few_steps.csv --kid-weights FILE

adds the student, DDIM in more steps, and a grid of all from the same noises. Earlier rows stay in
the file. All settings use the same noises, classes and validation images.

    python -m benchmarks.quality.few_steps --csv few_steps.csv --figure few_steps.png

draws the KID against the evaluations of the network, two for each call with guidance.
"""

import argparse
import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ddim_keras.cli.options import (
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    add_run_option,
    add_sampling_options,
    at_least,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import GUIDANCE
from ddim_keras.runs.folder import find_run, load_model

COLUMNS = (
    *("setting", "calls", "evaluations", "images", "kid", "kid_standard_error"),
    *("precision", "recall", "images_per_second"),
)
SHOWN = 8  # images of each row of the grid


def main() -> None:
    arguments = parse_arguments()
    choose_backend(arguments.backend)
    import_keras()
    import keras

    from ddim_keras.data.cache import load_dataset
    from ddim_keras.metrics.encoders import choose_encoder
    from ddim_keras.metrics.feature_distances import precision_and_recall
    from ddim_keras.metrics.kid import KernelInceptionDistance
    from ddim_keras.plots.figures import image_grid, save_figure

    if arguments.figure:
        draw(arguments.csv, arguments.figure)
        return
    keras.config.set_dtype_policy(arguments.precision)
    run = find_run(arguments.run)
    config = run.read_config()
    dataset = load_dataset(
        config.dataset,
        config.model.network.image_size,
        arguments.data_dir or config.data_dir,
        arguments.cache_dir,
    )
    kid = KernelInceptionDistance(choose_encoder(arguments.kid_weights), dataset.validation_images)
    model = load_model(run.weights_to_show())
    settings = settings_of(arguments, model, mean_images(model, dataset))
    print("| setting | calls | evaluations | KID | precision | recall | images/s | CPU s/image |")
    print("|---|---|---|---|---|---|---|---|")
    rows, grid = [], []
    for name, calls, evaluations, generate in settings:
        generate(arguments.batch_size)  # compiles
        start, processor_start = time.perf_counter(), time.process_time()
        images = generate(arguments.num_images)
        seconds = time.perf_counter() - start
        processor_seconds = time.process_time() - processor_start
        features = kid.encoder.features(images)
        distance = kid.of_all_pairs(features)
        precision, recall = precision_and_recall(kid.real_features, features)
        values = (name, calls, evaluations, len(images), distance.value, distance.standard_error)
        values = (*values, precision, recall, len(images) / seconds)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
        grid.append(images[:SHOWN])
        print(
            f"| {name} | {calls} | {evaluations} | {distance.value:.4f} ± "
            f"{distance.standard_error:.4f} | {precision:.2f} | {recall:.2f} | "
            f"{len(images) / seconds:.1f} | {processor_seconds / len(images):.4f} |",
            flush=True,
        )
        if arguments.csv:
            add_row(arguments.csv, rows[-1])
    if arguments.grid:
        calls = [f"{row['calls']} call{'s' * (row['calls'] != 1)}" for row in rows]
        names = [f"{row['setting']}, {count}" for row, count in zip(rows, calls, strict=True)]
        title = f"the same noises, seed {arguments.seed}"
        figure = image_grid(np.concatenate(grid), title, columns=SHOWN, names=names)
        save_figure(figure, arguments.grid)


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_option(parser)
    whole = {"type": at_least(1), "metavar": "N"}
    parser.add_argument("--calls", **whole, nargs="*", default=[], help="network calls per image")
    parser.add_argument(
        "--teacher-steps", **whole, nargs="*", default=[], help="calls of DDIM alone"
    )
    parser.add_argument("--student", metavar="RUN", help="a student of this model")
    parser.add_argument(
        "--no-free-first", action="store_true", help="omit the table of mean images"
    )
    parser.add_argument(
        "--num-images", **whole, default=1638, help="images per KID (default: 1638)"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="file to which rows are added")
    parser.add_argument(
        "--figure", type=Path, metavar="FILE", help="figure of the rows, a .png file"
    )
    parser.add_argument("--grid", type=Path, metavar="FILE", help="grid of images, a .png file")
    add_sampling_options(parser)
    add_data_options(parser, data_dir="the run's")
    add_kid_weights_option(parser)
    add_backend_option(parser)
    return parser.parse_args()


def settings_of(
    arguments: argparse.Namespace, model: Any, means: np.ndarray
) -> list[tuple[str, int, int, Callable[[int], np.ndarray]]]:
    """Name, calls, evaluations per image, and a function that generates, of each setting."""

    def drawing(model: Any, steps: int, **options: Any) -> Callable[[int], np.ndarray]:
        common = {"seed": arguments.seed, "batch_size": arguments.batch_size}
        return lambda num_images: model.generate(num_images, steps, **common, **options)

    settings = []
    for calls in arguments.calls:
        for sampler in ("ddim", "ipndm"):
            evaluations = 2 * calls
            settings.append((sampler, calls, evaluations, drawing(model, calls, sampler=sampler)))
            if not arguments.no_free_first:
                free = drawing(model, calls + 1, sampler=sampler, guidance=free_first(means))
                settings.append((f"{sampler}, free first", calls, evaluations, free))
    if arguments.student:
        student = load_model(find_run(arguments.student).weights_to_show())
        for calls in student.config.student_steps:
            settings.append(("student", calls, calls, drawing(student, calls)))
    for calls in arguments.teacher_steps:
        settings.append(("ddim", calls, 2 * calls, drawing(model, calls)))
    return settings


def mean_images(model: Any, dataset: Any) -> np.ndarray:
    """(C + 1, H, W, channels): the mean of each class, normalised, and last that of all images."""
    images, labels = dataset.train_images, np.asarray(dataset.train_labels)
    means = [images[labels == label].mean(axis=0) for label in range(model.num_classes)]
    return np.asarray(model.normalize(np.stack([*means, images.mean(axis=0)]) / 255))


def free_first(means: np.ndarray) -> Callable[..., Any]:
    """Guidance whose first prediction is the mean image of the class, without a network call."""
    from ddim_keras.guidance import Guidance

    def guide(denoise: Any, labels: np.ndarray) -> Any:
        guided = Guidance(GUIDANCE)(denoise, labels)
        images = (1 + GUIDANCE) * means[labels] - GUIDANCE * means[-1]
        calls = 0

        def denoise_or_look_up(noisy_images: Any, noise_rates: Any, signal_rates: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                return guided(noisy_images, noise_rates, signal_rates)
            return (noisy_images - signal_rates * images) / noise_rates, images

        return denoise_or_look_up

    return guide


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to a CSV file."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if is_new:
            writer.writeheader()
        writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})


def draw(source: Path, path: Path) -> None:
    """Draws the rows of a CSV file."""
    from matplotlib.figure import Figure

    from ddim_keras.plots.figures import PIXELS_PER_INCH, save_figure

    with source.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["evaluations"]))
    figure = Figure(figsize=(7, 4.5), dpi=PIXELS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    for name in sorted({row["setting"] for row in rows}):
        line = [row for row in rows if row["setting"] == name]
        values = [[float(row[key]) for row in line] for key in COLUMNS[2:6] if key != "images"]
        axes.errorbar(*values[:2], yerr=values[2], marker="o", capsize=2, label=name)
    axes.set(xlabel="evaluations of the network per image", ylabel="KID", xscale="log")
    axes.set_xticks(ticks := sorted({int(row["evaluations"]) for row in rows}), labels=ticks)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    run_command(main)
