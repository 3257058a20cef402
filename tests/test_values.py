"""`check_values`: bad data is named before training."""

import numpy as np
import pytest
import tensorflow as tf
from families import FAMILIES

import tfp_vae as tv


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "DistributionLambda"])
def test_draws_pass(name, rng):
    family = FAMILIES[name]
    tv.check_values(family.values(rng, (1500, *family.event)), family.make())


@pytest.mark.parametrize(
    ("layer", "value"),
    [
        (tv.IndependentBernoulli(3), 0.5),
        (tv.IndependentBernoulli(3, sample_dtype="int32"), 0.5),
        (tv.IndependentPoisson(3), -1.0),
        (tv.IndependentPoisson(3), 0.5),
        (tv.OneHotCategorical(3), 1.0),
        (tv.CategoricalMixtureOfOneHotCategorical(3, 2), 0.5),
        (tv.MixtureSameFamily(2, tv.IndependentBernoulli(3)), 0.5),
        (tv.IndependentLogNormal(3), -1.0),
        (tv.IndependentGamma(3), -1.0),
        (tv.IndependentBeta(3), 1.5),
        (tv.IndependentKumaraswamy(3), 1.0),
        (tv.IndependentTruncatedNormal(3), -0.5),
        (tv.IndependentContinuousBernoulli(3), 2.0),
        (tv.IndependentCategorical(3, num_categories=4), 4.0),
        (tv.IndependentCategorical(3, num_categories=4), 0.5),
        (tv.QuantizedLogistic(3), 0.5),
        (tv.QuantizedLogistic(3), 256.0),
        (tv.QuantizedLogistic(3, num_components=2, high=7), 8.0),
        (tv.IndependentNegativeBinomial(3), 0.5),
        (tv.IndependentPoisson(3, zero_inflated=True), 0.5),
        (tv.Multinomial(3, total_count=1), 2.0),
        (tv.Multinomial(3, total_count="input"), 0.5),
        (tv.DirichletMultinomial(3, total_count=1), 2.0),
        (tv.VonMisesFisher(3), 1.0),
        (tv.PowerSpherical(3), 1.0),
    ],
)
def test_values_out_of_support_are_an_error(layer, value):
    fits = layer.distribution_for(tf.eye(3)[:1])
    x = np.zeros((1500, 3)) + np.asarray(fits.sample(seed=(1, 2)))[0]
    tv.check_values(x, layer)
    x[-1] = value
    with pytest.raises(
        ValueError, match="can draw. Received: values from .*outside its support"
    ):
        tv.check_values(x, layer)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_an_error(bad):
    x = np.zeros((5, 3))
    x[1, 2] = bad
    with pytest.raises(
        ValueError, match="finite values.*Received: 1 NaN or infinite of 15"
    ):
        tv.check_values(x, tv.IndependentNormal(3))


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((0, 3)),
        np.array([["a", "b", "c"]]),
        tf.data.Dataset.from_tensor_slices(np.zeros((0, 3))).batch(2),
    ],
)
def test_no_values_or_no_numbers_are_an_error(values):
    with pytest.raises(
        ValueError, match="expects (at least one example|arrays of real)"
    ):
        tv.check_values(values, tv.IndependentNormal(3))


def test_another_shape_is_an_error():
    with pytest.raises(
        ValueError, match=r"shape \(n, \*\(3,\)\).*values.shape=\(5, 4\)"
    ):
        tv.check_values(np.zeros((5, 4)), tv.IndependentNormal(3))


def test_the_targets_of_a_dataset_are_checked():
    x, y = np.full((6, 3), 0.5, "float32"), np.ones((6, 3), "float32")
    layer = tv.IndependentBernoulli(3)
    tv.check_values(tf.data.Dataset.from_tensor_slices((x, y)).batch(2), layer)
    tv.check_values(tf.data.Dataset.from_tensor_slices(y).batch(2), layer)
    tv.check_values(tf.data.Dataset.from_tensor_slices((y,)).batch(2), layer)
    with pytest.raises(ValueError, match="can draw"):
        tv.check_values(tf.data.Dataset.from_tensor_slices((y, x)).batch(2), layer)


def test_any_conversion_and_no_change_to_the_layer():
    layer = tv.IndependentBernoulli(3, lambda p: p.mean())
    tv.check_values(np.ones((5, 3)), layer)
    assert not layer.validate_args


@pytest.mark.parametrize("layer", ["bernoulli", tv.StandardNormal(3)])
def test_something_else_than_a_distribution_layer_is_an_error(layer):
    with pytest.raises(ValueError, match="expects a distribution layer. Received"):
        tv.check_values(np.ones((5, 3)), layer)


def test_a_dictionary_is_an_error():
    data = tf.data.Dataset.from_tensors({"a": np.ones((5, 3))})
    with pytest.raises(ValueError, match="an array, or a dataset of.*Received: a dict"):
        tv.check_values(data, tv.IndependentBernoulli(3))


def test_a_layer_of_unknown_width_is_an_error():
    with pytest.raises(
        ValueError, match="known number of parameters. Received: Distri"
    ):
        tv.check_values(np.zeros((5, 3)), tv.DistributionLambda(lambda t: t))


def test_a_fraction_in_a_block_of_integers_is_an_error():
    """The block alone would cut it off."""
    layer = tv.Blockwise(
        [tv.IndependentNormal(1), tv.IndependentCategorical(1, num_categories=3)]
    )
    tv.check_values(np.array([[0.3, 2.0], [-1.5, 0.0]]), layer)
    with pytest.raises(ValueError, match=r"can draw.*round them"):
        tv.check_values(np.array([[0.3, 2.0], [-1.5, 0.7]]), layer)


def test_a_layer_is_never_changed_by_a_check(monkeypatch):
    """Another thread may call it at the same time."""
    layer = tv.MixtureSameFamily(2, tv.IndependentNormal(3))
    seen = []
    make = tv.IndependentNormal.make_distribution

    def watched(self, parameters):
        seen.append((self.validate_args, layer.component_layer.validate_args))
        return make(self, parameters)

    monkeypatch.setattr(tv.IndependentNormal, "make_distribution", watched)
    tv.check_values(np.zeros((4, 3)), layer)
    assert (True, False) in seen
    assert all(not of_the_layer for _, of_the_layer in seen)


def test_blocks_see_the_totals_of_their_own_values():
    layer = tv.Blockwise(
        [
            tv.Multinomial(3, total_count="input"),
            tv.IndependentNormal(1),
            tv.DirichletMultinomial(2, total_count="input"),
        ]
    )
    y = np.array([[1.0, 2.0, 3.0, -0.5, 4.0, 1.0], [0.0, 1.0, 0.0, 9.0, 0.0, 0.0]])
    tv.check_values(y, layer)
    for i, bad in ((0, 0.5), (4, -1.0)):
        wrong = y.copy()
        wrong[1, i] = bad
        with pytest.raises(ValueError, match="expects values"):
            tv.check_values(wrong, layer)
    with pytest.raises(ValueError, match=r"values of shape \(n, \*\(6,\)\)"):
        tv.check_values(y[:, :5], layer)
