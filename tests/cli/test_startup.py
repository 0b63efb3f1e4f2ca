import argparse
import datetime
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ddim_keras.cli import startup
from ddim_keras.cli.interruption import end_at_once, raise_again
from ddim_keras.cli.options import (
    at_least,
    command_line,
    finite,
    whole_path,
    whole_path_of_run,
)
from ddim_keras.cli.startup import choose_backend, run_command
from ddim_keras.cli.train import new_run, parse_arguments, resuming_command
from ddim_keras.config import InputError
from ddim_keras.runs.folder import Run

ROOT = Path(__file__).parents[2]


def run(script, *arguments, flags=()):
    return subprocess.run(
        [sys.executable, *flags, ROOT / script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("no such thing"), "error: no such thing"),
        (InputError("several\n  lines"), "error: several lines"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/disk/file"),
            "error: /disk/file: No space left on device; what was saved before is kept",
        ),
        (OSError("a failure"), "error: a failure; what was saved before is kept"),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "error: Broken pipe; what was saved before"),
        (MemoryError(), "error: not enough memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: 9 GB"), "error: not enough memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "error: not enough memory"),
    ],
)
def test_failures_become_an_exit_status(error, status):
    # A text as status is what Python writes to stderr as a line, exiting with 1.
    with pytest.raises(SystemExit) as caught:
        run_command(raising(error))
    code = caught.value.code
    assert code.startswith(status) if isinstance(status, str) else code == status


def test_success_and_defects_pass_through():
    run_command(lambda: None)
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2", "must be at least 3, not 2"),
        ("-7", "must be at least 3, not -7"),
        ("3.5", "'3.5' is not a whole number"),
        ("many", "'many' is not a whole number"),
        ("", "'' is not a whole number"),
        ("99999999999", "must be at most 2147483647"),
    ],
)
def test_numbers_have_a_minimum(text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        at_least(3)(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_guidance_is_finite(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"must be finite, not {text}"):
        finite(text)
    assert finite("-0.5") == -0.5


def test_numbers_from_the_minimum_on_are_taken():
    assert at_least(3)("3") == 3
    assert at_least(3)("1000") == 1000


class TestBackend:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch):
        monkeypatch.setenv("KERAS_BACKEND", "torch")  # restored at the end in any case
        monkeypatch.setattr(startup.importlib.util, "find_spec", lambda name: name != "jax")

    def test_an_argument_goes_before_the_environment(self, monkeypatch):
        assert choose_backend("tensorflow") == "tensorflow"
        assert startup.os.environ["KERAS_BACKEND"] == "tensorflow"

    def test_the_environment_goes_before_what_is_installed(self):
        assert choose_backend(None) == "torch"

    def test_the_first_installed_one_is_taken(self, monkeypatch):
        monkeypatch.delenv("KERAS_BACKEND")
        assert choose_backend(None) == "tensorflow"

    def test_unknown(self, monkeypatch):
        monkeypatch.setenv("KERAS_BACKEND", "theano")
        with pytest.raises(InputError, match="one of tensorflow, jax, torch, not 'theano'"):
            choose_backend(None)

    def test_not_installed(self):
        with pytest.raises(InputError, match="jax is not installed: pip install jax"):
            choose_backend("jax")

    def test_none_installed(self, monkeypatch):
        monkeypatch.delenv("KERAS_BACKEND")
        monkeypatch.setattr(startup.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match="no Keras backend is installed"):
            choose_backend(None)


@pytest.mark.parametrize("script", ["train.py", "generate.py", "evaluate.py"])
def test_help_imports_nothing_slow(script):
    result = run(script, "--help", flags=("-X", "importtime"))
    assert result.returncode == 0
    assert "examples:" in result.stdout
    assert "default" in result.stdout
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"keras", "tensorflow", "jax", "torch", "matplotlib", "matplotlib.figure"}


EXAMPLES = ("class_conditional", "codec", "gan", "guidance", "progressive", "swiss_roll")


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_import_keras_only_after_their_options(name):
    result = run(f"examples/{name}.py", "--help", flags=("-X", "importtime"))
    assert result.returncode == 0
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"keras", "tensorflow", "jax", "torch"}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train.py --epochs 0", "--epochs: must be at least 1, not 0"),
        ("train.py --batch-size 1.5", "--batch-size: '1.5' is not a whole number"),
        ("train.py --preset slow", "--preset: invalid choice: 'slow'"),
        ("generate.py --steps 0", "--steps: must be at least 1, not 0"),
        ("generate.py --run a --weights b", "--weights: not allowed with argument --run"),
    ],
)
def test_bad_arguments(command, message):
    result = run(*command.split())
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert not result.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "generate.py --run nowhere",
            "there is no run nowhere: neither the folder nowhere, nor runs/nowhere",
        ),
        ("train.py --resume --output nowhere", "there is no run nowhere"),
    ],
)
def test_mistakes_are_one_line(command, message):
    result = run(*command.split())
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message}")
    assert not result.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-", "| head -0"])
