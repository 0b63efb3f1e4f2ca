"""The examples end to end, on the tiniest settings, and the mathematics that they add."""

import dataclasses

import class_conditional
import classifier
import guidance
import keras
import numpy as np
import progressive
import pytest
import reverse_step
import swiss_roll
from keras import ops
from PIL import Image

from ddim_keras.config import NetworkConfig
from ddim_keras.presets import Preset
from ddim_keras.runs.folder import Run, load_model
from tests.helpers import TINY, make_run, run

SETTINGS = ("--steps", 2, "--samples", 2, "--classifier-epochs", 1)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder of its own to run in, with the tiny recipe for the examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_conditional, "FAST", Preset(model=TINY.model, training=TINY.training))
        patch.setattr(class_conditional, "WIDTHS", (8,))
        patch.setattr(classifier, "WIDTHS", (8, 8))
        place = tmp_path_factory.mktemp("place")
        patch.chdir(place)
        yield place


@pytest.fixture(scope="module")
def trained(flowers_file, place):
    """Arguments of a run of class_conditional.py that has ended."""
    arguments = ("--dataset", flowers_file, "--image-size", 16, "--epochs", 1)
    arguments += ("--cache-dir", place / "cache", "--run", place / "run", *SETTINGS)
    assert run(class_conditional, *arguments, "--output", place / "first.png") == 0
    return arguments


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


class TestReverseStep:
    def test_it_is_bayes_rule(self):
        """Ratios of densities: those of x_{t-1} times those of the forward step."""
        alpha_bar, beta, x_t = 0.35, 0.4, np.array([0.3, -0.5])
        step = reverse_step.reverse_step(reverse_step.DATA, alpha_bar, beta, x_t)
        earlier = reverse_step.noisy(reverse_step.DATA, alpha_bar / (1 - beta))
        points = np.array([[0.0, 0.0], [-0.9, -0.3], [0.4, 0.8]])
        errors = np.sum((x_t - np.sqrt(1 - beta) * points) ** 2, axis=1)
        expected = earlier.density(points) * np.exp(-errors / (2 * beta))
        density = step.density(points)
        np.testing.assert_allclose(density / density[0], expected / expected[0], rtol=1e-9)

    def test_small_steps_are_gaussian(self):
        small, large = (
            reverse_step.bits_from_gaussian(
                reverse_step.reverse_step(reverse_step.DATA, 0.35, beta, np.array([0.15, 0.1]))
            )
            for beta in (0.05, 0.6)
        )
        assert 0 <= small < 1e-4 < 0.5 < large

    def test_a_picture(self):
        assert run(reverse_step, "--output", "reverse_step.png") == 0
        assert np.any(np.ptp(pixels("reverse_step.png").astype(int), axis=-1) > 60)


class TestProgressive:
    @pytest.fixture(scope="class")
    def model(self, place, flowers_file):
        made = make_run(place / "progressive", num_classes=0)
        made.save_config(dataclasses.replace(made.read_config(), dataset=str(flowers_file)))
        return place / "progressive"

    def test_samples_share_what_is_left_of_an_image(self, model):
        loaded = load_model(Run(model).weights_to_show())
        rows = progressive.shared(loaded, steps=8, seed=0)
        assert len(rows) == len(progressive.LEVELS)
        spreads = [row[1:].std(axis=0).mean() for row in rows]
        assert spreads[-1] < spreads[0]  # less noise, fewer differences

    def test_between_two_images(self, model):
        loaded = load_model(Run(model).weights_to_show())
        shape = loaded.network.output_shape[1:]
        ends = np.zeros(shape, "uint8"), np.full(shape, 255, "uint8")
        *_, row = progressive.between(loaded, *ends, steps=8, seed=0)
        np.testing.assert_array_equal(row[[0, -1]], np.stack(ends) / 255)
        brightness = row[1:-1].mean(axis=(1, 2, 3))
        assert brightness[0] < brightness[-1]

    def test_more_bits_for_smaller_errors(self, model, place, capsys):
        options = ("--run", model, "--steps", 4, "--num-images", 4, "--cache-dir", place / "cache")
        assert run(progressive, "rates", *options, "--output", "rates.png") == 0
        table = [line.split() for line in capsys.readouterr().out.splitlines()]
        bits = [float(line[1]) for line in table if line and line[0].isdigit()]
        assert len(bits) == 4
        assert 0 <= bits[0] < bits[1] < bits[2] < bits[3]
        assert pixels("rates.png").std() > 5

    def test_images_that_are_missing(self, capsys):
        assert run(progressive, "between", "one.png") == (
            "error: between takes two image files, the other figures none"
        )


