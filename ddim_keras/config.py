"""Configurations as frozen dataclasses, saved as JSON; the names of all choices.

A field made with `setting` is also an option of the commands: its type, help and limits are defined
only here. Recipes made of these configurations are in `presets.py`.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# The names of all choices; each is described where it is implemented.
SAMPLERS = ("ddim", "adams_bashforth", "ipndm", "dpm_solver", "heun")
SPACINGS = ("time", "log_snr", "rho", "searched")  # the last one: as found for a trained model
SCHEDULES = ("offset_cosine", "linear", "cosine")
PREDICTIONS = ("noise", "velocity", "image")
BOUND_LOSSES = ("hybrid", "bound")  # of learned variances
LOSSES = ("mse", "mae", "huber", *BOUND_LOSSES)
VARIANCES = ("fixed", "learned")  # of a model's reverse steps
FRESH_NOISE_VARIANCES = ("small", "large", "learned")  # of stochastic samplers
COMPARED = ("prediction", *PREDICTIONS)
OPTIMIZERS = ("adamw", "muon")
BLOCKS = ("plain", "adaptive")
RESAMPLINGS = ("pool", "block")
PRECISIONS = ("float32", "mixed_bfloat16")
METRICS = ("kid", "frechet", "precision_recall", "bits_per_dim")
# Default strength for images of classes. Against training images, 0, 1 and 2 gave the included
# model a KID of 0.034, 0.020 and 0.025 at 10 steps of DDIM. Strong guidance reduces variety
# (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, figure 1).
GUIDANCE = 1.0
MOST_GUIDANCE = 1000.0  # beyond it, rounding errors dominate the prediction

MOST_CLASSES = 100_000
MOST_STEP_COUNTS = 6
MOST_LEVELS = 12  # each halves the feature maps: 4096 pixels become 2


class InputError(ValueError):
    """A mistake in the user's input: shown as one line, without a traceback."""


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    metavar: str | None = None,
    is_path: bool = False,
    may_change: bool = False,
) -> Any:
    """A field of a configuration that is also an option of the commands.

    Args:
        default: value of the field; an omitted option keeps the value of the preset.
        help: noun phrase with units, without the default.
        choices: allowed texts.
        least, most, above: limits of a number, or of each of several; `above` is excluded.
        metavar: placeholder for the value in `--help`.
        is_path: whether a text may name a file or folder; it is then stored as an absolute path.
        may_change: whether a resumed run may change the value.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "choices": choices,
            "least": least,
            "most": most,
            "above": above,
            "metavar": metavar,
            "is_path": is_path,
            "may_change": may_change,
        },
    )


@dataclass(frozen=True)
class NetworkConfig:
    """The residual U-Net; `widths` and `depths` have an entry for each resolution, finest first."""

    image_size: int = setting(
        64,
        "height and width in pixels; images are cropped to their centre square and resized",
        least=1,
        most=4096,
        metavar="PIXELS",
    )
    channels: int = 3  # colour channels of an image
    widths: tuple[int, ...] = setting(
        (32, 64, 96, 128),
        "feature channels of each level, finest first",
        least=1,
        most=8192,
        metavar="N",
    )
    depths: tuple[int, ...] = setting(
        (2, 2, 2, 2),
        "residual blocks of each level, both downsampling and upsampling",
        least=1,
        most=64,
        metavar="N",
    )
    block: str = setting(
        "plain",
        "residual block; plain: batch norm; adaptive: group norm, scaled by the noise level",
        choices=BLOCKS,
    )
    attention_sizes: tuple[int, ...] = setting(
        (), "sizes of the feature maps, in cells, that get self-attention", least=1, metavar="N"
    )
    head_channels: int = setting(
        64, "feature channels of each self-attention head", least=1, most=8192, metavar="N"
    )
    resampling: str = setting(
        "pool",
        "resampling between levels; pool: average pooling and nearest-neighbour upsampling; block: "
        "inside residual blocks",
        choices=RESAMPLINGS,
    )
    skips: bool = setting(
        True, "skip connections from each downsampling block to an upsampling block"
    )
    dropout: float = setting(
        0.0, "dropout rate in each residual block during training", metavar="P"
    )
    patch_size: int = setting(
        1,
        "height and width in pixels of the image patch under each cell of the first level",
        least=1,
        most=64,
        metavar="PIXELS",
    )
    embedding_dims: int = setting(
        32,
        "number of sines and cosines that encode the noise variance",
        least=2,
        most=4096,
        metavar="N",
    )
    embedding_max_frequency: float = setting(
        1000.0,
        "largest frequency of the embedding, in periods over noise variances from 0 to 1",
        least=1,
        most=1e6,
        metavar="F",
    )
    num_classes: int = 0  # of a class-conditional network; 0: no label input
    step_counts: int = 0  # of a student with several step counts; 0: no step count input

    def __post_init__(self) -> None:
        check_settings(self)
        _require_between(1, 64, channels=self.channels)
        _require_between(0, MOST_CLASSES, num_classes=self.num_classes)
        _require_between(0, MOST_STEP_COUNTS, step_counts=self.step_counts)
        if not 1 <= len(self.widths) == len(self.depths) <= MOST_LEVELS:
            raise InputError(
                f"widths {self.widths} and depths {self.depths} must have one entry for each "
                f"of 1 to {MOST_LEVELS} levels"
            )
        if self.embedding_dims % 2:
            raise InputError(
                f"embedding_dims must be even and at least 2, not {self.embedding_dims}"
            )
        grouped = [
            width
            for width, size in zip(self.widths, self.feature_sizes, strict=True)
            if self.block == "adaptive" or size in self.attention_sizes
        ]
        if any(width % 8 for width in grouped):
            raise InputError(f"widths {self.widths} must be divisible by 8, the groups of the norm")
        if self.block == "plain" and self.patch_size != 1:
            raise InputError("patches need the adaptive block")
        if self.block == "plain" and (self.dropout or self.resampling == "block"):
            raise InputError("dropout and resampling in blocks need the adaptive block")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be in [0, 1), not {self.dropout}")

    @property
    def margin(self) -> tuple[int, int]:
        """Padding of an image, before and after, that makes its size fit the levels.

        The size must be divisible by 2 between levels: four levels pad 28 pixels to 32.
        """
        missing = -self.image_size % (self.patch_size * 2 ** (len(self.widths) - 1))
        return missing // 2, missing - missing // 2

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Height and width of the feature maps of each level, finest first."""
        finest = (self.image_size + sum(self.margin)) // self.patch_size
        return tuple(finest // 2**level for level in range(len(self.widths)))


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of a DiffusionModel."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    max_signal_rate: float = setting(
        0.95, "signal rate of the cleanest images, offset cosine schedule", metavar="RATE"
    )
    min_signal_rate: float = setting(
        0.02, "signal rate of the noisiest images, offset cosine schedule", metavar="RATE"
    )
    schedule: str = setting(
        "offset_cosine",
        "diffusion schedule: the assignment's, DDPM's linear one, or Improved DDPM's cosine",
        choices=SCHEDULES,
    )
    discrete_steps: int = setting(
        0,
        "number T of training times 1/T, 2/T, ..., 1, as in DDPM with T = 1000; 0: continuous time",
        least=0,
        most=10**6,
        metavar="T",
    )
    variance: str = setting(
        "fixed",
        "variance of the reverse steps; learned: predicted by the network, with discrete steps",
        choices=VARIANCES,
    )
    prediction: str = setting("noise", "quantity that the network predicts", choices=PREDICTIONS)
    stratified_times: bool = setting(
        False, "equally spaced diffusion times in each batch, with a random offset"
    )
    ema: float = setting(
        0.999, "momentum of the exponential moving average of the weights, per step", metavar="M"
    )
    ema_warmup: bool = setting(
        True, "shorter average at first: momentum at most (1 + step) / (10 + step)"
    )
    label_dropout: float = setting(
        0.1, 'share of training labels replaced by "any class", for guidance', metavar="P"
    )
    student_steps: tuple[int, ...] = setting(
        (),
        "network calls per image of a student distilled with --distill-from; several values train "
        "one student for all of them",
        least=1,
        most=MOST_STEP_COUNTS,
        metavar="N",
    )
    seed: int = setting(
        0, "random seed (initialisation, noise, shuffling)", least=0, most=2**31 - 1, metavar="N"
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if sorted({*self.student_steps}) != [*self.student_steps]:
            raise InputError(f"student_steps must be in rising order, not {self.student_steps}")
        if self.variance == "learned" and self.discrete_steps < 2:
            raise InputError("learned variances need 2 discrete steps or more")
        if self.variance == "learned" and self.stratified_times:
            raise InputError("learned variances draw their own steps; omit stratified_times")
        if not 0 < self.min_signal_rate < self.max_signal_rate <= 1:
            raise InputError(
                "signal rates must satisfy 0 < min_signal_rate < max_signal_rate <= 1, "
                f"not {self.min_signal_rate} and {self.max_signal_rate}"
            )
        if not 0 <= self.ema < 1:
            raise InputError(f"the EMA momentum must be in [0, 1), not {self.ema}")
        if not 0 <= self.label_dropout <= 1:
            raise InputError(f"label_dropout must be in [0, 1], not {self.label_dropout}")

    @property
    def default_guidance(self) -> float:
        """The strength of guidance for images of classes; 0 for a student, which has learnt it."""
        return GUIDANCE if self.network.num_classes and not self.student_steps else 0.0

    @property
    def steps_in_words(self) -> str:
        """The numbers of steps that a student supports, such as "1, 2 or 4"."""
        *others, most = map(str, self.student_steps)
        return f"{', '.join(others)} or {most}" if others else most

    def to_dict(self) -> dict[str, Any]:
        """Returns nested dictionaries of JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Inverse of `to_dict`; raises InputError for unknown fields."""
        return from_dict(cls, {**values, "network": from_dict(NetworkConfig, values["network"])})


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe: how a DiffusionModel is trained."""

    batch_size: int = setting(
        64, "images per step, on all devices together", least=1, most=2**20, metavar="N"
    )
    repetitions: int = setting(
        5, "passes over the training images that make one epoch", least=1, most=10**4, metavar="N"
    )
    loss: str = setting(
        "mse",
        "squared error, absolute error, or Huber loss (squared up to a delta, absolute beyond); "
        "with learned variances, hybrid (squared error and variational bound) or bound",
        choices=LOSSES,
    )
    huber_delta: float = setting(
        0.02, "delta of the Huber loss, in normalised pixels", above=0, metavar="DELTA"
    )
    loss_on: str = setting(
        "prediction",
        "quantity the loss is computed on: the network's output, or what follows from it",
        choices=COMPARED,
    )
    optimizer: str = setting(
        "adamw", "optimizer; muon: for convolutions, AdamW for the rest", choices=OPTIMIZERS
    )
    learning_rate: float = setting(1e-3, "peak learning rate", above=0, most=1e6, metavar="RATE")
    weight_decay: float = setting(
        1e-4,
        "weight decay per step, multiplied by the learning rate",
        least=0,
        most=1e6,
        metavar="W",
    )
    warmup_steps: int = setting(
        0, "steps of linear warm-up to the learning rate", least=0, most=10**9, metavar="N"
    )
    cosine_decay: bool = setting(
        False, "decay of the learning rate to 0 along a cosine over the whole run"
    )
    flip: bool = setting(False, "mirror images left to right with probability 1/2")
    kid_images: int | None = setting(
        None,
        "images generated for the KID of each epoch; all: the number of validation images",
        least=1,
        most=10**6,
        metavar="N",
    )
    evaluate_every: int = setting(
        1,
        "epochs between KIDs and sample grids; the last epoch always has them",
        least=1,
        most=10**6,
        metavar="N",
        may_change=True,
    )
    averages: tuple[float, ...] = setting(
        (),
        "widths of additional averages of the weights, kept in averages/ of the run: standard "
        "deviation of the averaged steps, as a share of the training, such as 0.05 0.1",
        above=0,
        most=0.28,
        metavar="W",
    )
    trajectories: int = setting(
        9216,
        "number of teacher trajectories to train a student on; an epoch is a pass over them",
        least=1,
        most=10**7,
        metavar="N",
    )
    teacher_guidance: float = setting(
        GUIDANCE,
        "strength of guidance that a student learns from its teacher",
        least=-MOST_GUIDANCE,
        most=MOST_GUIDANCE,
        metavar="W",
    )
    precision: str = setting(
        "float32",
        "dtype policy of the layers; mixed_bfloat16 is faster on hardware with bfloat16 "
        "instructions",
        choices=PRECISIONS,
    )

    def __post_init__(self) -> None:
        check_settings(self)


def settings_of(cls: type) -> dict[str, dataclasses.Field]:
    """The fields of a configuration that are options of commands, including nested ones."""
    found: dict[str, dataclasses.Field] = {}
    for each in dataclasses.fields(cls):
        if isinstance(each.type, type) and dataclasses.is_dataclass(each.type):
            found |= settings_of(each.type)
        elif each.metadata:
            found[each.name] = each
    return found


def get_setting(config: Any, name: str) -> Any:
    """The value of a setting, which may be nested."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if each.name == name:
            return value
        if dataclasses.is_dataclass(value) and name in settings_of(type(value)):
            return get_setting(value, name)
    raise KeyError(name)


def with_settings(config: Any, values: Mapping[str, Any]) -> Any:
    """A copy of a configuration with other values for settings, which may be nested."""
    changes: dict[str, Any] = {}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if each.name in values:
            changes[each.name] = values[each.name]
        elif dataclasses.is_dataclass(value):
            changes[each.name] = with_settings(value, values)
    return dataclasses.replace(config, **changes)


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Builds a configuration from its fields; raises InputError for unknown fields."""
    unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
    if unknown:
        raise InputError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
    return cls(**values)


def check_settings(config: Any) -> None:
    """Raises InputError for a field of a wrong type or beyond its limits; lists become tuples."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(config, each.name, value)
        if not _is_of_type(value, each.type):
            raise InputError(f"{each.name} must be {_describe(each.type)}, not {value!r}")
        limits = each.metadata
        if not limits or value is None:
            continue
        if limits["choices"] and value not in limits["choices"]:
            choices = ", ".join(limits["choices"])
            raise InputError(f"{each.name} must be one of {choices}, not {value!r}")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, str):
                continue
            # NaN is refused as well.
            if limits["above"] > -math.inf and not number > limits["above"]:
                raise InputError(f"{each.name} must be above {limits['above']}, not {number}")
            if not number >= limits["least"]:
                raise InputError(f"{each.name} must be at least {limits['least']}, not {number}")
            if not number <= limits["most"]:
                raise InputError(f"{each.name} must be at most {limits['most']}, not {number}")


def _is_of_type(value: Any, annotation: Any) -> bool:
    if isinstance(annotation, types.UnionType):
        return any(_is_of_type(value, each) for each in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        of_entries = typing.get_args(annotation)[0]
        return isinstance(value, tuple) and all(_is_of_type(each, of_entries) for each in value)
    if annotation in (int, float) and isinstance(value, bool):
        return False
    if annotation is float:
        return isinstance(value, int | float)
    return isinstance(value, annotation)


def _describe(annotation: Any) -> str:
    if isinstance(annotation, types.UnionType):
        return _describe(typing.get_args(annotation)[0])
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if typing.get_origin(annotation) is tuple:
        return f"a list, each entry {names[typing.get_args(annotation)[0]]}"
    return names.get(annotation, annotation.__name__)


def _require_between(least: int, most: int, **values: int) -> None:
    for name, value in values.items():
        if not least <= value <= most:
            raise InputError(f"{name} must be from {least} to {most}, not {value}")
