"""The training loop: model, optimizer and callbacks of a recipe, from the start or resumed.

The run's configuration and the saved state determine the training completely, so an interrupted run
ends with the same weights as an uninterrupted one.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from ddim_keras import backends
from ddim_keras.backends.devices import data_parallel, process_id
from ddim_keras.config import InputError, ModelConfig, TrainingConfig
from ddim_keras.data.batches import (
    ValidationBatches,
    dispatches,
    steps_per_epoch,
    training_batches,
    training_orders,
)
from ddim_keras.data.cache import Dataset
from ddim_keras.likelihood import new_model
from ddim_keras.model import DiffusionModel
from ddim_keras.progress import verbosity
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import Run, find_run, load_model
from ddim_keras.runs.weights import load_weights
from ddim_keras.training.averages import KeepGuides, PowerAverages
from ddim_keras.training.callbacks import (
    FinishEpoch,
    Interrupted,
    RunRecord,
    StopCleanly,
    TimeEstimate,
)
from ddim_keras.training.muon import ConvolutionMuon

# Ctrl-C waits for this long; enough to make Python's overhead negligible.
MOST_STEPS_PER_EXECUTION = 100


def build_model(
    model_config: ModelConfig, training: TrainingConfig, total_steps: int
) -> DiffusionModel:
    """Builds and compiles a model for a training of `total_steps` steps."""
    keras.config.set_dtype_policy(training.precision)
    model = new_model(model_config)
    loss = keras.losses.Huber(training.huber_delta) if training.loss == "huber" else training.loss
    optimizer = build_optimizer(training, total_steps * model.updates_per_batch)
    model.compile(optimizer, loss, training.loss_on)
    # Built now, so that its state can be loaded before the first step.
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
    """Raises InputError if a run's network or predicted quantity differs from the configured one.

    A network with classes may start from one with other classes or none; see `take_weights`.
    Dropout has no weights, so its rate may differ.
    """
    trained = source.read_config().model
    values = [
        {
            **dataclasses.asdict(each.network),
            "prediction": each.prediction,
            "variance": each.variance,
        }
        for each in (trained, config)
    ]
    for name, value in values[0].items():
        is_new = name == "num_classes" and config.network.num_classes
        may_differ = is_new or name in ("dropout", "step_counts")
        if value != values[1][name] and not may_differ:
            hint = "; see --class-conditional" if name == "num_classes" else ""
            raise InputError(
                f"cannot start from {source.folder}: its {name} is {value}, but the new run "
                f"has {values[1][name]}{hint}"
            )


def take_weights(model: DiffusionModel, source: Run, class_names: Sequence[str] = ()) -> None:
    """Gives a new model the averaged weights and pixel statistics of a trained one.

    If the classes differ, a class of the same name keeps its embedding. New classes start with the
    embedding of "any class", or with zeros if the trained model has no classes. Their first images
    are then those that the trained model generates without a class.

    Args:
        class_names: names of the new model's classes, if known.

    Raises:
        InputError: if the two differ in their network or predicted quantity.
    """
    require_same_network(source, model.config)
    trained = load_model(source.weights_to_show())
    rows = embedding_rows(source.read_config(), model.num_classes, class_names)
    for network in (model.network, model.ema_network):
        copy_weights(network, trained.ema_network, rows)
    model.pixel_means.assign(trained.pixel_means)
    model.pixel_variances.assign(trained.pixel_variances)
    if model.config.student_steps and model.num_classes:
        model.class_frequencies.assign(trained.class_frequencies)


def embedding_rows(source: RunConfig, num_classes: int, class_names: Sequence[str]) -> list[int]:
    """The row of a trained model's label embedding for each class, the last for any class."""
    trained = source.model.network.num_classes
    if class_names and source.class_names:
        rows = {name: row for row, name in enumerate(source.class_names)}
        named = [rows.get(name, trained) for name in class_names]
        return [*named, *[trained] * (num_classes + 1 - len(named))]
    known = range(trained) if trained == num_classes else [trained] * num_classes
    return [*known, trained]


