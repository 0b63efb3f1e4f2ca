import dataclasses
import json

import pytest

from ddim_keras.config import InputError, ModelConfig, NetworkConfig, TrainingConfig, from_dict
from ddim_keras.presets import PRESETS


def test_the_lab_is_the_assignment():
    lab = PRESETS["lab"]
    assert (lab.model.max_signal_rate, lab.model.min_signal_rate) == (0.95, 0.02)
    assert lab.model.network.widths == (32, 64, 96, 128)
    assert lab.model.network.depths == (2, 2, 2, 2)
    assert lab.model.network.image_size == 64
    assert lab.model.network.block == "plain"
    assert lab.model.prediction == "noise"
    assert lab.model.ema == 0.999
    assert lab.training.loss == "mse"
    assert lab.training.batch_size == 64
    assert lab.training.optimizer == "adamw"
    assert lab.training.learning_rate == 1e-3
    assert lab.training.weight_decay == 1e-4
    assert not lab.training.cosine_decay
    assert not lab.training.flip


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_model_configuration_survives_json(preset):
    text = json.dumps(preset.model.to_dict())
    assert ModelConfig.from_dict(json.loads(text)) == preset.model


def test_configurations_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainingConfig().batch_size = 32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"widths": (8, 16)}, "one entry for each of"),
        ({"widths": (), "depths": ()}, "one entry for each of"),
        ({"widths": (8, 0), "depths": (1, 1)}, "widths must be at least 1, not 0"),
        ({"widths": (8, 8), "depths": (1, 0)}, "depths must be at least 1, not 0"),
        ({"widths": (8, 12), "depths": (1, 1), "block": "adaptive"}, "divisible by 8"),
        ({"widths": (8, 12), "depths": (1, 1), "attention_sizes": (32,)}, "divisible by 8"),
        ({"channels": 0}, "channels must be from 1 to 64, not 0"),
        ({"patch_size": 0}, "patch_size must be at least 1, not 0"),
        ({"patch_size": 2}, "patches need the adaptive block"),
        ({"embedding_dims": 7}, "embedding_dims must be even and at least 2, not 7"),
        ({"block": "fancy"}, "block must be one of plain, adaptive, not 'fancy'"),
    ],
)
def test_bad_networks_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        NetworkConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction": "score"}, "prediction must be one of noise, velocity, image"),
        ({"schedule": "sigmoid"}, "schedule must be one of offset_cosine, linear, cosine"),
        ({"discrete_steps": -1}, "discrete_steps must be at least 0"),
        ({"min_signal_rate": 0.0}, "signal rates must satisfy"),
        ({"max_signal_rate": 1.1}, "signal rates must satisfy"),
        ({"max_signal_rate": 0.01}, "signal rates must satisfy"),
        ({"ema": 1.0}, "EMA momentum must be in"),
    ],
)
def test_bad_models_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        ModelConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"repetitions": 0}, "repetitions must be at least 1, not 0"),
        ({"loss": "hinge"}, "loss must be one of mse, mae, huber, hybrid, bound, not 'hinge'"),
        ({"loss_on": "score"}, "loss_on must be one of prediction, noise, velocity, image"),
        ({"huber_delta": 0.0}, "huber_delta must be above 0, not 0.0"),
        ({"precision": "float16"}, "precision must be one of"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, not 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
        ({"weight_decay": float("nan")}, "weight_decay must be at least 0, not nan"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0, not -1.0"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, not -1"),
    ],
)
def test_bad_recipes_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**fields)


def test_unknown_fields_are_named():
    with pytest.raises(InputError, match="TrainingConfig has no field batchsize, optimiser"):
        from_dict(TrainingConfig, {"optimiser": "sgd", "batchsize": 1})
