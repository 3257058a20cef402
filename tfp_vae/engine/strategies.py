"""Strategies of `tf.distribute` that train in several processes, called workers."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def has_workers(strategy: Any) -> bool:
    """Whether a strategy trains in several processes.

    Args:
        strategy: A `tf.distribute.Strategy`, or `None`.

    Returns:
        True for a `MultiWorkerMirroredStrategy` of more than one worker.

    Example:
        >>> has_workers(tf.distribute.get_strategy())
        False
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    return strategy.num_replicas_in_sync > len(strategy.extended.worker_devices)


def is_chief(strategy: Any) -> bool:
    """Whether this process is the one that writes files.

    Args:
        strategy: A `tf.distribute.Strategy`.

    Returns:
        False on all workers but one: the task `chief`, or worker 0 if there is none.

    Example:
        >>> is_chief(tf.distribute.get_strategy())
        True
    """
    if not has_workers(strategy):
        return True
    resolver = strategy.cluster_resolver
    named = "chief" in resolver.cluster_spec().jobs
    return (resolver.task_type, resolver.task_id) == ("chief" if named else "worker", 0)


def from_chief(strategy: Any, *arrays: Any) -> list[Any]:
    """Sends the chief's arrays to every worker; all workers must call it.

    Args:
        strategy: A `tf.distribute.Strategy`.
        *arrays: NumPy arrays, of the same shapes and dtypes on all workers.

    Returns:
        A list of the chief's arrays, bit for bit.

    Example:
        >>> from_chief(tf.distribute.get_strategy(), np.arange(3))
        [array([0, 1, 2])]
    """
    if not (has_workers(strategy) and arrays):
        return list(arrays)
    sizes = [array.nbytes for array in arrays]
    sent = b"".join(array.tobytes() for array in arrays)
    words = np.frombuffer(sent + bytes(-len(sent) % 8), np.int64)
    # One sum with zeros for all arrays: a call costs some ms, whatever its size.
    words = words if is_chief(strategy) else np.zeros_like(words)
    got = strategy.reduce("SUM", tf.constant(words), axis=None).numpy().tobytes()
    ends = np.cumsum(sizes)
    return [
        np.frombuffer(got[end - size : end], array.dtype).reshape(array.shape)
        for end, size, array in zip(ends, sizes, arrays, strict=True)
    ]


def check_strategy(model: Any) -> None:
    """Checks that Keras can train a model under its strategy.

    Args:
        model: A compiled Keras model.

    Raises:
        ValueError: If a `keras.distribution` is set, which its TensorFlow backend
            ignores; if the strategy is a `ParameterServerStrategy`; if the optimizer
            was made outside the strategy's scope; or, on several workers, with several
            steps per execution, or with XLA on a CPU.

    Example:
        >>> model = keras.Sequential([keras.layers.Dense(1)])
        >>> model.compile("adam", loss="mse")
        >>> check_strategy(model)
    """
    strategy = model.distribute_strategy
    distribution = keras.distribution.distribution()
    if distribution is not None:
        raise ValueError(
            "Training with TensorFlow expects a strategy of `tf.distribute`. Received: "
            f"`keras.distribution.{type(distribution).__name__}`, with which Keras' "
            "TensorFlow backend would use one device. Call "
            "`keras.distribution.set_distribution(None)`, and make and compile the "
            "model in the scope of a `tf.distribute.MirroredStrategy()`."
        )
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError(
            "Training expects a strategy whose replicas step together. Received: a "
            "`ParameterServerStrategy`, with which Keras 3 does not train. Use "
            "`tf.distribute.MultiWorkerMirroredStrategy()`."
        )
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and strategy.num_replicas_in_sync > 1:
        # With gradient accumulation `iterations` is no variable.
        iterations = optimizer.variables[0].value
        if not isinstance(iterations, tf.distribute.DistributedValues):
            raise ValueError(
                "Training expects an optimizer made in the scope of the model's "
                f"strategy. Received: `{type(optimizer).__name__}` made outside of it. "
                "Make the optimizer, and call `compile`, inside "
                "`with strategy.scope():`."
            )
    if not has_workers(strategy):
        return
    if model.steps_per_execution > 1:
        raise ValueError(
            "Training on several workers expects one step per execution. Received: "
            f"steps_per_execution={model.steps_per_execution}. Leave it out of "
            "`compile`."
        )
    if model.jit_compile and "GPU" not in strategy.extended.worker_devices[0]:
        raise ValueError(
            "Training on several workers expects steps without XLA, which on a CPU "
            "cannot compile the communication of workers. Received: "
            "jit_compile=True. Leave it out of `compile`."
        )
