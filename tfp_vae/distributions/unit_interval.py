"""Distributions on (0, 1) whose draws are never 0 or 1."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.constraints import bounded

tfd = tfp.distributions

# Above, two terms of a series for the variance are more precise than its closed form.
_LARGE = 1e4


class Beta(tfp.distributions.Beta):
    """`tfd.Beta` with draws that are never 0 or 1, and its own median.

    At an end the density may be 0 or infinite. Draws that would be rounded to 0 or 1
    become the smallest normal number, or the largest below 1.

    Quantiles are those of `quantile_of_beta`.

    Example:
        >>> float(Beta(1e8, 1.0).sample(seed=1)) < 1.0
        True
    """

    def _sample_n(self, n: Any, seed: Any = None) -> Any:
        return _inside(super()._sample_n(n, seed))

    def _quantile(self, value: Any) -> Any:
        return quantile_of_beta(self, value)


def quantile_of_beta(distribution: Any, level: Any) -> tf.Tensor:
    """The quantile of a beta distribution, in float64.

    At a level of exactly 1/2, TFP's search starts at a point that it may not leave. So
    that level is raised by 1e-13.

    Args:
        distribution: A `tfd.Beta`.
        level: Probabilities.

    Returns:
        A tensor of the dtype of the distribution.

    Example:
        >>> f"{quantile_of_beta(tfd.Beta(1.5, 2.0), 0.5):.4f}"
        '0.4136'
    """
    parameters = (distribution.concentration1, distribution.concentration0, level)
    a, b, level = (tf.cast(part, tf.float64) for part in parameters)
    level = tf.where(level == 0.5, level + 1e-13, level)
    return tf.cast(tfp.math.betaincinv(a, b, level), distribution.dtype)


class Kumaraswamy(tfp.distributions.Kumaraswamy):
    r"""`tfd.Kumaraswamy` with draws that are never 0 or 1, and precise near both.

    .. math::

        x &= (1 - v^{1/b})^{1/a}, \quad v \text{ uniform} \\
        P(X > x) &= (1 - x^a)^b \\
        \log p(x) &= \log(a b) + (a - 1) \log x + (b - 1) \log(1 - x^a)

    where a is `concentration1` and b is `concentration0`. TFP subtracts v^(1/b) from 1;
    for a large b it is rounded to 1, and the draw or the quantile is 0. It also
    subtracts P(X <= x) from 1, and for the variance two almost equal moments.

    Example:
        >>> float(Kumaraswamy(1.0, 1e8).sample(seed=1)) > 0.0
        True
    """

    # `_call_sample_n` of TFP's class uses the bijector and ignores `_sample_n`.
    _call_sample_n = tfd.Distribution._call_sample_n

    def _sample_n(self, n: Any, seed: Any = None) -> Any:
        shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
        seed = tfp.random.sanitize_seed(seed, salt="kumaraswamy")
        half = np.finfo(self.dtype.as_numpy_dtype).epsneg / 2
        v = tf.random.stateless_uniform(
            shape, seed, half, 1.0 - half, self.dtype, alg="philox"
        )
        return _inside(self._exceeded_with(tf.math.log(v)))

    def _quantile(self, level: Any) -> Any:
        return self._exceeded_with(tf.math.log1p(-level))

    def _exceeded_with(self, log_probability: Any) -> Any:
        """The x whose `log_survival_function` is given."""
        one = tf.ones([], self.dtype)
        inner = _log_complement(log_probability / self.concentration0, one)
        return tf.exp(inner / self.concentration1)

    def _log_survival_function(self, x: Any) -> Any:
        x = tf.clip_by_value(x, 0.0, 1.0)
        power = tf.math.xlogy(self.concentration1, x)
        return _log_complement(power, self.concentration0)

    def _survival_function(self, x: Any) -> Any:
        return tf.exp(self._log_survival_function(x))

    def _log_cdf(self, x: Any) -> Any:
        one = tf.ones([], self.dtype)
        return _log_complement(self._log_survival_function(x), one)

    def _cdf(self, x: Any) -> Any:
        return -tf.math.expm1(self._log_survival_function(x))

    def _log_prob(self, x: Any) -> Any:
        a, b = self.concentration1, self.concentration0
        above = _log_complement(tf.math.xlogy(a, x), b - 1)
        density = tf.math.xlogy(a - 1, x) + above
        return tf.math.log(a) + tf.math.log(b) + density

    def _variance(self) -> Any:
        """In float64: E[x^2] (1 - exp(-d)), with d = log E[x^2] - 2 log E[x].

        For a large a, d = k_2 / a^2 + k_3 / a^3, where k_2 and k_3 are the cumulants of
        log y for y = x^a, a beta variable with parameters 1 and b.
        """
        a = tf.cast(self.concentration1, tf.float64)
        b = tf.cast(self.concentration0, tf.float64)
        one = tf.ones([], tf.float64)
        second = self._log_moment(2, a, b)
        small, large = tf.minimum(a, _LARGE), tf.maximum(a, _LARGE)
        closed = self._log_moment(2, small, b) - 2 * self._log_moment(1, small, b)
        k2, k3 = (
            tf.math.polygamma(order * one, one) - tf.math.polygamma(order * one, 1 + b)
            for order in (1, 2)
        )
        series = (k2 + k3 / large) / large**2
        excess = tf.where(a > _LARGE, series, closed)
        return tf.cast(-tf.exp(second) * tf.math.expm1(-excess), self.dtype)

    def _sample_and_log_prob(self, sample_shape: Any, seed: Any) -> Any:
        x = self._call_sample_n(sample_shape, seed)
        return x, self._log_prob(x)


def _log_complement(t: Any, times: Any) -> tf.Tensor:
    """For a t of at most 0, log(1 - exp(t)) `times` a factor; 0 where that is 0."""
    near = t > -math.log(2)
    other = tf.constant(-1.0, t.dtype)
    above, below = tf.where(near, t, other), tf.where(near, other, t)
    return tf.where(
        near,
        tf.math.xlogy(times, -tf.math.expm1(above)),
        tf.math.xlog1py(times, -tf.exp(below)),
    )


def _inside(x: tf.Tensor) -> tf.Tensor:
    """Replaces 0 and 1 by numbers inside; the gradient passes."""
    limits = np.finfo(x.dtype.as_numpy_dtype)
    return bounded(x, limits.tiny, 1.0 - limits.epsneg)
