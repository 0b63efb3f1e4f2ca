"""Data sets: a TFDS name, a folder or an array file becomes uint8 images, prepared once.

Preparing crops the centre square of each image, resizes it with antialiasing, and writes one
cache file; later starts map that file into memory, and need neither TensorFlow nor TFDS.
A cache file is an ordinary uncompressed .npz with the arrays `images` (N, S, S, C) uint8, training
images first, `labels` (N,) int32 (-1: none), `class_names` and `num_train`. It can be carried to
another machine and be given as a data set itself.
"""

import hashlib
import itertools
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from ddim_keras.config import InputError
from ddim_keras.drawn_flowers import SPECIES, draw_flowers

DEFAULT_DATASET = "oxford_flowers102"
DRAWN_FLOWERS = "drawn_flowers"
VALIDATION_SHARE = 0.2  # of every official split, as in the Keras example
CHECKED_BYTES = 2**30  # larger cache files are not read through to check their sums
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}


class Unobtainable(InputError):
    """A data set that exists, but cannot be had on this machine now."""


@dataclass(frozen=True)
class Dataset:
    """Prepared images: (N, S, S, C) uint8 arrays, usually mapped from a file, and their labels."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray  # (N,) int32, -1 where there is no label
    validation_images: np.ndarray
    validation_labels: np.ndarray
    class_names: tuple[str, ...]

    def describe(self) -> str:
        """One line for people: name, sizes and image shape."""
        height, width, channels = self.train_images.shape[1:]
        return (
            f"{self.name}: {len(self.train_images):,} training and "
            f"{len(self.validation_images):,} validation images, {height}x{width}x{channels}"
        )


def load_dataset(
    source: str | None = None,
    image_size: int = 64,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Loads a data set, preparing and caching it first where that has not been done.

    Args:
        source: a folder of images, an .npz or .npy file of uint8 images, "drawn_flowers", or the
            name of an image data set of TFDS. By default Oxford Flowers 102 or, where it cannot be
            had, drawn flowers, which is announced.
        image_size: height and width of the prepared images in pixels.
        data_dir: where TFDS finds or puts its prepared data sets, by default ~/tensorflow_datasets.
        cache_dir: where the cache file goes, by default ~/.cache/ddim_keras.

    Raises:
        InputError: one line that says what is wrong with the source, and what to do.
    """
    cache_dir = Path(cache_dir or Path.home() / ".cache" / "ddim_keras")
    if source is None:
        try:
            return load_dataset(DEFAULT_DATASET, image_size, data_dir, cache_dir)
        except Unobtainable as error:
            print(
                f"\n*** {DEFAULT_DATASET} cannot be had ({error}).\n"
                "*** Training on built-in drawn flowers instead. ***\n",
                flush=True,
            )
            source = DRAWN_FLOWERS

    path = Path(source)
    if path.suffix in (".npz", ".npy"):
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        if is_cache_of_size(path, image_size):
            return open_cache(path, path.stem)
        name, identity = path.stem, [str(path.resolve()), _fingerprint(path)]
        samples = array_samples(path)
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise InputError(f"folder {path} holds no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
        name = path.resolve().name
        identity = [str(path.resolve()), *(f"{p}{_fingerprint(p)}" for p in files)]
        samples = folder_samples(path, files)
    elif source == DRAWN_FLOWERS:
        name, identity = source, []
        samples = drawn_samples(image_size)
    elif os.sep in source:
        raise InputError(f"there is no folder or file {source}")
    else:
        name, identity = source, []
        samples = tfds_samples(source, data_dir)

    key = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:8] if identity else "tfds"
    cache = cache_dir / f"{name.replace('/', '-')}-{image_size}px-{key}.npz"
    if cache.exists():
        try:
            return open_cache(cache, name)
        except InputError as error:
            print(f"{error}: preparing it again", flush=True)
    write_cache(cache, name, image_size, samples)
    return open_cache(cache, name)


# Where samples come from: each yields first the class names, then (image, label, is_validation).


def tfds_samples(name: str, data_dir: str | Path | None) -> Iterator[Any]:
    """Reads every official labelled or unlabelled split of an image data set of TFDS."""
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise Unobtainable(
            f"preparing {name} needs tensorflow and tensorflow-datasets, which are not installed: "
            "pip install them, or give a prepared .npz"
        ) from error
    tf.config.set_visible_devices([], "GPU")  # reading needs none, and JAX may want all of it

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"no data set {name!r}: neither a folder, nor an .npz or .npy file, nor known to TFDS "
            f"({reason})"
        ) from error
    if not builder.info.splits:
        try:
            builder.download_and_prepare()
        except Exception as error:
            raise Unobtainable(
                f"{name} is not prepared in {builder.data_path.parent.parent} and its download "
                f"failed ({type(error).__name__}); connect to a network or pass --data-dir"
            ) from error
    features = builder.info.features
    if "image" not in features:
        raise InputError(f"TFDS data set {name!r} has no feature 'image'")

    label = features["label"] if "label" in features else None  # noqa: SIM401 (no mapping)
    yield tuple(label.names) if hasattr(label, "names") else ()
    share = round(100 * (1 - VALIDATION_SHARE))
    for split, (slice_of, is_validation) in itertools.product(
        builder.info.splits, ((f"[:{share}%]", False), (f"[{share}%:]", True))
    ):
        for sample in builder.as_dataset(split=split + slice_of).as_numpy_iterator():
            yield sample["image"], int(sample.get("label", -1)), is_validation


