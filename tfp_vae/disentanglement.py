"""Scores of how well single codes represent labelled factors: MIG, DCI and SAP.

Codes are an array of shape `(n, d)`, such as posterior means; factors are labels of
shape `(n, f)`. The scores need scikit-learn.
"""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow_probability as tfp

from tfp_vae.checks import integer

tfd = tfp.distributions

_HELD_OUT = 0.25
# With so many examples of a value, both parts of the split have some.
_FEWEST = 4
# Smallest leaves, a fraction of the examples: full trees find importance in noise.
_LEAF = 0.005


def mutual_information_gap(codes: Any, factors: Any, num_bins: int = 20) -> float:
    r"""MIG: the gap in information between the two best codes of a factor.

    .. math:: \mathrm{MIG} = \frac{1}{f} \sum_k \frac{I(c_1; v_k) - I(c_2; v_k)}{H(v_k)}

    where c_1 and c_2 are the two coordinates, cut into bins of equal width, with the
    most information about the factor v_k. It is 0 if a factor is in no coordinate, or
    equally in two. It is 1 if one coordinate has each value of the factor in bins of
    its own and the others have no estimated information about it. From n examples even
    independent bins have some, about (num_bins - 1) (values - 1) / (2 n) nats, which
    lowers the gap by that over H. More values of the factor than bins lower it further.

    Reference:
        Chen et al., Isolating sources of disentanglement in VAEs, 2018.
        https://arxiv.org/abs/1802.04942

    Args:
        codes: Numbers of shape `(n, d)`, such as posterior means, d at least 2.
        factors: Labels of shape `(n, f)`: integers, strings, or floats without a
            fraction.
        num_bins: Bins between the smallest and the largest value of a coordinate.

    Returns:
        A number between 0 and 1.

    Raises:
        ValueError: If codes or factors are not such arrays, of equal length, a factor
            has only one value, or `num_bins` is below 2.
        ImportError: If scikit-learn is not installed.

    Example:
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 10)
        >>> round(mutual_information_gap(10.0 * factors, factors), 4)
        1.0
    """
    num_bins = integer(num_bins, "num_bins", "mutual_information_gap", minimum=2)
    codes, columns = _codes_and_factors(codes, factors, "mutual_information_gap")
    information = _scikit_learn("mutual_information_gap").metrics.mutual_info_score
    bins = _bins(codes, num_bins)

    def share(code: np.ndarray, labels: np.ndarray) -> float:
        return information(code, labels) / information(labels, labels)

    return _mean_gap(bins, columns, share)


class DCI(NamedTuple):
    """The three scores of `dci`, each at most 1.

    Attributes:
        disentanglement: Whether a code coordinate depends on one factor only.
        completeness: Whether a factor is in one code coordinate only.
        informativeness: Held-out accuracy of the factors predicted from the codes.

    Example:
        >>> DCI(1.0, 0.8, 0.9).completeness
        0.8
    """

    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: Any, factors: Any, num_trees: int = 100, seed: int | None = None) -> DCI:
    r"""Disentanglement, completeness and informativeness, by random forests.

    For each factor k a forest is trained to predict it from all d codes, on three
    quarters of the examples. The importance R_ik of code i is the fraction of the
    impurity that its splits remove. With entropies H divided by their largest value,

    .. math::

        D &= \sum_i w_i \left(1 - H\left(\frac{R_{i:}}{\sum_k R_{ik}}\right)\right),
        \quad w_i = \frac{1}{f} \sum_k R_{ik} \\
        C &= \frac{1}{f} \sum_k (1 - H(R_{:k}))

    and informativeness is the accuracy on the fourth quarter, averaged over factors.
    Trees consider all codes at each split. Leaves hold at least one example in 200, so
    that rarer values have no leaf of their own. All three scores are 1 if each factor
    is copied into a coordinate. If codes are independent of the factors, D and C are
    near 0, and informativeness is chance, the frequency of the commonest value. Scores
    of different classifiers cannot be compared.

    Reference:
        Eastwood and Williams, A framework for the quantitative evaluation of
        disentangled representations, 2018.
        https://openreview.net/forum?id=By-7dz-AZ

    Args:
        codes: Numbers of shape `(n, d)`, d at least 2.
        factors: Labels of shape `(n, f)`, f at least 2, each value of a factor at least
            4 times.
        num_trees: Number of trees in a forest.
        seed: Integer for split and forests, or `None` for one derived from
            `keras.utils.set_random_seed`.

    Returns:
        The three scores.

    Raises:
        ValueError: If codes or factors are not such arrays, of equal length, a factor
            has only one value or a rare one, or `num_trees` is not a positive integer.
        ImportError: If scikit-learn is not installed.

    Example:
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 10)
        >>> dci(10.0 * factors, factors, num_trees=5, seed=1)
        DCI(disentanglement=1.0, completeness=1.0, informativeness=1.0)
    """
    num_trees = integer(num_trees, "num_trees", "dci")
    codes, columns = _codes_and_factors(codes, factors, "dci", fewest=_FEWEST)
    if len(columns) < 2:
        raise ValueError(
            "`dci` expects two factors or more, of shape (n, f). Received: one. Use "
            "`mutual_information_gap` or `sap` for it."
        )
    sklearn = _scikit_learn("dci")
    seed = random.randrange(2**31) if seed is None else seed
    importances, accuracies = [], []
    for labels in columns:
        train, test, train_labels, test_labels = _held_out(codes, labels, seed, sklearn)
        forest = sklearn.ensemble.RandomForestClassifier(
            num_trees, max_features=None, min_samples_leaf=_LEAF, random_state=seed
        ).fit(train, train_labels)
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(test, test_labels))
    by_code = np.stack(importances, axis=1)
    weights = by_code.sum(axis=1) / max(by_code.sum(), np.finfo(float).tiny)
    return DCI(
        float(weights @ _concentration(by_code)),
        float(np.mean(_concentration(by_code.T))),
        float(np.mean(accuracies)),
    )


