"""JAX: steps as pure functions of Keras's `state`, with variables assigned in stateless scopes."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import keras
import numpy as np
from keras.utils import unpack_x_y_sample_weight

from ddim_keras.types import Tensor


class Step:
    """One step on a batch; see the package for the interface.

    Within it, variables have the values of `state` and can be assigned; the new values are part of
    `results`. `state` holds the values of the trainable and non-trainable variables, those of the
    optimizer in training, and those of the metrics.
    """

    def __init__(self, model: Any, state: tuple, data: Any) -> None:
        self.model = model
        self.images, self.labels, _ = unpack_x_y_sample_weight(_shared_by_devices(data))
        self.variables = [model.trainable_variables, model.non_trainable_variables]
        if len(state) == 4:
            self.variables.append(model.optimizer.variables)
        self.variables.append(model.metrics_variables)
        self.scope = _scope(self.variables, state)

    def __enter__(self) -> "Step":
        self.scope.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.scope.__exit__(*exception)

    def minimize(
        self, compute_losses: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    ) -> dict[str, Tensor]:
        optimizer = self.model.optimizer
        trainable, non_trainable, optimizer_state, _ = self._values()

        def loss_and_updates(trainable: list) -> tuple[Tensor, tuple]:
            with _scope(self.variables[:2], (trainable, non_trainable)) as scope:
                loss, losses = compute_losses(self.images, training=True, labels=self.labels)
                loss = optimizer.scale_loss(loss)
            updated = [scope.get_current_value(variable) for variable in self.variables[1]]
            return loss, (losses, updated)

        gradients, (losses, non_trainable) = jax.grad(loss_and_updates, has_aux=True)(trainable)
        trainable, optimizer_state = optimizer.stateless_apply(
            optimizer_state, gradients, trainable
        )
        updates = itertools.chain(trainable, non_trainable, optimizer_state)
        for variable, value in zip(itertools.chain(*self.variables[:3]), updates, strict=True):
            variable.assign(value)
        return losses

    def results(self, logs: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple]:
        return logs, tuple(self._values())

    def _values(self) -> list[list]:
        return [
            [self.scope.get_current_value(variable) for variable in group]
            for group in self.variables
        ]


def compile_denoise(
    model: Any, method: Callable[..., Any] | None = None, gradients: bool = False
) -> Callable[..., Any]:
    variables = model.ema_network.variables

    @jax.jit
    def denoise(values: list, *inputs: Tensor, **labels: Tensor) -> Any:
        if jax.process_count() == 1:  # with several hosts, each generates independently
            inputs, labels = _shared_by_devices((inputs, labels))
        with _scope([variables], [values]):
            return (method or model.denoise)(*inputs, training=False, **labels)

    # The weights are arguments: as constants they would be compiled in and become outdated.
    return lambda *inputs, **labels: denoise(
        [local_value(variable) for variable in variables], *inputs, **labels
    )


def vector_jacobian_product(
    function: Callable[[Tensor], Tensor], inputs: Tensor, vector: Tensor
) -> tuple[Tensor, Tensor]:
    outputs, pull_back = jax.vjp(function, inputs)
    return outputs, *pull_back(vector)


def draw(
    model: Any, distribution: Callable[..., Tensor], shape: tuple[int | Tensor, ...]
) -> Tensor:
    return distribution(shape, dtype="float32", seed=model.seed_generator)


def share_of_batch(model: Any) -> float:
    return 1.0


def feed(model: Any, batches: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]) -> Any:
    return batches()


def local_value(variable: Any) -> Tensor:
    value = variable.value
    # In a compiled step, which all hosts share, a value has no local part.
    if jax.process_count() == 1 or isinstance(value, jax.core.Tracer):
        return value
    return value.addressable_data(0)


def keep_data(model: Any, images: np.ndarray, labels: np.ndarray) -> None:
    """Replaces the function that `fit` calls by a program with a step for each row of indices."""
    replicated = _replicated()
    on_device = replicated or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    data = tuple(
        jax.make_array_from_callback(array.shape, on_device, functools.partial(_part, array))
        for array in (images, labels)
    )

    def train_steps(state: tuple, chosen: tuple, data: tuple) -> tuple:
        """One step for each row of `chosen`, (K, B) indices and flips, in one program."""
        images, labels = data

        def train_step(state: tuple, chosen: tuple) -> tuple[tuple, dict[str, Tensor]]:
            indices, flips = chosen
            batch = images[indices]
            batch = jax.numpy.where(flips[:, None, None, None], batch[:, :, ::-1], batch)
            logs, state = model.train_step(state, (batch, labels[indices]))
            return state, logs

        state, logs = jax.lax.scan(train_step, state, chosen)
        return {name: values[-1] for name, values in logs.items()}, state

    steps = jax.jit(train_steps, donate_argnums=0, out_shardings=replicated)
    # The data are an argument: as a constant they would be compiled in.
    model.train_function = lambda state, iterator: steps(state, next(iterator), data)


def many_steps_pay(data_bytes: int) -> bool:
    """On a GPU or TPU, if the data fit into a quarter of its memory."""
    statistics = jax.local_devices()[0].memory_stats() or {}  # a CPU gives none
    return data_bytes < statistics.get("bytes_limit", 0) / 4


def describe_device() -> str:
    device = jax.devices()[0]
    return "CPU" if device.platform == "cpu" else device.device_kind


def _scope(variables: list[list], values: Any) -> keras.StatelessScope:
    """A scope in which groups of variables have these values."""
    pairs = zip(itertools.chain(*variables), itertools.chain(*values), strict=True)
    return keras.StatelessScope(state_mapping=pairs)


def _shared_by_devices(data: Any) -> Any:
    """Divides arrays, and the work on them, among the devices of a data-parallel training."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return data
    mesh = distribution.device_mesh

    def shared(array: Tensor) -> Tensor:
        if len(array) % mesh.devices.size:  # the end of an evaluation, for example
            return array
        axes = [distribution.batch_dim_name] + [None] * (array.ndim - 1)
        layout = keras.distribution.TensorLayout(axes, mesh)
        return keras.distribution.distribute_tensor(array, layout)

    return jax.tree.map(shared, data)


def _replicated() -> jax.sharding.Sharding | None:
    """The sharding of replicated arrays; None without data-parallel training."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return None
    return keras.distribution.TensorLayout([], distribution.device_mesh).backend_layout


def _part(array: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
    return np.asarray(array[index])
