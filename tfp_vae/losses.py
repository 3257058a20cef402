"""The negative log-likelihood as a Keras loss, with weights inside the event."""

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.checks import check_rows_in_batch, integer
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.engine.num_examples import report_terms
from tfp_vae.entries import float_dtype
from tfp_vae.keras_internals import is_symbolic_placeholder, mask_of, set_mask
from tfp_vae.kl.closed_forms import as_independent
from tfp_vae.latents import center
from tfp_vae.supports import REALS, Support, support_of

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class NegativeLogLikelihood(keras.losses.Loss):
    r"""Negative log-likelihood of the targets under a model that outputs p.

    .. math:: \mathrm{loss}_b = -\sum_i \mathrm{weight}_{bi} \log p(y_{bi} \mid x_b)

    in nats, summed over the event and then reduced over the batch as Keras does.
    Whole examples are weighted if `sample_weight` or the Keras mask has the batch
    shape. With more axes, such as (B, D) or (B, T), elements of the event are weighted
    before the sum; the distribution must then factorise over the event. What has the
    weight 0 counts nothing, also outside of the support.

    Args:
        reduction: As in `keras.losses.Loss`: `"sum_over_batch_size"`, `"sum"`,
            `"mean"`, `"mean_with_sample_weight"` or `None`.
        name: Name of the loss.
        draw_axes: Number of axes of draws in front of the batch of p, if a posterior
            was converted with `sample(k)`; the loss is the mean over them.
        **kwargs: Passed to `keras.losses.Loss`.

    Call arguments:
        y_true: Values, of shape `batch_shape + event_shape` of the distribution.
        y_pred: The distribution that a model outputs.
        sample_weight: Numbers of shape `(B,)`, of the batch shape, or of the shape of
            leading axes of the values.

    Returns:
        A scalar, or a tensor of the batch shape if `reduction` is `None`.

    Raises:
        ValueError: If `y_pred` is not a distribution, or is a single one for all rows;
            if the shape of the values or weights does not fit; if elements are weighted
            but the distribution does not factorise; or, in eager execution, if a value
            is NaN or a weight is not finite.

    Example:
        >>> p = tfd.Independent(tfd.Normal(tf.zeros([2, 3]), 1.0), 1)
        >>> loss = NegativeLogLikelihood()
        >>> round(float(loss(tf.zeros([2, 3]), p)), 4)  # 1.5 log(2 pi)
        2.7568
        >>> round(float(loss(tf.zeros([2, 3]), p, tf.constant([[1.0, 0, 0]] * 2))), 4)
        0.9189
    """

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str = "negative_log_likelihood",
        draw_axes: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.draw_axes = integer(draw_axes, "draw_axes", name, minimum=0)

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> tf.Tensor:
        """The weighted and reduced loss."""
        # `Loss.__call__` would cast the distribution to a float32 tensor, and apply
        # weights and masks only after the sum over the event.
        distribution = distribution_of(y_pred, self.name)
        if distribution is None:
            return placeholder_loss(y_pred, self.reduction)
        log_prob, weights, mask = weighted_log_prob(
            distribution, y_true, sample_weight, mask_of(y_pred), self.draw_axes
        )
        reduce = KerasReduction(self.reduction, log_prob.dtype.name)
        if mask is not None:
            mask = tf.cast(mask, tf.bool)
        return reduce(-log_prob, weights, mask)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """The loss of each example, neither weighted nor reduced."""
        distribution = distribution_of(y_pred, self.name)
        return -weighted_log_prob(distribution, y_true, None, None, self.draw_axes)[0]

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {**super().get_config(), "draw_axes": self.draw_axes}


