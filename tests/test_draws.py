"""Draws of latents: their law against SciPy, their gradients, their seeds."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from tfp_vae.draws import _normal, _random_bits, draw, fold_in, standard_normal

tfd = tfp.distributions


@pytest.mark.parametrize(
    ("shape", "lags"),
    [
        # Neighbours, and the two numbers of a pair, which stand half the rows apart.
        ([200_001], (1, 100_001)),
        ([3, 9_525, 7], (1, 7, 14_288 * 7)),
    ],
)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_noise_is_standard_normal(jit_compile, shape, lags):
    noise = tf.function(standard_normal, jit_compile=jit_compile, autograph=False)
    z = noise(shape, tf.constant([3, 4])).numpy().ravel()
    # Of a fixed seed: a right generator fails once in a thousand choices of it.
    assert stats.kstest(z, "norm").pvalue > 1e-3
    squares = stats.kstest(z**2, "chi2", args=(1,)).pvalue
    assert squares > 1e-3
    for lag in lags:
        assert abs(np.corrcoef(z[:-lag], z[lag:])[0, 1]) < 4 / np.sqrt(z.size - lag)
        together = np.corrcoef(z[:-lag] ** 2, z[lag:] ** 2)[0, 1]
        assert abs(together) < 4 / np.sqrt(z.size - lag)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_all_bits_are_quantiles_of_the_normal_law(jit_compile, rng):
    # The first and the last ones, the middle, and some of the others.
    ends = np.r_[0:500, 2**22 - 500 : 2**22 + 500, 2**23 - 500 : 2**23]
    quantiles = np.r_[ends, rng.integers(0, 2**23, 10_000)]
    above = rng.integers(-(2**8), 2**8, quantiles.size) << 23  # not looked at
    bits = tf.constant(quantiles + above, tf.int32)
    z = tf.function(_normal, jit_compile=jit_compile, autograph=False)(bits)
    expected = stats.norm.ppf((quantiles + 0.5) / 2**23)
    np.testing.assert_allclose(z, expected, rtol=1e-5)
    assert np.max(np.abs(z)) < 5.3


@pytest.mark.parametrize("seed", [(5, 6), (5, -6)])
def test_noise_is_the_same_with_xla_and_without(seed):
    seed = tf.constant(seed)
    compiled = tf.function(standard_normal, jit_compile=True, autograph=False)
    np.testing.assert_allclose(
        compiled([7, 3], seed), standard_normal([7, 3], seed), rtol=1e-5, atol=1e-6
    )


def test_seeds_tell_draws_apart():
    first, again, other = (
        standard_normal([50], seed).numpy() for seed in ((1, 2), (1, 2), (2, 1))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.intersect1d(first, other).size


@pytest.mark.parametrize(
    "shape", [[], [0], [1], [1, 5], [0, 5], [3, 1, 4], tf.constant([4, 1])]
)
def test_noise_has_the_shape_asked_for(shape):
    np.testing.assert_array_equal(standard_normal(shape, (1, 2)).shape, shape)


@pytest.mark.parametrize("sample_shape", [(), 3, [2, 3], np.array([4])])
def test_normal_draws_are_loc_and_scale_times_noise(sample_shape):
    loc, scale = tf.constant([[1.0], [-2.0]]), tf.constant([0.1, 2.0, 30.0])
    with tf.GradientTape() as tape:
        tape.watch([loc, scale])
        law = tfd.Independent(tfd.Normal(loc, scale), 1)
        z, log_q = draw(law, sample_shape, seed=(1, 2))
    assert log_q is None
    assert z.shape == law.sample(sample_shape).shape
    noise = (z - loc) / scale
    np.testing.assert_allclose(noise, standard_normal(z.shape, (1, 2)), rtol=1e-4)
    of_loc, of_scale = tape.gradient(z, [loc, scale])
    np.testing.assert_allclose(of_loc, np.full([2, 1], tf.size(z) / 2))
    axes = range(z.shape.rank - 1)
    np.testing.assert_allclose(of_scale, np.sum(noise, tuple(axes)), rtol=1e-4)


def multivariate(kind, rows):
    raw = np.random.default_rng(5).normal(size=(rows, 3, 4)).astype("float32")
    if kind == "diagonal":
        return tfd.MultivariateNormalDiag(raw[:, 0], abs(raw[:, 1]))
    if kind == "one scale":
        return tfd.MultivariateNormalDiag(raw[:, 0], abs(raw[0, 1]))
    factor = np.tril(np.random.default_rng(6).normal(size=(rows, 4, 4)), -1)
    factor = (factor + np.eye(4) * abs(raw[:, 1:2])).astype("float32")
    loc = None if kind == "without a loc" else raw[:, 0]
    return tfd.MultivariateNormalTriL(loc, factor)


@pytest.mark.parametrize("kind", ["diagonal", "one scale", "triangle", "without a loc"])
@pytest.mark.parametrize("sample_shape", [(), 3, [2, 3]])
def test_multivariate_draws_are_loc_and_scale_times_noise(kind, sample_shape):
    law = multivariate(kind, 5)
    z, log_q = draw(law, sample_shape, seed=(1, 2))
    noise = standard_normal(z.shape, (1, 2)).numpy()
    assert z.shape == law.sample(sample_shape).shape
    factor = law.scale.to_dense().numpy()
    expected = law.mean() + np.einsum("...ij,...j->...i", factor, noise)
    np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
    means = np.broadcast_to(law.mean(), [5, 4])
    factors = np.broadcast_to(factor, [5, 4, 4])
    flat = z.numpy().reshape(-1, 5, 4), log_q.numpy().reshape(-1, 5)
    for row, (mean, factor) in enumerate(zip(means, factors, strict=True)):
        covariance = factor.astype("float64") @ factor.T
        scipy = stats.multivariate_normal(mean, covariance, allow_singular=True)
        found = flat[1][:, row]
        np.testing.assert_allclose(found, np.ravel(scipy.logpdf(flat[0][:, row])), 1e-3)


@pytest.mark.parametrize("kind", ["diagonal", "triangle"])
def test_the_log_density_of_one_row_is_not_given_for_that_of_all(kind):
    rows = multivariate(kind, 5)
    z, log_q = draw(tfd.Independent(rows, 1), 2, seed=(1, 2))
    assert log_q is None
    np.testing.assert_array_equal(z, draw(rows, 2, seed=(1, 2))[0])


@pytest.mark.parametrize("kind", ["diagonal", "triangle"])
@pytest.mark.parametrize("sample_shape", [(), 2])
def test_multivariate_draws_of_an_empty_batch_have_gradients(kind, sample_shape):
    @tf.function(
        input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None, 4, 4])]
    )
    def gradients(loc, factor):
        with tf.GradientTape() as tape:
            tape.watch([loc, factor])
            law = tfd.MultivariateNormalTriL(loc, factor)
            if kind == "diagonal":
                law = tfd.MultivariateNormalDiag(loc, tf.linalg.diag_part(factor))
            z, log_q = draw(law, sample_shape, seed=(1, 2))
            assert z.shape[-2:].as_list() == [None, 4]
            loss = tf.reduce_sum(z) + tf.reduce_sum(log_q)
        return tape.gradient(loss, [loc, factor])

    for rows in (0, 3):
        of_loc, of_factor = gradients(tf.ones([rows, 4]), tf.eye(4, batch_shape=[rows]))
        np.testing.assert_array_equal(of_loc, np.full([rows, 4], sample_shape or 1))
        assert of_factor.shape == [rows, 4, 4]
        assert np.isfinite(of_factor).all()


def test_shapes_known_when_traced_stay_known():
    @tf.function(input_signature=[tf.TensorSpec([None, 5])])
    def drawn(loc):
        z, _ = draw(tfd.Independent(tfd.Normal(loc, 1.0), 1), [2], seed=(1, 2))
        assert z.shape.as_list() == [2, None, 5]
        return z

    assert drawn(tf.zeros([3, 5])).shape == [2, 3, 5]


def test_the_number_of_axes_need_not_be_known():
    @tf.function(input_signature=[tf.TensorSpec(None)])
    def drawn(loc):
        return draw(tfd.Normal(loc, 1.0), seed=(1, 2))[0]

    for shape in ([], [5], [3, 5], [2, 3, 5]):
        np.testing.assert_array_equal(
            drawn(tf.zeros(shape)), standard_normal(shape, (1, 2))
        )


@pytest.mark.parametrize(
    ("law", "seed"),
    [
        (tfd.Normal(tf.constant(0.0, tf.float64), 1.0), (1, 2)),
        (tfd.Laplace(0.0, 1.0), (1, 2)),
        (tfd.Normal(0.0, 1.0), 7),
        (tfd.Normal(0.0, 1.0, validate_args=True), (1, 2)),
    ],
)
def test_other_laws_dtypes_and_seeds_are_left_to_tfp(law, seed):
    tf.random.set_seed(1)
    ours = draw(law, 5, seed=seed)[0]
    tf.random.set_seed(1)
    if isinstance(seed, tuple):  # of which XLA would make a generator for each number
        seed = _random_bits([2], seed, tf.int32)
    np.testing.assert_array_equal(ours, law.sample(5, seed=seed))


def philox(seed, words):
    # 10 rounds, as in Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
    # (2011).
    mask = 2**32 - 1
    key = [number & mask for number in seed]
    for _ in range(10):
        a, b = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [
            (b >> 32) ^ words[1] ^ key[0],
            b & mask,
            (a >> 32) ^ words[3] ^ key[1],
            a & mask,
        ]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return words


SEEDS = [(1, 2), (2, 1), (5, -6), (-(2**31), 2**31 - 1)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_bits_are_those_of_philox(seed, jit_compile):
    bits = tf.function(
        lambda seed: _random_bits([4], seed, tf.int32), jit_compile=jit_compile
    )(tf.constant(seed, tf.int32))
    np.testing.assert_array_equal(
        bits.numpy().astype("uint32"), philox(seed, [0, 0, 0, 0])
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_number_is_folded_in_by_the_counter_of_philox(seed, jit_compile):
    compiled = tf.function(fold_in, jit_compile=jit_compile)
    for number in (0, 1, 7, 2**31 - 1):
        expected = philox(seed, [0, 0, number, 1])[:2]
        for folded in (fold_in(seed, number), compiled(seed, tf.constant(number))):
            np.testing.assert_array_equal(folded.numpy().astype("uint32"), expected)


def test_seeds_that_are_folded_in_are_unlike_the_draws_of_their_seed():
    bits = _random_bits([4000], (1, 2), tf.int32).numpy().reshape(-1, 2)
    seeds = np.array([fold_in((1, 2), i) for i in range(1000)])
    assert len({*map(tuple, np.concatenate([bits, seeds]).tolist())}) == 3000
    # Numbers of neighbours are uncorrelated, 4 standard errors.
    uniform = (seeds / 2.0**31).ravel()
    assert abs(np.corrcoef(uniform[:-1], uniform[1:])[0, 1]) < 4 / np.sqrt(2000)
    assert stats.kstest(uniform, "uniform", (-1, 2)).pvalue > 1e-3
