"""Distances between features, against closed forms and by construction."""

import numpy as np
import pytest

from ddim_keras.config import InputError
from ddim_keras.metrics.feature_distances import frechet_distance, precision_and_recall


def features_with(mean, covariance, count=40, seed=0):
    """Features whose own mean and covariance are exactly these."""
    draws = np.random.default_rng(seed).normal(size=(count, len(mean)))
    draws -= draws.mean(axis=0)
    whitened = draws @ np.linalg.inv(np.linalg.cholesky(np.cov(draws.T))).T
    return mean + whitened @ np.linalg.cholesky(covariance).T


def random_covariance(seed, size=3):
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


def test_frechet_distance_of_commuting_gaussians():
    real = features_with([0.0, 1.0], np.diag([1.0, 4.0]))
    generated = features_with([2.0, 0.0], np.diag([9.0, 0.25]), count=60, seed=1)
    assert frechet_distance(real, generated) == pytest.approx(2**2 + 1 + (3 - 1) ** 2 + 1.5**2)


def test_frechet_distance_of_any_gaussians():
    covariances = random_covariance(1), random_covariance(2)
    means = np.array([1.0, 0.0, -1.0]), np.array([0.5, 2.0, 0.0])
    # The square root of a matrix with positive eigenvalues, which the product of these two has.
    eigenvalues, vectors = np.linalg.eig(covariances[0] @ covariances[1])
    root = (vectors * np.sqrt(eigenvalues)) @ np.linalg.inv(vectors)
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(sum(covariances) - 2 * root)
    sets = [features_with(means[i], covariances[i], seed=i) for i in (0, 1)]
    assert frechet_distance(*sets) == pytest.approx(expected)
    assert frechet_distance(*sets[::-1]) == pytest.approx(expected)


def test_frechet_distance_with_fewer_images_than_features():
    features = np.random.default_rng(0).normal(size=(5, 20))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features, features + 1) == pytest.approx(20)


def test_frechet_distance_is_too_large_and_less_so_with_more_images():
    def mean_distance(count):
        random = np.random.default_rng(count)
        sets = random.normal(size=(50, 2, count, 4))
        return np.mean([frechet_distance(*pair) for pair in sets])

    assert mean_distance(40) > 1.8 * mean_distance(80) > 3.2 * mean_distance(160) > 0


def circle(count):
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_precision_is_the_share_that_is_real_and_recall_the_share_that_is_covered():
    real = np.concatenate([circle(20), circle(20) + 10])  # two kinds of images
    on_one_kind, nowhere = circle(20), circle(5) + 100
    assert precision_and_recall(real, real) == (1, 1)
    assert precision_and_recall(real, on_one_kind) == (1, 0.5)
    assert precision_and_recall(real, nowhere) == (0, 0)
    generated = np.concatenate([on_one_kind, nowhere])
    assert precision_and_recall(real, generated) == (0.8, 0.5)
    assert precision_and_recall(generated, real) == (0.5, 0.8)


def test_the_radius_reaches_to_the_kth_neighbour():
    real = np.array([[0.0], [1.0], [3.0], [6.0]])
    generated = np.array([[-1.1], [-2.9], [-3.1], [12.1]])
    # The first neighbours are 1, 1, 2, 3 away, the second 3, 2, 3, 5, the third 6, 5, 3, 6.
    precisions = [precision_and_recall(real, generated, k)[0] for k in (1, 2, 3)]
    assert precisions == [0, 0.5, 0.75]


def test_too_few_images_are_refused():
    features = np.zeros((3, 2))
    with pytest.raises(InputError, match="at least 4 images, not 3"):
        precision_and_recall(features, np.zeros((9, 2)))
    with pytest.raises(InputError, match="at least 2 images, not 1"):
        frechet_distance(features, features[:1])
