"""Predictions averaged over random weights: Bayesian regression is the truth."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading

import keras
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp
from families import FAMILIES
from linear_gaussian import SCALE, B, D, W, X
from scipy import stats
from scipy.special import logsumexp

import tfp_vae as tv
from tfp_vae.weights.random_weights import RandomWeights

tfd = tfp.distributions

NOISE = 0.6
FEATURES = 3


@keras.saving.register_keras_serializable("tests")
class GaussianDense(RandomWeights):
    """w ~ N(mean, covariance) for all weights of a dense layer, the bias last."""

    def __init__(self, mean, covariance, **kwargs):
        super().__init__(**kwargs)
        self.mean = np.asarray(mean, "float32")
        self.factor = np.linalg.cholesky(covariance).astype("float32")
        self.built = True

    def call(self, x):
        shape = [self.mean.size, 1]
        noise = tf.random.stateless_normal(shape, self.next_seed("weights"))
        w = self.mean + tf.reshape(self.factor @ noise, self.mean.shape)
        return tf.convert_to_tensor(x) @ w[:-1] + w[-1]


class Regression:
    """y = w x + b + noise with w, b ~ N(0, I): its posterior and its predictions."""

    def __init__(self, rng, n=30):
        self.x = rng.normal(size=(n, FEATURES))
        w = rng.normal(size=FEATURES + 1)
        self.y = self.design(self.x) @ w + NOISE * rng.normal(size=n)
        design = self.design(self.x)
        precision = np.eye(FEATURES + 1) + design.T @ design / NOISE**2
        self.covariance = np.linalg.inv(precision)
        self.mean = self.covariance @ design.T @ self.y / NOISE**2

    @staticmethod
    def design(x):
        return np.hstack([x, np.ones((len(x), 1))])

    def model(self, module=tv, **kwargs):
        return module.Sequential(
            [
                keras.Input((FEATURES,)),
                GaussianDense(self.mean[:, None], self.covariance),
                tv.IndependentNormal(1, scale=NOISE, **kwargs),
            ]
        )

    def predicted(self, x):
        """Mean, and variance from the weights."""
        design = self.design(x)
        spread = np.einsum("ni,ij,nj->n", design, self.covariance, design)
        return (design @ self.mean)[:, None], spread[:, None]


@pytest.fixture(scope="module")
def regression():
    return Regression(np.random.default_rng(5))


@pytest.fixture(scope="module")
def far():
    """Rows near the data and far from them."""
    return np.linspace(-3, 3, 21).reshape(7, 3)


def deterministic(loc, scale, layer=tv.IndependentNormal, module=keras):
    """A model of known location and scale, whatever the row, plus the row's sum."""
    loc = np.atleast_1d(np.asarray(loc, "float32"))
    dense = keras.layers.Dense(loc.size, kernel_initializer="ones")
    model = module.Sequential(
        [keras.Input((2,)), dense, layer(loc.size, scale=float(scale))]
    )
    dense.bias.assign(loc)
    return model


@pytest.mark.parametrize("module", [tv, keras])
def test_exact_bayesian_regression(regression, far, module):
    draws = 2000
    p = tv.predictive(regression.model(module), far, draws, seed=3, verbose=0)
    mean, spread = regression.predicted(far)
    assert isinstance(p, tfd.Distribution)
    assert p.batch_shape == (7,)
    assert p.event_shape == (1,)
    # 5 standard errors.
    assert (np.abs(p.mean() - mean) < 5 * np.sqrt(spread / draws)).all()
    error = 5 * np.sqrt(2 / draws)
    np.testing.assert_allclose(p.epistemic_stddev() ** 2, spread, rtol=error)
    np.testing.assert_allclose(p.aleatoric_stddev(), np.full((7, 1), NOISE), rtol=1e-5)
    np.testing.assert_allclose(p.variance(), spread + NOISE**2, rtol=error)
    truth = stats.norm(mean, np.sqrt(spread + NOISE**2))
    low, high = p.quantile([0.05, 0.95]).numpy()
    coverage = truth.cdf(high) - truth.cdf(low)
    np.testing.assert_allclose(coverage, 0.9, atol=0.02)
    np.testing.assert_allclose(p.cdf(mean), truth.cdf(mean), atol=0.04)
    y = mean + 0.5
    np.testing.assert_allclose(p.log_prob(y), truth.logpdf(y)[:, 0], atol=0.05)


def test_the_spread_has_two_parts(regression, far):
    p = tv.predictive(regression.model(), far, 20)
    parts = p.epistemic_stddev() ** 2 + p.aleatoric_stddev() ** 2
    np.testing.assert_allclose(parts, p.stddev() ** 2, rtol=1e-6)
    np.testing.assert_allclose(parts, p.variance(), rtol=1e-6)


