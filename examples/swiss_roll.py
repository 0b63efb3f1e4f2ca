"""Diffusion of points on a swiss roll: forward process, learned reverse process, and drift.

    python examples/swiss_roll.py
    python examples/swiss_roll.py --langevin langevin.png    also the score, and Langevin dynamics

Figure 1 of Sohl-Dickstein et al. 2015 (https://arxiv.org/abs/1503.03585). To a DiffusionModel, a
point of the plane is an image of one pixel with two channels; nothing else changes.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddim_keras.cli.options import add_backend_option, at_least
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError, ModelConfig, NetworkConfig
from ddim_keras.types import Tensor

NETWORK = NetworkConfig(
    image_size=1,
    channels=2,
    widths=(64,),
    depths=(3,),
    block="adaptive",
    embedding_max_frequency=100.0,
)
BATCH_SIZE = 500  # points
COLUMNS = {0.0: "t = 0", 0.125: "t = T/8", 0.5: "t = T/2", 1.0: "t = T"}  # diffusion times
EXTENT = 2.6  # of each axis, in standard deviations of the roll
ARROWS = 23  # each way
DRAWN_POINTS = 3000


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--points",
        type=at_least(BATCH_SIZE),
        metavar="N",
        default=100_000,
        help="number of points (default: %(default)s)",
    )
    add(
        "--epochs",
        type=at_least(1),
        metavar="N",
        default=10,
        help="epochs of training (default: %(default)s)",
    )
    add(
        "--steps",
        type=at_least(2),
        metavar="N",
        default=100,
        help="DDIM steps (default: %(default)s)",
    )
    add(
        "--seed",
        type=at_least(0),
        metavar="N",
        default=0,
        help="random seed (default: %(default)s)",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("swiss_roll.png"),
        help="picture, a .png file (default: %(default)s)",
    )
    add(
        "--langevin",
        type=Path,
        metavar="FILE",
        help="second picture: the score, and points with and without Langevin steps",
    )
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    for option in ("output", "langevin"):
        file = getattr(arguments, option)
        if file and file.suffix.lower() != ".png":
            raise InputError(f"--{option} must end in .png, not {file.name!r}")
    choose_backend(arguments.backend)

    # Keras is imported only now, after --help and the choice of the backend.
    import_keras()
    import keras

    from ddim_keras.model import DiffusionModel
    from ddim_keras.plots.figures import save_figure
    from ddim_keras.progress import verbosity

    roll = swiss_roll(arguments.points, arguments.seed)
    model = DiffusionModel(
        ModelConfig(
            network=NETWORK,
            max_signal_rate=0.999,
            min_signal_rate=0.01,
            prediction="velocity",
            seed=arguments.seed,
        )
    )
    model.adapt(roll)
    steps = arguments.epochs * math.ceil(arguments.points / BATCH_SIZE)
    model.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(3e-3, steps)))
    model.fit(roll, batch_size=BATCH_SIZE, epochs=arguments.epochs, verbose=verbosity())

    save_figure(draw(model, roll, arguments.steps, arguments.seed), arguments.output)
    print(f"wrote {arguments.output}")
    if arguments.langevin:
        save_figure(draw_langevin(model, roll, arguments.seed), arguments.langevin)
        print(f"wrote {arguments.langevin}")


def swiss_roll(num_points: int, seed: int) -> np.ndarray:
    """Points along a spiral, uniform in its angle: (N, 1, 1, 2) float32, well within [0, 1].

    The margin leaves room for generated points outside the roll, which are clipped at 0 and 1.
    """
    random = np.random.default_rng(seed)
    angles = 1.5 * np.pi * (1 + 2 * random.random(num_points))
    points = angles * np.stack([np.cos(angles), np.sin(angles)])
    points += random.normal(scale=0.15, size=points.shape)  # thickness of the roll
    return (0.5 + points.T / 40).astype("float32").reshape(-1, 1, 1, 2)


def as_images(points: np.ndarray) -> Tensor:
    """Points (N, 2) as images (N, 1, 1, 2), a tensor."""
    from keras import ops

    return ops.convert_to_tensor(points.reshape(-1, 1, 1, 2))


def draw(model, roll: np.ndarray, steps: int, seed: int):
    """Three rows, in time from left to right: the roll dissolves, it forms again, and the drift.

    An arrow of the drift shows where the network moves a point in a tenth of the reverse process.
    Arrows are drawn only where there are noisy points, since the network has learned nothing else.
    """
    from keras import ops

    names = ("forward process", "learned reverse process", "learned drift")
    figure, rows = panels(names)

    states = {}
    generated = model.generate(
        DRAWN_POINTS,
        steps,
        seed=seed,
        batch_size=DRAWN_POINTS,
        callback=lambda step, noisy_images, _: states.update({1 - step / steps: noisy_images}),
    )
    states[0.0] = model.normalize(generated)

    images = model.normalize(roll)
    noises = np.random.default_rng(seed).standard_normal(roll.shape, "float32")
    noises = ops.convert_to_tensor(noises)
    tenth = 0.1 * (
        np.arccos(model.config.min_signal_rate) - np.arccos(model.config.max_signal_rate)
    )
    for (time, title), (forward, reverse, drift) in zip(COLUMNS.items(), rows.T, strict=True):
        forward.set(title=title)
        noise_rates, signal_rates = model.diffusion_schedule(ops.full((1, 1, 1, 1), time))
        noisy_points = plane(signal_rates * images + noise_rates * noises)
        scatter(forward, noisy_points, "tab:blue")
        scatter(reverse, plane(states[min(states, key=lambda state: abs(state - time))]), "tab:red")

        places = grid_of_places()
        rates = [ops.broadcast_to(r, (len(places), 1, 1, 1)) for r in (noise_rates, signal_rates)]
        pred_noises, pred_images = model.compiled_denoise(as_images(places), *rates)
        # The velocity of noisy points along the angle of the schedule (Salimans and Ho 2022,
        # https://arxiv.org/abs/2202.00512, appendix D); the reverse process runs against it.
        velocities = plane(signal_rates * pred_noises - noise_rates * pred_images)
        arrows(drift, places, -tenth * velocities, are_visited(noisy_points))
    return figure


def draw_langevin(model, roll: np.ndarray, seed: int):
    """Two rows: the score at four noise levels, and points from few steps, corrected or not.

    The arrows of each level have a different scale, since the score grows as the noise weakens.
    """
    import keras
    from keras import ops

    from ddim_keras.langevin import langevin_corrected, langevin_steps, score
    from ddim_keras.samplers import ddim

    figure, (scores, generated) = panels(("score", "generated"))
    images = model.normalize(roll)
    noises = ops.convert_to_tensor(
        np.random.default_rng(seed).standard_normal(roll.shape, "float32")
    )
    for axes, time in zip(scores, (0.05, 0.2, 0.5, 0.8), strict=True):
        noise_rates, signal_rates = model.diffusion_schedule(ops.full((1, 1, 1, 1), time))
        noise_rate = float(ops.convert_to_numpy(noise_rates)[0, 0, 0, 0])
        places = grid_of_places()
        rates = [ops.broadcast_to(r, (len(places), 1, 1, 1)) for r in (noise_rates, signal_rates)]
        pred_noises, _ = model.compiled_denoise(as_images(places), *rates)
        axes.set(title=f"noise rate {noise_rate:.2f}")
        ways = plane(score(pred_noises, rates[0]))
        visited = are_visited(plane(signal_rates * images + noise_rates * noises))
        longest = np.linalg.norm(ways[visited], axis=1).max()
        arrows(axes, places, 0.6 / longest * ways, visited)

    denoise = model.compiled_denoise
    start = model.draw_noise(DRAWN_POINTS, np.random.default_rng(seed))
    ratios = np.geomspace(100, 0.05, 6)  # of noise to signal, for five steps
    rates = (1 / np.hypot(1, ratios)).tolist()
    annealed = ops.convert_to_tensor(start)
    generator = keras.random.SeedGenerator(seed)
    for rate in (1 / np.hypot(1, np.geomspace(100, 0.05, 30))).tolist():
        annealed = langevin_steps(denoise, annealed, rate, 10, seed=generator)
    corrected = langevin_corrected(ddim, 20, seed=seed)
    results = {
        "training points": images,
        "5 steps of DDIM": ddim(denoise, start, rates),
        "5 steps, each with 20 of Langevin": corrected(denoise, start, rates),
        "300 Langevin steps alone": annealed,
    }
    for axes, (title, points) in zip(generated, results.items(), strict=True):
        axes.set_title(title, fontsize=9)
        scatter(axes, plane(points), "tab:blue" if points is images else "tab:red")
    return figure


def panels(rows: Sequence[str]):
    """A figure and its axes: named rows of four planes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 2.47 * len(rows)), dpi=80, layout="constrained")
    axes = figure.subplots(len(rows), len(COLUMNS), sharex=True, sharey=True)
    for first, name in zip(axes[:, 0], rows, strict=True):
        first.set(ylabel=name, xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT))
    return figure, axes


def plane(points) -> np.ndarray:
    from keras import ops

    return ops.convert_to_numpy(points).reshape(-1, 2)


def scatter(axes, points: np.ndarray, colour: str) -> None:
    axes.scatter(*points[:DRAWN_POINTS].T, s=1.5, linewidths=0, color=colour)


def arrows(axes, places: np.ndarray, ways: np.ndarray, visited: np.ndarray) -> None:
    ends = (*places[visited].T, *ways[visited].T)
    axes.quiver(*ends, angles="xy", scale_units="xy", scale=1, width=0.005)


def grid_of_places() -> np.ndarray:
    """The centres (N, 2) of the cells of a grid."""
    edges = np.linspace(-EXTENT, EXTENT, ARROWS + 1, dtype="float32")
    middles = (edges[1:] + edges[:-1]) / 2
    return np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1).reshape(-1, 2)


def are_visited(points: np.ndarray) -> np.ndarray:
    """Whether each cell of the grid contains any of the points: (N,)."""
    edges = np.linspace(-EXTENT, EXTENT, ARROWS + 1)
    counts, *_ = np.histogram2d(*points.T, bins=(edges, edges))
    return counts.ravel() > len(points) / 10_000


if __name__ == "__main__":
    run_command(main)
