"""The standard normal prior."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, canonical_event_shape
from tfp_vae.constraints import float_policy

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class StandardNormal(keras.layers.Layer):
    """The prior p(z) = N(0, I).

    Every prior is a Keras layer, `prior(inputs=None) -> distribution`. Its variables
    are trained, saved and exported with the model that contains it. The inputs are for
    conditional priors; this one ignores them.

    Args:
        event_shape: Shape of one latent, or an integer for a vector.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: Ignored.

    Returns:
        An `Independent(Normal)` with batch shape `()`.

    Raises:
        ValueError: If `event_shape` is not made of positive integers.

    Example:
        >>> p = StandardNormal(16)()
        >>> p.batch_shape, p.event_shape
        (TensorShape([]), TensorShape([16]))
    """

    def __init__(self, event_shape: Shape, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        self.event_shape = canonical_event_shape(event_shape, "StandardNormal")
        self.built = True

    def call(self, inputs: Any = None) -> Any:
        """The distribution, whatever the inputs."""
        zeros = tf.zeros(self.event_shape, self.compute_dtype)
        normal = tfd.Normal(zeros, tf.ones_like(zeros))
        return tfd.Independent(normal, reinterpreted_batch_ndims=len(self.event_shape))

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {**super().get_config(), "event_shape": self.event_shape}
