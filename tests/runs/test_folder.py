import dataclasses
import errno
import json
import math
import shutil
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest

from ddim_keras.config import InputError, ModelConfig, NetworkConfig, TrainingConfig
from ddim_keras.model import DiffusionModel
from ddim_keras.runs.configuration import KIDProtocol, RunConfig, read_config
from ddim_keras.runs.folder import PRETRAINED, Run, find_run, load_model, newest_run
from ddim_keras.runs.weights import load_weights, save_weights
from tests.helpers import EPOCH

CONFIG = RunConfig(
    preset="lab",
    model=ModelConfig(network=NetworkConfig(image_size=8, widths=(8,), depths=(1,))),
    training=TrainingConfig(batch_size=8, loss="mae"),
    dataset="photos/",
    data_dir=None,
    epochs=3,
    num_images=100,
)


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "runs" / "mine")
    run.save_config(CONFIG)
    return run


@pytest.fixture(scope="module")
def model():
    return DiffusionModel(CONFIG.model)


@pytest.fixture(scope="module")
def weights_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "last.weights.h5"
    save_weights(model, path)
    return path


def test_a_configuration_survives_its_file(run):
    assert run.read_config() == CONFIG
    assert {path.name for path in run.folder.iterdir()} == {"config.json", "manifest.json"}


def test_searched_steps_survive_their_file_and_are_added_to(run):
    with pytest.raises(InputError, match=r"no steps have been searched .* --search-steps 5 10 20"):
        run.read_sampling_steps()
    run.save_sampling_steps({2: [0.02, 0.7, 1.0], 1: [0.02, 1.0]})
    run.save_sampling_steps({2: [0.02, 0.8, 1.0]})
    assert run.read_sampling_steps() == {1: [0.02, 1.0], 2: [0.02, 0.8, 1.0]}


def test_searched_steps_go_with_the_weights_that_they_were_searched_for(run, model):
    def is_kept_after(action):
        run.save_sampling_steps({1: [0.02, 1.0]})
        action()
        return run.sampling_steps_file.exists()

    assert not is_kept_after(lambda: run.save_last(model))
    assert not is_kept_after(run.keep_last_as_best)
    # From now on the best weights are those to show, and an epoch that is not better leaves them.
    assert is_kept_after(lambda: run.save_last(model))
    assert not is_kept_after(run.keep_last_as_best)


@pytest.mark.parametrize("text", ["", "[]", '{"2": [0.1, 1.0]}', '{"one": [0.1, 1]}', '{"1": 3}'])
def test_broken_searched_steps_are_named(run, text):
    run.sampling_steps_file.write_text(text)
    with pytest.raises(InputError, match=r"sampling_steps\.json is not a file of searched steps"):
        run.read_sampling_steps()


def test_a_configuration_of_before_the_number_of_images_was_kept(run):
    values = CONFIG.to_dict()
    del values["num_images"]
    run.config_file.write_text(json.dumps(values))
    assert run.read_config().num_images is None


def test_the_protocol_of_the_kid_survives_and_earlier_ones_had_no_guidance(run):
    protocol = KIDProtocol("KID, X, 64", 320, guidance=1.0)
    run.save_config(dataclasses.replace(CONFIG, protocol=protocol))
    assert run.read_config().protocol == protocol
    run.config_file.write_text(json.dumps({**CONFIG.to_dict(), "protocol": "KID, X, 64"}))
    assert run.read_config().protocol == KIDProtocol("KID, X, 64", None, "ddim", 5, 0.0, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(protocol={"metric": "KID", "steps": "5"}), "steps must be"),
        (lambda values: values.update(protocol=5), ""),
        (lambda values: values.pop("preset"), "preset"),
        (lambda values: values.update(epochs=0), "epochs must be at least 1"),
        (lambda values: values.update(colour="red"), "RunConfig has no field colour"),
        (lambda values: values["training"].update(rate=1), "TrainingConfig has no field rate"),
        (lambda values: values["model"].update(depth=1), "ModelConfig has no field depth"),
        (lambda values: values["model"].pop("network"), "network"),
        (lambda values: values["model"]["network"].update(image_size="8"), ""),
        (lambda values: values.update(model=[]), ""),
    ],
)
def test_broken_configurations_are_refused(run, change, message):
    values = CONFIG.to_dict()
    change(values)
    run.config_file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"is not the configuration of a run.*{message}"):
        run.read_config()


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b"3", b"\xff\xfe"])
def test_a_file_that_is_no_configuration(run, contents):
    run.config_file.write_bytes(contents)
    with pytest.raises(InputError, match=r"config\.json is not the configuration of a run"):
        read_config(run.folder)


def test_a_folder_that_is_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match=r"is not a run folder: it holds no config\.json"):
            read_config(folder)
        with pytest.raises(InputError, match="is not a run folder"):
            Run(folder).weights_to_show()


