"""Missing entries: the mark, NaN or a number that stands for one, and where it is."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.checks import real_number
from tfp_vae.engine import data
from tfp_vae.keras_internals import nested_layers

NAN = "nan"


def checked_missing(missing: Any, encoder: Any = None) -> Any:
    """Checks the value that marks missing entries.

    Args:
        missing: `None`, `"nan"` or a number.
        encoder: The encoder, which sees 0 in the place of the mark.

    Returns:
        The same, a number of NumPy as one of Python.

    Raises:
        ValueError: If it is something else, or a `Masking` layer of the encoder
            looks for the mark.

    Example:
        >>> checked_missing(np.float32(-1.0))
        -1.0
    """
    if isinstance(missing, np.integer | np.floating):
        missing = missing.item()
    number = isinstance(missing, int | float) and not isinstance(missing, bool)
    if not (
        missing is None
        or (isinstance(missing, str) and missing == NAN)
        or (number and np.isfinite(real_number(missing)))
    ):
        raise ValueError(
            "`VAE` expects `missing` to be None, 'nan' or the number that marks "
            f"missing entries. Received: missing={missing!r}. Give missing='nan' to "
            "leave out entries that are NaN."
        )
    for layer in [] if encoder is None or missing is None else nested_layers(encoder):
        masked = isinstance(layer, keras.layers.Masking) and layer.mask_value
        if masked and (masked == missing or (missing == NAN and np.isnan(masked))):
            raise ValueError(
                f"`VAE(missing={missing!r})` expects an encoder that sees 0 where an "
                f"entry is missing. Received: its layer {layer.name!r}, which masks "
                f"steps equal to {masked}; the encoder never sees that value. Give the "
                "layer mask_value=0.0, or leave `missing` out."
            )
    return missing


def check_mark(missing: Any, dtype: Any) -> None:
    """Checks that the data's dtype, and that of a step, can represent the mark.

    Args:
        missing: `None`, `"nan"` or a number.
        dtype: The dtype of the values, as they are given.

    Raises:
        ValueError: If the dtype cannot hold the mark, or the steps, which compute in
            Keras' default dtype, round it to another value.

    Example:
        >>> check_mark(-1, "int8")
        >>> check_mark(-1, "uint8")
        Traceback (most recent call last):
            ...
        ValueError: `VAE(missing=-1)` expects values that can be -1. Received: ...
    """
    if missing in (None, NAN):
        return
    own = tf.as_dtype(dtype)
    if own.is_floating:
        given = np.asarray(missing, "float64")
        step = data.dtype_of(tf.zeros([0], own)).as_numpy_dtype
        with np.errstate(over="ignore"):
            mark, kept = given.astype(step), given.astype(own.as_numpy_dtype)
        # An integer must stay what it is; a fraction may be rounded in the same way as
        # the values that are to be equal to it.
        holds = kept.astype(step) == mark and (
            given % 1 != 0 or mark.astype("float64") == given
        )
    else:
        whole = own.is_integer and float(missing).is_integer()
        holds = whole and own.min <= missing <= own.max
    if not holds:
        raise ValueError(
            f"`VAE(missing={missing})` expects values that can be {missing}. Received: "
            f"values of dtype {own.name}, which cannot hold it exactly, or which a "
            "step converts to a dtype that cannot. Choose another number for missing "
            "entries, or make x floating-point and use missing='nan'."
        )


def absent(values: Any, missing: Any) -> Any:
    """Finds missing entries.

    Args:
        values: A tensor, or a NumPy array, which is compared as a step would see it.
        missing: `"nan"` or a number.

    Returns:
        Booleans of the shape of the values; `None` for a tensor of integers if the
        mark is NaN.

    Example:
        >>> absent(np.array([1.0, np.nan]), "nan")
        array([False,  True])
    """
    check_mark(missing, values.dtype)
    if tf.is_tensor(values):
        if missing == NAN:
            return tf.math.is_nan(values) if values.dtype.is_floating else None
        mark = np.asarray(missing).astype(values.dtype.as_numpy_dtype)
        return tf.equal(values, tf.constant(mark))
    if missing == NAN:
        return np.isnan(values)
    dtype = data.dtype_of(values).as_numpy_dtype
    return values.astype(dtype, copy=False) == np.asarray(missing, dtype)
