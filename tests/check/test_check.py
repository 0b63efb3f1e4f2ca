"""The checker: right solutions pass without a complaint, each known mistake is named."""

import ast
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from wrong_solutions import SOLUTIONS, WRONG, wrong_solution

from ddim_keras.check import child, closed_forms, observations
from ddim_keras.check.__main__ import check, main
from ddim_keras.check.judge import judge
from ddim_keras.check.mistakes import MISTAKES
from ddim_keras.check.source import Source, parse
from ddim_keras.config import InputError

NUMPY = [key for key, (_, base, _) in WRONG.items() if base.startswith("numpy")]
OTHERS = [key for key in WRONG if key not in NUMPY]
EXERCISE_OF_NUMPY = ("sample_xt", "sample")


def verdicts_of(path, only=()):
    """The verdicts on a file that is executed in this process."""
    written = {}

    def write(name, value):
        file = path.parent / f"{path.stem}_{name}"
        observations.save(file, value)
        written[name.removesuffix(".npz")] = observations.load(file)
        file.unlink()

    child.try_file(path, write, only=only)
    return judge({**written.pop("file"), "gaps": written}, only)


@pytest.fixture(autouse=True)
def compiled_afterwards():
    """The checker makes libraries run uncompiled, which in this process others would notice."""
    yield
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].config.run_functions_eagerly(False)
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_disable_jit", False)


