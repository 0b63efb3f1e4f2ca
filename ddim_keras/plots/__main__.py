"""Figures for the course, from actual schedules, samples and runs."""

if __name__ == "__main__":
    from ddim_keras.cli.interruption import end_at_once

    end_at_once()  # on Ctrl-C, while the rest is imported


import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddim_keras.cli.options import (
    MOST_IN_FIGURE,
    Parser,
    add_backend_option,
    add_data_options,
    add_run_option,
    at_least,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import SCHEDULES, InputError
from ddim_keras.memory import require_memory_for
from ddim_keras.plots import figures
from ddim_keras.runs.folder import find_run, load_model

MOST_PIXELS = 1024  # each way, of an image in a figure
MOST_DRAWN = 1000  # flowers; each needs all earlier ones

EXAMPLES = """examples:
  python -m ddim_keras.plots forward                                    a drawn flower
  python -m ddim_keras.plots forward --image cat.jpg --schedule linear --columns 12
  python -m ddim_keras.plots forward --dataset oxford_flowers102 --index 7
  python -m ddim_keras.plots schedules --output schedules.png
  python -m ddim_keras.plots reverse --steps 10 --seed 1          noise becoming an image
  python -m ddim_keras.plots evolution --run runs/mine            the same noises over the epochs
  python -m ddim_keras.plots curves --run runs/mine               its losses and KID
  python -m ddim_keras.plots network --run flowers                its U-Net
  python -m ddim_keras.plots data --dataset photos/               a data set, before training
"""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="python -m ddim_keras.plots", description=__doc__, epilog=EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="FIGURE")
    help_texts = {
        "forward": "an image along the forward process, one row per schedule",
        "schedules": "alpha-bar and log signal-to-noise ratio of the schedules",
        "reverse": "a noise that DDIM turns into an image: in each step the noisy image, and the "
        "image that the network sees in it",
        "evolution": "samples from the same noises over a training, one row per noise",
        "curves": "losses and KID of a run over its epochs",
        "network": "the U-Net of a run or included model: levels, blocks, attention, parameters",
        "data": "training images of a data set with their classes, to look at before training",
    }
    forward, schedules, reverse, evolution, curves, network, data = (
        commands.add_parser(name, help=text, description=text) for name, text in help_texts.items()
    )
    for command in (forward, schedules):
        command.add_argument(
            "--schedule",
            nargs="+",
            choices=SCHEDULES,
            default=SCHEDULES,
            help=f"one or more of {', '.join(SCHEDULES)} (default: all)",
            metavar="NAME",
        )
    for name, command in commands.choices.items():
        command.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            default=Path(f"{name}.png"),
            help=f".png file to write; an existing one is replaced (default: {name}.png)",
        )
        add_backend_option(command)

    source = forward.add_mutually_exclusive_group()
    source.add_argument("--image", type=Path, metavar="FILE", help="an image file")
    source.add_argument(
        "--dataset",
        metavar="NAME",
        help="a data set as for train.py: a name of TFDS, a folder or an array file "
        "(default: drawn flowers)",
    )
    forward.add_argument(
        "--cache-dir",
        type=Path,
        metavar="DIR",
        help="folder for prepared images (default: ~/.cache/ddim_keras)",
    )
    forward.add_argument(
        "--index",
        type=at_least(0),
        default=0,
        metavar="N",
        help="number of the flower, or of the training image of the data set (default: 0)",
    )
    forward.add_argument(
        "--image-size",
        type=at_least(8, MOST_PIXELS),
        default=64,
        metavar="N",
        help="height and width in pixels (default: 64)",
    )
    forward.add_argument(
        "--columns",
        type=at_least(2, MOST_IN_FIGURE),
        default=9,
        metavar="N",
        help="number of images in a row, at even times from 0 to 1 (default: 9)",
    )
    for command in (forward, reverse):
        command.add_argument(
            "--seed",
            type=at_least(0),
            default=0,
            metavar="N",
            help="random seed of the noise (default: 0)",
        )

    for command in (reverse, network):
        add_run_option(command)
    data.add_argument(
        "--dataset", metavar="NAME", help="data set as for train.py (default: oxford_flowers102)"
    )
    add_data_options(data, data_dir="~/tensorflow_datasets")
    data.add_argument(
        "--image-size",
        type=at_least(8, MOST_PIXELS),
        default=64,
        metavar="N",
        help="height and width in pixels (default: 64)",
    )
    data.add_argument(
        "--rows",
        type=at_least(1, MOST_IN_FIGURE),
        default=8,
        metavar="N",
        help="number of classes, one row each; rows of any images without classes (default: 8)",
    )
    data.add_argument(
        "--columns",
        type=at_least(1, MOST_IN_FIGURE),
        default=10,
        metavar="N",
        help="number of images per row (default: 10)",
    )
    for command in (evolution, curves):
        command.add_argument(
            "--run", type=Path, metavar="DIR", help="run folder (default: the newest in runs/)"
        )
    reverse.add_argument(
        "--steps",
        type=at_least(1, MOST_IN_FIGURE),
        metavar="N",
        help="number of sampling steps, one column each (default: 10; for a student, those it has "
        "learnt)",
    )
    evolution.add_argument(
        "--rows",
        type=at_least(1, MOST_IN_FIGURE),
        default=4,
        metavar="N",
        help="number of noises, one row each (default: 4)",
    )
    evolution.add_argument(
        "--columns",
        type=at_least(2, MOST_IN_FIGURE),
        default=10,
        metavar="N",
        help="number of epochs to show, denser at the start (default: 10)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if options.output.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, not {options.output.name!r}")
    choose_backend(options.backend)
    # Keras is imported only now, after --help and the choice of the backend.
    import_keras()
    commands = {
        "forward": forward_figure,
        "schedules": schedules_figure,
        "reverse": reverse_figure,
        "evolution": evolution_figure,
        "curves": curves_figure,
        "network": network_figure,
        "data": data_figure,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)  # now, before the work
    if options.output.is_dir():
        raise InputError(f"{options.output} is a folder; give the name of a file")
    figure = commands[options.command](options)
    figures.save_figure(figure, options.output)
    print(f"wrote {options.output}")


