"""One contract for every prior: a law, that learns, saves and exports with a model."""

import functools

import keras
import models
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

import tfp_vae as tv
from tfp_vae.kl.divergence import kl_divergence
from tfp_vae.kl.without_kl import without_kl

tfd = tfp.distributions
X = models.digits()
D = models.LATENT


def trunk():
    return keras.Sequential(
        [
            keras.Input(models.PIXELS),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(2 * D),
            tv.IndependentNormal(D),
        ],
        name="trunk",
    )


def vamp():
    encoder = trunk()
    return encoder, tv.VampPrior(encoder, num_components=5, activation="sigmoid")


def of(prior):
    return lambda: (trunk(), prior())


# name -> (encoder, prior); of the learned ones every variable has to move
LEARNED = {
    "diagonal": of(lambda: tv.LearnedNormal(D)),
    "full": of(lambda: tv.LearnedNormal(D, covariance="full")),
    "mixture": of(lambda: tv.MixturePrior(D, num_components=4)),
    "vamp": vamp,
    "realnvp": of(lambda: tv.FlowPrior(D, num_transforms=2, hidden_units=(8,))),
    "maf": of(lambda: tv.FlowPrior(D, "maf", num_transforms=2, hidden_units=(8,))),
    "layers": of(models.learned_prior),
}
FIXED = {
    "standard": of(lambda: tv.StandardNormal(D)),
    "student-t": of(lambda: tfd.Sample(tfd.StudentT(3.0, 0.0, 1.0), D)),
    "logistic": of(lambda: tfd.Sample(tfd.Logistic(0.0, 1.0), D)),
}


def build(make, jit_compile=False):
    encoder, prior = make()
    inputs = keras.Input(models.PIXELS)
    z = tv.KLDivergenceAddLoss(prior, name="kl_layer")(encoder(inputs))
    model = keras.Model(inputs, models.decoder()(z))
    model.compile("adam", loss=tv.NegativeLogLikelihood(), jit_compile=jit_compile)
    return model, prior


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_prior_starts_as_a_law_of_the_latents(name):
    _, prior = LEARNED[name]()
    p = tv.prior_distribution(prior)
    assert p.batch_shape == ()
    assert p.event_shape == (D,)
    z = p.sample(7, seed=(1, 2))
    assert z.shape == (7, D)
    assert np.isfinite(p.log_prob(z)).all()


def trained(name, jit_compile=False):
    """Model and prior, their gradients and variables before it, and the losses."""
    model, prior = build({**LEARNED, **FIXED}[name], jit_compile)
    variables = getattr(prior, "trainable_variables", [])
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(model(X).log_prob(X))
        loss += tf.add_n(model.losses)
    gradients = tape.gradient(loss, [v.value for v in variables])
    before = [v.numpy() for v in variables]
    losses = model.fit(X, X, epochs=4, batch_size=64, verbose=0).history["loss"]
    return model, prior, gradients, before, losses


trained_once = functools.cache(trained)


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_prior_moves_under_fit(name, jit_compile):
    make = trained if jit_compile else trained_once
    _, prior, gradients, before, losses = make(name, jit_compile=jit_compile)
    assert prior.trainable_variables
    for gradient in gradients:
        assert gradient is not None
        assert np.isfinite(gradient).all()
    assert losses[-1] < losses[0]
    for old, variable in zip(before, prior.trainable_variables, strict=True):
        assert not np.array_equal(old, variable.numpy())


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_prior_appears_in_the_summary(name):
    model, prior = build(LEARNED[name])
    lines = []
    model.summary(print_fn=lines.append)
    table = "\n".join(lines)
    count = sum(int(np.prod(v.shape)) for v in prior.trainable_variables)
    (row,) = (line for line in table.splitlines() if "kl_layer" in line)
    assert f"{count:,}" in row


