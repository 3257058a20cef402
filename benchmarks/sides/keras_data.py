"""How Keras, of either version, is fed fastest: rows are drawn, then gathered.

Arrays given to `fit` are gathered the same way, but one batch at each call from Python.
Beside it stands how many steps Keras runs in a call.
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
        shuffle: Whether each epoch has an order of its own.
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
    return rows.batch(batch).map(gathered).prefetch(tf.data.AUTOTUNE)


def fit(model: Any, *arrays: np.ndarray, epochs: int, batch: int) -> float:
    """Keras' `fit` on arrays, which evaluates the last tenth after each epoch.

    Args:
        model: The compiled model.
        *arrays: x, or x and its target.
        epochs: How many.
        batch: Size of a batch.

    Returns:
        The last validation loss.
    """
    history = model.fit(
        *arrays, epochs=epochs, batch_size=batch, validation_split=HELD_OUT, verbose=0
    ).history
    return float(history["val_loss"][-1])
