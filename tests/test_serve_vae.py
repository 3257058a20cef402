"""The example that serves a VAE with TensorFlow alone."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import models
import numpy as np
import pytest
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


@pytest.fixture
def server(exported):
    server = serve_vae.Server(
        exported[1], 0, max_bytes=10**6, max_draws=50, timeout=1.0
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def call(server, path=":predict", body=None):
    """The status and the JSON of an answer."""
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    method = "GET" if body is None else "POST"
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection.request(method, f"/v1/models/vae{path}", body)
    reply = connection.getresponse()
    assert reply.headers["Content-Type"] == "application/json"
    found = json.loads(reply.read())
    connection.close()
    return reply.status, found


def test_columns_and_rows_are_answered(exported, server):
    model, x = exported[0], models.digits(3)
    mean = model.reconstruct(x)
    for inputs in ({"x": x.tolist()}, x.tolist()):
        status, found = call(server, body={"inputs": inputs})
        assert status == 200
        assert set(found) == {"outputs"}
        np.testing.assert_allclose(found["outputs"], mean, atol=1e-5)
    for rows in (x.tolist(), [{"x": row} for row in x.tolist()]):
        status, found = call(server, body={"instances": rows})
        assert status == 200
        assert set(found) == {"predictions"}
        np.testing.assert_allclose(found["predictions"], mean, atol=1e-5)
    request = {"signature_name": "encode_moments", "inputs": {"x": x.tolist()}}
    q = model.encode(x)
    found = call(server, body=request)[1]["outputs"]
    assert set(found) == {"mean", "stddev"}
    np.testing.assert_allclose(found["mean"], q.mean(), atol=1e-5)
    request = {"signature_name": "encode_moments", "instances": x.tolist()}
    rows = call(server, "/versions/1:predict", request)[1]["predictions"]
    np.testing.assert_allclose([r["stddev"] for r in rows], q.stddev(), atol=1e-5)
    request = {"signature_name": "generate", "inputs": {"n": 2, "seed": 5}}
    drawn = call(server, body=request)[1]["outputs"]
    np.testing.assert_allclose(drawn, model.generate(2, seed=5), atol=1e-5)


def test_status_and_metadata(server):
    for path in ("", "/versions/1"):
        status, found = call(server, path)
        assert status == 200
        (one,) = found["model_version_status"]
        assert one["state"] == "AVAILABLE"
        assert one["status"] == {"error_code": "OK", "error_message": ""}
    status, found = call(server, "/metadata")
    assert status == 200
    assert found["model_spec"] == {"name": "vae", "signature_name": "", "version": "1"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "encode", "generate", "log_prob"} <= set(signatures)
    x = signatures["log_prob"]["inputs"]["x"]
    assert x["dtype"] == "DT_FLOAT"
    sizes = [axis["size"] for axis in x["tensor_shape"]["dim"]]
    assert sizes == ["-1", "8", "8", "1"]
    assert signatures["generate"]["inputs"]["n"]["dtype"] == "DT_INT32"


ONES = np.ones([1, 8, 8, 1])


def asked(name, **inputs):
    return {"signature_name": name, "inputs": inputs}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (":predict", b"{", 400, "JSON"),
        (":predict", b"[" * 100_000, 400, "JSON"),
        (":predict", bytes([255, 254]), 400, "JSON"),
        (":predict", [], 400, "JSON object"),
        (":predict", {}, 400, "either `inputs` or `instances`"),
        (":predict", {"inputs": {}, "instances": []}, 400, "either"),
        (":predict", {"instances": []}, 400, "at least one row"),
        (":predict", asked("paint"), 400, "no signature"),
        (":predict", asked(["x"]), 400, "no signature"),
        (":predict", {"inputs": {"z": 1}}, 400, "expects the inputs"),
        (":predict", {"inputs": [1, 2]}, 400, "shape .*not"),
        (":predict", {"inputs": [[1], [1, 2]]}, 400, "expects numbers"),
        (":predict", {"inputs": "abc"}, 400, "expects numbers"),
        (":predict", {"instances": [{"x": 1}, 2]}, 400, "each row"),
        (":predict", asked("generate", n=51, seed=1), 400, "at most 50"),
        (":predict", asked("generate", n=-5, seed=1), 400, "below 0"),
        (":predict", asked("generate", n=[1], seed=1), 400, "shape"),
        (":predict", asked("generate", n=1.5, seed=1), 400, "expects numbers"),
        (":predict", asked("generate", n=2**40, seed=1), 400, "to 2147483647"),
        (
            ":predict",
            asked("log_prob", x=(2 * ONES).tolist(), num_samples=5),
            400,
            "must",
        ),
        (":predict", b" " * (10**6 + 1), 413, "at most 1000000 bytes"),
        (":classify", {"inputs": []}, 400, "Malformed request"),
        ("/versions/7:predict", {"inputs": []}, 404, "Servable not found"),
        ("s", None, 404, "Servable not found"),
        ("/labels/x", None, 400, "Malformed"),
    ],
)
def test_what_cannot_be_answered_is_an_error_in_json(
    server, path, body, status, message
):
    found, answer = call(server, path, body)
    assert found == status, answer
    assert set(answer) == {"error"}
    assert re.search(message, answer["error"])


def test_many_clients_get_their_own_answers(exported, server):
    """200 requests of 16 clients, with others that are slow or go away."""
    model = exported[0]
    expected = [model.generate(3, seed=seed) for seed in range(10)]

    def ask(number):
        seed = number % 10
        status, found = call(server, body=asked("generate", n=3, seed=seed))
        assert status == 200
        np.testing.assert_allclose(found["outputs"], expected[seed], atol=1e-5)
        return True

    head = "POST /v1/models/vae:predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"

    def disturb(number):
        address = server.server_address[:2]
        with socket.create_connection(address) as connection:
            connection.sendall(head[: len(head) - 9 * number].encode())
            if number % 2:  # waits until the server gives up
                connection.settimeout(10)
                assert not connection.recv(1000).startswith(b"HTTP/1.1 200")
        return True

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        others = [pool.submit(disturb, number) for number in range(8)]
        assert all(pool.map(ask, range(200)))
        assert all(other.result() for other in others)
    end = time.monotonic() + 10
    while handlers() and time.monotonic() < end:
        time.sleep(0.1)
    assert not handlers()


def handlers():
    return [t for t in threading.enumerate() if "process_request" in t.name]


def test_a_terminated_server_answers_what_it_has_begun(exported):
    model, path = exported
    script = str(ROOT / "examples" / "serve_vae.py")
    command = [sys.executable, script, path, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        stack.enter_context(process.stdout)
        port = int(re.search(r":([0-9]+)/", process.stdout.readline())[1])
        begun, idle = (
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(2)
        )
        x = models.digits(2)
        body = json.dumps({"inputs": x.tolist()}).encode()
        head = f"POST /v1/models/vae:predict HTTP/1.1\r\nContent-Length: {len(body)}"
        begun.sendall(head.encode() + b"\r\n\r\n" + body[:100])
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        begun.sendall(body[100:])
        reply = http.client.HTTPResponse(begun)
        reply.begin()
        assert reply.status == 200
        outputs = json.loads(reply.read())["outputs"]
        np.testing.assert_allclose(outputs, model.reconstruct(x), atol=1e-5)
        assert not idle.recv(10)
        assert process.wait(timeout=20) == 0
