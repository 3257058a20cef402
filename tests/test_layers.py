"""One contract for every layer that outputs a distribution."""

import contextlib
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from families import FAMILIES, directions, extremes, fractions, positives, reals

import tfp_vae as tv
from tfp_vae.draws import draw
from tfp_vae.layers.distribution_layer import DistributionLayer

tfd = tfp.distributions
BATCH = 5
ABSTRACT = (
    "CountsLayer",
    "FlowLayer",
    "IndependentLayer",
    "LocationScaleLayer",
    "MixtureOfLocationScale",
    "RelaxedLayer",
    "SharedTotalLayer",
    "SphericalLayer",
    "TwoConcentrations",
    "VectorLayer",
)
NO_VARIANCE = (
    tv.DistributionLambda,
    tv.IndependentStudentT,
    tv.RelaxedOneHotCategorical,
)
OF_DISTRIBUTIONS = ("AutoregressiveTransform", "Flow")  # see test_flows
OF_ALL_ROWS = ("VariationalGaussianProcess",)  # its event holds the batch


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def parameters(family, rng):
    return rng.normal(size=(BATCH, family.width)).astype("float32")


@pytest.fixture
def values(family, rng):
    return family.values(rng, (BATCH, *family.event))


def concrete_subclasses(cls):
    below = [c for s in cls.__subclasses__() for c in (s, *concrete_subclasses(s))]
    other = (*ABSTRACT, *OF_DISTRIBUTIONS, *OF_ALL_ROWS)
    return [
        c
        for c in below
        if c.__module__.startswith("tfp_vae.") and c.__name__ not in other
    ]


def test_a_parameter_that_is_nan_stays_nan(family, rng):
    """One parameter of each member is NaN, and none of the last."""
    width = family.width
    parameters = rng.normal(size=(width + 1, width)).astype("float32")
    parameters[range(width), range(width)] = np.nan
    p = family.make()(parameters)
    log_prob = p.log_prob(family.values(rng, (width + 1, *family.event))).numpy()
    assert np.isnan(log_prob[:width]).all()
    assert np.isfinite(log_prob[width]).all()
    if p.reparameterization_type == tfd.FULLY_REPARAMETERIZED:
        draws = np.isnan(p.sample(seed=1)).reshape(width + 1, -1)
        assert draws[:width].any(-1).all()
    if p.tensor_distribution.dtype.is_floating:  # draws of counts return too
        assert p.sample(seed=1).shape == (width + 1, *family.event)


def test_every_layer_is_listed():
    assert {c.__name__ for c in concrete_subclasses(DistributionLayer)} == set(FAMILIES)


def test_shapes(family, parameters, values):
    p = family.make()(parameters)
    assert isinstance(p, tfd.Distribution)
    assert p.batch_shape == (BATCH,)
    assert p.event_shape == family.event
    assert p.shape == (BATCH, *family.event)
    assert p.sample(7).shape == (7, BATCH, *family.event)
    assert p.log_prob(values).shape == (BATCH,)


def test_log_prob_is_that_of_scipy(family, parameters, values):
    expected = family.log_prob(parameters, values, family.event)
    actual = family.make()(parameters).log_prob(values)
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-5)


