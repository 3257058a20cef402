"""Keras' `fit` on the workers of `tf.distribute.MultiWorkerMirroredStrategy`."""

import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.engine import data
from tfp_vae.engine.run import callbacks_in
from tfp_vae.engine.strategies import (
    check_strategy,
    from_chief,
    has_workers,
    is_chief,
)
from tfp_vae.engine.worker_batches import dataset_of, warn_of_other_rows

# Keras' callbacks that only write files. A subclass may do more, such as `predict`,
# which all workers have to call.
_WRITERS = (
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.TensorBoard,
)


class MultiWorkerTrainer:
    """Training on several workers; a base class to list before `keras.Model`.

    Keras 3.15 fails on several workers: it builds the model on the mean of their
    batches, and reduces scalars as if they had a first axis. This class fixes both.
    With the following, workers compute the same as one process, up to rounding:

    - `fit` begins with the chief's weights, optimizer and epoch: its backup suffices
      for all workers;
    - array rows come in the chief's order, each once per epoch;
    - a row has the same weight in short and in long batches;
    - moving averages, as in `BatchNormalization`, are the chief's;
    - only the chief writes files.

    Every worker calls `fit`, `evaluate` and `predict` with the same data. With one
    worker, Keras is unchanged.

    Example:
        >>> class Model(MultiWorkerTrainer, keras.Model):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.dense = keras.layers.Dense(1)
        ...     def call(self, x):
        ...         return self.dense(x)
        >>> strategy = tf.distribute.get_strategy()  # or one of several workers
        >>> with strategy.scope():
        ...     model = Model()
        ...     model.compile("adam", loss="mse")
        >>> sorted(model.fit(np.zeros([8, 2]), np.zeros([8, 1]), verbose=0).history)
        ['loss']
    """

    # Attributes of a Keras model that these methods use.
    _distribute_strategy: Any
    _initial_epoch: Any
    distribute_strategy: Any
    non_trainable_variables: Any
    optimizer: Any
    predict_function: Any
    variables: Any

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Trains the model, as `keras.Model.fit`, with a global `batch_size`."""
        check_strategy(self)
        if has_workers(self.distribute_strategy):
            callbacks = self._callbacks_here(callbacks)
            shuffle = kwargs.get("shuffle", True)
            arrays = (x, y, kwargs.get("sample_weight"))
            if not data.is_pipeline(x):
                if validation_split and validation_data is None:
                    parts = data.split(len(data.leaves_of(x)[0]), validation_split)
                    arrays, validation_data = (
                        data.mapped(
                            lambda a, rows=rows: a[rows.start : rows.stop], arrays
                        )
                        for rows in parts
                    )
                validation_batch_size = (
                    kwargs.get("validation_batch_size") or batch_size
                )
                kwargs |= {
                    "sample_weight": None,
                    "validation_batch_size": validation_batch_size,
                }
                steps = kwargs.get("steps_per_epoch")
                x = self._in_one_order(arrays, batch_size, steps, shuffle)
                y, batch_size, validation_split = None, None, 0.0
            elif isinstance(x, tf.data.Dataset):
                warn_of_other_rows(self.distribute_strategy, x)
            elif shuffle:
                raise ValueError(
                    "`fit` on several workers expects arrays or a `tf.data.Dataset`. "
                    f"Received: a {type(x).__name__}, whose batches may come in "
                    "another order on each worker. Make a dataset of it, or give "
                    "`shuffle=False` if the order is the same on all."
                )
            kwargs["shuffle"] = False
        history = super().fit(  # type: ignore[misc]
            x,
            y,
            batch_size,
            epochs,
            verbose,
            callbacks,
            validation_split,
            validation_data,
            **kwargs,
        )
        self._take_averages()
        return history

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates the model, as `keras.Model.evaluate`."""
        check_strategy(self)
        self._take_averages()
        return super().evaluate(*args, **kwargs)  # type: ignore[misc]

    def save(
        self, filepath: Any, overwrite: bool = True, zipped: Any = None, **kwargs: Any
    ) -> None:
        """Saves the model in a file that `keras.models.load_model` loads.

        A `.keras` file of a `tv.Model` is replaced atomically: after a failure or a
        kill the old one remains. On several workers, only the chief writes.

        Args:
            filepath: Path of a `.keras` file; of a folder with `zipped=False`.
            overwrite: Whether to replace a file without asking.
            zipped: As in `keras.Model.save`. A folder is not replaced atomically.
            **kwargs: As there.

        Raises:
            ValueError: If the path of a file does not end in `.keras`.
        """
        if is_chief(self.distribute_strategy):
            super().save(filepath, overwrite, zipped, **kwargs)  # type: ignore[misc]

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Saves the weights, as `keras.Model.save_weights`; only the chief writes."""
        if is_chief(self.distribute_strategy):
            super().save_weights(*args, **kwargs)  # type: ignore[misc]

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Exports the model, as `keras.Model.export`; only the chief writes."""
        if is_chief(self.distribute_strategy):
            super().export(*args, **kwargs)  # type: ignore[misc]

    def _in_one_order(
        self, arrays: Any, batch_size: int | None, steps: int | None, shuffle: Any
    ) -> tf.data.Dataset:
        """Batches of arrays, with Keras' default batch size."""
        count = len(data.leaves_of(arrays)[0])
        if batch_size is None:
            batch_size = 32 if steps is None else -(-count // steps)
        seed = tf.random.uniform([], maxval=2**31 - 1, dtype="int32").numpy()
        (seed,) = from_chief(self.distribute_strategy, np.asarray(seed))
        return dataset_of(arrays, batch_size, shuffle, int(seed))

    def _callbacks_here(self, callbacks: Any) -> list[Any]:
        """The callbacks of this worker, and one that copies the chief's state."""
        given = callbacks_in(callbacks)
        if not is_chief(self.distribute_strategy):
            given = [callback for callback in given if type(callback) not in _WRITERS]
        # Comes last: another callback may restore the chief from a backup.
        last = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: self._take_state()
        )
        return [*given, last]

    def _take_state(self) -> None:
        """Copies the chief's variables and initial epoch."""
        variables = [*self.variables, *getattr(self.optimizer, "variables", [])]
        epoch = self._take(variables, np.array(self._initial_epoch or 0))
        self._initial_epoch = int(epoch[0])

    def _take_averages(self) -> None:
        """Copies the chief's moving averages; each worker has those of its own rows.

        A `MirroredStrategy` also keeps the averages of its first replica.
        """
        if has_workers(self.distribute_strategy):
            self._take([v for v in self.non_trainable_variables if "float" in v.dtype])

    def _take(self, variables: list[Any], *others: Any) -> list[Any]:
        """Assigns the chief's values to variables, and returns its other arrays."""
        mine = [variable.numpy() for variable in variables]
        taken = from_chief(self.distribute_strategy, *mine, *others)
        for variable, value in zip(variables, taken, strict=False):
            variable.assign(value)
        return taken[len(mine) :]

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        """Builds on the batch of one replica; Keras would build on the mean of all.

        The method is private to Keras, which has no public one for this.
        `test_keras_still_needs_the_mends` fails when Keras no longer needs it.
        """
        if iterator is not None and self._distribute_strategy is not None:
            local = self._distribute_strategy.experimental_local_results
            _, _, pulled = next(iter(iterator))
            data_batch = keras.tree.map_structure(
                lambda part: local(part)[0], next(pulled)
            )
            iterator = None
        super()._maybe_symbolic_build(  # type: ignore[misc]
            iterator=iterator, data_batch=data_batch
        )

    def _make_function(self, step_function: Any) -> Any:
        """Makes Keras' function for a step, with a correct reduction."""
        if not has_workers(self.distribute_strategy):
            return super()._make_function(step_function)  # type: ignore[misc]
        return _with_reduction(keras.Model._make_function)(self, step_function)

    def make_predict_function(self, force: bool = False) -> Any:
        """Makes Keras' function for a batch of `predict`, with a correct reduction."""
        if not has_workers(self.distribute_strategy):
            return super().make_predict_function(force)  # type: ignore[misc]
        return _with_reduction(keras.Model.make_predict_function)(self, force)

    def _compute_loss(self, x: Any = None, *args: Any, **kwargs: Any) -> tf.Tensor:
        """Keras' loss, with the gradient of a mean over the rows of all workers.

        Keras takes the mean of the workers' means, which gives a worker with few rows
        of a short batch the weight of one with many. The method is private to Keras,
        since models override the public `compute_loss`. If Keras changes it,
        `test_workers_take_the_steps_of_one_process` fails.
        """
        loss = super()._compute_loss(x, *args, **kwargs)  # type: ignore[misc]
        return of_all_rows(loss, x)


