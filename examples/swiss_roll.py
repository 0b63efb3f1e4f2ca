"""Diffusion of a swiss roll of points: the forward process, the learned reverse process, the drift.

    python examples/swiss_roll.py

Figure 1 of Sohl-Dickstein et al. 2015 (https://arxiv.org/abs/1503.03585). To a DiffusionModel, a
point of the plane is an image of one pixel with two channels; nothing else changes.
"""

import argparse
import math
from pathlib import Path

import numpy as np

from ddim_keras.cli.options import add_backend_option, at_least
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError, ModelConfig, NetworkConfig

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
    add("--output", type=Path, metavar="FILE", default=Path("swiss_roll.png"), help="(%(default)s)")
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.output.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, not {arguments.output.name!r}")
    choose_backend(arguments.backend)

    # Keras is imported from here on, after the backend has been chosen and --help answered.
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


def swiss_roll(num_points: int, seed: int) -> np.ndarray:
    """Points along a spiral, evenly in its angle: (N, 1, 1, 2) float32, well within [0, 1].

    The margin is for generated points beyond the roll, which are cut off at 0 and 1.
    """
    random = np.random.default_rng(seed)
    angles = 1.5 * np.pi * (1 + 2 * random.random(num_points))
    points = angles * np.stack([np.cos(angles), np.sin(angles)])
    points += random.normal(scale=0.15, size=points.shape)  # thickness of the roll
    return (0.5 + points.T / 40).astype("float32").reshape(-1, 1, 1, 2)


def draw(model, roll: np.ndarray, steps: int, seed: int):
    """Three rows, in time from left to right: the roll dissolves, forms, and what moves it.

    The arrows are the drift: where the network would move a point in a tenth of the reverse
    process. They stand where there are noisy points, since nowhere else has it learned anything.
    """
    from keras import ops
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 7.4), dpi=80, layout="constrained")
    rows = figure.subplots(3, len(COLUMNS), sharex=True, sharey=True)
    names = ("forward process", "learned reverse process", "learned drift")
    for axes, name in zip(rows[:, 0], names, strict=True):
        axes.set(ylabel=name, xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT))

    def plane(points) -> np.ndarray:
        return ops.convert_to_numpy(points).reshape(-1, 2)

    def scatter(axes, points: np.ndarray, colour: str) -> None:
        axes.scatter(*points[:DRAWN_POINTS].T, s=1.5, linewidths=0, color=colour)

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
    edges = np.linspace(-EXTENT, EXTENT, ARROWS + 1)
    middles = ((edges[1:] + edges[:-1]) / 2).astype("float32")
    places = np.stack(np.meshgrid(middles, middles, indexing="ij"), axis=-1).reshape(-1, 2)
    points = ops.reshape(ops.convert_to_tensor(places), (-1, 1, 1, 2))
    tenth = 0.1 * (
        np.arccos(model.config.min_signal_rate) - np.arccos(model.config.max_signal_rate)
    )
    for (time, title), (forward, reverse, drift) in zip(COLUMNS.items(), rows.T, strict=True):
        forward.set(title=title)
        noise_rates, signal_rates = model.diffusion_schedule(ops.full((1, 1, 1, 1), time))
        noisy_points = plane(signal_rates * images + noise_rates * noises)
        scatter(forward, noisy_points, "tab:blue")
        scatter(reverse, plane(states[min(states, key=lambda state: abs(state - time))]), "tab:red")

        counts, *_ = np.histogram2d(*noisy_points.T, bins=(edges, edges))
        visited = counts.ravel() > len(roll) / 10_000
        rates = [ops.broadcast_to(r, (len(places), 1, 1, 1)) for r in (noise_rates, signal_rates)]
        pred_noises, pred_images = model.compiled_denoise(points, *rates)
        # By the angle of the schedule, noisy points have this velocity (Salimans and Ho 2022,
        # https://arxiv.org/abs/2202.00512, appendix D); the reverse process goes against it.
        velocities = plane(signal_rates * pred_noises - noise_rates * pred_images)
        arrows = (*places[visited].T, *(-tenth * velocities[visited]).T)
        drift.quiver(*arrows, angles="xy", scale_units="xy", scale=1, width=0.005)
    return figure


if __name__ == "__main__":
    run_command(main)
