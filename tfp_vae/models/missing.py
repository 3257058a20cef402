"""Missing entries: checks the value that marks them (NaN or a number), and finds it."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.checks import boolean, real_number
from tfp_vae.engine import data
from tfp_vae.keras_internals import nested_layers

NAN = "nan"
LEARNED = "learned"


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


def checked_options(missing: Any, fill: Any, with_input: Any, model: Any) -> Any:
    """Checks the arguments of `tv.VAE` that only matter if entries are missing.

    Args:
        missing: The mark.
        fill: `None` or `"learned"`.
        with_input: Whether the encoder takes the mask.
        model: The model of the mask, or `None`.

    Returns:
        The last three.

    Raises:
        ValueError: If one is invalid, or given without `missing`.

    Example:
        >>> checked_options("nan", "learned", True, None)
        ('learned', True, None)
    """
    if fill is not None and not (isinstance(fill, str) and fill == LEARNED):
        raise ValueError(
            "`VAE` expects `missing_fill` to be None, for 0, or 'learned'. Received: "
            f"missing_fill={fill!r}. For another constant, set missing_input=True and "
            "let the encoder's first layer put it where the mask is 0."
        )
    with_input = boolean(with_input, "missing_input", "VAE")
    if model is not None and not isinstance(model, keras.layers.Layer):
        raise ValueError(
            "`VAE` expects `missing_model` to be a Keras model or layer from x to "
            f"p(observed | x). Received: missing_model={model!r}. End it with "
            "`tv.IndependentBernoulli(shape of x)`."
        )
    given = {
        "missing_fill": fill is not None,
        "missing_input": with_input,
        "missing_model": model is not None,
    }
    if missing is None and any(given.values()):
        names = [name for name, is_given in given.items() if is_given]
        raise ValueError(
            f"`VAE` expects {names[0]} together with `missing`. Received: missing=None."
            " Give missing='nan', or the number that marks missing entries."
        )
    return fill, with_input, model


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


def is_missing(values: Any, missing: Any) -> Any:
    """Finds missing entries.

    Args:
        values: A tensor, or a NumPy array, which is compared as a step would see it.
        missing: `"nan"` or a number.

    Returns:
        Booleans of the shape of the values; `None` for a tensor of integers if the
        mark is NaN.

    Example:
        >>> is_missing(np.array([1.0, np.nan]), "nan")
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


def marked(values: np.ndarray, gaps: np.ndarray, missing: Any) -> np.ndarray:
    """Marks entries as missing.

    Args:
        values: Array.
        gaps: Booleans of the same shape, True for entries to mark.
        missing: `"nan"` or a number.

    Returns:
        A new array; integers become floating-point numbers if the mark is NaN.

    Example:
        >>> marked(np.array([[1, 2]]), np.array([[True, False]]), "nan")
        array([[nan,  2.]])
    """
    if missing == NAN:
        dtype = values.dtype if values.dtype.kind == "f" else np.dtype("float64")
        return np.where(gaps, np.asarray(np.nan, dtype), values.astype(dtype))
    return np.where(gaps, np.asarray(missing).astype(values.dtype), values)


def checked_given(given: Any, values: np.ndarray, missing: Any) -> np.ndarray:
    """Checks which entries are given.

    Args:
        given: Booleans, in the shape of the values or of one row.
        values: Array of shape `(n, ...)`.
        missing: `"nan"`, or the number that marks missing entries.

    Returns:
        Booleans in the shape of the values, False where they are missing.

    Raises:
        ValueError: If the dtype or the shape is another, or nothing is left of a row.

    Example:
        >>> checked_given([True, False], np.array([[1.0, 2.0]]), "nan")
        array([[ True, False]])
    """
    given = np.asarray(given)
    if given.dtype != bool or given.shape not in (values.shape, values.shape[1:]):
        raise ValueError(
            "`log_prob` expects `given` to be booleans in the shape of x, "
            f"{values.shape}, or of one example, {values.shape[1:]}. Received: "
            f"{given.dtype} of shape {given.shape}. True is for entries that are given."
        )
    observed = ~is_missing(values, missing)
    rest = (observed & ~given).reshape(len(values), -1).any(axis=1)
    if not rest.all():
        raise ValueError(
            "`log_prob` expects `given` to leave an observed entry of each example. "
            f"Received: {np.count_nonzero(~rest)} of {len(rest)} examples of which "
            "every observed entry is given. Leave these out: the log-probability of "
            "nothing is 0."
        )
    return given & observed
