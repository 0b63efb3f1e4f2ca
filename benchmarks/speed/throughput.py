"""Speed and memory of a preset compared with its peers, in one run, as a table and as JSON.

    python -m benchmarks.speed.throughput --preset lab --output speed.json

Training images/s and images/s sampled with 20 steps, from noise to pixels; operations per second
as a share of the machine's measured matrix-product speed; start-up time and peak memory. The peers
are the loop of the Keras example (TensorFlow), diffusers and denoising-diffusion-pytorch (PyPI),
whose networks are chosen to cost about as many operations as the preset's; contenders.py says how
each is set up. Each contender has a separate process, only one computes at a time, and they take
turns in each round, so that a drift in the machine's speed has little influence. Ratios are those
of medians. Batches are ready in memory; reading and decoding files is not measured.
"""

import argparse
import contextlib
import dataclasses
import datetime
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.contenders import CONTENDERS, Settings
from ddim_keras.atomic import written_whole
from ddim_keras.cli.options import at_least
from ddim_keras.cli.startup import BACKENDS, choose_backend, run_command
from ddim_keras.config import InputError
from ddim_keras.presets import PRESETS

PROJECT = Path(__file__).parents[2]
TRAINING_TO_FORWARD = 3  # operations: a backward pass costs about two forward passes
PROVIDED_WEIGHTS = PROJECT / "ddim_keras/pretrained/flowers/best.weights.h5"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="lab", help="preset of ddim_keras (default: lab)")
    add(
        "--precision",
        choices=("usual", "float32", "mixed_bfloat16"),
        default="usual",
        help="precision of all contenders, in PyTorch by autocast; usual: the default of each "
        "(default: usual)",
    )
    add(
        "--batch-size",
        type=at_least(1),
        metavar="N",
        help="images per training step (default: the preset's)",
    )
    add(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        metavar="NAME",
        help="backends of ddim_keras, one contender each; peers are compared with the first "
        "(default: KERAS_BACKEND, else the first one installed)",
    )
    peers = [name for name in CONTENDERS if name != "ddim_keras"]
    add(
        "--contenders",
        nargs="*",
        choices=peers,
        default=peers,
        metavar="NAME",
        help=f"peers: {', '.join(peers)} (default: all that are installed)",
    )
    add(
        "--peer-settings",
        choices=("tuned", "eager"),
        default="tuned",
        help="tuned: first try both memory formats, with and without torch.compile, for each "
        "PyTorch peer, and keep what trains fastest here, which takes minutes; eager: neither "
        "(default: tuned)",
    )
    add(
        "--rounds",
        type=at_least(1),
        default=5,
        metavar="N",
        help="rounds in which contenders take turns (default: 5)",
    )
    add(
        "--seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds of training per contender and round (default: 10)",
    )
    add("--steps", type=at_least(1), default=20, metavar="N", help="sampling steps (default: 20)")
    add(
        "--num-images",
        type=at_least(1),
        default=16,
        metavar="N",
        help="images sampled together (default: 16)",
    )
    add(
        "--matrix-size",
        type=at_least(1),
        default=2048,
        metavar="N",
        help="rows of the square matrices; 8192 suits a GPU (default: 2048)",
    )
    add(
        "--start-ups",
        type=at_least(0),
        default=3,
        metavar="N",
        help="number of timed starts of generate.py (default: 3)",
    )
    add("--output", type=Path, metavar="FILE", help="JSON file for all measurements")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    # Now, before the work, in case it fails.
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    backends = [choose_backend(name) for name in arguments.backends or [None]]
    recipe = PRESETS[arguments.preset].training
    report: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m benchmarks.speed.throughput", *sys.argv[1:]]),
        "hardware": hardware(),
        "load_average_before": os.getloadavg()[0],
    }
    ours = Settings(
        contender="ddim_keras",
        preset=arguments.preset,
        precision=arguments.precision,
        batch_size=arguments.batch_size or recipe.batch_size,
    )
    if arguments.start_ups:
        report["generate.py"] = time_generate(backends[0], arguments.start_ups)
    with contextlib.ExitStack() as stack:
        processes = start_all(ours, backends, arguments, stack)
        results = measure(processes, arguments)
    report["contenders"] = {name: summary(result) for name, result in results.items()}
    report["ratios"] = ratios(report["contenders"])
    report["load_average_after"] = os.getloadavg()[0]
    print(as_text(report, arguments))
    if arguments.output:
        with written_whole(arguments.output) as part:
            part.write_text(json.dumps(report, indent=1) + "\n")


