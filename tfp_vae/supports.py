"""The support of a distribution, as far as its class determines it."""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions
tfb = tfp.bijectors

REALS = "real numbers"
_BY_CLASS = {
    "single points": (tfd.Deterministic, tfd.VectorDeterministic),
    "the unit sphere": (tfd.VonMisesFisher, tfd.PowerSpherical, tfd.SphericalUniform),
    "the simplex": (tfd.Dirichlet, tfd.RelaxedOneHotCategorical),
    "logarithms on the simplex": (tfd.ExpRelaxedOneHotCategorical,),
}
# The parts of these distributions may have different supports.
_SEVERAL = tfd.Mixture | tfd.Blockwise | tfd.JointDistribution
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
_INSIDE = (
    ("components_distribution", tfd.MixtureSameFamily),
    ("distribution", tfd.Independent | tfd.Sample | tfd.BatchBroadcast),
)


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
    for attribute, wrapper in _INSIDE:
        if isinstance(distribution, wrapper):
            return support_of(getattr(distribution, attribute))
    for kind, classes in _BY_CLASS.items():
        if isinstance(distribution, classes):
            return Support(kind)
    if isinstance(distribution, _SEVERAL):
        return None
    try:
        default = distribution.experimental_default_event_space_bijector()
    except (TypeError, NotImplementedError):
        default = None
    else:
        if default is None:
            return Support("discrete values")
    known = _image(default, Support(REALS))
    bijector = getattr(distribution, "bijector", None)
    if known is None and isinstance(bijector, tfb.Bijector):
        known = _image(bijector, support_of(distribution.distribution))
    return known


def _image(bijector: Any, support: Support | None) -> Support | None:
    """The image of a set under a bijector; `None` if unknown."""
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


def _is(bijector: Any, names: set[str]) -> bool:
    """Whether the class of a bijector has one of these public names.

    Some bijectors of TFP have a second class that is private, such as `_Invert`.
    """
    classes = {cls.__name__.lstrip("_") for cls in type(bijector).__mro__}
    return bool(classes & names)


def _end(value: Any, default: float, extreme: Any) -> float:
    if value is None:
        return default
    known = tf.get_static_value(tf.convert_to_tensor(value))
    return math.nan if known is None else float(extreme(known))
