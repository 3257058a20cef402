"""How much memory many draws take: peak of a process over what it held before."""

import dataclasses
from collections.abc import Callable

from benchmarks import worker
from benchmarks.cases import CASES, Case, Data
from benchmarks.report import number, table
from benchmarks.worker import Failure, Worker

TRAINING_DRAWS = (1, 50)
ANSWER_DRAWS = (100, 5000)
ROWS = 100


def measure(data: Data) -> str:
    """Measures tfp_vae's MLP, each number in a fresh process.

    Args:
        data: The images.

    Returns:
        Markdown.
    """
    rows = []
    jobs: list[tuple[str, Callable[..., tuple[float, float]], tuple[int, ...]]] = [
        ("training, IWAE of k draws", training, TRAINING_DRAWS),
        (f"`log_prob` of {ROWS} images, k draws", answering, ANSWER_DRAWS),
    ]
    for what, job, counts in jobs:
        for k in counts:
            case = dataclasses.replace(CASES["mlp"], draws=k)
            case = case if job is training else CASES["mlp"]
            with Worker() as process:
                try:
                    before, peak = process.call(job, case, data, k)
                    found = [number(before), number(peak - before)]
                except Failure as failure:
                    found = [f"failed: {failure}", "-"]
            rows.append([what, f"{k:,}", *found])
    return table(("what", "k", "before, MiB", "added at the peak, MiB"), rows)


def training(case: Case, data: Data, k: int) -> tuple[float, float]:
    """Peak memory before and after an epoch.

    Args:
        case: The model.
        data: The images.
        k: Draws, which the case has too.

    Returns:
        The two, in MiB.
    """
    worker.build("tfp_vae", case, data)
    before = worker.peak_memory()
    worker.train(1)
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
    from benchmarks.sides.tfp_vae_model import model  # the parent has no TensorFlow

    vae, x = model(case), data.load(case)[:ROWS]
    before = worker.peak_memory()
    vae.log_prob(x, num_samples=k)
    return before, worker.peak_memory()
