import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv

tfd = tfp.distributions
SHARED = keras.Variable(0.5, name="shared")


@keras.saving.register_keras_serializable("test_distribution_lambda")
def normal_of_a_shared_scale(loc):
    return tfd.Independent(tfd.Normal(loc, tf.exp(SHARED)), 1)


def reads_a_closure():
    scale = keras.Variable(0.5)
    return lambda loc: tfd.Independent(tfd.Normal(loc, tf.exp(scale)), 1), scale


def reads_a_list():
    scales = [keras.Variable(0.5)]
    return lambda loc: tfd.Independent(tfd.Normal(loc, tf.exp(scales[0])), 1), scales[0]


def reads_a_default():
    scale = keras.Variable(0.5)

    def fn(loc, scale=scale):
        return tfd.Independent(tfd.Normal(loc, tf.exp(scale)), 1)

    return fn, scale


def is_a_partial():
    scale = keras.Variable(0.5)

    def fn(scale, loc):
        return tfd.Independent(tfd.Normal(loc, tf.exp(scale)), 1)

    return functools.partial(fn, scale), scale


def calls_another():
    scale = keras.Variable(0.5)

    def inner(loc):
        return tfd.Normal(loc, tf.exp(scale))

    return lambda loc: tfd.Independent(inner(loc), 1), scale


def is_an_object():
    class Family:
        def __init__(self):
            self.scale = keras.Variable(0.5)

        def __call__(self, loc):
            return tfd.Independent(tfd.Normal(loc, tf.exp(self.scale)), 1)

    family = Family()
    return family, family.scale


def reads_a_global():
    return normal_of_a_shared_scale, SHARED


def reads_a_global_in_a_comprehension():
    return (
        lambda loc: tfd.Independent(
            tfd.Normal(loc, [tf.exp(v) for v in [SHARED, SHARED]]), 1
        ),
        SHARED,
    )


def is_a_method():
    class Family:
        def __init__(self):
            self.scale = keras.Variable(0.5)

        def make(self, loc):
            return tfd.Independent(tfd.Normal(loc, tf.exp(self.scale)), 1)

    family = Family()
    return family.make, family.scale


def calls_a_method_that_reads():
    class Family:
        def __init__(self):
            self.raw = keras.Variable(0.5)

        @property
        def scale(self):
            return tf.exp(self.raw)

        def make(self, loc):
            return self.independent(tfd.Normal(loc, self.scale))

        def independent(self, p):
            return tfd.Independent(p, 1)

    family = Family()
    return lambda loc: family.make(loc), family.raw


def reads_an_attribute_elsewhere():
    class Parameters:
        __slots__ = ("scale",)

    parameters = Parameters()
    parameters.scale = keras.Variable(0.5)

    def scale_of(held):
        return tf.exp(getattr(held, "scale"))  # noqa: B009

    return (
        lambda loc: tfd.Independent(tfd.Normal(loc, scale_of(parameters)), 1),
        parameters.scale,
    )


def reads_a_class():
    class Parameters:
        scale = keras.Variable(0.5)

    return (
        lambda loc: tfd.Independent(tfd.Normal(loc, tf.exp(Parameters.scale)), 1),
        Parameters.scale,
    )


def has_a_bijector_with_a_network():
    network = tv.AutoregressiveNetwork(2, event_shape=2, hidden_units=[8])
    network.build((None, 2))
    bijector = tfp.bijectors.MaskedAutoregressiveFlow(network)
    return (
        lambda loc: tfd.TransformedDistribution(
            tfd.MultivariateNormalDiag(loc, tf.ones_like(loc)), bijector
        ),
        network.trainable_variables[-1],
    )


def reads_a_layer():
    layer = keras.layers.Dense(1, bias_initializer="ones", kernel_initializer="zeros")
    layer.build((None, 2))
    return (
        lambda loc: tfd.Independent(tfd.Normal(loc, tf.exp(layer(loc))), 1),
        layer.bias,
    )


