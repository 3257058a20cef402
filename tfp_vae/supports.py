"""The support of a distribution, as far as its class determines it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta

tfd = tfp.distributions
tfb = tfp.bijectors

REALS = "real numbers"
DISCRETE = "discrete values"
_BY_CLASS = {
    "single points": (tfd.Deterministic, tfd.VectorDeterministic),
    "the unit sphere": (tfd.VonMisesFisher, tfd.PowerSpherical, tfd.SphericalUniform),
    "the simplex": (tfd.Dirichlet, tfd.RelaxedOneHotCategorical),
    "logarithms on the simplex": (tfd.ExpRelaxedOneHotCategorical,),
}
# The parts of these distributions may have different supports.
_SEVERAL = {"Blockwise", "JointDistribution", "Mixture"}
# Bijectors that map the real numbers onto themselves, including those of flows.
_ONTO_THE_REALS = {
    "Identity",
    "MaskedAutoregressiveFlow",
    "Permute",
    "RationalQuadraticSpline",
    "RealNVP",
    "Scale",
    "ScaleMatvecDiag",
    "ScaleMatvecTriL",
    "Shift",
    "Sinh",
    "SinhArcsinh",
}
_INSIDE = {
    "components_distribution": {"MixtureSameFamily"},
    "distribution": {
        "BatchBroadcast",
        "BatchReshape",
        "Independent",
        "Masked",
        "Sample",
    },
    "observation_distribution": {"HiddenMarkovModel"},
}


class Support(NamedTuple):
    """A set of values: a kind of space, and an interval on the real line.

    Args:
        kind: `REALS`, or the name of a space.
        low: Lower end; NaN if it is unknown before the graph runs.
        high: Upper end; NaN if it is unknown before the graph runs.

    Example:
        >>> str(Support("real numbers", 0.0, 1.0)), str(Support("the simplex"))
        ('real numbers from 0 to 1', 'the simplex')
    """

    kind: str
    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        """The set in words."""
        if self.low == -math.inf and self.high == math.inf:
            return self.kind
        return f"{self.kind} from {self.low:g} to {self.high:g}"

    def contains(self, other: "Support") -> bool:
        """Whether `other` may be a subset; an unknown end counts as inside."""
        outside = other.low < self.low or other.high > self.high
        return self.kind == other.kind and not outside


def support_of(distribution: Any) -> Support | None:
    """The support of each coordinate of a distribution.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        A `Support`, or `None` if the class does not determine it.

    Example:
        >>> str(support_of(tfd.Sample(tfd.Beta(2.0, 1.0), 3)))
        'real numbers from 0 to 1'
    """
    for attribute, wrappers in _INSIDE.items():
        if _is(distribution, wrappers):
            return support_of(getattr(distribution, attribute))
    for kind, classes in _BY_CLASS.items():
        if isinstance(distribution, classes):
            return Support(kind)
    if isinstance(distribution, meta.Inflated):
        inner = support_of(distribution.distribution)
        return inner if inner == Support(DISCRETE) else None
    if _is(distribution, _SEVERAL):
        return None
    if isinstance(distribution, tfd.Autoregressive):
        first = () if distribution.sample0 is None else (distribution.sample0,)
        return support_of(distribution.distribution_fn(*first))
    try:
        default = distribution.experimental_default_event_space_bijector()
    except (TypeError, NotImplementedError, AttributeError):
        default = None
    else:
        # TFP gives none for discrete distributions, nor for transformed mixtures.
        if default is None and not _is(distribution, {"TransformedDistribution"}):
            return Support(DISCRETE)
    known = _image(default, Support(REALS))
    bijector = getattr(distribution, "bijector", None)
    if known is None and isinstance(bijector, tfb.Bijector):
        known = _image(bijector, support_of(distribution.distribution))
    return known


def is_discrete(distribution: Any) -> bool:
    """Whether the class of a distribution says that its values are discrete.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        True for Bernoulli, categorical and Poisson distributions, for instance, in
        whatever dtype.

    Example:
        >>> is_discrete(tfd.Bernoulli(0.0, dtype=tf.float32))
        True
    """
    support = support_of(distribution)
    return support is not None and support.kind == DISCRETE


def number_of_values(distribution: Any) -> int | None:
    """The number of values that a draw may have, including those of probability 0.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        An integer for Bernoulli and categorical distributions, mixtures of these over
        one set of values, and products; `None` for others, and if a shape is unknown.

    Example:
        >>> number_of_values(tfd.Sample(tfd.Bernoulli(0.0), 6))
        64
        >>> number_of_values(tfd.Poisson(1.0)) is None
        True
    """
    found = _finite(distribution)
    return None if found is None else found.size


def values_of(distribution: Any) -> tf.Tensor:
    """Lists the values that a distribution can have, the same for the whole batch.

    Args:
        distribution: A `tfd.Distribution` with a `number_of_values`.

    Returns:
        A tensor of shape `(number_of_values, *event_shape)`, in the dtype of the draws.

    Example:
        >>> values_of(tfd.Sample(tfd.Bernoulli(0.0), 2)).numpy().tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    return tf.cast(_finite(distribution).listed(), distribution.dtype)


