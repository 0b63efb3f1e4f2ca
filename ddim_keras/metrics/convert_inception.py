"""FID's Inception v3 for `--kid-weights`, converted from its public PyTorch checkpoint.

    curl -LO https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/\
pt_inception-2015-12-05-6726825d.pth
    python -m ddim_keras.metrics.convert_inception pt_inception-2015-12-05-6726825d.pth \
        --output fid_inception.weights.h5
    python evaluate.py --kid-weights fid_inception.weights.h5

These are Google's weights of 2015-12-05, on which FID (Heusel et al. 2017) and KID (Binkowski et
al. 2018) are defined. The layers up to Keras's `mixed7`, pytorch-fid's `Mixed_6e`, are converted;
the last block of that network, `Mixed_7c`, uses another pooling than Keras's. The 768 features are
those of pytorch-fid's `--dims 768`, for images of 75 px instead of 299.

Needs PyTorch 2.10 or later, with any Keras backend. A checkpoint is a pickle, which can run code:
this one is read only if its SHA-256 is the published one, and only as arrays.
"""

import argparse
import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddim_keras.atomic import written_whole
from ddim_keras.cli.options import add_backend_option
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
TORCH_VERSION = (2, 10)

# The convolutions of each kind of block, in the order in which Keras makes them.
STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
DOUBLE_3X3 = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
BLOCK_5X5 = ("branch1x1", "branch5x5_1", "branch5x5_2", *DOUBLE_3X3, "branch_pool")
BLOCK_SMALLER = ("branch3x3", *DOUBLE_3X3)
BLOCK_7X7 = (
    "branch1x1",
    *(f"branch7x7_{number}" for number in range(1, 4)),
    *(f"branch7x7dbl_{number}" for number in range(1, 6)),
    "branch_pool",
)
BLOCKS = {
    **dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), BLOCK_5X5),
    "Mixed_6a": BLOCK_SMALLER,
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), BLOCK_7X7),
}


def convolution_names() -> Iterator[str]:
    """Names of the convolutions up to `Mixed_6e` in the checkpoint, in Keras's order."""
    yield from STEM
    for block, convolutions in BLOCKS.items():
        for convolution in convolutions:
            yield f"{block}.{convolution}"


def convert(checkpoint: Path, output: Path) -> None:
    """Writes the weights of the checkpoint as `encoders.inception_encoder` reads them.

    Raises:
        InputError: if the file is not the published one, or PyTorch is missing or too old.
    """
    from ddim_keras.metrics.encoders import FID_LAYER, inception_network

    if not output.name.endswith(".weights.h5"):
        raise InputError(f"--output must end in .weights.h5, not {output.name!r}")
    arrays = read_checkpoint(checkpoint)
    network = inception_network(None, FID_LAYER)
    weights = [
        weight
        for convolution, norm in _convolutions(network)
        for weight in (*convolution.weights, *norm.weights)
    ]
    values = itertools.chain(*(keras_values(arrays, name) for name in convolution_names()))
    for weight, value in zip(weights, values, strict=True):
        weight.assign(value)
    with written_whole(output) as part:
        network.save_weights(part)


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the published checkpoint by name, after checking its hash."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise InputError(
            f"{path} is not the published checkpoint: its SHA-256 is {found}, not {SHA256}; "
            "download it again"
        )
    try:
        import torch
    except ImportError as error:
        raise InputError('reading it needs PyTorch: pip install "torch>=2.10"') from error
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    if version < TORCH_VERSION:
        raise InputError(
            f'PyTorch {torch.__version__} reads pickles less safely: pip install "torch>=2.10"'
        )
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def keras_values(arrays: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    """A convolution and its batch norm in Keras's layout: kernel, offset, mean and variance.

    Keras's batch norm has no scale here; the kernel and the mean are multiplied by it instead.
    """
    kernel = arrays[f"{name}.conv.weight"].transpose(2, 3, 1, 0)  # (height, width, in, out)
    scale, offset, mean, variance = (
        arrays[f"{name}.bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return [kernel * scale, offset, mean * scale, variance]


def _convolutions(network: Any) -> Iterator[tuple[Any, Any]]:
    """The convolutions of a Keras Inception v3 and their batch norms, in order of creation.

    A network lists its layers by depth instead. The number in a layer's name gives the order.
    """
    import keras

    def in_order(kind: type) -> list[Any]:
        found = [layer for layer in network.layers if isinstance(layer, kind)]
        return sorted(found, key=lambda layer: int((re.findall(r"_(\d+)$", layer.name) or [0])[0]))

    return zip(
        in_order(keras.layers.Conv2D), in_order(keras.layers.BatchNormalization), strict=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="FILE", help="the downloaded .pth file")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        default=Path("fid_inception.weights.h5"),
        help="file to write (default: fid_inception.weights.h5)",
    )
    add_backend_option(parser)
    arguments = parser.parse_args()
    choose_backend(arguments.backend)
    import_keras()
    convert(arguments.checkpoint, arguments.output)
    print(f"wrote {arguments.output}, for --kid-weights {arguments.output}")


if __name__ == "__main__":
    run_command(main)
