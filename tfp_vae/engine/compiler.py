"""FunctionCache as one program: by XLA where it can and pays, else by TensorFlow."""

import collections
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

EAGER, GRAPH, XLA = "eager", "graph", "XLA"
# TensorFlow traces a step in about the time that so many take in eager execution; XLA
# compiles one in about the time that it saves in so many.
_EAGER_STEPS, _STEPS_THAT_PAY = 4, 512
# Draws that follow `tf.random.set_seed` only outside of XLA, which has others.
_RANDOM = {
    "Multinomial",
    "RandomShuffle",
    "RandomStandardNormal",
    "RandomUniform",
    "RandomUniformInt",
    "TruncatedNormal",
}
# What XLA raises of a graph that it cannot compile.
_REFUSALS = (
    tf.errors.InvalidArgumentError,
    tf.errors.UnimplementedError,
    tf.errors.InternalError,
)


class Compiler:
    """Makes compiled functions, and says once if XLA refuses one.

    Args:
        jit_compile: Whether XLA compiles; `"auto"` where it can and where the work that
            is asked for pays for the compilation.
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
        self, fn: Callable[..., Any], name: str, input_signature: Any = None
    ) -> "Function":
        """A function as one program.

        Args:
            fn: Of tensors, and structures of them.
            name: What it does, for the message.
            input_signature: As in `tf.function`.

        Returns:
            A callable that traces and compiles when it is first called.
        """
        return Function(fn, name, self, input_signature)

    def gave_up(self, name: str, why: str) -> None:
        """Warns that something runs without XLA, the first time."""
        if not self._said:
            self._said = True
            warnings.warn(
                f"`{self.caller}` expects that XLA compiles {name}. Received: {why} It "
                "runs without XLA; give `compile(jit_compile=False)` where that is "
                "meant.",
                stacklevel=5,
            )


class Function:
    """Traced once; compiled by XLA, or by TensorFlow alone; made by `Compiler`.

    XLA knows no kernel for some operations. On a CPU, convolutions inside a loop are
    about 50 times slower with XLA than without, so functions that have any run without
    it. Where XLA is chosen by itself, it compiles none with `tf.random` operations,
    whose seeds it does not know.

    Args:
        fn: Of tensors, and structures of them.
        name: What it does, for messages.
        compiler: What made it.
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
        # TensorFlow refuses to relax what a signature fixes.
        self._options: dict[str, Any] = {"autograph": False, "reduce_retracing": True}
        if input_signature is not None:
            self._options = {"autograph": False, "input_signature": input_signature}
        # TensorFlow counts retracings of equal code together, those of other models
        # too, and warns; of a partial it counts each alone.
        self._traced = tf.function(functools.partial(fn), **self._options)
        self._is_fixed = input_signature is not None
        self._plain: Any = None
        self._compiled: Any = None
        self._can: bool | None = None
        self._ready: set[str] = set()

    def __call__(self, *args: Any, nothing: Any = None) -> Any:
        """Calls the program.

        Args:
            *args: Arguments of the function.
            nothing: Arguments of the same shapes that ask for no work, where XLA is
                wanted; `None` where it is not.

        Returns:
            What the function returns.
        """
        if nothing is not None and self.can_use_xla(*args):
            compiled = self._xla(nothing)
            if compiled is not None:
                return compiled(*args)
        if self._plain is None:
            with self._compiler.lock:
                # There can be one trace only, and calls need not look for another.
                traced = self._traced
                self._plain = traced.get_concrete_function() if self._is_fixed else None
        if self._plain is None:
            with self._compiler.lock:
                self._traced.get_concrete_function(*args)  # traces, if it has to
            return self._traced(*args)
        return self._plain(*args)

    def can_use_xla(self, *args: Any) -> bool:
        """Whether XLA can compile the function and would not be slower for its kind.

        Args:
            *args: What it is called with.

        Returns:
            False for convolutions on a CPU, and by itself for stateful draws.
        """
        if self._can is None:
            with self._compiler.lock:
                self._can = self._judged(args)
        return self._can

    def _judged(self, args: Any) -> bool:
        asked = self._compiler.jit_compile
        if not asked:
            return False
        given = () if self._is_fixed else args
        graph = self._traced.get_concrete_function(*given).graph.as_graph_def()
        found = set(operations(graph))
        if asked == "auto" and found & _RANDOM:
            return False
        if _on_a_gpu() or not any("Conv" in operation for operation in found):
            return True
        if asked != "auto":
            self._compiler.gave_up(
                self.name,
                "convolutions, which XLA computes about 50 times slower in a loop on "
                "a CPU.",
            )
        return False

    def _xla(self, nothing: Any) -> Any:
        """The function compiled by XLA; `None` where XLA refuses it."""
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
            # Compiles and computes nothing, so that an error of this call is a refusal,
            # and one of a later call is never taken for one.
            shapes = str(tf.nest.map_structure(lambda t: t.shape, nothing))
            if shapes in self._ready:
                return self._compiled
            try:
                self._compiled(*nothing)
                self._ready.add(shapes)
            except _REFUSALS as error:
                self._can = False
                lines = map(
                    str.strip, str(getattr(error, "message", error)).split("\n")
                )
                why = next(filter(None, lines), type(error).__name__)
                self._compiler.gave_up(self.name, why[:300])
                return None
        return self._compiled


