import argparse
import dataclasses
import functools
import itertools
import json
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from benchmarks.quality import (
    ablation,
    compact_encoder,
    equal_time,
    few_steps,
    gan_experiments,
    gan_report,
    likelihood_experiments,
    likelihood_report,
)
from benchmarks.reliability import mutants
from benchmarks.speed import contenders, profile_steps, throughput, time_to_kid, worker
from benchmarks.speed.flops import forward_flops
from ddim_keras import likelihood
from ddim_keras.config import InputError, NetworkConfig
from ddim_keras.data.drawn_flowers import draw_flowers
from ddim_keras.ddpm import rates_at
from ddim_keras.network import residual_unet
from ddim_keras.presets import PRESETS
from ddim_keras.runs.configuration import RunConfig
from tests.helpers import TINY, run


def test_mistakes_that_are_put_in_on_purpose_can_be_made():
    """The list fits the code: each text to replace occurs once, and the result is valid Python."""
    mistakes = list(mutants.read_mistakes(mutants.MISTAKES.read_text()))
    assert len({mistake.name for mistake in mistakes}) == len(mistakes) > 100
    for mistake in mistakes:
        compile(mistake.mutated(mutants.PROJECT), mistake.file, "exec")
        assert all((mutants.PROJECT / "tests" / each).exists() for each in mistake.tests)


def test_the_score_of_mistakes_counts_those_noticed(tmp_path, capsys):
    text = "# data, a.py: test_a.py\nx + 1 ==> x - 1\nx = 2\\n ==>\n"
    first, second = mutants.read_mistakes(text)
    assert (first.old, first.new, second.old, second.new) == ("x + 1", "x - 1", "x = 2\n", "")
    results = [
        mutants.Result("data", first.name, "test_a.py::test_b", 1.5, "0"),
        mutants.Result("data", second.name, "", 1.5, "0"),
    ]
    mutants.write_results(tmp_path / "new" / "mutants.csv", results)
    read = mutants.read_results(tmp_path / "new" / "mutants.csv")
    assert [each.noticed_by for each in read.values()] == ["test_a.py::test_b", ""]
    mutants.print_table([first, second], read)
    printed = capsys.readouterr().out
    assert "not noticed: a.py: x = 2\\n ==> nothing" in printed
    assert "| data | 2 | 1 | 50.0% |" in printed


def test_flops_of_convolutions():
    pixels = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(pixels)  # 8 * 8 * 3 * 3 * 3 * 4 multiplications
    x = layers.Conv2D(6, 2, strides=2)(x)  # 4 * 4 * 2 * 2 * 4 * 6
    x = layers.Conv2DTranspose(5, 2, strides=2)(x)  # 4 * 4 * 2 * 2 * 6 * 5
    x = layers.BatchNormalization()(x)
    x = layers.Dense(7)(x)  # 8 * 8 * 5 * 7
    network = keras.Model(pixels, x)
    assert forward_flops(network) == 2 * (6912 + 1536 + 1920 + 2240)


def test_flops_of_attention():
    tokens = keras.Input((10, 12))
    network = keras.Model(tokens, layers.MultiHeadAttention(3, key_dim=4)(tokens, tokens))
    # Four projections of 10 tokens with 12 x 12 weights; two products of 10 x 10 x 4 for 3 heads.
    assert forward_flops(network) == 2 * (4 * 10 * 12 * 12 + 2 * 10 * 10 * 4 * 3)


def test_flops_of_an_unknown_layer_are_not_passed_over():
    sequence = keras.Input((5, 3))
    with pytest.raises(TypeError, match="Conv1D"):
        forward_flops(keras.Model(sequence, layers.Conv1D(2, 3)(sequence)))


def test_flops_agree_with_those_that_pytorch_counts():
    if keras.backend.backend() != "torch":
        pytest.skip("counts PyTorch's operations")
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = residual_unet(NetworkConfig(image_size=16, widths=(8, 16), depths=(1, 1)))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network([torch.zeros(1, 16, 16, 3), torch.zeros(1, 1, 1, 1)], training=False)
    assert forward_flops(network) == counter.get_total_flops()


