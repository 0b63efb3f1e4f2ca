"""Data sets: a TFDS name, a folder or an array file becomes uint8 images, prepared once.

Preparing crops the centre square of each image, resizes it with antialiasing, shuffles the images,
and writes a folder; later starts map its arrays into memory, and need neither TensorFlow nor TFDS.
The folder holds `train_images.npy` (N, S, S, C) uint8, `train_labels.npy` (N,) int32 (-1: none),
the same for validation, and `prepared.json` with the names of the classes and a checksum of each
file. It can be copied to another machine and used as a data set itself.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ddim_keras.arguments import require_counts
from ddim_keras.atomic import folder_written_whole
from ddim_keras.config import InputError
from ddim_keras.data.images import crop_and_resize
from ddim_keras.data.parallel import map_in_order
from ddim_keras.data.sources import (
    DRAWN_FLOWERS,
    Reading,
    Sample,
    Source,
    Unobtainable,
    check_labels,
    checked_names,
    find_source,
)
from ddim_keras.foreign import contents_of, read_array, read_json
from ddim_keras.progress import progress_bar

DEFAULT_DATASET = "oxford_flowers102"
PREPARED = "prepared.json"  # in the folder of a prepared data set
CACHE_ARRAYS = ("train_images", "train_labels", "validation_images", "validation_labels")
CACHE_VERSION = 2  # changes with the preparation; 1 was a single .npz in the order of the source
MOST_NAMES = 5  # of classes in a warning
BYTES_AT_ONCE = 2**24
CHECKED_BYTES = 2**30  # the checksums of larger files are not verified


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
        """Number of classes, named or not; 0 if no training image has a label."""
        if self.train_labels.max() < 0:
            return 0
        largest = max(self.train_labels.max(), self.validation_labels.max(initial=-1))
        return max(len(self.class_names), int(largest) + 1)

    def describe(self) -> str:
        """A one-line description: name, sizes and image shape."""
        height, width, channels = self.train_images.shape[1:]
        return (
            f"{self.name}: {len(self.train_images):,} training and "
            f"{len(self.validation_images):,} validation images, {height}x{width}x{channels}"
        )

    def warnings(self) -> Iterator[str]:
        """A line for each part that lacks classes of the other part."""
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


def default_cache_dir() -> Path:
    """The folder of prepared data."""
    return Path.home() / ".cache" / "ddim_keras"


def load_dataset(
    source: str | Path | None = None,
    image_size: int = 64,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Loads a data set; prepares and caches it first if necessary.

    Four fifths of the images, from each official split if there are any, are for training.

    Args:
        source: a folder of images, an .npz or .npy file of uint8 images, "drawn_flowers", or the
            name of an image data set of TFDS. By default Oxford Flowers 102; if it cannot be
            downloaded and no data_dir is given, drawn flowers, with a warning.
        image_size: height and width of the prepared images in pixels.
        data_dir: folder of TFDS's prepared data sets, by default ~/tensorflow_datasets.
        cache_dir: folder for prepared data, by default ~/.cache/ddim_keras.

    Raises:
        InputError: if the source cannot be used; the message is one line with advice.
    """
    require_counts(image_size=image_size)
    if source == "":
        raise InputError("the name of the data set is empty")
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
    """The data set from its cache, which is created if missing or damaged."""
    if (Path(source) / PREPARED).is_file():
        dataset = open_cache(Path(source), Path(source).resolve().name)
        if dataset.train_images.shape[1] == image_size:
            return dataset
        found = prepared_source(Path(source), dataset)
    else:
        found = find_source(source, image_size, data_dir)
    cache_dir = Path(cache_dir or default_cache_dir())
    key = re.sub(r"[^\w.]+", "-", f"{found.name}-{image_size}px-{found.fingerprint[:8]}").strip("-")
    cache = cache_dir / key
    if cache.exists():
        try:
            return open_cache(cache, found.name)
        except InputError as error:
            print(f"{error}: preparing it again", flush=True)
        # Not above: the error keeps arrays mapped, and Windows removes no mapped file.
        remove_cache(cache)
    write_cache(cache, found.name, image_size, found.read())
    return open_cache(cache, found.name)


def prepared_source(folder: Path, dataset: Dataset) -> Source:
    """A data set prepared at one size, as a source for another size; the split stays."""
    parts = (
        (dataset.train_images, dataset.train_labels, False),
        (dataset.validation_images, dataset.validation_labels, True),
    )

    def samples() -> Iterator[Sample]:
        for images, labels, is_validation in parts:
            for image, label in zip(images, labels, strict=True):
                yield image, label, is_validation

    num_samples = len(dataset.train_images) + len(dataset.validation_images)
    fingerprint = hashlib.sha256((folder / PREPARED).read_bytes()).hexdigest()
    return Source(
        dataset.name, fingerprint, lambda: Reading(dataset.class_names, num_samples, samples())
    )