def forward_figure(options: argparse.Namespace) -> figures.Figure:
    """One image mixed with one noise at equally spaced times, as the model sees it in training."""
    from keras import ops

    from ddim_keras.ddpm import sample_xt

    pixels = find_image(options).astype("float32") / 255
    means, deviations = pixels.mean((0, 1)), np.maximum(pixels.std((0, 1)), 1e-3)
    noise = np.random.default_rng(options.seed).standard_normal(pixels.shape, dtype="float32")
    images, noises = (
        np.repeat(values[None], options.columns, axis=0)
        for values in ((pixels - means) / deviations, noise)
    )
    times = np.linspace(0, 1, options.columns)
    rows, signal_rates = {}, {}
    for name, (_, rates) in schedule_rates(options.schedule, times).items():
        noisy_images = sample_xt(images, np.arange(options.columns), noises, rates**2)
        rows[name] = means + deviations * ops.convert_to_numpy(noisy_images)
        signal_rates[name] = rates
    return figures.process_rows(rows, times, signal_rates)


def schedules_figure(options: argparse.Namespace) -> figures.Figure:
    """The schedules at a thousand times."""
    times = np.linspace(0, 1, 1001)
    return figures.schedule_curves(times, schedule_rates(options.schedule, times))


def reverse_figure(options: argparse.Namespace) -> figures.Figure:
    """The first image generated by `generate.py` with the seed, step by step."""
    from keras import ops

    from ddim_keras.samplers import Sampler

    run = find_run(options.run)
    model = load_model(run.weights_to_show())
    steps = options.steps or max(model.config.student_steps, default=10)
    rows: dict[str, list[np.ndarray]] = {"noisy image": [], "predicted image": []}

    def add_column(_: int, *noisy_and_predicted: Any) -> None:
        for row, images in zip(rows.values(), noisy_and_predicted, strict=True):
            row.append(ops.convert_to_numpy(model.denormalize(images))[0])

    model.generate(1, steps, seed=options.seed, callback=add_column)
    return figures.process_rows(
        {name: np.stack(row) for name, row in rows.items()},
        1 - np.arange(steps) / steps,
        dict.fromkeys(rows, np.array(Sampler().signal_rates(model, steps)[:-1])),
    )


