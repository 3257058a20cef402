"""What `fit`, `evaluate` and the answers of a VAE are given: arrays or a pipeline."""

import itertools
import math
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.layers.distribution_layer import DistributionLayer
from tfp_vae.layers.independent_bernoulli import IndependentBernoulli
from tfp_vae.values import check_values, in_place_of

NAN = "nan"


def is_arrays(x: Any) -> bool:
    """Whether data are arrays, or a structure of arrays, and not a pipeline.

    Args:
        x: What `fit` was given.

    Returns:
        True where every leaf has a first axis of examples.

    Example:
        >>> is_arrays(np.zeros([5, 2])), is_arrays(tf.data.Dataset.range(5))
        (True, False)
    """
    leaves = keras.tree.flatten(x)
    return bool(leaves) and all(
        hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves
    )


def mapped(fn: Any, structure: Any) -> Any:
    """Applies a function to every array of a structure, and leaves `None` in place.

    Args:
        fn: From array to anything.
        structure: Arrays, and lists, tuples and dictionaries of them.

    Returns:
        The same structure.

    Example:
        >>> mapped(len, (np.zeros(5), None))
        (5, None)
    """
    return keras.tree.map_structure(fn, structure, none_is_leaf=False)


def with_place_for_weights(x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """Gives Keras something in the place of y, without which it drops the weights.

    Args:
        x: Inputs.
        y: Targets or `None`; the inputs themselves need not be sent twice.
        sample_weight: Weights or `None`.

    Returns:
        The three, with targets of no width where only the weights need one.

    Example:
        >>> x = np.zeros([5, 2])
        >>> with_place_for_weights(x, x, np.ones(5))[1].shape
        (5, 0)
    """
    y = None if y is x else y
    if y is None and sample_weight is not None and is_arrays(x):
        y = np.zeros((len(keras.tree.flatten(x)[0]), 0), "float32")
    return x, y, sample_weight


def is_place_holder(y: Any) -> bool:
    """Whether targets are the ones of no width of `with_place_for_weights`.

    Args:
        y: Targets, or a structure of them.

    Returns:
        True for those.

    Example:
        >>> is_place_holder(np.zeros([5, 0])), is_place_holder(np.zeros([5, 1]))
        (True, False)
    """
    shape = getattr(y, "shape", None)
    return shape is not None and len(shape) == 2 and shape[1] == 0


def ranks(x: Any) -> Any:
    """The number of axes of arrays, or of what a dataset yields.

    Args:
        x: Arrays or a pipeline, or a structure of them.

    Returns:
        The structure with numbers in place of arrays; `None` where they are not known.

    Example:
        >>> ranks((np.zeros([5, 2]), None)), ranks(tf.data.Dataset.range(5).batch(2))
        ((2, None), 1)
    """
    spec = x.element_spec if isinstance(x, tf.data.Dataset) else x
    return mapped(lambda leaf: len(getattr(leaf, "shape", None) or ()), spec)


def num_batches(
    x: Any, batch_size: int | None, steps: int | None, share: float = 0.0
) -> int | None:
    """The number of batches of an epoch.

    Args:
        x: Arrays or a pipeline.
        batch_size: Of arrays; 32 where `None`, as in Keras.
        steps: What the user says, or `None`.
        share: Of the rows of arrays that are held out.

    Returns:
        The number, or `None` where it is not known.

    Raises:
        ValueError: If the share leaves no rows on one side.

    Example:
        >>> num_batches(np.zeros([100, 2]), 32, None)
        4
        >>> num_batches(np.zeros([100, 2]), 32, None, share=0.5)
        2
        >>> num_batches(tf.data.Dataset.range(5).batch(2), None, None)
        3
    """
    if steps is not None:
        return steps
    if is_arrays(x):
        rows = range(len(keras.tree.flatten(x)[0]))
        rows = split(rows, share)[0] if share else rows
        return math.ceil(len(rows) / (batch_size or 32))
    count = getattr(x, "num_batches", None)
    if isinstance(x, tf.data.Dataset):
        count = int(x.cardinality())
    return count if count is not None and count > 0 else None


def batch_size_of(rows: range, batch_size: int | None, steps: int | None) -> int:
    """The length of a batch of arrays, as Keras takes it.

    Args:
        rows: The rows.
        batch_size: What the user says, or `None`.
        steps: Of a pass, or `None`.

    Returns:
        The number; by default 32.

    Example:
        >>> batch_size_of(range(100), None, 9), batch_size_of(range(100), None, None)
        (12, 32)
    """
    return batch_size or (math.ceil(len(rows) / steps) if steps else 32)


def split(rows: range, share: float) -> tuple[range, range]:
    """The first rows, and the last ones held out, as Keras splits them.

    Args:
        rows: All rows.
        share: Of the rows that are held out.

    Returns:
        Both.

    Raises:
        ValueError: If one of them has no rows.

    Example:
        >>> split(range(10), 0.25)
        (range(0, 7), range(7, 10))
    """
    at = math.floor(len(rows) * (1.0 - share))
    first, last = rows[:at], rows[at:]
    if not (first and last):
        raise ValueError(
            "`VAE.fit` expects `validation_split` to leave rows on both sides. "
            f"Received: validation_split={share} of {len(rows)} rows. Give another "
            "share, or `validation_data`."
        )
    return first, last


def stackable(batch: Any) -> bool:
    """Whether a batch is of dense arrays, of which several can be joined.

    Args:
        batch: Structure of arrays, or `None` where none is known.

    Returns:
        False for ragged and sparse tensors, and for numbers.

    Example:
        >>> stackable((np.zeros([5, 2]), None)), stackable((np.zeros([5, 2]), 1.0))
        (True, False)
    """
    leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
    return all(
        bool(len(np.shape(leaf))) and not isinstance(leaf, tf.RaggedTensor)
        if isinstance(leaf, np.ndarray | tf.Tensor)
        else False
        for leaf in leaves
    )


def any_length(array: Any) -> tf.TensorSpec:
    """What is known of a batch of any length.

    Args:
        array: Array or tensor of shape `(n, ...)`.

    Returns:
        A spec that leaves the length open.

    Example:
        >>> any_length(np.zeros([5, 3], "float32"))
        TensorSpec(shape=(None, 3), dtype=tf.float32, name=None)
    """
    return tf.TensorSpec([None, *array.shape[1:]], array.dtype)


def bytes_of(batch: Any, rows: int | None) -> int:
    """The memory that rows of arrays take.

    Args:
        batch: Structure of arrays.
        rows: How many rows, at most those that there are; `None` for all.

    Returns:
        A number of bytes; 0 where nothing is known.

    Example:
        >>> bytes_of((np.zeros([100, 2], "float32"), None), 10)
        80
    """
    arrays = [array for array in keras.tree.flatten(batch) if array is not None]
    return sum(
        min(len(array), rows or len(array))
        * math.prod(array.shape[1:])
        * tf.as_dtype(array.dtype).size
        for array in arrays
    )


def check_not_empty(x: Any) -> None:
    """Checks that there is an example.

    Args:
        x: Arrays, or a structure of them.

    Raises:
        ValueError: If there is none.

    Example:
        >>> check_not_empty(np.zeros([5, 2]))
    """
    shape = tuple(keras.tree.flatten(x)[0].shape)
    if 0 in shape:
        raise _no_examples(f"x of shape {shape}")


def peeked(x: Any) -> tuple[Any, Any]:
    """The first batch of a pipeline, and the pipeline with nothing taken from it.

    Args:
        x: Arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator, or
            whatever else Keras takes.

    Returns:
        The first batch, as the pipeline yields it, or `None` where it cannot be known;
        and the data to hand on.

    Raises:
        ValueError: If there is no first batch.

    Example:
        >>> first, data = peeked(np.zeros([5, 2]) for _ in range(3))
        >>> first.shape, len(list(data))
        ((5, 2), 3)
    """
    first: Any
    if isinstance(x, tf.data.Dataset):
        first = next(iter(x.take(1)), None)
    elif isinstance(x, keras.utils.PyDataset):
        first = x[0] if x.num_batches != 0 else None
    elif isinstance(x, types.GeneratorType):
        first = next(x, None)
        x = _rejoined(first, x)
    else:
        return None, x
    if first is None:
        raise _no_examples("a pipeline that yields no batch")
    return first, x


def _rejoined(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    """Batches as the tuples that Keras wants of a generator."""
    for batch in itertools.chain([first], rest):
        batch = tuple(batch) if isinstance(batch, list) else batch
        yield batch if isinstance(batch, tuple) else (batch,)


def _no_examples(found: str) -> ValueError:
    return ValueError(
        f"A VAE expects at least one example. Received: {found}. Check what was loaded."
    )


def check_finite(x: Any, missing: Any) -> None:
    """Checks that arrays have no NaN and no infinity, which a network may hide.

    Args:
        x: Array, or a structure of arrays.
        missing: `"nan"` where NaN are allowed.

    Raises:
        ValueError: If there are some.

    Example:
        >>> check_finite(np.array([[1.0, np.nan]]), missing="nan")
    """
    for values in map(np.asarray, keras.tree.flatten(x)):
        if values.dtype.kind != "f":
            continue
        if _all_finite(values):
            continue
        bad = values.size - np.count_nonzero(np.isfinite(values))
        if missing == NAN:
            bad -= np.count_nonzero(np.isnan(values))
        if bad:
            raise ValueError(
                f"A VAE expects finite values. Received: {bad} NaN or infinite of "
                f"{values.size}. Replace them, or leave them out of the likelihood "
                "with `VAE(..., missing='nan')`."
            )


def _all_finite(values: np.ndarray) -> bool:
    """Whether no number is NaN or infinite; in blocks that stay in the cache."""
    if not values.ndim:
        return bool(np.isfinite(values))
    rows = max(2**18 // max(values[:1].size, 1), 1)
    blocks = (values[i : i + rows] for i in range(0, len(values), rows))
    return all(np.isfinite(block).all() for block in blocks)


def check_observed(values: Any, decoder: Any, missing: Any) -> bool:
    """Checks what the decoder is to describe, before a compiled step cannot.

    Args:
        values: Array of shape `(n, ...)`.
        decoder: Its last layer says what values there can be.
        missing: `"nan"`, the number that marks missing entries, or `None`.

    Returns:
        True, but for what it warned of.

    Raises:
        ValueError: If there are none, some are NaN or infinite, or outside the support.

    Example:
        >>> check_observed(np.zeros([5, 3]), tv.IndependentBernoulli(3), None)
        True
    """
    values, likelihood = np.asarray(values), likelihood_of(decoder)
    if missing is None and _fit_by_few(values, likelihood):
        return True
    check_finite(values, missing)
    if likelihood is None or likelihood.parameters_width is None:
        return True
    if missing is not None:
        values = _without_gaps(values, missing)
    if isinstance(likelihood, IndependentBernoulli) and _is_grey(values):
        warnings.warn(
            "A VAE expects of IndependentBernoulli that values are 0 or 1. Received: "
            f"values between {values.min()} and {values.max()}, such as grey pixels, "
            "for which its 'likelihood' is no density. Use "
            "`IndependentContinuousBernoulli`, whose parameters are the same, or round "
            "the values.",
            stacklevel=4,
        )
        return False
    if len(values):
        check_values(values, likelihood)
    return True


def _fit_by_few(values: np.ndarray, likelihood: DistributionLayer | None) -> bool:
    """Whether few of the values are known to say that all are right."""
    few = None if likelihood is None else in_place_of(values, likelihood)
    if few is None or likelihood is None:
        return False
    try:
        check_values(few, likelihood)
    except ValueError:
        return False  # All of them make a better message.
    return True


def _without_gaps(values: np.ndarray, missing: Any) -> np.ndarray:
    """Values with others of the same entry, or any, in place of what is missing."""
    absent = np.isnan(values) if missing == NAN else values == missing
    if absent.all():
        return values[:0]
    of_entry = np.take_along_axis(values, np.argmin(absent, axis=0)[None], axis=0)
    fill = np.where(absent.all(axis=0), values[~absent][0], of_entry)
    return np.where(absent, fill, values)


def _is_grey(values: np.ndarray) -> bool:
    if not values.size or values.min() < 0 or values.max() > 1:
        return False
    blocks = (values[i : i + 1024] for i in range(0, len(values), 1024))
    return any(not np.array_equal(block, np.round(block)) for block in blocks)


def likelihood_of(decoder: Any) -> DistributionLayer | None:
    """The distribution layer that a decoder ends with.

    Args:
        decoder: A layer or a model.

    Returns:
        The layer, or `None` where the decoder is made otherwise.

    Example:
        >>> likelihood_of(tv.IndependentNormal(3)).event_shape
        (3,)
    """
    while not isinstance(decoder, DistributionLayer):
        layers = getattr(decoder, "layers", None)
        if not layers:
            return None
        decoder = layers[-1]
    return decoder


def chunks(x: Any, y: Any, rows: int) -> Iterator[tuple[int, Any, Any]]:
    """Cuts arrays into pieces of one length, the last filled up with the last row.

    Args:
        x: Array, or a structure of arrays.
        y: What belongs to them, of the same length, or `None`.
        rows: Length of a piece.

    Yields:
        How many rows of the piece are examples, and the piece of x and of y.

    Example:
        >>> [(n, len(part)) for n, part, _ in chunks(np.zeros([5, 2]), None, 3)]
        [(3, 3), (2, 3)]
    """
    total = len(keras.tree.flatten(x)[0])
    for start in range(0, total, rows):
        count = min(rows, total - start)
        index = np.minimum(np.arange(start, start + rows), total - 1)
        at = slice(start, start + rows) if count == rows else index

        def piece(array: Any, at: Any = at) -> Any:
            array = np.asarray(array) if isinstance(at, np.ndarray) else array
            return tf.convert_to_tensor(array[at])

        yield count, *(mapped(piece, part) for part in (x, y))


def as_arrays(x: Any, y: Any) -> tuple[Any, Any]:
    """Inputs and conditions as arrays; of a dataset all its batches, joined.

    Args:
        x: Arrays, or a `tf.data.Dataset` of x, or of pairs (x, y).
        y: What belongs to arrays x, or `None`.

    Returns:
        x and y.

    Raises:
        ValueError: If there are no examples.

    Example:
        >>> pairs = tf.data.Dataset.from_tensors((np.zeros([5, 2]), np.zeros(5)))
        >>> x, y = as_arrays(pairs.repeat(2), None)
        >>> x.shape, y.shape
        ((10, 2), (10,))
    """
    if isinstance(x, tf.data.Dataset):
        batches = [keras.utils.unpack_x_y_sample_weight(batch)[:2] for batch in x]
        if not batches:
            raise _no_examples("a dataset that yields no batch")
        parts = list(zip(*batches, strict=True))
        x = _joined(parts[0])
        y = y if parts[1][0] is None else _joined(parts[1])
    if not is_arrays(x):
        raise ValueError(
            "A VAE expects arrays here, or a `tf.data.Dataset`. Received: "
            f"{type(x).__name__}. Collect the examples in a NumPy array."
        )
    check_not_empty(x)
    return x, y


def _joined(batches: Any) -> Any:
    return keras.tree.map_structure(
        lambda *arrays: np.concatenate([np.asarray(a) for a in arrays]), *batches
    )
