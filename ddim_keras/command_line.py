"""What the commands share: the choice of the backend before Keras is imported, and plain errors."""

import argparse
import difflib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ddim_keras.config import InputError

BACKENDS = ("tensorflow", "jax", "torch")
LARGEST = 2**31 - 1  # whole number of an argument


def run_command(main: Callable[[], None]) -> None:
    """Runs a command; a user's mistake or a failing disk becomes one line and exit status 1."""
    try:
        main()
    except InputError as error:
        message = str(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}; what was saved before is kept"
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports SIGINT
    else:
        return
    sys.exit("error: " + " ".join(message.split()))


def choose_backend(backend: str | None) -> str:
    """Sets the Keras backend and what makes it fast; must run before Keras is imported.

    Args:
        backend: by default that of KERAS_BACKEND, else the first of BACKENDS that is installed.
    """
    backend = backend or os.environ.get("KERAS_BACKEND")
    if backend is None:
        installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
        if not installed:
            raise InputError("no Keras backend is installed: pip install -r requirements.txt")
        backend = installed[0]
    elif backend not in BACKENDS:
        raise InputError(f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}, not {backend!r}")
    elif not importlib.util.find_spec(backend):
        raise InputError(f"backend {backend} is not installed: pip install {backend}")
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # On by default for some processors only; on an AMD EPYC it made training 1.7 times faster.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    return backend


def import_keras() -> None:
    """Imports Keras and its backend, without TensorFlow's notes about a GPU that is not there.

    These are written by C++ code before any setting of the log level can apply. An import that
    fails still raises.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import keras

        # Whatever ~/.keras/keras.json says: images are (height, width, channels) here.
        keras.config.set_image_data_format("channels_last")
        if keras.backend.backend() == "tensorflow":
            import tensorflow

            tensorflow.config.list_physical_devices()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


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
