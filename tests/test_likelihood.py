"""Likelihood: learned variances train, and bits per dimension are right where they are known."""

import dataclasses
import functools
import math

import keras
import numpy as np
import pytest
import scipy.special
from keras import ops

from ddim_keras import backends
from ddim_keras.config import InputError, ModelConfig, NetworkConfig, TrainingConfig
from ddim_keras.ddpm import (
    alpha_bars_of,
    bound_bits,
    cosine_betas,
    hybrid_loss,
    linear_betas,
    posterior_mean_from_noises,
    rates_at,
    reverse_variances,
    sample_xt,
    step_bits,
    variational_bounds,
)
from ddim_keras.likelihood import (
    LearnedVarianceModel,
    bound_terms,
    flow_bits,
    new_model,
    schedule_betas,
)
from ddim_keras.model import DiffusionModel
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.samplers import Sampler

STEPS = 12
LEARNED = ModelConfig(
    network=NetworkConfig(image_size=8, channels=1, widths=(8,), depths=(1,), block="adaptive"),
    schedule="cosine",
    discrete_steps=STEPS,
    variance="learned",
)


def numpy(values):
    return ops.convert_to_numpy(values)


def tensor(values):
    return ops.convert_to_tensor(values, dtype="float32")


class ExactModel(DiffusionModel):
    """A model of data whose perfect denoiser is known, in place of a network.

    Args:
        pred_images_of: `pred_images_of(noisy_images, noise_rates, signal_rates)`.
        scale: standard deviation of the pixels, of 1, that it normalises by; their mean is 0.5.
    """

    def __init__(self, pred_images_of, channels, scale, **options):
        network = NetworkConfig(image_size=1, channels=channels, widths=(8,), depths=(1,))
        super().__init__(ModelConfig(network=network, **options))
        self.pred_images_of = pred_images_of
        self.pixel_means.assign([0.5] * channels)
        self.pixel_variances.assign([scale**2] * channels)

    def denoise(self, noisy_images, noise_rates, signal_rates, training=False, labels=None):
        pred_images = self.pred_images_of(noisy_images, noise_rates, signal_rates)
        return (noisy_images - signal_rates * pred_images) / noise_rates, pred_images


# Normally distributed pixels.

MEAN, DEVIATION, SCALE = 0.3, 0.7, 0.15  # normalised; normalised; of pixels in [0, 1]


def gaussian_pred_images(noisy_images, noise_rates, signal_rates, deviation=DEVIATION, mean=MEAN):
    gain = signal_rates * deviation**2 / (signal_rates**2 * deviation**2 + noise_rates**2)
    return mean + gain * (noisy_images - signal_rates * mean)


def gaussian_pixels(num_images, seed=0):
    """uint8 pixels (N, 1, 1, 4), and the bits of each as a value of 256."""
    random = np.random.default_rng(seed)
    mean, deviation = 255 * (0.5 + SCALE * MEAN), 255 * SCALE * DEVIATION
    values = np.clip(np.round(random.normal(mean, deviation, (num_images, 1, 1, 4))), 0, 255)
    edges = (np.arange(257) - 0.5 - mean) / deviation
    edges[[0, -1]] = -np.inf, np.inf
    probabilities = np.diff(scipy.special.ndtr(edges))
    return values.astype("uint8"), -np.log2(probabilities)[values.astype(int)]


def exact_variances(betas, deviation):
    """Of x_{t-1} given x_t, where the data are normal: (T + 1,)."""
    totals = alpha_bars_of(betas) * deviation**2 + 1 - alpha_bars_of(betas)
    return np.array([0.0, *(totals[:-1] - (1 - betas[1:]) * totals[:-1] ** 2 / totals[1:])])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_flow_bits_of_normal_pixels_are_their_entropy(schedule):
    model = ExactModel(gaussian_pred_images, 4, SCALE, schedule=schedule)
    pixels, bits = gaussian_pixels(500)
    result = flow_bits(model, pixels, batch_size=500)
    assert result.bits.shape == (500,)
    assert result.bits.mean() == pytest.approx(bits.mean(), abs=0.01)
    # And those of each image, up to the uniform noise.
    assert np.abs(result.bits - bits.mean(axis=(1, 2, 3))).std() < 0.05
    assert 20 < result.network_calls < 500


