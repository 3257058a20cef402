"""What a VAE answers: shapes, identities, seeds, and errors."""

import functools

import keras
import linear_gaussian
import models
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp
import vaes

import tfp_vae as tv
from tfp_vae.engine import data
from tfp_vae.engine.progress import LongBar
from tfp_vae.latents import center, path, tempered
from tfp_vae.models import estimates, inference, pieces
from tfp_vae.models.pieces import DistributionInPieces, rows_at_once

tfd = tfp.distributions

N = 70


@pytest.mark.parametrize("kind", slow.except_for(vaes.OFTEN, vaes.KINDS))
def test_every_kind_answers(kind):
    model = vaes.KINDS[kind]()
    x, y = vaes.inputs(kind, 6)
    assert model.encode(x, y).batch_shape == (6,)
    log_prob = model.log_prob(x, 30, y=y, seed=1)
    assert log_prob.shape == model.elbo(x, y=y).shape == (6,)
    # The bound of 3000 draws is above that of one, on average over examples and draws.
    assert model.log_prob(x, 300, y=y).mean() > model.elbo(x, 300, y=y).mean() - 0.1
    for images in (
        model.reconstruct(x, y),
        model.predict(x, y=y, verbose=0),
        model.generate(6, y),
    ):
        assert isinstance(images, np.ndarray)
        assert images.shape == (6, *models.PIXELS)
    halves = [
        keras.tree.map_structure(lambda a, s=s: a[s], x)
        for s in (slice(3), slice(3, 6))
    ]
    some = None if y is None else y[:3]
    assert model.interpolate(*halves, 4, y=some).shape == (3, 4, *models.PIXELS)
    moved = model.traverse(halves[0], dimensions=[0, 2], values=[-0.5, 0.5], y=some)
    assert moved.shape == (3, 2, 2, *models.PIXELS)
    assert model.decode(model.encode(x, y), y).batch_shape == (6,)


def one_prior_for_all_conditions():
    shapes = ((8,), (vaes.CLASSES,), (2,))
    x, y, z = (keras.Input(shape) for shape in shapes)
    both, given = (keras.layers.Concatenate()([a, y]) for a in (x, z))
    q = keras.Model([x, y], tv.IndependentNormal(2)(keras.layers.Dense(4)(both)))
    p = keras.Model([z, y], tv.IndependentBernoulli(8)(keras.layers.Dense(8)(given)))
    return tv.VAE(q, p, tv.StandardNormal(2), conditional=True)


@pytest.mark.parametrize("make", [one_prior_for_all_conditions, vaes.conditional])
def test_traversals_of_several_conditions_from_the_center_of_the_prior(make):
    model, conditions = make(), vaes.labels(3)
    found = model.traverse(y=conditions, values=[-1.0, 1.0])
    assert found.shape[0] == 3
    for i in range(3):
        alone = model.traverse(y=conditions[i : i + 1], values=[-1.0, 1.0])
        np.testing.assert_allclose(found[i : i + 1], alone, atol=1e-6)
    assert abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("method", ["elbo", "log_prob"])
@pytest.mark.parametrize("layer", [tv.MultivariateNormalTriL, tv.IndependentGamma])
def test_a_seed_gives_the_same_draws_when_many_steps_pay_for_xla(method, layer, rng):
    prior: object = tv.MixturePrior(2, num_components=2)
    if layer is tv.IndependentGamma:
        prior = tfd.Independent(tfd.Gamma([2.0, 2.0], 1.0), 1)
    q = keras.Sequential([keras.Input((4,)), keras.layers.Dense(layer.params_size(2))])
    q.add(layer(2))
    p = [keras.Input((2,)), keras.layers.Dense(4), tv.IndependentBernoulli(4)]
    model = tv.VAE(q, keras.Sequential(p), prior)
    x = (rng.uniform(size=(8, 4)) > 0.5).astype("float32")
    ask = functools.partial(getattr(model, method), x, 300, batch_size=8, verbose=0)
    first, second, third = (ask(seed=0) for _ in range(3))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    assert abs(ask() - ask()).max() > 0


