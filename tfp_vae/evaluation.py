"""What a trained VAE has learned: what its codes say of x, at which cost, and where.

    E_x KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)),   q(z) = 1/n sum_i q(z|x_i)

Quantities of the posterior are in nats, over the n examples that it was computed for.
"""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import integer
from tfp_vae.closed_forms import family_name
from tfp_vae.distribution_tensor import draw, unwrap
from tfp_vae.divergences import kl_divergence
from tfp_vae.priors.prior import prior_distribution
from tfp_vae.seeds import Seeds

tfd = tfp.distributions

# Numbers that the n posteriors compare at once: 32 MiB in float32.
_NUMBERS_AT_ONCE = 2**23
_HELD_OUT = 0.25
# So few examples of a value still reach both parts of the split.
_FEWEST = 4
# Trees that grow to the end find importance in noise.
_LEAF = 0.005


def active_units(posterior: Any, threshold: float = 0.01) -> int:
    """Number of latent coordinates in which the posterior depends on x:

        #{i : Var_x(E[z_i | x]) > threshold}

    with the variance over the n examples, divided by n. A coordinate whose posterior
    has collapsed onto the prior has a mean that does not move.

    Reference:
        Burda, Grosse and Salakhutdinov, Importance weighted autoencoders, 2016.
        https://arxiv.org/abs/1509.00519

    Args:
        posterior: q(z|x) of batch shape `(n,)`, such as `encoder(x)`, n at least 2.
        threshold: Variance above which a coordinate counts.

    Returns:
        A number from 0 to the size of the event.

    Raises:
        ValueError: If `posterior` is no distribution of that batch shape, or its mean
            has no closed form.

    Example:
        >>> loc = np.array([[-1.0, 0.0, 3.0], [1.0, 0.0, 3.0]])
        >>> active_units(tfd.MultivariateNormalDiag(loc))
        1
    """
    posterior = _posterior(posterior, "active_units", fewest=2)
    try:
        mean = np.asarray(posterior.mean(), "float64")
    except NotImplementedError as error:
        raise ValueError(
            "`active_units` expects a posterior whose mean has a closed form. Received:"
            f" {family_name(posterior)}. Use `mutual_information`, which needs draws "
            "and densities alone."
        ) from error
    return int(np.count_nonzero(np.var(mean, axis=0) > threshold))


def kl_per_dimension(posterior: Any, prior: Any) -> np.ndarray:
    """KL of each latent coordinate, mean over the examples, in nats:

        1/n sum_j KL(q(z_i | x_j) || p(z_i))

    In closed form where there is one, else with one draw for each example.

    Args:
        posterior: q(z|x) of batch shape `(n,)` that factorises over its event.
        prior: p(z), a `tfd.Distribution` or a prior layer, that factorises too.

    Returns:
        An array of the event shape; its sum is the rate.

    Raises:
        ValueError: If `posterior` is no distribution of that batch shape, the prior
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
    """Nats that z tells about which of the n examples it was drawn for:

        I(x; z) = 1/n sum_i E[log q(z | x_i) - log q(z)],   z ~ q(z | x_i)

    by Monte Carlo, with q(z) the mixture of all n posteriors, so without bias. It lies
    between 0 and log n, up to the noise below: a good encoder reaches log n, and says
    more only with more examples.

    Reference:
        Hoffman and Johnson, ELBO surgery, 2016.
        http://approximateinference.org/accepted/HoffmanJohnson2016.pdf

    Args:
        posterior: q(z|x) of batch shape `(n,)`, such as `encoder(x)`, n at least 2. Any
            law with draws and densities.
        num_samples: Draws for each example.
        seed: Integer, or `None` for one that `keras.utils.set_random_seed` governs.
        batch_size: How many draws meet the n posteriors at once; by default as many
            as make 2^23 numbers. The work grows with the square of n.

    Returns:
        The estimate, a number.

    Raises:
        ValueError: If `posterior` is no distribution of that batch shape, or a size is
            no positive integer.

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
    """How far the codes of all examples together are from the prior, in nats:

        KL(q(z) || p(z)) = 1/n sum_i E[log q(z) - log p(z)],   z ~ q(z | x_i)

    by Monte Carlo, with q(z) the mixture of all n posteriors. It is the part of the
    rate that no information in z pays for, and that a better prior saves. With the same
    seed the draws are those of `mutual_information`, and both sum to the mean over
    them of log q(z|x) - log p(z).

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
        ValueError: If `posterior` is no distribution of that batch shape, the prior
            does not fit it or has a batch, or a size is no positive integer.

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
            f"Received: {family_name(prior)} of batch shape {prior.batch_shape}. Of a "
            "batch of scalars make one law by `tfd.Independent(p, 1)`."
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
    """Rate and distortion of a model on data, neither weighted by a beta:

        R = 1/n sum_i KL(q(z|x_i) || p(z)),   D = -1/n sum_i E[log p(x_i | z)]

    as `model.evaluate` reports them, with its draws of z. R bounds the information
    I(x; z) from above; a large beta in training buys a low R with a high D.

    Reference:
        Alemi et al., Fixing a broken ELBO, 2018. https://arxiv.org/abs/1711.00464

    Args:
        model: A compiled Keras model whose `evaluate` reports `kl` and `nll`.
        x: Inputs, anything that `evaluate` takes.
        y: Targets; those of an autoencoder made of layers are its inputs, `y=x`.
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
            "`metrics=[LogLikelihood(negative=True)]`, and give `y` where it needs "
            "targets."
        )
    return RateDistortion(float(results["kl"]), float(results["nll"]))


