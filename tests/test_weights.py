"""Layers with random weights, against closed forms and `tfp.layers`."""

import inspect
import warnings

import keras
import numpy as np
import pytest
import scipy.stats
import slow
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv
from tfp_vae.weights.forward_pass import weights_drawn_with

tfd = tfp.distributions
ROWS, FEATURES, NOISE = 70, 3, 0.5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, FEATURES)).astype("float32")
Y = (X @ np.ones((FEATURES, 1)) + NOISE * RNG.normal(size=(ROWS, 1))).astype("float32")
DENSE = [tv.DenseReparameterization, tv.DenseFlipout, tv.DenseLocalReparameterization]
CONVOLUTIONS = [
    (getattr(tv, f"Convolution{rank}D{kind}"), rank)
    for rank in (1, 2, 3)
    for kind in ("Reparameterization", "Flipout")
]


@keras.saving.register_keras_serializable("test_weights")
def likelihood(loc):
    return tfd.Independent(tfd.Normal(loc, NOISE), 1)


@keras.saving.register_keras_serializable("test_weights")
def mean_field(kernel_size, bias_size, dtype=None):
    size = kernel_size + bias_size
    width = tv.IndependentNormal.params_size(size)
    return keras.Sequential([tv.VariableLayer(width), tv.IndependentNormal(size)])


@keras.saving.register_keras_serializable("test_weights")
def unit_normal(kernel_size, bias_size, dtype=None):
    return tv.StandardNormal(kernel_size + bias_size)


@keras.saving.register_keras_serializable("test_weights")
def tenth_of_the_kl(q, p, ignore):
    return tfd.kl_divergence(q, p) / 10.0


def model_of(*layers, kind=tv, features=FEATURES, **options):
    keras.utils.set_random_seed(1)
    model = kind.Sequential(
        [keras.Input((features,)), *layers, tv.DistributionLambda(likelihood)]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        tv.NegativeLogLikelihood(),
        **{"jit_compile": False, **options},
    )
    return model


def kl_of(layer):
    q, p = layer.kernel_posterior, layer.kernel_prior
    loc, scale = (np.asarray(tf.convert_to_tensor(v), "float64") for v in parts(q))
    assert float(tf.reduce_max(tf.abs(p.mean()))) == 0.0
    return (0.5 * (scale**2 + loc**2 - 1) - np.log(scale)).sum()


def parts(q):
    return q.distribution.loc, q.distribution.scale


# The KL and the number of examples.


@pytest.mark.parametrize("layer", DENSE)
def test_the_loss_is_the_mean_nll_plus_the_kl_over_the_number_of_rows(layer):
    model = model_of(layer(1))
    model.compile("sgd", tv.NegativeLogLikelihood(), jit_compile=False)
    model.optimizer.learning_rate = 0.0
    # So small a scale that every draw is the mean.
    model.layers[0].weights[1].assign(tf.fill([FEATURES, 1], -20.0))
    found = model.fit(X, Y, batch_size=32, verbose=0).history
    kl = kl_of(model.layers[0])
    nll = -tfd.Normal(model(X).mean(), NOISE).log_prob(Y).numpy().mean()
    assert found["weights_kl"] == pytest.approx([kl], rel=1e-5)
    assert found["loss"] == pytest.approx([nll + kl / ROWS], rel=1e-5)


def test_the_epochs_loss_is_the_same_for_every_batch_size():
    model = model_of(tv.DenseFlipout(4), tv.DenseReparameterization(1))
    model.optimizer.learning_rate = 0.0
    for layer in model.layers[:2]:
        layer.weights[1].assign(tf.fill(layer.weights[1].shape, -20.0))
    losses = [
        model.fit(X, Y, batch_size=size, verbose=0).history["loss"][0]
        for size in (1, 7, 32, 64, 70)
    ]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
    # `evaluate` on other rows uses the number of the training rows.
    other = model.evaluate(X[:10], Y[:10], batch_size=4, verbose=0, return_dict=True)
    loc = model(X[:10]).mean().numpy()
    nll = -tfd.Normal(loc, NOISE).log_prob(Y[:10]).numpy().mean()
    assert other["loss"] == pytest.approx(nll + other["weights_kl"] / ROWS, rel=1e-4)


def test_sample_weights_do_not_weigh_the_kl():
    model = model_of(tv.DenseReparameterization(1))
    model.optimizer.learning_rate = 0.0
    model.layers[0].weights[1].assign(tf.fill([FEATURES, 1], -20.0))
    weights = np.linspace(0.0, 3.0, ROWS).astype("float32")
    kl = kl_of(model.layers[0])
    nll = -tfd.Normal(model(X).mean(), NOISE).log_prob(Y).numpy()[:, 0]
    expected = (weights * nll).mean() + kl / ROWS
    for size in (7, 32, 70):
        found = model.fit(X, Y, size, sample_weight=weights, verbose=0).history
        assert found["loss"] == pytest.approx([expected], rel=1e-5)


def test_the_rows_for_validation_do_not_count():
    model = model_of(tv.DenseReparameterization(1))
    model.fit(X, Y, validation_split=0.3, verbose=0)
    assert model.num_examples == 49


def test_a_second_fit_on_fewer_rows_divides_by_their_number():
    model = model_of(tv.DenseReparameterization(1))
    model.optimizer.learning_rate = 0.0
    model.layers[0].weights[1].assign(tf.fill([FEATURES, 1], -20.0))
    kl = kl_of(model.layers[0])
    for rows in (70, 35):
        nll = -tfd.Normal(model(X[:rows]).mean(), NOISE).log_prob(Y[:rows])
        found = model.fit(X[:rows], Y[:rows], verbose=0).history["loss"][0]
        expected = nll.numpy().mean() + kl / rows
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_pipeline_asks_for_the_number_of_examples():
    pipeline = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    model = model_of(tv.DenseReparameterization(1))
    with pytest.raises(ValueError, match=r"compile\(num_examples=...\)"):
        model.fit(pipeline, verbose=0)
    with pytest.raises(ValueError, match=r"compile\(num_examples=...\)"):
        model.evaluate(X, Y, verbose=0)
    with pytest.raises(ValueError, match=r"compile\(num_examples=...\)"):
        model.train_on_batch(X, Y)
    model.compile("sgd", tv.NegativeLogLikelihood(), num_examples=ROWS)
    assert np.isfinite(model.fit(pipeline, verbose=0).history["loss"]).all()


def test_the_number_of_examples_is_saved(tmp_path):
    model = model_of(tv.DenseFlipout(1))
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.num_examples == ROWS
    assert np.isfinite(loaded.evaluate(X[:5], Y[:5], verbose=0)).all()
    loaded.fit(X[:20], Y[:20], verbose=0)  # other data, which count themselves
    assert loaded.num_examples == 20


def test_fewer_examples_than_rows_are_refused():
    model = model_of(tv.DenseFlipout(1), num_examples=50)
    with pytest.raises(ValueError, match="num_examples=50, but 70 rows"):
        model.fit(X, Y, verbose=0)


