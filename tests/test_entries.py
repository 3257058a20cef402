"""Entries' distribution functions and quantiles against SciPy."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import optimize, special, stats

import tfp_vae as tv
from tfp_vae.entries import cdf_of_entries, quantile_of_entries, survival_of_entries
from tfp_vae.incomplete_gamma import incomplete_gamma, quantile_of_gamma

tfd = tfp.distributions
tfb = tfp.bijectors
LOC = np.array([[0.0, -1.0], [2.0, 0.5], [30.0, -0.2]], "float32")
SCALE = np.array([[1.0, 0.3], [2.0, 5.0], [0.1, 1.0]], "float32")
LEVELS = np.array([0.001, 0.1, 0.5, 0.8, 0.999])


def mixture_cdf(weights, laws):
    return lambda x: sum(w * law.cdf(x) for w, law in zip(weights, laws, strict=True))


def scipy_mixture(weights, laws):
    def ppf(level):
        level = np.asarray(level)
        low = np.min(
            [law.ppf(level * np.ones(laws[0].mean().shape)) for law in laws], 0
        )
        high = np.max(
            [law.ppf(level * np.ones(laws[0].mean().shape)) for law in laws], 0
        )
        cdf = mixture_cdf(weights, laws)
        found = np.empty(low.shape)
        for index in np.ndindex(low.shape):
            f = lambda x, i=index: cdf(np.full(low.shape, x))[i] - level.ravel()[0]  # noqa: E731
            found[index] = optimize.brentq(f, low[index] - 1e-9, high[index] + 1e-9)
        return found

    class Law:
        cdf = staticmethod(mixture_cdf(weights, laws))

    Law.ppf = staticmethod(ppf)
    return Law


NORMAL = stats.norm(LOC, SCALE)
TRIL = np.array([[1.0, 0.0], [0.8, 0.5]], "float32")
# Ours, SciPy's.
CONTINUOUS = {
    "independent": (tfd.Independent(tfd.Normal(LOC, SCALE), 1), NORMAL),
    "scalars": (tfd.Normal(LOC, SCALE), NORMAL),
    "wrapped": (
        tv.DistributionTensor(tfd.Independent(tfd.Normal(LOC, SCALE), 1)),
        NORMAL,
    ),
    "diagonal": (tfd.MultivariateNormalDiag(LOC, SCALE), NORMAL),
    "full": (
        tfd.MultivariateNormalTriL(LOC, TRIL),
        stats.norm(LOC, np.sqrt((TRIL**2).sum(-1))),
    ),
    "multivariate t": (
        tfd.MultivariateStudentTLinearOperator(
            [3.0, 4.0, 5.0], LOC, tf.linalg.LinearOperatorLowerTriangular(TRIL)
        ),
        stats.t([[3.0], [4.0], [5.0]], LOC, np.sqrt((TRIL**2).sum(-1))),
    ),
    "sample": (
        tfd.Sample(tfd.Normal(LOC[:, 0], SCALE[:, 0]), 2),
        stats.norm(LOC[:, :1] * np.ones(2), SCALE[:, :1]),
    ),
    "sample of vectors": (
        tfd.Sample(tfd.Independent(tfd.Laplace(LOC, SCALE), 1), 4),
        stats.laplace(LOC[:, None] * np.ones([4, 1]), SCALE[:, None]),
    ),
    "log-normal": (
        tfd.Independent(tfd.LogNormal(LOC / 10, SCALE), 1),
        stats.lognorm(SCALE, scale=np.exp(LOC / 10)),
    ),
    "transformed vector": (
        tfd.TransformedDistribution(
            tfd.MultivariateNormalDiag(LOC / 10, SCALE), tfb.Exp()
        ),
        stats.lognorm(SCALE, scale=np.exp(LOC / 10)),
    ),
    "decreasing": (
        tfd.TransformedDistribution(
            tfd.Sample(tfd.Gumbel(LOC[:, 0], 2.0), 2), tfb.Scale(-1.0)
        ),
        stats.gumbel_l(-LOC[:, :1] * np.ones(2), 2.0),
    ),
    "gamma": (
        tfd.Independent(tfd.Gamma(SCALE + 0.2, 3.0), 1),
        stats.gamma(SCALE + 0.2, scale=1 / 3.0),
    ),
    "student": (
        tfd.Independent(tfd.StudentT(3.0, LOC, SCALE), 1),
        stats.t(3.0, LOC, SCALE),
    ),
    "truncated": (
        tfd.Independent(
            tv.distributions.TruncatedNormal(LOC[:2], SCALE[:2], -2.0, 3.0), 1
        ),
        stats.truncnorm(
            (-2 - LOC[:2]) / SCALE[:2], (3 - LOC[:2]) / SCALE[:2], LOC[:2], SCALE[:2]
        ),
    ),
    "beta": (tfd.Beta(SCALE + 0.5, 2.0), stats.beta(SCALE + 0.5, 2.0)),
    "inverse gaussian": (
        tfd.InverseGaussian([1.0, 2.0], 2.0),
        stats.invgauss(np.array([0.5, 1.0]), scale=2.0),
    ),
    "modified normal": (
        tfd.ExponentiallyModifiedGaussian([0.0, 1.0], 2.0, 0.5),
        stats.exponnorm(1.0, np.array([0.0, 1.0]), 2.0),
    ),
    "triangular": (
        tfd.Triangular([0.0, -1.0], 3.0, 2.0),
        stats.triang(np.array([2 / 3, 3 / 4]), [0.0, -1.0], [3.0, 4.0]),
    ),
    "half t": (tfd.HalfStudentT([3.0], 0.0, 2.0), None),
    "blocks": (
        tfd.Blockwise(
            [
                tfd.Independent(tfd.Normal(LOC, SCALE), 1),
                tfd.Sample(tfd.Laplace(LOC[:, 1], 2.0), [1, 1]),
            ]
        ),
        None,
    ),
}
WEIGHTS = np.array([0.3, 0.7], "float32")
CATEGORICAL = tfd.Categorical(probs=WEIGHTS)
BOTH = [stats.norm(LOC, SCALE), stats.norm(LOC - 2, 3 * SCALE)]
CONTINUOUS["mixture of one family"] = (
    tfd.MixtureSameFamily(
        CATEGORICAL,
        tfd.Independent(
            tfd.Normal(np.stack([LOC, LOC - 2], 1), np.stack([SCALE, 3 * SCALE], 1)),
            1,
        ),
    ),
    scipy_mixture(WEIGHTS, BOTH),
)
CONTINUOUS["mixture of multivariate normals"] = (
    tfd.MixtureSameFamily(
        CATEGORICAL,
        tfd.MultivariateNormalDiag(
            np.stack([LOC, LOC - 2], 1), np.stack([SCALE, 3 * SCALE], 1)
        ),
    ),
    scipy_mixture(WEIGHTS, BOTH),
)
CONTINUOUS["mixture of classes"] = (
    tfd.Mixture(
        tfd.Categorical(probs=np.tile(WEIGHTS, [3, 1])),
        [
            tfd.Independent(tfd.Normal(LOC, SCALE), 1),
            tfd.MultivariateNormalDiag(LOC - 2, 3 * SCALE),
        ],
    ),
    scipy_mixture(WEIGHTS, BOTH),
)


@pytest.mark.parametrize(
    "name", [name for name, (_, theirs) in CONTINUOUS.items() if theirs is not None]
)
def test_continuous_entries_are_those_of_scipy(name):
    ours, theirs = CONTINUOUS[name]
    shape = (*ours.batch_shape, *ours.event_shape)
    for level in LEVELS:
        at = theirs.ppf(np.full(shape, level))
        assert at.shape == shape
        np.testing.assert_allclose(
            quantile_of_entries(ours, level), at, rtol=2e-3, atol=2e-4
        )
        np.testing.assert_allclose(
            cdf_of_entries(ours, at), theirs.cdf(at), rtol=1e-3, atol=1e-5
        )
        np.testing.assert_allclose(
            survival_of_entries(ours, at), 1 - theirs.cdf(at), rtol=1e-3, atol=1e-5
        )


def test_entries_of_blocks_are_those_of_the_blocks():
    p = CONTINUOUS["blocks"][0]
    x = np.random.default_rng(0).normal(size=(3, 3))
    want = np.concatenate(
        [NORMAL.cdf(x[:, :2]), stats.laplace(LOC[:, 1:], 2.0).cdf(x[:, 2:])], 1
    )
    np.testing.assert_allclose(cdf_of_entries(p, x), want, rtol=1e-4, atol=1e-6)
    at = quantile_of_entries(p, 0.9)
    np.testing.assert_allclose(at[:, :2], NORMAL.ppf(0.9), rtol=1e-4)
    np.testing.assert_allclose(
        at[:, 2:], stats.laplace(LOC[:, 1:], 2.0).ppf(0.9), rtol=1e-4
    )


RATE = np.array([[0.3, 4.0], [900.0, 12.0]], "float32")
PROBS = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]], "float32")
TABLE = [
    stats.rv_discrete(values=(range(3), row / row.sum()))
    for row in PROBS.astype("float64")
]
DISCRETE = {
    "poisson": (tfd.Independent(tfd.Poisson(RATE), 1), stats.poisson(RATE)),
    "our poisson": (
        tfd.Independent(tv.distributions.Poisson(RATE), 1),
        stats.poisson(RATE),
    ),
    "negative binomial": (
        tfd.Independent(tv.distributions.NegativeBinomial(RATE, probs=0.4), 1),
        stats.nbinom(RATE, 0.6),
    ),
    "binomial": (tfd.Binomial(20.0, probs=[0.1, 0.7]), stats.binom(20, [0.1, 0.7])),
    "geometric": (tfd.Geometric(probs=[0.1, 0.7]), stats.geom([0.1, 0.7], loc=-1)),
    "bernoulli": (
        tfd.Independent(tfd.Bernoulli(probs=[[0.5, 0.3]]), 1),
        stats.bernoulli([[0.5, 0.3]]),
    ),
    "sample of counts": (
        tfd.Sample(tfd.Poisson(RATE[:, 0]), 3),
        stats.poisson(RATE[:, :1] * np.ones(3)),
    ),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_counts_are_those_of_scipy(name):
    ours, theirs = DISCRETE[name]
    shape = (*ours.batch_shape, *ours.event_shape)
    for level in LEVELS:
        at = theirs.ppf(np.full(shape, level))
        found = quantile_of_entries(ours, level).numpy()
        # Either of two neighbours if float32 cannot tell the cdf from the level.
        close = abs(theirs.cdf(np.minimum(found, at)) - level) < 1e-5
        np.testing.assert_array_equal(np.where(close, at, found), at)
        assert np.all(abs(found - at) <= 1)
        for x in (at, at + 0.6, -1.0 + 0 * at):
            np.testing.assert_allclose(
                cdf_of_entries(ours, x), theirs.cdf(x), rtol=1e-3, atol=1e-5
            )


LARGE = {
    "gamma": (tfd.Gamma(1e5, 2.0), stats.gamma(1e5, scale=0.5)),
    "larger gamma": (tfd.Gamma(1e6, 2.0), stats.gamma(1e6, scale=0.5)),
    "inverse gamma": (tfd.InverseGamma(1e6, 3.0), stats.invgamma(1e6, scale=3.0)),
    "beta": (tfd.Beta(1e5, 2e5), stats.beta(1e5, 2e5)),
    "poisson": (tfd.Poisson(1e5), stats.poisson(1e5)),
    "larger poisson": (tfd.Poisson(1e7), stats.poisson(1e7)),
    "binomial": (tfd.Binomial(1e6, probs=0.25), stats.binom(1e6, 0.25)),
    "counts": (
        tfd.NegativeBinomial(1.0, logits=np.float32(np.log(1e6))),
        stats.nbinom(1, 1 / (1 + 1e6)),
    ),
    "student": (tfd.StudentT(1e5, 3.0, 2.0), stats.t(1e5, 3.0, 2.0)),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_parameters_keep_their_digits(name):
    ours, theirs = LARGE[name]
    for level in LEVELS:
        at = theirs.ppf(level).astype("float32")
        np.testing.assert_allclose(quantile_of_entries(ours, level), at, rtol=1e-5)
        exact = theirs.cdf(at.astype("float64"))
        np.testing.assert_allclose(cdf_of_entries(ours, at), exact, rtol=1e-4)
        survival = survival_of_entries(ours, at)
        np.testing.assert_allclose(survival, 1 - exact, rtol=1e-4)


@pytest.mark.parametrize("alpha", [2.0, 50.0, 990.0, 1e3 + 1, 1e5, 1e7])
def test_incomplete_gamma_functions_and_their_gradients_are_those_of_scipy(alpha):
    x = np.maximum(alpha + np.sqrt(alpha) * np.linspace(-4.0, 4.0, 9), 0.1)
    a, x = tf.fill([9], tf.constant(alpha, tf.float64)), tf.constant(x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([a, x])
        found = incomplete_gamma(a, x)
    for part, exact in zip(found, (special.gammainc, special.gammaincc), strict=True):
        np.testing.assert_allclose(part, exact(alpha, x), rtol=1e-8)
        step = 1e-3 * np.sqrt(alpha)
        moved = [exact(alpha + step, x), exact(alpha - step, x)]
        slope = (moved[0] - moved[1]) / (2 * step)
        size = 1 / np.sqrt(alpha)
        np.testing.assert_allclose(tape.gradient(part, a), slope, atol=1e-5 * size)
        moved = [exact(alpha, x + step), exact(alpha, x - step)]
        slope = (moved[0] - moved[1]) / (2 * step)
        np.testing.assert_allclose(tape.gradient(part, x), slope, atol=1e-5 * size)
    levels = np.array([0.01, 0.5, 0.99])
    exact = special.gammaincinv(alpha, levels)
    np.testing.assert_allclose(quantile_of_gamma(alpha, levels), exact, rtol=1e-8)


def test_incomplete_gamma_functions_at_the_ends():
    for alpha in (5.0, 1e6):
        for x, expected in ((0.0, (0, 1)), (np.inf, (1, 0))):
            assert tuple(map(float, incomplete_gamma(alpha, x))) == expected
        assert np.isnan(incomplete_gamma(alpha, np.nan)).all()
    assert np.isnan(incomplete_gamma(np.nan, 1.0)).all()


def test_logarithms_are_accurate_in_the_tails():
    p = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.5, 0.5]), tfd.Normal([0.0, 0.0], [1.0, 0.5])
    )
    want = np.log(0.5) + stats.norm.logcdf(-30.0)  # the other is far below
    np.testing.assert_allclose(cdf_of_entries(p, -30.0, log=True), want, rtol=1e-5)
    found = survival_of_entries(p, 30.0, log=True)
    np.testing.assert_allclose(found, want, rtol=1e-5)


def test_categories_are_ordered_numbers():
    p = tfd.Categorical(probs=PROBS)
    for level in LEVELS:
        want = [law.ppf(level) for law in TABLE]
        np.testing.assert_array_equal(quantile_of_entries(p, level), want)
    for x in (-1.0, 0.0, 0.5, 1.0, 2.0, 9.0):
        want = [law.cdf(x) for law in TABLE]
        np.testing.assert_allclose(cdf_of_entries(p, x), want, rtol=1e-6)


def test_a_median_on_a_long_step_is_its_first_value():
    # The cdf is 1/2 from about 20 to about 800.
    p = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.5, 0.5]), tfd.Poisson([1.0, 1000.0])
    )
    assert 8 <= float(quantile_of_entries(p, 0.4999999)) <= 15
    assert float(quantile_of_entries(p, 0.25)) == stats.poisson(1.0).ppf(0.5)
    assert float(quantile_of_entries(p, 0.75)) == stats.poisson(1000.0).ppf(0.5)


def test_extra_zeros_are_counted():
    p = tfd.Inflated(tfd.Poisson([3.0, 5.0]), inflated_loc_probs=[0.3, 0.4])
    x = np.arange(9.0)[:, None]
    inflated, rate = np.array([0.3, 0.4]), np.array([3.0, 5.0])
    want = inflated + (1 - inflated) * stats.poisson(rate).cdf(x)
    np.testing.assert_allclose(cdf_of_entries(p, x * np.ones(2)), want, rtol=1e-5)
    np.testing.assert_array_equal(quantile_of_entries(p, 0.35), [1.0, 0.0])
    first = np.argmax(want >= 0.7, axis=0)
    np.testing.assert_array_equal(quantile_of_entries(p, 0.7), first)


def test_points_need_not_be_integers():
    p = tfd.FiniteDiscrete([1.0, 2.5], probs=[0.4, 0.6])
    np.testing.assert_allclose(
        quantile_of_entries(p, [0.3, 0.7]), [1.0, 2.5], rtol=1e-5
    )
    p = tfd.Empirical([1.0, 2.0, 2.0, 5.0])
    np.testing.assert_allclose(
        quantile_of_entries(p, [0.2, 0.5, 0.9]), [1.0, 2.0, 5.0], rtol=1e-5
    )


def test_values_outside_of_the_support_have_probability_zero_or_one():
    for p in (
        tfd.Gamma(2.0, 1.0),
        tfd.LogNormal(0.0, 1.0),
        tfd.LogLogistic(0.0, 1.0),
        tfd.Kumaraswamy(2.0, 3.0),
        tfd.Beta(2.0, 3.0),
        tv.distributions.Kumaraswamy(2.0, 3.0),
        tfd.RelaxedBernoulli(0.5, probs=0.3),
    ):
        assert float(cdf_of_entries(p, -1.0)) == 0.0
        assert float(cdf_of_entries(p, 1e9)) == pytest.approx(1.0, abs=1e-4)
    assert float(cdf_of_entries(tfd.Beta(2.0, 3.0), 1.5)) == 1.0


def test_levels_and_values_have_axes_in_front():
    p, law = CONTINUOUS["independent"]
    at = quantile_of_entries(p, LEVELS)
    np.testing.assert_allclose(at, law.ppf(LEVELS[:, None, None]), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(cdf_of_entries(p, at), law.cdf(at.numpy()), rtol=1e-3)
    assert cdf_of_entries(p, 0.0).shape == (3, 2)


def test_graphs_of_any_batch_size():
    @tf.function(input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([None, 2])])
    def both(rate, x):
        p = tfd.Independent(tfd.Poisson(rate), 1)
        return cdf_of_entries(p, x), quantile_of_entries(p, 0.9)

    cdf, at = both(RATE, RATE)
    law = stats.poisson(RATE)
    np.testing.assert_allclose(cdf, law.cdf(RATE), rtol=1e-3)
    np.testing.assert_array_equal(at, law.ppf(0.9))


def test_float64_keeps_its_digits():
    locs, scales = np.array([-1.0, 2.0]), np.array([0.5, 2.0])
    p = tfd.MixtureSameFamily(
        tfd.Categorical(probs=np.array([0.3, 0.7])), tfd.Normal(locs, scales)
    )
    found = quantile_of_entries(p, 0.01)
    assert found.dtype == tf.float64
    laws = [stats.norm(*each) for each in zip(locs, scales, strict=True)]
    cdf = mixture_cdf([0.3, 0.7], laws)
    want = optimize.brentq(lambda x: cdf(x) - 0.01, -9, 9, xtol=1e-14)
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_errors_say_what_to_do():
    flow = tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag(tf.zeros([3, 2])), tfb.Permute([1, 0])
    )
    for p in (
        flow,
        tfd.VonMisesFisher(tf.constant([1.0, 0.0]), 2.0),
        tfd.Skellam(1.0, 2.0),
    ):
        for ask in (
            lambda p=p: cdf_of_entries(p, 0.0),
            lambda p=p: quantile_of_entries(p, 0.5),
        ):
            with pytest.raises(ValueError, match=r"expects.*Received.*Estimate it"):
                ask()
    p = CONTINUOUS["independent"][0]
    for level in (0.0, 1.0, -1, np.nan, [0.5, 2.0], tf.constant(1.5)):
        with pytest.raises(ValueError, match=r"levels between 0 and 1.*Received.*Give"):
            quantile_of_entries(p, level)
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\).*Received.*\(3,\).*Reshape"):
        cdf_of_entries(p, np.zeros(3))


UPPER = {
    "negative binomial": (tfd.NegativeBinomial(3.5, probs=0.4), stats.nbinom(3.5, 0.6)),
    "binomial": (tfd.Binomial(40.0, probs=0.1), stats.binom(40, 0.1)),
    "beta": (tfd.Beta(2.0, 9.0), stats.beta(2, 9)),
    "cauchy": (tfd.Cauchy(1.0, 2.0), stats.cauchy(1, 2)),
}


@pytest.mark.parametrize("name", UPPER)
def test_upper_tails_keep_their_digits(name):
    p, law = UPPER[name]
    values = {"beta": [-0.1, 0.5, 0.99, 1.0], "cauchy": [-1e6, 2.0, 1e6, 1e8]}
    x = np.array(values.get(name, [-1.0, 3.0, 39.0, 40.0, 60.0]), "float32")
    found = survival_of_entries(p, x)
    np.testing.assert_allclose(
        found, law.sf(x.astype("float64")), rtol=2e-5, atol=1e-38
    )
    with np.errstate(divide="ignore"):
        want = law.logsf(x.astype("float64"))
    inside = np.isfinite(want)
    logs = np.asarray(survival_of_entries(p, x, log=True))
    np.testing.assert_allclose(logs[inside], want[inside], rtol=1e-4, atol=1e-6)


def test_quantiles_at_jumps_are_the_smallest_values():
    p = tfd.FiniteDiscrete([-0.3, 0.1, 0.7], probs=[0.25, 0.5, 0.25])
    found = quantile_of_entries(p, [0.1, 0.25, 0.26, 0.75, 0.76, 0.99])
    np.testing.assert_array_equal(found, np.float32([-0.3, -0.3, 0.1, 0.1, 0.7, 0.7]))
    points = np.float32([-2.5, -1e-30, 0.0, 0.5, 1e7 / 3])
    for scale in (1.0, 1e-12, 1e12):
        p = tfd.Empirical(points * np.float32(scale))
        found = quantile_of_entries(p, [0.2, 0.4, 0.6, 0.8, 0.81])
        want = points[[0, 1, 2, 3, 4]] * np.float32(scale)
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-38)


@pytest.mark.parametrize(
    "p",
    [
        tfd.Inflated(tfd.Poisson([np.nan]), inflated_loc_probs=[0.5]),
        tfd.FiniteDiscrete([0.5, 1.0], probs=[[np.nan, 0.5]]),
        tfd.Deterministic([np.nan]),
    ],
    ids=["inflated", "outcomes", "point"],
)
def test_what_is_unknown_has_unknown_quantiles(p):
    assert np.isnan(quantile_of_entries(p, 0.9)).all()
    assert np.isnan(cdf_of_entries(p, 0.7)).all()


def test_unknown_parameters_have_unknown_tails():
    nan = np.float32([np.nan])
    for p in (
        tfd.NegativeBinomial(nan, probs=0.4),
        tfd.NegativeBinomial(3.0, probs=nan),
        tfd.Binomial(nan, probs=0.4),
        tfd.Beta(nan, 2.0),
        tfd.Cauchy(nan, 2.0),
    ):
        assert np.isnan(survival_of_entries(p, 0.5)).all()
    p = tfd.Cauchy(0.0, 1.0)
    np.testing.assert_allclose(
        cdf_of_entries(p, [-1e8, -1.0, 1e8]),
        stats.cauchy.cdf([-1e8, -1, 1e8]),
        rtol=1e-5,
    )
