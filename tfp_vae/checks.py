"""Argument checks. Each `ValueError` says what was expected, what came, what to do."""

import contextlib
import functools
import math
import numbers
import operator
import os
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Shape = int | Sequence[int]

# TensorFlow counts rows, and numbers in a tensor, in 32 bits in many places.
LARGEST = 2**31 - 1


def canonical_event_shape(
    event_shape: Any, caller: str, name: str = "event_shape"
) -> tuple[int, ...]:
    """Turns an integer, tuple, list or `TensorShape` into a tuple of sizes.

    Args:
        event_shape: Shape of one draw; an integer `d` means `(d,)`.
        caller: Name of the caller, for the message.
        name: Name of the argument, for the message.

    Returns:
        A tuple of positive integers.

    Raises:
        ValueError: If a size is unknown, not an integer or not positive, or their
            product exceeds 2**31 - 1.

    Example:
        >>> canonical_event_shape(3, "Layer"), canonical_event_shape([2, 4], "Layer")
        ((3,), (2, 4))
    """
    size = _index(event_shape)
    sizes = integers(event_shape) if size is None else (size,)
    if sizes is None or min(sizes, default=1) < 1 or math.prod(sizes) > LARGEST:
        raise ValueError(
            f"`{caller}` expects `{name}` to be a positive integer or a sequence of "
            f"positive integers, below 2**31 together. Received: {name}="
            f"{event_shape!r}. Give the shape of one draw without the batch axis, such "
            "as 16 or (28, 28, 1)."
        )
    return sizes


def _index(value: Any) -> int | None:
    """An integer as an `int`; `None` for anything else, such as a boolean."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def integers(value: Any) -> tuple[int, ...] | None:
    """Returns a sequence of integers as a tuple.

    Args:
        value: What the user gave.

    Returns:
        A tuple; `None` if it is not a sequence, or has anything else in it.

    Example:
        >>> integers(np.array([2, 3])), integers([1.5]), integers("12")
        ((2, 3), None, None)
    """
    if isinstance(value, str | bytes | dict | set | frozenset):
        return None
    if not isinstance(value, Iterable):
        return None
    try:
        found = [_index(item) for item in value]
    except (TypeError, ValueError):  # an array without axes, a shape of unknown rank
        return None
    known = tuple(item for item in found if item is not None)
    return known if len(known) == len(found) else None


def integer(value: Any, name: str, caller: str, minimum: int = 1) -> int:
    """Returns `value` as an `int`, if it is an integer of at least `minimum`.

    Args:
        value: What the user gave.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.
        minimum: Smallest value allowed.

    Returns:
        The value as an `int`.

    Raises:
        ValueError: If `value` is not an integer from `minimum` to 2**31 - 1.

    Example:
        >>> integer(16, "event_size", "Layer")
        16
    """
    number = _index(value)
    if number is None or number < minimum:
        raise ValueError(
            f"`{caller}` expects `{name}` to be an integer of at least {minimum}. "
            f"Received: {name}={value!r}. Give a Python integer, {minimum} or more."
        )
    if number > LARGEST:
        raise ValueError(
            f"`{caller}` expects `{name}` to be an integer below 2**31. Received: "
            f"{name}={value!r}. Give a smaller one; ask for many rows in pieces."
        )
    return number


def optional_seed(
    value: Any, caller: str, name: str = "seed", largest: int = 2**32 - 1
) -> int | None:
    """Returns a seed, if it is `None` or a non-negative integer.

    Args:
        value: What the user gave.
        caller: Name of the caller, for the message.
        name: Name of the argument, for the message.
        largest: The largest seed; by default that of NumPy and Keras.

    Returns:
        The value as an `int`, or `None`.

    Raises:
        ValueError: If `value` is neither `None` nor an integer from 0 to `largest`.

    Example:
        >>> optional_seed(7, "Layer"), optional_seed(None, "Layer")
        (7, None)
    """
    number = _index(value)
    if value is not None and (number is None or not 0 <= number <= largest):
        raise ValueError(
            f"`{caller}` expects `{name}` to be None or an integer from 0 to "
            f"{largest}. Received: {name}={value!r}. Give an integer such as 42 for "
            "the same numbers in each run, or None."
        )
    return number


def boolean(value: Any, name: str, caller: str) -> bool:
    """Returns `value` as a `bool`, if it is a boolean.

    Args:
        value: What the user gave.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.

    Returns:
        The value as a `bool`.

    Raises:
        ValueError: If `value` is anything else, such as 1 or "no".

    Example:
        >>> boolean(np.True_, "validate_args", "Layer")
        True
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(
            f"`{caller}` expects `{name}` to be True or False. Received: {name}="
            f"{value!r}. Give a Python boolean."
        )
    return bool(value)


