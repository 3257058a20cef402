"""Functions as one program: by XLA, where it can and where that makes them faster."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

# Shapes for which XLA compiles one function before it is left to TensorFlow.
_SHAPES = 8
# Operations, those of all copies, of what is compiled several times over. One copy of a
# dense model's evaluation has 650 to 730 and takes 2 to 3 s, with a gamma posterior 975
# and 7 s.
_OPERATIONS = 1900
# Pieces of an array that are computed at the same time.
_PIECES = 4
# Draws that follow `tf.random.set_seed` only outside of XLA, which has others.
_RANDOM = ("RandomStandardNormal", "RandomUniform", "TruncatedNormal", "RandomShuffle")
# What XLA raises of a graph that it cannot compile, before any of it has run.
_REFUSALS = (
    tf.errors.InvalidArgumentError,
    tf.errors.UnimplementedError,
    tf.errors.InternalError,
)


class Compiler:
    """Makes compiled functions, and says once if XLA refuses one.

    XLA knows no kernel for some operations, and must know some shapes. Nothing has been
    computed when it refuses, so the function can run as a graph of TensorFlow in its
    place. On a CPU, convolutions inside a loop are about 50 times slower with XLA than
    without, so functions that have any run without it. Where XLA is chosen by itself,
    it compiles a function for eight shapes at most, and none with `tf.random`
    operations, whose seeds it does not know.

    Args:
        jit_compile: Whether XLA compiles; `"auto"` where it can.

    Example:
        >>> square = Compiler("auto").function(lambda x: x**2, "square")
        >>> float(square(tf.constant(3.0)))
        9.0
    """

    # Whether `"auto"` may mean XLA.
    chooses_xla = True

    def __init__(self, jit_compile: Any) -> None:
        self.jit_compile = jit_compile
        self._said = False

    def function(
        self,
        fn: Callable[..., Any],
        name: str,
        input_signature: Any = None,
        xla_on_cpu: bool = True,
    ) -> "_Function":
        """A function as one program.

        Args:
            fn: Of tensors, and structures of them.
            name: What it does, for the message.
            input_signature: As in `tf.function`.
            xla_on_cpu: Whether `"auto"` means XLA on a CPU too.

        Returns:
            A callable that traces and compiles when it is first called.
        """
        return _Function(fn, name, input_signature, self, xla_on_cpu)

    def gave_up(self, name: str, why: str) -> None:
        """Says that something runs without XLA, the first time."""
        if not self._said:
            self._said = True
            warnings.warn(
                f"`VAE` expects that XLA compiles {name}. Received: {why} It runs "
                "without XLA; give `compile(jit_compile=False)` where that is meant.",
                stacklevel=5,
            )


class _Function:
    """Traced once; compiled by XLA, or by TensorFlow alone."""

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        input_signature: Any,
        compiler: Compiler,
        xla_on_cpu: bool,
    ) -> None:
        self._name, self._compiler = name, compiler
        self._xla_on_cpu = xla_on_cpu
        # TensorFlow refuses to relax what a signature fixes.
        self._options: dict[str, Any] = {"autograph": False, "reduce_retracing": True}
        self._signature = input_signature
        if input_signature is not None:
            self._options = {"autograph": False, "input_signature": input_signature}
        # TensorFlow counts retracings of equal code together, those of other models
        # too, and warns; of a partial it counts each alone.
        self._traced = tf.function(functools.partial(fn), **self._options)
        self._function: Any = None
        self._jit, self._size = False, 0
        self._shapes: set[Any] = set()

    def __call__(self, *args: Any) -> Any:
        if tf.config.functions_run_eagerly():
            return self._traced(*args)
        asked = self._compiler.jit_compile
        self._decide(args)
        if not self._jit or asked != "auto":
            return self._function(*args)
        if not self._has_shapes_of(args):
            return self._plain(*args)
        try:
            return self._function(*args)
        except _REFUSALS as error:
            result = self._plain(*args)
            self._jit, self._function = False, self._plain
            lines = map(str.strip, str(getattr(error, "message", error)).split("\n"))
            why = next(filter(None, lines), type(error).__name__)
            self._compiler.gave_up(self._name, why[:300])
            return result

    def overlaps(self, times: int, *args: Any) -> bool:
        """Whether rounds of its loop are worth compiling side by side; see `loop`.

        Args:
            times: How many rounds.
            *args: What it is called with.

        Returns:
            True for small functions that XLA compiles for a CPU. A GPU has the whole of
            it for each round.
        """
        if _on_a_gpu() or tf.config.functions_run_eagerly():
            return False
        self._decide(args)
        return self._jit and times * self._size <= _OPERATIONS

    def _decide(self, args: Any) -> None:
        """Chooses who compiles, at the first call."""
        if self._function is None:
            self._jit = self._is_faster(args)
            self._function = self._made(self._jit)

    def _has_shapes_of(self, args: Any) -> bool:
        """Whether XLA has compiled for such arguments, or shall."""
        shapes = tuple(np.shape(leaf) for leaf in tf.nest.flatten(args))
        if shapes not in self._shapes and len(self._shapes) == _SHAPES:
            return False
        self._shapes.add(shapes)
        return True

    @functools.cached_property
    def _plain(self) -> Any:
        """The function without XLA."""
        return self._made(False)

    def _made(self, jit_compile: bool) -> Any:
        traced = self._traced
        made = tf.function(
            functools.partial(lambda *args: traced(*args)),
            jit_compile=jit_compile,
            **self._options,
        )
        # There can be one trace only, and calls need not look for another.
        return made.get_concrete_function() if self._signature else made

    def _is_faster(self, args: Any) -> bool:
        """Whether XLA makes the function faster, and its draws are not others."""
        by_itself = self._compiler.jit_compile == "auto"
        chosen = self._compiler.chooses_xla and (self._xla_on_cpu or _on_a_gpu())
        if not (chosen if by_itself else self._compiler.jit_compile):
            return False
        graph = self._traced.get_concrete_function(*args).graph.as_graph_def()
        found = list(operations(graph))
        self._size = len(found)
        if by_itself and set(found) & set(_RANDOM):
            return False
        if _on_a_gpu() or not any("Conv" in operation for operation in found):
            return True
        if not by_itself:
            self._compiler.gave_up(
                self._name,
                "convolutions, which XLA computes about 50 times slower in a loop on "
                "a CPU.",
            )
        return False


def _on_a_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def loop(
    body: Callable[[tf.Tensor, Any], Any],
    state: Any,
    count: Any,
    together: int = 1,
    parallel_iterations: int = 1,
) -> Any:
    """Applies a function again and again, in the graph.

    XLA ends one turn of a loop before it begins the next. Where a turn is two rounds,
    it computes side by side what in them does not depend on each other, one's
    element-wise operations beside another's matrix products. On two cores of an Intel
    Xeon the evaluation of a dense VAE takes 0.84 of the time with batches of 128, of an
    AMD EPYC 0.93.

    Args:
        body: From the number of a round and the state to the next state.
        state: Structure of tensors.
        count: How many rounds; there are more where the last turn is not full.
        together: How many make a turn.
        parallel_iterations: As in `tf.while_loop`.

    Returns:
        The last state.

    Example:
        >>> int(loop(lambda i, total: total + i, tf.constant(0), 6, together=2))
        15
    """

    def turn(i: tf.Tensor, state: Any) -> tuple[Any, Any]:
        for _ in range(together):
            i, state = i + 1, body(i, state)
        return i, state

    return tf.while_loop(
        lambda i, state: i < count,
        turn,
        (tf.constant(0), state),
        parallel_iterations=parallel_iterations,
    )[1]


def in_pieces(
    fn: Callable[[Any], tf.Tensor], rows: int, dtype: str, spec: Any
) -> Callable[[Any], tf.Tensor]:
    """A function of arrays as one program that computes it in pieces of rows.

    XLA does not compile it: pieces are independent, and TensorFlow works at up to four
    at the same time, one's element-wise operations beside another's matrix products. On
    two CPU cores, dense networks take 0.6 to 0.9 of the time that they take with XLA.

    Args:
        fn: From a structure of tensors to a tensor with a row for each of theirs.
        rows: Length of a piece; the last may be shorter.
        dtype: That of the tensor.
        spec: Structure of the `tf.TensorSpec` of the arrays, of any length.

    Returns:
        A callable that traces when it is first called.

    Example:
        >>> squares = in_pieces(lambda x: x**2, 2, "float32", tf.TensorSpec([None]))
        >>> squares(tf.constant([1.0, 2.0, 3.0])).numpy()
        array([1., 4., 9.], dtype=float32)
    """

    def whole(arrays: Any) -> tf.Tensor:
        count = tf.shape(tf.nest.flatten(arrays)[0])[0]
        pieces = -(-count // rows)
        found = tf.TensorArray(dtype, pieces, infer_shape=False)

        def body(i: tf.Tensor, found: tf.TensorArray) -> tuple[Any, Any]:
            at = slice(i * rows, (i + 1) * rows)
            part = tf.nest.map_structure(lambda array: array[at], arrays)
            return i + 1, found.write(i, fn(part))

        return tf.while_loop(
            lambda i, found: i < pieces,
            body,
            (tf.constant(0), found),
            parallel_iterations=_PIECES,
        )[1].concat()

    # A partial: see `_Function`.
    return tf.function(
        functools.partial(whole), autograph=False, input_signature=[spec]
    )


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


class Functions:
    """Compiled functions of a model, made when first needed.

    An object of its own, so that Keras does not take them for state to save.

    Args:
        compiler: Compiles them.

    Example:
        >>> functions = Functions(Compiler("auto"))
        >>> square = functions.compiled("square", lambda x: x**2, "squares")
        >>> float(square(tf.constant(3.0)))
        9.0
    """

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._made: dict[Any, Any] = {}
        self.predict: dict[Any, Any] = {}

    def compiled(
        self, key: Any, fn: Callable[..., Any], name: str, xla_on_cpu: bool = True
    ) -> Any:
        """The function compiled, the same object at each call.

        Args:
            key: What tells it from others of the model.
            fn: The function.
            name: What it does, for messages.
            xla_on_cpu: Whether `"auto"` means XLA on a CPU too.

        Returns:
            A callable.
        """
        return self.once(
            key,
            lambda: self._compiler.function(fn, name, xla_on_cpu=xla_on_cpu),
        )

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Something made when first needed, and kept out of Keras' sight.

        Args:
            key: What tells it from others.
            make: Makes it.

        Returns:
            What was made.
        """
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
