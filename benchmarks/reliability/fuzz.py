"""Fuzzing of all readers and whole commands with mutated files, for crashes, hangs and escapes.

    python -m benchmarks.reliability.fuzz --cases 9700
    python -m benchmarks.reliability.fuzz --commands 300

Files of a small run are mutated: JSON and HDF5 by structure as well as by bytes. They are read in
forked children with limits of time and memory. A case passes if it succeeds or gives one line of
error. It fails if it exceeds a limit, or if Python writes a file outside its folder, or reads one
that is not part of the installation. Failing files are kept in --keep.
"""

import argparse
import collections
import contextlib
import io
import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
MOST_SECONDS, MOST_BYTES = 10, 2**30  # of a case; the memory above the libraries
STARTING_SECONDS = 300  # of a child, until its first case is done
ODD = [0, -1, 1, 2, 1e9, 1e300, 10**400, True, None, "", "a" * 300, "$\\frac{$", "\ud800", [], {}]
FILES = {
    "config": "config.json",
    "manifest": "manifest.json",
    "steps": "sampling_steps.json",
    "history": "history.csv",
    "table": "evaluation.csv",
    "samples": "samples/epoch_0001.npy",
    "weights": "last.weights.h5",
    "export": "last.weights.h5",
    "array": "data.npz",
    "prepared": "prepared/prepared.json",
    "labels": "prepared/train_labels.npy",
    "png": "image.png",
    "jpg": "image.jpg",
    "gif": "image.gif",
}
LIBRARIES = (  # and what they may read
    *(os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, ROOT, "/usr", "/lib")),
    *("/proc/", "/sys/", "/dev/", "/etc/", str(Path.home())),
)
COMMANDS = {
    "config": "generate.py --run . --num-images 2 --steps 2",
    "weights": "generate.py --run . --num-images 2 --steps 2 --no-verify",
    "steps": "generate.py --run . --num-images 1 --steps 2 --spacing searched",
    "png": "generate.py --run . --num-images 1 --steps 2 --from-image image.png",
    "history": "-m ddim_keras.doctor .",
    "samples": "-m ddim_keras.plots evolution --run .",
    "array": "-m ddim_keras.plots data --dataset data.npz --cache-dir cache",
    "manifest": "-m ddim_keras.export --run . --output exported",
}


def make_seed(folder: Path) -> None:
    """An untrained run folder, and one file of each other kind."""
    from ddim_keras.config import ModelConfig, NetworkConfig, TrainingConfig
    from ddim_keras.data.cache import load_dataset
    from ddim_keras.data.drawn_flowers import draw_flowers
    from ddim_keras.model import DiffusionModel
    from ddim_keras.runs.configuration import RunConfig
    from ddim_keras.runs.folder import Run

    network = NetworkConfig(image_size=16, widths=(8, 8), depths=(1, 1), num_classes=2)
    config = RunConfig(
        preset="lab",
        model=ModelConfig(network=network),
        training=TrainingConfig(),
        class_names=("a", "b"),
    )
    run = Run(folder)
    run.save_config(config)
    run.save_last(DiffusionModel(config.model))
    run.save_sampling_steps({2: [0.02, 0.5, 1.0]})
    losses = ("noise_loss", "image_loss", "val_noise_loss", "val_image_loss", "kid")
    run.write_history([{"epoch": 1, "images": 64, "seconds": 1.5, **dict.fromkeys(losses, 0.1)}])
    (folder / "evaluation.csv").write_text("setting,steps,kid\nddim,5,0.1\n")
    images, labels = draw_flowers(40, 16)
    (folder / "samples").mkdir()
    np.save(folder / "samples/epoch_0001.npy", images)
    Image.fromarray(images[0]).save(folder / "samples/epoch_0001.png")
    for suffix in ("png", "jpg", "gif"):
        Image.fromarray(images[0]).save(folder / f"image.{suffix}")
    np.savez(folder / "data.npz", images=images, labels=labels % 2, class_names=["a", "b"])
    with contextlib.redirect_stdout(io.StringIO()):
        load_dataset(folder / "data.npz", 16, cache_dir=folder / "cache")
    (prepared,) = (folder / "cache").iterdir()
    prepared.rename(folder / "prepared")


