"""Distillation: a student that generates images in a few network calls, its teacher in many.

SFD, "Simple and Fast Distillation of Diffusion Models", Zhou et al. 2024
(https://arxiv.org/abs/2409.19681). For N calls at signal rates s_1 < ... < s_N, and s_{N+1} = 1:

    teacher  from noise x_1, many short steps of a multistep sampler with guidance; the noisy images
             at the student's rates are stored: x_2, ..., x_N, and the final image x_{N+1}
    student  starts as a copy of the teacher; then for each batch of such trajectories
             y_1 = x_1
             for i = 1, ..., N:
                 y_{i+1} = y_i after one step of DDIM from s_i to s_{i+1}, without guidance
                 one optimizer step that lowers |y_{i+1} - x_{i+1}|, with y_i held constant

The student learns to correct its own errors. It also learns guidance, which then costs nothing. It
samples with `DiffusionModel.reverse_diffusion(noise, N)`, at the rates of DDIM in N steps.

A student with several N, such as 1, 2 and 4, gets N through an embedding added to that of the noise
level, and trains on the steps of each N in turn. The teacher's part is `training/trajectories.py`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from ddim_keras import backends
from ddim_keras.config import InputError, ModelConfig
from ddim_keras.guidance import Guidance
from ddim_keras.model import DiffusionModel
from ddim_keras.samplers import Sampler, ddim
from ddim_keras.schedules import schedule_of
from ddim_keras.spacing import sampling_signal_rates
from ddim_keras.types import Denoise, Tensor

CLEANEST_RATE = 0.99  # of the student's schedule: with 4 calls, the last one is at 0.88


def student_config(teacher: ModelConfig, *steps: int) -> ModelConfig:
    """The configuration of a student: the teacher's network, with a schedule for its few steps."""
    if teacher.student_steps:
        raise InputError("a student cannot teach; distil from its teacher")
    if teacher.variance == "learned":
        raise InputError("a model with learned variances cannot teach; choose one without")
    return dataclasses.replace(
        teacher,
        network=dataclasses.replace(
            teacher.network, dropout=0.0, step_counts=len(steps) if len(steps) > 1 else 0
        ),
        schedule="offset_cosine",
        max_signal_rate=CLEANEST_RATE,
        min_signal_rate=float(schedule_of(teacher)(1.0, np)[1]),
        discrete_steps=0,
        ema=0.0,  # the learning rate ends at 0, so the last weights need no averaging
        label_dropout=0.0,
        student_steps=steps,
        seed=0,
    )


def student_rates(config: ModelConfig, steps: int) -> list[float]:
    """The N + 1 signal rates of a student in N steps, rising to 1."""
    return sampling_signal_rates(steps, schedule=schedule_of(config))


def met_rates(config: ModelConfig) -> list[float]:
    """Signal rates at which a student is compared with its teacher, for all its step counts."""
    rates = sorted(
        itertools.chain(*(student_rates(config, steps) for steps in config.student_steps))
    )
    return [rate for rate, after in itertools.pairwise([*rates, 2.0]) if after - rate > 1e-6]


