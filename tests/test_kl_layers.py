"""`KLDivergenceAddLoss` and `KLDivergenceRegularizer`: one KL, counted once."""

import keras
import models
import numpy as np
import pytest
import reference
import tensorflow as tf
import tensorflow_probability as tfp
import vaes
from scipy import integrate, stats

import tfp_vae as tv
from tfp_vae.keras_internals import set_mask

tfd = tfp.distributions
X = models.digits()


def parameters(rng, n=8):
    return rng.normal(size=(n, 6)).astype("float32")


def expected_kl(params):
    loc, scale = reference.loc_scale_parts(params, (3,))
    return reference.kl_normal_standard(loc, scale)


def posterior_with(kl):
    """The KL as a layer, or as a regularizer of the posterior."""
    if isinstance(kl, tv.KLDivergenceAddLoss):
        return keras.Sequential([tv.IndependentNormal(3), kl])
    return keras.Sequential([tv.IndependentNormal(3, activity_regularizer=kl)])


@pytest.fixture(params=[tv.KLDivergenceAddLoss, tv.KLDivergenceRegularizer])
def kind(request):
    return request.param


def test_the_loss_is_the_batch_mean_counted_once(kind, rng):
    params = parameters(rng)
    q = posterior_with(kind(tv.StandardNormal(3)))
    q(params)
    assert len(q.losses) == 1
    np.testing.assert_allclose(q.losses[0], expected_kl(params).mean(), rtol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_the_loss_does_not_depend_on_the_batch_split(kind, rng, n):
    params = np.tile(parameters(rng, 1), (n, 1))
    q = posterior_with(kind(tv.StandardNormal(3)))
    q(params)
    np.testing.assert_allclose(q.losses[0], expected_kl(params)[0], rtol=1e-5)


def test_exact_and_monte_carlo_agree(kind, rng):
    params = parameters(rng)
    n = 20_000
    q = posterior_with(
        kind(
            tv.StandardNormal(3),
            use_exact_kl=False,
            test_points_fn=lambda q: q.sample(n, seed=(1, 2)),
        )
    )
    p = q(params)
    z = p.sample(n, seed=(1, 2))
    ratio = (p.log_prob(z) - tv.StandardNormal(3)().log_prob(z)).numpy().mean(1)
    assert abs(float(q.losses[0]) - expected_kl(params).mean()) < 5 * (
        ratio.std() / np.sqrt(n)
    )


def test_monte_carlo_uses_the_draw_that_the_decoder_sees(kind, rng):
    params = parameters(rng)
    q = posterior_with(kind(tv.StandardNormal(3), use_exact_kl=False))
    p = q(params)
    z = tf.convert_to_tensor(p)
    expected = tf.reduce_mean(p.log_prob(z) - tv.StandardNormal(3)().log_prob(z))
    np.testing.assert_allclose(q.losses[0], expected, rtol=1e-5)


def test_monte_carlo_draws_anew_where_the_value_is_the_mean(rng):
    params = parameters(rng)
    layer = tv.KLDivergenceAddLoss(tv.StandardNormal(3), use_exact_kl=False)
    q = keras.Sequential([tv.IndependentNormal(3, "mean"), layer])
    values = []
    for _ in range(500):
        q(params)
        values.append(float(q.losses[0]))
    error = np.std(values) / np.sqrt(len(values))
    assert error > 0
    assert abs(np.mean(values) - expected_kl(params).mean()) < 5 * error


def test_a_function_that_may_be_a_statistic_is_not_taken_for_a_draw(kind):
    """KL(N(0, s) || Laplace(0, 1)) by quadrature; at the mean it would be negative."""
    prior = tfd.Sample(tfd.Laplace(0.0, 1.0), 3)
    params = np.zeros((4000, 6), "float32")
    layer = tv.IndependentNormal(3, lambda q: q.mean())
    kl = kind(prior)
    if kind is tv.KLDivergenceAddLoss:
        q = keras.Sequential([layer, kl])
    else:
        q = keras.Sequential(
            [tv.IndependentNormal(3, lambda q: q.mean(), activity_regularizer=kl)]
        )
    q(params)
    law = stats.norm(0.0, np.log(2.0))
    ratio = lambda z: law.logpdf(z) + abs(z) + np.log(2.0)  # noqa: E731
    one = integrate.quad(lambda z: law.pdf(z) * ratio(z), -6, 6)[0]
    spread = integrate.quad(lambda z: law.pdf(z) * ratio(z) ** 2, -6, 6)[0] - one**2
    error = np.sqrt(3 * spread / len(params))
    assert abs(float(q.losses[0]) - 3 * one) < 5 * error


def test_several_draws_in_front_of_the_batch(kind, rng):
    layer = tv.IndependentNormal(3, lambda q, seed: q.sample(5, seed=seed))
    kl = kind(tv.StandardNormal(3), use_exact_kl=False)
    if kind is tv.KLDivergenceAddLoss:
        q = keras.Sequential([layer, kl])
    else:
        layer = tv.IndependentNormal(
            3, lambda q, seed: q.sample(5, seed=seed), activity_regularizer=kl
        )
        q = keras.Sequential([layer])
    p = q(parameters(rng))
    z = tf.convert_to_tensor(p)
    assert z.shape == (5, 8, 3)
    expected = tf.reduce_mean(p.log_prob(z) - tv.StandardNormal(3)().log_prob(z))
    np.testing.assert_allclose(q.losses[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("weight", "factor"),
    [
        (None, 1.0),
        (0.25, 0.25),
        (0, 0.0),
        (keras.Variable(0.5, trainable=False), 0.5),
        (tf.Variable(0.5, trainable=False), 0.5),
        (lambda: 2.0, 2.0),
        (np.float32(0.5), 0.5),
        (tf.constant(0.5), 0.5),
    ],
)
def test_weight_multiplies_the_loss_and_not_the_metric(kind, rng, weight, factor):
    params = parameters(rng)
    q = posterior_with(kind(tv.StandardNormal(3), weight=weight))
    q(params)
    expected = expected_kl(params).mean()
    np.testing.assert_allclose(q.losses[0], factor * expected, rtol=1e-5)
    assert [m.name for m in q.layers[-1].metrics] == ["kl"]
    np.testing.assert_allclose(q.layers[-1].metrics[0].result(), expected, rtol=1e-5)


def test_a_weight_can_change_between_epochs():
    weight = keras.Variable(0.0, trainable=False)
    model = models.vae(weight=weight)
    first = model.evaluate(X, X, verbose=0, return_dict=True)
    weight.assign(1.0)
    second = model.evaluate(X, X, verbose=0, return_dict=True)
    assert first["loss"] == pytest.approx(first["nll"], rel=1e-5)
    assert second["loss"] == pytest.approx(second["nll"] + second["kl"], rel=1e-5)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-1.0, "of at least 0.*Received: weight=-1.0"),
        ("big", "of at least 0.*Received: weight='big'"),
        (keras.Variable(1.0), "not trainable.*Received"),
        (tf.Variable(1.0), "not trainable.*Received"),
    ],
)
def test_a_bad_weight_is_an_error(kind, weight, message):
    with pytest.raises(ValueError, match=message):
        kind(tv.StandardNormal(3), weight=weight)


