"""Verdicts on the lab: schedule, denoising, reverse diffusion, and the training step."""

import math
from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np

from ddim_keras.check import closed_forms
from ddim_keras.check.closed_forms import MAX_SIGNAL_RATE, MIN_SIGNAL_RATE, rates
from ddim_keras.check.stand_ins import PIXEL_MEAN, PIXEL_STD
from ddim_keras.check.verdict import Verdict, fit, near

# Scale and shift of images in [0, 1]: as they are, to [-1, 1], and by the stand-in normaliser.
EXACT_NORMALISATIONS = ((1.0, 0.0), (2.0, -1.0), (1 / PIXEL_STD, -PIXEL_MEAN / PIXEL_STD))
OTHER_SPACING = (
    "The times run from 1 to 0 in N - 1 intervals; the published ones are 1, 1 - 1/N, ..., 1/N. "
    "It is another valid choice."
)
CLIPPED = (
    "The predicted images are clipped. Normalised images reach beyond [-1, 1]; the assignment "
    "clips in `denormalize` only."
)
PUBLISHED = (MAX_SIGNAL_RATE, MIN_SIGNAL_RATE)
Rates = tuple[np.ndarray, np.ndarray]


# diffusion_schedule


def judge_schedule(verdict: Verdict, observed: dict[str, Any], numbers: list[float]) -> None:
    """Unit variance, direction, ends and shape of the schedule.

    Args:
        observed: of `experiments.diffusion_schedule`.
        numbers: numbers in the file; the ends may be among them.
    """
    times = np.asarray(observed["times"])
    outputs = observed["outputs"]
    if not _judge_pair(verdict, "returns noise rates and signal rates", outputs):
        return
    if not verdict.test(
        "rates have the shape of the times",
        all(output.size == times.size for output in outputs),
        *(["batch"] if any(output.size == 1 for output in outputs) else []),
    ):
        return
    noise_rates, signal_rates = (np.asarray(output, "float64").ravel() for output in outputs)
    shape = (len(times), 1, 1, 1)
    verdict.test(
        "rates have the shape of the times", all(o.shape == shape for o in outputs), "batch"
    )
    pairs = [PUBLISHED]
    pairs += [
        (largest, smallest)
        for largest in numbers
        for smallest in numbers
        if largest >= 0.9 and smallest <= 0.1 and (largest, smallest) != PUBLISHED
    ][:20]
    for pair in pairs:
        if all(map(near, (noise_rates, signal_rates), rates(times, *pair), (5e-4, 5e-4))):
            verdict.test("squares of the rates add up to 1", True)
            verdict.test("signal rate falls from its published value to its last", True)
            if pair != PUBLISHED:
                verdict.hint(
                    f"The signal rates run from {pair[0]:g} to {pair[1]:g}, as the file says; the "
                    f"published ones from {MAX_SIGNAL_RATE} to {MIN_SIGNAL_RATE}."
                )
            return
    unit = near(noise_rates**2 + signal_rates**2, 1.0)
    falls = bool(np.all(np.diff(signal_rates) < 0) and np.all(np.diff(noise_rates) > 0))
    positive = bool(np.all(signal_rates > 1e-3) and np.all(noise_rates >= 0))
    mistakes = _schedule_mistakes(noise_rates, signal_rates, times, pairs)
    first, last = signal_rates[0], signal_rates[-1]
    plausible = 0.9 < first <= 1 + 1e-6 and 1e-3 < last < 0.1
    verdict.test("squares of the rates add up to 1", unit)
    ends = unit and falls and positive and plausible and not mistakes
    verdict.test("signal rate falls from its published value to its last", ends)
    if ends:
        verdict.hint(
            "This is not the published schedule, whose angle grows linearly between the signal "
            f"rates {MAX_SIGNAL_RATE} and {MIN_SIGNAL_RATE}; yours run from {first:.4g} to "
            f"{last:.4g}. It is a valid schedule."
        )
    elif mistakes:
        verdict.blame(*mistakes)
    elif near(noise_rates + signal_rates, 1.0):
        verdict.blame("sum_to_one")
    elif unit and falls and last < 1e-3:
        verdict.blame("no_signal")
    elif unit and not falls and np.all(np.diff(signal_rates) > 0):
        verdict.blame("direction")
    elif unit and np.ptp(signal_rates) < 1e-6:
        verdict.blame("batch")
    else:
        verdict.blame("ends" if unit else "not_unit")
    if not ends:
        verdict.hint(f"Signal rates at times 0 and 1: {first:.4g} and {last:.4g}.")


