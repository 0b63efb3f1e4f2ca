"""The libraries compared by throughput.py and time_to_kid.py, each used in its usual way.

A contender is built once, in a separate process. `train(steps)` and `sample(num_images, steps)`
return after the work is done, on a GPU as well; all compilation happens in the first call of each.
All contenders update an average of their weights during training, and sample from noise to
(num_images, H, W, 3) pixels in [0, 1] in host memory. They train on one batch of random pixels if
only speed matters; otherwise on shuffled images, mirrored if their recipe does so.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from ddim_keras.foreign import contents_of, read_array
from ddim_keras.presets import PRESETS, Preset

# The package to install for each, by its name on PyPI; None: the backend of KERAS_BACKEND.
CONTENDERS = {
    "ddim_keras": None,
    "keras_example": "tensorflow",
    "diffusers": "diffusers",
    "denoising_diffusion_pytorch": "denoising-diffusion-pytorch",
}

# Sizes of the peers' networks at 64x64 pixels: operations of a forward pass, and the arguments. All
# widths are multiples of 16, as CPUs and GPUs like them, and of depth as the peers make them.
DIFFUSERS_SIZES = (
    (0.91e9, (16, 32, 48, 64)),
    (1.04e9, (16, 32, 48, 96)),
    (1.70e9, (32, 32, 48, 64)),
    (2.35e9, (32, 48, 64, 80)),
    (4.97e9, (48, 64, 96, 128)),
    (9.68e9, (64, 96, 128, 192)),
)
DENOISING_DIFFUSION_PYTORCH_SIZES = (
    (1.04e9, (16, (1, 2, 3, 4))),
    (1.18e9, (16, (1, 2, 4, 6))),
    (2.31e9, (32, (1, 1, 2, 3))),
    (2.82e9, (32, (1, 2, 2, 3))),
    (6.48e9, (48, (1, 2, 3, 4))),
    (10.2e9, (64, (1, 2, 2, 4))),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a contender; sent to its process as JSON."""

    contender: str  # a key of CONTENDERS
    preset: str  # of ddim_keras: its network, and how it is trained
    precision: str  # "float32", "mixed_bfloat16", or "usual": what each computes in by default
    batch_size: int  # images of a training step
    backend: str | None = None  # of Keras, where Keras is used
    forward_flops: float | None = None  # of ddim_keras, which a peer's network should cost as well
    channels_last: bool = False  # memory format of a PyTorch peer
    compile: bool = False  # whether a PyTorch peer goes through torch.compile
    images: str | None = None  # .npy file (N, H, W, C) uint8 to train on; by default random pixels


def with_precision(settings: Settings) -> Settings:
    """Replaces "usual": the fastest precision of the device for ddim_keras, float32 for others."""
    if settings.precision != "usual":
        return settings
    if settings.contender != "ddim_keras":
        return dataclasses.replace(settings, precision="float32")
    from ddim_keras.backends.devices import fast_precision

    return dataclasses.replace(settings, precision=fast_precision())


def preset_of(settings: Settings) -> Preset:
    """The preset, with the chosen batch size and precision."""
    preset = PRESETS[settings.preset]
    training = dataclasses.replace(
        preset.training, batch_size=settings.batch_size, precision=settings.precision
    )
    return dataclasses.replace(preset, training=training)


def training_images(settings: Settings) -> np.ndarray:
    """The images of the file, or one batch of random pixels: (N, H, W, C) uint8."""
    if settings.images:
        with contents_of(Path(settings.images), "an array of training images"):
            return read_array(Path(settings.images))
    network = PRESETS[settings.preset].model.network
    shape = (settings.batch_size, network.image_size, network.image_size, network.channels)
    return np.random.default_rng(0).integers(0, 256, shape, "uint8")


def nearest_size(sizes: tuple[tuple[float, Any], ...], flops: float) -> Any:
    """The arguments whose network's cost is nearest to `flops`, as a ratio."""
    return min(sizes, key=lambda size: abs(math.log(size[0] / flops)))[1]


