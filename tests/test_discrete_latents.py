"""Latents without reparameterised draws: gradients and bounds against exact sums.

The truth is written here in NumPy, in float64: the bound as a sum over all values of
z, or over all tuples of K draws, and its gradient by central differences.
"""

import itertools

import keras
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import integrate, special, stats

import tfp_vae as tv
from tfp_vae.kl.divergence import has_closed_form, kl_divergence
from tfp_vae.latents import center, mean_or_center
from tfp_vae.objectives import leave_one_out, vimco
from tfp_vae.supports import number_of_values, values_of

tfd = tfp.distributions

X, SCALE = 3, 0.7
POINTS = np.array([[1.0, -0.5, 0.3], [-0.4, 0.8, 1.2]], "float32")


class Law:
    """A product of m categorical variables with K values: how z represents them."""

    def __init__(self, m, k, layer, represent, params=None):
        self.m, self.k, self.layer, self.represent = m, k, layer, represent
        self.width = params or m * k
        choices = np.array([*itertools.product(range(k), repeat=m)])
        self.codes = np.eye(k)[choices]  # (values, m, K)
        self.values = represent(choices)  # (values, *event)

    def log_probs(self, parameters):
        """Log-probability of each value, of shape `(..., values)`."""
        if self.width != self.m * self.k:  # one logit for two values
            parameters = np.stack([0 * parameters, parameters], axis=-1)
        logits = np.reshape(parameters, (-1, self.m, self.k))
        return np.einsum("nmk,smk->ns", special.log_softmax(logits, -1), self.codes)


def bits(d):
    return Law(d, 2, lambda: tv.IndependentBernoulli(d), lambda c: c, params=d)


def one_hots(m, k):
    def represent(choices):
        return np.eye(k)[choices].reshape(len(choices), -1)

    blocks = [tv.OneHotCategorical(k) for _ in range(m)]
    layer = (
        (lambda: tv.OneHotCategorical(k)) if m == 1 else lambda: tv.Blockwise(blocks)
    )
    return Law(m, k, layer, represent)


def numbers(m, k):
    make = lambda: tv.IndependentCategorical(m, num_categories=k)  # noqa: E731
    return Law(m, k, make, lambda c: c)


@keras.saving.register_keras_serializable("tests")
def rows_of_one_hots(logits):
    logits = tf.reshape(logits, tf.concat([tf.shape(logits)[:-1], [2, 3]], 0))
    logits = tf.ensure_shape(logits, [*logits.shape[:-2], 2, 3])
    return tfd.Independent(tfd.OneHotCategorical(logits, dtype=tf.float32), 1)


def matrices():
    """A product of one-hot vectors as one distribution, of event shape (2, 3)."""
    return Law(
        2, 3, lambda: tv.DistributionLambda(rows_of_one_hots), lambda c: np.eye(3)[c]
    )


LAWS = {
    "bits": lambda: bits(6),
    "one-hot": lambda: one_hots(1, 5),
    "blocks of one-hots": lambda: one_hots(3, 3),
    "numbers": lambda: numbers(2, 3),
    "matrices": matrices,
}


def model_of(law, objective=None, rate=1.0, **options):
    """A VAE with weights from a generator, and a prior with parameters."""
    encoder = keras.Sequential(
        [keras.Input((X,)), keras.layers.Dense(law.width), law.layer()]
    )
    decoder = keras.Sequential(
        [
            keras.Input(law.values.shape[1:]),
            keras.layers.Flatten(),
            keras.layers.Dense(X),
            tv.IndependentNormal(X, scale=SCALE),
        ]
    )
    prior = keras.Sequential([tv.VariableLayer(law.width), law.layer()])
    model = tv.VAE(encoder, decoder, prior, objective)
    rng = np.random.default_rng(5)
    for weight in model.trainable_weights:
        weight.assign(0.7 * rng.normal(size=weight.shape))
    model.compile(keras.optimizers.SGD(rate), **options)
    return model


def pieces(law, weights, x):
    """Log q(z|x), log p(x|z) and log p(z), of shape `(n, values)`, and `(values,)`."""
    kernel, bias, out, shift, logits = weights
    log_q = law.log_probs(x @ kernel + bias)
    mean = law.values.reshape(len(law.values), -1) @ out + shift
    log_p = stats.norm(mean, SCALE).logpdf(x[:, None]).sum(-1)
    return log_q, log_p, law.log_probs(logits)


def exact_terms(law, weights, x):
    """E_q[-log p(x|z)] and the KL, of shape `(n,)`."""
    log_q, log_p, prior = pieces(law, weights, x)
    q = np.exp(log_q)
    return -(q * log_p).sum(-1), (q * (log_q - prior)).sum(-1)


def exact_loss(law, weights, x, beta=1.0, sample_weight=1.0):
    nll, kl = exact_terms(law, weights, x)
    return np.mean(sample_weight * (nll + beta * kl))


