"""The assessment, of photographs in the place of generated images, and of the command."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

import evaluate
from ddim_keras.data.cache import Dataset
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.evaluation import assessment
from tests.helpers import make_run, run

NAMES = tuple(f"flower {number}" for number in range(10))


@pytest.fixture(scope="module")
def flowers():
    images, labels = draw_flowers(900, 16)
    # They are drawn one class after the other: too even for the error of the KID.
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    return Dataset("drawn", images[:400], labels[:400], images[400:600], labels[400:600], NAMES), (
        images[600:],
        labels[600:],
    )


def test_of_fresh_photographs_all_is_as_of_photographs(flowers, encoder):
    dataset, (images, labels) = flowers
    found = assessment.measure(images / 255, labels, dataset, encoder)
    kid, floor = found.kid
    assert abs(kid.value) < 3 * kid.standard_error
    assert abs(floor.value) < 3 * floor.standard_error
    for generated, photographs in (found.precision, found.recall):
        assert abs(generated - photographs) < 0.1
    assert found.nearest.share_of_copies < 0.05
    for name, value in found.pixels[0].items():
        assert value == pytest.approx(found.pixels[1][name], abs=0.03), name
    generated, validation = found.recognised
    assert abs(generated.mean() - validation.mean()) < 0.1
    assert generated.mean() > 0.3  # 0.1 by chance


def test_copies_one_class_and_wrong_labels_are_seen(flowers, encoder):
    dataset, (images, labels) = flowers
    copies = assessment.measure(
        dataset.train_images[:100] / 255, dataset.train_labels[:100], dataset, encoder
    )
    assert copies.nearest.share_of_copies > 0.9
    of_one_class = images[labels == 3]
    alike = assessment.measure(of_one_class / 255, np.full(len(of_one_class), 3), dataset, encoder)
    assert alike.recall[0] < 0.5 * alike.recall[1]
    assert alike.kid[0].value > 5 * alike.kid[0].standard_error
    wrong = assessment.measure(images / 255, (labels + 1) % 10, dataset, encoder)
    assert wrong.recognised[0].mean() < 0.2


def test_labels_are_as_frequent_as_in_validation(flowers):
    dataset, _ = flowers
    labels = assessment.labels_like(dataset, 200, 10)
    np.testing.assert_array_equal(np.sort(labels), np.sort(dataset.validation_labels))
    assert list(assessment.labels_like(dataset, 3, 0)) == [-1, -1, -1]
    assert len(assessment.labels_like(dataset, 500, 10)) == 500


@pytest.mark.parametrize("num_classes", [0, 10])
def test_the_page(num_classes, tmp_path, encoder, monkeypatch, capsys):
    monkeypatch.setattr(assessment, "choose_encoder", lambda weights: encoder)
    images, labels = draw_flowers(200, 16)
    np.savez(tmp_path / "flowers.npz", images=images, labels=labels)
    made = make_run(tmp_path / "run", num_classes=num_classes)
    made.save_config(dataclasses.replace(made.read_config(), dataset=str(tmp_path / "flowers.npz")))

    def assess(*options):
        places = ("--run", made.folder, "--cache-dir", tmp_path / "cache")
        return run(evaluate, *places, "--num-images", 128, "--assess", *options)

    assert assess("--steps", 1, 2) == (
        "error: --assess takes one setting, not 2; give one number of --steps, and one sampler"
    )
    assert assess("--steps", 2) == 0
    printed = capsys.readouterr().out
    page = (made.folder / "assessment.md").read_text()
    for heading in ("Distance and variety", "Colours, contrast and detail", "Copies"):
        assert f"## {heading}\n" in page
        assert f"## {heading}\n" in printed
    assert ("## Classes\n" in page) == (num_classes > 0)
    assert "128 images, ddim" in page
    for name in ("samples", "nearest"):
        assert f"(assessment_{name}.png)" in page
        assert np.asarray(Image.open(made.folder / f"assessment_{name}.png")).std() > 10
