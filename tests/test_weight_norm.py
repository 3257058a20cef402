"""Weight normalisation, against its equations in NumPy and against `tfp.layers`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv

DENSE = (lambda **kw: keras.layers.Dense(4, **kw), (64, 5))
LAYERS = {
    "Dense": DENSE,
    "Dense on steps": (DENSE[0], (16, 3, 5)),
    "Conv1D": (
        lambda **kw: keras.layers.Conv1D(4, 3, padding="causal", dilation_rate=2, **kw),
        (16, 9, 2),
    ),
    "Conv2D": (lambda **kw: keras.layers.Conv2D(4, 3, strides=2, **kw), (16, 7, 7, 2)),
    "Conv3D": (lambda **kw: keras.layers.Conv3D(4, 2, **kw), (8, 4, 4, 4, 2)),
    "Conv2DTranspose": (
        lambda **kw: keras.layers.Conv2DTranspose(4, 3, strides=2, **kw),
        (16, 4, 4, 2),
    ),
}


def inputs(shape, rng):
    return rng.normal(3.0, 2.0, shape).astype("float32")


def normalised(v, g, axis):
    """g v / ||v||, with the norm over all axes but one."""
    v = np.asarray(v, "float64")
    axes = tuple(i for i in range(v.ndim) if i != axis % v.ndim)
    g = np.expand_dims(np.asarray(g), [i for i in range(-v.ndim, 0) if i != axis])
    return g * v / np.sqrt(np.sum(v**2, axes, keepdims=True))


def randomised(layer, rng):
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])


@pytest.mark.parametrize("name", LAYERS)
def test_the_kernel_is_g_v_over_the_norm_of_v(name, rng):
    make, shape = LAYERS[name]
    x = inputs(shape, rng)
    plain, wrapped = make(activation="tanh"), tv.WeightNorm(make(activation="tanh"))
    plain(x), wrapped(x)
    g = rng.uniform(0.5, 2.0, size=4)
    randomised(wrapped.layer, rng)
    wrapped.g.assign(g)
    kernel = normalised(wrapped.v, g, -2 if "Transpose" in name else -1)
    plain.set_weights([kernel, wrapped.layer.bias.numpy()])
    np.testing.assert_allclose(wrapped(x), plain(x), atol=2e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_the_first_batch_gives_mean_0_and_variance_1(name, rng):
    make, shape = LAYERS[name]
    wrapped = tv.WeightNorm(make(activation="tanh"))
    first, second = inputs(shape, rng), inputs(shape, rng) + 1
    units = np.arctanh(wrapped(first).numpy().astype("float64"))
    axes = tuple(range(units.ndim - 1))
    np.testing.assert_allclose(units.mean(axes), 0, atol=2e-3)
    np.testing.assert_allclose(units.std(axes), 1, atol=2e-3)
    g = wrapped.g.numpy()
    wrapped(second)
    np.testing.assert_array_equal(wrapped.g, g)
    assert wrapped.initialized.numpy()


def test_g_and_bias_are_those_of_the_paper(rng):
    x = inputs((50, 5), rng)
    wrapped = tv.WeightNorm(keras.layers.Dense(4, activation="relu"))
    wrapped(x)
    t = x @ normalised(wrapped.v, np.ones(4), -1)
    np.testing.assert_allclose(wrapped.g, 1 / t.std(0), rtol=1e-4)
    np.testing.assert_allclose(wrapped.layer.bias, -t.mean(0) / t.std(0), rtol=1e-4)


def test_without_data_init_the_layer_computes_what_it_did(rng):
    x = inputs((8, 5), rng)
    layer = keras.layers.Dense(4)
    expected = layer(x)
    wrapped = tv.WeightNorm(layer, data_init=False)
    np.testing.assert_allclose(wrapped(x), expected, rtol=1e-5)
    assert wrapped.v is layer.kernel


WITHOUT_VARIATION = {
    "one row": lambda row: row,
    "equal rows": lambda row: np.repeat(255 * row, 1000, axis=0),
    "zeros": np.zeros_like,
}


@pytest.mark.parametrize("name", WITHOUT_VARIATION)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_batch_in_which_no_unit_varies_changes_nothing(name, compiled, rng):
    wrapped = tv.WeightNorm(keras.layers.Dense(4, bias_initializer="ones"))
    batch = WITHOUT_VARIATION[name](inputs((1, 5), rng))
    y = (tf.function(wrapped) if compiled else wrapped)(batch)
    np.testing.assert_array_equal(wrapped.g, np.ones(4))
    expected = batch @ normalised(wrapped.v, np.ones(4), -1) + 1
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(wrapped(inputs((64, 5), rng)).numpy().std(0), 1, 1e-5)


def test_constant_images_are_no_first_batch():
    wrapped = tv.WeightNorm(keras.layers.Conv2D(3, 3))
    wrapped(np.full((4, 28, 28, 1), 255.0, "float32"))
    np.testing.assert_array_equal(wrapped.g, np.ones(3))


def test_a_unit_that_does_not_vary_keeps_g_beside_others_that_do(rng):
    wrapped = tv.WeightNorm(keras.layers.Dense(2))
    wrapped.build((None, 2))
    wrapped.v.assign(np.eye(2))
    x = np.stack([rng.normal(scale=1e-6, size=100), np.full(100, 200.0)], axis=1)
    y = wrapped(x.astype("float32")).numpy()
    np.testing.assert_allclose(wrapped.g, [1 / x[:, 0].std(), 1], rtol=1e-5)
    np.testing.assert_allclose(y.std(axis=0), [1, 0], atol=1e-4)
    np.testing.assert_allclose(y[:, 1], np.zeros(100), atol=1e-4)


def test_networks_that_are_built_on_zeros_wait_for_the_first_batch(rng):
    first, prior = (tv.WeightNorm(keras.layers.Dense(4)) for _ in range(2))
    encoder = keras.Sequential([first, tv.IndependentNormal(2)])
    decoder = keras.Sequential([keras.layers.Dense(12), tv.IndependentNormal(6)])
    vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
    vae.compile(keras.optimizers.SGD(0.0))
    x = 3 + 5 * rng.normal(size=(64, 6)).astype("float32")
    vae.fit(x, batch_size=64, verbose=0)
    t = x @ normalised(first.v, np.ones(4), -1)
    np.testing.assert_allclose(first.g, 1 / t.std(0), rtol=1e-4)

    network = keras.Sequential([keras.Input((3,)), prior, tv.IndependentNormal(2)])
    q = tv.IndependentNormal(2)(keras.Input((4,)))
    tv.KLDivergenceAddLoss(network)(q, prior_inputs=keras.Input((3,)))
    assert not prior.initialized.numpy()


def test_gradients_reach_g_v_and_the_bias(rng):
    """Against central differences of the plain layer with the kernel of the paper."""
    x, target = inputs((6, 3), rng), rng.normal(size=(6, 2))
    keras.config.set_dtype_policy("float64")
    wrapped = tv.WeightNorm(keras.layers.Dense(2, activation="tanh"), data_init=False)
    wrapped(x)
    start = [rng.normal(size=w.shape) for w in wrapped.trainable_variables]
    for variable, value in zip(wrapped.trainable_variables, start, strict=True):
        variable.assign(value)

    def loss(g, v, bias):
        y = np.tanh(x @ normalised(v, g, -1) + bias)
        return np.sum((y - target) ** 2)

    with tf.GradientTape() as tape:
        value = tf.reduce_sum((wrapped(x) - target) ** 2)
    assert [v.name for v in wrapped.trainable_variables] == ["g", "kernel", "bias"]
    found = tape.gradient(value, [v.value for v in wrapped.trainable_variables])
    assert float(value) == pytest.approx(loss(*start))
    for i, gradient in enumerate(found):
        for at in np.ndindex(tuple(gradient.shape)):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [part.copy() for part in start]
                moved[i][at] += step
                ends.append(loss(*moved))
            slope = (ends[0] - ends[1]) / 2e-5
            assert float(gradient[at]) == pytest.approx(slope, abs=1e-6)


def network():
    return [
        tv.WeightNorm(keras.layers.Dense(5, activation="relu")),
        tv.WeightNorm(keras.layers.Dense(2)),
    ]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = network()

    def call(self, x):
        return self.parts[1](self.parts[0](x))


MODELS = {
    "tv": (lambda: tv.Sequential(network()), True),
    "keras": (lambda: keras.Sequential([keras.Input((5,)), *network()]), False),
    "subclass": (Subclassed, True),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_first_batch_counts_in_a_subclassed_model(name, rng):
    """In `fit`, also with XLA, and after the symbolic build."""
    make, jit_compile = MODELS[name]
    model, x = make(), inputs((32, 5), rng)
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit_compile)
    model.fit(x, np.zeros((32, 2)), batch_size=32, epochs=2, verbose=0)
    layers = model.parts if name == "subclass" else model.layers
    t = x @ normalised(layers[0].v, np.ones(5), -1)
    np.testing.assert_allclose(layers[0].g, 1 / t.std(0), rtol=1e-3)
    y = model(x).numpy()
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(y.std(0), 1, atol=1e-3)


def test_training_goes_on_where_it_was_saved(rng, tmp_path):
    x, y = inputs((32, 5), rng), rng.normal(size=(32, 2))
    model = tv.Sequential(network())
    model.compile("sgd", "mse")
    first = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    assert first[2] < first[0]
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert all(layer.initialized.numpy() for layer in loaded.layers)
    other = 3 * x - 20  # would give other g to a layer that forgot its first batch
    np.testing.assert_allclose(loaded(other), model(other), rtol=1e-6)
    for part in (model, loaded):
        part.fit(other, y, epochs=1, batch_size=32, verbose=0)
    for new, old in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(x), model(x), rtol=1e-4, atol=1e-5)


def test_replicas_need_a_first_batch_before(rng):
    x = inputs((8, 5), rng)
    # TF's collective ops mix up several strategies in one process.
    reduction = tf.distribute.ReductionToOneDevice()
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], reduction).scope():
        model = tv.Sequential([keras.Input((5,)), network()[1]])
        model.compile(keras.optimizers.SGD(0.0), "mse")
    with pytest.raises(ValueError, match=r"expects its first batch.*Received: .*Call"):
        model.fit(x, x[:, :2], verbose=0)
    model(x)
    g = model.layers[0].g.numpy()
    model.fit(x, x[:, :2], verbose=0)
    np.testing.assert_array_equal(model.layers[0].g, g)


def test_losses_of_the_layer_are_kept(rng):
    x = inputs((8, 5), rng)
    regularizer = keras.regularizers.L2(0.1)
    layer = keras.layers.Dense(
        4, activity_regularizer=regularizer, bias_regularizer=regularizer
    )
    wrapped = tv.WeightNorm(layer)
    wrapped(x)
    y = wrapped(x)
    expected = 0.1 * np.sum(np.square(y)) / 8 + 0.1 * np.sum(layer.bias.numpy() ** 2)
    assert float(sum(wrapped.losses)) == pytest.approx(expected, rel=1e-5)


class Counting(keras.layers.Dense):
    def build(self, input_shape):
        super().build(input_shape)
        self.calls = self.add_weight(name="calls", trainable=False, initializer="zeros")

    def call(self, inputs):
        self.calls.assign_add(1.0)
        return super().call(inputs)


def test_state_of_the_layer_is_kept(rng):
    wrapped = tv.WeightNorm(Counting(4), data_init=False)
    for _ in range(3):
        wrapped(inputs((8, 5), rng))
    assert float(wrapped.layer.calls) == 3


def test_a_scope_around_it_gives_all_values(rng):
    x = inputs((8, 5), rng)
    wrapped = tv.WeightNorm(keras.layers.Dense(4))
    wrapped(x)
    values = [rng.normal(size=v.shape) for v in wrapped.trainable_variables]
    kept = [v.numpy() for v in wrapped.non_trainable_variables]
    y, _ = wrapped.stateless_call(values, kept, x)
    g, v, bias = values
    np.testing.assert_allclose(y, x @ normalised(v, g, -1) + bias, rtol=1e-4, atol=1e-4)
    assert not np.allclose(wrapped(x), y)


def test_half_precision_normalises_in_float32(rng):
    keras.config.set_dtype_policy("mixed_bfloat16")
    x = inputs((64, 5), rng)
    wrapped = tv.WeightNorm(keras.layers.Dense(4))
    y = wrapped(x)
    assert (y.dtype, wrapped.g.dtype, wrapped.v.dtype) == (
        tf.bfloat16,
        *2 * ["float32"],
    )
    t = x @ normalised(wrapped.v, np.ones(4), -1)
    np.testing.assert_allclose(wrapped.g, 1 / t.std(0), rtol=1e-3)
    assert wrapped.compute_output_spec(keras.KerasTensor((None, 5))).dtype == "bfloat16"


BAD = {
    "no layer": (lambda: tv.WeightNorm("dense"), "a Keras layer"),
    "unknown": (lambda: tv.WeightNorm(keras.layers.LSTM(3)), "a `Dense`, `Conv1D` to"),
    "no kernel": (
        lambda: tv.WeightNorm(keras.layers.LayerNormalization(), False)(
            tf.ones([2, 3])
        ),
        "variable `kernel`",
    ),
    "depthwise": (
        lambda: tv.WeightNorm(keras.layers.DepthwiseConv1D(2), False)(
            tf.ones([2, 5, 3])
        ),
        "one axis of units",
    ),
    "regularizer": (
        lambda: tv.WeightNorm(keras.layers.Dense(2, kernel_regularizer="l2")),
        "without `kernel_regularizer`",
    ),
    "data_init": (lambda: tv.WeightNorm(keras.layers.Dense(2), 1), "True or False"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_errors_of_three_parts(name):
    bad, expected = BAD[name]
    with pytest.raises(ValueError, match=rf"expects.*{expected}.*Received: .*\. \w"):
        bad()


@pytest.mark.parametrize("name", ["Dense", "Conv2D", "Conv2DTranspose"])
def test_the_layer_of_tfp_layers(name, rng):
    tf_keras = pytest.importorskip("tf_keras", reason="tfp.layers needs tf_keras")
    options = {} if name == "Dense" else {"kernel_size": 3, "strides": 2}
    layers = [
        getattr(k.layers, name)(4, activation="tanh", **options)
        for k in (tf_keras, keras)
    ]
    x = inputs(LAYERS[name][1], rng)
    old, new = tfp.layers.weight_norm.WeightNorm(layers[0]), tv.WeightNorm(layers[1])
    for wrapped in (old, new):
        wrapped.build(x.shape)
    new.v.assign(old.v.numpy())
    np.testing.assert_allclose(new(x), old(x), atol=1e-4)  # of the first batch
    np.testing.assert_allclose(new.g, old.g, rtol=1e-4)
    np.testing.assert_allclose(layers[1].bias, layers[0].bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new(-x), old(-x), atol=1e-4)


def test_one_row_and_tfp_layers(rng):
    """What docs/migrating.md says of it."""
    tf_keras = pytest.importorskip("tf_keras", reason="tfp.layers needs tf_keras")
    old = tfp.layers.weight_norm.WeightNorm(tf_keras.layers.Dense(4))
    old(inputs((1, 5), rng))
    np.testing.assert_allclose(old.g, 1e5, rtol=1e-3)
