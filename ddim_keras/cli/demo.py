"""Options of app.py."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ddim_keras.cli.options import (
    Parser,
    add_backend_option,
    add_precision_option,
    add_verify_option,
    at_least,
)

EXAMPLES = """examples:
  python app.py                                   all models, at http://127.0.0.1:7860
  python app.py --run runs/mine --port 8000       start with this run
  python app.py --precision mixed_bfloat16        faster on suitable processors
"""


@dataclass(frozen=True)
class DemoOptions:
    """The options of app.py."""

    run: str | None
    port: int
    queue: int
    precision: str
    check_hashes: bool
    backend: str | None


def parse_arguments(arguments: Sequence[str] | None = None) -> DemoOptions:
    """Parses the command line; exits on errors and --help."""
    parser = Parser(
        prog="app.py",
        description="Demo in the browser: generate, paint, and look inside. It listens only on "
        "127.0.0.1, loads nothing from other hosts, and keeps its files in a temporary folder "
        "that is removed at the end.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "--run",
        metavar="RUN",
        help="run or included model to start with; the page offers all others as well (default: an "
        "included model of few steps, else the newest run)",
    )
    parser.add_argument(
        "--port", type=at_least(1, 65535), metavar="N", default=7860, help="port (default: 7860)"
    )
    parser.add_argument(
        "--queue",
        type=at_least(1),
        metavar="N",
        default=24,
        help="largest number of waiting requests; others are refused with a message (default: 24)",
    )
    add_precision_option(parser)
    add_verify_option(parser)
    add_backend_option(parser)
    parsed = parser.parse_args(arguments)
    return DemoOptions(**{field.name: getattr(parsed, field.name) for field in fields(DemoOptions)})
