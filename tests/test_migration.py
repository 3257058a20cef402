"""docs/migrating.md: what `tfp.layers` did, measured, and what gives it here."""

import inspect
import pathlib
import re
import warnings

import keras
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv

tf_keras = pytest.importorskip("tf_keras", reason="tfp.layers needs tf_keras")
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda"),
    pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer"),
]

tfd = tfp.distributions
OLD, NEW = (tf_keras, tfp.layers), (keras, tv)
PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "migrating.md").read_text()
WEIGHTS = re.findall(
    r"^\| (none.*|one|k, by .*) \| (.+) \| `(.+)` \| `(.+)` \|$", PAGE, re.MULTILINE
)
KINDS = ["KLDivergenceRegularizer", "KLDivergenceAddLoss"]
BATCHES = (64, 256)
KERNEL = np.random.default_rng(1).normal(size=(4, 4)).astype("float32") / 3


def every_setting():
    """The rows of the table, once for every axis in them and every number of draws."""
    for draws, axis, *weights in WEIGHTS:
        axes = re.findall(r"`(.+?)`", axis) or [axis]
        for text in axes:
            for k in [1] if draws == "one" else [1, 4]:
                for kind, weight in zip(KINDS, weights, strict=True):
                    name = f"{kind}-{draws}-axis {text}-k={k}".replace("`", "")
                    yield pytest.param(kind, draws, text, k, weight, id=name)


SETTINGS = list(every_setting())
ARGUMENTS = ("kind", "draws", "axis", "k", "weight")
# Here None is the default.
WITH_AXIS = [s for s in SETTINGS if s.values[2] not in ("any", "not given", "None")]


def test_the_page_has_the_table():
    assert (len(WEIGHTS), len(SETTINGS), len(WITH_AXIS)) == (13, 56, 28)


def points(draws, k):
    """Draws without chance, taken for draws here since they could have a seed."""
    shape = (1, 2) if draws == "one" else (k, 1, 2)
    noise = np.random.default_rng(2).normal(size=shape).astype("float32")
    return lambda q, seed=None: q.mean() + noise * q.stddev()


def arguments(draws, axis, k):
    """Of the KL; and the conversion of the posterior."""
    converted = draws == "one" or "convert_to_tensor_fn" in draws
    kl = {} if axis in ("any", "not given") else {"test_points_reduce_axis": eval(axis)}
    if draws.startswith("none"):
        kl["use_exact_kl"] = True
    elif not converted:
        kl["test_points_fn"] = points(draws, k)
    return kl, points(draws, k) if converted else tfd.Distribution.mean


def prior():
    return tfd.MultivariateNormalDiag(tf.zeros(2))


def posterior(library, kind, convert, **options):
    """A compiled model whose only loss is the KL."""
    k, layers = library
    kl = getattr(layers, kind)(prior(), **options)
    regularizer = {"activity_regularizer": kl} if kind == KINDS[0] else {}
    model = k.Sequential(
        [
            k.layers.Dense(4, use_bias=False),
            layers.IndependentNormal(2, convert, **regularizer),
            *([] if regularizer else [kl]),
        ]
    )
    model.build((None, 4))
    model.layers[0].set_weights([KERNEL])
    model.compile(
        k.optimizers.SGD(0.0), loss=lambda y, p: tf.zeros_like(y), run_eagerly=True
    )
    return model


def total(model, x):
    """The KL, as `fit` of either library adds it to its loss; see the next tests."""
    model(x, training=True)
    return float(sum(model.losses))


@pytest.mark.parametrize(ARGUMENTS, SETTINGS)
def test_the_factor_of_the_page_gives_the_old_loss(kind, draws, axis, k, weight, rng):
    options, convert = arguments(draws, axis, k)
    old = posterior(OLD, kind, convert, **options)
    options.pop("test_points_reduce_axis", None)
    options.setdefault("use_exact_kl", False)
    names = {"k": k}
    new = posterior(NEW, kind, convert, weight=lambda: eval(weight, names), **options)
    for names["batch_size"] in BATCHES:
        x = rng.normal(size=(names["batch_size"], 4)).astype("float32")
        assert total(new, x) == pytest.approx(total(old, x), rel=2e-5)