def test_contender_trains_and_samples(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    policy = keras.config.dtype_policy()
    contender = contenders.build(contenders.Settings("ddim_keras", "tiny", "float32", 4))
    try:
        before = contender.model.network.get_weights()
        contender.train(2)
        assert int(contender.model.optimizer.iterations) == 2
        assert not np.array_equal(before[0], contender.model.network.get_weights()[0])
        assert contender.sample(3, 2).shape == (3, 16, 16, 3)
    finally:
        keras.config.set_dtype_policy(policy)


def test_keras_example_has_the_operations_of_lab():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the example's loop is TensorFlow's")
    from benchmarks.speed.keras_example import unet

    ours = residual_unet(PRESETS["lab"].model.network)
    example = unet(64)
    assert forward_flops(example) == forward_flops(ours)
    assert example.count_params() == ours.count_params()


def test_peers_are_of_the_nearest_size():
    sizes = ((1e9, "small"), (4e9, "large"))
    assert contenders.nearest_size(sizes, 1.9e9) == "small"
    assert contenders.nearest_size(sizes, 2.1e9) == "large"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_matrix_products_count_their_operations(dtype):
    products = contenders.MatrixProducts(keras.backend.backend(), size=10)
    assert products.run(dtype, times=3) == 3 * 2 * 10**3


class Fake:
    """Answers as a contender's process does, and writes down who was asked."""

    def __init__(self, name, train_seconds, asked, fails_at=None):
        self.name, self.train_seconds = name, train_seconds
        self.asked, self.fails_at = asked, fails_at

    def ask(self, command, **arguments):
        self.asked.append((self.name, command))
        if self.fails_at == self.asked.count((self.name, "train")):
            raise throughput.ContenderError(f"{self.name} failed to train: no memory")
        return {
            "train": lambda: self.train_seconds * arguments["steps"],
            "sample": lambda: 2.0,
            "memory": lambda: {"process": 2**31, "device": 0},
            "peak": lambda: {"float32": 4e9, "bfloat16": 8e9},
            "cpu_seconds": lambda: 1.0,
        }[command]()


def result(flops):
    what = {
        "settings": {"preset": "lab", "precision": "float32", "batch_size": 8},
        "device": "CPU",
        "parameters": 10**6,
        "forward_flops": flops,
    }
    return throughput.Result(what, {"ready": 1.0, "train": 2.0, "sample": 3.0})


OPTIONS = argparse.Namespace(rounds=3, seconds=10.0, steps=20, num_images=6, matrix_size=64)


def test_contenders_take_turns_and_are_compared_by_medians():
    asked = []
    fast, slow = Fake("fast", 1.0, asked), Fake("slow", 4.0, asked)
    results = throughput.measure([(fast, result(1e9)), (slow, result(5e8))], OPTIONS)
    assert [name for name, command in asked if command == "train"] == ["fast", "slow"] * 4
    assert results["fast"].train == [8.0] * 3
    assert results["slow"].train == [2.0] * 3
    results["slow"].train = [1.0, 2.0, 100.0]  # a mean would be far off
    summaries = {name: throughput.summary(each) for name, each in results.items()}
    assert summaries["fast"]["median"]["train_flops"] == 8.0 * 3 * 1e9
    assert throughput.ratios(summaries) == {
        "slow": {"train": 4.0, "sample": 1.0, "train_flops": 8.0, "sample_flops": 2.0}
    }
    report = {
        "contenders": summaries,
        "ratios": throughput.ratios(summaries),
        "hardware": throughput.hardware(),
        "date": "2026-01-01T00:00:00",
        "load_average_before": 0.0,
    }
    text = throughput.as_text(json.loads(json.dumps(report)), OPTIONS)
    row = next(line for line in text.splitlines() if line.startswith("| fast"))
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    expected = [
        "fast",
        "float32",
        "1.00",
        "1.00",
        "8.0",
        "24",
        "600 %",
        "3.00",
        "1.0",
        "2.0",
        "2.00",
    ]
    assert cells == expected
    (row,) = [line for line in text.splitlines() if line.startswith("| / slow")]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells == ["/ slow", "4.00", "1.00", "8.00", "2.00"]


def test_contender_that_fails_is_left_out_and_the_others_go_on(capsys):
    asked = []
    good, bad = Fake("good", 1.0, asked), Fake("bad", 1.0, asked, fails_at=2)
    results = throughput.measure([(bad, result(1e9)), (good, result(1e9))], OPTIONS)
    assert list(results) == ["good"]
    assert len(results["good"].train) == 3
    assert "left out: bad failed to train: no memory\n" in capsys.readouterr().err


def test_process_that_ends_is_one_line():
    process = throughput.Process("peer", [sys.executable, "-c", "import sys; sys.exit('no disk')"])
    with pytest.raises(throughput.ContenderError, match=r"^peer failed to build: no disk$"):
        process.ask("build")
    process.close()


def test_worker_says_what_is_wrong_in_one_line():
    process = throughput.Process("peer")
    with pytest.raises(throughput.ContenderError, match=r"build: KERAS_BACKEND .*'nonsense'$"):
        process.ask(
            "build",
            contender="ddim_keras",
            preset="lab",
            precision="float32",
            batch_size=1,
            backend="nonsense",
        )
    process.close()


def test_peer_that_is_not_installed_is_left_out_with_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(throughput.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(
        throughput, "start", lambda name, *_: (argparse.Namespace(name=name), result(1e9))
    )
    ours = contenders.Settings("ddim_keras", "lab", "float32", 8)
    options = argparse.Namespace(contenders=["denoising_diffusion_pytorch"])
    started = throughput.start_all(ours, ["jax"], options, None)
    assert [process.name for process, _ in started] == ["ddim_keras, jax"]
    assert "pip install denoising-diffusion-pytorch" in capsys.readouterr().err


def test_unknown_contender_is_refused_before_the_work(capsys):
    assert run(throughput, "--contenders", "nonsense") == 2
    assert "keras_example" in capsys.readouterr().err


def test_time_to_kid_is_interpolated_in_the_logarithm_of_time():
    measured = [(60.0, 0.5), (100.0, 0.3), (400.0, 0.2), (800.0, 0.1)]
    assert time_to_kid.crossing(measured, 0.25) == pytest.approx(200.0)
    assert time_to_kid.crossing(measured, 0.05) is None
    assert time_to_kid.time_shown(measured, 0.25) == "3 min"
    assert time_to_kid.time_shown(measured, 0.5) == "< 60 s"
    assert time_to_kid.time_shown([*measured, (10801.0, 0.09)], 0.05) == "> 3 h"


class InThisProcess:
    """Does what a contender's process does, without one."""

    def __init__(self, name):
        self.worker = worker.Worker()

    def ask(self, command, **arguments):
        return getattr(self.worker, command)(**json.loads(json.dumps(arguments)))

    def close(self):
        keras.config.set_dtype_policy("float32")


def time_of(*contenders, size, limit, folder, threshold=0.25):
    """Runs time_to_kid.py on drawn flowers; returns its exit status."""
    np.save(folder / "flowers.npy", draw_flowers(80, size)[0])
    data = ("--dataset", folder / "flowers.npy", "--cache-dir", folder / "cache")
    data += ("--kid-weights", "compact", "--num-images", 4, "--backend", keras.backend.backend())
    output = ("--threshold", threshold, "--limit", limit, "--output", folder / "new" / "times.csv")
    return run(time_to_kid, "--contenders", *contenders, *data, *output)


@pytest.mark.slow
def test_time_to_kid_of_a_contender_is_measured_once(monkeypatch, tmp_path, capsys):
    for preset in ("fast", "lab"):
        monkeypatch.setitem(PRESETS, preset, TINY)
    monkeypatch.setattr(time_to_kid, "Process", InThisProcess)
    monkeypatch.setattr(time_to_kid, "FIRST_SECONDS", 0.1)
    monkeypatch.setattr(time_to_kid, "SAMPLING_STEPS", 2)
    never = -9  # the KID of four images may be anything
    assert time_of("fast", size=16, limit=1 / 3600, folder=tmp_path, threshold=never) == 0
    lines = ablation.read_lines(tmp_path / "new" / "times.csv")
    *before, last = (float(line["seconds"]) for line in lines)
    assert all(each < 1 <= last for each in before)
    printed = capsys.readouterr().out.splitlines()
    assert lines[0]["conditions"] == printed[-4]
    assert printed[-1].startswith("| fast: preset fast, ")
    assert "> 1 s |" in printed[-1]
    assert (tmp_path / "new" / "times.png").exists()
    monkeypatch.setattr(time_to_kid, "Process", None)  # not started again
    assert time_of("fast", size=16, limit=1 / 3600, folder=tmp_path, threshold=never) == 0
    assert capsys.readouterr().out.splitlines()[-3:] == printed[-3:]


def test_time_to_kid_goes_on_with_the_contender_that_was_interrupted(monkeypatch, tmp_path, capsys):
    started = []

    def lines(process, settings, measure, arguments):
        started.append(settings.preset)
        for seconds, kid in ((60, 0.5), (100, 0.3), (400, 0.2)):
            if seconds == 100 and started == ["fast", "lab"]:
                raise KeyboardInterrupt
            yield dict.fromkeys(time_to_kid.MEASURED, 1) | {"seconds": seconds, "kid": kid}

    monkeypatch.setattr(time_to_kid, "train_and_measure", lines)
    monkeypatch.setattr(time_to_kid, "Process", InThisProcess)
    arguments = {"size": 64, "limit": 1, "folder": tmp_path}
    assert time_of("fast", "lab", **arguments) == 130
    assert time_of("fast", "lab", **arguments) == 0
    assert started == ["fast", "lab", "lab"]
    measured = ablation.read_lines(tmp_path / "new" / "times.csv")
    assert [line["seconds"] for line in measured] == ["60", "100", "400"] * 2
    assert all(" 3 min |" in row for row in capsys.readouterr().out.splitlines()[-2:])


@pytest.mark.slow
@pytest.mark.parametrize("contender", ["keras_example", "diffusers"])
def test_time_to_kid_of_a_peer(monkeypatch, tmp_path, capsys, contender):
    pytest.importorskip({"keras_example": "tensorflow"}.get(contender, contender))
    monkeypatch.setattr(time_to_kid, "SAMPLING_STEPS", 1)
    assert time_of(contender, size=64, limit=1 / 3600, folder=tmp_path, threshold=-9) == 0
    (line,) = ablation.read_lines(tmp_path / "new" / "times.csv")
    assert int(line["images"]) >= int(line["batch_size"])  # a step may take all of the second
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"| {contender}: ")


def test_self_times_leave_out_what_an_event_contains():
    events = [("outer", 0, 10), ("inner", 1, 4), ("innermost", 2, 1), ("second", 5, 3)]
    events.append(("next", 10, 2))
    times = dict(profile_steps.self_times(events))
    assert times == {"outer": 3, "inner": 3, "innermost": 1, "second": 3, "next": 2}


def test_operations_are_summed_by_kind():
    operations = {"_MklConv2DBackpropFilter": 1.0, "Conv2DBackpropFilter": 2.0, "Nonsense": 1.0}
    kinds = profile_steps.kind_seconds(operations)
    assert kinds == {"convolution, gradient of the filter": 3.0, "Nonsense": 1.0}
    assert profile_steps.table(kinds).split()[:2] == ["75.0", "%"]


def test_ablation_ends_with_the_fast_recipe():
    rows = list(ablation.ROWS.values())[: len(ablation.CHANGES)]
    assert rows[0].model == dataclasses.replace(PRESETS["lab"].model, ema_warmup=False)
    assert rows[1].model == PRESETS["lab"].model
    assert rows[0].training == rows[1].training == PRESETS["lab"].training
    assert rows[-1].model == PRESETS["fast"].model
    of_an_epoch = {"repetitions": 1, "kid_images": PRESETS["fast"].training.kid_images}
    assert dataclasses.replace(rows[-1].training, **of_an_epoch) == PRESETS["fast"].training
    for before, after in itertools.pairwise(rows):
        assert before != after


def test_ablation_takes_each_change_back():
    rows = list(ablation.ROWS.values())
    *_, fast = rows[: len(ablation.CHANGES)]
    without = rows[len(ablation.CHANGES) :]
    # Not `lab`, the block, the optimizer.
    assert len(without) == len(ablation.CHANGES) - 3 + len(ablation.INSTEAD)
    for index, preset in enumerate(without):
        assert preset not in (fast, *without[:index])
    no_flips = without[list(ablation.TAKEN_BACK).index("flips")]
    assert dataclasses.replace(no_flips.training, flip=True) == fast.training
    assert no_flips.model == fast.model


def test_ablation_table_has_a_line_for_each_training(tmp_path):
    path = tmp_path / "ablation.csv"
    line = {"budget": "9 s", "row": 2, "change": "MAE", "seed": 1, "images": 640, "seconds": 9}
    columns = {"DDIM 5": 0.5, "DDIM 20": 0.4, "iPNDM 5": 0.3, "floor": 0.0}
    errors = {f"{column} error": 0.01 for column in columns}
    for row, change in ((2, "+ MAE"), (1, "the first")):
        ablation.add_line(
            path, line | {"row": row, "change": change, "parameters": 7} | columns | errors
        )
    *_, first, second = ablation.table(ablation.read_lines(path)).splitlines()
    measured = "1 | 640 | 9 | 7 | 0.5 ± 0.01 | 0.4 ± 0.01 | 0.3 ± 0.01 | 0.0 ± 0.01"
    assert first == f"| {ablation.LONG_AVERAGE} | {measured} |"
    assert second.startswith(f"| + {list(ablation.CHANGES)[1]} | 1 |")


@pytest.mark.slow
def test_ablation_trains_and_measures_a_row_within_seconds(tmp_path, monkeypatch, encoder):
    network = dataclasses.replace(TINY.model.network, image_size=64)
    row = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, network=network))
    np.save(tmp_path / "flowers.npy", draw_flowers(80, 64)[0])
    monkeypatch.setattr(ablation, "ROWS", {"tiny": row})
    monkeypatch.setattr(ablation, "DATASET", str(tmp_path / "flowers.npy"))
    monkeypatch.setattr("ddim_keras.metrics.encoders.choose_encoder", lambda weights: encoder)
    options = {"rows": [1], "seeds": [0], "seconds": 1e-9, "images": None, "num_images": 16}
    place = {"cache_dir": tmp_path / "cache", "data_dir": None, "keep": None, "kid_weights": None}
    policy = keras.config.dtype_policy()
    try:
        line = ablation.train_row(argparse.Namespace(**options, **place))
    finally:
        keras.config.set_dtype_policy(policy)
    assert line["images"] == ablation.FEWEST_STEPS * row.training.batch_size
    columns = [*(f"{name} {calls}" for name, _, calls in ablation.SETTINGS), ablation.FLOOR]
    assert all(np.isfinite(float(line[column])) for column in columns)


