"""Bits per dimension of a trained model: terms of the bound, and the flow; table and figure."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddim_keras.atomic import written_whole
from ddim_keras.cli.evaluate import EvaluateOptions
from ddim_keras.config import InputError
from ddim_keras.data.batches import random_images
from ddim_keras.ddpm import (
    PUBLISHED_STEPS,
    alpha_bars_of,
    noise_error_weights,
    reverse_variances,
)
from ddim_keras.evaluation.measurement import load_data
from ddim_keras.likelihood import CLEAN_NOISE_RATE, FlowBits, bound_terms, flow_bits, schedule_betas
from ddim_keras.model import DiffusionModel
from ddim_keras.plots import figures
from ddim_keras.progress import progress_bar
from ddim_keras.runs.configuration import RunConfig

VARIANCES = {
    "small": "small variances (beta-tilde)",
    "large": "large variances (beta)",
    "beta": "beta, in step 1 as well",
    "learned": "learned variances",
}
FLOW = "probability flow"


@dataclass(frozen=True)
class BitsPerDim:
    """Bits per dimension of images under two models that share a network."""

    betas: np.ndarray  # (T + 1,) of the chain
    terms: dict[str, np.ndarray]  # (T + 1, N) for each variance: L_0, ..., L_T
    flow: FlowBits | None
    why_no_flow: str = ""

    def by_setting(self) -> dict[str, np.ndarray]:
        """The bits of each image (N,), for each variance of the bound and the flow."""
        bits = {VARIANCES[name]: terms.sum(axis=0) for name, terms in self.terms.items()}
        return {**bits, FLOW: self.flow.bits} if self.flow else bits

    def text(self) -> str:
        """A line for each variance and for the flow, and the reason if L_0 dominates."""
        num_steps, num_images = next(iter(self.terms.values())).shape
        lines = [f"bits per dimension of {num_images} images, mean ± standard error:"]
        for name, terms in self.terms.items():
            first, *others, last = terms.mean(axis=1)
            lines.append(
                f"  bound, {num_steps - 1} steps, {VARIANCES[name]}: {_mean(terms.sum(axis=0))} "
                f"(L_0 {first:.3f}, L_1 to L_{num_steps - 2} {sum(others):.3f}, "
                f"L_{num_steps - 1} {last:.4f})"
            )
        if self.flow:
            lines.append(
                f"  {FLOW}: {_mean(self.flow.bits)}, {self.flow.network_calls} network "
                "calls with gradients"
            )
        else:
            lines.append(f"  no value of the {FLOW}: {self.why_no_flow}")
        noise_rate = math.sqrt(self.betas[1])
        if noise_rate > CLEAN_NOISE_RATE:
            lines.append(
                f"L_0 dominates, since the noise of this model ends at a rate of {noise_rate:.2f}: "
                "finer details are coded pixel by pixel. A model whose noise ends near zero "
                "(--preset likelihood) gives comparable bounds"
            )
        return "\n".join(lines)

    def save(self, folder: Path) -> None:
        """Writes bits_per_dim.csv, a row for each term, and bits_per_dim.png."""
        means = {name: terms.mean(axis=1) for name, terms in self.terms.items()}
        noise_rates = np.sqrt(1 - alpha_bars_of(self.betas))
        path = folder / "bits_per_dim.csv"
        with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["term", "noise_rate", *means])
            # L_{t-1} is the term of step t, which starts from the noise of alpha-bar_t.
            for term, noise_rate in enumerate([*noise_rates[1:], noise_rates[-1]]):
                writer.writerow([f"L_{term}", noise_rate, *(each[term] for each in means.values())])
        weights = noise_error_weights(self.betas, reverse_variances(self.betas, "small"))
        figure = figures.bound_terms(means, weights[1:])
        figures.save_figure(figure, folder / "bits_per_dim.png")


def chosen_images(options: EvaluateOptions, config: RunConfig) -> np.ndarray:
    """Random images of the chosen split, the same in every call."""
    dataset = load_data(options, config)
    images = dataset.train_images if options.split == "train" else dataset.validation_images
    return random_images(images, options.likelihood_images)


def measure(options: EvaluateOptions, model: DiffusionModel, images: np.ndarray) -> BitsPerDim:
    """Measures images (N, H, W, C) of uint8, labelled as any class."""
    num_steps = model.config.discrete_steps or PUBLISHED_STEPS
    betas = schedule_betas(model, num_steps)
    variances = ["small", "large"]
    if math.sqrt(betas[1]) > CLEAN_NOISE_RATE:
        variances.append("beta")
    if model.config.variance == "learned":
        variances.append("learned")
    bar = progress_bar(num_steps * -(-len(images) // options.batch_size), "step")
    terms = bound_terms(
        model,
        images,
        variances,
        num_steps=num_steps,
        seed=options.seed,
        batch_size=options.batch_size,
        progress=lambda: bar.add(1),
    )
    print(f"integrating the {FLOW}", flush=True)
    try:
        flow = flow_bits(model, images, seed=options.seed, batch_size=options.batch_size)
    except InputError as error:
        return BitsPerDim(betas, terms, None, str(error))
    return BitsPerDim(betas, terms, flow)


def _mean(bits: np.ndarray) -> str:
    error = bits.std() / math.sqrt(max(1, len(bits) - 1))
    return f"{bits.mean():.3f} ± {error:.3f}"
