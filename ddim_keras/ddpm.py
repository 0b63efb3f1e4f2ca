"""DDPM, formula by formula: discrete steps, their posterior, training, sampling, the bound.

Denoising Diffusion Probabilistic Models, Ho et al. 2020 (https://arxiv.org/abs/2006.11239), with
the cosine betas and learned variances of Improved DDPM, Nichol and Dhariwal 2021
(https://arxiv.org/abs/2102.09672). "Ho" and "Nichol" below are these two papers.

`DiffusionModel` uses times in [0, 1] instead of steps; DDPM's T steps are the times 1/T, 2/T, ...,
1. To train it like DDPM, use `ModelConfig(schedule="linear", discrete_steps=1000)`. The functions
here take any function with the signature of its denoiser,
`denoise(noisy_images, noise_rates, signal_rates) -> pred_noises, pred_images`.

Arrays over steps are NumPy float64 of T + 1 entries, so that `betas[t]` is the paper's beta_t:
entry 0 stands for clean images, with beta 0 and alpha-bar 1. Images, noises, means and the like
are (B, ...) tensors, and `steps` is a number or an array (B,) of numbers from 1 to T.
"""

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from ddim_keras.config import InputError
from ddim_keras.samplers import as_generator, ddim
from ddim_keras.types import Callback, Denoise, Tensor

# The number of steps for which the linear betas were published.
PUBLISHED_STEPS = 1000
# Weight of L_vlb in the hybrid loss (Nichol, section 3.1).
BOUND_WEIGHT = 0.001
# Below it, in standard deviations, `log_normal_cdf` avoids 1 + erf, which cancels.
LOWER_TAIL = -2.0
# Terms of the continued fraction there: enough for float32; a tail closer to 0 needs more.
TAIL_TERMS = 24


# Schedules.


def linear_betas(num_steps: int = PUBLISHED_STEPS) -> np.ndarray:
    """Betas that grow linearly, 1e-4 to 0.02 at 1000 steps (Ho, section 4).

    For another number of steps T they are multiplied by 1000 / T, to add the same noise in total:
    as T grows, alpha-bar at step t tends to that of `schedules.Linear` at time t / T.

    Args:
        num_steps: T, above 20, for which the last beta would be 1.

    Returns:
        (T + 1,) rising from 0, below 1.
    """
    if num_steps <= 20:
        raise InputError(f"linear betas need more than 20 steps, not {num_steps}")
    scale = PUBLISHED_STEPS / num_steps
    return np.array([0.0, *(scale * np.linspace(1e-4, 0.02, num_steps))])


def cosine_betas(
    num_steps: int = PUBLISHED_STEPS, offset: float = 0.008, largest_beta: float = 0.999
) -> np.ndarray:
    """Betas for which the square root of alpha-bar is a cosine (Nichol, equation 17).

    Args:
        num_steps: T, at least 1.
        offset: s of the paper, a time that keeps the first betas from being too small.
        largest_beta: clips the last betas; otherwise alpha-bar would end at 0.

    Returns:
        (T + 1,) rising from 0, at most `largest_beta`.
    """
    if num_steps < 1:
        raise InputError(f"num_steps must be at least 1, not {num_steps}")
    times = np.arange(num_steps + 1) / num_steps
    squared_cosines = np.cos((times + offset) / (1 + offset) * math.pi / 2) ** 2
    betas = 1 - squared_cosines[1:] / squared_cosines[:-1]
    return np.array([0.0, *np.minimum(betas, largest_beta)])


def alpha_bars_of(betas: np.ndarray) -> np.ndarray:
    """Alpha-bar_t, the product of 1 - beta up to step t (Ho, above equation 4): the signal's share.

    The signal rates of this project are its square roots.

    Returns:
        (T + 1,) falling from 1, above 0.
    """
    return np.cumprod(1 - betas)


def betas_of(alpha_bars: np.ndarray) -> np.ndarray:
    """The inverse of `alpha_bars_of`; a subset of its entries gives the betas of a shorter chain.

    Args:
        alpha_bars: (T + 1,) falling from 1.
    """
    return np.array([0.0, *(1 - alpha_bars[1:] / alpha_bars[:-1])])


# The forward process.


