"""Generates images from a trained model: a labelled grid, and single files if wanted."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from ddim_keras.command_line import (
    add_backend_option,
    at_least,
    choose_backend,
    import_keras,
    run_command,
)
from ddim_keras.config import InputError
from ddim_keras.files import written_whole
from ddim_keras.runs import Run, load_weights, newest_run, read_config

MOST_IN_GRID = 400  # images; a larger figure takes minutes and gigabytes

EXAMPLES = """examples:
  python generate.py --steps 20                            the newest run, 32 images
  python generate.py --run runs/mine --num-images 100 --seed 7
  python generate.py --weights runs/mine/last.weights.h5 --images-dir flowers/
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--steps",
        type=at_least(1),
        metavar="N",
        default=20,
        help="of diffusion, one network call each; more are slower and finer (default: 20)",
    )
    add(
        "--num-images",
        type=at_least(1),
        metavar="N",
        default=32,
        help=f"how many; above {MOST_IN_GRID} with --images-dir only (default: 32)",
    )
    add(
        "--seed",
        type=at_least(0),
        default=0,
        metavar="N",
        help="same seed, same images (default: 0)",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help="run folder, of which the best weights are taken or, where no KID was measured, the "
        "last (default: the newest in runs/)",
    )
    source.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="a .weights.h5 file with its config.json beside it",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("generated.png"),
        help="the grid, a .png file; one that exists is replaced (default: generated.png)",
    )
    add(
        "--images-dir",
        type=Path,
        metavar="DIR",
        help="also write each image into this folder, as 00000.png, ...",
    )
    add(
        "--batch-size",
        type=at_least(1),
        metavar="N",
        default=64,
        help="images that go through the network together; bounds the memory (default: 64)",
    )
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.weights:
        weights = arguments.weights
        if not weights.is_file():
            raise InputError(f"there is no weights file {weights}")
    else:
        weights = (Run(arguments.run) if arguments.run else newest_run()).weights_to_show()
    if arguments.output.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, not {arguments.output.name!r}")
    if arguments.num_images > MOST_IN_GRID and not arguments.images_dir:
        raise InputError(f"a grid shows {MOST_IN_GRID} images at most; for more, add --images-dir")
    config = read_config(weights.parent)
    choose_backend(arguments.backend)

    # Keras is imported from here on, after the backend has been chosen and --help answered.
    import_keras()
    from ddim_keras import plots
    from ddim_keras.callbacks import sampling_progress
    from ddim_keras.model import DiffusionModel

    for folder in filter(None, (arguments.output.parent, arguments.images_dir)):
        folder.mkdir(parents=True, exist_ok=True)  # now, before the work, in case it fails
    model = DiffusionModel(config.model)
    load_weights(model, weights)
    print(f"{arguments.num_images} images, {arguments.steps} steps of DDIM, from {weights}")
    num_batches = -(-arguments.num_images // arguments.batch_size)
    images = model.generate(
        arguments.num_images,
        arguments.steps,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        callback=sampling_progress(num_batches, arguments.steps),
    )
    pixels = np.round(255 * images).astype("uint8")
    name = weights.resolve().parent.name
    title = f"{name}: DDIM, {arguments.steps} steps, seed {arguments.seed}"
    if len(pixels) > MOST_IN_GRID:
        title += f", the first {MOST_IN_GRID} of {len(pixels)}"
    plots.save_figure(plots.image_grid(pixels[:MOST_IN_GRID], title), arguments.output)
    print(f"wrote {arguments.output}")
    if arguments.images_dir:
        for index, image in enumerate(pixels):
            with written_whole(arguments.images_dir / f"{index:05d}.png") as part:
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(part)
        print(f"wrote {len(pixels)} images into {arguments.images_dir}")


if __name__ == "__main__":
    run_command(main)