@pytest.mark.parametrize("engine", [tv.Sequential, keras.Sequential])
@pytest.mark.parametrize(
    "made",
    [
        reads_a_closure,
        reads_a_list,
        reads_a_default,
        is_a_partial,
        calls_another,
        is_an_object,
        reads_a_global,
        reads_a_global_in_a_comprehension,
        is_a_method,
        calls_a_method_that_reads,
        reads_an_attribute_elsewhere,
        reads_a_class,
        has_a_bijector_with_a_network,
        reads_a_layer,
    ],
)
def test_a_variable_that_the_function_reads_is_trained(made, engine, rng):
    fn, variable = made()
    before = variable.numpy().copy()
    model = engine(
        [keras.Input((3,)), keras.layers.Dense(2), tv.DistributionLambda(fn)]
    )
    assert any(v is variable for v in model.trainable_variables)
    model.compile("sgd", loss=tv.NegativeLogLikelihood())
    model.fit(rng.normal(size=(8, 3)), rng.normal(size=(8, 2)), verbose=0)
    assert not np.allclose(before, variable.numpy())
    variable.assign(before)


def test_the_trained_scale_is_the_closed_form(rng):
    """The most likely scale of a normal distribution is the deviation of the data."""
    log_scale = keras.Variable(0.0)
    layer = tv.DistributionLambda(
        lambda x: tfd.Independent(tfd.Normal(0 * x, tf.exp(log_scale)), 1)
    )
    model = tv.Sequential([keras.Input((1,)), layer])
    model.compile(keras.optimizers.Adam(0.05), loss=tv.NegativeLogLikelihood())
    y = rng.normal(size=(256, 1)) * 3
    model.fit(y, y, epochs=150, batch_size=256, verbose=0)
    np.testing.assert_allclose(
        np.exp(log_scale.numpy()), np.sqrt((y**2).mean()), rtol=0.01
    )


def test_what_the_function_reads_is_saved_in_safe_mode(tmp_path):
    layer = tv.DistributionLambda(normal_of_a_shared_scale)
    model = keras.Sequential([keras.Input((2,)), layer])
    SHARED.assign(1.25)
    model.save(tmp_path / "m.keras")
    SHARED.assign(0.5)
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again(tf.zeros([1, 2])).stddev(), np.exp(1.25))
    SHARED.assign(0.5)


def test_a_model_that_contains_the_layer_is_not_tracked_by_it(rng):
    class Regression(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)
            self.scale = self.add_weight(shape=(), initializer="ones")
            self.head = tv.DistributionLambda(
                lambda loc: tfd.Independent(tfd.Normal(loc, self.scale), 1)
            )

        def call(self, x):
            return self.head(self.dense(x))

    model = Regression()
    model.compile("sgd", loss=tv.NegativeLogLikelihood())
    model.fit(rng.normal(size=(8, 3)), rng.normal(size=(8, 2)), verbose=0)
    assert len(model.trainable_variables) == 3
    assert float(model.scale) != 1.0


HELD = {
    "variable": lambda: tf.Variable(1.0),
    "distribution": lambda: tfd.Normal(0.0, tf.Variable(1.0)),
    "keras variable in one": lambda: tfd.Normal(0.0, keras.Variable(1.0)),
    "keras variable deep in one": lambda: tfd.Independent(
        tfd.Normal([0.0], keras.Variable([1.0])), 1
    ),
    "bijector": lambda: tfp.bijectors.Scale(tf.Variable(2.0)),
    "chain": lambda: tfp.bijectors.Chain([tfp.bijectors.Shift(keras.Variable(1.0))]),
}


@pytest.mark.parametrize("name", HELD)
def test_a_variable_that_keras_cannot_train_is_an_error(name):
    held = HELD[name]()

    def reads(loc):
        if isinstance(held, tfd.Distribution):
            return tfd.Normal(loc + held.stddev(), 1.0)
        if isinstance(held, tfp.bijectors.Bijector):
            return tfd.TransformedDistribution(tfd.Normal(loc, 1.0), held)
        return tfd.Normal(loc, held)

    with pytest.raises(ValueError, match=r"expects.*Received.*keras\.Variable"):
        tv.DistributionLambda(reads)(tf.zeros([2, 3]))