@pytest.mark.parametrize("betas", [linear_betas(200), cosine_betas(50)], ids=["linear", "cosine"])
def test_the_bound_with_exact_variances_is_the_entropy(betas):
    model = ExactModel(gaussian_pred_images, 4, SCALE)
    pixels, bits = gaussian_pixels(20_000)
    images = model.normalize(ops.convert_to_tensor(pixels))
    variances = exact_variances(betas, DEVIATION)
    (terms,) = variational_bounds(
        model.denoise, images, betas, [variances], model.pixel_range, seed=0
    )
    assert terms.sum(axis=0).mean() == pytest.approx(bits.mean(), abs=0.01)


def test_what_fixed_variances_cost():
    """Small ones cost 0.67 bits on a unit Gaussian, for which beta is right, at T = 1000."""
    betas = linear_betas()
    exact = exact_variances(betas, deviation=1.0)
    np.testing.assert_allclose(exact[1:], betas[1:], rtol=1e-9)
    # Two vectors of unit variance, orthogonal: every mean of squares is its expectation.
    images, noises = (tensor([[1.0, 1.0]] * 999), tensor([[1.0, -1.0]] * 999))
    steps = np.arange(2, 1001)
    noisy_images = sample_xt(images, steps, noises, alpha_bars_of(betas))
    noise_rates, signal_rates = rates_at(steps, alpha_bars_of(betas), images)
    pred_images = gaussian_pred_images(noisy_images, noise_rates, signal_rates, 1.0, mean=0.0)
    pred_noises = (noisy_images - signal_rates * pred_images) / noise_rates
    means = posterior_mean_from_noises(noisy_images, pred_noises, steps, betas)
    small, large = (
        numpy(step_bits(images, noisy_images, means, tensor(values[steps][:, None]), steps, betas))
        for values in (reverse_variances(betas, "small"), reverse_variances(betas, "large"))
    )
    assert (small - large).sum() == pytest.approx(0.6707, abs=1e-3)
    # In closed form: the divergence of the small normal distribution from the exact one.
    ratios = exact[steps] / reverse_variances(betas, "small")[steps]
    computed = 0.5 * (ratios - 1 - np.log(ratios)) / math.log(2)
    assert computed.sum() == pytest.approx(0.6707, abs=1e-4)
    np.testing.assert_allclose((small - large), computed, atol=1e-5)


# A mixture of normal distributions in the plane.

CENTRES = np.array([[-1.2, 0.5], [1.0, 1.0], [0.3, -1.1]])
WEIGHTS = np.array([0.5, 0.3, 0.2])
WIDTH = 0.35  # standard deviation of each, normalised


def mixture_pred_images(noisy_images, noise_rates, signal_rates):
    total = signal_rates**2 * WIDTH**2 + noise_rates**2
    pred_images, log_weights = [], []
    for centre, weight in zip(CENTRES, WEIGHTS, strict=True):
        distance = noisy_images - signal_rates * tensor(centre)
        pred_images.append(tensor(centre) + signal_rates * WIDTH**2 / total * distance)
        squares = ops.sum(distance**2, axis=-1, keepdims=True)
        log_weights.append(math.log(weight) - squares / (2 * total))
    shares = ops.softmax(ops.concatenate(log_weights, axis=-1), axis=-1)
    return sum(shares[..., i : i + 1] * each for i, each in enumerate(pred_images))


def mixture_pixels(num_images):
    """uint8 (N, 1, 1, 2), and the bits per value of each: its cell's probability, integrated."""
    random = np.random.default_rng(0)
    chosen = random.choice(3, num_images, p=WEIGHTS)
    points = CENTRES[chosen] + WIDTH * random.standard_normal((num_images, 2))
    values = np.clip(np.round(255 * (0.5 + SCALE * points)), 0, 255).astype(int)
    edges = ((np.arange(257) - 0.5) / 255 - 0.5) / SCALE
    edges[[0, -1]] = -np.inf, np.inf
    cells = sum(
        weight * np.outer(*(np.diff(scipy.special.ndtr((edges - x) / WIDTH)) for x in centre))
        for weight, centre in zip(WEIGHTS, CENTRES, strict=True)
    )
    assert cells.sum() == pytest.approx(1)
    bits = -np.log2(cells[values[:, 0], values[:, 1]]) / 2
    return values.astype("uint8").reshape(-1, 1, 1, 2), bits


