import numpy as np

from ddim_keras.metrics.classes import nearest_classes


def test_separate_classes_are_recognised():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=300) + 4  # labels need not begin at 0
    features = 5.0 * np.eye(3)[labels - 4] + random.standard_normal((300, 3))
    found = nearest_classes(features[200:], features[:200], labels[:200])
    assert np.mean(found == labels[200:]) > 0.98


def test_features_that_vary_within_classes_count_less():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=3000)
    means = np.array([[0.0, 0.0], [3.0, 1.0], [-3.0, -1.0]])
    features = means[labels] + np.array([3.0, 0.5]) * random.standard_normal((3000, 2))
    distances = np.linalg.norm(features[:, None] - means, axis=2)
    found = nearest_classes(features, features, labels)
    assert np.mean(found == labels) > np.mean(np.argmin(distances, axis=1) == labels) + 0.05


def test_without_a_difference_they_are_guessed():
    random = np.random.default_rng(1)
    features, labels = random.standard_normal((2000, 5)), random.integers(4, size=2000)
    found = nearest_classes(features[1000:], features[:1000], labels[:1000])
    assert abs(np.mean(found == labels[1000:]) - 0.25) < 0.06