def forward_step(
    previous_images: Tensor, steps: Tensor, noises: Tensor, betas: np.ndarray
) -> Tensor:
    """x_t from x_{t-1}, one step of the chain q(x_t | x_{t-1}) (Ho, equation 2)."""
    signal_rates, noise_rates = np.sqrt(1 - betas), np.sqrt(betas)
    previous_images, noises = _floats(previous_images, noises)
    return (
        _at(signal_rates, steps, previous_images) * previous_images
        + _at(noise_rates, steps, previous_images) * noises
    )


def sample_xt(
    x0: Tensor,
    t: Tensor,
    epsilon: Tensor | None,
    alpha_bars: Tensor,
    *,
    seed: int | keras.random.SeedGenerator | None = None,
) -> Tensor:
    """x_t directly from x_0, a sample of q(x_t | x_0) (Ho, equation 4).

    Args:
        x0: (B, ...) images.
        t: index into `alpha_bars`, one for all images or (B,).
        epsilon: standard normal noises of the shape of `x0`. None: they are drawn.
        alpha_bars: array in [0, 1] of any length; with `alpha_bars_of`, `t` is the step.
        seed: seed for drawing the noises.

    Returns:
        `sqrt(alpha_bar) * x0 + sqrt(1 - alpha_bar) * epsilon`, of the shape of `x0`.
    """
    (x0,) = _floats(x0)
    if epsilon is None:
        epsilon = keras.random.normal(ops.shape(x0), dtype=x0.dtype, seed=seed)
    epsilon = ops.convert_to_tensor(epsilon, dtype=x0.dtype)
    noise_rates, signal_rates = rates_at(t, alpha_bars, x0)
    return signal_rates * x0 + noise_rates * epsilon


