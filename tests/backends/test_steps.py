"""The same training on every installed backend: same weights, noises and data, same results."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BACKENDS = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]

PROGRAM = """
import sys
import keras
import numpy as np
from keras import ops
from ddim_keras import DiffusionModel, ModelConfig, NetworkConfig
from ddim_keras.training.muon import ConvolutionMuon

class SameNoises(DiffusionModel):
    '''Draws noises and times as functions of the images: the same on every backend.'''

    def draw_noises_and_times(self, images):
        times = 0.5 + 0.5 * ops.sin(20.0 * ops.mean(images, axis=(1, 2, 3), keepdims=True))
        return ops.flip(images, axis=(1, 2)), times

results = {}
for prediction, block, loss in (("noise", "plain", "mse"), ("velocity", "adaptive", "mae")):
    random = np.random.default_rng(0)
    network = NetworkConfig(
        image_size=8, widths=(8 if block == "plain" else 16,), depths=(1,), block=block,
        attention_sizes=(8,) if block == "adaptive" else (),
    )
    model = SameNoises(ModelConfig(network=network, prediction=prediction, ema=0.9))
    for weight in model.network.trainable_weights:
        weight.assign(0.1 * random.standard_normal(weight.shape))
    model.ema_network.set_weights(model.network.get_weights())
    # A large epsilon: dividing tiny gradients by their size would amplify rounding.
    optimizer = keras.optimizers.AdamW if block == "plain" else ConvolutionMuon
    model.compile(optimizer(1e-2, weight_decay=1e-2, epsilon=1e-3), loss=loss)
    images = random.integers(0, 256, (32, 8, 8, 3)).astype("uint8")
    model.adapt(images)
    batches = ((images[start : start + 8],) for start in range(0, 32, 8))
    history = model.fit(batches, steps_per_epoch=4, verbose=0).history
    evaluation = model.evaluate(images, batch_size=8, verbose=0, return_dict=True)
    noises = random.standard_normal((4, 8, 8, 3)).astype("float32")
    results[prediction + " losses"] = [history["noise_loss"][0], history["image_loss"][0]]
    results[prediction + " evaluation"] = [evaluation["noise_loss"], evaluation["image_loss"]]
    results[prediction + " generated"] = ops.convert_to_numpy(model.reverse_diffusion(noises, 3))
    for kind in (model.network, model.ema_network):
        for index, weight in enumerate(kind.weights):
            results[f"{prediction} {kind.name} {index}"] = ops.convert_to_numpy(weight)
np.savez(sys.argv[1], **results)
"""


def run_program(backend, program, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(len(BACKENDS) < 2, reason="only one Keras backend is installed")
def test_backends_agree_after_training(tmp_path):
    results = {}
    for backend in BACKENDS:
        path = tmp_path / f"{backend}.npz"
        process = run_program(backend, PROGRAM, path)
        assert process.returncode == 0, process.stderr
        results[backend] = dict(np.load(path))
    first, *others = BACKENDS
    for other in others:
        assert results[other].keys() == results[first].keys()
        for name, expected in results[first].items():
            # Relative to the array: sampling begins with a division by a signal rate of 0.02.
            tolerance = 1e-4 * (1 + np.abs(expected).max())
            np.testing.assert_allclose(
                results[other][name], expected, rtol=2e-3, atol=tolerance, err_msg=f"{other} {name}"
            )


@pytest.mark.skipif("jax" not in BACKENDS, reason="JAX is not installed")
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
