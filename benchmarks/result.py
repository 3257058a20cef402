"""The time to a result: from `compile` to the end of `fit`, in fresh processes."""

import functools
import os
import tempfile
from collections.abc import Iterator, Sequence

from benchmarks import sides, worker
from benchmarks.cases import CASES, Data
from benchmarks.rounds import noted, turns
from benchmarks.sides import REFERENCE, SIDES
from benchmarks.waits import CACHED, COLUMNS, KERAS, Cell, Wait, best, lines
from benchmarks.worker import Worker

CASE = CASES["mlp"]
CELLS = [Cell(rows, n) for rows in (1_000, 10_000, 60_000) for n in (1, 10, 100)]
QUICK = Cell(500, 1)
# Cells with at least so many rows times epochs have one round.
LONG = 6_000_000
# Keras settings this many times slower than its best have one round.
SLOWER = 1.25
STEPS_PER_EXECUTION = {1: "1 step", 16: "16 steps"}


def sections(
    cells: Sequence[Cell], names: list[str], rounds: int
) -> Iterator[tuple[str, str]]:
    """A section for each number of rows.

    Args:
        cells: The numbers of rows and epochs to train.
        names: Sides to measure, from `SIDES` and `CACHED`.
        rounds: How many fresh processes each side has.

    Yields:
        The name and the text of a section.
    """
    for rows in dict.fromkeys(cell.rows for cell in cells):
        now = [cell for cell in cells if cell.rows == rows]
        once = [cell for cell in now if cell.rows * cell.epochs >= LONG]
        found = {
            cell: measure(cell, names, 1 if cell in once else rounds) for cell in now
        }
        about = (
            f"{CASE.describe()}. {Data().describe().capitalize()}. Seconds from "
            f"`compile` to the end of `fit`; fresh processes of each side: {rounds}"
        )
        about += f", of {', '.join(map(str, once))} one" if once else ""
        yield f"result {rows}", f"{about}.\n\n{lines(found)}"


def measure(cell: Cell, names: list[str], rounds: int) -> dict[str, Wait]:
    """Measures sides in turns, each time in a fresh process; one works at a time.

    Args:
        cell: The number of rows and epochs to train.
        names: Sides to measure, from `SIDES` and `CACHED`.
        rounds: Number of rounds.

    Returns:
        What was measured, by name; names of Keras begin with `KERAS`.
    """
    waits = _waits(names)
    with tempfile.TemporaryDirectory() as cache:
        for number_of_round in range(rounds):
            if number_of_round == 1:
                _leave_out(waits)
            for name in turns(list(waits), number_of_round):
                wait = waits[name]
                if wait.reason or wait.left_out:
                    continue
                with noted(wait):
                    if wait.cached and not wait.seconds:
                        _in_a_fresh_process(wait, cell, cache)  # fills it
                    seconds, wait.loss = _in_a_fresh_process(wait, cell, cache)
                    wait.seconds.append(seconds)
    return waits


def train(wait: Wait, cell: Cell, cache: str | None) -> tuple[float, float]:
    """Compiles, fits and validates in this process, which is fresh.

    Args:
        wait: The side.
        cell: The number of rows and epochs to train.
        cache: Directory where TensorFlow caches what XLA compiles, or `None`.

    Returns:
        The seconds, and the last validation loss.
    """
    use_cache(cache)
    x = Data(cell.rows).load(CASE)
    fit = sides.prepare(wait.side, CASE, x, **wait.settings)
    return worker.timed(fit, cell.epochs)


def use_cache(directory: str | None) -> None:
    """Sets TensorFlow's cache of what XLA compiles; call it before importing it.

    Args:
        directory: The cache; `None` for no cache, whatever the user has set.
    """
    flag = f"--tf_xla_persistent_cache_directory={directory}"
    os.environ["TF_XLA_FLAGS"] = flag if directory else ""
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)


def keras_chooses_xla() -> bool:
    """Whether Keras' `jit_compile="auto"` means XLA in this process."""
    from benchmarks.sides.keras_by_hand import chooses_xla  # imports TensorFlow

    return chooses_xla(CASE)


def _waits(names: list[str]) -> dict[str, Wait]:
    waits: dict[str, Wait] = {}
    for name in names:
        if name == KERAS:
            waits |= _keras(_xla_by_itself())
        elif name in COLUMNS:
            side = REFERENCE if name == CACHED else name
            waits[name] = Wait(side, cached=name == CACHED)
    for wait in waits.values():
        wait.reason = SIDES[wait.side].reason(CASE)
    return waits


def _keras(by_itself: bool) -> dict[str, Wait]:
    """Keras in all settings; the first is its default."""
    waits: dict[str, Wait] = {}
    # "auto" means True or False, and shares the program of that one.
    for xla, jit_compile in ((by_itself, "auto"), (not by_itself, not by_itself)):
        for steps, told in STEPS_PER_EXECUTION.items():
            label = f"{'XLA' if xla else 'no XLA'}, {told}"
            settings = {"jit_compile": jit_compile, "steps_per_execution": steps}
            name = f"{KERAS}, {label}" if waits else KERAS
            waits[name] = Wait(KERAS, settings, label)
    return waits


@functools.cache
def _xla_by_itself() -> bool:
    with Worker() as process:
        return bool(process.call(keras_chooses_xla))


def _in_a_fresh_process(wait: Wait, cell: Cell, cache: str) -> tuple[float, float]:
    with Worker() as process:
        found: tuple[float, float] = process.call(
            train, wait, cell, cache if wait.cached else None
        )
        return found


def _leave_out(waits: dict[str, Wait]) -> None:
    """Drops the slow settings of Keras, but not its default."""
    fastest = best(waits)
    for name, wait in waits.items():
        if fastest and name.startswith(KERAS) and name != KERAS and wait.seconds:
            wait.left_out = wait.seconds[0] > SLOWER * fastest.seconds[0]
