"""Independent coordinates on the positive half-line."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, positive_number
from tfp_vae.constraints import LOG_LIMIT, SCALE_FLOOR, bounded, positive
from tfp_vae.layers.independent_layer import IndependentLayer

tfd = tfp.distributions

_LOG_SCALE_LIMIT = 8.0  # 40 + 6 * 8 = 88: draws within 6 scales stay in float32


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentLogNormal(IndependentLayer):
    r"""A log-normal for each coordinate: log x is normal.

    .. math::

        \log p(x) &= \sum_i \bigl( \log \mathcal N(\log x_i; \mathrm{loc}_i,
        \mathrm{scale}_i) - \log x_i \bigr) \\
        \mathrm{scale} &= \min(\max(\mathrm{softplus}(\mathrm{raw}), 10^{-5}), 8), \quad
        |\mathrm{loc}| \le 40

    The limits keep draws in the range of float32, which ends at about exp(88). The
    inputs are all `loc`, then all raw scales.

    Reference:
        `tfp.distributions.LogNormal`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent(LogNormal)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> IndependentLogNormal(3)(tf.zeros([5, 6])).event_shape
        TensorShape([3])
    """

    parts = 2

    def coordinates(self, *raw: tf.Tensor) -> Any:
        """Log-normals from `loc` and raw scale."""
        loc, scale = raw
        return tfd.LogNormal(
            bounded(loc, -LOG_LIMIT, LOG_LIMIT),
            bounded(tf.math.softplus(scale), SCALE_FLOOR, _LOG_SCALE_LIMIT),
            validate_args=self.validate_args,
        )


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentGamma(IndependentLayer):
    r"""A gamma distribution for each coordinate.

    .. math::

        \log p(x) &= \sum_i \log \mathrm{Gamma}(x_i; \mathrm{concentration}_i,
        \mathrm{rate}_i) \\
        \mathrm{concentration} &= \max(\mathrm{softplus}(\mathrm{raw}),
        \mathrm{concentration\_floor}) \\
        \mathrm{rate} &= \max(\mathrm{softplus}(\mathrm{raw}), 10^{-5})

    The mean is concentration / rate. The inputs are all raw concentrations, then all
    raw rates. With a concentration below 1/4, some float32 draws are 0, where the
    density is infinite. A likelihood, which is not drawn from in training, may have a
    lower floor.

    Reference:
        `tfp.distributions.Gamma`, whose draws are reparameterised implicitly.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        concentration_floor: Smallest concentration.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent(Gamma)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or the floor is
            not positive.

    Example:
        >>> p = IndependentGamma(3, "mean")(tf.zeros([5, 6]))
        >>> p.event_shape, float(p[0, 0])
        (TensorShape([3]), 1.0)
    """

    parts = 2

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        concentration_floor: float = 0.25,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        self.concentration_floor = positive_number(
            concentration_floor, "concentration_floor", type(self).__name__
        )

    def coordinates(self, *raw: tf.Tensor) -> Any:
        """Gammas from raw concentration and rate."""
        concentration, rate = raw
        return tfd.Gamma(
            positive(concentration, self.concentration_floor),
            positive(rate),
            validate_args=self.validate_args,
        )
