import numpy as np
import pytest

from ddim_keras import InputError
from ddim_keras.metrics import kid
from ddim_keras.metrics.comparison import Comparison, compare, compare_pairs
from ddim_keras.metrics.kid import distance_of_all_pairs, squared_mmd

DIMENSIONS = 4


def draws(seed, count=50):
    """Real features, and those of generators A and B from the same noises; A is the better one."""
    random = np.random.default_rng(seed)
    real, noises = random.normal(size=(2, count, DIMENSIONS))
    return real, 1.1 * noises + 0.2, 1.1 * noises + 0.3


@pytest.fixture(scope="module")
def many():
    """Both KIDs and their comparison in 300 independent experiments."""
    experiments = []
    for seed in range(300):
        real, *generated = draws(seed)
        first, second = (distance_of_all_pairs(real, each) for each in generated)
        experiments.append((first, second, compare(first, second)))
    return experiments


def test_values_without_one_image_are_those_of_the_smaller_sets(monkeypatch):
    monkeypatch.setattr(kid, "ROWS_AT_ONCE", 3)
    random = np.random.default_rng(0)
    real, generated = random.normal(size=(7, 3)), random.normal(0.5, 1.0, size=(10, 3))
    distance = distance_of_all_pairs(real, generated)
    assert distance.value == pytest.approx(squared_mmd(real, generated))
    for index, value in enumerate(distance.without_real):
        assert value == pytest.approx(squared_mmd(np.delete(real, index, axis=0), generated))
    for index, value in enumerate(distance.without_generated):
        assert value == pytest.approx(squared_mmd(real, np.delete(generated, index, axis=0)))


def test_the_jackknifed_error_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=20)
    without_one = (values.sum() - values) / 19
    assert kid.jackknifed_error(without_one) == pytest.approx(np.std(values, ddof=1) / np.sqrt(20))


def test_standard_errors_are_the_spread_of_independent_experiments(many):
    for distances in zip(*many, strict=True):
        values = [getattr(each, "value", None) or each.difference for each in distances]
        errors = [each.standard_error for each in distances]
        # Rather too large than too small, as near a KID of 0.
        assert 0.9 < np.sqrt(np.mean(np.square(errors))) / np.std(values) < 1.25


def test_the_interval_holds_the_truth_as_often_as_it_says(many):
    comparisons = [comparison for *_, comparison in many]
    truth = np.mean([comparison.difference for comparison in comparisons])  # of an unbiased one
    covered = [low <= truth <= high for low, high in (each.interval for each in comparisons)]
    assert 0.9 <= np.mean(covered) <= 0.99


def test_the_same_noises_tell_what_separate_measurements_do_not(many):
    paired = np.mean([comparison.is_certain for *_, comparison in many])
    apart = np.mean(
        [
            Comparison(
                first.value - second.value, np.hypot(first.standard_error, second.standard_error)
            ).is_certain
            for first, second, _ in many
        ]
    )
    assert paired > 0.5 > 0.2 > apart


def test_equal_generators_are_seldom_told_apart():
    false_alarms = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        real, first, second = random.normal(size=(3, 40, DIMENSIONS))
        distances = [distance_of_all_pairs(real, each + 0.3) for each in (first, second)]
        false_alarms += compare(*distances).is_certain
    assert false_alarms / 200 < 0.09


@pytest.mark.parametrize(
    ("difference", "error", "expected"),
    [
        (-0.02, 0.005, "A is better: its KID is lower by 0.0200 (95 % interval 0.0102 to 0.0298)"),
        (0.02, 0.005, "B is better: its KID is lower by 0.0200 (95 % interval 0.0102 to 0.0298)"),
        (
            0.002,
            0.005,
            "no difference beyond the error: KID of A minus KID of B is 0.0020 "
            "(95 % interval -0.0078 to 0.0118)",
        ),
        (
            0.0002,
            0.0003,
            "no difference beyond the error: KID of A minus KID of B is 0.00020 "
            "(95 % interval -0.00039 to 0.00079)",
        ),
        (
            0.0,
            0.0,
            "no difference beyond the error: KID of A minus KID of B is 0.0000 "
            "(95 % interval 0.0000 to 0.0000)",
        ),
    ],
)
def test_the_verdict_in_words(difference, error, expected):
    assert Comparison(difference, error).verdict() == expected


def test_pairs_tell_what_their_means_do_not():
    """A small difference of the same images, which differ much more among themselves."""
    random = np.random.default_rng(0)
    second = random.normal(4.0, 1.0, 50)
    differences = random.normal(-0.02, 0.01, 50)
    comparison = compare_pairs(second + differences, second, "cost")
    assert comparison.difference == pytest.approx(differences.mean())
    assert comparison.standard_error == pytest.approx(np.std(differences, ddof=1) / np.sqrt(50))
    assert comparison.verdict("a", "b").startswith("a is better: its cost is lower by 0.0")
    reverse = compare_pairs(second, second + differences, "cost")
    assert reverse.verdict("a", "b") == comparison.verdict("b", "a")
    assert "cost of a minus cost of b is 0.0000" in compare_pairs(second, second, "cost").verdict(
        "a", "b"
    )


def test_sets_that_do_not_compare_are_refused():
    real, generated, _ = draws(0)
    whole, part = (distance_of_all_pairs(real, generated[:count]) for count in (50, 40))
    with pytest.raises(InputError, match="as many generated images on both sides, not 50 and 40"):
        compare(whole, part)
    with pytest.raises(InputError, match="at least 3 images of each kind, not 50 real and 2"):
        distance_of_all_pairs(real, generated[:2])
