"""Maps real numbers to valid parameters, with floors that keep float32 finite."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

SCALE_FLOOR = 1e-5
LOG_LIMIT = 40.0
# Times 1 / eps: 1e8 in float32, 5e16 in float64.
_INVERSE_LIMIT = 1e8 * np.finfo(np.float32).eps


def float_policy(dtype: Any = None) -> Any:
    """The dtype policy for distribution maths: never half precision.

    TFP's `MultivariateNormalTriL`, `FillScaleTriL` and `Gamma` fail in half precision,
    and a log-likelihood summed over an image loses all its digits.

    Args:
        dtype: The `dtype` argument of a layer; `None` for the global policy.

    Returns:
        `"float32"` if the policy would compute in float16 or bfloat16, otherwise the
        given policy.

    Example:
        >>> float_policy("mixed_bfloat16"), float_policy("float64").name
        ('float32', 'float64')
    """
    policy = keras.dtype_policies.get(dtype)
    half = policy.compute_dtype in ("float16", "bfloat16")
    return "float32" if half else policy


def positive(raw: tf.Tensor, floor: float = SCALE_FLOOR) -> tf.Tensor:
    """Maps reals to `[floor, inf)`:

        positive(raw) = max(log(1 + exp(raw)), floor)

    The gradient is that of the softplus even below the floor, so that a scale at the
    floor can grow again.

    Args:
        raw: Real tensor.
        floor: Smallest output.

    Returns:
        A tensor shaped like `raw`.

    Example:
        >>> positive(tf.constant([-100.0, 0.0]), 1e-3).numpy().round(4)
        array([0.001 , 0.6931], dtype=float32)
    """
    return bounded(tf.math.softplus(raw), floor, raw.dtype.max)


def bounded(raw: tf.Tensor, low: Any, high: Any) -> tf.Tensor:
    """Clips reals to an interval, in which float32 stays finite:

        bounded(raw) = min(max(raw, low), high)

    The gradient is 1 everywhere, so that values outside the interval can return. NaN
    stays NaN. (`tfp.math.clip_by_value_preserve_gradient` adds and subtracts `raw`: in
    float32 it clips 2.2e7 to 0 in place of 1, and infinity to NaN.)
    Logarithms of rates and sizes are clipped to [-40, 40] (`LOG_LIMIT`).

    Args:
        raw: Real tensor.
        low: Smallest output; a number, or a tensor shaped like `raw`.
        high: Largest output; a number or tensor too.

    Returns:
        A tensor shaped like `raw`.

    Example:
        >>> bounded(tf.constant([-1e4, 0.5, 1e4]), -LOG_LIMIT, LOG_LIMIT).numpy()
        array([-40. ,   0.5,  40. ], dtype=float32)
    """
    low = tf.convert_to_tensor(low, raw.dtype)
    high = tf.convert_to_tensor(high, raw.dtype)
    return _clipped(raw, low, high)


@tf.custom_gradient
def _clipped(raw: tf.Tensor, low: tf.Tensor, high: tf.Tensor) -> Any:
    clipped = tf.clip_by_value(raw, low, high)
    return clipped, lambda upstream: (upstream, None, None)


def lower_triangular(raw: tf.Tensor, floor: float = SCALE_FLOOR) -> tf.Tensor:
    """Maps reals to Cholesky factors:

        L = strictly lower part of fill(raw) + diag(softplus(diag(fill(raw))) + floor)

    where `fill` is `tfp.math.fill_triangular`. The result is that of
    `tfp.bijectors.FillScaleTriL`, whose gradient XLA cannot compile for an unknown
    batch size. If an entry of the inverse reaches 1e8 in float32, or 5e16 in float64,
    rounding would change it altogether: then the entries below the diagonal shrink
    until the diagonal dominates its row.

    Args:
        raw: Real tensor of shape `(..., d * (d + 1) / 2)`.
        floor: Number added to the diagonal.

    Returns:
        Lower triangular matrices of shape `(..., d, d)`.

    Example:
        >>> lower_triangular(tf.zeros([1, 3]), 0.5).numpy().round(4)
        array([[[1.1931, 0.    ],
                [0.    , 1.1931]]], dtype=float32)
    """
    filled = tfp.math.fill_triangular(raw)
    eye = tf.eye(filled.shape[-1], dtype=filled.dtype)
    # Not `diag_part`: XLA cannot compile its gradient for an unknown batch size.
    scale = tf.math.softplus(tf.reduce_sum(filled * eye, axis=-1, keepdims=True))
    diagonal = (scale + tf.convert_to_tensor(floor, filled.dtype)) * eye
    below = filled * (1 - eye)
    return below * _shrinkage(below, diagonal) + diagonal


def _shrinkage(below: tf.Tensor, diagonal: tf.Tensor) -> tf.Tensor:
    """Factor for each row below the diagonal: 1 unless L is nearly singular."""
    below, diagonal = tf.stop_gradient(below), tf.stop_gradient(diagonal)
    eye = tf.eye(below.shape[-1], batch_shape=tf.shape(below)[:-2], dtype=below.dtype)
    inverse = tf.linalg.triangular_solve(below + diagonal, eye)
    # Infinity and NaN fail this comparison too.
    limit = _INVERSE_LIMIT / np.finfo(below.dtype.as_numpy_dtype).eps
    usable = tf.reduce_all(tf.abs(inverse) < limit, axis=[-2, -1])
    largest = tf.reduce_max(tf.abs(below), axis=-1, keepdims=True)
    pivot = tf.reduce_sum(diagonal, axis=-1, keepdims=True)
    dominated = pivot / tf.maximum(below.shape[-1] * largest, pivot)
    return tf.where(usable[..., tf.newaxis, tf.newaxis], tf.ones_like(pivot), dominated)
