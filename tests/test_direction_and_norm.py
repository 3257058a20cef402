"""Vectors with a direction and a norm, against SciPy and the numbers of the paper."""

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import vaes
from scipy import integrate, special, stats

import tfp_vae as tv
from tfp_vae.latents import has_direction, path

tfd = tfp.distributions
Law = tv.distributions.DirectionAndNorm


def law(m=3, k=5.0, low=2.0, width=0.5):
    direction = tv.distributions.VonMisesFisher(np.eye(m, dtype="float32")[0], k)
    return Law(direction, low, width)


def resultant(m, k):
    """E[mu.u] of a von Mises-Fisher law."""
    return special.ive(m / 2, k) / special.ive(m / 2 - 1, k)


@pytest.mark.parametrize(
    ("m", "k", "of_direction"), [(128, 100.0, 22.8409), (50, 80.0, 19.5152)]
)
def test_the_kl_is_one_number_without_gradient(rng, m, k, of_direction):
    layer = tv.DirectionAndNorm(m, concentration=k)
    scales = np.geomspace(1e-6, 1e6, 40)[:, None]
    raw = tf.constant(scales * rng.normal(size=(40, m)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(raw)
        kl = tfd.kl_divergence(layer(raw), tv.UniformDirectionAndNorm(m)())
    np.testing.assert_allclose(kl, of_direction + np.log(140), atol=1e-4)
    assert len(np.unique(kl)) == 1
    gradient = tape.gradient(kl, raw, unconnected_gradients="zero")
    np.testing.assert_array_equal(gradient, 0.0)


def test_the_kl_is_infinite_where_the_prior_has_no_mass():
    prior = Law(tfd.SphericalUniform(3), 1.0, 2.0)
    low = tf.constant([0.0, 0.99, 1.0, 2.0, 2.5, 2.6])
    kl = tfd.kl_divergence(law(low=low), prior)
    np.testing.assert_array_equal(np.isinf(kl), [True, True, False, False, False, True])


def test_the_density_is_that_of_the_draws():
    # The integral of p over a box that holds its mass, by uniform points.
    q = law(low=0.5, width=1.0)
    points = np.random.default_rng(0).uniform(-1.5, 1.5, (1_000_000, 3))
    density = q.prob(points.astype("float32")).numpy() * 3.0**3
    error = density.std() / np.sqrt(len(density))
    assert abs(density.mean() - 1.0) < 5 * error
    # Where the density has 95 % of the draws' log p, the draws have it.
    direction = tv.distributions.VonMisesFisher([1.0, 0.0, 0.0], 5.0)
    z = np.array([[0.6, 0.8, 0.0], [0.0, 0.9, 1.2], [0.3, 0.0, 0.0]], "float32")
    norm = np.linalg.norm(z, axis=-1)
    expected = direction.log_prob(z / norm[:, None]) - 2 * np.log(norm)
    expected = np.where(norm >= 0.5, expected, -np.inf)
    np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-5)


def test_draws_have_the_laws_of_norm_and_direction():
    q, n = law(m=5, k=8.0), 20_000
    z = q.sample(n, seed=3).numpy()
    norm = np.linalg.norm(z, axis=-1)
    assert stats.kstest(norm, stats.uniform(2.0, 0.5).cdf).pvalue > 1e-3
    cosine = z[:, 0] / norm
    error = cosine.std() / np.sqrt(n)
    assert abs(cosine.mean() - resultant(5, 8.0)) < 5 * error
    mean = np.eye(5)[0] * resultant(5, 8.0) * 2.25
    np.testing.assert_allclose(q.mean(), mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=5 * 2.5 / np.sqrt(n))
    log_prob = q.log_prob(z).numpy()
    assert np.isfinite(log_prob).all()
    entropy, error = -log_prob.mean(), log_prob.std() / np.sqrt(n)
    assert abs(float(q.entropy()) - entropy) < 5 * error


@pytest.mark.parametrize("m", [3, 128])
@pytest.mark.parametrize("k", [100.0, 1e4])
@pytest.mark.parametrize(("low", "width"), [(13.9, 0.1), (10.0, 1e-3), (0.0, 2.0)])
def test_deviations_and_entropy_keep_their_digits(m, k, low, width):
    q = law(m=m, k=k, low=low, width=width)
    low, width = np.float64(q.low), np.float64(q.width)
    norms = stats.uniform(low, width)
    mean = np.array([resultant(m, k), 0.0])
    squares = np.array([1 - (m - 1) * mean[0] / k, mean[0] / k])
    variance = norms.var() * squares + norms.mean() ** 2 * (squares - mean**2)
    np.testing.assert_allclose(q.stddev()[:2], np.sqrt(variance), rtol=1e-4)
    log_norm = integrate.quad(np.log, low, low + width)[0] / width
    entropy = float(q.direction.entropy()) + np.log(width) + (m - 1) * log_norm
    np.testing.assert_allclose(q.entropy(), entropy, rtol=3e-7, atol=1e-6)


def test_the_kl_is_the_mean_log_ratio():
    q, p = law(), Law(tfd.SphericalUniform(3), 0.0, 4.0)
    z = q.sample(50_000, seed=1)
    ratio = (q.log_prob(z) - p.log_prob(z)).numpy()
    error = ratio.std() / np.sqrt(len(ratio))
    assert abs(float(tfd.kl_divergence(q, p)) - ratio.mean()) < 5 * error + 1e-5


def test_a_draw_of_any_batch_is_that_of_its_members():
    direction = tv.distributions.VonMisesFisher([1.0, 0.0], 5.0)
    q = Law(direction, tf.constant([1.0, 2.0, 3.0]), 0.5)
    assert (q.batch_shape, q.event_shape) == ((3,), (2,))
    z = q.sample((4, 5), seed=1)
    assert z.shape == (4, 5, 3, 2)
    np.testing.assert_allclose(
        tf.norm(z, axis=-1) // 1.0, np.ones([4, 5, 1]) * [1, 2, 3]
    )
    assert q.log_prob(z).shape == (4, 5, 3)
    assert q.mean().shape == (3, 2)
    one = q[1].log_prob(z[:, :, 1])
    np.testing.assert_allclose(one, q.log_prob(z)[:, :, 1], rtol=1e-6)


def test_gradients_of_draws_are_those_of_the_mean():
    # E[z] = A(k) (|f| + width / 2) f / |f|, whose derivatives in f are closed.
    f = np.array([1.2, -0.5, 0.7])
    layer, n = tv.DirectionAndNorm(3, concentration=6.0, norm_width=0.5), 100_000
    target = np.array([0.3, 0.9, -0.4], "float32")
    raw = tf.Variable(np.tile(f, [n, 1]), dtype=tf.float32)
    with tf.GradientTape() as tape:
        z = layer(raw).sample(seed=5)
        values = tf.reduce_sum(z * target, axis=-1)
    found = tape.gradient(values, raw).numpy()
    r = np.linalg.norm(f)
    u, c = f / r, 0.25
    jacobian = (1 + c / r) * np.eye(3) - c / r * np.outer(u, u)
    expected = resultant(3, 6.0) * jacobian @ target
    error = found.std(axis=0) / np.sqrt(n)
    assert (np.abs(found.mean(axis=0) - expected) < 5 * error).all()


def test_vectors_of_no_length_and_of_any_have_finite_gradients():
    layer = tv.DirectionAndNorm(4, seed=1)
    raw = tf.constant([[0.0] * 4, [1e-30] * 4, [1e-8] * 4, [1e20] * 4, [-1e30] * 4])
    with tf.GradientTape() as tape:
        tape.watch(raw)
        z = tf.convert_to_tensor(layer(raw))
        total = tf.reduce_sum(z)
    assert np.isfinite(z).all()
    assert np.isfinite(tape.gradient(total, raw)).all()
    assert (np.linalg.norm(z, axis=-1) <= 14.0 + 1e-4).all()
    np.testing.assert_array_less(np.linalg.norm(z, axis=-1)[:3], 0.1001)


def vae(objective=None, jit_compile=False):
    layer = tv.DirectionAndNorm(6, concentration=20.0, max_norm=5.0)
    q = keras.Sequential(
        [
            keras.Input(vaes.PIXELS),
            keras.layers.Flatten(),
            keras.layers.Dense(layer.parameters_width),
            layer,
        ]
    )
    p = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(tv.IndependentBernoulli.params_size(vaes.PIXELS)),
            tv.IndependentBernoulli(vaes.PIXELS),
        ]
    )
    model = tv.VAE(q, p, tv.UniformDirectionAndNorm(6, 5.0), objective)
    model.compile(keras.optimizers.Adam(0.01), jit_compile=jit_compile)
    return model


