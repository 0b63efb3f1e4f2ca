"""Likelihood: learned variances, and bits per dimension of images under a model.

`LearnedVarianceModel` and its two losses are Improved DDPM, Nichol and Dhariwal 2021
(https://arxiv.org/abs/2102.09672; "Nichol" below). Bits per dimension are computed in two ways,
for two different models that share a network, so that neither bounds the other:

- `bound_terms`: the variational bound for the DDPM of T steps (Ho et al. 2020,
  https://arxiv.org/abs/2006.11239, equation 5), for any variances of its steps;
- `flow_bits`: the density under the deterministic process, a continuous normalizing flow (Song et
  al. 2021, https://arxiv.org/abs/2011.13456, section 4.3 and appendix D.2).

Both refer to uint8 images, whatever the model's own scale of pixels.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from ddim_keras import backends
from ddim_keras.arguments import require_batch
from ddim_keras.config import BOUND_LOSSES, InputError, ModelConfig
from ddim_keras.ddpm import (
    BOUND_WEIGHT,
    PUBLISHED_STEPS,
    alpha_bars_of,
    betas_of,
    bound_bits_of_variances,
    interpolated_variances,
    posterior_mean_from_images,
    rates_at,
    variational_bounds,
)
from ddim_keras.distillation import Student
from ddim_keras.model import DiffusionModel
from ddim_keras.samplers import next_noise
from ddim_keras.types import Callback, Denoise

REMEMBERED_LOSSES = 10  # of each step, for importance sampling (Nichol, section 3.3)
UNIFORM_SHARE = 0.001  # of importance-sampled steps that are drawn uniformly, as in Nichol's code
# The largest noise rate at which noisy images count as clean: in photographs, 3 or 4 of 255.
CLEAN_NOISE_RATE = 0.05


def new_model(config: ModelConfig, **options: Any) -> DiffusionModel:
    """The model of a configuration: with learned variances, a student, or a plain model.

    Args:
        options: options of the constructor, such as `only_average`.
    """
    if config.student_steps:
        return Student(config, **options)
    kind = LearnedVarianceModel if config.variance == "learned" else DiffusionModel
    return kind(config, **options)


@keras.saving.register_keras_serializable(package="ddim_keras")
class LearnedVarianceModel(DiffusionModel):
    """A diffusion model in discrete steps that also learns the variances of its reverse steps.

    The network has 2 C outputs: the prediction of a `DiffusionModel`, and for each pixel a fraction
    that interpolates between the two fixed variances (Nichol, equation 15). `denoise` returns the
    two results of a `DiffusionModel`, so that all samplers work; `predict_step` returns all three.

    Args:
        config: with `variance="learned"` and at least 2 `discrete_steps`.
    """

    outputs_per_channel = 2

    def __init__(self, config: ModelConfig, only_average: bool = False, **kwargs: Any) -> None:
        super().__init__(config, only_average, **kwargs)
        self.betas = schedule_betas(self, config.discrete_steps)
        self.alpha_bars = alpha_bars_of(self.betas)
        # Row 0 is not a step: it takes the losses to be forgotten.
        self.past_losses = self.add_weight(
            shape=(len(self.betas), REMEMBERED_LOSSES),
            initializer="zeros",
            trainable=False,
            dtype="float32",
            name="past_losses",
        )
        self.loss_counts = self.add_weight(
            shape=(len(self.betas),),
            initializer="zeros",
            trainable=False,
            dtype="int",  # int64 under TensorFlow, which keeps int32 on the CPU, where XLA fails
            name="loss_counts",
        )
        self.bound_tracker = keras.metrics.Mean(name="bits_per_dim")

    def denoise(
        self,
        noisy_images: Any,
        noise_rates: Any,
        signal_rates: Any,
        training: bool,
        labels: Any = None,
    ) -> tuple[Any, Any]:
        """Like `DiffusionModel.denoise`: `pred_noises, pred_images`."""
        results = self.predict_step(noisy_images, noise_rates, signal_rates, training, labels)
        return results[:2]

    def predict_step(
        self,
        noisy_images: Any,
        noise_rates: Any,
        signal_rates: Any,
        training: bool,
        labels: Any = None,
    ) -> tuple[Any, Any, Any]:
        """`pred_noises, pred_images, fractions`, each (B, H, W, C), with one network call.

        The fractions are those of `ddpm.interpolated_variances`: about 0 to 1, but not clipped.
        """
        outputs = self.network_outputs(noisy_images, noise_rates, training, labels)
        prediction, between = ops.split(outputs, 2, axis=-1)
        results = self.split(prediction, noisy_images, noise_rates, signal_rates)
        return *results, (between + 1.0) / 2.0

    @functools.cached_property
    def compiled_predict_step(self) -> Callable[..., tuple[Any, Any, Any]]:
        """`predict_step(noisy_images, noise_rates, signal_rates, labels=None)`, compiled."""
        return backends.compile_denoise(self, self.predict_step)

    # Training.

    def compile(
        self, optimizer: Any = "adamw", loss: str = "hybrid", loss_on: str = "noise", **kwargs: Any
    ) -> None:
        """Like `keras.Model.compile`, except for the loss.

        Args:
            loss: "hybrid" for `ddpm.hybrid_loss`; "bound" for L_vlb alone, with importance-sampled
                steps (Nichol, section 3.3).
            loss_on: "noise" or "prediction"; both losses compare noises.

        Raises:
            InputError: for another loss, which would not train the variances.
        """
        if loss not in BOUND_LOSSES or loss_on not in ("noise", "prediction"):
            raise InputError(
                f"learned variances are trained with the loss {' or '.join(BOUND_LOSSES)} on the "
                f"noise, not with {loss} on the {loss_on}"
            )
        super().compile(optimizer, "mse", "noise", **kwargs)
        self.bound_loss = loss

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        return config and {**config, "loss": self.bound_loss}

    def compute_losses(
        self, images: Any, training: bool, labels: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """Like `DiffusionModel.compute_losses`; also reports the bound without L_T, in bits."""
        require_batch(images)
        images = self.normalize(images)
        by_importance = training and self.bound_loss == "bound"
        steps, weights = self.draw_steps(ops.shape(images)[0], by_importance)
        noises = backends.draw(self, keras.random.normal, ops.shape(images))
        noise_rates, signal_rates = rates_at(steps, self.alpha_bars, images)
        noisy_images = signal_rates * images + noise_rates * noises
        if self.num_classes and training:
            labels = self.drop_labels(labels, images)
        pred_noises, pred_images, fractions = self.predict_step(
            noisy_images, noise_rates, signal_rates, training, labels
        )
        # In the hybrid loss, only the noise loss trains the means.
        is_hybrid = self.bound_loss == "hybrid"
        noises_of_means = ops.stop_gradient(pred_noises) if is_hybrid else pred_noises
        variances = self.variances(fractions, steps)
        bits = bound_bits_of_variances(
            images, noises, noises_of_means, variances, steps, self.betas, self.pixel_range
        )
        bound = self.config.discrete_steps * ops.mean(weights * bits)
        losses = {
            "noise_loss": self.weighted_error(noises, pred_noises, weights),
            "image_loss": self.weighted_error(images, pred_images, weights),
            "bits_per_dim": bound,
        }
        if by_importance:
            self.remember(steps, ops.stop_gradient(bits))
        loss = losses["noise_loss"] + BOUND_WEIGHT * bound if is_hybrid else bound
        return loss, losses

    def weighted_error(self, target: Any, prediction: Any, weights: Any) -> Any:
        """`mean_error` with weights (B,) of the images, those of `draw_steps`."""
        return ops.mean(weights[:, None, None] * self.elementwise_loss(target, prediction))

    def variances(self, fractions: Any, steps: Any) -> Any:
        """The variances of training steps (B,), from the fractions of `predict_step`."""
        return interpolated_variances(fractions, steps, self.betas)

    def draw_steps(self, num_images: Any, by_importance: bool) -> tuple[Any, Any]:
        """Steps (B,), from 1 to T, and the weights 1 / (T p) that keep means over steps unbiased.

        By importance, the probability of a step is nearly proportional to the root mean square of
        its last 10 losses (Nichol, section 3.3); it is uniform until each step has 10 losses.
        """
        num_steps = self.config.discrete_steps
        draws = backends.draw(self, keras.random.uniform, (num_images,))
        if not by_importance:
            return ops.cast(ops.floor(draws * num_steps), "int32") + 1, ops.ones_like(draws)
        sizes = ops.sqrt(ops.mean(ops.square(self.past_losses[1:]), axis=1))
        shares = sizes / ops.maximum(ops.sum(sizes), 1e-30)
        shares = (1.0 - UNIFORM_SHARE) * shares + UNIFORM_SHARE / num_steps
        is_known = ops.min(self.loss_counts[1:]) >= REMEMBERED_LOSSES
        shares = ops.where(is_known, shares, 1.0 / num_steps)
        # A draw may exceed the sum, which can be below 1 because of rounding.
        indices = ops.searchsorted(ops.cumsum(shares), draws, side="right")
        indices = ops.minimum(ops.cast(indices, "int32"), num_steps - 1)
        return indices + 1, 1.0 / (num_steps * ops.take(shares, indices))

    def remember(self, steps: Any, losses: Any) -> None:
        """Stores losses (B,) of steps (B,), replacing the oldest losses of these steps."""
        if backends.share_of_batch(self) != 1:
            raise InputError("the loss bound draws its steps on one device; use --devices 1")
        same = ops.cast(ops.equal(steps[:, None], steps[None, :]), "int32")
        earlier, later = ops.sum(ops.tril(same, -1), axis=1), ops.sum(ops.triu(same, 1), axis=1)
        counts = ops.cast(ops.take(self.loss_counts, steps), "int32")
        places = (counts + earlier) % REMEMBERED_LOSSES
        rows = ops.where(later < REMEMBERED_LOSSES, steps, 0)
        indices = ops.stack([rows, places], axis=1)
        self.past_losses.assign(ops.scatter_update(self.past_losses.value, indices, losses))
        added = ops.sum(ops.one_hot(steps, len(self.betas), dtype="int32"), axis=0)
        self.loss_counts.assign_add(ops.cast(added, self.loss_counts.dtype))

    @property
    def metrics(self) -> list[keras.Metric]:
        return [*super().metrics, self.bound_tracker]

    # Sampling.

    def ancestral_sampling(
        self,
        denoise: Denoise,
        initial_noise: Any,
        signal_rates: Sequence[float],
        *,
        clip_range: tuple[Any, Any] | None = None,
        callback: Callback | None = None,
        fresh_noises: Iterable[Any] | None = None,
    ) -> Any:
        """The sampler with learned variances, with the signature of those in `samplers`.

        Algorithm 2 of Ho et al. 2020 on any chain of signal rates that ends at 1, such as every
        tenth step of the training; means and variances are those of that chain (Nichol, section
        4). Takes one network call per step. If `denoise` is guided or has a class, it takes one
        more call for the variances, which are then those of any class.

        Args:
            fresh_noises: one for each step except the last, each of the shape of `initial_noise`;
                by default new ones in each call.
        """
        alpha_bars = np.square(signal_rates, dtype="float64")[::-1]
        num_steps = len(alpha_bars) - 1
        if num_steps < 2 or alpha_bars[0] != 1 or np.any(np.diff(alpha_bars) >= 0):
            raise InputError(
                "learned variances need 2 steps or more, along signal rates that rise to 1"
            )
        betas = betas_of(alpha_bars)
        images = ops.convert_to_tensor(initial_noise, dtype="float32")
        if fresh_noises is None:
            fresh_noises = (keras.random.normal(ops.shape(images)) for _ in betas)
        noises = iter(fresh_noises)
        for step in range(num_steps, 0, -1):
            steps = ops.full((ops.shape(images)[0],), step, dtype="int32")
            rates = rates_at(steps, alpha_bars, images)
            _, pred_images, fractions = self.compiled_predict_step(images, *rates)
            if denoise is not self.compiled_denoise:
                _, pred_images = denoise(images, *rates)
            if callback is not None:
                callback(num_steps - step, images, pred_images)
            if clip_range is not None:
                pred_images = ops.clip(pred_images, *clip_range)
            images = posterior_mean_from_images(images, pred_images, steps, betas)
            if step > 1:
                deviations = ops.sqrt(interpolated_variances(fractions, steps, betas))
                images = images + deviations * next_noise(noises, "float32")
        return images


# Bits per dimension.


def schedule_betas(model: DiffusionModel, num_steps: int) -> np.ndarray:
    """The betas (T + 1,) of a chain with the schedule's noise at times 1/T, 2/T, ..., 1."""
    if num_steps < 2:
        raise InputError(f"a chain needs at least 2 steps, not {num_steps}")
    times = ops.convert_to_tensor(np.arange(1, num_steps + 1) / num_steps, dtype="float32")
    return betas_of(np.array([1.0, *_squared_signal_rates(model, times)]))


