"""Teacher trajectories for the training of a student: computed once, and kept in a file.

`distillation.py` trains the student on them.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from ddim_keras.atomic import reserve, written_whole
from ddim_keras.config import InputError
from ddim_keras.data.cache import Dataset, default_cache_dir
from ddim_keras.distillation import CLEANEST_RATE, met_rates
from ddim_keras.guidance import Guidance
from ddim_keras.model import DiffusionModel
from ddim_keras.progress import progress_bar, say
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import find_run, load_model
from ddim_keras.runs.lock import locked
from ddim_keras.runs.manifest import sha256
from ddim_keras.samplers import adams_bashforth
from ddim_keras.schedules import schedule_of
from ddim_keras.types import Tensor

SHORT_STEP = math.radians(7)  # of the teacher, as an angle of (signal, noise)
AT_ONCE = 64
HELD_OUT = 256  # trajectories that measure the loss and do not train


def teacher_rates(met_rates: Sequence[float], cleanest_rate: float) -> list[float]:
    """Signal rates of the teacher: the student's, short steps between, and on to the cleanest."""
    if cleanest_rate <= met_rates[-2]:
        raise InputError(
            f"the teacher knows signal rates up to {cleanest_rate:.4g}, the student's last call is "
            f"at {met_rates[-2]:.4g}; choose fewer --student-steps"
        )
    angles = [math.acos(rate) for rate in (*met_rates[:-1], cleanest_rate)]
    rates = []
    for start, end in itertools.pairwise(angles):
        steps = max(1, round((start - end) / SHORT_STEP))
        rates += np.cos(np.linspace(start, end, steps, endpoint=False)).tolist()
    return [*rates, cleanest_rate, 1.0]


def draw_trajectories(
    teacher: DiffusionModel,
    noises: np.ndarray,
    labels: np.ndarray,
    met_rates: Sequence[float],
    guidance: float,
) -> np.ndarray:
    """Follows the teacher from noises to images, and keeps what it has at the student's rates.

    Costs about 11 network calls per image, with guidance twice as large ones.

    Args:
        noises: (B, H, W, C), standard normal.
        labels: (B,), -1 for any class, which has no guidance.

    Returns:
        (B, H, W, R * C), normalised: the noises, and after them the noisy images at each of the R
        rates, for rate 1 the predicted ones.
    """
    cleanest_rate = min(float(schedule_of(teacher.config)(0.0, np)[1]), CLEANEST_RATE)
    rates = teacher_rates(met_rates, cleanest_rate)
    kept = {int(np.abs(np.array(rates) - rate).argmin()) for rate in met_rates}
    states: list[Tensor] = []

    def keep(step: int, noisy_images: Tensor, pred_images: Tensor) -> None:
        if step in kept:
            states.append(ops.convert_to_numpy(noisy_images))

    told = (guidance, labels) if teacher.num_classes else (0.0, None)
    denoise = Guidance(told[0])(teacher.compiled_denoise, told[1])
    images = adams_bashforth(denoise, noises, rates, order=3, callback=keep)
    return np.concatenate([*states, ops.convert_to_numpy(images)], axis=-1)


def with_trajectories(
    dataset: Dataset, config: RunConfig, cache_dir: str | Path | None = None
) -> Dataset:
    """The data set, for a student with trajectories of its teacher in place of the images.

    These depend on the teacher, the student's rates, the guidance and the seed, and are kept in the
    cache, as float16: a training that is resumed finds them, and so does another of the same
    teacher. A killed process loses a batch of them at most. Of several processes one draws, and
    the others wait for it.

    Raises:
        InputError: if the disk is too small.
        OSError: if it has become so since the first were drawn.
    """
    if not config.distill_from:
        return dataset
    weights = find_run(config.distill_from).weights_to_show()
    recipe, rates = config.training, met_rates(config.model)
    facts = (sha256(weights), rates, SHORT_STEP, recipe.teacher_guidance, config.model.seed)
    key = hashlib.sha256(json.dumps([*facts, recipe.precision]).encode()).hexdigest()[:12]
    count = recipe.trajectories + HELD_OUT
    folder = Path(cache_dir or default_cache_dir()) / f"trajectories-{key}-{count}"
    if drawn(folder) < count:
        with locked(folder, wait=True):
            if drawn(folder) < count:  # still, after another process that drew them
                keras.config.set_dtype_policy(recipe.precision)
                draw(folder, load_model(weights), config, rates, count)
    states = np.load(folder / "states.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy")
    return dataclasses.replace(
        dataset,
        train_images=states[HELD_OUT:],
        train_labels=labels[HELD_OUT:],
        validation_images=states[:HELD_OUT],
        validation_labels=labels[:HELD_OUT],
    )


def drawn(folder: Path) -> int:
    """How many trajectories of a folder are complete."""
    file = folder / "drawn.json"
    return json.loads(file.read_text()) if file.exists() else 0


def draw(folder: Path, teacher: Any, config: RunConfig, rates: list[float], count: int) -> None:
    """Draws the trajectories that a folder lacks, and their labels."""
    height, width, channels = teacher.network.input_shape[0][1:]
    shape = (count, height, width, len(rates) * channels)
    done = drawn(folder)
    if not done:
        size = 2 * math.prod(shape)
        if shutil.disk_usage(folder).free < 1.1 * size:
            raise InputError(
                f"the trajectories need {size / 1e9:.1f} GB in {folder}, which has less; choose "
                "fewer --trajectories, or another --cache-dir"
            )
    say(f"teacher: {count:,} trajectories in {folder}, {done:,} of them drawn already")
    open_array = functools.partial(np.lib.format.open_memmap, mode="r+" if done else "w+")
    files = folder / "states.npy", folder / "labels.npy"
    all_states = open_array(files[0], dtype="float16", shape=shape)
    all_labels = open_array(files[1], dtype="int32", shape=(count,))
    try:
        for file in files:
            reserve(file, file.stat().st_size)
    except OSError:
        if not done:  # they may hold what was left of the disk, or of the user's quota
            for file in files:
                file.unlink()
        raise
    progress = progress_bar(-(-(count - done) // AT_ONCE), "batch")
    for start in range(done, count, AT_ONCE):
        states, labels = draw_batch(teacher, config, rates, start)
        end = min(start + AT_ONCE, count)
        all_states[start:end], all_labels[start:end] = states[: end - start], labels[: end - start]
        all_states.flush()
        all_labels.flush()
        with written_whole(folder / "drawn.json") as part:
            part.write_text(json.dumps(end))
        progress.add(1)


def draw_batch(
    teacher: Any, config: RunConfig, rates: list[float], start: int
) -> tuple[np.ndarray, np.ndarray]:
    """Trajectories from number `start` on, of one size so that they are compiled once; labels."""
    random = np.random.default_rng([config.model.seed, start])
    noises = teacher.draw_noise(AT_ONCE, random).astype("float16")  # as they are kept
    labels = teacher.draw_labels(AT_ONCE, random)
    # Without a class as often as in the teacher's training: that, too, is learnt.
    labels[random.random(AT_ONCE) < teacher.config.label_dropout] = -1
    guidance = config.training.teacher_guidance
    return draw_trajectories(teacher, noises.astype("float32"), labels, rates, guidance), labels
