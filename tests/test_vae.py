"""`tv.VAE`: training, history, data of every form, and what it refuses."""

import keras
import models
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp
import vaes

import tfp_vae as tv

tfd = tfp.distributions

NAMES = {"loss", "elbo", "nll", "kl", "kl_weight"}


def last(history):
    return {name: values[-1] for name, values in history.history.items()}


@pytest.mark.parametrize("kind", slow.except_for(vaes.OFTEN, vaes.KINDS))
def test_every_kind_trains_and_shows_its_terms(kind):
    model = vaes.KINDS[kind]()
    x, y = vaes.inputs(kind)
    history = model.fit(x, y, epochs=8, batch_size=16, verbose=0)
    assert set(history.history) == NAMES
    seen = history.history["loss"]
    assert np.isfinite(seen).all()
    assert seen[-1] < seen[0]
    shown = last(history)
    assert shown["elbo"] == pytest.approx(-shown["nll"] - shown["kl"], rel=1e-5)


def test_xla_trains_too():
    model = vaes.vae(jit_compile=True)
    seen = model.fit(models.digits(), epochs=3, verbose=0).history["loss"]
    assert seen[-1] < seen[0]


def test_validation_has_the_same_names():
    x = models.digits()
    shown = last(vaes.vae().fit(x, validation_data=x[:30], verbose=0))
    assert set(shown) == NAMES | {f"val_{name}" for name in NAMES}
    shown = last(vaes.vae().fit(x, validation_split=0.25, verbose=0))
    assert set(shown) == NAMES | {f"val_{name}" for name in NAMES}


def fixed_draws(**options):
    """A VAE whose posterior is so narrow that its draws are its mean."""
    q = keras.Sequential(
        [
            keras.Input(models.PIXELS),
            keras.layers.Flatten(),
            keras.layers.Dense(models.LATENT),
            tv.IndependentNormal(models.LATENT, scale=1e-6),
        ]
    )
    return vaes.vae(q=q, **options)


def test_values_are_sums_over_the_event_and_means_over_examples(rng):
    model = fixed_draws()
    x = models.digits(37)
    z = model.encoder.layers[-2](x.reshape(37, -1)).numpy().astype("float64")
    logits = np.log(model.predict(x, verbose=0)) - np.log1p(
        -model.predict(x, verbose=0)
    )
    nll = np.log1p(np.exp(logits.astype("float64"))) - x * logits
    kl = 0.5 * (z**2 + 1e-12 - 1 - np.log(1e-12))
    seen = model.evaluate(x, verbose=0, return_dict=True)
    assert seen["nll"] == pytest.approx(nll.sum((1, 2, 3)).mean(), rel=1e-5)
    assert seen["kl"] == pytest.approx(kl.sum(1).mean(), rel=1e-5)
    assert seen["loss"] == pytest.approx(seen["nll"] + seen["kl"], rel=1e-6)
    np.testing.assert_allclose(
        model.elbo(x), -nll.sum((1, 2, 3)) - kl.sum(1), rtol=1e-5
    )


def test_values_do_not_depend_on_the_split_into_batches():
    model, x = fixed_draws(), models.digits(37)
    values = [
        model.evaluate(x, batch_size=size, verbose=0, return_dict=True)
        for size in (37, 10, 1)
    ]
    for seen in values[1:]:
        for name in NAMES:
            assert seen[name] == pytest.approx(values[0][name], rel=1e-6)


def test_values_do_not_depend_on_xla_or_precision():
    x, values = models.digits(37), {}
    weights = None
    for policy, jit in (("float32", False), ("float32", True), ("mixed_bfloat16", 0)):
        keras.config.set_dtype_policy(policy)
        model = fixed_draws(jit_compile=bool(jit))
        weights = weights or model.get_weights()
        model.set_weights(weights)
        values[policy, jit] = model.evaluate(x, verbose=0, return_dict=True)
    plain, compiled, half = values.values()
    for name in NAMES:
        assert compiled[name] == pytest.approx(plain[name], rel=1e-5)
        # bfloat16 has 8 bits.
        assert half[name] == pytest.approx(plain[name], rel=5e-3)