# The processes of the contenders.


class ContenderError(RuntimeError):
    """A contender that cannot take part, or no longer can; the message is one line."""


class Process:
    """A contender's process, of worker.py; answers one command at a time.

    Args:
        name: readable name of the contender.
        command: command to run instead of worker.py.
    """

    def __init__(self, name: str, command: Sequence[str] | None = None) -> None:
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        self.start = time.perf_counter()
        self.process = subprocess.Popen(
            command or [sys.executable, "-m", "benchmarks.speed.worker"],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, command: str, **arguments: Any) -> Any:
        """Returns the answer to a command of worker.py; raises ContenderError if none comes."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps([command, arguments]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise ContenderError(f"{self.name} failed to {command}: {self.last_words()}")
        return json.loads(answer)

    def last_words(self) -> str:
        """The last line that the process wrote before it ended."""
        status = self.process.wait()
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        return (
            lines[-1].removeprefix("error: ")
            if lines
            else f"it ended with status {status}, without a word"
        )

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()  # it ends at the end of its input
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()


@dataclasses.dataclass
class Result:
    """The measurements of a contender; lists have an entry for each round."""

    what: dict[str, Any]  # as Worker.build returns it
    first: dict[str, float]  # seconds: until it is ready; of the first training, the first sampling
    train: list[float] = dataclasses.field(default_factory=list)  # images/s
    sample: list[float] = dataclasses.field(default_factory=list)  # images/s
    peak: list[dict[str, float]] = dataclasses.field(default_factory=list)  # operations/s
    idle: list[float] = dataclasses.field(default_factory=list)  # cores busy while others compute
    memory: dict[str, int] = dataclasses.field(default_factory=dict)  # bytes


def start_all(
    ours: Settings, backends: Sequence[str], arguments: argparse.Namespace, stack: Any
) -> list[tuple[Process, Result]]:
    """Starts the contenders one after another, ours first, each with its first steps.

    The first steps compile and do not count for the speed. A peer that is not installed, or that
    fails, is omitted with a message.
    """
    started = []
    for backend in backends:
        name = f"ddim_keras, {backend}"
        settings = dataclasses.replace(ours, backend=backend)
        try:
            started.append(start(name, settings, arguments, stack))
        except ContenderError as error:
            raise InputError(str(error)) from error
    flops = started[0][1].what["forward_flops"]
    for name in arguments.contenders:
        settings = dataclasses.replace(ours, contender=name, forward_flops=flops)
        if name == "keras_example":
            settings = dataclasses.replace(settings, backend="tensorflow")
        package = CONTENDERS[name]
        if not importlib.util.find_spec(package.replace("-", "_")):
            note(f"left out {name}: not installed; pip install {package}")
            continue
        try:
            if arguments.peer_settings == "tuned" and name != "keras_example":
                settings = tuned(name, settings, arguments)
            started.append(start(name, settings, arguments, stack))
        except ContenderError as error:
            note(f"left out: {error}")
    return started


def start(
    name: str, settings: Settings, arguments: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[Process, Result]:
    """Starts a contender and lets it compile: one training step and one sampling."""
    process = Process(name)
    stack.callback(process.close)
    what = process.ask("build", **dataclasses.asdict(settings))
    first = {"ready": time.perf_counter() - process.start}
    first["train"] = process.ask("train", steps=1)
    first["sample"] = process.ask("sample", num_images=arguments.num_images, steps=arguments.steps)
    note(f"{name}: " + ", ".join(f"{key} {value:.1f} s" for key, value in first.items()))
    return process, Result(what, first)


def tuned(name: str, settings: Settings, arguments: argparse.Namespace) -> Settings:
    """The memory format and compilation with which a PyTorch peer trains fastest here."""
    speeds = {}
    for channels_last in (False, True):
        for compiled in (False, True):
            variant = dataclasses.replace(settings, channels_last=channels_last, compile=compiled)
            process = Process(name)
            try:
                how = process.ask("build", **dataclasses.asdict(variant))["how"]
                process.ask("train", steps=1)
                steps = steps_for(arguments.seconds, process.ask("train", steps=1))
                speeds[variant] = steps * settings.batch_size / process.ask("train", steps=steps)
                note(f"tuning {name}: {how}: {speeds[variant]:.1f} img/s")
            except ContenderError as error:
                note(f"tuning {error}")
            finally:
                process.close()
    if not speeds:
        raise ContenderError(f"{name} trains in no way that was tried")
    return max(speeds, key=speeds.get)


def measure(
    contenders: Sequence[tuple[Any, Result]], arguments: argparse.Namespace
) -> dict[str, Result]:
    """Lets the contenders take turns; returns the results of those without errors, by name."""
    steps = {}
    contenders = list(contenders)
    resting: dict[str, tuple[float, float]] = {}  # CPU time and clock of each, when last asked
    begin = time.perf_counter()
    # The first round is a trial: it finds the number of steps, and is not counted.
    for done in range(arguments.rounds + 1):
        for entry in list(contenders):
            process, result = entry
            name, batch_size = process.name, result.what["settings"]["batch_size"]
            try:
                if name in resting:
                    cpu, clock = resting[name]
                    idle = process.ask("cpu_seconds") - cpu
                    result.idle.append(idle / (time.perf_counter() - clock))
                count = steps.get(name, 1)
                train = process.ask("train", steps=count)
                sample = process.ask(
                    "sample", num_images=arguments.num_images, steps=arguments.steps
                )
                result.memory = process.ask("memory")
                peak = process.ask("peak", size=arguments.matrix_size, target=0.5)
                resting[name] = process.ask("cpu_seconds"), time.perf_counter()
            except ContenderError as error:
                note(f"left out: {error}")
                contenders.remove(entry)
                continue
            if done == 0:
                steps[name] = steps_for(arguments.seconds, train)
                continue
            result.train.append(count * batch_size / train)
            result.sample.append(arguments.num_images / sample)
            result.peak.append(peak)
            note(
                f"round {done} of {arguments.rounds}, {name}: training {result.train[-1]:.1f} "
                f"img/s, sampling {result.sample[-1]:.2f} img/s"
            )
        if 0 < done < arguments.rounds:
            left = (time.perf_counter() - begin) / done * (arguments.rounds - done)
            note(f"about {left / 60:.1f} min left")
        elif done == 0:
            begin = time.perf_counter()
    if not contenders:
        raise InputError("no contender came through")
    return {process.name: result for process, result in contenders}


def steps_for(target: float, seconds: float) -> int:
    """How many steps of `seconds` each take about `target` seconds, at least one."""
    return max(1, round(target / seconds))


# From measurements to tables.


def summary(result: Result) -> dict[str, Any]:
    """All measurements of a contender, with medians over the rounds."""
    flops = result.what["forward_flops"]
    train, sample = statistics.median(result.train), statistics.median(result.sample)
    return {
        **dataclasses.asdict(result),
        "median": {
            "train": train,
            "sample": sample,
            "train_flops": train * TRAINING_TO_FORWARD * flops,
            "peak": {
                dtype: statistics.median(peak[dtype] for peak in result.peak)
                for dtype in result.peak[0]
            },
        },
    }


def ratios(contenders: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How many times as fast the first contender is as each other one.

    `train` and `sample` compare images/s; `train_flops` and `sample_flops` compare operations per
    second: the ratio of images/s if both networks cost the same.
    """
    (_, first), *others = contenders.items()
    table = {}
    for name, other in others:
        ratio = {
            kind: first["median"][kind] / other["median"][kind] for kind in ("train", "sample")
        }
        compute = first["what"]["forward_flops"] / other["what"]["forward_flops"]
        table[name] = {
            **ratio,
            "train_flops": ratio["train"] * compute,
            "sample_flops": ratio["sample"] * compute,
        }
    return table


