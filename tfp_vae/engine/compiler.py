"""Functions compiled by XLA where possible and worthwhile, else by TensorFlow."""

import collections
import functools
import math
import threading
import warnings
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfp_vae.engine.graphs import numbers_from_kept_seeds, operations

EAGER, GRAPH, XLA = "eager", "graph", "XLA"
# Tracing a step takes about as long as 4 eager steps; compiling it with XLA takes about
# as long as XLA saves in 512 steps.
_EAGER_STEPS, _STEPS_THAT_PAY = 4, 512
# Random operations that follow `tf.random.set_seed`, but not under XLA.
_RANDOM = {
    "Multinomial",
    "RandomShuffle",
    "RandomStandardNormal",
    "RandomUniform",
    "RandomUniformInt",
    "TruncatedNormal",
}
# In the gradient of a recurrent layer. XLA compiles it only if it was traced for XLA.
_BACKWARD_LOOP = "TensorListPopBack"
# Errors for a graph that XLA cannot compile.
_REFUSALS = (
    tf.errors.InvalidArgumentError,
    tf.errors.UnimplementedError,
    tf.errors.InternalError,
)


class Compiler:
    """Compiles functions, and warns once if it gives up XLA for one.

    Args:
        jit_compile: Whether to use XLA; `"auto"` where possible and where the work
            outweighs the compilation.
        caller: Name of the model's class, for messages.

    Example:
        >>> square = Compiler("auto").function(lambda x: x**2, "square")
        >>> float(square(tf.constant(3.0)))
        9.0
    """

    def __init__(self, jit_compile: Any, caller: str = "Model") -> None:
        self.jit_compile, self.caller = jit_compile, caller
        self.lock = threading.RLock()
        self._said = False

    def function(
        self,
        fn: Callable[..., Any],
        name: str,
        input_signature: Any = None,
    ) -> "Function":
        """Wraps a function for compilation.

        Args:
            fn: Function of tensors, and structures of them.
            name: What it does, for the message.
            input_signature: As in `tf.function`.

        Returns:
            A callable, traced and compiled at its first call.
        """
        return Function(fn, name, self, input_signature)

    def gave_up(self, name: str, why: str) -> None:
        """Warns, once, that a function runs without XLA."""
        if not self._said:
            self._said = True
            warnings.warn(
                f"`{self.caller}` runs {name} without XLA. The reason: {why} Give "
                "`compile(jit_compile=False)` to run everything without XLA and "
                "without this warning.",
                stacklevel=5,
            )


