"""evaluate.py --compare, on tiny models and an encoder with random weights."""

import csv
import dataclasses

import pytest

import evaluate
from ddim_keras.cli.evaluate import Side, parse_arguments
from ddim_keras.config import InputError, ModelConfig, NetworkConfig, TrainingConfig
from ddim_keras.evaluation import bits_per_dim, comparison
from ddim_keras.likelihood import new_model
from ddim_keras.metrics import encoders
from ddim_keras.model import DiffusionModel
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import Run, find_weights, load_model
from ddim_keras.runs.weights import save_weights
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


def test_a_side_of_other_data_is_pointed_out(tmp_path, capsys):
    runs = [Run(tmp_path / name) for name in "abc"]
    datasets = ("oxford_flowers102", None, str(tmp_path / "photos"))
    for made, dataset in zip(runs, datasets, strict=True):
        network = NetworkConfig(image_size=16, widths=(8,), depths=(1,))
        made.save_config(
            RunConfig("tiny", ModelConfig(network=network), TrainingConfig(), dataset=dataset)
        )
    weights = [made.last_weights for made in runs]
    comparison.tell_of_other_data(["a", "b"], weights[:2])
    assert not capsys.readouterr().out
    comparison.tell_of_other_data(["b", "c"], weights[1:])
    assert capsys.readouterr().out == (
        "note: the real images are those of oxford_flowers102, but c was trained on photos\n"
    )


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
        (("colour=red", "steps=1"), "the two sides cannot differ in 'colour'; choose from: run, "),
        (("clip=maybe", "clip=no"), "clip must be yes or no, not 'maybe'"),
        (("guidance-interval=0.5", "clip=no"), "--guidance-interval: expected 2 arguments"),
        (("steps=1",), "--compare: expected 2 arguments"),
        (("a", "b", "--search-steps", "5"), "not allowed with argument --compare"),
        (("a", "b", "--metrics", "kid", "frechet"), "metrics kid and bits_per_dim, not frechet"),
        (("a,eta=1", "b", "--metrics", "bits_per_dim"), "bits per dimension depend on the weights"),
    ],
)
def test_mistakes_of_the_command_line(compare, sides, message, capsys):
    assert compare("--compare", *sides) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_what_does_not_compare(compare, place, tmp_path, monkeypatch):
    monkeypatch.setattr("ddim_keras.data.cache.load_dataset", None)
    a = place / "a"
    assert compare("--compare", f"{a},steps=1", a) == (
        f"error: {a},steps=1 has 1 settings, {a} 3; give both the same number of --steps values"
    )
    assert compare("--compare", a, "nowhere").startswith("error: there is no run nowhere")
    (tmp_path / "comparison.csv").write_bytes(b"\xff\xff")
    error = compare("--compare", a, place / "b")
    assert error.startswith(f"error: {tmp_path / 'comparison.csv'} is not a table of results")


@pytest.fixture(scope="module")
def learned(place):
    """A run with learned variances, of the same data."""
    made = make_run(place / "learned", num_classes=0, seed=2)
    network = made.read_config().model.network
    model = new_model(
        ModelConfig(network=network, schedule="linear", discrete_steps=6, variance="learned")
    )
    model.pixel_means.assign([0.5, 0.4, 0.3])
    model.pixel_variances.assign([0.04, 0.04, 0.04])
    config = Run(place / "a").read_config()
    training = TrainingConfig(loss="hybrid")
    made.save_config(dataclasses.replace(config, model=model.config, training=training))
    save_weights(model, made.last_weights)
    return made.folder


def test_bits_of_the_same_images_under_two_runs(
    compare, place, learned, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(bits_per_dim, "PUBLISHED_STEPS", 4)
    few = ("--metrics", "bits_per_dim", "--likelihood-images", 8)
    assert compare("--compare", place / "a", place / "b", *few) == 0
    printed = capsys.readouterr().out
    rows = rows_of(tmp_path)
    assert [row["setting_first"] for row in rows] == list(bits_per_dim.VARIANCES.values())[:3]
    for row in rows:
        difference = float(row["bits_per_dim_first"]) - float(row["bits_per_dim_second"])
        assert row["setting_first"] == row["setting_second"]
        assert float(row["difference"]) == pytest.approx(difference)
        assert float(row["low"]) < difference < float(row["high"])
        assert f"{row['setting_first']}: {row['verdict']}" in printed
        assert (row["num_images"], row["split"]) == ("8", "validation")
        assert row["weights_sha256_first"] != row["weights_sha256_second"]
    # Added to what is there; the learned variances of one side with the fixed ones of the other.
    assert compare("--compare", place / "a", learned, *few) == 0
    recorded = rows_of(tmp_path)
    assert recorded[: len(rows)] == rows
    pairs = [(row["setting_first"], row["setting_second"]) for row in recorded[len(rows) :]]
    small, large, beta, learned_ones = bits_per_dim.VARIANCES.values()
    # With 6 steps, the noise of the linear schedule does not end near zero either.
    assert pairs == [
        (each, other) for each in (small, large, beta) for other in (each, learned_ones)
    ]


def test_bits_need_two_runs(compare, place, monkeypatch):
    monkeypatch.setattr("ddim_keras.data.cache.load_dataset", None)
    a = place / "a"
    error = compare("--compare", a, a / "last.weights.h5", "--metrics", "bits_per_dim")
    assert error == (
        f"error: {a} and {a / 'last.weights.h5'} have the same weights, so each image costs the "
        "same bits; compare two runs"
    )


def test_settings_of_bits_to_compare():
    small, large, flow, learned = (
        "small",
        "large",
        bits_per_dim.FLOW,
        bits_per_dim.VARIANCES["learned"],
    )
    fixed, with_learned = (small, large, flow), (small, learned, flow)
    pairs = comparison.paired_bits
    assert pairs(fixed, fixed) == [(small, small), (large, large), (flow, flow)]
    assert pairs(with_learned, with_learned[:2]) == [(small, small), (learned, learned)]
    assert pairs(with_learned, fixed) == [
        *((small, small), (learned, small), (learned, large), (flow, flow)),
    ]


def test_a_kid_needs_no_outputs_of_one_shape(place, learned):
    """A run with learned variances has twice the outputs, and images of the same shape."""
    sides = [Side(name, parse_arguments(["--steps", "2"])) for name in ("a", "learned")]
    models = [load_model(find_weights(place / "a")), load_model(find_weights(learned))]
    assert len(comparison.paired_settings(sides, models)) == 1


def test_images_of_two_shapes():
    sides = [Side(name, parse_arguments([])) for name in ("a", "b")]
    models = [
        DiffusionModel(
            ModelConfig(network=NetworkConfig(image_size=size, widths=(8,), depths=(1,)))
        )
        for size in (8, 16)
    ]
    with pytest.raises(InputError, match=r"a generates images of shape \(8, 8, 3\), b of \(16, 16"):
        comparison.paired_settings(sides, models)