def exact_vimco_loss(law, weights, x, k):
    """Minus the importance-weighted bound, its mean over all tuples of k draws."""
    log_q, log_p, prior = pieces(law, weights, x)
    log_w = log_p + prior - log_q
    total = 0.0
    for index in itertools.product(range(len(law.values)), repeat=k):
        columns = [*index]
        bound = special.logsumexp(log_w[:, columns], axis=-1) - np.log(k)
        total += np.exp(log_q[:, columns].sum(-1)) * bound
    return -total.mean()


def differences(loss, model):
    """The gradient of a function of the model's weights, by central differences."""
    weights = [w.numpy().astype("float64") for w in model.trainable_weights]
    found = []
    for weight in weights:
        for i in range(weight.size):
            at, ends = weight.flat[i], []
            for step in (1e-5, -1e-5):
                weight.flat[i] = at + step
                ends.append(loss(weights))
            weight.flat[i] = at
            found.append((ends[0] - ends[1]) / 2e-5)
    return np.array(found)


def gradient(model, x, sample_weight=None):
    """The gradient of the loss, as what a step of SGD with rate 1 subtracts."""
    before = [w.numpy() for w in model.trainable_weights]
    model.train_on_batch(x, sample_weight=sample_weight)
    after = [w.numpy() for w in model.trainable_weights]
    for weight, value in zip(model.trainable_weights, before, strict=True):
        weight.assign(value)
    return np.concatenate([(b - a).ravel() for b, a in zip(before, after, strict=True)])


def estimates(model, x, times=30, copies=400, sample_weight=None):
    """Gradients of batches with copies of x, of shape `(times, weights)`."""
    batch = np.tile(x, (copies, 1))
    if sample_weight is not None:
        sample_weight = np.tile(sample_weight, copies)
    return np.stack([gradient(model, batch, sample_weight) for _ in range(times)])


def assert_unbiased(found, exact):
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    # Errors that leave no room: the gradient is many times as large.
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(exact)
    assert (np.abs(found.mean(0) - exact) < 5 * error + 2e-5).all()


# Enumeration.


@pytest.mark.parametrize("name", LAWS)
def test_the_enumerated_loss_and_its_gradient_are_the_sum(name):
    law = LAWS[name]()
    model = model_of(law, tv.ELBO(latents="enumerate"))
    weights = [w.numpy().astype("float64") for w in model.trainable_weights]
    nll, kl = exact_terms(law, weights, POINTS)
    seen = model.evaluate(POINTS, verbose=0, return_dict=True)
    expected = {"nll": nll.mean(), "kl": kl.mean(), "elbo": -(nll + kl).mean()}
    for key, value in {**expected, "loss": (nll + kl).mean()}.items():
        assert seen[key] == pytest.approx(value, rel=2e-5), key
    exact = differences(lambda w: exact_loss(law, w, POINTS), model)
    np.testing.assert_allclose(gradient(model, POINTS), exact, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", ["bits", "blocks of one-hots", "numbers", "matrices"])
def test_an_enumerated_kl_needs_no_closed_form(name):
    law = LAWS[name]()
    model = model_of(law, tv.ELBO(latents="enumerate", use_exact_kl=False, beta=3.0))
    weights = [w.numpy().astype("float64") for w in model.trainable_weights]
    _, kl = exact_terms(law, weights, POINTS)
    seen = model.evaluate(POINTS, verbose=0, return_dict=True)
    assert seen["kl"] == pytest.approx(kl.mean(), rel=2e-5)
    exact = differences(lambda w: exact_loss(law, w, POINTS, 3.0), model)
    np.testing.assert_allclose(gradient(model, POINTS), exact, rtol=1e-3, atol=5e-5)


def test_enumeration_with_free_bits_and_weights_of_examples():
    law, weight = bits(4), np.array([0.3, 1.7], "float32")
    for options in ({}, {"use_exact_kl": False}):
        objective = tv.ELBO(latents="enumerate", free_bits=0.3, **options)
        model = model_of(law, objective)
        weights = [w.numpy().astype("float64") for w in model.trainable_weights]

        def cost(w):
            nll, _ = exact_terms(law, w, POINTS)
            p = special.expit(POINTS @ w[0] + w[1])
            prior = special.expit(w[4])
            each = special.rel_entr(p, prior) + special.rel_entr(1 - p, 1 - prior)
            mean = (weight[:, None] * each).sum(0) / weight.sum()
            return np.mean(weight * (nll + np.maximum(mean, 0.3).sum()))

        seen = model.evaluate(POINTS, sample_weight=weight, verbose=0)[0]
        assert seen == pytest.approx(cost(weights), rel=2e-5)
        exact = differences(cost, model)
        found = gradient(model, POINTS, weight)
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=5e-5)


@pytest.mark.parametrize("jit_compile", slow.except_for((True,), (True, False)))
def test_enumeration_with_and_without_xla_from_a_pipeline(jit_compile):
    law = one_hots(2, 3)
    model = model_of(
        law, tv.ELBO(latents="enumerate"), rate=0.01, jit_compile=jit_compile
    )
    x = np.tile(POINTS, (8, 1))
    pipeline = tf.data.Dataset.from_tensor_slices(x).batch(5)
    weights = [w.numpy().astype("float64") for w in model.trainable_weights]
    expected = exact_loss(law, weights, x)
    seen = model.evaluate(pipeline, verbose=0, return_dict=True)["loss"]
    assert seen == pytest.approx(expected, rel=2e-5)
    losses = model.fit(pipeline, epochs=3, verbose=0).history["loss"]
    assert losses[2] < losses[1] < losses[0] < expected