def _schedule_mistakes(
    noise_rates: np.ndarray, signal_rates: np.ndarray, times: np.ndarray, pairs: list
) -> list[str]:
    """The smallest combination of mistakes that gives these rates."""
    found: list[list[str]] = []
    for largest, smallest in pairs:
        first, last = math.acos(largest), math.acos(smallest)
        root_first, root_last = math.acos(math.sqrt(largest)), math.acos(math.sqrt(smallest))
        square_first, square_last = math.acos(largest**2), math.acos(smallest**2)
        angles = {
            "": first + times * (last - first),
            "direction": last + times * (first - last),
            "ends_as_variances": root_first + times * (root_last - root_first),
            "ends_squared": square_first + times * (square_last - square_first),
            "no_arccos": largest + times * (smallest - largest),
            "no_offset": times * math.pi / 2,
            "start_left_out": times * (last - first),
            "start_not_subtracted": first + times * last,
        }
        # Variants of the same mistakes.
        variants = {
            "direction": [first - times * (last - first)],
            "no_arccos": [smallest + times * (largest - smallest)],
            "no_offset": [math.pi / 2 * (1 - times)],
        }
        choices = list(angles.items())
        choices += [(name, angle) for name, more in variants.items() for angle in more]
        for name, angle in choices:
            noise, signal = np.sin(angle), np.cos(angle)
            outputs = {
                "": (noise, signal),
                "swapped": (signal, noise),
                "variances": (noise**2, signal**2),
                "variances ": (noise, signal**2),
                "root_left_out": (1 - signal**2, signal),
                "sum_to_one": (1 - signal, signal),
                "sum_to_one ": (noise, 1 - noise),
            }
            for output, (expected_noise, expected_signal) in outputs.items():
                if near(noise_rates, expected_noise) and near(signal_rates, expected_signal):
                    keys = [key.strip() for key in (output, name) if key]
                    if keys == ["swapped"]:
                        keys.append("arcsin")
                    found.append(keys)
    return min(found, key=lambda keys: len(set(keys) - {"arcsin"}), default=[])


# denoise


def judge_denoise(verdict: Verdict, observed: dict[str, Any]) -> None:
    """Inputs of the network, the choice of the network, and the two results."""
    noise_rates, signal_rates = observed["noise_rates"], observed["signal_rates"]
    for run in observed["runs"]:
        noisy_images, calls = run["noisy_images"], run["calls"]
        if not _judge_pair(verdict, "returns predicted noises and images", run["outputs"]):
            return
        if not calls:
            verdict.unchecked = (
                "it calls no network known to the checker; let it call `self.network`, or a "
                "parameter named network"
            )
            return
        call = calls[-1]
        verdict.test(
            "network gets the noisy images",
            near(call["noisy_images"], noisy_images),
            "gets_other_images",
        )
        _judge_condition(verdict, call["condition"], noise_rates, signal_rates)
        if verdict.tests.get("network gets the noisy images"):
            _judge_split(verdict, run, call, noise_rates, signal_rates)
    if observed["chooses"]:
        used = {run["training"]: run["calls"][-1]["network"] for run in observed["runs"]}
        right = used == {True: "network", False: "ema_network"}
        mistake = {
            (False, False): "networks_exchanged",
            (True, False): "always_network",
            (False, True): "always_average",
        }.get((used[True] == "network", used[False] == "ema_network"))
        verdict.test("uses the average unless training", right, *([mistake] if mistake else []))


