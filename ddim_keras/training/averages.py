"""Additional averages of the weights: from early epochs, and of other lengths.

Early averages are guides: autoguidance (Karras et al. 2024, https://arxiv.org/abs/2406.02507)
steers away from the predictions of a model with the same, but stronger, faults, such as an early
one of the same training.

The best length of an average is known only afterwards, so several can be kept. The averages of
Karras et al. 2024 (https://arxiv.org/abs/2312.02696, section 3.1) grow with the training: the
weights of step s count in proportion to s^exponent. Their width is a share of the training, not a
number of steps.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from ddim_keras.atomic import written_whole
from ddim_keras.config import InputError
from ddim_keras.export import export
from ddim_keras.foreign import contents_of, read_arrays
from ddim_keras.runs.folder import Run
from ddim_keras.runs.weights import save_weights

PARTS = (1 / 16, 1 / 8, 1 / 4)  # shares of the training after which an average is kept
UPDATE_EVERY = 16  # steps; each update copies the weights from the device


class KeepGuides(keras.callbacks.Callback):
    """Keeps the average of some early epochs in half precision, for `generate.py --guide`.

    Runs after the last weights of the epoch have been saved, from which it copies.

    Args:
        run: the run; guides are run folders such as `guides/epoch_0004`.
        epochs: total epochs of the training.
    """

    def __init__(self, run: Run, epochs: int) -> None:
        super().__init__()
        self.run = run
        self.epochs = {math.ceil(part * epochs) for part in PARTS}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch + 1 in self.epochs:
            folder = self.run.folder / "guides" / f"epoch_{epoch + 1:04d}"
            export(self.run, folder, self.run.last_weights)


class PowerAverages(keras.callbacks.Callback):
    """Averages the weights over shares of the training; see the module docstring.

    Runs before the last weights of an epoch are saved, so that a checkpoint has averages of its
    step. When the training ends, `finish` makes each average a run folder `averages/<width>`.

    Args:
        run: the run; the averages of a training in progress are in `averages/step_<N>.npz`.
        widths: standard deviation of the averaged steps, as shares of the training.
        first_step: number of steps already trained.
        total_steps: total steps of the training.
        feed: gives the steps per call, as in `TimeEstimate`, and per epoch.

    Raises:
        InputError: if the averages of the first step are missing from the folder.
    """

    def __init__(
        self, run: Run, widths: Sequence[float], first_step: int, total_steps: int, feed: Any
    ) -> None:
        super().__init__()
        self.run = run
        self.widths = widths
        self.exponents = np.array([[exponent_of(width)] for width in widths])
        self.first_step = first_step
        self.step = self.updated = self.saved = first_step
        self.total_steps = total_steps
        self.feed = feed
        self.averages = np.zeros((len(widths), 1), "float32")
        if first_step:
            self.load()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        before, of_epoch = self.step, self.feed.steps_per_epoch
        # The last call of an epoch may make fewer steps.
        end_of_epoch = (before // of_epoch + 1) * of_epoch
        self.step = min(before + self.feed.steps_per_call, end_of_epoch)
        if self.step // UPDATE_EVERY > before // UPDATE_EVERY:
            # From 0 at the first update: the average starts as the weights.
            kept = (self.updated / self.step) ** (self.exponents + 1.0)
            weights = [ops.convert_to_numpy(each).ravel() for each in self.model.network.weights]
            mixed = kept * self.averages + (1.0 - kept) * np.concatenate(weights)
            self.averages = mixed.astype("float32")
            self.updated = self.step

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.save()

    def finish(self, model: Any) -> None:
        """Makes each average a run folder, if the training is over.

        If it was over before, they are there, unless that process ended before it wrote them.
        """
        if self.step < self.total_steps or not self.updated:
            return
        for width, average in zip(self.widths, self.averages, strict=True):
            folder = self.folder / f"{width:g}"
            if self.step > self.first_step or not Run(folder).best_weights.exists():
                self.export(model, folder, average)

    @property
    def folder(self) -> Path:
        return self.run.folder / "averages"

    def file_of(self, step: int) -> Path:
        return self.folder / f"step_{step}.npz"

    def save(self) -> None:
        """Writes the averages; the previous ones stay until their checkpoint is replaced."""
        self.folder.mkdir(exist_ok=True)
        with written_whole(self.file_of(self.step)) as part, open(part, "wb") as file:
            np.savez(file, averages=self.averages, updated=self.updated)
        for path in self.folder.glob("step_*.npz"):
            if path not in (self.file_of(self.saved), self.file_of(self.step)):
                path.unlink(missing_ok=True)
        self.saved = self.step

    def load(self) -> None:
        """Reads the averages of the step at which the training continues."""
        file = self.file_of(self.step)
        if not file.exists():
            raise InputError(
                f"{file} is missing: the averages of the weights up to this step. Restore it, or "
                "start a new training in another --output"
            )
        with contents_of(file, "averages of weights"):
            arrays = read_arrays(file, ("averages", "updated"))
            if arrays["averages"].shape[0] != len(self.widths):
                raise ValueError(f"it does not hold {len(self.widths)} averages")
            self.averages = np.array(arrays["averages"], "float32")
            self.updated = int(arrays["updated"])

    def export(self, model: Any, folder: Path, average: np.ndarray) -> None:
        """Writes a run folder with these averaged weights."""
        network = model.ema_network
        own = network.get_weights()
        ends = np.cumsum([weight.size for weight in own])[:-1]
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="part-") as part:
            file = Path(part) / "average.weights.h5"
            network.set_weights(
                [
                    values.reshape(weight.shape)
                    for values, weight in zip(np.split(average, ends), own, strict=True)
                ]
            )
            try:
                save_weights(model, file)
            finally:
                network.set_weights(own)
            export(self.run, folder, file)


def exponent_of(width: float) -> float:
    """The exponent of an average of relative width: 16.97 for 0.05, 6.94 for 0.10.

    Solves width^2 = (e + 1) / ((e + 2)^2 (e + 3)), a cubic with one root above 0 for widths below
    0.29, the width of the mean of all steps. A second root, between -1 and 0, counts early steps
    most.
    """
    inverse = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots[np.isreal(roots)].real.max())
