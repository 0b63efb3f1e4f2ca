"""Figures: arrays in, matplotlib figures out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ddim_keras.files import written_whole

PIXELS_PER_INCH = 100


def image_grid(images: np.ndarray, title: str, columns: int | None = None, zoom: int = 2) -> Figure:
    """A grid of images, each pixel drawn as `zoom` x `zoom` screen pixels, under one title.

    Args:
        images: (N, H, W, C), uint8 or float in [0, 1]; 1 or 3 channels.
        columns: images in a row, by default about twice as many as rows.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        images = np.round(255 * np.clip(images, 0, 1)).astype("uint8")
    num_images, height, width, _ = images.shape
    columns = columns or max(1, round(np.sqrt(2 * num_images)))
    rows = -(-num_images // columns)
    gap = 1  # white pixels around each image
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype="uint8"
    )
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    canvas = canvas.repeat(zoom, axis=0).repeat(zoom, axis=1)

    title_height = 30
    size = np.array([max(canvas.shape[1], 8 * len(title)), canvas.shape[0] + title_height])
    figure = Figure(figsize=size / PIXELS_PER_INCH, dpi=PIXELS_PER_INCH)
    figure.figimage(canvas, resize=False)
    figure.text(0.5, 1 - 0.5 * title_height / size[1], title, ha="center", va="center", size=9)
    return figure


def training_curves(history: Sequence[dict[str, Any]], protocol: str) -> Figure:
    """Losses and KID over the epochs of a run, side by side.

    Args:
        history: one dictionary an epoch, with `epoch`, the losses, and `kid` and
            `kid_standard_error` where a KID was measured.
        protocol: what the KID was measured with, for its axis.
    """
    figure = Figure(figsize=(10, 4), dpi=PIXELS_PER_INCH, layout="constrained")
    loss_axes, kid_axes = figure.subplots(1, 2)
    for name, colour in (("noise_loss", "tab:blue"), ("image_loss", "tab:orange")):
        for prefix, style in (("", "-"), ("val_", "--")):
            points = _points(history, prefix + name)
            label = f"{name.replace('_', ' ')}, {'validation, EMA' if prefix else 'training'}"
            loss_axes.plot(*points, style, color=colour, marker=".", label=label)
    loss_axes.set(xlabel="epoch", ylabel="loss (normalised pixels)", title="losses", yscale="log")
    loss_axes.legend()

    epochs, values = _points(history, "kid")
    if epochs:
        _, errors = _points(history, "kid_standard_error")
        kid_axes.errorbar(epochs, values, yerr=errors, marker=".", capsize=2, color="tab:green")
        kid_axes.set(yscale="log" if min(values) > 0 else "linear")
    else:
        kid_axes.text(0.5, 0.5, "not measured", ha="center", transform=kid_axes.transAxes)
    kid_axes.set(xlabel="epoch", ylabel=protocol, title="Kernel Inception Distance")
    for axes in (loss_axes, kid_axes):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_yscale() == "log":
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.grid(alpha=0.3, which="both")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG, whole or not at all, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        figure.savefig(part, format="png")


def _points(history: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in history if row.get(name) not in (None, "")]
    return [row["epoch"] for row in rows], [row[name] for row in rows]


def kid_by_network_calls(
    results: Sequence[dict[str, Any]], protocol: str, floor: float | None = None
) -> Figure:
    """KID against the network calls an image, a line for each sampler.

    Args:
        results: dictionaries with `sampler`, `network_calls`, `kid` and `kid_standard_error`.
        protocol: what the KID was measured with, for the axis.
        floor: KID between training and validation images, drawn where the axis shows it.
    """
    figure = Figure(figsize=(7, 4.5), dpi=PIXELS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    for sampler in dict.fromkeys(row["sampler"] for row in results):
        rows = [row for row in results if row["sampler"] == sampler]
        rows.sort(key=lambda row: row["network_calls"])
        axes.errorbar(
            [row["network_calls"] for row in rows],
            [row["kid"] for row in rows],
            yerr=[row["kid_standard_error"] for row in rows],
            marker=".",
            capsize=2,
            label=sampler,
        )
    if floor is not None:
        axes.axhline(floor, color="grey", linestyle=":", label="training images, the floor")
    axes.set(xlabel="network calls an image", ylabel=protocol, xscale="log")
    calls = sorted({row["network_calls"] for row in results})
    axes.set_xticks(calls, [str(call) for call in calls])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
