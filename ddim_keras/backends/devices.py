"""Data-parallel training: one batch shared by several devices, under JAX also by several hosts.

The losses and weights are those of one device up to rounding: batch norm sees the whole batch,
and random numbers are drawn for the whole batch. A checkpoint does not know how many devices wrote
it. Under JAX a step is one program for all devices, which XLA divides as the batch is divided; each
host runs the same command on the same data, and the first writes the run folder. Under TensorFlow
each device runs a step of its own, as a "replica", on its part of the batch.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ddim_keras.config import InputError

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
    from jax.experimental import multihost_utils
else:
    import torch


class DataParallel(keras.distribution.DataParallel):
    """As Keras's, but batches reach every device whole: the compiled step divides them.

    So hosts need not agree on who reads what, and a batch that cannot be divided, such as the last
    one of an evaluation, is no error.
    """

    def get_data_layout(self, data_shape: tuple) -> keras.distribution.TensorLayout:
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)


def data_parallel(
    devices: int | None, batch_size: int
) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    """The contexts in which to build, and to fit, a model on several devices.

    Arguments and errors are those of `choose_devices`.
    """
    names = choose_devices(devices, batch_size)
    if len(names) == 1:
        return contextlib.nullcontext(), contextlib.nullcontext()
    if BACKEND == "tensorflow":
        # A model fits where it was built; another, the encoder of the KID, is not replicated.
        return tf.distribute.MirroredStrategy(names).scope(), contextlib.nullcontext()
    distribution = DataParallel(devices=names, auto_shard_dataset=False)
    return distribution.scope(), distribution.scope()


def choose_devices(devices: int | None, batch_size: int) -> list[str]:
    """Names of the devices to train on.

    Args:
        devices: how many, those of all hosts together; None: one, or all those of several hosts.
        batch_size: images in one step, which the devices share equally.

    Raises:
        InputError: where there are not as many, the batch cannot be shared, or the backend is
            torch.
    """
    devices = devices or (jax.device_count() if num_processes() > 1 else 1)
    if devices == 1:
        return device_names()[:1]
    if BACKEND == "torch":
        raise InputError(
            "--devices: several devices need --backend tensorflow or --backend jax, not torch"
        )
    if batch_size % devices:
        raise InputError(
            f"batch size {batch_size} cannot be shared equally by {devices} devices; choose a "
            f"multiple of {devices}"
        )
    names = device_names()
    if len(names) < devices:
        raise InputError(
            f"--devices {devices}: there are {len(names)} ({', '.join(names)}); to try it on one "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices} makes one CPU several "
            "devices under --backend jax"
        )
    if num_processes() > 1 and len(names) > devices:
        raise InputError(f"--devices {devices}: the hosts together have {len(names)}, use them all")
    return names[:devices]


def device_names() -> list[str]:
    """Names of the devices of the fastest kind, under JAX those of all hosts."""
    if BACKEND == "tensorflow":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return [device.name.removeprefix("/device:") for device in devices]
    return ["default"] if BACKEND == "torch" else keras.distribution.list_devices()


def fast_precision() -> str:
    """The fastest precision on this device, as `TrainingConfig.precision` names it.

    "mixed_bfloat16" where the device multiplies bfloat16 by itself and the backend makes use of it:
    GPUs from NVIDIA's Ampere on, TPUs and, except for JAX, x86 processors with AVX-512 BF16 or AMX.
    """
    if BACKEND == "tensorflow":
        is_fast = cpu_has_bfloat16()
        if gpus := tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(gpus[0])
            is_fast = details.get("compute_capability", (0, 0)) >= (8, 0)
    elif BACKEND == "jax":
        device = jax.local_devices()[0]
        # Such as "8.0"; of a GPU that is not NVIDIA's the name, such as "gfx942".
        major = getattr(device, "compute_capability", "0").partition(".")[0]
        is_fast = device.platform == "tpu" or (major.isdecimal() and int(major) >= 8)
    elif torch.cuda.is_available():
        is_fast = torch.cuda.is_bf16_supported()
    else:
        is_fast = cpu_has_bfloat16()
    return "mixed_bfloat16" if is_fast else "float32"


def cpu_has_bfloat16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether an x86 processor has instructions for bfloat16; only Linux tells."""
    flags = cpu_info.read_text().split() if cpu_info.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def are_replicas() -> bool:
    """Whether layers, where they are built now, will see only their device's part of a batch."""
    return BACKEND == "tensorflow" and tf.distribute.get_strategy().num_replicas_in_sync > 1


def leave_gpu_to_backend(tensorflow: Any) -> None:
    """Hides the GPU from TensorFlow where it only reads data, since it would take all memory."""
    if BACKEND != "tensorflow":
        with contextlib.suppress(RuntimeError):  # too late: TensorFlow is in use already
            tensorflow.config.set_visible_devices([], "GPU")


def connect_hosts() -> None:
    """Connects the processes that train together, where keras.distribution's variables say so.

    They are KERAS_DISTRIBUTION_JOB_ADDRESSES, ..._NUM_PROCESSES and ..._PROCESS_ID, as for
    `keras.distribution.initialize`. Must run before the first computation.

    Raises:
        InputError: for another backend than JAX, or where the others cannot be reached.
    """
    given = [name for name in os.environ if name.startswith("KERAS_DISTRIBUTION_")]
    if not given:
        return
    if BACKEND != "jax":
        raise InputError(f"several hosts need --backend jax, not {BACKEND}; or unset {given[0]}")
    try:
        keras.distribution.initialize()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"cannot connect the hosts of KERAS_DISTRIBUTION_*: {error}") from error


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """A context for what one process does without the others, such as saving.

    Keras's saving makes variables for comparison, which all hosts would have to make together.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def num_processes() -> int:
    """How many processes train together."""
    return jax.process_count() if BACKEND == "jax" else 1


def process_id() -> int:
    """Index of this process among those that train together; 0 writes the run folder."""
    return jax.process_index() if BACKEND == "jax" else 0


def any_process(condition: bool) -> bool:
    """Whether the condition holds in any process; waits until all of them have asked."""
    if num_processes() == 1:
        return condition
    return bool(multihost_utils.process_allgather(np.array(condition)).any())
