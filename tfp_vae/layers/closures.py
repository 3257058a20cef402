"""Finds the variables and layers that a user's function reads from outside."""

import contextlib
import dis
import functools
import inspect
import types
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.keras_internals import nested_layers

tfd = tfp.distributions
tfb = tfp.bijectors

_KINDS = (
    keras.Variable | keras.layers.Layer | tf.Variable | tfd.Distribution | tfb.Bijector
)
# Functions of these read no variables of the user.
_LIBRARIES = {
    "keras",
    "numpy",
    "scipy",
    "tensorflow",
    "tensorflow_probability",
}


def trained_through(layer: keras.layers.Layer, *functions: Any) -> list[Any]:
    """Variables and layers that functions of a layer read, for Keras to train and save.

    They are looked for in closures, globals, defaults, arguments of
    `functools.partial`, and attributes of objects, as far as the code names them.

    Args:
        layer: The layer that calls the functions. Layers that contain it, such as the
            `self` of a model, are left out: they train what they have.
        *functions: Functions, or other callables.

    Returns:
        Keras variables and layers.

    Raises:
        ValueError: If a function reads a trainable `tf.Variable`, or a distribution or
            bijector that was made of variables before the call.

    Example:
        >>> scale = keras.Variable(1.0)
        >>> layer = tv.DistributionLambda(lambda loc: tfd.Normal(loc, scale))
        >>> trained_through(layer, layer.make_distribution_fn) == [scale]
        True
    """
    found = {id(part): part for fn in functions for part in _read_by(fn, set(), set())}
    kept = []
    for part in found.values():
        if isinstance(part, keras.Variable):
            kept.append(part)
        elif isinstance(part, keras.layers.Layer):
            if all(inner is not layer for inner in nested_layers(part)):
                kept.append(part)
        else:
            _refuse(part, layer)
    return kept


def _refuse(part: Any, layer: keras.layers.Layer) -> None:
    """Raises an error for what Keras cannot train."""
    if isinstance(part, tf.Variable):
        lost = [part] if part.trainable else []
    else:
        values = tf.nest.flatten(dict(getattr(part, "parameters", {})))
        lost = [v for v in values if isinstance(v, keras.Variable)]
        lost += part.trainable_variables
    if lost:
        raise ValueError(
            f"{layer.name!r} expects a function that reads variables which Keras can "
            f"train. Received: a function that reads {type(part).__name__}, with the "
            f"variable {lost[0]!r:.80}, which would stay as it is. Make it a "
            "`keras.Variable`, and make distributions and bijectors of it inside of "
            "the function."
        )


def _read_by(part: Any, names: set[str], seen: set[int]) -> Iterator[Any]:
    """Yields the variables, layers, distributions and bijectors that code reads.

    Args:
        part: A function, or what one reads.
        names: The names that the code has; of an object it reads attributes of these.
        seen: Identities of the parts that were looked at.
    """
    if isinstance(part, _KINDS):
        yield part
        return
    library = str(getattr(part, "__module__", "")).partition(".")[0] in _LIBRARIES
    if library or id(part) in seen:
        return
    seen.add(id(part))
    inner: Any = []
    if isinstance(part, dict):
        inner = part.values()
    elif isinstance(part, list | tuple):
        inner = part
    elif isinstance(part, functools.partial):
        inner = [part.func, *part.args, *part.keywords.values()]
    elif inspect.ismethod(part):
        names = names | _names(part.__func__.__code__)
        inner = [part.__func__, part.__self__]
    elif inspect.isfunction(part):
        names = names | _names(part.__code__)
        inner = _outside(part)
    elif not (inspect.isclass(part) or inspect.ismodule(part)):
        call = inspect.getattr_static(type(part), "__call__", None)
        if inspect.isfunction(call):
            names = names | _names(call.__code__)
            inner = _outside(call)
        own = getattr(part, "__dict__", {})
        inner = [*inner, *(value for name, value in own.items() if name in names)]
    for each in inner:
        yield from _read_by(each, names, seen)


def _outside(fn: types.FunctionType) -> list[Any]:
    """What a function has from outside: a closure, globals and defaults."""
    found = [*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()]
    for cell in fn.__closure__ or ():
        with contextlib.suppress(ValueError):  # not assigned yet
            found.append(cell.cell_contents)
    return [*found, *(fn.__globals__.get(name) for name in _globals(fn.__code__))]


def _names(code: types.CodeType) -> set[str]:
    """The names in code, of attributes too, and in functions inside it."""
    inner = (part for part in code.co_consts if inspect.iscode(part))
    return set(code.co_names).union(*map(_names, inner))


def _globals(code: types.CodeType) -> set[str]:
    """The names of globals that code reads, and functions inside it."""
    inner = (part for part in code.co_consts if inspect.iscode(part))
    own = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    return own.union(*map(_globals, inner))
