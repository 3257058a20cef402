"""Seeds that leave what TensorFlow has compiled."""

import random

import numpy as np
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.utils.rng_utils import GLOBAL_RANDOM_SEED
from tensorflow.python.eager import context


def seed_python(seed):
    """Does what `keras.utils.set_random_seed` does, but for `tf.random.set_seed`.

    That deletes the kernels of all operations and functions, and to make them again
    takes longer than most tests.
    """
    global_state.set_global_attribute(GLOBAL_RANDOM_SEED, seed)
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def seed_tensorflow(seed):
    """Does what `tf.random.set_seed` does, but for the kernels.

    With the seed of an earlier call, their numbers would go on where they were.
    """
    context.context()._seed = seed
    context.context()._rng = random.Random(seed)
