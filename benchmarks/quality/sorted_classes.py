"""KID of data sorted by class, with a perfect generator and a generator of a single class.

    python -m benchmarks.quality.sorted_classes

draws flowers, puts each species into a separate folder, and prepares the data set as for training.
A perfect generator draws fresh flowers and must score the floor; a generator of one class must not.
Values are means over batches of 64, as during training, with features of the compact encoder.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ddim_keras.cli.options import add_backend_option, at_least
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.data.drawn_flowers import SPECIES, draw_flowers

NUM_GENERATED = (320, 1200)
CLASS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--num-images",
        type=at_least(1000),
        metavar="N",
        default=6000,
        help="flowers in the folders, four fifths of them for training (default: 6000)",
    )
    add_backend_option(parser)
    arguments = parser.parse_args()
    choose_backend(arguments.backend)
    import_keras()

    from ddim_keras.data.batches import random_images
    from ddim_keras.data.cache import load_dataset
    from ddim_keras.metrics.encoders import compact_encoder
    from ddim_keras.metrics.kid import KernelInceptionDistance

    with tempfile.TemporaryDirectory() as place:
        write_folders(Path(place) / "flowers", arguments.num_images)
        dataset = load_dataset(Path(place) / "flowers", cache_dir=place)
        kid = KernelInceptionDistance(compact_encoder(), dataset.validation_images)
        floor = kid(random_images(dataset.train_images, len(dataset.validation_images)))
    print(f"{kid.protocol}: {floor} between training and validation images, the floor")
    fresh, labels = draw_flowers(len(SPECIES) * NUM_GENERATED[0], seed=2)
    for count in NUM_GENERATED:
        print(f"a perfect generator, {count} images: {kid(fresh[:count])}")
    print(f"a generator of one class, {NUM_GENERATED[0]} images: {kid(fresh[labels == CLASS])}")


def write_folders(folder: Path, num_images: int) -> None:
    """Draws flowers into a folder for each species."""
    images, labels = draw_flowers(num_images, seed=1)
    for species in range(len(SPECIES)):
        (folder / str(species)).mkdir(parents=True)
        for number in np.flatnonzero(labels == species):
            Image.fromarray(images[number]).save(folder / str(species) / f"{number:06d}.png")


if __name__ == "__main__":
    run_command(main)
