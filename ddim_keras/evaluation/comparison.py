"""Two runs, weights files or settings, compared on the same noises, classes and real images."""

from pathlib import Path

from ddim_keras.cli.evaluate import EvaluateOptions, Side
from ddim_keras.config import InputError
from ddim_keras.evaluation.measurement import load_kid
from ddim_keras.evaluation.settings import Setting, chosen_settings, generate
from ddim_keras.evaluation.table import Row, read_rows, write_rows
from ddim_keras.metrics.comparison import compare
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
        options: with two sides.
        weights: files of the first side, whose data the real images come from, and of the second.
        models: of both sides.

    Raises:
        InputError: if the sides do not generate images of one shape, or differ in the number of
            their settings.
    """
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
    for settings in pairs:
        distances = []
        row: Row = {}
        for which, side, file, model, setting in zip(
            ("first", "second"), sides, weights, models, settings, strict=True
        ):
            distances.append(distance_of(side.options, model, setting, kid))
            row |= {
                which: side.name,
                f"setting_{which}": setting.name,
                f"steps_{which}": setting.steps,
                f"weights_sha256_{which}": sha256(file),
                f"kid_{which}": distances[-1].value,
            }
            print(f"{side.name}: {setting.name}, {setting.steps} steps, KID {distances[-1]}")
        comparison = compare(*distances)
        low, high = comparison.interval
        verdict = comparison.verdict(*names)
        print(verdict, flush=True)
        row |= {"difference": comparison.difference, "low": low, "high": high, "verdict": verdict}
        rows.append(row | conditions)
        write_rows(path, rows)
    print(f"wrote {path}")


def paired_settings(
    sides: list[Side], models: list[DiffusionModel]
) -> list[tuple[Setting, Setting]]:
    """The settings of the first side, each with that of the second to compare it with."""
    shapes = [model.network.output_shape[1:] for model in models]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{sides[0].name} generates images of shape {shapes[0]}, {sides[1].name} of "
            f"{shapes[1]}; they cannot start from the same noises"
        )
    first, second = (
        chosen_settings(side.options, model) for side, model in zip(sides, models, strict=True)
    )
    if len(first) != len(second):
        raise InputError(
            f"{sides[0].name} has {len(first)} settings, {sides[1].name} {len(second)}; give both "
            "as many numbers of steps"
        )
    return list(zip(first, second, strict=True))


def distance_of(
    options: EvaluateOptions, model: DiffusionModel, setting: Setting, kid: KernelInceptionDistance
) -> JackknifedDistance:
    """The KID of the images that a setting generates."""
    progress = sampling_progress(-(-options.num_images // options.batch_size), setting.steps)
    images = generate(options, model, setting, options.seed, progress)
    return kid.of_all_pairs(kid.encoder.features(images))