def test_bits_of_a_mixture_by_flow_and_bound():
    model = ExactModel(mixture_pred_images, 2, SCALE, schedule="cosine")
    pixels, bits = mixture_pixels(500)
    flow = flow_bits(model, pixels, batch_size=500, probes=2)
    assert flow.bits.mean() == pytest.approx(bits.mean(), abs=0.01)

    gaps = []
    for num_steps in (20, 200):
        terms = bound_terms(model, pixels, num_steps=num_steps, batch_size=500)
        assert set(terms) == {"small", "large"}
        assert terms["large"].shape == (num_steps + 1, 500)
        gaps.append(terms["large"].sum(axis=0).mean() - bits.mean())
    assert 0 < gaps[1] < gaps[0] / 2
    assert gaps[1] < 0.1


@pytest.mark.parametrize("bits_of", [flow_bits, functools.partial(bound_terms, num_steps=3)])
def test_bits_are_those_of_the_classes_that_are_given(bits_of, monkeypatch):
    seen = set()

    def denoise(noisy_images, noise_rates, signal_rates, labels):
        seen.update(numpy(labels).tolist())
        return noise_rates * noisy_images, signal_rates * noisy_images

    monkeypatch.setattr(backends, "compile_denoise", lambda *_, **__: denoise)
    network = dataclasses.replace(LEARNED.network, num_classes=3)
    model = DiffusionModel(ModelConfig(network=network, schedule="cosine"))
    bits_of(model, pixels(2), labels=np.array([2, 1]), batch_size=1)
    assert seen == {1, 2}


# Learned variances.


@pytest.fixture
def learned():
    """A model whose variances depend on the image, compiled with the hybrid loss."""
    model = new_model(LEARNED)
    assert isinstance(model, LearnedVarianceModel)
    for index, weight in enumerate(model.network.weights):
        random = np.random.default_rng(index)
        weight.assign(weight + 0.1 * random.standard_normal(weight.shape))
    model.ema_network.set_weights(model.network.get_weights())
    model.pixel_means.assign([0.5])
    model.pixel_variances.assign([SCALE**2])
    model.compile(keras.optimizers.Adam(1e-3), loss="hybrid")
    return model


def pixels(num_images, seed=0):
    random = np.random.default_rng(seed)
    return np.clip(random.normal(128, 40, (num_images, 8, 8, 1)), 0, 255).astype("uint8")


def test_denoise_keeps_its_two_results(learned):
    noisy_images = tensor(np.random.default_rng(0).standard_normal((3, 8, 8, 1)))
    noise_rates, signal_rates = rates_at(np.array([1, 5, STEPS]), learned.alpha_bars, noisy_images)
    inputs = noisy_images, noise_rates, signal_rates
    pred_noises, pred_images = learned.denoise(*inputs, training=False)
    np.testing.assert_allclose(
        numpy(signal_rates * pred_images + noise_rates * pred_noises), noisy_images, atol=1e-4
    )
    *predictions, fractions = learned.compiled_predict_step(*inputs)
    np.testing.assert_allclose(predictions[0], numpy(pred_noises), atol=1e-4)
    assert tuple(fractions.shape) == (3, 8, 8, 1)
    assert numpy(fractions).std() > 0.01
    assert learned.generate(2, 3, seed=0).shape == (2, 8, 8, 1)


def test_training_begins_between_the_two_variances():
    model = new_model(LEARNED)
    inputs = ops.ones((1, 8, 8, 1)), ops.full((1, 1, 1, 1), 0.6), ops.full((1, 1, 1, 1), 0.8)
    np.testing.assert_array_equal(numpy(model.compiled_predict_step(*inputs)[2]), 0.5)


