"""Functions that a user gives to a layer with random weights: checked and saved."""

from typing import Any

import keras
import tensorflow as tf

import tfp_vae.draws as draws
from tfp_vae.distribution_tensor import (
    DistributionTensor,
    held_draw,
    holds_draws,
    unwrap,
)
from tfp_vae.kl.divergence import kl_divergence


@keras.saving.register_keras_serializable("tfp_vae")
def weights_kl(
    posterior: Any, prior: Any, draw: Any, use_exact_kl: bool | None = None
) -> tf.Tensor:
    """KL(q(w) || p(w)): the closed form, or log q - log p of the draw.

    The default `kernel_divergence_fn`.

    Args:
        posterior: q(w), a `DistributionTensor`.
        prior: p(w).
        draw: The draw of the weights, if the posterior holds none; `None` for a new
            one. If the posterior holds its mean or another statistic, the draw is new
            too: log q - log p at a statistic is no estimate of the KL.
        use_exact_kl: As in `KLDivergenceAddLoss`.

    Returns:
        The KL in nats.

    Example:
        >>> float(weights_kl(tfd.Normal(1.0, 1.0), tfd.Normal(0.0, 1.0), None))
        0.5
    """

    def points() -> Any:
        if holds_draws(posterior):
            return held_draw(posterior)
        held = isinstance(posterior, DistributionTensor)
        if draw is None or (held and posterior._dt_conversion.name is not None):
            seed = posterior._dt_seed if held else None
            return draws.draw(unwrap(posterior), seed=seed)
        return draw

    return kl_divergence(posterior, prior, use_exact_kl, test_points=points)


def checked_callable(fn: Any, name: str, caller: str, optional: bool = False) -> Any:
    """Checks that an argument is a function.

    Args:
        fn: The argument.
        name: Its name, for the message.
        caller: Name of the layer, for the message.
        optional: Whether it may be `None`.

    Returns:
        The function.

    Raises:
        ValueError: If it is not one.

    Example:
        >>> checked_callable(None, "bias_prior_fn", "DenseFlipout", optional=True)
    """
    if callable(fn) or (optional and fn is None):
        return fn
    more = " or None" if optional else ""
    raise ValueError(
        f"`{caller}` expects `{name}` to be a function{more}. Received: {name}={fn!r}. "
        "See the docstring for its arguments."
    )


def serialized(fn: Any, name: str, caller: str) -> Any:
    """A function as a config stores it.

    Args:
        fn: The function, a string, or `None`.
        name: Name of the argument, for the message.
        caller: Name of the layer, for the message.

    Returns:
        What `keras.saving.deserialize_keras_object` reads.

    Raises:
        ValueError: If it is a lambda.

    Example:
        >>> serialized(weights_kl, "kernel_divergence_fn", "DenseFlipout")["config"]
        'tfp_vae>weights_kl'
    """
    if getattr(fn, "__name__", "") == "<lambda>":
        raise ValueError(
            f"Saving a `{caller}` expects `{name}` to be a named function. Received: a "
            "lambda, which no file can hold. Define a function and decorate it with "
            "`@keras.saving.register_keras_serializable()`."
        )
    return fn if fn is None else keras.saving.serialize_keras_object(fn)
