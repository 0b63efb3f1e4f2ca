"""Denoising Diffusion Implicit Models in Keras 3: the public names.

Each is imported on first use, so that the Keras backend can be chosen until then.
"""

import importlib

_MODULES = {
    "DiffusionModel": "model",
    "ModelConfig": "config",
    "NetworkConfig": "config",
    "TrainingConfig": "config",
    "PRESETS": "presets",
    "InputError": "config",
    "Dataset": "data.cache",
    "load_dataset": "data.cache",
    "training_batches": "data.batches",
    "draw_flowers": "data.drawn_flowers",
    "Guidance": "guidance",
    "guided": "deprecated",
    "KernelInceptionDistance": "metrics.kid",
    "inception_encoder": "metrics.encoders",
    "compact_encoder": "metrics.encoders",
    "SinusoidalEmbedding": "network",
    "residual_unet": "network",
    "Run": "runs.folder",
    "RunConfig": "runs.configuration",
    "load_model": "runs.folder",
    "Sampler": "samplers",
    "reverse_process": "deprecated",
    "offset_cosine": "schedules",
    "train": "training.loop",
}
__all__ = list(_MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str):  # no type: importing `typing` takes longer than all the rest
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
