"""Agreement of the compact encoder and Inception in ranking images, from real ones to noise.

    python -m benchmarks.quality.compare_encoders --kid-weights FILE --runs runs/a runs/b

measures the KID of degraded validation images, and of images generated in 1 to 20 steps, with both
encoders, and prints Spearman's rank correlation of the two columns.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from ddim_keras.cli.options import (
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    add_sampling_options,
    at_least,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.runs.folder import PRETRAINED, Run, load_model

STEPS = (1, 2, 5, 20)  # of deterministic DDIM


def filtered(function: Callable[[Image.Image], Image.Image]) -> Callable[[np.ndarray], np.ndarray]:
    """Applies a function of Pillow images to each of a uint8 array (N, H, W, C)."""
    return lambda images: np.stack(
        [np.asarray(function(Image.fromarray(image))) for image in images]
    )


def noisy(
    standard_deviation: float, random: np.random.Generator | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Adds normally distributed noise, in grey levels of 255."""
    random = random or np.random.default_rng(0)
    return lambda images: random.normal(images, standard_deviation).clip(0, 255).astype("uint8")


def pixelated(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Keeps only size x size pixels, enlarged as squares."""
    return filtered(
        lambda image: image.resize((size, size), Image.Resampling.BOX).resize(
            image.size, Image.Resampling.NEAREST
        )
    )


def shuffled(parts: int) -> Callable[[np.ndarray], np.ndarray]:
    """Splits each image into parts x parts squares and shuffles them."""

    def shuffle(images: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(0)
        count, size, _, channels = images.shape
        edge = size // parts
        squares = images.reshape(count, parts, edge, parts, edge, channels).swapaxes(2, 3)
        squares = squares.reshape(count, parts * parts, edge, edge, channels)
        squares = np.stack([each[random.permutation(parts * parts)] for each in squares])
        squares = squares.reshape(count, parts, parts, edge, edge, channels).swapaxes(2, 3)
        return squares.reshape(images.shape)

    return shuffle


DEGRADATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": lambda images: images,
    "blur, 1 px": filtered(lambda image: image.filter(ImageFilter.GaussianBlur(1))),
    "blur, 2 px": filtered(lambda image: image.filter(ImageFilter.GaussianBlur(2))),
    "blur, 4 px": filtered(lambda image: image.filter(ImageFilter.GaussianBlur(4))),
    "noise, 10 levels": noisy(10),
    "noise, 30 levels": noisy(30),
    "32x32 pixels": pixelated(32),
    "16x16 pixels": pixelated(16),
    "half the colour": filtered(lambda image: ImageEnhance.Color(image).enhance(0.5)),
    "half the contrast": filtered(lambda image: ImageEnhance.Contrast(image).enhance(0.5)),
    "4x4 squares shuffled": shuffled(4),
    "8x8 squares shuffled": shuffled(8),
    "negative": lambda images: 255 - images,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        default=[PRETRAINED],
        metavar="DIR",
        help="runs on Oxford Flowers (default: the included model)",
    )
    parser.add_argument(
        "--num-images",
        type=at_least(128),
        metavar="N",
        default=256,
        help="generated images per set (default: 256)",
    )
    add_sampling_options(parser)
    add_data_options(parser, data_dir="~/tensorflow_datasets")
    add_kid_weights_option(parser)
    add_backend_option(parser)
    arguments = parser.parse_args()
    weights_files = [Run(folder).weights_to_show() for folder in arguments.runs]
    choose_backend(arguments.backend)
    import_keras()
    import keras

    from ddim_keras.data.cache import load_dataset
    from ddim_keras.metrics.encoders import compact_encoder, inception_encoder
    from ddim_keras.metrics.kid import KernelInceptionDistance

    dataset = load_dataset("oxford_flowers102", 64, arguments.data_dir, arguments.cache_dir)
    encoders = [inception_encoder(arguments.kid_weights), compact_encoder()]
    # No photographs that the compact encoder was trained on, and none compared with itself.
    references, photographs = dataset.validation_images[::2], dataset.validation_images[1::2]
    kids = [KernelInceptionDistance(encoder, references) for encoder in encoders]
    rows: list[list[float]] = []

    def measure(name: str, images: np.ndarray) -> None:
        distances = [kid(images) for kid in kids]
        rows.append([distance.value for distance in distances])
        print(f"{name:40s}" + "".join(f"{distance!s:>24s}" for distance in distances), flush=True)

    print(f"{'KID':40s}" + "".join(f"{encoder.name:>24s}" for encoder in encoders))
    for name, degrade in DEGRADATIONS.items():
        measure(name, degrade(photographs[: arguments.num_images]))
    keras.config.set_dtype_policy(arguments.precision)
    for folder, weights in zip(arguments.runs, weights_files, strict=True):
        model = load_model(weights)
        for steps in STEPS:
            images = model.generate(
                arguments.num_images, steps, seed=arguments.seed, batch_size=arguments.batch_size
            )
            measure(f"{folder.name}, {steps} steps", images)
    print(f"rank correlation over {len(rows)} sets: {rank_correlation(*np.transpose(rows)):.3f}")


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation, for values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    run_command(main)
