import json
import sys
import threading
import weakref
from itertools import islice
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from ddim_keras.config import InputError
from ddim_keras.data import cache as data
from ddim_keras.data import sources
from ddim_keras.data.batches import (
    ValidationBatches,
    random_images,
    steps_per_epoch,
    training_batches,
)
from ddim_keras.data.cache import Dataset, load_dataset, write_cache
from ddim_keras.data.drawn_flowers import SPECIES, draw_flowers
from ddim_keras.data.images import crop_and_resize
from ddim_keras.data.sources import Reading, Source, Unobtainable, find_source


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def array_file(tmp_path):
    images, labels = draw_flowers(50, 16)
    np.savez(tmp_path / "flowers.npz", images=images, labels=labels, class_names=["a"] * 10)
    return tmp_path / "flowers.npz"


def parts_together(dataset):
    images = np.concatenate([dataset.train_images, dataset.validation_images])
    labels = np.concatenate([dataset.train_labels, dataset.validation_labels])
    return images, labels


def in_order(images):
    return sorted(image.tobytes() for image in images)


def assert_same(first, second):
    for a, b in zip(parts_together(first), parts_together(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(first.train_images) == len(second.train_images)
    assert first.class_names == second.class_names


class TestLoading:
    def test_an_array_file(self, array_file, cache_dir):
        dataset = load_dataset(array_file, 16, cache_dir=cache_dir)
        assert dataset.describe() == ("flowers: 40 training and 10 validation images, 16x16x3")
        images, labels = parts_together(dataset)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        expected = draw_flowers(50, 16)
        pairs = sorted((image.tobytes(), label) for image, label in zip(*expected, strict=True))
        found = zip(images, labels, strict=True)
        assert sorted((image.tobytes(), label) for image, label in found) == pairs
        assert dataset.class_names == ("a",) * 10

    def test_images_are_mapped_from_the_cache(self, array_file, cache_dir):
        dataset = load_dataset(array_file, 16, cache_dir=cache_dir)
        (cache,) = cache_dir.iterdir()
        for images in (dataset.train_images, dataset.validation_images):
            assert isinstance(images, np.memmap)
            assert Path(images.filename).parent == cache
            assert not images.flags.writeable

    def test_grey_images_get_one_channel(self, tmp_path, cache_dir):
        np.save(tmp_path / "grey.npy", draw_flowers(10, 16)[0][..., 0])
        dataset = load_dataset(tmp_path / "grey.npy", 8, cache_dir=cache_dir)
        assert dataset.train_images.shape == (8, 8, 8, 1)
        assert set(dataset.train_labels) == {-1}
        assert dataset.class_names == ()

    def test_a_folder(self, tmp_path, cache_dir, capsys):
        for index, flower in enumerate(draw_flowers(10, 32)[0]):
            (tmp_path / "photos" / f"{index % 2}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(flower).save(tmp_path / "photos" / f"{index % 2}" / f"{index}.png")
        (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
        dataset = load_dataset(tmp_path / "photos", 16, cache_dir=cache_dir)
        assert dataset.describe().startswith("photos: 8 training and 2 validation images, 16x16x3")
        assert dataset.class_names == ("0", "1")
        assert np.bincount(parts_together(dataset)[1]).tolist() == [5, 5]
        assert "skipping" in capsys.readouterr().out

    def test_a_source_is_read_once_for_each_size(self, array_file, cache_dir, monkeypatch, capsys):
        first = load_dataset(array_file, 16, cache_dir=cache_dir)
        assert "preparing flowers at 16 px, once, into" in capsys.readouterr().out

        def fail(path):
            raise AssertionError("read again")

        monkeypatch.setattr(sources, "read_array", fail)
        assert_same(load_dataset(array_file, 16, cache_dir=cache_dir), first)
        assert "preparing" not in capsys.readouterr().out
        with pytest.raises(AssertionError, match="read again"):
            load_dataset(array_file, 8, cache_dir=cache_dir)

    def test_a_changed_source_is_read_again(self, array_file, cache_dir):
        load_dataset(array_file, 16, cache_dir=cache_dir)
        np.savez(array_file, images=draw_flowers(20, 16, seed=1)[0])
        dataset = load_dataset(array_file, 16, cache_dir=cache_dir)
        assert len(parts_together(dataset)[0]) == 20

    def test_a_cached_data_set_needs_no_tfds(self, cache_dir, monkeypatch):
        def read(name, data_dir):
            images, labels = draw_flowers(10, 8)
            return Reading((), 10, zip(images, labels, [False] * 8 + [True] * 2, strict=True))

        monkeypatch.setattr(sources, "read_tfds", read)
        first = load_dataset("some_set/config", 8, cache_dir=cache_dir)
        monkeypatch.undo()
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
        assert_same(load_dataset("some_set/config", 8, cache_dir=cache_dir), first)
        assert (cache_dir / "some_set-config-8px" / "prepared.json").exists()
        with pytest.raises(Unobtainable):
            load_dataset("other_set", 8, cache_dir=cache_dir)

    def test_drawn_flowers_replace_a_default_that_cannot_be_had(
        self, cache_dir, monkeypatch, capsys
    ):
        def fail(name, data_dir):
            raise Unobtainable("no network")

        monkeypatch.setattr(sources, "read_tfds", fail)
        monkeypatch.setattr(sources, "NUM_DRAWN_FLOWERS", 200)
        dataset = load_dataset(None, 8, cache_dir=cache_dir)
        assert dataset.name == "drawn_flowers"
        assert len(dataset.class_names) == len(SPECIES)
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "***" in line]
        assert line == "*** NO OXFORD FLOWERS, using drawn flowers instead: no network ***"
        with pytest.raises(Unobtainable, match="no network"):
            load_dataset("oxford_flowers102", 8, cache_dir=cache_dir)
        # Who says where the flowers are does not want others.
        with pytest.raises(Unobtainable, match="no network"):
            load_dataset(None, 8, data_dir="tfds", cache_dir=cache_dir)

    def test_other_mistakes_about_the_default_are_not_hidden(self, cache_dir, monkeypatch):
        def fail(name, data_dir):
            raise InputError("the copy is damaged")

        monkeypatch.setattr(sources, "read_tfds", fail)
        with pytest.raises(InputError, match="damaged"):
            load_dataset(None, 8, cache_dir=cache_dir)

    @pytest.mark.parametrize("count", [0, 1])
    def test_too_few_images(self, tmp_path, cache_dir, count):
        np.save(tmp_path / "few.npy", draw_flowers(2, 8)[0][:count])
        with pytest.raises(InputError, match=f"few has 0 training and {count} validation images"):
            load_dataset(tmp_path / "few.npy", 8, cache_dir=cache_dir)
        assert list(cache_dir.iterdir()) == []

    def test_grey_and_colour_do_not_mix(self, tmp_path, cache_dir, monkeypatch):
        samples = [(np.zeros((8, 8, c), "uint8"), 0, c == 1) for c in (1, 1, 3)]
        source = Source("mixed", "", lambda: Reading((), 3, iter(samples)))
        monkeypatch.setattr(data, "find_source", lambda *arguments: source)
        with pytest.raises(InputError, match=r"mixed mixes images of 1 and 3 channels \(image 3\)"):
            load_dataset("mixed", 8, cache_dir=cache_dir)
        assert list(cache_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("train_labels", "validation_labels", "expected"),
    [([0, 1], [2, 3], 4), ([-1, -1], [-1], 0), ([-1, -1], [0], 0), ([1, -1], [0], 3)],
)
def test_classes_are_counted_in_both_parts(train_labels, validation_labels, expected):
    names = ("a", "b", "c") if -1 in train_labels else ()
    parts = [np.array(train_labels), np.array(validation_labels)]
    pairs = [array for labels in parts for array in (np.zeros((len(labels), 4, 4, 3)), labels)]
    assert Dataset("flowers", *pairs, names).num_classes == expected


def test_classes_that_one_part_lacks_are_named(tmp_path, cache_dir, capsys):
    images, _ = draw_flowers(20, 8)
    labels = np.repeat([0, 1, 2, -1], [12, 2, 4, 2])
    arrays = {"labels": labels, "class_names": ["rose", "lily", "tulip"], "num_train": 12}
    np.savez(tmp_path / "a.npz", images=images, **arrays)
    for _ in range(2):  # also when it comes from the cache
        load_dataset(tmp_path / "a.npz", 8, cache_dir=cache_dir)
        lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
        assert lines == [
            "warning: 2 of 3 classes of a have no training image: lily, tulip",
            "warning: 1 of 3 classes of a have no validation image: rose",
        ]


class TestCache:
    @pytest.fixture
    def cache(self, array_file, cache_dir):
        load_dataset(array_file, 16, cache_dir=cache_dir)
        (cache,) = cache_dir.iterdir()
        return cache

    def test_it_is_what_preparing_one_image_after_the_other_gives(self, tmp_path, cache_dir):
        images, _ = draw_flowers(60, 20)
        np.savez(tmp_path / "a.npz", images=images, labels=np.arange(60), num_train=45)
        dataset = load_dataset(tmp_path / "a.npz", 12, cache_dir=cache_dir)
        assert set(dataset.train_labels) == {*range(45)}
        prepared, numbers = parts_together(dataset)
        expected = [crop_and_resize(images[number], 12) for number in numbers]
        np.testing.assert_array_equal(prepared, expected)

    def test_both_parts_are_shuffled_and_the_split_stays(self, tmp_path, cache_dir, monkeypatch):
        monkeypatch.setattr(data, "BYTES_AT_ONCE", 1000)  # an .npy file is written in pieces
        images = np.arange(100, dtype="uint8").repeat(64 * 3).reshape(100, 8, 8, 3)
        np.savez(tmp_path / "a.npz", images=images, labels=np.repeat(np.arange(10), 10))
        dataset = load_dataset(tmp_path / "a.npz", 8, cache_dir=cache_dir)
        source = find_source(tmp_path / "a.npz", 8, None)
        for part, is_validation in (("train", False), ("validation", True)):
            order = getattr(dataset, f"{part}_images")[:, 0, 0, 0]
            expected = [
                image[0, 0, 0] for image, _, mark in source.read().samples if mark == is_validation
            ]
            assert sorted(order) == expected
            assert abs(np.corrcoef(order, expected)[0, 1]) < 0.3
            np.testing.assert_array_equal(getattr(dataset, f"{part}_labels"), order // 10)

    def test_the_time_left_is_estimated(self, array_file, cache_dir, monkeypatch):
        updates = []
        progress = keras.utils.Progbar
        monkeypatch.setattr(progress, "update", lambda bar, count: updates.append((count, bar)))
        load_dataset(array_file, 16, cache_dir=cache_dir)
        assert [count for count, _ in updates] == [*range(1, 51)]
        assert {bar.target for _, bar in updates} == {50}

    def test_an_interruption_leaves_nothing(self, array_file, cache_dir, monkeypatch):
        read_images = []

        def samples():
            for image in draw_flowers(50, 16)[0]:
                if len(read_images) == 30:
                    raise KeyboardInterrupt
                read_images.append(image)
                yield image, -1, len(read_images) % 5 == 0

        source = Source("some", "", lambda: Reading((), 50, samples()))
        monkeypatch.setattr(data, "find_source", lambda *arguments: source)
        threads = threading.active_count()
        with pytest.raises(KeyboardInterrupt):
            load_dataset("some", 8, cache_dir=cache_dir)
        assert list(cache_dir.iterdir()) == []
        assert threading.active_count() == threads

    def test_it_holds_ordinary_array_files(self, cache):
        shapes = {file.stem: np.load(file).shape for file in cache.glob("*.npy")}
        assert shapes == {
            "train_images": (40, 16, 16, 3),
            "train_labels": (40,),
            "validation_images": (10, 16, 16, 3),
            "validation_labels": (10,),
        }
        assert json.loads((cache / "prepared.json").read_text())["class_names"] == ["a"] * 10

    def test_an_old_cache_file_is_left_alone(self, cache, array_file, cache_dir):
        old = cache_dir / f"{cache.name}.npz"
        old.write_bytes(b"of version 1")
        load_dataset(array_file, 16, cache_dir=cache_dir)
        assert old.read_bytes() == b"of version 1"

    def test_it_is_a_data_set_itself(self, cache, array_file, cache_dir, tmp_path):
        moved = tmp_path / "moved"
        cache.rename(moved)
        dataset = load_dataset(moved, 16, cache_dir=cache_dir)
        assert dataset.name == "moved"
        assert Path(dataset.train_images.filename).parent == moved
        assert list(cache_dir.iterdir()) == []  # used as it is
        assert_same(dataset, load_dataset(array_file, 16, cache_dir=cache_dir))

    def test_another_size_keeps_its_split(self, cache, tmp_path):
        small = load_dataset(cache, 8, cache_dir=tmp_path / "other")
        large = load_dataset(cache, 16, cache_dir=tmp_path / "other")
        for name in ("train_images", "validation_images"):
            expected = [crop_and_resize(image, 8) for image in getattr(large, name)]
            assert in_order(getattr(small, name)) == in_order(expected)

    @pytest.mark.parametrize("compress", [np.savez, np.savez_compressed])
    def test_one_made_by_hand(self, tmp_path, cache_dir, compress):
        images, labels = draw_flowers(10, 16)
        path = tmp_path / "own.npz"
        arrays = {"labels": labels.astype("int64"), "class_names": np.array([], "U")}
        compress(path, images=images, num_train=6, **arrays)
        dataset = load_dataset(path, 16, cache_dir=cache_dir)
        assert in_order(dataset.train_images) == in_order(images[:6])
        assert sorted(dataset.validation_labels) == [*labels[6:]]
        assert dataset.train_labels.dtype == np.int32

    @pytest.mark.parametrize("num_train", [-1, 0, 10, 11])
    def test_a_split_without_one_part(self, tmp_path, cache_dir, num_train):
        images, labels = draw_flowers(10, 16)
        path = tmp_path / "own.npz"
        np.savez(path, images=images, labels=labels, class_names=["a"], num_train=num_train)
        for size in (8, 16):
            with pytest.raises(InputError, match="at least one of each is needed"):
                load_dataset(path, size, cache_dir=cache_dir)

    def test_damage_is_noticed_and_mended(self, cache, array_file, cache_dir, capsys):
        contents = {file.name: file.read_bytes() for file in cache.iterdir()}
        flipped = bytearray(contents["train_images.npy"])
        flipped[len(flipped) // 2] ^= 1  # within the pixels
        damages = [("train_images.npy", bytes(flipped)), ("validation_labels.npy", None)]
        damages += [("train_images.npy", contents["train_images.npy"][:-1]), ("prepared.json", b"")]
        other_version = contents["prepared.json"].replace(b'"version": 2', b'"version": 3')
        for name, damaged in [*damages, ("prepared.json", other_version)]:
            (cache / name).unlink()
            if damaged is not None:
                (cache / name).write_bytes(damaged)
            with pytest.raises(InputError, match="is not a prepared data set"):
                load_dataset(cache, 16, cache_dir=cache_dir)
            capsys.readouterr()
            load_dataset(array_file, 16, cache_dir=cache_dir)
            assert "preparing it again" in capsys.readouterr().out
            assert {file.name: file.read_bytes() for file in cache.iterdir()} == contents

    def test_arrays_that_do_not_fit_each_other(self, cache, cache_dir, monkeypatch):
        monkeypatch.setattr(data, "CHECKED_BYTES", 0)
        labels = np.load(cache / "train_labels.npy")
        for wrong in (labels[:-1], labels.astype("int64"), labels.astype(object)):
            np.save(cache / "train_labels.npy", wrong)
            with pytest.raises(InputError, match="is not a prepared data set"):
                load_dataset(cache, 16, cache_dir=cache_dir)

    def test_a_damaged_cache_is_not_mapped_when_it_is_removed(
        self, cache, array_file, cache_dir, monkeypatch
    ):
        """Windows would not remove it."""
        mapped, read_array, remove_cache = [], data.read_array, data.remove_cache

        def read(path):
            array = read_array(path)
            mapped.append(weakref.ref(array))
            return array

        def remove(path):
            assert [each() for each in mapped] == [None] * 4
            mapped.clear()
            remove_cache(path)

        monkeypatch.setattr(data, "CHECKED_BYTES", 0)
        monkeypatch.setattr(data, "read_array", read)
        monkeypatch.setattr(data, "remove_cache", remove)
        np.save(cache / "train_labels.npy", np.load(cache / "train_labels.npy")[:-1])
        load_dataset(array_file, 16, cache_dir=cache_dir)
        assert len(mapped) == 4

    def test_what_else_lies_in_a_damaged_cache_is_kept(self, cache, array_file, cache_dir):
        (cache / "prepared.json").unlink()
        (cache / "notes.txt").write_text("mine")
        with pytest.raises(OSError, match="not empty"):
            load_dataset(array_file, 16, cache_dir=cache_dir)
        assert (cache / "notes.txt").read_text() == "mine"

    def test_of_two_processes_the_first_one_prepares(self, cache, cache_dir, capsys):
        reading = find_source(cache_dir.parent / "flowers.npz", 16, None).read()
        before = cache.stat().st_ino
        write_cache(cache, "flowers", 16, reading)  # as if it had been missing a moment ago
        assert cache.stat().st_ino == before
        assert list(cache_dir.iterdir()) == [cache]

    def test_a_full_disk_leaves_nothing(self, array_file, cache_dir, monkeypatch):
        def fail(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(data.np, "save", fail)
        with pytest.raises(OSError, match="No space left") as caught:
            load_dataset(array_file, 16, cache_dir=cache_dir)
        assert Path(caught.value.filename).parent == cache_dir
        assert list(cache_dir.iterdir()) == []


class TestCropAndResize:
    @pytest.mark.parametrize("shape", [(20, 30, 3), (30, 20, 3), (21, 30, 3), (20, 20, 3)])
    def test_the_centre_is_kept(self, shape):
        height, width, _ = shape
        side = min(height, width)
        image = np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")
        top, left = (height - side) // 2, (width - side) // 2
        expected = image[top : top + side, left : left + side]
        np.testing.assert_array_equal(crop_and_resize(image, side), expected)

    def test_what_lies_outside_does_not_count(self):
        image = np.full((16, 40, 3), 255, "uint8")
        image[:, 12:28] = 90
        assert set(crop_and_resize(image, 8).ravel()) == {90}

    @pytest.mark.parametrize("size", [5, 8, 16, 40])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_constant_stays(self, size, channels):
        image = np.full((16, 16, channels), (7, 130, 255)[:channels], "uint8")
        resized = crop_and_resize(image, size)
        assert resized.dtype == np.uint8
        np.testing.assert_array_equal(resized, np.broadcast_to(image[0, 0], (size, size, channels)))

    @pytest.mark.parametrize("size", [8, 11, 32])
    def test_a_checkerboard_becomes_grey(self, size):
        # Without antialiasing it would become stripes, or all black or white.
        board = (255 * (np.indices((64, 64)).sum(axis=0) % 2)).astype("uint8")
        inside = crop_and_resize(board, size)[1:-1, 1:-1].astype(int)
        assert np.abs(inside - 127.5).max() < 10

    def test_brightness_is_kept(self):
        image = draw_flowers(1, 64)[0][0]
        means = crop_and_resize(image, 16).mean(axis=(0, 1))
        np.testing.assert_allclose(means, image.mean(axis=(0, 1)), atol=1.5)

    def test_grey_gets_a_channel_and_alpha_is_dropped(self):
        assert crop_and_resize(np.zeros((10, 12), "uint8"), 8).shape == (8, 8, 1)
        assert crop_and_resize(np.zeros((10, 12, 1), "uint8"), 8).shape == (8, 8, 1)
        image = np.zeros((10, 10, 4), "uint8")
        image[..., 3] = 255
        resized = crop_and_resize(image, 8)
        assert resized.shape == (8, 8, 3)
        assert resized.max() == 0


class TestTrainingBatches:
    @pytest.fixture
    def images(self):
        images = np.random.default_rng(0).integers(0, 256, (23, 4, 4, 3), dtype="uint8")
        images.flags.writeable = False  # as those that are mapped from a file
        return images

    def batches(self, images, count, **options):
        labels = np.zeros(len(images), "int32")
        return [batch for batch, _ in islice(training_batches(images, labels, **options), count)]

    def test_labels_go_with_their_images(self, images):
        labels = images[:, 0, 0, 0].astype("int32")
        for batch, batch_labels in islice(training_batches(images, labels, 5), 9):
            np.testing.assert_array_equal(batch[:, 0, 0, 0], batch_labels)

    @pytest.mark.parametrize("repetitions", [1, 3])
    def test_an_epoch_shows_each_image_as_often(self, images, repetitions):
        steps = steps_per_epoch(23, 4, repetitions)
        options = {"batch_size": 4, "repetitions": repetitions}
        batches = self.batches(images, 2 * steps, **options)
        for epoch in (batches[:steps], batches[steps:]):
            shown = np.concatenate(epoch)
            assert shown.shape == (23 * repetitions // 4 * 4, 4, 4, 3)
            counts = [(shown == image).all(axis=(1, 2, 3)).sum() for image in images]
            assert max(counts) == repetitions
            assert sum(counts) == len(shown)
            assert sum(counts) + 4 > 23 * repetitions  # what is left out is less than a batch

    def test_passes_epochs_and_seeds_differ(self, images):
        passes = self.batches(images, 2, batch_size=23, repetitions=2)
        assert not (passes[0] == passes[1]).all()
        first, second = self.batches(images, 2, batch_size=23)
        (other,) = self.batches(images, 1, batch_size=23, seed=1)
        assert not (first == images).all()
        assert not (first == second).all()
        assert not (first == other).all()
        assert in_order(first) == in_order(second) == in_order(other) == in_order(images)

    @pytest.mark.parametrize("start", range(13))
    def test_it_resumes_at_any_step(self, images, start):
        options = {"batch_size": 7, "repetitions": 2, "flip": True, "seed": 5}
        uninterrupted = self.batches(images, 16, **options)
        resumed = self.batches(images, 16 - start, **options, start_step=start)
        np.testing.assert_array_equal(resumed, uninterrupted[start:])

    def test_flips_mirror_half_of_the_images(self, images):
        plain = np.concatenate(self.batches(images, 40, batch_size=23))
        flipped = np.concatenate(self.batches(images, 40, batch_size=23, flip=True))
        is_same = (flipped == plain).all(axis=(1, 2, 3))
        is_mirrored = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
        assert (is_same ^ is_mirrored).all()
        assert abs(is_mirrored.mean() - 0.5) < 0.06

    def test_without_flips_images_stay(self, images):
        assert in_order(self.batches(images, 1, batch_size=23)[0]) == in_order(images)

    def test_steps(self):
        assert steps_per_epoch(6551, 64, 5) == 511
        assert steps_per_epoch(64, 64, 1) == 1
        with pytest.raises(InputError, match="batch size 65 is larger than the 64 images"):
            steps_per_epoch(64, 65, 1)
        with pytest.raises(InputError, match="choose a smaller one"):
            next(training_batches(np.zeros((4, 8, 8, 3), "uint8"), np.zeros(4), batch_size=5))


def test_validation_batches_show_each_image_once():
    images = np.random.default_rng(0).integers(0, 256, (23, 4, 4, 3), dtype="uint8")
    batches = ValidationBatches(images, np.arange(23), 5)
    shown, labels = zip(*(batches[index] for index in range(len(batches))), strict=True)
    # Filled up from the start, so that all are of one size.
    order = [*range(23), 0, 1]
    np.testing.assert_array_equal(np.concatenate(labels), order)
    assert [len(batch) for batch in shown] == [5, 5, 5, 5, 5]
    np.testing.assert_array_equal(np.concatenate(shown), images[order])


def test_random_images_are_drawn_without_repetition_and_the_same_each_time():
    images = np.arange(50)
    drawn = random_images(images, 20)
    assert len({*drawn}) == 20
    assert drawn.max() > 40
    np.testing.assert_array_equal(random_images(images, 20), drawn)
    np.testing.assert_array_equal(random_images(images, 60), images)
