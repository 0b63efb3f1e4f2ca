"""Comparison of two models or settings: which is better, and how certain that is.

Two sets of generated images are compared with the same initial noises and real images, two
likelihoods on the same images. Much of the error is then common to both values and cancels in their
difference, so far fewer images suffice than for two separate measurements.
"""

import math
from dataclasses import dataclass

import numpy as np

from ddim_keras.config import InputError
from ddim_keras.metrics.kid import JackknifedDistance, jackknifed_error

QUANTILE = 1.96  # standard errors each way that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Comparison:
    """The value of the first model minus that of the second; negative if the first is better."""

    difference: float
    standard_error: float
    quantity: str = "KID"  # that is better if it is lower

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the difference."""
        return confidence_interval(self.difference, self.standard_error)

    @property
    def is_certain(self) -> bool:
        """Whether the interval excludes 0."""
        low, high = self.interval
        return not low <= 0.0 <= high

    def verdict(self, first: str = "A", second: str = "B") -> str:
        """The result as a sentence, with the names of the two models."""
        decimals = 4  # and at least two digits of the error
        if self.standard_error > 0:
            decimals = max(decimals, 1 - math.floor(math.log10(self.standard_error)))

        def text(value: float, low: float, high: float) -> str:
            numbers = (f"{number:.{decimals}f}" for number in (value, low, high))
            return "{} (95 % interval {} to {})".format(*numbers)

        low, high = self.interval
        if not self.is_certain:
            return (
                f"no difference beyond the error: {self.quantity} of {first} minus {self.quantity} "
                f"of {second} is " + text(self.difference, low, high)
            )
        if self.difference < 0:
            better, lower_by = first, text(-self.difference, -high, -low)
        else:
            better, lower_by = second, text(self.difference, low, high)
        return f"{better} is better: its {self.quantity} is lower by {lower_by}"


def confidence_interval(value: float, standard_error: float) -> tuple[float, float]:
    """The 95 % confidence interval of a value with a normal error."""
    half = QUANTILE * standard_error
    return value - half, value + half


def compare(first: JackknifedDistance, second: JackknifedDistance) -> Comparison:
    """Compares two KIDs measured with the same real images and initial noises.

    A paired jackknife: real image i, or both images from noise i, are omitted at the same time.

    Raises:
        InputError: if the numbers of images differ.
    """
    for kind in ("real", "generated"):
        numbers = [len(getattr(each, f"without_{kind}")) for each in (first, second)]
        if numbers[0] != numbers[1]:
            raise InputError(
                f"a comparison needs as many {kind} images on both sides, not {numbers[0]} and "
                f"{numbers[1]}"
            )
    return Comparison(
        first.value - second.value,
        jackknifed_error(
            first.without_real - second.without_real,
            first.without_generated - second.without_generated,
        ),
    )


def compare_pairs(first: np.ndarray, second: np.ndarray, quantity: str) -> Comparison:
    """Compares the means of two values per image, such as its bits under two models.

    Args:
        first, second: (N,) for the same images, at least 2.
        quantity: name of the quantity, in the singular.
    """
    differences = np.asarray(first, "float64") - second
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return Comparison(float(differences.mean()), float(error), quantity)
