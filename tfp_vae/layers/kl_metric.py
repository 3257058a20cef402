"""The KL in the history of `fit`: each layer's own, and the model's total."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


class KLMetric(keras.metrics.Mean):
    """Mean KL per example over an epoch, shown as `kl` by `fit`.

    Where a compiled model has several KL layers, each shows its own as
    `<layer name>_kl`, and `kl` is their sum.

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
        # A function and not the list of peers: Keras walks lists when it saves.
        self._total: Callable[[], tf.Tensor] | None = None

    def result(self) -> Any:
        """The mean, or a dictionary of the own mean and the model's total."""
        own = super().result()
        if self._total is None:
            return own
        return {self.name: own, "kl": self._total()}

    def meet_peers(self, layer: keras.layers.Layer) -> None:
        """Finds the other KL layers of the compiled model that is being called.

        Args:
            layer: The layer whose call is under way.
        """
        # Keras tells a layer nothing about its model but through this private call
        # context; `test_kl_layers_in_one_model_share_a_total` notices if it goes.
        model = layer._get_call_context().entry_layer
        if not getattr(model, "compiled", False):
            return
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
