"""Against NumPy's closed forms of sparse Gaussian processes, and scikit-learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

import tfp_vae as tv

tfd = tfp.distributions
AMPLITUDE, LENGTH, NOISE = 1.3, 0.6, 0.2
X = np.linspace(-2, 2, 9)[:, None]
Y = np.sin(2 * X) + 0.1 * np.cos(9 * X)
AT = np.linspace(-2.5, 2.5, 7)[:, None]


def inverse_softplus(value):
    return np.log(np.expm1(value))


def provider(k=keras):
    """The kernel layer that a user ports, in either Keras."""

    class Provider(k.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            for name, value in [("amplitude", AMPLITUDE), ("length_scale", LENGTH)]:
                constant = k.initializers.Constant(inverse_softplus(value))
                weight = self.add_weight(name=name, shape=(), initializer=constant)
                setattr(self, name, weight)

        @property
        def kernel(self):
            return tfp.math.psd_kernels.ExponentiatedQuadratic(
                tf.nn.softplus(self.amplitude), tf.nn.softplus(self.length_scale)
            )

    return Provider


RBF = keras.saving.register_keras_serializable("test")(provider())


@keras.saving.register_keras_serializable("test")
def slope(x):
    return 0.5 * x[..., 0]


def constant(value):
    return keras.initializers.Constant(value)


def layer(points, **kwargs):
    return tv.VariationalGaussianProcess(
        **{
            "num_inducing_points": np.shape(points)[-2],
            "kernel_provider": RBF(dtype=kwargs.pop("of_kernel", "float64")),
            "inducing_index_points_initializer": constant(points),
            "unconstrained_observation_noise_variance_initializer": constant(
                inverse_softplus(NOISE)
            ),
            "jitter": 1e-9,
            **kwargs,
        }
    )


def k(a, b):
    """AMPLITUDE^2 exp(-(a - b)^2 / (2 LENGTH^2))"""
    return AMPLITUDE**2 * np.exp(-((a - b.T) ** 2) / (2 * LENGTH**2))


def optimum(z, y=Y):
    """Titsias' q(u) for all rows, and its bound of log p(y)."""
    kzz, kzx = k(z, z), k(z, X)
    sigma = np.linalg.inv(kzz + kzx @ kzx.T / NOISE)
    loc = kzz @ sigma @ kzx @ y[:, 0] / NOISE
    q = kzx.T @ np.linalg.solve(kzz, kzx)
    bound = stats.multivariate_normal.logpdf(
        y[:, 0], None, q + NOISE * np.eye(len(X))
    ) - np.trace(k(X, X) - q) / (2 * NOISE)
    return loc, np.linalg.cholesky(kzz @ sigma @ kzz), bound


def of(layer, loc, scale):
    """The layer with these variational parameters, built."""
    if not layer.built:
        layer.build((None, 1))
    layer.variational_inducing_observations_loc.assign(loc)
    layer.variational_inducing_observations_scale.assign(scale)
    return layer


def regressor():
    kernel = kernels.ConstantKernel(AMPLITUDE**2) * kernels.RBF(LENGTH)
    return GaussianProcessRegressor(kernel, alpha=NOISE, optimizer=None).fit(X, Y)


def random_parameters(rng, outputs, points):
    loc = rng.normal(size=(outputs, points))
    return loc, rng.normal(size=(outputs, points, points)) + np.eye(points)


def test_with_all_inputs_as_inducing_points_it_is_exact_regression():
    loc, scale, _ = optimum(X)
    process, exact = of(layer(X), loc[None], scale[None]), regressor()
    mean, stddev = exact.predict(AT, return_std=True)
    p = process(AT)
    np.testing.assert_allclose(p.mean()[:, 0], mean.ravel(), atol=1e-6)
    np.testing.assert_allclose(p.variance()[:, 0], stddev**2 + NOISE, atol=1e-6)
    evidence = exact.log_marginal_likelihood()
    loss = process(X).variational_loss(Y)
    np.testing.assert_allclose(loss, [-evidence], atol=1e-5)


@pytest.mark.parametrize("points", [2, 4, 6])
def test_the_loss_is_an_upper_bound_that_approaches_the_evidence(points, rng):
    z = np.linspace(-1.8, 1.8, points)[:, None]
    loc, scale, bound = optimum(z)
    evidence = regressor().log_marginal_likelihood()
    process = of(layer(z), loc[None], scale[None])
    best = process(X).variational_loss(Y)
    np.testing.assert_allclose(best, [-bound], rtol=1e-6)
    assert -evidence < float(best[0])
    assert points < 6 or float(best[0]) < -evidence + 2
    for size in (0.01, 0.3):  # it is the optimum, and others are bounds too
        noise = size * rng.normal(size=(1, points, points))
        of(process, loc + size * rng.normal(size=(1, points)), scale + noise)
        assert process(X).variational_loss(Y) > best


