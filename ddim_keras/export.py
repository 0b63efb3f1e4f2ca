"""Export of a trained model: only what generating needs, in half precision.

    python -m ddim_keras.export --run runs/mine --output mine/

writes `mine/best.weights.h5` and `mine/config.json`, which together are a run folder, an eighth as
large, for `python generate.py --run mine` under any backend.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from ddim_keras.cli.options import add_run_option
from ddim_keras.cli.startup import run_command
from ddim_keras.config import InputError
from ddim_keras.runs import hdf5
from ddim_keras.runs.folder import Run, find_run
from ddim_keras.runs.manifest import NAME as MANIFEST
from ddim_keras.runs.manifest import recorded, verify

SMALL = 1024  # arrays of fewer numbers keep their precision: they cost nothing


def export(run: Run, folder: Path) -> Run:
    """Writes the moving average of a run's weights as float16, and its configuration.

    The trained network, which only training needs, becomes another name of its average. Optimizer
    and random state are left out.

    Returns:
        The folder, whose weights `DiffusionModel.load_weights` takes.

    Raises:
        InputError: if the run has no weights, or they are not those of a DiffusionModel; or if
            there is a run in the folder.
    """
    # Without the places of this machine.
    config = run.read_config()
    dataset = config.dataset
    if dataset and Path(dataset).is_absolute():
        dataset = Path(dataset).name
    config = dataclasses.replace(config, dataset=dataset, data_dir=None, start_from=None)
    source_file = run.weights_to_show()
    verify(run.config_file)
    verify(source_file)
    if Run(folder).last_weights.exists():
        raise InputError(f"{folder} holds a run; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Everything is read, checked and written before anything of an earlier export is replaced.
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
            file.replace(folder / file.name)
    return Run(folder)


def _write_average(source_file: Path, target_file: Path) -> None:
    """Copies what generating needs out of a weights file, large arrays in half precision."""
    import h5py  # a part of Keras, which --help should not wait for

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
        except (KeyError, ValueError) as error:
            raise InputError(f"{source_file} holds no DiffusionModel") from error
        target[f"layers/{network}"] = target["ema_network"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_option(parser)
    parser.add_argument(
        "--output", type=Path, metavar="DIR", required=True, help="folder for the two files"
    )
    arguments = parser.parse_args()
    run = find_run(arguments.run)
    if arguments.output.resolve() == run.folder.resolve():
        raise InputError("--output must be another folder than the run's")
    weights_file = export(run, arguments.output).best_weights
    print(f"wrote {weights_file}, {weights_file.stat().st_size / 1e6:.1f} MB, from {run.folder}")


if __name__ == "__main__":
    run_command(main)
