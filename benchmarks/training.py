"""Training, evaluation and encoding of every side, round by round in turns."""

import contextlib
import dataclasses
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable

from benchmarks import worker
from benchmarks.cases import Case, Data
from benchmarks.report import number, spread, table
from benchmarks.rounds import noted, turns
from benchmarks.sides import REFERENCE, SIDES
from benchmarks.worker import Worker

LIMIT = "limit"
OF = " of "  # between a side and the commit of another checkout
TASKS: dict[str, Callable[[int], tuple[float, float | None]]] = {
    "train": worker.train,
    "evaluate": worker.evaluate,
    "encode": worker.encode,
}


@dataclasses.dataclass
class Outcome:
    """The results of a side: examples/s of each round and task, or why there are none.

    Args:
        title: Its name in the table.
        speeds: Examples/s by task, one figure for each round.
        losses: The last loss by task, nats per example.
        memory: Peak memory of its process in MiB.
        reason: Why there are no figures.
    """

    title: str
    speeds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    memory: float = 0.0
    reason: str | None = None


def measure(
    case: Case,
    data: Data,
    names: list[str],
    rounds: int,
    epochs: int,
    beside: pathlib.Path | None = None,
) -> dict[str, Outcome]:
    """Measures sides in one run, each in its own process, one at a time.

    Args:
        case: The model.
        data: The images.
        names: Sides from `SIDES`; the reference side also measures the limit.
        rounds: Number of turns of each side.
        epochs: Number of epochs, or passes over the data, in a turn.
        beside: Another checkout; the sides of tfp_vae are also measured with its
            package.

    Returns:
        The results by name, and `"limit"`. Names of the other checkout include its
        commit.
    """
    if beside:
        names = _with_those_of(commit(beside), names)
    outcomes: dict[str, Outcome] = {}
    workers: dict[str, Worker] = {}
    examples: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            side, of, other = name.partition(OF)
            entry = SIDES[side]
            outcome = outcomes[name] = Outcome(f"{entry.title}{of}{other}")
            outcome.reason = entry.reason(case)
            if outcome.reason:
                continue
            workers[name] = stack.enter_context(Worker())
            with noted(outcome):
                if other:
                    workers[name].call(worker.import_from, str(beside))
                examples[name] = workers[name].call(worker.build, side, case, data)
                for job in TASKS.values():
                    workers[name].call(job, epochs)  # compiles
                outcome.memory = workers[name].call(worker.peak_memory)
        limit = _Limit(workers.get(REFERENCE), case, data)
        for task, function in TASKS.items():
            for number_of_round in range(rounds):
                for name in turns(names, number_of_round):
                    outcome = outcomes[name]
                    if outcome.reason:
                        continue
                    with noted(outcome):
                        time.sleep(worker.REST)
                        seconds, loss = workers[name].call(function, epochs)
                        speed = epochs * examples[name] / seconds
                        outcome.speeds.setdefault(task, []).append(speed)
                        if loss is not None:
                            outcome.losses[task] = loss
                if task == "train":
                    limit.take_turn(epochs)
        outcomes[LIMIT] = limit.outcome()
    return outcomes


def lines(outcomes: dict[str, Outcome]) -> str:
    """The table of a model, and the reference compared with the fastest other side.

    Args:
        outcomes: From `measure`.

    Returns:
        Markdown.
    """
    header = (
        "side",
        "train, examples/s",
        "relative to tfp_vae",
        "relative to the limit",
        "evaluate, examples/s",
        "relative to tfp_vae",
        "encode, examples/s",
        "training loss",
        "evaluated",
        "peak MiB",
    )
    rows = [_row(outcomes, name, len(header)) for name in outcomes]
    return "\n\n".join([table(header, rows), _standing(outcomes)]).strip()


