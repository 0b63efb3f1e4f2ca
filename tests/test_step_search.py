"""The search for steps: the cheapest path indeed, and better than even steps on known data."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from keras import ops

from ddim_keras.config import InputError
from ddim_keras.model import DiffusionModel
from ddim_keras.samplers import Sampler, adams_bashforth, ddim
from ddim_keras.schedules import OffsetCosine
from ddim_keras.spacing import sampling_signal_rates
from ddim_keras.step_search import (
    CANDIDATES,
    cheapest_path,
    coordinate_search,
    most_measurements,
    search_signal_rates,
    search_steps,
    step_costs,
)
from tests.helpers import TINY, denoiser, mixture, root_mean_square, standard_normal

CANDIDATE_RATES = sampling_signal_rates(40, schedule=OffsetCosine(max_signal_rate=0.995))


@pytest.fixture(scope="module")
def fine_images():
    """What other noises than those of the search become in many steps to the same last rate."""
    rates = sampling_signal_rates(200, last_signal_rate=CANDIDATE_RATES[-2])
    images = adams_bashforth(denoiser(mixture), standard_normal(256, seed=1), rates)
    return ops.convert_to_numpy(images)


@pytest.mark.parametrize("steps", [3, 5, 8])
def test_searched_steps_come_nearer_to_the_fine_solution_than_even_ones(steps, fine_images):
    def error(signal_rates):
        images = ddim(denoiser(mixture), standard_normal(256, seed=1), signal_rates)
        return root_mean_square(ops.convert_to_numpy(images) - fine_images)

    searched = search_signal_rates(denoiser(mixture), standard_normal(64), CANDIDATE_RATES, steps)
    assert error(searched) < error(sampling_signal_rates(steps))
    last_rate = CANDIDATE_RATES[-2]
    assert error(searched) < error(sampling_signal_rates(steps, last_signal_rate=last_rate))


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_searched_signal_rates_are_candidates_that_rise_to_1(steps):
    searched = search_signal_rates(denoiser(mixture), standard_normal(8), CANDIDATE_RATES, steps)
    assert len(searched) == steps + 1
    assert np.all(np.diff(searched) > 0)
    assert set(searched) <= set(CANDIDATE_RATES)
    assert (searched[0], searched[-1]) == (CANDIDATE_RATES[0], 1)


def test_a_step_costs_its_distance_from_the_teacher():
    teacher = []
    rates, noise = sampling_signal_rates(6), standard_normal(5)
    costs = step_costs(
        denoiser(mixture),
        noise,
        rates,
        callback=lambda step, *images: teacher.append(list(map(ops.convert_to_numpy, images))),
    )
    assert len(teacher) == 6  # network calls
    states = [*(noisy_images for noisy_images, _ in teacher), teacher[-1][1]]
    assert np.all(np.isinf(costs[np.tril_indices(7)]))
    for start, end in itertools.combinations(range(7), 2):
        landed = ddim(denoiser(mixture), states[start], [rates[start], rates[end]])
        distances = np.linalg.norm(ops.convert_to_numpy(landed) - states[end], axis=-1)
        assert costs[start, end] == pytest.approx(np.mean(distances) / np.sqrt(2), abs=1e-5)
    assert costs[-2, -1] == 0


def test_steps_cost_nothing_where_the_way_is_straight():
    image = np.array([0.5, -1.0])
    denoise = denoiser(lambda noisy_images, *_: np.broadcast_to(image, noisy_images.shape))
    costs = step_costs(denoise, standard_normal(5), CANDIDATE_RATES)
    assert np.max(costs[np.triu_indices(len(costs), 1)]) < 1e-5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [1, 2, 4, 6])
def test_the_cheapest_path_is_that_of_trying_all(steps, seed):
    costs = np.random.default_rng([steps, seed]).random((7, 7))
    costs[np.tril_indices(7)] = np.inf

    def cost_of(path):
        return sum(costs[pair] for pair in itertools.pairwise(path))

    paths = [(0, *between, 6) for between in itertools.combinations(range(1, 6), steps - 1)]
    path = cheapest_path(costs, steps)
    assert tuple(path) in paths
    assert cost_of(path) == pytest.approx(min(map(cost_of, paths)))


def test_a_model_is_searched_in_batches_and_generates_along_the_result():
    model = DiffusionModel(TINY.model)
    calls = []
    searched = search_steps(
        model, [3, 1], num_images=6, batch_size=4, callback=lambda step, *_: calls.append(step)
    )
    assert calls == [*range(CANDIDATES)] * 2
    assert list(searched) == [3, 1]
    np.testing.assert_allclose(searched[1], [model.config.min_signal_rate, 1])
    together = search_steps(model, [3], num_images=6)
    assert searched[3] == together[3]

    sampler = Sampler("ddim", searched)
    assert model.generate(2, 3, sampler=sampler).shape == (2, 16, 16, 3)
    with pytest.raises(InputError, match=r"python evaluate\.py --search-steps 5"):
        model.generate(2, 5, sampler=sampler)


def test_a_search_generates_as_it_is_told():
    asked = []

    def generate(num_images, steps, **options):
        asked.append((num_images, options["seed"], options["batch_size"], options["guidance"]))
        for seed in range(2):
            options["sampler"](
                denoiser(mixture), standard_normal(5, seed), CANDIDATE_RATES, callback=None
            )

    model = SimpleNamespace(generate=generate, schedule=OffsetCosine(), searched_steps={})
    searched = search_steps(model, [3], num_images=7, batch_size=5, seed=9, guidance=2.5)
    assert asked == [(7, 9, 5, 2.5)]
    costs = [
        step_costs(denoiser(mixture), standard_normal(5, seed), CANDIDATE_RATES)
        for seed in range(2)
    ]
    path = cheapest_path(np.mean(costs, axis=0), 3)
    rates = Sampler().signal_rates(model, CANDIDATES)
    assert searched[3] == [rates[point] for point in path]


def test_a_coordinate_search_finds_the_minimum_of_a_smooth_measure():
    goal = np.array([0.02, 0.3, 0.8, 0.95, 1])
    trials = []

    def measure(signal_rates):
        trials.append(signal_rates)
        return float(np.sum(np.square(log_snrs(signal_rates) - log_snrs(goal))))

    def log_snrs(signal_rates):
        squares = np.square(signal_rates[:-1])
        return np.log(squares / (1 - squares))

    start = sampling_signal_rates(4, last_signal_rate=0.9)
    strides = 0.8 * 0.8 ** np.arange(20)
    best, least = coordinate_search(measure, start, strides)
    assert least == measure(best) < 0.01 < measure(start)
    np.testing.assert_allclose(best, goal, atol=0.02)
    assert len(trials) - 2 <= most_measurements(4, strides)
    for signal_rates in trials:
        assert np.all(np.diff(signal_rates) > 0)
        assert signal_rates[-1] == 1


def test_a_coordinate_search_keeps_what_cannot_be_improved():
    start = sampling_signal_rates(3)
    assert coordinate_search(lambda rates: float(rates != start), start) == (start, 0.0)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="allow 1 to 40 steps, not 41"):
        search_signal_rates(denoiser(mixture), standard_normal(1), CANDIDATE_RATES, 41)
    with pytest.raises(InputError, match="allow 1 to 2 steps, not 0"):
        cheapest_path(np.zeros((3, 3)), 0)
    with pytest.raises(InputError, match=r"must end in 1, not in 0\.9"):
        step_costs(denoiser(mixture), standard_normal(1), [0.1, 0.9])
    with pytest.raises(InputError, match=r"two or more, rising"):
        step_costs(denoiser(mixture), standard_normal(1), [0.5, 0.1, 1])
    with pytest.raises(InputError, match=f"must be 1 to {CANDIDATES}, not 65"):
        search_steps(None, [5, 65])
