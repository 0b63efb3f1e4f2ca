"""Measures the KID of a trained model for several samplers and numbers of steps."""

import argparse
import csv
from pathlib import Path

from ddim_keras.command_line import (
    add_backend_option,
    at_least,
    choose_backend,
    import_keras,
    run_command,
)
from ddim_keras.files import written_whole
from ddim_keras.runs import Run, load_weights, newest_run

EXAMPLES = """examples:
  python evaluate.py                                     the newest run, DDIM
  python evaluate.py --samplers ddim ipndm dpm_solver --steps 5 10 20
  python evaluate.py --split train --last-signal-rate 0.98   to choose where the steps lie
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--run",
        type=Path,
        metavar="DIR",
        help="run folder, of which the best weights are taken or, where no KID was measured, the "
        "last (default: the newest in runs/)",
    )
    add("--samplers", nargs="+", metavar="NAME", default=["ddim"], help="(default: ddim)")
    add(
        "--steps",
        nargs="+",
        type=at_least(1),
        metavar="N",
        default=[5, 10, 20],
        help="(default: 5 10 20)",
    )
    add(
        "--num-images",
        type=at_least(128),
        metavar="N",
        default=1024,
        help="generated for each KID (default: 1024)",
    )
    add(
        "--spacing",
        default="time",
        help="what the steps are uniform in: time, log_snr or rho (default: time)",
    )
    add(
        "--last-signal-rate",
        type=float,
        metavar="RATE",
        help="largest signal rate at which the network is called (default: the schedule's)",
    )
    add(
        "--split",
        choices=("validation", "train"),
        default="validation",
        help="the real images to compare with; choose settings on train, and report validation "
        "(default: validation)",
    )
    add("--seed", type=at_least(0), metavar="N", default=0, help="of the noises (default: 0)")
    add("--batch-size", type=at_least(1), metavar="N", default=64, help="(default: 64)")
    add(
        "--kid-weights",
        metavar="FILE",
        help="InceptionV3 weights up to mixed7, .weights.h5 (default: Keras's, downloaded once)",
    )
    add("--data-dir", metavar="DIR", help="of TFDS (default: the run's)")
    add("--cache-dir", metavar="DIR", help="of prepared images (default: ~/.cache/ddim_keras)")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of evaluation.csv and evaluation.png (default: the run folder)",
    )
    add_backend_option(parser)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    run = Run(arguments.run) if arguments.run else newest_run()
    config = run.read_config()
    weights = run.weights_to_show()
    choose_backend(arguments.backend)

    # Keras is imported from here on, after the backend has been chosen and --help answered.
    import_keras()
    from ddim_keras import plots
    from ddim_keras.callbacks import sampling_progress
    from ddim_keras.data import load_dataset
    from ddim_keras.kid import KernelInceptionDistance, inception_encoder
    from ddim_keras.model import DiffusionModel
    from ddim_keras.samplers import reverse_process
    from ddim_keras.schedules import sampling_signal_rates

    model = DiffusionModel(config.model)
    load_weights(model, weights)
    processes = {
        name: reverse_process(model, name, arguments.spacing, arguments.last_signal_rate)
        for name in arguments.samplers
    }
    sampling_signal_rates(1, arguments.spacing)  # refuses an unknown spacing before the work
    output = arguments.output or run.folder
    output.mkdir(parents=True, exist_ok=True)

    dataset = load_dataset(
        config.dataset,
        config.model.network.image_size,
        arguments.data_dir or config.data_dir,
        arguments.cache_dir,
    )
    count = len(dataset.validation_images)
    real_images, other_images = dataset.validation_images, dataset.train_images[:count]
    if arguments.split == "train":
        real_images, other_images = other_images, real_images
    kid = KernelInceptionDistance(inception_encoder(arguments.kid_weights), real_images)
    protocol = kid.encoder.protocol
    floor = kid(other_images)
    print(
        f"{weights}, {arguments.num_images} images against {len(real_images)} {arguments.split} "
        f'images, "{protocol}", 75 px, batches of 64; training against validation images: {floor}'
    )

    results = []
    for name, process in processes.items():
        for steps in sorted(arguments.steps):
            calls = 2 * steps - 1 if name == "heun" else steps
            print(f"{name}, {steps} steps", flush=True)
            num_batches = -(-arguments.num_images // arguments.batch_size)
            images = model.generate(
                arguments.num_images,
                steps,
                seed=arguments.seed,
                batch_size=arguments.batch_size,
                callback=sampling_progress(num_batches, steps),
                reverse_process=process,
            )
            distance = kid(images)
            print(f"KID {distance}", flush=True)
            results.append(
                {
                    "sampler": name,
                    "steps": steps,
                    "network_calls": calls,
                    "kid": distance.value,
                    "kid_standard_error": distance.standard_error,
                    "spacing": arguments.spacing,
                    "last_signal_rate": arguments.last_signal_rate or "",
                    "split": arguments.split,
                    "num_images": arguments.num_images,
                    "protocol": protocol,
                }
            )
            write_results(
                output, results, plots.kid_by_network_calls(results, protocol, floor.value)
            )

    print(f"\n{'sampler':18s}{'steps':>6s}{'calls':>7s}   KID")
    for row in results:
        value = f"{row['kid']:.4f} ± {row['kid_standard_error']:.4f}"
        print(f"{row['sampler']:18s}{row['steps']:6d}{row['network_calls']:7d}   {value}")
    print(f"wrote {output}/evaluation.csv and {output}/evaluation.png")


def write_results(output: Path, results: list, figure) -> None:
    """Writes the table and the plot, after each measurement, so that none is lost."""
    from ddim_keras.plots import save_figure

    with written_whole(output / "evaluation.csv") as part, open(part, "w", newline="") as file:
        writer = csv.DictWriter(file, list(results[0]))
        writer.writeheader()
        writer.writerows(results)
    save_figure(figure, output / "evaluation.png")


if __name__ == "__main__":
    run_command(main)