def standard():
    return tfd.Sample(tfd.Normal(0.0, 1.0), 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tv.StandardNormal(3),
        standard,
        lambda: tfd.MultivariateNormalDiag(tf.zeros(3)),
        lambda: tv.DistributionTensor(standard()),
        lambda: standard,
        lambda: keras.Sequential([tv.DistributionLambda(lambda _: standard())]),
    ],
)
def test_a_prior_is_a_distribution_a_layer_a_model_or_a_function(kind, make, rng):
    params = parameters(rng)
    q = posterior_with(kind(make()))
    q(params)
    np.testing.assert_allclose(q.losses[0], expected_kl(params).mean(), rtol=1e-5)


def test_the_prior_is_public(kind):
    prior = tv.StandardNormal(3)
    kl = kind(prior)
    assert kl.prior is prior
    assert tv.KLDivergenceRegularizer(prior).distribution_b is prior


def test_a_learned_prior_trains_and_is_tracked(kind):
    prior = models.learned_prior()
    kl = kind(prior)
    inputs = keras.Input(models.PIXELS)
    h = keras.layers.Dense(6)(keras.layers.Flatten()(inputs))
    if kind is tv.KLDivergenceAddLoss:
        z = kl(tv.IndependentNormal(3)(h))
    else:
        z = tv.IndependentNormal(3, activity_regularizer=kl)(h)
    model = keras.Model(inputs, models.decoder()(z))
    assert any(v is prior.weights[0] for v in model.trainable_variables)
    before = prior.weights[0].numpy()
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    history = model.fit(X, X, verbose=0, epochs=2).history
    assert np.abs(prior.weights[0].numpy() - before).min() > 0
    assert "kl" in history


