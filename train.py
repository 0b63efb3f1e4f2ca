"""Trains a diffusion model; everything it makes goes into one run folder."""

import argparse
import dataclasses
import datetime
import importlib.util
from pathlib import Path
from typing import Any

from ddim_keras.command_line import add_backend_option, at_least, choose_backend, run_command
from ddim_keras.config import PRESETS, InputError, Preset
from ddim_keras.runs import RUNS, Run, RunConfig, newest_run

EXAMPLES = """examples:
  python train.py --epochs 50                    the assignment, on Oxford Flowers 102
  python train.py --preset fast --epochs 20      for a CPU
  python train.py --resume                       continue the newest run
  python train.py --dataset photos/ --image-size 32
"""


def parse_arguments() -> argparse.Namespace:
    presets = "; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--epochs", type=at_least(1), help="epochs in all (default: 50; resumed: as before)")
    add("--preset", choices=PRESETS, help=f"{presets} (default: lab)")
    add(
        "--dataset",
        help="TFDS name, folder of images, .npz/.npy of uint8 images (N, H, W, C), or drawn_flowers"
        " (default: oxford_flowers102, or drawn_flowers where that cannot be had)",
    )
    add("--data-dir", help="where TFDS finds prepared data sets (default: ~/tensorflow_datasets)")
    add("--cache-dir", help="where prepared images are kept (default: ~/.cache/ddim_keras)")
    add("--image-size", type=at_least(8), help="height and width in pixels (default: 64)")
    add("--batch-size", type=at_least(1), help="images per step (default: the preset's)")
    add("--precision", choices=("float32", "mixed_bfloat16"), help="(default: the preset's)")
    add("--loss", choices=("mse", "mae"), help="of the prediction (default: the preset's)")
    add("--seed", type=at_least(0), help="of weights, noises and shuffling (default: 0)")
    add("--output", type=Path, help="run folder (default: runs/<preset>-<data set>-<date>)")
    add("--resume", action="store_true", help="continue the run in --output, or the newest one")
    add(
        "--kid-weights",
        help="InceptionV3 weights up to mixed7, .weights.h5 (default: Keras's, downloaded once)",
    )
    add("--kid-images", type=at_least(64), help="images generated for each KID (default: preset's)")
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
    model = dataclasses.replace(preset.model, network=network, seed=arguments.seed or 0)
    names = ("batch_size", "precision", "loss", "kid_images")
    changes = {name: getattr(arguments, name) for name in names if getattr(arguments, name)}
    return RunConfig(
        preset=arguments.preset or "lab",
        model=model,
        training=dataclasses.replace(preset.training, **changes),
        dataset=arguments.dataset,
        data_dir=arguments.data_dir,
        epochs=arguments.epochs or 50,
    )


def resumed_config(arguments: argparse.Namespace, run: Run) -> RunConfig:
    """The run's own configuration; only its length and the data's place may change."""
    config = run.read_config()
    before = {
        "preset": config.preset,
        "dataset": config.dataset,
        "image_size": config.model.network.image_size,
        "batch_size": config.training.batch_size,
        "precision": config.training.precision,
        "loss": config.training.loss,
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
    data_dir = arguments.data_dir or config.data_dir
    return dataclasses.replace(config, epochs=epochs, data_dir=data_dir)


def main() -> None:
    arguments = parse_arguments()
    if arguments.resume:
        run = Run(arguments.output) if arguments.output else newest_run()
        config = resumed_config(arguments, run)
    else:
        config = new_config(arguments)
        date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        data_name = Path(config.dataset or "flowers").stem
        run = Run(arguments.output or RUNS / f"{config.preset}-{data_name}-{date}")
        run.require_new()
    if arguments.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise InputError("--tensorboard needs: pip install tensorboard")
    backend = choose_backend(arguments.backend)

    # Keras is imported from here on, after the backend has been chosen and --help answered.
    import keras

    from ddim_keras.callbacks import Interrupted, KIDCallback, SampleGrid
    from ddim_keras.data import load_dataset
    from ddim_keras.report import write_report
    from ddim_keras.steps import describe_device
    from ddim_keras.training import train

    dataset = load_dataset(
        config.dataset, config.model.network.image_size, config.data_dir, arguments.cache_dir
    )
    config = with_channels(config, dataset.train_images.shape[-1], arguments.resume)
    device = describe_device()
    print(f"data: {dataset.describe()}")
    print(f"device: {device}, Keras backend {backend}, {config.training.precision}")
    if device == "CPU" and config.preset == "lab":
        print("on a CPU, --preset fast trains several times faster")
    kid, floor = prepare_kid(arguments, dataset)
    run.save_config(config)
    print(f"run: {run.folder}, preset {config.preset}, {config.epochs} epochs", flush=True)

    callbacks = [SampleGrid(run)]
    if kid:
        num_images = config.training.kid_images or len(dataset.validation_images)
        callbacks.insert(0, KIDCallback(kid, num_images))
    if arguments.tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(run.folder / "tensorboard"))
    protocol = kid.encoder.protocol if kid else None
    try:
        model = train(run, config, dataset, protocol=protocol or "KID", callbacks=callbacks)
    except Interrupted:
        print(f"saved; continue with: python train.py --resume --output {run.folder}")
        raise KeyboardInterrupt from None
    history = run.read_history()
    write_report(run, config, dataset, model, history, protocol, floor)
    print(f"done: {run.folder}/report.md; next: python generate.py --run {run.folder}")


def with_channels(config: RunConfig, channels: int, is_resumed: bool) -> RunConfig:
    """The configuration for images of so many channels, which only the data tells."""
    network = config.model.network
    if is_resumed and network.channels != channels:
        raise InputError(
            f"the run was trained on images of {network.channels} channels, not {channels}"
        )
    network = dataclasses.replace(network, channels=channels)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, network=network))


def prepare_kid(arguments: argparse.Namespace, dataset: Any) -> tuple[Any, Any]:
    """The KID against the validation images, and its floor; None, None where it cannot be had."""
    from ddim_keras.kid import KernelInceptionDistance, inception_encoder

    if arguments.no_kid:
        return None, None
    try:
        encoder = inception_encoder(arguments.kid_weights)
        kid = KernelInceptionDistance(encoder, dataset.validation_images)
        floor = kid(dataset.train_images[: len(dataset.validation_images)])
    except InputError as error:
        if arguments.kid_weights:
            raise
        print(f"training without KID: {error}")
        return None, None
    print(f"{encoder.protocol}: {floor} between training and validation images, the floor")
    return kid, floor


if __name__ == "__main__":
    run_command(main)
