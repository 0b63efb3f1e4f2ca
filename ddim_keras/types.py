"""Types used in many signatures: tensors, and the functions that samplers call."""

from typing import Any, Protocol, TypeAlias

# A tensor of the Keras backend in use, or a NumPy array; `keras.ops` accept both. TensorFlow, JAX
# and PyTorch have no common tensor type.
Tensor: TypeAlias = Any


class Denoise(Protocol):
    """Splits noisy images into noise and image, such as `DiffusionModel.compiled_denoise`."""

    def __call__(
        self, noisy_images: Tensor, noise_rates: Tensor, signal_rates: Tensor, /
    ) -> tuple[Tensor, Tensor]:
        """Returns `pred_noises, pred_images`, both of the shape of `noisy_images`, (B, H, W, C).

        The rates have the shape (B, 1, 1, 1).
        """


class Callback(Protocol):
    """Is called in each sampling step with the noisy and the predicted images."""

    def __call__(self, step: int, noisy_images: Tensor, pred_images: Tensor, /) -> None:
        """Takes the number of the step, from 0, and images (B, H, W, C), normalised."""
