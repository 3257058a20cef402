"""Coverage, PIT, reliability and conformal intervals, where the truth is known."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

import tfp_vae as tv
from tfp_vae.entries import quantile_of_entries

tfd = tfp.distributions
N = 4000


def exact(name, n=N, seed=0):
    """A prediction, and targets drawn by NumPy from that very distribution."""
    rng = np.random.default_rng(seed)
    loc, scale = rng.normal(size=(n, 2)), rng.uniform(0.3, 2, size=(n, 2))
    rate = rng.uniform(0.2, 9, size=n)
    which = rng.uniform(size=n) < 0.3
    return {
        "normal": lambda: (
            tfd.Independent(tfd.Normal(loc, scale), 1),
            rng.normal(loc, scale),
        ),
        "multivariate": lambda: (
            tfd.MultivariateNormalTriL(loc, tf.linalg.diag(scale)),
            rng.normal(loc, scale),
        ),
        "gamma": lambda: (tfd.Gamma(2.0, 1 / rate), rng.gamma(2.0, rate)),
        "mixture": lambda: (
            tfd.MixtureSameFamily(
                tfd.Categorical(probs=np.tile([0.3, 0.7], (n, 1))),
                tfd.Normal(loc, scale),
            ),
            rng.normal(
                np.where(which, loc[:, 0], loc[:, 1]),
                np.where(which, scale[:, 0], scale[:, 1]),
            ),
        ),
        "poisson": lambda: (tfd.Poisson(rate), rng.poisson(rate)),
        "zeros": lambda: (
            tfd.Inflated(tfd.Poisson(rate), inflated_loc_logits=np.zeros(n)),
            rng.poisson(rate) * (rng.uniform(size=n) < 0.5),
        ),
    }[name]()


NAMES = ["normal", "multivariate", "gamma", "mixture", "poisson", "zeros"]
COUNTS = ("poisson", "zeros")


@pytest.mark.parametrize("name", NAMES)
def test_exact_predictions_cover_as_they_say(name):
    p, y = exact(name, 1000)
    for level in (0.5, 0.9):
        deviation = np.sqrt(level * (1 - level) / y.size)
        found = tv.evaluation.coverage(p, y, level)
        assert found > level - 4 * deviation
        if name not in COUNTS:
            assert found < level + 4 * deviation
        metric = tv.Coverage(level)
        metric.update_state(y, p)
        assert float(metric.result()) == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_transforms_of_exact_predictions_are_uniform(name):
    p, y = exact(name)
    u = tv.evaluation.pit(p, y, seed=1)
    assert u.shape == y.shape
    assert stats.kstest(np.ravel(u), "uniform").pvalue > 1e-3
    np.testing.assert_array_equal(u, tv.evaluation.pit(p, y, seed=1))
    # The same of a prediction that is wrong.
    assert stats.kstest(np.ravel(u) ** 1.3, "uniform").pvalue < 1e-6
    error = tv.evaluation.expected_calibration_error(p, y, seed=1)
    assert error < 1.5 / np.sqrt(y.size)


def test_a_narrow_prediction_is_not_calibrated():
    p, y = exact("normal")
    narrow = tfd.Independent(tfd.Normal(p.mean(), p.stddev() / 3), 1)
    want = 1 - 2 * stats.norm.sf(stats.norm.ppf(0.95) / 3)
    assert tv.evaluation.coverage(narrow, y) == pytest.approx(want, abs=0.03)
    levels = np.arange(1, 100) / 100
    gaps = abs(stats.norm.cdf(stats.norm.ppf(levels) / 3) - levels)
    found = tv.evaluation.expected_calibration_error(narrow, y)
    assert found == pytest.approx(gaps.mean(), abs=0.02)


def test_the_interval_score_is_smallest_for_the_right_scale():
    p, y = exact("normal", n=2000)
    loc, scale = p.mean().numpy(), p.stddev().numpy()
    z = stats.norm.ppf(0.95)
    low, high = loc - z * scale, loc + z * scale
    want = high - low + 20 * np.maximum(low - y, 0) + 20 * np.maximum(y - high, 0)
    found = tv.evaluation.interval_score(p, y, 0.9)
    assert found == pytest.approx(want.mean(), rel=1e-5)
    metric = tv.IntervalScore(0.9)
    metric.update_state(y, p)
    assert float(metric.result()) == pytest.approx(want.mean(), rel=1e-5)
    for factor in (0.5, 2.0):
        wrong = tfd.Independent(tfd.Normal(loc, factor * scale), 1)
        assert tv.evaluation.interval_score(wrong, y, 0.9) > 1.05 * found


def test_the_crps_of_exact_predictions():
    p, y = exact("normal")
    score = tv.evaluation.crps(p, y)
    # E CRPS = scale / sqrt(pi).
    want = np.mean(p.stddev()) / np.sqrt(np.pi)
    assert score == pytest.approx(want, rel=0.03)
    metric = tv.CRPS()
    metric.update_state(y, p)
    assert float(metric.result()) == pytest.approx(score, rel=1e-5)
    flat = tfd.Normal(p.mean()[:, 0], p.stddev()[:, 0])
    by_energy = tv.evaluation.energy_score(flat, y[:, 0], 20, seed=1)
    assert by_energy == pytest.approx(tv.evaluation.crps(flat, y[:, 0]), rel=0.05)


def classes(kind, n=20_000, sharper=1.0):
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.normal(size=(n, 4))
    truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (truth.cumsum(1) > rng.uniform(size=(n, 1))).argmax(1)
    p = tfd.Categorical(logits=sharper * logits)
    if kind == "one-hot":
        return tfd.OneHotCategorical(logits=sharper * logits), np.eye(4)[y], truth
    if kind == "mixture":
        both = np.stack([sharper * logits] * 2, axis=1)
        p = tfd.MixtureSameFamily(
            tfd.Categorical(probs=[0.3, 0.7]), tfd.Categorical(logits=both)
        )
    return p, y, truth


@pytest.mark.parametrize("kind", ["categorical", "one-hot", "mixture"])
def test_right_probabilities_of_classes_are_reliable(kind):
    p, y, _ = classes(kind)
    found = tv.evaluation.reliability(p, y, bins=8)
    assert found.counts.sum() == len(y)
    deviation = np.sqrt(found.predicted * (1 - found.predicted) / found.counts)
    assert np.all(abs(found.observed - found.predicted) < 4 * deviation)
    assert tv.evaluation.expected_calibration_error(p, y) < 0.02


def test_overconfident_classes_are_found():
    p, y, truth = classes("categorical", sharper=3.0)
    confidence = p.probs_parameter().numpy().max(1)
    want = np.mean(confidence - truth.max(1))  # the sign is the same in each bin
    found = tv.evaluation.expected_calibration_error(p, y)
    assert want > 0.15
    assert found == pytest.approx(want, abs=0.01)


def test_pixels_are_classes():
    rng = np.random.default_rng(0)
    probs = rng.uniform(size=(500, 3, 2))
    p = tfd.Independent(tfd.Bernoulli(probs=probs), 2)
    y = rng.uniform(size=probs.shape) < probs
    found = tv.evaluation.reliability(p, y, bins=5)
    assert found.predicted.min() >= 0.5
    assert found.counts.sum() == 3000
    assert np.all(abs(found.predicted - found.observed) < 0.1)
    assert tv.evaluation.expected_calibration_error(p, ~y) > 0.3


@pytest.mark.parametrize("method", ["quantile", "scaled"])
def test_conformal_intervals_cover_with_a_wrong_model(method):
    """As the theorem says, over calibration sets: level <= P <= level + 1 / (n + 1)."""
    rng = np.random.default_rng(0)
    n, repeats, level = 39, 150, 0.8
    inside = []
    for _ in range(repeats):
        x = rng.uniform(-1, 1, size=n + 40)
        y = np.exp(x) * rng.standard_t(3, size=n + 40) + x**2
        p = lambda part: tfd.Normal(0.3 * x[part], 0.2 + 0 * x[part])  # noqa: B023, E731
        fit, test = slice(0, n), slice(n, None)
        low, high = tv.evaluation.conformal_intervals(
            p(fit), y[fit], p(test), level, method
        )
        assert tv.evaluation.coverage(p(fit), y[fit], level) < 0.5
        inside.append(np.mean((low <= y[test]) & (y[test] <= high)))
    mean, error = np.mean(inside), np.std(inside) / np.sqrt(repeats)
    assert level - 4 * error < mean < level + 1 / (n + 1) + 4 * error


def test_the_rank_is_that_of_the_finite_sample():
    # With 9 scores and a level of 0.9 it is the largest, with 0.95 infinite.
    p = tfd.Independent(tfd.Normal(tf.zeros([9, 2]), 1.0), 1)
    y = np.stack([np.arange(9.0), -np.arange(9.0) / 2], axis=1)
    test = tfd.Independent(tfd.Normal(tf.zeros([3, 2]), [1.0, 2.0]), 1)
    low, high = tv.evaluation.conformal_intervals(p, y, test, 0.9, "scaled")
    np.testing.assert_allclose(high, np.tile([8.0, 8.0], (3, 1)), rtol=1e-5)
    np.testing.assert_allclose(low, -high, rtol=1e-5)
    low, high = tv.evaluation.conformal_intervals(p, y, test, 0.95)
    assert np.all(np.isposinf(high))
    assert np.all(np.isneginf(low))


def test_columns_are_vectors():
    p = tfd.Independent(tfd.Normal(np.zeros((3, 1)), 1.0), 1)
    y = np.array([0.0, 1.0, 9.0])
    for fn in (
        tv.evaluation.crps,
        tv.evaluation.coverage,
        tv.evaluation.interval_score,
    ):
        assert fn(p, y) == fn(p, y[:, None])
    assert tv.evaluation.pit(p, y).shape == (3, 1)
    layer = tv.IndependentNormal(1)(tf.zeros([3, 2]))
    assert tv.evaluation.coverage(layer, y, 0.9) == pytest.approx(2 / 3)


def test_transforms_at_a_jump_are_uniform_beside_continuous_parts():
    """All targets are 0: below it there is no probability."""
    zeros = np.zeros(N)
    gamma = tfd.Gamma(np.full(N, 2.0), 1.0)
    with pytest.warns(UserWarning, match="Inflated"):
        inflated = tfd.Inflated(gamma, inflated_loc_probs=np.full(N, 0.5))
    u = tv.evaluation.pit(inflated, zeros, seed=0)
    assert stats.kstest(u, stats.uniform(0, 0.5).cdf).pvalue > 1e-3
    blocks = tfd.Blockwise(
        [
            tfd.Sample(tfd.Normal(tf.zeros(N), 1.0), 1),
            tfd.Sample(tfd.Poisson(tf.fill([N], 0.1)), 1),
        ]
    )
    u = tv.evaluation.pit(blocks, np.stack([zeros, zeros], 1), seed=0)
    assert (u[:, 0] == 0.5).all()
    assert stats.kstest(u[:, 1], stats.uniform(0, np.exp(-0.1)).cdf).pvalue > 1e-3


def test_unknown_predictions_have_no_calibration():
    normal = tfd.Normal([np.nan, 0.0], 1.0)
    assert np.isnan(tv.evaluation.coverage(normal, [0.0, 0.0]))
    for p in (normal, tfd.Categorical(logits=[[np.nan, 0.0], [0.0, 0.0]])):
        for function in ("reliability", "expected_calibration_error"):
            with pytest.raises(ValueError, match="without NaN. Received: .* 1 of 2"):
                getattr(tv.evaluation, function)(p, [0, 0])


@pytest.mark.parametrize("df", [0.9, 1.5])
def test_scaled_intervals_need_a_standard_deviation(df):
    p, y = tfd.StudentT(np.full(9, df), 0.0, 1.0), np.arange(-4.0, 5.0)
    with pytest.raises(ValueError, match="finite standard deviations. Received: Stu"):
        tv.evaluation.conformal_intervals(p, y, p, 0.8, "scaled")
    low, high = tv.evaluation.conformal_intervals(p, y, p, 0.8)
    assert np.isfinite(high - low).all()


def test_mistakes_are_explained():
    e = tv.evaluation
    p, y = exact("normal", n=4)
    for fn in (e.coverage, e.interval_score):
        for level in (0, 1, -0.5, 90, np.nan, "0.9", True):
            with pytest.raises(ValueError, match=r"between 0 and 1.*Received.*Give"):
                fn(p, y, level)
    with pytest.raises(ValueError, match=r"between 0 and 1.*Received.*Give"):
        e.conformal_intervals(p, y, p, 1.0)
    for cls in (tv.Coverage, tv.IntervalScore):
        with pytest.raises(ValueError, match=r"between 0 and 1.*Received.*Give"):
            cls(90)
    for fn in (e.crps, e.coverage, e.pit, e.reliability, e.energy_score):
        with pytest.raises(
            ValueError, match=rf"`{fn.__name__}` expects.*Received.*Resh"
        ):
            fn(p, y[:, :1])
        with pytest.raises(ValueError, match=r"distribution for each.*Received.*Give"):
            fn(y, y)
        with pytest.raises(ValueError, match=r"without NaN.*Received"):
            fn(p, np.nan * y)
    flow = tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag(tf.zeros([3, 2])), tfp.bijectors.Permute([1, 0])
    )
    for fn in (e.coverage, e.pit, e.interval_score):
        with pytest.raises(ValueError, match=r"known distribution function.*Received"):
            fn(flow, np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"batch shapes \(n,\).*Received.*Independent"):
        e.conformal_intervals(p, y, tfd.Normal(np.zeros(3), 1.0))
    with pytest.raises(ValueError, match=r"method.*Received"):
        e.conformal_intervals(p, y, p, 0.9, "mean")
    with pytest.raises(ValueError, match=r"at least 2.*Received"):
        e.reliability(p, y, bins=1)


def outcomes(n, values=(0.5, 1.0, 1.5), seed=0):
    """A prediction of fractional outcomes, and targets drawn from it."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(len(values)), size=n)
    which = (rng.uniform(size=(n, 1)) > probs.cumsum(axis=1)).sum(axis=1)
    return tfd.FiniteDiscrete(np.float32(values), probs=np.float32(probs)), (
        np.float32(values)[np.minimum(which, len(values) - 1)]
    )