def choice(value: Any, choices: Sequence[str], name: str, caller: str) -> str:
    """Returns `value`, if it is one of several names.

    Args:
        value: What the user gave.
        choices: The names, the recommended one first.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.

    Returns:
        The value.

    Raises:
        ValueError: If `value` is none of them.

    Example:
        >>> choice("full", ("diagonal", "full"), "covariance", "LearnedNormal")
        'full'
    """
    if not isinstance(value, str) or value not in choices:
        *first, last = map(repr, choices)
        raise ValueError(
            f"`{caller}` expects `{name}` to be one of {', '.join(first)} or {last}. "
            f"Received: {name}={value!r}. If in doubt, give {choices[0]!r}."
        )
    return value


def numeric_dtype(value: Any, name: str, caller: str) -> str | None:
    """Returns the name of a dtype of numbers or booleans.

    Args:
        value: What the user gave: a name, a `tf.DType`, a dtype of NumPy or `None`.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.

    Returns:
        The name, or `None`.

    Raises:
        ValueError: If `value` is none of these.

    Example:
        >>> numeric_dtype(tf.int32, "sample_dtype", "Layer")
        'int32'
    """
    dtype: Any = None
    # Not integers, which `tf.as_dtype` takes for numbers of dtypes.
    if isinstance(value, str | type | np.dtype | tf.DType):
        with contextlib.suppress(TypeError):
            dtype = tf.as_dtype(value)
    numeric = dtype and (dtype.is_floating or dtype.is_integer or dtype.is_bool)
    if value is not None and not numeric:
        raise ValueError(
            f"`{caller}` expects `{name}` to be None or a dtype of numbers. Received: "
            f"{name}={value!r}. Give a name such as 'float32' or 'int32'."
        )
    return dtype and dtype.name


