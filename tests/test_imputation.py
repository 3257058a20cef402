"""`impute`, `log_prob(given=)` and models of the mask, against closed forms."""

import keras
import linear_gaussian
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp
import vaes
from scipy import integrate, sparse, stats

import tfp_vae as tv

tfd = tfp.distributions

X, D = linear_gaussian.X, linear_gaussian.D
MEAN = linear_gaussian.B
COVARIANCE = (
    linear_gaussian.W @ linear_gaussian.W.T + linear_gaussian.SCALE** 2 * np.eye(X)
)


def constant_encoder(width=X, size=D, scale=1.0):
    """q(z | x) = N(0, scale^2), a proposal for every example and every mask."""
    network = keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.Dense(2 * size, kernel_initializer="zeros"),
            tv.IndependentNormal(size),
        ]
    )
    raw = np.log(np.expm1(scale))
    bias = np.repeat([0.0, raw], size)
    network.layers[0].set_weights([np.zeros((width, 2 * size)), bias])
    return network


def linear(**options):
    return tv.VAE(
        constant_encoder(),
        linear_gaussian.decoder(),
        tv.StandardNormal(D),
        **{"missing": "nan", **options},
    )


def with_holes(n, rng, share=0.4):
    x = linear_gaussian.data(n, rng)
    gaps = rng.random(x.shape) < share
    gaps[gaps.all(axis=1), 0] = False
    return x, gaps, np.where(gaps, np.float32(np.nan), x)


def conditioned(x, gap):
    """Mean and covariance of the missing entries of a row, given the others."""
    cross = COVARIANCE[np.ix_(gap, ~gap)]
    gain = cross @ np.linalg.inv(COVARIANCE[np.ix_(~gap, ~gap)])
    mean = MEAN[gap] + gain @ (x[~gap] - MEAN[~gap])
    return mean, COVARIANCE[np.ix_(gap, gap)] - gain @ cross.T


def test_impute_gives_the_conditional_mean(rng):
    x, gaps, holes = with_holes(30, rng)
    found = linear().impute(holes, num_samples=40_000, seed=1)
    assert found.dtype == holes.dtype
    np.testing.assert_array_equal(found[~gaps], x[~gaps])
    for row, gap, values in zip(x, gaps, found, strict=True):
        mean, covariance = conditioned(row.astype("float64"), gap)
        # The proposal is wide: about a tenth of the draws count.
        error = np.sqrt(np.diag(covariance) / 400)
        assert (np.abs(values[gap] - mean) < 5 * error + 1e-6).all()


def test_draws_have_the_conditional_mean_and_covariance(rng):
    x = linear_gaussian.data(3, rng)
    gaps = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1]], bool)
    holes = np.where(gaps, np.float32(np.nan), x)
    n = 4000
    drawn = linear().impute(holes, num_samples=40_000, draws=n, seed=2)
    assert drawn.shape == (n, 3, X)
    np.testing.assert_array_equal(drawn[:, ~gaps], np.broadcast_to(x[~gaps], (n, 6)))
    for i, gap in enumerate(gaps):
        mean, covariance = conditioned(x[i].astype("float64"), gap)
        part = drawn[:, i, gap].astype("float64")
        # Draws of one z repeat it: a part of n counts as independent.
        error = 5 * np.sqrt(np.diag(covariance) / (n / 4))
        assert (np.abs(part.mean(axis=0) - mean) < error).all()
        scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        found = np.atleast_2d(np.cov(part.T))
        assert (np.abs(found - covariance) / scale < 5 * np.sqrt(2 / (n / 4))).all()


@pytest.mark.parametrize("piece", slow.except_for((None, 7), (None, 7, 64)))
def test_pieces_change_neither_expectations_nor_draws(piece, rng):
    """Few latents at once: parts of the rows and of the draws are merged."""
    x, gaps, holes = with_holes(11, rng)
    model = linear()
    found = model.impute(holes, 20_000, batch_size=piece, seed=3, verbose=0)
    drawn = model.impute(holes, 20_000, draws=500, batch_size=piece, seed=3, verbose=0)
    for i, gap in enumerate(gaps):
        if gap.any():
            mean, covariance = conditioned(x[i].astype("float64"), gap)
            spread = np.sqrt(np.diag(covariance))
            assert (np.abs(found[i, gap] - mean) < 0.3 * spread).all()
            assert (np.abs(drawn[:, i, gap].mean(axis=0) - mean) < 0.4 * spread).all()


