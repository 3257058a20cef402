"""The speed of a trained model: log p(x), and requests to its SavedModel."""

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import worker
from benchmarks.cases import CASES, Case, Data
from benchmarks.report import number, spread, table
from benchmarks.worker import Failure, Worker

DRAWS = (100, 1000)
ROWS = 100
BATCHES = (1, 256)
ENDPOINTS = ("serving_default", "encode")
REQUESTS = 200
CLIENTS = (1, 8, 32)
SERVER = pathlib.Path(__file__).parents[1] / "examples" / "serve_vae.py"


def measure(data: Data, rounds: int) -> str:
    """Measures `log_prob`, and a SavedModel in a process with TensorFlow alone.

    Args:
        data: The images.
        rounds: Number of calls of `log_prob`.

    Returns:
        Markdown.
    """
    case = CASES["mlp"]
    with tempfile.TemporaryDirectory() as directory:
        path = str(pathlib.Path(directory) / "served")
        try:
            with Worker() as process:
                speeds = process.call(log_prob_speeds, case, data, rounds)
                process.call(export, case, path)
            with Worker() as process:
                found = process.call(latencies, case, data, path)
            over_http = http_speeds(data.load(case)[0].tolist(), path)
        except (Failure, OSError) as failure:
            return f"failed: {failure}"
    asked = f"`log_prob`, {min(ROWS, data.count(case))} images, draws/s"
    rows = [[f"{asked}, k = {k}", spread(speed)] for k, speed in speeds.items()]
    for (endpoint, size), (middle, late) in found.items():
        what = f"SavedModel `{endpoint}`, batch {size}, ms"
        rows.append([what, f"{number(middle)} (95 %: {number(late)})"])
    for clients, (rate, middle, late) in over_http.items():
        what = f"`serve_vae.py`, one row a request, clients: {clients}"
        shown = f"{number(rate)} requests/s, {number(middle)} ms (95 %: {number(late)})"
        rows.append([what, shown])
    return table(("what", "median"), rows)


def log_prob_speeds(case: Case, data: Data, rounds: int) -> dict[int, list[float]]:
    """Draws per second of `VAE.log_prob`, by the number of draws for each image.

    Args:
        case: The model.
        data: The images.
        rounds: Number of rounds.

    Returns:
        Draws/s of each round.
    """
    from benchmarks.sides.tfp_vae_model import model  # the parent has no TensorFlow

    vae, x = model(case), data.load(case)[:ROWS]
    speeds = {}
    for k in DRAWS:
        vae.log_prob(x, num_samples=k)  # compiles
        taken = [
            worker.timed(lambda k=k: vae.log_prob(x, num_samples=k))[0]
            for _ in range(rounds)
        ]
        speeds[k] = [len(x) * k / seconds for seconds in taken]
    return speeds


def export(case: Case, path: str) -> None:
    """Writes the SavedModel.

    Args:
        case: The model.
        path: Directory to write to.
    """
    from benchmarks.sides.tfp_vae_model import model

    model(case).export(path)


def latencies(
    case: Case, data: Data, path: str
) -> dict[tuple[str, int], tuple[float, float]]:
    """Median and 95th percentile of the time of a request, in ms.

    Args:
        case: The model.
        data: The images.
        path: Directory of the SavedModel.

    Returns:
        The two times, by endpoint and batch size.
    """
    import tensorflow as tf

    served = tf.saved_model.load(path)
    found = {}
    for endpoint in ENDPOINTS:
        signature = served.signatures[endpoint]
        (name,) = signature.structured_input_signature[1]
        for size in BATCHES:
            x = tf.constant(np.resize(data.load(case), (size, *case.shape)))
            found[endpoint, size] = _latency(signature, {name: x})
    return found


def http_speeds(row: Any, path: str) -> dict[int, tuple[float, float, float]]:
    """Requests to `examples/serve_vae.py`, by the number of clients at once.

    Args:
        row: One input, as lists.
        path: Directory of the SavedModel.

    Returns:
        Requests/s, and median and 95th percentile of the time of a request in ms.
    """
    body = json.dumps({"instances": [row]}).encode()

    def client(port: int, count: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        times = []
        for _ in range(count):
            start = time.perf_counter()
            connection.request("POST", "/v1/models/vae:predict", body)
            reply = connection.getresponse()
            content = reply.read()
            times.append(1e3 * (time.perf_counter() - start))
            if reply.status != 200:
                raise OSError(f"answer {reply.status}: {content[:200]!r}")
        connection.close()
        return times

    command = [sys.executable, str(SERVER), path, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with contextlib.ExitStack() as stack:
        stack.callback(process.wait)
        stack.callback(process.terminate)
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r":(\d+)/", line)
        if found is None:
            raise OSError("serve_vae.py did not start")
        port, speeds = int(found[1]), {}
        client(port, 20)
        for clients in CLIENTS:
            each = max(2 * REQUESTS // clients, 10)
            pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(clients))
            start = time.perf_counter()
            parts = list(pool.map(client, [port] * clients, [each] * clients))
            passed = time.perf_counter() - start
            times = [t for part in parts for t in part]
            late = float(np.percentile(times, 95))
            speeds[clients] = len(times) / passed, statistics.median(times), late
    return speeds


def _latency(signature: Any, given: dict[str, Any]) -> tuple[float, float]:
    times = []
    for _ in range(REQUESTS + 10):
        start = time.perf_counter()
        for answer in signature(**given).values():
            answer.numpy()
        times.append(1e3 * (time.perf_counter() - start))
    times = times[10:]
    return statistics.median(times), float(np.percentile(times, 95))
