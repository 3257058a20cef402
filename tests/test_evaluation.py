"""What a VAE has learned, against closed forms, integrals, tables and known codes."""

import keras
import models
import numpy as np
import pytest
import reference
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, special, stats

import tfp_vae as tv
from tfp_vae.evaluation import (
    RateDistortion,
    active_units,
    kl_per_dimension,
    marginal_kl,
    mutual_information,
    rate_distortion,
)

tfd = tfp.distributions
LOC = np.array([[0.5, -1.0, 2.0], [0.0, 0.3, -0.2], [1.0, -2.0, 0.1]], "float32")
SCALE = np.array([[0.5, 1.0, 2.0], [1.5, 0.1, 0.7], [0.2, 0.9, 1.1]], "float32")


def normals(loc, scale):
    return tfd.Independent(tfd.Normal(loc, scale), 1)


def kl_to_standard_normal(loc, scale):
    loc, scale = loc.astype("float64"), scale.astype("float64")
    return (loc**2 + scale**2 - 1) / 2 - np.log(scale)


def variance_of_log_ratio(loc, scale):
    """Of log N(z; loc, scale) - log N(z; 0, 1) under the former, per coordinate."""
    return (scale**2 - 1) ** 2 / 2 + (loc * scale) ** 2


# Active units.


def means(*variances):
    signs = np.array([[1.0], [-1.0]], "float32")
    return signs * np.sqrt(np.array(variances, "float32")) + 3.0


@pytest.mark.parametrize(
    ("threshold", "count"), [(0.01, 2), (0.001, 3), (0.5, 1), (1.5, 0)]
)
def test_active_units_counts_the_means_that_move(threshold, count):
    loc = means(1.0, 0.02, 0.005, 0.0)
    assert active_units(normals(loc, 5.0), threshold) == count
    wrapped = tv.DistributionTensor(normals(loc, 5.0))
    assert active_units(wrapped, threshold) == count


def test_active_units_counts_coordinates_of_any_event():
    loc = means(1.0, 0.02, 0.005, 0.0).reshape(2, 2, 2)
    assert active_units(tfd.Independent(tfd.Normal(loc, 5.0), 2)) == 2
    assert active_units(tfd.Normal(means(1.0)[:, 0], 5.0)) == 1


def test_active_units_of_directions():
    mu = [[0.6, 0.8, 0.0], [-0.6, 0.8, 0.0], [0.6, -0.8, 0.0]]
    assert active_units(tv.distributions.PowerSpherical(mu, 50.0)) == 2
    assert active_units(tv.distributions.PowerSpherical(mu, 0.01)) == 0  # all uniform


@pytest.mark.parametrize("concentration", [0.1, 50.0])
def test_the_metric_of_active_units_counts_as_the_function(concentration, rng):
    x = (rng.uniform(size=(200, 16)) > 0.5).astype("float32")
    q = [
        keras.Input((16,)),
        keras.layers.Dense(10),
        tv.VonMisesFisher(10, concentration=concentration),
    ]
    p = [keras.Input((10,)), keras.layers.Dense(16), tv.IndependentBernoulli(16)]
    parts = keras.Sequential(q), keras.Sequential(p), tv.SphericalUniform(10)
    model = tv.VAE(*parts)
    model.compile("sgd", metrics=[tv.ActiveUnits()])
    found = model.evaluate(x, return_dict=True, verbose=0)["active_units"]
    assert found == active_units(model.encode(x)) == (0 if concentration < 1 else 10)


def test_active_units_without_a_mean_is_an_error():
    flow = tfd.TransformedDistribution(normals(LOC, SCALE), tfp.bijectors.Sinh())
    with pytest.raises(
        ValueError, match="mean has a closed form. Received: Transformed.*mutual_info"
    ):
        active_units(flow)


# The KL of each dimension.


@pytest.mark.parametrize("wrap", [lambda q: q, tv.DistributionTensor])
@pytest.mark.parametrize(
    "prior", [tv.StandardNormal(3), tfd.MultivariateNormalDiag(tf.zeros(3))]
)
def test_kl_per_dimension_is_the_closed_form(wrap, prior):
    kl = kl_per_dimension(wrap(normals(LOC, SCALE)), prior)
    expected = kl_to_standard_normal(LOC, SCALE).mean(0)
    assert isinstance(kl, np.ndarray)
    np.testing.assert_allclose(kl, expected, rtol=1e-5)