def test_other_reductions_are_refused():
    model = model_of(tv.DenseFlipout(1))
    model.compile("sgd", tv.NegativeLogLikelihood(reduction="sum"))
    with pytest.raises(ValueError, match="reduction='sum'"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    "layer",
    [
        tv.DenseVariational(1, mean_field, unit_normal, kl_weight=0.1),
        tv.DenseReparameterization(1, kernel_divergence_fn=tenth_of_the_kl),
    ],
)
def test_a_number_of_examples_beside_a_weight_of_ones_own_is_refused(layer):
    with pytest.raises(ValueError, match="a factor or function of its own"):
        model_of(layer, num_examples=ROWS)


def test_a_divergence_of_ones_own_is_added_whole():
    layer = tv.DenseReparameterization(1, kernel_divergence_fn=tenth_of_the_kl)
    layer(X)
    assert float(layer.losses[0]) == pytest.approx(kl_of(layer) / 10, rel=1e-5)


def test_kl_weight_multiplies_the_kl_in_the_loss_and_not_in_the_history():
    layer = tv.DenseVariational(
        1, mean_field, unit_normal, kl_weight=0.1, kl_use_exact=True
    )
    model = model_of(layer)
    model.optimizer.learning_rate = 0.0
    found = model.fit(X, Y, batch_size=ROWS, verbose=0).history
    loc, raw = np.split(layer.posterior.weights[0].numpy(), 2)
    scale = np.log1p(np.exp(raw)) + np.finfo("float32").eps
    kl = (0.5 * (scale**2 + loc**2 - 1) - np.log(scale)).sum()
    assert found["weights_kl"] == pytest.approx([kl], rel=1e-4)
    layer(X)
    assert float(layer.losses[0]) == pytest.approx(0.1 * kl, rel=1e-4)


def student_prior(dtype, shape, *_):
    return tfd.Independent(tfd.StudentT(3.0, tf.zeros(shape, dtype), 1.0), len(shape))


def held_as_mean(kernel_size, bias_size, dtype=None):
    return keras.Sequential([tv.VariableLayer(2), tv.IndependentNormal(1, "mean")])


def converted(cls, fn):
    return lambda: cls(
        1,
        kernel_posterior_tensor_fn=fn,
        kernel_prior_fn=student_prior,
        bias_posterior_fn=None,
        seed=5,
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: tv.DenseVariational(
            1,
            held_as_mean,
            lambda *_: lambda x: student_prior(tf.float32, [1]),
            use_bias=False,
            seed=5,
        ),
        converted(tv.DenseReparameterization, "mean"),
        converted(tv.DenseFlipout, lambda d: d.sample()),
    ],
)
def test_a_kl_without_a_closed_form_is_that_of_draws(make):
    """The KL of N(0.5, 2^2) and Student's t, by quadrature."""
    kls = []
    for _ in range(2):
        layer = make()
        layer.build((None, 1))
        values = [0.5, np.log(np.expm1(2.0))]
        for variable in layer.trainable_variables:
            some = [values.pop(0) for _ in range(tf.size(variable))]
            variable.assign(np.reshape(some, variable.shape))

        def kl(_, layer=layer):
            layer(tf.ones([1, 1]))
            return layer.losses[0]

        calls = tf.function(lambda kl=kl: tf.map_fn(kl, tf.zeros([1000])))
        kls.append(calls().numpy())
    np.testing.assert_array_equal(*kls)
    q = scipy.stats.norm(0.5, 2.0)
    exact = q.expect(lambda w: q.logpdf(w) - scipy.stats.t(3.0).logpdf(w))
    error = kls[0].std() / np.sqrt(len(kls[0]))
    assert 0.0 < error < 0.05
    assert abs(kls[0].mean() - exact) < 4.5 * error


def test_a_plain_keras_model_warns_once_that_the_kl_is_whole():
    model = model_of(tv.DenseFlipout(1), kind=keras)
    with pytest.warns(UserWarning, match="The whole KL of random weights"):
        model.fit(X, Y, verbose=0)
    model.fit(X[:40], Y[:40], verbose=0)  # Here a warning would be an error.
    layer = model.layers[0]
    model(X)
    assert float(layer.losses[0]) == pytest.approx(kl_of(layer), rel=1e-5)


MADE = {
    **{cls.__name__: cls for cls in DENSE},
    "DenseVariational": lambda units: tv.DenseVariational(
        units, mean_field, unit_normal
    ),
    "Variational": lambda units: tv.Variational(keras.layers.Dense(units)),
    "TriL": lambda units: tv.Variational(
        keras.layers.Dense(units), "multivariate_normal_tril", prior="normal"
    ),
}


