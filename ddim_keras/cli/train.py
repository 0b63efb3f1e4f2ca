"""Options of train.py, and the configuration they define."""

import argparse
import dataclasses
import datetime
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddim_keras.cli.options import (
    Parser,
    add_backend_option,
    add_cache_option,
    add_kid_weights_option,
    add_settings,
    add_verify_option,
    at_least,
    command_line,
    given_settings,
)
from ddim_keras.cli.startup import default_backend
from ddim_keras.config import InputError, get_setting, settings_of, with_settings
from ddim_keras.presets import PRESETS
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import RUNS, Run, find_run
from ddim_keras.runs.manifest import verify

EXAMPLES = """examples:
  python train.py --epochs 50                    the assignment (without a GPU: the preset fast)
  python train.py --preset fast --epochs 20      for a CPU
  python train.py --resume                       continue the newest run
  python train.py --dataset photos/ --image-size 32
  python train.py --dataset mnist --image-size 32 --no-flip
  python train.py --widths 64 128 256 --depths 2 2 2 --attention-sizes 16
  python train.py --distill-from flowers --student-steps 4
  python train.py --devices 4 --batch-size 256   each of four GPUs takes 64 images of a batch

Several hosts (JAX): the same command on each, with KERAS_DISTRIBUTION_JOB_ADDRESSES=host:port of
the first, KERAS_DISTRIBUTION_NUM_PROCESSES=N and KERAS_DISTRIBUTION_PROCESS_ID=0 to N - 1. The
first writes the run folder; to resume, all must see it.
"""
# Options by group: settings of the run's configuration, each described there.
SETTINGS = {
    "run": ("epochs", "start_from", "seed"),
    "distillation": ("distill_from", "student_steps", "teacher_guidance", "trajectories"),
    "data": ("dataset", "data_dir", "image_size", "flip"),
    "diffusion": (
        *("schedule", "max_signal_rate", "min_signal_rate", "discrete_steps", "variance"),
        *("prediction", "stratified_times", "ema", "ema_warmup", "label_dropout"),
    ),
    "network": (
        *("widths", "depths", "block", "attention_sizes", "head_channels", "patch_size"),
        *("resampling", "skips", "dropout"),
        *("embedding_dims", "embedding_max_frequency"),
    ),
    "training": (
        *("batch_size", "repetitions", "loss", "huber_delta", "loss_on", "optimizer"),
        *("learning_rate", "weight_decay", "warmup_steps", "cosine_decay", "precision"),
        *("kid_images", "evaluate_every", "averages"),
    ),
}
SPECIAL_DEFAULTS = {
    "dataset": "oxford_flowers102; drawn_flowers if it cannot be downloaded",
    "data_dir": "~/tensorflow_datasets",
    "start_from": "none; random weights",
    "distill_from": "none",
    "precision": "the faster one on this device",
}


@dataclass(frozen=True)
class TrainOptions:
    """The options of train.py."""

    settings: dict[str, Any]  # settings of the run's configuration that were given
    preset: str | None
    class_conditional: bool
    output: Path | None
    resume: bool
    devices: int | None
    cache_dir: str | None
    kid_weights: str | None
    measure_kid: bool
    check_hashes: bool
    tensorboard: bool
    backend: str | None


def parse_arguments(arguments: Sequence[str] | None = None) -> TrainOptions:
    """Parses the command line; exits on errors and --help."""
    parser = Parser(
        prog="train.py",
        usage="train.py [options]",
        description="Trains a diffusion model; everything it makes goes into one run folder.",
        epilog=EXAMPLES,
    )
    groups = {name: parser.add_argument_group(name) for name in SETTINGS}
    presets = "; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())
    groups["run"].add_argument(
        "--preset",
        choices=PRESETS,
        help=f"recipe; {presets} (default: lab on a GPU, else fast; student with --distill-from)",
    )
    for name, group in groups.items():
        add_settings(group, RunConfig, SETTINGS[name], default_of)
    add = groups["run"].add_argument
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="run folder, new or empty (default: runs/<preset>-<data>-<date>)",
    )
    add("--resume", action="store_true", help="continue the run in --output, or the newest one")
    add_verify_option(groups["run"])
    add("--tensorboard", action="store_true", help="also write TensorBoard logs to the run folder")
    add(
        "--devices",
        type=at_least(1),
        metavar="N",
        help="number of devices for data-parallel training, backends tensorflow and jax "
        "(default: 1; with several hosts: all)",
    )
    add_backend_option(groups["run"])
    groups["data"].add_argument(
        "--class-conditional",
        action="store_true",
        help="also learn from the labels, for generate.py --class",
    )
    add_cache_option(groups["data"])
    add_kid_weights_option(groups["training"])
    groups["training"].add_argument("--no-kid", action="store_true", help="do not measure KID")
    parsed = parser.parse_args(arguments)
    if not parsed.resume:
        check_distillation(parsed)
        refuse_unused(parsed)
    if parsed.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise InputError("--tensorboard needs: pip install tensorboard")
    return TrainOptions(
        settings=given_settings(parsed, RunConfig),
        measure_kid=not parsed.no_kid,
        **{
            field.name: getattr(parsed, field.name)
            for field in dataclasses.fields(TrainOptions)
            if field.name not in ("settings", "measure_kid")
        },
    )