def _on_a_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def operations(graph: Any) -> Iterator[str]:
    """Names of the operations of a graph, those of its functions included.

    Args:
        graph: A `GraphDef`.

    Yields:
        A name for each node.

    Example:
        >>> "Mul" in operations(tf.function(lambda x: x * x).get_concrete_function(
        ...     tf.TensorSpec([])).graph.as_graph_def())
        True
    """
    for nodes in (graph.node, *(part.node_def for part in graph.library.function)):
        for node in nodes:
            yield node.op


class FunctionCache:
    """What a model has compiled, made when first needed.

    An object of its own, so that Keras does not take it for state to save.

    Args:
        compiler: Compiles them.

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
        """The function compiled, the same object at each call.

        Args:
            key: What tells it from others of the model.
            fn: The function.
            name: What it does, for messages.

        Returns:
            A callable.
        """
        return self.cached(key, lambda: self.compiler.function(fn, name))

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """Something made when first needed, and kept out of Keras' sight.

        Args:
            key: What tells it from others.
            make: Makes it.

        Returns:
            What was made.
        """
        if key not in self._made:
            with self.compiler.lock:
                if key not in self._made:
                    self._made[key] = make()
        return self._made[key]

    def mode(self, key: Any, steps: int | None, may_be_eager: bool = True) -> str:
        """How to run steps, by the number that calls have asked for until now.

        A function of numbers of steps, never of a clock, so that the same calls give
        the same numbers.

        Args:
            key: What the steps do, and on batches of which shape.
            steps: How many more are asked for; `None` where nobody knows.
            may_be_eager: Whether eager steps compute the same as those of a graph.
                Keras weighs the losses of several outputs by the length of a batch
                where that is known.

        Returns:
            `"eager"` for a few, `"graph"`, or `"XLA"`, if `jit_compile` allows it, for
            hundreds; with `jit_compile=True` always `"XLA"`.

        Example:
            >>> functions = FunctionCache(Compiler("auto"))
            >>> [functions.mode("training", steps) for steps in (3, 400, None, 200)]
            ['eager', 'graph', 'graph', 'XLA']
        """
        self._steps[key] += steps or 0
        asked, made = self.compiler.jit_compile, self._steps[key]
        if asked and (asked != "auto" or made >= _STEPS_THAT_PAY):
            return XLA
        few = steps is not None and made <= _EAGER_STEPS
        return EAGER if few and may_be_eager else GRAPH
