"""Finds the variables and layers that a user's function reads from outside."""

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.keras_internals import nested_layers

tfd = tfp.distributions
tfb = tfp.bijectors


def trained_through(layer: keras.layers.Layer, *functions: Any) -> list[Any]:
    """Variables and layers that functions of a layer read, for Keras to train and save.

    They are looked for in closures, defaults, arguments of `functools.partial`,
    attributes of callable objects and globals that the functions name.

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
    found = {id(part): part for fn in functions for part in _read_by(fn, set())}
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


def _read_by(fn: Any, seen: set[int]) -> Iterator[Any]:
    """Yields the variables, layers, distributions and bijectors that `fn` reads."""
    if id(fn) in seen:
        return
    seen.add(id(fn))
    kinds = keras.Variable | keras.layers.Layer | tf.Variable
    for part in keras.tree.flatten(_outside(fn)):
        if isinstance(part, kinds | tfd.Distribution | tfb.Bijector):
            yield part
        elif isinstance(part, functools.partial) or _of_the_user(part, fn):
            yield from _read_by(part, seen)


def _outside(fn: Any) -> list[Any]:
    """What a callable has besides its arguments."""
    if isinstance(fn, functools.partial):
        return [fn.func, list(fn.args), dict(fn.keywords)]
    if inspect.ismethod(fn):
        return [fn.__self__, *_outside(fn.__func__)]
    if inspect.isfunction(fn):
        named = inspect.getclosurevars(fn)
        given = [*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()]
        return [*named.nonlocals.values(), *named.globals.values(), *given]
    return list(getattr(fn, "__dict__", {}).values())


def _of_the_user(part: Any, fn: Any) -> bool:
    """Whether a callable, or an object, is of the module in which `fn` was written."""
    if inspect.isclass(part) or inspect.ismodule(part):
        return False
    module = getattr(fn, "__module__", None)
    return module is not None and module == getattr(part, "__module__", None)