def _judge_condition(
    verdict: Verdict, condition: Any, noise_rates: np.ndarray, signal_rates: np.ndarray
) -> None:
    test = "network gets the noise variance"
    levels = _per_image(condition, len(noise_rates))
    if levels is None:
        verdict.test(test, False, "gets_other_level")
        return
    noise, signal = noise_rates.ravel(), signal_rates.ravel()
    angles = np.arctan2(noise, signal)
    first, last = (math.acos(rate) for rate in PUBLISHED)
    candidates = {
        "gets_noise_rate": [noise],
        "gets_signal": [signal, signal**2],
        "gets_time": [(angles - first) / (last - first)],
        "batch": [noise[:1] ** 2, np.mean(noise**2)],
    }
    if near(levels, noise**2):
        verdict.test(test, True)
        return
    found = [key for key, values in candidates.items() if any(near(levels, v) for v in values)]
    verdict.test(test, False, *(found or ["gets_other_level"]))


def _judge_split(
    verdict: Verdict, run: dict, call: dict, noise_rates: np.ndarray, signal_rates: np.ndarray
) -> None:
    first, second = run["outputs"][:2]
    x, p, n, s = run["noisy_images"], call["pred_noises"], noise_rates, signal_rates
    shape_test = "results have the shape of the images"
    if not verdict.test(shape_test, first.shape == second.shape == x.shape, "batch"):
        return
    if not np.all(np.isfinite(first)) or not np.all(np.isfinite(second)):
        verdict.test("results are finite", False)
        return
    if near(first, (x - s * p) / n) and near(second, p):
        verdict.test("takes the network's output for the noise", False, "predicts_image")
        return
    first_test, second_test = "first result is the predicted noise", "splits the noisy images"
    exchanged = not near(first, p) and near(second, p)
    if exchanged:
        verdict.test(first_test, False, "order")
        second = first
    else:
        verdict.test(first_test, near(first, p), "other_noises")
    right = (x - n * p) / s
    if near(second, right):
        verdict.test(second_test, True)
        if run["denoiser"] == "one_image" and verdict.tests.get("network gets the noise variance"):
            verdict.test("finds a single image exactly", near(second, run["clean"], 5e-3))
        return
    if any(near(second, np.clip(right, low, 1)) for low in (-1, 0)):
        verdict.test(second_test, True)
        verdict.hint(CLIPPED)
        return
    candidates = {
        "sign": [(x + n * p) / s, (n * p - x) / s],
        "divides_by_noise": [(x - n * p) / n, (x - p) / n, (x - n * p) / (1 - n)],
        "not_divided": [x - n * p, x / s - n * p],
        "multiplied": [(x - n * p) * s],
        "swapped": [(x - s * p) / n, (x - s * p) / s],
        "variance_for_rate": [
            (x - n**2 * p) / s,
            (x - n * p) / s**2,
            (x - n**2 * p) / s**2,
        ],
        "root_of_rate": [
            (x - np.sqrt(n) * p) / s,
            (x - n * p) / np.sqrt(s),
            (x - np.sqrt(n) * p) / np.sqrt(s),
        ],
        "noise_not_scaled": [(x - p) / s, x - p],
        "batch": [(x - n[:1] * p) / s[:1], (x - n.mean() * p) / s.mean()],
    }
    found = [key for key, values in candidates.items() if any(near(second, v) for v in values)]
    verdict.test(second_test, False, *(found or ["other_images"]))


# reverse_diffusion


def judge_reverse(verdict: Verdict, observed: dict[str, Any]) -> None:
    """Times, mixing, result and determinism; closed forms of a Gaussian and of one image.

    The runs with correct other functions, or those with the student's own, must pass.
    """
    chances = []
    for isolated in (True, False):
        chance = Verdict(verdict.gap)
        schedule = _published_schedule() if isolated else _measured(observed["measured"])
        if schedule is None and observed["measured"] is not None:
            continue
        # Long runs first: they distinguish mistakes that look the same in a single step.
        runs = [run for run in observed["runs"] if run["isolated"] == isolated]
        for run in sorted(runs, key=lambda run: -run["steps"]):
            _judge_run(chance, run, schedule or _published_schedule(), observed)
        chances.append(chance)
    if not chances:
        return
    # Correct, or with an explanation, or at least without an exception.
    best = min(
        chances, key=lambda chance: (not chance.right, bool(chance.error), not chance.mistakes)
    )
    verdict.tests, verdict.mistakes, verdict.hints = best.tests, best.mistakes, best.hints
    if not best.right:
        verdict.error = best.error


Schedule = tuple[
    Callable[[np.ndarray | float], np.ndarray], Callable[[np.ndarray | float], np.ndarray]
]


