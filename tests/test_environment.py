import importlib.metadata
import os
import platform
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv
from tfp_vae.environment import check_keras


def test_another_keras_is_named_when_the_package_is_imported():
    ran = subprocess.run(
        [sys.executable, "-c", "import tfp_vae"],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "True"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode
    assert last.startswith("ImportError: tfp_vae expects")
    assert "Keras 2" in last
    assert "Unset" in last


def test_the_other_value_that_makes_it_keras_2_is_refused(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    with pytest.raises(ImportError, match=r"^tfp_vae expects.*LEGACY_KERAS=1,.*Unset"):
        check_keras()


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_is_named(backend, monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: backend)
    with pytest.raises(ImportError, match=rf"expects.*the backend '{backend}'\. Set"):
        check_keras()


def of_keras_2():
    layers = pytest.importorskip("tf_keras").layers
    model = pytest.importorskip("tf_keras").Sequential
    network = model([layers.Input((4,)), layers.Dense(4)])
    return {
        "encoder": lambda: tv.VAE(network, network, tv.StandardNormal(2)),
        "prior": lambda: tv.KLDivergenceAddLoss(network),
        "prior of a model": lambda: tv.prior_distribution(network),
        "input": lambda: tv.IndependentNormal(2)(layers.Input((4,))),
        "several inputs": lambda: tv.DistributionLambda(lambda ab: ab)(
            [layers.Input((4,)), layers.Input((4,))]
        ),
    }


@pytest.mark.parametrize(
    "given", ["encoder", "prior", "prior of a model", "input", "several inputs"]
)
def test_objects_of_keras_2_are_named(given):
    with pytest.raises(
        ValueError, match=r"expects .* of Keras 3\. Received: .* Keras 2"
    ):
        of_keras_2()[given]()


def test_the_import_loads_nothing_but_keras_tensorflow_and_tfp():
    program = """
import sys
import keras, tensorflow, tensorflow_probability as tfp
loaded = tfp.bijectors, tfp.distributions, tfp.math, tfp.random  # load late
before = set(sys.modules)
import tfp_vae
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["tfp_vae"]


def test_versions_are_those_of_the_packages_that_are_imported(capsys):
    tv.show_versions()
    lines = capsys.readouterr().out.splitlines()
    shown = {line[:24].strip(): line[24:] for line in lines}
    assert shown["tensorflow"] == tf.__version__
    assert shown["keras"] == keras.__version__
    assert shown["tensorflow-probability"] == tfp.__version__
    assert shown["numpy"] == np.__version__
    assert shown["Python"] == platform.python_version()
    assert shown["dtype policy"] == "float32"


def test_a_package_that_is_missing_is_shown_as_such(capsys, monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    tv.show_versions()
    first = capsys.readouterr().out.splitlines()[0]
    assert first.split() == ["tfp-vae", "not", "installed"]
