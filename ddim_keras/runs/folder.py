"""The run folder: the files of a training, and how they are found and read.

    runs/<name>/
      config.json         model, recipe and data set; needed by `--resume` and generate.py
      manifest.json       hashes of the configuration and the weights
      last.weights.h5     weights, EMA, optimizer and random state after the last saved step
      best.weights.h5     the same at the epoch of the best KID
      sampling_steps.json step placement found by `evaluate.py --search-steps`; removed when
                          further training changes the best weights
      history.csv         a row per epoch
      curves.png          losses and KID
      samples/            a grid per epoch, always from the same noise, and its images as an array
      guides/             averages of some early epochs in half precision, for --guide
      averages/           averages of other lengths, for `train.py --averages`
      report.md           the summary, written at the end

Files are written atomically: under a temporary name in the same folder, then renamed.
"""

import contextlib
import csv
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim_keras.atomic import require_writable, written_whole
from ddim_keras.config import InputError
from ddim_keras.foreign import contents_of, read_json, read_table
from ddim_keras.memory import require_memory_for
from ddim_keras.runs.configuration import RunConfig, read_config
from ddim_keras.runs.lock import NAME as LOCK
from ddim_keras.runs.manifest import recorded, sha256, verify
from ddim_keras.runs.weights import load_weights, require_finite, save_weights

