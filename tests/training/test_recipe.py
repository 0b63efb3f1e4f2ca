"""Every field of a configuration takes effect: each changes what it should, and nothing else."""

import dataclasses
import itertools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from ddim_keras.config import InputError, ModelConfig, NetworkConfig, TrainingConfig
from ddim_keras.data.batches import training_orders
from ddim_keras.data.cache import Dataset
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.metrics.kid import KernelInceptionDistance
from ddim_keras.model import DiffusionModel
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import Run, load_model
from ddim_keras.training.averages import PowerAverages
from ddim_keras.training.callbacks import FinishEpoch, RunRecord, TimeEstimate
from ddim_keras.training.loop import build_model, take_weights, train
from ddim_keras.training.preparation import callbacks_for, with_protocol
from tests.helpers import EPOCH, SIZE, make_run

NETWORK = NetworkConfig(image_size=SIZE, widths=(8,), depths=(1,))
# No batch size that divides the 40 images, no value that is a default somewhere.
RECIPE = TrainingConfig(
    batch_size=12, repetitions=2, learning_rate=0.02, weight_decay=0.3, huber_delta=0.5
)
CONFIG = RunConfig("tiny", ModelConfig(network=NETWORK, seed=4), RECIPE, epochs=3)
STEPS = 6  # of an epoch


@pytest.fixture(scope="module")
def dataset():
    images, labels = draw_flowers(56, SIZE)
    return Dataset("drawn", images[:40], labels[:40], images[40:], labels[40:], ("a",) * 10)


@pytest.fixture
def begin(dataset, tmp_path, monkeypatch):
    """Begins a training up to each call of `fit`; returns the model, and what `fit` was given."""
    given = []

    def fit(model, batches, **options):
        given.append(SimpleNamespace(batches=batches, **options))

    monkeypatch.setattr(DiffusionModel, "fit", fit)

    def begin(config):
        run = Run(tmp_path / "run")
        run.save_config(config)
        given.clear()
        return train(run, config, dataset), *given

    yield begin
    keras.config.set_dtype_policy("float32")


def batches_of(given, count):
    return [
        [np.asarray(array) for array in batch] for batch in itertools.islice(given.batches, count)
    ]


def with_recipe(**fields):
    return dataclasses.replace(CONFIG, training=dataclasses.replace(RECIPE, **fields))


def rate_at(model, step):
    rate = model.optimizer._learning_rate
    return round(float(ops.convert_to_numpy(rate(step) if callable(rate) else rate)), 6)


def training_of(begin, config, dataset, encoder):
    """What a recipe decides, as it arrives where it is used."""
    model, given = begin(config)
    kid = KernelInceptionDistance(encoder, dataset.validation_images)
    images = batches_of(given, 1)[0][0]
    known = {image.tobytes() for image in dataset.train_images}
    optimizer = model.optimizer
    two, zero = ops.full((1,), 2.0), ops.zeros((1,))
    measured = with_protocol(config, kid, is_resumed=False)
    evaluation = callbacks_for(Run("unused"), measured, dataset, kid)
    return {
        "batch": len(images),
        "validation batch": len(given.validation_data[0][0]),
        "steps": given.steps_per_epoch,
        "error of 2": round(float(model.mean_error(two, zero)), 4),
        "loss on": model.loss_on,
        "optimizer": type(optimizer).__name__,
        "rates": tuple(rate_at(model, step) for step in (0, 3, 18)),
        "decay": optimizer.weight_decay,
        "mirrored": any(image.tobytes() not in known for image in images),
        "images of KID": measured.protocol.images,
        "epochs between KIDs, and grids": [callback.every for callback in evaluation],
        "widths": [x.widths for x in given.callbacks if isinstance(x, PowerAverages)],
        "layers": next(x.compute_dtype for x in model.network.layers if "conv" in x.name),
        "products": getattr(optimizer, "product_dtype", None),
    }