def _published_schedule() -> Schedule:
    """Angle of times, and time of angles."""
    first, last = (math.acos(rate) for rate in PUBLISHED)
    return (
        lambda times: first + np.asarray(times) * (last - first),
        lambda angles: (np.asarray(angles) - first) / (last - first),
    )


def _measured(grid: list[np.ndarray] | None) -> Schedule | None:
    """The student's own schedule, if its rates are those of a valid one."""
    if not _is_pair(grid) or grid[0].size != grid[1].size:
        return None
    noise_rates, signal_rates = (np.asarray(values, "float64").ravel() for values in grid)
    angles = np.arctan2(noise_rates, signal_rates)
    if not near(noise_rates**2 + signal_rates**2, 1.0) or not np.all(np.diff(angles) > 0):
        return None
    times = np.linspace(0, 1, len(angles))
    slope = (angles[-1] - angles[0]) / 1.0

    def time_of(values: np.ndarray | float) -> np.ndarray:
        inside = np.interp(values, angles, times)
        outside = np.minimum(values - angles[0], 0) + np.maximum(values - angles[-1], 0)
        return inside + outside / slope

    return lambda values: np.interp(values, times, angles), time_of


def _judge_run(
    verdict: Verdict, run: dict[str, Any], schedule: Schedule, observed: dict[str, Any]
) -> None:
    steps, noise = run["steps"], observed["initial_noise"]
    if "error" in run:
        if steps == 1 and verdict.tests.get("runs"):  # more steps do
            verdict.test("a single step runs", False)
            verdict.hint(f"With one step: {run['error']}")
            if not verdict.mistakes:
                verdict.blame("single_step")
            return
        verdict.test("runs", False)
        verdict.error = verdict.error or run["error"]
        return
    verdict.test("runs", True)
    output, calls = run["outputs"][-1], run["calls"]
    if output is None:
        verdict.error = "it returns nothing; is it finished?"
    if not verdict.test("returns images", output is not None and output.shape == noise.shape):
        return
    if not verdict.test("calls the network", bool(calls)):
        return
    verdict.test(
        "starts from the initial noise",
        near(calls[0]["noisy_images"], noise),
        "noise_ignored",
    )
    first, second = run["outputs"]
    deterministic = near(first, second, 1e-4)
    splits = [split for call in calls if (split := _split(call)) is not None]
    if not verdict.test("tells the network the noise level", len(splits) == len(calls)):
        verdict.blame("denoise.gets_other_level")
        return
    angle_of, time_of = schedule
    times = np.array([time_of(np.arctan2(n, s).mean()) for _, _, n, s in splits])
    right = 1 - np.arange(steps) / steps
    unexplained = len(times) == steps > 1 and not near(times, right, 5e-3)
    exchanged = np.array([time_of(np.arctan2(s, n).mean()) for _, _, n, s in splits])
    if unexplained and near(exchanged, right, 5e-3):
        verdict.test("times are 1, 1 - 1/N, ..., 1/N", False, "swapped")
        return
    if "noise_rates" not in calls[0] and unexplained:
        # A network that is called here: is its second input the noise rate?
        as_rates = [time_of(np.arcsin(np.clip(n.mean() ** 2, 0, 1))) for _, _, n, _ in splits]
        if near(np.array(as_rates), right, 5e-3):
            verdict.test("network gets the noise variance", False, "denoise.gets_noise_rate")
            return
    _judge_times(verdict, times, steps)
    if len(calls) > 1:
        following = [call["noisy_images"] for call in calls[1:]]
        angles: list[float | None]
        if OTHER_SPACING in verdict.hints:
            angles = [None] * len(following)
        else:
            angles = [float(angle_of(time - 1 / steps)) for time in times[:-1]]
        _judge_mixing(verdict, splits[:-1], following, angles, noise)
    verdict.test("same noise, same images", deterministic, "fresh_noise")
    if observed["has_average"]:
        verdict.test(
            "uses the average",
            all(call["network"] == "ema_network" for call in calls),
            "trained_network",
        )
    _judge_result(verdict, output, calls[-1], splits[-1], times[-1] - 1 / steps, angle_of)
    if verdict.right and schedule[0](1.0) == _published_schedule()[0](1.0):
        name = "one image is found" if run["denoiser"] == "one_image" else "Gaussian: closed form"
        expected = (
            closed_forms.data_of(noise.shape)[0]
            if run["denoiser"] == "one_image"
            else closed_forms.ddim_of_gaussian(noise, steps)
        )
        if not {OTHER_SPACING, CLIPPED} & set(verdict.hints):
            verdict.test(name, near(output, np.broadcast_to(expected, output.shape), 5e-3))


