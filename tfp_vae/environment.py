"""Checks Keras, and says what to use for names of `tfp.layers` that are not here."""

import os
from typing import Any

import keras

_OVER_WEIGHTS = (
    "Layers with distributions over their weights are not in tfp_vae yet. A "
    "`DistributionLambda`, or ordinary layers before a distribution layer, model the "
    "output's distribution; `tfp.layers` with tf_keras has the layer for Keras 2."
)
# Names of `tfp.layers` that are not here, and what to use in their place.
_ABSENT = {
    **dict.fromkeys(
        (
            "Convolution1DFlipout",
            "Convolution1DReparameterization",
            "Convolution2DFlipout",
            "Convolution2DReparameterization",
            "Convolution3DFlipout",
            "Convolution3DReparameterization",
            "DenseFlipout",
            "DenseLocalReparameterization",
            "DenseReparameterization",
            "DenseVariational",
            "default_loc_scale_fn",
            "default_mean_field_normal_fn",
            "default_multivariate_normal_fn",
        ),
        _OVER_WEIGHTS,
    ),
}


def check_keras() -> None:
    """Checks that Keras is Keras 3 on TensorFlow.

    Raises:
        ImportError: If Keras has another backend, or `TF_USE_LEGACY_KERAS` makes
            `tf.keras` Keras 2.

    Example:
        >>> check_keras()
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ImportError(
            "tfp_vae expects Keras on TensorFlow, where TensorFlow Probability "
            f"computes. Received: KERAS_BACKEND={backend!r}. Set "
            "KERAS_BACKEND=tensorflow, or unset it, before Keras is imported. Other "
            "programs can run an exported model without Keras."
        )
    if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        raise ImportError(
            "tfp_vae expects Keras 3. Received: TF_USE_LEGACY_KERAS="
            f"{os.environ['TF_USE_LEGACY_KERAS']}, with which `tf.keras` is Keras 2, "
            "whose models cannot hold layers of Keras 3. Unset it, and use `import "
            "keras`. Models of Keras 2 may stay beside it, as `tf_keras`."
        )


def refuse_keras_2(value: Any, caller: str) -> None:
    """Raises an error for layers, models and tensors of Keras 2.

    Args:
        value: What the user gave.
        caller: The caller, as the message shows it.

    Raises:
        ValueError: If its class, or one above, is of tf_keras.

    Example:
        >>> refuse_keras_2(keras.layers.Dense(2), "`VAE`")
    """
    packages = {cls.__module__.partition(".")[0] for cls in type(value).__mro__}
    if "tf_keras" in packages:
        raise ValueError(
            f"{caller} expects layers, models and tensors of Keras 3. Received: a "
            f"{type(value).__name__} of tf_keras, which is Keras 2. Make it of "
            "`keras.Input` and `keras.layers`, and `keras.Model` or `tv.Model`; "
            "docs/migrating.md says how to load its weights."
        )


def absent_name(name: str) -> AttributeError:
    """Makes the error for a name that the package does not have.

    Args:
        name: The name, perhaps one of `tfp.layers`.

    Returns:
        The error, to be raised.

    Example:
        >>> absent_name("Dense")
        AttributeError("module 'tfp_vae' has no attribute 'Dense'")
    """
    message = f"module 'tfp_vae' has no attribute {name!r}"
    if name in _ABSENT:
        message = f"{message}, which is in `tfp.layers`. {_ABSENT[name]}"
    return AttributeError(message)
