"""Options of evaluate.py."""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ddim_keras.cli.options import (
    MOST_IMAGES,
    MOST_IN_FIGURE,
    MOST_STEPS,
    Parser,
    add_backend_option,
    add_data_options,
    add_guidance_options,
    add_kid_weights_option,
    add_run_option,
    add_sampler_options,
    add_sampling_options,
    add_verify_option,
    at_least,
)
from ddim_keras.config import GUIDANCE, METRICS, InputError, ModelConfig
from ddim_keras.runs.configuration import RunConfig

DEFAULT_STEPS = [5, 10, 20]
# Options that are refused if they have no effect; None means "not given".
DEFAULTS = {
    "search_by": "trajectory",
    "samplers": ["ddim"],
    "spacing": [None],
    "last_signal_rate": [None],
    "metrics": ["kid"],
    "likelihood_images": 64,
    "split": "validation",
}
COMPARABLE = ("kid", "bits_per_dim")  # metrics of --compare
# What the two sides of --compare can differ in, and the option of each.
SIDE_OPTIONS = {
    "run": "--run",
    "sampler": "--samplers",
    "spacing": "--spacing",
    "last-signal-rate": "--last-signal-rate",
    "eta": "--eta",
    "variance": "--variance",
    "steps": "--steps",
    "clip": "--clip",
    "guidance": "--guidance",
    "guidance-interval": "--guidance-interval",
    "guide": "--guide",
}

