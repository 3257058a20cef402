"""Keras' `fit` on the workers of `tf.distribute.MultiWorkerMirroredStrategy`."""

import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.engine import data
from tfp_vae.engine.strategies import (
    check_strategy,
    from_chief,
    has_workers,
    is_chief,
)
from tfp_vae.engine.worker_batches import batches, warn_of_other_rows

# Callbacks of Keras that do nothing but write files. A subclass may do more, such as
# `predict`, in which all workers have to take part.
_WRITERS = (
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.TensorBoard,
)


class MultiWorkerTrainer:
    """What comes before `keras.Model` so that several workers can train the model.

    Keras 3.15 fails there: it takes the mean over workers of batches of images, and of
    numbers as if they had a first axis. With both mended, and what follows, workers
    compute what one process would, up to rounding:

    - `fit` begins with the chief's weights, optimizer and epoch, so that the chief's
      backup is the backup of all;
    - rows of arrays come in the chief's order, each of them once in an epoch;
    - a row has as much weight in a short batch as in a long one;
    - moving averages, as of `BatchNormalization`, are the chief's;
    - the chief alone writes files.

    Every worker calls `fit`, `evaluate` and `predict`, on the same data. Without
    several workers this is Keras alone.

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

    # What a Keras model has, for these methods to use.
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
        """Trains the model, as `keras.Model.fit`; `batch_size` is of all workers."""
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
                    f"Received: a {type(x).__name__}, which each worker would shuffle "
                    "in an order of its own. Make a dataset of it, or give "
                    "`shuffle=False`."
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

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves the model, as `keras.Model.save`; the chief alone writes."""
        if is_chief(self.distribute_strategy):
            super().save(*args, **kwargs)  # type: ignore[misc]

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Saves the weights, as `keras.Model.save_weights`; the chief alone writes."""
        if is_chief(self.distribute_strategy):
            super().save_weights(*args, **kwargs)  # type: ignore[misc]

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Exports the model, as `keras.Model.export`; the chief alone writes."""
        if is_chief(self.distribute_strategy):
            super().export(*args, **kwargs)  # type: ignore[misc]

    def _in_one_order(
        self, arrays: Any, batch_size: int | None, steps: int | None, shuffle: Any
    ) -> tf.data.Dataset:
        """Batches of arrays, as long as Keras makes them."""
        count = len(data.leaves_of(arrays)[0])
        if batch_size is None:
            batch_size = 32 if steps is None else -(-count // steps)
        seed = tf.random.uniform([], maxval=2**31 - 1, dtype="int32").numpy()
        (seed,) = from_chief(self.distribute_strategy, np.asarray(seed))
        return batches(arrays, batch_size, shuffle, int(seed))

    def _callbacks_here(self, callbacks: Any) -> list[Any]:
        """The callbacks of this worker, and one that takes over the chief's state."""
        given = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks) or [])
        if not is_chief(self.distribute_strategy):
            given = [callback for callback in given if type(callback) not in _WRITERS]
        # Behind the others, one of which may have restored the chief from a backup.
        last = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: self._take_state()
        )
        return [*given, last]

    def _take_state(self) -> None:
        """Takes over the chief's variables and its first epoch."""
        variables = [*self.variables, *getattr(self.optimizer, "variables", [])]
        epoch = self._take(variables, np.array(self._initial_epoch or 0))
        self._initial_epoch = int(epoch[0])

    def _take_averages(self) -> None:
        """Takes over the chief's moving averages: each worker's are of its own rows.

        Of the replicas of a `MirroredStrategy` too, the first one's count.
        """
        if has_workers(self.distribute_strategy):
            self._take([v for v in self.non_trainable_variables if "float" in v.dtype])

    def _take(self, variables: list[Any], *others: Any) -> list[Any]:
        """Gives variables the chief's values, and returns its other arrays."""
        mine = [variable.numpy() for variable in variables]
        taken = from_chief(self.distribute_strategy, *mine, *others)
        for variable, value in zip(variables, taken, strict=False):
            variable.assign(value)
        return taken[len(mine) :]

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        """Builds on the batch of one replica, where Keras takes the mean of all.

        Private to Keras, which has no other place for it. Noticed by
        `test_keras_still_needs_the_mends`.
        """
        if iterator is not None and has_workers(self._distribute_strategy):
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
        """Makes what runs a step, as Keras does but for its reduction."""
        if not has_workers(self.distribute_strategy):
            return super()._make_function(step_function)  # type: ignore[misc]
        return _with_reduction(keras.Model._make_function)(self, step_function)

    def make_predict_function(self, force: bool = False) -> Any:
        """Makes what runs a batch of `predict`, as Keras does but for its reduction."""
        if not has_workers(self.distribute_strategy):
            return super().make_predict_function(force)  # type: ignore[misc]
        return _with_reduction(keras.Model.make_predict_function)(self, force)

    def _compute_loss(self, x: Any = None, *args: Any, **kwargs: Any) -> tf.Tensor:
        """Keras' loss, with the gradient of a mean over the rows of all workers.

        Keras takes the mean of the workers' means, where a worker with few rows of a
        short batch counts as much as one with many. Private to Keras: the public
        `compute_loss` is what models override. Noticed by
        `test_workers_take_the_steps_of_one_process`.
        """
        loss = super()._compute_loss(x, *args, **kwargs)  # type: ignore[misc]
        return of_all_rows(loss, x)


def of_all_rows(loss: tf.Tensor, x: Any) -> tf.Tensor:
    """A worker's loss, with the gradient of a mean over the rows of all workers.

    Args:
        loss: The mean over this worker's rows.
        x: Its inputs.

    Returns:
        The loss; without several workers as it is.

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
    """A loss as it is, and its gradient multiplied."""
    return tf.identity(loss), lambda upstream: (upstream * scale, None)


def _with_reduction(function: Any) -> Callable[..., Any]:
    """A copy of a function of Keras' trainer that reduces over workers as it should.

    What it calls for that, `reduce_per_replica`, is a global name of Keras' module,
    which nobody can override. The copy has another function under this name, and Keras
    stays as it is. Noticed by `test_keras_still_needs_the_mends`.
    """
    names = {**function.__globals__, "reduce_per_replica": _reduce_per_replica}
    rest = (function.__name__, function.__defaults__, function.__closure__)
    return types.FunctionType(function.__code__, names, *rest)


def _reduce_per_replica(values: Any, strategy: Any, reduction: str) -> Any:
    """The means of numbers over all replicas, or rows one behind the other."""
    flat = keras.tree.flatten(values)
    replica = tf.distribute.get_replica_context

    def gather(*parts: Any) -> list[Any]:
        return [replica().all_gather(part, axis=0) for part in parts]

    def mean(*parts: Any) -> list[Any]:
        # In one vector, since each call takes some ms, whatever it carries.
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