def test_parts_of_the_draws_are_merged_by_their_weights(monkeypatch, rng):
    """Blocks of few draws, whose sums of weights differ widely."""
    import tfp_vae.models.estimates as estimates

    monkeypatch.setattr(estimates, "_WORK", 1)
    x, gaps, holes = with_holes(2, rng, share=0.3)
    gaps[0], holes[0] = [True, False, False, False], x[0]
    holes[0, 0] = np.nan
    model = linear()
    options = {"batch_size": 8, "seed": 4, "verbose": 0}
    found = model.impute(holes, 4000, **options)
    drawn = model.impute(holes, 2000, draws=300, **options)
    mean, covariance = conditioned(x[0].astype("float64"), gaps[0])
    spread = float(np.sqrt(covariance[0, 0]))
    assert abs(found[0, 0] - mean[0]) < 0.3 * spread
    assert abs(drawn[:, 0, 0].mean() - mean[0]) < 0.3 * spread
    assert 0.7 < drawn[:, 0, 0].std() / spread < 1.3


def test_many_draws_of_large_log_weights_keep_their_shares(tmp_path):
    """At log p(x) = -14,452, float32 would lose the share of one draw of thousands."""
    size, scale = 784, 0.693
    p = tv.IndependentNormal(size, scale=scale)
    dense = keras.layers.Dense(size, kernel_initializer="zeros")
    decoder = keras.Sequential([keras.Input((2,)), dense, p])
    dense.set_weights([np.zeros((2, size)), np.ones(size)])
    model = tv.VAE(constant_encoder(size), decoder, tv.StandardNormal(2), missing="nan")
    x = np.full((2, size), 1 + 6 * scale, "float32")
    x[:, :5] = np.nan
    options = {"batch_size": 2, "seed": 1, "verbose": 0}
    found = model.impute(x, 5000, **options)
    np.testing.assert_allclose(found[:, :5], 1.0, atol=1e-5)
    exact = stats.norm(1, scale).logpdf(x[0, 5:].astype("float64")).sum()
    found = model.log_prob(x, 5000, **options)
    np.testing.assert_allclose(found, exact, atol=0.1)
    drawn = model.impute(x, 5000, draws=200, **options)[:, :, :5]
    assert abs(drawn.mean() - 1) < 5 * scale / np.sqrt(drawn.size)
    model.export(tmp_path)
    served = tf.saved_model.load(tmp_path)
    found = served.impute(x, tf.constant(5000)).numpy()
    np.testing.assert_allclose(found[:, :5], 1.0, atol=1e-5)


@pytest.mark.parametrize("piece", [1, 64])
def test_draws_whose_density_is_0_count_nothing(piece, tmp_path):
    """x[i] ~ U(z - 1, z + 1): given x[0], z is a truncated normal."""
    decoder = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(2, kernel_initializer="ones"),
            tv.DistributionLambda(
                lambda t: tfd.Independent(tfd.Uniform(t - 1.0, t + 1.0), 1)
            ),
        ]
    )
    model = tv.VAE(constant_encoder(2, 1), decoder, tv.StandardNormal(1), missing="nan")
    x = np.float32([[1.5, np.nan], [np.nan, -2.0]])
    options = {"batch_size": piece, "seed": 3, "verbose": 0}
    found = model.impute(x, 4000, **options)
    drawn = model.impute(x, 4000, draws=300, **options)
    for row, gap, given in ((0, 1, 1.5), (1, 0, -2.0)):
        z = stats.truncnorm(given - 1, given + 1)
        spread = np.sqrt(z.var() + 1 / 3)
        assert abs(found[row, gap] - z.mean()) < 5 * z.std() / np.sqrt(400)
        assert abs(drawn[:, row, gap].mean() - z.mean()) < 5 * spread / np.sqrt(200)
    impossible = np.float32([[1.5, np.nan], [99.0, np.nan]])
    with pytest.raises(ValueError, match=r"1 of 2 with density 0"):
        model.impute(impossible, 50)
    model.export(tmp_path)
    served = tf.saved_model.load(tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError):
        served.impute(impossible, tf.constant(50))


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_latents_that_are_categories(dtype):
    """Against the exact sum over four values of z."""
    encoder = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(4, kernel_initializer="zeros"),
            tv.DistributionLambda(lambda t: tfd.OneHotCategorical(t, dtype=dtype)),
        ]
    )
    kernel = np.array([[0.0, 1.0], [1.0, -1.0], [2.0, 3.0], [-1.0, 0.5]])
    z = keras.Input((4,))
    dense = keras.layers.Dense(2, use_bias=False)
    h = dense(keras.ops.cast(z, "float32"))
    decoder = keras.Model(z, tv.IndependentNormal(2, scale=1.0)(h))
    dense.set_weights([kernel])
    prior = tfd.OneHotCategorical(np.zeros(4, "float32"), dtype=dtype)
    model = tv.VAE(encoder, decoder, prior, missing="nan")
    x = np.float32([[np.nan, 0.3], [1.2, np.nan]])
    found = model.impute(x, 20_000, seed=1)
    drawn = model.impute(x, 20_000, draws=500, seed=1)
    for row, gap, other in ((0, 0, 1), (1, 1, 0)):
        shares = stats.norm(kernel[:, other]).pdf(x[row, other])
        shares /= shares.sum()
        mean = shares @ kernel[:, gap]
        spread = np.sqrt(1 + shares @ kernel[:, gap] ** 2 - mean**2)
        assert abs(found[row, gap] - mean) < 0.05
        assert abs(drawn[:, row, gap].mean() - mean) < 5 * spread / np.sqrt(500)


