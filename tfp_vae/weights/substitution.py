"""Calls a layer with other values in place of its variables."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.keras_internals import nested_layers


def call_with(
    layer: Any, values: list[tuple[Any, Any]], caller: Any, *args: Any, **kwargs: Any
) -> Any:
    """Calls a layer with some of its variables replaced by tensors.

    The variables keep their values. Losses that the layer adds become those of the
    caller. Changes that the call makes to other state, such as moving averages, seeds
    and metrics, are kept.

    Args:
        layer: A Keras layer or model.
        values: Pairs of a variable and the tensor in its place.
        caller: The layer that is being called, and gets the losses.
        *args: Arguments of the layer.
        **kwargs: Keyword arguments of the layer.

    Returns:
        What the layer returns.

    Example:
        >>> dense = keras.layers.Dense(1)
        >>> dense.build((None, 2))
        >>> values = [(dense.kernel, tf.ones([2, 1]))]
        >>> call_with(dense, values, keras.layers.Layer(), tf.ones([1, 2])).numpy()
        array([[2.]], dtype=float32)
    """
    replaced = {id(variable) for variable, _ in values}
    state = {
        id(variable): variable
        for inner in nested_layers(layer)
        for variable in [*inner.variables, *inner.metrics_variables]
        if id(variable) not in replaced
    }
    # An outer scope may hold other values of the state, which this scope would hide.
    given = [(v, tf.cast(v.value, v.dtype)) for v in state.values()]
    with keras.StatelessScope([*values, *given], collect_losses=True) as scope:
        before = {key: scope.get_current_value(v) for key, v in state.items()}
        outputs = layer(*args, **kwargs)
    for loss in scope.losses:
        caller.add_loss(loss)
    for key, variable in state.items():
        value = scope.get_current_value(variable)
        if value is not None and value is not before[key]:
            variable.assign(value)
    return outputs
