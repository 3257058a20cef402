"""Tables for the console and docs/benchmarks.md; each run renews its own sections."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import statistics
from collections.abc import Iterable, Sequence

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "benchmarks.md"
PACKAGES = (
    "tfp-vae",
    "keras",
    "tensorflow",
    "tensorflow-probability",
    "tf-keras",
    "torch",
    "jax",
    "optax",
    "numpyro",
    "numpy",
)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are aligned right.

    Args:
        header: Names of the columns.
        rows: The cells.

    Returns:
        The table, without a newline at its end.
    """
    rules = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rules, *rows))


def number(value: float) -> str:
    """A number with three digits, or all digits before the point, and commas."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def spread(values: Sequence[float]) -> str:
    """The median of rounds and, where there are several, the lowest and the highest."""
    middle = number(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({number(min(values))}-{number(max(values))})"


def provenance(command: str) -> str:
    """A line with the date, the machine and the versions of a measurement.

    Args:
        command: The command line.

    Returns:
        Date, command, machine and versions.
    """
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    machine = f"{os.cpu_count()} cores of {_processor()}, {platform.system()}"
    found = {name: _version(name) for name in PACKAGES}
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {version or 'missing'}" for name, version in found.items()]
    return f"{today}, `{command}`, {machine}. {', '.join(versions)}."


def write(path: pathlib.Path, section: str, text: str) -> None:
    """Replaces the text of one section of a page.

    Args:
        path: The page, created if there is none.
        section: Name of the section; a new one is added at the end.
        text: The text.
    """
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    page = path.read_text() if path.exists() else ""
    block = f"{begin}\n{text.strip()}\n{end}"
    before, found, rest = page.partition(begin)
    if found:
        _, closed, after = rest.partition(end)
        if not closed:
            raise ValueError(
                f"{path} expects the mark {end!r} after {begin!r}. Received: none. "
                "Put it where the section ends."
            )
        page = f"{before}{block}{after}"
    else:
        page = f"{page.rstrip()}\n\n{block}\n".lstrip()
    path.write_text(page)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.machine()