def test_a_seed_repeats_imputations(rng):
    _, _, holes = with_holes(5, rng)
    model = linear()
    for options in ({}, {"draws": 3}):
        one, same = (model.impute(holes, 50, seed=7, **options) for _ in range(2))
        np.testing.assert_array_equal(one, same)
        assert (one != model.impute(holes, 50, seed=8, **options)).any()


GIVEN = {
    "one mask": np.array([True, False, True, False]),
    "all rows": np.array([[True, False, False, False], [False, True, True, True]]),
    "nothing given": np.zeros(X, bool),
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_log_prob_given_is_that_of_the_conditional(given, rng):
    x = linear_gaussian.data(2, rng)
    found = linear().log_prob(x, num_samples=40_000, given=given, seed=5)
    for i, mask in enumerate(np.broadcast_to(given, x.shape)):
        row = x[i].astype("float64")
        if mask.any():
            expected = stats.multivariate_normal(*conditioned(row, ~mask))
            expected = expected.logpdf(row[~mask])
        else:
            expected = linear_gaussian.log_evidence(row)
        assert abs(found[i] - expected) < 0.1


def test_missing_entries_are_neither_given_nor_scored(rng):
    x = linear_gaussian.data(1, rng)
    holes = x.copy()
    holes[0, [1, 3]] = np.nan
    found = linear().log_prob(
        holes, num_samples=40_000, given=[True, True, False, False], seed=6
    )
    row = x[0].astype("float64")
    joint = COVARIANCE[np.ix_([0, 2], [0, 2])]
    expected = stats.multivariate_normal(MEAN[[0, 2]], joint).logpdf(row[[0, 2]])
    expected -= stats.norm(MEAN[0], np.sqrt(COVARIANCE[0, 0])).logpdf(row[0])
    assert abs(found[0] - expected) < 0.1


def mixed():
    """A table of a number, a count, a bit, a one-hot and a numbered category.

    Every column depends on one z, linearly in its parameters.
    """
    likelihood = tv.Blockwise(
        [
            tv.IndependentNormal(1, scale=0.5),
            tv.IndependentPoisson(1),
            tv.IndependentBernoulli(1),
            tv.OneHotCategorical(3),
            tv.IndependentCategorical(1, num_categories=3),
        ]
    )
    network = keras.layers.Dense(likelihood.parameters_width)
    decoder = keras.Sequential([keras.Input((1,)), network, likelihood])
    kernel = [[1.0, 0.5, 2.0, 1.0, 0.0, -1.0, 0.0, 1.0, -1.0]]
    bias = [0.0, 0.5, -0.5, 0.0, 0.2, 0.0, 0.0, 0.1, 0.0]
    network.set_weights([np.array(kernel), np.array(bias)])
    return tv.VAE(constant_encoder(7, 1), decoder, tv.StandardNormal(1), missing="nan")


def by_quadrature(model, row):
    """E[x | observed entries] of the table, by a sum over z on a fine grid."""
    z = np.linspace(-8, 8, 4001, dtype="float32")[:, None]
    p = model.decode(z).tensor_distribution.distributions
    gap, start = np.isnan(row), 0
    log_prob, means = stats.norm.logpdf(z[:, 0].astype("float64")), []
    for block in p:
        size = block.event_shape.num_elements()
        value, hole = row[start : start + size], gap[start]
        start += size
        if not hole:
            log_prob = log_prob + np.asarray(block.log_prob(value), "float64")
        categories = [[k] for k in range(3)]
        is_numbered = size == 1 and block is p[-1]
        means.append(
            np.stack([block.prob(np.float32(k)) for k in categories], axis=1)
            if is_numbered
            else np.asarray(block.mean())
        )
    weights = np.exp(log_prob - log_prob.max())
    averages = [weights @ mean / weights.sum() for mean in means]
    return np.concatenate([*averages[:-1], [averages[-1].argmax()]])


ROWS = [
    [0.7, 2.0, np.nan, 1.0, 0.0, 0.0, 1.0],
    [np.nan, 2.0, 1.0, np.nan, np.nan, np.nan, 1.0],
    [-1.0, np.nan, 0.0, 0.0, 1.0, 0.0, np.nan],
    [np.nan, np.nan, np.nan, 0.0, 0.0, 1.0, np.nan],
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_kind_of_column_gets_its_expectation(row):
    model, row = mixed(), np.float32(row)
    found = model.impute(row[None], num_samples=50_000, seed=1)[0]
    expected = by_quadrature(model, row)
    np.testing.assert_array_equal(found[~np.isnan(row)], row[~np.isnan(row)])
    np.testing.assert_allclose(
        found[:6], np.where(np.isnan(row), expected, row)[:6], atol=0.05
    )
    assert found[6] == (expected[6] if np.isnan(row[6]) else row[6])


def test_draws_of_a_table_are_values_that_its_columns_can_have():
    drawn = mixed().impute(np.float32(ROWS), num_samples=200, draws=50, seed=1)
    tv.check_values(drawn.reshape(-1, 7), mixed().decoder.layers[-1])


def test_a_block_that_does_not_factorise_is_filled_as_a_whole(rng):
    likelihood = tv.Blockwise([tv.IndependentNormal(1), tv.MultivariateNormalTriL(2)])
    decoder = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(likelihood.parameters_width),
            likelihood,
        ]
    )
    model = tv.VAE(constant_encoder(3, 1), decoder, tv.StandardNormal(1), missing="nan")
    x = rng.normal(size=(4, 3)).astype("float32")
    x[0, 1:] = x[1, 0] = np.nan
    assert np.isfinite(model.impute(x, 100)).all()
    x[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"does not factorise.*split the block"):
        model.impute(x, 100)


