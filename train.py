"""Trains a diffusion model; everything it makes goes into one run folder."""

import argparse
import dataclasses
import datetime
import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from ddim_keras.cli.options import (
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    at_least,
    whole_path,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import COMPARED, LOSSES, PREDICTIONS, InputError
from ddim_keras.presets import PRESETS, Preset
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import RUNS, Run, newest_run

EXAMPLES = """examples:
  python train.py --epochs 50                    the assignment, on Oxford Flowers 102
  python train.py --preset fast --epochs 20      for a CPU
  python train.py --resume                       continue the newest run
  python train.py --dataset photos/ --image-size 32
  python train.py --dataset mnist --image-size 32
  python train.py --devices 4 --batch-size 256   each of four GPUs takes 64 images of a batch

Several hosts (JAX): the same command on each, with KERAS_DISTRIBUTION_JOB_ADDRESSES=host:port of
the first, KERAS_DISTRIBUTION_NUM_PROCESSES=N and KERAS_DISTRIBUTION_PROCESS_ID=0 to N - 1. The
first writes the run folder; to resume, all must see it.
"""


def parse_arguments() -> argparse.Namespace:
    presets = "; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())

    def of_presets(field: str) -> str:
        values = {name: getattr(preset.training, field) for name, preset in PRESETS.items()}
        return ", ".join(f"{value or 'all'} in {name}" for name, value in values.items())

    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--epochs",
        type=at_least(1),
        metavar="N",
        help="how many in all (default: 50; resumed: as before)",
    )
    add("--preset", choices=PRESETS, help=f"the recipe; {presets} (default: lab)")
    add(
        "--dataset",
        type=whole_path,
        metavar="NAME",
        help="name in TFDS; folder of images, whose sub-folders are the labels; .npz or .npy of "
        "uint8 images (N, H, W, C); or drawn_flowers "
        "(default: oxford_flowers102, or drawn_flowers where that cannot be had)",
    )
    add_data_options(parser, data_dir="~/tensorflow_datasets")
    add(
        "--image-size",
        type=at_least(8),
        metavar="PIXELS",
        help="height and width in pixels; images are cropped to their centre square and resized "
        "(default: 64)",
    )
    add(
        "--batch-size",
        type=at_least(1),
        metavar="N",
        help=f"images per step, of all devices together (default: {of_presets('batch_size')})",
    )
    add(
        "--devices",
        type=at_least(1),
        metavar="N",
        help="GPUs, or other devices, that share each batch equally, with the losses and weights "
        "of one; for the backends tensorflow and jax (default: 1; of several hosts: all)",
    )
    add(
        "--precision",
        choices=("float32", "mixed_bfloat16"),
        help="of the layers; mixed_bfloat16 is faster where the processor or GPU has instructions "
        "for it (default: the faster one)",
    )
    add(
        "--loss",
        choices=LOSSES,
        help="squared error; absolute error; or squared where it is small, absolute beyond "
        f"(default: {of_presets('loss')})",
    )
    add(
        "--loss-on",
        choices=COMPARED,
        help="what the loss compares: what the network predicts, or what follows from that "
        f"(default: {of_presets('loss_on')})",
    )
    add(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help=f"of the optimizer, the largest (default: {of_presets('learning_rate')})",
    )
    add(
        "--optimizer",
        choices=("adamw", "muon"),
        help=f"muon: for convolutions, AdamW for the rest (default: {of_presets('optimizer')})",
    )
    add(
        "--start-from",
        type=whole_path,
        metavar="DIR",
        help="begin with the averaged weights of another run, or of the model that comes with the "
        "project in ddim_keras/pretrained/flowers",
    )
    add(
        "--seed",
        type=at_least(0),
        metavar="N",
        help="of weights, noises and shuffling (default: 0)",
    )
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="run folder, new or empty (default: runs/<preset>-<data>-<date>)",
    )
    add(
        "--prediction",
        choices=PREDICTIONS,
        help="what the network predicts (default: noise in lab, velocity in the others)",
    )
    add(
        "--schedule",
        choices=("offset_cosine", "linear", "cosine"),
        help="of the noise: the assignment's, DDPM's or that of Improved DDPM "
        "(default: offset_cosine)",
    )
    add(
        "--discrete-steps",
        type=at_least(1),
        metavar="T",
        help="train at the times 1/T, 2/T, ..., 1 only, as DDPM does with T = 1000 (default: at "
        "all times)",
    )
    add(
        "--class-conditional",
        action="store_true",
        help="also learn from the labels, for generate.py --class",
    )
    add("--resume", action="store_true", help="continue the run in --output, or the newest one")
    add_kid_weights_option(parser)
    add(
        "--kid-images",
        type=at_least(64),
        metavar="N",
        help="images generated for the KID of each epoch; all: as many as there are for "
        f"validation (default: {of_presets('kid_images')})",
    )
    add("--no-kid", action="store_true", help="do not measure KID")
    add("--tensorboard", action="store_true", help="also log for TensorBoard, in the run folder")
    add_backend_option(parser)
    return parser.parse_args()


