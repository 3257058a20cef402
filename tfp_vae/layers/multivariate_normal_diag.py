"""A vector with a diagonal normal law."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import integer, positive_number
from tfp_vae.constraints import SCALE_FLOOR, positive
from tfp_vae.layers.distribution_layer import DistributionLayer
from tfp_vae.layers.events import split_event

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class MultivariateNormalDiag(DistributionLayer):
    """A multivariate normal with diagonal covariance.

        x ~ N(loc, diag(scale)^2),  scale = max(softplus(raw), scale_floor)

    The law of `IndependentNormal(event_size)` as TFP's `MultivariateNormalDiag`, which
    has a `covariance()`. The inputs are `loc`, then the raw scales.

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
        A `MultivariateNormalDiag` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If `event_size` is no positive integer, or the last axis of the
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
        super().__init__(
            convert_to_tensor_fn=convert_to_tensor_fn,
            validate_args=validate_args,
            **kwargs,
        )
        owner = type(self).__name__
        self.event_size = integer(event_size, "event_size", owner)
        self.scale_floor = positive_number(scale_floor, "scale_floor", owner)

    @staticmethod
    def params_size(event_size: int, name: str | None = None) -> int:
        """`loc` and a raw scale for each of the d."""
        return 2 * integer(event_size, "event_size", name or "params_size")

    @property
    def parameters_width(self) -> int:
        """`params_size` of this layer's event size."""
        return self.params_size(self.event_size)

    @property
    def description(self) -> str:
        """The layer as error messages show it."""
        return f"MultivariateNormalDiag({self.event_size})"

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        loc, raw = split_event(parameters, self.event_size, 2, self.description)
        return tfd.MultivariateNormalDiag(
            loc, positive(raw, self.scale_floor), validate_args=self.validate_args
        )

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {
            **super().get_config(),
            "event_size": self.event_size,
            "scale_floor": self.scale_floor,
        }
