"""Calls of an encoder that are not about data, and so must not count as KL."""

import contextlib
import contextvars
from collections.abc import Iterator

_OFF = contextvars.ContextVar("tfp_vae_kl_off", default=False)


@contextlib.contextmanager
def without_kl() -> Iterator[None]:
    """Lets KL layers and regularizers pass their input on, and add nothing.

    A VampPrior sends its pseudo-inputs through the encoder, whose KL is that of data.

    Example:
        >>> layer = tv.KLDivergenceAddLoss(tv.StandardNormal(2))
        >>> with without_kl():
        ...     _ = layer(tv.IndependentNormal(2)(tf.zeros([5, 4])))
        >>> layer.losses
        []
    """
    token = _OFF.set(True)
    try:
        yield
    finally:
        _OFF.reset(token)


def kl_is_off() -> bool:
    """Whether the call is inside `without_kl`.

    Returns:
        True there, False elsewhere.

    Example:
        >>> kl_is_off()
        False
    """
    return _OFF.get()