def test_the_gradient_is_zero_at_the_optimum():
    z = np.linspace(-1.8, 1.8, 3)[:, None]
    loc, scale, _ = optimum(z)
    process = layer(z)
    for size, low, high in [(0.0, 0.0, 1e-5), (0.1, 0.1, np.inf)]:
        of(process, loc[None] + size, scale[None] + size * np.eye(3))
        with tf.GradientTape() as tape:
            loss = process(X).variational_loss(Y)
        of_q = [
            process.variational_inducing_observations_loc.value,
            process.variational_inducing_observations_scale.value,
        ]
        for gradient in tape.gradient(loss, of_q):
            assert low <= np.abs(gradient).max() < high


def closed_form(x, z, loc, scale):
    """Mean and covariance of y at x, for one output."""
    scale = np.tril(scale)
    a = k(x, z) @ np.linalg.inv(k(z, z))
    mean = slope(x) + a @ (loc - slope(z))
    covariance = k(x, x) - a @ (k(z, z) - scale @ scale.T) @ a.T
    return mean, covariance + NOISE * np.eye(len(x))


def kl_to_prior(z, loc, scale, jitter=0.0):
    prior, scale, n = k(z, z) + jitter * np.eye(len(z)), np.tril(scale), len(z)
    trace = np.trace(np.linalg.solve(prior, scale @ scale.T))
    square = (loc - slope(z)) @ np.linalg.solve(prior, loc - slope(z))
    logs = np.linalg.slogdet(prior)[1] - 2 * np.log(np.abs(np.diag(scale))).sum()
    return (trace + square - n + logs) / 2


def test_the_law_is_joint_over_the_rows(rng):
    z = np.stack([np.linspace(-2, 2, 4), np.linspace(-1, 2.5, 4)])[..., None]
    loc, scale = random_parameters(rng, 2, 4)
    p = of(layer(z, event_shape=2, mean_fn=slope), loc, scale)(AT)
    y = rng.normal(size=(3, 7, 2))
    expected, nll = 0.0, []
    for i in range(2):
        mean, covariance = closed_form(AT, z[i], loc[i], scale[i])
        np.testing.assert_allclose(p.mean()[:, i], mean, rtol=1e-6)
        np.testing.assert_allclose(p.mode()[:, i], mean, rtol=1e-6)
        np.testing.assert_allclose(p.variance()[:, i], covariance.diagonal(), rtol=1e-6)
        np.testing.assert_allclose(
            p.gaussian_process.covariance()[i], covariance, atol=1e-6
        )
        law = stats.multivariate_normal(mean, covariance)
        expected = expected + law.logpdf(y[..., i])
        spread = covariance.diagonal() - NOISE + (y[0, :, i] - mean) ** 2
        nll.append((np.log(2 * np.pi * NOISE) + spread / NOISE).sum() / 2)
    assert (p.batch_shape, p.event_shape) == ((), (7, 2))
    np.testing.assert_allclose(p.log_prob(y), expected, rtol=1e-6)
    np.testing.assert_allclose(p.stddev(), np.sqrt(p.variance()))
    kl = [kl_to_prior(z[i], loc[i], scale[i]) for i in range(2)]
    np.testing.assert_allclose(p.surrogate_posterior_kl_divergence_prior(), kl, 1e-5)
    for weight in (1.0, 0.25):
        loss = p.variational_loss(y[0], kl_weight=weight)
        np.testing.assert_allclose(loss, np.add(nll, weight * np.array(kl)), rtol=1e-5)


def test_a_draw_is_one_function_at_all_rows(rng):
    z = np.linspace(-2, 2, 4)[:, None]
    loc, scale = random_parameters(rng, 1, 4)
    p = of(layer(z, mean_fn=slope), loc, scale)(AT)
    draws = p.sample(20_000, seed=3).numpy()[..., 0]
    mean, covariance = closed_form(AT, z, loc[0], scale[0])
    # Five standard errors of a mean, and of a covariance.
    error = np.sqrt(covariance.diagonal() / 20_000)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * error)
    variances = np.outer(covariance.diagonal(), covariance.diagonal())
    error = np.sqrt((variances + covariance**2) / 20_000)
    assert np.all(np.abs(np.cov(draws.T) - covariance) < 5 * error)
    entropy = stats.multivariate_normal(mean, covariance).entropy()
    assert float(p.entropy()) == pytest.approx(entropy, rel=1e-6)


