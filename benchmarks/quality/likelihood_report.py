"""Report on learned variances: tables, comparisons and figures of the measurements.

Two costs of the same images are compared by the mean of their differences, with its 95 % interval:
there is a difference if the interval excludes 0. It covers the choice of images, not the random
seed, of which each training has only one.

A training of a variance is unstable under these conditions, in steps after the first tenth:

- The loss or the gradient is infinite, in any step.
- The norm of a gradient is more than 100 times its median.
- The median loss of a tenth is more than 1.5 times that of an earlier tenth.

"A directly predicted variance is unstable" holds if that is true only of the direct variance. It
holds for both if it is true of the interpolated variance as well.

Published values, on CIFAR-10 with T = 4000 and 500,000 steps (Nichol and Dhariwal 2021, table 2):
linear schedule, L_simple 3.37 and L_hybrid 3.26 bits per dimension; cosine schedule, L_simple 3.26,
L_hybrid 3.17, L_vlb 2.94.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quality.gan_report import holds

Row = dict[str, Any]
TRAININGS = ("noise cosine", "hybrid cosine", "bound cosine", "noise linear", "hybrid linear")
FLOW = "flow"  # evaluation of an image besides the variances
PARTS = ("L_0", "between", "L_T")  # of the bound; between: L_1 to L_(T-1)
STABILITY = ("interpolated", "direct")

# The thresholds that are stated above.
SETTLED = 0.1
SPIKE = 100.0
RISE = 1.5
TENTHS = 10


class Question(NamedTuple):
    """Two costs of the same images, each from a training and an evaluation."""

    text: str
    first: tuple[str, str]
    second: tuple[str, str]


QUESTIONS = [
    Question(text, (first, judged), (second, other))
    for text, first, judged, second, others in (
        ("learned or fixed variances", "hybrid cosine", "learned", "noise cosine", "small large"),
        ("learned or fixed variances", "hybrid linear", "learned", "noise linear", "small large"),
        ("of one network", "hybrid cosine", "learned", "hybrid cosine", "small large"),
        ("of one network", "hybrid linear", "learned", "hybrid linear", "small large"),
        ("bound or hybrid loss", "bound cosine", "learned", "hybrid cosine", "learned"),
        ("cosine or linear", "hybrid cosine", "learned", "hybrid linear", "learned"),
        ("cosine or linear", "noise cosine", "small", "noise linear", "small"),
        ("cosine or linear", "noise cosine", "large", "noise linear", "large"),
        ("hybrid or noise loss", "hybrid cosine", FLOW, "noise cosine", FLOW),
        ("hybrid or noise loss", "hybrid linear", FLOW, "noise linear", FLOW),
        ("bound or hybrid loss", "bound cosine", FLOW, "hybrid cosine", FLOW),
        ("cosine or linear", "hybrid cosine", FLOW, "hybrid linear", FLOW),
    )
    for other in others.split()
]


# Bits per dimension.


def by_judgement(rows: Sequence[Row]) -> dict[tuple[str, str], np.ndarray]:
    """The bits of each image (N,), for a training and an evaluation."""
    bits: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        bits.setdefault((row["training"], row["judged"]), []).append(float(row["bits"]))
    return {key: np.array(values) for key, values in bits.items()}


def table_of_bits(trainings: Sequence[Row], bits: Sequence[Row], kids: Sequence[Row]) -> str:
    """Markdown: for each training, a line for each evaluation."""
    header = ["training", "images seen", "CPU s", "judged with", "L_0", "L_1 to L_(T-1)", "L_T"]
    lines = [[*header, "bits per dimension", "images", "KID"], ["---"] * 10]
    known = by_judgement(bits)
    for training in trainings:
        name = training["training"]
        kid = next((kid_of(row) for row in kids if row["training"] == name), "-")
        cost = [f"{training['images']:,.0f}", f"{training['seconds']:.0f}"]
        if not training["is_finite"]:
            lines.append([name, *cost, "infinite weights", *["-"] * 6])
        for judged in (key[1] for key in known if key[0] == name):
            rows = [row for row in bits if (row["training"], row["judged"]) == (name, judged)]
            parts = [
                f"{np.mean([row[part] for row in rows]):.4f}" if part in rows[0] else "-"
                for part in PARTS
            ]
            values = known[name, judged]
            lines.append([name, *cost, judged, *parts, mean_of(values), str(len(values)), kid])
    return markdown(lines)


def table_of_answers(bits: Mapping[tuple[str, str], np.ndarray]) -> str:
    """Markdown: a line for each question whose two costs were measured."""
    from ddim_keras.metrics.comparison import compare_pairs  # not before: it imports Keras

    lines = [["", "first minus second", "verdict"], ["---"] * 3]
    for question in QUESTIONS:
        if question.first in bits and question.second in bits:
            values = (bits[question.first], bits[question.second])
            comparison = compare_pairs(*values, "cost in bits per dimension")
            names = [", ".join(each) for each in (question.first, question.second)]
            low, high = comparison.interval
            difference = f"{comparison.difference:.4f} ({low:.4f} to {high:.4f})"
            lines.append([question.text, difference, comparison.verdict(*names)])
    return markdown(lines)


def mean_of(values: np.ndarray) -> str:
    error = values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.4f} ± {error:.4f}"


def kid_of(row: Row) -> str:
    return f"{row['kid']:.4f} ± {row['kid_standard_error']:.4f} ({row['protocol']})"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# The stability of a directly predicted variance.


def curves_of(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Losses and gradient norms (steps, 2) of each way to predict the variance."""
    return {
        kind: np.array(
            [
                (float(row["bits_per_dim"]), float(row["gradient_norm"]))
                for row in rows
                if row["variance"] == kind
            ]
        )
        for kind in STABILITY
        if any(row["variance"] == kind for row in rows)
    }


