"""Profile of a preset's training steps: a table by kind of operation, and a trace.

    python -m benchmarks.speed.profile_steps --preset lab --output trace/

Under TensorFlow the table sums the self time of operations by kind, over all threads, and compares
the speed of convolutions and matrix products with that of large matrix products. Under PyTorch it
is the profiler's table. JAX's XLA fuses operations, and its profiler has no table: open the trace
in TensorBoard or Perfetto. (Not called profile.py: that would hide Python's module.)
"""

import argparse
import collections
import re
import time
from pathlib import Path
from typing import Any

from benchmarks.speed.contenders import MatrixProducts, Settings, build
from benchmarks.speed.throughput import TRAINING_TO_FORWARD
from ddim_keras.cli.options import add_backend_option, at_least
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.presets import PRESETS

# TensorFlow's operations by kind; the first matching pattern counts. oneDNN's start with _Mkl.
KINDS = (
    ("convolution, gradient of the filter", r"Conv2DBackpropFilter"),
    ("convolution, gradient of the input", r"Conv2DBackpropInput"),
    ("convolution, forward", r"Conv2D"),
    ("matrix product", r"MatMul|Einsum"),
    ("normalisation and its moments", r"BatchNorm|Mean$|SquaredDifference|Rsqrt"),
    ("pooling and resizing", r"Pool|Resize|Tile"),
    ("activation", r"Sigmoid|Swish|Softmax|Silu"),
    ("optimizer and moving average", r"Assign|ReadVariable|ResourceApply|Sqrt"),
    ("random numbers", r"Random"),
    ("concatenation, slices and copies", r"Concat|Slice|Pad|Reshape|Transpose|Cast|Identity|Pack"),
    ("sums and other reductions", r"Sum|AddN|BiasAdd|Prod|Max|Min"),
    ("other elementwise", r"Add|Mul|Sub|Div|Neg|Square|Pow|Select|Exp|Log|Sin|Cos"),
)

PRODUCTS = 4  # the first kinds, whose multiplications are counted


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="lab", help="recipe to profile (default: lab)")
    add(
        "--precision",
        choices=("float32", "mixed_bfloat16"),
        help="dtype policy (default: the preset's)",
    )
    add(
        "--batch-size",
        type=at_least(1),
        metavar="N",
        help="images per step (default: the preset's)",
    )
    add(
        "--steps",
        type=at_least(1),
        metavar="N",
        default=3,
        help="training steps to profile (default: 3)",
    )
    add("--output", type=Path, metavar="DIR", default=Path("trace"), help="folder (default: trace)")
    add_backend_option(parser)
    arguments = parser.parse_args()
    backend = choose_backend(arguments.backend)
    recipe = PRESETS[arguments.preset].training

    import_keras()
    contender = build(
        Settings(
            contender="ddim_keras",
            preset=arguments.preset,
            precision=arguments.precision or recipe.precision,
            batch_size=arguments.batch_size or recipe.batch_size,
            backend=backend,
        )
    )
    contender.train(1)  # compiles
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(f"{contender.how}, {backend} on {contender.device}, {arguments.steps} steps")
    profilers = {"tensorflow": profile_tensorflow, "jax": profile_jax, "torch": profile_torch}
    profilers[backend](contender, arguments.steps, arguments.output)
    print(f"wrote {arguments.output}")


def profile_tensorflow(contender: Any, steps: int, folder: Path) -> None:
    import tensorflow as tf

    tf.profiler.experimental.start(str(folder))
    contender.train(steps)
    tf.profiler.experimental.stop()
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    kinds = kind_seconds(operation_seconds(newest))
    print(table(kinds))
    images = steps * len(next(contender.batches)[0])
    operations = TRAINING_TO_FORWARD * contender.forward_flops * images
    products = sum(kinds[kind] for kind, _ in KINDS[:PRODUCTS] if kind in kinds)
    print(f"convolutions and matrix products: {operations / products / 1e9:.0f} GFLOP/s")
    matrices = MatrixProducts("tensorflow", 2048)
    for dtype in matrices.products:
        matrices.run(dtype, 1)
        start = time.perf_counter()
        operations = matrices.run(dtype, 10)
        speed = operations / (time.perf_counter() - start)
        print(f"products of 2048 x 2048 matrices, {dtype}: {speed / 1e9:.0f} GFLOP/s")


def profile_jax(contender: Any, steps: int, folder: Path) -> None:
    import jax

    with jax.profiler.trace(str(folder)):
        contender.train(steps)


def profile_torch(contender: Any, steps: int, folder: Path) -> None:
    from torch.profiler import profile

    with profile() as profiler:
        contender.train(steps)
    profiler.export_chrome_trace(str(folder / "trace.json"))
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


def operation_seconds(trace: Path) -> dict[str, float]:
    """Self time of each type of TensorFlow operation in a trace file, over all threads.

    Events on one thread nest: the events within an event are not part of its self time. An
    operation on several threads has events on only one of them, so times are those that a thread
    was held, not the time of all processors.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(trace.read_bytes())
    total: dict[str, float] = collections.defaultdict(float)
    for plane in space.planes:
        names = {key: event.name for key, event in plane.event_metadata.items()}
        for line in plane.lines:
            events = sorted(line.events, key=lambda event: (event.offset_ps, -event.duration_ps))
            for operation, picoseconds in self_times(
                (names[each.metadata_id], each.offset_ps, each.duration_ps) for each in events
            ):
                # As "name:Type"; other events, such as the executor's own, have other names.
                if match := re.fullmatch(r"[^:]*:([A-Za-z_]\w*)", operation):
                    total[match[1]] += picoseconds / 1e12
    return dict(total)


def self_times(events: Any) -> list[tuple[str, int]]:
    """Subtracts from each event (name, start, duration) the time of the events within it.

    The events are those of one thread, ordered by start, outer ones first.
    """
    times: list[tuple[str, int]] = []
    open_events: list[tuple[int, int]] = []  # index into times, and end
    for name, start, duration in events:
        while open_events and open_events[-1][1] <= start:
            open_events.pop()
        if open_events:
            outer, _ = open_events[-1]
            times[outer] = times[outer][0], times[outer][1] - duration
        open_events.append((len(times), start + duration))
        times.append((name, duration))
    return times


def kind_seconds(operations: dict[str, float]) -> dict[str, float]:
    """Sums operations by kind; those of no kind keep their names."""
    total: dict[str, float] = collections.defaultdict(float)
    for operation, seconds in operations.items():
        kinds = (kind for kind, pattern in KINDS if re.search(pattern, operation))
        total[next(kinds, operation)] += seconds
    return dict(total)


def table(seconds: dict[str, float], rows: int = 20) -> str:
    """The largest times with their shares, as lines of text."""
    whole = sum(seconds.values())
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:rows]
    return "\n".join(f"{100 * each / whole:5.1f} % {each:9.3f} s  {name}" for name, each in largest)


if __name__ == "__main__":
    run_command(main)
