"""Functions for distributions on the unit sphere S^(m-1) in R^m.

Each distribution is symmetric about a `mean_direction` mu: its density depends only on
the angle t between x and mu, through a tilt h and a concentration k:

    p(x) = exp(k h(t)) / (|S^(m-1)| E_U[exp(k h)]),   h(0) = 0,  h falls in t

The density q(t) of the angle is proportional to exp(k h(t)) sin(t)^(m-2). Angles are
float64, because a concentrated distribution is near t = 0, where cos(t) loses digits.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import host_value

Tilt = Callable[[tf.Tensor], tf.Tensor]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_SHRINKAGE = np.geomspace(1e-9, 1.0, 48)
_NEGLIGIBLE = -40.0  # exp(-40) is 4e-18: less than float64 resolves
_SMALLEST_SINE = 1e-300
_ZERO_NORM = 1e-12


def check_unit_vectors(value: Any, caller: str) -> None:
    """Checks for unit vectors with two or more coordinates.

    Args:
        value: What the user gave as `mean_direction`; for tensors and variables only
            the shape is checked.
        caller: Name of the caller, for the message.

    Raises:
        ValueError: If the last axis is shorter than 2 or of unknown length, or the
            norm of numbers is not 1.

    Example:
        >>> check_unit_vectors([0.6, 0.8], "VonMisesFisher")
    """
    numbers = host_value(value)
    if numbers is None and isinstance(value, list | tuple):
        value = tf.convert_to_tensor(value)
    shape = tf.TensorShape(np.shape(value) if numbers is not None else value.shape)
    size = shape[-1] if shape.rank else None
    if size is None or size < 2:
        raise ValueError(
            f"`{caller}` expects `mean_direction` with a last axis of 2 or more, known "
            f"in advance. Received: mean_direction of shape {shape}. Give vectors of 2 "
            "coordinates for the circle, of 3 for the sphere in space."
        )
    if numbers is None:
        return
    norm = np.linalg.norm(numbers, axis=-1)
    if not np.all(np.abs(norm - 1) < 1e-3):
        raise ValueError(
            f"`{caller}` expects `mean_direction` to be unit vectors. Received: "
            f"mean_direction of norm {norm}. Divide by `np.linalg.norm(x, axis=-1, "
            "keepdims=True)`."
        )


def unit_vector(raw: tf.Tensor) -> tf.Tensor:
    """Maps real vectors to unit vectors:

        unit_vector(x) = x / |x|,  and (1, 0, ..., 0) where |x| is 0

    The gradient is finite everywhere, and 0 where |x| is 0. A vector with NaN or
    infinity becomes one of NaN.

    Args:
        raw: Real tensor of shape `(..., m)`.

    Returns:
        A tensor shaped like `raw`.

    Example:
        >>> unit_vector(tf.constant([[3.0, 4.0], [0.0, 0.0]])).numpy().round(2)
        array([[0.6, 0.8],
               [1. , 0. ]], dtype=float32)
    """
    largest = tf.reduce_max(tf.abs(raw), axis=-1, keepdims=True)
    # Not `largest > _ZERO_NORM`, which is false for NaN.
    usable = ~tf.reduce_all(tf.abs(raw) <= _ZERO_NORM, axis=-1, keepdims=True)
    raw = tf.where(usable, raw, pole(raw.shape[-1], raw.dtype))
    # Without this the square of 1e30 would overflow float32.
    raw /= tf.stop_gradient(tf.where(usable, largest, tf.ones_like(largest)))
    return raw / tf.norm(raw, axis=-1, keepdims=True)


def pole(dimension: int, dtype: Any) -> tf.Tensor:
    """The first axis of R^m, (1, 0, ..., 0).

    Args:
        dimension: m.
        dtype: Dtype of the result.

    Returns:
        A vector of m coordinates.

    Example:
        >>> pole(3, tf.float32).numpy()
        array([1., 0., 0.], dtype=float32)
    """
    return tf.one_hot(0, dimension, dtype=dtype)


def log_area(dimension: int) -> float:
    """Logarithm of the area of the unit sphere:

        |S^(m-1)| = 2 pi^(m/2) / Gamma(m/2)

    Args:
        dimension: m.

    Returns:
        The logarithm.

    Example:
        >>> round(math.exp(log_area(3)) / math.pi, 6)
        4.0
    """
    half = dimension / 2
    return math.log(2) + half * math.log(math.pi) - math.lgamma(half)


def half_square_distance(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """1 - cos(t) for the angle t between unit vectors, accurate near t = 0:

        1 - x.y = |x - y|^2 / 2

    Args:
        x: Unit vectors of shape `(..., m)`.
        y: Unit vectors of a shape that broadcasts with that of `x`.

    Returns:
        A float64 tensor without the last axis.

    Example:
        >>> float(half_square_distance([1.0, 0.0], [0.0, 1.0]))
        1.0
    """
    difference = tf.cast(x, tf.float64) - tf.cast(y, tf.float64)
    return tf.reduce_sum(tf.square(difference), axis=-1) / 2


def around_the_pole(
    spread: tf.Tensor,
    log_accept: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    shape: tf.Tensor,
    seed: Any,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws points of a distribution around the first axis by rejection sampling.

    A uniform point at the angle s is moved towards the axis by the conformal map

        tan(t / 2) = sqrt(spread) tan(s / 2)

    which keeps its tangent. Wood draws the same proposals from a beta variable. A seed
    gives the same draw, up to rounding, in eager and exported code. (A beta variable
    made from a ratio of `tfd.ExpGamma` draws differed there after a compiled `fit`.)

    Reference:
        Wood, Simulation of the von Mises Fisher distribution, 1994.

    Args:
        spread: Positive float64 tensor, 1 for uniform proposals.
        log_accept: Function of t / 2 and s / 2: the logarithm of the probability to
            accept the proposal.
        shape: Shape `(n, ..., m)` of the draws.
        seed: Any seed that TFP's samplers accept.

    Returns:
        Angles of shape `(n, ...)` and unit tangents of shape `(n, ..., m - 1)`, both
        float64 and without gradient.

    Example:
        >>> one = tf.ones([], tf.float64)
        >>> angle, tangent = around_the_pole(
        ...     one, lambda t, s: tf.zeros_like(t), [5, 3], (1, 2))
        >>> angle.shape, tangent.shape
        (TensorShape([5]), TensorShape([5, 2]))
    """
    spread = tf.stop_gradient(spread)

    def propose(angle: Any, tangent: Any, pending: Any, seed: Any) -> Any:
        seed, normal_seed, uniform_seed = tf.unstack(tfp.random.split_seed(seed, 3))
        normal = tf.random.stateless_normal(
            shape, normal_seed, dtype=tf.float64, alg="philox"
        )
        new = tf.math.l2_normalize(normal[..., 1:], axis=-1)
        uniform = tf.atan2(tf.norm(normal[..., 1:], axis=-1), normal[..., 0]) / 2
        half = tf.atan2(tf.sqrt(spread) * tf.sin(uniform), tf.cos(uniform))
        log_uniform = tf.math.log1p(
            -tf.random.stateless_uniform(
                shape[:-1], uniform_seed, dtype=tf.float64, alg="philox"
            )
        )
        rejected = tf.stop_gradient(log_accept(half, uniform)) < log_uniform
        tangent = tf.where(pending[..., tf.newaxis], new, tangent)
        return tf.where(pending, 2 * half, angle), tangent, pending & rejected, seed

    smaller = tf.concat([shape[:-1], [shape[-1] - 1]], axis=0)
    angle, tangent, _, _ = tf.while_loop(
        lambda angle, tangent, pending, seed: tf.reduce_any(pending),
        propose,
        (
            tf.zeros(shape[:-1], tf.float64),
            tf.zeros(smaller, tf.float64),
            tf.fill(shape[:-1], True),
            tfp.random.sanitize_seed(seed, salt="around_the_pole"),
        ),
    )
    return tf.stop_gradient(angle), tf.stop_gradient(tangent)


