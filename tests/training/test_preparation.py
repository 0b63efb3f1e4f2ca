"""What a training decides before its first step: how its KID is measured."""

import dataclasses

import numpy as np
import pytest

from ddim_keras.config import GUIDANCE, InputError
from ddim_keras.metrics.kid import KernelInceptionDistance
from ddim_keras.runs.configuration import KIDProtocol, RunConfig
from ddim_keras.training.preparation import with_protocol
from tests.helpers import TINY


@pytest.fixture(scope="module")
def kid(encoder):
    images = np.random.default_rng(0).integers(0, 255, (70, 16, 16, 3), dtype="uint8")
    return KernelInceptionDistance(encoder, images)


def config(num_classes, protocol=None):
    network = dataclasses.replace(TINY.model.network, num_classes=num_classes)
    model = dataclasses.replace(TINY.model, network=network)
    return RunConfig("tiny", model, TINY.training, protocol=protocol)


@pytest.mark.parametrize(
    ("num_classes", "is_resumed", "guidance"), [(3, False, GUIDANCE), (0, False, 0), (3, True, 0)]
)
def test_new_runs_with_classes_measure_guided_images(kid, num_classes, is_resumed, guidance):
    protocol = with_protocol(config(num_classes), kid, is_resumed).protocol
    assert protocol == KIDProtocol("KID, random convolution, 64", 70, guidance=guidance)


def test_a_resumed_run_keeps_its_protocol_and_refuses_another_encoder(kid):
    before = KIDProtocol(kid.protocol, 70, "ipndm", 10, 2.0, True)
    assert with_protocol(config(3, before), kid, is_resumed=True).protocol == before
    assert with_protocol(config(3, before), None, is_resumed=True).protocol == before
    with pytest.raises(InputError, match='measured "KID, other", which does not compare with'):
        with_protocol(config(3, KIDProtocol("KID, other")), kid, is_resumed=True)


def test_a_protocol_in_words():
    assert str(KIDProtocol("KID, X", 64)) == "KID, X, 5 steps of ddim, 64 images"
    assert str(KIDProtocol("KID, X", None, "ipndm", 3, 1.0, True)) == (
        "KID, X, 3 steps of ipndm, guidance 1, clipped"
    )
