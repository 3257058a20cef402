"""Argument checks. Each `ValueError` says what was expected, what came, what to do."""

import math
import operator
from collections.abc import Sequence
from typing import Any

Shape = int | Sequence[int]


def canonical_event_shape(event_shape: Any, caller: str) -> tuple[int, ...]:
    """Turns an integer, tuple, list or `TensorShape` into a tuple of sizes.

    Args:
        event_shape: Shape of one draw; an integer `d` means `(d,)`.
        caller: Name of the caller, for the message.

    Returns:
        A tuple of positive integers.

    Raises:
        ValueError: If a size is unknown, not an integer or not positive.

    Example:
        >>> canonical_event_shape(3, "Layer"), canonical_event_shape([2, 4], "Layer")
        ((3,), (2, 4))
    """
    sizes: tuple[int, ...]
    try:
        sizes = (operator.index(event_shape),)
    except TypeError:
        try:
            sizes = tuple(operator.index(size) for size in event_shape)
        except (TypeError, ValueError):
            sizes = (-1,)
    if isinstance(event_shape, bool) or any(size < 1 for size in sizes):
        raise ValueError(
            f"`{caller}` expects `event_shape` to be a positive integer or a sequence "
            f"of positive integers. Received: event_shape={event_shape!r}. Give the "
            "shape of one draw without the batch axis, such as 16 or (28, 28, 1)."
        )
    return sizes


def integer(value: Any, name: str, caller: str, minimum: int = 1) -> int:
    """Returns `value` as an `int`, if it is an integer of at least `minimum`.

    Args:
        value: What the user gave.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.
        minimum: Smallest value allowed.

    Returns:
        The value as an `int`.

    Raises:
        ValueError: If `value` is not an integer of at least `minimum`.

    Example:
        >>> integer(16, "event_size", "Layer")
        16
    """
    try:
        number = minimum - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = minimum - 1
    if number < minimum:
        raise ValueError(
            f"`{caller}` expects `{name}` to be an integer of at least {minimum}. "
            f"Received: {name}={value!r}. Give a Python integer, {minimum} or more."
        )
    return number


def parameters_width(shape: Sequence[Any], width: int, caller: str) -> None:
    """Checks that the last axis of a layer's parameters has the right width.

    Args:
        shape: Static shape of the parameters, with `None` for an unknown size.
        width: The layer's `params_size`.
        caller: Description of the layer, for the message.

    Raises:
        ValueError: If the rank is 0 or the last axis is known and not `width`.

    Example:
        >>> parameters_width((None, 6), 6, "IndependentNormal(3)")
    """
    if len(shape) == 0 or shape[-1] not in (None, width):
        advice = f"Give the previous layer {width} units, or change the event shape."
        if None not in shape[1:] and math.prod(map(int, shape[1:])) == width:
            advice = (
                "If its last axis has the channels of a convolution or the features of "
                "each step, give `parameters_axis=-1`; if the axes are those of one "
                "parameter for each coordinate, put `keras.layers.Flatten()` before it."
            )
        raise ValueError(
            f"`{caller}` expects `parameters` of shape (..., {width}). "
            f"Received: parameters.shape={tuple(shape)}. {advice}"
        )


def positive_number(value: Any, name: str, caller: str) -> float:
    """Returns `value` as a `float`, if it is finite and positive.

    Args:
        value: What the user gave.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.

    Returns:
        The value as a `float`.

    Raises:
        ValueError: If `value` is not a finite number above 0.

    Example:
        >>> positive_number(1e-5, "scale_floor", "Layer")
        1e-05
    """
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0.0 < number < float("inf"):
        raise ValueError(
            f"`{caller}` expects `{name}` to be a finite number above 0. "
            f"Received: {name}={value!r}. Give one Python number above 0."
        )
    return number


def interval(low: Any, high: Any, caller: str) -> tuple[float, float]:
    """Returns both ends of an interval as `float`, if they are finite and in order.

    Args:
        low: Lower end.
        high: Upper end.
        caller: Name of the caller, for the message.

    Returns:
        The ends.

    Raises:
        ValueError: If they are not finite numbers with `low < high`.

    Example:
        >>> interval(0, 255, "Layer")
        (0.0, 255.0)
    """
    try:
        ends = float(low), float(high)
    except (TypeError, ValueError):
        ends = (math.nan, math.nan)
    if not -math.inf < ends[0] < ends[1] < math.inf:
        raise ValueError(
            f"`{caller}` expects two finite numbers with low < high. Received: "
            f"low={low!r}, high={high!r}. Give the ends of the interval in which the "
            "values lie."
        )
    return ends
