"""The model that comes with the project."""

import sys

import numpy as np
from PIL import Image

import generate
from ddim_keras.cli.startup import run_command
from ddim_keras.runs.folder import PRETRAINED, Run


def test_it_stands_in_where_nothing_was_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("--steps", "4", "--num-images", "2", "--class", "sunflower", "snapdragon")
    monkeypatch.setattr(sys, "argv", ["generate.py", *arguments, "--images-dir", "images"])
    run_command(generate.main)
    assert f"from {PRETRAINED}" in capsys.readouterr().out
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("images/*"))])
    assert images.shape == (4, 64, 64, 3)
    red, _, blue = images[:2].astype(float).mean(axis=(0, 1, 2))
    assert red > blue + 40  # sunflowers are yellow


def test_it_knows_the_flowers_by_name_and_is_small():
    run = Run(PRETRAINED)
    config = run.read_config()
    assert len(config.class_names) == config.model.network.num_classes == 102
    assert config.data_dir is None
    assert {5, 10, 20} <= run.read_sampling_steps().keys()
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*")) < 16e6
