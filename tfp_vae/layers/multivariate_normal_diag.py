"""A normal distribution with diagonal covariance."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import positive_number
from tfp_vae.constraints import SCALE_FLOOR, positive
from tfp_vae.layers.events import split_event
from tfp_vae.layers.vector_layer import VectorLayer

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class MultivariateNormalDiag(VectorLayer):
    r"""A multivariate normal with diagonal covariance.

    .. math::

        x &\sim \mathcal N(\mathrm{loc}, \mathrm{diag}(\mathrm{scale})^2) \\
        \mathrm{scale} &= \max(\mathrm{softplus}(\mathrm{raw}), \mathrm{scale\_floor})

    The distribution equals that of `IndependentNormal(event_size)`, but is a
    `tfd.MultivariateNormalDiag`, which has a `covariance()`. The inputs are `loc`, then
    the raw scales.

    Reference:
        `tfp.distributions.MultivariateNormalDiag`.

    Args:
        event_size: The dimension d.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        A `tfd.MultivariateNormalDiag` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If `event_size` is not a positive integer, or the last axis of the
            inputs is not `params_size`.

    Example:
        >>> MultivariateNormalDiag(3)(tf.zeros([5, 6])).covariance().shape
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
        """One `loc` and one raw scale per coordinate."""
        return 2 * super().params_size(event_size, name)

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        loc, raw = split_event(parameters, self.event_size, 2, self.description)
        return tfd.MultivariateNormalDiag(
            loc, positive(raw, self.scale_floor), validate_args=self.validate_args
        )
