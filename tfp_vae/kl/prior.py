"""Checks, calls and serializes a prior: a distribution, layer or callable."""

import contextlib
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.closures import variables_read
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.environment import refuse_keras_2
from tfp_vae.serialization import serialize_distribution

tfd = tfp.distributions


def prior_distribution(prior: Any, inputs: Any = None) -> Any:
    """The distribution p(z) that a prior is or returns.

    Args:
        prior: A `tfd.Distribution`, a Keras layer or model, or a callable.
        inputs: Inputs of a conditional prior p(z | inputs), such as y.

    Returns:
        A `tfd.Distribution`.

    Raises:
        ValueError: If the layer or callable cannot be called with these inputs, returns
            no distribution, or has variables that Keras cannot train.

    Example:
        >>> prior_distribution(tv.StandardNormal(2)).event_shape
        TensorShape([2])
    """
    if isinstance(prior, tfd.Distribution) and inputs is None:
        return prior
    refuse_keras_2(prior, "The KL")
    try:
        distribution = prior(*_arguments(prior, inputs))
    except (TypeError, ValueError) as error:
        given = "without inputs" if inputs is None else f"with {inputs.shape}"
        raise ValueError(
            f"The KL expects a prior that can be called {given}. Received: {prior!r}, "
            f"which raised an error ({error}). Give a `tfd.Distribution`, a prior "
            "layer such as `StandardNormal(d)`, or `prior_inputs` to a conditional one."
        ) from error
    if not isinstance(distribution, tfd.Distribution):
        raise ValueError(
            "The KL expects a prior that returns a `tfd.Distribution`. Received: "
            f"{type(distribution).__name__} from {prior!r}. End it with a distribution "
            "layer, such as `IndependentNormal`."
        )
    distribution = unwrap(distribution)
    if inputs is None and _arguments(prior, None) and distribution.batch_shape == (1,):
        raise ValueError(
            f"The KL expects the inputs of a conditional prior. Received: {prior!r} "
            "without any. Call the KL layer with `prior_inputs=`, or make a `tv.VAE` "
            "with conditional=True. A prior that needs no inputs must begin with a "
            "`VariableLayer`."
        )
    if not isinstance(prior, keras.layers.Layer):
        found = [v for v in keras_variables(distribution) if v.trainable]
        _refuse(distribution, [*distribution.trainable_variables, *found])
    return distribution


def needs_inputs(prior: Any) -> bool:
    """Whether a prior is a layer or model that cannot be called without an input.

    A model made of layers needs one, even if it begins with a `VariableLayer`.

    Args:
        prior: A `tfd.Distribution`, a Keras layer or model, or a callable.

    Returns:
        True for models and conditional layers, False for the rest.

    Example:
        >>> needs_inputs(keras.Sequential([tv.IndependentNormal(2)]))
        True
        >>> needs_inputs(tv.StandardNormal(2))
        False
    """
    if not isinstance(prior, keras.layers.Layer):
        return False
    first = next(iter(inspect.signature(prior.call).parameters.values()), None)
    return first is not None and first.default is inspect.Parameter.empty


def _arguments(prior: Any, inputs: Any) -> list[Any]:
    if inputs is not None:
        return [inputs]
    # A placeholder: a model needs an input even if its `VariableLayer` ignores it.
    return [tf.ones([1, 1])] if needs_inputs(prior) else []


def _refuse(distribution: Any, variables: Sequence[Any]) -> None:
    if variables:
        raise ValueError(
            "The KL expects a prior whose variables Keras can train. Received: "
            f"{distribution!r}, made of {variables[0]!r}. Use `tv.LearnedNormal(d)` or "
            "`tv.MixturePrior(d, num_components=k)`; for another family a model: "
            "`keras.Sequential([VariableLayer(IndependentLogistic.params_size(d)), "
            "IndependentLogistic(d)])`."
        )


def keras_variables(made: Any) -> list[Any]:
    """Variables whose values TFP reads only once, when it makes an object of them.

    Args:
        made: A `tfd.Distribution` or a `tfb.Bijector`.

    Returns:
        The Keras variables among its parameters, and in the objects among these.

    Example:
        >>> keras_variables(tfd.Normal(keras.Variable(0.0), 1.0))
        [<Variable ...>]
    """
    found = []
    for part in tf.nest.flatten(dict(made.parameters)):
        if isinstance(part, tfd.Distribution | tfp.bijectors.Bijector):
            found += keras_variables(part)
        elif isinstance(part, keras.Variable):
            found.append(part)
    return found


def checked_prior(
    prior: Any, name: str = "distribution_b", caller: str = "The KL"
) -> Any:
    """Checks a prior, and returns it.

    Args:
        prior: A `tfd.Distribution`, a Keras layer or model, or a callable.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.

    Returns:
        The prior; a `DistributionTensor` unwrapped.

    Raises:
        ValueError: If it is none of these, or has variables that Keras cannot train.

    Example:
        >>> checked_prior(tfd.Normal(0.0, 1.0)).name
        'Normal'
    """
    refuse_keras_2(prior, caller)
    prior = unwrap(prior)
    if isinstance(prior, tfd.Distribution):
        _refuse(prior, [*prior.trainable_variables, *keras_variables(prior)])
        return prior
    if not callable(prior) or isinstance(prior, type):
        raise ValueError(
            f"{caller} expects `{name}` to be a `tfd.Distribution`, a Keras layer or a "
            f"callable that returns one. Received: {prior!r} of type "
            f"{type(prior).__name__}. `StandardNormal(latent_size)` is the usual prior."
        )
    if not isinstance(prior, keras.layers.Layer):
        with contextlib.suppress(Exception):  # It may make and keep tensors.
            prior_distribution(prior)
        # Those that the function computes with; what it returns holds the rest.
        given = lambda _: prior_distribution(prior), tf.zeros([1]), [prior]
        try:
            read = variables_read(*given, caller)
        except ValueError as error:
            _refuse(prior, [error])
        _refuse(prior, [v for v in read if v.trainable])
    return prior


def serialize_prior(prior: Any) -> Any:
    """The config of a prior; for a TFP distribution, its class and parameters.

    Args:
        prior: A `tfd.Distribution`, a Keras layer or model, or a callable.

    Returns:
        A dictionary; `is_distribution_config` recognises that of a distribution.

    Example:
        >>> serialize_prior(tfd.Normal(0.0, 1.0))["tfp.distributions"]
        'Normal'
    """
    if isinstance(prior, tfd.Distribution):
        return serialize_distribution(prior)
    config = keras.saving.serialize_keras_object(prior)
    if isinstance(prior, keras.layers.Layer):
        # Keras' key for one object in several places of a model. Without it, two KL
        # layers with the same prior would load two.
        config["shared_object_id"] = id(prior)
    return config