def test_kl_per_dimension_has_the_shape_of_the_event():
    q = tfd.Independent(tfd.Normal(tf.zeros([5, 2, 3]), 1.0), 2)
    assert kl_per_dimension(q, tv.StandardNormal((2, 3))).shape == (2, 3)


def test_kl_per_dimension_of_a_law_that_does_not_factorise_is_an_error():
    q = tfd.MultivariateNormalTriL(LOC, tf.eye(3))
    with pytest.raises(ValueError, match="expects distributions that factorise"):
        kl_per_dimension(q, tv.StandardNormal(3))


# Mutual information and marginal KL.


def far_apart():
    loc = 50.0 * np.eye(6, dtype="float32")
    mu = np.concatenate([np.eye(3), -np.eye(3)]).astype("float32")
    return {
        "independent": normals(loc, 1.0),
        "tensor": tv.DistributionTensor(normals(loc, 1.0)),
        "full": tfd.MultivariateNormalTriL(loc, tf.eye(6)),
        "sample": tfd.Sample(tfd.Normal(50 * np.arange(6.0, dtype="float32"), 1.0), 2),
        "scalar": tfd.Normal(50 * np.arange(6.0, dtype="float32"), 1.0),
        "image": tfd.Independent(tfd.Normal(loc.reshape(6, 2, 3), 1.0), 2),
        "power spherical": tv.distributions.PowerSpherical(mu, 500.0),
        "von mises-fisher": tv.distributions.VonMisesFisher(mu, 500.0),
        "one hot": tfd.OneHotCategorical(logits=loc),
        "mixture": tfd.MixtureSameFamily(
            tfd.Categorical(logits=tf.zeros([6, 2])),
            normals(np.stack([loc, loc + 9], axis=1), 1.0),
        ),
        "flow": tfd.TransformedDistribution(
            normals(loc / 50, 0.01), tfp.bijectors.Exp()
        ),
    }


@pytest.mark.parametrize("family", far_apart())
def test_posteriors_far_apart_tell_everything(family):
    information = mutual_information(far_apart()[family], num_samples=3, seed=1)
    assert information == pytest.approx(np.log(6), abs=1e-6)
    assert information <= np.log(6)


@pytest.mark.parametrize("family", ["normal", "power spherical", "von mises-fisher"])
def test_identical_posteriors_tell_nothing(family):
    mu = np.array([[0.6, 0.8, 0.0]] * 7, "float32")
    q = {
        "normal": normals(np.repeat(LOC[:1], 7, 0), SCALE[0]),
        "power spherical": tv.distributions.PowerSpherical(mu, 20.0),
        "von mises-fisher": tv.distributions.VonMisesFisher(mu, 20.0),
    }[family]
    assert mutual_information(q, seed=1) == pytest.approx(0.0, abs=1e-5)


def test_the_marginal_kl_of_identical_posteriors_is_their_kl():
    n, draws = 20, 500
    q = normals(np.repeat(LOC[:1], n, 0), SCALE[0])
    expected = kl_to_standard_normal(LOC[0], SCALE[0]).sum()
    error = np.sqrt(variance_of_log_ratio(LOC[0], SCALE[0]).sum() / (n * draws))
    actual = marginal_kl(q, tv.StandardNormal(3), draws, seed=1)
    assert abs(actual - expected) < 5 * error


@pytest.mark.parametrize("law", ["Normal", "LogNormal"])
def test_the_information_of_two_normals_is_an_integral(law):
    """Neither exp nor any other bijection of z changes it."""
    half, draws = 0.8, 20_000

    def log_ratio(z):
        return np.log(2) - np.log1p(np.exp(-2 * half * z))

    def moment(power):
        return integrate.quad(
            lambda z: stats.norm.pdf(z, half) * log_ratio(z) ** power, -8, 10
        )[0]

    error = np.sqrt((moment(2) - moment(1) ** 2) / (2 * draws))
    q = getattr(tfd, law)([half, -half], 1.0)
    assert abs(mutual_information(q, draws, seed=1) - moment(1)) < 5 * error


