"""Jobs of generate.py: generating and editing images with a model, as the options say."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from keras import ops

from ddim_keras.backends import describe_device
from ddim_keras.cli.generate import GenerateOptions
from ddim_keras.editing import decode, interpolate
from ddim_keras.generation import editing_jobs
from ddim_keras.generation.editing_jobs import EncodedImages
from ddim_keras.generation.files import write_images
from ddim_keras.generation.given import GivenImages
from ddim_keras.guidance import Guidance
from ddim_keras.memory import FLOAT, require_memory, require_memory_for
from ddim_keras.model import DiffusionModel
from ddim_keras.plots import figures
from ddim_keras.samplers import Sampler
from ddim_keras.types import Callback, Denoise


@dataclass(frozen=True)
class Job:
    """Everything that images are made from; (N,) `labels`, of which -1 stands for any class."""

    options: GenerateOptions
    model: DiffusionModel
    sampler: Sampler
    guidance: Guidance
    labels: np.ndarray
    given: GivenImages | None = None

    @property
    def signal_rates(self) -> list[float]:
        """The signal rates of the network calls; raises InputError for impossible steps."""
        return self.sampler.signal_rates(self.model, self.options.steps, self.options.strength)

    def batches(self, callback: Callback, start: int = 0) -> Iterator[np.ndarray]:
        """Images (B, H, W, C) in [0, 1] from number `start` on, so that many need little memory.

        Edited ones come at once. The others are those of `DiffusionModel.generate`.
        """
        options, model, num_images = self.options, self.model, len(self.labels)
        network = model.config.network
        size = -(-num_images // -(-num_images // options.batch_size))
        require_memory_for(network, size if describe_device() == "CPU" else 0)
        if options.is_editing:
            require_memory(
                3 * FLOAT * num_images * network.channels * network.image_size**2,
                f"editing {num_images} images",
                "choose fewer --num-images",
            )
            yield self.make_images(callback)
            return
        generator = np.random.default_rng(options.seed)
        labels = self.labels
        if options.classes is None:
            labels = model.draw_labels(num_images, generator.spawn(1)[0])
        for first in range(0, num_images, size):
            noises = model.draw_noise(min(size, num_images - first), generator)
            if first + len(noises) <= start:
                continue
            chosen = np.resize(np.arange(len(noises)), size)  # compiled for one size
            images = model.generate(
                size,
                options.steps,
                sampler=self.sampler,
                seed=options.seed,
                batch_size=size,
                callback=callback,
                labels=labels[first:][chosen],
                guidance=self.guidance,
                initial_noise=noises[chosen],
                first_image=first,
            )
            yield images[max(0, start - first) : len(noises)]

    def images(self, callback: Callback) -> np.ndarray:
        """All images of `batches`: (N, H, W, C) in [0, 1]."""
        return np.concatenate(list(self.batches(callback)))

    def make_images(self, callback: Callback) -> np.ndarray:
        """Inpaints or redraws the given image, or interpolates: (N, H, W, C) in [0, 1]."""
        options, model, sampler = self.options, self.model, self.sampler
        if self.given and self.given.mask is not None:
            return editing_jobs.inpainted(
                model,
                self.given.images[0],
                self.given.mask,
                self.labels,
                signal_rates=self.signal_rates,
                resample=options.resample,
                guidance=self.guidance,
                seed=options.seed,
                batch_size=options.batch_size,
                clip=options.clip,
                callback=callback,
            )
        initial_noise = None
        if options.interpolate is not None:
            start, end = (
                model.draw_noise(1, np.random.default_rng(seed))[0]
                for seed in (options.seed, options.interpolate)
            )
            path = interpolate(start, end, options.num_images)
            initial_noise = np.concatenate(
                [path] * (len(self.labels) // len(path))
            )  # of each class
        elif self.given:
            initial_noise = editing_jobs.starting_points(
                model, self.given.images[0], len(self.labels), options.seed, self.signal_rates[0]
            )
            sampler = dataclasses.replace(
                sampler, spacing={options.steps: self.signal_rates}, last_signal_rate=None
            )
        return model.generate(
            len(self.labels),
            options.steps,
            sampler=sampler,
            seed=options.seed,
            batch_size=options.batch_size,
            callback=callback,
            labels=self.labels,
            guidance=self.guidance,
            initial_noise=initial_noise,
        )

    def encoded(self, given: GivenImages, callback: Callback | None = None) -> EncodedImages:
        """Encodes one image or two and decodes them again; see `editing_jobs.encoded`."""
        denoise = self._denoiser(len(given.images), callback)
        return editing_jobs.encoded(
            self.model, denoise, given.images, self.sampler, self.signal_rates, self.options.seed
        )

    def between(self, encoded: EncodedImages, callback: Callback | None = None) -> np.ndarray:
        """Images on the path between two encoded images: (num_images, H, W, C)."""
        start, end = encoded.noises
        path = interpolate(start, end, self.options.num_images)
        denoise = self._denoiser(len(path), callback)
        decoded = decode(denoise, path, self.signal_rates, self.sampler)
        return ops.convert_to_numpy(self.model.denormalize(decoded))

    def _denoiser(self, num_images: int, callback: Callback | None) -> Denoise:
        labels = np.full(num_images, self.labels[0])
        return editing_jobs.denoiser(self.model, labels, self.guidance, callback)

    def encode_and_decode(self, given: GivenImages) -> None:
        """Encodes one image or two, and shows them, or the path between them, decoded."""
        options, model = self.options, self.model
        encoded = self.encoded(given)
        how = f"{options.steps} steps of {self.sampler} each way"
        print(f"{how}; of true noise the standard deviation is 1, and the correlation 0")
        for path, line in zip(options.inputs, encoded.describe(), strict=True):
            print(f"{path}: {line}")
        if len(given.images) == 1:
            noise = ops.convert_to_numpy(model.denormalize(encoded.noises))[0]
            pictures = [given.images[0] / 255, noise, encoded.decoded[0], encoded.predicted[0]]
            title = "image, its noise, decoded, predicted"
        else:
            between = self.between(encoded)
            if options.images_dir:
                write_images(np.round(255 * between).astype("uint8"), options.images_dir)
                print(f"wrote {len(between)} images into {options.images_dir}")
            pictures = [given.images[0] / 255, *between, given.images[1] / 255]
            title = "image, on the way between the noises of both, image"
        pixels = np.stack(pictures)
        figure = figures.image_grid(pixels, f"{title}; {how}", columns=min(len(pixels), 20), zoom=3)
        figures.save_figure(figure, options.output)
        print(f"wrote {options.output}")


def chosen_sampler(options: GenerateOptions, model: DiffusionModel) -> Sampler:
    """The sampler with its options, as `DiffusionModel.generate` takes it."""
    last_signal_rate = options.last_signal_rate
    if options.encode and last_signal_rate is None:
        last_signal_rate = editing_jobs.encoded_signal_rate(model)
    return Sampler(
        options.sampler,
        options.spacing,
        last_signal_rate,
        clip=options.clip,
        eta=options.eta,
        variance=options.variance,
    )
