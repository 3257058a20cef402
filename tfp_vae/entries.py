"""Distribution functions, quantiles and class probabilities of each entry.

`tfd.Independent.cdf` is that of all entries jointly. Here F_i(x) = P(X_i <= x), for
each entry (coordinate) i of the event and each member of the batch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.distributions.unit_interval import quantile_of_beta
from tfp_vae.incomplete_gamma import incomplete_gamma, quantile_of_gamma
from tfp_vae.summaries import first_above, root, summary
from tfp_vae.supports import REALS, support_of

tfd: Any = tfp.distributions

_MIXTURES = meta.MixtureSameFamily | meta.Mixture
# Discrete distributions whose values need not be integers.
_ANY_POINTS = tfd.Deterministic | tfd.FiniteDiscrete | tfd.Empirical
_LARGEST_INTEGER = 2.0**30
# Those with incomplete gamma and beta functions, which lose their digits in float32 if
# the parameters are large.
_OF_A_GAMMA = tfd.Gamma | tfd.InverseGamma | tfd.Chi2
_IN_DOUBLE = (
    _OF_A_GAMMA
    | tfd.Poisson
    | tfd.NegativeBinomial
    | tfd.Binomial
    | tfd.Beta
    | tfd.StudentT
)


def cdf_of_entries(distribution: Any, values: Any, log: bool = False) -> tf.Tensor:
    """The distribution function of each entry, F_i(x_i) = P(X_i <= x_i).

    Args:
        distribution: A `tfd.Distribution`: scalars, `Independent` or `Sample` of them,
            multivariate normal or Student-t, scalar transformations of these, blocks
            and mixtures of all.
        values: A number, or values of shape `batch_shape + event_shape`, with any axes
            in front.
        log: Whether to return logarithms, which are accurate in the tail.

    Returns:
        Probabilities of the shape of `values`; of `batch_shape + event_shape` for a
        number.

    Raises:
        ValueError: If the entries have no known distribution function, or the shape
            does not fit.

    Example:
        >>> p = tfd.Independent(tfd.Normal([[0.0, 1.0]], 1.0), 1)
        >>> cdf_of_entries(p, [[0.0, 1.0]]).numpy()  # `p.cdf` is their product
        array([[0.5, 0.5]], dtype=float32)
    """
    name = "log_cdf" if log else "cdf"
    return _of_values(distribution, name, values, "cdf_of_entries")


def survival_of_entries(distribution: Any, values: Any, log: bool = False) -> tf.Tensor:
    """The survival function of each entry, 1 - F_i(x_i).

    It is accurate in the upper tail, except for families for which there is only a
    cdf, such as the triangular distribution.

    Args:
        distribution: As in `cdf_of_entries`.
        values: As in `cdf_of_entries`.
        log: As in `cdf_of_entries`.

    Returns:
        Probabilities of the shape of `values`.

    Raises:
        ValueError: As in `cdf_of_entries`.

    Example:
        >>> float(survival_of_entries(tfd.Normal(0.0, 1.0), 8.0)) > 0
        True
    """
    name = "log_survival_function" if log else "survival_function"
    return _of_values(distribution, name, values, "survival_of_entries")


def probability_below_entries(distribution: Any, values: Any) -> tf.Tensor:
    """The probability of smaller values of each entry, P(X_i < x_i).

    Args:
        distribution: As in `cdf_of_entries`.
        values: As in `cdf_of_entries`.

    Returns:
        Probabilities of the shape of `values`; those of `cdf_of_entries` less the
        jumps.

    Raises:
        ValueError: As in `cdf_of_entries`.

    Example:
        >>> float(probability_below_entries(tfd.Bernoulli(probs=0.25), 1.0))
        0.75
    """
    caller = "probability_below_entries"
    return _of_values(distribution, "probability_below", values, caller)


def quantile_of_entries(distribution: Any, level: Any) -> tf.Tensor:
    """The quantile of each entry: the smallest x with F_i(x) >= level.

    TFP's formula is used if there is one. Otherwise x is searched between bounds that
    are found by doubling or, for a mixture, between the quantiles of its components.
    For integers it is an integer.

    Args:
        distribution: As in `cdf_of_entries`.
        level: A probability between 0 and 1, or an array of them.

    Returns:
        A floating-point tensor of shape `(*level.shape, *batch_shape, *event_shape)`.

    Raises:
        ValueError: If a level is not between 0 and 1, or the entries have no known
            distribution function.

    Example:
        >>> p = tfd.Independent(tfd.Poisson([[1.0, 4.0]]), 1)
        >>> quantile_of_entries(p, [0.5, 0.9]).numpy()
        array([[[1., 4.]],
        <BLANKLINE>
               [[2., 7.]]], dtype=float32)
    """
    distribution = unwrap(distribution)
    dtype = float_dtype(distribution)
    if not tf.is_tensor(level):
        level = np.asarray(level, "float64")
    known = tf.get_static_value(level) if tf.is_tensor(level) else level
    if known is not None and not np.all((known > 0) & (known < 1)):
        raise ValueError(
            "`quantile_of_entries` expects levels between 0 and 1, without the ends. "
            f"Received: level={level!r}. Give a probability, such as 0.9."
        )
    level = tf.cast(tf.convert_to_tensor(level), dtype)
    shape = _shape(distribution)
    level = tf.reshape(level, tf.concat([tf.shape(level), tf.ones_like(shape)], axis=0))
    return _explained(
        "quantile_of_entries",
        distribution,
        lambda: _apply(distribution, "quantile", _broadcast(level, shape)),
    )


def of_entries(
    distribution: Any, fn: Callable[[Any, tf.Tensor], tf.Tensor], values: tf.Tensor
) -> tf.Tensor:
    """Applies a function to the distributions of the entries, and joins the results.

    Args:
        distribution: A plain `tfd.Distribution`.
        fn: Function of a distribution and of values, which returns a tensor of the
            shape of the values. It must take scalar distributions, mixtures, and other
            distributions that `of_entries` cannot split, with their whole event.
        values: Floating-point values of shape `(..., *batch_shape, *event_shape)`.

    Returns:
        A tensor of the shape of `values`.

    Example:
        >>> p = tfd.Sample(tfd.Normal([0.0, 1.0], 1.0), 3)
        >>> of_entries(p, lambda q, x: x - q.mean(), tf.zeros([2, 3])).numpy()
        array([[ 0.,  0.,  0.],
               [-1., -1., -1.]], dtype=float32)
    """
    distribution = _with_scalar_marginals(unwrap(distribution))
    if isinstance(distribution, meta.Independent):
        return of_entries(distribution.distribution, fn, values)
    if isinstance(distribution, meta.Sample):
        return _of_sample(distribution, fn, values)
    if isinstance(distribution, meta.Blockwise):
        return _of_blocks(distribution, fn, values)
    return fn(distribution, values)


def cdf_has_jumps(distribution: Any) -> bool:
    """Whether the distribution function has jumps.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        True if that of at least one part has jumps.

    Example:
        >>> cdf_has_jumps(tfd.Independent(tfd.Poisson([1.0]), 1))
        True
        >>> cdf_has_jumps(tfd.Normal(0.0, 1.0))
        False
    """
    return any(not _is_continuous(leaf) for leaf in _leaves(unwrap(distribution)))


def is_integer(distribution: Any) -> bool:
    """Whether all values are integers.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        True if all of its parts are distributions of integers.

    Example:
        >>> is_integer(tfd.Poisson(1.0)), is_integer(tfd.Deterministic(0.5))
        (True, False)
    """
    return all(_has_integers(leaf) for leaf in _leaves(unwrap(distribution)))


def float_dtype(distribution: Any) -> tf.DType:
    """The dtype for probabilities and moments of a distribution.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        Its dtype, or float32 if it is one of integers.

    Example:
        >>> float_dtype(tfd.Bernoulli(0.5))
        tf.float32
    """
    dtype = tf.as_dtype(unwrap(distribution).dtype)
    return dtype if dtype.is_floating else tf.float32


def log_weights(mixture: Any, event_axes: int) -> tf.Tensor:
    """Logarithms of the weights of a mixture, followed by axes of its event.

    Args:
        mixture: A `tfd.MixtureSameFamily` or `tfd.Mixture`.
        event_axes: Number of axes of length 1 to append.

    Returns:
        A tensor of shape `(*batch_shape, k, 1, ..., 1)`.

    Example:
        >>> p = tfd.MixtureSameFamily(
        ...     tfd.Categorical(probs=[0.5, 0.5]), tfd.Normal([0.0, 1.0], 1.0))
        >>> tf.exp(log_weights(p, 1)).shape
        TensorShape([2, 1])
    """
    same = isinstance(mixture, meta.MixtureSameFamily)
    categorical = mixture.mixture_distribution if same else mixture.cat
    weights = tf.math.log_softmax(categorical.logits_parameter(), axis=-1)
    return tf.reshape(weights, tf.concat([tf.shape(weights), [1] * event_axes], axis=0))


def concentration_and_rate(p: Any) -> tuple[Any, Any]:
    """The parameters of a distribution as those of a gamma distribution.

    Args:
        p: A `tfd.Gamma` or `tfd.Chi2`.

    Returns:
        Two tensors or numbers.

    Example:
        >>> [float(part) for part in concentration_and_rate(tfd.Chi2(6.0))]
        [3.0, 0.5]
    """
    if isinstance(p, tfd.Chi2):
        return p.df / 2, 0.5
    return p.concentration, p.rate if p.rate is not None else tf.exp(p.log_rate)


def class_probs(distribution: Any) -> tf.Tensor:
    """The probabilities of the classes of each entry.

    Args:
        distribution: `tfd.Bernoulli`, `tfd.Categorical` or `tfd.OneHotCategorical`,
            also inside `tfd.Independent`, `tfd.MixtureSameFamily` or `tfd.Mixture`.

    Returns:
        A tensor with the classes on its last axis.

    Raises:
        NotImplementedError: If it is another distribution.

    Example:
        >>> class_probs(tfd.Bernoulli(probs=[0.25])).numpy()
        array([[0.75, 0.25]], dtype=float32)
    """
    if isinstance(distribution, meta.Independent):
        return class_probs(distribution.distribution)
    if isinstance(distribution, meta.MixtureSameFamily):
        components = distribution.components_distribution
        probs = class_probs(components)
        axes = probs.shape.rank - components.batch_shape.rank
        weights = tf.cast(tf.exp(log_weights(distribution, axes)), probs.dtype)
        return tf.reduce_sum(probs * weights, axis=-1 - axes)
    if isinstance(distribution, meta.Mixture):
        parts = [class_probs(part) for part in distribution.components]
        axis = distribution.batch_shape.rank
        probs = tf.stack(parts, axis)
        weights = tf.exp(log_weights(distribution, probs.shape.rank - axis - 1))
        return tf.reduce_sum(probs * tf.cast(weights, probs.dtype), axis=axis)
    if isinstance(distribution, tfd.Bernoulli):
        probs = distribution.probs_parameter()
        return tf.stack([1 - probs, probs], axis=-1)
    if isinstance(distribution, tfd.Categorical | tfd.OneHotCategorical):
        return distribution.probs_parameter()
    raise NotImplementedError(
        "Probabilities of classes expect a distribution of classes, `Bernoulli`, "
        f"`Categorical` or `OneHotCategorical`. Received: {distribution}. For other "
        "distributions use `mean` and `stddev`, or in place of entropies "
        "`epistemic_stddev` and `aleatoric_stddev`."
    )


def _of_values(distribution: Any, name: str, values: Any, caller: str) -> tf.Tensor:
    distribution = unwrap(distribution)
    if not tf.is_tensor(values):
        values = np.asarray(values)
    values = tf.cast(tf.convert_to_tensor(values), float_dtype(distribution))
    shape = _shape(distribution)
    if values.shape.rank == 0:
        values = _broadcast(values, shape)
    static = distribution.batch_shape.concatenate(distribution.event_shape)
    rank = values.shape.rank
    if (
        rank is None
        or rank < static.rank
        or not static.is_compatible_with(values.shape[rank - static.rank :])
    ):
        raise ValueError(
            f"`{caller}` expects a number, or values whose last axes are the batch "
            f"shape {tuple(distribution.batch_shape)} and the event shape "
            f"{tuple(distribution.event_shape)}. Received: values of shape "
            f"{values.shape}. Reshape them; give several values for each entry on axes "
            "in front."
        )
    return _explained(caller, distribution, lambda: _apply(distribution, name, values))


def _explained(caller: str, distribution: Any, compute: Any) -> tf.Tensor:
    try:
        return compute()
    except NotImplementedError as error:
        raise ValueError(
            f"`{caller}` expects a distribution whose entries have a known "
            f"distribution function. Received: {distribution}. Estimate it from "
            "draws, `p.sample(1000)`, or predict entries that are independent."
        ) from error


def _apply(distribution: Any, name: str, values: tf.Tensor) -> tf.Tensor:
    """`cdf`, `quantile` and so on of each entry, for values of the full shape."""
    return of_entries(
        distribution, lambda part, value: _of_part(part, name, value), values
    )


def _of_part(part: Any, name: str, value: tf.Tensor) -> tf.Tensor:
    if isinstance(part, _MIXTURES):
        return _of_mixture(part, name, value)
    if part.event_shape.rank == 0:
        return _of_scalar(part, name, value)
    bijector = getattr(part, "bijector", None)
    if (
        isinstance(bijector, tfp.bijectors.Bijector)
        and bijector.forward_min_event_ndims == 0
        and bijector.inverse_min_event_ndims == 0
    ):
        # TFP's formulas know whether the bijector increases.
        scalars = tfd.TransformedDistribution(_Entries(part.distribution), bijector)
        if name == "probability_below":
            name, value = "cdf", _before(part, value)
        return getattr(scalars, name)(tf.identity(value))
    raise NotImplementedError(f"Entries of {part} have no known `{name}`.")


def _of_mixture(mixture: Any, name: str, value: tf.Tensor) -> tf.Tensor:
    axes = mixture.event_shape.rank
    if name == "quantile":
        each = _of_components(mixture, name, value)
        low, high = (
            reduce(each, axis=-1 - axes) for reduce in (tf.reduce_min, tf.reduce_max)
        )
        return _search(mixture, value, low, high)
    each = _of_components(mixture, name, value)
    weights = tf.cast(log_weights(mixture, axes), each.dtype)
    if name.startswith("log_"):
        return tf.reduce_logsumexp(each + weights, axis=-1 - axes)
    return tf.reduce_sum(each * tf.exp(weights), axis=-1 - axes)


def _of_components(mixture: Any, name: str, value: tf.Tensor) -> tf.Tensor:
    """The results of all components, `(..., *batch_shape, k, *event_shape)`."""
    axis = -1 - mixture.event_shape.rank
    if isinstance(mixture, meta.Mixture):
        parts = [_apply(part, name, value) for part in mixture.components]
        return tf.stack(parts, axis=axis)
    components = mixture.components_distribution
    value = tf.expand_dims(value, axis)
    return _apply(components, name, _broadcast(value, _shape(components)))


def _of_scalar(distribution: Any, name: str, value: tf.Tensor) -> tf.Tensor:
    if isinstance(distribution, _IN_DOUBLE) and value.dtype != tf.float64:
        found = _of_scalar(_in_double(distribution), name, tf.cast(value, tf.float64))
        return tf.cast(found, value.dtype)
    if isinstance(distribution, _ANY_POINTS):
        return _of_points(distribution, name, value)
    if name == "quantile":
        if isinstance(distribution, tfd.Beta):
            return tf.cast(quantile_of_beta(distribution, value), value.dtype)
        if isinstance(distribution, _OF_A_GAMMA):
            return _quantile_of_gamma(distribution, value)
        try:
            if distribution.dtype.is_integer:
                raise NotImplementedError  # TFP's methods have other errors
            return tf.cast(summary(distribution, name, value), value.dtype)
        except NotImplementedError:
            return _search(distribution, value, *_bounds(distribution, value))
    if name == "probability_below":
        return _of_scalar(distribution, "cdf", _before(distribution, value))
    dtype = value.dtype
    # Between integers, and outside of the support, TFP's formulas do not hold.
    if _has_integers(distribution):
        value = tf.floor(value)
        if distribution.dtype.is_integer:
            value = tf.clip_by_value(value, -_LARGEST_INTEGER, _LARGEST_INTEGER)
            value = tf.cast(value, distribution.dtype)
    else:
        value = tf.clip_by_value(value, *_ends(distribution))
    if isinstance(distribution, _OF_A_GAMMA | tfd.Poisson):
        return _tail_of_gamma(distribution, name, value)
    tail = _tail(distribution, name, value)
    if tail is None:
        return tf.cast(summary(distribution, name, value), dtype)
    tail = tf.cast(tail, dtype)
    return tf.math.log(tail) if name.startswith("log_") else tail


def _of_points(p: Any, name: str, value: tf.Tensor) -> tf.Tensor:
    """Probabilities and quantiles of a distribution on points, exact in the points.

    TFP's methods take values near a point for it.
    """
    if isinstance(p, tfd.FiniteDiscrete):
        points, probs = p.outcomes, p.probs_parameter()
    else:
        is_one = isinstance(p, tfd.Deterministic)
        points = tf.convert_to_tensor(p.loc)[..., tf.newaxis] if is_one else p.samples
        probs = tf.ones_like(points, value.dtype)
        probs /= tf.cast(tf.shape(points)[-1], value.dtype)
    points, probs = tf.cast(points, value.dtype), tf.cast(probs, value.dtype)
    x = value[..., tf.newaxis]
    if name == "quantile":
        shape = tf.broadcast_dynamic_shape(tf.shape(points), tf.shape(probs))
        points, probs = tf.broadcast_to(points, shape), tf.broadcast_to(probs, shape)
        order = tf.argsort(points, axis=-1)
        points = tf.gather(points, order, batch_dims=-1, axis=-1)
        cdf = tf.cumsum(tf.gather(probs, order, batch_dims=-1, axis=-1), axis=-1)
        # The last point reaches every level, whatever the rounding.
        reached = cdf[..., :-1] >= _except_for_rounding(x)
        reached = tf.concat([reached, tf.ones_like(x, tf.bool)], axis=-1)
        found = tf.reduce_min(tf.where(reached, points, value.dtype.max), axis=-1)
    elif name == "probability_below":
        found = tf.reduce_sum(tf.where(points < x, probs, 0), axis=-1)
    elif name.endswith("survival_function"):
        found = tf.reduce_sum(tf.where(points > x, probs, 0), axis=-1)
    else:
        found = tf.reduce_sum(tf.where(points <= x, probs, 0), axis=-1)
    unknown = tf.reduce_any(tf.math.is_nan(points) | tf.math.is_nan(probs), axis=-1)
    found = tf.where(unknown, tf.constant(np.nan, found.dtype), found)
    return tf.math.log(found) if name.startswith("log_") else found


def _before(distribution: Any, value: tf.Tensor) -> tf.Tensor:
    """Where the cdf is P(X < x), of a distribution of integers or without jumps."""
    return tf.math.ceil(value) - 1 if _has_integers(distribution) else value


def _tail(p: Any, name: str, value: tf.Tensor) -> tf.Tensor | None:
    """P(X <= x) or P(X > x) where TFP loses the digits; `None` where it does not."""
    is_upper = name.endswith("survival_function")
    if isinstance(p, tfd.Cauchy):
        z = (value - p.loc) / p.scale
        return tf.math.atan2(tf.ones_like(z), z if is_upper else -z) / np.pi
    if not is_upper:
        return None
    if isinstance(p, tfd.Beta):
        inside = tf.clip_by_value(value, 0, 1)
        return tfp.math.betainc(p.concentration0, p.concentration1, 1 - inside)
    if not isinstance(p, tfd.NegativeBinomial | tfd.Binomial):
        return None
    probs, count = p.probs_parameter(), tf.convert_to_tensor(p.total_count)
    above = tf.maximum(value, -1) + 1
    below = count - above + 1 if isinstance(p, tfd.Binomial) else count
    # The incomplete beta function is not defined at the ends of the support.
    inside = (above > 0) & (below > 0)
    one = tf.ones([], value.dtype)
    tail = tfp.math.betainc(
        tf.where(inside, above, one), tf.where(inside, below, one), probs
    )
    tail = tf.where(inside, tail, tf.cast(above <= 0, tail.dtype))
    unknown = tf.math.is_nan(value) | tf.math.is_nan(count) | tf.math.is_nan(probs)
    return tf.where(unknown, tf.constant(np.nan, tail.dtype), tail)


def _tail_of_gamma(p: Any, name: str, value: tf.Tensor) -> tf.Tensor:
    """Probabilities below or above a value, by the incomplete gamma functions."""
    if isinstance(p, tfd.Poisson):
        above, below = incomplete_gamma(tf.maximum(value, 0) + 1, p.rate_parameter())
        below = tf.where(value < 0, tf.zeros_like(below), below)
        above = tf.where(value < 0, tf.ones_like(above), above)
    elif isinstance(p, tfd.InverseGamma):
        above, below = incomplete_gamma(p.concentration, p.scale / value)
    else:
        concentration, rate = concentration_and_rate(p)
        below, above = incomplete_gamma(concentration, rate * value)
    found = above if name.endswith("survival_function") else below
    return tf.math.log(found) if name.startswith("log_") else found


def _quantile_of_gamma(p: Any, level: tf.Tensor) -> tf.Tensor:
    if isinstance(p, tfd.InverseGamma):
        return p.scale / quantile_of_gamma(p.concentration, 1 - level)
    concentration, rate = concentration_and_rate(p)
    return quantile_of_gamma(concentration, level) / rate


def _in_double(distribution: Any) -> Any:
    """The distribution with parameters of float64."""
    given = distribution.parameters
    names = type(distribution).parameter_properties()
    return distribution.copy(
        **{
            name: tf.cast(tf.convert_to_tensor(given[name]), tf.float64)
            for name in names
            if given.get(name) is not None
        }
    )


def _search(distribution: Any, level: Any, low: Any, high: Any) -> tf.Tensor:
    """The smallest value between two others with a cdf of at least the level."""
    if not cdf_has_jumps(distribution):

        def logs(value: Any) -> Any:
            names = ("log_cdf", "log_survival_function")
            return [_apply(distribution, name, value) for name in names]

        return root(logs, level, low, high)
    reached = _except_for_rounding(level)

    def cdf(value: Any) -> tf.Tensor:
        return _apply(distribution, "cdf", value)

    found = first_above(
        lambda value: cdf(value) >= reached, low, high, is_integer(distribution)
    )
    return found + 0 * cdf(found)  # NaN where a parameter is


def _except_for_rounding(level: tf.Tensor) -> tf.Tensor:
    """What a cdf has at the value where it reaches the level, at the least."""
    return level * (1 - 8 * np.finfo(level.dtype.as_numpy_dtype).eps)


def _bounds(distribution: Any, level: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Values at which the cdf is below the level, and above it, found by doubling."""
    largest = level.dtype.max / 8
    wanted = _except_for_rounding(level) if cdf_has_jumps(distribution) else level

    def search(sign: float, end: float) -> tf.Tensor:
        if np.isfinite(end):
            return tf.fill(tf.shape(level), tf.constant(end, level.dtype))

        def is_beyond(value: tf.Tensor) -> tf.Tensor:
            cdf = _apply(distribution, "cdf", value)
            return cdf < wanted if sign < 0 else cdf >= wanted

        return tf.while_loop(
            lambda value: tf.reduce_any(~is_beyond(value) & (abs(value) < largest)),
            lambda value: (tf.where(is_beyond(value), value, 2 * value),),
            (tf.fill(tf.shape(level), tf.constant(sign, level.dtype)),),
        )[0]

    low, high = _ends(distribution)
    return search(-1.0, low), search(1.0, high)