def as_text(report: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The report as two Markdown tables, with explanations."""
    contenders = report["contenders"]
    first = next(iter(contenders.values()))
    settings = first["what"]["settings"]
    peaks = {
        name: max(each["median"]["peak"][name] for each in contenders.values())
        for name in ("float32", "bfloat16")
    }
    rows = [
        [
            *(
                "",
                "layers in",
                "million parameters",
                "GFLOP per image",
                "training img/s",
                "GFLOP/s",
            ),
            *("share of peak", f"img/s at {arguments.steps} steps", "ready, s"),
            *("first step, s", "peak memory, GiB"),
        ]
    ]
    for name, each in contenders.items():
        median, what = each["median"], each["what"]
        dtype = what["settings"]["precision"].removeprefix("mixed_")
        memory = f"{each['memory']['process'] / 2**30:.2f}"
        if each["memory"]["device"]:
            memory += f" + GPU {each['memory']['device'] / 2**30:.2f}"
        rows.append(
            [
                name,
                dtype,
                f"{what['parameters'] / 1e6:.2f}",
                f"{what['forward_flops'] / 1e9:.2f}",
                f"{median['train']:.1f}",
                f"{median['train_flops'] / 1e9:.0f}",
                f"{100 * median['train_flops'] / peaks[dtype]:.0f} %",
                f"{median['sample']:.2f}",
                f"{each['first']['ready']:.1f}",
                f"{each['first']['train']:.1f}",
                memory,
            ]
        )
    machine = report["hardware"]
    device = first["what"]["device"]
    where = machine["processor"] if device == "CPU" else f"{device} with {machine['processor']}"
    lines = [
        f"{where}, {machine['cores']} cores, {report['date'][:10]}; preset {settings['preset']}, "
        f"batch {settings['batch_size']}, {arguments.num_images} images "
        f"sampled together; medians of {arguments.rounds} rounds; load average before "
        f"{report['load_average_before']:.1f}",
        *markdown(rows),
        f"GFLOP per image: a forward pass; training counts {TRAINING_TO_FORWARD}. Peak: products "
        f"of {arguments.matrix_size} x {arguments.matrix_size} matrices, "
        + ", ".join(f"{name} {speed / 1e9:.0f} GFLOP/s" for name, speed in peaks.items())
        + ", the best of the frameworks here.",
    ]
    if report["ratios"]:
        first_name = next(iter(contenders))
        kinds = ("train", "sample", "train_flops", "sample_flops")
        rows = [[first_name, "training", "sampling", "training, per FLOP", "sampling, per FLOP"]]
        for name, ratio in report["ratios"].items():
            rows.append([f"/ {name}", *(f"{ratio[kind]:.2f}" for kind in kinds)])
        lines += ["", *markdown(rows)]
    if "generate.py" in report:
        start_up = report["generate.py"]
        lines += ["", f"generate.py, one image of 20 steps: {start_up['image']:.1f} s; --help: "]
        lines[-1] += f"{start_up['help']:.2f} s"
    busiest = max(each["idle"][-1] if each["idle"] else 0.0 for each in contenders.values())
    if busiest > 0.05:
        lines.append(f"Caution: a contender kept {busiest:.2f} cores busy while others were timed.")
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, aligned; the first row is its head, the first column text."""
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return (
            "| " + " | ".join([first[0].ljust(first[1]), *(c.rjust(w) for c, w in others)]) + " |"
        )

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(rows[0]), line(rule), *map(line, rows[1:])]


