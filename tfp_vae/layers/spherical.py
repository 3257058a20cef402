"""Directions: distributions on the unit sphere."""

from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfp_vae.checks import positive_number
from tfp_vae.distributions.power_spherical import (
    PowerSpherical as PowerSphericalDistribution,
)
from tfp_vae.distributions.sphere import unit_vector
from tfp_vae.distributions.von_mises_fisher import (
    VonMisesFisher as VonMisesFisherDistribution,
)
from tfp_vae.layers.vector_layer import VectorLayer


class SphericalLayer(VectorLayer):
    r"""Unit vectors of R^m around a mean direction, with a concentration.

    .. math::

        \mathrm{mean\_direction} &= \mathrm{raw}_{1:m} / |\mathrm{raw}_{1:m}| \\
        \mathrm{concentration} &= \mathrm{concentration\_floor}
        + \mathrm{softplus}(\mathrm{raw}_{m+1})

    A subclass sets `family`, a class that takes `mean_direction` and `concentration`.
    The event has `event_size` = m coordinates and m - 1 degrees of freedom: S^10 in the
    literature is `event_size=11`.

    Args:
        event_size: The number m of coordinates, at least 2.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        concentration: A number that fixes the concentration, which is then not in the
            inputs; the KL to the uniform prior is constant.
        concentration_floor: Smallest concentration; above 0 it keeps the posterior
            away from the prior.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        A distribution with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If `event_size` is below 2, a concentration is negative or not
            finite, or the last axis of the inputs is not `params_size`.

    Example:
        >>> PowerSpherical(3)(tf.zeros([5, 4])).event_shape
        TensorShape([3])
    """

    smallest = 2
    family: ClassVar[Any]

    def __init__(
        self,
        event_size: int,
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        concentration: float | None = None,
        concentration_floor: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_size, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.concentration = None
        if concentration is not None:
            self.concentration = positive_number(
                concentration, "concentration", caller, zero=True
            )
        self.concentration_floor = positive_number(
            concentration_floor, "concentration_floor", caller, zero=True
        )

    @classmethod
    def params_size(
        cls,
        event_size: int,
        name: str | None = None,
        concentration: float | None = None,
    ) -> int:
        """The coordinates of a direction and, unless it is fixed, a concentration."""
        m = super().params_size(event_size, name)
        return m if concentration is not None else m + 1

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        mean_direction = unit_vector(parameters[..., : self.event_size])
        if self.concentration is None:
            raw = parameters[..., self.event_size]
            concentration = self.concentration_floor + tf.math.softplus(raw)
        else:
            concentration = tf.constant(self.concentration, parameters.dtype)
        return self.family(mean_direction, concentration, self.validate_args)


@keras.saving.register_keras_serializable("tfp_vae")
class VonMisesFisher(SphericalLayer):
    r"""A von Mises-Fisher distribution: the posterior of hyperspherical VAEs.

    .. math::

        p(x) &= C(k) \exp(k \, \mu \cdot x), \quad
        \mu = \mathrm{raw}_{1:m} / |\mathrm{raw}_{1:m}| \\
        k &= \mathrm{concentration\_floor} + \mathrm{softplus}(\mathrm{raw}_{m+1})

    The matching prior is `tfd.SphericalUniform(m)`, with the KL in closed form. Draws
    have the exact gradient in every dimension.

    Reference:
        Davidson et al., Hyperspherical Variational Auto-Encoders, 2018,
        https://arxiv.org/abs/1804.00891; with a fixed concentration, Guu et al.,
        Generating Sentences by Editing Prototypes, 2018,
        https://arxiv.org/abs/1709.08878.

    Args:
        event_size: The number m of coordinates, at least 2.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        concentration: A number that fixes the concentration k.
        concentration_floor: Smallest concentration.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`: the direction, then the raw
            concentration unless it is fixed.

    Returns:
        A `tfp_vae.distributions.VonMisesFisher` with
        `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If `event_size` is below 2, a concentration is negative or not
            finite, or the last axis of the inputs is not `params_size`.

    Example:
        >>> q = VonMisesFisher(3)(tf.ones([5, VonMisesFisher.params_size(3)]))
        >>> q.mode()[0].numpy().round(3), q.sample().shape
        (array([0.577, 0.577, 0.577], dtype=float32), TensorShape([5, 3]))
    """

    family = VonMisesFisherDistribution


@keras.saving.register_keras_serializable("tfp_vae")
class PowerSpherical(SphericalLayer):
    r"""Power spherical: like `VonMisesFisher`, but without Bessel functions.

    .. math::

        p(x) &= (1 + \mu \cdot x)^k / N(k), \quad
        \mu = \mathrm{raw}_{1:m} / |\mathrm{raw}_{1:m}| \\
        k &= \mathrm{concentration\_floor} + \mathrm{softplus}(\mathrm{raw}_{m+1})

    The matching prior is `tfd.SphericalUniform(m)`, with the KL in closed form.

    Reference:
        De Cao and Aziz, The Power Spherical distribution, 2020.
        https://arxiv.org/abs/2006.04437

    Args:
        event_size: The number m of coordinates, at least 2.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        concentration: A number that fixes the concentration k.
        concentration_floor: Smallest concentration.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`: the direction, then the raw
            concentration unless it is fixed.

    Returns:
        A `tfp_vae.distributions.PowerSpherical` with
        `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If `event_size` is below 2, a concentration is negative or not
            finite, or the last axis of the inputs is not `params_size`.

    Example:
        >>> q = PowerSpherical(3)(tf.ones([5, PowerSpherical.params_size(3)]))
        >>> q.mode()[0].numpy().round(3), q.sample().shape
        (array([0.577, 0.577, 0.577], dtype=float32), TensorShape([5, 3]))
    """

    family = PowerSphericalDistribution
