"""Options of evaluate.py."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ddim_keras.cli.options import (
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
from ddim_keras.config import GUIDANCE, METRICS

EXAMPLES = """examples:
  python evaluate.py                                     the newest run, DDIM
  python evaluate.py --samplers ddim ipndm dpm_solver --steps 5 10 20
  python evaluate.py --split train --spacing time rho --last-signal-rate 0.95 0.98
                                                         to choose where the steps lie
  python evaluate.py --search-steps 5 10 20              searches it, and
  python evaluate.py --spacing time searched             shows what that gains
  python evaluate.py --search-steps 5 --search-by kid --samplers ipndm --spacing rho
                                                         longer, for one sampler
"""


@dataclass(frozen=True)
class EvaluateOptions:
    """What the command line of evaluate.py asks for."""

    run: str | None
    check_hashes: bool
    search_steps: list[int] | None
    search_by: str
    samplers: list[str]
    spacing: list[str | None]
    last_signal_rate: list[float | None]
    eta: float
    steps: list[int]
    guidance: float | None
    guidance_interval: list[float] | None
    guide: Path | None
    metrics: list[str]
    num_images: int
    split: str
    seed: int
    batch_size: int
    precision: str
    kid_weights: str | None
    data_dir: str | None
    cache_dir: str | None
    output: Path | None
    backend: str | None


def parse_arguments(arguments: Sequence[str] | None = None) -> EvaluateOptions:
    """Parses the command line; ends the process if it is wrong, or asks for help."""
    parser = Parser(
        prog="evaluate.py",
        description="Measures how far generated images are from real ones, for samplers and "
        "numbers of steps.\n\nEarlier results for the same weights are kept. With --search-steps, "
        "optimises step placement instead.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add_run_option(parser)
    add_verify_option(parser)
    add(
        "--search-steps",
        nargs="+",
        type=at_least(1),
        metavar="N",
        help="search the best places of N steps instead of measuring, and store them in the run "
        "folder for --spacing searched",
    )
    add(
        "--search-by",
        choices=("trajectory", "kid"),
        default="trajectory",
        help="trajectory: path whose steps deviate least from a fine solution (a minute, without "
        "real images); kid: coordinate search that minimises training-set KID, starting from the "
        "first spacing, for the first sampler (default: trajectory)",
    )
    add_sampler_options(parser, several=True)
    add(
        "--steps",
        nargs="+",
        type=at_least(1),
        metavar="N",
        default=[5, 10, 20],
        help="numbers of sampling steps (default: 5 10 20)",
    )
    add_guidance_options(
        parser, default=f"{GUIDANCE:g} for class-conditional runs and with --guide, otherwise 0"
    )
    add(
        "--metrics",
        nargs="+",
        choices=METRICS,
        default=["kid"],
        help="metrics; frechet and precision_recall depend on --num-images (default: kid)",
    )
    add(
        "--num-images",
        type=at_least(128),
        metavar="N",
        default=1024,
        help="images to generate for each measurement (default: 1024)",
    )
    add(
        "--split",
        choices=("validation", "train"),
        default="validation",
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
        "run folder; for provided models the current folder)",
    )
    add_backend_option(parser)
    parsed = parser.parse_args(arguments)
    return EvaluateOptions(
        **{field.name: getattr(parsed, field.name) for field in fields(EvaluateOptions)}
    )