@pytest.mark.parametrize(
    "name",
    slow.except_for(
        ("layers", "maf", "mixture", "vamp", "student-t"), [*LEARNED, *FIXED]
    ),
)
def test_a_model_comes_back_with_its_prior(name, tmp_path):
    model, *_ = trained_once(name, jit_compile=False)
    model.save(tmp_path / "vae.keras")
    again = keras.models.load_model(tmp_path / "vae.keras", safe_mode=True)
    assert len(again.variables) == len(model.variables)
    assert model.evaluate(X, X, verbose=0) == again.evaluate(X, X, verbose=0)
    histories = [m.fit(X, X, verbose=0, shuffle=False).history for m in (model, again)]
    np.testing.assert_allclose(*[h["loss"] for h in histories], rtol=1e-6)
    z = np.zeros((3, D), "float32")
    before, after = (
        tv.prior_distribution(m.get_layer("kl_layer").prior) for m in (model, again)
    )
    np.testing.assert_allclose(before.log_prob(z), after.log_prob(z), rtol=1e-5)


@pytest.mark.parametrize("name", slow.except_for(("mixture", "maf", "vamp"), LEARNED))
def test_a_model_exports_with_its_prior(name, tmp_path):
    model, *_ = trained_once(name, jit_compile=False)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(X[:5]), model(X[:5]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", slow.except_for(("full", "vamp"), LEARNED))
def test_half_precision_leaves_the_prior_in_float32(name):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model, prior = build(LEARNED[name])
    assert np.isfinite(model.fit(X, X, verbose=0).history["loss"]).all()
    assert tv.prior_distribution(prior).dtype == tf.float32


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_a_learned_normal_starts_at_the_standard_normal(covariance):
    p = tv.LearnedNormal(4, covariance)()
    np.testing.assert_allclose(p.covariance(), np.eye(4), atol=1e-4)
    np.testing.assert_array_equal(p.mean(), np.zeros(4))


def test_a_learned_normal_finds_the_aggregate_posterior(rng):
    """Of 5000 narrow posteriors the best normal prior has their mean and covariance."""
    factor = np.array([[1.0, 0.0], [0.8, 0.5]])
    x = (rng.normal(size=(5000, 2)) @ factor.T + [1.0, -2.0]).astype("float32")
    prior = tv.LearnedNormal(2, covariance="full")
    inputs = keras.Input((2,))
    q = tv.DistributionLambda(lambda m: tfd.MultivariateNormalDiag(m, [0.1, 0.1]))
    model = keras.Model(inputs, tv.KLDivergenceAddLoss(prior)(q(inputs)))
    model.compile(keras.optimizers.Adam(0.05), loss=lambda y, q: 0.0 * y[:, 0])
    model.fit(x, x, epochs=20, batch_size=250, verbose=0)
    expected = np.cov(x.T) + 0.01 * np.eye(2)
    np.testing.assert_allclose(prior().mean(), x.mean(0), atol=0.05)
    np.testing.assert_allclose(prior().covariance(), expected, atol=0.08)


def test_a_mixture_prior_breaks_the_symmetry_of_its_components():
    first, second = (
        tv.MixturePrior(3, num_components=5, seed=seed)() for seed in (1, 2)
    )
    locs = first.components_distribution.mean().numpy()
    assert len(np.unique(locs.round(4), axis=0)) == 5
    assert not np.array_equal(locs, second.components_distribution.mean())
    scales = first.components_distribution.stddev()
    np.testing.assert_allclose(scales, np.ones((5, 3)), rtol=1e-6)
    probs = first.mixture_distribution.probs_parameter()
    np.testing.assert_allclose(probs, np.full(5, 0.2), rtol=1e-6)


def test_the_vamp_prior_is_the_mixture_of_posteriors(rng):
    encoder, prior = vamp()
    p = prior()
    q = encoder(prior.pseudo_inputs())
    z = rng.normal(size=(6, D)).astype("float32")
    parts = stats.norm.logpdf(z[:, None], q.mean()[None], q.stddev()[None]).sum(-1)
    expected = np.log(np.exp(parts).mean(axis=1))
    np.testing.assert_allclose(p.log_prob(z), expected, rtol=1e-4)


def test_pseudo_inputs_add_no_kl_to_loss_or_history():
    encoder = models.encoder()  # with a KL layer of its own, to the standard normal
    prior = tv.VampPrior(encoder, num_components=5)
    inputs = keras.Input(models.PIXELS)
    model = keras.Model(inputs, models.decoder()(encoder(inputs)))
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    before = model.evaluate(X, X, verbose=0, return_dict=True)["kl"]
    prior()
    assert encoder.losses == []
    assert float(encoder.layers[-1]._kl_metric.result()) == pytest.approx(before)
    after = model.evaluate(X, X, verbose=0, return_dict=True)["kl"]
    assert before == pytest.approx(after)


def test_without_kl_silences_regularizers_too():
    layer = tv.IndependentNormal(
        2, activity_regularizer=tv.KLDivergenceRegularizer(tv.StandardNormal(2))
    )
    with without_kl():
        layer(tf.ones([5, 4]))
    assert [float(loss) for loss in layer.losses] == [0.0]
    assert float(layer._kl_metric.result()) == 0.0


def test_the_encoder_of_a_vamp_prior_is_one_after_loading(tmp_path):
    model, _ = build(vamp)
    model.fit(X, X, verbose=0)
    model.save(tmp_path / "vae.keras")
    again = keras.models.load_model(tmp_path / "vae.keras")
    assert again.get_layer("kl_layer").prior.encoder is again.get_layer("trunk")


def test_a_vamp_prior_says_what_it_needs():
    with pytest.raises(ValueError, match="Keras model or layer. Received: encoder="):
        tv.VampPrior(tfd.Normal(0.0, 1.0), num_components=5)
    unbuilt = keras.Sequential([keras.layers.Dense(2 * D), tv.IndependentNormal(D)])
    with pytest.raises(ValueError, match="shape of the encoder's input. Received"):
        tv.VampPrior(unbuilt, num_components=5)
    assert tv.VampPrior(unbuilt, num_components=5, input_shape=(8,))().event_shape == (
        D,
    )
    plain = keras.Sequential([keras.Input((8,)), keras.layers.Dense(D)])
    with pytest.raises(ValueError, match="returns a distribution of batch"):
        tv.VampPrior(plain, num_components=5)()


SEQUENCE = (4, 3)


def test_the_autoregressive_prior_is_the_product_of_its_conditionals(rng):
    prior = tv.AutoregressivePrior(SEQUENCE, units=8)
    z = rng.normal(size=(6, *SEQUENCE)).astype("float32")
    h = prior.lstm(np.concatenate([np.zeros((6, 1, 3), "float32"), z[:, :-1]], axis=1))
    loc, raw = np.split(prior.heads(h).numpy().astype("float64"), 2, axis=-1)
    expected = stats.norm.logpdf(z, loc, np.logaddexp(0, raw)).sum((1, 2))
    np.testing.assert_allclose(prior().log_prob(z), expected, rtol=1e-5)
    np.testing.assert_allclose(prior(z).log_prob(z), expected, rtol=1e-5)


def test_steps_of_the_autoregressive_prior_do_not_see_the_future(rng):
    prior = tv.AutoregressivePrior(SEQUENCE, units=8)
    z = rng.normal(size=SEQUENCE).astype("float32")
    other = z.copy()
    other[2] += 1.0
    first, second = prior(z).mean().numpy(), prior(other).mean().numpy()
    np.testing.assert_array_equal(first[:3], second[:3])
    assert not np.array_equal(first[3], second[3])


def test_draws_of_the_autoregressive_prior_have_its_density():
    """E_p[q(z) / p(z)] = 1 for any q: here the one of 30 % larger scale."""
    prior = tv.AutoregressivePrior((3, 1), units=4)
    z = prior().sample(20_000, seed=(1, 2))
    q = tfd.Independent(tfd.Normal(prior(z).mean(), 0.8 * prior(z).stddev()), 2)
    ratio = np.exp(q.log_prob(z) - prior().log_prob(z))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(ratio))


