"""MADE: a network whose i-th output depends only on the inputs before the i-th."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.checks import (
    LARGEST,
    Shape,
    boolean,
    canonical_event_shape,
    checked_config,
    choice,
    integer,
    integers,
    keras_object,
    optional_seed,
)
from tfp_vae.constraints import float_policy
from tfp_vae.layers.events import batch_axes
from tfp_vae.serialization import revive_arguments

_ORDERS = ("left-to-right", "right-to-left", "random")
_DEGREES = ("equal", "random")


@keras.saving.register_keras_serializable("tfp_vae")
class AutoregressiveNetwork(keras.layers.Layer):
    r"""A dense network with the autoregressive property: MADE.

    .. math:: \mathrm{output}_i = f_i(x_j \text{ for all } j \text{ before } i)

    Each unit has a degree: the place of the last input that it may depend on. Each
    kernel is multiplied by a mask of the connections that the degrees allow. Random
    degrees are saved with the weights.

    Reference:
        Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution
        Estimation", 2015; `tfp.bijectors.AutoregressiveNetwork`, with the same argument
        names.

    Args:
        params: Number of outputs for each input, such as 2 for a shift and a scale.
        event_shape: Number of inputs d; by default that of the first call.
        hidden_units: Width of each hidden layer.
        input_order: `"left-to-right"`, `"right-to-left"`, `"random"`, or a permutation
            of 1 to d, the place of each input in the order.
        hidden_degrees: Degrees of the hidden units: `"equal"`, for equally many units
            of each degree, or `"random"`.
        activation: Function between the layers, or its Keras name.
        use_bias: Whether the layers add a bias.
        kernel_initializer: Initial kernels, before the masks.
        seed: Integer seed of a random order and random degrees; by default it follows
            `keras.utils.set_random_seed`.
        output_initializer: Initial kernel of the last layer; by default
            `kernel_initializer`. `"zeros"` lets a flow start at the identity.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(..., d)`.

    Returns:
        A tensor of shape `(..., d, params)`.

    Raises:
        ValueError: If an argument is invalid, or the last axis of the inputs is not
            `event_shape`.

    Example:
        >>> made = AutoregressiveNetwork(2, hidden_units=(16, 16), activation="relu")
        >>> made(tf.zeros([5, 3])).shape
        TensorShape([5, 3, 2])
    """

    def __init__(
        self,
        params: int,
        event_shape: Shape | None = None,
        hidden_units: Sequence[int] = (),
        input_order: str | Sequence[int] = "left-to-right",
        hidden_degrees: str = "equal",
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        seed: int | None = None,
        output_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        caller = type(self).__name__
        self.params = integer(params, "params", caller)
        self.event_shape = None if event_shape is None else _vector(event_shape, caller)
        self.hidden_units = checked_hidden_units(hidden_units, caller)
        self.input_order = _checked_order(input_order, self.event_shape)
        self.hidden_degrees = choice(hidden_degrees, _DEGREES, "hidden_degrees", caller)
        self.activation = keras_object(
            keras.activations.get, activation, "activation", caller
        )
        self.use_bias = boolean(use_bias, "use_bias", caller)
        self.kernel_initializer = keras_object(
            keras.initializers.get,
            kernel_initializer,
            "kernel_initializer",
            caller,
            default=False,
        )
        self.output_initializer = keras_object(
            keras.initializers.get, output_initializer, "output_initializer", caller
        )
        given = optional_seed(seed, caller)
        # Saved in the config, so that a copy has the same masks.
        self.seed = random.getrandbits(31) if given is None else given

    def build(self, input_shape: Any) -> None:
        """Makes the degrees, kernels and biases."""
        size = input_shape[-1] if len(input_shape) else None
        if not size or self.event_shape not in (None, (size,)):
            raise ValueError(
                f"`{type(self).__name__}` expects inputs of shape (..., d), with a "
                f"known d that matches event_shape={self.event_shape}. Received: "
                f"inputs.shape={tuple(input_shape)}. Give inputs of that width, or "
                "leave `event_shape` out."
            )
        widths = [size, *self.hidden_units, size * self.params]
        for inputs, outputs in itertools.pairwise(widths):
            if inputs * outputs > LARGEST:
                raise ValueError(
                    f"`{type(self).__name__}` expects kernels of fewer than 2**31 "
                    f"numbers. Received: hidden_units={self.hidden_units} and params="
                    f"{self.params}, with a kernel of shape ({inputs}, {outputs}). "
                    "Give smaller numbers."
                )
        degrees = self._make_degrees(size)
        self.kernels, self.biases = [], []
        for i, (below, above) in enumerate(itertools.pairwise(degrees)):
            self.kernels.append(self._add_kernel(i, below[:, None] <= above))
            if self.use_bias:
                self.biases.append(self._add_bias(i, len(above)))
        if self._random:
            degrees = [self._add_degrees(i, found) for i, found in enumerate(degrees)]
        self._degrees = degrees
        self.built = True

    def call(self, inputs: Any) -> tf.Tensor:
        """The parameters of each coordinate, from the coordinates before it."""
        inputs = tf.convert_to_tensor(inputs)
        size = self.kernels[0].shape[0]
        x = tf.reshape(inputs, [-1, size])
        degrees = [tf.convert_to_tensor(degree) for degree in self._degrees]
        for i, kernel in enumerate(self.kernels):
            x = x if i == 0 else self.activation(x)
            mask = degrees[i][:, tf.newaxis] <= degrees[i + 1]
            x = tf.matmul(x, kernel * tf.cast(mask, x.dtype))
            x = x + self.biases[i] if self.use_bias else x
        return tf.reshape(x, [*batch_axes(inputs), size, self.params])

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """The shape of the input, followed by `params`."""
        return (*input_shape, self.params)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        output = self.output_initializer
        return {
            **super().get_config(),
            "params": self.params,
            "event_shape": self.event_shape,
            "hidden_units": self.hidden_units,
            "input_order": self.input_order,
            "hidden_degrees": self.hidden_degrees,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
            "output_initializer": output and keras.initializers.serialize(output),
        }

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "AutoregressiveNetwork":
        """Restores functions before calling `__init__`."""
        return cls(**revive_arguments(config))

    def load_own_variables(self, store: Any) -> None:
        """Reads the variables; older models did not save random degrees."""
        found = len(store.keys())
        if self.built and self._random and found == len(self.kernels + self.biases):
            for i, variable in enumerate(self.weights[:found]):
                variable.assign(store[f"{i}"])
        else:
            super().load_own_variables(store)

    @property
    def _random(self) -> bool:
        """Whether the seed decides the degrees."""
        return "random" in (self.input_order, self.hidden_degrees)

    def _add_kernel(self, index: int, mask: np.ndarray) -> Any:
        last = index == len(self.hidden_units)
        initializer = (last and self.output_initializer) or self.kernel_initializer
        # A copy: an initializer without a seed repeats its values if it is used again.
        is_object = isinstance(initializer, keras.initializers.Initializer)
        draw = initializer.clone() if is_object else initializer
        return self.add_weight(
            name=f"kernel_{index}",
            shape=mask.shape,
            initializer=lambda shape, dtype: (
                tf.constant(mask, dtype) * draw(shape, dtype=dtype)
            ),
        )

    def _add_bias(self, index: int, outputs: int) -> Any:
        return self.add_weight(
            name=f"bias_{index}", shape=(outputs,), initializer="zeros"
        )

    def _add_degrees(self, index: int, degrees: np.ndarray) -> Any:
        # Not integers, which TensorFlow keeps off a GPU.
        return self.add_weight(
            name=f"degrees_{index}",
            shape=degrees.shape,
            initializer=lambda shape, dtype: tf.constant(degrees, dtype, shape),
            trainable=False,
        )

    def _make_degrees(self, size: int) -> list[np.ndarray]:
        """Those of the inputs, of each layer's units, and of the outputs."""
        rng = np.random.default_rng(self.seed)
        order = _order(self.input_order, size, rng)
        degrees = [order]
        for units in self.hidden_units:
            lowest = min(degrees[-1].min(), size - 1)
            if self.hidden_degrees == "random":
                degrees.append(rng.integers(lowest, size, units))
            else:
                shares = np.arange(1, units + 1) * (size - 1) / (units + 1)
                degrees.append(np.maximum(lowest, np.ceil(shares)))
        degrees.append(np.repeat(order - 1, self.params))
        return [np.asarray(found, self.variable_dtype) for found in degrees]


def checked_hidden_units(hidden_units: Any, caller: str) -> tuple[int, ...]:
    """Returns the widths of hidden layers, if they are positive integers.

    Args:
        hidden_units: What the user gave.
        caller: Name of the caller, for the message.

    Returns:
        A tuple of positive integers.

    Raises:
        ValueError: If it is not a sequence of positive integers.

    Example:
        >>> checked_hidden_units([64, 64], "Flow")
        (64, 64)
    """
    units = integers(hidden_units)
    if units is None or not all(1 <= width <= LARGEST for width in units):
        raise ValueError(
            f"`{caller}` expects `hidden_units` to be a sequence of positive integers. "
            f"Received: hidden_units={hidden_units!r}. Give the width of each hidden "
            "layer, such as (64, 64)."
        )
    return units


def _vector(event_shape: Any, caller: str) -> tuple[int, ...]:
    shape = canonical_event_shape(event_shape, caller)
    if len(shape) != 1:
        raise ValueError(
            f"`{caller}` expects `event_shape` to be that of a vector. Received: "
            f"event_shape={event_shape!r}. Flatten the event first."
        )
    return shape


def _checked_order(order: Any, event_shape: Any) -> Any:
    places: Any = order if isinstance(order, str) else integers(order)
    valid = places in _ORDERS
    if places and not isinstance(places, str):
        valid = sorted(places) == list(range(1, len(places) + 1))
        valid = valid and event_shape in (None, (len(places),))
    if not valid:
        raise ValueError(
            f"`AutoregressiveNetwork` expects `input_order` to be one of {_ORDERS}, or "
            f"a permutation of 1 to d. Received: input_order={order!r}. Give the place "
            "of each input in the order, such as (2, 1, 3)."
        )
    return places


def _order(order: Any, size: int, rng: Any) -> np.ndarray:
    places = np.arange(1, size + 1)
    if order == "right-to-left":
        return places[::-1]
    if order == "random":
        return rng.permutation(places)
    if not isinstance(order, str):
        _checked_order(order, (size,))
        return np.array(order)
    return places
