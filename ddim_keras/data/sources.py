"""Sources of images: a data set of TFDS, a folder, an array file, or synthetic flowers.

A source is resolved at once, but read only if its images have not been prepared before. Reading
yields the class names, and one sample at a time.
"""

import collections
import contextlib
import difflib
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from ddim_keras.backends.devices import leave_gpu_to_backend
from ddim_keras.config import MOST_CLASSES, InputError
from ddim_keras.data.drawn_flowers import SPECIES, draw_flowers
from ddim_keras.data.images import read_image
from ddim_keras.data.parallel import map_in_order
from ddim_keras.foreign import contents_of, first_line, read_arrays
from ddim_keras.foreign import read_array as read_npy

DRAWN_FLOWERS = "drawn_flowers"
NUM_DRAWN_FLOWERS = 8000
VALIDATION_PERCENT = 20  # of every official split, as in the Keras example
ARRAY_SUFFIXES = {".npz", ".npy"}
IMAGE_SUFFIXES = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")
}
TFDS_NAME = re.compile(r"\w+(/[\w.-]+)?(:[\d.*]+)?")  # name, configuration, version
SMALLEST_SIDE = 8  # pixels
MOST_KINDS = 5  # of other files, in a message
NETWORK_TIMEOUT = 10.0  # seconds

# An image (H, W) or (H, W, C) uint8, its label or -1, and whether it is for validation.
Sample = tuple[np.ndarray, int, bool]


class Reading(NamedTuple):
    """The content of a source, before any of its images has been read."""

    class_names: tuple[str, ...]
    num_samples: int  # an upper bound, since some may be unreadable
    samples: Iterator[Sample]


class Unknown(InputError):
    """There is no file, folder or TFDS data set of a name."""


class Unobtainable(InputError):
    """A data set that exists, but is currently not available on this machine."""


@dataclass(frozen=True)
class Source:
    """A data set that has been found, but not yet read."""

    name: str
    fingerprint: str  # changes with the data; empty if the name is sufficient
    read: Callable[[], Reading]


def find_source(source: str | Path, image_size: int, data_dir: str | Path | None) -> Source:
    """Resolves `--dataset`; a file or folder takes precedence over a TFDS name.

    Args:
        source: a folder, an .npz or .npy file, "drawn_flowers", or a name of TFDS.
        image_size: size of drawn flowers.
        data_dir: folder of TFDS's prepared data sets.
    """
    path, name = Path(source), str(source)
    if path.suffix.lower() in ARRAY_SUFFIXES:
        if not path.is_file():
            raise Unknown(f"there is no file {path}")
        return Source(path.stem, _fingerprint([path]), functools.partial(read_array, path))
    if path.is_dir():
        found = sorted(_visible_files(path))
        files = [file for file in found if file.suffix.lower() in IMAGE_SUFFIXES]
        others = _count_suffixes(
            file for file in found if file.suffix.lower() not in IMAGE_SUFFIXES
        )
        if not files:
            kinds = " ".join(sorted(IMAGE_SUFFIXES))
            raise InputError(
                f"folder {path} holds no images ({kinds})" + (f", but {others}" if others else "")
            )
        read = functools.partial(read_folder, path, files, others)
        return Source(path.resolve().name, _fingerprint(files), read)
    if name == DRAWN_FLOWERS:
        first_flowers, _ = draw_flowers(len(SPECIES), min(image_size, 64))
        fingerprint = hashlib.sha256(first_flowers.tobytes()).hexdigest()
        return Source(name, fingerprint, functools.partial(read_drawn_flowers, image_size))
    if TFDS_NAME.fullmatch(name):
        return Source(name, "", functools.partial(read_tfds, name, data_dir))
    if path.is_file():
        raise InputError(
            f"{name} is neither an .npz nor an .npy file; give one, or a folder of images"
        )
    raise Unknown(f"there is no folder or file {name}, and TFDS has no data set of that name")