class Function:
    """A compiled function, made by `Compiler`; only calls with `warmup_args` use XLA.

    XLA has no kernel for some operations. On a CPU, convolutions inside a loop are
    about 50 times slower with XLA, so functions with convolutions run without it, and
    so do gradients of recurrent layers, which XLA refuses. With `jit_compile="auto"`,
    functions with `tf.random` operations run without it too, since XLA ignores their
    seeds, and on a CPU those with much noise from the layers of Keras, such as
    `Dropout`: XLA makes the key of its generator anew for each number, which takes as
    long as XLA saves in one operation.

    Args:
        fn: Function of tensors, and structures of them.
        name: What it does, for messages.
        compiler: The `Compiler` that made it.
        input_signature: As in `tf.function`.

    Example:
        >>> int(Compiler(False).function(lambda x: x + 1, "a sum")(tf.constant(1)))
        2
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        compiler: Compiler,
        input_signature: Any = None,
    ) -> None:
        self.name, self._compiler = name, compiler
        # TensorFlow rejects `reduce_retracing` with a signature.
        self._options: dict[str, Any] = {"autograph": False, "reduce_retracing": True}
        if input_signature is not None:
            self._options = {"autograph": False, "input_signature": input_signature}
        # TensorFlow counts the traces of equal code together, across models, and warns
        # if there are many. It counts each partial separately.
        self._traced = tf.function(functools.partial(fn), **self._options)
        self._is_fixed = input_signature is not None
        self._plain: Any = None
        self._compiled: Any = None
        self._can: dict[float, bool] = {}
        self._refused = False
        self._ready: set[str] = set()

    def __call__(
        self, *args: Any, warmup_args: Any = None, batch_size: float = math.inf
    ) -> Any:
        """Calls the compiled function.

        Args:
            *args: Arguments of the function.
            warmup_args: Arguments of the same shapes that cause no work, with which
                `"auto"` first tries XLA; `None` to run without XLA.
            batch_size: As in `can_use_xla`.

        Returns:
            What the function returns.
        """
        if warmup_args is not None and self.can_use_xla(*args, batch_size=batch_size):
            compiled = self._xla(warmup_args)
            if compiled is not None:
                return compiled(*args)
        self.trace()
        if self._plain is None:
            with self._compiler.lock:
                self._traced.get_concrete_function(*args)  # traces if necessary
            return self._traced(*args)
        return self._plain(*args)

    def trace(self) -> None:
        """Traces the function if it has an input signature; computes nothing."""
        if self._plain is None and self._is_fixed:
            with self._compiler.lock:
                # There is only one trace; calls need not look it up.
                self._plain = self._traced.get_concrete_function()

    def can_use_xla(self, *args: Any, batch_size: float = math.inf) -> bool:
        """Whether XLA can compile the function without making it slower.

        Args:
            *args: Arguments of a call.
            batch_size: Size of the axes whose size the input signature leaves open.

        Returns:
            False for convolutions on a CPU, for gradients of recurrent layers and,
            with `"auto"`, for `tf.random` and, on a CPU, for much noise from the layers
            of Keras.
        """
        if self._refused:
            return False
        if batch_size not in self._can:
            with self._compiler.lock:
                self._can[batch_size] = self._judged(args, batch_size)
        return self._can[batch_size]

    def _judged(self, args: Any, batch_size: float) -> bool:
        asked = self._compiler.jit_compile
        if not asked:
            return False
        given = () if self._is_fixed else args
        traced = self._traced.get_concrete_function(*given)
        graph = traced.graph.as_graph_def(add_shapes=True)
        names = list(operations(graph))
        found = set(names)
        if asked == "auto" and found & {*_RANDOM, _BACKWARD_LOOP}:
            return False
        if _BACKWARD_LOOP in found:
            self._compiler.gave_up(
                self.name, "the gradient of a recurrent layer, in a loop over steps."
            )
            return False
        if _on_a_gpu():
            return True
        numbers = numbers_from_kept_seeds(graph, batch_size)
        if asked == "auto" and numbers > len(names):
            return False
        if not any("Conv" in operation for operation in found):
            return True
        if asked != "auto":
            self._compiler.gave_up(
                self.name,
                "convolutions, which XLA computes about 50 times slower in a loop on "
                "a CPU.",
            )
        return False

    def _xla(self, warmup_args: Any) -> Any:
        """The function compiled by XLA; `None` if XLA cannot compile it."""
        with self._compiler.lock:
            if self._compiled is None:
                traced = self._traced
                self._compiled = tf.function(
                    functools.partial(lambda *args: traced(*args)),
                    jit_compile=True,
                    **self._options,
                )
            if self._compiler.jit_compile != "auto":
                return self._compiled
            # This call compiles, but computes nothing: its errors are those of XLA.
            # Errors of later calls are the function's own.
            shapes = str(tf.nest.map_structure(lambda t: t.shape, warmup_args))
            if shapes in self._ready:
                return self._compiled
            try:
                self._compiled(*warmup_args)
                self._ready.add(shapes)
            except _REFUSALS as error:
                self._refused = True
                lines = map(
                    str.strip, str(getattr(error, "message", error)).split("\n")
                )
                why = next(filter(None, lines), type(error).__name__)
                self._compiler.gave_up(self.name, why[:300])
                return None
        return self._compiled


def _on_a_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


class FunctionCache:
    """A model's compiled functions, each made when first needed.

    Keras does not track this object, and saves nothing of it.

    Args:
        compiler: Compiles the functions.

    Example:
        >>> functions = FunctionCache(Compiler("auto"))
        >>> square = functions.compiled("square", lambda x: x**2, "squares")
        >>> float(square(tf.constant(3.0)))
        9.0
    """

    def __init__(self, compiler: Compiler) -> None:
        self.compiler = compiler
        self._made: dict[Any, Any] = {}
        self._steps: collections.Counter[Any] = collections.Counter()

    def compiled(self, key: Any, fn: Callable[..., Any], name: str) -> Any:
        """Returns a compiled function, the same object for the same key.

        Args:
            key: Identifies the function within the model.
            fn: The function.
            name: What it does, for messages.

        Returns:
            A callable.
        """
        return self.cached(key, lambda: self.compiler.function(fn, name))

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """Returns the object of a key, made at the first call.

        Args:
            key: Identifies the object.
            make: Function that makes the object.

        Returns:
            The object.
        """
        if key not in self._made:
            with self.compiler.lock:
                if key not in self._made:
                    self._made[key] = make()
        return self._made[key]

    def choose_mode(
        self,
        key: Any,
        steps: int | None,
        may_be_eager: bool = True,
        adds_up: bool = True,
    ) -> str:
        """Adds the steps of a call to those so far, and chooses how to run them.

        The choice depends on these numbers, not on measured time, so that the same
        calls give the same results.

        Args:
            key: What the steps do, and the shapes of their batches.
            steps: The number of steps in this call; `None` if unknown.
            may_be_eager: Whether eager steps compute the same as graph steps. Keras
                weights the losses of several outputs by the batch size, but only if
                that is known when the step is traced.
            adds_up: Whether the steps of earlier calls count, too.

        Returns:
            `"eager"` for a few steps, `"XLA"` for hundreds, if `jit_compile` allows it,
            and `"graph"` otherwise; always `"XLA"` with `jit_compile=True`.

        Example:
            >>> functions = FunctionCache(Compiler("auto"))
            >>> [functions.choose_mode("steps", n) for n in (3, 400, None, 200)]
            ['eager', 'graph', 'graph', 'XLA']
        """
        if adds_up:
            self._steps[key] += steps or 0
        made = self._steps[key] if adds_up else steps or 0
        asked = self.compiler.jit_compile
        if asked and (asked != "auto" or made >= _STEPS_THAT_PAY):
            return XLA
        few = steps is not None and made <= _EAGER_STEPS
        return EAGER if few and may_be_eager else GRAPH
