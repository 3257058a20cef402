"""What single families promise beyond the contract of test_layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from families import FAMILIES, extremes
from scipy import integrate, special, stats

import tfp_vae as tv
from tfp_vae.constraints import lower_triangular
from tfp_vae.distributions import QuantizedLogistic, TruncatedNormal

tfd = tfp.distributions


def test_with_a_scale_of_1_the_nll_is_the_squared_error(rng):
    """And a constant: half of log 2 pi for each coordinate."""
    x = rng.normal(size=(32, 6)).astype("float32")
    keras.utils.set_random_seed(3)
    losses = []
    for last, loss in (
        ([], lambda y, m: 0.5 * tf.reduce_sum((y - m) ** 2, -1)),
        ([tv.IndependentNormal(6, "mean", scale=1.0)], tv.NegativeLogLikelihood()),
    ):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6), *last])
        model.compile("adam", loss=loss)
        fit = model.fit(x, x, epochs=3, shuffle=False, verbose=0)
        losses.append(np.array(fit.history["loss"]))
    constant = 6 * 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(losses[1], losses[0] + constant, rtol=1e-5)


@pytest.mark.parametrize(
    "layer", [tv.IndependentNormal, tv.IndependentLaplace, tv.IndependentLogistic]
)
def test_a_shared_scale_is_one_variable_that_learns(layer, tmp_path, rng):
    x = np.zeros((2560, 3), "float32")
    y = np.tile(0.05 * rng.normal(size=(256, 3)).astype("float32"), (10, 1))
    p = layer(3, "mean", scale="shared")
    units = layer.params_size(3, scale="shared")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), p])
    assert units == 3
    np.testing.assert_allclose(p(np.zeros((1, 3))).distribution.scale, 1.0, rtol=1e-6)
    model.compile(keras.optimizers.Adam(0.05), loss=tv.NegativeLogLikelihood())
    model.fit(x, y, epochs=10, batch_size=64, verbose=0)
    estimates = {
        tv.IndependentNormal: y.std(),
        tv.IndependentLaplace: abs(y).mean(),
        tv.IndependentLogistic: y.std() * np.sqrt(3) / np.pi,
    }
    scale = model(x).distribution.scale
    assert scale.shape == ()
    np.testing.assert_allclose(scale, estimates[layer], rtol=0.15)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again(x).distribution.scale == scale


def test_a_shared_scale_inside_a_mixture_and_a_block(tmp_path):
    shared = [tv.IndependentNormal(2, scale="shared") for _ in range(2)]
    layers = [
        tv.MixtureSameFamily(2, shared[0]),
        tv.Blockwise([shared[1], tv.IndependentLaplace(1)]),
    ]
    x = np.zeros((4, 3), "float32")
    for layer, size in zip(layers, (2, 3), strict=True):
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(layer.parameters_width), layer]
        )
        model.compile("adam", loss=tv.NegativeLogLikelihood())
        before = [v.numpy() for v in layer.trainable_variables]
        model.fit(x, np.full((4, size), 3.0), verbose=0)
        assert len(before) == 1
        assert before[0] != layer.trainable_variables[0].numpy()
        model.save(tmp_path / "m.keras")
        again = keras.models.load_model(tmp_path / "m.keras")
        y = np.ones((4, size), "float32")
        np.testing.assert_array_equal(again(x).log_prob(y), model(x).log_prob(y))


def mixture(layer, **options):
    return tv.MixtureSameFamily(2, layer, **options)


def block(layer, **options):
    return tv.Blockwise([layer], **options)


OUTER = [mixture, block]
OF_THE_OUTER = [
    {"activity_regularizer": "l2"},
    {"seed": 3},
    {"convert_to_tensor_fn": "mean"},
    {"convert_to_tensor_fn": tfd.Distribution.stddev},
    {"convert_to_tensor_fn": lambda p: p.mean()},
    {"dtype": "float64"},
]


@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("given", OF_THE_OUTER)
def test_an_argument_that_the_outer_layer_ignores_is_an_error(given, outer):
    (name,) = given
    with pytest.raises(ValueError, match=f"expects.*`{name}`.*Received.*Give `{name}`"):
        outer(tv.IndependentNormal(2, **given))
    outer(tv.IndependentNormal(2), **given)


@pytest.mark.parametrize("outer", OUTER)
def test_layers_inside_compute_in_the_dtype_of_the_outer(outer):
    layer = outer(tv.IndependentNormal(2, scale="shared"), dtype="float64")
    y = np.ones((1, 2))
    found = layer(np.zeros((1, layer.parameters_width or 2))).log_prob(y).numpy()
    np.testing.assert_allclose(found, stats.norm.logpdf(y).sum(-1), rtol=1e-7)
    assert found.dtype == np.float64


@pytest.mark.parametrize("scale", [0.0, -1.0, "common", float("nan"), True, np.ones(3)])
def test_a_bad_scale_is_an_error(scale):
    with pytest.raises(ValueError, match="finite number above 0. Received: scale="):
        tv.IndependentNormal(3, scale=scale)


def test_degrees_of_freedom_may_be_fixed(rng):
    x = rng.normal(size=(5, 3)).astype("float32")
    layer = tv.IndependentStudentT(3, df=4.0)
    assert tv.IndependentStudentT.params_size(3, df=4.0) == 6
    p = layer(np.zeros((5, 6), "float32"))
    expected = stats.t.logpdf(x, 4.0, 0.0, np.log(2.0)).sum(-1)
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-5)
    assert tv.IndependentStudentT.from_config(layer.get_config()).df == 4.0


def test_a_near_singular_covariance_keeps_its_diagonal():
    raw = np.full((1, 10), 1e4, "float32")
    raw[0, [4, 5, 9]] = -1e4  # of the diagonal 4, 9, 5, 0 in the order of entries
    factor = lower_triangular(tf.constant(raw)).numpy()[0]
    diagonal = np.diag(factor)
    assert (diagonal > 0).all()
    assert (np.abs(np.tril(factor, -1)).sum(1) <= diagonal * (1 + 1e-6)).all()


def test_a_usable_covariance_is_left_alone(rng):
    raw = rng.normal(size=(500, 55)).astype("float32")
    expected = tfp.bijectors.FillScaleTriL(diag_shift=np.float32(1e-5))(raw)
    np.testing.assert_allclose(lower_triangular(raw), expected, rtol=1e-6)


def test_float64_leaves_alone_what_float32_cannot_invert(rng):
    d = 64
    raw = 0.7 * rng.normal(size=(20, d * (d + 1) // 2))
    factor = tfp.bijectors.FillScaleTriL(diag_shift=np.float64(1e-5))(raw).numpy()
    assert (abs(np.linalg.inv(factor)).max((1, 2)) > 1e8).any()
    np.testing.assert_allclose(lower_triangular(tf.constant(raw)), factor, rtol=1e-12)
    p = tv.MultivariateNormalTriL(d, dtype="float64")(np.pad(raw, [(0, 0), (d, 0)]))
    z = rng.normal(size=(20, d))
    volume = np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(-1)
    expected = stats.norm.logpdf(z).sum(-1) - volume
    found = p.log_prob((factor @ z[..., None])[..., 0])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_singular_covariance_has_finite_densities_in_its_dtype(dtype, rng):
    d = 8
    for raw in extremes(d * (d + 1) // 2).values():
        for size in (1e-3, 1e-2, 1.0):
            layer = tv.MultivariateNormalTriL(d, dtype=dtype)
            p = layer(np.pad(size * raw, [(0, 0), (d, 0)]).astype(dtype))
            draws = p.sample(3, seed=(1, 2))
            assert np.isfinite(p.log_prob(tf.identity(draws))).all()


@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("loc", [-50.0, 3.2, 127.0, 255.0, 400.0])
def test_quantized_logistic_in_float32(loc, scale):
    """Against differences of SciPy's distribution function, in float64."""
    x = np.arange(256.0)
    law = stats.logistic(loc, np.float64(np.float32(scale)))
    upper, lower = x + 0.5, x - 0.5
    # On the side of the tail where the difference loses nothing.
    probs = np.where(x < loc, law.cdf(upper) - law.cdf(lower), 0.0)
    probs = np.where(x >= loc, law.sf(lower) - law.sf(upper), probs)
    probs[0], probs[-1] = law.cdf(0.5), law.sf(254.5)
    p = QuantizedLogistic(loc, scale)
    np.testing.assert_allclose(p.prob(x.astype("float32")), probs, rtol=3e-5, atol=1e-7)
    total = tf.reduce_sum(p.prob(x.astype("float32")))
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    mean = (x * probs).sum()
    np.testing.assert_allclose(p.mean(), mean, rtol=1e-5, atol=1e-4)
    variance = ((x - mean) ** 2 * probs).sum()
    np.testing.assert_allclose(p.variance(), variance, rtol=1e-3, atol=1e-12)
    assert p.prob(-1.0) == p.prob(256.0) == 0.0


