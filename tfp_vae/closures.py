"""Finds the Keras variables that a user's function reads from outside."""

import collections
import contextlib
import dis
import functools
import inspect
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

_LEAVES = (
    bool | int | float | complex | str | bytes | np.ndarray | tf.Tensor | tf.Variable
)
_CONTAINERS: tuple[type, ...] = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    collections.deque,
    functools.partial,
    property,
    staticmethod,
    classmethod,
    types.MethodType,
    types.SimpleNamespace,
)
_CODE = types.ModuleType | types.FunctionType | type
_MAY_HOLD_VARIABLES = {"keras", "tensorflow_probability", "tfp_vae"}


def variables_read(
    fn: Callable[..., Any],
    inputs: Any,
    sources: Sequence[Any],
    caller: str,
    dtype: Any = "float32",
) -> list[keras.Variable]:
    """The Keras variables that a function reads besides its arguments.

    A trace of the function shows which TensorFlow variables it reads. The Keras
    variables that hold them are looked for in closures, globals, defaults and
    attributes.

    Args:
        fn: Function of the inputs, which is traced; it returns a distribution.
        inputs: Arrays, tensors, or symbolic ones, in any structure.
        sources: What `fn` belongs to or calls: where to look.
        caller: Name of the caller, for the message.
        dtype: The dtype to which the caller casts floating-point inputs.

    Returns:
        Keras variables, in the order in which they are read.

    Raises:
        ValueError: If it reads a trainable variable that no Keras variable holds, or
            a distribution or bijector that was made of one before the call.

    Example:
        >>> scale = keras.Variable(2.0)
        >>> fn = lambda loc: tfd.Normal(loc, scale)
        >>> variables_read(fn, tf.zeros([3]), [fn], "layer") == [scale]
        True
    """
    wanted = _variables_of(fn, inputs, dtype)
    found: dict[int, Any] = {}
    untrained: list[Any] = []
    for part in _reachable(sources):
        if isinstance(part, keras.Variable):
            replicas = getattr(part.value, "values", ())
            for value in (part.value, *(() if callable(replicas) else replicas)):
                found[id(value)] = part
        elif isinstance(part, tfp.distributions.Distribution | tfp.bijectors.Bijector):
            given = keras.tree.flatten(list(part.parameters.values()))
            untrained += [value for value in given if isinstance(value, keras.Variable)]
    untrained += [v for key, v in wanted.items() if v.trainable and key not in found]
    if untrained:
        raise ValueError(
            f"`{caller}` expects a function whose variables Keras can train. Received: "
            f"one that reads {untrained[0]!r:.90}, which would not be trained. Use a "
            "`keras.Variable` that the function reads itself, and make distributions "
            "and bijectors of it inside of the function."
        )
    return list({id(found[key]): found[key] for key in wanted if key in found}.values())


def _variables_of(
    fn: Callable[..., Any], inputs: Any, dtype: Any
) -> dict[int, tf.Variable]:
    """The variables of TensorFlow that a function and its distribution read."""
    held: list[tf.Variable] = []

    def use(inputs: Any) -> None:
        distribution = fn(inputs)
        held.extend(distribution.variables)
        # A bijector's network is not among these; the density reads it.
        with contextlib.suppress(Exception):
            shape = distribution.batch_shape_tensor(), distribution.event_shape_tensor()
            distribution.log_prob(tf.zeros(tf.concat(shape, 0), distribution.dtype))

    def spec(tensor: Any) -> tf.TensorSpec:
        floating = tf.as_dtype(tensor.dtype).is_floating
        return tf.TensorSpec(tensor.shape, dtype if floating else tensor.dtype)

    traced = tf.function(use, autograph=False)
    with contextlib.suppress(Exception):  # The call that follows raises it again.
        specs = keras.tree.map_structure(spec, inputs)
        held += traced.get_concrete_function(specs).variables
    return {id(variable): variable for variable in held}


def _reachable(parts: Sequence[Any]) -> Iterator[Any]:
    """Yields the objects, what they hold, what those hold, and so on.

    Of a library's objects only those of Keras, TFP and tfp_vae are opened, since a
    user's variables may be in them; TensorFlow's would lead to whole graphs.
    """
    of_the_user = {_package(part) for part in parts}
    left, seen = list(parts), set()
    while left:
        part = left.pop()
        if part is None or isinstance(part, _LEAVES) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        package = _package(part)
        opened = isinstance(part, _CONTAINERS) or package in of_the_user
        if opened or not _is_installed(package):
            left.extend(_held_by(part))
        elif package in _MAY_HOLD_VARIABLES and not isinstance(part, _CODE):
            left.extend(_attributes(part))


def _held_by(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return list(part.values())
    if isinstance(part, list | tuple | set | frozenset | collections.deque):
        return list(part)
    if isinstance(part, functools.partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, property):
        return [part.fget]
    if isinstance(part, staticmethod | classmethod):
        return [part.__func__]
    if inspect.ismethod(part):
        return [part.__func__, part.__self__]
    if not isinstance(part, _CODE):
        return [*_attributes(part), type(part)]
    if isinstance(part, types.FunctionType):
        return _from_outside(part)
    return [*vars(part).values(), *getattr(part, "__bases__", ())]


def _package(part: Any) -> str:
    """The package of a module, a function, a class or an object."""
    while isinstance(part, functools.partial):
        part = part.func
    name = "__name__" if inspect.ismodule(part) else "__module__"
    module = getattr(part, name, None)
    return str(module).partition(".")[0]


@functools.cache
def _is_installed(package: str) -> bool:
    """Whether a package is part of Python or installed, so not the user's own code."""
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    return package in sys.stdlib_module_names or file.startswith(tuple(libraries))


def _attributes(part: Any) -> list[Any]:
    """The values that an object holds."""
    found = list(getattr(part, "__dict__", {}).values())
    for cls in type(part).__mro__:
        slots = vars(cls).get("__slots__") or ()
        for name in [slots] if isinstance(slots, str) else slots:
            with contextlib.suppress(Exception):  # not assigned yet
                found.append(getattr(part, name))
    return found


def _from_outside(fn: types.FunctionType) -> list[Any]:
    """What a function reads from outside: its closure, globals and defaults."""
    found = [*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()]
    for cell in fn.__closure__ or ():
        with contextlib.suppress(ValueError):  # not assigned yet
            found.append(cell.cell_contents)
    return [*found, *(fn.__globals__.get(name) for name in _globals(fn.__code__))]


def _globals(code: types.CodeType) -> set[str]:
    """The names of globals that code reads, and functions inside it."""
    inner = (part for part in code.co_consts if inspect.iscode(part))
    read = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    return read.union(*map(_globals, inner))