def evolution_figure(options: argparse.Namespace) -> figures.Figure:
    """The first samples of some epochs of a run, from the grids of the training."""
    run = find_run(options.run, with_weights=False)
    grids = sorted((run.folder / "samples").glob("epoch_[0-9][0-9][0-9][0-9].png"))
    if not grids:
        raise InputError(f"{run.folder} holds no samples yet: its first epoch has not ended")
    chosen = np.unique(np.round(np.geomspace(1, len(grids), options.columns)).astype(int)) - 1
    epochs = [grids[index] for index in chosen]
    columns = [figures.read_samples(grid)[: options.rows] for grid in epochs]
    if len({column.shape for column in columns}) != 1 or not len(columns[0]):
        raise InputError(f"the samples of {run.folder} differ in number or size between epochs")
    rows = np.stack(columns, axis=1)
    numbers = ", ".join(str(int(grid.stem.removeprefix("epoch_"))) for grid in epochs)
    title = f"after epochs {numbers}, from the same noises"
    return figures.image_grid(rows.reshape(-1, *rows.shape[2:]), title, columns=len(epochs))


def network_figure(options: argparse.Namespace) -> figures.Figure:
    """The network of a run."""
    from ddim_keras.network import residual_unet

    config = find_run(options.run, with_weights=False).read_config().model.network
    require_memory_for(config)
    return figures.network_diagram(config, residual_unet(config).count_params())


def data_figure(options: argparse.Namespace) -> figures.Figure:
    """Training images, a row for each of the most frequent classes; prints a summary."""
    from ddim_keras.data.batches import random_images
    from ddim_keras.data.cache import load_dataset

    dataset = load_dataset(options.dataset, options.image_size, options.data_dir, options.cache_dir)
    print(dataset.describe())
    images, labels = dataset.train_images, dataset.train_labels
    if not dataset.num_classes:
        shown = random_images(images, options.rows * options.columns)
        return figures.image_grid(shown, dataset.describe(), options.columns)
    counts = np.bincount(labels[labels >= 0], minlength=dataset.num_classes)
    print(f"{dataset.num_classes} classes of {counts.min()} to {counts.max()} training images")
    chosen = [label for label in np.argsort(-counts, kind="stable") if counts[label]]
    rows, names = [], []
    for label in chosen[: options.rows]:
        row = random_images(images[np.flatnonzero(labels == label)], options.columns)
        missing = options.columns - len(row)
        rows.append(np.concatenate([row, np.full((missing, *row.shape[1:]), 255, row.dtype)]))
        is_named = label < len(dataset.class_names)
        name = dataset.class_names[label] if is_named else f"class {label}"
        names.append(f"{name} ({counts[label]})")
    return figures.image_grid(
        np.concatenate(rows), dataset.describe(), options.columns, names=names
    )


def curves_figure(options: argparse.Namespace) -> figures.Figure:
    """Losses and KID of a run, from its history."""
    run = find_run(options.run, with_weights=False)
    protocol = run.read_config().protocol
    if not (history := run.read_history()):
        raise InputError(f"{run.folder} has no history yet: its first epoch has not ended")
    return figures.training_curves(history, protocol.metric if protocol else "KID")


def schedule_rates(
    names: Sequence[str], times: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`noise_rates, signal_rates` of each schedule, as arrays."""
    from ddim_keras import schedules

    return {name: schedules.SCHEDULES[name](times, np) for name in names}


def find_image(options: argparse.Namespace) -> np.ndarray:
    """The chosen image: (S, S, C) uint8."""
    if options.image:
        from ddim_keras.data.images import load_image

        return load_image(options.image, options.image_size)
    if options.dataset:
        from ddim_keras.data.cache import load_dataset

        dataset = load_dataset(options.dataset, options.image_size, cache_dir=options.cache_dir)
        if options.index >= len(dataset.train_images):
            raise InputError(
                f"{dataset.name} has {len(dataset.train_images)} training images, "
                f"and so none of index {options.index}"
            )
        return np.asarray(dataset.train_images[options.index])
    from ddim_keras.data.drawn_flowers import draw_flowers

    if options.index >= MOST_DRAWN:
        raise InputError(f"--index of drawn flowers must be below {MOST_DRAWN}")
    return draw_flowers(options.index + 1, options.image_size)[0][-1]


if __name__ == "__main__":
    run_command(main)
