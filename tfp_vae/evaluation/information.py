"""What a trained VAE has learned: information in its codes, rate and distortion.

    E_x KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)),   q(z) = 1/n sum_i q(z|x_i)

Quantities of the posterior are in nats, over the n examples that it was computed for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import integer
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.draws import draw
from tfp_vae.kl.closed_forms import family_name
from tfp_vae.kl.divergence import kl_divergence
from tfp_vae.kl.prior import prior_distribution
from tfp_vae.latents import mean_of
from tfp_vae.seeds import Seeds

tfd = tfp.distributions

# Numbers computed at once to compare draws with the n posteriors: 32 MiB in float32.
_NUMBERS_AT_ONCE = 2**23


def active_units(posterior: Any, threshold: float = 0.01) -> int:
    r"""Number of latent coordinates in which the posterior depends on x:

    .. math:: \#\{i : \mathrm{Var}_x(\mathrm{E}[z_i \mid x]) > \mathrm{threshold}\}

    with the variance over the n examples, divided by n. A coordinate whose posterior
    has collapsed onto the prior has a constant mean.

    Reference:
        Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, 2016.
        https://arxiv.org/abs/1509.00519

    Args:
        posterior: q(z|x) of batch shape `(n,)`, such as `encoder(x)`, n at least 2.
        threshold: Variance above which a coordinate counts.

    Returns:
        A number from 0 to the size of the event.

    Raises:
        ValueError: If `posterior` is not a distribution of that batch shape, or its
            mean has no closed form or is not finite.

    Example:
        >>> loc = np.array([[-1.0, 0.0, 3.0], [1.0, 0.0, 3.0]])
        >>> active_units(tfd.MultivariateNormalDiag(loc))
        1
    """
    posterior = _posterior(posterior, "active_units", fewest=2)
    mean = np.asarray(mean_of(posterior, "active_units"), "float64")
    unknown = int(np.count_nonzero(~np.isfinite(mean)))
    if unknown:
        raise ValueError(
            "`active_units` expects a posterior with finite means. Received: "
            f"{family_name(posterior)}, of which {unknown} of {mean.size} are not. "
            "Look for NaN in the model's weights and inputs."
        )
    return int(np.count_nonzero(np.var(mean, axis=0) > threshold))


def kl_per_dimension(posterior: Any, prior: Any) -> np.ndarray:
    r"""KL of each latent coordinate, mean over the examples, in nats:

    .. math:: \frac{1}{n} \sum_j \mathrm{KL}(q(z_i \mid x_j) \,\|\, p(z_i))

    In closed form if there is one, otherwise with one draw for each example.

    Args:
        posterior: q(z|x) of batch shape `(n,)` that factorises over its event.
        prior: p(z), a `tfd.Distribution` or a prior layer, that factorises too.

    Returns:
        An array of the event shape; its sum is the rate.

    Raises:
        ValueError: If `posterior` is not a distribution of that batch shape, the prior
            does not fit it, or one of them does not factorise.

    Example:
        >>> q = tfd.MultivariateNormalDiag(tf.constant([[0.0, 1.0], [0.0, 3.0]]))
        >>> kl_per_dimension(q, tv.StandardNormal(2))
        array([0. , 2.5], dtype=float32)
    """
    posterior = _posterior(posterior, "kl_per_dimension")
    kl = kl_divergence(posterior, prior_distribution(prior), per_dimension=True)
    return np.asarray(tf.reduce_mean(kl, axis=0))


def mutual_information(
    posterior: Any,
    num_samples: int = 1,
    seed: int | None = None,
    batch_size: int | None = None,
) -> float:
    r"""Mutual information of z and the example i that it was drawn for, in nats:

    .. math::

        I(x; z) = \frac{1}{n} \sum_i \mathrm{E}[\log q(z \mid x_i) - \log q(z)], \quad
        z \sim q(z \mid x_i)

    by Monte Carlo, with q(z) the mixture of all n posteriors, so without bias. It is at
    most log n, and at least 0 up to noise. Near log n all examples are told apart: the
    information about x may be larger, which only more examples can show.

    Reference:
        Hoffman and Johnson, ELBO surgery, 2016.
        http://approximateinference.org/accepted/HoffmanJohnson2016.pdf

    Args:
        posterior: q(z|x) of batch shape `(n,)`, such as `encoder(x)`, n at least 2. Any
            distribution with draws and densities.
        num_samples: Draws for each example.
        seed: Integer, or `None` for one derived from `keras.utils.set_random_seed`.
        batch_size: Number of draws compared with the n posteriors at once; by default
            as many as take 2^23 numbers. The work grows with the square of n.

    Returns:
        The estimate, a number.

    Raises:
        ValueError: If `posterior` is not a distribution of that batch shape, or a size
            is not a positive integer.

    Example:
        >>> far_apart = tfd.MultivariateNormalDiag(100.0 * tf.eye(8))
        >>> abs(mutual_information(far_apart) - np.log(8)) < 1e-6
        np.True_
    """
    posterior = _posterior(posterior, "mutual_information", fewest=2)
    draws = _draws(posterior, num_samples, seed, "mutual_information")
    return _mean_information(posterior, draws, batch_size, "mutual_information")


def marginal_kl(
    posterior: Any,
    prior: Any,
    num_samples: int = 1,
    seed: int | None = None,
    batch_size: int | None = None,
) -> float:
    r"""KL of the aggregate posterior, that of all n examples, to the prior, in nats:

    .. math::

        \mathrm{KL}(q(z) \,\|\, p(z)) =
        \frac{1}{n} \sum_i \mathrm{E}[\log q(z) - \log p(z)], \quad z \sim q(z \mid x_i)

    by Monte Carlo, with q(z) the mixture of all n posteriors. It is the part of the
    rate that carries no information about x, and that a better prior saves. With the
    same seed it uses the draws of `mutual_information`; the two then add up to the mean
    of log q(z|x) - log p(z) over these draws.

    Reference:
        Hoffman and Johnson, ELBO surgery, 2016.
        http://approximateinference.org/accepted/HoffmanJohnson2016.pdf

    Args:
        posterior: As in `mutual_information`, n at least 1.
        prior: p(z), a `tfd.Distribution` or a prior layer, of batch shape `()`.
        num_samples: As in `mutual_information`.
        seed: As in `mutual_information`.
        batch_size: As in `mutual_information`.

    Returns:
        The estimate, a number.

    Raises:
        ValueError: If `posterior` is not a distribution of that batch shape, the prior
            does not fit it or has a batch, or a size is not a positive integer.

    Example:
        >>> q = tfd.MultivariateNormalDiag(tf.zeros([8, 2]))  # collapsed
        >>> abs(marginal_kl(q, tv.StandardNormal(2))) < 1e-6
        True
    """
    posterior = _posterior(posterior, "marginal_kl")
    prior = unwrap(prior_distribution(prior))
    if prior.batch_shape.rank != 0:
        raise ValueError(
            "`marginal_kl` expects one prior for all examples, of batch shape (). "
            f"Received: {family_name(prior)} of batch shape {prior.batch_shape}. Turn "
            "a batch of scalars into one distribution with `tfd.Independent(p, 1)`."
        )
    draws = _draws(posterior, num_samples, seed, "marginal_kl")
    rate = kl_divergence(
        posterior, prior, use_exact_kl=False, test_points=lambda: draws
    )
    rate = float(np.mean(np.asarray(rate, "float64")))
    return rate - _mean_information(posterior, draws, batch_size, "marginal_kl")


class RateDistortion(NamedTuple):
    """A point in the plane of rate and distortion, whose sum is minus the ELBO.

    Attributes:
        rate: Mean KL(q(z|x) || p(z)), nats per example.
        distortion: Mean -log p(x|z), nats per example.

    Example:
        >>> sum(RateDistortion(rate=20.0, distortion=80.0))
        100.0
    """

    rate: float
    distortion: float


def rate_distortion(
    model: Any, x: Any, y: Any = None, batch_size: int | None = None
) -> RateDistortion:
    r"""Rate and distortion of a model on data, neither weighted by a beta:

    .. math::

        R &= \frac{1}{n} \sum_i \mathrm{KL}(q(z \mid x_i) \,\|\, p(z)) \\
        D &= -\frac{1}{n} \sum_i \mathrm{E}[\log p(x_i \mid z)]

    as `model.evaluate` reports them, with its draws of z. R is an upper bound on the
    information I(x; z). Training with a large beta lowers R and raises D.

    Reference:
        Alemi et al., Fixing a broken ELBO, 2018. https://arxiv.org/abs/1711.00464

    Args:
        model: A compiled Keras model whose `evaluate` reports `kl` and `nll`.
        x: Inputs, anything that `evaluate` takes.
        y: Targets; for an autoencoder made of layers, its inputs: `y=x`.
        batch_size: Examples at once, as in `evaluate`.

    Returns:
        Rate and distortion.

    Raises:
        ValueError: If the model reports no KL or no likelihood.

    Example:
        >>> x = np.zeros([6, 4], "float32")
        >>> encoder = [keras.layers.Dense(4), tv.IndependentNormal(2),
        ...            tv.KLDivergenceAddLoss(tv.StandardNormal(2), weight=4.0)]
        >>> decoder = [keras.layers.Dense(4), tv.IndependentBernoulli(4)]
        >>> model = keras.Sequential([keras.Input((4,)), *encoder, *decoder])
        >>> model.compile(loss=tv.NegativeLogLikelihood(),
        ...               metrics=[tv.LogLikelihood(negative=True)])
        >>> rate_distortion(model, x, x)
        RateDistortion(rate=..., distortion=...)
    """
    results = model.evaluate(x, y, batch_size=batch_size, return_dict=True, verbose=0)
    if not {"kl", "nll"} <= set(results):
        raise ValueError(
            "`rate_distortion` expects a model whose `evaluate` reports `kl` and `nll`."
            f" Received: {sorted(results)}. Give it a KL layer, compile it with "
            "`metrics=[LogLikelihood(negative=True)]`, and give `y` if it needs "
            "targets."
        )
    return RateDistortion(float(results["kl"]), float(results["nll"]))


def _posterior(posterior: Any, caller: str, fewest: int = 1) -> Any:
    """Checks type and batch shape; returns the plain distribution."""
    posterior = unwrap(posterior)
    if not isinstance(posterior, tfd.Distribution):
        raise ValueError(
            f"`{caller}` expects the posterior to be a `tfd.Distribution`. Received: a "
            f"{type(posterior).__name__} of shape {getattr(posterior, 'shape', None)}. "
            "Give the output of a distribution layer, such as `encoder(x)`."
        )
    batch = posterior.batch_shape
    sizes = batch.as_list() if isinstance(batch, tf.TensorShape) and batch.rank else []
    if len(sizes) != 1 or sizes[0] is None or sizes[0] < fewest:
        raise ValueError(
            f"`{caller}` expects a posterior of batch shape (n,), one for each of "
            f"n >= {fewest} examples. Received: {family_name(posterior)} of batch "
            f"shape {batch}. Call the encoder on an array of examples; turn a batch of "
            "scalars into vectors with `tfd.Independent(q, 1)`."
        )
    return posterior


def _draws(
    posterior: Any, num_samples: int, seed: int | None, caller: str
) -> tf.Tensor:
    """Draws of shape `(num_samples, n, *event)`."""
    num_samples = integer(num_samples, "num_samples", caller)
    return draw(posterior, num_samples, seed=Seeds(seed).next())[0]


def _mean_information(
    posterior: Any, draws: tf.Tensor, batch_size: int | None, caller: str
) -> float:
    """Mean of log q(z | x_i) - log q(z) over draws of shape `(draws, n, *event)`."""
    n, event = draws.shape[1], draws.shape[2:]
    if batch_size is None:
        batch_size = max(1, _NUMBERS_AT_ONCE // (n * event.num_elements()))
    batch_size = integer(batch_size, "batch_size", caller)
    draws = tf.reshape(draws, [-1, *event])
    rows = tf.range(len(draws)) % n
    information = _compiled_information(
        posterior, tf.TensorSpec([None, *event], draws.dtype)
    )
    total = 0.0
    for start in range(0, len(draws), batch_size):
        part = slice(start, start + batch_size)
        total += float(information(draws[part], rows[part]))
    return total / len(draws)


def _compiled_information(posterior: Any, spec: tf.TensorSpec) -> Callable[..., Any]:
    """The sum of log q(z | x_i) - log q(z) over some draws, given their rows i."""
    n = posterior.batch_shape[0]

    # The draws are arguments, so that TFP's bijectors do not find them in their cache.
    @tf.function(input_signature=[spec, tf.TensorSpec([None], tf.int32)])
    def information(z: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        log_q = tf.cast(posterior.log_prob(z[:, tf.newaxis]), tf.float64)
        own = tf.gather(log_q, rows, batch_dims=1)
        return tf.reduce_sum(own - tf.reduce_logsumexp(log_q, axis=1) + np.log(n))

    # A new `tf.function` at each call would warn of repeated tracing.
    return information.get_concrete_function()
