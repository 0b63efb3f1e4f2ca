"""One batch shared by several devices: the losses, weights and KID of one device."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import train
from benchmarks.speed import devices as benchmark
from ddim_keras.backends import describe_device, local_value
from ddim_keras.backends.devices import (
    choose_devices,
    connect_hosts,
    cpu_has_bfloat16,
    device_names,
    fast_precision,
    process_id,
)
from ddim_keras.config import InputError
from ddim_keras.presets import PRESETS
from tests.helpers import TINY, run

BACKEND = keras.backend.backend()
needs_devices = pytest.mark.skipif(BACKEND == "torch", reason="torch trains on one device")


def assert_same_results(results):
    first, *others = results.values()
    assert len(first) == 14  # losses of training and validation, KID and its error, twice; weights
    for result in others:
        assert result == pytest.approx(first, rel=1e-4)


@needs_devices
@pytest.mark.slow
@pytest.mark.parametrize("block", ["plain", "adaptive"])
def test_any_number_of_devices_trains_alike(block):
    assert_same_results(benchmark.results_of(BACKEND, block, list(benchmark.CASES)))


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "jax", reason="several hosts need JAX")
def test_two_processes_train_as_one():
    assert_same_results(benchmark.results_of(BACKEND, "plain", ["1", benchmark.TWO_PROCESSES]))


def test_one_device_needs_nothing():
    assert len(choose_devices(None, batch_size=7)) == len(choose_devices(1, batch_size=7)) == 1
    assert process_id() == 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx2 avx512_bf16 sse", True), ("fpu amx_bf16", True), ("fpu avx2 avx512f", False)],
)
def test_bfloat16_is_used_where_the_processor_has_it(flags, expected, monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(f"flags : {flags}\n")
    assert cpu_has_bfloat16(path) == expected
    assert not cpu_has_bfloat16(tmp_path / "absent")
    monkeypatch.setattr("ddim_keras.backends.devices.cpu_has_bfloat16", lambda: expected)
    if choose_devices(None, batch_size=1)[0].lower().startswith(("cpu", "default")):
        is_used = expected and BACKEND != "jax"
        assert fast_precision() == ("mixed_bfloat16" if is_used else "float32")


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch")
@pytest.mark.parametrize(("kind", "name"), [("cpu", "CPU"), ("mps", "GPU (mps)")])
def test_the_device_is_that_which_keras_computes_on(kind, name, monkeypatch):
    tensor = SimpleNamespace(device=SimpleNamespace(type=kind))
    monkeypatch.setattr(keras.ops, "convert_to_tensor", lambda value: tensor)
    assert describe_device() == name


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
@pytest.mark.parametrize(
    ("platform", "capability", "expected"),
    [
        ("gpu", "7.5", "float32"),
        ("gpu", "8.0", "mixed_bfloat16"),
        ("gpu", "12.0", "mixed_bfloat16"),
        ("gpu", "gfx942", "float32"),  # AMD
        ("tpu", "", "mixed_bfloat16"),
    ],
)
def test_bfloat16_is_used_on_accelerators_that_have_it(platform, capability, expected, monkeypatch):
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    monkeypatch.setattr("jax.local_devices", lambda: [device])
    assert fast_precision() == expected


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
@pytest.mark.parametrize("is_native", [True, False])
def test_bfloat16_that_a_gpu_emulates_is_not_used(is_native, monkeypatch):
    """As those before Ampere do, such as the T4, of which PyTorch says that it supports it."""
    import torch

    def is_supported(including_emulation=True):
        return is_native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert fast_precision() == ("mixed_bfloat16" if is_native else "float32")


@pytest.mark.skipif(BACKEND != "jax", reason="several hosts need JAX")
def test_a_compiled_step_of_several_hosts_reads_whole_values(monkeypatch):
    """The loss with learned variances asks for the range of pixels within the step."""
    import jax

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    double = jax.jit(lambda value: 2 * local_value(SimpleNamespace(value=value)))
    assert double(np.ones(3)).tolist() == [2, 2, 2]


@needs_devices
def test_mistakes():
    with pytest.raises(InputError, match="batch size 64 cannot be shared equally by 3 devices"):
        choose_devices(3, 64)
    there = len(device_names())
    with pytest.raises(InputError, match=f"--devices 64: there are {there} .*XLA_FLAGS"):
        choose_devices(64, 64)


@pytest.mark.skipif(BACKEND != "torch", reason="of torch")
def test_torch_says_which_backends_can():
    with pytest.raises(InputError, match="--backend tensorflow or --backend jax, not torch"):
        choose_devices(2, 64)


@pytest.mark.skipif(BACKEND == "jax", reason="of the others")
def test_hosts_need_jax(monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "2")
    with pytest.raises(InputError, match=f"need --backend jax, not {BACKEND}"):
        connect_hosts()


def test_the_command_refuses_devices_that_are_not_there(monkeypatch, flowers_file, tmp_path):
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    output = tmp_path / "run"
    options = ("--preset", "tiny", "--dataset", flowers_file, "--image-size", 16)
    message = run(train, *options, "--output", output, "--devices", 16)
    assert "devices" in message
    assert not output.exists()
