"""Numbers at the edge of floating point: parameters that are huge, draws at an end."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, stats

import tfp_vae as tv
from tfp_vae.constraints import bounded
from tfp_vae.distributions import (
    Beta,
    Kumaraswamy,
    NegativeBinomial,
    Poisson,
    TruncatedNormal,
)
from tfp_vae.entries import quantile_of_entries

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("raw", [2.2e7, -2.2e7, 1e8, 3e38, INF, -INF])
def test_clipping_is_exact_and_lets_the_gradient_pass(raw):
    x = tf.Variable(raw)
    with tf.GradientTape() as tape:
        y = bounded(x, -1.25, 1.25)
    assert float(y) == np.sign(raw) * 1.25
    assert float(tape.gradient(y, x)) == 1.0


def test_clipping_keeps_nan():
    assert np.isnan(float(bounded(tf.constant(NAN), 0.0, 1.0)))


def truncated(loc, scale):
    """Log-normaliser, mean and variance on [0, 1] by quadrature in float64."""
    peak = np.clip(loc, 0.0, 1.0)

    def weight(x):
        return np.exp(-((x - peak) * (x + peak - 2 * loc)) / (2 * scale**2))

    points = np.clip(peak + scale * np.array([-6.0, -1.0, 1.0, 6.0]), 0.0, 1.0)

    def integral(f):
        options = {"points": points, "limit": 500, "epsabs": 0, "epsrel": 1e-10}
        return integrate.quad(f, 0.0, 1.0, **options)[0]

    total = integral(weight)
    mean = integral(lambda x: x * weight(x)) / total
    variance = integral(lambda x: (x - mean) ** 2 * weight(x)) / total
    return np.log(total) - (peak - loc) ** 2 / (2 * scale**2), mean, variance


@pytest.mark.parametrize("loc", [-2.0, 0.0, 0.4, 1.0, 3.0, 1e3])
@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 2.0, 1e2, 1e4, 1e6, 1e8])
def test_a_truncated_normal_of_any_scale(loc, scale):
    if abs(loc) > 30 * scale:
        loc = 30 * scale
    p = TruncatedNormal(np.float32(loc), np.float32(scale), 0.0, 1.0)
    log_total, mean, variance = truncated(*map(np.float64, (p.loc, p.scale)))
    x = np.linspace(0.0, 1.0, 9, dtype="float32")
    expected = -((x - np.float64(p.loc)) ** 2) / (2 * scale**2) - log_total
    tolerance = 1e-5 + 3e-7 * np.abs(expected).max()
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-5, atol=tolerance)
    np.testing.assert_allclose(p.mean(), mean, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(p.variance(), variance, rtol=1e-4)
    draws = p.sample(20_000, seed=(1, 2)).numpy()
    assert abs(draws.mean() - mean) < 5 * np.sqrt(variance / 20_000)


@pytest.mark.parametrize("loc", [-0.3, -1.4, 0.4, 1.3, 2.4])
@pytest.mark.parametrize("scale", [0.05, 0.2, 1.0, 1e2])
def test_probabilities_of_a_truncated_normal_are_those_of_scipy(loc, scale):
    p = TruncatedNormal(np.float32(loc), np.float32(scale), 0.0, 1.0)
    loc, scale = np.float64(p.loc), np.float64(p.scale)
    law = stats.truncnorm(-loc / scale, (1 - loc) / scale, loc, scale)
    levels = np.array([0.001, 0.1, 0.5, 0.9, 0.999], "float32")
    x = law.ppf(levels.astype("float64")).astype("float32")
    np.testing.assert_allclose(p.quantile(levels), x, rtol=1e-5)
    x = np.array([-1.0, 0.0, *x, 1.0, 2.0], "float32")
    for name, theirs in {
        "cdf": law.cdf,
        "survival_function": law.sf,
        "log_cdf": law.logcdf,
        "log_survival_function": law.logsf,
    }.items():
        found, want = getattr(p, name)(x), theirs(x.astype("float64"))
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("level", [1e-3, 0.5, 0.999])
def test_quantiles_of_a_beta_are_those_of_scipy(level):
    """TFP's may be far off at a level of exactly 1/2."""
    a, b = np.exp(np.random.default_rng(0).uniform(-1, 5, (2, 300))).astype("float32")
    want = stats.beta(a.astype("float64"), b).ppf(np.float64(np.float32(level)))
    np.testing.assert_allclose(Beta(a, b).quantile(level), want, rtol=1e-5)
    found = quantile_of_entries(tfp.distributions.Beta(a, b), level)
    np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize("level", [0.1, 0.7])
