"""Start of a command: the backend is chosen before Keras is imported; errors are one line."""

import importlib.util
import os
import sys
from collections.abc import Callable

from ddim_keras.config import InputError

BACKENDS = ("tensorflow", "jax", "torch")


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


def is_first_process() -> bool:
    """Whether this is the process, of several that train together, which writes the files."""
    return os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", "0") == "0"


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
        if os.environ["KERAS_BACKEND"] == "tensorflow":
            import tensorflow

            tensorflow.config.list_physical_devices()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
