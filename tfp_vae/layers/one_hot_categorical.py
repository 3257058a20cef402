"""One of d categories as a one-hot vector, and mixtures of these."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import check_width, integer, numeric_dtype
from tfp_vae.layers.mixture_same_family import MixtureSameFamily
from tfp_vae.layers.vector_layer import VectorLayer

tfd: Any = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class OneHotCategorical(VectorLayer):
    r"""A one-hot vector of length d, given the logits of its categories.

    .. math:: \log p(x) = \sum_i x_i \log \mathrm{softmax}(\mathrm{logits})_i

    Reference:
        `tfp.layers.OneHotCategorical`.

    Args:
        event_size: The number of categories d.
        convert_to_tensor_fn: See `DistributionLayer`; also `"logits"` and `"probs"`.
        sample_dtype: Dtype of draws; by default that of the parameters.
        validate_args: Whether TFP checks parameters and values at run time.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of logits, of shape `(..., event_size)`.

    Returns:
        A `tfd.OneHotCategorical` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `event_size`, or
            `sample_dtype` is no dtype of numbers.

    Example:
        >>> p = OneHotCategorical(4, "mode")(tf.constant([[0.0, 3.0, 1.0, 2.0]]))
        >>> p[0].numpy()
        array([0., 1., 0., 0.], dtype=float32)
    """

    def __init__(
        self,
        event_size: int,
        convert_to_tensor_fn: Any = "sample",
        sample_dtype: Any = None,
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_size, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.sample_dtype = numeric_dtype(sample_dtype, "sample_dtype", caller)

    @staticmethod
    def new(
        params: Any,
        event_size: int,
        dtype: Any = None,
        validate_args: bool = False,
        name: str | None = None,
    ) -> Any:
        """Makes the distribution from a tensor of logits."""
        with tf.name_scope(name or "OneHotCategorical"):
            logits = tf.convert_to_tensor(params)
            caller = f"OneHotCategorical({event_size})"
            check_width(logits.shape, event_size, caller)
            return tfd.OneHotCategorical(
                logits,
                dtype=tf.as_dtype(dtype or logits.dtype),
                validate_args=validate_args,
            )

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        return self.new(
            parameters, self.event_size, self.sample_dtype, self.validate_args
        )


@keras.saving.register_keras_serializable("tfp_vae")
class CategoricalMixtureOfOneHotCategorical(VectorLayer):
    r"""A mixture of K one-hot categoricals, given logits of weights and categories.

    .. math::

        p(x) = \sum_k \mathrm{softmax}(\mathrm{weights})_k
        \prod_i \mathrm{softmax}(\mathrm{logits}_k)_i^{x_i}

    The parameters are the K weights, then the logits of each component.

    Reference:
        `tfp.layers.CategoricalMixtureOfOneHotCategorical`.

    Args:
        event_size: The number of categories d.
        num_components: The number of components K.
        convert_to_tensor_fn: See `DistributionLayer`. The distribution also has
            `log_mean()`, the logarithms of the probabilities of the categories.
        sample_dtype: Dtype of draws; by default that of the parameters.
        validate_args: Whether TFP checks parameters and values at run time.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., num_components * (1 + event_size))`.

    Returns:
        A `tfd.MixtureSameFamily` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or
            `sample_dtype` is no dtype of numbers.

    Example:
        >>> layer = CategoricalMixtureOfOneHotCategorical(4, 2, "mean")
        >>> layer(tf.zeros([1, 10])).numpy()
        array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """

    def __init__(
        self,
        event_size: int,
        num_components: int,
        convert_to_tensor_fn: Any = "sample",
        sample_dtype: Any = None,
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_size, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.num_components = integer(num_components, "num_components", caller)
        self.sample_dtype = numeric_dtype(sample_dtype, "sample_dtype", caller)

    @staticmethod
    def params_size(  # type: ignore[override]
        event_size: int, num_components: int, name: str | None = None
    ) -> int:
        """One weight and `event_size` logits for each component."""
        return MixtureSameFamily.params_size(
            num_components, OneHotCategorical.params_size(event_size, name), name
        )

    @staticmethod
    def new(
        params: Any,
        event_size: int,
        num_components: int,
        dtype: Any = None,
        validate_args: bool = False,
        name: str | None = None,
    ) -> Any:
        """Makes the distribution from a tensor of parameters."""
        params = tf.convert_to_tensor(params)
        cls = CategoricalMixtureOfOneHotCategorical
        width = cls.params_size(event_size, num_components)
        check_width(params.shape, width, f"{cls.__name__}({event_size}, ...)")
        return MixtureSameFamily.new(
            params,
            num_components,
            lambda logits: OneHotCategorical.new(
                logits, event_size, dtype, validate_args
            ),
            validate_args,
            name or "CategoricalMixtureOfOneHotCategorical",
            family=_CategoricalMixture,
        )

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        return self.new(
            parameters,
            self.event_size,
            self.num_components,
            self.sample_dtype,
            self.validate_args,
        )


class _CategoricalMixture(tfd.MixtureSameFamily):
    """A mixture of one-hot categoricals that knows the log of its mean."""

    def log_mean(self) -> tf.Tensor:
        """Log probabilities of the categories, of shape `(..., event_size)`."""
        weights = tf.nn.log_softmax(self.mixture_distribution.logits_parameter())
        logits = tf.nn.log_softmax(self.components_distribution.logits_parameter())
        return tf.reduce_logsumexp(weights[..., tf.newaxis] + logits, axis=-2)

    def _mean(self) -> tf.Tensor:
        return tf.exp(self.log_mean())