def _split(call: dict[str, Any]) -> tuple | None:
    """Predicted images and noises of a call, and its rates (B, 1, 1, 1); None without a level."""
    noisy_images, pred_noises = (
        np.asarray(call[name], "float64") for name in ("noisy_images", "pred_noises")
    )
    shape = (-1, *[1] * (noisy_images.ndim - 1))
    if "noise_rates" in call:
        noise_rates, signal_rates = (
            np.asarray(_per_image(call[name], len(noisy_images)), "float64")
            for name in ("noise_rates", "signal_rates")
        )
    else:
        levels = _per_image(call["condition"], len(noisy_images))
        if levels is None:
            return None
        noise_rates = np.sqrt(np.clip(levels, 1e-9, 1 - 1e-9))
        signal_rates = np.sqrt(1 - noise_rates**2)
    noise_rates, signal_rates = noise_rates.reshape(shape), signal_rates.reshape(shape)
    with np.errstate(all="ignore"):
        pred_images = (noisy_images - noise_rates * pred_noises) / signal_rates
    return pred_images, pred_noises, noise_rates, signal_rates


def _judge_times(verdict: Verdict, times: np.ndarray, steps: int) -> None:
    count, right = len(times), 1 - np.arange(len(times)) / steps
    fits = near(times, right, 5e-3)
    if count != steps:
        name = {1: "one_more", -1: "one_less"}.get(count - steps, "count")
        if count == 1 and steps > 2:
            name = "returns_in_loop"
        verdict.test("one call per step", False, name)
        if not fits and count > 1 and np.all(np.diff(times) > 0):
            verdict.blame("ascending")
        return
    verdict.test("one call per step", True)
    if fits:
        verdict.test("times are 1, 1 - 1/N, ..., 1/N", True)
        return
    index = np.arange(count)
    if near(times, right - 1 / steps, 5e-3):
        mistake = "time_advanced"
    elif count > 1 and np.all(np.diff(times) > 1e-3):
        mistake = "ascending"
    elif count > 1 and np.ptp(times) < 5e-3:
        mistake = "time_constant"
    elif count > 1 and near(times, 1 - index / (count - 1), 5e-3):
        verdict.hint(OTHER_SPACING)
        return
    else:
        mistake = "step_size"
    verdict.test("times are 1, 1 - 1/N, ..., 1/N", False, mistake)


