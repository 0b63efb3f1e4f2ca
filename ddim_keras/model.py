"""The diffusion model: its networks, its training, and deterministic DDIM sampling.

Denoising Diffusion Implicit Models, Song et al. 2020 (https://arxiv.org/abs/2010.02502).
Shapes: images, noises and predictions are (B, H, W, C) float32; times and rates are (B, 1, 1, 1);
labels are (B,) integers, where -1 means any class. Inside the model, images have zero mean and unit
variance per channel; its users pass uint8, or float in [0, 1].
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from ddim_keras import backends
from ddim_keras.arguments import require_batch, require_counts
from ddim_keras.base_model import BaseModel, initial_weights_of
from ddim_keras.config import InputError, ModelConfig
from ddim_keras.network import residual_unet
from ddim_keras.schedules import schedule_of
from ddim_keras.types import Callback, Denoise, Tensor


@keras.saving.register_keras_serializable(package="ddim_keras")
class DiffusionModel(BaseModel):
    """A diffusion model: a denoising network and its exponential moving average.

    `network` is trained; `ema_network` follows it and generates the images. Call `adapt(images)`
    once before training, to set the mean and variance of the pixels. `adapt`,
    `generate(num_images, diffusion_steps)`, the labels, and what Keras needs to compile and save a
    model are in `base_model.py`.

    Args:
        config: configuration to build, by default the assignment's model.
        only_average: build the averaged network only and use it as both networks. Halves the
            start-up time and memory when weights are only loaded to generate.
    """

    outputs_per_channel = 1  # of the network
    updates_per_batch = 1  # optimizer steps of a training step

    def __init__(
        self, config: ModelConfig | None = None, only_average: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(config or ModelConfig(), only_average, **kwargs)
        if self.config.variance == "learned" and self.outputs_per_channel == 1:
            raise InputError(
                "learned variances need a LearnedVarianceModel; likelihood.new_model(config) makes "
                "the model of any configuration"
            )
        self.schedule = schedule_of(self.config)
        # For each number of steps, once searched; see `step_search`.
        self.searched_steps: Mapping[int, Sequence[float]] = {}
        build = functools.partial(residual_unet, self.config.network, self.outputs_per_channel)
        with initial_weights_of(self.config.seed):
            if only_average:
                self.network = self.ema_network = build(name="ema_network")
            else:
                self.network = build(name="network")
                self.ema_network = build(name="ema_network")
                self.ema_network.set_weights(self.network.get_weights())
        self.ema_network.trainable = False
        self.noise_loss_tracker = keras.metrics.Mean(name="noise_loss")
        self.image_loss_tracker = keras.metrics.Mean(name="image_loss")
        self.built = True

    # The assignment: schedule, denoising, reverse diffusion.

    def diffusion_schedule(self, diffusion_times: Tensor) -> tuple[Tensor, Tensor]:
        """Maps diffusion times in [0, 1] to `noise_rates, signal_rates` of the same shape.

        A subclass with another schedule replaces `self.schedule`, from which samplers take their
        steps.
        """
        return self.schedule(diffusion_times)

    def denoise(
        self,
        noisy_images: Tensor,
        noise_rates: Tensor,
        signal_rates: Tensor,
        training: bool,
        labels: Tensor = None,
    ) -> tuple[Tensor, Tensor]:
        """Splits noisy images into their two parts, with one network call.

        The network gets the noise variance, and predicts the noise (Ho et al. 2020, equation 11),
        the velocity `signal_rates * noises - noise_rates * images` (Salimans and Ho 2022,
        https://arxiv.org/abs/2202.00512, appendix D) or the image. In each case the results satisfy
        `noisy_images = signal_rates * pred_images + noise_rates * pred_noises`.

        Args:
            training: True for the trained network, False for its moving average.
            labels: for a class-conditional model, by default -1; other models ignore them.

        Returns:
            `pred_noises, pred_images`, each with the shape of `noisy_images`.
        """
        prediction = self.network_outputs(noisy_images, noise_rates, training, labels)
        return self.split(prediction, noisy_images, noise_rates, signal_rates)

    def network_outputs(
        self,
        noisy_images: Tensor,
        noise_rates: Tensor,
        training: bool,
        labels: Tensor = None,
        *others: Tensor,
    ) -> Tensor:
        """The output of the trained network or, with training=False, of its moving average."""
        network = self.network if training else self.ema_network
        inputs = [noisy_images, noise_rates**2]
        if self.num_classes:
            inputs.append(self.class_indices(labels, like=noisy_images))
        return network([*inputs, *others], training=training)

    def split(
        self, prediction: Tensor, noisy_images: Tensor, noise_rates: Tensor, signal_rates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`pred_noises, pred_images` from a prediction of the noise, velocity or image."""
        if self.config.prediction == "noise":
            pred_noises = prediction
            pred_images = (noisy_images - noise_rates * pred_noises) / signal_rates
        elif self.config.prediction == "image":
            pred_images = prediction
            pred_noises = (noisy_images - signal_rates * pred_images) / noise_rates
        else:
            pred_noises = noise_rates * noisy_images + signal_rates * prediction
            pred_images = signal_rates * noisy_images - noise_rates * prediction
        return pred_noises, pred_images

    def reverse_diffusion(
        self,
        initial_noise: Tensor,
        diffusion_steps: int,
        callback: Callback | None = None,
        denoise: Denoise | None = None,
    ) -> Tensor:
        """Deterministic DDIM (Song et al. 2020, equation 12 with sigma = 0), uniform in time.

        Costs one network call per step.

        Args:
            initial_noise: (B, H, W, C), standard normal.
            diffusion_steps: number of steps, at least 1.
            callback: called as `callback(step, noisy_images, pred_images)` in each step.
            denoise: used instead of `compiled_denoise`, such as the result of a `Guidance`.

        Returns:
            The predicted images of the last step, (B, H, W, C), normalised.
        """
        require_counts(diffusion_steps=diffusion_steps)
        denoise = denoise or self.compiled_denoise
        batch_size = ops.shape(initial_noise)[0]
        noisy_images = ops.convert_to_tensor(initial_noise, dtype="float32")
        for step in range(diffusion_steps):
            times = ops.full((batch_size, 1, 1, 1), 1.0 - step / diffusion_steps)
            noise_rates, signal_rates = self.diffusion_schedule(times)
            pred_noises, pred_images = denoise(noisy_images, noise_rates, signal_rates)
            if callback is not None:
                callback(step, noisy_images, pred_images)

            # The same image with the same noise, at the smaller noise level of the next step.
            next_noise_rates, next_signal_rates = self.diffusion_schedule(
                times - 1.0 / diffusion_steps
            )
            noisy_images = next_signal_rates * pred_images + next_noise_rates * pred_noises
        return pred_images

    # Training.

    def train_step(self, *arguments: Any) -> Any:
        """One training step: losses of a batch, gradients, optimizer step, moving average.

        Has the signature of the backend's Keras trainer; see `backends`.
        """
        with backends.Step(self, *arguments) as step:
            losses = step.minimize(self.compute_losses)
            self.update_ema()
            return step.results(self.update_metrics(losses))

    def test_step(self, *arguments: Any) -> Any:
        """Losses of a validation batch, with the moving average."""
        with backends.Step(self, *arguments) as step:
            _, losses = self.compute_losses(step.images, training=False, labels=step.labels)
            return step.results(self.update_metrics(losses))

    def compute_losses(
        self, images: Tensor, training: bool, labels: Tensor = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mixes images with random noise at random times, and computes the losses.

        Args:
            images: (B, H, W, C), uint8 or float in [0, 1].
            labels: for a class-conditional model; a share of them is dropped in training.

        Returns:
            The scalar to minimise, and the scalars to report: `noise_loss`, `image_loss`.
        """
        require_batch(images)
        images = self.normalize(images)
        noises, diffusion_times = self.draw_noises_and_times(images)
        noise_rates, signal_rates = self.diffusion_schedule(diffusion_times)
        noisy_images = signal_rates * images + noise_rates * noises
        denoise = self.denoise
        if self.num_classes:
            labels = self.drop_labels(labels, images) if training else labels
            denoise = functools.partial(self.denoise, labels=labels)
        pred_noises, pred_images = denoise(noisy_images, noise_rates, signal_rates, training)

        losses = {
            "noise_loss": self.mean_error(noises, pred_noises),
            "image_loss": self.mean_error(images, pred_images),
        }
        if self.loss_on != "velocity":
            return losses[f"{self.loss_on}_loss"], losses
        velocities = signal_rates * noises - noise_rates * images
        pred_velocities = signal_rates * pred_noises - noise_rates * pred_images
        return self.mean_error(velocities, pred_velocities), losses

    def draw_noises_and_times(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Draws standard normal noises, and diffusion times (B, 1, 1, 1), uniform in [0, 1).

        With `stratified_times` the times of a batch are equally spaced, and the loss varies less
        (Kingma et al. 2021, https://arxiv.org/abs/2107.00630, appendix I.1). With `discrete_steps`
        T the times are uniform over 1/T, 2/T, ..., 1, as in DDPM.
        """
        noises = backends.draw(self, keras.random.normal, ops.shape(images))
        distribution = stratified if self.config.stratified_times else keras.random.uniform
        diffusion_times = backends.draw(self, distribution, (ops.shape(images)[0], 1, 1, 1))
        if steps := self.config.discrete_steps:
            diffusion_times = (ops.floor(diffusion_times * steps) + 1.0) / steps
        return noises, diffusion_times

    def mean_error(self, target: Tensor, prediction: Tensor) -> Tensor:
        """The loss given to `compile`, averaged to a scalar whatever its reduction."""
        return ops.mean(self.elementwise_loss(target, prediction))

    def update_ema(self) -> None:
        """Moves `ema_network`, batch-norm statistics included, towards `network`.

        `ema = momentum * ema + (1 - momentum) * weight`, after each optimizer step. Keras's own
        `use_ema` does not average batch-norm statistics, and keeps no second network.
        """
        momentum = self.config.ema
        if self.config.ema_warmup:
            steps = ops.cast(self.optimizer.iterations, "float32")
            momentum = ops.minimum(momentum, (1.0 + steps) / (10.0 + steps))
        for weight, average in zip(self.network.weights, self.ema_network.weights, strict=True):
            average.assign(momentum * average.value + (1.0 - momentum) * weight.value)

    def update_metrics(self, losses: dict[str, Any]) -> dict[str, Any]:
        """Adds the losses of a batch to the means of the epoch, and returns the means."""
        for metric in self.metrics:
            metric.update_state(losses[metric.name], sample_weight=backends.share_of_batch(self))
        return {metric.name: metric.result() for metric in self.metrics}

    @property
    def metrics(self) -> list[keras.Metric]:
        return [self.noise_loss_tracker, self.image_loss_tracker]


def stratified(shape: tuple[int | Tensor, ...], **options: Any) -> Tensor:
    """Random numbers in [0, 1), each uniform, equally spaced from a random first one."""
    first = keras.random.uniform(shape, **options)[:1]
    distances = ops.arange(shape[0], dtype="float32") / ops.cast(shape[0], "float32")
    return (first + ops.reshape(distances, shape)) % 1.0
