"""Where a distribution has its mass, as far as its class tells."""

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions
tfb = tfp.bijectors

_BY_CLASS = {
    "the unit sphere": (tfd.VonMisesFisher, tfd.PowerSpherical, tfd.SphericalUniform),
    "the simplex": (tfd.Dirichlet, tfd.RelaxedOneHotCategorical),
    "logarithms on the simplex": (tfd.ExpRelaxedOneHotCategorical,),
}
_INSIDE = (
    ("components_distribution", tfd.MixtureSameFamily),
    ("distribution", tfd.Independent | tfd.Sample | tfd.BatchBroadcast),
)


class Support(NamedTuple):
    """A set of values: a kind of space, and an interval on the real line.

    Args:
        kind: `"real numbers"`, `"discrete values"`, or a space by name.
        low: Lower end; NaN where it is not known before the step runs.
        high: Upper end; NaN where it is not known before the step runs.

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
        """Whether another set may lie inside; true where an end is not known."""
        outside = other.low < self.low or other.high > self.high
        return self.kind == other.kind and not outside


def support_of(distribution: Any) -> Support | None:
    """The support of each coordinate of a distribution.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        A `Support`, or `None` where the class does not tell, as for a flow.

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
    if isinstance(distribution, tfd.Deterministic | tfd.JointDistribution):
        return None
    try:
        bijector = distribution.experimental_default_event_space_bijector()
    except (TypeError, NotImplementedError):
        return None
    if bijector is None:
        discrete = not isinstance(distribution, tfd.Mixture | tfd.Blockwise)
        return Support("discrete values") if discrete else None
    return _image(bijector)


def _image(bijector: Any) -> Support | None:
    """What a bijector makes of the real numbers."""
    if isinstance(bijector, tfb.Identity):
        return Support("real numbers")
    if isinstance(bijector, tfb.Softplus | tfb.Exp):
        return Support("real numbers", 0.0)
    if isinstance(bijector, tfb.Sigmoid):
        low = _end(bijector.low, 0.0, np.min)
        return Support("real numbers", low, _end(bijector.high, 1.0, np.max))
    if isinstance(bijector, tfb.Chain) and len(bijector.bijectors) == 2:
        outer, inner = bijector.bijectors
        if isinstance(outer, tfb.Reciprocal) and isinstance(inner, tfb.Softplus):
            return Support("real numbers", 0.0)
        if isinstance(outer, tfb.Shift) and isinstance(inner, tfb.Softplus | tfb.Exp):
            return Support("real numbers", _end(outer.shift, 0.0, np.min))
    return None


def _end(value: Any, default: float, extreme: Any) -> float:
    if value is None:
        return default
    known = tf.get_static_value(tf.convert_to_tensor(value))
    return math.nan if known is None else float(extreme(known))
