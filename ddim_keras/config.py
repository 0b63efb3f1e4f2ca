"""Configurations as frozen dataclasses, saved as JSON, and the presets built from them.

`lab` is the assignment, unchanged; `fast` is the recipe for minutes of training and for a CPU, and
`best` the same recipe for a network that wants a GPU.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

PREDICTIONS = ("noise", "velocity", "image")
LOSSES = ("mse", "mae", "huber")
COMPARED = ("prediction", *PREDICTIONS)
# Of pictures of classes, unless another is chosen. Against training images, 0, 1 and 2 gave the
# provided model a KID of 0.044, 0.025 and 0.019 at 20 steps of DDIM; but the stronger, the less
# variety (Ho and Salimans 2022, https://arxiv.org/abs/2207.12598, figure 1).
GUIDANCE = 1.0


class InputError(ValueError):
    """A mistake in what the user gave: shown as one line, without a traceback."""


def _require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _require_at_least(minimum: float, **values: float) -> None:
    for name, value in values.items():
        if not value >= minimum:  # NaN is refused as well
            raise InputError(f"{name} must be at least {minimum}, not {value}")


@dataclass(frozen=True)
class NetworkConfig:
    """The residual U-Net: one entry of `widths` and `depths` for each resolution, finest first."""

    image_size: int = 64  # pixels, height = width
    channels: int = 3  # colour channels of an image
    widths: tuple[int, ...] = (32, 64, 96, 128)  # feature channels of each level
    depths: tuple[int, ...] = (2, 2, 2, 2)  # residual blocks of each level, on the way down and up
    block: str = "plain"  # "plain": batch norm; "adaptive": group norm, scaled by the noise level
    attention_sizes: tuple[int, ...] = ()  # feature-map sizes, in pixels, that get self-attention
    patch_size: int = 1  # pixels of the image, each way, under one cell of the first level
    embedding_dims: int = 32  # sines and cosines of the noise variance
    embedding_max_frequency: float = 1000.0  # periods over the unit interval of noise variances
    num_classes: int = 0  # of a class-conditional network; 0: it takes no labels

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "attention_sizes", tuple(self.attention_sizes))
        _require_one_of("block", self.block, ("plain", "adaptive"))
        if not self.widths or len(self.widths) != len(self.depths):
            raise InputError(
                f"widths {self.widths} and depths {self.depths} must have one entry for each level"
            )
        _require_at_least(
            1,
            image_size=self.image_size,
            channels=self.channels,
            widths=min(self.widths),
            depths=min(self.depths),
            patch_size=self.patch_size,
            embedding_max_frequency=self.embedding_max_frequency,
        )
        _require_at_least(0, num_classes=self.num_classes)
        if self.embedding_dims < 2 or self.embedding_dims % 2:
            raise InputError(
                f"embedding_dims must be even and at least 2, not {self.embedding_dims}"
            )
        if self.block == "adaptive" and any(width % 8 for width in self.widths):
            raise InputError(f"widths {self.widths} must be divisible by 8, the groups of the norm")
        if self.block == "plain" and self.patch_size != 1:
            raise InputError("patches need the adaptive block")

    @property
    def margin(self) -> tuple[int, int]:
        """Pixels around an image, before and after, that make its size fit the levels.

        A size is halved, exactly, between two levels: 28 pixels become 32 for four of them.
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
    """Everything that a DiffusionModel is built from."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    max_signal_rate: float = 0.95  # offset cosine: at diffusion time 0, the cleanest images
    min_signal_rate: float = 0.02  # offset cosine: at diffusion time 1, almost pure noise
    schedule: str = "offset_cosine"  # or "linear", "cosine": with signal rates of their own
    discrete_steps: int = 0  # T: training times are drawn from 1/T, 2/T, ..., 1; 0: from all times
    prediction: str = "noise"  # what the network outputs: "noise", "velocity" or "image"
    ema: float = 0.999  # momentum of the exponential moving average of the weights, per step
    ema_warmup: bool = True  # shorten the average at first: momentum <= (1 + step) / (10 + step)
    label_dropout: float = 0.1  # share of training labels replaced by "any class"
    seed: int = 0  # of the initial weights, the training noises and the diffusion times

    def __post_init__(self) -> None:
        _require_one_of("schedule", self.schedule, ("offset_cosine", "linear", "cosine"))
        _require_at_least(0, discrete_steps=self.discrete_steps)
        _require_one_of("prediction", self.prediction, PREDICTIONS)
        if not 0 < self.min_signal_rate < self.max_signal_rate <= 1:
            raise InputError(
                "signal rates must satisfy 0 < min_signal_rate < max_signal_rate <= 1, "
                f"not {self.min_signal_rate} and {self.max_signal_rate}"
            )
        if not 0 <= self.ema < 1:
            raise InputError(f"the EMA momentum must be in [0, 1), not {self.ema}")
        if not 0 <= self.label_dropout <= 1:
            raise InputError(f"label_dropout must be in [0, 1], not {self.label_dropout}")

    def to_dict(self) -> dict[str, Any]:
        """Returns nested dictionaries of JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Inverse of `to_dict`; raises InputError for fields that do not exist."""
        return from_dict(cls, {**values, "network": from_dict(NetworkConfig, values["network"])})


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe: how a DiffusionModel is trained."""

    batch_size: int = 64  # images per step
    repetitions: int = 5  # passes over the training images that make one epoch
    loss: str = "mse"  # "mse", "mae", or "huber": squared up to huber_delta, absolute beyond
    huber_delta: float = 0.02  # of normalised pixels
    loss_on: str = "prediction"  # what it compares: the network's "prediction", or what follows
    # from that: the "noise", the "velocity" or the "image"
    optimizer: str = "adamw"  # or "muon": see `optimizers.ConvolutionMuon`
    learning_rate: float = 1e-3  # peak value
    weight_decay: float = 1e-4  # times the learning rate: share of a weight lost in each step
    warmup_steps: int = 0  # steps of linear warm-up from 0 to the learning rate
    cosine_decay: bool = False  # decay the learning rate to 0 along a cosine over the whole run
    flip: bool = False  # mirror each image left to right with probability 1/2
    kid_images: int | None = None  # generated for each KID; None: as many as validation images
    precision: str = "float32"  # or "mixed_bfloat16": layers in bfloat16, the rest in float32

    def __post_init__(self) -> None:
        _require_one_of("loss", self.loss, LOSSES)
        _require_one_of("loss_on", self.loss_on, COMPARED)
        _require_one_of("optimizer", self.optimizer, ("adamw", "muon"))
        _require_one_of("precision", self.precision, ("float32", "mixed_bfloat16"))
        _require_at_least(1, batch_size=self.batch_size, repetitions=self.repetitions)
        _require_at_least(0, weight_decay=self.weight_decay, warmup_steps=self.warmup_steps)
        for name in ("learning_rate", "huber_delta"):
            if not (value := getattr(self, name)) > 0:
                raise InputError(f"{name} must be above 0, not {value}")


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Builds a configuration from its fields; raises InputError for fields that do not exist."""
    unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
    if unknown:
        raise InputError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}")
    return cls(**values)
