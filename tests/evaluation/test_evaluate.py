"""evaluate.py end to end, on a tiny model and an encoder with random weights."""

import csv
import dataclasses
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import evaluate
from ddim_keras.cli.evaluate import parse_arguments
from ddim_keras.config import InputError
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.evaluation import measurement, table
from ddim_keras.evaluation.settings import Setting, chosen_samplers
from ddim_keras.guidance import Guidance
from ddim_keras.metrics import encoders
from ddim_keras.samplers import LAST_SIGNAL_RATE, Sampler
from ddim_keras.schedules import offset_cosine
from tests.helpers import make_run, run


@pytest.fixture(scope="module", autouse=True)
def no_download(encoder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "choose_encoder", lambda weights: encoder)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with 80 images for validation, and the cache of prepared images."""
    place = tmp_path_factory.mktemp("place")
    images, labels = draw_flowers(400, 16)
    np.savez(place / "flowers.npz", images=images, labels=labels)
    return place


@pytest.fixture(params=[0])
def finished(request, place, tmp_path):
    """A run, class-conditional where a number of classes is given."""
    finished = make_run(tmp_path / "run", num_classes=request.param)
    config = dataclasses.replace(finished.read_config(), dataset=str(place / "flowers.npz"))
    finished.save_config(config)
    return finished


@pytest.fixture
def measure(finished, place):
    """Runs the command on the run; returns its exit status, or its line of error."""
    options = ("--run", finished.folder, "--cache-dir", place / "cache", "--num-images", 128)
    return lambda *arguments: run(evaluate, *options, *arguments)


def rows_of(folder):
    with open(folder / "evaluation.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_sampler_last_rate_and_number_of_steps(measure, finished, capsys):
    where = ("--spacing", "rho", "--last-signal-rate", 0.9, 0.98, "--steps", 2, 1)
    assert measure("--samplers", "ddim", "heun", *where) == 0
    rows = rows_of(finished.folder)
    assert [(row["setting"], row["network_calls"]) for row in rows[:4]] == [
        ("ddim, rho to 0.9", "1"),
        ("ddim, rho to 0.9", "2"),
        ("ddim, rho to 0.98", "1"),
        ("ddim, rho to 0.98", "2"),
    ]
    assert len(rows) == 8
    assert (rows[-1]["setting"], rows[-1]["network_calls"]) == ("heun, rho to 0.98", "3")
    for row in rows:
        assert float(row["last_signal_rate"]) == (
            0.02 if row["steps"] == "1" else pytest.approx(float(row["setting"].split()[-1]))
        )
        assert float(row["kid_standard_error"]) > 0
        assert float(row["images_per_second"]) > 0
        assert row["features"] == "random convolution, 64"
        assert "frechet" not in row
    # Of one step every setting makes the same images.
    kids = {round(float(row["kid"]), 5) for row in rows if row["steps"] == "1"}
    assert len(kids) == 1

    title, *lines = capsys.readouterr().out.splitlines()[-11:-1]
    columns = ["setting", "steps", "calls", "last", "rate", "batch", "images/s", "KID"]
    assert title.split() == columns
    assert lines[3].split()[:6] == ["ddim,", "rho", "to", "0.98", "2", "2"]
    assert f"{float(rows[3]['kid']):.4f}  ± {float(rows[3]['kid_standard_error']):.4f}" in lines[3]
    assert lines[-1].startswith("training against validation ")
    assert np.asarray(Image.open(finished.folder / "evaluation.png")).std() > 10


@pytest.mark.parametrize(
    ("interval", "expected"), [(None, [(1.0, None)]), ((0.5, 0.9), [(1.0, None), (0.0, None)])]
)
def test_all_sizes_of_batches_are_compiled_before_the_time_is_taken(interval, expected):
    """Outside an interval, guided images are not computed twice."""
    used = []
    model = SimpleNamespace(
        config=SimpleNamespace(student_steps=()),
        generate=lambda *_, guidance, **__: used.append((guidance.strength, guidance.interval)),
    )
    setting = Setting(Sampler(), [0.02, 1.0], Guidance(1.0, interval))
    measurement.warm_up(SimpleNamespace(num_images=128, batch_size=64), model, setting)
    assert used == expected


def test_what_is_named_twice_is_measured_once():
    options = parse_arguments(["--samplers", "ddim", "heun", "ddim", "--spacing", "rho", "rho"])
    assert chosen_samplers(options) == [Sampler("ddim", "rho"), Sampler("heun", "rho")]


def test_without_a_spacing_each_sampler_has_its_own(measure, finished):
    assert measure("--samplers", "ddim", "ipndm", "--steps", 2) == 0
    rows = rows_of(finished.folder)
    assert [(row["setting"], row["spacing"]) for row in rows] == [
        ("ddim", "usual"),
        ("ipndm", "usual"),
    ]
    config = finished.read_config().model
    _, halfway = offset_cosine(np.float32(0.5), config.max_signal_rate, config.min_signal_rate)
    assert float(rows[0]["last_signal_rate"]) == pytest.approx(float(halfway), abs=1e-5)
    assert float(rows[1]["last_signal_rate"]) == LAST_SIGNAL_RATE


def test_other_metrics_of_the_same_images(measure, tmp_path, finished, encoder, place):
    output = tmp_path / "new" / "folder"
    metrics = ("--metrics", "precision_recall", "frechet")
    assert measure(*metrics, "--steps", 1, "--batch-size", 50, "--output", output) == 0
    (row,) = rows_of(output)
    assert "kid" not in row
    assert float(row["frechet"]) > 0
    # Of a model that was not trained, no image lies among the real ones.
    assert (float(row["precision"]), float(row["recall"])) == (0, 0)
    wide = Image.open(output / "evaluation.png")
    assert wide.width > wide.height
    assert not (finished.folder / "evaluation.csv").exists()


def test_searched_steps_are_stored_and_used(measure, finished, capsys, monkeypatch):
    assert measure("--spacing", "searched") == (
        f"error: no steps have been searched for {finished.folder}; first: "
        f"python evaluate.py --run {finished.folder} --search-steps 5 10 20"
    )
    with monkeypatch.context() as patch:
        patch.setattr("ddim_keras.data.cache.load_dataset", None)  # it needs no images
        assert measure("--search-steps", 3, 2) == 0
    stored = finished.read_sampling_steps()
    assert list(stored) == [2, 3]
    printed = capsys.readouterr().out
    assert "3 steps at signal rates " + ", ".join(f"{x:.3f}" for x in stored[3][:-1]) in printed
    assert f"wrote {finished.folder}/sampling_steps.json, for --spacing searched" in printed

    by_kid = ("--search-by", "kid", "--samplers", "ipndm", "--spacing", "rho")
    assert measure("--search-steps", 2, *by_kid) == 0
    assert finished.read_sampling_steps()[2] != stored[2]
    first, least = re.search(
        r"ipndm, 2 steps: KID (\S+) at the start, (\S+) now", capsys.readouterr().out
    ).groups()
    assert float(least) <= float(first)

    # They have a last signal rate of their own, once.
    rates = ("--last-signal-rate", 0.9, 0.95)
    assert measure("--spacing", "searched", "time", *rates, "--steps", 3) == 0
    rows = rows_of(finished.folder)
    assert [row["setting"] for row in rows] == [
        "ddim, searched",
        "ddim, time to 0.9",
        "ddim, time to 0.95",
    ]
    assert float(rows[0]["last_signal_rate"]) == pytest.approx(stored[3][-2], abs=1e-6)
    assert measure("--spacing", "searched", "--steps", 3, 5) == (
        "error: signal rates have been searched for 2, 3 steps only; search them with: "
        "python evaluate.py --search-steps 5"
    )


def test_steps_of_weights_that_a_training_has_replaced_are_not_stored(
    measure, finished, monkeypatch
):
    def replaced(*_, **__):
        finished.weights_to_show().write_bytes(b"of the next epoch")
        return {2: [0.1, 0.5, 1.0]}

    monkeypatch.setattr("ddim_keras.step_search.search_steps", replaced)
    assert "was replaced during the search" in measure("--search-steps", 2)
    assert not finished.sampling_steps_file.exists()


def test_steps_of_the_provided_model_are_not_written_into_the_package(
    measure, finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("ddim_keras.runs.folder.PRETRAINED", finished.folder.parent / "flowers")
    monkeypatch.chdir(tmp_path)
    finished.forget_sampling_steps()
    assert measure("--search-steps", 2) == 0
    assert not finished.sampling_steps_file.exists()
    assert (tmp_path / "sampling_steps.json").exists()
    assert f"once it is in {finished.folder}" in capsys.readouterr().out


def test_a_search_goes_on_from_searched_steps(measure, finished, capsys, monkeypatch):
    finished.save_sampling_steps({2: [0.02, 0.5, 1.0]})
    starts = []

    def coordinate_search(measure, start):
        starts.append(start)
        return start, measure(start)

    monkeypatch.setattr("ddim_keras.step_search.coordinate_search", coordinate_search)
    search = ("--search-steps", 2, "--search-by", "kid", "--samplers", "ipndm")
    assert measure(*search, "--spacing", "searched") == 0
    assert starts == [[0.02, 0.5, 1.0]]


def test_an_interrupted_search_by_kid_keeps_what_it_has_found(measure, finished, monkeypatch):
    def search_by_kid(options, run, model, steps):
        if steps == 3:
            raise KeyboardInterrupt
        return [0.02, 0.5, 1.0]

    monkeypatch.setattr("ddim_keras.evaluation.search.search_by_kid", search_by_kid)
    assert measure("--search-steps", 2, 3, "--search-by", "kid") == 130
    assert finished.read_sampling_steps() == {2: [0.02, 0.5, 1.0]}


@pytest.mark.parametrize("finished", [3], indirect=True)
def test_guidance_reaches_the_images(measure, finished):
    for guidance in (0, 2):
        assert measure("--steps", 2, "--guidance", guidance) == 0
    plain, guided = rows_of(finished.folder)
    assert (plain["setting"], float(plain["guidance"])) == ("ddim", 0)
    assert (guided["setting"], float(guided["guidance"])) == ("ddim, guidance 2", 2)
    assert plain["kid"] != guided["kid"]


@pytest.mark.parametrize(
    ("guidance", "has_classes", "calls"), [(0.0, False, 2), (0.0, True, 4), (1.0, False, 4)]
)
def test_learned_variances_cost_a_call_of_their_own_with_classes(guidance, has_classes, calls):
    sampler = Sampler(eta=1.0, variance="learned")
    rates = [0.1, 0.5, 1.0]
    setting = Setting(sampler, rates, Guidance(guidance), has_classes=has_classes)
    assert setting.columns()["network_calls"] == calls


def test_what_was_measured_before_stays(measure, finished, tmp_path, capsys):
    def measured_now(*arguments):
        assert measure(*arguments) == 0
        table = capsys.readouterr().out.split("\n\n")[-1].splitlines()[1:-2]
        return [(row["setting"], row["steps"], row["split"]) for row in rows_of(finished.folder)], [
            line.split()[0] for line in table
        ]

    ddim = ("ddim", "1", "validation")
    ipndm = ("ipndm", "2", "validation")
    assert measured_now("--steps", 1) == ([ddim], ["ddim"])
    assert measured_now("--samplers", "ipndm", "--steps", 2) == ([ddim, ipndm], ["ddim", "ipndm"])
    assert measured_now("--steps", 1) == ([ipndm, ddim], ["ipndm", "ddim"])
    # Kept, but not beside what it does not compare with.
    assert measured_now("--steps", 1, "--split", "train") == (
        [ipndm, ddim, ("ddim", "1", "train")],
        ["ddim"],
    )
    # Other weights, which the old values say nothing about.
    other = make_run(tmp_path / "other", num_classes=0, seed=1)
    shutil.copyfile(other.last_weights, finished.last_weights)
    (finished.folder / "manifest.json").unlink()
    assert measured_now("--steps", 1) == ([ddim], ["ddim"])


@pytest.mark.slow
def test_a_row_keeps_its_guide_precision_and_batch_size(measure, finished, tmp_path, capsys):
    guides = [make_run(tmp_path / name, num_classes=0, seed=1).folder for name in "ab"]
    measured = ("--steps", 1, "--precision", "float32")
    for guide in guides:
        assert measure(*measured, "--guide", guide) == 0
    for changed in ((), ("--precision", "mixed_bfloat16"), ("--batch-size", 32), ()):
        assert measure(*measured, *changed) == 0
    assert [
        (row["setting"], row["dtype_policy"], row["batch_size"]) for row in rows_of(finished.folder)
    ] == [
        (f"ddim, autoguidance 1 by {guides[0]}", "float32", "64"),
        (f"ddim, autoguidance 1 by {guides[1]}", "float32", "64"),
        ("ddim", "mixed_bfloat16", "64"),
        ("ddim", "float32", "32"),
        ("ddim", "float32", "64"),
    ]
    # What is of another precision is not shown beside them.
    assert len(capsys.readouterr().out.split("\n\n")[-1].splitlines()) == 1 + 4 + 1 + 1

    # A guide that was trained further is another one.
    shutil.copyfile(make_run(tmp_path / "c", 0, seed=2).last_weights, guides[0] / "last.weights.h5")
    (guides[0] / "manifest.json").unlink()
    assert measure(*measured, "--guide", guides[0]) == 0
    assert len(rows_of(finished.folder)) == 6


def test_rows_of_earlier_versions_are_kept(measure, finished):
    assert measure("--steps", 1) == 0
    (row,) = rows_of(finished.folder)
    new = ("dtype_policy", "batch_size", "guide_sha256")
    old = {name: value for name, value in row.items() if name not in new}
    table.write_rows(finished.folder / "evaluation.csv", [old])
    assert measure("--steps", 1) == 0
    first, second = rows_of(finished.folder)
    assert {name: first[name] for name in old} == old
    assert (first["dtype_policy"], second["dtype_policy"]) == ("", "float32")


def test_what_was_measured_before_a_failure_is_kept(measure, finished, monkeypatch):
    original = measurement.metrics_of
    calls = []

    def metrics_of(*arguments):
        calls.append(arguments)
        if len(calls) == 3:  # the floor, the first setting, the second
            raise InputError("no more")
        return original(*arguments)

    monkeypatch.setattr(measurement, "metrics_of", metrics_of)
    assert measure("--steps", 1, 2) == "error: no more"
    assert [row["steps"] for row in rows_of(finished.folder)] == ["1"]
    assert (finished.folder / "evaluation.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--eta", 2], "eta must be in [0, 1], not 2.0"),
        (["--last-signal-rate", 2], "the last signal rate must be between 0.02 and 1, not 2.0"),
        (["--search-steps", 65], "the number of searched steps must be 1 to 64, not 65"),
        (["--guidance", 1], "{folder} is not class-conditional; omit --guidance"),
        (["--run", "nowhere"], "there is no run nowhere: "),
        (
            ["--eta", 1, "--variance", "learned"],
            "{folder} has no learned variances; choose small or large",
        ),
        (["--guidance-interval", 0.5, 0.9], "only guidance uses --guidance-interval; omit it"),
        (
            ["--guidance", 0, "--guidance-interval", 0.5, 0.9],
            "only guidance uses --guidance-interval; omit it, or set a strength",
        ),
        (["--search-by", "kid"], "only --search-steps uses --search-by; omit it"),
        (
            ["--likelihood-images", 8],
            "only --metrics bits_per_dim uses --likelihood-images; omit it",
        ),
        (
            ["--search-steps", 3, "--samplers", "heun"],
            "--search-steps uses --samplers only with --search-by kid; omit it",
        ),
        (["--assess", "--metrics", "kid"], "--assess does not use --metrics; omit it"),
        (["--assess", "--split", "train"], "--assess does not use --split; omit it"),
        (["--search-steps", "5", "--split", "train"], "--search-steps does not use --split; omit"),
        (
            ["--search-steps", "5", "--steps", "5"],
            "--search-steps has its own numbers of steps, and does not use --steps; omit it",
        ),
    ],
)
def test_mistakes_are_named_before_the_work(measure, finished, arguments, message, monkeypatch):
    monkeypatch.setattr("ddim_keras.data.cache.load_dataset", None)
    error = measure(*arguments)
    assert error.startswith("error: " + message.format(folder=finished.folder))
    assert "\n" not in error
    assert not list(finished.folder.glob("evaluation.*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-images", 63], "--num-images: must be at least 128, not 63"),
        (["--steps", 0], "--steps: must be at least 1, not 0"),
        (["--metrics", "fid"], "--metrics: invalid choice: 'fid'"),
        (["--samplers", "ddim", "dpmsolver"], "; did you mean 'dpm_solver'?"),
        (["--spacing", "logsnr"], "; did you mean 'log_snr'?"),
        (["--last-signal-rate", "high"], "--last-signal-rate: 'high' is not a number"),
    ],
)
def test_bad_arguments(measure, arguments, message, capsys):
    assert measure(*arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_few_validation_images(measure, finished, tmp_path):
    np.save(tmp_path / "few.npy", draw_flowers(100, 16)[0])
    few = dataclasses.replace(finished.read_config(), dataset=str(tmp_path / "few.npy"))
    finished.save_config(few)
    assert measure("--steps", 1) == 0
    assert float(rows_of(finished.folder)[0]["kid"]) > 0


def test_data_of_an_exported_model(finished, place, tmp_path, monkeypatch):
    exported = dataclasses.replace(finished.read_config(), dataset="flowers.npz")
    options = SimpleNamespace(data_dir=None, cache_dir=place / "cache")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no file flowers\.npz\. An exported model .* holds"):
        measurement.load_data(options, exported)
    monkeypatch.chdir(place)
    assert len(measurement.load_data(options, exported).validation_images) == 80


# The table alone, without a model.


def results_of(folder, weights, digest="a", axes=("kid",)):
    """An empty table of some weights file, with the rows that the folder holds already."""
    conditions = {"split": "validation", "weights": weights, "weights_sha256": digest}
    return table.Results(folder, conditions, dict.fromkeys(axes, 0.0), "encoder")


def row_of(setting="ddim", **values):
    shown = {"setting": setting, "sampler": "ddim", "steps": 5, "network_calls": 5, "kid": 0.1}
    return shown | values


def test_rows_of_other_models_in_the_same_folder_are_kept(tmp_path):
    """Included models are evaluated into the current folder, one after the other."""
    results_of(tmp_path, "/flowers", "a").add(row_of())
    results = results_of(tmp_path, "/flowers-few", "b")
    results.add(row_of())
    assert [row["weights"] for row in rows_of(tmp_path)] == ["/flowers", "/flowers-few"]
    assert len(results.comparable) == 1
    # Trained further: nothing is known of the new weights.
    results_of(tmp_path, "/flowers", "c").add(row_of())
    assert [row["weights_sha256"] for row in rows_of(tmp_path)] == ["b", "c"]


def test_a_run_that_was_moved_keeps_its_rows(tmp_path):
    results_of(tmp_path, "/runs/a").add(row_of(steps=10))
    results_of(tmp_path, "/runs/a").add(row_of())
    results = results_of(tmp_path, "/runs/b")
    results.add(row_of())
    assert [row["steps"] for row in results.comparable] == [10, 5]
    assert [row["weights"] for row in rows_of(tmp_path)] == ["/runs/a", "/runs/b"]


def test_rows_without_a_column_of_the_figure_are_kept_out_of_it(tmp_path):
    """Somebody deleted it in a spreadsheet."""
    results_of(tmp_path, "/a").add(row_of(steps=10))
    (row,) = rows_of(tmp_path)
    table.write_rows(tmp_path / "evaluation.csv", [row | {"sampler": None}])
    results = results_of(tmp_path, "/a")
    results.add(row_of())
    assert [row["steps"] for row in results.comparable] == [5]
    assert len(rows_of(tmp_path)) == 2


def test_names_that_are_no_utf8_stand_in_the_table(tmp_path):
    table.write_rows(tmp_path / "a.csv", [{"first": b"run\xff".decode(errors="surrogateescape")}])
    assert table.read_rows(tmp_path / "a.csv") == [{"first": r"run\udcff"}]