def test_values_and_steps_do_not_depend_on_replicas():
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    x = models.digits(65)  # an empty replica in the last batch of 64
    one = fixed_draws(compiled=False)
    one.compile(keras.optimizers.SGD(0.01))
    with strategy.scope():
        two = fixed_draws(compiled=False)
        two.compile(keras.optimizers.SGD(0.01), metrics=[tv.ActiveUnits()])
    two.set_weights(one.get_weights())
    seen = [
        m.evaluate(x, batch_size=64, verbose=0, return_dict=True) for m in (one, two)
    ]
    for name in NAMES:
        assert seen[1][name] == pytest.approx(seen[0][name], rel=1e-5)
    for model in (one, two):
        model.fit(x[:64], batch_size=64, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(one.trainable_weights, two.trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_one_seed_gives_one_history():
    def history():
        keras.utils.set_random_seed(5)
        return vaes.vae().fit(models.digits(), epochs=2, verbose=0).history

    assert history() == history()


def test_weights_of_examples_multiply_the_whole_loss():
    x, weights = models.digits(40), np.linspace(0, 3, 40).astype("float32")
    model = fixed_draws()
    elbos = model.elbo(x)
    seen = model.evaluate(x, sample_weight=weights, verbose=0, return_dict=True)
    assert seen["loss"] == pytest.approx(-(weights * elbos).mean(), rel=1e-5)
    assert seen["elbo"] == pytest.approx(elbos.mean(), rel=1e-5)  # always unweighted
    for size in (40, 7):
        shown = last(
            fixed_draws().fit(x, sample_weight=np.zeros(40), batch_size=size, verbose=0)
        )
        assert shown["loss"] == 0
    pairs = tf.data.Dataset.from_tensor_slices((x, x, weights)).batch(8)
    again = model.evaluate(pairs, verbose=0, return_dict=True)
    assert again["loss"] == pytest.approx(seen["loss"], rel=1e-5)
    held = model.fit(
        x, epochs=1, verbose=0, validation_data=(x, None, np.zeros(40))
    ).history
    assert held["val_loss"] == [0.0]


def test_weights_of_entries_act_inside_the_likelihood():
    x = models.digits(20)
    model = fixed_draws()
    weights = np.zeros_like(x)
    seen = model.evaluate(x, x, sample_weight=weights, verbose=0, return_dict=True)
    assert seen["nll"] == 0
    assert seen["loss"] == pytest.approx(seen["kl"])
    rows = np.zeros((20, 8), "float32")
    rows[:, :4] = 1
    part = model.evaluate(x, sample_weight=rows, verbose=0, return_dict=True)["nll"]
    log_p = -model.decode(model.encode(x)).distribution.log_prob(x).numpy()
    assert part == pytest.approx(log_p[:, :4].sum((1, 2, 3)).mean(), rel=1e-4)


def test_what_is_missing_is_left_out_of_the_likelihood():
    x = models.digits(30)
    holes, seen = x.copy(), np.ones_like(x)
    holes[:, 2:5], seen[:, 2:5] = np.nan, 0
    zeroed = np.nan_to_num(holes)
    model = fixed_draws()
    expected = model.evaluate(
        zeroed, zeroed, sample_weight=seen, verbose=0, return_dict=True
    )
    for marker, data in (("nan", holes), (-1, np.nan_to_num(holes, nan=-1.0))):
        other = fixed_draws(missing=marker)
        other.set_weights(model.get_weights())
        found = other.evaluate(data, verbose=0, return_dict=True)
        for name in NAMES:
            assert found[name] == pytest.approx(expected[name], rel=1e-5)
        np.testing.assert_allclose(
            other.reconstruct(data), model.reconstruct(zeroed), atol=1e-6
        )
        assert np.isfinite(other.log_prob(data, 5)).all()


def test_what_is_missing_has_no_gradient_where_zero_is_no_value(rng):
    x = np.exp(rng.normal(size=(64, 3))).astype("float32")
    x[rng.random(x.shape) < 0.3] = np.nan
    x = x[~np.isnan(x).all(axis=1)]
    model = tv.VAE(
        keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
        ),
        keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(6), tv.IndependentLogNormal(3)]
        ),
        tv.StandardNormal(2),
        missing="nan",
    )
    model.compile("adam", jit_compile=True)
    shown = model.fit(x, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(shown).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_a_keras_mask_leaves_out_what_the_decoder_masks():
    steps = np.array([[0.0, 1, 1, 0], [1.0, 1, 0, 0], [1.0, 0, 1, 1]], "float32")
    q = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
    )
    length = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])

    @keras.saving.register_keras_serializable("tests")
    class FirstTwo(keras.layers.Layer):
        def compute_mask(self, inputs, mask=None):
            return tf.repeat(tf.constant([[True, True, False, False]]), 3, axis=0)

        def call(self, inputs):
            return inputs

    z = keras.Input((2,))
    p = keras.Model(z, tv.IndependentBernoulli(4)(FirstTwo()(length(z))))
    model = tv.VAE(q, p, tv.StandardNormal(2))
    model.compile("adam")
    model.compile("adam", metrics=[tv.LogLikelihood(negative=True, name="masked")])
    # With weights of 0 in the decoder the draws do not matter.
    length.layers[-1].set_weights([np.zeros((2, 4)), np.zeros(4)])
    seen = model.evaluate(steps, batch_size=3, verbose=0, return_dict=True)
    assert seen["nll"] == pytest.approx(2 * np.log(2), rel=1e-5)
    assert seen["masked"] == pytest.approx(2 * np.log(2), rel=1e-5)