def sap(codes: Any, factors: Any, seed: int | None = None) -> float:
    r"""SAP: separated attribute predictability, a gap between single-code classifiers.

    .. math:: \mathrm{SAP} = \frac{1}{f} \sum_k (S_{1k} - S_{2k})

    where S_1k and S_2k are the largest and the second largest, over the coordinates
    c_i, of the balanced accuracy (the mean over the values of the factor) of predicting
    v_k from c_i alone. The classifier is a decision tree with as many leaves as the
    factor has values, so one threshold less, trained on three quarters of the examples
    and scored on the others.

    A coordinate without information still scores 1 / values. So SAP is at most
    1 - 1 / values, averaged over factors: 0.5 for binary ones. It is 0 if a factor is
    in no coordinate, or equally in two.

    Reference:
        Kumar, Sattigeri and Balakrishnan, Variational inference of disentangled latent
        concepts from unlabeled observations, 2018. https://arxiv.org/abs/1711.00848

    Args:
        codes: Numbers of shape `(n, d)`, d at least 2.
        factors: Labels of shape `(n, f)`, each value of a factor at least 4 times.
        seed: Integer for the split, or `None` for one derived from
            `keras.utils.set_random_seed`.

    Returns:
        A number between 0 and 1.

    Raises:
        ValueError: If codes or factors are not such arrays, of equal length, or a
            factor has only one value or a rare one.
        ImportError: If scikit-learn is not installed.

    Example:
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 20)
        >>> 0.3 < sap(10.0 * factors, factors, seed=1) <= 0.5
        True
    """
    codes, columns = _codes_and_factors(codes, factors, "sap", fewest=_FEWEST)
    sklearn = _scikit_learn("sap")
    # One seed for all coordinates, so that copies of a coordinate score equally.
    seed = random.randrange(2**31) if seed is None else seed

    def accuracy(code: np.ndarray, labels: np.ndarray) -> float:
        train, test, train_labels, test_labels = _held_out(
            code[:, np.newaxis], labels, seed, sklearn
        )
        tree = sklearn.tree.DecisionTreeClassifier(
            max_leaf_nodes=labels.max() + 1, class_weight="balanced", random_state=seed
        ).fit(train, train_labels)
        return sklearn.metrics.balanced_accuracy_score(test_labels, tree.predict(test))

    return _mean_gap(codes, columns, accuracy)


