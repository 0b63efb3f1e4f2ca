"""Options that the commands share, and the types of their values."""

import argparse
import difflib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ddim_keras.cli.startup import BACKENDS
from ddim_keras.config import InputError

LARGEST = 2**31 - 1  # whole number of an argument


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from `minimum` on, of 32 bits, as seeds must be."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not minimum <= value <= LARGEST:
            bound = f"least {minimum}" if value < minimum else f"most {LARGEST}"
            raise argparse.ArgumentTypeError(f"must be at {bound}, not {value}")
        return value

    return whole_number


def finite(text: str) -> float:
    """An argparse type: numbers, neither infinite nor "nan"."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite, not {text}")
    return value


def class_index(text: str, class_names: Sequence[str], num_classes: int) -> int:
    """Finds a class by its name or number; raises InputError with the names that are nearest."""
    # Names first: folders may be named by numbers, in another order.
    names = {name.lower(): index for index, name in enumerate(class_names)}
    if text.lower() in names:
        return names[text.lower()]
    if text.isdecimal():
        if int(text) < num_classes:
            return int(text)
        raise InputError(
            f"class {text} does not exist: classes have the numbers 0 to {num_classes - 1}"
        )
    nearest = difflib.get_close_matches(text.lower(), names, n=3, cutoff=0.4) or list(names)[:3]
    hint = f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
    raise InputError(f"there is no class {text!r}{hint}")


def whole_path(name: str) -> str:
    """An argparse type: a file or folder from the root on, and any other name as it is.

    So that a run does not depend on the folder it was begun in.
    """
    return str(Path(name).resolve()) if Path(name).exists() else name


def add_run_option(parser: argparse.ArgumentParser) -> None:
    """Adds --run."""
    parser.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help="run folder, of which the best weights are taken or, where no KID was measured, the "
        "last (default: the newest in runs/, else the flowers that come with the project)",
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Adds --seed, --batch-size and --precision, for generating."""
    parser.add_argument(
        "--seed",
        type=at_least(0),
        metavar="N",
        default=0,
        help="same seed, same images (default: 0)",
    )
    parser.add_argument(
        "--batch-size",
        type=at_least(1),
        metavar="N",
        default=64,
        help="images that go through the network together; bounds the memory (default: 64)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "mixed_bfloat16"),
        default="float32",
        help="of the layers; mixed_bfloat16 is faster where the processor or GPU has instructions "
        "for it, and changes the images a little (default: float32)",
    )


def add_data_options(parser: argparse.ArgumentParser, data_dir: str) -> None:
    """Adds --data-dir, whose default `data_dir` describes, and --cache-dir."""
    parser.add_argument(
        "--data-dir",
        type=whole_path,
        metavar="DIR",
        help=f"where TFDS finds its data sets, or puts them (default: {data_dir})",
    )
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="where prepared images are kept (default: ~/.cache/ddim_keras)",
    )


def add_kid_weights_option(parser: argparse.ArgumentParser) -> None:
    """Adds --kid-weights."""
    parser.add_argument(
        "--kid-weights",
        metavar="FILE",
        help="InceptionV3 weights up to mixed7, .weights.h5, or compact: the small encoder that "
        "comes with the project (default: Keras's, downloaded once; else compact)",
    )


def add_backend_option(parser: argparse.ArgumentParser) -> None:
    """Adds --backend."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="Keras backend (default: KERAS_BACKEND, else the first one installed)",
    )