def reparameterized_angle(
    angle: tf.Tensor,
    concentration: tf.Tensor,
    dimension: int,
    tilt: Tilt,
    mean_tilt: Callable[[tf.Tensor], tf.Tensor],
    mode: tf.Tensor,
) -> tf.Tensor:
    """Gives drawn angles their gradient with respect to the concentration.

    With Q the distribution function of the angle, implicit reparameterisation gives

        dt/dk = -(dQ/dk) / q(t) = -int_0^t (h(s) - E[h]) q(s) / q(t) ds

    where the normaliser of q cancels. Beyond the mode, the integral is taken from t to
    pi with the opposite sign, which is equal, so that q(s) / q(t) never exceeds 1.

    Reference:
        Figurnov et al., Implicit Reparameterization Gradients, 2018.
        https://arxiv.org/abs/1805.08498

    Args:
        angle: Draws in [0, pi], float64, of shape `(n, ...)`.
        concentration: k, float64, of shape `(...)`.
        dimension: m.
        tilt: The function h.
        mean_tilt: E[h] as a function of the concentration.
        mode: Mode of q, of shape `(...)`.

    Returns:
        The angles.

    Example:
        >>> k, t = tf.constant(0.0, tf.float64), tf.constant([np.pi / 2], tf.float64)
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(k)
        ...     t = reparameterized_angle(t, k, 3, tf.cos, lambda k: k / 3, t[0])
        >>> f"{tape.gradient(t, k):.3f}"
        '-0.500'
    """
    angle = tf.stop_gradient(angle)
    end = tf.where(angle < mode, tf.zeros_like(angle), np.pi * tf.ones_like(angle))

    @tf.custom_gradient
    def differentiable(k: tf.Tensor) -> Any:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            points, weights = _nodes(k, dimension, tilt, angle, end)
            ratios = tf.exp(_log_ratio(k, dimension, tilt, points, angle))
            difference = tilt(points) - mean_tilt(k)[..., tf.newaxis]
            slope = tf.reduce_sum(difference * ratios * weights, axis=-1)
            return tf.reduce_sum(upstream * slope, axis=0)

        return tf.identity(angle), gradient

    return differentiable(concentration)


