"""Sends an image as a small file, and receives it: algorithms 3 and 4 of Ho et al. 2020.

    python examples/codec.py send photo.png photo.bits
    python examples/codec.py receive photo.bits photo.png

Sender and receiver run the same reverse process (https://arxiv.org/abs/2006.11239, section 4.3).
Its noises are chosen so that it leads to the image, and sent by `channel_coding.py`. A truncated
file gives a coarser image. Both sides need the mean KL of each step of the model, in codec.json,
measured on training images by

    python examples/codec.py table
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import channel_coding as coding
import numpy as np

from ddim_keras.atomic import written_whole
from ddim_keras.cli.options import add_backend_option, add_data_options, at_least
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError
from ddim_keras.runs.folder import find_run, load_model
from ddim_keras.runs.manifest import sha256

FORMAT = bytes([1])  # first byte of a file; 4 bytes of the table's hash follow
LEVELS = 50  # levels sent, uniform in time, up to the cleanest that the model was trained on
IMAGES = 64  # of the training data, for the table
TABLE = Path(__file__).with_name("codec.json")
CHANGES = (0, 1, -1, 2, -2, 3, -3, 4, -4)  # of an image's scale, in quarters of an octave
CHANGE_WEIGHTS = [64, 16, 16, 4, 4, 1, 1, 1, 1]  # how frequent they are

Level = tuple[int, list[int]]  # the change of scale, and the number of each chunk


@dataclass(frozen=True)
class Table:
    """The statistics of a model that both sides need."""

    model: str  # SHA-256 of the weights
    signal_rates: list[float]  # of the levels, rising
    kl_bits: list[float]  # of the step to each level, mean over images

    @property
    def header(self) -> bytes:
        """The first bytes of every file sent with this table."""
        return FORMAT + hashlib.sha256(json.dumps(asdict(self)).encode()).digest()[:4]

    def chunks(self, step: int, scale: int) -> int:
        """Chunks of a step for an image of 2**(scale / 4) times the mean KL."""
        return coding.number_of_chunks(self.kl_bits[step] * 2 ** (scale / 4))

    def change(self, step: int, scale: int, bits: float) -> int:
        """The most frequent change of scale that comes closest to the chunks for a KL."""
        wanted = coding.number_of_chunks(bits)
        return min(CHANGES, key=lambda change: abs(self.chunks(step, scale + change) - wanted))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("command", choices=("send", "receive", "table"), help="what to do, see above")
    add("source", type=Path, nargs="?", help="file to read")
    add("target", type=Path, nargs="?", help="file to write, .bits or .png")
    add("--steps", type=at_least(1), metavar="N", default=10, help="last, of DDIM (default: 10)")
    add("--run", metavar="RUN", default="flowers", help="run, as in generate.py (default: flowers)")
    add("--table", type=Path, metavar="FILE", default=TABLE, help="table (examples/codec.json)")
    add_data_options(parser, "that of the run")
    add_backend_option(parser)
    arguments = parser.parse_args()
    suffix = {"send": ".bits", "receive": ".png", "table": None}[arguments.command]
    if suffix and (arguments.target is None or arguments.target.suffix.lower() != suffix):
        raise InputError(f"give a file to read, and one to write that ends in {suffix}")
    run = find_run(arguments.run)
    config, weights = run.read_config(), run.weights_to_show()
    digest = sha256(weights)
    table = read_table(arguments.table, digest) if suffix else None
    choose_backend(arguments.backend)
    import_keras()  # only now: --help needs none, and the backend had to be chosen
    from PIL import Image

    from ddim_keras.data.cache import load_dataset
    from ddim_keras.data.images import load_image

    model, network = load_model(weights), config.model.network
    if arguments.command == "send":
        image = load_image(arguments.source, network.image_size, network.channels)
        data, bits, shift = send(model, image, table)
        with written_whole(arguments.target) as part:
            part.write_bytes(data)
        print(f"{len(data)} bytes for {bits:.0f} bits of KL, with {shift:.1%} of the mean shift")
    elif arguments.command == "receive":
        levels = decode(arguments.source.read_bytes(), table)
        if not levels:
            raise InputError(f"{arguments.source} was truncated within its first level")
        image = Image.fromarray(receive(model, levels, table, arguments.steps).squeeze())
        with written_whole(arguments.target) as part:
            image.save(part)
        print(f"{len(levels)} of {len(table.signal_rates)} levels")
    else:
        data_dir = arguments.data_dir or config.data_dir
        dataset = load_dataset(config.dataset, network.image_size, data_dir, arguments.cache_dir)
        table = measure(model, digest, dataset.train_images)
        with written_whole(arguments.table) as part:
            part.write_text(json.dumps(asdict(table), indent=2) + "\n")
        print(f"{arguments.table}: {sum(table.kl_bits):.0f} bits of KL an image")


def read_table(path: Path, digest: str) -> Table:
    """Reads codec.json; raises InputError if it is missing, broken, or for another model."""
    try:
        table = Table(**json.loads(path.read_text()))
        if not all(0 < x < 1 for x in table.signal_rates) or not all(x > 0 for x in table.kl_bits):
            raise ValueError("its numbers are out of range")
        if table.model != digest:
            raise ValueError("it is of another model; measure yours with codec.py table")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"the table {path} cannot be used: {error}") from error
    return table


def follow(model: Any, signal_rates: list[float], noises_of: Callable[..., Any]) -> np.ndarray:
    """Ancestral sampling with given noises: the noisy images (N, H, W, C) of the last level.

    Args:
        noises_of: called in each step as `noises_of(step, pred_images, gain)`. Here `gain` times
            (images - pred_images) is the shift of q from p, in standard deviations.
    """
    from keras import ops

    # At first there is no signal, and the best prediction is the mean.
    shape = (1, *model.network.output_shape[1:])
    noisy_images = pred_noises = pred_images = np.zeros(shape, "float32")
    for step, (rate, next_rate) in enumerate(itertools.pairwise([0.0, *signal_rates])):
        if step:
            rates = np.full((2, len(noisy_images), 1, 1, 1), rate, "float32")
            rates[0] = math.sqrt(1 - rate**2)
            tensors = map(ops.convert_to_tensor, (noisy_images, *rates))
            pred_noises, pred_images = map(ops.convert_to_numpy, model.compiled_denoise(*tensors))
        snr, next_snr = (signal_rate**2 / (1 - signal_rate**2) for signal_rate in (rate, next_rate))
        kept = math.sqrt(snr / next_snr)
        noises = noises_of(step, pred_images, math.sqrt(next_snr - snr))
        noises = kept * pred_noises + math.sqrt(1 - kept**2) * noises
        noisy_images = next_rate * pred_images + math.sqrt(1 - next_rate**2) * noises
    return noisy_images


def send(model: Any, image: np.ndarray, table: Table) -> tuple[bytes, float, float]:
    """Algorithm 3, for an image (H, W, C) uint8.

    Returns:
        The file, its KL in bits, and the share of the mean shifts of q from p that was reached.
    """
    from keras import ops

    image = ops.convert_to_numpy(model.normalize(image[None]))
    levels, random, scale, all_means, all_noises = [], np.random.default_rng(0), 0, [], []

    def noises_of(step: int, pred_images: np.ndarray, gain: float) -> np.ndarray:
        nonlocal scale
        means = gain * (image - pred_images).ravel()
        change = table.change(step, scale, coding.divergence(means))
        scale += change
        numbers = coding.choose_numbers(step, means, table.chunks(step, scale), random)
        noises = coding.chosen_values(step, means.size, numbers)
        levels.append((change, numbers))
        all_means.append(means)
        all_noises.append(noises)
        return noises.reshape(image.shape)

    follow(model, table.signal_rates, noises_of)
    squares, products = (np.vdot(all_means, other) for other in (all_means, all_noises))
    return encode(levels, table), coding.divergence(all_means), products / squares


def receive(model: Any, levels: list[Level], table: Table, steps: int) -> np.ndarray:
    """Algorithm 4, and at the end DDIM in at most `steps` calls: an image (H, W, C) uint8."""
    from keras import ops

    from ddim_keras.samplers import ddim

    shape = (1, *model.network.output_shape[1:])
    rates, left = table.signal_rates[: len(levels)], table.signal_rates[len(levels) - 1 :]

    def noises_of(step: int, *_: Any) -> np.ndarray:
        return coding.chosen_values(step, math.prod(shape), levels[step][1]).reshape(shape)

    noisy_images = follow(model, rates, noises_of)
    chosen = np.linspace(0, len(left) - 1, min(steps, len(left))).round().astype(int)
    images = ddim(model.compiled_denoise, noisy_images, [*(left[i] for i in chosen), 1.0])
    return np.rint(255 * ops.convert_to_numpy(model.denormalize(images)[0])).astype("uint8")


def encode(levels: list[Level], table: Table) -> bytes:
    """The file: a header, and for each level its change of scale and the numbers."""
    writer = coding.Writer()
    for change, numbers in levels:
        writer.write(CHANGE_WEIGHTS, CHANGES.index(change))
        for number in numbers:
            writer.write_number(number)
    return table.header + writer.to_bytes()


def decode(data: bytes, table: Table) -> list[Level]:
    """Inverse of `encode`; for a truncated file, its complete levels."""
    if data[:1] != FORMAT:
        raise InputError("the file was not written by codec.py send")
    if not data.startswith(table.header):
        raise InputError("the file was sent with another model or table; receive it with those")
    levels, scale, reader = [], 0, coding.Reader(data.removeprefix(table.header))
    with contextlib.suppress(EOFError):
        for step in range(len(table.signal_rates)):
            change = CHANGES[reader.read(CHANGE_WEIGHTS)]
            scale += change
            numbers = [reader.read_number() for _ in range(table.chunks(step, scale))]
            levels.append((change, numbers))
    return levels


def measure(model: Any, digest: str, images: np.ndarray) -> Table:
    """Follows the true reverse process of some images (N, H, W, C) uint8; the KL of its steps."""
    from keras import ops

    random, kl_bits = np.random.default_rng(0), []
    images = ops.convert_to_numpy(model.normalize(images[random.permutation(len(images))[:IMAGES]]))

    def noises_of(step: int, pred_images: np.ndarray, gain: float) -> np.ndarray:
        means = gain * (images - pred_images)
        kl_bits.append(coding.divergence(means) / len(images))
        return means + random.standard_normal(means.shape, "float32")

    times = np.linspace(1, 0, LEVELS, dtype="float32")
    signal_rates = ops.convert_to_numpy(model.diffusion_schedule(times)[1]).tolist()
    follow(model, signal_rates, noises_of)
    return Table(digest, signal_rates, kl_bits)


if __name__ == "__main__":
    run_command(main)
