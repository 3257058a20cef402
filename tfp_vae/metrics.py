"""Optional metrics for `compile`: the log-likelihood, and a VAE's active units."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import boolean, integer, positive_number
from tfp_vae.keras_internals import is_symbolic_placeholder, mask_of
from tfp_vae.latents import mean_of
from tfp_vae.losses import distribution_of, weighted_log_prob


@keras.saving.register_keras_serializable("tfp_vae")
class LogLikelihood(keras.metrics.Mean):
    r"""Mean log-likelihood per example, in nats, as a metric for `compile`.

    .. math::

        \mathrm{metric} =
        \frac{\sum_b \mathrm{weight}_b \log p(y_b \mid x_b)}{\sum_b \mathrm{weight}_b}

    In `weighted_metrics` it uses `sample_weight`. Weights of elements apply inside the
    event, as in `NegativeLogLikelihood`; all examples then count equally.

    Args:
        negative: Report the negative log-likelihood, under the name `nll`.
        name: Name in the history; by default `log_likelihood` or `nll`.
        dtype: Dtype of the metric's state.
        draw_axes: As in `NegativeLogLikelihood`.

    Example:
        >>> metric = LogLikelihood()
        >>> metric.update_state([0.0, 0.0], tfd.Normal([0.0, 0.0], 1.0))
        >>> round(float(metric.result()), 4)
        -0.9189
    """

    def __init__(
        self,
        negative: bool = False,
        name: str | None = None,
        dtype: Any = None,
        draw_axes: int = 0,
    ) -> None:
        negative = boolean(negative, "negative", "LogLikelihood")
        super().__init__(
            name=name or ("nll" if negative else "log_likelihood"), dtype=dtype
        )
        self.negative = negative
        self.draw_axes = integer(draw_axes, "draw_axes", self.name, minimum=0)
        # Keras' callbacks with `mode="auto"` read the better direction here.
        self._direction = "down" if negative else "up"

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch.

        Args:
            y_true: Values, of shape `batch_shape + event_shape`.
            y_pred: The distribution that a model outputs.
            sample_weight: As in `NegativeLogLikelihood`.
        """
        distribution = distribution_of(y_pred, self.name)
        if distribution is None:
            return
        log_prob, weights, mask = weighted_log_prob(
            distribution, y_true, sample_weight, mask_of(y_pred), self.draw_axes
        )
        if mask is not None:
            weights = mask if weights is None else weights * mask
        values = -log_prob if self.negative else log_prob
        super().update_state(values, sample_weight=weights)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {
            "negative": self.negative,
            "name": self.name,
            "dtype": self.dtype,
            "draw_axes": self.draw_axes,
        }


@keras.saving.register_keras_serializable("tfp_vae")
class ActiveUnits(keras.metrics.Metric):
    r"""The number of latent dimensions whose posterior mean varies with the data.

    .. math:: \mathrm{Var}_x(\mathrm{E}_q[z_i \mid x]) > \mathrm{threshold}

    over the examples of an epoch, as a metric for `VAE.compile`::

        vae.compile("adam", metrics=[tv.ActiveUnits()])

    Reference:
        Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, 2016.
        https://arxiv.org/abs/1509.00519

    Args:
        threshold: Variance above which a dimension counts as active.
        name: Name in the history.
        dtype: Ignored; the sums are float64.

    Raises:
        ValueError: If `threshold` is not positive, the model is not a `tv.VAE`, or the
            mean of its posterior has no closed form.

    Example:
        >>> ActiveUnits().name
        'active_units'
    """

    def __init__(
        self, threshold: float = 0.01, name: str = "active_units", dtype: Any = None
    ) -> None:
        super().__init__(name=name, dtype="float32")
        self.threshold = positive_number(threshold, "threshold", "ActiveUnits")
        self._sums: Any = None

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch.

        Args:
            y_true: Ignored.
            y_pred: The output of a `tv.VAE` in a step, with the draws it came from.
            sample_weight: Ignored.
        """
        if is_symbolic_placeholder(y_pred):
            return
        draws = getattr(y_pred, "draws", None)
        if draws is None:
            raise ValueError(
                "`ActiveUnits` expects to be a metric of a `tv.VAE`. Received: the "
                f"output of another model, {type(y_pred).__name__}. Use "
                "`tv.evaluation.active_units(encoder(x))` instead."
            )
        # In float64: the variance is a small difference of sums.
        means = tf.cast(mean_of(draws.posterior, "ActiveUnits"), tf.float64)
        if self._sums is None:
            shapes = {"total": means.shape[1:], "squares": means.shape[1:], "count": ()}
            self._sums = [
                self.add_variable(shape, "zeros", dtype="float64", name=name)
                for name, shape in shapes.items()
            ]
        total, squares, count = self._sums
        total.assign_add(tf.reduce_sum(means, axis=0))
        squares.assign_add(tf.reduce_sum(means**2, axis=0))
        count.assign_add(tf.cast(tf.shape(means)[0], tf.float64))

    def result(self) -> tf.Tensor:
        """The number of active dimensions so far; NaN if a mean was not finite."""
        if self._sums is None:
            return tf.zeros([])
        total, squares, count = self._sums
        mean = tf.math.divide_no_nan(total.value, count.value)
        variance = tf.math.divide_no_nan(squares.value, count.value) - mean**2
        active = tf.cast(variance > self.threshold, tf.float32)
        # NaN where a mean was: such a posterior is no collapsed one.
        return tf.reduce_sum(active + tf.cast(0 * variance, tf.float32))

    def reset_state(self) -> None:
        """Resets the sums."""
        for variable in self._sums or ():
            variable.assign(tf.zeros(variable.shape, variable.dtype))

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {"threshold": self.threshold, "name": self.name}