def _judge_mixing(
    verdict: Verdict,
    splits: list[tuple],
    following: list[np.ndarray],
    angles: list[float | None],
    initial_noise: np.ndarray,
) -> None:
    """The next noisy image of each step, as a combination of the predicted image and noise.

    Args:
        angles: angles of the rates of the next step; None if they do not belong to a time.
    """
    test = "mixes prediction and noise for the next step"
    explanations: list[set[tuple[str, ...]]] = []
    fresh, of_a_time = False, True
    for (pred_images, pred_noises, n, s), found, angle in zip(
        splits, following, angles, strict=True
    ):
        if not np.all(np.isfinite(found)):
            verdict.test(test, False)
            return
        (a, b), _, residuals = fit(found, pred_images, pred_noises)
        exact = float(np.std(residuals)) < 2e-3
        if angle is None:
            if not (exact and near(a**2 + b**2, 1.0, 1e-2)):
                explanations.append({("wrong_mix",)})
            continue
        next_n, next_s = math.sin(angle), math.cos(angle)
        # At small signal rates, rounding moves the result more than the factors.
        close = exact and abs(a - next_s) < 0.02 and abs(b - next_n) < 0.02
        if close or near(found, next_s * pred_images + next_n * pred_noises):
            continue
        clipped = (np.clip(pred_images, low, 1) for low in (-1, 0))
        if any(near(found, next_s * images + next_n * pred_noises) for images in clipped):
            verdict.hint(CLIPPED)
            continue
        noisy_images = s * pred_images + n * pred_noises
        candidates = {
            ("old_time", "not_carried_on"): [noisy_images],
            ("swapped",): [next_n * pred_images + next_s * pred_noises],
            ("variances",): [
                next_s**2 * pred_images + next_n**2 * pred_noises,
                next_s**2 * pred_images + next_n * pred_noises,
                next_s * pred_images + next_n**2 * pred_noises,
            ],
            ("not_remixed",): [pred_images, next_s * pred_images],
            ("initial_noise_mixed",): [next_s * pred_images + next_n * initial_noise],
            ("noisy_mixed",): [
                next_s * pred_images + next_n * noisy_images,
                next_s * noisy_images + next_n * pred_noises,
            ],
            ("wrong_mix",): [next_s * pred_images - next_n * pred_noises],
        }
        explanations.append(
            {
                keys
                for keys, values in candidates.items()
                if any(near(found, value) for value in values)
            }
        )
        fresh = fresh or not exact
        of_a_time = of_a_time and exact and near(a**2 + b**2, 1.0, 5e-3) and min(a, b) > 0
    if not explanations:
        verdict.test(test, True)
        return
    common = set.intersection(*explanations)
    # In the order of the candidates, the likeliest first.
    order = [keys for keys in _MIXING_ORDER if keys in common]
    otherwise = "fresh_noise" if fresh else "wrong_next_time" if of_a_time else "wrong_mix"
    verdict.test(test, False, *(order[0] if order else [otherwise]))


_MIXING_ORDER = (
    ("old_time", "not_carried_on"),
    ("swapped",),
    ("variances",),
    ("not_remixed",),
    ("initial_noise_mixed",),
    ("noisy_mixed",),
    ("wrong_mix",),
)


def _judge_result(
    verdict: Verdict,
    output: np.ndarray,
    call: dict,
    split: tuple,
    last_time: float,
    angle_of: Callable,
) -> None:
    test = "returns the predicted images of the last step"
    pred_images, pred_noises, *_ = split
    if near(output, pred_images, 5e-3):
        verdict.test(test, True)
        return
    for scaled in (np.clip(pred_images, 0, 1), np.clip(pred_images, -1, 1)):
        if near(output, scaled, 5e-3):
            verdict.test(test, True)
            verdict.hint(CLIPPED)
            return
    angle = float(angle_of(max(last_time, 0.0)))
    mixed = math.cos(angle) * pred_images + math.sin(angle) * pred_noises
    mistakes = []
    if near(output, mixed, 5e-3) or near(output, call["noisy_images"], 5e-3):
        mistakes = ["noisy_returned"]
    elif near(output, pred_noises, 5e-3):
        mistakes = ["noises_returned"]
        unpacked, swapped = f"{verdict.gap}.unpacked", f"{verdict.gap}.swapped"
        if swapped in verdict.mistakes:  # in the mixing as well
            verdict.mistakes[:] = [unpacked, *(m for m in verdict.mistakes if m != unpacked)]
    elif not verdict.mistakes:
        # The noise that is kept may be mixed wrongly as well.
        _, _, residuals = fit(output, pred_images, pred_noises)
        mistakes = ["noisy_returned"] if np.std(residuals) < 2e-3 else ["other_result"]
    verdict.test(test, False, *mistakes)


# train_step


def judge_train_step(verdict: Verdict, observed: dict[str, Any]) -> None:
    """Normalisation, mixing, loss and average of two training steps."""
    for step in observed["steps"]:
        calls = step["calls"]
        trained = [call for call in calls if call["network"] == "network"]
        (before, average_before), (after, average_after) = step["before"], step["after"]
        if not calls:
            verdict.unchecked = "the training step calls no network of the stand-in"
            return
        if not trained:
            verdict.test("trains the network", False, "trains_average")
            continue
        call = trained[0]
        noises = _judge_noisy_images(verdict, call, step["images"], observed["has_normalizer"])
        moved = float(np.max(np.abs(after - before)))
        updated = verdict.test("trains the network", moved > 0, "no_update")
        if updated and noises is not None:
            judge_gradient(
                verdict,
                (before - after) / observed["learning_rate"],
                call,
                noises,
            )
        if updated and observed["has_average"]:
            _judge_average(verdict, before, after, average_before, average_after)
    if observed["starting_weights"] is False and observed["has_average"]:
        sentence = "The average starts from other random weights than the network"
        if observed["copies_network"]:
            # The published example has this, so it is not the student's mistake.
            verdict.hint(
                f"{sentence}, because `clone_model` does not copy weights: add "
                "`self.ema_network.set_weights(self.network.get_weights())`."
            )
        else:
            verdict.test("average starts from the weights of the network", False, "ema_start")


