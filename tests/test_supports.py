"""Supports, and pairs of laws that do not share one."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv
from tfp_vae.kl.divergence import kl_divergence
from tfp_vae.latents import center
from tfp_vae.supports import Support, support_of

tfd, tfb = tfp.distributions, tfp.bijectors
INF = float("inf")


def flow(kind):
    return tv.Flow(kind).transform_distribution(tfd.MultivariateNormalDiag([0.0, 0.0]))


def simplex():
    return tfd.RelaxedOneHotCategorical(0.5, logits=[0.0, 0.0])


def mixture(of=tfd.Normal, *rest):
    return tfd.MixtureSameFamily(tfd.Categorical([0.0, 0.0]), of([0.0, 1.0], *rest))


def several(components):
    return tfd.Mixture(tfd.Categorical([0.0, 0.0]), components)


def chain(first):
    return tfd.MarkovChain(first, lambda _, state: first, num_steps=3)


def model_of_states(observed):
    ones = tf.zeros([2]), tf.zeros([2, 2])
    return tfd.HiddenMarkovModel(*(tfd.Categorical(one) for one in ones), observed, 3)


def autoregressive(law, sample0=None):
    return tfd.Autoregressive(lambda *_: law, sample0, num_steps=2)


LAWS = {
    "real numbers": [
        tfd.Normal(0.0, 1.0),
        tfd.Laplace(0.0, 1.0),
        tfd.Logistic(0.0, 1.0),
        tfd.StudentT(3.0, 0.0, 1.0),
        tfd.Cauchy(0.0, 1.0),
        tfd.Gumbel(0.0, 1.0),
        tfd.MultivariateNormalTriL([0.0, 0.0]),
        tfd.Independent(tfd.Normal([0.0], 1.0), 1),
        tfb.Shift(2.0)(tfd.Normal(0.0, 1.0)),
        flow("maf"),
        flow("iaf"),
        flow("realnvp"),
        flow("spline"),
        mixture(tfd.Normal, 1.0),
        tfb.Shift(2.0)(mixture(tfd.Normal, 1.0)),
        tv.Flow("maf").transform_distribution(tfd.Sample(mixture(tfd.Normal, 1.0), 2)),
        mixture(lambda loc: tfd.BatchBroadcast(flow("maf"), [len(loc)])),
        tfd.BatchReshape(tfd.Sample(flow("maf"), 2), [1]),
        tfd.BatchReshape(mixture(tfd.Normal, 1.0), [1]),
        tfd.Masked(mixture(tfd.Normal, 1.0), True),
        model_of_states(tfd.Normal([0.0, 1.0], 1.0)),
        model_of_states(
            tfd.MixtureSameFamily(
                tfd.Categorical(tf.zeros([2, 2])), tfd.Normal(tf.zeros([2, 2]), 1.0)
            )
        ),
        autoregressive(tfd.Independent(tfd.Normal([0.0], 1.0), 1)),
        autoregressive(tfd.Sample(mixture(tfd.Normal, 1.0), 2), tf.zeros([2])),
    ],
    "real numbers from 0 to inf": [
        tfb.Exp()(mixture(tfd.Normal, 1.0)),
        tfd.BatchReshape(tfb.Softplus()(mixture(tfd.Normal, 1.0)), [1]),
        tfd.Gamma(1.0, 1.0),
        tfd.LogNormal(0.0, 1.0),
        tfd.Exponential(1.0),
        tfd.HalfNormal(1.0),
        tfd.HalfCauchy(0.0, 1.0),
        tfd.InverseGamma(1.0, 1.0),
        tfd.Weibull(1.0, 1.0),
    ],
    "real numbers from 1 to inf": [
        tfd.Pareto(1.0, 1.0),
        tfb.Shift(1.0)(tfd.Gamma(1.0, 1.0)),
        tfb.Shift(1.0)(mixture(tfd.Gamma, 1.0)),
    ],
    "real numbers from 0 to 1": [
        tfd.Beta(1.0, 1.0),
        tfd.Kumaraswamy(1.0, 1.0),
        tfd.ContinuousBernoulli(0.0),
        tfd.LogitNormal(0.0, 1.0),
        tfd.TruncatedNormal(0.0, 1.0, 0.0, 1.0),
        tfd.Uniform(),
        tfd.Sample(tfd.Beta(1.0, 1.0), 3),
        tfb.Sigmoid()(tfd.Normal(0.0, 1.0)),
        tfb.Sigmoid()(tfb.Scale(2.0)(tfd.Laplace(0.0, 1.0))),
    ],
    "real numbers from -1 to 2": [tfd.Uniform(-1.0, 2.0), tfd.Uniform([-1.0, 0], 2.0)],
    "the unit sphere": [
        tfd.SphericalUniform(3),
        tv.distributions.VonMisesFisher([1.0, 0.0], 1.0),
        tv.distributions.PowerSpherical([1.0, 0.0], 1.0),
        tfd.VonMisesFisher([1.0, 0.0], 1.0),
    ],
    "single points": [tfd.Independent(tfd.Deterministic([0.0]), 1)],
    "the simplex": [tfd.Dirichlet([1.0, 1.0]), simplex()],
    "logarithms on the simplex": [tfd.ExpRelaxedOneHotCategorical(1.0, [0.0, 0.0])],
    "discrete values": [
        tfd.Bernoulli(0.0),
        tfd.Poisson(1.0),
        tfd.OneHotCategorical([0.0, 0.0]),
        tfd.NegativeBinomial(1.0, 0.0),
        tfd.Multinomial(2.0, [0.0, 0.0]),
        tv.distributions.QuantizedLogistic(0.0, 1.0),
        mixture(tfd.Poisson),
        tfb.Shift(1.0)(mixture(tfd.Poisson)),
        tfb.Exp()(tfd.Poisson(1.0)),
        tfd.BatchReshape(tfd.Poisson(1.0), [1]),
        tfd.Masked(tfd.Poisson(1.0), True),
        model_of_states(tfd.Poisson([1.0, 2.0])),
        autoregressive(tfd.Independent(tfd.Bernoulli([0.0]), 1)),
    ],
    "None": [
        tfb.Softsign()(tfd.Normal(0.0, 1.0)),
        tfd.Blockwise([tfd.Normal(0.0, 1.0), tfd.Beta(1.0, 1.0)]),
        tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0)]),
        several([tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 2.0)]),
        tfb.Exp()(several([tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 2.0)])),
        tfd.Masked(several([tfd.Poisson(1.0), tfd.Gamma(1.0, 1.0)]), True),
        several([flow("maf"), flow("maf")]),
        chain(mixture(tfd.Normal, 1.0)),
    ],
}
CASES = [(expected, law) for expected, laws in LAWS.items() for law in laws]


@pytest.mark.parametrize(
    ("expected", "law"), CASES, ids=[f"{law.name}: {e}" for e, law in CASES]
)
def test_support_of(expected, law):
    assert str(support_of(law)) == expected


@pytest.mark.parametrize(
    ("expected", "law"), [(e, law) for e, law in CASES if " from " in e]
)
def test_draws_are_in_the_support(expected, law):
    del expected
    draws = law.sample(1000, seed=(1, 2)).numpy()
    support = support_of(law)
    assert draws.min() >= support.low
    assert draws.max() <= support.high


def test_an_end_that_is_not_known_yet_excludes_nothing():
    supports = []

    @tf.function
    def trace(high):
        supports.append(support_of(tfd.Uniform(0.0, high)))

    trace(tf.constant(0.5))
    assert np.isnan(supports[0].high)
    assert supports[0].contains(Support("real numbers", 0.0, 1.0))
    assert not supports[0].contains(Support("real numbers", -1.0, 1.0))


@pytest.mark.parametrize(
    ("posterior", "prior", "message"),
    [
        (
            tfd.Independent(tfd.Normal(tf.zeros(3), 1.0), 1),
            tfd.Sample(tfd.Beta(2.0, 1.0), 3),
            r"posterior=Independent\(Normal\), on real numbers; prior=Sample\(Beta\), "
            "on real numbers from 0 to 1",
        ),
        (tfd.Normal(0.0, 1.0), tfd.Gamma(1.0, 1.0), "on real numbers from 0 to inf"),
        (tfd.Gamma(1.0, 1.0), tfd.Uniform(0.0, 9.0), "prior=Uniform.*from 0 to 9"),
        (tfd.Uniform(-1.0, 1.0), tfd.Beta(1.0, 1.0), "from -1 to 1.*from 0 to 1"),
        (
            tv.distributions.PowerSpherical([1.0, 0.0, 0.0], 1.0),
            tfd.MultivariateNormalDiag(tf.zeros(3)),
            "on the unit sphere; prior=MultivariateNormalDiag",
        ),
        (
            tfd.MultivariateNormalDiag(tf.zeros(3)),
            tfd.SphericalUniform(3),
            "prior=SphericalUniform, on the unit sphere",
        ),
        (simplex(), tfd.MultivariateNormalDiag(tf.zeros(2)), "on the simplex"),
        (
            tfd.OneHotCategorical([0.0, 0.0], dtype=tf.float32),
            tfd.Dirichlet([1.0, 1.0]),
            "on discrete values",
        ),
        (
            tfd.Blockwise([tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 1.0)]),
            tfd.Blockwise([tfd.Normal(0.0, 1.0), tfd.Beta(1.0, 1.0)]),
            "prior=Beta",
        ),
        (
            tfd.Blockwise([tfd.Normal(0.0, 1.0), tfd.Normal(0.0, 1.0)]),
            tfd.Sample(tfd.Beta(2.0, 1.0), 2),
            r"prior=Sample\(Beta\)",
        ),
        (
            tfd.Blockwise([tfd.Normal(0.0, 1.0), tfd.SphericalUniform(2)]),
            tfd.MultivariateNormalDiag(tf.zeros(3)),
            "posterior=SphericalUniform, on the unit sphere",
        ),
        (flow("maf"), tfd.Sample(tfd.Beta(2.0, 1.0), 2), "from 0 to 1"),
        (
            tfd.Normal(0.0, 1.0),
            tfb.Sigmoid()(tfd.Normal(0.0, 1.0)),
            "on real numbers from 0 to 1",
        ),
        (tfd.Normal(0.0, 1.0), tfd.Deterministic(0.0), "on single points"),
    ],
)
@pytest.mark.parametrize("exact", [None, True, False])
def test_another_support_is_an_error(posterior, prior, message, exact):
    expected = f"a density wherever the posterior draws. Received.*{message}"
    with pytest.raises(ValueError, match=expected):
        kl_divergence(posterior, prior, use_exact_kl=exact)


@pytest.mark.parametrize(
    ("posterior", "prior"),
    [
        (tfd.Beta(2.0, 2.0), tfd.Normal(0.0, 1.0)),
        (tfd.Beta(2.0, 2.0), tfd.Gamma(1.0, 1.0)),
        (tfd.Gamma(1.0, 1.0), tfd.Normal(0.0, 1.0)),
        (tfd.TruncatedNormal(0.0, 1.0, 0.0, 1.0), tfd.Beta(2.0, 1.0)),
        (tfd.Normal(0.0, 1.0), tfd.StudentT(3.0, 0.0, 1.0)),
        (tfd.Deterministic(0.5), tfd.Normal(0.0, 1.0)),
        (
            tfd.Blockwise([tfd.Normal(0.0, 1.0), tfd.Beta(2.0, 2.0)]),
            tfd.MultivariateNormalDiag(tf.zeros(2)),
        ),
        (
            tfd.Blockwise([tfd.Sample(tfd.Normal(0.0, 1.0), 2), tfd.Normal(0.0, 1.0)]),
            tfd.Blockwise([tfd.Normal(0.0, 1.0), tfd.Sample(tfd.Normal(0.0, 1.0), 2)]),
        ),
    ],
)
def test_a_support_inside_the_priors_is_right(posterior, prior):
    assert np.isfinite(kl_divergence(posterior, prior))


def test_the_layer_says_so_when_the_model_runs():
    layer = tv.KLDivergenceAddLoss(tfd.Sample(tfd.Beta(2.0, 1.0), 3))
    q = tv.IndependentNormal(3)(tf.zeros([2, 6]))
    with pytest.raises(ValueError, match="Choose a posterior on real numbers from 0"):
        layer(q)


def test_inflated_counts_are_discrete():
    p = tfd.Inflated(tfd.Poisson([0.2, 6.5]), inflated_loc_probs=[0.1, 0.1])
    assert str(support_of(p)) == "discrete values"
    np.testing.assert_array_equal(center(tfd.Independent(p, 1)), [0.0, 6.0])
    with pytest.warns(UserWarning, match="not discrete"):
        q = tfd.Inflated(tfd.Gamma(2.0, 1.0), inflated_loc_probs=0.1)
    assert support_of(q) is None
