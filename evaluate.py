"""Measures how far generated images are from real ones, for samplers and numbers of steps.

What was measured before of the same weights stays in the table, and in the plot where it compares.
Or searches where few steps should lie, with --search-steps.
"""

import argparse
import contextlib
import csv
import dataclasses
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim_keras.atomic import written_whole
from ddim_keras.cli.options import (
    Parser,
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    add_run_option,
    add_sampler_options,
    add_sampling_options,
    at_least,
    finite,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import PRETRAINED, Run, find_run, load_model

ESTIMATOR = "all pairs"  # of the KID; earlier results are of batches of 64, with larger errors
METRICS = ("kid", "frechet", "precision_recall")
AXES = {
    "kid": "KID",
    "frechet": "Frechet distance",
    "precision": "precision",
    "recall": "recall",
}

EXAMPLES = """examples:
  python evaluate.py                                     the newest run, DDIM
  python evaluate.py --samplers ddim ipndm dpm_solver --steps 5 10 20
  python evaluate.py --split train --spacing time rho --last-signal-rate 0.95 0.98
                                                         to choose where the steps lie
  python evaluate.py --search-steps 5 10 20              searches it, and
  python evaluate.py --spacing time searched             shows what that gains
  python evaluate.py --search-steps 5 --search-by kid --samplers ipndm --spacing rho
                                                         longer, for one sampler
"""


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add_run_option(parser)
    add(
        "--search-steps",
        nargs="+",
        type=at_least(1),
        metavar="N",
        help="instead of measuring, search the best places of so many steps, and store them in the "
        "run folder for --spacing searched",
    )
    add(
        "--search-by",
        choices=("trajectory", "kid"),
        default="trajectory",
        help="trajectory: the path whose steps stray least from a fine solution, in a minute and "
        "without real images; kid: move one step after the other as long as the KID against "
        "training images falls, from the first of --spacing and --last-signal-rate on, for the "
        "first of --samplers (default: trajectory)",
    )
    add_sampler_options(parser, several=True)
    add(
        "--steps",
        nargs="+",
        type=at_least(1),
        metavar="N",
        default=[5, 10, 20],
        help="(default: 5 10 20)",
    )
    add(
        "--guidance",
        type=finite,
        metavar="W",
        default=0.0,
        help="of a class-conditional run, see generate.py; doubles the cost of each network call "
        "(default: 0; generate.py has another for images of classes)",
    )
    add(
        "--metrics",
        nargs="+",
        choices=METRICS,
        default=["kid"],
        help="frechet and precision_recall depend on --num-images (default: kid)",
    )
    add(
        "--num-images",
        type=at_least(128),
        metavar="N",
        default=1024,
        help="generated for each measurement (default: 1024)",
    )
    add(
        "--split",
        choices=("validation", "train"),
        default="validation",
        help="the real images to compare with; choose settings on train, and report validation "
        "(default: validation)",
    )
    add_sampling_options(parser)
    add_kid_weights_option(parser)
    add_data_options(parser, data_dir="the run's")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of evaluation.csv and evaluation.png, or of the searched steps (default: the "
        "run folder; for the model that comes with the project the current one)",
    )
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    run = find_run(arguments.run)
    config = run.read_config()
    weights = run.weights_to_show()
    if "searched" in arguments.spacing:
        run.read_sampling_steps()  # now, in case there are none
    if arguments.guidance and not config.model.network.num_classes:
        raise InputError(f"{run.folder} is not class-conditional; leave --guidance away")
    choose_backend(arguments.backend)

    # Keras is imported from here on, after the backend has been chosen and --help answered.
    import_keras()
    import keras

    keras.config.set_dtype_policy(arguments.precision)
    model = load_model(weights)
    if arguments.search_steps:
        search = search_by_kid if arguments.search_by == "kid" else search_by_trajectory
        folder = output_folder(run, arguments.output)
        store_steps(search(arguments, run, model), run, folder)
    else:
        evaluate(arguments, run, config, model, chosen_settings(arguments, model))


def search_by_trajectory(
    arguments: argparse.Namespace, run: Run, model: Any
) -> dict[int, list[float]]:
    """Searches where so many steps stray least from a fine solution."""
    from ddim_keras.progress import sampling_progress
    from ddim_keras.step_search import CANDIDATES, NUM_IMAGES, search_steps

    return search_steps(
        model,
        sorted(set(arguments.search_steps)),
        batch_size=arguments.batch_size,
        guidance=arguments.guidance,
        callback=sampling_progress(-(-NUM_IMAGES // arguments.batch_size), CANDIDATES),
    )


def search_by_kid(arguments: argparse.Namespace, run: Run, model: Any) -> dict[int, list[float]]:
    """Searches where so many steps of a sampler give the least KID against training images."""
    from ddim_keras.progress import progress_bar
    from ddim_keras.step_search import coordinate_search, most_measurements

    kid, _ = load_kid(arguments, run.read_config(), split="train")
    sampler = chosen_samplers(arguments)[0]

    def search(steps: int) -> list[float]:
        progress = progress_bar(most_measurements(steps), "measurement")
        values = []

        def measure(signal_rates: list[float]) -> float:
            # Results are to be reported with other noises.
            seed = arguments.seed + 1
            trial = dataclasses.replace(
                sampler, spacing={steps: signal_rates}, last_signal_rate=None
            )
            images = generate(arguments, model, trial, steps, seed)
            values.append(kid.of_all_pairs(kid.encoder.features(images)).value)
            progress.add(1)
            return values[-1]

        best, least = coordinate_search(measure, sampler.signal_rates(model, steps))
        print(f"\n{sampler.name}, {steps} steps: KID {values[0]:.4f} at the start, {least:.4f} now")
        return best

    return {steps: search(steps) for steps in sorted(set(arguments.search_steps))}


def generate(
    arguments: argparse.Namespace,
    model: Any,
    sampler: Any,
    steps: int,
    seed: int,
    callback: Any = None,
) -> Any:
    """As many images as asked for, by a sampler in so many steps."""
    return model.generate(
        arguments.num_images,
        steps,
        sampler=sampler,
        seed=seed,
        batch_size=arguments.batch_size,
        callback=callback,
        guidance=arguments.guidance,
    )


def output_folder(run: Run, output: Path | None) -> Path:
    """--output or, without it, the run; not the package, where the provided model lies."""
    folder = output or (Path() if run.folder == PRETRAINED else run.folder)
    folder.mkdir(parents=True, exist_ok=True)  # now, before the work, in case it fails
    return folder


def store_steps(found: dict[int, list[float]], run: Run, folder: Path) -> None:
    """Stores searched signal rates, with the run as a rule, and prints them."""
    destination = Run(folder)
    destination.save_sampling_steps(found)
    for steps, signal_rates in found.items():
        print(f"{steps} steps at signal rates " + ", ".join(f"{x:.3f}" for x in signal_rates[:-1]))
    print(f"wrote {destination.sampling_steps_file}, for --spacing searched", end="")
    print("" if folder == run.folder else f" once it lies in {run.folder}")


def chosen_samplers(arguments: argparse.Namespace) -> list[Any]:
    """Each sampler with each spacing up to each last signal rate."""
    from ddim_keras.samplers import Sampler

    return [
        Sampler(sampler, spacing, last_signal_rate, eta=arguments.eta)
        for sampler in arguments.samplers
        for spacing in arguments.spacing
        # Searched steps have their own last signal rate.
        for last_signal_rate in ([None] if spacing == "searched" else arguments.last_signal_rate)
    ]


@dataclass(frozen=True)
class Setting:
    """A sampler, and how many steps it makes."""

    sampler: Any
    steps: int
    guidance: float
    signal_rates: list[float]

    @property
    def name(self) -> str:
        """All settings that differ in the number of steps alone have one name."""
        return f"{self.sampler}" + (f", guidance {self.guidance:g}" if self.guidance else "")


def chosen_settings(arguments: argparse.Namespace, model: Any) -> list[Setting]:
    """All that the command line asks for; raises InputError for what does not exist."""
    return [
        Setting(sampler, steps, arguments.guidance, sampler.signal_rates(model, steps))
        for sampler in chosen_samplers(arguments)
        for steps in sorted(set(arguments.steps))
    ]


def evaluate(
    arguments: argparse.Namespace,
    run: Run,
    config: RunConfig,
    model: Any,
    settings: Sequence[Setting],
) -> None:
    """Measures each setting; prints a table, and writes it and a plot after each measurement."""
    from ddim_keras.plots import figures
    from ddim_keras.progress import sampling_progress

    output, weights = output_folder(run, arguments.output), run.weights_to_show()
    kid, other_images = load_kid(arguments, config, arguments.split)
    floor = measured(arguments.metrics, kid, other_images)
    axes = {name: f"{AXES[name]}, {kid.encoder.description}" for name in floor if name in AXES}
    print(
        f"{weights}: {arguments.num_images} images against "
        f"{len(kid.real_features)} {arguments.split} images, features of "
        f"{kid.encoder.description}, {kid.encoder.image_size} px; KID of {ESTIMATOR} of images"
    )

    num_batches = -(-arguments.num_images // arguments.batch_size)
    # Compiles for the size of the batches, so that only work is timed.
    batch_size = -(-arguments.num_images // num_batches)
    model.generate(batch_size, 1, batch_size=batch_size, guidance=arguments.guidance)
    results: list[dict[str, Any]] = []
    conditions = {
        "split": arguments.split,
        "num_images": arguments.num_images,
        "seed": arguments.seed,
        "features": kid.encoder.description,
        "estimator": ESTIMATOR,
    }
    earlier = earlier_results(output / "evaluation.csv", weights)
    for number, setting in enumerate(settings, start=1):
        print(f"{number}/{len(settings)}: {setting.name}, {setting.steps} steps", flush=True)
        start = time.perf_counter()
        images = generate(
            arguments,
            model,
            setting.sampler,
            setting.steps,
            arguments.seed,
            callback=sampling_progress(num_batches, setting.steps),
        )
        seconds = time.perf_counter() - start
        result = {
            "setting": setting.name,
            "sampler": setting.sampler.name,
            "spacing": setting.sampler.spacing or "usual",
            "last_signal_rate": round(setting.signal_rates[-2], 6),
            "steps": setting.steps,
            "network_calls": setting.sampler.network_calls(setting.signal_rates),
            "images_per_second": round(arguments.num_images / seconds, 3),
            **measured(arguments.metrics, kid, images),
            "guidance": arguments.guidance,
            "eta": arguments.eta,
            **conditions,
            "weights": str(weights.resolve()),
        }
        same = {"setting": setting.name, "steps": setting.steps, **conditions}
        earlier = [row for row in earlier if not row.items() >= same.items()]
        results.append(result)
        comparable = [
            row
            for row in earlier
            if row.items() >= conditions.items() and row.keys() >= axes.keys()
        ]
        figure = figures.by_network_calls([*comparable, *results], axes, floor)
        write_results(output, [*earlier, *results], figure)
    print("\n" + table([*comparable, *results], floor))
    print(f"wrote {output}/evaluation.csv and {output}/evaluation.png")


def earlier_results(path: Path, weights: Path) -> list[dict[str, Any]]:
    """The rows of evaluation.csv that were measured of these weights, as they were written."""
    if not path.exists() or path.stat().st_mtime < weights.stat().st_mtime:
        return []
    with open(path, newline="") as file:
        rows = [
            {name: as_number(text) for name, text in row.items() if text}
            for row in csv.DictReader(file)
        ]
    return [row for row in rows if row.get("weights") == str(weights.resolve())]


def as_number(text: str) -> Any:
    """The number that a text is, else the text itself."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def load_kid(arguments: argparse.Namespace, config: RunConfig, split: str) -> tuple[Any, Any]:
    """The KID against the images of a split, and as many of the other one."""
    from ddim_keras.data.batches import random_images
    from ddim_keras.data.cache import load_dataset
    from ddim_keras.metrics.encoders import choose_encoder
    from ddim_keras.metrics.kid import KernelInceptionDistance

    dataset = load_dataset(
        config.dataset,
        config.model.network.image_size,
        arguments.data_dir or config.data_dir,
        arguments.cache_dir,
    )
    real_images = dataset.validation_images
    other_images = random_images(dataset.train_images, len(real_images))
    if split == "train":
        real_images, other_images = other_images, real_images
    return KernelInceptionDistance(choose_encoder(arguments.kid_weights), real_images), other_images


def measured(metrics: Sequence[str], kid: Any, images: Any) -> dict[str, float]:
    """The metrics of images against the real ones that `kid` holds."""
    from ddim_keras.metrics.feature_distances import frechet_distance, precision_and_recall

    features = kid.encoder.features(images)
    values = {}
    if "kid" in metrics:
        distance = kid.of_all_pairs(features)
        values["kid"], values["kid_standard_error"] = distance.value, distance.standard_error
    if "frechet" in metrics:
        values["frechet"] = frechet_distance(kid.real_features, features)
    if "precision_recall" in metrics:
        values["precision"], values["recall"] = precision_and_recall(kid.real_features, features)
    return values


# The columns of the table: title, and how a value is written.
COLUMNS = {
    "setting": ("setting", "{}"),
    "steps": ("steps", "{}"),
    "network_calls": ("calls", "{}"),
    "last_signal_rate": ("last rate", "{:.4f}"),
    "images_per_second": ("images/s", "{:.3g}"),
    "kid": ("KID", "{:.4f}"),
    "kid_standard_error": ("", "± {:.4f}"),
    "frechet": ("Frechet", "{:.2f}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
}


def table(results: Sequence[dict[str, Any]], floor: dict[str, float]) -> str:
    """The results for people, and in the last row what real images score."""
    columns = [name for name in COLUMNS if name in results[-1]]
    lines = [[COLUMNS[name][0] for name in columns]]
    for row in [*results, {"setting": "training against validation", **floor}]:
        lines.append(
            [COLUMNS[name][1].format(row[name]) if name in row else "" for name in columns]
        )
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def write_results(output: Path, results: Sequence[dict[str, Any]], figure: Any) -> None:
    """Writes the table and the plot, after each measurement, so that none is lost."""
    from ddim_keras.plots.figures import save_figure

    with written_whole(output / "evaluation.csv") as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(itertools.chain(*results))))
        writer.writeheader()
        writer.writerows(results)
    save_figure(figure, output / "evaluation.png")


if __name__ == "__main__":
    run_command(main)