class TiltMoments(NamedTuple):
    """Moments of the tilt h for a given concentration k, in float64.

    Attributes:
        log_normalizer: log E_U[exp(k h)] under the uniform distribution U.
        mean: E[h], the derivative of `log_normalizer` in k.
        variance: Var[h], the derivative of the mean.
    """

    log_normalizer: tf.Tensor
    mean: tf.Tensor
    variance: tf.Tensor


def tilt_moments(
    concentration: tf.Tensor, dimension: int, tilt: Tilt, mode: tf.Tensor
) -> TiltMoments:
    """Computes the moments with a Gauss-Legendre rule on either side of the mode.

        E_U[exp(k h)] = int_0^pi exp(k h(t)) sin(t)^(m-2) dt / B((m - 1) / 2, 1 / 2)

    The error is about 1e-13 for k from 0 to 1e12. Bessel functions, which would give
    the moments of the von Mises-Fisher distribution, take XLA seconds to compile, and
    their differences lose digits.

    Args:
        concentration: k, float64.
        dimension: m.
        tilt: The function h.
        mode: Mode of the density of the angle, shaped like `concentration`.

    Returns:
        The moments, shaped like `concentration`, with gradients in k.

    Example:
        >>> k = tf.constant(0.0, tf.float64)
        >>> moments = tilt_moments(k, 3, tf.cos, np.pi / 2 * tf.ones_like(k))
        >>> [round(abs(float(x)), 6) for x in moments]  # of a coordinate on the sphere
        [0.0, 0.0, 0.333333]
    """
    mode = tf.stop_gradient(mode)
    ends = tf.zeros_like(mode), np.pi * tf.ones_like(mode)
    sides = [_nodes(concentration, dimension, tilt, mode, end) for end in ends]
    points, weights = (tf.concat(parts, axis=-1) for parts in zip(*sides, strict=True))
    points, weights = tf.stop_gradient(points), tf.stop_gradient(tf.abs(weights))
    ratios = weights * tf.exp(_log_ratio(concentration, dimension, tilt, points, mode))
    total = tf.reduce_sum(ratios, axis=-1)
    probs = ratios / total[..., tf.newaxis]
    mean = tf.reduce_sum(probs * tilt(points), axis=-1)
    deviations = tf.square(tilt(points) - mean[..., tf.newaxis])
    half = (dimension - 1) / 2
    log_beta = math.lgamma(half) + math.lgamma(0.5) - math.lgamma(half + 0.5)
    peak = concentration * tilt(mode) + (dimension - 2) * _log_sin(mode)
    return TiltMoments(
        tf.math.log(total) + peak - log_beta,
        mean,
        tf.reduce_sum(probs * deviations, axis=-1),
    )


def _log_ratio(
    k: tf.Tensor, dimension: int, tilt: Tilt, points: tf.Tensor, start: tf.Tensor
) -> tf.Tensor:
    """The logarithm of q(t) / q(start) at points along a last axis."""
    k, start = k[..., tf.newaxis], start[..., tf.newaxis]
    sines = _log_sin(points) - _log_sin(start)
    return k * (tilt(points) - tilt(start)) + (dimension - 2) * sines


