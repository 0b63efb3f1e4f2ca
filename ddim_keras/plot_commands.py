"""Figures of the course, made from the schedules and the forward process themselves."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddim_keras import plots
from ddim_keras.command_line import add_backend_option, at_least, choose_backend, import_keras
from ddim_keras.config import InputError

SCHEDULE_NAMES = ("linear", "cosine", "offset_cosine")

EXAMPLES = """examples:
  python -m ddim_keras.plots forward                                    a drawn flower
  python -m ddim_keras.plots forward --image cat.jpg --schedule linear --columns 12
  python -m ddim_keras.plots forward --dataset oxford_flowers102 --index 7
  python -m ddim_keras.plots schedules --output schedules.png
"""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ddim_keras.plots",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="FIGURE")
    help_texts = {
        "forward": "an image along the forward process: a row for each schedule",
        "schedules": "alpha-bar and log signal-to-noise ratio of the schedules",
    }
    forward, schedules = (
        commands.add_parser(name, help=text, description=text) for name, text in help_texts.items()
    )
    for name, command in (("forward", forward), ("schedules", schedules)):
        command.add_argument(
            "--schedule",
            nargs="+",
            choices=SCHEDULE_NAMES,
            default=SCHEDULE_NAMES,
            help=f"one or more of {', '.join(SCHEDULE_NAMES)} (default: all)",
            metavar="NAME",
        )
        command.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            default=Path(f"{name}.png"),
            help=f"a .png file; one that exists is replaced (default: {name}.png)",
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
        "--cache-dir", type=Path, metavar="DIR", help="where prepared data sets are kept"
    )
    forward.add_argument(
        "--index",
        type=at_least(0),
        default=0,
        metavar="N",
        help="which flower, or training image of the data set (default: 0)",
    )
    forward.add_argument(
        "--image-size", type=at_least(8), default=64, metavar="N", help="in pixels (default: 64)"
    )
    forward.add_argument(
        "--columns",
        type=at_least(2),
        default=9,
        metavar="N",
        help="images in a row, at even times from 0 to 1 (default: 9)",
    )
    forward.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="of the noise (default: 0)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    if options.output.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, not {options.output.name!r}")
    choose_backend(options.backend)
    # Keras is imported from here on, after the backend has been chosen and --help answered.
    import_keras()
    figure = forward_figure(options) if options.command == "forward" else schedules_figure(options)
    plots.save_figure(figure, options.output)
    print(f"wrote {options.output}")


def forward_figure(options: argparse.Namespace) -> plots.Figure:
    """One image with one noise, mixed at even times, as the model would see it in training."""
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
    return plots.noising_rows(rows, times, signal_rates)


def schedules_figure(options: argparse.Namespace) -> plots.Figure:
    """The schedules at a thousand times."""
    times = np.linspace(0, 1, 1001)
    return plots.schedule_curves(times, schedule_rates(options.schedule, times))


def schedule_rates(
    names: Sequence[str], times: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`noise_rates, signal_rates` of each schedule, as arrays."""
    from keras import ops

    from ddim_keras.schedules import SCHEDULES

    tensor = ops.convert_to_tensor(times, dtype="float32")
    return {name: tuple(map(ops.convert_to_numpy, SCHEDULES[name](tensor))) for name in names}


def find_image(options: argparse.Namespace) -> np.ndarray:
    """The image that was asked for: (S, S, C) uint8."""
    if options.image:
        from ddim_keras.data import crop_and_resize
        from ddim_keras.sources import first_line, read_image

        if not options.image.is_file():
            raise InputError(f"there is no image file {options.image}")
        try:
            return crop_and_resize(read_image(options.image), options.image_size)
        except Exception as error:  # Pillow's readers raise a dozen kinds for damaged files
            raise InputError(
                f"{options.image} is no readable image ({first_line(error)})"
            ) from error
    if options.dataset:
        from ddim_keras.data import load_dataset

        dataset = load_dataset(options.dataset, options.image_size, cache_dir=options.cache_dir)
        if options.index >= len(dataset.train_images):
            raise InputError(
                f"{dataset.name} has {len(dataset.train_images)} training images, "
                f"and so none of index {options.index}"
            )
        return np.asarray(dataset.train_images[options.index])
    from ddim_keras.drawn_flowers import draw_flowers

    return draw_flowers(options.index + 1, options.image_size)[0][-1]