@pytest.mark.parametrize("kind", slow.except_for((tv,), (keras, tv)))
@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("is_subclass", slow.except_for((False,), (False, True)))
def test_a_model_may_be_built_by_fit(kind, name, is_subclass):
    class Subclass(kind.Model):
        def __init__(self, first, last):
            super().__init__()
            self.first, self.last = first, last

        def call(self, x):
            return self.last(self.first(x))

    layers = MADE[name](1), tv.DistributionLambda(likelihood)
    model = Subclass(*layers) if is_subclass else kind.Sequential(layers)
    model.compile("adam", tv.NegativeLogLikelihood(), jit_compile=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the whole KL
        model.fit(X, Y, verbose=0)
        before = model.get_weights()
        model.fit(X, Y, verbose=0)
    pairs = zip(before, model.get_weights(), strict=True)
    assert all(not np.array_equal(old, new) for old, new in pairs)
    assert model.evaluate(X, Y, verbose=0, return_dict=True)["weights_kl"] > 0


def test_a_custom_loop_gets_the_whole_kl_without_a_warning():
    layer = tv.DenseReparameterization(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(X, training=True)
    assert float(layer.losses[0]) == pytest.approx(kl_of(layer), rel=1e-5)


def test_the_loss_of_a_sequence_counts_the_weights_once():
    steps = 5
    x = RNG.normal(size=(20, steps, FEATURES)).astype("float32")
    y = RNG.normal(size=(20, steps, 1)).astype("float32")
    layer = tv.DenseReparameterization(1)
    model = tv.Sequential(
        [keras.Input((steps, FEATURES)), layer, tv.DistributionLambda(likelihood)]
    )
    model.compile("sgd", tv.NegativeLogLikelihood(), jit_compile=False)
    model.optimizer.learning_rate = 0.0
    layer.weights[1].assign(tf.fill([FEATURES, 1], -20.0))
    nll = -tfd.Normal(model(x).mean(), NOISE).log_prob(y).numpy()
    # (1 / (N T)) [sum_n sum_t nll_nt + KL]
    expected = (nll.sum() + kl_of(layer)) / (20 * steps)
    found = model.fit(x, y, batch_size=8, verbose=0).history["loss"][0]
    assert found == pytest.approx(expected, rel=1e-5)


def test_masked_steps_do_not_count():
    steps, valid = 5, 3
    x = RNG.normal(size=(20, steps, FEATURES)).astype("float32")
    x[:, valid:] = 0.0
    y = RNG.normal(size=(20, steps, 1)).astype("float32")
    layer = tv.DenseReparameterization(1)
    model = tv.Sequential(
        [
            keras.Input((steps, FEATURES)),
            keras.layers.Masking(),
            layer,
            tv.DistributionLambda(likelihood),
        ]
    )
    model.compile("sgd", tv.NegativeLogLikelihood(), jit_compile=False)
    model.optimizer.learning_rate = 0.0
    layer.weights[1].assign(tf.fill([FEATURES, 1], -20.0))
    nll = -tfd.Normal(model(x).mean(), NOISE).log_prob(y).numpy()[:, :valid]
    expected = (nll.sum() + kl_of(layer)) / (20 * valid)
    found = model.fit(x, y, batch_size=20, verbose=0).history["loss"][0]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_a_valid_step_leaves_the_weights_finite():
    x = np.zeros((2, 5, FEATURES), "float32")  # padded from the first step on
    model = tv.Sequential(
        [
            keras.Input((5, FEATURES)),
            keras.layers.Masking(),
            tv.DenseReparameterization(1),
            tv.DistributionLambda(likelihood),
        ]
    )
    model.compile("sgd", tv.NegativeLogLikelihood(), jit_compile=False)
    found = model.fit(x, x[..., :1], batch_size=1, verbose=0).history
    assert np.isfinite(found["loss"]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())


def negative_log_likelihood(y, p):
    return -p.log_prob(y)


def summed_over_steps(y, p):
    return -tf.reduce_sum(p.log_prob(y), axis=-1)


@pytest.mark.parametrize(
    ("loss", "steps", "terms"),
    [
        (negative_log_likelihood, 5, 5),
        (summed_over_steps, 5, 1),
        (tv.CRPS(), 5, 5),
        ("mse", 5, 5),
        (keras.losses.MeanSquaredError(), 5, 5),
        (negative_log_likelihood, None, 1),
    ],
)
def test_the_kl_is_divided_by_what_the_loss_averages_over(loss, steps, terms):
    shape = (FEATURES,) if steps is None else (steps, FEATURES)
    x = RNG.normal(size=(20, *shape)).astype("float32")
    layer = tv.DenseReparameterization(1)
    head = tv.DistributionLambda(likelihood, convert_to_tensor_fn="mean")
    model = tv.Sequential([keras.Input(shape), layer, head])
    model.compile("sgd", loss, jit_compile=False, num_examples=20)
    layer.weights[1].assign(tf.fill([FEATURES, 1], -20.0))
    with_kl = model.evaluate(x, x[..., :1], verbose=0, return_dict=True)["loss"]
    layer.kernel_prior_fn = None
    model.compile("sgd", loss, jit_compile=False, num_examples=20)
    without = model.evaluate(x, x[..., :1], verbose=0, return_dict=True)["loss"]
    layer.kernel_prior_fn = tv.default_multivariate_normal_fn
    expected = kl_of(layer) / (20 * terms)
    assert with_kl - without == pytest.approx(expected, rel=1e-3)


def test_draws_in_front_of_the_batch_are_no_steps():
    inputs = keras.Input((FEATURES,))
    layer = tv.DenseReparameterization(1)
    loc = layer(inputs)
    loc = keras.ops.stack([loc, loc, loc])
    model = tv.Model(inputs, tv.DistributionLambda(likelihood, "mean")(loc))
    model.compile("sgd", tv.NegativeLogLikelihood(draw_axes=1), jit_compile=False)
    model.optimizer.learning_rate = 0.0
    layer.weights[1].assign(tf.fill([FEATURES, 1], -20.0))
    nll = -tfd.Normal(model(X).mean()[0], NOISE).log_prob(Y).numpy().mean()
    found = model.fit(X, Y, verbose=0).history["loss"]
    assert found == pytest.approx([nll + kl_of(layer) / ROWS], rel=1e-5)


def test_outputs_without_a_loss_do_not_count():
    inputs = keras.Input((FEATURES,))
    layer = tv.DenseReparameterization(1)
    loc = layer(inputs)
    outputs = {
        "p": tv.DistributionLambda(likelihood, name="p")(loc),
        "steps": keras.layers.RepeatVector(7, name="steps")(loc),
    }
    model = tv.Model(inputs, outputs)
    model.compile("sgd", {"p": negative_log_likelihood}, jit_compile=False)
    model.optimizer.learning_rate = 0.0
    layer.weights[1].assign(tf.fill([FEATURES, 1], -20.0))
    nll = -tfd.Normal(model(X)["p"].mean(), NOISE).log_prob(Y).numpy().mean()
    found = model.fit(X, {"p": Y}, verbose=0).history["loss"]
    assert found == pytest.approx([nll + kl_of(layer) / ROWS], rel=1e-5)


def test_a_step_that_calls_parts_of_the_model_divides_too():
    class Parts(tv.Model):
        def __init__(self):
            super().__init__()
            self.first = tv.DenseReparameterization(1)
            self.last = tv.DistributionLambda(likelihood)

        def call(self, x):
            return self.last(self.first(x))

        def train_step(self, batch):
            x, y = batch
            p = self.last(self.first(x))
            loss = self.compute_loss(x, y, p)
            return {"loss": loss, "nll": -tf.reduce_mean(p.log_prob(y))}

    model = Parts()
    model.compile("sgd", tv.NegativeLogLikelihood(), jit_compile=False)
    model(X[:1])
    found = model.fit(X, Y, batch_size=ROWS, verbose=0).history
    kl = kl_of(model.first)
    assert found["loss"][0] - found["nll"][0] == pytest.approx(kl / ROWS, rel=1e-3)


def test_a_part_with_its_own_function_leaves_the_other_divided():
    layer = tv.DenseReparameterization(
        1,
        kernel_divergence_fn=tenth_of_the_kl,
        bias_posterior_fn=tv.default_mean_field_normal_fn(),
        bias_prior_fn=tv.default_multivariate_normal_fn,
    )
    model = model_of(layer)
    model.optimizer.learning_rate = 0.0
    for raw in (layer.weights[1], layer.weights[3]):
        raw.assign(tf.fill(raw.shape, -20.0))
    nll = -tfd.Normal(model(X).mean(), NOISE).log_prob(Y).numpy().mean()
    kl_of_bias = tfd.kl_divergence(layer.bias_posterior, layer.bias_prior)
    expected = nll + kl_of(layer) / 10 + float(kl_of_bias) / ROWS
    found = model.fit(X, Y, batch_size=ROWS, verbose=0).history["loss"]
    assert found == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("apart", [True, False])
def test_a_function_of_ones_own_beside_a_divided_kl(apart, tmp_path):
    """Of two parts of a layer, or of two layers."""

    def model_with(**options):
        both = {
            "bias_posterior_fn": tv.default_mean_field_normal_fn(),
            "bias_prior_fn": tv.default_multivariate_normal_fn,
        }
        own = tv.DenseReparameterization(
            1, kernel_divergence_fn=tenth_of_the_kl, **({} if apart else both)
        )
        return model_of(own, *[tv.DenseFlipout(1)] * apart, **options)

    pipeline = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    with pytest.raises(ValueError, match=r"compile\(num_examples=...\)"):
        model_with().fit(pipeline, verbose=0)
    model = model_with(num_examples=ROWS)
    assert np.isfinite(model.fit(pipeline, verbose=0).history["loss"]).all()
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").num_examples == ROWS
    model.compile("sgd", tv.NegativeLogLikelihood(reduction="sum"))
    with pytest.raises(ValueError, match="reduction='sum'"):
        model.fit(X, Y, verbose=0)


def test_without_a_divided_kl_no_number_of_examples_is_asked_for():
    pipeline = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    without = tv.DenseFlipout(1, kernel_prior_fn=None)
    own = tv.DenseFlipout(1, kernel_divergence_fn=tenth_of_the_kl)
    assert "loss" in model_of(without, own).fit(pipeline, verbose=0).history


def test_a_pipeline_after_arrays_asks_too():
    model = model_of(tv.DenseReparameterization(1))
    model.fit(X[:8], Y[:8], verbose=0)
    pipeline = tf.data.Dataset.from_tensor_slices((X, Y)).batch(32)
    with pytest.raises(ValueError, match=r"compile\(num_examples=...\)"):
        model.fit(pipeline, verbose=0)


@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch"])
def test_a_step_that_does_not_know_the_number_asks(method):
    model = model_of(tv.DenseReparameterization(1))
    with pytest.raises(ValueError, match=r"compile\(num_examples=...\)"):
        getattr(model, method)(X, Y)


def test_a_fit_that_is_refused_leaves_the_number_of_examples():
    model = model_of(tv.DenseReparameterization(1))
    model.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match="expects"):
        model.fit(X[:8], Y[:7], verbose=0)
    assert model.num_examples == ROWS


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", '{"asked": -1, "known": 3}', '{"asked": null, "known": "a"}'],
)
def test_a_malformed_number_of_examples_is_refused(content, tmp_path):
    (tmp_path / "examples.json").write_text(content)
    model = model_of(tv.DenseReparameterization(1))
    with pytest.raises(ValueError, match="expects"):
        model.load_assets(str(tmp_path))


