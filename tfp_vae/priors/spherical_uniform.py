"""The uniform prior on the sphere."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import integer
from tfp_vae.constraints import float_policy

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class SphericalUniform(keras.layers.Layer):
    """The prior p(z) = Gamma(m / 2) / (2 pi^(m / 2)) on the unit sphere of R^m.

    For the posteriors `PowerSpherical` and `VonMisesFisher`, whose KL to it is exact.

    Reference:
        Davidson et al., Hyperspherical variational auto-encoders, 2018.
        https://arxiv.org/abs/1804.00891

    Args:
        event_size: The number m of coordinates, one more than the sphere's dimension.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: Ignored.

    Returns:
        A `tfd.SphericalUniform` with batch shape `()`.

    Raises:
        ValueError: If `event_size` is not an integer of at least 2.

    Example:
        >>> p = SphericalUniform(3)()
        >>> np.allclose(p.prob([0.0, 0.0, 1.0]), 1 / (4 * np.pi))
        True
    """

    def __init__(self, event_size: int, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        self.event_size = integer(event_size, "event_size", "SphericalUniform", 2)
        self.built = True

    def call(self, inputs: Any = None) -> Any:
        """The distribution, whatever the inputs."""
        dtype = tf.as_dtype(self.compute_dtype)
        return tfd.SphericalUniform(self.event_size, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {**super().get_config(), "event_size": self.event_size}
