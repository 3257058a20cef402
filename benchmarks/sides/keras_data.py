"""The fastest input pipeline for Keras 2 and 3: draw row numbers, then gather rows.

`fit` gathers rows of arrays the same way, but with a call from Python for each batch.
The module also sets how many steps Keras runs in a call.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.cases import HELD_OUT

STEPS_PER_EXECUTION = 32


def batches(x: np.ndarray, batch: int, shuffle: bool, pairs: bool) -> Any:
    """A pipeline over the rows of an array.

    Args:
        x: Images.
        batch: Size of a batch; the last may be smaller.
        shuffle: Whether to shuffle again in each epoch.
        pairs: Whether a batch is `(x, x)`, where x is its own target.

    Returns:
        A `tf.data.Dataset`.
    """
    images = tf.constant(x)

    def gathered(rows: tf.Tensor) -> Any:
        found = tf.gather(images, rows)
        return (found, found) if pairs else found

    rows = tf.data.Dataset.range(len(x))
    rows = rows.shuffle(len(x)) if shuffle else rows
    found = rows.batch(batch).map(gathered, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.autotune.enabled = False  # The thread that tunes delays an epoch's end.
    return found.with_options(options)


def fit(model: Any, *arrays: np.ndarray, epochs: int, batch: int) -> float:
    """Keras' `fit` on arrays, which evaluates the last tenth after each epoch.

    Args:
        model: The compiled model.
        *arrays: x, or x and its target.
        epochs: Number of epochs.
        batch: Size of a batch.

    Returns:
        The last validation loss.
    """
    history = model.fit(
        *arrays, epochs=epochs, batch_size=batch, validation_split=HELD_OUT, verbose=0
    ).history
    return float(history["val_loss"][-1])
