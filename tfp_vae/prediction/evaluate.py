"""The compiled loss and metrics of predictions averaged over draws of the weights."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.distribution_tensor import DistributionTensor
from tfp_vae.engine import data
from tfp_vae.prediction.predictive import predictive


def evaluate_predictive(
    model: Any,
    x: Any,
    y: Any,
    sample_weight: Any = None,
    num_samples: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    verbose: Any = "auto",
) -> dict[str, float]:
    """The compiled loss and metrics of the mixture over draws of the weights.

        loss = -mean_i log (1/S) sum_s p(y_i | x_i, w[s]),    w[s] ~ q(w)

    where `evaluate` scores one draw of the weights for each batch, and adds the KL. The
    model stays as it is, the states of its metrics too.

    Args:
        model: A compiled Keras model whose output is a distribution.
        x: Arrays of shape `(n, ...)`, or a structure of them.
        y: Targets, an array.
        sample_weight: Weights of the rows, or `None`.
        num_samples: As in `tv.predictive`.
        seed: As there.
        batch_size: As there.
        verbose: As there.

    Returns:
        A dictionary with `loss`, without the KL of the weights, and the metrics that
        `compile` was given.

    Raises:
        ValueError: If the model is not compiled with one loss, or as in
            `tv.predictive`.

    Example:
        >>> model = tv.Sequential([
        ...     keras.Input((3,)), tv.DenseFlipout(2), tv.IndependentNormal(1)])
        >>> model.compile("adam", tv.NegativeLogLikelihood(), metrics=[tv.CRPS()])
        >>> sorted(tv.evaluate_predictive(model, np.ones([8, 3]), np.ones([8, 1])))
        ['crps', 'loss']
    """
    losses = keras.tree.flatten(getattr(model, "loss", None))
    if not getattr(model, "compiled", False) or len(losses) != 1 or losses[0] is None:
        raise ValueError(
            "`evaluate_predictive` expects a model compiled with one loss. Received: "
            f"{model!r} with the losses {losses}. Call `compile` first."
        )
    loss = keras.losses.get(losses[0])
    y, sample_weight = data.read((y, sample_weight), "evaluate_predictive")
    y = data.as_tensor(y)
    if sample_weight is not None:
        sample_weight = data.as_tensor(sample_weight)
    mixture = predictive(model, x, num_samples, seed, batch_size, verbose)
    p = DistributionTensor(mixture, "mean")
    # Another thread may be training the model, and using its metrics.
    states = [(v, tf.zeros_like(v)) for v in model.metrics_variables]
    with keras.StatelessScope(states):
        found = model.compute_metrics(x, y, p, sample_weight)
    own = {"loss", "kl", "weights_kl"}
    metrics = {name: float(v) for name, v in found.items() if name not in own}
    return {"loss": float(loss(y, p, sample_weight)), **metrics}
