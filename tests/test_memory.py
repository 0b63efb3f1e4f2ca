import pytest

from ddim_keras import memory
from ddim_keras.config import InputError, NetworkConfig
from ddim_keras.network import residual_unet
from ddim_keras.presets import PRESETS


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_network_is_never_thought_larger_than_it_is(preset):
    network = preset.model.network
    size = 4 * residual_unet(network).count_params()
    assert 0.5 * size < memory.network_size(network) <= size


def test_what_does_not_fit_is_refused_before_it_is_built(monkeypatch):
    memory.require_memory_for(NetworkConfig(), batch_size=1, training=True)
    large = NetworkConfig(widths=(8192,), depths=(64,))
    monkeypatch.setattr(memory, "available", lambda: 16e9)
    with pytest.raises(InputError, match=r"needs 309\.\d GB of memory, of which 16\.0 GB"):
        memory.require_memory_for(large)
    with pytest.raises(InputError, match="or --batch-size"):
        memory.require_memory_for(NetworkConfig(image_size=1024), batch_size=64, training=True)


def test_the_limit_of_a_process_counts(monkeypatch):
    resource = pytest.importorskip("resource")
    unlimited = memory.available()
    monkeypatch.setattr(resource, "getrlimit", lambda which: (0, 0))
    assert memory.available() <= 0 < unlimited


def test_copies_of_files_do_not_count_as_used(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 300\nactive_file 400\n")
    assert memory.available() == 800
