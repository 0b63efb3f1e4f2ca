"""Trains the compact encoder that measures KID where Inception cannot be had, and tests it.

    python benchmarks/compact_encoder.py --output ddim_keras/pretrained/compact_encoder.weights.h5

trains a classifier of the 102 species at 64 px, prints its accuracy on the validation images, and
writes the layers below the classes as float16.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from ddim_keras.command_line import (
    add_backend_option,
    add_data_options,
    at_least,
    choose_backend,
    import_keras,
    run_command,
)

BATCH_SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=".weights.h5")
    parser.add_argument("--epochs", type=at_least(1), default=60, help="(default: 60)")
    add_data_options(parser, data_dir="~/tensorflow_datasets")
    add_backend_option(parser)
    arguments = parser.parse_args()
    choose_backend(arguments.backend)
    import_keras()
    import keras

    from ddim_keras.data import load_dataset
    from ddim_keras.encoders import COMPACT_IMAGE_SIZE, compact_network

    dataset = load_dataset(
        "oxford_flowers102", COMPACT_IMAGE_SIZE, arguments.data_dir, arguments.cache_dir
    )
    keras.utils.set_random_seed(0)
    network = compact_network()
    features = keras.layers.Dropout(0.3)(network.output)
    logits = keras.layers.Dense(dataset.num_classes)(features)
    classifier = keras.Model(network.input, logits)
    steps = len(dataset.train_images) // BATCH_SIZE
    classifier.compile(
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(2e-3, arguments.epochs * steps),
            weight_decay=0.02,
        ),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        metrics=["accuracy"],
    )
    classes = np.eye(dataset.num_classes, dtype="float32")
    validation = scaled(dataset.validation_images), classes[dataset.validation_labels]
    classifier.fit(
        augmented_batches(dataset.train_images, classes[dataset.train_labels]),
        steps_per_epoch=steps,
        epochs=arguments.epochs,
        validation_data=validation,
        verbose=1 if sys.stdout.isatty() else 2,
    )
    _, accuracy = classifier.evaluate(*validation, verbose=0)
    save_half_precision(arguments.output, network.get_weights())
    size = arguments.output.stat().st_size / 1e6
    print(
        f"tells {accuracy:.1%} of {len(validation[0])} validation images right; "
        f"wrote {arguments.output}, {network.count_params():,} parameters, {size:.2f} MB"
    )


def scaled(images: np.ndarray) -> np.ndarray:
    """Maps uint8 images to float32 in [-1, 1]."""
    return images.astype("float32") / 127.5 - 1.0


def augmented_batches(
    images: np.ndarray, classes: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields batches without end: mirrored, shifted by up to 6 pixels, brighter or darker."""
    random = np.random.default_rng(0)
    margin = 6
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    size = images.shape[1]
    while True:
        order = random.permutation(len(images))
        for chosen in order[: len(order) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE):
            batch = np.empty((BATCH_SIZE, size, size, 3), "float32")
            for place, index in enumerate(chosen):
                top, left = random.integers(0, 2 * margin + 1, 2)
                image = scaled(padded[index, top : top + size, left : left + size])
                batch[place] = image[:, ::-1] if random.random() < 0.5 else image
            batch *= random.uniform(0.8, 1.2, (BATCH_SIZE, 1, 1, 1)).astype("float32")
            batch += random.uniform(-0.1, 0.1, (BATCH_SIZE, 1, 1, 1)).astype("float32")
            yield batch, classes[chosen]


def save_half_precision(path: Path, weights: list[np.ndarray]) -> None:
    """Writes the weights of a compact network as float16, which Keras reads into float32."""
    import keras

    from ddim_keras.encoders import compact_network

    keras.config.set_dtype_policy("float16")
    network = compact_network()
    network.set_weights(weights)
    network.save_weights(path)


if __name__ == "__main__":
    run_command(main)
