"""What a caller gives a model from Python: refused in one sentence, before any graph is built."""

import dataclasses
import functools

import keras
import numpy as np
import pytest

import ddim_keras
from ddim_keras import backends
from ddim_keras.config import InputError, ModelConfig, NetworkConfig
from ddim_keras.data.cache import load_dataset
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.metrics.kid import KernelInceptionDistance
from ddim_keras.model import DiffusionModel
from ddim_keras.presets import PRESETS
from ddim_keras.runs.folder import Run, load_model
from ddim_keras.samplers import Sampler
from ddim_keras.training.loop import train

SIZE = 8
CONFIG = ModelConfig(
    NetworkConfig(image_size=SIZE, widths=(8,), depths=(1,), block="adaptive", num_classes=3)
)
IMAGES = draw_flowers(6, SIZE)[0]
FLOATS = IMAGES.astype("float32") / 255
LABELS = np.arange(6) % 3


@functools.cache
def adapted_model():
    model = DiffusionModel(CONFIG)
    model.adapt(IMAGES, LABELS)
    model.compile()
    return model


@pytest.fixture(autouse=True)
def no_graph(monkeypatch):
    """Fails a test whose call goes on to a training, a measurement or a denoiser."""

    def fail(*args, **kwargs):
        pytest.fail("it went on")

    for name in ("fit", "evaluate"):
        monkeypatch.setattr(keras.Model, name, fail)
    monkeypatch.setattr(backends, "compile_denoise", fail)


@pytest.mark.parametrize("name", ["fit", "evaluate"])
def test_a_model_must_be_adapted_first(name):
    model = DiffusionModel(CONFIG)
    model.compile()
    with pytest.raises(InputError, match=r"call model\.adapt\(train_images\) first"):
        getattr(model, name)(IMAGES, batch_size=2)
    assert not model.is_adapted
    model.set_weights(adapted_model().get_weights())
    assert model.is_adapted


WRONG_IMAGES = {
    "none": (IMAGES[:0], "of shape"),
    "no height": (IMAGES[:, :0], "of shape"),
    "grey": (IMAGES[..., :1], "of shape"),
    "one image": (IMAGES[0], "of shape"),
    "nothing": (None, "images"),
    "0 to 255": (FLOATS * 255, r"float in \[0, 1\]"),
    "-1 to 1": (FLOATS * 2 - 1, r"float in \[0, 1\]"),
    "not numbers": (FLOATS * np.nan, r"float in \[0, 1\]"),
    "whole numbers": (IMAGES.astype("int64"), r"float in \[0, 1\]"),
}


@pytest.mark.parametrize(("images", "message"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
@pytest.mark.parametrize("name", ["adapt", "fit", "evaluate"])
def test_images(name, images, message):
    model = adapted_model()
    before = np.array(model.pixel_means)
    with pytest.raises(InputError, match=message):
        getattr(model, name)(images)
    np.testing.assert_array_equal(model.pixel_means, before)


def test_images_of_another_size():
    with pytest.raises(InputError, match=r"shape \(N, 8, 8, 3\), not \(6, 4, 8, 3\)"):
        adapted_model().fit(IMAGES[:, :4])
    with pytest.raises(InputError, match=r"shape \(8, 8, 3\), not \(4, 4, 3\)"):
        adapted_model().normalize(keras.ops.zeros((1, 4, 4, 3)))  # of a data set, for example


@pytest.mark.parametrize("data", [(IMAGES, LABELS), [IMAGES], {"image": IMAGES}])
def test_data_that_are_no_array(data):
    with pytest.raises(InputError, match="images must be one array, or a data set"):
        adapted_model().fit(data)


def test_batches_of_data_sets():
    model = adapted_model()
    with pytest.raises(InputError, match=r"batches of shape \(B, H, W, C\), not \(8, 8, 3\)"):
        model.compute_losses(keras.ops.convert_to_tensor(IMAGES[0]), training=True)
    with pytest.raises(InputError, match=r"images, labels.*not of a dict"):
        model.compute_losses({"image": IMAGES}, training=True)
    with pytest.raises(InputError, match="uint8, or float"):
        model.normalize(keras.ops.convert_to_tensor(IMAGES.astype("int32")))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FLOATS * 255, "float in"),
        ((IMAGES, LABELS + 1), "labels"),
        ((IMAGES, LABELS, np.ones(6)), "sample_weight"),
    ],
)
def test_validation_data_are_checked_before_the_first_epoch(data, message):
    with pytest.raises(InputError, match=f"validation_data: .*{message}"):
        adapted_model().fit(IMAGES, LABELS, validation_data=data)


def test_options_of_keras_that_would_have_no_effect():
    model = adapted_model()
    for options in ({"sample_weight": np.ones(6)}, {"class_weight": {0: 2.0, 1: 1.0, 2: 1.0}}):
        with pytest.raises(InputError, match=f"does not support {next(iter(options))}"):
            model.fit(IMAGES, LABELS, **options)
    with pytest.raises(InputError, match="does not support sample_weight"):
        model.evaluate(IMAGES, LABELS, sample_weight=np.ones(6))
    for name in ("metrics", "weighted_metrics", "loss_weights"):
        with pytest.raises(InputError, match=f"does not support {name}"):
            DiffusionModel(CONFIG).compile(**{name: ["mae"]})


def test_a_model_that_only_generates_is_not_trained():
    model = DiffusionModel(CONFIG, only_average=True)
    model.adapt(IMAGES)
    model.compile()
    with pytest.raises(InputError, match="only its averaged weights, and cannot be trained"):
        model.fit(IMAGES)


