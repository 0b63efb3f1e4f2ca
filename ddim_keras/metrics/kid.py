"""Kernel Inception Distance: how far generated images are from real ones, in feature space.

Binkowski et al. 2018, "Demystifying MMD GANs" (https://arxiv.org/abs/1801.01401). The squared
maximum mean discrepancy between two sets of features, with a cubic polynomial kernel, in its
unbiased form: 0 is expected, and slightly negative values occur, when both sets come from one
distribution. Small is good. Values compare only under one protocol: the encoder, the image size
that it sees, and the steps of the sampler; the batch size changes the noise, not the mean.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ddim_keras.config import InputError
from ddim_keras.metrics.encoders import Encoder

BATCH_SIZE = 64  # as in the Keras example


def squared_mmd(real_features: np.ndarray, generated_features: np.ndarray) -> float:
    """Unbiased squared MMD with the kernel (x.y / D + 1)^3 (Binkowski et al. 2018, section 3).

    Args:
        real_features, generated_features: (N, D) and (M, D), with N and M at least 2.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1.0) ** 3

    def mean_without_diagonal(matrix: np.ndarray) -> float:
        # An image compared with itself would bias the mean.
        count = len(matrix)
        return (matrix.sum() - np.trace(matrix)) / (count * (count - 1))

    return (
        mean_without_diagonal(kernel(real_features, real_features))
        + mean_without_diagonal(kernel(generated_features, generated_features))
        - 2.0 * kernel(real_features, generated_features).mean()
    )


@dataclass(frozen=True)
class Distance:
    """A KID, and the standard error of its mean over batches."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        if np.isnan(self.standard_error):
            return f"{self.value:.4f} (one batch)"
        return f"{self.value:.4f} ± {self.standard_error:.4f}"


class KernelInceptionDistance:
    """KID between fixed real images and any generated ones, as a mean over batches.

    Both sets are shuffled first, always with the same seed. Images often come sorted by class, and
    batches of neighbours would then compare one class with another.

    Args:
        encoder: of both sets; the real images are encoded once, here.
        real_images: (N, H, W, C), uint8 or float in [0, 1]; at least 2.
        batch_size: images of each set in one estimate; 64 in the Keras example. Smaller when there
            are fewer real images, which the protocol then says.
    """

    def __init__(
        self, encoder: Encoder, real_images: np.ndarray, batch_size: int = BATCH_SIZE
    ) -> None:
        if len(real_images) < 2:
            raise InputError(f"KID needs at least 2 real images, not {len(real_images)}")
        self.encoder = encoder
        self.batch_size = min(batch_size, len(real_images))
        self.real_features = encoder.features(real_images)

    @property
    def protocol(self) -> str:
        """Names what the values depend on, such as "KID, Keras InceptionV3, 2048"."""
        batches = "" if self.batch_size == BATCH_SIZE else f", batches of {self.batch_size}"
        return f"KID, {self.encoder.description}{batches}"

    def __call__(self, generated_images: np.ndarray) -> Distance:
        """Compares each batch of the generated images with a batch of the real ones.

        If there are more generated images, the real ones are shuffled and used again. A last batch
        that is not full is left out.
        """
        return self.of_features(self.encoder.features(generated_images))

    def of_features(self, generated: np.ndarray) -> Distance:
        """The same for images (N, D) that the encoder has seen already."""
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
