"""Stacks of batches from arrays or pipelines; a program runs one stack per call."""

import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.engine import data


class Stack(NamedTuple):
    """Batches of one shape, stacked.

    Args:
        tensors: Tensors of shape `(capacity, batch, ...)`.
        structure: Structure of a batch; its leaves are indices of `tensors`, or `None`.
        number: The number of batches; what follows them in `tensors` is padding.
        is_full: Whether the batches have the usual size.
        static_batch_size: The batch size, if the pipeline declares a static one.
    """

    tensors: list[tf.Tensor]
    structure: Any
    number: int
    is_full: bool
    static_batch_size: int | None = None


class Source(Protocol):
    """A source of batches."""

    num_batches: int | None
    # Whether all batches are known to have the same size.
    is_even: bool
    # The seed and the sizes from which rows are shuffled; `None` for a pipeline.
    shuffling: list[int] | None

    def begin(self, epoch: int, at: int = 0) -> None:
        """Starts a pass at batch `at`, which is 0 if `shuffling` is `None`."""

    def take(self, most: int, capacity: int) -> Stack | None:
        """Up to `most` batches, padded to `capacity`; `None` at the end."""

    def batch(self) -> tuple[int, Any]:
        """The bytes of a batch of the usual size, and a key for its shapes."""


class ArrayBatches:
    """Batches of array rows, which `shuffle` reorders every epoch.

    Keras, after `keras.utils.set_random_seed`, gives every epoch the same order.

    Args:
        arrays: Structure of arrays of equal length, and `None`.
        rows: The rows to use.
        batch_size: Batch size; the last batch may be smaller.
        shuffle: True, False, or `"batch"` to shuffle only within each batch.
        seed: Integer seed of the shuffling.

    Example:
        >>> batches = ArrayBatches((tf.range(7), None), range(7), 2)
        >>> batches.begin(epoch=0)
        >>> stacks = [batches.take(most=2, capacity=2) for _ in range(4)]
        >>> [stack and stack.tensors[0].numpy().tolist() for stack in stacks]
        [[[0, 1], [2, 3]], [[4, 5], [5, 5]], [[6]], None]
    """

    def __init__(
        self,
        arrays: Any,
        rows: range,
        batch_size: int,
        shuffle: Any = False,
        seed: int = 0,
    ) -> None:
        arrays = data.resident(arrays)
        unique = {id(leaf): leaf for leaf in data.leaves_of(arrays)}
        places = {key: place for place, key in enumerate(unique)}
        self._arrays = list(unique.values())
        self._structure = data.mapped(lambda leaf: places[id(leaf)], arrays)
        self._size, self._shuffle, self._seed = int(batch_size), shuffle, seed
        self._rows = np.arange(rows.start, rows.stop, dtype="int32")
        self._order, self._place = self._rows, 0
        self.num_batches: int | None = math.ceil(len(rows) / self._size)
        self.is_even = self.num_batches == 1 or len(rows) % self._size == 0

    @property
    def shuffling(self) -> list[int] | None:
        """The seed of the shuffling, its kind, the number of rows, the batch size."""
        kind = {True: 1, "batch": 2}.get(self._shuffle, 0)
        return [self._seed, kind, len(self._rows), self._size]

    @shuffling.setter
    def shuffling(self, shuffling: list[int] | None) -> None:
        self._seed = shuffling[0] if shuffling else self._seed

    def begin(self, epoch: int, at: int = 0) -> None:
        """Orders the rows for an epoch."""
        self._place = at
        if not self._shuffle:
            return
        rng = np.random.default_rng([self._seed, epoch])
        if self._shuffle == "batch":
            cuts = range(self._size, len(self._rows), self._size)
            parts = np.split(self._rows, cuts)
            self._order = np.concatenate([rng.permutation(part) for part in parts])
        else:
            self._order = rng.permutation(self._rows)

    def take(self, most: int, capacity: int) -> Stack | None:
        """Up to `most` batches, padded to `capacity`; `None` at the end."""
        full, rest = divmod(len(self._order), self._size)
        if self._place == full + bool(rest):
            return None
        first = self._place * self._size
        if self._place == full:
            self._place += 1
            return self._stack(self._order[first:][None], 1, is_full=full == 0)
        count = min(most, full - self._place)
        self._place += count
        last = first + count * self._size - 1
        capacity = max(capacity, count)
        places = np.minimum(np.arange(first, first + capacity * self._size), last)
        index = self._order[places].reshape(capacity, self._size)
        return self._stack(index, count, is_full=True)

    def batch(self) -> tuple[int, Any]:
        """The bytes of a batch of the usual size, and a key for its shapes."""
        rows = min(self._size, len(self._rows))
        shapes = [(rows, *array.shape[1:]) for array in self._arrays]
        return data.size_of(self._arrays, rows), str(shapes)

    def _stack(self, index: np.ndarray, count: int, is_full: bool) -> Stack:
        tensors = [data.rows_of(array, index) for array in self._arrays]
        return Stack(tensors, self._structure, count, is_full)