def test_recorded_ablation_has_a_table():
    lines = ablation.read_lines(Path(ablation.__file__).with_name("ablation.csv"))
    assert len(ablation.table(lines).splitlines()) == 2 + len(lines) > 2


def test_spoilt_images_stay_images():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (24, 64, 64, 3), dtype="uint8")
    for image in images:
        spoilt = compact_encoder.spoil(image, random)
        assert spoilt.shape == image.shape
        assert spoilt.dtype == np.uint8
        assert not np.array_equal(spoilt, image)


def test_batches_of_the_compact_encoder_keep_images_and_targets_together():
    count = 2 * compact_encoder.BATCH_SIZE
    labels = np.arange(count)
    images = np.broadcast_to(labels[:, None, None, None], (count, 4, 4, 3)).astype("uint8")
    batches = compact_encoder.batches(images, 2.0 * labels, labels, np.random.default_rng(0))
    seen = []
    for pixels, targets in itertools.islice(batches, 2):
        np.testing.assert_allclose((pixels[:, 0, 0, 0] + 1) * 127.5, targets["species"], atol=1e-4)
        np.testing.assert_array_equal(targets["features"], 2 * targets["species"])
        seen.extend(targets["species"])
    assert sorted(seen) == labels.tolist()


def test_the_free_first_call_is_the_guided_mean_of_the_class():
    random = np.random.default_rng(0)
    means, noisy_images = random.random((4, 2, 2, 3)), random.standard_normal((3, 2, 2, 3))
    calls = []

    def denoise(*inputs, labels):
        calls.append(labels)
        return noisy_images, noisy_images

    labels = np.array([2, 0, -1])  # the last one of any class
    guided = few_steps.free_first(means)(denoise, labels)
    pred_noises, pred_images = guided(noisy_images, np.float64(0.8), np.float64(0.6))
    np.testing.assert_allclose(pred_images, 2 * means[labels] - means[-1])
    np.testing.assert_allclose(0.6 * pred_images + 0.8 * pred_noises, noisy_images)
    assert not calls


