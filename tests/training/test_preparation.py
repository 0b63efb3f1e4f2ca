"""What a training decides before its first step: what its data must be, how its KID is measured."""

import dataclasses

import numpy as np
import pytest

from ddim_keras.config import GUIDANCE, InputError
from ddim_keras.data.batches import random_images
from ddim_keras.data.cache import Dataset
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.metrics.kid import KernelInceptionDistance
from ddim_keras.runs.configuration import KIDProtocol, RunConfig
from ddim_keras.training import preparation
from ddim_keras.training.preparation import (
    complete_config,
    describe_choice_of_preset,
    describe_new_length,
    prepare_kid,
    refuse_early,
    with_protocol,
)
from tests.helpers import TINY


@pytest.fixture(scope="module")
def kid(encoder):
    images = np.random.default_rng(0).integers(0, 255, (70, 16, 16, 3), dtype="uint8")
    return KernelInceptionDistance(encoder, images)


def config(num_classes, protocol=None):
    network = dataclasses.replace(TINY.model.network, num_classes=num_classes)
    model = dataclasses.replace(TINY.model, network=network)
    return RunConfig("tiny", model, TINY.training, protocol=protocol)


def test_a_gpu_that_the_backend_cannot_use_is_mentioned(tmp_path, monkeypatch):
    flowers = dataclasses.replace(config(0), num_images=6551, epochs=50)
    monkeypatch.setenv("PATH", str(tmp_path))
    first, second = describe_choice_of_preset(flowers).splitlines()
    assert first.startswith("no GPU: training the preset fast, about 1 h ")
    assert second.endswith("ask for it with: --preset lab")

    program = tmp_path / "nvidia-smi"
    program.touch(mode=0o755)
    first, _ = describe_choice_of_preset(flowers).splitlines()
    assert "cannot use this machine's GPU, see docs/gpu.md: training the preset fast" in first


def test_averages_on_several_hosts_are_refused_before_the_training(monkeypatch):
    recipe = dataclasses.replace(TINY.training, averages=(0.1,))
    several = dataclasses.replace(config(0), training=recipe, num_images=80)
    refuse_early(several)
    monkeypatch.setattr(preparation, "num_processes", lambda: 2)
    with pytest.raises(InputError, match="one host only"):
        refuse_early(several)


def test_a_cosine_of_another_length_is_mentioned():
    longer = dataclasses.replace(config(0), epochs=100)  # tiny decays along a cosine
    assert "100 epochs instead of 50" in describe_new_length(longer, 50)
    assert describe_new_length(longer, 100) is None
    constant = dataclasses.replace(longer.training, cosine_decay=False)
    assert describe_new_length(dataclasses.replace(longer, training=constant), 50) is None


@pytest.mark.parametrize(
    ("num_classes", "is_resumed", "guidance"), [(3, False, GUIDANCE), (0, False, 0), (3, True, 0)]
)
def test_new_runs_with_classes_measure_guided_images(kid, num_classes, is_resumed, guidance):
    protocol = with_protocol(config(num_classes), kid, is_resumed).protocol
    assert protocol == KIDProtocol("KID, random convolution, 64", 70, guidance=guidance)


def test_a_student_is_measured_in_its_own_steps(kid):
    student = config(3)
    model = dataclasses.replace(student.model, student_steps=(4,))
    protocol = with_protocol(dataclasses.replace(student, model=model), kid, False).protocol
    assert (protocol.steps, protocol.guidance) == (4, 0)


def test_a_resumed_run_keeps_its_protocol_and_refuses_another_encoder(kid):
    before = KIDProtocol(kid.protocol, 70, "ipndm", 10, 2.0, True)
    assert with_protocol(config(3, before), kid, is_resumed=True).protocol == before
    assert with_protocol(config(3, before), None, is_resumed=True).protocol == before
    with pytest.raises(InputError, match='measured "KID, other", not comparable with'):
        with_protocol(config(3, KIDProtocol("KID, other")), kid, is_resumed=True)


def test_too_few_images_for_a_kid_are_refused_before_the_first_epoch(kid):
    def with_images(count):
        few = config(0)
        recipe = dataclasses.replace(few.training, kid_images=count)
        return with_protocol(dataclasses.replace(few, training=recipe), kid, is_resumed=False)

    assert with_images(64).protocol.images == 64
    with pytest.raises(InputError, match="at least 64 generated images, not 63; choose more"):
        with_images(63)


def test_a_resumed_run_needs_the_images_and_classes_that_it_had():
    images, labels = draw_flowers(40, 16)
    names = ("rose", "lily")
    dataset = Dataset("drawn", images[:30], labels[:30] % 2, images[30:], labels[30:] % 2, names)
    whole = complete_config(config(2), dataset, is_resumed=False)
    assert (whole.num_images, whole.class_names, whole.dataset) == (30, names, "drawn")
    assert complete_config(whole, dataset, is_resumed=True) == whole
    fewer = dataclasses.replace(dataset, train_images=images[:29])
    renamed = dataclasses.replace(dataset, class_names=("rose", "lotus"))
    for other, message in ((fewer, "30 images of 3"), (renamed, "or other names")):
        with pytest.raises(InputError, match=message):
            complete_config(whole, other, is_resumed=True)
    grey = dataclasses.replace(dataset, train_images=images[:30, ..., :1])
    with pytest.raises(InputError, match="30 images of 3 channels, but drawn now has 30 of 1"):
        complete_config(config(0), grey, is_resumed=True)  # a new student, of a teacher of colours
    assert complete_config(config(0), grey, is_resumed=False).model.network.channels == 1


def test_kid_compares_with_the_validation_images(encoder, monkeypatch):
    monkeypatch.setattr(preparation, "choose_encoder", lambda weights: encoder)
    images, labels = draw_flowers(70, 16)
    dataset = Dataset("drawn", images[20:], labels[20:], images[:20], labels[:20], ())
    kid, floor = prepare_kid(None, dataset)
    np.testing.assert_allclose(kid.real_features, encoder.features(images[:20]), rtol=1e-5)
    assert floor.value == pytest.approx(kid(random_images(images[20:], 20)).value)


def test_without_enough_training_images_the_kid_has_no_floor(encoder, monkeypatch, capsys):
    monkeypatch.setattr(preparation, "choose_encoder", lambda weights: encoder)
    images, labels = draw_flowers(70, 16)
    dataset = Dataset("drawn", images[60:], labels[60:], images[:60], labels[:60], ())
    kid, floor = prepare_kid("compact", dataset)
    assert (len(kid.real_features), floor) == (60, None)
    assert "not measured" in capsys.readouterr().out


def test_a_protocol_in_words():
    assert str(KIDProtocol("KID, X", 64)) == "KID, X, 5 steps of ddim, 64 images"
    assert str(KIDProtocol("KID, X", None, "ipndm", 3, 1.0, True)) == (
        "KID, X, 3 steps of ipndm, guidance 1, clipped"
    )
