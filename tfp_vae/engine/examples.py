"""The number of training examples, by which some layers divide a term of the loss.

    loss = (1/N) [sum_i w_i loss_i + c],    a step: mean over the batch + c / N

The term c belongs to the whole training set, such as the KL of weights. A layer that
adds one has an attribute `divides_by_examples`, reads `num_examples` of the outermost
model, and marks what it adds by `keras_internals.per_example`.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from tfp_vae.keras_internals import mask_of, nested_layers

_MEAN = "sum_over_batch_size"


def dividing_layers(model: Any, divides: bool = True) -> list[Any]:
    """The layers of a model that add a term of the whole training set.

    Args:
        model: A Keras model.
        divides: Whether they divide it by the number of examples; False for those that
            have a factor of their own.

    Returns:
        A list.

    Example:
        >>> model = keras.Sequential([tv.DenseFlipout(2), keras.layers.Dense(2)])
        >>> len(dividing_layers(model)), len(dividing_layers(model, divides=False))
        (1, 0)
    """
    return [
        layer
        for layer in nested_layers(model)
        if getattr(layer, "divides_by_examples", None) is divides
    ]


def check_examples(model: Any, number: int, rows: int, caller: str) -> None:
    """Checks the number of examples that `compile` was given.

    Args:
        model: A Keras model.
        number: The argument `num_examples` of `compile`.
        rows: Rows of the training data.
        caller: Name of the method, for the message.

    Raises:
        ValueError: If there are more rows.

    Example:
        >>> check_examples(keras.Sequential(), 70, 70, "fit")
    """
    if number < rows:
        raise ValueError(
            f"`{caller}` expects `num_examples` of `compile` to count all training "
            f"examples. Received: num_examples={number}, but {rows} rows. Leave it out "
            "for arrays."
        )


def check_losses(losses: Any, caller: str) -> None:
    """Checks that losses are means over the batch, to which c / N can be added.

    Args:
        losses: Argument of `compile`.
        caller: Name of the method, for the message.

    Raises:
        ValueError: If a loss is reduced in another way.

    Example:
        >>> check_losses(keras.losses.MeanSquaredError(), "fit")
    """
    for loss in keras.tree.flatten(losses):
        reduction = getattr(loss, "reduction", _MEAN)
        if reduction != _MEAN:
            raise ValueError(
                f"`{caller}` expects losses that are means over the batch, since the "
                "KL of the weights is divided by the number of examples. Received: "
                f"{type(loss).__name__} with reduction={reduction!r}. Leave the "
                "reduction out, or give the layers a weight of their own."
            )


def terms_per_example(y_pred: Any) -> Any:
    """The number of terms of the loss that Keras averages for each example.

    A likelihood for each step of a sequence has batch shape `(n, steps)`. Keras divides
    the sum over all by n * steps, or by the number of steps that are not masked.

    Args:
        y_pred: The model's output: tensors, or distributions, and structures of them.

    Returns:
        A number or a scalar tensor.

    Raises:
        ValueError: If outputs have different numbers.

    Example:
        >>> terms_per_example(tf.zeros([5, 7, 2])), terms_per_example(tf.zeros([5, 2]))
        (7, 1)
    """
    found = [_terms(output) for output in keras.tree.flatten(y_pred)]
    numbers = {number for number in found if isinstance(number, int)}
    if len(numbers) > 1:
        raise ValueError(
            "The KL of the weights expects outputs with one number of steps, since it "
            f"is divided by it. Received: outputs with {sorted(numbers)} terms of the "
            "loss for each example. Give the layers a weight of their own."
        )
    return found[0] if found else 1


def _terms(output: Any) -> Any:
    mask = mask_of(output)
    is_distribution = hasattr(output, "batch_shape")
    shape = output.batch_shape if is_distribution else output.shape[:-1]
    if mask is not None and mask.shape.rank == shape.rank and shape.rank > 1:
        rows = tf.cast(tf.shape(mask)[0], tf.float32)
        return tf.reduce_sum(tf.cast(mask, tf.float32)) / rows
    if shape[1:].is_fully_defined():
        return math.prod(shape[1:])
    sizes = output.batch_shape_tensor() if is_distribution else tf.shape(output)[:-1]
    return tf.reduce_prod(sizes[1:])
