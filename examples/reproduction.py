"""Shared code of the reproductions: budgets, figures and references, results/.

    python examples/reproduction.py

writes docs/results.md and the headlines of the README from the files in results/.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "results"
README, PAGE = ROOT / "README.md", ROOT / "docs" / "results.md"
# The figures that the README shows.
HEADLINES = {
    "numpyro_vae": ["test -ELBO after 15 epochs, nats"],
    "vamp_prior": [
        "-log p(x), standard normal, nats, 1000 draws",
        "-log p(x), VampPrior, nats, 1000 draws",
    ],
    "neural_editor": ["KL of each edit, nats"],
    "plain_vae": ["-log p(x), nats, 200 draws"],
    "iwae": ["-log p(x), k = 50, nats, 5000 draws"],
}
MARKS = ("<!-- begin results -->", "<!-- end results -->")
PACKAGES = ("tfp-vae", "keras", "tensorflow", "tensorflow-probability", "numpy")
QUICK, FULL = "quick", "full"
HEAD = ("| system | figure | here | reference |", "|---|---|---:|---:|")


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure and its reference.

    Args:
        what: The figure and its unit.
        value: What was found.
        reference: The value to compare it with, or `None`.
        source: Where the reference was published, or how it was measured.
        tolerance: How much worse the figure may be without a `reason`.
        higher_is_better: Whether higher figures are better.
        reason: Why the figure is worse, or has another budget or split.
    """

    what: str
    value: float
    reference: float | None = None
    source: str = ""
    tolerance: float = 0.0
    higher_is_better: bool = True
    reason: str = ""

    def row(self, name: str) -> str:
        """The figure as a row of a table."""
        known = "" if self.reference is None else f"{self.reference:.2f}"
        return f"| {name} | {self.what} | {self.value:.2f} | {known} |"

    @property
    def is_explained(self) -> bool:
        """Whether the figure is within the tolerance, or says why not."""
        if self.reference is None:
            return True
        worse = self.reference - self.value
        worse = worse if self.higher_is_better else -worse
        return worse <= self.tolerance or bool(self.reason)

    def __str__(self) -> str:
        """The figure in a line."""
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
    """

    def __init__(self, system: str, title: str, args: argparse.Namespace) -> None:
        self.system, self.title, self.args = system, title, args
        self.figures: list[Figure] = []
        self._start = time.perf_counter()

    def add(self, what: str, value: Any, *reference: Any, **options: Any) -> None:
        """Adds a figure and prints it; the arguments are those of `Figure`."""
        figure = Figure(what, round(float(value), 4), *reference, **options)
        if figure.reference is not None:
            rounded = round(float(figure.reference), 4)
            figure = dataclasses.replace(figure, reference=rounded)
        self.figures.append(figure)
        print(figure, flush=True)

    def __getitem__(self, what: str) -> float:
        """The value of the first figure whose name starts with `what`."""
        return next(f.value for f in self.figures if f.what.startswith(what))

    def picture(self, name: str, figure: Any) -> None:
        """Saves a matplotlib figure."""
        self.args.output.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.args.output / f"{name}.png", dpi=120, bbox_inches="tight")
        print(f"wrote {self.args.output / name}.png")

    def write(self) -> None:
        """Writes the file in results/, if the budget was the full one."""
        if self.args.results is None:
            return
        self.args.results.mkdir(parents=True, exist_ok=True)
        path = self.args.results / f"{self.system}.json"
        run = {
            "system": self.system,
            "title": self.title,
            "figures": [dataclasses.asdict(figure) for figure in self.figures],
            "command": self.args.command,
            "budget": self.args.budget,
            "epochs": self.args.epochs,
            "seed": self.args.seed,
            "seconds": round(time.perf_counter() - self._start),
            "hardware": f"{os.cpu_count()} cores of {platform.machine()}, "
            f"{len(keras.distribution.list_devices('gpu'))} GPUs",
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        }
        path.write_text(json.dumps(run, indent=2) + "\n")
        print(f"wrote {path}")


def parse(
    description: str | None,
    system: str,
    argv: Sequence[str] | None,
    epochs: dict[str, int],
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> argparse.Namespace:
    """Reads the options that all reproductions share, and seeds Keras.

    Args:
        description: What the example does.
        system: Its name.
        argv: The arguments, or `None` for those of the process.
        epochs: Numbers of epochs of the quick and the full budget.
        options: Function that adds options to the parser.

    Returns:
        The options; `results` is the directory to write to, or `None`.
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
    results = "of the file of figures, default results/ if the budget is full"
    add("--results", type=pathlib.Path, help=results)
    options(parser)
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", f"examples/{system}.py", *_portable(argv)])
    args.output = args.output or pathlib.Path("output") / system
    if args.results is None and args.budget == FULL and args.epochs is None:
        args.results = RESULTS
    args.epochs = epochs[args.budget] if args.epochs is None else args.epochs
    args.quick = args.budget == QUICK
    keras.utils.set_random_seed(args.seed)
    return args


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
        if word.split("=")[0] in ("--data-dir", "--output", "--results"):
            if "=" in word:
                words[place] = f"{word.split('=')[0]}=PATH"
            elif place + 1 < len(words):
                words[place + 1] = "PATH"
    return words


def table(directory: pathlib.Path = RESULTS) -> str:
    """The figures of all files, and why some differ, as Markdown."""
    lines, reasons = list(HEAD), []
    for path in sorted(directory.glob("*.json")):
        run = json.loads(path.read_text())
        script = f"[{run['title']}](../examples/{run['system']}.py)"
        figures = [Figure(**values) for values in run["figures"]]
        for number, figure in enumerate(figures):
            name = "" if number else f"{script}, {run['epochs']} epochs"
            lines.append(figure.row(name))
        told = dict.fromkeys(figure.reason for figure in figures if figure.reason)
        reasons += [f"- {run['title']}: {reason}." for reason in told]
    why = "Why some figures differ from their reference:"
    return "\n".join([*lines, "", why, "", *reasons])


def headlines(directory: pathlib.Path = RESULTS) -> str:
    """The figures that the README shows, as Markdown."""
    lines = list(HEAD)
    for system, names in HEADLINES.items():
        run = json.loads((directory / f"{system}.json").read_text())
        figures = {values["what"]: Figure(**values) for values in run["figures"]}
        script = f"[{run['title']}](examples/{system}.py), {run['epochs']} epochs"
        lines += [figures[name].row(script) for name in names]
    return "\n".join(lines)


def main() -> None:
    """Writes the tables."""
    for page, text in ((README, headlines()), (PAGE, table())):
        old = page.read_text()
        begin, end = (old.index(mark) for mark in MARKS)
        page.write_text(f"{old[: begin + len(MARKS[0])]}\n{text}\n{old[end:]}")


if __name__ == "__main__":
    main()
