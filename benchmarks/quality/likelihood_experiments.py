"""Does learning the variance improve the likelihood, and by how much? Linear against cosine.

    python -m benchmarks.quality.likelihood_experiments --output runs/likelihood_experiments

1. Trains five models from random weights with the recipe of the preset `likelihood`, each for the
   same computing time: on the cosine schedule with the noise loss (fixed variances), the hybrid
   loss, and the bound with importance-sampled steps; on the linear schedule with the first two
   losses. Each is evaluated on validation images, in float32: all terms of the bound with small,
   large and, if available, learned variances; and the probability flow, on fewer images, as it is
   slow. With --kid-weights, the KID of images from 20 steps of DDIM follows.
2. Trains on the bound with a directly predicted variance, and with the interpolated one. Records
   the loss and the gradient norm of each step, with a verdict.

On a CPU, seconds are summed over all cores, so that other processes have little influence; on a GPU
they are wall-clock time. Compiling and measuring do not count. Trainings with the same loss have
the same number of steps, which is determined once.

The output folder gets the runs, which evaluate.py reads, tables of the measurements (.csv), and two
figures. The same command continues after the last complete part: a training, a bound, a flow or a
KID.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.quality import likelihood_report
from benchmarks.quality.equal_time import (
    WARM_UP,
    DiffusionTraining,
    computing_clock,
    require_same_settings,
    steps_within,
)
from benchmarks.quality.likelihood_report import FLOW, STABILITY, TRAININGS, Row
from ddim_keras.cli.options import add_backend_option, add_data_options, at_least, whole_path
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import ModelConfig, TrainingConfig, with_settings
from ddim_keras.presets import PRESETS
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import Run, load_model

if TYPE_CHECKING:
    from ddim_keras.data.cache import Dataset

RECIPE = PRESETS["likelihood"]
LOSSES = {"noise": "mse", "hybrid": "hybrid", "bound": "bound"}
# The same for a whole folder.
SETTINGS = (
    *("dataset", "image_size", "seconds", "direct_seconds", "discrete_steps"),
    *("num_images", "flow_images", "kid_images"),
)
DDIM_STEPS = 20
BETWEEN_REPORTS = 20  # parts of a training, between which its progress is printed
FEWEST_STEPS = WARM_UP + BETWEEN_REPORTS


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=likelihood_report.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument

    def add_count(flag: str, least: int, default: int, text: str, metavar: str = "N") -> None:
        help_text = f"{text} (default: {default})"
        add(flag, type=at_least(least), metavar=metavar, default=default, help=help_text)

    add(
        "--only",
        type=int,
        nargs="+",
        choices=(1, 2),
        metavar="N",
        default=[1, 2],
        help="experiments, 1 or 2, as listed above (default: both)",
    )
    seconds = "CPU seconds per training of experiment {}, of all cores together"
    add_count("--seconds", 1, 1200, seconds.format(1), "S")
    add_count("--direct-seconds", 1, 300, seconds.format(2), "S")
    name = "oxford_flowers102"
    add("--dataset", type=whole_path, default=name, help="as in train.py (default: %(default)s)")
    add_count("--image-size", 8, 32, "pixels each way")
    add_count("--discrete-steps", 100, 1000, "number T of diffusion steps", "T")
    add_count("--num-images", 2, 128, "validation images of the bound, T network calls each")
    calls = "some hundred network calls with gradients each"
    add_count("--flow-images", 2, 16, f"validation images of the flow, {calls}")
    add_count("--kid-images", 3, 512, "generated images of the KID, in float32")
    place = Path("runs/likelihood_experiments")
    add("--output", type=Path, metavar="DIR", default=place, help="folder (default: %(default)s)")
    add(
        "--kid-weights",
        metavar="FILE",
        help="encoder of the KID, as in evaluate.py (default: none, and no KID)",
    )
    add_data_options(parser, "~/tensorflow_datasets")
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    folder = arguments.output
    require_same_settings(folder, {name: getattr(arguments, name) for name in SETTINGS})
    parts = missing_parts(arguments)
    if parts:
        choose_backend(arguments.backend)
        import_keras()
        work(arguments, parts)
    report(arguments)


def missing_parts(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """The parts that are not in the folder yet, in order: the task and its training.

    A training that ends with infinite weights is not measured.
    """
    folder = arguments.output
    trained = {row["training"]: row["is_finite"] for row in read(folder, "trainings")}
    judged = {(row["training"], row["judged"] == FLOW) for row in read(folder, "bits")}
    with_kid = {row["training"] for row in read(folder, "kid")}
    recorded = {row["variance"] for row in read(folder, "stability")}
    parts = []
    for name in TRAININGS if 1 in arguments.only else ():
        if name not in trained:
            parts.append(("train", name))
        if not trained.get(name, True):
            continue
        if (name, False) not in judged:
            parts.append(("bound", name))
        if (name, True) not in judged:
            parts.append((FLOW, name))
        if arguments.kid_weights and name not in with_kid:
            parts.append(("KID", name))
    for kind in STABILITY if 2 in arguments.only else ():
        if kind not in recorded:
            parts.append(("record", kind))
    return parts


def work(arguments: argparse.Namespace, parts: list[tuple[str, str]]) -> None:
    """Runs the parts, and saves the results of each as soon as it is complete."""
    from ddim_keras.data.cache import load_dataset

    place = (arguments.data_dir, arguments.cache_dir)
    data = load_dataset(arguments.dataset, arguments.image_size, *place)
    do = {
        "train": train,
        "bound": measure_bound,
        FLOW: measure_flow,
        "KID": measure_kid,
        "record": record_stability,
    }
    diverged: set[str] = set()
    for number, (what, name) in enumerate(parts, start=1):
        if name not in diverged:
            print(f"{number}/{len(parts)}: {what}, {name}", flush=True)
            do[what](arguments, name, data)
        if what == "train" and not trained_row(arguments.output, name)["is_finite"]:
            diverged.add(name)


def report(arguments: argparse.Namespace) -> None:
    """Prints the tables and draws the figures of all that is in the folder."""
    folder = arguments.output
    bits = read(folder, "bits")
    if bits:
        judgements = likelihood_report.by_judgement(bits)
        trainings = read(folder, "trainings")
        print(likelihood_report.table_of_bits(trainings, bits, read(folder, "kid")))
        answers = likelihood_report.table_of_answers(judgements)
        if len(answers.splitlines()) > 2:  # lines of the header
            print(f"\n{answers}")
        figure = folder / "likelihood.png"
        likelihood_report.draw_likelihood(figure, judgements, read(folder, "terms"))
    curves = likelihood_report.curves_of(read(folder, "stability"))
    if len(curves) == len(STABILITY):
        print(f"\n{likelihood_report.judge_stability(curves)}")
        likelihood_report.draw_stability(folder / "stability.png", curves)


# Files.


def read(folder: Path, table: str) -> list[Row]:
    from ddim_keras.evaluation.table import read_rows

    return read_rows(folder / f"{table}.csv")


def add_rows(folder: Path, table: str, rows: list[Row]) -> None:
    """Adds the rows of a part to a table atomically."""
    from ddim_keras.evaluation.table import write_rows

    write_rows(folder / f"{table}.csv", [*read(folder, table), *rows])


def trained_row(folder: Path, name: str) -> Row:
    return next(row for row in read(folder, "trainings") if row["training"] == name)


def run_of(folder: Path, name: str) -> Run:
    return Run(folder / name.replace(" ", "_"))


# The parts.


def recipe_of(name: str, arguments: argparse.Namespace) -> tuple[ModelConfig, TrainingConfig]:
    """The model and the recipe of a training: a loss and a schedule."""
    loss, schedule = name.split()
    variance = "fixed" if loss == "noise" else "learned"
    values = {
        "schedule": schedule,
        "variance": variance,
        "discrete_steps": arguments.discrete_steps,
    }
    return with_settings(RECIPE.model, values), with_settings(
        RECIPE.training, {"loss": LOSSES[loss]}
    )


def train(arguments: argparse.Namespace, name: str, data: "Dataset") -> None:
    """Trains, and writes a run and a row with its cost."""
    from ddim_keras.runs.weights import save_weights

    config, recipe = recipe_of(name, arguments)
    clock, folder = computing_clock(), arguments.output
    images = np.asarray(data.train_images)
    loss = name.split()[0]
    known = [row for row in read(folder, "trainings") if row["training"].split()[0] == loss]
    if known:
        steps = int(known[0]["steps"])
    else:
        probe = DiffusionTraining(config, recipe, images, 1000)
        steps = steps_within(arguments.seconds, probe, clock, FEWEST_STEPS)
    training = DiffusionTraining(config, recipe, images, steps)
    seconds = train_whole(training, steps, clock)
    run = run_of(folder, name)
    run.save_config(
        RunConfig(
            preset=f"likelihood, {name}",
            model=training.config,
            training=training.recipe,
            dataset=arguments.dataset,
            data_dir=arguments.data_dir,
            epochs=1,
            num_images=len(images),
        )
    )
    save_weights(training.model, run.last_weights)
    averages = training.model.ema_network.get_weights()
    row = {
        "training": name,
        "steps": steps,
        "images": steps * recipe.batch_size,
        "seconds": round(seconds, 1),
        "parameters": training.model.network.count_params(),
        "is_finite": int(all(np.isfinite(weight).all() for weight in averages)),
    }
    add_rows(folder, "trainings", [row])


def train_whole(training: Any, steps: int, clock: Callable[[], float]) -> float:
    """Trains all steps; returns the computing time without that of compiling."""
    training.train(0, WARM_UP)
    start = clock()
    for number in range(BETWEEN_REPORTS):
        first, last = (
            WARM_UP + (steps - WARM_UP) * each // BETWEEN_REPORTS for each in (number, number + 1)
        )
        training.train(first, last - first)
        print(f"  step {last} of {steps}, {clock() - start:.0f} CPU s", flush=True)
    return (clock() - start) * steps / (steps - WARM_UP)


def trained_model(folder: Path, name: str) -> Any:
    """The trained model in full precision, needed for small errors of the noise."""
    import keras

    keras.config.set_dtype_policy("float32")
    return load_model(run_of(folder, name).last_weights)


def measure_bound(arguments: argparse.Namespace, name: str, data: "Dataset") -> None:
    """All terms of the bound of the same images, with all variances that the model has."""
    from ddim_keras.data.batches import random_images
    from ddim_keras.likelihood import bound_terms
    from ddim_keras.progress import progress_bar

    model = trained_model(arguments.output, name)
    images = random_images(data.validation_images, arguments.num_images)
    batch_size = min(len(images), 64)
    bar = progress_bar(arguments.discrete_steps * -(-len(images) // batch_size), "step")
    terms = bound_terms(model, images, batch_size=batch_size, progress=lambda: bar.add(1))
    means = {judged: each.mean(axis=1) for judged, each in terms.items()}
    rows = [
        {"training": name, "term": f"L_{term}", **{key: mean[term] for key, mean in means.items()}}
        for term in range(arguments.discrete_steps + 1)
    ]
    if not any(row["training"] == name for row in read(arguments.output, "terms")):
        add_rows(arguments.output, "terms", rows)
    rows = [
        {
            "training": name,
            "judged": judged,
            "image": image,
            "bits": bits.sum(),
            "L_0": bits[0],
            "between": bits[1:-1].sum(),
            "L_T": bits[-1],
        }
        for judged, each in terms.items()
        for image, bits in enumerate(each.T)
    ]
    add_rows(arguments.output, "bits", rows)


def measure_flow(arguments: argparse.Namespace, name: str, data: "Dataset") -> None:
    """The bits of some of these images by the probability flow, numbered on their own."""
    from ddim_keras.data.batches import random_images
    from ddim_keras.likelihood import flow_bits

    model = trained_model(arguments.output, name)
    images = random_images(data.validation_images, arguments.flow_images)
    flow = flow_bits(model, images, batch_size=len(images))
    print(f"  {flow.network_calls} network calls with gradients", flush=True)
    rows = [
        {"training": name, "judged": FLOW, "image": image, "bits": bits}
        for image, bits in enumerate(flow.bits)
    ]
    add_rows(arguments.output, "bits", rows)


def measure_kid(arguments: argparse.Namespace, name: str, data: "Dataset") -> None:
    """The KID of images from a few steps of DDIM, which takes no variances."""
    from ddim_keras.metrics.encoders import choose_encoder
    from ddim_keras.metrics.kid import KernelInceptionDistance

    encoder = choose_encoder(arguments.kid_weights)
    kid = KernelInceptionDistance(encoder, data.validation_images)
    model = trained_model(arguments.output, name)
    images = model.generate(arguments.kid_images, DDIM_STEPS, seed=0)
    distance = kid.of_all_pairs(encoder.features(images))
    row = {
        "training": name,
        "kid": distance.value,
        "kid_standard_error": distance.standard_error,
        "protocol": f"{encoder.description}, {arguments.kid_images} images",
    }
    add_rows(arguments.output, "kid", [row])


def record_stability(arguments: argparse.Namespace, kind: str, data: "Dataset") -> None:
    """Trains on the bound with one of the two variances, until the end or an infinite value."""
    from benchmarks.quality.direct_variance import VarianceTraining

    config, recipe = recipe_of("bound cosine", arguments)
    images = np.asarray(data.train_images)
    known = [row for row in read(arguments.output, "stability") if row["step"] == 0]
    if known:
        steps = int(known[0]["steps"])
    else:
        probe = VarianceTraining(kind, config, recipe, images, 1000)
        steps = steps_within(arguments.direct_seconds, probe, computing_clock(), FEWEST_STEPS)
    training = VarianceTraining(kind, config, recipe, images, steps)
    rows = []
    for step, (bits, norm) in enumerate(training.recorded(0, steps)):
        values = {"bits_per_dim": bits, "gradient_norm": norm}
        rows.append({"variance": kind, "step": step, "steps": steps, **values})
        if not np.isfinite([bits, norm]).all():
            break
    add_rows(arguments.output, "stability", rows)


if __name__ == "__main__":
    run_command(main)
