"""Comparison of two runs, weights files or settings on the same noises, classes and real images.

By the KID of their generated images, or by the bits per dimension of the same images.
"""

import itertools
from collections.abc import Collection
from pathlib import Path

from ddim_keras.cli.evaluate import EvaluateOptions, Side
from ddim_keras.config import InputError
from ddim_keras.data.cache import DEFAULT_DATASET
from ddim_keras.evaluation.bits_per_dim import FLOW, VARIANCES, chosen_images, measure
from ddim_keras.evaluation.measurement import load_kid
from ddim_keras.evaluation.settings import Setting, chosen_settings, generate
from ddim_keras.evaluation.table import Row, read_rows, write_rows
from ddim_keras.metrics.comparison import Comparison, compare, compare_pairs
from ddim_keras.metrics.kid import JackknifedDistance, KernelInceptionDistance
from ddim_keras.model import DiffusionModel
from ddim_keras.progress import sampling_progress
from ddim_keras.runs.folder import Run
from ddim_keras.runs.manifest import sha256


def compare_sides(
    options: EvaluateOptions, weights: list[Path], models: list[DiffusionModel], folder: Path
) -> None:
    """Prints which side is better at each number of steps, and adds it to comparison.csv.

    Args:
        options: options with two sides.
        weights: weights files of both sides; the first one's data set gives the real images.
        models: models of both sides.

    Raises:
        InputError: if the sides do not generate images of one shape, or differ in the number of
            their settings.
    """
    hashes = [sha256(file) for file in weights]  # now: a training may replace them meanwhile
    sides = options.compare
    names = [side.name for side in sides]
    pairs = paired_settings(sides, models)
    path = folder / "comparison.csv"
    rows = read_rows(path)
    kid, _ = load_kid(options, Run(weights[0].parent).read_config(), options.split)
    conditions = {
        "split": options.split,
        "num_images": options.num_images,
        "seed": options.seed,
        "features": kid.encoder.description,
    }
    print(
        f"{names[0]} against {names[1]}: {options.num_images} images of each, from the same noises "
        f"of seed {options.seed}, and {len(kid.real_features)} {options.split} images; KID of all "
        f"pairs, {kid.encoder.description}"
    )
    tell_of_other_data(names, weights)
    for settings in pairs:
        distances = []
        row: Row = {}
        for which, side, digest, model, setting in zip(
            ("first", "second"), sides, hashes, models, settings, strict=True
        ):
            distances.append(distance_of(side.options, model, setting, kid))
            row |= {
                which: side.name,
                f"setting_{which}": setting.name,
                f"steps_{which}": setting.steps,
                f"weights_sha256_{which}": digest,
                f"kid_{which}": distances[-1].value,
            }
            print(f"{side.name}: {setting.name}, {setting.steps} steps, KID {distances[-1]}")
        row |= conclusion(compare(*distances), names)
        print(row["verdict"], flush=True)
        rows.append(row | conditions)
        write_rows(path, rows)
    print(f"wrote {path}")


def conclusion(comparison: Comparison, names: list[str]) -> Row:
    """Columns of a row for two values: their difference, its 95 % interval, and the verdict."""
    low, high = comparison.interval
    verdict = comparison.verdict(*names)
    return {"difference": comparison.difference, "low": low, "high": high, "verdict": verdict}


def paired_settings(
    sides: list[Side], models: list[DiffusionModel]
) -> list[tuple[Setting, Setting]]:
    """Pairs of a setting of the first side and one of the second."""
    require_one_shape(sides, models)
    first, second = (
        chosen_settings(side.options, model) for side, model in zip(sides, models, strict=True)
    )
    if len(first) != len(second):
        raise InputError(
            f"{sides[0].name} has {len(first)} settings, {sides[1].name} {len(second)}; give both "
            "the same number of --steps values"
        )
    return list(zip(first, second, strict=True))


def require_one_shape(sides: list[Side], models: list[DiffusionModel]) -> None:
    """Raises InputError if the images of the two sides differ in their shape."""
    first, second = (model.network.input_shape[0][1:] for model in models)
    if first != second:
        raise InputError(
            f"{sides[0].name} generates images of shape {first}, {sides[1].name} of {second}; "
            "they cannot start from the same noises"
        )


def tell_of_other_data(names: list[str], weights: list[Path]) -> None:
    """Prints a note if the second side was trained on another data set than the first."""
    # By their names: an exported model has no paths.
    first, second = (
        Path(Run(file.parent).read_config().dataset or DEFAULT_DATASET).name for file in weights
    )
    if first != second:
        print(
            f"note: the real images are those of {first}, but {names[1]} was trained on {second}",
            flush=True,
        )


def distance_of(
    options: EvaluateOptions, model: DiffusionModel, setting: Setting, kid: KernelInceptionDistance
) -> JackknifedDistance:
    """The KID of the images that a setting generates."""
    progress = sampling_progress(-(-options.num_images // options.batch_size), setting.steps)
    images = generate(options, model, setting, options.seed, progress)
    return kid.of_all_pairs(kid.encoder.features(images))


def paired_bits(first: Collection[str], second: Collection[str]) -> list[tuple[str, str]]:
    """The pairs of settings to compare, named as in `BitsPerDim.by_setting`.

    Equal settings, and learned with fixed variances if only one side has learned ones.
    """
    learned = VARIANCES["learned"]
    is_one_learned = (learned in first) != (learned in second)
    return [
        names
        for names in itertools.product(first, second)
        if names[0] == names[1] or (is_one_learned and learned in names and FLOW not in names)
    ]


def compare_bits(
    options: EvaluateOptions, weights: list[Path], models: list[DiffusionModel], folder: Path
) -> None:
    """Prints which side needs fewer bits for the same images, and adds it to comparison.csv.

    The arguments are those of `compare_sides`. The bounds are compared for each variance that both
    sides have, and learned with fixed variances if only one side has learned ones.

    Raises:
        InputError: if the weights are the same, or the images of the sides differ in their shape.
    """
    sides = options.compare
    require_one_shape(sides, models)
    names = [side.name for side in sides]
    hashes = [sha256(file) for file in weights]
    if hashes[0] == hashes[1]:
        raise InputError(
            f"{names[0]} and {names[1]} have the same weights, so each image costs the same bits; "
            "compare two runs"
        )
    path = folder / "comparison.csv"
    rows = read_rows(path)
    images = chosen_images(options, Run(weights[0].parent).read_config())
    tell_of_other_data(names, weights)
    results = []
    for name, model in zip(names, models, strict=True):
        result = measure(options, model, images)
        print(f"{name}: {result.text()}", flush=True)
        results.append(result.by_setting())
    conditions = {"split": options.split, "num_images": len(images), "seed": options.seed}
    for settings in paired_bits(*results):
        first, second = (result[name] for result, name in zip(results, settings, strict=True))
        row: Row = {}
        for which, name, setting, digest, values in zip(
            ("first", "second"), names, settings, hashes, (first, second), strict=True
        ):
            row |= {
                which: name,
                f"setting_{which}": setting,
                f"weights_sha256_{which}": digest,
                f"bits_per_dim_{which}": float(values.mean(dtype="float64")),
            }
        row |= conclusion(compare_pairs(first, second, "cost in bits per dimension"), names)
        print(f"{' against '.join(dict.fromkeys(settings))}: {row['verdict']}", flush=True)
        rows.append(row | conditions)
    write_rows(path, rows)
    print(f"wrote {path}")
