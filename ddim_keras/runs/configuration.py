"""The configuration of a run: what it was started with, in config.json."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim_keras.config import InputError, ModelConfig, TrainingConfig, from_dict


@dataclass(frozen=True)
class RunConfig:
    """What a run was started with."""

    preset: str
    model: ModelConfig
    training: TrainingConfig
    dataset: str | None  # as --dataset takes it; None: the default, not loaded yet
    data_dir: str | None
    epochs: int
    num_images: int | None = None  # for training; None: not loaded yet
    class_names: tuple[str, ...] = ()  # of a class-conditional model
    protocol: str | None = None  # of the KID in the history; None: not measured yet
    start_from: str | None = None  # folder of the run whose weights were the initial ones

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, not {self.epochs}")

    def to_dict(self) -> dict[str, Any]:
        """Returns nested dictionaries of JSON types."""
        return {**dataclasses.asdict(self), "model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """Inverse of `to_dict`; raises InputError for fields that do not exist."""
        model = ModelConfig.from_dict(values["model"])
        training = from_dict(TrainingConfig, values["training"])
        return from_dict(cls, {**values, "model": model, "training": training})


def read_config(folder: Path) -> RunConfig:
    """Reads the config.json of a folder; raises InputError where there is none, or it is broken."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is not a run folder: it holds no config.json")
    try:
        return RunConfig.from_dict(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not the configuration of a run ({error})") from error