def read_tfds(name: str, data_dir: str | Path | None) -> Reading:
    """Reads every official split of a TFDS image data set; downloads it if necessary."""
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise Unobtainable(
            f"{name}, which is no folder here, requires TensorFlow Datasets, which is not "
            "installed: pip install tensorflow tensorflow-datasets, or give a folder or an .npz "
            "file of images"
        ) from error
    leave_gpu_to_backend(tf)

    builder = _tfds_builder(name, data_dir)
    features = builder.info.features
    if (
        not isinstance(features, tfds.features.FeaturesDict)
        or "image" not in features
        or not isinstance(features["image"], tfds.features.Image)
        or features["image"].np_dtype != np.uint8
    ):
        raise InputError(f"data set {name} of TFDS has no feature 'image' that is an 8-bit image")
    # A FeaturesDict has no `get`.
    label: Any = features["label"] if "label" in features else None  # noqa: SIM401
    has_labels = isinstance(label, tfds.features.ClassLabel)
    if not builder.info.splits:
        _download(builder, name, data_dir)

    percent = 100 - VALIDATION_PERCENT
    parts = ((f"[:{percent}%]", False), (f"[{percent}%:]", True))

    def samples() -> Iterator[Sample]:
        try:
            for split, (part, is_validation) in itertools.product(builder.info.splits, parts):
                for sample in builder.as_dataset(split=split + part).as_numpy_iterator():
                    yield sample["image"], sample["label"] if has_labels else -1, is_validation
        except tf.errors.OpError as error:
            raise InputError(
                f"the copy of {name} in {builder.data_path} is damaged ({first_line(error)}): "
                "remove that folder, to download it again"
            ) from error

    class_names = tuple(label.names) if has_labels else ()
    num_samples = sum(split.num_examples for split in builder.info.splits.values())
    return Reading(class_names, num_samples, samples())


def _tfds_builder(name: str, data_dir: str | Path | None) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # of a dozen kinds: name, configuration, version, missing packages
        known = {*tfds.list_builders(with_community_datasets=False)}
        similar = {*difflib.get_close_matches(name, known)} - {re.split("[/:]", name)[0]}
        hint = f"; similar names: {', '.join(sorted(similar))}" if similar else ""
        raise Unknown(
            f"{name} is neither a folder, nor an .npz or .npy file, nor a data set of TFDS "
            f"({first_line(error)}){hint}"
        ) from error


def _download(builder: Any, name: str, data_dir: str | Path | None) -> None:
    try:
        _require_network(builder.url_infos or ())
        builder.download_and_prepare()
    except Exception as error:  # any error of its code, the network or the disk
        raise Unobtainable(
            f"{name} is not prepared in {data_dir or '~/tensorflow_datasets'}, and its download "
            f"failed ({first_line(error)}): connect to a network, or pass --data-dir DIR with a "
            "prepared copy"
        ) from error


def _require_network(urls: Iterable[str]) -> None:
    """Raises an OSError within seconds if no host answers; TFDS would try for minutes."""
    import requests  # what TFDS downloads with: the same proxies and certificates

    hosts = {urlsplit(url).netloc: url for url in urls if url.startswith("http")}
    for url in hosts.values():
        with contextlib.suppress(requests.RequestException):
            requests.head(url, timeout=NETWORK_TIMEOUT)
            return
    if hosts:
        raise ConnectionError(f"no answer from {' or '.join(hosts)}")


def read_array(path: Path) -> Reading:
    """Reads an array file.

    Its arrays are `images` (N, H, W) or (N, H, W, C) uint8 and, optionally, `labels` (N,) integers,
    `class_names`, and `num_train`: the number of images at the start that are for training. An .npy
    file holds only the images.
    """
    with contents_of(path, "an array file that loads without pickle, or it is damaged"):
        arrays = (
            read_arrays(path, ("images", "labels", "class_names", "num_train"))
            if path.suffix.lower() == ".npz"
            else {"images": read_npy(path)}
        )
    images = arrays["images"]
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or min(images.shape[1:3]) < SMALLEST_SIDE
        or images.shape[3:] not in ((), (1,), (3,), (4,))
    ):
        raise InputError(
            f"images in {path} must be uint8 of shape (N, H, W) or (N, H, W, C), with H and W at "
            f"least {SMALLEST_SIDE} and C one of 1, 3 and 4, not {images.dtype} of shape "
            f"{images.shape}"
        )
    labels = arrays.get("labels", np.full(len(images), -1))
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels in {path} must be integers of shape ({len(images)},), "
            f"not {labels.dtype} of shape {labels.shape}"
        )
    is_validation = _marks()
    if "num_train" in arrays:
        num_train = arrays["num_train"]
        if num_train.shape != () or num_train.dtype.kind not in "iu":
            raise InputError(f"num_train in {path} must be an integer, not {num_train}")
        is_validation = iter(np.arange(len(images)) >= num_train)
    with contents_of(path, "a data set to train on"):
        check_labels(labels)
        class_names = checked_names(arrays.get("class_names", np.array([], "U1")).tolist())
    return Reading(class_names, len(images), zip(images, labels, is_validation, strict=False))


