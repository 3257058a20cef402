"""Laws on the sphere: values, gradients and draws against closed forms and SciPy."""

import itertools

import keras
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, special, stats

from tfp_vae.distributions import PowerSpherical, VonMisesFisher
from tfp_vae.distributions.power_spherical import mean_tilt
from tfp_vae.distributions.sphere import log_area, unit_vector
from tfp_vae.distributions.von_mises_fisher import cosine_moments
from tfp_vae.layers import spherical

tfd = tfp.distributions
LAWS = [VonMisesFisher, PowerSpherical]
LAYERS = [spherical.VonMisesFisher, spherical.PowerSpherical]


def axis(m, sign=1.0, dtype="float32"):
    return sign * np.eye(m, dtype=dtype)[0]


def direction(rng, *shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype("float32")


def length(m, k):
    """A(k) where SciPy's Bessel functions do not underflow."""
    return special.ive(m / 2, k) / special.ive(m / 2 - 1, k)


def length_slope(m, k):
    a = length(m, k)
    return 1 - a**2 - (m - 1) / k * a


def tilt(law, t):
    """What the concentration multiplies in the log-density, at the angle t."""
    if law is VonMisesFisher:
        return -2 * np.sin(t / 2) ** 2
    return 2 * np.log(np.cos(t / 2))


def over_angles(law, m, k, function):
    """Integral of `function` times the unnormalised density of the angle."""

    def density(t):
        return np.exp(k * tilt(law, t)) * np.sin(t) ** (m - 2) * function(t)

    width = np.sqrt(m / (k + 1))
    points = [p for p in (width / 2, width, 2 * width, 5 * width) if p < 3]
    end = np.pi - 1e-12
    return integrate.quad(density, 0, end, points=points, limit=300, epsabs=0)[0]


def mean_of(law, m, k, function):
    return over_angles(law, m, k, function) / over_angles(law, m, k, np.ones_like)


def kl_to_uniform(law, m, k):
    mean = mean_of(law, m, k, lambda t: tilt(law, t))
    uniform = over_angles(law, m, 0.0, np.ones_like)
    return k * mean - np.log(over_angles(law, m, k, np.ones_like) / uniform)


def value_and_gradient(function, x):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y.numpy(), tape.gradient(y, x).numpy()


@pytest.mark.parametrize(
    ("m", "k", "expected"),
    [
        (3, 10, 1.9957),
        (6, 10, 2.5002),
        (11, 10, 2.4383),
        (20, 10, 1.9100),
        (20, 100, 16.9404),
        (50, 80, 19.5152),
        (50, 100, 23.5707),
        (128, 100, 22.8409),
    ],
)
def test_kl_of_von_mises_fisher_to_uniform(m, k, expected):
    q = VonMisesFisher(axis(m), float(k))
    kl = tfd.kl_divergence(q, tfd.SphericalUniform(m)).numpy()
    assert abs(kl - expected) < 6e-5
    a, v = length(m, k), m / 2
    log_c = (v - 1) * np.log(k) - np.log(special.ive(v - 1, k)) - k
    log_c += np.log(2) - v * np.log(2) - special.gammaln(v)
    np.testing.assert_allclose(kl, k * a + log_c, rtol=1e-6)
    np.testing.assert_allclose(q.entropy(), log_area(m) - kl, rtol=1e-5)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("m", [2, 3, 11, 50])
@pytest.mark.parametrize("k", [0.1, 10.0, 1e3, 1e5])
def test_kl_and_entropy_against_quadrature(law, m, k):
    expected = kl_to_uniform(law, m, np.float64(np.float32(k)))
    q, u = law(axis(m), k), tfd.SphericalUniform(m)
    kl = tfd.kl_divergence(q, u)
    np.testing.assert_allclose(kl, expected, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(q.entropy(), log_area(m) - expected, rtol=1e-5)
    if k < 1e5:
        reverse = np.log(over_angles(law, m, k, np.ones_like))
        reverse -= np.log(over_angles(law, m, 0.0, np.ones_like))
        reverse -= k * mean_of(law, m, 0.0, lambda t: tilt(law, t))
        np.testing.assert_allclose(tfd.kl_divergence(u, q), reverse, rtol=1e-6)


def test_gradient_of_the_kl_is_the_closed_form():
    for m, checked in ((3, 19), (20, 15), (128, 12)):
        k = np.geomspace(1e-3, 1e6, 19).astype("float32")

        def kl(k, m=m):
            q = VonMisesFisher(axis(m), k)
            return tfd.kl_divergence(q, tfd.SphericalUniform(m))

        values, gradients = value_and_gradient(kl, k)
        assert np.all(values >= 0)
        assert np.all(np.diff(values) > 0)
        k = k.astype("float64")
        small, large = k < 0.05, k > 30 * m
        bessel = ~small & ~large & (k > m**2 / 100)
        expected = np.full_like(k, np.nan)
        expected[small] = k[small] / m * (1 - 3 * k[small] ** 2 / (m * (m + 2)))
        expected[bessel] = k[bessel] * length_slope(m, k[bessel])
        # A = 1 + a / k + b / k^2 + c / k^3 + ..., from A' = 1 - A^2 - (m - 1) A / k.
        a, b = -(m - 1) / 2, (m - 1) * (m - 3) / 8
        c = -(m - 1) * b / 2 - a * b + b
        series = -a / k - 2 * b / k**2 - 3 * c / k**3
        expected[large] = series[large]
        tolerance = np.where(large, 1e-6 + (m / k) ** 3, 1e-6)
        known = np.isfinite(expected)
        assert known.sum() >= checked
        error = np.abs(gradients / expected - 1)
        assert np.all(error[known] < tolerance[known])


@pytest.mark.parametrize("m", [2, 11])
def test_gradient_of_the_kl_of_power_spherical(m):
    ks = np.array([1e-3, 1.0, 100.0, 1e4, 1e6], "float32")

    def kl(k):
        return tfd.kl_divergence(PowerSpherical(axis(m), k), tfd.SphericalUniform(m))

    values, gradients = value_and_gradient(kl, ks)
    a, k = (m - 1) / 2, ks.astype("float64")
    expected = k * (special.polygamma(1, a + k) - special.polygamma(1, 2 * a + k))
    np.testing.assert_allclose(gradients, expected, rtol=1e-5)
    assert np.all(np.diff(values) > 0)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("m", "k", "other"), [(3, 2.0, 5.0), (20, 50.0, 10.0)])
def test_kl_to_von_mises_fisher_against_monte_carlo(rng, law, m, k, other):
    mu, nu = direction(rng, 2, m)
    q, p = law(mu, k), VonMisesFisher(nu, other)
    n = 50_000
    z = q.sample(n, seed=(1, 2))
    ratios = (q.log_prob(z) - p.log_prob(z)).numpy().astype("float64")
    kl = tfd.kl_divergence(q, p).numpy()
    assert abs(kl - ratios.mean()) < 5 * ratios.std() / np.sqrt(n)
    theirs = getattr(tfd, law.__name__)(mu, k), tfd.VonMisesFisher(nu, other)
    for a in (q, theirs[0]):
        for b in (p, theirs[1]):
            np.testing.assert_allclose(tfd.kl_divergence(a, b), kl, rtol=1e-4)


def test_kl_between_equal_and_concentrated_laws():
    q = VonMisesFisher(axis(5), [0.0, 1.0, 1e6])
    np.testing.assert_array_equal(tfd.kl_divergence(q, q), [0, 0, 0])
    # Two narrow normals in 4 dimensions, at a small angle.
    near = np.array([np.cos(1e-3), np.sin(1e-3), 0, 0, 0], "float32")
    p = VonMisesFisher(near, [1.0, 1.0, 1e6])
    np.testing.assert_allclose(tfd.kl_divergence(q, p)[2], 0.5, rtol=1e-4)


def test_kl_shapes_and_errors():
    u = tfd.SphericalUniform(3, batch_shape=[4])
    for law in LAWS:
        q = law(axis(3), 2.0)
        assert tfd.kl_divergence(q, u).shape == (4,)
        assert tfd.kl_divergence(u, q).shape == (4,)
        with pytest.raises(ValueError, match="one sphere.*Received: event shapes"):
            tfd.kl_divergence(q, tfd.SphericalUniform(4))
    with pytest.raises(NotImplementedError):
        tfd.kl_divergence(q, q)


@pytest.mark.parametrize("m", [2, 3, 6])
def test_log_prob_against_scipy(rng, m):
    mu, x = direction(rng, m), direction(rng, 50, m)
    for k in (0.1, 10.0, 500.0):
        expected = stats.vonmises_fisher(mu.astype("float64"), k).logpdf(x)
        actual = VonMisesFisher(mu, k).log_prob(x)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("m", [2, 3, 11])
@pytest.mark.parametrize("k", [0.0, 0.5, 30.0, 1e6])
def test_densities_integrate_to_one(law, m, k):
    # The law of a point does not change along the circles around mu.
    t = np.linspace(0, np.pi if k < 1e5 else 0.02, 200_001)
    x = np.zeros((t.size, m))
    x[:, 0], x[:, 1] = np.cos(t), np.sin(t)
    x[-1, 1] = 0 if k < 1e5 else x[-1, 1]
    log_prob = law(axis(m, dtype="float64"), np.float64(k)).log_prob(x)
    circles = np.exp(log_area(m - 1)) if m > 2 else 2.0
    total = circles * np.trapezoid(np.exp(log_prob) * np.sin(t) ** (m - 2), t)
    np.testing.assert_allclose(total, 1, rtol=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_log_prob_in_float32_keeps_its_digits(rng, law):
    mu = direction(rng, 8)
    q = law(mu, 1e6)
    z = q.sample(1000, seed=(1, 2))
    exact = law(mu.astype("float64"), np.float64(1e6)).log_prob(
        z.numpy().astype("float64")
    )
    np.testing.assert_allclose(q.log_prob(z), exact, atol=1e-4)
    # Of the exponent, k t^2 / 2 is a chi-square over 2 with m - 1 degrees of freedom.
    scale = 1 if law is VonMisesFisher else 2
    exponent = (q.log_prob(mu) - q.log_prob(z)).numpy() * scale
    assert abs(exponent.mean() - 3.5 * scale) < 5 * np.sqrt(3.5 / 1000) * scale


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("m", [2, 3, 20])
def test_log_prob_is_finite_at_both_ends(law, m):
    for k in (0.0, 1.0, 1e6):
        for x in (axis(m), axis(m, -1.0)):
            log_prob, gradient = value_and_gradient(law(axis(m), k).log_prob, x)
            assert np.isfinite(log_prob)
            assert np.all(np.isfinite(gradient))


def quantile_slope(law, m, k, t):
    """d t / d k at a fixed quantile, by quadrature of the implicit formula."""

    def ratio(s):
        log = k * (tilt(law, s) - tilt(law, t))
        return np.exp(log + (m - 2) * (np.log(np.sin(s)) - np.log(np.sin(t))))

    mean = mean_of(law, m, k, lambda s: tilt(law, s))
    lower = integrate.quad(lambda s: (tilt(law, s) - mean) * ratio(s), 1e-300, t)
    return -lower[0]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("m", [2, 3, 20])
@pytest.mark.parametrize("k", [1.0, 30.0])
def test_gradient_of_each_angle_against_quadrature(law, m, k):
    mu = axis(m, dtype="float64")
    n = 5
    z, gradient = value_and_gradient(
        lambda k: tf.atan2(
            tf.norm((z := law(mu, k).sample(seed=(1, 2)))[..., 1:], axis=-1), z[..., 0]
        ),
        np.full(n, k),
    )
    expected = [quantile_slope(law, m, k, t) for t in z]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


# Small and large dimensions, and each concentration; the other pairs are slow.
OFTEN = [(2, 1.0), (3, 100.0), (5, 10.0), (20, 1.0)]
ALL = itertools.product([2, 3, 5, 10, 20, 50, 100], [1.0, 10.0, 100.0])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("m", "k"), slow.except_for(OFTEN, ALL))
def test_gradient_of_the_mean_in_the_concentration(rng, law, m, k):
    mu, groups, n = direction(rng, m), 100, 1000  # draws in each group

    def means(k):
        z = law(mu, k).sample(n, seed=(1, 2))
        return tf.reduce_mean(tf.linalg.matvec(z, mu), axis=0)

    cosine, gradient = value_and_gradient(means, np.full(groups, k, "float32"))
    if law is VonMisesFisher:
        expected, expected_mean = length_slope(m, k), length(m, k)
    else:
        expected, expected_mean = (m - 1) / (m - 1 + k) ** 2, k / (m - 1 + k)
    error = gradient.std(dtype="float64") / np.sqrt(groups)
    actual = gradient.mean(dtype="float64")
    assert abs(actual - expected) < min(0.01 * expected, 5 * error)
    error = cosine.std(dtype="float64") / np.sqrt(groups)
    assert abs(cosine.mean(dtype="float64") - expected_mean) < 5 * error + 1e-7


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("k", [1e4, 1e6])
def test_gradient_of_a_concentrated_angle(law, k):
    # There k t^2 (for the power spherical k t^2 / 2) is free of k: dt/dk = -t / 2k.
    m, mu = 11, axis(11)

    def angle(k):
        return tf.norm(law(mu, k).sample(seed=(1, 2))[:, 1:], axis=-1)

    t, gradient = value_and_gradient(angle, np.full(1000, k, "float32"))
    np.testing.assert_allclose(gradient, -t / (2 * k), rtol=5 * m / k + 1e-5)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("m", [2, 3, 20])
@pytest.mark.parametrize("k", [0.0, 1e-3, 1.0, 1e6, 1e12])
def test_every_draw_has_finite_gradients(rng, law, m, k):
    n = 5000
    mu, ks = tf.constant(direction(rng, n, m)), tf.fill([n], k)
    with tf.GradientTape() as tape:
        tape.watch([mu, ks])
        z = law(mu, ks).sample(seed=(1, 2))
        value = tf.reduce_sum(z * direction(rng, m))
    for gradient in tape.gradient(value, [mu, ks]):
        assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(tf.norm(z, axis=-1), 1, atol=1e-6)
    concentrated = np.abs(np.sum(z * mu, axis=-1) - 1) < 1e-3
    assert k < 1e6 or np.all(concentrated)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("start", ["axis", "opposite", "random", "equator"])
def test_gradient_of_the_mean_in_the_mean_direction(rng, law, start):
    m, k, n = 4, 3.0, 50_000
    mu = {
        "axis": axis(m),
        "opposite": axis(m, -1.0),
        "random": direction(rng, m),
        "equator": np.eye(m, dtype="float32")[2],
    }[start]
    b = direction(rng, m)

    def along(raw):
        z = law(tf.math.l2_normalize(raw, -1), k).sample(seed=(1, 2))
        return tf.linalg.matvec(z, b)

    raw = tf.tile(mu[tf.newaxis], [n, 1])
    value, gradient = value_and_gradient(along, raw)
    a = length(m, k) if law is VonMisesFisher else k / (m - 1 + k)
    expected = a * (b - np.sum(b * mu) * mu)
    error = gradient.std(0, dtype="float64") / np.sqrt(n)
    assert np.all(np.abs(gradient.mean(0) - expected) < 5 * error + 1e-6)
    assert abs(value.mean() - a * np.sum(b * mu)) < 5 * value.std() / np.sqrt(n)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("m", [2, 3, 8])
def test_moments_of_draws(rng, law, m):
    mu, n = direction(rng, 2, m), 50_000
    q = law(mu, [0.0, 20.0])
    z = q.sample(n, seed=(1, 2)).numpy()
    assert z.shape == (n, 2, m)
    assert z.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, atol=1e-6)
    error = z.std(0) / np.sqrt(n)
    assert np.all(np.abs(z.mean(0, dtype="float64") - q.mean()) < 5 * error)
    for i in range(2):
        covariance = np.cov(z[:, i].T)
        np.testing.assert_allclose(q.covariance()[i], covariance, atol=0.01)
        np.testing.assert_allclose(q.variance()[i], np.diag(covariance), atol=0.01)
    np.testing.assert_allclose(q.mode(), mu, rtol=1e-6)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("m", [2, 3, 20])
