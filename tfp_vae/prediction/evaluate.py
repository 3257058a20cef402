"""The compiled loss and metrics of predictions averaged over draws of the weights."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.distribution_tensor import DistributionTensor
from tfp_vae.engine import data
from tfp_vae.engine.fit import as_numbers
from tfp_vae.engine.loss import FunctionLoss
from tfp_vae.keras_internals import compiled_results, mask_of, set_mask
from tfp_vae.models.data_checks import as_arrays
from tfp_vae.models.pieces import ROWS, rows_at_once
from tfp_vae.prediction.output_draws import lock_of
from tfp_vae.prediction.predictive import predictive, rows_between
from tfp_vae.scores.score import LossAndMetric


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
    r"""The compiled loss and metrics of the mixture over draws of the weights.

    The loss of `NegativeLogLikelihood`, for example, is

    .. math::

        \mathrm{loss} = -\mathrm{mean}_i \,
        \log \frac{1}{S} \sum_{s=1}^S p(y_i \mid x_i, w_s), \quad w_s \sim q(w)

    `evaluate` instead scores one draw of the weights for each batch, and adds the KL.
    This function changes neither the model nor the states of its metrics.

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
        ValueError: If the model is not compiled with one loss, its output has a mask
            inside of the event, or as in `tv.predictive`.

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
            f"{model!r} with the losses {losses}. Compile it with one, such as "
            "`tv.NegativeLogLikelihood()`."
        )
    y, sample_weight = data.read((y, sample_weight), "evaluate_predictive")
    y = data.as_tensor(y)
    if sample_weight is not None:
        sample_weight = data.as_tensor(sample_weight)
    mixture = predictive(model, x, num_samples, seed, batch_size, verbose)
    p = DistributionTensor(mixture, "mean")
    mask = _mask(model, x, batch_size)
    if mask is not None and mask.shape.rank > mixture.batch_shape.rank:
        raise ValueError(
            "`evaluate_predictive` expects a mask of members of the batch, of shape "
            f"{tuple(mixture.batch_shape)}. Received: one of shape "
            f"{tuple(mask.shape)}, inside of the event. Let the last layer output a "
            "distribution for each step."
        )
    set_mask(p, mask)
    # Another thread may be training the model, and using its metrics.
    with keras.StatelessScope():
        model.reset_metrics()
        model.compute_metrics(x, y, p, sample_weight)
        found = compiled_results(model)
    loss = _loss_of(losses[0], y, p, sample_weight)
    return {"loss": float(loss), **as_numbers(found)}


def _mask(model: Any, x: Any, batch_size: int | None) -> Any:
    """Keras' mask of the output, which is that of every draw, or `None`."""
    x, _ = as_arrays(x, None, "evaluate_predictive")
    rows = batch_size or rows_at_once(model, ROWS)
    length, found = data.leaves_of(x)[0].shape[0], []
    for start in range(0, length, rows):
        piece = rows_between(x, start, min(start + rows, length))
        with lock_of(model), keras.StatelessScope():  # The model keeps its seeds.
            mask = mask_of(model(piece))
        if mask is None:
            return None
        found.append(mask)
    return tf.concat(found, axis=0)


def _loss_of(loss: Any, y: tf.Tensor, p: DistributionTensor, weight: Any) -> tf.Tensor:
    if isinstance(loss, LossAndMetric):
        # A copy, since the seeds of the loss belong to training.
        score = type(loss).from_config(loss.get_config())
        return score.loss(y, p, weight, differentiable=False)
    if isinstance(loss, keras.losses.Loss):
        return loss(y, p, weight)
    fn = keras.losses.get(loss)
    of_keras = str(getattr(fn, "__module__", "")).split(".")[0] == "keras"
    return FunctionLoss(fn)(y, tf.convert_to_tensor(p) if of_keras else p, weight)
