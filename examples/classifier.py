"""A small classifier for the other examples, to judge and to guide generated images.

Classifier guidance: Dhariwal and Nichol 2021 (https://arxiv.org/abs/2105.05233, section 4).
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from ddim_keras import Dataset, DiffusionModel, SinusoidalEmbedding, training_batches
from ddim_keras.config import InputError
from ddim_keras.network import adaptive_block
from ddim_keras.progress import verbosity
from ddim_keras.runs.folder import Run
from ddim_keras.runs.weights import load_weights, save_weights

WIDTHS = (32, 64, 128)
BATCH_SIZE = 64


class Classifier:
    """Classifies images, including noisy ones if trained on them.

    Args:
        model: model whose normaliser, noise schedule and classes are used.
        name: name of the training data, for the description.
        seed: seed of the initial weights, the order of the images and the noises.
    """

    def __init__(self, model: DiffusionModel, name: str, seed: int = 0) -> None:
        self.model = model
        self.seed = seed
        keras.utils.set_random_seed(seed)
        noisy_images = keras.Input(model.network.input_shape[0][1:])
        noise_variances = keras.Input((1, 1, 1))
        embedding = SinusoidalEmbedding(max_frequency=100.0)(noise_variances)
        x = noisy_images
        for width in WIDTHS:
            x = layers.Conv2D(width, kernel_size=3, strides=2, padding="same")(x)
            x = adaptive_block(x, embedding, width)
        features = layers.GlobalAveragePooling2D()(layers.Activation("swish")(x))
        logits = layers.Dense(model.num_classes)(features)
        self.network = keras.Model([noisy_images, noise_variances], logits)
        # Scaled to length 1 per element; otherwise the largest dominate the KID's cubic kernel.
        features = layers.Rescaling(math.sqrt(WIDTHS[-1]))(layers.UnitNormalization()(features))
        self.feature_network = keras.Model(self.network.input, features)
        self.description = f"{name} classifier, {WIDTHS[-1]}"

    def fit(self, dataset: Dataset, epochs: int, noisy: bool) -> None:
        """Trains on the training images, clean or at all noise levels of the model."""
        steps = max(1, len(dataset.train_images) // BATCH_SIZE)
        schedule = keras.optimizers.schedules.CosineDecay(2e-3, epochs * steps)
        self.network.compile(
            keras.optimizers.AdamW(schedule),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        batches = self._batches(dataset, noisy)
        self.network.fit(
            batches, steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=verbosity()
        )

    def _batches(self, dataset: Dataset, noisy: bool) -> Iterator[tuple[Any, np.ndarray]]:
        random = np.random.default_rng(self.seed)
        batch_size = min(BATCH_SIZE, len(dataset.train_images))
        for images, labels in training_batches(
            dataset.train_images, dataset.train_labels, batch_size, seed=self.seed
        ):
            images, noise_rates = self._clean(images)
            if noisy:
                times = random.random(noise_rates.shape, dtype="float32")
                rates = self.model.diffusion_schedule(ops.convert_to_tensor(times))
                noise_rates, signal_rates = map(ops.convert_to_numpy, rates)
                noises = random.standard_normal(images.shape, dtype="float32")
                images = signal_rates * images + noise_rates * noises
            yield (images, noise_rates**2), labels

    def _clean(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images (B, H, W, C), uint8 or float in [0, 1], as clean network inputs."""
        images = ops.convert_to_numpy(self.model.normalize(np.asarray(images)))
        return images, np.zeros((len(images), 1, 1, 1), "float32")

    def classify(self, images: np.ndarray) -> np.ndarray:
        """The most probable class of each image, uint8 or float in [0, 1]: (N, H, W, C) -> (N,)."""
        return self.network.predict(self._clean(images), batch_size=256, verbose=0).argmax(axis=1)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Features for KernelInceptionDistance: (N, H, W, C) -> (N, D)."""
        features = self.feature_network.predict(self._clean(images), batch_size=256, verbose=0)
        return features.astype("float64")

    def log_probability(self, noisy_images: Any, noise_rates: Any, labels: Any) -> Any:
        """The sum over a batch of `log p(label | noisy image)`, a scalar tensor."""
        logits = self.network([noisy_images, noise_rates**2], training=False)
        classes = ops.one_hot(labels, self.model.num_classes)
        return ops.sum(classes * ops.log_softmax(logits))


def trained_classifier(
    run: Run, model: DiffusionModel, dataset: Dataset, epochs: int, noisy: bool = False
) -> Classifier:
    """Loads the classifier of a run folder, or trains it and saves it there."""
    if dataset.train_labels.min() < 0:
        raise InputError(f"{dataset.name} has images without a label; give labelled ones")
    classifier = Classifier(model, dataset.name, seed=int(noisy))
    weights = run.folder / f"{'noise_aware_' if noisy else ''}classifier.weights.h5"
    if weights.exists():
        load_weights(classifier.network, weights)
    else:
        print(f"training {weights}", flush=True)
        classifier.fit(dataset, epochs, noisy)
        save_weights(classifier.network, weights)
    accuracy = np.mean(classifier.classify(dataset.validation_images) == dataset.validation_labels)
    print(f"{weights.name} recognises {accuracy:.1%} of the real validation images", flush=True)
    return classifier


def classifier_guided(
    denoise: Callable[..., Any], classifier: Classifier, labels: np.ndarray, scale: float
) -> Callable[..., Any]:
    """Classifier guidance for deterministic DDIM (Dhariwal and Nichol 2021, algorithm 2).

    `pred_noises - noise_rate * scale * d log p(label | noisy image) / d noisy image` moves noisy
    images towards higher class probability. Costs one gradient of the classifier per step.

    Args:
        denoise: `denoise(noisy_images, noise_rates, signal_rates)`.
        classifier: trained on noisy images.
        labels: (B,) target classes.
        scale: 1 follows Bayes' rule if both predictions are exact; larger values exaggerate.

    Returns:
        A function with the signature of `denoise`.
    """

    def steered(noisy_images: Any, noise_rates: Any, signal_rates: Any) -> tuple[Any, Any]:
        pred_noises, _ = denoise(noisy_images, noise_rates, signal_rates)
        gradients = gradient(
            lambda images: classifier.log_probability(images, noise_rates, labels), noisy_images
        )
        pred_noises = pred_noises - noise_rates * scale * gradients
        return pred_noises, (noisy_images - noise_rates * pred_noises) / signal_rates

    return steered


def gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """The gradient of a scalar function at the tensor `x`, on each backend of Keras."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)(x)
    import torch

    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x), x)[0]
