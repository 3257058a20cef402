"""Shared code of the reproductions and of their peers: budgets, figures, results/."""

import argparse
import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import resuming

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "results"
PEERS = RESULTS / "peers"
PACKAGES = (
    "tfp-vae",
    "keras",
    "tensorflow",
    "tensorflow-probability",
    "numpy",
    "scipy",
    "scikit-learn",
)
QUICK, FULL = "quick", "full"
Trainings = Sequence[str] | Mapping[str, int]
TRAINING = "training"  # the name, if a script has a single training


@dataclasses.dataclass(frozen=True)
class Side:
    """What runs: an example, or its peer.

    Args:
        program: The command after `python`, with {} for the name of the system.
        results: Directory of its files.
        packages: Those that determine the figures.
        code: The files that determine them, as patterns.
        set_seed: Function that seeds the random numbers.
        count_gpus: Function that returns the number of GPUs.
    """

    program: tuple[str, ...]
    results: pathlib.Path
    packages: tuple[str, ...]
    code: tuple[str, ...]
    set_seed: Callable[[int], Any]
    count_gpus: Callable[[], int]


def _set_seed(seed: int) -> None:
    import keras  # here, for peers: TensorFlow and PyTorch may crash in one process

    keras.utils.set_random_seed(seed)


def _count_gpus() -> int:
    import keras

    return len(keras.distribution.list_devices("gpu"))


EXAMPLE = Side(
    ("examples/{}.py",),
    RESULTS,
    PACKAGES,
    ("tfp_vae/**/*.py", "examples/*.py"),
    _set_seed,
    _count_gpus,
)


@dataclasses.dataclass(frozen=True)
class Result:
    """One number that a run found, and its reference.

    Args:
        what: What the number is, and its unit.
        value: The number.
        reference: The value to compare it with, or `None`.
        source: Where the reference was published, or how it was measured.
        tolerance: How much worse the number may be than the reference without a
            `reason`, and than a peer of the same budget in any case.
        higher_is_better: Whether higher numbers are better.
        reason: Why the number is worse, or has another budget or split.
        budget: Training of the reference, such as "3,280 epochs".
    """

    what: str
    value: float
    reference: float | None = None
    source: str = ""
    tolerance: float = 0.0
    higher_is_better: bool = True
    reason: str = ""
    budget: str = ""

    @property
    def is_explained(self) -> bool:
        """Whether the number is within the tolerance, or has a reason why not."""
        return (
            self.reference is None
            or self.is_within_tolerance(self.reference)
            or bool(self.reason)
        )

    def is_within_tolerance(self, other: float) -> bool:
        """Whether the number is at most `tolerance` worse than another."""
        worse = other - self.value if self.higher_is_better else self.value - other
        return worse <= self.tolerance

    def __str__(self) -> str:
        """The number in a line."""
        line = f"{self.what}: {self.value:.2f}"
        if self.reference is not None:
            line += f" (reference: {self.reference:.2f}, {self.source})"
        return line + (f"; {self.reason}" if self.reason else "")