def rates_at(steps: Tensor, alpha_bars: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """`noise_rates, signal_rates` of the steps, in a shape that broadcasts over images.

    Computed in float64: 1 - alpha-bar can be very small.
    """
    alpha_bars = np.asarray(alpha_bars, "float64")
    return _at(np.sqrt(1 - alpha_bars), steps, like), _at(np.sqrt(alpha_bars), steps, like)


# The posterior q(x_{t-1} | x_t, x_0): one step back, given the clean image.


def posterior_variances(betas: np.ndarray) -> np.ndarray:
    """Beta-tilde of each step (Ho, equation 7): (T + 1,), below beta; 0 in step 1, the last."""
    noise_variances = 1 - alpha_bars_of(betas)
    return np.array([0.0, *(noise_variances[:-1] / noise_variances[1:] * betas[1:])])


def posterior_mean_from_images(
    noisy_images: Tensor, images: Tensor, steps: Tensor, betas: np.ndarray
) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x_0), from the clean images or predicted ones (Ho, equation 7)."""
    alpha_bars = alpha_bars_of(betas)
    noise_variances, previous = 1 - alpha_bars[1:], alpha_bars[:-1]
    of_images = np.array([1.0, *(np.sqrt(previous) * betas[1:] / noise_variances)])
    of_noisy = np.array([0.0, *(np.sqrt(1 - betas[1:]) * (1 - previous) / noise_variances)])
    noisy_images, images = _floats(noisy_images, images)
    return (
        _at(of_images, steps, noisy_images) * images
        + _at(of_noisy, steps, noisy_images) * noisy_images
    )


def posterior_mean_from_noises(
    noisy_images: Tensor, noises: Tensor, steps: Tensor, betas: np.ndarray
) -> Tensor:
    """The same mean from the noises in the noisy images, or from predicted ones (equation 11)."""
    noise_rates = np.sqrt(1 - alpha_bars_of(betas))
    of_noises = np.array([0.0, *(betas[1:] / noise_rates[1:])])
    noisy_images, noises = _floats(noisy_images, noises)
    return (noisy_images - _at(of_noises, steps, noisy_images) * noises) / _at(
        np.sqrt(1 - betas), steps, noisy_images
    )


# The variance of the learned step p(x_{t-1} | x_t).


def reverse_variances(betas: np.ndarray, variance: str = "small") -> np.ndarray:
    """Fixed variances of the reverse steps (Ho, section 3.2): (T + 1,), positive from step 1 on.

    Args:
        variance: "large" for beta, exact for standard normal data, or "small" for beta-tilde, exact
            for a single image. In step 1, both are the beta-tilde of step 2, as in Nichol's code:
            its own beta-tilde is 0, and its beta is too large for a step to discrete pixel values.

    Raises:
        InputError: for fewer than 2 steps.
    """
    if variance not in ("small", "large"):
        raise InputError(f"variance must be one of small, large, not {variance!r}")
    if len(betas) < 3:
        raise InputError("reverse variances need at least 2 steps")
    posterior = posterior_variances(betas)
    variances = betas.copy() if variance == "large" else posterior.copy()
    variances[1] = posterior[2]
    return variances


def interpolated_variances(fractions: Tensor, steps: Tensor, betas: np.ndarray) -> Tensor:
    """Learned variances exp(v log beta + (1 - v) log beta-tilde) (Nichol, equation 15).

    Args:
        fractions: v, (B, ...), predicted by a network for each pixel: 0 for "small" of
            `reverse_variances`, 1 for beta, in step 1 as well.
    """
    (fractions,) = _floats(fractions)
    large, small = (
        _at(np.log(np.maximum(variances, 1e-30)), steps, fractions)  # of step 0: none
        for variances in (betas, reverse_variances(betas, "small"))
    )
    return ops.exp(fractions * large + (1.0 - fractions) * small)


# Training and sampling.


def training_loss(
    denoise: Denoise,
    images: Tensor,
    alpha_bars: np.ndarray,
    seed: int | keras.random.SeedGenerator | None = None,
) -> Tensor:
    """The loss of algorithm 1 (Ho, equation 14), L_simple: a scalar, 1 for a prediction of zeros.

    Draws a step for each image, adds noise, and compares it with the predicted noise.
    `DiffusionModel.compute_losses` does the same with `discrete_steps`, and other losses.
    """
    (images,) = _floats(images)
    seed = as_generator(seed)
    steps = keras.random.randint((ops.shape(images)[0],), 1, len(alpha_bars), seed=seed)
    noises = keras.random.normal(ops.shape(images), dtype=images.dtype, seed=seed)
    noisy_images = sample_xt(images, steps, noises, alpha_bars)
    pred_noises, _ = denoise(noisy_images, *rates_at(steps, alpha_bars, noisy_images))
    return ops.mean(ops.square(noises - pred_noises))


def mean_prediction_loss(
    images: Tensor,
    noises: Tensor,
    pred_means: Tensor,
    steps: Tensor,
    betas: np.ndarray,
    variances: np.ndarray,
) -> Tensor:
    """The loss of a network that predicts the posterior's mean (Ho, equation 8), in nats: (B,).

    It is a mean over the values of an image, not their sum, and omits the constant C of the paper.
    Predicting the mean and predicting the noise are equivalent (Ho, equation 12): with the means of
    `posterior_mean_from_noises` the loss is the squared error of the noises, times
    `noise_error_weights`.

    Args:
        images: x_0; the noisy images follow from `noises` and `steps`.
        steps: (B,), from 2 to T. Step 1 has a posterior without variance.
        variances: (T + 1,) of the learned steps, such as `reverse_variances`.
    """
    images, noises, pred_means = _floats(images, noises, pred_means)
    noisy_images = sample_xt(images, steps, noises, alpha_bars_of(betas))
    means = posterior_mean_from_images(noisy_images, images, steps, betas)
    errors = ops.square(means - pred_means) / (2.0 * _at(variances, steps, means))
    return ops.mean(errors, axis=tuple(range(1, len(errors.shape))))


def ancestral_sampling(
    denoise: Denoise,
    initial_noise: Tensor,
    alpha_bars: np.ndarray,
    variance: str = "small",
    seed: int | keras.random.SeedGenerator | None = None,
    clip_range: tuple[Tensor, Tensor] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Algorithm 2 (Ho): from noise to images, with one call of `denoise` for each of T steps.

    Calls DDIM at eta 1 on the discrete steps, which is the same (Song et al. 2020, section 4.1). A
    step samples a normal distribution around `posterior_mean_from_noises`.

    Args:
        initial_noise: (B, H, W, C), standard normal.
        alpha_bars: (T + 1,); for fewer steps, a subset that includes the first and last entry.
        variance: "small" or "large", as for `reverse_variances`.
        seed, clip_range, callback: as for `samplers.ddim`.

    Returns:
        Images (B, H, W, C), normalised.
    """
    return ddim(
        denoise,
        initial_noise,
        np.sqrt(alpha_bars[::-1]).tolist(),
        eta=1.0,
        variance=variance,
        seed=seed,
        clip_range=clip_range,
        callback=callback,
    )


