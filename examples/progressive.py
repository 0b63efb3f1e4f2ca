"""Progressive coding and interpolation as in Ho et al. 2020, with a trained model.

    python examples/progressive.py shared                   samples that share a noisy image
    python examples/progressive.py between one.png two.png  from one image to another
    python examples/progressive.py rates                    bits against errors, on real images

Figures 7, 8 and 5 of https://arxiv.org/abs/2006.11239, with ancestral sampling in --steps steps.
(Figure 6, the predicted image over the steps, is `python -m ddim_keras.plots reverse`.)
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ddim_keras.cli.options import add_backend_option, add_data_options, add_run_option, at_least
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError
from ddim_keras.data.images import load_image
from ddim_keras.runs.folder import Run, find_run, load_model

LEVELS = (1.0, 0.9, 0.75, 0.6, 0.4)  # diffusion times of the rows, of 0 to 1
COLUMNS = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("figure", choices=("shared", "between", "rates"), help="figure to draw, see above")
    add("images", nargs="*", type=Path, metavar="IMAGE", help="two image files, for between")
    add(
        "--steps", type=at_least(2), metavar="N", default=50, help="steps of sampling (default: 50)"
    )
    add(
        "--num-images",
        type=at_least(1),
        metavar="N",
        default=32,
        help="real images, for rates (default: 32)",
    )
    add("--seed", type=at_least(0), metavar="N", default=0, help="random seed (default: 0)")
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="picture, a .png file (default: named like the figure)",
    )
    add_run_option(parser)
    add_data_options(parser, "that of the run")
    add_backend_option(parser)
    arguments = parser.parse_args()
    if (arguments.figure == "between") != (len(arguments.images) == 2):
        raise InputError("between takes two image files, the other figures none")
    weights = find_run(arguments.run).weights_to_show()
    config = Run(weights.parent).read_config()
    network = config.model.network
    given = [load_image(path, network.image_size, network.channels) for path in arguments.images]
    choose_backend(arguments.backend)

    # Keras is imported only now, after --help and the choice of the backend.
    import_keras()
    from ddim_keras.data.batches import random_images
    from ddim_keras.data.cache import load_dataset
    from ddim_keras.plots.figures import image_grid, save_figure

    model = load_model(weights)
    steps, seed = arguments.steps, arguments.seed
    if arguments.figure == "rates":
        data_dir = arguments.data_dir or config.data_dir
        dataset = load_dataset(config.dataset, network.image_size, data_dir, arguments.cache_dir)
        images = random_images(dataset.validation_images, arguments.num_images)
        figure = rate_distortion(model, images, steps, seed)
    else:
        if given:
            rows = between(model, *given, steps, seed)
            title = "ends: the images; rows: diffusion times at which they are mixed"
        else:
            rows = shared(model, steps, seed)
            title = "left: a noisy image; then: samples that continue from it"
        names = [f"time {level:g}" for level in LEVELS]
        pixels = np.concatenate(rows)
        figure = image_grid(pixels, title, columns=COLUMNS + 2 * bool(given), names=names)
    output = arguments.output or Path(f"{arguments.figure}.png")
    save_figure(figure, output)
    print(f"wrote {output}")


def continued(
    model: Any, noisy_images: np.ndarray, level: float, steps: int, seeds: Sequence[int]
) -> np.ndarray:
    """Ancestral sampling from noisy images (N, H, W, C) at a diffusion time: images in [0, 1].

    Args:
        steps: number of steps of the whole process from time 1.
        seeds: (N,), seeds of the fresh noise of each image.
    """
    from keras import ops

    from ddim_keras.samplers import Sampler, ddim, image_noises

    rates = Sampler().signal_rates(model, max(2, round(level * steps)), level)
    shape = noisy_images.shape[1:]
    fresh_noises = (
        np.concatenate([image_noises(shape, seed, [0], step) for seed in seeds])
        for step in range(len(rates))
    )
    images = ddim(model.compiled_denoise, noisy_images, rates, eta=1.0, fresh_noises=fresh_noises)
    return ops.convert_to_numpy(model.denormalize(images))


def shared(model: Any, steps: int, seed: int) -> list[np.ndarray]:
    """A row for each level: a noisy version of one image, and samples from it."""
    from keras import ops

    from ddim_keras.editing import add_noise

    shape = model.network.output_shape[1:]
    noise, other = np.random.default_rng(seed).standard_normal((2, 1, *shape)).astype("float32")
    start = model.normalize(continued(model, noise, 1.0, steps, [seed]))
    rows = []
    for level in LEVELS:
        _, signal_rate = model.schedule(level, np)
        noisy_image = ops.convert_to_numpy(add_noise(start, other, float(signal_rate)))
        samples = continued(
            model,
            np.repeat(noisy_image, COLUMNS - 1, axis=0),
            level,
            steps,
            range(seed + 1, seed + COLUMNS),
        )
        shown = ops.convert_to_numpy(model.denormalize(noisy_image))
        rows.append(np.concatenate([shown, samples]))
    return rows


def between(
    model: Any, first: np.ndarray, second: np.ndarray, steps: int, seed: int
) -> list[np.ndarray]:
    """A row for each level: both images, and samples from mixtures of their noisy versions.

    Both images get one noise, and all samples the same fresh noise, so only the mixture varies.
    """
    from keras import ops

    from ddim_keras.editing import add_noise

    ends = np.stack([first, second])
    noise = np.random.default_rng(seed).standard_normal((1, *first.shape)).astype("float32")
    shares = np.linspace(0, 1, COLUMNS).reshape(-1, 1, 1, 1)
    rows = []
    for level in LEVELS:
        _, signal_rate = model.schedule(level, np)
        noisy = add_noise(model.normalize(ends), noise, float(signal_rate))
        noisy = ops.convert_to_numpy(noisy)
        mixed = ((1 - shares) * noisy[:1] + shares * noisy[1:]).astype("float32")
        images = continued(model, mixed, level, steps, [seed] * COLUMNS)
        rows.append(np.concatenate([ends[:1] / 255, images, ends[1:] / 255]))
    return rows


def rate_distortion(model: Any, images: np.ndarray, steps: int, seed: int) -> Figure:
    """Rate and distortion over the steps, and distortion against rate; prints the table.

    The rate at a step is the KL of all steps so far, in bits per dimension (the terms L_T, L_{T-1},
    ... of the bound); the distortion the root mean square error of the predicted image, of 255.
    """
    from keras import ops

    from ddim_keras.editing import add_noise
    from ddim_keras.likelihood import bound_terms

    terms = bound_terms(model, images, ["small"], num_steps=steps, seed=seed)["small"].mean(axis=1)
    normalized = model.normalize(images)
    noises = np.random.default_rng(seed).standard_normal(images.shape).astype("float32")
    errors = []
    for step in range(steps, 0, -1):
        noise_rate, signal_rate = (float(x) for x in model.schedule(step / steps, np))
        rates = (ops.full((len(images), 1, 1, 1), x) for x in (noise_rate, signal_rate))
        _, pred_images = model.compiled_denoise(add_noise(normalized, noises, signal_rate), *rates)
        difference = 255 * ops.convert_to_numpy(model.denormalize(pred_images)) - images
        errors.append(np.sqrt(np.mean(difference**2)))
    rates_so_far = np.cumsum(terms[:0:-1])  # before each prediction: L_T, then with L_{T-1}, ...
    print("step  bits per dimension  error of 255")
    for step in range(0, steps, max(1, steps // 10)):
        print(f"{steps - step:4}  {rates_so_far[step]:18.4f}  {errors[step]:12.1f}")
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    reverse_steps = np.arange(steps)
    first, second, third = figure.subplots(1, 3)
    first.plot(reverse_steps, errors)
    first.set(xlabel="reverse steps", ylabel="error (RMSE of 255)")
    second.plot(reverse_steps, rates_so_far)
    second.set(xlabel="reverse steps", ylabel="rate (bits per dimension)")
    third.plot(rates_so_far, errors)
    third.set(xlabel="rate (bits per dimension)", ylabel="error (RMSE of 255)")
    for axes in (first, second, third):
        axes.grid(alpha=0.3)
        axes.set_ylim(0)
    return figure


if __name__ == "__main__":
    run_command(main)
