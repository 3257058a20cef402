"""The Bernoulli law of the layers, against SciPy and TFP's own."""

import re

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special

import tfp_vae as tv

tfd = tfp.distributions
Bernoulli = tv.distributions.Bernoulli

LOGITS = np.array([-500.0, -20.0, -1.5, -1e-3, 0.0, 1e-8, 0.7, 18.0, 1e5])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("x", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_density_and_gradient_keep_their_digits(x, dtype, jit_compile):
    logits = tf.constant(LOGITS, dtype)

    @tf.function(jit_compile=jit_compile)
    def value_and_gradient(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            log_prob = Bernoulli(logits, dtype=dtype).log_prob(tf.constant(x, dtype))
        return log_prob, tape.gradient(log_prob, logits)

    log_prob, gradient = value_and_gradient(logits)
    exact = LOGITS.astype(dtype).astype("float64")
    log_1, log_0 = special.log_expit(exact), special.log_expit(-exact)
    expected = x * log_1 + (1 - x) * log_0
    rtol = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(log_prob, expected, rtol=rtol, atol=1e-37)
    np.testing.assert_allclose(
        gradient, x - special.expit(exact), rtol=rtol, atol=rtol / 10
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_logarithm_is_right_to_the_last_digits(jit_compile):
    logits = -np.geomspace(1e-7, 80.0, 20_001).astype("float32")

    @tf.function(jit_compile=jit_compile)
    def log_prob(logits):
        return Bernoulli(logits, dtype="float32").log_prob(tf.zeros_like(logits))

    expected = special.log_expit(-logits.astype("float64"))
    np.testing.assert_allclose(log_prob(logits), expected, rtol=3e-7)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="of a CPU")
@pytest.mark.parametrize(("gradient", "loops"), [(False, 1), (True, 3)])
def test_xla_goes_over_the_values_as_often_as_it_must(gradient, loops):
    # Once for the density; with the gradient also for the exponential that both use,
    # and for the gradient.
    def fn(logits, x):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            law = tfd.Independent(Bernoulli(logits, dtype="float32"), 1)
            log_prob = law.log_prob(x)
        return (log_prob, tape.gradient(log_prob, logits)) if gradient else log_prob

    args = tf.zeros([64, 96]), tf.zeros([64, 96])
    ir = tf.function(fn, jit_compile=True).experimental_get_compiler_ir(*args)
    before, program = ir(stage="optimized_hlo").split("ENTRY", 1)
    assert "exponential(" in before + program
    made = re.findall(r"= .*f32\[64,96\]\{1,0\}.* (\S+)\(", program)
    made = [name for name in made if name not in ("parameter", "tuple")]
    assert len(made) == loops


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_density_has_a_second_derivative(dtype):
    logits = tf.constant([-30.0, -2.0, 0.0, 0.5, 40.0], dtype)
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        outer.watch(logits), inner.watch(logits)
        log_prob = Bernoulli(logits, dtype=dtype).log_prob(tf.ones([], dtype))
        gradient = inner.gradient(log_prob, logits)
    second = outer.gradient(gradient, logits)
    probs = special.expit(logits.numpy())
    np.testing.assert_allclose(second, -probs * (1 - probs), rtol=1e-5, atol=1e-7)


def test_infinite_and_missing_logits_are_as_in_tfp():
    logits = tf.constant([np.inf, np.inf, -np.inf, -np.inf, np.nan, np.nan], tf.float32)
    x = tf.constant([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    theirs = tfd.Bernoulli(logits).log_prob(x)
    np.testing.assert_array_equal(Bernoulli(logits).log_prob(x), theirs)


def test_it_is_tfps_law_but_for_the_density():
    logits = tf.constant([[-1.0, 0.5, 2.0]])
    ours, theirs = Bernoulli(logits), tfd.Bernoulli(logits)
    np.testing.assert_array_equal(
        ours.sample(9, seed=(1, 2)), theirs.sample(9, seed=(1, 2))
    )
    np.testing.assert_array_equal(ours.entropy(), theirs.entropy())
    np.testing.assert_allclose(tfd.kl_divergence(ours, theirs), 0.0, atol=1e-7)
    np.testing.assert_allclose(
        Bernoulli(probs=0.3).log_prob([0, 1]), np.log([0.7, 0.3]), rtol=1e-6
    )
    assert type(ours[0]) is type(ours.copy()) is type(ours)
    assert type(tv.IndependentBernoulli(3)(logits).distribution) is type(ours)
    # Composite tensors go into and out of functions.
    law = tf.function(lambda p: p)(ours)
    np.testing.assert_array_equal(law.log_prob(1), ours.log_prob(1))


def test_every_draw_of_a_batch_has_its_own_density(rng):
    logits = rng.normal(size=(4, 1, 3)).astype("float32")
    x = rng.integers(0, 2, (5, 3)).astype("float32")
    expected = np.where(x, special.log_expit(logits), special.log_expit(-logits))
    np.testing.assert_allclose(Bernoulli(logits).log_prob(x), expected, rtol=1e-5)
