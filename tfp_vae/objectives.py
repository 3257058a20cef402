"""What a VAE maximises: bounds on log p(x), computed from log-weights of draws.

    log w[k] = log p(x | z[k]) + log p(z[k]) - log q(z[k] | x),    z[k] ~ q(z | x)

The functions take log-weights of shape `(k, batch)`. The classes set the number of
draws, the gradient and the cost of the KL.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

import tfp_vae.kl.annealed as annealed
from tfp_vae.checks import boolean, checked_config, choice, integer, real_number
from tfp_vae.kl.divergence import has_closed_form, kl_divergence
from tfp_vae.kl.target import DIMENSION, KLTarget
from tfp_vae.serialization import revive_arguments

GRADIENTS = ("total", "stl", "dreg")
SAMPLE, ENUMERATE = "sample", "enumerate"
# In place of a number of draws: every value that the latents can have.
ALL = "all"


def elbo(log_weights: tf.Tensor) -> tf.Tensor:
    """The evidence lower bound, E_q[log w] <= log p(x).

    Args:
        log_weights: Log-weights of shape `(k, batch)`.

    Returns:
        The mean over the draws, of shape `(batch,)`, in nats.

    Example:
        >>> elbo(tf.math.log([[1.0, 2.0], [4.0, 2.0]])).numpy().round(4)
        array([0.6931, 0.6931], dtype=float32)
    """
    return tf.reduce_mean(log_weights, axis=0)


def importance_weighted_bound(log_weights: tf.Tensor) -> tf.Tensor:
    """The importance-weighted bound, log(1/K sum_k w[k]).

    It grows with K, from the ELBO at K = 1 towards log p(x).

    Reference:
        Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, 2016.
        https://arxiv.org/abs/1509.00519

    Args:
        log_weights: Log-weights of shape `(k, batch)`.

    Returns:
        The bound for each example, of shape `(batch,)`, in nats.

    Example:
        >>> float(importance_weighted_bound(tf.math.log([[1.0], [3.0]]))[0] - np.log(2))
        0.0
    """
    count = tf.cast(tf.shape(log_weights)[0], log_weights.dtype)
    return tf.reduce_logsumexp(log_weights, axis=0) - tf.math.log(count)


def renyi_bound(log_weights: tf.Tensor, alpha: float) -> tf.Tensor:
    """The variational Renyi bound, 1/(1 - alpha) log(1/K sum_k w[k]^(1 - alpha)).

    It is the importance-weighted bound at alpha = 0 and the ELBO at alpha = 1. For
    alpha below 0 it may exceed log p(x).

    Reference:
        Li and Turner, Renyi divergence variational inference, 2016.
        https://arxiv.org/abs/1602.02311

    Args:
        log_weights: Log-weights of shape `(k, batch)`.
        alpha: Order of the divergence.

    Returns:
        The bound for each example, of shape `(batch,)`, in nats.

    Example:
        >>> log_weights = tf.math.log([[1.0], [4.0]])
        >>> [round(float(renyi_bound(log_weights, a)[0]), 4) for a in (0.0, 0.5, 1.0)]
        [0.9163, 0.8109, 0.6931]
    """
    order = 1.0 - alpha
    # So near to 1 rounding errors dominate the quotient, whose limit is the ELBO.
    if abs(order) < 1e-4:
        return elbo(log_weights)
    # Near the terms, so that they keep their digits; a weight may be 0.
    known = tf.math.is_finite(log_weights)
    total = tf.reduce_sum(tf.where(known, log_weights, 0), axis=0)
    count = tf.reduce_sum(tf.cast(known, log_weights.dtype), axis=0)
    middle = tf.math.divide_no_nan(total, count)
    return middle + importance_weighted_bound(order * (log_weights - middle)) / order


def leave_one_out(values: tf.Tensor, log_posterior: tf.Tensor) -> tf.Tensor:
    """The mean of f over draws z[k] ~ q, with the score-function gradient.

        1/K sum_k (grad f[k] + (f[k] - b[k]) grad log q(z[k]))
        b[k] = 1/(K - 1) sum_{j != k} f[j]

    It estimates the gradient of E_q[f] (REINFORCE) for draws that are not
    reparameterised. The baseline b[k], the mean over the other draws, keeps the
    estimate unbiased and removes most of its variance.

    Reference:
        Kool, van Hoof and Welling, Buy 4 REINFORCE samples, get a baseline for free!,
        2019. https://openreview.net/forum?id=r1lgTGL5DE

    Args:
        values: f of each draw, of shape `(k, batch)`, k at least 2.
        log_posterior: Log q of the draws, whose gradient is that of the parameters of q
            at fixed draws, of shape `(k, batch)`.

    Returns:
        The mean over the draws, of shape `(batch,)`.

    Example:
        >>> logits = tf.Variable(0.0)
        >>> with tf.GradientTape() as tape:
        ...     log_q = tfd.Bernoulli(logits).log_prob([[0], [1]])
        ...     bound = leave_one_out(tf.constant([[1.0], [3.0]]), log_q)
        >>> # The gradient is 1/2 ((1 - 3) (-0.5) + (3 - 1) 0.5).
        >>> bound.numpy(), tape.gradient(bound, logits).numpy()
        (array([2.], dtype=float32), np.float32(1.0))
    """
    mean = tf.reduce_mean(values, axis=0)
    count = tf.cast(tf.shape(values)[0], values.dtype)
    above_others = tf.stop_gradient(values - mean) * count / (count - 1)
    return mean + tf.reduce_mean(above_others * _score(log_posterior, values), axis=0)


def vimco(log_weights: tf.Tensor, log_posterior: tf.Tensor) -> tf.Tensor:
    """The importance-weighted bound, with the score-function gradient of VIMCO.

        L = log(1/K sum_k w[k])
        grad L at fixed draws + sum_k (L - L[-k]) grad log q(z[k])

    where L[-k] has the geometric mean of the other weights in place of w[k]: a signal
    for each draw, how much it adds to the bound.

    Reference:
        Mnih and Rezende, Variational inference for Monte Carlo objectives, 2016.
        https://arxiv.org/abs/1602.06725

    Args:
        log_weights: Log-weights of shape `(k, batch)`, k at least 2.
        log_posterior: Log q of the draws, whose gradient is that of the parameters of q
            at fixed draws, of shape `(k, batch)`.

    Returns:
        The bound for each example, of shape `(batch,)`, in nats.

    Example:
        >>> float(vimco(tf.math.log([[1.0], [3.0]]), tf.zeros([2, 1]))[0] - np.log(2))
        0.0
    """
    bound = importance_weighted_bound(log_weights)
    fixed = tf.stop_gradient(log_weights)
    count = tf.cast(tf.shape(fixed)[0], fixed.dtype)
    # Sums over the draws before k and after k: the total minus w[k] would lose digits.
    sums = [tf.cumsum(fixed, 0, exclusive=True, reverse=r) for r in (False, True)]
    logs = [
        tf.math.cumulative_logsumexp(fixed, 0, exclusive=True, reverse=r)
        for r in (False, True)
    ]
    others = tf.reduce_logsumexp(tf.stack([*logs, sum(sums) / (count - 1)]), axis=0)
    signal = tf.stop_gradient(bound) - (others - tf.math.log(count))
    return bound + tf.reduce_sum(signal * _score(log_posterior, signal), axis=0)


def _score(log_posterior: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """0, with the gradient of log q."""
    return tf.cast(log_posterior - tf.stop_gradient(log_posterior), like.dtype)


class GradientScale:
    """The identity, whose gradient is multiplied by a factor that is set later.

    The doubly reparameterised gradient multiplies the gradient of the draws by the
    normalised weights, which are computed from these draws.

    Example:
        >>> scale, x = GradientScale(), tf.constant([1.0, 2.0])
        >>> with tf.GradientTape() as tape:
        ...     tape.watch(x)
        ...     y = tf.reduce_sum(scale(x) ** 2)
        ...     scale.factor = tf.constant([1.0, 10.0])
        >>> tape.gradient(y, x).numpy()
        array([ 2., 40.], dtype=float32)
    """

    def __init__(self) -> None:
        self.factor: tf.Tensor | None = None

    def __call__(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the value; the factor's axes are leading axes of the value."""

        @tf.custom_gradient
        def identity(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
            return tf.identity(x), self._scaled

        return identity(value)

    def _scaled(self, upstream: tf.Tensor) -> tf.Tensor:
        if self.factor is None:
            return upstream
        missing = upstream.shape.rank - self.factor.shape.rank
        shape = tf.concat([tf.shape(self.factor), [1] * missing], axis=0)
        return upstream * tf.cast(tf.reshape(self.factor, shape), upstream.dtype)


class Terms:
    """One batch with k draws of its latents, from which objectives are computed.

    Args:
        log_likelihood: log p(x | z), of shape `(k, batch)`.
        posterior: q(z | x), a `tfd.Distribution` of batch shape `(batch,)`.
        prior: p(z), a `tfd.Distribution`.
        draws: The latents, of shape `(k, batch, *event_shape)`.
        log_posterior: log q(z | x), of shape `(k, batch)`, if drawing gave it.
        use_exact_kl: As in `kl_divergence`.
        scale: The `GradientScale` that the draws have passed through; an objective with
            `gradient="dreg"` sets its factor.
        enumerated: Whether the draws are every value of z once. Means over them are
            then weighted by q(z | x), which makes them exact expectations.

    Example:
        >>> q = tfd.MultivariateNormalDiag(tf.ones([5, 3]))
        >>> p = tfd.MultivariateNormalDiag(tf.zeros(3))
        >>> terms = Terms(tf.zeros([2, 5]), q, p, q.sample(2))
        >>> terms.kl.numpy(), terms.log_weights().shape
        (array([1.5, 1.5, 1.5, 1.5, 1.5], dtype=float32), TensorShape([2, 5]))
    """

    def __init__(
        self,
        log_likelihood: tf.Tensor,
        posterior: Any,
        prior: Any,
        draws: tf.Tensor,
        log_posterior: tf.Tensor | None = None,
        use_exact_kl: bool | None = None,
        scale: GradientScale | None = None,
        enumerated: bool = False,
    ) -> None:
        self.log_likelihood = log_likelihood
        self.posterior = posterior
        self.prior = prior
        # A new tensor: TFP's bijectors cache what they made, without gradients.
        self.draws = tf.identity(draws)
        self.scale = scale or GradientScale()
        self._log_posterior = log_posterior
        self._use_exact_kl = use_exact_kl
        self.enumerated = enumerated

    def mean(self, values: tf.Tensor) -> tf.Tensor:
        """The mean over q: that of the draws, or the exact sum over all values of z.

        Args:
            values: A number for each draw, of shape `(k, batch)`.

        Returns:
            A tensor of shape `(batch,)`.
        """
        if self.probabilities is None:
            return tf.reduce_mean(values, axis=0)
        weights = tf.cast(self.probabilities, values.dtype)
        return tf.reduce_sum(tf.math.multiply_no_nan(values, weights), axis=0)

    @property
    def probabilities(self) -> tf.Tensor | None:
        """q(z | x) of every value of z, if these are the draws, else `None`."""
        return tf.exp(self.log_posterior) if self.enumerated else None

    @functools.cached_property
    def kl_is_closed_form(self) -> bool:
        """Whether `kl` is a closed form, which does not depend on the draws."""
        if self._use_exact_kl is False:
            return False
        return has_closed_form(self.posterior, self.prior)

    @functools.cached_property
    def kl(self) -> tf.Tensor:
        """KL(q || p), of shape `(batch,)`: exact, or the mean over the draws."""
        return self._kl(per_dimension=False)

    @functools.cached_property
    def kl_per_dimension(self) -> tf.Tensor:
        """KL(q || p) of each coordinate, of shape `(batch, *event_shape)`."""
        return self._kl(per_dimension=True)

    def _kl(self, per_dimension: bool) -> tf.Tensor:
        return kl_divergence(
            self.posterior,
            self.prior,
            use_exact_kl=self._use_exact_kl,
            test_points=lambda: (self.draws, self.log_posterior),
            per_dimension=per_dimension,
            test_weights=self.probabilities,
        )

    @functools.cached_property
    def log_posterior(self) -> tf.Tensor:
        """Log q(z | x) of the draws, of shape `(k, batch)`."""
        if self._log_posterior is not None:
            return self._log_posterior
        return self.posterior.log_prob(self.draws)

    def log_weights(
        self, kl_weight: tf.Tensor | float = 1.0, with_score: bool = True
    ) -> tf.Tensor:
        """Log p(x | z) + kl_weight (log p(z) - log q(z | x)), of shape `(k, batch)`.

        Args:
            kl_weight: Factor of the log-ratio of prior and posterior.
            with_score: Whether the gradient includes the score: that of log q(z | x)
                with respect to the parameters of q at fixed z. Its expectation is 0.

        Returns:
            The log-weights, in nats.
        """
        log_q = self.log_posterior
        if not with_score:
            fixed = self.posterior.log_prob(tf.stop_gradient(self.draws))
            log_q -= fixed - tf.stop_gradient(fixed)
        ratio = self.prior.log_prob(self.draws) - log_q
        return self.log_likelihood + tf.cast(kl_weight, ratio.dtype) * ratio


class Objective:
    """What `fit` minimises: minus a bound on log p(x), for each example.

    Subclasses implement `losses`, and list in `gradients` those that they support. The
    model also reads the attributes `use_exact_kl`, `beta`, `latents` and `variables`.

    The gradients `"total"`, `"stl"` and `"dreg"` go through the draws, and need a
    posterior whose draws are reparameterised. `"loo"` and `"vimco"` treat draws as
    constants and use the score of q: any posterior has it, discrete ones too.

    Args:
        num_samples: The number of draws of z for each example.
        gradient: `"total"`, the whole derivative; `"stl"`, without the score of q
            (sticking the landing: Roeder, Wu and Duvenaud, 2017,
            https://arxiv.org/abs/1703.09194); `"dreg"`, doubly reparameterised (Tucker
            et al., 2018, https://arxiv.org/abs/1810.04152); `"loo"`, see
            `leave_one_out`; `"vimco"`, see `vimco`.

    Raises:
        ValueError: If `num_samples` is below 1, or 2 for `"loo"` and `"vimco"`, or
            `gradient` is unknown.

    Example:
        >>> tv.ELBO().num_samples, tv.ImportanceWeightedBound(50).num_samples
        (1, 50)
    """

    gradients: tuple[str, ...] = GRADIENTS
    # As in `kl_divergence`; without a closed form, the KL uses the draws of the bound.
    use_exact_kl: bool | None = None
    beta: Any = None
    latents: str = SAMPLE

    def __init__(self, num_samples: int, gradient: str) -> None:
        caller = type(self).__name__
        self.gradient = choice(gradient, self.gradients, "gradient", caller)
        self.num_samples = integer(num_samples, "num_samples", caller)
        if self.uses_score and self.num_samples < 2:
            raise ValueError(
                f"`{caller}` expects gradient={gradient!r} with num_samples of at "
                "least 2, since each draw is compared with the others. Received: "
                f"num_samples={num_samples}. Give num_samples=8."
            )

    @property
    def uses_score(self) -> bool:
        """Whether the gradient treats draws as constants and uses the score of q."""
        return self.gradient in ("loo", "vimco")

    @property
    def draws_per_example(self) -> int | str:
        """The `num_samples` with which a step calls the model: a number, or `"all"`."""
        return ALL if self.latents == ENUMERATE else self.num_samples

    @property
    def variables(self) -> list[keras.Variable]:
        """The numbers given as `keras.Variable`, for the model to save."""
        return []

    def check_in_training(self) -> None:
        """Checks callables, as `annealed.check_in_training`."""
        annealed.check_in_training(self.beta, "beta", f"`{type(self).__name__}`")

    def losses(
        self, terms: Terms, kl_weight: tf.Tensor, sample_weight: tf.Tensor
    ) -> tf.Tensor:
        """The loss of each example, in nats.

        Args:
            terms: The batch.
            kl_weight: Factor of the KL, a scalar.
            sample_weight: Weight of each example, of shape `(batch,)`.

        Returns:
            A tensor of shape `(batch,)`, not yet multiplied by `sample_weight`.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {"num_samples": self.num_samples, "gradient": self.gradient}

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "Objective":
        """Restores the objective."""
        return cls(**config)


@keras.saving.register_keras_serializable("tfp_vae")
class ELBO(Objective):
    r"""The evidence lower bound, with options for the cost of the KL.

    .. math::

        \mathrm{loss} =
        -\mathrm{E}_q[\log p(x \mid z)] + \beta \, \mathrm{KL}(q(z \mid x) \,\|\, p(z))

    The KL is exact if a closed form is known, otherwise the mean over the draws. `beta`
    other than 1 gives a beta-VAE (Higgins et al., 2017,
    https://openreview.net/forum?id=Sy2fzU9gl), whose loss is no bound on log p(x) if
    beta is below 1. `capacity` sets a target for the KL (Burgess et al., 2018,
    https://arxiv.org/abs/1804.03599), `free_bits` lets some nats cost nothing (Kingma
    et al., 2016, https://arxiv.org/abs/1606.04934). The cost in place of the KL is then

    .. math::

        \begin{cases}
        \sum_j \max(\mathrm{KL}_j, \mathrm{free\_bits})
        & \text{free bits of each dimension } j \\
        \max(\mathrm{KL}, \mathrm{free\_bits}) & \text{free bits in total} \\
        |\mathrm{KL} - \mathrm{capacity}| & \text{a capacity}
        \end{cases}

    with means of the KL over the batch.

    Reference:
        Kingma and Welling, Auto-encoding variational Bayes, 2014.
        https://arxiv.org/abs/1312.6114

    Args:
        num_samples: The number of draws of z for each example.
        beta: Factor of the KL: a number, a non-trainable variable, or a callable
            without arguments that computes one from variables. `KLWarmup` multiplies it
            further. A `keras.Variable` is saved with the weights, a `tf.Variable` in
            the config.
        gradient: `"total"`; `"stl"`, without the score of q, which uses the KL of the
            draws instead of the closed form; `"loo"`, for posteriors without
            reparameterised draws, the score with the mean of the other draws as
            baseline (`leave_one_out`), with `num_samples` of 2 or more.
        use_exact_kl: `None` uses the closed form if there is one, `True` requires it,
            `False` uses the draws.
        free_bits: Nats that cost nothing, given like `beta`; `None` for none.
        free_bits_per: `"dimension"`, for distributions that factorise, or `"total"`.
        capacity: Target of the KL in nats, given like `beta`; `None` for none.
        latents: `"sample"`, or `"enumerate"` for the exact mean over q of a discrete z:

            .. math::

                \mathrm{E}_q[\log p(x \mid z)] = \sum_z q(z \mid x) \log p(x \mid z)

            `evaluate` and the history then show exact values. The decoder sees every
            value for every example, at most 4,096; memory grows as with so many draws.

    Raises:
        ValueError: If a number is out of its range, or options exclude each other.

    Example:
        >>> beta_vae = ELBO(beta=4.0)
        >>> beta_vae.get_config()["beta"]
        4.0
    """

    gradients = ("total", "stl", "loo")

    def __init__(
        self,
        num_samples: int = 1,
        beta: Any = 1.0,
        gradient: str = "total",
        use_exact_kl: bool | None = None,
        free_bits: Any = None,
        free_bits_per: str = DIMENSION,
        capacity: Any = None,
        latents: str = SAMPLE,
    ) -> None:
        super().__init__(num_samples, gradient)
        self.latents = choice(latents, (SAMPLE, ENUMERATE), "latents", "ELBO")
        if latents == ENUMERATE and (gradient != "total" or self.num_samples != 1):
            raise ValueError(
                "`ELBO` expects latents='enumerate' without num_samples and gradient: "
                "each value of z counts once, with an exact gradient. Received: "
                f"num_samples={num_samples}, gradient={gradient!r}. Leave both out, or "
                "draw latents, `ELBO(num_samples=8, gradient='loo')`."
            )
        self.beta = annealed.checked(beta, "beta", "`ELBO`", default=False)
        self.target = KLTarget(free_bits, free_bits_per, capacity)
        if use_exact_kl is not None:
            use_exact_kl = boolean(use_exact_kl, "use_exact_kl", "ELBO")
        self.use_exact_kl = False if gradient == "stl" else use_exact_kl
        if gradient == "stl" and (use_exact_kl or self.target.changes_the_cost):
            raise ValueError(
                "`ELBO` expects gradient='stl' without use_exact_kl, free_bits and "
                f"capacity. Received: use_exact_kl={use_exact_kl}, free_bits="
                f"{free_bits!r}, capacity={capacity!r}. Leave them None, or set "
                "gradient='total'."
            )
        if gradient == "loo" and use_exact_kl is False:
            self._refuse_a_target_of_drawn_kl("use_exact_kl=False")

    @property
    def variables(self) -> list[keras.Variable]:
        """The numbers given as `keras.Variable`, for the model to save."""
        numbers = (self.beta, self.target.free_bits, self.target.capacity)
        return [number for number in numbers if isinstance(number, keras.Variable)]

    def check_in_training(self) -> None:
        """Checks callables, as `annealed.check_in_training`."""
        super().check_in_training()
        self.target.check_in_training("`ELBO`")

    def losses(
        self, terms: Terms, kl_weight: tf.Tensor, sample_weight: tf.Tensor
    ) -> tf.Tensor:
        """Minus the bound; free bits and a capacity use the mean KL of the batch."""
        if self.gradient == "stl":
            return -elbo(terms.log_weights(kl_weight, with_score=False))
        log_p = terms.log_likelihood
        if self.gradient != "loo":
            nll = -terms.mean(log_p)
        elif terms.kl_is_closed_form:
            nll = -leave_one_out(log_p, terms.log_posterior)
        else:
            self._refuse_a_target_of_drawn_kl("a KL without a closed form")
            # The score of log q itself, beside that of the draws, has the mean 0.
            weights = terms.log_weights(kl_weight, with_score=False)
            return -leave_one_out(weights, terms.log_posterior)
        cost = terms.kl
        if self.target.changes_the_cost:
            kl = terms.kl_per_dimension if self.target.per_dimension else terms.kl
            cost = self.target.cost(kl, sample_weight)
        return nll + tf.cast(kl_weight, cost.dtype) * cost

    def _refuse_a_target_of_drawn_kl(self, found: str) -> None:
        if self.target.changes_the_cost:
            raise ValueError(
                "`ELBO` expects gradient='loo' with free_bits or capacity only if the "
                f"KL has a closed form. Received: {found}. Leave them out, choose a "
                "prior of the posterior's family, or use latents='enumerate'."
            )

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`; variables as their class and current value."""
        exact = None if self.gradient == "stl" else self.use_exact_kl
        return {
            **super().get_config(),
            "beta": annealed.serialize(self.beta),
            "use_exact_kl": exact,
            **self.target.get_config(),
            "latents": self.latents,
        }

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "ELBO":
        """Restores variables and functions before calling `__init__`."""
        return cls(
            **{
                key: annealed.revive(revive_arguments({key: value})[key], key)
                if key in ("beta", "free_bits", "capacity")
                else value
                for key, value in config.items()
            }
        )


@keras.saving.register_keras_serializable("tfp_vae")
class ImportanceWeightedBound(Objective):
    r"""The importance-weighted bound, the objective of an IWAE.

    .. math::

        \mathrm{loss} &= -\log \frac{1}{K} \sum_{k=1}^K w_k \\
        w_k &= \frac{p(x \mid z_k) \, p(z_k)}{q(z_k \mid x)}, \quad z_k \sim q(z \mid x)

    It is the ELBO at K = 1, and grows with K towards log p(x). The encoder's gradient
    gets noisier as K grows, except with `gradient="dreg"`.

    Reference:
        Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, 2016.
        https://arxiv.org/abs/1509.00519

    Args:
        num_samples: The number K of draws.
        gradient: `"total"`; `"stl"`, without the score of q (biased for K above 1);
            `"dreg"`, doubly reparameterised, unbiased; `"vimco"`, for posteriors
            without reparameterised draws, unbiased (see `vimco`), for K of 2 or more.

    Raises:
        ValueError: If `num_samples` is below 1, or 2 for `"vimco"`, or `gradient` is
            unknown.

    Example:
        >>> iwae = ImportanceWeightedBound(50, gradient="dreg")
        >>> iwae.get_config()
        {'num_samples': 50, 'gradient': 'dreg'}
    """

    gradients = (*GRADIENTS, "vimco")

    def __init__(self, num_samples: int = 5, gradient: str = "total") -> None:
        super().__init__(num_samples, gradient)

    def losses(
        self, terms: Terms, kl_weight: tf.Tensor, sample_weight: tf.Tensor
    ) -> tf.Tensor:
        """Minus the bound of each example."""
        if self.gradient == "vimco":
            return -vimco(terms.log_weights(kl_weight), terms.log_posterior)
        weights = terms.log_weights(kl_weight, with_score=self.gradient == "total")
        if self.gradient == "dreg":
            terms.scale.factor = tf.stop_gradient(tf.nn.softmax(weights, axis=0))
        return -importance_weighted_bound(weights)


@keras.saving.register_keras_serializable("tfp_vae")
class RenyiBound(Objective):
    r"""The variational Renyi bound of order alpha.

    .. math::

        \mathrm{loss} =
        -\frac{1}{1 - \alpha} \log \frac{1}{K} \sum_{k=1}^K w_k^{1 - \alpha}

    with the weights w_k of `ImportanceWeightedBound`. For alpha between 0 and 1 it lies
    between the importance-weighted bound and the ELBO. For `-inf` and `inf` it is the
    largest and the smallest log-weight.

    Reference:
        Li and Turner, Renyi divergence variational inference, 2016.
        https://arxiv.org/abs/1602.02311

    Args:
        alpha: Order of the divergence.
        num_samples: The number K of draws.
        gradient: `"total"`, or `"stl"`, without the score of q (biased for K above 1,
            unless alpha is 1).

    Raises:
        ValueError: If `alpha` is not a number, `num_samples` is below 1, or `gradient`
            is unknown.

    Example:
        >>> RenyiBound(alpha=0.5, num_samples=10).alpha
        0.5
    """

    gradients = ("total", "stl")

    def __init__(
        self, alpha: float = 0.5, num_samples: int = 5, gradient: str = "total"
    ) -> None:
        super().__init__(num_samples, gradient)
        self.alpha = real_number(alpha)
        if math.isnan(self.alpha):
            raise ValueError(
                "`RenyiBound` expects `alpha` to be a number. Received: "
                f"alpha={alpha!r}. 0.5 lies half-way between the importance-weighted "
                "bound (0) and the ELBO (1)."
            )

    def losses(
        self, terms: Terms, kl_weight: tf.Tensor, sample_weight: tf.Tensor
    ) -> tf.Tensor:
        """Minus the bound of each example."""
        weights = terms.log_weights(kl_weight, with_score=self.gradient == "total")
        if math.isinf(self.alpha):
            extreme = tf.reduce_max if self.alpha < 0 else tf.reduce_min
            return -extreme(weights, axis=0)
        return -renyi_bound(weights, self.alpha)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {**super().get_config(), "alpha": self.alpha}
