"""Images sent and received by examples/codec.py, and the coding of choices beneath it."""

import contextlib
import dataclasses
import json
import math

import channel_coding as coding
import codec
import numpy as np
import pytest
from PIL import Image

from benchmarks.quality import codecs
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.runs.folder import PRETRAINED, Run, load_model
from ddim_keras.runs.manifest import sha256
from tests.helpers import SIZE, make_run, run


@pytest.fixture(scope="module")
def place(tmp_path_factory, flowers_file):
    """A folder with a model, its table and a photograph, and few levels and candidates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "LEVELS", 8)
        patch.setattr(coding, "CANDIDATES", 64)
        patch.setattr(coding, "AT_ONCE", 32)
        patch.setattr(coding, "CHUNK_BITS", 20)  # the model knows nothing: there is much to send
        place = tmp_path_factory.mktemp("codec")
        made = make_run(place / "run", num_classes=0)
        made.save_config(dataclasses.replace(made.read_config(), dataset=str(flowers_file)))
        Image.fromarray(draw_flowers(1, SIZE, seed=3)[0][0]).save(place / "photo.png")
        patch.chdir(place)
        assert command("table", "--cache-dir", place / "cache") == 0
        assert command("send", "photo.png", "photo.bits") == 0
        yield place


def command(*arguments):
    return run(codec, *arguments, "--run", "run", "--table", "codec.json")


def pixels(path):
    return np.asarray(Image.open(path)).astype("float64")


class TestCodec:
    def test_an_image_arrives(self, place, capsys):
        assert command("receive", "photo.bits", "whole.png") == 0
        assert "8 of 8 levels" in capsys.readouterr().out
        whole, photo = pixels("whole.png"), pixels("photo.png")
        assert whole.shape == photo.shape
        assert np.corrcoef(whole.ravel(), photo.ravel())[0, 1] > 0.9

    def test_the_receiver_takes_the_way_of_the_sender(self, place):
        model = load_model(Run(place / "run").weights_to_show())
        table = codec.read_table(place / "codec.json", weights_digest(place / "run"))
        image = pixels("photo.png").astype("uint8")
        images = []

        def spied(model, rates, noises_of, follow=codec.follow):
            images.append(follow(model, rates, noises_of))
            return images[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codec, "follow", spied)
            data, bits, shift = codec.send(model, image, table)
            codec.receive(model, codec.decode(data, table), table, steps=1)
        np.testing.assert_array_equal(*images)
        assert data == (place / "photo.bits").read_bytes()
        assert bits > 100
        assert 0.1 < shift < 1

    def test_the_start_of_a_file_is_a_coarser_image(self, place, capsys):
        data = (place / "photo.bits").read_bytes()
        (place / "start.bits").write_bytes(data[: len(data) // 2])
        assert command("receive", "start.bits", "start.png", "--steps", 2) == 0
        assert "of 8 levels" in capsys.readouterr().out
        assert command("receive", "photo.bits", "whole.png") == 0
        photo = pixels("photo.png")
        errors = [np.mean((pixels(name) - photo) ** 2) for name in ("start.png", "whole.png")]
        assert errors[0] > errors[1]

    def test_mistakes(self, place):
        data = (place / "photo.bits").read_bytes()
        (place / "empty.bits").write_bytes(data[:5])
        (place / "other.bits").write_bytes(data[:1] + b"1234" + data[5:])
        for source, message in {
            "empty.bits": "empty.bits was truncated within its first level",
            "other.bits": "the file was sent with another model or table; receive it with those",
            "photo.png": "the file was not written by codec.py send",
        }.items():
            assert command("receive", source, "new.png") == f"error: {message}"
        assert not (place / "new.png").exists()
        assert command("send", "photo.png") == (
            "error: give a file to read, and one to write that ends in .bits"
        )
        assert "there is no image file none.png" in command("send", "none.png", "none.bits")
        assert "none.bits: No such file" in command("receive", "none.bits", "none.png")
        (place / "broken.json").write_text('{"model": 1}')
        broken = run(codec, "send", "a.png", "a.bits", "--table", "broken.json")
        assert broken.startswith("error: the table broken.json cannot be used: ")
        assert "it is of another model" in run(
            codec, "send", "a.png", "a.bits", "--table", "codec.json"
        )

    def test_the_provided_table_is_of_the_provided_model(self):
        table = codec.read_table(codec.TABLE, weights_digest(PRETRAINED))
        assert len(table.signal_rates) == 50


def weights_digest(folder):
    return sha256(Run(folder).weights_to_show())


class TestChannelCoding:
    def test_candidates_are_drawn_alone_or_together(self):
        together = coding.candidates(3, 1, size=37, first=10, count=5)
        for index, candidate in enumerate(together):
            alone = coding.candidates(3, 1, size=37, first=10 + index)
            np.testing.assert_array_equal(alone[0], candidate)

    def test_candidates_are_the_same_everywhere(self):
        expected = [-1.0025971, 1.5650594, 0.9507711, -0.3539946]
        np.testing.assert_allclose(coding.candidates(2, 5, size=4, first=7)[0], expected, rtol=1e-6)

    def test_candidates_are_normal(self):
        values = coding.candidates(0, 0, size=64, first=0, count=1000).ravel()
        for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
            assert abs(np.mean(values**power) - moment) < 0.1

    def test_every_value_belongs_to_one_half(self):
        halves = coding.halves_of_chunks(step=1, size=101, chunks=7)
        assert len(halves) == 14
        np.testing.assert_array_equal(np.sort(np.concatenate(halves)), np.arange(101))

    def test_chosen_values_are_distributed_as_wanted(self, monkeypatch):
        monkeypatch.setattr(coding, "CANDIDATES", 256)
        random = np.random.default_rng(0)
        means = np.zeros(32, "float32")
        means[:2] = math.sqrt(4 * math.log(2))  # 4 bits
        assert coding.divergence(means) == pytest.approx(4)
        numbers = [coding.choose_numbers(step, means, 1, random) for step in range(1000)]
        values = np.stack(
            [coding.chosen_values(step, 32, number) for step, number in enumerate(numbers)]
        )
        np.testing.assert_allclose(values.mean(axis=0), means, atol=0.15)
        np.testing.assert_allclose(values.std(axis=0), 1, atol=0.1)
        writer = coding.Writer()
        for number in numbers:
            writer.write_number(number[0])
        assert 4 < 8 * len(writer.to_bytes()) / len(numbers) < 1.75 * 4

    def test_what_is_written_is_read(self):
        random = np.random.default_rng(0)
        weights = [5, 1, 2]
        symbols = random.integers(0, 3, 300).tolist()
        numbers = (2 ** random.uniform(0, 20, 300)).astype(int).tolist()
        writer = coding.Writer()
        for symbol, number in zip(symbols, numbers, strict=True):
            writer.write(weights, symbol)
            writer.write_number(number)
        data = writer.to_bytes()
        reader = coding.Reader(data + b"more")
        for symbol, number in zip(symbols, numbers, strict=True):
            assert (reader.read(weights), reader.read_number()) == (symbol, number)
        # Of a part of the bytes the symbols that it decides, and no others.
        reader, read = coding.Reader(data[: len(data) // 2]), []
        with contextlib.suppress(EOFError):
            while True:
                read.append((reader.read(weights), reader.read_number()))
        assert read == list(zip(symbols, numbers, strict=True))[: len(read)]
        assert 100 < len(read) < 200

    def test_bytes_are_as_few_as_the_entropy_says(self):
        writer, weights = coding.Writer(), [7, 1]
        symbols = [0] * 700 + [1] * 100
        for symbol in symbols:
            writer.write(weights, symbol)
        entropy = 700 * math.log2(8 / 7) + 100 * 3
        assert entropy / 8 <= len(writer.to_bytes()) <= entropy / 8 + 2


class TestComparison:
    def test_table_and_figures(self, place):
        model = load_model(Run(place / "run").weights_to_show())
        table = codec.Table(**json.loads((place / "codec.json").read_text()))
        image = pixels("photo.png").astype("uint8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codecs, "SHARES", codecs.SHOWN_SHARES)
            patch.setattr(codecs, "QUALITIES", (5, 50))
            patch.setattr(codecs, "OTHERS", {"JPEG": {}, "WebP": {}})
            result = codecs.measured(model, image, table)
            lines = codecs.comparison([result], lambda files: 0.5, "features").splitlines()
            assert len(lines) == 2 + 3 * (1 + len(codecs.OTHERS))
            assert lines[2].startswith(f"| codec.py, 100% of a file | {result.ours[0].size} |")
            assert codecs.curves_figure([result], lambda files: 0.5, "features")
            assert codecs.picture([image], [result])

    def test_the_best_file_that_fits(self):
        image = np.zeros((2, 2, 3), "uint8")
        files = [codecs.File(size, image, psnr) for size, psnr in ((30, 9), (20, 11), (10, 8))]
        assert codecs.best_within(files, 25).psnr == 11
        assert codecs.best_within(files, 5).size == 10
        assert codecs.size_for(files, 8.5) == 20
        assert np.isnan(codecs.size_for(files, 12))
