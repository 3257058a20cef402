"""Independent coordinates, each with its own location and scale."""

from typing import Any, ClassVar

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, positive_number
from tfp_vae.constraints import SCALE_FLOOR, positive
from tfp_vae.events import event_size, independent, split_event
from tfp_vae.layers.distribution_layer import DistributionLayer

tfd = tfp.distributions


class LocationScaleLayer(DistributionLayer):
    """One `loc` and one scale for each coordinate of the event.

        log p(x) = sum_i log p(x[i]; loc[i], scale[i])
        scale = max(softplus(raw), scale_floor)

    The parameters are all the `loc`, then all the raw scales. A concrete layer names
    its `family`, a class of `tfp.distributions` that takes `loc` and `scale`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent(family)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> IndependentLogistic((2, 3))(tf.zeros([5, 12])).event_shape
        TensorShape([2, 3])
    """

    family: ClassVar[Any]

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        scale_floor: float = SCALE_FLOOR,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        owner = type(self).__name__
        self.scale_floor = positive_number(scale_floor, "scale_floor", owner)

    @staticmethod
    def params_size(event_shape: Shape = (), name: str | None = None) -> int:
        """One `loc` and one raw scale per coordinate."""
        return 2 * event_size(event_shape, name or "params_size")

    @classmethod
    def new(
        cls,
        params: Any,
        event_shape: Shape = (),
        validate_args: bool = False,
        name: str | None = None,
        scale_floor: float = SCALE_FLOOR,
    ) -> Any:
        """Makes the distribution from a tensor of parameters."""
        owner = name or cls.__name__
        with tf.name_scope(owner):
            loc, raw = split_event(params, event_shape, 2, owner)
            base = cls.family(loc, positive(raw, scale_floor), validate_args)
            return independent(base, event_shape, validate_args)

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        return self.new(
            parameters,
            self.event_shape,
            self.validate_args,
            scale_floor=self.scale_floor,
        )

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {**super().get_config(), "scale_floor": self.scale_floor}


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentNormal(LocationScaleLayer):
    """Independent normal coordinates: the usual q(z|x), and a p(x|z) for real data.

        log p(x) = sum_i log N(x[i]; loc[i], scale[i])
        scale = max(softplus(raw), scale_floor)

    Reference:
        `tfp.layers.IndependentNormal`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`: all `loc`, then all raw scales.

    Returns:
        An `Independent(Normal)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> q = IndependentNormal(3)(tf.zeros([5, IndependentNormal.params_size(3)]))
        >>> q.batch_shape, q.event_shape, q.log_prob(tf.zeros([5, 3])).shape
        (TensorShape([5]), TensorShape([3]), TensorShape([5]))
    """

    family = tfd.Normal


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentLogistic(LocationScaleLayer):
    """Independent logistic coordinates, with heavier tails than the normal.

        log p(x) = sum_i log Logistic(x[i]; loc[i], scale[i])
        scale = max(softplus(raw), scale_floor)

    Reference:
        `tfp.layers.IndependentLogistic`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`: all `loc`, then all raw scales.

    Returns:
        An `Independent(Logistic)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> p = IndependentLogistic(3, "mean")(tf.zeros([5, 6]))
        >>> p.event_shape, float(p[0, 0])
        (TensorShape([3]), 0.0)
    """

    family = tfd.Logistic
