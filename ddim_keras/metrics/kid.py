"""Kernel Inception Distance: how far generated images are from real ones, in feature space.

Binkowski et al. 2018, "Demystifying MMD GANs" (https://arxiv.org/abs/1801.01401). The squared
maximum mean discrepancy between two sets of features, with a cubic polynomial kernel, in its
unbiased form: if both sets come from the same distribution, its mean is 0, and slightly negative
values occur. Lower is better. Values are comparable only under the same protocol: the encoder, its
image size, and the steps of the sampler. The batch size changes the variance, not the mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddim_keras.config import InputError
from ddim_keras.metrics.encoders import Encoder

BATCH_SIZE = 64  # as in the Keras example
ROWS_AT_ONCE = 1024  # of a matrix of kernel values


def polynomial_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cubic kernel (x.y / D + 1)^3 of features (N, D) and (M, D): (N, M)."""
    return (a @ b.T / a.shape[1] + 1.0) ** 3


def squared_mmd(real_features: np.ndarray, generated_features: np.ndarray) -> float:
    """Unbiased squared MMD of the cubic kernel (Binkowski et al. 2018, section 4).

    Args:
        real_features, generated_features: (N, D) and (M, D), with N and M at least 2.
    """

    def mean_without_diagonal(matrix: np.ndarray) -> float:
        # Comparing an image with itself would bias the mean.
        count = len(matrix)
        return (matrix.sum() - np.trace(matrix)) / (count * (count - 1))

    return (
        mean_without_diagonal(polynomial_kernel(real_features, real_features))
        + mean_without_diagonal(polynomial_kernel(generated_features, generated_features))
        - 2.0 * polynomial_kernel(real_features, generated_features).mean()
    )


