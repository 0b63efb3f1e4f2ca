import os
import pickle
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from ddim_keras.config import InputError
from ddim_keras.data import sources
from ddim_keras.data.drawn_flowers import SPECIES, draw_flowers
from ddim_keras.data.sources import Unobtainable, find_source

REAL_FLOWERS = Path(__file__).parents[3] / "shared" / "tfds"


def read(source, image_size=16, data_dir=None):
    class_names, num_samples, samples = find_source(source, image_size, data_dir).read()
    samples = list(samples)
    assert len(samples) <= num_samples
    return class_names, samples


def marks(samples):
    return [bool(is_validation) for _, _, is_validation in samples]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")


class TestArray:
    def test_images_labels_and_names(self, tmp_path):
        images, labels = noise(10, 12, 8, 3), np.arange(10)[::-1]
        names = [f"class {i}" for i in range(10)]
        np.savez_compressed(
            tmp_path / "a.npz", images=images, labels=labels, class_names=names, other=names
        )
        class_names, samples = read(tmp_path / "a.npz")
        assert class_names == tuple(names)
        assert [label for _, label, _ in samples] == labels.tolist()
        np.testing.assert_array_equal([image for image, _, _ in samples], images)

    @pytest.mark.parametrize("shape", [(10, 8, 8), (10, 8, 8, 1), (10, 8, 8, 3), (10, 8, 8, 4)])
    def test_bare_images_of_any_channels(self, tmp_path, shape):
        np.save(tmp_path / "a.NPY", noise(*shape))
        (tmp_path / "a.NPY.npy").rename(tmp_path / "a.NPY")
        class_names, samples = read(tmp_path / "a.NPY")
        assert class_names == ()
        assert {label for _, label, _ in samples} == {-1}
        np.testing.assert_array_equal([image for image, _, _ in samples], noise(*shape))

    def test_one_in_five_is_for_validation_at_random(self, tmp_path):
        np.save(tmp_path / "a.npy", noise(100, 8, 8))
        first = np.reshape(marks(read(tmp_path / "a.npy")[1]), (20, 5))
        assert (first.sum(axis=1) == 1).all()
        assert first[0, 0]
        assert (first.sum(axis=0) >= 1).all()
        assert first.ravel().tolist() == marks(read(tmp_path / "a.npy")[1])

    def test_what_is_not_compressed_is_mapped_and_not_loaded(self, tmp_path):
        for images in (noise(10, 8, 8, 3), np.asfortranarray(noise(10, 8, 8, 3))):
            np.savez(tmp_path / "a.npz", images=images, labels=np.arange(10))
            samples = read(tmp_path / "a.npz")[1]
            assert {type(image) for image, _, _ in samples} == {np.memmap}
            np.testing.assert_array_equal([image for image, _, _ in samples], images)

    def test_the_split_can_be_given(self, tmp_path):
        np.savez(tmp_path / "a.npz", images=noise(10, 8, 8), num_train=7)
        assert marks(read(tmp_path / "a.npz")[1]) == [False] * 7 + [True] * 3

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"pixels": noise(4, 8, 8)}, "must hold an array 'images', but holds pixels"),
            ({}, "must hold an array 'images', but holds nothing"),
            ({"images": np.zeros((4, 8, 8, 3))}, r"must be uint8.*not float64 of shape \(4, 8, 8"),
            ({"images": noise(4, 8)}, r"not uint8 of shape \(4, 8\)"),
            ({"images": noise(64, 64, 3)}, r"\(N, H, W, C\).*not uint8 of shape \(64, 64, 3\)"),
            ({"images": noise(4, 3, 64, 64)}, r"not uint8 of shape \(4, 3, 64, 64\)"),
            ({"images": noise(4, 8, 8, 2)}, "C one of 1, 3 and 4"),
            ({"images": noise(4, 8, 8), "labels": np.zeros(3, int)}, r"shape \(4,\), not int64"),
            ({"images": noise(4, 8, 8), "labels": np.zeros(4)}, "not float64"),
            ({"images": noise(4, 8, 8), "labels": ["a"] * 4}, "must be integers"),
            ({"images": noise(4, 8, 8), "labels": np.full(4, 2**40)}, "labels must be from -1"),
            ({"images": noise(4, 8, 8), "num_train": [1, 2]}, "num_train.*an integer"),
            ({"images": np.array([{}], object)}, "without pickle"),
            ({"images": noise(4, 8, 8), "labels": np.array([{}] * 4, object)}, "without pickle"),
        ],
    )
    def test_what_does_not_fit_is_described(self, tmp_path, arrays, message):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(InputError, match=message):
            read(tmp_path / "a.npz")

    def test_no_pickle_is_opened(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "sprung"),)

        (tmp_path / "a.npy").write_bytes(pickle.dumps(Trap()))
        np.savez(tmp_path / "a.npz", images=np.array([Trap()], object))
        for name in ("a.npy", "a.npz"):
            with pytest.raises(InputError, match="without pickle"):
                read(tmp_path / name)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed])
    def test_truncated_files_are_refused(self, tmp_path, save):
        path = tmp_path / ("a.npy" if save is np.save else "a.npz")
        save(path, noise(10, 8, 8))
        contents = path.read_bytes()
        for length in (0, 10, len(contents) // 2, len(contents) - 1):
            path.write_bytes(contents[:length])
            with pytest.raises(InputError, match="is not an array file"):
                read(path)

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_changed_bytes_are_noticed(self, tmp_path, save):
        path = tmp_path / "a.npz"
        save(path, images=noise(10, 8, 8))
        contents = bytearray(path.read_bytes())
        contents[len(contents) // 2] ^= 1
        path.write_bytes(contents)
        with pytest.raises(InputError, match="is damaged"):
            read(path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(InputError, match=r"there is no file .*none\.npz"):
            find_source(tmp_path / "none.npz", 16, None)


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        for index, name in enumerate(["rose/1.png", "rose/more/2.PNG", "iris/3.png", "4.png"]):
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 12, 3), 50 * index, "uint8")).save(path, "png")
        (tmp_path / "photos" / "notes.txt").write_text("no image")
        (tmp_path / "photos" / "folder.png").mkdir()
        return tmp_path / "photos"

    def test_the_first_folder_is_the_label(self, folder):
        class_names, samples = read(folder)
        assert class_names == ("iris", "rose")
        values = {int(image[0, 0, 0]): label for image, label, _ in samples}
        assert values == {0: 1, 50: 1, 100: 0, 150: -1}
        assert find_source(folder, 16, None).name == "photos"

    def test_damaged_files_are_named_and_counted(self, folder, capsys):
        (folder / "broken.jpg").write_bytes(b"no image")
        Image.fromarray(noise(32, 32, 3)).save(folder / "iris" / "half.png")
        half = (folder / "iris" / "half.png").read_bytes()[:2000]
        (folder / "iris" / "half.png").write_bytes(half)
        Image.fromarray(np.full((8, 8), 40000, "uint16")).save(folder / "deep.png")
        _, samples = read(folder)
        assert len(samples) == 4
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in lines[:3]] == [
            f"skipping {folder / name}" for name in ("broken.jpg", "deep.png", "iris/half.png")
        ]
        assert "more than 8 bits" in lines[1]
        assert lines[3] == "skipped 3 of 7 files"

    def test_two_readable_files_suffice_for_both_parts(self, folder):
        for path in (folder / "4.png", folder / "iris" / "3.png"):
            path.write_bytes(b"no image")
        assert marks(read(folder)[1]) == [True, False]

    def test_nothing_readable(self, folder):
        for path in folder.rglob("*.*"):
            if path.is_file():
                path.write_bytes(b"no image")
        with pytest.raises(InputError, match="photos holds no readable image"):
            read(folder)

    def test_hidden_files_are_not_read_and_links_are_followed(self, folder):
        for name in (".thumbnails/1.png", "rose/._1.png"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(folder / "4.png", folder / name)
        (folder.parent / "elsewhere").mkdir()
        shutil.copy(folder / "4.png", folder.parent / "elsewhere" / "5.png")
        (folder / "tulip").symlink_to(folder.parent / "elsewhere")
        (folder / "rose" / "again").symlink_to(folder)
        class_names, samples = read(folder)
        assert class_names == ("iris", "rose", "tulip")
        assert sorted(label for _, label, _ in samples) == [-1, 0, 1, 1, 2]

    def test_what_cannot_be_read_is_counted(self, folder, capsys):
        for name in ("1.HEIC", "iris/2.heic", "Makefile"):
            (folder / name).touch()
        assert len(read(folder)[1]) == 4
        others = "2 .heic, 1 without suffix, 1 .txt"
        assert sorted(capsys.readouterr().out.split(": ")[1].strip().split(", ")) == sorted(
            others.split(", ")
        )
        for image in ("rose/1.png", "rose/more/2.PNG", "iris/3.png", "4.png"):
            (folder / image).unlink()
        with pytest.raises(InputError, match=r"holds no images \(.*\), but 2 \.heic, "):
            read(folder)

    def test_a_file_that_holds_no_images_is_told_from_a_missing_one(self, tmp_path):
        (tmp_path / "photos.zip").touch()
        with pytest.raises(InputError, match=r"photos\.zip is neither an \.npz nor an \.npy file"):
            read(tmp_path / "photos.zip")

    def test_no_images(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(InputError, match=r"holds no images \(.*\.jpg"):
            read(tmp_path)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
    def test_all_kinds_of_colour_become_rgb(self, tmp_path, mode):
        flower = Image.fromarray(draw_flowers(1, 16)[0][0])
        suffix = ".tif" if mode in ("CMYK", "YCbCr") else ".png"
        # Compressed, since Pillow 12.3 cannot read the YCbCr that it writes without.
        options = {"compression": "tiff_lzw"} if suffix == ".tif" else {}
        flower.convert(mode).save(tmp_path / f"flower{suffix}", **options)
        ((image, _, _),) = read(tmp_path)[1]
        assert image.shape == (16, 16, 3)
        assert image.dtype == np.uint8

    def test_photographs_are_turned_upright(self, tmp_path):
        stored = np.zeros((8, 16, 3), "uint8")
        stored[:, :8] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # shown after a quarter turn to the right
        Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
        ((image, _, _),) = read(tmp_path)[1]
        assert image.shape == (16, 8, 3)
        assert image[:8].min() == 255
        assert image[8:].max() == 0

    def test_a_changed_file_changes_the_fingerprint(self, folder):
        before = find_source(folder, 16, None).fingerprint
        assert find_source(str(folder) + "/", 16, None).fingerprint == before
        os.utime(folder / "4.png", (1, 1))
        assert find_source(folder, 16, None).fingerprint != before


def test_drawn_flowers(monkeypatch):
    monkeypatch.setattr(sources, "NUM_DRAWN_FLOWERS", 200)
    class_names, samples = read("drawn_flowers")
    assert class_names == tuple(species.name for species in SPECIES)
    assert len(samples) == len({image.tobytes() for image, _, _ in samples}) == 200
    assert sum(marks(samples)) == 40
    assert np.bincount([label for _, label, _ in samples]).tolist() == [20] * 10
    # Species come in turn, and every fifth image would be of one of two.
    assert len({int(label) for _, label, is_validation in samples if is_validation}) > 5


@pytest.mark.parametrize("source", ["no/such/folder", "photos/", "/photos", "a:b", "two words"])
def test_names_that_mean_nothing(source):
    with pytest.raises(InputError, match="there is no folder or file"):
        find_source(source, 16, None)


def test_without_tfds_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(Unobtainable, match="pip install tensorflow tensorflow-datasets"):
        read("oxford_flowers102")


class TestTFDS:
    @pytest.fixture(scope="class")
    def tfds(self):
        return pytest.importorskip("tensorflow_datasets")

    @pytest.fixture(scope="class")
    def grey_digits(self, tfds, tmp_path_factory):
        """A prepared data set of two splits of 10 and 5 images, as MNIST, but small."""

        class GreyDigits(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(names=["zero", "one"]),
                }
                features = tfds.features.FeaturesDict(features)
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(10), "test": self._generate_examples(5)}

            def _generate_examples(self, count):
                for i in range(count):
                    yield i, {"image": np.full((8, 8, 1), 10 * i, "uint8"), "label": i % 2}

        class NoImages(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager):
                raise NotImplementedError

            def _generate_examples(self):
                raise NotImplementedError

        data_dir = tmp_path_factory.mktemp("tfds")
        GreyDigits(data_dir=data_dir).download_and_prepare()
        return data_dir

    def test_each_split_is_divided(self, grey_digits):
        class_names, samples = read("grey_digits", data_dir=grey_digits)
        assert class_names == ("zero", "one")
        assert sorted(marks(samples)) == [False] * (8 + 4) + [True] * (2 + 1)
        values = sorted(int(image[0, 0, 0]) for image, _, _ in samples)
        assert values == sorted([*range(0, 100, 10), *range(0, 50, 10)])
        assert all(label == int(image[0, 0, 0]) // 10 % 2 for image, label, _ in samples)

    def test_a_damaged_copy_is_named(self, grey_digits, tmp_path):
        shutil.copytree(grey_digits, tmp_path / "copy")
        (file,) = (tmp_path / "copy").rglob("*train.tfrecord*")
        contents = bytearray(file.read_bytes())
        contents[len(contents) // 2] ^= 255
        file.write_bytes(contents)
        with pytest.raises(InputError, match=r"copy of grey_digits in .* is damaged .*DataLossErr"):
            read("grey_digits", data_dir=tmp_path / "copy")

    def test_unknown_names_come_with_similar_ones(self, tfds, tmp_path):
        with pytest.raises(InputError, match=r"oxford_flower is neither.*similar.*flowers102"):
            read("oxford_flower", data_dir=tmp_path)

    @pytest.mark.parametrize("name", ["oxford_flowers102:9.9.9", "oxford_flowers102/other"])
    def test_unknown_versions_and_configurations(self, tfds, tmp_path, name):
        with pytest.raises(InputError, match=r"oxford_flowers102.*nor a data set of TFDS"):
            read(name, data_dir=tmp_path)

    def test_data_without_images_is_refused(self, grey_digits):
        with pytest.raises(InputError, match="no_images of TFDS has no feature 'image'"):
            read("no_images", data_dir=grey_digits)

    def test_without_network_the_remedy_is_told_at_once(self, tfds, tmp_path, monkeypatch):
        import requests

        def fail(url, timeout):
            raise requests.ConnectionError("no network")

        monkeypatch.setattr(requests, "head", fail)
        with pytest.raises(Unobtainable, match=r"no answer from www\.robots\.ox.*pass --data-dir"):
            read("oxford_flowers102", data_dir=tmp_path)

    def test_a_failing_download_is_told(self, tfds, tmp_path, monkeypatch):
        import requests

        def fail(self):
            raise OSError("no space\nand more")

        monkeypatch.setattr(requests, "head", lambda url, timeout: None)
        monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
        with pytest.raises(Unobtainable, match=r"download failed \(OSError: no space\): connect"):
            read("oxford_flowers102", data_dir=tmp_path)

    def test_the_gpu_stays_with_tensorflow_as_backend(self, grey_digits, monkeypatch):
        import tensorflow as tf

        hidden = []
        monkeypatch.setattr(tf.config, "set_visible_devices", lambda *device: hidden.append(device))
        find_source("grey_digits", 16, grey_digits).read()
        assert hidden == ([] if keras.backend.backend() == "tensorflow" else [([], "GPU")])

    @pytest.mark.slow
    @pytest.mark.skipif(not REAL_FLOWERS.exists(), reason="no copy of Oxford Flowers 102")
    def test_the_real_flowers(self, tfds, monkeypatch):
        samples = find_source("oxford_flowers102", 16, REAL_FLOWERS).read().samples
        image, _, _ = next(samples)
        assert image.dtype == np.uint8
        assert image.shape[2:] == (3,)
        assert min(image.shape[:2]) >= 64

        # All of them, without the time that decoding takes.
        as_dataset = tfds.core.DatasetBuilder.as_dataset
        undecoded = {"image": tfds.decode.SkipDecoding()}
        monkeypatch.setattr(
            tfds.core.DatasetBuilder,
            "as_dataset",
            lambda self, split: as_dataset(self, split=split, decoders=undecoded),
        )
        class_names, samples = read("oxford_flowers102", data_dir=REAL_FLOWERS)
        assert sum(marks(samples)) == 1638
        assert len(samples) == 6551 + 1638
        assert {int(label) for _, label, _ in samples} == {*range(102)}
        assert (len(class_names), class_names[0]) == (102, "pink primrose")