def check_labels(labels: np.ndarray) -> None:
    """Raises InputError for labels that are neither -1 (no class) nor the number of a class."""
    if len(labels) and not -1 <= labels.min() <= labels.max() < MOST_CLASSES:
        raise InputError(
            f"labels must be from -1, which is none, to {MOST_CLASSES - 1}, not from "
            f"{labels.min()} to {labels.max()}"
        )


def checked_names(names: Any) -> tuple[str, ...]:
    """Class names as they are stored; raises InputError if they are not a list of texts."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError("class_names must be a list of texts")
    if len(names) > MOST_CLASSES:
        raise InputError(f"class_names must be at most {MOST_CLASSES}, not {len(names)}")
    return tuple(names)


def _visible_files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files below a folder except hidden ones, such as thumbnails; links are followed.

    Args:
        above: the folders that lead here, since a link to one of them would never end.
    """
    try:
        paths = list(folder.iterdir())
    except PermissionError:
        print(f"ignoring {folder}: no permission to read it", flush=True)
        return
    above = (*above, folder.resolve())
    for path in paths:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if path.resolve() not in above:
                yield from _visible_files(path, above)
        elif path.is_file():
            yield path


def _count_suffixes(files: Iterable[Path]) -> str:
    """The numbers of files of the most frequent kinds, such as "20 .heic, 1 .txt"."""
    counts = collections.Counter(file.suffix.lower() or "without suffix" for file in files)
    kinds = [f"{count} {suffix}" for suffix, count in counts.most_common(MOST_KINDS)]
    return ", ".join(kinds) + ", ..." * (len(counts) > MOST_KINDS)


def read_folder(folder: Path, files: Sequence[Path], others: str = "") -> Reading:
    """Reads image files as RGB; their first sub-folder below `folder` is the class.

    Args:
        others: what else the folder holds, which is not read.
    """
    parents = [(*file.relative_to(folder).parts[:-1], "")[0] for file in files]
    class_names = tuple(sorted({*parents} - {""}))

    def read(file: Path) -> np.ndarray | Exception:
        try:
            return read_image(file)
        except Exception as error:  # Pillow's readers raise a dozen kinds for damaged files
            return error

    def samples() -> Iterator[Sample]:
        is_validation = _marks()
        num_skipped = 0
        for file, parent, pixels in zip(files, parents, map_in_order(read, files), strict=True):
            if isinstance(pixels, Exception):
                num_skipped += 1
                print(f"skipping {file}: no readable image ({first_line(pixels)})", flush=True)
                continue
            yield pixels, class_names.index(parent) if parent else -1, next(is_validation)
        if num_skipped:
            print(f"skipped {num_skipped} of {len(files)} files", flush=True)
        if others:
            print(f"ignored other files of {folder}: {others}", flush=True)
        if num_skipped == len(files):
            raise InputError(f"folder {folder} holds no readable image")

    return Reading(class_names, len(files), samples())


def read_drawn_flowers(image_size: int) -> Reading:
    """Draws the built-in flowers, a few at a time."""

    def samples() -> Iterator[Sample]:
        num_at_once = 10 * len(SPECIES)
        is_validation = _marks()
        for seed in range(NUM_DRAWN_FLOWERS // num_at_once):
            images, labels = draw_flowers(num_at_once, image_size, seed)
            yield from zip(images, labels, is_validation, strict=False)

    class_names = tuple(species.name for species in SPECIES)
    return Reading(class_names, NUM_DRAWN_FLOWERS, samples())


def _marks() -> Iterator[bool]:
    """Yields whether a sample is for validation: the first one, then one in five at random."""
    random = np.random.default_rng(0)
    marks = np.arange(100 // VALIDATION_PERCENT) == 0
    while True:
        yield from marks
        marks = random.permutation(marks)


def _fingerprint(files: Sequence[Path]) -> str:
    """A hash of names, sizes and times of files; cheap, since no file is read."""
    status = [(str(file.resolve()), file.stat()) for file in files]
    lines = [f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in status]
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()
