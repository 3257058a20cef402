"""A VAE whose decoder has random weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_vae as tv

RNG = np.random.default_rng(0)
X = (RNG.uniform(size=(60, 8)) < 0.3).astype("float32")


def vae_of(initial_scale=0.05):
    keras.utils.set_random_seed(2)
    encoder = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
    )
    decoder = keras.Sequential(
        [
            keras.Input((2,)),
            tv.Variational(keras.layers.Dense(8), initial_scale=initial_scale),
            tv.IndependentBernoulli(8),
        ]
    )
    vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
    vae.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    return vae


def test_the_loss_adds_the_kl_over_the_number_of_examples():
    found = vae_of().fit(X, batch_size=25, verbose=0).history
    expected = found["nll"][0] + found["kl"][0] + found["weights_kl"][0] / 60
    assert found["loss"] == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("weights", [False, True])
def test_a_warm_up_weighs_the_kl_of_weights_when_asked(weights):
    warmup = tv.KLWarmup(steps=10**6, start=0.25, weights=weights)
    with pytest.warns(UserWarning, match="never reaches 1"):
        found = vae_of().fit(X, verbose=0, callbacks=[warmup]).history
    factor = 0.25 if weights else 1.0
    expected = found["nll"][0] + 0.25 * found["kl"][0]
    expected += factor * found["weights_kl"][0] / 60
    assert found["loss"] == pytest.approx([expected], rel=1e-4)


def test_a_loaded_model_continues(tmp_path):
    vae = vae_of()
    vae.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    vae.fit(X, verbose=0)
    vae.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    assert loaded.num_examples == 60
    first, second = (m.fit(X, verbose=0, shuffle=False).history for m in (vae, loaded))
    for name, values in first.items():
        assert values == pytest.approx(second[name], rel=1e-5)


def test_the_posterior_of_the_weights_gets_gradients():
    vae = vae_of()
    before = [v.numpy() for v in vae.trainable_variables]
    vae.compile(keras.optimizers.Adam(0.01), jit_compile=True)
    vae.fit(X, verbose=0)
    after = [v.numpy() for v in vae.trainable_variables]
    assert all(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_test_bound_leaves_the_kl_of_weights_out():
    vae = vae_of(initial_scale=1e-5)
    vae.fit(X, verbose=0)
    found = vae.evaluate(X, verbose=0, return_dict=True)
    assert found["weights_kl"] / 60 > 1.0
    elbo = np.mean([np.mean(vae.elbo(X)) for _ in range(20)])
    assert elbo == pytest.approx(-found["nll"] - found["kl"], rel=0.02)


@pytest.mark.parametrize("name", ["log_prob", "elbo"])
def test_a_seed_repeats_its_draws_with_and_without_xla(name):
    vae, found = vae_of(initial_scale=0.5), []
    for jit_compile in (False, True):
        vae.compile("sgd", jit_compile=jit_compile)
        found.append(getattr(vae, name)(X, 3, seed=1))
    np.testing.assert_allclose(*found, rtol=1e-4)


class Constant(keras.layers.Layer):
    """Parameters of a normal distribution: a weight, or the input, and scale 1."""

    def build(self, shape):
        if shape[-1] == 2:
            self.loc = self.add_weight(shape=(1,), initializer="zeros", name="loc")
        self.built = True

    def call(self, x):
        loc = self.loc + 0 * x[:, :1] if x.shape[-1] == 2 else x
        return keras.ops.concatenate([loc, 0 * loc + np.log(np.expm1(1.0))], axis=1)

    def compute_output_shape(self, shape):
        return (shape[0], 2)


def test_latents_do_not_depend_on_the_noise_of_the_encoders_weights():
    random = tv.Variational(Constant(), initial_scale=1.0)
    encoder = [keras.Input((2,)), random, tv.IndependentNormal(1)]
    decoder = [keras.Input((1,)), Constant(), tv.IndependentNormal(1)]
    vae = tv.VAE(
        keras.Sequential(encoder), keras.Sequential(decoder), tv.StandardNormal(1)
    )
    zeros = {"x": np.zeros((1, 2), "float32"), "y": np.zeros((1, 1), "float32")}
    found = [vae.elbo(**zeros, seed=seed)[0] for seed in range(1000)]
    # z ~ N(w, 1), w ~ N(0, 1): E[z^2] is 2, E[KL] is E[w^2] / 2.
    expected = -0.5 * np.log(2 * np.pi) - 2 / 2 - 1 / 2
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(expected, abs=4 * error)
    assert error < 0.1


class Score(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.log_prob(X, 3)
        self.model.elbo(X, 3)


def test_answers_leave_the_shown_kl_of_weights_as_it_is():
    found = []
    for callbacks in ([], [Score()]):
        vae = vae_of()
        vae.compile(keras.optimizers.Adam(0.05), jit_compile=False)
        history = vae.fit(X, batch_size=20, verbose=0, callbacks=callbacks).history
        found += history["weights_kl"]
    assert found[0] == found[1]


def test_a_learned_prior_is_built_in_a_graph():
    encoder = keras.Sequential([keras.layers.Dense(4), tv.IndependentNormal(2)])
    dense = tv.Variational(keras.layers.Dense(8), prior="normal")
    decoder = keras.Sequential([dense, tv.IndependentBernoulli(8)])
    vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
    vae.compile("sgd", jit_compile=True)
    assert vae.fit(X, verbose=0).history["weights_kl"][0] > 0


def test_a_seed_repeats_what_a_random_decoder_generates(tmp_path):
    vae = vae_of(initial_scale=1.0)
    first, again, other = (vae.generate(30, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(vae.decode(X[:, :2]).mean(), vae.decode(X[:, :2]).mean())
    vae.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    first, again, other = (
        served.generate(tf.constant(5), tf.constant(seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_new_compile_keeps_the_number_of_examples():
    vae = vae_of()
    vae.fit(X, verbose=0)
    vae.compile("adam")
    assert vae.num_examples == 60
