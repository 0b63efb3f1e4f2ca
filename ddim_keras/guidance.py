"""Guidance: extrapolation of predictions away from worse ones.

A wrapper around `denoise`, so that every sampler can use it. Predicted noises and images are

    better + strength * (better - worse).

Two kinds differ in the worse prediction:

- Classifier-free guidance (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, equation 6): the
  same network without the class label. Images become more typical of their class, and less varied.
  The strength is the paper's w; the "guidance scale" of other libraries is 1 + strength.
- Autoguidance (Karras et al. 2024, https://arxiv.org/abs/2406.02507, equation 3): a guide, a worse
  network for the same class, such as an early checkpoint of the run. It needs no classes, and keeps
  more of the variety. The paper's w is 1 + strength.
"""

import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from keras import ops

from ddim_keras.config import GUIDANCE, MOST_GUIDANCE, InputError
from ddim_keras.types import Denoise, Tensor

# The `guidance` of `DiffusionModel.generate`: `guide(denoise, labels)` wraps a `denoise`.
Guide = Callable[[Callable[..., tuple[Tensor, Tensor]], Tensor], Denoise]


@dataclass(frozen=True)
class Guidance:
    """Guidance for `DiffusionModel.generate`; called as `guidance(denoise, labels)`.

    Takes as many network calls as sampling without guidance, each on a batch twice as large: both
    predictions are made in one call. A guide takes one call of each network. Outside the interval,
    only the better prediction is computed.

    Args:
        strength: 0 gives the better prediction, -1 the worse one; 0.5 to 3 are common.
        interval: smallest and largest signal rate with guidance, in [0, 1]; None: all
            (Kynkaanniemi et al. 2024, https://arxiv.org/abs/2404.07724). A noise level sigma of
            that paper is the signal rate 1 / sqrt(1 + sigma**2): its interval for ImageNet at 512
            pixels, sigma from 0.19 to 1.61, is 0.53 to 0.98.
        guide: `denoise` of a worse model, such as its `compiled_denoise`, with the same
            normalisation of images. None: the model itself, without the class.

    Raises:
        InputError: if the strength is not a number from -MOST_GUIDANCE to MOST_GUIDANCE, or the
            interval does not lie in [0, 1].
    """

    strength: float = 0.0
    interval: Sequence[float] | None = None
    guide: Callable[..., tuple[Tensor, Tensor]] | None = None

    def __call__(
        self, denoise: Callable[..., tuple[Tensor, Tensor]], labels: Tensor = None
    ) -> Denoise:
        """Wraps the `denoise` of a model.

        Args:
            denoise: `denoise(noisy_images, noise_rates, signal_rates, labels=...)`, such as
                `DiffusionModel.compiled_denoise`.
            labels: (B,) integers, -1 for any class. None: the model has no classes, and its
                `denoise` takes no labels.

        Returns:
            A function `denoise(noisy_images, noise_rates, signal_rates)`.
        """
        told = {} if labels is None else {"labels": ops.convert_to_tensor(labels, dtype="int32")}
        if self.strength and not told and self.guide is None:
            raise InputError("guidance needs a model with classes, or a guide")
        if not self.strength and not told:
            return denoise  # itself, so that `ancestral_sampling` sees that one call suffices

        def better(*inputs: Tensor) -> tuple[Tensor, Tensor]:
            return denoise(*inputs, **told)

        def better_and_worse(*inputs: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
            if self.guide is not None:
                return zip(better(*inputs), self.guide(*inputs, **told), strict=True)
            twice = [ops.concatenate([values, values]) for values in inputs]
            labels = ops.concatenate([told["labels"], ops.full_like(told["labels"], -1)])
            return (ops.split(both, 2) for both in denoise(*twice, labels=labels))

        def guided(
            noisy_images: Tensor, noise_rates: Tensor, signal_rates: Tensor
        ) -> tuple[Tensor, Tensor]:
            inputs = noisy_images, noise_rates, signal_rates
            if not self._is_at(signal_rates):
                return better(*inputs)
            pred_noises, pred_images = (
                (1.0 + self.strength) * good - self.strength * bad
                for good, bad in better_and_worse(*inputs)
            )
            return pred_noises, pred_images

        return guided if self.strength else better

    # Checks.

    def __post_init__(self) -> None:
        if not isinstance(self.strength, numbers.Real) or not abs(self.strength) <= MOST_GUIDANCE:
            raise InputError(
                f"the strength of guidance must be a number from {-MOST_GUIDANCE:g} to "
                f"{MOST_GUIDANCE:g}, not {self.strength!r}"
            )
        if self.interval is None:
            return
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise InputError(
                f"a guidance interval must be two rising signal rates in [0, 1], not {low} and "
                f"{high}"
            )
        object.__setattr__(self, "interval", (low, high))

    def _is_at(self, signal_rates: Tensor) -> bool:
        """Whether guidance applies at the noise level of the batch, the same for all images."""
        if self.interval is None:
            return True
        rate = float(ops.convert_to_numpy(signal_rates).flat[0])
        return self.interval[0] <= rate <= self.interval[1]

    @classmethod
    def of(cls, guidance: "Guide | float | None", labels: Tensor) -> "Guide":
        """Guidance of a given strength; by default GUIDANCE if any image has a class, else none."""
        if guidance is None:
            guidance = GUIDANCE if np.any(np.asarray(labels) >= 0) else 0.0
        return guidance if callable(guidance) else cls(guidance)

    def __str__(self) -> str:
        """Such as "guidance 1 at signal rates 0.5 to 0.98"; empty without guidance."""
        if not self.strength:
            return ""
        text = f"{'autoguidance' if self.guide else 'guidance'} {self.strength:g}"
        if self.interval is not None:
            text += f" at signal rates {self.interval[0]:g} to {self.interval[1]:g}"
        return text


def between_classes(first: int, second: int, strength: float = GUIDANCE) -> Guide:
    """Guidance for `DiffusionModel.generate` that mixes two classes, from the first to the second.

    Mixes the predictions for both (Liu et al. 2022, https://arxiv.org/abs/2206.01714, equation 11,
    with weights that sum to 1). The share of the second class rises from 0 in the first image of a
    batch to 1 in the last. Takes the network calls of both.

    Args:
        first, second: the classes; the labels given to `generate` are ignored.
        strength: strength of guidance for each class.
    """

    def guide(denoise: Callable[..., tuple[Tensor, Tensor]], labels: Tensor) -> Denoise:
        shares = ops.reshape(ops.linspace(0.0, 1.0, len(labels)), (-1, 1, 1, 1))
        sides = [
            Guidance(strength)(denoise, np.full(len(labels), label)) for label in (first, second)
        ]

        def mixed(*inputs: Tensor) -> tuple[Tensor, Tensor]:
            pred_noises, pred_images = (
                (1.0 - shares) * start + shares * end
                for start, end in zip(*(side(*inputs) for side in sides), strict=True)
            )
            return pred_noises, pred_images

        return mixed

    return guide
