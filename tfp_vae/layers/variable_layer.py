"""A variable as a layer, for learned priors."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import Shape, canonical_event_shape, keras_object
from tfp_vae.constraints import float_policy


@keras.saving.register_keras_serializable("tfp_vae")
class VariableLayer(keras.layers.Layer):
    """Returns a variable, whatever its input: f(x) = activation(c).

    With a distribution layer after it, it makes a distribution with learned parameters.

    Reference:
        `tfp.layers.VariableLayer`.

    Args:
        shape: Shape of the variable, or an integer for a vector.
        dtype: Dtype of the variable.
        activation: Function applied to the variable, or its Keras name.
        initializer: Initial value of the variable.
        regularizer: Regularizer of the variable.
        constraint: Constraint of the variable.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: Ignored.

    Returns:
        A tensor of shape `shape`.

    Raises:
        ValueError: If `shape` is not made of positive integers, or Keras does not know
            one of the others.

    Example:
        >>> VariableLayer([2, 3], initializer="ones")().shape
        TensorShape([2, 3])
    """

    def __init__(
        self,
        shape: Shape,
        dtype: Any = None,
        activation: Any = None,
        initializer: Any = "zeros",
        regularizer: Any = None,
        constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype=float_policy(dtype), **kwargs)
        caller = type(self).__name__
        self.shape = canonical_event_shape(shape, caller, "shape")
        self.activation = keras_object(
            keras.activations.get, activation, "activation", caller
        )
        self.initializer = keras_object(
            keras.initializers.get, initializer, "initializer", caller, default=False
        )
        self.regularizer = keras_object(
            keras.regularizers.get, regularizer, "regularizer", caller
        )
        self.constraint = keras_object(
            keras.constraints.get, constraint, "constraint", caller
        )
        self.constant = self.add_weight(
            name="constant",
            shape=self.shape,
            initializer=self.initializer,
            regularizer=self.regularizer,
            constraint=self.constraint,
        )
        self.built = True

    def call(self, inputs: Any = None) -> tf.Tensor:
        """The variable's value."""
        return self.activation(tf.convert_to_tensor(self.constant))

    def compute_output_shape(self, inputs_shape: Any = None) -> tuple[int, ...]:
        """Shape of the variable."""
        return self.shape

    def compute_output_spec(self, inputs: Any = None) -> keras.KerasTensor:
        """Shape and dtype of the variable."""
        return keras.KerasTensor(self.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {
            **super().get_config(),
            "shape": self.shape,
            "activation": keras.activations.serialize(self.activation),
            "initializer": keras.initializers.serialize(self.initializer),
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "constraint": keras.constraints.serialize(self.constraint),
        }
