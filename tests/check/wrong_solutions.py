"""Each mistake of the catalogue as a wrong solution: a right one with a passage replaced."""

from pathlib import Path

SOLUTIONS = Path(__file__).parent / "solutions"

_SCHEDULE = {
    "swapped": [("return noise_rates, signal_rates", "return signal_rates, noise_rates")],
    "arcsin": [("math.acos", "math.asin")],
    "variances": [("return noise_rates, signal_rates", "return noise_rates**2, signal_rates**2")],
    "root_left_out": [("np.sin(angles)", "1 - signal_rates**2")],
    "sum_to_one": [("np.sin(angles)", "1 - signal_rates")],
    "ends_as_variances": [
        ("math.acos(max_signal_rate)", "math.acos(math.sqrt(max_signal_rate))"),
        ("math.acos(min_signal_rate)", "math.acos(math.sqrt(min_signal_rate))"),
    ],
    "ends_squared": [
        ("math.acos(max_signal_rate)", "math.acos(max_signal_rate**2)"),
        ("math.acos(min_signal_rate)", "math.acos(min_signal_rate**2)"),
    ],
    "no_arccos": [
        ("math.acos(max_signal_rate)", "max_signal_rate"),
        ("math.acos(min_signal_rate)", "min_signal_rate"),
    ],
    "direction": [
        ("math.acos(max_signal_rate)", "math.acos(min_signal_rate) "),
        ("math.acos(min_signal_rate)\n", "math.acos(max_signal_rate)\n"),
    ],
    "no_offset": [
        ("start_angle + diffusion_times * (end_angle - start_angle)", "diffusion_times * np.pi / 2")
    ],
    "start_left_out": [("start_angle + diffusion", "diffusion")],
    "start_not_subtracted": [("(end_angle - start_angle)", "end_angle")],
    "ends": [("math.acos(max_signal_rate)", "0.7"), ("math.acos(min_signal_rate)", "1.2")],
    "not_unit": [("np.cos(angles)", "1 - diffusion_times")],
    "not_two": [("return noise_rates, signal_rates", "return signal_rates")],
    "no_signal": [
        ("np.cos(angles)", "np.sqrt(1 - diffusion_times)"),
        ("np.sin(angles)", "np.sqrt(diffusion_times)"),
    ],
    "batch": [
        (
            "def diffusion_schedule(diffusion_times):",
            "def diffusion_schedule(diffusion_times):\n    diffusion_times = diffusion_times[:1]",
        )
    ],
}
_IMAGE = "(noisy_images - noise_rates * pred_noises) / signal_rates"
_NETWORK = "chosen([noisy_images, noise_rates**2], training=training)"
_DENOISE = {
    "gets_noise_rate": [("noise_rates**2]", "noise_rates]")],
    "gets_signal": [("noise_rates**2]", "signal_rates**2]")],
    "gets_time": [
        (
            "noise_rates**2]",
            "(np.arcsin(noise_rates) - math.acos(0.95)) / (math.acos(0.02) - math.acos(0.95))]",
        )
    ],
    "gets_other_level": [("noise_rates**2]", "np.log(noise_rates)]")],
    "gets_other_images": [("[noisy_images, noise", "[noisy_images / signal_rates, noise")],
    "sign": [("noisy_images - noise_rates * pred", "noisy_images + noise_rates * pred")],
    "divides_by_noise": [("pred_noises) / signal_rates", "pred_noises) / noise_rates")],
    "not_divided": [("pred_noises) / signal_rates", "pred_noises)")],
    "multiplied": [("pred_noises) / signal_rates", "pred_noises) * signal_rates")],
    "swapped": [(_IMAGE, "(noisy_images - signal_rates * pred_noises) / noise_rates")],
    "variance_for_rate": [(_IMAGE, "(noisy_images - noise_rates**2 * pred_noises) / signal_rates")],
    "root_of_rate": [("pred_noises) / signal_rates", "pred_noises) / np.sqrt(signal_rates)")],
    "noise_not_scaled": [("noisy_images - noise_rates * pred", "noisy_images - pred")],
    "other_images": [(_IMAGE, "noisy_images - 0.5 * pred_noises")],
    "not_two": [("    return pred_noises, pred_images", "    return pred_images")],
    "predicts_image": [
        (
            "pred_noises, pred_images\n\n\ndef rev",
            "(noisy_images - signal_rates * pred_noises) / noise_rates, pred_noises\n\n\ndef rev",
        )
    ],
    "order": [
        ("return pred_noises, pred_images", "return pred_images, pred_noises"),
        ("pred_noises, pred_images = denoise", "pred_images, pred_noises = denoise"),
    ],
    "other_noises": [
        ("return pred_noises, pred_images", "return noise_rates * pred_noises, pred_images")
    ],
    "networks_exchanged": [
        ("network if training else ema_network", "ema_network if training else network")
    ],
    "always_network": [("network if training else ema_network", "network")],
    "always_average": [("network if training else ema_network", "ema_network")],
    "batch": [(_IMAGE, "(noisy_images - noise_rates[0] * pred_noises) / signal_rates[0]")],
}
_MIX = "next_signal_rates * pred_images + next_noise_rates * pred_noises"
_LOOP = "for step in range(diffusion_steps):"
_REVERSE = {
    "old_time": [("diffusion_schedule(times - step_size)", "diffusion_schedule(times)")],
    "not_carried_on": [("        noisy_images = next_s", "        next_noisy_images = next_s")],
    "time_advanced": [("- step * step_size", "- (step + 1) * step_size")],
    "ascending": [
        (
            "np.ones((len(initial_noise), 1, 1, 1)) - step * step_size",
            "np.zeros((len(initial_noise), 1, 1, 1)) + step * step_size",
        )
    ],
    "time_constant": [("1.0 / diffusion_steps", "1.0 // diffusion_steps")],
    "step_size": [("1.0 / diffusion_steps", "0.5 / diffusion_steps")],
    "fresh_noise": [
        ("next_noise_rates * pred_noises", "next_noise_rates * np.random.randn(*pred_noises.shape)")
    ],
    "initial_noise_mixed": [("next_noise_rates * pred_noises", "next_noise_rates * initial_noise")],
    "noisy_mixed": [("next_noise_rates * pred_noises", "next_noise_rates * noisy_images")],
    "swapped": [(_MIX, "next_noise_rates * pred_images + next_signal_rates * pred_noises")],
    "unpacked": [("pred_noises, pred_images = denoise", "pred_images, pred_noises = denoise")],
    "variances": [(_MIX, "next_signal_rates**2 * pred_images + next_noise_rates**2 * pred_noises")],
    "not_remixed": [(_MIX, "pred_images")],
    "wrong_mix": [(_MIX, "next_signal_rates * pred_images - next_noise_rates * pred_noises")],
    "noisy_returned": [("    return pred_images\n", "    return noisy_images\n")],
    "other_result": [("    return pred_images\n", "    return pred_images**2\n")],
    "wrong_next_time": [("(times - step_size)", "(times - 1.5 * step_size)")],
    "returns_in_loop": [("    return pred_images\n", "        return pred_images\n")],
    "noises_returned": [("    return pred_images\n", "    return pred_noises\n")],
    "one_more": [(_LOOP, "for step in range(diffusion_steps + 1):")],
    "one_less": [(_LOOP, "for step in range(1, diffusion_steps):")],
    "count": [(_LOOP, "for step in range(diffusion_steps + 3):")],
    "noise_ignored": [
        ("noisy_images = initial_noise", "noisy_images = np.random.randn(*initial_noise.shape)")
    ],
    "trained_network": [("signal_rates, False", "signal_rates, True")],
    "single_step": [("1.0 / diffusion_steps", "1.0 / (diffusion_steps - 1)")],
}
_XT = "np.sqrt(bar) * x0 + np.sqrt(1 - bar) * epsilon"
_SAMPLE_XT = {
    "roots_left_out": [(_XT, "bar * x0 + (1 - bar) * epsilon")],
    "signal_root": [(_XT, "bar * x0 + np.sqrt(1 - bar) * epsilon")],
    "noise_root": [(_XT, "np.sqrt(bar) * x0 + (1 - bar) * epsilon")],
    "one_minus_root": [(_XT, "np.sqrt(bar) * x0 + (1 - np.sqrt(bar)) * epsilon")],
    "swapped": [(_XT, "np.sqrt(1 - bar) * x0 + np.sqrt(bar) * epsilon")],
    "off_by_one": [("alphaBars[t]", "alphaBars[t - 1]")],
    "alpha": [("alphaBars[t]", "alphaBars[t] / alphaBars[t - 1]")],
    "signal_missing": [(_XT, "x0 + np.sqrt(1 - bar) * epsilon")],
    "noise_missing": [(_XT, "np.sqrt(bar) * x0 + epsilon")],
    "other_factors": [(_XT, "np.cbrt(bar) * x0 + np.cbrt(1 - bar) * epsilon")],
    "product_twice": [("alphaBars[t]", "np.cumprod(alphaBars)[t]")],
    "sign": [(_XT, "np.sqrt(bar) * x0 - np.sqrt(1 - bar) * epsilon")],
    "broadcast": [("np.reshape(alphaBars[t], (-1, 1, 1, 1))", "alphaBars[t]")],
    "noise_ignored": [("    if epsilon is None:\n        epsilon", "    epsilon")],
}
_MEAN = "(x - beta / np.sqrt(1 - bar) * noise) / np.sqrt(1 - beta)"
_SAMPLE = {
    "noise_at_end": [("if t > 0 else np.zeros_like(x)", "")],
    "beta_for_root": [("sigma = np.sqrt(beta)", "sigma = beta")],
    "beta_tilde_for_root": [
        (
            "sigma = np.sqrt(beta)",
            "sigma = beta * (1 - (ddpm.alphaBars[t - 1] if t else 1.0)) / (1 - bar)",
        )
    ],
    "sigma_left_out": [("sigma * z", "z")],
    "no_noise": [("+ sigma * z", "")],
    "wrong_sigma": [("sigma = np.sqrt(beta)", "sigma = np.sqrt(1 - bar)")],
    "uniform_noise": [("z = np.random.randn(*x.shape)", "z = np.random.rand(*x.shape)")],
    "start": [("x = np.random.randn(count, 16, 16, 1)", "x = np.zeros((count, 16, 16, 1))")],
    "same_noise": [
        ("    for t in range", "    first = np.random.randn(*x.shape)\n    for t in range"),
        ("np.random.randn(*x.shape) if", "first if"),
    ],
    "shared_noise": [("np.random.randn(*x.shape) if", "np.random.randn(*x.shape[1:]) if")],
    "sign": [("(x - beta", "(x + beta")],
    "alpha_bar_for_alpha": [("noise) / np.sqrt(1 - beta)", "noise) / np.sqrt(bar)")],
    "alpha_for_alpha_bar": [("np.sqrt(1 - bar)", "np.sqrt(beta)")],
    "root_left_out": [("np.sqrt(1 - bar)", "(1 - bar)")],
    "not_divided": [(_MEAN, "x - beta / np.sqrt(1 - bar) * noise")],
    "noise_factor": [("beta / np.sqrt(1 - bar) * noise", "beta * noise")],
    "mean_factor": [("noise) / np.sqrt(1 - beta)", "noise) * np.sqrt(1 - beta)")],
    "ascending": [("range(ddpm.n_steps - 1, -1, -1)", "range(ddpm.n_steps)")],
    "off_by_one": [("np.full(count, t)", "np.full(count, t - 1)")],
    "one_less": [("ddpm.n_steps - 1, -1, -1", "ddpm.n_steps - 1, 0, -1")],
    "one_more": [
        (
            "for t in range(ddpm.n_steps - 1, -1, -1)",
            "for t in [ddpm.n_steps - 1, *range(ddpm.n_steps - 1, -1, -1)]",
        )
    ],
    "number": [
        ("count = n_samples if classes is None", "count = n_samples + 1 if classes is None")
    ],
    "number_of_classes": [("np.repeat(classes, n_samples)", "np.resize(classes, n_samples)")],
    "classes_ignored": [("if labels is None else ddpm.network(x, steps, labels)", "")],
    "output": [("    return x\n", "    return noise\n")],
}
_STEP = "            optim.step()\n            total"
_LOSS = "F.mse_loss(ddpm.backward(xt, t), eps)"
_TRAIN = {
    "loss_on_image": [
        (_LOSS, "F.mse_loss((xt - (1 - a).sqrt() * ddpm.backward(xt, t)) / a.sqrt(), x0)"),
        (
            "            loss = ",
            "            a = ddpm.alpha_bars[t].view(-1, 1, 1, 1)\n            loss = ",
        ),
    ],
    "loss_on_both": [
        (
            _LOSS,
            "F.mse_loss(p, eps) + F.mse_loss((xt - (1 - a).sqrt() * p) / a.sqrt(), x0)",
        ),
        (
            "            loss = ",
            "            a = ddpm.alpha_bars[t].view(-1, 1, 1, 1)\n"
            "            p = ddpm.backward(xt, t)\n            loss = ",
        ),
    ],
    "loss_mixed_up": [(_LOSS, "F.mse_loss(ddpm.backward(xt, t), x0)")],
    "sum": [(_LOSS, "F.mse_loss(ddpm.backward(xt, t), eps, reduction='sum')")],
    "other_noise": [(_LOSS, "F.mse_loss(ddpm.backward(xt, t), torch.randn_like(eps))")],
    "no_step": [(_STEP, "            total")],
    "no_zero_grad": [
        (
            "            optim.zero_grad()\n            loss.backward()\n" + _STEP,
            "            loss.backward()\n" + _STEP,
        )
    ],
    "first_t": [
        (
            "t = torch.randint(0, ddpm.n_steps, (len(x0),), device",
            "t = torch.randint(1, ddpm.n_steps, (len(x0),), device",
        )
    ],
    "last_t": [
        (
            "t = torch.randint(0, ddpm.n_steps, (len(x0),), device",
            "t = torch.randint(0, ddpm.n_steps - 1, (len(x0),), device",
        )
    ],
    "one_t": [
        (
            "t = torch.randint(0, ddpm.n_steps, (len(x0),), device=device)",
            "t = torch.full((len(x0),), ddpm.n_steps - 1)",
        )
    ],
    "epochs": [("for epoch in range(n_epochs)", "for epoch in range(1)")],
    "not_noised": [(_LOSS, "F.mse_loss(ddpm.backward(x0, t), eps)")],
    "shared_noise": [
        ("eps = torch.randn_like(x0)", "eps = torch.randn_like(x0[:1]).expand_as(x0)")
    ],
    "uniform_noise": [
        (
            "            eps = torch.randn_like(x0)\n            xt",
            "            eps = torch.rand_like(x0)\n            xt",
        )
    ],
    "off_by_one": [("ddpm.backward(xt, t), eps)", "ddpm.backward(xt, t - 1), eps)")],
    "mix": [
        (
            "xt = sample_xt(x0, t, eps, ddpm.alpha_bars)",
            "a = ddpm.alphas[t].view(-1, 1, 1, 1)\n            xt = a * x0 + (1 - a) * eps",
        )
    ],
}
_NOISES = "keras.random.normal(shape=(batch_size, image_size, image_size, 3))\n        diff"
_AVERAGE = (
    "        for weight, ema_weight in zip(self.network.weights, "
    "self.ema_network.weights):\n            ema_weight.assign("
    "ema * ema_weight + (1 - ema) * weight)\n"
)
_APPLY = "        self.optimizer.apply_gradients(zip(gradients, self.network.trainable_weights))\n"
_TRAIN_STEP = {
    "normalisation_missing": [("        images = self.normalizer(images, training=True)\n", "")],
    "normalised_twice": [
        (
            "self.normalizer(images, training=True)",
            "self.normalizer(self.normalizer(images, training=True))",
        )
    ],
    "swapped": [
        (
            "signal_rates * images + noise_rates * noises\n        with",
            "noise_rates * images + signal_rates * noises\n        with",
        )
    ],
    "uniform_noise": [(_NOISES, _NOISES.replace("normal", "uniform"))],
    "shared_noise": [
        (
            "shape=(batch_size, image_size, image_size, 3))\n        diff",
            "shape=(1, image_size, image_size, 3))\n        diff",
        )
    ],
    "mix": [
        (
            "signal_rates * images + noise_rates * noises\n        with",
            "signal_rates * images + noise_rates**2 * noises\n        with",
        )
    ],
    "loss_on_image": [("tape.gradient(noise_loss", "tape.gradient(image_loss")],
    "loss_on_both": [
        (
            "self.loss(noises, pred_noises)",
            "self.loss(noises, pred_noises) + self.loss(images, pred_images)",
        )
    ],
    "loss_mixed_up": [("self.loss(noises, pred_noises)", "self.loss(images, pred_noises)")],
    "sum": [("self.loss(noises, pred_noises)", "ops.sum(ops.square(noises - pred_noises))")],
    "other_noise": [
        (
            "self.loss(noises, pred_noises)",
            "self.loss(keras.random.normal(noises.shape), pred_noises)",
        )
    ],
    "no_update": [(_APPLY, "")],
    "trains_average": [("signal_rates, training=True", "signal_rates, training=False")],
    "ema_before": [(_AVERAGE, ""), (_APPLY, _AVERAGE + _APPLY)],
    "ema_reversed": [
        ("ema * ema_weight + (1 - ema) * weight", "(1 - ema) * ema_weight + ema * weight")
    ],
    "ema_missing": [(_AVERAGE, "")],
    "ema_copied": [("ema * ema_weight + (1 - ema) * weight", "weight")],
    "ema_start": [
        ("keras.models.clone_model(self.network)", "get_network(image_size, widths, block_depth)")
    ],
}
_CLASSCONDITIONAL = {
    "labels_ignored": [("ddpm.alpha_bars), t, y), eps)", "ddpm.alpha_bars), t), eps)")]
}

_BASES = {
    "diffusion_schedule": ("numpy_functions.py", _SCHEDULE),
    "denoise": ("numpy_functions.py", _DENOISE),
    "reverse_diffusion": ("numpy_functions.py", _REVERSE),
    "sample_xt": ("numpy_exercise.py", _SAMPLE_XT),
    "sample": ("numpy_exercise.py", _SAMPLE),
    "train": ("torch_exercise.py", _TRAIN),
    "train_step": ("keras_class.py", _TRAIN_STEP),
    "train_classconditional": ("torch_exercise.py", _CLASSCONDITIONAL),
}
# For each mistake of the catalogue, the right solution it is made from, and what is replaced.
WRONG = {
    f"{gap if gap != 'train_classconditional' else 'train'}.{name}": (gap, base, replacements)
    for gap, (base, mistakes) in _BASES.items()
    for name, replacements in mistakes.items()
}


def wrong_solution(key: str) -> tuple[str, str]:
    """The function that is wrong, and the text of the wrong solution."""
    gap, base, replacements = WRONG[key]
    text = (SOLUTIONS / base).read_text()
    for old, new in replacements:
        assert old in text, f"{key}: {old!r} does not stand in {base}"
        text = text.replace(old, new)
    return gap, text
