"""Training callbacks: KID, sample grids, the record, time estimates and interruption.

They must run in this order at the end of an epoch: `KIDCallback` adds values to the logs, which
`RunRecord` writes.
"""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from ddim_keras.backends.devices import alone, any_process, num_processes
from ddim_keras.config import InputError
from ddim_keras.metrics.kid import Distance, KernelInceptionDistance
from ddim_keras.plots import figures
from ddim_keras.progress import duration, say
from ddim_keras.runs.folder import Run
from ddim_keras.samplers import Sampler

GRID_IMAGES = 32  # samples drawn each epoch
HANG_UP = getattr(signal, "SIGHUP", None)  # of a closed terminal; None on Windows


class Interrupted(Exception):
    """Training was interrupted, and has stopped after a complete step."""


def is_due(epoch: int, every: int, epochs: int) -> bool:
    """Whether an epoch, counted from 0, is one of every `every`, or the last."""
    return (epoch + 1) % every == 0 or epoch + 1 == epochs


class KIDCallback(keras.callbacks.Callback):
    """Measures the KID of the EMA network, always from the same initial noise.

    Adds `kid` and `kid_standard_error` to the epoch's logs, and `kid_2_steps` if it is measured in
    2 steps as well.

    Args:
        kid: holds the encoder and the real features.
        num_images: generated for each measurement.
        diffusion_steps: of the sampler; 5 in the Keras example.
        sampler, guidance: as for `DiffusionModel.generate`.
        every: epochs from one measurement to the next; the last is always measured.
        also_steps: other numbers of steps, of a student that knows several.
    """

    def __init__(
        self,
        kid: KernelInceptionDistance,
        num_images: int,
        diffusion_steps: int = 5,
        sampler: Sampler | None = None,
        guidance: float | None = None,
        every: int = 1,
        also_steps: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.options = {"sampler": sampler, "guidance": guidance}
        self.every = every
        self.also_steps = also_steps
        self.kid = kid
        self.num_images = num_images
        self.diffusion_steps = diffusion_steps

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not is_due(epoch, self.every, self.params["epochs"]):
            return
        logs = {} if logs is None else logs
        distance = self.measure(self.diffusion_steps)
        logs["kid"] = distance.value
        logs["kid_standard_error"] = distance.standard_error
        for steps in self.also_steps:
            logs[f"kid_{steps}_steps"] = self.measure(steps).value

    def measure(self, diffusion_steps: int) -> Distance:
        """The KID of images generated in a number of steps."""
        return self.kid(
            self.model.generate(self.num_images, diffusion_steps, seed=0, **self.options)
        )


class DrawingCallback(keras.callbacks.Callback):
    """Draws figures in a thread, one after another, during training."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="figures")
        self.drawing: Future | None = None

    def draw(self, figure: Callable[[], None]) -> None:
        """Calls `figure` in the thread; raises what went wrong in the call before."""
        self.wait()
        self.drawing = self.thread.submit(figure)

    def wait(self) -> None:
        """Waits for the figure that is being drawn; raises what went wrong."""
        if self.drawing is not None:
            self.drawing.result()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.wait()


class SampleGrid(DrawingCallback):
    """Draws a grid of generated images, always from the same initial noise.

    Args:
        run: the folder, created.
        num_images, diffusion_steps, guidance: as for `DiffusionModel.generate`.
        every: epochs from one grid to the next; the last epoch always has one.
    """

    def __init__(
        self,
        run: Run,
        num_images: int = GRID_IMAGES,
        diffusion_steps: int = 20,
        guidance: float | None = None,
        every: int = 1,
    ) -> None:
        super().__init__()
        self.run = run
        self.every = every
        self.guidance = guidance
        self.num_images = num_images
        self.diffusion_steps = diffusion_steps

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not is_due(epoch, self.every, self.params["epochs"]):
            return
        images = self.model.generate(
            self.num_images, self.diffusion_steps, seed=0, guidance=self.guidance
        )
        title = f"epoch {epoch + 1}, DDIM {self.diffusion_steps} steps, seed 0"
        if self.guidance:
            title += f", guidance {self.guidance:g}"
        path = self.run.folder / "samples" / f"epoch_{epoch + 1:04d}.png"
        self.draw(lambda: figures.save_samples(images, title, path))


class RunRecord(DrawingCallback):
    """Writes checkpoints, history and curves at the end of each epoch.

    Args:
        run: the folder, created.
        protocol: what the KID is measured with.
        images_per_epoch: training images seen in a whole epoch.
    """

    def __init__(self, run: Run, protocol: str, images_per_epoch: int) -> None:
        super().__init__()
        self.run = run
        self.protocol = protocol
        self.images_per_epoch = images_per_epoch
        self.history: list[dict[str, Any]] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # The checkpoint says how far a run is; rows beyond it belong to an epoch that was lost.
        self.history = [row for row in self.run.read_history() if row["epoch"] <= epoch]
        self.start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        _require_finite(logs)
        row = {
            "epoch": epoch + 1,
            "images": (epoch + 1) * self.images_per_epoch,
            "seconds": round(time.monotonic() - self.start, 1),
            **{name: float(value) for name, value in (logs or {}).items()},
        }
        self.history.append(row)
        self.run.write_history(self.history)
        with alone():
            self.run.save_last(self.model)
        kids = [row["kid"] for row in self.history if "kid" in row]
        if "kid" in row and row["kid"] == min(kids):
            self.run.keep_last_as_best()
        rows, path = list(self.history), self.run.folder / "curves.png"
        self.draw(lambda: figures.save_figure(figures.training_curves(rows, self.protocol), path))


class FinishEpoch(keras.callbacks.Callback):
    """Ends the epoch that a resumed run starts within: its steps before the interruption count."""

    def __init__(self, metric_values: list[np.ndarray]) -> None:
        super().__init__()
        self.metric_values = metric_values

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        for variable, value in zip(self.model.metrics_variables, self.metric_values, strict=True):
            variable.assign(value)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.stop_training = True  # the epochs to come have more steps


class StopCleanly(keras.callbacks.Callback):
    """Ends training after the current step when interrupted, and at once when the loss diverges.

    The first Ctrl-C (SIGINT, or SIGTERM, or SIGHUP unless nohup ignores it) raises Interrupted at
    the end of the step; a second one acts as usual. A loss that is not finite raises InputError,
    before it reaches a checkpoint. Processes that train together agree whether one was interrupted.
    Here a step is a call of the compiled program, which may make many.

    Args:
        check_every: steps from one look at the loss, and one agreement, to the next.
    """

    def __init__(self, check_every: int = 50) -> None:
        super().__init__()
        self.check_every = check_every
        self.steps = 0
        self.requested = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> "StopCleanly":
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self._request)
        if HANG_UP and signal.getsignal(HANG_UP) is not signal.SIG_IGN:
            self.previous[HANG_UP] = signal.signal(HANG_UP, self._request)
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: Any) -> None:
        self.requested = True
        if HANG_UP and self.previous.pop(HANG_UP, None) is not None:
            # A terminal that closes sends several, which must not end the saving.
            signal.signal(HANG_UP, signal.SIG_IGN)
        self.__exit__()
        # Within a `print`, Python refuses another one; then nothing is said. The output may be
        # closed: Ctrl-C also ends the `tee` of a pipe.
        with contextlib.suppress(RuntimeError, OSError):
            say("\nStopping after this step. Press Ctrl-C again to stop now.")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Reading a loss, and agreeing, wait for the device, so not in every step.
        is_check = self.steps % self.check_every == 0
        self.steps += 1
        # After the last step of an epoch, its evaluation and record still belong to it.
        if batch + 1 < self.params["steps"] and (is_check or num_processes() == 1):
            self._stop_if_requested()
        if is_check:
            _require_finite(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        _require_finite(logs)
        self._stop_if_requested()

    def _stop_if_requested(self) -> None:
        if any_process(self.requested):
            raise Interrupted


class TimeEstimate(keras.callbacks.Callback):
    """Estimates the duration of the training once, after a few steps."""

    def __init__(self, total_steps: int, feed: Any, after_steps: int = 10) -> None:
        super().__init__()
        self.total_steps = total_steps
        self.feed = feed
        self.after_steps = after_steps
        self.calls = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.calls += 1
        calls = math.ceil(self.after_steps / self.feed.steps_per_call)
        if self.calls == 2:  # the first call or two compile
            float(next(iter((logs or {}).values())))  # waits for the device
            self.start = time.monotonic()
        elif self.calls == 2 + calls:
            float(next(iter((logs or {}).values())))
            seconds = (time.monotonic() - self.start) / (calls * self.feed.steps_per_call)
            say(
                f"\n{seconds:.2g} s per step: about {duration(seconds * self.total_steps)} for "
                f"{self.total_steps:,} steps, evaluation not counted"
            )


def _require_finite(logs: dict[str, Any] | None) -> None:
    logs = logs or {}
    if not all(math.isfinite(logs[name]) for name in logs if name.endswith("loss")):
        raise InputError(
            "the loss is not finite any more: training diverged; the last checkpoint is kept. Try "
            "a smaller learning rate or --precision float32 in a new run, which can begin with the "
            "weights of this one: --start-from"
        )
