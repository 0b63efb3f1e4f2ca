"""Flowers from an ONNX file with NumPy and onnxruntime alone, without Keras and TensorFlow.

    python -m ddim_keras.export --format onnx --output flowers.onnx
    python examples/onnx_sampling.py flowers.onnx sunflower "sweet pea"

Deterministic DDIM (Song et al. 2020, equation 12) with classifier-free guidance, as `generate.py`.
"""

import argparse
import itertools
import json

import numpy as np
from PIL import Image

STEPS, GUIDANCE, SEED = 20, 1.0, 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes flowers.png, an image for each class.")
    parser.add_argument("model", help="ONNX file, from ddim_keras.export")
    parser.add_argument("classes", nargs="+", metavar="class", help="class name")
    options = parser.parse_args()
    import onnxruntime  # not before: --help needs none

    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["ddim_keras"])
    names = facts["class_names"]
    if unknown := set(options.classes) - set(names):
        parser.error(f"no class {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    labels = [names.index(name) for name in options.classes]
    labels = np.array(labels + len(labels) * [len(names)], "int32")  # then each without its class

    times = np.linspace(1, 0, STEPS + 1)
    known_rates = facts["signal_rates"]
    signal_rates = np.interp(times, np.linspace(0, 1, len(known_rates)), known_rates)
    shape = (len(labels) // 2, *session.get_inputs()[0].shape[1:])
    noisy_images = np.random.default_rng(SEED).standard_normal(shape, dtype="float32")
    for signal, next_signal in itertools.pairwise(signal_rates):
        inputs = {
            "noisy_images": np.tile(noisy_images, (2, 1, 1, 1)),
            "noise_rates": np.full((len(labels), 1, 1, 1), np.sqrt(1 - signal**2), "float32"),
            "signal_rates": np.full((len(labels), 1, 1, 1), signal, "float32"),
            "labels": labels,
        }
        outputs = session.run(["pred_noises", "pred_images"], inputs)
        pairs = (np.split(output, 2) for output in outputs)
        pred_noises, pred_images = (each + GUIDANCE * (each - other) for each, other in pairs)
        next_noise = np.sqrt(1 - next_signal**2)
        noisy_images = (next_signal * pred_images + next_noise * pred_noises).astype("float32")

    images = facts["pixel_means"] + pred_images * np.sqrt(facts["pixel_variances"])
    pixels = np.round(255 * np.clip(images, 0, 1)).astype("uint8")
    Image.fromarray(np.concatenate(list(pixels), axis=1)).save("flowers.png")


if __name__ == "__main__":
    main()
