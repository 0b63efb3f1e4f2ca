"""Presets: complete recipes of a model and its training, as data.

`lab` is the unchanged assignment. `fast` is a recipe for minutes of training and for a CPU; `best`
is the same recipe with a larger network, for a GPU. `likelihood` is Improved DDPM. `student` is
distilled from a trained run.
"""

import dataclasses
from dataclasses import dataclass, field

from ddim_keras.config import ModelConfig, NetworkConfig, TrainingConfig


@dataclass(frozen=True)
class Preset:
    """A complete recipe: a model and its training."""

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    summary: str = ""  # one line for --help
    epochs: int = 50


FAST = Preset(
    summary="velocity prediction, adaptive group norm, attention; for a CPU or a few minutes",
    model=ModelConfig(
        network=NetworkConfig(
            widths=(48, 96, 192),
            depths=(1, 2, 2),
            block="adaptive",
            attention_sizes=(8,),
            patch_size=2,
        ),
        prediction="velocity",
    ),
    training=TrainingConfig(
        batch_size=16,
        repetitions=1,
        # On the noise, so that low noise levels, and with them texture, carry weight. At high ones
        # errors fall below delta, where squares find the mean colour; MAE's median is darker.
        loss="huber",
        loss_on="noise",
        optimizer="muon",
        learning_rate=2e-3,
        warmup_steps=200,
        cosine_decay=True,
        flip=True,
        kid_images=640,
    ),
)
BEST_NETWORK = NetworkConfig(
    widths=(64, 96, 128, 192),
    depths=(2, 2, 3, 3),
    block="adaptive",
    attention_sizes=(16, 8),
)
PRESETS = {
    "lab": Preset(summary="the assignment: noise prediction, MSE, batch norm; for a GPU"),
    "fast": FAST,
    "best": Preset(
        summary="as fast, with a larger network at full resolution; for an hour on a GPU",
        model=dataclasses.replace(FAST.model, network=BEST_NETWORK),
        training=dataclasses.replace(FAST.training, batch_size=64, repetitions=5),
    ),
    "likelihood": Preset(
        summary="as fast, in 1000 steps of the cosine schedule with learned variances, for bits "
        "per dimension",
        model=dataclasses.replace(
            FAST.model, schedule="cosine", discrete_steps=1000, variance="learned"
        ),
        training=dataclasses.replace(FAST.training, loss="hybrid"),
    ),
    "student": Preset(  # its model is that of the teacher
        summary="a few network calls per image, learnt from a trained run with --distill-from",
        model=FAST.model,
        training=TrainingConfig(
            batch_size=16,
            repetitions=1,
            loss="mae",
            learning_rate=1e-4,
            warmup_steps=200,
            cosine_decay=True,
            kid_images=640,
        ),
        epochs=3,
    ),
}
