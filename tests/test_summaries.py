import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv

tfd = tfp.distributions
PROBABILITIES = np.array([1e-3, 0.05, 0.3, 0.5, 0.9, 0.999], "float32")


def predicted(layer, n=3, seed=3):
    """A batch of distributions from random parameters."""
    rng = np.random.default_rng(seed)
    return layer(tf.constant(rng.normal(size=(n, layer.parameters_width)), tf.float32))


CONTINUOUS = {
    "normal": lambda event: tv.IndependentNormal(event),
    "laplace": lambda event: tv.IndependentLaplace(event),
    "logistic": lambda event: tv.IndependentLogistic(event),
    "student": lambda event: tv.IndependentStudentT(event),
    "log-normal": lambda event: tv.IndependentLogNormal(event),
    "gamma": lambda event: tv.IndependentGamma(event),
    "beta": lambda event: tv.IndependentBeta(event),
    "kumaraswamy": lambda event: tv.IndependentKumaraswamy(event),
    "truncated": lambda event: tv.IndependentTruncatedNormal(event, low=-1.0, high=2.0),
    "continuous bernoulli": lambda event: tv.IndependentContinuousBernoulli(event),
    "relaxed": lambda event: tv.IndependentRelaxedBernoulli(event, temperature=0.5),
    "mixture of normals": lambda event: tv.MixtureNormal(3, event),
    "mixture of logistics": lambda event: tv.MixtureLogistic(2, event),
    "mixture of gammas": lambda event: tv.MixtureSameFamily(
        2, tv.IndependentGamma(event)
    ),
    "mixture of mixtures": lambda event: tv.MixtureSameFamily(
        2, tv.MixtureNormal(2, event)
    ),
}


@pytest.mark.parametrize("event", [(), 1, (1, 1)], ids=str)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_quantiles_are_what_draws_fall_below(name, event):
    p = predicted(CONTINUOUS[name](event))
    at = p.quantile(PROBABILITIES[:, None])
    rank = p.event_shape.rank
    assert at.shape == (len(PROBABILITIES), 3, *[1] * rank)
    np.testing.assert_allclose(
        p.cdf(at), np.repeat(PROBABILITIES[:, None], 3, 1), rtol=2e-3, atol=2e-4
    )
    np.testing.assert_allclose(
        p.survival_function(at), 1 - p.cdf(at).numpy(), rtol=2e-3, atol=2e-4
    )
    draws = p.sample(20_000, seed=5).numpy()
    below = (draws[:, None] <= at.numpy()).mean(0).reshape(len(PROBABILITIES), 3)
    deviation = np.sqrt(PROBABILITIES * (1 - PROBABILITIES) / 20_000)
    assert np.all(abs(below - PROBABILITIES[:, None]) < 5 * deviation[:, None])


def test_the_quantile_of_a_mixture_is_that_of_scipy():
    weights, locs, scales = [0.3, 0.7], [-2.0, 3.0], [0.5, 2.0]
    p = tv.DistributionTensor(
        tfd.MixtureSameFamily(tfd.Categorical(probs=weights), tfd.Normal(locs, scales))
    )

    def cdf(x):
        return sum(
            w * scipy.stats.norm(loc, scale).cdf(x)
            for w, loc, scale in zip(weights, locs, scales, strict=True)
        )

    for q in (1e-6, 0.01, 0.3, 0.5, 0.99, 1 - 1e-4):
        want = scipy.optimize.brentq(lambda x, q=q: cdf(x) - q, -20, 20)
        np.testing.assert_allclose(p.quantile(q), want, atol=2e-3, rtol=1e-4)


def test_tails_keep_their_digits():
    p = tv.IndependentNormal(1)(tf.zeros([1, 2]))
    scale = float(p.stddev()[0, 0])
    far = tf.constant([[12.0 * scale]])
    want = scipy.stats.norm.logsf(12.0)
    np.testing.assert_allclose(p.log_survival_function(far), [want], rtol=1e-4)
    mixture = tv.MixtureNormal(2, 1)(tf.zeros([1, 6]))
    np.testing.assert_allclose(mixture.log_survival_function(far), [want], rtol=1e-4)


def test_a_quantile_of_several_coordinates_says_where_it_is():
    p = tv.IndependentNormal(2)(tf.zeros([3, 4]))
    with pytest.raises(
        NotImplementedError, match=r"expects.*Received.*p\.distribution"
    ):
        p.quantile(0.5)
    assert p.distribution.quantile(0.5).shape == (3, 2)


def test_the_covariance_of_independent_coordinates_is_diagonal():
    p = predicted(tv.IndependentGamma((2, 2)))
    want = [np.diag(row.ravel()) for row in p.variance().numpy()]
    np.testing.assert_allclose(p.covariance(), want)
    draws = p.sample(50_000, seed=2).numpy().reshape(50_000, 3, 4)
    for i in range(3):
        np.testing.assert_allclose(
            np.cov(draws[:, i].T), want[i], atol=0.05 * want[i].max()
        )


BLOCKS = [
    tv.IndependentNormal(2),
    tv.IndependentBernoulli(1),
    tv.IndependentPoisson((1, 2)),
    tv.MultivariateNormalTriL(2),
]


