"""Distributions of counts whose samplers do not hang if a rate is NaN or infinite."""

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
