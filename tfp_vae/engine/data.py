"""Reads the data of `fit`, `evaluate` and `predict`: arrays or a pipeline."""

import math
import mmap
import random
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Arrays up to this size, all together, are copied to the model's device; larger ones
# are read batch by batch.
RESIDENT_BYTES = 2**30
# The number of random rows after which the pages of a mapped file are released: reading
# a row loads more of the file than the row.
_MAPPED_ROWS = 64
# Some TensorFlow operations have no kernels for these integers.
_INTEGERS = {
    tf.int8: tf.int32,
    tf.int16: tf.int32,
    tf.uint16: tf.int32,
    tf.uint32: tf.int64,
    tf.uint64: tf.int64,
}


def is_pipeline(x: Any) -> bool:
    """Whether data are a pipeline of batches, and not arrays.

    Args:
        x: What `fit` was given.

    Returns:
        True for a `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator and a
        loader of another library.

    Example:
        >>> is_pipeline(tf.data.Dataset.range(5)), is_pipeline(np.zeros([5, 2]))
        (True, False)
    """
    known = tf.data.Dataset | keras.utils.PyDataset | types.GeneratorType
    if isinstance(x, known):
        return True
    sparse = tf.RaggedTensor | tf.SparseTensor
    plain = isinstance(x, list | tuple | dict | set | str | bytes | sparse)
    return not plain and not _is_array(x) and hasattr(x, "__iter__")


def untuned(pipeline: Any) -> Any:
    """Leaves out TensorFlow's tuning of a dataset that does not need it.

    An iterator's end can wait for the thread that tunes it, which sleeps as long as the
    iterator has existed, up to a minute: with TensorFlow 2.21 an epoch of 6 seconds
    took 10. Without tuning `tf.data.AUTOTUNE` is a parallel call for each core, up to
    16, and a buffer that grows as it empties.

    A dataset stays as it is if its options enable the tuning, or if they do not disable
    it and a `map` has no `num_parallel_calls`: only the tuning makes that parallel.

    Args:
        pipeline: A dataset, or anything else.

    Returns:
        The dataset with the option and with `prefetch`, which TensorFlow adds only if
        it tunes; or the same object.

    Example:
        >>> untuned(tf.data.Dataset.range(5)).options().autotune.enabled
        False
    """
    if not isinstance(pipeline, tf.data.Dataset):
        return pipeline
    asked = pipeline.options().autotune.enabled
    if asked is None:
        kinds = {type(stage).__name__ for stage in _stages(pipeline)}
        asked = "_MapDataset" in kinds
    if asked:
        return pipeline
    options = tf.data.Options()
    options.autotune.enabled = False
    return pipeline.with_options(options).prefetch(tf.data.AUTOTUNE)


def _stages(dataset: Any) -> Iterator[Any]:
    """A dataset, and those from which it was made."""
    left, seen = [dataset], set()
    while left:
        stage = left.pop()
        if id(stage) not in seen:
            seen.add(id(stage))
            yield stage
            # There is no public way to the inputs of a dataset, or to their kinds.
            left += stage._inputs()


def is_arrays(x: Any) -> bool:
    """Whether data are arrays, or a structure of arrays, and not a pipeline.

    Args:
        x: What `fit` was given.

    Returns:
        True if every leaf is an array, of any rank: a scalar, too.

    Example:
        >>> is_arrays(np.zeros([5, 2])), is_arrays(tf.data.Dataset.range(5))
        (True, False)
    """
    leaves = keras.tree.flatten(x)
    return bool(leaves) and all(map(_is_array, leaves))


def mapped(fn: Any, structure: Any) -> Any:
    """Applies a function to every array of a structure, and leaves `None` in place.

    Args:
        fn: Function of an array.
        structure: Arrays, and lists, tuples and dictionaries of them.

    Returns:
        The same structure.

    Example:
        >>> mapped(len, (np.zeros(5), None))
        (5, None)
    """
    return keras.tree.map_structure(fn, structure, none_is_leaf=False)