def test_information_and_marginal_kl_of_a_discrete_code_are_sums():
    probs = np.array(
        [[0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4], [0.05, 0.05, 0.5, 0.4]]
    )
    prior, draws = np.array([0.4, 0.3, 0.2, 0.1]), 20_000
    mixture = probs.mean(0)
    log_ratio = np.log(np.where(probs > 0, probs, 1.0)) - np.log(mixture)
    information = np.mean(np.sum(probs * log_ratio, 1))
    marginal = np.sum(mixture * np.log(mixture / prior))
    q, p = tfd.OneHotCategorical(probs=probs), tfd.OneHotCategorical(probs=prior)
    error = np.sqrt(np.mean(np.sum(probs * log_ratio**2, 1)) / (3 * draws))
    assert abs(mutual_information(q, draws, seed=1) - information) < 5 * error
    error = np.sqrt(np.sum(mixture * np.log(mixture / prior) ** 2) / (3 * draws))
    assert abs(marginal_kl(q, p, draws, seed=1) - marginal) < 5 * error


def test_many_linear_normals_come_near_the_normal_channel():
    """For x ~ N(0, 1) and z = a x + s e, I = log(1 + a^2 / s^2) / 2, q(z) is normal."""
    a, s, n, draws = 2.0, 0.5, 1000, 20
    x = stats.norm.ppf((np.arange(n) + 0.5) / n).astype("float32")
    q = tfd.Normal(a * x, s)
    prior = tfd.Normal(0.0, np.float32(np.hypot(a, s)))
    expected = np.log1p(a**2 / s**2) / 2
    # Of the log-ratio: sum of two squares of normals, with variance below 1.
    error = 1 / np.sqrt(n * draws)
    assert abs(mutual_information(q, draws, seed=1) - expected) < 5 * error
    assert abs(marginal_kl(q, prior, draws, seed=1)) < 0.005


def test_both_parts_sum_to_the_rate(rng):
    n, draws = 60, 200
    loc = rng.normal(size=(n, 3)).astype("float32")
    scale = rng.uniform(0.3, 1.2, (n, 3)).astype("float32")
    q, p = normals(loc, scale), tv.StandardNormal(3)
    information = mutual_information(q, draws, seed=1)
    total = information + marginal_kl(q, p, draws, seed=1)
    rate = kl_to_standard_normal(loc, scale).sum(1).mean()
    error = np.sqrt(variance_of_log_ratio(loc, scale).sum() / draws) / n
    assert abs(total - rate) < 5 * error
    assert 0.0 < information < np.log(n)


def test_both_parts_sum_to_the_rate_on_the_sphere(rng):
    n, draws, k, a = 30, 200, 8.0, 1.5
    mu = rng.normal(size=(n, 4))
    mu = (mu / np.linalg.norm(mu, axis=1, keepdims=True)).astype("float32")
    q = tv.distributions.PowerSpherical(mu, np.full(n, k, "float32"))
    information = mutual_information(q, draws, seed=1)
    total = information + marginal_kl(q, tv.SphericalUniform(4), draws, seed=1)

    def moment(power):
        """Of log p(x) - log u(x), where v = (1 + mu.x) / 2 is a beta."""
        shift = special.betaln(a, a) - special.betaln(a + k, a)
        return integrate.quad(
            lambda v: stats.beta.pdf(v, a + k, a) * (k * np.log(v) + shift) ** power,
            0,
            1,
        )[0]

    error = np.sqrt((moment(2) - moment(1) ** 2) / (n * draws))
    assert abs(total - moment(1)) < 5 * error
    assert 0.0 < information < np.log(n)


def test_chunks_do_not_change_the_estimate():
    q = normals(LOC, SCALE)
    whole = mutual_information(q, 5, seed=1)
    for batch_size in (1, 4, 100):
        part = mutual_information(q, 5, seed=1, batch_size=batch_size)
        assert part == pytest.approx(whole, rel=1e-6)


def test_seeds_make_estimates_reproducible():
    q, p = normals(LOC, SCALE), tv.StandardNormal(3)
    assert mutual_information(q, seed=1) == mutual_information(q, seed=1)
    assert mutual_information(q, seed=1) != mutual_information(q, seed=2)
    keras.utils.set_random_seed(3)
    first = marginal_kl(q, p)
    keras.utils.set_random_seed(3)
    assert marginal_kl(q, p) == first != marginal_kl(q, p)


