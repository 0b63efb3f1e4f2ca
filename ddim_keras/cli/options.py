"""Options that the commands share, and the types of their values."""

import argparse
import difflib
import math
import os
import shlex
import subprocess
import typing
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddim_keras.cli.startup import BACKENDS
from ddim_keras.config import (
    FRESH_NOISE_VARIANCES,
    PRECISIONS,
    SAMPLERS,
    SPACINGS,
    InputError,
    settings_of,
)

LARGEST = 2**31 - 1  # whole number of an argument
MOST_IMAGES = 10**7  # in one command; for more, use another seed
MOST_STEPS = 10**5
MOST_AT_ONCE = 2**20  # images
MOST_IN_FIGURE = 100  # rows or columns; more take minutes to draw, and cannot be distinguished
INTERVAL_WITHOUT_GUIDANCE = (
    "only guidance uses --guidance-interval; omit it, or set a strength, such as --guidance 1"
)


class Parser(argparse.ArgumentParser):
    """A parser that keeps the layout of its texts and suggests corrections of misspelt options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            names = [name for name in action.choices or () if isinstance(name, str)]
            nearest = difflib.get_close_matches(str(value).lower(), names, n=1)
            if nearest:
                error.message += f"; did you mean {nearest[0]!r}?"
            raise


def at_least(minimum: int, most: int = LARGEST) -> Callable[[str], int]:
    """An argparse type: whole numbers from `minimum` to `most`, by default of 32 bits as seeds."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            shown = repr(text[:20])
            raise argparse.ArgumentTypeError(f"{shown} is not a whole number") from None
        if not minimum <= value <= most:
            bound = f"least {minimum}" if value < minimum else f"most {most}"
            raise argparse.ArgumentTypeError(f"must be at {bound}, not {value}")
        return value

    return whole_number


def finite(text: str) -> float:
    """An argparse type: numbers, neither infinite nor "nan"."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite, not {text}")
    return value


def class_index(text: str, class_names: Sequence[str], num_classes: int) -> int:
    """Finds a class by its name or number; raises InputError with the most similar names."""
    # Names first: class folders may be named by numbers, in another order.
    if text in class_names:
        return list(class_names).index(text)

    def plain(name: str) -> str:
        # Names of folders from a Mac may have umlauts of two characters.
        return unicodedata.normalize("NFC", name).lower()

    names = [plain(name) for name in class_names]
    same = [index for index, name in enumerate(names) if name == plain(text)]
    if len(same) > 1:
        any_of = ", ".join(repr(class_names[index]) for index in same)
        raise InputError(f"class {text!r} may be any of {any_of}; write it exactly as one of these")
    if same:
        return same[0]
    if text.isdecimal() and len(text) < 10:
        if int(text) < num_classes:
            return int(text)
        raise InputError(
            f"class {text} does not exist: classes have the numbers 0 to {num_classes - 1}"
        )
    nearest = difflib.get_close_matches(plain(text), names, n=3, cutoff=0.4) or names[:3]
    hint = f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
    raise InputError(f"there is no class {text!r}{hint}")


def command_line(words: Sequence[str]) -> str:
    """Words as a command to copy, quoted for the shells of this system."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def whole_path(name: str) -> str:
    """An argparse type: the absolute path of an existing file or folder; other names unchanged.

    A run then does not depend on the folder it was started in.
    """
    if not name:
        raise argparse.ArgumentTypeError("must not be empty")
    return str(Path(name).resolve()) if Path(name).exists() else name


def whole_path_of_run(name: str) -> str:
    """Like `whole_path`, for runs: folders without a run do not hide a run or included model."""
    is_other_folder = Path(name).is_dir() and not (Path(name) / "config.json").is_file()
    return name if name and is_other_folder else whole_path(name)


def add_settings(
    parser: Any, cls: type, names: Sequence[str], defaults: Callable[[str], str]
) -> None:
    """Adds options for settings of a configuration; see `config.setting`.

    Args:
        parser: an argparse parser or group of options.
        cls: a configuration, in which the settings may be nested.
        names: names of the settings.
        defaults: the text of a setting's default in `--help`.
    """
    settings = settings_of(cls)
    for name in names:
        annotation, rules = settings[name].type, settings[name].metadata
        flag = f"--{name.replace('_', '-')}"
        options: dict[str, Any] = {
            "dest": name,
            "help": f"{rules['help']} (default: {defaults(name)})",
        }
        if annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
            continue
        if rules["choices"]:
            options["choices"] = rules["choices"]
        elif rules["is_path"]:
            options["type"] = whole_path_of_run if rules["metavar"] == "RUN" else whole_path
        elif annotation in (float, tuple[float, ...]):
            options["type"] = finite
        else:
            options["type"] = at_least(
                max(rules["least"], -LARGEST), int(min(rules["most"], LARGEST))
            )
        if typing.get_origin(annotation) is tuple:
            options["nargs"] = "+" if settings[name].default else "*"
        parser.add_argument(flag, metavar=rules["metavar"], **options)


