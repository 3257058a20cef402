"""Exports predictions averaged over random weights as a SavedModel."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.checks import boolean, file_path, integer, optional_seed, real_number
from tfp_vae.draws import fold_in
from tfp_vae.engine import data
from tfp_vae.models.export import input_specs, new_seed
from tfp_vae.prediction.output_draws import OutputDraws
from tfp_vae.prediction.predictive import (
    checked_models,
    equal_weights,
    numbers_of_draws,
    prepare,
)
from tfp_vae.prediction.predictive_distribution import mixture_of
from tfp_vae.prediction.stacked import Draw, can_be_stacked, check_shapes

_LEVELS = (0.05, 0.5, 0.95)
_CALLER = "export_predictive"


def export_predictive(
    model: Any,
    filepath: Any,
    num_samples: int | None = None,
    quantiles: Sequence[float] | None = None,
    seed: int | None = None,
    training: bool = False,
    input_signature: Any = None,
    verbose: Any = None,
) -> None:
    """Writes `predictive` as a SavedModel that TensorFlow alone serves.

    The endpoint `serve` takes x and returns a dictionary with those of the following
    that the distribution has, each with one row for each row of x:

    - `mean`, `stddev`, `epistemic_stddev`, `aleatoric_stddev`;
    - `quantiles` of each entry, of shape `(n, len(quantiles), ...)`;
    - of classes `probs`, and the entropies `entropy`, `epistemic_entropy` and
      `aleatoric_entropy`, in nats.

    Args:
        model: As in `predictive`.
        filepath: Directory to write to.
        num_samples: As in `predictive`: the draws of the weights in each request.
        quantiles: Levels of the quantiles; by default 0.05, 0.5 and 0.95, but none for
            classes, or for a distribution without quantiles.
        seed: Integer for the same draws of the weights in every request; by default
            each request draws them anew.
        training: As in `predictive`.
        input_signature: Structure of `tf.TensorSpec` of x; by default that of the
            model's input.
        verbose: Whether to print the endpoint.

    Raises:
        ValueError: As in `predictive`; if a level is not between 0 and 1; if there are
            levels but no quantiles; or if the shape of x is not known.

    Example:
        >>> import tempfile
        >>> models = [
        ...     keras.Sequential([
        ...         keras.Input((3,)), keras.layers.Dense(2), tv.IndependentNormal(1)])
        ...     for _ in range(5)]
        >>> with tempfile.TemporaryDirectory() as path:
        ...     tv.export_predictive(models, path)
        ...     served = tf.saved_model.load(path)
        ...     answer = served.serve(tf.ones([4, 3]))
        >>> answer["epistemic_stddev"].shape, answer["quantiles"].shape
        (TensorShape([4, 1]), TensorShape([4, 3, 1]))
    """
    models = checked_models(model, _CALLER)
    filepath = file_path(filepath, "filepath", _CALLER)
    if num_samples is not None:
        num_samples = integer(num_samples, "num_samples", _CALLER)
    levels = None if quantiles is None else _checked_levels(quantiles)
    seed = optional_seed(seed, _CALLER, largest=2**31 - 1)
    training = boolean(training, "training", _CALLER)
    specs = input_signature
    if specs is None:
        specs = input_specs(models[0], _CALLER)
    few = data.mapped(
        lambda spec: tf.zeros([2, *(n or 1 for n in spec.shape[1:])], spec.dtype), specs
    )
    base = tf.constant([0, 1], tf.int32)
    prepared = [prepare(one, few, few, base, training) for one in models]
    counts = numbers_of_draws(
        [is_random for _, is_random in prepared], num_samples, _CALLER
    )
    sources = [draws for draws, _ in prepared]
    tried = [
        _tried(draws, few, fold_in(base, i), count)
        for i, (draws, count) in enumerate(zip(sources, counts, strict=True))
    ]
    check_shapes([own[0].distribution for own in tried], _CALLER)
    together, weights = can_be_stacked(tried), equal_weights(counts)

    def serve(x: Any) -> dict[str, tf.Tensor]:
        key = new_seed() if seed is None else tf.constant([seed, 0], tf.int32)
        pairs = list(zip(sources, counts, strict=True))
        if together:
            parts = [
                _in_a_loop(draws, x, fold_in(key, i), count)
                for i, (draws, count) in enumerate(pairs)
            ]
            components = _joined(parts, sources[0], tried[0][0].distribution)
        else:
            components = [
                draws.output(x, fold_in(key, i), number, 0)
                for i, (draws, count) in enumerate(pairs)
                for number in range(count)
            ]
        return _served(mixture_of(components, weights), levels)

    archive = keras.export.ExportArchive()
    for one in models:
        archive.track(one)
    plain = tf.autograph.experimental.do_not_convert(serve)
    archive.add_endpoint("serve", plain, [specs])
    archive.write_out(filepath, verbose=bool(verbose))


def _checked_levels(quantiles: Any) -> tuple[float, ...]:
    """Levels of quantiles as numbers."""
    several = isinstance(quantiles, list | tuple | np.ndarray)
    levels = [real_number(level) for level in (quantiles if several else [])]
    if not levels or not all(0 < level < 1 for level in levels):
        raise ValueError(
            f"`{_CALLER}` expects `quantiles` to be a list of numbers between 0 and 1. "
            f"Received: quantiles={quantiles!r}. Give levels such as (0.05, 0.95)."
        )
    return tuple(levels)


def _tried(draws: OutputDraws, x: Any, seed: Any, count: int) -> list[Draw]:
    """Up to two draws for a few rows."""
    numbers = range(min(count, 2))
    if draws.can_take_apart:
        return [Draw(draws, draws.tensors(x, seed, i, 0)) for i in numbers]
    return [Draw(draws, output=draws.output(x, seed, i, 0)) for i in numbers]


def _in_a_loop(draws: OutputDraws, x: Any, seed: Any, count: int) -> list[tf.Tensor]:
    """The tensors of the output, with the draws on the first axis."""
    specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in draws.structure]
    return tf.map_fn(
        lambda number: tf.nest.flatten(
            draws.output(x, seed, number, 0), expand_composites=True
        ),
        tf.range(count),
        fn_output_signature=specs,
    )


def _joined(parts: Any, source: OutputDraws, like: Any) -> Any:
    """One distribution with the draws on the last axis of its batch."""
    axis = like.batch_shape.rank
    found = []
    for is_batched, tensors in zip(
        source.is_batched, zip(*parts, strict=True), strict=True
    ):
        if is_batched:
            tensor = tf.concat(tensors, axis=0)
            order = [*range(1, axis + 1), 0, *range(axis + 1, tensor.shape.rank)]
            found.append(tf.transpose(tensor, order))
        else:
            found.append(tensors[0][0])
    return source.rebuilt(found)


def _served(p: Any, levels: Any) -> dict[str, tf.Tensor]:
    """What the endpoint returns."""
    names = ("mean", "stddev", "epistemic_stddev", "aleatoric_stddev")
    entropies = ("entropy", "epistemic_entropy", "aleatoric_entropy")
    found = {}
    for name in (*names, *entropies):
        with contextlib.suppress(NotImplementedError):
            found[name] = getattr(p, name)()
    if "entropy" in found:
        found["probs"] = p.probs_parameter()
    if "entropy" not in found or levels is not None:
        try:
            quantiles = p.quantile(_LEVELS if levels is None else levels)
            order = [1, 0, *range(2, quantiles.shape.rank)]
            found["quantiles"] = tf.transpose(quantiles, order)
        except ValueError:
            if levels is not None:
                raise
    return found