def test_quantized_logistics_of_many_levels_have_a_variance():
    p = QuantizedLogistic(np.linspace(3e4, 6e4, 50, dtype="float32"), 10.0, high=65535)
    np.testing.assert_allclose(p.variance(), np.pi**2 / 3 * 100 + 1 / 12, rtol=1e-5)
    narrow = QuantizedLogistic(np.linspace(200.2, 200.8, 999, dtype="float32"), 0.02)
    above = stats.logistic(narrow.loc.numpy().astype("float64"), 0.02).sf(200.5)
    np.testing.assert_allclose(narrow.variance(), above * (1 - above), rtol=0.01)


@pytest.mark.parametrize("wrap", [lambda p: p, lambda p: tfd.Independent(p, 1)])
def test_a_quantized_logistic_may_be_an_argument_of_a_graph(wrap):
    p = wrap(QuantizedLogistic([1.0, 4.5], [0.7, 3.0], low=0, high=7))
    x = np.array([0.0, 6.0], "float32")
    graph = tf.function(lambda q: (q.log_prob(x), q.mean()))
    for found, expected in zip(graph(p), (p.log_prob(x), p.mean()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_quantized_logistic_draws_what_it_says():
    p = QuantizedLogistic([1.0, 4.5], [0.7, 3.0], low=0, high=7)
    draws = p.sample(20_000, seed=(1, 2)).numpy()
    for k in range(2):
        observed = np.bincount(draws[:, k].astype(int), minlength=8)
        expected = 20_000 * p.prob(np.arange(8.0, dtype="float32")[:, None])[:, k]
        keep = expected.numpy() > 5
        chi2 = ((observed - expected) ** 2 / expected).numpy()[keep].sum()
        assert chi2 < stats.chi2.ppf(1 - 1e-6, keep.sum() - 1)
    error = np.abs(p.variance() - draws.var(0))
    assert np.all(error < 0.05 * p.variance())
    for low, high in ((3, 3), ("a", 3), (0, 2.5)):
        with pytest.raises(ValueError, match="integer of at least.*Received"):
            QuantizedLogistic(0.0, 1.0, low=low, high=high)
    with pytest.raises(ValueError, match="to be positive. Received: scale="):
        QuantizedLogistic(0.0, [1.0, -1.0])


@pytest.mark.parametrize("num_components", [1, 3])
def test_a_network_of_zeros_means_the_middle_of_the_range(num_components):
    units = tv.QuantizedLogistic.params_size(2, num_components=num_components)
    layer = tv.QuantizedLogistic(2, "mean", num_components=num_components)
    np.testing.assert_allclose(layer(np.zeros((1, units))), 127.5, rtol=1e-5)


def test_the_mean_of_numbered_categories():
    logits = np.log([[0.1, 0.2, 0.7]]).astype("float32")
    p = tv.IndependentCategorical(1, "mean", num_categories=3)(logits)
    np.testing.assert_allclose(p, [[1.6]], rtol=1e-6)
    assert p.sample().dtype == tf.float32


@pytest.mark.parametrize("jit_compile", [False, True])
def test_values_between_and_beyond_the_categories_have_probability_0(jit_compile):
    probs = np.array([0.1, 0.2, 0.7], "float32")
    p = tv.IndependentCategorical(1, num_categories=3)(np.log(probs)[None])
    x = np.array([0, 1, 2, 0.4, 1.7, -0.5, -1, 3, 1e9, np.inf, -np.inf, np.nan])
    found = {
        name: tf.function(getattr(p.distribution, name), jit_compile=jit_compile)(
            x[:, None].astype("float32")
        ).numpy()[:, 0]
        for name in ("log_prob", "prob", "cdf")
    }
    law = stats.rv_discrete(values=(range(3), probs.astype("float64")))
    expected = np.where(np.isnan(x), np.nan, law.pmf(x))
    np.testing.assert_allclose(found["prob"], expected, rtol=1e-6)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(found["log_prob"], np.log(expected), rtol=1e-6)
    np.testing.assert_allclose(found["cdf"], law.cdf(x), rtol=1e-6)


def test_the_continuous_bernoulli_has_the_constant_that_cross_entropy_lacks():
    logits = 1.3
    entropy = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)

    def density(x):
        return np.exp(x * entropy[0] + (1 - x) * entropy[1])

    constant = integrate.quad(density, 0, 1)[0]
    p = tv.IndependentContinuousBernoulli()(np.array([[logits]], "float32"))
    for x in (0.0, 0.3, 1.0):
        expected = np.log(density(x) / constant)
        np.testing.assert_allclose(p.log_prob([x]), [expected], rtol=1e-5)


@pytest.mark.parametrize("layer", [tv.Multinomial, tv.DirichletMultinomial])
def test_a_total_from_the_inputs(layer, rng):
    x = rng.multinomial(9, [0.2, 0.3, 0.5], 4).astype("float32")
    x[1] *= 2
    raw = rng.normal(size=(4, 3)).astype("float32")
    inputs = np.concatenate([raw, x.sum(1, keepdims=True)], axis=1)
    many = layer(3, total_count="input")(inputs).log_prob(x)
    assert layer.params_size(3) == 3
    for k in range(4):
        one = layer(3, total_count=int(x[k].sum()))(raw[k : k + 1])
        np.testing.assert_allclose(one.log_prob(x[k : k + 1])[0], many[k], rtol=1e-5)
    tv.check_values(x, layer(3, total_count="input"))
    for total in (0, 2.5, "inputs"):
        with pytest.raises(ValueError, match="at least 1. Received: total_count="):
            layer(3, total_count=total)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("layer", [tv.Multinomial, tv.DirichletMultinomial])
def test_totals_are_exact_under_any_policy(layer, policy):
    totals = np.array([[257.0], [4097.0], [70_001.0]], "float32")
    keras.config.set_dtype_policy(policy)
    x, total = keras.Input((2,)), keras.Input((1,))
    joined = [keras.layers.Dense(3)(x), total]
    last = layer(3, "mean", total_count="input")
    p = last(keras.layers.Concatenate(dtype="float32")(joined))
    model = tv.Model([x, total], p)
    data = [np.ones((3, 2), "float32"), totals]
    np.testing.assert_array_equal(model(data).total_count, totals[:, 0])
    np.testing.assert_allclose(model.predict(data).sum(1), totals[:, 0], rtol=1e-6)
    if policy != "float32":
        with pytest.raises(ValueError, match="float32 or float64. Received: inputs"):
            last(keras.layers.Concatenate()(joined))


@pytest.mark.parametrize(
    "layer", [tv.IndependentPoisson, tv.IndependentNegativeBinomial]
)
def test_zero_inflation(layer, rng):
    parts = layer.params_size(1)
    plain = rng.normal(size=(1, parts)).astype("float32")
    inflated = np.concatenate([plain, [[0.7]]], axis=1).astype("float32")
    x = np.arange(6.0, dtype="float32")[:, None]
    pmf = layer(1)(plain).prob(x)
    share = special.expit(0.7)
    expected = share * (x[:, 0] == 0) + (1 - share) * pmf
    p = layer(1, "mean", zero_inflated=True)(inflated)
    np.testing.assert_allclose(p.prob(x), expected, rtol=1e-5)
    mean = (1 - share) * layer(1, "mean")(plain)
    np.testing.assert_allclose(p.mean(), mean, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 2.0])
