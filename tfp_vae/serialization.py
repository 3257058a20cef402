"""Configs: distributions as class name and parameters, functions by name.

Class names of distributions and bijectors are looked up only in
`tfp_vae.distributions`, `tfp.distributions` and `tfp.bijectors`. Keras looks up
functions; it loads stored code, a lambda, only with `safe_mode=False`.
"""

import copyreg
import inspect
import types
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import checked_function
from tfp_vae.distribution_tensor import DistributionTensor, unwrap
from tfp_vae.distributions.bernoulli import Bernoulli
from tfp_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from tfp_vae.distributions.counts import (
    DirichletMultinomial,
    NegativeBinomial,
    Poisson,
)
from tfp_vae.distributions.direction_and_norm import DirectionAndNorm
from tfp_vae.distributions.power_spherical import PowerSpherical
from tfp_vae.distributions.quantized_logistic import QuantizedLogistic
from tfp_vae.distributions.truncated_normal import TruncatedNormal
from tfp_vae.distributions.unit_interval import Beta, Kumaraswamy
from tfp_vae.distributions.von_mises_fisher import VonMisesFisher

# Looked up first, since these subclasses have the names of TFP's classes.
_OURS = types.SimpleNamespace(
    Bernoulli=Bernoulli,
    Beta=Beta,
    ContinuousBernoulli=ContinuousBernoulli,
    DirectionAndNorm=DirectionAndNorm,
    DirichletMultinomial=DirichletMultinomial,
    Kumaraswamy=Kumaraswamy,
    NegativeBinomial=NegativeBinomial,
    Poisson=Poisson,
    PowerSpherical=PowerSpherical,
    QuantizedLogistic=QuantizedLogistic,
    TruncatedNormal=TruncatedNormal,
    VonMisesFisher=VonMisesFisher,
)
_MODULES = {
    "tfp_vae.distributions": (_OURS, tfp.distributions.Distribution),
    "tfp.distributions": (tfp.distributions, tfp.distributions.Distribution),
    "tfp.bijectors": (tfp.bijectors, tfp.bijectors.Bijector),
}


def serialize_distribution(distribution: Any, as_lists: bool = True) -> dict[str, Any]:
    """Writes a distribution, or a bijector, as class name and parameters.

    Args:
        distribution: An instance of a class of `tfp_vae.distributions` (except the
            straight-through ones), `tfp.distributions` or `tfp.bijectors`, whose
            parameters are numbers, tensors, dtypes, distributions or bijectors.
        as_lists: Whether tensors become lists, otherwise NumPy arrays.

    Returns:
        A dictionary, that JSON can represent if it has lists.

    Raises:
        ValueError: If a parameter is a function or a variable, or the class is none of
            these.

    Example:
        >>> config = serialize_distribution(tfd.Laplace(0.0, [1.0, 2.0]))
        >>> config["tfp.distributions"], config["parameters"]["scale"]
        ('Laplace', [1.0, 2.0])
    """
    distribution = unwrap(distribution)
    given: dict[str, Any] = getattr(distribution, "parameters", {})
    name = type(distribution).__name__
    # Some TFP classes have a private twin: `Independent` may be `_Independent`.
    for public in (name, name.lstrip("_")):
        for path, (module, _) in _MODULES.items():
            cls: Any = getattr(module, public, None)
            if isinstance(cls, type) and isinstance(distribution, cls):
                parameters = {
                    key: _encode(value, f"{public}.{key}", as_lists)
                    for key, value in given.items()
                    if value is not _default(cls, key)
                }
                return {path: public, "parameters": parameters}
    raise ValueError(
        "Saving expects an instance of a public class of `tfp.distributions` or "
        f"`tfp.bijectors`. Received: {distribution!r} of type {name}. Write a Keras "
        "layer that returns it, registered with "
        "`@keras.saving.register_keras_serializable()`."
    )


def deserialize_distribution(config: dict[str, Any]) -> Any:
    """Builds the distribution, or bijector, that `serialize_distribution` wrote.

    Args:
        config: What `serialize_distribution` returned.

    Returns:
        A new instance with the same parameters.

    Raises:
        ValueError: If the config does not name a class of TFP or `tfp_vae`, or its
            parameters are not those of the class.

    Example:
        >>> config = serialize_distribution(tfd.Normal(0.0, 2.0))
        >>> float(deserialize_distribution(config).stddev())
        2.0
    """
    reason: Exception | None = None
    for path, (module, base) in _MODULES.items():
        if path in config:
            cls = getattr(module, str(config[path]), None)
            parameters = config.get("parameters", {})
            known = isinstance(cls, type) and issubclass(cls, base)
            if cls is None or not known or not isinstance(parameters, dict):
                continue
            try:
                return cls(**{key: _decode(value) for key, value in parameters.items()})
            except (KeyError, TypeError, ValueError) as error:
                reason = error
    raise ValueError(
        "Loading expects the config of a distribution, with a class of "
        f"{' or '.join(_MODULES)} and a dictionary of its parameters. Received: "
        f"{config!r}. Save it again with `serialize_distribution`."
    ) from reason