def _ends(distribution: Any) -> tuple[float, float]:
    """The ends of the support; infinite if they are not known."""
    if isinstance(distribution, tfd.InverseGaussian):
        return 0.0, np.inf  # TFP's bijector does not say so
    support = support_of(distribution)
    if support is None or support.kind != REALS:
        return -np.inf, np.inf
    low = -np.inf if np.isnan(support.low) else support.low
    return low, np.inf if np.isnan(support.high) else support.high


def _of_sample(distribution: Any, fn: Any, values: tf.Tensor) -> tf.Tensor:
    """`of_entries` for a `tfd.Sample`: its repetitions become axes before the batch."""
    inner = distribution.distribution
    event = inner.event_shape.rank
    repeats = distribution.event_shape.rank - event
    batch = distribution.batch_shape.rank
    rank = values.shape.rank
    front = rank - batch - repeats - event
    axes = list(range(rank))
    order = [
        *axes[:front],
        *axes[front + batch : front + batch + repeats],
        *axes[front : front + batch],
        *axes[front + batch + repeats :],
    ]
    moved = of_entries(inner, fn, tf.transpose(values, order))
    return tf.transpose(moved, np.argsort(order))


def _of_blocks(distribution: Any, fn: Any, values: tf.Tensor) -> tf.Tensor:
    blocks = distribution.distributions
    sizes = [block.event_shape.num_elements() for block in blocks]
    results = []
    for block, value in zip(blocks, tf.split(values, sizes, axis=-1), strict=True):
        leading = tf.shape(value)[:-1]
        shape = tf.concat([leading, block.event_shape], axis=0)
        value = tf.cast(tf.reshape(value, shape), float_dtype(block))
        found = tf.cast(of_entries(block, fn, value), values.dtype)
        results.append(tf.reshape(found, tf.concat([leading, [-1]], axis=0)))
    return tf.concat(results, axis=-1)


