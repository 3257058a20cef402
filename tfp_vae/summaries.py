"""Summaries of a distribution, also where TFP has no formula, and roots of its cdf."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta

tfd = tfp.distributions

_OF_A_VALUE = ("cdf", "log_cdf", "survival_function", "log_survival_function")


def summary(distribution: Any, name: str, *given: Any, **options: Any) -> tf.Tensor:
    """A summary of a distribution, as TFP's method of that name defines it.

    Adds to TFP: quantiles of one coordinate, of mixtures too; covariances of
    independent coordinates; moments, covariances and modes of `tfd.Blockwise`; the mode
    of a count with extra zeros.

    Args:
        distribution: A plain `tfd.Distribution`.
        name: One of the keys of `SUMMARIES`.
        *given: What the method takes: probabilities, or values.
        **options: Passed to TFP's method.

    Returns:
        A tensor.

    Raises:
        NotImplementedError: If the distribution has no such summary.

    Example:
        >>> p = tfd.MixtureSameFamily(
        ...     tfd.Categorical(probs=[0.5, 0.5]), tfd.Normal([-1.0, 1.0], 0.1))
        >>> round(float(summary(p, "quantile", 0.25)), 3)  # the median of the first
        -1.0
    """
    if "value" in options:
        given = (options.pop("value"),)
    try:
        # If options are given, TFP's own method is called.
        found = None if options else SUMMARIES[name](distribution, name, *given)
        if found is None:
            found = getattr(distribution, name)(*given, **options)
        return found
    except NotImplementedError:
        raise NotImplementedError(
            f"`{name}` expects a distribution for which it is known. Received: "
            f"{distribution}. Estimate it from draws, `p.sample(1000)`; for "
            "coordinates one by one use `p.distribution`, if there is one."
        ) from None


def _of_blocks(distribution: Any, name: str) -> Any:
    """Moments and modes of blocks; `None` for anything else."""
    if not isinstance(distribution, meta.Blockwise):
        return None
    parts = [summary(block, name) for block in distribution.distributions]
    return joined(distribution, parts)


def may_lack_a_mean(distribution: Any) -> bool:
    """Whether a distribution may have no mean, which TFP then gives as NaN.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        True for Student's t and Cauchy distributions, and products of them.

    Example:
        >>> may_lack_a_mean(tfd.Sample(tfd.Cauchy(0.0, 1.0), 3))
        True
    """
    while isinstance(distribution, meta.Independent | meta.Sample):
        distribution = distribution.distribution
    return isinstance(distribution, tfd.StudentT | tfd.Cauchy)


def joined(distribution: Any, parts: Any) -> tf.Tensor:
    """Concatenates values of the blocks of a distribution.

    Args:
        distribution: A `tfd.Blockwise`.
        parts: A tensor for each block, of its batch and event shape.

    Returns:
        A tensor with one axis of all coordinates, in the dtype of the distribution.

    Example:
        >>> p = tfd.Blockwise([tfd.Sample(tfd.Normal(0.0, 1.0), [2, 2])])
        >>> joined(p, [tf.zeros([2, 2])]).shape
        TensorShape([4])
    """
    flat = []
    for block, part in zip(distribution.distributions, parts, strict=True):
        part = tf.cast(part, distribution.dtype)
        batch = part.shape.rank - block.event_shape.rank
        flat.append(tf.reshape(part, [*sizes(part)[:batch], -1]))
    return tf.concat(flat, axis=-1)


def _mode(distribution: Any, name: str) -> Any:
    """The mode of `Independent`, `Inflated` and `Blockwise`; `None` for others."""
    if isinstance(distribution, meta.Independent):
        return summary(distribution.distribution, name)
    if isinstance(distribution, meta.Inflated):
        base = summary(distribution.distribution, name)
        at = tf.broadcast_to(distribution.inflated_loc, tf.shape(base))
        more = distribution.log_prob(at) >= distribution.log_prob(base)
        return tf.where(more, at, base)
    return _of_blocks(distribution, name)


def _covariance(distribution: Any, name: str) -> Any:
    """The covariance of coordinates in the order in which a reshape lists them."""
    if isinstance(distribution, meta.Blockwise):
        blocks = [summary(block, name) for block in distribution.distributions]
        linear = [tf.linalg.LinearOperatorFullMatrix(block) for block in blocks]
        return tf.linalg.LinearOperatorBlockDiag(linear).to_dense()
    scalars = getattr(distribution, "distribution", None)
    if not isinstance(distribution, meta.Independent | meta.Sample) or (
        scalars is None or scalars.event_shape.rank
    ):
        return None
    variance = distribution.variance()
    batch = variance.shape.rank - distribution.event_shape.rank
    return tf.linalg.diag(tf.reshape(variance, [*sizes(variance)[:batch], -1]))


def _of_a_value(distribution: Any, name: str, value: Any) -> Any:
    """Probabilities below or above a value, also of mixtures."""
    # A copy, since TFP's bijectors cache: for the very tensor that `quantile` returned
    # they would give back the probability, in the shape that it had then.
    value = tf.identity(tf.convert_to_tensor(value, distribution.dtype))
    mixture = isinstance(distribution, meta.MixtureSameFamily)
    if not (
        _has_one_number(distribution)
        and (mixture or _is_independent_of_one(distribution))
    ):
        return getattr(distribution, name)(value)
    value = _of_one_coordinate(value, distribution.event_shape.rank, name)
    if not mixture:
        axes = list(range(-distribution.event_shape.rank, 0))
        return tf.squeeze(summary(distribution.distribution, name, value), axes)
    axis = -1 - distribution.event_shape.rank
    log = name if name.startswith("log_") else f"log_{name}"
    components = distribution.components_distribution
    each = summary(components, log, tf.expand_dims(value, axis))
    found = tf.reduce_logsumexp(each + _log_weights(distribution), axis=-1)
    return found if log == name else tf.exp(found)


def _of_one_coordinate(value: tf.Tensor, axes: int, name: str) -> tf.Tensor:
    """A value whose last axes are those of the event; a number gets them."""
    if value.shape.rank == 0:
        return tf.reshape(value, [1] * axes)
    last = value.shape[-axes:] if axes else []
    if value.shape.rank < axes or any(size not in (None, 1) for size in last):
        raise ValueError(
            f"`{name}` of one coordinate expects values whose last axes are "
            f"{(1,) * axes}, as in a draw. Received: value.shape={tuple(value.shape)}. "
            "Give a number, or add the axis: `values[..., None]`."
        )
    return value


def _quantile(distribution: Any, name: str, probability: Any) -> Any:
    """Quantiles of one coordinate, of mixtures too; `None` for several."""
    probability = tf.convert_to_tensor(probability, tf.as_dtype(distribution.dtype))
    axes = distribution.event_shape.rank
    try:
        tf.broadcast_static_shape(probability.shape, distribution.batch_shape)
    except ValueError as error:
        raise ValueError(
            "`quantile` expects probabilities that broadcast with the batch shape "
            f"{tuple(distribution.batch_shape)}. Received: a shape of "
            f"{tuple(probability.shape)}. For several levels of each member put them "
            "on an axis in front: `np.array([0.05, 0.95])[:, None]`."
        ) from error
    shape = tf.concat([tf.shape(probability), [1] * axes], axis=0)
    if _is_independent_of_one(distribution):
        return summary(distribution.distribution, name, tf.reshape(probability, shape))
    mixture = isinstance(distribution, meta.MixtureSameFamily)
    if not (mixture and _has_one_number(distribution) and _is_continuous(distribution)):
        return None
    each = summary(
        distribution.components_distribution, name, probability[..., tf.newaxis]
    )
    # The quantile of the mixture lies between those of its components.
    low, high = (
        reduce(each, axis=-1 - axes) for reduce in (tf.reduce_min, tf.reduce_max)
    )
    wanted = tf.broadcast_to(tf.reshape(probability, shape), tf.shape(low))
    return _root(distribution, wanted, low, high)


def _root(distribution: Any, probability: Any, low: Any, high: Any) -> tf.Tensor:
    """The value between two others at which the cdf is `probability`."""
    shape = tf.shape(probability)

    def log_cdf_and_survival(value: Any) -> Any:
        names = ("log_cdf", "log_survival_function")
        return [tf.reshape(summary(distribution, name, value), shape) for name in names]

    return root(log_cdf_and_survival, probability, low, high)


def root(
    log_cdf_and_survival: Callable[[tf.Tensor], Any],
    probability: tf.Tensor,
    low: tf.Tensor,
    high: tf.Tensor,
) -> tf.Tensor:
    """The values between two others at which a continuous cdf is `probability`.

    Args:
        log_cdf_and_survival: Function from values to log F(x) and log(1 - F(x)).
        probability: Probabilities, of the shape of `low`.
        low: Values at which F is at most `probability`.
        high: Values at which F is at least `probability`.

    Returns:
        A tensor of the shape of `low`, accurate to a few rounding errors.

    Example:
        >>> p = tfd.Normal(tf.zeros(2), 1.0)
        >>> logs = lambda x: (p.log_cdf(x), p.log_survival_function(x))
        >>> root(logs, tf.constant([0.1, 0.9]), -9 * tf.ones(2), 9 * tf.ones(2)).numpy()
        array([-1.2815...,  1.2815...], dtype=float32)
    """
    lower = probability < 0.5

    def difference(value: Any) -> tf.Tensor:
        # In the nearer tail, and of logarithms, which keeps digits in both.
        below, above = log_cdf_and_survival(value)
        return tf.where(
            lower,
            below - tf.math.log(probability),
            tf.math.log1p(-probability) - above,
        )

    found = _find_root(difference, low, high)
    found = tf.where((low == high) | (probability <= 0), low, found)
    return tf.where(probability >= 1, high, found)


def first_above(
    is_above: Callable[[tf.Tensor], tf.Tensor],
    low: tf.Tensor,
    high: tf.Tensor,
    integers: bool = False,
) -> tf.Tensor:
    """The smallest values between two others at which a condition holds.

    Args:
        is_above: Function from values to booleans, false below some value and true
            from it on, as of a cdf with jumps.
        low: Values that are not above the results.
        high: Values that are not below the results.
        integers: Whether only integers count; otherwise every floating-point number
            does, except those that are subnormal.

    Returns:
        A tensor of the shape of `low`.

    Example:
        >>> low, high = tf.constant([0.0]), tf.constant([9.0])
        >>> first_above(lambda x: x >= 0.3, low, high).numpy()
        array([0.3], dtype=float32)
    """
    middle = _middle_integer if integers else _middle_number
    low, high = _in_range(low, high)
    if integers:
        low, high = tf.floor(low), tf.math.ceil(high)

    def goes_on(below: tf.Tensor, above: tf.Tensor) -> tf.Tensor:
        between = middle(below, above)
        return tf.reduce_any((below < between) & (between < above))

    def halved(below: tf.Tensor, above: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        between = middle(below, above)
        reached = tf.ensure_shape(is_above(between), between.shape)
        return tf.where(reached, below, between), tf.where(reached, between, above)

    found = tf.while_loop(goes_on, halved, (low, high))[1]
    return tf.where(is_above(low), low, found)


def _in_range(low: tf.Tensor, high: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The ends of an interval, without those near the largest number.

    A component's quantile may be beyond it, and that of the mixture far below.
    """
    largest = low.dtype.max
    return tf.maximum(low, -largest / 4), tf.minimum(high, largest / 4)


