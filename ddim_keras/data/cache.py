"""Data sets: a TFDS name, a folder or an array file becomes uint8 images, prepared once.

Preparing crops the centre square of each image, resizes it with antialiasing, and writes one
cache file; later starts map that file into memory, and need neither TensorFlow nor TFDS.
A cache file is an ordinary uncompressed .npz with the arrays `images` (N, S, S, C) uint8, training
images first, `labels` (N,) int32 (-1: none), `class_names` and `num_train`. It can be carried to
another machine and be given as a data set itself.
"""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ddim_keras.atomic import written_whole
from ddim_keras.config import InputError
from ddim_keras.data.images import crop_and_resize, first_line
from ddim_keras.data.parallel import map_in_order
from ddim_keras.data.sources import (
    DRAWN_FLOWERS,
    Reading,
    Sample,
    Unobtainable,
    find_source,
    map_array,
)
from ddim_keras.progress import progress_bar

DEFAULT_DATASET = "oxford_flowers102"
CACHE_ARRAYS = ("images", "labels", "class_names", "num_train")
MOST_NAMES = 5  # of classes in a warning
CHECKED_BYTES = 2**30  # larger cache files are not read through to check their sums


@dataclass(frozen=True)
class Dataset:
    """Prepared images: (N, S, S, C) uint8 arrays, usually mapped from a file, and their labels."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray  # (N,) int32, -1 where there is no label
    validation_images: np.ndarray
    validation_labels: np.ndarray
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """How many classes there are, named or not; 0 where no training image has a label."""
        if self.train_labels.max() < 0:
            return 0
        largest = max(self.train_labels.max(), self.validation_labels.max(initial=-1))
        return max(len(self.class_names), int(largest) + 1)

    def describe(self) -> str:
        """One line for people: name, sizes and image shape."""
        height, width, channels = self.train_images.shape[1:]
        return (
            f"{self.name}: {len(self.train_images):,} training and "
            f"{len(self.validation_images):,} validation images, {height}x{width}x{channels}"
        )

    def warnings(self) -> Iterator[str]:
        """A line for each part that lacks classes of the other one."""
        parts = {"training": self.train_labels, "validation": self.validation_labels}
        labels = {part: {*array.tolist()} - {-1} for part, array in parts.items()}
        present = labels["training"] | labels["validation"]
        for part, shown in labels.items():
            missing = [
                self.class_names[label] if label < len(self.class_names) else str(label)
                for label in sorted(present - shown)
            ]
            if missing:
                names = ", ".join(missing[:MOST_NAMES]) + ", ..." * (len(missing) > MOST_NAMES)
                yield (
                    f"warning: {len(missing)} of {len(present)} classes of {self.name} have no "
                    f"{part} image: {names}"
                )


def load_dataset(
    source: str | Path | None = None,
    image_size: int = 64,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Loads a data set, preparing and caching it first where that has not been done.

    Four fifths of the images, of each official split where there is any, are for training.

    Args:
        source: a folder of images, an .npz or .npy file of uint8 images, "drawn_flowers", or the
            name of an image data set of TFDS. By default Oxford Flowers 102 or, where it cannot be
            had and no data_dir is given, drawn flowers, which is announced.
        image_size: height and width of the prepared images in pixels.
        data_dir: where TFDS finds or puts its prepared data sets, by default ~/tensorflow_datasets.
        cache_dir: where the cache file goes, by default ~/.cache/ddim_keras.

    Raises:
        InputError: one line that says what is wrong with the source, and what to do.
    """
    try:
        dataset = _prepared(source or DEFAULT_DATASET, image_size, data_dir, cache_dir)
    except Unobtainable as error:
        if source or data_dir:
            raise
        print(f"\n*** NO OXFORD FLOWERS, using drawn flowers instead: {error} ***\n", flush=True)
        dataset = _prepared(DRAWN_FLOWERS, image_size, data_dir, cache_dir)
    for warning in dataset.warnings():
        print(warning, flush=True)
    return dataset


def _prepared(
    source: str | Path, image_size: int, data_dir: str | Path | None, cache_dir: str | Path | None
) -> Dataset:
    """The data set from its cache file, which is made first if it is missing or damaged."""
    if is_prepared(Path(source), image_size):
        return open_cache(Path(source), Path(source).stem)
    found = find_source(source, image_size, data_dir)
    cache_dir = Path(cache_dir or Path.home() / ".cache" / "ddim_keras")
    key = re.sub(r"[^\w.]+", "-", f"{found.name}-{image_size}px-{found.fingerprint[:8]}").strip("-")
    cache = cache_dir / f"{key}.npz"
    if cache.exists():
        try:
            return open_cache(cache, found.name)
        except InputError as error:
            print(f"{error}: preparing it again", flush=True)
    write_cache(cache, found.name, image_size, found.read())
    return open_cache(cache, found.name)


