"""Batches on their way into a program of many steps: pulled, gathered, stacked."""

import functools
import math
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import tfp_vae.models.inputs as data
from tfp_vae.models.resident import as_tensor
from tfp_vae.seeds import Seeds

# Steps in one program of training and of evaluation, which few callbacks look at, and
# the bytes that their batches may take.
_STEPS, _TEST_STEPS = 64, 256
_STAGED_BYTES = 2**26
# Steps of evaluation, of one shape, before two are computed side by side, and the bytes
# of a batch up to which that is faster.
_STEPS_TO_PAIR, _PAIRED_BYTES = 8192, 2**22


class Chunk(NamedTuple):
    """Batches of one length, as rows of arrays.

    Args:
        arrays: Structure of tensors of shape `(n, ...)`, and `None`.
        rows: Which of the n are in each batch: integers of shape `(steps, batch)`.
        number: How many of the steps are to be made.
        spec: The structure, of the `tf.TensorSpec` of a batch.
    """

    arrays: Any
    rows: Any
    number: int
    spec: Any


class Rows:
    """Arrays that stay where the model computes, and the batches of their rows.

    Keras gets the numbers of batches only, and iterates over them as over any dataset.
    Rows are put in another order at each pass, which Keras itself does not do after
    `keras.utils.set_random_seed`: there each pass has the order of the first.

    Args:
        arrays: Structure of tensors with one first axis.
        rows: Which of the rows.
        batch_size: Length of a batch, but for the last.

    Example:
        >>> rows = Rows((tf.range(7), None), range(7), 2)
        >>> chunks = rows.chunks(iter(rows.numbers()), 9, 4)
        >>> [(chunk.rows.tolist(), chunk.number) for chunk in chunks]
        [([[0, 1], [2, 3], [4, 5], [6, 6]], 3), ([[6]], 1)]
    """

    def __init__(self, arrays: Any, rows: range, batch_size: int) -> None:
        self._arrays, self._rows, self._size = arrays, rows, int(batch_size)
        self._shuffle: Any = False
        self._seeds: Seeds | None = None
        self._spec = data.mapped(data.any_length, arrays)
        self._order = np.arange(rows.start, rows.stop, dtype="int32")
        self.num_batches = math.ceil(len(rows) / self._size)
        self._taken: Any = weakref.WeakKeyDictionary()

    def shuffle(self, how: Any, seeds: Seeds) -> None:
        """Has the rows put in another order at each pass.

        Args:
            how: True, False, or `"batch"` for another order within each batch only.
            seeds: Where the order comes from.
        """
        self._shuffle, self._seeds = how, seeds

    def numbers(self) -> tf.data.Dataset:
        """The numbers of the batches of a pass."""
        return _numbers(self.num_batches)

    def chunks(
        self, iterator: tf.data.Iterator, most: int, steps: int
    ) -> Iterator[Chunk]:
        """The next batches of a pass.

        Args:
            iterator: Over the numbers of batches.
            most: How many batches to take, if there are so many.
            steps: How many a chunk has room for.

        Yields:
            The batches of full length, then the shorter one, if they are among them.

        Raises:
            tf.errors.OutOfRangeError: If there is no batch left.
        """
        first = self._taken.get(iterator, 0)
        count = min(most, self.num_batches - first)
        if not count:
            raise tf.errors.OutOfRangeError(None, None, "There is no batch left.")
        # To take the numbers out of the iterator costs more than all else here.
        self._taken[iterator] = first + count
        if not first and self._seeds is not None and self._shuffle:
            # Not through `Seeds.next`, in ms: NumPy scrambles a seed itself.
            self._order = self._new_order(self._seeds.generator.next())
        full = min(count, len(self._rows) // self._size - first)
        if full:
            # Always of as many steps, since XLA compiles for one number of them.
            start = first * self._size
            yield self._chunk(start, steps, self._size, full)
        if count > full:
            at = len(self._rows) // self._size * self._size
            yield self._chunk(at, 1, len(self._rows) - at, 1)

    def _chunk(self, first: int, steps: int, size: int, count: int) -> Chunk:
        """Rows from a place in the order on; after its end the last one again."""
        places = np.minimum(np.arange(first, first + steps * size), len(self._rows) - 1)
        rows = self._order[places].reshape(steps, size)
        return Chunk(self._arrays, rows, count, self._spec)

    def _new_order(self, seed: tf.Tensor) -> np.ndarray:
        rng = np.random.default_rng(np.asarray(seed).view("uint32"))
        numbers = np.arange(self._rows.start, self._rows.stop, dtype="int32")
        if self._shuffle != "batch":
            return rng.permutation(numbers)
        batches = np.split(numbers, range(self._size, len(numbers), self._size))
        return np.concatenate([rng.permutation(batch) for batch in batches])


@functools.lru_cache
def _numbers(count: int) -> tf.data.Dataset:
    """The numbers below a number."""
    options = tf.data.Options()
    # There is nothing to tune, and it takes time.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return tf.data.Dataset.range(count).with_options(options)


def _following(iterator: Any, wanted: tf.Tensor) -> Any:
    """The next of an iterator, if it is wanted."""
    return tf.cond(
        wanted,
        iterator.get_next_as_optional,
        lambda: tf.experimental.Optional.empty(iterator.element_spec),
    )


def steps_at_once(num_batches: int | None, size: int, training: bool = True) -> int:
    """How many steps make one program, where the user does not say.

    So many that calling it costs little beside them, so few that the progress bar
    moves and their batches take little memory; and such that the last program of an
    epoch is about as long as the others.

    Args:
        num_batches: The batches of an epoch, or `None` where not known.
        size: Bytes of a batch.
        training: Whether they train.

    Returns:
        A number from 1 to 64, of evaluation to 256.

    Example:
        >>> steps_at_once(391, 128 * 784 * 4), steps_at_once(3, 128 * 784 * 4)
        (56, 3)
        >>> steps_at_once(None, 2**24)
        4
    """
    steps = _STEPS if training else _TEST_STEPS
    most = max(1, min(steps, _STAGED_BYTES // max(size, 1)))
    if num_batches is None:
        return most
    return math.ceil(num_batches / math.ceil(num_batches / most))


def steps_together(steps: int, size: int, made: int) -> int:
    """How many steps of evaluation to compute side by side.

    A program of two takes 2 to 3 s to compile, and saves 0.1 to 0.7 ms a step: a model
    that has made thousands will make more. Two take the memory of two, and steps of
    large batches keep all cores busy by themselves.

    Args:
        steps: How many a program has room for.
        size: Bytes of a batch, times the draws.
        made: How many of such a shape were made before.

    Returns:
        1 or 2.

    Example:
        >>> batch = 128 * 784 * 4
        >>> steps_together(157, batch, 9000), steps_together(157, batch, 500)
        (2, 1)
        >>> steps_together(157, 50 * batch, 9000), steps_together(1, batch, 9000)
        (1, 1)
    """
    pays = made >= _STEPS_TO_PAIR and steps > 1
    return 2 if pays and size <= _PAIRED_BYTES else 1


def stacks(iterator: tf.data.Iterator) -> bool:
    """Whether all that a pipeline yields is dense tensors, which can be stacked.

    Args:
        iterator: An iterator over batches.

    Returns:
        True for those.

    Example:
        >>> stacks(iter(tf.data.Dataset.range(5).batch(2)))
        True
    """
    return all(
        isinstance(spec, tf.TensorSpec) and bool(spec.shape.rank)
        for spec in tf.nest.flatten(iterator.element_spec)
    )


class Stack:
    """Pulls batches from a pipeline and joins those of one shape.

    Example:
        >>> batches = iter(tf.data.Dataset.range(7).batch(2))
        >>> for chunk in Stack().chunks(batches, 4, 4):
        ...     print(chunk.arrays.numpy()[chunk.rows].tolist(), chunk.number)
        [[0, 1], [2, 3], [4, 5], [0, 0]] 3
        [[6]] 1
    """

    def __init__(self) -> None:
        self._pull = tf.function(_pull, reduce_retracing=True, autograph=False)

    def chunks(
        self, iterator: tf.data.Iterator, most: int, steps: int
    ) -> Iterator[Chunk]:
        """The next batches, in their order.

        Args:
            iterator: Over batches.
            most: How many batches to take, if there are so many.
            steps: How many a chunk has room for.

        Yields:
            Chunks: one, where all batches have one shape.

        Raises:
            tf.errors.OutOfRangeError: If there is no batch left.
        """
        spec, left = iterator.element_spec, most
        while left:
            try:
                arrays, count, other = self._pull(
                    iterator, tf.constant(left), steps=steps
                )
            except tf.errors.OutOfRangeError:
                if left == most:
                    raise
                return
            left -= int(count)
            rows = np.arange(len(tf.nest.flatten(arrays)[0]), dtype="int32")
            yield Chunk(arrays, rows.reshape(steps, -1), int(count), spec)
            if not (left and other.has_value()):
                return
            left -= 1
            yield of_batch(other.get_value(), spec)


def of_batch(batch: Any, spec: Any = None) -> Chunk:
    """One batch as a chunk.

    Args:
        batch: Structure of arrays.
        spec: As of the chunk, where it is known.

    Returns:
        The chunk.

    Example:
        >>> of_batch((np.zeros([2, 3]), None)).rows
        array([[0, 1]], dtype=int32)
    """
    tensors = batch
    if spec is None:
        if not data.is_arrays([a for a in keras.tree.flatten(batch) if a is not None]):
            raise ValueError(
                "`VAE` expects batches that are arrays. Received: a "
                f"{type(keras.tree.flatten(batch)[0]).__name__} inside of a batch. "
                "Give NumPy arrays or tensors."
            )
        tensors = data.mapped(as_tensor, batch)
        spec = data.mapped(data.any_length, tensors)
    count = len(keras.tree.flatten(tensors)[0])
    return Chunk(tensors, np.arange(count, dtype="int32")[None], 1, spec)


def _pull(iterator: Any, most: tf.Tensor, steps: int) -> tuple[Any, tf.Tensor, Any]:
    """Joins batches until one has another shape, which is returned beside them."""
    first = iterator.get_next()
    flat = tf.nest.flatten(first)

    def has_one_shape(batch: Any) -> tf.Tensor:
        pairs = zip(tf.nest.flatten(batch.get_value()), flat, strict=True)
        same = [tf.reduce_all(tf.equal(tf.shape(a), tf.shape(b))) for a, b in pairs]
        return tf.reduce_all(same)

    def goes_on(i: tf.Tensor, batch: Any, arrays: Any) -> tf.Tensor:
        there = tf.logical_and(i < most, batch.has_value())
        return tf.cond(there, lambda: has_one_shape(batch), lambda: tf.constant(False))

    def body(i: tf.Tensor, batch: Any, arrays: Any) -> tuple[Any, ...]:
        parts = tf.nest.flatten(batch.get_value())
        arrays = [a.write(i, part) for a, part in zip(arrays, parts, strict=True)]
        return i + 1, _following(iterator, i + 1 < most), arrays

    arrays = [
        tf.TensorArray(t.dtype, steps, element_shape=t.shape).write(0, t) for t in flat
    ]
    one = tf.constant(1)
    count, other, arrays = tf.while_loop(
        goes_on, body, [one, _following(iterator, one < most), arrays]
    )
    # Always of as many steps, since XLA compiles for one number of them.
    joined = [
        _filled(array.gather(tf.range(count)), steps, tf.shape(t))
        for array, t in zip(arrays, flat, strict=True)
    ]
    return tf.nest.pack_sequence_as(first, joined), count, other


def _filled(batches: tf.Tensor, steps: int, shape: tf.Tensor) -> tf.Tensor:
    """Batches one behind the other, with zeros for those missing."""
    missing = tf.maximum(steps - tf.shape(batches)[0], 0)
    padding = [[0, missing]] + [[0, 0]] * (batches.shape.rank - 1)
    full = tf.cond(missing > 0, lambda: tf.pad(batches, padding), lambda: batches)
    return tf.reshape(full, tf.concat([[steps * shape[0]], shape[1:]], axis=0))
