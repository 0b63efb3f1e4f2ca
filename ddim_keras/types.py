"""Types that many signatures name: tensors, and the functions that samplers call."""

from typing import Any, Protocol, TypeAlias

# A tensor of the Keras backend in use, or a NumPy array, which `keras.ops` take alike. There is no
# common type of TensorFlow, JAX and PyTorch to name instead.
Tensor: TypeAlias = Any


class Denoise(Protocol):
    """Splits noisy images into their two parts; `DiffusionModel.compiled_denoise`, for example."""

    def __call__(
        self, noisy_images: Tensor, noise_rates: Tensor, signal_rates: Tensor, /
    ) -> tuple[Tensor, Tensor]:
        """Returns `pred_noises, pred_images`, both of the shape of `noisy_images`, (B, H, W, C).

        The rates have the shape (B, 1, 1, 1).
        """


class Callback(Protocol):
    """Is called in each step of a reverse process, with what it has at that moment."""

    def __call__(self, step: int, noisy_images: Tensor, pred_images: Tensor, /) -> None:
        """Takes the number of the step, from 0 on, and images (B, H, W, C), normalised."""
