"""The DCGAN of examples/gan.py: its losses, its training, and what a run folder keeps."""

import json

import dcgan
import gan
import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from ddim_keras.runs.weights import load_weights, save_weights
from tests.helpers import make_run, run

SIZE = 16


@pytest.fixture(scope="module")
def place(tmp_path_factory, encoder, flowers_file):
    """A folder to run in, with a tiny GAN that was trained."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "WIDTH": 4,
            "BLOCK_STEPS": 1,
            "MEASUREMENTS": 2,
            "GRID_IMAGES": 8,
            "EVOLUTION_IMAGES": 4,
        }.items():
            patch.setattr(gan, name, value)
        patch.setattr("ddim_keras.metrics.encoders.choose_encoder", lambda weights: encoder)
        place = tmp_path_factory.mktemp("gan")
        patch.chdir(place)
        assert command("--run", "run", "--dataset", flowers_file) == 0
        yield place
    keras.config.set_dtype_policy("float32")


def command(*arguments):
    settings = ("--image-size", SIZE, "--seconds", 1, "--num-images", 8, "--cache-dir", "cache")
    return run(gan, *settings, *arguments)


def tiny_gan(seed=0, learning_rate=2e-4):
    model = dcgan.DCGAN(SIZE, 3, 4, seed)
    model.compile(learning_rate)
    model.run_eagerly = True
    return model


def some_images(count=48):
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype="uint8")


class TestDCGAN:
    def test_shapes_and_ranges(self):
        model = tiny_gan()
        images = model.generate(5, seed=1)
        assert images.shape == (5, SIZE, SIZE, 3)
        assert 0 <= images.min() < images.max() <= 1
        np.testing.assert_allclose(images[:2], model.generate(2, seed=1), atol=1e-5)
        assert model.discriminator.output_shape == (None, 1)

    def test_losses_of_a_discriminator_that_guesses(self):
        model = tiny_gan()
        for weight in model.discriminator.layers[-2].weights:
            weight.assign(0 * weight.value)
        noises = dcgan.draw_noises(4, np.random.default_rng(0))
        total, losses = model.compute_losses(some_images(4), training=True, labels=noises)
        values = (losses["generator_loss"], losses["discriminator_loss"], total)
        values = [ops.convert_to_numpy(value) / np.log(2) for value in values]
        np.testing.assert_allclose(values, (1, 2, 3), rtol=1e-5)

    def test_each_loss_moves_its_own_network(self, monkeypatch):
        """Of one loss alone, the other network's weights do not move."""

        def moved(kept):
            model = tiny_gan(learning_rate=0.01)
            compute_losses = model.compute_losses

            def one_loss(*arguments, **options):
                _, losses = compute_losses(*arguments, **options)
                # Added with no weight, so that every weight has a gradient.
                others = sum(losses.values()) - losses[kept]
                return losses[kept] + 0.0 * others, losses

            model.compute_losses = one_loss
            networks = (model.generator, model.discriminator)
            before = [[w.numpy() for w in network.trainable_weights] for network in networks]
            noises = dcgan.draw_noises(8, np.random.default_rng(0))
            model.train_on_batch(some_images(8), noises)
            return [
                any(
                    not np.array_equal(old, ops.convert_to_numpy(new))
                    for old, new in zip(olds, network.trainable_weights, strict=True)
                )
                for olds, network in zip(before, networks, strict=True)
            ]

        assert moved("generator_loss") == [True, False]
        assert moved("discriminator_loss") == [False, True]

    def test_continued_from_a_file_as_if_never_interrupted(self, tmp_path):
        images = some_images()
        whole = tiny_gan()
        gan.train_steps(whole, images, 0, 5, batch_size=16, seed=3)
        first, second = tiny_gan(), tiny_gan(seed=9)
        gan.train_steps(first, images, 0, 2, batch_size=16, seed=3)
        save_weights(first, tmp_path / "gan.weights.h5")
        load_weights(second, tmp_path / "gan.weights.h5")
        gan.train_steps(second, images, 2, 3, batch_size=16, seed=3)
        for expected, weight in zip(whole.weights, second.weights, strict=True):
            np.testing.assert_allclose(
                ops.convert_to_numpy(weight), ops.convert_to_numpy(expected), atol=1e-6
            )


class TestCommand:
    def test_a_training_leaves_a_record(self, place):
        record = json.loads((place / "run" / "gan.json").read_text())
        assert [row["seconds"] for row in record["history"]][-1] >= 1
        last = record["history"][-1]
        assert np.isfinite(last["kid"])
        assert last["images"] == 16 * last["step"]
        weights = list((place / "run").glob("*.weights.h5"))
        assert weights == [place / "run" / f"step_{last['step']:06d}.weights.h5"]
        for picture in ("curves.png", "evolution.png", "samples/01.png"):
            assert Image.open(place / "run" / picture).size

    def test_continues_and_ends(self, place, flowers_file):
        file = place / "run" / "gan.json"
        record = json.loads(file.read_text())
        last = record["history"][-1]
        assert command("--run", "run", "--dataset", flowers_file) == 0
        assert json.loads(file.read_text()) == record  # its time is used
        record["history"][-1]["seconds"] = 0.9
        file.write_text(json.dumps(record))
        assert command("--run", "run", "--dataset", flowers_file) == 0
        history = json.loads(file.read_text())["history"]
        assert len(history) == len(record["history"]) + 1
        assert history[-1]["step"] > last["step"]

    def test_what_two_trainings_have_in_common(self, place, capsys):
        make_run(place / "diffusion", num_classes=0)
        assert command("--run", "run", "--compare", "run") == 0
        assert "correlation of images: 1.000 from equal noises" in capsys.readouterr().out
        assert command("--run", "run", "--compare", "diffusion") == 0

    def test_correlations(self):
        random = np.random.default_rng(0)
        images, noises = random.random((2, 50, 8, 8, 3))
        same, others = gan.correlations(images, images + noises)
        assert same == pytest.approx(np.sqrt(0.5), abs=0.02)
        assert abs(others) < 0.05

    def test_mistakes(self, place, flowers_file):
        assert command("--run", "run", "--dataset", flowers_file, "--seed", 5) == (
            "error: run holds a run of other settings; choose another --run"
        )
        assert command("--image-size", 48) == "error: --image-size must be a power of 2, not 48"
        assert command("--leave-out", 1) == (
            "error: --learning-rate must be above 0, and --leave-out at least 0 and below 1"
        )
        (place / "other").mkdir()
        (place / "other" / "thesis.txt").write_text("mine")
        assert (
            command("--run", "other") == "error: other holds something else; choose another --run"
        )
        (place / "broken").mkdir()
        (place / "broken" / "gan.json").write_text("{}")
        assert command("--run", "broken").startswith(
            "error: broken/gan.json is not the record of a"
        )