def test_a_vae_trains_saves_and_has_a_constant_kl(tmp_path):
    model, x = vae(jit_compile=True), models.digits(64)
    history = model.fit(x, epochs=3, verbose=0).history
    np.testing.assert_allclose(history["kl"], history["kl"][0], rtol=1e-6)
    assert history["nll"][-1] < history["nll"][0]
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.encode(x).mean(), model.encode(x).mean())


def test_a_vae_has_all_bounds_and_answers(tmp_path):
    x = models.digits(20)
    model = vae(tv.ImportanceWeightedBound(3))
    assert np.isfinite(model.fit(x, verbose=0).history["loss"]).all()
    bound, log_prob = model.elbo(x, 50), model.log_prob(x, 50)
    assert np.isfinite(bound).all()
    assert log_prob.mean() > bound.mean()
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.reconstruct(x), model.reconstruct(x), rtol=1e-4)
    # The decoder is asked at norms which it has seen.
    q = model.encode(x)
    center = served.encode(x)["mean"]
    norms = np.linalg.norm(center, axis=-1)
    low = np.asarray(q.low)
    assert ((low < norms) & (norms < low + 0.1)).all()
    mean = np.asarray(q.mean())
    cosine = np.sum(mean * center, axis=-1) / norms / np.linalg.norm(mean, axis=-1)
    np.testing.assert_allclose(cosine, 1.0, atol=1e-5)
    assert has_direction(q)  # and goes along great circles
    assert model.interpolate(x[:3], x[3:6], 4).shape == (3, 4, *vaes.PIXELS)
    assert model.generate(4, seed=1).shape == (4, *vaes.PIXELS)


