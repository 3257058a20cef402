"""Helpers for callbacks that evaluate a model between epochs."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from tfp_vae.engine.data import is_arrays
from tfp_vae.models.vae import VAE


@contextlib.contextmanager
def undisturbed(model: keras.Model) -> Iterator[None]:
    """Restores the model's state afterwards, so that training does not change.

    A forward pass advances random seeds, and so changes all later draws.

    Args:
        model: A Keras model, built.

    Yields:
        Nothing.

    Example:
        >>> layer = tv.IndependentNormal(2)
        >>> model = keras.Sequential([keras.Input((4,)), layer])
        >>> with undisturbed(model):
        ...     first = model(tf.zeros([1, 4])).numpy()
        >>> bool((model(tf.zeros([1, 4])).numpy() == first).all())
        True
    """
    state = [(v, v.numpy()) for v in model.non_trainable_variables]
    try:
        yield
    finally:
        for variable, value in state:
            variable.assign(value)


def check_vae(model: Any, caller: str) -> None:
    """Checks that a callback trains a VAE.

    Args:
        model: The callback's model.
        caller: Name of the callback, for the message.

    Raises:
        ValueError: If the model is not a `tv.VAE`.

    Example:
        >>> check_vae(keras.Sequential(), "CollapseAlarm")
        Traceback (most recent call last):
            ...
        ValueError: `CollapseAlarm` expects to train a `tv.VAE`. Received: ...
    """
    if not isinstance(model, VAE):
        raise ValueError(
            f"`{caller}` expects to train a `tv.VAE`. Received: a "
            f"{type(model).__name__}. Make one of encoder, decoder and prior: "
            "`tv.VAE(encoder, decoder, prior)`."
        )


def checked_examples(x: Any, caller: str, fewest: int = 1, y: Any = None) -> int:
    """Checks the examples that a callback evaluates, and returns their number.

    Args:
        x: Arrays of shape `(n, ...)`.
        caller: Name of the callback, for the message.
        fewest: The smallest n allowed.
        y: Conditions of shape `(n, ...)`, or `None`.

    Returns:
        The number n.

    Raises:
        ValueError: If x is not arrays, or too short, or y has another length.

    Example:
        >>> checked_examples(np.zeros([5, 2]), "CollapseAlarm")
        5
    """
    count = _length(x)
    if count is None or count < fewest:
        found = type(x).__name__ if count is None else f"{count} examples"
        raise ValueError(
            f"`{caller}` expects x to be arrays of at least {fewest} examples. "
            f"Received: {found}. Give a few hundred examples of the validation data."
        )
    if y is not None and _length(y) != count:
        raise ValueError(
            f"`{caller}` expects y to be None, or arrays of {count} conditions. "
            f"Received: {type(y).__name__} of shape {getattr(y, 'shape', None)}. Give "
            "those of the same examples, one for each x."
        )
    return count


def _length(x: Any) -> int | None:
    """The length of the first axis; `None` for anything but arrays."""
    shape = tuple(keras.tree.flatten(x)[0].shape) if is_arrays(x) else ()
    return int(shape[0]) if shape else None