def test_moments_of_blocks_are_those_of_draws():
    p = predicted(tv.Blockwise(BLOCKS))
    draws = p.sample(100_000, seed=4).numpy()
    assert p.mean().shape == p.stddev().shape == p.variance().shape == (3, 7)
    error = 6 * draws.std(0) / np.sqrt(len(draws))
    assert np.all(abs(p.mean().numpy() - draws.mean(0)) < error)
    np.testing.assert_allclose(p.stddev(), draws.std(0), rtol=0.03)
    np.testing.assert_allclose(p.variance(), draws.var(0), rtol=0.06)
    covariance = p.covariance().numpy()
    assert covariance.shape == (3, 7, 7)
    for i in range(3):
        np.testing.assert_allclose(
            covariance[i], np.cov(draws[:, i].T), atol=0.03 * covariance[i].max()
        )


def test_the_mode_of_blocks_has_the_highest_density():
    p = predicted(tv.Blockwise([tv.IndependentNormal(2), tv.IndependentBernoulli(2)]))
    mode = p.mode()
    highest = p.log_prob(mode).numpy()
    others = p.log_prob(p.sample(500, seed=1)).numpy()
    assert np.all(highest >= others - 1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        tv.IndependentPoisson(1, zero_inflated=True),
        tv.IndependentNegativeBinomial(1, zero_inflated=True),
        tv.QuantizedLogistic(1, low=0, high=30),
    ],
    ids=lambda layer: layer.description,
)
def test_the_mode_of_a_count_is_its_most_probable_value(layer):
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(40, layer.parameters_width)) * 3
    p = layer(tf.constant(raw, tf.float32))
    values = np.arange(layer.high + 1 if hasattr(layer, "high") else 2_000.0)
    table = p.log_prob(tf.constant(values, tf.float32)[:, None, None]).numpy()
    found = p.mode().numpy()[:, 0]
    at_mode = p.log_prob(found[:, None]).numpy()
    np.testing.assert_allclose(at_mode, table.max(0), rtol=1e-5)


def test_the_quantile_of_a_quantized_law_is_the_first_integer_that_reaches_it():
    p = predicted(tv.QuantizedLogistic(1, low=0, high=20), n=30)
    values = np.arange(21, dtype="float32")
    cdf = np.exp(p.log_prob(tf.constant(values)[:, None, None]).numpy()).cumsum(0)
    for q in (0.05, 0.5, 0.93):
        want = (cdf >= q - 1e-6).argmax(0)
        near = abs(cdf - q).min(0) < 1e-4
        found = p.quantile(q).numpy()[:, 0]
        assert np.all((found == want) | near)


@pytest.mark.parametrize(
    ("name", "method"),
    list(itertools.product(["normal", "gamma"], ["mean", "mode", "stddev", "entropy"])),
)
def test_what_tfp_has_is_unchanged(name, method):
    p = predicted(CONTINUOUS[name](2))
    same = getattr(p.tensor_distribution, method)()
    np.testing.assert_array_equal(getattr(p, method)(), same)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_the_outermost_quantiles_are_the_ends_of_the_support(level):
    mixture = tv.MixtureSameFamily(2, tv.IndependentBeta(1))
    np.testing.assert_allclose(predicted(mixture).quantile(level), level)
    end = predicted(tv.MixtureNormal(2, 1)).quantile(level)
    assert np.all(end == (np.inf if level else -np.inf))


@pytest.mark.parametrize(
    "layer",
    [
        tv.IndependentPoisson(1),
        tv.QuantizedLogistic(1, num_components=2),
        tv.MixtureSameFamily(2, tv.IndependentPoisson(1)),
        tv.PowerSpherical(3),
    ],
    ids=lambda layer: layer.description,
)
def test_a_quantile_that_is_not_known_is_an_error(layer):
    with pytest.raises(NotImplementedError, match=r"`quantile` expects.*Received"):
        predicted(layer).quantile(0.5)


@pytest.mark.parametrize("name", ["normal", "mixture of normals"])
def test_a_number_is_a_value_of_every_member(name):
    p = predicted(CONTINUOUS[name](1))
    for method in ("cdf", "log_cdf", "survival_function", "log_survival_function"):
        whole = getattr(p, method)(np.full((3, 1), 0.3, "float32"))
        np.testing.assert_allclose(getattr(p, method)(0.3), whole)
        with pytest.raises(ValueError, match=r"last axes are \(1,\).*Received"):
            getattr(p, method)(np.zeros(3, "float32"))


def test_quantiles_where_a_component_is_beyond_the_largest_number():
    two = tfd.Categorical(probs=[0.6, 0.4])
    far = tv.DistributionTensor(
        tfd.MixtureSameFamily(two, tfd.LogNormal([0.0, 100.0], [1.0, 1.0]))
    )
    want = scipy.stats.lognorm(1.0).ppf(0.5 / 0.6)
    np.testing.assert_allclose(far.quantile(0.5), want, rtol=1e-4)
    heavy = tv.DistributionTensor(
        tfd.MixtureSameFamily(two, tfd.StudentT([0.05, 5.0], 0.0, 1.0))
    )
    for level in (0.05, 0.3, 0.95):
        np.testing.assert_allclose(heavy.cdf(heavy.quantile(level)), level, rtol=1e-3)


def test_quantiles_in_double_precision():
    layer = tv.MixtureNormal(2, 1, dtype="float64")
    p = layer(np.random.default_rng(0).normal(size=(4, layer.parameters_width)) * 3)
    for level in (1e-8, 0.3, 0.9):
        np.testing.assert_allclose(p.cdf(p.quantile(level)), level, rtol=1e-10)


@pytest.mark.parametrize("layer", [tv.IndependentNormal(1), tv.MixtureNormal(2, ())])
def test_levels_that_do_not_fit_the_batch_say_how_to_shape_them(layer):
    with pytest.raises(ValueError, match=r"expects probab.*Received.*\[:, None\]"):
        predicted(layer, n=5).quantile([0.05, 0.95])
