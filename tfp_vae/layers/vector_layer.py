"""Distributions of vectors."""

from typing import Any, ClassVar

from tfp_vae.checks import integer
from tfp_vae.layers.distribution_layer import DistributionLayer


class VectorLayer(DistributionLayer):
    """A distribution of vectors of `event_size` coordinates.

    A subclass defines `make_distribution`, and `params_size` if it has more than one
    parameter for each coordinate.

    Args:
        event_size: The number of coordinates.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        A distribution with `batch_shape == inputs.shape[:-1]` and event shape
        `(event_size,)`.

    Raises:
        ValueError: If `event_size` is too small, or the last axis of the inputs is not
            `params_size`.

    Example:
        >>> class Gumbels(VectorLayer):
        ...     def make_distribution(self, parameters):
        ...         return tfd.Independent(tfd.Gumbel(parameters, 1.0), 1)
        >>> Gumbels(3)(tf.zeros([5, Gumbels.params_size(3)])).event_shape
        TensorShape([3])
    """

    # The smallest `event_size` that is allowed.
    smallest: ClassVar[int] = 1

    def __init__(
        self,
        event_size: int,
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            convert_to_tensor_fn=convert_to_tensor_fn,
            validate_args=validate_args,
            **kwargs,
        )
        caller = type(self).__name__
        self.event_size = integer(event_size, "event_size", caller, self.smallest)

    @classmethod
    def params_size(cls, event_size: int, name: str | None = None) -> int:
        """One parameter for each coordinate."""
        return integer(event_size, "event_size", name or "params_size", cls.smallest)
