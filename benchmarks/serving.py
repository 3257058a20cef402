"""The speed of a trained model: log p(x), and requests to its SavedModel."""

import pathlib
import statistics
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
        except Failure as failure:
            return f"failed: {failure}"
    asked = f"`log_prob`, {min(ROWS, data.count(case))} images, draws/s"
    rows = [[f"{asked}, k = {k}", spread(speed)] for k, speed in speeds.items()]
    for (endpoint, size), (middle, late) in found.items():
        what = f"SavedModel `{endpoint}`, batch {size}, ms"
        rows.append([what, f"{number(middle)} (95 %: {number(late)})"])
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


def _latency(signature: Any, given: dict[str, Any]) -> tuple[float, float]:
    times = []
    for _ in range(REQUESTS + 10):
        start = time.perf_counter()
        for answer in signature(**given).values():
            answer.numpy()
        times.append(1e3 * (time.perf_counter() - start))
    times = times[10:]
    return statistics.median(times), float(np.percentile(times, 95))