def test_log_prob_and_moments_are_those_of_tfp_layers(family, parameters, values):
    if family.theirs is None:
        pytest.skip("not in tfp.layers")
    ours, theirs = family.make()(parameters), family.theirs(tf.constant(parameters))
    np.testing.assert_allclose(
        ours.log_prob(values), theirs.log_prob(values), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(ours.mean(), theirs.mean(), rtol=1e-5, atol=1e-6)


def test_samples_have_the_distributions_moments(family, parameters):
    n = 20_000
    p = family.make()(parameters)
    if isinstance(family.make(), tv.DistributionLambda | tv.RelaxedOneHotCategorical):
        pytest.skip("a law without a mean")
    draws = p.sample(n, seed=(1, 2)).numpy()
    error = draws.std(0) / np.sqrt(n)
    assert np.all(np.abs(draws.mean(0) - p.mean()) < 5 * error + 1e-6)


def test_draws_have_the_gradients_of_the_moments(family, parameters):
    """Where a law says that its draws are reparameterised, they must be."""
    layer = family.make()
    p = layer(parameters)
    if p.reparameterization_type != tfd.FULLY_REPARAMETERIZED:
        pytest.skip("draws without gradients")
    if isinstance(layer, NO_VARIANCE):
        pytest.skip("a law whose mean or variance is not known")
    chunks, n = 25, 2000

    x = tf.constant(np.asarray(parameters, "float64"))
    same = family.make(dtype="float64")

    def slopes(moments):
        """The gradients of E[x] and E[x^2]."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            values = [tf.reduce_sum(moment) for moment in moments(same(x))]
        return [tape.gradient(value, x) for value in values]

    def of_draws(p, seed):
        draws = p.sample(n, seed=seed)
        return [tf.reduce_mean(draws**power, 0) for power in (1, 2)]

    @tf.function(autograph=False)
    def drawn(seed):
        return slopes(lambda p: of_draws(p, seed))

    found = [drawn(tf.constant([i, 1])) for i in range(chunks)]
    exact = slopes(lambda p: (p.mean(), p.variance() + p.mean() ** 2))
    for estimates, expected in zip(zip(*found, strict=True), exact, strict=True):
        estimates = np.stack(estimates)
        error = estimates.std(0) / np.sqrt(chunks)
        assert np.all(np.abs(estimates.mean(0) - expected) < 6 * error + 1e-4)


PROPOSALS = {
    reals: lambda event: tfd.Sample(tfd.StudentT(3.0, 0.0, 3.0), event),
    fractions: lambda event: tfd.Sample(tfd.Uniform(), event),
    positives: lambda event: tfd.Sample(tfd.LogNormal(0.0, 2.0), event),
    directions: lambda event: tfd.SphericalUniform(*event),
}


def test_density_integrates_to_one(family, parameters):
    if family.values not in PROPOSALS:
        pytest.skip("discrete, or on no axes of its own: compared with SciPy above")
    p = family.make()(parameters[:1])
    # Importance sampling; 5 standard errors.
    n = 200_000
    proposal = PROPOSALS[family.values](family.event)
    x = proposal.sample(n, seed=(3, 4))
    ratio = np.exp(p.log_prob(x).numpy() - proposal.log_prob(x).numpy())
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(n)


def test_every_parameter_gets_a_finite_gradient(family, parameters, values):
    parameters = tf.Variable(parameters)
    layer = family.make()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(parameters).log_prob(values))
    gradient = tape.gradient(loss, parameters).numpy()
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).sum(0) > 0).all()


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_extreme_parameters_stay_finite(family, values, jit_compile):
    """As a likelihood, and as a posterior at draws of its own."""
    layer = family.make()
    patterns = np.concatenate([*extremes(family.width, BATCH).values()])
    repeats = len(patterns) // BATCH

    def of_values(p):
        return p.log_prob(np.concatenate([values] * repeats))

    def of_draws(p):
        z, log_prob = draw(p.tensor_distribution, seed=(1, 2))
        log_prob = p.log_prob(tf.identity(z)) if log_prob is None else log_prob
        return log_prob + tf.reduce_mean(tf.tanh(z))

    @tf.function(jit_compile=jit_compile)
    def losses_and_gradients(parameters):
        results = []
        drawn = family.xla_draws or not jit_compile
        for loss_of in (of_values, of_draws) if drawn else (of_values,):
            with tf.GradientTape() as tape:
                tape.watch(parameters)
                loss = loss_of(layer(parameters))
            results += [loss, tape.gradient(loss, parameters)]
        return results

    results = losses_and_gradients(tf.constant(patterns, tf.float32))
    for result in tf.nest.flatten(results):
        assert np.isfinite(result).all()


def test_config_round_trip(family, parameters, values):
    layer = family.make(name="p", seed=3, convert_to_tensor_fn=family.statistic)
    if isinstance(layer, tv.DistributionLambda):
        pytest.skip("an unregistered function: see test_saving")
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(
        again(parameters).log_prob(values), layer(parameters).log_prob(values)
    )


def test_wrong_width_is_an_error(family):
    if family.make().parameters_width is None:
        pytest.skip("DistributionLambda takes any width")
    wrong = family.width + 1
    message = rf"expects `parameters` of shape \(..., {family.width}\).*Received"
    with pytest.raises(ValueError, match=message):
        family.make()(np.zeros((BATCH, wrong), "float32"))
    with pytest.raises(ValueError, match=f"{family.width} units"):
        keras.Sequential([keras.Input((wrong,)), family.make()])


def test_an_image_in_front_of_a_layer_is_told_to_be_flattened():
    with pytest.raises(
        ValueError, match=r"\(None, 8, 8, 1\). If .*put `keras.layers.Flatten"
    ):
        keras.Sequential([keras.Input((8, 8, 1)), tv.IndependentBernoulli((8, 8, 1))])


def test_new_checks_the_width_too(family):
    layer = family.make()
    if not hasattr(layer, "new") or isinstance(layer, tv.MixtureSameFamily):
        pytest.skip("has no `new`, or one that takes a function")
    with pytest.raises(ValueError, match=r"expects `parameters` of shape \(..., "):
        layer.make_distribution(tf.zeros([BATCH, family.width + 1]))


def test_a_wrong_width_that_is_not_known_before_the_call(family):
    """Twice the width must not become twice the batch."""
    if family.make().parameters_width is None:
        pytest.skip("DistributionLambda takes any width")
    layer = family.make()

    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def batch_size(parameters):
        return layer(parameters).batch_shape_tensor()[0]

    assert batch_size(tf.zeros([BATCH, family.width])) == BATCH
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        assert batch_size(tf.zeros([BATCH, 2 * family.width])) == BATCH, "silent"


def test_unknown_conversion_is_an_error(family):
    with pytest.raises(ValueError, match="one of .*'sample', 'mean'.* Received"):
        family.make(convert_to_tensor_fn="typo")


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_and_xla_agree_with_eager(family, parameters, values, jit_compile):
    """Values and gradients, also where the size of a batch is not known."""
    layer = family.make()

    def log_prob_and_gradient(parameters, values):
        with tf.GradientTape() as tape:
            tape.watch(parameters)
            log_prob = layer(parameters).log_prob(values)
        return log_prob, tape.gradient(log_prob, parameters)

    compiled = tf.function(
        log_prob_and_gradient,
        input_signature=[
            tf.TensorSpec([None, family.width]),
            tf.TensorSpec([None, *family.event]),
        ],
        jit_compile=jit_compile,
        autograph=False,
    )
    given = tf.constant(parameters), tf.constant(values)
    log_prob, gradient = compiled(*given)
    expected, slopes = log_prob_and_gradient(*given)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-3, atol=1e-4)


def trains(family, rng, **how):
    """Two epochs of a full batch and a short one."""
    x = rng.normal(size=(40, 6)).astype("float32")
    y = family.values(rng, (40, *family.event))
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(family.width), family.make()]
    )
    model.compile("sgd", loss=tv.NegativeLogLikelihood(), **how)
    history = model.fit(x, y, batch_size=32, epochs=2, verbose=0).history
    return np.isfinite(history["loss"]).all()


def test_a_model_trains_with_a_short_last_batch(family, rng):
    """Every family as a likelihood."""
    assert trains(family, rng, run_eagerly=True)


@pytest.mark.parametrize("name", ["IndependentNormal", "MixtureLogistic", "Blockwise"])
def test_a_model_trains_under_xla_with_a_short_last_batch(name, rng):
    """What XLA makes of the other families is compared with eager steps above."""
    assert trains(FAMILIES[name], rng, jit_compile=True)


def test_half_precision_policies_leave_the_maths_in_float32(family, parameters, values):
    keras.config.set_dtype_policy("mixed_float16")
    p = family.make()(tf.cast(parameters, tf.float16))
    assert p.log_prob(values).dtype == tf.float32
    rounded = parameters.astype("float16").astype("float32")
    expected = family.log_prob(rounded, values, family.event)
    np.testing.assert_allclose(p.log_prob(values), expected, rtol=1e-4, atol=1e-4)


def test_float64(family, parameters, values):
    if isinstance(family.make(), tv.DistributionLambda):
        pytest.skip("the dtype is that of what the function makes")
    p = family.make(dtype="float64")(parameters.astype("float64"))
    values = values.astype("float64")
    if family.values is directions:
        values /= np.linalg.norm(values, axis=-1, keepdims=True)
    actual = p.log_prob(values)
    assert actual.dtype == tf.float64
    expected = family.log_prob(parameters, values, family.event)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)
    found = {"value": tf.convert_to_tensor(p), "sample": p.sample(2)}
    for name in ("mean", "variance", "stddev", "mode", "covariance", "entropy"):
        with contextlib.suppress(NotImplementedError):
            found[name] = getattr(p, name)()
    assert {name: value.dtype for name, value in found.items()} == dict.fromkeys(
        found, tf.float64
    )


def test_unknown_batch_size_keeps_the_event_static(family):
    model = keras.Sequential([keras.Input((family.width,)), family.make()])
    assert model.output_shape == (None, *family.event)


def test_time_axis_becomes_a_batch_axis(family, rng):
    parameters = rng.normal(size=(2, 7, family.width)).astype("float32")
    p = family.make()(parameters)
    assert p.batch_shape == (2, 7)


def test_time_distributed(family, rng):
    parameters = rng.normal(size=(2, 7, family.width)).astype("float32")
    if family.statistic == "sample":
        pytest.skip("a law without a mean")
    layer = keras.layers.TimeDistributed(family.make(convert_to_tensor_fn="mean"))
    expected = family.make(convert_to_tensor_fn="mean")(parameters)
    np.testing.assert_allclose(layer(parameters), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (tv.IndependentNormal.params_size((2, 3)), 12),
        (tv.IndependentNormal.params_size(), 2),
        (tv.IndependentLogistic.params_size([4]), 8),
        (tv.IndependentBernoulli.params_size((28, 28, 1)), 784),
        (tv.IndependentPoisson.params_size(5), 5),
        (tv.MultivariateNormalTriL.params_size(16), 152),
        (tv.OneHotCategorical.params_size(10), 10),
        (tv.CategoricalMixtureOfOneHotCategorical.params_size(4, 2), 10),
        (tv.MixtureSameFamily.params_size(5, component_params_size=6), 35),
        (tv.MixtureNormal.params_size(5, event_shape=[3]), 35),
        (tv.MixtureLogistic.params_size(5, 3), 35),
    ],
)
def test_params_size(layer, size):
    assert layer == size


@pytest.mark.parametrize(
    "event_shape", [3, (3,), [3], np.int64(3), tf.TensorShape([3])]
)
def test_event_shape_may_be_an_integer_tuple_or_list(event_shape):
    assert tv.IndependentNormal(event_shape).event_shape == (3,)
    assert tv.MixtureNormal(2, event_shape).event_shape == (3,)


@pytest.mark.parametrize("event_shape", [0, -1, 2.5, (3, None), "3", True, None])
def test_a_bad_event_shape_is_an_error(event_shape):
    with pytest.raises(ValueError, match="positive integer.* Received: event_shape="):
        tv.IndependentNormal(event_shape)
    with pytest.raises(ValueError, match="positive integer.* Received: event_shape="):
        tv.IndependentNormal.params_size(event_shape)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tv.MultivariateNormalTriL(0),
        lambda: tv.OneHotCategorical(2.5),
        lambda: tv.MixtureNormal(True, 3),
        lambda: tv.MixtureSameFamily.params_size(3, -1),
    ],
)
def test_a_size_that_is_no_positive_integer_is_an_error(make):
    with pytest.raises(ValueError, match="to be an integer of at least 1. Received: "):
        make()


@pytest.mark.parametrize("floor", [0.0, -1.0, float("nan"), "small"])
def test_a_bad_scale_floor_is_an_error(floor):
    with pytest.raises(
        ValueError, match="finite number above 0. Received: scale_floor="
    ):
        tv.IndependentNormal(3, scale_floor=floor)


def test_scales_have_a_floor():
    raw = tf.constant([[0.0, -1e4]])
    assert tv.IndependentNormal(1)(raw).stddev() == 1e-5
    assert tv.IndependentNormal(1, scale_floor=0.5)(raw).stddev() == 0.5
    mixture = tv.MixtureNormal(1, 1, scale_floor=0.5)(tf.constant([[0.0, 0.0, -1e4]]))
    assert mixture.stddev().numpy() == pytest.approx(0.5)
    factor = tv.MultivariateNormalTriL(1, scale_floor=0.5)(raw).stddev()
    assert factor == 0.5


def test_a_component_layer_must_be_a_layer():
    with pytest.raises(ValueError, match="to be a distribution layer. Received"):
        tv.MixtureSameFamily(2, tfd.Normal(0.0, 1.0))


def test_a_function_must_return_a_distribution():
    with pytest.raises(ValueError, match="return a `tfd.Distribution`. Received"):
        tv.DistributionLambda(lambda t: t)(tf.zeros([2, 3]))


def test_distribution_lambda_expects_a_function():
    with pytest.raises(ValueError, match="to be a function.*Received"):
        tv.DistributionLambda(tfd.Normal(0.0, 1.0))


def test_distribution_lambda_takes_several_inputs():
    loc, scale = keras.Input((3,)), keras.Input((3,))
    layer = tv.DistributionLambda(
        lambda parts: tfd.Independent(tfd.Normal(parts[0], parts[1]), 1), "mean"
    )
    model = keras.Model([loc, scale], layer([loc, scale]))
    p = model([np.ones((2, 3), "float32"), np.full((2, 3), 2.0, "float32")])
    np.testing.assert_array_equal(p.stddev(), np.full((2, 3), 2.0))


def test_validate_args_reaches_tfp():
    layer = tv.IndependentBernoulli(3, validate_args=True)
    with pytest.raises(tf.errors.InvalidArgumentError):
        layer(tf.zeros([1, 3])).log_prob(tf.fill([1, 3], 0.5))
    mixture = tv.MixtureSameFamily(2, tv.OneHotCategorical(3), validate_args=True)
    assert mixture(tf.zeros([1, 8])).validate_args


def test_sample_dtype_is_the_dtype_of_draws():
    for layer, width in (
        (tv.IndependentBernoulli(3, sample_dtype="int32"), 3),
        (tv.OneHotCategorical(3, sample_dtype=tf.int32), 3),
        (tv.CategoricalMixtureOfOneHotCategorical(3, 2, sample_dtype="int32"), 8),
    ):
        p = layer(tf.zeros([2, width]))
        assert p.sample().dtype == tf.int32
        assert p.dtype == tf.int32


def test_log_mean_of_the_categorical_mixture():
    layer = tv.CategoricalMixtureOfOneHotCategorical(4, 2, lambda p: p.log_mean())
    p = layer(tf.random.stateless_normal([3, 10], (1, 2)))
    np.testing.assert_allclose(tf.exp(p), p.mean(), rtol=1e-5)
    np.testing.assert_allclose(tf.reduce_sum(p.mean(), -1), np.ones(3), rtol=1e-5)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        ("logits", 2.0),
        (tfd.Bernoulli.logits, 2.0),
        ("probs", 0.880797),
        (tfd.Distribution.mean, 0.880797),
        ("mode", 1.0),
        ("variance", 0.104994),
        (lambda p: p.mean() + 1.0, 1.880797),
    ],
)
def test_conversions(fn, expected):
    value = tv.IndependentBernoulli(3, fn)(tf.fill([2, 3], 2.0))
    np.testing.assert_allclose(value, np.full((2, 3), expected), rtol=1e-5)


def test_logits_of_a_law_without_them_are_an_error():
    with pytest.raises(ValueError, match="a distribution that has `logits`. Received"):
        np.asarray(tv.IndependentNormal(3, "logits")(tf.zeros([2, 6])))


def test_variable_layer_ignores_its_input_and_trains():
    model = keras.Sequential([tv.VariableLayer([2], activation="exponential")])
    np.testing.assert_array_equal(model(np.zeros((5, 9))), [1.0, 1.0])
    model.compile(keras.optimizers.SGD(0.1), loss=lambda y, c: (c - 3.0) ** 2)
    model.fit(np.zeros((8, 1)), np.zeros((8, 2)), epochs=20, verbose=0)
    np.testing.assert_allclose(model(np.zeros((1, 1))), [3.0, 3.0], rtol=1e-3)


def test_variable_layer_round_trip():
    layer = tv.VariableLayer(
        3, initializer="ones", regularizer="l2", constraint="non_neg"
    )
    again = tv.VariableLayer.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(again(), np.ones(3))


def test_standard_normal_is_n_0_i():
    prior = tv.StandardNormal((2, 3))
    z = np.ones((2, 3), "float32")
    np.testing.assert_allclose(
        prior().log_prob(z), -3 - 3 * np.log(2 * np.pi), rtol=1e-6
    )
    assert prior(z).event_shape == (2, 3)
    assert tv.StandardNormal.from_config(prior.get_config())().event_shape == (2, 3)
    assert tv.StandardNormal(2, dtype="float64")().dtype == tf.float64


def arguments_of(cls):
    """The arguments of `__init__` in a class and those above it, but for Keras' own."""
    inits = (c.__init__ for c in cls.__mro__ if issubclass(c, DistributionLayer))
    names = {name for init in inits for name in inspect.signature(init).parameters}
    return names - {"self", "kwargs"}


def test_configs_have_every_argument(family):
    layer = family.make()
    if isinstance(layer, tv.DistributionLambda):
        pytest.skip("an unregistered function: see test_saving")
    expected = arguments_of(type(layer))
    if layer.event_shape is None:
        expected.discard("event_shape")
    config = layer.get_config()
    assert expected <= set(config)
    again = type(layer).from_config(config)
    assert again.get_config() == config
    assert again.parameters_width == layer.parameters_width == family.width


@keras.saving.register_keras_serializable("test_layers")
class Scaled(tv.DistributionLayer):
    """A family of two members, and an argument of its own."""

    def __init__(self, event_shape, factor=2.0, **kwargs):
        super().__init__(event_shape, **kwargs)
        self.factor = factor

    @staticmethod
    def params_size(event_shape, factor):
        return int(np.prod(event_shape)) + (factor > 5)

    def make_distribution(self, parameters):
        loc = self.factor * parameters[..., : self.event_shape[0]]
        return tfd.Independent(tfd.Normal(loc, 1.0), 1)


@pytest.mark.parametrize(("factor", "width"), [(3.0, 4), (7.0, 5)])
def test_a_family_of_two_members_checks_and_saves_its_arguments(
    factor, width, tmp_path, rng
):
    x = rng.normal(size=(6, 3)).astype("float32")
    layer = Scaled(4, factor, convert_to_tensor_fn="mean", seed=3)
    assert layer.parameters_width == width
    with pytest.raises(ValueError, match=rf"Scaled\(event_shape=\(4,\), .*, {width}\)"):
        layer(tf.zeros([6, 9]))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(width), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (loaded.layers[-1].factor, loaded.layers[-1].seed) == (factor, 3)
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: tv.MixturePrior(3, 5),
        lambda: tv.VampPrior(keras.layers.Dense(2), 5),
        lambda: tv.Multinomial(3, 5),
        lambda: tv.DirichletMultinomial(3, 5),
        lambda: tv.QuantizedLogistic(3, "mean", False, 5),
    ],
)
def test_two_counts_in_a_row_are_given_by_keyword(make):
    with pytest.raises(TypeError, match="positional|keyword"):
        make()