def copy_weights(network: keras.Model, trained: keras.Model, rows: Sequence[int]) -> None:
    """Copies the weights of a trained network to one that differs only in its embeddings.

    The embedding of a student's step counts starts with zeros.
    """

    def is_embedding(layer: keras.Layer) -> bool:
        return isinstance(layer, keras.layers.Embedding)

    sources = layers_as_made(trained)
    of_classes = [
        layer.get_weights()[0][rows]
        for layer in sources
        if is_embedding(layer) and layer.name != "step_embedding"
    ]
    others = (layer.get_weights() for layer in sources if not is_embedding(layer))
    for layer in layers_as_made(network):
        if not is_embedding(layer):
            layer.set_weights(next(others))
        elif of_classes and layer.name != "step_embedding":
            layer.set_weights(of_classes)
        else:
            layer.set_weights([np.zeros(layer.weights[0].shape)])


def layers_as_made(network: keras.Model) -> list[keras.Layer]:
    """The layers with weights, those of each layer class in order of creation.

    The order is that of their names. A network lists layers by depth, which an additional embedding
    changes.
    """

    def made(layer: keras.Layer) -> tuple[str, int]:
        return type(layer).__name__, int((re.findall(r"_(\d+)$", layer.name) or [0])[0])

    return sorted((layer for layer in network.layers if layer.weights), key=made)