# Fields with another value, and what becomes of the training.
TRAININGS = {
    "batch_size": ({"batch_size": 10}, {"batch": 10, "validation batch": 10, "steps": 8}),
    "repetitions": ({"repetitions": 3}, {"steps": 10}),
    "loss": ({"loss": "mae"}, {"error of 2": 2.0}),
    "huber_delta": ({"loss": "huber"}, {"error of 2": 0.875}),
    "loss_on": ({"loss_on": "image"}, {"loss on": "image"}),
    "optimizer": ({"optimizer": "muon"}, {"optimizer": "ConvolutionMuon", "products": "float32"}),
    "learning_rate": ({"learning_rate": 0.5}, {"rates": (0.5, 0.5, 0.5)}),
    "weight_decay": ({"weight_decay": 0.7}, {"decay": 0.7}),
    "warmup_steps": ({"warmup_steps": 6}, {"rates": (0.0, 0.01, 0.02)}),
    "cosine_decay": ({"cosine_decay": True}, {"rates": (0.02, 0.01866, 0.0)}),
    "flip": ({"flip": True}, {"mirrored": True}),
    "kid_images": ({"kid_images": 21}, {"images of KID": 21}),
    "evaluate_every": ({"evaluate_every": 7}, {"epochs between KIDs, and grids": [7, 7]}),
    "averages": ({"averages": (0.2,)}, {"widths": [(0.2,)]}),
    "precision": ({"precision": "mixed_bfloat16"}, {"layers": "bfloat16"}),
}


OF_STUDENTS = {"trajectories", "teacher_guidance"}  # see test_distillation.py


def test_every_field_of_the_recipe_reaches_the_training(begin, dataset, encoder):
    fields = {field.name for field in dataclasses.fields(TrainingConfig)}
    assert TRAININGS.keys() | OF_STUDENTS == fields
    usual = training_of(begin, CONFIG, dataset, encoder)
    assert usual == {
        "batch": 12,
        "validation batch": 12,
        "steps": STEPS,
        "error of 2": 4.0,
        "loss on": "noise",
        "optimizer": "AdamW",
        "rates": (0.02, 0.02, 0.02),
        "decay": 0.3,
        "mirrored": False,
        "images of KID": 16,
        "epochs between KIDs, and grids": [1, 1],
        "widths": [],
        "layers": "float32",
        "products": None,
    }
    for name, (fields, effects) in TRAININGS.items():
        found = training_of(begin, with_recipe(**fields), dataset, encoder)
        assert found == {**usual, **effects}, name
    muon = with_recipe(optimizer="muon", weight_decay=0.7, precision="mixed_bfloat16")
    found = training_of(begin, muon, dataset, encoder)
    assert (found["decay"], found["products"]) == (0.7, "bfloat16")


def model_of(begin, config):
    """What the configuration of a model decides, in numbers."""
    model, given = begin(config)
    times = ops.reshape(ops.convert_to_tensor([0.0, 1.0]), (2, 1, 1, 1))
    rates = ops.convert_to_numpy(model.diffusion_schedule(times)[1]).ravel()
    noises, drawn_times = map(
        ops.convert_to_numpy, model.draw_noises_and_times(ops.zeros((50, 1, 1, 1)))
    )
    ones = ops.ones((1, 1, 1, 1))
    pred_images = model.split(3.0 * ones, ones, 0.6 * ones, 0.8 * ones)[1]
    labels = ops.convert_to_numpy(model.drop_labels(None, ops.zeros((400,))))
    kernel = ops.convert_to_numpy(model.network.trainable_weights[0])
    weight, average = model.network.weights[0], model.ema_network.weights[0]
    weight.assign(np.ones(weight.shape))
    average.assign(np.zeros(average.shape))
    model.optimizer.iterations.assign(5)
    model.update_ema()
    return {
        "kind": type(model).__name__,
        "rates": tuple(float(f"{rate:.3g}") for rate in rates),
        "different times": len({*np.round(drawn_times.ravel(), 5)}),
        # Of 50 times; at random, the neighbours would be some 0.1 % apart.
        "distance": round(float(np.min(np.diff(np.sort(drawn_times.ravel())))), 2),
        "noise": round(float(noises[0, 0, 0, 0]), 5),
        "image": round(float(pred_images[0, 0, 0, 0]), 4),
        "kept": round(1 - float(np.mean(ops.convert_to_numpy(average))), 4),
        "dropped": round(float(np.mean(labels == -1)), 1),
        "kernel": round(float(kernel.sum()), 5),
        "order": batches_of(given, 1)[0][0][:, 0, 0, 0].tolist(),
    }


