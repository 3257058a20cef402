"""The output of a model for one draw of its weights, as tensors."""

import functools
import threading
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.distribution_tensor import unwrap
from tfp_vae.draws import fold_in
from tfp_vae.keras_internals import nested_layers
from tfp_vae.models.pieces import rebuilt, taken_apart
from tfp_vae.weights.forward_pass import layers_with_random_weights, weights_drawn_with

tfd = tfp.distributions

# Draws that are compared before a model with `Dropout` counts as not random.
_TRIES = 64
# Models of Keras' own classes have no lock.
_LOCK = threading.RLock()


class OutputDraws:
    """Calls a model with a draw of its weights, and leaves the model as it is.

    A seed and the number of a draw determine the weights, whatever the rows are. Other
    random numbers, such as those of `Dropout`, also depend on the number of the piece.
    Nothing that a layer writes in the call is kept: no seed, metric, loss or moving
    average.

    Args:
        model: A Keras model.
        training: Whether layers are called as in training.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((3,)), keras.layers.Dense(2), tv.IndependentNormal(1)])
        >>> draws = OutputDraws(model, training=False)
        >>> seed = tf.constant([1, 2])
        >>> draws.output(np.zeros([5, 3], "float32"), seed, 0, 0).batch_shape
        TensorShape([5])
    """

    def __init__(self, model: Any, training: bool) -> None:
        self._model, self.training = model, training
        self._template: Any = None
        self._is_batched: list[bool] = []
        self._program: Any = None

    def output(self, x: Any, seed: Any, draw: Any, piece: Any) -> Any:
        """The model's output for a draw of the weights.

        Args:
            x: Tensor, or a structure of tensors.
            seed: Two integers.
            draw: Number of the draw.
            piece: Number of the piece of the data.

        Returns:
            A `tfd.Distribution`.

        Raises:
            ValueError: If the output is no distribution of batch shape `(rows, ...)`,
                or a layer's output in training depends on the other rows.
        """
        model = self._model
        seed = fold_in(seed, draw)
        other = fold_in(seed, piece)
        states = [
            (state, tf.cast(fold_in(other, i), state.dtype))
            for i, state in enumerate(_states_of_generators(model))
        ]
        with (
            lock_of(model),
            weights_drawn_with(seed),
            keras.StatelessScope(states) as scope,
        ):
            output = unwrap(model(x, training=self.training))
        if self.training:
            _check_unchanged(model, scope)
        return _checked(output, model)

    def trace(self, spec: Any) -> None:
        """Makes the compiled function for inputs of any length.

        Args:
            spec: Structure of `tf.TensorSpec`.
        """
        signature = [
            spec,
            tf.TensorSpec([2], tf.int32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([], tf.int32),
        ]
        # A partial: TensorFlow counts the traces of equal code together, and warns.
        self._program = tf.function(
            functools.partial(self._tensors),
            autograph=False,
            input_signature=signature,
        ).get_concrete_function()

    @property
    def can_take_apart(self) -> bool:
        """Whether TFP can take the output apart into tensors; known after `trace`."""
        return self._template is not None

    @property
    def is_batched(self) -> list[bool]:
        """Which of the tensors have an axis of rows."""
        return self._is_batched

    @property
    def structure(self) -> list[tf.TensorSpec]:
        """Shapes and dtypes of the tensors."""
        return self._program.structured_outputs

    def tensors(self, x: Any, seed: Any, draw: Any, piece: Any) -> list[tf.Tensor]:
        """The tensors that the output is made of, computed by the compiled function.

        Args:
            x: As in `output`.
            seed: As in `output`.
            draw: As in `output`.
            piece: As in `output`.

        Returns:
            A list.
        """
        return self._program(x, seed, tf.constant(draw), tf.constant(piece))

    def rebuilt(self, tensors: Any) -> Any:
        """The distribution that is made of given tensors.

        Args:
            tensors: As `tensors` returns them.

        Returns:
            A `tfd.Distribution`.
        """
        return rebuilt(self._template, list(tensors))

    def _tensors(self, x: Any, seed: Any, draw: Any, piece: Any) -> list[tf.Tensor]:
        output = self.output(x, seed, draw, piece)
        tensors, self._is_batched = taken_apart(output)
        if tensors:
            self._template = output
        return tensors


def lock_of(model: Any) -> Any:
    """The lock of a call of a model's layers, which clears what others have added.

    Args:
        model: A Keras model.

    Returns:
        That of a `tv.Model`, or one of all other models.

    Example:
        >>> lock_of(keras.Sequential()) is lock_of(keras.Sequential())
        True
    """
    functions = getattr(model, "_functions", None)
    return _LOCK if functions is None else functions.compiler.lock


def differ(model: Any, draws: OutputDraws, x: Any, seed: Any) -> bool:
    """Whether two draws of the output differ.

    Args:
        model: A Keras model.
        draws: Its `OutputDraws`.
        x: A few rows.
        seed: Two integers.

    Returns:
        True if they do, or the model has layers whose weights are draws.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((3,)), keras.layers.Dense(2), tv.IndependentNormal(1)])
        >>> x = tf.zeros([5, 3])
        >>> differ(model, OutputDraws(model, training=False), x, tf.constant([1, 2]))
        False
    """
    first = draws.output(x, seed, 0, 0)  # Checks the output in every case.
    if layers_with_random_weights(model):
        return True
    if not _are_equal(first, draws.output(x, seed, 1, 0)):
        return True
    # Rows of zeros may hide what is random, such as units that are left out.
    noise = keras.tree.map_structure(_noise_like, x)
    first = draws.output(noise, seed, 0, 0)
    # With few units and rows, `Dropout` may leave out none in many of the draws.
    tries = _TRIES if draws.training and _states_of_generators(model) else 1
    return any(
        not _are_equal(first, draws.output(noise, seed, i, 0))
        for i in range(1, tries + 1)
    )


def _noise_like(array: tf.Tensor) -> tf.Tensor:
    if not array.dtype.is_floating:
        return array
    return tf.random.stateless_normal(tf.shape(array), (1, 2), dtype=array.dtype)


def _are_equal(first: Any, second: Any) -> bool:
    """Whether two distributions give equal draws for one seed, of equal probability."""
    value, other = (p.sample(seed=(1, 2)) for p in (first, second))
    if not np.array_equal(value, other, equal_nan=True):
        return False
    logs = first.log_prob(value), second.log_prob(value)
    return np.array_equal(logs[0], logs[1], equal_nan=True)


def _states_of_generators(model: Any) -> list[Any]:
    """The states of a model's random generators, in a fixed order."""
    others = {id(v) for v in [*model.weights, *model.metrics_variables]}
    return [
        v for v in model.variables if id(v) not in others and tuple(v.shape) == (2,)
    ]


def _check_unchanged(model: Any, scope: Any) -> None:
    """Refuses layers that keep statistics of the rows in training."""
    for layer in nested_layers(model):
        own = [] if isinstance(layer, keras.Model) else layer.non_trainable_weights
        if any(scope.get_current_value(variable) is not None for variable in own):
            raise ValueError(
                "`predictive(training=True)` expects layers whose output for a row "
                f"does not depend on the other rows. Received: `{layer.name}` of type "
                f"{type(layer).__name__}, which updates statistics of the batch. Set "
                "`trainable = False` on it, so that it uses its stored statistics."
            )


def _checked(output: Any, model: Any) -> Any:
    """The output, if it is a distribution with a batch of rows."""
    if not isinstance(output, tfd.Distribution):
        several = isinstance(output, list | tuple | dict)
        found = f"a {type(output).__name__}" if several else "a tensor"
        raise ValueError(
            "`predictive` expects a model that outputs one distribution. Received: "
            f"`{model.name}`, which outputs {found}. End it with a distribution layer, "
            "such as `IndependentNormal`."
        )
    if not output.batch_shape.rank:
        raise ValueError(
            "`predictive` expects a distribution for each row, with a batch of rows. "
            f"Received: {output}. End the model with a distribution layer whose "
            "parameters are computed from the rows."
        )
    return output