def test_pieces_are_predicted_with_the_same_weights(regression, far):
    model = regression.model()
    whole = tv.predictive(model, far, 5, seed=1)
    for rows in (1, 3, 100):
        pieces = tv.predictive(model, far, 5, seed=1, batch_size=rows)
        np.testing.assert_allclose(pieces.mean(), whole.mean(), atol=1e-5)
        np.testing.assert_allclose(
            pieces.components_distribution.mean(),
            whole.components_distribution.mean(),
            atol=1e-5,
        )
    # Each draw is linear in x, which needs one draw of the weights for all rows.
    means = whole.components_distribution.mean()[..., 0].numpy()
    design = Regression.design(far)
    residual = means - design @ np.linalg.lstsq(design, means, rcond=None)[0]
    assert np.abs(residual).max() < 1e-4
    other = tv.predictive(model, far, 5, seed=2)
    assert np.abs(other.mean() - whole.mean()).max() > 1e-3
    keras.utils.set_random_seed(4)
    one = tv.predictive(model, far, 5).mean()
    new = tv.predictive(model, far, 5).mean()
    keras.utils.set_random_seed(4)
    np.testing.assert_array_equal(one, tv.predictive(model, far, 5).mean())
    assert np.abs(one - new).max() > 1e-3


def posterior(kernel_size, bias_size, dtype=None):
    size = kernel_size + bias_size
    return keras.Sequential(
        [
            tv.VariableLayer(tv.IndependentNormal.params_size(size)),
            tv.IndependentNormal(size),
        ]
    )


def prior(kernel_size, bias_size, dtype=None):
    return tv.StandardNormal(kernel_size + bias_size)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: tv.DenseFlipout(2),
        lambda: tv.DenseReparameterization(2),
        lambda: tv.DenseLocalReparameterization(2),
        lambda: tv.DenseVariational(2, posterior, prior),
        lambda: tv.Variational(keras.layers.Dense(2)),
        lambda: tv.Variational(tv.Sequential([keras.layers.Dense(2)])),
    ],
    ids=["flipout", "plain", "local", "variational", "wrapped", "wrapped model"],
)
def test_one_draw_of_the_weights_serves_all_rows(layer, far):
    model = tv.Sequential([keras.Input((FEATURES,)), layer(), tv.IndependentNormal(1)])
    whole = tv.predictive(model, far, 6, seed=1)
    pieces = tv.predictive(model, far, 6, seed=1, batch_size=2)
    np.testing.assert_allclose(pieces.stddev(), whole.stddev(), atol=1e-5)
    means = whole.components_distribution.mean()[..., 0].numpy()
    assert len(np.unique(means[0])) == 6
    # Each draw is linear in x.
    design = Regression.design(far)
    residual = means - design @ np.linalg.lstsq(design, means, rcond=None)[0]
    assert np.abs(residual).max() < 1e-4


def test_data_of_every_form(regression, far):
    model = regression.model()
    expected = tv.predictive(model, far, 5, seed=1).mean()
    x = far.astype("float32")
    for data in (
        x.tolist(),
        tf.constant(x),
        tf.data.Dataset.from_tensor_slices(x).batch(3),
        tf.data.Dataset.from_tensor_slices((x, x[:, 0])).batch(3),
    ):
        found = tv.predictive(model, data, 5, seed=1)
        np.testing.assert_allclose(found.mean(), expected, atol=1e-5)
    inputs = {name: keras.Input((FEATURES,), name=name) for name in ("a", "b")}
    both = keras.layers.Add()(list(inputs.values()))
    named = tv.Model(inputs, model(both))
    found = tv.predictive(named, {"a": x / 4, "b": 3 * x / 4}, 5, seed=1, batch_size=3)
    np.testing.assert_allclose(found.mean(), expected, atol=1e-5)


LOCS, SCALES = (
    np.array([[-1.0, 0.5], [3.0, 0.0], [0.0, 9.0]]),
    np.array([0.5, 2.0, 1.0]),
)


def ensemble(**kwargs):
    pairs = zip(LOCS, SCALES, strict=True)
    return [deterministic(loc, scale, **kwargs) for loc, scale in pairs]


def test_an_ensemble_is_the_mixture(rng):
    x = rng.normal(size=(4, 2))
    p = tv.predictive(ensemble(), x)
    means = LOCS + x.sum(1)[:, None, None]
    scales = SCALES[:, None]
    np.testing.assert_allclose(p.mean(), means.mean(1), rtol=1e-5)
    variance = means.var(1) + (SCALES**2).mean()
    np.testing.assert_allclose(p.variance(), variance, rtol=1e-5)
    np.testing.assert_allclose(p.epistemic_stddev(), means.std(1), rtol=1e-4)
    covariance = [
        np.cov(m.T, bias=True) + np.eye(2) * (SCALES**2).mean() for m in means
    ]
    np.testing.assert_allclose(p.covariance(), covariance, rtol=1e-4, atol=1e-5)
    # The last value is in the tail of all.
    for y in (
        rng.normal(size=(4, 2)),
        rng.normal(size=(5, 4, 2)),
        np.full((4, 2), 90.0),
    ):
        each = stats.norm.logpdf(y[..., None, :], means, scales).sum(-1)
        truth = logsumexp(each, axis=-1) - np.log(3)
        np.testing.assert_allclose(p.log_prob(y), truth, rtol=2e-5)
        cdf = stats.norm.cdf(y[..., None, :], means, scales).mean(-2)
        np.testing.assert_allclose(p.cdf(y), cdf, atol=1e-6)
        np.testing.assert_allclose(p.survival_function(y), 1 - cdf, atol=1e-6)
    levels = np.array([0.01, 0.3, 0.5, 0.99])
    quantiles = p.quantile(levels)
    assert quantiles.shape == (4, 4, 2)
    reached = stats.norm.cdf(quantiles.numpy()[:, :, None], means, scales).mean(-2)
    np.testing.assert_allclose(
        reached, np.broadcast_to(levels[:, None, None], (4, 4, 2)), atol=1e-5
    )