def test_fractional_outcomes_have_the_jumps_of_their_distribution():
    p, y = outcomes(N)
    u = tv.evaluation.pit(p, y, seed=1)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert stats.kstest(u**1.3, "uniform").pvalue < 1e-6
    assert ((u >= 0) & (u <= 1)).all()
    several = tfd.MixtureSameFamily(
        tfd.Categorical(probs=[0.5, 0.5]),
        tfd.FiniteDiscrete([0.5, 1.0, 1.5], probs=[[0.9, 0.1, 0.0], [0.0, 0.1, 0.9]]),
    )
    np.testing.assert_array_equal(
        quantile_of_entries(several, [0.2, 0.5, 0.7, 0.9]),
        np.float32([0.5, 1, 1.5, 1.5]),
    )
    sure = tfd.FiniteDiscrete(
        [0.5, 1.0, 1.5], probs=np.tile([0.01, 0.01, 0.98], (9, 1))
    )
    assert tv.evaluation.coverage(sure, np.full(9, 1.5), 0.9) == 1
    assert tv.evaluation.coverage(sure, np.full(9, 1.0), 0.9) == 0


@pytest.mark.parametrize("at", [0.0, 0.5, 2.5, 3.0, -1e-3, 1e10])
def test_intervals_that_end_at_an_atom_contain_it(at):
    n = 7
    where = np.full(n, at, "float32")
    p = tfd.Mixture(
        tfd.Categorical(probs=np.tile(np.float32([0.97, 0.03]), (n, 1))),
        [tfd.Deterministic(where), tfd.Normal(where - 1, 1e-3)],
    )
    assert tv.evaluation.coverage(p, where, 0.9) == 1
    assert tv.evaluation.coverage(p, where + 1, 0.9) == (at == 1e10)


@pytest.mark.parametrize(
    ("p", "y"),
    [
        (tfd.Bernoulli(probs=[0.9, 0.9]), [0.9, 0.9]),
        (tfd.Categorical(probs=[[0.9, 0.1]] * 2), [0, 2]),
        (tfd.Categorical(probs=[[0.9, 0.1]] * 2), [0, -1]),
        (tfd.OneHotCategorical(probs=[[0.9, 0.1]] * 2), [[0.9, 0.1], [1, 0]]),
    ],
    ids=["grey", "beyond", "unknown", "soft"],
)
def test_targets_that_are_no_classes_are_an_error(p, y):
    with pytest.raises(ValueError, match="targets that are classes.*Received"):
        tv.evaluation.expected_calibration_error(p, y)


def test_classes_in_double_precision_have_intervals():
    probs = np.array([[0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    p = tfd.Categorical(probs=probs)
    assert tv.evaluation.coverage(p, [1, 0], 0.5) == 1
    u = tv.evaluation.pit(p, [1, 2], seed=0)
    assert 0.1 < u[0] < 0.9
    assert 0.6 < u[1] < 1
    assert np.isfinite(tv.evaluation.crps(tfd.Bernoulli(logits=np.zeros(2)), [0, 1]))