@pytest.mark.parametrize(
    "make", [tv.IndependentRelaxedBernoulli, tv.RelaxedOneHotCategorical]
)
def test_low_temperatures_stay_finite(make, temperature, rng):
    logits = tf.Variable(rng.normal(size=(200, 50)).astype("float32"))
    with tf.GradientTape() as tape:
        q = make(50, temperature)(logits)
        z = tf.convert_to_tensor(q)
        log_prob = q.log_prob(tf.identity(z))
        loss = tf.reduce_sum(log_prob) + tf.reduce_sum(tf.exp(-tf.abs(z)))
    assert np.isfinite(log_prob).all()
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_relaxed_draws_are_those_of_tfp_in_another_space(rng):
    logits = rng.normal(size=(4,)).astype("float32")
    q = tv.IndependentRelaxedBernoulli(4, 0.7)(logits[None])
    theirs = tfd.RelaxedBernoulli(0.7, logits=logits)
    x = rng.uniform(0.1, 0.9, (1, 4)).astype("float32")
    y = special.logit(x)
    jacobian = np.log(x * (1 - x))
    expected = tf.reduce_sum(theirs.log_prob(x) + jacobian, -1)
    np.testing.assert_allclose(q.log_prob(y), expected, rtol=1e-4)


def test_a_temperature_can_be_annealed_and_comes_back(tmp_path):
    temperature = keras.Variable(1.0, trainable=False)
    prior = tfd.Sample(tfd.Logistic(0.0, 1.0), 3)
    layer = tv.IndependentRelaxedBernoulli(3, temperature, name="q")
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(3),
            layer,
            tv.KLDivergenceAddLoss(prior),
            keras.layers.Activation("sigmoid"),
            keras.layers.Dense(3),
            tv.IndependentBernoulli(3, "mean"),
        ]
    )
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    cool = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: temperature.assign(1.0 / (1 + epoch))
    )
    x = np.eye(3, dtype="float32")
    history = model.fit(x, x, epochs=4, callbacks=[cool], verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert float(model.layers[0](x).shape[0]) == 3
    assert float(layer(x).distribution.scale) == 4.0
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras").get_layer("q")
    assert float(again.temperature.numpy()) == 0.25


NEGATIVE = keras.Variable(-1.0, trainable=False)


@pytest.mark.parametrize(
    "temperature", [0.0, -1.0, None, "low", float("inf"), True, NEGATIVE]
)
def test_a_bad_temperature_is_an_error(temperature):
    for make in (tv.IndependentRelaxedBernoulli, tv.RelaxedOneHotCategorical):
        with pytest.raises(ValueError, match="number above 0.*Received: temperature"):
            make(3, temperature)


def test_the_ends_of_an_interval_are_checked():
    for ends in ((1.0, 0.0), (0.0, float("inf")), ("a", 1.0)):
        with pytest.raises(ValueError, match="with low < high. Received: low="):
            tv.IndependentTruncatedNormal(3, low=ends[0], high=ends[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tv.IndependentBeta(3, concentration_floor=0.0), "above 0"),
        (lambda: tv.IndependentCategorical(3, num_categories=1), "at least 2"),
        (lambda: tv.QuantizedLogistic(3, low=0.5), "integer of at least"),
        (
            lambda: tv.QuantizedLogistic(3, low=5, high=5),
            "at least 6. Received: high=5",
        ),
        (lambda: tv.QuantizedLogistic(3, num_components=0), "at least 1"),
        (lambda: tv.MultivariateNormalDiag(0), "at least 1"),
        (lambda: tv.RelaxedOneHotCategorical(1, 0.5), "at least 2"),
        (lambda: tv.IndependentStudentT(3, df=-1.0), "above 0. Received: df=-1.0"),
        (lambda: tv.Blockwise([]), "list of distribution layers.*Received"),
        (lambda: tv.Blockwise([tv.StandardNormal(2)]), "list of distribution layers"),
        (lambda: tv.PowerSpherical(1), "at least 2. Received: event_size=1"),
        (lambda: tv.VonMisesFisher(3, concentration=-1.0), "Received: concentration"),
        (lambda: tv.PowerSpherical(3, concentration="a"), "Received: concentration"),
    ],
)
def test_bad_arguments_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_blocks_of_different_families_have_an_exact_kl(rng):
    """A plane of normals beside a sphere, each with its own prior."""
    layer = tv.Blockwise([tv.IndependentNormal(2), tv.PowerSpherical(4)])
    params = rng.normal(size=(6, layer.parameters_width)).astype("float32")
    prior = tfd.Blockwise(
        [tfd.MultivariateNormalDiag(tf.zeros(2)), tfd.SphericalUniform(4)]
    )
    kl = tv.KLDivergenceAddLoss(prior, use_exact_kl=True)
    q = layer(params)
    kl(q)
    parts = [
        tfd.kl_divergence(a, b)
        for a, b in zip(q.distributions, prior.distributions, strict=True)
    ]
    expected = tf.reduce_mean(tf.add_n(parts))
    np.testing.assert_allclose(kl.losses[0], expected, rtol=1e-5)
    draws = q.sample(3).numpy()
    np.testing.assert_allclose(np.linalg.norm(draws[..., 2:], axis=-1), 1.0, rtol=1e-5)


