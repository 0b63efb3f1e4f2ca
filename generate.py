"""Generates images from a trained model: a labelled grid, and single files if wanted."""

import argparse
import dataclasses
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
    finite,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import GUIDANCE, InputError, NetworkConfig
from ddim_keras.generation.given import GivenImages, refuse_overwriting
from ddim_keras.runs.configuration import RunConfig, read_config
from ddim_keras.runs.folder import Run, find_run, find_weights, load_guide, load_model

MOST_IN_GRID = 400  # images; a larger figure takes minutes and gigabytes
MOST_IN_ANIMATION = 32  # images

NUM_EDITED = 7  # images, beside the given one
DEFAULT_STEPS = 20
INPAINTING_STEPS, RESAMPLE = 35, 3
STRENGTH = 0.6
ENCODING_SAMPLER, ENCODING_SPACING = "dpm_solver", "log_snr"

EXAMPLES = """examples:
  python generate.py --steps 20                   the newest run, else the model provided
  python generate.py --run runs/mine --num-images 100 --seed 7
  python generate.py --class sunflower "sweet pea"
  python generate.py --steps 10 --sampler dpm_solver --spacing rho
  python generate.py --num-images 4 --trajectory trajectory.gif
  python generate.py --num-images 10 --interpolate 5
  python generate.py --inpaint photo.jpg mask.png
  python generate.py --from-image photo.jpg --strength 0.6
  python generate.py --encode photo.jpg other.jpg
"""


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    add = parser.add_argument
    add(
        "--steps",
        type=at_least(1),
        metavar="N",
        help="of diffusion, one network call each; more are slower and finer (default: "
        f"{DEFAULT_STEPS}, with --inpaint {INPAINTING_STEPS})",
    )
    add(
        "--num-images",
        type=at_least(1),
        metavar="N",
        help=f"how many, of each class with --class; above {MOST_IN_GRID} in all with --images-dir "
        f"only (default: 32; 8 with --class; {NUM_EDITED} with "
        "--inpaint, --from-image, and --encode of two images)",
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
        "--encode, --interpolate, and given images without --class",
    )

    group = parser.add_argument_group("editing")
    editing = group.add_mutually_exclusive_group()
    editing.add_argument(
        "--interpolate",
        type=at_least(0),
        metavar="SEED",
        help="images on the way from the noise of --seed to that of this seed",
    )
    editing.add_argument(
        "--inpaint",
        type=Path,
        nargs=2,
        metavar=("IMAGE", "MASK"),
        help="fill in this image where the mask, an image of the same shape, is white; where it is "
        "black the image is kept exactly, where it is grey it changes the more, the lighter",
    )
    editing.add_argument(
        "--from-image",
        type=Path,
        metavar="IMAGE",
        help="variations of this image: noise is added to it, and removed again",
    )
    editing.add_argument(
        "--encode",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="the noise that leads to this image, and the way back; with a second image, the path "
        f"from one to the other (default sampler: {ENCODING_SAMPLER}, even in {ENCODING_SPACING})",
    )
    group.add_argument(
        "--resample",
        type=at_least(1),
        metavar="N",
        help="repetitions of each step of --inpaint, one network call each; more join better, and "
        f"draw smoother (default: {RESAMPLE})",
    )
    group.add_argument(
        "--strength",
        type=strength,
        metavar="S",
        help="diffusion time up to which noise is added with --from-image, above 0 to 1; larger "
        f"changes more (default: {STRENGTH:g})",
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


def strength(text: str) -> float:
    """An argparse type: numbers above 0, and at most 1."""
    value = finite(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text}")
    return value


def main() -> None:
    arguments = parse_arguments()
    weights = chosen_weights(arguments)
    config = read_config(weights.parent)
    check_editing(arguments)
    choose_defaults(arguments)
    labels = chosen_labels(arguments, config)
    strength = chosen_strength(arguments, config)
    guide_weights = find_weights(arguments.guide) if arguments.guide else None
    given = read_given(arguments, config.model.network)
    if arguments.spacing == "searched":
        Run(weights.parent).read_sampling_steps()  # now, in case there are none
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
    signal_rates = sampler.signal_rates(model, arguments.steps, arguments.strength)
    for path in filter(None, (arguments.output, arguments.trajectory)):
        path.parent.mkdir(parents=True, exist_ok=True)  # now, before the work, in case it fails
    how = f"{arguments.steps} steps of {arguments.sampler}"
    if arguments.inpaint:
        how = f"{arguments.steps} steps, {arguments.resample} times each"
    if arguments.from_image:
        how += f", strength {arguments.strength:g}"
    title = f"{weights.resolve().parent.name}: {how}, seed {arguments.seed}"
    if arguments.interpolate is not None:
        title += f" to {arguments.interpolate}"
    if strength:
        title += f", {guidance}"
    if arguments.encode:
        encode_and_decode(arguments, given, model, sampler, signal_rates, guidance, labels[0])
        return

    print(f"{len(labels)} images, {how}, from {weights}")
    calls = arguments.steps
    if arguments.inpaint:
        calls = (arguments.steps - 1) * arguments.resample + 1
    trajectory = Trajectory(model, calls)
    progress = sampling_progress(-(-len(labels) // arguments.batch_size), calls)

    def callback(step: int, noisy_images: Any, pred_images: Any) -> None:
        if arguments.trajectory:
            trajectory.add(noisy_images, pred_images)
        progress(step, noisy_images, pred_images)

    images = make_images(arguments, given, model, sampler, signal_rates, guidance, labels, callback)
    pixels = np.round(255 * images).astype("uint8")
    shown = pixels
    if given is not None:
        rows = np.split(pixels, len(arguments.classes or [None]))
        shown = np.concatenate([part for row in rows for part in (given.shown()[None], row)])
    columns, names = None, []
    if arguments.classes:
        # So that no row holds two classes.
        of_each = len(shown) // len(arguments.classes)
        columns = max(number for number in range(1, 21) if of_each % number == 0)
        if len(shown) <= MOST_IN_GRID:
            names = [name_of(label, config) for label in labels[:: arguments.num_images]]
    if len(shown) > MOST_IN_GRID:
        title += f", the first {MOST_IN_GRID} of {len(shown)}"
    if arguments.images_dir:
        write_images(images, arguments.images_dir)
    figure = figures.image_grid(shown[:MOST_IN_GRID], title, columns, names=names)
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
        return np.full(arguments.num_images, -1)
    classes = [class_index(text, config.class_names, num_classes) for text in arguments.classes]
    return np.repeat(classes, arguments.num_images)


def name_of(label: int, config: RunConfig) -> str:
    """The name of a class or, where it has none, its number."""
    return config.class_names[label] if label < len(config.class_names) else f"class {label}"


def is_editing(arguments: argparse.Namespace) -> bool:
    """Whether more than classes decides about the images; then none are drawn."""
    return arguments.interpolate is not None or bool(inputs(arguments))


def inputs(arguments: argparse.Namespace) -> list[Path]:
    """The image files to be edited, with the mask."""
    if arguments.from_image:
        return [arguments.from_image]
    return arguments.inpaint or arguments.encode or []


def chosen_strength(arguments: argparse.Namespace, config: RunConfig) -> float:
    """The strength of guidance; by default GUIDANCE for images of classes, or with a guide."""
    if arguments.guidance is not None:
        return arguments.guidance
    is_redrawn = arguments.inpaint or arguments.from_image
    is_of_classes = not is_editing(arguments) or (is_redrawn and arguments.classes)
    has_classes = is_of_classes and config.model.network.num_classes
    return GUIDANCE if has_classes or arguments.guide else 0.0


def check_editing(arguments: argparse.Namespace) -> None:
    """Raises InputError for options that a way of editing has no use for."""

    def refuse(job: str, *names: str) -> None:
        for name in names:
            if getattr(arguments, name) not in (None, False, 0):
                raise InputError(f"{job} has no use for --{name.replace('_', '-')}; omit it")

    if arguments.inpaint:
        refuse("--inpaint, which has its own sampler,", "sampler", "eta")
    else:
        refuse("anything but --inpaint", "resample")
    if not arguments.from_image:
        refuse("anything but --from-image", "strength")
    if arguments.encode:
        if len(arguments.encode) > 2:
            raise InputError(f"--encode takes one or two images, not {len(arguments.encode)}")
        refuse("--encode", "eta", "clip", "trajectory")
        if len(arguments.encode) == 1:
            refuse("--encode with one image", "num_images", "images_dir")
        if len(arguments.classes or []) > 1:
            raise InputError("--encode takes one --class, which both images are taken for")
        if arguments.steps == 1:
            raise InputError("--encode needs at least 2 --steps")


def choose_defaults(arguments: argparse.Namespace) -> None:
    """Replaces options that were omitted by the defaults for this way of editing."""
    if arguments.num_images is None:
        arguments.num_images = 8 if arguments.classes else 32
        if inputs(arguments):
            arguments.num_images = NUM_EDITED
    if arguments.steps is None:
        arguments.steps = INPAINTING_STEPS if arguments.inpaint else DEFAULT_STEPS
    if arguments.encode:
        arguments.sampler = arguments.sampler or ENCODING_SAMPLER
        arguments.spacing = arguments.spacing or ENCODING_SPACING
    arguments.sampler = arguments.sampler or "ddim"
    arguments.resample = arguments.resample or RESAMPLE
    arguments.strength = arguments.strength or (STRENGTH if arguments.from_image else 1.0)


def read_given(arguments: argparse.Namespace, network: NetworkConfig) -> GivenImages | None:
    """Reads the images to be edited, and the mask."""
    if arguments.inpaint:
        return GivenImages.read_masked(*arguments.inpaint, network)
    return GivenImages.read(inputs(arguments), network) if inputs(arguments) else None


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
    outputs = [arguments.output, *filter(None, [arguments.trajectory])]
    if arguments.images_dir:
        outputs += [arguments.images_dir / f"{index:05d}.png" for index in range(num_images)]
    refuse_overwriting(inputs(arguments), outputs)
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
    from ddim_keras.generation.editing_jobs import encoded_signal_rate
    from ddim_keras.samplers import Sampler

    last_signal_rate = arguments.last_signal_rate
    if arguments.encode and last_signal_rate is None:
        last_signal_rate = encoded_signal_rate(model)
    return Sampler(
        arguments.sampler,
        arguments.spacing,
        last_signal_rate,
        clip=arguments.clip,
        eta=arguments.eta,
    )


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


def make_images(
    arguments: argparse.Namespace,
    given: GivenImages | None,
    model: Any,
    sampler: Any,
    signal_rates: list[float],
    guidance: Any,
    labels: np.ndarray,
    callback: Any,
) -> np.ndarray:
    """Generates images, or fills in or redraws the given one: (N, H, W, C) in [0, 1]."""
    from ddim_keras.generation import editing_jobs

    options = {
        "seed": arguments.seed,
        "batch_size": arguments.batch_size,
        "guidance": guidance,
        "callback": callback,
    }
    if arguments.inpaint:
        return editing_jobs.inpainted(
            model,
            given.images[0],
            given.mask,
            labels,
            signal_rates=signal_rates,
            resample=arguments.resample,
            clip=arguments.clip,
            **options,
        )
    initial_noise = None
    if arguments.interpolate is not None:
        initial_noise = noises_between(model, arguments.seed, arguments.interpolate, len(labels))
    if arguments.from_image:
        initial_noise = editing_jobs.starting_points(
            model, given.images[0], len(labels), arguments.seed, signal_rates[0]
        )
        steps = {arguments.steps: signal_rates}
        sampler = dataclasses.replace(sampler, spacing=steps, last_signal_rate=None)
    is_drawn = arguments.classes is None and not is_editing(arguments)
    return model.generate(
        len(labels),
        arguments.steps,
        sampler=sampler,
        labels=None if is_drawn else labels,
        initial_noise=initial_noise,
        **options,
    )


def encode_and_decode(
    arguments: argparse.Namespace,
    given: GivenImages,
    model: Any,
    sampler: Any,
    signal_rates: list[float],
    guidance: Any,
    label: int,
) -> None:
    """Encodes one image or two, and shows what they, or the path between them, decode to."""
    from ddim_keras.generation import editing_jobs
    from ddim_keras.plots import figures

    def denoise(num_images: int) -> Any:
        return editing_jobs.denoiser(model, np.full(num_images, label), guidance)

    how = f"{arguments.steps} steps of {sampler} each way"
    encoded = editing_jobs.encoded(
        model, denoise(len(given.images)), given.images, sampler, signal_rates, arguments.seed
    )
    print(f"{how}; of true noise the standard deviation is 1, and the correlation 0")
    for path, line in zip(arguments.encode, encoded.describe(), strict=True):
        print(f"{path}: {line}")
    if len(given.images) == 1:
        noise = model.denormalize(encoded.noises)[0]
        pictures = [given.images[0] / 255, noise, encoded.decoded[0], encoded.predicted[0]]
        title = "image, its noise, decoded, predicted"
    else:
        num_images = arguments.num_images
        path = editing_jobs.path_between(
            model, denoise(num_images), encoded.noises, num_images, sampler, signal_rates
        )
        if arguments.images_dir:
            write_images(path, arguments.images_dir)
        pictures = [given.images[0] / 255, *path, given.images[1] / 255]
        title = "image, on the way between the noises of both, image"
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    figure = figures.image_grid(pixels, f"{title}; {how}", columns=min(len(pixels), 20), zoom=3)
    figures.save_figure(figure, arguments.output)
    print(f"wrote {arguments.output}")


def write_images(images: np.ndarray, folder: Path) -> None:
    """Writes each of (N, H, W, C) images in [0, 1] as a file 00000.png, ..."""
    for index, image in enumerate(np.round(255 * images).astype("uint8")):
        with written_whole(folder / f"{index:05d}.png") as part:
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(part)
    print(f"wrote {len(images)} images into {folder}")


if __name__ == "__main__":
    run_command(main)