def test_log_prob_of_pieces_is_that_of_the_whole(rng):
    x = linear_gaussian.data(11, rng)
    model = linear_gaussian.vae(linear_gaussian.exact_encoder())
    truth = linear_gaussian.log_evidence(x)
    for batch_size in (1, 3, 11, 100):
        found = model.log_prob(x, 7, batch_size=batch_size)
        np.testing.assert_allclose(found, truth, atol=2e-5)


def test_long_sums_are_cut_into_blocks(rng, monkeypatch):
    monkeypatch.setattr(estimates, "_WORK", 16)
    x = linear_gaussian.data(3, rng)
    model = linear_gaussian.vae(linear_gaussian.exact_encoder())
    truth = linear_gaussian.log_evidence(x)
    np.testing.assert_allclose(model.log_prob(x, 23), truth, atol=2e-5)
    rough = linear_gaussian.vae()
    whole = np.mean([rough.elbo(x, seed=i) for i in range(200)], axis=0)
    # Standard errors of up to 0.3 on both sides.
    np.testing.assert_allclose(rough.elbo(x, 200), whole, atol=1.8)


def assert_many_are_as_few(model, x, y, rtol=1e-4):
    """Compares the posterior of all rows with those of 8 at a time."""
    many = model.encode(x, y)
    count = many.batch_shape[0]
    z = many.sample(seed=1)
    found = []
    for i in range(0, count, 8):
        few = data.mapped(lambda a, i=i: a[i : i + 8], (x, y))
        q = model.encode(*few)
        assert q.dtype == many.dtype
        found.append(q.log_prob(z[i : i + 8]))
    assert sum(map(len, found)) == count
    np.testing.assert_allclose(many.log_prob(z), np.concatenate(found), rtol=rtol)


@pytest.fixture
def eager_functions():
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def eight_rows(monkeypatch):
    """Rows that go through the networks together, so that N are many."""
    monkeypatch.setattr(inference, "ROWS", 8)


# 70 rows in one call, in pieces of 8 and one of 6, and in as many calls.
@pytest.mark.parametrize("handed", [2**25, 1])
@pytest.mark.parametrize("kind", ["plain", "conditional", "dictionary", "missing"])
def test_the_posterior_of_many_rows_is_that_of_few(
    kind, handed, eight_rows, monkeypatch
):
    monkeypatch.setattr(pieces, "_HANDED_BYTES", handed)
    model = vaes.KINDS[kind]()
    assert_many_are_as_few(model, *vaes.inputs(kind, N))
    assert len(model.weights) == len(vaes.KINDS[kind]().weights)


# Calls of 24 rows, of which the last has one or all.
@pytest.mark.parametrize("n", [25, 48])
def test_the_last_call_for_the_posterior_may_be_short(n, eight_rows, monkeypatch):
    monkeypatch.setattr(pieces, "_HANDED_BYTES", 3 * 8 * 64 * 4)
    assert_many_are_as_few(vaes.vae(), *vaes.inputs("plain", n))


def test_the_posterior_of_many_rows_has_the_dtype_of_few(eight_rows):
    keras.config.set_dtype_policy("mixed_bfloat16")
    # Keras takes the output of a Lambda for one of the policy's dtype.
    cast = keras.layers.Lambda(lambda h: tf.cast(h, "float32"))
    for between in ([], [cast]):
        q = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(3, 3, strides=2),
                keras.layers.Flatten(),
                keras.layers.Dense(tv.IndependentNormal.params_size(vaes.LATENT)),
                *between,
                tv.IndependentNormal(vaes.LATENT),
            ]
        )
        assert_many_are_as_few(vaes.vae(q=q), models.digits(N), None, rtol=5e-2)


def test_the_posterior_of_many_rows_in_eager_functions(eight_rows, eager_functions):
    assert_many_are_as_few(vaes.vae(), models.digits(N), None)


def test_pieces_have_the_rows_that_were_asked():
    def lengths(x):
        rows = tf.fill([tf.size(x)], tf.cast(tf.size(x), tf.float32))
        return tfd.Normal(rows, 1.0)

    found = DistributionInPieces(lengths, 8, tf.TensorSpec([None]))(tf.zeros(N))
    np.testing.assert_array_equal(found.mean(), [8] * 64 + [6] * 6)


