"""Floating-point operations of a Keras network, counted from its layers."""

import math
from typing import Any

import keras
from keras import layers

from ddim_keras.network import PatchesToPixels


def forward_flops(network: keras.Model) -> int:
    """Operations of one image's forward pass, two for each multiplication with its addition.

    Counts what `torch.utils.flop_counter` counts in PyTorch networks: convolutions and matrix
    products, without biases, norms and activations, which are below a hundredth of the whole.

    Raises:
        TypeError: for a layer with a matrix of weights that it cannot count.
    """
    return 2 * sum(_multiplications(layer) for layer in network.layers)


def _multiplications(layer: Any) -> int:
    if isinstance(layer, layers.Conv2D | layers.Dense):
        # Every value of an output channel takes the whole kernel of that channel.
        return math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.Conv2DTranspose | PatchesToPixels):
        return math.prod(layer.input.shape[1:-1]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.MultiHeadAttention):
        query, *_ = layer.input
        tokens = query.shape[1]
        projections = sum(math.prod(weight.shape) for weight in layer.weights if weight.ndim == 3)
        return tokens * projections + 2 * tokens**2 * layer.num_heads * layer.key_dim
    matrices = [weight.path for weight in layer.weights if len(weight.shape) > 1]
    if matrices and not isinstance(layer, layers.Embedding):  # whose rows are only looked up
        raise TypeError(f"cannot count the operations of {type(layer).__name__} {matrices[0]}")
    return 0
