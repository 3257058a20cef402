"""Pixels as one of 256 unordered values."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, integer
from tfp_vae.layers.events import event_size, independent, split_event
from tfp_vae.layers.independent_layer import IndependentLayer

tfd: Any = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentCategorical(IndependentLayer):
    r"""One of K categories for each coordinate: a 256-way softmax over pixel values.

    .. math::

        \log p(x) = \sum_i \log \mathrm{softmax}(\mathrm{logits}_i)_{x_i}, \quad
        x_i \in \{0, \ldots, K - 1\}

    The inputs are the K logits of the first coordinate, then those of the second, and
    so on. With `parameters_axis=-1` they are K channels for each colour of a pixel.
    Values and draws are category numbers in the dtype of the parameters; the mean is
    the mean of these numbers. Any other value has probability 0.

    Reference:
        van den Oord et al., Pixel recurrent neural networks, 2016;
        `tfp.distributions.Categorical`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`; also `"logits"` and `"probs"`.
        validate_args: Whether TFP checks parameters and values at run time.
        num_categories: The number K of categories.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of logits, of shape `(..., params_size)`.

    Returns:
        An `Independent(Categorical)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or there are
            fewer than 2 categories.

    Example:
        >>> p = IndependentCategorical((8, 8, 1), "mean")(tf.zeros([2, 8 * 8 * 256]))
        >>> p.shape, round(float(p[0, 0, 0, 0]), 2)
        (TensorShape([2, 8, 8, 1]), 127.5)
    """

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        num_categories: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.num_categories = integer(num_categories, "num_categories", caller, 2)

    @staticmethod
    def params_size(
        event_shape: Shape = (), name: str | None = None, num_categories: int = 256
    ) -> int:
        """`num_categories` logits per coordinate."""
        caller = name or "params_size"
        categories = integer(num_categories, "num_categories", caller, 2)
        return categories * event_size(event_shape, caller)

    def _count(self) -> int:
        return 1  # The logits of a coordinate are contiguous.

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        shape = (*self.event_shape, self.num_categories)
        (logits,) = split_event(parameters, shape, 1, self.description)
        base = _NumberedCategorical(logits, self.validate_args)
        return independent(base, self.event_shape, self.validate_args)


class _NumberedCategorical(tfd.Categorical):
    """A categorical distribution over the numbers 0 to K - 1, which has a mean.

    Its values have the dtype of the logits. TFP's checks raise `TypeError` for it, so
    this class has its own.
    """

    def __init__(
        self,
        logits: tf.Tensor,
        validate_args: bool = False,
        name: str = "NumberedCategorical",
    ) -> None:
        parameters = dict(locals())
        self._check_values = validate_args
        super().__init__(
            logits=logits,
            dtype=logits.dtype,
            force_probs_to_zero_outside_support=True,
            name=name,
        )
        self._parameters = parameters

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> Any:
        return {"logits": super()._parameter_properties(dtype, num_classes)["logits"]}

    def _log_prob(self, x: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.math.is_nan(x), x, super()._log_prob(x))

    def _cdf(self, x: tf.Tensor) -> tf.Tensor:
        last = tf.cast(self._num_categories(), x.dtype) - 1
        below = tf.clip_by_value(tf.floor(x), -1, last)
        return tf.where(tf.math.is_nan(x), x, super()._cdf(below))

    def _mean(self) -> tf.Tensor:
        probs = self.probs_parameter()
        numbers = tf.range(tf.shape(probs)[-1])
        return tf.linalg.matvec(probs, tf.cast(numbers, probs.dtype))

    def _sample_control_dependencies(self, x: tf.Tensor) -> list[Any]:
        if not self._check_values:
            return []
        categories = tf.cast(self._num_categories(), x.dtype)
        message = "Values must be integers from 0 to num_categories - 1."
        return [
            tf.debugging.assert_equal(x, tf.round(x), message),
            tf.debugging.assert_non_negative(x, message),
            tf.debugging.assert_less(x, categories, message),
        ]
