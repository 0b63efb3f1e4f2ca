"""Ablation of the `fast` recipe: its changes added one by one, and each one removed.

    python -m benchmarks.quality.ablation --seconds 600 --kid-weights FILE
    python -m benchmarks.quality.ablation --images 10000 --seeds 0 1 --rows 8 9 10

The first rows lead from `lab` to `fast`, adding one change per row. The first row is `lab` with an
average of constant momentum, the second `lab` itself. The next rows are `fast` without one of the
changes, and the last rows `fast` with an alternative choice. Each trains from random weights, for a
given computing time or number of images. On a CPU, seconds are summed over all cores (two cores
computing for a minute count as 120), so that other processes have little influence; on a GPU they
are wall-clock time. Compiling and measuring do not count. The table is made from `--output`;
trainings already in it are not repeated.
"""

import argparse
import csv
import dataclasses
import functools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ddim_keras.atomic import written_whole
from ddim_keras.cli.options import (
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    at_least,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.presets import FAST, PRESETS, Preset


def values_of(preset: Preset, fields: dict[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """The values of fields of the network, the model and the training of a preset."""
    parts = {
        "network": preset.model.network,
        "model": preset.model,
        "training": preset.training,
    }
    return {
        part: {name: getattr(parts[part], name) for name in names} for part, names in fields.items()
    }


# In the order of the table: each change, and the fields of `fast` that it sets.
LONG_AVERAGE = "lab, its average long from the start"
CHANGES: dict[str, dict[str, tuple[str, ...]]] = {
    LONG_AVERAGE: {},
    "average of the weights short at first": {"model": ("ema_warmup",)},
    "flips": {"training": ("flip",)},
    "adaptive group norm": {"network": ("block",)},
    "patches, wider and fewer blocks, attention": {
        "network": ("patch_size", "widths", "depths", "attention_sizes")
    },
    "velocity, its loss on the noise": {"model": ("prediction",), "training": ("loss_on",)},
    "Huber loss": {"training": ("loss",)},
    "warm-up and cosine decay": {"training": ("warmup_steps", "cosine_decay")},
    "batches of 16": {"training": ("batch_size",)},
    "Muon at learning rate 0.002": {"training": ("optimizer", "learning_rate")},
}
# Patches need adaptive group norm, and without the last change `fast` is the row before.
TAKEN_BACK = [name for name in list(CHANGES)[1:-1] if CHANGES[name] != {"network": ("block",)}]
MAE = {"training": {"loss": "mae"}}
MAE_ON_VELOCITY = {"training": {"loss": "mae", "loss_on": "velocity"}}
SHAPE = CHANGES["patches, wider and fewer blocks, attention"]
# Alternatives to the choices of `fast`: the other values of its fields.
INSTEAD: dict[str, dict[str, dict[str, Any]]] = {
    "Huber loss of delta 0.05": {"training": {"huber_delta": 0.05}},
    "MAE": MAE,
    "MAE, noise prediction": MAE | {"model": {"prediction": "noise"}},
    "MAE, noise prediction, the network of lab": MAE
    | {"model": {"prediction": "noise"}}
    | values_of(PRESETS["lab"], SHAPE),
    "MAE on the velocity": MAE_ON_VELOCITY,
    "MAE on the velocity, signal rates 0.995 to 0.01": MAE_ON_VELOCITY
    | {"model": {"max_signal_rate": 0.995, "min_signal_rate": 0.01}},
    "MAE, image prediction": MAE
    | {"model": {"prediction": "image"}, "training": {"loss": "mae", "loss_on": "prediction"}},
    "one attention head of 192 channels": {"network": {"head_channels": 192}},
    "six attention heads of 32 channels": {"network": {"head_channels": 32}},
    "no attention": {"network": {"attention_sizes": ()}},
    "attention at 16x16, too": {"network": {"attention_sizes": (16, 8)}},
    "deeper and narrower": {"network": {"widths": (40, 80, 152), "depths": (2, 3, 3)}},
    "wider and shallower": {"network": {"widths": (64, 136, 272), "depths": (1, 1, 1)}},
    "resampling inside residual blocks": {"network": {"resampling": "block"}},
    "no skip connections": {"network": {"skips": False}},
    "dropout 0.1": {"network": {"dropout": 0.1}},
    "stratified times": {"model": {"stratified_times": True}},
    "signal rates up to 0.98": {"model": {"max_signal_rate": 0.98}},
}
DATASET = "oxford_flowers102"
SETTINGS = (("DDIM", "ddim", 5), ("DDIM", "ddim", 20), ("iPNDM", "ipndm", 5))
FLOOR = "floor"  # KID of training images, the best possible value
PROBED_STEPS = 6  # timed, after two that compile
FEWEST_STEPS = 3  # of a training: one to time


def recipes() -> dict[str, Preset]:
    """The preset of each row: on the way to `fast`, without a change, or with an alternative."""
    start = preset = changed(PRESETS["lab"], {"model": {"ema_warmup": False}})
    rows = {}
    for name, fields in CHANGES.items():
        preset = changed(preset, values_of(FAST, fields))
        rows[name if name == LONG_AVERAGE else f"+ {name}"] = preset
    for name in TAKEN_BACK:
        rows[f"fast without: {name}"] = changed(preset, values_of(start, CHANGES[name]))
    for name, values in INSTEAD.items():
        rows[f"fast with: {name}"] = changed(preset, values)
    return rows


def changed(preset: Preset, values: dict[str, dict[str, Any]]) -> Preset:
    """A preset with other values of fields of its network, model and training."""
    network = dataclasses.replace(preset.model.network, **values.get("network", {}))
    model = dataclasses.replace(preset.model, network=network, **values.get("model", {}))
    training = dataclasses.replace(preset.training, **values.get("training", {}))
    return Preset(model=model, training=training)


ROWS = recipes()


def parse_arguments() -> argparse.Namespace:
    names = "\n".join(f"  {number:2d}  {name}" for number, name in enumerate(ROWS, start=1))
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"rows:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--seconds", type=at_least(1), metavar="S", help="seconds of computing per row"
    )
    budget.add_argument(
        "--images",
        type=at_least(FEWEST_STEPS * PRESETS["lab"].training.batch_size),
        metavar="N",
        help="training images per row",
    )
    add(
        "--rows",
        nargs="+",
        type=int,
        choices=range(1, len(ROWS) + 1),
        metavar="N",
        default=range(1, len(ROWS) + 1),
        help="rows of the list below (default: all)",
    )
    add(
        "--seeds",
        nargs="+",
        type=at_least(0),
        metavar="N",
        default=[0],
        help="random seeds, one training each (default: 0)",
    )
    add(
        "--num-images",
        type=at_least(128),
        metavar="N",
        default=512,
        help="generated images per KID (default: 512)",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("ablation.csv"),
        help="table with a line per training (default: ablation.csv)",
    )
    add(
        "--keep",
        type=Path,
        metavar="DIR",
        help="folder in which to keep the trainings as runs, for generate.py and evaluate.py",
    )
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    add_kid_weights_option(parser)
    add_data_options(parser, data_dir="~/tensorflow_datasets")
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker:
        choose_backend(arguments.backend)
        add_line(arguments.output, train_row(arguments))
        return
    wanted = [(row, seed) for row in sorted(arguments.rows) for seed in arguments.seeds]
    done = {(int(line["row"]), int(line["seed"])) for line in lines_within_budget(arguments)}
    for number, (row, seed) in enumerate(wanted, start=1):
        if (row, seed) in done:
            continue
        print(f"{number}/{len(wanted)}: {list(ROWS)[row - 1]}, seed {seed}", flush=True)
        command = [sys.executable, "-m", "benchmarks.quality.ablation", *sys.argv[1:]]
        which = ["--worker", "--rows", str(row), "--seeds", str(seed)]
        worker = subprocess.run([*command, *which], check=False)
        if worker.returncode:
            raise SystemExit(worker.returncode)
    print(table(lines_within_budget(arguments)))


def lines_within_budget(arguments: argparse.Namespace) -> list[dict[str, str]]:
    lines = read_lines(arguments.output)
    return [line for line in lines if line["budget"] == budget_of(arguments)]


def budget_of(arguments: argparse.Namespace) -> str:
    return f"{arguments.seconds} s" if arguments.seconds else f"{arguments.images} images"


def read_lines(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add_line(path: Path, line: dict[str, Any]) -> None:
    write_lines(path, [*read_lines(path), line])


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    with written_whole(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[-1])
        writer.writeheader()
        writer.writerows(lines)


def table(lines: list[dict[str, str]]) -> str:
    """Markdown: a line for each training, in the order of the rows."""
    columns = [*(f"{name} {steps}" for name, _, steps in SETTINGS), FLOOR]
    header = ["", "seed", "images", "seconds", "parameters", *columns]
    rows = [header, ["---"] * len(header)]
    for line in sorted(lines, key=lambda line: (int(line["row"]), int(line["seed"]))):
        # Older lines lack the floor, and may have other row names.
        distances = [
            f"{line[column]} ± {line[f'{column} error']}" if line.get(column) else "-"
            for column in columns
        ]
        counts = [line[name] for name in ("seed", "images", "seconds", "parameters")]
        rows.append([list(ROWS)[int(line["row"]) - 1], *counts, *distances])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def train_row(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures one row with one seed, in this process."""
    import_keras()
    import keras

    from ddim_keras import backends
    from ddim_keras.backends.devices import fast_precision
    from ddim_keras.data.batches import random_images, training_batches
    from ddim_keras.data.cache import load_dataset
    from ddim_keras.metrics.encoders import choose_encoder
    from ddim_keras.metrics.kid import KernelInceptionDistance
    from ddim_keras.runs.configuration import RunConfig
    from ddim_keras.runs.folder import Run
    from ddim_keras.runs.weights import save_weights
    from ddim_keras.training.loop import build_model

    row, seed = arguments.rows[0], arguments.seeds[0]
    name, preset = list(ROWS.items())[row - 1]
    recipe = dataclasses.replace(preset.training, precision=fast_precision())
    config = dataclasses.replace(preset.model, seed=seed)
    clock = time.process_time if backends.describe_device() == "CPU" else time.perf_counter
    dataset = load_dataset(DATASET, 64, arguments.data_dir, arguments.cache_dir)
    images = dataset.train_images

    class Watch(keras.callbacks.Callback):
        """Times all steps except the first two, which compile."""

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if batch == 1:
                self.start = clock()
            self.last_batch, self.end = batch, clock()

        def seconds_a_step(self) -> float:
            return (self.end - self.start) / (self.last_batch - 1)

    def fit(model: keras.Model, steps: int) -> float:
        """Trains; returns the seconds per step."""
        watch = Watch()
        batches = backends.feed(
            model,
            functools.partial(
                training_batches,
                *(images, dataset.train_labels, recipe.batch_size, 1, recipe.flip, seed, 0),
            ),
        )
        model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[watch])
        return watch.seconds_a_step()

    if arguments.images:
        steps = arguments.images // recipe.batch_size
    else:
        probe = build_model(config, recipe, 1000)
        probe.adapt(images)
        steps = max(FEWEST_STEPS, int(arguments.seconds / fit(probe, 2 + PROBED_STEPS)))
    model = build_model(config, recipe, steps)
    model.adapt(images)
    seconds = steps * fit(model, steps)
    if arguments.keep:
        run = Run(arguments.keep / f"row{row}-seed{seed}-{budget_of(arguments).replace(' ', '-')}")
        run.save_config(
            RunConfig(
                preset=f"row {row} of the ablation",
                model=config,
                training=recipe,
                dataset=DATASET,
                data_dir=None,
                epochs=1,
                num_images=len(images),
            )
        )
        save_weights(model, run.best_weights)

    kid = KernelInceptionDistance(choose_encoder(arguments.kid_weights), dataset.validation_images)
    line = {
        "budget": budget_of(arguments),
        "row": row,
        "change": name,
        "seed": seed,
        "images": steps * recipe.batch_size,
        "seconds": round(seconds),
        "parameters": model.network.count_params(),
        "protocol": kid.protocol,
    }
    measured = {
        f"{label} {calls}": model.generate(arguments.num_images, calls, seed=0, sampler=sampler)
        for label, sampler, calls in SETTINGS
    }
    measured[FLOOR] = random_images(images, arguments.num_images)
    for column, of_images in measured.items():
        distance = kid(of_images)
        line[column] = f"{distance.value:.3f}"
        line[f"{column} error"] = f"{distance.standard_error:.3f}"
    return line


if __name__ == "__main__":
    run_command(main)
