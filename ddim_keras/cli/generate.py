"""Options of generate.py, with the defaults of each mode."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ddim_keras.cli.options import (
    MOST_IMAGES,
    MOST_IN_FIGURE,
    MOST_STEPS,
    Parser,
    add_backend_option,
    add_guidance_options,
    add_run_option,
    add_sampler_options,
    add_sampling_options,
    add_verify_option,
    at_least,
    finite,
)
from ddim_keras.config import GUIDANCE, InputError
from ddim_keras.runs.configuration import RunConfig

MOST_IN_GRID = 400  # images; larger figures take minutes and gigabytes
MOST_IN_ANIMATION = 32  # images
MOST_FRAMES = 1000
NUM_EDITED = 7  # images, beside the given one
DEFAULT_STEPS = 20
INPAINTING_STEPS, RESAMPLE = 25, 5
STRENGTH = 0.6
ENCODING_SAMPLER, ENCODING_SPACING = "dpm_solver", "log_snr"

EXAMPLES = """examples:
  python generate.py --steps 20                   the newest run, else the included model
  python generate.py --run runs/mine --num-images 100 --seed 7
  python generate.py --class sunflower "sweet pea"
  python generate.py --steps 10 --sampler dpm_solver --spacing rho
  python generate.py --num-images 4 --trajectory trajectory.gif
  python generate.py --num-images 10 --interpolate 5
  python generate.py --inpaint photo.jpg mask.png
  python generate.py --from-image photo.jpg --strength 0.6
  python generate.py --encode photo.jpg other.jpg
"""


@dataclass(frozen=True)
class GenerateOptions:
    """The options of generate.py."""

    run: str | None
    weights: Path | None
    check_hashes: bool
    steps: int  # 0: not given
    num_images: int  # of each class, if classes are given
    seed: int
    batch_size: int
    precision: str
    classes: list[str] | None
    sampler: str
    spacing: str | None
    last_signal_rate: float | None
    eta: float
    variance: str
    clip: bool
    guidance: float | None
    guidance_interval: list[float] | None
    guide: Path | None
    interpolate: int | None
    inpaint: list[Path] | None
    from_image: Path | None
    encode: list[Path] | None
    resample: int
    strength: float
    output: Path
    images_dir: Path | None
    trajectory: Path | None
    backend: str | None

    @property
    def inputs(self) -> list[Path]:
        """The image files to edit, including the mask."""
        if self.from_image:
            return [self.from_image]
        return self.inpaint or self.encode or []

    @property
    def is_editing(self) -> bool:
        """Whether images are edited or interpolated; then no classes are drawn."""
        return self.interpolate is not None or bool(self.inputs)

    @property
    def network_steps(self) -> int:
        """Number of callback calls per batch."""
        return (self.steps - 1) * self.resample + 1 if self.inpaint else self.steps

    def for_model(self, config: RunConfig) -> "GenerateOptions":
        """These options, with the number of steps of a model if none was given.

        Raises:
            InputError: for steps and options that a student lacks.
        """
        usual = max(config.model.student_steps, default=DEFAULT_STEPS)
        options = dataclasses.replace(self, steps=self.steps or usual)
        config.refuse_for_student(
            [options.steps],
            inpaint=self.inpaint,
            from_image=self.from_image,
            encode=self.encode,
            sampler=self.sampler != "ddim",
            spacing=self.spacing,
            last_signal_rate=self.last_signal_rate,
            eta=self.eta,
            clip=self.clip,
            guidance=self.guidance,
            guide=self.guide,
        )
        return options

    def describe(self) -> str:
        """A description of the sampling."""
        if self.inpaint:
            return f"{self.steps} steps, {self.resample} times each"
        how = f"{self.steps} steps of {self.sampler}"
        if self.eta:
            how += f", eta {self.eta:g}, {self.variance} variances"
        return f"{how}, strength {self.strength:g}" if self.from_image else how


def parse_arguments(arguments: Sequence[str] | None = None) -> GenerateOptions:
    """Parses the command line; exits on errors and --help.

    Raises:
        InputError: for incompatible options.
    """
    parsed = make_parser().parse_args(arguments)
    check_editing(parsed)
    choose_defaults(parsed)
    return GenerateOptions(
        **{field.name: getattr(parsed, field.name) for field in fields(GenerateOptions)}
    )


def make_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(
        prog="generate.py",
        description="Generates images from a trained model: a labelled grid and, with "
        "--images-dir, a file for each image.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    add(
        "--steps",
        type=at_least(1, MOST_STEPS),
        metavar="N",
        help="sampling steps, one network call each; more are slower and finer (default: "
        f"{DEFAULT_STEPS}; {INPAINTING_STEPS} with --inpaint; for a student, those it has learnt)",
    )
    add(
        "--num-images",
        type=at_least(1, MOST_IMAGES),
        metavar="N",
        help=f"number of images, or of images per class with --class; more than {MOST_IN_GRID} in "
        f"all need --images-dir (default: 32; 8 with --class; {NUM_EDITED} with "
        "--inpaint, --from-image, and --encode of two images)",
    )
    add_sampling_options(parser)
    source = parser.add_mutually_exclusive_group()
    add_run_option(source)
    source.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help=".weights.h5 file with its config.json beside it",
    )
    add_verify_option(parser)

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
    add_editing_options(parser)
    add(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("generated.png"),
        help="grid, a .png file; an existing one is replaced (default: generated.png)",
    )
    add(
        "--images-dir",
        type=Path,
        metavar="DIR",
        help="folder in which each image is also written, as 00000.png, ...",
    )
    add(
        "--trajectory",
        type=Path,
        metavar="FILE",
        help="animation, .gif or .png, of the noisy images and those predicted from them over the "
        f"steps, for the first {MOST_IN_ANIMATION} images",
    )
    add_backend_option(parser)
    return parser


def add_editing_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for given images and noises."""
    group = parser.add_argument_group("editing")
    editing = group.add_mutually_exclusive_group()
    editing.add_argument(
        "--interpolate",
        type=at_least(0),
        metavar="SEED",
        help="images on the path from the noise of --seed to the noise of this seed; with --class, "
        "the same path for each class",
    )
    editing.add_argument(
        "--inpaint",
        type=Path,
        nargs=2,
        metavar=("IMAGE", "MASK"),
        help="fill in this image where the mask, an image of the same proportions, is white; where "
        "it is black, the image is kept exactly; lighter grey changes more",
    )
    editing.add_argument(
        "--from-image",
        type=Path,
        metavar="IMAGE",
        help="variations of this image: noise is added and removed again",
    )
    editing.add_argument(
        "--encode",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="the noise that leads to this image, and the image decoded from it; with a second "
        "image, the path from one to the other (default sampler: "
        f"{ENCODING_SAMPLER}, spacing {ENCODING_SPACING})",
    )
    group.add_argument(
        "--resample",
        type=at_least(1, MOST_IN_FIGURE),
        metavar="N",
        help="repetitions of each step of --inpaint, one network call each; more give a less "
        f"visible seam and smoother images (default: {RESAMPLE})",
    )
    group.add_argument(
        "--strength",
        type=strength,
        metavar="S",
        help="diffusion time up to which noise is added with --from-image, above 0 and at most 1; "
        f"larger values change more (default: {STRENGTH:g})",
    )


