"""Independent coordinates between 0 and 1."""

from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfp_vae.checks import Shape, positive_number
from tfp_vae.distributions.unit_interval import Beta, Kumaraswamy
from tfp_vae.layers.independent_layer import IndependentLayer


class TwoConcentrations(IndependentLayer):
    r"""A distribution on (0, 1) with two concentrations for each coordinate.

    .. math::

        \mathrm{concentration} = \mathrm{concentration\_floor}
        + \mathrm{softplus}(\mathrm{raw})

    With a floor of 1 the density is bounded. With a concentration below 1 it is
    infinite at an end. A subclass sets `family`, a class of distributions.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        concentration_floor: Smallest concentration.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent(family)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or the floor is
            not positive.

    Example:
        >>> IndependentBeta((2, 3))(tf.zeros([5, 12])).event_shape
        TensorShape([2, 3])
    """

    parts = 2
    family: ClassVar[Any]

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        concentration_floor: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        self.concentration_floor = positive_number(
            concentration_floor, "concentration_floor", type(self).__name__
        )

    def coordinates(self, *raw: tf.Tensor) -> Any:
        """The family from two raw concentrations."""
        first, second = (self.concentration_floor + tf.math.softplus(x) for x in raw)
        return self.family(first, second, validate_args=self.validate_args)


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentBeta(TwoConcentrations):
    r"""A beta distribution for each coordinate.

    .. math::

        \log p(x) &= \sum_i \log \mathrm{Beta}(x_i; \mathrm{concentration1}_i,
        \mathrm{concentration0}_i) \\
        \mathrm{concentration} &= \mathrm{concentration\_floor}
        + \mathrm{softplus}(\mathrm{raw})

    The density is proportional to x^(concentration1 - 1) (1 - x)^(concentration0 - 1).
    The inputs are all raw `concentration1`, then all raw `concentration0`.

    Reference:
        `tfp_vae.distributions.Beta`, whose draws are reparameterised implicitly.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        concentration_floor: Smallest concentration. Below 1, the density is infinite at
            an end of the interval, which draws do not reach.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent(Beta)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or the floor is
            not positive.

    Example:
        >>> p = IndependentBeta(3, "mean")(tf.zeros([5, 6]))
        >>> p.event_shape, float(p[0, 0])
        (TensorShape([3]), 0.5)
    """

    family = Beta


@keras.saving.register_keras_serializable("tfp_vae")
class IndependentKumaraswamy(TwoConcentrations):
    r"""A Kumaraswamy distribution for each coordinate: like a beta, drawn by inversion.

    .. math::

        \log p(x) &= \sum_i \log \bigl( a_i b_i \, x_i^{a_i - 1}
        (1 - x_i^{a_i})^{b_i - 1} \bigr) \\
        a, b &= \mathrm{concentration\_floor} + \mathrm{softplus}(\mathrm{raw})

    where a is TFP's `concentration1` and b its `concentration0`. Its KL to a beta
    distribution is registered. The inputs are all raw a, then all raw b.

    Reference:
        Kumaraswamy, A generalized probability density function for double-bounded
        random processes, 1980; `tfp_vae.distributions.Kumaraswamy`.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        concentration_floor: Smallest concentration. Below 1, the density is infinite at
            an end of the interval, which draws do not reach.
        **kwargs: Passed to `IndependentLayer`, such as `parameters_axis`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        An `Independent(Kumaraswamy)` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`, or the floor is
            not positive.

    Example:
        >>> IndependentKumaraswamy(3)(tf.zeros([5, 6])).event_shape
        TensorShape([3])
    """

    family = Kumaraswamy