def test_streams_that_nobody_reads(closed):
    command = f"{sys.executable} {ROOT / 'generate.py'} --run nowhere {closed}"
    result = subprocess.run(
        ["bash", "-c", command + "; exit ${PIPESTATUS[0]}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert not result.stderr or result.stderr.startswith("error: there is no run nowhere")


INTERRUPTED = {
    **{name: (name,) for name in ("train.py", "generate.py", "evaluate.py", "app.py")},
    **{name: ("-m", f"ddim_keras.{name}") for name in ("export", "doctor", "plots", "check")},
    "ddim-train": (
        "-c",
        "import signal, sys\n"
        "sys.addaudithook(lambda event, arguments: event == 'import' and arguments[0] == "
        "'ddim_keras.cli.scripts' and signal.raise_signal(signal.SIGINT))\n"
        "from ddim_keras.cli.commands import train; train()",
        "--help",
    ),
    "at the end": (
        "-c",
        "import atexit, signal; atexit.register(signal.raise_signal, signal.SIGINT)\n"
        "from ddim_keras.cli.startup import run_command; run_command(lambda: None)",
    ),
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_ctrl_c_while_python_is_busy_shows_no_traceback(name, tmp_path):
    """While modules are imported, of which one sends the signal, or when the command is over."""
    (tmp_path / "argparse.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    result = subprocess.run(
        [sys.executable, *INTERRUPTED[name]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        capture_output=True,
        text=True,
        # Tests that a script runs in the background inherit a Ctrl-C that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


def test_ctrl_c_stays_ignored_in_the_background():
    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.SIG_IGN, signal.default_int_handler):
            signal.signal(signal.SIGINT, handler)
            end_at_once()
            raise_again()
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_folder_of_pictures_does_not_hide_the_provided_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("flowers").mkdir()
    assert whole_path("flowers") == str(Path("flowers").resolve())  # a data set
    assert whole_path_of_run("flowers") == "flowers"
    Path("flowers/config.json").touch()
    assert whole_path_of_run("flowers") == str(Path("flowers").resolve())
    with pytest.raises(argparse.ArgumentTypeError, match="must not be empty"):
        whole_path_of_run("")


@pytest.mark.parametrize(
    ("system", "line"),
    [
        ("posix", r"python generate.py --class 'sweet pea' --run 'runs\mine'"),
        ("nt", r'python generate.py --class "sweet pea" --run runs\mine'),
    ],
)
def test_commands_to_copy_are_quoted_for_the_shell(system, line, monkeypatch):
    words = ["python", "generate.py", "--class", "sweet pea", "--run", r"runs\mine"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", system)
        written = command_line(words)
    assert written == line


def test_the_name_of_a_run_is_one_on_every_system():
    run, _ = new_run(parse_arguments(["--dataset", "mnist:3.*.*"]), "fast")
    assert run.folder.name.startswith("fast-mnist-3.")
    assert not set(run.folder.name) & set('<>:"/\\|?*')
    run, _ = new_run(parse_arguments(["--dataset", "My (new) photos"]), "fast")
    assert run.folder.name.startswith("fast-My--new--photos-")


def test_two_trainings_of_one_second_have_two_folders(tmp_path, monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 1, 2)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datetime.datetime", Clock)
    names = []
    for _ in range(3):
        run, _ = new_run(parse_arguments([]), "fast")
        run.folder.mkdir(parents=True)
        names.append(run.folder.name)
    name = "fast-flowers-20260102-000000"
    assert names == [name, f"{name}-2", f"{name}-3"]


@pytest.mark.parametrize("arguments", [[], ["--backend", "torch"]])
def test_the_command_that_resumes_names_the_backend(arguments, monkeypatch):
    """KERAS_BACKEND may have been set for the first command only."""
    monkeypatch.setattr("ddim_keras.cli.train.default_backend", lambda: "tensorflow")
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    options = parse_arguments(arguments)
    for backend, expected in (("tensorflow", ""), ("torch", " --backend torch")):
        monkeypatch.setenv("KERAS_BACKEND", backend)
        command = resuming_command(options, Run(Path("runs/new")))
        if arguments:
            assert command == "python train.py --backend torch --resume --output runs/new"
        else:
            assert command == f"python train.py --resume --output runs/new{expected}"
