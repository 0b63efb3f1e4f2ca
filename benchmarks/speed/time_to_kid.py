"""Time to quality: seconds of training until a KID of 0.25, for two presets and their peers.

    python -m benchmarks.speed.time_to_kid --output time_to_kid.csv --kid-weights FILE

`fast` and `lab` of this project, the loop of the Keras example, and the unconditional recipe of
diffusers with a network that costs about as much as that of `lab`, all on the same images. Each has
the batch size, flips, optimizer and precision of its own recipe, and a learning rate that stays
constant after the warm-up: `fast` without its cosine decay, which would have to know the end.

On a CPU, seconds are summed over all cores (two cores computing for a minute count as 120), so that
other processes have little influence; on a GPU they are wall-clock time. Only training counts,
without its first two steps, which compile; sampling and measuring do not. The KID of all pairs of
generated and validation images, from 20 steps of DDIM, is measured first after a minute, then at
times that grow by a factor of 1.4. The time of the threshold is interpolated in the logarithm of
time.

Each contender has a separate process, one after another. `--output` is written after each
measurement. A second start continues with the unfinished contenders; an interrupted one starts
again. The table, and the figure beside `--output`, are made from that file.
"""

import argparse
import dataclasses
import functools
import importlib.util
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.ablation import read_lines, write_lines
from benchmarks.speed.contenders import CONTENDERS, Settings
from benchmarks.speed.throughput import ContenderError, Process, hardware, markdown, note, steps_for
from ddim_keras.cli.options import (
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    at_least,
    finite,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError
from ddim_keras.presets import PRESETS

COMPILING_STEPS = 2
FIRST_SECONDS = 60.0  # of training, when the KID is measured first
FACTOR = 1.4  # from each of these times to the next
SAMPLING_STEPS = 20
# Columns of a line, beside the contender and the conditions.
MEASURED = (
    *("how", "batch_size", "parameters", "forward_flops", "images"),
    *("seconds", "kid", "kid_standard_error"),
)
# Contender and preset as in contenders.py (the peers have images of the size of `lab`), images of a
# step, and the Keras backend where it is not a choice; diffusers has its images shuffled with it.
RECIPES = {
    "fast": ("ddim_keras", "fast", PRESETS["fast"].training.batch_size, None),
    "lab": ("ddim_keras", "lab", PRESETS["lab"].training.batch_size, None),
    "keras_example": ("keras_example", "lab", 64, "tensorflow"),
    "diffusers": ("diffusers", "lab", 16, "torch"),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = f"contenders: {', '.join(RECIPES)} (default: all)"
    chosen = {"nargs": "+", "choices": RECIPES, "default": list(RECIPES)}
    add("--contenders", **chosen, metavar="NAME", help=names)
    add(
        "--threshold", type=finite, default=0.25, metavar="KID", help="KID to reach (default: 0.25)"
    )
    limit = "hours of training after which a contender stops (default: 3)"
    add("--limit", type=finite, default=3.0, metavar="HOURS", help=limit)
    count = "generated images per KID (default: 512)"
    add("--num-images", type=at_least(3), default=512, metavar="N", help=count)
    data = "data set as in train.py --dataset (default: oxford_flowers102)"
    add("--dataset", default="oxford_flowers102", metavar="DATA", help=data)
    output = "table with a line per measurement; the figure is beside it (default: time_to_kid.csv)"
    add("--output", type=Path, default=Path("time_to_kid.csv"), metavar="FILE", help=output)
    add_kid_weights_option(parser)
    add_data_options(parser, data_dir="~/tensorflow_datasets")
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    for name in arguments.contenders:
        package = CONTENDERS[RECIPES[name][0]]
        if package and not importlib.util.find_spec(package):
            raise InputError(f"{name} needs {package}; install it, or omit {name}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    backend = choose_backend(arguments.backend)
    # Waiting PyTorch threads would use a CPU, most of it on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # On a GPU, this measuring process leaves memory to the contenders.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import_keras()
    from benchmarks.speed.flops import forward_flops
    from ddim_keras.backends import describe_device
    from ddim_keras.data.cache import load_dataset
    from ddim_keras.metrics.encoders import choose_encoder
    from ddim_keras.metrics.kid import Distance, KernelInceptionDistance
    from ddim_keras.network import residual_unet
    from ddim_keras.plots.figures import save_figure
    from ddim_keras.progress import duration

    network = PRESETS["lab"].model.network
    dataset = load_dataset(
        arguments.dataset, network.image_size, arguments.data_dir, arguments.cache_dir
    )
    operations = forward_flops(residual_unet(network))
    encoder = choose_encoder(arguments.kid_weights)
    build_kid = functools.cache(lambda: KernelInceptionDistance(encoder, dataset.validation_images))
    machine = hardware()
    conditions = (
        f"{describe_device()}, {machine['processor']}, {machine['cores']} cores; {dataset.name}; "
        f"KID, {encoder.description}; {arguments.num_images} images in {SAMPLING_STEPS} steps"
    )

    def measure(images: np.ndarray) -> Distance:
        return build_kid().of_all_pairs(encoder.features(images))

    def lines_of(name: str) -> list[dict[str, Any]]:
        is_own = {"contender": name, "conditions": conditions}.items()
        return [line for line in read_lines(arguments.output) if is_own <= line.items()]

    waiting = [name for name in arguments.contenders if not is_finished(lines_of(name), arguments)]
    for number, name in enumerate(waiting, start=1):
        contender, preset, batch_size, own_backend = RECIPES[name]
        images = str(Path(dataset.train_images.filename).resolve())
        settings = Settings(
            *(contender, preset, "usual", batch_size, own_backend or backend, operations),
            images=images,
        )
        old = lines_of(name)
        others = [line for line in read_lines(arguments.output) if line not in old]
        lines: list[dict[str, Any]] = []
        process, begin = Process(name), time.perf_counter()
        try:
            for line in train_and_measure(process, settings, measure, arguments):
                lines.append({"contender": name, "conditions": conditions, **line})
                write_lines(arguments.output, [*others, *lines])
                left = arguments.limit * 3600 * (len(waiting) - number + 1) - line["seconds"]
                left = max(0, left) * (time.perf_counter() - begin) / line["seconds"]
                note(
                    f"{name}, {number} of {len(waiting)}: KID {line['kid']:.3f} after "
                    f"{line['seconds']:.0f} s; at most {duration(left)} left"
                )
                if is_finished(lines, arguments):
                    break
        except ContenderError as error:
            note(f"left out: {error}")
        finally:
            process.close()
    results = {name: lines for name in arguments.contenders if (lines := lines_of(name))}
    if not results:
        raise InputError("no contender came through")
    print(conditions, *table(results, arguments.threshold), sep="\n")
    drawn = figure(results, arguments.threshold, f"KID, {encoder.description}")
    save_figure(drawn, arguments.output.with_suffix(".png"))


def train_and_measure(
    process: Process,
    settings: Settings,
    measure: Callable[[np.ndarray], Any],
    arguments: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Trains a contender endlessly, and yields a line for each measurement."""
    what = process.ask("build", **dataclasses.asdict(settings))
    process.ask("train", steps=COMPILING_STEPS)

    def train(steps: int) -> float:
        start = process.ask("cpu_seconds")
        clock = process.ask("train", steps=steps)
        return process.ask("cpu_seconds") - start if what["device"] == "CPU" else clock

    steps, seconds, target = 1, train(1), FIRST_SECONDS
    while True:
        goal = min(target, 3600 * arguments.limit)
        while seconds < goal:
            count = steps_for(goal - seconds, seconds / steps)
            seconds += train(count)
            steps += count
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "images.npy")
            asked = {"num_images": arguments.num_images, "steps": SAMPLING_STEPS}
            process.ask("draw", path=str(path), **asked)
            distance = measure(np.load(path, allow_pickle=False))
        values = f"{what['how']}, {what['device']}", settings.batch_size, what["parameters"]
        values += what["forward_flops"], steps * settings.batch_size, seconds
        values += round(distance.value, 5), round(distance.standard_error, 5)
        yield dict(zip(MEASURED, values, strict=True))
        target = FACTOR * seconds


def is_finished(lines: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> bool:
    """Whether a contender has reached the threshold or its limit."""
    limit = 3600 * arguments.limit
    return any(seconds >= limit or kid <= arguments.threshold for seconds, kid in points(lines))


def points(lines: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """Seconds and KID of each measurement."""
    return [(float(line["seconds"]), float(line["kid"])) for line in lines]


def crossing(measured: Sequence[tuple[float, float]], threshold: float) -> float | None:
    """When the KID falls to the threshold, interpolated in the logarithm of time; else None."""
    for (before, high), (after, low) in itertools.pairwise(measured):
        if low <= threshold < high:
            return before * (after / before) ** ((high - threshold) / (high - low))
    return None


def time_shown(measured: Sequence[tuple[float, float]], threshold: float) -> str:
    """The time of the threshold as text: "25 min", "> 3 h", "< 60 s"."""
    from ddim_keras.progress import duration

    (first, first_kid), *_, (last, _) = [*measured, measured[-1]]
    if first_kid <= threshold:
        sign, seconds = "< ", first
    elif found := crossing(measured, threshold):
        sign, seconds = "", found
    else:
        sign, seconds = "> ", last
    return sign + duration(seconds).removesuffix(" 00 min")


def table(results: dict[str, Sequence[dict[str, Any]]], threshold: float) -> list[str]:
    """Lines of a Markdown table with a row for each contender."""
    header = ["", "batch", "million parameters", "GFLOP per image", "images per second"]
    rows = [[*header, f"time to KID {threshold:g}", "last KID"]]
    for name, lines in results.items():
        how, batch_size, *numbers = (lines[-1][key] for key in MEASURED)
        parameters, operations, images, seconds, kid, error = map(float, numbers)
        row = [f"{name}: {how}", str(batch_size), f"{parameters / 1e6:.2f}"]
        row += [f"{operations / 1e9:.2f}", f"{images / seconds:.1f}"]
        rows.append([*row, time_shown(points(lines), threshold), f"{kid:.3f} ± {error:.3f}"])
    return markdown(rows)


def figure(results: dict[str, Sequence[dict[str, Any]]], threshold: float, protocol: str) -> Any:
    """KID over seconds of training, a line for each contender; `protocol` names the KID."""
    from matplotlib.figure import Figure

    from ddim_keras.plots.figures import PIXELS_PER_INCH

    drawn = Figure(figsize=(7, 4.5), dpi=PIXELS_PER_INCH, layout="constrained")
    axes = drawn.add_subplot()
    for name, lines in results.items():
        axes.loglog(*zip(*points(lines), strict=True), marker="o", label=name)
    axes.axhline(threshold, linestyle="--", color="grey", label=f"KID {threshold:g}")
    axes.set(xlabel="seconds of training (CPU: of all cores together)", ylabel=protocol)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return drawn


if __name__ == "__main__":
    run_command(main)