def test_malformed_places_are_refused():
    layer = tv.Variational(keras.layers.Dense(1))
    with pytest.raises(ValueError, match="places"):
        layer.build_from_config({"input_shape": (None, 3), "places": [0, 7]})


# Freezing.


def test_a_frozen_layer_keeps_its_posterior():
    layer = tv.Variational(
        keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)])
    )
    model = model_of(layer)
    model.fit(X, Y, verbose=0)
    layer.layer.layers[0].trainable = False
    model.compile("adam", tv.NegativeLogLikelihood(), jit_compile=False)
    before = model.get_weights()
    model.fit(X, Y, verbose=0)
    after = model.get_weights()
    moved = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [True, False, False, True, True]  # the scale, two means, two means
    model.trainable = False
    assert not np.array_equal(model(X).mean(), model(X).mean())


@pytest.mark.parametrize("name", ["DenseFlipout", "Variational"])
def test_a_layer_built_while_frozen_can_be_trained_later(name, tmp_path):
    layer = MADE[name](1)
    model = model_of(layer)
    model.trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not loaded.trainable_weights
    for one in (model, loaded):
        one.trainable = True
        for part in one.layers:
            part.trainable = True
    assert len(loaded.trainable_weights) == len(model.trainable_weights) == 3


# One draw in a forward pass.


@pytest.mark.parametrize("layer", [tv.DenseReparameterization(FEATURES)])
def test_a_layer_called_twice_has_one_draw_and_one_divergence(layer):
    inputs = keras.Input((FEATURES,))
    model = tv.Model(inputs, [layer(inputs), layer(inputs)])
    first, second = model(X)
    np.testing.assert_array_equal(first, second)
    assert len(model.losses) == 1
    assert not np.array_equal(first, model(X)[0])


def test_time_distributed_has_one_draw_and_one_divergence():
    inputs = keras.Input((4, FEATURES))
    layer = tv.Variational(keras.layers.Dense(2))
    model = tv.Model(inputs, keras.layers.TimeDistributed(layer)(inputs))
    found = model(np.ones((2, 4, FEATURES), "float32")).numpy()
    np.testing.assert_array_equal(found, np.broadcast_to(found[:1, :1], found.shape))
    assert len(model.losses) == 1


@pytest.mark.parametrize("layer", DENSE)
def test_calls_with_one_seed_share_a_draw_also_in_pieces(layer):
    model = model_of(layer(4, activation="relu"), layer(1))
    call = tf.function(lambda x: model(x).mean())
    with weights_drawn_with((3, 4)):
        whole = call(X).numpy()
    with weights_drawn_with((3, 4)):
        first = model(X[:30]).mean().numpy()
    with weights_drawn_with((3, 4)):
        second = model(X[30:]).mean().numpy()
    with weights_drawn_with((5, 6)):
        other = model(X).mean().numpy()
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=1e-4)
    assert not np.allclose(other, whole)


def test_signs_and_noise_are_those_of_a_seed():
    found = []
    for _ in range(2):
        layer = tv.DenseFlipout(2, bias_posterior_fn=None, seed=3)
        layer.build((None, FEATURES))
        layer.weights[0].assign(tf.ones([FEATURES, 2]))
        layer.weights[1].assign(tf.ones([FEATURES, 2]))
        found.append(layer(X).numpy())
    np.testing.assert_array_equal(*found)


def test_a_sequence_has_the_signs_of_its_example_at_all_steps():
    layer = tv.DenseFlipout(4)
    layer.build((None, 5, FEATURES))
    layer.weights[1].assign(tf.ones([FEATURES, 4]))
    found = layer(np.ones((6, 5, FEATURES), "float32")).numpy()
    np.testing.assert_allclose(found, np.repeat(found[:, :1], 5, axis=1), rtol=1e-5)
    assert not np.allclose(found[0], found[1])


def test_kernel_and_bias_are_drawn_apart_in_a_prediction():
    """Var[w x + b] = s_w^2 x^2 + s_b^2, the same at x and -x."""
    layer = tv.DenseReparameterization(
        1, bias_posterior_fn=tv.default_mean_field_normal_fn()
    )
    model = tv.Sequential([keras.Input((1,)), layer, tv.DistributionLambda(likelihood)])
    for raw in (layer.weights[1], layer.weights[3]):
        raw.assign(tf.ones(raw.shape))
    x = np.array([[1.0], [-1.0]], "float32")
    p = tv.predictive(model, x, num_samples=2000, seed=1)
    scale = np.log1p(np.exp(1.0))
    np.testing.assert_allclose(
        p.epistemic_stddev()[:, 0], np.sqrt(2) * scale, rtol=0.07
    )


