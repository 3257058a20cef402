"""Distributions on (0, 1) whose draws are never 0 or 1."""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.constraints import bounded

tfd = tfp.distributions


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
    r"""`tfd.Kumaraswamy` with draws that are never 0 or 1, and precise near 0.

    .. math::

        x &= (1 - v^{1/b})^{1/a}, \quad v \text{ uniform} \\
        \log p(x) &= \log(a b) + (a - 1) \log x + (b - 1) \log(1 - x^a)

    where a is `concentration1` and b is `concentration0`. TFP subtracts v^(1/b) from 1;
    for a large b it is rounded to 1, and the draw is 0.

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
        inner = tf.math.log(-tf.math.expm1(tf.math.log(v) / self.concentration0))
        return _inside(tf.exp(inner / self.concentration1))

    def _log_prob(self, x: Any) -> Any:
        a, b = self.concentration1, self.concentration0
        above = -tf.math.expm1(tf.math.xlogy(a, x))
        density = tf.math.xlogy(a - 1, x) + tf.math.xlogy(b - 1, above)
        return tf.math.log(a) + tf.math.log(b) + density

    def _sample_and_log_prob(self, sample_shape: Any, seed: Any) -> Any:
        x = self._call_sample_n(sample_shape, seed)
        return x, self._log_prob(x)


def _inside(x: tf.Tensor) -> tf.Tensor:
    """Replaces 0 and 1 by numbers inside; the gradient passes."""
    limits = np.finfo(x.dtype.as_numpy_dtype)
    return bounded(x, limits.tiny, 1.0 - limits.epsneg)
