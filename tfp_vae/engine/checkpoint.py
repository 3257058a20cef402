"""A callback that saves the state of training in one file, and resumes from it."""

import copy
import inspect
import os
import pathlib
import tempfile
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae import keras_internals
from tfp_vae.checks import boolean, integer
from tfp_vae.engine.batches import Epochs
from tfp_vae.engine.optimizer import build_optimizer, classes_of
from tfp_vae.engine.strategies import from_chief, has_workers, is_chief
from tfp_vae.engine.weights_file import (
    build_as_saved,
    explaining_damage,
    is_plain,
    random_states,
    read_state,
    read_weights,
    shapes_of_optimizer,
    write_weights,
)
from tfp_vae.files import is_remote, local_copy


class Checkpoint(keras.callbacks.Callback):
    """Saves the state of training in one file, from which `fit` is resumed.

    Give it to `fit`::

        model.fit(x, epochs=100, callbacks=[tv.Checkpoint("last.weights.h5")])

    Use it like `keras.callbacks.BackupAndRestore`: run the same program again after a
    kill, and `fit` goes on. The file has the weights, the optimizer, the states of the
    random generators, the epoch, the batch, and the state of other callbacks, such as
    what `EarlyStopping` has counted. It is replaced atomically, so that a kill at any
    moment leaves the old file or the new one, and it has a checksum.

    In `tv.Model` and `tv.VAE` a resumed `fit` ends with the same weights and the same
    history as one without interruption, bit for bit: the rows come in the same order,
    also after a kill within an epoch. Two limits:

    - A pipeline, such as a `tf.data.Dataset`, cannot be continued within a pass, and
      Keras' own loop cannot within an epoch. Then `fit` trains the whole epoch again
      from the saved weights, and warns. Keras' own loop runs in a plain `keras.Model`
      and in the cases that `tv.Model` leaves to it, such as a strategy or
      `run_eagerly`; there TensorFlow's seed determines the order of rows. The order of
      a shuffling pipeline is not restored.
    - Layers that draw from Keras' global generator, by `keras.random.normal(shape)`
      without a seed, do not continue their draws. Keras' own layers do not use it.

    In a plain `keras.Model`, put it first in `callbacks` of `fit`, and give it the
    others as its argument `callbacks`. It saves those attributes of other callbacks
    that change in training, are no arguments of their class, and are numbers, strings,
    arrays, or lists, tuples and dictionaries of them. An optimizer other than
    `model.optimizer` must be built before `fit`. If a callback sets `stop_training`
    within an epoch, the file is neither renewed nor deleted.

    Args:
        filepath: Path that ends in `.weights.h5`. Keras can load the weights from it.
        save_freq: `"epoch"`, or the number of batches after which to save. `fit` saves
            only between compiled calls, so at the end of the call that reaches it.
        delete_checkpoint: Whether to delete the file when training ends.
        callbacks: Callbacks whose state to save, for a plain `keras.Model`; `tv.Model`
            saves that of all callbacks given to `fit`.

    Raises:
        ValueError: If an argument is invalid; when training begins, if the model is not
            built, or the file was not written by a `Checkpoint`.
        OSError: When training begins, if the file was cut or damaged.

    Example:
        >>> import tempfile
        >>> checkpoint = Checkpoint(f"{tempfile.mkdtemp()}/last.weights.h5")
        >>> model = tv.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> x, y = np.zeros([8, 2]), np.zeros([8, 1])
        >>> history = model.fit(x, y, epochs=3, callbacks=[checkpoint], verbose=0)
    """

    def __init__(
        self,
        filepath: Any,
        save_freq: str | int = "epoch",
        delete_checkpoint: bool = True,
        callbacks: Any = None,
    ) -> None:
        super().__init__()
        if not (
            isinstance(filepath, str | os.PathLike)
            and str(filepath).endswith(".weights.h5")
        ):
            raise ValueError(
                "`Checkpoint` expects a path that ends in `.weights.h5`. Received: "
                f"filepath={filepath!r}. Give the path of one file, such as "
                "'last.weights.h5'."
            )
        if not (isinstance(save_freq, str) and save_freq == "epoch"):
            save_freq = integer(save_freq, "save_freq", "Checkpoint")
        self.filepath, self.save_freq = str(filepath), save_freq
        self.delete_checkpoint = boolean(
            delete_checkpoint, "delete_checkpoint", "Checkpoint"
        )
        if not isinstance(callbacks, list | tuple | None) or not all(
            isinstance(each, keras.callbacks.Callback) for each in callbacks or []
        ):
            raise ValueError(
                "`Checkpoint` expects `callbacks` to be None or a list of Keras "
                f"callbacks. Received: callbacks={callbacks!r}. Give the other "
                "callbacks of `fit`."
            )
        self.callbacks = callbacks
        self._given: tuple[Any, Epochs | None] | None = None
        self._others: list[Any] = []
        self._epochs: Epochs | None = None
        self._initial_states: dict[Any, dict[str, Any]] = {}
        self._resumed: tuple[int, int] | None = None
        self._epoch = self._batch = self._unsaved = 0
        self._epoch_is_complete = True

    @property
    def steps_per_execution(self) -> int | None:
        """The most steps that `fit` may run in one program."""
        return None if self.save_freq == "epoch" else int(self.save_freq)

    def follow(self, callbacks: Any, epochs: Epochs | None) -> None:
        """Receives what only `fit` knows, as `set_model` and `set_params` do.

        Args:
            callbacks: All callbacks of `fit`.
            epochs: The passes over the data; `None` in Keras' own loop.
        """
        self._given = callbacks, epochs

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the model, and the epoch in which `fit` begins."""
        if not self.model.built:
            raise ValueError(
                "`Checkpoint` expects a model that has its weights. Received: a "
                f"{type(self.model).__name__} that is not built. Call it on a batch "
                "before `fit`."
            )
        self._initial_states, self._resumed, self._unsaved = {}, None, 0
        self._epoch_is_complete = True
        given, self._epochs = self._given or (self.callbacks, None)
        self._given = None
        self._others = keras.tree.flatten(getattr(given, "callbacks", given) or [])
        keras_internals.resume_at(self.model, None)  # Forgets that of an earlier call.
        build_optimizer(self.model)
        state = self._restored()
        if state is None:
            return
        epoch, batch = state["epoch"], state["batch"]
        if self._epochs is not None:
            kept = self._epochs.resume(epoch, batch, state["place"])
        else:
            kept = not batch
            keras_internals.resume_at(self.model, epoch)
        if not kept:
            warnings.warn(
                f"`Checkpoint` resumes epoch {epoch + 1} at the beginning of the data, "
                f"with the weights after {batch} of its batches. To continue where it "
                "was, `fit` of a `tv.Model` needs arrays, and the number of rows, the "
                "batch size, `shuffle` and `steps_per_epoch` of the interrupted run.",
                stacklevel=2,
            )
        self._resumed = epoch, batch if kept else 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves the state after the last epoch, or restores it here."""
        if not self._initial_states:
            self._initial_states = self._callback_states()
        keras_internals.resume_at(self.model, None)  # Not for the next call of `fit`.
        self._epoch, self._batch, self._epoch_is_complete = epoch, 0, True
        self._restore_or_save(epoch, 0, self.save_freq == "epoch" or self._is_due())

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Saves the state after the last batches, or restores it here."""
        if batch:
            self._restore_or_save(self._epoch, batch, self._is_due())

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Counts the batches."""
        self._unsaved += batch + 1 - self._batch
        self._batch = batch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the epochs."""
        steps = (self.params or {}).get("steps") or self._batch
        self._epoch_is_complete = not self.model.stop_training or self._batch >= steps
        self._epoch, self._batch = epoch + 1, 0

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Deletes the file or saves the last state, unless an epoch was cut short."""
        if not self._epoch_is_complete:
            return
        if self._resumed is not None:  # There was nothing left to train.
            self._initial_states = self._initial_states or self._callback_states()
            self._restore_or_save(*self._resumed, False)
        elif not self.delete_checkpoint:
            self._save(self._epoch, 0)
        chief = is_chief(self.model.distribute_strategy)
        if self.delete_checkpoint and chief and tf.io.gfile.exists(self.filepath):
            tf.io.gfile.remove(self.filepath)

    def _is_due(self) -> bool:
        return self.save_freq != "epoch" and self._unsaved >= int(self.save_freq)

    def _restore_or_save(self, epoch: int, batch: int, due: bool) -> None:
        """Restores or saves the state before a batch.

        All callbacks have then handled the batch before it.
        """
        if self._resumed == (epoch, batch):
            self._resumed = None
            state = self._restored()
            if state is None:
                raise FileNotFoundError(
                    "`Checkpoint` expects its file to exist until the first epoch "
                    f"begins. Received: none at {self.filepath!r}. Put a copy back, or "
                    "begin the training anew."
                )
            self._batch = batch
            if batch == state["batch"]:
                self._set_metrics(state["metrics"])
            self._set_callback_states(state["callbacks"])
        elif due:
            self._save(epoch, batch)

    def _save(self, epoch: int, batch: int) -> None:
        self._unsaved = 0
        if not is_chief(self.model.distribute_strategy):
            return
        if not is_remote(self.filepath):
            pathlib.Path(self.filepath).parent.mkdir(parents=True, exist_ok=True)
        place = self._epochs.place(batch) if self._epochs is not None else None
        metrics = [v.numpy() for v in self.model.metrics_variables] if batch else []
        states = {
            key: {
                name: value
                for name, value in now.items()
                if name not in self._initial_states.get(key, {})
                or not _same(value, self._initial_states[key][name])
            }
            for key, now in self._callback_states().items()
        }
        write_weights(
            self.model,
            self.filepath,
            epoch=epoch,
            batch=batch,
            place=place,
            metrics=metrics,
            callbacks=states,
        )

    def _restored(self) -> dict[str, Any] | None:
        """Loads the file into the model, and returns the rest of it."""
        strategy = self.model.distribute_strategy
        if not has_workers(strategy):
            found = tf.io.gfile.exists(self.filepath)
            return self._read(self.filepath) if found else None
        content = b""  # The file may be on the chief's disk alone.
        if is_chief(strategy) and tf.io.gfile.exists(self.filepath):
            with tf.io.gfile.GFile(self.filepath, "rb") as file:
                content = file.read()
        (size,) = from_chief(strategy, np.array(len(content)))
        if not size:
            return None
        sent = np.frombuffer(content or bytes(int(size)), np.uint8)
        (received,) = from_chief(strategy, sent)
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, "chief.weights.h5")
            path.write_bytes(received.tobytes())
            return self._read(path)

    def _read(self, path: Any) -> dict[str, Any]:
        """Loads a file that `Checkpoint` wrote."""
        optimizer = self.model.optimizer
        names = classes_of(optimizer)
        with local_copy(path) as local, explaining_damage(local, self.filepath):
            saved = read_state(local)
            if saved.get("optimizer") == names:
                build_as_saved(self.model, local)
            theirs = len(shapes_of_optimizer(local))
        if not {"epoch", "batch", "place", "metrics", "callbacks"} <= set(saved):
            raise ValueError(
                "`Checkpoint` expects a file that it wrote itself. Received: "
                f"{self.filepath!r}, a weights file. Give another path, or load the "
                "weights with `load_weights` and delete the file."
            )
        if saved.get("optimizer", names) != names:
            raise ValueError(
                "`Checkpoint` expects the optimizer of the interrupted run. Received: "
                f"{names}, where the file has {saved['optimizer']}. Compile the model "
                "with that one, or delete the file."
            )
        mine = len(optimizer.variables) if optimizer is not None else 0
        if theirs > mine and optimizer is not None and not optimizer.built:
            raise ValueError(
                f"`Checkpoint` expects an optimizer with {theirs} variables, those of "
                f"the interrupted run. Received: {type(optimizer).__name__}, which "
                "does not know what it will train. Before `fit` call "
                "`model.optimizer.build(variables)` with all that `train_step` trains."
            )
        theirs, mine = len(saved["random"]), len(random_states(self.model))
        if theirs != mine:
            warnings.warn(
                f"`Checkpoint` saved a model with {theirs} random generators, but this "
                f"one has {mine}. None is restored: draws differ from those of an "
                "uninterrupted run. Resume with the same model.",
                stacklevel=2,
            )
        return read_weights(self.model, path)

    def _by_name(self) -> dict[tuple[str, int], Any]:
        """The other callbacks, by class and number."""
        given = self._others
        history = getattr(self.model, "history", None)
        if history is not None and all(other is not history for other in given):
            given = [*given, history]
        found: dict[tuple[str, int], Any] = {}
        for callback in given:
            if callback is not self:
                name = type(callback).__name__
                same = sum(key[0] == name for key in found)
                found[name, same] = callback
        return found

    def _callback_states(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Copies of the attributes of the other callbacks, without settings."""
        return {
            key: {
                name: copy.deepcopy(value)
                for name, value in vars(callback).items()
                if name not in inspect.signature(type(callback)).parameters
                and is_plain(value)
            }
            for key, callback in self._by_name().items()
        }

    def _set_callback_states(
        self, saved: dict[tuple[str, int], dict[str, Any]]
    ) -> None:
        now = self._callback_states()
        for key, callback in self._by_name().items():
            for name, value in saved.get(key, {}).items():
                if name in now[key]:  # A file must not set anything else.
                    setattr(callback, name, value)

    def _set_metrics(self, values: list[Any]) -> None:
        variables = self.model.metrics_variables
        if len(variables) == len(values):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


def _same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal; NaN equals NaN."""
    try:
        np.testing.assert_equal(one, other)
    except AssertionError:
        return False
    return type(one) is type(other)
