"""Class-conditional training: a row of images per class, with the share recognised.

    python examples/class_conditional.py
    python examples/class_conditional.py --dataset mnist --epochs 2 --run runs/digits

A small classifier trained on the real images judges the generated ones. Repeating the command
continues an interrupted training; after a finished one it only draws the figure.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ddim_keras.cli.options import add_backend_option, at_least
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError
from ddim_keras.presets import PRESETS
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import Run

FAST = PRESETS["fast"]
WIDTHS = (32, 64, 128)  # of the network, for 32 pixels and a CPU
IMAGES_AT_ONCE = 250  # images generated together, approximately; limits the memory


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--dataset",
        default="drawn_flowers",
        help="labelled data set, as for train.py (default: %(default)s)",
    )
    add(
        "--image-size",
        type=at_least(8),
        metavar="N",
        default=32,
        help="height and width in pixels (default: %(default)s)",
    )
    add(
        "--epochs",
        type=at_least(1),
        metavar="N",
        default=8,
        help="epochs of the model (default: %(default)s)",
    )
    add_classifier_options(parser)
    add(
        "--run",
        type=Path,
        metavar="DIR",
        default=Path("runs/class_conditional"),
        help="run folder, as in train.py (default: %(default)s)",
    )
    add(
        "--columns",
        type=at_least(1),
        metavar="N",
        default=10,
        help="images per row (default: %(default)s)",
    )
    add(
        "--guidance",
        type=float,
        metavar="S",
        default=0.0,
        help="strength of classifier-free guidance (default: %(default)s)",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("class_conditional.png"),
        help="picture, a .png file (default: %(default)s)",
    )
    return parser.parse_args()


def add_classifier_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of all examples that judge generated images by a classifier."""
    add = parser.add_argument
    add(
        "--classifier-epochs",
        type=at_least(1),
        metavar="N",
        default=3,
        help="epochs of the classifier (default: %(default)s)",
    )
    add(
        "--samples",
        type=at_least(2),
        metavar="N",
        default=50,
        help="images per class to judge (default: %(default)s)",
    )
    add(
        "--steps",
        type=at_least(1),
        metavar="N",
        default=20,
        help="DDIM steps (default: %(default)s)",
    )
    add("--seed", type=at_least(0), metavar="N", default=0, help="random seed (default: 0)")
    add("--data-dir", metavar="DIR", help="folder of TFDS (default: ~/tensorflow_datasets)")
    add(
        "--cache-dir",
        metavar="DIR",
        help="folder for prepared images (default: ~/.cache/ddim_keras)",
    )
    add_backend_option(parser)


def main() -> None:
    arguments = parse_arguments()
    if arguments.output.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, not {arguments.output.name!r}")
    if not np.isfinite(arguments.guidance):
        raise InputError(f"--guidance must be a finite number, not {arguments.guidance}")
    choose_backend(arguments.backend)

    # Keras is imported only now, after --help and the choice of the backend.
    import_keras()
    from classifier import trained_classifier

    from ddim_keras import load_dataset
    from ddim_keras.plots.figures import save_figure

    dataset = load_dataset(
        arguments.dataset, arguments.image_size, arguments.data_dir, arguments.cache_dir
    )
    if not dataset.num_classes:
        raise InputError(f"{dataset.name} has no labels; choose another --dataset")
    print(f"data: {dataset.describe()}, {dataset.num_classes} classes", flush=True)
    run = Run(arguments.run)
    model = trained_model(run, run_config(arguments, dataset), dataset)
    classifier = trained_classifier(run, model, dataset, arguments.classifier_epochs)

    images, labels = generate_classes(
        model, arguments.samples, arguments.steps, arguments.seed, arguments.guidance
    )
    right = (classifier.classify(images) == labels).reshape(arguments.samples, -1)
    captions = [
        f"{name}, {accuracy:.0%}"
        for name, accuracy in zip(class_names(dataset), right.mean(axis=0), strict=True)
    ]
    print(f"recognised: {right.mean():.1%}; {'; '.join(captions)}")
    # Of images in turn of all classes, one row for each class.
    rows = images.reshape(arguments.samples, -1, *images.shape[1:]).swapaxes(0, 1)
    title = f"{dataset.name}, guidance {arguments.guidance:g}, {arguments.steps} steps, recognised"
    save_figure(image_rows(rows[:, : arguments.columns], captions, title), arguments.output)
    print(f"wrote {arguments.output}")