def test_integers_with_a_mark_are_filled_with_probabilities():
    decoder = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(2), tv.IndependentBernoulli(2)]
    )
    decoder.layers[0].set_weights([np.array([[3.0, 2.0]]), np.zeros(2)])
    model = tv.VAE(constant_encoder(2, 1), decoder, tv.StandardNormal(1), missing=-1)
    x = np.array([[1, -1], [-1, 0], [1, 1]], "int8")
    found = model.impute(x, 50_000, seed=1)

    def expected(first, second):
        def of(power):
            def density(z):
                bits = stats.bernoulli
                p = 1 / (1 + np.exp(-3 * z)), 1 / (1 + np.exp(-2 * z))
                known = (
                    bits.pmf(first, p[0]) if second is None else bits.pmf(second, p[1])
                )
                return (
                    known
                    * (p[1] if second is None else p[0]) ** power
                    * stats.norm.pdf(z)
                )

            return integrate.quad(density, -8, 8)[0]

        return of(1) / of(0)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], [1, expected(1, None)], atol=0.01)
    np.testing.assert_allclose(found[1], [expected(None, 0), 0], atol=0.01)
    np.testing.assert_array_equal(found[2], [1, 1])
    drawn = model.impute(x, 500, draws=40)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_array_equal(
        drawn[:, x != -1], np.broadcast_to(x[x != -1], (40, 4))
    )


def self_masking(**options):
    """x = z + noise, seen with probability sigmoid(0.3 - 2 x), and a second column."""
    decoder = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(2), tv.IndependentNormal(2, scale=0.5)]
    )
    decoder.layers[0].set_weights([np.array([[1.0, 0.6]]), np.zeros(2)])
    mask = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2), tv.IndependentBernoulli(2)]
    )
    mask.layers[0].set_weights([np.diag([-2.0, 0.0]), np.array([0.3, 9.0])])
    return tv.VAE(
        constant_encoder(2, 1),
        decoder,
        tv.StandardNormal(1),
        missing="nan",
        missing_model=mask,
        **options,
    )


