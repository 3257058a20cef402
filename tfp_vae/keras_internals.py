"""Private interfaces of Keras that are called or read.

Each function says why it is needed, and which test fails if Keras changes it. Methods
that override private ones are in `engine/` and `models/training.py`, with their tests.
"""

from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional as Functional
from keras.src.models.model import functional_init_arguments


def called_model(layer: keras.layers.Layer) -> Any:
    """The outermost layer of the current call.

    A layer does not know its model, and the KL layers of a model share a total. If
    Keras changes this, `test_kl_layers_in_one_model_share_a_total` fails.

    Args:
        layer: A layer whose `call` is running.

    Returns:
        The model, or the layer itself if it was called on its own.

    Example:
        >>> layer = tv.StandardNormal(2)
        >>> called_model(layer) is layer
        True
    """
    # `layer._get_call_context()` outside of a call would begin one that never ends.
    context = global_state.get_global_attribute("current_call_ctx")
    return layer if context is None else context.entry_layer


def held_in_this_call() -> dict[Any, Any]:
    """What layers keep until the end of the outermost layer's current call.

    A layer that is called twice in one model has one draw of its weights. Keras makes
    an object for each outermost call, in each thread, which it forgets at the end. If
    Keras changes this, `test_a_layer_called_twice_has_one_draw_and_one_divergence`
    fails.

    Returns:
        A dictionary, empty outside of calls.

    Example:
        >>> held_in_this_call()
        {}
    """
    context = global_state.get_global_attribute("current_call_ctx")
    return {} if context is None else vars(context).setdefault("tfp_vae_held", {})


def nested_layers(layer: keras.layers.Layer) -> list[Any]:
    """A layer and all layers inside it, those of custom layers included.

    Models have a public list of `layers`, other layers do not. If Keras changes this,
    `test_a_kl_layer_inside_a_custom_layer_is_found` fails.

    Args:
        layer: A layer or a model.

    Returns:
        A list that begins with the layer.

    Example:
        >>> len(nested_layers(keras.Sequential([keras.layers.Dense(2)])))
        2
    """
    return list(layer._flatten_layers(include_self=True, recursive=True))


def marked_as_of_training_set(loss: Any) -> Any:
    """Marks a term of the loss that belongs to the whole training set.

    Keras keeps the very tensors that `add_loss` receives. If Keras changes this,
    `test_the_loss_of_a_sequence_counts_the_weights_once` fails.

    Args:
        loss: A scalar, for `add_loss`.

    Returns:
        A copy of the tensor, with the mark.

    Example:
        >>> is_of_training_set(marked_as_of_training_set(tf.constant(1.0)))
        True
    """
    loss = tf.identity(loss)
    loss._tfp_vae_of_training_set = True
    return loss


def is_of_training_set(loss: Any) -> bool:
    """Whether `marked_as_of_training_set` has marked a term of the loss.

    Args:
        loss: A scalar among a model's `losses`.

    Returns:
        True if it has.

    Example:
        >>> is_of_training_set(tf.constant(1.0))
        False
    """
    return getattr(loss, "_tfp_vae_of_training_set", False)


def in_training() -> bool:
    """Whether the current call has `training=True`.

    Keras passes `training` only to layers whose `call` takes it, which regularizers and
    many users' layers do not. If Keras changes this,
    `test_validation_and_answers_leave_training_as_it_is` fails.

    Returns:
        False outside of calls.

    Example:
        >>> in_training()
        False
    """
    context = global_state.get_global_attribute("current_call_ctx")
    return bool(getattr(context, "training", False))


def in_predict() -> bool:
    """Whether Keras is tracing `predict`.

    A layer sees only `training=False`, as in `evaluate`. What differs is the name of
    the function that Keras compiles. If Keras changes this,
    `test_predict_refuses_draws_in_front_of_the_batch` fails.

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


def in_stateless_scope() -> bool:
    """Whether a `keras.StatelessScope` keeps what is assigned to variables.

    Keras has no public name for the scope that is open. If Keras changes this,
    `test_the_first_batch_counts_in_a_subclassed_model` fails.

    Returns:
        True inside of a scope, such as that of Keras' symbolic build.

    Example:
        >>> with keras.StatelessScope():
        ...     in_stateless_scope()
        True
    """
    return global_state.get_global_attribute("stateless_scope") is not None


def is_symbolic_placeholder(tensor: Any) -> bool:
    """Whether a tensor is a placeholder for outputs in Keras' symbolic build.

    Inside a strategy Keras traces the loss once before the first step, on placeholders
    in a scratch graph. If Keras changes this,
    `test_the_symbolic_build_reaches_the_loss` fails.

    Args:
        tensor: The model's output that a loss received.

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

    Keras passes masks to layers, not to losses. If Keras changes this,
    `test_a_mask_made_by_a_masking_layer_reaches_the_loss` fails.

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


def functional_arguments(args: Any, kwargs: Any) -> bool:
    """Whether arguments of `keras.Model` are those of a functional model.

    They decide which class Keras makes, and `tv.Model` must decide alike. The class,
    `Functional`, is private too. If Keras changes this,
    `test_models_of_every_kind_are_made_in_any_order` fails.

    Args:
        args: Positional arguments.
        kwargs: Arguments by keyword.

    Returns:
        True for `(inputs, outputs)` in either form.

    Example:
        >>> functional_arguments((), {"name": "a"})
        False
    """
    return bool(functional_init_arguments(args, kwargs))


def resumed_epoch(model: Any) -> int:
    """The epoch from which `BackupAndRestore` resumes `fit`.

    Keras' callback writes it to a private attribute of the model. If Keras changes
    this, `test_a_resumed_training_goes_on_with_the_same_order_and_noise` fails.

    Args:
        model: A Keras model.

    Returns:
        A number, 0 where nothing was resumed.

    Example:
        >>> resumed_epoch(keras.Sequential())
        0
    """
    return model._initial_epoch or 0


def resume_at(model: Any, epoch: int | None) -> None:
    """Sets the epoch from which `fit` resumes, as `BackupAndRestore` does.

    Keras' loop reads it from a private attribute of the model, where it stays: the next
    `fit` would begin there too. If Keras changes this,
    `test_a_plain_keras_model_resumes_at_the_epoch` fails.

    Args:
        model: A Keras model.
        epoch: A number; `None` for the `initial_epoch` of `fit`.

    Example:
        >>> model = keras.Sequential()
        >>> resume_at(model, 3)
        >>> resumed_epoch(model)
        3
    """
    model._initial_epoch = epoch


def metrics_as_list(model: Any, logs: dict[str, Any]) -> Any:
    """Logs as `evaluate` returns them without `return_dict`.

    Only Keras knows the names of the metrics given to `compile`, and so their order. If
    Keras changes this, `test_evaluate_returns_what_keras_returns` fails.

    Args:
        model: A Keras model.
        logs: Numbers by name.

    Returns:
        A number, or a list of several.

    Example:
        >>> metrics_as_list(keras.Sequential(), {"loss": 1.0})
        1.0
    """
    return model._flatten_metrics_in_order(logs)


def compiled_results(model: Any) -> dict[str, Any]:
    """The results of the metrics that `compile` was given.

    `model.metrics` also has those of layers, and Keras does not tell them apart. If
    Keras changes this, `test_evaluation_has_the_metrics_of_compile_alone` fails.

    Args:
        model: A compiled Keras model.

    Returns:
        A dictionary of tensors by name.

    Example:
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> compiled_results(model)
        {}
    """
    metrics = model._compile_metrics
    return {} if metrics is None else metrics.result()
