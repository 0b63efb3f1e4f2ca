"""The run folder: everything that a training leaves behind, and how it is found and read again.

    runs/<name>/
      config.json         the model, the recipe, the data set: what `--resume` and generate.py need
      last.weights.h5     weights, EMA, optimizer and random state after the last saved step
      best.weights.h5     the same at the epoch of the best KID
      history.csv         a row an epoch
      curves.png          losses and KID
      samples/            a grid an epoch, always from the same noise
      report.md           the summary, written at the end

Files are written beside their final name and renamed, so that each is always whole.
"""

import csv
import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim_keras.config import InputError, ModelConfig, TrainingConfig, save_json

RUNS = Path("runs")


@dataclass(frozen=True)
class RunConfig:
    """What a run was started with."""

    preset: str
    model: ModelConfig
    training: TrainingConfig
    dataset: str | None  # as given by --dataset; None: the default
    data_dir: str | None
    epochs: int

    def to_dict(self) -> dict[str, Any]:
        """Returns nested dictionaries of JSON types."""
        values = {name: getattr(self, name) for name in ("preset", "dataset", "data_dir", "epochs")}
        return {
            **values,
            "model": self.model.to_dict(),
            "training": dataclasses.asdict(self.training),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """Inverse of `to_dict`."""
        parts = {
            "model": ModelConfig.from_dict(values["model"]),
            "training": TrainingConfig(**values["training"]),
        }
        return cls(**{**values, **parts})


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path

    @property
    def last_weights(self) -> Path:
        return self.folder / "last.weights.h5"

    @property
    def best_weights(self) -> Path:
        return self.folder / "best.weights.h5"

    @property
    def history_file(self) -> Path:
        return self.folder / "history.csv"

    def require_new(self) -> None:
        """Refuses a folder that already holds a run, so that nothing is lost."""
        if (self.folder / "config.json").exists():
            raise InputError(
                f"{self.folder} already holds a run; add --resume to continue it, or choose "
                "another --output"
            )

    def save_config(self, config: RunConfig) -> None:
        """Writes config.json, making the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_json(self.folder / "config.json", config.to_dict())

    def read_config(self) -> RunConfig:
        """Reads config.json; raises InputError where the folder is not a run."""
        return read_config(self.folder)

    def save_last(self, model: Any) -> None:
        """Saves the whole state of a training."""
        save_weights(model, self.last_weights)

    def keep_last_as_best(self) -> None:
        """Copies the last weights to the best ones."""
        part = self.best_weights.with_name("part." + self.best_weights.name)
        try:
            shutil.copyfile(self.last_weights, part)
            part.replace(self.best_weights)
        finally:
            part.unlink(missing_ok=True)

    def weights_to_show(self) -> Path:
        """The best weights or, where no KID was measured, the last."""
        self.read_config()
        for weights in (self.best_weights, self.last_weights):
            if weights.exists():
                return weights
        raise InputError(f"{self.folder} holds no weights yet: its first epoch has not ended")

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Writes history.csv anew: a row an epoch, empty cells where nothing was measured."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        part = self.history_file.with_name("history.csv.part")
        with open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        part.replace(self.history_file)

    def read_history(self) -> list[dict[str, Any]]:
        """Reads history.csv; an empty list where there is none."""
        if not self.history_file.exists():
            return []
        with open(self.history_file, newline="") as file:
            return [
                {name: _number(cell) for name, cell in row.items() if cell != ""}
                for row in csv.DictReader(file)
            ]


def _number(cell: str) -> int | float:
    return int(cell) if cell.isdigit() else float(cell)


def newest_run(runs: Path = RUNS) -> Run:
    """The run under `runs` whose weights were saved last."""
    weights = list(runs.glob("*/last.weights.h5"))
    if not weights:
        raise InputError(f"no run with weights under {runs}/; train one with: python train.py")
    return Run(max(weights, key=lambda path: path.stat().st_mtime).parent)


def read_config(folder: Path) -> RunConfig:
    """Reads the config.json of a folder; raises InputError where there is none, or it is broken."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is not a run folder: it holds no config.json")
    try:
        return RunConfig.from_dict(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not the configuration of a run ({error})") from error


def save_weights(model: Any, path: Path) -> None:
    """Saves all weights of a Keras model as `.weights.h5`, whole or not at all."""
    part = path.with_name("part." + path.name)  # Keras insists on the suffix
    try:
        model.save_weights(part, overwrite=True)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def load_weights(model: Any, path: Path) -> None:
    """Loads weights; raises InputError where they are missing, damaged or of another model."""
    if not path.is_file():
        raise InputError(f"there is no weights file {path}")
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{path} does not hold the weights of this model: it is damaged, or its config.json "
            f"describes another architecture ({type(error).__name__})"
        ) from error
