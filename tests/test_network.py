import keras
import numpy as np
import pytest
from keras import layers, ops

from ddim_keras import InputError, NetworkConfig, SinusoidalEmbedding, residual_unet
from ddim_keras.network import GroupNorm, PatchesToPixels, SeededDropout

TINY = NetworkConfig(image_size=8, widths=(8, 16), depths=(1, 1))
TINY_ADAPTIVE = NetworkConfig(
    image_size=16,
    widths=(8, 16),
    depths=(1, 2),
    block="adaptive",
    attention_sizes=(4,),
    patch_size=2,
)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def randomise(network):
    for weight in network.trainable_weights:
        weight.assign(0.3 * numbers(*weight.shape))


def test_the_lab_network_has_the_parameters_of_the_keras_example():
    network = residual_unet(NetworkConfig())
    assert sum(np.prod(weight.shape) for weight in network.trainable_weights) == 1_950_627
    assert sum(np.prod(weight.shape) for weight in network.non_trainable_weights) == 2_880


@pytest.mark.parametrize("config", [TINY, TINY_ADAPTIVE])
def test_the_initial_prediction_is_zero(config):
    size = config.image_size
    output = residual_unet(config)([numbers(2, size, size, 3), np.full((2, 1, 1, 1), 0.5, "f4")])
    assert output.shape == (2, size, size, 3)
    assert np.all(ops.convert_to_numpy(output) == 0)


@pytest.mark.parametrize("config", [TINY, TINY_ADAPTIVE])
def test_the_noise_variance_reaches_the_prediction(config):
    network = residual_unet(config)
    randomise(network)
    images = numbers(1, config.image_size, config.image_size, 3)
    low, high = (
        ops.convert_to_numpy(network([images, np.full((1, 1, 1, 1), variance, "float32")]))
        for variance in (0.3, 0.31)
    )
    assert np.abs(low - high).max() > 1e-3


def test_grey_images_and_other_sizes():
    network = residual_unet(NetworkConfig(image_size=28, channels=1, widths=(8, 8), depths=(1, 1)))
    output = network([numbers(3, 28, 28, 1), np.ones((3, 1, 1, 1), "float32")])
    assert output.shape == (3, 28, 28, 1)


@pytest.mark.parametrize("block", ["plain", "adaptive"])
@pytest.mark.parametrize("image_size", [6, 7, 28])
def test_sizes_that_do_not_fit_the_levels_get_a_margin(block, image_size):
    config = NetworkConfig(
        image_size=image_size,
        channels=1,
        widths=(8, 8, 8),
        depths=(1, 1, 1),
        block=block,
        patch_size=2 if block == "adaptive" else 1,
    )
    network = residual_unet(config)
    randomise(network)
    images = numbers(2, image_size, image_size, 1)
    output = network([images, np.full((2, 1, 1, 1), 0.5, "float32")])
    assert output.shape == images.shape
    assert all(np.abs(ops.convert_to_numpy(output)[:, edge]).max() > 0 for edge in (0, -1))


def test_a_size_that_fits_has_no_margin():
    assert NetworkConfig(image_size=64).margin == (0, 0)
    assert NetworkConfig(image_size=28).margin == (2, 2)
    assert NetworkConfig(image_size=63).margin == (0, 1)


def test_feature_sizes_are_those_of_the_levels():
    config = NetworkConfig(
        image_size=28, widths=(8, 16, 24), depths=(1, 1, 1), block="adaptive", patch_size=2
    )
    assert config.feature_sizes == (16, 8, 4)  # of 32 pixels with the margin
    shapes = {
        layer.output.shape[1] for layer in residual_unet(config).layers if "norm" in layer.name
    }
    assert shapes >= {16, 8, 4}
    assert NetworkConfig().feature_sizes == (64, 32, 16, 8)


def test_embedding_is_sines_then_cosines_of_geometric_frequencies():
    layer = SinusoidalEmbedding(dims=6, min_frequency=1.0, max_frequency=100.0)
    variances = np.array([0.0, 0.1, 0.77], "float32").reshape(3, 1, 1, 1)
    angles = 2 * np.pi * np.array([1.0, 10.0, 100.0]) * variances
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(variances)), expected, atol=2e-4)


def test_embedding_round_trips_through_its_config():
    layer = SinusoidalEmbedding(dims=10, min_frequency=2.0, max_frequency=50.0)
    copy = SinusoidalEmbedding.from_config(layer.get_config())
    variances = np.full((1, 1, 1, 1), 0.4, "float32")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(layer(variances)), ops.convert_to_numpy(copy(variances))
    )


@pytest.mark.parametrize("dims", [0, 7])
def test_embedding_refuses_odd_dims(dims):
    with pytest.raises(ValueError, match="even"):
        SinusoidalEmbedding(dims=dims)