def test_a_constant_of_tensorflow_may_be_read():
    constant = tf.Variable(2.0, trainable=False)
    layer = tv.DistributionLambda(lambda loc: tfd.Normal(loc, constant))
    np.testing.assert_allclose(layer(tf.zeros([3])).stddev(), 2.0)


def test_a_conversion_trains_what_it_reads(rng):
    shift = keras.Variable(0.0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            tv.IndependentNormal(2, lambda p: p.mean() + shift),
            keras.layers.Dense(1),
        ]
    )
    assert any(v is shift for v in model.trainable_variables)


@keras.saving.register_keras_serializable("test_distribution_lambda")
class WidthOfTwo(tv.DistributionLambda):
    @staticmethod
    def params_size():
        return 2


@keras.saving.register_keras_serializable("test_distribution_lambda")
def shifted_draw(p, seed):
    return p.sample(seed=seed) + SHARED


LAYERS_WITH_LAYERS = {
    "mixture": lambda: tv.MixtureSameFamily(
        2, tv.DistributionLambda(normal_of_a_shared_scale)
    ),
    "block beside a variable": lambda: tv.Blockwise(
        [tv.IndependentNormal(4, scale="shared"), WidthOfTwo(normal_of_a_shared_scale)]
    ),
    "mixture in a block": lambda: tv.Blockwise(
        [tv.MixtureSameFamily(2, WidthOfTwo(normal_of_a_shared_scale))]
    ),
    "conversion beside a variable": lambda: tv.IndependentNormal(
        6, shifted_draw, scale="shared"
    ),
    "conversion of a flow": lambda: keras.Sequential(
        [
            tv.IndependentNormal(3),
            tv.AutoregressiveTransform(
                tv.AutoregressiveNetwork(2), convert_to_tensor_fn=shifted_draw
            ),
        ]
    ),
}


@pytest.mark.parametrize("name", LAYERS_WITH_LAYERS)
def test_what_functions_deeper_inside_read_is_trained_and_saved(name, tmp_path, rng):
    layer, plain = LAYERS_WITH_LAYERS[name](), "conversion" in name
    end = [keras.layers.Dense(1)] if plain else []
    model = keras.Sequential([keras.Input((6,)), layer, *end])
    assert sum(v is SHARED for v in model.trainable_variables) == 1
    model.compile("sgd", loss="mse" if plain else tv.NegativeLogLikelihood())
    x = rng.normal(size=(8, 6)).astype("float32")
    y = np.full((8, *model.output_shape[1:]), 3.0, "float32")
    try:
        SHARED.assign(0.5)
        model.fit(x, y, verbose=0)
        trained = SHARED.numpy()
        assert trained != np.float32(0.5)
        model.save(tmp_path / "m.keras")
        SHARED.assign(0.5)
        again = keras.models.load_model(tmp_path / "m.keras")
        assert SHARED.numpy() == trained
        assert len(again.variables) == len(model.variables)
    finally:
        SHARED.assign(0.5)


def test_a_mixture_refuses_what_its_component_cannot_train():
    held = tf.Variable(1.0)
    component = tv.DistributionLambda(lambda x: tfd.Normal(x[..., 0], held))
    with pytest.raises(ValueError, match=r"expects.*Received.*keras\.Variable"):
        tv.MixtureSameFamily(2, component)(tf.zeros([2, 4]))


INPUTS = {
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "dictionary": lambda a, b: {"loc": a, "scale": b},
}