def test_a_file_is_tried_without_a_gpu(monkeypatch, tmp_path):
    """Even if the environment names one, as on a cluster."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("KERAS_TORCH_DEVICE", "mps")
    for name in ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "MPLBACKEND", "TORCHDYNAMO_DISABLE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # restored at the end
    for name in ("limit_memory", "try_file"):
        monkeypatch.setattr(child, name, lambda *_: None)
    child.main(["my_lab.py", str(tmp_path), "60", "4096"])
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    assert os.environ["KERAS_TORCH_DEVICE"] == "cpu"


@pytest.fixture
def as_file(tmp_path):
    """Writes a student's text to a file."""

    def write(text, name="my_lab.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def of_a_solution(tmp_path):
    """Copies a right solution, so that nothing is written beside it."""

    def copy(name):
        path = tmp_path / name
        path.write_bytes((SOLUTIONS / name).read_bytes())
        return path

    return copy


def assert_right(verdicts):
    for verdict in verdicts:
        assert verdict.status == "right", (verdict.gap, verdict.error, verdict.tests)
        assert not verdict.mistakes
        assert not verdict.sentences


def assert_named(key, verdict):
    assert verdict.status == "wrong", (verdict.tests, verdict.hints)
    assert key in verdict.mistakes[:2], (verdict.mistakes, verdict.error, verdict.tests)
    assert MISTAKES[key] in verdict.sentences


# Right solutions.


@pytest.mark.parametrize("name", ["numpy_functions.py", "numpy_class.py", "notebook.ipynb"])
def test_right_solutions_in_numpy(of_a_solution, name):
    verdicts = verdicts_of(of_a_solution(name))
    assert [verdict.gap for verdict in verdicts] == [
        "diffusion_schedule",
        "denoise",
        "reverse_diffusion",
    ]
    assert_right(verdicts)


def test_right_exercise_in_numpy(of_a_solution):
    assert_right(verdicts_of(of_a_solution("numpy_exercise.py"), EXERCISE_OF_NUMPY))


@pytest.mark.parametrize(
    ("name", "functions"),
    [
        ("jax_functions.py", 3),
        ("torch_class.py", 4),
        pytest.param("tensorflow_class.py", 3, marks=pytest.mark.slow),
        pytest.param("tensorflow_given_networks.py", 4, marks=pytest.mark.slow),
        pytest.param("keras_class.py", 4, marks=pytest.mark.slow),
        pytest.param("keras_exercise.py", 3, marks=pytest.mark.slow),
        pytest.param("torch_functions.py", 3, marks=pytest.mark.slow),
        pytest.param("torch_exercise.py", 4, marks=pytest.mark.slow),
        pytest.param("torch_exercise_class.py", 3, marks=pytest.mark.slow),
    ],
)
def test_right_solutions_in_other_libraries(monkeypatch, name, functions):
    """In a process of its own, as a user has it."""
    pytest.importorskip(name.split("_")[0])
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")  # whose gradient tape the files use
    result, text = check(SOLUTIONS / name)
    assert result["passed"], text
    assert len(result["functions"]) == functions
    assert not any(function["mistakes"] for function in result["functions"])


def test_a_training_step_in_jax_is_not_checked(monkeypatch, as_file):
    pytest.importorskip("jax")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    step = """
import keras

class Lab(keras.Model):
    def train_step(self, state, data):
        weights, others, of_optimizer, of_metrics = state
"""
    text = (SOLUTIONS / "jax_functions.py").read_text() + step
    result, text = check(as_file(text), only=["train_step"])
    assert result["functions"][0]["status"] == "not checked", text
    assert "not JAX" in text


def in_another_style(*replacements, name="numpy_functions.py"):
    """A right solution in NumPy with passages replaced."""
    text = (SOLUTIONS / name).read_text()
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    return text


STYLES = {
    "postponed annotations": in_another_style(
        ("import math\n", "from __future__ import annotations\nimport math\n"),
        ("def denoise(network,", "def denoise(network: OnlyForTypeCheckers,"),
    ),
    "times (B,)": in_another_style(
        ("np.cos(angles)", "np.cos(angles)[:, None, None, None]"),
        ("np.sin(angles)", "np.sin(angles)[:, None, None, None]"),
        ("np.ones((len(initial_noise), 1, 1, 1))", "np.ones(len(initial_noise))"),
    ),
    "a global network in a helper": in_another_style(
        (
            "def denoise(network, ema_network, ",
            "def run(*x):\n    return model(x)\n\n\ndef denoise(",
        ),
        ("    chosen = network if training else ema_network\n", ""),
        (
            "chosen([noisy_images, noise_rates**2], training=training)",
            "run(noisy_images, noise_rates**2)",
        ),
        ("def reverse_diffusion(network, ema_network, ", "def reverse_diffusion("),
        ("            network, ema_network, noisy_images", "            noisy_images"),
    ),
    "two constants of an own function": in_another_style(
        (
            "def diffusion_schedule",
            "def ends():\n    return 0.95, 0.02\n\nfirst, last = ends()\n\ndef diffusion_schedule",
        ),
        ("math.acos(max_signal_rate)", "math.acos(first)"),
        ("math.acos(min_signal_rate)", "math.acos(last)"),
    ),
    "shown in a notebook": in_another_style(
        ("    step_size = ", "    display(initial_noise)\n    step_size = ")
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_right_solutions_in_unusual_styles(as_file, style):
    assert_right(verdicts_of(as_file(STYLES[style])))


def test_a_class_without_an_average_may_say_remaining(as_file):
    """The word has the letters of an average, ema."""
    text = """
import numpy as np

class Diffusion:
    def __init__(self, network):
        self.network, self.remaining = network, 1

    def denoise(self, noisy_images, noise_rates, signal_rates, training):
        "The remaining noise."
        noises = self.network([noisy_images, noise_rates**2], training=training)
        return noises, (noisy_images - noise_rates * noises) / signal_rates
"""
    assert_right(verdicts_of(as_file(text), ["denoise"]))


def test_steps_changed_in_place(as_file):
    text = in_another_style(
        ("    for t in range", "    steps = np.zeros(count, int)\n    for t in range"),
        ("steps = np.full(count, t)", "steps[:] = t"),
        name="numpy_exercise.py",
    )
    assert_right(verdicts_of(as_file(text), ["sample"]))


def test_sample_xt_with_the_factors_of_the_file(as_file):
    text = in_another_style(
        (
            "import numpy as np\n",
            "import numpy as np\n\nalphaBars = np.cumprod(np.linspace(0.999, 0.98, 100))\n",
        ),
        ("def sample_xt(x0, t, epsilon, alphaBars)", "def sample_xt(x0, t, epsilon)"),
        name="numpy_exercise.py",
    )
    assert_right(verdicts_of(as_file(text), ["sample_xt"]))


def test_a_file_may_name_a_gpu(as_file):
    text = "device = torch.device('cuda:0')\nx = f(x).to(device).cuda()\nname = 'cuda is fast'\n"
    lines = [ast.unparse(statement) for statement in parse(as_file(text))]
    assert lines == [
        "device = torch.device('cpu')",
        "x = f(x).to(device).cpu()",
        text.splitlines()[2],
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.network.trainable_weights", "self.trainable_variables"),
        ("self.loss(noises, pred_noises)", "self.compute_loss(y=noises, y_pred=pred_noises)"),
    ],
)
def test_train_step_in_the_style_of_keras(monkeypatch, as_file, old, new):
    pytest.importorskip("tensorflow")
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    result, text = check(
        as_file(in_another_style((old, new), name="keras_class.py")), ["train_step"]
    )
    assert result["passed"], text


@pytest.mark.slow
def test_training_that_shows_samples(monkeypatch, as_file):
    pytest.importorskip("torch")
    text = in_another_style(
        ('        print(f"epoch', '        sample(ddpm, 4)\n        print(f"epoch'),
        ("device=device)", 'device="cuda")'),
        name="torch_exercise.py",
    )
    result, text = check(as_file(text), ["train"])
    assert result["passed"], text


# The catalogue.


def test_each_mistake_is_written_once():
    assert set(WRONG) == set(MISTAKES)
    assert len(MISTAKES) >= 25
    assert len(set(MISTAKES.values())) == len(
        {key.split(".")[1] + s for key, s in MISTAKES.items()}
    )


def test_the_page_counts_the_mistakes():
    page = (SOLUTIONS.parents[2] / "docs" / "checker.md").read_text()
    assert f"describes {len(MISTAKES)} mistakes" in page


@pytest.mark.parametrize("key", NUMPY)
def test_mistakes_in_numpy_are_named(as_file, key):
    gap, text = wrong_solution(key)
    (verdict,) = verdicts_of(as_file(text), [gap])
    assert_named(key, verdict)


@pytest.mark.slow
@pytest.mark.parametrize("key", OTHERS)
def test_mistakes_in_other_libraries_are_named(as_file, key):
    library = WRONG[key][1].split("_")[0]
    pytest.importorskip(library)
    if library == "keras" and keras.backend.backend() != "tensorflow":
        pytest.skip("the file uses the gradient tape of TensorFlow")
    gap, text = wrong_solution(key)
    (verdict,) = verdicts_of(as_file(text), [gap])
    assert_named(key, verdict)


def test_a_mistake_in_one_function_is_not_blamed_on_another(as_file):
    _, text = wrong_solution("denoise.sign")
    statuses = {verdict.gap: verdict.status for verdict in verdicts_of(as_file(text))}
    assert statuses == {
        "diffusion_schedule": "right",
        "denoise": "wrong",
        "reverse_diffusion": "right",
    }


def test_two_mistakes_at_once(as_file):
    _, text = wrong_solution("denoise.gets_noise_rate")
    text = text.replace("noisy_images - noise_rates * pred", "noisy_images + noise_rates * pred")
    (verdict,) = verdicts_of(as_file(text), ["denoise"])
    assert verdict.mistakes == ["denoise.gets_noise_rate", "denoise.sign"]


# The closed forms are those of the project.


def test_closed_forms_agree_with_the_project():
    from keras import ops

    from ddim_keras import DiffusionModel, ModelConfig, NetworkConfig

    network = NetworkConfig(image_size=8, widths=(8,), depths=(1,))
    model = DiffusionModel(ModelConfig(network=network))

    def exact_denoiser(noisy_images, noise_rates, signal_rates):
        images, noise = (ops.convert_to_numpy(value) for value in (noisy_images, noise_rates))
        pred_noises = closed_forms.gaussian_denoiser(images, noise**2)
        pred_noises = ops.convert_to_tensor(pred_noises, dtype="float32")
        return pred_noises, (noisy_images - noise_rates * pred_noises) / signal_rates

    noise = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype("float32")
    images = model.reverse_diffusion(noise, 5, denoise=exact_denoiser)
    expected = closed_forms.ddim_of_gaussian(noise, 5)
    np.testing.assert_allclose(ops.convert_to_numpy(images), expected, atol=1e-4)
    times = np.linspace(0, 1, 5, dtype="float32").reshape(-1, 1, 1, 1)
    for rates, expected in zip(
        model.diffusion_schedule(ops.convert_to_tensor(times)),
        closed_forms.rates(times),
        strict=True,
    ):
        np.testing.assert_allclose(ops.convert_to_numpy(rates), expected, atol=1e-5)


# What is executed of a file.


def test_cells_of_a_notebook_that_are_not_python(as_file):
    cells = [
        "pip install -q numpy",
        "!pip install a \\\n    b\nfirst = 1",
        "%matplotlib inline\nprint('%d'\n    % first)\nsecond = 2",
        "an answer in the wrong kind of cell",
        "third = 3",
    ]
    cells = [{"cell_type": "code", "source": cell} for cell in cells]
    source = Source(as_file(json.dumps({"cells": cells}), "a.ipynb"))
    source.execute([])
    assert [source.namespace[name] for name in ("first", "second", "third")] == [1, 2, 3]
    assert list(source.problems) == ["code cell 4"]


def test_a_script_is_not_run(as_file, tmp_path):
    marker = tmp_path / "trained"
    text = f"""
import os
from pathlib import Path
import a_module_that_does_not_exist as missing
batch_size = 4
betas = [0.1 * i for i in range(3)]
names = os.listdir(".")
class Model:
    def fit(self): Path({str(marker)!r}).touch()
Path({str(marker)!r}).touch()
model = Model()
history = model.fit()
for _ in range(3):
    Path({str(marker)!r}).touch()
if __name__ == "__main__":
    Path({str(marker)!r}).touch()
with open({str(marker)!r}, "w") as file:
    file.write("")
"""
    source = Source(as_file(text))
    source.execute(["denoise"])
    assert not marker.exists()
    assert source.namespace["batch_size"] == 4
    assert source.namespace["betas"] == pytest.approx([0.0, 0.1, 0.2])
    assert {"model", "history", "file"}.isdisjoint(source.namespace)


def test_a_module_beside_the_file_is_not_run_either(as_file, tmp_path):
    (tmp_path / "my_helpers.py").write_text("raise SystemExit('trained')\n")
    (tmp_path / "my_schedule.py").write_text(
        "import numpy as np\nEND = np.arccos(0.02)\nprint('training')\nmodel.fit()\n"
    )
    source = Source(as_file("from my_schedule import END\nimport my_helpers\n"))
    sys.meta_path.insert(0, finder := child.LocalModules(tmp_path))
    try:
        source.execute([])
    finally:
        sys.meta_path.remove(finder)
        sys.modules.pop("my_schedule", None)
        sys.modules.pop("my_helpers", None)
    assert source.namespace["END"] == pytest.approx(np.arccos(0.02))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("def denoise(:\n", "a.py", "a.py, line 1"),
        ("x = 1\n\ndef f(a):\n  return (a\n", "a.py", "line 4"),
        ("{}", "a.ipynb", "not a notebook"),
        ("\0", "a.py", "a.py"),
    ],
)
def test_files_that_cannot_be_read(as_file, text, name, message):
    with pytest.raises(InputError, match=message):
        parse(as_file(text, name))


