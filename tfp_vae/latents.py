"""Representative points of distributions, and paths between latents."""

import contextlib
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.distributions.direction_and_norm import DirectionAndNorm
from tfp_vae.kl.closed_forms import family_name
from tfp_vae.summaries import joined, may_lack_a_mean, summary
from tfp_vae.supports import is_discrete, support_of

tfd = tfp.distributions

_LOCATION_SCALE = (tfd.Normal, tfd.Laplace, tfd.Logistic, tfd.StudentT, tfd.Cauchy)


def on_the_sphere(distribution: Any) -> bool:
    """Whether a distribution has its mass on the unit sphere.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        True for von Mises-Fisher, power spherical and uniform distributions on it.

    Example:
        >>> on_the_sphere(tfd.SphericalUniform(3)), on_the_sphere(tfd.Normal(0.0, 1.0))
        (True, False)
    """
    support = support_of(unwrap(distribution))
    return support is not None and support.kind == "the unit sphere"


def has_direction(distribution: Any) -> bool:
    """Whether a distribution is over directions, with or without a norm.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        True for distributions on the sphere and for `DirectionAndNorm`.

    Example:
        >>> has_direction(tfd.SphericalUniform(3)), has_direction(tfd.Normal(0.0, 1.0))
        (True, False)
    """
    distribution = unwrap(distribution)
    return on_the_sphere(distribution) or isinstance(distribution, DirectionAndNorm)


def center(distribution: Any) -> tf.Tensor:
    """A representative point: the mean, if it lies in the support.

    On the sphere it is the mean direction, of length 1; with a norm, it has the mean
    norm. Of a discrete distribution, and without a mean, it is the mode. For a
    transformed distribution without either, it is the image of the base distribution's
    center.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        A tensor of shape `batch_shape + event_shape`.

    Raises:
        ValueError: If the distribution has none of these.

    Example:
        >>> center(tfd.Normal([0.0, 2.0], 1.0)).numpy()
        array([0., 2.], dtype=float32)
    """
    distribution = unwrap(distribution)
    if isinstance(distribution, meta.Blockwise):
        parts = [center(part) for part in distribution.distributions]
        return joined(distribution, parts)
    if isinstance(distribution, DirectionAndNorm):
        norm = distribution.low + distribution.width / 2
        return center(distribution.direction) * norm[..., tf.newaxis]
    if on_the_sphere(distribution):
        try:
            return tf.math.l2_normalize(distribution.mode(), axis=-1)
        except NotImplementedError:
            return tf.math.l2_normalize(distribution.mean(), axis=-1)
    integers = not tf.as_dtype(distribution.dtype).is_floating
    names = ["mode"] if integers or may_lack_a_mean(distribution) else ["mean", "mode"]
    for name in reversed(names) if is_discrete(distribution) else names:
        try:
            return summary(distribution, name)
        except NotImplementedError:
            continue
    # By the attribute: one of TFP's two `TransformedDistribution` classes is private.
    if isinstance(getattr(distribution, "bijector", None), tfp.bijectors.Bijector):
        return distribution.bijector.forward(center(distribution.distribution))
    raise ValueError(
        "A point estimate expects a distribution with a mean or a mode. Received: "
        f"{family_name(distribution)}. Draw from it instead, with `.sample()`."
    )


def mean_or_center(distribution: Any) -> tf.Tensor:
    """The mean of a discrete distribution of floating-point dtype, else the `center`.

    The mean of a one-hot vector is its probabilities. They say more than the mode,
    although they are no value of z. Without a mean, `center` is used too.

    Args:
        distribution: A `tfd.Distribution`.

    Returns:
        A tensor of shape `batch_shape + event_shape`.

    Example:
        >>> mean_or_center(tfd.Bernoulli(0.0, dtype=tf.float32)).numpy()
        np.float32(0.5)
    """
    distribution = unwrap(distribution)
    if isinstance(distribution, meta.Blockwise):
        parts = [mean_or_center(part) for part in distribution.distributions]
        return joined(distribution, parts)
    if is_discrete(distribution) and tf.as_dtype(distribution.dtype).is_floating:
        with contextlib.suppress(NotImplementedError):
            return summary(distribution, "mean")
    return center(distribution)


def mean_of(posterior: Any, caller: str) -> tf.Tensor:
    """The mean, also where it lies outside of the support, as inside of a sphere.

    Args:
        posterior: A `tfd.Distribution`.
        caller: Name of the caller, for the message.

    Returns:
        A tensor of shape `batch_shape + event_shape`.

    Raises:
        ValueError: If the mean has no closed form.

    Example:
        >>> mean_of(tfd.SphericalUniform(3), "a test").numpy()
        array([0., 0., 0.], dtype=float32)
    """
    posterior = unwrap(posterior)
    try:
        return summary(posterior, "mean")
    except NotImplementedError as error:
        raise ValueError(
            f"`{caller}` expects a posterior whose mean has a closed form. Received:"
            f" {family_name(posterior)}. Use `tv.evaluation.mutual_information`, which "
            "needs only draws and densities."
        ) from error


