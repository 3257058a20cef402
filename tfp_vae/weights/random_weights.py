"""The base class of layers whose weights are draws, and how their KL counts."""

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import checked_config, optional_seed
from tfp_vae.constraints import float_policy
from tfp_vae.keras_internals import called_model, in_training, marked_as_of_training_set
from tfp_vae.seeds import Seeds
from tfp_vae.serialization import revive_arguments
from tfp_vae.weights.forward_pass import once, seed_of, weights_are_fixed
from tfp_vae.weights.metric import WeightsKL

tfd = tfp.distributions

_WARNED: Any = weakref.WeakSet()


class RandomWeights(keras.layers.Layer):
    r"""A layer whose weights are draws from a posterior q(w), with a prior p(w).

    .. math::

        \mathrm{loss} = \frac{1}{N}
        \left[\sum_i c_i \, \mathrm{nll}_i + \mathrm{KL}(q(w) \,\|\, p(w))\right]

    for N training examples with sample weights c_i. A step's loss is the mean over its
    batch plus KL / N, so that the mean over an epoch does not depend on the batch size.
    A `tv.Model` knows N in `fit`, or from `compile(num_examples=)`. Elsewhere, and in
    `model.losses`, the KL is not divided by N.

    All calls in one forward pass share one draw, and the KL counts once in it.

    A subclass calls `add_divergence` in its `call`.

    Args:
        seed: Integer seed of the draws; by default it follows
            `keras.utils.set_random_seed`.
        **kwargs: Passed to `keras.layers.Layer`. Draws and KL are computed in float32
            under every dtype policy except float64.

    Example:
        >>> layer = tv.DenseReparameterization(2)
        >>> isinstance(layer, RandomWeights)
        True
    """

    # Whether a part of the KL is divided by N; False if the user's own factor or
    # function decides for all of it, None without a KL.
    divides_by_examples: bool | None = True

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        self.seed = optional_seed(seed, type(self).__name__)
        self._seeds = Seeds(self.seed)
        self._metric = WeightsKL()

    def next_seed(self, name: str) -> tf.Tensor:
        """The seed of a draw in this forward pass.

        Args:
            name: Name of what is drawn; other names have other seeds.

        Returns:
            Two integers.
        """
        return seed_of(self, self._seeds, name)

    def add_divergence(self, terms: Callable[[], list[tuple[Any, Any]]]) -> None:
        """Adds KL(q(w) || p(w)) to the loss, once in a forward pass.

        Args:
            terms: Function that returns the KL of the draw in this pass, in parts, each
                a scalar in nats with its factor in the loss: a number, or `None` for
                1/N.
        """
        once(self, "divergence", lambda: self._add(terms()))

    def _add(self, terms: list[tuple[Any, Any]]) -> bool:
        if terms:
            self._metric.record(self, tf.add_n([kl for kl, _ in terms]))
        for kl, weight in terms:
            loss = kl if weight is None else kl * tf.cast(weight, kl.dtype)
            loss = tf.cast(loss, keras.config.floatx())
            if weight is None:
                _warn_of_the_whole(called_model(self))
                loss = marked_as_of_training_set(loss)
            self.add_loss(loss)
        return True

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {**super().get_config(), "seed": self.seed}

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "RandomWeights":
        """Restores layers, priors and functions before calling `__init__`."""
        return cls(**revive_arguments(config))


def _warn_of_the_whole(model: Any) -> None:
    """Warns, once for a model, if its training counts the KL whole in every batch."""
    plain = getattr(model, "compiled", False) and not hasattr(model, "num_examples")
    if plain and in_training() and not weights_are_fixed() and model not in _WARNED:
        _WARNED.add(model)
        warnings.warn(
            "The whole KL of random weights is added to the loss of every batch, since "
            "a `keras.Model` does not know the number of training examples. `tv.Model` "
            "and `tv.Sequential` divide by it. Or divide yourself: `kl_weight=1 / n`, "
            "or a `kernel_divergence_fn` that does.",
            stacklevel=2,
        )


def check_pair(posterior: Any, prior: Any, caller: str) -> None:
    """Checks that the shape of a prior fits that of a posterior of weights.

    Args:
        posterior: q(w).
        prior: p(w).
        caller: Name of the layer, for the message.

    Raises:
        ValueError: If the event shapes differ, or the batch shape of the prior does not
            broadcast to that of the posterior.

    Example:
        >>> check_pair(tfd.Normal([0.0], 1.0), tfd.Normal(0.0, 1.0), "Dense")
    """
    q, p = posterior, prior
    broadcast = tf.broadcast_static_shape
    try:
        fits = q.event_shape.is_compatible_with(p.event_shape) and broadcast(
            q.batch_shape, p.batch_shape
        ).is_compatible_with(q.batch_shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"`{caller}` expects a posterior and a prior of one shape. Received: "
            f"batch shape {q.batch_shape} and event shape {q.event_shape} of the "
            f"posterior, {p.batch_shape} and {p.event_shape} of the prior. Build both "
            "from the shape or the sizes that their functions receive."
        )


def known_width(input_shape: Any, caller: str) -> int:
    """The length of the last axis of a dense layer's inputs.

    Args:
        input_shape: Shape of the inputs.
        caller: Name of the layer, for the message.

    Returns:
        A number.

    Raises:
        ValueError: If it is not known.

    Example:
        >>> known_width((None, 3), "DenseFlipout")
        3
    """
    width = input_shape[-1]
    if width is None:
        raise ValueError(
            f"`{caller}` expects inputs whose last axis has a known length. Received: "
            f"shape {tuple(input_shape)}. Give `keras.Input` the number of features."
        )
    return int(width)