def test_a_new_run_needs_an_empty_place(run, tmp_path):
    (tmp_path / "empty").mkdir()
    Run(tmp_path / "empty").require_new()
    Run(tmp_path / "missing").require_new()
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        run.require_new()
    with pytest.raises(InputError, match="is not an empty folder"):
        Run(tmp_path).require_new()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not an empty folder"):
        Run(tmp_path / "file").require_new()


def test_history_survives_its_file(run):
    rows = [
        {**EPOCH, "noise_loss": 0.1 + 0.2, "kid": -1e-05},
        {**EPOCH, "epoch": 2, "noise_loss": 1e30},
        {**EPOCH, "epoch": 3, "kid": 2.0, "late": -3.0},
    ]
    run.write_history(rows)
    assert run.read_history() == rows
    assert run.history_file.read_text().splitlines()[0] == ",".join([*EPOCH, "kid", "late"])
    assert {path.name for path in run.folder.iterdir()} == {
        "config.json",
        "history.csv",
        "manifest.json",
    }


def test_history_keeps_what_is_not_finite(run):
    run.write_history([{**EPOCH, "kid": math.inf, "kid_standard_error": math.nan}])
    ((*_, kid, error),) = (row.values() for row in run.read_history())
    assert kid == math.inf
    assert math.isnan(error)


def test_no_history(run):
    assert run.read_history() == []
    run.write_history([])
    assert run.read_history() == []


@pytest.mark.parametrize(
    "text", ["epoch,loss\n1,abc\n", "loss\n0.5\n", "epoch\nx\n", "epoch\n1,2,3\n", "epoch\n1.5\n"]
)
def test_a_broken_history_is_refused(run, text):
    run.history_file.write_text(text)
    with pytest.raises(InputError, match=r"history\.csv is not the history of a run"):
        run.read_history()


def test_the_newest_run_is_the_one_started_last(tmp_path):
    with pytest.raises(InputError, match=r"no run under .*train one with"):
        newest_run(tmp_path / "missing", with_weights=False)
    assert newest_run(tmp_path / "missing").folder == PRETRAINED
    times = {"a": "2026-01-02T10:00:00", "c": "2026-01-03T09:00:00", "b": None}
    for name, time in times.items():  # the order in which files are written decides nothing
        run = Run(tmp_path / name)
        run.save_config(dataclasses.replace(CONFIG, started=time))
        run.last_weights.touch()
    assert newest_run(tmp_path) == Run(tmp_path / "c")
    Run(tmp_path / "a").save_config(dataclasses.replace(CONFIG, started="2026-01-04T10:00:00"))
    assert newest_run(tmp_path) == Run(tmp_path / "a")  # resumed

    # One that was killed before its first epoch ended can be resumed, but not shown.
    Run(tmp_path / "killed").save_config(dataclasses.replace(CONFIG, started="2026-01-05T10:00:00"))
    assert newest_run(tmp_path) == Run(tmp_path / "a")
    assert newest_run(tmp_path, with_weights=False) == Run(tmp_path / "killed")


