"""KID, precision and recall against the strength of guidance.

    python -m benchmarks.quality.guidance --kid-weights FILE --interval 0.5 0.98 --guide RUN

generates images from the same noises and classes with each strength: with guidance at all signal
rates, in an interval, and away from a worse model. Prints a table, and writes it with a figure.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from ddim_keras.cli.evaluate import EvaluateOptions
from ddim_keras.cli.evaluate import parse_arguments as evaluate_arguments
from ddim_keras.cli.startup import choose_backend, import_keras, run_command

METRICS = {"kid": "KID", "precision": "precision", "recall": "recall"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other options are those of evaluate.py, such as --run, --num-images and --split.",
    )
    add = parser.add_argument
    strengths = "strengths of guidance (default: 0 0.5 1 1.5 2 3)"
    default = [0, 0.5, 1, 1.5, 2, 3]
    add("--strengths", nargs="+", type=float, default=default, metavar="W", help=strengths)
    add("--interval", nargs=2, metavar=("LOW", "HIGH"), help="signal rates of the second row")
    add("--guide", help="run or weights of a worse model, for the third row")
    add("--steps", default="20", metavar="N", help="steps of DDIM (default: 20)")
    add("--output", type=Path, default=Path(), metavar="DIR", help="folder (default: this one)")
    arguments, others = parser.parse_known_args()
    common = ["--metrics", "kid", "precision_recall", "--steps", arguments.steps, *others]
    kinds = {"guidance": evaluate_arguments(common)}
    if arguments.interval:
        name = "guidance at signal rates " + " to ".join(arguments.interval)
        kinds[name] = evaluate_arguments([*common, "--guidance-interval", *arguments.interval])
    if arguments.guide:
        kinds["autoguidance"] = evaluate_arguments([*common, "--guide", arguments.guide])
    choose_backend(kinds["guidance"].backend)
    import_keras()
    measure(kinds, arguments.strengths, arguments.output)


def measure(kinds: dict[str, EvaluateOptions], strengths: list[float], folder: Path) -> None:
    """Measures each kind of guidance at each strength; writes guidance.csv and guidance.png."""
    import keras

    from ddim_keras.evaluation.measurement import load_kid, metrics_of
    from ddim_keras.evaluation.measurement import measure as measure_setting
    from ddim_keras.evaluation.settings import chosen_settings
    from ddim_keras.evaluation.table import write_rows
    from ddim_keras.plots.figures import save_figure
    from ddim_keras.runs.folder import Run, find_weights, load_model

    options = kinds["guidance"]
    keras.config.set_dtype_policy(options.precision)
    folder.mkdir(parents=True, exist_ok=True)
    weights = find_weights(options.run)
    model = load_model(weights, options.check_hashes)
    kid, other_images = load_kid(options, Run(weights.parent).read_config(), options.split)
    floor = metrics_of(options.metrics, kid, other_images)
    rows: list[dict] = []
    for kind, own in kinds.items():
        for strength in strengths:
            if strength == 0 and kind != "guidance":  # the same images for every kind
                unguided = next(row for row in rows if row["guidance"] == 0)
                rows.append(unguided | {"kind": kind})
                continue
            (setting,) = chosen_settings(replace(own, guidance=strength), model)
            rows.append({"kind": kind, **measure_setting(own, model, setting, kid)})
            print({name: rows[-1][name] for name in ("kind", "guidance", *METRICS)}, flush=True)
            write_rows(folder / "guidance.csv", rows)
    save_figure(by_strength(rows, floor), folder / "guidance.png")
    print(f"real images: {floor}; wrote {folder}/guidance.csv and {folder}/guidance.png")


def by_strength(rows: list[dict], floor: dict[str, float]) -> Figure:
    """A panel for each metric, a line for each kind of guidance; grey: real images."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, 3), METRICS.items(), strict=True):
        for kind in dict.fromkeys(row["kind"] for row in rows):
            line = [row for row in rows if row["kind"] == kind]
            errors = [row.get(f"{name}_standard_error", 0) for row in line]
            strengths = [row["guidance"] for row in line]
            axes.errorbar(strengths, [row[name] for row in line], errors, marker=".", label=kind)
        axes.axhline(floor[name], color="grey", linewidth=1, label="training images")
        axes.set(xlabel="strength of guidance", ylabel=label, ylim=(min(0, floor[name]), None))
        axes.grid(alpha=0.3)
    axes.legend()
    return figure


if __name__ == "__main__":
    run_command(main)
