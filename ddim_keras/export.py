"""Export of a trained model for generating only, in half precision or for other runtimes.

    python -m ddim_keras.export --run runs/mine --output mine/

writes `mine/best.weights.h5` and `mine/config.json`: a run folder of an eighth of the size, for
`python generate.py --run mine` under any backend.

    python -m ddim_keras.export --run runs/mine --format onnx --output mine.onnx

writes the denoiser in float32 for ONNX runtimes, which need neither Keras nor its backend; see
`examples/onnx_sampling.py`.

    python -m ddim_keras.export --run runs/mine --format safetensors --output mine.safetensors

writes the same arrays and configuration into one file without HDF5.
"""

if __name__ == "__main__":
    from ddim_keras.cli.interruption import end_at_once

    end_at_once()  # on Ctrl-C, while the rest is imported


import argparse
import dataclasses
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ddim_keras.atomic import move, require_writable, reserve, written_whole
from ddim_keras.cli.options import add_run_option
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError
from ddim_keras.runs import hdf5
from ddim_keras.runs.folder import Run, find_run, load_model
from ddim_keras.runs.manifest import NAME as MANIFEST
from ddim_keras.runs.manifest import recorded, verify

SMALL = 1024  # smaller arrays keep their precision; they hardly add to the size
FORMATS = ("run", "onnx", "safetensors")
ONNX_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")
ONNX_TOLERANCE = 1e-4  # largest difference between ONNX and Keras, for noise of variance 1
SCHEDULE_POINTS = 1001  # times for which an ONNX file stores the signal rate


