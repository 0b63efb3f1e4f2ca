from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddim_keras import InputError, KernelInceptionDistance, draw_flowers, inception_encoder
from ddim_keras.kid import resize_bilinear, squared_mmd

INCEPTION = (
    Path(__file__).parents[2] / "shared" / "inception" / "fid_inception_mixed7.float16.weights.h5"
)


def test_squared_mmd_is_the_unbiased_estimate_written_out_as_sums():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(5, 3)), random.normal(0.5, 1.0, size=(4, 3))

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    within_x = sum(kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    within_y = sum(kernel(y[i], y[j]) for i in range(4) for j in range(4) if i != j) / (4 * 3)
    across = sum(kernel(a, b) for a in x for b in y) / (5 * 4)
    assert squared_mmd(x, y) == pytest.approx(within_x + within_y - 2 * across)


def test_squared_mmd_is_unbiased_for_gaussians():
    # For x, y ~ N(mean, 1) in one dimension E (xy + 1)^3 has a closed form in the moments.
    def expected_kernel(mean_a, mean_b):
        def moments(mean):
            return mean, mean**2 + 1, mean**3 + 3 * mean

        a, b = moments(mean_a), moments(mean_b)
        return 1 + 3 * a[0] * b[0] + 3 * a[1] * b[1] + a[2] * b[2]

    shift = 1.0
    exact = expected_kernel(0, 0) + expected_kernel(shift, shift) - 2 * expected_kernel(0, shift)
    random = np.random.default_rng(1)
    estimates = [
        squared_mmd(random.normal(size=(32, 1)), random.normal(shift, size=(32, 1)))
        for _ in range(4000)
    ]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - exact) < 3 * error
    assert error < 0.05 * exact


def test_kid_is_about_zero_for_two_halves_of_one_set_and_large_for_another(encoder):
    images, _ = draw_flowers(512, 24)
    # In their order every batch holds each species equally often: less varied than chance.
    images = np.random.default_rng(0).permutation(images)
    kid = KernelInceptionDistance(encoder, images[:256])
    same = kid(images[256:])
    other = kid(255 - images[256:])
    assert abs(same.value) < 3 * same.standard_error
    assert other.value > 3 * abs(same.value)
    assert other.value > 5 * other.standard_error


def test_kid_is_the_mean_over_batches_with_its_standard_error(encoder):
    images, _ = draw_flowers(96, 24)
    real, generated = images[:32], images[32:]
    distance = KernelInceptionDistance(encoder, real, batch_size=16)(generated)
    a, b = encoder.features(real), encoder.features(generated)
    values = [  # the real batches are used twice
        squared_mmd(a[16 * (i % 2) : 16 * (i % 2) + 16], b[16 * i : 16 * i + 16]) for i in range(4)
    ]
    assert distance.value == pytest.approx(np.mean(values))
    assert distance.standard_error == pytest.approx(np.std(values, ddof=1) / 2)


def test_features_do_not_depend_on_dtype_batches_or_grey_channels(encoder):
    images, _ = draw_flowers(10, 24)
    features = encoder.features(images)
    np.testing.assert_allclose(encoder.features(images / 255.0, batch_size=3), features, rtol=1e-4)
    grey = images[..., :1]
    np.testing.assert_allclose(
        encoder.features(grey), encoder.features(np.repeat(grey, 3, axis=-1)), rtol=1e-5
    )


def test_resize_is_bilinear():
    rows, columns = np.mgrid[0:6, 0:6]
    images = np.random.default_rng(0).random((2, 6, 6, 3)).astype("float32")
    ours = resize_bilinear(images, 15)
    assert ours.shape == (2, 15, 15, 3)
    for image, resized in zip(images, ours, strict=True):
        for channel in range(3):
            picture = Image.fromarray(image[..., channel])
            expected = np.asarray(picture.resize((15, 15), Image.Resampling.BILINEAR))
            np.testing.assert_allclose(resized[..., channel], expected, atol=1e-5)
    ramp = resize_bilinear((rows + 2.0 * columns)[None, :, :, None], 12)[0, ..., 0]
    inner = ramp[1:-1, 1:-1]
    np.testing.assert_allclose(np.diff(inner, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(np.diff(inner, axis=0), 0.5, atol=1e-5)


def test_too_few_images_are_refused(encoder):
    images, _ = draw_flowers(20, 16)
    with pytest.raises(InputError, match="64 real images, not 20"):
        KernelInceptionDistance(encoder, images)
    kid = KernelInceptionDistance(encoder, images, batch_size=16)
    with pytest.raises(InputError, match="at least 16 generated images, not 3"):
        kid(images[:3])


def test_encoder_weights_that_are_missing_or_something_else_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        inception_encoder(tmp_path / "absent.weights.h5")
    wrong = tmp_path / "wrong.weights.h5"
    wrong.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="does not hold InceptionV3"):
        inception_encoder(wrong)


@pytest.mark.skipif(not INCEPTION.exists(), reason="Inception weights are not at hand")
def test_inception_tells_drawn_flowers_from_blurred_ones():
    encoder = inception_encoder(INCEPTION)
    assert encoder.protocol == "KID, FID Inception, 768"
    images, _ = draw_flowers(192, 64)
    kid = KernelInceptionDistance(encoder, images[:64])
    blurred = [np.asarray(Image.fromarray(i).resize((16, 16)).resize((64, 64))) for i in images]
    assert abs(kid(images[64:]).value) < 0.02
    assert kid(np.stack(blurred)[64:]).value > 0.1
