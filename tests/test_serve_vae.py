"""The example that serves a VAE with TensorFlow alone."""

import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import models
import numpy as np
import pytest
import tensorflow as tf
import vaes

import serve_vae

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = vaes.vae()
    path = tmp_path_factory.mktemp("vae") / "served"
    model.export(path)
    return model, str(path)


def test_one_request_is_answered_without_tfp(exported, tmp_path):
    model, path = exported
    # Directories of these names hide the packages: importing them would fail.
    for name in ("tensorflow_probability", "tfp_vae", "tf_keras"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('hidden')")
    x = models.digits(3)
    request = {"inputs": {"x": x.tolist()}}
    process = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "serve_vae.py"), path],
        input=json.dumps(request),
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    outputs = json.loads(process.stdout)["outputs"]
    np.testing.assert_allclose(outputs, model.reconstruct(x), atol=1e-5)


def test_requests_come_over_http(exported):
    model, path = exported
    server = serve_vae.make_server(tf.saved_model.load(path), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1/models/vae:predict"

    def post(request):
        with urllib.request.urlopen(url, json.dumps(request).encode()) as reply:
            return json.load(reply)["outputs"]

    x = models.digits(2)
    q = post({"signature_name": "encode", "inputs": {"x": x.tolist()}})
    np.testing.assert_allclose(q["mean"], model.encode(x).mean(), atol=1e-5)
    drawn = post({"signature_name": "generate", "inputs": {"n": 2, "seed": 5}})
    np.testing.assert_allclose(drawn, model.generate(2, seed=5), atol=1e-5)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post({"signature_name": "paint", "inputs": {}})
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([], "expects `inputs`"),
        ({"inputs": {}, "signature_name": "paint"}, r"no signature 'paint'.*generate"),
        ({"inputs": {"n": 2}, "signature_name": "generate"}, r"\['n', 'seed'\]"),
        ({"inputs": {"x": [1, 2]}}, r"x of shape \[None, 8, 8, 1\], not \[2\]"),
        ({"inputs": {"x": "abc"}}, "abc|convert"),
    ],
)
def test_requests_that_cannot_be_are_named(exported, request_, message):
    found = serve_vae.answer(tf.saved_model.load(exported[1]), request_)
    assert "outputs" not in found
    assert re.search(message, found["error"], re.DOTALL)