def test_the_mask_that_leaves_a_layer_is_that_of_the_layer():
    x = RNG.integers(0, 4, size=(16, 5))
    model = tv.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(4, 2, mask_zero=True),
            tv.Variational(keras.layers.LSTM(4)),
            keras.layers.Dense(5),
            tv.DistributionLambda(likelihood),
        ]
    )
    model.compile("sgd", tv.NegativeLogLikelihood(), jit_compile=False)
    model.optimizer.learning_rate = 0.0
    model.layers[1].raw_scale.assign(tf.fill(model.layers[1].raw_scale.shape, -20.0))
    y = RNG.normal(size=(16, 5)).astype("float32")
    nll = -tfd.Normal(model(x).mean(), NOISE).log_prob(y).numpy().sum(axis=1).mean()
    found = model.fit(x, y, batch_size=16, verbose=0).history
    expected = nll + found["weights_kl"][0] / 16
    assert found["loss"] == pytest.approx([expected], rel=1e-4)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_a_causal_convolution_is_that_of_keras(data_format):
    options = {"padding": "causal", "dilation_rate": 2, "data_format": data_format}
    theirs = keras.layers.Conv1D(3, 2, **options)
    mine = tv.Convolution1DFlipout(3, 2, kernel_posterior_tensor_fn="mean", **options)
    x = RNG.normal(size=(2, 6, 4)).astype("float32")
    if data_format == "channels_first" and not tf.config.list_physical_devices("GPU"):
        pytest.skip("TensorFlow convolves channels first on a GPU only")
    expected = theirs(x)
    mine.build(x.shape)
    mine.weights[0].assign(theirs.kernel)
    mine.weights[2].assign(theirs.bias)
    np.testing.assert_allclose(mine(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("cls", "rank"), CONVOLUTIONS)
def test_other_channels_than_those_of_the_kernel_are_refused(cls, rank, data_format):
    def shape(channels):
        room = [8] * rank
        last = data_format == "channels_last"
        return (2, *room, channels) if last else (2, channels, *room)

    for make in (cls, cls.deterministic):
        layer = make(4, 3, data_format=data_format)
        layer.build(shape(3))
        with pytest.raises(ValueError, match="to have value 3, but received"):
            layer(np.ones(shape(6), "float32"))


# The estimators.


@pytest.mark.parametrize("cls", DENSE)
def test_the_gradient_is_that_of_the_expected_loss(cls):
    """E[a^4] = m^4 + 6 m^2 v + 3 v^2 for a ~ N(m, v), of which gradients are exact."""
    layer, x = cls(2, bias_posterior_fn=None), tf.constant(X[:4])
    layer.build(x.shape)
    loc, raw = layer.trainable_variables
    raw.assign(tf.ones([FEATURES, 2]) * [[0.0], [-1.0], [0.5]])
    with tf.GradientTape() as tape:
        scale = tf.nn.softplus(tf.convert_to_tensor(raw))
        mean, variance = x @ tf.convert_to_tensor(loc), x**2 @ scale**2
        loss = tf.reduce_sum(mean**4 + 6 * mean**2 * variance + 3 * variance**2)
    exact = tf.concat(tape.gradient(loss, [loc.value, raw.value]), axis=0).numpy()
    draws = 20_000

    @tf.function(jit_compile=True)
    def moments():
        def step(i, first, second):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x) ** 4)
            found = tf.concat(tape.gradient(loss, [loc.value, raw.value]), axis=0)
            return i + 1, first + found, second + found**2

        zeros = tf.zeros(exact.shape)
        return tf.while_loop(lambda i, *_: i < draws, step, (0, zeros, zeros))

    _, first, second = (np.asarray(t, "float64") for t in moments())
    mean = first / draws
    error = np.sqrt((second / draws - mean**2) / draws)
    assert np.abs((mean - exact) / error).max() < 4.5
    # Tight enough to see an error of a tenth in the large ones.
    assert (error / np.abs(exact)).min() < 0.03


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: tv.DenseFlipout(4),
        lambda: tv.DenseLocalReparameterization(4),
        lambda: tv.DenseVariational(4, mean_field, unit_normal),
        lambda: tv.Convolution1DFlipout(4, 2),
    ],
)
def test_integers_are_the_floating_numbers_that_they_are(make, dtype):
    x = np.array([[[70_000], [250], [3]]] * 2).astype(dtype)
    layer = make()
    found = []
    for inputs in (x, x.astype("float32")):
        with weights_drawn_with((1, 2)):
            layer(inputs)  # of one draw
        layer._seeds.outside_training.state.assign([1, 0])
        found.append(layer(inputs))  # of signs or outputs for each example
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("cls", DENSE)
def test_a_row_of_zeros_has_a_finite_gradient(cls):
    layer = cls(2)
    layer.build((None, FEATURES))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.zeros([1, FEATURES])) ** 2)
    gradients = tape.gradient(loss, [v.value for v in layer.trainable_variables])
    assert all(np.isfinite(g).all() for g in gradients if g is not None)


@pytest.mark.parametrize("shapes", [((3, 2), ()), ((), (3, 2)), ((1, 2), (3, 1))])
@pytest.mark.parametrize("cls", [*DENSE[1:], tv.Convolution1DFlipout])
def test_loc_and_scale_of_a_posterior_may_broadcast(cls, shapes):
    def posterior(dtype, shape, name, trainable, add_variable_fn):
        front = [1] * (len(shape) - 2)
        loc, scale = (
            tf.reshape(
                add_variable_fn(name=f"{name}_{i}", shape=some, initializer="ones"),
                [*front, *some] if some else [],
            )
            for i, some in enumerate(shapes)
        )
        return tfd.Independent(tfd.Normal(loc + 0.5, scale + 1.0), len(shape))

    kernel = [1] if cls is tv.Convolution1DFlipout else []
    layer = cls(2, *kernel, kernel_posterior_fn=posterior, bias_posterior_fn=None)
    x = np.tile(np.float32([1.0, -0.5, 2.0]), [4, *kernel, 1])
    calls = tf.function(lambda: layer(x))
    found = np.concatenate([calls().numpy().reshape(4, 2) for _ in range(500)])
    error = 2.0 * np.sqrt(5.25 / 500)
    np.testing.assert_allclose(found.mean(axis=0), [3.75] * 2, atol=4.5 * error)
    np.testing.assert_allclose(found.std(axis=0), [2 * np.sqrt(5.25)] * 2, rtol=0.15)


