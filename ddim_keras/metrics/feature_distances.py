"""Feature distances other than KID: Frechet distance, precision and recall.

Features are those of `Encoder.features`. Unlike the KID, these metrics have a bias that depends on
the number of images, and no standard error: compare values only for equal numbers of images.
"""

import numpy as np

from ddim_keras.config import InputError


def frechet_distance(real_features: np.ndarray, generated_features: np.ndarray) -> float:
    """Frechet distance between Gaussians with the means and covariances of the features.

    Heusel et al. 2017 (https://arxiv.org/abs/1706.08500, equation 6); this is the FID if the
    features are those of FID's Inception. The estimate has a positive bias that falls as 1 / N and
    dominates if there are fewer images than features. In that case use the KID.

    Args:
        real_features, generated_features: (N, D) and (M, D), with N and M at least 2.
    """
    sets = _require_at_least(2, real_features, generated_features)
    means = [features.mean(axis=0) for features in sets]
    # Square roots R of the covariances, R.T @ R, of min(N, D) rows.
    roots = [
        np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1)
        for features, mean in zip(sets, means, strict=True)
    ]
    # The trace of the square root of the covariances' product: its eigenvalues are the squares of
    # these singular values.
    trace_of_root = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    traces = sum(np.sum(root**2) for root in roots)
    return float(np.sum((means[0] - means[1]) ** 2) + traces - 2 * trace_of_root)


def precision_and_recall(
    real_features: np.ndarray, generated_features: np.ndarray, neighbours: int = 3
) -> tuple[float, float]:
    """Share of generated images that look real, and share of real images that are generated.

    Kynkaanniemi et al. 2019 (https://arxiv.org/abs/1904.06991, equations 1 and 2). An image belongs
    to a set if it is no farther from some member of the set than the k-th nearest other member is.
    Precision is the share of generated images that belong to the real ones, recall the reverse:
    blurred or broken images lower precision, missing kinds of images lower recall. Both are in
    [0, 1], higher is better, and even two samples of the same distribution score below 1.

    Args:
        real_features, generated_features: (N, D) and (M, D), with N and M above `neighbours`; a
            matrix of N * M distances must fit into memory.
        neighbours: k.
    """
    real, generated = _require_at_least(neighbours + 1, real_features, generated_features)
    return _share_within(generated, real, neighbours), _share_within(real, generated, neighbours)


def _share_within(features: np.ndarray, members: np.ndarray, neighbours: int) -> float:
    """The share of `features` that belong to the set of `members`."""
    # The first of a member's sorted distances is 0, to itself.
    radii = np.partition(_squared_distances(members, members), neighbours, axis=1)[:, neighbours]
    return float(np.mean(np.any(_squared_distances(features, members) <= radii, axis=1)))


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, D), (M, D) -> (N, M)."""
    return np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T


def _require_at_least(minimum: int, *sets: np.ndarray) -> list[np.ndarray]:
    """The features in double precision; raises InputError for sets that are too small."""
    smallest = min(map(len, sets))
    if smallest < minimum:
        raise InputError(f"this needs the features of at least {minimum} images, not {smallest}")
    return [np.asarray(features, "float64") for features in sets]
