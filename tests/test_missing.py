"""`VAE(missing=...)`: which entries are left out, and which marks cannot work."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import vaes

import tfp_vae as tv
from tfp_vae.models.missing import check_mark

tfd = tfp.distributions


def linear(p=None, width=3, **options):
    """A VAE of a table whose columns have the likelihood p."""
    q = keras.Sequential(
        [keras.Input((width,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
    )
    p = p or tv.IndependentNormal(width)
    p = keras.Sequential([keras.Input((2,)), keras.layers.Dense(p.parameters_width), p])
    return vaes.vae(q=q, p=p, prior=tv.StandardNormal(2), **options)


@pytest.mark.parametrize(
    ("mark", "dtype"),
    [
        (-1, "uint8"),
        (-1, "uint16"),
        (300, "uint8"),
        (200, "int8"),
        (0.5, "int32"),
        (-1, "bool"),
        (2**40, "int32"),
        (16_777_217, "float32"),
        (16_777_217, "float64"),
        (0.1, "float16"),
        (1e6, "float16"),
    ],
)
def test_a_mark_that_the_dtype_cannot_hold_is_an_error(mark, dtype):
    with pytest.raises(ValueError, match=rf"can be {mark}.*{dtype}"):
        check_mark(mark, dtype)
    with pytest.raises(ValueError, match=rf"can be {mark}.*{dtype}"):
        linear(missing=mark).fit(np.ones((8, 3), dtype), verbose=0)


@pytest.mark.parametrize("call", ["evaluate", "encode", "log_prob", "elbo"])
def test_other_methods_refuse_such_a_mark_too(call):
    model = linear(missing=-1)
    with pytest.raises(ValueError, match=r"can be -1.*uint8"):
        getattr(model, call)(np.ones((8, 3), "uint8"))


@pytest.mark.parametrize(
    ("mark", "dtype"),
    [
        (-1, "int8"),
        (-1, "int64"),
        (255, "uint8"),
        (65_535, "uint16"),
        (0.1, "float32"),
        (0.1, "float64"),
        (-999, "float16"),
        (np.float32(-9.5), "float64"),
        (np.int64(-9), "int16"),
        ("nan", "int32"),
    ],
)
def test_marked_entries_do_not_count(mark, dtype, rng):
    """The log-density of what is there, of a factor for each column."""
    model = linear(missing=mark)
    x = rng.integers(0, 5, size=(6, 3)).astype(dtype)
    if mark != "nan":
        x[0, 0] = x[3, 2] = x[4, 1] = mark
    draws = model.draw_and_decode(
        model.posterior(tf.constant(x, "float32")), None, 1, [1, 2]
    )
    found = model.terms(draws, tf.constant(x)).log_likelihood[0].numpy()
    p = draws.likelihood.distribution
    each = p.log_prob(x.astype("float32")).numpy()
    each[[0, 3, 4], [0, 2, 1]] *= mark == "nan"
    np.testing.assert_allclose(found, each.sum(-1), rtol=1e-5)
    assert np.isfinite(model.fit(x, verbose=0).history["loss"]).all()


def test_a_value_that_rounds_to_the_mark_is_missing_on_host_and_device():
    model = linear(missing=0.1)
    x = np.full((4, 3), 0.1 + 1e-12)
    x[:, 2] = 1.0
    z = model.draw_and_decode(
        model.posterior(tf.constant(x, "float32")), None, 1, [1, 2]
    )
    one = z.likelihood.distribution.log_prob(np.float32([[0.0, 0.0, 1.0]]))[:, 2]
    for values in (x, x.astype("float32")):
        terms = model.terms(z, tf.constant(values, "float32"))
        np.testing.assert_allclose(terms.log_likelihood[0], one, rtol=1e-5)
    assert np.isfinite(model.log_prob(x)).all()


MASKING = [(-1, -1.0), (2, 2.0), ("nan", float("nan"))]


@pytest.mark.parametrize(("missing", "masked"), MASKING, ids=str)
def test_a_masking_layer_that_waits_for_the_mark_is_an_error(missing, masked):
    q = keras.Sequential(
        [
            keras.Input((5, 1)),
            keras.layers.Masking(masked),
            keras.layers.GRU(4),
            tv.IndependentNormal(2),
        ]
    )
    p = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(10), tv.IndependentNormal((5, 1))]
    )
    with pytest.raises(ValueError, match=r"sees 0.*mask_value=0\.0"):
        tv.VAE(q, p, tv.StandardNormal(2), missing=missing)


def test_masking_and_missing_work_together(rng):
    """Steps whose entries are missing are masked steps, which the GRU skips."""
    q = keras.Sequential(
        [
            keras.Input((5, 1)),
            keras.layers.Masking(0.0),
            keras.layers.GRU(4),
            tv.IndependentNormal(2),
        ]
    )
    p = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(10), tv.IndependentNormal((5, 1))]
    )
    model = vaes.vae(q=q, p=p, prior=tv.StandardNormal(2), missing="nan")
    x = rng.normal(size=(4, 5, 1)).astype("float32")
    gone = x.copy()
    gone[:, 3:] = np.nan
    short = q(x[:, :3])
    np.testing.assert_allclose(model.encode(gone).mean(), short.mean(), atol=1e-6)
    found = model.evaluate(gone, verbose=0, return_dict=True)
    assert np.isfinite(found["loss"])


def bad(shape, value):
    array = np.ones(shape, "float32")
    array.flat[0] = value
    return array


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("missing", [None, "nan", -1])
def test_conditions_and_weights_that_are_not_finite_are_named(missing, value):
    model = vaes.conditional(missing=missing)
    x, y = np.ones((8, *vaes.PIXELS), "float32"), vaes.labels(8)
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"1 NaN or infinite of 32 in y"):
            call(x, bad(y.shape, value), verbose=0)
        with pytest.raises(ValueError, match=r"1 NaN or infinite of 8 in sample_w"):
            call(x, y, sample_weight=bad(8, value), verbose=0)
    condition = bad(y.shape, value)
    for call in (
        lambda: model.encode(x, condition),
        lambda: model.log_prob(x, y=condition),
        lambda: model.elbo(x, y=condition),
        lambda: model.generate(8, y=condition),
        lambda: model.decode(np.zeros((8, vaes.LATENT), "float32"), y=condition),
    ):
        with pytest.raises(ValueError, match=r"1 NaN or infinite of 32 in y"):
            call()


def test_only_the_target_of_a_dictionary_may_be_missing():
    model = vaes.of_a_dictionary(target="image", missing="nan")
    image = np.ones((8, *vaes.PIXELS), "float32")
    image[0, 0] = np.nan
    assert np.isfinite(
        model.fit({"image": image, "label": vaes.labels(8)}, verbose=0).history["loss"]
    ).all()
    with pytest.raises(ValueError, match="1 NaN or infinite of 32 in x"):
        model.fit({"image": image, "label": bad((8, 4), np.nan)}, verbose=0)


def test_targets_besides_x_may_be_missing_too(rng):
    model = linear(missing="nan")
    x = rng.normal(size=(8, 3)).astype("float32")
    y = x.copy()
    x[0, 0] = y[1, 1] = np.nan
    assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()
    y[2, 2] = np.inf
    with pytest.raises(ValueError, match="1 NaN or infinite of 24 in the target"):
        model.fit(x, y, verbose=0)


BLOCKS = [
    tv.IndependentNormal(2),
    tv.IndependentBernoulli(1),
    tv.IndependentCategorical(1, num_categories=3),
    tv.IndependentPoisson(1),
]


def table(rng, n=8):
    return np.column_stack(
        [
            rng.normal(size=(n, 2)),
            rng.integers(0, 2, n),
            rng.integers(0, 3, n),
            rng.integers(0, 6, n),
        ]
    ).astype("float32")


def test_blocks_leave_out_their_own_part(rng):
    """The sum over the blocks of the log-densities of what is there."""
    model = linear(tv.Blockwise(BLOCKS), width=5, missing="nan")
    x = table(rng)
    gaps = rng.uniform(size=x.shape) < 0.3
    draws = model.draw_and_decode(model.posterior(tf.constant(x)), None, 1, [1, 2])
    normal, binary, category, count = (
        block.distribution for block in draws.likelihood.distributions
    )
    each = np.concatenate(
        [
            normal.log_prob(x[:, :2]),
            binary.log_prob(x[:, 2:3]),
            category.log_prob(x[:, 3:4].astype("int32")),
            count.log_prob(x[:, 4:]),
        ],
        axis=-1,
    )
    given = np.where(gaps, np.nan, x).astype("float32")
    found = model.terms(draws, tf.constant(given)).log_likelihood[0]
    np.testing.assert_allclose(found, (each * ~gaps).sum(-1), rtol=1e-5)
    history = model.fit(given, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert model.reconstruct(given).shape == x.shape
    assert model.predict(given, statistics="stddev", verbose=0).shape == x.shape
    assert np.isfinite(model.log_prob(given, num_samples=20)).all()


def test_weights_of_entries_of_blocks_are_those_of_their_factors(rng):
    p = tv.Blockwise(BLOCKS)
    raw = rng.normal(size=(6, p.parameters_width)).astype("float32")
    x = table(rng, 6)
    weights = rng.uniform(size=x.shape).astype("float32")
    q = p(raw)
    found = tv.NegativeLogLikelihood(reduction=None)(x, q, weights)
    want = 0.0
    start = 0
    for block in q.distributions:
        size = block.event_shape.num_elements()
        part = x[:, start : start + size]
        each = block.distribution.log_prob(tf.cast(part, block.dtype)).numpy()
        want += (each * weights[:, start : start + size]).sum(-1)
        start += size
    np.testing.assert_allclose(found, -want, rtol=1e-5)


def test_a_block_that_does_not_factorise_counts_as_a_whole(rng):
    p = tv.Blockwise([tv.IndependentNormal(1), tv.MultivariateNormalTriL(2)])
    q = p(rng.normal(size=(4, p.parameters_width)).astype("float32"))
    x = rng.normal(size=(4, 3)).astype("float32")
    loss = tv.NegativeLogLikelihood(reduction=None)
    weights = np.array([[1, 0, 0]] * 4, "float32")
    first = q.distributions[0]
    np.testing.assert_allclose(
        loss(x, q, weights), -first.log_prob(x[:, :1]), rtol=1e-5
    )
    weights[:, 2] = 1.0
    with pytest.raises(ValueError, match=r"does not factorise.*Received"):
        loss(x, q, weights)
    compiled = tf.function(lambda w: loss(x, q.tensor_distribution, w))
    assert np.isnan(compiled(tf.constant(weights))).all()


def test_a_partly_missing_block_is_found_in_any_row(rng):
    p = tv.Blockwise([tv.IndependentNormal(1), tv.MultivariateNormalTriL(2)])
    model = linear(p, missing="nan")
    x = rng.normal(size=(256, 3)).astype("float32")
    x[::7, 0] = np.nan
    x[5, 1:] = np.nan
    assert np.isfinite(model.fit(x, epochs=2, verbose=0).history["loss"]).all()
    x[200, 1] = np.nan
    for call in (model.fit, model.evaluate, model.log_prob):
        with pytest.raises(ValueError, match=r"does not factorise.*Received"):
            call(x, verbose=0)


def test_weights_that_part_a_block_are_found_in_any_row(rng):
    p = tv.Blockwise([tv.IndependentNormal(1), tv.MultivariateNormalTriL(2)])
    model = linear(p)
    x = rng.normal(size=(256, 3)).astype("float32")
    weights = np.repeat(rng.uniform(size=(256, 2)), [1, 2], axis=1).astype("float32")
    history = model.fit(x, sample_weight=weights, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    weights[200, 1] = 0.5
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"does not factorise.*Received"):
            call(x, sample_weight=weights, verbose=0)


@pytest.mark.parametrize("metric", ["mse", keras.metrics.MeanAbsoluteError()])
def test_metrics_that_cannot_leave_out_entries_are_an_error(metric, rng):
    x = rng.normal(size=(16, 3)).astype("float32")
    x[::2, 1] = np.nan
    model = linear(missing="nan", compiled=False)
    model.compile("adam", metrics=[metric], jit_compile=False)
    with pytest.raises(ValueError, match=r"metrics that leave out.*of Keras.*tv\.CRPS"):
        model.fit(x, verbose=0)
    model.compile("adam", metrics=[tv.LogLikelihood(), tv.CRPS()], jit_compile=False)
    found = model.fit(x, verbose=0).history
    assert np.isfinite(found["crps"]).all()


def test_a_row_without_its_only_entry_counts_nothing():
    """Arrays with such rows are refused; batches of a pipeline are not looked at."""
    x = np.array([[0.5], [np.nan], [-1.0]], "float32")
    p = tv.IndependentNormal(1, scale=0.5)
    model = linear(p, width=1, missing="nan", compiled=False)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    parts = [x[:1], x[2:], x]
    batches = tf.data.Dataset.from_generator(
        lambda: iter(parts), output_signature=tf.TensorSpec([None, 1], tf.float32)
    )
    model.decoder.layers[0].set_weights([np.zeros((2, 1)), np.array([0.3])])
    found = model.evaluate(batches, verbose=0, return_dict=True)["nll"]
    log_p = tfd.Normal(np.float32(0.3), 0.5).log_prob([0.5, -1.0]).numpy()
    # Five rows, of which four have an entry.
    assert found == pytest.approx(-2 * log_p.sum() / 5, rel=1e-5)


def test_a_dataset_of_pairs_and_y_is_an_error(rng):
    x = rng.normal(size=(8, 3)).astype("float32")
    model = linear()
    pairs = tf.data.Dataset.from_tensor_slices((x, x)).batch(4)
    for call in (model.log_prob, model.elbo):
        with pytest.raises(ValueError, match="expects y once"):
            call(pairs, y=x)
