"""Two CPU devices; seed and policy anew per test."""

import gc
import os
import random
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.utils.rng_utils import GLOBAL_RANDOM_SEED
from tensorflow.python.eager import context

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


def seed_all(name):
    """Seeds all but for what `tf.random.set_seed` also does.

    That deletes each compiled kernel, of every operation and function, and to make them
    again would take longer than most tests. It is for operations with the seeds of an
    earlier test, which would go on with its numbers. Here no two tests have the same.
    """
    random.seed(1)
    np.random.seed(1)
    global_state.set_global_attribute(GLOBAL_RANDOM_SEED, 1)
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)
    seed = zlib.crc32(name.encode())
    context.context()._seed = seed
    context.context()._rng = random.Random(seed)


@pytest.fixture(autouse=True)
def fresh_keras(request):
    seed_all(request.node.nodeid)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")
    # A call that never ended would keep the losses of all later ones.
    assert global_state.get_global_attribute("current_call_ctx") is None


@pytest.fixture(scope="module", autouse=True)
def what_stays_is_not_looked_at_again():
    """TensorFlow keeps millions of objects of graphs, which collections go through."""
    yield
    tf.random.set_seed(1)  # deletes the kernels that no other file has
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def pytest_terminal_summary(terminalreporter):
    """Shows what a test has recorded, where few files run."""
    if len(terminalreporter.config.args) == 1:
        for report in terminalreporter.getreports("passed"):
            for title, text in report.user_properties:
                terminalreporter.section(title)
                terminalreporter.write_line(text)
