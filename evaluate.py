"""Measures how far generated images are from real ones, for samplers and numbers of steps.

Read it from top to bottom: model, real images, measurements, table and plot. --search-steps
optimises the placement of few steps instead, --compare tells which of two settings is better, and
--assess reports on one setting in detail.
The options are in `ddim_keras/cli/evaluate.py`, the steps in `ddim_keras/evaluation/`.
"""

if __name__ == "__main__":
    from ddim_keras.cli.interruption import end_at_once

    end_at_once()  # on Ctrl-C, while the rest is imported


from pathlib import Path
from typing import Any

from ddim_keras.cli.evaluate import EvaluateOptions, parse_arguments
from ddim_keras.cli.options import INTERVAL_WITHOUT_GUIDANCE
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError
from ddim_keras.foreign import printable
from ddim_keras.runs.folder import Run, find_weights, load_model, output_folder
from ddim_keras.runs.manifest import sha256


def main() -> None:
    options = parse_arguments()
    sides = [side.options for side in options.compare] or [options]
    weights = [find_weights(side.run) for side in sides]
    runs = [Run(file.parent) for file in weights]
    for side, run in zip(sides, runs, strict=True):
        check(side, run)
    if any(side.guidance_interval for side in sides) and not any(
        side.strength(run.read_config().model) for side, run in zip(sides, runs, strict=True)
    ):
        raise InputError(INTERVAL_WITHOUT_GUIDANCE)
    sides = [side.for_model(run.read_config()) for side, run in zip(sides, runs, strict=True)]
    options = options.with_sides(sides)
    folder = output_folder(options.output, runs[0])
    choose_backend(options.backend)
    import_keras()

    # Keras is imported only now, so that --help and mistakes are answered at once.
    import keras

    from ddim_keras.evaluation import assessment, comparison, search

    keras.config.set_dtype_policy(options.precision)
    models = [load_model(file, options.check_hashes) for file in weights]
    if options.compare:
        if "bits_per_dim" in options.metrics:
            comparison.compare_bits(options, weights, models, folder)
        if "kid" in options.metrics:
            comparison.compare_sides(options, weights, models, folder)
    elif options.search_steps:
        for found in search.search(options, runs[0], weights[0], models[0]):
            search.store(found, runs[0], folder)
    elif options.assess:
        assessment.assess(options, runs[0].read_config(), weights[0], models[0], folder)
    else:
        if "bits_per_dim" in options.metrics:
            evaluate_likelihood(options, runs[0], models[0], folder)
        if set(options.metrics) - {"bits_per_dim"}:
            evaluate(options, runs[0], weights[0], models[0], folder)


def evaluate_likelihood(options: EvaluateOptions, run: Run, model: Any, folder: Path) -> None:
    """Prints the bits per dimension of real images; writes the terms of the bound."""
    from ddim_keras.evaluation import bits_per_dim

    images = bits_per_dim.chosen_images(options, run.read_config())
    result = bits_per_dim.measure(options, model, images)
    print(result.text())
    result.save(folder)
    print(f"wrote {folder}/bits_per_dim.csv and {folder}/bits_per_dim.png")


def evaluate(options: EvaluateOptions, run: Run, weights: Path, model: Any, folder: Path) -> None:
    """Measures each setting; writes the table and the plot after each measurement."""
    from ddim_keras.evaluation.measurement import ESTIMATOR, load_kid, measure, metrics_of, warm_up
    from ddim_keras.evaluation.settings import chosen_settings
    from ddim_keras.evaluation.table import Results

    digest = sha256(weights)  # now: a training may replace them meanwhile
    settings = chosen_settings(options, model)
    kid, other_real_images = load_kid(options, run.read_config(), options.split)
    results = Results(
        folder,
        conditions={
            "split": options.split,
            "num_images": options.num_images,
            "seed": options.seed,
            "dtype_policy": options.precision,
            "features": kid.encoder.description,
            "estimator": ESTIMATOR,
            "weights": printable(str(weights.resolve())),
            "weights_sha256": digest,
        },
        floor=metrics_of(options.metrics, kid, other_real_images),
        features=kid.encoder.description,
    )
    print(
        f"{weights}: {options.num_images} images against {len(kid.real_features)} {options.split} "
        f"images, features of {kid.encoder.description}, {kid.encoder.image_size} px; KID of "
        f"{ESTIMATOR} of images"
    )
    warm_up(options, model, settings[0])
    for number, setting in enumerate(settings, start=1):
        print(f"{number}/{len(settings)}: {setting.name}, {setting.steps} steps", flush=True)
        results.add(measure(options, model, setting, kid))
    print("\n" + results.text())
    print(f"wrote {folder}/evaluation.csv and {folder}/evaluation.png")


def check(options: EvaluateOptions, run: Run) -> None:
    """Raises InputError for errors that would otherwise appear after minutes of work."""
    is_added_to = options.search_steps and run.sampling_steps_file.exists()
    if "searched" in options.spacing or is_added_to:
        run.read_sampling_steps()  # raises it
    model = run.read_config().model
    is_conditional = model.network.num_classes > 0
    if options.guidance and not (is_conditional or options.guide):
        raise InputError(f"{run.folder} is not class-conditional; omit --guidance, or add --guide")
    if options.variance == "learned" and model.variance != "learned":
        raise InputError(f"{run.folder} has no learned variances; choose small or large")
    if options.guide:
        find_weights(options.guide)


if __name__ == "__main__":
    run_command(main)