def is_distribution_config(config: Any) -> bool:
    """Whether `config` came from `serialize_distribution`.

    Args:
        config: Anything.

    Returns:
        True if it did, otherwise False.

    Example:
        >>> is_distribution_config({"class_name": "Dense"})
        False
    """
    return isinstance(config, dict) and any(path in config for path in _MODULES)


def revive_arguments(config: dict[str, Any]) -> dict[str, Any]:
    """Restores the serialized objects, distributions and functions in a config.

    Args:
        config: What `get_config` returned.

    Returns:
        Keyword arguments for `__init__`.

    Raises:
        ValueError: If the config has a Python lambda and Keras loads in safe mode, or
            names a function that is not registered.

    Example:
        >>> revive_arguments({"seed": 1, "convert_to_tensor_fn": "mean"})
        {'seed': 1, 'convert_to_tensor_fn': 'mean'}
    """
    arguments = {}
    for key, value in config.items():
        if is_distribution_config(value):
            value = deserialize_distribution(value)
        elif isinstance(value, dict) and "class_name" in value and "config" in value:
            try:
                value = keras.saving.deserialize_keras_object(value)
            except ValueError as error:
                if value["class_name"] != "__lambda__":
                    raise
                raise ValueError(
                    f"Loading expects `{key}` to be a function that Keras can find by "
                    "name. Received: a Python lambda. Before saving, replace it by a "
                    "named function decorated with "
                    "`@keras.saving.register_keras_serializable()`, or, if you trust "
                    "the file, load it with safe_mode=False."
                ) from error
        arguments[key] = checked_function(value, key)
    return arguments


def _default(cls: Any, key: str) -> Any:
    """The default of a parameter, which configs omit: it may be a function."""
    parameter = inspect.signature(cls.__init__).parameters.get(key)
    return None if parameter is None else parameter.default


def reduced(tensor: DistributionTensor) -> tuple[Any, ...]:
    """Takes a `DistributionTensor` apart for `pickle` and `copy`.

    Args:
        tensor: The tensor.

    Returns:
        A function and its arguments, which make an equal one, with the same value if
        it was drawn.

    Raises:
        ValueError: If the distribution has parameters that are functions or variables.

    Example:
        >>> import pickle
        >>> p = DistributionTensor(tfd.Normal([0.0, 2.0], 1.0), "mean")
        >>> pickle.loads(pickle.dumps(p)).numpy()
        array([0., 2.], dtype=float32)
    """
    value = tensor._dt_value
    return _restored, (
        type(tensor),
        serialize_distribution(tensor, as_lists=False),
        tensor._dt_conversion,
        None if tensor._dt_seed is None else np.asarray(tensor._dt_seed),
        None if value is None else np.asarray(value),
    )


def _restored(
    cls: Any, config: dict[str, Any], conversion: Any, seed: Any, value: Any
) -> DistributionTensor:
    tensor = cls.__new__(cls)
    DistributionTensor.__init__(
        tensor, deserialize_distribution(config), conversion, seed
    )
    if value is not None:
        tensor._dt_value = tf.constant(value)
    return tensor


copyreg.pickle(DistributionTensor, reduced)


def _encode(value: Any, where: str, as_lists: bool) -> Any:
    if isinstance(value, np.ndarray | np.generic | tf.Tensor):
        array = np.asarray(value)
        kept = array.tolist() if as_lists else array
        return {"array": kept, "dtype": array.dtype.name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tfp.distributions.Distribution | tfp.bijectors.Bijector):
        return serialize_distribution(value, as_lists)
    if isinstance(value, list | tuple):
        return [_encode(item, where, as_lists) for item in value]
    if isinstance(value, dict):
        return {
            key: _encode(item, f"{where}[{key!r}]", as_lists)
            for key, item in value.items()
        }
    if isinstance(value, tf.DType):
        return {"dtype": value.name}
    if isinstance(value, tf.TensorShape):
        return value.as_list()
    raise ValueError(
        f"Saving expects the parameter `{where}` to be a number, a tensor, a dtype, a "
        f"distribution or a bijector. Received: {value!r} of type "
        f"{type(value).__name__}. Write a Keras layer that builds the distribution, "
        "registered with `@keras.saving.register_keras_serializable()`."
    )


def _decode(value: Any) -> Any:
    if is_distribution_config(value):
        return deserialize_distribution(value)
    if isinstance(value, list | tuple):
        return [_decode(item) for item in value]
    if isinstance(value, dict) and "array" in value:
        return tf.constant(np.array(value["array"], dtype=value["dtype"]))
    if isinstance(value, dict) and set(value) == {"dtype"}:
        return tf.as_dtype(value["dtype"])
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    return value
