"""Training and test of the compact encoder, which measures KID if Inception is not available.

    python -m benchmarks.quality.compact_encoder --kid-weights FILE \\
        --output ddim_keras/pretrained/compact_encoder.weights.h5

trains a small network, at 64 px, to reproduce Inception's features of photographs, sharp and
degraded, and to classify the 102 species from its own features. Prints how well it does both on the
validation images, and writes it as float16. Knowledge distillation: Hinton et al. 2015
(https://arxiv.org/abs/1503.02531), here of features.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from benchmarks.quality.compare_encoders import noisy, pixelated
from ddim_keras.cli.options import (
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    at_least,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError

BATCH_SIZE = 32
LARGEST_SHIFT = 6  # pixels
LEARNING_RATE = 2e-3
WEIGHT_OF_SPECIES = 0.1  # of the loss


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help="file to write, .weights.h5")
    add(
        "--variants",
        type=at_least(1),
        default=4,
        metavar="N",
        help="degraded variants of each photograph (default: 4)",
    )
    add(
        "--epochs",
        type=at_least(1),
        default=5,
        metavar="N",
        help="passes over all variants (default: 5)",
    )
    add_data_options(parser, data_dir="~/tensorflow_datasets")
    add_kid_weights_option(parser)
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    choose_backend(arguments.backend)
    import_keras()
    import keras

    from ddim_keras.backends.devices import fast_precision
    from ddim_keras.data.cache import load_dataset
    from ddim_keras.metrics.encoders import (
        COMPACT_FEATURES,
        COMPACT_IMAGE_SIZE,
        compact_network,
        inception_encoder,
    )
    from ddim_keras.progress import verbosity

    teacher = inception_encoder(arguments.kid_weights)
    if teacher.network.output_shape[-1] != COMPACT_FEATURES:
        raise InputError(
            f"the encoder learns from {COMPACT_FEATURES} features: --kid-weights must be a file of "
            "InceptionV3 up to mixed7"
        )
    dataset = load_dataset(
        "oxford_flowers102", COMPACT_IMAGE_SIZE, arguments.data_dir, arguments.cache_dir
    )
    random = np.random.default_rng(0)
    images = np.concatenate(
        [varied(dataset.train_images, random) for _ in range(arguments.variants)]
    )
    labels = np.tile(dataset.train_labels, arguments.variants)
    print(f"{len(images):,} images for the {teacher.name} to look at", flush=True)
    features = teacher.features(images).astype("float32")
    variance = float(features.var(axis=0).mean())

    keras.config.set_dtype_policy(fast_precision())
    keras.utils.set_random_seed(0)
    network = compact_network()
    species = keras.layers.Dense(dataset.num_classes, dtype="float32", name="species")(
        network.output
    )
    student = keras.Model(network.input, {"features": network.output, "species": species})
    steps = len(images) // BATCH_SIZE
    student.compile(
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(LEARNING_RATE, arguments.epochs * steps),
            weight_decay=0.02,
        ),
        loss={
            "features": "mse",
            "species": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        },
        # In units of the features' variance, so that neither loss dominates.
        loss_weights={"features": 1 / variance, "species": WEIGHT_OF_SPECIES},
        metrics={"species": "accuracy"},
    )
    student.fit(
        batches(images, features, labels, random),
        steps_per_epoch=steps,
        epochs=arguments.epochs,
        verbose=verbosity(),
    )
    report(student, teacher, dataset.validation_images, dataset.validation_labels, random)
    save_half_precision(arguments.output, network.get_weights())
    size = arguments.output.stat().st_size / 1e6
    print(f"wrote {arguments.output}, {network.count_params():,} parameters, {size:.2f} MB")


def scaled(images: np.ndarray) -> np.ndarray:
    """Maps uint8 images to float32 in [-1, 1]."""
    return images.astype("float32") / 127.5 - 1.0


def varied(images: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Shifts and mirrors images (N, H, W, C), and degrades two out of three."""
    size = images.shape[1]
    shifts = (LARGEST_SHIFT, LARGEST_SHIFT)
    padded = np.pad(images, ((0, 0), shifts, shifts, (0, 0)), mode="reflect")
    results = np.empty_like(images)
    for index, image in enumerate(padded):
        top, left = random.integers(0, 2 * LARGEST_SHIFT + 1, 2)
        image = image[top : top + size, left : left + size]
        results[index] = image[:, ::-1] if random.random() < 0.5 else image
    spoilt = np.flatnonzero(random.random(len(images)) < 2 / 3)
    for index in spoilt:
        results[index] = spoil(results[index], random)
    return results


def spoil(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Degrades one image (H, W, C) in one or two ways: blur, noise, coarse pixels or fading."""
    for kind in random.choice(4, size=random.integers(1, 3), replace=False):
        picture = Image.fromarray(image)
        if kind == 0:
            radius = random.uniform(0.3, 4.0)
            image = np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)))
        elif kind == 1:
            image = noisy(random.uniform(2.0, 50.0), random)(image)
        elif kind == 2:
            image = pixelated(int(random.integers(12, 49)))(image[None])[0]
        else:
            picture = ImageEnhance.Color(picture).enhance(random.uniform(0.2, 1.8))
            image = np.asarray(ImageEnhance.Contrast(picture).enhance(random.uniform(0.4, 1.3)))
    return image


def batches(
    images: np.ndarray, features: np.ndarray, labels: np.ndarray, random: np.random.Generator
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields batches endlessly, each image once per pass."""
    while True:
        order = random.permutation(len(images))
        for chosen in order[: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE):
            targets = {"features": features[chosen], "species": labels[chosen]}
            yield scaled(images[chosen]), targets


def report(
    student: Any,
    teacher: Any,
    images: np.ndarray,
    labels: np.ndarray,
    random: np.random.Generator,
) -> None:
    """Prints the accuracy for species, and the explained share of the features."""
    for name, shown in (("as they are", images), ("varied", varied(images, random))):
        predictions = student.predict(scaled(shown), verbose=0)
        accuracy = float(np.mean(np.argmax(predictions["species"], axis=-1) == labels))
        features = teacher.features(shown)
        errors = predictions["features"] - features
        explained = 1.0 - float(np.mean(errors**2) / features.var(axis=0).mean())
        print(
            f"{len(images)} validation images, {name}: {accuracy:.1%} of the species right, "
            f"{explained:.1%} of the variance of the features explained"
        )


def save_half_precision(path: Path, weights: list[np.ndarray]) -> None:
    """Writes the weights of a compact network as float16, which Keras reads into float32."""
    import keras

    from ddim_keras.metrics.encoders import compact_network

    keras.config.set_dtype_policy("float16")
    network = compact_network()
    network.set_weights(weights)
    network.save_weights(path)


if __name__ == "__main__":
    run_command(main)
