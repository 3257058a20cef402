"""Checks data on the host, before a compiled step turns bad values into NaN."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_vae.engine import data
from tfp_vae.layers.distribution_layer import DistributionLayer

_ROWS = 1024


def check_values(values: Any, layer: DistributionLayer) -> None:
    """Checks that values are finite, shaped like draws, and in the layer's support.

    A compiled training step cannot raise an error for a bad value. This function can,
    once, before `fit`. The support is what TFP accepts with `validate_args=True`.

    Args:
        values: Array of shape `(n, *event_shape)`, or a `tf.data.Dataset`, whose first
            batch is checked; if the batch is a pair, its targets are.
        layer: The likelihood, such as `IndependentBernoulli((28, 28, 1))`.

    Raises:
        ValueError: If there are no values, a value is NaN, infinite or outside the
            support, or the shape is not that of a draw.

    Example:
        >>> check_values(np.zeros([5, 3]), tv.IndependentBernoulli(3))
        >>> check_values(np.full([5, 3], 0.5), tv.IndependentBernoulli(3))
        Traceback (most recent call last):
            ...
        ValueError: `check_values` expects values that IndependentBernoulli(...
    """
    if not isinstance(layer, DistributionLayer):
        raise ValueError(
            "`check_values` expects a distribution layer. Received: "
            f"{layer!r} of type {type(layer).__name__}. Give the likelihood, which is "
            "the last layer of the decoder: `decoder.layers[-1]`."
        )
    if isinstance(values, tf.data.Dataset):
        batch = next(iter(values.take(1)), ())
        values = batch[1] if isinstance(batch, tuple) and len(batch) > 1 else batch
        values = values[0] if isinstance(values, tuple) and values else values
    if isinstance(values, dict):
        raise ValueError(
            "`check_values` expects an array, or a dataset of arrays or of pairs. "
            f"Received: a dictionary of {sorted(values)}. Give the entry that the "
            "likelihood describes."
        )
    (values,) = data.read((values,), "check_values")
    values = np.asarray(values.toarray() if hasattr(values, "tocsr") else values)
    caller = layer.description
    if values.size == 0:
        raise data.no_examples("check_values", f"values of shape {values.shape}")
    bad = np.size(values) - np.count_nonzero(np.isfinite(values))
    if bad:
        raise ValueError(
            f"`check_values` expects finite values for {caller}. Received: {bad} NaN "
            f"or infinite of {np.size(values)}. Replace them, and leave them out of "
            "the likelihood with a `sample_weight` of 0."
        )
    if layer.parameters_width is None:
        raise ValueError(
            "`check_values` expects a layer with a known number of parameters. "
            f"Received: {caller}. Use its distribution with validate_args=True."
        )
    if not layer.built:
        layer.build((None, layer.parameters_width))
    event = tuple(layer.distribution_for(_as(values[:1], layer)).event_shape)
    if values.shape[1:] != event:
        raise ValueError(
            f"`check_values` expects values of shape (n, *{event}) for {caller}. "
            f"Received: values.shape={values.shape}. Reshape them, or give the layer "
            "their shape."
        )
    strict = _validating(layer)
    if not _can_draw(strict, values):
        advice = "Transform them, or choose another likelihood."
        rounded = np.round(values)
        # An image that was resized has fractions between its levels.
        if not np.array_equal(values, rounded) and _can_draw(strict, rounded):
            advice = (
                "It describes integers: round them, `np.round(values)`, or choose "
                "another likelihood."
            )
        raise ValueError(
            f"`check_values` expects values that {caller} can draw. Received: values "
            f"from {values.min()} to {values.max()} of dtype {values.dtype}, some of "
            f"them outside its support. {advice}"
        )


def _can_draw(layer: DistributionLayer, values: np.ndarray) -> bool:
    """Whether TFP accepts the values and gives them finite log-probabilities."""
    for start in range(0, len(values), _ROWS):
        chunk = values[start : start + _ROWS]
        try:
            distribution = layer.distribution_for(_as(chunk, layer))
            if _has_fractions(distribution, chunk):
                return False
            log_prob = distribution.log_prob(tf.cast(chunk, distribution.dtype))
        except tf.errors.InvalidArgumentError:
            return False
        if not np.isfinite(log_prob).all():
            return False
    return True


def _has_fractions(distribution: Any, values: np.ndarray) -> bool:
    """Whether a value has a fraction where the distribution, or block, has integers."""
    start = 0
    for block in getattr(distribution, "distributions", []):
        size = block.event_shape.num_elements()
        if _has_fractions(block, values[..., start : start + size]):
            return True
        start += size
    integers = tf.as_dtype(distribution.dtype).is_integer
    return integers and not np.array_equal(values, np.round(values))


def _as(values: np.ndarray, layer: DistributionLayer) -> tf.Tensor:
    return tf.cast(values, layer.compute_dtype)


def _validating(layer: DistributionLayer) -> DistributionLayer:
    """A copy with `validate_args`, which shares variables and inner networks.

    The layer itself, which other threads may call, stays as it is.
    """
    copied = object.__new__(type(layer))
    own: dict[str, Any] = copied.__dict__
    own.update(vars(layer), validate_args=True)
    if "component_layer" in own:
        own["component_layer"] = _validating(own["component_layer"])
    if "layers" in own:
        own["layers"] = [_validating(block) for block in own["layers"]]
    return copied