def test_angles_have_their_law(rng, law, m):
    k = np.array([0.0, 0.5, 50.0, 1e4])
    mu = direction(rng, m)
    z = law(mu, k.astype("float32")).sample(10_000, seed=(1, 2)).numpy()
    half = np.linalg.norm(z.astype("float64") - mu, axis=-1) / 2
    angles = 2 * np.arcsin(np.minimum(half, 1))
    for i in range(len(k)):
        t = np.linspace(0, min(np.pi, 20 * np.sqrt(m / (k[i] + 1))), 50_001)[:-1]
        density = np.exp(k[i] * tilt(law, t)) * np.sin(t) ** (m - 2)
        cumulative = integrate.cumulative_trapezoid(density, t, initial=0)
        cumulative /= cumulative[-1]
        cdf = np.interp(angles[:, i], t, cumulative)
        assert stats.kstest(cdf, "uniform").pvalue > 1e-4


def test_moments_at_the_ends():
    q = VonMisesFisher(axis(3), [0.0, 1e6])
    np.testing.assert_allclose(q.mean()[:, 0], [0, 1 - 1e-6], rtol=1e-6)
    np.testing.assert_allclose(q.variance()[0], [1 / 3] * 3, rtol=1e-5)
    np.testing.assert_allclose(q.variance()[1], [1e-12, 1e-6, 1e-6], rtol=1e-3)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("m", "jit"), [(2, False), (20, True)])