MODELS = {
    "max_signal_rate": ({"max_signal_rate": 0.9}, {"rates": (0.9, 0.02)}),
    "min_signal_rate": ({"min_signal_rate": 0.1}, {"rates": (0.95, 0.1)}),
    "schedule": ({"schedule": "cosine"}, {"rates": (1.0, 0.001)}),
    "discrete_steps": ({"discrete_steps": 2}, {"different times": 2}),
    "prediction": ({"prediction": "image"}, {"image": 3.0}),
    "stratified_times": ({"stratified_times": True}, {"distance": 0.02}),
    "ema": ({"ema": 0.3}, {"kept": 0.3}),
    "ema_warmup": ({"ema_warmup": False}, {"kept": 0.999}),
    "label_dropout": ({"label_dropout": 0.5}, {"dropped": 0.5}),
}


def test_every_field_of_the_model_takes_effect(begin):
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    # The others are below, and those of students in test_distillation.py.
    assert {*MODELS} | {"network", "variance", "seed", "student_steps"} == fields
    usual = model_of(begin, CONFIG)
    assert usual == {
        **usual,  # what is drawn differs by backend
        "kind": "DiffusionModel",
        "rates": (0.95, 0.02),
        "different times": 50,
        "distance": 0.0,
        "image": -1.0,
        "kept": 0.4,
        "dropped": 0.1,
    }
    for name, (changes, effects) in MODELS.items():
        model = dataclasses.replace(CONFIG.model, **changes)
        assert model_of(begin, dataclasses.replace(CONFIG, model=model)) == {
            **usual,
            **effects,
        }, name
    other = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, seed=5))
    found = model_of(begin, other)
    assert {name for name in usual if usual[name] != found[name]} == {"noise", "kernel", "order"}
    learned = dataclasses.replace(CONFIG.model, variance="learned", discrete_steps=50)
    recipe = dataclasses.replace(RECIPE, loss="hybrid")  # which belongs to learned variances
    config = dataclasses.replace(CONFIG, model=learned, training=recipe)
    assert model_of(begin, config)["kind"] == "LearnedVarianceModel"


# Pixels of a small network, whose weights are always the same, with each field changed.
PLAIN = NetworkConfig(
    image_size=8, widths=(8, 16), depths=(1, 2), embedding_dims=6, attention_sizes=(4,)
)
ADAPTIVE = dataclasses.replace(PLAIN, image_size=16, block="adaptive", patch_size=2)
NETWORKS = {
    "plain": PLAIN,
    "image_size": dataclasses.replace(PLAIN, image_size=7),
    "channels": dataclasses.replace(PLAIN, channels=1),
    "widths": dataclasses.replace(PLAIN, widths=(16, 16)),
    "depths": dataclasses.replace(PLAIN, depths=(2, 2)),
    "attention_sizes": dataclasses.replace(PLAIN, attention_sizes=(8,)),
    "embedding_dims": dataclasses.replace(PLAIN, embedding_dims=8),
    "embedding_max_frequency": dataclasses.replace(PLAIN, embedding_max_frequency=20.0),
    "num_classes": dataclasses.replace(PLAIN, num_classes=3),
    "step_counts": dataclasses.replace(PLAIN, step_counts=2),
    "block": ADAPTIVE,
    "patch_size": dataclasses.replace(ADAPTIVE, patch_size=1),
    "heads": dataclasses.replace(ADAPTIVE, widths=(8, 128)),
    "head_channels": dataclasses.replace(ADAPTIVE, head_channels=4),
    "resampling": dataclasses.replace(ADAPTIVE, resampling="block"),
    "skips": dataclasses.replace(ADAPTIVE, skips=False),
}
PIXELS = {
    "plain": (-15.50902, -8.94039, 12.95574),
    "image_size": (-16.33407, -9.37031, 12.80731),
    "channels": (3.49984, 6.11183, 7.05497),
    "widths": (2.74801, 3.17432, 3.54078),
    "depths": (0.30936, -1.54663, 2.25869),
    "attention_sizes": (-3.03198, 7.83838, 7.24848),
    "embedding_dims": (2.58934, 3.59418, 3.90240),
    "embedding_max_frequency": (-15.18692, -10.07123, 13.44176),
    "num_classes": (-9.18919, -1.62010, 8.14532),
    "step_counts": (8.94543, -0.29117, 3.82521),
    "block": (0.59161, 0.35697, 0.86109),
    "patch_size": (-1.60000, 0.80551, 1.16515),
    "heads": (0.82385, 0.37837, 1.26645),
    "head_channels": (0.58812, 0.42470, 0.85558),
    "resampling": (-0.19805, 0.72916, 0.51512),
    "skips": (-0.30269, -1.87397, 1.57583),
}


