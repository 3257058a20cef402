"""Distributions of counts, also of rates and concentrations that are extreme."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class Poisson(tfp.distributions.Poisson):
    """`tfd.Poisson` with draws that are NaN or infinite where the rate is.

    With such a rate TFP's sampler loops forever.

    Example:
        >>> Poisson([float("inf"), float("nan")]).sample(seed=1).numpy()
        array([inf, nan], dtype=float32)
    """

    def _sample_n(self, n: Any, seed: Any = None) -> Any:
        log_rate = self.log_rate_parameter()
        known = tf.exp(log_rate) < log_rate.dtype.max
        usable = tf.where(known, log_rate, tf.zeros_like(log_rate))
        draws = tfd.Poisson(log_rate=usable).sample(n, seed=seed)
        return tf.where(known, draws, tf.exp(log_rate))


class DirichletMultinomial(tfp.distributions.DirichletMultinomial):
    r"""`tfd.DirichletMultinomial`, precise also where concentrations are large.

    .. math::

        \log p(x) = \log n! - \sum_i \log x_i!
        + \sum_i \log \frac{\Gamma(a_i + x_i)}{\Gamma(a_i)}
        - \log \frac{\Gamma(A + n)}{\Gamma(A)}, \quad A = \sum_i a_i

    For concentrations of 8 and more each ratio is found by Stirling's formula. TFP
    subtracts logarithms of gamma functions: in float32, with concentrations of 1e8, it
    found a probability of 60.

    Example:
        >>> p = DirichletMultinomial(6.0, [2e7, 3e7, 5e7])
        >>> f"{p.prob([1.0, 2.0, 3.0]):.4f}"  # that of a multinomial
        '0.1350'
    """

    def _log_prob(self, counts: Any) -> Any:
        concentration = tf.convert_to_tensor(self.concentration)
        total = tf.reduce_sum(counts, axis=-1)
        ways = tf.math.lgamma(1.0 + self.total_count)
        ways -= tf.reduce_sum(tf.math.lgamma(1.0 + counts), axis=-1)
        of_each = tf.reduce_sum(_log_ratio(concentration, counts), axis=-1)
        return ways + of_each - _log_ratio(tf.reduce_sum(concentration, -1), total)


def _log_ratio(a: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """log(Gamma(a + x) / Gamma(a)); for a large a by Stirling's formula.

    `tfp.math.log_gamma_difference` does so too, but subtracts in its gradient.
    """
    is_large = a >= 8
    large = tf.where(is_large, a, tf.constant(8, a.dtype))
    small = tf.where(is_large, tf.ones_like(a), a)
    correction = tfp.math.log_gamma_correction
    stirling = (
        (large - 0.5 + x) * tf.math.log1p(x / large)
        + x * (tf.math.log(large) - 1)
        + correction(large + x)
        - correction(large)
    )
    return tf.where(
        is_large, stirling, tf.math.lgamma(small + x) - tf.math.lgamma(small)
    )


class NegativeBinomial(tfp.distributions.NegativeBinomial):
    """`tfd.NegativeBinomial` with draws that are NaN or infinite where the mean is.

    Example:
        >>> p = NegativeBinomial([2.0, float("nan")], logits=[0.0, 0.0])
        >>> p.sample(seed=1).numpy()[1]
        np.float32(nan)
    """

    def _sample_n(self, n: Any, seed: Any = None) -> Any:
        count, logits = self.total_count, self.logits_parameter()
        mean = count * tf.exp(logits)
        known = mean < mean.dtype.max
        usable = tfd.NegativeBinomial(
            tf.where(known, count, 1.0),
            logits=tf.where(known, logits, 0.0),
            require_integer_total_count=False,
        )
        return tf.where(known, usable.sample(n, seed=seed), mean)