def faults(curves: np.ndarray) -> list[str]:
    """The reasons why a training is unstable; empty if it is stable.

    Args:
        curves: (steps, 2), losses and gradient norms.
    """
    if not np.isfinite(curves).all():
        step = int(np.argmin(np.isfinite(curves).all(axis=1)))
        return [f"infinite loss or gradient in step {step}"]
    losses, norms = curves[int(SETTLED * len(curves)) :].T
    found = []
    if (ratio := norms.max() / np.median(norms)) > SPIKE:
        found.append(f"a gradient norm {ratio:.0f} times the median")
    if (rise := largest_rise(losses)) > RISE:
        found.append(f"a median loss {rise:.2f} times an earlier one")
    return found


def largest_rise(losses: np.ndarray) -> float:
    """The largest ratio of the median loss of a tenth to that of an earlier tenth."""
    medians = np.array([np.median(tenth) for tenth in np.array_split(losses, TENTHS)])
    return float(np.max(medians[1:] / np.minimum.accumulate(medians)[:-1]))


def judge_stability(curves: Mapping[str, np.ndarray]) -> str:
    """The findings on both ways to predict the variance, and the verdict."""
    texts, unstable = [], {}
    for kind in STABILITY:
        found = faults(curves[kind])
        unstable[kind] = bool(found)
        losses, norms = curves[kind][int(SETTLED * len(curves[kind])) :].T
        texts.append(
            f"{kind}: {', '.join(found) or 'stable'} (after the first tenth: median loss "
            f"{np.median(losses):.3g} bits per dimension; gradient norm {np.median(norms):.3g}, at "
            f"most {norms.max():.3g})"
        )
    verdict = holds(unstable["direct"], unstable["interpolated"])
    return "\n".join([*texts, f"a directly predicted variance is unstable: {verdict}"])


# Figures.

COLOURS = {name: f"C{number}" for number, name in enumerate(TRAININGS)}
STYLES = {"small": "--", "large": ":", "learned": "-"}
MARKERS = {"small": "<", "large": ">", "learned": "o", FLOW: "s"}


def draw_likelihood(
    path: Path, bits: Mapping[tuple[str, str], np.ndarray], terms: Sequence[Row]
) -> None:
    """Draws the costs with their standard errors, and the terms of the bound over the steps."""
    from matplotlib.figure import Figure

    from ddim_keras.plots.figures import PIXELS_PER_INCH, save_figure

    figure = Figure(figsize=(13, 5), dpi=PIXELS_PER_INCH, layout="constrained")
    costs, steps = figure.subplots(1, 2)
    for place, ((name, judged), values) in enumerate(bits.items()):
        error = values.std(ddof=1) / math.sqrt(len(values))
        style = {"color": COLOURS[name], "marker": MARKERS[judged]}
        costs.errorbar(values.mean(), place, xerr=error, capsize=2, **style)
    costs.set_yticks(range(len(bits)), [", ".join(key) for key in bits])
    costs.invert_yaxis()
    costs.set(xlabel="bits per dimension, mean and standard error over images")
    for name in TRAININGS:
        rows = [row for row in terms if row["training"] == name]
        variances = [key for key in STYLES if rows and key in rows[0]]
        # The last row, L_T, has no step.
        for judged in ["learned"] if "learned" in variances else variances:
            values = [row[judged] for row in rows[:-1]]
            style = {"color": COLOURS[name], "linestyle": STYLES[judged], "linewidth": 1}
            steps.plot(range(1, len(rows)), values, label=f"{name}, {judged}", **style)
    steps.set(xlabel="step t", ylabel="L of step t, bits per dimension", xscale="log", yscale="log")
    steps.legend(fontsize="small")
    for axes in (costs, steps):
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def draw_stability(path: Path, curves: Mapping[str, np.ndarray]) -> None:
    """Draws losses and gradient norms over the steps, with the threshold of a gradient norm."""
    from matplotlib.figure import Figure

    from ddim_keras.plots.figures import PIXELS_PER_INCH, save_figure

    figure = Figure(figsize=(11, 4.2), dpi=PIXELS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, 2)
    for number, kind in enumerate(reversed(STABILITY)):  # the steadier one in front
        each = curves[kind]
        for axes, values in zip(panels, each.T, strict=True):
            style = {"color": f"C{number}", "linewidth": 0.7, "alpha": 0.8}
            axes.plot(values, label=f"{kind} variance", **style)
        settled = each[int(SETTLED * len(each)) :, 1]
        panels[1].axhline(
            SPIKE * np.median(settled),
            color=f"C{number}",
            linestyle="--",
            label=f"{SPIKE:g} times the median, {kind}",
        )
    labels = ("loss of a batch, bits per dimension", "norm of the gradient")
    for axes, label in zip(panels, labels, strict=True):
        axes.set(xlabel="step", ylabel=label, yscale="log")
        axes.grid(alpha=0.3)
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save_figure(figure, path)
