"""Samplers: from noise to images in few network calls.

Each sampler is a function

    sampler(denoise, initial_noise, signal_rates, *, clip_range=None, callback=None, **options)

that starts at the first of N + 1 signal rates, calls the network at each except the last, and
returns the images at the last rate: the predicted images if it is 1, otherwise noisy images.

    denoise: `denoise(noisy_images, noise_rates, signal_rates) -> pred_noises, pred_images`, such as
        `DiffusionModel.compiled_denoise`; it is called with rates of shape (B, 1, 1, 1).
    initial_noise: (B, H, W, C), standard normal, in the dtype to compute in.
    signal_rates: rising numbers in (0, 1], only the last of which may be 1; the noise rates are
        `sqrt(1 - signal_rates**2)`. `spacing.sampling_signal_rates` chooses them.
    clip_range: smallest and largest normalised pixel value, each a number or an array (C,).
        Predicted images are clipped to it, and predicted noises follow. None: no clipping.
    callback: called as `callback(step, noisy_images, pred_images)` in each of the N steps.

`Sampler`, below the functions, combines one of them with its step placement and options.

All except DDIM with fresh noise solve one ordinary differential equation (Song et al. 2020,
https://arxiv.org/abs/2010.02502, equation 14):

    d(noisy_images / signal_rate) = pred_noises d(noise_rate / signal_rate).

A step adds the mean of the predicted noises over its length, which each sampler estimates
differently. "Order p" means that the error at a last signal rate below 1 falls as N**-p as a smooth
spacing is refined. The step to signal rate 1 always has order 1: its result is `pred_images`.

The equation also runs backwards. Along falling signal rates below 1, images become the noise that
encodes them ("DDIM inversion"), and the same rates, rising, decode it:

    rates = sampling_signal_rates(steps)[:-1]
    noise = ddim(denoise, rates[-1] * images, rates[::-1])
    images = ddim(denoise, noise, rates) / rates[-1]
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from ddim_keras.config import FRESH_NOISE_VARIANCES, InputError
from ddim_keras.schedules import UpTo
from ddim_keras.spacing import SPACINGS, Spacing, sampling_signal_rates
from ddim_keras.types import Callback, Denoise, Tensor

# With fewer steps, the last has order 1: extrapolation over such long steps overshoots.
STEPS_FOR_HIGH_ORDER_END = 15


class Level(NamedTuple):
    """A noise level: the rates of signal and noise in the noisy images."""

    signal_rate: float
    noise_rate: float

    @property
    def log_snr(self) -> float:
        """The logarithm of the squared signal-to-noise ratio; twice the lambda of DPM-Solver."""
        return 2.0 * math.log(self.signal_rate / self.noise_rate)


def ddim(
    denoise: Denoise,
    initial_noise: Tensor,
    signal_rates: Sequence[float],
    *,
    clip_range: tuple[Tensor, Tensor] | None = None,
    callback: Callback | None = None,
    eta: float = 0.0,
    variance: str = "small",
    seed: int | keras.random.SeedGenerator | None = None,
    fresh_noises: Iterable[Tensor] | None = None,
) -> Tensor:
    """DDIM (Song et al. 2020, equations 12 and 16). Order 1, one network call per step.

    Mixes the predicted image and noise again at the next noise level. With `eta` above 0, fresh
    noise replaces a part of the predicted noise.

    Args:
        eta: 0 for the deterministic process, 1 for the ancestral sampling of DDPM (Ho et al. 2020,
            https://arxiv.org/abs/2006.11239, algorithm 2), or a value between.
        variance: variance of the fresh noise: "small" as in the posterior given the image
            (beta-tilde of DDPM), exact if the data is a single image; "large" as in the forward
            step (beta of DDPM, sigma-hat of Song et al. 2020, section 5), exact for standard normal
            data.
        seed: seed of the fresh noise; a generator draws different noise for each batch.
        fresh_noises: the noises themselves instead of a seed, one for each step that adds noise,
            each with the shape of `initial_noise`.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta must be in [0, 1], not {eta}")
    if variance not in ("small", "large"):
        raise InputError(f"variance must be one of small, large, not {variance!r}")
    noisy_images, levels, predict = _start(denoise, initial_noise, signal_rates, clip_range)
    if eta > 0 and levels[-1].signal_rate < levels[0].signal_rate:
        raise InputError("signal rates that fall need eta 0: encoding adds no fresh noise")
    shape, dtype = ops.shape(noisy_images), noisy_images.dtype
    if fresh_noises is None:
        draw = functools.partial(keras.random.normal, shape, dtype=dtype, seed=as_generator(seed))
        fresh_noises = (draw() for _ in levels)
    fresh_noises = iter(fresh_noises)

    for step, (level, next_level) in enumerate(itertools.pairwise(levels)):
        pred_noises, pred_images = predict(noisy_images, level)
        if callback is not None:
            callback(step, noisy_images, pred_images)

        kept_rate = next_level.noise_rate
        added_noises = 0.0
        if eta > 0 and next_level.noise_rate > 0:
            snr_ratio = math.exp(level.log_snr - next_level.log_snr)
            fresh_rate = eta * next_level.noise_rate * math.sqrt(1 - snr_ratio)
            kept_rate = math.sqrt(next_level.noise_rate**2 - fresh_rate**2)
            if variance == "large":
                fresh_rate = eta * math.sqrt(1 - (level.signal_rate / next_level.signal_rate) ** 2)
            added_noises = fresh_rate * next_noise(fresh_noises, dtype)
        noisy_images = next_level.signal_rate * pred_images + kept_rate * pred_noises + added_noises
    return noisy_images


def next_noise(fresh_noises: Iterator[Tensor], dtype: str) -> Tensor:
    """The next of the given noises; raises InputError if there is none left."""
    noise = next(fresh_noises, None)
    if noise is None:
        raise InputError("fresh_noises has too few: each step that adds noise needs one")
    return ops.convert_to_tensor(noise, dtype=dtype)


def adams_bashforth(
    denoise: Denoise,
    initial_noise: Tensor,
    signal_rates: Sequence[float],
    *,
    clip_range: tuple[Tensor, Tensor] | None = None,
    callback: Callback | None = None,
    order: int = 4,
    equal_steps: bool = False,
) -> Tensor:
    """Adams-Bashforth multistep, one network call per step: extrapolates the predicted noises.

    For steps of any size: integrates exactly the polynomial in the log-SNR through the last
    `order` predictions. This is DEIS (Zhang and Chen 2022, https://arxiv.org/abs/2204.13902) with
    the polynomial in log-rho, as in the library diffusers; the paper uses time or rho.

    Args:
        order: 2, 3 or 4. With no history yet, the first steps use orders 1, 2, ...; their errors,
            of N**-2 and N**-3, limit the global order to 2 unless these steps are shorter than the
            rest. At few steps the higher orders are more accurate nevertheless.
        equal_steps: use the weights for equal steps of noise_rate / signal_rate, whatever the
            actual steps; see `ipndm`.
    """
    if order not in (2, 3, 4):
        raise InputError(f"order must be 2, 3 or 4, not {order}")
    noisy_images, levels, predict = _start(denoise, initial_noise, signal_rates, clip_range)
    past_levels: list[Level] = []
    past_noises: list[Tensor] = []
    for step, (level, next_level) in enumerate(itertools.pairwise(levels)):
        pred_noises, pred_images = predict(noisy_images, level)
        if callback is not None:
            callback(step, noisy_images, pred_images)

        # Newest first; their number is the order of this step.
        step_order = _order_of_step(order, step, levels)
        past_levels = [level, *past_levels][:step_order]
        past_noises = [pred_noises, *past_noises][:step_order]
        weights: Sequence[float] = EQUAL_STEP_WEIGHTS[step_order]
        if step_order > 1 and not equal_steps:
            weights = _variable_step_weights(past_levels, next_level)
        noises = sum(weight * past for weight, past in zip(weights, past_noises, strict=True))
        noisy_images = _move(noisy_images, noises, level, next_level)
    return noisy_images


def ipndm(
    denoise: Denoise,
    initial_noise: Tensor,
    signal_rates: Sequence[float],
    **options: Any,
) -> Tensor:
    """iPNDM: `adams_bashforth` with the weights for equal steps, whatever the actual steps.

    PNDM (Liu et al. 2022, https://arxiv.org/abs/2202.09778) with lower orders in the first steps;
    the name is from the DEIS paper. Order 2 for every `order`, yet often the best at 5 to 10 steps.
    """
    return adams_bashforth(denoise, initial_noise, signal_rates, equal_steps=True, **options)


def dpm_solver(
    denoise: Denoise,
    initial_noise: Tensor,
    signal_rates: Sequence[float],
    *,
    clip_range: tuple[Tensor, Tensor] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, https://arxiv.org/abs/2211.01095, algorithm 2).

    Order 2, one network call per step. Extrapolates the predicted images, not the noises: linearly
    in the log-SNR from the last two, to the middle of the step.
    """
    noisy_images, levels, predict = _start(denoise, initial_noise, signal_rates, clip_range)
    past_level: Level = levels[0]
    past_images: Tensor = None
    for step, (level, next_level) in enumerate(itertools.pairwise(levels)):
        _, pred_images = predict(noisy_images, level)
        if callback is not None:
            callback(step, noisy_images, pred_images)

        images = pred_images
        if _order_of_step(2, step, levels) == 2:
            step_size = next_level.log_snr - level.log_snr
            past_step_size = level.log_snr - past_level.log_snr
            images = images + step_size / (2 * past_step_size) * (pred_images - past_images)
        # A DDIM step with `images` as the predicted images.
        scale = next_level.noise_rate / level.noise_rate
        noisy_images = (
            scale * noisy_images + (next_level.signal_rate - scale * level.signal_rate) * images
        )
        past_level, past_images = level, pred_images
    return noisy_images


def heun(
    denoise: Denoise,
    initial_noise: Tensor,
    signal_rates: Sequence[float],
    *,
    clip_range: tuple[Tensor, Tensor] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Heun's method (Karras et al. 2022, https://arxiv.org/abs/2206.00364, algorithm 1).

    Order 2, two network calls per step, except for one in the step to signal rate 1. Averages the
    noises predicted at the two ends of a DDIM step.
    """
    noisy_images, levels, predict = _start(denoise, initial_noise, signal_rates, clip_range)
    for step, (level, next_level) in enumerate(itertools.pairwise(levels)):
        noises, pred_images = predict(noisy_images, level)
        if callback is not None:
            callback(step, noisy_images, pred_images)

        if next_level.noise_rate > 0:
            end_noises, _ = predict(_move(noisy_images, noises, level, next_level), next_level)
            noises = (noises + end_noises) / 2
        noisy_images = _move(noisy_images, noises, level, next_level)
    return noisy_images


# Steps and their orders.


def _move(noisy_images: Tensor, noises: Tensor, level: Level, next_level: Level) -> Tensor:
    """A step of deterministic DDIM with `noises` as the predicted noises."""
    scale = next_level.signal_rate / level.signal_rate
    return scale * noisy_images + (next_level.noise_rate - scale * level.noise_rate) * noises


def _order_of_step(order: int, step: int, levels: list[Level]) -> int:
    """The order of a multistep sampler in one step: lower in the first, and in some last steps."""
    steps = len(levels) - 1
    if step == steps - 1 and (steps < STEPS_FOR_HIGH_ORDER_END or levels[-1].noise_rate == 0):
        return 1
    return min(order, step + 1)


# Adams-Bashforth weights of the predicted noises, newest first, for equal steps.
EQUAL_STEP_WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
QUADRATURE_POINTS, QUADRATURE_WEIGHTS = np.polynomial.legendre.leggauss(8)  # on [-1, 1]


def _variable_step_weights(levels: list[Level], next_level: Level) -> list[float]:
    """Weights of the noises predicted at `levels`, newest first, for the next step.

    For n levels they give the exact mean over the step of any polynomial in the log-SNR of degree
    below n. The mean is over noise_rate / signal_rate = exp(-log_snr / 2).
    """
    start, end = levels[0].log_snr, next_level.log_snr
    points = (QUADRATURE_POINTS + 1) / 2  # of the log-SNR, 0 at the start of the step, 1 at its end
    density = QUADRATURE_WEIGHTS * np.exp(-points * (end - start) / 2)
    positions = np.array([(level.log_snr - start) / (end - start) for level in levels])
    powers = np.arange(len(levels))[:, None]
    means = points**powers @ density / np.sum(density)
    return np.linalg.solve(positions**powers, means).tolist()


# A sampler with its step placement and options.

# Keyed by the names in `config.SAMPLERS`.
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddim": ddim,
    "adams_bashforth": adams_bashforth,
    "ipndm": ipndm,
    "dpm_solver": dpm_solver,
    "heun": heun,
}
# Of 0.85, 0.9 and 0.94, 0.9 gave iPNDM the lowest training-set KID at 10 and 20 steps uniform in
# time; at 5 steps hardly more than 0.85 (0.0449 and 0.0443). Measured on an earlier included model.
LAST_SIGNAL_RATE = 0.9


@dataclass(frozen=True)
class Sampler:
    """A sampler with its steps and options: `model.generate(8, 10, sampler=Sampler("ipndm"))`.

    It is called like the functions above.

    Args:
        method: a name in SAMPLERS, or your own function with their signature.
        spacing, last_signal_rate: as for `spacing.sampling_signal_rates`; "searched" means the
            steps found for the model. By default, steps are uniform in "time". For DDIM and your
            own functions they are those of `DiffusionModel.reverse_diffusion`; for the other
            samplers the last signal rate is LAST_SIGNAL_RATE by default.
        clip: whether predicted images are clipped to the range of pixels.
        eta: share of fresh noise in each step of `ddim`, 0 to 1.
        variance: variance of that noise, "small" or "large" as for `ddim`; or "learned", with an
            eta of 1, as predicted by the network of a LearnedVarianceModel.

    Raises:
        InputError: for an unknown name, or an option that the sampler does not have.
    """

    method: str | Callable[..., Tensor] = "ddim"
    spacing: Spacing | None = None
    last_signal_rate: float | None = None
    clip: bool = False
    eta: float = 0.0
    variance: str = "small"

    def __post_init__(self) -> None:
        if self.method not in SAMPLERS and not callable(self.method):
            raise InputError(f"sampler must be one of {', '.join(SAMPLERS)}, not {self.method!r}")
        if isinstance(self.spacing, str) and self.spacing not in (*SPACINGS, "searched"):
            raise InputError(
                f"spacing must be one of {', '.join(SPACINGS)}, searched, not {self.spacing!r}"
            )
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta must be in [0, 1], not {self.eta}")
        if self.eta and self.method != "ddim":
            raise InputError(f"eta is an option of the sampler ddim, not of {self.name}")
        if self.variance not in FRESH_NOISE_VARIANCES:
            raise InputError(
                f"variance must be one of {', '.join(FRESH_NOISE_VARIANCES)}, not {self.variance!r}"
            )
        if self.variance != "small" and not self.eta:
            raise InputError(f"{self.variance} variances need fresh noise; give an eta above 0")
        if self.variance == "learned" and self.eta != 1:
            raise InputError(f"learned variances need an eta of 1, not {self.eta}")

    @classmethod
    def of(cls, sampler: "Sampler | str | Callable[..., Tensor]") -> "Sampler":
        """A `Sampler` unchanged; for a name or a function, a sampler with the default steps."""
        return sampler if isinstance(sampler, Sampler) else cls(sampler)

    @property
    def function(self) -> Callable[..., Tensor]:
        """The sampling function, without the options."""
        return SAMPLERS[self.method] if isinstance(self.method, str) else self.method

    def signal_rates(self, model: Any, steps: int, first_time: float = 1.0) -> list[float]:
        """The signal rates of a number of steps for a DiffusionModel: where it is called, and 1.

        Args:
            first_time: diffusion time of the first call. Below 1 sampling starts from noisy images,
                and every sampler follows the schedule to its end by default.
        """
        spacing, last_signal_rate = self.spacing, self.last_signal_rate
        if spacing == "searched" and first_time < 1:
            raise InputError("searched steps start from pure noise; choose another spacing")
        if spacing is None:
            spacing = "time"
            follows_schedule = self.method == "ddim" or callable(self.method) or first_time < 1
            if last_signal_rate is None and not follows_schedule:
                last_signal_rate = LAST_SIGNAL_RATE
        elif spacing == "searched":
            spacing = model.searched_steps
        schedule = model.schedule if first_time == 1 else UpTo(model.schedule, first_time)
        return sampling_signal_rates(steps, spacing, last_signal_rate, schedule)

    def __call__(
        self, denoise: Denoise, initial_noise: Tensor, signal_rates: Sequence[float], **options: Any
    ) -> Tensor:
        """Samples along these signal rates."""
        if self.eta:
            options = {"eta": self.eta, "variance": self.variance, **options}
        return self.function(denoise, initial_noise, signal_rates, **options)

    def reverse_diffusion(
        self,
        model: Any,
        initial_noise: Tensor,
        diffusion_steps: int,
        callback: Callback | None = None,
        denoise: Denoise | None = None,
        fresh_noises: Iterable[Tensor] | None = None,
    ) -> Tensor:
        """Like `DiffusionModel.reverse_diffusion`, with this sampler.

        Args:
            fresh_noises: for eta above 0, see `ddim`; by default new ones in each call.
        """
        options: dict[str, Any] = {"callback": callback}
        if self.clip:
            options["clip_range"] = model.pixel_range
        if self.eta:
            options["fresh_noises"] = fresh_noises
        function: Callable[..., Tensor] = self
        if self.variance == "learned":
            if not hasattr(model, "ancestral_sampling"):
                raise InputError("this model has no learned variances; choose small or large")
            function = model.ancestral_sampling
        return function(
            denoise or model.compiled_denoise,
            ops.convert_to_tensor(initial_noise, dtype="float32"),
            self.signal_rates(model, diffusion_steps),
            **options,
        )

    def network_calls(self, signal_rates: Sequence[float], is_guided: bool = False) -> int:
        """The number of network calls per image, counted by sampling a single pixel.

        Args:
            is_guided: whether there are classes or guidance; learned variances then need a call of
                their own per step.
        """
        calls = 0

        def denoise(
            noisy_images: Tensor, noise_rates: Tensor, signal_rates: Tensor
        ) -> tuple[Tensor, Tensor]:
            nonlocal calls
            calls += 1
            return noisy_images, noisy_images

        without_noise = dataclasses.replace(self, eta=0.0, variance="small")
        without_noise(denoise, np.zeros((1, 1, 1, 1), "float32"), signal_rates)
        return 2 * calls if self.variance == "learned" and is_guided else calls

    @property
    def name(self) -> str:
        """The name of the method."""
        if isinstance(self.method, str):
            return self.method
        return getattr(self.method, "__name__", "own sampler")

    def __str__(self) -> str:
        """The method and all options that differ from the defaults, such as "heun, rho to 0.98"."""
        text = self.name
        if self.spacing is not None:
            text += f", {self.spacing if isinstance(self.spacing, str) else 'searched'}"
        if self.last_signal_rate is not None:
            text += f" to {self.last_signal_rate:g}"
        if self.eta:
            text += f", eta {self.eta:g}"
        if self.variance != "small":
            text += f", {self.variance} variances"
        return text + (", clipped" if self.clip else "")


# Checks, and noises.


def _start(
    denoise: Denoise,
    initial_noise: Tensor,
    signal_rates: Sequence[float],
    clip_range: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, list[Level], Callable[[Tensor, Level], tuple[Tensor, Tensor]]]:
    """Checks the arguments; returns the noise tensor, the levels, and a `denoise` of levels."""
    rates = [float(rate) for rate in signal_rates]
    pairs = list(itertools.pairwise(rates))
    if not pairs or not (all(a < b for a, b in pairs) or all(a > b for a, b in pairs)):
        raise InputError(f"signal rates must be two or more, rising or falling, not {rates}")
    if min(rates) <= 0 or max(rates) > 1 or rates[0] == 1:
        raise InputError(f"signal rates must be in (0, 1], and the first below 1, not {rates}")
    levels = [Level(rate, math.sqrt((1 - rate) * (1 + rate))) for rate in rates]
    initial_noise = ops.convert_to_tensor(initial_noise)
    dtype = initial_noise.dtype

    def predict(noisy_images: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        shape = (ops.shape(noisy_images)[0], 1, 1, 1)
        noise_rates = ops.full(shape, level.noise_rate, dtype=dtype)
        signal_rates = ops.full(shape, level.signal_rate, dtype=dtype)
        pred_noises, pred_images = denoise(noisy_images, noise_rates, signal_rates)
        if clip_range is not None:
            smallest, largest = (ops.convert_to_tensor(end, dtype=dtype) for end in clip_range)
            pred_images = ops.clip(pred_images, smallest, largest)
            pred_noises = (noisy_images - signal_rates * pred_images) / noise_rates
        return pred_noises, pred_images

    return initial_noise, levels, predict


def as_generator(seed: int | keras.random.SeedGenerator | None) -> keras.random.SeedGenerator:
    """`seed` itself if it is a generator; for a number or None, a new one."""
    is_generator = isinstance(seed, keras.random.SeedGenerator)
    return seed if is_generator else keras.random.SeedGenerator(seed)


def image_noises(shape: tuple[int, ...], seed: int, images: Iterable[int], *key: int) -> np.ndarray:
    """Standard normal noises, one for each image.

    They depend only on the seed, the image's number and the key, not on the batch size or the
    backend.

    Args:
        shape: shape of the noise of one image.
        seed: 0 or more.
        images: numbers of the images, each 0 or more.
        key: distinguishes the noises of one image, such as the step and the repetition.

    Returns:
        (len(images), *shape), float32.
    """
    sequences = (np.random.SeedSequence(seed, spawn_key=(image, *key)) for image in images)
    generators = map(np.random.default_rng, sequences)
    return np.stack([each.standard_normal(shape, dtype="float32") for each in generators])


def image_noises_of_steps(
    shape: tuple[int, ...], seed: int, images: Iterable[int]
) -> Iterator[np.ndarray]:
    """Fresh noises for `ddim`, step by step; see `image_noises`."""
    numbers = list(images)
    return (image_noises(shape, seed, numbers, step) for step in itertools.count())