def bound_terms(
    model: DiffusionModel,
    images: np.ndarray,
    variances: Sequence[str] | None = None,
    *,
    num_steps: int | None = None,
    labels: np.ndarray | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[], None] | None = None,
) -> dict[str, np.ndarray]:
    """All terms of the variational bound of a trained model, in bits per dimension.

    With one noise for each step and image. Takes T network calls per image, whatever the number of
    variances.

    Args:
        images: (N, H, W, C) uint8.
        variances: "small" and "large", see `ddpm.reverse_variances`; "beta", like "large" but with
            beta in step 1 as well, for models whose noise does not end near zero; and "learned".
            By default all that the model has, except "beta".
        num_steps: T, by default that of the training, or 1000 for a model of continuous time. The
            shorter the chain, the looser the bound.
        labels: (N,) for a class-conditional model, by default any class.
        progress: called after each network call; a batch takes T calls.

    Returns:
        For each variance (T + 1, N): L_0, L_1, ..., L_T of each image. Their sum is the bound.
    """
    learned = isinstance(model, LearnedVarianceModel)
    if variances is None:
        variances = ("small", "large", "learned") if learned else ("small", "large")
    if "learned" in variances and not learned:
        raise InputError("the model has no learned variances; train one with: --preset likelihood")
    predict = model.compiled_predict_step if learned else model.compiled_denoise
    betas = schedule_betas(model, num_steps or model.config.discrete_steps or PUBLISHED_STEPS)
    chosen = [betas if name == "beta" else name for name in variances]
    generator = keras.random.SeedGenerator(seed)
    terms = []
    for batch_images, batch_labels in _batches(images, labels, batch_size):

        def denoise(*inputs: Any, labels: Any = batch_labels) -> Any:
            results = predict(*inputs, labels=labels) if model.num_classes else predict(*inputs)
            if progress is not None:
                progress()
            return results

        normalized = model.normalize(ops.convert_to_tensor(batch_images))
        terms.append(
            variational_bounds(denoise, normalized, betas, chosen, model.pixel_range, generator)
        )
    return {
        name: np.concatenate(parts, axis=1)
        for name, parts in zip(variances, zip(*terms, strict=True), strict=True)
    }


