"""What the doctor measures, against closed forms, and the sentences that follow."""

import dataclasses

import numpy as np
import pytest
from keras import ops

from ddim_keras import doctor
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.evaluation import examination
from ddim_keras.evaluation.examination import Examination, findings, prediction_errors
from ddim_keras.metrics import encoders
from ddim_keras.metrics.memorisation import Nearest
from ddim_keras.runs.folder import load_model
from tests.helpers import EPOCH, make_run, run

RATES = np.array([0.3, 0.7, 0.95])
PHOTOGRAPHS = {"red": 0.5, "green": 0.4, "blue": 0.3, "contrast": 0.2, "detail": 0.08}
SPREAD = np.linspace(0.1, 0.3, 200)
GOOD = Examination(
    noise_rates=RATES,
    errors={
        "training images": 0.3 * RATES**2,
        "validation images": 0.31 * RATES**2,
        "validation images, included model": 0.3 * RATES**2,
    },
    pixels=(PHOTOGRAPHS, PHOTOGRAPHS),
    nearest=Nearest(generated=SPREAD, validation=SPREAD),
    recall=(0.6, 0.75),
)


def test_the_best_linear_prediction_of_white_images_has_the_error_of_nothing(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3)).astype("uint8")
    model = load_model(make_run(tmp_path / "run", num_classes=0).last_weights)
    model.adapt(images)

    def wiener(noisy_images, noise_rates, signal_rates):
        return None, signal_rates * noisy_images

    model.compiled_denoise = wiener
    errors = prediction_errors(model, images, np.full(200, -1))
    times = ops.convert_to_tensor(examination.TIMES, "float32")
    noise_rates = ops.convert_to_numpy(model.diffusion_schedule(times)[0])
    np.testing.assert_allclose(errors, noise_rates**2, rtol=0.02)


def test_a_good_model_is_said_to_be_good():
    sentences = list(findings(GOOD))
    assert len(sentences) == 7
    for expected in (
        "is 31% of the error without a network at the best noise level",
        "1.03 times that on training images. No sign of memorising.",
        "1.03 times that of the included model",
        "100% of the contrast of photographs, and 100% of their detail. That is normal.",
        "hardly visible",
        "No sign of copies",
        "60% resemble a generated image; 75% resemble one of as many training images. "
        "The variety is good.",
    ):
        assert any(expected in sentence for sentence in sentences), expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"errors": {"validation images": 0.95 * RATES**2}}, "it has learnt nothing yet"),
        ({"errors": GOOD.errors | {"training images": 0.2 * RATES**2}}, "It starts to memorise"),
        (
            {"errors": GOOD.errors | {"validation images, included model": 0.2 * RATES**2}},
            "1.55 times that of the included model for these images. A longer training",
        ),
        ({"pixels": (PHOTOGRAPHS | {"contrast": 0.15}, PHOTOGRAPHS)}, "They are pale"),
        ({"pixels": (PHOTOGRAPHS | {"detail": 0.04}, PHOTOGRAPHS)}, "They are blurred"),
        ({"pixels": (PHOTOGRAPHS | {"detail": 0.12}, PHOTOGRAPHS)}, "They are grainy"),
        ({"pixels": (PHOTOGRAPHS | {"blue": 0.2}, PHOTOGRAPHS)}, "-0.100 in blue. That is visible"),
        ({"nearest": Nearest(0.1 * SPREAD, SPREAD)}, "100.0% of 200 generated images are nearer"),
        ({"recall": (0.2, 0.75)}, "Much of the variety is missing"),
    ],
)
def test_a_fault_is_named(change, expected):
    sentences = list(findings(dataclasses.replace(GOOD, **change)))
    assert any(expected in sentence for sentence in sentences)


def test_of_a_student_only_the_images_are_examined():
    assert len(list(findings(dataclasses.replace(GOOD, errors={})))) == 4


def test_the_command_writes_what_it_found(tmp_path, capsys, monkeypatch, encoder):
    monkeypatch.setattr(encoders, "choose_encoder", lambda weights: encoder)
    monkeypatch.setattr(doctor, "__name__", "doctor")
    images, labels = draw_flowers(100, 16)
    np.savez(tmp_path / "flowers.npz", images=images, labels=labels % 3)
    made = make_run(tmp_path / "mine", num_classes=3)
    made.save_config(dataclasses.replace(made.read_config(), dataset=str(tmp_path / "flowers.npz")))
    made.write_history([EPOCH])
    options = ("--num-images", 16, "--steps", 2, "--cache-dir", tmp_path / "cache")
    assert run(doctor, made.folder, *options) == 0
    printed = capsys.readouterr().out
    report = (made.folder / "doctor.md").read_text()
    for sentence in ("KID was not measured", "has learnt nothing", "the largest difference of"):
        assert sentence.lower() in report.lower()
        assert sentence.lower() in printed.lower()
    assert (made.folder / "doctor.png").stat().st_size > 10_000


def test_the_command_tells_what_the_data_lack_before_it_generates(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "__name__", "doctor")
    np.savez(tmp_path / "few.npz", images=draw_flowers(10, 16)[0])
    made = make_run(tmp_path / "mine", num_classes=0)
    changes = {"dataset": str(tmp_path / "few.npz"), "num_images": 7}
    made.save_config(dataclasses.replace(made.read_config(), **changes))
    made.write_history([EPOCH])
    error = run(doctor, made.folder, "--cache-dir", tmp_path / "cache")
    assert "few has 8 training and 2 validation images; to compare" in error
    assert "few now has 8 training images, and had 7 when" in capsys.readouterr().out