def test_the_model_is_not_called_with_images_alone():
    with pytest.raises(ValueError, match=r"called with \(noisy_images, diffusion_times"):
        adapted_model()(keras.ops.convert_to_tensor(FLOATS))


def test_configurations_of_other_models():
    with pytest.raises(InputError, match=r"built from a ModelConfig, .* not a Preset"):
        DiffusionModel(PRESETS["fast"])
    learned = dataclasses.replace(CONFIG, variance="learned", discrete_steps=10)
    with pytest.raises(InputError, match="need a LearnedVarianceModel"):
        DiffusionModel(learned)


WRONG_LABELS = {
    "too large": LABELS + 1,
    "huge": np.full(6, 10**9),
    "below -1": LABELS - 2,
    "too few": LABELS[:5],
    "a column": LABELS[:, None],
    "fractions": LABELS / 2,
    "texts": np.array(list("abcdef")),
}


@pytest.mark.parametrize("labels", WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_labels(labels):
    model = adapted_model()
    for call in (model.adapt, model.fit, model.evaluate):
        with pytest.raises(InputError, match="labels"):
            call(IMAGES, labels)
    with pytest.raises(InputError, match="labels"):
        model.generate(6, 1, labels=labels)


def test_images_without_any_class_leave_the_classes_equally_frequent():
    model = DiffusionModel(CONFIG)
    model.adapt(IMAGES, np.full(6, -1))
    np.testing.assert_array_equal(model.class_frequencies, [1, 1, 1])


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None, True])
@pytest.mark.parametrize("name", ["num_images", "diffusion_steps", "batch_size"])
def test_counts(name, value):
    arguments = {"num_images": 1, "diffusion_steps": 1, "batch_size": 1, name: value}
    with pytest.raises(InputError, match=f"{name} must be a whole number of at least 1"):
        adapted_model().generate(**arguments)


def test_more_counts():
    with pytest.raises(InputError, match="batch_size"):
        adapted_model().fit(IMAGES, batch_size=0)
    with pytest.raises(InputError, match="diffusion_steps"):
        adapted_model().reverse_diffusion(np.zeros((1, SIZE, SIZE, 3)), 0)
    with pytest.raises(InputError, match="image_size"):
        load_dataset("drawn_flowers", image_size=0)
    with pytest.raises(InputError, match="image_size"):
        dataclasses.replace(CONFIG.network, image_size=0)


@pytest.mark.parametrize("seed", [-1, 0.5, "1"])
def test_seeds(seed):
    with pytest.raises(InputError, match="seed must be a whole number of at least 0"):
        adapted_model().generate(1, 1, seed=seed)


def test_a_sampler_is_a_name_or_a_function():
    with pytest.raises(InputError, match=r"sampler must be one of ddim, .*, not 5"):
        Sampler(5)


@pytest.mark.parametrize("guidance", [np.nan, np.inf, 1e30, -1e30, "1"])
def test_guidance(guidance):
    with pytest.raises(InputError, match="strength of guidance must be a number from -1000"):
        adapted_model().generate(1, 1, labels=[0], guidance=guidance)


WRONG_NOISE = {
    "too few": np.zeros((1, SIZE, SIZE, 3)),
    "of another size": np.zeros((2, 4, 4, 3)),
    "not finite": np.full((2, SIZE, SIZE, 3), np.inf),
    "a text": "noise",
}


@pytest.mark.parametrize("noise", WRONG_NOISE.values(), ids=WRONG_NOISE)
def test_initial_noise(noise):
    with pytest.raises(InputError, match="initial_noise must be"):
        adapted_model().generate(2, 1, initial_noise=noise)


@pytest.mark.parametrize("name", ["nowhere", "", None, 5, "nowhere/best.weights.h5"])
def test_models_that_are_not_there(name):
    with pytest.raises(InputError, match=r"there is no|by the name of a run"):
        load_model(name)


def test_models_that_keras_saved(tmp_path):
    for name, message in (("model.keras", r"keras\.saving\.load_model"), ("model.onnx", "neither")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(InputError, match=message):
            load_model(tmp_path / name)


def test_a_training_needs_the_configuration_of_its_run(tmp_path):
    with pytest.raises(InputError, match="holds no config"):
        train(Run(str(tmp_path)), None, None)


WRONG_IMAGES_OF_THE_KID = {
    "0 to 255": (FLOATS * 255, r"float in \[0, 1\]"),
    "-1 to 1": (FLOATS * 2 - 1, r"float in \[0, 1\]"),
    "whole numbers": (IMAGES.astype("int64"), r"float in \[0, 1\]"),
    "one image": (IMAGES[0], "of shape"),
    "four channels": (IMAGES[..., [0, 1, 2, 2]], "of shape"),
}


@pytest.mark.parametrize(
    ("images", "message"), WRONG_IMAGES_OF_THE_KID.values(), ids=WRONG_IMAGES_OF_THE_KID
)
def test_images_of_the_kid(encoder, images, message):
    with pytest.raises(InputError, match=message):
        KernelInceptionDistance(encoder, images)


def test_batches_of_the_kid(encoder):
    with pytest.raises(InputError, match="batches of at least 2 images, not 1"):
        KernelInceptionDistance(encoder, IMAGES, batch_size=1)


def test_public_names_can_be_listed():
    assert {*ddim_keras.__all__} <= {*dir(ddim_keras)}


def test_a_data_set_without_a_name():
    with pytest.raises(InputError, match="the name of the data set is empty"):
        load_dataset("")
