"""Runs networks on many rows in pieces, to limit the memory."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.engine import data

# The most rows in one piece, and the most numbers that the widest layer may output for
# them.
ROWS = 1024
_WIDTH = 2**22
# Bytes of the arrays in one call of a program.
_HANDED_BYTES = 2**25
# Pieces computed in parallel.
_AT_ONCE = 4


class DistributionInPieces:
    """A function from rows to a distribution, computed in pieces by one program.

    It runs without XLA: TensorFlow computes up to four pieces in parallel, and overlaps
    element-wise operations of one with matrix products of another. The parameters of
    the pieces are concatenated along the batch, if TFP can take the distribution apart.

    Args:
        fn: From a structure of tensors to a distribution of batch shape `(rows,)`.
        rows: Length of a piece; the last may be shorter.
        spec: Structure of the `tf.TensorSpec` of the arrays, of any length.

    Example:
        >>> in_pieces = DistributionInPieces(
        ...     lambda x: tfd.Independent(tfd.Normal(x, 1.0), 1), 2,
        ...     tf.TensorSpec([None, 3]))
        >>> in_pieces(tf.zeros([5, 3])).batch_shape
        TensorShape([5])
    """

    def __init__(self, fn: Callable[[Any], Any], rows: int, spec: Any) -> None:
        self._fn, self._rows = fn, rows
        self._is_batched: list[bool] = []
        self._distribution: Any = None
        # Partials: TensorFlow counts the traces of equal code together, and warns.
        options = {"autograph": False, "input_signature": [spec]}
        self._piece = tf.function(functools.partial(self._parameters), **options)
        self._program = tf.function(functools.partial(self._whole), **options)
        self._piece.get_concrete_function()

    @property
    def can_take_apart(self) -> bool:
        """Whether the distribution can be made in pieces."""
        return self._distribution is not None

    def __call__(self, arrays: Any) -> Any:
        """The distribution of all rows.

        Args:
            arrays: Structure of arrays with one first axis.

        Returns:
            A distribution.
        """
        row = data.size_of(arrays, 1)
        most = self._rows * max(1, _HANDED_BYTES // max(row * self._rows, 1))
        count = data.leaves_of(arrays)[0].shape[0]
        found = [
            self._program(
                data.mapped(lambda part, i=i: _cut(part, i, i + most), arrays)
            )
            for i in range(0, count, most)
        ]
        return rebuilt(self._distribution, joined(found, self._is_batched))

    def _parameters(self, arrays: Any) -> list[tf.Tensor]:
        """The tensors that a distribution is made of."""
        distribution = self._fn(arrays)
        tensors, self._is_batched = taken_apart(distribution)
        if tensors:
            self._distribution = distribution
        return tensors

    def _whole(self, arrays: Any) -> list[tf.Tensor]:
        outputs = self._piece.get_concrete_function().structured_outputs
        count = tf.shape(tf.nest.flatten(arrays)[0])[0]
        pieces = -(-count // self._rows)
        found = [
            tf.TensorArray(output.dtype, pieces, infer_shape=False)
            for output in outputs
        ]

        def body(i: tf.Tensor, found: Any) -> tuple[Any, Any]:
            at = slice(i * self._rows, (i + 1) * self._rows)
            tensors = self._piece(data.mapped(lambda array: array[at], arrays))
            pairs = zip(found, tensors, strict=True)
            return i + 1, [array.write(i, tensor) for array, tensor in pairs]

        found = tf.while_loop(
            lambda i, found: i < pieces,
            body,
            (tf.constant(0), found),
            parallel_iterations=_AT_ONCE,
        )[1]
        pairs = zip(found, outputs, self._is_batched, strict=True)
        return [
            tf.ensure_shape(array.concat() if batched else array.read(0), output.shape)
            for array, output, batched in pairs
        ]


def taken_apart(distribution: Any) -> tuple[list[tf.Tensor], list[bool]]:
    """The tensors that a distribution is made of, in a graph for any number of rows.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        The tensors, and which of them have an axis of rows; empty lists if TFP cannot
        take it apart.

    Example:
        >>> taken_apart(tfd.Normal([0.0], 1.0))[1]
        [False, False]
    """
    tensors = tf.nest.flatten(distribution, expand_composites=True)
    if not can_be_rebuilt(distribution, tensors):
        return [], []
    # Only tensors with an axis of rows have an unknown length.
    return tensors, [bool(t.shape.rank) and t.shape[0] is None for t in tensors]


def joined(pieces: Any, is_batched: list[bool]) -> list[tf.Tensor]:
    """The tensors of all rows.

    Args:
        pieces: The tensors of each piece of the data.
        is_batched: Which of them have an axis of rows.

    Returns:
        A list.

    Example:
        >>> pieces = [(tf.zeros([2]), 1.0), (tf.zeros([1]), 1.0)]
        >>> rows, scale = joined(pieces, [True, False])
        >>> rows.shape, scale
        (TensorShape([3]), 1.0)
    """
    columns = zip(is_batched, zip(*pieces, strict=True), strict=True)
    return [tf.concat(parts, 0) if rows else parts[0] for rows, parts in columns]


def rebuilt(distribution: Any, tensors: list[tf.Tensor]) -> Any:
    """A distribution like another one, made of other tensors.

    Args:
        distribution: A `tfd.Distribution`.
        tensors: What `tf.nest.flatten` would make of it.

    Returns:
        A `tfd.Distribution`.

    Example:
        >>> rebuilt(tfd.Normal(0.0, 1.0), [tf.zeros([3]), tf.ones([3])]).batch_shape
        TensorShape([3])
    """
    return tf.nest.pack_sequence_as(distribution, tensors, expand_composites=True)


def can_be_rebuilt(distribution: Any, tensors: list[Any]) -> bool:
    """Whether TFP can take a distribution apart and rebuild it.

    Args:
        distribution: A `tfd.Distribution`.
        tensors: What `tf.nest.flatten` made of it.

    Returns:
        True if it can.

    Example:
        >>> can_be_rebuilt(tfd.Normal(0.0, 1.0), [tf.zeros([3]), tf.ones([3])])
        True
    """
    if not all(map(tf.is_tensor, tensors)):
        return False
    try:
        return type(rebuilt(distribution, tensors)) is type(distribution)
    except (AttributeError, TypeError, ValueError):
        return False


def _cut(array: Any, start: int, stop: int) -> tf.Tensor:
    if tf.is_tensor(array):
        return data.as_tensor(array[start:stop])
    return data.rows_of(array, np.arange(start, min(stop, array.shape[0])))


def any_length(array: Any) -> tf.TensorSpec:
    """The spec of a batch of any length.

    Args:
        array: Array or tensor of shape `(n, ...)`.

    Returns:
        A spec that leaves the length open.

    Example:
        >>> any_length(np.zeros([5, 3], "float32"))
        TensorSpec(shape=(None, 3), dtype=tf.float32, name=None)
    """
    return tf.TensorSpec([None, *array.shape[1:]], data.dtype_of(array))


def pieces_of(x: Any, y: Any, rows: int) -> Iterator[tuple[int, Any, Any]]:
    """Cuts arrays into pieces of equal length; the last repeats the last row.

    Args:
        x: Array, or a structure of arrays.
        y: Array, or a structure of arrays, of the same length, or `None`.
        rows: Length of a piece.

    Yields:
        How many rows of the piece are examples, and the piece of x and of y.

    Example:
        >>> [(n, len(part)) for n, part, _ in pieces_of(np.zeros([5, 2]), None, 3)]
        [(3, 3), (2, 3)]
    """
    total = data.leaves_of(x)[0].shape[0]
    for start in range(0, total, rows):
        index = np.minimum(np.arange(start, start + rows), total - 1)

        def piece(array: Any, index: Any = index) -> Any:
            return data.rows_of(array, index)

        yield min(rows, total - start), *(data.mapped(piece, part) for part in (x, y))


def rows_at_once(network: Any, most: int) -> int:
    """The number of rows that a network computes at once without much memory.

    Args:
        network: A Keras model.
        most: The upper limit, and the result if the layers' shapes are unknown.

    Returns:
        A power of two, or `most`. For this many rows, if more than one, no layer of
        known shape outputs more than 2^22 numbers.

    Example:
        >>> wide = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2**18)])
        >>> rows_at_once(wide, 1024), rows_at_once(wide.layers[0], 1024)
        (16, 1024)
    """
    widest = max([1, *_widths(network)])
    return min(most, 2 ** max((_WIDTH // widest).bit_length() - 1, 0))


def _widths(network: Any) -> Iterator[int]:
    """The size of each layer's output for one row, if known."""
    for layer in network.layers if isinstance(network, keras.Model) else ():
        yield from _widths(layer)
        try:
            outputs = keras.tree.flatten(layer.output)
        except (AttributeError, ValueError):  # Not called yet, or inside another.
            continue
        for output in outputs:
            yield math.prod(side for side in output.shape[1:] if side is not None)
