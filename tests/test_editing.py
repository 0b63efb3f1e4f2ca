import math

import keras
import numpy as np
import pytest
from keras import ops

from ddim_keras import InputError
from ddim_keras.editing import (
    add_noise,
    decode,
    encode,
    inpaint,
    interpolate,
    membrane,
    remove_noise,
)
from ddim_keras.samplers import SAMPLERS, ddim, image_noises
from ddim_keras.schedules import OffsetCosine
from ddim_keras.spacing import sampling_signal_rates

MEAN, VARIANCE = 0.4, 0.3


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def gaussian_denoise(noisy_images, noise_rates, signal_rates):
    """The exact denoiser of independent Gaussian pixels."""
    gain = signal_rates * VARIANCE / (signal_rates**2 * VARIANCE + noise_rates**2)
    pred_images = MEAN + gain * (noisy_images - signal_rates * MEAN)
    return (noisy_images - signal_rates * pred_images) / noise_rates, pred_images


def test_interpolation_follows_the_great_circle():
    start, end = normal(8, 8, 3), normal(8, 8, 3, seed=1)
    end *= np.linalg.norm(start) / np.linalg.norm(end)
    path = interpolate(start, end, 9)
    np.testing.assert_allclose(path[0], start, atol=1e-12)
    np.testing.assert_allclose(path[-1], end, atol=1e-12)
    units = path.reshape(9, -1) / np.linalg.norm(path.reshape(9, -1), axis=1, keepdims=True)
    angles = np.arccos(np.clip(np.sum(units[1:] * units[:-1], axis=1), -1, 1))
    np.testing.assert_allclose(angles, angles[0], rtol=1e-6)
    lengths = np.linalg.norm(path.reshape(9, -1), axis=1)
    np.testing.assert_allclose(lengths, lengths[0])


def test_interpolation_between_equal_noises_stays():
    start = normal(4, 4, 3)
    np.testing.assert_allclose(interpolate(start, start, 3), np.stack([start] * 3))
    with pytest.raises(InputError, match="2 images or more"):
        interpolate(start, start, 1)


def test_noise_of_an_image_depends_on_nothing_else():
    noises = image_noises((4, 4, 3), 7, range(5), 2, 1)
    assert noises.dtype == np.float32
    np.testing.assert_array_equal(image_noises((4, 4, 3), 7, [3], 2, 1)[0], noises[3])
    others = [
        *noises[:3],
        noises[4],
        image_noises((4, 4, 3), 8, [3], 2, 1)[0],
        image_noises((4, 4, 3), 7, [3], 1, 2)[0],
        image_noises((4, 4, 3), 7, [3], 2)[0],
    ]
    assert all(np.abs(noises[3] - other).max() > 1 for other in others)


def test_noise_is_standard_normal():
    noises = image_noises((16, 16, 3), 0, range(20))
    assert noises.mean() == pytest.approx(0, abs=0.03)
    assert noises.std() == pytest.approx(1, abs=0.03)


def test_noise_is_added_and_removed():
    images, noises = normal(2, 4, 4, 3), normal(2, 4, 4, 3, seed=1)
    noisy_images = add_noise(images, noises, 0.6)
    assert keras.backend.standardize_dtype(noisy_images.dtype) == "float32"  # of float64
    np.testing.assert_allclose(numpy(noisy_images), 0.6 * images + 0.8 * noises, atol=1e-6)
    np.testing.assert_allclose(numpy(remove_noise(noisy_images, noises, 0.6)), images, atol=1e-6)
    np.testing.assert_array_equal(numpy(add_noise(images, noises, 1.0)), images.astype("float32"))


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("heun", 3)])
def test_what_is_encoded_decodes_with_a_small_error(sampler, order):
    # The leading errors of the two ways add up for an odd order, and cancel for an even one.
    images = MEAN + math.sqrt(VARIANCE) * normal(4, 4, 4, 3)
    added_noises = normal(4, 4, 4, 3, seed=1)
    errors = []
    for steps in (20, 40):
        rates = sampling_signal_rates(steps, last_signal_rate=0.98)
        code = encode(gaussian_denoise, images, added_noises, rates, SAMPLERS[sampler])
        decoded = decode(gaussian_denoise, code, rates, SAMPLERS[sampler], added_noises)
        errors.append(np.sqrt(np.mean((numpy(decoded) - images) ** 2)))
    assert errors[0] < 0.1
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_codes_of_typical_images_are_normal_noise():
    images = MEAN + math.sqrt(VARIANCE) * normal(20, 16, 16, 3)
    added_noises = normal(20, 16, 16, 3, seed=1)
    rates = sampling_signal_rates(200, last_signal_rate=0.8)
    code = numpy(encode(gaussian_denoise, images, added_noises, rates))
    assert code.mean() == pytest.approx(0, abs=0.03)
    assert code.std() == pytest.approx(1, abs=0.03)