def mutual_information_gap(codes: Any, factors: Any, num_bins: int = 20) -> float:
    """MIG: by how much the best code of a factor beats the second best.

        MIG = 1/f sum_k (I(c_1; v_k) - I(c_2; v_k)) / H(v_k)

    where c_1 and c_2 are the two coordinates, cut into bins of equal width, that know
    most about the factor v_k. It is 0 where a factor is nowhere, or in two coordinates
    alike. It reaches 1 where one coordinate keeps all values of the factor in bins of
    their own and no other knows it; short of it by about
    (num_bins - 1) (values - 1) / (2 n H), what independent bins seem to know of n
    examples, and by more where the factor has more values than there are bins.

    Reference:
        Chen et al., Isolating sources of disentanglement in VAEs, 2018.
        https://arxiv.org/abs/1802.04942

    Args:
        codes: Numbers of shape `(n, d)`, such as posterior means, d at least 2.
        factors: Labels of shape `(n, f)`: integers, strings, or whole numbers.
        num_bins: Bins between the smallest and the largest value of a coordinate.

    Returns:
        A number between 0 and 1.

    Raises:
        ValueError: If codes or factors are not such arrays, of one length, a factor
            has one value only, or `num_bins` is below 2.
        ImportError: If scikit-learn is not installed.

    Example:
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 10)
        >>> round(mutual_information_gap(10.0 * factors, factors), 4)
        1.0
    """
    num_bins = integer(num_bins, "num_bins", "mutual_information_gap", minimum=2)
    codes, columns = _codes_and_factors(codes, factors, "mutual_information_gap")
    information = _scikit_learn("mutual_information_gap").metrics.mutual_info_score
    bins = _bins(codes, num_bins)

    def share(code: np.ndarray, labels: np.ndarray) -> float:
        return information(code, labels) / information(labels, labels)

    return _mean_gap(bins, columns, share)


