"""Examination of a model for the doctor: its predictions and its generated images.

Prediction errors are measured by noise level on images with known noise; generated images are
compared with photographs. Each finding is a sentence with advice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from keras import ops

from ddim_keras.data.batches import random_images
from ddim_keras.data.cache import Dataset
from ddim_keras.metrics.encoders import Encoder
from ddim_keras.metrics.feature_distances import precision_and_recall
from ddim_keras.metrics.memorisation import (
    Nearest,
    features_both_ways,
    nearest_training_images,
)
from ddim_keras.metrics.pixels import pixel_statistics
from ddim_keras.model import DiffusionModel

TIMES = np.linspace(0.05, 1.0, 12)  # diffusion times at which predictions are measured
IMAGES = 128  # for each of these measurements
# Limits beyond which a finding becomes a warning.
HARDLY_BETTER = 0.9  # error, as a share of the error without a network
MEMORISED = 1.15  # error on validation images, as a multiple of that on training images
WORSE = 1.1  # error, as a multiple of the included model's
PALE, GRAINY, BLURRED = 0.85, 1.3, 0.6  # of the photographs' contrast and detail
WRONG_COLOUR = 0.05  # of the pixel range
COPIES = 0.05  # share of generated images
NARROW = 0.5  # recall, as a share of that of training images


@dataclass(frozen=True)
class Examination:
    """The measurements; errors are mean squared errors of normalised pixels, by noise level."""

    noise_rates: np.ndarray  # (L,)
    errors: dict[str, np.ndarray]  # (L,) of predicted images, by what was predicted; may be empty
    pixels: tuple[dict[str, float], dict[str, float]]  # of generated images, and of photographs
    nearest: Nearest
    recall: tuple[float, float]  # of generated images, and of as many training images

    @property
    def errors_of_nothing(self) -> np.ndarray:
        """The error of shrinking the noisy image towards the mean, without a network.

        For images and noise of unit variance it equals the noise variance (Wiener filter).
        """
        return self.noise_rates**2


def examine(
    model: DiffusionModel,
    provided: DiffusionModel | None,
    generated: np.ndarray,
    dataset: Dataset,
    encoder: Encoder,
) -> Examination:
    """Measures predictions, unless the model is a student, and generated images.

    Args:
        provided: a trained model of the same data, to compare with.
        generated: (N, H, W, C) images in [0, 1].
    """
    errors = {}
    if not model.config.student_steps:
        labels, validation = dataset.validation_labels, dataset.validation_images
        errors["training images"] = prediction_errors(
            model, dataset.train_images, dataset.train_labels
        )
        errors["validation images"] = prediction_errors(model, validation, labels)
        if provided is not None:
            errors["validation images, included model"] = prediction_errors(
                provided, validation, labels
            )
    noise_rates, _ = model.diffusion_schedule(ops.convert_to_tensor(TIMES, "float32"))
    validation_features = encoder.features(dataset.validation_images)
    generated_features = encoder.features(generated)
    some_of_training = encoder.features(random_images(dataset.train_images, len(generated)))
    recalls = [
        precision_and_recall(validation_features, features)[1]
        for features in (generated_features, some_of_training)
    ]
    return Examination(
        ops.convert_to_numpy(noise_rates),
        errors,
        (pixel_statistics(generated), pixel_statistics(dataset.validation_images)),
        nearest_training_images(
            generated_features,
            validation_features,
            features_both_ways(encoder, dataset.train_images),
        ),
        (recalls[0], recalls[1]),
    )


def prediction_errors(model: DiffusionModel, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean squared errors (L,) of the images that the average predicts at each of TIMES."""
    order = np.random.default_rng(0).permutation(len(images))[:IMAGES]
    clean = model.normalize(ops.convert_to_tensor(images[order]))
    noises = ops.convert_to_tensor(np.random.default_rng(1).standard_normal(clean.shape, "float32"))
    denoise = model.compiled_denoise
    options = {"labels": labels[order]} if model.num_classes else {}
    errors = []
    for time in TIMES:
        times = ops.full((len(order), 1, 1, 1), time, dtype="float32")
        noise_rates, signal_rates = model.diffusion_schedule(times)
        noisy_images = signal_rates * clean + noise_rates * noises
        _, pred_images = denoise(noisy_images, noise_rates, signal_rates, **options)
        errors.append(float(ops.mean((pred_images - clean) ** 2)))
    return np.array(errors)


def findings(examined: Examination) -> Iterator[str]:
    """Sentences on predictions, colours, copies and variety, with advice for bad results."""
    if examined.errors:
        yield from _predictions(examined)
    yield from _pixels(*examined.pixels)
    share = examined.nearest.share_of_copies
    yield (
        f"{share:.1%} of {len(examined.nearest.generated)} generated images are nearer to a "
        "training image than all but 1 % of the validation images are. "
        + (
            "It copies training images: train on more images, or for fewer epochs."
            if share > COPIES
            else "No sign of copies."
        )
    )
    recall, possible = examined.recall
    yield (
        f"Of the validation images, {recall:.0%} resemble a generated image; "
        f"{possible:.0%} resemble one of as many training images. "
        + (
            "Much of the variety is missing: train longer, or generate with less --guidance."
            if recall < NARROW * possible
            else "The variety is good."
        )
    )


def _predictions(examined: Examination) -> Iterator[str]:
    validation, nothing = examined.errors["validation images"], examined.errors_of_nothing
    shares = validation / nothing
    best = shares.min()
    if best > HARDLY_BETTER:
        yield (
            f"The error of its predicted images is at least {best:.0%} of the error without a "
            "network at every noise level: it has learnt nothing yet. Train longer; if the loss "
            "does not fall, try another --learning-rate."
        )
        return
    yield (
        f"The error of its predicted images is {best:.0%} of the error without a network at the "
        f"best noise level, and {shares.max():.0%} at the worst."
    )
    gap = np.mean(validation / examined.errors["training images"])
    yield (
        f"On validation images the error is {gap:.2f} times that on training images. "
        + (
            "It starts to memorise its training images: more images help, longer training does not."
            if gap > MEMORISED
            else "No sign of memorising."
        )
    )
    if "validation images, included model" not in examined.errors:
        return
    ratio = np.mean(validation / examined.errors["validation images, included model"])
    yield (
        f"The error is {ratio:.2f} times that of the included model for these images. "
        + ("A longer training should help." if ratio > WORSE else "It is about as good.")
    )


def _pixels(generated: dict[str, float], photographs: dict[str, float]) -> Iterator[str]:
    contrast, detail = (generated[name] / photographs[name] for name in ("contrast", "detail"))
    advice = "That is normal."
    if detail > GRAINY:
        advice = "They are grainy: noise remains. Train longer, or generate in more --steps."
    elif detail < BLURRED:
        advice = "They are blurred: train longer, or give a larger --last-signal-rate."
    elif contrast < PALE:
        advice = "They are pale: train longer or, if the model allows it, use stronger guidance."
    yield (
        f"Generated images have {contrast:.0%} of the contrast of photographs, and {detail:.0%} of "
        f"their detail. {advice}"
    )
    colours = [name for name in ("red", "green", "blue", "brightness") if name in generated]
    name = max(colours, key=lambda name: abs(generated[name] - photographs[name]))
    difference = generated[name] - photographs[name]
    yield (
        f"The largest difference of a mean colour is {difference:+.3f} in {name}. "
        + (
            "That is visible: train longer; the loss mse keeps colours better than mae."
            if abs(difference) > WRONG_COLOUR
            else "That is hardly visible."
        )
    )
