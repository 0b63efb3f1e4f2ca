"""Labels and guidance for the images to generate, from the options and the model's classes."""

import numpy as np

from ddim_keras.cli.generate import GenerateOptions
from ddim_keras.cli.options import INTERVAL_WITHOUT_GUIDANCE, class_index
from ddim_keras.config import GUIDANCE, InputError
from ddim_keras.runs.configuration import RunConfig


def chosen_labels(options: GenerateOptions, config: RunConfig) -> np.ndarray:
    """A label for each image, -1 for any class."""
    num_classes = config.model.network.num_classes
    if not num_classes and (options.classes or (options.guidance and not options.guide)):
        raise InputError(
            "this model was trained without labels; --class, and --guidance without --guide, need "
            "one that was trained with: python train.py --class-conditional"
        )
    if options.classes is None:
        return np.full(options.num_images, -1)
    classes = [class_index(text, config.class_names, num_classes) for text in options.classes]
    return np.repeat(classes, options.num_images)


def name_of(label: int, config: RunConfig) -> str:
    """The name of a class or, if it has none, its number."""
    return config.class_names[label] if label < len(config.class_names) else f"class {label}"


def chosen_strength(options: GenerateOptions, config: RunConfig) -> float:
    """The strength of guidance; by default GUIDANCE for images of classes, or with a guide.

    Raises:
        InputError: for an interval without guidance.
    """
    is_redrawn = options.inpaint or options.from_image
    is_of_classes = not options.is_editing or (is_redrawn and options.classes)
    strength = options.guidance
    if strength is None and options.guide:
        strength = GUIDANCE
    elif strength is None:
        strength = config.model.default_guidance if is_of_classes else 0.0
    if options.guidance_interval and not strength:
        raise InputError(INTERVAL_WITHOUT_GUIDANCE)
    return strength