def measurements(*kids, **others):
    """Rows of a training that was measured once in 100 CPU seconds."""
    row = {"kid_standard_error": 0.01, "recall": 0.5, "twins": 0.0, "generated_per_second": 9.0}
    times = [{"seconds": 100.0 * (number + 1), "kid": kid} for number, kid in enumerate(kids)]
    return [{**row, **time, "images": 30 * time["seconds"], **others} for time in times]


def verdict(number, curves, correlations=None):
    """On an observation, from trainings, those of the recipes being steady unless given."""
    steady = {f"{kind} recipe": measurements(0.3, 0.2) for kind in gan_report.KINDS}
    curves = {gan_report.PHOTOGRAPHS: measurements(0.0)} | steady | curves
    return gan_report.EXPERIMENTS[number].judge(curves, correlations)[1]


def test_verdicts_on_a_better_and_costlier_diffusion_model():
    recipes = {
        "diffusion recipe": measurements(0.4, 0.25, 0.15),
        "gan recipe": measurements(0.5, 0.4, 0.3, images=60000),
    }
    assert [verdict(number, recipes) for number in (1, 2, 4)] == ["holds"] * 3
    text, _ = gan_report.judge_cost(recipes, {})
    assert "diffusion 30.0, GAN 200.0" in text
    assert "the GAN's last KID: after 200 CPU seconds" in text
    assert verdict(1, {"gan recipe": measurements(0.3, 0.21)}) == "undecided"
    assert verdict(1, {"gan recipe": measurements(0.3, 0.1)}) == "does not hold"
    assert verdict(2, {"gan recipe": measurements(0.3, 0.2)}) == "does not hold"


