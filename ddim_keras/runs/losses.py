"""The losses of a run: their names, and the value of predicting nothing."""

import math

from ddim_keras.config import TrainingConfig

LOSS_NAMES = {"mse": "MSE", "mae": "MAE", "huber": "Huber loss"}


def loss_of_no_prediction(recipe: TrainingConfig) -> float:
    """The mean loss of predicting zeros for standard normal noise."""
    if recipe.loss == "mse":
        return 1.0
    if recipe.loss == "mae":
        return math.sqrt(2 / math.pi)
    delta = recipe.huber_delta
    share_within = math.erf(delta / math.sqrt(2))
    density = math.exp(-(delta**2) / 2) / math.sqrt(2 * math.pi)
    return share_within / 2 + delta * density - delta**2 / 2 * (1 - share_within)