def tempered(prior: Any, temperature: float) -> Any:
    """Multiplies the spread of a distribution around its location by a temperature.

    This scales a location-scale family itself, each component of a mixture, and the
    base of a flow.

    Args:
        prior: A `tfd.Distribution`.
        temperature: Factor of the scale.

    Returns:
        A distribution of the same shapes.

    Raises:
        ValueError: If the distribution has no location and scale.

    Example:
        >>> float(tempered(tfd.Normal(1.0, 2.0), 0.5).stddev())
        1.0
    """
    prior = unwrap(prior)
    if temperature == 1.0:
        return prior
    if isinstance(prior, _LOCATION_SCALE):
        return prior.copy(scale=temperature * tf.convert_to_tensor(prior.scale))
    if isinstance(prior, meta.Independent | meta.Sample):
        return prior.copy(distribution=tempered(prior.distribution, temperature))
    if isinstance(prior, tfd.MultivariateNormalLinearOperator):
        # Not always a triangle, which `MultivariateNormalTriL` would cut out.
        factor = tf.linalg.LinearOperatorFullMatrix(
            temperature * prior.scale.to_dense(), is_non_singular=True
        )
        return tfd.MultivariateNormalLinearOperator(prior.loc, factor)
    if isinstance(prior, meta.MixtureSameFamily):
        components = tempered(prior.components_distribution, temperature)
        return prior.copy(components_distribution=components)
    if "distribution" in prior.parameters and "bijector" in prior.parameters:
        return prior.copy(distribution=tempered(prior.distribution, temperature))
    raise ValueError(
        "A `temperature` other than 1 expects a prior with a location and a scale, or "
        f"a mixture or flow of such. Received: {family_name(prior)}, "
        f"temperature={temperature}. Leave the temperature at 1."
    )


def path(start: tf.Tensor, end: tf.Tensor, steps: int, sphere: bool) -> tf.Tensor:
    r"""Points from start to end, both included, at equal steps of t.

    .. math::

        z(t) = \begin{cases}
        (1 - t) \, z(0) + t \, z(1) & \text{in } \mathbb R^d \\
        (\sin((1 - t) a) \, z(0) + \sin(t a) \, z(1)) / \sin a & \text{on the sphere}
        \end{cases}

    where a is the angle between the start z(0) and the end z(1). Opposite points have
    many shortest paths, of which one is used. For vectors of other norms the directions
    follow great circles, and the norms are interpolated.

    Args:
        start: Points of shape `(n, ..., d)`.
        end: Points of the same shape.
        steps: Number of points.
        sphere: Whether directions follow great circles; the points must not be 0.

    Returns:
        A tensor of shape `(n, steps, ..., d)`.

    Example:
        >>> path(tf.zeros([1, 2]), tf.ones([1, 2]), 3, sphere=False)[0, 1].numpy()
        array([0.5, 0.5], dtype=float32)
    """
    start, end = start[:, None], end[:, None]
    t = tf.linspace(tf.zeros([], start.dtype), 1.0, steps)
    t = tf.reshape(t, [1, steps] + [1] * (start.shape.rank - 2))
    if not sphere:
        return (1 - t) * start + t * end
    norms = [tf.norm(point, axis=-1, keepdims=True) for point in (start, end)]
    norm = (1 - t) * norms[0] + t * norms[1]
    start, end = start / norms[0], end / norms[1]
    cosine = tf.reduce_sum(start * end, axis=-1, keepdims=True)
    # The part of the end that is orthogonal to the start spans the great circle.
    across = end - cosine * start
    length = tf.norm(across, axis=-1, keepdims=True)
    across = tf.where(length > 1e-6, across, _orthogonal(start))
    angle = t * tf.math.atan2(length, cosine)
    unit = tf.cos(angle) * start + tf.sin(angle) * tf.math.l2_normalize(across, -1)
    return norm * unit


def _orthogonal(points: tf.Tensor) -> tf.Tensor:
    """A direction orthogonal to each point, near the axis of its least coordinate."""
    smallest = tf.argmin(tf.abs(points), axis=-1)
    axis = tf.one_hot(smallest, points.shape[-1], dtype=points.dtype)
    return axis - tf.reduce_sum(axis * points, axis=-1, keepdims=True) * points