def train(
    run: Run,
    config: RunConfig,
    dataset: Dataset,
    *,
    protocol: str = "KID",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    devices: int | None = None,
    steps_per_execution: int | None = None,
) -> DiffusionModel:
    """Trains until the configured number of epochs, from the run's last checkpoint if it has one.

    In a distributed training, the first process writes the run folder; all processes read it to
    resume.

    Args:
        run: a run whose folder already has a config.json, written by `run.save_config(config)`.
        dataset: images of the configured size; for a student, its teacher's trajectories.
        protocol: protocol of the KID, if a callback measures it.
        callbacks: callbacks that run before an epoch is recorded.
        devices: number of devices that share each batch; see `devices.choose_devices`.
        steps_per_execution: steps per call of the compiled program, by default a few dozen on a
            GPU, 1 on a CPU. The results are the same.

    Raises:
        Interrupted: after Ctrl-C; the state of the last complete step has been saved.
        InputError: if the folder has no config.json, or the loss diverges; the last checkpoint is
            kept.
    """
    if process_id() == 0:
        run.read_config()
    recipe = config.training
    steps = steps_per_epoch(len(dataset.train_images), recipe.batch_size, recipe.repetitions)
    total_steps = steps * config.epochs
    building, fitting = data_parallel(devices, recipe.batch_size)
    with building:
        model = prepare_model(run, config, dataset, total_steps)
    done = int(ops.convert_to_numpy(model.optimizer.iterations)) // model.updates_per_batch
    if done and done % steps == 0 and process_id() == 0:
        run.repair(done // steps)
    feed = Feed(model, config, dataset, steps_per_execution)
    reports: list[keras.callbacks.Callback] = [TimeEstimate(total_steps - done, feed)]
    averages = None
    if process_id() == 0:
        if recipe.averages:
            averages = PowerAverages(run, recipe.averages, done, total_steps, feed)
            reports.append(averages)
        reports.append(RunRecord(run, protocol, images_per_epoch=steps * recipe.batch_size))
        if not config.distill_from:
            reports.append(KeepGuides(run, config.epochs))
    # The means of an interrupted epoch, before `fit` resets them.
    metric_values = [ops.convert_to_numpy(variable) for variable in model.metrics_variables]
    try:
        with fitting, StopCleanly(check_every=math.ceil(50 / feed.steps_per_execution)) as stop:
            feed.start()
            if left := -done % steps:
                finish = FinishEpoch(metric_values)
                fit(model, feed, done, left, config.epochs, [finish, *callbacks, *reports, stop])
                done += left
            if done < total_steps:
                fit(model, feed, done, steps, config.epochs, [*callbacks, *reports, stop])
    except Interrupted:
        if averages:
            averages.save()
            averages.finish(model)  # if it was after the last step
        if process_id() == 0:
            run.save_last(model)
        raise
    if averages:
        averages.finish(model)
    return model


def prepare_model(
    run: Run, config: RunConfig, dataset: Dataset, total_steps: int
) -> DiffusionModel:
    """The model from the last checkpoint, or a new, adapted one with its initial weights."""
    model = build_model(config.model, config.training, total_steps)
    if run.last_weights.exists():
        load_weights(model, run.last_weights)
        return model
    if config.distill_from:
        take_weights(model, find_run(config.distill_from))
        return model
    model.adapt(dataset.train_images, dataset.train_labels)
    if config.start_from:
        take_weights(model, find_run(config.start_from), config.class_names)
    return model


def fit(
    model: DiffusionModel,
    feed: "Feed",
    first_step: int,
    steps: int,
    epochs: int,
    callbacks: Sequence[keras.callbacks.Callback],
) -> None:
    """Trains epochs of `steps` steps each, starting at any step of the training."""
    batches, calls = feed.batches(first_step, steps)
    model.fit(
        batches,
        steps_per_epoch=calls,
        initial_epoch=first_step // feed.steps_per_epoch,
        epochs=epochs,
        validation_data=feed.validation,
        shuffle=False,
        verbose=verbosity(),
        callbacks=callbacks,
    )


class Feed:
    """Batches for `fit`, starting at any step of the training, and the steps per call.

    If the backend can keep the images on the device, and a call makes many steps, `fit` gets
    indices of images; otherwise it gets the images.
    """

    def __init__(
        self,
        model: DiffusionModel,
        config: RunConfig,
        dataset: Dataset,
        steps_per_execution: int | None = None,
    ) -> None:
        recipe = config.training
        self.model = model
        self.images, self.labels = dataset.train_images, dataset.train_labels
        self.order = (recipe.batch_size, recipe.repetitions, recipe.flip, config.model.seed)
        self.steps_per_epoch = steps_per_epoch(
            len(self.images), recipe.batch_size, recipe.repetitions
        )
        self.validation = ValidationBatches(
            dataset.validation_images, dataset.validation_labels, recipe.batch_size
        )
        if steps_per_execution is None:
            pays = backends.many_steps_pay(self.images.nbytes)
            steps_per_execution = even_part(self.steps_per_epoch) if pays else 1
        self.steps_per_execution = steps_per_execution
        self.keeps_data = steps_per_execution > 1 and backends.keep_data is not None

    def start(self) -> None:
        """Copies the images to the device, if they are to stay there."""
        if self.keeps_data:
            backends.keep_data(self.model, self.images, self.labels)

    def batches(self, first_step: int, steps: int) -> tuple[Any, int]:
        """The data for `fit`, and the number of steps in which it counts an epoch of `steps`."""
        if self.keeps_data:
            orders = training_orders(len(self.images), *self.order, first_step)
            calls = math.ceil(steps / self.steps_per_execution)
            return dispatches(orders, steps, self.steps_per_execution), calls
        # Keras would continue beyond the end of an epoch that is not divisible.
        divisor = math.gcd(steps, self.steps_per_execution)
        if self.model.steps_per_execution != divisor:
            self.model.steps_per_execution = divisor
            # Compiled for the number before.
            self.model.train_function = self.model.test_function = None
        arguments = (self.images, self.labels, *self.order, first_step)
        return backends.feed(self.model, functools.partial(training_batches, *arguments)), steps

    @property
    def steps_per_call(self) -> int:
        """Steps from one `on_train_batch_end` to the next."""
        return self.steps_per_execution if self.keeps_data else self.model.steps_per_execution


def even_part(steps: int, most: int = MOST_STEPS_PER_EXECUTION) -> int:
    """The largest number up to `most` that divides the steps of an epoch, exactly or nearly."""
    largest = max(number for number in range(1, most + 1) if steps % number == 0)
    return largest if largest > most // 5 else math.ceil(steps / math.ceil(steps / most))