class _Values(NamedTuple):
    """A finite set: how many values, and a function that lists them."""

    size: int
    listed: Callable[[], tf.Tensor]


def _finite(distribution: Any) -> Any:
    """The `_Values` of a distribution; `None` if it has no known finite set of them."""
    if isinstance(distribution, meta.MixtureSameFamily):
        return _finite(distribution.components_distribution)
    if isinstance(distribution, meta.Independent | meta.Sample | meta.BatchBroadcast):
        return _copies(distribution, distribution.distribution)
    if isinstance(distribution, meta.Blockwise):
        return _blocks(distribution)
    if isinstance(distribution, tfd.Bernoulli):
        return _Values(2, lambda: tf.range(2))
    if isinstance(distribution, tfd.Categorical | tfd.OneHotCategorical):
        logits = distribution.logits
        width = (distribution.probs if logits is None else logits).shape[-1]
        if width is not None:
            one_hot = isinstance(distribution, tfd.OneHotCategorical)
            return _Values(width, lambda: tf.eye(width) if one_hot else tf.range(width))
    return None


def _copies(distribution: Any, base: Any) -> Any:
    """The values of an event that repeats those of another distribution."""
    shape, one = distribution.event_shape, _finite(base)
    if one is None or not shape.is_fully_defined():
        return None
    copies = math.prod(shape[: shape.rank - base.event_shape.rank])

    def listed() -> tf.Tensor:
        values = tf.gather(one.listed(), _combinations([one.size] * copies))
        return tf.reshape(values, [-1, *shape])

    return _Values(one.size**copies, listed)


def _blocks(distribution: Any) -> Any:
    blocks = [_finite(block) for block in distribution.distributions]
    if None in blocks:
        return None
    counts = [block.size for block in blocks]

    def listed() -> tf.Tensor:
        columns = _combinations(counts).T
        pairs = zip(blocks, columns, strict=True)
        parts = [tf.gather(block.listed(), column) for block, column in pairs]
        flat = [tf.reshape(part, [len(columns[0]), -1]) for part in parts]
        return tf.concat([tf.cast(part, distribution.dtype) for part in flat], axis=-1)

    return _Values(math.prod(counts), listed)


def _combinations(counts: list[int]) -> np.ndarray:
    """All tuples of indices (i_0, i_1, ...) with 0 <= i_j < counts[j], one a row."""
    total = math.prod(counts)
    rows, period, columns = np.arange(total), total, []
    for count in counts:
        period //= count
        columns.append(rows // period % count)
    return np.stack(columns, axis=-1)


def _image(bijector: Any, support: Support | None) -> Support | None:
    """The image of a set under a bijector; `None` if unknown."""
    if support == Support(DISCRETE):
        return support
    if support is None or support.kind != REALS:
        return None
    if _is(bijector, {"Chain"}):
        for each in reversed(bijector.bijectors):
            support = _image(each, support)
        return support
    if support != Support(REALS):
        return _image_of_an_interval(bijector, support)
    if _is(bijector, {"Invert"}):
        bijector = bijector.bijector
        return support if _is(bijector, _ONTO_THE_REALS) else None
    if _is(bijector, _ONTO_THE_REALS):
        return support
    if _is(bijector, {"Softplus", "Exp"}):
        return Support(REALS, 0.0)
    if _is(bijector, {"Sigmoid"}):
        low = _end(bijector.low, 0.0, np.min)
        return Support(REALS, low, _end(bijector.high, 1.0, np.max))
    return None


def _image_of_an_interval(bijector: Any, support: Support) -> Support | None:
    if _is(bijector, {"Shift"}):
        low, high = (_end(bijector.shift, 0.0, extreme) for extreme in (np.min, np.max))
        return Support(REALS, support.low + low, support.high + high)
    same = _is(bijector, {"Identity"})
    inverse = _is(bijector, {"Reciprocal"}) and support == Support(REALS, 0.0)
    return support if same or inverse else None


def _is(part: Any, names: set[str]) -> bool:
    """Whether the class of a distribution or bijector has one of these public names.

    Some have a second class in TFP that is private, such as `_Invert` and `_Sample`.
    """
    classes = {cls.__name__.lstrip("_") for cls in type(part).__mro__}
    return bool(classes & names)


def _end(value: Any, default: float, extreme: Any) -> float:
    if value is None:
        return default
    known = tf.get_static_value(tf.convert_to_tensor(value))
    return math.nan if known is None else float(extreme(known))
