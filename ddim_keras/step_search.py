"""Where the steps of a sampler should lie, for a given model: searched, not chosen.

Chen et al. 2024, "On the trajectory regularity of ODE-based diffusion sampling"
(https://arxiv.org/abs/2405.11326), who call it GITS. The way from noise to image is followed once
in many short steps, the teacher. From each of its points single DDIM steps are tried to all later
ones, and how far each lands from the teacher is what that step costs. The cheapest path of N steps
through these points, found by dynamic programming, says where N steps should lie. It needs no
images, and it serves every sampler, though the costs are those of DDIM.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from ddim_keras.config import InputError
from ddim_keras.samplers import Callback, Denoise, adams_bashforth, model_signal_rates

CANDIDATES = 64  # signal rates that a step may start at
NUM_IMAGES = 64  # over which the costs are averaged


def search_signal_rates(
    denoise: Denoise, initial_noise: Any, candidate_rates: Sequence[float], steps: int
) -> list[float]:
    """Finds the best signal rates for a number of steps.

    Costs a network call for each candidate rate below 1, whatever the number of steps.

    Args:
        denoise: as for `samplers`.
        initial_noise: (B, H, W, C), standard normal; the costs are means over these B.
        candidate_rates: rising numbers in (0, 1] that end in 1, more than `steps`. The first one
            always is the first of the result; which comes last before 1 is searched too.
        steps: number of steps, at least 1.

    Returns:
        steps + 1 of the candidates, rising, the last of them 1: where a sampler calls the network,
        and the result, as `schedules.sampling_signal_rates` has it.

    Raises:
        InputError: if there are not enough candidates, or they do not rise to 1.
    """
    path = cheapest_path(step_costs(denoise, initial_noise, candidate_rates), steps)
    return [float(candidate_rates[point]) for point in path]


def step_costs(
    denoise: Denoise,
    initial_noise: Any,
    candidate_rates: Sequence[float],
    callback: Callback | None = None,
) -> np.ndarray:
    """How far single DDIM steps between the points of the teacher's way land from it.

    The distance is the root mean square over an image, normalised, and its mean over the images.
    At signal rate 1 the teacher is its own last predicted images, so that the cost of the last step
    is what its predicted images lack of those. Distances at all signal rates count alike: noisy
    images have about unit variance at each, and on the further way two of them that differ stay
    about as far apart (exactly so for normally distributed data of unit variance).

    The teacher is Adams-Bashforth of order 4, with a network call at each candidate below 1.

    Args:
        callback: called as `callback(step, noisy_images, pred_images)` for each of these calls.

    Returns:
        (M, M) array for M candidates: the cost of a step from the first to the second index,
        infinite where that is not ahead.
    """
    if candidate_rates[-1] != 1:
        raise InputError(f"candidate rates must end in 1, not in {candidate_rates[-1]}")
    teacher, predictions = [], []

    def record(step: int, noisy_images: Any, pred_images: Any) -> None:
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
    """The path from the first point to the last in a number of steps whose costs sum to least.

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
    # The least cost of reaching each point: in no step, then in one more step each round.
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


def search_steps(
    model: Any,
    step_counts: Sequence[int],
    *,
    num_images: int = NUM_IMAGES,
    batch_size: int = 64,
    seed: int = 1,
    guidance: float = 0.0,
    callback: Callback | None = None,
) -> dict[int, list[float]]:
    """Searches for a DiffusionModel, for several numbers of steps at once.

    The candidates are the signal rates at which plain DDIM in CANDIDATES steps calls the network:
    that many calls for each of the images, and 2 * CANDIDATES images of memory for each of a batch.

    Args:
        step_counts: numbers of steps, each at least 1 and at most CANDIDATES.
        num_images, batch_size, seed, guidance: as for `DiffusionModel.generate`. The seed is not
            the one that the commands generate with by default.
        callback: called as `callback(step, noisy_images, pred_images)`, CANDIDATES times a batch.

    Returns:
        For each number of steps its signal rates, which `sampling_signal_rates` and
        `samplers.reverse_process` take as `spacing`.
    """
    for steps in step_counts:
        if not 1 <= steps <= CANDIDATES:
            raise InputError(f"steps can be searched for 1 to {CANDIDATES} of them, not {steps}")
    candidate_rates = model_signal_rates(model, CANDIDATES)
    costs = []

    def measure_costs(
        initial_noise: Any, diffusion_steps: int, callback: Callback | None, denoise: Denoise
    ) -> Any:
        costs.append(step_costs(denoise, initial_noise, candidate_rates, callback))
        return initial_noise  # in place of images, which nobody looks at

    # `generate` draws the noises and classes, and splits them into batches of one size.
    model.generate(
        num_images,
        CANDIDATES,
        seed=seed,
        batch_size=batch_size,
        callback=callback,
        reverse_process=measure_costs,
        guidance=guidance,
    )
    mean_costs = np.mean(costs, axis=0)
    paths = {steps: cheapest_path(mean_costs, steps) for steps in step_counts}
    return {steps: [candidate_rates[point] for point in path] for steps, path in paths.items()}
