"""Distributions of distributions that TFP makes of a private class."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv
import tfp_vae.meta_distributions as meta
from tfp_vae.entries import cdf_of_entries, quantile_of_entries
from tfp_vae.latents import center
from tfp_vae.summaries import summary

tfd = tfp.distributions


class Plain(tfd.Distribution):
    """A normal distribution of a user, which is no `CompositeTensor`."""

    def __init__(self, loc, scale):
        parameters = dict(locals())
        self._law = tfd.Normal(loc, scale)
        super().__init__(
            dtype=self._law.dtype,
            reparameterization_type=tfd.FULLY_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return tfd.Normal._parameter_properties(dtype, num_classes)

    def _event_shape(self):
        return tf.TensorShape([])


for NAME in (
    *("sample_n", "log_prob", "cdf", "log_cdf", "survival_function"),
    *("log_survival_function", "quantile", "mean", "mode", "variance", "stddev"),
):

    def method(self, *args, name=NAME, **kwargs):
        if name == "sample_n":
            return self._law.sample(args[0], **kwargs)
        return getattr(self._law, name)(*args, **kwargs)

    setattr(Plain, f"_{NAME}", method)
Plain._default_event_space_bijector = lambda self: tfp.bijectors.Identity()

LOC, SCALE = np.float32([[0.0, 1.0], [2.0, -1.0]]), np.float32([[1.0, 2.0], [0.5, 1.0]])


def wrapped(kind):
    """The same distribution of a user's class and of TFP's."""

    def of(base):
        part = tfd.Independent(base(LOC, SCALE), 1)
        return {
            "Independent": lambda: part,
            "Sample": lambda: tfd.Sample(base(LOC[:, 0], SCALE[:, 0]), 2),
            "Blockwise": lambda: tfd.Blockwise([part, part]),
            "MixtureSameFamily": lambda: tfd.MixtureSameFamily(
                tfd.Categorical(logits=[0.0, 1.0]), base(LOC, SCALE)
            ),
            "Mixture": lambda: tfd.Mixture(
                tfd.Categorical(logits=LOC),
                [part, tfd.Independent(base(SCALE, LOC + 2), 1)],
            ),
        }[kind]()

    return of(Plain), of(tfd.Normal)


def test_the_classes_are_bases_of_those_of_tfp():
    base, own = tfd.Normal(LOC, SCALE), Plain(LOC, SCALE)
    made = {
        "BatchBroadcast": lambda p: tfd.BatchBroadcast(p, [3, 2, 2]),
        "BatchReshape": lambda p: tfd.BatchReshape(p, [4]),
        "Blockwise": lambda p: tfd.Blockwise([tfd.Independent(p, 1)]),
        "Independent": lambda p: tfd.Independent(p, 1),
        "Inflated": lambda p: tfd.Inflated(
            p, inflated_loc_probs=np.full((2, 2), 0.5, "float32")
        ),
        "Mixture": lambda p: tfd.Mixture(
            tfd.Categorical(logits=np.zeros((2, 2, 1))), [p]
        ),
        "MixtureSameFamily": lambda p: tfd.MixtureSameFamily(
            tfd.Categorical(logits=[0.0, 1.0]), p
        ),
        "QuantizedDistribution": lambda p: tfd.QuantizedDistribution(p, 0.0, 3.0),
        "Sample": lambda p: tfd.Sample(p, 3),
    }
    names = {name for name in vars(meta) if name[0].isupper() and name != "Any"}
    assert names == set(made)
    for name, make in made.items():
        cls = getattr(meta, name)
        assert issubclass(getattr(tfd, name), cls)
        assert not isinstance(base, cls)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an inflated normal distribution
            for p in (base, own):
                assert isinstance(make(p), cls)


KINDS = ["Independent", "Sample", "Blockwise", "MixtureSameFamily", "Mixture"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_distribution_of_a_user_counts_as_one_of_tfp(kind):
    own, of_tfp = wrapped(kind)
    assert not isinstance(own, getattr(tfd, kind))  # or the module is not needed
    for p in (own, of_tfp):
        assert isinstance(p, getattr(meta, kind))
    x = np.float32(0.3)
    for function in (cdf_of_entries, quantile_of_entries):
        np.testing.assert_allclose(function(own, x), function(of_tfp, x), rtol=1e-4)
    np.testing.assert_allclose(center(own), center(of_tfp), rtol=1e-5)
    y = of_tfp.sample(seed=(1, 2))
    assert tv.evaluation.coverage(own, y) == tv.evaluation.coverage(of_tfp, y)
    if kind in ("Independent", "Blockwise"):
        for name in ("stddev", "mode", "covariance"):
            np.testing.assert_allclose(summary(own, name), summary(of_tfp, name))


def test_blocks_with_a_direction_have_the_center_of_their_parts():
    layer = tv.Blockwise([tv.IndependentNormal(4), tv.DirectionAndNorm(16)])
    q = layer(np.random.default_rng(0).normal(size=(3, layer.parameters_width)))
    norms = np.linalg.norm(center(q)[:, 4:], axis=-1)
    block = q.distributions[1]
    middle = np.asarray(block.low + block.width / 2)
    np.testing.assert_allclose(norms, np.broadcast_to(middle, 3), rtol=1e-5)


def test_a_mixture_of_flows_has_a_temperature():
    encoder = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(tv.IndependentNormal.params_size(2)),
            tv.IndependentNormal(2),
            tv.Flow("realnvp", hidden_units=[4]),
        ]
    )
    decoder = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(4), tv.IndependentBernoulli(4)]
    )
    prior = tv.VampPrior(encoder, num_components=3)
    vae = tv.VAE(encoder, decoder, prior)
    assert vae.generate(5, temperature=0.5, seed=1).shape == (5, 4)
