"""Checks whether a model repeats its training images, by nearest neighbours among features.

    python -m benchmarks.quality.memorisation

For each generated image, the distance to the nearest training image; the same for validation
images, which the model never saw. A model that copies is nearer to its training images than new
photographs are. Distances are cosine distances between the features that KID uses.
"""

import argparse

import numpy as np

from ddim_keras.cli.options import (
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    add_run_option,
    add_sampling_options,
    at_least,
    finite,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.runs.folder import find_run, load_model

PERCENTILES = (0, 1, 10, 50, 90)


def nearest_distances(features: np.ndarray, train_features: np.ndarray) -> np.ndarray:
    """Cosine distance of each row to the nearest row of the other array: (N, D), (M, D) -> (N,)."""
    units, train_units = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, train_features)
    )
    return 1.0 - np.max(units @ train_units.T, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_option(parser)
    parser.add_argument(
        "--steps", type=at_least(1), metavar="N", default=20, help="of DDIM (default: 20)"
    )
    parser.add_argument(
        "--num-images", type=at_least(1), metavar="N", default=512, help="(default: 512)"
    )
    parser.add_argument(
        "--guidance", type=finite, metavar="W", default=0.0, help="see generate.py (default: 0)"
    )
    add_sampling_options(parser)
    add_data_options(parser, data_dir="the run's")
    add_kid_weights_option(parser)
    add_backend_option(parser)
    arguments = parser.parse_args()
    run = find_run(arguments.run)
    config = run.read_config()
    choose_backend(arguments.backend)
    import_keras()
    import keras

    from ddim_keras.data.cache import load_dataset
    from ddim_keras.metrics.encoders import choose_encoder
    from ddim_keras.progress import sampling_progress

    dataset = load_dataset(
        config.dataset,
        config.model.network.image_size,
        arguments.data_dir or config.data_dir,
        arguments.cache_dir,
    )
    encoder = choose_encoder(arguments.kid_weights)
    keras.config.set_dtype_policy(arguments.precision)
    model = load_model(run.weights_to_show())
    num_batches = -(-arguments.num_images // arguments.batch_size)
    generated = model.generate(
        arguments.num_images,
        arguments.steps,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        callback=sampling_progress(num_batches, arguments.steps),
        guidance=arguments.guidance,
    )
    # Mirrored as well, as most recipes show them: the features of an image and its mirror differ.
    train_features = np.concatenate(
        [encoder.features(dataset.train_images[:, :, ::step]) for step in (1, -1)]
    )
    print(
        f"distance to the nearest of {len(dataset.train_images)} training images, mirrored or not, "
        "percentiles"
    )
    print(f"{'':12s}" + "".join(f"{percentile:>8d}" for percentile in PERCENTILES))
    distances = {
        "validation": nearest_distances(
            encoder.features(dataset.validation_images), train_features
        ),
        "generated": nearest_distances(encoder.features(generated), train_features),
    }
    for name, values in distances.items():
        cells = (f"{value:8.4f}" for value in np.percentile(values, PERCENTILES))
        print(f"{name:12s}" + "".join(cells))
    limit = np.percentile(distances["validation"], 1)
    share = np.mean(distances["generated"] < limit)
    print(
        f"{100 * share:.1f} % of the generated images are nearer than all but 1 % of the "
        "validation images"
    )


if __name__ == "__main__":
    run_command(main)
