"""Guidance: predictions that are pushed away from worse ones.

A wrapper around `denoise`, so that every sampler has it. What is predicted is

    better + strength * (better - worse),

of noises and of images alike. Two kinds, told apart by the worse prediction:

- Classifier-free guidance (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, equation 6): the
  same network, which is not told the class. Images become more typical of their class, and less
  varied. The strength is the paper's w; the "guidance scale" of other libraries is 1 + strength.
- Autoguidance (Karras et al. 2024, https://arxiv.org/abs/2406.02507, equation 3): a guide, which is
  a worse network for the same class, such as an early checkpoint of the run. It needs no classes,
  and keeps more of the variety. The paper's w is 1 + strength.
"""

import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from keras import ops

from ddim_keras.config import GUIDANCE, MOST_GUIDANCE, InputError
from ddim_keras.types import Denoise, Tensor

# What `DiffusionModel.generate` takes: `guide(denoise, labels)` wraps a `denoise`.
Guide = Callable[[Callable[..., tuple[Tensor, Tensor]], Tensor], Denoise]


@dataclass(frozen=True)
class Guidance:
    """Guidance of `DiffusionModel.generate`; called as `guidance(denoise, labels)`.

    Costs no more network calls than sampling without it, but calls that are twice as large: the two
    predictions are made in one batch. With a guide, a call of each network. Outside the interval
    one prediction suffices.

    Args:
        strength: 0 is the better prediction alone, -1 the worse one; 0.5 to 3 are usual.
        interval: smallest and largest signal rate at which there is guidance, in [0, 1]; None: at
            all (Kynkaanniemi et al. 2024, https://arxiv.org/abs/2404.07724). A noise level sigma of
            that paper is the signal rate 1 / sqrt(1 + sigma**2): its interval for ImageNet at 512
            pixels, sigma from 0.19 to 1.61, is 0.53 to 0.98.
        guide: `denoise` of a worse model, such as its `compiled_denoise`, with images normalised
            alike. None: the model itself without the class.

    Raises:
        InputError: if the strength is no number up to MOST_GUIDANCE, or the interval not a part of
            [0, 1].
    """

    strength: float = 0.0
    interval: Sequence[float] | None = None
    guide: Callable[..., tuple[Tensor, Tensor]] | None = None

    def __call__(
        self, denoise: Callable[..., tuple[Tensor, Tensor]], labels: Tensor = None
    ) -> Denoise:
        """Wraps `denoise` of a model.

        Args:
            denoise: `denoise(noisy_images, noise_rates, signal_rates, labels=...)`, such as
                `DiffusionModel.compiled_denoise`.
            labels: (B,) integers, -1 for any class. None: of a model without classes, whose
                `denoise` takes none.

        Returns:
            A function `denoise(noisy_images, noise_rates, signal_rates)`.
        """
        told = {} if labels is None else {"labels": ops.convert_to_tensor(labels, dtype="int32")}
        if self.strength and not told and self.guide is None:
            raise InputError("guidance needs a model with classes, or a guide")
        if not self.strength and not told:
            return denoise  # itself, by which `ancestral_sampling` knows that one call suffices

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
                f"an interval of guidance must be two rising signal rates in [0, 1], not {low} and "
                f"{high}"
            )
        object.__setattr__(self, "interval", (low, high))

    def _is_at(self, signal_rates: Tensor) -> bool:
        """Whether there is guidance at the level of the batch, which is one for all images."""
        if self.interval is None:
            return True
        rate = float(ops.convert_to_numpy(signal_rates).flat[0])
        return self.interval[0] <= rate <= self.interval[1]

    @classmethod
    def of(cls, guidance: "Guide | float | None", labels: Tensor) -> "Guide":
        """Guidance for a strength; by default GUIDANCE if any image has a class, otherwise none."""
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
    """Guidance of `DiffusionModel.generate` from images of one class to images of another.

    Mixes the predictions for both (Liu et al. 2022, https://arxiv.org/abs/2206.01714, equation 11,
    with weights that sum to 1), with a share of the second that rises from 0 in the first image of
    a batch to 1 in the last. Costs the network calls of both.

    Args:
        first, second: the classes; the labels that `generate` is given do not matter.
        strength: of the guidance of each.
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
