"""KL against NumPy, closed form against Monte Carlo, and what must be an error."""

import numpy as np
import pytest
import reference
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfp_vae import DistributionTensor
from tfp_vae.kl.divergence import as_independent, kl_divergence

tfd = tfp.distributions
D = 3
LOC = np.array([[0.5, -1.0, 2.0], [0.0, 0.3, -0.2]], "float32")
SCALE = np.array([[0.5, 1.0, 2.0], [1.5, 0.1, 0.7]], "float32")
FACTOR = np.array([[1.0, 0, 0], [0.5, 2.0, 0], [-0.3, 0.2, 0.7]], "float32")

# name -> (distribution, locs, covariances)
DIAGONAL = [np.diag(s**2) for s in SCALE]
POSTERIORS = {
    "independent": (tfd.Independent(tfd.Normal(LOC, SCALE), 1), LOC, DIAGONAL),
    "diag": (tfd.MultivariateNormalDiag(LOC, SCALE), LOC, DIAGONAL),
    "tril": (tfd.MultivariateNormalTriL(LOC, FACTOR), LOC, [FACTOR @ FACTOR.T] * 2),
    "sample": (
        tfd.Sample(tfd.Normal(LOC[:, 0], SCALE[:, 0]), D),
        np.repeat(LOC[:, :1], D, 1),
        [np.eye(D) * s**2 for s in SCALE[:, 0]],
    ),
}
PRIORS = {
    "independent": (
        tfd.Independent(tfd.Normal(tf.zeros(D), 2.0), 1),
        np.zeros(D),
        4 * np.eye(D),
    ),
    "diag": (tfd.MultivariateNormalDiag(tf.ones(D)), np.ones(D), np.eye(D)),
    "tril": (tfd.MultivariateNormalTriL(LOC[0], FACTOR), LOC[0], FACTOR @ FACTOR.T),
    "sample": (tfd.Sample(tfd.Normal(1.0, 2.0), D), np.ones(D), 4 * np.eye(D)),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_normals_in_every_wrapper(posterior, prior):
    q, locs, covariances = POSTERIORS[posterior]
    p, loc, covariance = PRIORS[prior]
    expected = [
        reference.kl_gaussians(m, c, loc, covariance)
        for m, c in zip(locs.astype("float64"), covariances, strict=True)
    ]
    exact = kl_divergence(q, p, use_exact_kl=True)
    np.testing.assert_allclose(exact, expected, rtol=1e-4)
    n = 100_000
    z = q.sample(n, seed=(1, 2))
    ratios = (q.log_prob(tf.identity(z)) - p.log_prob(tf.identity(z))).numpy()
    monte_carlo = kl_divergence(q, p, use_exact_kl=False, test_points=lambda: z)
    error = ratios.std(0) / np.sqrt(n)
    assert np.all(np.abs(monte_carlo - expected) < 5 * error + 1e-5)


@pytest.mark.parametrize("name", POSTERIORS)
def test_kl_to_itself_is_zero(name):
    q = POSTERIORS[name][0]
    np.testing.assert_allclose(kl_divergence(q, q), [0, 0], atol=1e-5)


def test_none_prefers_the_closed_form():
    q = POSTERIORS["independent"][0]
    p = PRIORS["sample"][0]
    # A closed form is the same number twice, a new draw is not.
    assert np.array_equal(kl_divergence(q, p), kl_divergence(q, p))


def test_monte_carlo_where_there_is_no_closed_form():
    q = DistributionTensor(tfd.Independent(tfd.Normal(LOC, SCALE), 1))
    p = tfd.Sample(tfd.Laplace(0.0, 1.0), D)
    z = tf.convert_to_tensor(q)
    laplace = -np.abs(z.numpy()) - np.log(2.0)
    expected = (stats.norm.logpdf(z, LOC, SCALE) - laplace).sum(-1)
    actual = kl_divergence(q, p, test_points=lambda: z)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"Independent\(Normal\).*Sample\(Laplace\)"):
        kl_divergence(q, p, use_exact_kl=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda loc: tfd.MultivariateNormalDiag(loc, tf.ones(D)),
        lambda loc: tfd.MultivariateNormalTriL(loc, FACTOR),
        lambda loc: tfd.Independent(tfd.LogNormal(loc, tf.ones(D)), 1),
    ],
)
def test_gradients_do_not_get_lost_in_the_bijector_cache(make):
    loc = tf.Variable(LOC)
    p = tfd.Sample(tfd.LogNormal(0.0, 1.0), D) if "Log" in str(make(LOC)) else None
    p = p or tfd.Sample(tfd.Laplace(0.0, 1.0), D)
    with tf.GradientTape(persistent=True) as tape:
        q = make(loc)
        z = q.sample(seed=(1, 2))
        log_q = q.log_prob(tf.identity(z))
        expected = tf.reduce_sum(log_q - p.log_prob(tf.identity(z)))
        actual = tf.reduce_sum(
            kl_divergence(q, p, use_exact_kl=False, test_points=lambda: z)
        )
    np.testing.assert_allclose(
        tape.gradient(actual, loc), tape.gradient(expected, loc), rtol=1e-5
    )