class PipelineBatches:
    """Batches of a pipeline; a stack has consecutive batches of equal shape.

    Args:
        pipeline: A `tf.data.Dataset` or another iterable over batches.
        num_batches: Batches per pass, or `None` if unknown.
        caller: Name of the caller, for messages.

    Example:
        >>> batches = PipelineBatches(tf.data.Dataset.range(5).batch(2), 3, "fit")
        >>> batches.begin(epoch=0)
        >>> [batches.take(9, 2).number for _ in range(2)], batches.take(9, 2)
        ([2, 1], None)
    """

    shuffling: list[int] | None = None

    def __init__(self, pipeline: Any, num_batches: int | None, caller: str) -> None:
        self._pipeline, self._caller = pipeline, caller
        self.num_batches = num_batches
        self._batches: Iterator[Any] = iter(pipeline)
        self._is_fresh = True
        self.first = self._waiting = self._next()
        if self.first is None:
            raise data.no_examples(caller, "a pipeline that yields no batch")
        self._usual = _shapes(self.first)
        self._static_batch_size = _static_batch_size(pipeline)
        self.is_even = self._static_batch_size is not None

    def begin(self, epoch: int, at: int = 0) -> None:
        """Restarts the pipeline, except for the first pass, begun in `__init__`."""
        if not self._is_fresh:
            self._batches, self._waiting = iter(self._pipeline), None
        self._is_fresh = False

    def take(self, most: int, capacity: int) -> Stack | None:
        """Up to `most` batches, padded to `capacity`; `None` at the end."""
        first, self._waiting = self._waiting, None
        first = self._next() if first is None else first
        if first is None:
            return None
        shapes, found = _shapes(first), [first]
        while len(found) < most:
            batch = self._next()
            if batch is None or _shapes(batch) != shapes:
                self._waiting = batch
                break
            found.append(batch)
        padded = [*found, *[first] * (capacity - len(found))]
        columns = zip(*map(data.leaves_of, padded), strict=True)
        places = itertools.count()
        structure = data.mapped(lambda leaf: next(places), first)
        tensors = [tf.stack(column) for column in columns]
        full, size = shapes == self._usual, self._static_batch_size
        return Stack(tensors, structure, len(found), full, size)

    def batch(self) -> tuple[int, Any]:
        """The bytes of a batch of the usual size, and a key for its shapes."""
        return data.size_of(self.first), str(self._usual)

    def _next(self) -> Any:
        batch = next(self._batches, None)
        if batch is None:
            return None
        batch = tuple(batch) if isinstance(batch, list) else batch
        parts = batch if isinstance(batch, tuple) else (batch,)
        # Keras casts arrays, but not the batches of a dataset.
        is_dataset = isinstance(self._pipeline, tf.data.Dataset)
        convert = tf.convert_to_tensor if is_dataset else data.as_tensor
        parts = data.mapped(convert, data.read(parts, self._caller))
        return parts if isinstance(batch, tuple) else parts[0]


def source_of(
    given: Any,
    rows: range | None,
    batch_size: int | None,
    steps: int | None,
    caller: str,
    shuffle: Any = False,
    seed: int = 0,
) -> Source:
    """Makes the source of the batches of a call.

    Args:
        given: The tuple (x, y, weights) or (pipeline, None, None).
        rows: The rows of arrays to use; `None` for all.
        batch_size: Batch size for arrays. By default rows are divided into `steps`
            batches; without `steps` it is 32.
        steps: Steps per pass, or `None`.
        caller: Name of the caller, for messages.
        shuffle: As in `ArrayBatches`.
        seed: As there.

    Returns:
        The source.

    Example:
        >>> x = np.zeros([100, 2])
        >>> source_of((x, None, None), None, None, 9, "fit").num_batches
        9
    """
    if not data.is_pipeline(given[0]):
        rows = range(data.check_rows(given, caller)) if rows is None else rows
        size = size_of_batches(batch_size, rows, steps)
        return ArrayBatches(data.packed(*given), rows, size, shuffle, seed)
    pipeline, count = given[0], None
    if isinstance(pipeline, tf.data.Dataset):
        count = int(pipeline.cardinality())
    return PipelineBatches(pipeline, count if count and count > 0 else None, caller)


def size_of_batches(batch_size: int | None, rows: range, steps: int | None) -> int:
    """The size of the batches of arrays.

    Args:
        batch_size: The size, or `None`.
        rows: The rows to use, which are then divided into `steps` batches.
        steps: Steps per pass, or `None` for batches of 32.

    Returns:
        The size.

    Example:
        >>> [size_of_batches(None, range(100), steps) for steps in (9, None)]
        [12, 32]
    """
    return batch_size or (math.ceil(len(rows) / steps) if steps else 32)