class DCI(NamedTuple):
    """The three scores of `dci`, each at most 1.

    Attributes:
        disentanglement: Whether a code coordinate says something of one factor only.
        completeness: Whether a factor is in one code coordinate only.
        informativeness: Held-out accuracy of the factors predicted from the codes.

    Example:
        >>> DCI(1.0, 0.8, 0.9).completeness
        0.8
    """

    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: Any, factors: Any, num_trees: int = 100, seed: int | None = None) -> DCI:
    """Disentanglement, completeness and informativeness, by random forests.

    For each factor k a forest learns to predict it from all d codes, on three quarters
    of the examples, and gives code i the importance R[i, k], the share of the impurity
    that its splits remove. With entropies H to the base of their largest value,

        D = sum_i w[i] (1 - H(R[i, :] / sum_k R[i, k])),   w[i] = sum_k R[i, k] / f
        C = 1/f sum_k (1 - H(R[:, k]))

    and informativeness is the accuracy on the fourth quarter, mean over the factors.
    Trees see every code at each split, and stop at leaves of one example in 200: what
    is rarer has none of its own. All three are 1 for a code that copies each factor
    into a coordinate; of codes that know nothing D and C are near 0, and
    informativeness is chance, the share of the commonest value. Scores of different
    classifiers do not compare.

    Reference:
        Eastwood and Williams, A framework for the quantitative evaluation of
        disentangled representations, 2018.
        https://openreview.net/forum?id=By-7dz-AZ

    Args:
        codes: Numbers of shape `(n, d)`, d at least 2.
        factors: Labels of shape `(n, f)`, f at least 2, each of its values at least 4
            times.
        num_trees: Trees in a forest.
        seed: Integer for split and forests, or `None` for one that
            `keras.utils.set_random_seed` governs.

    Returns:
        The three scores.

    Raises:
        ValueError: If codes or factors are not such arrays, of one length, a factor
            has one value only or a rare one, or `num_trees` is no positive integer.
        ImportError: If scikit-learn is not installed.

    Example:
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 10)
        >>> dci(10.0 * factors, factors, num_trees=5, seed=1)
        DCI(disentanglement=1.0, completeness=1.0, informativeness=1.0)
    """
    num_trees = integer(num_trees, "num_trees", "dci")
    codes, columns = _codes_and_factors(codes, factors, "dci", fewest=_FEWEST)
    if len(columns) < 2:
        raise ValueError(
            "`dci` expects two factors or more, of shape (n, f). Received: one. Use "
            "`mutual_information_gap` or `sap` for it."
        )
    sklearn = _scikit_learn("dci")
    seed = random.randrange(2**31) if seed is None else seed
    importances, accuracies = [], []
    for labels in columns:
        train, test, train_labels, test_labels = _held_out(codes, labels, seed, sklearn)
        forest = sklearn.ensemble.RandomForestClassifier(
            num_trees, max_features=None, min_samples_leaf=_LEAF, random_state=seed
        ).fit(train, train_labels)
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(test, test_labels))
    by_code = np.stack(importances, axis=1)
    weights = by_code.sum(axis=1) / max(by_code.sum(), np.finfo(float).tiny)
    return DCI(
        float(weights @ _concentration(by_code)),
        float(np.mean(_concentration(by_code.T))),
        float(np.mean(accuracies)),
    )


