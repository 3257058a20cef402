"""The seam between Keras and TFP: a distribution that is also a tensor.

Keras 3 passes only tensors between layers. `DistributionTensor` is a tensor by
TensorFlow's public protocols (`is_tensor_like`, `__tf_tensor__`, `__array__`), and a
`tfd.Distribution` by Python's (virtual subclassing of `abc`). The distribution inside
is not copied, and is always there as `tensor_distribution`.
"""

import contextlib
import functools
import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow.python.eager import record

from tfp_vae.draws import draw, seed_for_tfp
from tfp_vae.summaries import SUMMARIES, summary

tfd = tfp.distributions

STATISTICS = (
    "sample",
    "mean",
    "mode",
    "stddev",
    "variance",
    "covariance",
    "entropy",
    "logits",
    "probs",
)
# Those that have the shape of one draw.
DRAW_SHAPED = ("sample", "mean", "mode", "stddev", "variance")


class TensorConversion:
    """Converts a distribution to a tensor, as `convert_to_tensor_fn` specifies.

    Args:
        fn: One of the names in `STATISTICS`, the method of a `tfd` class with such a
            name (`tfd.Distribution.mean`), or a callable from distribution to tensor.
            A callable with a parameter `seed` gets the layer's own seed, so that its
            draws are reproducible: `lambda q, seed: q.sample(5, seed=seed)`.
        caller: Name of the caller, for the message.

    Raises:
        ValueError: If `fn` is none of these.

    Example:
        >>> conversion = TensorConversion("mean")
        >>> float(conversion(tfd.Normal(2.0, 1.0), seed=None))
        2.0
    """

    def __init__(self, fn: Any, caller: str = "DistributionTensor") -> None:
        """Replaces a method by its name, which a config can store."""
        self.name = fn if isinstance(fn, str) else _statistic_name(fn)
        if self.name not in (*STATISTICS, None) or not (self.name or callable(fn)):
            raise ValueError(
                f"`{caller}` expects `convert_to_tensor_fn` to be one of {STATISTICS}, "
                "a method of `tfd.Distribution` with such a name, or a callable from a "
                f"distribution to a tensor. Received: convert_to_tensor_fn={fn!r}. "
                "Use 'mean' for a deterministic value or 'sample' for one draw."
            )
        self.fn: Any = self.name or fn
        self._takes_seed = self.name is None and _accepts_seed(fn)
        self.draws = self.name == "sample" or self._takes_seed

    def __call__(self, distribution: Any, seed: Any) -> Any:
        """The value of `distribution`, as the conversion returns it."""
        if self.name == "sample":
            return distribution.sample(seed=seed_for_tfp(seed))
        if self.name is not None:
            return _statistic(distribution, self.name)
        if self._takes_seed:
            return self.fn(distribution, seed=seed)
        return self.fn(distribution)

    def static_spec(self, distribution: Any) -> tf.TensorSpec | None:
        """Shape and dtype of the value, if known without computing it."""
        if self.name not in DRAW_SHAPED or isinstance(distribution.dtype, list | dict):
            return None
        dtype = tf.as_dtype(distribution.dtype)
        if not (dtype.is_floating or self.name in ("sample", "mode")):
            return None
        shape = distribution.batch_shape.concatenate(distribution.event_shape)
        return tf.TensorSpec(shape, dtype) if shape.rank is not None else None


def _statistic_name(fn: Any) -> str | None:
    """The name of a method or property of a `tfd` class; `None` for anything else."""
    fn = fn.fget if isinstance(fn, property) else fn
    name = getattr(fn, "__name__", None)
    module = getattr(fn, "__module__", None) or ""
    return name if module.startswith("tensorflow_probability.") else None


def _accepts_seed(fn: Callable[..., Any]) -> bool:
    try:
        return "seed" in inspect.signature(fn).parameters
    except (TypeError, ValueError):
        return False