# The folder of a prepared data set.


def write_cache(cache: Path, name: str, image_size: int, reading: Reading) -> None:
    """Prepares all samples and writes the folder atomically, in bounded memory, on all cores.

    The files depend only on the samples. Training images and validation images are shuffled
    separately, so that a part of either is a fair sample of all classes.

    Raises:
        InputError: if the samples mix grey and colour, or are fewer than two.
    """
    print(f"preparing {name} at {image_size} px, once, into {cache}", flush=True)
    cache.parent.mkdir(parents=True, exist_ok=True)
    size, free = 3 * reading.num_samples * image_size**2, shutil.disk_usage(cache.parent).free
    if size > free:
        raise InputError(
            f"{reading.num_samples} images of {image_size} px need up to {size / 1e9:.1f} GB in "
            f"{cache.parent}, of which {free / 1e9:.1f} GB are free; choose a smaller "
            "--image-size, or another --cache-dir"
        )
    with (
        folder_written_whole(cache) as part,
        # Unnamed files in the target's folder: they disappear with this process.
        tempfile.TemporaryFile(dir=cache.parent) as train_pixels,
        tempfile.TemporaryFile(dir=cache.parent) as validation_pixels,
    ):
        try:
            shape, *labels = _write_pixels(
                name, image_size, reading, train_pixels, validation_pixels
            )
        finally:
            print(flush=True)  # the progress bar leaves its line open
        for kind, pixels, of_kind in zip(
            ("train", "validation"), (train_pixels, validation_pixels), labels, strict=True
        ):
            order = np.random.default_rng(0).permutation(len(of_kind))
            images = np.memmap(pixels, "uint8", mode="r", shape=(len(of_kind), *shape))
            _write_in_order(part / f"{kind}_images.npy", images, order)
            np.save(part / f"{kind}_labels.npy", np.array(of_kind, "int32")[order])
        contents = {
            "version": CACHE_VERSION,
            "class_names": reading.class_names,
            "sha256": {file.name: _checksum(file) for file in sorted(part.glob("*.npy"))},
        }
        (part / PREPARED).write_text(json.dumps(contents, indent=1) + "\n")


def _write_pixels(
    name: str,
    image_size: int,
    reading: Reading,
    train_pixels: IO[bytes],
    validation_pixels: IO[bytes],
) -> tuple[tuple[int, ...], list[int], list[int]]:
    """Returns the shape of a prepared image, and the labels of both parts."""
    shape: tuple[int, ...] = ()
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
    for file in (train_pixels, validation_pixels):
        file.flush()
    return shape, train_labels, validation_labels


def _write_in_order(path: Path, images: np.ndarray, order: np.ndarray) -> None:
    """Writes images[order] as an .npy file, a few of them at a time."""
    at_once = max(1, BYTES_AT_ONCE // images[0].nbytes)
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": images.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(order), at_once):
            file.write(images[order[start : start + at_once]].tobytes())


def remove_cache(cache: Path) -> None:
    """Removes a prepared data set; raises OSError if the folder holds other files."""
    for name in (*(f"{name}.npy" for name in CACHE_ARRAYS), PREPARED):
        (cache / name).unlink(missing_ok=True)
    cache.rmdir()


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_cache(cache: Path, name: str) -> Dataset:
    """Maps a prepared data set into memory, after checking it; raises InputError if damaged."""
    with contents_of(cache, "a prepared data set, or it is damaged"):
        contents = read_json(cache / PREPARED)
        if contents["version"] != CACHE_VERSION:
            raise ValueError(f"version {contents['version']} instead of {CACHE_VERSION}")
        files = [cache / f"{name}.npy" for name in CACHE_ARRAYS]
        if sum(file.stat().st_size for file in files) < CHECKED_BYTES and any(
            _checksum(file) != contents["sha256"][file.name] for file in files
        ):
            raise ValueError("wrong checksum")
        arrays = [read_array(file) for file in files]
        train_images, train_labels, validation_images, validation_labels = arrays
        for images, labels in (arrays[:2], arrays[2:]):
            if (
                (images.dtype, labels.dtype) != (np.uint8, np.int32)
                or images.ndim != 4
                or images.shape[1] != images.shape[2]
                or images.shape[3] not in (1, 3)
                or images.shape[1:] != train_images.shape[1:]
                or labels.shape != images.shape[:1]
                or len(images) == 0
            ):
                raise ValueError("arrays that do not fit each other")
            check_labels(labels)
        class_names = checked_names(contents["class_names"])
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=np.array(train_labels),
        validation_images=validation_images,
        validation_labels=np.array(validation_labels),
        class_names=class_names,
    )
