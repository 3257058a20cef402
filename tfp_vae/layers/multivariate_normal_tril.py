"""A normal distribution with full covariance."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import check_width, positive_number
from tfp_vae.constraints import SCALE_FLOOR, lower_triangular
from tfp_vae.layers.vector_layer import VectorLayer

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class MultivariateNormalTriL(VectorLayer):
    r"""A multivariate normal, given `loc` and the Cholesky factor of its covariance.

    .. math::

        x &\sim \mathcal N(\mathrm{loc}, L L^T) \\
        \mathrm{diag}(L) &= \mathrm{softplus}(\mathrm{raw}) + \mathrm{scale\_floor}

    The parameters are `loc`, then the `d (d + 1) / 2` entries of L in the order of
    `tfp.bijectors.FillScaleTriL`.

    Reference:
        `tfp.layers.MultivariateNormalTriL`.

    Args:
        event_size: The dimension d.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Number added to the diagonal of L.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        A `tfd.MultivariateNormalTriL` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If `event_size` is not a positive integer, or the last axis of the
            inputs is not `params_size`.

    Example:
        >>> MultivariateNormalTriL.params_size(3)
        9
        >>> MultivariateNormalTriL(3)(tf.zeros([5, 9])).covariance().shape
        TensorShape([5, 3, 3])
    """

    def __init__(
        self,
        event_size: int,
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        scale_floor: float = SCALE_FLOOR,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_size, convert_to_tensor_fn, validate_args, **kwargs)
        self.scale_floor = positive_number(
            scale_floor, "scale_floor", type(self).__name__
        )

    @classmethod
    def params_size(cls, event_size: int, name: str | None = None) -> int:
        """`d` for `loc`, and `d (d + 1) / 2` for the factor."""
        d = super().params_size(event_size, name)
        return d + d * (d + 1) // 2

    @staticmethod
    def new(
        params: Any,
        event_size: int,
        validate_args: bool = False,
        name: str | None = None,
        scale_floor: float = SCALE_FLOOR,
    ) -> Any:
        """Makes the distribution from a tensor of parameters."""
        with tf.name_scope(name or "MultivariateNormalTriL"):
            params = tf.convert_to_tensor(params)
            width = MultivariateNormalTriL.params_size(event_size)
            check_width(params.shape, width, f"MultivariateNormalTriL({event_size})")
            return tfd.MultivariateNormalTriL(
                loc=params[..., :event_size],
                scale_tril=lower_triangular(params[..., event_size:], scale_floor),
                validate_args=validate_args,
            )

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        return self.new(
            parameters,
            self.event_size,
            self.validate_args,
            scale_floor=self.scale_floor,
        )
