"""`.keras` round trips in safe mode, and SavedModels that need neither TFP nor us."""

import subprocess
import sys

import keras
import models
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp
from families import FAMILIES

import tfp_vae as tv

tfd = tfp.distributions
X = models.digits()


@keras.saving.register_keras_serializable("tests")
def half_cauchys(t):
    return tfd.Independent(tfd.HalfCauchy(0.0, tf.math.softplus(t) + 1e-3), 1)


@keras.saving.register_keras_serializable("tests")
def shifted_mean(p):
    return p.mean() + 1.0


@keras.saving.register_keras_serializable("tests")
def half():
    return tf.constant(0.5)


def reload(model, path):
    model.save(path)
    return keras.models.load_model(path, safe_mode=True)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n != "DistributionLambda"])
def test_every_layer_saves_and_loads(name, tmp_path, rng):
    family = FAMILIES[name]
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(family.width),
            family.make(convert_to_tensor_fn=family.statistic),
        ]
    )
    x = rng.normal(size=(4, 5)).astype("float32")
    y = family.values(rng, (4, *family.event))
    again = reload(model, tmp_path / "model.keras")
    np.testing.assert_array_equal(again(x).log_prob(y), model(x).log_prob(y))
    np.testing.assert_array_equal(again(x), model(x))


PRIORS = {
    "standard": lambda: tv.StandardNormal(models.LATENT),
    "learned": models.learned_prior,
    "normal": lambda: tfd.MultivariateNormalDiag(tf.ones(models.LATENT)),
    "laplace": lambda: tfd.Sample(tfd.Laplace(0.0, 1.0), models.LATENT),
    "mixture": lambda: tfd.MixtureSameFamily(
        tfd.Categorical(logits=[0.0, 1.0]),
        tfd.MultivariateNormalDiag(tf.constant([[0.0] * 3, [1.0] * 3])),
    ),
    "transformed": lambda: tfd.Independent(
        tfd.TransformedDistribution(
            tfd.Normal(tf.zeros(models.LATENT), 1.0), tfp.bijectors.Shift(0.5)
        ),
        1,
    ),
}


@pytest.mark.parametrize("prior", slow.except_for(("learned", "mixture"), PRIORS))
def test_a_trained_vae_comes_back_as_it_was_and_trains_on(prior, tmp_path):
    model = models.vae(prior=PRIORS[prior]())
    model.fit(X, X, verbose=0, shuffle=False)
    again = reload(model, tmp_path / "vae.keras")
    for left, right in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())
    # Also the seeds: the same noise, hence the same losses, now and in training.
    assert model.evaluate(X, X, verbose=0) == again.evaluate(X, X, verbose=0)
    np.testing.assert_array_equal(model(X).log_prob(X), again(X).log_prob(X))
    histories = [m.fit(X, X, verbose=0, shuffle=False).history for m in (model, again)]
    assert histories[0] == histories[1]


def test_a_regularizer_with_a_learned_prior_comes_back(tmp_path):
    regularizer = tv.KLDivergenceRegularizer(models.learned_prior(), weight=0.5)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            tv.IndependentNormal(3, activity_regularizer=regularizer),
            keras.layers.Dense(6),
            tv.IndependentNormal(3, "mean"),
        ]
    )
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    model.fit(x, x[:, :3], verbose=0)
    again = reload(model, tmp_path / "model.keras")
    assert again.layers[0].activity_regularizer.weight == 0.5
    logs = [
        m.evaluate(x, x[:, :3], verbose=0, return_dict=True) for m in (model, again)
    ]
    assert logs[0] == logs[1]
    assert "kl" in logs[0]


def test_encoder_and_decoder_save_and_load_on_their_own(tmp_path):
    model = models.vae()
    model.fit(X, X, verbose=0)
    whole = models.encoder()
    encoder = keras.Model(model.inputs[0], model.layers[-2].output)
    decoder = model.layers[-1]
    q = encoder(X[:5])
    again = reload(encoder, tmp_path / "encoder.keras")
    np.testing.assert_array_equal(again(X[:5]).mean(), q.mean())
    assert isinstance(again(X[:5]), tfd.Distribution)
    again = reload(decoder, tmp_path / "decoder.keras")
    np.testing.assert_array_equal(again(q.mean()), decoder(q.mean()))
    again = reload(whole, tmp_path / "sequential.keras")
    np.testing.assert_array_equal(again(X[:5]).mean(), whole(X[:5]).mean())


