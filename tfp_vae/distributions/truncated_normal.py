"""The truncated normal distribution, with correct gradients of its draws."""

import math
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class TruncatedNormal(tfp.distributions.TruncatedNormal):
    """A normal distribution on the interval [low, high].

        p(x) = N(x; loc, scale) / (Phi(b) - Phi(a))
        a = (low - loc) / scale,  b = (high - loc) / scale

    TFP's draws claim to be reparameterised. With TensorFlow 2.21 their gradient is that
    of the normal that is not truncated (1 in `loc`), and under XLA they equal an end of
    the interval that is 5 scales from `loc`. The draws of this class are

        x = Phi^-1(Phi(a) + u (Phi(b) - Phi(a))),  u uniform

    in float64, on the side where Phi is accurate, with the implicit gradients

        dx/da = phi(a) / phi(x) (1 - F(x)),  dx/db = phi(b) / phi(x) F(x)

    They stay 1e-7 of the interval's length away from its ends, which the support of
    other distributions may exclude. The entropy is computed in float64 too.

    Reference:
        Figurnov et al., Implicit Reparameterization Gradients, 2018.
        https://arxiv.org/abs/1805.08498

    Args:
        loc: Location of the normal.
        scale: Scale of the normal, positive.
        low: Lower end of the interval.
        high: Upper end of the interval.
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

    def _entropy(self) -> tf.Tensor:
        """In float64: log(scale Z) + (log(2 pi e) + (a phi(a) - b phi(b)) / Z) / 2."""
        loc, scale, low, high = self._double_parameters()
        a, b, _ = _lower_half((low - loc) / scale, (high - loc) / scale)
        mass = _phi(b) - _phi(a)
        at_ends = (a * _density(a) - b * _density(b)) / mass
        constant = math.log(2 * math.pi) + 1
        entropy = tf.math.log(scale * mass) + (constant + at_ends) / 2
        return tf.cast(tf.broadcast_to(entropy, self.batch_shape_tensor()), self.dtype)

    def _double_parameters(self) -> list[tf.Tensor]:
        parameters = (self.loc, self.scale, self.low, self.high)
        return [tf.cast(x, tf.float64) for x in parameters]

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        loc, scale, low, high = self._double_parameters()
        shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
        seed = tfp.random.sanitize_seed(seed, salt="truncated_normal")
        uniform = tf.random.stateless_uniform(shape, seed, dtype=tf.float64)
        x = loc + scale * _standard((low - loc) / scale, (high - loc) / scale, uniform)
        margin = 1e-7 * (high - low)
        inside = tfp.math.clip_by_value_preserve_gradient(
            x, low + margin, high - margin
        )
        return tf.cast(inside, self.dtype)


def _standard(a: tf.Tensor, b: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """Draws of a standard normal on [a, b], differentiable in a and b."""
    a, b, upper = _lower_half(a, b)
    left, right = (tf.stop_gradient(end) for end in (a, b))
    mass = _phi(right) - _phi(left)
    x = _quantile(_phi(left) + uniform * mass)
    x = tf.stop_gradient(tf.clip_by_value(x, left, right))
    above = _phi(right) - _phi(x)
    below = _phi(x) - _phi(left)
    slope_a = tf.exp((tf.square(x) - tf.square(left)) / 2) * above / mass
    slope_b = tf.exp((tf.square(x) - tf.square(right)) / 2) * below / mass
    x += tf.stop_gradient(slope_a) * (a - left) + tf.stop_gradient(slope_b) * (
        b - right
    )
    return tf.where(upper, -x, x)


def _lower_half(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The interval or its mirror image, whichever is lower: Phi is accurate there."""
    upper = tf.stop_gradient(a + b) > 0
    return tf.where(upper, -b, a), tf.where(upper, -a, b), upper


def _density(x: tf.Tensor) -> tf.Tensor:
    return tf.exp(-tf.square(x) / 2) / math.sqrt(2 * math.pi)


def _phi(x: tf.Tensor) -> tf.Tensor:
    """The normal distribution function, accurate below 0."""
    return tf.math.erfc(-x / math.sqrt(2)) / 2


def _quantile(p: tf.Tensor) -> tf.Tensor:
    """The inverse of `_phi`, down to 1e-200; that of XLA ends at 1e-16."""
    tail = -tf.sqrt(-2 * tf.math.log(tf.maximum(p, 1e-300)))
    x = tf.where(p < 1e-6, tail, tf.math.ndtri(tf.maximum(p, 1e-6)))
    for _ in range(5):  # Newton's method for log Phi, which is concave
        phi = _phi(x)
        x -= tf.where(p < 1e-6, tf.math.log(phi / p) * phi / _density(x), 0)
    return x