def array_samples(path: Path) -> Iterator[Any]:
    """Reads `images` (N, H, W, C) or (N, H, W) and optional `labels` (N,) of an array file."""
    try:
        arrays = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path} is not a readable array file without pickled objects") from error
    if isinstance(arrays, np.ndarray):
        arrays = {"images": arrays}
    if "images" not in arrays:
        raise InputError(f"{path} holds {list(arrays)}, but no array named 'images'")
    images = arrays["images"]
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or images.shape[3:]
        not in (
            (),
            (1,),
            (3,),
            (4,),
        )
    ):
        raise InputError(
            f"'images' in {path} must be uint8 of shape (N, H, W, C) with 1 or 3 channels, "
            f"not {images.dtype} of shape {images.shape}"
        )
    if len(images) < 2:
        raise InputError(f"'images' in {path} must hold at least 2 images, not {len(images)}")
    labels = arrays["labels"] if "labels" in arrays else np.full(len(images), -1)
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"'labels' in {path} must be integers of shape ({len(images)},), "
            f"not {labels.dtype} of shape {labels.shape}"
        )
    names = arrays.get("class_names", ())
    yield tuple(str(name) for name in names)
    yield from zip(images, labels, _random_split(len(images)), strict=True)


def folder_samples(folder: Path, files: list[Path]) -> Iterator[Any]:
    """Reads image files; the first folder below `folder` that a file lies in is its class."""
    parents = [file.relative_to(folder).parts[0] if file.parent != folder else "" for file in files]
    class_names = sorted(set(parents) - {""})
    yield tuple(class_names)
    unreadable = []
    for file, parent, is_validation in zip(files, parents, _random_split(len(files)), strict=True):
        try:
            with Image.open(file) as image:
                pixels = np.asarray(image.convert("RGB"))
        except OSError:
            unreadable.append(file)
            print(f"skipping {file}: not a readable image", flush=True)
            continue
        yield pixels, class_names.index(parent) if parent else -1, is_validation
    if unreadable:
        print(f"skipped {len(unreadable)} of {len(files)} files", flush=True)


def drawn_samples(image_size: int, num_images: int = 8000) -> Iterator[Any]:
    """Draws the built-in flowers, a thousand at a time."""
    yield tuple(species.name for species in SPECIES)
    images, labels = draw_flowers(num_images, image_size)
    yield from zip(images, labels, _random_split(num_images), strict=True)


def _random_split(num_images: int) -> np.ndarray:
    """Marks a fixed random 20 % of the images, at least one, as validation images."""
    num_validation = max(1, round(VALIDATION_SHARE * num_images))
    is_validation = np.arange(num_images) < num_validation
    return np.random.default_rng(0).permutation(is_validation)


