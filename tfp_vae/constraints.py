"""From real numbers to valid parameters, with floors that keep float32 finite."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

SCALE_FLOOR = 1e-5


def float_policy(dtype: Any = None) -> Any:
    """The dtype policy for distribution maths: never half precision.

    TFP's `MultivariateNormalTriL`, `FillScaleTriL` and `Gamma` fail in half precision,
    and a log-likelihood summed over an image has no digits left in it.

    Args:
        dtype: What the user gave to the layer; `None` for the global policy.

    Returns:
        `"float32"` where the policy would compute in float16 or bfloat16, otherwise
        the policy that was asked for.

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

    The gradient is that of the softplus on both sides of the floor, so that a scale
    which has fallen onto the floor can leave it again.

    Args:
        raw: Real tensor.
        floor: Smallest value that comes out.

    Returns:
        A tensor shaped like `raw`.

    Example:
        >>> positive(tf.constant([-100.0, 0.0]), 1e-3).numpy().round(4)
        array([0.001 , 0.6931], dtype=float32)
    """
    return tfp.math.clip_by_value_preserve_gradient(
        tf.math.softplus(raw), tf.cast(floor, raw.dtype), raw.dtype.max
    )


def lower_triangular(raw: tf.Tensor, floor: float = SCALE_FLOOR) -> tf.Tensor:
    """Maps reals to Cholesky factors:

        L = strictly lower part of fill(raw) + diag(softplus(diag(fill(raw))) + floor)

    with the entries in the order of `tfp.math.fill_triangular`: the same numbers as
    `tfp.bijectors.FillScaleTriL`, whose gradient XLA cannot compile for a batch of
    unknown size.

    Args:
        raw: Real tensor of shape `(..., d * (d + 1) / 2)`.
        floor: What is added to the diagonal.

    Returns:
        Lower triangular matrices of shape `(..., d, d)`.

    Example:
        >>> lower_triangular(tf.zeros([1, 3]), 0.5).numpy().round(4)
        array([[[1.1931, 0.    ],
                [0.    , 1.1931]]], dtype=float32)
    """
    filled = tfp.math.fill_triangular(raw)
    diagonal = tf.eye(filled.shape[-1], dtype=filled.dtype)
    scale = tf.math.softplus(filled) + tf.cast(floor, filled.dtype)
    return filled * (1 - diagonal) + scale * diagonal
