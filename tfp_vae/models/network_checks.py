"""Whether the networks of a VAE fit together, and fit the data."""

from typing import Any

import numpy as np
import tensorflow_probability as tfp

from tfp_vae.models.inputs import NAN

tfd = tfp.distributions


def check_distribution(output: Any, network: str, symbol: str) -> None:
    """Checks that a network put out one distribution for each example.

    Args:
        output: What it put out.
        network: `"encoder"` or `"decoder"`.
        symbol: What the distribution is called.

    Raises:
        ValueError: If it is none, or its batch has other axes.

    Example:
        >>> check_distribution(tfd.Normal([0.0], 1.0), "encoder", "q(z | x)")
    """
    if not isinstance(output, tfd.Distribution):
        raise ValueError(
            f"`VAE` expects its {network} to put out a distribution, {symbol}. "
            f"Received: {type(output).__name__} of shape "
            f"{getattr(output, 'shape', None)}. End it with a distribution layer, such "
            "as `tv.IndependentNormal`, and nothing behind."
        )
    batch = output.batch_shape
    if batch.rank != 1:
        raise ValueError(
            f"`VAE` expects {symbol} to be one distribution for each example, of batch "
            f"shape (batch,). Received: batch shape {tuple(batch)}, event shape "
            f"{tuple(output.event_shape)} from the {network}. Give its last layer the "
            "event shape of a whole example, or wrap it in `tfd.Independent`."
        )


def check_latent(posterior: Any, decoder: Any) -> None:
    """Compares the latent with the decoder's input, where Keras knows that.

    Args:
        posterior: q(z | x).
        decoder: The network that takes z.

    Raises:
        ValueError: If their shapes differ.

    Example:
        >>> decoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> check_latent(tfd.MultivariateNormalDiag(tf.zeros([5, 3])), decoder)
    """
    try:
        shape = decoder.input_shape
    except (AttributeError, ValueError):
        return
    shape = shape[0] if isinstance(shape, list) else shape
    event = posterior.event_shape
    if not event.is_compatible_with(tuple(shape)[1:]):
        raise ValueError(
            "`VAE` expects a decoder for latents of the encoder's shape "
            f"{tuple(event)}. Received: a decoder for {tuple(shape)[1:]}. Give both "
            "the same latent size."
        )


def check_event(likelihood: Any, target: Any) -> None:
    """Compares p(x | z) with what it is to describe.

    Args:
        likelihood: p(x | z).
        target: Values of shape `(n, ...)`.

    Raises:
        ValueError: If the event is not of the shape of one value.

    Example:
        >>> check_event(tfd.MultivariateNormalDiag(tf.zeros([5, 3])), np.zeros([5, 3]))
    """
    if not likelihood.event_shape.is_compatible_with(target.shape[1:]):
        raise ValueError(
            "`VAE` expects p(x | z) to have the shape of one x, "
            f"{tuple(target.shape[1:])}. Received: event shape "
            f"{tuple(likelihood.event_shape)} from the decoder. Give its last layer "
            "that event shape; a target y is for models that describe y, and labels "
            "are for `conditional=True`."
        )


def checked_missing(missing: Any) -> Any:
    """Returns what marks missing entries, if it can.

    Args:
        missing: `None`, `"nan"` or a number.

    Returns:
        The same.

    Raises:
        ValueError: If it is something else.

    Example:
        >>> checked_missing(-1)
        -1
    """
    number = isinstance(missing, int | float) and not isinstance(missing, bool)
    if missing in (None, NAN) or (number and np.isfinite(missing)):
        return missing
    raise ValueError(
        "`VAE` expects `missing` to be None, 'nan' or the number that marks missing "
        f"entries. Received: missing={missing!r}. Entries that are NaN are left out "
        "with missing='nan'."
    )