def test_the_metric_is_the_mean_over_examples_and_not_over_batches(rng):
    """A mean of batch means would count the last example, alone in its batch, 64x."""
    params = np.concatenate([np.zeros((64, 6)), np.full((1, 6), 3.0)]).astype("float32")
    inputs = keras.Input((6,))
    q = tv.KLDivergenceAddLoss(tv.StandardNormal(3))(tv.IndependentNormal(3)(inputs))
    model = keras.Model(inputs, q)
    model.compile(loss=tv.NegativeLogLikelihood())
    logs = model.evaluate(
        params, np.zeros((65, 3)), batch_size=64, verbose=0, return_dict=True
    )
    assert logs["kl"] == pytest.approx(expected_kl(params).mean(), rel=1e-5)


class Block(keras.layers.Layer):
    """A user's layer with a KL layer inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4)
        self.q = tv.IndependentNormal(2)
        self.kl = tv.KLDivergenceAddLoss(tv.StandardNormal(2), name="inner")

    def call(self, inputs):
        return self.kl(self.q(self.dense(inputs)))


def test_kl_layers_in_one_model_share_a_total():
    inputs = keras.Input(models.PIXELS)
    flat = keras.layers.Flatten()(inputs)
    outer = tv.KLDivergenceAddLoss(tv.StandardNormal(3), name="outer", weight=0.5)(
        tv.IndependentNormal(3)(keras.layers.Dense(6)(flat))
    )
    joined = keras.layers.Concatenate()([outer, Block()(flat), Block()(flat)])
    output = tv.IndependentBernoulli(models.PIXELS)(keras.layers.Dense(64)(joined))
    model = keras.Model(inputs, output)
    model.compile(
        "adam", loss=tv.NegativeLogLikelihood(), metrics=[tv.LogLikelihood(True)]
    )
    model.fit(X, X, verbose=0)
    logs = model.evaluate(X, X, verbose=0, return_dict=True)
    parts = {"outer_kl", "inner_kl", "inner_kl_1"}
    assert set(logs) == {"loss", "nll", "kl", *parts}
    assert logs["kl"] == pytest.approx(sum(logs[name] for name in parts), rel=1e-5)
    expected = logs["nll"] + logs["kl"] - 0.5 * logs["outer_kl"]
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    # Calling a part on its own leaves the names alone.
    model.layers[-1](model.layers[-2](np.zeros((1, 7), "float32")))
    assert set(model.fit(X, X, verbose=0).history) == set(logs)


def test_one_kl_layer_in_a_nested_model_is_called_kl():
    logs = models.vae().evaluate(X, X, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "nll", "kl"}
    assert logs["loss"] == pytest.approx(logs["nll"] + logs["kl"], rel=1e-5)


def test_a_mask_leaves_members_out(kind, rng):
    params = rng.normal(size=(2, 4, 6)).astype("float32")
    params[0, 2:] = 0.0
    layers = posterior_with(kind(tv.StandardNormal(3))).layers
    q = keras.Sequential([keras.layers.Masking(), *layers])
    q(params)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    expected = (expected_kl(params) * mask).sum() / mask.sum()
    np.testing.assert_allclose(q.losses[0], expected, rtol=1e-5)


def test_a_mask_of_another_shape_is_an_error(rng):
    layer = tv.KLDivergenceAddLoss(tv.StandardNormal(3))
    q = set_mask(tv.IndependentNormal(3)(parameters(rng)), tf.ones([8, 3], tf.bool))
    with pytest.raises(ValueError, match=r"batch's shape \(8,\).*mask.shape=\(8, 3\)"):
        layer(q)


def test_an_empty_batch_contributes_zero(kind):
    q = posterior_with(kind(tv.StandardNormal(3)))
    q(np.zeros((0, 6), "float32"))
    assert float(q.losses[0]) == 0.0


def test_a_plain_tensor_is_an_error():
    layer = tv.KLDivergenceAddLoss(tv.StandardNormal(3))
    with pytest.raises(
        ValueError, match="expects a distribution. Received: a plain tensor"
    ):
        layer(tf.zeros([2, 3]))
    model = keras.Sequential([keras.layers.Dense(3), layer])
    with pytest.raises(ValueError, match="`IndependentNormal` right in front of it"):
        model(np.zeros((2, 3), "float32"))


@pytest.mark.parametrize("prior", [3, "standard", None])
def test_a_prior_that_is_none_is_an_error(kind, prior):
    with pytest.raises(ValueError, match="`distribution_b` to be a.*Received"):
        kind(prior)


def test_a_function_that_returns_no_distribution_is_an_error(kind, rng):
    q = posterior_with(kind(lambda: tf.zeros(3)))
    with pytest.raises(ValueError, match="prior that returns a `tfd.Distribution`"):
        q(parameters(rng))


def test_tf_variables_in_a_prior_are_an_error(kind):
    prior = tfd.Independent(tfd.Normal(tf.Variable([0.0] * 3), 1.0), 1)
    with pytest.raises(ValueError, match="Keras can train. Received.*VariableLayer"):
        kind(prior)


def test_a_prior_of_another_event_shape_is_an_error(kind, rng):
    q = posterior_with(kind(tv.StandardNormal(2)))
    with pytest.raises(ValueError, match=r"event shape \(3,\)"):
        q(parameters(rng))


def test_one_regularizer_for_two_layers_is_an_error():
    regularizer = tv.KLDivergenceRegularizer(tv.StandardNormal(3))
    tv.IndependentNormal(3, activity_regularizer=regularizer)
    with pytest.raises(ValueError, match="regularizer of one layer. Received"):
        tv.IndependentNormal(3, activity_regularizer=regularizer)


def test_a_kl_layer_called_twice_in_a_step_shows_what_it_adds():
    encoder = models.encoder()
    left, right = keras.Input(models.PIXELS), keras.Input(models.PIXELS)
    joined = keras.layers.Concatenate()([encoder(left), encoder(right)])
    output = tv.IndependentBernoulli(models.PIXELS)(keras.layers.Dense(64)(joined))
    model = keras.Model([left, right], output)
    model.compile(
        "adam", loss=tv.NegativeLogLikelihood(), metrics=[tv.LogLikelihood(True)]
    )
    for jit_compile in (False, True):
        model.jit_compile = jit_compile
        logs = model.evaluate([X, X], X, verbose=0, return_dict=True)
        once = float(tf.reduce_mean(encoder(X).kl_divergence(standard())))
        assert logs["kl"] == pytest.approx(2 * once, rel=1e-4)
        assert logs["loss"] == pytest.approx(logs["nll"] + logs["kl"], rel=1e-5)


def test_losses_of_the_priors_network_leave_the_kl_alone(rng):
    y = rng.normal(size=(len(X), 3)).astype("float32")
    regularized = keras.layers.Dense(6, activity_regularizer=keras.regularizers.L2(1.0))
    prior = keras.Sequential([keras.Input((3,)), regularized, tv.IndependentNormal(3)])
    x, c = keras.Input(models.PIXELS), keras.Input((3,))
    h = keras.layers.Dense(6)(keras.layers.Flatten()(x))
    encoder = keras.Model(x, tv.IndependentNormal(3)(h))
    z = tv.KLDivergenceAddLoss(prior)(encoder(x), prior_inputs=c)
    output = tv.IndependentBernoulli(models.PIXELS)(keras.layers.Dense(64)(z))
    model = keras.Model([x, c], output)
    model.compile("sgd", loss=tv.NegativeLogLikelihood())
    logs = model.evaluate([X, y], X, batch_size=8, verbose=0, return_dict=True)
    expected = float(tf.reduce_mean(encoder(X).kl_divergence(prior(y))))
    assert logs["kl"] == pytest.approx(expected, rel=1e-4)


def test_predict_inside_an_epoch_leaves_the_history_alone():
    model = deterministic = models.vae(conversion="mean")
    meddle = keras.callbacks.LambdaCallback(
        on_test_batch_end=lambda batch, logs: model.predict(9 * X, verbose=0)
    )
    logs = [
        deterministic.evaluate(X, X, verbose=0, return_dict=True, callbacks=callbacks)
        for callbacks in ([], [meddle])
    ]
    assert logs[0] == logs[1]


def test_a_conditional_prior():
    """p(z | y) = N(W y + b, ...), trained, tracked and saved with the layer."""
    prior = keras.Sequential([keras.layers.Dense(6), tv.IndependentNormal(3)])
    images, y = keras.Input(models.PIXELS), keras.Input((10,))
    params = keras.layers.Dense(6)(keras.layers.Flatten()(images))
    kl = tv.KLDivergenceAddLoss(prior)
    z = kl(tv.IndependentNormal(3)(params), prior_inputs=y)
    p = tv.IndependentBernoulli(models.PIXELS)(keras.layers.Dense(64)(z))
    model = keras.Model([images, y], p)
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    labels = np.eye(10, dtype="float32")[np.arange(len(X)) % 10]
    kernel = prior.layers[0].kernel
    before = kernel.numpy()
    model.fit([X, labels], X, verbose=0)
    assert np.abs(kernel.numpy() - before).max() > 0
    q = keras.Model(images, params)(X)
    expected = tv.IndependentNormal(3)(q).kl_divergence(prior(labels))
    logs = model.evaluate([X, labels], X, verbose=0, return_dict=True)
    assert logs["kl"] == pytest.approx(float(np.mean(expected)), rel=1e-4)
    again = keras.models.model_from_json(model.to_json())
    assert len(again.trainable_variables) == len(model.trainable_variables)


def test_variables_that_keras_cannot_train_are_an_error(kind, rng):
    def of_tf():
        return tfd.Independent(tfd.Normal(tf.Variable([0.0] * 3), 1.0), 1)

    def of_keras():
        return tfd.Independent(tfd.Normal(keras.Variable([0.0] * 3), 1.0), 1)

    loc = keras.Variable([0.0] * 3)

    def of_closure():
        return tfd.Independent(tfd.Normal(loc, 1.0), 1)

    def computed():
        return tfd.Independent(tfd.Normal(tf.zeros(3), tf.exp(loc)), 1)

    network = keras.Sequential([tv.VariableLayer(6), tv.IndependentNormal(3)])

    def of_network():
        return network(tf.ones([1, 1]))

    def of_bijector():
        return tfd.TransformedDistribution(
            standard(), tfp.bijectors.Shift(keras.Variable([0.0] * 3))
        )

    for function in (of_tf, of_keras, of_closure, computed, of_network, of_bijector):
        with pytest.raises(ValueError, match="Keras can train. Received"):
            posterior_with(kind(function))(parameters(rng))
    loc.trainable = False  # as of a schedule
    assert np.isfinite(posterior_with(kind(of_closure))(parameters(rng))).all()
    for prior in (of_tf(), of_keras(), of_bijector()):
        with pytest.raises(ValueError, match="Keras can train. Received"):
            kind(prior)


@pytest.mark.parametrize(
    "prior",
    [
        lambda: tv.IndependentNormal(3),
        lambda: keras.Sequential([keras.Input((4,)), tv.IndependentNormal(2)]),
        lambda: lambda y: standard(),
    ],
)
def test_a_prior_that_needs_inputs_is_an_error(kind, prior, rng):
    with pytest.raises(ValueError, match="that can be called without inputs. Received"):
        posterior_with(kind(prior()))(parameters(rng))


def test_a_conditional_prior_without_its_inputs_is_an_error(kind, rng):
    prior = keras.Sequential([keras.layers.Dense(6), tv.IndependentNormal(3)])
    with pytest.raises(ValueError, match="inputs of a conditional prior. Received"):
        posterior_with(kind(prior))(parameters(rng))


def test_a_class_is_no_prior(kind):
    with pytest.raises(ValueError, match="`distribution_b` to be a.*Received"):
        kind(tfd.Normal)


def test_a_weight_for_each_example_is_an_error(kind, rng):
    q = posterior_with(kind(tv.StandardNormal(3), weight=lambda: tf.ones(8)))
    with pytest.raises(ValueError, match="`weight` that is a scalar. Received"):
        q(parameters(rng))


@pytest.mark.parametrize("name", ["weight", "free_bits", "capacity"])
@pytest.mark.parametrize("number", [0.5, np.float32(0.5)])
def test_a_callable_that_a_compiled_step_would_freeze_is_an_error(
    kind, number, name, rng
):
    q = posterior_with(kind(tv.StandardNormal(3), **{name: lambda: number}))
    x = parameters(rng)
    q(x, training=True)  # eager: called anew each time
    tf.function(q)(x)  # an answer, for which the loss does not matter
    q.predict(x, verbose=0)
    with pytest.raises(ValueError, match="callable returns a tensor.*Received: .*0.5"):
        tf.function(q)(x, training=True)


@pytest.mark.parametrize(
    "objective",
    [
        lambda number: tv.ELBO(beta=number),
        lambda number: tv.ELBO(free_bits=number),
        lambda number: tv.ELBO(capacity=number),
    ],
)
def test_a_callable_that_a_step_of_a_vae_would_freeze_is_an_error(objective):
    vae = vaes.vae(objective=objective(lambda: 0.5))
    with pytest.raises(ValueError, match="callable returns a tensor.*Received: .*0.5"):
        vae.fit(X, verbose=0)
    vae.compile("adam", run_eagerly=True)
    vae.fit(X[:8], verbose=0)


def test_a_callable_of_a_variable_changes_inside_a_compiled_step(kind, rng):
    beta = keras.Variable(0.5, trainable=False)
    q = posterior_with(kind(tv.StandardNormal(3), weight=lambda: 2 * beta))
    x = parameters(rng)

    @tf.function
    def loss():
        q(x)
        return tf.add_n(q.losses)

    half = float(loss())
    beta.assign(1.5)
    assert float(loss()) == pytest.approx(3 * half, rel=1e-5)


def test_compute_output_shape():
    assert models.encoder().compute_output_shape((None, 8, 8, 1)) == (None, 3)
    assert tv.VariableLayer([2, 3]).compute_output_shape((None, 1)) == (2, 3)


def test_use_exact_kl_without_a_closed_form_is_an_error(kind, rng):
    q = posterior_with(kind(tfd.Sample(tfd.Laplace(0.0, 1.0), 3), use_exact_kl=True))
    with pytest.raises(ValueError, match=r"Independent\(Normal\), prior=Sample\(Lap"):
        q(parameters(rng))


def test_float64(rng):
    params = parameters(rng).astype("float64")
    q = keras.Sequential(
        [
            tv.IndependentNormal(3, dtype="float64"),
            tv.KLDivergenceAddLoss(tv.StandardNormal(3, dtype="float64")),
        ]
    )
    assert q(params).dtype == tf.float64
    np.testing.assert_allclose(q.losses[0], expected_kl(params).mean(), rtol=1e-12)


def test_the_distribution_passes_through(rng):
    q = tv.IndependentNormal(3)(parameters(rng))
    assert tv.KLDivergenceAddLoss(tv.StandardNormal(3))(q) is q


@pytest.mark.parametrize("model", [tv.Sequential, keras.Sequential])
def test_a_subclass_written_for_tfp_layers_works(model, rng):
    """Its `call` has one argument, as in `tfp.layers`."""
    seen = []

    class Mine(tv.KLDivergenceAddLoss):
        def call(self, distribution_a):
            seen.append(distribution_a.event_shape)
            return super().call(distribution_a)

    made = model(
        [
            keras.Input((4,)),
            tv.IndependentNormal(2),
            Mine(tv.LearnedNormal(2), weight=3.0),
        ]
    )
    x = rng.normal(size=(8, 4)).astype("float32")
    made.compile("sgd", loss=tv.NegativeLogLikelihood())
    q = made(x)
    want = tfd.kl_divergence(
        q.tensor_distribution, tfd.Independent(tfd.Normal(tf.zeros(2), 1.0), 1)
    )
    found = made.evaluate(x, np.zeros((8, 2)), verbose=0, return_dict=True)
    np.testing.assert_allclose(found["kl"], want.numpy().mean(), rtol=1e-5)
    made.fit(x, np.zeros((8, 2)), verbose=0)
    assert seen
    assert len(made.trainable_variables) == 1


def test_a_conditional_prior_is_built_with_the_layer():
    prior = keras.Sequential([keras.layers.Dense(4), tv.IndependentNormal(2)])
    x, y = keras.Input((4,)), keras.Input((3,))
    q = tv.KLDivergenceAddLoss(prior)(tv.IndependentNormal(2)(x), prior_inputs=y)
    assert len(keras.Model([x, y], q).trainable_variables) == 2


@pytest.mark.parametrize("built", [True, False])
def test_a_conditional_prior_of_sequences_of_any_length(built, rng):
    inputs = [keras.Input((None, 3))] if built else []
    # A window of 5 fits no example of one step.
    window = [keras.layers.Conv1D(4, 5)] if built else []
    last = [keras.layers.LSTM(4), keras.layers.Dense(4), tv.IndependentNormal(2)]
    prior = keras.Sequential([*inputs, *window, *last])
    x, y = keras.Input((4,)), keras.Input((None, 3))
    q = tv.IndependentNormal(2)(x)
    z = tv.KLDivergenceAddLoss(prior)(q, prior_inputs=y)
    model = keras.Model([x, y], [z, q])
    model.compile("sgd")
    params, given = rng.normal(size=(8, 4)), rng.normal(size=(8, 7, 3))
    found = model.evaluate([params, given], verbose=0, return_dict=True)["kl"]
    q, p = tv.IndependentNormal(2)(params), prior(given)
    ratio = p.stddev() / q.stddev()
    kl = np.log(ratio) + 0.5 * (ratio**-2 + ((q.mean() - p.mean()) / p.stddev()) ** 2)
    np.testing.assert_allclose(found, np.sum(kl - 0.5, axis=1).mean(), rtol=1e-4)
