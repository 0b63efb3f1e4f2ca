"""Configuration of a run, as stored in config.json."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim_keras.config import (
    BOUND_LOSSES,
    InputError,
    ModelConfig,
    TrainingConfig,
    check_settings,
    from_dict,
    setting,
)
from ddim_keras.foreign import contents_of, read_json


@dataclass(frozen=True)
class KIDProtocol:
    """How the KID of a run is measured; only values of the same protocol are comparable.

    The defaults are the protocol of earlier versions, whose runs recorded only the metric.
    """

    metric: str  # with its encoder, such as "KID, Keras InceptionV3, 2048"
    images: int | None = None  # generated for each value; None: not recorded
    sampler: str = "ddim"
    steps: int = 5
    guidance: float = 0.0  # strength
    clip: bool = False  # predicted images, to the range of pixels

    def __post_init__(self) -> None:
        check_settings(self)

    def __str__(self) -> str:
        """The protocol in words."""
        text = f"{self.metric}, {self.steps} steps of {self.sampler}"
        if self.images is not None:
            text += f", {self.images} images"
        if self.guidance:
            text += f", guidance {self.guidance:g}"
        return text + (", clipped" if self.clip else "")


@dataclass(frozen=True)
class RunConfig:
    """The configuration of a run."""

    preset: str
    model: ModelConfig
    training: TrainingConfig
    dataset: str | None = setting(
        None,
        "name in TFDS; folder of images, whose sub-folders are the classes; .npz or .npy file of "
        "uint8 images (N, H, W, C); or drawn_flowers",
        metavar="NAME",
        is_path=True,
    )
    data_dir: str | None = setting(
        None,
        "folder in which TFDS keeps its data sets",
        metavar="DIR",
        is_path=True,
        may_change=True,
    )
    epochs: int = setting(
        50,
        "total epochs, including completed ones on resume",
        least=1,
        most=10**6,
        metavar="N",
        may_change=True,
    )
    num_images: int | None = None  # for training; None: not loaded yet
    class_names: tuple[str, ...] = ()  # of a class-conditional model
    protocol: KIDProtocol | None = None  # of the KID in the history; None: not measured yet
    start_from: str | None = setting(
        None,
        "run, or included model, whose averaged weights are the initial weights",
        metavar="RUN",
        is_path=True,
    )
    distill_from: str | None = setting(
        None,
        "run, or included model, to distil into a student of few steps; see --student-steps",
        metavar="RUN",
        is_path=True,
    )
    started: str | None = None  # when it was started or resumed last, ISO 8601

    def __post_init__(self) -> None:
        check_settings(self)
        if (self.model.variance == "learned") != (self.training.loss in BOUND_LOSSES):
            raise InputError(
                f"the losses {' and '.join(BOUND_LOSSES)} train learned variances, and no other "
                "loss does; use them with --preset likelihood"
            )

    def refuse_for_student(self, steps: Iterable[int], **options: Any) -> None:
        """Raises InputError for steps and options that a student lacks; names its teacher.

        Args:
            steps: requested numbers of steps.
            options: values of command-line options that a student does not support; None, False and
                0 if they were not given.
        """
        if not self.model.student_steps:
            return
        taught = self.model.student_steps
        wrong = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
        wrong += [f"--steps {count}" for count in steps if count not in taught]
        if wrong:
            raise InputError(
                f"this student generates in {self.model.steps_in_words} steps of ddim without "
                f"guidance and does not support {wrong[0]}; use its teacher: --run "
                f"{self.distill_from}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns nested dictionaries of JSON types."""
        return {**dataclasses.asdict(self), "model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """Inverse of `to_dict`; raises InputError for unknown fields."""
        model = ModelConfig.from_dict(values["model"])
        training = from_dict(TrainingConfig, values["training"])
        protocol = values.get("protocol")
        if isinstance(protocol, str):  # of an earlier version
            protocol = {"metric": protocol}
        parts = {
            "model": model,
            "training": training,
            "protocol": protocol and from_dict(KIDProtocol, protocol),
        }
        return from_dict(cls, values | parts)


def read_config(folder: Path) -> RunConfig:
    """Reads the config.json of a folder; raises InputError if there is none, or it is broken."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} is not a run folder: it holds no config.json")
    with contents_of(path, "the configuration of a run"):
        return RunConfig.from_dict(read_json(path))