def test_two_replicas_enumerate_alike():
    law, x = bits(3), np.tile(POINTS, (8, 1))
    reduction = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], reduction)
    with strategy.scope():
        model = model_of(law, tv.ELBO(latents="enumerate"))
    weights = [w.numpy().astype("float64") for w in model.trainable_weights]
    seen = model.fit(x, batch_size=16, verbose=0).history
    assert seen["loss"][0] == pytest.approx(exact_loss(law, weights, x), rel=2e-5)
    nll, _ = exact_terms(law, weights, x)
    assert seen["nll"][0] == pytest.approx(nll.mean(), rel=2e-5)


def test_values_are_listed_once_each():
    both = tfd.Blockwise(
        [
            tfd.OneHotCategorical([0.0, 0.0], dtype=tf.float32),
            tfd.Sample(tfd.Bernoulli(0.0, dtype=tf.float32), 2),
        ]
    )
    mixture = tv.CategoricalMixtureOfOneHotCategorical(4, 2)(tf.zeros([1, 10]))
    laws = {
        2: tfd.Bernoulli(probs=0.3),
        3: tfd.Categorical(probs=[0.2, 0.3, 0.5]),
        4: mixture.tensor_distribution,
        8: both,
        9: tfd.Sample(tfd.Categorical([0.0] * 3), 2),
        16: tfd.Independent(tfd.Bernoulli(tf.zeros([5, 2, 2])), 2),
        27: one_hots(3, 3).layer()(tf.zeros([5, 9])).tensor_distribution,
    }
    for count, law in laws.items():
        values = values_of(law)
        assert number_of_values(law) == count == len(values)
        assert values.shape[1:] == law.event_shape
        assert values.dtype == law.dtype
        assert len(np.unique(np.reshape(values, (count, -1)), axis=0)) == count
        shape = [count] + [1] * law.batch_shape.rank + [*law.event_shape]
        probs = law.prob(tf.reshape(values, shape))
        np.testing.assert_allclose(tf.reduce_sum(probs, 0), 1, rtol=1e-5)
    for law in (
        tfd.Poisson(1.0),
        tfd.Normal(0.0, 1.0),
        tfd.Blockwise([tfd.Bernoulli(0.0, dtype=tf.float32), tfd.Normal(0.0, 1.0)]),
        tfd.Sample(tfd.Normal(0.0, 1.0), 2),
    ):
        assert number_of_values(law) is None


# Gradients from draws.


@pytest.mark.parametrize(
    "objective",
    [
        lambda: tv.ELBO(2, gradient="loo"),
        lambda: tv.ELBO(8, gradient="loo", beta=2.0),
        lambda: tv.ELBO(4, gradient="loo", beta=2.0, use_exact_kl=False),
    ],
    ids=["2 draws", "8 draws, beta", "drawn KL, beta"],
)
def test_leave_one_out_is_unbiased_for_64_states(objective):
    law, objective = bits(6), objective()
    model = model_of(law, objective)
    exact = differences(lambda w: exact_loss(law, w, POINTS, objective.beta), model)
    assert_unbiased(estimates(model, POINTS), exact)


@pytest.mark.parametrize(
    ("name", "use_exact_kl"),
    [
        ("one-hot", False),
        pytest.param("one-hot", None, marks=pytest.mark.slow),
        ("blocks of one-hots", None),
        pytest.param("blocks of one-hots", False, marks=pytest.mark.slow),
        pytest.param("numbers", None, marks=pytest.mark.slow),
        pytest.param("numbers", False, marks=pytest.mark.slow),
    ],
)
def test_leave_one_out_is_unbiased_for_categories(name, use_exact_kl):
    law = LAWS[name]()
    model = model_of(law, tv.ELBO(4, gradient="loo", use_exact_kl=use_exact_kl))
    exact = differences(lambda w: exact_loss(law, w, POINTS), model)
    assert_unbiased(estimates(model, POINTS), exact)


def test_leave_one_out_with_weights_of_examples():
    law, weight = bits(6), np.array([0.3, 1.7], "float32")
    for exact_kl in (None, False):
        model = model_of(law, tv.ELBO(4, gradient="loo", use_exact_kl=exact_kl))
        exact = differences(
            lambda w: exact_loss(law, w, POINTS, sample_weight=weight), model
        )
        assert_unbiased(estimates(model, POINTS, sample_weight=weight), exact)


def test_leave_one_out_with_a_capacity():
    law = bits(6)
    model = model_of(law, tv.ELBO(8, gradient="loo", capacity=9.0))

    def cost(w):
        nll, kl = exact_terms(law, w, POINTS)
        return nll.mean() + abs(kl.mean() - 9.0)

    assert_unbiased(estimates(model, POINTS), differences(cost, model))


