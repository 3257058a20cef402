"""The continuous ranked probability score of any distribution."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.draws import draw
from tfp_vae.entries import log_weights, of_entries
from tfp_vae.kl.closed_forms import family_name
from tfp_vae.scores.closed_forms import (
    closed_form_crps,
    crps_of_normals,
    crps_of_range,
    sum_over_pairs,
)
from tfp_vae.scores.score import LossAndMetric

tfd: Any = tfp.distributions

_MIXTURES = meta.MixtureSameFamily | meta.Mixture
_WRAPPERS = meta.Independent | meta.Sample


def crps_of_entries(
    distribution: Any,
    y: tf.Tensor,
    num_samples: int = 100,
    next_seed: Callable[[], Any] | None = None,
    differentiable: bool = False,
) -> tf.Tensor:
    """The continuous ranked probability score of each entry:

        CRPS(F_i, y_i) = int (F_i(x) - 1{y_i <= x})^2 dx
                       = E|X_i - y_i| - 1/2 E|X_i - X_i'|

    in the units of y; smaller is better. In closed form for normal, logistic, Laplace,
    Student-t, log-normal, gamma, Bernoulli, Poisson, negative binomial and categorical
    distributions, mixtures of normals, counts with extra zeros, quantised logistics,
    and shifted and scaled versions. Otherwise the unbiased estimate from draws:

        1/S sum_s |x_s - y| - 1/(2 S (S - 1)) sum_st |x_s - x_t|

    For a mixture with weights w_k it uses S draws x_ks of each component k, and pairs
    draw s with draw s - 1 only, the first with the last:

        1/S sum_s (sum_k w_k |x_ks - y| - 1/2 sum_kl w_k w_l |x_ks - x_l,s-1|)

    Args:
        distribution: A plain `tfd.Distribution`.
        y: Floating-point values of shape `batch_shape + event_shape`.
        num_samples: S, at least 2, where there is no closed form.
        next_seed: Function that returns another seed at each call, for the draws.
        differentiable: Whether the draws must have a gradient.

    Returns:
        A tensor of the shape of `y`.

    Raises:
        ValueError: If `differentiable` and draws have no gradient.

    Example:
        >>> p = tfd.Independent(tfd.Normal([[0.0, 1.0]], [[1.0, 2.0]]), 1)
        >>> crps_of_entries(p, tf.constant([[0.0, 1.0]])).numpy().round(4)
        array([[0.2337, 0.4674]], dtype=float32)
    """

    def of_part(part: Any, value: tf.Tensor) -> tf.Tensor:
        found = _in_closed_form(part, value, of_part)
        if found is not None:
            return found
        if differentiable:
            _check_gradient(part)
        return _from_draws(part, value, num_samples, next_seed or (lambda: None))

    return of_entries(distribution, of_part, y)


def _in_closed_form(part: Any, y: tf.Tensor, of_part: Any) -> tf.Tensor | None:
    if part.event_shape.rank == 0:
        found = closed_form_crps(part, y)
        if found is not None:
            return found
    if isinstance(part, _MIXTURES):
        ends = _ends_of_quantized(part)
        if ends is not None:
            return crps_of_range(part, y, *ends)
        return _of_normals(part, y)
    bijector = getattr(part, "bijector", None)
    if (
        isinstance(bijector, tfp.bijectors.Bijector)
        and bijector.is_constant_jacobian
        and bijector.forward_min_event_ndims == 0
        and bijector.inverse_min_event_ndims == 0
    ):
        # CRPS of a + b X at y is |b| times that of X at (y - a) / b.
        size = tf.exp(-bijector.inverse_log_det_jacobian(y, event_ndims=0))
        inner = of_entries(part.distribution, of_part, bijector.inverse(tf.identity(y)))
        return size * inner
    return None


def _of_normals(mixture: Any, y: tf.Tensor) -> tf.Tensor | None:
    """The CRPS of a mixture whose components have normal entries; else `None`."""
    axes = mixture.event_shape.rank
    if isinstance(mixture, meta.MixtureSameFamily):
        components = [mixture.components_distribution]
    else:
        components = list(mixture.components)
    if not all(_is_normal(component) for component in components):
        return None
    moments = []
    for name in ("mean", "stddev"):
        each = [getattr(component, name)() for component in components]
        if isinstance(mixture, meta.MixtureSameFamily):
            moments.append(each[0])
        else:
            moments.append(tf.stack(each, axis=-1 - axes))
    loc, scale = (_components_last(moment, axes) for moment in moments)
    weights = tf.exp(tf.cast(log_weights(mixture, axes), loc.dtype))
    return crps_of_normals(y, loc, scale, _components_last(weights, axes))


def _is_normal(distribution: Any) -> bool:
    if isinstance(distribution, _WRAPPERS):
        return _is_normal(distribution.distribution)
    return isinstance(distribution, tfd.Normal | tfd.MultivariateNormalLinearOperator)


def _components_last(tensor: tf.Tensor, axes: int) -> tf.Tensor:
    """Moves the axis of the components, which is in front of the event, to the end."""
    rank = tensor.shape.rank
    at = rank - axes - 1
    return tf.transpose(tensor, [*range(at), *range(at + 1, rank), at])


def _ends_of_quantized(mixture: Any) -> tuple[int, int] | None:
    inner = getattr(mixture, "components_distribution", None)
    if isinstance(inner, meta.QuantizedDistribution) and not mixture.event_shape.rank:
        ends = [tf.get_static_value(end) for end in (inner.low, inner.high)]
        if None not in ends:
            return int(ends[0]), int(ends[1])
    return None


def _check_gradient(part: Any) -> None:
    draws = _drawn(part)
    if any(p.reparameterization_type != tfd.FULLY_REPARAMETERIZED for p in draws):
        raise ValueError(
            "`CRPS` as a loss expects a closed form or draws with a gradient. Received:"
            f" {family_name(part)}. Train with `NegativeLogLikelihood`, and report "
            "`CRPS` in `metrics`."
        )


def _drawn(part: Any) -> list[Any]:
    """The distributions that are drawn from."""
    if isinstance(part, meta.MixtureSameFamily):
        return [part.components_distribution]
    return list(part.components) if isinstance(part, meta.Mixture) else [part]


def _from_draws(part: Any, y: tf.Tensor, number: int, next_seed: Any) -> tf.Tensor:
    if isinstance(part, _MIXTURES):
        return _mixture_from_draws(part, y, number, next_seed)
    # Relative to y, so that sums of many draws keep their digits.
    draws = _draws(part, y.dtype, number, next_seed)
    draws = _with_axes_in_front(draws, y.shape.rank + 1) - y
    distance = tf.reduce_mean(abs(draws), axis=0)
    # sum_st |x_s - x_t| = 2 sum_s (2 s - S - 1) x_(s) with draws in order.
    ranks = 2 * tf.range(1, number + 1, dtype=y.dtype) - number - 1
    weights = tf.reshape(ranks, [-1, *[1] * y.shape.rank])
    ordered = tf.sort(draws, axis=0)
    pairs = 2 * tf.reduce_sum(weights * ordered, axis=0) / (number * (number - 1))
    return distance - 0.5 * pairs


def _mixture_from_draws(
    mixture: Any, y: tf.Tensor, number: int, next_seed: Any
) -> tf.Tensor:
    """Draws of each component, in pairs of neighbours."""
    axes = mixture.event_shape.rank
    weights = _components_last(
        tf.exp(tf.cast(log_weights(mixture, axes), y.dtype)), axes
    )
    if isinstance(mixture, meta.MixtureSameFamily):
        draws = _draws(mixture.components_distribution, y.dtype, number, next_seed)
        draws = _components_last(draws, axes)
    else:
        each = [_draws(part, y.dtype, number, next_seed) for part in mixture.components]
        draws = tf.stack(each, axis=-1)
    draws = _with_axes_in_front(draws, y.shape.rank + 2)
    distance = tf.reduce_sum(weights * abs(draws - y[..., tf.newaxis]), axis=-1)
    pairs = sum_over_pairs(
        lambda a, b: abs(a[0] - b[0]), weights, (draws,), (tf.roll(draws, 1, axis=0),)
    )
    return tf.reduce_mean(distance - 0.5 * pairs, axis=0)


def _draws(distribution: Any, dtype: Any, number: int, next_seed: Any) -> tf.Tensor:
    return tf.cast(draw(distribution, number, seed=next_seed())[0], dtype)


def _with_axes_in_front(draws: tf.Tensor, rank: int) -> tf.Tensor:
    """Adds axes of length 1 for those that y has in front of the batch."""
    front = rank - draws.shape.rank
    shape = tf.shape(draws)
    return tf.reshape(draws, tf.concat([shape[:1], [1] * front, shape[1:]], axis=0))


@keras.saving.register_keras_serializable("tfp_vae")
class CRPS(LossAndMetric):
    r"""The continuous ranked probability score, a loss and a metric.

    .. math::

        \mathrm{CRPS}(F, y) &= \int (F(x) - \mathbf{1}\{y \le x\})^2 \, dx \\
        &= \mathrm{E}|X - y| - \tfrac{1}{2} \mathrm{E}|X - X'|

    of each entry of the event, with X and X' independent draws from F, and the mean
    over entries and examples, in the units of y. It is proper, as is the
    log-likelihood, and less sensitive to outliers; for a point prediction it is the
    absolute error. It serves as a loss and as a metric, also as one object for both::

        model.compile("adam", loss=tv.CRPS(), metrics=[tv.CRPS()])

    In closed form for normal, logistic, Laplace, Student-t, log-normal, gamma,
    Bernoulli, Poisson, negative binomial and categorical distributions, mixtures of
    normals, counts with extra zeros and quantised logistics, and shifted and scaled
    versions; otherwise estimated without bias from draws. Classes of a categorical
    distribution count as ordered: it is their ranked probability score.

    As a loss, weights of elements multiply before the mean over all elements of the
    event, as in Keras. As a metric it is the weighted mean over all entries seen.

    Reference:
        Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation,
        2007. https://doi.org/10.1198/016214506000001437

        Jordan, Krueger and Lerch, Evaluating probabilistic forecasts with scoringRules,
        2019. https://doi.org/10.18637/jss.v090.i12

    Args:
        num_samples: Number of draws where there is no closed form, at least 2.
        seed: Integer for the draws, or `None`.
        reduction: Of the loss, as in `keras.losses.Loss`.
        name: Name in the history.
        dtype: Dtype of the metric's state.

    Call arguments:
        y_true: Values, of shape `batch_shape + event_shape` of the distribution.
        y_pred: The distribution that a model outputs.
        sample_weight: Numbers of shape `(B,)`, of the batch shape, or of the shape of
            leading axes of the values.

    Returns:
        The loss of a batch, a scalar or, if `reduction` is `None`, a tensor of the
        batch shape.

    Raises:
        ValueError: If `y_pred` is not a distribution, the shape of the values or the
            weights does not fit, an argument is wrong, or it is a loss and draws
            have no gradient.

    Example:
        >>> p = tfd.Independent(tfd.Normal(tf.zeros([2, 3]), 1.0), 1)
        >>> round(float(CRPS()(tf.zeros([2, 3]), p)), 4)  # (sqrt(2) - 1) / sqrt(pi)
        0.2337
        >>> metric = CRPS()
        >>> metric.update_state(tf.zeros([2, 3]), p)
        >>> round(float(metric.result()), 4)
        0.2337
    """

    def __init__(
        self,
        num_samples: int = 100,
        seed: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "crps",
        dtype: Any = None,
    ) -> None:
        super().__init__(num_samples, seed, reduction, name, dtype)

    def score(self, distribution: Any, y: tf.Tensor, differentiable: bool) -> tf.Tensor:
        """The CRPS of each entry; see `Score.score`."""
        return crps_of_entries(
            distribution, y, self.num_samples, self.seeds.next, differentiable
        )