@pytest.mark.parametrize("weight", ["variable", "tf variable", "function", "number"])
def test_the_weight_comes_back(weight, tmp_path):
    weight = {
        "variable": keras.Variable(0.5, trainable=False),
        "tf variable": tf.Variable(0.5, trainable=False),
        "function": half,
        "number": 0.5,
    }[weight]
    model = models.vae(weight=weight)
    model.fit(X, X, verbose=0)
    again = reload(model, tmp_path / "vae.keras")
    logs = again.evaluate(X, X, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(logs["nll"] + 0.5 * logs["kl"], rel=1e-5)
    layer = next(x for x in again.layers if isinstance(x, tv.KLDivergenceAddLoss))
    if isinstance(weight, keras.Variable | tf.Variable):
        layer.weight.assign(0.0)
        logs = again.evaluate(X, X, verbose=0, return_dict=True)
        assert logs["loss"] == pytest.approx(logs["nll"], rel=1e-5)


def test_a_weight_that_was_annealed_keeps_its_last_value(tmp_path):
    weight = keras.Variable(0.0, trainable=False)
    model = models.vae(weight=weight)
    model.fit(X, X, verbose=0)
    weight.assign(0.75)
    again = reload(model, tmp_path / "vae.keras")
    layer = next(x for x in again.layers if isinstance(x, tv.KLDivergenceAddLoss))
    assert float(layer.weight.numpy()) == 0.75


def test_a_shared_prior_comes_back_as_one(tmp_path):
    prior = models.learned_prior()
    inputs = keras.Input(models.PIXELS)
    flat = keras.layers.Flatten()(inputs)
    z = [
        tv.KLDivergenceAddLoss(prior)(
            tv.IndependentNormal(3)(keras.layers.Dense(6)(flat))
        )
        for _ in range(2)
    ]
    p = keras.layers.Dense(64)(keras.layers.Concatenate()(z))
    model = keras.Model(inputs, tv.IndependentBernoulli(models.PIXELS)(p))
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    model.fit(X, X, verbose=0)
    again = reload(model, tmp_path / "model.keras")
    assert len(again.trainable_variables) == len(model.trainable_variables)
    assert again.evaluate(X, X, verbose=0) == model.evaluate(X, X, verbose=0)


@pytest.mark.parametrize("cls", [keras.Variable, tf.Variable])
def test_a_shared_temperature_and_weight_come_back_as_one_each(cls, tmp_path):
    temperature, weight = (cls(value, trainable=False) for value in (0.5, 0.25))
    relaxed = [tv.IndependentRelaxedBernoulli(3, temperature) for _ in range(2)]
    inputs = keras.Input((3,))
    z = [
        tv.KLDivergenceAddLoss(tfd.Sample(tfd.Logistic(0.0, 1.0), 3), weight=weight)(q)
        for q in [layer(inputs) for layer in relaxed]
    ]
    p = tv.IndependentNormal(3)(keras.layers.Dense(6)(keras.layers.Concatenate()(z)))
    again = reload(keras.Model(inputs, p), tmp_path / "model.keras")
    for cls, name in (
        (tv.IndependentRelaxedBernoulli, "temperature"),
        (tv.KLDivergenceAddLoss, "weight"),
    ):
        first, second = (
            getattr(layer, name) for layer in again.layers if isinstance(layer, cls)
        )
        assert first is second
    assert float(again.layers[1].temperature.numpy()) == 0.5


def test_the_default_of_tfp_layers_for_test_points_saves(tmp_path):
    model = models.vae(use_exact_kl=False, test_points_fn=tf.convert_to_tensor)
    model.fit(X, X, verbose=0)
    again = reload(model, tmp_path / "vae.keras")
    assert again.evaluate(X, X, verbose=0) == model.evaluate(X, X, verbose=0)


def test_registered_functions_come_back(tmp_path):
    model = keras.Sequential(
        [keras.Input((3,)), tv.DistributionLambda(half_cauchys, shifted_mean)]
    )
    assert model.layers[0].convert_to_tensor_fn is shifted_mean
    again = reload(model, tmp_path / "model.keras")
    x = np.ones((2, 3), "float32")
    np.testing.assert_array_equal(again(x).log_prob(x), model(x).log_prob(x))


@pytest.mark.filterwarnings("ignore:.*includes a `lambda`")
@pytest.mark.parametrize(
    ("layer", "argument"),
    [
        (
            lambda: tv.DistributionLambda(lambda t: half_cauchys(t)),
            "make_distribution_fn",
        ),
        (lambda: tv.IndependentPoisson(3, lambda p: p.mean()), "convert_to_tensor_fn"),
    ],
)
def test_a_lambda_is_refused_in_safe_mode(layer, argument, tmp_path):
    model = keras.Sequential([keras.Input((3,)), layer()])
    model.save(tmp_path / "model.keras")
    message = (
        f"`{argument}` to be a function.*Received: a Python lambda.*register_keras"
    )
    with pytest.raises(ValueError, match=message):
        keras.models.load_model(tmp_path / "model.keras")
    if argument == "convert_to_tensor_fn":  # the other one needs this file's globals
        trusted = keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
        assert trusted(np.ones((2, 3), "float32")).event_shape == (3,)


def test_no_code_in_the_file(tmp_path):
    import zipfile

    model = models.vae(prior=PRIORS["mixture"]())
    model.save(tmp_path / "vae.keras")
    with zipfile.ZipFile(tmp_path / "vae.keras") as file:
        config = file.read("config.json").decode()
    assert "__lambda__" not in config
    assert "MixtureSameFamily" in config


SERVE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow_probability", "tfp_vae", "tf_keras"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
x = np.load(sys.argv[2])
np.save(sys.argv[3], served.serve(x).numpy())
assert "tensorflow_probability" not in sys.modules
"""


def serve_elsewhere(path, x, tmp_path):
    """Runs a SavedModel in a process that cannot import TFP or tfp_vae."""
    np.save(tmp_path / "x.npy", x)
    script = tmp_path / "serve.py"
    script.write_text(SERVE)
    arguments = [path, tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], check=True, cwd=tmp_path
    )
    return np.load(tmp_path / "y.npy")


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_export_runs_without_tfp(tmp_path, jit_compile):
    model = models.vae(prior=models.learned_prior(), jit_compile=jit_compile)
    model.fit(X, X, verbose=0)
    model.export(tmp_path / "served", verbose=False)
    # From the exported state of its generator the served model draws the same z.
    expected = np.asarray(model(X[:7]))
    actual = serve_elsewhere(tmp_path / "served", X[:7], tmp_path)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_export_of_an_encoder_gives_its_statistic(tmp_path):
    encoder = models.encoder(conversion="mean")
    encoder.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(X[:7]), encoder(X[:7]).mean(), rtol=1e-5)


def test_a_served_model_draws_anew_at_each_call(tmp_path):
    model = keras.Sequential([keras.Input((6,)), tv.IndependentNormal(3)])
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    x = np.zeros((2, 6), "float32")
    assert not np.array_equal(served.serve(x), served.serve(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("conversion", ["mean", "stddev", "mode"])
def test_lite_rt_and_tensorflow_save_a_model_without_draws(conversion, tmp_path, rng):
    """Its layers read no state of seeds, which TensorFlow would not track."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4),
            tv.IndependentNormal(2, convert_to_tensor_fn=conversion),
        ]
    )
    x = rng.normal(size=(3, 4)).astype("float32")
    want = getattr(model(x), conversion)()
    tf.saved_model.save(model, str(tmp_path / "saved"))
    served = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    (found,) = served(tf.constant(x)).values()
    np.testing.assert_allclose(found, want, rtol=1e-5)
    model.export(tmp_path / "m.tflite", format="litert", verbose=False)
    found = models.answer_of_lite_rt(tmp_path / "m.tflite", x)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