class _Opaque(tfd.Distribution):
    """A distribution that TFP cannot take apart."""

    def __init__(self, x):
        self.x = x
        super().__init__(
            tf.float32,
            tfd.NOT_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
        )


def test_what_cannot_be_taken_apart_is_computed_at_once(monkeypatch):
    in_pieces = DistributionInPieces(_Opaque, 8, tf.TensorSpec([None]))
    assert not in_pieces.can_take_apart
    model = vaes.vae()
    monkeypatch.setattr(type(model), "posterior", lambda self, x: _Opaque(x))
    x = models.digits(2 * pieces.ROWS)
    np.testing.assert_array_equal(model.encode(x).x, x)


def test_wide_layers_are_given_fewer_rows_at_once():
    deep = keras.Sequential([keras.layers.Dense(2**15), keras.layers.Dense(3)])
    shared = keras.layers.Dense(8)
    x = keras.Input((8,))
    network = keras.Model(x, [shared(shared(x)), deep(x)])
    assert rows_at_once(network, 1024) == 2**22 // 2**15
    assert rows_at_once(network, 64) == 64
    huge = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2**23)])
    assert rows_at_once(huge, 1024) == 1

    class Block(keras.layers.Layer):
        layers = 4

    assert rows_at_once(keras.Sequential([keras.Input((8,)), Block()]), 64) == 64
    images = keras.Input((None, None, 3))  # of any size: nothing is known
    any_size = keras.Model(images, keras.layers.Conv2D(4, 3)(images))
    assert rows_at_once(any_size, 1024) == 1024


def test_a_wide_decoder_gives_the_same_log_prob(monkeypatch):
    x = models.digits(40)
    model = vaes.vae()
    narrow = model.log_prob(x, 2000, seed=1, verbose=0)
    monkeypatch.setattr(pieces, "_WIDTH", 2**9)
    wide = model.log_prob(x, 2000, seed=1, verbose=0)
    assert not np.array_equal(wide, narrow)  # of other draws
    # One of them has a standard deviation of about 0.2 between two estimates.
    assert abs(np.mean(wide - narrow)) < 0.1
    assert np.std(wide - narrow) < 0.5


def test_seeds_make_answers_reproducible():
    model, x = vaes.vae(), models.digits(5)
    for answer in (
        lambda seed: model.log_prob(x, 10, seed=seed),
        lambda seed: model.elbo(x, 3, seed=seed),
        lambda seed: model.generate(5, seed=seed),
        lambda seed: model.generate(5, seed=seed, statistics="sample"),
    ):
        np.testing.assert_array_equal(answer(3), answer(3))
        assert np.abs(answer(3) - answer(4)).max() > 0
        assert np.abs(answer(None) - answer(None)).max() > 0


def test_deterministic_answers_leave_training_as_it_was():
    def trained(look):
        keras.utils.set_random_seed(3)
        model, x = vaes.vae(), models.digits(32)
        model.fit(x, verbose=0)
        if look:
            model.predict(x, verbose=0)
            model.reconstruct(x)
            model.interpolate(x[:2], x[2:4])
            model.traverse(x[:2])
            model.encode(x), model.decode(np.zeros((2, 3), "float32"))
            model.generate(2, seed=1)
            model.log_prob(x, 5, seed=1)
        return model.fit(x, verbose=0).history

    assert trained(look=True) == trained(look=False)


def test_xla_gives_the_estimate_of_the_graph(rng):
    x = linear_gaussian.data(9, rng)
    model = linear_gaussian.vae(linear_gaussian.exact_encoder())
    model.compile("sgd", jit_compile=True)
    truth = linear_gaussian.log_evidence(x)
    np.testing.assert_allclose(model.log_prob(x, 20), truth, atol=2e-5)


def test_datasets_are_taken_whole(rng):
    x = linear_gaussian.data(9, rng)
    model = linear_gaussian.vae(linear_gaussian.exact_encoder())
    batches = tf.data.Dataset.from_tensor_slices(x).batch(4)
    truth = linear_gaussian.log_evidence(x)
    np.testing.assert_allclose(model.log_prob(batches, 5), truth, atol=2e-5)
    conditional = vaes.conditional()
    y = vaes.labels(9)
    images = models.digits(9)
    pairs = tf.data.Dataset.from_tensor_slices((images, y)).batch(4)
    np.testing.assert_allclose(
        conditional.elbo(pairs, seed=1),
        conditional.elbo(images, y=y, seed=1),
        rtol=1e-5,
    )
    assert conditional.predict(pairs, verbose=0).shape == images.shape


