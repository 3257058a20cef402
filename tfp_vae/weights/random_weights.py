"""The base class of layers whose weights are draws, and how their KL counts."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import optional_seed
from tfp_vae.constraints import float_policy
from tfp_vae.keras_internals import called_model, in_training, per_example
from tfp_vae.seeds import Seeds
from tfp_vae.weights.forward_pass import once, seed_of, weights_are_fixed
from tfp_vae.weights.metric import WeightsKL

tfd = tfp.distributions


class RandomWeights(keras.layers.Layer):
    """A layer whose weights are draws from a posterior q(w), with a prior p(w).

        loss = (1/N) [sum_i w_i nll_i + KL(q(w) || p(w))]

    for N training examples. A step's loss is the mean over its batch plus KL / N, so
    that the sum over an epoch does not depend on the batch size. A `tv.Model` knows N
    in `fit`, or from `compile(num_examples=)`. Elsewhere the KL is whole in every step.

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

    # Whether KL / N is added; False if the user's own factor or function decides.
    divides_by_examples = True

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        self.seed = optional_seed(seed, type(self).__name__)
        self._seeds = Seeds(self.seed)
        self._metric = WeightsKL()
        self._has_warned = False

    def next_seed(self) -> tf.Tensor:
        """The seed of the layer's next draw: two integers."""
        return seed_of(self, self._seeds)

    def add_divergence(
        self, divergence: Callable[[], Any], weight: float | None = None
    ) -> None:
        """Adds KL(q(w) || p(w)) to the loss, once in a forward pass.

        Args:
            divergence: Function that returns the KL of the draw in this pass, a scalar
                in nats, or `None` if no weight has a prior.
            weight: Its factor in the loss, if `divides_by_examples` is False.
        """
        once(self, "divergence", lambda: self._add(divergence(), weight))

    def _add(self, kl: Any, weight: float | None) -> bool:
        if kl is None:
            return False
        self._metric.record(self, kl)
        if self.divides_by_examples:
            model = called_model(self)
            number = getattr(model, "num_examples", None)
            if number is not None:
                kl = kl / tf.cast(number, kl.dtype)
                self.add_loss(per_example(tf.cast(kl, keras.config.floatx())))
                return True
            if in_training() and getattr(model, "compiled", False):
                self._refuse_or_warn(model)
        elif weight is not None:
            kl = kl * tf.cast(weight, kl.dtype)
        self.add_loss(tf.cast(kl, keras.config.floatx()))
        return True

    def _refuse_or_warn(self, model: Any) -> None:
        """A step of training counts the KL whole: warns once; `tv.Model` refuses."""
        if weights_are_fixed():
            return  # A prediction has no loss.
        if hasattr(model, "num_examples"):
            raise ValueError(
                f"`{type(self).__name__}` expects the number of training examples, by "
                "which it divides the KL of its weights. Received: a step of a model "
                "that does not know it. Give `compile(num_examples=...)`."
            )
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"`{type(self).__name__}` adds the whole KL of its weights to the loss "
                "of every batch, since a `keras.Model` does not know the number of "
                "training examples. `tv.Model` and `tv.Sequential` divide by it. Or "
                "divide yourself: `kl_weight=1 / n`, or a `kernel_divergence_fn` that "
                "does.",
                stacklevel=2,
            )

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {**super().get_config(), "seed": self.seed}


def check_pair(posterior: Any, prior: Any, caller: str) -> None:
    """Checks that a posterior of weights and their prior have one shape.

    Args:
        posterior: q(w).
        prior: p(w).
        caller: Name of the layer, for the message.

    Raises:
        ValueError: If event or batch shapes differ.

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
            f"posterior, {p.batch_shape} and {p.event_shape} of the prior. Give both "
            "functions the shape that they receive."
        )
