"""The truncated normal distribution, with correct gradients of its draws."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.constraints import bounded

tfd = tfp.distributions

# Gauss-Legendre nodes and weights for integrals over [0, 1].
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
_NODES = (_NODES + 1) / 2
# With intervals of fewer scales the closed forms subtract almost equal numbers.
_NARROW = 1.0
# An end at infinity is put that many scales away: Phi is 0, and squares are finite.
_FAR = 1e6


class TruncatedNormal(tfp.distributions.TruncatedNormal):
    r"""A normal distribution on the interval [low, high].

    .. math::

        p(x) &= \mathcal N(x; \mathrm{loc}, \mathrm{scale}) / (\Phi(b) - \Phi(a)) \\
        a &= (\mathrm{low} - \mathrm{loc}) / \mathrm{scale}, \quad
        b = (\mathrm{high} - \mathrm{loc}) / \mathrm{scale}

    TFP's draws claim to be reparameterised. With TensorFlow 2.21 their gradient is that
    of the normal that is not truncated (1 in `loc`), and under XLA they equal an end of
    the interval if it is 5 scales from `loc`. The draws of this class are

    .. math::

        x &= \mathrm{loc} + \mathrm{scale} \, z \\
        z &= \Phi^{-1}(\Phi(a) + u \, (\Phi(b) - \Phi(a))), \quad u \text{ uniform}

    in float64, on the side where Phi is accurate, with the implicit gradients

    .. math::

        \frac{dz}{da} = \frac{\phi(a)}{\phi(z)} (1 - F(z)), \quad
        \frac{dz}{db} = \frac{\phi(b)}{\phi(z)} F(z)

    where phi and Phi are density and distribution function of the standard normal, and
    F is that of z. A draw that would be rounded to an end, which the support of other
    distributions may exclude, becomes the number next to it. Mean, variance, entropy,
    log-density, distribution function and quantiles are computed in float64 too. TFP's
    class computes them in the dtype of its parameters. In float32 moments are then not
    finite for a scale of 1e8, nor quantiles for an interval 6 scales above `loc`.
    Here the interval may be up to 37 scales away from `loc`.
    Draws, quantiles and entropy, and the moments on an interval longer than a scale,
    need an interval at most 35 scales from `loc`: a few scales farther out, Phi
    underflows to 0.

    Reference:
        Figurnov et al., Implicit Reparameterization Gradients, 2018.
        https://arxiv.org/abs/1805.08498

    Args:
        loc: Location of the normal.
        scale: Scale of the normal, positive.
        low: Lower end of the interval; it may be `-inf`.
        high: Upper end of the interval; it may be `inf`.
        validate_args: Whether parameters and values are checked at run time.
        allow_nan_stats: See `tfd.Distribution`.
        name: Name of the distribution.

    Example:
        >>> loc = tf.constant(-1.5)
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(loc)
        ...     x = TruncatedNormal(loc, 0.5, 0.0, 1.0).sample(100_000, seed=1)
        ...     mean = tf.reduce_mean(x)
        >>> f"{tape.gradient(mean, loc):.2f}"
        '0.07'
    """

    def __init__(
        self,
        loc: Any,
        scale: Any,
        low: Any,
        high: Any,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "TruncatedNormal",
    ) -> None:
        """Takes the arguments of TFP's class."""
        super().__init__(loc, scale, low, high, validate_args, allow_nan_stats, name)

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> Any:
        return super()._parameter_properties(dtype, num_classes)

    def _log_prob(self, x: Any) -> tf.Tensor:
        loc, scale, low, high = self._double_parameters()
        value = tf.cast(x, tf.float64)
        near, log_tail = _log_tail((low - loc) / scale, (high - loc) / scale)
        z = (value - loc) / scale
        # The tail has a factor exp(-near^2 / 2), which cancels most of exp(-z^2 / 2).
        log_prob = (near - z) * (near + z) / 2 - log_tail
        log_prob -= tf.math.log(scale) + math.log(2 * math.pi) / 2
        inside = (x >= self.low) & (x <= self.high)
        impossible = tf.constant(float("-inf"), tf.float64)
        log_prob = tf.where(inside | tf.math.is_nan(log_prob), log_prob, impossible)
        return tf.cast(log_prob, self.dtype)

    def _log_cdf(self, x: Any) -> tf.Tensor:
        """In float64: log P(low < X < x)."""
        a, x, b = self._standardised(x)
        return tf.cast(_log_ratio(a, x, a, b), self.dtype)

    def _log_survival_function(self, x: Any) -> tf.Tensor:
        """In float64: log P(x < X < high)."""
        a, x, b = self._standardised(x)
        return tf.cast(_log_ratio(x, b, a, b), self.dtype)

    def _cdf(self, x: Any) -> tf.Tensor:
        return tf.exp(self._log_cdf(x))

    def _survival_function(self, x: Any) -> tf.Tensor:
        return tf.exp(self._log_survival_function(x))

    def _quantile(self, p: Any) -> tf.Tensor:
        loc, scale, low, high = self._double_parameters()
        a, b = (low - loc) / scale, (high - loc) / scale
        level = tf.cast(p, tf.float64)
        upper = _lower_half(a, b)[2]
        z = _standard(a, b, tf.where(upper, 1 - level, level))
        x = tf.cast(tf.clip_by_value(loc + scale * z, low, high), self.dtype)
        x = tf.where(level == 0, self.low, x)
        return tf.where(level == 1, self.high, x)

    def _standardised(self, x: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The ends and a value, which is moved into the interval, in scales."""
        loc, scale, low, high = self._double_parameters()
        x = tf.clip_by_value(tf.cast(x, tf.float64), low, high)
        return (low - loc) / scale, (x - loc) / scale, (high - loc) / scale

    def _entropy(self) -> tf.Tensor:
        """In float64: log(scale Z) + (log(2 pi e) + (a phi(a) - b phi(b)) / Z) / 2."""
        loc, scale, low, high = self._double_parameters()
        a, b, _ = _lower_half((low - loc) / scale, (high - loc) / scale)
        mass = _cdf(b) - _cdf(a)
        at_ends = (a * _density(a) - b * _density(b)) / mass
        constant = math.log(2 * math.pi) + 1
        entropy = tf.math.log(scale * mass) + (constant + at_ends) / 2
        return self._broadcast(entropy)

    def _mean(self) -> tf.Tensor:
        """In float64: loc + scale (phi(a) - phi(b)) / Z."""
        loc, scale, low, high, at_ends, mass, narrow = self._moments()
        wide = loc + scale * at_ends(0) / mass
        mean = tf.where(high - low < _NARROW * scale, low + narrow[0], wide)
        return self._broadcast(tf.clip_by_value(mean, low, high))

    def _variance(self) -> tf.Tensor:
        """In float64: scale^2 (1 + (a phi(a) - b phi(b)) / Z) - (mean - loc)^2."""
        _, scale, low, high, at_ends, mass, narrow = self._moments()
        squares = 1 + at_ends(1) / mass - tf.square(at_ends(0) / mass)
        inner = narrow[1] - tf.square(narrow[0])
        wide = tf.square(scale) * squares
        return self._broadcast(tf.where(high - low < _NARROW * scale, inner, wide))

    def _moments(self) -> Any:
        """What `_mean` and `_variance` need; last, E[x - low] and E[(x - low)^2]."""
        loc, scale, low, high = self._double_parameters()
        a, b = (low - loc) / scale, (high - loc) / scale
        left, right, _ = _lower_half(a, b)
        mass = _cdf(right) - _cdf(left)
        mass = tf.where(mass > 0, mass, tf.constant(float("nan"), tf.float64))

        def at_ends(power: int) -> tf.Tensor:
            return a**power * _density(a) - b**power * _density(b)

        z = a[..., None] + (b - a)[..., None] * _NODES
        log_weights = -tf.square(z) / 2
        peak = tf.reduce_max(log_weights, axis=-1, keepdims=True)
        weights = tf.exp(log_weights - tf.stop_gradient(peak)) * _WEIGHTS
        weights /= tf.reduce_sum(weights, axis=-1, keepdims=True)
        x = (high - low)[..., None] * _NODES
        narrow = [tf.reduce_sum(weights * x**power, axis=-1) for power in (1, 2)]
        return loc, scale, low, high, at_ends, mass, narrow

    def _broadcast(self, x: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.broadcast_to(x, self.batch_shape_tensor()), self.dtype)

    def _double_parameters(self) -> list[tf.Tensor]:
        """In float64, and with ends that are finite."""
        parameters = (self.loc, self.scale, self.low, self.high)
        loc, scale, low, high = (tf.cast(x, tf.float64) for x in parameters)
        lowest = tf.stop_gradient(tf.minimum(loc, high) - _FAR * scale)
        highest = tf.stop_gradient(tf.maximum(loc, low) + _FAR * scale)
        low = tf.where(tf.math.is_inf(low), lowest, low)
        return [loc, scale, low, tf.where(tf.math.is_inf(high), highest, high)]

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        loc, scale, low, high = self._double_parameters()
        shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
        seed = tfp.random.sanitize_seed(seed, salt="truncated_normal")
        uniform = tf.random.stateless_uniform(
            shape, seed, dtype=tf.float64, alg="philox"
        )
        x = loc + scale * _standard((low - loc) / scale, (high - loc) / scale, uniform)
        lowest, highest = _next(self.low, self.high), _next(self.high, self.low)
        return tf.cast(bounded(x, lowest, highest), self.dtype)


def _next(end: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The number beside an end; beside 0 it is normal, since TensorFlow flushes."""
    wide = tf.float64 if end.dtype == tf.float64 else tf.float32
    end, other = tf.cast(end, wide), tf.cast(other, wide)
    beside = tf.math.nextafter(end, other)
    tiny = np.finfo(wide.as_numpy_dtype).tiny
    return tf.cast(tf.where(end == 0, tf.sign(other) * tiny, beside), tf.float64)


def _standard(a: tf.Tensor, b: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Draws of a standard normal on [a, b], differentiable in a and b.

    They are the quantiles of level `uniform` where [a, b] is nearer to the lower tail,
    and of `1 - uniform` elsewhere; the gradient in `uniform` is theirs too.
    """
    a, b, upper = _lower_half(a, b)
    left, right = (tf.stop_gradient(end) for end in (a, b))
    mass = _cdf(right) - _cdf(left)
    level = tf.stop_gradient(uniform)
    x = _quantile(_cdf(left) + level * mass)
    x = tf.stop_gradient(tf.clip_by_value(x, left, right))
    above = _cdf(right) - _cdf(x)
    below = _cdf(x) - _cdf(left)
    slope_a = tf.exp((tf.square(x) - tf.square(left)) / 2) * above / mass
    slope_b = tf.exp((tf.square(x) - tf.square(right)) / 2) * below / mass
    slope = tf.stop_gradient(mass / _density(x))
    x += tf.stop_gradient(slope_a) * (a - left) + tf.stop_gradient(slope_b) * (
        b - right
    )
    x += slope * (uniform - level)
    return tf.where(upper, -x, x)


def _lower_half(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The interval or its mirror image, whichever is lower: Phi is accurate there."""
    upper = tf.stop_gradient(a + b) > 0
    return tf.where(upper, -b, a), tf.where(upper, -a, b), upper


def _log_tail(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The point of [a, b] nearest to 0, and log(Phi(b) - Phi(a)) + near^2 / 2."""
    a, b, upper = _lower_half(a, b)
    beside = b < 0  # 0 is not in the interval
    one = tf.ones([], tf.float64)
    near, far = tf.where(beside, -b, 0 * one), tf.where(beside, -a, one)
    log_near, log_far = (
        tf.math.log(tfp.math.erfcx(x / math.sqrt(2)) / 2) for x in (near, far)
    )
    drop = (far - near) * (far + near) / 2 + log_near - log_far
    outer = log_near + tf.math.log(-tf.math.expm1(-drop))
    left, right = tf.where(beside, -one, a), tf.where(beside, one, b)
    inner = tf.math.log(_cdf(right) - _cdf(left))
    signed = tf.where(upper, near, -near)
    return signed, tf.where(beside, outer, inner)


def _log_ratio(
    left: tf.Tensor, right: tf.Tensor, a: tf.Tensor, b: tf.Tensor
) -> tf.Tensor:
    """log((Phi(right) - Phi(left)) / (Phi(b) - Phi(a)))."""
    near, log_part = _log_tail(left, right)
    nearest, log_whole = _log_tail(a, b)
    return log_part - log_whole + (nearest - near) * (nearest + near) / 2


def _density(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(-tf.square(x) / 2) / math.sqrt(2 * math.pi)


def _cdf(x: tf.Tensor) -> tf.Tensor:
    """The normal distribution function, accurate below 0."""
    return tf.math.erfc(-x / math.sqrt(2)) / 2


def _quantile(p: tf.Tensor) -> tf.Tensor:
    """The inverse of `_cdf`, down to 1e-300; that of XLA ends at 1e-16."""
    p = tf.maximum(p, 1e-300)
    tail = -tf.sqrt(-2 * tf.math.log(p))
    x = tf.where(p < 1e-6, tail, tf.math.ndtri(tf.maximum(p, 1e-6)))
    for _ in range(5):  # Newton's method for log Phi, which is concave
        below = _cdf(x)
        x -= tf.where(p < 1e-6, tf.math.log(below / p) * below / _density(x), 0)
    return x
