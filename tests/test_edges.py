"""Numbers at the edge of floating point: parameters that are huge, draws at an end."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, special, stats

import tfp_vae as tv
from tfp_vae.constraints import bounded
from tfp_vae.distributions import (
    Beta,
    DirichletMultinomial,
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


ENDS = [(0.0, 1.0), (0.0, INF), (-INF, 0.5), (-INF, INF)]
OF_A_TRUNCATED_NORMAL = {
    "quantile": lambda p, level: p.quantile(level),
    "mean": lambda p, _: p.mean(),
    "variance": lambda p, _: p.variance(),
    "entropy": lambda p, _: p.entropy(),
    "log_prob": lambda p, x: p.log_prob(x),
    "log_cdf": lambda p, x: p.log_cdf(x),
}


@pytest.mark.parametrize("name", OF_A_TRUNCATED_NORMAL)
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("loc", [-0.3, 0.4, 1.3])
def test_the_gradients_of_a_truncated_normal_are_finite_differences(loc, ends, name):
    def value(loc, scale, x):
        p = TruncatedNormal(loc, scale, *np.float64(ends))
        return OF_A_TRUNCATED_NORMAL[name](p, x)

    point = [tf.constant(v, tf.float64) for v in (loc, 0.2, 0.3)]
    found = tfp.math.value_and_gradient(value, point)[1]
    for i, gradient in enumerate(found):
        step = [1e-6 * (i == j) for j in range(3)]
        up, down = (
            value(*[v + sign * s for v, s in zip(point, step, strict=True)])
            for sign in (1, -1)
        )
        want = (up - down) / 2e-6
        found_here = 0.0 if gradient is None else gradient
        np.testing.assert_allclose(found_here, want, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (3.0, 0.5), (-2.0, 0.1)])
def test_a_truncated_normal_may_have_an_infinite_end(loc, scale, ends):
    p = TruncatedNormal(np.float32(loc), np.float32(scale), *np.float32(ends))
    scale = np.float64(np.float32(scale))
    law = stats.truncnorm(*((np.array(ends) - loc) / scale), loc, scale)
    levels = np.array([0.0, 0.01, 0.5, 0.99, 1.0])
    x = law.ppf(levels)
    np.testing.assert_allclose(p.quantile(levels), x, rtol=1e-5, atol=1e-7)
    near = law.ppf([1e-9, 0.2, 0.8]).astype("float32")
    for name, theirs in {"log_prob": law.logpdf, "log_cdf": law.logcdf}.items():
        np.testing.assert_allclose(
            getattr(p, name)(near), theirs(np.float64(near)), rtol=1e-3, atol=1e-5
        )
    np.testing.assert_allclose(p.mean(), law.mean(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(p.stddev(), law.std(), rtol=1e-4)
    inner = law.ppf((np.arange(20_000) + 0.5) / 20_000)
    np.testing.assert_allclose(p.entropy(), -law.logpdf(inner).mean(), rtol=1e-3)
    draws = p.sample(20_000, seed=(1, 2)).numpy().astype("float64")
    assert stats.kstest(draws, law.cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    ("loc", "scale", "low", "high", "jit"),
    [
        (0.0, 1.0, 0.0, 1e8, False),
        (0.0, 1.0, -1e8, 0.0, True),
        (-3e-4, 1e-5, 0.0, 1.0, False),
        (1000.5, 100.0, 1000.0, 1001.0, False),
        (0.0, 2e-38, -1.0, 0.0, False),
        (0.0, 2e-38, 0.0, 1.0, True),
    ],
)
def test_draws_from_a_long_interval_are_inside(loc, scale, low, high, jit):
    """In float32; those that would be rounded to an end are the numbers next to it."""

    def draw(loc):
        with tf.GradientTape() as tape:
            tape.watch(loc)
            p = TruncatedNormal(loc, np.float32(scale), low, high)
            x = p.sample(20_000, seed=tf.constant([1, 2]))
        return x, p.log_prob(x), tape.gradient(x, loc)

    draw = tf.function(draw, jit_compile=True) if jit else draw
    x, log_prob, gradient = draw(tf.constant(loc))
    assert ((x > low) & (x < high)).numpy().all()
    assert np.isfinite(log_prob).all()
    assert np.isfinite(gradient)
    if scale > 1e-30 and abs(low) < 1000.0:  # else some are moved, or rounded much
        loc, scale = np.float64(np.float32([loc, scale]))
        law = stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)
        assert stats.kstest(np.float64(x), law.cdf).pvalue > 1e-4


@pytest.mark.parametrize("loc", [-1e4, 50.0, 3e3])
def test_the_density_far_from_a_truncated_normal(loc):
    """SciPy's formula works in the tails too."""
    p = TruncatedNormal(np.float64(loc), np.float64(1.0), 0.0, 1.0)
    x = np.linspace(0.0, 1.0, 5)
    expected = stats.truncnorm(-loc, 1.0 - loc, loc, 1.0).logpdf(x)
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-3, 1.0, 10.0, 30.0, 1e3, 1e5, 1e8, 1e15])
def test_a_dirichlet_multinomial_of_any_concentration(size):
    """Against Gamma(a + x) / Gamma(a) = a (a + 1) ... (a + x - 1)."""
    a = np.array([[0.2, 0.3, 0.5]], "float32") * np.float32(size)
    x = np.array([[1, 2, 3], [0, 0, 6]])

    def of_factors(f):
        parts = [[sum(f(ai + j) for j in range(xi)) for ai, xi in row] for row in rows]
        whole = sum(f(np.float64(a).sum() + j) for j in range(6))
        return np.array(parts), whole

    rows = [list(zip(np.float64(a[0]), counts, strict=True)) for counts in x]
    parts, whole = of_factors(np.log)
    ways = special.gammaln(7) - special.gammaln(x + 1).sum(-1)
    variable = tf.Variable(a)
    with tf.GradientTape() as tape:
        log_prob = DirichletMultinomial(6.0, variable).log_prob(x.astype("float32"))
    np.testing.assert_allclose(log_prob, ways + parts.sum(-1) - whole, rtol=3e-5)
    slopes, slope = of_factors(lambda factor: 1 / factor)
    found = tape.gradient(log_prob, variable)[0]
    tolerance = 1e-6 * abs(slopes).max()
    np.testing.assert_allclose(found, (slopes - slope).sum(0), 1e-5, tolerance)


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