def test_draws_are_those_of_the_mixture(rng, monkeypatch):
    x = rng.normal(size=(2, 2))
    p = tv.predictive(ensemble(), x)
    draws = p.sample(6000, seed=3)
    # The distribution of 6,000 draws is within 0.025 of the truth (p = 0.001).
    for row in range(2):
        for entry in range(2):
            locs = LOCS[:, entry] + x[row].sum()
            test = stats.kstest(
                draws[:, row, entry],
                lambda y, locs=locs: stats.norm.cdf(y[:, None], locs, SCALES).mean(1),
            )
            assert test.statistic < 0.025
    # Both entries of a draw are of one component.
    truth = np.cov(LOCS.T, bias=True)[0, 1]
    found = np.cov(draws[:, 0].numpy().T)[0, 1]
    assert abs(found - truth) < 0.4
    monkeypatch.setattr("tfp_vae.prediction.predictive_distribution._AT_ONCE", 100)
    few = p.sample((10, 100), seed=3)
    assert few.shape == (10, 100, 2, 2)
    assert len(np.unique(few)) == few.numpy().size
    standard_error = np.sqrt(p.variance() / 1000)
    assert (np.abs(tf.reduce_mean(few, [0, 1]) - p.mean()) < 5 * standard_error).all()


def test_a_density_is_finite_where_that_of_any_component_is():
    @keras.saving.register_keras_serializable("tests")
    def interval(low):
        return tfd.Independent(tfd.Uniform(low, low + 1.0), 1)

    def model(low):
        dense = keras.layers.Dense(1, kernel_initializer="zeros")
        layers = [keras.Input((2,)), dense, tv.DistributionLambda(interval)]
        network = keras.Sequential(layers)
        dense.bias.assign([low])
        return network

    p = tv.predictive([model(0.0), model(5.0)], np.zeros((3, 2)))
    found = p.log_prob(np.array([[0.5], [5.5], [3.0]]))
    np.testing.assert_allclose(found, [-np.log(2), -np.log(2), -np.inf], rtol=1e-6)


def test_parts_of_the_batch_and_copies(rng):
    p = tv.predictive(ensemble(), rng.normal(size=(6, 2)))
    np.testing.assert_allclose(p[2:5].mean(), p.mean()[2:5])
    np.testing.assert_allclose(p[2:5].epistemic_stddev(), p.epistemic_stddev()[2:5])
    for again in (
        copy.deepcopy(p),
        copy.copy(p),
        pickle.loads(pickle.dumps(p)),
        p.copy(),
    ):
        np.testing.assert_allclose(again.stddev(), p.stddev(), rtol=1e-6)
        assert type(again) is type(p)


def test_models_count_the_same_however_many_draws_they_have(regression, far):
    fixed = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(1, "linear", False, "zeros"),
            tv.IndependentNormal(1, scale=NOISE),
        ]
    )
    p = tv.predictive([regression.model(), fixed], far, 1000, seed=2)
    mean, spread = regression.predicted(far)
    error = 5 * np.sqrt(spread / 1000) / 2
    assert (np.abs(p.mean() - mean / 2) < error).all()
    assert p.number_of_draws == 1001
    both = tv.predictive([regression.model(), regression.model(keras)], far, 4, seed=2)
    means = both.components_distribution.mean()[..., 0].numpy()
    assert means.shape == (7, 8)
    assert len(np.unique(means[0])) == 8  # each model has its own draws


@pytest.mark.parametrize("kind", ["families", "shared scales"])
def test_outputs_that_are_no_one_batched_distribution(kind, rng):
    x = rng.normal(size=(4, 2))
    if kind == "families":
        models = [
            deterministic([0.0], 1.0),
            deterministic([2.0], 3.0, tv.IndependentLaplace),
        ]
        laws = [stats.norm(0.0, 1.0), stats.laplace(2.0, 3.0)]
    else:
        models, laws = [], []
        for loc, raw in ((0.0, 0.2), (2.0, 1.5)):
            dense = keras.layers.Dense(1, kernel_initializer="ones")
            layer = tv.IndependentNormal(1, scale="shared")
            models.append(tv.Sequential([keras.Input((2,)), dense, layer]))
            dense.bias.assign([loc])
            layer.trainable_weights[0].assign(raw)
            laws.append(stats.norm(loc, float(models[-1](x).stddev()[0, 0])))
        assert laws[0].std() != laws[1].std()
    p = tv.predictive(models, x)
    away = rng.normal(size=(4, 1))
    y = away + x.sum(1, keepdims=True)
    density = np.mean([law.pdf(away) for law in laws], axis=0)[:, 0]
    np.testing.assert_allclose(p.log_prob(y), np.log(density), rtol=1e-4, atol=1e-5)
    cdf = np.mean([law.cdf(away) for law in laws], axis=0)
    np.testing.assert_allclose(p.cdf(y), cdf, atol=1e-5)
    means, variances = (
        np.array([getattr(law, name)() for law in laws]) for name in ("mean", "var")
    )
    np.testing.assert_allclose(
        p.variance(), np.full((4, 1), means.var() + variances.mean()), rtol=1e-4
    )
    np.testing.assert_allclose(p.epistemic_stddev(), np.full((4, 1), 1.0), rtol=1e-5)
    low = p.quantile(0.1) - x.sum(1, keepdims=True)
    reached = np.mean([law.cdf(low) for law in laws], axis=0)
    np.testing.assert_allclose(reached, np.full((4, 1), 0.1), atol=1e-5)
    assert p.sample(3, seed=1).shape == (3, 4, 1)
    np.testing.assert_allclose(p[1:3].mean(), p.mean()[1:3])