def _with_scalar_marginals(distribution: Any) -> Any:
    """Entries of multivariate distributions, as if they were independent."""
    if isinstance(distribution, tfd.MultivariateNormalLinearOperator):
        marginals = tfd.Normal(distribution.mean(), distribution.stddev())
    elif isinstance(distribution, tfd.MultivariateStudentTLinearOperator):
        scale = distribution.scale
        spread = tf.sqrt(tf.reduce_sum(tf.square(scale.to_dense()), axis=-1))
        df = tf.convert_to_tensor(distribution.df)[..., tf.newaxis]
        marginals = tfd.StudentT(df, distribution.loc, spread)
    else:
        return distribution
    return tfd.Independent(marginals, 1)


class _Entries(tfd.Distribution):
    """Each entry of a distribution as a member of a batch of scalar distributions."""

    def __init__(self, distribution: Any) -> None:
        self._whole = distribution
        super().__init__(
            dtype=float_dtype(distribution),
            reparameterization_type=distribution.reparameterization_type,
            validate_args=False,
            allow_nan_stats=True,
            parameters={"distribution": distribution},
            name="Entries",
        )

    def _batch_shape(self) -> Any:
        return self._whole.batch_shape.concatenate(self._whole.event_shape)

    def _batch_shape_tensor(self) -> Any:
        return _shape(self._whole)

    def _event_shape(self) -> Any:
        return tf.TensorShape([])

    def _event_shape_tensor(self) -> Any:
        return tf.zeros([0], tf.int32)

    def _cdf(self, value: Any) -> tf.Tensor:
        return _apply(self._whole, "cdf", value)

    def _log_cdf(self, value: Any) -> tf.Tensor:
        return _apply(self._whole, "log_cdf", value)

    def _survival_function(self, value: Any) -> tf.Tensor:
        return _apply(self._whole, "survival_function", value)

    def _log_survival_function(self, value: Any) -> tf.Tensor:
        return _apply(self._whole, "log_survival_function", value)

    def _quantile(self, value: Any) -> tf.Tensor:
        return _apply(self._whole, "quantile", value)