def test_what_is_described_in_place_of_x_is_so_in_every_answer(rng):
    x = models.digits(9)
    noisy = np.clip(x + 0.2 * rng.normal(size=x.shape), 0, 1).astype("float32")
    model = vaes.vae()
    q = model.encode(noisy)
    kl = 0.5 * (q.mean() ** 2 + q.variance() - 1 - np.log(q.variance())).numpy().sum(1)
    draws = q.sample(4000, seed=1).numpy().reshape(-1, models.LATENT)
    nll = -model.decode(draws).log_prob(np.tile(x, (4000, 1, 1, 1))).numpy()
    expected = -nll.reshape(4000, 9).mean(0) - kl
    error = 5 * nll.reshape(4000, 9).std(0) / np.sqrt(400)
    pairs = tf.data.Dataset.from_tensor_slices((noisy, x)).batch(4)
    for found in (model.elbo(noisy, 400, y=x), model.elbo(pairs, 400)):
        assert (np.abs(found - expected) < error).all()
    assert (model.log_prob(pairs, 400) > expected - error).all()
    labels = tf.data.Dataset.from_tensor_slices((x, np.arange(9))).batch(4)
    with pytest.raises(ValueError, match="values of shape"):
        model.log_prob(labels, 5)


def test_predict_gives_the_statistics_that_were_asked_for():
    model, x = vaes.vae(), models.digits(40)
    p = model.decode(model.encode(x).mean())
    mean = model.predict(x, verbose=0)
    np.testing.assert_allclose(mean, p.mean(), atol=1e-5)
    np.testing.assert_array_equal(mean, model.predict(x, verbose=0))
    names = ["mean", "stddev", "sample", "params"]
    found = model.predict(x, batch_size=16, verbose=0, statistics=names)
    assert sorted(found) == sorted(names)
    np.testing.assert_allclose(found["stddev"], p.stddev(), atol=1e-5)
    np.testing.assert_allclose(
        found["params"]["logits"], p.distribution.logits, atol=1e-4
    )
    assert set(np.unique(found["sample"])) == {0, 1}
    again = model.predict(x, verbose=0, statistics="sample")
    assert (again != found["sample"]).any()
    np.testing.assert_array_equal(model.predict(x, verbose=0), mean)
    np.testing.assert_allclose(model.predict_on_batch(x), mean, atol=1e-6)


def with_likelihood(*layers):
    p = keras.Sequential([keras.Input((3,)), *layers])
    q = [keras.Input((4,)), keras.layers.Dense(6), tv.IndependentNormal(3)]
    return vaes.vae(q=keras.Sequential(q), p=p)


def test_laws_without_a_mean_answer_with_their_mode():
    def grades(locations):
        steps = tfd.OrderedLogistic(cutpoints=[-1.0, 1.0], loc=locations)
        return tfd.Independent(steps, 1)

    law = tv.DistributionLambda(grades, convert_to_tensor_fn="mode")
    model = with_likelihood(keras.layers.Dense(4), law)
    x = np.arange(20).reshape(5, 4) % 3
    model.fit(x, verbose=0)
    found = model.predict(x, verbose=0)
    np.testing.assert_array_equal(found, model.decode(model.encode(x)).mode())
    with pytest.raises((ValueError, NotImplementedError), match="mean"):
        model.predict(x, verbose=0, statistics="mean")


def test_laws_without_mean_and_mode_answer_with_their_center(rng):
    flow = tv.Flow("maf", num_transforms=1, hidden_units=(8,))
    law = [tv.IndependentNormal(4), flow]
    model = with_likelihood(keras.layers.Dense(8), *law)
    x = rng.normal(size=(5, 4)).astype("float32")
    p = model.decode(model.encode(x))
    expected = p.bijector.forward(p.distribution.mean())
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)


