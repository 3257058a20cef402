"""Central intervals of predicted distributions: their coverage, and a score."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import probability
from tfp_vae.entries import quantile_of_entries
from tfp_vae.scores.score import Score


def central_interval(distribution: Any, level: float) -> tuple[tf.Tensor, tf.Tensor]:
    """The ends of the central interval of each entry:

        F_i^-1((1 - level) / 2),   F_i^-1((1 + level) / 2)

    Args:
        distribution: A `tfd.Distribution`.
        level: The probability of the interval.

    Returns:
        Two tensors of shape `batch_shape + event_shape`.

    Raises:
        ValueError: If the level is not between 0 and 1, or the entries have no known
            distribution function.

    Example:
        >>> import tensorflow_probability as tfp
        >>> low, high = central_interval(tfp.distributions.Uniform(0.0, 1.0), 0.9)
        >>> round(float(low), 4), round(float(high), 4)
        (0.05, 0.95)
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = tf.unstack(quantile_of_entries(distribution, tails), num=2)
    return low, high


def is_inside(low: tf.Tensor, high: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """1 for values inside of their intervals, 0 for others, NaN for what is unknown.

    Args:
        low: Lower ends.
        high: Upper ends.
        y: Values.

    Returns:
        A tensor of the dtype of `y`.

    Example:
        >>> y = tf.constant([0.5, 2.0, np.nan])
        >>> is_inside(tf.zeros(3), tf.ones(3), y).numpy()
        array([ 1.,  0., nan], dtype=float32)
    """
    unknown = tf.math.is_nan(low) | tf.math.is_nan(high) | tf.math.is_nan(y)
    inside = tf.cast((low <= y) & (y <= high), y.dtype)
    return tf.where(unknown, tf.constant(float("nan"), y.dtype), inside)


def score_of_interval(
    low: tf.Tensor, high: tf.Tensor, y: tf.Tensor, level: float
) -> tf.Tensor:
    """The interval score of Gneiting and Raftery, with a = 1 - level:

        (u - l) + 2/a max(l - y, 0) + 2/a max(y - u, 0)

    Args:
        low: Lower ends.
        high: Upper ends.
        y: Values.
        level: The probability of the intervals.

    Returns:
        A tensor of the shape of `y`.

    Example:
        >>> float(score_of_interval(tf.constant(0.0), tf.constant(1.0), 1.5, 0.5))
        3.0
    """
    factor = 2 / (1 - level)
    outside = tf.maximum(low - y, 0) + tf.maximum(y - high, 0)
    return high - low + factor * outside


class _OfAnInterval(Score):
    """A metric of the central interval of a level."""

    prefix = ""

    def __init__(self, level: float, name: str | None, dtype: Any) -> None:
        level = probability(level, "level", type(self).__name__)
        super().__init__(name=name or f"{self.prefix}_{level:g}", dtype=dtype)
        self.level = level

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {"level": self.level, "name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable("tfp_vae")
class Coverage(_OfAnInterval):
    r"""How often the central interval of a prediction contains the target, as a metric.

    .. math::

        \text{mean of } \mathbf{1}\{l_i \le y_i \le u_i\}, \quad
        l_i, u_i = F_i^{-1}\left(\frac{1 \mp \mathrm{level}}{2}\right)

    over the entries of the event and the examples. A calibrated prediction has a
    coverage of `level`; of counts it is at least that.

    Args:
        level: The probability of the interval.
        name: Name in the history; by default one with the level, `coverage_0.9`.
        dtype: Dtype of the metric's state.

    Raises:
        ValueError: If `level` is not between 0 and 1, the shape of the values does not
            fit, or the entries have no known distribution function.

    Example:
        >>> metric = Coverage(0.5)
        >>> metric.update_state([-1.0, 0.0, 0.5, 1.0], tfd.Normal(tf.zeros(4), 1.0))
        >>> float(metric.result())
        0.5
    """

    prefix = "coverage"

    def __init__(
        self, level: float = 0.9, name: str | None = None, dtype: Any = None
    ) -> None:
        super().__init__(level, name, dtype)

    def score(self, distribution: Any, y: tf.Tensor, differentiable: bool) -> tf.Tensor:
        """1 for entries inside of the interval, 0 for others."""
        return is_inside(*central_interval(distribution, self.level), y)


@keras.saving.register_keras_serializable("tfp_vae")
class IntervalScore(_OfAnInterval):
    r"""The interval score of the central interval (l, u), as a metric.

    .. math::

        (u - l) + \frac{2}{a} \max(l - y, 0) + \frac{2}{a} \max(y - u, 0), \quad
        a = 1 - \mathrm{level}

    over the entries of the event and the examples, in the units of y. Proper for the
    two quantiles: narrow intervals are rewarded, misses are punished.

    Reference:
        Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation,
        2007. https://doi.org/10.1198/016214506000001437

    Args:
        level: The probability of the interval.
        name: Name in the history; by default `interval_score_0.9` or so.
        dtype: Dtype of the metric's state.

    Raises:
        ValueError: As in `Coverage`.

    Example:
        >>> metric = IntervalScore(0.5)
        >>> metric.update_state([0.0], tfd.Uniform([0.0], 4.0))
        >>> float(metric.result())  # 2 + 4 * 1
        6.0
    """

    prefix = "interval_score"

    def __init__(
        self, level: float = 0.9, name: str | None = None, dtype: Any = None
    ) -> None:
        super().__init__(level, name, dtype)
        # Keras' callbacks with `mode="auto"` read the better direction here.
        self._direction = "down"

    def score(self, distribution: Any, y: tf.Tensor, differentiable: bool) -> tf.Tensor:
        """The interval score of each entry."""
        low, high = central_interval(distribution, self.level)
        return score_of_interval(low, high, y, self.level)