def test_hybrid_loss_is_that_of_the_formula(learned):
    """With the noises and steps that the model drew: the state of its generator is put back."""
    images = pixels(32)
    state = numpy(learned.seed_generator.state)
    loss, losses = learned.compute_losses(ops.convert_to_tensor(images), training=True)
    learned.seed_generator.state.assign(state)
    steps, weights = learned.draw_steps(32, by_importance=False)
    noises = backends.draw(learned, keras.random.normal, images.shape)
    assert set(numpy(weights)) == {1.0}
    assert set(numpy(steps)) <= set(range(1, STEPS + 1))

    normalized = learned.normalize(images)
    rates = rates_at(steps, learned.alpha_bars, normalized)
    noisy_images = rates[1] * normalized + rates[0] * noises
    pred_noises, _, fractions = learned.predict_step(noisy_images, *rates, training=True)
    arguments = (steps, learned.betas, learned.pixel_range)
    expected = hybrid_loss(normalized, noises, pred_noises, fractions, *arguments)
    assert float(numpy(loss)) == pytest.approx(float(numpy(expected)), rel=1e-5)
    bits = bound_bits(normalized, noises, pred_noises, fractions, *arguments)
    assert float(numpy(losses["bits_per_dim"])) == pytest.approx(
        STEPS * numpy(bits).mean(), rel=1e-4
    )


def test_hybrid_loss_trains_the_means_by_the_noises_alone(learned, monkeypatch):
    images = ops.convert_to_tensor(pixels(8))
    state = numpy(learned.seed_generator.state)
    learned.draw_steps(8, by_importance=False)
    noises = numpy(backends.draw(learned, keras.random.normal, images.shape))
    prediction = tensor(np.random.default_rng(1).standard_normal(images.shape))

    def loss(pred_noises):
        learned.seed_generator.state.assign(state)
        results = pred_noises, pred_noises, ops.zeros_like(pred_noises)
        monkeypatch.setattr(learned, "predict_step", lambda *_: results)
        return learned.compute_losses(images, training=True)[0]

    _, gradients = backends.vector_jacobian_product(loss, prediction, ops.ones(()))
    expected = 2 * (numpy(prediction) - noises) / noises.size
    np.testing.assert_allclose(numpy(gradients), expected, rtol=1e-4, atol=1e-6)


def test_classes_are_dropped_in_training_alone(monkeypatch):
    network = dataclasses.replace(LEARNED.network, num_classes=3)
    model = new_model(dataclasses.replace(LEARNED, network=network, label_dropout=1.0))
    model.compile()
    seen = {}

    def predict_step(noisy_images, noise_rates, signal_rates, training, labels):
        seen[training] = numpy(labels).tolist()
        return noisy_images, noisy_images, noisy_images

    monkeypatch.setattr(model, "predict_step", predict_step)
    for training in (True, False):
        labels = ops.convert_to_tensor([0, 1, 2], dtype="int32")
        model.compute_losses(ops.convert_to_tensor(pixels(3)), training, labels)
    assert seen == {True: [-1, -1, -1], False: [0, 1, 2]}


def test_importance_sampling_is_even_until_each_step_has_had_10_losses(learned):
    learned.loss_counts.assign([0, *[10] * (STEPS - 1), 9])
    learned.past_losses.assign(np.ones((STEPS + 1, 10)) * np.arange(STEPS + 1)[:, None])
    _, weights = learned.draw_steps(50, by_importance=True)
    np.testing.assert_allclose(numpy(weights), 1, rtol=1e-5)

    learned.loss_counts.assign([0, *[10] * STEPS])
    past_losses = numpy(learned.past_losses).copy()
    past_losses[::2, 1:] = 0.0  # one of ten that is not zero: the root mean square is not the mean
    learned.past_losses.assign(past_losses)
    steps, weights = map(numpy, learned.draw_steps(20_000, by_importance=True))
    sizes = np.sqrt(np.mean(past_losses[1:] ** 2, axis=1))
    shares = sizes / sizes.sum()
    shares = 0.999 * shares + 0.001 / STEPS
    np.testing.assert_allclose(
        np.bincount(steps, minlength=STEPS + 1)[1:] / 20_000, shares, atol=0.012
    )
    np.testing.assert_allclose(weights, 1 / (STEPS * shares[steps - 1]), rtol=1e-4)
    losses = np.arange(STEPS + 1.0) ** 2
    assert np.mean(weights * losses[steps]) == pytest.approx(losses[1:].mean(), rel=0.02)


