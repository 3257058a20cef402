"""The number of training examples, by which some terms of the loss are divided.

    loss = (1/N) [sum_i w_i loss_i + c],    a step: mean over the batch + c / N

The term c belongs to the whole training set, such as the KL of weights. The layer that
adds it marks it by `keras_internals.marked_as_of_training_set`, and has an attribute
`divides_by_examples`.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfp_vae.keras_internals import mask_of, nested_layers

_MEAN = "sum_over_batch_size"
_OWN_FACTOR = (
    "give each layer its own factor of the KL: `kl_weight` or `kernel_divergence_fn`, "
    "whichever it has."
)
_COUNTED: Any = contextvars.ContextVar("tfp_vae_counted_terms", default=None)


def layers_with_kl(model: Any, divided: bool = True) -> list[Any]:
    """The layers of a model that add a KL of random weights to the loss.

    Args:
        model: A Keras model.
        divided: True for layers whose KL, or a part of it, is divided by the number of
            examples, False for those with a factor or a function of the user for all.

    Returns:
        A list.

    Example:
        >>> model = keras.Sequential([tv.DenseFlipout(2), keras.layers.Dense(2)])
        >>> len(layers_with_kl(model)), len(layers_with_kl(model, divided=False))
        (1, 0)
    """
    return [
        layer
        for layer in nested_layers(model)
        if getattr(layer, "divides_by_examples", None) is divided
    ]


def check_examples(number: int, rows: int, caller: str) -> None:
    """Checks the number of examples that `compile` was given.

    Args:
        number: The argument `num_examples` of `compile`.
        rows: Rows of the training data.
        caller: Name of the method, for the message.

    Raises:
        ValueError: If there are more rows.

    Example:
        >>> check_examples(70, 70, "fit")
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
                "KL of random weights is divided by the number of examples. Received: "
                f"{type(loss).__name__} with reduction={reduction!r}. Leave out "
                f"`reduction`, or {_OWN_FACTOR}"
            )


@contextlib.contextmanager
def counting_terms(y_pred: Any, losses: Any) -> Iterator[None]:
    """Context of `compute_loss`, in which losses report what they average over.

    Args:
        y_pred: The model's output.
        losses: The argument of `compile`.

    Example:
        >>> with counting_terms(tf.zeros([5, 7, 2]), "mse"):
        ...     terms_per_example()
        7
    """
    token = _COUNTED.set((y_pred, losses, []))
    try:
        yield
    finally:
        _COUNTED.reset(token)


def report_terms(values: Any, mask: Any = None, is_joint: bool = False) -> None:
    """Says what a loss averages over; called by losses of this package.

    Args:
        values: The losses before the reduction, with the examples on the first axis.
        mask: A Keras mask of them, or `None`.
        is_joint: Whether they are of all examples together.

    Example:
        >>> report_terms(tf.zeros([5]))
    """
    counted = _COUNTED.get()
    if counted is not None:
        counted[2].append(None if is_joint else _terms(values.shape, values, mask))


def terms_per_example() -> Any:
    """The number of terms of the loss that Keras averages for each example.

    A likelihood for each step of a sequence has batch shape `(n, steps)`. Keras divides
    the sum over all by n * steps, or by the number of steps that are not masked.

    Returns:
        A number or a scalar tensor, 1 outside of `counting_terms`.

    Raises:
        ValueError: If losses have different static numbers, or a loss is joint over all
            examples. Losses of Keras beside one of this package are not compared.

    Example:
        >>> terms_per_example()
        1
    """
    counted = _COUNTED.get()
    if counted is None:
        return 1
    y_pred, losses, found = counted
    if not found:  # losses of Keras, which average over all axes but the last
        found = [
            _terms(output.shape[:-1], output, mask_of(output), is_output=True)
            for output in _with_loss(y_pred, losses)
        ]
    if None in found:
        raise ValueError(
            "Layers with random weights expect a loss with a value for each example, "
            "since their KL is divided by the number of examples. Received: one joint "
            "distribution of all examples, such as a Gaussian process. Use no random "
            f"weights, or {_OWN_FACTOR}"
        )
    numbers = {number for number in found if isinstance(number, int)}
    if len(numbers) > 1:
        raise ValueError(
            "Layers with random weights expect all losses to average over the same "
            "number of terms for each example, since their KL is divided by it. "
            f"Received: losses with {sorted(numbers)} terms. Make these equal, or "
            f"{_OWN_FACTOR}"
        )
    return found[0] if found else 1


def _with_loss(y_pred: Any, losses: Any) -> list[Any]:
    """The outputs that have a loss."""
    if losses is None or y_pred is None:
        return []
    if isinstance(losses, dict) and isinstance(y_pred, dict):
        return [y_pred[name] for name in losses if losses[name] is not None]
    outputs = keras.tree.flatten(y_pred)
    if isinstance(losses, list | tuple) and len(losses) == len(outputs):
        pairs = zip(losses, outputs, strict=True)
        return [output for loss, output in pairs if loss is not None]
    return outputs


def _terms(shape: Any, values: Any, mask: Any, is_output: bool = False) -> Any:
    """The number of losses for each example, if all losses together have `shape`.

    `values` are the losses, or with `is_output` the output, which has one more axis.
    """
    if mask is not None and mask.shape.rank == shape.rank and (shape.rank or 0) > 1:
        valid = tf.reduce_sum(tf.cast(mask, tf.float32))
        return tf.maximum(valid, 1.0) / tf.cast(tf.shape(mask)[0], tf.float32)
    if shape[1:].is_fully_defined():
        return math.prod(shape[1:])
    sizes = tf.shape(values)
    return tf.reduce_prod(sizes[1:-1] if is_output else sizes[1:])