def joint(x1, x2, seen):
    """p(x1, x2, mask) of `self_masking`, by the marginal normal."""
    covariance = np.array([[1.25, 0.6], [0.6, 0.36 + 0.25]])
    density = stats.multivariate_normal([0, 0], covariance).pdf([x1, x2])
    p = 1 / (1 + np.exp(-(0.3 - 2 * x1)))
    return density * (p if seen else 1 - p) / (1 + np.exp(-9.0))


def test_a_model_of_the_mask_is_part_of_the_evidence():
    model = self_masking()
    x = np.float32([[0.4, -0.2], [np.nan, 0.5]])
    found = model.log_prob(x, num_samples=100_000, seed=1)
    unseen = integrate.quad(lambda x1: joint(x1, 0.5, False), -8, 8)[0]
    expected = [np.log(joint(0.4, -0.2, True)), np.log(unseen)]
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_weights_and_masks_of_entries_also_weigh_the_model_of_the_mask(rng):
    """Weights of 0 leave nothing; weights of 2 count all twice."""
    model = self_masking()
    model.compile("sgd")
    x = rng.normal(size=(12, 2)).astype("float32")
    x[::3, 0] = np.nan
    z = model.draw_and_decode(model.posterior(tf.constant(x)), None, 1, [1, 2])
    once = model.terms(z, x).log_likelihood
    twice = model.terms(z, x, tf.fill([12, 2], 2.0)).log_likelihood
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    nothing = model.evaluate(
        x, sample_weight=np.zeros((12, 2)), verbose=0, return_dict=True
    )
    assert nothing["nll"] == 0.0


def test_imputation_knows_why_an_entry_is_missing():
    model = self_masking()
    x = np.float32([[np.nan, 0.5]])

    def moment(power):
        return integrate.quad(lambda x1: x1**power * joint(x1, 0.5, False), -8, 8)[0]

    mean = moment(1) / moment(0)
    spread = np.sqrt(moment(2) / moment(0) - mean**2)
    found = model.impute(x, 100_000, seed=1)
    assert abs(found[0, 0] - mean) < 0.02
    drawn = model.impute(x, 100_000, draws=4000, seed=1)[:, 0, 0]
    assert abs(drawn.mean() - mean) < 5 * spread / np.sqrt(4000)
    assert abs(drawn.std() / spread - 1) < 5 / np.sqrt(2 * 4000)
    # Without the mask the expectation is that of the normal distribution.
    plain = 0.6 / 0.61 * 0.5
    assert mean > plain + 0.2


@pytest.mark.parametrize("rows", [3, 4])
def test_a_numbered_category_is_filled_with_the_most_probable_given_the_mask(rows):
    """p(x = j | missing) is in proportion to p[j] sigmoid(2 j - 2), largest at 2."""
    p = np.array([0.5, 0.3, 0.2])
    assert np.argmax(p / (1 + np.exp(2 - 2 * np.arange(3)))) == 2
    likelihood = tv.Blockwise(
        [tv.IndependentCategorical(2, num_categories=3), tv.IndependentNormal(1)]
    )
    decoder = keras.Sequential([keras.Input((1,)), keras.layers.Dense(8), likelihood])
    bias = np.concatenate([np.log(p), np.log(p), [0.7, 0.0]])
    decoder.layers[0].set_weights([np.zeros((1, 8)), bias])
    mask = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3), tv.IndependentBernoulli(3)]
    )
    mask.layers[0].set_weights([np.diag([-2.0, -2.0, 0.0]), np.array([2.0, 2.0, 0.0])])
    model = tv.VAE(
        constant_encoder(3, 1),
        decoder,
        tv.StandardNormal(1),
        missing="nan",
        missing_model=mask,
    )
    x = np.float32([[0, 1, 0.2]] * rows)
    x[0, 0] = x[1, 2] = x[-1, 1] = np.nan
    found = model.impute(x, 5000, seed=1)
    assert found[0, 0] == found[-1, 1] == 2.0
    assert found[1, 2] == pytest.approx(0.7, abs=5 * np.log(2) / np.sqrt(5000))
    np.testing.assert_array_equal(found[~np.isnan(x)], x[~np.isnan(x)])


