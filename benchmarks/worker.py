"""A process for each side, kept alive so that the sides can take turns.

Each side has its own threads and memory. If its process dies, the table says so.
"""

import concurrent.futures
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from benchmarks import sides
from benchmarks.cases import Case, Data

# Idle threads of the side that just ran may spin for a while.
REST = 0.3
MIB = 2**20


class Failure(Exception):
    """A failure in a worker, described in a line."""


class Worker:
    """A fresh process that runs functions one at a time.

    The first call starts it; leaving the context ends it.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)

    def __enter__(self) -> "Worker":
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the process."""
        self.close()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs a function in the process and waits for the result.

        Args:
            function: A module-level function.
            *args: Its arguments, picklable like its result.

        Returns:
            The result.

        Raises:
            Failure: If the function raises, or the process dies.
        """
        try:
            return self._pool.submit(_guarded, function, args).result()
        except BrokenProcessPool as error:
            raise Failure("its process died") from error

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()


def _guarded(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return function(*args)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise Failure(f"{type(error).__name__}: {lines[0][:200]}") from None


def timed(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Times a function.

    Args:
        function: The function.
        *args: Its arguments.

    Returns:
        The seconds it took, and its result.
    """
    start = time.perf_counter()
    value = function(*args)
    return time.perf_counter() - start, value


def peak_memory() -> float:
    """The peak memory of this process, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def import_from(path: str) -> None:
    """Makes this process import from a directory first.

    Args:
        path: The directory of another checkout.
    """
    sys.path.insert(0, path)


# Objects kept in a worker's process between calls.
_held: dict[str, Any] = {}


def build(name: str, case: Case, data: Data) -> int:
    """Builds a side in this process and keeps it.

    Args:
        name: One of `sides.SIDES`.
        case: The model.
        data: The images.

    Returns:
        The number of images processed in an epoch.
    """
    _held["side"] = sides.build(name, case, data.load(case))
    return int(_held["side"].examples)


def train(epochs: int) -> tuple[float, float]:
    """Trains the side in this process; returns seconds and the mean loss."""
    return timed(_held["side"].train, epochs)


def evaluate(times: int) -> tuple[float, float]:
    """Evaluates the side several times; returns seconds and the mean loss."""
    return timed(lambda: [_held["side"].evaluate() for _ in range(times)][-1])


def encode(times: int) -> tuple[float, None]:
    """Encodes the data several times; returns seconds."""
    return timed(lambda: [_held["side"].encode() for _ in range(times)])[0], None


def build_limit(case: Case, data: Data) -> tuple[int, list[str]]:
    """Builds the matrix products in this process.

    Args:
        case: The model.
        data: The images.

    Returns:
        The number of images processed in an epoch, and the ways to multiply.
    """
    from benchmarks.limit import Limit  # imports TensorFlow, which the parent does not

    _held["limit"] = Limit(case, data.load(case))
    return _held["limit"].examples, _held["limit"].ways


def multiply(way: str, epochs: int) -> tuple[float, None]:
    """Runs the matrix products of some epochs; returns seconds."""
    return timed(_held["limit"].run, way, epochs)
