"""Vectors with a direction and a norm, both with a fixed spread."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import positive_number
from tfp_vae.distributions.direction_and_norm import (
    DirectionAndNorm as DirectionAndNormDistribution,
)
from tfp_vae.distributions.sphere import unit_vector
from tfp_vae.distributions.von_mises_fisher import VonMisesFisher
from tfp_vae.layers.vector_layer import VectorLayer


@keras.saving.register_keras_serializable("tfp_vae")
class DirectionAndNorm(VectorLayer):
    r"""A vector z = r u around the input vector: the posterior of the neural editor.

    .. math::

        u &\sim \mathrm{VonMisesFisher}(\mathrm{raw} / |\mathrm{raw}|,
        \mathrm{concentration}) \\
        r &\sim \mathrm{Uniform}(\mathrm{low}, \mathrm{low} + \mathrm{norm\_width}) \\
        \mathrm{low} &= \min(|\mathrm{raw}|, \mathrm{max\_norm} - \mathrm{norm\_width})

    The concentration and the width are fixed. The KL to the matching prior,
    `UniformDirectionAndNorm(event_size, max_norm)`, is therefore the same for all
    examples and has no gradient. The posterior cannot collapse, and the KL needs no
    annealing.

    .. math::

        \mathrm{KL} = \mathrm{KL}(\mathrm{vMF} \,\|\, \mathrm{uniform})
        + \log(\mathrm{max\_norm} / \mathrm{norm\_width})

    Where the inputs are 0, the mean direction is the first axis.

    Reference:
        Guu et al., Generating Sentences by Editing Prototypes, 2018.
        https://arxiv.org/abs/1709.08878

    Args:
        event_size: The number m of coordinates, at least 2.
        concentration: The concentration of the direction, positive.
        max_norm: The largest norm. If it exceeds that of the prior, the KL is infinite.
        norm_width: The length of the interval of norms, below `max_norm`.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., event_size)`.

    Returns:
        A `tfp_vae.distributions.DirectionAndNorm` with
        `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If `event_size` is below 2, a number is not positive, `norm_width`
            is not below `max_norm`, or the last axis of the inputs is not m.

    Example:
        >>> q = DirectionAndNorm(128)(tf.random.normal([5, 128]))
        >>> p = tv.UniformDirectionAndNorm(128)()
        >>> tfd.kl_divergence(q, p).numpy().round(2)
        array([27.78, 27.78, 27.78, 27.78, 27.78], dtype=float32)
    """

    smallest = 2

    def __init__(
        self,
        event_size: int,
        concentration: float = 100.0,
        max_norm: float = 14.0,
        norm_width: float = 0.1,
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_size, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.concentration = positive_number(concentration, "concentration", caller)
        self.max_norm = positive_number(max_norm, "max_norm", caller)
        self.norm_width = positive_number(norm_width, "norm_width", caller)
        if self.norm_width >= self.max_norm:
            raise ValueError(
                f"`{caller}` expects `norm_width` below `max_norm`. Received: "
                f"norm_width={norm_width!r}, max_norm={max_norm!r}. Give a smaller "
                "`norm_width`; the paper uses 0.1 and 14."
            )

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        mean_direction = unit_vector(parameters)
        # Equal to tf.norm, but with a gradient at 0.
        norm = tf.reduce_sum(parameters * mean_direction, axis=-1)
        dtype = parameters.dtype
        direction = VonMisesFisher(
            mean_direction, tf.constant(self.concentration, dtype), self.validate_args
        )
        low = tf.minimum(norm, self.max_norm - self.norm_width)
        width = tf.constant(self.norm_width, dtype)
        return DirectionAndNormDistribution(direction, low, width, self.validate_args)