def test_jitter_reaches_the_prior(rng):
    z = np.linspace(-2, 2, 4)[:, None]
    loc, scale = random_parameters(rng, 1, 4)
    p = of(layer(z, mean_fn=slope, jitter=0.3), loc, scale)(AT)
    kl = p.surrogate_posterior_kl_divergence_prior()
    assert float(kl[0]) == pytest.approx(kl_to_prior(z, loc[0], scale[0], 0.3))


def test_only_the_lower_triangle_of_s_counts(rng):
    z = np.linspace(-2, 2, 4)[:, None]
    loc, scale = random_parameters(rng, 1, 4)
    process = of(layer(z), loc, scale)
    with tf.GradientTape() as tape:
        loss = process(X).variational_loss(Y)
    gradient = tape.gradient(
        loss, process.variational_inducing_observations_scale.value
    ).numpy()
    assert np.all(np.triu(gradient[0], 1) == 0)
    assert np.all(gradient[0][np.tril_indices(4)] != 0)
    same = of(layer(z), loc, np.tril(scale))(X).variational_loss(Y)
    np.testing.assert_allclose(loss, same, rtol=1e-12)


def test_xla_computes_the_same(rng):
    loc, scale = random_parameters(rng, 1, 4)
    z = np.linspace(-2, 2, 4)[:, None]
    process = of(layer(z), loc, scale)
    variables = [v.value for v in process.trainable_variables]

    def loss_and_gradient():
        with tf.GradientTape() as tape:
            loss = process(X).variational_loss(Y, kl_weight=0.5)
        return loss, tape.gradient(loss, variables)

    compiled = tf.function(loss_and_gradient, jit_compile=True, autograph=False)()
    for left, right in zip(
        tf.nest.flatten(compiled), tf.nest.flatten(loss_and_gradient()), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("sequential", "jit_compile"),
    [
        (tv.Sequential, False),
        (keras.Sequential, False),
        pytest.param(tv.Sequential, True, marks=pytest.mark.slow),
    ],
)
def test_fit_trains_every_variable(sequential, jit_compile, rng):
    z = np.linspace(-2, 2, 4)[:, None]
    process = layer(z, event_shape=2, of_kernel="float32", jitter=1e-4)
    model = sequential([keras.Input((1,)), process])
    x, y = X.astype("float32"), np.hstack([Y, 2 * Y + 1]).astype("float32")
    before = model.get_weights()
    model.compile(
        keras.optimizers.SGD(1e-5),
        loss=lambda y, p: p.variational_loss(y, kl_weight=0.5),
        jit_compile=jit_compile,
    )
    expected = np.mean(model(x).variational_loss(y, kl_weight=0.5))
    # One batch of all rows: the loss before its step, averaged over the outputs.
    assert model.fit(x, y, batch_size=9, verbose=0).history["loss"][0] == pytest.approx(
        expected, rel=1e-3
    )
    assert len(model.trainable_variables) == len(before) == 7
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert np.any(variable.numpy() != old), variable.path
    expected = np.mean(model(x).variational_loss(y, kl_weight=0.5))
    found = model.evaluate(x, y, batch_size=9, verbose=0)
    assert found == pytest.approx(expected, rel=1e-3)


def in_rows(**kwargs):
    return layer(X[:4], of_kernel="float32", jitter=1e-4, **kwargs)


def compiled(loss=lambda y, p: p.variational_loss(y), **kwargs):
    model = tv.Sequential([keras.Input((1,)), in_rows()])
    model.compile("adam", loss=loss, **kwargs)
    return model


def vae():
    encoder = keras.Sequential([keras.layers.Dense(1), in_rows()])
    decoder = keras.Sequential([keras.layers.Dense(2), tv.IndependentNormal(1)])
    model = tv.VAE(encoder, decoder, tv.StandardNormal(1))
    model.compile("adam")
    return model