def _statistic(distribution: Any, name: str) -> Any:
    """Computes a statistic; `logits` and `probs` also of a wrapped distribution."""
    if name in ("logits", "probs"):
        inner = distribution
        while not hasattr(inner, f"{name}_parameter"):
            if not hasattr(inner, "distribution"):
                raise ValueError(
                    f"convert_to_tensor_fn={name!r} expects a distribution that has "
                    f"`{name}`. Received: {distribution}. Use 'mean' instead."
                )
            inner = inner.distribution
        return getattr(inner, f"{name}_parameter")()
    return summary(distribution, name)


def _operator(
    name: str, reverse: bool = False
) -> Callable[["DistributionTensor", Any], Any]:
    function = getattr(operator, name)

    def apply(self: "DistributionTensor", other: Any) -> Any:
        value = tf.convert_to_tensor(self)
        if isinstance(other, DistributionTensor):
            other = tf.convert_to_tensor(other)
        return function(other, value) if reverse else function(value, other)

    return apply


class DistributionTensor:
    """A `tfd.Distribution` that TensorFlow, Keras and NumPy also accept as a tensor.

    As a distribution it is the one inside: all attributes and methods that are not
    those of a tensor are forwarded to it, and `isinstance(x, tfd.Distribution)` is
    true. Quantiles, moments and modes that TFP lacks are added: `p.quantile(0.9)` of
    one coordinate and of mixtures, `p.covariance()` of independent coordinates,
    `p.stddev()` and `p.mode()` of blocks. Part of the batch is
    `p.tensor_distribution[2:5]`.

    As a tensor it is the *value* that the conversion returns, by default one draw. The
    value is computed at its first use and then kept, so that a decoder and a Monte
    Carlo KL see the same draw. Indexing, `len`, iteration, operators (including `==`),
    `shape`, `ndim` and `dtype` are those of the value.

    As an argument or result of a `tf.function` it becomes its value.

    Args:
        distribution: The `tfd.Distribution` to wrap.
        convert_to_tensor_fn: See `TensorConversion`.
        seed: Seed for the draw, anything that TFP's `sample` takes.

    Raises:
        ValueError: If `distribution` is not a `tfd.Distribution`, or the conversion
            is unknown.

    Example:
        >>> x = DistributionTensor(tfd.Normal([0.0, 1.0], 1.0), "mean")
        >>> isinstance(x, tfd.Distribution), tf.is_tensor(x), x.shape
        (True, True, TensorShape([2]))
        >>> (x + 1.0).numpy()
        array([1., 2.], dtype=float32)
    """

    is_tensor_like = True
    __array_priority__ = 100

    def __init__(
        self,
        distribution: Any,
        convert_to_tensor_fn: Any = "sample",
        seed: Any = None,
    ) -> None:
        """Stores the distribution; the value is computed at its first use."""
        if not isinstance(distribution, tfd.Distribution):
            raise ValueError(
                "`DistributionTensor` expects a `tfd.Distribution`. "
                f"Received: {distribution!r} of type {type(distribution).__name__}. "
                "Return an instance of a class of `tfp.distributions`."
            )
        if not isinstance(convert_to_tensor_fn, TensorConversion):
            convert_to_tensor_fn = TensorConversion(convert_to_tensor_fn)
        self._dt_distribution = unwrap(distribution)
        self._dt_conversion = convert_to_tensor_fn
        self._dt_seed = seed
        self._dt_value: tf.Tensor | None = None
        self._dt_log_prob: tf.Tensor | None = None
        eager = tf.executing_eagerly()
        self._dt_graph = None if eager else tf.compat.v1.get_default_graph()

    def __getattr__(self, name: str) -> Any:
        """Forwards all other attributes to the distribution."""
        if name.startswith("_dt_") or (name[:2] == name[-2:] == "__"):
            raise AttributeError(name)
        if name in SUMMARIES:
            return functools.partial(summary, self._dt_distribution, name)
        return getattr(self._dt_distribution, name)

    def __copy__(self) -> "DistributionTensor":
        """Another one of the same distribution, with the same value if it has one."""
        new = type(self).__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __dir__(self) -> list[str]:
        """Own attributes and the distribution's."""
        return sorted({*super().__dir__(), *dir(self._dt_distribution)})

    def __repr__(self) -> str:
        """Shows the distribution and how it becomes a tensor."""
        held = repr(self._dt_distribution).strip("<>")
        conversion = self._dt_conversion.fn
        state = (
            "not drawn" if self._dt_value is None else f"shape {self._dt_value.shape}"
        )
        return f"<DistributionTensor {held}, value: {conversion} ({state})>"

    @property
    def tensor_distribution(self) -> Any:
        """The distribution inside, under the name that `tfp.layers` gave it."""
        return self._dt_distribution

    @property
    def shape(self) -> tf.TensorShape:
        """Static shape of the value, if possible without drawing it."""
        return self._dt_spec().shape

    @property
    def ndim(self) -> int:
        """Rank of the value."""
        return self.shape.rank

    @property
    def dtype(self) -> tf.DType:
        """Dtype of the value: the distribution's, or float for a mean of counts."""
        return self._dt_spec().dtype

    def get_shape(self) -> tf.TensorShape:
        """Static shape of the value."""
        return self.shape

    def numpy(self) -> np.ndarray:
        """The value as a NumPy array (eager execution only)."""
        return tf.convert_to_tensor(self).numpy()

    def _dt_spec(self) -> Any:
        if self._dt_value is None:
            spec = self._dt_conversion.static_spec(self._dt_distribution)
            if spec is not None:
                return spec
        return tf.convert_to_tensor(self)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        """The value, computed once in the graph where the distribution was made."""
        if self._dt_value is None:
            with _building_in(self._dt_graph):
                self._dt_value = tf.convert_to_tensor(self._dt_convert())
        return tf.convert_to_tensor(self._dt_value, dtype=dtype, name=name)

    def _dt_convert(self) -> Any:
        if self._dt_conversion.name != "sample":
            return self._dt_conversion(self._dt_distribution, self._dt_seed)
        value, self._dt_log_prob = draw(self._dt_distribution, seed=self._dt_seed)
        return value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The value for NumPy (eager execution only, outside gradient tapes)."""
        # TF turns list elements that are not its own tensors into NumPy constants, with
        # a gradient of None. After this error it converts the element to a tensor.
        if _a_tape_records():
            raise NotImplementedError(
                "A `DistributionTensor` cannot become a NumPy array while a gradient "
                "tape records, since its gradient would be lost. Use "
                "`tf.convert_to_tensor(x)`, or `x.numpy()` where none is needed."
            )
        array = tf.convert_to_tensor(self).__array__()
        return np.array(array, dtype=dtype, copy=copy)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Calls a NumPy function on the value; NumPy would call methods by its name."""
        args, kwargs = tf.nest.map_structure(
            lambda x: np.asarray(x) if isinstance(x, DistributionTensor) else x,
            (args, kwargs),
        )
        return func(*args, **kwargs)

    def __len__(self) -> int:
        """Length of the value's first axis."""
        return len(tf.convert_to_tensor(self))

    def __iter__(self) -> Iterator[tf.Tensor]:
        """Iterates over the value's first axis."""
        return iter(tf.convert_to_tensor(self))

    def __getitem__(self, key: Any) -> tf.Tensor:
        """Indexes the value."""
        return tf.convert_to_tensor(self)[key]

    def __bool__(self) -> bool:
        """Truth of a one-element value, as for a tensor."""
        return bool(tf.convert_to_tensor(self))

    def __float__(self) -> float:
        """A one-element value as a number."""
        return float(tf.convert_to_tensor(self))

    def __int__(self) -> int:
        """A one-element value as a number."""
        return int(tf.convert_to_tensor(self))

    def __neg__(self) -> tf.Tensor:
        """Minus the value."""
        return -tf.convert_to_tensor(self)

    def __abs__(self) -> tf.Tensor:
        """Absolute value."""
        return abs(tf.convert_to_tensor(self))

    def __invert__(self) -> tf.Tensor:
        """Logical or bitwise not of the value."""
        return ~tf.convert_to_tensor(self)

    __hash__ = object.__hash__
    __eq__ = _operator("eq")
    __ne__ = _operator("ne")
    __lt__ = _operator("lt")
    __le__ = _operator("le")
    __gt__ = _operator("gt")
    __ge__ = _operator("ge")
    __add__ = _operator("add")
    __radd__ = _operator("add", reverse=True)
    __sub__ = _operator("sub")
    __rsub__ = _operator("sub", reverse=True)
    __mul__ = _operator("mul")
    __rmul__ = _operator("mul", reverse=True)
    __truediv__ = _operator("truediv")
    __rtruediv__ = _operator("truediv", reverse=True)
    __floordiv__ = _operator("floordiv")
    __rfloordiv__ = _operator("floordiv", reverse=True)
    __mod__ = _operator("mod")
    __rmod__ = _operator("mod", reverse=True)
    __pow__ = _operator("pow")
    __rpow__ = _operator("pow", reverse=True)
    __matmul__ = _operator("matmul")
    __rmatmul__ = _operator("matmul", reverse=True)
    __and__ = _operator("and_")
    __rand__ = _operator("and_", reverse=True)
    __or__ = _operator("or_")
    __ror__ = _operator("or_", reverse=True)
    __xor__ = _operator("xor")
    __rxor__ = _operator("xor", reverse=True)