# The command.


def test_help_is_fast():
    command = [sys.executable, "-m", "ddim_keras.check", "--help"]
    resource = pytest.importorskip("resource")  # time of the processor: the machine may be busy
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "usage" in result.stdout
    assert min(seconds) < 0.2


def test_command_passes_a_right_solution(capsys):
    assert main([str(SOLUTIONS / "numpy_functions.py")]) == 0
    assert "3 of 3 right" in capsys.readouterr().out


def test_command_names_the_mistake(as_file, capsys):
    _, text = wrong_solution("reverse_diffusion.noisy_returned")
    path = as_file("print('[noise on the standard output')\n" + text)
    assert main([str(path), "--json"]) == 1
    (result,) = json.loads(capsys.readouterr().out)
    functions = {function["name"]: function for function in result["functions"]}
    assert functions["reverse_diffusion"]["mistakes"] == ["reverse_diffusion.noisy_returned"]
    assert functions["denoise"]["status"] == "right"
    assert not result["passed"]


def test_any_letters_may_be_printed(as_file, capsys, monkeypatch):
    """Also where files are in cp1252 by default, as on Windows."""
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    text = (SOLUTIONS / "numpy_functions.py").read_text()
    path = as_file(
        text.replace("    step_size = ", '    print("x\u209c \u2192 x\u2080")\n    step_size = ')
    )
    assert main([str(path)]) == 0
    assert "3 of 3 right" in capsys.readouterr().out


