"""A normal prior whose mean and covariance are learned."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow_probability as tfp

from tfp_vae.checks import choice, integer
from tfp_vae.constraints import float_policy
from tfp_vae.layers.multivariate_normal_diag import MultivariateNormalDiag
from tfp_vae.layers.multivariate_normal_tril import MultivariateNormalTriL
from tfp_vae.layers.variable_layer import VariableLayer

_FAMILIES: dict[str, Any] = {
    "diagonal": MultivariateNormalDiag,
    "full": MultivariateNormalTriL,
}


@keras.saving.register_keras_serializable("tfp_vae")
class LearnedNormal(keras.layers.Layer):
    """The prior p(z) = N(loc, S) with learned loc and S, initially N(0, I).

    It adds nothing to a VAE whose encoder and decoder have linear layers at z, which
    can learn the same map. It helps if they are fixed, or several models use the prior.

    Args:
        event_size: The dimension d of a latent.
        covariance: `"diagonal"`, or `"full"` for S = L L^T.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: Ignored.

    Returns:
        A `tfd.MultivariateNormalDiag` or `tfd.MultivariateNormalTriL` with batch shape
        `()`.

    Raises:
        ValueError: If `event_size` is not a positive integer, or `covariance` is not
            one of these.

    Example:
        >>> p = LearnedNormal(3, covariance="full")()
        >>> np.allclose(p.covariance(), np.eye(3), atol=1e-4)
        True
    """

    def __init__(
        self, event_size: int, covariance: str = "diagonal", **kwargs: Any
    ) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        self.event_size = integer(event_size, "event_size", "LearnedNormal")
        self.covariance = choice(
            covariance, tuple(_FAMILIES), "covariance", "LearnedNormal"
        )
        family = _FAMILIES[covariance]
        width = family.params_size(self.event_size)
        self.family = family(self.event_size, dtype=self.dtype_policy)
        self.family.build((width,))
        self.parameters = VariableLayer(width, dtype=self.dtype_policy)
        raw = np.full(self.event_size, math.log(math.expm1(1.0)))
        if covariance == "full":
            raw = tfp.math.fill_triangular_inverse(np.diag(raw))
        start = np.concatenate([np.zeros(self.event_size), raw])
        self.parameters.constant.assign(start)
        self.built = True

    def call(self, inputs: Any = None) -> Any:
        """The distribution, whatever the inputs."""
        return self.family.make_distribution(self.parameters())

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {
            **super().get_config(),
            "event_size": self.event_size,
            "covariance": self.covariance,
        }
