"""Golden files: what the code of an earlier day left behind, and what must follow from it.

A change that only moves code must reproduce them. Each case below starts from files in this folder,
goes through the public names and commands alone, and returns arrays: losses, weights, images.

    python -m tests.golden.golden_files save before.npz      # before a change of the code
    python -m tests.golden.golden_files compare before.npz   # after it: equal to the last bit?

The tests compare the same arrays, within tolerances for another machine, with `recorded.json` and
`images/`. After a change that is meant to alter results, once for each backend (KERAS_BACKEND):

    python -m tests.golden.golden_files record

The runs and exports stay as they are: they stand for those that users have. To add to them when
there is a new kind of network: `make`, which overwrites none.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import runpy
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import ops
from PIL import Image

from ddim_keras import (
    Dataset,
    DiffusionModel,
    ModelConfig,
    NetworkConfig,
    Run,
    RunConfig,
    TrainingConfig,
    draw_flowers,
    load_dataset,
    load_model,
    train,
)
from ddim_keras.training.muon import ConvolutionMuon

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
FLOWERS = FOLDER / "flowers.npz"  # 40 drawn flowers of 16 px with labels
RECORDED = FOLDER / "recorded.json"
IMAGES = FOLDER / "images"
BACKEND = keras.backend.backend()
LOSSES = ("noise_loss", "image_loss", "val_noise_loss", "val_image_loss")

# A case returns "losses" (any shape), "weights" (a list) and "images" (N, H, W, C), in [0, 1].
Measured = dict[str, np.ndarray | list[np.ndarray]]

# Tiny, with every part of the networks of the presets `lab` and `fast`. Written out, so that a
# better recipe in a preset leaves the golden files alone.
PLAIN = ModelConfig(
    network=NetworkConfig(image_size=16, widths=(8,), depths=(1,), embedding_dims=4), ema=0.9
)
ADAPTIVE = ModelConfig(
    network=NetworkConfig(
        image_size=16,
        widths=(8,),
        depths=(1,),
        block="adaptive",
        attention_sizes=(8,),
        patch_size=2,
        embedding_dims=4,
        num_classes=10,
    ),
    prediction="velocity",
    ema=0.9,
    ema_warmup=True,
)
PLAIN_RECIPE = TrainingConfig(batch_size=8, repetitions=2)
ADAPTIVE_RECIPE = TrainingConfig(
    batch_size=8,
    repetitions=2,
    loss="huber",
    loss_on="noise",
    optimizer="muon",
    learning_rate=2e-3,
    warmup_steps=5,
    cosine_decay=True,
    flip=True,
)
# Their union except for the adaptive block, which takes TensorFlow seconds to compile for training.
MIXED = dataclasses.replace(
    ADAPTIVE,
    network=NetworkConfig(
        image_size=16, widths=(16, 16), depths=(1, 1), attention_sizes=(8,), num_classes=10
    ),
)


def run_config(model: ModelConfig, recipe: TrainingConfig, epochs: int) -> RunConfig:
    return RunConfig(
        preset="tiny",
        model=model,
        training=recipe,
        dataset=FLOWERS.name,
        data_dir=None,
        epochs=epochs,
        num_images=32,
    )


def run_script(script: str, *arguments: object) -> None:
    """Runs a command of the project in this process."""
    with mock.patch.object(sys, "argv", [script, *map(str, arguments)]):
        runpy.run_path(str(ROOT / script), run_name="__main__")


# The cases.


class StepLosses(keras.callbacks.Callback):
    """Keeps the means that Keras reports after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[list[float]] = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.losses.append([float(logs[name]) for name in LOSSES[:2]])


def initial_weights(place: Path) -> Measured:
    """Those of a network with all kinds of layers."""
    network = dataclasses.replace(ADAPTIVE.network, widths=(16, 24), depths=(1, 1))
    model = DiffusionModel(dataclasses.replace(ADAPTIVE, network=network, seed=3))
    return {"weights": [ops.convert_to_numpy(weight) for weight in model.network.weights]}