def test_the_total_gradient_is_biased_here():
    """Shows that the tests above can fail: without a score the encoder is wrong."""
    law = bits(6)
    model = model_of(law, tv.ELBO(2))
    exact = differences(lambda w: exact_loss(law, w, POINTS), model)
    with pytest.warns(UserWarning, match="not reparameterised"):
        found = estimates(model, POINTS)
    with pytest.raises(AssertionError):
        assert_unbiased(found, exact)


@pytest.mark.parametrize(
    ("make", "k"),
    [
        pytest.param(lambda: bits(3), 3, marks=pytest.mark.slow),
        (lambda: one_hots(1, 5), 2),
    ],
)
def test_vimco_is_unbiased_for_the_bound_of_all_tuples(make, k):
    law = make()
    model = model_of(law, tv.ImportanceWeightedBound(k, gradient="vimco"))
    weights = [w.numpy().astype("float64") for w in model.trainable_weights]
    exact = differences(lambda w: exact_vimco_loss(law, w, POINTS, k), model)
    assert_unbiased(estimates(model, POINTS), exact)
    many = np.tile(POINTS, (4000, 1))
    seen = model.evaluate(many, batch_size=8000, verbose=0, return_dict=True)["loss"]
    assert seen == pytest.approx(exact_vimco_loss(law, weights, POINTS, k), abs=0.05)


def test_vimco_of_weights_that_differ_by_hundreds_of_nats():
    log_weights = tf.constant([[-900.0], [-5.0], [-800.0], [-np.inf]])
    log_q = tf.Variable(tf.zeros([4, 1]))
    with tf.GradientTape() as tape:
        loss = vimco(log_weights[:3], log_q[:3])
    signal = tape.gradient(loss, log_q).numpy().ravel()
    w = np.array([-900.0, -5.0, -800.0])
    bound = special.logsumexp(w) - np.log(3)
    for j in range(3):
        others = np.delete(w, j)
        held = special.logsumexp([*others, others.mean()]) - np.log(3)
        assert signal[j] == pytest.approx(bound - held, rel=1e-5, abs=1e-6)
    # A draw that cannot have made x.
    assert np.isfinite(vimco(log_weights, log_q)).all()


@keras.saving.register_keras_serializable("tests")
class WithoutBaseline(tv.ELBO):
    """The plain score-function estimator."""

    def losses(self, terms, kl_weight, sample_weight):
        f = terms.log_likelihood
        score = terms.log_posterior - tf.stop_gradient(terms.log_posterior)
        return -tf.reduce_mean(f + tf.stop_gradient(f) * score, 0) + terms.kl


@keras.saving.register_keras_serializable("tests")
class BoundWithoutBaselines(tv.ImportanceWeightedBound):
    """The importance-weighted bound with its own value as the signal of each draw."""

    def losses(self, terms, kl_weight, sample_weight):
        weights = terms.log_weights(kl_weight)
        bound = tv.objectives.importance_weighted_bound(weights)
        score = terms.log_posterior - tf.stop_gradient(terms.log_posterior)
        return -bound - tf.reduce_sum(tf.stop_gradient(bound) * score, 0)


@pytest.mark.slow
def test_the_variance_of_the_gradients(record_property):
    """The table of docs/elbo.md: one example, 64 states, the encoder's weights."""
    law, x, copies = bits(6), POINTS[:1], 500
    objectives = {
        "score, 8 draws": WithoutBaseline(8, gradient="loo"),
        "loo, 2 draws": tv.ELBO(2, gradient="loo"),
        "loo, 8 draws": tv.ELBO(8, gradient="loo"),
        "enumerate": tv.ELBO(latents="enumerate"),
        "bound of 8, score": BoundWithoutBaselines(8, gradient="vimco"),
        "bound of 8, vimco": tv.ImportanceWeightedBound(8, gradient="vimco"),
    }
    found = {}
    for name, objective in objectives.items():
        draws = estimates(model_of(law, objective), x, copies=copies)
        encoder = draws[:, : X * 6 + 6]
        found[name] = copies * encoder.var(0, ddof=1).sum()
    lines = [f"{name:20} {value:10.3g}" for name, value in found.items()]
    record_property("variance of the gradient", "\n".join(lines))
    assert found["enumerate"] < 1e-6
    assert found["loo, 8 draws"] < 0.2 * found["score, 8 draws"]
    assert found["loo, 8 draws"] < 0.5 * found["loo, 2 draws"]
    assert found["bound of 8, vimco"] < 0.1 * found["bound of 8, score"]


# Training.


def mixture(objective, layer=None):
    """A mixture of 4 normals with known means; only the encoder learns."""
    encoder = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(4),
            layer or tv.OneHotCategorical(4),
        ]
    )
    decoder = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(2, use_bias=False),
            tv.IndependentNormal(2, scale=SCALE),
        ]
    )
    decoder.layers[0].set_weights([MEANS])
    decoder.trainable = False
    prior = tfd.OneHotCategorical(np.log(SHARES).astype("float32"), dtype=tf.float32)
    model = tv.VAE(encoder, decoder, prior, objective)
    rate = keras.optimizers.schedules.CosineDecay(0.1, 300)
    model.compile(keras.optimizers.Adam(rate))
    return model


