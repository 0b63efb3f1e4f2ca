import dataclasses
import math
import re

import numpy as np
import pytest

from ddim_keras import doctor
from ddim_keras.config import ModelConfig, TrainingConfig
from ddim_keras.metrics.memorisation import Nearest, nearest_distances
from ddim_keras.runs.configuration import RunConfig
from tests.helpers import EPOCH, make_run, run

GOOD = {**EPOCH, "kid": 0.1, "kid_standard_error": 0.01}


def config(**model):
    return RunConfig(preset="lab", model=ModelConfig(**model), training=TrainingConfig())


def rows(*changes):
    return [
        {**GOOD, "epoch": epoch, "images": 32_704 * epoch, **change}
        for epoch, change in enumerate(changes, start=1)
    ]


def test_a_short_training_of_trained_weights_is_no_fault():
    started = dataclasses.replace(config(), start_from="flowers")
    assert "Train longer." in doctor.diagnose(config(), rows({"images": 3200}, {"images": 6400}))[0]
    assert (
        "Nothing stands out"
        in doctor.diagnose(started, rows({"images": 3200}, {"images": 6400}))[0]
    )


@pytest.mark.parametrize(
    ("model", "history", "sentence"),
    [
        ({}, [], "No epoch has ended yet"),
        ({}, rows({"images": 3200}), "The training has seen 3,200 images"),
        ({}, rows({"noise_loss": 0.95, "val_noise_loss": 0.95}), "has learnt little"),
        ({}, rows({}, {}, {"noise_loss": 0.3, "val_noise_loss": 0.3}), "learning rate is too high"),
        ({"ema_warmup": False}, rows({}), "initial weights by 60%"),
        ({}, rows({"val_noise_loss": 0.15}), "50% higher than in training"),
        ({}, rows({"kid": 0.2}, {"kid": 0.1}), "KID was still falling at the end, to 0.100"),
        ({}, rows({"kid": 0.1}, {"kid": 0.2}), "KID rose from 0.100 (epoch 1) to 0.200"),
        (
            {},  # in one batch of validation images, whose error is unknown
            rows({"kid": 0.1}, {"kid": 0.2, "kid_standard_error": math.nan}),
            "KID rose from 0.100 (epoch 1) to 0.200",
        ),
        ({"schedule": "linear"}, rows({}), "50 steps or more"),
        ({}, rows({}, {}), "Nothing stands out"),
    ],
)
def test_a_fault_is_named(model, history, sentence):
    (found, *others) = doctor.diagnose(config(**model), history)
    assert sentence in found
    assert not others


def test_the_command_reads_a_run(tmp_path, capsys, monkeypatch):
    made = make_run(tmp_path / "mine", num_classes=0)
    made.write_history(rows({"images": 3200}))
    monkeypatch.setattr(doctor, "__name__", "doctor")
    assert run(doctor, made.folder, "--quick") == 0
    assert "has seen 3,200 images" in capsys.readouterr().out
    assert run(doctor, "flowers", "--quick") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.search(r"preset fast, [1-9]\d* epochs$", first)
    assert "an exported model" in second
    assert not list(made.folder.glob("doctor.*"))
    assert "there is no run nowhere" in run(doctor, "nowhere")


def test_copies_are_nearer_than_new_images():
    random = np.random.default_rng(0)
    known, new, copied = (random.normal(size=(200, 32)) for _ in range(3))
    validation = nearest_distances(new, known)
    assert Nearest(nearest_distances(copied, known), validation).share_of_copies < 0.05
    copies = known[:100] + 0.01 * random.normal(size=(100, 32))
    assert Nearest(nearest_distances(copies, known), validation).share_of_copies == 1.0