def test_the_bound_weighs_the_steps_that_are_drawn_by_importance(learned):
    learned.compile(keras.optimizers.Adam(1e-3), loss="bound")
    learned.loss_counts.assign([0, *[10] * STEPS])
    past_losses = np.ones((STEPS + 1, 10)) * np.arange(STEPS + 1)[:, None]
    learned.past_losses.assign(past_losses)
    images = ops.convert_to_tensor(pixels(32))
    state = numpy(learned.seed_generator.state)
    loss, losses = learned.compute_losses(images, training=True)
    learned.seed_generator.state.assign(state)
    learned.past_losses.assign(past_losses)
    learned.loss_counts.assign([0, *[10] * STEPS])
    steps, weights = learned.draw_steps(32, by_importance=True)
    noises = backends.draw(learned, keras.random.normal, images.shape)
    normalized = learned.normalize(images)
    rates = rates_at(steps, learned.alpha_bars, normalized)
    noisy_images = rates[1] * normalized + rates[0] * noises
    pred_noises, pred_images, fractions = learned.predict_step(noisy_images, *rates, training=True)
    arguments = (steps, learned.betas, learned.pixel_range)
    bits = bound_bits(normalized, noises, pred_noises, fractions, *arguments)
    assert numpy(weights).std() > 0.1
    expected = STEPS * np.mean(numpy(weights) * numpy(bits))
    assert float(numpy(loss)) == pytest.approx(expected, rel=1e-4)
    # The reported losses are means over all steps as well, comparable with those of validation.
    for name, target, prediction in (
        ("noise_loss", noises, pred_noises),
        ("image_loss", normalized, pred_images),
    ):
        errors = np.mean((numpy(target) - numpy(prediction)) ** 2, axis=(1, 2, 3))
        expected = np.mean(numpy(weights) * errors)
        assert float(numpy(losses[name])) == pytest.approx(expected, rel=1e-4)


def test_the_last_10_losses_of_each_step_are_remembered(learned):
    for batch in ([3, 5, 3], [3] * 4, [5, 3, 5], [7] * 13):
        start = int(numpy(learned.loss_counts).sum())
        losses = np.arange(start, start + len(batch), dtype="float32")
        learned.remember(ops.convert_to_tensor(batch, dtype="int32"), tensor(losses))
    remembered = numpy(learned.past_losses)
    assert sorted(remembered[3])[-7:] == [0, 2, 3, 4, 5, 6, 8]
    assert sorted(remembered[5])[-3:] == [1, 7, 9]
    assert sorted(remembered[7]) == list(range(13, 23))
    assert numpy(learned.loss_counts)[[3, 5, 7]].tolist() == [7, 3, 13]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")
def test_all_variables_can_be_on_a_gpu(learned):
    """TensorFlow keeps those of int32 on the CPU, out of reach of a step that XLA compiles."""
    assert "int32" not in {variable.dtype for variable in learned.variables}


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["hybrid", "bound"])
def test_training_lowers_the_bound_and_is_resumed_exactly(loss, tmp_path):
    model = new_model(LEARNED)
    model.adapt(pixels(64))
    model.compile(keras.optimizers.Adam(3e-3), loss=loss)
    model.optimizer.build(model.trainable_variables)

    def train(epochs):
        history = model.fit(pixels(64), batch_size=32, epochs=epochs, verbose=0, shuffle=False)
        return history.history["bits_per_dim"]

    first = train(15)
    model.save_weights(tmp_path / "half.weights.h5")
    second = train(15)
    assert np.mean(second[-5:]) < np.mean(first[:5]) - 1
    assert numpy(model.loss_counts)[1:].sum() == (64 * 30 if loss == "bound" else 0)
    past_losses = numpy(model.past_losses)[1:]
    model.load_weights(tmp_path / "half.weights.h5")
    np.testing.assert_allclose(train(15), second, rtol=1e-4)
    np.testing.assert_allclose(numpy(model.past_losses)[1:], past_losses, rtol=1e-3)


def test_a_saved_model_trains_with_the_same_loss(learned, tmp_path):
    learned.compile(keras.optimizers.Adam(1e-3), loss="bound")
    learned.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, LearnedVarianceModel)
    assert loaded.bound_loss == "bound"
    images = pixels(4)
    first, second = (model.generate(2, 3, seed=0) for model in (learned, loaded))
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert bound_terms(loaded, images)["learned"].shape == (STEPS + 1, 4)


