"""The training step and the compiled denoiser, once for each Keras backend.

The one place with backend code, but for `devices`. Each class adds to a model that has
`compute_losses`, `denoise`, `update_ema` and `update_metrics`: a `train_step` and a `test_step`
that `fit` and `evaluate` compile, and `compiled_denoise`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras.utils import unpack_x_y_sample_weight


class OneDevice:
    """What is more than it seems where several devices or hosts train together."""

    def draw(self, distribution: Any, shape: Any) -> Any:
        """Float32 random numbers for a batch; `distribution` is `keras.random.normal` or such."""
        return distribution(shape, dtype="float32", seed=self.seed_generator)

    @property
    def batch_share(self) -> float:
        """Which part of the whole batch a step sees."""
        return 1.0

    def feed(self, batches: Callable[[], Iterator]) -> Any:
        """What `fit` takes for training; `batches()` starts at the first batch each time."""
        return batches()

    def local_value(self, variable: keras.Variable) -> Any:
        """The value of a variable for computations in which no other host takes part."""
        return variable.value


if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    class CompiledSteps(OneDevice):
        """TensorFlow: gradients by a tape; XLA where there is a GPU, as it slows a CPU down."""

        def train_step(self, data: Any) -> dict[str, Any]:
            images, labels, _ = unpack_x_y_sample_weight(data)
            with tf.GradientTape() as tape:
                loss, losses = self.compute_losses(images, training=True, labels=labels)
                # The optimizer adds up the gradients of all devices.
                loss = self.optimizer.scale_loss(self.batch_share * loss)
            gradients = tape.gradient(loss, self.trainable_weights)
            # Those of an embedding are sparse, and rows from several devices would not be added up.
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            self.update_ema()
            return self.update_metrics(losses)

        def test_step(self, data: Any) -> dict[str, Any]:
            images, labels, _ = unpack_x_y_sample_weight(data)
            _, losses = self.compute_losses(images, training=False, labels=labels)
            return self.update_metrics(losses)

        def draw(self, distribution: Any, shape: Any) -> Any:
            """As everywhere; of several devices each draws for all, and takes its own part."""
            replicas = self.distribute_strategy.num_replicas_in_sync
            if replicas == 1:
                return super().draw(distribution, shape)
            size, *others = shape
            values = super().draw(distribution, (size * replicas, *others))
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return values[replica * size : (replica + 1) * size]

        @property
        def batch_share(self) -> float:
            return 1.0 / self.distribute_strategy.num_replicas_in_sync

        def feed(self, batches: Callable[[], Iterator]) -> Any:
            if self.batch_share == 1.0:
                return super().feed(batches)
            # TensorFlow starts to read more than once; of one iterator each would miss batches.
            images, labels = next(batches())
            signature = tuple(tf.TensorSpec(x.shape, x.dtype) for x in (images, labels))
            return tf.data.Dataset.from_generator(batches, output_signature=signature)

        @functools.cached_property
        def compiled_denoise(self) -> Any:
            """`denoise(noisy_images, noise_rates, signal_rates, labels=None)`, compiled."""
            return tf.function(
                functools.partial(self.denoise, training=False),
                jit_compile=bool(tf.config.list_physical_devices("GPU")),
            )

    def dispatches_pay(data_bytes: int) -> bool:
        """Whether many steps in one call are faster: Python would hold up a GPU."""
        return bool(tf.config.list_physical_devices("GPU"))

    def describe_device() -> str:
        """Names what the computation runs on, for people."""
        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            return "CPU"
        return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")

elif keras.backend.backend() == "jax":
    import jax

    class CompiledSteps(OneDevice):
        """JAX: pure functions of the state; variables are read and assigned in stateless scopes."""

        def train_step(self, state: tuple, data: Any) -> tuple[dict[str, Any], tuple]:
            trainable, non_trainable, optimizer_state, metrics_state = state
            images, labels, _ = unpack_x_y_sample_weight(_shared_by_devices(data))

            def loss_and_updates(trainable: list) -> tuple[Any, tuple]:
                with self._scope(trainable=trainable, non_trainable=non_trainable) as scope:
                    loss, losses = self.compute_losses(images, training=True, labels=labels)
                    loss = self.optimizer.scale_loss(loss)
                return loss, (losses, _values(scope, self.non_trainable_variables))

            (_, (losses, non_trainable)), gradients = jax.value_and_grad(
                loss_and_updates, has_aux=True
            )(trainable)
            trainable, optimizer_state = self.optimizer.stateless_apply(
                optimizer_state, gradients, trainable
            )
            with self._scope(trainable, non_trainable, optimizer_state, metrics_state) as scope:
                self.update_ema()
                logs = self.update_metrics(losses)
            non_trainable = _values(scope, self.non_trainable_variables)
            metrics_state = _values(scope, self.metrics_variables)
            return logs, (trainable, non_trainable, optimizer_state, metrics_state)

        def test_step(self, state: tuple, data: Any) -> tuple[dict[str, Any], tuple]:
            trainable, non_trainable, metrics_state = state
            images, labels, _ = unpack_x_y_sample_weight(_shared_by_devices(data))
            with self._scope(trainable, non_trainable, metrics=metrics_state) as scope:
                _, losses = self.compute_losses(images, training=False, labels=labels)
                logs = self.update_metrics(losses)
            non_trainable = _values(scope, self.non_trainable_variables)
            return logs, (trainable, non_trainable, _values(scope, self.metrics_variables))

        def keep_on_device(self, images: np.ndarray, labels: np.ndarray) -> None:
            """Copies the training data to each device; `fit` then takes `data.dispatches` of it."""
            replicated = _replicated() or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            self.resident = tuple(
                jax.make_array_from_callback(
                    array.shape, replicated, functools.partial(_part, array)
                )
                for array in (images, labels)
            )
            self.train_function = None

        def make_train_function(self, force: bool = False) -> None:
            if not hasattr(self, "resident"):
                super().make_train_function(force)
            elif self.train_function is None or force:
                steps = jax.jit(self.train_steps, donate_argnums=0, out_shardings=_replicated())
                self.train_function = lambda state, iterator: steps(
                    state, next(iterator), self.resident
                )

        def train_steps(self, state: tuple, chosen: tuple, resident: tuple) -> tuple:
            """As many steps as there are rows of `chosen`, in one program: (K, B) each."""
            images, labels = resident

            def train_step(state: tuple, chosen: tuple) -> tuple[tuple, dict[str, Any]]:
                indices, flips = chosen
                batch = images[indices]
                batch = jax.numpy.where(flips[:, None, None, None], batch[:, :, ::-1], batch)
                logs, state = self.train_step(state, (batch, labels[indices]))
                return state, logs

            state, logs = jax.lax.scan(train_step, state, chosen)
            return {name: values[-1] for name, values in logs.items()}, state

        @functools.cached_property
        def compiled_denoise(self) -> Any:
            """`denoise(noisy_images, noise_rates, signal_rates, labels=None)`, compiled."""
            variables = self.ema_network.variables

            @jax.jit
            def denoise(values: list, *inputs: Any, **labels: Any) -> Any:
                if jax.process_count() == 1:  # of several, each generates for itself
                    inputs, labels = _shared_by_devices((inputs, labels))
                with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
                    return self.denoise(*inputs, training=False, **labels)

            # The weights are arguments: as constants they would be compiled in, and go stale.
            return lambda *inputs, **labels: denoise(
                [self.local_value(variable) for variable in variables], *inputs, **labels
            )

        def local_value(self, variable: keras.Variable) -> Any:
            if jax.process_count() == 1:
                return variable.value
            return variable.value.addressable_data(0)

        def _scope(
            self, trainable: list, non_trainable: list, optimizer: Any = (), metrics: Any = ()
        ) -> keras.StatelessScope:
            variables = [*self.trainable_variables, *self.non_trainable_variables]
            variables += self.optimizer.variables if optimizer else []
            variables += self.metrics_variables if metrics else []
            values = [*trainable, *non_trainable, *optimizer, *metrics]
            return keras.StatelessScope(state_mapping=zip(variables, values, strict=True))

    def _shared_by_devices(data: Any) -> Any:
        """Divides arrays among the devices of a data-parallel training, and with them the work."""
        distribution = keras.distribution.distribution()
        if distribution is None:
            return data
        mesh = distribution.device_mesh

        def shared(array: Any) -> Any:
            if len(array) % mesh.devices.size:  # the end of an evaluation, for example
                return array
            axes = [distribution.batch_dim_name] + [None] * (array.ndim - 1)
            layout = keras.distribution.TensorLayout(axes, mesh)
            return keras.distribution.distribute_tensor(array, layout)

        return jax.tree.map(shared, data)

    def _replicated() -> jax.sharding.Sharding | None:
        """Of what every device has whole, in a data-parallel training."""
        distribution = keras.distribution.distribution()
        if distribution is None:
            return None
        return keras.distribution.TensorLayout([], distribution.device_mesh).backend_layout

    def _part(array: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
        return np.asarray(array[index])

    def _values(scope: keras.StatelessScope, variables: list) -> list:
        return [scope.get_current_value(variable) for variable in variables]

    def describe_device() -> str:
        """Names what the computation runs on, for people."""
        device = jax.devices()[0]
        return "CPU" if device.platform == "cpu" else device.device_kind

    def dispatches_pay(data_bytes: int) -> bool:
        """Whether many steps in one call are faster, and the data they need fit on the device."""
        statistics = jax.local_devices()[0].memory_stats() or {}  # a CPU gives none
        return data_bytes < statistics.get("bytes_limit", 0) / 4

else:
    import torch

    class CompiledSteps(OneDevice):
        """PyTorch: gradients by backward()."""

        def train_step(self, data: Any) -> dict[str, Any]:
            images, labels, _ = unpack_x_y_sample_weight(data)
            self.zero_grad()
            loss, losses = self.compute_losses(images, training=True, labels=labels)
            self.optimizer.scale_loss(loss).backward()
            gradients = [weight.value.grad for weight in self.trainable_weights]
            with torch.no_grad():
                self.optimizer.apply(gradients, self.trainable_weights)
                self.update_ema()
                return self.update_metrics(losses)

        def test_step(self, data: Any) -> dict[str, Any]:
            images, labels, _ = unpack_x_y_sample_weight(data)
            with torch.no_grad():
                _, losses = self.compute_losses(images, training=False, labels=labels)
                return self.update_metrics(losses)

        @functools.cached_property
        def compiled_denoise(self) -> Any:
            """`denoise(noisy_images, noise_rates, signal_rates, labels=None)`, no gradients."""
            return torch.no_grad()(functools.partial(self.denoise, training=False))

    def describe_device() -> str:
        """Names what the computation runs on, for people."""
        return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"

    def dispatches_pay(data_bytes: int) -> bool:
        """Whether many steps in one call are faster; each is a call of its own here."""
        return False