@pytest.mark.parametrize("use_exact_kl", slow.except_for([None], [None, False]))
@pytest.mark.parametrize(ARGUMENTS, WITH_AXIS)
def test_messages_give_the_factor_of_the_page(
    kind, draws, axis, k, weight, use_exact_kl
):
    options, convert = arguments(draws, axis, k)
    if draws.startswith("k, by `convert"):  # as such code has it, without a seed
        draw = convert
        convert = lambda q: draw(q)  # noqa: E731
    for batch_size in BATCHES:
        x = np.ones((batch_size, 4), "float32")
        names = {"k": k, "batch_size": batch_size}
        message = ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = posterior(NEW, kind, convert, use_exact_kl=use_exact_kl, **options)
            caught.clear()
            try:
                total(model, x)
            except ValueError as error:
                message = str(error)
        if caught:
            assert not message
            message = str(caught[0].message)
            assert re.search(r"`test_points_reduce_axis=.*` changes nothing", message)
            found = re.search(r"the old weight by (.+)\.", message)[1]
        elif message:
            assert re.search(r"expects the axes.* Received: .* Leave it None", message)
            found = re.search(rf"by ([^,]+) for a `{kind}`", message)[1]
        else:
            found = "1"
        expected = eval(weight, names)
        assert eval(found, names) == pytest.approx(expected, rel=1e-5)


def test_the_error_for_both_axes():
    """That of a widely copied course."""
    kl = tv.KLDivergenceRegularizer(
        prior(),
        use_exact_kl=False,
        test_points_fn=lambda q: q.sample(4),
        test_points_reduce_axis=(0, 1),
    )
    message = (
        r"Leave it None to average all draws. For the loss of `tfp.layers`, multiply "
        r"the old weight by 2 / batch_size for a `KLDivergenceRegularizer`, or by 1 "
        r"for a `KLDivergenceAddLoss`."
    )
    with pytest.raises(ValueError, match=message):
        kl(tv.IndependentNormal(2)(tf.zeros([8, 4])))


def vae(library, kind, conversion, learned=None, **options):
    """Encoder and decoder, and the model of both."""
    k, layers = library
    kl = getattr(layers, kind)(learned or prior(), **options)
    regularizer = {"activity_regularizer": kl} if kind == KINDS[0] else {}
    encoder = k.Sequential(
        [
            k.layers.Dense(8, activation="relu"),
            k.layers.BatchNormalization(),
            k.layers.Dense(layers.IndependentNormal.params_size(2)),
            layers.IndependentNormal(2, conversion, **regularizer),
            *([] if regularizer else [kl]),
        ]
    )
    decoder = k.Sequential([k.layers.Dense(4), layers.IndependentBernoulli(4)])
    x = k.Input((4,))
    model = k.Model(x, decoder(encoder(x)))
    model.compile(
        k.optimizers.SGD(0.001), loss=lambda y, p: -p.log_prob(y), run_eagerly=True
    )
    return model


def assert_same(old, new, x, rtol=1e-4):
    for left, right in zip(old.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=1e-5)
    left, right = old(x).mean(), new(x).mean()
    np.testing.assert_allclose(left, right, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "exact", "weight"),
    [
        (KINDS[0], False, 2),
        (KINDS[0], True, 2),
        (KINDS[1], False, 1),
        (KINDS[1], True, 64),
    ],
)
def test_a_training_continues_from_a_file(kind, exact, weight, rng, tmp_path):
    """With the weight of the page, both libraries take the same steps."""
    x = rng.integers(0, 2, (64, 4)).astype("float32")
    draw = lambda q, seed=None: q.mean() + 0.7 * q.stddev()  # noqa: E731
    old = vae(OLD, kind, draw, use_exact_kl=exact)
    old.fit(x, x, batch_size=64, epochs=2, verbose=0)
    old.save_weights(tmp_path / "vae.weights.h5")
    new = vae(NEW, kind, draw, use_exact_kl=exact, weight=weight)
    new.load_weights(tmp_path / "vae.weights.h5")
    assert_same(old, new, x)
    start = old.get_weights()
    for model in (old, new):
        model.fit(x, x, batch_size=64, epochs=3, verbose=0)
    assert_same(old, new, x)
    assert np.abs(old.get_weights()[0] - start[0]).max() > 1e-4


@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5", "model.h5", "model.keras"])
def test_files_that_load(name, rng, tmp_path):
    x = rng.integers(0, 2, (64, 4)).astype("float32")
    old = vae(OLD, KINDS[0], "mean")
    old.train_on_batch(x, x)
    path = str(tmp_path / name)
    (old.save_weights if name.startswith("w") else old.save)(path)
    new = vae(NEW, KINDS[0], "mean")
    new.load_weights(path)
    assert_same(old, new, x)
    if name.startswith("model"):
        with pytest.raises((TypeError, ValueError), match=r"Unknown layer|not locate"):
            keras.models.load_model(path)