class KerasReduction(keras.losses.Loss):
    """Keras' weighting, masking and reduction, of losses already computed.

    Args:
        reduction: As in `keras.losses.Loss`.
        dtype: Name of the dtype of the losses.

    Example:
        >>> float(KerasReduction("sum", "float32")(tf.constant([1.0, 2.0]), None, None))
        3.0
    """

    def __init__(self, reduction: str | None, dtype: str) -> None:
        # Keras uses the name as a scope. Graphs reject the default, which would begin
        # with an underscore: `__keras_reduction`.
        super().__init__(name="reduction", reduction=reduction, dtype=dtype)

    def __call__(self, values: tf.Tensor, weights: Any, mask: Any) -> tf.Tensor:
        """The reduced losses."""
        report_terms(values, mask)
        return super().__call__(values, set_mask(values, mask), weights)

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The losses, which carry the mask."""
        return y_pred


def distribution_of(y_pred: Any, caller: str) -> Any:
    """The distribution behind a model's output.

    Args:
        y_pred: What a loss or metric received.
        caller: Its name, for the message.

    Returns:
        A plain `tfd.Distribution`; `None` in Keras' symbolic build.

    Raises:
        ValueError: If it is not a distribution.

    Example:
        >>> type(distribution_of(tv.DistributionTensor(tfd.Normal(0.0, 1.0)), "nll"))
        <class 'tensorflow_probability...Normal'>
    """
    if isinstance(y_pred, tfd.Distribution):
        return unwrap(y_pred)
    if is_symbolic_placeholder(y_pred):
        return None
    raise ValueError(
        f"`{caller}` expects the model's output to be a distribution. Received: a "
        f"plain tensor of shape {getattr(y_pred, 'shape', None)}. End the "
        "model with a distribution layer, such as `IndependentBernoulli`; layers after "
        "it turn a distribution into a plain tensor."
    )


def placeholder_loss(y_pred: tf.Tensor, reduction: str | None) -> tf.Tensor:
    """Zeros for the symbolic build.

    Args:
        y_pred: The placeholder of the model's output.
        reduction: The reduction of the loss.

    Returns:
        A scalar, or one number for each example without reduction.

    Example:
        >>> placeholder_loss(tf.zeros([3, 2]), None).shape
        TensorShape([3])
    """
    per_example = tf.zeros(tf.shape(y_pred)[:1])
    return per_example if reduction in (None, "none") else tf.reduce_sum(per_example)


def weighted_log_prob(
    distribution: Any, values: Any, weights: Any, mask: Any, draws: int = 0
) -> tuple[tf.Tensor, Any, Any]:
    """Log p of each member of the batch, and the weights and mask of members.

    Weights and masks with axes of the event are applied inside the sum over it.

    Args:
        distribution: A plain `tfd.Distribution`.
        values: Its values, of shape `batch_shape + event_shape`.
        weights: Numbers with the shape of leading axes of the values, or `None`.
        mask: A Keras mask of such a shape, or `None`.
        draws: Number of axes of draws in front of the batch, to be averaged.

    Returns:
        Log p of the batch shape; weights and mask of that shape or `None`.

    Raises:
        ValueError: If a shape does not fit, the rows are in the event, or elements are
            weighted but the distribution does not factorise.

    Example:
        >>> p = tfd.Independent(tfd.Normal(tf.zeros([2, 3]), 1.0), 1)
        >>> log_prob, *_ = weighted_log_prob(p, tf.zeros([2, 3]), None, None)
        >>> log_prob.shape
        TensorShape([2])
    """
    check_rows_in_batch(distribution, "The log-likelihood")
    values = checked_values(distribution, values, draws)
    batch_rank = distribution.batch_shape.rank - draws
    inside = []
    outside: dict[str, Any] = {"sample_weight": None, "mask": None}
    for name, weight in (("sample_weight", weights), ("mask", mask)):
        if weight is not None:
            weight = tf.cast(tf.convert_to_tensor(weight), float_dtype(distribution))
            weight = fitted_weight(weight, values, batch_rank, name)
            if weight.shape.rank > batch_rank:
                inside.append(expanded_to_rank(weight, values.shape.rank))
            else:
                outside[name] = expanded_to_rank(weight, batch_rank)
    values = countable(
        distribution, values, [*inside, *(w for w in outside.values() if w is not None)]
    )
    if inside:
        log_prob = _log_prob_of_elements(
            distribution, values, functools.reduce(tf.multiply, inside)
        )
    else:
        log_prob = distribution.log_prob(values)
    log_prob = tf.reduce_mean(log_prob, axis=list(range(draws)))
    whole = {
        name: weight if weight is None else tf.broadcast_to(weight, tf.shape(log_prob))
        for name, weight in outside.items()
    }
    return log_prob, whole["sample_weight"], whole["mask"]


def countable(distribution: Any, values: tf.Tensor, weights: list[Any]) -> tf.Tensor:
    """Replaces values of weight 0 by valid ones, whose log p is finite.

    Outside the support log p or its gradient is infinite or NaN, also times 0.

    Args:
        distribution: A plain `tfd.Distribution`.
        values: Its values.
        weights: Weights and masks, each with the shape of leading axes of the values.

    Returns:
        The values; as they are if no valid one is known.

    Example:
        >>> p = tfd.Exponential([1.0, 4.0])
        >>> countable(p, tf.constant([2.0, -99.0]), [tf.constant([1.0, 0.0])]).numpy()
        array([2.  , 0.25], dtype=float32)
    """
    if not weights:
        return values
    if support_of(distribution) == Support(REALS):
        valid = tf.zeros_like(values)
    else:
        try:
            valid = tf.cast(tf.stop_gradient(center(distribution)), values.dtype)
        except ValueError:
            return values
    parts = [expanded_to_rank(weight, values.shape.rank) != 0 for weight in weights]
    return tf.where(functools.reduce(tf.logical_and, parts), values, valid)


def checked_values(
    distribution: Any, values: Any, draws: int = 0, caller: str = "The log-likelihood"
) -> tf.Tensor:
    """Checks targets against the distribution that was predicted for them.

    Args:
        distribution: A plain `tfd.Distribution`.
        values: Its values, of shape `batch_shape + event_shape`. The axis of a single
            coordinate may be missing, or be there in addition.
        draws: Number of axes of draws in front of the batch.
        caller: The first words of messages.

    Returns:
        The values in the distribution's dtype.

    Raises:
        ValueError: If the shape does not fit, or, in eager execution, a value is NaN.

    Example:
        >>> p = tfd.Independent(tfd.Normal([[0.0], [1.0]], 1.0), 1)
        >>> checked_values(p, [0.0, 1.0]).shape
        TensorShape([2, 1])
    """
    if values is None:
        raise ValueError(
            f"{caller} expects targets. Received: None. Give them to `fit`; "
            "for an autoencoder, give its inputs: `fit(x, x)`."
        )
    masked = isinstance(values, np.ma.MaskedArray)
    if not tf.is_tensor(values):
        values = np.asarray(values)
    values = tf.convert_to_tensor(values)
    if masked or values.dtype.is_complex:
        found = "a masked array" if masked else f"y.dtype={values.dtype.name}"
        raise ValueError(
            f"{caller} expects real numbers. Received: {found}. Give the "
            "masked entries a `sample_weight` of 0; take the real part of complex "
            "numbers, or make the imaginary part coordinates of its own."
        )
    dtype = tf.as_dtype(distribution.dtype)
    if dtype.is_floating or not values.dtype.is_floating:
        values = tf.cast(values, dtype)
    expected = distribution.batch_shape.concatenate(distribution.event_shape)[draws:]
    values = _of_one_coordinate(values, expected, distribution.event_shape.rank)
    # An unknown rank is compatible with every shape.
    if values.shape.rank is None or not expected.is_compatible_with(values.shape):
        without = f", without {draws} draw_axes" if draws else ""
        hint = ""
        if values.shape.rank == expected.rank - 1:
            hint = " If the batch begins with an axis of draws, set draw_axes=1."
        raise ValueError(
            f"{caller} expects values of shape {tuple(expected)}: the batch "
            f"shape {tuple(distribution.batch_shape)} and the event shape "
            f"{tuple(distribution.event_shape)} of {distribution.name}{without}. "
            f"Received: y.shape={_shape(values)}. Reshape the targets, or give the "
            f"last layer the event shape of one target.{hint}"
        )
    advice = "Replace them, and give them a `sample_weight` of 0."
    _check_finite(values, "y", advice, caller, tf.math.is_nan)
    return tf.ensure_shape(values, expected)


def _check_finite(
    values: tf.Tensor,
    name: str,
    advice: str,
    caller: str,
    is_bad: Any = lambda values: ~tf.math.is_finite(values),
) -> None:
    """Raises an error for NaN and infinities, which a compiled step cannot do."""
    if not (tf.executing_eagerly() and values.dtype.is_floating):
        return
    bad = int(tf.math.count_nonzero(is_bad(values)))
    if bad:
        only_nan = is_bad is tf.math.is_nan
        expected = "values without NaN" if only_nan else "finite values"
        kind = "NaN" if only_nan else "NaN or infinite"
        raise ValueError(
            f"{caller} expects {expected}. Received: {bad} {kind} in {name} of shape "
            f"{tuple(values.shape)}. {advice}"
        )


def _of_one_coordinate(
    values: tf.Tensor, expected: tf.TensorShape, event_rank: int
) -> tf.Tensor:
    """Adds or drops the axis of a single coordinate: (n,) and (n, 1) are the same."""
    ranks = values.shape.rank, expected.rank
    if None in ranks or ranks[0] == 0:
        return values
    if ranks[0] == ranks[1] - 1 and expected[-1] == 1:
        return values[..., tf.newaxis] if _same(values.shape, expected[:-1]) else values
    if ranks[0] == ranks[1] + 1 and values.shape[-1] == 1 and not event_rank:
        return tf.squeeze(values, -1) if _same(values.shape[:-1], expected) else values
    return values


def _same(values: tf.TensorShape, batch: tf.TensorShape) -> bool:
    """Whether shapes are certainly equal; `batch` may lack the number of examples.

    If they may differ, an axis of length 1 might be one that the values lack.
    """
    sizes, expected = values.as_list(), batch.as_list()
    if sizes and expected[0] not in (None, sizes[0]):
        return False
    return None not in sizes[1:] and sizes[1:] == expected[1:]


def _shape(tensor: tf.Tensor) -> Any:
    rank = tensor.shape.rank
    return "unknown rank" if rank is None else tuple(tensor.shape)


def fitted_weight(
    weight: tf.Tensor,
    values: tf.Tensor,
    rank: int,
    name: str,
    caller: str = "The log-likelihood",
) -> tf.Tensor:
    """Checks that weights or a mask have the shape of leading axes of the values.

    An extra last axis of length 1, as in Keras' (B, 1), is dropped.

    Args:
        weight: The weights, in a floating-point dtype.
        values: The values that they weight.
        rank: Number of batch axes of the values.
        name: Name of the argument, for the message.
        caller: The first words of messages.

    Returns:
        The weights.

    Raises:
        ValueError: If the shape does not fit, or one is not finite.

    Example:
        >>> fitted_weight(tf.ones([3, 1]), tf.zeros([3, 2]), 1, "sample_weight").shape
        TensorShape([3])
    """
    advice = "Give a weight of 0 to examples that should not count."
    _check_finite(weight, f"`{name}`", advice, caller)
    if weight.shape.rank == rank + 1 and weight.shape[-1] == 1:
        weight = tf.squeeze(weight, axis=-1)
    known = weight.shape.rank is not None and weight.shape.rank <= values.shape.rank
    leading = values.shape[: weight.shape.rank] if known else None
    if leading is None or not leading.is_compatible_with(weight.shape):
        raise ValueError(
            f"{caller} expects `{name}` to have the shape of leading axes of "
            f"the values, {tuple(values.shape)}. Received: {name}.shape="
            f"{_shape(weight)}. Give one number for each example, or one for each "
            "element, and compile again if their rank changes."
        )
    return tf.ensure_shape(weight, leading)


def expanded_to_rank(weight: tf.Tensor, rank: int) -> tf.Tensor:
    """Appends axes of length 1, so that weights of examples broadcast to elements.

    Args:
        weight: A tensor.
        rank: The number of axes wanted.

    Returns:
        The tensor with as many axes.

    Example:
        >>> expanded_to_rank(tf.ones([3]), 2).shape
        TensorShape([3, 1])
    """
    missing = rank - weight.shape.rank
    return tf.reshape(weight, tf.concat([tf.shape(weight), [1] * missing], axis=0))


def _log_prob_of_elements(
    distribution: Any, values: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """Log p, with the weight of each element inside the sum over the event."""
    factors = as_independent(distribution)
    if factors is not None:
        elements = factors.distribution.log_prob(values) * weights
        event = range(-distribution.event_shape.rank, 0)
        return tf.reduce_sum(elements, axis=list(event))
    if isinstance(distribution, meta.Blockwise):
        return _log_prob_of_blocks(distribution, values, weights)
    raise ValueError(
        "Weights or a mask inside the event expect a distribution that factorises "
        f"over it. Received: {distribution}. Weight whole examples, with shape "
        f"{tuple(distribution.batch_shape)}, or use an `Independent...` layer."
    )


def _log_prob_of_blocks(
    distribution: Any, values: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """The same of blocks; one that does not factorise counts as a whole."""
    blocks = distribution.distributions
    sizes = [block.event_shape.num_elements() for block in blocks]
    weights = tf.broadcast_to(weights, tf.shape(values))
    total: Any = 0.0
    for block, value, weight in zip(
        blocks, tf.split(values, sizes, -1), tf.split(weights, sizes, -1), strict=True
    ):
        shape = tf.concat([tf.shape(value)[:-1], block.event_shape], axis=0)
        value = tf.reshape(tf.cast(value, block.dtype), shape)
        if as_independent(block) is not None:
            total += _log_prob_of_elements(block, value, tf.reshape(weight, shape))
        else:
            total += block.log_prob(value) * _of_whole_block(block, weight)
    return total


def _of_whole_block(block: Any, weights: tf.Tensor) -> tf.Tensor:
    """The weight that all coordinates of a block have; NaN if they have several."""
    low, high = tf.reduce_min(weights, axis=-1), tf.reduce_max(weights, axis=-1)
    if tf.executing_eagerly():
        _refuse_parts(block, bool(tf.reduce_any(low != high)))
    return tf.where(low == high, low, tf.constant(float("nan"), low.dtype))


def _refuse_parts(block: Any, has_parts: bool) -> None:
    if has_parts:
        raise ValueError(
            "Weights, a mask, missing or given entries expect one value for all "
            "coordinates of a block that does not factorise. Received: several, for "
            f"{block}. Give its coordinates equal weights, leave out all of them, or "
            "split the block."
        )


def check_whole_blocks(weights: np.ndarray, distribution: Any) -> None:
    """Checks that blocks that do not factorise have one weight, before training.

    Args:
        weights: Weights of entries, or booleans, of shape `(n, d)`.
        distribution: The likelihood; only a `tfd.Blockwise` is looked at.

    Raises:
        ValueError: If the coordinates of such a block have several weights.

    Example:
        >>> p = tfd.Blockwise([tfd.MultivariateNormalTriL(tf.zeros(2), tf.eye(2))])
        >>> check_whole_blocks(np.array([[True, True], [False, False]]), p)
    """
    start = 0
    for block in getattr(distribution, "distributions", []):
        size = block.event_shape.num_elements()
        part = weights[:, start : start + size]
        if as_independent(block) is None:
            _refuse_parts(block, bool((part != part[:, :1]).any()))
        start += size
