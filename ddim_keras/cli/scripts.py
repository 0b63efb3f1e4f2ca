"""Location of a script: in the clone, or where pip installed it."""

from importlib import metadata
from pathlib import Path

SCRIPTS = ("train", "generate", "evaluate")


def find_script(name: str) -> Path:
    """The file of one of SCRIPTS."""
    root = Path(__file__).parents[2]
    if (root / "pyproject.toml").is_file():
        return root / f"{name}.py"
    place = ("share", "ddim_keras", f"{name}.py")
    (file,) = (file for file in metadata.files("ddim-keras") or () if file.parts[-3:] == place)
    return Path(str(file.locate()))
