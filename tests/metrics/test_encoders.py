from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image, ImageFilter

from ddim_keras import (
    InputError,
    KernelInceptionDistance,
    compact_encoder,
    draw_flowers,
    inception_encoder,
)
from ddim_keras.metrics.encoders import COMPACT_WEIGHTS, choose_encoder, resize_bilinear

INCEPTION = (
    Path(__file__).parents[3] / "shared" / "inception" / "fid_inception_mixed7.float16.weights.h5"
)


def blurred(images):
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((16, 16)).resize((64, 64))) for image in images]
    )


def test_features_do_not_depend_on_dtype_batches_or_grey_channels(encoder):
    images, _ = draw_flowers(10, 24)
    features = encoder.features(images)
    np.testing.assert_allclose(encoder.features(images / 255.0, batch_size=3), features, rtol=1e-4)
    grey = images[..., :1]
    np.testing.assert_allclose(
        encoder.features(grey), encoder.features(np.repeat(grey, 3, axis=-1)), rtol=1e-5
    )


@pytest.mark.parametrize("size", [15, 6, 4])
def test_resize_weighs_pixels_with_a_triangle(size):
    scale = 6 / size
    centres = (np.arange(size) + 0.5) * scale - 0.5
    distances = np.abs(centres[:, None] - np.arange(6))
    weights = np.maximum(0.0, 1.0 - distances / max(1.0, scale))
    weights /= weights.sum(axis=1, keepdims=True)
    images = np.random.default_rng(0).random((2, 6, 6, 3)).astype("float32")
    expected = np.einsum("yh,xw,nhwc->nyxc", weights, weights, images)
    resized = resize_bilinear(images, size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, atol=1e-5)


def test_resize_keeps_a_ramp():
    rows, columns = np.mgrid[0:6, 0:6]
    ramp = resize_bilinear((rows + 2.0 * columns)[None, :, :, None], 12)[0, ..., 0]
    inner = ramp[1:-1, 1:-1]
    np.testing.assert_allclose(np.diff(inner, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.diff(inner, axis=0), 0.5, atol=1e-5)


def test_encoder_weights_that_are_missing_or_something_else_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        inception_encoder(tmp_path / "absent.weights.h5")
    wrong = tmp_path / "wrong.weights.h5"
    wrong.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="does not hold InceptionV3"):
        inception_encoder(wrong)


@pytest.mark.slow
@pytest.mark.skipif(not INCEPTION.exists(), reason="Inception weights are not at hand")
def test_inception_tells_drawn_flowers_from_blurred_ones():
    encoder = inception_encoder(INCEPTION)
    assert encoder.description == "FID Inception, 768"
    images, _ = draw_flowers(192, 64)
    kid = KernelInceptionDistance(encoder, images[:64])
    assert abs(kid(images[64:]).value) < 0.02
    assert kid(blurred(images[64:])).value > 0.1


def test_the_compact_encoder_sees_what_degrades_images():
    encoder = compact_encoder()
    assert encoder.description == "compact flower encoder, 768"
    assert COMPACT_WEIGHTS.stat().st_size <= 2e6
    images, _ = draw_flowers(192, 64)
    kid = KernelInceptionDistance(encoder, images[:64])
    same = kid(images[64:])
    assert abs(same.value) < 0.02
    soft = [Image.fromarray(image).filter(ImageFilter.GaussianBlur(4)) for image in images[64:]]
    cut_in_two = np.concatenate([images[64:, 32:], images[64:, :32]], axis=1)
    noise = np.random.default_rng(1).normal(0, 30, images[64:].shape)
    noisy = (images[64:] + noise).clip(0, 255).astype("uint8")
    coarse = images[64:, ::4, ::4].repeat(4, axis=1).repeat(4, axis=2)
    spoilt = (np.stack([np.asarray(image) for image in soft]), cut_in_two, noisy, coarse)
    for worse in (*spoilt, 255 - images[64:]):
        assert kid(worse).value > abs(same.value) + 5 * same.standard_error


def test_where_inception_cannot_be_downloaded_the_compact_encoder_measures(monkeypatch, capsys):
    def no_network(**options):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "InceptionV3", no_network)
    assert choose_encoder().name == "compact flower encoder"
    assert "measuring with the compact encoder" in capsys.readouterr().out
    assert choose_encoder("compact").name == "compact flower encoder"
    with pytest.raises(InputError, match="there is no file"):
        choose_encoder("absent.weights.h5")