def sap(codes: Any, factors: Any, seed: int | None = None) -> float:
    """SAP: separated attribute predictability, a gap between single-code classifiers.

        SAP = 1/f sum_k (S[i1, k] - S[i2, k])

    where S[i, k] is the balanced accuracy, the mean over the values of the factor, of
    v_k predicted from the coordinate c_i alone, and i1 and i2 are the two best ones.
    The classifier is a decision tree with as many leaves as the factor has values: one
    threshold less, learned on three quarters of the examples and scored on the others.

    What knows nothing still scores 1 / values. So SAP is at most 1 - 1 / values, mean
    over the factors: 0.5 for binary ones. It is 0 where a factor is nowhere, or in two
    coordinates alike.

    Reference:
        Kumar, Sattigeri and Balakrishnan, Variational inference of disentangled latent
        concepts from unlabeled observations, 2018. https://arxiv.org/abs/1711.00848

    Args:
        codes: Numbers of shape `(n, d)`, d at least 2.
        factors: Labels of shape `(n, f)`, each value of a factor at least 4 times.
        seed: Integer for the split, or `None` for one that
            `keras.utils.set_random_seed` governs.

    Returns:
        A number between 0 and 1.

    Raises:
        ValueError: If codes or factors are not such arrays, of one length, or a factor
            has one value only or a rare one.
        ImportError: If scikit-learn is not installed.

    Example:
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 20)
        >>> 0.3 < sap(10.0 * factors, factors, seed=1) <= 0.5
        True
    """
    codes, columns = _codes_and_factors(codes, factors, "sap", fewest=_FEWEST)
    sklearn = _scikit_learn("sap")
    # One for all coordinates: copies of one must score alike.
    seed = random.randrange(2**31) if seed is None else seed

    def accuracy(code: np.ndarray, labels: np.ndarray) -> float:
        train, test, train_labels, test_labels = _held_out(
            code[:, np.newaxis], labels, seed, sklearn
        )
        tree = sklearn.tree.DecisionTreeClassifier(
            max_leaf_nodes=labels.max() + 1, class_weight="balanced", random_state=seed
        ).fit(train, train_labels)
        return sklearn.metrics.balanced_accuracy_score(test_labels, tree.predict(test))

    return _mean_gap(codes, columns, accuracy)


def _posterior(posterior: Any, owner: str, fewest: int = 1) -> Any:
    """The plain distribution, if it is one for each of enough examples."""
    posterior = unwrap(posterior)
    if not isinstance(posterior, tfd.Distribution):
        raise ValueError(
            f"`{owner}` expects the posterior to be a `tfd.Distribution`. Received: a "
            f"{type(posterior).__name__} of shape {getattr(posterior, 'shape', None)}. "
            "Give the output of a distribution layer, such as `encoder(x)`."
        )
    batch = posterior.batch_shape
    sizes = batch.as_list() if isinstance(batch, tf.TensorShape) and batch.rank else []
    if len(sizes) != 1 or sizes[0] is None or sizes[0] < fewest:
        raise ValueError(
            f"`{owner}` expects a posterior of batch shape (n,), one law for each of "
            f"n >= {fewest} examples. Received: {family_name(posterior)} of batch "
            f"shape {batch}. Call the encoder on an array of examples; of a batch of "
            "scalars make vectors by `tfd.Independent(q, 1)`."
        )
    return posterior


def _draws(posterior: Any, num_samples: int, seed: int | None, owner: str) -> tf.Tensor:
    """Draws of shape `(num_samples, n, *event)`."""
    num_samples = integer(num_samples, "num_samples", owner)
    return draw(posterior, num_samples, seed=Seeds(seed).next())[0]