def build(settings: Settings) -> Any:
    """Builds a contender; imports its framework."""
    classes = {
        "ddim_keras": DdimKeras,
        "keras_example": KerasExampleLoop,
        "diffusers": Diffusers,
        "denoising_diffusion_pytorch": DenoisingDiffusionPytorch,
    }
    return classes[settings.contender](settings)


# The contenders in Keras.


class KerasContender:
    """Trains by `fit` on a generator of uint8 batches, as train.py does."""

    def __init__(self, settings: Settings, model: Any) -> None:
        import keras

        from benchmarks.speed.flops import forward_flops
        from ddim_keras.backends import describe_device
        from ddim_keras.data.batches import training_batches

        self.model = model
        images = training_images(settings)
        model_adapt = getattr(model, "adapt", None) or model.normalizer.adapt
        model_adapt(images.astype("float32") / 255)
        recipe = PRESETS[settings.preset].training
        self.batches = training_batches(
            images, np.full(len(images), -1), settings.batch_size, flip=recipe.flip
        )
        self.framework = keras.backend.backend()
        self.device = describe_device()
        self.forward_flops = forward_flops(model.network)
        self.parameters = sum(math.prod(w.shape) for w in model.network.trainable_weights)

    def train(self, steps: int) -> None:
        self.model.fit(self.batches, steps_per_epoch=steps, shuffle=False, verbose=0)

    def sample(self, num_images: int, steps: int) -> np.ndarray:
        return self.model.generate(num_images, steps)


class DdimKeras(KerasContender):
    """This project: a preset's model, optimizer and training step."""

    def __init__(self, settings: Settings) -> None:
        from ddim_keras.training.loop import build_model

        preset = preset_of(settings)
        self.how = f"preset {settings.preset}, {settings.precision}"
        # Enough steps that the learning-rate schedule does not end during timing.
        super().__init__(settings, build_model(preset.model, preset.training, 1_000_000))


class KerasExampleLoop(KerasContender):
    """The loop of the Keras example: its network, AdamW 1e-3, eager sampling."""

    def __init__(self, settings: Settings) -> None:
        import keras

        from benchmarks.speed.keras_example import KerasExample

        keras.config.set_dtype_policy(settings.precision)
        model = KerasExample(PRESETS[settings.preset].model.network.image_size)
        model.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-4), loss="mse")
        self.how = f"widths 32/64/96/128, eager sampling, {settings.precision}"
        super().__init__(settings, model)


# The contenders in PyTorch.


class TorchContender:
    """Trains on float images: one batch already on the device, or those of a file."""

    framework = "torch"
    flip = True  # whether its recipe mirrors half of the images of a file
    lowest = 0.0  # of its pixels; the highest is 1

    def __init__(self, settings: Settings) -> None:
        import torch

        declare_torchvision_operators()
        self.torch = torch
        self.settings = settings
        cuda = torch.cuda.is_available()
        self.device_type = "cuda" if cuda else "cpu"
        self.device = torch.cuda.get_device_name() if cuda else "CPU"
        self.memory_format = (
            torch.channels_last if settings.channels_last else torch.contiguous_format
        )
        images = training_images(settings)
        self.images = self.on_device(images[: settings.batch_size])
        self.batches = itertools.repeat(self.images)
        if settings.images:
            from ddim_keras.data.batches import training_batches

            labels = np.full(len(images), -1)
            shuffled = training_batches(images, labels, settings.batch_size, flip=self.flip)
            self.batches = (self.on_device(batch) for batch, _ in shuffled)
        self.image_size = self.images.shape[-1]
        self.autocast = contextlib.nullcontext
        if settings.precision == "mixed_bfloat16":
            self.autocast = functools.partial(torch.autocast, self.device_type, torch.bfloat16)

    def on_device(self, batch: np.ndarray) -> Any:
        """Pixels (B, H, W, C) uint8 as the network takes them."""
        pixels = self.torch.from_numpy(batch).to(self.device_type).permute(0, 3, 1, 2).float() / 255
        pixels = self.lowest + (1 - self.lowest) * pixels
        return pixels.contiguous(memory_format=self.memory_format)

    def measure(self, network: Any) -> None:
        """Counts the network's operations and parameters."""
        from torch.utils.flop_counter import FlopCounterMode

        with self.torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(self.images[:1], self.torch.zeros(1, device=self.images.device).long())
        self.forward_flops = counter.get_total_flops()
        self.parameters = sum(weight.numel() for weight in network.parameters())

    def prepare(self, *networks: Any) -> str:
        """Applies memory format and torch.compile, in place; returns them in words."""
        for network in networks:
            network.to(memory_format=self.memory_format)
            if self.settings.compile:
                # Training and sampling have different batches: each gets its own graph.
                network.compile(dynamic=False)
        order = "channels last" if self.settings.channels_last else "channels first"
        return f"{order}, {'torch.compile' if self.settings.compile else 'eager'}"