def test_a_run_is_found_by_folder_name_or_provided_model(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_run(run.folder) == run
    assert find_run("mine").folder.resolve() == run.folder
    assert find_run("flowers").folder == PRETRAINED
    (tmp_path / "flowers").mkdir()  # a folder of photographs
    assert find_run("flowers").folder == PRETRAINED
    message = r"no run yours: neither the folder yours, nor runs/yours, nor .*\(flowers.*\)"
    with pytest.raises(InputError, match=message):
        find_run("yours")


def test_the_best_weights_are_shown(run):
    with pytest.raises(InputError, match="holds no weights yet"):
        run.weights_to_show()
    run.last_weights.write_bytes(b"last")
    assert run.weights_to_show() == run.last_weights
    run.keep_last_as_best()
    assert run.weights_to_show() == run.best_weights
    assert run.best_weights.read_bytes() == b"last"
    assert not list(run.folder.glob("part-*"))


def test_weights_survive_their_file(model, weights_file):
    # From another seed; test_model.py compares what they generate.
    other = DiffusionModel(ModelConfig(network=CONFIG.model.network, seed=1))
    kernels = [m.network.trainable_variables[0] for m in (model, other)]
    assert not np.allclose(*map(keras.ops.convert_to_numpy, kernels))
    load_weights(other, weights_file)
    for before, after in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert {path.name for path in weights_file.parent.iterdir()} == {
        weights_file.name,
        "manifest.json",
    }


@pytest.mark.parametrize(
    "network",
    [
        NetworkConfig(image_size=8, widths=(16,), depths=(1,)),
        NetworkConfig(image_size=8, widths=(8,), depths=(2,)),
        NetworkConfig(image_size=8, widths=(8, 8), depths=(1, 1)),
        NetworkConfig(image_size=8, widths=(8,), depths=(1,), channels=1),
        NetworkConfig(image_size=8, widths=(8,), depths=(1,), block="adaptive"),
    ],
)
def test_weights_of_another_architecture_are_refused(weights_file, network):
    with pytest.raises(InputError, match="does not hold the weights of this model"):
        load_weights(DiffusionModel(ModelConfig(network=network)), weights_file)


def test_weights_of_a_larger_network_are_refused(model, tmp_path):
    network = NetworkConfig(image_size=8, widths=(8, 8), depths=(1, 1))
    path = tmp_path / "larger.weights.h5"
    save_weights(DiffusionModel(ModelConfig(network=network)), path)
    with pytest.raises(InputError, match="does not hold the weights of this model"):
        load_weights(model, path)


def test_damaged_weights_are_refused(model, weights_file, tmp_path):
    contents = weights_file.read_bytes()
    path = tmp_path / "damaged.weights.h5"
    for damaged in (b"", b"text", contents[:100], contents[: len(contents) // 2], contents[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="does not hold the weights of this model"):
            load_weights(model, path)


def test_missing_weights_are_named(model, tmp_path):
    with pytest.raises(InputError, match=r"there is no weights file .*none\.weights\.h5"):
        load_weights(model, tmp_path / "none.weights.h5")


def test_a_model_is_loaded_to_generate(run, model):
    run.save_config(CONFIG)
    save_weights(model, run.last_weights)
    loaded = load_model(run.weights_to_show())
    np.testing.assert_allclose(
        loaded.generate(2, 2, seed=0), model.generate(2, 2, seed=0), atol=1e-5
    )
    assert loaded.searched_steps == {}
    run.save_sampling_steps({1: [0.02, 1.0]})
    assert load_model(run.last_weights).searched_steps == {1: [0.02, 1.0]}
    with pytest.raises(InputError, match="there is no weights file"):
        load_model(run.folder / "elsewhere" / "best.weights.h5")
    assert load_model(str(run.folder)).searched_steps == {1: [0.02, 1.0]}


def test_weights_without_the_state_of_the_optimizer_do_not_resume(model, tmp_path):
    """Keras would skip it with a warning, and the training would go on from a state of zeros."""
    other = DiffusionModel(CONFIG.model)
    other.compile("sgd")
    other.optimizer.build(other.trainable_variables)
    save_weights(other, tmp_path / "other.weights.h5")
    resumed = DiffusionModel(CONFIG.model)
    resumed.compile("adamw")
    resumed.optimizer.build(resumed.trainable_variables)
    with pytest.raises(InputError, match="does not hold the weights of this model"):
        load_weights(resumed, tmp_path / "other.weights.h5")


def test_a_full_disk_leaves_the_weights_of_before(model, weights_file, monkeypatch):
    before = weights_file.read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="No space left") as caught:
        save_weights(model, weights_file)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(weights_file)
    assert weights_file.read_bytes() == before
    assert {path.name for path in weights_file.parent.iterdir()} == {
        weights_file.name,
        "manifest.json",
    }


def test_the_free_space_asked_for_is_enough(model, weights_file, monkeypatch):
    asked = weights_file.stat().st_size - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=asked))
    with pytest.raises(OSError, match="No space left"):
        save_weights(model, weights_file)


def test_weights_with_earlier_layer_names_still_load(tmp_path):
    network = NetworkConfig(image_size=8, widths=(16,), depths=(1,), block="adaptive", patch_size=2)
    config = dataclasses.replace(CONFIG.model, network=network)
    model, other = DiffusionModel(config), DiffusionModel(dataclasses.replace(config, seed=1))
    path = tmp_path / "last.weights.h5"
    save_weights(model, path)
    with h5py.File(path, "r+") as file:
        for group in ("layers/functional", "ema_network"):
            file.move(f"{group}/layers/patches_to_pixels", f"{group}/layers/conv2d_transpose")
    before = path.read_bytes()
    load_weights(other, path)
    for loaded, saved in zip(other.weights, model.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (loaded, saved)))
    assert path.read_bytes() == before


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(run, tmp_path):
    model = DiffusionModel(CONFIG.model)
    run.save_last(model)
    before = run.last_weights.read_bytes()
    (kernel, *_) = model.network.trainable_weights
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(InputError, match=r"last\.weights\.h5 is kept as it was: .* not finite"):
        run.save_last(model)
    assert run.last_weights.read_bytes() == before
    save_weights(model, tmp_path / "broken.weights.h5")
    with pytest.raises(InputError, match=r"broken\.weights\.h5 cannot be used: .* not finite"):
        load_weights(model, tmp_path / "broken.weights.h5")


def test_a_resume_keeps_the_best_weights_that_a_kill_prevented(run, model):
    run.save_last(model)
    run.write_history([{**EPOCH, "kid": 0.5}, {**EPOCH, "epoch": 2, "kid": 0.4}])
    run.repair(1)  # weights of an epoch that was not the best
    assert not run.best_weights.exists()
    run.repair(2)
    assert run.best_weights.read_bytes() == run.last_weights.read_bytes()


def test_changed_weights_are_refused_unless_asked_for(run, model):
    run.save_last(model)
    with run.last_weights.open("ab") as file:
        file.write(b"!")
    with pytest.raises(InputError, match="was changed or damaged"):
        load_model(run.last_weights)
    assert load_model(run.last_weights, check_hashes=False).num_classes == 0