def _mean_information(
    posterior: Any, draws: tf.Tensor, batch_size: int | None, owner: str
) -> float:
    """Mean of log q(z | x_i) - log q(z) over draws of shape `(draws, n, *event)`."""
    n, event = draws.shape[1], draws.shape[2:]
    if batch_size is None:
        batch_size = max(1, _NUMBERS_AT_ONCE // (n * event.num_elements()))
    batch_size = integer(batch_size, "batch_size", owner)
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

    # The draws enter as arguments, which TFP's bijectors do not remember making.
    @tf.function(input_signature=[spec, tf.TensorSpec([None], tf.int32)])
    def information(z: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        log_q = tf.cast(posterior.log_prob(z[:, tf.newaxis]), tf.float64)
        own = tf.gather(log_q, rows, batch_dims=1)
        return tf.reduce_sum(own - tf.reduce_logsumexp(log_q, axis=1) + np.log(n))

    # A `tf.function` itself would warn that each call traces a new one.
    return information.get_concrete_function()


def _scikit_learn(owner: str) -> Any:
    # Imported here, since the package does without it but for these scores.
    try:
        import sklearn.ensemble
        import sklearn.metrics
        import sklearn.model_selection
        import sklearn.tree
    except ImportError as error:
        raise ImportError(
            f"`{owner}` expects scikit-learn. Received: {error}. Install it: "
            '`pip install "tfp-vae[examples]"`.'
        ) from error
    return sklearn


def _codes_and_factors(
    codes: Any, factors: Any, owner: str, fewest: int = 1
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Finite codes `(n, d)`, and of each factor its values as integers from 0."""
    codes, factors = np.asarray(codes), np.asarray(factors)
    if (
        codes.ndim != 2
        or codes.shape[1] < 2
        or codes.dtype.kind not in "biuf"
        or not np.isfinite(codes).all()
    ):
        raise ValueError(
            f"`{owner}` expects codes of shape (n, d), finite numbers in two "
            f"coordinates or more. Received: codes of shape {codes.shape} and "
            f"dtype {codes.dtype}, or with NaN or infinity. Give the posterior means "
            "of n examples, `np.asarray(q.mean())`."
        )
    if factors.ndim != 2 or len(factors) != len(codes) or not factors.size:
        raise ValueError(
            f"`{owner}` expects factors of shape ({len(codes)}, f), a row for each "
            f"row of the codes. Received: factors of shape {factors.shape}. Stack the "
            "labels: `np.stack([shape, colour], axis=1)`."
        )
    columns = [_labels(column, k, owner) for k, column in enumerate(factors.T)]
    for k, labels in enumerate(columns):
        rarest = np.bincount(labels).min()
        if rarest < fewest:
            raise ValueError(
                f"`{owner}` expects each value of a factor at least {fewest} times, to "
                f"learn from some and be scored on others. Received: factor {k} with a "
                f"value that occurs {rarest} times. Give more examples, or leave those "
                "of rare values out."
            )
    return codes.astype("float64"), columns


def _labels(column: np.ndarray, k: int, owner: str) -> np.ndarray:
    if column.dtype.kind == "O":
        column = np.array(column.tolist())
    kind = column.dtype.kind
    whole = kind != "f" or (np.isfinite(column).all() and not np.any(column % 1))
    if kind not in "biufSU" or not whole:
        raise ValueError(
            f"`{owner}` expects factors of discrete values: integers, strings or whole "
            f"numbers. Received: factor {k} of dtype {column.dtype}. Number its values "
            "by `np.unique(v, return_inverse=True)[1]`, or cut it into bins by "
            "`np.digitize`."
        )
    values, labels = np.unique(column, return_inverse=True)
    if len(values) < 2:
        raise ValueError(
            f"`{owner}` expects factors that vary. Received: factor {k}, which is "
            f"{values[0]!r} throughout. Leave it out."
        )
    return labels


def _bins(codes: np.ndarray, num_bins: int) -> np.ndarray:
    """Numbers of bins of equal width between the ends of each coordinate."""
    low, width = codes.min(axis=0), np.ptp(codes, axis=0)
    unit = (codes - low) / np.where(width > 0, width, 1.0)
    return np.minimum((unit * num_bins).astype("int64"), num_bins - 1)


def _mean_gap(
    codes: np.ndarray,
    columns: list[np.ndarray],
    score: Callable[[np.ndarray, np.ndarray], float],
) -> float:
    """Best less second best of the coordinates' scores, mean over the factors."""
    scores = [[score(code, labels) for code in codes.T] for labels in columns]
    ordered = np.sort(scores, axis=1)
    return float(np.mean(ordered[:, -1] - ordered[:, -2]))


def _held_out(codes: np.ndarray, labels: np.ndarray, seed: int, sklearn: Any) -> Any:
    """Codes to learn from, codes to score on, and the labels of both."""
    return sklearn.model_selection.train_test_split(
        codes, labels, test_size=_HELD_OUT, stratify=labels, random_state=seed
    )


def _concentration(importances: np.ndarray) -> np.ndarray:
    """1 less the entropy of each row, to the base of its length; of zeros 0."""
    total = importances.sum(axis=1, keepdims=True)
    size = importances.shape[1]
    shares = np.where(total > 0, importances / np.where(total > 0, total, 1), 1 / size)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return 1 + np.sum(shares * logs, axis=1) / np.log(size)
