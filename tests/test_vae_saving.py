"""A VAE as a file, and as a server that knows nothing of it."""

import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import keras
import linear_gaussian
import models
import numpy as np
import pytest
import slow
import tensorflow as tf
import vaes
from families import FAMILIES

import tfp_vae as tv
from tfp_vae.models.export import strict_log_prob


def trained(kind):
    model = vaes.KINDS[kind]()
    x, y = vaes.inputs(kind, 32)
    model.fit(x, y, verbose=0, epochs=2)
    return model, x, y


@pytest.mark.parametrize("kind", slow.except_for(vaes.OFTEN, vaes.KINDS))
def test_every_kind_comes_back_and_trains_on(kind, tmp_path):
    model, x, y = trained(kind)
    model.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    np.testing.assert_allclose(
        loaded.reconstruct(x, y), model.reconstruct(x, y), atol=1e-6
    )
    np.testing.assert_allclose(
        loaded.log_prob(x, 10, y=y, seed=1),
        model.log_prob(x, 10, y=y, seed=1),
        rtol=1e-5,
    )
    assert len(loaded.trainable_weights) == len(model.trainable_weights)
    assert int(loaded.optimizer.iterations) == 2
    histories = [
        m.fit(x, y, verbose=0, shuffle=False).history["loss"] for m in (model, loaded)
    ]
    # Draws and Adam's moments go on where they were.
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)


def test_a_vamp_prior_shares_the_encoder_again(tmp_path):
    model, *_ = trained("vamp")
    model.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    assert loaded.prior.encoder is loaded.encoder


def test_an_encoder_with_a_kl_layer_comes_back(tmp_path):
    prior = tv.LearnedNormal(models.LATENT)
    q = vaes.encoder(tv.IndependentNormal, "sample", tv.KLDivergenceAddLoss(prior))
    model = tv.VAE(q, models.decoder())
    model.compile("adam")
    x = models.digits(32)
    model.fit(x, verbose=0)
    model.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    np.testing.assert_allclose(loaded.elbo(x, seed=1), model.elbo(x, seed=1), rtol=1e-5)
    assert len(loaded.trainable_weights) == len(model.trainable_weights)


def test_a_tfd_prior_and_a_variable_beta_come_back(tmp_path):
    import tensorflow_probability as tfp

    beta = keras.Variable(3.0, trainable=False)
    prior = tfp.distributions.Sample(tfp.distributions.Laplace(0.0, 1.0), models.LATENT)
    model = vaes.vae(prior=prior, objective=tv.ELBO(beta=beta))
    x = models.digits(32)
    model.fit(x, verbose=0)
    beta.assign(2.0)
    model.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    assert loaded.evaluate(x, verbose=0, return_dict=True)["kl_weight"] == 2.0
    assert len(loaded.trainable_weights) == len(model.trainable_weights)