MEANS = np.array([[1.5, 0.0], [-1.5, 0.0], [0.0, 1.0], [0.5, -1.5]])
SHARES = np.array([0.1, 0.2, 0.3, 0.4])


def points(n, rng):
    z = rng.choice(4, n, p=SHARES)
    return (MEANS[z] + SCALE * rng.normal(size=(n, 2))).astype("float32")


def log_evidence(x):
    log_p = stats.norm(MEANS, SCALE).logpdf(x[:, None]).sum(-1)
    return special.logsumexp(log_p + np.log(SHARES), axis=-1)


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(lambda: tv.ELBO(latents="enumerate"), marks=pytest.mark.slow),
        pytest.param(lambda: tv.ELBO(8, gradient="loo"), marks=pytest.mark.slow),
        lambda: tv.ImportanceWeightedBound(2, gradient="vimco"),
    ],
    ids=["enumerate", "loo", "vimco"],
)
def test_the_encoder_learns_the_posterior_of_a_mixture(objective, rng):
    """The posterior is a softmax of linear functions: the bound reaches log p(x)."""
    x, objective = points(500, rng), objective()
    model = mixture(objective)
    model.fit(x, batch_size=100, epochs=60, verbose=0)
    log_p = stats.norm(MEANS, SCALE).logpdf(x[:, None]).sum(-1) + np.log(SHARES)
    exact = special.softmax(log_p, axis=-1)
    away = np.abs(model.encode(x).mean() - exact).max(-1)
    assert away.mean() < 0.05
    again = mixture(tv.ELBO(latents="enumerate"))
    again.encoder.set_weights(model.encoder.get_weights())
    bound = again.evaluate(x, verbose=0, return_dict=True)["elbo"]
    truth = log_evidence(x).mean()
    assert truth - 0.02 < bound < truth + 1e-4
    np.testing.assert_allclose(
        model.log_prob(x[:9], 5000), log_evidence(x[:9]), atol=0.05
    )


def test_straight_through_trains_on_the_mixture(rng):
    x = points(500, rng)
    layer = tv.RelaxedOneHotCategorical(4, 0.5, straight_through=True)
    model = mixture(tv.ELBO(8), layer)
    before = model.evaluate(x, verbose=0, return_dict=True)["elbo"]
    model.fit(x, batch_size=100, epochs=40, verbose=0)
    after = model.elbo(x, 50).mean()
    assert before + 0.5 < after < log_evidence(x).mean()
    assert after > log_evidence(x).mean() - 0.3  # its gradient is biased


# The rest of the model.


@pytest.mark.parametrize(
    "name",
    slow.except_for(
        ("one-hot",), ("bits", "one-hot", "blocks of one-hots", "numbers", "matrices")
    ),
)
def test_everything_else_works_with_discrete_latents(name, tmp_path):
    law = LAWS[name]()
    model = model_of(law, tv.ELBO(4, gradient="loo"), rate=0.01)
    x = np.tile(POINTS, (5, 1))
    model.fit(x, epochs=1, verbose=0)
    z = center(model.encode(x)).numpy()
    assert z.shape == (10, *law.values.shape[1:])
    codes = {tuple(v.ravel()) for v in law.values}
    assert {tuple(row.ravel()) for row in z} <= codes
    # The likeliest value of each variable.
    weights = [w.numpy().astype("float64") for w in model.trainable_weights]
    log_q, log_p, prior = pieces(law, weights, x)
    np.testing.assert_array_equal(z, law.values[log_q.argmax(-1)])
    means = law.values.reshape(len(law.values), -1) @ weights[2] + weights[3]
    found = model.predict(x, verbose=0)
    np.testing.assert_allclose(found, means[log_q.argmax(-1)], atol=1e-5)
    new = model.generate(300, seed=1)
    assert np.abs(new[:, None] - means).max(-1).min(-1).max() < 1e-5
    exact = special.logsumexp(log_p + prior, axis=-1)
    drawn = model.log_prob(x, 4000, seed=1)
    np.testing.assert_allclose(drawn, exact, atol=0.15)
    nll, kl = exact_terms(law, weights, x)
    np.testing.assert_allclose(model.elbo(x, 4000, seed=1), -nll - kl, atol=0.5)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.objective.get_config() == model.objective.get_config()
    np.testing.assert_allclose(again.predict(x, verbose=0), found, atol=1e-6)
    np.testing.assert_array_equal(
        again.log_prob(x, 9, seed=1), model.log_prob(x, 9, seed=1)
    )


def test_a_served_model_gives_probabilities_and_the_reconstruction(tmp_path):
    model = model_of(one_hots(1, 5), tv.ELBO(latents="enumerate"))
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    q = model.encode(POINTS)
    np.testing.assert_allclose(served.encode(POINTS)["mean"], q.mean(), atol=1e-6)
    np.testing.assert_allclose(mean_or_center(q), q.mean(), atol=1e-6)
    found = served.reconstruct(POINTS)
    np.testing.assert_allclose(found, model.predict(POINTS, verbose=0), atol=1e-6)
    assert np.isfinite(served.log_prob(POINTS, 10)).all()