@dataclass(frozen=True)
class Distance:
    """A KID and its standard error, which is NaN for a single batch."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        if np.isnan(self.standard_error):
            return f"{self.value:.4f} (one batch)"
        return f"{self.value:.4f} ± {self.standard_error:.4f}"


@dataclass(frozen=True)
class JackknifedDistance(Distance):
    """A KID over all pairs of images, and its values with each image left out."""

    without_real: np.ndarray  # (N,): the KID without real image i
    without_generated: np.ndarray  # (M,): without generated image i


def distance_of_all_pairs(
    real_features: np.ndarray, generated_features: np.ndarray
) -> JackknifedDistance:
    """Unbiased squared MMD of two whole sets, in bounded memory, with a jackknife standard error.

    Its error is smaller than that of a mean over batches, since each image is compared with all
    others. The jackknife of a two-sample statistic adds the variances of both samples (Arvesen
    1969, https://doi.org/10.1214/aoms/1177697287). For two sets from the same distribution, the
    standard error tends to be too large.

    Args:
        real_features, generated_features: (N, D) and (M, D), with N and M at least 3.
    """
    num_real, num_generated = len(real_features), len(generated_features)
    if min(num_real, num_generated) < 3:
        raise InputError(
            f"KID over all pairs needs at least 3 images of each kind, not {num_real} real and "
            f"{num_generated} generated ones"
        )
    within_real = _sums_with_others(real_features)
    within_generated = _sums_with_others(generated_features)
    across_real, across_generated = _row_and_column_sums(real_features, generated_features)
    across = across_real.sum()

    def mean_within(sums: np.ndarray, without: np.ndarray | float, count: int) -> Any:
        return (sums.sum() - 2 * without) / (count * (count - 1))

    whole_real = mean_within(within_real, 0.0, num_real)
    whole_generated = mean_within(within_generated, 0.0, num_generated)
    without_real = (
        mean_within(within_real, within_real, num_real - 1)
        + whole_generated
        - 2 * (across - across_real) / ((num_real - 1) * num_generated)
    )
    without_generated = (
        whole_real
        + mean_within(within_generated, within_generated, num_generated - 1)
        - 2 * (across - across_generated) / (num_real * (num_generated - 1))
    )
    return JackknifedDistance(
        float(whole_real + whole_generated - 2 * across / (num_real * num_generated)),
        jackknifed_error(without_real, without_generated),
        without_real,
        without_generated,
    )


def jackknifed_error(*without_one: np.ndarray) -> float:
    """The standard error of a statistic from its leave-one-out values for each sample."""
    variances = [(len(values) - 1) * np.var(values) for values in without_one]
    return float(np.sqrt(sum(variances)))


def _row_and_column_sums(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column sums of the kernel matrix (N, M), some rows at a time: (N,) and (M,)."""
    rows, columns = [], np.zeros(len(b))
    for start in range(0, len(a), ROWS_AT_ONCE):
        block = polynomial_kernel(a[start : start + ROWS_AT_ONCE], b)
        rows.append(block.sum(axis=1))
        columns += block.sum(axis=0)
    return np.concatenate(rows), columns


def _sums_with_others(features: np.ndarray) -> np.ndarray:
    """The sum of each image's kernel values with all others: (N, D) -> (N,)."""
    with_itself = (np.sum(features**2, axis=1) / features.shape[1] + 1.0) ** 3
    return _row_and_column_sums(features, features)[0] - with_itself


class KernelInceptionDistance:
    """KID between fixed real images and any generated ones, as a mean over batches.

    Both sets are shuffled first, always with the same seed. Otherwise, with images sorted by class,
    batches would compare one class with another.

    Args:
        encoder: encoder of both sets; the real images are encoded once, here.
        real_images: (N, H, W, C), uint8 or float in [0, 1]; at least 2.
        batch_size: images of each set in one estimate; 64 in the Keras example. It is reduced if
            there are fewer real images, which the protocol then states.
    """

    def __init__(
        self, encoder: Encoder, real_images: np.ndarray, batch_size: int = BATCH_SIZE
    ) -> None:
        if len(real_images) < 2:
            raise InputError(f"KID needs at least 2 real images, not {len(real_images)}")
        if batch_size < 2:
            raise InputError(f"KID needs batches of at least 2 images, not {batch_size}")
        self.encoder = encoder
        self.batch_size = min(batch_size, len(real_images))
        self.real_features = encoder.features(real_images)

    @property
    def protocol(self) -> str:
        """Name of the protocol, such as "KID, Keras InceptionV3, 2048"."""
        batches = "" if self.batch_size == BATCH_SIZE else f", batches of {self.batch_size}"
        return f"KID, {self.encoder.description}{batches}"

    def __call__(self, generated_images: np.ndarray) -> Distance:
        """Compares each batch of the generated images with a batch of the real ones.

        If there are more generated images, the real ones are shuffled and reused. Batches that
        share images are not independent, so the standard error is then too small. An incomplete
        last batch is omitted.
        """
        generated = self.encoder.features(generated_images)
        num_batches = len(generated) // self.batch_size
        if num_batches < 1:
            raise InputError(
                f"KID needs at least {self.batch_size} generated images, not {len(generated)}"
            )
        distances = [
            squared_mmd(self.real_features[real], generated[ours])
            for real, ours in zip(
                _random_batches(len(self.real_features), self.batch_size, num_batches, seed=0),
                _random_batches(len(generated), self.batch_size, num_batches, seed=1),
                strict=True,
            )
        ]
        spread = np.std(distances, ddof=1) if num_batches > 1 else np.nan
        return Distance(float(np.mean(distances)), float(spread / np.sqrt(num_batches)))

    def of_all_pairs(self, generated: np.ndarray) -> JackknifedDistance:
        """The KID over all pairs of images instead of batches, for features (N, D)."""
        return distance_of_all_pairs(self.real_features, generated)


def _random_batches(
    num_images: int, batch_size: int, num_batches: int, seed: int
) -> Iterator[np.ndarray]:
    """Yields the (batch_size,) indices of each batch; none holds an image twice."""
    random = np.random.default_rng(seed)
    per_pass = num_images // batch_size
    for number in range(num_batches):
        if number % per_pass == 0:
            order = random.permutation(num_images)
        yield order[number % per_pass * batch_size :][:batch_size]
