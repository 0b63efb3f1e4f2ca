"""Search for step placement, by a fine trajectory or by the KID against training images."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ddim_keras import step_search
from ddim_keras.cli.evaluate import EvaluateOptions
from ddim_keras.config import InputError
from ddim_keras.evaluation.measurement import load_kid
from ddim_keras.evaluation.settings import Setting, chosen_guidance, chosen_samplers, generate
from ddim_keras.model import DiffusionModel
from ddim_keras.progress import progress_bar, sampling_progress
from ddim_keras.runs.folder import Run
from ddim_keras.runs.manifest import sha256

SignalRates = dict[int, list[float]]  # for each number of steps


def search(
    options: EvaluateOptions, run: Run, weights: Path, model: DiffusionModel
) -> Iterator[SignalRates]:
    """Searches the placement of each number of steps; yields what was found, to be stored.

    Raises:
        InputError: if a training has replaced the weights meanwhile.
    """
    digest = sha256(weights)
    for found in _search(options, run, model):
        if sha256(weights) != digest:
            raise InputError(
                f"{weights} was replaced during the search, so the steps found are not stored. "
                "Search again when the training has ended"
            )
        yield found


def _search(options: EvaluateOptions, run: Run, model: DiffusionModel) -> Iterator[SignalRates]:
    steps = sorted(set(options.search_steps or ()))
    if options.search_by == "trajectory":
        yield step_search.search_steps(
            model,
            steps,
            batch_size=options.batch_size,
            guidance=chosen_guidance(options, model),
            callback=sampling_progress(
                -(-step_search.NUM_IMAGES // options.batch_size), step_search.CANDIDATES
            ),
        )
        return
    for number in steps:
        yield {number: search_by_kid(options, run, model, number)}


def search_by_kid(
    options: EvaluateOptions, run: Run, model: DiffusionModel, steps: int
) -> list[float]:
    """Moves one step at a time, as long as the KID against training images falls."""
    kid, _ = load_kid(options, run.read_config(), split="train")
    sampler, guidance = chosen_samplers(options)[0], chosen_guidance(options, model)
    progress = progress_bar(step_search.most_measurements(steps), "measurement")
    values: list[float] = []

    def measure(signal_rates: list[float]) -> float:
        trial = dataclasses.replace(sampler, spacing={steps: signal_rates}, last_signal_rate=None)
        # Results should be reported with different noises.
        images = generate(options, model, Setting(trial, signal_rates, guidance), options.seed + 1)
        values.append(kid.of_all_pairs(kid.encoder.features(images)).value)
        progress.add(1)
        return values[-1]

    start = sampler.signal_rates(model, steps)
    best, least = step_search.coordinate_search(measure, start)
    print(f"\n{sampler.name}, {steps} steps: KID {values[0]:.4f} at the start, {least:.4f} now")
    return best


def store(found: SignalRates, run: Run, folder: Path) -> None:
    """Stores searched signal rates, by default in the run folder, and prints them."""
    destination = Run(folder)
    destination.save_sampling_steps(found)
    for steps, signal_rates in found.items():
        print(f"{steps} steps at signal rates " + ", ".join(f"{x:.3f}" for x in signal_rates[:-1]))
    print(f"wrote {destination.sampling_steps_file}, for --spacing searched", end="")
    print("" if folder == run.folder else f", once it is in {run.folder}")
