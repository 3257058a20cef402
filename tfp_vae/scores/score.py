"""Scores of a predicted distribution, as Keras metrics and losses."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import integer, optional_seed
from tfp_vae.entries import float_dtype
from tfp_vae.keras_internals import mask_of
from tfp_vae.losses import (
    KerasReduction,
    checked_values,
    distribution_of,
    expanded_to_rank,
    fitted_weight,
    placeholder_loss,
)
from tfp_vae.seeds import Seeds


class Score(keras.metrics.Mean):
    """The weighted mean of a score over all entries seen, as a metric.

    Weights and masks of examples apply to all of their entries. Subclasses define
    `score`.
    """

    # Whether there is one score for each member of the batch, not for each entry.
    of_whole_events = False

    def score(self, distribution: Any, y: tf.Tensor, differentiable: bool) -> tf.Tensor:
        """Scores of the shape of `y`, or of the batch shape.

        Args:
            distribution: A plain `tfd.Distribution`.
            y: Floating-point values of shape `batch_shape + event_shape`.
            differentiable: Whether there must be a gradient.
        """
        raise NotImplementedError

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds a batch.

        Args:
            y_true: Values, of shape `batch_shape + event_shape`.
            y_pred: The distribution that a model outputs.
            sample_weight: Numbers with the shape of leading axes of the values.
        """
        distribution = distribution_of(y_pred, self.name)
        if distribution is None:
            return
        scores, weights = self._scores(
            distribution, y_true, sample_weight, mask_of(y_pred), differentiable=False
        )
        weight = None
        for part in weights.values():
            part = tf.broadcast_to(
                expanded_to_rank(part, scores.shape.rank), tf.shape(scores)
            )
            weight = part if weight is None else weight * part
            # An entry that does not count may have any score.
            scores = tf.where(part == 0, tf.zeros_like(scores), scores)
        if weight is not None:
            weight = tf.reshape(weight, [-1])
        super().update_state(tf.reshape(scores, [-1]), sample_weight=weight)

    def _scores(
        self,
        distribution: Any,
        y_true: Any,
        sample_weight: Any,
        mask: Any,
        differentiable: bool,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Scores, and the weights and the mask that there are."""
        caller = f"`{type(self).__name__}`"
        y = checked_values(distribution, y_true, caller=caller)
        dtype = float_dtype(distribution)
        batch_rank = distribution.batch_shape.rank
        weights = {}
        for name, weight in (("sample_weight", sample_weight), ("mask", mask)):
            if weight is None:
                continue
            weight = tf.cast(tf.convert_to_tensor(weight), dtype)
            weight = fitted_weight(weight, y, batch_rank, name, caller)
            if self.of_whole_events and weight.shape.rank > batch_rank:
                raise ValueError(
                    f"{caller} expects weights and masks of whole examples, of shape "
                    f"{tuple(distribution.batch_shape)}. Received: {name}.shape="
                    f"{tuple(weight.shape)}. Weight examples, or use `CRPS`, which is "
                    "of each entry."
                )
            weights[name] = weight
        y = tf.cast(y, dtype)
        return self.score(distribution, y, differentiable), weights


class LossAndMetric(Score, keras.losses.Loss):
    """A score that is a loss when called, and a metric when updated.

    Keras takes instances of `keras.Loss` in `loss`, and of `keras.Metric` in
    `metrics`; this is both.

    Args:
        num_samples: Number of draws, at least 2.
        seed: Integer, or `None`.
        reduction: As in `keras.losses.Loss`.
        name: Name in the history.
        dtype: Dtype of the metric's state.

    Raises:
        ValueError: If an argument is wrong.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int | None,
        reduction: str | None,
        name: str,
        dtype: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        # Keras checks the reduction, and has nothing else to set for a loss.
        self.reduction = keras.losses.Loss(reduction=reduction).reduction
        caller = type(self).__name__
        self.num_samples = integer(num_samples, "num_samples", caller, minimum=2)
        self.seed = optional_seed(seed, caller)
        self.seeds = Seeds(self.seed)
        # Keras' callbacks with `mode="auto"` read the better direction here.
        self._direction = "down"

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> tf.Tensor:
        """The weighted and reduced loss of a batch."""
        return self.loss(y_true, y_pred, sample_weight, differentiable=True)

    def loss(
        self, y_true: Any, y_pred: Any, sample_weight: Any, differentiable: bool
    ) -> tf.Tensor:
        """The weighted and reduced loss of a batch.

        Args:
            y_true: Values, of shape `batch_shape + event_shape`.
            y_pred: The distribution that a model outputs.
            sample_weight: Numbers with the shape of leading axes of the values, or
                `None`.
            differentiable: Whether there must be a gradient.

        Returns:
            A scalar; a tensor of the batch shape if `reduction` is `None`.
        """
        distribution = distribution_of(y_pred, self.name)
        if distribution is None:
            return placeholder_loss(y_pred, self.reduction)
        scores, weights = self._scores(
            distribution, y_true, sample_weight, mask_of(y_pred), differentiable
        )
        batch_rank = distribution.batch_shape.rank
        whole: dict[str, Any] = {"sample_weight": None, "mask": None}
        for name, weight in weights.items():
            if weight.shape.rank > batch_rank:
                part = expanded_to_rank(weight, scores.shape.rank)
                # An entry that does not count may have any score.
                scores = tf.where(part == 0, tf.zeros_like(scores), scores * part)
            else:
                whole[name] = expanded_to_rank(weight, batch_rank)
        losses = tf.reduce_mean(scores, axis=list(range(batch_rank, scores.shape.rank)))
        weight, mask = (
            part if part is None else tf.broadcast_to(part, tf.shape(losses))
            for part in whole.values()
        )
        mask = mask if mask is None else tf.cast(mask, tf.bool)
        return KerasReduction(self.reduction, losses.dtype.name)(losses, weight, mask)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """The loss of each example, neither weighted nor reduced."""
        distribution = distribution_of(y_pred, self.name)
        scores = self._scores(distribution, y_true, None, None, differentiable=True)[0]
        batch_rank = distribution.batch_shape.rank
        return tf.reduce_mean(scores, axis=list(range(batch_rank, scores.shape.rank)))

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {
            "num_samples": self.num_samples,
            "seed": self.seed,
            "reduction": self.reduction,
            "name": self.name,
            "dtype": self.dtype,
        }