def mutate(path: Path, chance: random.Random) -> None:
    """Mutates a file, by its structure if that is known."""
    if path.suffix == ".json" and chance.random() < 0.7:
        values = json.loads(path.read_text())
        for _ in range(chance.randint(1, 3)):
            _mutate_json(values, chance)
        path.write_text(json.dumps(values))
    elif path.suffix == ".h5" and chance.random() < 0.6:
        _mutate_hdf5(path, chance)
    else:
        contents = bytearray(path.read_bytes())
        for _ in range(chance.choice((1, 2, 8, 64))):
            where = chance.randrange(len(contents) or 1)
            length = chance.choice((1, 1, 4, 100))
            what = chance.choice((bytes, chance.randbytes, lambda n: b"\xff" * n))(length)
            if chance.random() < 0.8:
                contents[where : where + length] = what
            else:
                contents[where:where] = what
        if chance.random() < 0.2:
            del contents[chance.randrange(len(contents)) :]
        path.write_bytes(contents)


def _mutate_json(values: Any, chance: random.Random) -> None:
    if not isinstance(values, dict | list) or not values:
        return
    key = chance.choice(list(values) if isinstance(values, dict) else range(len(values)))
    if isinstance(values[key], dict | list) and chance.random() < 0.7:
        _mutate_json(values[key], chance)
    elif isinstance(values, dict) and chance.random() < 0.2:
        del values[key]
    else:
        values[key] = chance.choice([*ODD, float("nan"), float("inf"), [values[key]] * 50])


def _mutate_hdf5(path: Path, chance: random.Random) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = chance.choice(names)
        kind = chance.randrange(8)
        item = file[name]
        if kind == 0 or isinstance(item, h5py.Group):
            del file[name]
        if kind == 1:
            file[f"{name}-link"] = h5py.ExternalLink("/etc/hostname", "/")
        elif kind == 2:
            file[f"{name}-link"] = h5py.SoftLink("/")
        elif kind == 3:
            file[f"{name}-loop"] = file["/"]
        elif kind == 4 and isinstance(item, h5py.Dataset):
            shape = chance.choice(((), (0,), (10**6, 10**6), (3,), (2, 2, 2, 2, 2)))
            dtype = chance.choice(("f4", "f8", "S9", "i1", "c8"))
            del file[name]
            file.create_dataset(name, shape, dtype, chunks=(1, 1) if len(shape) == 2 else None)
        elif kind == 5 and isinstance(item, h5py.Dataset):
            item[...] = chance.choice((np.nan, np.inf, -1, 0, 1e38))
        elif kind == 6:
            file.create_dataset(f"{name}-outside", (4,), "u1", external=[("/etc/hostname", 0, 4)])
        elif kind == 7:
            group = file
            for _ in range(chance.choice((10, 1000))):
                group = group.create_group("deeper")


def readers() -> dict[str, Callable[[Path], Any]]:
    """The readers of each kind of file in a folder; imports Keras."""
    from ddim_keras.data.cache import open_cache
    from ddim_keras.data.images import load_image
    from ddim_keras.data.sources import find_source
    from ddim_keras.evaluation.table import read_rows
    from ddim_keras.export import export
    from ddim_keras.plots.figures import read_samples
    from ddim_keras.runs.folder import Run, load_model
    from ddim_keras.runs.manifest import read_manifest

    def read_array(folder: Path) -> list[Any]:
        return list(find_source(folder / "data.npz", 16, None).read().samples)

    def unverified(folder: Path) -> None:
        (folder / "manifest.json").unlink()
        export(Run(folder), folder / "exported")

    return {
        "config": lambda folder: Run(folder).read_config(),
        "manifest": read_manifest,
        "steps": lambda folder: Run(folder).read_sampling_steps(),
        "history": lambda folder: Run(folder).read_history(),
        "table": lambda folder: read_rows(folder / "evaluation.csv"),
        "samples": lambda folder: read_samples(folder / "samples/epoch_0001.png"),
        "weights": lambda folder: load_model(folder / "last.weights.h5", check_hashes=False),
        "export": unverified,
        "array": read_array,
        "prepared": lambda folder: open_cache(folder / "prepared", "data"),
        "labels": lambda folder: open_cache(folder / "prepared", "data"),
        **{
            kind: lambda folder, kind=kind: load_image(folder / f"image.{kind}", 16)
            for kind in ("png", "jpg", "gif")
        },
    }


def commands() -> dict[str, Callable[[Path], Any]]:
    """The command that reads each kind of file, in this process."""
    import keras  # noqa: F401 (imported once, not for each case)

    from ddim_keras.config import InputError

    def run(words: list[str]) -> Callable[[Path], Any]:
        def in_folder(folder: Path) -> None:
            os.chdir(folder)
            try:
                if words[0] == "-m":
                    sys.argv = words[1:]
                    runpy.run_module(words[1], run_name="__main__", alter_sys=True)
                else:
                    sys.argv = [str(ROOT / words[0]), *words[1:]]
                    runpy.run_path(sys.argv[0], run_name="__main__")
            except SystemExit as ending:
                if str(ending.code).startswith("error: ") or ending.code == 2:
                    raise InputError("one line") from ending
                if ending.code:
                    raise RuntimeError(f"exit status {ending.code}") from ending

        return in_folder

    return {kind: run(command.split()) for kind, command in COMMANDS.items()}


