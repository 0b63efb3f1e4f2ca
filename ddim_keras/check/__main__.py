"""`python -m ddim_keras.check my_lab.py`: tests a student's solution and names its mistakes."""

if __name__ == "__main__":
    from ddim_keras.cli.interruption import end_at_once

    end_at_once()  # on Ctrl-C, while the rest is imported


import argparse
import glob
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddim_keras.check.gaps import EXERCISE, LAB
from ddim_keras.cli.startup import run_command
from ddim_keras.config import InputError

RIGHT, WRONG, NOT_CHECKED = 0, 1, 2  # exit status


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    result = argparse.ArgumentParser(
        prog="python -m ddim_keras.check",
        description="Tests a student's solution of the lab (diffusion_schedule, denoise, "
        "reverse_diffusion, train_step) or of the exercise (sample_xt, sample, train) against "
        "closed forms, and names the likely mistake. Only the imports, definitions and constants "
        "of the file are executed, in a separate process with limits of time and memory. This is "
        "not a sandbox for hostile code.",
        epilog="exit status: 0 if all functions are right, 1 if one is not, 2 if a file cannot be "
        "checked",
    )
    result.add_argument("files", nargs="+", type=Path, metavar="FILE", help="module or notebook")
    result.add_argument(
        "--only",
        action="append",
        choices=(*LAB, *EXERCISE),
        metavar="NAME",
        default=[],
        help="function to test, may be repeated (default: all of the sheet that the file belongs "
        f"to); one of {', '.join((*LAB, *EXERCISE))}",
    )
    output = result.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="results as JSON")
    output.add_argument(
        "--points",
        action="store_true",
        help="results as comma-separated values: a row for each file, a point for each function",
    )
    result.add_argument(
        "--seconds",
        type=_positive,
        default=120,
        metavar="N",
        help="time limit for each function in seconds; imports have at least 60 (default: 120)",
    )
    result.add_argument(
        "--memory",
        type=_positive,
        default=8192,
        metavar="MIB",
        help="memory limit in MiB, on Linux (default: 8192)",
    )
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = parser().parse_args(arguments)
    results, status = [], RIGHT
    files = list(itertools.chain(*map(files_of, options.files)))
    is_table = options.json or options.points
    for number, file in enumerate(files, start=1):
        if is_table and len(files) > 1:
            print(f"{number} of {len(files)}: {file}", file=sys.stderr, flush=True)
        result, text = check(file, options.only, options.seconds, options.memory)
        results.append(result)
        if "error" in result:
            status = NOT_CHECKED
            print(f"error: {text}", file=sys.stderr)
            continue
        status = max(status, _status(result))
        if not is_table:
            print(text)
        elif options.points:
            for function in result["functions"]:
                if function["reason"]:
                    reason = f"{file}: {function['name']} not checked: {function['reason']}"
                    print(reason, file=sys.stderr)
    if is_table:
        from ddim_keras.check import report

        print(report.as_json(results) if options.json else report.as_points(results))
    return status


def files_of(pattern: Path) -> list[Path]:
    """The files of `submissions/*.py`, which shells of Windows do not replace; or the file."""
    if pattern.exists():
        return [pattern]
    return sorted(map(Path, glob.glob(str(pattern)))) or [pattern]


def _status(result: dict[str, Any]) -> int:
    failed = [item for item in result["functions"] if item["status"] == "wrong"]
    return RIGHT if result["passed"] else WRONG if failed else NOT_CHECKED


def check(
    file: Path, only: Sequence[str] = (), seconds: int = 120, mebibytes: int = 8192
) -> tuple[dict[str, Any], str]:
    """Checks one file.

    Args:
        only: functions to test; by default those of the sheet.
        seconds: time limit for each function.
        mebibytes: memory limit.

    Returns:
        The result as plain data, with an "error" if the file cannot be checked; and as text.
    """
    # Not above: the help needs neither.
    from ddim_keras.check import report
    from ddim_keras.check.judge import judge
    from ddim_keras.check.process import observe
    from ddim_keras.check.source import describe, parse

    try:
        parse(file)  # a syntax error needs no process
        observations = observe(file, only, seconds, mebibytes)
        verdicts = judge(observations, only)
        if not verdicts:
            broken = [f"; {where}: {what}" for where, what in observations["problems"].items()]
            raise InputError(
                f"{file} has none of the functions {', '.join((*LAB[:3], *EXERCISE[:3]))}"
                f"{''.join(broken[:2])}"
            )
        summary = report.summary(str(file), verdicts, observations)
        return summary, report.as_text(str(file), verdicts, observations)
    except InputError as error:
        message = " ".join(str(error).split())
    except Exception as error:  # a fault of the checker must not end the check of other files
        message = f"{file}: a fault of the checker: {describe(error)}"
    return {"file": str(file), "passed": False, "error": message}, message


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not 1 <= value <= 2**20:
        raise argparse.ArgumentTypeError(f"must be from 1 to {2**20}, not {value}")
    return value


if __name__ == "__main__":
    run_command(lambda: sys.exit(main()))