@pytest.mark.parametrize("loc", [-0.3, 0.4, 1.3])
def test_the_gradient_of_a_quantile_is_that_of_finite_differences(loc, level):
    def quantile(loc, scale, level):
        return TruncatedNormal(loc, scale, np.float64(0.0), np.float64(1.0)).quantile(
            level
        )

    point = [tf.constant(v, tf.float64) for v in (loc, 0.2, level)]
    found = tfp.math.value_and_gradient(quantile, point)[1]
    for i, gradient in enumerate(found):
        step = [1e-6 * (i == j) for j in range(3)]
        up, down = (
            quantile(*[v + sign * s for v, s in zip(point, step, strict=True)])
            for sign in (1, -1)
        )
        np.testing.assert_allclose(gradient, (up - down) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("loc", [-1e4, 50.0, 3e3])
def test_the_density_far_from_a_truncated_normal(loc):
    """SciPy's formula works in the tails too."""
    p = TruncatedNormal(np.float64(loc), np.float64(1.0), 0.0, 1.0)
    x = np.linspace(0.0, 1.0, 5)
    expected = stats.truncnorm(-loc, 1.0 - loc, loc, 1.0).logpdf(x)
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-6)


@pytest.mark.parametrize("law", [Beta, Kumaraswamy])
@pytest.mark.parametrize("a", [1e-2, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("b", [1e-2, 1.0, 1e4, 1e8])
def test_draws_of_an_open_interval_are_inside(law, a, b):
    parameters = tf.constant([a, b])
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        p = law(parameters[0], parameters[1])
        x = p.sample(1000, seed=(3, 4))
        loss = tf.reduce_mean(p.log_prob(x))
    assert ((x > 0.0) & (x < 1.0)).numpy().all()
    assert np.isfinite(float(loss))
    if min(a, b) >= 1:  # Otherwise the density is infinite at an end.
        assert np.isfinite(tape.gradient(loss, parameters)).all()


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.7), (2.0, 5.0), (1.0, 1e8), (30.0, 0.2)])
def test_kumaraswamy_draws_have_their_distribution(a, b):
    p = Kumaraswamy(np.float64(a), np.float64(b))
    x = p.sample(20_000, seed=(5, 6)).numpy()
    found = stats.kstest(x, lambda x: -np.expm1(b * np.log1p(-(x**a))))
    assert found.pvalue > 1e-4
    density = np.log(a * b) + (a - 1) * np.log(x) + (b - 1) * np.log1p(-(x**a))
    np.testing.assert_allclose(p.log_prob(x), density, rtol=1e-6, atol=1e-6)
    drawn, log_prob = p.experimental_sample_and_log_prob(100, seed=(7, 8))
    np.testing.assert_allclose(log_prob, p.log_prob(drawn), rtol=1e-12)


def test_a_kumaraswamy_at_its_ends():
    """As TFP: a factor with exponent 0 is 1."""
    ours, theirs = Kumaraswamy(1.0, 2.0), tfp.distributions.Kumaraswamy(1.0, 2.0)
    np.testing.assert_allclose(ours.log_prob(0.0), theirs.log_prob(0.0))
    assert float(Kumaraswamy(3.0, 1.0).log_prob(1.0)) == pytest.approx(np.log(3.0))


def test_a_truncated_normal_too_far_out_has_no_moments():
    p = TruncatedNormal(-100.0, 1.0, 0.0, 5.0)
    assert np.isnan([float(p.mean()), float(p.variance())]).all()


@pytest.mark.parametrize("zero_inflated", [False, True])
@pytest.mark.parametrize("bad", [INF, -INF, NAN])
def test_draws_of_counts_always_return(bad, zero_inflated):
    """An infinite log rate is that of the limit, NaN stays NaN."""
    for layer in (tv.IndependentPoisson, tv.IndependentNegativeBinomial):
        made = layer(2, zero_inflated=zero_inflated)
        width = made.parameters_width
        parameters = np.zeros((width, width), "float32")
        np.fill_diagonal(parameters, bad)
        draws = made(parameters).sample(3, seed=(1, 2)).numpy()
        assert draws.shape == (3, width, 2)
        assert np.isnan(draws).any() == np.isnan(bad)
    for rate in (INF, 1e39):
        assert np.isposinf(Poisson(rate=rate).sample(seed=(1, 2)).numpy())
    assert np.isposinf(Poisson(log_rate=100.0).sample(seed=(1, 2)).numpy())
    assert np.isposinf(NegativeBinomial(5.0, logits=100.0).sample(seed=(1, 2)).numpy())
