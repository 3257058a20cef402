"""The KL of a model's weights in the history of `fit`."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfp_vae.keras_internals import called_model, in_predict
from tfp_vae.weights.forward_pass import weights_are_fixed


class WeightsKL(keras.metrics.Mean):
    """The KL of all weights, mean over the steps, shown as `weights_kl` by `fit`.

        sum_layers KL(q(w) || p(w))    in nats, not divided by the number of examples

    Each layer with random weights has one. The first of a model shows the total.

    Example:
        >>> metric = WeightsKL()
        >>> metric.update_state(3.0)
        >>> metric.name, float(metric.result())
        ('weights_kl', 3.0)
    """

    def __init__(self) -> None:
        super().__init__(name="weights_kl", dtype="float32")
        # A function, since Keras walks through lists of metrics when it saves.
        self._total: Callable[[], Any] | None = None

    def result(self) -> Any:
        """The mean, the total, or nothing if another metric shows the total."""
        return super().result() if self._total is None else self._total()

    def record(self, layer: keras.layers.Layer, kl: tf.Tensor) -> None:
        """Adds the KL of a step, except in `predict`, `log_prob` and `elbo`.

        Args:
            layer: The layer that is being called.
            kl: The KL of its weights, a scalar.
        """
        if in_predict() or weights_are_fixed():
            return
        model = called_model(layer)
        if getattr(model, "compiled", False):
            _share_total(model)
        self.update_state(kl)


def _share_total(model: Any) -> None:
    """Lets the first of a model's metrics show the total, and the others nothing."""
    # A dictionary, since Keras lists the metrics of nested layers twice.
    metrics = {id(metric): metric for metric in model.metrics}.values()
    peers = [metric for metric in metrics if isinstance(metric, WeightsKL)]
    for i, metric in enumerate(peers):
        # Keras looks for numbers by the names of metrics.
        metric.name, metric._total = f"weights_kl_{i}", dict
    peers[0].name = "weights_kl"
    peers[0]._total = functools.partial(_total, peers) if len(peers) > 1 else None


def _total(metrics: list[WeightsKL]) -> dict[str, Any]:
    means = [keras.metrics.Mean.result(metric) for metric in metrics]
    return {"weights_kl": tf.add_n(means)}
