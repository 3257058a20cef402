"""Distributions as class name and parameters."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae import DistributionTensor
from tfp_vae.distributions import PowerSpherical, QuantizedLogistic, VonMisesFisher
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
