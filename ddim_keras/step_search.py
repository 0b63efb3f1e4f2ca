"""Search for the best placement of a sampler's steps, for a given model.

`search_steps`: Chen et al. 2024, "On the trajectory regularity of ODE-based diffusion sampling"
(https://arxiv.org/abs/2405.11326), called GITS there. A fine trajectory from noise to image, the
teacher, is computed once. From each of its points, single DDIM steps to all later points are tried;
the cost of a step is its distance from the teacher at arrival. Dynamic programming finds the
cheapest path of N steps through these points. It needs no images, and suits every sampler, although
the costs are those of DDIM. The paper's discount for the cost of later steps is omitted.

`coordinate_search`: moves one signal rate at a time, and keeps moves that improve a measure, such
as the KID of the generated images. It optimises one sampler, and takes many times as long.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from ddim_keras.config import InputError
from ddim_keras.guidance import Guidance
from ddim_keras.samplers import Sampler, adams_bashforth
from ddim_keras.types import Callback, Denoise, Tensor

CANDIDATES = 64  # signal rates that a step may start at
NUM_IMAGES = 64  # over which the costs are averaged
STRIDES = (0.8, 0.4, 0.2)  # of the log-SNR, in the rounds of the coordinate search


def search_signal_rates(
    denoise: Denoise, initial_noise: Tensor, candidate_rates: Sequence[float], steps: int
) -> list[float]:
    """Finds the best signal rates for a number of steps.

    Takes a network call for each candidate rate below 1, whatever the number of steps.

    Args:
        denoise: as for `samplers`.
        initial_noise: (B, H, W, C), standard normal; the costs are means over these B.
        candidate_rates: rising numbers in (0, 1] that end in 1, more than `steps`. The result
            always starts with the first one; the last one before 1 is searched too.
        steps: number of steps, at least 1.

    Returns:
        steps + 1 of the candidates, rising to 1, in the form of `spacing.sampling_signal_rates`.

    Raises:
        InputError: if there are not enough candidates, or they do not rise to 1.
    """
    path = cheapest_path(step_costs(denoise, initial_noise, candidate_rates), steps)
    return [float(candidate_rates[point]) for point in path]


def step_costs(
    denoise: Denoise,
    initial_noise: Tensor,
    candidate_rates: Sequence[float],
    callback: Callback | None = None,
) -> np.ndarray:
    """Distances from the teacher's trajectory after single DDIM steps between its points.

    The distance is the root mean square over a normalised image, averaged over the images. At
    signal rate 1 the teacher's images are its last predicted images, with which the predicted
    images of the last step are compared. Distances at all signal rates count equally: noisy images
    always have about unit variance, and the distance between two of them changes little during
    later steps (not at all for normally distributed data of unit variance).

    The teacher is Adams-Bashforth of order 4, with a network call at each candidate below 1.

    Args:
        callback: called as `callback(step, noisy_images, pred_images)` for each of these calls.

    Returns:
        (M, M) array for M candidates: the cost of a step from the first to the second index,
        infinite unless the second is larger.
    """
    if candidate_rates[-1] != 1:
        raise InputError(f"candidate rates must end in 1, not in {candidate_rates[-1]}")
    teacher, predictions = [], []

    def record(step: int, noisy_images: Tensor, pred_images: Tensor) -> None:
        teacher.append(ops.convert_to_numpy(noisy_images))
        predictions.append(ops.convert_to_numpy(pred_images))
        if callback is not None:
            callback(step, noisy_images, pred_images)

    adams_bashforth(denoise, initial_noise, candidate_rates, callback=record)
    teacher.append(predictions[-1])

    signals = [float(rate) for rate in candidate_rates]
    noises = [math.sqrt(1 - rate**2) for rate in signals]
    costs = np.full((len(signals), len(signals)), np.inf)
    for start, pred_images in enumerate(predictions):
        pred_noises = (teacher[start] - signals[start] * pred_images) / noises[start]
        for end in range(start + 1, len(signals)):
            landed = signals[end] * pred_images + noises[end] * pred_noises
            squares = np.mean((landed - teacher[end]) ** 2, axis=(1, 2, 3))
            costs[start, end] = np.mean(np.sqrt(squares))
    return costs


def cheapest_path(costs: np.ndarray, steps: int) -> list[int]:
    """The path from the first point to the last in a number of steps with the smallest total cost.

    Args:
        costs: (M, M), of a step from the first to the second index.
        steps: in [1, M - 1].

    Returns:
        steps + 1 rising indices, from 0 to M - 1.
    """
    if not 1 <= steps < len(costs):
        raise InputError(
            f"{len(costs) - 1} candidates below signal rate 1 allow 1 to {len(costs) - 1} steps, "
            f"not {steps}"
        )
    # The lowest cost of reaching each point: with no step, then with one more step each round.
    least = np.full(len(costs), np.inf)
    least[0] = 0.0
    origins = []  # of the last step to each point, a round each
    for _ in range(steps):
        reached = least[:, None] + costs
        origins.append(np.argmin(reached, axis=0))
        least = np.min(reached, axis=0)
    path = [len(costs) - 1]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return path[::-1]


def coordinate_search(
    measure: Callable[[list[float]], float],
    signal_rates: Sequence[float],
    strides: Sequence[float] = STRIDES,
) -> tuple[list[float], float]:
    """Moves signal rates one at a time, and keeps each move that lowers a measure.

    Takes at most `most_measurements(N)` measurements.

    Args:
        measure: function of N + 1 signal rates to minimise; it should use the same noise in every
            call, so that no move is kept by chance.
        signal_rates: N + 1 to start from, rising, the last of them 1, which stays.
        strides: change of a rate's log-SNR in each round, up or else down, but never beyond the
            middle between it and its neighbour.

    Returns:
        The best signal rates, and their measure.
    """
    best, least = list(signal_rates), measure(list(signal_rates))
    for stride in strides:
        for index in range(len(best) - 1):
            for shift in (stride, -stride):
                trial = [*best]
                trial[index] = _moved(best, index, shift)
                value = measure(trial)
                if value < least:
                    best, least = trial, value
                    break
    return best, least


def most_measurements(steps: int, strides: Sequence[float] = STRIDES) -> int:
    """Largest number of measurements of a coordinate search."""
    return 1 + 2 * steps * len(strides)


def _moved(signal_rates: Sequence[float], index: int, shift: float) -> float:
    """A signal rate whose log-SNR is shifted, as far as its neighbours allow."""
    log_snrs = [math.log(rate**2 / (1 - rate**2)) for rate in signal_rates[:-1]]
    log_snr = log_snrs[index] + shift
    if index > 0:
        log_snr = max(log_snr, (log_snrs[index - 1] + log_snrs[index]) / 2)
    if index + 1 < len(log_snrs):
        log_snr = min(log_snr, (log_snrs[index] + log_snrs[index + 1]) / 2)
    return 1 / math.sqrt(1 + math.exp(-log_snr))


def search_steps(
    model: Any,
    step_counts: Sequence[int],
    *,
    num_images: int = NUM_IMAGES,
    batch_size: int = 64,
    seed: int = 1,
    guidance: Guidance | float | None = None,
    callback: Callback | None = None,
) -> dict[int, list[float]]:
    """Searches for a DiffusionModel, for several numbers of steps at once.

    The candidates are the signal rates of plain DDIM in CANDIDATES steps. Takes CANDIDATES network
    calls per image, and memory for 2 * CANDIDATES images for each image of a batch.

    Args:
        step_counts: numbers of steps, each at least 1 and at most CANDIDATES.
        num_images, batch_size, seed, guidance: as for `DiffusionModel.generate`. The seed differs
            from the commands' default seed.
        callback: called as `callback(step, noisy_images, pred_images)`, CANDIDATES times a batch.

    Returns:
        The signal rates for each number of steps, in the form of the `spacing` of `Sampler`.
    """
    for steps in step_counts:
        if not 1 <= steps <= CANDIDATES:
            raise InputError(f"the number of searched steps must be 1 to {CANDIDATES}, not {steps}")
    candidate_rates = Sampler().signal_rates(model, CANDIDATES)
    costs = []

    def measure_costs(
        denoise: Denoise,
        initial_noise: Tensor,
        signal_rates: Sequence[float],
        callback: Callback | None,
    ) -> Tensor:
        costs.append(step_costs(denoise, initial_noise, signal_rates, callback))
        return initial_noise  # the images themselves are not used

    # `generate` draws the noises and classes, and splits them into batches of one size.
    model.generate(
        num_images,
        CANDIDATES,
        seed=seed,
        batch_size=batch_size,
        callback=callback,
        sampler=measure_costs,
        guidance=guidance,
    )
    mean_costs = np.mean(costs, axis=0)
    paths = {steps: cheapest_path(mean_costs, steps) for steps in step_counts}
    return {steps: [candidate_rates[point] for point in path] for steps, path in paths.items()}
