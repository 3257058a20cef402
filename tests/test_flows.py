"""Flows against Jacobians by finite differences, integrals and NumPy."""

import itertools

import keras
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats
from sklearn.datasets import make_moons

import tfp_vae as tv
from tfp_vae.draws import draw
from tfp_vae.layers.autoregressive_network import AutoregressiveNetwork
from tfp_vae.layers.autoregressive_transform import AutoregressiveTransform
from tfp_vae.layers.flow import Flow

tfb = tfp.bijectors
tfd = tfp.distributions
KINDS = ("maf", "iaf", "realnvp", "spline")
ORDERS = {
    "left-to-right": [1, 2, 3, 4],
    "right-to-left": [4, 3, 2, 1],
    "explicit": [2, 4, 1, 3],
}


def normal(d, loc=0.3, scale=0.8, dtype="float64", batch=()):
    loc = np.broadcast_to(np.asarray(loc, dtype), (*batch, d))
    return tfd.Independent(tfd.Normal(loc, np.full(d, scale, dtype)), 1)


def shaken(flow, d, dtype="float64", size=0.2):
    """A flow with every weight away from its initial value."""
    flow.transform_distribution(normal(d, dtype=dtype))
    rng = np.random.default_rng(3)
    for w in flow.trainable_variables:
        noise = rng.normal(size=w.shape) / np.sqrt(w.shape[0])
        w.assign(w + 3 * size * noise if len(w.shape) > 1 else w + size * noise)
    return flow


def flow64(kind, d, num_transforms=2, **options):
    options = {"hidden_units": (8, 8), "activation": "tanh", **options}
    flow = Flow(kind, num_transforms, dtype="float64", **options)
    return shaken(flow, d)