RUNS = Path("runs")
# Columns of history.csv that every epoch has; the noise loss or trajectory loss comes first.
HISTORY = ("epoch", "images", "seconds", "image_loss", "val_image_loss")
FEW_IMAGES = 30_000  # seen in training: below, samples of 64 px are mostly coloured noise
PRETRAINED = Path(__file__).parents[1] / "pretrained" / "flowers"  # included in the project


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))

    @property
    def config_file(self) -> Path:
        return self.folder / "config.json"

    @property
    def last_weights(self) -> Path:
        return self.folder / "last.weights.h5"

    @property
    def best_weights(self) -> Path:
        return self.folder / "best.weights.h5"

    @property
    def history_file(self) -> Path:
        return self.folder / "history.csv"

    @property
    def sampling_steps_file(self) -> Path:
        return self.folder / "sampling_steps.json"

    def require_new(self) -> None:
        """Raises InputError if the folder is not empty, so that nothing is lost."""
        if self.config_file.exists():
            raise InputError(
                f"{self.folder} already holds a run; add --resume to continue it, or choose "
                "another --output"
            )
        if self.folder.exists() and not (
            self.folder.is_dir() and all(path.name == LOCK for path in self.folder.iterdir())
        ):
            raise InputError(f"{self.folder} is not an empty folder; choose another --output")

    def save_config(self, config: RunConfig) -> None:
        """Writes config.json; creates the folder if necessary."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with recorded(self.config_file) as part:
            part.write_text(json.dumps(config.to_dict(), indent=2) + "\n")

    def read_config(self) -> RunConfig:
        """Reads config.json; raises InputError if the folder is not a run folder."""
        return read_config(self.folder)

    def save_last(self, model: Any) -> None:
        """Saves the complete state of a training; raises InputError if it is not finite."""
        require_finite(model, f"{self.last_weights} is kept as it was")
        if not self.best_weights.exists():
            self.forget_sampling_steps()
        save_weights(model, self.last_weights)

    def keep_last_as_best(self) -> None:
        """Copies the last weights to the best ones."""
        self.forget_sampling_steps()
        with recorded(self.best_weights) as part:
            shutil.copyfile(self.last_weights, part)

    def repair(self, epoch: int) -> None:
        """Completes the files of an epoch if the process was killed between writing two of them.

        The best weights are copied if the last weights are those of the best epoch in the history.
        """
        kids = {row["epoch"]: row["kid"] for row in self.read_history() if "kid" in row}
        if not kids or min(kids, key=lambda epoch: kids[epoch]) != epoch:
            return
        if not self.best_weights.exists() or sha256(self.best_weights) != sha256(self.last_weights):
            self.keep_last_as_best()

    def weights_to_show(self) -> Path:
        """The best weights or, if no KID was measured, the last."""
        self.read_config()
        for weights in (self.best_weights, self.last_weights):
            if weights.exists():
                return weights
        raise InputError(f"{self.folder} holds no weights yet: its first epoch has not ended")

    def save_sampling_steps(self, signal_rates: Mapping[int, Sequence[float]]) -> None:
        """Adds searched signal rates, for each number of steps, to sampling_steps.json."""
        known = self.read_sampling_steps() if self.sampling_steps_file.exists() else {}
        with written_whole(self.sampling_steps_file) as part:
            part.write_text(json.dumps({**known, **signal_rates}, indent=2) + "\n")

    def forget_sampling_steps(self) -> None:
        """Removes sampling_steps.json; to be called before its weights are replaced."""
        self.sampling_steps_file.unlink(missing_ok=True)

    def read_sampling_steps(self) -> dict[int, list[float]]:
        """Reads sampling_steps.json: the searched signal rates for each number of steps.

        Raises:
            InputError: if none were searched yet, or the file is broken.
        """
        path = self.sampling_steps_file
        if not path.exists():
            raise InputError(
                f"no steps have been searched for {self.folder}; first: "
                f"python evaluate.py --run {self.folder} --search-steps 5 10 20"
            )
        with contents_of(path, "a file of searched steps", "; remove it, and search again"):
            signal_rates = {
                int(steps): [float(rate) for rate in rates]
                for steps, rates in read_json(path).items()
            }
            for steps, rates in signal_rates.items():
                if steps < 1 or len(rates) != steps + 1:
                    raise ValueError("N steps need N + 1 signal rates")
                if rates[0] <= 0 or rates[-1] != 1 or sorted({*rates}) != rates:
                    raise ValueError("signal rates must rise from above 0 to 1")
            return signal_rates

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Rewrites history.csv: a row per epoch, empty cells for values not measured."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with written_whole(self.history_file) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    def read_history(self) -> list[dict[str, Any]]:
        """Reads history.csv without empty cells; returns an empty list if there is no file."""
        if not self.history_file.exists():
            return []
        advice = "; repair the file, or move it aside to start a new one"
        with contents_of(self.history_file, "the history of a run", advice):
            rows = read_table(self.history_file)
            first = "trajectory_loss" if rows and "trajectory_loss" in rows[0] else "noise_loss"
            columns = (*HISTORY, first, f"val_{first}")
            for row in rows:
                if missing := [name for name in columns if name not in row]:
                    raise ValueError(f"a row has no {', '.join(missing)}")
                if texts := [name for name, cell in row.items() if isinstance(cell, str)]:
                    raise ValueError(f"{', '.join(texts)} of an epoch is not a number")
                if not all(math.isfinite(float(row[name])) for name in columns):
                    raise ValueError("a number of an epoch is not finite")
                if not all(isinstance(row[name], int) for name in ("epoch", "images")):
                    raise ValueError("an epoch, or its number of images, is no whole number")
                if float(row["epoch"]) < 1:
                    raise ValueError("the first epoch is 1")
            return rows


def newest_run(runs: Path = RUNS, with_weights: bool = True) -> Run:
    """The run under `runs` that was started or resumed last, according to its configuration.

    Args:
        with_weights: whether it must have weights; if no run has, the included model is used.
    """
    file = "last.weights.h5" if with_weights else "config.json"
    folders = {path.parent for path in runs.glob(f"*/{file}")}
    if not folders and with_weights and PRETRAINED.exists():
        return Run(PRETRAINED)
    if not folders:
        what = "no run with weights" if with_weights else "no run"
        raise InputError(f"{what} under {runs}/; train one with: python train.py")

    def started(folder: Path) -> tuple[str, str]:
        with contextlib.suppress(InputError):
            return read_config(folder).started or "", folder.name  # older runs have no time
        return "", ""

    return Run(max(folders, key=started))


def find_run(name: str | Path | None, with_weights: bool = True) -> Run:
    """The run of a given name: a folder, a name under runs/, or an included model.

    Args:
        name: None means the newest run; see `newest_run`.

    Raises:
        InputError: if there is no such run; the message lists the places searched.
    """
    if name is None:
        return newest_run(with_weights=with_weights)
    places = [Path(name), RUNS / name, PRETRAINED.parent / name]
    for folder in places:
        if (folder / "config.json").is_file():
            return Run(folder)
    if places[0].is_dir():
        return Run(places[0])  # missing files raise errors when they are read
    provided = ", ".join(sorted(path.name for path in PRETRAINED.parent.glob("*/")))
    raise InputError(
        f"there is no run {name}: neither the folder {name}, nor {RUNS / name}, nor an included "
        f"model of that name ({provided})"
    )


def load_model(
    weights: str | Path = PRETRAINED / "best.weights.h5", check_hashes: bool = True
) -> Any:
    """The model of a run, or of a weights file with its config.json beside it, ready to generate.

    Args:
        weights: such as "runs/mine", "flowers-few" or "runs/mine/last.weights.h5"; by default the
            included flowers model.
        check_hashes: whether both files must match the hashes in the manifest beside them.

    Returns:
        A `DiffusionModel` with only the averaged weights, and its searched steps if there are any.

    Raises:
        InputError: if a file is missing or damaged.
    """
    from ddim_keras.likelihood import new_model  # not before: run folders are read without Keras

    if not weights or not isinstance(weights, str | os.PathLike):
        raise InputError(f"a model is loaded by the name of a run or file, not by {weights!r}")
    weights = find_weights(weights)
    if check_hashes:
        verify(weights.with_name("config.json"))
        verify(weights)
    config = read_config(weights.parent).model
    require_memory_for(config.network)
    model = new_model(config, only_average=True)
    load_weights(model, weights)
    if (run := Run(weights.parent)).sampling_steps_file.exists():
        model.searched_steps = run.read_sampling_steps()
    return model


def find_weights(name: str | Path | None) -> Path:
    """A weights file or, for the name of a run, its best weights; see `find_run`."""
    path = Path(name or "")
    if path.suffix == ".h5":
        if not path.is_file():
            raise InputError(f"there is no weights file {path}")
        return path
    if path.suffix and path.is_file():
        hint = "; it is loaded with keras.saving.load_model" * (path.suffix == ".keras")
        raise InputError(f"{path} is neither a run folder nor a .weights.h5 file{hint}")
    return find_run(name).weights_to_show()


def output_folder(output: Path | None, run: Run) -> Path:
    """The folder `output`, or the run by default; never the package, which has the included models.

    It is created and tested before the work starts.
    """
    is_provided = run.folder.parent == PRETRAINED.parent
    folder = output or (Path() if is_provided else run.folder)
    require_writable(folder)
    return folder


def load_guide(weights: Path, model: Any, check_hashes: bool = True) -> Any:
    """The `denoise` of a worse model, for `Guidance(strength, guide=...)`.

    Args:
        weights, check_hashes: as for `load_model`.
        model: the DiffusionModel to guide.

    Raises:
        InputError: if the guide has other images or classes than the model.
    """
    from keras import ops  # not before: run folders are read without Keras

    guide = load_model(weights, check_hashes)
    for what in ("image_size", "channels", "num_classes"):
        theirs, ours = (getattr(each.config.network, what) for each in (guide, model))
        if theirs != ours:
            raise InputError(
                f"{weights} cannot guide this model: its {what} is {theirs}, not {ours}"
            )
    for theirs, ours in zip(guide.pixel_range, model.pixel_range, strict=True):
        if ops.max(ops.abs(theirs - ours)) > 0.01:
            raise InputError(
                f"{weights} cannot guide this model: it was trained on images of another mean or "
                "variance; choose a checkpoint of the same run"
            )
    return guide.compiled_denoise
