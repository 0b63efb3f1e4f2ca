"""One training: the model, optimizer and callbacks of a recipe, from the first step or a later one.

Everything that decides the course of a training is in the run's configuration and the saved state,
so that a run that was interrupted ends with the same weights as one that was not.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import keras
from keras import ops

from ddim_keras.backends.devices import data_parallel, process_id
from ddim_keras.backends.steps import dispatches_pay
from ddim_keras.config import InputError, ModelConfig, TrainingConfig
from ddim_keras.data.batches import (
    ValidationBatches,
    dispatches,
    steps_per_epoch,
    training_batches,
    training_orders,
)
from ddim_keras.data.cache import Dataset
from ddim_keras.model import DiffusionModel
from ddim_keras.progress import verbosity
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import Run, load_model
from ddim_keras.runs.weights import load_weights
from ddim_keras.training.callbacks import (
    FinishEpoch,
    Interrupted,
    RunRecord,
    StopCleanly,
    TimeEstimate,
)
from ddim_keras.training.muon import ConvolutionMuon

STEPS_IN_A_CALL = 100  # at most: what Ctrl-C waits for, and long enough for Python not to matter


def build_model(
    model_config: ModelConfig, training: TrainingConfig, total_steps: int
) -> DiffusionModel:
    """Builds and compiles a model for a training of `total_steps` steps."""
    keras.config.set_dtype_policy(training.precision)
    model = DiffusionModel(model_config)
    loss = keras.losses.Huber(training.huber_delta) if training.loss == "huber" else training.loss
    model.compile(build_optimizer(training, total_steps), loss, training.loss_on)
    # Now, so that its state can be loaded before the first step.
    model.optimizer.build(model.trainable_variables)
    return model


def build_optimizer(training: TrainingConfig, total_steps: int) -> keras.optimizers.Optimizer:
    """The recipe's optimizer, with its learning-rate schedule over `total_steps` steps."""
    learning_rate = training.learning_rate
    warmup_steps = min(training.warmup_steps, total_steps // 2)
    if training.cosine_decay:
        learning_rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0 if warmup_steps else learning_rate,
            decay_steps=total_steps - warmup_steps,
            warmup_target=learning_rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    elif warmup_steps:
        learning_rate = keras.optimizers.schedules.PolynomialDecay(
            initial_learning_rate=0.0, decay_steps=warmup_steps, end_learning_rate=learning_rate
        )
    if training.optimizer == "adamw":
        return keras.optimizers.AdamW(learning_rate, weight_decay=training.weight_decay)
    return ConvolutionMuon(
        learning_rate,
        weight_decay=training.weight_decay,
        product_dtype=keras.DTypePolicy(training.precision).compute_dtype,
    )


def require_same_network(source: Run, config: ModelConfig) -> None:
    """Raises InputError if the network of a run, or what it predicts, is not the configured one."""
    trained = source.read_config().model
    values = [
        {**dataclasses.asdict(each.network), "prediction": each.prediction}
        for each in (trained, config)
    ]
    for name, value in values[0].items():
        if value != values[1][name]:
            hint = "; see --class-conditional" if name == "num_classes" else ""
            raise InputError(
                f"cannot start from {source.folder}: its {name} is {value}, that of the new run "
                f"{values[1][name]}{hint}"
            )


def take_weights(model: DiffusionModel, source: Run) -> None:
    """Gives a new model the averaged weights of a trained one, and the pixel scale they know.

    Raises:
        InputError: if the two differ in their network, or in what it predicts.
    """
    require_same_network(source, model.config)
    trained = load_model(source.weights_to_show())
    for network in (model.network, model.ema_network):
        network.set_weights(trained.ema_network.get_weights())
    model.pixel_means.assign(trained.pixel_means)
    model.pixel_variances.assign(trained.pixel_variances)


def even_part(steps: int, most: int = STEPS_IN_A_CALL) -> int:
    """The largest number up to `most` that divides the steps of an epoch, or nearly does."""
    largest = max(number for number in range(1, most + 1) if steps % number == 0)
    return largest if largest > most // 5 else math.ceil(steps / math.ceil(steps / most))


def train(
    run: Run,
    config: RunConfig,
    dataset: Dataset,
    *,
    protocol: str = "KID",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    devices: int | None = None,
    steps_in_a_call: int | None = None,
) -> DiffusionModel:
    """Trains until the configured number of epochs, from the run's last checkpoint if it has one.

    Of several processes, the first writes the run folder, which all read where the training is
    resumed.

    Args:
        run: its folder holds config.json already.
        dataset: images of the configured size.
        protocol: what the KID is measured with, if a callback measures it.
        callbacks: what to do at the end of an epoch before it is recorded.
        devices: how many share each batch, see `devices.choose_devices`.
        steps_in_a_call: how many steps the compiled program makes each time it is called, by
            default some tens on a GPU, 1 on a CPU. The results are the same. Under JAX, with more
            than 1, the images are kept on the device.

    Raises:
        Interrupted: after Ctrl-C; the state of the last whole step has been saved.
        InputError: if the loss diverges; the last checkpoint is kept.
    """
    recipe = config.training
    images = dataset.train_images
    steps = steps_per_epoch(len(images), recipe.batch_size, recipe.repetitions)
    total_steps = steps * config.epochs
    building, fitting = data_parallel(devices, recipe.batch_size)
    with building:
        model = build_model(config.model, recipe, total_steps)
    if run.last_weights.exists():
        load_weights(model, run.last_weights)
    else:
        model.adapt(images, dataset.train_labels)
        if config.start_from:
            take_weights(model, Run(Path(config.start_from)))
    done = int(ops.convert_to_numpy(model.optimizer.iterations))
    metric_values = [ops.convert_to_numpy(variable) for variable in model.metrics_variables]
    validation = ValidationBatches(
        dataset.validation_images, dataset.validation_labels, recipe.batch_size
    )

    if steps_in_a_call is None:
        steps_in_a_call = even_part(steps) if dispatches_pay(images.nbytes) else 1
    is_resident = steps_in_a_call > 1 and keras.backend.backend() == "jax"

    def fit(first_step: int, steps_an_epoch: int, *more: keras.callbacks.Callback) -> None:
        options = (recipe.batch_size, recipe.repetitions, recipe.flip, config.model.seed)
        if is_resident:
            estimate.steps_in_a_call = steps_in_a_call
            orders = training_orders(len(images), *options, first_step)
            batches = dispatches(orders, steps_an_epoch, steps_in_a_call)
            keras_steps = math.ceil(steps_an_epoch / steps_in_a_call)
        else:
            # Keras would go on beyond the end of an epoch that is not divisible.
            estimate.steps_in_a_call = math.gcd(steps_an_epoch, steps_in_a_call)
            if model.steps_per_execution != estimate.steps_in_a_call:
                model.steps_per_execution = estimate.steps_in_a_call
                model.train_function = None
            arguments = (images, dataset.train_labels, *options, first_step)
            batches = model.feed(functools.partial(training_batches, *arguments))
            keras_steps = steps_an_epoch
        model.fit(
            batches,
            steps_per_epoch=keras_steps,
            initial_epoch=first_step // steps,
            epochs=config.epochs,
            validation_data=validation,
            shuffle=False,
            verbose=verbosity(),
            callbacks=[*more, *callbacks, *reports, stop],
        )

    estimate = TimeEstimate(total_steps - done)
    reports: list[keras.callbacks.Callback] = [estimate]
    if process_id() == 0:
        reports.append(RunRecord(run, protocol, images_per_epoch=steps * recipe.batch_size))
    try:
        with fitting, StopCleanly(check_every=math.ceil(50 / steps_in_a_call)) as stop:
            if is_resident:
                model.keep_on_device(images, dataset.train_labels)
            if done % steps:
                left = steps - done % steps
                fit(done, left, FinishEpoch(metric_values))
                done += left
            if done < total_steps:
                fit(done, steps)
    except Interrupted:
        if process_id() == 0:
            run.save_last(model)
        raise
    return model