def ratio(outcomes: dict[str, Outcome], name: str, to: str, task: str) -> float | None:
    """The median over the rounds of one side's speed divided by another's.

    Args:
        outcomes: From `measure`.
        name: The side.
        to: The other.
        task: One of `TASKS`.

    Returns:
        The ratio, or `None` if one of them has no figures.
    """
    sides = [outcomes.get(side, Outcome(side)) for side in (name, to)]
    ours, theirs = (side.speeds.get(task, []) for side in sides)
    if not ours or not theirs or any(side.reason for side in sides):
        return None
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def commit(checkout: pathlib.Path) -> str:
    """The commit of a checkout, or its directory's name outside git.

    Args:
        checkout: Its directory.

    Returns:
        The abbreviated hash, with `-dirty` if files differ from it.
    """
    git = ["git", "--no-optional-locks", "-C", str(checkout)]
    describe = ["describe", "--always", "--dirty", "--exclude=*"]
    told = subprocess.run(
        [*git, *describe], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or checkout.name


def _with_those_of(other: str, names: list[str]) -> list[str]:
    """The sides, those of tfp_vae each followed by that of another checkout."""
    both = []
    for name in names:
        both += [name, f"{name}{OF}{other}"] if name.startswith(REFERENCE) else [name]
    return both


class _Limit:
    """The matrix products of the steps, in the process of the reference."""

    def __init__(self, reference: Worker | None, case: Case, data: Data) -> None:
        self._outcome = Outcome("matrix products alone: the limit")
        self._speeds: dict[str, list[float]] = {}
        self._worker = reference
        if reference is None:
            self._outcome.reason = f"missing: {REFERENCE}"
            return
        with noted(self._outcome):
            self._examples, ways = reference.call(worker.build_limit, case, data)
            self._speeds = {way: [] for way in ways}
            for way in ways:
                reference.call(worker.multiply, way, 1)  # compiles

    def take_turn(self, epochs: int) -> None:
        """Runs the multiplications in every way."""
        if self._worker is None or self._outcome.reason:
            return
        with noted(self._outcome):
            for way, speeds in self._speeds.items():
                time.sleep(worker.REST)
                seconds, _ = self._worker.call(worker.multiply, way, epochs)
                speeds.append(epochs * self._examples / seconds)

    def outcome(self) -> Outcome:
        """The result of the fastest way."""
        if not self._outcome.reason:
            medians = {way: statistics.median(s) for way, s in self._speeds.items()}
            fastest = max(medians, key=lambda way: medians[way])
            self._outcome.title += f" ({fastest})"
            self._outcome.speeds["train"] = self._speeds[fastest]
        return self._outcome


def _row(outcomes: dict[str, Outcome], name: str, width: int) -> list[str]:
    outcome = outcomes[name]
    if outcome.reason:
        reason = outcome.reason.replace("|", "\\|")
        return [outcome.title, reason, *["-"] * (width - 2)]
    speeds = {
        task: spread(outcome.speeds[task]) if task in outcome.speeds else "-"
        for task in TASKS
    }

    def compared(to: str, task: str) -> str:
        found = ratio(outcomes, name, to, task)
        return "-" if found is None else f"{found:.2f}"

    losses = [
        f"{outcome.losses[task]:.2f}" if task in outcome.losses else "-"
        for task in ("train", "evaluate")
    ]
    return [
        outcome.title,
        speeds["train"],
        compared(REFERENCE, "train"),
        compared(LIMIT, "train"),
        speeds["evaluate"],
        compared(REFERENCE, "evaluate"),
        speeds["encode"],
        *losses,
        number(outcome.memory) if outcome.memory else "-",
    ]


def _standing(outcomes: dict[str, Outcome]) -> str:
    """Compares the reference with the fastest other side, for each task."""
    sentences = []
    others = [name for name in outcomes if name not in (REFERENCE, LIMIT)]
    others = [name for name in others if not name.startswith(REFERENCE)]
    for task in ("train", "evaluate", "encode"):
        found = {name: ratio(outcomes, REFERENCE, name, task) for name in others}
        ratios = {name: value for name, value in found.items() if value is not None}
        if ratios:
            fastest = min(ratios, key=lambda name: ratios[name])
            title = outcomes[fastest].title
            sentences.append(f"{task} {ratios[fastest]:.2f} ({title})")
    if not sentences:
        return ""
    title = outcomes[REFERENCE].title
    told = ", ".join(sentences)
    return f"Speed of {title}, divided by that of the fastest peer: {told}."