def export(run: Run, folder: Path, source_file: Path | None = None) -> Run:
    """Writes the moving average of a run's weights as float16, and its configuration.

    The trained network, needed only for training, becomes an alias of its average. Optimizer and
    random states are omitted.

    Args:
        source_file: weights of the run, by default the best.

    Returns:
        The folder, whose weights `DiffusionModel.load_weights` takes.

    Raises:
        InputError: if the run has no weights, or they are not those of a DiffusionModel; or if
            the folder already holds a run.
    """
    # Without paths of this machine.
    config = run.read_config()
    dataset = config.dataset
    if dataset and Path(dataset).is_absolute():
        dataset = Path(dataset).name
    teacher = config.distill_from and Path(config.distill_from).name
    config = dataclasses.replace(
        config, dataset=dataset, data_dir=None, start_from=None, distill_from=teacher
    )
    source_file = source_file or run.weights_to_show()
    verify(run.config_file)
    verify(source_file)
    if Run(folder).last_weights.exists():
        raise InputError(f"{folder} holds a run; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Everything is read, checked and written before an earlier export is replaced.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="part-") as part:
        exported = Run(Path(part))
        with recorded(exported.best_weights) as file:
            _write_average(source_file, file)
        exported.save_config(config)
        if run.sampling_steps_file.exists():
            exported.save_sampling_steps(run.read_sampling_steps())
        folder.mkdir(exist_ok=True)
        Run(folder).forget_sampling_steps()  # of weights that were there before
        (folder / MANIFEST).unlink(missing_ok=True)  # until the files it describes are there
        for file in sorted(exported.folder.iterdir(), key=lambda file: file.name == MANIFEST):
            move(file, folder / file.name)
    return Run(folder)


def _write_average(source_file: Path, target_file: Path) -> None:
    """Copies the weights needed for generating, large arrays in half precision."""
    import h5py  # a part of Keras, which --help should not wait for

    reserve(target_file, source_file.stat().st_size)
    with hdf5.opened(source_file) as source, h5py.File(target_file, "w") as target:

        def copy(name: str, item: h5py.HLObject) -> None:
            if isinstance(item, h5py.Dataset):
                is_large = item.dtype == "float32" and item.size >= SMALL
                values = item[()].astype("float16") if is_large else item[()]
                target.create_dataset(name, data=values)
            else:
                group = target.require_group(name)
                for key, value in item.attrs.items():
                    group.attrs[key] = value

        try:
            for group in ("ema_network", "vars"):
                copy(group, source[group])
                source[group].visititems(
                    lambda name, item, group=group: copy(f"{group}/{name}", item)
                )
            (network,) = source["layers"]
        except (KeyError, ValueError, RuntimeError, OSError) as error:
            raise InputError(f"{source_file} holds no DiffusionModel, or is damaged") from error
        target[f"layers/{network}"] = target["ema_network"]


def export_safetensors(run: Run, path: Path) -> None:
    """Writes the contents of `export` to one .safetensors file.

    Its arrays have the names from `best.weights.h5`, and those of the network begin with
    `ema_network/`; the metadata "config" is the text of `config.json`.

    Raises:
        InputError: as for `export`, or if the package safetensors is missing.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise InputError("safetensors is not installed: pip install safetensors") from error
    arrays: dict[str, np.ndarray] = {}

    def keep(name: str, item: Any) -> None:
        if hasattr(item, "shape"):
            arrays[f"{group}/{name}"] = np.asarray(item[()])

    with tempfile.TemporaryDirectory() as folder:
        exported = export(run, Path(folder) / "run")
        with hdf5.opened(exported.best_weights) as file:
            for group in ("ema_network", "vars"):
                file[group].visititems(keep)
        config = exported.config_file.read_text()
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as part:
        save_file(arrays, part, metadata={"config": config})


def export_onnx(model: Any, class_names: tuple[str, ...], path: Path) -> float:
    """Writes the denoiser of a model as an ONNX file, and compares it with Keras.

    Inputs: `noisy_images` (B, H, W, C), `noise_rates` and `signal_rates` (B, 1, 1, 1); for a model
    with classes, `labels` (B,), where the number of classes means any class; for a student with
    several step counts, the index `step_count_index` (B,). Outputs: `pred_noises` and
    `pred_images`, as for `DiffusionModel.denoise`. The metadata "ddim_keras" is JSON with
    `class_names`, `pixel_means`, `pixel_variances`, and `signal_rates` at equally spaced times from
    0 to 1.

    Args:
        model: a DiffusionModel in float32, under TensorFlow.

    Returns:
        The largest difference of the two predictions, each scaled as in a noisy image.

    Raises:
        InputError: if a package is missing, or the difference is above ONNX_TOLERANCE.
    """
    if missing := [name for name in ONNX_PACKAGES if not importlib.util.find_spec(name)]:
        raise InputError(f"{', '.join(missing)} not installed: pip install {' '.join(missing)}")
    import keras
    import onnx
    import onnxruntime

    denoiser, inputs = _denoiser(model), _example_inputs(model)
    with keras.device("cpu:0"):  # a GPU may round products by more than the tolerance
        expected = {
            name: keras.ops.convert_to_numpy(result)
            for name, result in denoiser([inputs[each.name] for each in denoiser.inputs]).items()
        }
    times = np.linspace(0, 1, SCHEDULE_POINTS)
    facts = {
        "class_names": class_names,
        "pixel_means": keras.ops.convert_to_numpy(model.pixel_means).tolist(),
        "pixel_variances": keras.ops.convert_to_numpy(model.pixel_variances).tolist(),
        "signal_rates": np.asarray(model.schedule(times, np)[1]).tolist(),
    }
    with written_whole(path) as part:
        denoiser.export(str(part), format="onnx", verbose=False)
        graph = onnx.load(part)
        onnx.helper.set_model_props(graph, {"ddim_keras": json.dumps(facts)})
        onnx.save(graph, part)
        session = onnxruntime.InferenceSession(part, providers=["CPUExecutionProvider"])
        results = dict(zip(expected, session.run([*expected], inputs), strict=True))
        shares = {"pred_noises": inputs["noise_rates"], "pred_images": inputs["signal_rates"]}
        difference = max(
            float(np.max(np.abs(share * (results[name] - expected[name]))))
            for name, share in shares.items()
        )
        if not difference <= ONNX_TOLERANCE:
            raise InputError(
                f"the ONNX file differs from Keras by {difference:.1e}, more than {ONNX_TOLERANCE}"
            )
    return difference


def _denoiser(model: Any) -> Any:
    """`denoise` of a model, with the moving average, as a Keras model with named arrays."""
    import keras

    size, channels = model.config.network.image_size, model.config.network.channels
    noisy_images = keras.Input((size, size, channels), name="noisy_images")
    noise_rates = keras.Input((1, 1, 1), name="noise_rates")
    signal_rates = keras.Input((1, 1, 1), name="signal_rates")
    names = ["labels"] * bool(model.num_classes)
    names += ["step_count_index"] * bool(model.config.network.step_counts)
    indices = [keras.Input((), dtype="int32", name=name) for name in names]
    prediction = model.ema_network([noisy_images, noise_rates**2, *indices])[..., :channels]
    results = model.split(prediction, noisy_images, noise_rates, signal_rates)
    outputs = dict(zip(("pred_noises", "pred_images"), results, strict=True))
    return keras.Model([noisy_images, noise_rates, signal_rates, *indices], outputs)


def _example_inputs(model: Any) -> dict[str, np.ndarray]:
    """Noise at eight times of the schedule, for different classes."""
    noise_rates, signal_rates = model.schedule(np.linspace(0, 1, 8).reshape(-1, 1, 1, 1), np)
    inputs = {
        "noisy_images": model.draw_noise(8, np.random.default_rng(0)),
        "noise_rates": noise_rates.astype("float32"),
        "signal_rates": signal_rates.astype("float32"),
    }
    if model.num_classes:
        inputs["labels"] = np.linspace(0, model.num_classes, 8).astype("int32")
    if count := model.config.network.step_counts:
        inputs["step_count_index"] = np.arange(8, dtype="int32") % count
    return inputs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_option(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="run",
        help="run: a run folder in half precision; onnx: the denoiser for ONNX runtimes; "
        "safetensors: weights and configuration in one file (default: run)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        required=True,
        help="folder of the exported run, or the .onnx or .safetensors file; required",
    )
    arguments = parser.parse_args()
    run = find_run(arguments.run)
    if arguments.format != "run":
        _require_new(arguments.output, f".{arguments.format}")
    if arguments.format == "onnx":
        _main_onnx(run, arguments.output)
        return
    if arguments.format == "safetensors":
        export_safetensors(run, arguments.output)
        size = arguments.output.stat().st_size / 1e6
        print(f"wrote {arguments.output}, {size:.1f} MB, from {run.folder}")
        return
    if arguments.output.resolve() == run.folder.resolve():
        raise InputError("--output must be another folder than the run's")
    weights_file = export(run, arguments.output).best_weights
    print(f"wrote {weights_file}, {weights_file.stat().st_size / 1e6:.1f} MB, from {run.folder}")


def _require_new(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise InputError(f"--output must end in {suffix}, not {str(path)!r}")
    if path.exists():
        raise InputError(f"{path} exists; choose another file")
    require_writable(path.parent)


def _main_onnx(run: Run, path: Path) -> None:
    choose_backend("tensorflow")
    import_keras()
    model = load_model(run.weights_to_show())
    difference = export_onnx(model, tuple(run.read_config().class_names), path)
    size = path.stat().st_size / 1e6
    print(f"wrote {path}, {size:.1f} MB, from {run.folder}; within {difference:.1e} of Keras")


if __name__ == "__main__":
    run_command(main)