class Epochs:
    """Divides the data of one call into epochs.

    Args:
        source: The source of batches.
        steps: Steps per epoch, or `None` for whole passes over the data.
        goes_on: Whether an epoch continues where the last one stopped in the data, as
            in training.
        caller: Name of the caller, for messages.

    Example:
        >>> epochs = Epochs(ArrayBatches(tf.range(8), range(8), 2), 2, "fit")
        >>> [[s.number for s in epochs.epoch(e, 1, 1)] for e in range(2)]
        [[1, 1], [1, 1]]
    """

    def __init__(
        self, source: Source, steps: int | None, caller: str, goes_on: bool = True
    ) -> None:
        cap = keras.config.max_steps_per_epoch()
        given = [int(number) for number in (steps, cap) if number]
        self._source, self._caller = source, caller
        self._steps = min(given) if given else None
        self._goes_on = goes_on and self._steps is not None
        self._is_open, self._taken = False, 0
        # `_pass`: the epoch in which the current pass over the data began. `_before`:
        # the batches of the pass that earlier epochs took.
        self._pass = self._before = 0
        self.resumed: tuple[int, int] | None = None

    def place(self, batch: int) -> dict[str, Any]:
        """Where the epoch is in the data, for `resume`.

        Args:
            batch: The number of batches of this epoch that were used; 0 before it.

        Returns:
            A dictionary of integers, lists and `None`.
        """
        before = self._taken if self._is_open else 0
        return {
            "order": self._source.shuffling,
            "pass": self._pass,
            "taken": self._before + batch if batch else before,
            "steps": self.num_batches,
        }

    def resume(self, epoch: int, batch: int, place: dict[str, Any] | None) -> bool:
        """Continues at a place of an earlier call.

        Args:
            epoch: The epoch to begin with.
            batch: The number of its batches that were used.
            place: What `place` returned; `None` from Keras' own loop.

        Returns:
            Whether the next batches will be those that would have followed. If not,
            the epoch starts at the beginning of the data.
        """
        self.resumed = epoch, 0
        if place is None:
            return not batch
        theirs, mine = place["order"], self._source.shuffling
        self._source.shuffling = mine and theirs
        if not place["taken"]:
            return True
        if mine is None or theirs is None or theirs[1:] != mine[1:]:
            return False
        if batch and place["steps"] != self.num_batches:
            return False
        self._begin(place["pass"], place["taken"])
        self._is_open, self.resumed = True, (epoch, batch)
        return True

    @property
    def num_batches(self) -> int | None:
        """Steps per epoch, or `None` while unknown."""
        return self._steps or self._source.num_batches

    def epoch(
        self, epoch: int, most: int, capacity: int, done: int = 0
    ) -> Iterator[Stack]:
        """The batches of an epoch.

        Args:
            epoch: Number of the epoch, which determines the order of rows.
            most: The most batches in a stack.
            capacity: The least length to which a stack is padded.
            done: The number of its batches that were used before `resume`.

        Yields:
            Stacks of batches.
        """
        if not self._is_open:
            self._begin(epoch)
        made, self._before = done, self._taken - done
        while self._steps is None or made < self._steps:
            left = most if self._steps is None else min(most, self._steps - made)
            stack = self._source.take(left, capacity)
            if stack is None and self._is_open and not made:
                self._begin(epoch)  # The last epoch used all data.
                self._before = 0
                stack = self._source.take(left, capacity)
            if stack is None:
                break
            made += stack.number
            self._taken += stack.number
            yield stack
        if self._steps is None:
            self._is_open = False
            self._source.num_batches = made or self._source.num_batches
        elif made < self._steps:
            self._is_open = False
            warnings.warn(
                f"`{self._caller}` ran out of data after {made} of {self._steps} "
                "steps, so this epoch is shorter. Give fewer steps, or use "
                "`dataset.repeat()`.",
                stacklevel=4,
            )
        else:
            self._is_open = self._goes_on and self._taken != self._source.num_batches

    def _begin(self, epoch: int, at: int = 0) -> None:
        self._source.begin(epoch, at)
        self._is_open, self._pass, self._taken = False, epoch, at


def _static_batch_size(pipeline: Any) -> int | None:
    """The static batch size, if a dataset declares one."""
    if not isinstance(pipeline, tf.data.Dataset):
        return None
    sizes = {spec.shape[0] for spec in tf.nest.flatten(pipeline.element_spec)}
    return sizes.pop() if len(sizes) == 1 else None


def _shapes(batch: Any) -> list[Any]:
    return [leaf.shape for leaf in data.leaves_of(batch)]
