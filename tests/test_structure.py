"""The structure of the package: imports run one way, and each kind of code has one place."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for place in ("ddim_keras", "examples", "benchmarks")
    for path in sorted((ROOT / place).rglob("*.py"))
] + sorted(ROOT.glob("*.py"))
PACKAGE = [path for path in SOURCES if path.is_relative_to(ROOT / "ddim_keras")]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path, modules):
    """The modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules or {node.module}
    return (found & modules) - {module_of(path)}


def test_imports_run_one_way():
    modules = {module_of(path) for path in PACKAGE}
    # The package itself imports each public name when it is first used.
    graph = {module_of(path): imports_of(path, modules) - {"ddim_keras"} for path in PACKAGE}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_the_stories_are_short():
    for name in ("train.py", "generate.py", "evaluate.py", "app.py"):
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 150, name


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        # What differs by backend; examples and benchmarks show how to do it by hand.
        (
            r"keras\.backend\.backend\(\) [=!]=",
            ("ddim_keras/backends/", "examples/", "benchmarks/"),
        ),
        (
            r"sys\.path\.(insert|append)",
            (
                *("ddim_keras/check/", "benchmarks/quality/codecs.py"),
                "benchmarks/quality/gan_experiments.py",
            ),
        ),
        (r"\bpickle\.loads?\b|(?<![.\w])(eval|exec)\(", ("ddim_keras/check/",)),
        (
            r"st_mtime",
            ("ddim_keras/data/sources.py", "benchmarks/"),
        ),  # the fingerprint of a folder of images
        (
            r"h5py\.File\(",
            ("ddim_keras/runs/", "ddim_keras/export.py", "benchmarks/reliability/fuzz.py"),
        ),
    ],
)
def test_each_kind_of_code_has_one_place(pattern, places):
    found = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }
    assert {name for name in found if not name.startswith(places or ("nowhere",))} == set()


def test_no_file_is_a_drawer_for_everything():
    assert not [path for path in SOURCES if re.search(r"util|helper|common|misc", path.name)]
