"""Denoising Diffusion Implicit Models in Keras 3: the public names.

Each is imported when it is first used, so that the Keras backend can still be chosen until then.
"""

import importlib
from typing import Any

_MODULES = {
    "DiffusionModel": "model",
    "ModelConfig": "config",
    "NetworkConfig": "config",
    "TrainingConfig": "config",
    "PRESETS": "config",
    "InputError": "config",
    "Dataset": "data",
    "load_dataset": "data",
    "training_batches": "data",
    "draw_flowers": "drawn_flowers",
    "guided": "guidance",
    "KernelInceptionDistance": "kid",
    "inception_encoder": "encoders",
    "compact_encoder": "encoders",
    "SinusoidalEmbedding": "network",
    "residual_unet": "network",
    "load_model": "runs",
    "reverse_process": "samplers",
    "offset_cosine": "schedules",
    "train": "training",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