def leaves_of(structure: Any) -> list[Any]:
    """The arrays of a structure, without `None`.

    Args:
        structure: Arrays, and lists, tuples and dictionaries of them.

    Returns:
        A list.

    Example:
        >>> leaves_of((1, None, {"a": 2}))
        [1, 2]
    """
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]


def read(parts: tuple[Any, ...], caller: str) -> Any:
    """Converts arrays of every kind to arrays that can be indexed by rows.

    Lists of numbers and pandas tables become NumPy arrays, variables become tensors,
    and SciPy's sparse matrices get the CSR format. Other objects with `shape`, `dtype`
    and slicing, such as `np.memmap` or an HDF5 dataset, stay as they are. An array that
    occurs twice stays one object.

    Args:
        parts: x, y and weights: arrays, lists, tuples and dictionaries of them, `None`.
        caller: Name of the caller, for the message.

    Returns:
        The same parts.

    Raises:
        ValueError: If a part cannot be read as an array of real numbers.

    Example:
        >>> read(([[1, 2], [3, 4]], None), "fit")[0].shape
        (2, 2)
    """
    seen: dict[int, Any] = {}

    def each(part: Any) -> Any:
        if part is None:
            return None
        if isinstance(part, dict):
            return {name: each(value) for name, value in part.items()}
        if isinstance(part, list | tuple) and not _is_of_numbers(part):
            parts = [each(value) for value in part]
            if isinstance(part, list):
                return parts
            named = hasattr(part, "_fields")
            return type(part)(*parts) if named else tuple(parts)
        if id(part) not in seen:
            seen[id(part)] = part, _as_array(part, caller)
        return seen[id(part)][1]

    return tuple(map(each, parts))


def as_tensor(array: Any) -> tf.Tensor:
    """Converts rows to a tensor on the model's device, as Keras does for a step.

    Args:
        array: NumPy array or tensor.

    Returns:
        A tensor. Floating-point numbers get Keras' default dtype. The integers int8,
        int16 and uint16 become int32, uint32 and uint64 become int64; others stay.

    Example:
        >>> as_tensor(np.zeros(5)).dtype, as_tensor(np.zeros(5, "uint16")).dtype
        (tf.float32, tf.int32)
    """
    # Without `identity`, an array stays in host memory even if there is a GPU.
    return tf.identity(tf.cast(array, dtype_of(array)))


def dtype_of(array: Any) -> tf.DType:
    """The dtype to which `as_tensor` converts an array.

    Args:
        array: An array.

    Returns:
        A `tf.DType`.

    Example:
        >>> dtype_of(np.zeros(5))
        tf.float32
    """
    dtype = tf.as_dtype(array.dtype)
    if dtype.is_floating:
        return tf.as_dtype(keras.config.floatx())
    return _INTEGERS.get(dtype, dtype)


def size_of(structure: Any, rows: int | None = None) -> int:
    """The memory that rows of arrays take as tensors.

    Args:
        structure: Arrays, and lists, tuples and dictionaries of them, and `None`.
        rows: The number of rows, limited to those of the arrays; `None` for all.

    Returns:
        A number of bytes.

    Example:
        >>> size_of((np.zeros([100, 2]), None), 10)
        80
    """
    unique = {id(leaf): leaf for leaf in leaves_of(structure)}.values()
    return sum(
        min(leaf.shape[0], leaf.shape[0] if rows is None else rows)
        * math.prod(leaf.shape[1:])
        * dtype_of(leaf).size
        for leaf in unique
    )


def resident(structure: Any) -> Any:
    """Copies arrays to the model's device, if they are small enough.

    Args:
        structure: As `read` returns it.

    Returns:
        The structure with tensors; unchanged if it is larger than 1 GiB. Sparse
        matrices stay sparse.

    Example:
        >>> resident((np.zeros(5), None))[0].dtype
        tf.float32
    """
    if is_pipeline(leaves_of(structure)[0]) or size_of(structure) > RESIDENT_BYTES:
        return structure
    made: dict[int, Any] = {}

    def each(array: Any) -> Any:
        if _is_sparse(array):
            return array
        if id(array) not in made:
            dense = tf.is_tensor(array) or isinstance(array, np.ndarray)
            made[id(array)] = as_tensor(array if dense else array[:])
            _release(array)
        return made[id(array)]

    return mapped(each, structure)


