"""`.keras` files that an attacker wrote."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest
import tensorflow as tf

import tfp_vae as tv

ROOT = pathlib.Path(__file__).parent.parent


def fuzz(mutations, seed):
    """Loads mutated files in another process, which may run out of memory."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "tests/hostile.py", str(mutations), str(seed)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def check(found, mutations):
    assert not found["bad"], found["bad"][0]
    outcomes = found["outcomes"]
    assert sum(outcomes.values()) == mutations
    # The mutations matter, and do not break every file.
    assert outcomes["ValueError below tfp_vae"] > mutations / 10
    assert outcomes["loaded"] > mutations / 10


def test_a_mutated_file_loads_or_is_a_value_error_and_runs_nothing():
    check(fuzz(80, seed=0), 80)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_ten_thousand_mutated_files(seed):
    check(fuzz(2500, seed), 2500)


def function(module, name):
    kind = {"class_name": "function", "registered_name": name}
    return {"module": module, "config": name, **kind}


@pytest.mark.parametrize("argument", ["temperature", "convert_to_tensor_fn"])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("keras.datasets.mnist", "load_data"),
        ("keras.utils", "get_file"),
        ("keras.utils", "set_random_seed"),
        ("os", "getcwd"),
    ],
)
def test_a_function_that_is_not_registered_is_not_called(module, name, argument):
    layer = tv.IndependentRelaxedBernoulli(2, 0.5)
    config = keras.saving.serialize_keras_object(layer)
    config["config"][argument] = function(module, name)
    with pytest.raises(ValueError, match=r"registered|Cannot deserialize|Could not"):
        keras.saving.deserialize_keras_object(config)


def test_a_loss_and_a_beta_that_are_not_registered_are_not_called():
    foreign = function("keras.utils", "set_random_seed")
    config = keras.saving.serialize_keras_object(tv.ELBO())
    config["config"]["beta"] = foreign
    with pytest.raises(ValueError, match=r"registered|Cannot deserialize"):
        keras.saving.deserialize_keras_object(config)
    model = tv.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", loss=squared)
    config = keras.saving.serialize_keras_object(model)
    config["compile_config"]["loss"]["config"]["fn"] = foreign
    with pytest.raises(ValueError, match=r"registered|Cannot deserialize"):
        keras.saving.deserialize_keras_object(config)


@keras.saving.register_keras_serializable("tests")
def squared(y, p):
    return tf.square(y - p)


@pytest.mark.parametrize(
    "make",
    [
        lambda: tv.VariableLayer([2**20, 2**30]),
        lambda: tv.LearnedNormal(2**50),
        lambda: tv.AutoregressiveNetwork(2, hidden_units=(2**40, 2**20)),
        lambda: tv.AutoregressiveNetwork(2, 3, (2**30, 2**30)).build((None, 3)),
    ],
)
def test_weights_of_two_to_the_31_are_refused_before_they_are_made(make):
    with pytest.raises(ValueError, match=r"Received: (shape|event_size|hidden_units)"):
        make()