@pytest.mark.parametrize("jit_compile", [False, True])
def test_probabilities_and_deviations_of_a_kumaraswamy(jit_compile):
    a = np.float32([0.5, 1.0, 2.0, 30.0, 300.0, 1e4, 3e4, 1e6, 1.0, 2.0, 1e4])
    b = np.float32([0.3, 0.25, 3.0, 5.0, 5.0, 5.0, 0.5, 2.0, 1e8, 1e6, 1e4])
    levels = np.float32([[1e-6], [0.05], [0.5], [0.95]])

    @tf.function(jit_compile=jit_compile)
    def found(a, b, x):
        p = Kumaraswamy(a, b)
        names = ("survival_function", "log_survival_function", "cdf", "log_cdf")
        probabilities = [getattr(p, name)(x) for name in (*names, "log_prob")]
        return p.stddev(), p.quantile(levels), probabilities

    x = -np.expm1(np.log1p(-np.float64(levels)) / b)
    x = (x ** (1 / np.float64(a))).astype("float32")
    stddev, quantiles, probabilities = found(a, b, x)
    np.testing.assert_allclose(quantiles, x, rtol=1e-5)
    a, b, x = np.float64(a), np.float64(b), np.float64(x)
    log_above = np.log(-np.expm1(a * np.log(x)))
    log_above = np.where(x**a < 0.5, np.log1p(-(x**a)), log_above)
    log_sf = b * log_above
    truths = [np.exp(log_sf), log_sf, -np.expm1(log_sf), np.log(-np.expm1(log_sf))]
    truths += [np.log(a * b) + (a - 1) * np.log(x) + (b - 1) * log_above]
    for ours, truth in zip(probabilities, truths, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=2e-5, atol=1e-30)
    for sd, a_i, b_i in zip(stddev.numpy(), a, b, strict=True):
        # x - 1, which has the same deviation and does not lose digits.
        def of(u, a=a_i, b=b_i):
            return np.expm1(np.log(-np.expm1(np.log1p(-u) / b)) / a)

        mean = integrate.quad(of, 0, 1, epsabs=0)[0]
        variance = integrate.quad(lambda u, m=mean: (of(u) - m) ** 2, 0, 1, epsabs=0)
        np.testing.assert_allclose(sd, np.sqrt(variance[0]), rtol=1e-4)


@pytest.mark.parametrize("x", [1e-6, 0.3, 0.99, 1.0 - 2.0**-24])
def test_gradients_of_kumaraswamy_probabilities_are_finite(x):
    for a in (0.5, 1.0, 5.0):
        for name in ("log_prob", "log_cdf", "log_survival_function", "quantile"):
            values = [tf.constant(value) for value in (a, 3.0, x)]
            with tf.GradientTape() as tape:
                tape.watch(values)
                found = getattr(Kumaraswamy(*values[:2]), name)(values[2])
            gradients = tape.gradient(found, values)
            given = [g for g in [found, *gradients] if g is not None]
            assert np.isfinite(given).all(), name


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
