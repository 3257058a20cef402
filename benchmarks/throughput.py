"""Trains the same models with tfp_vae and its peers, in turns, and prints ratios.

    python -m benchmarks.throughput
    python -m benchmarks.throughput --only training --models mlp --data-dir PATH
    python -m benchmarks.throughput --only result --cells 1000x1 1000x10
    python -m benchmarks.throughput --quick

Each run renews its sections of docs/benchmarks.md, and leaves the others as they are.
"""

import argparse
import os
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence

from benchmarks import memory, report, result, scaling, serving, startup, training
from benchmarks.cases import CASES, Data
from benchmarks.sides import REFERENCE, SIDES
from benchmarks.waits import CACHED, Cell

SECTIONS = ("training", "result", "scaling", "serving", "startup", "memory")
# Options whose values are directories of this machine.
PATHS = ("--data-dir", "--output", "--beside")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the chosen sections."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parse(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for the child processes
    told = ["python", "-m", "benchmarks.throughput", *_without_paths(argv)]
    provenance = report.provenance(shlex.join(told))
    for section, text in _sections(args):
        print(f"\n## {section}\n\n{text}", flush=True)
        if args.output:
            report.write(args.output, section, f"{text}\n\n{provenance}")


def _sections(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The name and the text of each section, as soon as it is measured."""
    data = Data(args.examples, args.data_dir)
    names = [name for name in SIDES if name == REFERENCE or name in args.sides]
    if "training" in args.only:
        for case in (CASES[name] for name in args.models):
            found = training.measure(
                case, data, names, args.rounds, args.epochs, args.beside
            )
            about = (
                f"{case.describe()}. {data.count(case):,} examples of "
                f"{data.describe()}; {args.rounds} rounds of {args.epochs} epochs "
                "after as many to compile."
            )
            yield f"training {case.name}", f"{about}\n\n{training.lines(found)}"
    if "result" in args.only:
        cached = [CACHED] if CACHED in args.sides else []
        rounds = 1 if args.quick else args.rounds
        yield from result.sections(args.cells, [*names, *cached], rounds)
    if "scaling" in args.only:
        yield "scaling", scaling.measure(data, args.rounds, args.epochs)
    if "serving" in args.only:
        yield "serving", serving.measure(data, args.rounds)
    if "startup" in args.only:
        yield "startup", startup.measure(data, names, args.rounds)
    if "memory" in args.only:
        yield "memory", memory.measure(data)


def _without_paths(argv: Sequence[str]) -> list[str]:
    """The command line without this machine's directories."""
    told = list(argv)
    for place, word in enumerate(told):
        option, equals, _ = word.partition("=")
        if option in PATHS:
            if equals:
                told[place] = f"{option}=PATH"
            elif place + 1 < len(told):
                told[place + 1] = "PATH"
    return told


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections")
    add("--models", nargs="+", choices=CASES, default=list(CASES), help="of training")
    sides = f"beside {REFERENCE}, which is always there"
    known = [*SIDES, CACHED]
    add("--sides", nargs="*", choices=known, default=known, help=sides)
    beside = "another checkout, whose tfp_vae trains too, as sides of their own"
    add("--beside", type=_checkout, metavar="PATH", help=beside)
    cells = "rows and epochs of a time to result, default all of docs/benchmarks.md"
    add("--cells", nargs="+", type=_cell, default=result.CELLS, help=cells)
    add("--rounds", type=_positive, default=5, help="turns of each side, default 5")
    add("--epochs", type=_positive, default=3, help="of each turn, default 3")
    add("--examples", type=_positive, help="default 20,000; of convolutions fewer")
    directory = "of the static binarized MNIST, default TFP_VAE_DATA; else synthetic"
    add("--data-dir", default=os.environ.get("TFP_VAE_DATA"), help=directory)
    page = f"page to write the sections to, default docs/{report.PAGE.name}"
    add("--output", type=pathlib.Path, default=report.PAGE, help=page)
    quick = "few examples, 1 or 2 rounds of 1 epoch, prints only: to see that all works"
    add("--quick", action="store_true", help=quick)
    args = parser.parse_args(argv)
    if args.quick:
        args.examples, args.rounds, args.epochs, args.output = 1024, 2, 1, None
        args.cells = [result.QUICK]
    return args


def _cell(text: str) -> Cell:
    rows, _, epochs = text.partition("x")
    return Cell(_positive(rows), _positive(epochs))


def _checkout(text: str) -> pathlib.Path:
    path = pathlib.Path(text).resolve()
    if not (path / "tfp_vae").is_dir():
        raise argparse.ArgumentTypeError(
            f"expects the directory of a checkout. Received: {text!r}, without "
            "tfp_vae. Make one with `git worktree add`."
        )
    return path


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(
            f"expects a positive integer. Received: {text!r}. Give 1 or more."
        )
    return int(text)


if __name__ == "__main__":
    main()
