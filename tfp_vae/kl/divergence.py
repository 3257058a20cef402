"""KL(q || p), defined once: in nats, one number per example, summed over the event.

    KL(q || p) = E_q[log q(z) - log p(z)]

Exact where a closed form is registered, by TFP or in `closed_forms`; by Monte Carlo
otherwise.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.checks import boolean
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.draws import draw
from tfp_vae.kl.closed_forms import as_independent, family_name
from tfp_vae.kl.tfp_layers_factor import axes, tfp_layers_factors, without_event
from tfp_vae.supports import support_of

tfd = tfp.distributions


def kl_divergence(
    posterior: Any,
    prior: Any,
    use_exact_kl: bool | None = None,
    test_points: Callable[[], Any] | None = None,
    test_points_reduce_axis: int | tuple[int, ...] | None = None,
    per_dimension: bool = False,
    test_weights: tf.Tensor | None = None,
) -> tf.Tensor:
    """KL(posterior || prior) in nats, one number for each member of the batch.

    Args:
        posterior: q, a `tfd.Distribution`.
        prior: p, of the same event shape and dtype; its batch shape must broadcast
            to that of the posterior.
        use_exact_kl: `None` uses the closed form if there is one. With an
            `AutoregressivePrior` it sums the closed forms of the steps, each given
            draws of the earlier ones. `True` requires a closed form of the whole KL,
            `False` always uses Monte Carlo.
        test_points: Function that returns the Monte Carlo draws `z ~ q`, of shape
            `(draws..., batch..., event...)`, or a pair of draws and their log q; by
            default one new draw.
        test_points_reduce_axis: Axes of `log q(z) - log p(z)` to average: `None`, or
            all axes of draws in front of the batch. With Monte Carlo, others are an
            error.
        per_dimension: Whether to keep the event axes, one number for each coordinate.
            Needs distributions that factorise over the event.
        test_weights: The weight of each test point, of shape `(draws..., batch...)`,
            in a weighted sum; by default the points count alike.

    Returns:
        A tensor of shape `posterior.batch_shape`, followed by `posterior.event_shape`
        if `per_dimension`.

    Raises:
        ValueError: If event shapes or dtypes differ, the prior's support or batch does
            not fit, `use_exact_kl=True` finds no closed form, the axes left are not
            those of the batch, or a distribution does not factorise where it must.

    Example:
        >>> q = tfd.Independent(tfd.Normal(tf.ones([5, 3]), 1.0), 1)
        >>> p = tfd.MultivariateNormalDiag(tf.zeros(3))
        >>> kl_divergence(q, p).numpy()
        array([1.5, 1.5, 1.5, 1.5, 1.5], dtype=float32)
    """
    if use_exact_kl is not None:
        use_exact_kl = boolean(use_exact_kl, "use_exact_kl", "kl_divergence")
    given = posterior
    posterior, prior = unwrap(posterior), unwrap(prior)
    _check_pair(posterior, prior)
    if per_dimension:
        posterior, prior = _coordinates(posterior), _coordinates(prior)
    if use_exact_kl is not False:
        try:
            return _over_the_batch(_closed_form(posterior, prior), posterior)
        except NotImplementedError as error:
            if use_exact_kl:
                raise ValueError(
                    "use_exact_kl=True expects a pair of distributions with a "
                    "closed-form KL. Received: posterior="
                    f"{family_name(posterior)}, prior={family_name(prior)}. Register "
                    "one with `tfd.RegisterKL`, or leave use_exact_kl=None for Monte "
                    "Carlo."
                ) from error
    points = draw(posterior) if test_points is None else test_points()
    draws, log_q = points if isinstance(points, tuple) else (points, None)
    # A new tensor: TFP's bijectors cache the tensors they made, and a cached draw has
    # no gradient for the parameters.
    draws = tf.identity(draws)
    _check_draws(draws, posterior)
    if use_exact_kl is None:
        stepwise = _stepwise(posterior, prior, draws)
        if stepwise is not None:
            return _average_draws(
                stepwise, posterior, test_points_reduce_axis, given, test_weights
            )
    if log_q is None or per_dimension:
        log_q = posterior.log_prob(draws)
    log_ratio = log_q - prior.log_prob(draws)
    return _average_draws(
        log_ratio, posterior, test_points_reduce_axis, given, test_weights
    )


def has_closed_form(posterior: Any, prior: Any) -> bool:
    """Whether KL(posterior || prior) has a closed form.

    Args:
        posterior: q, a `tfd.Distribution`.
        prior: p, as in `kl_divergence`.

    Returns:
        True if `kl_divergence` needs no draws.

    Example:
        >>> has_closed_form(tfd.Bernoulli(0.0), tfd.Bernoulli(1.0))
        True
    """
    try:
        _closed_form(unwrap(posterior), unwrap(prior))
    except NotImplementedError:
        return False
    return True


def _stepwise(posterior: Any, prior: Any, draws: tf.Tensor) -> tf.Tensor | None:
    """Sum_t KL(q(z[t]) || p(z[t] | z[<t])), given draws of the steps before.

    `None` unless the prior has a method `given`, which returns the distribution of each
    step given those before, and the posterior factorises. The mean over draws is the
    KL, like that of log q - log p, but with less variance.
    """
    if not hasattr(prior, "given") or as_independent(posterior) is None:
        return None
    try:
        return tfd.kl_divergence(posterior, prior.given(draws))
    except NotImplementedError:
        return None


def _check_draws(draws: tf.Tensor, posterior: Any) -> None:
    one = posterior.batch_shape.concatenate(posterior.event_shape)
    extra = draws.shape.rank - one.rank
    if extra < 0 or not draws.shape[extra:].is_compatible_with(one):
        raise ValueError(
            f"The KL expects draws of shape (..., {str(tuple(one))[1:-1]}): the batch "
            f"and event shape of the posterior. Received: {tuple(draws.shape)}. Draw "
            "with `posterior.sample`."
        )


def _average_draws(
    log_ratio: tf.Tensor,
    posterior: Any,
    axis: int | tuple[int, ...] | None,
    given: Any,
    weights: tf.Tensor | None = None,
) -> tf.Tensor:
    rank, batch_rank = log_ratio.shape.rank, tf.TensorShape(posterior.batch_shape).rank
    front = set(range(rank - batch_rank))
    inside = axis is None or all(-rank <= i < rank for i in axes(axis))
    if axis is not None and not (inside and {i % rank for i in axes(axis)} == front):
        raise ValueError(
            "`test_points_reduce_axis` expects the axes in front of the batch, so that "
            f"{tuple(posterior.batch_shape)} remains. Received: axis={axis} of a "
            f"tensor of shape {tuple(log_ratio.shape)}. Leave it None to average all "
            f"draws. {_advice(log_ratio.shape, given, axis)}"
        )
    if weights is not None:
        event = log_ratio.shape.rank - weights.shape.rank
        shape = tf.concat([tf.shape(weights), [1] * event], axis=0)
        weights = tf.reshape(weights, shape)
        # A value of probability 0 adds nothing, even where the prior has none either.
        log_ratio = tf.math.multiply_no_nan(log_ratio, weights)
        return tf.reduce_sum(log_ratio, axis=sorted(front))
    return tf.reduce_mean(log_ratio, axis=sorted(front)) if front else log_ratio


def _advice(draws: tf.TensorShape, given: Any, axis: int | tuple[int, ...]) -> str:
    """How to get the loss of `tfp.layers`, which allowed any axes, for the message."""
    output, batch_rank = without_event(given), given.batch_shape.rank
    if draws.rank == batch_rank:  # `tfp.layers` used the draws that the decoder sees
        draws = output
    factors = tfp_layers_factors(draws, output, batch_rank, axis)
    if factors is None:
        return "docs/migrating.md has the factors for the loss of `tfp.layers`."
    return (
        f"For the loss of `tfp.layers`, multiply the old weight by {factors[0]} for a "
        f"`KLDivergenceRegularizer`, or by {factors[1]} for a `KLDivergenceAddLoss`."
    )


def _over_the_batch(kl: tf.Tensor, posterior: Any) -> tf.Tensor:
    """One number per example, even if no parameter has the batch axis."""
    return tf.broadcast_to(kl, posterior.batch_shape_tensor())


def _check_pair(posterior: Any, prior: Any) -> None:
    for name, distribution in (("posterior", posterior), ("prior", prior)):
        if not isinstance(distribution, tfd.Distribution):
            raise ValueError(
                f"The KL expects its {name} to be a `tfd.Distribution`. Received: "
                f"a {type(distribution).__name__} of shape "
                f"{getattr(distribution, 'shape', None)}. Use a distribution, or the "
                "output of a distribution layer such as `IndependentNormal`."
            )
    same_event = posterior.event_shape.is_compatible_with(prior.event_shape)
    if not same_event or posterior.event_shape.rank != prior.event_shape.rank:
        raise ValueError(
            f"The KL expects a prior of event shape {posterior.event_shape}, that of "
            f"the posterior. Received: prior.event_shape={prior.event_shape}, "
            f"prior={family_name(prior)}. Give both the same event shape: "
            f"`StandardNormal({tuple(posterior.event_shape)})`; for a scalar p, "
            "`tfd.Sample(p, shape)`; for a batch of scalars, `tfd.Independent(p, 1)`."
        )
    if posterior.dtype != prior.dtype:
        raise ValueError(
            "The KL expects posterior and prior of one dtype. Received: posterior "
            f"{family_name(posterior)} of {posterior.dtype}, prior "
            f"{family_name(prior)} of {prior.dtype}. Make the prior with "
            f"dtype={posterior.dtype.name!r}, or the posterior's layer with "
            f"dtype={prior.dtype.name!r}."
        )
    try:
        joint = tf.broadcast_static_shape(posterior.batch_shape, prior.batch_shape)
        fits = joint.is_compatible_with(posterior.batch_shape)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            "The KL expects a prior whose batch shape broadcasts to that of the "
            f"posterior. Received: posterior.batch_shape={posterior.batch_shape}, "
            f"prior.batch_shape={prior.batch_shape}. Use one prior for all examples "
            "(batch shape ()) or one for each."
        )
    _check_supports(posterior, prior)


def _check_supports(posterior: Any, prior: Any) -> None:
    for q, p in _blocks(posterior, prior):
        inner, outer = support_of(q), support_of(p)
        if not (inner and outer) or inner.kind == "single points":
            continue
        if not outer.contains(inner):
            raise ValueError(
                "The KL expects a prior that has a density wherever the posterior "
                f"draws. Received: posterior={family_name(q)}, on {inner}; "
                f"prior={family_name(p)}, on {outer}. Choose a posterior on {outer}, "
                f"or a prior on {inner}."
            )


def _blocks(posterior: Any, prior: Any) -> list[tuple[Any, Any]]:
    """Pairs (q, p) of distributions that have coordinates in common."""
    left, right = _parts(posterior), _parts(prior)
    if _event_shapes(left) == _event_shapes(right):
        return list(zip(left, right, strict=True))
    if 1 in (len(left), len(right)):
        return [(q, p) for q in left for p in right]
    return []


def _parts(distribution: Any) -> list[Any]:
    if isinstance(distribution, meta.Blockwise):
        return list(distribution.distributions)
    return [distribution]


def _event_shapes(distributions: list[Any]) -> list[Any]:
    return [distribution.event_shape for distribution in distributions]


def _closed_form(posterior: Any, prior: Any) -> tf.Tensor:
    both = isinstance(posterior, meta.Blockwise) and isinstance(prior, meta.Blockwise)
    if both and _event_shapes(_parts(posterior)) != _event_shapes(_parts(prior)):
        raise NotImplementedError("The blocks differ.")
    return tfd.kl_divergence(posterior, prior)


def _coordinates(distribution: Any) -> Any:
    factors = as_independent(distribution)
    if factors is None:
        raise ValueError(
            "The KL per dimension expects distributions that factorise over the "
            f"coordinates of the event. Received: {family_name(distribution)}. Use an "
            "`Independent...` layer and prior, or the total over the event."
        )
    base = factors.distribution
    return base.distribution if isinstance(base, meta.BatchBroadcast) else base
