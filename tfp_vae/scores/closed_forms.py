"""Closed forms of the continuous ranked probability score of scalar distributions.

    CRPS(F, y) = int (F(x) - 1{y <= x})^2 dx = E|X - y| - 1/2 E|X - X'|

Reference:
    Jordan, Krueger and Lerch, Evaluating probabilistic forecasts with scoringRules,
    2019. https://doi.org/10.18637/jss.v090.i12
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.distributions.quantized_logistic import QuantizedLogistic
from tfp_vae.entries import cdf_of_entries, concentration_and_rate, log_weights
from tfp_vae.incomplete_gamma import incomplete_gamma

tfd: Any = tfp.distributions

# Nodes and weights on (0, 1) for the mean difference of negative binomials.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
# Numbers of pairs of components computed at once, where sizes are known.
_MOST_NUMBERS = 2**22


def closed_form_crps(distribution: Any, y: tf.Tensor) -> tf.Tensor | None:
    """The CRPS of a scalar distribution in closed form, if it is known.

    Args:
        distribution: A plain `tfd.Distribution` with a scalar event.
        y: Floating-point values of shape `(..., *batch_shape)`.

    Returns:
        A tensor of the shape of `y`, or `None`.

    Example:
        >>> p = tfd.Normal(0.0, 1.0)
        >>> round(float(closed_form_crps(p, tf.constant(0.0))), 4)
        0.2337
        >>> closed_form_crps(tfd.Beta(1.0, 2.0), tf.constant(0.0)) is None
        True
    """
    for cls in type(distribution).__mro__:
        if cls in _FORMS:
            return _FORMS[cls](distribution, y)
    return None


def crps_of_normals(
    y: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor, weights: tf.Tensor
) -> tf.Tensor:
    """The CRPS of mixtures of normal distributions:

        sum_i w_i A(y - m_i, s_i) - 1/2 sum_ij w_i w_j A(m_i - m_j, sqrt(s_i^2 + s_j^2))

    with A(m, s) = E|N(m, s^2)|.

    Args:
        y: Values of shape `(..., *shape)`.
        loc: Means, of shape `(*shape, k)`.
        scale: Standard deviations, which broadcast against that shape.
        weights: Weights, which do too.

    Returns:
        A tensor of the shape of `y`.

    Example:
        >>> two = tf.zeros(2)
        >>> f"{crps_of_normals(tf.zeros([]), two, two + 1.0, two + 0.5):.4f}"
        '0.2337'
    """
    distance = _mean_size(y[..., tf.newaxis] - loc, scale)
    expected = tf.reduce_sum(weights * distance, axis=-1)

    def mean_distance(a: Any, b: Any) -> tf.Tensor:
        # Not `hypot`, whose gradient is infinite where both are 0.
        both = tf.sqrt(tf.square(a[1]) + tf.square(b[1]))
        return _mean_size(a[0] - b[0], both)

    pairs = sum_over_pairs(mean_distance, weights, (loc, scale), (loc, scale))
    return expected - 0.5 * pairs


def sum_over_pairs(
    function: Callable[[Any, Any], tf.Tensor],
    weights: tf.Tensor,
    first: tuple[tf.Tensor, ...],
    second: tuple[tf.Tensor, ...],
) -> tf.Tensor:
    """The weighted sum of a function of two components over all pairs of them:

        sum_ij w_i w_j f(a_i, b_j)

    Args:
        function: Function of two tuples of tensors.
        weights: Weights, of shape `(..., k)`.
        first: The a, tensors of shape `(..., k)`; all shapes broadcast.
        second: The b.

    Returns:
        A tensor without the last axis. Memory is that of one component against all,
        unless the pairs are few, or a gradient needs them.

    Example:
        >>> x = tf.constant([0.0, 1.0])
        >>> half = tf.constant([0.5, 0.5])
        >>> float(sum_over_pairs(lambda a, b: abs(a[0] - b[0]), half, (x,), (x,)))
        0.5
    """

    def total(weight: tf.Tensor, one: Any) -> tf.Tensor:
        value = function(
            [part[..., :, tf.newaxis] for part in one],
            [part[..., tf.newaxis, :] for part in second],
        )
        product = weight[..., :, tf.newaxis] * weights[..., tf.newaxis, :]
        return tf.reduce_sum(product * value, axis=[-2, -1])

    parts = [weights, *first]
    static = functools.reduce(
        tf.broadcast_static_shape, [part.shape for part in [*parts, *second]]
    )
    known = [size or 1 for size in static]
    if math.prod([*known, known[-1]]) <= _MOST_NUMBERS:
        return total(weights, first)
    shape = functools.reduce(tf.broadcast_dynamic_shape, map(tf.shape, parts))
    rank = max(part.shape.rank for part in parts)
    order = [rank - 1, *range(rank - 1)]
    each = [tf.transpose(tf.broadcast_to(part, shape), order) for part in parts]

    def of_one(one: Any) -> tf.Tensor:
        weight, *rest = (part[..., tf.newaxis] for part in one)
        return total(weight, rest)

    found = tf.map_fn(of_one, each, fn_output_signature=weights.dtype)
    return tf.reduce_sum(found, axis=0)


def _mean_size(mean: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """E|N(mean, scale^2)|."""
    z = mean / scale
    return scale * (z * tf.math.erf(z / math.sqrt(2.0)) + 2 * _density(z))


def _density(z: tf.Tensor) -> tf.Tensor:
    return tf.exp(-0.5 * tf.square(z)) / math.sqrt(2 * math.pi)


def _below(z: tf.Tensor) -> tf.Tensor:
    """The standard normal distribution function."""
    return 0.5 * tf.math.erfc(-z / math.sqrt(2.0))


def _standard(p: Any, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    scale = tf.convert_to_tensor(p.scale)
    return (y - p.loc) / scale, scale


def _normal(p: Any, y: tf.Tensor) -> tf.Tensor:
    z, scale = _standard(p, y)
    return _mean_size(z * scale, scale) - scale / math.sqrt(math.pi)


def _logistic(p: Any, y: tf.Tensor) -> tf.Tensor:
    z, scale = _standard(p, y)
    return scale * (z + 2 * tf.math.softplus(-z) - 1)


def _laplace(p: Any, y: tf.Tensor) -> tf.Tensor:
    z, scale = _standard(p, y)
    size = abs(z)
    return scale * (size + tf.exp(-size) - 0.75)


def _student(p: Any, y: tf.Tensor) -> tf.Tensor:
    """Infinite for df <= 1/2. At df = 1 the form is 0 / 0, so df is moved by 2e-6."""
    z, scale = (tf.cast(part, tf.float64) for part in _standard(p, y))
    df = tf.cast(p.df, tf.float64)
    is_infinite = df <= 0.5
    df = tf.where(is_infinite, tf.constant(2, df.dtype), df)
    df = tf.where(abs(df - 1) < 1e-6, df + 2e-6, df)
    standard = tfd.StudentT(df, tf.zeros([], df.dtype), tf.ones([], df.dtype))
    # By symmetry, from the smaller tail; the distance has no gradient at 0.
    size = abs(z)
    above = standard.survival_function(size)
    density = tf.exp(standard.log_prob(size))
    spread = tf.exp(
        tfp.math.lbeta(tf.constant(0.5, df.dtype), df - 0.5)
        - 2 * tfp.math.lbeta(tf.constant(0.5, df.dtype), df / 2)
    )
    crps = size * (1 - 2 * above) + 2 * density * (df + size**2) / (df - 1)
    crps = scale * (crps - 2 * tf.sqrt(df) / (df - 1) * spread)
    crps = tf.where(is_infinite, tf.constant(np.inf, crps.dtype), crps)
    return tf.cast(crps, y.dtype)


def _log_normal(p: Any, y: tf.Tensor) -> tf.Tensor:
    loc, scale = tf.convert_to_tensor(p.loc), tf.convert_to_tensor(p.scale)
    positive = y > 0
    z = (tf.math.log(tf.where(positive, y, 1)) - loc) / scale
    cdf = tf.where(positive, _below(z), 0)
    part = tf.where(positive, _below(z - scale), 0)
    mean = tf.exp(loc + 0.5 * scale**2)
    return y * (2 * cdf - 1) - 2 * mean * (part - _below(-scale / math.sqrt(2.0)))


def _gamma(p: Any, y: tf.Tensor) -> tf.Tensor:
    """In float64: log x^alpha has lost its digits in float32 at an alpha of 1e5."""
    given = (tf.cast(part, tf.float64) for part in (*concentration_and_rate(p), y))
    return tf.cast(_of_gamma(*given), y.dtype)


def _of_gamma(alpha: tf.Tensor, rate: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    positive = y > 0
    x = tf.where(positive, y, 1) * rate
    shape = tf.broadcast_dynamic_shape(tf.shape(alpha), tf.shape(x))
    alpha, x = tf.broadcast_to(alpha, shape), tf.broadcast_to(x, shape)
    below = incomplete_gamma(alpha, x)[0]
    # P(alpha + 1, x) = P(alpha, x) - x^alpha exp(-x) / Gamma(alpha + 1)
    step = tf.exp(alpha * tf.math.log(x) - x - tf.math.lgamma(alpha + 1))
    cdf = tf.where(positive, below, 0)
    part = tf.where(positive, below - step, 0)
    spread = tf.exp(-tfp.math.lbeta(tf.constant(0.5, alpha.dtype), alpha)) / rate
    return y * (2 * cdf - 1) - alpha / rate * (2 * part - 1) - spread


def _bernoulli(p: Any, y: tf.Tensor) -> tf.Tensor:
    """For y in {0, 1} the score of Brier."""
    probs = tf.cast(p.probs_parameter(), y.dtype)
    return probs * abs(1 - y) + (1 - probs) * abs(y) - probs * (1 - probs)


class _Counts:
    """E|X - y| and E|X - X'| of counts, in float64.

    A log-probability has lost its digits in float32 at a rate of 1e6.
    """

    def __init__(self, y: tf.Tensor, mean: tf.Tensor) -> None:
        self.y = tf.cast(y, tf.float64)
        self.mean = mean
        whole = tf.floor(self.y)
        self.inside = whole >= 0
        self.whole = tf.where(self.inside, whole, 0)

    def distance(self, cdf: tf.Tensor, partial_mean: tf.Tensor) -> tf.Tensor:
        """E|X - y|, from the cdf at y and the sum of k p(k) for k up to y."""
        cdf = tf.where(self.inside, cdf, 0)
        partial_mean = tf.where(self.inside, partial_mean, 0)
        return self.y * (2 * cdf - 1) + self.mean - 2 * partial_mean


def _poisson_parts(p: Any, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    rate = tf.cast(p.rate_parameter(), tf.float64)
    counts = _Counts(y, rate)
    shape = tf.broadcast_dynamic_shape(tf.shape(rate), tf.shape(counts.whole))
    rate, k = tf.broadcast_to(rate, shape), tf.broadcast_to(counts.whole, shape)
    cdf = incomplete_gamma(k + 1, rate)[1]
    at = tf.exp(tf.math.xlogy(k, rate) - rate - tf.math.lgamma(k + 1))
    bessel = tf.math.bessel_i0e(2 * rate) + tf.math.bessel_i1e(2 * rate)
    return counts.distance(cdf, rate * (cdf - at)), 2 * rate * bessel, rate


def _negative_binomial_parts(
    p: Any, y: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    number = tf.cast(p.total_count, tf.float64)
    logits = tf.cast(p.logits_parameter(), tf.float64)
    failure = tf.sigmoid(-logits)
    odds = tf.exp(logits)
    mean = number * odds
    counts = _Counts(y, mean)
    k = counts.whole
    cdf = tfp.math.betainc(number, k + 1, failure)
    below = tfp.math.betainc(number + 1, tf.maximum(k, 1), failure)
    partial = mean * tf.where(k >= 1, below, 0)
    return counts.distance(cdf, partial), _mean_difference(number, odds), mean


def _mean_difference(number: tf.Tensor, odds: tf.Tensor) -> tf.Tensor:
    """E|X - X'| of negative binomials from the characteristic function f of X:

        1/pi int_0^pi (1 - |f(t)|^2) / (1 - cos t) dt,
        |f(t)|^2 = (1 + a (1 - cos t))^-number,   a = 2 odds (1 + odds)

    with t = width sinh(s), which resolves the peak at 0, of
    width = 1 / sqrt(1 + a max(number, 1)).
    """
    a = 2 * odds * (1 + odds)
    width = 1 / tf.sqrt(1 + a * tf.maximum(number, 1))
    width, a, number = (x[..., tf.newaxis] for x in (width, a, number))
    longest = tf.asinh(np.pi / width)
    s = 0.5 * longest * tf.constant(_NODES + 1)
    t = width * tf.sinh(s)
    gap = 2 * tf.square(tf.sin(t / 2))
    integrand = -tf.math.expm1(-number * tf.math.log1p(a * gap)) / gap
    weights = 0.5 * longest * tf.constant(_WEIGHTS) * width * tf.cosh(s)
    return tf.reduce_sum(weights * integrand, axis=-1) / np.pi


def _poisson(p: Any, y: tf.Tensor) -> tf.Tensor:
    distance, difference, _ = _poisson_parts(p, y)
    return tf.cast(distance - 0.5 * difference, y.dtype)


def _negative_binomial(p: Any, y: tf.Tensor) -> tf.Tensor:
    distance, difference, _ = _negative_binomial_parts(p, y)
    return tf.cast(distance - 0.5 * difference, y.dtype)


def _inflated(p: Any, y: tf.Tensor) -> tf.Tensor | None:
    """Counts with extra zeros."""
    if isinstance(p.distribution, tfd.Poisson):
        parts = _poisson_parts
    elif isinstance(p.distribution, tfd.NegativeBinomial):
        parts = _negative_binomial_parts
    else:
        return None
    at = tf.get_static_value(p.inflated_loc)
    if at is None or np.any(at != 0):
        return None
    distance, difference, mean = parts(p.distribution, y)
    zero = tf.cast(tf.exp(log_weights(p, 0))[..., 0], tf.float64)
    other = 1 - zero
    expected = zero * abs(tf.cast(y, tf.float64)) + other * distance
    pairs = 2 * zero * other * mean + other**2 * difference
    return tf.cast(expected - 0.5 * pairs, y.dtype)


def _categories(p: Any, y: tf.Tensor) -> tf.Tensor:
    """The ranked probability score of ordered classes 0, ..., k - 1."""
    if isinstance(p, tfd.Categorical):
        cdf = tf.cumsum(p.probs_parameter(), axis=-1)[..., :-1]
    else:
        cdf = tf.stack([p.cdf(k) for k in range(_number_of_cutpoints(p))], axis=-1)
    return _ranked(tf.cast(cdf, y.dtype), y, 0, cdf.shape[-1])


def _number_of_cutpoints(p: Any) -> int:
    return tf.convert_to_tensor(p.cutpoints).shape[-1]


def _ranked(cdf: tf.Tensor, y: tf.Tensor, low: int, steps: Any) -> tf.Tensor:
    """The CRPS of integers from `low` to `low + steps`, from the cdf below the last."""
    # The indicator that y <= x, averaged over x between two integers.
    at = tf.range(low, low + steps, dtype=y.dtype)
    share = tf.clip_by_value(at + 1 - y[..., tf.newaxis], 0, 1)
    inside = tf.reduce_sum(share * (cdf - 1) ** 2 + (1 - share) * cdf**2, axis=-1)
    return inside + tf.maximum(low - y, 0) + tf.maximum(y - low - steps, 0)


def _quantized_logistic(p: Any, y: tf.Tensor) -> tf.Tensor:
    return crps_of_range(p, y, int(p.low), int(p.high))


def crps_of_range(p: Any, y: tf.Tensor, low: int, high: int) -> tf.Tensor:
    """The CRPS of integers in a range: a sum over them.

    Args:
        p: A plain `tfd.Distribution` with a scalar event.
        y: Floating-point values of shape `(..., *batch_shape)`.
        low: Smallest value.
        high: Largest value.

    Returns:
        A tensor of the shape of `y`.

    Example:
        >>> float(crps_of_range(tfd.Bernoulli(probs=0.5), tf.constant(1.0), 0, 1))
        0.25
    """
    steps = tf.range(low, high, dtype=y.dtype)
    at = tf.reshape(steps, [-1, *[1] * p.batch_shape.rank])
    shape = tf.concat([[high - low], p.batch_shape_tensor()], axis=0)
    cdf = cdf_of_entries(p, tf.broadcast_to(at, shape))
    rank = p.batch_shape.rank
    return _ranked(tf.transpose(cdf, [*range(1, rank + 1), 0]), y, low, high - low)


_FORMS: dict[Any, Callable[[Any, tf.Tensor], tf.Tensor | None]] = {
    tfd.Normal: _normal,
    tfd.Logistic: _logistic,
    tfd.Laplace: _laplace,
    tfd.StudentT: _student,
    tfd.LogNormal: _log_normal,
    tfd.Gamma: _gamma,
    tfd.Bernoulli: _bernoulli,
    tfd.Poisson: _poisson,
    tfd.NegativeBinomial: _negative_binomial,
    meta.Inflated: _inflated,
    tfd.Categorical: _categories,
    tfd.OrderedLogistic: _categories,
    QuantizedLogistic: _quantized_logistic,
}