def given_settings(arguments: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The settings of a configuration that were given on the command line."""
    values = {name: getattr(arguments, name, None) for name in settings_of(cls)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if value is not None
    }


def add_run_option(parser: argparse._ActionsContainer) -> None:
    """Adds --run."""
    parser.add_argument(
        "--run",
        metavar="RUN",
        help="run folder, name of a run in runs/, or included model; uses the best weights, or the "
        "last if KID was not measured (default: the newest run, else the included model flowers)",
    )


def add_verify_option(parser: Any) -> None:
    """Adds --no-verify, stored as `check_hashes`."""
    parser.add_argument(
        "--no-verify",
        dest="check_hashes",
        action="store_false",
        help="read weights and configuration even if their hashes do not match manifest.json",
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Adds --seed, --batch-size and --precision, for generating."""
    parser.add_argument(
        "--seed",
        type=at_least(0),
        metavar="N",
        default=0,
        help="random seed; the same seed gives the same images (default: 0)",
    )
    parser.add_argument(
        "--batch-size",
        type=at_least(1, MOST_AT_ONCE),
        metavar="N",
        default=64,
        help="images per network call; bounds the memory (default: 64)",
    )
    add_precision_option(parser)


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """Adds --precision, for generating."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="dtype policy of the layers; mixed_bfloat16 is faster if the processor or GPU has "
        "instructions for it, and changes the images a little (default: float32)",
    )


def add_sampler_options(parser: argparse._ActionsContainer, several: bool = False) -> None:
    """Adds --sampler, --spacing, --last-signal-rate, --eta, --variance and --clip.

    Args:
        several: whether each of the first three takes one or more values; then it is --samplers.
    """
    nargs = "+" if several else None
    parser.add_argument(
        "--samplers" if several else "--sampler",
        nargs=nargs,
        choices=SAMPLERS,
        metavar="NAME",
        help=f"{', '.join(SAMPLERS)} (default: ddim)",
    )
    parser.add_argument(
        "--spacing",
        nargs=nargs,
        choices=SPACINGS,
        metavar="NAME",
        help="quantity in which steps are evenly spaced: time, log_snr or rho; or searched, for "
        "the steps that evaluate.py --search-steps found for this model (default: time)",
    )
    parser.add_argument(
        "--last-signal-rate",
        nargs=nargs,
        type=finite,
        metavar="RATE",
        help="largest signal rate at which the network is called, below 1; larger is finer "
        "(default: 0.9 for samplers other than ddim with no --spacing; otherwise the schedule at "
        "time 1/steps)",
    )
    parser.add_argument(
        "--eta",
        type=finite,
        default=0.0,
        metavar="ETA",
        help="share of fresh noise in each step of ddim, 0 to 1; 1 is DDPM's ancestral sampling, "
        "for many steps (default: 0)",
    )
    parser.add_argument(
        "--variance",
        choices=FRESH_NOISE_VARIANCES,
        default="small",
        help="variance of the fresh noise of --eta; small: beta-tilde of DDPM; large: its beta; "
        "learned: predicted by the network of a run with learned variances (default: small)",
    )
    parser.add_argument(
        "--clip",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="clip predicted images to the range of pixels in each step (default: no; KID of an "
        "earlier included model fell by 0.0005 at most)",
    )


def add_guidance_options(parser: Any, default: str) -> None:
    """Adds --guidance, with a text for its default, --guidance-interval and --guide."""
    parser.add_argument(
        "--guidance",
        type=finite,
        metavar="W",
        help="strength of guidance; 0: none; 0.5 to 3: more typical images at twice the time. A "
        f"guidance scale of other libraries is 1 + W (default: {default})",
    )
    parser.add_argument(
        "--guidance-interval",
        type=finite,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="signal rates between which guidance applies, such as 0.5 0.98 (default: all)",
    )
    parser.add_argument(
        "--guide",
        type=Path,
        metavar="RUN",
        help="run or .weights.h5 file of a worse model of the same data, such as an early "
        "checkpoint, to guide away from; works without classes too (default: the model itself, "
        "without the class)",
    )


def add_data_options(parser: argparse.ArgumentParser, data_dir: str) -> None:
    """Adds --data-dir, with `data_dir` as the text for its default, and --cache-dir."""
    parser.add_argument(
        "--data-dir",
        type=whole_path,
        metavar="DIR",
        help=f"folder in which TFDS keeps its data sets (default: {data_dir})",
    )
    add_cache_option(parser)


def add_cache_option(parser: Any) -> None:
    """Adds --cache-dir."""
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="folder for prepared images (default: ~/.cache/ddim_keras)",
    )


def add_kid_weights_option(parser: Any) -> None:
    """Adds --kid-weights."""
    parser.add_argument(
        "--kid-weights",
        metavar="FILE",
        help="InceptionV3 weights up to mixed7, .weights.h5; or compact: the small bundled encoder "
        "(default: Keras's, downloaded once; else compact)",
    )


def add_backend_option(parser: Any) -> None:
    """Adds --backend."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="Keras backend (default: KERAS_BACKEND, else the first one installed)",
    )
