"""What is evaluated: samplers with their steps, and the images that they generate."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ddim_keras.cli.evaluate import EvaluateOptions
from ddim_keras.model import DiffusionModel
from ddim_keras.samplers import Callback, Sampler


@dataclass(frozen=True)
class Setting:
    """A sampler, and how many steps it makes."""

    sampler: Sampler
    steps: int
    guidance: float
    signal_rates: list[float]

    @property
    def name(self) -> str:
        """All settings that differ in the number of steps alone have one name."""
        return f"{self.sampler}" + (f", guidance {self.guidance:g}" if self.guidance else "")

    def columns(self) -> dict[str, Any]:
        """What the table says about the setting."""
        return {
            "setting": self.name,
            "sampler": self.sampler.name,
            "spacing": self.sampler.spacing or "usual",
            "last_signal_rate": round(self.signal_rates[-2], 6),
            "steps": self.steps,
            "network_calls": self.sampler.network_calls(self.signal_rates),
            "guidance": self.guidance,
            "eta": self.sampler.eta,
        }


def chosen_samplers(options: EvaluateOptions) -> list[Sampler]:
    """Each sampler with each spacing up to each last signal rate."""
    return [
        Sampler(sampler, spacing, last_signal_rate, eta=options.eta)
        for sampler in options.samplers
        for spacing in options.spacing
        # Searched steps have their own last signal rate.
        for last_signal_rate in ([None] if spacing == "searched" else options.last_signal_rate)
    ]


def chosen_settings(options: EvaluateOptions, model: DiffusionModel) -> list[Setting]:
    """All that the command line asks for; raises InputError for what does not exist."""
    return [
        Setting(sampler, steps, options.guidance, sampler.signal_rates(model, steps))
        for sampler in chosen_samplers(options)
        for steps in sorted(set(options.steps))
    ]


def generate(
    options: EvaluateOptions,
    model: DiffusionModel,
    sampler: Sampler,
    steps: int,
    seed: int,
    callback: Callback | None = None,
) -> np.ndarray:
    """As many images as asked for, (N, H, W, C) in [0, 1], by a sampler in so many steps."""
    return model.generate(
        options.num_images,
        steps,
        sampler=sampler,
        seed=seed,
        batch_size=options.batch_size,
        callback=callback,
        guidance=options.guidance,
    )