def run_config(arguments: argparse.Namespace, dataset: Any) -> RunConfig:
    """A smaller version of the preset `fast`, with the classes of the data."""
    network = dataclasses.replace(
        FAST.model.network,
        image_size=arguments.image_size,
        channels=dataset.train_images.shape[-1],
        widths=WIDTHS,
        num_classes=dataset.num_classes,
    )
    return RunConfig(
        preset="fast",
        model=dataclasses.replace(FAST.model, network=network, seed=arguments.seed),
        # Not mirrored: mirrored digits are not digits.
        training=dataclasses.replace(FAST.training, flip=False),
        dataset=arguments.dataset,
        data_dir=arguments.data_dir,
        epochs=arguments.epochs,
        num_images=len(dataset.train_images),
        class_names=dataset.class_names,
    )


def trained_model(run: Run, config: RunConfig, dataset: Any) -> Any:
    """Trains the model of a run folder, resumes its training, or loads the trained model."""
    from ddim_keras import train
    from ddim_keras.training.callbacks import Interrupted

    if not run.config_file.exists():
        run.require_new()
        run.save_config(config)
    elif run.read_config() != config:
        raise InputError(f"{run.folder} holds a run of other settings; choose another --run")
    try:
        return train(run, config, dataset)
    except Interrupted:
        print("saved; the same command continues from here")
        raise KeyboardInterrupt from None


def generate_classes(
    model: Any, samples: int, steps: int, seed: int, guidance: float, classifier: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Generates `samples` images of each class, the classes in turn; returns them and their labels.

    Guidance is classifier-free, unless a classifier is given. In that case only the classifier gets
    the class, and the model predicts for any class.
    """
    from classifier import classifier_guided

    from ddim_keras.progress import sampling_progress

    def by_classifier(denoise: Any, labels: Any) -> Any:
        return classifier_guided(denoise, classifier, labels, guidance)

    at_once = max(1, IMAGES_AT_ONCE // model.num_classes)  # of each class
    starts = range(0, samples, at_once)
    seeds = np.random.SeedSequence(seed).generate_state(len(starts))
    progress = sampling_progress(len(starts), steps)
    images, all_labels = [], []
    for start, batch_seed in zip(starts, seeds, strict=True):
        count = min(at_once, samples - start)
        labels = np.tile(np.arange(model.num_classes, dtype="int32"), count)
        images.append(
            model.generate(
                len(labels),
                steps,
                seed=int(batch_seed),
                batch_size=len(labels),
                callback=progress,
                labels=labels,
                guidance=by_classifier if classifier else guidance,
            )
        )
        all_labels.append(labels)
    return np.concatenate(images), np.concatenate(all_labels)


def class_names(dataset: Any) -> tuple[str, ...]:
    """The class names or, if there are none, the class numbers."""
    return dataset.class_names or tuple(map(str, range(dataset.num_classes)))


def image_rows(rows: np.ndarray, captions: list[str], title: str) -> Any:
    """A figure of image rows, (rows, columns, H, W, C) in [0, 1], with a caption beside each."""
    from matplotlib.figure import Figure

    num_rows, columns = rows.shape[:2]
    figure = Figure(figsize=(2.2 + 0.5 * columns, 0.4 + 0.52 * num_rows), layout="constrained")
    figure.suptitle(title, size=10)
    for axes, row, caption in zip(
        figure.subplots(num_rows, squeeze=False)[:, 0], rows, captions, strict=True
    ):
        axes.imshow(np.concatenate(row, axis=1), cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(caption, rotation=0, ha="right", va="center", size=8)
    return figure


if __name__ == "__main__":
    run_command(main)
