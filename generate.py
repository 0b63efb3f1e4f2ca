"""Generates images from a trained model: a labelled grid, and single files if wanted."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddim_keras.atomic import written_whole
from ddim_keras.cli.options import (
    Parser,
    add_backend_option,
    add_guidance_options,
    add_run_option,
    add_sampler_options,
    add_sampling_options,
    at_least,
    class_index,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import GUIDANCE, InputError
from ddim_keras.runs.configuration import RunConfig, read_config
from ddim_keras.runs.folder import Run, find_run, find_weights, load_guide, load_model

MOST_IN_GRID = 400  # images; a larger figure takes minutes and gigabytes
MOST_IN_ANIMATION = 32  # images

EXAMPLES = """examples:
  python generate.py --steps 20                   the newest run, else the model provided
  python generate.py --run runs/mine --num-images 100 --seed 7
  python generate.py --class sunflower "sweet pea"
  python generate.py --steps 10 --sampler dpm_solver --spacing rho
  python generate.py --num-images 4 --trajectory trajectory.gif
  python generate.py --num-images 10 --interpolate 5
  python generate.py --encode photo.jpg --steps 100
  python generate.py --inpaint photo.jpg mask.png
"""


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, epilog=EXAMPLES)
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
        help=f"how many, of each class with --class; above {MOST_IN_GRID} in all with --images-dir "
        "only (default: 32, with --class 8)",
    )
    add_sampling_options(parser)
    source = parser.add_mutually_exclusive_group()
    add_run_option(source)
    source.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="a .weights.h5 file with its config.json beside it",
    )

    classes = parser.add_argument_group("classes, for a model trained with --class-conditional")
    classes.add_argument(
        "--class",
        dest="classes",
        nargs="+",
        metavar="CLASS",
        help="names or numbers; images of each, in order (default: drawn as often as in training)",
    )
    sampling = parser.add_argument_group("sampling")
    add_sampler_options(sampling)
    add_guidance_options(
        sampling,
        default=f"{GUIDANCE:g} for images of classes, chosen or drawn, and with --guide; 0 for "
        "--encode, --interpolate, and --inpaint without --class",
    )

    editing = parser.add_mutually_exclusive_group()
    editing.add_argument(
        "--interpolate",
        type=at_least(0),
        metavar="SEED",
        help="images on the way from the noise of --seed to that of this seed",
    )
    editing.add_argument(
        "--encode",
        type=Path,
        metavar="IMAGE",
        help="follow DDIM from this image to its noise and back; shows all three",
    )
    editing.add_argument(
        "--inpaint",
        type=Path,
        nargs=2,
        metavar=("IMAGE", "MASK"),
        help="fill in this image where the mask, an image as well, is white",
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
        "--trajectory",
        type=Path,
        metavar="FILE",
        help="also write an animation, .gif or .png, of the noisy images and those predicted from "
        f"them over the steps; of the first {MOST_IN_ANIMATION} images",
    )
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    weights = chosen_weights(arguments)
    config = read_config(weights.parent)
    labels = chosen_labels(arguments, config)
    strength = chosen_strength(arguments, config)
    guide_weights = find_weights(arguments.guide) if arguments.guide else None
    if arguments.spacing == "searched":
        Run(weights.parent).read_sampling_steps()  # now, in case there are none
    check_encoding(arguments)
    check_files(arguments, len(labels))
    choose_backend(arguments.backend)

    # Keras is imported from here on, after the backend has been chosen and --help answered.
    import_keras()
    import keras

    from ddim_keras.guidance import Guidance
    from ddim_keras.plots import figures
    from ddim_keras.progress import sampling_progress

    keras.config.set_dtype_policy(arguments.precision)
    model = load_model(weights)
    sampler = chosen_sampler(arguments, model)
    guide = load_guide(guide_weights, model) if guide_weights else None
    guidance = Guidance(strength, arguments.guidance_interval, guide)
    for path in filter(None, (arguments.output, arguments.trajectory)):
        path.parent.mkdir(parents=True, exist_ok=True)  # now, before the work, in case it fails
    how = f"{arguments.steps} steps of {arguments.sampler}"
    title = f"{weights.resolve().parent.name}: {how}, seed {arguments.seed}"
    if strength:
        title += f", {guidance}"
    if arguments.encode:
        encode_and_decode(arguments, sampler, guidance, model, labels[:1])
        return

    print(f"{len(labels)} images, {how}, from {weights}")
    trajectory = Trajectory(model, arguments.steps)
    progress = sampling_progress(-(-len(labels) // arguments.batch_size), arguments.steps)

    def callback(step: int, noisy_images: Any, pred_images: Any) -> None:
        if arguments.trajectory:
            trajectory.add(noisy_images, pred_images)
        progress(step, noisy_images, pred_images)

    initial_noise = None
    if arguments.interpolate is not None:
        initial_noise = noises_between(model, arguments.seed, arguments.interpolate, len(labels))
        title += f" to {arguments.interpolate}"
    is_drawn = arguments.classes is None and not is_editing(arguments)
    images = model.generate(
        len(labels),
        arguments.steps,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        callback=callback,
        sampler=sampler,
        labels=None if is_drawn else labels,
        guidance=guidance,
        initial_noise=initial_noise,
    )

    pixels = np.round(255 * images).astype("uint8")
    columns, names = None, []
    if arguments.classes:
        # So that no row holds two classes.
        of_each = len(pixels) // len(arguments.classes)
        columns = max(number for number in range(1, 21) if of_each % number == 0)
        if len(pixels) <= MOST_IN_GRID:
            names = [name_of(label, config) for label in labels[::of_each]]
    if len(pixels) > MOST_IN_GRID:
        title += f", the first {MOST_IN_GRID} of {len(pixels)}"
    if arguments.images_dir:
        for index, image in enumerate(pixels):
            with written_whole(arguments.images_dir / f"{index:05d}.png") as part:
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(part)
        print(f"wrote {len(pixels)} images into {arguments.images_dir}")
    figure = figures.image_grid(pixels[:MOST_IN_GRID], title, columns, names=names)
    figures.save_figure(figure, arguments.output)
    print(f"wrote {arguments.output}")
    if arguments.trajectory:
        figures.save_animation(trajectory.frames, arguments.trajectory)
        print(f"wrote {arguments.trajectory}")


# What the arguments ask for, checked before the work.


def chosen_weights(arguments: argparse.Namespace) -> Path:
    """The weights file to generate from."""
    if arguments.weights:
        if not arguments.weights.is_file():
            raise InputError(f"there is no weights file {arguments.weights}")
        return arguments.weights
    return (find_run(arguments.run)).weights_to_show()


def chosen_labels(arguments: argparse.Namespace, config: RunConfig) -> np.ndarray:
    """A label for each image, -1 where no class is asked for."""
    num_classes = config.model.network.num_classes
    if not num_classes and (arguments.classes or (arguments.guidance and not arguments.guide)):
        raise InputError(
            "this model was trained without labels; --class, and --guidance without --guide, need "
            "one that was trained with: python train.py --class-conditional"
        )
    if arguments.classes is None:
        return np.full(arguments.num_images or 32, -1)
    classes = [class_index(text, config.class_names, num_classes) for text in arguments.classes]
    return np.repeat(classes, arguments.num_images or 8)


def name_of(label: int, config: RunConfig) -> str:
    """The name of a class or, where it has none, its number."""
    return config.class_names[label] if label < len(config.class_names) else f"class {label}"


def is_editing(arguments: argparse.Namespace) -> bool:
    """Whether more than classes decides about the images; then none are drawn."""
    return any(
        option is not None
        for option in (arguments.encode, arguments.interpolate, arguments.inpaint)
    )


def chosen_strength(arguments: argparse.Namespace, config: RunConfig) -> float:
    """The strength of guidance; by default GUIDANCE for images of classes, or with a guide."""
    if arguments.guidance is not None:
        return arguments.guidance
    is_of_classes = not is_editing(arguments) or (arguments.inpaint and arguments.classes)
    has_classes = is_of_classes and config.model.network.num_classes
    return GUIDANCE if has_classes or arguments.guide else 0.0


def check_encoding(arguments: argparse.Namespace) -> None:
    """Raises InputError for options that --encode has no use for."""
    if not arguments.encode:
        return
    for name in ("eta", "num_images", "images_dir", "trajectory"):
        if getattr(arguments, name):
            raise InputError(f"--encode shows one image; leave --{name.replace('_', '-')} away")
    if arguments.steps < 2:
        raise InputError("--encode needs at least 2 --steps, better 100")


def check_files(arguments: argparse.Namespace, num_images: int) -> None:
    """Raises InputError for files that cannot be written as asked."""
    if arguments.output.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, not {arguments.output.name!r}")
    if arguments.trajectory and arguments.trajectory.suffix.lower() not in (".gif", ".png"):
        raise InputError(
            f"--trajectory must end in .gif or .png, not {arguments.trajectory.name!r}"
        )
    if arguments.trajectory == arguments.output:
        raise InputError("--output and --trajectory must be two files")
    for path in filter(None, (arguments.output, arguments.trajectory)):
        if path.is_dir():
            raise InputError(f"{path} is a folder; give the name of a file")
    if num_images > MOST_IN_GRID and not arguments.images_dir:
        raise InputError(f"a grid shows {MOST_IN_GRID} images at most; for more, add --images-dir")
    if arguments.images_dir:
        if arguments.images_dir.is_file():
            raise InputError(f"--images-dir {arguments.images_dir} is a file; give a folder")
        arguments.images_dir.mkdir(parents=True, exist_ok=True)
        beyond = [
            path.name
            for path in arguments.images_dir.glob("[0-9]*.png")
            if path.stem.isdecimal() and int(path.stem) >= num_images
        ]
        if beyond:
            raise InputError(
                f"{arguments.images_dir} holds {min(beyond)} of another set of images, which would "
                "stay among the new ones; empty it, or choose another folder"
            )


def chosen_sampler(arguments: argparse.Namespace, model: Any) -> Any:
    """The sampler with its options, as `DiffusionModel.generate` takes it."""
    from ddim_keras.editing import filled_in
    from ddim_keras.samplers import Sampler

    sampler = Sampler(
        arguments.sampler, arguments.spacing, arguments.last_signal_rate, eta=arguments.eta
    )
    # Now, before the work, in case there are none.
    signal_rates = sampler.signal_rates(model, arguments.steps)
    if not arguments.inpaint:
        return sampler
    if sampler.eta:
        raise InputError("--eta cannot be combined with --inpaint")
    image, mask = (image_for(model, path) for path in arguments.inpaint)
    known = (mask.mean(axis=-1, keepdims=True) < 128).astype("float32")

    def fill_in(denoise: Any, initial_noise: Any, signal_rates: Any, **options: Any) -> Any:
        denoise = filled_in(denoise, model.normalize(image), known)
        return sampler(denoise, initial_noise, signal_rates, **options)

    return Sampler(fill_in, {arguments.steps: signal_rates})


# What can be done besides generating.


class Trajectory:
    """Collects, over the steps of one batch, a picture of the noisy and the predicted images."""

    def __init__(self, model: Any, steps: int) -> None:
        self.model = model
        self.steps = steps
        self.frames: list[np.ndarray] = []

    def add(self, noisy_images: Any, pred_images: Any) -> None:
        """Adds a frame, until the steps of the first batch are complete."""
        from ddim_keras.plots.figures import tiled

        if len(self.frames) < self.steps:
            halves = (
                tiled(np.array(self.model.denormalize(images[:MOST_IN_ANIMATION])))
                for images in (noisy_images, pred_images)
            )
            self.frames.append(np.concatenate(list(halves), axis=1))


def noises_between(model: Any, seed: int, other_seed: int, num_images: int) -> np.ndarray:
    """Noises from the first of one seed to the first of another."""
    from ddim_keras.editing import interpolate

    ends = (model.draw_noise(1, np.random.default_rng(each))[0] for each in (seed, other_seed))
    return interpolate(*ends, num_images)


def encode_and_decode(
    arguments: argparse.Namespace, sampler: Any, guidance: Any, model: Any, labels: np.ndarray
) -> None:
    """Writes an image, the noise that DDIM encodes it as, and what that is decoded to."""
    from keras import ops

    from ddim_keras.editing import decode, encode
    from ddim_keras.plots import figures
    from ddim_keras.samplers import image_noises

    image = image_for(model, arguments.encode)
    rates = sampler.signal_rates(model, arguments.steps)
    denoise = guidance(model.compiled_denoise, labels if model.num_classes else None)
    added_noises = image_noises(image.shape, arguments.seed, [0])
    noise = encode(denoise, model.normalize(image[None]), added_noises, rates, sampler)
    decoded = decode(denoise, noise, rates, sampler, added_noises)
    pictures = [ops.convert_to_numpy(model.denormalize(each))[0] for each in (noise, decoded)]
    error = 255 * np.sqrt(np.mean((pictures[1] - image / 255.0) ** 2))
    deviation = float(np.std(ops.convert_to_numpy(noise)))
    print(
        f"{arguments.encode}, {arguments.steps} steps of {arguments.sampler} each way: "
        f"reconstruction error {error:.1f} of 255 (root mean square); standard deviation of the "
        f"noise {deviation:.2f}, of true noise 1"
    )
    title = f"image, its noise, decoded (error {error:.1f} of 255)"
    figure = figures.image_grid(np.stack([image / 255.0, *pictures]), title, columns=3, zoom=4)
    figures.save_figure(figure, arguments.output)
    print(f"wrote {arguments.output}")


def image_for(model: Any, path: Path) -> np.ndarray:
    """Reads an image, cropped and resized to the model's: (H, W, C) uint8."""
    from ddim_keras.data.images import load_image

    size, _, channels = model.network.input_shape[0][1:]
    return load_image(path, size, channels)


if __name__ == "__main__":
    run_command(main)
