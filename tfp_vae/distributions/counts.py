"""Counts whose draws return also where a parameter is NaN or infinite."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class Poisson(tfp.distributions.Poisson):
    """`tfd.Poisson`, whose draws are NaN or infinite where the rate is.

    TFP's draws never return there.

    Example:
        >>> Poisson([float("inf"), float("nan")]).sample(seed=1).numpy()
        array([inf, nan], dtype=float32)
    """

    def _sample_n(self, n: Any, seed: Any = None) -> Any:
        log_rate = self.log_rate_parameter()
        known = log_rate < log_rate.dtype.max
        usable = tf.where(known, log_rate, tf.zeros_like(log_rate))
        draws = tfd.Poisson(log_rate=usable).sample(n, seed=seed)
        return tf.where(known, draws, log_rate)


class NegativeBinomial(tfp.distributions.NegativeBinomial):
    """`tfd.NegativeBinomial`, whose draws are NaN where a parameter is.

    Example:
        >>> p = NegativeBinomial([2.0, float("nan")], logits=[0.0, 0.0])
        >>> p.sample(seed=1).numpy()[1]
        np.float32(nan)
    """

    def _sample_n(self, n: Any, seed: Any = None) -> Any:
        both = self.total_count + self.logits_parameter()
        known = ~tf.math.is_nan(both)
        usable = tfd.NegativeBinomial(
            tf.where(known, self.total_count, 1.0),
            logits=tf.where(known, self.logits_parameter(), 0.0),
            require_integer_total_count=False,
        )
        return tf.where(known, usable.sample(n, seed=seed), both)
