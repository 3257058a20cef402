"""A learned mixture of normals as the prior."""

import math
from typing import Any

import keras
import numpy as np

from tfp_vae.checks import integer, optional_seed
from tfp_vae.constraints import float_policy
from tfp_vae.layers.mixture_same_family import MixtureNormal
from tfp_vae.layers.variable_layer import VariableLayer


@keras.saving.register_keras_serializable("tfp_vae")
class MixturePrior(keras.layers.Layer):
    r"""A prior that is a learned mixture of normals with diagonal covariances.

    .. math::

        p(z) = \sum_k w_k \,
        \mathcal N(z; \mathrm{loc}_k, \mathrm{diag}(\mathrm{scale}_k)^2)

    Initially the weights are equal, the scales are 1 and the locations are normal
    draws. The KL has no closed form; the draw that the decoder gets estimates it.

    Reference:
        Dilokthanakul et al., Deep unsupervised clustering with Gaussian mixture VAEs,
        2016; Tomczak and Welling, VAE with a VampPrior, 2018 ("MoG").

    Args:
        event_size: The dimension d of a latent.
        num_components: The number of components.
        seed: Seed of the initial locations; by default it follows
            `keras.utils.set_random_seed`.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: Ignored.

    Returns:
        A `tfd.MixtureSameFamily` with batch shape `()`.

    Raises:
        ValueError: If `event_size` or `num_components` is not a positive integer.

    Example:
        >>> p = MixturePrior(16, num_components=100)()
        >>> p.event_shape, len(MixturePrior(16, num_components=100).trainable_variables)
        (TensorShape([16]), 1)
    """

    def __init__(
        self,
        event_size: int,
        *,
        num_components: int,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        caller = type(self).__name__
        self.event_size = integer(event_size, "event_size", caller)
        self.num_components = integer(num_components, "num_components", caller)
        self.seed = optional_seed(seed, caller)
        d, k = self.event_size, self.num_components
        width = MixtureNormal.params_size(k, d)
        self.family = MixtureNormal(k, d, dtype=self.dtype_policy)
        self.family.build((width,))
        self.parameters = VariableLayer(width, dtype=self.dtype_policy)
        loc = keras.ops.convert_to_numpy(keras.random.normal((k, d), seed=self.seed))
        raw = np.full((k, d), math.log(math.expm1(1.0)))
        components = np.concatenate([loc, raw], axis=-1).reshape(-1)
        self.parameters.constant.assign(np.concatenate([np.zeros(k), components]))
        self.built = True

    def call(self, inputs: Any = None) -> Any:
        """The distribution, whatever the inputs."""
        return self.family.make_distribution(self.parameters())

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {
            **super().get_config(),
            "event_size": self.event_size,
            "num_components": self.num_components,
            "seed": self.seed,
        }
