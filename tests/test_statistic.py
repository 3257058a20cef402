import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_vae as tv


def encoder():
    x = keras.Input((4,))
    q = tv.IndependentNormal(2)(keras.layers.Dense(4)(x))
    return x, q


@pytest.mark.parametrize("name", ["mean", "stddev", "variance", "mode"])
def test_a_functional_model_outputs_the_statistic(name, tmp_path, rng):
    x, q = encoder()
    model = keras.Model(x, [q, tv.Statistic(name)(q)])
    data = rng.normal(size=(6, 4)).astype("float32")
    p, found = model(data)
    np.testing.assert_array_equal(found, getattr(p, name)())
    alone = keras.Model(x, model.outputs[1])
    alone.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.predict(data, verbose=0), found)
    alone.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(served.serve(data), found, rtol=1e-6)


def test_the_mean_and_the_draw_of_one_posterior_train_together(rng):
    """A classifier on the mean beside a decoder of the draw."""
    x, q = encoder()
    logits = keras.layers.Dense(3)(tv.Statistic()(q))
    p = tv.IndependentNormal(4)(keras.layers.Dense(8)(q))
    model = tv.Model(x, {"label": logits, "x": p})
    model.compile(
        "adam",
        loss={
            "label": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "x": tv.NegativeLogLikelihood(),
        },
    )
    data = rng.normal(size=(12, 4)).astype("float32")
    y = {"label": np.arange(12) % 3, "x": data}
    history = model.fit(data, y, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_a_mean_of_integers_is_real():
    x = keras.Input((3,))
    p = tv.DistributionLambda(lambda t: tv.IndependentBernoulli.new(t, 3))(x)
    mean = tv.Statistic("mean")(p)
    assert mean.dtype == "float32"
    model = keras.Model(x, mean)
    np.testing.assert_allclose(model(tf.zeros([2, 3])), 0.5)


@pytest.mark.parametrize("statistic", ["sample", "mode", "mean", "stddev"])
@pytest.mark.parametrize("conversion", ["sample", "mode", "mean", lambda p: p.mean()])
@pytest.mark.parametrize("dtype", ["int32", "float64", None])
def test_the_dtype_is_known_before_the_model_runs(dtype, conversion, statistic):
    x = keras.Input((3,))
    p = tv.IndependentBernoulli(3, conversion, sample_dtype=dtype)(x)
    found = tv.Statistic(statistic)(p)
    model = keras.Model(x, keras.layers.Dense(2)(found))
    value = keras.Model(x, found)(np.ones((2, 3)))
    assert value.dtype.name == found.dtype
    assert model(np.ones((2, 3))).dtype.name == "float32"


def test_draws_follow_the_seed():
    data = tf.zeros([2, 4])

    def draws(seed):
        x, q = encoder()
        model = keras.Model(x, tv.Statistic("sample", seed=seed)(q))
        model.set_weights([np.ones_like(w) for w in model.get_weights()])
        return [model(data).numpy() for _ in range(2)]

    first, second = draws(3)
    np.testing.assert_array_equal(draws(3), [first, second])
    assert not np.array_equal(first, second)
    assert not np.array_equal(draws(4)[0], first)


def test_a_value_that_is_no_draw_is_an_error():
    x = keras.Input((4,))
    q = tv.IndependentNormal(2, lambda q: q.sample(5))(x)
    model = keras.Model(x, tv.Statistic("mean")(q))
    with pytest.raises(ValueError, match=r"has the shape of a draw.*Received"):
        model(tf.zeros([3, 4]))


def test_other_names_and_other_inputs_are_errors():
    with pytest.raises(ValueError, match=r"expects `statistic`.*Received.*'entropy'"):
        tv.Statistic("entropy")
    with pytest.raises(ValueError, match="expects a distribution.*Received"):
        tv.Statistic()(tf.zeros([2, 3]))


def test_real_draws_are_not_truncated_to_the_integers_of_a_conversion():
    layer = tv.IndependentNormal(2, lambda p: tf.cast(tf.round(p.mean()), tf.int32))
    found = tv.Statistic("mode")(layer(tf.constant([[0.3, 0.7, 0.0, 0.0]])))
    np.testing.assert_allclose(found, [[0.3, 0.7]], rtol=1e-6)
