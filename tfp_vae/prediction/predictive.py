"""Predictions averaged over draws of the weights, or over an ensemble."""

import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.checks import boolean, integer, optional_seed
from tfp_vae.draws import fold_in
from tfp_vae.engine import data
from tfp_vae.engine.progress import LongBar
from tfp_vae.keras_internals import nested_layers
from tfp_vae.models.data_checks import as_arrays
from tfp_vae.models.pieces import ROWS, any_length, joined, rows_at_once
from tfp_vae.prediction.output_draws import OutputDraws, differ, lock_of
from tfp_vae.prediction.predictive_distribution import (
    PredictiveDistribution,
    mixture_of,
)
from tfp_vae.prediction.stacked import Draw, check_shapes, components_of

_DEFAULT_SAMPLES = 100
# Rows on which two draws are compared.
_FEW = 8


def predictive(
    model: Any,
    x: Any,
    num_samples: int | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    verbose: Any = "auto",
    training: bool = False,
) -> PredictiveDistribution:
    r"""The posterior predictive distribution: p(y | x, w), averaged over draws of w.

    .. math::

        p(y \mid x) = \frac{1}{S} \sum_{s=1}^S p(y \mid x, w_s), \quad w_s \sim q(w)

    for layers whose weights are draws from a posterior q. For a list of models it is
    their mixture with equal weights, in which each model with random weights is itself
    such a mean. One draw of the weights serves all rows of x.

    With `training=True` layers are called as in training, so that every call of
    `Dropout` leaves out other units (Monte Carlo dropout). Seeds, metrics and moving
    averages of the model stay as they are. Layers that use statistics of the batch,
    such as `BatchNormalization`, are refused unless their `trainable` is False.

    x is read in pieces, and only the parameters of the output are kept: S times as much
    memory as `model(x)` takes.

    Reference:
        Blundell et al., Weight uncertainty in neural networks, 2015.
        https://arxiv.org/abs/1505.05424

        Lakshminarayanan et al., Simple and scalable predictive uncertainty estimation
        using deep ensembles, 2017. https://arxiv.org/abs/1612.01474

        Gal and Ghahramani, Dropout as a Bayesian approximation, 2016.
        https://arxiv.org/abs/1506.02142

    Args:
        model: A Keras model whose output is a distribution, or a list of them.
        x: Arrays of shape `(n, ...)`, a structure of them, or a `tf.data.Dataset` of
            batches of x, or of pairs (x, y).
        num_samples: The number S of draws of the weights, by default 100. In a list
            of models it is that of each model whose weights are random; the others
            count once.
        seed: Integer for the same draws at each call.
        batch_size: The number of rows computed at once; limits the memory.
        verbose: 0 for no progress bar, 1 for one, `"auto"` for one on long runs.
        training: Whether layers are called as in training.

    Returns:
        A `PredictiveDistribution`, a `tfd.Distribution` of batch shape `(n, ...)`.

    Raises:
        ValueError: If an argument is invalid, there are no rows, the output of a model
            is no distribution, a single model gives the same output at each call, or
            the outputs of several models have different shapes.

    Example:
        >>> def network():
        ...     return keras.Sequential([
        ...         keras.Input((3,)), keras.layers.Dense(2), tv.IndependentNormal(1)])
        >>> p = tv.predictive([network() for _ in range(5)], np.ones([4, 3]))
        >>> p.mean().shape, p.quantile([0.05, 0.95]).shape
        (TensorShape([4, 1]), TensorShape([2, 4, 1]))
        >>> tv.predictive(network(), np.ones([4, 3]))
        Traceback (most recent call last):
            ...
        ValueError: `predictive` expects a model whose output differs from call ...
    """
    models = checked_models(model, "predictive")
    if num_samples is not None:
        num_samples = integer(num_samples, "num_samples", "predictive")
    seed = optional_seed(seed, "predictive", largest=2**31 - 1)
    training = boolean(training, "training", "predictive")
    if batch_size is not None:
        batch_size = integer(batch_size, "batch_size", "predictive")
    x, _ = as_arrays(x, None, "predictive")
    few = data.first_rows(x, _FEW)
    # From Python's generator, as Keras' own seeds: `set_random_seed` seeds it.
    number = random.randrange(2**31) if seed is None else seed
    base = tf.constant([number, 0], tf.int32)
    prepared = [prepare(one, x, few, base, training) for one in models]
    counts = numbers_of_draws(
        [is_random for _, is_random in prepared], num_samples, "predictive"
    )
    rows = [
        batch_size or rows_at_once(one, ROWS) if draws.can_take_apart else None
        for one, (draws, _) in zip(models, prepared, strict=True)
    ]
    length = data.leaves_of(x)[0].shape[0]
    calls = [
        count * (1 if size is None else -(-length // size))
        for count, size in zip(counts, rows, strict=True)
    ]
    bar = LongBar(sum(calls), verbose)
    found = [
        _drawn(draws, x, fold_in(base, i), count, size, bar)
        for i, ((draws, _), count, size) in enumerate(
            zip(prepared, counts, rows, strict=True)
        )
    ]
    check_shapes([own[0].distribution for own in found], "predictive")
    return mixture_of(components_of(found), equal_weights(counts))


def checked_models(model: Any, caller: str) -> list[Any]:
    """The models of an ensemble, or one model as a list.

    Args:
        model: What the user gave.
        caller: Name of the caller, for the message.

    Returns:
        A list of different Keras models.

    Raises:
        ValueError: If it is anything else.

    Example:
        >>> len(checked_models(keras.Sequential(), "predictive"))
        1
    """
    models = list(model) if isinstance(model, list | tuple) else [model]
    if not models or not all(isinstance(one, keras.Model) for one in models):
        found = [type(one).__name__ for one in models]
        raise ValueError(
            f"`{caller}` expects a Keras model, or a list of them. Received: "
            f"{found if isinstance(model, list | tuple) else found[0]}. Give a model "
            "that ends with a distribution layer."
        )
    if len({id(one) for one in models}) < len(models):
        raise ValueError(
            f"`{caller}` expects a list of different models. Received: {len(models)} "
            "models, some of them the same object. Train each with another "
            "initialisation; to draw the weights of one model several times, give it "
            "alone, with `num_samples`."
        )
    return models


def numbers_of_draws(
    are_random: list[bool], num_samples: int | None, caller: str
) -> list[int]:
    """How often each model is called.

    Args:
        are_random: Whether the output of each model differs from call to call.
        num_samples: What the user gave.
        caller: Name of the caller, for the message.

    Returns:
        A number for each model.

    Raises:
        ValueError: If there is one model, which is not random, or none is random and
            there is a number of samples.

    Example:
        >>> numbers_of_draws([True, False], None, "predictive")
        [100, 1]
    """
    if are_random == [False]:
        raise ValueError(
            f"`{caller}` expects a model whose output differs from call to call, or "
            "several models. Received: a model without random weights. Use layers such "
            "as `DenseFlipout`, `training=True` if it has `Dropout`, a list of models, "
            "or `model(x)`, which is its whole distribution."
        )
    if num_samples is not None and not any(are_random):
        raise ValueError(
            f"`{caller}` expects no `num_samples` for models without random weights, "
            f"of which each counts once. Received: num_samples={num_samples} and "
            f"{len(are_random)} models. Leave it out."
        )
    samples = _DEFAULT_SAMPLES if num_samples is None else num_samples
    return [samples if is_random else 1 for is_random in are_random]


def prepare(
    model: Any, x: Any, few: Any, seed: Any, training: bool
) -> tuple[OutputDraws, bool]:
    """The compiled function of a model's output, and whether the output is random.

    Args:
        model: A Keras model.
        x: Arrays.
        few: The first rows of them, as tensors.
        seed: Two integers.
        training: Whether layers are called as in training.

    Returns:
        Both; a `tv.Model` keeps them.

    Raises:
        ValueError: If the output is no distribution.

    Example:
        >>> model = tv.Sequential([
        ...     keras.Input((3,)), keras.layers.Dense(2), tv.IndependentNormal(1)])
        >>> x = tf.zeros([5, 3])
        >>> prepare(model, x, x, tf.constant([1, 2]), False)[1]
        False
    """
    if not model.built:
        model(few)
    spec = data.mapped(any_length, x)

    def make() -> tuple[OutputDraws, bool]:
        draws = OutputDraws(model, training)
        is_random = differ(model, draws, few, seed)
        draws.trace(spec)
        return draws, is_random

    functions = getattr(model, "_functions", None)
    if functions is None:
        with lock_of(model):
            return make()
    layers = tuple((id(layer), layer.trainable) for layer in nested_layers(model))
    return functions.cached(("predictive", training, str(spec), layers), make)


def equal_weights(counts: list[int]) -> list[float]:
    """The weight of each draw, where all models count the same.

    Args:
        counts: The number of draws of each model.

    Returns:
        A list.

    Example:
        >>> equal_weights([2, 1])
        [0.25, 0.25, 0.5]
    """
    return [1 / (len(counts) * count) for count in counts for _ in range(count)]


def _drawn(
    draws: OutputDraws, x: Any, seed: Any, count: int, rows: int | None, bar: LongBar
) -> list[Draw]:
    """The output for each draw of the weights."""
    length = data.leaves_of(x)[0].shape[0]
    if rows is None:
        whole, found = data.first_rows(x, length), []
        for i in range(count):
            found.append(Draw(draws, output=draws.output(whole, seed, i, 0)))
            bar.step()
        return found
    parts: list[Any] = [[] for _ in range(count)]
    for j, start in enumerate(range(0, length, rows)):
        piece = rows_between(x, start, min(start + rows, length))
        for i in range(count):
            parts[i].append(draws.tensors(piece, seed, i, j))
            bar.step()
    return [
        Draw(draws, tensors=joined(parts.pop(0), draws.is_batched))
        for _ in range(count)
    ]


def rows_between(x: Any, start: int, stop: int) -> Any:
    """Some rows of arrays, as tensors.

    Args:
        x: Arrays, as `as_arrays` returns them.
        start: The first row.
        stop: The row after the last.

    Returns:
        The same structure.

    Example:
        >>> rows_between(np.arange(5), 1, 3).numpy()
        array([1, 2])
    """
    index = np.arange(start, stop)
    return data.mapped(lambda array: data.rows_of(array, index), x)