@pytest.mark.parametrize("engine", [tv.Model, keras.Model])
@pytest.mark.parametrize("kind", INPUTS)
def test_several_inputs_train(kind, engine, rng):
    x = keras.Input((4,))
    given = INPUTS[kind](keras.layers.Dense(2)(x), keras.layers.Dense(2)(x))

    def fn(parts):
        loc, raw = parts.values() if isinstance(parts, dict) else parts
        return tfd.Independent(tfd.Normal(loc, tf.math.softplus(raw)), 1)

    model = engine(x, tv.DistributionLambda(fn)(given))
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    data, y = rng.normal(size=(8, 4)), rng.normal(size=(8, 2)).astype("float32")
    before = -model(data).log_prob(y).numpy().mean()
    history = model.fit(data, y, batch_size=8, verbose=0).history
    np.testing.assert_allclose(history["loss"][0], before, rtol=1e-5)
    assert model.predict(data, verbose=0).shape == (8, 2)


@pytest.mark.parametrize("engine", [tv.Model, keras.Model])
def test_a_step_counts_where_no_input_masks_it(engine, rng):
    x = keras.Input((5, 3))
    masked = keras.layers.Masking()(x)
    dense = keras.layers.Dense(2)
    parts = [dense(masked), keras.layers.Dense(2)(x)]
    layer = tv.DistributionLambda(
        lambda ab: tfd.Independent(tfd.Normal(ab[0], tf.math.softplus(ab[1])), 1)
    )
    model = engine(x, layer(parts))
    model.compile("sgd", loss=tv.NegativeLogLikelihood())
    data = rng.normal(size=(4, 5, 3)).astype("float32")
    data[0, 2:] = 0.0
    y = rng.normal(size=(4, 5, 2)).astype("float32")
    log_prob = model(data).log_prob(y).numpy()
    there = np.any(data != 0, axis=-1)
    found = model.evaluate(data, y, verbose=0)
    np.testing.assert_allclose(found, -log_prob[there].mean(), rtol=1e-5)


def test_masks_of_other_shapes_are_an_error():
    layer = tv.DistributionLambda(lambda ab: tfd.Normal(ab[0], 1.0))
    masks = [tf.ones([2], tf.bool), tf.ones([2, 3], tf.bool)]
    with pytest.raises(ValueError, match=r"masks of one shape.*Received"):
        layer.call([tf.zeros([2, 3]), tf.zeros([2, 3])], mask=masks)


def test_a_second_input_is_not_taken_for_a_mask():
    layer = tv.DistributionLambda(lambda a: tfd.Normal(a, 1.0))
    with pytest.raises(ValueError, match=r"in one list.*Received: 2 arguments"):
        layer(tf.zeros([2, 3]), tf.zeros([2, 3]))


def test_an_unknown_rank_says_which_axis_to_name():
    layer = tv.DistributionLambda(lambda t: tfd.Normal(tf.squeeze(t), 1.0))
    with pytest.raises(ValueError, match=r"known number of axes.*axis=-1"):
        keras.Sequential([keras.Input((1,)), layer])
    named = tv.DistributionLambda(lambda t: tfd.Normal(tf.squeeze(t, -1), 1.0))
    assert keras.Sequential([keras.Input((1,)), named]).output_shape == (None,)


def distributions_of(p, q):
    """Distributions of TFP made of two predicted ones."""
    mix = tfd.Categorical(probs=tf.fill([p.batch_shape[0], 2], 0.5))
    return {
        "transformed": tfd.TransformedDistribution(p, tfp.bijectors.Shift(1.0)),
        "sample": tfd.Sample(p, 3),
        "mixture": tfd.Mixture(mix, [p, q]),
        "blockwise": tfd.Blockwise([p, q]),
        "reshaped": tfd.BatchReshape(p, [2, 2]),
        "broadcast": tfd.BatchBroadcast(p, [3, 4]),
    }


NAMES = ["transformed", "sample", "mixture", "blockwise", "reshaped", "broadcast"]


@pytest.mark.parametrize("name", NAMES)
def test_a_distribution_of_predicted_ones_is_that_of_plain_ones(name, rng):
    layer = tv.IndependentNormal(2)
    p, q = (layer(rng.normal(size=(4, 4)).astype("float32")) for _ in range(2))
    ours = distributions_of(p, q)[name]
    plain = distributions_of(p.tensor_distribution, q.tensor_distribution)[name]
    value = plain.sample(seed=[1, 2])
    np.testing.assert_array_equal(ours.sample(seed=[1, 2]), value)
    np.testing.assert_allclose(ours.log_prob(value), plain.log_prob(value))


