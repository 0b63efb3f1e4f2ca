"""Memorisation: whether generated images are copies of training images, by nearest neighbours.

A model that copies is nearer to its training images than new photographs of the same kind are.
"""

from dataclasses import dataclass

import numpy as np

from ddim_keras.metrics.encoders import Encoder

PERCENTILES = (0, 1, 10, 50, 90)


@dataclass(frozen=True)
class Nearest:
    """Cosine distances, between features, of images to the nearest training image."""

    generated: np.ndarray  # (N,)
    validation: np.ndarray  # (M,), of images that the model never saw

    @property
    def share_of_copies(self) -> float:
        """Share of generated images nearer than all but 1 % of the validation images; 0.01 by
        chance alone."""
        return float(np.mean(self.generated < np.percentile(self.validation, 1)))

    def table(self) -> str:
        """The percentiles of both, for people."""
        lines = [f"{'percentile':12s}" + "".join(f"{percent:>8d}" for percent in PERCENTILES)]
        for name in ("validation", "generated"):
            values = np.percentile(getattr(self, name), PERCENTILES)
            lines.append(f"{name:12s}" + "".join(f"{value:8.4f}" for value in values))
        return "\n".join(lines)


def nearest_training_images(
    encoder: Encoder, generated: np.ndarray, training: np.ndarray, validation: np.ndarray
) -> Nearest:
    """Compares generated and validation images with training images, mirrored or not.

    Args:
        generated, training, validation: (N, H, W, C) images, uint8 or float in [0, 1].
    """
    # Mirrored as well, as most recipes show them: the features of an image and its mirror differ.
    known = np.concatenate([encoder.features(training[:, :, ::step]) for step in (1, -1)])
    return Nearest(
        *(nearest_distances(encoder.features(each), known) for each in (generated, validation))
    )


def nearest_distances(features: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Cosine distance of each row to the nearest row of the other array: (N, D), (M, D) -> (N,)."""
    units, known_units = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, known)
    )
    return 1.0 - np.max(units @ known_units.T, axis=1)