@keras.saving.register_keras_serializable(package="ddim_keras")
class Student(DiffusionModel):
    """A distilled diffusion model that samples in the steps it was trained for, without guidance.

    Its configuration is a `student_config`. It is trained on the trajectories of
    `training.trajectories`, not on images.
    """

    def __init__(self, config: ModelConfig, only_average: bool = False, **kwargs: Any) -> None:
        super().__init__(config, only_average, **kwargs)
        self.updates_per_batch = sum(config.student_steps)
        self.noise_loss_tracker = keras.metrics.Mean(name="trajectory_loss")  # in its place

    def generate(
        self, num_images: int, diffusion_steps: int | None = None, **options: Any
    ) -> np.ndarray:
        """Like `DiffusionModel.generate`; InputError for other steps, a sampler or guidance."""
        steps = self.config.student_steps[-1] if diffusion_steps is None else diffusion_steps
        sampler, guidance = (options.pop(name, None) for name in ("sampler", "guidance"))
        has_guidance = getattr(guidance, "strength", guidance)
        is_ddim = options.pop("reverse_process", None) is None and (
            Sampler.of(sampler or "ddim") == Sampler()
        )
        self._require_taught(steps in self.config.student_steps and is_ddim and not has_guidance)

        def in_steps(_: Denoise, labels: Tensor) -> Denoise:
            return Guidance(0.0)(self.compiled_denoise_in[steps], labels)

        return super().generate(num_images, steps, guidance=in_steps, **options)

    def reverse_diffusion(
        self, initial_noise: Tensor, diffusion_steps: int, *arguments: Any, **options: Any
    ) -> Tensor:
        """Like `DiffusionModel.reverse_diffusion`, by default with its number of steps.

        Raises:
            InputError: for a number of steps that it has not learnt, unless `denoise` is given.
        """
        if len(arguments) < 2 and "denoise" not in options:
            self._require_taught(diffusion_steps in self.config.student_steps)
            options["denoise"] = self.compiled_denoise_in[diffusion_steps]
        return super().reverse_diffusion(initial_noise, diffusion_steps, *arguments, **options)

    def _require_taught(self, is_taught: bool) -> None:
        if not is_taught:
            raise InputError(
                f"this student generates in {self.config.steps_in_words} steps of ddim without "
                "guidance; for anything else load its teacher"
            )

    def denoise(
        self,
        noisy_images: Tensor,
        noise_rates: Tensor,
        signal_rates: Tensor,
        training: bool,
        labels: Tensor = None,
        steps: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Like `DiffusionModel.denoise`, for a number of steps, by default the largest."""
        told = []
        if self.config.network.step_counts:
            index = self.config.student_steps.index(steps or self.config.student_steps[-1])
            told = [ops.full((ops.shape(noisy_images)[0],), index, dtype="int32")]
        prediction = self.network_outputs(noisy_images, noise_rates, training, labels, *told)
        return self.split(prediction, noisy_images, noise_rates, signal_rates)

    @functools.cached_property
    def compiled_denoise_in(self) -> dict[int, Denoise]:
        """`compiled_denoise` for each number of steps."""
        return {
            steps: backends.compile_denoise(self, functools.partial(self.denoise, steps=steps))
            for steps in self.config.student_steps
        }

    # Training.

    def check_data(self, images: Any, labels: Any, batch_size: int | None) -> None:
        """Nothing to check: trajectories are not images, and pixel statistics are the teacher's."""

    def train_step(self, *arguments: Any) -> Any:
        """One optimizer step for each step of the student, on a batch of trajectories."""
        with backends.Step(self, *arguments) as step:
            losses = self.follow(step.images, step.minimize)
            self.update_ema()
            return step.results(self.update_metrics(losses))

    def test_step(self, *arguments: Any) -> Any:
        """The distances from held-out trajectories, with the moving average."""
        with backends.Step(self, *arguments) as step:
            losses = self.follow(step.images, lambda compare: compare(None, False, step.labels)[1])
            return step.results(self.update_metrics(losses))

    def follow(
        self, trajectories: Tensor, evaluate: Callable[..., dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Takes all steps of the student; reports their mean distance and that of the images.

        `evaluate` takes a function that compares one step, and returns what it reports.
        """
        met = np.array(met_rates(self.config))
        states = ops.split(ops.cast(trajectories, "float32"), len(met), axis=-1)
        distances, image_distances = [], []
        for steps in self.config.student_steps:
            noisy_images = states[0]
            for rates in itertools.pairwise(student_rates(self.config, steps)):
                target = states[np.abs(met - rates[1]).argmin()]
                compare = functools.partial(self.compare, steps, noisy_images, target, rates)
                result = evaluate(compare)
                noisy_images = ops.stop_gradient(result["noisy_images"])
                distances.append(result["distance"])
            image_distances.append(distances[-1])
        return {
            "trajectory_loss": sum(distances) / len(distances),
            "image_loss": sum(image_distances) / len(image_distances),
        }

    def compare(
        self,
        steps: int,
        noisy_images: Tensor,
        target: Tensor,
        rates: tuple[float, float],
        images: Tensor,
        training: bool,
        labels: Tensor = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The distance from the teacher's noisy images after one step, and the student's own."""
        denoise = functools.partial(self.denoise, training=training, labels=labels, steps=steps)
        noisy_images = ddim(denoise, noisy_images, rates, fresh_noises=())  # eta 0: none are drawn
        distance = self.mean_error(target, noisy_images)
        return distance, {"distance": distance, "noisy_images": noisy_images}
