"""The energy score: the CRPS of whole vectors."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.draws import draw
from tfp_vae.kl.closed_forms import family_name
from tfp_vae.scores.score import LossAndMetric

tfd: Any = tfp.distributions


def energy_score(
    distribution: Any,
    y: tf.Tensor,
    num_samples: int = 100,
    seed: Any = None,
    differentiable: bool = False,
) -> tf.Tensor:
    """The energy score of each member of the batch, from draws without bias:

        ES(P, y) = E||X - y|| - 1/2 E||X - X'||

    Args:
        distribution: A plain `tfd.Distribution`.
        y: Floating-point values of shape `batch_shape + event_shape`.
        num_samples: Number of draws, at least 2.
        seed: A seed of two integers.
        differentiable: Whether the draws must have a gradient.

    Returns:
        A tensor of the batch shape.

    Raises:
        ValueError: If `differentiable` and draws have no gradient.

    Example:
        >>> point = tfd.VectorDeterministic([[3.0, 4.0]])
        >>> energy_score(point, tf.zeros([1, 2])).numpy()
        array([5.], dtype=float32)
    """
    if differentiable and (
        distribution.reparameterization_type != tfd.FULLY_REPARAMETERIZED
    ):
        raise ValueError(
            "`EnergyScore` as a loss expects draws with a gradient. Received: "
            f"{family_name(distribution)}. Make a mixture with `reparameterize=True`, "
            "or train with `NegativeLogLikelihood` and report `EnergyScore` in "
            "`metrics`."
        )
    draws = tf.cast(draw(distribution, num_samples, seed=seed)[0], y.dtype)
    axes = list(range(-distribution.event_shape.rank, 0))
    distance = tf.reduce_mean(_norm(draws - y, axes), axis=0)

    def of_shift(shift: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(
            _norm(draws - tf.roll(draws, shift, axis=0), axes), axis=0
        )

    # Each pair of different draws, in memory of the size of the draws.
    shifts = tf.range(1, num_samples // 2 + 1)
    pairs = tf.map_fn(of_shift, shifts, fn_output_signature=y.dtype)
    counts = tf.cast(tf.where(2 * shifts == num_samples, 1, 2), y.dtype)
    counts = tf.reshape(counts, [-1, *[1] * (pairs.shape.rank - 1)])
    return distance - 0.5 * tf.reduce_sum(counts * pairs, axis=0) / (num_samples - 1)


def _norm(x: tf.Tensor, axes: list[int]) -> tf.Tensor:
    """Euclidean norm, whose gradient at 0 is 0."""
    largest = tf.stop_gradient(tf.reduce_max(abs(x), axis=axes, keepdims=True))
    scale = tf.where((largest > 0) & tf.math.is_finite(largest), largest, 1)
    square = tf.reduce_sum(tf.square(x / scale), axis=axes)
    zero = square == 0
    root = tf.where(zero, square, tf.sqrt(tf.where(zero, 1.0, square)))
    return root * tf.squeeze(scale, axes) if axes else root * scale


@keras.saving.register_keras_serializable("tfp_vae")
class EnergyScore(LossAndMetric):
    r"""The energy score of whole events, a loss and a metric.

    .. math::

        \mathrm{ES}(P, y) = \mathrm{E}\|X - y\| - \tfrac{1}{2} \mathrm{E}\|X - X'\|

    with X and X' independent draws from P and the Euclidean norm over the event, in the
    units of y, estimated without bias from draws. In one dimension it is the CRPS. It
    is proper for distributions of vectors, dependence of entries included; entries
    should have similar units.

    Reference:
        Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation,
        2007. https://doi.org/10.1198/016214506000001437

    Args:
        num_samples: Number of draws, at least 2.
        seed: Integer for the draws, or `None`.
        reduction: Of the loss, as in `keras.losses.Loss`.
        name: Name in the history.
        dtype: Dtype of the metric's state.

    Call arguments:
        y_true: Values, of shape `batch_shape + event_shape` of the distribution.
        y_pred: The distribution that a model outputs.
        sample_weight: Numbers of shape `(B,)`, or of the batch shape.

    Returns:
        The loss of a batch, a scalar or, if `reduction` is `None`, a tensor of the
        batch shape.

    Raises:
        ValueError: If `y_pred` is not a distribution, the shape of the values or the
            weights does not fit, an argument is wrong, or it is a loss and draws
            have no gradient.

    Example:
        >>> p = tfd.MultivariateNormalDiag(tf.zeros([500, 2]))
        >>> score = EnergyScore(num_samples=10, seed=0)(tf.zeros([500, 2]), p)
        >>> abs(float(score) - (1 - 2**-0.5) * (np.pi / 2) ** 0.5) < 0.1
        True
    """

    of_whole_events = True

    def __init__(
        self,
        num_samples: int = 100,
        seed: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "energy_score",
        dtype: Any = None,
    ) -> None:
        super().__init__(num_samples, seed, reduction, name, dtype)

    def score(self, distribution: Any, y: tf.Tensor, differentiable: bool) -> tf.Tensor:
        """The energy score of each member of the batch."""
        return energy_score(
            distribution, y, self.num_samples, self.seeds.next(), differentiable
        )
