"""Independent binary coordinates: the likelihood of black-and-white images."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import Shape, numeric_dtype
from tfp_vae.distributions.bernoulli import Bernoulli
from tfp_vae.layers.events import independent, split_event
from tfp_vae.layers.independent_layer import IndependentLayer


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentBernoulli(IndependentLayer):
    r"""A Bernoulli variable for each coordinate, given its logit.

    .. math::

        \log p(x) &= \sum_i \bigl( x_i \log s_i + (1 - x_i) \log(1 - s_i) \bigr) \\
        s &= \mathrm{sigmoid}(\mathrm{logits})

    with x_i in {0, 1}. Grey values are not in the support.

    Reference:
        `tfp.layers.IndependentBernoulli`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`; also `"logits"` and `"probs"`.
        sample_dtype: Dtype of draws; by default that of the parameters.
        validate_args: Whether TFP checks parameters and values at run time.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of logits, of shape `(..., params_size)`.

    Returns:
        An `Independent(Bernoulli)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or
            `sample_dtype` is no dtype of numbers.

    Example:
        >>> p = IndependentBernoulli((28, 28, 1), "mean")(tf.zeros([5, 784]))
        >>> p.shape, float(p[0, 0, 0, 0])
        (TensorShape([5, 28, 28, 1]), 0.5)
    """

    parts = 1

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        sample_dtype: Any = None,
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.sample_dtype = numeric_dtype(sample_dtype, "sample_dtype", caller)

    @staticmethod
    def new(
        params: Any,
        event_shape: Shape = (),
        dtype: Any = None,
        validate_args: bool = False,
        name: str | None = None,
    ) -> Any:
        """Makes the distribution from a tensor of logits."""
        caller = name or "IndependentBernoulli"
        with tf.name_scope(caller):
            (logits,) = split_event(params, event_shape, 1, caller)
            base = _bernoulli(logits, dtype, validate_args)
            return independent(base, event_shape, validate_args)

    def coordinates(self, *raw: tf.Tensor) -> Any:
        """Bernoullis from logits."""
        return _bernoulli(raw[0], self.sample_dtype, self.validate_args)


def _bernoulli(logits: tf.Tensor, dtype: Any, validate_args: bool) -> Any:
    dtype = tf.as_dtype(dtype or logits.dtype)
    return Bernoulli(logits, dtype=dtype, validate_args=validate_args)