def test_files_that_do_not_load(rng, tmp_path):
    x = rng.integers(0, 2, (64, 4)).astype("float32")
    old, new = (vae(library, KINDS[0], "mean") for library in (OLD, NEW))
    old.train_on_batch(x, x)
    old.save_weights(tmp_path / "w")
    with pytest.raises(ValueError, match="File format not supported"):
        new.load_weights(tmp_path / "w")
    path = tf.train.Checkpoint(model=old).save(str(tmp_path / "checkpoint"))
    before = new.get_weights()
    status = tf.train.Checkpoint(model=new).restore(path)  # without an error
    for left, right in zip(before, new.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(AssertionError):
        status.assert_existing_objects_matched()
    status.expect_partial()
    again = vae(OLD, KINDS[0], "mean")
    again.load_weights(tmp_path / "w").expect_partial()
    new.set_weights(again.get_weights())
    assert_same(old, new, x)


@pytest.mark.parametrize("kind", KINDS)
def test_files_with_a_learned_prior(kind, tmp_path):
    x = np.eye(4, dtype="float32")
    size = tfp.layers.IndependentNormal.params_size(2)
    learned = tf_keras.Sequential(
        [tfp.layers.VariableLayer(size), tfp.layers.IndependentNormal(2)]
    )
    old = vae(OLD, kind, "mean", learned, use_exact_kl=True)
    old.train_on_batch(x, x)
    new = vae(NEW, kind, "mean", tv.LearnedNormal(2))
    new.build((None, 4))
    old.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(ValueError, match="could not be loaded"):
        new.load_weights(tmp_path / "w.weights.h5")
    old.save_weights(tmp_path / "w.h5")
    new.load_weights(tmp_path / "w.h5")
    assert_same(old, new, x)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_masks_are_respected(kind):
    """Steps of zeros are masked; `tfp.layers` counted them."""
    x = np.ones((2, 3, 2), "float32")
    x[0, 1:] = 0.0
    y = np.zeros((2, 3, 2), "float32")
    mask = x.any(-1)
    losses = []
    for k, layers in (OLD, NEW):
        kl = kind and getattr(layers, kind)(prior(), use_exact_kl=True)
        regularizer = {"activity_regularizer": kl} if kind == KINDS[0] else {}
        q = layers.IndependentNormal(2, "mean", **regularizer)
        parts = [kl] if kind == KINDS[1] else []
        model = k.Sequential([k.layers.Masking(), k.layers.Dense(4), q, *parts])
        model.build((None, 3, 2))
        model.layers[1].set_weights([KERNEL[:2], np.zeros(4, "float32")])
        loss = tv.NegativeLogLikelihood() if k is keras else lambda y, p: -p.log_prob(y)
        model.compile(k.optimizers.SGD(0.0), loss=loss, run_eagerly=True)
        losses.append(model.train_on_batch(x, y, return_dict=True)["loss"])
    p = tv.IndependentNormal.new(x @ KERNEL[:2], 2)
    nll, kl = (-p.log_prob(y)).numpy(), tfd.kl_divergence(p, prior()).numpy()
    assert losses[1] == pytest.approx(
        nll[mask].mean() + (kl[mask].mean() if kind else 0), rel=1e-5
    )
    assert losses[0] == pytest.approx(nll.mean() + (kl.sum() if kind else 0), rel=1e-5)


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_what_train_on_batch_and_evaluate_return(kind):
    x = np.eye(4, dtype="float32")
    layers = [keras.layers.Dense(4)]
    if kind == KINDS[0]:
        kl = tv.KLDivergenceRegularizer(prior())
        layers += [tv.IndependentNormal(2, activity_regularizer=kl)]
    else:
        layers += [tv.IndependentNormal(2)]
        layers += [tv.KLDivergenceAddLoss(prior())] if kind else []
    model = keras.Sequential(layers)
    model.compile("sgd", loss=tv.NegativeLogLikelihood())
    for step in (model.train_on_batch, model.evaluate):
        result = step(x, x[:, :2])
        assert isinstance(result, list) == (kind is not None)
        names = {"loss", "kl"} if kind else {"loss"}
        assert set(step(x, x[:, :2], return_dict=True)) == names


def test_all_names_of_tfp_layers_are_here():
    names = {name for name in dir(tfp.layers) if not name.startswith("_")}
    public = {n for n in names if not inspect.ismodule(getattr(tfp.layers, n))}
    assert len(public) >= 30
    assert {name for name in public if not hasattr(tv, name)} == set()
    assert hasattr(tv, "WeightNorm")  # tfp.layers.weight_norm.WeightNorm


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_for_variables_in_a_prior_names_the_priors(kind):
    law = tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0]))
    message = r"Received: .*tf\.Variable.*`tv\.LearnedNormal\(d\)` or `tv\.MixturePrior"
    with pytest.raises(ValueError, match=message):
        getattr(tv, kind)(law)
