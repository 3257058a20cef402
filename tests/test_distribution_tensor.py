"""The seam: a distribution to TFP, a tensor to TensorFlow, Keras and NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae import DistributionTensor

tfd = tfp.distributions


def make(conversion="mean", loc=(0.0, 1.0, 2.0)):
    return DistributionTensor(
        tfd.Independent(tfd.Normal(tf.constant(loc), 1.0), 1), conversion
    )


def test_it_is_a_distribution():
    x = make()
    assert isinstance(x, tfd.Distribution)
    assert x.event_shape == (3,)
    assert x.sample(5).shape == (5, 3)
    assert x.log_prob(tf.zeros(3)).shape == ()
    assert x.reparameterization_type == tfd.FULLY_REPARAMETERIZED


def test_it_is_a_tensor():
    x = make()
    assert tf.is_tensor(x)
    assert keras.ops.is_tensor(x)
    assert (x.shape, x.ndim, x.dtype, len(x)) == ((3,), 1, tf.float32, 3)
    np.testing.assert_array_equal(np.asarray(x), [0, 1, 2])
    np.testing.assert_array_equal(x.numpy(), [0, 1, 2])


def test_it_hides_nothing_of_the_distribution():
    x = make()
    np.testing.assert_array_equal(x.distribution.loc, [0, 1, 2])
    assert x.reinterpreted_batch_ndims == 1
    assert x.tensor_distribution.name == "IndependentNormal"
    assert "log_prob" in dir(x)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = x.no_such_name


def test_the_value_is_drawn_once_and_kept():
    x = make("sample")
    assert "not drawn" in repr(x)
    first = x.numpy()
    assert "shape (3,)" in repr(x)
    np.testing.assert_array_equal(x.numpy(), first)
    np.testing.assert_array_equal(tf.identity(x), first)


def test_shape_and_dtype_do_not_draw():
    class Stubborn(tfd.Normal):
        def _sample_n(self, n, seed=None):
            raise AssertionError("drawn")

    x = DistributionTensor(Stubborn(tf.zeros([4, 2]), 1.0))
    assert (x.shape, x.ndim, x.dtype) == ((4, 2), 2, tf.float32)
    assert x.log_prob(0.0).shape == (4, 2)


def test_a_float_mean_of_integers_has_the_dtype_of_the_mean():
    x = DistributionTensor(tfd.Bernoulli(logits=[0.0, 1.0], dtype=tf.int32), "mean")
    assert x.dtype == tf.float32
    assert x.tensor_distribution.dtype == tf.int32


BINARY = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": lambda a, b: a**b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


@pytest.mark.parametrize("name", BINARY)
def test_operators_act_on_the_value(name):
    op = BINARY[name]
    x, other = make(loc=(1.0, 2.0, 3.0)), np.array([2.0, 2.0, 2.0], "float32")
    value = np.array([1.0, 2.0, 3.0], "float32")
    for right in (other, tf.constant(other), 2.0):
        np.testing.assert_allclose(op(x, right), op(value, other))
        np.testing.assert_allclose(op(right, x), op(other, value))
    np.testing.assert_allclose(op(x, x), op(value, value))


def test_more_operators():
    x = make(loc=(-1.0, 2.0, 3.0))
    matrix = DistributionTensor(tfd.Normal([[1.0, 2.0], [3.0, 4.0]], 1.0), "mean")
    other = np.array([[0.0, 1.0], [1.0, 1.0]], "float32")
    for right in (other, tf.constant(other)):
        np.testing.assert_array_equal(matrix @ right, matrix.numpy() @ other)
        np.testing.assert_array_equal(right @ matrix, other @ matrix.numpy())
    np.testing.assert_array_equal(-x, [1, -2, -3])
    np.testing.assert_array_equal(abs(x), [1, 2, 3])
    np.testing.assert_array_equal(x[1:], [2, 3])
    np.testing.assert_array_equal([float(v) for v in x], [-1, 2, 3])
    y = DistributionTensor(tfd.Deterministic(2.0))
    assert (float(y), int(y), bool(y)) == (2.0, 2, True)
    b = DistributionTensor(tfd.Bernoulli(probs=[0.0, 1.0], dtype=tf.bool))
    np.testing.assert_array_equal(~b, [True, False])
    np.testing.assert_array_equal(b & True, [False, True])
    np.testing.assert_array_equal(True | b, [True, True])


def test_numpy_functions_act_on_the_value():
    x = make(loc=(1.0, 2.0, 6.0))
    assert np.mean(x) == 3.0
    assert np.sum(x, axis=0) == 9.0
    np.testing.assert_array_equal(np.stack([x, x], axis=1).shape, (3, 2))
    np.testing.assert_array_equal(np.where(x > 1.5, x, 0.0), [0, 2, 6])


def test_it_can_be_a_key_and_compares_to_none():
    x = make()
    assert {x: 1}[x] == 1
    assert (x == None) is False  # noqa: E711  # what TF and Keras write


FUNCTIONS = {
    "tf.square": tf.square,
    "tf.stack": lambda x: tf.stack([x, x]),
    "tf.concat": lambda x: tf.concat([x, x], 0),
    "tf.cast": lambda x: tf.cast(x, tf.float64),
    "tf.where": lambda x: tf.where(x > 0.5, x, 0.0),
    "tf.einsum": lambda x: tf.einsum("i,i->", x, x),
    "tf.gather": lambda x: tf.gather(x, [0, 0]),
    "tf.map_fn": lambda x: tf.map_fn(lambda v: v * 2, x),
    "keras.ops.mean": keras.ops.mean,
    "keras.ops.stack": lambda x: keras.ops.stack([x, x]),
    "keras.ops.concatenate": lambda x: keras.ops.concatenate([x, x]),
    "keras.ops.softmax": keras.ops.softmax,
    "numpy times": lambda x: np.ones(3, "float32") * x,
    "slice": lambda x: x[1:],
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_functions_and_their_gradients_are_those_of_the_value(name, mode):
    fn = FUNCTIONS[name]

    def both(loc):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(loc)
            x = DistributionTensor(tfd.Normal(loc, 1.0), "mean")
            ours, plain = fn(x), fn(tf.identity(loc))
        gradients = (tape.gradient(ours, loc), tape.gradient(plain, loc))
        return ours, plain, *map(tf.convert_to_tensor, gradients)

    if mode != "eager":
        both = tf.function(both, jit_compile=mode == "xla", autograph=False)
    ours, plain, gradient, expected = both(tf.constant([0.0, 1.0, 2.0]))
    np.testing.assert_allclose(ours, plain, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("swap", [False, True])
def test_a_list_of_tensors_keeps_its_gradient(swap):
    loc = tf.Variable([0.0, 1.0, 2.0])
    with tf.GradientTape() as tape:
        x = DistributionTensor(tfd.Normal(loc, 1.0), "mean")
        parts = [x, tf.ones(3)]
        total = tf.reduce_sum(tf.stack(parts[::-1] if swap else parts))
    np.testing.assert_array_equal(tape.gradient(total, loc), np.ones(3))


def test_no_numpy_array_while_a_tape_records():
    loc = tf.Variable([0.0])
    with tf.GradientTape():
        x = DistributionTensor(tfd.Normal(loc, 1.0), "mean")
        with pytest.raises(NotImplementedError, match="while a gradient tape records"):
            np.asarray(x)
        assert x.numpy() == [0.0]


def test_at_a_function_boundary_it_becomes_its_value():
    x = make("sample")
    seen = []

    @tf.function
    def double(argument):
        seen.append(argument)
        return 2.0 * argument

    np.testing.assert_array_equal(double(x), 2 * x.numpy())
    assert isinstance(seen[0], tf.Tensor)
    result = tf.function(lambda: make())()
    assert isinstance(result, tf.Tensor)
    np.testing.assert_array_equal(result, [0, 1, 2])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_value_first_used_inside_a_branch_is_the_same_outside(jit_compile):
    @tf.function(jit_compile=jit_compile)
    def both(loc):
        x = DistributionTensor(tfd.Normal(loc, 1.0))
        inside = tf.cond(loc[0] > -1.0, lambda: tf.identity(x), lambda: tf.zeros(3))
        return inside, tf.identity(x)

    inside, outside = both(tf.zeros(3))
    np.testing.assert_array_equal(inside, outside)


def test_made_eagerly_and_first_used_in_a_function():
    x = make("sample")
    inside = tf.function(lambda: tf.identity(x))()
    np.testing.assert_array_equal(inside, x)


def test_kl_divergence_looks_inside():
    x, plain = make(), tfd.Independent(tfd.Normal(tf.zeros(3), 1.0), 1)
    assert tfd.kl_divergence(x, plain) == 2.5
    assert tfd.kl_divergence(plain, x) == 2.5
    assert tfd.kl_divergence(x, make(loc=(0.0, 0.0, 0.0))) == 2.5
    assert x.kl_divergence(plain) == 2.5


def test_tfp_composes_it():
    scalar = DistributionTensor(tfd.Normal(tf.zeros(3), 1.0))
    mixture = tfd.MixtureSameFamily(tfd.Categorical(logits=tf.zeros(3)), scalar)
    np.testing.assert_allclose(
        mixture.log_prob(0.0), -0.5 * np.log(2 * np.pi), rtol=1e-6
    )
    assert tfd.Independent(scalar, 1).log_prob(tf.zeros(3)).shape == ()


def test_wrapping_twice_wraps_once():
    x = DistributionTensor(make("sample"), "mean")
    assert not isinstance(x.tensor_distribution, DistributionTensor)


def test_only_distributions_can_be_wrapped():
    with pytest.raises(ValueError, match="expects a `tfd.Distribution`. Received: 3"):
        DistributionTensor(3)


@pytest.mark.parametrize(
    "fn",
    ["typo", "quantile", tfd.Distribution.quantile, tfd.Normal.cdf, 3, None, ["mean"]],
)
def test_unknown_conversion_is_an_error(fn):
    with pytest.raises(ValueError, match="one of .*'sample', 'mean'.* Received: "):
        DistributionTensor(tfd.Normal(0.0, 1.0), fn)


def test_a_conversion_with_seed_is_given_one():
    x = DistributionTensor(
        tfd.Normal(0.0, 1.0), lambda p, seed: p.sample(4, seed=seed), seed=(1, 2)
    )
    np.testing.assert_array_equal(x, tfd.Normal(0.0, 1.0).sample(4, seed=(1, 2)))


def test_a_wrong_dtype_is_tensorflows_error():
    with pytest.raises(ValueError, match="conversion requested dtype int32"):
        tf.convert_to_tensor(make(), dtype=tf.int32)


class Doubled(keras.layers.Layer):
    """A plain layer that a user wrote, which knows nothing of distributions."""

    def call(self, inputs):
        return 2.0 * inputs


def test_the_next_layer_takes_it(rng):
    import tfp_vae as tv

    x = rng.normal(size=(4, 6)).astype("float32")
    layer = tv.IndependentNormal(3, "mean")
    np.testing.assert_allclose(Doubled()(layer(x)), 2 * x[:, :3])
    sequential = keras.Sequential([layer, Doubled()])
    np.testing.assert_allclose(sequential(x), 2 * x[:, :3])
    inputs = keras.Input((6,))
    functional = keras.Model(inputs, Doubled()(layer(inputs)))
    np.testing.assert_allclose(functional(x), 2 * x[:, :3])

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.q, self.doubled = layer, Doubled()

        def call(self, inputs):
            return self.doubled(self.q(inputs))

    np.testing.assert_allclose(Subclassed()(x), 2 * x[:, :3])
    np.testing.assert_allclose(Subclassed().predict(x, verbose=0), 2 * x[:, :3])
