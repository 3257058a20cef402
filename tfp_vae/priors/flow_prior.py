"""A normalizing flow from the standard normal as the prior."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import checked_config, integer
from tfp_vae.constraints import float_policy
from tfp_vae.layers.flow import Flow
from tfp_vae.serialization import revive_arguments

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class FlowPrior(keras.layers.Layer):
    r"""The prior p(z) of z = f(u), u ~ N(0, I), with a learned invertible f.

    .. math:: \log p(z) = \log \mathcal N(f^{-1}(z); 0, I) + \log |\det df^{-1} / dz|

    Training computes log p(z) at draws of the posterior; generation draws from p.
    "realnvp" is fast at both, "maf" only in training. f starts close to the identity.

    Reference:
        Chen et al., Variational lossy autoencoder, 2017 (autoregressive flow priors).
        https://arxiv.org/abs/1611.02731

    Args:
        event_size: The dimension d of a latent.
        transform: See `Flow`.
        num_transforms: See `Flow`.
        hidden_units: See `Flow`.
        activation: See `Flow`.
        num_bins: See `Flow`.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: Ignored.

    Returns:
        A `tfd.TransformedDistribution` with batch shape `()`.

    Raises:
        ValueError: If `event_size` is not a positive integer, or `Flow` raises one.

    Example:
        >>> p = FlowPrior(4)()
        >>> p.event_shape, p.sample(5).shape
        (TensorShape([4]), TensorShape([5, 4]))
    """

    def __init__(
        self,
        event_size: int,
        transform: Any = "realnvp",
        num_transforms: int = 4,
        hidden_units: Any = (64, 64),
        activation: Any = "relu",
        num_bins: int = 8,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        self.event_size = integer(event_size, "event_size", "FlowPrior")
        self.flow = Flow(
            transform,
            num_transforms=num_transforms,
            hidden_units=hidden_units,
            activation=activation,
            num_bins=num_bins,
            dtype=self.dtype_policy,
        )

    def build(self, inputs_shape: Any = None) -> None:
        """Makes the networks."""
        if not self.flow.built:
            self.flow.build((None, self.event_size))
        self.built = True

    def call(self, inputs: Any = None) -> Any:
        """The distribution, whatever the inputs."""
        zeros = tf.zeros([self.event_size], self.compute_dtype)
        base = tfd.MultivariateNormalDiag(zeros, tf.ones_like(zeros))
        return self.flow.transform_distribution(base)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        flow = self.flow.get_config()
        names = (
            "transform",
            "num_transforms",
            "hidden_units",
            "activation",
            "num_bins",
        )
        return {
            **super().get_config(),
            "event_size": self.event_size,
            **{name: flow[name] for name in names},
        }

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "FlowPrior":
        """Restores a bijector before calling `__init__`."""
        return cls(**revive_arguments(config))