def _a_tape_records() -> bool:
    """Whether a gradient tape records, which only a private function tells.

    `test_a_list_of_tensors_keeps_its_gradient` fails if that is removed.
    """
    recording = getattr(record, "could_possibly_record", None)
    return bool(recording and recording())


@contextlib.contextmanager
def _building_in(graph: Any) -> Iterator[None]:
    """Builds ops in the graph (`None`: eagerly) in which a distribution was made.

    A value first used inside a `tf.cond` or `tf.while_loop` would otherwise belong to
    that branch, and be unusable outside of it.
    """
    if graph is None:
        if tf.executing_eagerly():
            yield
        else:
            with tf.init_scope():
                yield
    elif graph is tf.compat.v1.get_default_graph():
        yield
    else:
        with graph.as_default():
            yield


def unwrap(distribution: Any) -> Any:
    """The plain `tfd.Distribution` in a `DistributionTensor`, or the argument.

    Args:
        distribution: Any distribution.

    Returns:
        The distribution that TFP itself made.

    Example:
        >>> unwrap(DistributionTensor(tfd.Normal(0.0, 1.0))).name
        'Normal'
    """
    if isinstance(distribution, DistributionTensor):
        return distribution.tensor_distribution
    return distribution


def holds_draws(distribution: Any) -> bool:
    """Whether the tensor value of a distribution is one or more draws from it.

    Args:
        distribution: Any distribution.

    Returns:
        True for a `DistributionTensor` that converts by `sample`, or by a callable with
        a parameter `seed`. False for statistics and for other callables, which may
        compute one.

    Example:
        >>> q = tfd.Normal(0.0, 1.0)
        >>> [holds_draws(DistributionTensor(q, fn)) for fn in ("sample", "mean")]
        [True, False]
    """
    return (
        isinstance(distribution, DistributionTensor)
        and distribution._dt_conversion.draws
    )


def held_draw(distribution: DistributionTensor) -> Any:
    """The value of a distribution that `holds_draws`, with log q if it is known.

    Args:
        distribution: A `DistributionTensor`.

    Returns:
        The value, and its log-density or `None`.

    Example:
        >>> z, log_q = held_draw(DistributionTensor(tfd.LogNormal(0.0, 1.0)))
        >>> log_q.shape
        TensorShape([])
    """
    return tf.convert_to_tensor(distribution), distribution._dt_log_prob


tfd.Distribution.register(DistributionTensor)


@tfd.RegisterKL(DistributionTensor, DistributionTensor)
@tfd.RegisterKL(DistributionTensor, tfd.Distribution)
@tfd.RegisterKL(tfd.Distribution, DistributionTensor)
def _kl_of_the_distributions_inside(a: Any, b: Any, name: str | None = None) -> Any:
    return tfd.kl_divergence(unwrap(a), unwrap(b), name=name)
