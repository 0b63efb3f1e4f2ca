"""Verdicts from observations: the gaps of a file, and the judge of each."""

from collections.abc import Sequence
from typing import Any

from ddim_keras.check.gaps import EXERCISE, LAB, OPTIONAL
from ddim_keras.check.judge_exercise import judge_sample, judge_sample_xt, judge_train
from ddim_keras.check.judge_lab import (
    judge_denoise,
    judge_reverse,
    judge_schedule,
    judge_train_step,
)
from ddim_keras.check.verdict import Verdict


def judge(observations: dict[str, Any], only: Sequence[str] = ()) -> list[Verdict]:
    """The verdicts on all gaps of the sheets that a file belongs to.

    Args:
        observations: result of `process.observe`.
        only: the gaps that count; by default those of the sheet, whether or not they are found.
    """
    found, gaps = observations["found"], observations["gaps"]
    verdicts = []
    offset = None
    for gap in (*LAB, "train", "train_classconditional", "sample_xt", "sample"):
        wanted = gap in only if only else _is_wanted(gap, found)
        if not wanted:
            continue
        verdict = Verdict(gap, optional=gap in OPTIONAL)
        verdicts.append(verdict)
        if gap not in found:
            verdict.error = observations["problems"].get(gap) or "not found in the file"
            continue
        observed = gaps.get(gap)
        if observed is None:
            verdict.unchecked = (
                f"the process was stopped before; `--only {gap}` tries this function alone"
            )
        elif "error" in observed:
            _take_error(verdict, observed)
        elif gap in ("train", "train_classconditional"):
            with_labels = gap == "train_classconditional"
            result = judge_train(verdict, observed["result"], with_labels)
            offset = result if offset is None else offset
        elif gap == "sample":
            judge_sample(verdict, observed["result"], offset)
        elif gap == "diffusion_schedule":
            judge_schedule(verdict, observed["result"], observations["numbers"])
        else:
            _JUDGES[gap](verdict, observed["result"])
    return sorted(verdicts, key=lambda verdict: (*LAB, *EXERCISE).index(verdict.gap))


_JUDGES = {
    "denoise": judge_denoise,
    "reverse_diffusion": judge_reverse,
    "train_step": judge_train_step,
    "sample_xt": judge_sample_xt,
}


def _is_wanted(gap: str, found: dict[str, Any]) -> bool:
    """Whether a gap belongs to a sheet that the file has begun; optional ones if found."""
    if gap in OPTIONAL:
        return gap in found
    sheet = LAB if gap in LAB else EXERCISE
    return any(other in found for other in sheet)


def _take_error(verdict: Verdict, observed: dict[str, Any]) -> None:
    kind, text = observed.get("kind"), observed["error"]
    if kind in ("missing", "unknown"):
        verdict.unchecked = text
    elif kind == "unfinished":
        verdict.error = "not written yet"
    else:
        line = f" (line {observed['line']})" if observed.get("line") else ""
        verdict.error = f"{text}{line}"
