"""What the package runs on: the Keras that it works with, and versions to report."""

import importlib.metadata
import os
import platform
from typing import Any

import keras
import tensorflow as tf

PACKAGES = (
    "tfp-vae",
    "keras",
    "tensorflow",
    "tensorflow-probability",
    "tf-keras",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "matplotlib",
)


def show_versions() -> None:
    """Prints the versions and devices that a report of a fault should contain.

    Example:
        >>> show_versions()
        tfp-vae ...
        GPUs ...
    """
    rows = [(name, _version(name)) for name in PACKAGES]
    rows += [
        ("Python", platform.python_version()),
        ("system", platform.platform()),
        ("CPUs", str(os.cpu_count())),
        ("GPUs", str(len(tf.config.list_physical_devices("GPU")))),
        ("dtype policy", keras.config.dtype_policy().name),
        ("XLA_FLAGS", os.environ.get("XLA_FLAGS", "not set")),
    ]
    for name, value in rows:
        print(f"{name:<24}{value}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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
            "tfp_vae expects Keras on its TensorFlow backend, since TensorFlow "
            f"Probability computes with TensorFlow. Received: the backend {backend!r}. "
            "Set the environment variable KERAS_BACKEND=tensorflow before Keras is "
            "imported."
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