# The variational bound on -log p(x_0) (Ho, equation 5), term by term, each (B,), in bits per
# dimension: the average number of bits per pixel value in lossless compression with the model.


def gaussian_kl(
    mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor
) -> Tensor:
    """KL divergence between two normal distributions, elementwise, in nats.

    Args:
        mean, variance: of the distribution that the expectation is over.
        other_mean, other_variance: of the other distribution.
    """
    ratio = variance / other_variance
    squared_distance = ops.square(ops.subtract(mean, other_mean)) / other_variance
    return 0.5 * (ratio - 1.0 - ops.log(ratio) + squared_distance)


def prior_bits(images: Tensor, alpha_bars: np.ndarray) -> Tensor:
    """L_T (Ho, equation 5): the image information left at the last step; has no parameters."""
    (images,) = _floats(images)
    noise_rates, signal_rates = rates_at(len(alpha_bars) - 1, alpha_bars, images)
    return _bits_per_dimension(gaussian_kl(signal_rates * images, noise_rates**2, 0.0, 1.0))


def step_bits(
    images: Tensor,
    noisy_images: Tensor,
    pred_means: Tensor,
    variances: Tensor,
    steps: Tensor,
    betas: np.ndarray,
) -> Tensor:
    """L_{t-1} (Ho, equations 5 and 8): the learned step against the posterior, from step 2 on.

    Args:
        images, noisy_images: x_0 and x_t, of the shape of `pred_means`.
        pred_means: means of the learned step, such as `posterior_mean_from_noises` of predictions.
        variances: variances of the learned step, broadcastable to the means.
    """
    images, noisy_images, pred_means, variances = _floats(
        images, noisy_images, pred_means, variances
    )
    means = posterior_mean_from_images(noisy_images, images, steps, betas)
    # "small" differs from beta-tilde in step 1 only, where `decoder_bits` is used instead.
    posterior = _at(reverse_variances(betas, "small"), steps, means)
    return _bits_per_dimension(gaussian_kl(means, posterior, pred_means, variances))


def decoder_bits(
    images: Tensor,
    pred_means: Tensor,
    variances: Tensor,
    value_range: tuple[Tensor, Tensor] = (-1.0, 1.0),
) -> Tensor:
    """L_0 (Ho, equations 5 and 13): the last step, to one of 256 values of each pixel.

    The probability of a value is the normal probability within half a value of it; the smallest and
    largest values include the tails. It is computed as a logarithm, so that the cost and its
    gradient stay finite at any distance from the mean.

    Args:
        images: x_0, an affine map of uint8 values.
        pred_means, variances: of the learned step 1.
        value_range: the images of the pixel values 0 and 255, numbers or arrays (C,).
    """
    images, pred_means, variances, *ends = _floats(images, pred_means, variances, *value_range)
    smallest, largest = ends
    half_a_value = (largest - smallest) / 255 / 2
    deviations = ops.sqrt(variances)
    distances = images - pred_means
    # Between two values, so that rounding does not decide which pixels are at an end.
    is_smallest = images < smallest + half_a_value
    is_largest = images > largest - half_a_value
    log_below = log_normal_cdf((distances + half_a_value) / deviations)
    log_above = log_normal_cdf((half_a_value - distances) / deviations)
    # Both limits of the bin on the lower side, where two probabilities can be told apart.
    distances = -ops.abs(distances)
    log_upper = log_normal_cdf((distances + half_a_value) / deviations)
    log_lower = log_normal_cdf((distances - half_a_value) / deviations)
    # At least 1e-12: bins too narrow for float32 would have a logarithm of 0.
    log_inside = log_upper + ops.log(ops.maximum(-ops.expm1(log_lower - log_upper), 1e-12))
    log_probabilities = ops.where(
        is_smallest, log_below, ops.where(is_largest, log_above, log_inside)
    )
    return _bits_per_dimension(-log_probabilities)


