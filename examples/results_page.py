"""Writes docs/results.md and the headlines of the README from the files in results/.

python examples/results_page.py
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from reproduction import PEERS, RESULTS, ROOT, Result

README, PAGE = ROOT / "README.md", ROOT / "docs" / "results.md"
SHORT = RESULTS / "short"  # of benchmarks/peers/compare.py
# The figures that the README shows.
HEADLINES = {
    "numpyro_vae": ["test -ELBO after 15 epochs, nats"],
    "vamp_prior": [
        "-log p(x), standard normal, nats, 1000 draws",
        "-log p(x), VampPrior, nats, 1000 draws",
    ],
    "neural_editor": ["KL of each edit, nats"],
    "plain_vae": ["-log p(x), nats, 200 draws"],
    "miwae": ["mean squared error of missing entries, mean of three seeds"],
}
THEIRS = "budget of the reference"
COLUMNS = ("system", "figure", "tfp_vae", "peer", "reference", "source", THEIRS)
COMPARED = ("system", "options", "figure", "tfp_vae", "peer", "difference", "p")
TEXTS = ("system", "options", "figure", "source", THEIRS)


def table(directory: pathlib.Path = RESULTS) -> str:
    """The figures of all files, and why some differ, as Markdown."""
    lines, reasons = head(COLUMNS), []
    for path in sorted(directory.glob("*.json")):
        run = json.loads(path.read_text())
        peer = peers(path)
        script = f"[{run['title']}](../examples/{run['system']}.py)"
        figures = [Result(**values) for values in run["figures"]]
        for number, figure in enumerate(figures):
            name = "" if number else f"{script}, {training(run)}"
            lines.append(row(name, figure, peer))
        given = dict.fromkeys(figure.reason for figure in figures if figure.reason)
        reasons += [f"- {run['title']}: {reason}." for reason in given]
    why = "Why some figures differ from their reference:"
    return "\n".join([*lines, "", why, "", *reasons])


def headlines(directory: pathlib.Path = RESULTS) -> str:
    """The figures that the README shows, as Markdown."""
    lines = head(COLUMNS)
    for system, names in HEADLINES.items():
        path = directory / f"{system}.json"
        run = json.loads(path.read_text())
        figures = {values["what"]: Result(**values) for values in run["figures"]}
        script = f"[{run['title']}](examples/{system}.py), {training(run)}"
        lines += [row(script, figures[name], peers(path)) for name in names]
    return "\n".join(lines)


def compared(directory: pathlib.Path = SHORT) -> str:
    """Means, standard deviations and paired t-tests over the seeds, as Markdown."""
    lines = head(COMPARED)
    for path in sorted(directory.glob("*.json")):
        run = json.loads(path.read_text())
        for number, figure in enumerate(run["figures"]):
            sides = [figure["here"], figure["peer"]]
            cells = [f"{np.mean(x):.2f} +-{np.std(x, ddof=1):.2f}" for x in sides]
            test = paired_t_test(*sides)
            low, high = test.confidence_interval(0.95)
            cells += [f"{low:.2f} to {high:.2f}", f"{test.pvalue:.3f}"]
            names = ["", ""] if number else [run["title"], f"`{run['options']}`"]
            lines.append(f"| {' | '.join([*names, figure['what'], *cells])} |")
    return "\n".join(lines)


def paired_t_test(here: Sequence[float], peer: Sequence[float]) -> Any:
    """Student's paired test that two means are equal, two-sided.

    Args:
        here: Figures of the example by seed.
        peer: Those of its peer. Runs of a seed have the same test data.

    Returns:
        SciPy's result, with `pvalue` and `confidence_interval`.
    """
    return stats.ttest_rel(here, peer)


def peers(path: pathlib.Path) -> dict[str, float]:
    """The figures of the peer that had the same budget."""
    theirs = PEERS / path.name
    if not theirs.exists():
        return {}
    mine, peer = (json.loads(each.read_text()) for each in (path, theirs))
    if any(mine[name] != peer[name] for name in ("budget", "epochs", "seed")):
        return {}
    return {values["what"]: values["value"] for values in peer["figures"]}


def training(run: dict[str, Any]) -> str:
    """How long the models of a file were trained."""
    return str(run.get("trained", f"{run['epochs']} epochs"))


def row(name: str, figure: Result, peer: dict[str, float]) -> str:
    """A figure as a row of the table."""
    values = [figure.value, peer.get(figure.what), figure.reference]
    cells = ["" if value is None else number(value) for value in values]
    cells = [name, figure.what, *cells, figure.source, figure.budget]
    return f"| {' | '.join(cells)} |"


def number(value: float) -> str:
    """Two decimals, four below 1; none for whole numbers and from 10,000 on."""
    if float(value).is_integer() or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:,.{2 if abs(value) >= 1 else 4}f}"


def head(columns: Sequence[str]) -> list[str]:
    """The first lines of a table; numbers are aligned right."""
    rules = ["---" if name in TEXTS else "---:" for name in columns]
    return [f"| {' | '.join(columns)} |", f"|{'|'.join(rules)}|"]


def parts() -> list[tuple[pathlib.Path, str, str]]:
    """The pages, the names of their machine-written parts, and the text of these."""
    return [
        (README, "results", headlines()),
        (PAGE, "results", table()),
        (PAGE, "compared", compared()),
    ]


def main() -> None:
    """Writes the tables."""
    for page, name, text in parts():
        before, rest = page.read_text().split(f"<!-- begin {name} -->")
        _, after = rest.split(f"<!-- end {name} -->")
        marked = f"<!-- begin {name} -->\n{text}\n<!-- end {name} -->"
        page.write_text(f"{before}{marked}{after}")


if __name__ == "__main__":
    main()
