"""What multiplies the KL in the loss: a number, a variable or a function."""

import math
from typing import Any

import keras
import tensorflow as tf

_VARIABLES: dict[str, Any] = {
    "keras.Variable": keras.Variable,
    "tf.Variable": tf.Variable,
}


def checked_weight(weight: Any) -> Any:
    """Returns what was given as the weight of a KL, if it can be one.

    Args:
        weight: A number of at least 0, a variable that is not trainable, a callable
            without arguments, or `None` for 1.

    Returns:
        The same.

    Raises:
        ValueError: If it is negative, not finite, trainable, or none of these.

    Example:
        >>> checked_weight(0.5)
        0.5
    """
    variable = isinstance(weight, tuple(_VARIABLES.values()))
    if variable and getattr(weight, "trainable", False):
        raise ValueError(
            "The KL expects a `weight` that is not trainable, since an optimizer would "
            f"drive it to minus infinity. Received: {weight!r}. Make it with "
            "trainable=False."
        )
    if variable or weight is None or callable(weight):
        return weight
    try:
        number = float(weight)
    except (TypeError, ValueError):
        number = math.nan
    if 0 <= number < math.inf:
        return number
    raise ValueError(
        "The KL expects `weight` to be a finite number of at least 0, a variable or a "
        f"callable without arguments. Received: weight={weight!r}. 1.0 gives the ELBO."
    )


def weight_value(weight: Any) -> tf.Tensor:
    """The number that the weight is now.

    Args:
        weight: As in `checked_weight`.

    Returns:
        A scalar tensor.

    Raises:
        ValueError: If it is no scalar.

    Example:
        >>> float(weight_value(lambda: 0.5)), float(weight_value(None))
        (0.5, 1.0)
    """
    if weight is None:
        return tf.constant(1.0)
    value = tf.convert_to_tensor(weight() if callable(weight) else weight)
    if value.shape.rank != 0:
        raise ValueError(
            "The KL expects a `weight` that is a scalar. Received: one of shape "
            f"{value.shape} from {weight!r}. Give one number for all examples."
        )
    return value


def serialize_weight(weight: Any) -> Any:
    """The config of a weight: of a variable its kind and present value.

    Args:
        weight: As in `checked_weight`.

    Returns:
        What JSON can hold; `revive_weight` reads the variables among it.

    Example:
        >>> serialize_weight(keras.Variable(0.5, trainable=False))
        {'keras.Variable': 0.5}
    """
    for kind, cls in _VARIABLES.items():
        if isinstance(weight, cls):
            return {kind: float(weight.numpy())}
    return keras.saving.serialize_keras_object(weight) if callable(weight) else weight


def revive_weight(config: Any) -> Any:
    """Makes the variable that `serialize_weight` wrote; leaves the rest as it is.

    Args:
        config: Its result.

    Returns:
        A variable that is not trainable, or the argument.

    Example:
        >>> float(revive_weight({"tf.Variable": 0.5}).numpy()), revive_weight(2.0)
        (0.5, 2.0)
    """
    for kind, cls in _VARIABLES.items():
        if isinstance(config, dict) and kind in config:
            return cls(config[kind], trainable=False, name="kl_weight")
    return config
