"""Early averages of a training, kept as guides: worse versions of the same model.

Autoguidance (Karras et al. 2024, https://arxiv.org/abs/2406.02507) steers away from the predictions
of a model with the same faults, only stronger, such as an early one of the same training.
"""

import math
from typing import Any

import keras

from ddim_keras.export import export
from ddim_keras.runs.folder import Run

PARTS = (1 / 16, 1 / 8, 1 / 4)  # of the training, after which an average is kept


class KeepGuides(keras.callbacks.Callback):
    """Keeps the average of some early epochs in half precision, for `generate.py --guide`.

    Runs after the last weights of the epoch have been saved, from which it copies.

    Args:
        run: the folder; guides go into `guides/epoch_0004`, each a run folder of its own.
        epochs: of the whole training.
    """

    def __init__(self, run: Run, epochs: int) -> None:
        super().__init__()
        self.run = run
        self.epochs = {math.ceil(part * epochs) for part in PARTS}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch + 1 in self.epochs:
            folder = self.run.folder / "guides" / f"epoch_{epoch + 1:04d}"
            export(self.run, folder, self.run.last_weights)
