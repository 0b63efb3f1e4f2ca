"""Models of the demo: included models and those in runs/; the last ones used stay in memory."""

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import keras

from ddim_keras.cli.generate import parse_arguments
from ddim_keras.config import InputError
from ddim_keras.generation.given import GivenImages
from ddim_keras.generation.jobs import Job, chosen_sampler
from ddim_keras.generation.labels import chosen_labels, chosen_strength
from ddim_keras.guidance import Guidance
from ddim_keras.model import DiffusionModel
from ddim_keras.runs.configuration import RunConfig
from ddim_keras.runs.folder import PRETRAINED, RUNS, Run, find_run, load_model
from ddim_keras.runs.manifest import sha256

MOST_IN_MEMORY = 2


class Models:
    """Makes jobs of generate.py from its command lines, with models that stay in memory.

    Args:
        precision: dtype policy of the layers.
        check_hashes: whether the files must match their manifests.
        first: run or included model to start with; None: an included one, preferably a student.
    """

    def __init__(self, precision: str, check_hashes: bool, first: str | None) -> None:
        self.precision = precision
        self.check_hashes = check_hashes
        self.first = first
        if first:
            find_run(first).weights_to_show()  # now, in case there are none
        self.first = self.names()[0]
        self._loaded: OrderedDict[tuple[Path, str], DiffusionModel] = OrderedDict()

    def names(self, with_students: bool = True) -> list[str]:
        """Names of all models with weights: the first, included ones, and runs, newest name first.

        Args:
            with_students: whether to include students.
        """
        provided = [folder.name for folder in sorted(PRETRAINED.parent.glob("*/"))]
        provided.sort(key=lambda name: not _is_student(name))
        runs = sorted((folder.as_posix() for folder in RUNS.glob("*/")), reverse=True)
        names = dict.fromkeys([*filter(None, [self.first]), *provided, *runs])
        return [
            name
            for name in names
            if _has_weights(name) and (with_students or not _is_student(name))
        ]

    def config(self, name: str) -> RunConfig:
        """The configuration of a model's run."""
        return find_run(name).read_config()

    def job(self, words: Sequence[str], given: GivenImages | None = None) -> Job:
        """The job of `generate.py` with these words.

        Args:
            given: the images named by the words, which need not exist as files.

        Raises:
            InputError: if the words are incompatible with each other or with the model.
        """
        try:
            options = parse_arguments(words)
        except SystemExit as error:  # argparse has printed why
            raise InputError("these settings are not possible; reload the page") from error
        weights = find_run(options.run).weights_to_show()
        config = Run(weights.parent).read_config()
        options = options.for_model(config)
        labels, strength = chosen_labels(options, config), chosen_strength(options, config)
        model = self._load(weights)
        sampler = chosen_sampler(options, model)
        return Job(options, model, sampler, Guidance(strength), labels, given)

    def _load(self, weights: Path) -> DiffusionModel:
        key = weights, sha256(weights)  # a training replaces the weights of its run
        if key not in self._loaded:
            while len(self._loaded) >= MOST_IN_MEMORY:
                self._loaded.popitem(last=False)
            keras.config.set_dtype_policy(self.precision)  # Keras keeps one for each thread
            self._loaded[key] = load_model(weights, self.check_hashes)
        self._loaded.move_to_end(key)
        return self._loaded[key]


def _is_student(name: str) -> bool:
    with contextlib.suppress(InputError):
        return bool(find_run(name).read_config().model.student_steps)
    return False


def _has_weights(name: str) -> bool:
    with contextlib.suppress(InputError):
        return find_run(name).weights_to_show().exists()
    return False
