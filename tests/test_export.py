import dataclasses
import json
import runpy
import shutil
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

import ddim_keras.export as export_module
from ddim_keras import DiffusionModel, InputError, ModelConfig, NetworkConfig
from ddim_keras.distillation import Student, student_config
from ddim_keras.export import SMALL, export, export_onnx
from ddim_keras.runs.folder import load_model
from ddim_keras.runs.weights import load_weights
from tests.helpers import NAMES, make_run
from tests.helpers import run as run_here

ONNX_SAMPLING = Path(__file__).parents[1] / "examples" / "onnx_sampling.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "run", num_classes=3)


def loaded(run):
    model = DiffusionModel(run.read_config().model)
    load_weights(model, run.weights_to_show())
    return model


def test_what_is_exported_generates_the_same(run, tmp_path):
    exported = export(run, tmp_path / "new" / "folder")
    images, expected = (
        loaded(each).generate(4, 5, seed=0, labels=[0, 1, 2, -1]) for each in (exported, run)
    )
    assert expected.std() > 0.05
    np.testing.assert_allclose(images, expected, atol=0.01)
    assert exported.read_config() == run.read_config()

    # Nothing of this machine, nor of the weights that were there before.
    exported.save_sampling_steps({1: [0.02, 1.0]})
    places = {"start_from": "/here", "data_dir": "/tfds", "dataset": "/here/flowers.npz"}
    run.save_config(dataclasses.replace(run.read_config(), **places))
    config = export(run, exported.folder).read_config()
    assert (config.start_from, config.data_dir, config.dataset) == (None, None, "flowers.npz")
    assert not exported.sampling_steps_file.exists()


def test_only_the_average_is_kept_in_half_precision(run, tmp_path):
    exported = export(run, tmp_path)
    model, original = loaded(exported), loaded(run)
    networks = (model.network, model.ema_network, original.ema_network)
    for trio in zip(*(network.weights for network in networks), strict=True):
        weight, average, expected = map(ops.convert_to_numpy, trio)
        np.testing.assert_array_equal(weight, average)
        np.testing.assert_allclose(average, expected, rtol=1e-3, atol=1e-6)
    with h5py.File(exported.best_weights) as file:
        assert "optimizer" not in file
        types = {}
        file["ema_network"].visititems(
            lambda name, item: types.setdefault(str(getattr(item, "dtype", None)), []).append(item)
        )
        assert min(item.size for item in types["float16"]) >= SMALL
        assert max(item.size for item in types["float32"]) < SMALL
    assert exported.best_weights.stat().st_size < 0.7 * run.last_weights.stat().st_size


def test_a_run_is_not_overwritten(run, tmp_path):
    other = make_run(tmp_path / "other", num_classes=0)
    before = other.config_file.read_bytes()
    with pytest.raises(InputError, match="holds a run"):
        export(run, other.folder)
    assert other.config_file.read_bytes() == before


def test_other_files_are_refused(run, tmp_path):
    broken = type(run)(shutil.copytree(run.folder, tmp_path / "broken"))
    with h5py.File(broken.last_weights, "w") as file:
        file["layers/dense/vars/0"] = np.zeros(3)
    with pytest.raises(InputError, match="was changed or damaged"):
        export(broken, tmp_path / "out")
    (broken.folder / "manifest.json").unlink()
    earlier = export(run, tmp_path / "out")
    earlier.save_sampling_steps({1: [0.02, 1.0]})
    before = {path.name: path.read_bytes() for path in earlier.folder.iterdir()}
    with pytest.raises(InputError, match="holds no DiffusionModel"):
        export(broken, earlier.folder)
    assert {path.name: path.read_bytes() for path in earlier.folder.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"broken", "out"}


