"""The training step and the compiled denoiser, once for each Keras backend.

The one place with backend code. Each class adds to a model that has `compute_losses`, `denoise`,
`update_ema` and `update_metrics`: a `train_step` and a `test_step` that `fit` and `evaluate`
compile, and `compiled_denoise`.
"""

import functools
from typing import Any

import keras
from keras.utils import unpack_x_y_sample_weight

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    class CompiledSteps:
        """TensorFlow: gradients by a tape; XLA where there is a GPU, as it slows a CPU down."""

        def train_step(self, data: Any) -> dict[str, Any]:
            images, labels, _ = unpack_x_y_sample_weight(data)
            with tf.GradientTape() as tape:
                loss, losses = self.compute_losses(images, training=True, labels=labels)
                loss = self.optimizer.scale_loss(loss)
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            self.update_ema()
            return self.update_metrics(losses)

        def test_step(self, data: Any) -> dict[str, Any]:
            images, labels, _ = unpack_x_y_sample_weight(data)
            _, losses = self.compute_losses(images, training=False, labels=labels)
            return self.update_metrics(losses)

        @functools.cached_property
        def compiled_denoise(self) -> Any:
            """`denoise(noisy_images, noise_rates, signal_rates, labels=None)`, compiled."""
            return tf.function(
                functools.partial(self.denoise, training=False),
                jit_compile=bool(tf.config.list_physical_devices("GPU")),
            )

    def describe_device() -> str:
        """Names what the computation runs on, for people."""
        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            return "CPU"
        return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")

elif keras.backend.backend() == "jax":
    import jax

    class CompiledSteps:
        """JAX: pure functions of the state; variables are read and assigned in stateless scopes."""

        def train_step(self, state: tuple, data: Any) -> tuple[dict[str, Any], tuple]:
            trainable, non_trainable, optimizer_state, metrics_state = state
            images, labels, _ = unpack_x_y_sample_weight(data)

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
            images, labels, _ = unpack_x_y_sample_weight(data)
            with self._scope(trainable, non_trainable, metrics=metrics_state) as scope:
                _, losses = self.compute_losses(images, training=False, labels=labels)
                logs = self.update_metrics(losses)
            non_trainable = _values(scope, self.non_trainable_variables)
            return logs, (trainable, non_trainable, _values(scope, self.metrics_variables))

        @functools.cached_property
        def compiled_denoise(self) -> Any:
            """`denoise(noisy_images, noise_rates, signal_rates, labels=None)`, compiled."""

            @jax.jit
            def denoise(trainable: list, non_trainable: list, *inputs: Any, **labels: Any) -> Any:
                with self._scope(trainable, non_trainable):
                    return self.denoise(*inputs, training=False, **labels)

            # The weights are arguments: as constants they would be compiled in, and go stale.
            return lambda *inputs, **labels: denoise(
                [v.value for v in self.trainable_variables],
                [v.value for v in self.non_trainable_variables],
                *inputs,
                **labels,
            )

        def _scope(
            self, trainable: list, non_trainable: list, optimizer: Any = (), metrics: Any = ()
        ) -> keras.StatelessScope:
            variables = [*self.trainable_variables, *self.non_trainable_variables]
            variables += self.optimizer.variables if optimizer else []
            variables += self.metrics_variables if metrics else []
            values = [*trainable, *non_trainable, *optimizer, *metrics]
            return keras.StatelessScope(state_mapping=zip(variables, values, strict=True))

    def _values(scope: keras.StatelessScope, variables: list) -> list:
        return [scope.get_current_value(variable) for variable in variables]

    def describe_device() -> str:
        """Names what the computation runs on, for people."""
        device = jax.devices()[0]
        return "CPU" if device.platform == "cpu" else device.device_kind

else:
    import torch

    class CompiledSteps:
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
