"""Figures: arrays in, matplotlib figures out."""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, MaxNLocator
from PIL import Image

from ddim_keras.atomic import written_whole
from ddim_keras.config import InputError, NetworkConfig
from ddim_keras.foreign import contents_of, printable, read_array

PIXELS_PER_INCH = 100


def tiled(images: np.ndarray, columns: int | None = None, zoom: int = 2) -> np.ndarray:
    """Tiles images with white lines between them; each pixel becomes `zoom` x `zoom`.

    Args:
        images: (N, H, W, C), uint8 or float in [0, 1]; 1 or 3 channels.
        columns: images in a row, by default about twice as many as rows.

    Returns:
        (height, width, 3) uint8.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        images = np.round(255 * np.clip(images, 0, 1)).astype("uint8")
    num_images, height, width, _ = images.shape
    columns = columns or grid_columns(num_images)
    rows = -(-num_images // columns)
    gap = 1  # white pixels around each image
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype="uint8"
    )
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas.repeat(zoom, axis=0).repeat(zoom, axis=1)


def grid_columns(num_images: int) -> int:
    """Number of images in a row of `tiled`: about twice the number of rows."""
    return max(1, round(np.sqrt(2 * num_images)))


def image_grid(
    images: np.ndarray,
    title: str,
    columns: int | None = None,
    zoom: int = 2,
    names: Sequence[str] = (),
) -> Figure:
    """A grid of images, as `tiled` makes it, under one title.

    Args:
        names: names of equal groups of rows, written to the left of each.
    """
    canvas = tiled(images, columns, zoom)
    height, width, _ = canvas.shape
    title_height, character_width = 30, 8
    left = character_width * (max(map(len, names)) + 1) if names else 0
    size = max(left + width, character_width * len(title)), height + title_height
    figure = Figure(
        figsize=(size[0] / PIXELS_PER_INCH, size[1] / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH
    )
    figure.figimage(canvas, xo=left, resize=False)

    def write(x: float, y: float, text: str, **options: Any) -> None:
        figure.text(x / size[0], y / size[1], text, size=9, parse_math=False, **options)

    write(size[0] / 2, height + title_height / 2, title, ha="center", va="center")
    for part, name in enumerate(names):
        y = height * (1 - (part + 0.5) / len(names))
        write(left - character_width / 2, y, name, ha="right", va="center")
    return figure


def training_curves(history: Sequence[dict[str, Any]], protocol: str) -> Figure:
    """Losses and KID over the epochs of a run, side by side.

    Args:
        history: one dictionary per epoch, with `epoch`, the losses, and `kid` and
            `kid_standard_error` if a KID was measured; also `kid_2_steps` and similar.
        protocol: protocol of the KID, for its axis.
    """
    figure = Figure(figsize=(10, 4), dpi=PIXELS_PER_INCH, layout="constrained")
    loss_axes, kid_axes = figure.subplots(1, 2)
    first_loss = "trajectory_loss" if "trajectory_loss" in history[-1] else "noise_loss"
    for name, colour in ((first_loss, "tab:blue"), ("image_loss", "tab:orange")):
        for prefix, style in (("", "-"), ("val_", "--")):
            points = _points(history, prefix + name)
            label = f"{name.replace('_', ' ')}, {'validation, EMA' if prefix else 'training'}"
            loss_axes.plot(*points, style, color=colour, marker=".", label=label)
    loss_axes.set(xlabel="epoch", ylabel="loss (normalised pixels)", title="losses", yscale="log")
    loss_axes.legend()

    epochs, values = _points(history, "kid")
    if epochs:
        _, errors = _points(history, "kid_standard_error")
        look: dict[str, Any] = {"marker": ".", "capsize": 2, "color": "tab:green"}
        kid_axes.errorbar(epochs, values, yerr=errors, label="most steps", **look)
        names = dict.fromkeys(name for row in history for name in row)
        others = [name for name in names if re.fullmatch(r"kid_\d+_steps", name)]
        for name in others:
            line = _points(history, name)
            kid_axes.plot(*line, marker=".", label=name.removeprefix("kid_").replace("_", " "))
            values += line[1]
        if others:
            kid_axes.legend()
        # A logarithmic axis of less than a decade has hardly any tick labels.
        if 0 < 10 * min(values) < max(values):
            kid_axes.set(yscale="log")
        else:
            kid_axes.set_ylim(bottom=min(0, *values))
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


def save_samples(images: np.ndarray, title: str, path: Path) -> None:
    """Writes a grid of images as a .png file, and the images as an .npy file beside it.

    Args:
        images: (N, H, W, C), uint8 or float in [0, 1].
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = images if images.dtype == np.uint8 else np.round(255 * images).astype("uint8")
    with written_whole(path.with_suffix(".npy")) as part:
        np.save(part, pixels, allow_pickle=False)
    save_figure(image_grid(pixels, title), path)


