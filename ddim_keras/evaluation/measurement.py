"""Measurements: metrics of generated images against real ones, and times."""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddim_keras.cli.evaluate import EvaluateOptions
from ddim_keras.config import InputError
from ddim_keras.data import cache
from ddim_keras.data.batches import random_images
from ddim_keras.data.sources import Unknown
from ddim_keras.evaluation.settings import Setting, generate
from ddim_keras.metrics import encoders
from ddim_keras.metrics.feature_distances import frechet_distance, precision_and_recall
from ddim_keras.metrics.kid import KernelInceptionDistance
from ddim_keras.model import DiffusionModel
from ddim_keras.progress import sampling_progress
from ddim_keras.runs.configuration import RunConfig

FEWEST_IMAGES = 4  # of each part, to have the neighbours of precision and recall
ESTIMATOR = "all pairs"  # of the KID; earlier results used batches of 64, with larger errors


def load_data(options: EvaluateOptions | argparse.Namespace, config: RunConfig) -> cache.Dataset:
    """The data set that a run was trained on, read from the folders in the options.

    If it has another number of images by now, it is split anew, and a warning is printed. Exports
    name it without a folder.
    """
    name = config.dataset
    try:
        dataset = cache.load_dataset(
            name,
            config.model.network.image_size,
            options.data_dir or config.data_dir,
            options.cache_dir,
        )
    except Unknown as error:
        if name is None or Path(name).is_absolute():
            raise
        raise InputError(
            f"{error}. An exported model names its data without their folder: start this command "
            f"in the folder that holds {name}"
        ) from error
    if config.num_images not in (None, len(dataset.train_images)):
        print(
            f"warning: {dataset.name} now has {len(dataset.train_images)} training images, and had "
            f"{config.num_images} when the run was trained: some of its validation images may be "
            "among those",
            flush=True,
        )
    return dataset


def require_enough(dataset: cache.Dataset) -> None:
    """Raises InputError if there are too few images to compare generated ones with."""
    parts = len(dataset.train_images), len(dataset.validation_images)
    if min(parts) < FEWEST_IMAGES:
        raise InputError(
            f"{dataset.name} has {parts[0]} training and {parts[1]} validation images; to compare "
            f"generated images with them, at least {FEWEST_IMAGES} of each are needed"
        )


def load_kid(
    options: EvaluateOptions, config: RunConfig, split: str
) -> tuple[KernelInceptionDistance, np.ndarray]:
    """The KID against the images of a split, and as many images of the other split."""
    dataset = load_data(options, config)
    real_images = dataset.validation_images
    other_images = random_images(dataset.train_images, len(real_images))
    if split == "train":
        real_images, other_images = other_images, real_images
    encoder = encoders.choose_encoder(options.kid_weights)
    return KernelInceptionDistance(encoder, real_images), other_images


def metrics_of(
    names: Sequence[str], kid: KernelInceptionDistance, images: np.ndarray
) -> dict[str, float]:
    """The metrics of images against the real images in `kid`."""
    features = kid.encoder.features(images)
    values = {}
    if "kid" in names:
        distance = kid.of_all_pairs(features)
        values["kid"], values["kid_standard_error"] = distance.value, distance.standard_error
    if "frechet" in names:
        values["frechet"] = frechet_distance(kid.real_features, features)
    if "precision_recall" in names:
        values["precision"], values["recall"] = precision_and_recall(kid.real_features, features)
    return values


def warm_up(options: EvaluateOptions, model: DiffusionModel, setting: Setting) -> None:
    """Compiles for the batch size, so that compilation is not timed."""
    num_batches = -(-options.num_images // options.batch_size)
    batch_size = -(-options.num_images // num_batches)
    everywhere = dataclasses.replace(setting.guidance, interval=None)
    guidances = [everywhere]
    if setting.guidance.interval:  # outside it, the batches of network calls are half as large
        guidances.append(dataclasses.replace(everywhere, strength=0.0))
    for steps in model.config.student_steps or (1,):
        for guidance in guidances:
            model.generate(batch_size, steps, batch_size=batch_size, guidance=guidance)


def measure(
    options: EvaluateOptions,
    model: DiffusionModel,
    setting: Setting,
    kid: KernelInceptionDistance,
) -> dict[str, Any]:
    """Generates images with a setting and measures them; returns a row of the table."""
    num_batches = -(-options.num_images // options.batch_size)
    progress = sampling_progress(num_batches, setting.steps)
    start = time.perf_counter()
    images = generate(options, model, setting, options.seed, progress)
    seconds = time.perf_counter() - start
    return {
        **setting.columns(),
        "batch_size": options.batch_size,
        "images_per_second": round(options.num_images / seconds, 3),
        **metrics_of(options.metrics, kid, images),
    }