SOME = (
    "DistributionLambda",
    "IndependentNormal",
    "IndependentPoisson",
    "MultivariateNormalTriL",
    "MixtureSameFamily",
    "CategoricalMixtureOfOneHotCategorical",
    "IndependentCategorical",
    "QuantizedLogistic",
    "DirichletMultinomial",
    "Blockwise",
    "PowerSpherical",
    "DirectionAndNorm",
)


@pytest.mark.parametrize("name", SOME)
def test_families(name, rng):
    family = FAMILIES[name]
    shifts = rng.normal(size=(2, family.width)).astype("float32") / 2
    models = []
    for shift in shifts:
        dense = keras.layers.Dense(family.width, kernel_initializer="identity")
        models.append(
            keras.Sequential([keras.Input((family.width,)), dense, family.make()])
        )
        dense.bias.assign(shift)
    x = rng.normal(size=(5, family.width)).astype("float32")
    values = family.values(rng, (5, *family.event))
    each = [family.log_prob(x + shift, values, family.event) for shift in shifts]
    p = tv.predictive(models, x)
    truth = logsumexp(each, axis=0) - np.log(2)
    np.testing.assert_allclose(p.log_prob(values), truth, rtol=1e-4, atol=1e-4)
    assert p.sample(2, seed=1).shape == (2, 5, *family.event)


def test_a_distribution_for_each_step(rng):
    def model(shift):
        dense = keras.layers.Dense(2, kernel_initializer="identity")
        layers = [keras.Input((4, 2)), dense, tv.IndependentNormal(2, scale=0.5)]
        network = keras.Sequential(layers)
        dense.bias.assign([shift, shift])
        return network

    x, y = rng.normal(size=(2, 3, 4, 2))
    p = tv.predictive([model(0.0), model(2.0)], x)
    assert p.batch_shape == (3, 4)
    assert p.quantile([0.1, 0.9]).shape == (2, 3, 4, 2)
    each = [stats.norm.logpdf(y, x + shift, 0.5).sum(-1) for shift in (0.0, 2.0)]
    truth = logsumexp(each, axis=0) - np.log(2)
    np.testing.assert_allclose(p.log_prob(y), truth, rtol=1e-4)
    np.testing.assert_allclose(p.mean(), x + 1, rtol=1e-4, atol=1e-5)


def entropy(probs):
    return -(probs * np.log(probs)).sum(-1)


CLASSES = {
    "bernoulli": (lambda: tv.IndependentBernoulli(3), 3),
    "categorical": (lambda: tv.IndependentCategorical(2, num_categories=4), 8),
    "one hot": (lambda: tv.OneHotCategorical(4), 4),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_entropies_of_classes(kind, rng):
    make, width = CLASSES[kind]
    x = rng.normal(size=(5, 2))
    models = [
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(width), make()])
        for _ in range(3)
    ]
    logits = np.stack([x.astype("float32") @ m.weights[0].numpy() for m in models])
    if kind == "bernoulli":
        one = 1 / (1 + np.exp(-logits))
        probs = np.stack([1 - one, one], axis=-1)
    else:
        logits = logits.reshape(3, 5, *((2, 4) if kind == "categorical" else (4,)))
        probs = np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))
    p = tv.predictive(models, x)
    total, within = entropy(probs.mean(0)), entropy(probs).mean(0)
    np.testing.assert_allclose(p.probs_parameter(), probs.mean(0), rtol=1e-4)
    np.testing.assert_allclose(p.entropy(), total, rtol=1e-4)
    np.testing.assert_allclose(p.aleatoric_entropy(), within, rtol=1e-4)
    np.testing.assert_allclose(p.epistemic_entropy(), total - within, atol=1e-5)
    likeliest = probs.mean(0).argmax(-1)
    expected = np.eye(4)[likeliest] if kind == "one hot" else likeliest
    np.testing.assert_array_equal(p.mode(), expected)
    with pytest.raises(NotImplementedError, match="distribution of classes"):
        tv.predictive(ensemble(), x).entropy()


def with_dropout(module, *more):
    return module.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(64, "tanh"),
            *more,
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1),
            tv.IndependentNormal(1, scale=0.5),
        ]
    )


