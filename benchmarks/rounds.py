"""Rounds in which each side has one turn, and the reason if a side fails."""

import contextlib
from collections.abc import Iterator
from typing import Any

from benchmarks.worker import Failure


def turns(names: list[str], number_of_round: int) -> list[str]:
    """The order of the sides in a round; each round starts with another one.

    Args:
        names: The sides.
        number_of_round: Number of the round, from 0.

    Returns:
        The names in that order.
    """
    first = number_of_round % len(names)
    return [*names[first:], *names[:first]]


@contextlib.contextmanager
def noted(outcome: Any) -> Iterator[None]:
    """Stores a failure inside the context as the `reason` of an outcome.

    Args:
        outcome: The results of a side.
    """
    try:
        yield
    except Failure as failure:
        outcome.reason = f"failed: {failure}"
