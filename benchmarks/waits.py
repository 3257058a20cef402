"""The time that a user waits for a result on each side: figures and table."""

import dataclasses
import statistics
from typing import Any

from benchmarks.report import spread, table
from benchmarks.sides import REFERENCE

CACHED, LAYERS, KERAS, BEST = "tfp_vae_cached", "tfp_vae_layers", "keras", "best"
COLUMNS = {
    REFERENCE: "`tv.VAE`",
    CACHED: "`tv.VAE`, warm cache",
    LAYERS: "`tv.Model`",
    KERAS: "Keras as it comes",
    BEST: "Keras, its best settings",
    "pytorch": "PyTorch eager",
    "jax": "JAX + optax",
}
RATIOS = (
    (REFERENCE, BEST),
    (LAYERS, BEST),
    (REFERENCE, "pytorch"),
    (REFERENCE, "jax"),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """The amount of training, a row of the table.

    Args:
        rows: Number of images, including those for validation.
        epochs: How many epochs.
    """

    rows: int
    epochs: int

    def __str__(self) -> str:
        """As in the table."""
        return f"{self.rows:,} x {self.epochs:,}"


@dataclasses.dataclass
class Wait:
    """A side, its settings and its results.

    Args:
        side: Its name in `SIDES`.
        settings: Settings for `sides.prepare`.
        label: The settings in words.
        cached: Whether XLA finds its compiled programs on disk.
        seconds: Seconds of each round.
        loss: The last validation loss, in nats per example.
        reason: Why there are no figures.
        left_out: Whether it was dropped after one round.
    """

    side: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    label: str = ""
    cached: bool = False
    seconds: list[float] = dataclasses.field(default_factory=list)
    loss: float = 0.0
    reason: str | None = None
    left_out: bool = False


def best(waits: dict[str, Wait]) -> Wait | None:
    """Keras in its best settings, those with the smallest median.

    Args:
        waits: The results of a cell; names of Keras begin with `KERAS`.

    Returns:
        One of the results, or `None` if Keras has no figures.
    """
    found = [
        wait
        for name, wait in waits.items()
        if name.startswith(KERAS) and not (wait.reason or wait.left_out)
    ]
    return min(found, key=lambda wait: statistics.median(wait.seconds), default=None)


def lines(found: dict[Cell, dict[str, Wait]]) -> str:
    """The table, the ratios, all settings of Keras, and sides without figures.

    Args:
        found: The results of each cell, by name.

    Returns:
        Markdown.
    """
    shown = {cell: _with_best(waits) for cell, waits in found.items()}
    names = [name for name in COLUMNS if any(name in waits for waits in shown.values())]
    header = ["rows x epochs", *(COLUMNS[name] for name in names), "validation loss"]
    rows = [
        [str(cell), *(_seconds(waits.get(name)) for name in names), _losses(waits)]
        for cell, waits in shown.items()
    ]
    parts = [table(header, rows)]
    for title, told in (
        ("Seconds divided by those of a peer:", _ratios),
        ("Keras, all settings:", _settings),
        ("Without figures:", _reasons),
    ):
        items = {cell: told(waits) for cell, waits in shown.items()}
        listed = [f"- {cell}: {item}" for cell, item in items.items() if item]
        if listed:
            parts.append("\n".join([title, "", *listed]))
    return "\n\n".join(parts)


def _with_best(waits: dict[str, Wait]) -> dict[str, Wait]:
    fastest = best(waits)
    return {**waits, BEST: fastest} if fastest else waits


def _seconds(wait: Wait | None) -> str:
    if wait is None or wait.reason:
        return "-"
    settings = f": {wait.label}" if wait.label else ""
    return f"{spread(wait.seconds)}{settings}"


def _losses(waits: dict[str, Wait]) -> str:
    losses = [wait.loss for wait in waits.values() if not wait.reason]
    return f"{min(losses):.1f}-{max(losses):.1f}" if losses else "-"


def _ratios(waits: dict[str, Wait]) -> str:
    """Ratios of seconds, as medians over the rounds."""
    found = []
    for ours, theirs in RATIOS:
        pair = [waits[name] for name in (ours, theirs) if name in waits]
        if len(pair) == 2 and not any(wait.reason for wait in pair):
            rounds = zip(pair[0].seconds, pair[1].seconds, strict=True)
            ratio = statistics.median(a / b for a, b in rounds)
            found.append(f"{COLUMNS[ours]} / {COLUMNS[theirs]} {ratio:.2f}")
    return "; ".join(found)


def _settings(waits: dict[str, Wait]) -> str:
    return "; ".join(
        f"{wait.label} {spread(wait.seconds)}{', one round' if wait.left_out else ''}"
        for name, wait in waits.items()
        if name.startswith(KERAS) and not wait.reason
    )


def _reasons(waits: dict[str, Wait]) -> str:
    return "; ".join(
        f"{COLUMNS.get(name, f'Keras, {wait.label}')}: {wait.reason}"
        for name, wait in waits.items()
        if wait.reason
    )