EXAMPLES = """examples:
  python evaluate.py                                     the newest run, DDIM
  python evaluate.py --samplers ddim ipndm dpm_solver --steps 5 10 20
  python evaluate.py --split train --spacing time rho --last-signal-rate 0.95 0.98
                                                         to choose the step placement
  python evaluate.py --assess --num-images 1638          a full report on one setting
  python evaluate.py --metrics bits_per_dim              likelihood, by the bound and the flow
  python evaluate.py --search-steps 5 10 20              searches the best placement, and
  python evaluate.py --spacing time searched             measures its benefit
  python evaluate.py --search-steps 5 --search-by kid --samplers ipndm --spacing rho
                                                         longer, for one sampler
  python evaluate.py --compare runs/a runs/b --steps 20  which is better, and how certain is it?
  python evaluate.py --compare runs/a runs/b --metrics bits_per_dim
  python evaluate.py --compare sampler=ddim sampler=ipndm,spacing=rho --steps 5 10
  python evaluate.py --compare clip=no guidance=2,guidance-interval=0.5:0.98 --steps 20
"""


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of evaluate.py."""

    run: str | None
    check_hashes: bool
    compare: "list[Side]"  # two, or none
    assess: bool
    search_steps: list[int] | None
    search_by: str
    samplers: list[str]
    spacing: list[str | None]
    last_signal_rate: list[float | None]
    eta: float
    variance: str
    clip: bool
    steps: list[int] | None  # None: the defaults of the model
    guidance: float | None
    guidance_interval: list[float] | None
    guide: Path | None
    metrics: list[str]
    num_images: int
    likelihood_images: int
    split: str
    seed: int
    batch_size: int
    precision: str
    kid_weights: str | None
    data_dir: str | None
    cache_dir: str | None
    output: Path | None
    backend: str | None

    def for_model(self, config: RunConfig) -> "EvaluateOptions":
        """These options, with the numbers of steps of a model if none were given.

        Raises:
            InputError: for steps and options that a student lacks.
        """
        usual = [*config.model.student_steps] or (
            DEFAULT_STEPS[-1:] if self.assess else DEFAULT_STEPS
        )
        steps = self.steps or usual
        config.refuse_for_student(
            steps,
            search_steps=self.search_steps,
            samplers=self.samplers != ["ddim"],
            spacing=any(self.spacing),
            last_signal_rate=any(self.last_signal_rate),
            eta=self.eta,
            clip=self.clip,
            guidance=self.guidance,
            guide=self.guide,
            metrics="bits_per_dim" in self.metrics,
        )
        return dataclasses.replace(self, steps=steps)

    def strength(self, config: ModelConfig) -> float:
        """The strength of guidance; by default GUIDANCE with classes, or with a guide."""
        if self.guidance is not None:
            return self.guidance
        return GUIDANCE if self.guide else config.default_guidance

    def with_sides(self, sides: "Sequence[EvaluateOptions]") -> "EvaluateOptions":
        """These options, with others of the sides of --compare or, without it, the only ones."""
        if not self.compare:
            return sides[0]
        compare = [
            dataclasses.replace(side, options=options)
            for side, options in zip(self.compare, sides, strict=True)
        ]
        return dataclasses.replace(self, compare=compare)


@dataclass(frozen=True)
class Side:
    """One of the two settings that --compare names."""

    name: str  # as it was typed
    options: EvaluateOptions


def side(text: str) -> tuple[str, list[str]]:
    """An argparse type: a side of --compare, such as "runs/a,steps=5", and the options it means."""
    arguments = []
    for part in text.split(","):
        name, has_value, value = part.partition("=")
        if not has_value:
            name, value = "run", part
        if name not in SIDE_OPTIONS:
            raise argparse.ArgumentTypeError(
                f"the two sides cannot differ in {name!r}; choose from: {', '.join(SIDE_OPTIONS)}"
            )
        option = SIDE_OPTIONS[name]
        if name == "clip":
            if value not in ("yes", "no"):
                raise argparse.ArgumentTypeError(f"clip must be yes or no, not {value!r}")
            arguments.append(option if value == "yes" else f"--no-{name}")
        elif name == "guidance-interval":
            arguments += [option, *value.split(":")]
        else:
            arguments.append(f"{option}={value}")
    return text, arguments


def parse_arguments(arguments: Sequence[str] | None = None) -> EvaluateOptions:
    """Parses the command line; exits on errors and --help.

    Raises:
        InputError: for options that have no effect with the others.
    """
    parser = Parser(
        prog="evaluate.py",
        description="Measures how far generated images are from real ones, for samplers and "
        "numbers of steps.\n\nEarlier results for the same weights are kept. With --search-steps, "
        "optimises step placement instead. With --compare, tells which of two settings is better.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add_run_option(parser)
    add_verify_option(parser)
    task = parser.add_mutually_exclusive_group()
    task.add_argument(
        "--compare",
        nargs=2,
        type=side,
        default=[],
        metavar=("A", "B"),
        help="difference in KID between two settings, with the same noises and real images, and "
        "its 95 %% interval; with --metrics bits_per_dim, difference in bits for the same images "
        "under two runs. Each is a run, a weights file, or a list such as sampler=ipndm,steps=5, "
        f"with any of {', '.join(SIDE_OPTIONS)}; other options apply to both",
    )
    task.add_argument(
        "--search-steps",
        nargs="+",
        type=at_least(1, MOST_IN_FIGURE),
        metavar="N",
        help="search for the best placement of N steps instead of measuring, and store them in the "
        "run folder for --spacing searched",
    )
    task.add_argument(
        "--assess",
        action="store_true",
        help="measure one setting in detail: KID with its interval, precision and recall, "
        "copies of training images, colours, contrast and detail, and how often each class is "
        "recognised, compared with photographs; writes assessment.md",
    )
    add(
        "--search-by",
        choices=("trajectory", "kid"),
        help="trajectory: path whose steps deviate least from a fine solution (a minute, without "
        "real images); kid: coordinate search that minimises training-set KID, starting from the "
        "first spacing, for the first sampler (default: trajectory)",
    )
    add_sampler_options(parser, several=True)
    add(
        "--steps",
        nargs="+",
        type=at_least(1, MOST_STEPS),
        metavar="N",
        help=f"numbers of sampling steps (default: {' '.join(map(str, DEFAULT_STEPS))}; "
        f"{DEFAULT_STEPS[-1]} with --assess; for a student, those it has learnt)",
    )
    add_guidance_options(
        parser, default=f"{GUIDANCE:g} for class-conditional runs and with --guide, otherwise 0"
    )
    add(
        "--metrics",
        nargs="+",
        choices=METRICS,
        help="metrics; frechet and precision_recall depend on --num-images, bits_per_dim needs no "
        "generated images (default: kid)",
    )
    add(
        "--likelihood-images",
        type=at_least(2, MOST_IMAGES),
        metavar="N",
        help="real images for bits_per_dim; each needs as many network calls as the model has "
        "discrete steps, by default 1000 (default: 64)",
    )
    add(
        "--num-images",
        type=at_least(128, MOST_IMAGES),
        metavar="N",
        default=1024,
        help="images to generate for each measurement (default: 1024)",
    )
    add(
        "--split",
        choices=("validation", "train"),
        help="real images to compare with; choose settings on train, and report validation "
        "(default: validation)",
    )
    add_sampling_options(parser)
    add_kid_weights_option(parser)
    add_data_options(parser, data_dir="the run's")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of evaluation.csv and evaluation.png, or of the searched steps (default: the "
        "run folder; for included models the current folder)",
    )
    add_backend_option(parser)
    words = list(sys.argv[1:] if arguments is None else arguments)

    def options_of(words: list[str], sides: Sequence[Side] = ()) -> EvaluateOptions:
        parsed = vars(parser.parse_args(words)) | {"compare": list(sides)}
        refuse_unused(parsed)
        for name, default in DEFAULTS.items():
            if parsed[name] is None:
                parsed[name] = default
        return EvaluateOptions(
            **{field.name: parsed[field.name] for field in fields(EvaluateOptions)}
        )

    # A side consists of options of this command, checked and documented like all others.
    sides = parser.parse_args(words).compare
    options = options_of(words, [Side(name, options_of([*words, *own])) for name, own in sides])
    if problem := why_not_comparable(options):
        parser.error(problem)
    return options


def refuse_unused(parsed: Mapping[str, Any]) -> None:
    """Raises InputError for options that the chosen task does not use."""

    def refuse(message: str, *names: str) -> None:
        for name in names:
            if parsed[name] is not None:
                flag = f"--{name.replace('_', '-')}"
                raise InputError(f"{message.format(flag)}; omit it")

    if not parsed["search_steps"]:
        refuse("only --search-steps uses {}", "search_by")
    elif parsed["search_by"] != "kid":
        of_kid = ("samplers", "spacing", "last_signal_rate")
        refuse("--search-steps uses {} only with --search-by kid", *of_kid)
    if "bits_per_dim" not in (parsed["metrics"] or []):
        refuse("only --metrics bits_per_dim uses {}", "likelihood_images")
    if parsed["search_steps"]:
        refuse("--search-steps has its own numbers of steps, and does not use {}", "steps")
    for task in ("assess", "search_steps"):
        if parsed[task]:
            refuse(f"--{task.replace('_', '-')} does not use {{}}", "metrics", "split")


def why_not_comparable(options: EvaluateOptions) -> str | None:
    """The reason why the metrics cannot compare the two sides; None if they can."""
    if not options.compare:
        return None
    for name in options.metrics:
        if name not in COMPARABLE:
            return f"--compare takes the metrics {' and '.join(COMPARABLE)}, not {name}"
    first, second = (dataclasses.replace(side.options, run=None) for side in options.compare)
    if "bits_per_dim" in options.metrics and first != second:
        return (
            "bits per dimension depend on the weights alone; with --metrics bits_per_dim, the two "
            "sides of --compare may differ only in their run"
        )
    return None
