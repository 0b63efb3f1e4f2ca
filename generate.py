"""Generates images from a trained model: a labelled grid, and single files if wanted."""

import argparse
from pathlib import Path

from ddim_keras.command_line import add_backend_option, at_least, choose_backend, run_command
from ddim_keras.config import InputError
from ddim_keras.runs import Run, load_weights, newest_run, read_config

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
    add("--steps", type=at_least(1), default=20, help="network calls an image (default: 20)")
    add("--num-images", type=at_least(1), default=32, help="how many (default: 32)")
    add("--seed", type=at_least(0), default=0, help="same seed, same images (default: 0)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", type=Path, help="run folder (default: the newest in runs/)")
    source.add_argument(
        "--weights", type=Path, help="a .weights.h5 file with its config.json beside it"
    )
    add("--output", type=Path, default=Path("generated.png"), help="(default: generated.png)")
    add("--images-dir", type=Path, help="also write each image as a PNG into this folder")
    add(
        "--batch-size",
        type=at_least(1),
        default=64,
        help="images that go through the network together; bounds the memory (default: 64)",
    )
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.weights:
        weights = arguments.weights
    else:
        weights = (Run(arguments.run) if arguments.run else newest_run()).weights_to_show()
    if arguments.output.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, not {arguments.output.name!r}")
    config = read_config(weights.parent)
    choose_backend(arguments.backend)

    # Keras is imported from here on, after the backend has been chosen and --help answered.
    import keras

    from ddim_keras import plots
    from ddim_keras.callbacks import sampling_progress
    from ddim_keras.model import DiffusionModel

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
    title = f"{weights.parent.name}: DDIM, {arguments.steps} steps, seed {arguments.seed}"
    plots.save_figure(plots.image_grid(images, title), arguments.output)
    print(f"wrote {arguments.output}")
    if arguments.images_dir:
        arguments.images_dir.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images):
            path = arguments.images_dir / f"{index:05d}.png"
            keras.utils.save_img(path, image, scale=True)
        print(f"wrote {len(images)} images into {arguments.images_dir}")


if __name__ == "__main__":
    run_command(main)
