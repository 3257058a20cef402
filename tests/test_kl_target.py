"""Free bits, capacities and numbers of samples: what the KL costs."""

import keras
import models
import numpy as np
import pytest
import reference
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv
from tfp_vae.keras_internals import set_mask
from tfp_vae.kl.target import KLTarget

tfd = tfp.distributions
X = models.digits()


def loss_and_metric(params, prior=None, mask=None, **kl):
    layer = tv.KLDivergenceAddLoss(prior or tv.StandardNormal(3), **kl)
    q = tv.IndependentNormal(3)(params)
    layer(set_mask(q, mask))
    return float(layer.losses[0]), float(layer._kl_metric.result())


@pytest.fixture
def params(rng):
    return rng.normal(size=(8, 6)).astype("float32")


def kl_per_dimension(params):
    loc, scale = reference.loc_scale_parts(params, (3,))
    return 0.5 * (loc**2 + scale**2 - 1 - 2 * np.log(scale))


def test_free_bits_of_each_dimension(params):
    expected = kl_per_dimension(params)
    nats = float(np.median(expected.mean(0)))  # above one, below another
    loss, metric = loss_and_metric(params, free_bits=nats)
    of_dimensions = np.maximum(expected.mean(0), nats)
    np.testing.assert_allclose(loss, of_dimensions.sum(), rtol=1e-5)
    np.testing.assert_allclose(metric, expected.sum(1).mean(), rtol=1e-5)


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_free_bits_in_total(params, share):
    expected = kl_per_dimension(params).sum(1).mean()
    nats = share * expected
    loss, metric = loss_and_metric(params, free_bits=nats, free_bits_per="total")
    np.testing.assert_allclose(loss, max(expected, nats), rtol=1e-5)
    np.testing.assert_allclose(metric, expected, rtol=1e-5)


@pytest.mark.parametrize("capacity", [0.0, 100.0, lambda: 2.0])
def test_a_capacity_is_a_distance(params, capacity):
    expected = kl_per_dimension(params).sum(1).mean()
    target = capacity() if callable(capacity) else capacity
    loss, metric = loss_and_metric(params, capacity=capacity, weight=3.0)
    np.testing.assert_allclose(loss, 3 * abs(expected - target), rtol=1e-5)
    np.testing.assert_allclose(metric, expected, rtol=1e-5)


def test_bits_below_the_free_ones_have_no_gradient(params):
    layer = tv.KLDivergenceAddLoss(tv.StandardNormal(3), free_bits=0.7)
    variable = tf.Variable(params)
    with tf.GradientTape() as tape:
        layer(tv.IndependentNormal(3)(variable))
        loss = layer.losses[0]
    gradient = tape.gradient(loss, variable).numpy()
    used = kl_per_dimension(params).mean(0) > 0.7
    assert used.any()
    assert not used.all()
    for part in np.split(gradient, 2, axis=1):
        assert (part[:, ~used] == 0).all()
        assert (part[:, used] != 0).all()


def test_a_mask_leaves_members_out_of_the_free_bits(params):
    mask = np.arange(8) < 5
    loss, metric = loss_and_metric(params, mask=tf.constant(mask), free_bits=0.5)
    expected = kl_per_dimension(params[mask])
    of_dimensions = np.maximum(expected.mean(0), 0.5).sum()
    np.testing.assert_allclose(loss, of_dimensions, rtol=1e-5)
    np.testing.assert_allclose(metric, expected.sum(1).mean(), rtol=1e-5)


def test_free_bits_by_monte_carlo(params):
    """To a prior without closed form, with the draw that the decoder sees."""
    prior = tfd.Sample(tfd.StudentT(3.0, 0.0, 1.0), 3)
    layer = tv.KLDivergenceAddLoss(prior, free_bits=0.1)
    q = tv.IndependentNormal(3)(params)
    layer(q)
    z = tf.convert_to_tensor(q)
    ratio = q.distribution.log_prob(z) - prior.distribution.log_prob(z)
    expected = np.maximum(ratio.numpy().mean(0), 0.1).sum()
    np.testing.assert_allclose(layer.losses[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "prior",
    [
        tv.StandardNormal((2, 3)),
        tfd.Sample(tfd.Normal(0.0, 1.0), (2, 3)),
        tfd.Independent(tfd.Normal(tf.zeros([2, 3]), 1.0), 2),
    ],
)
def test_a_dimension_is_a_coordinate_of_the_event(prior, rng):
    params = rng.normal(size=(5, 12)).astype("float32")
    loc, scale = reference.loc_scale_parts(params, (2, 3))
    kl = 0.5 * (loc**2 + scale**2 - 1 - 2 * np.log(scale))
    layer = tv.KLDivergenceAddLoss(prior, free_bits=0.5)
    layer(tv.IndependentNormal((2, 3))(params))
    expected = np.maximum(kl.mean(0), 0.5).sum()
    np.testing.assert_allclose(layer.losses[0], expected, rtol=1e-5)


def test_laws_that_do_not_factorise_have_no_dimensions():
    layer = tv.KLDivergenceAddLoss(tv.StandardNormal(3), free_bits=0.5)
    q = tv.MultivariateNormalTriL(3)(tf.zeros([2, 9]))
    message = r"factorise over the coordinates of the event\..*MultivariateNormalTriL"
    with pytest.raises(ValueError, match=message):
        layer(q)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"free_bits": 0.0}, "above 0.*Received: free_bits=0.0"),
        ({"free_bits": True}, "above 0.*Received: free_bits=True"),
        ({"free_bits": 1.0, "free_bits_per": "pixel"}, "or 'total'. Received"),
        ({"free_bits": 1.0, "capacity": 1.0}, "Received: both"),
        ({"capacity": -1.0}, "of at least 0.*Received: capacity=-1.0"),
        ({"capacity": keras.Variable(1.0)}, "not trainable.*Received"),
    ],
)
def test_bad_targets_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        tv.KLDivergenceAddLoss(tv.StandardNormal(3), **arguments)
    with pytest.raises(ValueError, match=message):
        KLTarget(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"free_bits": 0.5},
        {"free_bits": 2.0, "free_bits_per": "total"},
        {"capacity": 5.0},
        {"num_samples": 4, "use_exact_kl": False},
    ],
)
@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_targets_train_save_and_load(arguments, jit_compile, tmp_path):
    model = models.vae(jit_compile=jit_compile, **arguments)
    losses = model.fit(X, X, epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "vae.keras")
    again = keras.models.load_model(tmp_path / "vae.keras")
    assert model.evaluate(X, X, verbose=0) == again.evaluate(X, X, verbose=0)


