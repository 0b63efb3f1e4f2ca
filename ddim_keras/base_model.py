"""Base class of the diffusion model: pixels, labels, generation in batches, and Keras's methods.

The diffusion itself is in `model.py`.
"""

import contextlib
import functools
import numbers
import random
from collections.abc import Callable, Iterator
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from ddim_keras import backends
from ddim_keras.arguments import (
    checked_labels,
    checked_noise,
    require_counts,
    require_images,
    require_pixels,
)
from ddim_keras.config import COMPARED, InputError, ModelConfig
from ddim_keras.deprecated import as_sampler
from ddim_keras.guidance import Guidance
from ddim_keras.samplers import Sampler, image_noises_of_steps
from ddim_keras.types import Callback, Tensor


class BaseModel(keras.Model):
    """Normalises pixels, draws labels and noise, and handles compiling and saving.

    A subclass holds the networks and defines `diffusion_schedule`, `denoise` and
    `reverse_diffusion`.

    Args:
        config, only_average: see `DiffusionModel`.
    """

    def __init__(self, config: ModelConfig, only_average: bool, **kwargs: Any) -> None:
        if not isinstance(config, ModelConfig):
            found = type(config).__name__
            raise InputError(
                f"a model is built from a ModelConfig, such as PRESETS['fast'].model, not a {found}"
            )
        # Images and times stay in float32 under every dtype policy.
        super().__init__(autocast=False, **kwargs)
        self.config = config
        self.only_average = only_average
        self.seed_generator = keras.random.SeedGenerator(config.seed)
        constant = functools.partial(self.add_weight, trainable=False, dtype="float32")
        channels = (config.network.channels,)
        self.pixel_means = constant(shape=channels, initializer="zeros", name="means")
        self.pixel_variances = constant(shape=channels, initializer="ones", name="variances")
        self.num_classes = config.network.num_classes
        if self.num_classes:
            self.class_frequencies = constant(shape=(self.num_classes,), initializer="ones")

    # Images.

    def generate(
        self,
        num_images: int,
        diffusion_steps: int,
        *,
        sampler: Sampler | str | Callable[..., Any] | None = None,
        seed: int | None = None,
        batch_size: int = 64,
        callback: Callback | None = None,
        labels: np.ndarray | None = None,
        guidance: Guidance | float | Callable[..., Any] | None = None,
        initial_noise: np.ndarray | None = None,
        first_image: int = 0,
        reverse_process: Callable[..., Any] | None = None,
    ) -> np.ndarray:
        """Generates images with the moving average of the weights.

        Args:
            num_images: number of images, at least 1.
            diffusion_steps: number of steps, at least 1.
            sampler: a `Sampler`, a name such as "ipndm", or a function like those in `samplers`.
                By default `reverse_diffusion`.
            seed: seed of all noise; image i depends on the seed and i only, not on the batch size
                or the backend. By default each call generates new images.
            batch_size: images per network call; limits the memory.
            callback: as in `reverse_diffusion`, once per step and batch.
            labels: (num_images,) classes for a class-conditional model, -1 for any. By default they
                are drawn with the frequencies of the training labels.
            guidance: a `Guidance`, the strength of classifier-free guidance, or a function that is
                called as `guidance(denoise, labels)` and returns a `denoise`. By default
                `config.GUIDANCE` if any image has a class, otherwise none.
            initial_noise: (num_images, H, W, C), used instead of noise drawn from the seed.
            first_image: number of the first image; the fresh noise of an image depends on its
                number.
            reverse_process: deprecated, a function with the signature of `reverse_diffusion`.

        Returns:
            (num_images, H, W, C) float32 array in [0, 1].
        """
        require_counts(
            num_images=num_images, diffusion_steps=diffusion_steps, batch_size=batch_size
        )
        if reverse_process is not None:
            sampler = as_sampler(reverse_process)
        if seed is None:
            seed = int(np.random.default_rng().integers(2**62))
        if not isinstance(seed, numbers.Integral) or seed < 0:
            raise InputError(f"seed must be a whole number of at least 0, not {seed!r}")
        generator = np.random.default_rng(seed)
        if labels is None:
            labels = self.draw_labels(num_images, generator.spawn(1)[0])
        labels = checked_labels(labels, num_images, self.num_classes)
        if initial_noise is not None:
            shape = self.network.input_shape[0][1:]
            initial_noise = checked_noise(initial_noise, num_images, shape)
        guide = Guidance.of(guidance, labels)
        num_batches = -(-num_images // batch_size)
        # Batches of one size, so that the denoiser is compiled once.
        batch_size = -(-num_images // num_batches)
        labels = np.resize(np.asarray(labels, "int32"), (num_batches, batch_size))
        images = []
        for batch, batch_labels in enumerate(labels):
            chosen = np.arange(batch * batch_size, (batch + 1) * batch_size) % num_images
            if initial_noise is None:
                noises = self.draw_noise(batch_size, generator)
            else:
                noises = initial_noise[chosen]
            denoise = guide(self.compiled_denoise, batch_labels if self.num_classes else None)
            arguments = noises, diffusion_steps, callback, denoise
            if sampler is None:
                pred_images = self.reverse_diffusion(*arguments)
            else:
                fresh_noises = image_noises_of_steps(noises.shape[1:], seed, first_image + chosen)
                pred_images = Sampler.of(sampler).reverse_diffusion(self, *arguments, fresh_noises)
            images.append(ops.convert_to_numpy(self.denormalize(pred_images)))
        return np.concatenate(images)[:num_images]

    def draw_noise(self, num_images: int, generator: np.random.Generator) -> np.ndarray:
        """Initial noise (num_images, H, W, C), float32, as drawn by `generate`."""
        shape = (num_images, *self.network.input_shape[0][1:])
        return generator.standard_normal(shape, dtype="float32")

    @functools.cached_property
    def compiled_denoise(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """`denoise` with the moving average, compiled; without `training`, not differentiable."""
        return backends.compile_denoise(self)

    # Classes.

    def class_indices(self, labels: Tensor, like: Tensor) -> Tensor:
        """Labels as indices for the network; num_classes means any class, the default."""
        if labels is None:
            return ops.full((ops.shape(like)[0],), self.num_classes, dtype="int32")
        labels = ops.cast(ops.convert_to_tensor(labels), "int32")
        return ops.where(labels < 0, self.num_classes, labels)

    def drop_labels(self, labels: Tensor, images: Tensor) -> Tensor:
        """Replaces the configured share of labels, chosen at random, by -1.

        One network then learns both predictions of classifier-free guidance (Ho and Salimans 2022,
        https://arxiv.org/abs/2207.12598, algorithm 1).
        """
        labels = self.class_indices(labels, like=images)
        draws = backends.draw(self, keras.random.uniform, ops.shape(labels))
        return ops.where(draws < self.config.label_dropout, -1, labels)

    def draw_labels(self, num_images: int, generator: np.random.Generator) -> np.ndarray:
        """Labels (num_images,) drawn with their training frequencies; all -1 without classes."""
        if not self.num_classes:
            return np.full(num_images, -1, "int32")
        frequencies = ops.convert_to_numpy(self.class_frequencies).astype("float64")
        return generator.choice(
            self.num_classes, size=num_images, p=frequencies / frequencies.sum()
        ).astype("int32")

    # Pixels.

    def adapt(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Computes the statistics of the training data; must be called before training.

        Args:
            images: (N, H, W, C), uint8 or float in [0, 1]; their mean and variance per channel
                are used for normalisation.
            labels: (N,); `generate` draws classes with their frequencies, by default uniformly.

        Raises:
            InputError: if there are no images, they have another range or shape, or a label is
                not one of the classes.
        """
        require_images(images, self.pixel_means.shape[0])
        if self.num_classes and labels is not None:
            labels = checked_labels(labels, len(images), self.num_classes)
        count, sums, squares = 0, 0.0, 0.0
        for start in range(0, len(images), 1024):  # bounds the memory of a memory-mapped array
            pixels = np.asarray(images[start : start + 1024])
            require_pixels(pixels)
            pixels = pixels.astype("float64") / (255 if pixels.dtype == np.uint8 else 1)
            count += pixels[..., 0].size
            sums += pixels.sum(axis=(0, 1, 2))
            squares += (pixels**2).sum(axis=(0, 1, 2))
        means = sums / count
        self.pixel_means.assign(means)
        self.pixel_variances.assign(np.maximum(squares / count - means**2, 1e-6))
        if self.num_classes and labels is not None and np.any(labels >= 0):
            self.class_frequencies.assign(
                np.bincount(labels[labels >= 0], minlength=self.num_classes)
            )

    def normalize(self, images: Tensor) -> Tensor:
        """Maps uint8 images, or float images in [0, 1], to zero mean and unit variance."""
        network = self.config.network
        expected = (network.image_size, network.image_size, network.channels)
        shape = tuple(images.shape[-3:])
        if None not in shape and shape != expected:
            raise InputError(f"images must be of shape {expected}, not {shape}")
        dtype = keras.backend.standardize_dtype(images.dtype)
        if dtype != "uint8" and "float" not in dtype:
            raise InputError(f"images must be uint8, or float in [0, 1], not {dtype}")
        scale = 255.0 if dtype == "uint8" else 1.0
        images = ops.cast(images, "float32") / scale
        return (images - self.pixel_means) / ops.sqrt(self.pixel_variances)

    @property
    def pixel_range(self) -> tuple[Tensor, Tensor]:
        """Black and white as normalised pixels, (C,) each; used by `Sampler(clip=True)`."""
        means = backends.local_value(self.pixel_means)
        deviations = ops.sqrt(backends.local_value(self.pixel_variances))
        return (0.0 - means) / deviations, (1.0 - means) / deviations

    def denormalize(self, images: Tensor) -> Tensor:
        """Maps normalised images to [0, 1], clipping values outside."""
        images = ops.convert_to_tensor(images)
        means = backends.local_value(self.pixel_means)
        variances = backends.local_value(self.pixel_variances)
        return ops.clip(means + images * ops.sqrt(variances), 0.0, 1.0)

    @property
    def is_adapted(self) -> bool:
        """Whether `adapt` was called: pixels in [0, 1] never have the initial variance of 1."""
        variances = ops.convert_to_numpy(backends.local_value(self.pixel_variances))
        return bool(np.all(variances < 1))

    # Keras: training.

    def fit(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any
    ) -> Any:
        """Like `keras.Model.fit`, with images as for `adapt`, and their labels.

        Weights of images or classes are not supported. Callbacks can monitor the metrics, such as
        `EarlyStopping("val_noise_loss", mode="min")`; there is no `val_loss`.

        Raises:
            InputError: before `adapt`, for arrays that do not fit the model, or for a model of
                `load_model`, which has only averaged weights.
        """
        if self.only_average:
            raise InputError(
                "a model that was loaded to generate has only its averaged weights, and cannot be "
                "trained; continue its run with train.py --resume, or start from it with "
                "--start-from"
            )
        _refuse(kwargs, "sample_weight", "class_weight")
        self.check_data(x, y, batch_size)
        if (validation := kwargs.get("validation_data")) is not None:
            # Keras would look at them only after the first epoch.
            images, labels, weights = keras.utils.unpack_x_y_sample_weight(validation)
            try:
                _refuse({"sample_weight": weights}, "sample_weight")
                self.check_data(images, labels, kwargs.get("validation_batch_size"))
            except InputError as error:
                raise InputError(f"validation_data: {error}") from None
        return super().fit(x, y, batch_size, **kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any
    ) -> Any:
        """Like `keras.Model.evaluate`, with the checks of `fit`."""
        _refuse(kwargs, "sample_weight")
        self.check_data(x, y, batch_size)
        return super().evaluate(x, y, batch_size, **kwargs)

    def check_data(self, images: Any, labels: Any, batch_size: int | None) -> None:
        """Raises InputError for invalid arguments of `fit` and `evaluate`."""
        if not self.is_adapted:
            raise InputError(
                "the model does not know its images yet: call model.adapt(train_images) first"
            )
        if images is None:
            raise InputError("there are no images: call model.fit(train_images)")
        if batch_size is not None:
            require_counts(batch_size=batch_size)
        if ops.is_tensor(images):
            images = ops.convert_to_numpy(images)
        if isinstance(images, list | tuple | dict):
            found = type(images).__name__
            raise InputError(f"images must be one array, or a data set, not a {found}")
        if isinstance(images, np.ndarray):
            network = self.config.network
            require_images(images, network.channels, network.image_size)
            require_pixels(images)
            if self.num_classes and labels is not None:
                checked_labels(labels, len(images), self.num_classes)

    # Keras: calling, compiling, saving.

    def call(self, inputs: tuple[Any, ...], training: bool = False) -> tuple[Tensor, Tensor]:
        """`(noisy_images, diffusion_times[, labels])` -> `(pred_noises, pred_images)`."""
        if not isinstance(inputs, tuple | list) or len(inputs) not in (2, 3):
            raise InputError(
                "the model is called with (noisy_images, diffusion_times[, labels]); images are "
                "made by model.generate"
            )
        noisy_images, diffusion_times, *labels = inputs
        noisy_images = ops.cast(noisy_images, "float32")
        diffusion_times = ops.cast(diffusion_times, "float32")
        noise_rates, signal_rates = self.diffusion_schedule(diffusion_times)
        return self.denoise(noisy_images, noise_rates, signal_rates, training, *labels)

    def compile(
        self,
        optimizer: Any = "adamw",
        loss: Any = "mse",
        loss_on: str = "prediction",
        **kwargs: Any,
    ) -> None:
        """Like `keras.Model.compile`, except for the loss.

        Args:
            loss: a loss that compares two images, such as "mse" or "mae".
            loss_on: quantity the loss is computed on: "prediction", the network's output, or the
                "noise", "velocity" or "image" that follows from it. This weights the noise levels:
                the noise has signal_rate times the velocity's error, the image noise_rate times.

        Raises:
            InputError: for metrics and loss weights, which would have no effect; the metrics are
                the noise loss and the image loss.
        """
        _refuse(kwargs, "metrics", "weighted_metrics", "loss_weights")
        super().compile(optimizer=optimizer, **kwargs)
        if loss_on not in COMPARED:
            raise ValueError(f"loss_on must be prediction, noise, velocity or image, not {loss_on}")
        self.elementwise_loss = keras.losses.get(loss)
        self.loss_on = self.config.prediction if loss_on == "prediction" else loss_on

    def get_compile_config(self) -> dict[str, Any] | None:
        if not self.compiled:
            return None
        loss = keras.saving.serialize_keras_object(self.elementwise_loss)
        return {**super().get_compile_config(), "loss": loss, "loss_on": self.loss_on}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        config = keras.saving.deserialize_keras_object(config)
        self.compile(**config)
        self.optimizer.build(self.trainable_variables)

    def get_config(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "only_average": self.only_average,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**{**config, "config": ModelConfig.from_dict(config["config"])})

    @property
    def dropout_states(self) -> list[keras.Variable]:
        """The random states of dropout layers, which Keras does not save; only for training."""
        if self.only_average:
            return []
        states = [each for each in self.variables if each.name == "seed_generator_state"]
        return [state for state in states if state is not self.seed_generator.state]

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        # So that a resumed training draws the same noises, and reports the same means, as an
        # uninterrupted one.
        store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state)
        if self.dropout_states:
            store["dropout_states"] = np.array(
                [ops.convert_to_numpy(state) for state in self.dropout_states]
            )
        store["metric_values"] = np.array(
            [ops.convert_to_numpy(variable) for variable in self.metrics_variables]
        )

    def load_own_variables(self, store: Any) -> None:
        variables = {key: store[key] for key in store.keys()}  # noqa: SIM118 (not a mapping)
        self.seed_generator.state.assign(variables.pop("seed_state"))
        states = variables.pop("dropout_states", ())
        if not self.only_average:
            for state, value in zip(self.dropout_states, states, strict=True):
                state.assign(value)
        metric_values = variables.pop("metric_values")
        for variable, value in zip(self.metrics_variables, metric_values, strict=True):
            variable.assign(value)
        super().load_own_variables(variables)


def _refuse(options: dict[str, Any], *names: str) -> None:
    """Raises InputError if an option of Keras is given that would have no effect."""
    for name in names:
        if options.get(name) is not None:
            raise InputError(f"a diffusion model does not support {name}; omit it")


@contextlib.contextmanager
def initial_weights_of(seed: int) -> Iterator[None]:
    """A context in which initial weights depend on the seed only.

    Keras draws their seeds from Python's generator, whose state is restored afterwards.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