def test_unknown_batch_size_and_xla(rng, law, m, jit):
    uniform = tfd.SphericalUniform(m)

    @tf.function(
        jit_compile=jit,
        input_signature=[tf.TensorSpec([None, m]), tf.TensorSpec([None])],
    )
    def step(mu, k):
        with tf.GradientTape() as tape:
            tape.watch([mu, k])
            q = law(mu, k)
            z = q.sample(3, seed=(1, 2))
            kl = tfd.kl_divergence(q, uniform)
            other = tfd.kl_divergence(q, VonMisesFisher(mu, k + 1))
            value = tf.reduce_sum(z * mu) + tf.reduce_sum(kl + other)
            value += tf.reduce_sum(q.log_prob(tf.stop_gradient(z)))
        return z, kl, *tape.gradient(value, [mu, k])

    mu, k = direction(rng, 6, m), np.linspace(0.5, 50, 6).astype("float32")
    z, kl, *gradients = step(mu, k)
    assert z.shape == (3, 6, m)
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(kl, tfd.kl_divergence(law(mu, k), uniform), rtol=1e-5)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("law", LAWS)
def test_as_tfp_expects_of_a_distribution(rng, law):
    mu = direction(rng, 5, 3)
    q = law(mu, 2.0)
    assert isinstance(q, getattr(tfd, law.__name__))
    assert q.reparameterization_type == tfd.FULLY_REPARAMETERIZED
    assert q.batch_shape == (5,)
    assert q.sample((2, 3), seed=1).shape == (2, 3, 5, 3)
    assert q.sample(0, seed=1).shape == (0, 5, 3)
    assert type(q[:2]) is type(q)
    assert q[:2].batch_shape == (2,)
    assert q.copy(concentration=3.0).concentration == 3.0
    passed = tf.function(lambda q: q)(q)
    np.testing.assert_array_equal(passed.sample(seed=(1, 2)), q.sample(seed=(1, 2)))
    variable = tf.Variable(3.0)
    q = law(mu, variable)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(q.sample(seed=1)[:, 0])
    assert np.isfinite(tape.gradient(value, variable))
    assert q.trainable_variables == (variable,)


