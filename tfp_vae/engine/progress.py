"""Progress bars of `fit`, `evaluate` and other long calls."""

import time
from typing import Any

import keras
import numpy as np

_SECONDS_WITHOUT_BAR = 2.0


class EarlyBar(keras.callbacks.ProgbarLogger):
    """Keras' progress bar, shown before the first step is compiled.

    Keras shows its bar after the first step, seconds after the call.

    Args:
        what: Name of what is compiled, or `None`.

    Example:
        >>> bar = EarlyBar("the training step")
        >>> bar.set_params({"verbose": 1, "epochs": 1, "steps": 5})
        >>> bar.on_epoch_begin(0)
        >>> bar.on_train_batch_begin(0)
        Compiling the training step ...
        ...0/5...
    """

    def __init__(self, what: str | None = None) -> None:
        super().__init__()
        self._what = what

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Shows an empty bar before the first batch of `fit`."""
        self._show()

    def on_test_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Shows an empty bar before the first batch of `evaluate`."""
        self._show()

    def _show(self) -> None:
        what, self._what = self._what, None
        if what is not None and self.verbose == 1 and self.progbar is not None:
            print(f"Compiling {what} ...", flush=True)
            self.progbar.update(0)


def with_bar(callbacks: Any, verbose: Any, what: str | None) -> list[Any]:
    """The user's callbacks, and an `EarlyBar` where Keras would add its own bar.

    Args:
        callbacks: Argument of `fit` or `evaluate`.
        verbose: Argument of `fit` or `evaluate`.
        what: Name of what the first step compiles, or `None`.

    Returns:
        A list.

    Example:
        >>> [type(callback).__name__ for callback in with_bar(None, "auto", None)]
        ['EarlyBar']
        >>> with_bar([], 0, None)
        []
    """
    given = keras.tree.flatten([] if callbacks is None else callbacks)
    if not verbose:
        return given
    if any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in given):
        return given
    return [*given, EarlyBar(what)]


class LongBar:
    """Keras' progress bar, shown only for long runs.

    Args:
        steps: The number of steps.
        verbose: 1 for a bar, 0 or 2 for none, `"auto"` for a bar after two seconds, if
            steps remain.

    Raises:
        ValueError: If `verbose` is none of these.

    Example:
        >>> bar = LongBar(2, "auto")
        >>> bar.step()
    """

    def __init__(self, steps: int, verbose: Any) -> None:
        if np.ndim(verbose) or verbose not in (0, 1, 2, "auto"):
            raise ValueError(
                "A progress bar expects `verbose` to be 0, 1, 2 or 'auto'. Received: "
                f"verbose={verbose!r}. Give 0 for no bar."
            )
        self._bar = keras.utils.Progbar(steps)
        self._shown = verbose == 1
        self._may_show = verbose == "auto"
        self._began = time.monotonic()
        self._steps, self._done = steps, 0

    def step(self) -> None:
        """Counts a finished step."""
        self._done += 1
        if self._may_show and self._done < self._steps:
            passed = time.monotonic() - self._began
            self._shown = self._shown or passed > _SECONDS_WITHOUT_BAR
        if self._shown:
            self._bar.update(self._done)
