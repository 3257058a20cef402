"""`NegativeLogLikelihood` and `LogLikelihood`: weights, masks, reductions, dtypes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

import tfp_vae as tv

tfd = tfp.distributions
B, D = 4, 3


def normal(shape=(B, D), event_rank=1, dtype="float32"):
    loc = np.linspace(-1.0, 1.0, int(np.prod(shape))).reshape(shape).astype(dtype)
    base = tfd.Normal(loc, np.ones((), dtype))
    return tfd.Independent(base, event_rank), stats.norm(loc, 1.0)


def test_it_sums_over_the_event_and_averages_over_the_batch(rng):
    p, scipy = normal()
    y = rng.normal(size=(B, D)).astype("float32")
    expected = -scipy.logpdf(y).sum(-1).mean()
    assert float(tv.NegativeLogLikelihood()(y, p)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("reduction", "reduce"),
    [
        ("sum_over_batch_size", lambda v, w: (v * w).mean()),
        ("mean", lambda v, w: (v * w).mean()),
        ("sum", lambda v, w: (v * w).sum()),
        ("mean_with_sample_weight", lambda v, w: (v * w).sum() / w.sum()),
        (None, lambda v, w: v * w),
        ("none", lambda v, w: v * w),
    ],
)
@pytest.mark.parametrize("column", [False, True])
def test_reductions_and_weights_of_examples(reduction, reduce, column, rng):
    p, scipy = normal()
    y = rng.normal(size=(B, D)).astype("float32")
    w = np.array([0.5, 2.0, 0.0, 1.0], "float32")
    expected = reduce(-scipy.logpdf(y).sum(-1), w)
    given = w[:, None] if column else w
    actual = tv.NegativeLogLikelihood(reduction=reduction)(y, p, sample_weight=given)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("d", [D, B])  # where B == D a careless broadcast is silent
def test_weights_of_elements_act_before_the_event_sum(d, rng):
    p, scipy = normal((B, d))
    y = rng.normal(size=(B, d)).astype("float32")
    w = rng.uniform(size=(B, d)).astype("float32")
    expected = -(w * scipy.logpdf(y)).sum(-1).mean()
    actual = tv.NegativeLogLikelihood()(y, p, sample_weight=w)
    assert float(actual) == pytest.approx(expected, rel=1e-5)


def test_weights_of_some_event_axes(rng):
    p, scipy = normal((B, 5, 6, 1), 3)
    y = rng.normal(size=(B, 5, 6, 1)).astype("float32")
    w = rng.uniform(size=(B, 5, 6)).astype("float32")
    expected = -(w[..., None] * scipy.logpdf(y)).sum((1, 2, 3)).mean()
    actual = tv.NegativeLogLikelihood()(y, p, sample_weight=w)
    assert float(actual) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("t", [D, B])
def test_weights_of_a_batch_with_a_time_axis(t, rng):
    p, scipy = normal((B, t, 2), 1)
    y = rng.normal(size=(B, t, 2)).astype("float32")
    values = -scipy.logpdf(y).sum(-1)
    loss = tv.NegativeLogLikelihood()
    w = rng.uniform(size=(B, t)).astype("float32")
    assert float(loss(y, p, w)) == pytest.approx((w * values).mean(), rel=1e-5)
    w = rng.uniform(size=B).astype("float32")
    expected = (w[:, None] * values).mean()
    assert float(loss(y, p, w)) == pytest.approx(expected, rel=1e-5)
    mean = tv.NegativeLogLikelihood(reduction="mean_with_sample_weight")
    expected = (w[:, None] * values).sum() / (t * w.sum())
    assert float(mean(y, p, w)) == pytest.approx(expected, rel=1e-5)


def test_weights_of_mvn_diag_and_of_sample_act_on_elements(rng):
    y = rng.normal(size=(B, D)).astype("float32")
    w = rng.uniform(size=(B, D)).astype("float32")
    expected = -(w * stats.norm.logpdf(y)).sum(-1).mean()
    for p in (
        tfd.MultivariateNormalDiag(tf.zeros([B, D])),
        tfd.Sample(tfd.Normal(tf.zeros(B), 1.0), D),
    ):
        actual = tv.NegativeLogLikelihood()(y, p, w)
        assert float(actual) == pytest.approx(expected, rel=1e-5)


def test_weights_of_elements_need_a_law_that_factorises(rng):
    p = tfd.MultivariateNormalTriL(tf.zeros([B, D]), tf.eye(D))
    y = np.zeros((B, D), "float32")
    with pytest.raises(ValueError, match="factorises over it. Received: tfp.*TriL"):
        tv.NegativeLogLikelihood()(y, p, np.ones((B, D), "float32"))
    assert np.isfinite(tv.NegativeLogLikelihood()(y, p, np.ones(B, "float32")))


@pytest.mark.parametrize("shape", [(B + 1,), (B, D + 1), (B, D, 1), (1, D), (D,), ()])
def test_weights_of_another_shape_are_an_error(shape):
    p, _ = normal()
    if shape == ():
        assert np.isfinite(tv.NegativeLogLikelihood()(np.zeros((B, D)), p, 2.0))
        return
    with pytest.raises(
        ValueError, match="`sample_weight` to have the shape of leading"
    ):
        tv.NegativeLogLikelihood()(np.zeros((B, D)), p, np.ones(shape))


def masked(p, mask):
    p = tv.DistributionTensor(p)
    p._keras_mask = tf.constant(mask)
    return p


@pytest.mark.parametrize("t", [D, B])
def test_a_mask_inside_the_event_drops_elements(t, rng):
    p, scipy = normal((B, t))
    y = rng.normal(size=(B, t)).astype("float32")
    mask = rng.uniform(size=(B, t)) > 0.5
    expected = -(mask * scipy.logpdf(y)).sum(-1).mean()
    actual = tv.NegativeLogLikelihood()(y, masked(p, mask))
    assert float(actual) == pytest.approx(expected, rel=1e-5)
    w = rng.uniform(size=B).astype("float32")
    expected = -(w[:, None] * mask * scipy.logpdf(y)).sum(-1).mean()
    actual = tv.NegativeLogLikelihood()(y, masked(p, mask), w)
    assert float(actual) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("t", [D, B])
def test_a_mask_of_batch_axes_is_keras_own(t, rng):
    p, scipy = normal((B, t, 2), 1)
    y = rng.normal(size=(B, t, 2)).astype("float32")
    mask = rng.uniform(size=(B, t)) > 0.5
    values = -scipy.logpdf(y).sum(-1)
    actual = tv.NegativeLogLikelihood()(y, masked(p, mask))
    assert float(actual) == pytest.approx(values[mask].mean(), rel=1e-5)


def test_a_mask_made_by_a_masking_layer_reaches_the_loss(rng):
    x = rng.normal(size=(B, 5, 4)).astype("float32")
    x[:, 3:] = 0.0
    y = rng.normal(size=(B, 5, 2)).astype("float32")
    model = keras.Sequential(
        [keras.Input((5, 4)), keras.layers.Masking(), tv.IndependentNormal(2)]
    )
    model.compile(loss=tv.NegativeLogLikelihood(), metrics=[tv.LogLikelihood()])
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    expected = -model(x).log_prob(y)[:, :3].numpy().mean()
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["log_likelihood"] == pytest.approx(-expected, rel=1e-5)


def test_draws_in_front_of_the_batch_are_averaged(rng):
    p, scipy = normal((7, B, D), 1)
    y = rng.normal(size=(B, D)).astype("float32")
    expected = -scipy.logpdf(y).sum(-1).mean(0)
    loss = tv.NegativeLogLikelihood(reduction=None, draw_axes=1)
    np.testing.assert_allclose(loss(y, p), expected, rtol=1e-5)
    w = rng.uniform(size=(B, D)).astype("float32")
    expected = -(w * scipy.logpdf(y)).sum(-1).mean(0)
    np.testing.assert_allclose(loss(y, p, w), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "shape", [(B,), (B, 1), (B, D, 1), (1, D), (B + 1, D), (D,), ()]
)
def test_values_of_another_shape_are_an_error(shape):
    p, _ = normal()
    with pytest.raises(ValueError, match=r"shape \(4, 3\).*Received: y.shape="):
        tv.NegativeLogLikelihood()(np.zeros(shape, "float32"), p)


def test_targets_that_lack_an_axis_of_1_are_right_whatever_the_batch(rng):
    """Of 7 rows in batches of 4 Keras knows no static size: (B,) means (B, 1)."""
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(1),
            tv.DistributionLambda(lambda t: tfd.Normal(t, 1.0)),
        ]
    )
    model.compile("sgd", loss=tv.NegativeLogLikelihood(), metrics=[tv.LogLikelihood()])
    for rows in (7, 8):
        x, y = rng.normal(size=(rows, 5)).astype("float32"), np.arange(rows)
        want = model(x).log_prob(y[:, None].astype("float32")).numpy().mean()
        found = model.evaluate(x, y, batch_size=4, verbose=0)
        np.testing.assert_allclose(found, [-want, want], rtol=1e-5)


def test_a_dataset_of_unknown_shapes(rng):
    x = rng.normal(size=(8, 6)).astype("float32")

    def dataset(width):
        y = np.zeros((8, width), "float32")
        spec = tf.TensorSpec([None, 6]), tf.TensorSpec([None, None])
        generator = lambda: iter([(x, y)])  # noqa: E731
        return tf.data.Dataset.from_generator(generator, output_signature=spec)

    model = keras.Sequential([keras.Input((6,)), tv.IndependentNormal(3)])
    model.compile(loss=tv.NegativeLogLikelihood())
    assert np.isfinite(model.evaluate(dataset(3), steps=1, verbose=0))
    with pytest.raises(tf.errors.InvalidArgumentError, match="not compatible with"):
        model.evaluate(dataset(1), steps=1, verbose=0)


def test_weights_whose_rank_changes_are_an_error_that_says_so(rng):
    x = rng.normal(size=(8, 6)).astype("float32")
    y, w = x[:, :3], np.ones((8, 3), "float32")
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(6), tv.IndependentNormal(3)]
    )
    model.compile("sgd", loss=tv.NegativeLogLikelihood())
    model.fit(x, y, sample_weight=w[:, 0], verbose=0)
    with pytest.raises(ValueError, match="compile again if their rank changes"):
        model.fit(x, y, sample_weight=w, verbose=0)
    model.compile("sgd", loss=tv.NegativeLogLikelihood())
    model.fit(x, y, sample_weight=w, verbose=0)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32", "int64", "bool"])
def test_labels_of_any_integer_dtype(dtype):
    p = tfd.Categorical(logits=tf.zeros([B, 5]))
    loss = tv.NegativeLogLikelihood()(np.ones(B, dtype), p)
    assert float(loss) == pytest.approx(np.log(5))


@pytest.mark.parametrize("draw_axes", [-1, 1.5, True, None])
def test_bad_draw_axes_are_an_error(draw_axes):
    for cls in (tv.NegativeLogLikelihood, tv.LogLikelihood):
        with pytest.raises(
            ValueError, match="`draw_axes` to be an integer of at least 0"
        ):
            cls(draw_axes=draw_axes)
    with pytest.raises(ValueError, match=r"shape \(3,\).*without 1 draw_axes"):
        tv.NegativeLogLikelihood(draw_axes=1)(np.zeros((B, D)), normal()[0])


def test_no_targets_are_an_error():
    with pytest.raises(ValueError, match=r"expects targets.*fit\(x, x\)"):
        tv.NegativeLogLikelihood()(None, normal()[0])


def test_nan_is_an_error_in_eager_execution():
    p, _ = normal()
    y = np.zeros((B, D), "float32")
    y[0, 1] = np.nan
    with pytest.raises(ValueError, match="without NaN. Received: 1 NaN in y of shape"):
        tv.NegativeLogLikelihood()(y, p)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float64"])
def test_targets_of_other_dtypes(dtype):
    p = tv.IndependentBernoulli(D)(tf.zeros([B, D]))
    y = np.ones((B, D), dtype)
    assert float(tv.NegativeLogLikelihood()(y, p)) == pytest.approx(D * np.log(2))


def test_integer_and_float64_distributions_arrive_uncast():
    y = np.ones((B, D), "int32")
    p = tv.IndependentBernoulli(D, sample_dtype="int32")(tf.zeros([B, D]))
    assert float(tv.NegativeLogLikelihood()(y, p)) == pytest.approx(D * np.log(2))
    p = tfd.Categorical(logits=tf.zeros([B, 5]))
    loss = tv.NegativeLogLikelihood()(np.ones(B, "int32"), p)
    assert float(loss) == pytest.approx(np.log(5))
    p, scipy = normal(dtype="float64")
    y = np.full((B, D), 1 + 1e-12)
    loss = tv.NegativeLogLikelihood(reduction=None)(y, p)
    assert loss.dtype == tf.float64
    np.testing.assert_allclose(loss, -scipy.logpdf(y).sum(-1), rtol=1e-14)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tv.IndependentBernoulli(D, sample_dtype="int32"),
        lambda: tv.DistributionLambda(
            lambda t: tfd.Independent(
                tfd.Categorical(logits=t[..., None] * [0.0, 1.0]), 1
            )
        ),
    ],
)
def test_integer_distributions_train(make, rng):
    x = rng.normal(size=(32, 5)).astype("float32")
    y = rng.integers(0, 2, (32, D)).astype("int32")
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(D), make()])
    model.compile("sgd", loss=tv.NegativeLogLikelihood())
    losses = model.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_plain_tensor_is_an_error(rng):
    with pytest.raises(
        ValueError, match="output to be a distribution. Received: a plain"
    ):
        tv.NegativeLogLikelihood()(np.zeros((B, D)), tf.zeros([B, D]))
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(D)])
    model.compile("sgd", loss=tv.NegativeLogLikelihood())
    with pytest.raises(ValueError, match="End the model with a distribution layer"):
        model.fit(np.zeros((8, 5)), np.zeros((8, D)), verbose=0)

    @tf.function
    def step(y_pred):
        return tv.NegativeLogLikelihood()(tf.zeros([B, D]), y_pred)

    with pytest.raises(ValueError, match="output to be a distribution"):
        step(tf.zeros([B, D]))


def test_loss_config_round_trip():
    loss = tv.NegativeLogLikelihood(reduction="sum", name="mine", draw_axes=1)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert (again.reduction, again.name, again.draw_axes) == ("sum", "mine", 1)
    with pytest.raises(ValueError, match="Invalid value for argument `reduction`"):
        tv.NegativeLogLikelihood(reduction="typo")


def test_call_gives_the_loss_of_each_example(rng):
    p, scipy = normal()
    y = rng.normal(size=(B, D)).astype("float32")
    loss = tv.NegativeLogLikelihood()
    np.testing.assert_allclose(loss.call(y, p), -scipy.logpdf(y).sum(-1), rtol=1e-5)


def test_log_likelihood_is_a_weighted_mean_over_batches(rng):
    p, scipy = normal((7, D))
    y = rng.normal(size=(7, D)).astype("float32")
    w = rng.uniform(size=7).astype("float32")
    values = scipy.logpdf(y).sum(-1)
    metric, negative = tv.LogLikelihood(), tv.LogLikelihood(negative=True)
    for rows in (slice(0, 5), slice(5, 7)):
        part = tfd.Independent(tfd.Normal(p.distribution.loc[rows], 1.0), 1)
        metric.update_state(y[rows], part, w[rows])
        negative.update_state(y[rows], part)
    expected = (w * values).sum() / w.sum()
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)
    assert float(negative.result()) == pytest.approx(-values.mean(), rel=1e-5)
    assert (metric.name, negative.name) == ("log_likelihood", "nll")


def test_log_likelihood_under_weights_of_elements(rng):
    p, scipy = normal()
    y = rng.normal(size=(B, D)).astype("float32")
    w = rng.uniform(size=(B, D)).astype("float32")
    metric = tv.LogLikelihood()
    metric.update_state(y, p, w)
    expected = (w * scipy.logpdf(y)).sum(-1).mean()
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)


def test_log_likelihood_config_round_trip():
    metric = tv.LogLikelihood(negative=True, name="mine")
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert (again.negative, again.name) == (True, "mine")


def test_metrics_of_keras_act_on_the_value(rng):
    x = rng.normal(size=(32, 6)).astype("float32")
    y = rng.normal(size=(32, 3)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), tv.IndependentNormal(3, "mean")])
    model.compile(loss=tv.NegativeLogLikelihood(), metrics=["mae", "mse"])
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert logs["mae"] == pytest.approx(np.abs(x[:, :3] - y).mean(), rel=1e-5)
    assert logs["mse"] == pytest.approx(((x[:, :3] - y) ** 2).mean(), rel=1e-5)


def test_sample_weight_reaches_loss_and_weighted_metrics(rng):
    x = rng.normal(size=(32, 6)).astype("float32")
    y = rng.normal(size=(32, 3)).astype("float32")
    w = rng.uniform(size=(32, 3)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), tv.IndependentNormal(3)])
    model.compile(
        loss=tv.NegativeLogLikelihood(),
        metrics=[tv.LogLikelihood(name="plain")],
        weighted_metrics=[tv.LogLikelihood(name="weighted")],
    )
    logs = model.evaluate(x, y, sample_weight=w, verbose=0, return_dict=True)
    elements = model(x).distribution.log_prob(y).numpy()
    assert logs["plain"] == pytest.approx(elements.sum(-1).mean(), rel=1e-5)
    assert logs["weighted"] == pytest.approx((w * elements).sum(-1).mean(), rel=1e-5)
    assert logs["loss"] == pytest.approx(-logs["weighted"], rel=1e-5)


def test_a_loop_of_ones_own():
    layer, loss = tv.IndependentNormal(3), tv.NegativeLogLikelihood()
    step = tf.function(lambda raw, y: loss(y, layer(raw)))
    expected = 3 * 0.5 * np.log(2 * np.pi) + 3 * np.log(np.log(2.0))
    actual = step(tf.zeros([2, 6]), tf.zeros([2, 3]))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["loss", "metric"])
@pytest.mark.parametrize(
    ("shape", "event_rank", "given"),
    [
        ((B, 1), 1, (B,)),
        ((B, D, 1), 1, (B, D)),
        ((B,), 0, (B, 1)),
        ((B, D), 0, (B, D, 1)),
    ],
)
def test_the_axis_of_one_coordinate_may_be_left_out(
    kind, shape, event_rank, given, rng
):
    """What pandas and scikit-learn give as y."""
    p, scipy = normal(shape, event_rank)
    y = rng.normal(size=shape).astype("float32")
    log_prob = scipy.logpdf(y).mean()
    if kind == "loss":
        found = -float(tv.NegativeLogLikelihood()(y.reshape(given), p))
    else:
        metric = tv.LogLikelihood()
        metric.update_state(y.reshape(given), p)
        found = float(metric.result())
    assert found == pytest.approx(log_prob, rel=1e-5)


@pytest.mark.parametrize("model", [tv.Sequential, keras.Sequential])
@pytest.mark.parametrize("column", [False, True])
def test_a_column_of_a_table_trains(model, column, rng):
    x = rng.normal(size=(B, 2)).astype("float32")
    y = x.sum(-1)
    layers = [keras.Input((2,)), keras.layers.Dense(2), tv.IndependentNormal(1)]
    made = model(layers)
    made.compile("sgd", loss=tv.NegativeLogLikelihood(), metrics=[tv.LogLikelihood()])
    log_prob = made(x).log_prob(y[:, None]).numpy().mean()
    found = made.evaluate(x, y[:, None] if column else y, verbose=0)
    np.testing.assert_allclose(found, [-log_prob, log_prob], rtol=1e-5)


@pytest.mark.parametrize("shape", [(D,), (1, B), (B, 1, 1), ()])
def test_other_missing_axes_stay_an_error(shape):
    p, _ = normal((B, 1))
    with pytest.raises(ValueError, match=r"expects values of shape \(4, 1\).*Received"):
        tv.NegativeLogLikelihood()(np.zeros(shape, "float32"), p)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.ma.masked_array(np.ones((B, D)), np.eye(B, D)), "a masked array"),
        (np.ones((B, D), "complex64"), "complex64"),
        (np.ones((B, D), "complex128"), "complex128"),
    ],
    ids=["masked", "complex64", "complex128"],
)
@pytest.mark.parametrize("event_rank", [0, 1])
def test_numbers_that_are_not_real_are_an_error(y, words, event_rank):
    p, _ = normal(event_rank=event_rank)
    message = rf"expects real numbers\. Received: .*{words}"
    with pytest.raises(ValueError, match=message):
        tv.NegativeLogLikelihood()(y, p)


def test_a_weight_that_is_nan_is_named():
    p, _ = normal()
    weights = np.array([1.0, np.nan, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"Received: 1 NaN .*in `sample_weight`"):
        tv.NegativeLogLikelihood()(np.zeros((B, D)), p, weights)


def test_a_weight_that_is_infinite_is_named():
    p, _ = normal()
    with pytest.raises(ValueError, match=r"1 NaN or infinite in `sample_weight`"):
        tv.NegativeLogLikelihood()(np.zeros((B, D)), p, np.array([1.0, np.inf, 1, 1]))


def test_an_axis_of_draws_is_not_taken_for_one_coordinate():
    """Each y would be paired with each draw."""

    @tf.function(
        input_signature=[tf.TensorSpec([4, None, 1]), tf.TensorSpec([None, 1])]
    )
    def loss(loc, y):
        p = tfd.Independent(tfd.Normal(loc, 1.0), 1)
        return tv.NegativeLogLikelihood()(y, p)

    with pytest.raises(ValueError, match="set draw_axes=1"):
        loss(tf.zeros([4, 4, 1]), tf.zeros([4, 1]))


def test_an_axis_of_steps_is_not_taken_for_one_coordinate():
    """One target would stand for all steps."""

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, 1]), tf.TensorSpec([None, 1])]
    )
    def loss(loc, y):
        p = tfd.Independent(tfd.Normal(loc, 1.0), 1)
        return tv.NegativeLogLikelihood()(y, p)

    with pytest.raises(ValueError, match="expects values of shape"):
        loss(tf.zeros([4, 5, 1]), tf.zeros([4, 1]))


def positive(raw):
    return tf.math.softplus(raw)


# A law of raw parameters of shape (4, 3), and values outside its support.
OUTSIDE = {
    "gamma": (lambda t: tfd.Gamma(positive(t), 1.0), [0.0, -99.0]),
    "log-normal": (lambda t: tfd.LogNormal(t, 1.0), [0.0, -99.0]),
    "beta": (lambda t: tfd.Beta(positive(t), 2.0), [0.0, 1.0, -99.0]),
    "Poisson": (lambda t: tfd.Poisson(log_rate=t), [-99.0, 0.5]),
    "normal": (lambda t: tfd.Normal(t, 1.0), [np.inf]),
    "mixture": (
        lambda t: tfd.MixtureSameFamily(
            tfd.Categorical(logits=[0.0, 1.0]),
            tfd.Gamma(positive(t[..., None] + [0.0, 1.0]), 1.0),
        ),
        [0.0, -99.0],
    ),
    "truncated": (
        lambda t: tv.distributions.TruncatedNormal(t, 1.0, low=0.0, high=2.0),
        [-99.0],
    ),
}


@pytest.mark.parametrize("how", ["entries", "rows", "mask", "metric"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_values_of_weight_0_count_nothing_wherever_they_are(name, how):
    make, outside = OUTSIDE[name]
    raw = tf.linspace(-1.0, 1.0, B * D)
    raw = tf.reshape(raw, (B, D))
    y = np.full((B, D), 1.0 if name == "Poisson" else 0.5, "float32")
    counts = np.ones((B, D), bool)
    counts[1:3] = counts[1:3] & (how in ("entries", "metric"))
    counts[1, 0] = counts[2, 1] = False

    def score(values, t):
        p = tfd.Independent(make(t), 1)
        weights = counts.astype("float32")
        if how == "metric":
            metric = tv.LogLikelihood(negative=True)
            metric.update_state(values, p, weights)
            return metric.result()
        if how == "mask":
            p = tv.DistributionTensor(p, "sample")
            return tv.NegativeLogLikelihood()(values, masked(p, counts))
        return tv.NegativeLogLikelihood()(
            values, p, weights if how == "entries" else weights[:, 0]
        )

    def of(values):
        with tf.GradientTape() as tape:
            tape.watch(raw)
            found = score(values, raw)
        return float(found), tape.gradient(found, raw)

    expected, slope = of(y)
    for value in outside:
        found, gradient = of(np.where(counts, y, np.float32(value)))
        assert found == pytest.approx(expected, rel=1e-6)
        if how != "metric":
            np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-7)


def test_padding_of_positive_sequences_trains(rng):
    x = rng.normal(size=(20, 6, 2)).astype("float32")
    y = rng.gamma(2.0, size=(20, 6, 1)).astype("float32")
    x[:, 4:], y[:, 4:] = -99.0, -99.0
    model = tv.Sequential(
        [
            keras.Input((6, 2)),
            keras.layers.Masking(-99.0),
            keras.layers.LSTM(4, return_sequences=True),
            keras.layers.Dense(2),
            tv.IndependentGamma(1),
        ]
    )
    model.compile("adam", tv.NegativeLogLikelihood())
    history = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    expected = -model(x).log_prob(np.where(y < 0, 1.0, y))[:, :4].numpy().mean()
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_labels_of_weight_0_need_no_class(rng):
    p = tfd.Categorical(logits=rng.normal(size=(4, 3)).astype("float32"))
    y, w = np.array([0, 1, 2, -1]), np.array([1.0, 1.0, 1.0, 0.0])
    found = float(tv.NegativeLogLikelihood(reduction="sum")(y, p, w))
    expected = -p[:3].log_prob(y[:3]).numpy().sum()
    assert found == pytest.approx(expected, rel=1e-6)


def test_draws_weights_and_masks_together():
    """As many draws as examples, of a law whose values are positive."""
    raw = np.linspace(0.5, 3.0, 4 * 4 * 2).reshape(4, 4, 2).astype("float32")
    y = np.full((4, 2), 1.5, "float32")
    mask = np.array([True, False, True, True])
    w = np.array([1.0, 2.0, 0.0, 0.5], "float32")
    y[1], y[2] = -99.0, 0.0
    p = tv.DistributionTensor(tfd.Independent(tfd.Gamma(raw, 1.0), 1), "sample")
    loss = tv.NegativeLogLikelihood(reduction="sum", draw_axes=1)
    found = float(loss(y, masked(p, mask), w))
    log_p = stats.gamma(raw).logpdf(1.5).sum(-1).mean(0)
    assert found == pytest.approx(-(log_p[0] + 0.5 * log_p[3]), rel=1e-5)
    inside = np.ones((4, 2), "float32")
    inside[0, 1], y[0, 1] = 0.0, -1.0
    loss = tv.NegativeLogLikelihood(reduction=None, draw_axes=1)
    found = loss(np.where(y == 0, 1.5, y), masked(p, mask), inside)
    log_p = stats.gamma(raw).logpdf(1.5).mean(0)
    exact = [-log_p[0, 0], 0.0, -log_p[2].sum(), -log_p[3].sum()]
    np.testing.assert_allclose(found * mask, exact, rtol=1e-5)
