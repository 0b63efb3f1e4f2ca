"""Muon: singular values of its steps, which weights it takes, and that it minimises."""

import keras
import numpy as np
import pytest
from keras import ops

from ddim_keras.training.muon import ConvolutionMuon, orthogonalize


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(16, 16), (144, 32), (16, 40)])
def test_orthogonalize_makes_singular_values_alike(shape, dtype):
    matrix = np.random.default_rng(0).standard_normal(shape).astype("float32")
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    result = ops.convert_to_numpy(orthogonalize(ops.convert_to_tensor(matrix), dtype))
    assert result.dtype == "float32"
    values = np.linalg.svd(result, compute_uv=False)
    assert values.min() > 0.6
    assert values.max() < 1.3
    # The same directions, so that the product with the nearest orthogonal matrix is near 1.
    np.testing.assert_allclose(np.diag(left.T @ result @ right.T), 1.0, atol=0.4)


def first_step(shape, **options):
    variable = keras.Variable(np.zeros(shape, "float32"))
    gradient = np.random.default_rng(1).standard_normal(shape).astype("float32")
    optimizer = ConvolutionMuon(0.1, weight_decay=0.0, **options)
    optimizer.build([variable])
    optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
    return -ops.convert_to_numpy(variable), gradient


@pytest.mark.parametrize("shape", [(3, 3, 16, 24), (1, 1, 16, 24)])  # tall and wide matrices
def test_step_of_a_kernel_is_orthogonal_and_as_long_as_those_of_adamw(shape):
    step, _ = first_step(shape)
    values = np.linalg.svd(step.reshape(-1, 24), compute_uv=False)
    assert values.max() / values.min() < 2
    assert np.sqrt(np.mean(step**2)) == pytest.approx(0.2 * 0.1, rel=0.2)


def test_products_are_as_precise_as_asked_for():
    exact, rounded = (
        first_step((1, 1, 16, 24), product_dtype=dtype)[0] for dtype in ("float32", "bfloat16")
    )
    assert 1e-5 < np.abs(exact - rounded).max() < 0.1 * np.abs(exact).max()


def test_second_step_looks_ahead_along_the_average_and_decays():
    momentum, decay, rate = 0.8, 0.5, 0.1
    random = np.random.default_rng(3)
    first, second = random.standard_normal((2, 1, 1, 16, 16)).astype("float32")
    variable = keras.Variable(np.ones((1, 1, 16, 16), "float32"))
    optimizer = ConvolutionMuon(rate, weight_decay=decay, momentum=momentum)
    optimizer.build([variable])
    values = [ops.convert_to_numpy(variable)]
    for gradient in (first, second):
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
        values.append(ops.convert_to_numpy(variable))
    averages = [(1 - momentum) * first]
    averages.append(momentum * averages[0] + (1 - momentum) * second)
    for gradient, average, before, after in zip(
        (first, second), averages, values[:-1], values[1:], strict=True
    ):
        ahead = momentum * average + (1 - momentum) * gradient
        direction = ops.convert_to_numpy(orthogonalize(ops.convert_to_tensor(ahead[0, 0])))
        step = 0.2 * 4 * rate * direction
        np.testing.assert_allclose(after[0, 0], (1 - rate * decay) * before[0, 0] - step, atol=1e-3)


def test_step_does_not_depend_on_the_scale_of_the_gradient():
    variable, scaled = (keras.Variable(np.zeros((1, 1, 16, 16), "float32")) for _ in range(2))
    gradient = np.random.default_rng(2).standard_normal((1, 1, 16, 16)).astype("float32")
    for weights, factor in ((variable, 1.0), (scaled, 100.0)):
        optimizer = ConvolutionMuon(0.1, weight_decay=0.0)
        optimizer.build([weights])
        optimizer.apply([ops.convert_to_tensor(factor * gradient)], [weights])
    difference = ops.convert_to_numpy(variable) - ops.convert_to_numpy(scaled)
    np.testing.assert_allclose(difference, 0.0, atol=1e-5)


@pytest.mark.parametrize("shape", [(24,), (16, 24), (3, 3, 3, 24), (3, 3, 24, 3)])
def test_everything_else_goes_with_adamw(shape):
    step, gradient = first_step(shape)
    # The first step of Adam: the sign of the gradient, as long as the learning rate.
    np.testing.assert_allclose(step, 0.1 * np.sign(gradient), atol=5e-3)


def test_learns_rare_directions_of_a_convolution_faster_than_adamw():
    random = np.random.default_rng(0)
    # Directions that differ in size by up to 100, none of which is a channel.
    mixing, _ = np.linalg.qr(random.standard_normal((16, 16)))
    covariance = mixing.T @ np.diag(np.geomspace(1, 0.01, 16) ** 2) @ mixing
    target = random.standard_normal((16, 16))
    errors = {}
    for optimizer_class in (ConvolutionMuon, keras.optimizers.AdamW):
        kernel = keras.Variable(np.zeros((1, 1, 16, 16), "float32"))
        decay = keras.optimizers.schedules.CosineDecay(0.3, 200)
        optimizer = optimizer_class(decay, weight_decay=0.0)
        optimizer.build([kernel])
        for _ in range(200):
            gradient = covariance @ (ops.convert_to_numpy(kernel)[0, 0] - target)
            optimizer.apply([ops.convert_to_tensor(gradient[None, None], "float32")], [kernel])
        difference = ops.convert_to_numpy(kernel)[0, 0] - target
        errors[optimizer_class] = np.sqrt(np.mean(difference**2))
    assert errors[ConvolutionMuon] < 0.5 * errors[keras.optimizers.AdamW]


def test_is_saved_and_rebuilt():
    optimizer = keras.optimizers.deserialize(
        keras.optimizers.serialize(ConvolutionMuon(0.3, weight_decay=0.1, momentum=0.8))
    )
    assert isinstance(optimizer, ConvolutionMuon)
    assert optimizer.momentum == 0.8
    assert optimizer.weight_decay == 0.1
