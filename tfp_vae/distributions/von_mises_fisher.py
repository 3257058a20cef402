"""The von Mises-Fisher distribution, with gradients in all its parameters."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import check_finite_non_negative
from tfp_vae.distributions.sphere import (
    TiltMoments,
    around_the_pole,
    as_kl,
    check_unit_vectors,
    from_angle,
    half_square_distance,
    log_area,
    reparameterized_angle,
    same_dimension,
    tilt_moments,
)

tfd = tfp.distributions

_TINY = 1e-30


class VonMisesFisher(tfp.distributions.VonMisesFisher):
    r"""Unit vectors around a mean direction: the analogue of the normal on the sphere.

    .. math::

        p(x) = C(k) \exp(k \, \mu \cdot x), \quad
        C(k) = \frac{k^{m/2 - 1}}{(2 \pi)^{m/2} \, I_{m/2 - 1}(k)}

    TFP's class, with what a posterior needs. Draws are reparameterised in every
    dimension m >= 2. Angles are drawn by rejection, and get their gradient in the
    concentration by implicit reparameterisation (TFP's is biased unless m = 3).
    Gradients at the mean direction are finite. Densities, KL and entropy are computed
    in float64, and are accurate for concentrations from 0 to 1e6 and above, whatever
    the dtype. The KL is registered to and from `tfd.SphericalUniform`, and to von
    Mises-Fisher distributions.

    Reference:
        Davidson et al., Hyperspherical Variational Auto-Encoders, 2018.
        https://arxiv.org/abs/1804.00891

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
        >>> q = VonMisesFisher([0.6, 0.8], 50.0)
        >>> round(float(tf.norm(q.sample(seed=1))), 5), q.mean().numpy().round(3)
        (1.0, array([0.594, 0.792], dtype=float32))
        >>> f"{tfd.kl_divergence(q, tfd.SphericalUniform(2)):.2f}"
        '2.37'
    """

    def __init__(
        self,
        mean_direction: Any,
        concentration: Any,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "VonMisesFisher",
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

    @property
    def reparameterization_type(self) -> Any:
        """Fully reparameterised, in every dimension."""
        return tfd.FULLY_REPARAMETERIZED

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        mu = tf.convert_to_tensor(self.mean_direction)
        m = mu.shape[-1]
        k = tf.cast(self.concentration, tf.float64)
        k = tf.broadcast_to(k, self.batch_shape_tensor())
        shape = tf.concat([[n], tf.shape(k), [m]], axis=0)
        power = tf.constant(m - 1.0, k.dtype)
        spread = power / (2 * k + tf.sqrt(4 * tf.square(k) + power**2))
        log_accept = _log_accept(k, spread, m)
        angle, tangent = around_the_pole(spread, log_accept, shape, seed)
        angle = reparameterized_angle(
            angle,
            k,
            m,
            tilt=_tilt,
            mean_tilt=lambda k: cosine_moments(k, m).mean,
            mode=_mode_of_angle(k, m),
        )
        return from_angle(angle, tangent, mu)

    def _log_prob(self, x: Any) -> tf.Tensor:
        k, m = tf.cast(self.concentration, tf.float64), self.event_shape[-1]
        log_ratio = -k * half_square_distance(x, self.mean_direction)
        log_prob = log_ratio - cosine_moments(k, m).log_normalizer - log_area(m)
        return tf.cast(log_prob, self.dtype)

    def _log_normalization(self, concentration: Any = None) -> tf.Tensor:
        """The logarithm of 1 / C(k), which TFP's own formulas use."""
        k, m = self.concentration, self.event_shape[-1]
        k = tf.cast(k if concentration is None else concentration, tf.float64)
        return tf.cast(
            cosine_moments(k, m).log_normalizer + log_area(m) + k, self.dtype
        )

    def _mean(self) -> tf.Tensor:
        k, m = tf.cast(self.concentration, tf.float64), self.event_shape[-1]
        length = tf.cast(1 + cosine_moments(k, m).mean, self.dtype)
        return length[..., tf.newaxis] * self.mean_direction

    def _covariance(self) -> tf.Tensor:
        """(A / k) (I - mu mu^T) + A'(k) mu mu^T, with A the length of the mean."""
        k, m = tf.cast(self.concentration, tf.float64), self.event_shape[-1]
        mu = tf.cast(self.mean_direction, tf.float64)
        k = tf.maximum(k, 1e-6)[..., tf.newaxis, tf.newaxis]
        moments = cosine_moments(k, m)
        along, across = moments.variance, (1 + moments.mean) / k
        outer = mu[..., :, tf.newaxis] * mu[..., tf.newaxis, :]
        identity = tf.eye(m, dtype=tf.float64)
        return tf.cast(across * (identity - outer) + along * outer, self.dtype)

    def _variance(self) -> tf.Tensor:
        return tf.linalg.diag_part(self._covariance())

    def _entropy(self) -> tf.Tensor:
        m = self.event_shape[-1]
        kl = _kl_to_uniform(tf.cast(self.concentration, tf.float64), m)
        entropy = tf.cast(log_area(m) - kl, self.dtype)
        return tf.broadcast_to(entropy, self.batch_shape_tensor())


def cosine_moments(concentration: tf.Tensor, dimension: int) -> TiltMoments:
    """The moments of h = cos(t) - 1 under a von Mises-Fisher distribution:

        log E_U[exp(k h)] = -log C(k) - k - log |S^(m-1)|
        E[h] = A(k) - 1,   A(k) = I_(m/2)(k) / I_(m/2-1)(k)
        Var[h] = A'(k) = 1 - A(k)^2 - (m - 1) A(k) / k

    Args:
        concentration: k, float64.
        dimension: m.

    Returns:
        The moments, shaped like `concentration`.

    Example:
        >>> k = tf.constant([0.0, 1e6], tf.float64)
        >>> cosine_moments(k, 3).mean.numpy()
        array([-1.e+00, -1.e-06])
    """
    mode = _mode_of_angle(concentration, dimension)
    return tilt_moments(concentration, dimension, _tilt, mode)


def _log_accept(k: tf.Tensor, spread: tf.Tensor, m: int) -> Any:
    """The logarithm of Wood's acceptance probability, for the optimal `spread`."""
    missing = 2 * spread / (1 + spread)

    def log_accept(half: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        drawn = 2 * tf.square(tf.sin(half))
        ratio = (missing + (1 - missing) * drawn) / (missing * (2 - missing))
        return k * (missing - drawn) + (m - 1) * tf.math.log(ratio)

    return log_accept


def _tilt(angle: tf.Tensor) -> tf.Tensor:
    """cos(t) - 1."""
    return -2 * tf.square(tf.sin(angle / 2))


def _mode_of_angle(k: tf.Tensor, dimension: int) -> tf.Tensor:
    """The angle t with k sin(t)^2 = (m - 2) cos(t)."""
    power = dimension - 2.0
    inverse = 2 / tf.maximum(power + tf.sqrt(power**2 + 4 * tf.square(k)), _TINY)
    return tf.atan2(tf.sqrt(power * inverse), k * inverse)


def _kl_to_uniform(k: tf.Tensor, dimension: int) -> tf.Tensor:
    """The KL, k A(k) + log C(k) + log |S^(m-1)|, whose derivative is k A'(k)."""
    moments = cosine_moments(k, dimension)
    return k * moments.mean - moments.log_normalizer


@tfd.RegisterKL(VonMisesFisher, tfd.SphericalUniform)
def _kl_von_mises_fisher_uniform(a: Any, b: Any, name: str | None = None) -> tf.Tensor:
    with tf.name_scope(name or "kl_von_mises_fisher_uniform"):
        k = tf.cast(a.concentration, tf.float64)
        return as_kl(_kl_to_uniform(k, same_dimension(a, b)), a, b)


@tfd.RegisterKL(tfd.SphericalUniform, tfd.VonMisesFisher)
def _kl_uniform_von_mises_fisher(a: Any, b: Any, name: str | None = None) -> tf.Tensor:
    with tf.name_scope(name or "kl_uniform_von_mises_fisher"):
        k = tf.cast(b.concentration, tf.float64)
        moments = cosine_moments(k, same_dimension(a, b))
        return as_kl(k + moments.log_normalizer, a, b)


@tfd.RegisterKL(tfd.VonMisesFisher, tfd.VonMisesFisher)
def _kl_von_mises_fishers(a: Any, b: Any, name: str | None = None) -> tf.Tensor:
    with tf.name_scope(name or "kl_von_mises_fishers"):
        k, m = tf.cast(a.concentration, tf.float64), same_dimension(a, b)
        moments = cosine_moments(k, m)
        kl = k * moments.mean - moments.log_normalizer
        return as_kl(kl + cross_entropy(moments.mean, a, b), a, b)


def cross_entropy(mean_tilt: tf.Tensor, a: Any, b: Any) -> tf.Tensor:
    """The cross-entropy of b under a, relative to the uniform distribution:

        -E_a[log p_b(x)] - log |S^(m-1)| = k_b (1 - E_a[mu_b.x]) + log E_U[exp(k_b h)]

    Args:
        mean_tilt: E_a[mu_a.x] - 1, float64.
        a: A distribution that is symmetric about its `mean_direction`.
        b: A von Mises-Fisher distribution.

    Returns:
        A float64 tensor of the joint batch shape.

    Example:
        >>> q = VonMisesFisher([1.0, 0.0], 1.0)
        >>> f"{cross_entropy(tf.constant(0.0, tf.float64), q, q):.4f}"
        '-0.7641'
    """
    k = tf.cast(b.concentration, tf.float64)
    apart = half_square_distance(a.mean_direction, b.mean_direction)
    moments = cosine_moments(k, b.event_shape[-1])
    return k * ((1 + mean_tilt) * apart - mean_tilt) + moments.log_normalizer