def check_distillation(parsed: argparse.Namespace) -> None:
    """Raises InputError for incompatible options of a new student."""
    if not (parsed.distill_from and parsed.student_steps):
        given = [
            parsed.preset == "student",
            *(getattr(parsed, x) for x in SETTINGS["distillation"]),
        ]
        if any(value not in (None, False) for value in given):
            raise InputError("a student needs both --distill-from RUN and --student-steps N")
        return
    parsed.preset = parsed.preset or "student"
    if parsed.preset != "student":
        raise InputError(f"--distill-from has its own preset; omit --preset {parsed.preset}")
    of_teacher = (*SETTINGS["diffusion"], *SETTINGS["network"], "image_size", "class_conditional")
    for name in (*of_teacher, "start_from", "loss_on"):
        if getattr(parsed, name) not in (None, False):
            flag = name.replace("_", "-")
            raise InputError(f"a student uses its teacher's model; omit --{flag}")


def refuse_unused(parsed: argparse.Namespace) -> None:
    """Raises InputError for options that have no effect in a new run."""
    if parsed.no_kid and parsed.kid_weights:
        raise InputError("--no-kid does not use --kid-weights; omit it")
    preset = PRESETS.get(parsed.preset)
    schedule = parsed.schedule or (preset.model.schedule if preset else "offset_cosine")
    for name in ("max_signal_rate", "min_signal_rate"):
        if getattr(parsed, name) is not None and schedule != "offset_cosine":
            flag = name.replace("_", "-")
            raise InputError(f"only the schedule offset_cosine uses --{flag}; omit it")


def default_of(name: str) -> str:
    """The default of a setting, for --help: one value, or one for each preset."""
    if name in SPECIAL_DEFAULTS:
        return SPECIAL_DEFAULTS[name]
    if name == "epochs":
        few = {name: preset.epochs for name, preset in PRESETS.items() if preset.epochs != 50}
        special = "".join(f"; {epochs} in {name}" for name, epochs in few.items())
        return f"{settings_of(RunConfig)[name].default}{special}; on resume: as before"
    values: dict[str, list[str]] = {}
    for preset_name, preset in PRESETS.items():
        part = preset.model if name in settings_of(type(preset.model)) else preset.training
        values.setdefault(in_words(get_setting(part, name)), []).append(preset_name)
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} in {', '.join(names)}" for value, names in values.items())


def in_words(value: Any) -> str:
    """A value of a setting, as text for messages."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "all" if value is None else str(value)


def new_run(options: TrainOptions, preset: str) -> tuple[Run, RunConfig]:
    """A folder for a new run, not made yet, and the preset with what the options change."""
    recipe = PRESETS[preset]
    config = RunConfig(preset, recipe.model, recipe.training, epochs=recipe.epochs)
    if options.settings.get("distill_from"):
        teacher = find_run(options.settings["distill_from"]).read_config()
        config = of_teacher(config, teacher, options.settings["student_steps"])
    config = with_settings(config, options.settings)
    date = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    # Windows allows neither : nor * in a name; "mnist:3.*.*" is a data set of TFDS. Without spaces,
    # the run can be named in a command as it is.
    data = re.sub(r"[^\w.]", "-", Path(config.dataset or "flowers").stem)
    name = f"{preset}-{data}-{date}"
    folder, number = options.output or RUNS / name, 2
    while not options.output and folder.exists():  # of a training started in the same second
        folder = RUNS / f"{name}-{number}"
        number += 1
    return Run(folder), config


def of_teacher(config: RunConfig, teacher: RunConfig, steps: Sequence[int]) -> RunConfig:
    """The configuration of a new student, in one or more numbers of steps."""
    from ddim_keras.distillation import student_config  # imports Keras

    return dataclasses.replace(
        config,
        model=student_config(teacher.model, *steps),
        dataset=teacher.dataset,
        data_dir=teacher.data_dir,
        class_names=teacher.class_names,
    )


def resumed_run(options: TrainOptions) -> tuple[Run, RunConfig]:
    """The run to continue, with its own configuration; raises InputError for other settings."""
    run = find_run(options.output, with_weights=False)
    if options.check_hashes:
        verify(run.config_file)
        if run.last_weights.exists():
            verify(run.last_weights)
    config = run.read_config()
    if run.best_weights.exists() and not run.last_weights.exists():
        raise InputError(
            f"{run.folder} holds weights to generate from, but no last.weights.h5 to resume; start "
            f"a new run with: --start-from {run.folder}"
        )
    rules = settings_of(RunConfig)
    if options.preset not in (None, config.preset):
        raise cannot_resume("preset", options.preset, config.preset)
    for name, wanted in options.settings.items():
        before = get_setting(config, name)
        if wanted != before and not rules[name].metadata["may_change"]:
            raise cannot_resume(name, wanted, before)
    done = len(run.read_history())
    config = with_settings(config, options.settings)
    if config.epochs < done:
        raise InputError(f"{run.folder} has {done} epochs already; --epochs must be at least that")
    return run, config


def cannot_resume(name: str, wanted: Any, before: Any) -> InputError:
    """The error for an option that differs from the run's."""
    return InputError(
        f"cannot resume with --{name.replace('_', '-')} {in_words(wanted)}: the run uses "
        f"{in_words(before)}. Omit the option, or start a new run"
    )


def resuming_command(options: TrainOptions, run: Run) -> str:
    """The command that continues this run with the same options."""
    command = ["python", *sys.argv]
    if not options.resume:
        command.append("--resume")
    if not options.output:
        command += ["--output", str(run.folder)]
    usual = default_backend()
    backend = os.environ.get("KERAS_BACKEND", usual)
    if not options.backend and backend != usual:
        command += ["--backend", backend]  # the variable may have been set for this command only
    return command_line(command)
