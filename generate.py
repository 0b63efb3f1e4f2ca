"""Generates images from a trained model: a labelled grid and, optionally, a file for each image.

Read it from top to bottom: model, labels, sampler, images, files. The options are in
`ddim_keras/cli/generate.py`, the steps in `ddim_keras/generation/`.
"""

if __name__ == "__main__":
    from ddim_keras.cli.interruption import end_at_once

    end_at_once()  # on Ctrl-C, while the rest is imported


from pathlib import Path

from ddim_keras.cli.generate import GenerateOptions, parse_arguments
from ddim_keras.cli.startup import choose_backend, import_keras, run_command
from ddim_keras.config import InputError
from ddim_keras.generation.files import check_files, images_made
from ddim_keras.generation.given import read_given
from ddim_keras.generation.labels import chosen_labels, chosen_strength
from ddim_keras.runs.configuration import read_config
from ddim_keras.runs.folder import (
    FEW_IMAGES,
    PRETRAINED,
    Run,
    find_run,
    find_weights,
    load_guide,
    load_model,
)


def main() -> None:
    options = parse_arguments()
    weights = chosen_weights(options)
    config = read_config(weights.parent)
    options = options.for_model(config)
    labels = chosen_labels(options, config)
    strength = chosen_strength(options, config)
    guide_weights = find_weights(options.guide) if options.guide else None
    given = read_given(options, config.model.network)
    if options.spacing == "searched":
        Run(weights.parent).read_sampling_steps()  # now, in case there are none
    check_files(options, len(labels))
    choose_backend(options.backend)
    import_keras()

    # Keras is imported only now, so that --help and mistakes are answered at once.
    import keras

    from ddim_keras.generation.jobs import Job, chosen_sampler
    from ddim_keras.generation.pictures import Progress, save_pictures
    from ddim_keras.guidance import Guidance

    # Model and sampler.
    keras.config.set_dtype_policy(options.precision)
    model = load_model(weights, options.check_hashes)
    sampler = chosen_sampler(options, model)
    guide = load_guide(guide_weights, model, options.check_hashes) if guide_weights else None
    guidance = Guidance(strength, options.guidance_interval, guide)
    job = Job(options, model, sampler, guidance, labels, given)
    if options.encode and given:
        job.encode_and_decode(given)
        return

    # Images.
    how = options.describe()
    start = images_made(options, weights)
    print(f"{len(labels) - start} images, {how}, from {weights}")
    say_if_hardly_trained(Run(weights.parent))
    progress = Progress(options, model, len(labels) - start)
    images = job.batches(progress, start)

    # Files.
    title = f"{weights.resolve().parent.name}: {how}, seed {options.seed}"
    if options.interpolate is not None:
        title += f" to {options.interpolate}"
    if strength:
        title += f", {guidance}"
    save_pictures(options, config, images, labels, given, title, start)
    progress.save(options)


def chosen_weights(options: GenerateOptions) -> Path:
    """The weights file to generate from."""
    if options.weights:
        if not options.weights.is_file():
            raise InputError(f"there is no weights file {options.weights}")
        return options.weights
    return find_run(options.run).weights_to_show()


def say_if_hardly_trained(run: Run) -> None:
    """Prints a warning if a run has hardly been trained, and names a trained model."""
    history = run.read_history()
    config = run.read_config()
    is_trained_further = config.distill_from or config.start_from
    if not is_trained_further and history and history[-1]["images"] < FEW_IMAGES:
        print(
            f"this model has seen only {history[-1]['images']:,} images, so expect noise; for "
            f"flowers: --run {PRETRAINED.name}"
        )


if __name__ == "__main__":
    run_command(main)
