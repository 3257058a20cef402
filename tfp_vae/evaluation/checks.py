"""Checks of predictions and targets."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.distribution_tensor import unwrap
from tfp_vae.entries import float_dtype
from tfp_vae.losses import checked_values

tfd: Any = tfp.distributions


def checked_prediction(p: Any, y: Any, caller: str) -> tuple[Any, tf.Tensor]:
    """Checks a prediction and its targets.

    Args:
        p: A distribution for each example.
        y: The targets.
        caller: Name of the caller, for the message.

    Returns:
        A plain distribution, and floating-point targets of its shape.

    Raises:
        ValueError: If `p` is not a distribution, or `y` does not fit.

    Example:
        >>> p, values = checked_prediction(tfd.Bernoulli([0.5, 0.1]), [0, 1], "crps")
        >>> values.dtype, values.shape
        (tf.float32, TensorShape([2]))
    """
    p = checked_distribution(p, caller)
    values = checked_values(p, y, caller=f"`{caller}`")
    return p, tf.cast(values, float_dtype(p))


def checked_distribution(p: Any, caller: str) -> Any:
    """Checks that a prediction is a distribution with a batch.

    Args:
        p: What the user gave.
        caller: Name of the caller, for the message.

    Returns:
        A plain distribution.

    Raises:
        ValueError: If it is anything else.

    Example:
        >>> p = tv.DistributionTensor(tfd.Normal([0.0], 1.0))
        >>> checked_distribution(p, "crps").name
        'Normal'
    """
    p = unwrap(p)
    if isinstance(p, tfd.Distribution):
        if p.batch_shape.rank:
            return p
        shape = f"batch shape {p.batch_shape}"
    else:
        shape = f"shape {getattr(p, 'shape', None)}"
    raise ValueError(
        f"`{caller}` expects a distribution for each example. Received: a "
        f"{type(p).__name__} of {shape}. Give the output of a model that ends with a "
        "distribution layer, `model(x)`."
    )
