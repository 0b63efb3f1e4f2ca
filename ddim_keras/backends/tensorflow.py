"""TensorFlow: gradients by a tape; XLA only on a GPU, since it slows this U-Net down on a CPU."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from keras.utils import unpack_x_y_sample_weight

from ddim_keras.types import Tensor

keep_data = None  # steps read batches from the host


class Step:
    """One step on a batch, or on this device's part of it; see the package for the interface."""

    def __init__(self, model: Any, data: Any) -> None:
        self.model = model
        self.images, self.labels, _ = unpack_x_y_sample_weight(data)

    def __enter__(self) -> "Step":
        return self

    def __exit__(self, *exception: Any) -> None:
        pass

    def minimize(
        self, compute_losses: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    ) -> dict[str, Tensor]:
        optimizer, weights = self.model.optimizer, self.model.trainable_weights
        with tf.GradientTape() as tape:
            loss, losses = compute_losses(self.images, training=True, labels=self.labels)
            # The optimizer sums the gradients of all devices.
            loss = optimizer.scale_loss(share_of_batch(self.model) * loss)
        # The gradient of an embedding is sparse, and rows from several devices would not be summed.
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, weights)]
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return losses

    def results(self, logs: dict[str, Tensor]) -> dict[str, Tensor]:
        return logs


def compile_denoise(
    model: Any, method: Callable[..., Any] | None = None, gradients: bool = False
) -> Callable[..., Any]:
    return tf.function(
        functools.partial(method or model.denoise, training=False),
        jit_compile=bool(tf.config.list_physical_devices("GPU")),
    )


def vector_jacobian_product(
    function: Callable[[Tensor], Tensor], inputs: Tensor, vector: Tensor
) -> tuple[Tensor, Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(inputs)
    return outputs, tape.gradient(outputs, inputs, output_gradients=vector)


def draw(
    model: Any, distribution: Callable[..., Tensor], shape: tuple[int | Tensor, ...]
) -> Tensor:
    """With several devices, each draws for the whole batch and takes its part."""
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas == 1:
        return distribution(shape, dtype="float32", seed=model.seed_generator)
    size, *others = shape
    values = distribution((size * replicas, *others), dtype="float32", seed=model.seed_generator)
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return values[replica * size : (replica + 1) * size]


def share_of_batch(model: Any) -> float:
    return 1.0 / model.distribute_strategy.num_replicas_in_sync


def feed(model: Any, batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]) -> Any:
    if share_of_batch(model) == 1.0:
        return batches()
    # TensorFlow starts reading more than once; with a shared iterator, each would miss batches.
    images, labels = next(batches())
    signature = tuple(tf.TensorSpec(array.shape, array.dtype) for array in (images, labels))
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def local_value(variable: Any) -> Tensor:
    return variable.value


def many_steps_pay(data_bytes: int) -> bool:
    """On a GPU, which would otherwise wait for Python."""
    return bool(tf.config.list_physical_devices("GPU"))


def describe_device() -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