def rows_of(array: Any, index: Any) -> tf.Tensor:
    """Some rows of an array, as a tensor.

    Args:
        array: What `read` or `resident` returned.
        index: Integers of any shape.

    Returns:
        A tensor of shape `(*index.shape, *array.shape[1:])`.

    Example:
        >>> rows_of(np.arange(5), np.array([[3, 1]])).numpy()
        array([[3, 1]])
    """
    flat = index.ravel()
    if tf.is_tensor(array):
        count, first = len(flat), flat[0] if len(flat) else 0
        if np.array_equal(flat, np.arange(first, first + count)):  # A slice suffices.
            rows = array[first : first + count]
            return tf.reshape(rows, [*index.shape, *array.shape[1:]])
        return tf.gather(array, index)
    if isinstance(array, np.memmap):
        pieces = range(0, len(flat), _MAPPED_ROWS)
        found = np.empty((len(flat), *array.shape[1:]), array.dtype)
        for start in pieces:
            found[start : start + _MAPPED_ROWS] = array[
                flat[start : start + _MAPPED_ROWS]
            ]
            _release(array)
    elif isinstance(array, np.ndarray):
        found = array[flat]
    elif _is_sparse(array):
        found = array[flat].toarray()
    else:  # HDF5 accepts only increasing, unique indices.
        unique, places = np.unique(flat, return_inverse=True)
        try:
            found = np.asarray(array[unique])[places]
        except (IndexError, TypeError):  # It supports only slices.
            rows = [np.asarray(array[i : i + 1]) for i in unique.tolist()]
            found = np.concatenate(rows)[places]
    return as_tensor(np.asarray(found).reshape(*index.shape, *array.shape[1:]))