class TestSwissRoll:
    @pytest.mark.slow
    def test_a_picture(self, monkeypatch):
        network = {"image_size": 1, "channels": 2, "depths": (1,), "block": "adaptive"}
        monkeypatch.setattr(swiss_roll, "NETWORK", NetworkConfig(widths=(8,), **network))
        monkeypatch.setattr(swiss_roll, "DRAWN_POINTS", 50)
        settings = ("--points", 500, "--epochs", 1, "--steps", 2)
        pictures = ("--output", "roll.png", "--langevin", "langevin.png")
        assert run(swiss_roll, *settings, *pictures) == 0
        assert len(np.unique(pixels("langevin.png").reshape(-1, 3), axis=0)) > 10
        red, _, blue = pixels("roll.png").astype(int).reshape(-1, 3).T
        assert np.sum(blue > red + 60) > 50  # the forward process
        assert np.sum(red > blue + 60) > 50  # the reverse process

    def test_points_depend_on_the_seed(self):
        one, same, other = (swiss_roll.swiss_roll(5, seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)

    def test_points_leave_a_margin(self):
        points = swiss_roll.swiss_roll(10_000, seed=0)
        assert points.shape == (10_000, 1, 1, 2)
        assert points.min() > 0.1
        assert points.max() < 0.9

    def test_mistakes(self):
        assert run(swiss_roll, "--output", "roll.jpg") == (
            "error: --output must end in .png, not 'roll.jpg'"
        )
        assert "--langevin must end in .png" in run(swiss_roll, "--langevin", "roll.jpg")


@pytest.mark.slow
class TestClassConditional:
    def test_what_is_trained_is_found_again(self, trained, place, capsys):
        files = [place / "run" / name for name in ("last.weights.h5", "classifier.weights.h5")]
        before = [file.read_bytes() for file in files]
        assert run(class_conditional, *trained, "--output", "second.png") == 0
        assert [file.read_bytes() for file in files] == before
        np.testing.assert_array_equal(pixels("second.png"), pixels("first.png"))
        printed = capsys.readouterr().out
        assert "of the real validation images" in printed
        assert "recognised:" in printed

    def test_a_row_for_each_class_in_order(self, trained, monkeypatch):
        def generate(self, num_images, diffusion_steps, labels, guidance, **options):
            assert guidance == 1.5
            images = np.full((num_images, 16, 16, 3), (0.8, 0.0, 0.2))
            images[..., 1] = labels[:, None, None] / 10
            return images

        figures = []
        image_rows = class_conditional.image_rows
        monkeypatch.setattr("ddim_keras.model.DiffusionModel.generate", generate)
        monkeypatch.setattr(
            class_conditional, "image_rows", lambda *a: figures.append(a) or image_rows(*a)
        )
        monkeypatch.setattr(class_conditional, "IMAGES_AT_ONCE", 20)
        arguments = (*trained, "--samples", 5, "--columns", 4, "--guidance", 1.5)
        assert run(class_conditional, *arguments, "--output", "order.png") == 0
        rows, captions, _ = figures[0]
        assert rows.shape == (10, 4, 16, 16, 3)
        assert np.all(rows[..., 1] * 10 == np.arange(10).reshape(10, 1, 1, 1))
        assert [caption.split(", ")[0] for caption in captions] == [str(i) for i in range(10)]
        # In the picture too, from the top.
        picture = pixels("order.png").astype(int)
        heights = []
        for label in range(10):
            difference = np.abs(picture - (204, 25.5 * label, 51)).max(axis=-1)
            heights.append(np.argwhere(difference < 2)[:, 0].mean())
        assert np.all(np.diff(heights) > 20)

    def test_mistakes(self, trained, place, tmp_path):
        def error(*arguments):
            return run(class_conditional, *trained, *arguments)

        assert error("--epochs", 2) == (
            f"error: {place / 'run'} holds a run of other settings; choose another --run"
        )
        assert error("--guidance", "nan") == "error: --guidance must be a finite number, not nan"
        assert error("--output", "x.jpg") == "error: --output must end in .png, not 'x.jpg'"
        np.save(tmp_path / "unlabelled.npy", np.zeros((20, 16, 16, 3), "uint8"))
        assert error("--dataset", tmp_path / "unlabelled.npy") == (
            "error: unlabelled has no labels; choose another --dataset"
        )


class TestGuidance:
    @pytest.mark.slow
    def test_curves_and_samples(self, trained, place, capsys):
        arguments = ("--run", place / "run", "--cache-dir", place / "cache", *SETTINGS)
        strengths = ("--guidance", 2, "--classifier-guidance", 3)
        assert run(guidance, *arguments, *strengths, "--output", "curves.png") == 0
        assert pixels("curves.png").size
        assert pixels("curves_samples.png").size
        printed = capsys.readouterr().out
        assert "classifier-free guidance 2: 20 images, 2 steps" in printed
        assert "classifier guidance 3: 20 images, 2 steps" in printed
        assert printed.count("recognised:") == 2
        assert "KID, flowers classifier, 8" in printed

    def test_mistakes(self, tmp_path):
        assert run(guidance, "--run", tmp_path) == (
            f"error: {tmp_path} is not a run folder: it holds no config.json"
        )
        without_classes = make_run(tmp_path / "run", num_classes=0).folder
        assert run(guidance, "--run", without_classes) == (
            f"error: {without_classes} holds a model without classes; choose another --run"
        )
        arguments = ("--run", without_classes, "--guidance")
        message = "error: give at least one strength of guidance, a finite number"
        assert run(guidance, *arguments) == message
        assert run(guidance, *arguments, "inf") == message
        assert run(guidance, *arguments, 1, "--output", "x") == (
            "error: --output must end in .png, not 'x'"
        )


class TestClassifier:
    def test_gradient(self):
        x = ops.convert_to_tensor(np.linspace(-1, 2, 12, dtype="float32").reshape(3, 4))
        gradient = classifier.gradient(lambda x: ops.sum(x**3), x)
        np.testing.assert_allclose(
            ops.convert_to_numpy(gradient), 3 * ops.convert_to_numpy(x) ** 2, rtol=1e-5
        )

    def test_guidance_by_a_normal_density(self):
        """Dhariwal and Nichol 2021, algorithm 2, where the gradient is known."""

        class Density:
            def log_probability(self, noisy_images, noise_rates, labels):
                labels = ops.reshape(ops.convert_to_tensor(labels), (-1, 1, 1, 1))
                return -ops.sum((noisy_images - labels) ** 2) / 2

        noisy_images = keras.random.normal((2, 4, 4, 3), seed=0)
        noise_rates = ops.convert_to_tensor(np.array([0.6, 0.8], "float32").reshape(2, 1, 1, 1))
        signal_rates = ops.sqrt(1 - noise_rates**2)

        def denoise(noisy_images, noise_rates, signal_rates):
            return 0.1 * noisy_images, None

        labels = np.array([1.0, 2.0], "float32")
        steered = classifier.classifier_guided(denoise, Density(), labels, scale=3.0)
        pred_noises, pred_images = map(
            ops.convert_to_numpy, steered(noisy_images, noise_rates, signal_rates)
        )
        noisy_images, noise_rates, signal_rates = map(
            ops.convert_to_numpy, (noisy_images, noise_rates, signal_rates)
        )
        slopes = labels.reshape(2, 1, 1, 1) - noisy_images
        expected = 0.1 * noisy_images - 3.0 * noise_rates * slopes
        np.testing.assert_allclose(pred_noises, expected, atol=1e-5)
        np.testing.assert_allclose(
            signal_rates * pred_images + noise_rates * pred_noises, noisy_images, atol=1e-5
        )
