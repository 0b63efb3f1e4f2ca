"""Helpers that the tests share: a tiny recipe, and commands run in this process."""

import sys

import pytest

from ddim_keras.cli.startup import run_command
from ddim_keras.config import ModelConfig, NetworkConfig, TrainingConfig
from ddim_keras.presets import Preset

# With everything whose state a resumed training must find again: batch norm, flips, schedule.
TINY = Preset(
    model=ModelConfig(network=NetworkConfig(image_size=16, widths=(8,), depths=(1,)), ema=0.9),
    training=TrainingConfig(batch_size=16, repetitions=1, flip=True, cosine_decay=True),
    summary="for tests",
)


def run(command, *arguments):
    """Runs a command in this process; returns its exit status, or its one line of error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{command.__name__}.py", *map(str, arguments)])
        try:
            run_command(command.main)
        except SystemExit as ending:
            return ending.code
    return 0