def _middle_integer(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    return tf.floor(low + (high - low) / 2)


def _middle_number(low: tf.Tensor, high: tf.Tensor) -> tf.Tensor:
    """The number with as many floating-point numbers below it as above."""
    kind = {2: tf.int16, 4: tf.int32, 8: tf.int64}[low.dtype.size]

    def flipped(bits: tf.Tensor) -> tf.Tensor:
        # The bits of negative numbers are in reverse order.
        return tf.where(bits < 0, kind.min - bits, bits)

    first, last = (flipped(tf.bitcast(end, kind)) for end in (low, high))
    # Without the sum, which may be too large.
    middle = first // 2 + last // 2 + (first % 2 + last % 2) // 2
    number = tf.bitcast(flipped(middle), low.dtype)
    # TensorFlow may take a subnormal number for 0.
    tiny = np.finfo(low.dtype.as_numpy_dtype).tiny
    return tf.where(abs(number) < tiny, tf.zeros_like(number), number)


def _find_root(
    difference: Callable[[tf.Tensor], tf.Tensor],
    low: tf.Tensor,
    high: tf.Tensor,
) -> tf.Tensor:
    return tfp.math.find_root_chandrupatla(
        difference,
        *_in_range(low, high),
        position_tolerance=0.0,
        value_tolerance=8 * np.finfo(low.dtype.as_numpy_dtype).eps,
        max_iterations=300,
    ).estimated_root


def _is_independent_of_one(distribution: Any) -> bool:
    """Whether an `Independent` has a single scalar coordinate."""
    return (
        isinstance(distribution, meta.Independent)
        and not distribution.distribution.event_shape.rank
        and distribution.event_shape.num_elements() == 1
    )


def _has_one_number(distribution: Any) -> bool:
    """Whether draws have one number."""
    return distribution.event_shape.num_elements() == 1


def _is_continuous(distribution: Any) -> bool:
    """Whether draws are real numbers: TFP has a bijector onto such supports only."""
    if isinstance(distribution, meta.MixtureSameFamily):
        return _is_continuous(distribution.components_distribution)
    if isinstance(distribution, meta.Independent):
        return _is_continuous(distribution.distribution)
    return distribution.experimental_default_event_space_bijector() is not None


def _log_weights(mixture: Any) -> tf.Tensor:
    logits = mixture.mixture_distribution.logits_parameter()
    return tf.math.log_softmax(logits, axis=-1)


def sizes(tensor: tf.Tensor) -> list[Any]:
    """Sizes of the axes: integers if known, otherwise scalar tensors.

    Args:
        tensor: A tensor of known rank.

    Returns:
        A list.

    Example:
        >>> sizes(tf.zeros([2, 3]))
        [2, 3]
    """
    dynamic = tf.shape(tensor)
    known = enumerate(tensor.shape.as_list())
    return [dynamic[i] if size is None else size for i, size in known]


SUMMARIES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("mean", "stddev", "variance"), _of_blocks),
    **dict.fromkeys(_OF_A_VALUE, _of_a_value),
    "mode": _mode,
    "covariance": _covariance,
    "quantile": _quantile,
}
