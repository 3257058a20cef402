"""Independent coordinates, each with its own location and scale."""

import math
from typing import Any, ClassVar

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, positive_number
from tfp_vae.constraints import SCALE_FLOOR, positive
from tfp_vae.layers.events import event_size, independent, split_event
from tfp_vae.layers.independent_layer import IndependentLayer

tfd = tfp.distributions

SHARED = "shared"


class LocationScaleLayer(IndependentLayer):
    r"""One `loc` and one scale for each coordinate of the event.

    .. math::

        \log p(x) &= \sum_i \log p(x_i; \mathrm{loc}_i, \mathrm{scale}_i) \\
        \mathrm{scale} &= \max(\mathrm{softplus}(\mathrm{raw}), \mathrm{scale\_floor})

    The parameters are all `loc`, then all raw scales. A subclass sets `family`, a class
    of `tfp.distributions` that takes `loc` and `scale`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        scale: `None` to take one scale per coordinate from the inputs; a number for a
            fixed scale; `"shared"` for a single learned scale, a variable of the layer
            that starts at 1. Unless it is `None`, the inputs are the `loc` alone.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent(family)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or `scale` is
            none of these.

    Example:
        >>> IndependentLogistic((2, 3))(tf.zeros([5, 12])).event_shape
        TensorShape([2, 3])
        >>> IndependentLogistic((2, 3), scale="shared")(tf.zeros([5, 6])).event_shape
        TensorShape([2, 3])
    """

    family: ClassVar[Any]

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        scale_floor: float = SCALE_FLOOR,
        scale: float | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.scale_floor = positive_number(scale_floor, "scale_floor", caller)
        self.scale: Any = scale
        if scale is not None and not (isinstance(scale, str) and scale == SHARED):
            self.scale = positive_number(scale, "scale", caller)

    @classmethod
    def params_size(
        cls,
        event_shape: Shape = (),
        name: str | None = None,
        scale: float | str | None = None,
    ) -> int:
        """One `loc` per coordinate, and one raw scale unless `scale` is given."""
        parts = 2 if scale is None else 1
        return parts * event_size(event_shape, name or "params_size")

    @classmethod
    def new(
        cls,
        params: Any,
        event_shape: Shape = (),
        validate_args: bool = False,
        name: str | None = None,
        scale_floor: float = SCALE_FLOOR,
        scale: Any = None,
    ) -> Any:
        """Makes the distribution from a tensor of parameters."""
        caller = name or cls.__name__
        with tf.name_scope(caller):
            parts = 2 if scale is None else 1
            loc, *raw = split_event(params, event_shape, parts, caller)
            if raw:
                scale = positive(raw[0], scale_floor)
            base = cls.family(
                loc, tf.convert_to_tensor(scale, loc.dtype), validate_args
            )
            return independent(base, event_shape, validate_args)

    def build(self, input_shape: Any) -> None:
        """Makes the variable of a shared scale."""
        if self.scale == SHARED and not self.built:
            one = keras.initializers.Constant(math.log(math.expm1(1.0)))
            self.raw_scale = self.add_weight(name="raw_scale", initializer=one)
        super().build(input_shape)

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        scale = self.scale
        if scale == SHARED:
            # An outer layer may compute in a wider dtype.
            raw = tf.cast(tf.convert_to_tensor(self.raw_scale), parameters.dtype)
            scale = positive(raw, self.scale_floor)
        return self.new(
            parameters,
            self.event_shape,
            self.validate_args,
            scale_floor=self.scale_floor,
            scale=scale,
        )


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentNormal(LocationScaleLayer):
    r"""Independent normal coordinates: the usual q(z|x), and a p(x|z) for real data.

    .. math::

        \log p(x) &= \sum_i \log \mathcal N(x_i; \mathrm{loc}_i, \mathrm{scale}_i) \\
        \mathrm{scale} &= \max(\mathrm{softplus}(\mathrm{raw}), \mathrm{scale\_floor})

    Reference:
        `tfp.layers.IndependentNormal`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        scale: `None` to take one per coordinate from the inputs, a number for a fixed
            scale, `"shared"` for a single learned scale.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`: all `loc`, then all raw scales
            unless `scale` is given.

    Returns:
        An `Independent(Normal)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> q = IndependentNormal(3)(tf.zeros([5, IndependentNormal.params_size(3)]))
        >>> q.batch_shape, q.event_shape, q.log_prob(tf.zeros([5, 3])).shape
        (TensorShape([5]), TensorShape([3]), TensorShape([5]))

        With a scale of 1 the NLL is half the squared error and a constant:

        >>> p = IndependentNormal(3, scale=1.0)(tf.zeros([1, 3]))
        >>> float(-p.log_prob([1.0, 2.0, 3.0])[0]) - 1.5 * float(np.log(2 * np.pi))
        7.0...
    """

    family = tfd.Normal


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentLogistic(LocationScaleLayer):
    r"""Independent logistic coordinates, with heavier tails than the normal.

    .. math::

        \log p(x) &= \sum_i \log \mathrm{Logistic}(x_i; \mathrm{loc}_i,
        \mathrm{scale}_i) \\
        \mathrm{scale} &= \max(\mathrm{softplus}(\mathrm{raw}), \mathrm{scale\_floor})

    Reference:
        `tfp.layers.IndependentLogistic`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        scale: `None` to take one per coordinate from the inputs, a number for a fixed
            scale, `"shared"` for a single learned scale.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`: all `loc`, then all raw scales
            unless `scale` is given.

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


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentLaplace(LocationScaleLayer):
    r"""Independent Laplace coordinates: the NLL is the absolute error, scaled.

    .. math::

        \log p(x) &= -\sum_i \bigl( |x_i - \mathrm{loc}_i| / \mathrm{scale}_i
        + \log(2 \, \mathrm{scale}_i) \bigr) \\
        \mathrm{scale} &= \max(\mathrm{softplus}(\mathrm{raw}), \mathrm{scale\_floor})

    Reference:
        `tfp.distributions.Laplace`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        scale: `None` to take one per coordinate from the inputs, a number for a fixed
            scale, `"shared"` for a single learned scale.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`: all `loc`, then all raw scales
            unless `scale` is given.

    Returns:
        An `Independent(Laplace)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> p = IndependentLaplace(3, scale=0.5)(tf.zeros([1, 3]))
        >>> float(p.log_prob([1.0, 2.0, 3.0])[0])
        -12.0
    """

    family = tfd.Laplace
