"""Exports a trained model: what is needed to generate, and no more, in half precision.

    python -m ddim_keras.export --run runs/mine --output mine/

writes `mine/best.weights.h5` and `mine/config.json`, which together are a run folder, an eighth as
large, for `python generate.py --run mine` under any backend.
"""

import argparse
import dataclasses
from pathlib import Path

from ddim_keras.atomic import written_whole
from ddim_keras.cli.options import add_run_option
from ddim_keras.cli.startup import run_command
from ddim_keras.config import InputError
from ddim_keras.runs.folder import Run, find_run

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
    import h5py  # a part of Keras, which --help should not wait for

    # Without the places of this machine.
    config = run.read_config()
    dataset = config.dataset
    if dataset and Path(dataset).is_absolute():
        dataset = Path(dataset).name
    config = dataclasses.replace(config, dataset=dataset, data_dir=None, start_from=None)
    source_file = run.weights_to_show()
    exported = Run(folder)
    if exported.last_weights.exists():
        raise InputError(f"{folder} holds a run; choose another folder")
    exported.save_config(config)
    exported.forget_sampling_steps()  # of weights that were there before
    if run.sampling_steps_file.exists():
        exported.save_sampling_steps(run.read_sampling_steps())
    with written_whole(exported.best_weights) as part, h5py.File(part, "w") as target:

        def copy(name: str, item: h5py.HLObject) -> None:
            if isinstance(item, h5py.Dataset):
                is_large = item.dtype == "float32" and item.size >= SMALL
                values = item[()].astype("float16") if is_large else item[()]
                target.create_dataset(name, data=values)
            else:
                group = target.require_group(name)
                for key, value in item.attrs.items():
                    group.attrs[key] = value

        with h5py.File(source_file) as source:
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
    return exported


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
