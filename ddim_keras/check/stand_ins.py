"""Stand-ins for networks, models, optimizers and data in a student's code.

The networks are formulas that record each call. They accept various attribute names:
`self.network`, `self.unet`, `ddpm.alphaBars`, `ddpm.alphas_cumprod`.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ddim_keras.check.closed_forms import (
    MAX_SIGNAL_RATE,
    MIN_SIGNAL_RATE,
    alpha_bars_of,
    posterior_variances,
)
from ddim_keras.check.source import describe, plain
from ddim_keras.check.tensors import like, tensor, to_numpy

# "ema" as a word, as in `ema_network`, `emanet`, `modelEma`, but not as in "remaining" or "schema".
AVERAGE = re.compile(
    r"(?i:(?<![a-z])ema|(?<!sch)ema(?![a-z])|average|avg|shadow|teacher|target)"
    r"|(?<=[a-z])E(?:ma|MA)(?![a-z])"
)
NETWORK = re.compile(r"network|unet|model|^net$|_net$|denoiser|backbone|^eps|predictor", re.I)
NOT_NETWORK = re.compile(
    r"decay|rate|momentum|name|dir|path|config|num|loss|fn$|beta|step|pool", re.I
)
PIXEL_MEAN, PIXEL_STD = 0.4, 0.2  # of the images of a stand-in normaliser

DDPM_STEPS = 10
DDPM_BETAS = np.linspace(0.03, 0.25, DDPM_STEPS)
# Plain names of the number of steps, and of the noise predictor.
STEP_NAMES = "nsteps t nt timesteps numtimesteps steps numsteps tmax maxt ntimesteps ndiffusion "
STEP_NAMES += (
    "diffusionsteps noisesteps numdiffusionsteps timestepsnum numdiffusiontimesteps maxsteps"
)
PREDICTS = "network model unet net backward reverse predict predictnoise epsmodel denoise eps"
PREDICTS += " noisepredictor denoiser reverseprocess forward predictepsilon epsilontheta unet2d"
PREDICTS += " epstheta backwardprocessmodel noisemodel p noisepred"


class UnknownAttribute(AttributeError):
    """A stand-in has no attribute for an unknown name."""


class Recorder:
    """The calls of the networks, in order.

    Attributes:
        calls: the arguments and the result of each call.
        before_call: called before a call is recorded; by default it does nothing.
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.before_call: Callable[[], None] = lambda: None

    def add(self, **call: Any) -> None:
        self.before_call()
        self.calls.append(call)

    def take(self) -> list[dict[str, Any]]:
        """Returns the calls so far, and starts a new recording."""
        calls, self.calls = self.calls, []
        return calls


class Probe:
    """A network that is a formula: it predicts the noise from the noisy images and a condition.

    Args:
        name: "network" or "ema_network".
        predict: maps arrays of noisy images and of the condition to the predicted noises.
        recorder: records each call.
    """

    def __init__(
        self, name: str, predict: Callable[[np.ndarray, Any], np.ndarray], recorder: Recorder
    ) -> None:
        self._name, self._predict, self._recorder = name, predict, recorder
        self._relatives: dict[str, Any] = {}
        self.training, self.trainable = False, True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        images, condition, labels = split_inputs(args, kwargs)
        noisy_images = to_numpy(images).astype("float64")
        pred_noises = self._predict(noisy_images, condition).astype("float32")
        self._recorder.add(
            network=self._name,
            noisy_images=noisy_images.astype("float32"),
            condition=condition,
            labels=labels,
            pred_noises=pred_noises,
            training=bool(kwargs.get("training", kwargs.get("train", False))),
        )
        return like(pred_noises, images)

    forward = predict = apply = predict_on_batch = __call__

    def __deepcopy__(self, memo: Any) -> "Probe":
        return self  # one recorder knows all calls

    def relate(self, **relatives: Any) -> None:
        """Other stand-ins available as attributes of this one."""
        self._relatives.update(relatives)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") or attribute in ("_relatives", "_name"):
            raise AttributeError(attribute)
        if attribute in self._relatives:
            return self._relatives[attribute]
        if attribute in (
            "eval",
            "train",
            "to",
            "cpu",
            "cuda",
            "requires_grad_",
            "float",
            "compile",
        ):
            return lambda *args, **kwargs: self
        if attribute == "parameters":
            return lambda *args, **kwargs: iter([tensor(np.zeros(1), "torch")])
        if attribute in ("buffers", "modules"):
            return lambda *args, **kwargs: iter(())
        if attribute in ("weights", "trainable_weights", "variables", "trainable_variables"):
            return []
        if attribute == "device":
            return "cpu"
        if is_average_name(attribute) and "ema_network" in self._relatives:
            return self._relatives["ema_network"]
        if is_network_name(attribute) or attribute == "module":
            return self
        raise AttributeError(attribute)


