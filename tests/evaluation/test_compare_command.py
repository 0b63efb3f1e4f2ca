"""evaluate.py --compare, on tiny models and an encoder with random weights."""

import csv
import dataclasses

import pytest

import evaluate
from ddim_keras.cli.evaluate import Side, parse_arguments
from ddim_keras.config import InputError, ModelConfig, NetworkConfig
from ddim_keras.evaluation.comparison import paired_settings
from ddim_keras.metrics import encoders
from ddim_keras.model import DiffusionModel
from tests.helpers import make_run, run


@pytest.fixture(scope="module", autouse=True)
def no_download(encoder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "choose_encoder", lambda weights: encoder)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory, flowers_file):
    """A folder with two runs of one data set, and the cache of prepared images."""
    place = tmp_path_factory.mktemp("place")
    for seed, name in enumerate("ab"):
        made = make_run(place / name, num_classes=0, seed=seed)
        made.save_config(dataclasses.replace(made.read_config(), dataset=str(flowers_file)))
    return place


@pytest.fixture
def compare(place, tmp_path):
    options = ("--num-images", 128, "--cache-dir", place / "cache", "--output", tmp_path)
    return lambda *arguments: run(evaluate, *arguments, *options)


def rows_of(folder):
    with open(folder / "comparison.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_two_runs_at_each_number_of_steps(compare, place, tmp_path, capsys):
    a, b = place / "a", place / "b" / "last.weights.h5"
    assert compare("--compare", a, b, "--steps", 1, 2) == 0
    printed = capsys.readouterr().out
    first, second = rows_of(tmp_path)
    assert (first["steps_first"], first["steps_second"]) == ("1", "1")
    assert (second["steps_first"], second["steps_second"]) == ("2", "2")
    assert first["weights_sha256_first"] != first["weights_sha256_second"]
    for row in (first, second):
        difference = float(row["kid_first"]) - float(row["kid_second"])
        assert float(row["difference"]) == pytest.approx(difference)
        assert float(row["low"]) < difference < float(row["high"])
        assert row["verdict"] in printed
    assert compare("--compare", f"{b},steps=1", f"{a},steps=1") == 0
    *earlier, reverse = rows_of(tmp_path)
    assert earlier == [first, second]
    assert float(reverse["difference"]) == pytest.approx(-float(first["difference"]), abs=1e-6)


def test_settings_of_one_run(compare, place, tmp_path, capsys):
    own = ("--run", place / "a", "--steps", 2)
    assert compare(*own, "--compare", "sampler=ddim", "sampler=ipndm,spacing=rho") == 0
    (row,) = rows_of(tmp_path)
    assert (row["setting_first"], row["setting_second"]) == ("ddim", "ipndm, rho")
    assert row["weights_sha256_first"] == row["weights_sha256_second"]
    assert row["verdict"] in capsys.readouterr().out


def test_a_setting_does_not_differ_from_itself(compare, place, tmp_path, capsys):
    assert compare("--run", place / "a", "--compare", "steps=1", "steps=1") == 0
    (row,) = rows_of(tmp_path)
    assert float(row["difference"]) == float(row["low"]) == float(row["high"]) == 0
    assert row["verdict"].startswith("no difference beyond the error")


def test_a_side_has_the_options_of_the_command():
    options = parse_arguments(
        ["--compare", "runs/a,steps=5", "run=x.weights.h5,guidance=-1", "--seed", "3"]
    )
    first, second = (side.options for side in options.compare)
    assert (first.run, first.steps, first.guidance, first.seed) == ("runs/a", [5], None, 3)
    assert (second.run, second.guidance, second.seed) == ("x.weights.h5", -1, 3)
    assert first.compare == []
    options = parse_arguments(
        ["--compare", "clip=yes,eta=1,variance=large", "clip=no,guidance-interval=0.5:0.98"]
    )
    first, second = (side.options for side in options.compare)
    assert (first.clip, first.eta, first.variance) == (True, 1, "large")
    assert (second.clip, second.guidance_interval) == (False, [0.5, 0.98])


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (("sampler=ddmi", "sampler=ddim"), "did you mean 'ddim'?"),
        (("steps=0", "steps=1"), "--steps: must be at least 1, not 0"),
        (("colour=red", "steps=1"), "'colour' is none of what two sides can differ in: run, "),
        (("clip=maybe", "clip=no"), "clip must be yes or no, not 'maybe'"),
        (("guidance-interval=0.5", "clip=no"), "--guidance-interval: expected 2 arguments"),
        (("steps=1",), "--compare: expected 2 arguments"),
        (("a", "b", "--search-steps", "5"), "not allowed with argument --compare"),
    ],
)
def test_mistakes_of_the_command_line(compare, sides, message, capsys):
    assert compare("--compare", *sides) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_what_does_not_compare(compare, place, tmp_path, monkeypatch):
    monkeypatch.setattr("ddim_keras.data.cache.load_dataset", None)
    a = place / "a"
    assert compare("--compare", f"{a},steps=1", a) == (
        f"error: {a},steps=1 has 1 settings, {a} 3; give both as many numbers of steps"
    )
    assert compare("--compare", a, "nowhere").startswith("error: there is no run nowhere")
    (tmp_path / "comparison.csv").write_bytes(b"\xff\xff")
    error = compare("--compare", a, place / "b")
    assert error.startswith(f"error: {tmp_path / 'comparison.csv'} is not a table of results")


def test_images_of_two_shapes():
    sides = [Side(name, parse_arguments([])) for name in ("a", "b")]
    models = [
        DiffusionModel(
            ModelConfig(network=NetworkConfig(image_size=size, widths=(8,), depths=(1,)))
        )
        for size in (8, 16)
    ]
    with pytest.raises(InputError, match=r"a generates images of shape \(8, 8, 3\), b of \(16, 16"):
        paired_settings(sides, models)
