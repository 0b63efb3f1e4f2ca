"""Output files of generate.py: checked before the work, and written atomically."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddim_keras.atomic import require_writable, written_whole
from ddim_keras.cli.generate import MOST_FRAMES, MOST_IN_GRID, GenerateOptions
from ddim_keras.config import InputError
from ddim_keras.foreign import contents_of, read_json
from ddim_keras.runs.manifest import sha256

RECORD = "generating.json"  # in a folder of images, until it is complete


def check_files(options: GenerateOptions, num_images: int) -> None:
    """Raises InputError for output files that cannot be written."""
    if options.output.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, not {options.output.name!r}")
    if options.trajectory and options.trajectory.suffix.lower() not in (".gif", ".png"):
        raise InputError(f"--trajectory must end in .gif or .png, not {options.trajectory.name!r}")
    if options.trajectory == options.output:
        raise InputError("--output and --trajectory must be two files")
    for path in filter(None, (options.output, options.trajectory)):
        if path.is_dir():
            raise InputError(f"{path} is a folder; give the name of a file")
    if options.trajectory and options.network_steps > MOST_FRAMES:
        raise InputError(f"--trajectory shows {MOST_FRAMES} steps at most; choose fewer --steps")
    outputs = [options.output, *filter(None, [options.trajectory])]
    if options.images_dir:
        outputs += options.images_dir.glob("[0-9]*.png")
    refuse_overwriting(options.inputs, outputs)
    if num_images > MOST_IN_GRID and not options.images_dir:
        raise InputError(f"a grid shows {MOST_IN_GRID} images at most; for more, add --images-dir")
    if options.images_dir:
        if options.images_dir.is_file():
            raise InputError(f"--images-dir {options.images_dir} is a file; give a folder")
        require_writable(options.images_dir)
        beyond = [
            path.name
            for path in options.images_dir.glob("[0-9]*.png")
            if path.stem.isdecimal() and int(path.stem) >= num_images
        ]
        if beyond:
            raise InputError(
                f"{options.images_dir} holds {min(beyond)} of another set of images, which would "
                "remain among the new ones; empty it, or choose another folder"
            )
    for path in filter(None, (options.output, options.trajectory)):
        require_writable(path.parent)


def refuse_overwriting(inputs: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raises InputError if an output file would replace an input image."""
    originals = {path.resolve() for path in inputs}
    for path in outputs:
        is_same = path.exists() and any(path.samefile(original) for original in originals)
        if is_same or path.resolve() in originals:
            raise InputError(f"{path} would replace an image that was given; choose another name")


def write_images(images: np.ndarray, folder: Path, first: int = 0) -> None:
    """Writes (N, H, W, C) uint8 images as files 00000.png, ..., starting at a number."""
    for index, image in enumerate(images, start=first):
        with written_whole(image_file(folder, index)) as part:
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(part, "png")


def image_file(folder: Path, index: int) -> Path:
    """The path of an image of a set."""
    return folder / f"{index:05d}.png"


def images_made(options: GenerateOptions, weights: Path) -> int:
    """The number of images in --images-dir from an interrupted earlier call.

    Until the set is complete, the folder holds a record of the options; see `note_made`.

    Raises:
        InputError: if the interrupted call had other options.
    """
    if not options.images_dir or options.is_editing:
        return 0
    apart = ("run", "weights", "check_hashes", "batch_size", "output", "images_dir", "trajectory")
    values = {name: x for name, x in dataclasses.asdict(options).items() if name not in apart}
    what = json.loads(json.dumps(values | {"sha256": sha256(weights)}, default=str))
    made, record = 0, options.images_dir / RECORD
    if record.exists():
        with contents_of(record, "the record of a generation", "; remove it to start again"):
            before, made = read_json(record)
            if not isinstance(made, int) or not 0 <= made < 10**9:
                raise ValueError("its number of images is none")
        if made and before != what:
            raise InputError(
                f"{options.images_dir} holds a part of other images; repeat that command to "
                f"complete them, remove {RECORD} to replace them, or choose another folder"
            )
    if options.trajectory:  # of the first images
        made = 0
    _write_record(record, what, made)
    return made


def note_made(folder: Path, made: int) -> None:
    """Records how many images exist, so that an interrupted call can be continued."""
    if (folder / RECORD).exists():
        what, _ = read_json(folder / RECORD)
        _write_record(folder / RECORD, what, made)


def _write_record(record: Path, what: Any, made: int) -> None:
    with written_whole(record) as part:
        part.write_text(json.dumps([what, made], indent=1) + "\n", encoding="utf-8")


def forget_record(folder: Path) -> None:
    """Removes the record of a complete generation."""
    (folder / RECORD).unlink(missing_ok=True)
