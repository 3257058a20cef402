"""Many steps of training or of evaluation in one compiled program."""

import collections
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfp_vae.models.inputs as data
from tfp_vae.models.compiled import Compiler, loop
from tfp_vae.models.staging import Chunk, Rows, Stack, of_batch, stacks


class Countdown:
    """The steps left in a pass over data.

    Args:
        total: Steps of a pass, or `None` where the data end it.

    Example:
        >>> steps = Countdown(5)
        >>> steps.take(3), steps.take(3), steps.begin(), steps.take(3)
        (3, 2, None, 3)
    """

    def __init__(self, total: int | None) -> None:
        self._total = self._left = total

    def begin(self) -> None:
        """Begins another pass."""
        self._left = self._total

    def take(self, most: int) -> int:
        """How many steps to make now: the number asked, or what is left."""
        if self._left is None:
            return most
        taken = min(most, self._left)
        self._left -= taken
        return taken


class Steps:
    """What Keras calls for the next steps: a loop over batches inside one program.

    Keras compiles one step and pays at each for a call and for a batch of its
    pipeline, of the order of a millisecond. Here the batches of several steps are
    staged first, and one program runs the steps; logs are those of the last.

    Args:
        step: From a batch to logs.
        name: What the steps do, for messages.
        compiler: Compiles the program.
        most: The number of steps in a program now, and those left in the pass.
        rows: What the numbers of batches stand for now, or `None`.
        otherwise: Runs the steps of a pipeline whose batches cannot be stacked.
        together: From a chunk and the number of steps made of its shapes to how many
            make a turn; see `loop`.

    Example:
        >>> steps = Steps(lambda x: {"sum": tf.reduce_sum(x)}, "sums", Compiler("auto"),
        ...     lambda: (2, Countdown(None)), lambda: None, lambda iterator: None,
        ...     lambda chunk, made: 1)
        >>> batches = iter(tf.data.Dataset.range(5).batch(2))
        >>> int(steps(batches)["sum"]), int(steps(batches)["sum"])
        (5, 4)
    """

    def __init__(
        self,
        step: Callable[[Any], Any],
        name: str,
        compiler: Compiler,
        most: Callable[[], tuple[int, Countdown]],
        rows: Callable[[], Rows | None],
        otherwise: Callable[[Any], Any],
        together: Callable[[Chunk, int], int],
    ) -> None:
        self._step, self._name, self._compiler = step, name, compiler
        self._most, self._rows, self._otherwise = most, rows, otherwise
        self._together = together
        self._made: collections.Counter[Any] = collections.Counter()
        self._stack = Stack()
        self._programs: dict[Any, Any] = {}
        self._traced: dict[str, Any] = {}

    def __call__(self, iterator: Any) -> Any:
        """Runs the next steps.

        Args:
            iterator: A `tf.data.Iterator` over batches or over their numbers, or any
                other over batches.

        Returns:
            The logs of the last step.

        Raises:
            tf.errors.OutOfRangeError: If a pipeline has no batch left.
        """
        chunks = self._chunks(iterator)
        if chunks is None:
            return self._otherwise(iterator)
        logs = None
        for chunk in chunks:
            for part, together in self._parts(chunk):
                flat = keras.tree.flatten(part.arrays)
                tensors = [tensor for tensor in flat if tensor is not None]
                rows = tf.constant(part.rows, tf.int32)
                number = tf.constant(part.number, tf.int32)
                logs = self._program(part.spec, together)(tensors, rows, number)
        return logs

    def _parts(self, chunk: Chunk) -> Iterator[tuple[Chunk, int]]:
        """Steps and how many of them make a turn: whole turns, then what is left over.

        A turn that is not full would make steps that the data do not have.
        """
        length = len(keras.tree.flatten(chunk.arrays)[0])
        shapes = str(chunk.spec), length, chunk.rows.shape
        together = self._together(chunk, self._made[shapes])
        self._made[shapes] += chunk.number
        if together > 1 and self._program(chunk.spec).overlaps(together):
            full = chunk.number // together * together
            if full:
                yield chunk._replace(number=full), together
            rows = np.roll(chunk.rows, -full, axis=0)
            chunk = chunk._replace(rows=rows, number=chunk.number - full)
        if chunk.number:
            yield chunk, 1

    def _chunks(self, iterator: Any) -> Iterator[Chunk] | None:
        (steps, left), rows = self._most(), self._rows()
        if not isinstance(iterator, tf.data.Iterator):
            return map(of_batch, itertools.islice(iterator, steps))
        if rows is not None:
            return rows.chunks(iterator, left.take(steps), steps)
        if not stacks(iterator):
            return None
        return self._stack.chunks(iterator, left.take(steps), steps)

    def _program(self, spec: Any, together: int = 1) -> Any:
        """The program for arrays of a structure."""
        leaves = keras.tree.flatten(spec)
        key = (str(spec), together)
        if key not in self._programs:
            specs = [
                tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype)
                for leaf in leaves
                if leaf is not None
            ]
            rows = tf.TensorSpec([None, None], tf.int32)
            count = tf.TensorSpec([], tf.int32)
            self._programs[key] = self._compiler.function(
                lambda *given: self._run(spec, together, *given),
                self._name,
                [specs, rows, count],
            )
        return self._programs[key]

    def _run(
        self, spec: Any, together: int, tensors: Any, rows: tf.Tensor, count: tf.Tensor
    ) -> Any:
        # Traced once, here: what the loop carries must be known before its body is.
        # Not kept after a failure: TensorFlow would let it make no variables then.
        step = self._traced.get(str(spec)) or tf.function(self._step, autograph=False)
        outputs = step.get_concrete_function(spec).structured_outputs
        self._traced[str(spec)] = step

        def batch(i: Any) -> Any:
            given = iter(tensors)
            return data.mapped(
                lambda leaf: tf.ensure_shape(
                    tf.gather(next(given), rows[i]), leaf.shape
                ),
                spec,
            )

        def only(i: Any) -> Any:
            with tf.control_dependencies(tf.nest.flatten(step(batch(i)))):
                return (i + 1,)

        if not all(log.shape.is_fully_defined() for log in tf.nest.flatten(outputs)):
            # Logs that a loop cannot carry: those of the last step, behind it.
            tf.while_loop(
                lambda i: i < count - 1,
                only,
                (tf.constant(0),),
                parallel_iterations=1,
            )
            return step(batch(count - 1))
        logs = tf.nest.map_structure(
            lambda log: tf.zeros(log.shape, log.dtype), outputs
        )
        return loop(lambda i, logs: step(batch(i)), logs, count, together)