def test_a_model_of_the_mask_is_trained_and_saved(tmp_path, rng):
    """A trained logit of the mask finds the parameters that made it."""
    model = self_masking()
    z = rng.normal(size=(4000, 1))
    x = z * [1.0, 0.6] + 0.5 * rng.normal(size=(4000, 2))
    seen = rng.random(4000) < 1 / (1 + np.exp(-(0.3 - 2 * x[:, 0])))
    x[~seen, 0] = np.nan
    x = x.astype("float32")
    model.decoder.trainable = False
    mask = model.missing_model.layers[0]
    mask.set_weights([np.diag([0.0, 0.0]), np.array([0.0, 9.0])])
    bound = tv.ImportanceWeightedBound(10)
    trained = tv.VAE(
        model.encoder,
        model.decoder,
        model.prior,
        bound,
        missing="nan",
        missing_model=model.missing_model,
    )
    trained.compile(keras.optimizers.Adam(0.03))
    trained.fit(x, batch_size=200, epochs=25, verbose=0)
    weight, bias = mask.get_weights()
    # The error of a logistic regression of 4,000 rows, half of which are not seen.
    assert abs(weight[0, 0] + 2.0) < 0.5
    assert abs(bias[0] - 0.3) < 0.3
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    few = x[:20]
    np.testing.assert_allclose(
        loaded.log_prob(few, 50, seed=1), trained.log_prob(few, 50, seed=1), rtol=1e-6
    )


def with_mask_input(**options):
    x, observed = keras.Input((X,)), keras.Input((X,))
    h = keras.layers.Dense(2 * D)(keras.layers.concatenate([x, observed]))
    encoder = keras.Model([x, observed], tv.IndependentNormal(D)(h))
    return tv.VAE(
        encoder,
        linear_gaussian.decoder(),
        tv.StandardNormal(D),
        missing="nan",
        missing_input=True,
        **options,
    )


def test_the_encoder_sees_the_fill_and_the_mask(rng):
    _, gaps, holes = with_holes(6, rng)
    model = with_mask_input(missing_fill="learned")
    fill = np.float32([0.5, -1.0, 2.0, 3.0])
    (weight,) = [w for w in model.trainable_weights if "missing_fill" in w.path]
    np.testing.assert_array_equal(weight, np.zeros(X))
    weight.assign(fill)
    seen = model.encoder([np.where(gaps, fill, holes), (~gaps).astype("float32")])
    np.testing.assert_allclose(model.encode(holes).mean(), seen.mean(), rtol=1e-6)


