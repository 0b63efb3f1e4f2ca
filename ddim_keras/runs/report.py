"""Summary of a run: what was trained, how well, and what the numbers mean."""

import datetime
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ddim_keras.atomic import written_whole
from ddim_keras.backends import describe_device
from ddim_keras.config import TrainingConfig
from ddim_keras.data.cache import Dataset
from ddim_keras.foreign import printable
from ddim_keras.metrics.kid import Distance
from ddim_keras.model import DiffusionModel
from ddim_keras.progress import duration
from ddim_keras.runs.configuration import KIDProtocol, RunConfig
from ddim_keras.runs.folder import Run
from ddim_keras.runs.losses import LOSS_NAMES, loss_of_no_prediction, loss_of_parts


def write_report(
    run: Run,
    config: RunConfig,
    dataset: Dataset,
    model: DiffusionModel,
    history: list[dict[str, Any]],
    protocol: KIDProtocol | None,
    floor: Distance | None,
) -> None:
    """Writes report.md into the run folder, whole or not at all.

    Args:
        history: the rows of history.csv, at least one.
        protocol: protocol of the KID, or None if it was not measured.
        floor: KID between training and validation images.
    """
    text = "\n\n".join(
        [
            f"# {run.folder.resolve().name}",
            _what_was_trained(config, dataset, model, history),
            _results(config, history, protocol, floor),
            "## Curves\n\n![losses and KID over the epochs](curves.png)",
            _samples(run, history),
            _explanation(config.training, history, floor),
        ]
    )
    with written_whole(run.folder / "report.md") as part:
        part.write_text(printable(text) + "\n", encoding="utf-8")


def _what_was_trained(
    config: RunConfig, dataset: Dataset, model: DiffusionModel, history: list[dict[str, Any]]
) -> str:
    network, recipe = config.model.network, config.training
    seconds = sum(row["seconds"] for row in history)
    images = history[-1]["images"]
    _, (first, last) = model.schedule(np.array([0.0, 1.0]), np)
    schedule = f"{config.model.schedule.replace('_', ' ')} schedule"
    schedule += f", signal rates {first:.3g} to {last:.2g}"
    return f"""## What was trained

- Data: {dataset.describe()}.
- Model (preset `{config.preset}`): residual U-Net, widths {list(network.widths)}, residual blocks
  {list(network.depths)}, {model.network.count_params():,} parameters; predicts the
  {config.model.prediction}; {schedule}.
- Training: {LOSS_NAMES[recipe.loss]} on the {_compared(config, model)}, {recipe.optimizer}
  at learning rate {recipe.learning_rate}, batch {recipe.batch_size}, EMA {config.model.ema}, seed
  {config.model.seed}, {recipe.precision}.
- Length: {history[-1]["epoch"]} epochs, {images:,} images seen, {duration(seconds)} with all
  evaluation ({images / seconds:.1f} images a second).
- Hardware: {describe_device()}, {os.cpu_count()} CPU cores; Keras {keras.__version__} on
  {keras.backend.backend()}; {datetime.date.today()}."""


def _compared(config: RunConfig, model: DiffusionModel) -> str:
    """The quantity that the loss compares."""
    if not config.distill_from:
        return model.loss_on
    return (
        f"noisy images of the teacher {Path(config.distill_from).name} at guidance "
        f"{config.training.teacher_guidance:g}, in {model.config.steps_in_words} calls"
    )


def _results(
    config: RunConfig,
    history: list[dict[str, Any]],
    protocol: KIDProtocol | None,
    floor: Distance | None,
) -> str:
    last = history[-1]
    first_loss = _first_loss(last)
    name = first_loss.replace("_", " ")
    lines = [
        "## Results\n",
        f"| after epoch | {name} | image loss | {name}, validation | image loss, validation "
        "| KID |",
        "|---|---|---|---|---|---|",
    ]
    measured = [row for row in history if "kid" in row]
    best = min(measured, key=lambda row: row["kid"], default=last)
    for name, row in (("first", history[0]), ("best KID", best), ("last", last)):
        kid = str(Distance(row["kid"], row["kid_standard_error"])) if "kid" in row else "-"
        losses = " | ".join(
            f"{row[key]:.4f}"
            for key in (first_loss, "image_loss", f"val_{first_loss}", "val_image_loss")
        )
        lines.append(f"| {row['epoch']} ({name}) | {losses} | {kid} |")
    lines.append(
        f"\nLosses: {LOSS_NAMES[loss_of_parts(config.training)]}, mean over normalised pixels; "
        "validation with the moving average of the weights."
    )
    if protocol is None:
        lines.append("KID was not measured.")
    else:
        lines.append(
            f'"{protocol}", with EMA weights against validation images; mean and standard error '
            "over batches, of 64 images unless stated. Between "
            f"training and validation images, the floor: {floor or 'not measured'}."
        )
    return "\n".join(lines)


def _first_loss(row: dict[str, Any]) -> str:
    """The noise loss or, for a student, the trajectory loss."""
    return "trajectory_loss" if "trajectory_loss" in row else "noise_loss"


def _samples(run: Run, history: list[dict[str, Any]]) -> str:
    grid = f"samples/epoch_{history[-1]['epoch']:04d}.png"
    return f"## Samples\n\nUncurated: the first noises of seed 0, DDIM.\n\n![samples]({grid})"


def _explanation(
    recipe: TrainingConfig, history: list[dict[str, Any]], floor: Distance | None
) -> str:
    first, last = history[0], history[-1]
    key = _first_loss(last)
    name = key.replace("_", " ")
    meaning = (
        "It is the distance between the noisy images of the student and its teacher."
        if key == "trajectory_loss"
        else f"Always predicting zero gives {loss_of_no_prediction(recipe):.3g}: the "
        "difference is the noise that the network can distinguish from the image."
    )
    points = [
        f"- {name.capitalize()}: {first[key]:.3g} in the first epoch, {last[key]:.3g} in the last. "
        + meaning
    ]
    gap = last[f"val_{key}"] / last[key] - 1
    if gap > 0.1:
        points.append(
            f"- In validation the {name} is {gap:.0%} higher: either the moving average "
            "still lags behind, as early in a training, or the network starts to memorise."
        )
    else:
        points.append(f"- In validation the {name} differs by {gap:+.0%}: no sign of memorising.")
    measured = [row for row in history if "kid" in row]
    if len(measured) > 1:
        best = min(measured, key=lambda row: row["kid"])
        if best is measured[0]:
            points.append(f"- KID did not fall below the {best['kid']:.3f} of its first epoch.")
        else:
            late = best["epoch"] >= 0.9 * measured[-1]["epoch"]
            points.append(
                f"- KID fell from {measured[0]['kid']:.3f} to {best['kid']:.3f} at epoch "
                f"{best['epoch']}"
                + (
                    ": it was still falling, and longer training should help."
                    if late
                    else ", and did not fall further: use the best weights, not the last."
                )
            )
    if floor:
        points.append(
            f"- Training images score {floor.value:.4f}; higher values mean missing sharpness, "
            "structure or variety. Look at the samples to see which."
        )
    return "## What the results say\n\n" + "\n".join(points)