def read_samples(path: Path) -> np.ndarray:
    """Reads the images of a grid, (N, H, W, C) uint8, from the .npy file beside it.

    Raises:
        InputError: if the file is missing, as for grids of earlier versions, or damaged.
    """
    array = path.with_suffix(".npy")
    advice = "; trainings write one beside each grid"
    if not array.is_file():
        raise InputError(f"there is no array of samples {array}{advice}")
    with contents_of(array, "an array of samples", advice):
        pixels = read_array(array)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
            raise ValueError(f"{pixels.dtype} of shape {pixels.shape} are not images")
        return pixels


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG atomically; creates its folder if necessary."""
    for text in figure.findobj(Text):
        if text.get_text() != printable(text.get_text()):
            text.set_text(printable(text.get_text()))
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        figure.savefig(part, format="png")


def save_animation(frames: Sequence[np.ndarray], path: Path, milliseconds: int = 150) -> None:
    """Writes frames (H, W, 3) uint8 as a GIF or, ending in .png, an APNG; the last stays longest.

    Writes atomically, and creates the folder if necessary.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(frame) for frame in frames]
    with written_whole(path) as part:
        pictures[0].save(
            part,
            save_all=True,
            append_images=pictures[1:],
            duration=[milliseconds] * (len(pictures) - 1) + [10 * milliseconds],
            loop=0,
        )


def _points(history: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in history if row.get(name) not in (None, "")]
    return [row["epoch"] for row in rows], [row[name] for row in rows]


# Ticks: whole numbers, spread about evenly on a logarithmic axis of any length.
NETWORK_CALLS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
DASHES, MARKERS = ("-", "--", ":", "-."), (".", "s", "^", "x", "D")