@pytest.mark.parametrize("law", LAWS)
def test_float64(rng, law):
    mu = direction(rng, 4, 5).astype("float64")
    mu /= np.linalg.norm(mu, axis=-1, keepdims=True)
    q = law(mu, np.float64(7.0))
    z = q.sample(seed=(1, 2))
    assert z.dtype == q.log_prob(z).dtype == q.mean().dtype == tf.float64
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1, rtol=1e-14)
    kl = tfd.kl_divergence(q, tfd.SphericalUniform(5, dtype=tf.float64))
    np.testing.assert_allclose(kl, [kl_to_uniform(law, 5, 7.0)] * 4, rtol=1e-10)


@pytest.mark.parametrize("m", [2, 3, 10, 40, 128])
def test_moments_of_the_cosine_against_bessel_functions(m):
    k = np.array([1e-2, 1.0, 10.0, 100.0, 1e3, 1e5, 1e8])
    k = k[k > m**2 / 100]  # SciPy's underflow for less
    moments = cosine_moments(tf.constant(k), m)
    order = m / 2 - 1
    log_normalizer = np.log(special.ive(order, k)) - order * np.log(k / 2)
    log_normalizer += special.gammaln(m / 2)
    np.testing.assert_allclose(
        moments.log_normalizer, log_normalizer, rtol=1e-12, atol=1e-13
    )
    np.testing.assert_allclose(moments.mean, length(m, k) - 1, rtol=1e-12, atol=1e-15)
    slope = length_slope(m, k)
    np.testing.assert_allclose(moments.variance, slope, rtol=1e-11, atol=3e-15)


