"""Settings to evaluate: samplers with their steps and guidance, and their generated images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddim_keras.cli.evaluate import EvaluateOptions
from ddim_keras.foreign import printable
from ddim_keras.guidance import Guidance
from ddim_keras.model import DiffusionModel
from ddim_keras.runs.folder import find_weights, load_guide
from ddim_keras.runs.manifest import sha256
from ddim_keras.samplers import Sampler
from ddim_keras.types import Callback


@dataclass(frozen=True)
class Setting:
    """A sampler, the signal rates of its steps, and guidance."""

    sampler: Sampler
    signal_rates: list[float]
    guidance: Guidance
    guide: Path | None = None  # as it was asked for
    has_classes: bool = False

    @property
    def steps(self) -> int:
        return len(self.signal_rates) - 1

    @property
    def name(self) -> str:
        """The name of the setting without its number of steps."""
        guidance = str(self.guidance)
        if self.guide and self.guidance.strength:
            guidance += f" by {printable(str(self.guide))}"
        return ", ".join(filter(None, (str(self.sampler), guidance)))

    @property
    def guide_sha256(self) -> str | None:
        """The hash of the guide's weights; None without a guide, or where it has no effect."""
        if self.guide is None or not self.guidance.strength:
            return None
        return sha256(find_weights(self.guide))

    def columns(self) -> dict[str, Any]:
        """The columns of the table that describe the setting."""
        is_guided = self.has_classes or bool(self.guidance.strength)
        return {
            "setting": self.name,
            "sampler": self.sampler.name,
            "spacing": self.sampler.spacing or "usual",
            "last_signal_rate": round(self.signal_rates[-2], 6),
            "steps": self.steps,
            "network_calls": self.sampler.network_calls(self.signal_rates, is_guided),
            "guidance": self.guidance.strength,
            "guide_sha256": self.guide_sha256,
            "eta": self.sampler.eta,
            "variance": self.sampler.variance,
            "clip": self.sampler.clip,
        }


def chosen_samplers(options: EvaluateOptions) -> list[Sampler]:
    """Each sampler with each spacing up to each last signal rate."""
    samplers = [
        Sampler(
            sampler,
            spacing,
            last_signal_rate,
            clip=options.clip,
            eta=options.eta,
            variance=options.variance,
        )
        for sampler in options.samplers
        for spacing in options.spacing
        # Searched steps have their own last signal rate.
        for last_signal_rate in ([None] if spacing == "searched" else options.last_signal_rate)
    ]
    return list(dict.fromkeys(samplers))  # each once


def chosen_guidance(options: EvaluateOptions, model: DiffusionModel) -> Guidance:
    """The guidance of all settings."""
    strength = options.strength(model.config)
    guide = None
    if options.guide:
        guide = load_guide(find_weights(options.guide), model, options.check_hashes)
    return Guidance(strength, options.guidance_interval, guide)


def chosen_settings(options: EvaluateOptions, model: DiffusionModel) -> list[Setting]:
    """All settings of the options; raises InputError for impossible ones."""
    guidance = chosen_guidance(options, model)
    return [
        Setting(
            sampler,
            sampler.signal_rates(model, steps),
            guidance,
            options.guide,
            has_classes=model.num_classes > 0,
        )
        for sampler in chosen_samplers(options)
        for steps in sorted(set(options.steps or ()))
    ]


def generate(
    options: EvaluateOptions,
    model: DiffusionModel,
    setting: Setting,
    seed: int,
    callback: Callback | None = None,
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """The chosen number of images generated with a setting, (N, H, W, C) in [0, 1]."""
    return model.generate(
        options.num_images,
        setting.steps,
        sampler=setting.sampler,
        seed=seed,
        batch_size=options.batch_size,
        callback=callback,
        labels=labels,
        guidance=setting.guidance,
    )