def some_pixels(config):
    """Two pixels of two images, and the root mean square of all."""
    model = DiffusionModel(ModelConfig(network=config), only_average=True)
    random = np.random.default_rng(0)
    for weight in model.network.weights:
        values = random.standard_normal(weight.shape) / np.sqrt(np.prod(weight.shape[:-1]))
        weight.assign(1.0 + 0.1 * values if "variance" in weight.path else values)
    size, channels = config.image_size, config.channels
    images = random.standard_normal((2, size, size, channels)).astype("float32")
    inputs = [ops.convert_to_tensor(images), ops.convert_to_tensor([[[[0.3]]], [[[0.8]]]])]
    if config.num_classes:
        inputs.append(ops.convert_to_tensor([1, 3], dtype="int32"))
    if config.step_counts:
        inputs.append(ops.convert_to_tensor([1, 0], dtype="int32"))
    pixels = ops.convert_to_numpy(model.network(inputs, training=False))
    assert pixels.shape == images.shape
    return pixels[0, 0, 0, 0], pixels[1, size // 2, 3, -1], np.sqrt(np.mean(pixels**2))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_small_network_draws_the_recorded_pixels(name):
    np.testing.assert_allclose(some_pixels(NETWORKS[name]), PIXELS[name], rtol=2e-4, atol=2e-4)


def test_every_field_of_the_network_is_among_the_recorded_pixels():
    fields = {field.name for field in dataclasses.fields(NetworkConfig)}
    fields -= {"dropout"}  # of training alone, see test_network.py
    assert fields <= NETWORKS.keys() == PIXELS.keys()
    assert len({tuple(pixels) for pixels in PIXELS.values()}) == len(PIXELS)


# The data, and the state that a training begins with.


def test_validation_is_on_the_validation_images_and_statistics_are_those_of_training(
    begin, dataset
):
    network = dataclasses.replace(NETWORK, num_classes=10)
    model, given = begin(dataclasses.replace(CONFIG, model=ModelConfig(network=network)))
    images, labels = given.validation_data[0]
    np.testing.assert_array_equal(images, dataset.validation_images[:12])
    np.testing.assert_array_equal(labels, dataset.validation_labels[:12])
    np.testing.assert_allclose(
        ops.convert_to_numpy(model.class_frequencies), np.bincount(dataset.train_labels)
    )
    means = dataset.train_images.mean(axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(ops.convert_to_numpy(model.pixel_means), means, rtol=1e-4)
    assert (given.epochs, given.initial_epoch) == (3, 0)
    (record,) = (each for each in given.callbacks if isinstance(each, RunRecord))
    assert record.images_per_epoch == STEPS * 12


def test_a_start_from_takes_averages_and_pixel_statistics(begin, tmp_path):
    source = make_run(tmp_path / "source", num_classes=0)
    model = dataclasses.replace(source.read_config().model, seed=4)
    config = dataclasses.replace(CONFIG, model=model, start_from=str(source.folder))
    started, _ = begin(config)
    trained = load_model(source.last_weights)
    for network in (started.network, started.ema_network):
        for weight, expected in zip(network.weights, trained.network.weights, strict=True):
            np.testing.assert_array_equal(*map(ops.convert_to_numpy, (weight, expected)))
    np.testing.assert_allclose(ops.convert_to_numpy(started.pixel_means), [0.5, 0.4, 0.3])
    np.testing.assert_allclose(ops.convert_to_numpy(started.pixel_variances), [0.04] * 3)
    other = dataclasses.replace(config, model=dataclasses.replace(model, prediction="image"))
    with pytest.raises(InputError, match="prediction"):
        begin(other)


def embeddings_of(model):
    (variable,) = (each for each in model.ema_network.weights if each.name == "embeddings")
    return np.array(variable)


@pytest.mark.parametrize(
    ("trained_names", "names", "rows"),
    [
        (("sunflower", "sweet pea", "rose"), ("rose", "tulip"), [2, 3, 3]),
        (("sunflower", "sweet pea", "rose"), ("a", "b", "c", "d"), [3, 3, 3, 3, 3]),
        (("sunflower", "sweet pea", "rose"), ("rose",), [2, 3, 3]),  # the second has no name
        ((), ("a", "b"), None),  # of a model without classes
    ],
)
@pytest.mark.parametrize("block", ["plain", "adaptive"])
def test_a_start_from_other_classes_keeps_all_but_their_embeddings(
    tmp_path, block, trained_names, names, rows
):
    source = make_run(tmp_path / "source", num_classes=len(trained_names), block=block)
    config = source.read_config().model
    num_classes = len(rows) - 1 if rows else len(names)
    network = dataclasses.replace(config.network, num_classes=num_classes)
    model = build_model(dataclasses.replace(config, network=network), TrainingConfig(), 1)
    take_weights(model, source, names)
    trained = load_model(source.last_weights)
    expected = 0 if rows is None else embeddings_of(trained)[rows]
    np.testing.assert_array_equal(embeddings_of(model), expected)
    # Without a class it predicts what the trained model does.
    given = (
        keras.random.normal((2, 16, 16, 3), seed=0),
        *(ops.full((2, 1, 1, 1), x) for x in (0.6, 0.8)),
    )
    predictions = [each.denoise(*given, training=False) for each in (model, trained)]
    np.testing.assert_allclose(*(ops.convert_to_numpy(each[0]) for each in predictions), atol=1e-5)


@pytest.mark.parametrize(("done", "pieces"), [(STEPS, [(1, 6)]), (8, [(1, 4), (2, 6)])])
def test_a_resumed_training_begins_where_it_was(begin, dataset, tmp_path, done, pieces):
    """At the end of an epoch, and within one: `fit` is called for what is left of it first."""
    model, _ = begin(CONFIG)
    run = Run(tmp_path / "run")
    model.optimizer.iterations.assign(done)
    model.noise_loss_tracker.update_state(7.0)
    run.save_last(model)
    run.write_history([{**EPOCH, "kid": 0.5}, {**EPOCH, "epoch": 2, "kid": 0.9}])
    resumed, *given = begin(CONFIG)
    assert [(each.initial_epoch, each.steps_per_epoch) for each in given] == pieces
    step = done
    for each, (_, count) in zip(given, pieces, strict=True):
        orders = training_orders(40, 12, 2, False, 4, step)
        for (images, _), (order, _) in zip(batches_of(each, 2), orders, strict=False):
            np.testing.assert_array_equal(images, dataset.train_images[order])
        step += count
    (estimate,) = (each for each in given[-1].callbacks if isinstance(each, TimeEstimate))
    assert estimate.total_steps == 3 * STEPS - done
    finishing = [any(isinstance(c, FinishEpoch) for c in each.callbacks) for each in given]
    assert finishing == [True, False][-len(pieces) :]
    assert float(resumed.noise_loss_tracker.result()) == 7.0
    # The history says that the first epoch was best; a kill kept that from being done.
    assert run.best_weights.exists() == (done == STEPS)
