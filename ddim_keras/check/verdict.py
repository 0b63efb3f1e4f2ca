"""Verdict on one function: tests, likely mistakes, and hints."""

from dataclasses import dataclass, field

import numpy as np

from ddim_keras.check.mistakes import MISTAKES

MOST_CANDIDATES = 2


@dataclass
class Verdict:
    """The findings about a student's function.

    Attributes:
        gap: its name in the assignment.
        tests: whether each test was passed, by its description.
        mistakes: keys of the catalogue, likeliest first.
        hints: choices that the sheet leaves open, or parts that could not be checked.
        error: the reason why the function gave no result.
        optional: whether the function is optional in the assignment.
    """

    gap: str
    tests: dict[str, bool] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    error: str | None = None
    unchecked: str | None = None
    optional: bool = False

    @property
    def right(self) -> bool:
        """Whether the function is correct, or optional and could not be checked."""
        if self.unchecked:
            return self.optional
        return not self.error and bool(self.tests) and all(self.tests.values())

    @property
    def status(self) -> str:
        """ "right", "wrong" or "not checked"."""
        if self.unchecked:
            return "not checked"
        return "right" if self.right else "wrong"

    @property
    def sentences(self) -> list[str]:
        """The likely mistakes, at most two; none if the function is correct."""
        if self.right:
            return []
        return [MISTAKES[key] for key in self.mistakes[:MOST_CANDIDATES]]

    def test(self, description: str, passed: bool, *mistakes: str) -> bool:
        """Adds a test; if it fails, the mistakes that explain it."""
        self.tests[description] = bool(passed) and self.tests.get(description, True)
        if not passed:
            self.blame(*mistakes)
        return bool(passed)

    def blame(self, *mistakes: str) -> None:
        """Adds likely mistakes."""
        for mistake in mistakes:
            gap = self.gap.removesuffix("_classconditional")  # the same mistakes as `train`
            key = mistake if "." in mistake else f"{gap}.{mistake}"
            if key not in self.mistakes:
                self.mistakes.append(key)

    def hint(self, sentence: str) -> None:
        """Adds a hint, once."""
        if sentence not in self.hints:
            self.hints.append(sentence)


def near(first: np.ndarray | float, second: np.ndarray | float, tolerance: float = 2e-3) -> bool:
    """Whether two arrays have the same values up to the rounding of float32 and its growth."""
    first, second = np.asarray(first, "float64"), np.asarray(second, "float64")
    if first.size != second.size and 1 not in (first.size, second.size):
        return False
    if first.size == second.size and first.ndim != second.ndim:
        second = second.reshape(first.shape)
    try:
        difference = np.abs(first - second)
    except ValueError:
        return False
    return bool(np.all(difference <= tolerance * (1 + np.abs(second))))


def fit(target: np.ndarray, *regressors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares.

    Returns:
        The coefficients, their standard errors, and the residuals in the shape of the target; all
        nan if a value is not finite.
    """
    columns = np.stack(
        [
            np.broadcast_to(np.asarray(regressor, "float64"), target.shape).ravel()
            for regressor in regressors
        ],
        axis=1,
    )
    values = np.asarray(target, "float64").ravel()
    if not (np.all(np.isfinite(columns)) and np.all(np.isfinite(values))):
        unknown = np.full(columns.shape[1], np.nan)
        return unknown, unknown, np.full(target.shape, np.nan)
    coefficients, *_ = np.linalg.lstsq(columns, values, rcond=None)
    residuals = values - columns @ coefficients
    freedom = max(1, len(values) - len(coefficients))
    covariance = np.linalg.pinv(columns.T @ columns) * (residuals @ residuals) / freedom
    return (
        coefficients,
        np.sqrt(np.maximum(np.diag(covariance), 0)),
        residuals.reshape(target.shape),
    )
