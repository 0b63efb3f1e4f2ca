"""What an earlier day's code left behind must load, and give what was recorded then."""

import golden_files
import numpy as np
import pytest

# Of another machine: rounding differs, and twenty steps carry it on.
TOLERANCES = {"losses": {"rtol": 1e-4}, "weights": {"rtol": 1e-4, "atol": 1e-4}}
A_LEVEL = {"atol": 1 / 255, "rtol": 0}  # of a pixel's 256


# Which the others show in parts: an adaptive block that trains, a run that is resumed. TensorFlow
# takes long to compile the first, which JAX and PyTorch compare by default.
SLOW = ("adaptive_run", *(["agreed_adaptive"] if golden_files.BACKEND == "tensorflow" else []))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case in SLOW else ())
        for case in golden_files.CASES
    ],
)
def test_what_was_recorded_comes_out_again(case, tmp_path):
    measured = golden_files.CASES[case](tmp_path)
    if "weights" in measured:
        measured["weights"] = golden_files.projections(measured["weights"])
    recorded = golden_files.read_recorded(case)
    assert measured.keys() == recorded.keys()
    for name, expected in recorded.items():
        tolerance = TOLERANCES.get(name, A_LEVEL)
        np.testing.assert_allclose(measured[name], expected, **tolerance, err_msg=name)


def test_the_comparison_to_the_last_bit_tells_what_differs():
    before = {"a": np.zeros(3, "float32"), "b": np.zeros(2), "only": np.zeros(1)}
    after = {"a": np.zeros(3, "float32"), "b": np.full(2, 1e-9), "new": np.zeros(1)}
    assert golden_files.compare(before, after) == [
        "only before: only",
        "only after: new",
        "b: differs by 1e-09 at most",
    ]
    assert golden_files.compare(before, before) == []
