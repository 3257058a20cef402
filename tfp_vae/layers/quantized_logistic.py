"""Pixels of 256 levels as rounded logistics, or as mixtures of these."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, integer
from tfp_vae.constraints import SCALE_FLOOR, positive
from tfp_vae.distributions.quantized_logistic import (
    QuantizedLogistic as QuantizedLogisticDistribution,
)
from tfp_vae.layers.events import event_size, independent, split_event
from tfp_vae.layers.independent_layer import IndependentLayer

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class QuantizedLogistic(IndependentLayer):
    r"""A logistic rounded to an integer for each pixel, or a mixture of K of these.

    .. math::

        \log p(x) &= \sum_i \log \sum_k w_{i,k} \, P(\mathrm{round}(y) = x_i) \\
        y &\sim \mathrm{Logistic}(\mathrm{loc}_{i,k}, \mathrm{scale}_{i,k}), \quad
        w_i = \mathrm{softmax}(\mathrm{logits}_i)

    Values of y below `low` are rounded to `low`, those above `high` to `high`. The
    network's outputs are in units of half the range: with h = (high - low) / 2,

    .. math::

        \mathrm{loc} = \mathrm{low} + h + h \, \mathrm{raw}, \quad
        \mathrm{scale} = h \max(\mathrm{softplus}(\mathrm{raw}), 10^{-5})

    so that outputs near 0 describe the middle of the range. The inputs are all raw
    `loc`, then all raw scales. With more than one component, each of these has the
    shape (coordinate, component), and all logits follow. Values are integers from `low`
    to `high`, by default 0 to 255; they are not scaled to [0, 1].

    Reference:
        Salimans et al., PixelCNN++, 2017, but with independent colours in a pixel.
        https://arxiv.org/abs/1701.05517

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether values are checked at run time.
        num_components: The number K of logistics for each coordinate.
        low: Smallest value.
        high: Largest value.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent` of quantized logistics, or of mixtures of them, with
        `batch_shape == inputs.shape[:-1]`. Draws are not reparameterised.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or the ends are
            not integers with `low < high`.

    Example:
        >>> units = QuantizedLogistic.params_size((8, 8, 1), num_components=5)
        >>> layer = QuantizedLogistic((8, 8, 1), "mean", num_components=5)
        >>> p = layer(tf.zeros([2, units]))
        >>> units, p.event_shape, round(float(p[0, 0, 0, 0]), 2)
        (960, TensorShape([8, 8, 1]), 127.5)
    """

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        *,
        num_components: int = 1,
        low: int = 0,
        high: int = 255,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.num_components = integer(num_components, "num_components", caller)
        self.low = integer(low, "low", caller, minimum=-(2**24))
        self.high = integer(high, "high", caller, minimum=self.low + 1)

    @staticmethod
    def params_size(
        event_shape: Shape = (), name: str | None = None, *, num_components: int = 1
    ) -> int:
        """Two per coordinate, or three per component if there are several."""
        count = integer(num_components, "num_components", name or "params_size")
        size = event_size(event_shape, name or "params_size")
        return size * (2 if count == 1 else 3 * count)

    def _count(self) -> int:
        return 2 + (self.num_components > 1)

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        mixture = self.num_components > 1
        shape = (*self.event_shape, *[self.num_components] * mixture)
        parts = split_event(parameters, shape, self._count(), self.description)
        half = (self.high - self.low) / 2
        base = QuantizedLogisticDistribution(
            self.low + half + half * parts[0],
            half * positive(parts[1], SCALE_FLOOR),
            self.low,
            self.high,
            validate_args=self.validate_args,
        )
        if mixture:
            weights = tfd.Categorical(logits=parts[2])
            base = tfd.MixtureSameFamily(weights, base)
        return independent(base, self.event_shape, self.validate_args)