def _log_sin(angle: tf.Tensor) -> tf.Tensor:
    return tf.math.log(tf.maximum(tf.sin(angle), _SMALLEST_SINE))


def _nodes(
    k: tf.Tensor, dimension: int, tilt: Tilt, start: tf.Tensor, end: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Points and signed weights, from `start` to where q becomes negligible."""
    way = (end - start)[..., tf.newaxis]
    tried = start[..., tf.newaxis] + way * _SHRINKAGE
    far = _log_ratio(k, dimension, tilt, tried, start) < _NEGLIGIBLE
    way *= tf.reduce_min(tf.where(far, _SHRINKAGE, 1.0), axis=-1, keepdims=True)
    return start[..., tf.newaxis] + way * (_NODES + 1) / 2, way * _WEIGHTS / 2


def from_angle(
    angle: tf.Tensor, tangent: tf.Tensor, mean_direction: tf.Tensor
) -> tf.Tensor:
    """The points at an angle t from mu, in the direction of a tangent v.

        x = R (s cos(t), sin(t) v),  s = sign(mu_1)

    R is the rotation, in the plane of mu and a = s (1, 0, ..., 0), that takes a to mu:

        R y = y - (a + mu) (a + mu).y / (1 + a.mu) + 2 mu (a.y)

    It is smooth even where mu is plus or minus the first axis. The usual reflection has
    no gradient there.

    Args:
        angle: t, float64, of shape `(...)`.
        tangent: Unit vectors v of shape `(..., m - 1)`.
        mean_direction: Unit vectors mu of shape `(..., m)`, with the dtype of the
            result.

    Returns:
        Unit vectors of shape `(..., m)`.

    Example:
        >>> mu = tf.constant([0.0, 0.0, 1.0])
        >>> from_angle(tf.zeros([], tf.float64), tf.constant([0.6, 0.8]), mu).numpy()
        array([0., 0., 1.], dtype=float32)
    """
    dtype = mean_direction.dtype
    first = mean_direction[..., :1]
    sign = tf.where(first < 0, -tf.ones_like(first), tf.ones_like(first))
    along = tf.cast(tf.cos(angle), dtype)[..., tf.newaxis]
    across = tf.cast(tf.sin(angle), dtype)[..., tf.newaxis] * tf.cast(tangent, dtype)
    y = tf.concat([sign * along, across], axis=-1)
    axis = sign * pole(mean_direction.shape[-1], dtype) + mean_direction
    projection = along + tf.reduce_sum(mean_direction * y, axis=-1, keepdims=True)
    x = y - axis * projection / (1 + sign * first) + 2 * mean_direction * along
    return tf.math.l2_normalize(x, axis=-1)


def as_kl(kl: tf.Tensor, a: Any, b: Any) -> tf.Tensor:
    """Converts a float64 KL to the dtype and batch shape that TFP returns.

    Values that rounding put below 0 become 0 and keep their gradient.

    Args:
        kl: Float64 tensor.
        a: The first distribution.
        b: The second distribution.

    Returns:
        A tensor of the joint batch shape.

    Example:
        >>> u = tfp.distributions.SphericalUniform(3, batch_shape=[2])
        >>> as_kl(tf.constant(-1e-17, tf.float64), u, u).numpy()
        array([0., 0.], dtype=float32)
    """
    kl = tfp.math.clip_by_value_preserve_gradient(kl, 0.0, np.inf)
    shape = tf.broadcast_dynamic_shape(a.batch_shape_tensor(), b.batch_shape_tensor())
    return tf.broadcast_to(tf.cast(kl, a.dtype), shape)


def same_dimension(a: Any, b: Any) -> int:
    """The dimension m of the space that both distributions are in.

    Args:
        a: The first distribution.
        b: The second distribution.

    Returns:
        m.

    Raises:
        ValueError: If the distributions are on spheres in different spaces.

    Example:
        >>> u = tfp.distributions.SphericalUniform(3)
        >>> same_dimension(u, u)
        3
    """
    left, right = a.event_shape[-1], b.event_shape[-1]
    if left is None or left != right:
        raise ValueError(
            "The KL expects two distributions on one sphere, of known dimension. "
            "Received: "
            f"event shapes {a.event_shape} and {b.event_shape}. Give both the same "
            "number of coordinates."
        )
    return int(left)
