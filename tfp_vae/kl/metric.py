"""The KL in the history of `fit`: each layer's own, and the model's total."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfp_vae.keras_internals import called_model, held_in_this_call, in_predict


class KLMetric(keras.metrics.Mean):
    """Mean KL per example over an epoch, shown as `kl` by `fit`.

    The KL that the layer adds to the loss, unweighted. A layer that is called twice in
    one step shows the sum of both KLs. In a compiled model with several KL layers, each
    shows its own as `<layer name>_kl`, and `kl` is the sum over them.

    Args:
        layer_name: Name of the layer that computes the KL.

    Example:
        >>> metric = KLMetric("z")
        >>> metric.update_state([1.0, 3.0])
        >>> metric.name, float(metric.result())
        ('kl', 2.0)
    """

    def __init__(self, layer_name: str) -> None:
        super().__init__(name="kl", dtype="float32")
        self._layer_name = layer_name
        # A function, since Keras walks through lists of metrics when it saves.
        self._total: Callable[[], tf.Tensor] | None = None

    def result(self) -> Any:
        """The mean; with several KL layers, a dictionary of the mean and the total."""
        own = super().result()
        if self._total is None:
            return own
        return {self.name: own, "kl": self._total()}

    def record(
        self, layer: keras.layers.Layer, kl: tf.Tensor, sample_weight: Any
    ) -> None:
        """Adds the KL of a batch, except in `predict`.

        Args:
            layer: The layer that is being called.
            kl: KL of each member of the batch.
            sample_weight: Weights of the same shape: 0 for masked members, else 1.
        """
        if in_predict():
            return
        model = called_model(layer)
        if getattr(model, "compiled", False):
            _share_total(model)
        held = held_in_this_call()
        if (id(self), "record") in held:  # A second call adds KL, but no examples.
            self.total.assign_add(
                tf.cast(tf.reduce_sum(kl * sample_weight), self.dtype)
            )
        else:
            held[id(self), "record"] = True
            self.update_state(kl, sample_weight=sample_weight)


def _share_total(model: keras.Model) -> None:
    """Sets the names of a model's KL metrics, and how each computes the total."""
    # A dictionary, since Keras lists the metrics of nested layers twice.
    metrics = {id(metric): metric for metric in model.metrics}.values()
    peers = [metric for metric in metrics if isinstance(metric, KLMetric)]
    names = [f"{metric._layer_name}_kl" for metric in peers]
    for i, metric in enumerate(peers):
        twin = names[:i].count(names[i])
        alone = len(peers) == 1
        metric.name = "kl" if alone else names[i] + (f"_{twin}" if twin else "")
        metric._total = None if alone else functools.partial(_total, peers)


def _total(metrics: list[KLMetric]) -> tf.Tensor:
    return sum(keras.metrics.Mean.result(metric) for metric in metrics)
