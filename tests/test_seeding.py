"""`seeding` does what Keras and TensorFlow do, by names that they may change."""

import random

import keras
import numpy as np
import tensorflow as tf
from seeding import seed_python, seed_tensorflow


def numbers():
    return [
        random.random(),
        np.random.uniform(),  # noqa: NPY002
        float(keras.random.uniform(())),
        float(keras.random.uniform((), seed=keras.random.SeedGenerator())),
        float(tf.random.uniform(())),
    ]


def test_the_seeds_are_those_of_keras_and_tensorflow():
    seed_python(5)
    seed_tensorflow(61_803)  # which no other test has
    found = numbers()
    keras.utils.set_random_seed(5)
    tf.random.set_seed(61_803)
    assert found == numbers()
    assert found != numbers()