def test_enumeration_survives_saving_and_training_continues(tmp_path):
    model = model_of(bits(3), tv.ELBO(latents="enumerate"), rate=0.01)
    model.fit(POINTS, epochs=2, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.objective.latents == "enumerate"
    left, right = (m.fit(POINTS, verbose=0).history["loss"] for m in (model, again))
    assert left == pytest.approx(right, rel=1e-6)


def test_metrics_of_keras_see_draws_not_unweighted_values():
    """The mean of log p(x|z) over q, which is not that over all values alike."""
    law = bits(4)
    model = model_of(law, tv.ELBO(latents="enumerate"))
    model.compile("sgd", metrics=[tv.LogLikelihood(), tv.ActiveUnits()])
    weights = [w.numpy().astype("float64") for w in model.trainable_weights]
    x = np.tile(POINTS, (3000, 1))
    seen = model.evaluate(x, batch_size=3000, verbose=0, return_dict=True)
    log_q, log_p, _ = pieces(law, weights, POINTS)
    q = np.exp(log_q)
    mean = (q * log_p).sum(-1)
    spread = np.sqrt(((q * log_p**2).sum(-1) - mean**2).mean() / len(x))
    assert abs(seen["log_likelihood"] - mean.mean()) < 5 * spread
    assert abs(log_p.mean() - mean.mean()) > 20 * spread
    p = special.expit(POINTS @ weights[0] + weights[1])
    assert seen["active_units"] == (p.var(0) > 0.01).sum()


def test_a_step_of_ones_own_asks_for_all_values():
    class Own(tv.VAE):
        def test_step(self, data):
            count = self.objective.draws_per_example
            p = self(data, training=True, num_samples=count)
            return {"loss": self.compute_loss(data, data, p)}

    base = model_of(bits(3), tv.ELBO(latents="enumerate"))
    own = Own(base.encoder, base.decoder, base.prior, base.objective)
    own.compile("sgd", jit_compile=False)
    weights = [w.numpy().astype("float64") for w in base.trainable_weights]
    seen = own.evaluate(POINTS, verbose=0, return_dict=True)["loss"]
    assert seen == pytest.approx(exact_loss(bits(3), weights, POINTS), rel=2e-5)
    p = base(POINTS, training=True)
    with pytest.raises(
        ValueError, match="num_samples='all'. Received: a y_pred with 1"
    ):
        base.compute_loss(POINTS, POINTS, p)
    loo = model_of(bits(3), tv.ELBO(4, gradient="loo"))
    with pytest.raises(ValueError, match="num_samples=4. Received: a y_pred with 1"):
        loo.compute_loss(POINTS, POINTS, loo(POINTS, training=True))
    with pytest.raises(ValueError, match="Received: a y_pred with all values of z"):
        loo.compute_loss(POINTS, POINTS, loo(POINTS, num_samples="all"))


def test_products_of_one_hots_have_a_closed_kl(rng):
    logits = rng.normal(size=(5, 2, 3)).astype("float32")
    one = rng.normal(size=3).astype("float32")
    q = tfd.Independent(tfd.OneHotCategorical(logits, dtype=tf.float32), 1)
    p = tfd.OneHotCategorical(one, dtype=tf.float32)
    exact = special.rel_entr(special.softmax(logits, -1), special.softmax(one))
    back = special.rel_entr(special.softmax(one), special.softmax(logits, -1))
    np.testing.assert_allclose(
        kl_divergence(q, tfd.Sample(p, 2), True), exact.sum((1, 2)), rtol=1e-4
    )
    np.testing.assert_allclose(
        tfd.kl_divergence(tfd.Sample(p, 2), q), back.sum((1, 2)), rtol=1e-4
    )
    blocks = tv.Blockwise([tv.OneHotCategorical(3)] * 2)(logits.reshape(5, 6))
    np.testing.assert_allclose(
        kl_divergence(blocks, tfd.Blockwise([p, p]), True),
        exact.sum((1, 2)),
        rtol=1e-4,
    )
    several = tfd.Sample(tfd.OneHotCategorical(logits[:, 0], dtype=tf.float32), 2)
    assert not has_closed_form(q, several)


# Bad input.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tv.ELBO(gradient="loo"), "`ELBO` .*at least 2.*num_samples=1. Give"),
        (lambda: tv.ImportanceWeightedBound(1, "vimco"), "at least 2.*Received"),
        (lambda: tv.ELBO(gradient="vimco"), "expects `gradient`"),
        (lambda: tv.ImportanceWeightedBound(4, "loo"), "expects `gradient`"),
        (lambda: tv.RenyiBound(0.5, 4, "vimco"), "expects `gradient`"),
        (lambda: tv.ELBO(latents="all"), "expects `latents`.*Received"),
        (lambda: tv.ELBO(4, latents="enumerate"), "Received: num_samples=4.*Leave"),
        (
            lambda: tv.ELBO(8, gradient="loo", latents="enumerate"),
            "latents='enumerate' without.*gradient='loo'",
        ),
        (
            lambda: tv.ELBO(4, gradient="loo", use_exact_kl=False, free_bits=1.0),
            "closed form. Received: use_exact_kl=False. Leave",
        ),
    ],
)
def test_arguments_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "width", "message"),
    [
        (lambda: tv.IndependentBernoulli(13), 13, r"4096 values.*about 2\*\*13"),
        (lambda: tv.IndependentBernoulli(20000), 20000, r"2\*\*20000 values. Make"),
        (lambda: tv.IndependentNormal(3), 6, r"Independent\(Normal\) with no known"),
        (lambda: tv.IndependentPoisson(1), 1, "with no known number of values"),
        (
            lambda: tv.Blockwise([tv.OneHotCategorical(2), tv.IndependentNormal(1)]),
            4,
            "Blockwise with no known",
        ),
    ],
)
def test_too_many_values_are_refused(layer, width, message):
    layer = layer()
    encoder = keras.Sequential([keras.Input((X,)), keras.layers.Dense(width), layer])
    event = encoder(tf.zeros([1, X])).event_shape
    decoder = keras.Sequential(
        [
            keras.Input(tuple(event)),
            keras.layers.Dense(X),
            tv.IndependentNormal(X, scale=1.0),
        ]
    )
    prior = keras.Sequential([tv.VariableLayer(width), layer])
    model = tv.VAE(encoder, decoder, prior, tv.ELBO(latents="enumerate"))
    model.compile("sgd")
    with pytest.raises(ValueError, match=message):
        model.fit(POINTS, verbose=0)


