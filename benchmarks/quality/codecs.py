"""Compares examples/codec.py with JPEG, WebP and AVIF at equal bytes, on validation images.

    python -m benchmarks.quality.codecs

Measures codec.json first if it is of other weights. For each image, the other codecs get the best
of their qualities whose file is no larger than ours or, if there is none, their smallest file. The
distance is that of Inception's features from those of the original, as a share of the distance
between two images. A picture shows flowers that are not photographs: one that the model generated,
and one of the drawn flowers, which it has never seen.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import codec

from ddim_keras.atomic import written_whole
from ddim_keras.cli.options import (
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    at_least,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError
from ddim_keras.runs.folder import PRETRAINED, Run, load_model
from ddim_keras.runs.manifest import sha256

OTHERS = {"JPEG": {"optimize": True}, "WebP": {"method": 6}, "AVIF": {"speed": 4}}
QUALITIES = range(0, 100, 3)
SHARES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.15)  # of a whole file of ours
SHOWN_SHARES = (1.0, 0.5, 0.25)
STEPS = 10  # of DDIM, at the end
SUMMARISED = {
    "cost": "bits for each bit of KL",
    "shift": "share of the mean shifts",
    "cpu_seconds": "CPU seconds to send an image",
    "wall_seconds": "seconds to send an image",
}
CURVE_STRIDE = 4  # of QUALITIES, for the curves


@dataclass(frozen=True)
class File:
    """An image after a codec."""

    size: int  # bytes
    image: np.ndarray  # (H, W, C) uint8
    psnr: float  # decibels


def file_of(size: int, image: np.ndarray, original: np.ndarray) -> File:
    """Measures a decoded image."""
    error = np.mean((image.astype("float64") - original) ** 2)
    return File(size, image, float(10 * np.log10(255**2 / max(error, 1e-9))))


def other_files(image: np.ndarray, codec_name: str) -> list[File]:
    """The image in each of QUALITIES of another codec."""
    files = []
    for quality in QUALITIES:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, codec_name, quality=quality, **OTHERS[codec_name])
        decoded = np.asarray(Image.open(buffer).convert("RGB"))
        files.append(file_of(len(buffer.getvalue()), decoded, image))
    return files


def best_within(files: list[File], size: int) -> File:
    """The file of the highest PSNR among those no larger than `size`, else the smallest file."""
    fitting = [file for file in files if file.size <= size]
    return max(fitting, key=lambda file: file.psnr) if fitting else min(files, key=lambda f: f.size)


def size_for(files: list[File], psnr: float) -> float:
    """The size of the smallest file that reaches a PSNR, NaN if there is none."""
    return min((file.size for file in files if file.psnr >= psnr), default=np.nan)


@dataclass(frozen=True)
class Result:
    """All files of one image, and what sending it took."""

    ours: list[File]  # one for each of SHARES
    others: dict[str, list[File]]  # one for each of QUALITIES
    cost: float  # bits of the whole file for each bit of KL
    shift: float  # share of the mean shifts that was reached
    cpu_seconds: float
    wall_seconds: float

    @property
    def summary(self) -> str:
        whole = self.ours[0]
        return (
            f"{whole.size} bytes, {whole.psnr:.2f} dB, {self.cost:.2f} bits per bit of KL, "
            f"{self.shift:.1%} of the shift, {self.cpu_seconds:.1f} CPU seconds"
        )


def measured(model: Any, image: np.ndarray, table: codec.Table) -> Result:
    """Sends an image, receives starts of its file, and gives it to the other codecs."""
    wall, cpu = time.perf_counter(), time.process_time()
    data, bits, shift = codec.send(model, image, table)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ours = []
    for share in SHARES:
        start = data[: round(share * len(data))]
        decoded = codec.receive(model, codec.decode(start, table), table, STEPS)
        ours.append(file_of(len(start), decoded, image))
    others = {name: other_files(image, name) for name in OTHERS}
    return Result(ours, others, 8 * len(data) / bits, float(shift), cpu, wall)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--num-images", type=at_least(1), metavar="N", default=20, help="photographs (20)")
    add("--run", type=Path, metavar="DIR", default=PRETRAINED, help="run folder of the model")
    add("--table", type=Path, metavar="FILE", default=codec.TABLE, help="of codec.py (codec.json)")
    add("--seed", type=at_least(0), metavar="N", default=0, help="of the flower shown (0)")
    add("--output", type=Path, metavar="FILE", default=Path("codec.png"), help="(%(default)s)")
    add_data_options(parser, "that of the run")
    add_kid_weights_option(parser)
    add_backend_option(parser)
    arguments = parser.parse_args()
    if arguments.output.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, not {arguments.output.name!r}")
    if not features.check("avif"):
        raise InputError("this Pillow cannot write AVIF: pip install 'pillow>=11.3'")
    run = Run(arguments.run)
    config, weights = run.read_config(), run.weights_to_show()
    digest = sha256(weights)
    choose_backend(arguments.backend)
    import_keras()

    from ddim_keras.data.cache import load_dataset
    from ddim_keras.data.drawn_flowers import draw_flowers
    from ddim_keras.metrics.encoders import choose_encoder
    from ddim_keras.plots.figures import save_figure

    image_size = config.model.network.image_size
    dataset = load_dataset(
        config.dataset, image_size, arguments.data_dir or config.data_dir, arguments.cache_dir
    )
    encoder = choose_encoder(arguments.kid_weights)
    model = load_model(weights)
    try:
        table = codec.read_table(arguments.table, digest)
    except InputError as error:
        print(f"{error}: measuring it", flush=True)
        table = codec.measure(model, digest, dataset.train_images)
        with written_whole(arguments.table) as part:
            part.write_text(json.dumps(asdict(table), indent=2) + "\n")

    chosen = np.random.default_rng(0).permutation(len(dataset.validation_images))
    originals = dataset.validation_images[np.sort(chosen[: arguments.num_images])]
    results = []
    for count, original in enumerate(originals, start=1):
        results.append(measured(model, original, table))
        print(f"{count} of {len(originals)}: {results[-1].summary}", flush=True)
    for name, description in SUMMARISED.items():
        values = [getattr(result, name) for result in results]
        print(f"{description}: {np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")

    original_features = encoder.features(originals)
    others = np.roll(original_features, 1, axis=0)
    unit = np.mean(np.linalg.norm(original_features - others, axis=1))

    def distance(files: list[File]) -> float:
        decoded = encoder.features(np.stack([file.image for file in files]))
        return float(np.mean(np.linalg.norm(decoded - original_features, axis=1)) / unit)

    print(comparison(results, distance, encoder.description))
    curves = arguments.output.with_stem(f"{arguments.output.stem}_curves")
    save_figure(curves_figure(results, distance, encoder.description), curves)

    generated = model.generate(1, 20, seed=arguments.seed)
    flowers = [np.rint(255 * generated[0]).astype("uint8"), draw_flowers(7, image_size)[0][6]]
    shown = [measured(model, flower, table) for flower in flowers]
    save_figure(picture(flowers, shown), arguments.output)
    print(f"wrote {arguments.output} and {curves}")


def comparison(
    results: list[Result], distance: Callable[[list[File]], float], protocol: str
) -> str:
    """A table: our files, and the best that each other codec makes of as many bytes."""
    lines = [
        f"| | bytes | PSNR, dB | distance ({protocol}) | fits | bytes for our PSNR |",
        "|---|---|---|---|---|---|",
    ]
    for index in map(SHARES.index, SHOWN_SHARES):
        ours = [result.ours[index] for result in results]
        candidates = {f"codec.py, {SHARES[index]:.0%} of a file": (ours, None)}
        for name in OTHERS:
            of_images = [result.others[name] for result in results]
            pairs = list(zip(of_images, ours, strict=True))
            files = [best_within(all_files, our_file.size) for all_files, our_file in pairs]
            sizes = [size_for(all_files, our_file.psnr) for all_files, our_file in pairs]
            candidates[name] = files, np.mean(sizes)
        for name, (files, size) in candidates.items():
            bytes_, psnr = (np.mean([getattr(f, x) for f in files]) for x in ("size", "psnr"))
            fits = np.mean([file.size <= our.size for file, our in zip(files, ours, strict=True)])
            cells = f"{bytes_:.0f} | {psnr:.2f} | {distance(files):.3f} | {fits:.0%}"
            lines.append(f"| {name} | {cells} | {'' if size is None else f'{size:.0f}'} |")
    return "\n".join(lines)


def curves_figure(
    results: list[Result], distance: Callable[[list[File]], float], protocol: str
) -> Any:
    """PSNR and distance against bytes: means over the images, at equal settings of a codec."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    psnr_axes, distance_axes = figure.subplots(1, 2)
    for name in ("codec.py", *OTHERS):
        of_images = [result.others.get(name, result.ours) for result in results]
        settings = list(zip(*of_images, strict=True))
        if name != "codec.py":
            settings = settings[::CURVE_STRIDE]
        sizes = [np.mean([file.size for file in files]) for files in settings]
        psnrs = [np.mean([file.psnr for file in files]) for files in settings]
        psnr_axes.plot(sizes, psnrs, marker=".", label=name)
        distance_axes.plot(sizes, [distance(files) for files in settings], marker=".", label=name)
    psnr_axes.set(ylabel="PSNR, dB")
    distance_axes.set(ylabel=f"distance in features\n({protocol})")
    for axes in (psnr_axes, distance_axes):
        axes.set(xlabel="bytes", xscale="log", xticks=(50, 100, 200, 400, 800, 1600))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def picture(originals: list[np.ndarray], results: list[Result]) -> Any:
    """A row for each image: the original, our files, and the others at the bytes of our largest."""
    from matplotlib.figure import Figure

    shown = list(map(SHARES.index, SHOWN_SHARES))
    figure = Figure(figsize=(11, 1.9 * len(originals)), layout="constrained")
    rows = figure.subplots(len(originals), 1 + len(shown) + len(OTHERS), squeeze=False)
    for row, original, result in zip(rows, originals, results, strict=True):
        cells = [("original", original)]
        for index in shown:
            cells.append((label("codec.py", result.ours[index]), result.ours[index].image))
        for name, files in result.others.items():
            best = best_within(files, result.ours[0].size)
            cells.append((label(name, best), best.image))
        for axes, (caption, image) in zip(row, cells, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_title(caption, size=8)
            axes.axis("off")
    return figure


def label(name: str, file: File) -> str:
    return f"{name}, {file.size} bytes\n{file.psnr:.1f} dB"


if __name__ == "__main__":
    run_command(main)