def as_dataset(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(16)


def as_generator(x):
    return (x[i : i + 16] for i in range(0, len(x), 16))


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return (self.x[16 * i : 16 * (i + 1)],)


@pytest.mark.parametrize(
    "form", [as_dataset, as_generator, Batches, tf.constant], ids=lambda f: f.__name__
)
def test_data_of_every_form_give_one_result(form):
    x = models.digits(48)
    model = fixed_draws()
    expected = model.evaluate(x, batch_size=16, verbose=0, return_dict=True)
    # Keras warns where a generator ends before it is told to.
    steps = {"steps": 3} if form is as_generator else {}
    found = model.evaluate(form(x), verbose=0, return_dict=True, **steps)
    for name in NAMES:
        assert found[name] == pytest.approx(expected[name], rel=1e-6)
    steps = {"steps_per_epoch": 3} if form is as_generator else {}
    history = model.fit(form(x), epochs=1, verbose=0, **steps)
    assert set(history.history) == NAMES


def test_x_as_its_own_target_is_x():
    x = models.digits(32)
    model = fixed_draws()
    for y in (x, x.copy()):
        found = model.evaluate(x, y, verbose=0)
        np.testing.assert_allclose(found, model.evaluate(x, verbose=0), rtol=1e-6)


def test_targets_of_a_denoising_model_are_what_is_described(rng):
    x = models.digits(32)
    noisy = np.clip(x + 0.1 * rng.normal(size=x.shape), 0, 1).astype("float32")
    model = fixed_draws()
    q = model.encode(noisy)
    nll = -model.decode(q).log_prob(x).numpy()
    seen = model.evaluate(noisy, x, verbose=0, return_dict=True)
    assert seen["nll"] == pytest.approx(nll.mean(), rel=1e-4)


def test_keras_regularizers_and_metrics_join_in():
    q = vaes.encoder()
    q.layers[1].kernel_regularizer = keras.regularizers.L2(0.1)
    model = vaes.vae(compiled=False, q=q, objective=tv.ImportanceWeightedBound(2))
    model.compile("adam", metrics=[tv.LogLikelihood(), tv.ActiveUnits()])
    x = models.digits(40)
    seen = model.evaluate(x, verbose=0, return_dict=True)
    bound = linear = -seen["elbo"]
    penalty = 0.1 * np.sum(q.layers[1].kernel.numpy() ** 2)
    assert bound - 5 < seen["loss"] - penalty < linear
    assert seen["log_likelihood"] == pytest.approx(-seen["nll"], rel=1e-5)
    assert seen["active_units"] == tv.evaluation.active_units(model.encode(x))


def test_metrics_of_keras_join_in_under_a_strategy():
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    x = models.digits(32)
    for weights in (None, np.ones(32)):
        with strategy.scope():
            model = vaes.vae(compiled=False)
            model.compile("adam", metrics=["mse", tv.LogLikelihood()])
        shown = last(model.fit(x, sample_weight=weights, verbose=0))
        assert shown["log_likelihood"] == pytest.approx(-shown["nll"], rel=1e-5)
        assert 0 < shown["mse"] < 1


def test_metrics_leave_out_what_is_missing():
    x = models.digits(32)
    x[:, 2:5] = np.nan
    model = vaes.vae(compiled=False, missing="nan")
    model.compile("adam", metrics=["mse", tv.LogLikelihood()])
    seen = model.evaluate(x, verbose=0, return_dict=True)
    assert seen["log_likelihood"] == pytest.approx(-seen["nll"], rel=1e-5)
    assert np.isfinite(seen["mse"])


def test_laws_without_a_mean_leave_out_what_is_missing(rng):
    p = dense(3, keras.layers.Dense(8), tv.IndependentStudentT(4, df=1.0))
    q = dense(4, keras.layers.Dense(6), tv.IndependentNormal(3))
    model = vaes.vae(q=q, p=p, missing="nan")
    x = rng.normal(size=(16, 4)).astype("float32")
    x[1:, 1] = np.nan
    assert np.isfinite(model.fit(x, verbose=0).history["loss"]).all()
    assert np.isfinite(model.reconstruct(x)).all()


def test_values_beside_gaps_are_looked_at(rng):
    x = rng.uniform(-2, 3, size=(16, 8, 8, 1)).astype("float32")
    x[:, 0, 0] = np.nan
    with pytest.raises(ValueError, match="IndependentBernoulli"):
        vaes.vae(missing="nan").fit(x, verbose=0)


def test_two_steps_in_one_call_count_as_two():
    model = vaes.vae(compiled=False)
    model.compile("adam", steps_per_execution=2)
    model.fit(models.digits(64), batch_size=16, verbose=0)
    assert int(model.optimizer.iterations) == 4


def test_early_stopping_monitors_the_elbo():
    stop = keras.callbacks.EarlyStopping("val_elbo", mode="max", patience=0)
    model = vaes.vae()
    x = models.digits()
    model.fit(x, epochs=4, validation_data=x, callbacks=[stop], verbose=0)
    assert stop.best < 0
    assert stop.best_epoch > 0


def test_dropout_and_batch_norm_follow_the_mode():
    q = keras.Sequential(
        [
            keras.Input(models.PIXELS),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(6),
            tv.IndependentNormal(3),
        ]
    )
    model = vaes.vae(q=q)
    x = models.digits(32)
    moving = q.layers[1].moving_mean
    before = moving.numpy()
    np.testing.assert_array_equal(model.reconstruct(x), model.reconstruct(x))
    model.evaluate(x, verbose=0)
    np.testing.assert_array_equal(moving, before)
    model.train_on_batch(x)
    flat = x.reshape(32, -1).mean(0)
    np.testing.assert_allclose(moving, 0.99 * before + 0.01 * flat, atol=1e-6)


def test_calls_draw_in_training_and_take_the_mean_otherwise():
    model, x = vaes.vae(), models.digits(4)
    p = model(x)
    assert isinstance(p, tfd.Distribution)
    assert p.event_shape == models.PIXELS
    z = model.encode(x).mean()
    np.testing.assert_allclose(p.mean(), model.decode(z).mean(), atol=1e-6)
    assert np.abs(model(x, training=True).mean() - p.mean()).max() > 1e-4


def test_posteriors_without_gradients_are_named():
    q = dense(8, keras.layers.Dense(3), tv.IndependentBernoulli(3))
    p = dense(3, keras.layers.Dense(8), tv.IndependentBernoulli(8))
    prior = tfd.Independent(tfd.Bernoulli(logits=tf.zeros(3), dtype=tf.float32), 1)
    x = np.eye(8, dtype="float32")
    with pytest.warns(UserWarning, match=r"reparameterised.*IndependentRelaxed"):
        vaes.vae(q=q, p=p, prior=prior).fit(x, verbose=0)
    objective = tv.ImportanceWeightedBound(3, "dreg")
    with pytest.raises(ValueError, match="draws are reparameterised"):
        vaes.vae(q=q, p=p, prior=prior, objective=objective).fit(x, verbose=0)


def test_a_step_of_ones_own_as_in_keras_guide_trains_alike():
    class Own(tv.VAE):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                p = self(data, training=True)
                loss = self.compute_loss(data, data, p)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    x, found = models.digits(32), []
    for cls in (tv.VAE, Own):
        keras.utils.set_random_seed(4)
        prior = tv.StandardNormal(models.LATENT)
        model = cls(vaes.encoder(), models.decoder(), prior)
        model.compile("adam", jit_compile=False)
        seen = model.fit(x, epochs=6, verbose=0).history["loss"]
        found.append([*seen, *(np.asarray(w) for w in model.trainable_weights)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_loss_of_another_output_is_of_draws_made_anew():
    model, x = fixed_draws(), models.digits(16)
    loss = model.compute_loss(x, x, model(x), training=False)
    assert float(loss) == pytest.approx(-model.elbo(x).mean(), rel=1e-5)


def test_a_kl_layer_inside_a_custom_layer_is_found():
    class Encoder(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.network = vaes.encoder()
            self.kl = tv.KLDivergenceAddLoss(tv.StandardNormal(models.LATENT))

        def call(self, x):
            return self.kl(self.network(x))

    with pytest.raises(ValueError, match="prior once"):
        vaes.vae(q=Encoder(), prior=tv.StandardNormal(models.LATENT))
    model = tv.VAE(Encoder(), models.decoder())
    model.compile("adam")
    shown = last(model.fit(models.digits(16), verbose=0))
    assert shown["loss"] == pytest.approx(shown["nll"] + shown["kl"], rel=1e-5)


def test_parts_are_given_once():
    model = vaes.vae()
    for name in ("prior", "objective"):
        with pytest.raises(AttributeError, match=name):
            setattr(model, name, None)


def test_conversions_of_the_networks_do_not_matter():
    x, seen = models.digits(20), []
    for conversion in ("sample", "mean", "mode"):
        keras.utils.set_random_seed(2)
        p = keras.Sequential(
            [
                keras.Input((models.LATENT,)),
                keras.layers.Dense(64),
                tv.IndependentBernoulli(models.PIXELS, conversion),
            ]
        )
        model = vaes.vae(q=vaes.encoder(conversion=conversion), p=p)
        seen.append(model.evaluate(x, verbose=0))
        images = model.predict(x, verbose=0)
        assert ((images > 0) & (images < 1)).all()
    assert seen[0] == seen[1] == seen[2]


def test_a_kl_layer_in_the_encoder_gives_the_prior_and_counts_once():
    prior = tv.LearnedNormal(models.LATENT)
    q = vaes.encoder(tv.IndependentNormal, "sample", tv.KLDivergenceAddLoss(prior))
    model = tv.VAE(q, models.decoder())
    model.compile("adam")
    assert model.prior is prior
    x = models.digits(40)
    shown = last(model.fit(x, verbose=0))
    assert set(shown) == NAMES
    assert shown["loss"] == pytest.approx(shown["nll"] + shown["kl"], rel=1e-5)
    names = [weight.path for weight in model.trainable_weights]
    assert len(names) == len(set(names)) == 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda kl: tv.VAE(vaes.encoder(), models.decoder()), "expects a prior, or an"),
        (
            lambda kl: tv.VAE(kl(), models.decoder(), tv.StandardNormal(3)),
            "expects its prior once",
        ),
        (lambda kl: tv.VAE(kl(weight=0.5), models.decoder()), r"without options.*0\.5"),
        (lambda kl: tv.VAE(kl(free_bits=1.0), models.decoder()), "free_bits"),
        (
            lambda kl: tv.VAE(vaes.encoder(), kl(), tv.StandardNormal(3)),
            "a decoder with a KL layer",
        ),
        (
            lambda kl: tv.VAE(None, models.decoder(), tv.StandardNormal(3)),
            "expects `encoder` to be a Keras",
        ),
        (
            lambda kl: vaes.vae(objective="elbo"),
            r"expects `objective`.*Received: objective='elbo'",
        ),
        (lambda kl: vaes.vae(missing="none"), "expects `missing`"),
        (lambda kl: vaes.vae(beta=4.0), r"\['beta'\] as arguments.*tv.ELBO"),
        (
            lambda kl: vaes.vae().fit(models.digits(4), class_weight={0: 1.0}),
            "weights of examples",
        ),
        (lambda kl: vaes.vae(compiled=False).compile("adam", "mse"), "expects no loss"),
    ],
)
def test_models_that_cannot_be_are_refused(make, message):
    def kl(**options):
        layer = tv.KLDivergenceAddLoss(tv.StandardNormal(3), **options)
        return vaes.encoder(tv.IndependentNormal, "sample", layer)

    with pytest.raises(ValueError, match=message):
        make(kl)


def dense(width, *layers):
    return keras.Sequential([keras.Input((width,)), *layers])


BAD_NETWORKS = {
    "encoder without a distribution": (
        {"q": dense(8, keras.layers.Dense(3))},
        r"encoder to return a distribution.*Received",
    ),
    "decoder without a distribution": (
        {"p": dense(3, keras.layers.Dense(8))},
        "decoder to return a distribution",
    ),
    "latents": (
        {"p": dense(5, keras.layers.Dense(8), tv.IndependentBernoulli(8))},
        r"latents of the encoder's shape \(3,\).*\(5,\)",
    ),
    "event": (
        {"p": dense(3, keras.layers.Dense(7), tv.IndependentBernoulli(7))},
        r"event shape \(7,\).*\(n, \*\(8,\)\)",
    ),
    "batch of elements": (
        {
            "p": dense(
                3,
                keras.layers.Dense(8),
                tv.DistributionLambda(lambda t: tfd.Bernoulli(logits=t)),
            )
        },
        r"one distribution for each example.*Independent",
    ),
    "prior": ({"prior": tv.StandardNormal(4)}, r"prior of event shape \(3,\)"),
}


@pytest.mark.parametrize("name", BAD_NETWORKS)
def test_networks_that_do_not_fit_are_named(name):
    options, message = BAD_NETWORKS[name]
    q = dense(8, keras.layers.Dense(6), tv.IndependentNormal(3))
    p = dense(3, keras.layers.Dense(8), tv.IndependentBernoulli(8))
    model = vaes.vae(**{"q": q, "p": p, **options})
    with pytest.raises(ValueError, match=message):
        model.fit(np.zeros((4, 8), "float32"), verbose=0)


def test_an_activation_in_front_of_the_likelihood_is_named():
    sigmoid = keras.layers.Dense(8, activation="sigmoid")
    p = dense(3, sigmoid, tv.IndependentBernoulli(8))
    q = dense(8, keras.layers.Dense(6), tv.IndependentNormal(3))
    with pytest.warns(UserWarning, match=r"unconstrained.*activation='sigmoid'"):
        vaes.vae(q=q, p=p)


def test_grey_pixels_in_a_bernoulli_are_named():
    grey = models.digits(20) * 0.7
    with pytest.warns(UserWarning, match=r"0 or 1.*IndependentContinuousBernoulli"):
        vaes.vae().fit(grey, verbose=0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (models.digits(20) - 1, "IndependentBernoulli.* can draw"),
        (np.full((20, 8, 8, 1), np.nan, "float32"), r"1280 NaN .*missing='nan'"),
        (np.full((20, 8, 8, 1), np.inf, "float32"), "1280 NaN or infinite"),
        (np.zeros((0, 8, 8, 1), "float32"), "at least one example"),
        (models.digits(20)[:, :7], r"x of shape \(n, \*\(8, 8, 1\)\)"),
        (
            tf.data.Dataset.from_tensor_slices(models.digits(4)).take(0).batch(2),
            "no batch",
        ),
        ((x for x in []), "no batch"),
    ],
    ids=[
        "negative",
        "nan",
        "inf",
        "empty",
        "shape",
        "empty dataset",
        "empty generator",
    ],
)
def test_data_that_cannot_be_are_named(x, message):
    with pytest.raises(ValueError, match=message):
        vaes.vae().fit(x, verbose=0)


