"""Preparation of a training: preset, data, KID and callbacks, with checks before any work."""

import dataclasses
import shutil
from pathlib import Path

import keras

from ddim_keras.backends import describe_device
from ddim_keras.backends.devices import num_processes, process_id
from ddim_keras.config import InputError
from ddim_keras.data.batches import random_images, steps_per_epoch
from ddim_keras.data.cache import Dataset
from ddim_keras.memory import FLOAT, require_memory, require_memory_for
from ddim_keras.metrics.encoders import choose_encoder
from ddim_keras.metrics.kid import Distance, KernelInceptionDistance
from ddim_keras.presets import PRESETS
from ddim_keras.progress import duration, say
from ddim_keras.runs.configuration import KIDProtocol, RunConfig
from ddim_keras.runs.folder import Run, find_run
from ddim_keras.samplers import Sampler
from ddim_keras.training.callbacks import KIDCallback, SampleGrid
from ddim_keras.training.loop import require_same_network

# Training images per second at 64 px on two cores with AVX-512 bfloat16; see docs/performance.md.
CPU_SPEED = {"lab": 40, "fast": 60}


def default_preset() -> str:
    """The assignment, `lab`, if there is a GPU to train it; otherwise `fast`."""
    return "fast" if describe_device() == "CPU" else "lab"


def describe_choice_of_preset(config: RunConfig) -> str:
    """Two lines for a machine without a GPU: what is trained instead of `lab`, and how long."""

    def time_for(name: str) -> str:
        images = (config.num_images or 0) * PRESETS[name].training.repetitions * config.epochs
        # Small images take as long: the time is spent on many small operations.
        pixels = max(1.0, (config.model.network.image_size / 64) ** 2)
        return duration(images * pixels / CPU_SPEED[name])

    reason = "no GPU"
    if shutil.which("nvidia-smi"):
        reason = f"{keras.backend.backend()} cannot use this machine's GPU, see docs/gpu.md"
    return (
        f"{reason}: training the preset fast, about {time_for('fast')} on two CPU cores\n"
        f"the assignment would take about {time_for('lab')}; ask for it with: --preset lab"
    )


def complete_config(
    config: RunConfig, dataset: Dataset, is_resumed: bool, class_conditional: bool = False
) -> RunConfig:
    """The configuration completed from the data; a resumed run must get the same values again.

    Raises:
        InputError: if the data are not those of the resumed run, or have no labels to learn.
    """
    num_images, channels = len(dataset.train_images), dataset.train_images.shape[-1]
    network = config.model.network
    before = (config.num_images or num_images, network.channels)
    if is_resumed and before != (num_images, channels):
        raise InputError(
            f"the run was trained on {before[0]} images of {network.channels} channels, "
            f"but {dataset.name} now has {num_images} of {channels}; start a new run"
        )
    if is_resumed and network.num_classes and config.class_names != dataset.class_names:
        raise InputError(
            f"the run was trained on {network.num_classes} classes, but {dataset.name} now has "
            f"{dataset.num_classes}, or other names; restore its classes, or start a new run"
        )
    if class_conditional and not dataset.num_classes:
        raise InputError(
            f"{dataset.name} has no labels. Omit --class-conditional, or give labels: "
            "sub-folders, or an array `labels` in the .npz file"
        )
    if class_conditional and is_resumed and not network.num_classes:
        raise InputError(
            "the resumed run is not class-conditional. Omit --class-conditional, or start a new run"
        )
    num_classes = dataset.num_classes if class_conditional else network.num_classes
    network = dataclasses.replace(network, channels=channels, num_classes=num_classes)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, network=network),
        # No longer the default: a resumed run must not switch to flowers that were missing before.
        dataset=config.dataset or dataset.name,
        num_images=num_images,
        class_names=dataset.class_names if num_classes else (),
    )


def refuse_early(config: RunConfig) -> None:
    """Raises InputError for errors that would otherwise appear after minutes of preparation."""
    recipe = config.training
    if recipe.averages and num_processes() > 1:
        # One process would write them, but all would have to assign the weights together.
        raise InputError("--averages are kept on one host only; train on one, or without them")
    images = recipe.trajectories if config.distill_from else config.num_images or 0
    steps_per_epoch(images, recipe.batch_size, recipe.repetitions)
    network = config.model.network
    on_cpu = describe_device() == "CPU"
    require_memory_for(network, config.training.batch_size if on_cpu else 0, training=True)
    require_memory(
        FLOAT * (config.training.kid_images or 0) * network.channels * network.image_size**2,
        f"the KID of {config.training.kid_images} images",
        "choose fewer --kid-images",
    )
    if config.start_from:
        require_same_network(find_run(config.start_from), config.model)