WEIGHTED = {
    "likelihood": lambda: compiled(tv.NegativeLogLikelihood()).fit(X, Y, verbose=0),
    "metric": lambda: compiled(metrics=[tv.LogLikelihood()]).fit(X, Y, verbose=0),
    "sample_weight": lambda: compiled().fit(X, Y, sample_weight=Y[:, 0], verbose=0),
    "evaluate": lambda: compiled().evaluate(X, Y, sample_weight=Y[:, 0], verbose=0),
    "class_weight": lambda: compiled().fit(
        X, np.zeros((9, 1)), class_weight={0: 2.0}, verbose=0
    ),
    "VAE": lambda: vae().fit(X, verbose=0),
    "KL": lambda: tv.KLDivergenceAddLoss(tv.StandardNormal((9, 1)))(in_rows()(X)),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_what_assumes_rows_refuses_a_law_of_all_rows(name):
    message = (
        r"expects a distribution for each row.* Received: one .*event shape \(9, 1\)"
    )
    with pytest.raises(ValueError, match=rf"{message}.* Train it with the joint loss"):
        WEIGHTED[name]()


class OfTensorFlow(keras.layers.Layer):
    scale = tf.Variable(1.0)

    @property
    def kernel(self):
        return tfp.math.psd_kernels.ExponentiatedQuadratic(self.scale)


def of_provider(value):
    return tv.VariationalGaussianProcess(3, value)


BAD = {
    "provider": (lambda: of_provider(RBF), "Keras layer with a property `kernel`"),
    "kernel": (lambda: of_provider(keras.layers.Dense(1))(X), "kernel of `tfp.math"),
    "variable": (lambda: of_provider(OfTensorFlow())(X), "variables Keras can train"),
    "points": (lambda: tv.VariationalGaussianProcess(0, RBF()), "num_inducing_points"),
    "event": (lambda: in_rows(event_shape=(2, 1)), r"to be \(outputs,\)"),
    "jitter": (lambda: in_rows().__class__(3, RBF(), jitter=-1.0), "`jitter`"),
    "mean_fn": (lambda: in_rows(mean_fn=1.0), "None or a function of the inputs"),
    "initializer": (
        lambda: of_provider(RBF()).__class__(
            3, RBF(), inducing_index_points_initializer=3
        ),
        "keras.initializers",
    ),
    "axes": (lambda: in_rows()(tf.zeros([4, 2, 1])), "with 2 axes"),
    "inputs": (lambda: in_rows()([X, X]), "one tensor of shape"),
    "dtype": (
        lambda: in_rows(dtype="float64")(X),
        "a kernel of its own dtype, float64",
    ),
    "mask": (
        lambda: keras.Sequential([keras.layers.Masking(), in_rows()])(X),
        "inputs without a mask",
    ),
    "observations": (
        lambda: in_rows(event_shape=2)(X).variational_loss(np.zeros((2, 9))),
        r"of shape \(rows, outputs\)",
    ),
    "noise": (
        lambda: in_rows(unconstrained_observation_noise_variance_initializer=None)(
            X
        ).variational_loss(Y),
        "observations with noise",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_errors_of_three_parts(name):
    bad, expected = BAD[name]
    with pytest.raises(
        ValueError, match=rf"(?s)expects.*{expected}.*Received: .*\. \w"
    ):
        bad()


def test_without_noise_it_is_the_law_of_the_function(rng):
    loc, scale = random_parameters(rng, 1, 4)
    z = np.linspace(-2, 2, 4)[:, None]
    name = "unconstrained_observation_noise_variance_initializer"
    p = of(layer(z, mean_fn=slope, **{name: None}), loc, scale)(AT)
    variance = closed_form(AT, z, loc[0], scale[0])[1].diagonal() - NOISE
    np.testing.assert_allclose(p.variance()[:, 0], variance, atol=1e-6)


@pytest.mark.parametrize("mean_fn", [None, slope])
def test_saved_loaded_exported(mean_fn, tmp_path):
    process = in_rows(event_shape=2, mean_fn=mean_fn, convert_to_tensor_fn="mean")
    model = tv.Sequential([keras.Input((1,)), process])
    x = X.astype("float32")
    rng = np.random.default_rng(3)
    model.set_weights([w + 0.1 * rng.normal(size=w.shape) for w in model.get_weights()])
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    config, old = loaded.layers[-1].get_config(), process.get_config()
    for each in (config, old):
        each["kernel_provider"].pop("build_config", None)
    assert config == old
    assert len(loaded.weights) == len(model.weights)
    for new, old in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    expected = model(x).mean()
    np.testing.assert_array_equal(loaded(x).mean(), expected)
    # The means of batches of 4, 4 and 1 rows are those of all rows.
    predicted = loaded.predict(x, batch_size=4, verbose=0)
    np.testing.assert_allclose(predicted, expected, atol=1e-5)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(x), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda")
@pytest.mark.parametrize("named", [False, True])
def test_a_function_that_is_not_registered_says_so_when_loaded(named, tmp_path):
    def flat(x):
        return 0.0 * x[..., 0]

    model = keras.Sequential(
        [keras.Input((1,)), in_rows(mean_fn=flat if named else lambda x: x[..., 0])]
    )
    model.save(tmp_path / "m.keras")
    with pytest.raises((TypeError, ValueError), match="register_keras_serializable"):
        keras.models.load_model(tmp_path / "m.keras")


def test_variables_that_the_mean_reads_are_trained():
    steepness = keras.Variable(0.5)
    process = in_rows(mean_fn=lambda x: steepness * x[..., 0])
    process(X)
    assert sum(v is steepness for v in process.trainable_variables) == 1
    with tf.GradientTape() as tape:
        loss = process(X).variational_loss(Y)
    assert float(tape.gradient(loss, steepness.value)) != 0


class LateProvider(keras.layers.Layer):
    """Makes its variable in `build`."""

    def build(self, input_shape):
        self.raw = self.add_weight(name="raw", shape=input_shape[1:])

    @property
    def kernel(self):
        return tfp.math.psd_kernels.FeatureScaled(
            tfp.math.psd_kernels.MaternThreeHalves(), tf.nn.softplus(self.raw)
        )


def test_a_provider_may_make_its_variables_in_build():
    process = tv.VariationalGaussianProcess(3, LateProvider(), jitter=1e-4)
    assert process(tf.zeros([2, 4])).event_shape == (2, 1)
    assert process.kernel_provider.raw.shape == (4,)
    assert len(process.trainable_variables) == 6


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_policies(policy):
    keras.config.set_dtype_policy(policy)
    process = tv.VariationalGaussianProcess(3, RBF(), jitter=1e-3)
    p = process(X.astype("float16"))
    assert p.dtype == (tf.float64 if policy == "float64" else tf.float32)
    assert np.isfinite(p.variational_loss(Y)).all()


def test_the_layer_of_tfp_layers():
    """Its loss has n / 2 more for each output; S has no upper triangle here."""
    tf_keras = pytest.importorskip("tf_keras", reason="tfp.layers needs tf_keras")
    points, weights = np.linspace(-2, 2, 4)[:, None], {}
    rng = np.random.default_rng(4)
    for name, shape in [("z", (2, 4, 1)), ("loc", (2, 4)), ("scale", (2, 4, 4))]:
        weights[name] = rng.normal(size=shape)
    weights["scale"] = np.tril(weights["scale"]) + 2 * np.eye(4)
    tf_keras.backend.set_floatx("float64")
    try:
        old = tfp.layers.VariationalGaussianProcess(
            4, provider(tf_keras)(dtype="float64"), event_shape=[2]
        )
        old(X)
    finally:
        tf_keras.backend.set_floatx("float32")
    new = layer(points, event_shape=[2], jitter=1e-6)
    new(X)
    by_name = {v.name.split(":")[0].split("/")[-1]: v for v in old.weights}
    assert set(by_name) == {v.name for v in new.weights}
    values = {
        "mean": 0.3,
        "observation_noise_variance": -1.2,
        "inducing_index_points": weights["z"],
        "variational_inducing_observations_loc": weights["loc"],
        "variational_inducing_observations_scale": weights["scale"],
    }
    for variable in new.weights:
        if variable.name in values:
            variable.assign(values[variable.name])
            by_name[variable.name].assign(values[variable.name])
        np.testing.assert_allclose(variable, by_name[variable.name])
    y, theirs, ours = np.hstack([Y, Y**2]), old(X), new(X)
    np.testing.assert_allclose(ours.mean(), theirs.mean(), rtol=1e-8)
    np.testing.assert_allclose(ours.log_prob(y), theirs.log_prob(y), rtol=1e-8)
    for weight in (1.0, 0.3):
        np.testing.assert_allclose(
            ours.variational_loss(y, kl_weight=weight) + len(X) / 2,
            theirs.variational_loss(y, kl_weight=weight),
            rtol=1e-8,
        )
    np.testing.assert_allclose(
        ours.surrogate_posterior_kl_divergence_prior(),
        theirs.surrogate_posterior_kl_divergence_prior(),
        rtol=1e-8,
    )
    # What docs/migrating.md says of S: q(f) reads all of it, the KL its lower triangle.
    kl = theirs.surrogate_posterior_kl_divergence_prior()
    variances = theirs.tensor_distribution.distribution.distribution.variance()
    scale = by_name["variational_inducing_observations_scale"]
    scale.assign(weights["scale"] + np.triu(np.ones((4, 4)), 1))
    whole = old(X)
    np.testing.assert_array_equal(whole.surrogate_posterior_kl_divergence_prior(), kl)
    whole = whole.tensor_distribution.distribution.distribution.variance()
    assert np.abs(whole - variances).max() > 0.1