def log_normal_cdf(values: Tensor) -> Tensor:
    """Logarithm of the standard normal distribution function, to float32 precision at any value.

    The lower tail is the density times Laplace's continued fraction 1 / (x + 1 / (x + 2 / (x +
    3 / ...))) of the distance x (Abramowitz and Stegun 1964, 26.2.14).
    """
    is_tail = values < LOWER_TAIL
    # Each branch gets values in its domain; otherwise its gradient would be NaN for all.
    distances = -ops.where(is_tail, values, LOWER_TAIL)
    denominators = distances
    for term in range(TAIL_TERMS, 0, -1):
        denominators = distances + term / denominators
    log_densities = -ops.square(distances) / 2 - 0.5 * math.log(2 * math.pi)
    others = ops.where(is_tail, LOWER_TAIL, values)
    return ops.where(
        is_tail,
        log_densities - ops.log(denominators),
        ops.log(0.5 + 0.5 * ops.erf(others / math.sqrt(2))),
    )


def bound_bits(
    images: Tensor,
    noises: Tensor,
    pred_noises: Tensor,
    fractions: Tensor,
    steps: Tensor,
    betas: np.ndarray,
    value_range: tuple[Tensor, Tensor] = (-1.0, 1.0),
) -> Tensor:
    """L_{t-1} with learned variances: `decoder_bits` in step 1, `step_bits` in the others.

    Args:
        images: x_0, an affine map of uint8 values; the noisy images follow from `noises` and
            `steps`.
        fractions: v, predicted for each pixel, see `interpolated_variances`.
        steps: (B,), from 1 to T.
        value_range: as for `decoder_bits`.
    """
    variances = interpolated_variances(fractions, steps, betas)
    return bound_bits_of_variances(
        images, noises, pred_noises, variances, steps, betas, value_range
    )


def bound_bits_of_variances(
    images: Tensor,
    noises: Tensor,
    pred_noises: Tensor,
    variances: Tensor,
    steps: Tensor,
    betas: np.ndarray,
    value_range: tuple[Tensor, Tensor] = (-1.0, 1.0),
) -> Tensor:
    """`bound_bits` with the variances (B, ...) of the learned steps themselves."""
    noisy_images = sample_xt(images, steps, noises, alpha_bars_of(betas))
    pred_means = posterior_mean_from_noises(noisy_images, pred_noises, steps, betas)
    return ops.where(
        ops.equal(steps, 1),
        decoder_bits(images, pred_means, variances, value_range),
        step_bits(images, noisy_images, pred_means, variances, steps, betas),
    )


def noise_error_weights(betas: np.ndarray, variances: np.ndarray) -> np.ndarray:
    """Factors of the squared noise error in L_{t-1}, in nats (Ho, equation 12): entries 1 to T.

    L_simple replaces them by 1, which gives steps of little noise less weight.

    Args:
        variances: (T + 1,) of the learned steps, such as `reverse_variances`.
    """
    betas, variances, noise_variances = betas[1:], variances[1:], 1 - alpha_bars_of(betas)[1:]
    return np.array([0.0, *(betas**2 / (2 * variances * (1 - betas) * noise_variances))])


def variational_bound(
    denoise: Callable[..., tuple[Tensor, ...]],
    images: Tensor,
    betas: np.ndarray,
    variance: str | np.ndarray = "small",
    value_range: tuple[Tensor, Tensor] = (-1.0, 1.0),
    seed: int | keras.random.SeedGenerator | None = None,
) -> np.ndarray:
    """All terms of the bound (Ho, equation 5), with one noise for each step and image.

    Takes T calls of `denoise`.

    Args:
        images: (B, H, W, C), an affine map of uint8 values.
        variance: of the learned steps: "small" or "large" as for `reverse_variances`; their
            variances (T + 1,); or "learned", when `denoise` has a third result, the fractions of
            `interpolated_variances`.
        value_range: as for `decoder_bits`.

    Returns:
        (T + 1, B): L_0, L_1, ..., L_T. Their sum is the bound.
    """
    (terms,) = variational_bounds(denoise, images, betas, [variance], value_range, seed)
    return terms