def test_free_bits_need_a_closed_kl_with_loo():
    law = bits(3)
    model = model_of(law, tv.ELBO(4, gradient="loo", free_bits=0.1))
    logits = tf.constant([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    prior = tfd.MixtureSameFamily(
        tfd.Categorical(logits=[0.0, 0.0]),
        tfd.Independent(tfd.Bernoulli(logits, dtype=tf.float32), 1),
    )
    mixed = tv.VAE(model.encoder, model.decoder, prior, model.objective)
    mixed.compile("sgd")
    with pytest.raises(ValueError, match="only if the KL has a closed form"):
        mixed.fit(POINTS, verbose=0)
    assert not has_closed_form(model.encode(POINTS), prior)


def test_the_warning_names_what_to_do_instead():
    model = model_of(bits(3))
    with pytest.warns(
        UserWarning,
        match=r"Independent\(Bernoulli\), are not.*gradient='loo'.*gradient='vimco'"
        r".*latents='enumerate'.*IndependentRelaxedBernoulli",
    ):
        model.fit(POINTS, verbose=0)
    for objective in (tv.ELBO(gradient="stl"), tv.ImportanceWeightedBound(2, "dreg")):
        with pytest.raises(ValueError, match=r"draws are reparam.*gradient='loo'"):
            model_of(bits(3), objective).fit(POINTS, verbose=0)


# Draws are constants.


def test_leave_one_out_also_trains_normals(rng):
    """Its gradient is that of the reparameterised draws."""
    encoder = keras.Sequential(
        [keras.Input((X,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
    )
    decoder = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(X), tv.IndependentNormal(X, scale=1.0)]
    )
    found = []
    for objective in (tv.ELBO(8), tv.ELBO(8, gradient="loo")):
        model = tv.VAE(encoder, decoder, tv.StandardNormal(2), objective)
        model.compile(keras.optimizers.SGD(1.0))
        found.append(estimates(model, POINTS))
    error = np.hypot(*(draws.std(0) / np.sqrt(len(draws)) for draws in found))
    away = np.abs(found[0].mean(0) - found[1].mean(0))
    assert (away < 5 * error + 1e-6).all()
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(found[0].mean(0))


def test_a_vamp_prior_of_bits_learns_its_inputs():
    encoder = keras.Sequential(
        [keras.Input((X,)), keras.layers.Dense(4), tv.IndependentBernoulli(4)]
    )
    decoder = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(X), tv.IndependentNormal(X, scale=1.0)]
    )
    prior = tv.VampPrior(encoder, num_components=3)
    for objective in (tv.ELBO(4, gradient="loo"), tv.ELBO(latents="enumerate")):
        model = tv.VAE(encoder, decoder, prior, objective)
        model.compile(keras.optimizers.SGD(0.1))
        before = [w.numpy() for w in prior.trainable_weights]
        model.fit(POINTS, verbose=0)
        moved = [
            np.abs(w.numpy() - b).max()
            for w, b in zip(prior.trainable_weights, before, strict=True)
        ]
        assert min(moved) > 0


# Straight-through.


def slope(logit, temperature):
    """E[d sigmoid((logit + l) / temperature) / d logit] for a logistic l."""

    def at(noise):
        s = special.expit((logit + noise) / temperature)
        return s * (1 - s) / temperature * stats.logistic.pdf(noise)

    return integrate.quad(at, -40, 40, points=[-logit], limit=500)[0]


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_straight_through_draws_are_discrete_with_the_relaxed_gradient(temperature):
    n, logit = 200_000, 0.8
    logits = tf.Variable([[logit]])
    both = tf.Variable([[logit, 0.0]])
    make = {
        "bits": (tv.IndependentRelaxedBernoulli, 1, logits),
        "one-hot": (tv.RelaxedOneHotCategorical, 2, both),
    }
    for layer, size, parameters in make.values():
        layer = layer(size, temperature, straight_through=True)
        with tf.GradientTape() as tape:
            q = layer(parameters).tensor_distribution
            assert q.reparameterization_type == tfd.FULLY_REPARAMETERIZED
            z = q.sample(n, seed=3)
            first = tf.reduce_mean(z[..., 0])
        assert set(np.unique(z)) == {0.0, 1.0}
        share = special.expit(logit)
        error = np.sqrt(share * (1 - share) / n)
        assert abs(first - share) < 5 * error
        # The slope lies between 0 and 1 / (4 temperature), so it bounds the spread.
        seen = float(tape.gradient(first, parameters)[0, 0])
        spread = 1 / (4 * temperature) / np.sqrt(n)
        assert abs(seen - slope(logit, temperature)) < 5 * spread
        assert abs(float(q.mean()[0, 0]) - share) < 1e-6


def test_straight_through_laws_are_the_discrete_ones(rng):
    logits = rng.normal(size=(5, 3)).astype("float32")
    q = tv.IndependentRelaxedBernoulli(3, 0.3, straight_through=True)(logits)
    x = rng.integers(0, 2, (5, 3)).astype("float32")
    density = stats.bernoulli.logpmf(x, special.expit(logits)).sum(-1)
    np.testing.assert_allclose(q.log_prob(x), density, rtol=1e-4)
    p = tfd.Independent(tfd.Bernoulli([0.3, -0.2, 0.0], dtype=tf.float32), 1)
    a, b = special.expit(logits), special.expit([0.3, -0.2, 0.0])
    exact = special.rel_entr(a, b) + special.rel_entr(1 - a, 1 - b)
    assert has_closed_form(q, p)
    np.testing.assert_allclose(kl_divergence(q, p), exact.sum(-1), rtol=1e-4)
    q = tv.RelaxedOneHotCategorical(3, 0.3, straight_through=True)(logits)
    p = tfd.OneHotCategorical([0.3, -0.2, 0.0], dtype=tf.float32)
    np.testing.assert_allclose(
        q.log_prob(np.eye(3, dtype="float32")[[0, 1, 2, 0, 1]]),
        special.log_softmax(logits, -1)[range(5), [0, 1, 2, 0, 1]],
        rtol=1e-4,
    )
    exact = special.rel_entr(special.softmax(logits, -1), special.softmax(p.logits))
    assert has_closed_form(q, p)
    np.testing.assert_allclose(kl_divergence(q, p), exact.sum(-1), rtol=1e-4)
    np.testing.assert_allclose(q.stddev() ** 2, q.mean() * (1 - q.mean()), rtol=1e-5)
    np.testing.assert_array_equal(q.copy(logits=2 * logits).logits, 2 * logits)
    assert q.copy().parameters["temperature"].numpy() == np.float32(0.3)
    relaxed = tfd.ExpRelaxedOneHotCategorical(0.3, logits=[0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="expects a prior that has a density"):
        kl_divergence(q, relaxed)


def test_straight_through_is_the_same_law_with_xla_and_without_a_nan():
    for layer in (
        tv.IndependentRelaxedBernoulli(3, 0.1, straight_through=True),
        tv.RelaxedOneHotCategorical(3, 0.1, straight_through=True),
    ):
        for size in (1.0, 1e8):
            logits = tf.Variable(size * tf.constant([[1.0, -1.0, 0.5]] * 4))

            @tf.function(jit_compile=True)
            def step(layer=layer, logits=logits):
                with tf.GradientTape() as tape:
                    z = layer(logits).tensor_distribution.sample(seed=(1, 2))
                    loss = tf.reduce_sum(z * tf.range(3.0))
                return z, tape.gradient(loss, logits)

            z, slopes = step()
            assert set(np.unique(z)) <= {0.0, 1.0}
            assert np.isfinite(slopes).all()


@pytest.mark.parametrize(
    "law",
    [
        tv.distributions.StraightThroughBernoulli,
        tv.distributions.StraightThroughOneHotCategorical,
    ],
)
def test_straight_through_laws_have_the_dtype_of_their_logits(law):
    for logits in (np.zeros(3), tf.zeros([3], tf.float64)):
        q = law(0.5, logits)
        assert q.dtype == tf.float64
        assert q.sample(seed=(1, 2)).dtype == tf.float64
    assert law(0.5, tf.zeros(3)).dtype == tf.float32


def test_straight_through_draws_of_nan_are_nan():
    nan = np.full((1, 3), np.nan, "float32")
    for make in (tv.IndependentRelaxedBernoulli, tv.RelaxedOneHotCategorical):
        z = make(3, 0.5, straight_through=True)(nan).tensor_distribution.sample(seed=1)
        assert np.isnan(z).all()


def test_leave_one_out_of_two_draws_by_hand():
    log_q = tf.Variable([[0.0], [0.0]])
    with tf.GradientTape() as tape:
        bound = leave_one_out(tf.constant([[2.0], [5.0]]), log_q)
    assert float(bound[0]) == 3.5
    np.testing.assert_allclose(tape.gradient(bound, log_q), [[-1.5], [1.5]])