class FlowBits(NamedTuple):
    """Bits per dimension of each image by the probability-flow ODE, (N,), and the network calls."""

    bits: np.ndarray
    network_calls: int  # of the batch that took most


def flow_bits(
    model: DiffusionModel,
    images: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    probes: int = 1,
    tolerance: float = 1e-5,
    seed: int = 0,
    batch_size: int = 64,
) -> FlowBits:
    """Bits per dimension of a trained model by the probability-flow ODE, see `flow_log_density`.

    With uniform dequantisation noise, one pixel value wide, the mean is an upper bound for discrete
    pixel values (Theis et al. 2016, https://arxiv.org/abs/1511.01844, section 3.1). Each network
    call comes with one gradient for each probe.

    Args:
        images: (N, H, W, C) uint8.
        labels: (N,) for a class-conditional model, by default any class.
        probes, tolerance: as for `flow_log_density`.
        seed: seed of the uniform noise and the probes.

    Raises:
        InputError: for a model whose noise does not end near zero: even an exact solution would
            give the density of noisy images.
    """
    times = ops.convert_to_tensor([1 / (model.config.discrete_steps or math.inf), 1.0])
    squares = _squared_signal_rates(model, times)
    log_snrs = np.log(squares) - np.log1p(-squares)
    smallest_noise_rate = math.sqrt(1 - squares[0])
    if smallest_noise_rate > CLEAN_NOISE_RATE:
        raise InputError(
            "bits per dimension by the flow need a model whose noise ends near zero, and the noise "
            f"rate of this one ends at {smallest_noise_rate:.2f}; train with --schedule linear or "
            "cosine"
        )
    random = np.random.default_rng(seed)
    scales = 255 * np.sqrt(ops.convert_to_numpy(model.pixel_variances).astype("float64"))
    bits_of_scale = np.mean(np.log2(scales))  # of the density of normalised pixels, per value
    denoise = backends.compile_denoise(model, gradients=True)
    bits, most_calls = [], 0
    for batch_images, batch_labels in _batches(images, labels, batch_size):
        conditional = denoise
        if model.num_classes:
            conditional = functools.partial(denoise, labels=batch_labels)
        values = batch_images + random.uniform(-0.5, 0.5, batch_images.shape)
        normalized = model.normalize(ops.convert_to_tensor(values / 255, dtype="float32"))
        log_densities, calls = flow_log_density(
            conditional, normalized, log_snrs, probes=probes, tolerance=tolerance, random=random
        )
        dims = math.prod(batch_images.shape[1:])
        bits.append(-log_densities / (dims * math.log(2)) + bits_of_scale)
        most_calls = max(most_calls, calls)
    return FlowBits(np.concatenate(bits), most_calls)