@pytest.mark.parametrize(
    "function",
    [
        active_units,
        mutual_information,
        lambda q: kl_per_dimension(q, tv.StandardNormal(3)),
        lambda q: marginal_kl(q, tv.StandardNormal(3)),
    ],
)
@pytest.mark.parametrize(
    ("posterior", "message"),
    [
        (LOC, r"a `tfd.Distribution`. Received: a ndarray of shape \(3, 3\)"),
        (tfd.Normal(LOC, SCALE), r"of batch shape \(n,\).*batch shape \(3, 3\)"),
        (normals(LOC[0], SCALE[0]), r"of batch shape \(n,\).*batch shape \(\). Call"),
        (normals(LOC[:0], SCALE[:0]), r"n >= [12] examples.*batch shape \(0,\)"),
    ],
)
def test_something_else_than_posteriors_is_an_error(function, posterior, message):
    with pytest.raises(ValueError, match=message):
        function(posterior)


@pytest.mark.parametrize("function", [active_units, mutual_information])
def test_one_posterior_tells_nothing_of_differences(function):
    with pytest.raises(ValueError, match=r"n >= 2 examples. Received: Independent\(No"):
        function(normals(LOC[:1], SCALE[:1]))


def test_the_marginal_kl_of_one_posterior_is_its_kl():
    q, p = normals(LOC[:1], SCALE[:1]), tv.StandardNormal(3)
    error = np.sqrt(variance_of_log_ratio(LOC[0], SCALE[0]).sum() / 2000)
    expected = kl_to_standard_normal(LOC[0], SCALE[0]).sum()
    assert abs(marginal_kl(q, p, 2000, seed=1) - expected) < 5 * error


@pytest.mark.parametrize("name", ["num_samples", "batch_size"])
def test_no_draws_are_an_error(name):
    q = normals(LOC, SCALE)
    with pytest.raises(
        ValueError, match=f"`mutual_information` expects `{name}` to be"
    ):
        mutual_information(q, **{name: 0})
    with pytest.raises(
        ValueError, match=f"`marginal_kl` expects `{name}` to be an int"
    ):
        marginal_kl(q, tv.StandardNormal(3), **{name: 0})


def test_a_prior_for_each_example_has_no_marginal_kl():
    with pytest.raises(ValueError, match=r"one prior for all.*of batch shape \(3,\)"):
        marginal_kl(normals(LOC, SCALE), normals(LOC, SCALE))


def test_a_prior_of_another_event_is_an_error():
    with pytest.raises(ValueError, match="expects a prior of event shape"):
        marginal_kl(normals(LOC, SCALE), tv.StandardNormal(2))


# Rate and distortion.


def test_rate_and_distortion_are_those_of_numpy():
    x = models.digits()
    encoder = models.encoder(conversion="mean", weight=0.3)
    decoder = models.decoder()
    model = keras.Model(encoder.inputs[0], decoder(encoder.outputs[0]))
    model.compile(
        "adam",
        loss=tv.NegativeLogLikelihood(),
        metrics=[tv.LogLikelihood(negative=True)],
    )
    model.fit(x, x, epochs=2, verbose=0)
    parameters = keras.Sequential(encoder.layers[:-2]).predict(x, verbose=0)
    loc, scale = reference.loc_scale_parts(parameters, (models.LATENT,))
    logits = keras.Sequential(decoder.layers[:-1]).predict(loc, verbose=0)
    signs = 1 - 2 * x.reshape(len(x), -1)
    rate = kl_to_standard_normal(loc, scale).sum(1).mean()
    distortion = np.logaddexp(0.0, signs * logits).sum(1).mean()
    actual = rate_distortion(model, x, x, batch_size=64)
    assert isinstance(actual, RateDistortion)
    np.testing.assert_allclose(actual, [rate, distortion], rtol=1e-4)


def test_a_model_without_a_likelihood_is_an_error():
    model = models.vae(compiled=False)
    model.compile(loss=tv.NegativeLogLikelihood())
    x = models.digits(8)
    with pytest.raises(
        ValueError, match=r"reports `kl` and `nll`. Received: \['kl', 'loss'\]. Give it"
    ):
        rate_distortion(model, x, x)


def test_layers_need_targets():
    with pytest.raises(ValueError, match="expects targets"):
        rate_distortion(models.vae(), models.digits(8))


def test_means_that_are_not_finite_are_no_inactive_units():
    loc = np.array([[0.0, 1.0], [np.nan, 3.0]])
    with pytest.raises(ValueError, match="finite means. Received: .*1 of 4"):
        active_units(normals(loc, 1.0))
    with pytest.raises(ValueError, match="finite means"):
        active_units(tfd.Independent(tfd.Cauchy(loc[:1] + np.zeros((2, 1)), 1.0), 1))