def _scikit_learn(caller: str) -> Any:
    # Imported here, since only these scores need it.
    try:
        import sklearn.ensemble
        import sklearn.metrics
        import sklearn.model_selection
        import sklearn.tree
    except ImportError as error:
        raise ImportError(
            f"`{caller}` expects scikit-learn. Received: {error}. Install it: "
            '`pip install "tfp-vae[examples]"`.'
        ) from error
    return sklearn


def _codes_and_factors(
    codes: Any, factors: Any, caller: str, fewest: int = 1
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Finite codes `(n, d)`, and the values of each factor as integers from 0."""
    codes, factors = np.asarray(codes), np.asarray(factors)
    numeric = codes.dtype.kind in "biuf"
    not_finite = numeric and not np.isfinite(codes).all()
    if codes.ndim != 2 or codes.shape[1] < 2 or not numeric or not_finite:
        raise ValueError(
            f"`{caller}` expects codes of shape (n, d), finite numbers in two "
            f"coordinates or more. Received: codes of shape {codes.shape} and dtype "
            f"{codes.dtype}{', with NaN or infinity' if not_finite else ''}. Give the "
            "posterior means of n examples, `np.asarray(q.mean())`."
        )
    if factors.ndim != 2 or len(factors) != len(codes) or not factors.size:
        raise ValueError(
            f"`{caller}` expects factors of shape ({len(codes)}, f), a row for each "
            f"row of the codes. Received: factors of shape {factors.shape}. Stack the "
            "labels: `np.stack([shape, colour], axis=1)`."
        )
    columns = [_labels(column, k, caller) for k, column in enumerate(factors.T)]
    for k, labels in enumerate(columns):
        rarest = np.bincount(labels).min()
        if rarest < fewest:
            raise ValueError(
                f"`{caller}` expects each value of a factor at least {fewest} times, "
                "for training and for scoring. Received: factor "
                f"{k} with a value that occurs {rarest} times. Give more examples, or "
                "leave out those of rare values."
            )
    return codes.astype("float64"), columns


def _labels(column: np.ndarray, k: int, caller: str) -> np.ndarray:
    if column.dtype.kind == "O":
        column = np.array(column.tolist())
    kind = column.dtype.kind
    whole = kind != "f" or (np.isfinite(column).all() and not np.any(column % 1))
    if kind not in "biufSU" or not whole:
        raise ValueError(
            f"`{caller}` expects factors of discrete values: integers, strings, or "
            f"floats without a fraction. Received: factor {k} of dtype {column.dtype}"
            f"{'' if whole else ', with fractions, NaN or infinity'}. Number its "
            "values with `np.unique(v, return_inverse=True)[1]`, or cut it into bins "
            "with `np.digitize`."
        )
    values, labels = np.unique(column, return_inverse=True)
    if len(values) < 2:
        raise ValueError(
            f"`{caller}` expects factors that vary. Received: factor {k}, which is "
            f"{values[0]!r} throughout. Leave it out."
        )
    return labels


def _bins(codes: np.ndarray, num_bins: int) -> np.ndarray:
    """Bin numbers, for bins of equal width over the range of each coordinate."""
    low, width = codes.min(axis=0), np.ptp(codes, axis=0)
    unit = (codes - low) / np.where(width > 0, width, 1.0)
    return np.minimum((unit * num_bins).astype("int64"), num_bins - 1)


def _mean_gap(
    codes: np.ndarray,
    columns: list[np.ndarray],
    score: Callable[[np.ndarray, np.ndarray], float],
) -> float:
    """Best minus second-best score of a coordinate, averaged over factors."""
    scores = [[score(code, labels) for code in codes.T] for labels in columns]
    ordered = np.sort(scores, axis=1)
    return float(np.mean(ordered[:, -1] - ordered[:, -2]))


def _held_out(codes: np.ndarray, labels: np.ndarray, seed: int, sklearn: Any) -> Any:
    """Codes to train on, codes to score on, and the labels of both."""
    return sklearn.model_selection.train_test_split(
        codes, labels, test_size=_HELD_OUT, stratify=labels, random_state=seed
    )


def _concentration(importances: np.ndarray) -> np.ndarray:
    """1 minus the entropy of each row over its largest value; 0 for a row of zeros."""
    total = importances.sum(axis=1, keepdims=True)
    size = importances.shape[1]
    shares = np.where(total > 0, importances / np.where(total > 0, total, 1), 1 / size)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return 1 + np.sum(shares * logs, axis=1) / np.log(size)
