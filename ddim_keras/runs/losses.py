"""Losses of a run: their names, and their values for a prediction of zeros."""

import math

from ddim_keras.config import BOUND_LOSSES, TrainingConfig

LOSS_NAMES = {
    "mse": "MSE",
    "mae": "MAE",
    "huber": "Huber loss",
    "hybrid": "MSE and 0.001 of the variational bound",
    "bound": "variational bound",
}


def loss_of_parts(recipe: TrainingConfig) -> str:
    """The loss reported for noise and images: the training loss, or MSE for the bound losses."""
    return "mse" if recipe.loss in BOUND_LOSSES else recipe.loss


def loss_of_no_prediction(recipe: TrainingConfig) -> float:
    """The mean loss of a prediction of zeros for standard normal noise."""
    if loss_of_parts(recipe) == "mse":
        return 1.0
    if recipe.loss == "mae":
        return math.sqrt(2 / math.pi)
    delta = recipe.huber_delta
    share_within = math.erf(delta / math.sqrt(2))
    density = math.exp(-(delta**2) / 2) / math.sqrt(2 * math.pi)
    return share_within / 2 + delta * density - delta**2 / 2 * (1 - share_within)
