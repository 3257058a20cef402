"""Independent normal coordinates on an interval."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import Shape, interval, positive_number
from tfp_vae.constraints import bounded, positive
from tfp_vae.distributions.truncated_normal import TruncatedNormal
from tfp_vae.layers.independent_layer import IndependentLayer

_REACH = 30.0


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentTruncatedNormal(IndependentLayer):
    r"""A normal for each coordinate, truncated to [low, high], such as grey pixels.

    .. math::

        \log p(x) &= \sum_i \bigl( \log \mathcal N(x_i; \mathrm{loc}_i,
        \mathrm{scale}_i) - \log(\Phi(b_i) - \Phi(a_i)) \bigr) \\
        a &= (\mathrm{low} - \mathrm{loc}) / \mathrm{scale}, \quad
        b = (\mathrm{high} - \mathrm{loc}) / \mathrm{scale} \\
        \mathrm{scale} &= \max(\mathrm{softplus}(\mathrm{raw}), \mathrm{scale\_floor})

    with Phi the distribution function of the standard normal. The inputs are all `loc`,
    then all raw scales. `loc` may be outside the interval. It is clipped at 30 scales
    from it, where float64 reaches its limit.

    Reference:
        `tfp_vae.distributions.TruncatedNormal`, whose draws have correct gradients.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        low: Lower end of the interval.
        high: Upper end of the interval.
        scale_floor: Smallest scale, by default a thousandth of the interval.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent(TruncatedNormal)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or `low` is not
            below `high`.

    Example:
        >>> p = IndependentTruncatedNormal((8, 8, 1))(tf.zeros([5, 128]))
        >>> bool(tf.reduce_all((p >= 0.0) & (p <= 1.0)))
        True
    """

    parts = 2

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        low: float = 0.0,
        high: float = 1.0,
        scale_floor: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.low, self.high = interval(low, high, caller)
        if scale_floor is None:
            scale_floor = 1e-3 * (self.high - self.low)
        self.scale_floor = positive_number(scale_floor, "scale_floor", caller)

    def coordinates(self, *raw: tf.Tensor) -> Any:
        """Truncated normals from `loc` and raw scale."""
        loc, scale = raw[0], positive(raw[1], self.scale_floor)
        reach = tf.stop_gradient(_REACH * scale)
        return TruncatedNormal(
            bounded(loc, self.low - reach, self.high + reach),
            scale,
            tf.constant(self.low, loc.dtype),
            tf.constant(self.high, loc.dtype),
            validate_args=self.validate_args,
        )
