"""Assessment of one setting on a page: distance, variety, copies, colours and classes.

Every number is shown beside that of photographs, the best possible value.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddim_keras.atomic import written_whole
from ddim_keras.cli.evaluate import EvaluateOptions
from ddim_keras.config import InputError
from ddim_keras.data.cache import Dataset
from ddim_keras.evaluation.measurement import load_data, require_enough
from ddim_keras.evaluation.settings import chosen_settings, generate
from ddim_keras.foreign import printable
from ddim_keras.metrics.classes import nearest_classes
from ddim_keras.metrics.comparison import confidence_interval
from ddim_keras.metrics.encoders import Encoder, choose_encoder
from ddim_keras.metrics.feature_distances import precision_and_recall
from ddim_keras.metrics.kid import Distance, distance_of_all_pairs
from ddim_keras.metrics.memorisation import (
    PERCENTILES,
    Nearest,
    features_both_ways,
    nearest_training_images,
)
from ddim_keras.metrics.pixels import pixel_statistics
from ddim_keras.model import DiffusionModel
from ddim_keras.plots import figures
from ddim_keras.progress import sampling_progress
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.manifest import sha256

IN_GRID = 64  # images
NAMED_CLASSES = 5  # number of least recognised classes to list
ENOUGH_IMAGES = 5  # images of a class below which its share is meaningless


@dataclass(frozen=True)
class Assessment:
    """The measurements; every pair is for generated images and for photographs."""

    kid: tuple[Distance, Distance]  # the second of training images, the floor
    precision: tuple[float, float]
    recall: tuple[float, float]
    nearest: Nearest
    pixels: tuple[dict[str, float], dict[str, float]]
    recognised: tuple[np.ndarray, np.ndarray] | None  # whether each image looks like its class


def assess(
    options: EvaluateOptions, config: RunConfig, weights: Path, model: DiffusionModel, folder: Path
) -> None:
    """Generates images with one setting, and writes assessment.md with two figures.

    Raises:
        InputError: if the options give more than one setting.
    """
    digest = sha256(weights)  # now: a training may replace them meanwhile
    setting, *others = chosen_settings(options, model)
    if others:
        raise InputError(
            f"--assess takes one setting, not {1 + len(others)}; give one number of --steps, and "
            "one sampler"
        )
    dataset = load_data(options, config)
    require_enough(dataset)
    encoder = choose_encoder(options.kid_weights)
    labels = labels_like(dataset, options.num_images, model.num_classes)
    progress = sampling_progress(-(-options.num_images // options.batch_size), setting.steps)
    images = generate(options, model, setting, options.seed, progress, labels)
    print("\ncomparing with the photographs", flush=True)
    measured = measure(images, labels, dataset, encoder)
    title = f"{setting.name}, {setting.steps} steps"
    figures.save_samples(images[:IN_GRID], title, folder / "assessment_samples.png")
    figures.save_figure(
        figures.distributions(
            {"validation": measured.nearest.validation, "generated": measured.nearest.generated},
            "cosine distance to the nearest training image",
        ),
        folder / "assessment_nearest.png",
    )
    parts = [
        f"# Assessment of {weights}",
        f"{options.num_images} images, {title}, seed {options.seed}, {options.precision}; "
        f"{dataset.describe()}; features of {encoder.description}; {datetime.date.today()}. "
        f"SHA-256 of the weights: `{digest}`.",
        "![samples](assessment_samples.png)",
        *sections(measured, labels, dataset.class_names),
    ]
    with written_whole(folder / "assessment.md") as part:
        part.write_text(printable("\n\n".join(parts)) + "\n", encoding="utf-8")
    print("\n\n".join(parts[3:]))
    print(f"\nwrote {folder}/assessment.md")


def labels_like(dataset: Dataset, num_images: int, num_classes: int) -> np.ndarray:
    """Labels (num_images,) with the frequencies of the validation images; -1 without classes."""
    if not num_classes:
        return np.full(num_images, -1, "int32")
    order = np.random.default_rng(0).permutation(len(dataset.validation_labels))
    return np.resize(dataset.validation_labels[order], num_images)


def measure(
    images: np.ndarray, labels: np.ndarray, dataset: Dataset, encoder: Encoder
) -> Assessment:
    """Compares generated images with the photographs.

    Args:
        images: (N, H, W, C) in [0, 1].
        labels: (N,) the classes they were generated for, -1 for any.
    """
    near_or_mirrored = features_both_ways(encoder, dataset.train_images)
    known = near_or_mirrored[: len(dataset.train_images)]
    validation, generated = encoder.features(dataset.validation_images), encoder.features(images)
    # As many as generated images, since precision and recall depend on the number.
    order = np.random.default_rng(0).permutation(len(known))[: len(images)]
    precision, recall = zip(
        *(precision_and_recall(validation, each) for each in (generated, known[order])), strict=True
    )
    has_classes = np.min(labels) >= 0 and np.min(dataset.train_labels) >= 0
    return Assessment(
        kid=(
            distance_of_all_pairs(validation, generated),
            distance_of_all_pairs(validation, known[order]),
        ),
        precision=precision,
        recall=recall,
        nearest=nearest_training_images(generated, validation, near_or_mirrored),
        pixels=(pixel_statistics(images), pixel_statistics(dataset.validation_images)),
        recognised=(
            nearest_classes(generated, known, dataset.train_labels) == labels,
            nearest_classes(validation, known, dataset.train_labels) == dataset.validation_labels,
        )
        if has_classes
        else None,
    )


def sections(measured: Assessment, labels: np.ndarray, class_names: tuple[str, ...]) -> list[str]:
    """The page in Markdown, a text per section."""
    kid, floor = measured.kid
    low, high = confidence_interval(kid.value, kid.standard_error)
    quality = table(
        ["against validation images", "generated", "training images"],
        [
            ["KID, 95 % interval", f"{kid.value:.4f} ({low:.4f} to {high:.4f})", str(floor)],
            ["precision", *(f"{value:.3f}" for value in measured.precision)],
            ["recall", *(f"{value:.3f}" for value in measured.recall)],
        ],
    )
    names = list(measured.pixels[0])
    pixels = table(
        ["pixels, of 1", "generated", "validation"],
        [[name, *(f"{each[name]:.3f}" for each in measured.pixels)] for name in names],
    )
    nearest = table(
        ["percentile of the distance", *(str(percent) for percent in PERCENTILES)],
        [
            [name, *(f"{x:.4f}" for x in np.percentile(values, PERCENTILES))]
            for name, values in (
                ("validation", measured.nearest.validation),
                ("generated", measured.nearest.generated),
            )
        ],
    )
    found = [
        "## Distance and variety\n\n" + quality,
        "## Colours, contrast and detail\n\n" + pixels,
        "## Copies\n\n"
        + nearest
        + f"\n\n{measured.nearest.share_of_copies:.1%} of the generated images are nearer to a "
        "training image than all but 1 % of the validation images are.\n\n"
        "![distances](assessment_nearest.png)",
    ]
    if measured.recognised:
        found.append("## Classes\n\n" + _classes(measured.recognised, labels, class_names))
    return found


def _classes(
    recognised: tuple[np.ndarray, np.ndarray], labels: np.ndarray, class_names: tuple[str, ...]
) -> str:
    generated, validation = recognised
    text = (
        f"A linear discriminant of the training images' features recognises {generated.mean():.1%} "
        f"of the generated images as their class, and {validation.mean():.1%} of the validation "
        "images."
    )
    shares = {
        label: generated[labels == label].mean()
        for label in np.unique(labels)
        if np.sum(labels == label) >= ENOUGH_IMAGES
    }
    hardest = sorted(shares, key=lambda label: shares[label])[:NAMED_CLASSES]
    if not hardest:
        return text
    names = (
        f"{class_names[label] if label < len(class_names) else label} ({shares[label]:.0%} of "
        f"{np.sum(labels == label)})"
        for label in hardest
    )
    return f"{text} Least often: {', '.join(names)}."


def table(titles: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, with right-aligned numbers."""
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