class Report:
    """Collects the figures of a run, prints them, and writes them to results/.

    Args:
        system: Name of the file in results/.
        title: Name of the system in the table.
        args: The command line, from `parse`.
        trained: How long the models of the table are trained, by default for
            `args.epochs` epochs.
    """

    def __init__(
        self, system: str, title: str, args: argparse.Namespace, trained: str = ""
    ) -> None:
        self.system, self.title, self.args = system, title, args
        self.trained = trained or f"{args.epochs} epochs"
        self.figures: list[Result] = []
        args.progress.begin()

    def fit(
        self, name: str, model: Any, x: Any, *, callbacks: Any = (), **options: Any
    ) -> Any:
        """Trains as `model.fit` does, from the checkpoint in `--resume` if it has one.

        Args:
            name: Name of the training.
            model: A compiled model, made by the same calls in every run.
            x: As in `fit`. A dataset that shuffles must do so anew in each pass, when
                the first batch of the pass is read.
            callbacks: As there.
            **options: Other arguments of `fit`, with `epochs`.

        Returns:
            The history.
        """
        return self.args.progress.fit(name, model, x, callbacks, **options)

    def part(
        self,
        name: str,
        function: Callable[..., Any],
        *given: Any,
        seed: int | None = None,
    ) -> Any:
        """Calls a function, or takes what it found from the directory of `--resume`.

        Args:
            name: Name of the part. A training of that name belongs to it.
            function: Adds figures to this report, and returns a value. The seed is set
                before it, so that no part depends on another.
            *given: Its arguments.
            seed: The seed, by default `args.seed`.

        Returns:
            The value as JSON has it: tuples and arrays are lists.
        """
        self.args.progress.begin_part(name)
        kept, before = self.args.progress.parts.get(name), len(self.figures)
        if kept is None:
            self.args.side.set_seed(self.args.seed if seed is None else seed)
            value = function(*given)
            figures = [dataclasses.asdict(figure) for figure in self.figures[before:]]
            return self.args.progress.keep(name, value, figures)
        for values in kept["figures"]:
            self._add(Result(**values))
        return kept["value"]

    def add(self, what: str, value: Any, *reference: Any, **options: Any) -> None:
        """Adds a figure and prints it; the arguments are those of `Result`."""
        figure = Result(what, round(float(value), 4), *reference, **options)
        if figure.reference is not None:
            rounded = round(float(figure.reference), 4)
            figure = dataclasses.replace(figure, reference=rounded)
        self._add(figure)

    def _add(self, figure: Result) -> None:
        self.figures.append(figure)
        print(figure, flush=True)
        if self.args.resume is not None:
            self._write(self.args.resume)

    def __getitem__(self, what: str) -> float:
        """The value of the first figure whose name starts with `what`."""
        return next(f.value for f in self.figures if f.what.startswith(what))

    def picture(self, name: str, figure: Any) -> None:
        """Saves a matplotlib figure."""
        self.args.output.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.args.output / f"{name}.png", dpi=120, bbox_inches="tight")
        print(f"wrote {self.args.output / name}.png")

    def write(self) -> None:
        """Writes the file of figures, if there is a directory for it."""
        if self.args.results is None:
            return
        self.args.results.mkdir(parents=True, exist_ok=True)
        print(f"wrote {self._write(self.args.results)}")

    def _write(self, directory: pathlib.Path) -> pathlib.Path:
        """Writes the figures that were found until now."""
        path = directory / f"{self.system}.json"
        run = {
            "system": self.system,
            "title": self.title,
            "figures": [dataclasses.asdict(figure) for figure in self.figures],
            "command": self.args.command,
            "budget": self.args.budget,
            "epochs": self.args.epochs,
            "trained": self.trained,
            "seed": self.args.seed,
            "seconds": round(self.args.progress.seconds),
            "hardware": f"{os.cpu_count()} cores of {platform.machine()}, "
            f"{self.args.side.count_gpus()} GPUs",
            "versions": versions(self.args.side.packages),
            "python": platform.python_version(),
            "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        }
        resuming.replace(path, f"{json.dumps(run, indent=2)}\n".encode())
        return path


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of the packages that determine the figures, as far as installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def digest(patterns: Sequence[str]) -> str:
    """A number that differs if a file does."""
    found = hashlib.sha256()
    for path in sorted(path for each in patterns for path in ROOT.glob(each)):
        found.update(path.relative_to(ROOT).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def parse(
    description: str | None,
    system: str,
    argv: Sequence[str] | None,
    epochs: dict[str, int],
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
    trainings: Callable[[argparse.Namespace], Trainings] = lambda args: [TRAINING],
    side: Side = EXAMPLE,
) -> argparse.Namespace:
    """Reads the options that all reproductions share, and sets the seed.

    Args:
        description: What the example does.
        system: Its name.
        argv: The arguments, or `None` for those of the process.
        epochs: Numbers of epochs of the quick and the full budget.
        options: Function that adds options to the parser.
        trainings: Function from the options to the names of all calls of `Report.fit`,
            and of each `Report.part` without one; or to a dictionary from these names
            to their epochs, if these are not `args.epochs`.
        side: An example, or a peer.

    Returns:
        The options. `results` is the directory to write to, or `None`; `quick` is true
        for the quick budget; `progress` has what an earlier run has done.

    Raises:
        ValueError: If the directory of `--resume` has another run.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--budget", choices=(QUICK, FULL), default=FULL, help="default full")
    add(
        "--epochs",
        type=positive,
        help=f"default {epochs[FULL]}; quick {epochs[QUICK]}",
    )
    add("--data-dir", help="directory of the files; TFP_VAE_DATA does the same")
    add("--seed", type=int, default=0, help="default 0")
    add("--output", type=pathlib.Path, help=f"of pictures, default output/{system}")
    shown = side.results.relative_to(ROOT)
    results = f"of figures, default {shown}/ unless another option changes them"
    add("--results", type=pathlib.Path, help=results)
    resume = (
        "directory of checkpoints and figures, which must not have another run; the "
        "same command goes on where it was killed, and finds the same figures"
    )
    add("--resume", type=pathlib.Path, metavar="DIR", help=resume)
    hours = f"allow a run of more than {resuming.MOST_HOURS} hours"
    add("--yes", action="store_true", help=hours)
    common = set(vars(parser.parse_args([])))
    options(parser)
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(argv)
    # The stored figures are those of the defaults.
    decisive = {"budget", "epochs", "seed", *(vars(args).keys() - common)}
    is_stored = all(getattr(args, n) == parser.get_default(n) for n in decisive)
    program = [word.format(system) for word in side.program]
    args.command = shlex.join(["python", *program, *_portable(argv)])
    args.output = args.output or pathlib.Path("output") / system
    if args.results is None and is_stored:
        args.results = side.results
    args.side = side
    _complete(args, epochs)
    known = measured(system, parser, epochs, trainings, side)
    args.progress = resuming.Progress(
        args.resume,
        {
            "system": system,
            **_settings(args),
            **versions(side.packages),
            "code": digest(side.code),
        },
        _with_epochs(trainings, args),
        is_long=not args.quick,
        may_be_longer=args.yes,
        measured=known,
    )
    args.side.set_seed(args.seed)
    return args


def _complete(args: argparse.Namespace, epochs: dict[str, int]) -> None:
    """Adds what depends on the budget."""
    args.epochs = epochs[args.budget] if args.epochs is None else args.epochs
    args.quick = args.budget == QUICK


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The options that determine the figures."""
    others = {"data_dir", "output", "results", "resume", "yes"}
    others |= {"command", "quick", "side"}  # set by `parse`
    return {name: value for name, value in vars(args).items() if name not in others}


def measured(
    system: str,
    parser: argparse.ArgumentParser,
    epochs: dict[str, int],
    trainings: Callable[[argparse.Namespace], Trainings],
    side: Side = EXAMPLE,
) -> resuming.Measured | None:
    """The time that the run in results/ took, if there is one.

    Args:
        system: Name of the example.
        parser: The parser of its options.
        epochs: As in `parse`.
        trainings: As there.
        side: As there.

    Returns:
        What was measured.
    """
    path = side.results / f"{system}.json"
    if not path.exists():
        return None
    run = json.loads(path.read_text())
    words = shlex.split(run["command"])[1 + len(side.program) :]
    args = parser.parse_args(words)
    _complete(args, epochs)
    args.epochs = run["epochs"]
    return resuming.Measured(
        path.relative_to(ROOT).as_posix(),
        run["seconds"] / 3600,
        sum(_with_epochs(trainings, args).values()),
    )


def _with_epochs(
    trainings: Callable[[argparse.Namespace], Trainings], args: argparse.Namespace
) -> dict[str, int]:
    found = trainings(args)
    if isinstance(found, Mapping):
        return dict(found)
    return dict.fromkeys(found, args.epochs)


def positive(text: str) -> int:
    """Parses a positive integer."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(
            f"expects a positive integer. Received: {text!r}. Give 1 or more."
        )
    return int(text)


def _portable(argv: Sequence[str]) -> list[str]:
    """The command line without this machine's directories."""
    words = list(argv)
    for place, word in enumerate(words):
        if word.split("=")[0] in ("--data-dir", "--output", "--results", "--resume"):
            if "=" in word:
                words[place] = f"{word.split('=')[0]}=PATH"
            elif place + 1 < len(words):
                words[place + 1] = "PATH"
    return words