def test_an_annealed_capacity_trains_and_comes_back(tmp_path):
    capacity = keras.Variable(0.0, trainable=False)
    model = models.vae(capacity=capacity, weight=10.0)
    rise = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: capacity.assign(min(6.0, epoch / 4))
    )
    history = model.fit(X, X, epochs=60, callbacks=[rise], verbose=0).history
    assert abs(history["kl"][-1] - 6.0) < 0.5
    model.save(tmp_path / "vae.keras")
    again = keras.models.load_model(tmp_path / "vae.keras")
    layer = next(x for x in again.layers if isinstance(x, tv.KLDivergenceAddLoss))
    assert float(layer._kl_capacity.numpy()) == 6.0


def test_more_samples_estimate_with_less_variance(params):
    prior = tfd.Sample(tfd.StudentT(3.0, 0.0, 1.0), 3)
    spread = []
    for num_samples in (1, 100):
        layer = tv.KLDivergenceAddLoss(prior, num_samples=num_samples)
        losses = []
        for _ in range(30):
            layer(tv.IndependentNormal(3)(params))
            losses.append(float(layer.losses[0]))
        spread.append(np.std(losses))
    assert spread[1] < spread[0] / 5
    with pytest.raises(ValueError, match="at least 1. Received: num_samples=0"):
        tv.KLDivergenceAddLoss(prior, num_samples=0)
    for argument in ({"use_exact_kl": True}, {"test_points_fn": lambda q: q.sample(3)}):
        with pytest.raises(ValueError, match="draws. Received: num_samples=3 with"):
            tv.KLDivergenceAddLoss(prior, num_samples=3, **argument)


def test_free_bits_may_be_annealed(params):
    free_bits = keras.Variable(0.5, trainable=False)
    layer = tv.KLDivergenceAddLoss(tv.StandardNormal(3), free_bits=free_bits)
    losses = []
    for nats in (0.5, 50.0):
        free_bits.assign(nats)
        layer(tv.IndependentNormal(3)(params))
        losses.append(float(layer.losses[0]))
    assert losses[1] == 150.0
    number = tv.KLDivergenceAddLoss(tv.StandardNormal(3), free_bits=np.float32(0.5))
    assert type(number.get_config()["free_bits"]) is float
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert float(again._kl_free_bits.numpy()) == 50.0


def test_a_draw_without_gradient_is_warned_of(params):
    mixture = tv.MixtureSameFamily(2, tv.IndependentNormal(3))
    inputs = np.zeros((2, 14), "float32")
    layer = tv.KLDivergenceAddLoss(tv.StandardNormal(3))
    with pytest.warns(UserWarning, match="are not reparameterised.*gradient is not"):
        layer(mixture(inputs))


def test_a_reparameterised_mixture_is_a_posterior():
    """Its logits get a gradient from the draw alone, as finite differences say."""
    layer = tv.MixtureSameFamily(2, tv.IndependentNormal(2), reparameterize=True)
    start = tf.constant([[0.3, -0.2, 1.0, 0.0, 0.5, 0.1, -1.0, 0.5, 0.2, 0.4]])
    n = 200_000

    def mean_square(parameters):
        z = layer.make_distribution(parameters).sample(n, seed=(1, 2))
        return tf.reduce_mean(tf.reduce_sum(z**2, -1))

    def second_moment(parameters):
        p = layer.make_distribution(parameters)
        return tf.reduce_sum(p.variance() + p.mean() ** 2)

    gradients = []
    for fn in (mean_square, second_moment):
        with tf.GradientTape() as tape:
            tape.watch(start)
            value = fn(start)
        gradients.append(tape.gradient(value, start).numpy())
    np.testing.assert_allclose(*gradients, atol=0.03)
    tv.KLDivergenceAddLoss(tv.StandardNormal(2))(layer(start))