@pytest.mark.parametrize(
    "rows",
    [
        measurements(0.5, np.nan),
        measurements(0.5, 0.2, 0.1, 0.15),
        measurements(0.5, 0.2, twins=0.06),
        measurements(0.5, 0.2, recall=0.04),
    ],
)
def test_a_training_that_is_not_steady(rows):
    assert verdict(4, {"diffusion recipe": rows}) == "does not hold"


def test_a_kid_that_rises_at_first_or_within_its_error_is_steady():
    for kids in ((0.2, 0.5, 0.2, 0.1), (0.03, 0.02, 0.01, 0.025)):
        assert gan_report.largest_rise(measurements(*kids)) == 1.0
    assert gan_report.largest_rise(measurements(0.2, 0.1, 0.15, 0.1)) == pytest.approx(1.5)


def test_verdict_on_the_training_data():
    def of(*same):  # with 5 % left out and another seed, of diffusion, then of the GAN
        pairs = itertools.product(gan_report.KINDS, gan_report.DATA)
        correlations = {pair: (value, 0.0) for pair, value in zip(pairs, same, strict=True)}
        return verdict(3, {}, correlations)

    no_more = "; another seed changes the GAN's images no more"
    assert of(0.9, 0.8, 0.3, 0.1) == "holds"
    assert of(0.9, 0.8, 0.1, 0.1) == f"holds{no_more}"
    assert of(0.3, 0.1, 0.3, 0.1) == "holds for both"
    assert of(0.3, 0.1, 0.8, 0.1) == "does not hold"
    assert of(0.9, 0.8, 0.8, 0.8) == f"does not hold{no_more}"


