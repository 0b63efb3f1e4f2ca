"""Files that generating writes: checked before the work, each written whole."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ddim_keras.atomic import written_whole
from ddim_keras.cli.generate import MOST_IN_GRID, GenerateOptions
from ddim_keras.config import InputError


def check_files(options: GenerateOptions, num_images: int) -> None:
    """Raises InputError for files that cannot be written as asked."""
    if options.output.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, not {options.output.name!r}")
    if options.trajectory and options.trajectory.suffix.lower() not in (".gif", ".png"):
        raise InputError(f"--trajectory must end in .gif or .png, not {options.trajectory.name!r}")
    if options.trajectory == options.output:
        raise InputError("--output and --trajectory must be two files")
    for path in filter(None, (options.output, options.trajectory)):
        if path.is_dir():
            raise InputError(f"{path} is a folder; give the name of a file")
    outputs = [options.output, *filter(None, [options.trajectory])]
    if options.images_dir:
        outputs += [options.images_dir / f"{index:05d}.png" for index in range(num_images)]
    refuse_overwriting(options.inputs, outputs)
    if num_images > MOST_IN_GRID and not options.images_dir:
        raise InputError(f"a grid shows {MOST_IN_GRID} images at most; for more, add --images-dir")
    if options.images_dir:
        if options.images_dir.is_file():
            raise InputError(f"--images-dir {options.images_dir} is a file; give a folder")
        options.images_dir.mkdir(parents=True, exist_ok=True)
        beyond = [
            path.name
            for path in options.images_dir.glob("[0-9]*.png")
            if path.stem.isdecimal() and int(path.stem) >= num_images
        ]
        if beyond:
            raise InputError(
                f"{options.images_dir} holds {min(beyond)} of another set of images, which would "
                "stay among the new ones; empty it, or choose another folder"
            )
    for path in filter(None, (options.output, options.trajectory)):
        path.parent.mkdir(parents=True, exist_ok=True)


def refuse_overwriting(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raises InputError if a file to be written is one that was given."""
    originals = {path.resolve() for path in inputs}
    for path in outputs:
        is_same = path.exists() and any(path.samefile(original) for original in originals)
        if is_same or path.resolve() in originals:
            raise InputError(f"{path} would replace an image that was given; choose another name")


def write_images(images: np.ndarray, folder: Path) -> None:
    """Writes each of (N, H, W, C) images in [0, 1] as a file 00000.png, ..."""
    for index, image in enumerate(np.round(255 * images).astype("uint8")):
        with written_whole(folder / f"{index:05d}.png") as part:
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(part)
    print(f"wrote {len(images)} images into {folder}")