def test_the_fill_is_trained_saved_and_exported(tmp_path, rng):
    _, _, holes = with_holes(64, rng)
    model = with_mask_input(missing_fill="learned")
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(holes, epochs=2, verbose=0)
    (weight,) = [w for w in model.trainable_weights if "missing_fill" in w.path]
    assert (np.abs(weight.numpy()) > 1e-4).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.missing_fill == "learned"
    assert loaded.missing_input
    np.testing.assert_array_equal(
        loaded.encode(holes).mean(), model.encode(holes).mean()
    )
    model.export(tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(
        served.reconstruct(holes), model.reconstruct(holes), rtol=1e-5
    )


def test_the_export_imputes(tmp_path, rng):
    x, gaps, holes = with_holes(4, rng)
    linear().export(tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served")
    found = served.impute(holes, tf.constant(40_000)).numpy()
    np.testing.assert_array_equal(found[~gaps], x[~gaps])
    for row, gap, values in zip(x, gaps, found, strict=True):
        mean, covariance = conditioned(row.astype("float64"), gap)
        assert (np.abs(values[gap] - mean) < 0.3 * np.sqrt(np.diag(covariance))).all()


def test_conditions_dictionaries_and_networks_without_inputs(rng):
    holes = np.ones((5, *vaes.PIXELS), "float32")
    holes[:, 0] = np.nan
    model = vaes.conditional(missing="nan", missing_fill="learned")
    assert np.isfinite(model.impute(holes, 20, y=vaes.labels(5))).all()
    drawn = model.impute(holes, 20, draws=3, y=vaes.labels(5))
    assert np.isfinite(drawn).all()
    assert drawn.shape == (3, *holes.shape)

    class Encoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.q = keras.layers.Dense(2 * D), tv.IndependentNormal(D)

        def call(self, inputs):
            return self.q(self.dense(keras.ops.concatenate(inputs, axis=-1)))

    _, _, holes = with_holes(8, rng)
    model = tv.VAE(
        Encoder(),
        linear_gaussian.decoder(),
        tv.StandardNormal(D),
        missing="nan",
        missing_fill="learned",
        missing_input=True,
    )
    model.compile("adam")
    model.fit(holes, verbose=0)
    assert np.isfinite(model.impute(holes, 20)).all()

    x = keras.Input((X,), name="x")
    side = keras.Input((1,), name="side")
    h = keras.layers.Dense(2 * D)(keras.layers.concatenate([x, side]))
    encoder = keras.Model({"x": x, "side": side}, tv.IndependentNormal(D)(h))
    model = tv.VAE(
        encoder,
        linear_gaussian.decoder(),
        tv.StandardNormal(D),
        target="x",
        missing="nan",
        missing_fill="learned",
    )
    inputs = {"x": holes, "side": np.ones((8, 1), "float32")}
    assert model.impute(inputs, 20).shape == holes.shape
    given = np.isnan(holes) | (np.arange(X) == np.isnan(holes).argmin(1)[:, None])
    assert model.log_prob(inputs, 20, given=~given).shape == (8,)


def test_random_weights_and_no_gaps(rng):
    decoder = keras.Sequential(
        [
            keras.Input((D,)),
            tv.DenseReparameterization(X),
            tv.IndependentNormal(X, scale=0.5),
        ]
    )
    model = tv.VAE(constant_encoder(), decoder, tv.StandardNormal(D), missing="nan")
    x, _, holes = with_holes(4, rng)
    assert np.isfinite(model.impute(holes, 50, seed=1)).all()
    drawn = model.impute(holes, 50, draws=4, seed=1)
    assert np.isfinite(drawn).all()
    found = model.impute(x, 50)
    np.testing.assert_array_equal(found, x)
    found[0, 0] = 5.0  # an array of its own
    assert x[0, 0] != 5.0
    np.testing.assert_array_equal(model.impute(x, 50, draws=2), [x, x])


def test_a_mean_that_does_not_exist_is_an_error(rng):
    def build(law):
        decoder = keras.Sequential(
            [keras.Input((D,)), keras.layers.Dense(X), tv.DistributionLambda(law)]
        )
        return tv.VAE(constant_encoder(), decoder, tv.StandardNormal(D), missing="nan")

    _, _, holes = with_holes(4, rng)
    cauchy = build(lambda t: tfd.Independent(tfd.Cauchy(t, 1.0), 1))
    with pytest.raises(ValueError, match=r"finite mean.*`draws=20`"):
        cauchy.impute(holes, 20)
    assert np.isfinite(cauchy.impute(holes, 20, draws=2)).all()


def test_sequences_may_end_before_the_longest_one(rng):
    """Steps share weights: a step that is missing in all rows is no error."""
    encoder = keras.Sequential(
        [
            keras.Input((5, 2)),
            keras.layers.GRU(4),
            keras.layers.Dense(2 * D),
            tv.IndependentNormal(D),
        ]
    )
    decoder = keras.Sequential(
        [keras.Input((D,)), keras.layers.Dense(20), tv.IndependentNormal((5, 2))]
    )
    model = tv.VAE(encoder, decoder, tv.StandardNormal(D), missing="nan")
    model.compile("adam")
    x = rng.normal(size=(6, 5, 2)).astype("float32")
    x[:, 4] = np.nan
    assert np.isfinite(model.fit(x, verbose=0).history["loss"]).all()


def test_a_vamp_prior_names_an_encoder_of_several_inputs():
    with pytest.raises(ValueError, match=r"one input.*2 inputs.*MixturePrior"):
        tv.VampPrior(with_mask_input().encoder, num_components=3)


BAD = {
    "no missing": (
        lambda: linear(missing=None).impute(np.ones((2, X))),
        r"incomplete examples.*missing='nan'",
    ),
    "an empty row": (
        lambda: linear().impute(np.full((2, X), np.nan)),
        r"in each row.*2 of 2 rows.*Leave these rows out",
    ),
    "an empty row in fit": (
        lambda: vaes.vae(
            q=constant_encoder(),
            p=linear_gaussian.decoder(),
            prior=tv.StandardNormal(D),
            missing="nan",
        ).fit(np.r_[np.ones((3, X)), np.full((1, X), np.nan)]),
        r"`fit` expects an observed entry in each row.*1 of 4 rows",
    ),
    "an empty column in fit": (
        lambda: vaes.vae(
            q=constant_encoder(),
            p=linear_gaussian.decoder(),
            prior=tv.StandardNormal(D),
            missing="nan",
        ).fit(np.where(np.arange(X) == 2, np.nan, np.ones((5, X)))),
        r"each entry to be observed.*1 of 4.*x\[:, 2\].*Leave them out",
    ),
    "draws": (lambda: linear().impute(np.ones((2, X)), draws=0), "draws.*0"),
    "num_samples": (lambda: linear().impute(np.ones((2, X)), 0.5), "num_samples"),
    "y": (lambda: linear().impute(np.ones((2, X)), y=np.ones((2, X))), "Leave it out"),
    "mask of another shape": (
        lambda: linear().log_prob(np.ones((2, X)), given=np.ones((2, 3), bool)),
        r"booleans in the shape of x, \(2, 4\).*\(2, 3\)",
    ),
    "mask of numbers": (
        lambda: linear().log_prob(np.ones((2, X)), given=np.ones((2, X))),
        r"booleans.*float64",
    ),
    "everything given": (
        lambda: linear().log_prob(np.ones((2, X)), given=np.ones(X, bool)),
        r"leave an observed entry.*2 of 2 examples",
    ),
    "given without missing": (
        lambda: linear(missing=None).log_prob(np.ones((2, X)), given=np.ones(X, bool)),
        r"`given` expects a model with `missing`",
    ),
    "given with a model of the mask": (
        lambda: self_masking().log_prob(np.ones((2, 2)), given=[True, False]),
        r"without a missing_model",
    ),
    "fill": (lambda: linear(missing_fill="mean"), r"None, for 0, or 'learned'"),
    "fill without missing": (
        lambda: linear(missing=None, missing_fill="learned"),
        r"missing_fill together with `missing`",
    ),
    "input": (lambda: linear(missing_input="yes"), "missing_input"),
    "an encoder without the input": (
        lambda: linear(missing_input=True).impute(np.ones((2, X))),
        r"are the list \[x, observed\]. Received: an encoder with 1 input\.",
    ),
    "model": (lambda: linear(missing_model=3), "missing_model=3"),
    "model of another shape": (
        lambda: linear(missing_model=constant_encoder()).log_prob(np.ones((2, X))),
        r"event shape of x, \(4,\). Received: event shape \(2,\)",
    ),
}


@pytest.mark.parametrize(("call", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=f"(?s){match}"):
        call()


def test_a_discrete_likelihood_has_no_gradient_through_drawn_entries():
    decoder = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(2), tv.IndependentBernoulli(2)]
    )
    mask = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2), tv.IndependentBernoulli(2)]
    )
    model = tv.VAE(
        constant_encoder(2, 1),
        decoder,
        tv.StandardNormal(1),
        missing="nan",
        missing_model=mask,
    )
    model.compile("adam")
    x = np.float32([[0, np.nan], [1, 1]])
    with pytest.raises(ValueError, match=r"reparameterised.*leave `missing_model` out"):
        model.fit(x, verbose=0)


