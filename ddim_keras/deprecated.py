"""Deprecated names: they warn, and will be removed in the next release."""

import warnings
from collections.abc import Callable
from typing import Any

from ddim_keras.guidance import Guidance
from ddim_keras.samplers import SAMPLERS, Sampler
from ddim_keras.spacing import Spacing


def reverse_process(
    model: Any,
    sampler: str = "ddim",
    spacing: Spacing | None = None,
    last_signal_rate: float | None = None,
    **options: Any,
) -> Callable[..., Any]:
    """A function for `DiffusionModel.generate(reverse_process=...)`; use `Sampler` instead."""
    warnings.warn(
        "reverse_process is deprecated; give generate a sampler=, such as Sampler('ipndm')",
        DeprecationWarning,
        stacklevel=2,
    )
    chosen = Sampler(sampler, spacing, last_signal_rate)

    def process(
        initial_noise: Any, diffusion_steps: int, callback: Any = None, denoise: Any = None
    ) -> Any:
        return SAMPLERS[sampler](
            denoise or model.compiled_denoise,
            initial_noise,
            chosen.signal_rates(model, diffusion_steps),
            callback=callback,
            **options,
        )

    return process


def as_sampler(reverse_process: Callable[..., Any]) -> Sampler:
    """The sampler for `DiffusionModel.generate(reverse_process=...)`."""
    warnings.warn(
        "reverse_process= is deprecated; use sampler=, such as Sampler('ipndm')",
        DeprecationWarning,
        stacklevel=3,
    )

    def sample(denoise: Any, initial_noise: Any, signal_rates: Any, callback: Any = None) -> Any:
        return reverse_process(initial_noise, len(signal_rates) - 1, callback, denoise)

    return Sampler(sample)


def guided(denoise: Callable[..., Any], labels: Any, guidance: float = 0.0) -> Callable[..., Any]:
    """Classifier-free guidance; use `Guidance` instead."""
    warnings.warn(
        "guided is deprecated; use Guidance(strength)(denoise, labels)",
        DeprecationWarning,
        stacklevel=2,
    )
    return Guidance(guidance)(denoise, labels)
