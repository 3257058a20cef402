"""Scores against numerical integration, SciPy and `scoringrules`."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, stats

import tfp_vae as tv
from tfp_vae.entries import class_probs
from tfp_vae.scores.closed_forms import sum_over_pairs
from tfp_vae.scores.crps import crps_of_entries

tfd = tfp.distributions
tfb = tfp.bijectors


def integrated(law, y):
    """The integral of (F - 1{y <= x})^2, from an independent cdf."""
    low, high = law.ppf(1e-12), law.ppf(1 - 1e-12)
    ends = sorted({low, *(law.ppf([0.01, 0.5, 0.99])), high, y})
    below = lambda x: law.cdf(x) ** 2  # noqa: E731
    above = lambda x: law.sf(x) ** 2  # noqa: E731
    total = 0.0
    for a, b in itertools.pairwise(ends):
        total += integrate.quad(below if b <= y else above, a, b, epsabs=1e-11)[0]
    return total


def summed(law, y):
    """The same of integers."""
    low = min(int(law.ppf(1e-13)), int(np.floor(y)))
    high = max(int(law.ppf(1 - 1e-13)), int(np.ceil(y))) + 1
    k = np.arange(low, high)
    share = np.clip(k + 1 - y, 0, 1)
    cdf = law.cdf(k)
    return np.sum(share * (cdf - 1) ** 2 + (1 - share) * cdf**2)


class Mixture:
    def __init__(self, weights, laws):
        self.weights, self.laws = weights, laws

    def cdf(self, x):
        return sum(w * p.cdf(x) for w, p in zip(self.weights, self.laws, strict=True))

    def sf(self, x):
        return sum(w * p.sf(x) for w, p in zip(self.weights, self.laws, strict=True))

    def ppf(self, q):
        each = [law.ppf(q) for law in self.laws]
        extreme = np.min if np.all(np.asarray(q) < 0.5) else np.max
        return extreme(each, axis=0)


CONTINUOUS = {
    "normal": (tfd.Normal(0.5, 2.0), stats.norm(0.5, 2.0)),
    "logistic": (tfd.Logistic(0.5, 2.0), stats.logistic(0.5, 2.0)),
    "laplace": (tfd.Laplace(0.5, 2.0), stats.laplace(0.5, 2.0)),
    "student 1.5": (tfd.StudentT(1.5, 0.5, 2.0), None),
    "student 3": (tfd.StudentT(3.0, 0.5, 2.0), stats.t(3.0, 0.5, 2.0)),
    "student 30": (tfd.StudentT(30.0, 0.5, 2.0), stats.t(30.0, 0.5, 2.0)),
    "log-normal": (tfd.LogNormal(0.5, 0.8), stats.lognorm(0.8, scale=np.exp(0.5))),
    "narrow log-normal": (
        tfd.LogNormal(2.0, 0.05),
        stats.lognorm(0.05, scale=np.exp(2.0)),
    ),
    "gamma": (tfd.Gamma(2.5, 0.5), stats.gamma(2.5, scale=2.0)),
    "flat gamma": (tfd.Gamma(0.3, 2.0), stats.gamma(0.3, scale=0.5)),
    "chi2": (tfd.Gamma(200.0, 10.0), stats.gamma(200.0, scale=0.1)),
    "mixture": (
        tfd.MixtureSameFamily(
            tfd.Categorical(probs=[0.3, 0.7]), tfd.Normal([-1.0, 2.0], [0.5, 3.0])
        ),
        Mixture([0.3, 0.7], [stats.norm(-1.0, 0.5), stats.norm(2.0, 3.0)]),
    ),
    "shifted": (
        tfd.TransformedDistribution(
            tfd.Gamma(2.5, 0.5), tfb.Chain([tfb.Shift(-3.0), tfb.Scale(-2.0)])
        ),
        None,
    ),
}
VALUES = [-3.0, 0.0, 0.5, 0.51, 1.7, 7.3, 40.0]


@pytest.mark.parametrize("name", [k for k, (_, law) in CONTINUOUS.items() if law])
def test_closed_forms_are_the_integral(name):
    p, law = CONTINUOUS[name]
    want = [integrated(law, y) for y in VALUES]
    found = crps_of_entries(p, tf.constant(VALUES))
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-6)


def test_scaled_versions_have_scaled_scores():
    p, _ = CONTINUOUS["shifted"]
    y = np.array([-20.0, -8.0, -3.0, 1.0])
    want = [2 * integrated(stats.gamma(2.5, scale=2.0), (v + 3) / -2) for v in y]
    found = crps_of_entries(p, tf.constant(y, tf.float32))
    np.testing.assert_allclose(found, want, rtol=2e-5)


@pytest.mark.parametrize("df", [0.6, 0.9, 1.0, 1 + 1e-5, 1.1])
def test_a_score_without_a_mean_is_the_integral(df):
    y, law = 0.7, stats.t(df)
    want = integrate.quad(lambda x: law.cdf(x) ** 2, -np.inf, y, limit=200)[0]
    want += integrate.quad(lambda x: law.sf(x) ** 2, y, np.inf, limit=200)[0]
    found = crps_of_entries(tfd.StudentT(df, 0.0, 1.0), tf.constant(y))
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_where_the_integral_is_infinite_the_score_is():
    p = tfd.StudentT([0.5, np.nan], 0.0, 1.0)
    found = tf.function(crps_of_entries, autograph=False)(p, tf.zeros(2))
    assert np.isinf(found[0])
    assert np.isnan(found[1])


@pytest.mark.parametrize("concentration", [1e3, 1e4, 1e5, 1e6, 1e7])
def test_large_concentrations_keep_their_digits(concentration):
    spread = np.sqrt(concentration)
    y = concentration + spread * np.array([-2.0, 0.0, 3.0])
    law = stats.gamma(concentration)
    low, high = law.ppf([1e-14, 1 - 1e-14])

    def truth(y):
        below = integrate.quad(lambda x: law.cdf(x) ** 2, low, y, epsabs=1e-9)[0]
        return below + integrate.quad(lambda x: law.sf(x) ** 2, y, high, epsabs=1e-9)[0]

    found = crps_of_entries(tfd.Gamma(concentration, 1.0), tf.constant(y, tf.float32))
    want = [truth(float(np.float32(value))) for value in y]
    np.testing.assert_allclose(found, want, rtol=1e-4)


@pytest.mark.parametrize("count", [1e-2, 1e-3, 1e-4])
def test_counts_that_are_mostly_zero(count):
    odds = 10 / count  # the mean is 10
    p = tfd.NegativeBinomial(
        np.float32(count),
        logits=np.float32(np.log(odds)),
        require_integer_total_count=False,
    )
    above = stats.nbinom(count, 1 / (1 + odds)).sf(np.arange(int(30 * odds)))
    found = crps_of_entries(p, tf.constant(0.0))
    np.testing.assert_allclose(found, np.sum(above**2), rtol=1e-4)


def test_entries_of_a_mixture_that_is_repeated():
    logistic = tfd.Logistic([[0.0, 1.0], [0.0, 1.0]], 1.0)
    mixture = tfd.MixtureSameFamily(tfd.Categorical(probs=[[0.5, 0.5]] * 2), logistic)
    y = tf.constant([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])  # alike by symmetry
    found = crps_of_entries(tfd.Sample(mixture, 3), y, 20_000, lambda: (1, 2))
    law = Mixture([0.5, 0.5], [stats.logistic(0.0), stats.logistic(1.0)])
    np.testing.assert_allclose(found, np.full((2, 3), integrated(law, 0.0)), atol=0.02)


@pytest.mark.parametrize("score", [tv.EnergyScore, tv.Coverage, tv.IntervalScore])
def test_unknown_predictions_and_targets_have_no_score(score):
    unknown = tfd.Independent(tfd.Normal([[np.nan, 0.0], [0.0, 0.0]], 1.0), 1)
    known = tfd.Independent(tfd.Normal(tf.zeros([2, 2]), 1.0), 1)
    metric = score()
    metric.update_state(np.zeros((2, 2)), unknown)
    assert np.isnan(float(metric.result()))
    metric = score()
    update = tf.function(lambda y: metric.update_state(y, known), autograph=False)
    update(tf.constant([[0.0, np.nan], [0.0, 0.0]]))
    assert np.isnan(float(metric.result()))


def test_a_loss_of_unknown_values_is_unknown():
    p = tfd.Independent(tfd.Normal([[np.nan, 0.0], [0.0, 0.0]], 1.0), 1)
    loss = tv.EnergyScore(reduction=None)
    found = tf.function(lambda y: loss(y, p))(tf.zeros([2, 2])).numpy()
    assert np.isnan(found[0])
    assert found[1] > 0


TABLE = np.array([0.1, 0.0, 0.6, 0.3])
COUNTS = {
    "bernoulli": (tfd.Bernoulli(probs=0.3), stats.bernoulli(0.3)),
    "categorical": (
        tfd.Categorical(probs=TABLE.astype("float32")),
        stats.rv_discrete(values=(range(4), TABLE)),
    ),
    "ordered logistic": (
        tfd.OrderedLogistic([-1.0, 0.5, 2.0], 0.3),
        stats.rv_discrete(
            values=(range(4), np.diff([0, *stats.logistic(0.3).cdf([-1, 0.5, 2]), 1]))
        ),
    ),
    "rare": (tfd.Poisson(0.01), stats.poisson(0.01)),
    "poisson": (tfd.Poisson(3.7), stats.poisson(3.7)),
    "many": (tv.distributions.Poisson(1e6), stats.poisson(1e6)),
    "negative binomial": (
        tv.distributions.NegativeBinomial(2.5, probs=0.6),
        stats.nbinom(2.5, 0.4),
    ),
    "flat negative binomial": (
        tfd.NegativeBinomial(0.2, probs=0.99),
        stats.nbinom(0.2, 0.01),
    ),
    "almost poisson": (tfd.NegativeBinomial(1e3, probs=0.01), stats.nbinom(1e3, 0.99)),
}


@pytest.mark.parametrize("name", COUNTS)
def test_closed_forms_of_counts_are_the_sum(name):
    p, law = COUNTS[name]
    most = 1 if name == "bernoulli" else 3
    values = [v for v in (0, 1, 2, 3) if v <= most]
    if name not in ("bernoulli", "categorical", "ordered logistic"):
        values += [-1.0, 40.0, float(np.round(law.mean()))]
    want = [summed(law, y) for y in values]
    found = crps_of_entries(p, tf.constant(values, tf.float32))
    np.testing.assert_allclose(found, want, rtol=3e-5, atol=1e-6)


@pytest.mark.parametrize("base", ["poisson", "negative binomial"])
def test_extra_zeros_are_in_the_score(base):
    inner, law = COUNTS[base]
    p = tfd.Inflated(inner, inflated_loc_probs=0.3)
    zero = float(p.prob(0.0))
    share = (zero - law.pmf(0)) / (1 - law.pmf(0))
    k = np.arange(200)
    cdf = share + (1 - share) * law.cdf(k)
    want = [np.sum((cdf - (k >= y)) ** 2) for y in (0, 2, 9)]
    found = crps_of_entries(p, tf.constant([0.0, 2.0, 9.0]))
    np.testing.assert_allclose(found, want, rtol=1e-4)


@pytest.mark.parametrize("components", [1, 2])
def test_quantized_logistics_are_summed(components):
    layer = tv.QuantizedLogistic(2, num_components=components, low=0, high=9)
    raw = np.random.default_rng(0).normal(size=(3, layer.parameters_width))
    p = layer(tf.constant(raw, tf.float32))
    k = np.arange(10.0, dtype="float32")[:, None, None] * np.ones((3, 2), "float32")
    cdf = np.cumsum(np.exp(p.distribution.log_prob(k)), axis=0)
    y = np.array([[0, 3], [9, 1], [4, 8]], "float32")
    want = np.sum((cdf - (k >= y)) ** 2, axis=0)
    found = crps_of_entries(p.tensor_distribution, tf.constant(y))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)


def test_the_package_scoringrules_agrees():
    sr = pytest.importorskip("scoringrules")
    y = np.array([-1.0, 0.3, 2.0, 5.0])
    pairs = [
        (tfd.Normal(0.5, 2.0), sr.crps_normal(y, 0.5, 2.0)),
        (tfd.Logistic(0.5, 2.0), sr.crps_logistic(y, 0.5, 2.0)),
        (tfd.Laplace(0.5, 2.0), sr.crps_laplace(y, 0.5, 2.0)),
        (tfd.StudentT(3.0, 0.5, 2.0), sr.crps_t(y, 3.0, 0.5, 2.0)),
        (tfd.Gamma(2.0, 0.5), sr.crps_gamma(y, 2.0, 0.5)),
        (tfd.LogNormal(0.5, 0.8), sr.crps_lognormal(y[1:], 0.5, 0.8)),
    ]
    for p, want in pairs:
        found = crps_of_entries(p, tf.constant(y[-len(want) :], tf.float32))
        np.testing.assert_allclose(found, want, rtol=1e-4, err_msg=p.name)
    counts = np.array([0.0, 1.0, 7.0])
    for p, want in [
        (tfd.Poisson(3.0), sr.crps_poisson(counts, 3.0)),
        (tfd.NegativeBinomial(3.0, probs=0.4), sr.crps_negbinom(counts, 3.0, 0.6)),
    ]:
        found = crps_of_entries(p, tf.constant(counts, tf.float32))
        np.testing.assert_allclose(found, want, rtol=1e-4, err_msg=p.name)


LOC = np.array([[0.0, -1.0], [2.0, 0.5], [3.0, -0.2]], "float32")
SCALE = np.array([[1.0, 0.3], [2.0, 5.0], [0.1, 1.0]], "float32")
Y = np.array([[0.2, -1.0], [2.0, 3.0], [2.0, 0.2]], "float32")


def normal_scores(y=Y):
    z = (y - LOC) / SCALE
    return SCALE * (
        z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    )


@pytest.mark.parametrize("components", [3, 40])
def test_entries_of_a_mixture_of_vectors(components):
    """40 x 40 pairs are more than are computed at once."""
    rng = np.random.default_rng(0)
    loc = rng.normal(size=(3, components, 2)).astype("float32")
    scale = rng.uniform(0.2, 2, size=(3, components, 2)).astype("float32")
    weights = rng.dirichlet(np.ones(components), size=3).astype("float32")
    y = tf.constant(Y)
    want = np.empty((3, 2))
    for i, j in np.ndindex(3, 2):
        laws = [stats.norm(loc[i, k, j], scale[i, k, j]) for k in range(components)]
        if components == 40 and (i, j) != (1, 1):
            continue
        want[i, j] = integrated(Mixture(weights[i], laws), float(Y[i, j]))
    categorical = tfd.Categorical(probs=weights)
    for inner in (
        tfd.Independent(tfd.Normal(loc, scale), 1),
        tfd.MultivariateNormalDiag(loc, scale),
    ):
        p = tfd.MixtureSameFamily(categorical, inner)
        found = crps_of_entries(p, y).numpy()
        if components == 40:
            np.testing.assert_allclose(found[1, 1], want[1, 1], rtol=1e-4)
        else:
            np.testing.assert_allclose(found, want, rtol=1e-4)


TWO = Mixture([0.3, 0.7], [stats.laplace(-1.0, 0.5), stats.laplace(2.0, 3.0)])
UNBIASED = {
    "beta": (stats.beta(2.0, 3.0), 0.7),
    "binomial": (stats.binom(10, 0.3), 4.0),
    "mixture of laplaces": (TWO, 1.0),
    "mixture of two classes": (
        Mixture([0.3, 0.7], [TWO.laws[0], stats.norm(2, 3)]),
        1.0,
    ),
}


def laplaces(n):
    return tfd.MixtureSameFamily(
        tfd.Categorical(probs=np.tile([0.3, 0.7], (n, 1))),
        tfd.Laplace(np.tile([-1.0, 2.0], (n, 1)), np.tile([0.5, 3.0], (n, 1))),
    )


def two_classes(n):
    return tfd.Mixture(
        tfd.Categorical(probs=np.tile([0.3, 0.7], (n, 1))),
        [tfd.Laplace(np.full(n, -1.0), 0.5), tfd.Normal(np.full(n, 2.0), 3.0)],
    )


BATCHES = {
    "beta": lambda n: tfd.Beta(np.full(n, 2.0), 3.0),
    "binomial": lambda n: tfd.Binomial(np.full(n, 10.0), probs=0.3),
    "mixture of laplaces": laplaces,
    "mixture of two classes": two_classes,
}


@pytest.mark.parametrize("name", UNBIASED)
@pytest.mark.parametrize("num_samples", [2, 7])
def test_few_draws_give_no_bias(name, num_samples):
    law, y = UNBIASED[name]
    seeds = iter(range(1, 9))
    repeats = 20_000
    batch = BATCHES[name](repeats)
    values = tf.fill([repeats], tf.constant(y, batch.dtype))
    found = crps_of_entries(
        batch, values, num_samples, lambda: tf.constant([next(seeds), 5])
    ).numpy()
    want = summed(law, y) if name == "binomial" else integrated(law, y)
    error = found.std() / np.sqrt(repeats)
    assert abs(found.mean() - want) < 5 * error
    # The biased estimate of S draws is 1/S of the spread larger, far outside.
    assert error < 0.02 * want


def gradient(loss, *parameters):
    with tf.GradientTape() as tape:
        variables = [tf.constant(p) for p in parameters]
        tape.watch(variables)
        value = loss(*variables)
    return [np.asarray(g) for g in tape.gradient(value, variables)]


FAMILIES = {
    "normal": lambda a, b: tfd.Normal(a, b),
    "logistic": lambda a, b: tfd.Logistic(a, b),
    "laplace": lambda a, b: tfd.Laplace(a, b),
    "student": lambda a, b: tfd.StudentT(2.0 + b, a, b),
    "log-normal": lambda a, b: tfd.LogNormal(a, b),
    "gamma": lambda a, b: tfd.Gamma(1 + a**2, b),
    "poisson": lambda a, b: tfd.Poisson(b),
    "negative binomial": lambda a, b: tfd.NegativeBinomial(b, logits=a),
    "bernoulli": lambda a, b: tfd.Bernoulli(logits=a * b),
    "mixture": lambda a, b: tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.stack([a, b], -1)),
        tfd.Normal(tf.stack([a, a], -1), tf.stack([b, b], -1)),
    ),
    "quantized": lambda a, b: tv.distributions.QuantizedLogistic(a, b, 0, 9),
    "inflated": lambda a, b: tfd.Inflated(tfd.Poisson(b), inflated_loc_logits=a),
    "kumaraswamy": lambda a, b: tv.distributions.Kumaraswamy(b, b),
    "mixture of laplaces": lambda a, b: tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.stack([a, b], -1)),
        tfd.Laplace(tf.stack([a, a + 1], -1), tf.stack([b, b], -1)),
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_finite_and_those_of_differences(name):
    """Also where y is the location, 0, or far away."""
    family = FAMILIES[name]
    a = np.array([0.0, 1.0, 0.0, 2.0, -1.0, 0.3], "float64")
    b = np.array([1.0, 0.5, 1e-3, 30.0, 1.0, 2.0], "float64")
    y = tf.constant([0.0, 1.0, 1e3, 2.0, -2.0, 1.0], "float64")
    if name == "bernoulli":
        y = tf.constant([0.0, 1.0, 1.0, 0.0, 0.0, 1.0], "float64")

    def loss(a, b):
        p = family(a, b)
        return crps_of_entries(p, y, 10, lambda: [1, 2], True)

    grads = gradient(loss, a, b)
    step = 1e-6
    for index, grad in enumerate(grads):
        if grad.dtype == object:  # a parameter that the family does not use
            continue
        assert np.all(np.isfinite(grad)), (name, grad)
        for i in range(len(a)):
            parts = []
            for sign in (1, -1):
                moved = [a.copy(), b.copy()]
                moved[index][i] += sign * step * abs(moved[index][i] or 1)
                parts.append(float(loss(*map(tf.constant, moved))[i]))
            size = 2 * step * abs([a, b][index][i] or 1)
            numeric = (parts[0] - parts[1]) / size
            np.testing.assert_allclose(
                grad[i], numeric, rtol=1e-3, atol=2e-4, err_msg=f"{name} {index} {i}"
            )


def test_the_loss_and_the_metric_are_means_over_entries():
    p = tv.DistributionTensor(tfd.Independent(tfd.Normal(LOC, SCALE), 1))
    scores = normal_scores()
    assert float(tv.CRPS()(Y, p)) == pytest.approx(scores.mean(), rel=1e-5)
    each = tv.CRPS(reduction=None)(Y, p)
    np.testing.assert_allclose(each, scores.mean(1), rtol=1e-5)
    metric = tv.CRPS()
    metric.update_state(Y, p)
    assert float(metric.result()) == pytest.approx(scores.mean(), rel=1e-5)


def test_weights_of_examples_and_of_entries():
    p = tfd.Independent(tfd.Normal(LOC, SCALE), 1)
    scores = normal_scores()
    rows, cells = np.array([1.0, 0.0, 3.0]), np.array([[1.0, 0], [0, 2], [1, 1]])
    loss = tv.CRPS()
    assert float(loss(Y, p, rows)) == pytest.approx((scores.mean(1) * rows).mean())
    assert float(loss(Y, p, cells)) == pytest.approx((scores * cells).mean(), rel=1e-5)
    for weights, want in (
        (rows, np.average(scores.mean(1), weights=rows)),
        (rows[:, None], np.average(scores.mean(1), weights=rows)),
        (cells, np.average(scores, weights=cells)),
    ):
        metric = tv.CRPS()
        metric.update_state(Y, p, weights)
        assert float(metric.result()) == pytest.approx(want, rel=1e-5)


def test_a_square_batch_is_weighted_by_rows():
    p = tfd.Independent(tfd.Normal(LOC[:2], SCALE[:2]), 1)
    rows = np.array([1.0, 0.0])
    want = (normal_scores()[:2].mean(1) * rows).mean()
    assert float(tv.CRPS()(Y[:2], p, rows)) == pytest.approx(want, rel=1e-5)


def test_a_mask_is_applied_as_in_the_likelihood():
    p = tv.DistributionTensor(tfd.Independent(tfd.Normal(LOC, SCALE), 1), "mean")
    value = tf.convert_to_tensor(p)
    p._keras_mask = tf.constant([True, False, True])
    assert value.shape == (3, 2)
    want = normal_scores()[[0, 2]].mean()
    assert float(tv.CRPS()(Y, p)) == pytest.approx(want, rel=1e-5)
    metric = tv.CRPS()
    metric.update_state(Y, p)
    assert float(metric.result()) == pytest.approx(want, rel=1e-5)


def test_columns_are_vectors():
    p = tfd.Independent(tfd.Normal(LOC[:, :1], SCALE[:, :1]), 1)
    want = normal_scores()[:, 0].mean()
    assert float(tv.CRPS()(Y[:, 0], p)) == pytest.approx(want, rel=1e-5)
    flat = tfd.Normal(LOC[:, 0], SCALE[:, 0])
    assert float(tv.CRPS()(Y[:, :1], flat)) == pytest.approx(want, rel=1e-5)


def regression(loss, metrics=(), cls=tv.Sequential, layer=None, rate=0.05, **options):
    keras.utils.set_random_seed(1)
    layer = layer or tv.IndependentNormal(1)
    model = cls([keras.Input((2,)), keras.layers.Dense(layer.parameters_width), layer])
    model.compile(
        keras.optimizers.Adam(rate), loss=loss, metrics=list(metrics), **options
    )
    return model


def regression_data(n=203):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2)).astype("float32")
    y = (x @ [1.0, -2.0] + 0.5 + 0.3 * rng.normal(size=n)).astype("float32")
    return x, y


@pytest.mark.parametrize("cls", [tv.Sequential, keras.Sequential])
def test_one_name_trains_and_reports(cls, tmp_path):
    x, y = regression_data()
    model = regression(tv.CRPS(), [tv.CRPS(), tv.Coverage(0.9)], cls)
    epochs = 40 if cls is tv.Sequential else 1
    history = model.fit(x, y, epochs=epochs, batch_size=50, verbose=0).history
    assert set(history) == {"loss", "crps", "coverage_0.9"}
    # The metric is the mean over all examples, with a short last batch.
    found = model.evaluate(x, y, batch_size=50, verbose=0, return_dict=True)
    p = model(x)
    loc, scale = p.mean().numpy()[:, 0], p.stddev().numpy()[:, 0]
    z = (y - loc) / scale
    want = scale * (
        z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5
    )
    assert found["crps"] == pytest.approx(want.mean(), rel=1e-4)
    assert found["loss"] == pytest.approx(want.mean(), rel=1e-4)
    # 0.3 times the score of a standard normal at its own draws, 1 / sqrt(pi).
    if epochs > 1:
        assert want.mean() == pytest.approx(0.3 / np.sqrt(np.pi), rel=0.15)
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.models.load_model(path)
    again_found = again.evaluate(x, y, batch_size=50, verbose=0, return_dict=True)
    assert again_found == pytest.approx(found, rel=1e-5)


def test_weighted_metrics_weigh():
    x, y = regression_data(60)
    weights = np.repeat([0.0, 2.0], 30)
    model = regression(tv.NegativeLogLikelihood(), weighted_metrics=[tv.CRPS()])
    found = model.evaluate(
        x, y, sample_weight=weights, batch_size=25, verbose=0, return_dict=True
    )["crps"]
    plain = regression(tv.CRPS())
    want = plain.evaluate(x[30:], y[30:], verbose=0)
    assert found == pytest.approx(want, rel=1e-4)


def test_draws_train_a_law_without_a_closed_form():
    rng = np.random.default_rng(0)
    y = rng.beta(8.0, 2.0, size=400).astype("float32")
    x = np.zeros((400, 2), "float32")
    layer = tv.IndependentKumaraswamy(1)
    model = regression(tv.CRPS(num_samples=20, seed=0), layer=layer, rate=0.2)
    model.fit(x, y, epochs=70, batch_size=100, verbose=0)
    p = model(x[:1])
    at = p.quantile(np.array([0.1, 0.5, 0.9])[:, None]).numpy().ravel()
    np.testing.assert_allclose(at, np.quantile(y, [0.1, 0.5, 0.9]), atol=0.05)


@pytest.mark.parametrize("name", ["CRPS", "EnergyScore"])
def test_configs_round_trip(name):
    score = getattr(tv, name)(num_samples=7, seed=3, reduction="sum", name="a")
    config = keras.saving.serialize_keras_object(score)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(score)
    assert again.get_config() == score.get_config()


def test_the_energy_score_is_that_of_draws_without_bias():
    """Of N(0, I) in two dimensions at y = 0: (1 - 1/sqrt(2)) sqrt(pi/2)."""
    n = 20_000
    p = tfd.MultivariateNormalDiag(tf.zeros([n, 2]))
    for num_samples in (2, 5):
        metric = tv.EnergyScore(num_samples=num_samples, seed=1)
        metric.update_state(np.zeros((n, 2)), p)
        want = (1 - 2**-0.5) * np.sqrt(np.pi / 2)
        assert float(metric.result()) == pytest.approx(want, abs=0.025)


def test_the_energy_score_of_numbers_is_the_crps():
    n = 20_000
    p = tfd.Normal(tf.zeros(n), 1.0)
    score = tv.EnergyScore(num_samples=6, seed=1)(np.zeros(n), p)
    assert float(score) == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi), abs=0.02)


def test_the_energy_score_trains_and_has_finite_gradients():
    def loss(loc):
        p = tfd.MultivariateNormalDiag(loc, 0 * loc)  # all draws are y
        return tv.EnergyScore(num_samples=3, seed=0)(tf.zeros([2, 2]), p)

    (grad,) = gradient(loss, np.zeros((2, 2), "float32"))
    assert np.all(np.isfinite(grad))
    rng = np.random.default_rng(0)
    y = rng.normal(size=(300, 1)) + 0.1 * rng.normal(size=(300, 2))
    layer = tv.MultivariateNormalTriL(2)
    model = regression(tv.EnergyScore(num_samples=20, seed=0), layer=layer)
    model.fit(np.zeros((300, 2), "float32"), y, epochs=40, batch_size=100, verbose=0)
    covariance = model(np.zeros((1, 2), "float32")).covariance().numpy()[0]
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert correlation > 0.8  # 0.99 in truth


@pytest.mark.parametrize("score", [tv.CRPS(num_samples=4), tv.EnergyScore(4)])
def test_xla_compiles_draws(score):
    @tf.function(jit_compile=True)
    def step(a):
        with tf.GradientTape() as tape:
            tape.watch(a)
            p = tfd.Independent(tv.distributions.Kumaraswamy(a, a), 1)
            value = score(tf.fill(tf.shape(a), 0.5), p)
        return value, tape.gradient(value, a)

    first, gradient = step(tf.ones([3, 2]))
    assert np.all(np.isfinite(gradient))
    assert float(first) != float(step(tf.ones([3, 2]))[0])  # other draws


@pytest.mark.parametrize("name", ["normal", "student", "negative binomial", "inflated"])
def test_xla_compiles_closed_forms(name):
    a, b = tf.constant([0.3, 1.0]), tf.constant([1.0, 2.0])
    y = tf.constant([1.0, 3.0])

    def score(a, b):
        return crps_of_entries(FAMILIES[name](a, b), y)

    np.testing.assert_allclose(
        tf.function(score, jit_compile=True)(a, b), score(a, b), rtol=1e-5
    )


def test_mistakes_are_explained():
    p = tfd.Independent(tfd.Normal(LOC, SCALE), 1)
    with pytest.raises(ValueError, match=r"`CRPS` expects values.*Received.*Reshape"):
        tv.CRPS()(np.zeros((3, 3)), p)
    with pytest.raises(ValueError, match=r"`CRPS` expects values without NaN"):
        tv.CRPS()(np.full((3, 2), np.nan), p)
    with pytest.raises(ValueError, match=r"`CRPS` expects `sample_weight`.*Received"):
        tv.CRPS()(Y, p, np.ones(2))
    with pytest.raises(ValueError, match=r"whole examples.*Received.*use `CRPS`"):
        tv.EnergyScore()(Y, p, np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"distribution.*Received"):
        tv.CRPS()(Y, tf.zeros([3, 2]))
    for cls in (tv.CRPS, tv.EnergyScore):
        with pytest.raises(ValueError, match=r"integer of at least 2.*Received"):
            cls(num_samples=1)
    binomial = tfd.Binomial(tf.fill([3, 2], 9.0), probs=0.3)
    with pytest.raises(ValueError, match=r"closed form.*Received.*Binomial.*metrics"):
        tv.CRPS()(Y, binomial)
    with pytest.raises(ValueError, match=r"gradient.*Received.*Binomial.*metrics"):
        tv.EnergyScore()(Y, binomial)


def test_components_that_all_members_share():
    weights = np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]], "float32")
    p = tfd.MixtureSameFamily(
        tfd.Categorical(probs=weights), tfd.Normal([0.0, 1.0], [1.0, 0.5])
    )
    y = np.array([0.3, -1.0, 2.0], "float32")
    for i, row in enumerate(weights):
        one = tfd.MixtureSameFamily(
            tfd.Categorical(probs=row), tfd.Normal([0.0, 1.0], [1.0, 0.5])
        )
        found = float(crps_of_entries(p, y)[i])
        assert found == pytest.approx(float(crps_of_entries(one, y[i])), rel=1e-5)
    classes = tfd.MixtureSameFamily(
        tfd.Categorical(probs=weights), tfd.Categorical(probs=[[0.7, 0.3], [0.1, 0.9]])
    )
    want = weights @ np.array([[0.7, 0.3], [0.1, 0.9]])
    np.testing.assert_allclose(class_probs(classes), want, rtol=1e-5)


def test_pairs_of_many_components_are_not_all_made_at_once():
    x, sizes = tf.random.stateless_normal([20, 3, 300], [1, 2]), []

    def distance(a, b):
        found = abs(a[0] - b[0])
        sizes.append(tf.size(found))
        return found

    weights = tf.fill([300], 1 / 300)
    found = sum_over_pairs(distance, weights, (x,), (x + 1,))
    assert max(sizes) == 20 * 3 * 300
    values = x.numpy().astype("float64")
    want = abs(values[..., :, None] - values[..., None, :] - 1).mean(axis=(-2, -1))
    np.testing.assert_allclose(found, want, rtol=1e-4)


@pytest.mark.parametrize("components", [3, 50])
def test_draws_of_many_components_have_the_score_of_one(components):
    p = tfd.MixtureSameFamily(
        tfd.Categorical(logits=np.linspace(0, 1, components, dtype="float32")),
        tfd.Uniform([-1.0] * components, 2.0),
    )
    found = float(crps_of_entries(p, tf.constant(0.4), num_samples=20_000))
    assert found == pytest.approx(integrated(stats.uniform(-1, 3), 0.4), abs=0.01)