@pytest.mark.parametrize("jit_compile", [False, True, "auto"])
def test_training_with_a_model_of_the_mask_in_every_mode(jit_compile, rng):
    _, _, holes = with_holes(256, rng)
    mask = keras.Sequential(
        [keras.Input((X,)), keras.layers.Dense(X), tv.IndependentBernoulli(X)]
    )
    model = with_mask_input(missing_fill="learned", missing_model=mask)
    model.compile("adam", jit_compile=jit_compile)
    history = model.fit(holes, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][1] < history["loss"][0]


def test_sparse_examples_are_those_of_a_dense_array(rng):
    x = (rng.normal(size=(12, X)) * (rng.random((12, X)) < 0.6)).astype("float32")
    x[:, 3] = 1.0
    model = linear(missing=0)
    for matrix in (sparse.csr_matrix(x), sparse.csc_matrix(x)):
        np.testing.assert_array_equal(
            model.impute(matrix, 50, seed=1), model.impute(x, 50, seed=1)
        )
        given = [True, True, False, False]
        np.testing.assert_array_equal(
            model.log_prob(matrix, 50, given=given, seed=1),
            model.log_prob(x, 50, given=given, seed=1),
        )


def test_the_model_of_the_mask_is_trained_in_training_mode(rng):
    """Moving averages of its inputs, and units left out."""
    dropout = keras.layers.Dropout(0.5, seed=1)
    mask = keras.Sequential(
        [
            keras.Input((X,)),
            keras.layers.BatchNormalization(momentum=0.0),
            dropout,
            keras.layers.Dense(X),
            tv.IndependentBernoulli(X),
        ]
    )
    holes = with_holes(64, rng)[2]
    model = linear(missing_model=mask)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    seed = dropout.seed_generator.state.numpy()
    model.evaluate(holes, verbose=0)
    mean = mask.layers[0].moving_mean
    np.testing.assert_array_equal(mean.numpy(), np.zeros(X))
    np.testing.assert_array_equal(dropout.seed_generator.state.numpy(), seed)
    model.fit(holes, batch_size=64, verbose=0)
    assert np.abs(mean.numpy()).min() > 0
    assert (dropout.seed_generator.state.numpy() != seed).any()
