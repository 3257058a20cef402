"""Parameters that are channels of an image, or features of each step of a sequence."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

import tfp_vae as tv
from tfp_vae.layers.independent_layer import IndependentLayer

IMAGE = (4, 3, 2)
# How many numbers a coordinate has, and the layer.
LAYERS = {
    "IndependentBernoulli": (1, tv.IndependentBernoulli, {}),
    "IndependentBeta": (2, tv.IndependentBeta, {}),
    "IndependentCategorical": (5, tv.IndependentCategorical, {"num_categories": 5}),
    "IndependentContinuousBernoulli": (1, tv.IndependentContinuousBernoulli, {}),
    "IndependentGamma": (2, tv.IndependentGamma, {}),
    "IndependentKumaraswamy": (2, tv.IndependentKumaraswamy, {}),
    "IndependentLaplace": (2, tv.IndependentLaplace, {}),
    "IndependentLogNormal": (2, tv.IndependentLogNormal, {}),
    "IndependentLogistic": (2, tv.IndependentLogistic, {}),
    "IndependentNegativeBinomial": (2, tv.IndependentNegativeBinomial, {}),
    "IndependentNormal": (2, tv.IndependentNormal, {}),
    "IndependentNormal, a fixed scale": (1, tv.IndependentNormal, {"scale": 2.0}),
    "IndependentPoisson, zeros": (2, tv.IndependentPoisson, {"zero_inflated": True}),
    "IndependentStudentT": (3, tv.IndependentStudentT, {}),
    "IndependentTruncatedNormal": (2, tv.IndependentTruncatedNormal, {}),
    "QuantizedLogistic": (2, tv.QuantizedLogistic, {"high": 7}),
    "QuantizedLogistic, 3": (9, tv.QuantizedLogistic, {"high": 7, "num_components": 3}),
}


def concrete(cls):
    for sub in cls.__subclasses__():
        yield from concrete(sub)
        if not sub.__subclasses__() and sub.__module__.startswith("tfp_vae"):
            yield sub


def test_every_layer_of_independent_coordinates_is_here():
    assert {row[1] for row in LAYERS.values()} == set(concrete(IndependentLayer))


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def row(request):
    return request.param


def test_each_coordinate_has_the_parameters_of_its_pixel(row, rng):
    number, family, options = row
    inputs = rng.normal(size=(5, 4, 3, 2 * number)).astype("float32")
    p = family(IMAGE, "mean", parameters_axis=-1, **options)(inputs)
    assert p.batch_shape == (5,)
    assert p.event_shape == IMAGE
    # A pixel alone, whose parameters are a vector of their own.
    pixel = family(2, "mean", **options)(inputs[:, 1, 2])
    np.testing.assert_allclose(
        tf.convert_to_tensor(p)[:, 1, 2], tf.convert_to_tensor(pixel), rtol=1e-5
    )
    # Another pixel's parameters say nothing about it.
    changed = inputs.copy()
    changed[:, 0, 0] += 1.0
    again = family(IMAGE, "mean", parameters_axis=-1, **options)(changed)
    differs = np.any(tf.convert_to_tensor(again) != tf.convert_to_tensor(p), (0, 3))
    assert differs[0, 0]
    assert differs.sum() == 1


def test_the_axis_may_be_any_of_the_event(row, rng):
    number, family, options = row
    inputs = rng.normal(size=(5, 4, 3, 2 * number)).astype("float32")
    last = family(IMAGE, "mean", parameters_axis=-1, **options)(inputs)
    first = family((2, 4, 3), "mean", parameters_axis=-3, **options)(
        np.moveaxis(inputs, -1, 1)
    )
    np.testing.assert_allclose(
        np.moveaxis(tf.convert_to_tensor(first), 1, -1),
        tf.convert_to_tensor(last),
        rtol=1e-5,
    )


@pytest.mark.parametrize("axis", [-3, -1])
def test_xla_reads_batches_of_unknown_size(axis, rng):
    layer = tv.IndependentNormal((4, 3, 2), parameters_axis=axis)
    shape = [4, 3, 2]
    shape[axis] *= 2
    x = rng.normal(size=(5, *shape)).astype("float32")

    @tf.function(input_signature=[tf.TensorSpec([None, *shape])], jit_compile=True)
    def mean(x):
        return layer(x).tensor_distribution.mean()

    # All means come before all scales.
    np.testing.assert_allclose(mean(x), np.split(x, 2, axis)[0], rtol=1e-6)


def test_a_normal_image_is_that_of_scipy(rng):
    inputs = rng.normal(size=(5, 4, 3, 4)).astype("float32")
    x = rng.normal(size=(5, 4, 3, 2)).astype("float32")
    p = tv.IndependentNormal(IMAGE, parameters_axis=-1)(inputs)
    loc, scale = inputs[..., :2], np.log1p(np.exp(inputs[..., 2:]))
    expected = stats.norm.logpdf(x, loc, scale).sum((1, 2, 3))
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-5)


def test_categories_of_a_colour_are_neighbouring_channels(rng):
    inputs = rng.normal(size=(5, 4, 3, 2 * 6)).astype("float32")
    x = rng.integers(0, 6, size=(5, *IMAGE))
    layer = tv.IndependentCategorical(IMAGE, num_categories=6, parameters_axis=-1)
    logits = special.log_softmax(inputs.reshape(5, *IMAGE, 6), axis=-1)
    expected = np.take_along_axis(logits, x[..., None], axis=-1).sum((1, 2, 3, 4))
    found = layer(inputs).log_prob(x.astype("float32"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_it_is_saved_and_trains_behind_a_convolution(rng, tmp_path):
    x = rng.normal(size=(64, *IMAGE)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input(IMAGE),
            keras.layers.Conv2D(tv.IndependentNormal.params_size(2), 3, padding="same"),
            tv.IndependentNormal(IMAGE, "mean", parameters_axis=-1),
        ]
    )
    model.compile("adam", loss=tv.NegativeLogLikelihood())
    before = model.evaluate(x, x, verbose=0)
    model.fit(x, x, epochs=3, verbose=0)
    assert model.evaluate(x, x, verbose=0) < before
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[-1].parameters_axis == -1
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5
    )


def test_images_of_any_size_of_batch_and_unknown_sides(rng):
    layer = tv.IndependentLaplace((4, 2), "mean", parameters_axis=-1)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None])])
    def means(inputs):
        p = layer(inputs)
        assert p.shape.as_list() == [None, 4, 2]
        return tf.convert_to_tensor(p)

    inputs = rng.normal(size=(3, 4, 4)).astype("float32")
    np.testing.assert_allclose(means(inputs), inputs[..., :2])
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        means(inputs[:, :, :3])


@pytest.mark.parametrize("axis", [0, 1, -3, 1.0, -1.0, True, "last"])
def test_the_event_must_have_the_axis(axis):
    with pytest.raises(
        ValueError, match=r"one of \[-2, -1\]. Received: param.*Give -1"
    ):
        tv.IndependentNormal((4, 3), parameters_axis=axis)


@pytest.mark.parametrize("shape", [(5, 24), (5, 3, 4), (5, 4, 3), (5, 4, 12), (6,)])
def test_inputs_of_another_shape_are_an_error(shape):
    layer = tv.IndependentNormal((4, 3), parameters_axis=-1)
    with pytest.raises(
        ValueError, match=r"\(\.\.\., 4, 6\)\. Received.*Give the layer"
    ):
        layer(tf.zeros(shape))


def test_a_law_for_each_step_of_a_sequence_sums_to_that_of_the_whole(rng):
    inputs = rng.normal(size=(5, 7, 6)).astype("float32")
    x = rng.normal(size=(5, 7, 3)).astype("float32")
    steps = tv.IndependentNormal(3)(inputs)
    whole = tv.IndependentNormal((7, 3), parameters_axis=-1)(inputs)
    assert steps.batch_shape == (5, 7)
    np.testing.assert_allclose(
        tf.reduce_sum(steps.log_prob(x), axis=1), whole.log_prob(x), rtol=1e-5
    )


def test_unknown_sides_are_checked_when_the_graph_runs():
    layer = tv.IndependentNormal((8, 4, 1), "mean", parameters_axis=-1)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 2])])
    def means(inputs):
        return tf.convert_to_tensor(layer(inputs))

    assert means(tf.zeros([3, 8, 4, 2])).shape == (3, 8, 4, 1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        means(tf.zeros([3, 4, 8, 2]))


@pytest.mark.parametrize("axis", [np.int64(-1), np.array(-2)])
def test_the_axis_may_be_an_integer_of_numpy(axis):
    assert (
        type(tv.IndependentNormal((4, 3), parameters_axis=axis).parameters_axis) is int
    )


@pytest.mark.parametrize(
    "make",
    [lambda layer: tv.MixtureSameFamily(2, layer), lambda layer: tv.Blockwise([layer])],
)
def test_layers_inside_others_read_one_vector(make):
    with pytest.raises(ValueError, match="one vector. Received: .*Make it without"):
        make(tv.IndependentNormal((4, 3), parameters_axis=-1))


def test_a_flat_layer_behind_a_convolution_says_both_ways():
    with pytest.raises(ValueError, match="`parameters_axis=-1`.*Flatten"):
        tv.IndependentNormal((4, 3, 2))(tf.zeros([5, 4, 3, 4]))
