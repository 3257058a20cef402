"""One batch on its way through a VAE: the draws, the laws, the weights."""

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfp_vae.distribution_tensor import DistributionTensor
from tfp_vae.objectives import GradientScale
from tfp_vae.statistics import default_statistic


class Pass(NamedTuple):
    """A batch on its way through a VAE, with k draws for each example.

    Args:
        likelihood: p(x | z), of batch shape `(k * batch,)`.
        mask: Keras' mask of the decoder's output, or `None`.
        posterior: q(z | x).
        prior: p(z).
        draws: Latents of shape `(k, batch, *event_shape)`.
        log_posterior: log q(z | x) where the draw knew it, else `None`.
        scale: What the draws went through.
    """

    likelihood: Any
    mask: Any
    posterior: Any
    prior: Any
    draws: tf.Tensor
    log_posterior: Any
    scale: GradientScale


class PassTensor(DistributionTensor):
    """p(x | z) as the output of a model, with the pass that it came from, if any.

    As a tensor it is the mean, or the mode of a law without one, whatever the decoder's
    layer converts to.

    Args:
        likelihood: p(x | z).
        vae_pass: What the objective needs, inside a step.

    Example:
        >>> p = PassTensor(tfd.Bernoulli(logits=[0.0]))
        >>> p.numpy(), p.vae_pass
        (array([0.5], dtype=float32), None)
    """

    def __init__(self, likelihood: Any, vae_pass: Pass | None = None) -> None:
        super().__init__(likelihood, default_statistic(likelihood))
        self.vae_pass = vae_pass


def tiled(values: Any, count: int) -> Any:
    """Repeats a batch for each draw, in the order of folded draws.

    Args:
        values: Tensor, structure of tensors, or `None`.
        count: Number of draws.

    Returns:
        The same of `count` times the length.

    Example:
        >>> tiled(tf.constant([1, 2]), 2).numpy()
        array([1, 2, 1, 2], dtype=int32)
    """
    if values is None or count == 1:
        return values

    def tile(value: Any) -> tf.Tensor:
        value = tf.convert_to_tensor(value)
        return tf.tile(value, [count] + [1] * (value.shape.rank - 1))

    return keras.tree.map_structure(tile, values)


def split_weights(sample_weight: Any) -> tuple[Any, Any]:
    """Weights of whole examples, and weights of entries of the likelihood.

    Args:
        sample_weight: Numbers of shape `(batch,)`, `(batch, 1)` or with more axes, or
            `None`.

    Returns:
        Two tensors, of which at least one is `None`.

    Example:
        >>> whole, inside = split_weights(np.ones([5, 1]))
        >>> whole.shape, inside
        (TensorShape([5]), None)
    """
    if sample_weight is None:
        return None, None
    weights = tf.convert_to_tensor(sample_weight)
    if weights.shape.rank == 2 and weights.shape[1] == 1:
        weights = tf.squeeze(weights, axis=1)
    return (weights, None) if weights.shape.rank == 1 else (None, weights)


def spread(weights: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Adds axes of length 1 behind the weights of leading axes.

    Args:
        weights: Numbers for leading axes of a tensor.
        like: The tensor.

    Returns:
        The weights with its rank and dtype.

    Example:
        >>> spread(tf.ones([5]), tf.ones([5, 3])).shape
        TensorShape([5, 1])
    """
    missing = like.shape.rank - weights.shape.rank
    shape = tf.concat([tf.shape(weights), [1] * missing], axis=0)
    return tf.cast(tf.reshape(weights, shape), like.dtype)
