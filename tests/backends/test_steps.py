"""What is imported by whom; that backends agree is shown by the golden files of `agreed_...`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[2]


def run_program(backend, program, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed")
def test_jax_needs_no_tensorflow_to_train_from_a_prepared_cache(tmp_path):
    program = """
import sys
sys.modules["tensorflow"] = None  # importing it fails, as where it is not installed
sys.modules["tensorflow_datasets"] = None
import numpy as np
from ddim_keras import ModelConfig, NetworkConfig, DiffusionModel, draw_flowers, load_dataset
np.savez(sys.argv[1] + "/drawn.npz", images=draw_flowers(40, 8)[0])
for _ in range(2):
    dataset = load_dataset(sys.argv[1] + "/drawn.npz", 8, cache_dir=sys.argv[1])
model = DiffusionModel(ModelConfig(network=NetworkConfig(image_size=8, widths=(8,), depths=(1,))))
model.compile()
model.adapt(dataset.train_images)
model.fit(np.array(dataset.train_images), batch_size=16, verbose=0)
print(model.generate(2, 2).shape)
"""
    process = run_program("jax", program, tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "(2, 8, 8, 3)"


def test_importing_the_package_chooses_no_backend():
    program = "import sys, ddim_keras; print('keras' in sys.modules)"
    assert run_program(keras.backend.backend(), program).stdout == "False\n"
