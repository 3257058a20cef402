"""Rounds, in which each side has one turn, and what is said of a side that fails."""

import contextlib
from collections.abc import Iterator
from typing import Any

from benchmarks.worker import Failure


def turns(names: list[str], number_of_round: int) -> list[str]:
    """The order of a round: each begins with another side.

    Args:
        names: The sides.
        number_of_round: From 0.

    Returns:
        The same names.
    """
    first = number_of_round % len(names)
    return [*names[first:], *names[:first]]


@contextlib.contextmanager
def noted(outcome: Any) -> Iterator[None]:
    """Makes a failure inside the `reason` of an outcome.

    Args:
        outcome: What is known of a side.
    """
    try:
        yield
    except Failure as failure:
        outcome.reason = f"failed: {failure}"
