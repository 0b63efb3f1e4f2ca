"""Mutation testing: small mistakes put into the code, one at a time; do the tests notice?

    python -m benchmarks.reliability.mutants --list
    python -m benchmarks.reliability.mutants --only training
    python -m benchmarks.reliability.mutants

The mistakes are the lines of `mistakes.txt`, grouped by part of the project, with the tests that
should notice them. They are made in a copy of the project. A mistake counts as noticed if one of
those tests fails, or if they take five minutes of processor time. Tests run in forks of a process
that has already imported Keras, so Linux or macOS is needed. Results are saved one by one, and a
second start continues from there: mistakes that were noticed are not run again, the others only
when their tests have changed.
"""

import argparse
import csv
import hashlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[2]
MISTAKES = Path(__file__).with_name("mistakes.txt")
CPU_LIMIT = 300  # seconds of processor time that the tests of a mistake get
HANG_LIMIT = 1200  # seconds


class Mistake(NamedTuple):
    """A piece of a file of the package, the text in its place, and the tests that should notice."""

    room: str
    file: str
    tests: tuple[str, ...]
    old: str
    new: str

    @property
    def name(self) -> str:
        """A unique one-line description."""
        return f"{self.file}: {self.old} ==> {self.new or 'nothing'}".replace("\n", "\\n")

    def mutated(self, tree: Path) -> str:
        """The file with the mistake; raises ValueError unless the old text occurs exactly once."""
        text = (tree / "ddim_keras" / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: the old text stands {text.count(self.old)} times there")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Result:
    """The result of one mistake."""

    room: str
    name: str
    noticed_by: str  # the first test that failed; empty if none did
    seconds: float
    tests: str  # a hash of their files


def read_mistakes(text: str) -> Iterator[Mistake]:
    """Reads headers `# room, file: tests`, and under them lines `old text ==> new text`."""
    for line in filter(None, text.splitlines()):
        if line.startswith("# "):
            place, tests = line.removeprefix("# ").split(": ")
            room, file = place.split(", ")
        else:
            old, new = line.replace("\\n", "\n").split(" ==>")
            yield Mistake(room, file, tuple(tests.split()), old, new.removeprefix(" "))


def copy_project(tree: Path) -> None:
    """Copies the files that Git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True)
    for name in listed.stdout.split("\0"):
        if (PROJECT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / name, tree / name)


def fingerprint(tree: Path, tests: Iterable[str]) -> str:
    """A hash of test files; it changes when they do."""
    digest = hashlib.sha256()
    for place in (tree / "tests" / each for each in tests):
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def first_failure(tree: Path, tests: Iterable[str]) -> str:
    """Runs test files of a tree in a fork, up to the first test that fails; returns its name."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_pytest, args=(tree, tuple(tests), sender))
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(HANG_LIMIT) else "hang"
    except EOFError:
        return "crash, or time limit"
    finally:
        process.kill()
        process.join()


def _run_pytest(tree: Path, tests: tuple[str, ...], sender: multiprocessing.connection.Connection):
    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))

    class FirstFailure:
        name = ""

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                self.name = self.name or report.nodeid

        def pytest_collectreport(self, report: pytest.CollectReport) -> None:
            self.pytest_runtest_logreport(report)

    os.chdir(tree)
    sys.path[:] = [str(tree), *(place for place in sys.path if Path(place or ".") != PROJECT)]
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    found = FirstFailure()
    options = ["-x", "-n", "0", "-p", "no:cacheprovider", "--rootdir", str(tree)]
    status = pytest.main([*options, *(f"tests/{each}" for each in tests)], plugins=[found])
    sender.send(found.name or ("" if status == 0 else f"exit status {int(status)}"))


def results_of(mistakes: list[Mistake], tree: Path, known: dict[str, Result]) -> Iterator[Result]:
    """Makes the mistakes in a tree, one at a time, except those with known results."""
    healthy: set[str] = set()
    for mistake in mistakes:
        tests = fingerprint(tree, mistake.tests)
        before = known.get(mistake.name)
        if before and (before.noticed_by or before.tests == tests):
            continue
        if tests not in healthy and (failed := first_failure(tree, mistake.tests)):
            raise SystemExit(f"{failed} fails without any mistake; repair that first")
        healthy.add(tests)
        path = tree / "ddim_keras" / mistake.file
        original, start = path.read_text(), time.monotonic()
        path.write_text(mistake.mutated(tree))
        noticed_by = first_failure(tree, mistake.tests)
        path.write_text(original)
        seconds = round(time.monotonic() - start, 1)
        yield Result(mistake.room, mistake.name, noticed_by, seconds, tests)


def read_results(path: Path) -> dict[str, Result]:
    """The results of earlier starts by the mistakes' names; empty if there is no file."""
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {row["name"]: Result(**row) for row in csv.DictReader(file)}  # type: ignore[arg-type]


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Writes all results as a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(Result.__annotations__))
        writer.writeheader()
        writer.writerows(map(asdict, results))


def print_table(mistakes: list[Mistake], results: dict[str, Result]) -> None:
    """Prints the mistakes that were not noticed, and a row for each group."""
    done = [results[each.name] for each in mistakes if each.name in results]
    for result in done:
        if not result.noticed_by:
            print(f"not noticed: {result.name}")
    print("\n| room | mistakes | noticed | share |\n|---|---|---|---|")
    rooms = dict.fromkeys(result.room for result in done)
    for room, members in [(room, {room}) for room in rooms] + [("all", set(rooms))]:
        noticed = [bool(result.noticed_by) for result in done if result.room in members]
        print(f"| {room} | {len(noticed)} | {sum(noticed)} | {sum(noticed) / len(noticed):.1%} |")


def main() -> None:
    mistakes = list(read_mistakes(MISTAKES.read_text()))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rooms = list(dict.fromkeys(mistake.room for mistake in mistakes))
    parser.add_argument(
        "--only",
        nargs="+",
        choices=rooms,
        default=rooms,
        help="parts of the project (default: all)",
    )
    parser.add_argument("--list", action="store_true", help="list the mistakes, make none")
    default = PROJECT / "runs" / "mutants.csv"
    parser.add_argument(
        "--results",
        type=Path,
        default=default,
        help="file of the results (default: runs/mutants.csv)",
    )
    arguments = parser.parse_args()
    chosen = [mistake for mistake in mistakes if mistake.room in arguments.only]
    if arguments.list:
        print("\n".join(mistake.name for mistake in chosen))
        return

    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    sys.dont_write_bytecode = True
    for library in ("keras", "matplotlib.pyplot", "pytest", "scipy.integrate"):
        importlib.import_module(library)  # here, and not in each fork
    results = read_results(arguments.results)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "project"
        copy_project(tree)
        for result in results_of(chosen, tree, results):
            results[result.name] = result
            write_results(arguments.results, results.values())
            print(f"{result.seconds:5.0f} s  {result.name}\n{'':9s}{result.noticed_by}", flush=True)
    print_table(chosen, results)


if __name__ == "__main__":
    main()