def flow_log_density(
    denoise: Denoise,
    images: Any,
    log_snrs: tuple[float, float],
    *,
    probes: int = 1,
    tolerance: float = 1e-5,
    random: np.random.Generator,
) -> tuple[np.ndarray, int]:
    """Log-density of images under the deterministic process (Song et al. 2021).

    Integrates the process from image to noise, whose density is standard normal, and with it the
    change of volume (their equation 39). In u = log(noise_rate / signal_rate) the process is

        d noisy_images / du = noise_rate (pred_noises - noise_rate noisy_images),

    which avoids the predicted image's division by small signal rates. The divergence is estimated
    with random signs v as v . (d pred_noises / d noisy_images) v (Hutchinson 1990, their equation
    40); each v is fixed for the whole trajectory. Solved by SciPy's adaptive Runge-Kutta pair of
    orders 5 and 4 in float64, with predictions in float32.

    Args:
        denoise: differentiable, such as `backends.compile_denoise(model, gradients=True)`.
        images: (B, ...), normalised.
        log_snrs: logarithm of the squared signal-to-noise ratio at the image end, where the images
            count as noisy ones, and at the noise end.
        probes: number of vectors v per image. One suffices for a mean over many images.
        tolerance: relative and absolute tolerance of the solver.

    Returns:
        (B,) in nats, and the number of calls of `denoise`.
    """
    from scipy.integrate import solve_ivp  # takes a second to import

    shape = tuple(images.shape)
    num_images, dims = shape[0], math.prod(shape[1:])
    signs = [
        ops.convert_to_tensor(random.choice([-1.0, 1.0], shape).astype("float32"))
        for _ in range(probes)
    ]
    rates_shape = (num_images,) + (1,) * (len(shape) - 1)

    def derivatives(u: float, state: np.ndarray) -> np.ndarray:
        signal_rate = 1 / math.hypot(1, math.exp(u))
        noise_rate = signal_rate * math.exp(u)
        noisy_images = ops.convert_to_tensor(state[:-num_images].reshape(shape).astype("float32"))
        rates = [ops.full(rates_shape, rate, dtype="float32") for rate in (noise_rate, signal_rate)]
        traces = np.zeros(num_images)
        for vector in signs:
            pred_noises, products = backends.vector_jacobian_product(
                lambda images: denoise(images, *rates)[0], noisy_images, vector
            )
            products = ops.convert_to_numpy(products * vector).astype("float64")
            traces += products.reshape(num_images, -1).sum(axis=1) / probes
        noises = ops.convert_to_numpy(pred_noises).astype("float64").ravel()
        drift = noise_rate * (noises - noise_rate * state[:-num_images])
        return np.concatenate([drift, noise_rate * (traces - noise_rate * dims)])

    first, last = (-log_snr / 2 for log_snr in log_snrs)
    first_signal_rate = 1 / math.hypot(1, math.exp(first))
    start = first_signal_rate * ops.convert_to_numpy(images).astype("float64").ravel()
    solution = solve_ivp(
        derivatives,
        (first, last),
        np.concatenate([start, np.zeros(num_images)]),
        rtol=tolerance,
        atol=tolerance,
        t_eval=[last],
    )
    if not solution.success:
        raise InputError(f"the flow could not be integrated: {solution.message}")
    noises, log_volumes = np.split(solution.y[:, -1], [num_images * dims])
    log_normal = -0.5 * (noises.reshape(num_images, dims) ** 2 + math.log(2 * math.pi)).sum(axis=1)
    return log_normal + log_volumes + dims * math.log(first_signal_rate), probes * solution.nfev


def _squared_signal_rates(model: DiffusionModel, times: Any) -> np.ndarray:
    """Alpha-bar at diffusion times, in float64; the ratio of rates keeps 1 - alpha-bar exact."""
    noise_rates, signal_rates = model.diffusion_schedule(times)
    ratios = ops.convert_to_numpy(noise_rates / signal_rates).astype("float64")
    return 1 / (1 + ratios**2)


def _batches(
    images: np.ndarray, labels: np.ndarray | None, batch_size: int
) -> Iterator[tuple[np.ndarray, Any]]:
    if images.dtype != np.uint8:
        raise InputError(f"bits per dimension need images of uint8, not of {images.dtype}")
    labels = np.full(len(images), -1) if labels is None else labels
    for start in range(0, len(images), batch_size):
        end = start + batch_size
        yield images[start:end], ops.convert_to_tensor(labels[start:end], dtype="int32")
