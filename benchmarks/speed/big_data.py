"""Speed and memory of training on a data set larger than memory, compared with a small one.

    python -m benchmarks.speed.big_data --num-images 300000

Makes that many images in a temporary folder, prepares their cache as train.py does, and trains a
network so small that data loading matters. Rounds on the small and the big data set alternate.
Before each round on the big one its file is dropped from the system's page cache, so that all
images come from the disk, as from a file many times larger than memory. Ratios are of medians.

The system can reclaim the pages of a mapped file when it needs memory, but not the anonymous memory
of a process: the peak of the latter is reported, and with --memory-limit a process that needs more
fails.
"""

import argparse
import json
import mmap
import os
import re
import resource
import statistics
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

from ddim_keras.cli.options import add_backend_option, at_least
from ddim_keras.cli.startup import choose_backend, run_command
from ddim_keras.config import InputError, ModelConfig, NetworkConfig

NUM_DRAWN = 500  # flowers from which all images are made
UNCOUNTED_STEPS = 5  # at the start of a round


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--num-images",
        type=at_least(1000),
        default=300_000,
        metavar="N",
        help="images of the big data set (default: 300000)",
    )
    add(
        "--num-small",
        type=at_least(1000),
        default=5000,
        metavar="N",
        help="images of the small data set (default: 5000)",
    )
    add(
        "--image-size",
        type=at_least(8),
        default=64,
        metavar="N",
        help="height and width in pixels (default: 64)",
    )
    add(
        "--batch-size",
        type=at_least(1),
        default=64,
        metavar="N",
        help="images per step (default: 64)",
    )
    add(
        "--steps",
        type=at_least(10),
        default=100,
        metavar="N",
        help="training steps per round (default: 100)",
    )
    add(
        "--rounds",
        type=at_least(1),
        default=5,
        metavar="N",
        help="rounds of each data set (default: 5)",
    )
    add("--folder", metavar="DIR", help="folder for temporary files (default: /tmp)")
    add(
        "--memory-limit",
        type=float,
        metavar="GIB",
        help="limit for the memory of the process (default: none)",
    )
    add_backend_option(parser)
    arguments = parser.parse_args()
    if not Path("/proc/self/status").exists():
        raise InputError("the memory of a process is read from /proc, which only Linux has")
    choose_backend(arguments.backend)
    if arguments.memory_limit:
        # Counts what a process allocates, touched or not; files mapped for reading do not count.
        limit = int(arguments.memory_limit * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        small = prepare(Path(folder), arguments.num_small, arguments.image_size)
        with PeakMemory() as preparing:
            big = prepare(Path(folder), arguments.num_images, arguments.image_size)
        with PeakMemory() as training:
            speeds = measure(arguments, {"small": small, "big": big})

    print(f"{os.cpu_count()} cores, medians of {arguments.rounds} rounds, images/s")
    medians = {
        what: {name: statistics.median(values) for name, values in speed.items()}
        for what, speed in speeds.items()
    }
    for what, speed in medians.items():
        ratio = speed["big"] / speed["small"]
        print(f"{what:15s}small {speed['small']:<12,.0f}big {speed['big']:<12,.0f}{ratio:.3f}")
    memory = {"preparing": preparing.peak / 2**30, "training": training.peak / 2**30}
    print(
        "peak anonymous memory {preparing:.2f} GiB while preparing, {training:.2f} GiB while "
        "training".format(**memory)
    )
    print(json.dumps({"images_per_second": medians, "peak_memory_gib": memory}))


def prepare(folder: Path, num_images: int, image_size: int) -> Any:
    """Makes an array file of different images, and loads it like any data set."""
    import numpy as np

    from ddim_keras.data.cache import load_dataset
    from ddim_keras.data.drawn_flowers import draw_flowers

    print(f"making {num_images:,} images", flush=True)
    flowers, _ = draw_flowers(NUM_DRAWN, image_size)
    random = np.random.default_rng(0)
    source = folder / f"{num_images}.npy"
    shape = (num_images, *flowers.shape[1:])
    with open(source, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, num_images, NUM_DRAWN):
            moved = np.roll(flowers, random.integers(0, image_size, 2), axis=(1, 2))
            tinted = moved + random.integers(0, 256, 3, "uint8")
            file.write(tinted[: num_images - start].tobytes())
    start = time.perf_counter()
    dataset = load_dataset(source, image_size, cache_dir=folder)
    seconds = time.perf_counter() - start
    source.unlink()
    print(
        f"{dataset.describe()}, {np.prod(shape) / 2**30:.2f} GiB, prepared at "
        f"{num_images / seconds:.0f} images/s",
        flush=True,
    )
    return dataset


def measure(arguments: argparse.Namespace, datasets: dict[str, Any]) -> dict[str, dict]:
    """Images per second in each round: batches only and training, for each data set."""
    import keras

    from ddim_keras.data.batches import training_batches
    from ddim_keras.model import DiffusionModel

    network = NetworkConfig(image_size=arguments.image_size, widths=(8,), depths=(1,))
    model = DiffusionModel(ModelConfig(network=network))
    model.compile("adamw")
    times: list[float] = []

    def end_step(step: int, logs: dict[str, Any]) -> None:
        float(logs["noise_loss"])  # waits for the device
        times.append(time.perf_counter())

    clock = keras.callbacks.LambdaCallback(on_train_batch_end=end_step)
    steps = arguments.steps

    def play(dataset: Any, number: int, is_cold: bool) -> dict[str, float]:
        speeds = {}
        for what in ("batches alone", "training"):
            if is_cold:
                drop_from_page_cache(dataset.train_images)
            batches = training_batches(
                dataset.train_images,
                dataset.train_labels,
                arguments.batch_size,
                start_step=(number + 1) * steps,
            )
            times.clear()
            if what == "training":
                model.fit(
                    batches, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[clock]
                )
            else:
                times.extend(time.perf_counter() for _ in islice(batches, steps))
            seconds = times[-1] - times[UNCOUNTED_STEPS - 1]
            speeds[what] = (steps - UNCOUNTED_STEPS) * arguments.batch_size / seconds
        return speeds

    model.adapt(datasets["big"].train_images)
    speeds: dict[str, dict[str, list[float]]] = {}
    for number in range(-1, arguments.rounds):  # the first compiles, and is not counted
        for name, dataset in datasets.items():
            for what, speed in play(dataset, number, is_cold=name == "big").items():
                if number >= 0:
                    speeds.setdefault(what, {}).setdefault(name, []).append(speed)
    return speeds


def drop_from_page_cache(images: Any) -> None:
    """Drops the file that these images are mapped from out of the system's page cache."""
    mapping = images
    while not isinstance(mapping, mmap.mmap):
        mapping = mapping.base
    mapping.madvise(mmap.MADV_DONTNEED)  # pages in use would stay
    with open(images.filename, "rb") as file:
        os.fsync(file.fileno())  # and so would those not written yet
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class PeakMemory:
    """While its block runs, watches the anonymous memory of this process: `peak`, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self.is_over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self.thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.is_over.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.is_over.wait(0.02):
            status = Path("/proc/self/status").read_text()
            kibibytes = int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])
            self.peak = max(self.peak, 1024 * kibibytes)


if __name__ == "__main__":
    run_command(main)