def test_without_the_added_noise_the_predicted_image_is_decoded():
    code = normal(2, 4, 4, 3).astype("float32")
    rates = sampling_signal_rates(10)
    np.testing.assert_array_equal(
        numpy(decode(gaussian_denoise, code, rates)), numpy(ddim(gaussian_denoise, code, rates))
    )


@pytest.mark.parametrize("signal_rate", [0.3, 0.8])
def test_a_redrawn_image_keeps_what_the_noise_leaves(signal_rate):
    """The exact path of Gaussian pixels, whose end correlates with the image it began from."""
    images = MEAN + math.sqrt(VARIANCE) * normal(40, 8, 8, 3)
    noises = normal(40, 8, 8, 3, seed=1)
    rates = sampling_signal_rates(
        100, last_signal_rate=0.999, schedule=OffsetCosine(min_signal_rate=signal_rate)
    )
    redrawn = numpy(ddim(gaussian_denoise, add_noise(images, noises, rates[0]), rates))
    assert redrawn.mean() == pytest.approx(MEAN, abs=0.02)
    assert redrawn.std() == pytest.approx(math.sqrt(VARIANCE), rel=0.03)
    signal = signal_rate * math.sqrt(VARIANCE)
    expected = signal / math.hypot(signal, math.sqrt(1 - signal_rate**2))
    correlation = np.corrcoef(images.ravel(), redrawn.ravel())[0, 1]
    assert correlation == pytest.approx(expected, abs=0.02)


# The images of `shared_denoise`: one grey value per image, and independent pixels around it.
SHARED_VARIANCE, OWN_VARIANCE = 1.0, 0.1


def shared_denoise(noisy_images, noise_rates, signal_rates):
    """The exact denoiser of images whose pixels share most of their variance."""
    size = math.prod(noisy_images.shape[1:])
    means = ops.mean(noisy_images, axis=(1, 2, 3), keepdims=True)
    pred_images = 0.0
    for variance, part in (
        (OWN_VARIANCE + size * SHARED_VARIANCE, means),
        (OWN_VARIANCE, noisy_images - means),
    ):
        gain = signal_rates * variance / (signal_rates**2 * variance + noise_rates**2)
        pred_images = pred_images + gain * part
    return (noisy_images - signal_rates * pred_images) / noise_rates, pred_images