@keras.saving.register_keras_serializable("tests")
class CustomEncoder(keras.layers.Layer):
    """As people write it: no `build`, and layers inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(6)
        self.posterior = tv.IndependentNormal(3)

    def call(self, x):
        return self.posterior(self.dense(keras.ops.reshape(x, (-1, 64))))


@keras.saving.register_keras_serializable("tests")
class CustomDecoder(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(64)
        self.likelihood = tv.IndependentBernoulli(models.PIXELS)

    def call(self, z):
        return self.likelihood(self.dense(z))


@pytest.mark.filterwarnings("ignore:`build..` was called on layer")  # Keras' own
@pytest.mark.parametrize("q", [CustomEncoder, vaes.encoder])
@pytest.mark.parametrize("p", [CustomDecoder, models.decoder])
def test_networks_of_ones_own_come_back(q, p, tmp_path):
    model, x = vaes.vae(q=q(), p=p()), models.digits(16)
    model.fit(x, verbose=0)
    model.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    np.testing.assert_allclose(loaded.reconstruct(x), model.reconstruct(x), atol=1e-6)


def test_clones_share_the_encoder_again():
    model, *_ = trained("vamp")
    clone = tv.VAE.from_config(model.get_config())
    assert clone.prior.encoder is clone.encoder
    assert len(clone.trainable_weights) == len(model.trainable_weights)


def test_a_product_prior_is_exported(tmp_path):
    import tensorflow_probability as tfp

    tfd = tfp.distributions
    parts = [tfd.MultivariateNormalDiag(tf.zeros(n)) for n in (1, 2)]
    model = vaes.vae(prior=tfd.Blockwise(parts))
    model.fit(models.digits(8), verbose=0)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    assert served.generate(3, 1).shape == (3, *models.PIXELS)


def test_endpoints_refuse_what_they_cannot_answer(tmp_path):
    model, x, y = trained("conditional")
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="one y for each"):
        served.generate(5, 1, y[:3])
    with pytest.raises(tf.errors.InvalidArgumentError, match="num_samples"):
        served.log_prob(x, 0, y)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model, *_ = trained("plain")
    path = tmp_path / "vae.keras"
    model.save(path)
    before = path.read_bytes()

    def fail(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr(model.encoder, "get_config", fail)
    with pytest.raises(OSError, match="no space"):
        model.save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["vae.keras"]


def test_a_file_cut_short_is_a_clear_error(tmp_path):
    model, *_ = trained("plain")
    path = tmp_path / "vae.keras"
    model.save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"vae\.keras"):
        keras.models.load_model(path)


def test_saving_asks_before_it_overwrites(tmp_path, monkeypatch):
    model, *_ = trained("plain")
    path = tmp_path / "vae.keras"
    model.save(path)
    before = path.read_bytes()
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    model.save(path, overwrite=False)
    assert path.read_bytes() == before


def test_checkpoints_keep_the_best(tmp_path):
    model, x = vaes.vae(), models.digits(64)
    path = str(tmp_path / "best.keras")
    keep = keras.callbacks.ModelCheckpoint(
        path, "val_elbo", mode="max", save_best_only=True
    )
    history = model.fit(x, epochs=3, validation_data=x, callbacks=[keep], verbose=0)
    best = keras.models.load_model(path)
    assert np.isfinite(best.evaluate(x, verbose=0)).all()
    assert len(history.history["val_elbo"]) == 3


SERVE = """
    import sys
    import numpy as np
    import tensorflow as tf
    x = np.load("x.npy")
    for name in ("False", "True"):
        served = tf.saved_model.load(name)
        z = served.encode(x)
        drawn = [served.generate(4, seed).numpy() for seed in (5, 5, 6, -1, -1)]
        np.savez(
            name + ".npz",
            mean=z["mean"], stddev=z["stddev"], sample=z["sample"],
            decoded=served.decode(z["mean"]),
            reconstructed=served.reconstruct(x),
            one=served.reconstruct(x[:1]),
            default=served.signatures["serving_default"](x=tf.constant(x))["output_0"],
            log_prob=served.log_prob(x, 200),
            drawn=drawn,
        )
    loaded = {name.split(".")[0] for name in sys.modules}
    assert not loaded & {"tensorflow_probability", "tfp_vae", "tf_keras"}, loaded
