"""PyTorch: gradients by `backward()`, in eager mode."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import torch
from keras.utils import unpack_x_y_sample_weight

from ddim_keras.types import Tensor

keep_data = None  # steps read batches from the host


class Step:
    """One step on a batch; see the package for the interface."""

    def __init__(self, model: Any, data: Any) -> None:
        self.model = model
        self.images, self.labels, _ = unpack_x_y_sample_weight(data)
        self.without_gradients = torch.no_grad()

    def __enter__(self) -> "Step":
        self.without_gradients.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.without_gradients.__exit__(*exception)

    def minimize(
        self, compute_losses: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    ) -> dict[str, Tensor]:
        optimizer, weights = self.model.optimizer, self.model.trainable_weights
        self.model.zero_grad()
        with torch.enable_grad():
            loss, losses = compute_losses(self.images, training=True, labels=self.labels)
            optimizer.scale_loss(loss).backward()
        optimizer.apply([weight.value.grad for weight in weights], weights)
        return losses

    def results(self, logs: dict[str, Tensor]) -> dict[str, Tensor]:
        return logs


def compile_denoise(
    model: Any, method: Callable[..., Any] | None = None, gradients: bool = False
) -> Callable[..., Any]:
    denoise = functools.partial(method or model.denoise, training=False)
    return denoise if gradients else torch.no_grad()(denoise)


def vector_jacobian_product(
    function: Callable[[Tensor], Tensor], inputs: Tensor, vector: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        outputs = function(inputs)
        (products,) = torch.autograd.grad(outputs, inputs, vector)
    return outputs.detach(), products


def draw(
    model: Any, distribution: Callable[..., Tensor], shape: tuple[int | Tensor, ...]
) -> Tensor:
    return distribution(shape, dtype="float32", seed=model.seed_generator)


def share_of_batch(model: Any) -> float:
    return 1.0


def feed(model: Any, batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]) -> Any:
    return batches()


def local_value(variable: Any) -> Tensor:
    return variable.value


def many_steps_pay(data_bytes: int) -> bool:
    """Never: each step is a separate call."""
    return False


def describe_device() -> str:
    kind = keras.ops.convert_to_tensor(0.0).device.type  # that Keras computes on
    if kind == "cuda":
        return torch.cuda.get_device_name()
    return "CPU" if kind == "cpu" else f"GPU ({kind})"  # "mps" is that of a Mac