class TestOnnx:
    @pytest.mark.slow
    def test_onnxruntime_generates_the_same(self, run, tmp_path, monkeypatch, capsys):
        pytest.importorskip("tf2onnx", reason="needs tf2onnx: pip install -e .[onnx]")
        pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install -e .[onnx]")
        if keras.backend.backend() != "tensorflow":
            pytest.skip("is exported under TensorFlow")
        monkeypatch.chdir(tmp_path)
        arguments = ("--run", run.folder, "--format", "onnx", "--output", "tiny.onnx")
        assert run_here(export_module, *arguments) == 0
        assert "of Keras" in capsys.readouterr().out
        assert run_here(export_module, *arguments) == "error: tiny.onnx exists; choose another file"

        monkeypatch.setattr(sys, "argv", [str(ONNX_SAMPLING), "tiny.onnx", "rose", "sunflower"])
        runpy.run_path(str(ONNX_SAMPLING))
        assert "2 images in" in capsys.readouterr().out
        pixels = np.asarray(Image.open("flowers.png"))
        labels = [NAMES.index(name) for name in ("rose", "sunflower")]
        expected = load_model(run.last_weights).generate(2, 20, seed=0, labels=labels)
        assert expected.std() > 0.05
        expected = 255 * np.concatenate(list(expected), axis=1)
        np.testing.assert_allclose(pixels, expected, atol=1)
        sys.argv[2:] = ["tulip"]
        with pytest.raises(SystemExit, match="no class tulip"):
            runpy.run_path(str(ONNX_SAMPLING))

    def test_a_student_of_several_is_told_its_number_of_steps(self, tmp_path, monkeypatch):
        pytest.importorskip("tf2onnx", reason="needs tf2onnx: pip install -e .[onnx]")
        onnxruntime = pytest.importorskip("onnxruntime", reason="pip install -e .[onnx]")
        if keras.backend.backend() != "tensorflow":
            pytest.skip("is exported under TensorFlow")
        network = NetworkConfig(image_size=8, widths=(8,), depths=(1,), block="adaptive")
        student = Student(student_config(ModelConfig(network=network), 1, 2), only_average=True)
        random = np.random.default_rng(0)
        for weight in student.network.weights:
            weight.assign(random.normal(0, 0.2, weight.shape))
        devices, device = [], keras.device
        monkeypatch.setattr(keras, "device", lambda name: devices.append(name) or device(name))
        assert export_onnx(student, (), tmp_path / "student.onnx") < 1e-4
        assert devices == ["cpu:0"]  # compared in full precision
        session = onnxruntime.InferenceSession(tmp_path / "student.onnx")
        inputs = {
            "noisy_images": random.standard_normal((1, 8, 8, 3), "float32"),
            "noise_rates": np.full((1, 1, 1, 1), 0.6, "float32"),
            "signal_rates": np.full((1, 1, 1, 1), 0.8, "float32"),
        }
        one, two = (
            session.run(["pred_images"], {**inputs, "step_count_index": np.array([index], "int32")})
            for index in (0, 1)
        )
        assert np.abs(one[0] - two[0]).max() > 1e-2

    def test_mistakes(self, run, tmp_path):
        error = run_here(export_module, "--run", run.folder, "--format", "onnx", "--output", "x")
        assert error == "error: --output must end in .onnx, not 'x'"

    def test_the_folder_is_made_before_the_work(self, run, tmp_path, monkeypatch):
        made = []
        monkeypatch.setattr(
            export_module, "_main_onnx", lambda run, path: made.append(path.parent.is_dir())
        )
        output = tmp_path / "new" / "tiny.onnx"
        output_options = ("--format", "onnx", "--output", output)
        assert run_here(export_module, "--run", run.folder, *output_options) == 0
        assert made == [True]


class TestSafetensors:
    def test_weights_and_configuration_come_back(self, run, tmp_path):
        safetensors = pytest.importorskip("safetensors")
        path = tmp_path / "mine.safetensors"
        arguments = ("--run", run.folder, "--format", "safetensors", "--output", path)
        assert run_here(export_module, *arguments) == 0
        with safetensors.safe_open(path, "np") as file:
            config = json.loads(file.metadata()["config"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert config["class_names"] == list(run.read_config().class_names)
        exported = export(run, tmp_path / "folder")
        assert json.loads(exported.config_file.read_text()) == config
        found = {}
        with h5py.File(exported.best_weights) as file:
            for group in ("ema_network", "vars"):
                file[group].visititems(
                    lambda name, item, group=group: (
                        found.update({f"{group}/{name}": item[()]})
                        if isinstance(item, h5py.Dataset)
                        else None
                    )
                )
        assert found.keys() == arrays.keys()
        for name, values in found.items():
            np.testing.assert_array_equal(arrays[name], values)
        assert "exists; choose another file" in run_here(export_module, *arguments)

    def test_mistakes_are_one_line(self, run, tmp_path, monkeypatch):
        arguments = ("--run", run.folder, "--format", "safetensors", "--output")
        assert "must end in .safetensors" in run_here(export_module, *arguments, tmp_path / "a.h5")
        monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
        message = run_here(export_module, *arguments, tmp_path / "a.safetensors")
        assert message == "error: safetensors is not installed: pip install safetensors"