def sequence_model(teacher_forced, jit_compile=False, **kl):
    prior = tv.AutoregressivePrior(SEQUENCE, units=8)
    inputs = keras.Input((4, 6))
    units = tv.IndependentNormal.params_size(SEQUENCE)
    h = keras.layers.Dense(units)(keras.layers.Flatten()(inputs))
    q = tv.IndependentNormal(SEQUENCE)(h)
    layer = tv.KLDivergenceAddLoss(prior, name="kl_layer", **kl)
    z = layer(q, prior_inputs=q) if teacher_forced else layer(q)
    p = tv.IndependentNormal((4, 6), "mean")(
        keras.layers.Dense(48)(keras.layers.Flatten()(z))
    )
    model = keras.Model(inputs, p)
    adam = keras.optimizers.Adam(0.01)
    model.compile(adam, loss=tv.NegativeLogLikelihood(), jit_compile=jit_compile)
    return model, prior


@pytest.mark.parametrize("jit_compile", slow.except_for((False,), (False, True)))
@pytest.mark.parametrize("teacher_forced", [False, True])
def test_a_sequence_vae_trains_with_its_prior(teacher_forced, jit_compile, rng):
    model, prior = sequence_model(teacher_forced, jit_compile)
    x = rng.normal(size=(64, 4, 6)).astype("float32")
    before = [v.numpy() for v in prior.trainable_variables]
    losses = model.fit(x, x, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert len(before) == 5
    for old, variable in zip(before, prior.trainable_variables, strict=True):
        assert not np.array_equal(old, variable.numpy())


def test_teacher_forcing_and_monte_carlo_agree_on_the_kl(rng):
    """The inner KL in closed form has the expectation of the plain estimate."""
    prior = tv.AutoregressivePrior(SEQUENCE, units=8)
    loc = rng.normal(size=SEQUENCE).astype("float32")
    q = tfd.Independent(tfd.Normal(loc, 0.7), 2)
    z = q.sample(4000, seed=(1, 2))
    plain = (q.log_prob(z) - prior().log_prob(z)).numpy()
    copies = tfd.Independent(tfd.Normal(tf.stack([loc] * 4000), 0.7), 2)
    exact = kl_divergence(copies, prior(z), use_exact_kl=True).numpy()
    error = plain.std() / np.sqrt(len(plain))
    assert abs(plain.mean() - exact.mean()) < 5 * error
    assert exact.std() < plain.std()


def test_the_kl_to_a_sequence_prior_is_that_of_the_steps(rng):
    prior = tv.AutoregressivePrior(SEQUENCE, units=8)
    loc = rng.normal(size=(3, *SEQUENCE)).astype("float32")
    q = tfd.Independent(tfd.Normal(loc, 0.7), 2)
    z = q.sample(3000, seed=(1, 2))
    plain = (q.log_prob(z) - prior().log_prob(z)).numpy()
    by_steps = np.stack(
        [kl_divergence(q, prior(), test_points=lambda i=i: z[i]) for i in range(100)]
    )
    for i in range(10):
        given = kl_divergence(q, prior(z[i]), use_exact_kl=True)
        np.testing.assert_allclose(by_steps[i], given, rtol=1e-5)
    spread = plain.std(axis=0) / np.sqrt(len(plain))
    spread += by_steps.std(axis=0) / np.sqrt(len(by_steps))
    assert (np.abs(plain.mean(axis=0) - by_steps.mean(axis=0)) < 5 * spread).all()
    assert (by_steps.std(axis=0) < plain.std(axis=0)).all()
    together = kl_divergence(q, prior(), test_points=lambda: z[:100])
    np.testing.assert_allclose(together, by_steps.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("teacher_forced", slow.except_for((True,), (False, True)))
def test_a_sequence_vae_saves_and_exports(teacher_forced, tmp_path, rng):
    model, _ = sequence_model(teacher_forced)
    x = rng.normal(size=(16, 4, 6)).astype("float32")
    model.fit(x, x, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert model.evaluate(x, x, verbose=0) == again.evaluate(x, x, verbose=0)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_conditional_prior_learns_each_class(tmp_path, rng):
    """p(z|y) of 3 classes whose posteriors sit at 3 points."""
    y = np.eye(3, dtype="float32")[rng.integers(0, 3, 600)]
    x = y @ np.array([[0.0, 0.0], [2.0, -1.0], [-2.0, 1.0]], "float32")
    x += 0.1 * rng.normal(size=x.shape).astype("float32")
    prior = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
    )
    images, labels = keras.Input((2,)), keras.Input((3,))
    q = tv.IndependentNormal(2, scale=0.1)(images)
    z = tv.KLDivergenceAddLoss(prior, name="kl_layer")(q, prior_inputs=labels)
    model = keras.Model([images, labels], z)
    model.compile(keras.optimizers.Adam(0.05), loss=lambda y, q: 0.0 * y[:, 0])
    history = model.fit([x, y], x, epochs=30, verbose=0).history["kl"]
    assert history[-1] < 1.0 < history[0]
    means = [x[y[:, k] == 1].mean(0) for k in range(3)]
    np.testing.assert_allclose(prior(np.eye(3)).mean(), means, atol=0.1)
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    model.fit([x, y], x, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras").get_layer("kl_layer").prior
    np.testing.assert_allclose(again(np.eye(3)).mean(), prior(np.eye(3)).mean())
    model.export(tmp_path / "served", verbose=False)


UNIT = {
    "uniform": lambda: tfd.Sample(tfd.Uniform(), D),
    "beta": lambda: tfd.Sample(tfd.Beta(2.0, 1.0), D),
}


@pytest.mark.parametrize("prior", UNIT)
@pytest.mark.parametrize("posterior", [tv.IndependentBeta, tv.IndependentKumaraswamy])
def test_latents_between_0_and_1(posterior, prior):
    model = models.vae(posterior=posterior, prior=UNIT[prior](), use_exact_kl=True)
    losses = model.fit(X, X, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_the_uniform_prior_on_the_sphere(tmp_path):
    p = tv.SphericalUniform(3)()
    z = p.sample(5)
    np.testing.assert_allclose(p.prob(z), np.full(5, 1 / (4 * np.pi)), rtol=1e-6)
    with pytest.raises(ValueError, match="integer of at least 2. Received"):
        tv.SphericalUniform(1)
    config = keras.saving.serialize_keras_object(tv.SphericalUniform(4))
    assert keras.saving.deserialize_keras_object(config)().event_shape == (4,)


@pytest.mark.parametrize(
    "posterior",
    slow.except_for((tv.PowerSpherical,), (tv.PowerSpherical, tv.VonMisesFisher)),
)
@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_a_hyperspherical_vae_trains_saves_and_exports(
    posterior, jit_compile, tmp_path
):
    model = models.vae(
        posterior=posterior,
        prior=tv.SphericalUniform(D),
        use_exact_kl=True,
        jit_compile=jit_compile,
    )
    losses = model.fit(X, X, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert model.evaluate(X, X, verbose=0) == again.evaluate(X, X, verbose=0)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(X), model(X), rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tv.LearnedNormal(0), "integer of at least 1. Received: event_size"),
        (lambda: tv.LearnedNormal(3, "round"), "'diagonal' or 'full'. Received"),
        (
            lambda: tv.MixturePrior(3, num_components=0),
            "at least 1. Received: num_components=0",
        ),
        (lambda: tv.AutoregressivePrior(3), r"to be \(T, d\). Received: event_shape=3"),
        (lambda: tv.FlowPrior(3, "glow"), "Received"),
    ],
)
def test_bad_arguments_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_priors_of_float64():
    keras.config.set_dtype_policy("float64")
    priors = [make()[1] for make in LEARNED.values()]
    assert {tv.prior_distribution(p).dtype for p in priors} == {tf.float64}


def test_a_vamp_prior_inside_its_own_encoder_is_an_error():
    encoder = trunk()
    prior = tv.VampPrior(encoder, num_components=5)
    with pytest.raises(ValueError, match="in front of the KL layer of this prior"):
        encoder.add(tv.KLDivergenceAddLoss(prior))


def test_latents_of_another_length_are_an_error():
    prior = tv.AutoregressivePrior((4, 3), units=8)
    with pytest.raises(ValueError, match=r"shape \(..., 4, 3\). Received: inputs"):
        prior(tf.zeros([2, 5, 3]))


def test_a_flow_prior_of_a_bijector_comes_back():
    bijector = tfp.bijectors.Scale([2.0, 3.0])
    config = keras.saving.serialize_keras_object(tv.FlowPrior(2, bijector))
    again = keras.saving.deserialize_keras_object(config)()
    expected = -np.log(12 * np.pi)
    np.testing.assert_allclose(again.log_prob([0.0, 0.0]), expected, rtol=1e-6)
