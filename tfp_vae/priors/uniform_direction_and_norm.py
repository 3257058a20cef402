"""A prior over vectors with a uniform direction and a uniform norm."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import integer, positive_number
from tfp_vae.constraints import float_policy
from tfp_vae.distributions.direction_and_norm import DirectionAndNorm

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class UniformDirectionAndNorm(keras.layers.Layer):
    """The prior of z = r u: u uniform on the sphere of R^m, r uniform up to `max_norm`.

    For the posterior `DirectionAndNorm`, whose KL to it is exact and constant.

    Reference:
        Guu et al., Generating Sentences by Editing Prototypes, 2018.
        https://arxiv.org/abs/1709.08878

    Args:
        event_size: The number m of coordinates.
        max_norm: The largest norm.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: Ignored.

    Returns:
        A `tfp_vae.distributions.DirectionAndNorm` with batch shape `()`.

    Raises:
        ValueError: If `event_size` is not an integer of at least 2, or `max_norm` is
            not positive.

    Example:
        >>> z = UniformDirectionAndNorm(16)().sample(1000, seed=1)
        >>> bool(tf.reduce_all(tf.norm(z, axis=-1) <= 14.0))
        True
    """

    def __init__(self, event_size: int, max_norm: float = 14.0, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        caller = type(self).__name__
        self.event_size = integer(event_size, "event_size", caller, 2)
        self.max_norm = positive_number(max_norm, "max_norm", caller)
        self.built = True

    def call(self, inputs: Any = None) -> Any:
        """The distribution, whatever the inputs."""
        dtype = tf.as_dtype(self.compute_dtype)
        direction = tfd.SphericalUniform(self.event_size, dtype=dtype)
        return DirectionAndNorm(direction, 0.0, self.max_norm)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {
            **super().get_config(),
            "event_size": self.event_size,
            "max_norm": self.max_norm,
        }
