"""Muon for convolutional networks: steps that move every direction of a kernel equally far.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/). AdamW scales weights one by one.
Muon replaces the averaged gradient of a kernel, as a matrix, by the nearest one whose singular
values are all 1, so that rare gradient directions are learnt as fast as common ones.
"""

import math
from typing import Any

import keras
from keras import ops

# Kernels with fewer channels read or write pixels; like all other weights, they use AdamW.
FEWEST_CHANNELS = 16
# a, b, c of a s + b s^3 + c s^5, which moves singular values in (0, 1] towards 1 (Jordan et al.),
# and the number of times it is applied:
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


@keras.saving.register_keras_serializable(package="ddim_keras")
class ConvolutionMuon(keras.optimizers.AdamW):
    """Muon for the kernels of convolutions, AdamW for everything else.

    Keras's own `Muon` is for dense layers. Here a kernel (height, width, inputs, outputs) is a
    matrix with a column for each output (for `PatchesToPixels`, for each input). A step has the
    typical size of an AdamW step, root mean square 0.2 times the learning rate (Liu et al. 2025,
    https://arxiv.org/abs/2502.16982, equation 4), so a learning rate and weight decay tuned for
    AdamW can be used.

    Costs 15 matrix products per kernel and step, whatever the batch size.

    Args:
        learning_rate, weight_decay, **kwargs: as for `keras.optimizers.AdamW`.
        momentum: momentum of the averaged gradient of kernels, used instead of `beta_1`.
        product_dtype: dtype of the matrix products, "float32", or "bfloat16", which is faster if
            the processor or GPU has instructions for it.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 1e-4,
        momentum: float = 0.95,
        product_dtype: str = "float32",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.momentum = momentum
        self.product_dtype = product_dtype

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        shape = variable.shape
        if len(shape) != 4 or min(shape[2:]) < FEWEST_CHANNELS:
            super().update_step(gradient, variable, learning_rate)
            return
        average = self._momentums[self._get_variable_index(variable)]
        gradient = ops.cast(gradient, variable.dtype)
        new_average = gradient + self.momentum * (average - gradient)
        self.assign(average, new_average)
        # Nesterov: the average after one more such gradient.
        ahead = gradient + self.momentum * (new_average - gradient)
        inputs = math.prod(shape[:3])
        direction = orthogonalize(ops.reshape(ahead, (inputs, shape[3])), self.product_dtype)
        length = 0.2 * math.sqrt(max(inputs, shape[3])) * ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, length * ops.reshape(direction, shape))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "product_dtype": self.product_dtype,
        }


def orthogonalize(matrix: Any, product_dtype: str = "float32") -> Any:
    """Moves the singular values of a matrix (M, N) to near 1: most of them to 0.7 to 1.2.

    A Newton-Schulz iteration: an odd polynomial of the matrix acts on its singular values. Five
    rounds do not raise relatively tiny values, which random square matrices have, to near 1.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    matrix = ops.transpose(matrix) if is_tall else matrix  # for smaller products
    matrix = ops.cast(matrix / (ops.norm(matrix) + 1e-7), product_dtype)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        squares = matrix @ ops.transpose(matrix)
        matrix = a * matrix + (b * squares + c * squares @ squares) @ matrix
    return ops.cast(ops.transpose(matrix) if is_tall else matrix, "float32")
