"""Tensors of the student's library: detection, and conversion from and to NumPy."""

import inspect
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

LIBRARIES = ("torch", "tensorflow", "keras", "jax", "numpy")


def to_numpy(value: Any) -> np.ndarray:
    """A tensor of any library, a variable, a number or a list, as an array."""
    if hasattr(value, "detach"):  # torch
        return value.detach().cpu().numpy()
    if hasattr(value, "numpy") and callable(value.numpy):  # an eager tensor of TensorFlow
        return np.asarray(value.numpy())
    if hasattr(value, "value") and type(value).__module__.startswith("keras"):  # a Keras variable
        inner = value.value
        return to_numpy(inner() if callable(inner) else inner)
    if isinstance(value, list | tuple):
        return np.asarray([to_numpy(item) for item in value])
    return np.asarray(value)


def tensor(array: Any, library: str) -> Any:
    """An array as a tensor of a library; floats become float32."""
    array = np.asarray(array)
    if array.dtype == np.float64:
        array = array.astype("float32")
    if library == "torch":
        import torch

        return torch.from_numpy(np.array(array))
    if library == "tensorflow":
        import tensorflow as tf

        return tf.constant(array)
    if library == "keras":
        import keras

        return keras.ops.convert_to_tensor(array)
    if library == "jax":
        import jax.numpy as jnp

        return jnp.asarray(array)
    return array


def library_of(value: Any) -> str:
    """The library of a tensor."""
    root = type(value).__module__.split(".")[0]
    if root in ("jax", "jaxlib"):
        return "jax"
    return root if root in ("torch", "tensorflow", "keras") else "numpy"


def like(array: np.ndarray, example: Any) -> Any:
    """An array as a tensor with the library and dtype of an example."""
    library = library_of(example)
    result = tensor(array, library)
    if library == "torch":
        return result.to(example.dtype) if example.dtype.is_floating_point else result
    if library == "numpy":
        dtype = getattr(example, "dtype", np.float32)
        return result.astype(dtype) if np.issubdtype(dtype, np.floating) else result
    return result


def libraries_of(functions: Iterable[Any], namespace: dict[str, Any]) -> list[str]:
    """The libraries whose tensors functions may expect, likeliest first.

    Args:
        functions: functions and classes of the student.
        namespace: namespace of the student's file.
    """
    used = {name for function in functions for name in _names_used(function, namespace, set())}
    roots = [_root(namespace.get(name)) for name in used]
    roots += [_root(base) for cls in functions if inspect.isclass(cls) for base in cls.__mro__]
    imported = [_root(value) for value in namespace.values() if not inspect.isclass(value)]
    found = [library for library in LIBRARIES if library in roots]
    found += [library for library in LIBRARIES if library in imported and library not in found]
    if not {"keras", "tensorflow"}.isdisjoint(found) and "torch" in sys.modules:
        found += ["torch"] if "torch" not in found else []
    return [*found, *({"numpy"} - set(found))]


def _root(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        name = value.__name__
    else:
        name = getattr(value, "__module__", None) or ""
    root = str(name).split(".")[0]
    return {"jaxlib": "jax", "flax": "jax", "optax": "jax"}.get(root, root)


def _names_used(function: Any, namespace: dict[str, Any], seen: set[str]) -> set[str]:
    """The global names in a function or class, and in the student's functions that it calls."""
    names: set[str] = set()
    for code in codes_of(function):
        for name in code.co_names:
            if name in namespace and name not in seen:
                seen.add(name)
                names.add(name)
                names |= _names_used(namespace[name], namespace, seen)
    return names


def codes_of(function: Any) -> list[types.CodeType]:
    """The code of a function and of the functions in it, or of all methods of a class."""
    if inspect.isclass(function):
        members = [inspect.unwrap(member) for member in vars(function).values() if callable(member)]
        return [code for member in members for code in codes_of(member)]
    function = _undecorated(function)
    if not isinstance(function, types.FunctionType):
        return []
    waiting, codes = [function.__code__], []
    while waiting:
        code = waiting.pop()
        codes.append(code)
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return codes


def _undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function wrapped by `tf.function`, `jax.jit` or `functools.wraps`."""
    function = getattr(function, "python_function", function)
    function = getattr(function, "__func__", function)
    return inspect.unwrap(function) if callable(function) else function


def seed_everything(seed: int) -> None:
    """Sets the random state of every library that is loaded."""
    import random

    random.seed(seed)
    np.random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(seed)
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(seed)


def without_compilation() -> None:
    """Makes `tf.function` and `jax.jit` run as plain Python, so that calls can be recorded."""
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].config.run_functions_eagerly(True)
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_disable_jit", True)