def keras_object(
    get: Callable[[Any], Any], value: Any, name: str, caller: str, default: bool = True
) -> Any:
    """Returns the activation, initializer, ... that Keras finds for a value.

    Args:
        get: Function of Keras, such as `keras.activations.get`.
        value: What the user gave.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.
        default: Whether `None` is allowed.

    Returns:
        What `get` returns.

    Raises:
        ValueError: If `value` is no name, config or callable, or Keras does not know
            it.

    Example:
        >>> keras_object(keras.activations.get, "relu", "activation", "Flow").__name__
        'relu'
    """
    reason: Exception | None = None
    try:
        known = isinstance(value, str | dict) or callable(value)
        if known or (value is None and default):
            return get(value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = error
    module = get.__module__.rpartition(".")[2]
    raise ValueError(
        f"`{caller}` expects `{name}` to be {'None, ' * default}a function, or the "
        f"name or config of one in `keras.{module}`. Received: {name}={value!r}. Give "
        f"an object of `keras.{module}`, or a function of your own."
    ) from reason


def file_path(value: Any, name: str, caller: str) -> str:
    """Returns a path as a string.

    Args:
        value: What the user gave: a string, or an object such as `pathlib.Path`.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.

    Returns:
        A string.

    Raises:
        ValueError: If `value` is no path, or an empty string.

    Example:
        >>> file_path("logs", "log_dir", "VAETensorBoard")
        'logs'
    """
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path:
        raise ValueError(
            f"`{caller}` expects `{name}` to be a path. Received: {name}={value!r}. "
            "Give a string that is not empty, or a `pathlib.Path`."
        )
    return path


def floating(dtype: Any, caller: str) -> None:
    """Checks that a layer's parameters are floating-point numbers.

    Args:
        dtype: Dtype of the parameters.
        caller: Description of the layer, for the message.

    Raises:
        ValueError: If they are integers, booleans or anything else.

    Example:
        >>> floating("float32", "IndependentNormal(3)")
    """
    dtype = tf.as_dtype(dtype)
    if not dtype.is_floating:
        raise ValueError(
            f"`{caller}` expects `parameters` of a floating-point dtype. Received: "
            f"parameters.dtype={dtype.name}. Cast them to float: "
            "`tf.cast(parameters, tf.float32)`."
        )


def parameters_width(shape: Sequence[Any], width: int, caller: str) -> None:
    """Checks that the last axis of a layer's parameters has the right width.

    Args:
        shape: Static shape of the parameters, with `None` for an unknown size.
        width: The layer's `params_size`.
        caller: Description of the layer, for the message.

    Raises:
        ValueError: If the rank is 0 or the last axis is known and not `width`.

    Example:
        >>> parameters_width((None, 6), 6, "IndependentNormal(3)")
    """
    if len(shape) == 0 or shape[-1] not in (None, width):
        advice = f"Give the previous layer {width} units, or change the event shape."
        if None not in shape[1:] and math.prod(map(int, shape[1:])) == width:
            advice = (
                "If its last axis has the channels of a convolution or the features of "
                "each step, give `parameters_axis=-1`; if the axes are those of one "
                "parameter for each coordinate, put `keras.layers.Flatten()` before it."
            )
        raise ValueError(
            f"`{caller}` expects `parameters` of shape (..., {width}). "
            f"Received: parameters.shape={tuple(shape)}. {advice}"
        )


def check_rows_in_batch(distribution: Any, caller: str) -> None:
    """Checks that a distribution has the rows in its batch, not in its event.

    Args:
        distribution: A distribution.
        caller: What expects it: the message begins with this.

    Raises:
        ValueError: If it has no batch but an event with axes, as the outputs of a
            Gaussian process at several inputs.

    Example:
        >>> check_rows_in_batch(tfd.MultivariateNormalDiag(tf.zeros([5, 3])), "Loss")
    """
    batch, event = distribution.batch_shape, distribution.event_shape
    if batch.rank == 0 and event.rank:
        raise ValueError(
            f"{caller} expects a distribution for each row, with the rows as batch. "
            f"Received: one distribution for all rows, {distribution.name} of batch "
            f"shape {tuple(batch)} and event shape {tuple(event)}. Train it with the "
            "joint loss that it has, `lambda y, p: p.variational_loss(y)` of a "
            "`tv.VariationalGaussianProcess`, and give no weights of rows."
        )


def real_number(value: Any) -> float:
    """Returns a real number as a `float`.

    Args:
        value: What the user gave: a number, or an array, tensor or variable of one.

    Returns:
        The number; NaN for anything else, such as a boolean or a string.

    Example:
        >>> real_number(np.float32(0.5)), real_number(True), real_number("1")
        (0.5, nan, nan)
    """
    try:
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            return float(value)
        array = np.asarray(value)
        # `V` has the kinds that NumPy does not know, such as bfloat16.
        scalar = array.ndim == 0 and array.dtype.kind in "iufV"
        return float(array) if scalar else math.nan
    except (NotImplementedError, OverflowError, TypeError, ValueError):
        return math.nan


def positive_number(value: Any, name: str, caller: str, zero: bool = False) -> float:
    """Returns `value` as a `float`, if it is finite and positive.

    Args:
        value: What the user gave.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.
        zero: Whether 0 is allowed.

    Returns:
        The value as a `float`.

    Raises:
        ValueError: If `value` is not a finite number above 0.

    Example:
        >>> positive_number(1e-5, "scale_floor", "Layer")
        1e-05
    """
    number = real_number(value)
    if not (0.0 < number < math.inf or (zero and number == 0.0)):
        bound = "of at least 0" if zero else "above 0"
        raise ValueError(
            f"`{caller}` expects `{name}` to be a finite number {bound}. "
            f"Received: {name}={value!r}. Give one Python number {bound}."
        )
    return number


def probability(value: Any, name: str, caller: str) -> float:
    """Returns `value` as a float, if it is between 0 and 1, without the ends.

    Args:
        value: What the user gave.
        name: Name of the argument, for the message.
        caller: Name of the caller, for the message.

    Returns:
        The value as a `float`.

    Raises:
        ValueError: If it is anything else.

    Example:
        >>> probability(0.9, "level", "coverage")
        0.9
    """
    number = real_number(value)
    if not 0 < number < 1:
        raise ValueError(
            f"`{caller}` expects `{name}` to be a number between 0 and 1, without the "
            f"ends. Received: {name}={value!r}. Give a probability, such as 0.9."
        )
    return number


def interval(low: Any, high: Any, caller: str) -> tuple[float, float]:
    """Returns both ends of an interval as `float`, if they are finite and in order.

    Args:
        low: Lower end.
        high: Upper end.
        caller: Name of the caller, for the message.

    Returns:
        The ends.

    Raises:
        ValueError: If they are not finite numbers with `low < high`.

    Example:
        >>> interval(0, 255, "Layer")
        (0.0, 255.0)
    """
    ends = real_number(low), real_number(high)
    if not -math.inf < ends[0] < ends[1] < math.inf:
        raise ValueError(
            f"`{caller}` expects two finite numbers with low < high. Received: "
            f"low={low!r}, high={high!r}. Give the ends of the interval in which the "
            "values lie."
        )
    return ends


def checked_function(value: Any, name: str) -> Any:
    """Returns what Keras found for a config, unless it is a foreign function.

    Args:
        value: What Keras found for the config.
        name: Name of the argument, for the message.

    Returns:
        The value.

    Raises:
        ValueError: If it is a function that is neither registered nor one of Keras'
            activations, losses, metrics or `keras.ops`.

    Example:
        >>> checked_function(keras.activations.relu, "activation").__name__
        'relu'
        >>> checked_function(keras.utils.get_file, "temperature")
        Traceback (most recent call last):
            ...
        ValueError: Loading expects `temperature` to be a registered function. ...
    """
    if not isinstance(value, types.FunctionType | types.BuiltinFunctionType):
        return value
    if value.__name__ == "<lambda>":
        return value  # Keras makes one only with `safe_mode=False`.
    known = keras.saving.get_registered_object(keras.saving.get_registered_name(value))
    pure = (keras.activations, keras.losses, keras.metrics, keras.ops)
    public = value.__name__ not in ("deserialize", "get", "serialize")
    if known is value or (
        public and any(value in vars(module).values() for module in pure)
    ):
        return value
    raise ValueError(
        f"Loading expects `{name}` to be a registered function. Received: "
        f"{value.__module__}.{value.__qualname__}. If it is your own, decorate it with "
        "`@keras.saving.register_keras_serializable()`; otherwise do not trust the "
        "file."
    )


def checked_config(from_config: Any) -> Any:
    """Decorates `from_config`: a malformed config raises a `ValueError`.

    Args:
        from_config: The function below `@classmethod`, or a method such as
            `compile_from_config`.

    Returns:
        A function with the same arguments.

    Example:
        >>> class Layer:
        ...     @classmethod
        ...     @checked_config
        ...     def from_config(cls, config):
        ...         return config["units"]
        >>> Layer.from_config({})
        Traceback (most recent call last):
            ...
        ValueError: Loading expects the config of a `Layer`, ...
    """

    @functools.wraps(from_config)
    def checked(cls: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return from_config(cls, config, *args, **kwargs)
        except ValueError:
            raise
        except Exception as error:
            name = getattr(cls, "__name__", type(cls).__name__)
            raise ValueError(
                f"Loading expects the config of a `{name}`, as it was saved. Received: "
                f"one that fails ({type(error).__name__}: "
                f"{str(error)[:500]}). Save the model again."
            ) from error

    return checked