def test_draw_axes_are_averaged_and_the_batch_is_not():
    q = tfd.Independent(tfd.Normal(LOC, SCALE), 1)
    p = tfd.Sample(tfd.Normal(0.0, 1.0), D)
    z = q.sample((4, 5), seed=(1, 2))
    ratio = (q.log_prob(z) - p.log_prob(z)).numpy()
    for axis in (None, (0, 1)):
        kl = kl_divergence(q, p, False, lambda: z, axis)
        np.testing.assert_allclose(kl, ratio.mean((0, 1)), rtol=1e-5)
    for axis in ((), 0, (0, 1, 2), (0, 2)):
        with pytest.raises(ValueError, match=r"\(2,\) remains. Received: axis="):
            kl_divergence(q, p, False, lambda: z, axis)


def test_gradients_against_finite_differences():
    def kl(loc, raw):
        q = tfd.Independent(tfd.Normal(loc, tf.exp(raw)), 1)
        p = tfd.MultivariateNormalTriL(
            LOC[0].astype("float64"), FACTOR.astype("float64")
        )
        return tf.reduce_sum(kl_divergence(q, p))

    points = [tf.constant(LOC, tf.float64), tf.constant(np.log(SCALE), tf.float64)]
    analytic, numeric = tf.test.compute_gradient(kl, points)
    for left, right in zip(analytic, numeric, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1), (3,), (7, 1, 3), (5, 3)])
def test_draws_of_another_shape_are_an_error(shape):
    q = tfd.Independent(tfd.Normal(LOC, SCALE), 1)
    p = tfd.Sample(tfd.Normal(0.0, 1.0), D)
    with pytest.raises(ValueError, match=r"draws of shape \(..., 2, 3\).*Received"):
        kl_divergence(q, p, False, lambda: tf.zeros(shape))


def test_one_number_per_example_even_without_a_batch_in_the_parameters():
    q = tfd.BatchBroadcast(tfd.Normal(0.0, 1.0), [4])
    assert kl_divergence(q, tfd.Normal(1.0, 1.0), False).shape == (4,)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (
            tfd.Sample(tfd.Normal(0.0, 1.0), 2),
            r"event shape \(3,\).*event_shape=\(2,\)",
        ),
        (tfd.Normal(0.0, 1.0), r"event shape \(3,\).*event_shape=\(\)"),
        (tfd.Sample(tfd.Normal(0.0, 1.0), (1, 3)), r"event_shape=\(1, 3\)"),
        (tfd.Independent(tfd.Normal(np.zeros(3), 1.0), 1), "of one dtype.*float64"),
        (tfd.Independent(tfd.Normal(tf.zeros([5, 3]), 1.0), 1), r"batch_shape=\(5,\)"),
        (
            tfd.Independent(tfd.Normal(tf.zeros([7, 2, 3]), 1.0), 1),
            r"batch_shape=\(7, 2\)",
        ),
        (3.0, "prior to be a `tfd.Distribution`. Received: a float"),
    ],
)
def test_a_prior_that_does_not_fit_is_an_error(prior, message):
    with pytest.raises(ValueError, match=f"The KL expects.*{message}"):
        kl_divergence(tfd.Independent(tfd.Normal(LOC, SCALE), 1), prior)


def test_as_independent_keeps_the_law(rng):
    laws = {
        "sample of a batch": tfd.Sample(tfd.Normal(LOC[:, 0], SCALE[:, 0]), (2, 3)),
        "sample of vectors": tfd.Sample(tfd.MultivariateNormalDiag(LOC, SCALE), 2),
        "independent of vectors": tfd.Independent(
            tfd.MultivariateNormalDiag(tf.stack([LOC] * 4), SCALE), 1
        ),
        "nested": tfd.Independent(
            tfd.Independent(tfd.Laplace(tf.zeros([2, 4, 3]), 1.0), 1), 1
        ),
        "scalar": tfd.Normal(LOC, SCALE),
        "sample of one law": tfd.Sample(tfd.Laplace(0.0, 1.0), (3, 2)),
    }
    for law in laws.values():
        written = as_independent(law)
        x = rng.normal(size=law.batch_shape + law.event_shape).astype("float32")
        assert written.distribution.event_shape == ()
        np.testing.assert_allclose(written.log_prob(x), law.log_prob(x), rtol=1e-5)


@pytest.mark.parametrize(
    "law",
    [
        tfd.MultivariateNormalTriL(LOC, FACTOR),
        tfd.Independent(tfd.MultivariateNormalTriL(LOC, FACTOR), 1),
        tfd.OneHotCategorical(logits=LOC),
        tfd.Sample(tfd.Laplace(LOC[0], 1.0), 2),
    ],
)
def test_as_independent_knows_what_it_does_not_know(law):
    assert as_independent(law) is None
