"""What Keras tells nobody in public, asked for here and nowhere else.

Each function says why it is needed, and which test notices when Keras changes.
"""

from typing import Any

import keras
import tensorflow as tf


def called_model(layer: keras.layers.Layer) -> Any:
    """The outermost layer of the call that is under way.

    A layer is told nothing about the model it is in, and the KL layers of a model share
    a total. Noticed by `test_kl_layers_in_one_model_share_a_total`.

    Args:
        layer: A layer whose `call` is running.

    Returns:
        The model, or the layer itself where it was called on its own.

    Example:
        >>> layer = tv.StandardNormal(2)
        >>> called_model(layer) is layer
        True
    """
    return layer._get_call_context().entry_layer


def nested_layers(layer: keras.layers.Layer) -> list[Any]:
    """A layer and all layers inside it, those of custom layers included.

    Models tell their `layers`, other layers tell nobody. Noticed by
    `test_a_kl_layer_inside_a_custom_layer_is_found`.

    Args:
        layer: A layer or a model.

    Returns:
        A list that begins with the layer.

    Example:
        >>> len(nested_layers(keras.Sequential([keras.layers.Dense(2)])))
        2
    """
    return list(layer._flatten_layers(include_self=True, recursive=True))


def in_predict() -> bool:
    """Whether Keras is tracing `predict`.

    A layer sees no more than `training=False`, as in `evaluate`; only the name of the
    function that Keras compiles differs. Noticed by
    `test_predict_refuses_draws_in_front_of_the_batch`.

    Returns:
        True inside the compiled `predict`; False elsewhere, and in eager execution.

    Example:
        >>> in_predict()
        False
    """
    names = ("one_step_on_data_distributed", "multi_step_on_data")
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    while graph is not None:
        if getattr(graph, "name", "") in names:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def is_symbolic_placeholder(tensor: Any) -> bool:
    """Whether a tensor stands for a model's output in Keras' symbolic build.

    Inside a strategy Keras traces the loss once before the first step, on placeholders
    in a scratch graph. Noticed by `test_the_symbolic_build_reaches_the_loss`.

    Args:
        tensor: What a loss was given as the model's output.

    Returns:
        True only in that scratch graph; never for an argument of a `tf.function`.

    Example:
        >>> is_symbolic_placeholder(tf.zeros(3))
        False
    """
    if tf.executing_eagerly() or not hasattr(tensor, "graph"):
        return False
    scratch = str(getattr(tensor.graph, "name", "")).startswith("scratch_graph")
    return scratch and tensor.op.type == "Placeholder"


def mask_of(tensor: Any) -> Any:
    """The mask that Keras attached to a layer's output, or `None`.

    Keras passes masks to layers, not to losses. Noticed by
    `test_a_mask_made_by_a_masking_layer_reaches_the_loss`.

    Args:
        tensor: The output of a layer.

    Returns:
        A boolean tensor or `None`.

    Example:
        >>> mask_of(tf.zeros(3)) is None
        True
    """
    return getattr(tensor, "_keras_mask", None)


def set_mask(tensor: Any, mask: Any) -> Any:
    """Attaches a mask, as Keras does after a layer's call.

    Args:
        tensor: The output of a layer, or values for a loss.
        mask: A boolean tensor or `None`.

    Returns:
        The tensor.

    Example:
        >>> mask_of(set_mask(tf.zeros(3), tf.constant([True, False, True]))).shape
        TensorShape([3])
    """
    if mask is not None:
        tensor._keras_mask = mask
    return tensor