def test_shared_parameters_are_repeated_for_each_example():
    model = linear_gaussian.vae()
    found = model.predict(np.zeros((7, 4), "float32"), verbose=0, statistics="params")
    assert {name: array.shape for name, array in found.items()} == {
        "loc": (7, 4),
        "scale": (7, 4),
    }
    np.testing.assert_allclose(found["scale"], linear_gaussian.SCALE)


def test_samples_follow_the_prior_and_the_likelihood():
    model = linear_gaussian.vae()
    x = model.generate(20_000, seed=1, statistics="sample")
    w = linear_gaussian.W
    covariance = w @ w.T + linear_gaussian.SCALE**2 * np.eye(len(w))
    error = 5 * np.sqrt(2 / 20_000) * covariance.max()
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=error)
    np.testing.assert_allclose(x.mean(0), linear_gaussian.B, atol=error)


@pytest.mark.parametrize(
    "prior",
    [
        lambda: tfd.Independent(tfd.Normal([1.0, -1.0], [2.0, 3.0]), 1),
        lambda: tfd.Sample(tfd.Laplace(1.0, 2.0), 2),
        lambda: tfd.MultivariateNormalTriL([1.0, 2.0], [[1.0, 0.0], [0.5, 2.0]]),
        lambda: tfd.MultivariateNormalDiag([1.0, 2.0], [0.5, 2.0]),
    ],
)
def test_a_temperature_multiplies_the_scale(prior):
    law = prior()
    cool = tempered(law, 0.5)
    np.testing.assert_allclose(cool.mean(), law.mean(), rtol=1e-5)
    np.testing.assert_allclose(cool.stddev(), 0.5 * law.stddev(), rtol=1e-5)
    assert tempered(law, 1.0) is law


def test_a_temperature_of_any_normal_multiplies_its_covariance():
    factor = tf.constant([[1.0, 0.9], [0.9, 1.0]])
    for part in (
        tfd.MultivariateNormalLinearOperator(
            [1.0, 2.0], tf.linalg.LinearOperatorFullMatrix(factor)
        ),
        tfd.MultivariateNormalDiagPlusLowRank([1.0, 2.0], [1.0, 1.0], [[1.0], [1.0]]),
        tfd.MultivariateNormalTriL([1.0, 2.0], tf.linalg.cholesky(factor)),
    ):
        found = tempered(part, 0.5)
        np.testing.assert_allclose(found.mean(), [1.0, 2.0])
        exact = 0.25 * part.covariance()
        np.testing.assert_allclose(found.covariance(), exact, rtol=1e-5)


def test_a_temperature_of_mixtures_and_flows_is_that_of_their_parts():
    mixture = tv.MixturePrior(2, num_components=3)()
    cool = tempered(mixture, 1e-4).sample(100, seed=1)
    centers = mixture.components_distribution.mean().numpy()
    away = np.linalg.norm(cool.numpy()[:, None] - centers, axis=-1).min(1)
    assert away.max() < 1e-2
    flow = tv.FlowPrior(2, num_transforms=1, hidden_units=(4,))
    spread = [tempered(flow(), t).sample(500, seed=1).numpy().std() for t in (1, 0.1)]
    assert spread[1] < 0.5 * spread[0]


def test_paths_are_straight_in_the_plane_and_circles_on_the_sphere(rng):
    a, b = rng.normal(size=(2, 5, 4)).astype("float32")
    straight = path(tf.constant(a), tf.constant(b), 5, sphere=False)
    np.testing.assert_allclose(straight[:, 1], 0.75 * a + 0.25 * b, atol=1e-6)
    a, b = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b))
    b[0], b[1] = -a[0], a[1]
    round_ = path(tf.constant(a), tf.constant(b), 9, sphere=True).numpy()
    np.testing.assert_allclose(np.linalg.norm(round_, axis=-1), 1, atol=1e-5)
    np.testing.assert_allclose(round_[:, 0], a, atol=1e-5)
    np.testing.assert_allclose(round_[:, -1], b, atol=1e-5)
    steps = np.arccos(np.clip((round_[:, 1:] * round_[:, :-1]).sum(-1), -1, 1))
    angle = np.arccos(np.clip((a * b).sum(-1), -1, 1))
    np.testing.assert_allclose(steps, angle[:, None] / 8 * np.ones(8), atol=2e-3)


