"""Entry points: each runs the script of its name, from a clone and where pip installed it."""

import importlib
import shutil
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from ddim_keras.cli import scripts

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("name", scripts.SCRIPTS)
def test_each_entry_point_runs_its_script(name, monkeypatch, capsys):
    module, function = SETTINGS["project"]["scripts"][f"ddim-{name}"].split(":")
    monkeypatch.setattr(sys, "argv", [f"ddim-{name}", "--help"])
    with pytest.raises(SystemExit) as ending:
        getattr(importlib.import_module(module), function)()
    assert ending.value.code == 0
    assert f"usage: {name}.py" in capsys.readouterr().out


def test_installed_scripts_are_found(tmp_path, monkeypatch):
    """As pip installs them: the package in site-packages, the scripts as data."""
    package = tmp_path / "site-packages" / "ddim_keras" / "cli"
    shutil.copytree(Path(scripts.__file__).parent, package)
    monkeypatch.setattr(scripts, "__file__", str(package / "scripts.py"))
    (folder, files), *_ = SETTINGS["tool"]["setuptools"]["data-files"].items()
    installed = [metadata.PackagePath("..", folder, file) for file in files]
    for file in installed:
        file.dist = metadata.PathDistribution(tmp_path / "site-packages" / "it.dist-info")
    monkeypatch.setattr(metadata, "files", lambda distribution: installed)
    for name in scripts.SCRIPTS:
        assert scripts.find_script(name).resolve() == tmp_path / folder / f"{name}.py"
