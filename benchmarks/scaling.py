"""How the time of an epoch of `VAE.fit` grows with data, draws and batch size."""

import dataclasses
import statistics
import time

from benchmarks import worker
from benchmarks.cases import CASES, Case, Data
from benchmarks.report import number, table
from benchmarks.sides import REFERENCE
from benchmarks.worker import Failure, Worker

SHARES = (0.25, 0.5, 1.0, 2.0)
DRAWS = (1, 5, 10, 20, 50)
BATCHES = (32, 128, 512, 2048)


def measure(data: Data, rounds: int, epochs: int) -> str:
    """Measures tfp_vae's MLP at many sizes, all in one process.

    Args:
        data: The images; up to twice as many are used.
        rounds: Number of rounds; the figure is their median.
        epochs: Number of epochs in a round.

    Returns:
        Markdown.
    """
    case = CASES["mlp"]
    num = data.count(case)
    smaller = num // 4  # many draws take long
    sizes = [
        ("examples", num_now, case, num_now)
        for num_now in (round(share * num) for share in SHARES)
    ]
    sizes += [
        ("draws k", k, dataclasses.replace(case, draws=k), smaller) for k in DRAWS
    ]
    sizes += [
        ("batch", size, dataclasses.replace(case, batch=size), num) for size in BATCHES
    ]
    rows = []
    first: dict[str, float] = {}
    with Worker() as process:
        for what, value, variant, examples in sizes:
            given = dataclasses.replace(data, examples=examples)
            try:
                seconds = _seconds(process, variant, given, rounds, epochs)
            except Failure as failure:
                rows.append([what, str(value), str(failure), *["-"] * 2])
                continue
            work = examples * (value if what == "draws k" else 1)
            each = seconds / work
            relative = each / first.setdefault(what, each)
            rows.append(
                [
                    what,
                    f"{value:,}",
                    f"{seconds:.3f}",
                    number(examples / seconds),
                    f"{relative:.2f}",
                ]
            )
    header = ("what grows", "to", "s/epoch", "examples/s", "s/(example x draw)")
    note = (
        "The last column is relative to the first row of each kind: 1.00 is linear, "
        f"less is better. Of the draws with {smaller:,} examples."
    )
    return f"{table(header, rows)}\n\n{note}"


def _seconds(
    process: Worker, case: Case, data: Data, rounds: int, epochs: int
) -> float:
    """The median time of an epoch."""
    process.call(worker.build, REFERENCE, case, data)
    process.call(worker.train, epochs)  # compiles
    found = []
    for _ in range(rounds):
        time.sleep(worker.REST)
        found.append(process.call(worker.train, epochs)[0] / epochs)
    return statistics.median(found)
