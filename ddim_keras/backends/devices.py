"""Data-parallel training: batches split across several devices, under JAX also several hosts.

Losses and weights match those of one device up to rounding: batch norm uses the whole batch, and
random numbers are drawn for the whole batch. A checkpoint does not depend on the number of devices.
Under JAX a step is one program for all devices, which XLA partitions like the batch; each host runs
the same command on the same data, and the first writes the run folder. Under TensorFlow each device
runs its own step, as a "replica", on its part of the batch.
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
    """Like Keras's, but every device gets whole batches, which the compiled step divides.

    So hosts need not split the data, and an indivisible batch, such as the last one of an
    evaluation, is not an error.
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
        # A model trains where it was built; the encoder of the KID is not replicated.
        return tf.distribute.MirroredStrategy(names).scope(), contextlib.nullcontext()
    distribution = DataParallel(devices=names, auto_shard_dataset=False)
    return distribution.scope(), distribution.scope()


def choose_devices(devices: int | None, batch_size: int) -> list[str]:
    """Names of the devices to train on.

    Args:
        devices: number of devices on all hosts together; None: one, or all with several hosts.
        batch_size: images per step, which the devices share equally.

    Raises:
        InputError: if there are too few devices, the batch cannot be shared equally, or the backend
            is torch.
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
    """Names of the devices of the fastest kind, under JAX on all hosts."""
    if BACKEND == "tensorflow":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return [device.name.removeprefix("/device:") for device in devices]
    return ["default"] if BACKEND == "torch" else keras.distribution.list_devices()


def fast_precision() -> str:
    """The fastest precision on this device, a name for `TrainingConfig.precision`.

    "mixed_bfloat16" if the device has native bfloat16 products that the backend uses: NVIDIA GPUs
    since Ampere, TPUs and, except under JAX, x86 processors with AVX-512 BF16 or AMX.
    """
    if BACKEND == "tensorflow":
        is_fast = cpu_has_bfloat16()
        if gpus := tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(gpus[0])
            is_fast = details.get("compute_capability", (0, 0)) >= (8, 0)
    elif BACKEND == "jax":
        device = jax.local_devices()[0]
        # Such as "8.0"; for GPUs of other makers the name, such as "gfx942".
        major = getattr(device, "compute_capability", "0").partition(".")[0]
        is_fast = device.platform == "tpu" or (major.isdecimal() and int(major) >= 8)
    elif torch.cuda.is_available():
        # Earlier GPUs can emulate it, slowly.
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_fast = cpu_has_bfloat16()
    return "mixed_bfloat16" if is_fast else "float32"


def cpu_has_bfloat16(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether an x86 processor has instructions for bfloat16; known only on Linux."""
    flags = cpu_info.read_text().split() if cpu_info.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def are_replicas() -> bool:
    """Whether layers built in this context see only their device's part of a batch."""
    return BACKEND == "tensorflow" and tf.distribute.get_strategy().num_replicas_in_sync > 1


def leave_gpu_to_backend(tensorflow: Any) -> None:
    """Hides the GPU from TensorFlow if it only reads data; it would reserve all GPU memory."""
    if BACKEND != "tensorflow":
        with contextlib.suppress(RuntimeError):  # too late: TensorFlow is in use already
            tensorflow.config.set_visible_devices([], "GPU")


def connect_hosts() -> None:
    """Connects the processes of a distributed training, if keras.distribution's variables are set.

    They are KERAS_DISTRIBUTION_JOB_ADDRESSES, ..._NUM_PROCESSES and ..._PROCESS_ID, as for
    `keras.distribution.initialize`. Must run before the first computation.

    Raises:
        InputError: for backends other than JAX, or if the other processes cannot be reached.
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
    """A context for work of a single process, such as saving.

    When saving, Keras creates variables for comparison, which all hosts would have to do together.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def num_processes() -> int:
    """The number of processes that train together."""
    return jax.process_count() if BACKEND == "jax" else 1


def process_id() -> int:
    """Index of this process in a distributed training; process 0 writes the run folder."""
    return jax.process_index() if BACKEND == "jax" else 0


def any_process(condition: bool) -> bool:
    """Whether the condition holds in any process; waits until all have called it."""
    if num_processes() == 1:
        return condition
    return bool(multihost_utils.process_allgather(np.array(condition)).any())