def by_network_calls(
    results: Sequence[dict[str, Any]], axes_labels: Mapping[str, str], floor: Mapping[str, float]
) -> Figure:
    """Measurements against network calls per image: a panel per metric, a line per setting.

    Args:
        results: dictionaries with `setting`, `sampler`, `network_calls` and the measured metrics;
            a `name_standard_error` is drawn as the error of `name`.
        axes_labels: axis label of each metric to draw.
        floor: values of real images, the best possible.
    """
    columns = min(2, len(axes_labels))
    rows = -(-len(axes_labels) // columns)
    figure = Figure(
        figsize=(5.5 * columns + 2.5, 4.5 * rows), dpi=PIXELS_PER_INCH, layout="constrained"
    )
    # A colour for each sampler, a dash style and marker for each step placement.
    settings = {row["setting"]: row["sampler"] for row in results}
    samplers = list(dict.fromkeys(settings.values()))
    for panel, (name, label) in enumerate(axes_labels.items(), start=1):
        axes = figure.add_subplot(rows, columns, panel)
        looks = {
            sampler: itertools.cycle(itertools.product(MARKERS, DASHES)) for sampler in samplers
        }
        for setting, sampler in settings.items():
            line = [row for row in results if row["setting"] == setting]
            line.sort(key=lambda row: row["network_calls"])
            marker, dashes = next(looks[sampler])
            axes.errorbar(
                [row["network_calls"] for row in line],
                [row[name] for row in line],
                yerr=[row.get(f"{name}_standard_error", 0) for row in line],
                marker=marker,
                capsize=2,
                color=f"C{samplers.index(sampler)}",
                linestyle=dashes,
                label=setting,
            )
        axes.axhline(floor[name], color="grey", linewidth=1, label="training against validation")
        axes.set(xlabel="network calls per image", ylabel=label, xscale="log")
        axes.xaxis.set_major_locator(FixedLocator(NETWORK_CALLS))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        # From 0, with the floor visible, which may lie just above or below.
        axes.set_ylim(bottom=min(0, floor[name]) - 0.02 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure


def distributions(values: Mapping[str, np.ndarray], label: str) -> Figure:
    """Cumulative distributions, one line for each named set of values.

    Args:
        values: (N,) numbers for each name.
        label: name of the quantity.
    """
    figure = Figure(figsize=(6, 4), dpi=PIXELS_PER_INCH, layout="constrained")
    _draw_distributions(figure.add_subplot(), values, label)
    return figure


def _draw_distributions(axes: Axes, values: Mapping[str, np.ndarray], label: str) -> None:
    for name, each in values.items():
        axes.ecdf(each, label=name)
    axes.set(xlabel=label, ylabel="share of images that are as near, or nearer", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()


def examination(
    noise_rates: np.ndarray,
    errors: Mapping[str, np.ndarray],
    distances: Mapping[str, np.ndarray],
) -> Figure:
    """Errors of predicted images by noise rate, and distances to the nearest training images.

    Args:
        noise_rates: (L,).
        errors: (L,) for each name; may be empty.
        distances: (N,) for each name.
    """
    figure = Figure(figsize=(11, 4.2), dpi=PIXELS_PER_INCH, layout="constrained")
    error_axes, distance_axes = figure.subplots(1, 2)
    for name, each in errors.items():
        error_axes.plot(noise_rates, each, marker=".", label=name)
    if errors:
        error_axes.legend()
    error_axes.set(
        xlabel="noise rate",
        ylabel="mean squared error of predicted images",
        title="predictions" if errors else "predictions: not of a student",
    )
    error_axes.grid(alpha=0.3)
    _draw_distributions(distance_axes, distances, "cosine distance to the nearest training image")
    distance_axes.set_title("copies")
    return figure


def bound_terms(terms: Mapping[str, np.ndarray], weights: np.ndarray) -> Figure:
    """The terms of the variational bound over the steps, and their weights of noise errors.

    Args:
        terms: for each variance (T + 1,): L_0, ..., L_T, in bits per dimension.
        weights: (T,) factors of the squared noise error in L_0, ..., L_{T-1}.
    """
    figure = Figure(figsize=(11, 4.2), dpi=PIXELS_PER_INCH, layout="constrained")
    bits, factors = figure.subplots(1, 2)
    for name, each in terms.items():
        total = f"{name}: {each.sum():.2f} in all, L_0 {each[0]:.2f}"
        bits.plot(np.arange(1, len(each)), each[:-1], label=total)
    bits.set(xlabel="step t", ylabel="L of step t, bits per dimension", xscale="log", yscale="log")
    factors.plot(np.arange(1, len(weights) + 1), weights, label="in the bound, small variances")
    factors.axhline(1, color="C1", label="in L_simple")
    factors.set(xlabel="step t", ylabel="factor of the noise error", xscale="log", yscale="log")
    for axes in (bits, factors):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def process_rows(
    rows: Mapping[str, np.ndarray], times: np.ndarray, signal_rates: Mapping[str, np.ndarray]
) -> Figure:
    """Images along the diffusion process, a column for each time.

    Args:
        rows: (N, H, W, C) images in [0, 1] by the name of the row; 1 or 3 channels.
        times: (N,) diffusion times of the columns.
        signal_rates: (N,) for each row, written below the images.
    """
    figure = Figure(
        figsize=(1.3 * len(times) + 1.2, 1.45 * len(rows) + 0.2),
        dpi=PIXELS_PER_INCH,
        layout="constrained",
    )
    panels = figure.subplots(len(rows), len(times), squeeze=False)
    for row_panels, (name, images) in zip(panels, rows.items(), strict=True):
        for axes, image, rate in zip(row_panels, images, signal_rates[name], strict=True):
            pixels = np.broadcast_to(np.clip(image, 0, 1), (*image.shape[:2], 3))
            axes.imshow(pixels, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_xlabel(f"signal {rate:.3f}", size=7, labelpad=2)
        row_panels[0].set_ylabel(
            name.replace("_", " "), rotation=0, ha="right", va="center", labelpad=8
        )
    for axes, time in zip(panels[0], times, strict=True):
        axes.set_title(f"time {time:.3g}", size=8, pad=4)
    return figure


def schedule_curves(
    times: np.ndarray, rates: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Figure:
    """Alpha-bar and the log signal-to-noise ratio of schedules, side by side.

    Args:
        times: (N,) diffusion times.
        rates: `noise_rates, signal_rates` by the name of the schedule, each (N,).
    """
    figure = Figure(figsize=(10, 4), dpi=PIXELS_PER_INCH, layout="constrained")
    signal_axes, ratio_axes = figure.subplots(1, 2)
    for name, (noise_rates, signal_rates) in rates.items():
        label = name.replace("_", " ")
        signal_axes.plot(times, signal_rates**2, label=label)
        ratio_axes.plot(times, 2 * np.log(signal_rates / noise_rates), label=label)
    signal_axes.set(ylabel="alpha-bar: signal rate squared", title="signal", ylim=(0, 1.02))
    ratio_axes.set(ylabel="log (signal rate / noise rate)\u00b2", title="log signal-to-noise ratio")
    ratio_axes.axhline(0, color="grey", linewidth=0.8)
    for axes in (signal_axes, ratio_axes):
        axes.set(xlabel="diffusion time", xlim=(0, 1))
        axes.grid(alpha=0.3)
    signal_axes.legend()
    return figure


def network_diagram(config: NetworkConfig, num_parameters: int) -> Figure:
    """The residual U-Net: a box for each level on the way down and up, with its skip connections.

    Args:
        num_parameters: for the title.
    """
    levels = list(zip(config.feature_sizes, config.widths, config.depths, strict=True))
    bottom = len(levels) - 1
    figure = Figure(figsize=(8, 1.3 * len(levels) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    axes.axis("off")
    axes.set_xlim(-0.45, 2.45)
    axes.set_ylim(-bottom - 0.6, 1.2)
    box = {"boxstyle": "round,pad=0.5", "facecolor": "#e8f0e8", "edgecolor": "#406040"}

    def put(x: float, y: float, text: str, **options: Any) -> None:
        axes.text(x, y, text, ha="center", va="center", fontsize=9, **options)

    def arrow(start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#606060", **style})

    for level, (size, width, depth) in enumerate(levels):
        blocks = f"{depth} {config.block} block{'s' if depth > 1 else ''}"
        attention = "\nwith self-attention" if size in config.attention_sizes else ""
        text = f"{size} x {size}, {width} channels\n{blocks}{attention}"
        if level == bottom:
            put(1.0, -level, text, bbox=box)
            continue
        for x in (0.0, 2.0):
            put(x, -level, text, bbox=box)
        arrow((0.4, -level), (1.6, -level), linestyle="dashed")
        put(1.0, 0.12 - level, "skip connections" if level == 0 else "")
        below = (0.0, -level - 0.65) if level < bottom - 1 else (0.62, -bottom + 0.1)
        arrow((0.0, -level - 0.35), below)
        arrow((2.0 - below[0], below[1]), (2.0, -level - 0.35))
    patch = f", patches of {config.patch_size} px" if config.patch_size > 1 else ""
    put(0.0, 0.85, f"noisy image\n{config.image_size} px{patch}, noise variance")
    put(2.0, 0.85, "prediction")
    arrow((0.0, 0.62), (0.0, 0.35))
    arrow((2.0, 0.35), (2.0, 0.7))
    classes = f", {config.num_classes} classes" if config.num_classes else ""
    axes.set_title(f"residual U-Net, {num_parameters:,} parameters{classes}", fontsize=11)
    return figure