@pytest.mark.parametrize("module", slow.except_for((tv,), (tv, keras)))
def test_monte_carlo_dropout(module, rng):
    model, x = with_dropout(module), rng.normal(size=(3, 2)).astype("float32")
    before = [v.numpy().copy() for v in model.variables]
    p = tv.predictive(model, x, 2000, seed=1, training=True)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    hidden = np.tanh(x @ model.weights[0].numpy()) * model.weights[2].numpy()[:, 0]
    # Each unit is doubled or left out.
    np.testing.assert_allclose(
        p.epistemic_stddev()[:, 0] ** 2, (hidden**2).sum(1), rtol=5 * np.sqrt(2 / 2000)
    )
    error = np.sqrt((hidden**2).sum(1) / 2000)
    assert (np.abs(p.mean()[:, 0] - hidden.sum(1)) < 5 * error).all()
    again = tv.predictive(model, x, 2000, seed=1, training=True)
    np.testing.assert_array_equal(again.mean(), p.mean())
    # Rows of other pieces leave out other units.
    same = np.repeat(x[:1], 2, axis=0)
    pieces = tv.predictive(model, same, 5, seed=1, training=True, batch_size=1)
    assert np.abs(np.diff(pieces.components_distribution.mean(), axis=0)).min() > 0
    # Rows of zeros hide that units are left out.
    assert tv.predictive(model, 0 * x, 3, training=True).number_of_draws == 3


def test_dropout_that_leaves_out_few_units_counts_as_random():
    layers = [
        keras.Input((2,)),
        keras.layers.Dropout(0.01),
        keras.layers.Dense(1),
        tv.IndependentNormal(1, scale=0.5),
    ]
    x = np.ones((3, 2), "float32")  # 6 numbers, all kept by 94 % of the draws
    for seed in range(5):
        model = keras.Sequential(layers)  # which keeps no answer, as `tv.Model` does
        p = tv.predictive(model, x, 300, seed=seed, training=True)
        assert p.number_of_draws == 300
    # It does not count once in an ensemble.
    pair = [tv.Sequential(layers), deterministic([0.0], 1.0)]
    p = tv.predictive(pair, x, 300, seed=0, training=True)
    assert p.number_of_draws == 301


def test_dropout_inside_a_layer_with_random_weights(rng):
    inner = [
        keras.Input((2,)),
        keras.layers.Dense(64, "tanh"),
        keras.layers.Dropout(0.5),
    ]
    layer = tv.Variational(keras.Sequential(inner), initial_scale=1e-6)
    last = [keras.layers.Dense(1), tv.IndependentNormal(1, scale=0.5)]
    model, x = (
        keras.Sequential([keras.Input((2,)), layer, *last]),
        rng.normal(size=(3, 2)),
    )
    model.compile("sgd", "mse")  # Keras' models would warn in a step of training.
    p = tv.predictive(model, x, 500, seed=1, training=True)
    hidden = model.layers[0](x).numpy() * model.layers[1].kernel.numpy()[:, 0]
    np.testing.assert_allclose(
        p.epistemic_stddev()[:, 0] ** 2, (hidden**2).sum(1), rtol=5 * np.sqrt(2 / 500)
    )
    again = tv.predictive(model, x, 500, seed=1, training=True)
    np.testing.assert_array_equal(again.mean(), p.mean())


def test_statistics_of_the_batch_are_refused(rng):
    normalization = keras.layers.BatchNormalization()
    model, x = with_dropout(tv, normalization), rng.normal(size=(5, 2))
    with pytest.raises(ValueError, match="does not depend on the other rows"):
        tv.predictive(model, x, 5, training=True)
    normalization.trainable = False
    p = tv.predictive(model, x, 5, seed=1, training=True)
    assert (p.epistemic_stddev() > 0).numpy().all()


def vgp_like(_):
    return tfd.Normal(0.0, 1.0)


