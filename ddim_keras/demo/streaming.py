"""Streaming of sampling steps: a callback turned into an iterator."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from ddim_keras.model import DiffusionModel
from ddim_keras.types import Callback

_ONE_AT_A_TIME = threading.Lock()  # one job uses the processor and the memory


@dataclass(frozen=True)
class Frame:
    """One network call: (N, H, W, C) images in [0, 1]; the noisy ones are clipped."""

    step: int
    noisy_images: np.ndarray
    pred_images: np.ndarray


class _Stopped(Exception):
    """Ends a job whose frames are no longer taken."""


def streamed(model: DiffusionModel, work: Callable[[Callback], None]) -> Iterator[Frame]:
    """Runs `work(callback)` in a thread, and yields the frame of each call.

    The work waits until each frame has been taken. When the iterator is closed, it ends at its next
    network call; an exception in it is raised here.
    """
    frames: queue.Queue[Any] = queue.Queue(maxsize=1)
    is_stopped = threading.Event()

    def callback(step: int, noisy_images: Any, pred_images: Any) -> None:
        frame = (
            ops.convert_to_numpy(model.denormalize(each)) for each in (noisy_images, pred_images)
        )
        frames.put(Frame(step, *frame))
        if is_stopped.is_set():
            raise _Stopped

    def run() -> None:
        try:
            with _ONE_AT_A_TIME:
                work(callback)
            frames.put(None)
        except BaseException as error:
            frames.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (frame := frames.get()) is not None:
            if isinstance(frame, BaseException):
                raise frame
            yield frame
    finally:
        is_stopped.set()
        while thread.is_alive():  # it may wait for a place for its last frame
            with contextlib.suppress(queue.Empty):
                frames.get(timeout=0.05)