"""


@pytest.fixture(scope="module")
def served_elsewhere(tmp_path_factory):
    """Models without XLA and with it, and what one process without tfp_vae answers."""
    folder = tmp_path_factory.mktemp("served")
    x, made = models.digits(9), {}
    for jit_compile in (False, True):
        made[jit_compile] = vaes.vae(jit_compile=jit_compile)
        made[jit_compile].fit(x, verbose=0)
        made[jit_compile].export(folder / str(jit_compile))
    np.save(folder / "x.npy", x)
    script = folder / "serve.py"
    script.write_text(textwrap.dedent(SERVE))
    result = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        cwd=folder,
    )
    return made, folder, result


@pytest.mark.parametrize("jit_compile", [False, True])
def test_plain_tensorflow_serves_every_endpoint(jit_compile, served_elsewhere):
    made, folder, result = served_elsewhere
    assert result.returncode == 0, result.stderr[-2000:]
    model, x = made[jit_compile], np.load(folder / "x.npy")
    answer = np.load(folder / f"{jit_compile}.npz")
    q = model.encode(x)
    close = {"atol": 1e-5}
    np.testing.assert_allclose(answer["mean"], q.mean(), **close)
    np.testing.assert_allclose(answer["stddev"], q.stddev(), **close)
    np.testing.assert_allclose(answer["decoded"], model.decode(q).mean(), **close)
    for name in ("reconstructed", "default"):
        np.testing.assert_allclose(answer[name], model.reconstruct(x), **close)
    np.testing.assert_allclose(answer["one"], model.reconstruct(x[:1]), **close)
    assert np.abs(answer["sample"] - answer["mean"]).max() > 0.01
    same, again, other, new, newer = answer["drawn"]
    np.testing.assert_array_equal(same, again)
    assert np.abs(same - other).max() > 1e-4
    assert np.abs(new - newer).max() > 1e-4
    assert answer["log_prob"].shape == (9,)


@pytest.fixture(scope="module")
def served_with_the_exact_posterior(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    linear_gaussian.vae(linear_gaussian.exact_encoder()).export(folder)
    return tf.saved_model.load(str(folder))


@pytest.mark.parametrize("num_samples", [1, 7])
def test_a_served_log_prob_is_the_evidence(
    num_samples, served_with_the_exact_posterior, rng
):
    """Of the exact posterior every draw has the same weight."""
    x = linear_gaussian.data(9, rng)
    truth = linear_gaussian.log_evidence(x)
    found = served_with_the_exact_posterior.log_prob(x, num_samples)
    np.testing.assert_allclose(found, truth, atol=2e-5)


@pytest.mark.parametrize(
    "kind",
    slow.except_for(
        ("conditional", "missing"),
        ("conditional", "dictionary", "spherical", "vamp", "missing"),
    ),
)
def test_other_kinds_are_served_too(kind, tmp_path):
    model, x, y = trained(kind)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    x = keras.tree.map_structure(tf.constant, x)
    given = [] if y is None else [tf.constant(y)]
    np.testing.assert_allclose(
        served.reconstruct(x, *given), model.reconstruct(x, y), atol=1e-5
    )
    assert served.log_prob(x, 5, *given).shape == (32,)
    drawn = served.generate(32, 1, *given)
    assert drawn.shape == (32, *models.PIXELS)
    np.testing.assert_array_equal(drawn, served.generate(32, 1, *given))
    names = set(served.signatures["reconstruct"].structured_input_signature[1])
    assert names == {
        "conditional": {"x", "y"},
        "dictionary": {"image", "label"},
    }.get(kind, {"x"})


@pytest.mark.parametrize(
    ("likelihood", "good", "bad"),
    [
        (tv.IndependentBernoulli(4), [0, 1, 1, 0], [[2, 0, 0, 0], [0.5, 0, 0, 0]]),
        (tv.IndependentPoisson(4), [0, 1, 7, 0], [[-1, 0, 0, 0], [0.5, 0, 0, 0]]),
        (tv.OneHotCategorical(4), [0, 1, 0, 0], [[1, 1, 0, 0], [0, 0, 0, 0]]),
        (
            tv.IndependentCategorical(4, num_categories=3),
            [0, 1, 2, 0],
            [[0, 1, 3, 0], [0.5, 0, 0, 0]],
        ),
        (tv.IndependentBeta(4), [0.1, 0.2, 0.3, 0.9], [[0.1, 0.2, 0.3, 1.5]]),
        (
            tv.Blockwise([tv.IndependentNormal(2), tv.IndependentBernoulli(2)]),
            [-3.0, 5.0, 0, 1],
            [[0, 0, 0, 2]],
        ),
        (
            tv.MixtureSameFamily(2, tv.IndependentPoisson(4)),
            [0, 1, 7, 0],
            [[-1, 0, 0, 0]],
        ),
    ],
    ids=lambda part: getattr(part, "name", ""),
)
def test_a_saved_log_prob_refuses_values_outside_the_support(
    likelihood, good, bad, tmp_path
):
    """That which an export serves, for one law of each family."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def log_prob(x):
        parameters = tf.zeros([tf.shape(x)[0], likelihood.parameters_width])
        return strict_log_prob(likelihood.make_distribution(parameters), x)

    module = tf.Module()
    module.log_prob = log_prob
    tf.saved_model.save(module, str(tmp_path / "served"))
    served = tf.saved_model.load(str(tmp_path / "served"))
    assert np.isfinite(served.log_prob(tf.constant([good], tf.float32))).all()
    for values in bad:
        with pytest.raises(tf.errors.InvalidArgumentError):
            served.log_prob(tf.constant([good, values], tf.float32))