def test_what_the_function_does_not_read_is_not_tracked():
    class Experiment:
        def __init__(self):
            self.scale = keras.Variable(1.0)
            self.other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
            self.log = {1: "a", "b": tf.Variable(1.0)}
            self.head = tv.DistributionLambda(
                lambda loc: tfd.Normal(loc, self.scale), "mean"
            )

    experiment = Experiment()
    experiment.head(tf.zeros([2, 3]))
    assert experiment.head.trainable_variables == [experiment.scale]


def test_a_functional_subclass_may_use_its_methods():
    class Regression(keras.Model):
        def __init__(self):
            x = keras.Input((3,))
            h = keras.layers.Dense(2)(x)
            super().__init__(x, tv.DistributionLambda(self.make)(h))

        def make(self, loc):
            return tfd.Independent(tfd.Normal(loc, 1.0), 1)

    assert len(Regression().trainable_variables) == 2


def test_a_layer_built_before_its_model_has_it():
    class Regression(keras.Model):
        def __init__(self):
            super().__init__()
            self.scale = self.add_weight(shape=(), initializer="ones")
            head = tv.DistributionLambda(lambda a: tfd.Normal(a, self.scale))
            head(tf.zeros([2, 3]))
            self.head = head

        def call(self, x):
            return self.head(x)

    assert len(Regression().trainable_variables) == 1


def test_large_and_deep_data_are_no_obstacle():
    data, nested = list(range(1_000_000)), []
    for _ in range(5_000):
        nested = [nested]
    scale = keras.Variable(1.0)

    def fn(loc):
        return tfd.Normal(loc, scale * len(data) / (len(nested) * 1e6))

    layer = tv.DistributionLambda(fn, "mean")
    layer(tf.zeros([3]))
    assert layer.trainable_variables == [scale]


def test_joint_distributions_have_lists_of_shapes():
    layer = tv.DistributionLambda(
        lambda a: tfd.JointDistributionSequential(
            [tfd.Normal(a, 1.0), tfd.Normal(a, 2.0)]
        )
    )
    first, second = layer(tf.zeros([4])).sample()
    assert first.shape == second.shape == (4,)


def test_a_subclass_may_pass_on_a_mask():
    class Mine(tv.DistributionLambda):
        def call(self, inputs, mask=None):
            return super().call(inputs, mask)

    assert Mine(lambda a: tfd.Normal(a, 1.0))(tf.zeros([4])).shape == (4,)


def test_variables_are_found_under_a_strategy(rng):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        scale = keras.Variable(1.0)
        model = keras.Sequential(
            [
                keras.Input((2,)),
                tv.DistributionLambda(
                    lambda loc: tfd.Independent(tfd.Normal(loc, scale), 1), "mean"
                ),
            ]
        )
        model.compile("sgd", loss=tv.NegativeLogLikelihood())
    x = rng.normal(size=(8, 2)).astype("float32")
    model.fit(x, x + 2, verbose=0)
    assert model.trainable_variables == [scale]
    assert float(scale.numpy()) != 1.0


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_an_array_of_any_precision_may_come_first(dtype):
    """Keras casts it, and so does the search for variables."""
    scale = keras.Variable(2.0)
    layer = tv.DistributionLambda(lambda loc: tfd.Normal(loc, scale), "mean")
    layer(np.zeros([4, 2], dtype))
    assert layer.trainable_variables == [scale]


def test_variables_of_the_layer_itself_are_no_error():
    class Family(tv.DistributionLayer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.scale = self.add_weight(shape=(), initializer="ones")

        def make_distribution(self, parameters):
            return tfd.Normal(parameters, self.scale)

    shift = keras.Variable(1.0)
    layer = Family(convert_to_tensor_fn=lambda p: p.mean() + shift)
    np.testing.assert_allclose(layer(tf.zeros([3])), 1.0)
    assert len(layer.trainable_variables) == 2
