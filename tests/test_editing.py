import math

import numpy as np
import pytest
from keras import ops

from ddim_keras import InputError
from ddim_keras.editing import decode, encode, filled_in, interpolate
from ddim_keras.samplers import SAMPLERS, ddim
from ddim_keras.schedules import sampling_signal_rates

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


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("heun", 3)])
def test_what_is_encoded_decodes_with_a_small_error(sampler, order):
    # The leading errors of the two ways add up for an odd order, and cancel for an even one.
    images = MEAN + math.sqrt(VARIANCE) * normal(4, 4, 4, 3)
    errors = []
    for steps in (20, 40):
        rates = sampling_signal_rates(steps, last_signal_rate=0.98)
        noises = encode(gaussian_denoise, images, rates, SAMPLERS[sampler])
        decoded = numpy(decode(gaussian_denoise, noises, rates, SAMPLERS[sampler]))
        errors.append(np.sqrt(np.mean((decoded - images) ** 2)))
    assert errors[0] < 0.1
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_codes_of_typical_images_are_normal_noise():
    images = MEAN + math.sqrt(VARIANCE) * normal(20, 16, 16, 3)
    rates = sampling_signal_rates(200, last_signal_rate=0.999)
    noises = numpy(encode(gaussian_denoise, images, rates))
    assert noises.mean() == pytest.approx(0, abs=0.03)
    assert noises.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("sampler", ["ddim", "ipndm", "dpm_solver"])
def test_filling_in_keeps_what_is_known(sampler):
    images = (MEAN + normal(2, 8, 8, 3)).astype("float32")
    mask = np.zeros((8, 8, 1), "float32")
    mask[:, :4] = 1
    denoise = filled_in(gaussian_denoise, images, mask)
    noises = normal(2, 8, 8, 3, seed=5).astype("float32")
    filled = numpy(SAMPLERS[sampler](denoise, noises, sampling_signal_rates(10)))
    np.testing.assert_allclose(filled[:, :, :4], images[:, :, :4], atol=1e-4)
    # The other pixels are independent of the known ones: as without a mask.
    free = numpy(SAMPLERS[sampler](gaussian_denoise, noises, sampling_signal_rates(10)))
    np.testing.assert_allclose(filled[:, :, 4:], free[:, :, 4:], atol=1e-4)


def test_filling_in_uses_what_is_known():
    """Pixels that are all equal in the data are filled in with the known value."""

    def flat_denoise(noisy_images, noise_rates, signal_rates):
        gain = signal_rates / (signal_rates**2 + noise_rates**2 / 64)
        means = ops.mean(noisy_images, axis=(1, 2), keepdims=True)
        pred_images = gain * means * ops.ones_like(noisy_images)
        return (noisy_images - signal_rates * pred_images) / noise_rates, pred_images

    images = np.full((1, 8, 8, 1), 1.5, "float32")
    mask = np.ones((8, 8, 1), "float32")
    mask[2:4, 2:4] = 0
    noises = normal(1, 8, 8, 1).astype("float32")
    filled = numpy(ddim(filled_in(flat_denoise, images, mask), noises, sampling_signal_rates(50)))
    np.testing.assert_allclose(filled, images, atol=0.15)
