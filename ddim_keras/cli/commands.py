"""The commands `ddim-train`, `ddim-generate` and `ddim-evaluate` of an installed project.

Each runs the script of that name, which is installed as data beside the package: as modules,
`train` and `evaluate` could clash with those of other packages.
"""

from ddim_keras.cli.interruption import end_at_once


def train() -> None:
    run_script("train")


def generate() -> None:
    run_script("generate")


def evaluate() -> None:
    run_script("evaluate")


def run_script(name: str) -> None:
    """Finds a script and runs it; Ctrl-C ends the process until the script changes that."""
    end_at_once()
    import runpy

    from ddim_keras.cli.scripts import find_script

    runpy.run_path(str(find_script(name)), run_name="__main__")
