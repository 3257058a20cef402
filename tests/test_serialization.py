"""Distributions as class name and parameters."""

import copy
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv
from tfp_vae import DistributionTensor
from tfp_vae.distributions import (
    DirichletMultinomial,
    PowerSpherical,
    QuantizedLogistic,
    VonMisesFisher,
)
from tfp_vae.serialization import (
    deserialize_distribution,
    is_distribution_config,
    serialize_distribution,
)

tfd, tfb = tfp.distributions, tfp.bijectors

INLINE = tfb.Inline(tf.exp, tf.math.log, forward_min_event_ndims=0)
LAWS = {
    "numbers": lambda: tfd.Normal(0.0, [1.0, 2.0]),
    "float64": lambda: tfd.StudentT(*np.array([3.0, 0.0, 1.0])),
    "independent": lambda: tfd.Independent(tfd.Laplace(tf.zeros([2, 3]), 1.0), 2),
    "sample": lambda: tfd.Sample(tfd.Normal(0.0, 1.0), (2, 3)),
    "tril": lambda: tfd.MultivariateNormalTriL(tf.zeros(2), tf.eye(2)),
    "mixture": lambda: tfd.MixtureSameFamily(
        tfd.Categorical(logits=tf.zeros(3)),
        tfd.MultivariateNormalDiag(tf.zeros([3, 2])),
    ),
    "list of components": lambda: tfd.Mixture(
        tfd.Categorical(logits=[0.0, 1.0]),
        [tfd.Normal(0.0, 1.0), tfd.Laplace(0.0, 1.0)],
    ),
    "bijectors": lambda: tfd.TransformedDistribution(
        tfd.Normal(0.0, 1.0), tfb.Chain([tfb.Exp(), tfb.Shift(2.0)])
    ),
    "dtype": lambda: tfd.Bernoulli(logits=tf.zeros(3), dtype=tf.float32),
    "blockwise": lambda: tfd.Blockwise(
        [tfd.Normal(0.0, 1.0), tfd.MultivariateNormalDiag(tf.zeros(2))]
    ),
    "sphere": lambda: tfd.VonMisesFisher(tf.constant([1.0, 0.0, 0.0]), 2.0),
    "ours on the sphere": lambda: PowerSpherical(tf.constant([1.0, 0.0, 0.0]), 2.0),
    "ours, in a wrapper": lambda: tfd.Sample(VonMisesFisher([1.0, 0.0], 2.0), 3),
    "ours, quantized": lambda: tfd.Independent(
        QuantizedLogistic([1.0, 2.0], 3.0, low=0, high=7), 1
    ),
    "ours, of TFP's name": lambda: DirichletMultinomial(6.0, [2e7, 3e7]),
    "nan and inf": lambda: tfd.TruncatedNormal(0.0, 1.0, -1.0, float("inf")),
}


@pytest.mark.parametrize("name", LAWS)
def test_round_trip_through_json(name):
    law = LAWS[name]()
    config = json.loads(json.dumps(serialize_distribution(law)))
    assert is_distribution_config(config)
    again = deserialize_distribution(config)
    assert type(again) is type(law)
    x = law.sample(seed=(1, 2))
    np.testing.assert_array_equal(again.log_prob(x), law.log_prob(x))
    assert again.dtype == law.dtype


def test_a_wrapped_distribution_is_written_as_the_one_inside():
    config = serialize_distribution(DistributionTensor(tfd.Normal(0.0, 1.0), "mean"))
    assert config["tfp.distributions"] == "Normal"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tfd.Normal(tf.Variable(0.0), 1.0), "`Normal.loc` to be a number"),
        (
            lambda: tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), INLINE),
            "`Inline.forward_fn` to be a number",
        ),
        (lambda: 3, "public class of `tfp.distributions`.*Received: 3"),
    ],
)
def test_what_cannot_be_written_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        serialize_distribution(make())


def test_a_users_own_distribution_is_not_taken_for_its_parent():
    class Normal(tfd.Laplace):
        """Named like a class of TFP, and another law."""

    class MyNormal(tfd.Normal):
        """A subclass of one."""

    for cls in (Normal, MyNormal):
        with pytest.raises(ValueError, match="public class of `tfp.distributions`"):
            serialize_distribution(cls(0.0, 1.0))


@pytest.mark.parametrize(
    "config",
    [
        {"tfp.distributions": "kl_divergence", "parameters": {}},
        {"tfp.distributions": "os", "parameters": {}},
        {"tfp.distributions": "__builtins__"},
        {"tfp.bijectors": "Normal"},
        {"class_name": "Normal"},
        {},
    ],
)
def test_only_classes_of_tfp_are_loaded(config):
    with pytest.raises(ValueError, match="the config of a distribution.*Received"):
        deserialize_distribution(config)


def predicted():
    raw = np.linspace(-1.0, 1.0, 12, dtype="float32").reshape(2, 6)
    table = tv.Blockwise([tv.IndependentNormal(2), tv.IndependentPoisson(2)])
    return {
        "normal": lambda: tv.IndependentNormal(3)(raw),
        "full": lambda: tv.MultivariateNormalTriL(2)(raw[:, :5]),
        "mixture": lambda: tv.MixtureNormal(2, ())(raw),
        "blocks": lambda: table(raw),
        "inflated": lambda: tv.IndependentPoisson(3, zero_inflated=True)(raw),
        "sphere": lambda: tv.PowerSpherical(5)(raw),
        "bernoulli": lambda: tv.IndependentBernoulli(6, "mean")(raw),
        "lambda": lambda: tv.DistributionLambda(lambda t: tfd.Gamma(t**2, 1.0))(raw),
    }


@pytest.mark.parametrize("copied", ["pickle", "deepcopy", "copy"])
@pytest.mark.parametrize("name", predicted())
def test_a_predicted_distribution_is_copied(name, copied):
    p = predicted()[name]()
    value = p.numpy()
    again = {
        "pickle": lambda: pickle.loads(pickle.dumps(p)),
        "deepcopy": lambda: copy.deepcopy(p),
        "copy": lambda: copy.copy(p),
    }[copied]()
    assert isinstance(again, tfd.Distribution)
    np.testing.assert_array_equal(again, value)
    x = p.sample(seed=1)
    np.testing.assert_allclose(again.log_prob(x), p.log_prob(x), rtol=1e-6)


def test_the_output_of_a_vae_is_copied():
    encoder = keras.Sequential([keras.Input((4,)), tv.IndependentNormal(2)])
    decoder = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(4), tv.IndependentBernoulli(4)]
    )
    vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
    x = np.eye(4, dtype="float32")
    for p in (vae(x), vae.encode(x), vae.decode(np.zeros((3, 2), "float32"))):
        again = pickle.loads(pickle.dumps(p))
        np.testing.assert_array_equal(again.mean(), p.mean())
        np.testing.assert_array_equal(again, p)


def test_a_distribution_with_a_network_says_why_it_cannot_be_copied():
    flow = tv.Flow("maf", num_transforms=1, hidden_units=(8,))
    p = keras.Sequential([tv.IndependentNormal(2), flow])(tf.zeros([2, 4]))
    np.testing.assert_array_equal(copy.copy(p), p)
    with pytest.raises(ValueError, match=r"Saving expects.*Received"):
        pickle.dumps(p)
