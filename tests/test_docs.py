"""README and docs: their commands are accepted, their links lead somewhere, their limits hold."""

import argparse
import contextlib
import importlib
import io
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "ddim_keras" / "pretrained").glob("*/*.md"),
]
MOST_LINES, MOST_WORDS = 160, 1100  # of README.md
CODE_SPAN = re.compile(r"`([^`\n]+)`")
# In text, a command for the program alone: other words of the line may follow its name.
ENVIRONMENT = re.compile(r"^([A-Z_]+=\S+ )*(\.venv/bin/)?python ")
FOREIGN = ("venv", "pip", "pytest")  # modules of `python -m` that are not ours


def blocks_of(page):
    """The lines of the code blocks of a page, indented or fenced; a last backslash joins two."""
    lines, is_fenced = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            lines.append(line.strip())
    return re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()


def commands_of(page):
    """The commands of a page that start Python, as lists of words from the script's name on."""
    text = page.read_text(encoding="utf-8")
    for line in [*blocks_of(page), *CODE_SPAN.findall(text)]:
        if ENVIRONMENT.match(line):
            words = shlex.split(ENVIRONMENT.sub("", line), comments=True)
            if words[0] != "-m" or words[1] not in FOREIGN:
                yield words


COMMANDS = sorted(
    {
        (page.relative_to(ROOT).as_posix(), shlex.join(words))
        for page in PAGES
        if page.name != "CHANGELOG.md"  # whose commands are those of their time
        for words in commands_of(page)
    }
)


class Parsed(BaseException):
    """Ends a command once its arguments have been parsed."""


@pytest.fixture
def parse(monkeypatch):
    """Starts a command, and ends it when its arguments are parsed; returns what it printed."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, *arguments, **options):
        original(self, *arguments, **options)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)

    def run(command):
        words = shlex.split(command)
        is_module = words[0] == "-m"
        name, *arguments = words[1:] if is_module else words
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            try:
                if is_module:
                    # It runs as a fresh module. A package stays: a second one in its place would
                    # lack the modules that are already imported from the first.
                    is_package = hasattr(sys.modules.get(name), "__path__")
                    main = f"{name}.__main__" if is_package else name
                    monkeypatch.delitem(sys.modules, main, raising=False)
                    runpy.run_module(name, run_name="__main__")
                else:
                    runpy.run_path(str(ROOT / name), run_name="__main__")
            except Parsed:
                return ""
            except SystemExit as ending:
                return "" if ending.code == 0 else f"{printed.getvalue()}{ending.code}"
        return "it did not parse its arguments"

    return run


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_are_accepted(parse, page, command):
    problem = parse(command)
    assert not problem, f"{page}: python {command}\n{problem}"


def test_commands_are_found():
    assert len(COMMANDS) > 50
    assert ("README.md", "generate.py --steps 20") in COMMANDS


def test_a_wrong_option_is_noticed(parse):
    assert "--stepz" in parse("generate.py --stepz 20")


def anchors_of(page):
    """The anchors of the headings of a page, as GitHub makes them."""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            title = line.lstrip("#").strip().lower()
            yield re.sub(r"[^\w\- ]", "", title).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_exist(page):
    text = CODE_SPAN.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = unquote(target).partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors_of(linked), f"{target}: no such heading"


def test_every_page_and_picture_is_linked():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    files = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "images").iterdir()]
    assert [file.name for file in files if f"{file.name})" not in text] == []


def test_pictures_are_small():
    assert max(path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()) < 500_000


def test_readme_takes_five_minutes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    assert len(text.split()) <= MOST_WORDS


def test_names_in_the_course_exist():
    text = (ROOT / "docs" / "course.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([a-z_.]+)\.(\w+)(?:\(\w+=\.\.\.\))?`", text))
    assert len(names) > 30
    for module, name in names - {("report", "md")}:
        assert hasattr(importlib.import_module(f"ddim_keras.{module}"), name), f"{module}.{name}"


def test_imports_of_the_readme():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")
        exec("\n".join(line for line in block.splitlines() if re.match("import|from", line)), {})


def test_wording_list_is_found_by_its_pattern():
    """codespell looks up what `regex` finds: it must find each phrase of the list as a whole."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["codespell"]
    pattern = re.compile(settings["regex"])
    for line in (ROOT / "tests" / "wording.txt").read_text().splitlines():
        phrase, _ = line.split("->")
        assert pattern.findall(f"so {phrase} it") == ["so", phrase, "it"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("git"), reason="needs git to apply the diffs")
@pytest.mark.parametrize("recipe", ["A sampler", "A preset", "A kind of data set", "A metric"])
def test_recipes_work_as_they_are_written(tmp_path, recipe):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition(f"### {recipe}\n")[2].partition("\n### ")[0]
    [diff] = re.findall(r"```diff\n(.*?)```", section, re.DOTALL)
    [test] = re.findall(r"^    python (-m pytest .*)$", section, re.MULTILINE)
    for name in ("ddim_keras", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.h5"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run(["git", "apply"], input=diff, text=True, cwd=tmp_path, check=True)
    command = [sys.executable, *shlex.split(test)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
