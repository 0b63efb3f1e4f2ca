import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from ddim_keras import DiffusionModel, Guidance, ModelConfig, NetworkConfig
from ddim_keras.config import GUIDANCE, InputError
from ddim_keras.deprecated import guided
from ddim_keras.samplers import SAMPLERS

SIZE = 8
NUM_CLASSES = 3
CONFIG = ModelConfig(
    network=NetworkConfig(image_size=SIZE, widths=(8,), depths=(1,), num_classes=NUM_CLASSES),
    label_dropout=0.25,
)


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def class_denoise(noisy_images, noise_rates, signal_rates, labels):
    """Predicts the label as the image, and ten times the label as the noise."""
    labels = ops.reshape(ops.cast(labels, "float32"), (-1, 1, 1, 1)) * ops.ones_like(noisy_images)
    return 10.0 * labels, labels


def randomised(block="plain", num_classes=NUM_CLASSES, seed=0):
    network = NetworkConfig(
        image_size=SIZE, widths=(8,), depths=(1,), block=block, num_classes=num_classes
    )
    model = DiffusionModel(ModelConfig(network=network))
    random = np.random.default_rng(seed)
    for weight in model.ema_network.trainable_weights or model.ema_network.weights:
        if "moving" not in weight.path:
            weight.assign(0.3 * random.standard_normal(weight.shape))
    return model


def inputs(count):
    noisy_images = np.random.default_rng(1).standard_normal((count, SIZE, SIZE, 3))
    rates = np.full((count, 1, 1, 1), 0.5**0.5)
    return [ops.convert_to_tensor(values, "float32") for values in (noisy_images, rates, rates)]


