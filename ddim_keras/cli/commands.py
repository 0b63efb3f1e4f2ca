"""The commands `ddim-train`, `ddim-generate` and `ddim-evaluate` of an installed project.

Each runs the script of a clone with that name, which is installed beside the package as data: as
modules, `train` and `evaluate` would be in the way of others.
"""

import runpy
from importlib import metadata
from pathlib import Path

SCRIPTS = ("train", "generate", "evaluate")


def train() -> None:
    runpy.run_path(str(script("train")), run_name="__main__")


def generate() -> None:
    runpy.run_path(str(script("generate")), run_name="__main__")


def evaluate() -> None:
    runpy.run_path(str(script("evaluate")), run_name="__main__")


def script(name: str) -> Path:
    """Where a script is: in the clone that is used, or where pip installed it."""
    root = Path(__file__).parents[2]
    if (root / "pyproject.toml").is_file():
        return root / f"{name}.py"
    place = ("share", "ddim_keras", f"{name}.py")
    (file,) = (file for file in metadata.files("ddim-keras") or () if file.parts[-3:] == place)
    return Path(str(file.locate()))
