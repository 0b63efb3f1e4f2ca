"""The reverse step of a diffusion is nearly Gaussian if the forward step is small.

    python examples/reverse_step.py

DDPM draws x_{t-1} given x_t from a Gaussian. The true distribution is Gaussian only in the limit of
small steps (Feller 1949; Sohl-Dickstein et al. 2015, https://arxiv.org/abs/1503.03585, section
2.2). For a mixture of Gaussians in the plane it is known exactly: again a mixture. Each panel
shows it (shaded) for one beta, and the Gaussian with the same mean and covariance (lines). The
number is the Kullback-Leibler divergence between the two, the likelihood loss of that step.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.special import softmax
from scipy.stats import multivariate_normal

from ddim_keras.plots.figures import save_figure

BETAS = (0.02, 0.1, 0.3, 0.6)
ALPHA_BAR = 0.35  # of x_t: about the middle of the process
X_T = (0.15, 0.1)
SPAN = np.linspace(-2.2, 2.2, 300)


class Mixture(NamedTuple):
    """Round Gaussians in the plane."""

    weights: np.ndarray  # (K,), of sum 1
    means: np.ndarray  # (K, 2)
    variances: np.ndarray  # (K,)

    def density(self, points: np.ndarray) -> np.ndarray:
        """The density at points (..., 2)."""
        return sum(
            weight * multivariate_normal(mean, variance).pdf(points)
            for weight, mean, variance in zip(*self, strict=True)
        )

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (2,) and covariance (2, 2)."""
        mean = self.weights @ self.means
        deviations = self.means - mean
        covariance = (self.weights * deviations.T) @ deviations
        return mean, covariance + (self.weights @ self.variances) * np.eye(2)


DATA = Mixture(
    np.array([0.4, 0.35, 0.25]),
    np.array([[-1.2, -0.4], [1.2, -0.3], [0.2, 1.3]]),
    np.array([0.02, 0.02, 0.02]),
)


def noisy(data: Mixture, alpha_bar: float) -> Mixture:
    """The distribution of sqrt(alpha_bar) * x_0 + sqrt(1 - alpha_bar) * noise."""
    return Mixture(
        data.weights,
        np.sqrt(alpha_bar) * data.means,
        alpha_bar * data.variances + 1 - alpha_bar,
    )


def reverse_step(data: Mixture, alpha_bar: float, beta: float, x_t: np.ndarray) -> Mixture:
    """The distribution of x_{t-1} given x_t, by Bayes' rule for each component.

    Args:
        alpha_bar: of x_t; at most 1 - beta.
        beta: variance of the forward step from x_{t-1}.
    """
    earlier, now = noisy(data, alpha_bar / (1 - beta)), noisy(data, alpha_bar)
    distances = np.sum((x_t - now.means) ** 2, axis=1)
    log_weights = np.log(data.weights) - np.log(now.variances) - distances / (2 * now.variances)
    variances = 1 / (1 / earlier.variances + (1 - beta) / beta)
    means = earlier.means / earlier.variances[:, None] + np.sqrt(1 - beta) * x_t / beta
    return Mixture(softmax(log_weights), variances[:, None] * means, variances)


def bits_from_gaussian(mixture: Mixture) -> float:
    """Kullback-Leibler divergence from the Gaussian with the same moments, in bits, on a grid."""
    mean, covariance = mixture.moments()
    spread = 6 * np.sqrt(covariance.diagonal().max())
    line = np.linspace(-spread, spread, 400)
    points = mean + np.stack(np.meshgrid(line, line), axis=-1)
    density = mixture.density(points) + 1e-300
    ratio = np.log2(density) - multivariate_normal(mean, covariance).logpdf(points) / np.log(2)
    return float(np.sum(density * ratio) * (line[1] - line[0]) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output",
        type=Path,
        default="reverse_step.png",
        metavar="FILE",
        help="picture, a .png file (default: %(default)s)",
    )
    arguments = parser.parse_args()
    points = np.stack(np.meshgrid(SPAN, SPAN), axis=-1)
    figure = Figure(figsize=(3 * (len(BETAS) + 1), 3.4), layout="constrained")
    first, *panels = figure.subplots(1, len(BETAS) + 1)
    first.contourf(SPAN, SPAN, noisy(DATA, ALPHA_BAR).density(points), levels=12, cmap="Greys")
    first.plot(*X_T, "o", color="C3")
    first.set_title("$x_t$, and its distribution")
    for axes, beta in zip(panels, BETAS, strict=True):
        step = reverse_step(DATA, ALPHA_BAR, beta, np.array(X_T))
        axes.contourf(SPAN, SPAN, step.density(points), levels=12, cmap="Blues")
        gaussian = multivariate_normal(*step.moments()).pdf(points)
        axes.contour(SPAN, SPAN, gaussian, levels=4, colors="C1", linewidths=1)
        bits = bits_from_gaussian(step)
        print(f"beta {beta:g}: {bits:.2g} bits from a Gaussian")
        axes.set_title(f"$\\beta$ = {beta:g}: {bits:.2g} bits")
    for axes in (first, *panels):
        axes.set(aspect="equal", xticks=[], yticks=[])
    save_figure(figure, arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
