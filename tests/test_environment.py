import os
import subprocess
import sys

import pytest

import tfp_vae as tv
from tfp_vae.environment import check_keras


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TF_USE_LEGACY_KERAS", "1", "Keras 2"),
        ("TF_USE_LEGACY_KERAS", "True", "Keras 2"),
    ],
)
def test_another_keras_is_named_when_the_package_is_imported(name, value, words):
    ran = subprocess.run(
        [sys.executable, "-c", "import tfp_vae"],
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        check=False,
    )
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode
    assert last.startswith("ImportError: tfp_vae expects")
    assert words in last
    assert "Set" in last or "Unset" in last


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_backend_is_named(backend, monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: backend)
    with pytest.raises(ImportError, match=rf"expects.*KERAS_BACKEND='{backend}'.*Set"):
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
