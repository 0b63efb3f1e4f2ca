"""Reports on a student's file: text to read, JSON, and a table of points."""

import json
import textwrap
from collections.abc import Sequence
from typing import Any

from ddim_keras.check.verdict import Verdict

WIDTH = 88


def as_text(name: str, verdicts: Sequence[Verdict], observations: dict[str, Any]) -> str:
    """One block for each function: the verdict, failed tests, likely mistakes and hints."""
    lines = [name]
    width = max((len(verdict.gap) for verdict in verdicts), default=0)
    for verdict in verdicts:
        lines.append(f"  {verdict.gap:{width}}  {verdict.status}{_count(verdict)}")
        if verdict.unchecked:
            lines += _wrapped("reason: ", verdict.unchecked)
        if verdict.error:
            lines += _wrapped("error: ", verdict.error)
        if not verdict.right:
            for description, passed in verdict.tests.items():
                if not passed:
                    lines += _wrapped("fails: ", description)
        for sentence, word in zip(verdict.sentences, ("likely: ", "or: "), strict=False):
            lines += _wrapped(word, sentence)
        for sentence in verdict.hints:
            lines += _wrapped("note: ", sentence)
    failed = [verdict for verdict in verdicts if not verdict.right]
    problems = observations.get("problems", {})
    if failed and problems:
        lines.append("  Not defined, which may be why:")
        for defined, problem in list(problems.items())[:5]:
            lines += _wrapped(f"{defined}: ", problem)
    counted = [verdict for verdict in verdicts if not verdict.unchecked]
    left = len(verdicts) - len(counted)
    total = f"  {sum(verdict.right for verdict in counted)} of {len(counted)} right"
    lines.append(f"{total}, {left} not checked" if left else total)
    return "\n".join(lines)


def as_json(results: Sequence[dict[str, Any]]) -> str:
    """All results as one JSON list, an object for each file; ASCII, for any encoding of files."""
    return json.dumps(results, indent=2)


def summary(name: str, verdicts: Sequence[Verdict], observations: dict[str, Any]) -> dict[str, Any]:
    """The result of a file as plain data."""
    return {
        "file": name,
        "passed": all(verdict.right for verdict in verdicts),
        "functions": [
            {
                "name": verdict.gap,
                "status": verdict.status,
                "points": int(verdict.right and not verdict.unchecked),
                "library": observations["gaps"].get(verdict.gap, {}).get("library"),
                "tests": verdict.tests,
                "mistakes": [] if verdict.right else verdict.mistakes[:2],
                "sentences": verdict.sentences,
                "hints": verdict.hints,
                "error": verdict.error,
                "reason": verdict.unchecked,
            }
            for verdict in verdicts
        ],
        "problems": observations.get("problems", {}),
    }


def as_points(results: Sequence[dict[str, Any]]) -> str:
    """Comma-separated values: a row for each file, a column for each function, and their sum.

    A correct function counts 1 point. Empty: not requested, or not checked.
    """
    names: list[str] = []
    for result in results:
        for function in result.get("functions", []):
            if function["name"] not in names:
                names.append(function["name"])
    rows = [["file", *names, "sum", "of"]]
    for result in results:
        points = {
            function["name"]: function["points"]
            for function in result.get("functions", [])
            if function["status"] != "not checked"
        }
        cells = [str(points.get(name, "")) for name in names]
        file = result["file"]
        if any(character in file for character in ',"\n'):
            file = '"' + file.replace('"', '""') + '"'
        rows.append([file, *cells, str(sum(points.values())), str(len(points))])
    return "\n".join(",".join(row) for row in rows)


def _count(verdict: Verdict) -> str:
    if not verdict.tests or verdict.unchecked:
        return ""
    return f"  ({sum(verdict.tests.values())} of {len(verdict.tests)} tests)"


def _wrapped(word: str, sentence: str) -> list[str]:
    return textwrap.wrap(
        f"{word}{sentence}",
        WIDTH,
        initial_indent="    ",
        subsequent_indent="    " + " " * min(len(word), 12),
    )