def is_network_name(name: str) -> bool:
    """Whether an attribute is named like a network."""
    return bool(NETWORK.search(name)) and not NOT_NETWORK.search(name)


def is_average_name(name: str) -> bool:
    """Whether an attribute is named like the averaged network."""
    return bool(AVERAGE.search(name)) and not NOT_NETWORK.search(name)


def split_inputs(args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The images, the condition and the labels with which a network was called.

    Returns:
        The tensor of images, and arrays (or None) of its noise level or step, and of classes.
    """
    waiting, values = [*args, *kwargs.values()], []
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, list | tuple):
            waiting = [*value, *waiting]
        elif isinstance(value, dict):
            waiting = [*value.values(), *waiting]
        elif value is not None and not isinstance(value, bool | str):
            values.append(value)
    images = max(values, key=lambda value: len(getattr(value, "shape", ())), default=None)
    if images is None or len(images.shape) < 3:
        raise TypeError("the network was called without images of shape (B, ...)")
    # Copies: a loop may change the tensor of its steps in place.
    others = [np.array(to_numpy(value)) for value in values if value is not images]
    others = [other for other in others if other.dtype.kind in "fiub"]
    return images, *[*others, None, None][:2]


class Normalizer:
    """A normaliser that has seen images of a fixed mean and standard deviation."""

    mean, variance = PIXEL_MEAN, PIXEL_STD**2

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        return (images - PIXEL_MEAN) / PIXEL_STD

    def adapt(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: it is adapted."""

    build = adapt


class Tracker:
    """A metric that ignores its losses."""

    def __init__(self, name: str) -> None:
        self.name = name

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing."""

    def result(self) -> float:
        return 0.0

    def reset_state(self) -> None:
        """Does nothing."""

    __call__ = update_state
    reset_states = reset_state


def attribute_of_model(name: str, network: Any, ema_network: Any) -> Any:
    """A stand-in for a missing attribute of the student's model, chosen by name.

    Raises:
        AttributeError: if the name is unknown.
    """
    known = {
        "maxsignalrate": MAX_SIGNAL_RATE,
        "minsignalrate": MIN_SIGNAL_RATE,
        "ema": 0.999,
        "emadecay": 0.999,
        "device": "cpu",
        "batchsize": 16,
        "imagesize": 16,
        "seedgenerator": None,
    }
    if plain(name) in known:
        return known[plain(name)]
    if is_average_name(name):
        return ema_network
    if is_network_name(name):
        return network
    if "normali" in name.lower():
        return Normalizer()
    if re.search(r"tracker|metric|loss|kid", name, re.I):
        return Tracker(name)
    raise AttributeError(name)


def constructor_arguments(cls: type, network: Any, ema_network: Any, library: str) -> dict:
    """Small values for the parameters of a constructor, by their names."""
    known: dict[str, Any] = {
        "imagesize": 16,
        "imgsize": 16,
        "widths": [8, 8],
        "blockdepth": 1,
        "depth": 1,
        "nsteps": DDPM_STEPS,
        "numsteps": DDPM_STEPS,
        "timesteps": DDPM_STEPS,
        "numtimesteps": DDPM_STEPS,
        "noisesteps": DDPM_STEPS,
        "t": DDPM_STEPS,
        "minbeta": float(DDPM_BETAS[0]),
        "betastart": float(DDPM_BETAS[0]),
        "beta1": float(DDPM_BETAS[0]),
        "maxbeta": float(DDPM_BETAS[-1]),
        "betaend": float(DDPM_BETAS[-1]),
        "betat": float(DDPM_BETAS[-1]),
        "betas": tensor(DDPM_BETAS, library),
        "imagechw": (1, 16, 16),
        "device": "cpu",
        "numclasses": 4,
        "nclasses": 4,
        "batchsize": 16,
        "ema": 0.999,
        "maxsignalrate": MAX_SIGNAL_RATE,
        "minsignalrate": MIN_SIGNAL_RATE,
        "channels": 3,
        "inchannels": 3,
        "normalizer": Normalizer(),
    }
    arguments = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        is_needed = parameter.default is parameter.empty
        # A thousand steps would take long; other defaults are the student's choice.
        if is_needed or known.get(plain(name)) == DDPM_STEPS or "beta" in name:
            if is_average_name(name):
                arguments[name] = ema_network
            elif is_network_name(name):
                arguments[name] = network
            elif plain(name) in known:
                arguments[name] = known[plain(name)]
            elif is_needed:
                raise TypeError(f"unknown parameter {name!r}")
    return arguments


def make_instance(
    cls: type, network: Any, ema_network: Any, library: str, namespace: dict[str, Any]
) -> tuple[Any, Any]:
    """An object of the student's class, with stand-ins as networks.

    The constructor is called with small values. If that fails, the object is created without it,
    and gets the attributes that single lines of the constructor can set.

    Returns:
        The object, and the initial weights of its own two networks, or None.
    """
    known: dict[str, Any] = {"constructed": False}
    own: dict[str, Any] = {"__getattr__": _fallback(cls, network, ema_network, known)}
    if hasattr(cls, "trainable_weights") and hasattr(network, "factors"):
        # Of a Keras model, which has tracked the networks of its constructor.
        weights_property = property(lambda self: network.trainable_weights)
        own |= {"trainable_weights": weights_property, "trainable_variables": weights_property}
    if "__call__" not in vars(cls) and not _mentions_network(cls):
        own["__call__"] = lambda self, *args, **kwargs: network(*args, **kwargs)
    probed = type(cls.__name__, (cls,), own)
    weights = None
    try:
        networks = small_networks(library) or (network, ema_network)
        instance = probed(**constructor_arguments(cls, *networks, library))
        known["constructed"] = True
        weights = _starting_weights(instance)
    except Exception as error:
        known["problem"] = describe(error)
        try:
            instance = object.__new__(type(cls.__name__, (_members(cls),), own))
        except TypeError:
            instance = object.__new__(type(cls.__name__, (), {**_all_members(cls), **own}))
        _set_constants(instance, cls, namespace)
    attributes = {**vars(instance), **vars(instance).get("_modules", {})}
    methods = {name for name, value in _all_members(cls).items() if callable(value)}
    attributes.update(dict.fromkeys(filter(is_network_name, methods), callable))
    for name, value in attributes.items():
        if name.startswith("_") or isinstance(value, bool | int | float | str | list):
            continue
        if is_average_name(name):
            instance.__dict__[name] = ema_network
        elif is_network_name(name) and (callable(value) or value is None):
            instance.__dict__[name] = network
        elif "normali" in name.lower() and callable(value) and name not in methods:
            instance.__dict__[name] = Normalizer()
    if not any(instance.__dict__.get(name) is network for name in attributes):
        # No known name: a model of a library is the network.
        for name, value in attributes.items():
            libraries = {base.__module__.split(".")[0] for base in type(value).__mro__}
            is_average = instance.__dict__.get(name) is ema_network
            if {"keras", "torch"} & libraries and callable(value) and not is_average:
                instance.__dict__[name] = network
    return instance, weights


def small_networks(library: str) -> tuple[Any, Any] | None:
    """Two small networks of a library with the same weights, for constructors; or None.

    A constructor that takes both is not responsible for different weights.
    """
    if library == "torch":
        import torch

        network, average = torch.nn.Conv2d(3, 3, 1), torch.nn.Conv2d(3, 3, 1)
        average.load_state_dict(network.state_dict())
        return network, average
    if library in ("keras", "tensorflow"):
        import keras

        def build() -> Any:
            inputs = [keras.Input((16, 16, 3)), keras.Input((1, 1, 1))]
            return keras.Model(inputs, keras.layers.Conv2D(3, 1)(inputs[0]))

        network, average = build(), build()
        average.set_weights(network.get_weights())
        return network, average
    return None


class _Plain:
    """Base class of objects created without their constructor."""


def _members(cls: type) -> type:
    return type(cls.__name__, (_Plain,), _all_members(cls))


def _all_members(cls: type) -> dict[str, Any]:
    """The methods and constants of a class and of the student's base classes."""
    members: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ == cls.__module__:
            members.update(vars(base))
    hidden = ("__dict__", "__weakref__", "__init__", "__new__", "__call__")
    return {name: value for name, value in members.items() if name not in hidden}


def _mentions_network(cls: type) -> bool:
    for function in vars(cls).values():
        code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
        if code and any(is_network_name(name) for name in code.co_names):
            return True
    return False


def _fallback(
    cls: type, network: Any, ema_network: Any, known: dict[str, Any]
) -> Callable[[Any, str], Any]:
    """A `__getattr__` that looks in the class, and then chooses by name.

    Args:
        known: whether the object was "constructed", when a missing attribute is the student's
            mistake; if not, the "problem".
    """

    def find(self: Any, name: str) -> Any:
        inherited = getattr(cls, "__getattr__", None)
        if inherited is not None:
            try:
                return inherited(self, name)
            except AttributeError:
                pass
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return attribute_of_model(name, network, ema_network)
        except AttributeError:
            if known["constructed"]:
                raise
            problem = f" ({known['problem']})" if "problem" in known else ""
            raise UnknownAttribute(
                f"the constructor of {cls.__name__} could not be run{problem}, and self.{name} is "
                "unknown"
            ) from None

    return find


def _starting_weights(instance: Any) -> tuple[list, list] | None:
    pair = []
    for wanted in ("network", "ema_network"):
        network = getattr(instance, wanted, None)
        weights = getattr(network, "weights", None)
        if not weights:
            return None
        pair.append([to_numpy(weight) for weight in weights])
    first, second = pair
    return first, second


def _set_constants(instance: Any, cls: type, namespace: dict[str, Any]) -> None:
    """Executes each assignment to `self` in a constructor separately; skips those that fail."""
    try:
        tree = ast.parse(textwrap.dedent(class_source(cls, namespace))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return
    for function in getattr(tree, "body", []):
        if not (isinstance(function, ast.FunctionDef) and function.name == "__init__"):
            continue
        values = {**namespace, "self": instance}
        defaults = function.args.defaults
        for argument, default in zip(
            function.args.args[len(function.args.args) - len(defaults) :], defaults, strict=True
        ):
            values[argument.arg] = eval(ast.unparse(default), namespace)
        for statement in function.body:
            try:
                exec(ast.unparse(statement), values)
            except Exception:
                continue


def class_source(cls: type, namespace: dict[str, Any]) -> str:
    """The source of a class in the student's file, which `inspect` finds only by its path."""
    source = namespace.get("__source__", {}).get(cls.__name__)
    if source is None:
        raise OSError(cls.__name__)
    return source


class Ddpm:
    """The `ddpm` of the exercise: betas, and a network; the names of its attributes are guessed.

    Args:
        network: predicts noises, called as `network(noisy_images, steps[, classes])`.
        library: of its tensors.
    """

    def __init__(self, network: Any, library: str) -> None:
        self._network, self._library = network, library
        alphas, bars = 1 - DDPM_BETAS, alpha_bars_of(DDPM_BETAS)
        self._numbers = {
            "betas": DDPM_BETAS,
            "alphas": alphas,
            "alpha_bars": bars,
            "sqrt_alphas": np.sqrt(alphas),
            "sqrt_alpha_bars": np.sqrt(bars),
            "sqrt_one_minus": np.sqrt(1 - bars),
            "posterior": posterior_variances(DDPM_BETAS),
            "sqrt_betas": np.sqrt(DDPM_BETAS),
            "one_minus": 1 - bars,
            "previous": np.array([1.0, *bars[:-1]]),
            "sqrt_previous": np.sqrt([1.0, *bars[:-1]]),
        }
        self.training = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`ddpm(x0, t, noise)` is the forward process, `ddpm(x, t[, y])` the prediction."""
        values = [*args, *kwargs.values()]
        shapes = [tuple(getattr(value, "shape", ())) for value in values]
        if len(values) >= 3 and shapes[0] == shapes[2]:
            x0, t, noise = (to_numpy(value) for value in values[:3])
            bars = self._numbers["alpha_bars"][t].reshape(-1, *[1] * (x0.ndim - 1))
            return like(np.sqrt(bars) * x0 + np.sqrt(1 - bars) * noise, values[0])
        return self._network(*args, **kwargs)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        name = plain(attribute)
        if name in STEP_NAMES.split():
            return DDPM_STEPS
        key = number_of_ddpm(attribute)
        if key:
            return tensor(self._numbers[key], self._library)
        if name == "forward":
            return self.__call__
        if name in PREDICTS.split() or is_network_name(attribute):
            return self._network
        if name in ("eval", "train", "to", "cpu", "cuda", "zerograd", "float"):
            return lambda *args, **kwargs: self
        if name == "device":
            return "cpu"
        shape = (1, 16, 16) if self._library == "torch" or "chw" in name else (16, 16, 1)
        if name in ("imagechw", "imageshape", "imgshape", "inputshape", "shape", "samplesize"):
            return shape
        if name in ("imagesize", "imgsize", "size", "height", "width", "h", "w", "resolution"):
            return 16
        if name in ("channels", "inchannels", "nchannels", "numchannels", "c", "imagechannels"):
            return 1
        if name in ("nclasses", "numclasses"):
            return 4
        try:
            return getattr(self._network, attribute)
        except AttributeError:
            raise UnknownAttribute(
                f"the stand-in for ddpm has no attribute {attribute!r}"
            ) from None


def number_of_ddpm(attribute: str) -> str | None:
    """The array of a DDPM for an attribute name: `alphas_cumprod`, `sqrt_one_minus_ab`."""
    name = attribute.lower()
    is_bar = bool(re.search(r"bar|cumprod|hat|cum", name))
    if "posterior" in name or "tilde" in name:
        return "posterior" if "mean" not in name and "log" not in name else None
    if "recip" in name or "log" in name:
        return None
    if re.search(r"one_?minus|1_?m|minus_?one", name):
        return "sqrt_one_minus" if re.search(r"sqrt|root", name) else "one_minus"
    if re.search(r"alpha|^a_", name):
        key = ("previous" if "prev" in name else "alpha_bars") if is_bar else "alphas"
        return f"sqrt_{key}" if re.search(r"sqrt|root", name) else key
    if "beta" in name:
        return "sqrt_betas" if re.search(r"sqrt|root", name) else "betas"
    return "sqrt_betas" if name in ("sigmas", "sigma") else None


def trainable_network(library: str, name: str, weights: Sequence[float], recorder: Recorder) -> Any:
    """A network that is the sum of `closed_forms.features`, each with a weight.

    Args:
        library: "torch", or "keras" with any backend.
        name: passed to the recorder with each call.
    """
    builder = _torch_network if library == "torch" else _keras_network
    return builder(name, weights, recorder)


def _record(recorder: Recorder, name: str, args: Any, kwargs: dict, result: Any) -> None:
    images, condition, labels = split_inputs(args, kwargs)
    recorder.add(
        network=name,
        noisy_images=to_numpy(images).astype("float32"),
        condition=condition,
        labels=labels,
        pred_noises=to_numpy(result).astype("float32"),
        training=bool(kwargs.get("training", False)),
    )


def _torch_network(name: str, weights: Sequence[float], recorder: Recorder) -> Any:
    import torch

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factors = torch.nn.ParameterList(map(torch.tensor, weights))

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            images, _, _ = split_inputs(args, kwargs)
            features = (images, 1.0, torch.sin(3.0 * images), torch.abs(images))
            result = sum(f * feature for f, feature in zip(self.factors, features, strict=True))
            _record(recorder, name, args, kwargs, result)
            return result

    return Sum()


def _keras_network(name: str, weights: Sequence[float], recorder: Recorder) -> Any:
    import keras

    class Sum(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.factors = [
                self.add_weight(shape=(), initializer=keras.initializers.Constant(weight))
                for weight in weights
            ]
            self.built = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            # Not through Keras, which would require one signature.
            images, _, _ = split_inputs(args, kwargs)
            features = (images, 1.0, keras.ops.sin(3.0 * images), keras.ops.abs(images))
            result = sum(f * feature for f, feature in zip(self.factors, features, strict=True))
            _record(recorder, name, args, kwargs, result)
            return result

    return Sum()


def weights_of(network: Any) -> np.ndarray:
    """The weights of a trainable network."""
    return np.array([float(to_numpy(factor)) for factor in network.factors])
