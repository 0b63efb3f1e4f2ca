"""Flowers from an ONNX file, with only NumPy and onnxruntime: DDIM with guidance as generate.py.

python -m ddim_keras.export --format onnx --output flowers.onnx
python examples/onnx_sampling.py flowers.onnx sunflower "sweet pea"
"""

import itertools
import json
import sys
import time

import numpy as np
import onnxruntime
from PIL import Image

STEPS, GUIDANCE, SEED = 20, 1.0, 0
path, *classes = sys.argv[1:] or sys.exit(__doc__)
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
facts = json.loads(session.get_modelmeta().custom_metadata_map["ddim_keras"])
names = facts["class_names"]
if not classes or not set(classes) <= set(names):
    sys.exit(f"error: no class {', '.join(classes)}; there are {', '.join(names)}")
labels = [names.index(name) for name in classes] + len(classes) * [len(names)]  # with, without
times = np.linspace(1, 0, STEPS + 1)
rates = np.interp(times, np.linspace(0, 1, len(facts["signal_rates"])), facts["signal_rates"])
shape = (len(classes), *session.get_inputs()[0].shape[1:])
noisy_images = np.random.default_rng(SEED).standard_normal(shape, "float32")
start = time.perf_counter()
for signal, next_signal in itertools.pairwise(rates):
    rate = np.full((len(labels), 1, 1, 1), signal, "float32")
    inputs = {"noisy_images": np.tile(noisy_images, (2, 1, 1, 1)), "labels": np.int32(labels)}
    inputs |= {"signal_rates": rate, "noise_rates": np.sqrt(1 - rate**2)}
    outputs = session.run(["pred_noises", "pred_images"], inputs)
    pairs = (np.split(output, 2) for output in outputs)  # with the class, and without
    noises, images = (each + GUIDANCE * (each - other) for each, other in pairs)
    noisy_images = np.float32(next_signal * images + np.sqrt(1 - next_signal**2) * noises)
print(f"{len(classes)} images in {time.perf_counter() - start:.1f} s: flowers.png")
images = facts["pixel_means"] + images * np.sqrt(facts["pixel_variances"])
pixels = np.uint8(np.round(255 * np.clip(images, 0, 1)))
Image.fromarray(np.concatenate(list(pixels), axis=1)).save("flowers.png")
