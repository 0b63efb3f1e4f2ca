"""Memory checks: whether a task fits into memory, tested before it starts."""

import contextlib
import os
from pathlib import Path

from ddim_keras.config import InputError, NetworkConfig

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CONTAINER = Path("/sys/fs/cgroup")  # where Linux describes the limits of this one
FLOAT = 4  # bytes
TRAINED_COPIES = 5  # of the weights: network, average, gradients, and two of the optimizer
TRAINED_MAPS = 8  # feature maps of a block kept for the backward pass, down and up


def require_memory(size: float, what: str, advice: str) -> None:
    """Raises InputError if `size` bytes, which `what` needs, are not available."""
    if size > (free := available()):
        raise InputError(
            f"{what} needs {size / 1e9:.1f} GB of memory, of which {free / 1e9:.1f} GB are "
            f"available; {advice}"
        )


def available() -> float:
    """Bytes that this process can still use: of the machine, its container, and `ulimit -v`."""
    free = [float("inf")]
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        limit, used = (
            int((CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current")
        )
        # Copies of files count as used, but make way: a data set that was read, for example.
        lines = (CONTAINER / "memory.stat").read_text().splitlines()
        of_files = ("active_file ", "inactive_file ")
        copies = sum(int(line.split()[1]) for line in lines if line.startswith(of_files))
        free.append(limit - used + copies)
    if resource:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        with contextlib.suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            if limit != resource.RLIM_INFINITY:
                free.append(limit - pages * os.sysconf("SC_PAGE_SIZE"))
    return min(free)


def require_memory_for(network: NetworkConfig, batch_size: int = 0, training: bool = False) -> None:
    """Raises InputError if a network, with batches of this size, does not fit into memory."""
    require_memory(
        network_size(network, batch_size, training),
        f"a network of widths {network.widths}, depths {network.depths} and "
        f"{network.image_size} pixels"
        + (f", with {batch_size} images at once," * bool(batch_size)),
        "choose a smaller network" + " or --batch-size" * bool(batch_size),
    )


def network_size(network: NetworkConfig, batch_size: int = 0, training: bool = False) -> float:
    """Bytes that a network needs at least: its convolutions, feature maps and attention."""
    weights = maps = attention = 0.0
    levels = zip(network.widths, network.depths, network.feature_sizes, strict=True)
    for level, (width, depth, size) in enumerate(levels, start=1):
        blocks = depth if level == len(network.widths) else 2 * depth  # down, and up again
        weights += blocks * 2 * 9 * width**2
        maps += size**2 * width * (blocks * TRAINED_MAPS / 2 if training else depth)
        attention += size**4 * (size in network.attention_sizes) * (depth if training else 1)
    weights += network.num_classes * network.widths[0]
    copies = TRAINED_COPIES if training else 1
    return FLOAT * (copies * weights + batch_size * (maps + attention))