def functional(outputs):
    x = keras.Input((2,))
    return keras.Model(x, outputs(x))


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        (lambda: deterministic([0.0], 1.0), {}, "differs from call to call"),
        (lambda: with_dropout(tv), {}, "differs from call to call"),
        (lambda: [deterministic([0.0], 1.0)], {}, "differs from call to call"),
        (ensemble, {"num_samples": 10}, "no `num_samples`"),
        (lambda: 2 * [deterministic([0.0], 1.0)], {}, "different models"),
        (lambda: [], {}, "a Keras model, or a list"),
        (lambda: keras.layers.Dense(2), {}, "a Keras model, or a list"),
        (
            lambda: [deterministic([0.0], 1.0), deterministic([0.0, 1.0], 1.0)],
            {},
            "one batch shape",
        ),
        (lambda: functional(keras.layers.Dense(2)), {}, "outputs one distribution"),
        (
            lambda: functional(lambda x: 2 * [tv.OneHotCategorical(2)(x)]),
            {},
            "outputs one distribution",
        ),
        (
            lambda: functional(lambda x: tv.DistributionLambda(vgp_like)(x)),
            {},
            "a distribution for each row",
        ),
        (lambda: with_dropout(tv), {"num_samples": 0}, "`num_samples`"),
        (lambda: with_dropout(tv), {"seed": -1}, "`seed`"),
        (lambda: with_dropout(tv), {"batch_size": 0}, "`batch_size`"),
        (lambda: with_dropout(tv), {"training": 1}, "`training`"),
        (ensemble, {"verbose": 5}, "`verbose`"),
    ],
)
def test_bad_arguments(model, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        tv.predictive(model(), np.ones((3, 2)), **kwargs)
    assert "Received:" in str(error.value)


def test_no_rows_and_values_of_another_shape():
    with pytest.raises(ValueError, match="Received"):
        tv.predictive(ensemble(), np.ones((0, 2)))
    p = tv.predictive(ensemble(), np.ones((3, 2)))
    for shape in [(3,), (3, 1), (4, 2)]:
        with pytest.raises(ValueError, match="expects values whose last axes"):
            p.log_prob(np.zeros(shape))


def test_a_bar_on_request(regression, far, capsys):
    tv.predictive(regression.model(), far, 3, batch_size=4, verbose=1)
    assert "6/6" in capsys.readouterr().out
    tv.predictive(regression.model(), far, 3)
    assert not capsys.readouterr().out


def test_threads_beside_training(regression, far):
    """With a rate of 0 training leaves the weights as they are."""
    hidden = keras.layers.Dense(FEATURES, kernel_initializer="identity")
    model = tv.Sequential(
        [keras.Input((FEATURES,)), hidden, *regression.model().layers]
    )
    options = {"loss": tv.NegativeLogLikelihood(), "jit_compile": False}
    model.compile(keras.optimizers.SGD(0.0), **options, num_examples=30)
    expected = tv.predictive(model, far, 20, seed=1).mean()
    # Again without the functions that were made.
    model.compile(keras.optimizers.SGD(0.0), **options, num_examples=30)
    y = regression.y[:, None]
    alone = model.evaluate(regression.x, y, verbose=0, return_dict=True)["loss"]
    found, start = {}, threading.Barrier(4)

    def run(name, task):
        start.wait()
        try:
            found[name] = task()
        except BaseException as error:
            found[name] = error

    def predict():
        return tv.predictive(model, far, 20, seed=1, batch_size=2).mean()

    tasks = {
        **{f"predictive {i}": predict for i in range(3)},
        "fit": lambda: model.fit(regression.x, y, epochs=4, batch_size=5, verbose=0),
    }
    threads = [threading.Thread(target=run, args=item) for item in tasks.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(3):
        np.testing.assert_allclose(found[f"predictive {i}"], expected, atol=1e-5)
    losses = found["fit"].history["loss"]
    assert len(losses) == 4
    # Nothing that `predictive` computed is in the loss of the training.
    assert max(losses) < 3 * alone + 3


SERVE = """
    import sys
    import numpy as np
    import tensorflow as tf
    served = tf.saved_model.load(sys.argv[1])
    x = np.load(sys.argv[2])
    answer, again = served.serve(x), served.serve(x[:2])
    np.savez(sys.argv[3], again=again["mean"], **answer)
    loaded = {name.split(".")[0] for name in sys.modules}
    assert not loaded & {"tensorflow_probability", "tfp_vae", "tf_keras"}, loaded
"""


def test_plain_tensorflow_serves_predictions(regression, far, tmp_path):
    x = far.astype("float32")
    tv.export_predictive(regression.model(), tmp_path / "served", 2000, seed=3)
    np.save(tmp_path / "x.npy", x)
    script = tmp_path / "serve.py"
    script.write_text(textwrap.dedent(SERVE))
    arguments = [tmp_path / "served", tmp_path / "x.npy", tmp_path / "answer.npz"]
    result = subprocess.run(
        [sys.executable, script, *arguments],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    answer = np.load(tmp_path / "answer.npz")
    mean, spread = regression.predicted(x)
    assert (np.abs(answer["mean"] - mean) < 5 * np.sqrt(spread / 2000)).all()
    error = 5 * np.sqrt(2 / 2000)
    np.testing.assert_allclose(answer["epistemic_stddev"] ** 2, spread, rtol=error)
    np.testing.assert_allclose(answer["aleatoric_stddev"], 0 * mean + NOISE, rtol=1e-4)
    np.testing.assert_allclose(answer["stddev"] ** 2, spread + NOISE**2, rtol=error)
    truth = stats.norm(mean[:, None], np.sqrt(spread + NOISE**2)[:, None])
    levels = np.broadcast_to([[[0.05], [0.5], [0.95]]], (7, 3, 1))
    np.testing.assert_allclose(truth.cdf(answer["quantiles"]), levels, atol=0.05)
    np.testing.assert_allclose(answer["again"], answer["mean"][:2], atol=1e-5)
    # The same draws of the weights as here.
    here = tv.predictive(regression.model(), x, 2000, seed=3)
    np.testing.assert_allclose(answer["mean"], here.mean(), atol=1e-4)


def test_served_draws_are_new_in_each_request(regression, far, tmp_path):
    tv.export_predictive(regression.model(), tmp_path / "a", 3, quantiles=[0.5])
    served = tf.saved_model.load(str(tmp_path / "a"))
    x = tf.constant(far, tf.float32)
    first, second = served.serve(x), served.serve(x)
    assert np.abs(first["mean"] - second["mean"]).max() > 1e-3
    assert first["quantiles"].shape == (7, 1, 1)


@pytest.mark.parametrize(
    "kind", slow.except_for(("families",), ("classes", "families"))
)
def test_ensembles_are_served(kind, tmp_path, rng):
    x = tf.constant(rng.normal(size=(4, 2)), tf.float32)
    if kind == "classes":
        models = [
            keras.Sequential(
                [keras.Input((2,)), keras.layers.Dense(3), tv.OneHotCategorical(3)]
            )
            for _ in range(3)
        ]
    else:
        models = [
            deterministic([0.0], 1.0),
            deterministic([2.0], 3.0, tv.IndependentLaplace),
        ]
    tv.export_predictive(models, tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    answer = served.serve(x)
    each = [model(x).mean() for model in models]
    np.testing.assert_allclose(answer["mean"], np.mean(each, axis=0), atol=1e-5)
    if kind == "classes":
        np.testing.assert_allclose(answer["probs"], answer["mean"], atol=1e-6)
        total = answer["aleatoric_entropy"] + answer["epistemic_entropy"]
        np.testing.assert_allclose(total, entropy(np.mean(each, axis=0)), atol=1e-5)
        assert "quantiles" not in answer
        with pytest.raises(ValueError, match="distribution function"):
            tv.export_predictive(models, tmp_path / "other", quantiles=[0.5])
    else:
        assert answer["quantiles"].shape == (4, 3, 1)


@pytest.mark.parametrize("quantiles", [0.5, [], [0.0], [1.5], ["a"]])
def test_levels_are_checked(quantiles, tmp_path):
    with pytest.raises(ValueError, match="between 0 and 1"):
        tv.export_predictive(ensemble(), tmp_path / "a", quantiles=quantiles)


def test_log_prob_of_a_vae_averages_the_weights_inside_the_logarithm(rng):
    """x = W z + b + noise with random b: x has a normal distribution."""
    spread = 0.3
    mean = np.vstack([W.T, B])
    covariance = np.zeros(2 * [mean.size])
    np.fill_diagonal(covariance, 1e-12)
    np.fill_diagonal(covariance[-X:, -X:], spread**2)
    decoder = keras.Sequential(
        [
            keras.Input((D,)),
            GaussianDense(mean, covariance),
            tv.IndependentNormal(X, scale=SCALE),
        ]
    )
    marginal = W @ W.T + (SCALE**2 + spread**2) * np.eye(X)
    x = rng.multivariate_normal(B, marginal, 2).astype("float32")
    # The exact posterior of z.
    gain = W.T @ np.linalg.inv(marginal)
    posterior = np.linalg.cholesky(np.eye(D) - gain @ W).astype("float32")

    @keras.saving.register_keras_serializable("tests")
    def law(loc):
        return tfd.MultivariateNormalTriL(loc, posterior)

    encoder = keras.Sequential(
        [keras.Input((X,)), keras.layers.Dense(D), tv.DistributionLambda(law)]
    )
    encoder.layers[0].set_weights([gain.T, -gain @ B])
    vae = tv.VAE(encoder, decoder, tv.StandardNormal(D))
    truth = stats.multivariate_normal(B, marginal).logpdf(x)
    found = vae.log_prob(x, 5000, seed=1, verbose=0)
    # 5 standard errors; one draw of b for 1,024 latents is off by 0.2.
    np.testing.assert_allclose(found, truth, atol=0.075)
    np.testing.assert_array_equal(found, vae.log_prob(x, 5000, seed=1, verbose=0))
    assert (vae.elbo(x, 500, verbose=0) < truth + 0.1).all()


def test_the_mixture_is_scored_with_the_compiled_loss_and_metrics():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(30, 2)).astype("float32")
    y = rng.normal(size=(30, 1)).astype("float32")
    weights = rng.uniform(size=30).astype("float32")
    model = tv.Sequential(
        [keras.Input((2,)), tv.DenseFlipout(2), tv.IndependentNormal(1)]
    )
    model.compile("adam", tv.NegativeLogLikelihood(), metrics=["mae", tv.CRPS()])
    model.fit(x, y, verbose=0)
    before = [v.numpy() for v in model.metrics_variables]
    found = tv.evaluate_predictive(model, x, y, num_samples=40, seed=5)
    p = tv.predictive(model, x, 40, seed=5)
    loc, scale = (
        np.asarray(getattr(p.components_distribution, name)(), "float64")[..., 0]
        for name in ("mean", "stddev")
    )
    densities = stats.norm.pdf(y, loc, scale).mean(axis=1)
    assert found["loss"] == pytest.approx(-np.log(densities).mean(), rel=1e-4)
    mae = np.abs(loc.mean(axis=1) - y[:, 0]).mean()
    assert found["mae"] == pytest.approx(mae, rel=1e-4)
    assert found["crps"] == pytest.approx(tv.evaluation.crps(p, y), rel=1e-4)
    assert set(found) == {"loss", "mae", "crps"}
    for old, new in zip(before, model.metrics_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    weighted = tv.evaluate_predictive(model, x, y, weights, num_samples=40, seed=5)
    expected = -(weights * np.log(densities)).mean()
    assert weighted["loss"] == pytest.approx(expected, rel=1e-4)
    model = tv.Sequential([keras.Input((2,)), tv.DenseFlipout(2)])
    with pytest.raises(ValueError, match="compiled with one loss"):
        tv.evaluate_predictive(model, x, y)


@pytest.mark.parametrize("loss", [tv.CRPS, tv.EnergyScore])
def test_a_score_as_the_loss_is_reduced_and_weighted_as_one(loss):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 12, 1)).astype("float32")
    model = tv.Sequential(
        [keras.Input((1,)), tv.DenseFlipout(2), tv.IndependentNormal(1)]
    )

    def found(reduction="sum_over_batch_size", weights=None):
        model.compile("adam", loss(reduction=reduction, num_samples=4000))
        given = {"num_samples": 20, "seed": 1, "sample_weight": weights}
        return tv.evaluate_predictive(model, x, y, **given)["loss"]

    weights = np.linspace(0.5, 3.0, 12)
    truth = [
        tv.evaluation.crps(tv.predictive(model, x[i : i + 1], 20, seed=1), y[i : i + 1])
        for i in range(12)
    ]
    assert found() == pytest.approx(np.mean(truth), rel=0.05)
    assert found("sum") == pytest.approx(np.sum(truth), rel=0.05)
    assert found(weights=weights) == pytest.approx(np.mean(weights * truth), rel=0.05)


@pytest.mark.parametrize("kind", [keras, tv])
@pytest.mark.parametrize("loss", ["mse", "lambda", "energy"])
def test_the_mixture_is_scored_with_every_kind_of_loss(kind, loss):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 12, 1)).astype("float32")
    given = {"lambda": lambda y, p: -p.log_prob(y), "energy": tv.EnergyScore()}
    model = kind.Sequential(
        [keras.Input((1,)), tv.DenseFlipout(2), tv.IndependentNormal(1)]
    )
    model.compile("adam", given.get(loss, loss))
    p = tv.predictive(model, x, 20, seed=1)
    found = tv.evaluate_predictive(model, x, y, num_samples=20, seed=1)["loss"]
    truth = {
        "mse": np.mean((y - p.mean()) ** 2),
        "lambda": -np.mean(p.log_prob(y)),
        "energy": tv.evaluation.crps(p, y),  # the same for one entry
    }
    tolerance = 0.3 if loss == "energy" else 1e-4
    assert found == pytest.approx(truth[loss], rel=tolerance)