def strength(text: str) -> float:
    """An argparse type: numbers above 0, and at most 1."""
    value = finite(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text}")
    return value


def check_editing(parsed: argparse.Namespace) -> None:
    """Raises InputError for options that an editing mode does not use."""

    def refuse(job: str, *names: str) -> None:
        for name in names:
            if getattr(parsed, name) not in (None, False, 0):
                raise InputError(f"{job} does not use --{name.replace('_', '-')}; omit it")

    if parsed.inpaint:
        refuse("--inpaint, which has its own sampler,", "sampler", "eta")
    elif parsed.resample:
        raise InputError("only --inpaint uses --resample; omit it")
    if parsed.strength and not parsed.from_image:
        raise InputError("only --from-image uses --strength; omit it")
    if parsed.encode:
        if len(parsed.encode) > 2:
            raise InputError(f"--encode takes one or two images, not {len(parsed.encode)}")
        refuse("--encode", "eta", "clip", "trajectory")
        if len(parsed.encode) == 1:
            refuse("--encode with one image", "num_images", "images_dir")
        if len(parsed.classes or []) > 1:
            raise InputError("--encode takes only one --class, which is used for both images")
        if parsed.steps == 1:
            raise InputError("--encode needs at least 2 --steps")


def choose_defaults(parsed: argparse.Namespace) -> None:
    """Replaces omitted options by the defaults of this editing mode."""
    if parsed.num_images is None:
        parsed.num_images = 8 if parsed.classes else 32
        if parsed.inpaint or parsed.from_image or parsed.encode:
            parsed.num_images = NUM_EDITED
    if parsed.steps is None and parsed.inpaint:
        parsed.steps = INPAINTING_STEPS
    if parsed.encode:
        parsed.sampler = parsed.sampler or ENCODING_SAMPLER
        parsed.spacing = parsed.spacing or ENCODING_SPACING
    parsed.sampler = parsed.sampler or "ddim"
    parsed.resample = parsed.resample or RESAMPLE
    parsed.strength = parsed.strength or (STRENGTH if parsed.from_image else 1.0)
