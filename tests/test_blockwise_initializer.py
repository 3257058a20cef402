"""The initializer of blocks."""

import keras
import numpy as np
import pytest
import tensorflow_probability as tfp

import tfp_vae as tv


def test_each_block_has_the_values_of_its_initializer():
    first, second = (
        keras.initializers.GlorotUniform(3),
        keras.initializers.Constant(2.0),
    )
    found = tv.BlockwiseInitializer([first, second, "ones"], [3, 1, 2])((4, 6))
    # Glorot's limit is that of the block.
    np.testing.assert_array_equal(found[:, :3], first((4, 3)))
    assert np.abs(found[:, :3]).max() <= np.sqrt(6 / 7)
    np.testing.assert_array_equal(found[:, 3:], [[2, 1, 1]] * 4)


@pytest.mark.parametrize("dtype", [None, "float64", "float16"])
def test_dtype(dtype):
    found = tv.BlockwiseInitializer(["zeros", "ones"], [1, 1])([2], dtype=dtype)
    assert found.dtype == (dtype or "float32")


def test_it_is_saved_with_a_layer(tmp_path):
    init = tv.BlockwiseInitializer(
        [keras.initializers.RandomNormal(seed=1), "ones"], [2, 3], validate_args=True
    )
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, None, True, init)]
    )
    model.save(tmp_path / "m.keras")
    layer = keras.models.load_model(tmp_path / "m.keras").layers[0]
    assert layer.kernel_initializer.get_config() == init.get_config()
    np.testing.assert_array_equal(layer.kernel_initializer((4, 5)), init((4, 5)))
    np.testing.assert_array_equal(model.layers[0].kernel, init((4, 5)))


@pytest.mark.parametrize(
    ("initializers", "sizes"),
    [
        (["zeros"], [1, 2]),
        ([], []),
        ("zeros", [1]),
        (["zeros", "ones"], 2),
        (["zeros", "ones"], [1, 0]),
        (["zeros", "ones"], [1, 1.5]),
        (["zeros", "nothing"], [1, 1]),
    ],
)
def test_bad_arguments_are_errors_of_three_parts(initializers, sizes):
    with pytest.raises(ValueError, match=r"expects .*Received: .*\. Give "):
        tv.BlockwiseInitializer(initializers, sizes)


@pytest.mark.parametrize("shape", [(4, 3), (2,), ()])
def test_blocks_that_do_not_fit_are_an_error(shape):
    with pytest.raises(ValueError, match=r"has length 4.*Received: shape=.*\. Give "):
        tv.BlockwiseInitializer(["zeros", "ones"], [2, 2])(shape)


def test_the_initializer_of_tfp_layers():
    tf_keras = pytest.importorskip("tf_keras", reason="tfp.layers needs tf_keras")
    blocks = [
        ([k.initializers.Constant(0.5413), "zeros", "ones"], [1, 2, 1])
        for k in (tf_keras, keras)
    ]
    theirs = tfp.layers.BlockwiseInitializer(*blocks[0])
    ours = tv.BlockwiseInitializer(*blocks[1])
    assert ours.sizes == theirs.sizes
    for shape in ([4], (3, 4), (2, 3, 4)):
        np.testing.assert_array_equal(ours(shape), theirs(shape))