@pytest.mark.parametrize("hidden", [(), (16,), (16, 12), (9, 24, 16)])
@pytest.mark.parametrize("order", ORDERS)
def test_each_output_sees_the_inputs_before_it_and_no_others(order, hidden, rng):
    places = np.array(ORDERS[order])
    given = places.tolist() if order == "explicit" else order
    made = AutoregressiveNetwork(3, 4, hidden, given, activation="tanh")
    x = tf.constant(rng.normal(size=(6, 4)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = made(x)
    assert y.shape == (6, 4, 3)
    jacobian = tape.batch_jacobian(y, x).numpy()  # (6, output, parameter, input)
    before = places[None, :] < places[:, None]
    for parameter in range(3):
        sees = np.abs(jacobian[:, :, parameter]).max(0) > 1e-8
        np.testing.assert_array_equal(sees, before)


@pytest.mark.parametrize("degrees", ["equal", "random"])
def test_a_random_order_is_some_order_and_governed_by_the_seed(degrees, rng):
    x = rng.normal(size=(1, 6)).astype("float32")
    patterns = []
    for seed in (1, 1, 2):
        made = AutoregressiveNetwork(
            1, 6, (60,), "random", degrees, kernel_initializer="ones", seed=seed
        )
        made(x)
        paths = made.kernels[0].numpy() @ made.kernels[1].numpy()
        patterns.append(paths > 0)
        counts = sorted(patterns[-1].sum(0))
        assert counts == [0, 1, 2, 3, 4, 5] or degrees == "random"
        assert not np.any(patterns[-1] & patterns[-1].T)
    assert np.array_equal(patterns[0], patterns[1])
    assert not np.array_equal(patterns[0], patterns[2])


def test_parameters_are_counted_and_masked_from_the_start():
    made = AutoregressiveNetwork(2, 5, (7, 11))
    made.build((None, 5))
    assert made.count_params() == 5 * 7 + 7 + 7 * 11 + 11 + 11 * 10 + 10
    paths = np.linalg.multi_dot([np.abs(kernel.numpy()) for kernel in made.kernels])
    paths = paths.reshape(5, 5, 2).sum(-1)  # (input, output)
    assert np.all(np.tril(paths) == 0)
    assert np.all(paths[np.triu_indices(5, 1)] > 0)
    bare = AutoregressiveNetwork(2, 5, (7, 11), use_bias=False)
    assert bare(tf.ones([2, 3, 5])).shape == (2, 3, 5, 2)
    assert len(bare.weights) == 3


def test_a_network_saves_with_its_random_masks(tmp_path, rng):
    made = AutoregressiveNetwork(2, None, (8,), "random", "random", "gelu")
    model = keras.Sequential([keras.Input((5,)), made])
    assert model.output_shape == (None, 5, 2)
    model.save(tmp_path / "made.keras")
    again = keras.models.load_model(tmp_path / "made.keras", safe_mode=True)
    x = rng.normal(size=(3, 5)).astype("float32")
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize(
    ("order", "degrees"),
    [("random", "equal"), ("left-to-right", "random"), ("random", "random")],
)
def test_weights_bring_their_random_masks(order, degrees, tmp_path, rng):
    x = rng.normal(size=(3, 6)).astype("float32")

    def new():
        made = AutoregressiveNetwork(
            2, None, (8,), order, degrees, "gelu", kernel_initializer="ones"
        )
        return tv.Sequential([keras.Input((6,)), made])

    model, loaded, given = new(), new(), new()
    expected = model.predict(x, verbose=0)
    assert not np.allclose(loaded.predict(x, verbose=0), expected)
    model.save_weights(tmp_path / "m.weights.h5")
    loaded.load_weights(tmp_path / "m.weights.h5")
    given.set_weights(model.get_weights())
    for again in (loaded, given):
        np.testing.assert_array_equal(again.predict(x, verbose=0), expected)
        assert len(again.trainable_variables) == 4


def test_weights_without_random_masks_leave_those_of_the_network(rng):
    """Models saved before the degrees were."""
    made, other = (AutoregressiveNetwork(2, 6, (8,), "random", seed=3) for _ in "ab")
    x = rng.normal(size=(3, 6)).astype("float32")
    y = made(x)
    assert not np.allclose(other(x), y)
    trained = made.trainable_variables
    other.load_own_variables({f"{i}": v.numpy() for i, v in enumerate(trained)})
    np.testing.assert_array_equal(other(x), y)


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_is_the_base_and_the_numerical_jacobian(kind, d, rng):
    flow = flow64(kind, d, num_transforms=3)
    base = normal(d)
    u = 2.0 * rng.normal(size=(4, d))
    forward = flow.make_bijector().forward
    step = 1e-6
    columns = [(forward(u + e) - forward(u - e)) / (2 * step) for e in step * np.eye(d)]
    jacobian = np.stack(columns, axis=-1)  # (4, output, input)
    assert np.abs(jacobian - np.eye(d)).max() > 0.1
    logpdf = stats.norm.logpdf(u, 0.3, 0.8).sum(-1)
    expected = logpdf - np.linalg.slogdet(jacobian)[1]
    actual = flow.transform_distribution(base).log_prob(forward(u))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_density_integrates_to_one(kind):
    flow = flow64(kind, 2)
    axis = np.linspace(-12, 12, 401)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = flow.transform_distribution(normal(2)).prob(grid).numpy()
    assert density.sum() * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_inverse_inverts(kind, rng):
    flow = flow64(kind, 4, num_transforms=3)
    u = np.concatenate([rng.normal(size=(20, 4)), 10 * rng.normal(size=(20, 4))])
    x = flow.make_bijector().forward(u)
    # Another bijector: one remembers what it has mapped.
    np.testing.assert_allclose(flow.make_bijector().inverse(x), u, atol=1e-8)
    assert np.abs(x - u).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_and_its_log_density_agree(kind):
    flow = shaken(Flow(kind, hidden_units=(8,)), 3, "float32")
    base = normal(3, dtype="float32", batch=(2,))
    z, log_q = flow.transform_distribution(base).experimental_sample_and_log_prob(
        5, seed=(1, 2)
    )
    assert z.shape == (5, 2, 3)
    again = flow.transform_distribution(base).log_prob(tf.constant(z.numpy()))
    np.testing.assert_allclose(log_q, again, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("way", ["sample", "log_prob", "sample and log_prob"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_gets_a_gradient(kind, way):
    flow = shaken(Flow(kind, hidden_units=(8,)), 3, "float32")
    loc, scale = tf.Variable(tf.ones([4, 3])), tf.Variable(tf.ones([4, 3]))
    with tf.GradientTape() as tape:
        q = flow.transform_distribution(tfd.Independent(tfd.Normal(loc, scale), 1))
        if way == "sample":
            value = tf.reduce_sum(q.sample(seed=(1, 2)) ** 2)
        elif way == "log_prob":
            value = tf.reduce_sum(q.log_prob(tf.ones([4, 3]) / 2))
        else:
            z, log_q = q.experimental_sample_and_log_prob(seed=(1, 2))
            value = tf.reduce_sum(log_q) + tf.reduce_sum(z**2)
    weights = [w.value for w in flow.trainable_variables]
    assert len(weights) >= 8
    for gradient in tape.gradient(value, [loc, scale, *weights]):
        assert gradient is not None
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient != 0)


def test_gradients_of_a_draws_log_density_against_finite_differences():
    flow = flow64("iaf", 2, hidden_units=(4,))
    bias = flow.trainable_variables[1]

    def log_q(value):
        bias.assign(value)
        with tf.GradientTape() as tape:
            q = flow.transform_distribution(normal(2))
            sampled = q.experimental_sample_and_log_prob(seed=(1, 2))[1]
        return sampled.numpy(), tape.gradient(sampled, bias.value).numpy()

    start = bias.numpy().copy()
    gradient = log_q(start)[1]
    for i, step in enumerate(1e-6 * np.eye(4)):
        slope = (log_q(start + step)[0] - log_q(start - step)[0]) / 2e-6
        assert gradient[i] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize(
    ("kind", "d"), [*itertools.product(KINDS, (2, 5)), ("maf", 1), ("iaf", 1)]
)
def test_a_flow_starts_as_the_identity(kind, d, rng):
    flow = Flow(kind, num_transforms=3)
    base = normal(d, dtype="float32")
    x = 3 * rng.normal(size=(10, d)).astype("float32")
    actual = flow.transform_distribution(base).log_prob(x)
    np.testing.assert_allclose(actual, base.log_prob(x), atol=1e-4)
    np.testing.assert_allclose(flow.make_bijector().forward(x), x, atol=1e-5)


def test_with_two_couplings_every_coordinate_moves(rng):
    for kind, d in itertools.product(("realnvp", "spline"), (2, 3, 5)):
        flow = flow64(kind, d)
        x = rng.normal(size=(1, d))
        assert np.all(flow.make_bijector().forward(x) != x)


def test_a_spline_leaves_alone_what_is_outside():
    flow = flow64("spline", 2)
    x = np.array([[-5.1, 7.0], [1e4, -1e4]])
    np.testing.assert_array_equal(flow.make_bijector().forward(x), x)


@pytest.mark.parametrize("kind", slow.except_for(("maf", "spline"), KINDS))
def test_xla_compiles_values_and_gradients_for_any_batch(kind, rng):
    num_transforms = 1 if kind == "spline" else 2  # the slowest to compile
    flow = shaken(Flow(kind, num_transforms, (8,)), 3, "float32")
    weights = [w.value for w in flow.trainable_variables]

    def q(loc):
        return flow.transform_distribution(
            tfd.Independent(tfd.Normal(loc, tf.ones_like(loc)), 1)
        )

    @tf.function(input_signature=[tf.TensorSpec([None, 3])] * 2, jit_compile=True)
    def compiled(loc, x):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(loc)
            z, log_q = q(loc).experimental_sample_and_log_prob(seed=(1, 2))
            log_p = q(loc).log_prob(x)
            of_draws = log_q + tf.reduce_sum(z**2, axis=-1)
        gradients = [tape.gradient(y, [loc, *weights]) for y in (log_p, of_draws)]
        return z, log_q, log_p, gradients

    loc, x = rng.normal(size=(2, 4, 3)).astype("float32")
    z, log_q, log_p, gradients = compiled(loc, x)
    np.testing.assert_allclose(log_q, q(loc).log_prob(z), rtol=1e-3, atol=1e-3)
    with tf.GradientTape() as tape:
        expected = q(tf.constant(loc)).log_prob(x)
    np.testing.assert_allclose(log_p, expected, rtol=1e-3, atol=1e-4)
    for actual, right in zip(
        gradients[0][1:], tape.gradient(expected, weights), strict=True
    ):
        np.testing.assert_allclose(actual, right, rtol=1e-2, atol=1e-3)
    assert all(np.all(np.isfinite(g)) for g in tf.nest.flatten(gradients))


@pytest.mark.parametrize("kind", KINDS)
def test_far_away_inputs_stay_finite(kind):
    flow = shaken(Flow(kind), 3, "float32")
    loc = tf.constant([[1e4, -1e4, 1e4], [-1e4, 0.0, 1e4], [-1e4, -1e4, -1e4]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(loc)
        q = flow.transform_distribution(tfd.Independent(tfd.Normal(loc, 1.0), 1))
        z, log_q = q.experimental_sample_and_log_prob(seed=(1, 2))
        values = (log_q, z, q.log_prob(tf.zeros([3, 3])), q.log_prob(tf.identity(loc)))
    weights = [w.value for w in flow.trainable_variables]
    for value in values:
        assert np.all(np.isfinite(value))
        for gradient in tape.gradient(value, [loc, *weights]):
            assert np.all(np.isfinite(gradient))


def density(*flows, d=2):
    return keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(2 * d),
            tv.IndependentNormal(d),
            *flows,
        ]
    )


@pytest.mark.parametrize(
    ("kind", "num_transforms", "epochs"),
    [("maf", 4, 20), pytest.param("spline", 2, 10, marks=pytest.mark.slow)],
)
def test_a_flow_fits_what_no_gaussian_does(kind, num_transforms, epochs):
    x, _ = make_moons(2000, noise=0.1, random_state=1)
    x = ((x - x.mean(0)) / x.std(0)).astype("float32")
    gaussian = stats.multivariate_normal(x.mean(0), np.cov(x.T))
    model = density(Flow(kind, num_transforms, (32, 32), "tanh"))
    model.compile(keras.optimizers.Adam(1e-2), loss=tv.NegativeLogLikelihood())
    nothing = np.zeros((len(x), 1), "float32")
    model.fit(nothing, x, batch_size=100, epochs=epochs, verbose=0)
    nll = -np.mean(model(nothing).log_prob(x))
    assert nll < -np.mean(gaussian.logpdf(x)) - 0.3


FLOWS = {
    **{kind: lambda kind=kind: Flow(kind, 2, (8,), "gelu") for kind in KINDS},
    "fixed": lambda: Flow(tfb.Chain([tfb.Shift([1.0, 2.0]), tfb.Softplus()])),
    "transform": lambda: AutoregressiveTransform(
        AutoregressiveNetwork(2, hidden_units=(8,), activation="relu")
    ),
}


@pytest.mark.parametrize("name", slow.except_for(("maf", "fixed", "transform"), FLOWS))
def test_a_flow_saves_loads_and_exports(name, tmp_path, rng):
    model = density(FLOWS[name]())
    shaken(model.layers[-1], 2, "float32")
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    x = np.abs(rng.normal(size=(2, 4, 2))).astype("float32") + 2
    c = x[0, :, :1]
    assert len(again.trainable_variables) == len(model.trainable_variables)
    np.testing.assert_array_equal(again(c).log_prob(x[1]), model(c).log_prob(x[1]))
    np.testing.assert_array_equal(again(c), model(c))
    model.export(tmp_path / "served", verbose=False)
    expected = np.asarray(model(c))
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(c), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_an_encoder_trains_with_a_kl(jit_compile, rng):
    d = 3
    encoder = keras.Sequential(
        [
            keras.layers.Dense(2 * d),
            tv.IndependentNormal(d),
            Flow("iaf", 1, (16,)),
            tv.KLDivergenceAddLoss(tv.StandardNormal(d)),
        ]
    )
    inputs = keras.Input((6,))
    # A scale of its own: data on a plane have no greatest density under a learned one.
    decoder = [keras.layers.Dense(6), tv.IndependentNormal(6, scale=0.5)]
    model = keras.Model(inputs, keras.Sequential(decoder)(encoder(inputs)))
    assert encoder.output_shape == (None, d)
    x = (rng.normal(size=(512, 2)) @ rng.normal(size=(2, 6))).astype("float32")
    model.compile("adam", loss=tv.NegativeLogLikelihood(), jit_compile=jit_compile)
    before = [w.numpy() for w in encoder.trainable_variables]
    losses = model.fit(x, x, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 1
    for old, new in zip(before, encoder.trainable_variables, strict=True):
        assert np.any(old != new.numpy())
    q = encoder(x[:5])
    assert isinstance(q, tfd.Distribution)
    assert (q.batch_shape, q.event_shape) == ((5,), (3,))
    z = tf.identity(q)
    kl = np.mean(q.log_prob(z) - stats.norm.logpdf(z).sum(-1))
    assert float(encoder.losses[0]) == pytest.approx(kl, rel=1e-4)
    assert model.predict(x, verbose=0).shape == (512, 6)


def test_in_a_functional_model_shape_and_dtype_are_known(rng):
    inputs = keras.Input((4,))
    base = tv.IndependentNormal(2)(keras.layers.Dense(4)(inputs))
    draws = Flow("maf", convert_to_tensor_fn=lambda q, seed: q.sample(7, seed=seed))
    for layer, shape in ((Flow("spline"), (None, 2)), (draws, (7, None, 2))):
        outputs = layer(base)
        assert (outputs.shape, outputs.dtype) == (shape, "float32")
        assert keras.Model(inputs, outputs)(np.ones((3, 4))).event_shape == (2,)
    stacked = keras.Model(inputs, Flow("iaf")(Flow("realnvp")(base)))
    q = stacked(rng.normal(size=(3, 4)))
    x, log_q = q.experimental_sample_and_log_prob()
    np.testing.assert_allclose(log_q, q.log_prob(tf.identity(x)), rtol=1e-4)


def test_half_precision_ends_at_the_flow(rng):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = density(Flow("realnvp"), AutoregressiveTransform(AutoregressiveNetwork(2)))
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    x = rng.normal(size=(32, 2)).astype("float32")
    assert np.isfinite(model.fit(x[:, :1], x, verbose=0).history["loss"][0])
    assert model(x[:, :1]).log_prob(x).dtype == tf.float32
    for layer in model.layers[-2:]:
        assert {w.dtype for w in layer.trainable_variables} == {"float32"}


def test_replicas_train_as_one_device_does(rng):
    x = rng.normal(size=(64, 2)).astype("float32")
    losses, start = [], None
    for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
        with tf.distribute.MirroredStrategy(devices).scope():
            model = density(Flow("maf", 1, (8,)))
            model.compile(keras.optimizers.Adam(0.01), loss=tv.NegativeLogLikelihood())
        model(x[:, :1])
        start = start or model.get_weights()
        model.set_weights(start)
        fitted = model.fit(x[:, :1], x, batch_size=64, epochs=5, verbose=0)
        losses.append(fitted.history["loss"])
    assert losses[0][-1] < losses[0][0] - 0.1
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_of_one_distribution_is_a_prior(kind):
    flow = shaken(Flow(kind), 3, "float32")
    prior = flow.transform_distribution(tfd.MultivariateNormalDiag(tf.zeros(3)))
    assert (prior.batch_shape, prior.event_shape) == ((), (3,))
    assert prior.sample(5, seed=(1, 2)).shape == (5, 3)
    x = tf.ones([2, 4, 3])
    assert prior.log_prob(x).shape == (2, 4)
    assert float(prior.log_prob(tf.ones(3))) == pytest.approx(
        float(prior.log_prob(x)[1, 1]), rel=1e-5
    )


def test_the_transform_is_the_formula(rng):
    made = AutoregressiveNetwork(2, 3, (8,), activation="tanh", dtype="float64")
    layer = AutoregressiveTransform(made, dtype="float64")
    p = layer.transform_distribution(normal(3))
    x = rng.normal(size=(5, 3))
    shift, log_scale = np.moveaxis(made(x).numpy(), -1, 0)
    log_scale = 5 * np.tanh(log_scale / 5)
    u = (x - shift) * np.exp(-log_scale)
    expected = (stats.norm.logpdf(u, 0.3, 0.8) - log_scale).sum(-1)
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-10)
    assert layer.trainable_variables == made.trainable_variables


def test_a_bijector_of_ones_own_is_used_as_it_is(rng):
    x = rng.normal(size=(4, 3))
    p = Flow(tfb.Exp(), dtype="float64").transform_distribution(normal(3))
    expected = stats.lognorm.logpdf(np.exp(x), 0.8, scale=np.exp(0.3)).sum(-1)
    np.testing.assert_allclose(p.log_prob(np.exp(x)), expected)
    affine = Flow(tfb.Scale(2.0), convert_to_tensor_fn="mean")
    mean = keras.Sequential([tv.IndependentNormal(2), affine])(tf.ones([3, 4]))
    np.testing.assert_allclose(mean, 2 * np.ones((3, 2)))


def on(flow, base):
    return lambda: flow().transform_distribution(base)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flow()(tf.zeros([5, 3])), "a distribution.*plain.*in front"),
        (lambda: Flow("nice"), "one of .*'maf'.*transform='nice'.*Use 'iaf'"),
        (lambda: Flow(tfb.Scale(tf.Variable(1.0))), "without variables.*would not"),
        (lambda: Flow(num_transforms=0), "`num_transforms` to be an integer"),
        (lambda: Flow(num_bins=1), "`num_bins` to be an integer of at least 2"),
        *[
            (lambda units=units: Flow(hidden_units=units), "`hidden_units`.*Received")
            for units in (64, (64, 0), (64, 3.5), "64")
        ],
        *[
            (lambda fn=fn: Flow(convert_to_tensor_fn=fn), f"{fn}.*Use 'sample'")
            for fn in ("mean", "mode", "stddev", "entropy", "logits")
        ],
        *[
            (on(lambda k=k: Flow(k), normal(1, dtype="float32")), "2 coord.*'maf'")
            for k in ("realnvp", "spline")
        ],
        (on(Flow, normal(2)), "of float32. Received: dtype=float64"),
        (on(Flow, tfd.Normal(0.0, 1.0)), r"vectors. Received: event_shape=\(\)"),
        (
            on(Flow, tfd.Sample(tfd.Normal(0.0, 1.0), (2, 3))),
            r"vectors. Received: event_shape=\(2, 3\)",
        ),
        (
            lambda: keras.Sequential([tv.IndependentNormal((2, 3)), Flow()])(
                tf.zeros([5, 12])
            ),
            r"vectors. Received: event_shape=\(2, 3\)",
        ),
        (
            on(lambda: shaken(Flow(), 3, "float32"), normal(2, dtype="float32")),
            r"event shape \(3,\).*Received: event_shape=\(2,\)",
        ),
        (lambda: AutoregressiveTransform(AutoregressiveNetwork(3)), "params=2.*=3"),
        (lambda: AutoregressiveTransform(keras.layers.Dense(2)), "params=2.*=None"),
        (lambda: AutoregressiveNetwork(0), "`params` to be an integer"),
        (lambda: AutoregressiveNetwork(2, (3, 2)), "of a vector.*Flatten"),
        (lambda: AutoregressiveNetwork(2, input_order="up"), "permutation.*'up'"),
        (lambda: AutoregressiveNetwork(2, 3, input_order=[1, 2]), r"\[1, 2\]"),
        (
            lambda: AutoregressiveNetwork(2, input_order=[1, 2])(tf.ones([1, 3])),
            r"permutation.*\(1, 2\)",
        ),
        (lambda: AutoregressiveNetwork(2, hidden_degrees="x"), "'random'.*'x'"),
        (lambda: AutoregressiveNetwork(2, 3)(tf.ones([5, 4])), r"\(5, 4\)"),
    ],
)
def test_bad_arguments_are_errors_in_three_parts(make, message):
    with pytest.raises(ValueError, match=rf"(?s)expects.*{message}") as error:
        make()
    assert "Received: " in str(error.value)


@pytest.mark.parametrize("kind", ["maf", "iaf", "realnvp", "spline"])
def test_a_draw_knows_its_density_without_the_inverse(kind):
    """An iaf would need d passes of its network for it."""
    flow = Flow(kind, num_transforms=1, hidden_units=(8,))
    base = tfd.MultivariateNormalDiag(tf.zeros([5, 6]))
    q = flow.transform_distribution(base)
    z, log_prob = draw(q, seed=(1, 2))
    np.testing.assert_allclose(log_prob, q.log_prob(tf.identity(z)), rtol=1e-4)
    assert log_prob.shape == (5,)


def test_the_kl_of_an_iaf_takes_few_passes():
    flow = Flow("iaf", num_transforms=1, hidden_units=(8,))
    flow.build((None, 16))
    passes = []
    network = flow._networks[0]
    call = network.call
    network.call = lambda x: passes.append(1) or call(x)
    q = flow(tv.IndependentNormal(16)(tf.zeros([5, 32])))
    tv.KLDivergenceAddLoss(tv.StandardNormal(16))(q)
    assert 1 <= len(passes) <= 3


def test_counts_have_no_flow():
    with pytest.raises(ValueError, match="of real numbers. Received.*discrete values"):
        Flow("maf")(tv.IndependentPoisson(3)(tf.zeros([2, 3])))


@pytest.mark.parametrize(
    "initializer",
    [
        lambda shape, dtype=None: tf.ones(shape, dtype),
        keras.initializers.Constant(1.0),
        "ones",
    ],
)
def test_initializers_of_every_kind(initializer):
    network = tv.AutoregressiveNetwork(
        2, hidden_units=[8], kernel_initializer=initializer
    )
    network(tf.zeros([1, 3]))
    kernels = [w for w in network.get_weights() if w.ndim == 2]
    assert all(np.isin(kernel, [0.0, 1.0]).all() for kernel in kernels)
    assert all(kernel.any() for kernel in kernels)


def test_a_bijector_of_keras_variables_is_an_error():
    inner = tfp.bijectors.Scale(keras.Variable([1.0, 1.0]))
    for transform in (inner, tfp.bijectors.Chain([tfp.bijectors.Exp(), inner])):
        with pytest.raises(ValueError, match="bijector without variables"):
            tv.Flow(transform)
