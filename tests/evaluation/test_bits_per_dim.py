"""evaluate.py --metrics bits_per_dim, on tiny models."""

import csv
import dataclasses

import numpy as np
import pytest

import evaluate
from ddim_keras.config import ModelConfig, TrainingConfig
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.evaluation import bits_per_dim
from ddim_keras.likelihood import new_model
from ddim_keras.runs.weights import save_weights
from tests.helpers import make_run, run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    images, labels = draw_flowers(300, 16)
    np.savez(place / "flowers.npz", images=images, labels=labels)
    return place


def evaluated(finished, place):
    config = dataclasses.replace(finished.read_config(), dataset=str(place / "flowers.npz"))
    finished.save_config(config)
    options = ("--run", finished.folder, "--cache-dir", place / "cache", "--batch-size", 12)
    return run(evaluate, *options, "--metrics", "bits_per_dim", "--likelihood-images", 12)


def test_a_model_whose_noise_does_not_end_near_zero(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bits_per_dim, "PUBLISHED_STEPS", 6)
    finished = make_run(tmp_path / "run", num_classes=3)
    assert evaluated(finished, place) == 0
    text = capsys.readouterr().out
    assert "bits per dimension of 12 images" in text
    assert "beta, in step 1 as well" in text
    assert "no value of the probability flow: bits per dimension by the flow need" in text
    assert "L_0 dominates, since the noise of this model ends at a rate of" in text
    with open(finished.folder / "bits_per_dim.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["term"] for row in rows] == [f"L_{term}" for term in range(7)]
    assert set(rows[0]) == {"term", "noise_rate", "small", "large", "beta"}
    assert (finished.folder / "bits_per_dim.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_model_with_learned_variances(place, tmp_path, capsys):
    finished = make_run(tmp_path / "run", num_classes=0)
    network = finished.read_config().model.network
    model = new_model(
        ModelConfig(network=network, schedule="linear", discrete_steps=100, variance="learned")
    )
    config = dataclasses.replace(
        finished.read_config(), model=model.config, training=TrainingConfig(loss="hybrid")
    )
    model.pixel_means.assign([0.5, 0.4, 0.3])
    model.pixel_variances.assign([0.04, 0.04, 0.04])
    finished.save_config(config)
    save_weights(model, finished.last_weights)
    assert evaluated(finished, place) == 0
    text = capsys.readouterr().out
    assert "bound, 100 steps, learned variances:" in text
    assert "  probability flow: " in text
    assert "L_0 dominates" not in text
