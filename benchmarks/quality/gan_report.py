"""Report on a diffusion model against a GAN: verdicts, tables and figures of the measurements.

An observation from the course's report holds under these conditions. KID is over all pairs, and all
images are generated from the same noises.

1. Diffusion makes better images: its last KID is lower, by more than 2 standard errors of the
   difference. If the difference is smaller than that, the observation is undecided.
2. Training diffusion costs more: the GAN sees at least twice as many images per second. The time
   that diffusion takes to reach the GAN's last KID is reported beside it.
3. Slight changes of the training data change the GAN's images completely: with 5 % left out, the
   correlation of two images from one noise exceeds that of shuffled pairs by less than 0.5. It
   holds for both if that is true of diffusion as well. Another seed is the control: if it changes
   the images no more (within 0.1), the data are not the reason.
4. The recipe of diffusion is stable: the training is steady. It is not if its weights become
   infinite, if a KID of its last half is more than 1.2 times an earlier one (and 2 standard errors
   above it), if more than 5 % of the images are near-identical (correlation above 0.9 with another
   one, as differences from the mean photograph), or if the recall is below a tenth of the recall of
   training photographs.
5. Other hyperparameters make diffusion unstable, but not the GAN: with one of the two learning
   rates the training is not steady, or ends with more than twice the KID of its own recipe. It
   holds for both if that is true of both.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
Curves = dict[str, list[Row]]  # the measurements of each training
Images = dict[str, np.ndarray]  # those of each training at its end
# Of the images of a recipe and a variation, from equal noises and from others, for each kind.
Correlations = dict[tuple[str, str], tuple[float, float]]
DATA = ("left_out", "other_seed")
RATES = ("rate_times_3", "rate_by_3")
KINDS = ("diffusion", "gan")
CALLS = {"diffusion": 10, "gan": 1}  # of a network, per generated image; steps of DDIM
PHOTOGRAPHS = "photographs"  # of training, measured as generated images are
SHOWN = 12  # images of each training in the grid

# The thresholds that are stated above.
STANDARD_ERRORS = 2.0
COST_RATIO = 2.0
SAME_IMAGE = 0.5
AS_MUCH = 0.1
RISE = 1.2
TWIN = 0.9
SHARE_OF_TWINS = 0.05
RECALL_LEFT = 0.1
WORSE = 2.0


# For each observation: the measurements in words, and the verdict.


def judge_quality(curves: Curves, correlations: Correlations) -> tuple[str, str]:
    diffusion, other = (curves[f"{kind} recipe"][-1] for kind in KINDS)
    difference = other["kid"] - diffusion["kid"]
    error = math.hypot(diffusion["kid_standard_error"], other["kid_standard_error"])
    text = f"KID: diffusion {kid_of(diffusion)}, GAN {kid_of(other)}"
    if not abs(difference) > STANDARD_ERRORS * error:
        return text, "undecided"
    return text, "holds" if difference > 0 else "does not hold"


def judge_cost(curves: Curves, correlations: Correlations) -> tuple[str, str]:
    diffusion, other = (curves[f"{kind} recipe"][-1] for kind in KINDS)
    trained, generated = (
        [cost(row) for row in (diffusion, other)]
        for cost in (images_per_second, lambda row: row["generated_per_second"])
    )
    reached = [row for row in curves["diffusion recipe"] if row["kid"] <= other["kid"]]
    when = f"after {reached[0]['seconds']:.0f} CPU seconds" if reached else "not yet"
    text = (
        f"images per CPU second of training: diffusion {trained[0]:.1f}, GAN {trained[1]:.1f}; of "
        f"generating: {generated[0]:.1f} in {CALLS['diffusion']} network calls, {generated[1]:.1f} "
        f"in {CALLS['gan']}; diffusion reaches the GAN's last KID: {when}"
    )
    return text, "holds" if trained[1] >= COST_RATIO * trained[0] else "does not hold"


def judge_sensitivity(curves: Curves, correlations: Correlations) -> tuple[str, str]:
    texts, excess = [], {}
    for kind, variation in itertools.product(KINDS, DATA):
        same, shuffled = correlations[kind, variation]
        excess[kind, variation] = same - shuffled
        what = in_words(f"{kind}, {variation}")
        texts.append(f"{what}: {same:.2f}, shuffled {shuffled:.2f}")
    verdict = holds(*(excess[kind, "left_out"] < SAME_IMAGE for kind in reversed(KINDS)))
    if excess["gan", "left_out"] - excess["gan", "other_seed"] < AS_MUCH:
        verdict += "; another seed changes the GAN's images no more"
    return f"correlation from equal noises: {'; '.join(texts)}", verdict


def judge_stability(curves: Curves, correlations: Correlations) -> tuple[str, str]:
    texts, found = [], {}
    for kind in KINDS:
        rows = curves[f"{kind} recipe"]
        found[kind] = faults(rows, curves)
        texts.append(
            f"{in_words(kind)}: last KIDs {spread(rows)}, recall {rows[-1]['recall']:.2f}, "
            f"near-identical {rows[-1]['twins']:.1%}: {', '.join(found[kind]) or 'steady'}"
        )
    return "; ".join(texts), "does not hold" if found["diffusion"] else "holds"


def judge_hyperparameters(curves: Curves, correlations: Correlations) -> tuple[str, str]:
    texts, unstable = [], dict.fromkeys(KINDS, False)
    for kind, rate in itertools.product(KINDS, RATES):
        rows, recipe = curves[f"{kind} {rate}"], curves[f"{kind} recipe"]
        found = faults(rows, curves)
        if rows[-1]["kid"] > WORSE * recipe[-1]["kid"]:
            found.append(f"more than {WORSE:g} times the KID of its recipe")
        unstable[kind] |= bool(found)
        what = f"{in_words(f'{kind}, {rate}')}: KID {kid_of(rows[-1])}"
        texts.append(f"{what}, {', '.join(found) or 'steady'}")
    return "; ".join(texts), holds(*unstable.values())


@dataclass(frozen=True)
class Experiment:
    """An observation of the report, the trainings that it needs beside the recipes, its verdict."""

    observation: str
    judge: Callable[[Curves, Correlations], tuple[str, str]]
    variations: tuple[str, ...] = ()


EXPERIMENTS = {
    1: Experiment("1. diffusion makes better images", judge_quality),
    2: Experiment("2. training diffusion costs more", judge_cost),
    3: Experiment("3. the GAN is sensitive to training data", judge_sensitivity, DATA),
    4: Experiment("4. the recipe of diffusion is stable", judge_stability),
    5: Experiment("5. other hyperparameters are not", judge_hyperparameters, RATES),
}


def holds(of_one: bool, of_the_other: bool) -> str:
    """The verdict on a claim about one kind of model and not the other."""
    if not of_one:
        return "does not hold"
    return "holds for both" if of_the_other else "holds"


def faults(rows: Sequence[Row], curves: Curves) -> list[str]:
    """The reasons why a training is not steady."""
    last = rows[-1]
    if math.isnan(last["kid"]):
        return ["infinite weights"]
    found = []
    if (rise := largest_rise(rows)) > RISE:
        found.append(f"KID {rise:.2f} times an earlier one")
    if last["twins"] > SHARE_OF_TWINS:
        found.append("near-identical images")
    if last["recall"] < RECALL_LEFT * curves[PHOTOGRAPHS][-1]["recall"]:
        found.append("low recall")
    return found


def largest_rise(rows: Sequence[Row]) -> float:
    """The largest ratio of a KID of the last half to an earlier minimum; 1 if not significant."""
    ratios = [1.0]
    for number in range(len(rows) // 2, len(rows)):
        row, lowest = rows[number], min(rows[:number], key=lambda row: row["kid"])
        error = math.hypot(row["kid_standard_error"], lowest["kid_standard_error"])
        if row["kid"] - lowest["kid"] > STANDARD_ERRORS * error:
            ratios.append(row["kid"] / max(lowest["kid"], 1e-6))
    return max(ratios)


# Tables and figures.


def in_words(name: str) -> str:
    return name.replace("_", " ").replace("gan", "GAN")


def kid_of(row: Row) -> str:
    return f"{row['kid']:.3f} ± {row['kid_standard_error']:.3f}"


def images_per_second(row: Row) -> float:
    return row["images"] / row["seconds"]


def spread(rows: Sequence[Row]) -> str:
    """Mean and standard deviation of the KIDs of the last half."""
    last = [row["kid"] for row in rows[len(rows) // 2 :]]
    return f"{np.mean(last):.3f} ± {np.std(last):.3f}"


def table_of_trainings(curves: Curves) -> str:
    """Markdown: a line for each training, of its last measurement."""
    header = ["", "images", "CPU seconds", "images/s", "generated/s", "KID"]
    lines = [[*header, "KIDs of the last half", "recall", "near-identical"], ["---"] * 9]
    for name, rows in curves.items():
        row, cost = rows[-1], ["-"] * 4
        if name != PHOTOGRAPHS:
            values = (row["seconds"], images_per_second(row), row["generated_per_second"])
            cost = [f"{row['images']:,.0f}", *(f"{value:.1f}" for value in values)]
        shares = [f"{row['recall']:.3f}", f"{row['twins']:.1%}"]
        lines.append([in_words(name), *cost, kid_of(row), spread(rows), *shares])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(folder: Path, curves: Curves, images: Images) -> None:
    """Draws the KID over the time of all trainings, and images of each from the same noises."""
    from matplotlib.figure import Figure

    from ddim_keras.plots.figures import PIXELS_PER_INCH, image_grid, save_figure

    figure = Figure(figsize=(9, 5), dpi=PIXELS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    styles = dict(zip(("recipe", *DATA, *RATES), ("-", "--", ":", "-.", (0, (1, 3))), strict=True))
    for name in images:
        kind, variation = name.split()
        columns = ("seconds", "kid", "kid_standard_error")
        seconds, values, errors = ([row[column] for row in curves[name]] for column in columns)
        style = {"color": f"C{KINDS.index(kind)}", "linestyle": styles[variation]}
        axes.errorbar(
            seconds, values, yerr=errors, marker=".", capsize=2, label=in_words(name), **style
        )
    axes.set(
        xlabel="CPU seconds of training", ylabel=curves[PHOTOGRAPHS][-1]["protocol"], yscale="log"
    )
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper")
    save_figure(figure, folder / "kid.png")
    names = sorted(images, key=lambda name: KINDS.index(name.split()[0]))
    grid = np.concatenate([images[name][:SHOWN] for name in names])
    labels = [in_words(name) for name in names]
    title = "in each column, the same noise for all trainings of a model"
    save_figure(image_grid(grid, title, columns=SHOWN, names=labels), folder / "images.png")
