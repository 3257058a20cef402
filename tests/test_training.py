"""`fit` and what people expect of a Keras model."""

import json

import keras
import models
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv

tfd = tfp.distributions
X = models.digits()


def test_fit_lowers_the_loss_and_shows_its_parts():
    history = models.vae().fit(X, X, epochs=5, validation_split=0.2, verbose=0).history
    names = {"loss", "nll", "kl"}
    assert set(history) == names | {f"val_{name}" for name in names}
    assert history["loss"][-1] < history["loss"][0]
    np.testing.assert_allclose(
        history["loss"], np.add(history["nll"], history["kl"]), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("posterior", "prior", "jit_compile"),
    [
        pytest.param(tv.IndependentNormal, "learned", True, marks=pytest.mark.slow),
        (tv.IndependentNormal, "laplace", False),
        pytest.param(
            tv.MultivariateNormalTriL, "standard", False, marks=pytest.mark.slow
        ),
        (tv.MultivariateNormalTriL, "laplace", True),
    ],
)
def test_posteriors_and_priors_train(posterior, prior, jit_compile):
    prior = {
        "standard": lambda: tv.StandardNormal(models.LATENT),
        "learned": models.learned_prior,
        "laplace": lambda: tfd.Sample(tfd.Laplace(0.0, 1.0), models.LATENT),
    }[prior]()
    model = models.vae(posterior=posterior, prior=prior, jit_compile=jit_compile)
    losses = model.fit(X, X, epochs=4, batch_size=64, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_plain_lambda_is_a_loss_too():
    model = models.vae(compiled=False)
    model.compile("adam", loss=lambda x, p: -p.log_prob(x))
    keras.utils.set_random_seed(1)
    theirs = model.evaluate(X, X, verbose=0)
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    ours = model.evaluate(X, X, verbose=0)
    np.testing.assert_allclose(theirs, ours, rtol=0.02)  # other draws


@pytest.mark.filterwarnings("ignore:.*includes a `lambda`")
def test_a_model_compiled_with_a_lambda_saves_and_does_not_load_in_safe_mode(tmp_path):
    model = models.vae(compiled=False)
    model.compile("adam", loss=lambda x, p: -p.log_prob(x))
    model.fit(X, X, verbose=0)
    model.save(tmp_path / "vae.keras")
    with pytest.raises(ValueError, match="lambda"):
        keras.models.load_model(tmp_path / "vae.keras")


def deterministic_vae(jit_compile):
    """Exact KL, and a decoder that sees the posterior mean: no noise anywhere."""
    return models.vae(conversion="mean", jit_compile=jit_compile)


def test_xla_gives_the_losses_of_the_graph():
    histories = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(3)
        model = deterministic_vae(jit_compile)
        histories.append(
            model.fit(X, X, epochs=3, batch_size=64, shuffle=False, verbose=0).history
        )
    for name in histories[0]:
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-4)


def test_eager_gives_the_losses_of_the_graph():
    histories = []
    for run_eagerly in (False, True):
        keras.utils.set_random_seed(3)
        model = models.vae()
        model.run_eagerly = run_eagerly
        histories.append(
            model.fit(X, X, epochs=2, batch_size=64, shuffle=False, verbose=0).history
        )
    for name in histories[0]:
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-4)


@pytest.mark.parametrize("jit_compile", slow.except_for((False,), (False, True)))
def test_the_same_seed_gives_the_same_history_bit_for_bit(jit_compile):
    histories = []
    for seed in (5, 5, 6):
        keras.utils.set_random_seed(seed)
        model = models.vae(jit_compile=jit_compile)
        histories.append(model.fit(X, X, epochs=2, verbose=0).history)
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


def test_a_seed_of_the_layer_fixes_its_draws():
    x = np.zeros((4, 6), "float32")
    for fn in ("sample", lambda q, seed: q.sample(seed=seed)):
        first, second, other = (
            tv.IndependentNormal(3, fn, seed=seed)(x).numpy() for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, other)


