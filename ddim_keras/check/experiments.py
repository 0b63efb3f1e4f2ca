"""Experiments with a student's functions: inputs, calls of the networks, and results.

They run in the child process and return arrays and names; nothing is judged here.
"""

import ast
import contextlib
import inspect
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ddim_keras.check import closed_forms
from ddim_keras.check.gaps import EXERCISE, LAB
from ddim_keras.check.parameters import ARGUMENTS, call, received, takes
from ddim_keras.check.source import Absent, Source, describe, plain
from ddim_keras.check.stand_ins import (
    DDPM_BETAS,
    Ddpm,
    Normalizer,
    Probe,
    Recorder,
    Tracker,
    is_average_name,
    is_network_name,
    make_instance,
    number_of_ddpm,
    trainable_network,
    weights_of,
)
from ddim_keras.check.tensors import (
    codes_of,
    libraries_of,
    library_of,
    like,
    seed_everything,
    tensor,
    to_numpy,
)

TIMES = np.array([0.0, 0.1, 0.25, 0.5, 0.6, 0.9, 1.0])
GRID = np.linspace(0, 1, 201)
DENOISERS = {
    "gaussian": closed_forms.gaussian_denoiser,
    "one_image": closed_forms.one_image_denoiser,
}
LEARNING_RATE = 0.05
Otherwise = TypeVar("Otherwise")  # result of a search that finds nothing
FIRST_WEIGHTS, AVERAGE_WEIGHTS = (0.3, -0.2, 0.15, 0.1), (0.1, 0.4, -0.3, 0.35)


@dataclass(frozen=True)
class Found:
    """A student's function that fills a gap: of the module, or of one of its classes."""

    gap: str
    name: str
    function: Callable[..., Any]
    owner: type | None = None


def find(source: Source) -> dict[str, Found]:
    """The functions that fill the gaps of the lab or the exercise."""
    namespace = source.namespace
    functions = {
        plain(name): (name, value)
        for name, value in namespace.items()
        if callable(value) and not inspect.isclass(value) and not isinstance(value, Absent)
    }
    classes = [
        value
        for value in namespace.values()
        if inspect.isclass(value) and value.__module__ == namespace["__name__"]
    ]
    found = _find_sheet(LAB, functions, classes, prefer_classes=True)
    if "diffusion_schedule" not in found:
        names = sorted(name for name in functions if "schedule" in name)
        preferred = [name for name in names if "offsetcosine" in name]
        preferred += [name for name in names if "cosine" in name] + names
        if preferred and found:
            name, function = functions[preferred[0]]
            found["diffusion_schedule"] = Found("diffusion_schedule", name, function)
    exercise = _find_sheet(EXERCISE, functions, classes, prefer_classes=False)
    if "sample_xt" in exercise or not {"denoise", "reverse_diffusion"} & set(found):
        found.update(exercise)
    return found


def _find_sheet(
    gaps: tuple[str, ...],
    functions: Mapping[str, tuple[str, Any]],
    classes: list[type],
    prefer_classes: bool,
) -> dict[str, Found]:
    def methods(cls: type) -> dict[str, str]:
        own = [base for base in cls.__mro__ if base.__module__ == cls.__module__]
        names = [name for base in own for name, value in vars(base).items() if callable(value)]
        names += [name for base in own for name in vars(base) if name not in names]
        return {plain(name): name for name in names}

    best = max(
        classes,
        key=lambda cls: (sum(plain(gap) in methods(cls) for gap in gaps), classes.index(cls)),
        default=None,
    )
    found = {}
    for gap in gaps:
        of_class = methods(best).get(plain(gap)) if best else None
        of_module = functions.get(plain(gap))
        if of_class and (prefer_classes or not of_module):
            function = inspect.getattr_static(best, of_class)
            found[gap] = Found(gap, of_class, function, best)
        elif of_module:
            found[gap] = Found(gap, *of_module)
    return found


