"""The continuous Bernoulli distribution, with NaN where a parameter is NaN."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp


class ContinuousBernoulli(tfp.distributions.ContinuousBernoulli):
    """`tfd.ContinuousBernoulli`, whose draws and mode are NaN where the logits are.

    TFP's are those of logits 0.

    Example:
        >>> ContinuousBernoulli(logits=float("nan")).sample(seed=1).numpy()
        np.float32(nan)
    """

    def _quantile(self, probability: Any, logits: Any = None) -> Any:
        given = self.logits_parameter() if logits is None else logits
        found = super()._quantile(probability, given)
        return tf.where(tf.math.is_nan(given), given, found)

    def _mode(self) -> Any:
        logits = self.logits_parameter()
        return tf.where(tf.math.is_nan(logits), logits, super()._mode())
