"""Statistics of a distribution by name."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.distribution_tensor import STATISTICS, TensorConversion, unwrap
from tfp_vae.latents import center
from tfp_vae.summaries import may_lack_a_mean, summary

tfd = tfp.distributions

PARAMETERS = "params"


class DefaultConversion(TensorConversion):
    """The mean of a distribution; without a mean its mode, without both its `center`.

    The choice is made when the value is needed.

    Example:
        >>> conversion = DefaultConversion()
        >>> conversion(tfd.Bernoulli(0.0)).numpy()
        np.float32(0.5)
        >>> conversion(tfd.OrderedLogistic([-1.0, 1.0], 0.0)).numpy()
        np.int32(1)
    """

    def __init__(self) -> None:
        """Uses the representation and the shape of the mean."""
        super().__init__("mean")

    def __call__(self, distribution: Any, seed: Any = None) -> Any:
        """The value of a distribution."""
        distribution = unwrap(distribution)
        names = ("mode",) if may_lack_a_mean(distribution) else ("mean", "mode")
        for name in names:
            try:
                return summary(distribution, name)
            except NotImplementedError:
                continue
        return center(distribution)


def checked_statistics(names: Any, caller: str) -> Any:
    """Checks the names of statistics.

    Args:
        names: `None` for the default, a name, or several.
        caller: Name of the caller, for the message.

    Returns:
        `None`, the name, or a tuple of names.

    Raises:
        ValueError: If a name is unknown.

    Example:
        >>> checked_statistics(["mean", "stddev"], "predict")
        ('mean', 'stddev')
    """
    known = (*STATISTICS, PARAMETERS)
    several = isinstance(names, Sequence) and not isinstance(names, str)
    given = tuple(names) if several else (names,)
    valid = [isinstance(name, str) and name in known for name in given]
    if names is None or (given and all(valid)):
        return given if several else names
    raise ValueError(
        f"`{caller}` expects `statistics` to be one of {known}, or a list of them. "
        f"Received: statistics={names!r}. Leave it out for the mean."
    )


def needs_seed(names: Any) -> bool:
    """Whether statistics are random, and so advance the seeds.

    Args:
        names: What `checked_statistics` returned.

    Returns:
        True if `"sample"` is among them.

    Example:
        >>> needs_seed("mean"), needs_seed(("mean", "sample"))
        (False, True)
    """
    return "sample" in (names if isinstance(names, tuple) else (names,))


def statistics_of(distribution: Any, names: Any, seed: Any = None) -> Any:
    """Statistics of a distribution by name.

    Args:
        distribution: A `tfd.Distribution`.
        names: What `checked_statistics` returned.
        seed: Seed of `"sample"`.

    Returns:
        A tensor for one name, a dictionary by name for several; for `"params"` a
        dictionary of tensors.

    Example:
        >>> p = tfd.Normal([0.0], 2.0)
        >>> both = statistics_of(p, ("stddev", "params"))
        >>> both["stddev"].numpy(), sorted(both["params"])
        (array([2.], dtype=float32), ['loc', 'scale'])
    """
    distribution = unwrap(distribution)
    if isinstance(names, tuple):
        return {name: statistics_of(distribution, name, seed) for name in names}
    if names == PARAMETERS:
        return _parameters(distribution)
    conversion = TensorConversion(names) if names else DefaultConversion()
    return tf.convert_to_tensor(conversion(distribution, seed))


def _parameters(distribution: Any) -> dict[str, Any]:
    """The parameters of a distribution as tensors, each with its batch axes."""
    if isinstance(distribution, meta.Independent | meta.Sample):
        return _parameters(distribution.distribution)
    found: dict[str, Any] = {}
    for name, value in distribution.parameters.items():
        if isinstance(value, tfd.Distribution):
            found[name] = _parameters(value)
        elif isinstance(value, list | tuple) and any(
            isinstance(part, tfd.Distribution) for part in value
        ):
            found |= {f"{name}_{i}": _parameters(part) for i, part in enumerate(value)}
        elif _is_numeric(value):
            found[name] = _with_batch(tf.convert_to_tensor(value), distribution)
    return found


def _is_numeric(value: Any) -> bool:
    if tf.is_tensor(value) or isinstance(value, tf.Variable | keras.Variable):
        return True
    numbers = isinstance(value, float | int | list | tuple | np.ndarray)
    return numbers and np.asarray(value).dtype.kind in "fiu"


def _with_batch(value: tf.Tensor, distribution: Any) -> tf.Tensor:
    """Broadcasts a parameter to the batch shape, unless it has event axes."""
    if value.shape.rank > distribution.batch_shape.rank:
        return value
    return tf.broadcast_to(value, distribution.batch_shape_tensor())