def test_verdict_on_other_hyperparameters():
    def of(*kids):  # of diffusion and of the GAN, with both rates
        curves = {
            f"{kind} {rate}": measurements(1.0, kid)
            for kind, kid in zip(gan_report.KINDS, kids, strict=True)
            for rate in gan_report.RATES
        }
        return verdict(5, curves)

    assert of(0.3, 0.3) == of(0.3, 0.5) == "does not hold"
    assert of(0.5, 0.3) == of(np.nan, 0.3) == "holds"
    assert of(0.5, 0.5) == "holds for both"


def test_share_of_near_identical_images():
    images = np.random.default_rng(0).random((10, 4, 4, 3))
    mean = np.full((4, 4, 3), 0.5)
    assert gan_experiments.share_of_twins(images, mean) == 0
    images[3] = 0.5 + 0.5 * (images[4] - 0.5)  # with less contrast
    assert gan_experiments.share_of_twins(images, mean) == 0.2
    assert gan_experiments.share_of_twins(np.full((5, 4, 4, 3), 0.2), mean) == 1


@pytest.mark.slow
def test_gan_experiments_end_to_end(tmp_path, monkeypatch, encoder, capsys):
    monkeypatch.setattr(gan_experiments, "FAST", TINY)
    monkeypatch.setattr(equal_time, "PROBED_STEPS", 2)
    monkeypatch.setattr(gan_experiments, "MEASUREMENTS", 2)
    monkeypatch.setattr(gan_experiments.gan, "WIDTH", 4)
    monkeypatch.setattr("ddim_keras.metrics.encoders.choose_encoder", lambda weights: encoder)
    settings = ("--seconds", 1, "--image-size", 16, "--num-images", 16)
    place = ("--dataset", "drawn_flowers", "--cache-dir", tmp_path, "--output", tmp_path / "out")
    policy = keras.config.dtype_policy()
    try:
        assert run(gan_experiments, *settings, *place, "--only", 1) == 0
        recorded = (tmp_path / "out" / "trainings.csv").read_text()
        assert run(gan_experiments, *settings, *place, "--only", 1, 3) == 0
    finally:
        keras.config.set_dtype_policy(policy)
    assert (tmp_path / "out" / "trainings.csv").read_text().startswith(recorded)
    curves = gan_experiments.read_curves(tmp_path / "out")
    assert [len(rows) for rows in curves.values()] == [1, *[2] * 6]
    for kind in gan_report.KINDS:  # as many steps in each training of a kind
        steps = {rows[-1]["step"] for name, rows in curves.items() if name.startswith(kind)}
        assert len(steps) == 1
    capsys.readouterr()
    assert run(gan_experiments, *settings, *place, "--only", 3, 1) == 0
    table, observations = capsys.readouterr().out.split("\n\n")
    assert len(table.splitlines()) == 2 + len(curves)
    assert [line[:5] for line in observations.splitlines()[2:]] == ["| 1. ", "| 3. "]
    for name in ("kid.png", "images.png", "gan_left_out.npy"):
        assert (tmp_path / "out" / name).exists()
    error = run(gan_experiments, "--seconds", 2, *settings[2:], *place)
    assert error.endswith("out holds trainings of other settings; choose another --output")


def test_steps_of_a_training_of_equal_time():
    """Those that compile are not timed; there are as many as are needed at least."""
    now, trained = [0.0], []

    class Slow:
        def train(self, first_step, num_steps):
            trained.append((first_step, num_steps))
            now[0] += num_steps * (100.0 if first_step == 0 else 0.5)

    assert equal_time.steps_within(60, Slow(), lambda: now[0], fewest=7) == 120
    assert trained == [(0, 2), (2, 20)]
    assert equal_time.steps_within(1, Slow(), lambda: now[0], fewest=7) == 7


def test_a_folder_of_trainings_has_one_setting(tmp_path):
    folder = tmp_path / "new"
    for _ in range(2):
        equal_time.require_same_settings(folder, {"seconds": 3})
    with pytest.raises(InputError, match="new holds trainings of other settings"):
        equal_time.require_same_settings(folder, {"seconds": 4})


def costs(training, judged, *bits):
    rows = [
        {"training": training, "judged": judged, "image": n, "bits": b} for n, b in enumerate(bits)
    ]
    return [row | {"L_0": 1.0, "between": row["bits"] - 1.5, "L_T": 0.5} for row in rows]