@pytest.mark.parametrize("config", [TINY, TINY_ADAPTIVE])
def test_half_precision_keeps_embedding_and_output_in_float32(config):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = residual_unet(config)
    finally:
        keras.config.set_dtype_policy(policy)
    embedding = next(x for x in network.layers if isinstance(x, SinusoidalEmbedding))
    assert embedding.compute_dtype == "float32"
    assert keras.backend.standardize_dtype(network.output.dtype) == "float32"
    assert any(x.compute_dtype == "bfloat16" for x in network.layers)

    # Neighbouring variances that bfloat16 cannot tell apart must arrive at the embedding unequal.
    probe = keras.Model(network.inputs, embedding.output)
    images = numbers(1, config.image_size, config.image_size, 3)
    near, nearer = (
        ops.convert_to_numpy(probe([images, np.full((1, 1, 1, 1), variance, "float32")]))
        for variance in (0.9990, 0.9991)
    )
    assert np.abs(near - nearer).max() > 0.1


def test_dropout_keeps_the_mean_in_training_and_everything_otherwise():
    dropout = SeededDropout(0.25)
    ones = np.ones((100, 100), "float32")
    first, second = (ops.convert_to_numpy(dropout(ones, training=True)) for _ in range(2))
    assert {*np.unique(first)} == {0.0, np.float32(1 / 0.75)}
    assert first.mean() == pytest.approx(1, abs=0.03)
    assert np.any(first != second)
    np.testing.assert_array_equal(dropout(ones, training=False), ones)


def test_blocks_drop_features_in_training_alone():
    config = NetworkConfig(image_size=8, widths=(8,), depths=(1,), block="adaptive", dropout=0.5)
    network = residual_unet(config)
    randomise(network)
    inputs = [numbers(1, 8, 8, 3), np.full((1, 1, 1, 1), 0.3, "float32")]
    calls = {
        training: [ops.convert_to_numpy(network(inputs, training=training)) for _ in range(2)]
        for training in (False, True)
    }
    np.testing.assert_array_equal(*calls[False])
    assert np.abs(calls[True][0] - calls[True][1]).max() > 1e-2


def test_bad_architectures_are_refused():
    with pytest.raises(InputError, match="one entry for each of"):
        NetworkConfig(widths=(32, 64), depths=(2,))
    with pytest.raises(InputError, match="block must be one of"):
        NetworkConfig(block="fancy")
    with pytest.raises(InputError, match="divisible by 8"):
        NetworkConfig(block="adaptive", widths=(12, 16), depths=(1, 1))
    for fields in ({"dropout": 0.1}, {"resampling": "block"}):
        with pytest.raises(InputError, match="need the adaptive block"):
            NetworkConfig(**fields)
    with pytest.raises(InputError, match=r"dropout must be in \[0, 1\), not 1"):
        NetworkConfig(block="adaptive", dropout=1.0)


def test_group_norm_is_that_of_keras():
    random = np.random.default_rng(0)
    features = (3 + 2 * random.standard_normal((2, 5, 4, 16))).astype("float32")
    ours, reference = GroupNorm(groups=4), layers.GroupNormalization(groups=4)
    scale, shift = random.standard_normal((2, 16)).astype("float32")
    for layer in (ours, reference):
        layer.build(features.shape)
        layer.set_weights([scale, shift])
    expected = ops.convert_to_numpy(reference(features))
    np.testing.assert_allclose(ops.convert_to_numpy(ours(features)), expected, atol=2e-5)
    given = GroupNorm(groups=4, learned=False)
    assert not given.weights
    actual = given(features, scale.reshape(1, 1, 1, 16), shift.reshape(1, 1, 1, 16))
    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, atol=2e-5)


def test_group_norm_takes_a_scale_for_each_image():
    features = np.random.default_rng(0).standard_normal((2, 4, 4, 8)).astype("float32")
    scale = np.stack([np.ones((1, 1, 8)), np.full((1, 1, 8), 3.0)]).astype("float32")
    layer = GroupNorm(groups=2, learned=False)
    tripled = ops.convert_to_numpy(layer(features, scale, 0 * scale))
    plain = ops.convert_to_numpy(layer(features, np.ones_like(scale), 0 * scale))
    np.testing.assert_allclose(tripled[0], plain[0], atol=1e-6)
    np.testing.assert_allclose(tripled[1], 3 * plain[1], rtol=1e-5)


def test_group_norm_in_bfloat16_computes_statistics_in_float32():
    # Far from zero: a mean of squares in bfloat16 would leave no variance.
    features = (30 + np.random.default_rng(0).standard_normal((1, 16, 16, 8))).astype("float32")
    layer = GroupNorm(groups=2, dtype="mixed_bfloat16")
    normalized = np.asarray(ops.convert_to_numpy(ops.cast(layer(features), "float32")))
    assert normalized.std() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("patch_size", [2, 3])
def test_patches_become_pixels_as_by_a_transposed_convolution(patch_size):
    convolution = layers.Conv2DTranspose(5, kernel_size=patch_size, strides=patch_size)
    layer = PatchesToPixels(5, patch_size)
    patches = np.random.default_rng(0).normal(size=(2, 4, 3, 7)).astype("float32")
    expected = convolution(patches)
    assert layer(patches).shape == expected.shape == (2, 4 * patch_size, 3 * patch_size, 5)
    bias = np.arange(5.0)
    convolution.set_weights([convolution.get_weights()[0], bias])
    layer.set_weights(convolution.get_weights())
    expected = ops.convert_to_numpy(convolution(patches))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(patches)), expected, atol=1e-5)
    assert layer.compute_output_shape((None, 4, 3, 7)) == (None, *expected.shape[1:])
