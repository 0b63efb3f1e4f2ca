"""Verdicts on the exercise: forward process, ancestral sampling, and training of a DDPM."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ddim_keras.check.closed_forms import alpha_bars_of, posterior_variances
from ddim_keras.check.judge_lab import judge_gradient
from ddim_keras.check.verdict import Verdict, fit, near

LONG = 50  # steps; longer chains come from classes with a fixed number


# sample_xt


def judge_sample_xt(verdict: Verdict, observed: dict[str, Any]) -> None:
    """The factors of image and noise, for a batch whose steps differ and for one step."""
    x0, epsilon, results = observed["x0"], observed["epsilon"], observed["results"]
    bars, steps = observed["alpha_bars"], observed["steps"]
    batch = results["batch"]
    output = batch["outputs"][0] if batch.get("outputs") else None
    if "error" not in batch and output is None:
        verdict.test("returns noisy images", False)
        return
    ok = output is not None and output.shape == x0.shape
    if not verdict.test("takes a step for each image", ok, "broadcast") or output is None:
        if "error" in batch:
            verdict.hint(f"With a batch of steps: {batch['error']}")
        if results["single"].get("outputs"):
            output = results["single"]["outputs"][0]
            if output.shape == x0.shape:
                _judge_factors(verdict, output, x0, epsilon, bars, np.full(len(x0), 4))
        return
    _judge_factors(verdict, output, x0, epsilon, bars, steps)
    if not verdict.right:
        return
    drawn = results["drawn"]
    if "error" in drawn:
        verdict.hint("The sheet allows epsilon=None, and then noise is drawn; this fails here.")
        return
    if not drawn.get("outputs") or drawn["outputs"][0].shape != x0.shape:
        return
    factor = np.sqrt(bars[steps]).reshape(-1, 1, 1, 1)
    noises = (drawn["outputs"][0] - factor * x0) / np.sqrt(1 - factor**2)
    if abs(np.std(noises) - 1) > 0.1:
        verdict.hint("Without epsilon, the noise that is drawn is not standard normal.")


def _judge_factors(
    verdict: Verdict,
    output: np.ndarray,
    x0: np.ndarray,
    epsilon: np.ndarray,
    bars: np.ndarray,
    steps: np.ndarray,
) -> None:
    images = zip(output, x0, epsilon, strict=True)
    fits = [fit(image, clean, noise) for image, clean, noise in images]
    a, b = np.array([factors for factors, _, _ in fits]).T
    exact = bool(max(np.std(residuals) for _, _, residuals in fits) < 1e-3)
    if not verdict.test("is a mixture of image and noise", exact):
        verdict.blame("noise_ignored" if near(np.abs(b), 0.0, 0.3) else "broadcast")
        return
    test = "factors are sqrt(alpha_bar) and sqrt(1 - alpha_bar)"
    if near(a, np.sqrt(bars[steps])) and near(b, np.sqrt(1 - bars[steps])):
        verdict.test(test, True)
        return
    alphas = bars / np.array([1.0, *bars[:-1]])
    other_bars = {
        (): [bars[steps]],
        ("off_by_one",): [np.roll(bars, shift)[steps] for shift in (1, -1)],
        ("alpha",): [alphas[steps]],
        ("product_twice",): [np.cumprod(bars)[steps]],
        ("broadcast",): [np.broadcast_to(bars[steps[:1]], a.shape)],
    }
    of_image: list[tuple[tuple[str, ...], np.ndarray]] = [(("signal_missing",), np.ones_like(a))]
    of_noise: list[tuple[tuple[str, ...], np.ndarray]] = [(("noise_missing",), np.ones_like(a))]
    for keys, values in other_bars.items():
        for bar in values:
            signal, noise = np.sqrt(bar), np.sqrt(1 - bar)
            of_image += [
                (keys, signal),
                ((*keys, "signal_root"), bar),
                ((*keys, "swapped"), noise),
                ((*keys, "swapped", "signal_root"), 1 - bar),
            ]
            of_noise += [
                (keys, noise),
                ((*keys, "noise_root"), 1 - bar),
                ((*keys, "one_minus_root"), 1 - signal),
                ((*keys, "swapped"), signal),
                ((*keys, "swapped", "noise_root"), bar),
                ((*keys, "sign"), -noise),
                ((*keys, "sign", "noise_root"), bar - 1),
            ]
    pairs = [
        list(dict.fromkeys((*image_keys, *noise_keys)))
        for image_keys, expected_a in of_image
        for noise_keys, expected_b in of_noise
        if near(a, expected_a) and near(b, expected_b)
    ]
    mistakes = min(pairs, key=len, default=["other_factors"])
    if {"signal_root", "noise_root"} <= set(mistakes):
        mistakes = [
            "roots_left_out",
            *(key for key in mistakes if key not in ("signal_root", "noise_root")),
        ]
    verdict.test(test, False, *mistakes)


# sample


def judge_sample(
    verdict: Verdict, observed: dict[str, Any], trained_offset: int | None = None
) -> None:
    """Steps, factors of the mean, sigma, the end, and classes.

    Args:
        trained_offset: difference between the step that `train` passes to the network and the index
            of alpha-bar; None if unknown.
    """
    chances = []
    for run, betas in _with_betas(observed):
        chance = Verdict(verdict.gap)
        _judge_chain(chance, run["cases"]["plain"], betas, trained_offset)
        if "classes" in run["cases"]:
            _judge_classes(chance, run["cases"]["classes"], len(betas))
        chances.append(chance)
    best = max(chances, key=lambda chance: (chance.right, sum(chance.tests.values())))
    verdict.tests, verdict.mistakes, verdict.hints = best.tests, best.mistakes, best.hints


def _with_betas(observed: dict[str, Any]) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Each run with the betas of its ddpm, and with constant betas of the file."""
    for run in observed["runs"]:
        for betas in (run["betas"], *observed["global_betas"].values()):
            betas = np.asarray(betas, "float64")
            if betas.ndim == 1 and len(betas) >= 3 and np.all((betas > 0) & (betas < 1)):
                yield run, betas