def test_wildcards_that_the_shell_has_left(as_file, tmp_path, capsys):
    text = (SOLUTIONS / "numpy_functions.py").read_text()
    for name in ("grace \u2192.py", "ada.py"):
        as_file(text, name)
    arguments = (str(tmp_path / "*.py"), "--only", "diffusion_schedule", "--json")
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    names = [result["file"] for result in json.loads(printed)]
    assert names == [str(tmp_path / "ada.py"), str(tmp_path / "grace \u2192.py")]
    assert main([str(tmp_path / "*.ipynb")]) == 2
    assert f"cannot read {tmp_path / '*.ipynb'}" in capsys.readouterr().err


def test_points_are_a_row_for_each_file(as_file, tmp_path, capsys):
    _, text = wrong_solution("denoise.order")
    files = [str(SOLUTIONS / "numpy_functions.py"), str(as_file(text)), str(tmp_path / "absent.py")]
    assert main([*files, "--points"]) == 2
    out, err = capsys.readouterr()
    rows = [row.split(",") for row in out.splitlines()]
    assert rows[0] == ["file", "diffusion_schedule", "denoise", "reverse_diffusion", "sum", "of"]
    assert rows[1][1:] == ["1", "1", "1", "3", "3"]
    assert rows[2][1:] == ["1", "0", "1", "2", "3"]
    assert rows[3][1:] == ["", "", "", "0", "0"]
    assert "absent.py" in err
    assert "Traceback" not in err