class Diffusers(TorchContender):
    """Hugging Face diffusers: UNet2DModel, the step of its train_unconditional.py, DDIMPipeline.

    From https://github.com/huggingface/diffusers/tree/main/examples/unconditional_image_generation
    with the options of its README for flowers: noise prediction with MSE, DDPMScheduler, AdamW 1e-4
    (0.95, 0.999) with 500 steps of warm-up, gradients clipped to 1, --use_ema, --random_flip, the
    loss read in each step. The rate is constant after the warm-up. Four levels with two blocks
    each, as in this project, with attention only in the middle; group norm over 8 groups, as 32 do
    not divide widths of 16.
    """

    lowest = -1.0

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        import diffusers
        from diffusers.optimization import get_constant_schedule_with_warmup
        from diffusers.training_utils import EMAModel

        torch = self.torch
        widths = nearest_size(DIFFUSERS_SIZES, settings.forward_flops)
        network = diffusers.UNet2DModel(
            sample_size=self.image_size,
            layers_per_block=2,
            block_out_channels=widths,
            norm_num_groups=8,
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
        ).to(self.device_type)
        self.measure(network)
        self.network = network
        self.noise_scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        self.warm_up = get_constant_schedule_with_warmup(self.optimizer, 500)
        self.average = EMAModel(
            network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75
        )
        self.average.to(self.device_type)
        self.pipeline = diffusers.DDIMPipeline(
            network, diffusers.DDIMScheduler.from_config(self.noise_scheduler.config)
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.how = f"UNet2DModel {widths}, {self.prepare(network)}, {settings.precision}"

    def train(self, steps: int) -> None:
        torch = self.torch
        self.network.train()
        for images in itertools.islice(self.batches, steps):
            noise = torch.randn_like(images)
            times = torch.randint(0, 1000, (len(noise),), device=noise.device)
            noisy_images = self.noise_scheduler.add_noise(images, noise, times)
            with self.autocast():
                prediction = self.network(noisy_images, times).sample
            loss = torch.nn.functional.mse_loss(prediction.float(), noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.warm_up.step()
            self.optimizer.zero_grad()
            self.average.step(self.network.parameters())
            loss.item()

    def sample(self, num_images: int, steps: int) -> np.ndarray:
        self.network.eval()
        self.average.store(self.network.parameters())
        self.average.copy_to(self.network.parameters())
        with self.autocast():
            output = self.pipeline(
                batch_size=num_images, num_inference_steps=steps, output_type="np"
            )
        self.average.restore(self.network.parameters())
        return output.images


class DenoisingDiffusionPytorch(TorchContender):
    """denoising-diffusion-pytorch: Unet, GaussianDiffusion and the step of its Trainer.

    From https://github.com/lucidrains/denoising-diffusion-pytorch: four levels, velocity
    prediction, sigmoid schedule of 1000 steps, Adam 1e-4 (0.9, 0.99), gradients clipped to 1, the
    loss read in each step, the average of the weights updated every tenth step; DDIM from the
    average. Flash attention on a GPU, as in its README.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA

        torch = self.torch
        dim, dim_mults = nearest_size(DENOISING_DIFFUSION_PYTORCH_SIZES, settings.forward_flops)
        network = Unet(dim=dim, dim_mults=dim_mults, flash_attn=self.device_type == "cuda")
        self.diffusion = GaussianDiffusion(
            network, image_size=self.image_size, timesteps=1000, sampling_timesteps=20
        ).to(self.device_type)
        self.measure(network)
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99))
        self.average = EMA(self.diffusion, beta=0.995, update_every=10).to(self.device_type)
        prepared = self.prepare(network, self.average.ema_model.model)
        self.how = f"Unet dim={dim} dim_mults={dim_mults}, {prepared}, {settings.precision}"

    def train(self, steps: int) -> None:
        self.diffusion.train()
        for images in itertools.islice(self.batches, steps):
            with self.autocast():
                loss = self.diffusion(images)
            loss.item()
            loss.backward()
            self.torch.nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.average.update()

    def sample(self, num_images: int, steps: int) -> np.ndarray:
        model = self.average.ema_model.eval()
        model.sampling_timesteps = steps
        with self.autocast():
            images = model.sample(batch_size=num_images)
        return images.permute(0, 2, 3, 1).float().cpu().numpy()


def declare_torchvision_operators() -> None:
    """Lets PyPI's torchvision, which is built for CUDA, be imported beside a PyTorch for CPUs.

    Its compiled operators do not load there, and its import fails because of two missing names.
    The peers import torchvision if it is installed, but use none of its operators.
    """
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        import torch

        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
            )


# Measurements of the framework itself.


def versions(framework: str) -> dict[str, str]:
    """Versions of the relevant packages that are installed."""
    names = {framework, "keras", "numpy", *filter(None, CONTENDERS.values())}
    found = {}
    for name in sorted(names):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def device_memory(framework: str) -> int:
    """Peak of the GPU's memory that the framework has used, in bytes; 0 on a CPU."""
    if framework == "tensorflow":
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            return 0
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    if framework == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


class MatrixProducts:
    """The speed of large matrix products: an upper bound for a network.

    Args:
        framework: framework that computes the product, with its default settings (on a GPU,
            TensorFlow computes float32 products in TF32, PyTorch does not).
        size: rows and columns of the square matrices.
    """

    def __init__(self, framework: str, size: int) -> None:
        self.size = size
        values = np.random.default_rng(0).standard_normal((size, size), "float32")
        if framework == "tensorflow":
            import tensorflow as tf

            product = tf.function(tf.linalg.matmul)
            self.finish = lambda result: result[0, 0].numpy()
            matrices = [tf.cast(values, dtype) for dtype in ("float32", "bfloat16")]
        elif framework == "jax":
            import jax
            import jax.numpy as jnp

            product = jax.jit(jnp.matmul)
            self.finish = jax.block_until_ready
            matrices = [jnp.asarray(values, dtype) for dtype in ("float32", "bfloat16")]
        else:
            import torch

            product = torch.mm
            self.finish = lambda result: result[0, 0].item()
            device = "cuda" if torch.cuda.is_available() else "cpu"
            matrices = [
                torch.from_numpy(values).to(device, dtype)
                for dtype in (torch.float32, torch.bfloat16)
            ]
        self.products = {
            dtype: functools.partial(product, matrix, matrix)
            for dtype, matrix in zip(("float32", "bfloat16"), matrices, strict=True)
        }

    def run(self, dtype: str, times: int) -> float:
        """Computes the product `times` times in "float32" or "bfloat16"; returns operations."""
        for _ in range(times):
            result = self.products[dtype]()
        self.finish(result)
        return 2 * self.size**3 * times