@pytest.mark.parametrize("m", [2, 3, 10, 128])
def test_moments_of_the_cosine_at_the_ends(m):
    log_normalizer, mean, variance = cosine_moments(tf.constant(0.0, "float64"), m)
    np.testing.assert_allclose([log_normalizer, mean], [0, -1], atol=1e-13)
    np.testing.assert_allclose(variance, 1 / m, rtol=1e-12)
    # There k (1 - cos(t)) is a gamma variable with shape (m - 1) / 2.
    k = np.array([1e10, 1e12])
    _, mean, variance = cosine_moments(tf.constant(k), m)
    np.testing.assert_allclose(-mean * k, [(m - 1) / 2] * 2, rtol=1e-7)
    np.testing.assert_allclose(variance * k**2, [(m - 1) / 2] * 2, rtol=1e-7)


@pytest.mark.parametrize("m", [2, 11, 128])
def test_derivatives_of_the_moments(m):
    k = tf.constant([0.0, 1e-3, 1.0, 100.0, 1e4, 1e6], tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(k)
        log_normalizer, mean, variance = cosine_moments(k, m)
    np.testing.assert_allclose(tape.gradient(log_normalizer, k), mean, rtol=1e-12)
    np.testing.assert_allclose(tape.gradient(mean, k), variance, rtol=1e-11)


@pytest.mark.parametrize("m", [2, 3, 30])
def test_mean_of_the_logarithm(m):
    k, half = np.array([0.0, 0.1, 10.0, 1e4]), (m - 1) / 2
    expected = special.digamma(half + k) - special.digamma(2 * half + k)
    np.testing.assert_allclose(mean_tilt(tf.constant(k), m), expected, rtol=1e-10)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("concentration", [-1.0, np.inf, [1.0, np.nan]])
def test_bad_concentrations_are_an_error(law, concentration):
    name = law.__name__
    with pytest.raises(ValueError, match=f"`{name}`.*not negative. Received: conc.*Gi"):
        law([0.6, 0.8], concentration)


@pytest.mark.parametrize("law", LAWS)
def test_bad_directions_are_an_error(law):
    for bad in ([1.0], 1.0, tf.ones([3, 1]), np.zeros((2, 0))):
        with pytest.raises(ValueError, match="last axis of 2.*Received.*the circle"):
            law(bad, 1.0)
    with pytest.raises(ValueError, match="unit vectors. Received.*norm 1.41.*Divide"):
        law([1.0, 1.0], 1.0)
    # Tensors are TFP's to check, where it is told to.
    law(tf.ones([2]), tf.constant(-1.0))
    with pytest.raises(tf.errors.InvalidArgumentError):
        law(tf.ones([2]), 1.0, validate_args=True)
    with pytest.raises(tf.errors.InvalidArgumentError):
        law([0.6, 0.8], tf.constant(-1.0), validate_args=True)


def test_unit_vector():
    raw = np.array([[3, 4], [0, 0], [1e30, 0], [0, -1e-10], [1e-20, 0]], "float32")
    unit, gradient = value_and_gradient(unit_vector, raw)
    expected = [[0.6, 0.8], [1, 0], [1, 0], [0, -1], [1, 0]]
    np.testing.assert_allclose(unit, expected, rtol=1e-6)
    assert np.all(np.isfinite(gradient))
    np.testing.assert_array_equal(gradient[1], [0, 0])
    analytic, numeric = tf.test.compute_gradient(
        unit_vector, [tf.constant([[3.0, 4.0], [-1.0, 2.0]], tf.float64)]
    )
    np.testing.assert_allclose(analytic[0], numeric[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer):
    assert layer.params_size(5) == 6
    assert layer.params_size(5, concentration=3.0) == 5
    q = layer(5)(tf.zeros([7, 2, 6]))
    assert (q.batch_shape, q.event_shape, q.shape) == ((7, 2), (5,), (7, 2, 5))
    assert type(q.tensor_distribution).__module__.startswith("tfp_vae.distributions")
    np.testing.assert_allclose(q.concentration, 1 + np.log(2) * np.ones((7, 2)))
    np.testing.assert_array_equal(q.mean_direction[0, 0], axis(5))
    q = layer(5, concentration_floor=0.0)(tf.zeros([7, 6]))
    np.testing.assert_allclose(q.concentration, np.full(7, np.log(2)), rtol=1e-6)
    mode = layer(5, "mode")(tf.ones([7, 6]))
    np.testing.assert_allclose(mode, np.full((7, 5), 5**-0.5), rtol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_fixed_concentration(rng, layer):
    q = layer(3, concentration=80)(rng.normal(size=(7, 3)).astype("float32"))
    assert q.batch_shape == (7,)
    assert q.sample(2).shape == (2, 7, 3)
    kl = tfd.kl_divergence(q.tensor_distribution, tfd.SphericalUniform(3))
    law = VonMisesFisher if layer is LAYERS[0] else PowerSpherical
    np.testing.assert_allclose(kl, np.full(7, kl_to_uniform(law, 3, 80.0)), rtol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "float64"])
def test_extreme_outputs_of_the_network(rng, layer, dtype):
    signs = rng.choice([-1e4, 0.0, 1e4], size=(64, 12))
    raw = tf.constant(np.concatenate([signs, np.zeros((1, 12))]), "float32")
    make = layer(11, dtype=dtype)
    with tf.GradientTape() as tape:
        tape.watch(raw)
        q = make(raw)
        z = tf.convert_to_tensor(q)
        u = tfd.SphericalUniform(11, dtype=z.dtype)
        kl = tfd.kl_divergence(q.tensor_distribution, u)
        parts = [z, q.log_prob(z), kl]
        value = tf.add_n([tf.reduce_sum(part) for part in parts])
    assert z.dtype == ("float64" if dtype == "float64" else "float32")
    for part in [*parts, tape.gradient(value, raw)]:
        assert np.all(np.isfinite(part))


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_config(layer):
    for given in ({}, {"concentration": 7.0}, {"concentration_floor": 0.5}):
        made = layer(4, "mean", validate_args=True, seed=3, **given)
        again = keras.layers.deserialize(keras.layers.serialize(made))
        assert again.get_config() == made.get_config()
        assert again.event_size == 4
        assert type(again) is layer


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_errors(layer):
    for size in (1, 0, 2.5, True, (3,)):
        with pytest.raises(ValueError, match="event_size.*at least 2. Received"):
            layer(size)
    for name in ("concentration", "concentration_floor"):
        with pytest.raises(ValueError, match=f"`{name}` to be a finite.*Received"):
            layer(3, **{name: -1.0})
    with pytest.raises(ValueError, match=r"shape \(..., 4\).*Received"):
        layer(3)(tf.zeros([5, 3]))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("jit", [False, True])
def test_a_layer_trains(rng, layer, jit):
    x = direction(rng, 64, 3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), layer(3)])
    model.compile(
        keras.optimizers.Adam(0.05),
        loss=lambda x, p: -p.log_prob(x),
        jit_compile=jit,
    )
    losses = model.fit(x, x, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", [VonMisesFisher, PowerSpherical])
def test_a_direction_may_be_a_list_of_tensors(kind):
    q = kind([tf.constant(0.6), tf.constant(0.8)], 5.0)
    p = kind([0.6, 0.8], 5.0)
    np.testing.assert_array_equal(q.log_prob([1.0, 0.0]), p.log_prob([1.0, 0.0]))
