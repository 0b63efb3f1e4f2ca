"""Trains a diffusion model; everything it makes goes into one run folder.

Read it from top to bottom: configuration, data, KID, training, report. The options and the
configuration they define are in `ddim_keras/cli/train.py`, the steps in `ddim_keras/training/`.
"""

if __name__ == "__main__":
    from ddim_keras.cli.interruption import end_at_once

    end_at_once()  # on Ctrl-C, while the rest is imported


import contextlib
import dataclasses
import datetime

from ddim_keras.atomic import remove_parts
from ddim_keras.cli.options import command_line
from ddim_keras.cli.startup import choose_backend, import_keras, is_first_process, run_command
from ddim_keras.cli.train import (
    TrainOptions,
    new_run,
    parse_arguments,
    resumed_run,
    resuming_command,
)
from ddim_keras.config import InputError, with_settings
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import Run
from ddim_keras.runs.lock import locked


def main() -> None:
    options = parse_arguments()
    if options.resume:
        run, config = resumed_run(options)
    elif options.output and is_first_process():
        Run(options.output).require_new()
    choose_backend(options.backend)
    import_keras()

    # Keras is imported only now, so that --help and mistakes are answered at once.
    from ddim_keras.backends.devices import connect_hosts, fast_precision, process_id
    from ddim_keras.training.preparation import default_preset

    connect_hosts()
    if not options.resume:
        run, config = new_run(options, options.preset or default_preset())
        if "precision" not in options.settings:
            config = with_settings(config, {"precision": fast_precision()})
    with locked(run.folder) if process_id() == 0 else contextlib.nullcontext():
        train_in(run, config, options)


def train_in(run: Run, config: RunConfig, options: TrainOptions) -> None:
    """Prepares the data, trains, and writes the report into the run folder."""
    import keras

    from ddim_keras.backends import describe_device
    from ddim_keras.backends.devices import choose_devices, process_id
    from ddim_keras.data.cache import load_dataset
    from ddim_keras.progress import say
    from ddim_keras.runs.report import write_report
    from ddim_keras.training.callbacks import Interrupted
    from ddim_keras.training.loop import train
    from ddim_keras.training.preparation import (
        callbacks_for,
        complete_config,
        describe_choice_of_preset,
        describe_network,
        describe_new_length,
        prepare_kid,
        refuse_early,
        with_protocol,
    )
    from ddim_keras.training.trajectories import with_trajectories

    # Data.
    devices = choose_devices(options.devices, config.training.batch_size)
    dataset = load_dataset(
        config.dataset, config.model.network.image_size, config.data_dir, options.cache_dir
    )
    has_model = options.resume or bool(config.distill_from)
    config = complete_config(config, dataset, has_model, options.class_conditional)
    refuse_early(config)
    say(f"data: {dataset.describe()}")
    count = f"{len(devices)} x " if len(devices) > 1 else ""
    backend, precision = keras.backend.backend(), config.training.precision
    say(f"device: {count}{describe_device()}, Keras backend {backend}, {precision}")
    if not options.resume and not options.preset and config.preset == "fast":
        say(describe_choice_of_preset(config))
    if warning := describe_network(config):
        say(warning)
    if options.resume and (change := describe_new_length(config, run.read_config().epochs)):
        say(change)

    # The metric, measured each epoch.
    kid, floor = prepare_kid(options.kid_weights, dataset) if options.measure_kid else (None, None)
    config = with_protocol(config, kid, options.resume)
    if kid is None and run.best_weights.exists():
        say(
            f"without KID, {run.best_weights} stays as it is, and generate.py uses it; for newer "
            f"weights: generate.py --run {run.last_weights}"
        )

    # Training.
    config = dataclasses.replace(config, started=datetime.datetime.now().isoformat())
    if process_id() == 0:
        for name in ("", "averages", "guides", "samples"):
            remove_parts(run.folder / name)
        run.save_config(config)
    training_data = with_trajectories(dataset, config, options.cache_dir)
    say(f"run: {run.folder}, preset {config.preset}, {config.epochs} epochs")
    try:
        model = train(
            run,
            config,
            training_data,
            protocol=config.protocol.metric if config.protocol else "KID",
            callbacks=callbacks_for(run, config, dataset, kid, options.tensorboard),
            devices=len(devices),
        )
    except Interrupted:
        say(f"saved; continue with: {resuming_command(options, run)}")
        raise KeyboardInterrupt from None

    # Report.
    if process_id() == 0:
        if not (history := run.read_history()):
            raise InputError(f"no report: {run.history_file} is missing or empty; restore it")
        write_report(run, config, dataset, model, history, config.protocol, floor)
        following = command_line(["python", "generate.py", "--run", str(run.folder)])
        say(f"done: {run.folder}/report.md; next: {following}")


if __name__ == "__main__":
    run_command(main)