def twenty_steps(place: Path) -> Measured:
    """Twenty steps from new weights, then four images with guidance."""
    recipe = dataclasses.replace(ADAPTIVE_RECIPE, repetitions=5)
    config = run_config(MIXED, recipe, epochs=1)
    run = Run(place / "run")
    run.save_config(config)
    losses = StepLosses()
    with np.load(FLOWERS) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    # Not `load_dataset`: how data are prepared shows in the cases of runs alone.
    dataset = Dataset("flowers", images[:32], labels[:32], images[32:], labels[32:], ())
    model = train(run, config, dataset, callbacks=[losses], steps_per_execution=1)
    images = model.generate(4, 3, seed=0, labels=np.arange(4), guidance=1.0)
    return {"losses": np.array(losses.losses), "images": images}


class SameNoises(DiffusionModel):
    """Draws noises and times as functions of the images: the same on every backend."""

    def draw_noises_and_times(self, images: object) -> tuple[object, object]:
        times = 0.5 + 0.5 * ops.sin(20.0 * ops.mean(images, axis=(1, 2, 3), keepdims=True))
        return ops.flip(images, axis=(1, 2)), times


def agreed_steps(block: str, place: Path) -> Measured:
    """Four steps, an evaluation and three steps of DDIM, in which nothing is drawn at random."""
    random = np.random.default_rng(0)
    is_plain = block == "plain"
    network = NetworkConfig(
        image_size=8,
        widths=(8 if is_plain else 16,),
        depths=(1,),
        block=block,
        attention_sizes=() if is_plain else (8,),
    )
    prediction = "noise" if is_plain else "velocity"
    model = SameNoises(ModelConfig(network=network, prediction=prediction, ema=0.9))
    for weight in model.network.trainable_weights:
        weight.assign(0.1 * random.standard_normal(weight.shape))
    model.ema_network.set_weights(model.network.get_weights())
    # A large epsilon: dividing tiny gradients by their size would amplify rounding.
    optimizer = keras.optimizers.AdamW if is_plain else ConvolutionMuon
    loss = "mse" if is_plain else "mae"
    model.compile(optimizer(1e-2, weight_decay=1e-2, epsilon=1e-3), loss=loss)
    images = random.integers(0, 256, (32, 8, 8, 3)).astype("uint8")
    model.adapt(images)
    batches = ((images[start : start + 8],) for start in range(0, 32, 8))
    history = model.fit(batches, steps_per_epoch=4, shuffle=False, verbose=0).history
    evaluation = model.evaluate(images, batch_size=8, verbose=0, return_dict=True)
    noises = random.standard_normal((4, 8, 8, 3)).astype("float32")
    return {
        "losses": np.array(
            [[history[name][0] for name in LOSSES[:2]], [evaluation[name] for name in LOSSES[:2]]]
        ),
        "weights": [
            ops.convert_to_numpy(weight)
            for each in (model.network, model.ema_network)
            for weight in each.weights
        ],
        "images": ops.convert_to_numpy(model.denormalize(model.reverse_diffusion(noises, 3))),
    }


def resumed_run(name: str, place: Path) -> Measured:
    """The second epoch of a run that stopped after its first."""
    folder = place / name
    shutil.unpack_archive(FOLDER / f"{name}.zip", folder)
    shutil.copy(FLOWERS, place)  # config.json names it without a folder
    with contextlib.chdir(place):
        run_script("train.py", "--resume", "--output", folder, "--no-kid", "--cache-dir", place)
    history = np.genfromtxt(folder / "history.csv", delimiter=",", names=True)
    model = load_model(folder / "last.weights.h5")
    return {
        "losses": np.stack([history[name] for name in LOSSES], axis=1),
        "weights": [ops.convert_to_numpy(weight) for weight in model.ema_network.weights],
    }


