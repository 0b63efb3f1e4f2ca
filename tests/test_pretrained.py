"""The model that comes with the project."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import generate
from ddim_keras.cli.startup import run_command
from ddim_keras.runs.folder import PRETRAINED, Run, load_model
from ddim_keras.runs.manifest import verify

ROOT = Path(__file__).parents[1]


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
    assert sum(path.stat().st_size for path in PRETRAINED.parent.rglob("*")) <= 21e6


def test_the_student_draws_sunflowers_in_two_and_four_calls():
    run = Run(PRETRAINED.parent / "flowers-few")
    config = run.read_config()
    assert config.model.student_steps == (1, 2, 4)
    assert config.distill_from == PRETRAINED.name
    assert config.class_names == Run(PRETRAINED).read_config().class_names
    assert run.best_weights.stat().st_size <= 6e6
    model = load_model(run.best_weights)
    labels = np.full(2, config.class_names.index("sunflower"))
    for steps in (2, 4):
        red, _, blue = model.generate(2, steps, seed=0, labels=labels).mean(axis=(0, 1, 2))
        assert red > blue + 0.15


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_git_for_windows_keeps_the_bytes_of_which_the_manifest_has_hashes(tmp_path):
    for name in ("config.json", "manifest.json"):
        shutil.copy(PRETRAINED / name, tmp_path)
    shutil.copy(ROOT / ".gitattributes", tmp_path)

    def git(*words):
        subprocess.run(["git", "-c", "core.autocrlf=true", *words], cwd=tmp_path, check=True)

    git("init", "-q")
    git("add", ".")
    (tmp_path / "config.json").unlink()
    git("checkout", "-q", "config.json")
    verify(tmp_path / "config.json")
