"""Independent coordinates of one scalar family."""

from typing import Any, ClassVar

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape
from tfp_vae.layers.distribution_layer import DistributionLayer
from tfp_vae.layers.events import event_size, independent, split_event

tfd = tfp.distributions


class IndependentLayer(DistributionLayer):
    """A scalar law for each coordinate of the event.

        log p(x) = sum_i log p(x[i]; parameters[i])

    The inputs are the first parameter of all coordinates, then the second of all, and
    so on. A concrete layer names how many `parts` a coordinate has, and gives
    `coordinates`, from the raw parts to a batch of scalar laws.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        A `tfd.Independent` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> class Rayleighs(IndependentLayer):
        ...     parts = 1
        ...     def coordinates(self, raw):
        ...         return tfd.Weibull(2.0, tf.math.softplus(raw))
        >>> Rayleighs.params_size((2, 3)), Rayleighs((2, 3))(tf.zeros([5, 6])).shape
        (6, TensorShape([5, 2, 3]))
    """

    parts: ClassVar[int]

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)

    @classmethod
    def params_size(cls, event_shape: Shape = (), name: str | None = None) -> int:
        """`parts` numbers for each coordinate."""
        return cls.parts * event_size(event_shape, name or "params_size")

    def coordinates(self, *raw: tf.Tensor) -> Any:
        """From real numbers to scalar laws.

        Args:
            *raw: The parts, tensors of shape `(..., *event_shape)`.

        Returns:
            A distribution of that batch shape and of scalar event.
        """
        raise NotImplementedError

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        parts = (self.parameters_width or 1) // event_size(self.event_shape, self.name)
        raw = split_event(parameters, self.event_shape, parts, self.description)
        base = self.coordinates(*raw)
        return independent(base, self.event_shape, self.validate_args)
