"""The memory of many draws: how much the peak of a process rises."""

import dataclasses
from collections.abc import Callable
from typing import Any

from benchmarks import worker
from benchmarks.cases import CASES, Case, Data
from benchmarks.report import number, table
from benchmarks.worker import Failure, Worker

ANSWER_DRAWS = (100, 5000)
ROWS, TRAINED = 100, 1024
# Model, draws, batch size, and number of batches in one step of Adam.
TRAINING = (
    ("mlp", 1, 128, 1),
    ("mlp", 50, 128, 1),
    ("mlp", 50, 1024, 1),
    ("mlp", 50, 128, 8),
    ("conv", 50, 128, 1),
    ("conv", 50, 16, 8),
)


def measure(data: Data) -> str:
    """Measures tfp_vae, each figure in a fresh process.

    Args:
        data: The images.

    Returns:
        Markdown.
    """
    rows = []
    for name, k, batch, together in TRAINING:
        case = dataclasses.replace(CASES[name], draws=k, batch=batch)
        what = f"training, {case.describe()}"
        what += f", {together} batches a step" if together > 1 else ""
        rows.append(_row(what, k, training, case, data, together))
    for k in ANSWER_DRAWS:
        what = f"`log_prob` of {ROWS} images, mlp"
        rows.append(_row(what, k, answering, CASES["mlp"], data, k))
    return table(("what", "draws k", "before, MiB", "added at the peak, MiB"), rows)


def _row(what: str, k: int, job: Callable[..., Any], *args: Any) -> list[str]:
    with Worker() as process:
        try:
            before, peak = process.call(job, *args)
        except Failure as failure:
            return [what, f"{k:,}", f"failed: {failure}", "-"]
    return [what, f"{k:,}", number(before), number(peak - before)]


def training(case: Case, data: Data, together: int) -> tuple[float, float]:
    """Peak memory before and after an epoch.

    Args:
        case: The model.
        data: The images.
        together: Number of batches in one step of Adam.

    Returns:
        The two, in MiB.
    """
    from benchmarks.sides.tfp_vae_model import model  # the parent has no TensorFlow

    vae, x = model(case, together), data.load(case)[:TRAINED]
    before = worker.peak_memory()
    vae.fit(x, batch_size=case.batch, verbose=0)
    return before, worker.peak_memory()


def answering(case: Case, data: Data, k: int) -> tuple[float, float]:
    """Peak memory before and after `log_prob`.

    Args:
        case: The model.
        data: The images.
        k: Draws.

    Returns:
        The two, in MiB.
    """
    from benchmarks.sides.tfp_vae_model import model

    vae, x = model(case), data.load(case)[:ROWS]
    before = worker.peak_memory()
    vae.log_prob(x, num_samples=k, verbose=0)
    return before, worker.peak_memory()