def case_of(number: int, kinds: list[str]) -> tuple[str, random.Random]:
    return kinds[number % len(kinds)], random.Random(number)


def child(numbers: list[int], arguments: argparse.Namespace, seed: Path, pipe: Any) -> None:
    """Reads one case after another, and reports the outcomes to the parent."""
    from ddim_keras.config import InputError

    escapes: list[str] = []
    place = ""

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event != "open" or not place or not isinstance(details[0], str | bytes):
            return
        path = os.path.realpath(os.path.join(place, os.fsdecode(details[0])))
        writes = (details[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        allowed = (place, "/dev/", "/proc/") if writes else (place, *LIBRARIES)
        if not path.startswith(allowed):
            escapes.append(f"{'writes' if writes else 'reads'} {path}")

    sys.addaudithook(watch)
    read = (commands if arguments.whole else readers)()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent prints the figures so far
    nowhere = open(os.devnull, "w")  # noqa: SIM115
    for number in numbers:
        kind, chance = case_of(number, list(read))
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
            folder = Path(os.path.realpath(name)) / "case"
            shutil.copytree(seed, folder)
            if arguments.whole and kind != "manifest":
                (folder / "manifest.json").unlink()
            with contextlib.suppress(ValueError, KeyError, OSError, RuntimeError):
                mutate(folder / FILES[kind], chance)
            before = _peak(reset=True)
            escapes.clear()
            place, start, outcome = str(folder), time.monotonic(), "read"
            tempfile.tempdir = place  # what is unpacked belongs to the case
            try:
                with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                    read[kind](folder)
            except (InputError, OSError):
                outcome = "refused"
            except BaseException:
                outcome = "traceback: " + traceback.format_exc().strip().splitlines()[-1][:150]
            place, tempfile.tempdir = "", None
            os.chdir("/")
            memory = _peak() - before
            if escapes:
                outcome = f"outside: {escapes[0]}"
            elif memory > MOST_BYTES:
                outcome = f"memory: {memory >> 20} MiB"
            if outcome not in ("read", "refused"):
                shutil.copytree(folder, arguments.keep / f"{kind}-{number}", dirs_exist_ok=True)
        pipe.send((number, kind, outcome, time.monotonic() - start, memory))
    pipe.close()


def _peak(reset: bool = False) -> int:
    """The peak memory of this process, in bytes; `reset` restarts the measurement."""
    with contextlib.suppress(OSError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--cases", type=int, default=500, help="files through the readers (default: 500)"
    )
    parser.add_argument(
        "--commands", type=int, default=0, help="files through whole commands (default: 0)"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="number and seed of the first case (default: 0)"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("runs/fuzz"),
        help="folder of failures (default: runs/fuzz)",
    )
    arguments = parser.parse_args()
    arguments.keep = arguments.keep.resolve()
    arguments.whole = arguments.commands > 0
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        seed = Path(name) / "seed"
        maker = fork.Process(target=make_seed, args=(seed,))
        maker.start()
        maker.join()
        numbers = [arguments.first + n for n in range(arguments.commands or arguments.cases)]
        outcomes: collections.Counter[str] = collections.Counter()
        slowest, largest = 0.0, 0
        while numbers:
            receiver, sender = fork.Pipe(duplex=False)
            process = fork.Process(target=child, args=(numbers, arguments, seed, sender))
            process.start()
            sender.close()
            patience = STARTING_SECONDS
            try:
                while numbers and receiver.poll(patience):
                    number, kind, outcome, seconds, memory = receiver.recv()
                    numbers.remove(number)
                    patience = MOST_SECONDS
                    slowest, largest = max(slowest, seconds), max(largest, memory)
                    outcomes[outcome.split(":")[0]] += 1
                    if outcome not in ("read", "refused"):
                        print(f"{number} {kind}: {outcome}", flush=True)
                lost = "hang"
            except EOFError:
                lost = "crash"
            except KeyboardInterrupt:  # the figures so far
                numbers.clear()
            process.kill()
            process.join()
            if numbers:
                outcomes[lost] += 1
                print(f"{numbers[0]}: {lost}", flush=True)
                numbers.pop(0)
        print(
            f"{sum(outcomes.values())} cases: {dict(outcomes)}; at most {slowest:.1f} s and "
            f"{largest / 2**20:.0f} MiB"
        )
        failed = sum(outcomes.values()) - outcomes["read"] - outcomes["refused"]
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