class Largest(keras.metrics.Metric):
    """The largest target so far, which begins at minus infinity."""

    def __init__(self, **kwargs):
        super().__init__(name="largest", **kwargs)
        self.value = self.add_variable((), keras.initializers.Constant(-np.inf))

    def update_state(self, y, p, sample_weight=None):
        self.value.assign(tf.maximum(self.value, tf.reduce_max(y)))

    def reset_state(self):
        self.value.assign(-np.inf)

    def result(self):
        return self.value + 0.0


class Watched(keras.layers.Layer):
    """The identity, with a metric of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mean = keras.metrics.Mean("activity")

    def call(self, x):
        self.mean.update_state(x)
        return x


def test_evaluation_has_the_metrics_of_compile_alone():
    x, y = np.ones((8, 2), "float32"), np.full((8, 1), -3.0, "float32")
    layers = [keras.Input((2,)), Watched(), tv.DenseFlipout(2), tv.IndependentNormal(1)]
    model = tv.Sequential(layers)
    model.compile("adam", tv.NegativeLogLikelihood(), metrics=[Largest()])
    model.fit(x, y + 9, verbose=0)
    found = tv.evaluate_predictive(model, x, y, num_samples=5, seed=1)
    assert set(found) == {"loss", "largest"}
    assert found["largest"] == -3
    assert float(model.get_metrics_result()["largest"]) == 6


def test_masked_steps_are_left_out_of_the_score(rng):
    x = rng.normal(size=(9, 5, 2)).astype("float32")
    y = rng.normal(size=(9, 5, 1)).astype("float32")
    counts = np.arange(5) < rng.integers(1, 5, size=(9, 1))
    x[~counts] = -99.0
    model = tv.Sequential(
        [
            keras.Input((5, 2)),
            keras.layers.Masking(-99.0),
            keras.layers.LSTM(3, return_sequences=True),
            tv.DenseFlipout(2),
            tv.IndependentNormal(1),
        ]
    )
    model.compile(
        "adam", tv.NegativeLogLikelihood(), metrics=[tv.LogLikelihood(), tv.CRPS()]
    )
    options = {"num_samples": 20, "seed": 1, "batch_size": 4}
    found = tv.evaluate_predictive(model, x, y, **options)
    p = tv.predictive(model, x, 20, seed=1, batch_size=4)
    expected = -p.log_prob(y).numpy()[counts].mean()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["log_likelihood"] == pytest.approx(-expected, rel=1e-5)
    whole = tv.Sequential(
        [*model.layers[:-1], tv.IndependentNormal((5, 1), parameters_axis=-1)]
    )
    whole.compile("adam", tv.NegativeLogLikelihood())
    with pytest.raises(ValueError, match=r"\(9, 5\), inside of the event"):
        tv.evaluate_predictive(whole, x, y, **options)
    y[~counts] = 1e6
    assert tv.evaluate_predictive(model, x, y, **options) == pytest.approx(found)


def test_inputs_of_any_length_are_served(tmp_path, rng):
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            keras.layers.LSTM(2),
            tv.DenseFlipout(2),
            tv.IndependentNormal(1),
        ]
    )
    tv.export_predictive(model, tmp_path / "served", 5, seed=3)
    served = tf.saved_model.load(str(tmp_path / "served"))
    for length in (2, 7):
        x = rng.normal(size=(4, length, 3)).astype("float32")
        here = tv.predictive(model, x, 5, seed=3)
        answer = served.serve(tf.constant(x))
        np.testing.assert_allclose(answer["mean"], here.mean(), atol=1e-5)
