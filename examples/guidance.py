"""Effect of guidance on a class-conditional model: class accuracy and distance to real images.

    python examples/class_conditional.py
    python examples/guidance.py --guidance 0 0.5 1 2 4 --classifier-guidance 1 2 4 8

A small classifier of real images judges the class of generated ones. Its features are also used for
a Kernel Inception Distance. A second picture shows images from one noise, one row per strength.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from class_conditional import (
    add_classifier_options,
    class_names,
    generate_classes,
    image_rows,
)

from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError
from ddim_keras.runs.folder import find_run, load_model

CLASSIFIER_FREE, BY_CLASSIFIER = "classifier-free guidance", "classifier guidance"
MOST_COLUMNS = 12  # images of one noise


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--run",
        metavar="RUN",
        default="runs/class_conditional",
        help="run of class_conditional.py or train.py --class-conditional (default: %(default)s)",
    )
    add(
        "--guidance",
        type=float,
        nargs="*",
        metavar="S",
        default=[0.0, 0.5, 1.0, 2.0, 4.0],
        help="strengths of classifier-free guidance (default: 0 0.5 1 2 4)",
    )
    add(
        "--classifier-guidance",
        type=float,
        nargs="*",
        metavar="S",
        default=[],
        help="strengths of guidance by a classifier of noisy images; the model then gets no "
        "class (default: none)",
    )
    add_classifier_options(parser)
    add(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("guidance.png"),
        help="picture, a .png file (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.output.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, not {arguments.output.name!r}")
    settings = [(CLASSIFIER_FREE, strength) for strength in arguments.guidance]
    settings += [(BY_CLASSIFIER, strength) for strength in arguments.classifier_guidance]
    if not settings or not all(np.isfinite(strength) for _, strength in settings):
        raise InputError("give at least one strength of guidance, a finite number")
    run = find_run(arguments.run)
    config, weights = run.read_config(), run.weights_to_show()
    if not config.model.network.num_classes:
        raise InputError(f"{run.folder} holds a model without classes; choose another --run")
    choose_backend(arguments.backend)

    # Keras is imported only now, after --help and the choice of the backend.
    import_keras()
    from classifier import trained_classifier

    from ddim_keras import KernelInceptionDistance, load_dataset
    from ddim_keras.data.batches import random_images
    from ddim_keras.plots.figures import save_figure

    model = load_model(weights)
    dataset = load_dataset(
        config.dataset,
        config.model.network.image_size,
        arguments.data_dir or config.data_dir,
        arguments.cache_dir,
    )
    judge = trained_classifier(run, model, dataset, arguments.classifier_epochs)
    guide = None
    if arguments.classifier_guidance:
        guide = trained_classifier(run, model, dataset, arguments.classifier_epochs, noisy=True)

    real_images, num_generated = dataset.validation_images, arguments.samples * model.num_classes
    kid = KernelInceptionDistance(judge, real_images, min(64, num_generated))
    floor = kid(random_images(dataset.train_images, len(real_images)))
    print(f'"{kid.protocol}" of training images, the floor: {floor}')
    results, rows, captions = [], [], []
    for kind, strength in settings:
        print(f"{kind} {strength:g}: {num_generated} images, {arguments.steps} steps", flush=True)
        images, labels = generate_classes(
            model,
            arguments.samples,
            arguments.steps,
            arguments.seed,
            strength,
            guide if kind == BY_CLASSIFIER else None,
        )
        accuracies = (judge.classify(images) == labels).reshape(arguments.samples, -1).mean(axis=0)
        distance = kid(images)
        results.append((kind, strength, accuracies.mean(), distance))
        rows.append(images[: min(model.num_classes, MOST_COLUMNS)])
        captions.append(f"{kind} {strength:g}, {accuracies.mean():.0%}")
        classes = zip(class_names(dataset), accuracies, strict=True)
        print(f"recognised: {accuracies.mean():.1%}; {kid.protocol}: {distance}")
        print("; ".join(f"{name}, {accuracy:.0%}" for name, accuracy in classes), flush=True)

    save_figure(guidance_curves(results, kid.protocol, floor.value), arguments.output)
    samples = arguments.output.with_stem(f"{arguments.output.stem}_samples")
    save_figure(image_rows(np.stack(rows), captions, "one noise, and share recognised"), samples)
    print(f"wrote {arguments.output} and {samples}")


def guidance_curves(
    results: list[tuple[str, float, float, Any]], protocol: str, floor: float
) -> Any:
    """Class accuracy and distance to the real images, each against the strength of guidance."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    accuracy_axes, kid_axes = figure.subplots(1, 2)
    for kind in dict.fromkeys(kind for kind, *_ in results):
        rows = sorted(row[1:] for row in results if row[0] == kind)
        strengths, accuracies, distances = zip(*rows, strict=True)
        accuracy_axes.plot(strengths, accuracies, marker=".", label=kind)
        kid_axes.errorbar(
            strengths,
            [distance.value for distance in distances],
            yerr=[distance.standard_error for distance in distances],
            marker=".",
            capsize=2,
            label=kind,
        )
    kid_axes.axhline(floor, color="grey", linestyle=":", label="training images, the floor")
    accuracy_axes.set(ylabel="share recognised by a classifier of real images")
    kid_axes.set(ylabel=protocol)
    for axes in (accuracy_axes, kid_axes):
        axes.set(xlabel="strength of guidance")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


if __name__ == "__main__":
    run_command(main)