def test_the_center_lies_where_the_law_does():
    on = center(tv.distributions.PowerSpherical([0.6, 0.8], 3.0))
    np.testing.assert_allclose(on, [0.6, 0.8], atol=1e-6)
    assert center(tfd.OneHotCategorical([0.0, 3.0])).numpy().tolist() == [0, 1]
    moved = tfd.TransformedDistribution(
        tfd.Normal([1.0], 1.0), tfp.bijectors.Exp(), name="exp"
    )
    np.testing.assert_allclose(center(moved), np.exp([1.0]), rtol=1e-5)
    product = tfd.Blockwise(
        [
            tfd.MultivariateNormalDiag([3.0]),
            tv.distributions.PowerSpherical([0.6, 0.8], 3.0),
        ]
    )
    np.testing.assert_allclose(center(product), [3, 0.6, 0.8], atol=1e-6)


def test_traversals_move_one_coordinate():
    model, x = vaes.vae(), models.digits(2)
    z = model.encode(x).mean().numpy()
    moved = model.traverse(x, dimensions=[1], values=[2.5])
    z[:, 1] = 2.5
    np.testing.assert_allclose(moved[:, 0, 0], model.decode(z).mean(), atol=1e-5)
    assert model.traverse().shape == (1, 3, 7, *models.PIXELS)


def test_traversals_stay_on_the_sphere():
    from tfp_vae.models.inference import _moved

    z = tf.math.l2_normalize(tf.constant([[1.0, 2.0, 3.0]]), -1)
    moved = _moved(z, None, None, sphere=True)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(moved[0, 1, :, 1], np.linspace(-0.9, 0.9, 7), atol=1e-6)


def test_long_runs_show_a_bar(capsys):
    model, x = vaes.vae(), models.digits(5)
    model.log_prob(x, 5, verbose=0)
    assert capsys.readouterr().out == ""
    model.log_prob(x, 5, verbose="auto")
    assert capsys.readouterr().out == ""
    model.log_prob(x, 5, verbose=1)
    assert "1/1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m, x: m.log_prob(x, 0), r"`log_prob` expects `num_samples`.*least 1"),
        (lambda m, x: m.elbo(x, -1), "`elbo` expects `num_samples`"),
        (lambda m, x: m.log_prob(x[:0]), "at least one example"),
        (lambda m, x: m.log_prob(list("abc")), "arrays of real numbers"),
        (lambda m, x: m.generate(0), "`generate` expects `n`"),
        (lambda m, x: m.generate(3, temperature=0), "`temperature`"),
        (lambda m, x: m.generate(3, y=x), "expects no y"),
        (lambda m, x: m.predict(x, statistics="median"), "`predict` expects `statis"),
        (lambda m, x: m.interpolate(x, x, 1), "`interpolate` expects `num_steps`"),
        (lambda m, x: m.traverse(x, dimensions=[3]), "dimensions from 0 to 2"),
        (lambda m, x: m.traverse(x, values=[]), "a list of finite numbers"),
        (lambda m, x: m.interpolate(x[:2], x[:3]), "same number of examples"),
        (lambda m, x: m.log_prob(x * 7), "IndependentBernoulli.* can draw"),
        (lambda m, x: m.elbo(x * np.nan), "256 NaN"),
        (lambda m, x: m.encode(x * np.nan), "256 NaN"),
        (lambda m, x: m.reconstruct(x + np.inf), "256 NaN or infinite"),
        (lambda m, x: m.elbo(x, y=x[:3]), "a row for each x.* 3 rows for 4"),
        (
            lambda m, x: m.reconstruct(tf.data.Dataset.from_tensors(x), x),
            r"pairs \(x, y\)",
        ),
        (lambda m, x: m.log_prob(x[0]), r"x of shape \(n, \*\(8, 8, 1\)\).*x\[None"),
        (lambda m, x: m.encode(x[..., 0]), r"x of shape.*\[\.\.\., None\]"),
        (lambda m, x: m.reconstruct(x.reshape(4, 64)), "x of shape"),
    ],
)
def test_questions_that_cannot_be_are_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(vaes.vae(), models.digits(4))


