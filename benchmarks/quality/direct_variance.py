"""Directly predicted and interpolated variances: losses and gradients of each training step.

Ho et al. 2020 (https://arxiv.org/abs/2006.11239, section 4.2) found that learning the variances by
the bound made training unstable. Nichol and Dhariwal 2021 therefore interpolate between the two
fixed variances, as `LearnedVarianceModel` does. Here the network predicts the logarithm itself.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from benchmarks.quality.equal_time import DiffusionTraining
from ddim_keras.config import ModelConfig, TrainingConfig
from ddim_keras.likelihood import LearnedVarianceModel
from ddim_keras.training.loop import build_optimizer


class DirectVarianceModel(LearnedVarianceModel):
    """Predicts the logarithm of the variance, in normalised pixels; initially 0."""

    def variances(self, fractions: Any, steps: Any) -> Any:
        return ops.exp(2.0 * fractions - 1.0)  # the fractions are (outputs + 1) / 2


KINDS = {"interpolated": LearnedVarianceModel, "direct": DirectVarianceModel}


class VarianceTraining(DiffusionTraining):
    """A training that records the bound and the gradient norm of each step.

    Args:
        kind: one of `KINDS`.
    """

    def __init__(
        self,
        kind: str,
        config: ModelConfig,
        recipe: TrainingConfig,
        images: np.ndarray,
        total_steps: int,
    ) -> None:
        self.kind = KINDS[kind]
        super().__init__(config, recipe, images, total_steps)

    def build(self, total_steps: int) -> LearnedVarianceModel:
        keras.config.set_dtype_policy(self.recipe.precision)
        model = self.kind(self.config)
        optimizer = build_optimizer(self.recipe, total_steps)
        model.compile(optimizer, self.recipe.loss, self.recipe.loss_on)
        optimizer.build(model.trainable_variables)
        self.gradient_norm = record_gradient_norm(optimizer)
        return model

    def train(self, first_step: int, num_steps: int) -> None:
        for _ in self.recorded(first_step, num_steps):
            pass

    def recorded(self, first_step: int, num_steps: int) -> Iterator[tuple[float, float]]:
        """Trains; yields the loss in bits per dimension and the gradient norm of each step."""
        for images, labels in self.batches(first_step, num_steps):
            self.model.reset_metrics()  # else it reports means over all steps
            logs = self.model.train_on_batch(images, labels, return_dict=True)
            yield float(logs["bits_per_dim"]), float(ops.convert_to_numpy(self.gradient_norm))


def record_gradient_norm(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """A variable that holds the norm of all gradients of the last step."""
    norm = optimizer.add_variable(shape=(), name="gradient_norm")
    apply: Callable[..., Any] = optimizer.apply

    def apply_and_record(gradients: Any, variables: Any = None) -> Any:
        squares = [ops.sum(ops.square(ops.cast(each, "float32"))) for each in gradients]
        norm.assign(ops.sqrt(sum(squares)))
        return apply(gradients, variables)

    optimizer.apply = apply_and_record
    return norm