def test_validation_data_are_looked_at_too():
    x = models.digits(20)
    with pytest.raises(ValueError, match="1280 NaN"):
        vaes.vae().fit(x, validation_data=(np.full_like(x, np.nan),), verbose=0)


def test_float64_end_to_end(tmp_path):
    keras.config.set_dtype_policy("float64")
    model, x = vaes.vae(), models.digits(16).astype("float64")
    assert np.isfinite(model.fit(x, verbose=0).history["loss"]).all()
    for found in (model.log_prob(x, 5), model.elbo(x), model.generate(2)):
        assert found.dtype == np.float64
    model.export(tmp_path / "served")


def test_negative_counts_are_an_error():
    p = dense(3, keras.layers.Dense(8), tv.IndependentPoisson(8))
    q = dense(8, keras.layers.Dense(6), tv.IndependentNormal(3))
    with pytest.raises(ValueError, match="values that IndependentPoisson"):
        vaes.vae(q=q, p=p).fit(np.full((4, 8), -1.0), verbose=0)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (vaes.conditional, (models.digits(8),), "expects the pair"),
        (
            vaes.vae,
            (models.digits(8), vaes.labels(8)),
            r"event shape.*label is for `conditional=True`",
        ),
        (
            vaes.of_a_dictionary,
            ({"image": models.digits(8), "label": vaes.labels(8)},),
            "which entry of x",
        ),
        (
            lambda: vaes.of_a_dictionary(target="picture"),
            ({"image": models.digits(8), "label": vaes.labels(8)},),
            r"target='picture'.*\['image', 'label'\]",
        ),
        (
            vaes.vae,
            (tf.data.Dataset.from_tensor_slices(models.digits(8)),),
            r"x of shape.*\.batch",
        ),
    ],
    ids=["no y", "labels as targets", "no target", "no such target", "no batches"],
)
def test_inputs_that_do_not_fit_are_named(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make().fit(*arguments, verbose=0)
