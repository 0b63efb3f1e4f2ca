"""Seams of inpainting, errors of encoding, and similarity of variations, on generated flowers.

    python -m benchmarks.quality.editing --steps 25 --resample 1 3 5

fills in the right halves of generated images, with and without the class, and prints the mean
difference of neighbouring pixels (range 0 to 1) across the border, beside it on both sides, and
inside the filled-in half. Then it encodes and decodes whole images with several samplers, and makes
variations of them with several strengths of --from-image.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from ddim_keras.cli.options import add_backend_option, add_run_option, at_least
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import GUIDANCE
from ddim_keras.runs.folder import find_run, load_model

GENERATING_STEPS = 20
ENCODERS = (  # sampler, spacing, steps
    ("ddim", "time", 20),
    ("ddim", "time", 100),
    ("dpm_solver", "time", 50),
    ("ddim", "log_snr", 20),
    ("dpm_solver", "log_snr", 10),
    ("dpm_solver", "log_snr", 20),
    ("heun", "log_snr", 10),
)


TABLES = ("seams", "encoding", "variations")
STRENGTHS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_option(parser)
    whole = {"type": at_least(1), "metavar": "N"}
    parser.add_argument("--num-images", **whole, default=8, help="flowers (default: 8)")
    parser.add_argument(
        "--steps", **whole, nargs="*", default=[25], help="steps of inpainting (default: 25)"
    )
    parser.add_argument(
        "--resample", **whole, nargs="+", default=[5], help="repetitions of a step (default: 5)"
    )
    parser.add_argument(
        "--seed", type=at_least(0), metavar="N", default=0, help="random seed (default: 0)"
    )
    parser.add_argument("--images", metavar="FILE", help="write the filled-in images, a .png file")
    parser.add_argument(
        "--tables", nargs="+", choices=TABLES, default=TABLES, help="tables (default: all)"
    )
    add_backend_option(parser)
    arguments = parser.parse_args()
    choose_backend(arguments.backend)
    import_keras()

    from ddim_keras.metrics.encoders import choose_encoder

    model = load_model(find_run(arguments.run).weights_to_show())
    labels = model.draw_labels(arguments.num_images, np.random.default_rng(arguments.seed))
    flowers = model.generate(
        arguments.num_images, GENERATING_STEPS, seed=arguments.seed, labels=labels
    )
    flowers = np.round(255 * flowers).astype("uint8")
    if "seams" in arguments.tables:
        print_seams(model, flowers, labels, arguments)
    if "encoding" in arguments.tables:
        print("| sampler | steps | spacing | error | error of the prediction | deviation |", end="")
        print(" correlation of neighbours |\n|---|---|---|---|---|---|---|")
        for sampler, spacing, steps in ENCODERS:
            print_encoding(model, flowers, sampler, spacing, steps, arguments.seed)
    if "variations" in arguments.tables:
        print("| strength | difference | distance of features | nearest to its own original |")
        print("|---|---|---|---|")
        encoder = choose_encoder("compact")
        for strength in STRENGTHS:
            print_variations(model, encoder, flowers, labels, strength, arguments.seed + 1)


def print_seams(
    model: Any, flowers: np.ndarray, labels: np.ndarray, arguments: argparse.Namespace
) -> None:
    """Prints the table of inpainting; writes its images if --output is given."""
    from PIL import Image

    from ddim_keras.plots.figures import tiled

    rows = [flowers]
    print("| steps | resample | class | across the border | beside it | inside |")
    print("|---|---|---|---|---|---|")
    print_seam("untouched", "", "", flowers)
    for steps in arguments.steps:
        for resample in arguments.resample:
            for name, given, strength in (
                ("any", np.full_like(labels, -1), 0.0),
                ("its own", labels, GUIDANCE),
            ):
                filled = filled_in(model, flowers, given, strength, steps, resample, arguments.seed)
                print_seam(steps, resample, name, filled)
                rows.append(filled)
    if arguments.images:
        Image.fromarray(tiled(np.concatenate(rows), columns=len(flowers))).save(arguments.images)


def filled_in(
    model: Any,
    images: np.ndarray,
    labels: np.ndarray,
    strength: float,
    steps: int,
    resample: int,
    seed: int,
) -> np.ndarray:
    """The images with their right halves filled in, all in one batch."""
    from ddim_keras.editing import inpaint
    from ddim_keras.generation.editing_jobs import denoiser
    from ddim_keras.guidance import Guidance
    from ddim_keras.samplers import Sampler, image_noises

    shape, numbers = images.shape[1:], range(len(images))
    mask = np.zeros((*shape[:2], 1), "float32")
    mask[:, shape[1] // 2 :] = 1

    def draw_noises(step: int, repetition: int) -> list[np.ndarray]:
        return [image_noises(shape, seed, numbers, step, repetition, use) for use in range(3)]

    filled = inpaint(
        denoiser(model, labels, Guidance(strength)),
        model.normalize(images),
        mask,
        image_noises(shape, seed, numbers, 0),
        Sampler().signal_rates(model, steps),
        draw_noises,
        resample=resample,
    )
    return np.round(255 * np.asarray(model.denormalize(filled))).astype("uint8")


def print_seam(steps: Any, resample: Any, name: str, images: np.ndarray) -> None:
    """Prints the differences of horizontal neighbours as a row of the table."""
    jumps = np.abs(np.diff(images / 255.0, axis=2)).mean(axis=(0, 1, 3))
    border = len(jumps) // 2
    beside = (jumps[border - 1] + jumps[border + 1]) / 2
    inside = jumps[border + 4 :].mean()
    values = " | ".join(f"{value:.3f}" for value in (jumps[border], beside, inside))
    print(f"| {steps} | {resample} | {name} | {values} |", flush=True)


def print_encoding(
    model: Any, images: np.ndarray, sampler: str, spacing: str, steps: int, seed: int
) -> None:
    """Prints how well images are encoded and decoded, as a row of the table; errors of 255."""
    from ddim_keras.generation.editing_jobs import denoiser, encoded, encoded_signal_rate
    from ddim_keras.guidance import Guidance
    from ddim_keras.samplers import Sampler

    chosen = Sampler(sampler, spacing, encoded_signal_rate(model))
    result = encoded(
        model,
        denoiser(model, np.full(len(images), -1), Guidance()),
        images,
        chosen,
        chosen.signal_rates(model, steps),
        seed,
    )
    errors = [
        np.sqrt(np.mean((255 * reconstructed - images) ** 2))
        for reconstructed in (result.decoded, result.predicted)
    ]
    print(
        f"| {sampler} | {steps} | {spacing} | {errors[0]:.1f} | {errors[1]:.1f} | "
        f"{result.noises.std():.3f} | {neighbours(result.noises):.3f} |",
        flush=True,
    )


def print_variations(
    model: Any,
    encoder: Any,
    images: np.ndarray,
    labels: np.ndarray,
    strength: float,
    seed: int,
) -> None:
    """Prints how similar variations are to their images, as a row of the table.

    The distance of features, from the included encoder, is in units of the mean distance between
    two of the images.
    """
    from scipy.spatial.distance import cdist

    from ddim_keras.generation.editing_jobs import starting_points
    from ddim_keras.samplers import Sampler

    rates = Sampler().signal_rates(model, GENERATING_STEPS, strength)
    starts = [
        starting_points(model, image, 1, seed + number, rates[0])[0]
        for number, image in enumerate(images)
    ]
    variations = model.generate(
        len(images),
        GENERATING_STEPS,
        sampler=Sampler(spacing={GENERATING_STEPS: rates}),
        labels=labels,
        initial_noise=np.stack(starts),
    )
    variations = np.round(255 * variations).astype("uint8")
    originals = encoder.features(images)
    distances = cdist(encoder.features(variations), originals)
    between = cdist(originals, originals).sum() / (len(images) * (len(images) - 1))
    difference = np.sqrt(np.mean((variations - images.astype(float)) ** 2))
    own = np.mean(distances.argmin(axis=1) == np.arange(len(images)))
    print(
        f"| {strength} | {difference:.1f} | {distances.diagonal().mean() / between:.2f} | "
        f"{100 * own:.0f} % |",
        flush=True,
    )


def neighbours(noises: Sequence[Any]) -> float:
    """Correlation of horizontal neighbours."""
    noises = np.asarray(noises)
    return float(np.corrcoef(noises[:, :, :-1].ravel(), noises[:, :, 1:].ravel())[0, 1])


if __name__ == "__main__":
    run_command(main)