class Laboratory:
    """A student's functions, ready to be called with stand-ins.

    Args:
        source: the executed file.
        found: the student's functions.
    """

    def __init__(self, source: Source, found: dict[str, Found]) -> None:
        self.namespace, self.found = source.namespace, found
        self.recorder = Recorder()
        self.weights: tuple[list, list] | None = None
        self.schedule_reshapes = False  # whether the student's takes times (B,)

    def libraries(self, gap: str) -> list[str]:
        """Libraries whose tensors the function may expect, likeliest first."""
        found = self.found[gap]
        functions = [found.owner or found.function]
        return libraries_of(functions, self.namespace)

    def images_shape(self, library: str) -> tuple[int, ...]:
        """A small batch, in a library's usual layout."""
        return (4, 3, 8, 8) if library == "torch" else (4, 8, 8, 3)

    def probes(self, denoiser: str) -> tuple[Probe, Probe]:
        """The trained network and its average, both with the same exact denoiser."""
        predict = DENOISERS[denoiser]
        network = Probe("network", predict, self.recorder)
        ema_network = Probe("ema_network", predict, self.recorder)
        for probe in (network, ema_network):
            probe.relate(network=network, ema_network=ema_network)
        return network, ema_network

    @contextlib.contextmanager
    def ready(
        self, gap: str, library: str, network: Any, ema_network: Any, isolated: bool = False
    ) -> Iterator[Callable[..., Any]]:
        """Returns the student's function as `function(**arguments by meaning)`.

        Args:
            isolated: whether the student's other functions are replaced by correct ones.
        """
        found, self.library = self.found[gap], library
        changed: dict[str, Any] = {}
        for name in self._globals_like_networks(found):
            changed[name] = ema_network if is_average_name(name) else network
        instance = None
        if found.owner is not None:
            instance, self.weights = make_instance(
                found.owner, network, ema_network, library, self.namespace
            )
        if isolated:
            for other in ("diffusion_schedule", "denoise"):
                if other == gap or other not in self.found:
                    continue
                right = getattr(self, f"_right_{other}")(network, ema_network, instance)
                if self.found[other].owner is None:
                    changed[self.found[other].name] = right
                elif instance is not None:
                    instance.__dict__[self.found[other].name] = right
            if "sample_xt" in self.found and self.found["sample_xt"].owner is None:
                changed[self.found["sample_xt"].name] = self._right_sample_xt
            trains = gap in ("train", "train_classconditional")
            if trains and "sample" in self.found and self.found["sample"].owner is None:
                changed[self.found["sample"].name] = self._right_sample  # to show the progress
        before = {name: self.namespace.get(name, _NOTHING) for name in changed}
        self.namespace.update(changed)
        common = {
            "network": network,
            "ema_network": ema_network,
            "device": "cpu",
            "params": {},
            "min_signal_rate": closed_forms.MIN_SIGNAL_RATE,
            "max_signal_rate": closed_forms.MAX_SIGNAL_RATE,
            "normalizer": Normalizer(),
            "image_size": 8,
            "labels": tensor(np.zeros(4, "int32"), library),
        }
        right_schedule = self._right_diffusion_schedule(network, ema_network, None)
        common["schedule"] = self._of_module("diffusion_schedule", right_schedule)
        right_denoise = self._right_denoise(network, ema_network, None)
        common["denoise"] = self._of_module("denoise", right_denoise)
        for probe in (network, ema_network):
            if isinstance(probe, Probe):
                probe.relate(denoise=right_denoise, diffusion_schedule=right_schedule)
        if library == "jax":
            import jax

            common["key"] = jax.random.PRNGKey(0)
        if library == "torch":
            import torch

            common["device"] = torch.device("cpu")
        function = found.function if instance is None else getattr(instance, found.name)
        self.instance = instance
        try:
            yield lambda **values: call(function, gap, {**common, **values})
        finally:
            for name, value in before.items():
                if value is _NOTHING:
                    self.namespace.pop(name, None)
                else:
                    self.namespace[name] = value

    def _of_module(self, gap: str, otherwise: Any) -> Any:
        found = self.found.get(gap)
        return self.namespace[found.name] if found and found.owner is None else otherwise

    def _globals_like_networks(self, found: Found) -> list[str]:
        """Global names in a function that are networks, which the executed part does not create.

        Also in the student's functions that it calls.
        """
        waiting: list[Any] = [found.function]
        names: set[str] = set()
        while waiting:
            for code in codes_of(waiting.pop()):
                for name in set(code.co_names) - names:
                    names.add(name)
                    value = self.namespace.get(name)
                    if getattr(value, "__module__", None) == self.namespace["__name__"]:
                        waiting.append(value)
        return [
            name
            for name in sorted(names)
            if is_network_name(name) or is_average_name(name)
            if _is_replaceable(self.namespace.get(name))
        ]

    # Correct functions, with the signatures of the student's own.

    def _right_diffusion_schedule(
        self, network: Any, ema_network: Any, instance: Any
    ) -> Callable[..., Any]:
        def schedule(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
            given = self._received("diffusion_schedule", instance, args, kwargs)
            times = given["times"]
            noise_rates, signal_rates = closed_forms.rates(to_numpy(times))
            if self.schedule_reshapes and noise_rates.ndim == 1:
                noise_rates, signal_rates = (
                    rates.reshape(-1, 1, 1, 1) for rates in (noise_rates, signal_rates)
                )
            if library_of(times) == "numpy":  # perhaps a number, where others want tensors
                return tensor(noise_rates, self.library), tensor(signal_rates, self.library)
            return like(noise_rates, times), like(signal_rates, times)

        return schedule

    def _right_denoise(self, network: Any, ema_network: Any, instance: Any) -> Callable[..., Any]:
        def denoise(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
            given = self._received("denoise", instance, args, kwargs)
            images = given["noisy_images"]
            chosen = network if _as_bool(given.get("training", False)) else ema_network
            if isinstance(given.get("network"), Probe) and "ema_network" not in given:
                chosen = given["network"]
            noise_rates = _broadcastable(given["noise_rates"], images)
            signal_rates = _broadcastable(given["signal_rates"], images)
            if isinstance(chosen, Probe):
                chosen(images, noise_rates**2)
                last = self.recorder.calls[-1]
                last.update(noise_rates=noise_rates, signal_rates=signal_rates)
                noisy_images, pred_noises = last["noisy_images"], last["pred_noises"]
                pred_images = (noisy_images - noise_rates * pred_noises) / signal_rates
                return like(pred_noises, images), like(pred_images, images)
            # A network that learns: everything stays a tensor.
            rates = given["noise_rates"], given["signal_rates"]
            pred_noises = chosen([images, rates[0] ** 2], training=given.get("training", False))
            last = self.recorder.calls[-1]
            last.update(noise_rates=noise_rates, signal_rates=signal_rates)
            return pred_noises, (images - rates[0] * pred_noises) / rates[1]

        return denoise

    def _right_sample_xt(self, *args: Any, **kwargs: Any) -> Any:
        given = self._received("sample_xt", None, args, kwargs)
        x0, t = given["x0"], to_numpy(given["t"]).astype(int)
        bars = to_numpy(given["alpha_bars"])[t].reshape(-1, *[1] * (len(x0.shape) - 1))
        epsilon = given.get("epsilon")
        if epsilon is None:
            epsilon = np.random.standard_normal(x0.shape)
        noisy_images = np.sqrt(bars) * to_numpy(x0) + np.sqrt(1 - bars) * to_numpy(epsilon)
        return like(noisy_images, x0)

    def _right_sample(self, *args: Any, **kwargs: Any) -> Any:
        """Noise in the shape of the images that the student's function would generate."""
        given = self._received("sample", None, args, kwargs)
        classes = given.get("classes")
        number = int(given.get("n_samples", 1)) * (1 if classes is None else len(classes))
        shape = (number, 1, 16, 16) if self.library == "torch" else (number, 16, 16, 1)
        return tensor(np.random.default_rng(0).standard_normal(shape), self.library)

    def _received(
        self, gap: str, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        found = self.found.get(gap)
        if found is None or (found.owner is not None and instance is None):
            return {**dict(zip(ARGUMENTS[gap], args, strict=False)), **kwargs}
        function = found.function
        if found.owner is not None and hasattr(function, "__get__"):
            function = function.__get__(instance, type(instance))
        return received(function, gap, args, kwargs)


_NOTHING = object()


def _is_replaceable(value: Any) -> bool:
    """Whether a global value is missing, or a network of a library."""
    if value is None or inspect.isclass(value):
        return value is None
    libraries = {base.__module__.split(".")[0] for base in type(value).__mro__}
    return callable(value) and bool({"keras", "torch"} & libraries)


def _broadcastable(rates: Any, images: Any) -> np.ndarray:
    """Rates (B,) or (B, 1, 1, 1) as an array that multiplies images."""
    rates = to_numpy(rates).astype("float64")
    if rates.ndim == 1 and len(rates) == len(images):
        return rates.reshape(-1, *[1] * (len(images.shape) - 1))
    return rates


def _as_bool(value: Any) -> bool:
    return bool(to_numpy(value)) if value is not None else False


def _pair(result: Any) -> list[np.ndarray] | None:
    """The arrays in a function's result; None if it returned nothing."""
    if result is None:
        return None
    if isinstance(result, dict):
        result = list(result.values())
    if not isinstance(result, list | tuple):
        return [to_numpy(result)]
    return [to_numpy(value) for value in result if value is not None]


def _single(result: Any) -> np.ndarray | None:
    """The images in a sampler's result, which may be a pair or a list of all steps."""
    if result is None:
        return None
    if isinstance(result, tuple):
        result = result[0]
    if isinstance(result, list) and result:
        result = result[-1]
    return to_numpy(result)


# The lab.


def diffusion_schedule(laboratory: Laboratory, library: str) -> dict[str, Any]:
    """Rates at seven times, and on a fine grid."""
    network, ema_network = laboratory.probes("gaussian")
    with laboratory.ready("diffusion_schedule", library, network, ema_network) as function:
        seven, _ = _rates_at(function, TIMES, library)
        grid, laboratory.schedule_reshapes = _rates_at(function, GRID, library)
    return {"times": TIMES, "outputs": seven, "grid": grid}


def _rates_at(
    function: Callable[..., Any], times: np.ndarray, library: str
) -> tuple[list[np.ndarray] | None, bool]:
    """The rates at times (B, 1, 1, 1), or (B,) if the function reshapes them itself; whether so."""
    results: list[list[np.ndarray] | None] = []
    problems: list[Exception] = []
    for reshapes, shape in enumerate(((-1, 1, 1, 1), (-1,))):
        try:
            rates = _pair(function(times=tensor(times.reshape(shape), library)))
        except Exception as error:
            problems.append(error)
            continue
        if rates and all(rate.shape == (len(times), 1, 1, 1) for rate in rates):
            return rates, bool(reshapes)
        results.append(rates)
    if not results:
        raise problems[0]
    return results[0], False


def denoise(laboratory: Laboratory, library: str) -> dict[str, Any]:
    """Results for images with known noises and two exact denoisers, with `training` on and off."""
    shape = laboratory.images_shape(library)
    random = np.random.default_rng(1)
    mean, deviation = closed_forms.data_of(shape)
    images = mean + deviation * random.standard_normal(shape)
    noises = random.standard_normal(shape)
    times = np.array([0.1, 0.4, 0.7, 0.95]).reshape(-1, 1, 1, 1)
    noise_rates, signal_rates = closed_forms.rates(times)
    runs = []
    for denoiser in DENOISERS:
        clean = images if denoiser == "gaussian" else np.broadcast_to(mean, shape)
        noisy_images = signal_rates * clean + noise_rates * noises
        for training in (False, True):
            network, ema_network = laboratory.probes(denoiser)
            with laboratory.ready("denoise", library, network, ema_network) as function:
                outputs, calls = _denoise_once(
                    laboratory, function, (noisy_images, noise_rates, signal_rates), training
                )
            runs.append(
                {
                    "denoiser": denoiser,
                    "training": training,
                    "noisy_images": noisy_images,
                    "clean": clean,
                    "outputs": outputs,
                    "calls": calls,
                }
            )
    found = laboratory.found["denoise"]
    return {
        "runs": runs,
        "noise_rates": noise_rates,
        "signal_rates": signal_rates,
        "chooses": _chooses_network(laboratory, found),
    }


def _denoise_once(
    laboratory: Laboratory, function: Callable[..., Any], inputs: tuple, training: bool
) -> tuple[list[np.ndarray] | None, list[dict[str, Any]]]:
    """Calls `denoise` with rates (B, 1, 1, 1), or (B,) if it reshapes them itself."""
    noisy_images, *rates = inputs
    first: tuple | None = None
    problems: list[Exception] = []
    for shape in ((-1, 1, 1, 1), (-1,)):
        laboratory.recorder.take()
        try:
            noise_rates, signal_rates = (
                tensor(rate.reshape(shape), laboratory.library) for rate in rates
            )
            result = _pair(
                function(
                    noisy_images=tensor(noisy_images, laboratory.library),
                    noise_rates=noise_rates,
                    signal_rates=signal_rates,
                    training=training,
                )
            )
        except Exception as error:
            problems.append(error)
            continue
        outcome = result, laboratory.recorder.take()
        if result and all(output.shape == noisy_images.shape for output in result):
            return outcome
        first = first or outcome
    if first is None:
        raise problems[0]
    return first


def _chooses_network(laboratory: Laboratory, found: Found) -> bool:
    """Whether the function can choose between the trained network and its average."""
    function = found.function
    function = getattr(function, "__func__", getattr(function, "python_function", function))
    if not takes(function, "denoise", "training"):
        return False
    if found.owner is None:
        return takes(function, "denoise", "ema_network") or any(
            map(is_average_name, inspect.unwrap(function).__code__.co_names)
        )
    return _has_average(laboratory, found.owner)


def _has_average(laboratory: Laboratory, owner: type) -> bool:
    """Whether a class of the student has an averaged network: `self.ema_network`."""
    own = [base.__name__ for base in owner.__mro__ if base.__module__ == owner.__module__]
    sources = laboratory.namespace.get("__source__", {})
    return any(
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and is_average_name(node.attr)
        for name in own
        for node in ast.walk(ast.parse(sources.get(name, "")))
    )


def reverse_diffusion(laboratory: Laboratory, library: str) -> dict[str, Any]:
    """Sampling with exact denoisers, with correct other functions and with the student's own."""
    shape = laboratory.images_shape(library)
    noise = np.random.default_rng(2).standard_normal(shape)
    runs = []
    for isolated in (True, False):
        for denoiser, steps in (
            ("gaussian", 1),
            ("gaussian", 2),
            ("gaussian", 5),
            ("one_image", 3),
        ):
            network, ema_network = laboratory.probes(denoiser)
            run: dict[str, Any] = {"isolated": isolated, "denoiser": denoiser, "steps": steps}
            try:
                with laboratory.ready(
                    "reverse_diffusion", library, network, ema_network, isolated
                ) as function:
                    outputs = []
                    for seed in (0, 1):
                        seed_everything(seed)
                        laboratory.recorder.take()
                        result = function(
                            initial_noise=tensor(noise, library), diffusion_steps=steps
                        )
                        outputs.append(_single(result))
                        calls = laboratory.recorder.take()
                run.update(outputs=outputs, calls=calls)
            except Exception as error:
                if isolated and steps == 1 and library != "numpy" and not laboratory.recorder.calls:
                    raise  # perhaps of another library
                run["error"] = describe(error)
            runs.append(run)
    found = laboratory.found["reverse_diffusion"]
    if found.owner is None:
        has_average = takes(found.function, "reverse_diffusion", "ema_network")
    else:
        has_average = _has_average(laboratory, found.owner)
    return {
        "initial_noise": noise,
        "runs": runs,
        "measured": _measured_schedule(laboratory),
        "has_average": has_average,
    }


def _measured_schedule(laboratory: Laboratory) -> list[np.ndarray] | None:
    """The student's own schedule on the grid, for comparison with runs that use it."""
    if "diffusion_schedule" not in laboratory.found:
        return None
    for library in laboratory.libraries("diffusion_schedule"):
        try:
            return diffusion_schedule(laboratory, library)["grid"]
        except Exception:
            continue
    return None


def train_step(laboratory: Laboratory, library: str) -> dict[str, Any]:
    """Two steps of plain gradient descent on a network with four weights."""
    trained_with = "torch" if library == "torch" else "keras"
    is_on_jax = library == "jax" or os.environ.get("KERAS_BACKEND") == "jax"  # set by the child
    if library == "numpy" or (is_on_jax and library != "torch"):
        raise NotImplementedError("train_step is checked in Keras, TensorFlow and PyTorch, not JAX")
    namespace = laboratory.namespace
    batch = _small_number(namespace, ("batch_size", "BATCH_SIZE", "batchsize"), 16, 256)
    size = _small_number(namespace, ("image_size", "IMAGE_SIZE", "img_size", "IMG_SIZE"), 16, 128)
    shape = (batch, 3, size, size) if library == "torch" else (batch, size, size, 3)
    random = np.random.default_rng(3)
    steps = []
    network = trainable_network(trained_with, "network", FIRST_WEIGHTS, laboratory.recorder)
    average = trainable_network(trained_with, "ema_network", AVERAGE_WEIGHTS, laboratory.recorder)
    optimizer = _optimizer(trained_with, network)
    with laboratory.ready("train_step", library, network, average, isolated=True) as function:
        instance = laboratory.instance
        if instance is not None:
            loss = _mean_absolute_error(trained_with)
            if trained_with == "keras":
                _compile(instance, optimizer, loss)
            instance.__dict__.update(optimizer=optimizer, loss=loss)
            for name in ("noise_loss_tracker", "image_loss_tracker", "kid"):
                instance.__dict__.setdefault(name, Tracker(name))
        for step in range(2):
            images = random.uniform(0, 1, shape).astype("float32")
            before = weights_of(network), weights_of(average)
            _forget_gradients(network)
            seed_everything(step)
            laboratory.recorder.take()
            try:
                function(
                    images=tensor(images, library),
                    optimizer=optimizer,
                    loss_fn=_mean_absolute_error(trained_with),
                    ema_decay=0.999,
                )
            except Exception as error:
                # Of other weights than those in the loss; calls and weights reveal it.
                names = {call["network"] for call in laboratory.recorder.calls}
                if names != {"ema_network"} and "no grad" not in str(error).lower():
                    raise
            steps.append(
                {
                    "images": images,
                    "before": before,
                    "after": (weights_of(network), weights_of(average)),
                    "calls": laboratory.recorder.take(),
                }
            )
    owner = laboratory.found["train_step"].owner
    text = namespace.get("__source__", {}).get(owner.__name__, "") if owner else ""
    return {
        "steps": steps,
        "learning_rate": LEARNING_RATE,
        "has_normalizer": "normalizer" in text,
        "has_average": owner is not None and _has_average(laboratory, owner),
        "starting_weights": _same_start(laboratory),
        "copies_network": "clone_model" in text,
    }


def _compile(instance: Any, optimizer: Any, loss: Any) -> None:
    """For `self.compute_loss`; without the student's `compile`, which may download networks."""
    import keras

    if isinstance(instance, keras.Model):
        with contextlib.suppress(Exception):  # a student's class may be incomplete
            keras.Model.compile(instance, optimizer=optimizer, loss=loss)


def _forget_gradients(network: Any) -> None:
    """For a network that `self.zero_grad()` of a student's Keras model on PyTorch misses."""
    for weight in network.factors:
        value: Any = getattr(weight, "value", None)
        if hasattr(value, "grad"):
            value.grad = None


def _small_number(
    namespace: dict[str, Any], names: tuple[str, ...], otherwise: int, largest: int
) -> int:
    """A constant of the file, used in shapes by the student's code."""
    for name in names:
        value = namespace.get(name)
        if isinstance(value, int) and 1 < value <= largest:
            return value
    return otherwise


def _same_start(laboratory: Laboratory) -> bool | None:
    """Whether the average started from the network's weights; None if unknown."""
    if laboratory.weights is None:
        return None
    first, second = laboratory.weights
    if len(first) != len(second):
        return False
    return all(np.array_equal(*pair) for pair in zip(first, second, strict=True))


def _optimizer(trained_with: str, network: Any) -> Any:
    if trained_with == "torch":
        import torch

        return torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)
    import keras

    return keras.optimizers.SGD(LEARNING_RATE)


def _mean_absolute_error(trained_with: str) -> Callable[[Any, Any], Any]:
    if trained_with == "torch":
        import torch

        return torch.nn.L1Loss()
    import keras

    return keras.losses.MeanAbsoluteError()


# The exercise.


def sample_xt(laboratory: Laboratory, library: str) -> dict[str, Any]:
    """Noisy images for a batch of different steps, for a common step, and with drawn noises."""
    shape = (8, 1, 16, 16) if library == "torch" else (8, 16, 16, 1)
    random = np.random.default_rng(4)
    x0, epsilon = random.uniform(-1, 1, shape), random.standard_normal(shape)
    results: dict[str, Any] = {}
    network, average = laboratory.probes("gaussian")
    with laboratory.ready("sample_xt", library, network, average) as function:
        alpha_bars = _alpha_bars_in_use(laboratory)
        steps = np.array([3, 1, 7, 2, 5, 8, 4, 6]) * max(1, len(alpha_bars) // 10)
        cases: dict[str, tuple[Any, np.ndarray | None]] = {
            "batch": (steps, epsilon),
            "single": (4, epsilon),
            "drawn": (steps, None),
        }
        for name, (t, noise) in cases.items():
            if name == "single":
                given_t = t
            else:
                given_t = tensor(t.astype("int64" if library == "torch" else "int32"), library)
            try:
                result = function(
                    x0=tensor(x0, library),
                    t=given_t,
                    epsilon=None if noise is None else tensor(noise, library),
                    alpha_bars=tensor(alpha_bars, library),
                )
                results[name] = {"outputs": _pair(result)}
            except Exception as error:
                results[name] = {"error": describe(error)}
    if all("error" in results[name] for name in ("batch", "single")):
        raise ExperimentFailed(results["batch"]["error"])
    return {
        "x0": x0,
        "epsilon": epsilon,
        "alpha_bars": alpha_bars,
        "steps": steps,
        "results": results,
    }


def _alpha_bars_in_use(laboratory: Laboratory) -> np.ndarray:
    """Alpha-bar to pass to `sample_xt`; if it takes none, those of its object or of the file."""
    function = laboratory.found["sample_xt"].function
    otherwise = closed_forms.alpha_bars_of(DDPM_BETAS)
    if takes(getattr(function, "__func__", function), "sample_xt", "alpha_bars"):
        return otherwise
    betas = _betas_of(laboratory.instance, None)
    if betas is not None:
        return closed_forms.alpha_bars_of(betas)
    for name, value in laboratory.namespace.items():
        if hasattr(value, "shape") and number_of_ddpm(name) == "alpha_bars":
            bars = to_numpy(value).astype("float64").ravel()
            if len(bars) >= 10:
                return bars
    return otherwise


class ExperimentFailed(Exception):
    """The student's function failed however it was called."""


class StepNetwork(Probe):
    """Predicts the noise for clean images that are `closed_forms.step_images` of the step."""

    def __init__(self, alpha_bars: np.ndarray, recorder: Recorder) -> None:
        def predict(noisy_images: np.ndarray, condition: Any) -> np.ndarray:
            given = 0 if condition is None or not np.size(condition) else np.ravel(condition)[0]
            # A time in [0, 1] instead of a step becomes 0 or 1 here, and is found as a mistake.
            step = int(np.clip(np.round(given), 0, len(alpha_bars) - 1))
            clean = closed_forms.step_images(noisy_images.shape, step)
            bar = alpha_bars[step]
            return (noisy_images - np.sqrt(bar) * clean) / np.sqrt(1 - bar)

        super().__init__("network", predict, recorder)


def _make_ddpm(
    laboratory: Laboratory, library: str, network: Any, own: bool
) -> tuple[Any, np.ndarray]:
    """The `ddpm` for the student's functions, and its betas.

    Args:
        own: an object of the file's own class, instead of the stand-in.
    """
    if not own:
        return Ddpm(network, library), DDPM_BETAS
    namespace = laboratory.namespace
    classes = [
        value
        for name, value in namespace.items()
        if inspect.isclass(value)
        and value.__module__ == namespace["__name__"]
        and ("ddpm" in name.lower() or "diffusion" in name.lower())
    ]
    if not classes:
        raise ExperimentFailed("no class of a DDPM")
    instance, _ = make_instance(classes[-1], network, network, library, namespace)
    betas = _betas_of(instance, None)
    if betas is None:
        raise ExperimentFailed("the class has no betas")
    return instance, betas


def _betas_of(instance: Any, otherwise: Otherwise) -> np.ndarray | Otherwise:
    """The betas of an object of the student's class, if it has any."""
    attributes = getattr(instance, "__dict__", {})
    for name in ("betas", "beta"):
        if name in attributes or name in attributes.get("_buffers", {}):
            betas = to_numpy(getattr(instance, name)).astype("float64")
            if betas.ndim == 1 and 3 <= len(betas) <= 1000:
                return betas
    return otherwise


def _all_kinds(experiment: Callable[[bool, bool], dict[str, Any]]) -> dict[str, Any]:
    """Runs an experiment with the file's own class of a DDPM or a stand-in, isolated or not."""
    results = []
    first_error: Exception | None = None
    for own, isolated in itertools.product((True, False), (True, False)):
        try:
            results.append({"own_class": own, **experiment(own, isolated)})
        except Exception as error:
            if first_error is None or not isinstance(error, ExperimentFailed):
                first_error = error
    if not results and first_error is not None:
        raise first_error
    return {"runs": results}


def sample(laboratory: Laboratory, library: str) -> dict[str, Any]:
    """Sampling with a network that always predicts the same images, with and without classes."""
    found = laboratory.found["sample"]
    function = getattr(found.function, "__func__", found.function)
    takes_classes = takes(function, "sample", "classes")

    def run(own: bool, isolated: bool) -> dict[str, Any]:
        network = StepNetwork(closed_forms.alpha_bars_of(DDPM_BETAS), laboratory.recorder)
        if found.owner is None:
            ddpm, betas = _make_ddpm(laboratory, library, network, own)
        elif own:
            raise ExperimentFailed("a method is called on its own class")
        else:
            ddpm, betas = None, DDPM_BETAS
        network._predict = StepNetwork(closed_forms.alpha_bars_of(betas), Recorder())._predict
        network.relate(in_channels=1, channels=1, image_size=16, img_size=16, sample_size=16)
        results = {}
        cases: dict[str, dict[str, Any]] = {"plain": {"n_samples": 40}}
        if takes_classes:
            cases["classes"] = {"n_samples": 5, "classes": [2, 0, 3]}
        with laboratory.ready("sample", library, network, network, isolated) as function:
            if laboratory.instance is not None:
                betas = _betas_of(laboratory.instance, betas)
                predict = StepNetwork(closed_forms.alpha_bars_of(betas), Recorder())._predict
                network._predict = predict
            for name, values in cases.items():
                seed_everything(0)
                laboratory.recorder.take()
                result = function(ddpm=ddpm, **values)
                calls = laboratory.recorder.take()
                # For long chains, the ends are enough.
                kept = calls if len(calls) <= 40 else [*calls[:20], *calls[-20:]]
                results[name] = {
                    "output": _single(result),
                    "num_calls": len(calls),
                    "calls": kept,
                    **values,
                }
        return {"betas": betas, "cases": results}

    return {**_all_kinds(run), "global_betas": _global_betas(laboratory)}


def _global_betas(laboratory: Laboratory) -> dict[str, np.ndarray]:
    """Betas that are constants of the file, which the student may use instead of the ddpm's."""
    return {
        name: to_numpy(value)
        for name, value in laboratory.namespace.items()
        if plain(name) in ("betas", "beta", "bt") and hasattr(value, "shape")
    }


class Loader:
    """Two batches of images with labels, like a `DataLoader`."""

    def __init__(self, batches: list[tuple[Any, Any]]) -> None:
        self.batches = batches
        self.dataset = range(sum(len(images) for images, _ in batches))
        self.batch_size = len(batches[0][0])

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def train(laboratory: Laboratory, library: str, gap: str = "train") -> dict[str, Any]:
    """Two epochs of two batches, with plain gradient descent on a network with four weights."""
    if library not in ("torch", "keras", "tensorflow"):
        raise NotImplementedError("train is checked for PyTorch, Keras and TensorFlow")
    trained_with = "torch" if library == "torch" else "keras"
    shape = (64, 1, 16, 16) if library == "torch" else (64, 16, 16, 1)
    random = np.random.default_rng(5)
    data = [
        (random.uniform(-1, 1, shape).astype("float32"), random.integers(0, 4, 64))
        for _ in range(2)
    ]

    def run(own: bool, isolated: bool) -> dict[str, Any]:
        network = trainable_network(trained_with, "network", FIRST_WEIGHTS, laboratory.recorder)
        ddpm, betas = _make_ddpm(laboratory, library, network, own)
        history: list[np.ndarray] = []
        optimizer = _optimizer(trained_with, network)
        batches = [(tensor(images, library), tensor(labels, library)) for images, labels in data]
        laboratory.recorder.before_call = lambda: history.append(weights_of(network))
        try:
            with laboratory.ready(gap, library, network, network, isolated) as function:
                betas = _betas_of(laboratory.instance, betas)
                seed_everything(0)
                laboratory.recorder.take()
                loader = Loader(batches)
                function(ddpm=ddpm, loader=loader, n_epochs=2, optim=optimizer)
                calls = laboratory.recorder.take()
        finally:
            laboratory.recorder.before_call = lambda: None
        history.append(weights_of(network))
        return {"betas": betas, "calls": calls, "weights": history}

    return {
        **_all_kinds(run),
        "global_betas": _global_betas(laboratory),
        "learning_rate": LEARNING_RATE,
        "images": [images for images, _ in data],
        "labels": [labels for _, labels in data],
    }


def train_classconditional(laboratory: Laboratory, library: str) -> dict[str, Any]:
    """As `train`."""
    return train(laboratory, library, "train_classconditional")


EXPERIMENTS = {
    experiment.__name__: experiment
    for experiment in (
        diffusion_schedule,
        denoise,
        reverse_diffusion,
        train_step,
        sample_xt,
        sample,
        train,
        train_classconditional,
    )
}
