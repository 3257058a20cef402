"""Switches the KL off, for calls of an encoder on anything but data."""

import contextlib
import contextvars
from collections.abc import Iterator

_OFF = contextvars.ContextVar("tfp_vae_kl_off", default=False)


@contextlib.contextmanager
def without_kl() -> Iterator[None]:
    """Context in which KL layers and regularizers add no loss.

    A VampPrior calls the encoder on pseudo-inputs, whose KL must not count.

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
