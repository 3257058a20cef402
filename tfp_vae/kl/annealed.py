"""Numbers that may change during training: a constant, a variable or a callable."""

import math
from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import real_number
from tfp_vae.keras_internals import in_stateless_scope

_VARIABLES: dict[str, Any] = {
    "keras.Variable": keras.Variable,
    "tf.Variable": tf.Variable,
}


def checked(
    value: Any, name: str, caller: str, zero: bool = True, default: bool = True
) -> Any:
    """Checks a number, variable or callable, and returns it.

    Args:
        value: A finite number, a non-trainable variable, a callable without
            arguments, or `None`.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.
        zero: Whether 0 is allowed; negative numbers never are.
        default: Whether `None` is allowed.

    Returns:
        The value; a number as a `float`.

    Raises:
        ValueError: If `value` is too small, not finite, trainable, or of another type.

    Example:
        >>> checked(0.5, "weight", "The KL")
        0.5
    """
    variable = isinstance(value, tuple(_VARIABLES.values()))
    if variable and getattr(value, "trainable", False):
        raise ValueError(
            f"{caller} expects a `{name}` that is not trainable, since an optimizer "
            f"would drive it to its limit. Received: {value!r}. Make it with "
            "trainable=False."
        )
    if (value is None and default) or (callable(value) and not variable):
        return value
    number = real_number(value)
    if 0 < number < math.inf or (zero and number == 0):
        return value if variable else number
    raise ValueError(
        f"{caller} expects `{name}` to be a finite number {'of at least' * zero}"
        f"{'above' * (not zero)} 0, a variable or a callable without arguments. "
        f"Received: {name}={value!r}. Give a number, or a variable that a callback "
        "changes during training."
    )


def current(value: Any, name: str, caller: str, dtype: Any) -> tf.Tensor:
    """The current value of the number.

    Args:
        value: As in `checked`, but not `None`.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.
        dtype: Dtype of the result.

    Returns:
        A scalar tensor.

    Raises:
        ValueError: If it is not a scalar.

    Example:
        >>> float(current(lambda: 0.5, "weight", "The KL", "float32"))
        0.5
    """
    value = value() if callable(value) else value
    if isinstance(value, int | float):
        return tf.constant(value, dtype)
    number = tf.cast(value, dtype)
    if number.shape.rank != 0:
        raise ValueError(
            f"{caller} expects a `{name}` that is a scalar. Received: one of shape "
            f"{number.shape} from {value!r}. Give one number for all examples."
        )
    return number


def check_in_training(value: Any, name: str, caller: str) -> None:
    """Refuses, in a compiled step of training, a callable that returns no tensor.

    The step calls it once, and would keep that number for ever.

    Args:
        value: As in `checked`.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.

    Raises:
        ValueError: If it is such a callable.

    Example:
        >>> check_in_training(lambda: 0.5, "weight", "The KL")  # eager: called anew
    """
    # Keras calls a layer in a graph, too, when it builds a model.
    if not callable(value) or tf.executing_eagerly() or in_stateless_scope():
        return
    found = value()
    if not (tf.is_tensor(found) or isinstance(found, keras.Variable)):
        raise ValueError(
            f"{caller} expects a `{name}` whose callable returns a tensor made from "
            f"variables, since a compiled step calls it once. Received: one that "
            f"returns {found!r}, which would never change. Give the number itself, or "
            f"{name}=keras.Variable({found!r}, trainable=False), which a callback may "
            "assign."
        )


def serialize(value: Any) -> Any:
    """The config of the number; for a variable, its class and current value.

    Args:
        value: As in `checked`.

    Returns:
        A value for JSON, from which `revive` restores a variable.

    Example:
        >>> config = serialize(keras.Variable(0.5, trainable=False))
        >>> config["keras.Variable"]
        0.5
    """
    for kind, cls in _VARIABLES.items():
        if isinstance(value, cls):
            # Keras' key for one object in several places of a model.
            return {kind: float(value.numpy()), "shared_object_id": id(value)}
    return keras.saving.serialize_keras_object(value) if callable(value) else value


def revive(config: Any, name: str) -> Any:
    """Restores a variable from its config; returns other values unchanged.

    Args:
        config: The result of `serialize`.
        name: Name for the variable.

    Returns:
        A non-trainable variable, or `config`. Layers of a loaded model that shared a
        variable share one.

    Example:
        >>> float(revive({"tf.Variable": 0.5}, "weight").numpy()), revive(2.0, "weight")
        (0.5, 2.0)
    """
    for kind in _VARIABLES:
        if isinstance(config, dict) and kind in config:
            whole: dict[str, Any] = {
                "module": None,
                "class_name": "tfp_vae>Annealed",
                "registered_name": "tfp_vae>Annealed",
                "config": {"kind": kind, "value": config[kind], "name": name},
            }
            if "shared_object_id" in config:
                whole["shared_object_id"] = config["shared_object_id"]
            return keras.saving.deserialize_keras_object(whole)
    return config


@keras.saving.register_keras_serializable("tfp_vae", "Annealed")
class _Annealed:
    """Makes a variable; a class, because Keras shares what it makes from one."""

    def get_config(self) -> dict[str, Any]:  # Keras registers no class without it.
        return {}

    @staticmethod
    def from_config(config: dict[str, Any]) -> Any:
        cls = _VARIABLES[config["kind"]]
        return cls(config["value"], trainable=False, name=config["name"])
