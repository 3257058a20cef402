"""The cost of the KL: the mean, with free bits, or the distance to a capacity."""

from typing import Any

import tensorflow as tf

import tfp_vae.kl.annealed as annealed
from tfp_vae.checks import choice

DIMENSION, TOTAL = "dimension", "total"


class KLTarget:
    r"""The cost of a batch of KLs, in nats.

    .. math::

        \text{by default:} \quad & \mathrm{mean}_b \, \mathrm{KL}_b \\
        \text{free bits of each dimension:} \quad
            & \sum_j \max(\mathrm{mean}_b \, \mathrm{KL}_{bj}, \mathrm{free\_bits}) \\
        \text{free bits in total:} \quad
            & \max(\mathrm{mean}_b \, \mathrm{KL}_b, \mathrm{free\_bits}) \\
        \text{a capacity:} \quad
            & |\mathrm{mean}_b \, \mathrm{KL}_b - \mathrm{capacity}|

    A KL below the free bits has no gradient, so that a latent may carry them at no
    cost. A capacity is a target for the KL. The mean inside the maximum is over the
    batch, or the part of it on one replica, as in the paper.

    Reference:
        Kingma et al., Improved variational inference with inverse autoregressive flow,
        2016, appendix C.8; Burgess et al., Understanding disentangling in beta-VAE,
        2018, whose gamma is the `weight` of the KL.

    Args:
        free_bits: Nats that cost nothing: a number, a non-trainable variable or a
            callable without arguments that computes one from variables; `None` for
            none.
        free_bits_per: `"dimension"` or `"total"`.
        capacity: Target of the KL in nats: a number, a non-trainable variable or a
            callable without arguments that computes one from variables; `None` for
            none.

    Raises:
        ValueError: If `free_bits` is not positive, `capacity` is negative, both are
            given, or `free_bits_per` is something else.

    Example:
        >>> target = KLTarget(free_bits=0.5)
        >>> float(target.cost(tf.constant([[0.1, 2.0], [0.3, 4.0]]), tf.ones(2)))
        3.5
    """

    def __init__(
        self,
        free_bits: Any = None,
        free_bits_per: str = DIMENSION,
        capacity: Any = None,
    ) -> None:
        caller = "The KL"
        names = (DIMENSION, TOTAL)
        self.free_bits_per = choice(free_bits_per, names, "free_bits_per", caller)
        if free_bits is not None and capacity is not None:
            raise ValueError(
                f"{caller} expects `free_bits` or `capacity`. Received: both, "
                f"free_bits={free_bits!r} and capacity={capacity!r}. Leave out one."
            )
        self.free_bits = annealed.checked(free_bits, "free_bits", caller, zero=False)
        self.capacity = annealed.checked(capacity, "capacity", caller)

    @property
    def per_dimension(self) -> bool:
        """Whether the cost needs the KL of each dimension."""
        return self.free_bits is not None and self.free_bits_per == DIMENSION

    @property
    def changes_the_cost(self) -> bool:
        """Whether the cost differs from the mean of the KL."""
        return self.free_bits is not None or self.capacity is not None

    def cost(self, kl: tf.Tensor, sample_weight: tf.Tensor) -> tf.Tensor:
        """The cost of a batch.

        Args:
            kl: KLs of shape `batch_shape`, followed by the event's if `per_dimension`.
            sample_weight: Weight of each member, of shape `batch_shape`.

        Returns:
            A scalar; for an empty batch, the cost of a KL of 0.
        """
        sample_weight = tf.cast(sample_weight, kl.dtype)
        batch = list(range(sample_weight.shape.rank))
        spread = tf.reshape(
            sample_weight,
            tf.concat(
                [tf.shape(sample_weight), tf.ones_like(tf.shape(kl)[len(batch) :])], 0
            ),
        )
        total = tf.reduce_sum(kl * spread, axis=batch)
        mean = tf.math.divide_no_nan(total, tf.reduce_sum(sample_weight))
        if self.free_bits is not None:
            free = annealed.current(self.free_bits, "free_bits", "The KL", mean.dtype)
            return tf.reduce_sum(tf.maximum(mean, free))
        if self.capacity is not None:
            capacity = annealed.current(self.capacity, "capacity", "The KL", mean.dtype)
            return tf.abs(mean - capacity)
        return mean

    def check_in_training(self, caller: str) -> None:
        """Checks callables, as `annealed.check_in_training`.

        Args:
            caller: Name of the caller, for the message.
        """
        annealed.check_in_training(self.free_bits, "free_bits", caller)
        annealed.check_in_training(self.capacity, "capacity", caller)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`; `annealed.revive` restores both numbers."""
        return {
            "free_bits": annealed.serialize(self.free_bits),
            "free_bits_per": self.free_bits_per,
            "capacity": annealed.serialize(self.capacity),
        }