def blocks_of(array: Any, size: int = 2**20) -> Iterator[Any]:
    """Yields dense blocks of rows, to keep a large array out of memory.

    Args:
        array: What `read` returned.
        size: Approximate number of elements in a block.

    Yields:
        NumPy arrays.

    Example:
        >>> [len(block) for block in blocks_of(np.zeros([5, 2]), size=4)]
        [2, 2, 1]
    """
    rows = max(size // max(math.prod(array.shape[1:]), 1), 1)
    array = np.asarray(array) if isinstance(array, tf.Tensor) else array  # no copy
    for start in range(0, array.shape[0], rows):
        block = array[start : start + rows]
        yield np.asarray(block.toarray() if _is_sparse(array) else block)
        _release(array)


def as_array(array: Any) -> np.ndarray:
    """The whole of an array in memory, in its own dtype.

    Args:
        array: What `read` returned; a sparse matrix becomes dense.

    Returns:
        A NumPy array.

    Example:
        >>> as_array(tf.constant([1, 2]))
        array([1, 2], dtype=int32)
    """
    return np.asarray(array.toarray() if _is_sparse(array) else array)


def first_rows(structure: Any, rows: int) -> Any:
    """The first rows of arrays, as tensors.

    Args:
        structure: As `read` returns it.
        rows: The number of rows.

    Returns:
        The same structure.

    Example:
        >>> first_rows((np.zeros([5, 3]), None), 2)[0].shape
        TensorShape([2, 3])
    """
    return mapped(
        lambda array: rows_of(array, np.arange(min(rows, array.shape[0]))), structure
    )


def check_rows(structure: Any, caller: str) -> int:
    """Checks that all arrays have the same number of examples, at least one.

    Args:
        structure: Arrays, and lists, tuples and dictionaries of them, and `None`.
        caller: Name of the caller, for the message.

    Returns:
        The number of examples.

    Raises:
        ValueError: If arrays have unequal lengths, or there is no example.

    Example:
        >>> check_rows((np.zeros([5, 2]), None), "fit")
        5
    """
    shapes = [tuple(leaf.shape) for leaf in leaves_of(structure)]
    lengths = sorted({shape[0] for shape in shapes if shape})
    if not shapes or 0 in lengths or any(0 in shape for shape in shapes[:1]):
        raise no_examples(caller, f"x of shape {shapes[0] if shapes else None}")
    if len(lengths) != 1 or not all(shapes):
        raise ValueError(
            f"`{caller}` expects arrays of equal length on the first axis. Received: "
            f"arrays of shapes {shapes}. Give the same number of rows in each."
        )
    return int(lengths[0])


def no_examples(caller: str, found: str) -> ValueError:
    """Makes the error for data without examples.

    Args:
        caller: Name of the caller.
        found: What was received.

    Returns:
        The error, to be raised.

    Example:
        >>> no_examples("fit", "an empty list")
        ValueError('`fit` expects at least one example. Received: an empty list. ...')
    """
    return ValueError(
        f"`{caller}` expects at least one example. Received: {found}. Check what was "
        "loaded."
    )


def split(rows: int, fraction: float, caller: str = "fit") -> tuple[range, range]:
    """Splits rows into training and validation rows, as Keras does.

    Args:
        rows: The number of rows.
        fraction: The fraction for validation, taken from the end.
        caller: Name of the caller, for the message.

    Returns:
        Both ranges of rows.

    Raises:
        ValueError: If one of them is empty.

    Example:
        >>> split(10, 0.25)
        (range(0, 7), range(7, 10))
    """
    at = math.floor(rows * (1.0 - fraction)) if 0 < fraction < 1 else 0
    if not 0 < at < rows:
        raise ValueError(
            f"`{caller}` expects `validation_split` to leave rows for training and for "
            f"validation. Received: validation_split={fraction} of {rows} rows. Give "
            "another fraction, or `validation_data`."
        )
    return range(at), range(at, rows)


def class_weights(y: Any, class_weight: dict[int, float], caller: str) -> np.ndarray:
    """The weight of each example, by its class.

    Args:
        y: Classes of shape `(n,)` or `(n, 1)`, or one-hot of shape `(n, classes)`.
            Smoothed ones count as the nearest class, as in Keras.
        class_weight: Weights by class; other classes have weight 1.
        caller: Name of the caller, for the message.

    Returns:
        An array of shape `(n,)`.

    Raises:
        ValueError: If y is not a single array of classes.

    Example:
        >>> class_weights(np.array([0, 2, 1]), {2: 5.0}, "fit")
        array([1., 5., 1.], dtype=float32)
    """
    if y is None or not _is_array(y) or len(y.shape) > 2:
        raise ValueError(
            f"`{caller}` with `class_weight` expects y to be one array of classes. "
            f"Received: {type(y).__name__} of shape {getattr(y, 'shape', None)}. Give "
            "`sample_weight`, one number for each example."
        )
    y = np.asarray(y)
    one_hot = y.ndim == 2 and y.shape[1] > 1
    classes = y.argmax(axis=1) if one_hot else np.round(y.reshape(-1))
    weights = np.ones(len(classes), keras.config.floatx())
    for number, weight in class_weight.items():
        weights[classes == number] = weight
    return weights


def packed(x: Any, y: Any, sample_weight: Any) -> Any:
    """Packs a batch as Keras does for a step, but keeps weights without y.

    Args:
        x: Inputs.
        y: Targets or `None`.
        sample_weight: Weights or `None`.

    Returns:
        x, `(x, y)` or `(x, y, sample_weight)`.

    Example:
        >>> packed(1, None, None), packed(1, 2, None), packed(1, None, 3)
        (1, (1, 2), (1, None, 3))
    """
    if sample_weight is not None:
        return x, y, sample_weight
    return keras.utils.pack_x_y_sample_weight(x, y)


class Rows(keras.utils.PyDataset):
    """Batches of arrays for Keras' own loops, which would copy the arrays whole.

    Args:
        arrays: Structure of arrays, as `read` returns it; batches have the same.
        batch_size: Batch size; the last batch may be smaller.
        rows: The rows to use.
        shuffle: Whether to reshuffle the rows every epoch; `"batch"` to do so within
            each batch.

    Example:
        >>> rows = Rows((np.zeros([5, 2]),), 2, range(5))
        >>> len(rows), rows[2][0].shape
        (3, TensorShape([1, 2]))
    """

    def __init__(
        self, arrays: Any, batch_size: int, rows: range, shuffle: Any = False
    ) -> None:
        super().__init__()
        self._arrays, self._size = arrays, batch_size
        self._shuffle, self._order = shuffle, np.arange(rows.start, rows.stop)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Reshuffles the rows."""
        if not self._shuffle:
            return
        rng = np.random.default_rng(random.getrandbits(32))
        size = self._size if self._shuffle == "batch" else len(self._order)
        starts = range(0, len(self._order), size)
        parts = [rng.permutation(self._order[i : i + size]) for i in starts]
        self._order = np.concatenate(parts)

    def __len__(self) -> int:
        """The number of batches."""
        return math.ceil(len(self._order) / self._size)

    def __getitem__(self, number: int) -> Any:
        """A batch."""
        rows = self._order[number * self._size : (number + 1) * self._size]
        return mapped(lambda array: rows_of(array, np.asarray(rows)), self._arrays)


def is_streamed(structure: Any) -> bool:
    """Whether arrays are read batch by batch.

    Args:
        structure: As `read` returns it.

    Returns:
        True for arrays that are large, sparse, or of another library.

    Example:
        >>> is_streamed((np.zeros(5), None))
        False
    """
    leaves = leaves_of(structure)
    plain = all(tf.is_tensor(a) or isinstance(a, np.ndarray) for a in leaves)
    return not plain or size_of(structure) > RESIDENT_BYTES


def _is_array(array: Any) -> bool:
    return hasattr(array, "shape") and (
        hasattr(array, "dtype") or hasattr(array, "to_numpy")
    )


def _is_sparse(array: Any) -> bool:
    """Whether an array is a SciPy sparse matrix."""
    return hasattr(array, "tocsr")


def _is_of_numbers(part: Any) -> bool:
    """Whether a list contains numbers, or lists of numbers."""
    leaves = keras.tree.flatten(part)
    return bool(leaves) and all(
        isinstance(leaf, int | float | complex | np.number) for leaf in leaves
    )


def _as_array(part: Any, caller: str) -> Any:
    if isinstance(part, list | tuple):
        try:
            part = np.asarray(part)
        except ValueError:  # of unequal lengths
            raise _not_numbers(caller, "a list of lists of unequal lengths") from None
    if isinstance(part, tf.Variable | keras.Variable):
        part = tf.convert_to_tensor(part)
    if isinstance(part, tf.RaggedTensor | tf.SparseTensor | np.ma.MaskedArray):
        raise _not_numbers(caller, f"a {type(part).__name__}")
    if _is_sparse(part):
        part = part.tocsr()
    elif hasattr(part, "to_numpy"):
        part = part.to_numpy()
    elif not tf.is_tensor(part) and hasattr(part, "__array__"):
        # Arrays with `chunks` (HDF5) are read by rows; others become NumPy arrays.
        known = isinstance(part, np.ndarray) or hasattr(part, "chunks")
        part = part if known else np.asarray(part)
    if _is_array(part) and len(part.shape) == 0:
        raise ValueError(
            f"`{caller}` expects a row for each example. Received: one number, "
            f"{part!r:.60}. Repeat it, `np.repeat(value, n)`."
        )
    if not _is_array(part):
        raise _not_numbers(caller, f"{part!r:.60} of type {type(part).__name__}")
    try:
        dtype = tf.as_dtype(part.dtype)
    except TypeError:
        raise _not_numbers(caller, f"an array of dtype {part.dtype}") from None
    numpy_text = isinstance(part, np.ndarray) and part.dtype.kind in "OSU"
    if dtype.is_complex or numpy_text:
        raise _not_numbers(caller, f"an array of dtype {part.dtype}")
    return part


def _not_numbers(caller: str, found: str) -> ValueError:
    return ValueError(
        f"`{caller}` expects arrays of real numbers. Received: {found}. Give a NumPy "
        "array, a tensor, a table of numbers, a SciPy sparse matrix, or a pipeline of "
        "batches; strings for a layer that reads them as `tf.constant(strings)`."
    )


def _release(array: Any) -> None:
    """Releases the pages of a mapped file, which would otherwise fill the memory."""
    if not isinstance(array, np.memmap) or array.mode == "c":  # "c": copy-on-write
        return
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