def variational_bounds(
    denoise: Callable[..., tuple[Tensor, ...]],
    images: Tensor,
    betas: np.ndarray,
    variances: Sequence[str | np.ndarray],
    value_range: tuple[Tensor, Tensor] = (-1.0, 1.0),
    seed: int | keras.random.SeedGenerator | None = None,
) -> list[np.ndarray]:
    """`variational_bound` for each of several variances, with the calls of one."""
    (images,) = _floats(images)
    seed = as_generator(seed)
    alpha_bars = alpha_bars_of(betas)
    fixed = [
        reverse_variances(betas, each) if isinstance(each, str) and each != "learned" else each
        for each in variances
    ]
    rates_shape = (ops.shape(images)[0],) + (1,) * (len(images.shape) - 1)
    terms: list[list[np.ndarray]] = [[] for _ in variances]
    for step in range(1, len(betas)):
        noisy_images = sample_xt(images, step, None, alpha_bars, seed=seed)
        rates = (ops.broadcast_to(rate, rates_shape) for rate in rates_at(step, alpha_bars, images))
        pred_noises, _, *fractions = denoise(noisy_images, *rates)
        pred_means = posterior_mean_from_noises(noisy_images, pred_noises, step, betas)
        for variance, bits_of_steps in zip(fixed, terms, strict=True):
            if isinstance(variance, str):
                step_variances = interpolated_variances(fractions[0], step, betas)
            else:
                step_variances = _at(variance, step, images)
            if step == 1:
                bits = decoder_bits(images, pred_means, step_variances, value_range)
            else:
                bits = step_bits(images, noisy_images, pred_means, step_variances, step, betas)
            bits_of_steps.append(ops.convert_to_numpy(bits))
    last = ops.convert_to_numpy(prior_bits(images, alpha_bars))
    return [np.array([*bits_of_steps, last]) for bits_of_steps in terms]


def hybrid_loss(
    images: Tensor,
    noises: Tensor,
    pred_noises: Tensor,
    fractions: Tensor,
    steps: Tensor,
    betas: np.ndarray,
    value_range: tuple[Tensor, Tensor] = (-1.0, 1.0),
    bound_weight: float = BOUND_WEIGHT,
) -> Tensor:
    """L_hybrid = L_simple + 0.001 L_vlb (Nichol, equation 16): trains noises and variances at once.

    L_vlb is T times the mean term of the steps drawn; L_T has nothing to learn. It is in bits per
    dimension, as in the paper's code. Gradients do not flow through its means, so it trains only
    the variances.

    Args:
        steps: (B,), drawn uniformly from 1 to T.
        images, noises, pred_noises, fractions, betas, value_range: as for `bound_bits`.

    Returns:
        A scalar.

    Raises:
        InputError: for steps outside 1 to T, if their values are known, and for predictions of
            another shape than the noises.
    """
    images, noises, pred_noises, fractions = _floats(images, noises, pred_noises, fractions)
    if isinstance(steps, (list, tuple, np.ndarray)) and not all(
        1 <= step < len(betas) for step in steps
    ):
        raise InputError(f"steps must be from 1 to {len(betas) - 1}, not {steps}")
    for name, prediction in (("pred_noises", pred_noises), ("fractions", fractions)):
        if tuple(prediction.shape) != tuple(noises.shape):
            raise InputError(
                f"{name} must have the shape of the noises, {tuple(noises.shape)}, "
                f"not {tuple(prediction.shape)}"
            )
    held_noises = ops.stop_gradient(pred_noises)
    bits = bound_bits(images, noises, held_noises, fractions, steps, betas, value_range)
    bound = (len(betas) - 1) * ops.mean(bits)
    return ops.mean(ops.square(noises - pred_noises)) + bound_weight * bound


def _floats(*arrays: Tensor) -> list[Tensor]:
    """Tensors of the first one's dtype, or of float32 if that is an integer type."""
    first, *others = (ops.convert_to_tensor(array) for array in arrays)
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(first.dtype)):
        first = ops.cast(first, "float32")
    return [first, *(ops.cast(other, first.dtype) for other in others)]


def _at(values: np.ndarray, steps: Tensor, like: Tensor) -> Tensor:
    """The values of the steps, in a shape that broadcasts over images, and in their dtype."""
    if isinstance(steps, int):
        return ops.convert_to_tensor(values[steps], dtype=like.dtype)
    values = ops.take(ops.convert_to_tensor(values, dtype=like.dtype), steps, axis=0)
    return ops.reshape(values, (-1,) + (1,) * (len(like.shape) - 1))


def _bits_per_dimension(nats: Tensor) -> Tensor:
    """Mean over all but the first axis, from natural to binary logarithms."""
    return ops.mean(nats, axis=tuple(range(1, len(nats.shape)))) / math.log(2)
