"""The training or the evaluation in one call of `fit` or `evaluate`."""

import math
from typing import Any

import keras

from tfp_vae.engine.batches import Epochs
from tfp_vae.engine.compiler import XLA
from tfp_vae.engine.program import Program

AUTO = "auto"
# The most bytes in a stack, and the most steps in one call of a program: the progress
# bar moves between calls.
_STACK_BYTES = 2**25
_STEPS = 64
_BATCH_METHODS = {
    f"on_{when}batch_{end}"
    for when in ("", "train_", "test_")
    for end in ("begin", "end")
}


class Run:
    """The training or the evaluation in one call of `fit` or `evaluate`.

    Args:
        program: Runs the steps.
        epochs: The passes over the data.
        most: The most steps in one call of the program.
        num_epochs: The number of epochs, or of evaluations, in the call.
        mode: Function of a number of steps; see `FunctionCache.choose_mode`.
    """

    def __init__(
        self, program: Program, epochs: Epochs, most: int, num_epochs: int, mode: Any
    ) -> None:
        self._program, self.epochs = program, epochs
        self._most, self._num_epochs, self._mode_of = most, num_epochs, mode
        count = epochs.num_batches
        self._is_decided = count is not None
        self.mode = mode(None if count is None else num_epochs * count)

    def steps(self, epoch: int, begin: Any, end: Any, done: int = 0) -> Any:
        """Runs the steps of an epoch.

        Args:
            epoch: Number of the epoch.
            begin: Called with the number of a program's first step.
            end: Called with the number and the logs of a program's last step; returns
                whether to stop.
            done: The number of its steps that an interrupted `fit` has run.

        Returns:
            The logs of the last step, or `None` if there was no batch.
        """
        count = self.epochs.num_batches
        if not self._is_decided and count:  # It is known after the first epoch.
            self._is_decided, self.mode = True, self._mode_of(self._num_epochs * count)
        # XLA compiles for one length of the stack.
        capacity = self._most if self.mode == XLA else 1
        logs, resumes = None, done > 0
        for stack in self.epochs.epoch(epoch, self._most, capacity, done):
            if resumes:
                # Makes the variables of metrics, which `begin` restores.
                self._program.trace(stack)
                resumes = False
            begin(done)
            logs = self._program(stack, self.mode)
            done += stack.number
            if end(done - 1, logs):
                break
        return logs


def steps_in_program(asked: Any, count: int | None, size: int, callbacks: Any) -> int:
    """The number of steps in one program, after which callbacks are called.

    Args:
        asked: The number that `compile` was given, or `"auto"`.
        count: Batches per epoch, or `None` if unknown.
        size: Bytes of a batch.
        callbacks: Argument of `fit` or `evaluate`.

    Returns:
        A positive number.

    Example:
        >>> steps_in_program("auto", 100, 2**10, None)
        50
        >>> seen = keras.callbacks.LambdaCallback(on_train_batch_end=print)
        >>> steps_in_program("auto", 100, 2**10, [seen])
        1
    """
    allowed = map(steps_between, callbacks_in(callbacks))
    most = default_steps(count, size) if asked == AUTO else int(asked)
    most = most if count is None else min(most, count)
    return max(1, min([most, *(int(steps) for steps in allowed if steps)]))


def callbacks_in(callbacks: Any) -> list[Any]:
    """The callbacks that an argument of `fit` has: one, several or a `CallbackList`.

    Args:
        callbacks: The argument.

    Returns:
        A list.

    Example:
        >>> callbacks_in(None), len(callbacks_in(keras.callbacks.EarlyStopping()))
        ([], 1)
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return list(callbacks.callbacks)
    return keras.tree.flatten([] if callbacks is None else callbacks)


def default_steps(num_batches: int | None, size: int) -> int:
    """The default number of steps in one call of a program.

    It makes the cost of the call negligible, but lets the progress bar move and limits
    the memory of the batches. All calls of an epoch have about equally many steps.

    Args:
        num_batches: Batches per epoch, or `None` if unknown.
        size: Bytes of a batch.

    Returns:
        A number from 1 to 64.

    Example:
        >>> default_steps(391, 128 * 784 * 4), default_steps(3, 128 * 784 * 4)
        (56, 3)
        >>> default_steps(None, 2**24)
        2
    """
    most = max(1, min(_STEPS, _STACK_BYTES // max(size, 1)))
    if num_batches is None:
        return most
    return math.ceil(num_batches / math.ceil(num_batches / most))


def steps_between(callback: Any) -> int | None:
    """The number of steps that a callback allows between two calls.

    A custom batch callback may have to be called at every step.

    Args:
        callback: A Keras callback.

    Returns:
        A number, or `None` for no limit.

    Example:
        >>> steps_between(keras.callbacks.EarlyStopping()) is None
        True
        >>> steps_between(keras.callbacks.ModelCheckpoint("w.keras", save_freq=5))
        5
    """
    if hasattr(callback, "steps_per_execution"):
        return callback.steps_per_execution
    methods = (getattr(callback, name, None) for name in _BATCH_METHODS)
    modules = (getattr(method, "__module__", None) or "" for method in methods)
    if not all(name.split(".")[0] == "keras" for name in modules):
        return 1
    # `ModelCheckpoint` and `BackupAndRestore` save between programs.
    save_freq = getattr(callback, "save_freq", None)
    return save_freq if isinstance(save_freq, int) else None