@pytest.mark.parametrize(("cls", "rank"), CONVOLUTIONS)
def test_a_convolution_has_the_moments_of_its_outputs(cls, rank):
    x = RNG.normal(size=(1, *[4] * rank, 2)).astype("float32")
    layer = cls(3, 2, padding="same", bias_posterior_fn=None)
    layer.build(x.shape)
    layer.weights[1].assign(tf.zeros(layer.weights[1].shape))
    loc, scale = map(tf.convert_to_tensor, parts(layer.kernel_posterior))
    mean = keras.ops.conv(x, loc, padding="same").numpy()
    variance = keras.ops.conv(x**2, scale**2, padding="same").numpy()
    call = tf.function(lambda: layer(x))
    found = np.concatenate([call() for _ in range(2000)]).astype("float64")
    stddev = np.sqrt(variance)[0]
    z = (found.mean(axis=0) - mean[0]) / (stddev / np.sqrt(2000))
    assert np.abs(z).max() < 5
    np.testing.assert_allclose(found.std(axis=0), stddev, rtol=0.12)


# Beside `tfp.layers`.

of_tfp = pytest.mark.filterwarnings("ignore::UserWarning")  # of TFP itself

NAMES = [
    "DenseFlipout",
    "DenseLocalReparameterization",
    "DenseReparameterization",
    "DenseVariational",
    *(cls.__name__ for cls, _ in CONVOLUTIONS),
    "default_loc_scale_fn",
    "default_mean_field_normal_fn",
]


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_tfp(name):
    pytest.importorskip("tf_keras")
    theirs = list(inspect.signature(getattr(tfp.layers, name)).parameters)
    mine = list(inspect.signature(getattr(tv, name)).parameters)
    named = [n for n in theirs if n != "kwargs"]
    shared = [n for n in mine if n in named]
    assert shared == named


@of_tfp
@pytest.mark.parametrize("name", ["DenseReparameterization", "DenseFlipout"])
def test_the_kl_and_the_mean_are_those_of_tfp(name):
    pytest.importorskip("tf_keras")
    theirs = getattr(tfp.layers, name)(4, kernel_posterior_tensor_fn=lambda d: d.mean())
    mine = getattr(tv, name)(4, kernel_posterior_tensor_fn="mean")
    expected = theirs(X)
    mine.build(X.shape)
    mine.set_weights([w.numpy() for w in theirs.weights])
    np.testing.assert_allclose(mine(X), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mine.losses[0], theirs.losses[0], rtol=1e-5)


@of_tfp
def test_the_local_draw_is_that_of_tfp():
    pytest.importorskip("tf_keras")

    def upper(d):
        return d.mean() + d.stddev()

    theirs = tfp.layers.DenseLocalReparameterization(
        4, kernel_posterior_tensor_fn=upper
    )
    mine = tv.DenseLocalReparameterization(4, kernel_posterior_tensor_fn=upper)
    expected = theirs(X)
    mine.build(X.shape)
    mine.set_weights([w.numpy() for w in theirs.weights])
    np.testing.assert_allclose(mine(X), expected, rtol=1e-5, atol=1e-6)