def of_all_rows(loss: tf.Tensor, x: Any) -> tf.Tensor:
    """A worker's loss, with the gradient of a mean over the rows of all workers.

    Args:
        loss: The mean over this worker's rows.
        x: Its inputs.

    Returns:
        The loss; unchanged without several workers.

    Example:
        >>> of_all_rows(tf.constant(2.0), tf.zeros([3, 1])).numpy()
        np.float32(2.0)
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or not has_workers(replica.strategy):
        return loss
    rows = tf.cast(tf.shape(data.leaves_of(x)[0])[0], tf.float32)
    share = tf.math.divide_no_nan(rows, replica.all_reduce("SUM", rows))
    scale = tf.cast(share * replica.num_replicas_in_sync, loss.dtype)
    return _with_gradient(loss, scale)


@tf.custom_gradient
def _with_gradient(loss: tf.Tensor, scale: tf.Tensor) -> Any:
    """The loss itself, with its gradient multiplied by `scale`."""
    return tf.identity(loss), lambda upstream: (upstream * scale, None)


def _with_reduction(function: Any) -> Callable[..., Any]:
    """A copy of a function of Keras' trainer, with a correct reduction over workers.

    Keras calls `reduce_per_replica`, a global name of its module that cannot be
    overridden. The copy has another function under this name; Keras is unchanged.
    `test_keras_still_needs_the_mends` fails when Keras no longer needs it.
    """
    names = {**function.__globals__, "reduce_per_replica": _reduce_per_replica}
    rest = (function.__name__, function.__defaults__, function.__closure__)
    return types.FunctionType(function.__code__, names, *rest)


def _reduce_per_replica(values: Any, strategy: Any, reduction: str) -> Any:
    """Averages values over all replicas, or concatenates their rows."""
    flat = keras.tree.flatten(values)
    replica = tf.distribute.get_replica_context

    def gather(*parts: Any) -> list[Any]:
        return [replica().all_gather(part, axis=0) for part in parts]

    def mean(*parts: Any) -> list[Any]:
        # In one vector, since each call takes some ms, whatever its size.
        vectors = [tf.reshape(tf.cast(part, tf.float64), [-1]) for part in parts]
        whole = replica().all_reduce("MEAN", tf.concat(vectors, axis=0))
        split = tf.split(whole, [tf.size(vector) for vector in vectors])
        return [
            tf.cast(tf.reshape(vector, tf.shape(part)), part.dtype)
            for vector, part in zip(split, parts, strict=True)
        ]

    found = strategy.run(gather if reduction == "concat" else mean, args=flat)
    local = [strategy.experimental_local_results(part)[0] for part in found]
    return keras.tree.pack_sequence_as(values, local)
