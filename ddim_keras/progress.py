"""Progress reporting: a bar with ETA on terminals, single lines in logs."""

import sys
from collections.abc import Callable
from typing import Any

import keras

from ddim_keras.backends.devices import process_id


def verbosity() -> int:
    """Keras's `verbose`: 1, a progress bar, in a terminal or notebook; otherwise 2, lines.

    0, silent, in all processes of a distributed training except the first.
    """
    if process_id() != 0:
        return 0
    return 1 if sys.stdout.isatty() or "ipykernel" in sys.modules else 2


def say(text: str) -> None:
    """Prints a line immediately; in a distributed training, only from the first process."""
    if process_id() == 0:
        print(text, flush=True)


def progress_bar(target: int, unit_name: str) -> keras.utils.Progbar:
    """A bar over `target` units, with an ETA; in a log file, one line at the end."""
    return keras.utils.Progbar(target, verbose=verbosity(), unit_name=unit_name, interval=0.5)


def sampling_progress(num_batches: int, diffusion_steps: int) -> Callable[[int, Any, Any], None]:
    """A progress bar as the `callback` of `DiffusionModel.generate`."""
    bar = progress_bar(num_batches * diffusion_steps, "step")
    return lambda step, noisy_images, pred_images: bar.add(1)


def duration(seconds: float) -> str:
    """A readable duration: "45 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