def describe_network(config: RunConfig) -> str | None:
    """A warning if no feature map has a size chosen for attention."""
    network = config.model.network
    if not network.attention_sizes or {*network.attention_sizes} & {*network.feature_sizes}:
        return None
    sizes = ", ".join(map(str, network.feature_sizes))
    return f"no attention: at {network.image_size} px the feature maps have sizes {sizes}"


def describe_new_length(config: RunConfig, epochs_before: int) -> str | None:
    """What another number of epochs changes in a resumed training besides its length, if it does.

    A cosine that had ended at 0, for example, goes on from a higher learning rate.
    """
    if config.epochs == epochs_before or not config.training.cosine_decay:
        return None
    return (
        f"{config.epochs} epochs instead of {epochs_before}: from here on the learning rate is "
        f"that of a cosine over {config.epochs}"
    )


def prepare_kid(
    kid_weights: str | None, dataset: Dataset
) -> tuple[KernelInceptionDistance | None, Distance | None]:
    """The KID against the validation images, and its floor; None, None without an encoder.

    There is no floor if the training images are fewer than a batch.

    Raises:
        InputError: if the chosen encoder cannot be loaded.
    """
    try:
        kid = KernelInceptionDistance(choose_encoder(kid_weights), dataset.validation_images)
        floor: Distance | None = None
        if len(dataset.train_images) >= kid.batch_size:
            floor = kid(random_images(dataset.train_images, len(dataset.validation_images)))
    except InputError as error:
        if kid_weights:
            raise
        say(f"training without KID: {error}")
        return None, None
    between = "between training and validation images, the floor"
    say(f"{kid.protocol}: {floor or 'not measured, with so few training images,'} {between}")
    return kid, floor


def with_protocol(
    config: RunConfig, kid: KernelInceptionDistance | None, is_resumed: bool
) -> RunConfig:
    """The configuration with the protocol of its KID.

    A new class-conditional run measures images with the default guidance of generate.py, a student
    in its own steps. A resumed run keeps its protocol; a run without one is from an earlier
    version, and measures images without guidance.

    Raises:
        InputError: if the run was measured with another encoder, or with too few generated images.
    """
    if kid is None:
        return config
    protocol = config.protocol or KIDProtocol(
        kid.protocol,
        steps=max(config.model.student_steps, default=KIDProtocol.steps),
        guidance=0.0 if is_resumed else config.model.default_guidance,
    )
    if protocol.metric != kid.protocol:
        raise InputError(
            f'the run measured "{protocol.metric}", not comparable with "{kid.protocol}"; '
            "resume it with the same --kid-weights, or with --no-kid"
        )
    images = config.training.kid_images or len(kid.real_features)
    if images < kid.batch_size:
        raise InputError(
            f"the KID needs at least {kid.batch_size} generated images, not {images}; choose more "
            "--kid-images, or --no-kid"
        )
    return dataclasses.replace(config, protocol=dataclasses.replace(protocol, images=images))


def callbacks_for(
    run: Run,
    config: RunConfig,
    dataset: Dataset,
    kid: KernelInceptionDistance | None,
    tensorboard: bool = False,
) -> list[keras.callbacks.Callback]:
    """Callbacks that run before an epoch is recorded; only the first process writes files."""
    callbacks: list[keras.callbacks.Callback] = []
    protocol = config.protocol
    if kid and protocol:
        callbacks.append(
            KIDCallback(
                kid,
                protocol.images or len(kid.real_features),
                protocol.steps,
                sampler=Sampler(protocol.sampler, clip=protocol.clip),
                guidance=protocol.guidance,
                every=config.training.evaluate_every,
                also_steps=config.model.student_steps[:-1],
            )
        )
    if process_id() == 0:
        steps = max(config.model.student_steps, default=20)
        guidance = protocol.guidance if protocol else config.model.default_guidance
        every = config.training.evaluate_every
        callbacks.append(SampleGrid(run, diffusion_steps=steps, guidance=guidance, every=every))
        if tensorboard:
            callbacks.append(keras.callbacks.TensorBoard(Path(run.folder) / "tensorboard"))
    return callbacks