def test_mixtures_have_the_order_of_tfp_layers():
    assert tv.MixtureNormal(5, 3).event_shape == (3,)


def test_params_size_takes_attributes_of_the_layer():
    class Named(tv.DistributionLayer):
        @staticmethod
        def params_size(shape):
            return shape

    with pytest.raises(ValueError, match=r"`Named.params_size` .*\['shape'\]. Rename"):
        Named(3)(tf.zeros([2, 3]))


def test_configs_have_no_attributes_of_keras_and_no_keyword_arguments():
    class Family(tv.IndependentNormal):
        def __init__(self, losses=2, **kwargs):
            super().__init__(3, **kwargs)
            self.kwargs = kwargs

    config = Family(convert_to_tensor_fn="mean").get_config()
    assert not {"losses", "kwargs", "self", "variables"} & set(config)
    assert config["convert_to_tensor_fn"] == "mean"


@pytest.mark.parametrize(
    ("layer", "description"),
    [
        (lambda: tv.IndependentNormal(3), "IndependentNormal(event_shape=(3,))"),
        (
            lambda: tv.IndependentNormal(3, scale=2.0),
            "IndependentNormal(event_shape=(3,), scale=2.0)",
        ),
        (lambda: tv.MultivariateNormalTriL(3), "MultivariateNormalTriL(3)"),
        (
            lambda: tv.MixtureNormal(5, 3),
            "MixtureNormal(event_shape=(3,), num_components=5)",
        ),
        (
            lambda: tv.Multinomial(3, total_count="input"),
            "Multinomial(3, total_count='input')",
        ),
    ],
)
def test_messages_show_what_decides_the_width(layer, description):
    assert layer().description == description