def test_any_two_families_make_a_vae(rng):
    """Neither q nor p(z) need be normal, nor of one family."""
    x = rng.normal(size=(64, 5)).astype("float32")
    prior = tfd.Sample(tfd.Cauchy(0.0, 1.0), 2)
    q = tv.DistributionLambda(
        lambda t: tfd.Independent(tfd.Gumbel(t[..., :2], tf.exp(t[..., 2:])), 1)
    )
    encoder = [
        keras.Input((5,)),
        keras.layers.Dense(4),
        q,
        tv.KLDivergenceAddLoss(prior),
    ]
    decoder = [keras.layers.Dense(15), tv.IndependentStudentT(5, "mean")]
    model = keras.Sequential([*encoder, *decoder])
    model.compile(keras.optimizers.Adam(0.01), loss=tv.NegativeLogLikelihood())
    losses = model.fit(x, x, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_mixture_of_any_family(name, rng):
    """The log of the mean of two densities, and a gradient for every parameter."""
    family = FAMILIES[name]
    component = family.make()
    if component.parameters_width is None:
        pytest.skip("DistributionLambda has no width to split")
    layer = tv.MixtureSameFamily(2, component)
    parameters = rng.normal(size=(5, layer.parameters_width)).astype("float32")
    values = family.values(rng, (5, *family.event))
    weights = special.log_softmax(parameters[:, :2], axis=-1)
    terms = [
        weights[:, k] + component(part).log_prob(values).numpy()
        for k, part in enumerate(np.split(parameters[:, 2:], 2, axis=-1))
    ]
    variable = tf.Variable(parameters)
    with tf.GradientTape() as tape:
        log_prob = layer(variable).log_prob(values)
    np.testing.assert_allclose(
        log_prob, special.logsumexp(terms, axis=0), rtol=1e-4, atol=1e-6
    )
    assert np.isfinite(tape.gradient(log_prob, variable)).all()
    assert layer(parameters).sample(3).shape == (3, 5, *family.event)


REAL = [lambda: tv.StandardNormal(3), lambda: tv.MixturePrior(3, num_components=4)]
REAL += [lambda: tv.LearnedNormal(3, "full"), lambda: tv.FlowPrior(3)]
REAL += [lambda: tfd.Sample(tfd.StudentT(3.0, 0.0, 1.0), 3)]
UNIT = [lambda: tfd.Sample(tfd.Beta(2.0, 1.0), 3), lambda: tfd.Sample(tfd.Uniform(), 3)]
POSITIVE = [lambda: tfd.Sample(tfd.Gamma(2.0, 1.0), 3)]
POSITIVE += [lambda: tfd.Sample(tfd.LogNormal(0.0, 1.0), 3)]
POSTERIORS = {
    tv.IndependentNormal: REAL,
    tv.MultivariateNormalDiag: REAL,
    tv.MultivariateNormalTriL: REAL,
    tv.IndependentLaplace: REAL,
    tv.IndependentLogistic: REAL,
    tv.IndependentStudentT: REAL,
    tv.IndependentLogNormal: POSITIVE,
    tv.IndependentGamma: POSITIVE,
    tv.IndependentBeta: UNIT,
    tv.IndependentKumaraswamy: UNIT,
    tv.IndependentTruncatedNormal: UNIT,
    tv.PowerSpherical: [lambda: tv.SphericalUniform(3)],
    tv.VonMisesFisher: [lambda: tv.SphericalUniform(3)],
}


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_the_kl_of_extreme_outputs_is_finite(posterior, jit_compile):
    layer = posterior(3, seed=1)
    parameters = np.concatenate([*extremes(layer.parameters_width).values()])
    priors = [make() for make in POSTERIORS[posterior][: 1 if jit_compile else None]]
    regularizers = [tv.KLDivergenceRegularizer(prior) for prior in priors]
    for kl in regularizers:
        kl.build()

    @tf.function(jit_compile=jit_compile)
    def values_and_gradients(parameters):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(parameters)
            q = layer(parameters)
            values = {kl.prior.name: kl.weighted_mean(q) for kl in regularizers}
            values["draws"] = tf.reduce_mean(tf.tanh(q))
        return {name: (v, tape.gradient(v, parameters)) for name, v in values.items()}

    found = values_and_gradients(tf.constant(parameters, tf.float32))
    assert len(found) == len(priors) + 1
    for name, (value, gradient) in found.items():
        assert np.isfinite(value), name
        assert np.isfinite(gradient).all(), name


@pytest.mark.parametrize(
    "layer",
    [
        tv.IndependentGamma,
        pytest.param(tv.IndependentBeta, marks=pytest.mark.slow),
    ],
)
def test_gamma_variables_keep_their_gradients_under_xla(layer):
    """XLA flushes tiny draws to 0, where the density is infinite."""
    raw = tf.random.stateless_normal([128, layer.params_size(50)], [1, 2]) - 3.0
    posterior = layer(50)

    @tf.function(jit_compile=True)
    def gradient(raw):
        with tf.GradientTape() as tape:
            tape.watch(raw)
            q = posterior(raw)
            loss = tf.reduce_sum(q.log_prob(tf.convert_to_tensor(q)))
        return tape.gradient(loss, raw)

    assert np.isfinite(gradient(raw)).all()


def test_a_mixture_of_vectors_cannot_be_reparameterised():
    for component in (tv.PowerSpherical(3), tv.MultivariateNormalDiag(3)):
        layer = tv.MixtureSameFamily(2, component, reparameterize=True)
        with pytest.raises(ValueError, match="independent coordinates. Received"):
            layer(np.zeros((1, layer.parameters_width), "float32"))


@pytest.fixture(scope="module")
def draws_of_truncated_normals():
    """Functions of the location: as a graph, and compiled by XLA."""

    def sample(loc):
        law = TruncatedNormal(loc, 0.1, 0.0, 1.0)
        return law.sample(50_000, seed=tf.constant([1, 2]))

    return [tf.function(sample, jit_compile=jit) for jit in (False, True)]


@pytest.mark.parametrize("loc", [-1.0, -0.2, 0.4, 1.3, 2.0])
def test_truncated_normal_far_out(loc, draws_of_truncated_normals):
    """In float32, against SciPy, up to 10 scales away; also under XLA."""
    scale = 0.1
    p = TruncatedNormal(loc, scale, 0.0, 1.0)
    law = stats.truncnorm((0 - loc) / scale, (1 - loc) / scale, loc, scale)
    levels = (np.arange(20_000) + 0.5) / 20_000
    entropy = -law.logpdf(law.ppf(levels)).mean()
    np.testing.assert_allclose(p.entropy(), entropy, rtol=1e-3, atol=1e-4)
    for sample in draws_of_truncated_normals:
        z = sample(tf.constant(loc)).numpy()
        assert ((z > 0) & (z < 1)).all()
        assert stats.kstest(z, law.cdf).pvalue > 1e-6