def _judge_noisy_images(
    verdict: Verdict, call: dict, images: np.ndarray, has_normalizer: bool
) -> np.ndarray | None:
    """Judges the noisy images of a training step; returns their noises if they can be found."""
    split = _split(call)
    test = "mixes normalised images with noise"
    noisy = np.asarray(call["noisy_images"], "float64")
    if split is None or noisy.shape != images.shape:
        verdict.hint("The noisy images of the training step could not be recognised.")
        return None
    _, _, n, s = split
    fits = {}
    for name, (noise_rate, signal_rate) in {"": (n, s), "swapped": (s, n)}.items():
        # noisy / noise_rate = signal_rate / noise_rate * (scale * images + shift) + noises
        ratio = signal_rate / noise_rate
        (scale, shift), _, noises = fit(noisy / noise_rate, ratio * images, ratio)
        fits[name] = scale, shift, noises
    scale, shift, noises = fits[""]
    for exact in EXACT_NORMALISATIONS:
        if abs(scale - exact[0]) < 0.3 and abs(shift - exact[1]) < 0.3:
            # The estimate is rough; the noises that follow from the exact one are not.
            noises = (noisy - s * (exact[0] * images + exact[1])) / n
    uniform = _uniform(noisy, n, s, images)
    if abs(np.std(noises) - 1) < 0.05:
        shared = len(noises) > 1 and np.corrcoef(noises[0].ravel(), noises[1].ravel())[0, 1] > 0.5
        verdict.test("each image has its own noise", not shared, "shared_noise")
        if not has_normalizer:
            verdict.test(test, True)
            return noises
        if near(scale, 1 / PIXEL_STD, 0.05) and abs(shift + PIXEL_MEAN / PIXEL_STD) < 0.3:
            verdict.test(test, True)
            return noises
        mistake = "normalised_twice" if scale > 2 / PIXEL_STD else "normalisation_missing"
        verdict.test(test, False, mistake)
        return noises
    if uniform:
        verdict.test(test, False, "uniform_noise")
    elif abs(np.std(fits["swapped"][2]) - 1) < 0.05:
        verdict.test(test, False, "swapped")
    else:
        verdict.test(test, False, "mix")
    return None


def _uniform(noisy: np.ndarray, n: np.ndarray, s: np.ndarray, images: np.ndarray) -> bool:
    """Whether the noise has the mean and deviation of a uniform one in [0, 1] or [-1, 1]."""
    ratio = s / n
    (_, _, mean), _, rest = fit(noisy / n, ratio * images, ratio, np.ones_like(noisy))
    deviation = float(np.std(rest))
    of_unit = abs(deviation - 12**-0.5) < 0.03 and abs(mean - 0.5) < 0.1
    return of_unit or (abs(deviation - 3**-0.5) < 0.03 and abs(mean) < 0.1)