# The cache file.


def write_cache(cache: Path, name: str, image_size: int, reading: Reading) -> None:
    """Prepares all samples and writes the cache file, whole or not at all, in bounded memory.

    On all cores; the file depends on the samples alone.

    Raises:
        InputError: if the samples mix grey and colour, or are fewer than two.
    """
    print(f"preparing {name} at {image_size} px, once, into {cache}", flush=True)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with (
        written_whole(cache) as part,
        # Unnamed files in the target's folder: they vanish with this process, however it ends.
        tempfile.TemporaryFile(dir=cache.parent) as train_pixels,
        tempfile.TemporaryFile(dir=cache.parent) as validation_pixels,
    ):
        try:
            shape, train_labels, validation_labels = _write_pixels(
                name, image_size, reading, train_pixels, validation_pixels
            )
        finally:
            print(flush=True)  # the progress bar leaves its line open
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("images.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for file in (train_pixels, validation_pixels):
                    file.seek(0)
                    shutil.copyfileobj(file, member)
            for array_name, array in {
                "labels": np.array(train_labels + validation_labels, "int32"),
                "class_names": np.array(reading.class_names, "U"),
                "num_train": np.array(len(train_labels)),
            }.items():
                with archive.open(f"{array_name}.npy", "w") as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def _write_pixels(
    name: str,
    image_size: int,
    reading: Reading,
    train_pixels: IO[bytes],
    validation_pixels: IO[bytes],
) -> tuple[tuple[int, ...], list[int], list[int]]:
    """Returns the shape of all prepared images together, and the labels of the two parts."""
    shape = None
    train_labels: list[int] = []
    validation_labels: list[int] = []

    def prepare(sample: Sample) -> Sample:
        return crop_and_resize(sample[0], image_size), *sample[1:]

    progress = progress_bar(reading.num_samples, "image")
    samples = map_in_order(prepare, reading.samples)
    for count, (image, label, is_validation) in enumerate(samples, start=1):
        shape = shape or image.shape
        if image.shape != shape:
            raise InputError(
                f"{name} mixes images of {shape[-1]} and {image.shape[-1]} channels (image "
                f"{count}); make them alike"
            )
        (validation_pixels if is_validation else train_pixels).write(image.tobytes())
        (validation_labels if is_validation else train_labels).append(int(label))
        progress.update(count)
    if not train_labels or not validation_labels:
        raise InputError(
            f"{name} has {len(train_labels)} training and {len(validation_labels)} validation "
            "images; at least one of each is needed"
        )
    return (len(train_labels) + len(validation_labels), *shape), train_labels, validation_labels


def open_cache(cache: Path, name: str) -> Dataset:
    """Maps a cache file into memory, after checking it; raises InputError if it is damaged."""
    try:
        with zipfile.ZipFile(cache) as archive:
            if archive.start_dir < CHECKED_BYTES and archive.testzip() is not None:
                raise ValueError("wrong checksum")
            images = map_array(cache, archive.getinfo("images.npy"))
        with np.load(cache, allow_pickle=False) as arrays:
            labels, names, num_train = (arrays[name] for name in CACHE_ARRAYS[1:])
            labels, num_train = labels.astype("int32"), int(num_train)
        if (
            images.dtype != np.uint8
            or images.ndim != 4
            or labels.shape != images.shape[:1]
            or not 0 < num_train < len(images)
        ):
            raise ValueError("arrays that do not fit each other")
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for damaged files
        raise InputError(
            f"{cache} is damaged, or no prepared data set ({first_line(error)})"
        ) from error
    return Dataset(
        name=name,
        train_images=images[:num_train],
        train_labels=labels[:num_train],
        validation_images=images[num_train:],
        validation_labels=labels[num_train:],
        class_names=tuple(str(name) for name in names),
    )


def is_prepared(path: Path, image_size: int) -> bool:
    """Whether a file is a cache file that holds images of that size."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            members = [archive.getinfo(f"{name}.npy") for name in CACHE_ARRAYS]
            shape = map_array(path, members[0]).shape
    except Exception:  # as above; who reads the file will say what is wrong
        return False
    return shape[1:3] == (image_size, image_size)
