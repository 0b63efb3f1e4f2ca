"""Training and sampling speed of a preset, beside the Keras DDIM example's own loop, in one run.

    python benchmarks/throughput.py --preset lab

The baseline is the assignment's network as the Keras example builds and trains it: bilinear
upsampling, everything in one train_step, an eager loop for sampling. Steps of both alternate, and
the ratio is that of the medians, so that a machine whose speed drifts does not decide.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ddim_keras.command_line import add_backend_option, at_least, choose_backend, run_command
from ddim_keras.config import PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="lab", help="(default: lab)")
    parser.add_argument("--batch-size", type=at_least(1), default=64, help="(default: 64)")
    parser.add_argument("--rounds", type=at_least(1), default=5, help="timed steps (default: 5)")
    add_backend_option(parser)
    arguments = parser.parse_args()
    backend = choose_backend(arguments.backend)

    import keras
    import numpy as np

    from ddim_keras.model import DiffusionModel
    from ddim_keras.steps import describe_device

    preset = PRESETS[arguments.preset]
    network = preset.model.network
    batch_size = arguments.batch_size
    images = np.random.default_rng(0).integers(
        0, 256, (batch_size, network.image_size, network.image_size, network.channels), "uint8"
    )
    noise = np.random.default_rng(0).standard_normal(images.shape, "float32")

    ours = DiffusionModel(preset.model)
    ours.adapt(images)
    ours.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-4))
    contenders = {f"ddim_keras {arguments.preset}": (ours, ours.reverse_diffusion)}
    if backend == "tensorflow":
        example = keras_example(images)
        contenders["Keras example"] = (example, example.reverse_diffusion)

    results = {name: {"train": [], "sample": []} for name in contenders}
    for counted_round in range(-1, arguments.rounds):  # the first compiles
        for name, (model, sample) in contenders.items():
            start = time.perf_counter()
            model.train_on_batch(images)
            middle = time.perf_counter()
            np.asarray(keras.ops.convert_to_numpy(sample(noise, 2)))
            end = time.perf_counter()
            if counted_round >= 0:
                results[name]["train"].append(batch_size / (middle - start))
                results[name]["sample"].append(batch_size / (end - middle) / 10)  # 2 of 20 steps

    print(f"{describe_device()}, {backend}, batch {batch_size}, medians of {arguments.rounds}")
    print(f"{'':24s}{'training img/s':>16s}{'img/s at 20 steps':>20s}")
    medians = {
        name: {kind: statistics.median(values) for kind, values in speeds.items()}
        for name, speeds in results.items()
    }
    for name, speed in medians.items():
        print(f"{name:24s}{speed['train']:16.1f}{speed['sample']:20.2f}")
    if len(medians) == 2:
        first, second = medians.values()
        train, sample = (first[kind] / second[kind] for kind in ("train", "sample"))
        print(f"{'ratio':24s}{train:16.2f}{sample:20.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process: {peak:.2f} GiB")
    print(json.dumps(medians))


def keras_example(images):
    """The published example's model, in its own structure, with the averaged weights mended."""
    import keras
    import tensorflow as tf
    from keras import layers

    from ddim_keras.network import SinusoidalEmbedding
    from ddim_keras.schedules import offset_cosine

    def residual_block(x, width):
        residual = x if x.shape[-1] == width else layers.Conv2D(width, 1)(x)
        x = layers.BatchNormalization(center=False, scale=False)(x)
        x = layers.Conv2D(width, 3, padding="same", activation="swish")(x)
        return layers.Add()([layers.Conv2D(width, 3, padding="same")(x), residual])

    def unet(size, widths=(32, 64, 96, 128)):
        noisy_images, variances = keras.Input((size, size, 3)), keras.Input((1, 1, 1))
        embedding = layers.UpSampling2D(size, interpolation="nearest")(
            SinusoidalEmbedding()(variances)
        )
        x = layers.Concatenate()([layers.Conv2D(widths[0], 1)(noisy_images), embedding])
        skips = []
        for width in widths[:-1]:
            for _ in range(2):
                x = residual_block(x, width)
                skips.append(x)
            x = layers.AveragePooling2D(2)(x)
        for _ in range(2):
            x = residual_block(x, widths[-1])
        for width in reversed(widths[:-1]):
            x = layers.UpSampling2D(2, interpolation="bilinear")(x)
            for _ in range(2):
                x = residual_block(layers.Concatenate()([x, skips.pop()]), width)
        x = layers.Conv2D(3, 1, kernel_initializer="zeros")(x)
        return keras.Model([noisy_images, variances], x)

    class Example(keras.Model):
        def __init__(self):
            super().__init__()
            self.normalizer = layers.Normalization()
            self.network = unet(images.shape[1])
            self.ema_network = keras.models.clone_model(self.network)
            self.ema_network.set_weights(self.network.get_weights())
            self.noise_loss_tracker = keras.metrics.Mean(name="n_loss")
            self.image_loss_tracker = keras.metrics.Mean(name="i_loss")
            self.built = True

        @property
        def metrics(self):
            return [self.noise_loss_tracker, self.image_loss_tracker]

        def denoise(self, noisy_images, noise_rates, signal_rates, training):
            network = self.network if training else self.ema_network
            pred_noises = network([noisy_images, noise_rates**2], training=training)
            return pred_noises, (noisy_images - noise_rates * pred_noises) / signal_rates

        def reverse_diffusion(self, initial_noise, diffusion_steps):
            noisy_images = tf.convert_to_tensor(initial_noise)
            for step in range(diffusion_steps):
                times = tf.ones((len(initial_noise), 1, 1, 1)) - step / diffusion_steps
                pred_noises, pred_images = self.denoise(
                    noisy_images, *offset_cosine(times), training=False
                )
                noise_rates, signal_rates = offset_cosine(times - 1 / diffusion_steps)
                noisy_images = signal_rates * pred_images + noise_rates * pred_noises
            return pred_images

        def train_step(self, batch):
            batch = self.normalizer(tf.cast(batch[0], "float32") / 255)
            noises = tf.random.normal(tf.shape(batch))
            times = tf.random.uniform((tf.shape(batch)[0], 1, 1, 1))
            noise_rates, signal_rates = offset_cosine(times)
            noisy_images = signal_rates * batch + noise_rates * noises
            with tf.GradientTape() as tape:
                pred_noises, pred_images = self.denoise(
                    noisy_images, noise_rates, signal_rates, training=True
                )
                noise_loss = tf.reduce_mean(keras.losses.mean_squared_error(noises, pred_noises))
                image_loss = tf.reduce_mean(keras.losses.mean_squared_error(batch, pred_images))
            gradients = tape.gradient(noise_loss, self.network.trainable_weights)
            self.optimizer.apply_gradients(
                zip(gradients, self.network.trainable_weights, strict=True)
            )
            self.noise_loss_tracker.update_state(noise_loss)
            self.image_loss_tracker.update_state(image_loss)
            for weight, average in zip(self.network.weights, self.ema_network.weights, strict=True):
                average.assign(0.999 * average + 0.001 * weight)
            return {metric.name: metric.result() for metric in self.metrics}

    model = Example()
    model.normalizer.adapt(images.astype("float32") / 255)
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-4), loss="mse")
    return model


if __name__ == "__main__":
    run_command(main)