def test_ancestral_sampling_with_learned_variances(learned):
    """Of all steps, algorithm 2 line by line; of some, a shorter chain."""
    initial_noise = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype("float32")
    calls = []
    random = keras.random.SeedGenerator(3)
    fresh_noises = [numpy(keras.random.normal((2, 8, 8, 1), seed=random)) for _ in range(STEPS)]
    result = learned.ancestral_sampling(
        learned.compiled_denoise,
        initial_noise,
        np.sqrt(learned.alpha_bars[::-1]),
        callback=lambda step, *_: calls.append(step),
        fresh_noises=fresh_noises,
    )
    assert calls == list(range(STEPS))
    with pytest.raises(InputError, match="fresh_noises has too few"):
        learned.ancestral_sampling(
            learned.compiled_denoise,
            initial_noise,
            np.sqrt(learned.alpha_bars[::-1]),
            fresh_noises=fresh_noises[: STEPS - 2],
        )

    images = tensor(initial_noise)
    posterior = reverse_variances(learned.betas, "small")
    for step in range(STEPS, 0, -1):
        alpha_bar, beta = learned.alpha_bars[step], learned.betas[step]
        rates = rates_at(np.array([step] * 2), learned.alpha_bars, images)
        pred_noises, _, fractions = map(numpy, learned.predict_step(images, *rates, training=False))
        means = (numpy(images) - beta / math.sqrt(1 - alpha_bar) * pred_noises) / math.sqrt(
            1 - beta
        )
        images = means
        if step > 1:
            deviations = np.sqrt(beta**fractions * posterior[step] ** (1 - fractions))
            images = means + deviations * fresh_noises[STEPS - step]
        images = tensor(images)
    np.testing.assert_allclose(numpy(result), numpy(images), rtol=1e-3, atol=1e-3)

    sampler = Sampler(eta=1.0, variance="learned", clip=True)
    generated = learned.generate(3, 4, seed=0, sampler=sampler)
    np.testing.assert_allclose(
        generated, learned.generate(3, 4, seed=0, sampler=sampler, batch_size=1), atol=1e-5
    )
    small = learned.generate(3, 4, seed=0, sampler=Sampler(eta=1.0, clip=True))
    assert np.abs(generated - small).max() > 1e-3
    with pytest.raises(InputError, match="no learned variances"):
        plain_model().generate(1, 4, sampler=sampler)


def test_learned_variances_without_a_class_cost_one_network_call_per_step(learned, monkeypatch):
    def second_call(*_):
        raise AssertionError("the images of this step are predicted already")

    monkeypatch.setitem(vars(learned), "compiled_denoise", second_call)
    sampler = Sampler(eta=1.0, variance="learned")
    assert learned.generate(2, 3, seed=0, sampler=sampler).shape == (2, 8, 8, 1)


def test_bound_of_learned_variances_reports_all_three(learned):
    terms = bound_terms(learned, pixels(5), batch_size=2)
    assert list(terms) == ["small", "large", "learned"]
    for each in terms.values():
        assert each.shape == (STEPS + 1, 5)
        assert np.all(each > -1e-5)
    np.testing.assert_array_equal(terms["small"][-1], terms["learned"][-1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: new_model(LEARNED).compile(loss="mse"), "loss hybrid or bound on the noise"),
        (lambda: new_model(LEARNED).compile(loss_on="image"), "not with hybrid on the image"),
        (lambda: ModelConfig(variance="learned"), "need 2 discrete steps or more"),
        (lambda: RunConfig("", LEARNED, TrainingConfig()), "use them with --preset likelihood"),
        (lambda: RunConfig("", ModelConfig(), TrainingConfig(loss="bound")), "hybrid and bound"),
        (lambda: bound_terms(plain_model(), pixels(1), ["learned"]), "no learned variances"),
        (lambda: bound_terms(plain_model(), pixels(1) / 255), "images of uint8, not of float64"),
        (lambda: flow_bits(plain_model(), pixels(1)), r"rate of this one ends at 0\.31"),
        (lambda: schedule_betas(plain_model(), 1), "at least 2 steps, not 1"),
        (lambda: new_model(LEARNED).ancestral_sampling(None, 0, [0.1, 1.0]), "2 steps or more"),
        (lambda: new_model(LEARNED).ancestral_sampling(None, 0, [0.1, 0.5, 0.9]), "rise to 1"),
        (lambda: Sampler(variance="large"), "give an eta above 0"),
        (lambda: Sampler(eta=0.5, variance="learned"), "need an eta of 1, not 0.5"),
        (lambda: Sampler(eta=1, variance="medium"), "one of small, large, learned, not 'medium'"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def plain_model():
    return DiffusionModel(ModelConfig(network=LEARNED.network))
