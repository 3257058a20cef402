"""One draw of the weights in a forward pass, or in several."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfp_vae.draws import fold_in
from tfp_vae.keras_internals import held_in_this_call, nested_layers

_FIXED: Any = contextvars.ContextVar("tfp_vae_weights_drawn_with", default=None)
_WEIGHTS = -1  # A number that no draw has.


@contextlib.contextmanager
def weights_drawn_with(seed: Any) -> Iterator[None]:
    """Context in which random weights are drawn from a seed, in every call alike.

    Layers use the seed in place of their own generators. So calls on several parts of
    the data see one draw of the weights. Layers that otherwise draw for each example
    draw their weights once.

    Args:
        seed: Two integers.

    Example:
        >>> layer = tv.DenseReparameterization(1)
        >>> x = tf.ones([1, 3])
        >>> with weights_drawn_with((1, 2)):
        ...     bool(layer(x) == layer(x))
        True
    """
    # Without this the first layer would draw with a seed that callers use for latents.
    seed = fold_in(tf.cast(seed, tf.int32), _WEIGHTS)
    token = _FIXED.set((seed, {}))
    try:
        yield
    finally:
        _FIXED.reset(token)


def weights_are_fixed() -> bool:
    """Whether the call is inside `weights_drawn_with`.

    Returns:
        True there, False elsewhere.

    Example:
        >>> weights_are_fixed()
        False
    """
    return _FIXED.get() is not None


def seed_of(layer: Any, seeds: Any, name: str) -> tf.Tensor:
    """The seed of a layer's next draw.

    Args:
        layer: The layer.
        seeds: Its `Seeds`.
        name: Name of what is drawn; other names have other seeds.

    Returns:
        Two integers.

    Example:
        >>> from tfp_vae.seeds import Seeds
        >>> seed_of(keras.layers.Dense(2), Seeds(7), "kernel").shape
        TensorShape([2])
    """
    fixed = _FIXED.get()
    if fixed is None:
        return seeds.next()
    seed, numbers = fixed
    number = numbers.setdefault((id(layer), name), len(numbers))
    return fold_in(seed, number)


def once(layer: Any, name: str, make: Callable[[], Any]) -> Any:
    """What a function returns at its first call in a forward pass.

    A pass is a call of the outermost layer or model. Layers that it calls several times
    have one draw of their weights in it.

    Args:
        layer: The layer.
        name: Name of what it makes.
        make: The function.

    Returns:
        The function's result, of this or an earlier call.

    Example:
        >>> once(keras.layers.Dense(2), "kernel", lambda: 3)
        3
    """
    held = held_in_this_call()
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    place: Any = graph
    while True:  # What an outer graph has made is known in the inner one.
        key = (id(layer), name, place)
        if key in held:
            return held[key]
        if getattr(place, "outer_graph", None) is None:
            break
        place = place.outer_graph
    return held.setdefault((id(layer), name, graph), make())


def layers_with_random_weights(model: Any) -> list[Any]:
    """The layers of a model whose weights are draws from a distribution.

    Args:
        model: A Keras model or layer.

    Returns:
        A list.

    Example:
        >>> model = keras.Sequential([tv.DenseFlipout(2), keras.layers.Dense(1)])
        >>> [type(layer).__name__ for layer in layers_with_random_weights(model)]
        ['DenseFlipout']
    """
    found = nested_layers(model)
    return [layer for layer in found if hasattr(layer, "add_divergence")]