def exported_model(name: str, place: Path) -> Measured:
    """Two images of each of two classes, written by the command."""
    shutil.unpack_archive(FOLDER / f"{name}.zip", place / name)
    run_script(
        "generate.py",
        *("--run", place / name, "--steps", 3, "--class", 1, 7, "--num-images", 2),
        *("--guidance", 1, "--sampler", "ddim", "--precision", "float32"),
        *("--output", place / "grid.png", "--images-dir", place / "images"),
    )
    files = sorted((place / "images").glob("*.png"))
    return {"images": np.stack([np.asarray(Image.open(file)) / 255.0 for file in files])}


def provided_model(place: Path) -> Measured:
    """Two images of the model that comes with the project."""
    keras.config.set_dtype_policy("float32")
    model = load_model()
    return {"images": model.generate(2, 3, seed=0, labels=np.array([53, 10]), guidance=1.0)}


CASES: dict[str, Callable[[Path], Measured]] = {
    "initial_weights": initial_weights,
    "twenty_steps": twenty_steps,
    "agreed_plain": functools.partial(agreed_steps, "plain"),
    "agreed_adaptive": functools.partial(agreed_steps, "adaptive"),
    "adaptive_run": functools.partial(resumed_run, "adaptive_run"),
    "plain_run": functools.partial(resumed_run, "plain_run"),
    "export": functools.partial(exported_model, "export"),
    "export_transposed": functools.partial(exported_model, "export_transposed"),
    "provided_model": provided_model,
}
# Where a model or training draws random numbers, each backend draws its own.
RANDOM_CASES = ("initial_weights", "twenty_steps", "adaptive_run", "plain_run")


# What is recorded of them.


def recorded_name(case: str) -> str:
    """Under which name the values of a case are recorded: for all backends, or for this one."""
    return f"{case}-{BACKEND}" if case in RANDOM_CASES else case


def projections(weights: list[np.ndarray]) -> list[list[float]]:
    """Two numbers for each array, which no other values and no other order of them share.

    The root mean square, and the sum of products with standard normal numbers over sqrt(size).
    """
    random = np.random.default_rng(0)
    return [
        [
            float(np.sqrt(np.mean(array.astype("float64") ** 2))),
            float(np.sum(array * random.standard_normal(array.shape)) / np.sqrt(array.size)),
        ]
        for array in weights
    ]


def record(case: str, measured: Measured) -> None:
    """Writes what the tests compare with."""
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    values = {}
    if "losses" in measured:
        values["losses"] = [[float(f"{x:.7g}") for x in row] for row in measured["losses"]]
    if "weights" in measured:
        values["weights"] = [
            [float(f"{x:.7g}") for x in row] for row in projections(measured["weights"])
        ]
    if values:
        recorded[recorded_name(case)] = values
        lines = (f"  {json.dumps(name)}: {json.dumps(recorded[name])}" for name in sorted(recorded))
        RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    if "images" in measured:
        IMAGES.mkdir(exist_ok=True)
        strip = np.concatenate(np.round(255 * measured["images"]).astype("uint8"), axis=1)
        Image.fromarray(strip).save(IMAGES / f"{recorded_name(case)}.png")


