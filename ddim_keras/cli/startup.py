"""Start of a command: choosing the backend before Keras is imported, and one-line errors."""

import importlib.util
import io
import os
import signal
import sys
import threading
from collections.abc import Callable

from ddim_keras.cli.interruption import end_at_once, raise_again
from ddim_keras.config import InputError

BACKENDS = ("tensorflow", "jax", "torch")


def run_command(main: Callable[[], None]) -> None:
    """Runs a command; a user's mistake or a disk error becomes one line and exit status 1.

    So does a lack of memory, or a closed output pipe. Afterwards, Ctrl-C ends the process at once:
    everything is saved, and Python would show a traceback while it exits.
    """
    try:
        raise_again()
        _open_streams()
        main()
        sys.stdout.flush()
    except InputError as error:
        message = str(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}; what was saved before is kept"
        _drop_output()
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports SIGINT
    except Exception as error:
        if not _is_lack_of_memory(error):
            raise
        message = (
            "not enough memory; choose a smaller --batch-size or a smaller network, or free what "
            "other programs use. What was saved before is kept"
        )
    else:
        return
    finally:
        end_at_once()
    sys.exit("error: " + " ".join(message.split()))


def _open_streams() -> None:
    """Redirects closed streams to the null device; escapes characters that a stream cannot encode.

    Otherwise the next opened file would get the number of a closed stream, and its output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the smallest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Discards the output if it cannot be written; Python would try again on exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_lack_of_memory(error: Exception) -> bool:
    """Whether an error of Python or a backend means a lack of memory."""
    texts = (
        *("RESOURCE_EXHAUSTED", "OutOfMemory", "out of memory", "not enough memory"),
        *("failed to map segment", "Cannot allocate memory"),  # of a library
        "STATUS_ALLOC_FAILED",  # of cuBLAS or cuDNN, on a GPU
    )
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "ResourceExhaustedError"
        or any(text in f"{type(error).__name__}: {error}" for text in texts)
    )


def choose_backend(backend: str | None) -> str:
    """Sets the Keras backend and its speed settings; must run before Keras is imported.

    Args:
        backend: by default that of KERAS_BACKEND, else the first of BACKENDS that is installed.
    """
    backend = backend or os.environ.get("KERAS_BACKEND")
    if backend is None:
        backend = default_backend()
    elif backend not in BACKENDS:
        raise InputError(f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}, not {backend!r}")
    elif not importlib.util.find_spec(backend):
        raise InputError(f"backend {backend} is not installed: pip install {backend}")
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Default for some processors only; on an AMD EPYC it made training 1.7 times faster.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    return backend


def default_backend() -> str:
    """The first of BACKENDS that is installed."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    if not installed:
        raise InputError("no Keras backend is installed: pip install -r requirements.txt")
    return installed[0]


def is_first_process() -> bool:
    """Whether this process writes the files in a distributed training."""
    return os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", "0") == "0"


def import_keras() -> None:
    """Imports Keras and its backend, without TensorFlow's notes about a missing GPU.

    C++ code writes them before any log level applies. A failed import still raises. Ctrl-C ends the
    process at once: an import would turn it into another error.
    """
    if threading.current_thread() is not threading.main_thread():
        _import_keras()
        return
    before = signal.getsignal(signal.SIGINT)
    end_at_once()
    try:
        _import_keras()
    finally:
        signal.signal(signal.SIGINT, before)


def _import_keras() -> None:
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import keras

        # Overrides ~/.keras/keras.json: images are (height, width, channels) here.
        keras.config.set_image_data_format("channels_last")
        if os.environ["KERAS_BACKEND"] == "tensorflow":
            import tensorflow

            tensorflow.config.list_physical_devices()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
