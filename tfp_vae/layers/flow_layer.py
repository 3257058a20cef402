"""The base class of layers that transform a distribution."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.distribution_tensor import unwrap
from tfp_vae.layers.distribution_lambda import DistributionLambda
from tfp_vae.layers.distribution_layer import DistributionLayer
from tfp_vae.supports import REALS, support_of

tfb = tfp.bijectors
tfd = tfp.distributions

LOG_SCALE_BOUND = 5.0
_STATISTICS = ("mean", "mode", "stddev", "covariance", "entropy")


class FlowLayer(DistributionLayer):
    r"""Turns a distribution of vectors u into the distribution of x = f(u).

    .. math:: \log p(x) = \log p(u) - \log |\det df/du|

    A subclass defines `make_bijector`, the map f. The input is the output of another
    distribution layer.

    Args:
        convert_to_tensor_fn: `"sample"`, or a callable. A flow has no closed form for
            its mean and the other statistics.
        validate_args: Whether TFP checks values at run time.
        constant_jacobian: Whether f is affine, so that f(u) has a mean and other
            statistics in closed form.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: The output of a distribution layer, with event shape `(d,)`.

    Returns:
        A `tfd.TransformedDistribution` with the batch shape of the input.

    Raises:
        ValueError: If the input is not a distribution of vectors, or its dtype is not
            that of the layer.

    Example:
        >>> class Doubled(FlowLayer):
        ...     def make_bijector(self):
        ...         return tfp.bijectors.Scale(2.0)
        >>> u = tfd.MultivariateNormalDiag(tf.zeros([5, 3]))
        >>> Doubled().transform_distribution(u).event_shape
        TensorShape([3])
    """

    def __init__(
        self,
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        constant_jacobian: bool = False,
        **kwargs: Any,
    ) -> None:
        # Autocasting would turn the input distribution into a draw.
        super().__init__(
            convert_to_tensor_fn=convert_to_tensor_fn,
            validate_args=validate_args,
            **{"autocast": False, **kwargs},
        )
        self._size: int | None = None
        allowed = ("sample", *(_STATISTICS if constant_jacobian else ()))
        if self._conversion.name not in (*allowed, None):
            raise ValueError(
                f"`{self.description}` expects `convert_to_tensor_fn` to be one of "
                f"{allowed} or a callable, since f(u) has no other statistic in closed "
                f"form. Received: convert_to_tensor_fn={convert_to_tensor_fn!r}. Use "
                "'sample', or average draws: "
                "`lambda q, seed: tf.reduce_mean(q.sample(100, seed=seed), 0)`."
            )

    @property
    def description(self) -> str:
        """The layer as error messages show it."""
        return type(self).__name__

    def make_bijector(self) -> Any:
        """The map f.

        Returns:
            A `tfb.Bijector` of vectors.
        """
        raise NotImplementedError

    def build_networks(self, size: int) -> None:
        """Makes the variables of f, if it has any.

        Args:
            size: The number of coordinates d.
        """

    def build(self, input_shape: Any) -> None:
        """Makes the networks for events of this size."""
        if not len(input_shape) or input_shape[-1] is None:
            raise ValueError(
                f"`{self.description}` expects a distribution of vectors of known "
                f"size. Received: a shape of {tuple(input_shape)}. Give the previous "
                "layer an `event_shape`."
            )
        self._size = int(input_shape[-1])
        self.build_networks(self._size)
        super().build(input_shape)

    def transform_distribution(self, base: Any) -> Any:
        """The distribution of f(u), without a Keras call, as priors need it.

        Args:
            base: The distribution of u, a `tfd.Distribution` with event shape `(d,)`.

        Returns:
            A plain `tfd.TransformedDistribution`.

        Raises:
            ValueError: If `base` is not a distribution of vectors, or its dtype is not
                that of the layer.
        """
        base = self._checked_base(base)
        if self._size is None:
            self.build((None, *base.event_shape.as_list()))
        if base.event_shape[0] != self._size:
            raise ValueError(
                f"`{self.description}` expects a distribution of event shape "
                f"({self._size},), for which it was built. Received: "
                f"event_shape={base.event_shape}. Make another flow for that shape."
            )
        return tfd.TransformedDistribution(
            base, self.make_bijector(), validate_args=self.validate_args
        )

    def make_distribution(self, parameters: Any) -> Any:
        """Transforms the input, which is a distribution."""
        return self.transform_distribution(parameters)

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> keras.KerasTensor:
        """Shape and dtype of the distribution as a tensor."""
        if self._conversion.name == "sample":
            return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        if not self.built:
            self.build(inputs.shape)
        # Keras passes only a shape here.
        stand_in = DistributionLambda(
            lambda loc: self.transform_distribution(_stand_in(loc)),
            self.convert_to_tensor_fn,
            name=self.name,
            dtype=self.dtype_policy,
        )
        return stand_in.compute_output_spec(inputs)

    def _with_value(self, inputs: Any) -> Any:
        # A trace passes only a tensor here.
        return super()._with_value(_stand_in(inputs))

    def _checked_base(self, base: Any) -> Any:
        if not isinstance(base, tfd.Distribution):
            raise ValueError(
                f"`{self.description}` expects a distribution. Received: a plain "
                f"{type(base).__name__} of shape {getattr(base, 'shape', None)}. Put a "
                "distribution layer such as `IndependentNormal` right in front of it."
            )
        base = unwrap(base)
        if base.event_shape.rank != 1:
            raise ValueError(
                f"`{self.description}` expects a distribution of vectors. Received: "
                f"event_shape={base.event_shape}. Make the event a vector, as in "
                "`IndependentNormal(d)`, or turn a batch of scalars into one with "
                "`tfd.Independent(p, 1)`."
            )
        support = support_of(base)
        if support is not None and support.kind != REALS:
            raise ValueError(
                f"`{self.description}` expects a distribution of real numbers. "
                f"Received: {base}, on {support}. Transform a continuous one, such as "
                "`IndependentNormal`."
            )
        if base.dtype != self.compute_dtype:
            raise ValueError(
                f"`{self.description}` expects a distribution of {self.compute_dtype}. "
                f"Received: dtype={tf.as_dtype(base.dtype).name}. Give this layer the "
                "`dtype` of the distribution, which must be a float."
            )
        return base


def _stand_in(loc: tf.Tensor) -> Any:
    """Some distribution of vectors of that shape."""
    return tfd.MultivariateNormalDiag(loc, tf.ones_like(loc))


def masked_autoregressive(network: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    """The autoregressive flow of a network with the autoregressive property.

        x[i] = u[i] exp(s_i(x[:i])) + m_i(x[:i]),    s = 5 tanh(raw / 5)

    Args:
        network: Maps `(..., d)` to `(..., d, 2)`: shifts m and raw log scales.

    Returns:
        A `tfb.MaskedAutoregressiveFlow`.

    Example:
        >>> made = tv.AutoregressiveNetwork(2, output_initializer="zeros")
        >>> masked_autoregressive(made).forward(tf.ones([1, 2])).numpy()
        array([[1., 1.]], dtype=float32)
    """

    def shift_and_log_scale(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shift, raw = tf.unstack(tf.cast(network(x), x.dtype), 2, axis=-1)
        return shift, soft_clip(raw)

    return tfb.MaskedAutoregressiveFlow(shift_and_log_scale)


def soft_clip(raw: tf.Tensor, bound: float = LOG_SCALE_BOUND) -> tf.Tensor:
    """Maps reals into an interval, and changes those near 0 very little:

        soft_clip(raw) = bound tanh(raw / bound)

    Args:
        raw: Real tensor.
        bound: Largest absolute output.

    Returns:
        A tensor shaped like `raw`.

    Example:
        >>> soft_clip(tf.constant([0.0, 1e4])).numpy()
        array([0., 5.], dtype=float32)
    """
    return bound * tf.math.tanh(raw / bound)