def read_recorded(case: str) -> dict[str, np.ndarray]:
    """The recorded losses, projections of the weights, and images of a case."""
    recorded = json.loads(RECORDED.read_text()).get(recorded_name(case), {})
    recorded = {name: np.array(values) for name, values in recorded.items()}
    file = IMAGES / f"{recorded_name(case)}.png"
    if file.exists():
        strip = np.asarray(Image.open(file)) / 255.0
        size = strip.shape[0]
        recorded["images"] = np.stack(np.split(strip, strip.shape[1] // size, axis=1))
    return recorded


# The files that the cases start from.


class Stopped(Exception):
    """Ends a training at once, as a kill does."""


class StopAfterFirstEpoch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch == 1:
            raise Stopped


def make(place: Path) -> None:
    """Makes those of the files that are missing."""
    if not FLOWERS.exists():
        images, labels = draw_flowers(40, 16)
        np.savez_compressed(FLOWERS, images=images, labels=labels)
    dataset = load_dataset(FLOWERS, 16, cache_dir=place)
    for name, model, recipe in (
        ("plain_run", PLAIN, PLAIN_RECIPE),
        ("adaptive_run", ADAPTIVE, ADAPTIVE_RECIPE),
    ):
        if not (FOLDER / f"{name}.zip").exists():
            run, config = Run(place / name), run_config(model, recipe, epochs=2)
            run.save_config(config)
            with contextlib.suppress(Stopped):
                train(run, config, dataset, callbacks=[StopAfterFirstEpoch()])
            archive(run.folder, "config.json", "history.csv", "last.weights.h5")
    if not (FOLDER / "export.zip").exists():
        # Long enough for every weight to show in the images.
        recipe = dataclasses.replace(ADAPTIVE_RECIPE, repetitions=125)
        run, config = Run(place / "trained"), run_config(ADAPTIVE, recipe, epochs=1)
        run.save_config(config)
        train(run, config, dataset)
        arguments = ["--run", str(run.folder), "--output", str(place / "export")]
        with mock.patch.object(sys, "argv", ["export", *arguments]):
            runpy.run_module("ddim_keras.export", run_name="__main__")
        archive(place / "export", "config.json", "best.weights.h5")


def archive(folder: Path, *files: str) -> None:
    """Packs files of a folder: compressed, since weights files hold much that is not numbers."""
    with zipfile.ZipFile(FOLDER / f"{folder.name}.zip", "w", zipfile.ZIP_DEFLATED) as target:
        for file in files:
            target.write(folder / file, file)


# The command.


def flat(case: str, measured: Measured) -> dict[str, np.ndarray]:
    """Arrays under names of their own, for one .npz file."""
    arrays = {f"{case}/{name}": value for name, value in measured.items() if name != "weights"}
    for index, weight in enumerate(measured.get("weights", ())):
        arrays[f"{case}/weights/{index}"] = weight
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make", help="missing runs and exports")
    recording = commands.add_parser("record", help="expected values of the tests, on this backend")
    recording.add_argument("cases", nargs="*", metavar="CASE", help="default: all")
    for name, text in (
        ("save", "all arrays of this backend"),
        ("compare", "saved arrays with those of the code as it is now; exit status 1: they differ"),
    ):
        commands.add_parser(name, help=text).add_argument("file", type=Path)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as place:
        if arguments.command == "make":
            make(Path(place))
            return
        arrays = {}
        for case in getattr(arguments, "cases", None) or CASES:
            keras.utils.set_random_seed(0)
            (Path(place) / case).mkdir()
            measured = CASES[case](Path(place) / case)
            arrays |= flat(case, measured)
            if arguments.command == "record":
                record(case, measured)
    if arguments.command == "save":
        np.savez(arguments.file, **arrays)
        print(f"wrote {arguments.file}: {len(arrays)} arrays, backend {BACKEND}")
    elif arguments.command == "compare":
        differing = compare(dict(np.load(arguments.file)), arrays)
        sys.exit("\n".join(differing) or None)


def compare(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> list[str]:
    """A line for each array that is not the same to the last bit."""
    lines = [f"only before: {name}" for name in before.keys() - after.keys()]
    lines += [f"only after: {name}" for name in after.keys() - before.keys()]
    for name in sorted(before.keys() & after.keys()):
        old, new = before[name], after[name]
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            lines.append(f"{name}: {old.dtype} {old.shape}, now {new.dtype} {new.shape}")
        elif old.tobytes() != new.tobytes():
            lines.append(f"{name}: differs by {np.max(np.abs(new - old)):.3g} at most")
    print(f"{len(after)} arrays, {len(lines)} not equal, backend {BACKEND}")
    return lines


if __name__ == "__main__":
    main()
