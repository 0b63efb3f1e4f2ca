"""Equal results on any number of devices, shown by training one tiny model.

    python -m benchmarks.speed.devices --backend jax
    python -m benchmarks.speed.devices --backend tensorflow

The devices are virtual: parts of this machine's CPU. For each block of the network the table gives
losses, KID and sums of weights after two epochs, and the largest relative difference from one
device. In the last rows, a training on two devices is resumed on one, and the reverse; under JAX,
two processes train together like two hosts.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from ddim_keras.cli.options import add_backend_option
from ddim_keras.cli.startup import choose_backend, run_command
from ddim_keras.config import ModelConfig, NetworkConfig, TrainingConfig

PROJECT = Path(__file__).parents[2]
BLOCKS = ("plain", "adaptive")
CASES = ("1", "2", "4", "2 then 1", "1 then 2")
TWO_PROCESSES = "2 processes"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--blocks", nargs="+", choices=BLOCKS, default=BLOCKS, help="blocks (default: both)"
    )
    parser.add_argument(
        "--cases", nargs="+", choices=(*CASES, TWO_PROCESSES), help="cases to run (default: all)"
    )
    parser.add_argument("--worker", type=Path, metavar="JSON", help=argparse.SUPPRESS)
    add_backend_option(parser)
    arguments = parser.parse_args()
    backend = choose_backend(arguments.backend)
    cases = arguments.cases or [*CASES, *([TWO_PROCESSES] if backend == "jax" else [])]
    if arguments.worker:
        train_cases(arguments.blocks, cases, arguments.worker)
        return
    for block in arguments.blocks:
        print_table(block, results_of(backend, block, cases))


def results_of(backend: str, block: str, cases: list[str]) -> dict[str, dict[str, float]]:
    """The results of `train_case` for each case, from separate processes."""
    program = [sys.executable, "-m", "benchmarks.speed.devices"]
    command = [*program, "--backend", backend, "--blocks", block]
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        # TensorFlow connects as many devices as once were connected, and no more.
        alone = [case for case in cases if case != TWO_PROCESSES]
        groups = [[case] for case in alone] if backend == "tensorflow" else [alone]
        for group in filter(None, groups):
            path = Path(folder) / "alone.json"
            worker = [*command, "--worker", str(path), "--cases", *group]
            flags = "--xla_force_host_platform_device_count=4"
            subprocess.run(
                worker,
                cwd=PROJECT,
                env={**os.environ, "XLA_FLAGS": flags},
                stdout=subprocess.DEVNULL,
                check=True,
            )
            results |= json.loads(path.read_text())
        if TWO_PROCESSES in cases:
            path = Path(folder) / "together.json"
            worker = [*command, "--worker", str(path), "--cases", TWO_PROCESSES]
            with socket.socket() as probe:
                probe.bind(("localhost", 0))
                port = probe.getsockname()[1]
            hosts = {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"localhost:{port}",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            }
            processes = [
                subprocess.Popen(
                    worker,
                    cwd=PROJECT,
                    env={**os.environ, **hosts, "KERAS_DISTRIBUTION_PROCESS_ID": str(number)},
                    stdout=subprocess.DEVNULL,
                )
                for number in range(2)
            ]
            statuses = [process.wait() for process in processes]
            if any(statuses):
                raise SystemExit("a process failed")
            results |= json.loads(path.read_text())
    return results


def train_cases(blocks: list[str], cases: list[str], path: Path) -> None:
    """Runs the cases in this process, and writes their results to `path`."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 4,
        )
    from ddim_keras.backends.devices import connect_hosts, process_id

    connect_hosts()
    results = {}
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            results[case] = train_case(blocks[0], case, Path(folder))
    if process_id() == 0:
        path.write_text(json.dumps(results))


def train_case(block: str, case: str, folder: Path) -> dict[str, float]:
    """Trains for two epochs of three steps; the results must not depend on the devices."""
    import keras
    import numpy as np
    from keras import ops

    from ddim_keras.data.cache import Dataset
    from ddim_keras.data.drawn_flowers import draw_flowers
    from ddim_keras.metrics.encoders import Encoder
    from ddim_keras.metrics.kid import KernelInceptionDistance
    from ddim_keras.runs.configuration import RunConfig
    from ddim_keras.runs.folder import Run
    from ddim_keras.training.callbacks import Interrupted, KIDCallback
    from ddim_keras.training.loop import train

    class Interrupt(keras.callbacks.Callback):
        """Within the second epoch."""

        def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if self.epoch == 1:
                raise Interrupted

    network = NetworkConfig(image_size=8, widths=(16,), depths=(1,), block=block, num_classes=10)
    # As in the presets that use the block.
    optimizer = {"plain": "adamw", "adaptive": "muon"}[block]
    config = RunConfig(
        preset="lab",
        model=ModelConfig(network=network, ema=0.9),
        training=TrainingConfig(
            batch_size=8, repetitions=1, optimizer=optimizer, flip=True, cosine_decay=True
        ),
        dataset=None,
        data_dir=None,
        epochs=2,
    )
    images, labels = draw_flowers(46, 8)
    names = tuple(map(str, range(10)))
    dataset = Dataset("drawn", images[:30], labels[:30], images[30:], labels[30:], names)
    pixels = keras.Input((75, 75, 3))
    colours = keras.layers.Flatten()(keras.layers.AveragePooling2D(25)(pixels))
    encoder = Encoder("colours", keras.Model(pixels, colours))
    kid = KernelInceptionDistance(encoder, dataset.validation_images, batch_size=8)

    run = Run(folder)
    run.save_config(config)
    measured = []

    class Measure(KIDCallback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            super().on_epoch_end(epoch, logs)
            measured.append(dict(logs))

    *begun, ended = case.removesuffix(" processes").split(" then ")
    for devices in begun:
        callbacks = [Measure(kid, 16, 2), Interrupt()]
        with contextlib.suppress(Interrupted):
            train(run, config, dataset, callbacks=callbacks, devices=int(devices))
    model = train(run, config, dataset, callbacks=[Measure(kid, 16, 2)], devices=int(ended))
    sums = {
        f"sum of |{part.name}|": float(
            sum(np.abs(ops.convert_to_numpy(weight)).sum() for weight in part.weights)
        )
        for part in (model.network, model.ema_network)
    }
    return {
        f"{name}, epoch {epoch}": float(value)
        for epoch, logs in enumerate(measured, start=1)
        for name, value in logs.items()
    } | sums


def print_table(block: str, results: dict[str, dict[str, float]]) -> None:
    """A column for each number of devices; prints the largest relative difference last."""
    print(f"\n{block} block" + " " * 16 + "".join(f"{case:>14s}" for case in results))
    first = next(iter(results.values()))
    for name in first:
        print(f"{name:28s}" + "".join(f"{result[name]:14.6f}" for result in results.values()))
    print(f"{'largest difference':28s}", end="")
    for result in results.values():
        difference = max(abs(result[name] / first[name] - 1) for name in first)
        print(f"{difference:14.1e}", end="")
    print(flush=True)


if __name__ == "__main__":
    run_command(main)
