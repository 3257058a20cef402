"""Joins the outputs for several draws of the weights in one batched distribution."""

import itertools
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_vae.prediction.output_draws import OutputDraws

# Rows on which the stacked distribution is compared with those that it was made of.
_FEW = 8


class Draw:
    """The output of a model for one draw of its weights.

    Args:
        source: What computed it.
        tensors: What the distribution is made of; `None` if TFP cannot take it apart.
        output: The distribution, if there are no tensors.

    Example:
        >>> Draw(None, output=tfd.Normal([0.0], 1.0)).distribution.name
        'Normal'
    """

    def __init__(
        self, source: OutputDraws | Any, tensors: Any = None, output: Any = None
    ) -> None:
        self.source, self.tensors = source, tensors
        self._output = output

    @property
    def distribution(self) -> Any:
        """The distribution of all rows."""
        if self._output is None:
            self._output = self.source.rebuilt(self.tensors)
        return self._output

    def first_rows(self) -> "Draw":
        """The draw for a few rows."""
        pairs = zip(self.tensors, self.source.is_batched, strict=True)
        few = [t[:_FEW] if is_batched else t for t, is_batched in pairs]
        return Draw(self.source, few)


def check_shapes(distributions: list[Any], caller: str) -> None:
    """Checks that the outputs of all models have one shape.

    Args:
        distributions: A distribution for each draw.
        caller: Name of the caller, for the message.

    Raises:
        ValueError: If batch shapes, event shapes or dtypes differ.

    Example:
        >>> check_shapes([tfd.Normal([0.0], 1.0), tfd.Laplace([0.0], 1.0)], "f")
    """
    kinds = dict.fromkeys(
        (tuple(p.batch_shape), tuple(p.event_shape), p.dtype.name)
        for p in distributions
    )
    if len(kinds) > 1:
        raise ValueError(
            f"`{caller}` expects models whose outputs have one batch shape, event "
            f"shape and dtype. Received: {' and '.join(map(str, kinds))}. Give all the "
            "same event shape."
        )


def components_of(draws: list[list[Draw]]) -> Any:
    """The components of the mixture over draws.

    Args:
        draws: The draws of each model.

    Returns:
        One distribution with the draws on the last axis of its batch, if there is one
        with the same densities; otherwise a list of distributions.

    Example:
        >>> components_of([[Draw(None, output=tfd.Normal([0.0], 1.0))]])
        [<tfp.distributions.Normal 'Normal' batch_shape=[1] ...>]
    """
    together = list(itertools.chain(*draws))
    if can_be_stacked(draws):
        return stacked(together)
    return [draw.distribution for draw in together]


def stacked(draws: list[Draw]) -> Any:
    """The distribution with the draws on a new last axis of its batch.

    Args:
        draws: For which `can_be_stacked` is true.

    Returns:
        A `tfd.Distribution`.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((3,)), keras.layers.Dense(2), tv.IndependentNormal(1)])
        >>> source = OutputDraws(model, training=False)
        >>> source.trace(tf.TensorSpec([None, 3]))
        >>> tensors = source.tensors(tf.zeros([5, 3]), tf.constant([1, 2]), 0, 0)
        >>> stacked([Draw(source, tensors)] * 2).batch_shape
        TensorShape([5, 2])
    """
    source, axis = draws[0].source, draws[0].distribution.batch_shape.rank
    columns = zip(*(draw.tensors for draw in draws), strict=True)
    return source.rebuilt(
        [
            # All tensors with an axis of rows have the whole batch in front.
            tf.stack(parts, axis=axis) if is_batched else parts[0]
            for parts, is_batched in zip(columns, source.is_batched, strict=True)
        ]
    )


def can_be_stacked(draws: list[list[Draw]]) -> bool:
    """Whether draws can be joined in one distribution with the same densities.

    TFP says which tensors a distribution is made of, but not what it computes from
    their shapes. So this compares the densities on a few rows.

    Args:
        draws: The draws of each model.

    Returns:
        False if TFP cannot take them apart, a parameter without an axis of rows differs
        between draws, such as a shared scale that is random, or densities differ.

    Example:
        >>> can_be_stacked([[Draw(None, output=tfd.Normal([0.0], 1.0))]])
        False
    """
    together = list(itertools.chain(*draws))
    if any(draw.tensors is None for draw in together):
        return False
    first = together[0]
    for own in draws:
        kinds = [
            [(spec.shape.as_list(), spec.dtype) for spec in source.structure]
            for source in (own[0].source, first.source)
        ]
        if kinds[0] != kinds[1] or own[0].source.is_batched != first.source.is_batched:
            return False
    for i, is_batched in enumerate(first.source.is_batched):
        if not is_batched and any(
            not np.array_equal(draw.tensors[i], first.tensors[i], equal_nan=True)
            for draw in together[1:]
        ):
            return False
    few = [draw.first_rows() for own in draws for draw in (own[0], own[-1])]
    try:
        return _is_the_same(stacked(few), few)
    except (NotImplementedError, TypeError, ValueError, tf.errors.OpError):
        return False


def _is_the_same(whole: Any, draws: list[Draw]) -> bool:
    """Compares the log-densities of a stacked distribution with those of its parts."""
    for i, draw in enumerate(draws):
        p = draw.distribution
        if whole.batch_shape != p.batch_shape.concatenate([len(draws)]):
            return False
        if whole.event_shape != p.event_shape:
            return False
        values = p.sample(seed=(1, 2))
        axis = p.batch_shape.rank
        logs = whole.log_prob(tf.expand_dims(values, axis))[..., i]
        if not np.allclose(logs, p.log_prob(values), 1e-4, 1e-4, equal_nan=True):
            return False
    return True
