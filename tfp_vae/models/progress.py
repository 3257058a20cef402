"""Progress bars: of steps that come many at a time, and of answers that take long."""

import time
from typing import Any

import keras

_SECONDS_WITHOUT_BAR = 2.0


class StepsBar(keras.callbacks.ProgbarLogger):
    """Keras' bar of `fit` and `evaluate`, which does not go beyond the last step.

    Keras counts full programs, of which the last may have fewer steps, and shows
    `159/157` until the epoch ends. Of data of unknown length nobody knows the last.

    Example:
        >>> bar = StepsBar()
        >>> bar.set_params({"verbose": 1, "epochs": 1, "steps": 5})
        >>> bar.on_train_batch_end(7)
        <BLANKLINE>
        ...5/5...
    """

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Shows the step that a program of training ended with."""
        super().on_train_batch_end(self._within(batch), logs)

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Shows the step that a program of evaluation ended with."""
        super().on_test_batch_end(self._within(batch), logs)

    def _within(self, batch: int) -> int:
        return batch if self.target is None else min(batch, self.target - 1)


def with_bar(callbacks: Any, verbose: Any) -> Any:
    """The callbacks of a user, and the bar where Keras would add its own.

    Args:
        callbacks: What `fit` or `evaluate` was given.
        verbose: Likewise.

    Returns:
        The same, or a list with one more.

    Example:
        >>> [type(callback).__name__ for callback in with_bar(None, "auto")]
        ['StepsBar']
        >>> with_bar([], 0)
        []
    """
    if not verbose or isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    given = keras.tree.flatten(callbacks or [])
    if any(isinstance(callback, keras.callbacks.ProgbarLogger) for callback in given):
        return given
    return [*given, StepsBar()]


class LongBar:
    """Keras' progress bar, from when a run turns out to be long.

    Args:
        steps: How many there will be.
        verbose: 0 for no bar, 1 for one, `"auto"` for one after two seconds, where
            there are steps left then.

    Example:
        >>> bar = LongBar(2, "auto")
        >>> bar.step()
    """

    def __init__(self, steps: int, verbose: Any) -> None:
        self._bar = keras.utils.Progbar(steps)
        self._shown = verbose == 1
        self._may_show = verbose == "auto"
        self._began = time.monotonic()
        self._steps, self._done = steps, 0

    def step(self) -> None:
        """Counts a step that is done."""
        self._done += 1
        if self._may_show and self._done < self._steps:
            passed = time.monotonic() - self._began
            self._shown = self._shown or passed > _SECONDS_WITHOUT_BAR
        if self._shown:
            self._bar.update(self._done)
