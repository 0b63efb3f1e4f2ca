"""Diagnosis of a run in sentences: why its images are noise, blurred or copies, and what to do.

    python -m ddim_keras.doctor                  the newest run
    python -m ddim_keras.doctor runs/mine --quick

It reads the configuration and the history of the run, measures prediction errors at each noise
level, generates images and compares them with the photographs: a minute or two on a CPU. The
findings are also written to doctor.md and doctor.png. With --quick it only reads.
"""

if __name__ == "__main__":
    from ddim_keras.cli.interruption import end_at_once

    end_at_once()  # on Ctrl-C, while the rest is imported


import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddim_keras.cli.options import (
    add_backend_option,
    add_data_options,
    add_kid_weights_option,
    add_sampling_options,
    at_least,
)
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.foreign import printable
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import (
    FEW_IMAGES,
    PRETRAINED,
    Run,
    find_run,
    load_model,
    output_folder,
)
from ddim_keras.runs.losses import loss_of_no_prediction

MUCH_INITIAL = 0.05  # share of initial weights in the average above which it is spoilt


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; exits on errors and --help."""
    parser = argparse.ArgumentParser(
        prog="python -m ddim_keras.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="run folder, name of a run in runs/, or included model (default: the newest run)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only read the configuration and the history, in a second; writes nothing",
    )
    parser.add_argument(
        "--num-images",
        type=at_least(16),
        metavar="N",
        default=128,
        help="images to generate (default: 128)",
    )
    parser.add_argument(
        "--steps",
        type=at_least(1),
        metavar="N",
        default=20,
        help="DDIM steps (default: 20; for a student, those it has learnt)",
    )
    add_sampling_options(parser)
    add_data_options(parser, data_dir="the run's")
    add_kid_weights_option(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of doctor.md and doctor.png (default: the run folder; for included models the "
        "current folder)",
    )
    add_backend_option(parser)
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse_arguments()
    run = find_run(arguments.run, with_weights=False)
    config, history = run.read_config(), run.read_history()
    is_exported = not history and run.best_weights.exists()
    trained = "" if is_exported else f"{len(history)} of "
    print(f"{run.folder}: preset {config.preset}, {trained}{config.epochs} epochs")
    if is_exported:
        sentences = ["This is an exported model, without the history of its training."]
    else:
        sentences = diagnose(config, history)
    print(*(f"- {sentence}" for sentence in sentences), sep="\n", flush=True)
    if not arguments.quick and (history or run.best_weights.exists()):
        folder = output_folder(arguments.output, run)
        choose_backend(arguments.backend)
        import_keras()
        examine_images(run, config, arguments, sentences, folder)


def diagnose(config: RunConfig, history: list[dict[str, Any]]) -> list[str]:
    """Findings from the configuration and the history of a run, most serious first."""
    if not history:
        return ["No epoch has ended yet. Continue with: python train.py --resume"]
    findings = (_length, _learning, _average, _validation, _kid, _schedule)
    return [
        sentence
        for finding in ((_kid,) if "trajectory_loss" in history[-1] else findings)
        if (sentence := finding(config, history))
    ] or ["Nothing stands out. Look at the samples, and measure with: python evaluate.py"]


def _length(config: RunConfig, history: list[dict[str, Any]]) -> str | None:
    images = history[-1]["images"]
    if images >= FEW_IMAGES or config.start_from:  # trained weights
        return None
    return (
        f"The training has seen {images:,} images. Below about {FEW_IMAGES:,} images of 64 px, "
        "samples are mostly coloured noise. Train longer."
    )


def _learning(config: RunConfig, history: list[dict[str, Any]]) -> str | None:
    nothing = loss_of_no_prediction(config.training)
    loss = history[-1]["noise_loss"]
    if loss > 0.8 * nothing:
        return (
            f"The noise loss is {loss:.3g}; always predicting zero costs {nothing:.3g}. The "
            "network has learnt little. Check that the images are in the right range, and try "
            "another learning rate."
        )
    if len(history) > 2 and loss > 1.5 * min(row["noise_loss"] for row in history):
        return (
            f"The noise loss rose to {loss:.3g} from "
            f"{min(row['noise_loss'] for row in history):.3g}. The learning rate is too high."
        )
    return None


def _average(config: RunConfig, history: list[dict[str, Any]]) -> str | None:
    """The share of initial weights in the average: the product of all momenta."""
    steps = history[-1]["images"] // config.training.batch_size
    share = 1.0
    for step in range(1, steps + 1):
        warm = (1 + step) / (10 + step) if config.model.ema_warmup else 1.0
        share *= min(config.model.ema, warm)
        if share < MUCH_INITIAL:
            return None
    return (
        f"The moving average, which draws the images, still consists of initial weights by "
        f"{share:.0%} after {steps:,} steps. Train longer, or start again with --ema-warmup."
    )


def _validation(config: RunConfig, history: list[dict[str, Any]]) -> str | None:
    last = history[-1]
    gap = last["val_noise_loss"] / last["noise_loss"] - 1
    if gap < 0.1:
        return None
    return (
        f"On validation images the noise loss is {gap:.0%} higher than in training. Late in a "
        "training this is a sign of memorising. Early on, the moving average lags behind."
    )


def _kid(config: RunConfig, history: list[dict[str, Any]]) -> str | None:
    measured = [row for row in history if "kid" in row]
    if not measured:
        return "KID was not measured. Measure it now with: python evaluate.py"
    best, last = min(measured, key=lambda row: row["kid"]), measured[-1]
    if best is last and len(measured) > 1:
        return (
            f"KID was still falling at the end, to {last['kid']:.3f} (epoch {last['epoch']}). "
            "A longer training should help: --resume with more --epochs."
        )
    error = last.get("kid_standard_error", 0.0)
    if last["kid"] > best["kid"] + 3 * (0.0 if math.isnan(error) else error):  # of one batch
        return (
            f"KID rose from {best['kid']:.3f} (epoch {best['epoch']}) to {last['kid']:.3f}. The "
            "best weights are kept and used by generate.py."
        )
    return None


def _schedule(config: RunConfig, history: list[dict[str, Any]]) -> str | None:
    if config.model.prediction != "noise" or config.model.schedule != "linear":
        return None
    return (
        "Noise prediction divides by the signal rate, which the linear schedule takes down to "
        "0.007: few steps give saturated colours. Generate with 50 steps or more, or with --clip."
    )


def examine_images(
    run: Run,
    config: RunConfig,
    arguments: argparse.Namespace,
    sentences: Sequence[str],
    folder: Path,
) -> None:
    """Examines predictions and generated images; prints the findings and writes them down.

    Args:
        sentences: findings from the history, which are written as well.
        folder: folder for doctor.md and doctor.png.
    """
    import keras

    from ddim_keras.atomic import written_whole
    from ddim_keras.evaluation.examination import examine, findings
    from ddim_keras.evaluation.measurement import load_data, require_enough
    from ddim_keras.metrics.encoders import choose_encoder
    from ddim_keras.plots import figures
    from ddim_keras.progress import sampling_progress

    dataset = load_data(arguments, config)
    require_enough(dataset)
    encoder = choose_encoder(arguments.kid_weights)
    keras.config.set_dtype_policy(arguments.precision)
    model = load_model(Path(run.weights_to_show()))
    steps = max(config.model.student_steps, default=arguments.steps)
    generated = model.generate(
        arguments.num_images,
        steps,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        callback=sampling_progress(-(-arguments.num_images // arguments.batch_size), steps),
    )
    examined = examine(model, provided_for(run, config), generated, dataset, encoder)
    found = list(findings(examined))
    print("\n" + "\n".join(f"- {sentence}" for sentence in found))
    print("cosine distance of features to the nearest training image, mirrored or not:")
    print(examined.nearest.table())
    errors = {**examined.errors, "predicting nothing": examined.errors_of_nothing}
    figure = figures.examination(
        examined.noise_rates,
        errors if examined.errors else {},
        {"validation": examined.nearest.validation, "generated": examined.nearest.generated},
    )
    figures.save_figure(figure, folder / "doctor.png")
    lines = [f"# {run.folder}", *(f"- {sentence}" for sentence in (*sentences, *found))]
    lines += ["", "![errors by noise level, and nearest training images](doctor.png)", ""]
    with written_whole(folder / "doctor.md") as part:
        part.write_text(printable("\n".join(lines)), encoding="utf-8")
    print(f"wrote {folder}/doctor.md and {folder}/doctor.png")


def provided_for(run: Run, config: RunConfig) -> Any:
    """The included model, if it was trained on the same images and is not the run; or None."""
    provided = Run(PRETRAINED)
    known = provided.read_config()
    is_same = (config.dataset, config.model.network.image_size) == (
        known.dataset,
        known.model.network.image_size,
    )
    return load_model() if is_same and run.folder.resolve() != PRETRAINED.resolve() else None


if __name__ == "__main__":
    run_command(main)