@of_tfp
@pytest.mark.parametrize(("name", "rank"), [(c.__name__, r) for c, r in CONVOLUTIONS])
def test_a_convolution_is_that_of_tfp(name, rank):
    pytest.importorskip("tf_keras")
    x = RNG.normal(size=(2, *[5] * rank, 2)).astype("float32")
    options = {"strides": 2, "padding": "same", "activation": "tanh"}
    theirs = getattr(tfp.layers, name)(
        3, 2, kernel_posterior_tensor_fn=lambda d: d.mean(), **options
    )
    mine = getattr(tv, name)(3, 2, kernel_posterior_tensor_fn="mean", **options)
    expected = theirs(x)
    assert mine.compute_output_shape(x.shape) == tuple(expected.shape)
    mine.build(x.shape)
    mine.set_weights([w.numpy() for w in theirs.weights])
    np.testing.assert_allclose(mine(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mine.losses[0], theirs.losses[0], rtol=1e-5)


def test_dense_variational_is_that_of_tfp_for_one_draw():
    tf_keras = pytest.importorskip("tf_keras")
    loc = RNG.normal(size=8).astype("float32")

    def posterior(layers, wrap):
        def make(kernel_size, bias_size, dtype=None):
            return wrap(
                layers.DistributionLambda(
                    lambda t: tfd.Independent(tfd.Normal(t, 0.3), 1),
                    convert_to_tensor_fn=lambda d: d.mean() + 0.1,
                ),
                layers.VariableLayer(8),
            )

        return make

    def prior(kernel_size, bias_size, dtype=None):
        return lambda x: tfd.Independent(tfd.Normal(tf.zeros(8), 1.0), 1)

    theirs = tfp.layers.DenseVariational(
        2, posterior(tfp.layers, lambda d, v: tf_keras.Sequential([v, d])), prior
    )
    mine = tv.DenseVariational(
        2, posterior(tv, lambda d, v: keras.Sequential([v, d])), prior
    )
    theirs(X), mine(X)
    theirs.trainable_variables[0].assign(loc)
    mine.trainable_variables[0].assign(loc)
    np.testing.assert_allclose(mine(X), theirs(X), rtol=1e-5)
    np.testing.assert_allclose(mine.losses[0], theirs.losses[-1], rtol=1e-5)


# Any layer.


def test_the_wrapped_weights_are_the_posteriors_means():
    dense = keras.layers.Dense(2)
    layer = tv.Variational(dense, initial_scale=1e-6)
    layer.build(X.shape)
    trained = [RNG.normal(size=w.shape).astype("float32") for w in dense.weights]
    dense.set_weights(trained)
    expected = X @ trained[0] + trained[1]
    np.testing.assert_allclose(layer(X), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(dense.kernel, trained[0])


@pytest.mark.parametrize("posterior", ["normal", "multivariate_normal_tril"])
def test_the_divergence_is_the_closed_form(posterior):
    layer = tv.Variational(
        keras.layers.Dense(2), posterior, tfd.Normal(0.5, 2.0), initial_scale=0.3
    )
    layer(X)
    loc = np.concatenate([v.numpy().ravel() for v in layer.layer.weights])
    kl = np.log(2.0 / 0.3) + (0.3**2 + (loc - 0.5) ** 2) / (2 * 4.0) - 0.5
    assert float(layer.losses[0]) == pytest.approx(kl.sum(), rel=1e-4)


@pytest.mark.parametrize("posterior", ["normal", "multivariate_normal_tril"])
@pytest.mark.parametrize("scale", [1e-36, 1e-8, 1.0, 700.0, 1000.0, 1e15])
def test_the_initial_scale_may_be_tiny_or_large(posterior, scale):
    dense = keras.layers.Dense(2, kernel_initializer="zeros")
    layer = tv.Variational(dense, posterior, initial_scale=scale)
    layer(X)
    q = layer._posterior()
    found = q.stddev() if posterior == "normal" else q.scale.diag_part()
    np.testing.assert_allclose(found, np.full(8, scale), rtol=1e-4)
    kl = 8 * ((scale**2 - 1.0) / 2.0 - np.log(scale))
    assert float(layer.losses[0]) == pytest.approx(kl, rel=1e-4, abs=1e-4)


def test_a_learned_prior_scale_is_one_for_each_tensor():
    layer = tv.Variational(keras.layers.Dense(2), prior="normal")
    layer(X)
    assert tuple(layer.raw_prior_scale.shape) == (2,)
    layer.raw_prior_scale.assign(np.log(np.expm1([0.5, 2.0])))
    layer(X)
    kernel, bias = (v.numpy() for v in layer.layer.weights)
    kl = sum(
        (np.log(s / 0.05) + (0.05**2 + w**2) / (2 * s**2) - 0.5).sum()
        for s, w in ((0.5, kernel), (2.0, bias))
    )
    assert float(layer.losses[0]) == pytest.approx(kl, rel=1e-4)


def test_state_and_losses_inside_are_kept():
    inner = keras.Sequential(
        [
            keras.layers.Dense(4, activity_regularizer=keras.regularizers.L2(0.1)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            tv.IndependentNormal(2),
            tv.KLDivergenceAddLoss(tv.StandardNormal(2)),
        ]
    )
    model = tv.Sequential(
        [keras.Input((FEATURES,)), tv.Variational(inner), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse", jit_compile=False)
    moving = inner.layers[1].moving_mean.numpy()
    seeds = [v.numpy() for v in inner.variables if "seed" in v.name]
    found = model.fit(X, Y, verbose=0).history
    assert found["kl"][0] > 0.0
    assert not np.array_equal(inner.layers[1].moving_mean, moving)
    after = [v.numpy() for v in inner.variables if "seed" in v.name]
    assert any(not np.array_equal(a, b) for a, b in zip(seeds, after, strict=True))
    model(X, training=True)
    # of the weights, of the activity, of the latents
    assert len(model.losses) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.layers.LSTM(3),
        lambda: keras.layers.Bidirectional(keras.layers.GRU(2)),
        lambda: keras.layers.TimeDistributed(keras.layers.Dense(2)),
        lambda: keras.layers.Conv1D(2, 3),
    ],
)
def test_layers_of_sequences_train_and_are_saved(make, tmp_path):
    x = RNG.normal(size=(20, 5, 2)).astype("float32")
    layers = [keras.Input((5, 2)), tv.Variational(make()), keras.layers.Flatten()]
    model = tv.Sequential([*layers, keras.layers.Dense(1)])
    model.compile("adam", "mse", jit_compile=False)
    before = model.get_weights()
    model.fit(x, Y[:20], verbose=0)
    moved = [
        not np.array_equal(a, b)
        for a, b in zip(before, model.get_weights(), strict=True)
    ]
    assert all(moved)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with weights_drawn_with((1, 2)):
        expected = model(x).numpy()
    with weights_drawn_with((1, 2)):
        np.testing.assert_allclose(loaded(x), expected, rtol=1e-5, atol=1e-6)


def test_an_embedding_trains():
    x = RNG.integers(0, 7, size=(20, 4))
    model = tv.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            tv.Variational(keras.layers.Embedding(7, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", jit_compile=False)
    assert np.isfinite(model.fit(x, Y[:20], verbose=0).history["loss"]).all()


def test_a_mask_reaches_the_layer_and_leaves_it():
    inputs = keras.Input((None, 2))
    masked = keras.layers.Masking()(inputs)
    outputs = tv.Variational(keras.layers.LSTM(3, return_sequences=True))(masked)
    model = tv.Model(inputs, keras.layers.GlobalAveragePooling1D()(outputs))
    x = np.ones((2, 6, 2), "float32")
    x[:, 3:] = 0.0
    with weights_drawn_with((1, 2)):
        padded = model(x).numpy()
    with weights_drawn_with((1, 2)):
        np.testing.assert_allclose(model(x[:, :3]), padded, rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
@pytest.mark.parametrize(
    "make", [lambda: tv.DenseFlipout(2), lambda: tv.Variational(keras.layers.Dense(2))]
)
def test_draws_are_precise_under_every_policy(policy, make):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = tv.Sequential(
            [keras.Input((FEATURES,)), make(), tv.IndependentNormal(1)]
        )
        model.compile("adam", tv.NegativeLogLikelihood(), jit_compile=False)
        assert np.isfinite(model.fit(X, Y, verbose=0).history["loss"]).all()
    finally:
        keras.config.set_dtype_policy(before)
    expected = "float64" if policy == "float64" else "float32"
    assert {v.dtype for v in model.layers[0].trainable_variables} == {expected}


# Saving.


@pytest.mark.parametrize(
    "make",
    [
        *DENSE,
        lambda units: tv.DenseVariational(units, mean_field, unit_normal),
        lambda units: tv.Variational(
            keras.layers.Dense(units), "multivariate_normal_tril", tv.LearnedNormal(4)
        ),
    ],
)
def test_a_saved_model_continues_alike(make, tmp_path):
    model = model_of(make(1))
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found = [m.fit(X, Y, shuffle=False, verbose=0).history for m in (model, loaded)]
    for name, values in found[0].items():
        assert values == pytest.approx(found[1][name], rel=1e-5)
    clone = keras.models.clone_model(model)
    assert [w.shape for w in clone.weights] == [w.shape for w in model.weights]


def test_saving_a_lambda_names_the_decorator(tmp_path):
    model = model_of(
        tv.DenseReparameterization(1, kernel_posterior_tensor_fn=lambda d: d.sample())
    )
    model.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match="register_keras_serializable"):
        model.save(tmp_path / "model.keras")


def test_an_export_draws_anew(tmp_path):
    model = model_of(tv.DenseFlipout(4), tv.Variational(keras.layers.Dense(1)))
    model.fit(X, Y, verbose=0)
    model.export(str(tmp_path / "served"), verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    assert not np.array_equal(served.serve(X), served.serve(X))


# Bad input.


def test_shapes_of_posterior_and_prior_must_agree():
    def narrow(dtype, shape, name, trainable, add_variable_fn):
        return tfd.Independent(tfd.Normal(tf.zeros([shape[0], 1]), 1.0), 1)

    with pytest.raises(ValueError, match="to have the shape"):
        tv.DenseFlipout(2, kernel_prior_fn=narrow)(X)
    layer = tv.DenseVariational(
        2, mean_field, lambda k, b, d: tv.StandardNormal(k + b + 1)
    )
    with pytest.raises(ValueError, match="expects its prior to have 8 numbers"):
        layer(X)
    with pytest.raises(ValueError, match=r"or \(8,\), for all weights"):
        tv.Variational(keras.layers.Dense(2), prior=tv.StandardNormal(3))(X)


def test_a_posterior_without_variables_is_refused():
    def fixed(dtype, shape, name, trainable, add_variable_fn):
        return tfd.Independent(tfd.Normal(tf.zeros(shape), 1.0), 2)

    with pytest.raises(ValueError, match="expects a posterior with variables"):
        tv.DenseFlipout(2, kernel_posterior_fn=fixed)(X)
    layer = tv.DenseVariational(2, unit_normal, unit_normal)
    with pytest.raises(ValueError, match="which has none"):
        layer(X)


def test_a_posterior_or_prior_for_each_example_is_refused():
    def of_inputs(kernel_size, bias_size, dtype=None):
        size = kernel_size + bias_size
        return keras.Sequential(
            [keras.layers.Dense(2 * size), tv.IndependentNormal(size)]
        )

    for fns, role in (
        ((of_inputs, unit_normal), "posterior"),
        ((mean_field, of_inputs), "prior"),
    ):
        with pytest.raises(ValueError, match=f"its {role} to have 8 .* all examples"):
            tv.DenseVariational(2, *fns)(X)


def test_estimators_need_a_normal_posterior():
    def student(dtype, shape, name, trainable, add_variable_fn):
        loc = add_variable_fn(name=name, shape=shape, initializer="zeros", dtype=dtype)
        return tfd.Independent(tfd.StudentT(3.0, loc, 1.0), 2)

    for cls in DENSE[1:]:
        with pytest.raises(ValueError, match="tfd.Independent"):
            cls(2, kernel_posterior_fn=student)(X)
    layer = tv.DenseReparameterization(2, kernel_posterior_fn=student)
    assert layer(X).shape == (ROWS, 2)  # Its KL is that of the draw.
    assert np.isfinite(layer.losses[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tv.Variational(keras.layers.LSTMCell(2)), "RNN cell"),
        (lambda: tv.Variational(tv.Variational(keras.layers.Dense(2))), "its own"),
        (lambda: tv.Variational(tv.DenseFlipout(2)), "draws its own"),
        (lambda: tv.Variational("dense"), "a Keras layer or model"),
        (lambda: tv.Variational(keras.layers.ReLU())(X), "which has none"),
        (
            lambda: tv.Variational(keras.layers.MultiHeadAttention(2, 3))(
                X[:, None], X[:, None]
            ),
            "Call the layer once",
        ),
        (lambda: tv.Variational(keras.layers.Dense(2), "gamma"), "posterior"),
        (lambda: tv.Variational(keras.layers.Dense(2), initial_scale=0), "initial_sc"),
        (lambda: tv.Variational(keras.layers.Dense(2), initial_scale=1e-50), "holds"),
        (lambda: tv.Variational(keras.layers.Dense(2), initial_scale=1e39), "holds"),
        (lambda: tv.DenseFlipout(0), "units"),
        (lambda: tv.DenseFlipout(2, kernel_posterior_fn=3), "to be a function"),
        (lambda: tv.DenseFlipout(2, activation="no such"), "activation"),
        (lambda: tv.DenseVariational(2, mean_field, None), "to be a function"),
        (
            lambda: tv.DenseVariational(2, mean_field, unit_normal, kl_weight=-1),
            "kl_weight",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Bayesian linear regression, whose posterior is a closed form.


def exact_posterior(x, y):
    precision = x.T @ x / NOISE**2 + np.eye(x.shape[1])
    covariance = np.linalg.inv(precision)
    return covariance @ x.T @ y[:, 0] / NOISE**2, covariance


def log_evidence(x, y):
    covariance = x @ x.T + NOISE**2 * np.eye(len(x))
    zeros = np.zeros(len(x))
    return tfd.MultivariateNormalFullCovariance(zeros, covariance).log_prob(y[:, 0])


def regression(posterior):
    dense = keras.layers.Dense(1, use_bias=False)
    return model_of(tv.Variational(dense, posterior, initial_scale=0.1))


def test_the_bound_is_the_evidence_at_the_exact_posterior():
    x, y = X.astype("float64"), Y.astype("float64")
    mean, covariance = exact_posterior(x, y)
    model = regression("multivariate_normal_tril")
    layer = model.layers[0]
    layer.layer.set_weights([mean[:, None]])
    lower = np.linalg.cholesky(covariance)
    raw = lower - np.diag(np.diag(lower)) + np.diag(np.log(np.expm1(np.diag(lower))))
    layer.raw_scale.assign(tfp.math.fill_triangular_inverse(raw))
    model.optimizer.learning_rate = 0.0
    losses = model.fit(X, Y, batch_size=ROWS, epochs=200, verbose=0).history["loss"]
    # The KL is exact, and the log-likelihood is that of a draw.
    error = np.std(losses) / np.sqrt(len(losses))
    evidence = float(log_evidence(x, y))
    assert abs(-np.mean(losses) * ROWS - evidence) < 4.5 * error * ROWS + 1e-2
    assert error * ROWS < 0.15


@pytest.mark.parametrize("posterior", ["normal", "multivariate_normal_tril"])
def test_training_reaches_the_exact_posterior(posterior):
    x = np.linalg.qr(X)[0].astype("float32") * 5.0  # columns are orthogonal
    if posterior != "normal":
        x = x @ np.array([[1, 0.6, 0], [0, 1, -0.5], [0, 0, 1]], "float32")
    y = (x @ np.ones((FEATURES, 1)) + NOISE * RNG.normal(size=(ROWS, 1))).astype("f")
    mean, covariance = exact_posterior(x.astype("float64"), y.astype("float64"))
    model = regression(posterior)
    rate = keras.optimizers.schedules.CosineDecay(0.03, 3000)
    model.compile(
        keras.optimizers.Adam(rate),
        tv.NegativeLogLikelihood(),
        jit_compile=False,
        num_examples=ROWS,
    )
    whole = tf.data.Dataset.from_tensors((x, y)).repeat()
    model.fit(whole, steps_per_epoch=3000, verbose=0)
    q = model.layers[0]._posterior()
    found = q.covariance().numpy() if posterior != "normal" else np.diag(q.variance())
    stddev = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(q.mean(), mean, atol=0.2 * stddev.max())
    np.testing.assert_allclose(found, covariance, atol=0.1 * covariance.max())


@pytest.fixture
def strategy():
    # TF's collective ops mix up several strategies in one process.
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], reduction)


def test_replicas_add_the_kl_once(strategy):
    with strategy.scope():
        model = model_of(tv.DenseReparameterization(1))
    model.optimizer.learning_rate = 0.0
    model.layers[0].weights[1].assign(tf.fill([FEATURES, 1], -20.0))
    nll = -tfd.Normal(model(X).mean(), NOISE).log_prob(Y).numpy().mean()
    expected = nll + kl_of(model.layers[0]) / ROWS
    found = model.fit(X, Y, batch_size=14, verbose=0).history["loss"]
    assert found == pytest.approx([expected], rel=1e-4)


def test_replicas_draw_differently_and_keep_the_state_inside(strategy):
    with strategy.scope():
        inner = keras.Sequential(
            [keras.layers.Dense(4), keras.layers.BatchNormalization()]
        )
        layer = tv.Variational(inner)
        model = tv.Sequential([keras.Input((FEATURES,)), layer, keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        draws = strategy.run(lambda: layer._draw() + 0.0)
    before = inner.layers[1].moving_mean.numpy()
    model.fit(X, Y, batch_size=14, verbose=0)
    assert not np.array_equal(before, inner.layers[1].moving_mean)
    first, second = strategy.experimental_local_results(draws)
    assert not np.array_equal(first, second)
