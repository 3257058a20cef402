"""Reshapes flat vectors of parameters to the shape of an event."""

import math
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, canonical_event_shape, check_width

tfd = tfp.distributions


def event_size(event_shape: Shape, caller: str) -> int:
    """Number of coordinates in one draw.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        caller: Name of the caller, for the message.

    Returns:
        The product of the sizes; 1 for a scalar.

    Raises:
        ValueError: If `event_shape` is not made of positive integers.

    Example:
        >>> event_size((28, 28, 1), "Layer")
        784
    """
    return math.prod(canonical_event_shape(event_shape, caller))


def split_event(params: Any, event_shape: Shape, parts: int, caller: str) -> list[Any]:
    """Splits the last axis into parts and gives each the shape of the event.

    Args:
        params: Tensor of shape `(..., parts * event size)`.
        event_shape: Shape of one draw, or an integer for a vector.
        parts: How many parameters a coordinate has.
        caller: Name of the caller, for the message.

    Returns:
        `parts` tensors of shape `(..., *event_shape)`.

    Raises:
        ValueError: If `event_shape` is not made of positive integers, or the last axis
            has another width.

    Example:
        >>> loc, scale = split_event(tf.zeros([5, 12]), (2, 3), 2, "Layer")
        >>> loc.shape
        TensorShape([5, 2, 3])
    """
    event = canonical_event_shape(event_shape, caller)
    params = tf.convert_to_tensor(params)
    check_width(params.shape, parts * math.prod(event), caller)
    pieces = tf.split(params, parts, axis=-1) if parts > 1 else [params]
    if len(event) == 1 and params.shape[-1] is not None:
        return pieces
    shape = [*batch_axes(params), *event]
    return [tf.reshape(piece, shape) for piece in pieces]


def batch_axes(params: tf.Tensor, last: int = 1) -> list[Any]:
    """Sizes of all axes but the last for a `tf.reshape`: integers if it can infer them.

    Args:
        params: Tensor of shape `(..., width)`.
        last: How many axes to leave out.

    Returns:
        A list with which `tf.reshape` keeps known sizes static: the known sizes, -1 if
        one is unknown, otherwise scalar tensors. These also replace -1 if the axes that
        are left out have unknown sizes: an unexpected width must fail.

    Example:
        >>> batch_axes(tf.zeros([5, 2, 12]))
        [5, 2]
    """
    known = params.shape[:-last].as_list()
    width = params.shape[-last:]
    if known.count(None) == 1 and 0 not in known and width.is_fully_defined():
        return [-1 if size is None else size for size in known]
    dynamic = tf.shape(params)
    return [dynamic[i] if size is None else size for i, size in enumerate(known)]


def independent(base: Any, event_shape: Shape, validate_args: bool = False) -> Any:
    """Turns the trailing batch axes of scalar distributions into the event.

    Args:
        base: Distribution of batch shape `(..., *event_shape)`.
        event_shape: Shape of one draw, or an integer for a vector.
        validate_args: Whether TFP checks values at run time.

    Returns:
        A `tfd.Independent`.

    Example:
        >>> base = tfd.Normal(tf.zeros([5, 2, 3]), 1.0)
        >>> independent(base, (2, 3)).batch_shape
        TensorShape([5])
    """
    rank = len(canonical_event_shape(event_shape, "independent"))
    return tfd.Independent(
        base, reinterpreted_batch_ndims=rank, validate_args=validate_args
    )
