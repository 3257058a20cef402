"""A classifier that labels the sprite sequences that a model generates."""

from typing import Any

import keras
import numpy as np
from scipy import stats

import networks
import reproduction
import sprites

BATCH, FILTERS, UNITS, NOISE = 16, 16, 64, 0.1
NAME = "judge"  # of the training


def trained(
    report: reproduction.Report, data: sprites.Sprites, epochs: int, seed: int
) -> keras.Model:
    """Trains on the labels of the training sequences.

    Args:
        report: The report of the run.
        data: The sprites.
        epochs: Number of epochs.
        seed: Seed of the order of the sequences.

    Returns:
        A model from sequences to the probabilities of each label, by its name.
    """
    x = keras.Input(data.shape)
    h = networks.of_frames(keras.layers.GaussianNoise(NOISE)(x), FILTERS, UNITS)
    h = keras.layers.Flatten()(h)
    heads = {
        name: keras.layers.Dense(count, activation="softmax", name=name)(h)
        for name, count in data.classes.items()
    }
    judge = keras.Model(x, heads)
    judge.compile("adam", dict.fromkeys(heads, "sparse_categorical_crossentropy"))
    train = data.batches(data.train, BATCH, seed).map(
        lambda x, labels: (x, {name: labels[:, i] for i, name in enumerate(heads)}),
        num_parallel_calls=2,
    )
    report.fit(NAME, judge, train, epochs=epochs, shuffle=False, verbose=2)
    return judge


def agreement(seen: dict[str, np.ndarray], labels: np.ndarray) -> tuple[float, float]:
    """Percent of the attributes, and of the actions, that the judge gets right.

    Args:
        seen: Output of the judge.
        labels: Labels of the same sequences, shape `(n, 5)`.

    Returns:
        Both percentages.
    """
    names = (*sprites.ATTRIBUTES, "action")
    agrees = [
        seen[name].argmax(axis=-1) == labels[:, i] for i, name in enumerate(names)
    ]
    return 100 * float(np.mean(agrees[:-1])), 100 * float(np.mean(agrees[-1]))


def entropies(probs: Any) -> tuple[float, float]:
    """H(y | x) and H(y) in nats: entropy of each row on average, and of the mean row.

    Args:
        probs: Probabilities, shape `(n, classes)`.

    Returns:
        Two numbers. The inception score is the exponential of the second minus the
        first.
    """
    of_each = stats.entropy(probs, axis=-1).mean()
    return float(of_each), float(stats.entropy(np.mean(probs, axis=0)))
