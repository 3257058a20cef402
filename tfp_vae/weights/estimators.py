"""Flipout and local reparameterization, mixins for layers with a random kernel."""

from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.distribution_tensor import DistributionTensor, unwrap
from tfp_vae.draws import draw, rademacher
from tfp_vae.weights.forward_pass import once
from tfp_vae.weights.linear import LinearWithRandomWeights

tfd = tfp.distributions


class Flipout(LinearWithRandomWeights):
    r"""Outputs with a kernel for each example, decorrelated by random signs.

    .. math::

        y_n = K_\mathrm{loc} x_n + s_n \odot (\Delta K (r_n \odot x_n)), \quad
        \Delta K \sim q(K) - K_\mathrm{loc}

    with signs r_n and s_n for each example, the same for all its steps or places.

    Args:
        *args: As in `LinearWithRandomWeights`.
        **kwargs: As there.
    """

    def build(self, input_shape: Any) -> None:
        """Makes posteriors and priors; the kernel's posterior must be normal."""
        super().build(input_shape)
        check_normal(self)

    def outputs_of_kernel(self, inputs: tf.Tensor) -> tf.Tensor:
        """The outputs without bias and activation."""
        normal = unwrap(self._value("kernel")).distribution
        loc = normal.mean()  # of the whole shape, also if loc or scale broadcasts
        conversion = self._conversions["kernel"]

        def noise() -> DistributionTensor:
            each = tfd.Normal(tf.zeros_like(loc), normal.scale)
            seed = self.next_seed("noise") if conversion.draws else None
            q = tfd.Independent(each, len(loc.shape))
            return DistributionTensor(q, conversion, seed)

        noise = tf.convert_to_tensor(once(self, "noise", noise))
        outputs = self.apply_kernel(inputs, loc)
        channels = self.channel_axis(inputs)
        first = self._signs(inputs, channels, "signs of inputs")
        last = self._signs(outputs, channels, "signs of outputs")
        return outputs + last * self.apply_kernel(inputs * first, noise)

    def _signs(self, tensor: tf.Tensor, channels: int, name: str) -> tf.Tensor:
        """A sign for each example and channel, in a shape that broadcasts."""
        shape = [1] * tensor.shape.rank
        sizes = tf.shape(tensor)
        shape[0] = sizes[0]
        shape[channels] = sizes[channels]
        return tf.cast(rademacher(shape, self.next_seed(name)), tensor.dtype)


class LocalReparameterization(LinearWithRandomWeights):
    r"""Outputs drawn from their own distribution, for each example.

    .. math:: y_n \sim N(K_\mathrm{loc} x_n, \, K_\mathrm{scale}^2 x_n^2)

    Args:
        *args: As in `LinearWithRandomWeights`.
        **kwargs: As there.
    """

    def build(self, input_shape: Any) -> None:
        """Makes posteriors and priors; the kernel's posterior must be normal."""
        super().build(input_shape)
        check_normal(self)

    def outputs_of_kernel(self, inputs: tf.Tensor) -> tf.Tensor:
        """The outputs without bias and activation."""
        normal = unwrap(self._value("kernel")).distribution
        loc = self.apply_kernel(inputs, normal.mean())
        variance = self.apply_kernel(tf.square(inputs), tf.square(normal.stddev()))
        # A row of zeros has variance 0, where the root has an infinite gradient.
        varies = variance > 0
        scale = tf.where(varies, tf.sqrt(tf.where(varies, variance, 1.0)), 0.0)
        conversion = self._conversions["kernel"]
        if conversion.name == "sample":
            return draw(tfd.Normal(loc, scale), seed=self.next_seed("outputs"))[0]
        seed = self.next_seed("outputs") if conversion.draws else None
        return tf.convert_to_tensor(conversion(tfd.Normal(loc, scale), seed))


def check_normal(layer: LinearWithRandomWeights) -> None:
    """Checks that the posterior of a kernel is normal and factorises.

    Args:
        layer: A built layer.

    Raises:
        ValueError: If it is not.

    Example:
        >>> layer = tv.DenseFlipout(2)
        >>> layer.build((None, 3))
        >>> check_normal(layer)
    """
    q = layer.kernel_posterior
    if not (isinstance(q, meta.Independent) and isinstance(q.distribution, tfd.Normal)):
        name = type(layer).__name__
        raise ValueError(
            f"`{name}` expects `kernel_posterior_fn` to make a "
            f"`tfd.Independent(tfd.Normal(...))`. Received: {q}. Use "
            "`DenseReparameterization` or a `Convolution...Reparameterization` for "
            "other posteriors."
        )
