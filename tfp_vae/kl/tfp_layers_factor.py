"""The factor that `tfp.layers` gave the KL in the loss, for messages about porting."""

from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf


def tfp_layers_factors(
    draws: Any, output: Any, batch_rank: int, axis: int | Iterable[int]
) -> tuple[str, str] | None:
    """The factors of the KL that give the loss of `tfp.layers`, as text.

    `tfp.layers` averaged log q(z) - log p(z) over `axis` and added up the rest. Keras
    then divided its regularizer by the length of the output, and counted it twice.

    Args:
        draws: Shape of log q(z) - log p(z): axes of draws, then of the batch.
        output: Shape of the posterior's value without the event, in the same order.
        batch_rank: Number of axes of the batch.
        axis: The `test_points_reduce_axis` of `tfp.layers`.

    Returns:
        The factors for a `KLDivergenceRegularizer` and for a `KLDivergenceAddLoss`;
        `None` if there is no such axis.

    Example:
        >>> tfp_layers_factors((10, None), (None,), 1, axis=())
        ('20', '10 * batch_size')
        >>> tfp_layers_factors((10, None), (None,), 1, axis=(0, 1))
        ('2 / batch_size', '1')
    """
    rank = len(draws)
    if not all(-rank <= i < rank for i in axes(axis)):
        return None
    averaged = {i % rank for i in axes(axis)}
    sizes = _sizes(draws, batch_rank)
    left = [size for i, size in enumerate(sizes) if i not in averaged]
    return _ratio([2, *left], _sizes(output, batch_rank)[:1]), _ratio(left, [])


def axes(axis: int | Iterable[int]) -> tuple[int, ...]:
    """One axis or several, as a tuple.

    Args:
        axis: An integer or several.

    Returns:
        A tuple of integers.

    Example:
        >>> axes(0)
        (0,)
    """
    return tuple(axis) if isinstance(axis, Iterable) else (axis,)


def without_event(posterior: Any) -> tf.TensorShape:
    """The shape of a posterior's value without its event: axes of draws, and the batch.

    Args:
        posterior: A `tfd.Distribution`, or the output of a distribution layer.

    Returns:
        A shape; the batch shape if there is no value, or one of unknown or low rank.

    Example:
        >>> without_event(tv.IndependentNormal(2)(tf.zeros([8, 4])))
        TensorShape([8])
    """
    shape, batch = getattr(posterior, "shape", None), posterior.batch_shape
    whole = batch.concatenate(posterior.event_shape).rank
    if shape is None or shape.rank is None or shape.rank < whole:
        return batch
    return shape[: shape.rank - posterior.event_shape.rank]


def _sizes(shape: Any, batch_rank: int) -> list[int | str]:
    """The lengths of the axes, with names for the batch and for unknown ones."""
    first = len(shape) - batch_rank
    names = {i: "k" if i < first else f"shape[{i - first}]" for i in range(len(shape))}
    return [
        "batch_size" if i == first else shape[i] or names[i] for i in range(len(shape))
    ]


def _ratio(above: Sequence[int | str], below: Sequence[int | str]) -> str:
    """The product of sizes over that of others, as text; equal sizes cancel."""
    above, below = list(above), list(below)
    for size in [size for size in below if size in above]:
        above.remove(size)
        below.remove(size)
    number = 1.0
    for size in above:
        number *= size if isinstance(size, int) else 1
    for size in below:
        number /= size if isinstance(size, int) else 1
    names = [size for size in above if isinstance(size, str)]
    text = " * ".join(([f"{number:g}"] if number != 1 or not names else []) + names)
    return " / ".join([text, *(size for size in below if isinstance(size, str))])
