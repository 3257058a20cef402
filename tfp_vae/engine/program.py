"""Many steps of training or of evaluation in one program."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfp_vae.engine import data
from tfp_vae.engine.batches import Stack
from tfp_vae.engine.compiler import EAGER, GRAPH, XLA, Compiler, Function


class Program:
    """Runs a step on each batch of a stack, in one loop inside one program.

    Keras compiles one step; at each step the call and the batch of its pipeline cost
    about a millisecond. Here one program runs the steps on a stack of batches, and
    returns the logs of the last. The step is traced once for all batch sizes.

    Args:
        step: Function from a batch to logs.
        name: What the steps do, for messages.
        compiler: Compiles the program.

    Example:
        >>> from tfp_vae.engine.batches import ArrayBatches
        >>> batches = ArrayBatches(tf.range(5), range(5), 2)
        >>> program = Program(
        ...     lambda x: {"sum": tf.reduce_sum(x)}, "sums", Compiler(False))
        >>> [int(program(batches.take(2, 2))["sum"]) for _ in range(2)]
        [5, 4]
    """

    def __init__(
        self, step: Callable[[Any], Any], name: str, compiler: Compiler
    ) -> None:
        self._step, self._name, self._compiler = step, name, compiler
        self._functions: dict[str, Function] = {}
        self._specs: dict[str, list[list[tf.TensorSpec]]] = {}
        self._traced: dict[str, Any] = {}
        self._carries: dict[str, bool] = {}

    def __call__(self, stack: Stack, mode: str = GRAPH) -> Any:
        """Runs the steps.

        Args:
            stack: The batches.
            mode: `"eager"`, `"graph"`, or `"XLA"`, if possible, for full batches.

        Returns:
            The logs of the last step.
        """
        if mode == EAGER:
            return self._run_eagerly(stack)
        key, function = self._function_for(stack)
        given = stack.tensors, tf.constant(stack.number, tf.int32)
        warmup_args = stack.tensors, tf.constant(0, tf.int32)
        use_xla = mode == XLA and stack.is_full
        if use_xla and self._compiler.jit_compile == "auto":
            function.trace()
            # Otherwise the last step runs after the loop, even for 0 steps: the call
            # that is only to compile would train.
            use_xla = self._carries[key]
        return function(
            *given,
            warmup_args=warmup_args if use_xla else None,
            batch_size=stack.tensors[0].shape[1],
        )

    def trace(self, stack: Stack) -> None:
        """Traces the step, which makes its variables, and runs nothing.

        Args:
            stack: The batches.
        """
        self._function_for(stack)[1].trace()

    def _function_for(self, stack: Stack) -> tuple[str, Function]:
        """The function for batches of these shapes, and its key."""
        specs = self._specs_of(stack)
        key = str((stack.structure, specs))
        if key not in self._functions:
            with self._compiler.lock:
                self._functions.setdefault(key, self._function(key, stack, specs))
        return key, self._functions[key]

    def _specs_of(self, stack: Stack) -> list[tf.TensorSpec]:
        """Shapes and dtypes to trace for: those of the stack, or more general ones.

        An axis whose length has differed between two stacks has none in the trace, so
        that sentences of 100 lengths need two traces and not 100.
        """
        size = stack.static_batch_size
        found = [
            tf.TensorSpec([None, size, *tensor.shape[2:]], tensor.dtype)
            for tensor in stack.tensors
        ]
        kinds = [(spec.dtype.name, spec.shape.rank) for spec in found]
        family = str((stack.structure, size, kinds))
        with self._compiler.lock:
            known = self._specs.setdefault(family, [])
            for specs in known:
                pairs = zip(specs, found, strict=True)
                if all(spec.is_compatible_with(other) for spec, other in pairs):
                    return specs
            if known:  # The last is the most general.
                pairs = zip(known[-1], found, strict=True)
                found = [spec.most_specific_common_supertype([x]) for spec, x in pairs]
            known.append(found)
            return found

    def _run_eagerly(self, stack: Stack) -> Any:
        logs = None
        for i in range(stack.number):
            leaves = [tensor[i] for tensor in stack.tensors]
            with self._compiler.lock:
                logs = self._step(_batch(stack.structure, leaves))
        return logs

    def _function(self, key: str, stack: Stack, specs: list[Any]) -> Function:
        structure = stack.structure
        signature = [specs, tf.TensorSpec([], tf.int32)]
        return self._compiler.function(
            lambda tensors, count: self._run(key, structure, tensors, count),
            self._name,
            signature,
        )

    def _run(self, key: str, structure: Any, tensors: Any, count: tf.Tensor) -> Any:
        specs = [tf.TensorSpec(tensor.shape[1:], tensor.dtype) for tensor in tensors]

        # Traced before the loop, which needs the shapes of the logs. Not kept after a
        # failure, since a second trace could not create variables.
        step = self._traced.get(key) or tf.function(
            lambda *leaves: self._step(_batch(structure, leaves)), autograph=False
        )
        outputs = step.get_concrete_function(*specs).structured_outputs
        self._traced[key] = step

        def run(i: Any) -> Any:
            return step(*[tensor[i] for tensor in tensors])

        def only(i: Any) -> Any:
            with tf.control_dependencies(tf.nest.flatten(run(i))):
                return (i + 1,)

        known = [log.shape.is_fully_defined() for log in tf.nest.flatten(outputs)]
        self._carries[key] = all(known)
        if not all(known):
            # A loop cannot carry logs of unknown shape: the last step follows it.
            tf.while_loop(
                lambda i: i < count - 1,
                only,
                (tf.constant(0),),
                parallel_iterations=1,
            )
            return run(count - 1)
        logs = tf.nest.map_structure(
            lambda log: tf.zeros(log.shape, log.dtype), outputs
        )
        return tf.while_loop(
            lambda i, logs: i < count,
            lambda i, logs: (i + 1, run(i)),
            (tf.constant(0), logs),
            parallel_iterations=1,
        )[1]


def _batch(structure: Any, leaves: Any) -> Any:
    """Replaces the indices in a structure by the leaves of a batch."""
    return data.mapped(lambda place: leaves[place], structure)
