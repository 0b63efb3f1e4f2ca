"""The notebooks: the gaps belong to the solutions, the solved ones run, and the checker agrees."""

import ast
import base64
import importlib.util
import subprocess
from pathlib import Path

import pytest

from ddim_keras.check import __main__ as checker

REASON = "needs nbformat, nbclient and ipykernel: pip install -e .[dev]"
nbformat = pytest.importorskip("nbformat", reason=REASON)
gaps = pytest.importorskip("notebooks.gaps", reason=REASON)
ROOT = Path(__file__).parent.parent
FUNCTIONS = {
    "lab13": ("diffusion_schedule", "denoise", "reverse_diffusion"),
    "ddpm": ("sample_xt", "sample", "train", "sample", "train_classconditional"),
}
TINY = """
IMAGE_SIZE, WIDTHS, DEPTHS, BATCH_SIZE, EPOCHS, TRAINING_IMAGES = 16, (8, 8), (1, 1), 8, 2, 64
KID_IMAGES, KID_STEPS, GENERATION_STEPS, N_STEPS = 8, 2, 3, 25
"""

by_name = pytest.mark.parametrize("name", gaps.NAMES)


def read(name):
    return nbformat.read(gaps.FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@by_name
def test_gaps_belong_to_the_solutions(name):
    notebook, solved = read(name), read(f"{name}_solved")
    nbformat.validate(notebook)
    assert notebook == gaps.with_gaps(solved), "run python notebooks/gaps.py"
    assert not any(cell.outputs for cell in code_cells(notebook))
    found = []
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef) and "fill this gap" in ast.unparse(node):
                found.append(node.name)
    assert tuple(found) == FUNCTIONS[name]


@by_name
def test_solved_notebooks_show_small_pictures_and_no_mistake(name):
    outputs = [output for cell in code_cells(read(f"{name}_solved")) for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    pictures = [
        base64.b64decode(output.data["image/png"])
        for output in outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 5
    assert sum(map(len, pictures)) < 170_000  # bytes, of each of the two
    assert str(Path.home()) not in str(outputs)


@by_name
def test_the_first_cell_installs_what_is_missing(name, monkeypatch, capsys):
    first_cell = code_cells(read(name))[0].source
    commands, status = [], 0

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, status, "", "there is no such project")

    monkeypatch.setattr(subprocess, "run", run)
    exec(first_cell, {})
    assert not commands
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    exec(first_cell.replace('".."', '"git+https://example.org/it"'), {})
    assert commands[0][1:] == ["-m", "pip", "install", "-q", "git+https://example.org/it"]
    status = 1
    with pytest.raises(SystemExit, match="Set INSTALL_FROM"):
        exec(first_cell, {})
    assert "there is no such project" in capsys.readouterr().out


@pytest.mark.slow
@by_name
def test_solved_notebooks_run(name, flowers_file, monkeypatch):
    pytest.importorskip("ipykernel", reason=REASON)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    notebook = read(f"{name}_solved")
    (settings,) = (cell for cell in notebook.cells if "settings" in cell.metadata.get("tags", []))
    settings.source += f"\nDATASET = {str(flowers_file)!r}\n{TINY}"
    gaps.execute(notebook)
    text = str([cell.outputs for cell in code_cells(notebook)])
    assert text.count("looks right") == len(FUNCTIONS[name])
    assert "epoch 2" in text


@pytest.mark.slow
@by_name
def test_the_checker_accepts_the_solved_notebooks(name, capsys):
    assert checker.main([str(gaps.FOLDER / f"{name}_solved.ipynb")]) == 0, capsys.readouterr().out
