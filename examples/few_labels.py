"""Classes from few labels, by nearest neighbours among latents (M1)."""

import dataclasses

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

REPEATS = 20
NEIGHBOURS = (1, 3, 5, 10, 15)


@dataclasses.dataclass(frozen=True)
class Codes:
    """Latents with their classes.

    Args:
        latents: Array of shape `(n, d)`.
        classes: Array of shape `(n,)`.
    """

    latents: np.ndarray
    classes: np.ndarray


def accuracy(
    train: Codes, valid: Codes, test: Codes, labels: int, metric: str, seed: int
) -> float:
    """Classifies by the classes of the nearest of a few labelled latents.

    Args:
        train: Those of which some are labelled, as many of each class.
        valid: Those with which the number of neighbours is chosen.
        test: Those to be classified.
        labels: How many are labelled.
        metric: The distance, as in `KNeighborsClassifier`.
        seed: Seed of the choices of the labelled ones.

    Returns:
        The accuracy in percent, the mean over `REPEATS` choices of the labelled ones,
        with the one of `NEIGHBOURS` that is best on `valid` for all of them together.
    """
    rng = np.random.default_rng(seed)
    rows = [balanced(train.classes, labels, rng) for _ in range(REPEATS)]

    def mean(count: int, codes: Codes) -> float:
        scores = []
        for chosen in rows:
            classifier = KNeighborsClassifier(count, metric=metric)
            classifier.fit(train.latents[chosen], train.classes[chosen])
            scores.append(classifier.score(codes.latents, codes.classes))
        return float(np.mean(scores))

    best = max(NEIGHBOURS, key=lambda count: mean(count, valid))
    return 100 * mean(best, test)


def balanced(classes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of `count` examples, the same number of each class."""
    kinds = np.unique(classes)
    of_each = count // len(kinds)
    rows = [np.flatnonzero(classes == kind) for kind in kinds]
    return np.concatenate([rng.choice(row, of_each, replace=False) for row in rows])