def _fingerprint(path: Path) -> str:
    """Changes when a file does; cheap, since the file is not read."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


# One image.


def crop_and_resize(image: np.ndarray, image_size: int) -> np.ndarray:
    """Cuts out the centre square and resizes it, averaging over all pixels that are merged.

    Args:
        image: (H, W) or (H, W, C) uint8; an alpha channel is dropped.

    Returns:
        (image_size, image_size, C) uint8.
    """
    image = image[..., None] if image.ndim == 2 else image[..., :3]
    height, width, channels = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[top : top + side, left : left + side]
    if side != image_size:
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        # Pillow widens the bilinear kernel when it shrinks an image: no aliasing.
        picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
        image = np.asarray(picture).reshape(image_size, image_size, channels)
    return image


# The cache file.


def write_cache(cache: Path, name: str, image_size: int, samples: Iterator[Any]) -> None:
    """Prepares all samples and writes the cache file, whole or not at all, in bounded memory."""
    class_names = next(samples)
    print(f"preparing {name} at {image_size} px, once, into {cache}", flush=True)
    cache.parent.mkdir(parents=True, exist_ok=True)
    labels: dict[bool, list[int]] = {False: [], True: []}
    shape = None
    progress = keras.utils.Progbar(None, unit_name="image", interval=0.5)
    # Unnamed files in the target's folder: they vanish with this process, however it ends.
    with (
        tempfile.TemporaryFile(dir=cache.parent) as train_pixels,
        tempfile.TemporaryFile(dir=cache.parent) as validation_pixels,
    ):
        pixels = {False: train_pixels, True: validation_pixels}
        for count, (image, label, is_validation) in enumerate(samples, start=1):
            image = crop_and_resize(np.asarray(image), image_size)
            shape = shape or image.shape
            if image.shape != shape:
                raise InputError(f"{name} mixes images of shapes {shape} and {image.shape}")
            pixels[bool(is_validation)].write(image.tobytes())
            labels[bool(is_validation)].append(int(label))
            progress.update(count)
        if not labels[False] or not labels[True]:
            raise InputError(
                f"{name} yields {len(labels[False])} training and {len(labels[True])} validation "
                "images; at least one of each is needed"
            )
        print(flush=True)

        num_train, num_images = len(labels[False]), len(labels[False]) + len(labels[True])
        part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
        try:
            with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
                with archive.open("images.npy", "w", force_zip64=True) as member:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (num_images, *shape)}
                    np.lib.format.write_array_header_1_0(member, header)
                    for file in (train_pixels, validation_pixels):
                        file.seek(0)
                        shutil.copyfileobj(file, member)
                for key, array in {
                    "labels": np.array(labels[False] + labels[True], "int32"),
                    "class_names": np.array(class_names, "U"),
                    "num_train": np.array(num_train),
                }.items():
                    with archive.open(f"{key}.npy", "w") as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            part.replace(cache)
        finally:
            part.unlink(missing_ok=True)


def open_cache(cache: Path, name: str) -> Dataset:
    """Maps a cache file into memory, after checking it; raises InputError if it is damaged."""
    try:
        with zipfile.ZipFile(cache) as archive:
            if archive.start_dir < CHECKED_BYTES and archive.testzip() is not None:
                raise InputError(f"{cache} is damaged (wrong checksum)")
            member = archive.getinfo("images.npy")
        with open(cache, "rb") as file:
            # A local zip header: 30 bytes, of which the last 4 give the lengths of name and extra.
            file.seek(member.header_offset + 26)
            name_length, extra_length = struct.unpack("<HH", file.read(4))
            file.seek(name_length + extra_length, os.SEEK_CUR)
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            images = np.memmap(cache, dtype, mode="r", offset=file.tell(), shape=shape)
        with np.load(cache, allow_pickle=False) as arrays:
            labels, names = arrays["labels"], arrays["class_names"]
            num_train = int(arrays["num_train"])
    except (OSError, ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile) as error:
        raise InputError(f"{cache} is damaged or not a prepared data set") from error
    return Dataset(
        name=name,
        train_images=images[:num_train],
        train_labels=labels[:num_train],
        validation_images=images[num_train:],
        validation_labels=labels[num_train:],
        class_names=tuple(str(name) for name in names),
    )


def is_cache_of_size(path: Path, image_size: int) -> bool:
    """Whether a file is a cache file that holds images of that size."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        if "num_train.npy" not in archive.namelist():
            return False
    return open_cache(path, path.stem).train_images.shape[1] == image_size


# Batches.


def steps_per_epoch(num_images: int, batch_size: int, repetitions: int) -> int:
    """Full batches in `repetitions` passes over the images; raises InputError if there is none."""
    steps = num_images * repetitions // batch_size
    if steps < 1:
        raise InputError(
            f"batch size {batch_size} is larger than the {num_images * repetitions} images of an "
            "epoch; choose a smaller one"
        )
    return steps


def training_batches(
    images: np.ndarray,
    batch_size: int,
    repetitions: int = 1,
    flip: bool = False,
    seed: int = 0,
    start_step: int = 0,
) -> Iterator[tuple[np.ndarray]]:
    """Yields shuffled batches without end, as `(images,)` of (B, H, W, C) uint8.

    An epoch is `repetitions` passes over the images, cut into full batches. Its order and flips
    depend on the seed and the epoch's number alone, so that a run resumed at any step (counted
    from the start of the training) sees what an uninterrupted one would have seen.
    """
    steps = steps_per_epoch(len(images), batch_size, repetitions)
    for epoch in itertools.count(start_step // steps):
        random = np.random.default_rng([seed, epoch])
        order = np.concatenate([random.permutation(len(images)) for _ in range(repetitions)])
        flips = random.random(len(order)) < (0.5 if flip else 0.0)
        first = start_step - epoch * steps if epoch == start_step // steps else 0
        for step in range(first, steps):
            chosen = slice(step * batch_size, (step + 1) * batch_size)
            batch = images[order[chosen]]
            batch[flips[chosen]] = batch[flips[chosen], :, ::-1]
            yield (batch,)


class ValidationBatches(keras.utils.PyDataset):
    """One pass over images in order, as `(images,)`, the last batch shorter."""

    def __init__(self, images: np.ndarray, batch_size: int) -> None:
        super().__init__()
        self.images = images
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        start = index * self.batch_size
        return (np.array(self.images[start : start + self.batch_size]),)