def _judge_chain(
    verdict: Verdict, case: dict[str, Any], betas: np.ndarray, trained_offset: int | None
) -> None:
    output, calls, num_steps = case["output"], case["calls"], len(betas)
    if not verdict.test("returns images", output is not None and output.ndim >= 3):
        return
    if not verdict.test("returns n_samples images", len(output) == case["n_samples"], "number"):
        return
    if not verdict.test("calls the network", bool(calls)):
        return
    given = _as_steps(np.array([_step_of(call) for call in calls]), num_steps, verdict)
    count = case["num_calls"]
    if not verdict.test(
        "runs over all steps",
        count == num_steps,
        *(["one_less"] if count == num_steps - 1 else ["one_more"] if count > num_steps else []),
    ):
        return
    shape_ok = all(call["noisy_images"].shape == output.shape for call in calls)
    if not verdict.test("keeps the shape of the images", shape_ok):
        return
    descending = np.arange(num_steps)[::-1]
    if len(calls) < num_steps:  # the middle of a long chain is not recorded
        descending = np.concatenate(
            [descending[: len(calls) // 2], descending[-(len(calls) // 2) :]]
        )
    if np.all(np.diff(given) > 0):
        verdict.test("begins with the last step", False, "ascending")
        return
    verdict.test("begins with the last step", True)
    offsets = given - descending
    fits = bool(np.all(offsets == 0))
    if not fits and np.all(offsets == 1):
        # Steps counted from 1, as in the paper: correct if the network was trained with them.
        if trained_offset is None:
            verdict.hint("The network gets the steps 1 to T; it must have been trained with these.")
        fits = trained_offset == 1
    elif fits and trained_offset == 1:
        fits = False
    verdict.test("network gets the step", fits, "off_by_one")
    residuals, sigmas, factors, means = [], [], [], []
    start = _images_of(calls[0])
    is_noise = abs(float(np.mean(start))) < 0.1 and abs(float(np.std(start)) - 1) < 0.1
    verdict.test("starts from standard normal noise", is_noise, "start")
    output = _judge_output(verdict, output, calls[-1], betas)
    if output is None:
        return
    images = [call["noisy_images"] for call in calls] + [output]
    if not verdict.test("images stay finite", all(np.all(np.isfinite(x)) for x in images)):
        return
    for index, call in enumerate(calls):
        if len(calls) < num_steps and index == len(calls) // 2 - 1:
            continue  # what follows was not recorded
        is_last = index == len(calls) - 1
        (a, b, mean), errors, rest = fit(
            images[index + 1], images[index], call["pred_noises"], np.ones(1)
        )
        means.append(abs(mean) / max(float(np.std(rest)), 2e-3))
        step = descending[index]
        if is_last:
            verdict.test("adds no noise in the last step", np.std(rest) < 2e-3, "noise_at_end")
        if index or is_noise:
            factors.append((step, a, b, errors))
        if not is_last:
            sigmas.append((step, float(np.std(rest)), rest.size))
            residuals.append(rest)
    if not _judge_independence(verdict, residuals):
        return
    if np.mean(means[:-1]) > 0.3:
        verdict.test("draws the noise from a normal distribution", False, "uniform_noise")
    else:
        _judge_mean(verdict, factors, betas)
        _judge_sigma(verdict, sigmas, betas)


def _images_of(call: dict[str, Any]) -> np.ndarray:
    """The noisy images with which the network was called."""
    return np.asarray(call["noisy_images"], "float64")


def _as_steps(given: np.ndarray, num_steps: int, verdict: Verdict) -> np.ndarray:
    """Steps, even if they are passed to the network as shares of their number."""
    if given.size < 2 or not 0 <= given.min() <= given.max() <= 1 or np.all(given % 1 == 0):
        return given
    verdict.hint("The network gets the step divided by the number of steps.")
    for factor in (num_steps, num_steps - 1):
        if near(given * factor, np.round(given * factor), 1e-3):
            return np.round(given * factor)
    return given


def _step_of(call: dict[str, Any]) -> float:
    condition = call["condition"]
    return float(np.ravel(condition)[0]) if condition is not None else -1.0


def _judge_output(
    verdict: Verdict, output: np.ndarray, call: dict[str, Any], betas: np.ndarray
) -> np.ndarray | None:
    """The image after the last step, even if it was scaled or clipped for display."""
    test = "returns the image after the last step"
    x, p = call["noisy_images"], call["pred_noises"]
    if near(output, p) or near(output, x):
        verdict.test(test, False, "output")
        return None
    expected = (x - betas[0] / np.sqrt(1 - alpha_bars_of(betas)[0]) * p) / np.sqrt(1 - betas[0])
    for scaled in ((expected + 1) / 2, np.clip(expected, -1, 1), np.clip((expected + 1) / 2, 0, 1)):
        if near(output, scaled, 1e-3) and not near(output, expected, 1e-3):
            verdict.hint("The result is scaled or clipped after the last step.")
            return expected
    verdict.test(test, True)
    return output


def _judge_mean(verdict: Verdict, factors: list, betas: np.ndarray) -> None:
    """The two factors of the mean over all steps, against the formula and its known mistakes."""
    if not factors:
        return
    bars, alphas = alpha_bars_of(betas), 1 - betas
    steps = np.array([step for step, *_ in factors])
    a = np.array([factor for _, factor, _, _ in factors])
    b = np.array([factor for _, _, factor, _ in factors])
    errors = np.array([error for *_, error in factors])
    tolerance_a = 5 * errors[:, 0] + 2e-3
    tolerance_b = 5 * errors[:, 1] + 2e-3

    def fits(expected: np.ndarray, found: np.ndarray, tolerance: np.ndarray) -> bool:
        return bool(np.all(np.abs(found - expected) <= tolerance * (1 + np.abs(expected))))

    def distance(expected: np.ndarray, found: np.ndarray, tolerance: np.ndarray) -> float:
        return float(np.mean(((found - expected) / tolerance) ** 2))

    alpha, bar, beta = alphas[steps], bars[steps], betas[steps]
    scale_forms = {
        (): 1 / np.sqrt(alpha),
        ("not_divided",): np.ones_like(alpha),
        ("alpha_bar_for_alpha",): 1 / np.sqrt(bar),
        ("root_left_out",): 1 / alpha,
        ("mean_factor",): np.sqrt(alpha),
    }
    noise_forms = {
        (): beta / np.sqrt(1 - bar),
        ("sign",): -beta / np.sqrt(1 - bar),
        ("root_left_out",): beta / (1 - bar),
        ("alpha_for_alpha_bar",): np.sqrt(beta),
        ("alpha_bar_for_alpha",): np.sqrt(1 - bar),
        ("noise_factor",): beta,
        ("noise_factor", ""): np.ones_like(beta),
        ("root_left_out", ""): np.sqrt(beta) / np.sqrt(1 - bar),
    }
    for shift in (1, -1):
        inside = (steps - shift) % len(betas)  # as Python's indices wrap
        scale_forms[("off_by_one", str(shift))] = 1 / np.sqrt(alphas[inside])
        noise_forms[("off_by_one", str(shift))] = betas[inside] / np.sqrt(1 - bars[inside])
        noise_forms[("off_by_one", f"bar {shift}")] = beta / np.sqrt(1 - bars[inside])
    good_a = fits(scale_forms[()], a, tolerance_a)
    good_b = good_a and fits(-scale_forms[()] * noise_forms[()], b, tolerance_b)
    mean_test = "mean of each step"
    if good_a and good_b:
        verdict.test(mean_test, True)
        return
    combinations = []
    for scale_keys, scale in scale_forms.items():
        for noise_keys, noise in noise_forms.items():
            keys = [key for key in (*scale_keys[:1], *noise_keys[:1]) if key]
            # The factor before the bracket, or before x alone.
            for expected_b in (-scale * noise, -noise, -noise / np.sqrt(alpha)):
                if fits(scale, a, tolerance_a) and fits(expected_b, b, tolerance_b):
                    size = distance(scale, a, tolerance_a) + distance(expected_b, b, tolerance_b)
                    combinations.append((len(set(keys)), size, keys))
    if combinations:
        keys = min(combinations)[2] or ["mean_factor"]
        verdict.test(mean_test, False, *dict.fromkeys(keys))
        return
    verdict.test(mean_test, False, "noise_factor" if good_a else "mean_factor")


def _judge_independence(verdict: Verdict, residuals: list[np.ndarray]) -> bool:
    """Whether the noise is drawn for each value and step."""
    noisy = [rest for rest in residuals if np.std(rest) > 2e-3]
    if not noisy:
        return True
    first = noisy[0]
    images = first.reshape(len(first), -1)
    # Sharing shows as equal values: within an image, or from image to image.
    within = np.mean(np.std(images, axis=1)) < 0.3 * np.std(first)
    if within or np.corrcoef(images[0], images[1])[0, 1] > 0.8:
        verdict.test("draws a noise for each value", False, "shared_noise")
        return False
    if len(noisy) > 1 and np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1] > 0.8:
        verdict.test("draws new noise in each step", False, "same_noise")
        return False
    return True


def _judge_sigma(verdict: Verdict, sigmas: list, betas: np.ndarray) -> None:
    """The deviation of the added noise."""
    if not sigmas:
        return
    test = "adds noise of deviation sigma"
    steps = np.array([step for step, *_ in sigmas])
    found = np.array([sigma for _, sigma, _ in sigmas])
    beta, tilde = betas[steps], posterior_variances(betas)[steps]

    def fits(expected: np.ndarray, values: np.ndarray = found) -> bool:
        return bool(np.all(np.abs(values - expected) <= 0.08 * expected + 2e-3))

    if np.all(found < 2e-3):
        verdict.test(test, False, "no_noise")
        return
    right = fits(np.sqrt(beta)) or fits(np.sqrt(tilde))
    if not right and len(found) > 1 and found[-1] < 2e-3:
        # `if t > 1` with steps from 0: the last but one has no noise either.
        rest = found[:-1]
        if fits(np.sqrt(beta[:-1]), rest) or fits(np.sqrt(tilde[:-1]), rest):
            verdict.hint(
                "The last step but one adds no noise: counted from 0, only t = 0 has none."
            )
            right = True
    if right:
        verdict.test(test, True)
        return
    small = beta < 0.5
    if fits(beta):
        mistake = "beta_for_root"
    elif np.all(np.abs(found - tilde)[small] <= 0.1 * tilde[small] + 2e-3):
        mistake = "beta_tilde_for_root"
    elif fits(np.ones_like(beta)):
        mistake = "sigma_left_out"
    else:
        mistake = "wrong_sigma"
    verdict.test(test, False, mistake)


def _judge_classes(verdict: Verdict, case: dict[str, Any], num_steps: int) -> None:
    output, classes = case["output"], list(case["classes"])
    wanted = case["n_samples"] * len(classes)
    count = len(output) if output is not None else 0
    if not verdict.test("n_samples of each class", count == wanted, "number_of_classes"):
        return
    # Classifier-free guidance calls the network without classes too.
    given = [call["labels"] for call in case["calls"] if call["labels"] is not None]
    test = "passes the classes to the network"
    if not given:
        verdict.test(test, False, "classes_ignored")
        return
    labels = [
        np.argmax(value, axis=-1).ravel()
        if value.ndim == 2 and value.shape[1] > 1 and value.shape[1] != len(value)
        else np.ravel(value)
        for value in given
    ]
    counts = np.bincount(np.concatenate(labels).astype(int).clip(0), minlength=max(classes) + 1)
    right = all(counts[label] > 0 for label in classes) and len(set(counts[classes])) == 1
    verdict.test(test, right, "classes_ignored")


# train


def judge_train(verdict: Verdict, observed: dict[str, Any], with_labels: bool) -> int | None:
    """Noising, steps, loss, updates and epochs.

    Returns:
        The difference between the step passed to the network and the index of alpha-bar, if known.
    """
    chances = []
    for run, betas in _with_betas(observed):
        chance = Verdict(verdict.gap)
        offset = _judge_training(chance, run, observed, with_labels, betas)
        chances.append((chance, offset))
    best, offset = max(chances, key=lambda pair: (pair[0].right, sum(pair[0].tests.values())))
    verdict.tests, verdict.mistakes, verdict.hints = best.tests, best.mistakes, best.hints
    return offset


def _judge_training(
    verdict: Verdict,
    run: dict[str, Any],
    observed: dict[str, Any],
    with_labels: bool,
    betas: np.ndarray,
) -> int | None:
    calls, images = run["calls"], observed["images"]
    bars, num_steps = alpha_bars_of(betas), len(betas)
    if not verdict.test("calls the network", bool(calls)):
        return None
    wanted = 2 * len(images)
    verdict.test(
        "passes over the data n_epochs times",
        len(calls) == wanted,
        *(["epochs"] if len(calls) % len(images) == 0 else []),
    )
    shape_ok = all(call["noisy_images"].shape == images[0].shape for call in calls)
    if not verdict.test("keeps the shape of the images", shape_ok):
        return None
    steps = [_steps_of(call, len(images[0])) for call in calls]
    if not verdict.test("passes the steps to the network", all(s is not None for s in steps)):
        return None
    steps = list(_as_steps(np.array(steps), num_steps, verdict))
    batches = [images[index % len(images)] for index in range(len(calls))]
    offset, noises = _judge_noising(verdict, calls, batches, steps, bars)
    if num_steps <= LONG and offset is not None:
        _judge_steps(verdict, np.array(steps) - offset, num_steps)
    weights = np.array(run["weights"])
    gradients = (weights[:-1] - weights[1:]) / observed["learning_rate"]
    updated = verdict.test("updates the weights", np.abs(gradients).max() > 0, "no_step")
    if updated and noises is not None and offset is not None:
        _judge_updates(verdict, gradients, calls, noises, bars, steps, offset)
    if with_labels:
        _judge_labels(verdict, calls, observed["labels"])
    return offset


def _steps_of(call: dict[str, Any], batch: int) -> np.ndarray | None:
    condition = call["condition"]
    if condition is None or condition.size not in (1, batch):
        return None
    return np.broadcast_to(np.ravel(condition).astype("float64"), (batch,))


def _judge_noising(
    verdict: Verdict, calls: list, batches: list, steps: list, bars: np.ndarray
) -> tuple[int | None, list[np.ndarray] | None]:
    test = "mixes the images with noise of the step"
    noisy = [_images_of(call) for call in calls]
    if all(near(*pair) for pair in zip(noisy, batches, strict=True)):
        verdict.test(test, False, "not_noised")
        return None, None

    def noises_of(offset: int, form: str) -> list[np.ndarray]:
        result = []
        for x, x0, t in zip(noisy, batches, steps, strict=True):
            index = np.clip(np.round(t) - offset, 0, len(bars) - 1).astype(int)
            bar = bars[index].reshape(-1, *[1] * (x.ndim - 1))
            signal, noise = (
                (bar, 1 - bar) if form == "no root" else (np.sqrt(bar), np.sqrt(1 - bar))
            )
            if form == "swapped":
                signal, noise = noise, signal
            result.append((x - signal * x0) / noise)
        return result

    def misfit(noises: list[np.ndarray]) -> float:
        """0 for noises with the same deviation in all images, independent of the images."""
        deviations = np.concatenate([noise.reshape(len(noise), -1).std(axis=1) for noise in noises])
        pairs = list(zip(noises, batches, strict=True))
        known = np.mean([np.mean(noise * x0) / np.mean(x0**2) for noise, x0 in pairs])
        return float(abs(known) + np.std(deviations) + abs(np.mean(deviations) - 1))

    first = noises_of(0, "")[0].reshape(len(noisy[0]), -1)
    within = np.mean(np.std(first, axis=1)) < 0.3 * np.std(first)
    if within or np.corrcoef(first[0], first[1])[0, 1] > 0.8:
        verdict.test(test, False, "shared_noise")
        return None, None
    fits = {
        (offset, form): misfit(noises_of(offset, form))
        for offset in (0, 1, -1)
        for form in ("", "no root", "swapped")
    }
    offset, form = min(fits, key=fits.__getitem__)
    if fits[0, ""] < 1.5 * fits[offset, form] + 0.02:
        offset, form = 0, ""  # in a long chain, neighbouring steps are nearly the same
    noises = noises_of(offset, form)
    deviation = float(np.std(noises[0]))
    if min(fits.values()) > 0.25 or form:
        uniform = noises_of(0, "")
        spread, mean = float(np.std(uniform[0])), float(np.mean(uniform[0]))
        is_uniform = abs(spread - 12**-0.5) < 0.03 and abs(mean - 0.5) < 0.1
        is_uniform = is_uniform or (abs(spread - 3**-0.5) < 0.03 and abs(mean) < 0.1)
        verdict.test(test, False, "uniform_noise" if is_uniform else "mix")
        return None, None
    if offset == -1:
        verdict.test(test, False, "off_by_one")
        return offset, noises
    verdict.test(test, abs(deviation - 1) < 0.1, "mix")
    if offset == 1:
        verdict.hint("The network gets the steps 1 to T, for the indices 0 to T - 1 of alpha-bar.")
    return offset, noises


def _judge_steps(verdict: Verdict, steps: np.ndarray, num_steps: int) -> None:
    test = "draws all steps"
    seen = set(np.round(steps).astype(int).ravel())
    if len(seen) == 1:
        verdict.test(test, False, "one_t")
    elif 0 not in seen and num_steps - 1 in seen and 20 * num_steps <= steps.size:
        verdict.test(test, False, "first_t")  # by chance once in 1e8
    elif num_steps - 1 not in seen and 0 in seen and 20 * num_steps <= steps.size:
        verdict.test(test, False, "last_t")
    elif np.all(np.ptp(steps, axis=1) == 0):
        verdict.hint("One step is drawn for the whole batch; algorithm 1 draws one for each image.")
    else:
        verdict.test(test, len(seen & set(range(num_steps))) > num_steps // 2, "one_t")


def _judge_updates(
    verdict: Verdict,
    gradients: np.ndarray,
    calls: list,
    noises: list[np.ndarray],
    bars: np.ndarray,
    steps: list,
    offset: int,
) -> None:
    factors: list[float | None] = []
    judged = []
    for index in range(min(2, len(calls))):
        t = np.clip(np.round(steps[index]) - offset, 0, len(bars) - 1).astype(int)
        bar = bars[t].reshape(-1, *[1] * (calls[index]["noisy_images"].ndim - 1))
        rates = {"noise_rates": np.sqrt(1 - bar), "signal_rates": np.sqrt(bar)}
        judged.append({**calls[index], **rates})
        chance = verdict if index == 0 else Verdict(verdict.gap)
        factors.append(judge_gradient(chance, gradients[index], judged[index], noises[index]))
    if len(factors) < 2 or factors[0] is None:
        return
    if factors[1] is None or abs(factors[1] / factors[0] - 1) > 0.2:
        # Correct only without the gradient of the first batch?
        alone = gradients[1] - gradients[0]
        factor = judge_gradient(Verdict(verdict.gap), alone, judged[1], noises[1])
        forgets = factor is None or abs(factor / factors[0] - 1) > 0.2
        verdict.test("forgets the gradient of the last batch", forgets, "no_zero_grad")


def _judge_labels(verdict: Verdict, calls: list, labels: list[np.ndarray]) -> None:
    test = "passes the labels to the network"
    agree = []
    for index, call in enumerate(calls):
        given = call["labels"]
        if given is None:
            verdict.test(test, False, "labels_ignored")
            return
        wanted = labels[index % len(labels)]
        if given.ndim == 2 and given.shape[1] > 1:
            given = np.argmax(given, axis=1)
        given = np.ravel(given)
        agree.append(np.mean(given == wanted) if given.shape == wanted.shape else 0.0)
    share = float(np.mean(agree))
    verdict.test(test, share > 0.5, "labels_ignored")
    if 0.5 < share < 1:
        verdict.hint(f"A share of {1 - share:.0%} of the labels is replaced.")