def test_each_call_draws_anew():
    layer, x = tv.IndependentNormal(3), np.zeros((4, 6), "float32")
    assert not np.array_equal(layer(x).numpy(), layer(x).numpy())
    model = keras.Sequential([layer])
    first, second = (model.predict(x, verbose=0) for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    model = models.vae(
        posterior=tv.MultivariateNormalTriL, prior=models.learned_prior()
    )
    history = model.fit(X, X, epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert model(X[:2]).log_prob(X[:2]).dtype == tf.float32
    assert {w.dtype for w in model.trainable_weights} == {"float32"}


def test_mixed_precision_gives_the_losses_of_float32():
    losses = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(3)
        logs = deterministic_vae(False).evaluate(X, X, verbose=0, return_dict=True)
        losses.append(logs)
    for name in losses[0]:
        assert losses[1][name] == pytest.approx(losses[0][name], rel=0.01)


def test_float64_end_to_end():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        model = models.vae()
        model.fit(X.astype("float64"), X.astype("float64"), verbose=0)
        assert model(X[:2].astype("float64")).log_prob(X[:2]).dtype == tf.float64
    finally:
        keras.config.set_floatx("float32")


def test_a_decoder_that_xla_cannot_sample_trains_under_xla(rng):
    """Its value is drawn only where something uses it, and a loss does not."""

    def negative_binomial(t):
        count, logits = tf.split(t, 2, axis=-1)
        count = tf.math.softplus(count) + 1.0
        return tfd.Independent(tfd.NegativeBinomial(count, logits=logits), 1)

    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8),
            tv.DistributionLambda(negative_binomial),
        ]
    )
    model.compile("adam", loss=tv.NegativeLogLikelihood(), jit_compile=True)
    x = rng.normal(size=(40, 5)).astype("float32")
    y = rng.poisson(3.0, (40, 4)).astype("float32")
    losses = model.fit(x, y, epochs=3, batch_size=32, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert model(x).sample().shape == (40, 4)


def test_predict_joins_batches():
    model = models.vae(conversion="mean")
    predicted = model.predict(X, batch_size=64, verbose=0)
    assert isinstance(predicted, np.ndarray)
    np.testing.assert_allclose(predicted, model(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_predict_refuses_draws_in_front_of_the_batch(jit_compile, steps):
    layer = tv.IndependentNormal(3, lambda q: q.sample(5))
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(
        loss=tv.NegativeLogLikelihood(),
        jit_compile=jit_compile,
        steps_per_execution=steps,
    )
    x = np.zeros((8, 6), "float32")
    assert np.isfinite(model.evaluate(x, x[:, :3], verbose=0))
    assert model(x).shape == (5, 8, 3)
    with pytest.raises(ValueError, match="the batch as first axis. Received"):
        model.predict(x, verbose=0)


@pytest.mark.parametrize(
    "statistic",
    [
        lambda q: q.covariance(),
        lambda q: tf.stack([q.mean(), q.stddev()], axis=1),
    ],
)
def test_predict_joins_statistics_of_more_axes(statistic, rng):
    x = rng.normal(size=(7, 9)).astype("float32")
    model = keras.Sequential(
        [keras.Input((9,)), tv.MultivariateNormalTriL(3, statistic)]
    )
    predicted = model.predict(x, batch_size=3, verbose=0)
    np.testing.assert_allclose(predicted, statistic(model(x)), rtol=1e-5, atol=1e-6)


def test_several_posterior_draws_train():
    inputs = keras.Input(models.PIXELS)
    q = keras.layers.Dense(6)(keras.layers.Flatten()(inputs))
    q = tv.IndependentNormal(3, lambda q, seed: q.sample(5, seed=seed))(q)
    q = tv.KLDivergenceAddLoss(tv.StandardNormal(3))(q)
    p = tv.IndependentBernoulli(models.PIXELS, "mean")(keras.layers.Dense(64)(q))
    model = keras.Model(inputs, p)
    model.compile(
        "adam",
        loss=tv.NegativeLogLikelihood(draw_axes=1),
        metrics=[tv.LogLikelihood(negative=True, draw_axes=1)],
    )
    history = model.fit(X, X, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    np.testing.assert_allclose(
        history["loss"], np.add(history["nll"], history["kl"]), rtol=1e-5
    )


def test_early_stopping_and_checkpoints(tmp_path):
    model = models.vae()
    path = tmp_path / "best.keras"
    callbacks = [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, min_delta=1e9),
        keras.callbacks.ModelCheckpoint(path, monitor="val_nll", save_best_only=True),
    ]
    history = model.fit(
        X, X, epochs=9, validation_split=0.2, callbacks=callbacks, verbose=0
    )
    assert len(history.epoch) == 2
    assert np.isfinite(keras.models.load_model(path).evaluate(X, X, verbose=0)).all()


class Interrupt(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_backup_and_restore_goes_on_as_if_nothing_had_happened(tmp_path):
    """The noise included: the state of the seed generators is restored."""

    def fit(model, callbacks):
        fitted = model.fit(
            X, X, epochs=4, shuffle=False, verbose=0, callbacks=callbacks
        )
        return fitted.history["loss"]

    keras.utils.set_random_seed(4)
    whole = fit(models.vae(), [])
    keras.utils.set_random_seed(4)
    first = models.vae()
    with pytest.raises(KeyboardInterrupt):
        fit(first, [keras.callbacks.BackupAndRestore(tmp_path), Interrupt()])
    keras.utils.set_random_seed(99)
    resumed = fit(models.vae(), [keras.callbacks.BackupAndRestore(tmp_path)])
    np.testing.assert_allclose(resumed, whole[2:], rtol=1e-5)


def test_clone_model():
    options = {"prior": models.learned_prior(), "weight": 0.5, "conversion": "mean"}
    model = models.vae(**options)
    clone = keras.models.clone_model(model)
    assert not {id(v) for v in clone.variables} & {id(v) for v in model.variables}
    clone.set_weights(model.get_weights())
    clone.compile(loss=tv.NegativeLogLikelihood(), metrics=[tv.LogLikelihood(True)])
    expected = model.evaluate(X, X, verbose=0, return_dict=True)
    assert clone.evaluate(X, X, verbose=0, return_dict=True) == expected
    loss = expected["nll"] + 0.5 * expected["kl"]
    assert expected["loss"] == pytest.approx(loss, rel=1e-5)


def test_train_on_batch_and_its_siblings():
    model = models.vae()
    logs = model.train_on_batch(X[:8], X[:8], return_dict=True)
    assert set(logs) == {"loss", "nll", "kl"}
    assert np.isfinite(model.test_on_batch(X[:8], X[:8])).all()
    assert model.predict_on_batch(X[:8]).shape == (8, *models.PIXELS)


def test_tf_data():
    data = tf.data.Dataset.from_tensor_slices((X, X)).batch(64)
    model = models.vae()
    history = model.fit(
        data, epochs=2, validation_data=data, shuffle=False, verbose=0
    ).history
    assert np.isfinite(history["val_loss"]).all()


def test_steps_per_execution():
    histories = []
    for steps in (1, 2):
        keras.utils.set_random_seed(3)
        model = models.vae(compiled=False)
        model.compile(
            "adam", loss=tv.NegativeLogLikelihood(), steps_per_execution=steps
        )
        histories.append(model.fit(X, X, epochs=2, shuffle=False, verbose=0).history)
    for name in histories[0]:
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-5)


def test_dictionaries_and_several_outputs(rng):
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((3,), name="b")}
    h = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    outputs = {
        "p": tv.IndependentNormal(2, "mean", name="p")(keras.layers.Dense(4)(h)),
        "c": keras.layers.Dense(1, name="c")(h),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        "adam",
        loss={"p": tv.NegativeLogLikelihood(), "c": "mse"},
        metrics={"p": [tv.LogLikelihood()]},
    )
    x = {"a": rng.normal(size=(32, 4)), "b": rng.normal(size=(32, 3))}
    y = {"p": rng.normal(size=(32, 2)), "c": rng.normal(size=(32, 1))}
    history = model.fit(x, y, verbose=0).history
    assert {"loss", "p_loss", "c_loss", "p_log_likelihood"} == set(history)
    assert isinstance(model(x)["p"], tfd.Distribution)
    predicted = model.predict(x, verbose=0)
    assert (predicted["p"].shape, predicted["c"].shape) == ((32, 2), (32, 1))


def test_summary_counts_the_prior(capsys):
    model = models.vae(prior=models.learned_prior())
    model.summary(expand_nested=True)
    printed = capsys.readouterr().out
    assert "IndependentBernoulli" in printed
    assert "(None, 8, 8, 1)" in printed
    # Encoder 64-16-6, prior 6, decoder 3-16-64.
    assert f"{64 * 16 + 16 + 16 * 6 + 6 + 6 + 3 * 16 + 16 + 16 * 64 + 64:,}" in printed


def test_plot_model(tmp_path):
    model = models.vae()
    graph = keras.utils.model_to_dot(model, show_shapes=True, expand_nested=True)
    assert "KLDivergenceAddLoss" in graph.to_string()
    try:
        keras.utils.plot_model(model, tmp_path / "vae.png")
    except ImportError:
        pytest.skip("Graphviz is not installed; the graph itself was built")
    assert (tmp_path / "vae.png").exists()


def test_summary_of_the_model_is_json():
    assert "KLDivergenceAddLoss" in json.dumps(json.loads(models.vae().to_json()))


def test_a_csv_log(tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    models.vae().fit(X, X, verbose=0, callbacks=[logger])
    assert "kl" in (tmp_path / "log.csv").read_text()