def test_likelihood_tables():
    trainings = [
        {"training": name, "images": 1e5, "seconds": 1200.3, "is_finite": name != "bound cosine"}
        for name in ("noise cosine", "hybrid cosine", "bound cosine")
    ]
    bits = [
        *costs("noise cosine", "small", 4.0, 5.0, 6.1),
        *costs("noise cosine", "large", 3.8, 4.8, 5.7),
        *costs("hybrid cosine", "learned", 3.8, 4.7, 5.8),
        *costs("hybrid cosine", "small", 4.0, 5.0, 6.0),
    ]
    kids = [{"training": "hybrid cosine", "kid": 0.1, "kid_standard_error": 0.01, "protocol": "x"}]
    table = likelihood_report.table_of_bits(trainings, bits, kids).splitlines()
    assert len(table) == 2 + 5
    assert table[2] == (
        "| noise cosine | 100,000 | 1200 | small | 1.0000 | 3.5333 | 0.5000 | 5.0333 ± 0.6064 | 3 "
        "| - |"
    )
    assert table[4].endswith("| 4.7667 ± 0.5783 | 3 | 0.1000 ± 0.0100 (x) |")
    assert "infinite weights" in table[6]
    judgements = likelihood_report.by_judgement(bits)
    better, alike, of_one = likelihood_report.table_of_answers(judgements).splitlines()[2:]
    assert "hybrid cosine, learned is better: its cost in bits per dimension is lower by" in better
    assert "| learned or fixed variances | -0.2667 (" in better
    assert "no difference beyond the error" in alike
    assert of_one.startswith("| of one network | -0.2333 (")


def test_questions_are_about_what_is_measured():
    """Each has two costs that some training has, and no question is asked twice."""
    known = {
        (name, judged)
        for name in likelihood_report.TRAININGS
        for judged in ("small", "large", "flow", *(["learned"] if "noise" not in name else []))
    }
    pairs = [(question.first, question.second) for question in likelihood_report.QUESTIONS]
    assert {*itertools.chain(*pairs)} <= known
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)


def steady_curves(steps=100):
    """Losses that fall, and gradient norms around 1."""
    random = np.random.default_rng(0)
    losses = 5 + 10 * np.exp(-np.arange(steps) / 20) + 0.1 * random.random(steps)
    return np.stack([losses, 0.5 + random.random(steps)], axis=1)


def test_a_training_of_variances_that_is_unstable():
    def faults_of(column, step, value):
        curves = steady_curves()
        curves[step:, column] = value
        return likelihood_report.faults(curves)

    steady = steady_curves()
    assert likelihood_report.faults(steady) == []
    assert faults_of(0, 60, np.nan) == ["infinite loss or gradient in step 60"]
    (spike,) = faults_of(1, 99, 500.0)
    assert re.fullmatch(r"a gradient norm [45]\d\d times the median", spike)
    assert faults_of(1, 99, 50.0) == []
    (rise,) = faults_of(0, 60, 9.0)
    assert rise.startswith("a median loss 1.")
    early = steady.copy()
    early[:10] *= 1e6  # before anything has settled
    assert likelihood_report.faults(early) == []

    curves = {"interpolated": steady, "direct": steady.copy()}
    curves["direct"][-1, 1] = 1e6
    assert likelihood_report.judge_stability(curves).endswith("unstable: holds")
    curves["interpolated"] = curves["direct"]
    assert likelihood_report.judge_stability(curves).endswith("unstable: holds for both")
    curves["direct"] = steady
    assert likelihood_report.judge_stability(curves).endswith("unstable: does not hold")


def likelihood_settings(folder, **others):
    settings = {"output": folder, "only": [1, 2], "kid_weights": None}
    return argparse.Namespace(**settings | others)


def test_parts_of_the_likelihood_experiments_that_are_missing(tmp_path):
    """All at first; then those that no table has, and none of a training that diverged."""
    parts = likelihood_experiments.missing_parts(likelihood_settings(tmp_path))
    assert len(parts) == 5 * 3 + 2
    assert parts[:4] == [
        *(("train", "noise cosine"), ("bound", "noise cosine"), ("flow", "noise cosine")),
        ("train", "hybrid cosine"),
    ]
    add = likelihood_experiments.add_rows
    add(tmp_path, "trainings", [{"training": "noise cosine", "is_finite": 1}])
    add(tmp_path, "trainings", [{"training": "hybrid cosine", "is_finite": 0}])
    add(tmp_path, "bits", costs("noise cosine", "small", 4.0, 5.0))
    add(tmp_path, "stability", [{"variance": "interpolated", "step": 0}])
    with_kid = likelihood_settings(tmp_path, kid_weights="compact")
    parts = likelihood_experiments.missing_parts(with_kid)
    assert parts[:2] == [("flow", "noise cosine"), ("KID", "noise cosine")]
    assert parts[2] == ("train", "bound cosine")
    assert parts[-1] == ("record", "direct")
    assert likelihood_experiments.missing_parts(likelihood_settings(tmp_path, only=[2])) == [
        ("record", "direct")
    ]


