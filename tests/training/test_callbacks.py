"""Callbacks of a training, each alone, with stand-ins for the model."""

import dataclasses
import io
import math
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from ddim_keras.config import GUIDANCE, InputError
from ddim_keras.metrics.kid import KernelInceptionDistance
from ddim_keras.runs.configuration import KIDProtocol, RunConfig
from ddim_keras.runs.folder import Run
from ddim_keras.samplers import Sampler
from ddim_keras.training import callbacks
from ddim_keras.training.callbacks import (
    Interrupted,
    KIDCallback,
    RunRecord,
    StopCleanly,
    TimeEstimate,
)
from ddim_keras.training.preparation import callbacks_for
from tests.helpers import EPOCH, SIZE, TINY

LOSSES = {name: value for name, value in EPOCH.items() if name.endswith("loss")}


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A record whose checkpoints hold no weights but the number of the epoch."""
    run = Run(tmp_path)
    record = RunRecord(run, "KID", images_per_epoch=30)
    saved = iter(range(1, 100))
    monkeypatch.setattr(Run, "save_last", lambda *_: run.last_weights.write_text(str(next(saved))))
    monkeypatch.setattr(callbacks.figures, "training_curves", lambda *_: None)
    monkeypatch.setattr(callbacks.figures, "save_figure", lambda *_: None)
    return record


def test_the_best_weights_are_those_of_the_least_kid(record):
    """Which is neither the first nor the last."""
    best = []
    for epoch, kid in enumerate((0.5, 0.6, 0.3, 0.4, 0.35)):
        record.on_epoch_begin(epoch)
        record.on_epoch_end(epoch, {**LOSSES, "kid": kid})
        best.append(record.run.best_weights.read_text())
    assert best == ["1", "1", "3", "3", "3"]
    assert record.run.last_weights.read_text() == "5"
    assert [row["images"] for row in record.run.read_history()] == [30, 60, 90, 120, 150]
    record.on_epoch_begin(3)  # again, since a kill lost the fourth and fifth
    record.on_epoch_end(3, LOSSES)
    assert [row.get("kid") for row in record.run.read_history()] == [0.5, 0.6, 0.3, None]


def test_an_epoch_that_diverged_leaves_no_trace(record):
    record.on_epoch_begin(0)
    with pytest.raises(InputError, match="diverged"):
        record.on_epoch_end(0, {"noise_loss": math.inf})
    assert list(record.run.folder.iterdir()) == []


def test_the_time_that_is_announced_counts_the_steps_of_a_call(monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock.now)
    estimate = TimeEstimate(1200, SimpleNamespace(steps_per_call=4), after_steps=10)
    said_at = []
    for call in range(1, 30):
        clock.now += 100.0 if call < 3 else 2.0  # the first calls compile
        estimate.on_train_batch_end(call, {"noise_loss": 0.1})
        if text := capsys.readouterr().out:
            said_at.append(call)
            assert "0.5 s per step: about 10 min for 1,200 steps" in text
    assert said_at == [5]  # 12 steps after the second call


def test_a_loss_that_is_not_finite_stops_within_an_epoch_and_ctrl_c_is_given_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopCleanly(check_every=2) as stop:
        assert signal.getsignal(signal.SIGINT) not in before
        stop.set_params({"steps": 10})
        with pytest.raises(InputError, match="diverged"):
            stop.on_train_batch_end(0, {"noise_loss": math.nan})
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_ctrl_c_within_a_print(monkeypatch):
    class Terminal(io.RawIOBase):
        def writable(self):
            return True

        def write(self, text):
            if not stop.requested:
                signal.raise_signal(signal.SIGINT)
            return len(text)

    with StopCleanly() as stop:
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BufferedWriter(Terminal())))
        print("epoch 1", flush=True)  # Python refuses the handler another one meanwhile
        monkeypatch.undo()
        assert stop.requested
        stop.set_params({"steps": 10})
        with pytest.raises(Interrupted):
            stop.on_train_batch_end(0, {"noise_loss": 0.1})


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has none")
def test_a_closed_terminal_stops_like_ctrl_c(monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also if these tests run under nohup
    try:
        with StopCleanly() as stop:
            monkeypatch.setattr("sys.stdout", Closed())
            signal.raise_signal(signal.SIGHUP)
            monkeypatch.undo()
            stop.set_params({"steps": 10})
            with pytest.raises(Interrupted):
                stop.on_train_batch_end(0, {"noise_loss": 0.1})
        signal.raise_signal(signal.SIGHUP)  # from the kernel after the shell, within the saving
        with StopCleanly() as stop:  # and under nohup
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_kid_and_grids_follow_the_protocol(encoder, tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 255, (70, SIZE, SIZE, 3), dtype="uint8")
    kid = KernelInceptionDistance(encoder, images)
    protocol = KIDProtocol(kid.protocol, 65, "heun", 7, 2.5, clip=True)
    config = RunConfig("tiny", TINY.model, TINY.training, protocol=protocol)
    measure, grid = callbacks_for(Run(tmp_path), config, None, kid)
    calls = []

    def generate(num_images, steps, **options):
        calls.append({"images": num_images, "steps": steps, **options})
        return images[:num_images] / 255

    for each in (measure, grid):
        each.set_model(SimpleNamespace(generate=generate))
        each.set_params({"epochs": 1})
    logs = {}
    monkeypatch.setattr(callbacks.figures, "save_samples", lambda *_: None)
    measure.on_epoch_end(0, logs)
    grid.on_epoch_end(0)
    sampler = Sampler("heun", clip=True)
    shared = {"seed": 0, "guidance": 2.5}
    assert calls == [
        {"images": 65, "steps": 7, "sampler": sampler, **shared},
        {"images": 32, "steps": 20, **shared},
    ]
    distance = kid(images[:65])
    assert (logs["kid"], logs["kid_standard_error"]) == pytest.approx(
        dataclasses.astuple(distance), nan_ok=True
    )
    of_several = dataclasses.replace(TINY.model, student_steps=(1, 2, 4))
    measure, _ = callbacks_for(
        Run(tmp_path), dataclasses.replace(config, model=of_several), None, kid
    )
    measure.set_model(SimpleNamespace(generate=generate))
    measure.set_params({"epochs": 1})
    calls.clear()
    measure.on_epoch_end(0, logs)
    assert [call["steps"] for call in calls] == [7, 1, 2]
    assert logs["kid_1_steps"] == logs["kid_2_steps"] == logs["kid"]
    unmeasured = dataclasses.replace(config, protocol=None)
    (alone,) = callbacks_for(Run(tmp_path), unmeasured, None, None)
    assert not isinstance(alone, KIDCallback)
    assert alone.guidance == 0
    network = dataclasses.replace(TINY.model.network, num_classes=3)
    with_classes = dataclasses.replace(TINY.model, network=network)
    unmeasured = dataclasses.replace(unmeasured, model=with_classes)
    (alone,) = callbacks_for(Run(tmp_path), unmeasured, None, None)
    assert alone.guidance == GUIDANCE  # which the title of the grid then says