@pytest.mark.parametrize("guidance", [0.0, 0.5, 2.0, -1.0])
def test_guidance_extrapolates_from_the_unconditional_prediction(guidance):
    labels = [0, 1, 2]
    pred_noises, pred_images = Guidance(guidance)(class_denoise, labels)(*inputs(3))
    # The unconditional prediction of the stand-in is the label -1.
    expected = [(1 + guidance) * label - guidance * -1 for label in labels]
    np.testing.assert_allclose(numpy(pred_images)[:, 0, 0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(numpy(pred_noises)[:, 0, 0, 0], 10 * np.array(expected), atol=1e-5)


@pytest.mark.parametrize("block", ["plain", "adaptive"])
def test_no_guidance_is_conditional_and_minus_one_unconditional(block):
    model = randomised(block)
    images, *rates = inputs(4)
    labels = ops.convert_to_tensor([0, 1, 2, 0], "int32")
    conditional = numpy(model.denoise(images, *rates, False, labels)[1])
    unconditional = numpy(model.denoise(images, *rates, False)[1])
    assert np.abs(conditional - unconditional).max() > 0.01
    by_guidance = {
        guidance: numpy(Guidance(guidance)(model.compiled_denoise, labels)(images, *rates)[1])
        for guidance in (0.0, -1.0)
    }
    np.testing.assert_allclose(by_guidance[0.0], conditional, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(by_guidance[-1.0], unconditional, rtol=1e-3, atol=1e-3)
    without_label = numpy(model.denoise(images, *rates, False, ops.full((4,), -1, "int32"))[1])
    np.testing.assert_allclose(without_label, unconditional, rtol=1e-3, atol=1e-3)


def test_guided_predictions_still_add_up_to_the_noisy_images():
    model = randomised()
    images, noise_rates, signal_rates = inputs(2)
    denoise = Guidance(3.0)(model.compiled_denoise, [0, 2])
    pred_noises, pred_images = denoise(images, noise_rates, signal_rates)
    mixed = signal_rates * pred_images + noise_rates * pred_noises
    np.testing.assert_allclose(numpy(mixed), numpy(images), atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_classes_and_guidance(sampler):
    model = randomised()
    options = {"seed": 0, "sampler": sampler}
    zeros, ones = (model.generate(2, 3, labels=[label] * 2, **options) for label in (0, 1))
    strong = model.generate(2, 3, labels=[0, 0], guidance=2.0, **options)
    assert np.abs(zeros - ones).max() > 0.01
    assert np.abs(zeros - strong).max() > 0.01


def test_autoguidance_extrapolates_from_the_guide_of_the_same_class():
    def worse(noisy_images, noise_rates, signal_rates, labels):
        noises, images = class_denoise(noisy_images, noise_rates, signal_rates, labels)
        return noises - 2.0, images - 1.0

    _, images = Guidance(0.5, guide=worse)(class_denoise, [0, 1, 2])(*inputs(3))
    np.testing.assert_allclose(numpy(images)[:, 0, 0, 0], [0.5, 1.5, 2.5], atol=1e-6)

    def unconditional(noisy_images, noise_rates, signal_rates):
        return noisy_images, noisy_images

    def zero(*tensors):
        return tensors[0] * 0.0, tensors[0] * 0.0

    noisy_images, *rates = inputs(3)
    _, images = Guidance(2.0, guide=zero)(unconditional)(noisy_images, *rates)
    np.testing.assert_allclose(numpy(images), 3 * numpy(noisy_images), rtol=1e-6)


def test_a_worse_model_guides_one_without_classes():
    model, guide = (randomised(num_classes=0, seed=seed) for seed in (0, 1))
    images = inputs(2)
    plain = model.generate(2, 2, seed=0)
    guided = model.generate(2, 2, seed=0, guidance=Guidance(2.0, guide=guide.compiled_denoise))
    assert np.abs(plain - guided).max() > 0.01
    itself = Guidance(2.0, guide=model.compiled_denoise)(model.compiled_denoise)(*images)
    for guided, plain in zip(itself, model.compiled_denoise(*images), strict=True):
        np.testing.assert_allclose(numpy(guided), numpy(plain), atol=1e-4)


def test_there_is_guidance_in_the_interval_alone():
    sizes = []

    def denoise(noisy_images, noise_rates, signal_rates, labels):
        sizes.append(len(noisy_images))
        return class_denoise(noisy_images, noise_rates, signal_rates, labels)

    guided = Guidance(1.0, interval=(0.3, 0.6))(denoise, [2])
    images = inputs(1)[0]
    predicted = []
    for signal_rate in (0.2, 0.3, 0.5, 0.61):
        rates = [
            ops.full((1, 1, 1, 1), rate) for rate in ((1 - signal_rate**2) ** 0.5, signal_rate)
        ]
        predicted.append(float(numpy(guided(images, *rates)[1]).mean()))
    np.testing.assert_allclose(predicted, [2, 5, 5, 2])
    assert sizes == [1, 2, 2, 1]


def test_images_of_classes_are_guided_unless_asked_otherwise():
    model = randomised()
    options = {"seed": 0, "labels": [0, -1]}  # class 0 is one as well
    by_default = model.generate(2, 2, **options)
    np.testing.assert_array_equal(by_default, model.generate(2, 2, guidance=GUIDANCE, **options))
    assert np.abs(by_default - model.generate(2, 2, guidance=0, **options)).max() > 0.001
    of_any = [
        model.generate(2, 2, seed=0, labels=[-1, -1], guidance=guidance) for guidance in (None, 0)
    ]
    np.testing.assert_array_equal(*of_any)


def test_classes_that_are_not_given_depend_on_the_seed():
    drawn = []

    def guidance(denoise, labels):
        drawn.append(labels.tolist())
        return Guidance(0.0)(denoise, labels)

    model = randomised()
    for seed in (1, 1, 2):
        model.generate(6, 1, seed=seed, guidance=guidance)
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_function_guides():
    model = randomised()

    def unguided(denoise, labels):
        return lambda *inputs: denoise(*inputs, labels=ops.convert_to_tensor(labels))

    options = {"seed": 0, "labels": [0, 1]}
    images = model.generate(2, 2, guidance=unguided, **options)
    np.testing.assert_array_equal(images, model.generate(2, 2, guidance=0, **options))


def test_guidance_is_described():
    assert str(Guidance()) == ""
    assert str(Guidance(1.5)) == "guidance 1.5"
    described = Guidance(1.0, (0.5, 0.98), class_denoise)
    assert str(described) == "autoguidance 1 at signal rates 0.5 to 0.98"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((float("nan"),), "must be a number from -1000 to 1000, not nan"),
        ((1.0, (0.6, 0.5)), r"two rising signal rates in \[0, 1\], not 0.6 and 0.5"),
        ((1.0, (0.0, 1.5)), r"two rising signal rates in \[0, 1\], not 0.0 and 1.5"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        Guidance(*arguments)


def test_the_name_of_the_previous_release_still_works_and_warns():
    with pytest.warns(DeprecationWarning, match=r"use Guidance\(strength\)"):
        denoise = guided(class_denoise, [0], 2.0)
    np.testing.assert_array_equal(
        numpy(denoise(*inputs(1))[1]), numpy(Guidance(2.0)(class_denoise, [0])(*inputs(1))[1])
    )


@pytest.mark.parametrize("labels", [[0, 3], [-2, 0]])
def test_classes_that_do_not_exist_are_refused(labels):
    with pytest.raises(ValueError, match="labels must be whole numbers from -1 to 2"):
        DiffusionModel(CONFIG).generate(2, 1, labels=labels)


def test_a_model_without_classes_refuses_them():
    network = NetworkConfig(image_size=SIZE, widths=(8,), depths=(1,))
    model = DiffusionModel(ModelConfig(network=network))
    with pytest.raises(ValueError, match="guidance needs a model with classes"):
        model.generate(1, 1, guidance=1.0)
    with pytest.raises(ValueError, match="labels must be whole numbers from -1 to -1"):
        model.generate(1, 1, labels=[0])


def test_labels_are_dropped_in_training_alone(monkeypatch):
    model = DiffusionModel(dataclasses.replace(CONFIG, label_dropout=1.0))
    seen = {}

    def denoise(noisy_images, noise_rates, signal_rates, training, labels):
        seen[training] = numpy(labels).tolist()
        return noisy_images, noisy_images

    monkeypatch.setattr(model, "denoise", denoise)
    model.compile()
    images, *_ = inputs(3)
    for training in (True, False):
        model.compute_losses(images, training, ops.convert_to_tensor([0, 1, 2], "int32"))
    assert seen == {True: [-1, -1, -1], False: [0, 1, 2]}


def test_images_follow_the_order_of_their_labels():
    model = randomised()
    labels = [2, 0, 1, 1, 0]
    together = model.generate(5, 2, seed=3, labels=labels, batch_size=2)
    of_class_0 = model.generate(5, 2, seed=3, labels=[0] * 5, batch_size=5)
    of_class_1 = model.generate(5, 2, seed=3, labels=[1] * 5)
    np.testing.assert_allclose(together[[1, 4]], of_class_0[[1, 4]], atol=1e-4)
    np.testing.assert_allclose(together[[2, 3]], of_class_1[[2, 3]], atol=1e-4)
    with pytest.raises(ValueError, match="5 images need as many labels"):
        model.generate(5, 2, labels=[0, 1])


def test_classes_are_drawn_as_often_as_in_training():
    model = DiffusionModel(CONFIG)
    images = np.zeros((100, SIZE, SIZE, 3), "uint8")
    model.adapt(images, np.repeat([0, 2, -1], [20, 60, 20]))
    drawn = model.draw_labels(4000, np.random.default_rng(0))
    shares = np.bincount(drawn, minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.25, 0, 0.75], atol=0.03)


def test_labels_are_dropped_at_the_configured_rate():
    model = DiffusionModel(CONFIG)
    labels = np.full(4000, 2, "int32")
    kept = numpy(model.drop_labels(labels, labels))
    assert set(kept) == {-1, 2}
    assert np.mean(kept == -1) == pytest.approx(0.25, abs=0.03)
    unlabelled = numpy(model.drop_labels(None, labels))
    assert set(unlabelled) <= {-1, NUM_CLASSES}


@pytest.mark.slow
def test_labels_teach_what_each_class_looks_like(tmp_path):
    values = np.array([40, 128, 215], "uint8")
    labels = np.arange(96) % NUM_CLASSES
    images = np.broadcast_to(values[labels][:, None, None, None], (96, SIZE, SIZE, 3)).copy()
    model = DiffusionModel(CONFIG)
    model.adapt(images, labels)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(images, labels, batch_size=32, epochs=40, verbose=0)
    model.ema_network.set_weights(model.network.get_weights())
    options = {"seed": 0, "labels": [0, 0, 1, 1, 2, 2], "guidance": 0.0}
    generated = model.generate(6, 4, **options)
    means = generated.mean(axis=(1, 2, 3)).reshape(3, 2).mean(axis=1)
    assert np.all(np.diff(means) > 0.1)

    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    copy = DiffusionModel(CONFIG)
    copy.load_weights(path)
    np.testing.assert_allclose(numpy(copy.class_frequencies), 32)
    same = copy.generate(6, 4, **options)
    np.testing.assert_allclose(same, generated, atol=1e-3)
