"""The power spherical distribution, with gradients in all its parameters."""

import functools
import math
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import check_finite_non_negative
from tfp_vae.distributions.sphere import (
    around_the_pole,
    as_kl,
    check_unit_vectors,
    from_angle,
    half_square_distance,
    log_area,
    reparameterized_angle,
    same_dimension,
)
from tfp_vae.distributions.von_mises_fisher import VonMisesFisher, cross_entropy

tfd = tfp.distributions

# Lower bound of 1 + mu.x, which is 0 at x = -mu. The density is 0 there.
_OPPOSITE = 1e-32


class PowerSpherical(tfp.distributions.PowerSpherical):
    r"""Unit vectors around a mean direction mu; the density is a power of 1 + mu.x.

    .. math::

        p(x) &= (1 + \mu \cdot x)^k / N(k) \\
        N(k) &= 2^{2a + k} \pi^a \, \Gamma(a + k) / \Gamma(2a + k), \quad
        a = (m - 1) / 2

    TFP's class, with finite gradients in every dimension m >= 2 and for concentrations
    from 0 to 1e6 and above. Angles are drawn by rejection, with implicit gradients.
    Densities, KL and entropy are computed in float64. The KL is
    registered to and from `tfd.SphericalUniform`, and to von Mises-Fisher
    distributions. It has no closed form to another power spherical distribution.

    Reference:
        De Cao and Aziz, The Power Spherical distribution, 2020.
        https://arxiv.org/abs/2006.04437

    Args:
        mean_direction: mu, unit vectors of shape `(..., m)`, with a known m >= 2.
        concentration: k, at least 0, of shape `(...)`; 0 is the uniform distribution.
        validate_args: Whether parameters and values are checked at run time.
        allow_nan_stats: See `tfd.Distribution`.
        name: Name of the distribution.

    Raises:
        ValueError: If m is below 2, `mean_direction` has a norm other than 1, or
            `concentration` is negative or not finite. Tensors are checked only with
            `validate_args`.

    Example:
        >>> q = PowerSpherical([0.6, 0.8], 50.0)
        >>> float(tf.norm(q.sample(seed=1))), q.mean().numpy().round(3)
        (1.0, array([0.588, 0.784], dtype=float32))
        >>> f"{tfd.kl_divergence(q, tfd.SphericalUniform(2)):.2f}"
        '2.03'
    """

    def __init__(
        self,
        mean_direction: Any,
        concentration: Any,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "PowerSpherical",
    ) -> None:
        """Checks numbers and arrays, but not the values of tensors."""
        check_unit_vectors(mean_direction, name)
        check_finite_non_negative(concentration, "concentration", name)
        super().__init__(
            mean_direction, concentration, validate_args, allow_nan_stats, name
        )

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> Any:
        return super()._parameter_properties(dtype, num_classes)

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        mu = tf.convert_to_tensor(self.mean_direction)
        m = mu.shape[-1]
        k = tf.cast(self.concentration, tf.float64)
        k = tf.broadcast_to(k, self.batch_shape_tensor())
        power = tf.constant(m - 1.0, k.dtype)
        spread = power / (2 * k + power)
        log_accept = _log_accept(k, spread, m)
        shape = tf.concat([[n], tf.shape(k), [m]], axis=0)
        angle, tangent = around_the_pole(spread, log_accept, shape, seed)
        angle = reparameterized_angle(
            angle,
            k,
            m,
            tilt=_tilt,
            mean_tilt=functools.partial(mean_tilt, dimension=m),
            mode=2 * tf.atan2(tf.sqrt(power - 1), tf.sqrt(2 * k + power - 1)),
        )
        return from_angle(angle, tangent, mu)

    def _log_prob(self, x: Any) -> tf.Tensor:
        k, m = tf.cast(self.concentration, tf.float64), self.event_shape[-1]
        far = half_square_distance(x, self.mean_direction)
        near = half_square_distance(-x, self.mean_direction)
        # log((1 + mu.x) / 2), accurate near both x = mu and x = -mu.
        tilt = -tf.math.log1p(far / tf.maximum(near, _OPPOSITE))
        return tf.cast(k * tilt - _log_normalizer(k, m) - log_area(m), self.dtype)

    def _mode(self) -> tf.Tensor:
        ones = tf.ones_like(self.concentration)
        return self.mean_direction * ones[..., tf.newaxis]

    def _variance(self) -> tf.Tensor:
        return tf.linalg.diag_part(self._covariance())

    def _entropy(self, concentration: Any = None, mean_direction: Any = None) -> Any:
        k, m = self.concentration, self.event_shape[-1]
        k = tf.cast(k if concentration is None else concentration, tf.float64)
        entropy = tf.cast(log_area(m) - _kl_to_uniform(k, m), self.dtype)
        return tf.broadcast_to(entropy, self.batch_shape_tensor())


