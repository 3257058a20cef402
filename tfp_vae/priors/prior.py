"""What can be given as a prior, and the distribution behind it."""

import inspect
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.distribution_tensor import unwrap
from tfp_vae.serialization import serialize_distribution

tfd = tfp.distributions


def prior_distribution(prior: Any) -> Any:
    """The distribution p(z) behind whatever was given as the prior.

    Args:
        prior: A `tfd.Distribution`, a Keras layer or model, or a callable.

    Returns:
        A `tfd.Distribution`.

    Raises:
        ValueError: If the layer or callable returns something else.

    Example:
        >>> prior_distribution(lambda: tfd.Normal(0.0, 1.0)).name
        'Normal'
    """
    if isinstance(prior, tfd.Distribution):
        return prior
    if isinstance(prior, keras.layers.Layer) and _needs_inputs(prior):
        distribution = prior(tf.zeros([1, 1]))  # ignored by what a prior is made of
    else:
        distribution = prior()
    if not isinstance(distribution, tfd.Distribution):
        raise ValueError(
            "The KL expects a prior that returns a `tfd.Distribution`. Received: "
            f"{type(distribution).__name__} from {prior!r}. End it with a distribution "
            "layer, such as `IndependentNormal`."
        )
    return unwrap(distribution)


def _needs_inputs(layer: keras.layers.Layer) -> bool:
    first = next(iter(inspect.signature(layer.call).parameters.values()), None)
    return first is not None and first.default is inspect.Parameter.empty


def checked_prior(prior: Any) -> Any:
    """Returns what was given as a prior, if it can give a distribution.

    Args:
        prior: A `tfd.Distribution`, a Keras layer or model, or a callable.

    Returns:
        The same; a `DistributionTensor` unwrapped.

    Raises:
        ValueError: If it is none of these, or holds variables that Keras cannot train.

    Example:
        >>> checked_prior(tfd.Normal(0.0, 1.0)).name
        'Normal'
    """
    prior = unwrap(prior)
    if isinstance(prior, tfd.Distribution) and prior.trainable_variables:
        raise ValueError(
            "The KL expects a prior whose trainable variables Keras knows. Received: "
            f"{prior!r} with {len(prior.trainable_variables)} `tf.Variable`. Build a "
            "learned prior from layers: `keras.Sequential([VariableLayer("
            "IndependentNormal.params_size(d)), IndependentNormal(d)])`."
        )
    if not (isinstance(prior, tfd.Distribution) or callable(prior)):
        raise ValueError(
            "The KL expects `distribution_b` to be a `tfd.Distribution`, a Keras layer "
            f"or a callable that returns one. Received: {prior!r} of type "
            f"{type(prior).__name__}. `StandardNormal(latent_size)` is the usual prior."
        )
    return prior


def serialize_prior(prior: Any) -> Any:
    """The config of a prior: of TFP's distributions their class and parameters.

    Args:
        prior: A `tfd.Distribution`, a Keras layer or model, or a callable.

    Returns:
        A dictionary: `is_distribution_config` tells which of the two it is.

    Example:
        >>> serialize_prior(tfd.Normal(0.0, 1.0))["tfp.distributions"]
        'Normal'
    """
    if isinstance(prior, tfd.Distribution):
        return serialize_distribution(prior)
    return keras.saving.serialize_keras_object(prior)
