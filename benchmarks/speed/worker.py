"""The process of one contender: reads commands, one JSON object per line, and answers each.

Started by throughput.py and time_to_kid.py. Each contender has a process, because the Keras backend
is chosen at import, the frameworks' threads interfere with each other, and start-up time and peak
memory belong to a process.
"""

import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.speed import contenders
from ddim_keras.cli.startup import choose_backend, import_keras, run_command

LARGEST_BATCH = 64  # of images sampled together, to bound the memory


class Worker:
    """Carries out the commands: methods whose arguments and results are JSON."""

    def __init__(self) -> None:
        self.contender: Any = None
        self.products: Any = None

    def build(self, **settings: Any) -> dict[str, Any]:
        """Imports the framework and builds the contender; returns its description."""
        settings = contenders.Settings(**settings)
        if settings.backend:
            choose_backend(settings.backend)
            import_keras()
        settings = contenders.with_precision(settings)
        self.contender = contenders.build(settings)
        return {
            "settings": dataclasses.asdict(settings),
            "how": self.contender.how,
            "framework": self.contender.framework,
            "device": self.contender.device,
            "forward_flops": self.contender.forward_flops,
            "parameters": self.contender.parameters,
            "versions": contenders.versions(self.contender.framework),
        }

    def train(self, steps: int) -> float:
        """Returns the seconds that `steps` training steps take."""
        return seconds(lambda: self.contender.train(steps))

    def sample(self, num_images: int, steps: int) -> float:
        """Returns the seconds that `num_images` images take from noise to pixels."""
        return seconds(lambda: self.contender.sample(num_images, steps))

    def draw(self, num_images: int, steps: int, path: str) -> None:
        """Samples (num_images, H, W, C) in [0, 1] in batches, and writes them to an .npy file."""
        size = min(num_images, LARGEST_BATCH)
        batches = [self.contender.sample(size, steps) for _ in range(-(-num_images // size))]
        np.save(path, np.concatenate(batches)[:num_images])

    def memory(self) -> dict[str, int]:
        """Peaks so far, in bytes: of the process, and of what it used of a GPU."""
        unit = 1 if sys.platform == "darwin" else 1024
        return {
            "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
            "device": contenders.device_memory(self.contender.framework),
        }

    def peak(self, size: int, target: float) -> dict[str, float]:
        """Operations per second of matrix products of `size`, of about `target` seconds each."""
        if self.products is None:
            self.products = contenders.MatrixProducts(self.contender.framework, size)
        speeds = {}
        for dtype in self.products.products:
            self.products.run(dtype, 1)  # wakes the threads and clock; compiles at first
            once = seconds(lambda dtype=dtype: self.products.run(dtype, 1))
            times = max(1, min(1000, round(target / once)))
            start = time.perf_counter()
            operations = self.products.run(dtype, times)
            speeds[dtype] = operations / (time.perf_counter() - start)
        return speeds

    def cpu_seconds(self) -> float:
        """CPU time of this process so far, to check that it is idle while others are timed."""
        return time.process_time()


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    # Answers go where standard output went; what libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        command, arguments = json.loads(line)
        result = getattr(worker, command)(**arguments)
        print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    run_command(main)
