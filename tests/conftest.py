"""Two CPU devices; seed and policy anew per test."""

import gc
import os
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state
from seeding import seed_python, seed_tensorflow

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


collect_ignore = ["torch_peers.py"]  # test_peers.py runs it in its own process


@pytest.fixture(autouse=True)
def fresh_keras(request):
    seed_python(1)
    seed_tensorflow(zlib.crc32(request.node.nodeid.encode()))  # no two have the same
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
