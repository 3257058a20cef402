"""What a traced graph computes: its operations and its random numbers."""

import math
from collections.abc import Iterator
from typing import Any

_KEY = "StatelessRandomGetKeyCounter"
_DRAWS = {
    "StatelessRandomNormalV2",
    "StatelessRandomUniformFullIntV2",
    "StatelessRandomUniformIntV2",
    "StatelessRandomUniformV2",
    "StatelessTruncatedNormalV2",
}


def operations(graph: Any) -> Iterator[str]:
    """Names of the operations of a graph and of its functions.

    Args:
        graph: A `GraphDef`.

    Yields:
        A name for each node.

    Example:
        >>> "Mul" in operations(tf.function(lambda x: x * x).get_concrete_function(
        ...     tf.TensorSpec([])).graph.as_graph_def())
        True
    """
    for nodes in _bodies(graph):
        for node in nodes:
            yield node.op


def numbers_from_kept_seeds(graph: Any, unknown: float = math.inf) -> float:
    """How many random numbers a graph draws with keys made from a seed that it keeps.

    The layers of Keras keep a seed in a variable, and `tf.random` makes a key from it
    for each draw. A key made from a seed that was itself drawn does not count, nor do
    the draws of this package's layers, whose key is the seed.

    Args:
        graph: A `GraphDef` with shapes.
        unknown: Size of the axes whose size the graph leaves open.

    Returns:
        The number.

    Example:
        >>> graph = tf.function(
        ...     lambda x, seed: x + tf.random.stateless_normal(tf.shape(x), seed)
        ... ).get_concrete_function(
        ...     tf.TensorSpec([None, 2]), tf.TensorSpec([2], tf.int32)
        ... ).graph.as_graph_def(add_shapes=True)
        >>> numbers_from_kept_seeds(graph, 3)
        6
    """
    total: float = 0
    for nodes in _bodies(graph):
        named = {node.name: node for node in nodes}
        for node in nodes:
            if node.op in _DRAWS and _has_kept_seed(node, named):
                shape = node.attr["_output_shapes"].list.shape[0]
                sizes = [unknown if dim.size < 0 else dim.size for dim in shape.dim]
                total += math.inf if shape.unknown_rank else math.prod(sizes)
    return total


def _bodies(graph: Any) -> Iterator[Any]:
    """The nodes of a graph, and those of each of its functions."""
    yield graph.node
    for function in graph.library.function:
        yield function.node_def


def _inputs(node: Any, named: dict[str, Any]) -> list[Any]:
    """The nodes whose outputs a node uses; arguments of a function have none."""
    names = (name.split(":")[0] for name in node.input if not name.startswith("^"))
    return [named[name] for name in names if name in named]


def _has_kept_seed(draw: Any, named: dict[str, Any]) -> bool:
    """Whether a draw has a key made from a seed that no other draw gave."""
    keys = [node for node in _inputs(draw, named) if node.op == _KEY]
    left, seen = list(keys), set()
    while left:
        node = left.pop()
        if node.op in _DRAWS:
            return False
        if node.name not in seen:
            seen.add(node.name)
            left += _inputs(node, named)
    return bool(keys)