def test_a_table_says_on_standard_error_how_far_it_is_and_what_was_not_checked(as_file, capsys):
    text = (SOLUTIONS / "numpy_functions.py").read_text()
    text = text.replace("    chosen = ", "    np.load('/content/drive/weights.npy')\n    chosen = ")
    path = str(as_file(text))
    assert main([path, path, "--points", "--only", "denoise"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == [f"{path},,0,0"] * 2
    assert f"2 of 2: {path}" in err
    assert f"{path}: denoise not checked: it needs a file or folder that is not here" in err


def test_a_fault_of_the_checker_does_not_end_the_check_of_other_files(monkeypatch, capsys):
    monkeypatch.setattr("ddim_keras.check.judge.judge", lambda *_: 1 / 0)
    path = str(SOLUTIONS / "numpy_functions.py")
    assert main([path, path, "--only", "denoise"]) == 2
    assert capsys.readouterr().err.count("a fault of the checker: ZeroDivisionError") == 2


def test_images_that_are_not_numbers(as_file):
    text = (SOLUTIONS / "numpy_exercise.py").read_text()
    path = as_file(text.replace("sigma = np.sqrt(beta)", "sigma = np.sqrt(-beta)"))
    (verdict,) = verdicts_of(path, ["sample"])
    assert not verdict.tests["images stay finite"]


def test_gaps_that_are_not_filled(as_file, capsys):
    text = "def diffusion_schedule(t):\n    raise NotImplementedError\n\ndef denoise():\n    pass\n"
    assert main([str(as_file(text))]) == 1
    out = capsys.readouterr().out
    assert "not written yet" in out
    assert "not found" in out


def test_file_without_any_gap(as_file, capsys):
    assert main([str(as_file("x = 1\n"))]) == 2
    assert "none of the functions" in capsys.readouterr().err


def test_module_that_is_not_installed_is_not_the_mistake(as_file, capsys):
    text = (SOLUTIONS / "numpy_functions.py").read_text()
    text = text.replace("import math\n", "import math\nimport not_installed_here as missing\n")
    text = text.replace("    chosen = ", "    missing.rearrange(noisy_images)\n    chosen = ")
    assert main([str(as_file(text)), "--only", "denoise"]) == 2
    out = capsys.readouterr().out
    assert "it needs not_installed_here" in out
    assert "0 of 0 right, 1 not checked" in out


def test_endless_loop_is_stopped(as_file, capsys):
    text = (SOLUTIONS / "numpy_functions.py").read_text()
    text = text.replace("    step_size = ", "    while True:\n        pass\n    step_size = ")
    assert main([str(as_file(text)), "--seconds", "1"]) == 1
    out = capsys.readouterr().out
    assert "no result within 1 s" in out
    assert "2 of 3 right" in out


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
def test_memory_is_limited(as_file, capsys):
    text = (SOLUTIONS / "numpy_functions.py").read_text()
    text = text.replace("    step_size = ", "    np.ones(10**10)\n    step_size = ")
    assert main([str(as_file(text)), "--memory", "1000"]) == 1
    assert "2 of 3 right" in capsys.readouterr().out


def test_a_process_that_ends_itself(as_file, capsys):
    text = (SOLUTIONS / "numpy_functions.py").read_text()
    text = "import os\n" + text.replace("    step_size = ", "    os._exit(0)\n    step_size = ")
    assert main([str(as_file(text))]) == 1
    out = capsys.readouterr().out
    assert "2 of 3 right" in out
    assert "the process ended" in out


def test_functions_after_the_end_of_the_process_are_not_wrong(as_file, capsys):
    text = (SOLUTIONS / "numpy_functions.py").read_text()
    text = "import os\n" + text.replace("    chosen = ", "    os._exit(0)\n    chosen = ")
    assert main([str(as_file(text))]) == 1
    out = capsys.readouterr().out
    assert "`--only reverse_diffusion`" in out
    assert "1 of 2 right, 1 not checked" in out
