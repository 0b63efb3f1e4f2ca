"""Memorisation: whether generated images are copies of training images, by nearest neighbours.

Images of a model that copies are nearer to training images than new photographs of the same kind.
"""

from dataclasses import dataclass

import numpy as np

from ddim_keras.metrics.encoders import Encoder

PERCENTILES = (0, 1, 10, 50, 90)


@dataclass(frozen=True)
class Nearest:
    """Cosine distances between the features of images and the nearest training image."""

    generated: np.ndarray  # (N,)
    validation: np.ndarray  # (M,), of images that the model never saw

    @property
    def share_of_copies(self) -> float:
        """Share of generated images nearer than all but 1 % of the validation images; 0.01 if by
        chance."""
        return float(np.mean(self.generated < np.percentile(self.validation, 1)))

    def table(self) -> str:
        """The percentiles of both, as a table."""
        lines = [f"{'percentile':12s}" + "".join(f"{percent:>8d}" for percent in PERCENTILES)]
        for name in ("validation", "generated"):
            values = np.percentile(getattr(self, name), PERCENTILES)
            lines.append(f"{name:12s}" + "".join(f"{value:8.4f}" for value in values))
        return "\n".join(lines)


def features_both_ways(encoder: Encoder, images: np.ndarray) -> np.ndarray:
    """The features of images, followed by those of their mirror images: (2 * N, D).

    Most recipes train on mirrored images as well, which have other features.
    """
    return np.concatenate([encoder.features(images[:, :, ::step]) for step in (1, -1)])


def nearest_training_images(
    generated: np.ndarray, validation: np.ndarray, training: np.ndarray
) -> Nearest:
    """Compares features (N, D) of generated and validation images with those of training images."""
    return Nearest(*(nearest_distances(each, training) for each in (generated, validation)))


def nearest_distances(features: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Cosine distance of each row to the nearest row of the other array: (N, D), (M, D) -> (N,)."""
    units, known_units = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, known)
    )
    return 1.0 - np.max(units @ known_units.T, axis=1)
