"""Grey pixels between 0 and 1, with the normalizer that cross-entropy lacks."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from tfp_vae.layers.independent_layer import IndependentLayer

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentContinuousBernoulli(IndependentLayer):
    r"""A continuous Bernoulli distribution on [0, 1] for each coordinate.

    .. math::

        \log p(x) &= \sum_i \bigl( x_i \log s_i + (1 - x_i) \log(1 - s_i)
        + \log C(s_i) \bigr) \\
        s &= \mathrm{sigmoid}(\mathrm{logits}) \\
        C(s) &= 2 \, \mathrm{atanh}(1 - 2 s) / (1 - 2 s), \quad C(1/2) = 2

    Use it for grey pixels in place of binary cross-entropy, which lacks log C and is
    therefore not a likelihood. The mean of the distribution is not s.

    Reference:
        Loaiza-Ganem and Cunningham, The continuous Bernoulli, 2019.
        https://arxiv.org/abs/1907.06845

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of logits, of shape `(..., params_size)`.

    Returns:
        An `Independent(ContinuousBernoulli)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> p = IndependentContinuousBernoulli((28, 28, 1), "mean")(tf.zeros([5, 784]))
        >>> p.shape, float(p[0, 0, 0, 0])
        (TensorShape([5, 28, 28, 1]), 0.5)
    """

    parts = 1

    def coordinates(self, *raw: tf.Tensor) -> Any:
        """Continuous Bernoullis from logits."""
        (logits,) = raw
        return ContinuousBernoulli(
            logits=logits, dtype=logits.dtype, validate_args=self.validate_args
        )