def judge_gradient(
    verdict: Verdict, gradient: np.ndarray, call: dict, noises: np.ndarray
) -> float | None:
    """Judges which loss the gradient of the weights belongs to.

    Args:
        gradient: gradient of the stand-in network's weights.
        noises: noises in the noisy images.

    Returns:
        The gradient as a multiple of that of the mean noise error, if it is one.
    """
    test = "minimises the mean error of the noise"
    noisy, p = (np.asarray(call[name], "float64") for name in ("noisy_images", "pred_noises"))
    size, batch = noisy.size, len(noisy)
    split = _split(call)
    candidates: dict[str, list[np.ndarray]] = {}

    def gradients(error: np.ndarray, weight: Any = 1.0) -> list[np.ndarray]:
        factors = [feature * weight for feature in closed_forms.features(noisy)]
        shapes = [2 * error, np.sign(error), np.clip(error, -1, 1)]
        return [np.array([np.mean(shape * factor) for factor in factors]) for shape in shapes]

    candidates[""] = gradients(p - noises)
    if split is not None:
        pred_images, _, n, s = split
        images = (noisy - n * noises) / s
        candidates["loss_on_image"] = gradients(pred_images - images, -n / s)
        candidates["loss_on_both"] = [
            noise + image
            for noise, image in zip(candidates[""], candidates["loss_on_image"], strict=True)
        ]
        candidates["loss_mixed_up"] = [
            *gradients(p - images),
            *gradients(pred_images - noises, -n / s),
            *gradients(p - noisy),
            *gradients(p + images - noisy),
            *gradients(pred_images - noisy, -n / s),
        ]
    independent = np.random.default_rng(0).standard_normal(noisy.shape)
    candidates["other_noise"] = gradients(p - independent)
    fits = []
    for name, values in candidates.items():
        tolerance = {"": 0.02, "other_noise": 0.1}.get(name, 0.01)
        for value in values:
            factor = float(gradient @ value / (value @ value))
            misfit = np.linalg.norm(gradient - factor * value) / np.linalg.norm(gradient)
            is_mean = 0.8 < factor < 1.2 or abs(factor / size - 1) < 0.05
            # Another noise is not known: the fit is rough, and counts only if nothing else fits.
            if factor > 0 and misfit < tolerance and (is_mean or not name):
                fits.append((name == "other_noise", misfit, name, factor))
    if fits:
        _, _, name, factor = min(fits)
        if name:
            verdict.test(test, False, name)
            return None
        if abs(factor / size - 1) < 0.05:
            verdict.test(test, False, "sum")
            return factor
        verdict.test(test, True)
        if abs(factor * batch / size - 1) < 0.05:
            verdict.hint("The loss is a sum over the pixels of each image.")
        elif factor > 1.5:
            verdict.hint(
                "The loss is not a mean over all values: its scale depends on the batch or the "
                "image size. Reduce it to its mean."
            )
        return factor
    verdict.hint("The loss was not recognised; it is not a squared, absolute or Huber error.")
    return None


def _judge_average(
    verdict: Verdict,
    before: np.ndarray,
    after: np.ndarray,
    average_before: np.ndarray,
    average_after: np.ndarray,
) -> None:
    """The momentum follows from each of the weights; all agree for the right formula."""
    test = "average follows the weights after the step"
    if np.array_equal(average_before, average_after):
        verdict.test(test, False, "ema_missing")
        return
    if near(average_after, after, 1e-6):
        verdict.test(test, False, "ema_copied")
        return

    def spread(weights: np.ndarray) -> tuple[float, float]:
        momenta = (average_after - weights) / (average_before - weights)
        return float(np.ptp(momenta)), float(np.mean(momenta))

    (spread_after, momentum), (spread_before, _) = spread(after), spread(before)
    if spread_after > 5 * spread_before:
        verdict.test(test, False, "ema_before")
    elif momentum < 0.05:
        verdict.test(test, False, "ema_reversed")
    else:
        verdict.test(test, True)


# Helpers.


def _judge_pair(verdict: Verdict, test: str, outputs: Any) -> bool:
    if outputs is None:
        verdict.error = "it returns nothing; is it finished?"
    return verdict.test(test, _is_pair(outputs), *(["not_two"] if outputs is not None else []))


def _is_pair(outputs: Any) -> TypeGuard[list[np.ndarray]]:
    return (
        isinstance(outputs, list)
        and len(outputs) == 2
        and all(isinstance(output, np.ndarray) for output in outputs)
    )


def _per_image(condition: Any, batch: int) -> np.ndarray | None:
    """A number for each image, from an array in which it may be repeated over pixels."""
    if not isinstance(condition, np.ndarray) or condition.size == 0:
        return None
    if condition.size == 1:
        return np.full(batch, float(condition.ravel()[0]))
    if condition.size % batch:
        return None
    values = condition.reshape(batch, -1).astype("float64")
    return values[:, 0] if np.ptp(values, axis=1).max() < 1e-6 else None
