"""Independent counts."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape
from tfp_vae.events import event_size, independent, split_event
from tfp_vae.layers.distribution_layer import DistributionLayer

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentPoisson(DistributionLayer):
    """A Poisson count for each coordinate, given the logarithm of its rate.

        log p(x) = sum_i x[i] log_rate[i] - exp(log_rate[i]) - log x[i]!

    with x[i] in {0, 1, 2, ...}.

    Reference:
        `tfp.layers.IndependentPoisson`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of log rates, of shape `(..., params_size)`.

    Returns:
        An `Independent(Poisson)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> p = IndependentPoisson(3, "mean")(tf.zeros([5, 3]))
        >>> p.event_shape, float(p[0, 0])
        (TensorShape([3]), 1.0)
    """

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)

    @staticmethod
    def params_size(event_shape: Shape = (), name: str | None = None) -> int:
        """One log rate per coordinate."""
        return event_size(event_shape, name or "params_size")

    @staticmethod
    def new(
        params: Any,
        event_shape: Shape = (),
        validate_args: bool = False,
        name: str | None = None,
    ) -> Any:
        """Makes the distribution from a tensor of log rates."""
        owner = name or "IndependentPoisson"
        with tf.name_scope(owner):
            (log_rate,) = split_event(params, event_shape, 1, owner)
            base = tfd.Poisson(log_rate=log_rate, validate_args=validate_args)
            return independent(base, event_shape, validate_args)

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        return self.new(parameters, self.event_shape, self.validate_args)