def half_mask(size):
    """Known on the left, to be filled in on the right: (size, size, 1)."""
    mask = np.zeros((size, size, 1), "float32")
    mask[:, size // 2 :] = 1
    return mask


def inpainted(denoise, images, mask, steps=20, first=0, **options):
    numbers = range(first, first + len(images))
    shape = images.shape[1:]

    def draw_noises(step, repetition):
        return [image_noises(shape, 0, numbers, step, repetition, each) for each in range(3)]

    initial_noise = image_noises(shape, 0, numbers)
    rates = sampling_signal_rates(steps, last_signal_rate=0.99)
    return numpy(inpaint(denoise, images, mask, initial_noise, rates, draw_noises, **options))


def test_inpainting_draws_from_what_the_known_pixels_leave_open():
    images = np.random.default_rng(1).normal(1.5, math.sqrt(OWN_VARIANCE), (50, 4, 4, 1))
    images = images.astype("float32")
    errors = []
    for resample in (1, 5):
        filled = inpainted(shared_denoise, images, half_mask(4), resample=resample)
        np.testing.assert_array_equal(filled[:, :, :2], images[:, :, :2])
        unknown = filled[:, :, 2:]
        means = SHARED_VARIANCE * 8 / (SHARED_VARIANCE * 8 + OWN_VARIANCE)
        means = means * images[:, :, :2].mean(axis=(1, 2, 3))
        errors.append(abs(np.mean(unknown.mean(axis=(1, 2, 3)) - means)))
    assert errors[1] < 0.1 < errors[0]  # without resampling, the known pixels are half ignored
    # The exact deviation is 0.335; what the last step predicts is a mean, and varies less.
    assert np.std(unknown - means[:, None, None, None]) == pytest.approx(0.28, abs=0.05)


def test_inpainting_does_not_depend_on_the_batch():
    images = normal(3, 4, 4, 1).astype("float32")
    together = inpainted(shared_denoise, images, half_mask(4), steps=4)
    alone = inpainted(shared_denoise, images[2:], half_mask(4), steps=4, first=2)
    np.testing.assert_allclose(together[2:], alone, atol=1e-5)
    assert np.abs(together[1, :, 2:] - together[2, :, 2:]).max() > 0.1


def test_grey_pixels_change_the_more_the_lighter_they_are():
    images = np.full((50, 4, 24, 1), 2.0, "float32")  # far from the mean, to which freed pixels go
    mask = np.repeat([0.0, 0.02, 0.4, 1.0], 6).reshape(1, 24, 1)

    filled = inpainted(gaussian_denoise, images, mask, resample=1)
    np.testing.assert_array_equal(filled[:, :, :12], images[:, :, :12])  # lighter by under a step
    grey, white = filled[:, :, 16:18].mean(), filled[:, :, 22:].mean()
    assert white == pytest.approx(MEAN, abs=0.1)
    assert white + 0.2 < grey < 1.9


def test_a_membrane_joins_what_is_known_and_fades():
    known = np.zeros((1, 12, 1), bool)
    known[:, :4] = True
    spread = numpy(membrane(np.full((1, 6, 12, 3), 2.0, "float32"), known))
    np.testing.assert_array_equal(spread[:, :, :4], 2.0)
    row = spread[0, 0, 3:, 0]
    np.testing.assert_allclose(spread[0, :, 3:, 1], np.broadcast_to(row, (6, 9)), rtol=1e-5)
    assert np.all(np.diff(row) < 0)
    assert row[1] > 1.5
    assert row[-1] < 0.5


def test_a_membrane_between_two_ends_is_straight():
    known = np.array([True, *[False] * 3, True]).reshape(1, 5, 1)
    differences = np.linspace(0, 4, 5).reshape(1, 1, 5, 1)
    spread = numpy(membrane(np.where(known, differences, 9.0), known))
    np.testing.assert_allclose(spread, differences, atol=0.03)


def test_inpainting_calls_back_in_each_call_and_clips():
    calls = []
    images = normal(1, 4, 4, 1).astype("float32")
    inpainted(
        gaussian_denoise,
        images,
        half_mask(4),
        steps=3,
        resample=2,
        clip_range=(0.1, 0.2),
        callback=lambda call, noisy_images, pred_images: calls.append(
            (call, noisy_images.shape, float(ops.max(pred_images)))
        ),
    )
    assert [call for call, _, _ in calls] == list(range(5))
    assert all(shape == images.shape and largest <= 0.2001 for _, shape, largest in calls)
    with pytest.raises(InputError, match="resample must be at least 1, not 0"):
        inpainted(gaussian_denoise, images, half_mask(4), resample=0)