def test_the_way_between_two_vectors_keeps_between_their_norms():
    start, end = tf.constant([[3.0, 0.0]]), tf.constant([[0.0, 5.0]])
    points = path(start, end, 5, sphere=True)[0]
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1), [3, 3.5, 4, 4.5, 5])
    angles = np.arctan2(points[:, 1], points[:, 0])
    np.testing.assert_allclose(angles, np.linspace(0, np.pi / 2, 5), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_prior_has_the_density_of_its_law(dtype):
    prior = tv.UniformDirectionAndNorm(3, 4.0, dtype=dtype)()
    z = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 5.0], [np.nan, 0.0, 1.0]], dtype)
    inside = -np.log(4 * np.pi * 9.0 * 4.0)
    found = prior.log_prob(z).numpy()
    np.testing.assert_allclose(found, [inside, -np.inf, np.nan], rtol=1e-6)
    assert prior.dtype == dtype


def test_parameters_are_checked_at_run_time_where_asked():
    direction = tfd.SphericalUniform(3)
    for low, width in ((-1.0, 1.0), (1.0, 0.0)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            Law(direction, tf.constant(low), tf.constant(width), validate_args=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: tv.DirectionAndNorm(1), "at least 2. Received: event_size=1"),
        (lambda: tv.DirectionAndNorm(3, concentration=0.0), "concentration=0.0"),
        (lambda: tv.DirectionAndNorm(3, norm_width=14.0), "below `max_norm`"),
        (lambda: tv.UniformDirectionAndNorm(3, -1.0), "max_norm=-1.0"),
        (lambda: law(low=-1.0), "low"),
        (lambda: law(width=float("nan")), "width"),
        (lambda: law(width=0.0), "width=0.0"),
        (lambda: Law([1.0, 0.0], 1.0, 1.0), "distribution of unit vectors"),
        (lambda: Law(tfd.MultivariateNormalDiag([0.0]), 1.0, 1.0), "of unit vectors"),
    ],
)
def test_wrong_arguments_are_explained(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize("width", [np.float32(0), np.zeros(3, "float32"), [1.0, 0.0]])
def test_arrays_of_widths_are_positive(width):
    with pytest.raises(ValueError, match="expects `width` to be positive"):
        tv.distributions.DirectionAndNorm(tfd.SphericalUniform(3), 1.0, width)