def _log_accept(k: tf.Tensor, spread: tf.Tensor, m: int) -> Any:
    """The logarithm of the acceptance probability, as a function of t/2 and s/2.

    The probability is the ratio of target to proposal density, scaled to 1 at its
    maximum, tan(t/2)^2 = spread. The proposal density is the uniform one times a
    multiple of ((1 + tan(t/2)^2) / (1 + tan(s/2)^2))^(m-1).
    """

    def log_accept(half: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        log_near, log_uniform = tf.math.log(tf.cos(half)), tf.math.log(tf.cos(uniform))
        best = (k + m - 1) * tf.math.log1p(spread) - (m - 1) * math.log(2)
        return 2 * (k + m - 1) * log_near - 2 * (m - 1) * log_uniform + best

    return log_accept


def _tilt(angle: tf.Tensor) -> tf.Tensor:
    """log((1 + cos(t)) / 2)."""
    below_one = 1 - 2.0**-53
    return tf.math.log1p(-tf.minimum(tf.square(tf.sin(angle / 2)), below_one))


def mean_tilt(concentration: tf.Tensor, dimension: int) -> tf.Tensor:
    """The mean of the tilt h = log((1 + mu.x) / 2), which the concentration multiplies:

        E[h] = digamma(a + k) - digamma(2a + k),   a = (m - 1) / 2

    Args:
        concentration: k, float64.
        dimension: m.

    Returns:
        A tensor shaped like `concentration`.

    Example:
        >>> mean_tilt(tf.constant([0.0, 2.0], tf.float64), 3).numpy().round(4)
        array([-1.    , -0.3333])
    """
    half = (dimension - 1) / 2
    near, both = concentration + half, concentration + 2 * half
    return tf.math.digamma(near) - tf.math.digamma(both)


def _log_normalizer(k: tf.Tensor, dimension: int) -> tf.Tensor:
    """For U uniform, log E_U[((1 + mu.x) / 2)^k] = log B(a + k, a) - log B(a, a)."""
    half = (dimension - 1) / 2
    uniform = 2 * math.lgamma(half) - math.lgamma(2 * half)
    return tfp.math.lbeta(k + half, tf.constant(half, k.dtype)) - uniform


def _kl_to_uniform(k: tf.Tensor, dimension: int) -> tf.Tensor:
    return k * mean_tilt(k, dimension) - _log_normalizer(k, dimension)


@tfd.RegisterKL(PowerSpherical, tfd.SphericalUniform)
def _kl_power_spherical_uniform(a: Any, b: Any, name: str | None = None) -> tf.Tensor:
    with tf.name_scope(name or "kl_power_spherical_uniform"):
        k = tf.cast(a.concentration, tf.float64)
        return as_kl(_kl_to_uniform(k, same_dimension(a, b)), a, b)


@tfd.RegisterKL(tfd.SphericalUniform, tfd.PowerSpherical)
def _kl_uniform_power_spherical(a: Any, b: Any, name: str | None = None) -> tf.Tensor:
    with tf.name_scope(name or "kl_uniform_power_spherical"):
        k, m = tf.cast(b.concentration, tf.float64), same_dimension(a, b)
        kl = _log_normalizer(k, m) - k * mean_tilt(tf.zeros_like(k), m)
        return as_kl(kl, a, b)


@tfd.RegisterKL(PowerSpherical, VonMisesFisher)
@tfd.RegisterKL(PowerSpherical, tfd.VonMisesFisher)
@tfd.RegisterKL(tfd.PowerSpherical, VonMisesFisher)
def _kl_power_spherical_von_mises_fisher(
    a: Any, b: Any, name: str | None = None
) -> tf.Tensor:
    with tf.name_scope(name or "kl_power_spherical_von_mises_fisher"):
        k, m = tf.cast(a.concentration, tf.float64), same_dimension(a, b)
        cosine_tilt = -(m - 1) / (m - 1 + k)  # E[mu.x] - 1
        return as_kl(_kl_to_uniform(k, m) + cross_entropy(cosine_tilt, a, b), a, b)
