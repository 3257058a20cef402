"""Vectors with a random direction and a uniform norm."""

from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import check_finite_non_negative, host_value
from tfp_vae.distributions.sphere import unit_vector
from tfp_vae.supports import Support, support_of

tfd: Any = tfp.distributions


class DirectionAndNorm(tfd.Distribution):
    r"""A vector z = r u: a direction u, and a norm r that is uniform on an interval.

    .. math::

        p(z) &= p(u) / (\mathrm{width} \; r^{m - 1}) \\
        u &= z / |z|, \quad \mathrm{low} \le r = |z| \le \mathrm{low} + \mathrm{width}

    The factor r^(1-m) comes from the change of variables from (u, r) to z. Draws are
    reparameterised if those of the direction are. The KL from this distribution q to
    another such distribution p, whose interval contains that of q, is

    .. math::

        \mathrm{KL} = \mathrm{KL}(q(u) \,\|\, p(u))
        + \log(\mathrm{width}_p / \mathrm{width}_q)

    It has a closed form if the KL of the directions has one. If the interval of p does
    not contain that of q, the KL is infinite.

    Reference:
        Guu et al., Generating Sentences by Editing Prototypes, 2018.
        https://arxiv.org/abs/1709.08878

    Args:
        direction: A distribution of unit vectors of R^m, such as
            `tfp_vae.distributions.VonMisesFisher` or `tfd.SphericalUniform`.
        low: The smallest norm, at least 0; a scalar or of the direction's batch shape.
        width: The length of the interval of norms, positive; a scalar or of that shape.
        validate_args: Whether values are checked at run time.
        allow_nan_stats: See `tfd.Distribution`.
        name: Name of the distribution.

    Raises:
        ValueError: If `direction` is not a distribution of unit vectors, `low` or
            `width` is negative or not finite, or `width` is 0. Tensors are checked
            only with `validate_args`.

    Example:
        >>> direction = tv.distributions.VonMisesFisher([0.6, 0.8], 50.0)
        >>> q = DirectionAndNorm(direction, 2.0, 0.5)
        >>> p = DirectionAndNorm(tfd.SphericalUniform(2), 0.0, 10.0)
        >>> f"{tfd.kl_divergence(q, p):.2f}"  # 2.37 + log(10 / 0.5)
        '5.37'
        >>> 2.0 <= float(tf.norm(q.sample(seed=1))) <= 2.5
        True
    """

    def __init__(
        self,
        direction: Any,
        low: Any,
        width: Any,
        validate_args: bool = False,
        allow_nan_stats: bool = True,
        name: str = "DirectionAndNorm",
    ) -> None:
        """Checks the direction, and numbers and arrays, but not values of tensors."""
        parameters = dict(locals())
        known = isinstance(direction, tfd.Distribution)
        if not known or support_of(direction) != Support("the unit sphere"):
            raise ValueError(
                f"`{name}` expects `direction` to be a distribution of unit vectors. "
                "Received: "
                f"{direction!r}. Give a `VonMisesFisher`, a `PowerSpherical` or a "
                "`tfd.SphericalUniform`."
            )
        check_finite_non_negative(low, "low", name)
        check_finite_non_negative(width, "width", name)
        numbers = host_value(width)
        if numbers is not None and np.any(numbers == 0):
            raise ValueError(
                f"`{name}` expects `width` to be positive. Received: width={width!r}. "
                "Give the length of the interval of norms."
            )
        dtype = tf.as_dtype(direction.dtype)  # In TFP it may be a string.
        self._direction = direction
        self._low = tf.convert_to_tensor(low, dtype)
        self._width = tf.convert_to_tensor(width, dtype)
        super().__init__(
            dtype=dtype,
            reparameterization_type=direction.reparameterization_type,
            validate_args=validate_args,
            allow_nan_stats=allow_nan_stats,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> Any:
        positive = tfp.util.ParameterProperties(
            default_constraining_bijector_fn=tfp.bijectors.Softplus
        )
        return {
            "direction": tfp.util.BatchedComponentProperties(),
            "low": positive,
            "width": positive,
        }

    @property
    def direction(self) -> Any:
        """The distribution of the direction."""
        return self._direction

    @property
    def low(self) -> tf.Tensor:
        """The smallest norm."""
        return self._low

    @property
    def width(self) -> tf.Tensor:
        """The length of the interval of norms."""
        return self._width

    def _event_shape(self) -> Any:
        return self.direction.event_shape

    def _event_shape_tensor(self) -> Any:
        return self.direction.event_shape_tensor()

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        seeds = tfp.random.split_seed(seed, 2, salt="direction_and_norm")
        shape = tf.concat([[n], self.batch_shape_tensor()], axis=0)
        share = tf.random.stateless_uniform(
            shape, seeds[0], dtype=self.dtype, alg="philox"
        )
        norm = self.low + self.width * share
        direction = tfd.BatchBroadcast(self.direction, self.batch_shape_tensor())
        return direction.sample(n, seed=seeds[1]) * norm[..., tf.newaxis]

    def _log_prob(self, z: Any) -> tf.Tensor:
        norm, high = tf.norm(z, axis=-1), self.low + self.width
        # Rounding may put the norm of a draw just outside the interval.
        slack = 4 * np.finfo(self.dtype.as_numpy_dtype).eps * high
        inside = (norm >= self.low - slack) & (norm <= high + slack)
        freedom = tf.cast(self.event_shape_tensor()[-1] - 1, self.dtype)
        log_volume = tf.math.log(self.width) + freedom * tf.math.log(norm)
        log_prob = self.direction.log_prob(unit_vector(z)) - log_volume
        impossible = tf.constant(float("-inf"), self.dtype)
        log_prob = tf.where(inside, log_prob, impossible)
        return tf.where(tf.math.is_nan(norm + high), norm + high, log_prob)

    def _parameter_control_dependencies(self, is_init: bool) -> list[Any]:
        if not (self.validate_args and is_init):
            return []
        return [
            tf.debugging.assert_non_negative(self.low, "`low` must not be negative."),
            tf.debugging.assert_positive(self.width, "`width` must be positive."),
        ]

    def _mean(self) -> tf.Tensor:
        middle = self.low + self.width / 2
        return self.direction.mean() * middle[..., tf.newaxis]

    def _variance(self) -> tf.Tensor:
        """Var[r] E[u^2] + E[r]^2 Var[u] for each coordinate."""
        spread = self.direction.variance()
        square = spread + tf.square(self.direction.mean())
        middle, of_norm = self.low + self.width / 2, tf.square(self.width) / 12
        of_direction = spread * tf.square(middle)[..., tf.newaxis]
        return square * of_norm[..., tf.newaxis] + of_direction

    def _entropy(self) -> tf.Tensor:
        freedom = tf.cast(self.event_shape_tensor()[-1] - 1, self.dtype)
        middle = self.low + self.width / 2
        # E[log(r / middle)], with r / middle uniform on [1 - h, 1 + h].
        h = self.width / (2 * middle)
        area = tf.math.xlog1py(1 + h, h) - tf.math.xlog1py(1 - h, -h)
        mean_log_norm = tf.math.log(middle) + area / (2 * h) - 1
        of_norm = tf.math.log(self.width) + freedom * mean_log_norm
        return self.direction.entropy() + of_norm


@tfd.RegisterKL(DirectionAndNorm, DirectionAndNorm)
def _kl(a: Any, b: Any, name: str | None = None) -> tf.Tensor:
    with tf.name_scope(name or "kl_direction_and_norm"):
        slack = 1e-6 * (b.low + b.width)
        starts = a.low >= b.low - slack
        inside = starts & (a.low + a.width <= b.low + b.width + slack)
        of_norm = tf.math.log(b.width) - tf.math.log(a.width)
        kl = tfd.kl_divergence(a.direction, b.direction) + of_norm
        return tf.where(inside, kl, tf.constant(float("inf"), a.dtype))
