"""KL(q || p), defined once: in nats, one number per example, summed over the event.

    KL(q || p) = E_q[log q(z) - log p(z)]

Exact where a closed form is registered with TFP, by Monte Carlo otherwise. Registered
here is what TFP lacks: one law in different wrappers. `Independent(Normal)`,
`Sample(Normal)` and `MultivariateNormalDiag` are the same diagonal normal, and a full
covariance beside any of them is a pair of multivariate normals.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.distribution_tensor import unwrap

tfd = tfp.distributions


def kl_divergence(
    posterior: Any,
    prior: Any,
    use_exact_kl: bool | None = None,
    test_points: Callable[[], tf.Tensor] | None = None,
    test_points_reduce_axis: int | tuple[int, ...] | None = None,
) -> tf.Tensor:
    """KL(posterior || prior) in nats, one number for each member of the batch.

    Args:
        posterior: q, a `tfd.Distribution`.
        prior: p, of the same event shape and dtype; its batch shape must broadcast
            to that of the posterior.
        use_exact_kl: `None` takes the closed form where there is one, `True` insists
            on it, `False` always uses Monte Carlo.
        test_points: Function that returns the draws `z ~ q` for Monte Carlo, of shape
            `(draws..., batch..., event...)`; by default one new draw.
        test_points_reduce_axis: Axes of `log q(z) - log p(z)` to average; by default
            all the draw axes in front of the batch.

    Returns:
        A tensor of shape `posterior.batch_shape`.

    Raises:
        ValueError: If event shapes or dtypes differ, the prior's batch does not fit,
            `use_exact_kl=True` has no closed form to use, or the reduced axes do not
            leave the batch.

    Example:
        >>> q = tfd.Independent(tfd.Normal(tf.ones([5, 3]), 1.0), 1)
        >>> p = tfd.MultivariateNormalDiag(tf.zeros(3))
        >>> kl_divergence(q, p).numpy()
        array([1.5, 1.5, 1.5, 1.5, 1.5], dtype=float32)
    """
    posterior, prior = unwrap(posterior), unwrap(prior)
    _check_pair(posterior, prior)
    if use_exact_kl is not False:
        try:
            return _over_the_batch(tfd.kl_divergence(posterior, prior), posterior)
        except NotImplementedError as error:
            if use_exact_kl:
                raise ValueError(
                    "use_exact_kl=True expects a pair of distributions with a "
                    "closed-form KL. Received: posterior="
                    f"{_family(posterior)}, prior={_family(prior)}. Register one with "
                    "`tfd.RegisterKL`, or leave use_exact_kl=None for Monte Carlo."
                ) from error
    draws = posterior.sample() if test_points is None else test_points()
    # A new tensor: TFP's bijectors remember the tensors they made, and a remembered
    # draw comes back without gradients for the parameters.
    draws = tf.identity(draws)
    _check_draws(draws, posterior)
    log_ratio = posterior.log_prob(draws) - prior.log_prob(draws)
    return _average_draws(log_ratio, posterior, test_points_reduce_axis)


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
    log_ratio: tf.Tensor, posterior: Any, axis: int | tuple[int, ...] | None
) -> tf.Tensor:
    batch_rank = tf.TensorShape(posterior.batch_shape).rank
    if axis is None:
        axis = tuple(range(log_ratio.shape.rank - batch_rank))
    kl = tf.reduce_mean(log_ratio, axis=axis) if axis != () else log_ratio
    if kl.shape.rank != batch_rank or not kl.shape.is_compatible_with(
        posterior.batch_shape
    ):
        raise ValueError(
            "`test_points_reduce_axis` expects the axes in front of the batch, so that "
            f"{tuple(posterior.batch_shape)} remains. Received: axis={axis} of a "
            f"tensor of shape {tuple(log_ratio.shape)}. Leave it None to average all "
            "draws."
        )
    return kl


def _over_the_batch(kl: tf.Tensor, posterior: Any) -> tf.Tensor:
    """One number per example, also where neither parameter carries the batch axis."""
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
            f"prior={_family(prior)}. Give both the same event shape: "
            f"`StandardNormal({tuple(posterior.event_shape)})`; of a scalar p, "
            "`tfd.Sample(p, shape)`; of a batch of scalars, `tfd.Independent(p, 1)`."
        )
    if posterior.dtype != prior.dtype:
        raise ValueError(
            f"The KL expects posterior and prior of one dtype. Received: posterior "
            f"{_family(posterior)} of {posterior.dtype}, prior {_family(prior)} of "
            f"{prior.dtype}. Make the prior with dtype={posterior.dtype.name!r}, or "
            f"the posterior's layer with dtype={prior.dtype.name!r}."
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


def _family(distribution: Any) -> str:
    """Name of the family, with the one inside a wrapper: `Independent(Normal)`."""
    name = type(distribution).__name__.lstrip("_")
    inner = getattr(distribution, "distribution", None)
    return f"{name}({_family(inner)})" if isinstance(inner, tfd.Distribution) else name


def as_independent(distribution: Any) -> Any:
    """Writes a law that factorises over its event as `tfd.Independent`.

    Args:
        distribution: Any `tfd.Distribution`.

    Returns:
        The same law as `Independent(base, event rank)`, where `base` has a scalar
        event; `None` where the law does not factorise, or where it is not known to.

    Example:
        >>> as_independent(tfd.MultivariateNormalDiag(tf.zeros([5, 3]))).event_shape
        TensorShape([3])
        >>> as_independent(tfd.MultivariateNormalTriL(tf.zeros(3), tf.eye(3))) is None
        True
    """
    distribution = unwrap(distribution)
    rank = distribution.event_shape.rank
    if rank == 0:
        return tfd.Independent(distribution, reinterpreted_batch_ndims=0)
    if isinstance(distribution, tfd.Independent):
        inner = as_independent(distribution.distribution)
        return inner and tfd.Independent(inner.distribution, rank)
    if isinstance(distribution, tfd.Sample):
        inner = as_independent(distribution.distribution)
        return inner and _repeated(distribution, inner.distribution)
    if type(distribution) is tfd.MultivariateNormalDiag:
        return tfd.Independent(
            tfd.Normal(distribution.mean(), distribution.stddev()), rank
        )
    return None


def _repeated(sample: Any, base: Any) -> Any:
    """`Sample(Normal, shape)` as `Independent`: batch axes, then shape, then event."""
    if type(base) is not tfd.Normal:
        return None
    repeats = sample.event_shape.rank - sample.distribution.event_shape.rank
    batch, event = sample.batch_shape_tensor(), sample.event_shape_tensor()
    once = tf.concat([batch, tf.ones([repeats], tf.int32), event[repeats:]], axis=0)
    whole = tf.concat([batch, event], axis=0)
    loc, scale = (
        tf.broadcast_to(tf.reshape(moment, once), whole)
        for moment in (base.mean(), base.stddev())
    )
    return tfd.Independent(tfd.Normal(loc, scale), sample.event_shape.rank)


def _as_diagonal_normal(distribution: Any) -> Any:
    independent = as_independent(distribution)
    if independent is None or type(independent.distribution) is not tfd.Normal:
        raise NotImplementedError(f"No closed form for {_family(distribution)}.")
    return independent


def _as_multivariate_normal(distribution: Any) -> Any:
    if isinstance(distribution, tfd.MultivariateNormalLinearOperator):
        return distribution
    normal = _as_diagonal_normal(distribution)
    return tfd.MultivariateNormalDiag(normal.mean(), normal.stddev())


@tfd.RegisterKL(tfd.Independent, tfd.Sample)
@tfd.RegisterKL(tfd.Sample, tfd.Independent)
def _kl_diagonal_normals(a: Any, b: Any, name: str | None = None) -> tf.Tensor:
    a, b = _as_diagonal_normal(a), _as_diagonal_normal(b)
    return tfd.kl_divergence(a, b, name=name)


@tfd.RegisterKL(tfd.Independent, tfd.MultivariateNormalLinearOperator)
@tfd.RegisterKL(tfd.MultivariateNormalLinearOperator, tfd.Independent)
@tfd.RegisterKL(tfd.Sample, tfd.MultivariateNormalLinearOperator)
@tfd.RegisterKL(tfd.MultivariateNormalLinearOperator, tfd.Sample)
def _kl_multivariate_normals(a: Any, b: Any, name: str | None = None) -> tf.Tensor:
    return tfd.kl_divergence(
        _as_multivariate_normal(a), _as_multivariate_normal(b), name=name
    )