def new_config(arguments: argparse.Namespace) -> RunConfig:
    """The preset, with what the command line changes."""
    preset: Preset = PRESETS[arguments.preset or "lab"]
    network = preset.model.network
    if arguments.image_size:
        network = dataclasses.replace(network, image_size=arguments.image_size)

    def given(*names: str) -> dict[str, Any]:
        values = {name: getattr(arguments, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    model_changes = given("prediction", "schedule", "discrete_steps", "seed")
    return RunConfig(
        preset=arguments.preset or "lab",
        model=dataclasses.replace(preset.model, network=network, **model_changes),
        training=dataclasses.replace(
            preset.training,
            **given("batch_size", "precision", "loss", "loss_on"),
            **given("optimizer", "learning_rate", "kid_images"),
        ),
        dataset=arguments.dataset,
        data_dir=arguments.data_dir,
        epochs=arguments.epochs or 50,
        start_from=arguments.start_from,
    )


def resumed_config(arguments: argparse.Namespace, run: Run) -> RunConfig:
    """The run's own configuration; only its length and the data's place may change."""
    config = run.read_config()
    if run.best_weights.exists() and not run.last_weights.exists():
        raise InputError(
            f"{run.folder} holds weights to generate from, and no last.weights.h5 to resume; start "
            f"a new run with: --start-from {run.folder}"
        )
    before = {
        "preset": config.preset,
        "dataset": config.dataset and whole_path(config.dataset),  # older runs: as it was given
        "image_size": config.model.network.image_size,
        "batch_size": config.training.batch_size,
        "precision": config.training.precision,
        "loss": config.training.loss,
        "loss_on": config.training.loss_on,
        "optimizer": config.training.optimizer,
        "learning_rate": config.training.learning_rate,
        "kid_images": config.training.kid_images,
        "start_from": config.start_from and whole_path(config.start_from),
        "prediction": config.model.prediction,
        "schedule": config.model.schedule,
        "discrete_steps": config.model.discrete_steps,
        "seed": config.model.seed,
    }
    for name, value in before.items():
        wanted = getattr(arguments, name)
        if wanted is not None and wanted != value:
            raise InputError(
                f"--{name.replace('_', '-')} {wanted} differs from the resumed run's {value}; "
                "leave it away, or start a new run"
            )
    epochs = arguments.epochs or config.epochs
    done = len(run.read_history())
    if epochs < done:
        raise InputError(f"{run.folder} has {done} epochs already; --epochs must be at least that")
    data_dir = arguments.data_dir or config.data_dir
    return dataclasses.replace(config, epochs=epochs, data_dir=data_dir)


def main() -> None:
    arguments = parse_arguments()
    if arguments.resume:
        run = Run(arguments.output) if arguments.output else newest_run(with_weights=False)
        config = resumed_config(arguments, run)
    else:
        config = new_config(arguments)
        date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        data_name = Path(config.dataset or "flowers").stem
        run = Run(arguments.output or RUNS / f"{config.preset}-{data_name}-{date}")
        if os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", "0") == "0":
            run.require_new()  # the first of several processes may have begun it
    if arguments.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise InputError("--tensorboard needs: pip install tensorboard")
    backend = choose_backend(arguments.backend)

    # Keras is imported from here on, after the backend has been chosen and --help answered.
    import_keras()
    import keras

    from ddim_keras.backends import describe_device
    from ddim_keras.backends.devices import (
        choose_devices,
        connect_hosts,
        fast_precision,
        process_id,
    )
    from ddim_keras.data.batches import steps_per_epoch
    from ddim_keras.data.cache import load_dataset
    from ddim_keras.runs.report import write_report
    from ddim_keras.training.callbacks import Interrupted, KIDCallback, SampleGrid
    from ddim_keras.training.loop import require_same_network, train

    connect_hosts()
    is_first = process_id() == 0
    if not is_first:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (to the end: one speaks for all)
    devices = choose_devices(arguments.devices, config.training.batch_size)
    dataset = load_dataset(
        config.dataset, config.model.network.image_size, config.data_dir, arguments.cache_dir
    )
    config = config_for(config, dataset, arguments.resume, arguments.class_conditional)
    if not arguments.resume and not arguments.precision:
        training = dataclasses.replace(config.training, precision=fast_precision())
        config = dataclasses.replace(config, training=training)
    device = describe_device()
    print(f"data: {dataset.describe()}")
    count = f"{len(devices)} x " if len(devices) > 1 else ""
    print(f"device: {count}{device}, Keras backend {backend}, {config.training.precision}")
    if device == "CPU" and config.preset == "lab":
        print("on a CPU, --preset fast trains several times faster")
    network = config.model.network
    if network.attention_sizes and not {*network.attention_sizes} & {*network.feature_sizes}:
        sizes = ", ".join(map(str, network.feature_sizes))
        print(f"no attention: at {network.image_size} px the feature maps have sizes {sizes}")
    # What the training would refuse: before minutes of work, and before there is a run folder.
    steps_per_epoch(config.num_images, config.training.batch_size, config.training.repetitions)
    if config.start_from:
        require_same_network(Run(Path(config.start_from)), config.model)
    kid, floor = prepare_kid(arguments, dataset)
    protocol = kid.protocol if kid else config.protocol
    if config.protocol not in (None, protocol):
        raise InputError(
            f'the run measured "{config.protocol}", which does not compare with "{protocol}"; '
            "resume it with the same --kid-weights, or with --no-kid"
        )
    config = dataclasses.replace(config, protocol=protocol)
    if is_first:
        run.save_config(config)
    print(f"run: {run.folder}, preset {config.preset}, {config.epochs} epochs", flush=True)

    callbacks = []
    if kid:
        num_images = config.training.kid_images or len(dataset.validation_images)
        callbacks.append(KIDCallback(kid, num_images))
    if is_first:
        callbacks.append(SampleGrid(run))
    if is_first and arguments.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(run.folder / "tensorboard"))
    try:
        model = train(
            run,
            config,
            dataset,
            protocol=protocol or "KID",
            callbacks=callbacks,
            devices=len(devices),
        )
    except Interrupted:
        print(f"saved; continue with: {resuming_command(arguments, run)}")
        raise KeyboardInterrupt from None
    if not is_first:
        return
    history = run.read_history()
    write_report(run, config, dataset, model, history, protocol, floor)
    print(f"done: {run.folder}/report.md; next: python generate.py --run {run.folder}")


def config_for(
    config: RunConfig, dataset: Any, is_resumed: bool, class_conditional: bool = False
) -> RunConfig:
    """The configuration with what only the data tells; a resumed run must get the same again."""
    num_images, channels = len(dataset.train_images), dataset.train_images.shape[-1]
    network = config.model.network
    before = (config.num_images or num_images, network.channels)
    if is_resumed and before != (num_images, channels):
        raise InputError(
            f"the run was trained on {config.num_images} images of {network.channels} channels, "
            f"but {dataset.name} now has {num_images} of {channels}; start a new run"
        )
    if class_conditional and not dataset.num_classes:
        raise InputError(
            f"{dataset.name} has no labels; leave --class-conditional away, or give labels: "
            "sub-folders, or an array `labels` in the .npz file"
        )
    if class_conditional and is_resumed and not network.num_classes:
        raise InputError(
            "the resumed run is not class-conditional; leave --class-conditional away, or start a "
            "new run"
        )
    num_classes = dataset.num_classes if class_conditional else network.num_classes
    network = dataclasses.replace(network, channels=channels, num_classes=num_classes)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, network=network),
        # Never again a default: a resumed run must not find flowers that could not be had before.
        dataset=config.dataset or dataset.name,
        num_images=num_images,
        class_names=dataset.class_names if num_classes else (),
    )


def resuming_command(arguments: argparse.Namespace, run: Run) -> str:
    """What to type to continue this run with the same options."""
    command = ["python", *sys.argv]
    if not arguments.resume:
        command.append("--resume")
    if not arguments.output:
        command += ["--output", str(run.folder)]
    return shlex.join(command)


def prepare_kid(arguments: argparse.Namespace, dataset: Any) -> tuple[Any, Any]:
    """The KID against the validation images, and its floor; None, None where it cannot be had."""
    from ddim_keras.data.batches import random_images
    from ddim_keras.metrics.encoders import choose_encoder
    from ddim_keras.metrics.kid import KernelInceptionDistance

    if arguments.no_kid:
        return None, None
    try:
        encoder = choose_encoder(arguments.kid_weights)
        kid = KernelInceptionDistance(encoder, dataset.validation_images)
        floor = kid(random_images(dataset.train_images, len(dataset.validation_images)))
    except InputError as error:
        if arguments.kid_weights:
            raise
        print(f"training without KID: {error}")
        return None, None
    print(f"{kid.protocol}: {floor} between training and validation images, the floor")
    return kid, floor


if __name__ == "__main__":
    run_command(main)