def test_grey_pixels_are_named_where_numbers_are_read():
    with pytest.warns(UserWarning, match="IndependentContinuousBernoulli"):
        vaes.vae().log_prob(0.5 * models.digits(4), 5)


def test_conditional_models_need_conditions():
    model, x = vaes.conditional(), models.digits(4)
    for ask in (model.encode, model.log_prob, model.reconstruct, model.predict):
        with pytest.raises(ValueError, match=r"expects the condition y.*Give `y=`"):
            ask(x)
    with pytest.raises(ValueError, match="expects the condition y"):
        model.generate(3)
    for y in (vaes.labels(4), vaes.labels(1), vaes.labels(1)[0], np.float32(1)):
        for ask in (
            lambda y=y: model.generate(3, y=y),
            lambda y=y: model.log_prob(x[:3], 5, y=y),
            lambda y=y: model.decode(np.zeros((3, 3), "float32"), y),
        ):
            with pytest.raises(
                ValueError, match=r"(a row|one condition) for each example.*np\.repeat"
            ):
                ask()


def test_a_sphere_has_no_temperature():
    with pytest.raises(ValueError, match=r"`temperature` other than 1.*Spherical"):
        vaes.spherical().generate(2, temperature=0.5)


def test_a_model_without_weights_has_no_answers_yet():
    q = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(6), tv.IndependentNormal(3)]
    )
    p = keras.Sequential(
        [keras.layers.Dense(64), tv.IndependentBernoulli(models.PIXELS)]
    )
    model = vaes.vae(q=q, p=p)
    for ask in (
        lambda: model.generate(2),
        lambda: model.log_prob(models.digits(4)),
        lambda: model.decode(np.zeros((2, 3))),
        model.traverse,
    ):
        with pytest.raises(ValueError, match="expects a model that has weights"):
            ask()
    model.fit(models.digits(8), verbose=0)
    assert model.generate(2).shape == (2, *models.PIXELS)


def test_a_bar_comes_where_a_run_is_long_and_something_is_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    bar, shown = LongBar(3, "auto"), []
    for now[0] in (1.0, 3.0, 4.0):
        bar.step()
        shown.append(capsys.readouterr().out)
    assert not shown[0]
    assert "2/3" in shown[1]
    assert "3/3" in shown[2]
    for verbose, text in (("auto", False), (1, True), (0, False)):
        bar = LongBar(1, verbose)
        now[0] += 3.0
        bar.step()
        assert ("1/1" in capsys.readouterr().out) == text


@pytest.mark.parametrize("dtype", ["float64", "int16"])
def test_many_rows_of_a_tensor_of_any_dtype_are_encoded(dtype, monkeypatch):
    monkeypatch.setattr(inference, "ROWS", 8)
    model, x = vaes.vae(), models.digits(20)
    found = model.encode(tf.constant(x, dtype)).mean()
    np.testing.assert_allclose(found, model.encode(x).mean(), rtol=1e-6)


def test_conditions_are_read_as_x_is():
    sparse = pytest.importorskip("scipy.sparse")
    model = vaes.KINDS["conditional"]()
    x, y = vaes.inputs("conditional", 6)
    expected = model.predict(x, y=y, verbose=0)
    for given in (sparse.csr_matrix(y), y.astype("float64"), y.tolist()):
        np.testing.assert_allclose(model.predict(x, y=given, verbose=0), expected)


def test_decode_in_a_function_of_the_user(rng):
    model = vaes.vae()
    z = rng.normal(size=(5, vaes.LATENT)).astype("float32")

    @tf.function(input_signature=[tf.TensorSpec([None, vaes.LATENT])])
    def means(z):
        return model.decode(z).mean()

    np.testing.assert_allclose(means(z), model.decode(z).mean(), rtol=1e-5)


def test_traverse_takes_values_of_every_kind(rng):
    model = vaes.vae()
    x = vaes.inputs("plain", 2)[0]
    values = [-3.0, 0.0, 3.0]
    want = model.traverse(x, values=values)
    for given in (np.array(values), tf.linspace(-3.0, 3.0, 3), tuple(values)):
        np.testing.assert_array_equal(model.traverse(x, values=given), want)
