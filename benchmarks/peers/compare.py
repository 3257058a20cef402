"""Trains examples and their peers with several seeds at a short budget.

    python -m benchmarks.peers.compare --data-dir PATH
    python -m benchmarks.peers.compare plain_vae iwae --data-dir PATH

Each seed trains both, in processes of their own, one after the other; the first one
alternates. The figures of a system are written to results/short.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import reproduction
import results_page
import resuming
from benchmarks.peers import PEER

# Options of the short runs: all seeds of a system take minutes on two cores.
SHORT = {
    "plain_vae": "--epochs 5",
    "conv_vae": "--budget quick --epochs 5",
    "hyperspherical_vae": "--budget quick --epochs 10 --dimensions 5",
    "iwae": "--budget quick --epochs 6",
    "disentangled": "--budget quick --epochs 5",
}
# Figures that training does not change, and those that repeat others.
REPEATED = ("untrained", "gain")
SIDES = {"here": reproduction.EXAMPLE, "peer": PEER}


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, prints and writes the figures."""
    args = _parse(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for the child processes
    for system in args.systems:
        text = json.dumps(compare(system, args.seeds, args.data_dir), indent=1)
        args.output.mkdir(parents=True, exist_ok=True)
        resuming.replace(args.output / f"{system}.json", f"{text}\n".encode())
    print(results_page.compared(args.output))


def compare(system: str, seeds: Sequence[int], data_dir: str | None) -> dict[str, Any]:
    """Trains both sides with each seed.

    Args:
        system: Name of the example.
        seeds: The seeds.
        data_dir: Directory of the data.

    Returns:
        The figures of both sides by seed, the options and the versions.
    """
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number, seed in enumerate(seeds):
        for side in [*SIDES][:: -1 if number % 2 else 1]:
            runs[side].append(_run(side, system, seed, data_dir))
    here, peer = (_by_name(runs[side]) for side in SIDES)
    unknown = [what for what in peer if what not in here]
    if unknown:
        raise ValueError(
            f"`compare` expects a peer of {system} with the figures of the example, "
            f"{[*here]}. Received: {unknown[0]!r}. Give it the name that the example "
            "uses."
        )
    return {
        "system": system,
        "title": runs["here"][0]["title"],
        "options": SHORT[system],
        "seeds": list(seeds),
        "figures": [
            {"what": what, "here": here[what], "peer": values}
            for what, values in peer.items()
            if not what.startswith(REPEATED)
        ],
        "seconds": {side: [run["seconds"] for run in runs[side]] for side in SIDES},
        "versions": {**runs["here"][0]["versions"], **runs["peer"][0]["versions"]},
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
    }


def _run(side: str, system: str, seed: int, data_dir: str | None) -> dict[str, Any]:
    """The file of results of a process."""
    program = [word.format(system) for word in SIDES[side].program]
    with tempfile.TemporaryDirectory() as directory:
        given = [*SHORT[system].split(), "--seed", str(seed), "--results", directory]
        given += ["--output", directory]
        given += [] if data_dir is None else ["--data-dir", data_dir]
        command = [sys.executable, *program, *given]
        done = subprocess.run(
            command, cwd=reproduction.ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
        run = json.loads(pathlib.Path(directory, f"{system}.json").read_text())
    print(f"{system}, seed {seed}, {side}: {run['seconds']} seconds", flush=True)
    return run


def _by_name(runs: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The values of each figure, one for each run."""
    values: dict[str, list[float]] = {}
    for run in runs:
        for figure in run["figures"]:
            values.setdefault(figure["what"], []).append(figure["value"])
    return values


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("systems", nargs="*", default=[*SHORT], help="default all")
    add("--seeds", nargs="+", type=int, default=range(5), help="default 0 to 4")
    add("--data-dir", help="directory of the files; TFP_VAE_DATA does the same")
    short = results_page.SHORT.relative_to(reproduction.ROOT)
    where = f"directory of the figures, default {short}"
    add("--output", type=pathlib.Path, default=results_page.SHORT, help=where)
    args = parser.parse_args(argv)
    unknown = [system for system in args.systems if system not in SHORT]
    if unknown:
        raise ValueError(
            f"`compare` expects systems that have a peer, {[*SHORT]}. Received: "
            f"{unknown[0]!r}. Give one of these, or none for all."
        )
    return args


if __name__ == "__main__":
    main()
