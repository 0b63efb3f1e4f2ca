"""Closed forms that a correct solution satisfies, in NumPy and double precision.

DDIM (Song et al. 2020, https://arxiv.org/abs/2010.02502) on the offset cosine schedule with the
published signal rates of the lab's example, 0.95 and 0.02, and DDPM (Ho et al. 2020,
https://arxiv.org/abs/2006.11239).
"""

import math

import numpy as np

MAX_SIGNAL_RATE, MIN_SIGNAL_RATE = 0.95, 0.02


def rates(
    times: np.ndarray | float,
    largest: float = MAX_SIGNAL_RATE,
    smallest: float = MIN_SIGNAL_RATE,
) -> tuple[np.ndarray, np.ndarray]:
    """`noise_rates, signal_rates` at diffusion times: the angle grows linearly."""
    first, last = math.acos(largest), math.acos(smallest)
    angles = first + np.asarray(times, "float64") * (last - first)
    return np.sin(angles), np.cos(angles)


def data_of(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of normally distributed images, different in each pixel.

    They vary as much as those of normalised images. The noise in a noisy image then changes during
    denoising, and is not mistaken for the initial noise.

    Args:
        shape: shape of a batch of images; the first axis becomes 1.
    """
    random = np.random.default_rng(7)
    shape = (1, *shape[1:])
    return random.uniform(-0.4, 0.4, shape), random.uniform(0.3, 0.7, shape)


def gaussian_denoiser(noisy_images: np.ndarray, noise_variances: np.ndarray) -> np.ndarray:
    """The exact denoiser for `data_of`: the mean of the noise, given the noisy images."""
    mean, deviation = data_of(noisy_images.shape)
    noise_rates, signal_rates = _rates_of(noise_variances, noisy_images)
    variance = (signal_rates * deviation) ** 2 + noise_rates**2
    return noise_rates * (noisy_images - signal_rates * mean) / variance


def one_image_denoiser(noisy_images: np.ndarray, noise_variances: np.ndarray) -> np.ndarray:
    """The exact denoiser for data consisting of a single image, the mean of `data_of`."""
    noise_rates, signal_rates = _rates_of(noise_variances, noisy_images)
    return (noisy_images - signal_rates * data_of(noisy_images.shape)[0]) / noise_rates


def _rates_of(noise_variances: np.ndarray, like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if noise_variances is None:
        noise_variances = np.array(0.5)
    variances = np.clip(np.asarray(noise_variances, "float64"), 1e-6, 1 - 1e-6)
    if variances.size in (1, len(like)):
        variances = variances.reshape(-1, *[1] * (like.ndim - 1))
    return np.sqrt(variances), np.sqrt(1 - variances)


def features(noisy_images: np.ndarray) -> list[np.ndarray]:
    """The terms of the stand-in network, each with a weight: enough to distinguish losses."""
    x = np.asarray(noisy_images, "float64")
    return [x, np.ones_like(x), np.sin(3 * x), np.abs(x)]


def ddim_of_gaussian(initial_noise: np.ndarray, steps: int) -> np.ndarray:
    """DDIM with the exact denoiser for `data_of`: steps are affine, and their product is exact."""
    mean, deviation = data_of(initial_noise.shape)
    noisy_images = initial_noise.astype("float64")
    pred_images = noisy_images
    for step in range(steps):
        noise_rates, signal_rates = rates(1 - step / steps)
        next_noise_rates, next_signal_rates = rates(1 - (step + 1) / steps)
        variance = (signal_rates * deviation) ** 2 + noise_rates**2
        distance = noisy_images - signal_rates * mean
        pred_images = mean + signal_rates * deviation**2 / variance * distance
        pred_noises = noise_rates / variance * distance
        noisy_images = next_signal_rates * pred_images + next_noise_rates * pred_noises
    return pred_images


def alpha_bars_of(betas: np.ndarray) -> np.ndarray:
    """Alpha-bar of each step: the product of 1 - beta."""
    return np.cumprod(1 - np.asarray(betas, "float64"))


def posterior_variances(betas: np.ndarray) -> np.ndarray:
    """Beta-tilde of each step (Ho et al., equation 7); 0 in the first."""
    bars = alpha_bars_of(betas)
    previous = np.array([1.0, *bars[:-1]])
    return np.asarray(betas) * (1 - previous) / (1 - bars)


def step_images(shape: tuple[int, ...], step: int) -> np.ndarray:
    """The clean images that the exercise's stand-in network predicts at a step, in [0.1, 0.9].

    They differ in each pixel and step, so that every factor of a sampling step can be identified.
    """
    return np.random.default_rng(1000 + step).uniform(0.1, 0.9, (1, *shape[1:]))