def _leaves(distribution: Any) -> list[Any]:
    """The distributions inside wrappers, blocks and the components of mixtures."""
    if isinstance(distribution, meta.Independent | meta.Sample):
        parts = [distribution.distribution]
    elif isinstance(distribution, meta.Blockwise):
        parts = list(distribution.distributions)
    elif isinstance(distribution, meta.MixtureSameFamily):
        parts = [distribution.components_distribution]
    elif isinstance(distribution, meta.Inflated):
        at = tfd.Deterministic(distribution.inflated_loc)
        parts = [at, distribution.distribution]
    elif isinstance(distribution, meta.Mixture):
        parts = list(distribution.components)
    elif isinstance(distribution, meta.BatchBroadcast | meta.BatchReshape):
        parts = [distribution.distribution]
    else:
        return [distribution]
    return [leaf for part in parts for leaf in _leaves(unwrap(part))]


def _is_continuous(leaf: Any) -> bool:
    if isinstance(leaf, tfd.Deterministic | tfd.VectorDeterministic):
        return False
    return leaf.experimental_default_event_space_bijector() is not None


def _has_integers(leaf: Any) -> bool:
    if tf.as_dtype(leaf.dtype).is_integer:
        return True
    if isinstance(leaf, _ANY_POINTS):
        names = [name for name in ("loc", "outcomes", "samples") if hasattr(leaf, name)]
        points = tf.get_static_value(getattr(leaf, names[0]))
        return points is not None and bool(np.all(points == np.round(points)))
    return not _is_continuous(leaf)


def _shape(distribution: Any) -> tf.Tensor:
    """Batch and event shape in one."""
    return tf.concat(
        [distribution.batch_shape_tensor(), distribution.event_shape_tensor()], axis=0
    )


def _broadcast(values: tf.Tensor, shape: Any) -> tf.Tensor:
    """Values broadcast against a shape."""
    return tf.broadcast_to(values, tf.broadcast_dynamic_shape(tf.shape(values), shape))