def test_an_export_refuses_values_and_numbers_of_draws(tmp_path):
    encoder = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
    )
    likelihood = tv.Blockwise([tv.IndependentNormal(2), tv.IndependentBernoulli(2)])
    decoder = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(likelihood.parameters_width),
            likelihood,
        ]
    )
    model = tv.VAE(encoder, decoder, tv.StandardNormal(2))
    model.export(tmp_path / "served", max_draws=20)
    served = tf.saved_model.load(str(tmp_path / "served"))
    good, bad = [-3.0, 5.0, 0.0, 1.0], [0.0, 0.0, 0.0, 2.0]
    x = tf.constant([good], tf.float32)
    assert np.isfinite(served.log_prob(x, 20)).all()
    with pytest.raises(tf.errors.InvalidArgumentError):
        served.log_prob(tf.constant([good, bad], tf.float32), 20)
    with pytest.raises(tf.errors.InvalidArgumentError, match="limit of this export"):
        served.log_prob(x, 21)
    with pytest.raises(tf.errors.InvalidArgumentError, match="limit of this export"):
        served.generate(21, 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_export_refuses_what_fit_refuses(name, rng):
    family = FAMILIES[name]
    layer = family.make()
    if layer.parameters_width is None:
        pytest.skip("`check_values` expects a known number of parameters")
    p = layer(tf.zeros([1, family.width])).tensor_distribution
    good = family.values(rng, (1, *family.event))
    for x in (good, good + 0.37, good - 50, 1e3 * good + 1, np.nan * good):
        x = x.astype("float32")
        try:
            tv.check_values(x, layer)
            possible = True
        except ValueError:
            possible = False
        try:
            allowed = np.isfinite(strict_log_prob(p, tf.constant(x))).all()
        except tf.errors.InvalidArgumentError:
            allowed = False
        assert allowed == possible, x


def test_saved_model_cli_runs_an_endpoint(tmp_path):
    model, *_ = trained("plain")
    model.export(tmp_path / "served")
    tool = shutil.which("saved_model_cli", path=pathlib.Path(sys.executable).parent)
    command = [tool, "run", "--dir", tmp_path / "served", "--tag_set", "serve"]
    command += ["--signature_def", "generate", "--input_exprs", "n=2;seed=5"]
    command += ["--outdir", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    drawn = np.load(tmp_path / "output_0.npy")
    np.testing.assert_allclose(drawn, model.generate(2, seed=5), atol=1e-5)


def test_export_needs_weights_and_shapes(tmp_path):
    q = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(6), tv.IndependentNormal(3)]
    )
    model = vaes.vae(q=q)
    with pytest.raises(ValueError, match=r"`VAE.export` expects a model that has wei"):
        model.export(tmp_path / "served")
    model.fit(models.digits(8), verbose=0)
    spec = tf.TensorSpec([None, *models.PIXELS])
    model.export(tmp_path / "served", input_signature=spec)
    served = tf.saved_model.load(str(tmp_path / "served"))
    assert served.reconstruct(models.digits(3)).shape == (3, *models.PIXELS)


def interpreted(content, **inputs):
    """What a LiteRT interpreter answers, with one signature."""
    interpreter = tf.lite.Interpreter(model_content=content)
    (name,) = interpreter.get_signature_list()
    return interpreter.get_signature_runner(name)(**inputs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "endpoint",
    slow.except_for(("reconstruct",), ("reconstruct", "encode_moments", "decode")),
)
def test_lite_rt_runs_the_endpoints_that_do_not_draw(endpoint, tmp_path):
    model, x, _ = trained("plain")
    model.export(tmp_path / "served")
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(tmp_path / "served"), signature_keys=[endpoint]
    )
    content = converter.convert()
    q = model.encode(x)
    if endpoint == "decode":
        found = interpreted(content, z=q.mean().numpy())
        want = {"output_0": model.decode(q.mean()).mean()}
    elif endpoint == "reconstruct":
        found = interpreted(content, x=x)
        want = {"output_0": model.reconstruct(x)}
    else:
        found = interpreted(content, x=x)
        want = {"mean": q.mean(), "stddev": q.stddev()}
    assert set(found) == set(want)
    for name, values in want.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_lite_rt_by_the_format_of_export(tmp_path):
    model, x, _ = trained("plain")
    path = tmp_path / "vae.tflite"
    model.export(path, format="litert", verbose=False)
    found = models.answer_of_lite_rt(path, x)
    np.testing.assert_allclose(found, model.reconstruct(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_lite_rt_of_a_vae_whose_input_is_told(tmp_path, rng):
    """Its encoder is a subclass, whose shape of x is not known."""

    class Encoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.q = keras.layers.Dense(4), tv.IndependentNormal(2)

        def call(self, x):
            return self.q(self.dense(x))

    p = keras.Sequential([keras.Input((2,)), tv.IndependentNormal(1)])
    model = tv.VAE(Encoder(), p, tv.StandardNormal(2))
    x = rng.normal(size=(3, 1)).astype("float32")
    model(x)
    with pytest.raises(ValueError, match="input_signature"):
        model.export(tmp_path / "vae.tflite", format="litert", verbose=False)
    model.export(
        tmp_path / "vae.tflite",
        format="litert",
        verbose=False,
        input_signature=[tf.TensorSpec([None, 1])],
    )
    found = models.answer_of_lite_rt(tmp_path / "vae.tflite", x)
    np.testing.assert_allclose(found, model.reconstruct(x), atol=1e-5)
