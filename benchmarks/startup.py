"""The wait before the first epoch: imports, and the first step with its compilation."""

import dataclasses
import importlib
import statistics

from benchmarks import sides, worker
from benchmarks.cases import CASES, Case, Data
from benchmarks.report import spread, table
from benchmarks.sides import SIDES
from benchmarks.worker import Failure, Worker

# TFP loads its parts on first use; every user of TFP uses distributions.
BEFORE = (
    "keras",
    "tensorflow_probability",
    "tensorflow_probability.python.distributions",
)
# Maximum number of processes of each side, which take seconds to start.
STARTS = 3


def measure(data: Data, names: list[str], rounds: int) -> str:
    """Measures imports and first steps, each in a fresh process.

    Args:
        data: The images.
        names: Sides to measure, from `sides.SIDES`.
        rounds: Number of processes that import; at most three of each side train.

    Returns:
        Markdown.
    """
    case = CASES["mlp"]
    parts = [_imports(rounds), _first_steps(case, data, names, min(rounds, STARTS))]
    return "\n\n".join(parts)


def import_seconds() -> tuple[float, float]:
    """Seconds of importing Keras and TFP, and then of importing tfp_vae."""
    before = worker.timed(lambda: [importlib.import_module(name) for name in BEFORE])
    return before[0], worker.timed(importlib.import_module, "tfp_vae")[0]


def first_step(name: str, case: Case, data: Data) -> tuple[float, float, float]:
    """Seconds to import a side, to build it, and to run its first step.

    Args:
        name: The side.
        case: The model.
        data: One batch of images.

    Returns:
        The three.
    """
    x = data.load(case)
    path = f"{sides.__name__}.{SIDES[name].module}"
    imported, _ = worker.timed(importlib.import_module, path)
    built, side = worker.timed(sides.build, name, case, x)
    return imported, built, worker.timed(side.train, 1)[0]


def _imports(rounds: int) -> str:
    found = []
    for _ in range(rounds):
        with Worker() as process:
            try:
                found.append(process.call(import_seconds))
            except Failure as failure:
                return f"Import failed: {failure}"
    before, added = zip(*found, strict=True)
    share = statistics.median(b / a for a, b in found)
    rows = [
        ["Keras and TFP", spread(before)],
        ["tfp_vae after them", spread(added)],
        ["what it adds", f"{100 * share:.1f} %"],
    ]
    return table(("import", "s"), rows)


def _first_steps(case: Case, data: Data, names: list[str], rounds: int) -> str:
    batch = dataclasses.replace(data, examples=case.batch)
    rows = []
    for name in names:
        title, reason = SIDES[name].title, SIDES[name].reason(case)
        if reason:
            rows.append([title, reason, "-", "-"])
            continue
        try:
            found = [_first_step(name, case, batch) for _ in range(rounds)]
        except Failure as failure:
            rows.append([title, f"failed: {failure}", "-", "-"])
            continue
        rows.append([title, *map(spread, zip(*found, strict=True))])
    return table(("side", "import, s", "build, s", "first step, s"), rows)


def _first_step(name: str, case: Case, batch: Data) -> tuple[float, float, float]:
    with Worker() as process:
        found: tuple[float, float, float] = process.call(first_step, name, case, batch)
        return found
