"""Batches in the same order on all workers, each of which takes some of the rows."""

import math
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_vae.engine import data
from tfp_vae.engine.strategies import from_chief

_Policy = tf.data.experimental.AutoShardPolicy


def dataset_of(
    arrays: Any, batch_size: int, shuffle: Any, seed: int
) -> tf.data.Dataset:
    """Batches of arrays, reshuffled every pass in an order that only `seed` determines.

    Keras shuffles arrays by TensorFlow's seed, which differs between processes.

    Args:
        arrays: x, y and weights: structures of arrays, and `None`.
        batch_size: Global batch size, over all workers.
        shuffle: True, False, or `"batch"` to shuffle only within each batch.
        seed: Integer.

    Returns:
        A dataset for Keras' `fit`, which TensorFlow shards by rows.

    Example:
        >>> found = dataset_of((np.arange(5), None, None), 2, shuffle=True, seed=0)
        >>> len(found), sorted(np.concatenate(list(found)).tolist())
        (3, [0, 1, 2, 3, 4])
    """
    packed = keras.tree.lists_to_tuples(keras.utils.pack_x_y_sample_weight(*arrays))
    given = tuple(data.as_tensor(leaf) for leaf in data.leaves_of(packed))
    count = len(given[0])
    rng = np.random.default_rng(seed)

    def rows() -> Iterator[np.ndarray]:
        order = rng.permutation(count) if shuffle is True else np.arange(count)
        for first in range(0, count, batch_size):
            batch = order[first : first + batch_size]
            yield rng.permutation(batch) if shuffle == "batch" else batch

    def gather(rows: tf.Tensor, given: Any) -> Any:
        found = iter([tf.gather(array, rows) for array in given])
        return keras.tree.map_structure(
            lambda leaf: leaf if leaf is None else next(found), packed
        )

    spec = tf.TensorSpec([None], tf.int64)
    numbers = tf.data.Dataset.from_generator(rows, output_signature=spec)
    # As in Keras: the arrays are an element of a dataset, not constants of a graph.
    pairs = tf.data.Dataset.zip(numbers, tf.data.Dataset.from_tensors(given).repeat())
    found = pairs.map(gather, num_parallel_calls=tf.data.AUTOTUNE)
    length = tf.data.experimental.assert_cardinality(math.ceil(count / batch_size))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = _Policy.DATA
    return found.apply(length).with_options(options).prefetch(tf.data.AUTOTUNE)


def warn_of_other_rows(strategy: Any, dataset: tf.data.Dataset) -> None:
    """Warns if the first batch of a pipeline differs from the chief's.

    Each worker takes its rows from the batches of its own pipeline.

    Args:
        strategy: A `tf.distribute.Strategy`.
        dataset: The dataset given to `fit`.

    Example:
        >>> pipeline = tf.data.Dataset.range(5).batch(2)
        >>> warn_of_other_rows(tf.distribute.get_strategy(), pipeline)
    """
    policy = dataset.options().experimental_distribute.auto_shard_policy
    if policy not in (_Policy.AUTO, _Policy.DATA):
        return
    parts = tf.nest.flatten(next(iter(dataset), ()), expand_composites=True)
    mine = np.array(zlib.crc32(b"".join(part.numpy().tobytes() for part in parts)))
    if from_chief(strategy, mine)[0] != mine:
        warnings.warn(
            "The pipeline's first batch on this worker differs from the chief's, so "
            "some rows may be used twice and others never. Give `shuffle` and all "
            "random operations a seed, or set `AutoShardPolicy.OFF` if each worker "
            "reads files of its own.",
            stacklevel=3,
        )