def test_recipes_of_the_likelihood_experiments():
    """Each is valid, and differs from the preset in its loss, variance and schedule alone."""
    preset = PRESETS["likelihood"]
    settings = likelihood_settings(None, discrete_steps=1000)
    for name in likelihood_report.TRAININGS:
        config, recipe = likelihood_experiments.recipe_of(name, settings)
        RunConfig(preset=name, model=config, training=recipe)
        assert config.schedule == name.split()[1]
        assert recipe.loss_on == "noise"
        same = {"schedule": "cosine", "variance": "learned"}
        assert dataclasses.replace(config, **same) == preset.model
        assert dataclasses.replace(recipe, loss="hybrid") == preset.training


def test_a_directly_predicted_variance():
    """The exponential of the network's output, which is 0 at first."""
    from benchmarks.quality.direct_variance import VarianceTraining

    values = {"variance": "learned", "discrete_steps": 50, "schedule": "cosine"}
    config = dataclasses.replace(TINY.model, **values)
    recipe = dataclasses.replace(TINY.training, loss="bound")
    images, _ = draw_flowers(32, 16)
    policy = keras.config.dtype_policy()
    try:
        model = VarianceTraining("direct", config, recipe, images, 10).model
        steps = keras.ops.convert_to_tensor([1, 40])
        normalized = model.normalize(keras.ops.convert_to_tensor(images[:2]))
        rates = rates_at(steps, model.alpha_bars, normalized)
        _, _, fractions = model.predict_step(normalized, *rates, training=False)
        for more, expected in ((0.0, 1.0), (1.5, np.exp(3.0))):
            variances = model.variances(fractions + more, steps)
            np.testing.assert_allclose(keras.ops.convert_to_numpy(variances), expected, rtol=1e-3)
    finally:
        keras.config.set_dtype_policy(policy)


def test_the_gradient_norm_of_a_step_is_recorded():
    from benchmarks.quality.direct_variance import record_gradient_norm

    weights = [keras.Variable(np.ones(2)), keras.Variable(np.ones(1))]
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(weights)
    norm = record_gradient_norm(optimizer)
    gradients = [keras.ops.convert_to_tensor(values) for values in ([3.0, 4.0], [12.0])]
    optimizer.apply(gradients, weights)
    assert float(keras.ops.convert_to_numpy(norm)) == pytest.approx(13)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(weights[0]), [0.7, 0.6], rtol=1e-5)


@pytest.mark.slow
def test_likelihood_experiments_end_to_end(tmp_path, monkeypatch, encoder, capsys):
    monkeypatch.setattr(likelihood_experiments, "RECIPE", TINY)
    monkeypatch.setattr(likelihood_experiments, "BETWEEN_REPORTS", 2)
    monkeypatch.setattr(likelihood_experiments, "FEWEST_STEPS", 6)
    coarse = functools.partial(likelihood.flow_bits, tolerance=1e-2)
    monkeypatch.setattr(likelihood, "flow_bits", coarse)
    monkeypatch.setattr(equal_time, "PROBED_STEPS", 2)
    monkeypatch.setattr("ddim_keras.metrics.encoders.choose_encoder", lambda weights: encoder)
    settings = ("--seconds", 1, "--direct-seconds", 1, "--image-size", 16, "--discrete-steps", 100)
    counts = ("--num-images", 4, "--flow-images", 2, "--kid-images", 16)
    out = tmp_path / "out"
    place = ("--dataset", "drawn_flowers", "--cache-dir", tmp_path, "--output", out)
    command = (likelihood_experiments, *settings, *counts, *place)
    policy = keras.config.dtype_policy()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(likelihood_experiments, "TRAININGS", ("noise cosine", "hybrid cosine"))
            assert run(*command, "--only", 1) == 0
        recorded = (out / "bits.csv").read_text()
        assert run(*command, "--kid-weights", "x") == 0
    finally:
        keras.config.set_dtype_policy(policy)
    assert (out / "bits.csv").read_text().startswith(recorded)
    for table, rows in (("trainings", 5), ("kid", 5), ("terms", 5 * 101)):
        assert len(likelihood_experiments.read(out, table)) == rows
    bits = likelihood_experiments.read(out, "bits")
    assert len(bits) == 2 * (2 * 4 + 2) + 3 * (3 * 4 + 2)
    for row in bits:
        assert row["judged"] == "flow" or row["bits"] == pytest.approx(
            row["L_0"] + row["between"] + row["L_T"]
        )
    steps = [row["steps"] for row in likelihood_experiments.read(out, "trainings")]
    assert (steps[0], steps[1]) == (steps[3], steps[4])  # of the same losses
    capsys.readouterr()
    monkeypatch.setattr(likelihood_experiments, "work", None)  # nothing is left to do
    assert run(*command) == 0
    assert "a directly predicted variance is unstable: " in capsys.readouterr().out
    for name in ("likelihood.png", "stability.png", "hybrid_linear/last.weights.h5"):
        assert (out / name).exists()
