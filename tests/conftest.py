"""Two CPU devices, XLA only where asked; seed and policy anew per test."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# XLA compiles the same programs in little more than half the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_vae.models.compiled import Compiler

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


# XLA takes seconds to compile what most tests run once. Where it is not asked for, it
# is left to the tests marked so, to docs/ and to the examples.
_CHOOSES = Compiler.chooses_xla
Compiler.chooses_xla = False


@pytest.fixture(autouse=True)
def xla_by_itself(request, monkeypatch):
    if request.node.get_closest_marker("xla"):
        monkeypatch.setattr(Compiler, "chooses_xla", _CHOOSES)


@pytest.fixture(autouse=True)
def fresh_keras():
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module", autouse=True)
def what_stays_is_not_looked_at_again():
    """TensorFlow keeps millions of objects of graphs, which collections go through."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng():
    return np.random.default_rng(7)