def hardware() -> dict[str, Any]:
    """A description of the machine."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor,
        "cores": cores,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def time_generate(backend: str, times: int) -> dict[str, Any]:
    """Median seconds of generate.py as a process: of --help, and until one image is written."""
    with tempfile.TemporaryDirectory() as folder:
        image = ["--weights", str(PROVIDED_WEIGHTS), "--steps", "20", "--num-images", "1"]
        image += ["--backend", backend, "--output", str(Path(folder) / "image.png")]
        all_seconds = {
            kind: [seconds_of_command(options) for _ in range(times)]
            for kind, options in (("help", ["--help"]), ("image", image))
        }
    medians = {kind: statistics.median(values) for kind, values in all_seconds.items()}
    note(f"generate.py: --help {medians['help']:.2f} s, one image {medians['image']:.1f} s")
    return {**medians, "seconds": all_seconds}


def seconds_of_command(options: Sequence[str]) -> float:
    start = time.perf_counter()
    command = [sys.executable, str(PROJECT / "generate.py"), *options]
    ending = subprocess.run(command, capture_output=True, text=True, check=False)
    if ending.returncode:
        raise InputError(
            f"generate.py failed: {(ending.stderr.strip() or 'no word').splitlines()[-1]}"
        )
    return time.perf_counter() - start


def note(line: str) -> None:
    """Prints progress to stderr, apart from the table."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_command(main)
