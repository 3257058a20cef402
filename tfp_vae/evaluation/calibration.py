"""Calibration: whether events happen as often as predicted."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.checks import integer, optional_seed, probability
from tfp_vae.entries import (
    cdf_has_jumps,
    cdf_of_entries,
    class_probs,
    probability_below_entries,
)
from tfp_vae.evaluation.checks import checked_prediction
from tfp_vae.kl.closed_forms import family_name
from tfp_vae.scores.intervals import central_interval, is_inside

tfd: Any = tfp.distributions

_CLASSES = tfd.Categorical | tfd.OneHotCategorical | tfd.Bernoulli


def coverage(p: Any, y: Any, level: float = 0.9) -> float:
    r"""How often the central interval contains the target:

    .. math::

        \text{mean of } \mathbf{1}\{l \le y \le u\}, \quad
        l, u = F^{-1}\left(\frac{1 \mp \mathrm{level}}{2}\right)

    over all examples and entries of the event. A calibrated prediction has a coverage
    of `level`; of counts it is at least that.

    Args:
        p: A distribution for each example, such as `model(x)`.
        y: The targets, of shape `batch_shape + event_shape`; (n,) and (n, 1) are the
            same.
        level: The probability of the intervals.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: If `p` is not a distribution whose entries have a known distribution
            function, the shape of `y` does not fit, or `level` is not between 0 and 1.

    Example:
        >>> coverage(tfd.Normal(tf.zeros(4), 1.0), [-1.0, 0.0, 0.5, 1.0], level=0.5)
        0.5
    """
    level = probability(level, "level", "coverage")
    p, values = checked_prediction(p, y, "coverage")
    inside = is_inside(*central_interval(p, level), values)
    return float(np.mean(np.asarray(inside, "float64")))


def pit(p: Any, y: Any, seed: int | None = None) -> np.ndarray:
    r"""Probability integral transforms of the targets:

    .. math::

        u = \begin{cases}
        F(y) & \text{where } F \text{ is continuous} \\
        F(y^-) + v \, P(y) & \text{where } F \text{ has jumps}
        \end{cases}

    with v uniform on (0, 1), and F(y-) the probability of values below y. The u are
    uniform on (0, 1) if the prediction is calibrated. A U-shaped histogram says that it
    is too narrow, a hill that it is too wide.

    Reference:
        Gneiting, Balabdaoui and Raftery, Probabilistic forecasts, calibration and
        sharpness, 2007. https://doi.org/10.1111/j.1467-9868.2007.00587.x

        Czado, Gneiting and Held, Predictive model assessment for count data, 2009.
        https://doi.org/10.1111/j.1541-0420.2009.01191.x

    Args:
        p: As in `coverage`.
        y: As in `coverage`.
        seed: Integer for v; `None` for other numbers at each call.

    Returns:
        An array of shape `batch_shape + event_shape`.

    Raises:
        ValueError: As in `coverage`, or if `seed` is no seed.

    Example:
        >>> pit(tfd.Normal([0.0, 1.0], 1.0), [0.0, 1.0])
        array([0.5, 0.5], dtype=float32)
    """
    p, values = checked_prediction(p, y, "pit")
    seed = optional_seed(seed, "pit")
    above = np.asarray(cdf_of_entries(p, values))
    if not cdf_has_jumps(p):
        return above
    below = np.asarray(probability_below_entries(p, values))
    rng = np.random.default_rng(seed)
    uniform = np.asarray(rng.uniform(size=above.shape), above.dtype)
    return below + uniform * (above - below)


class Reliability(NamedTuple):
    """How often events happened, for each predicted probability.

    Attributes:
        predicted: Mean predicted probabilities, in increasing order.
        observed: Frequencies with which the events happened.
        counts: Numbers of predictions behind each.

    Example:
        >>> r = Reliability(np.array([0.5]), np.array([0.4]), np.array([10]))
        >>> abs(r.predicted - r.observed)
        array([0.1])
    """

    predicted: np.ndarray
    observed: np.ndarray
    counts: np.ndarray


def reliability(p: Any, y: Any, bins: int = 10, seed: int | None = None) -> Reliability:
    r"""Predicted probabilities and frequencies, the points of a reliability diagram.

    For classes, from `Categorical`, `OneHotCategorical` or `Bernoulli`: how often the
    most probable class is right, against its mean probability, in each of `bins` bins
    of equal width; empty bins are left out. For numbers: how often y is below the
    quantile of level t,

    .. math::

        \mathrm{predicted} &= t, \quad
        t = \frac{1}{\mathrm{bins}}, \ldots, 1 - \frac{1}{\mathrm{bins}} \\
        \mathrm{observed} &= \text{mean of } \mathbf{1}\{F(y) \le t\}

    with the randomised F of `pit` where there are jumps.

    Reference:
        Guo et al., On calibration of modern neural networks, 2017.
        https://arxiv.org/abs/1706.04599

        Kuleshov, Fenner and Ermon, Accurate uncertainties for deep learning using
        calibrated regression, 2018. https://arxiv.org/abs/1807.00263

    Args:
        p: A distribution for each example, such as `model(x)`.
        y: The targets, of shape `batch_shape + event_shape`.
        bins: Number of bins or of steps between levels, at least 2.
        seed: As in `pit`, for counts.

    Returns:
        Predicted and observed probabilities, and numbers of predictions.

    Raises:
        ValueError: As in `pit`, if `bins` is no integer of at least 2, or a predicted
            probability is NaN.

    Example:
        >>> p = tfd.Categorical(probs=[[0.75, 0.25], [0.5, 0.5]])
        >>> reliability(p, [0, 1], bins=5)
        Reliability(predicted=array([0.5 , 0.75]), observed=array([0., 1.]),
        counts=array([1, 1]))
    """
    bins = integer(bins, "bins", "reliability", minimum=2)
    p, values = checked_prediction(p, y, "reliability")
    if _classes(p) is None:
        u = np.sort(np.ravel(pit(p, values, seed)))
        _check_known(u, p)
        levels = np.arange(1, bins) / bins
        observed = np.searchsorted(u, levels, side="right") / len(u)
        return Reliability(levels, observed, np.full(len(levels), len(u)))
    confidence, right = _confidence(p, values)
    _check_known(confidence, p)
    # Bins (0, 1/bins], ..., as in the reference.
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    full = count > 0
    predicted, observed = (
        np.bincount(index, weights=each, minlength=bins)[full] / count[full]
        for each in (confidence, right)
    )
    return Reliability(predicted, observed, count[full])


def expected_calibration_error(
    p: Any, y: Any, bins: int | None = None, seed: int | None = None
) -> float:
    r"""The mean distance of predicted probabilities and frequencies:

    .. math::

        \sum_b \frac{n_b}{n} \, |\mathrm{observed}_b - \mathrm{predicted}_b|, \quad
        n = \sum_b n_b

    over the points of `reliability`, with `counts` n_b: bins of confidence for classes,
    levels of quantiles for numbers. It is 0 for a calibrated prediction, up to noise of
    order n^-1/2.

    Reference:
        As in `reliability`; Naeini, Cooper and Hauskrecht, Obtaining well calibrated
        probabilities using Bayesian binning, 2015.

    Args:
        p: As in `reliability`.
        y: As in `reliability`.
        bins: As in `reliability`; by default 15 for classes and 100 for numbers.
        seed: As in `reliability`.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: As in `reliability`.

    Example:
        >>> p = tfd.Categorical(probs=[[0.9, 0.1], [0.7, 0.3]])
        >>> round(expected_calibration_error(p, [0, 1]), 4)
        0.4
    """
    if bins is None:
        p = checked_prediction(p, y, "expected_calibration_error")[0]
        bins = 100 if _classes(p) is None else 15
    found = reliability(p, y, bins, seed)
    gaps = abs(found.observed - found.predicted)
    return float(np.average(gaps, weights=found.counts))


def _check_known(probabilities: np.ndarray, p: Any) -> None:
    unknown = int(np.count_nonzero(np.isnan(probabilities)))
    if unknown:
        raise ValueError(
            "`reliability` expects predictions without NaN. Received: "
            f"{family_name(p)}, of which {unknown} of {probabilities.size} "
            "probabilities are NaN. Look for NaN in the model's weights and inputs."
        )


def is_of_classes(p: Any) -> bool:
    """Whether a prediction is one of classes, not of numbers.

    Args:
        p: A plain distribution.

    Returns:
        True for categorical and Bernoulli distributions.

    Example:
        >>> is_of_classes(tfd.Independent(tfd.Bernoulli([[0.5]]), 1))
        True
    """
    return _classes(p) is not None


def _classes(p: Any) -> Any:
    """The distribution of classes inside; `None` if there is none."""
    if isinstance(p, meta.Independent | meta.Sample):
        return _classes(p.distribution)
    if isinstance(p, meta.MixtureSameFamily):
        return _classes(p.components_distribution)
    if isinstance(p, meta.Mixture):
        return _classes(p.components[0])
    return p if isinstance(p, _CLASSES) else None


def _confidence(p: Any, values: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The probability of the most probable class, and whether it was right."""
    try:
        probs = np.asarray(class_probs(p), "float64")
    except NotImplementedError:
        raise ValueError(
            "`reliability` expects classes from `Categorical`, `OneHotCategorical` or "
            f"`Bernoulli`, independent or mixtures. Received: {family_name(p)}. Give "
            "one of them."
        ) from None
    found = _labels(_classes(p), np.asarray(values), probs.shape[-1])
    right = np.argmax(probs, axis=-1) == found
    return np.ravel(np.max(probs, axis=-1)), np.ravel(right).astype("float64")


def _labels(classes: Any, values: np.ndarray, number: int) -> np.ndarray:
    """The classes of targets, as integers."""
    if isinstance(classes, tfd.OneHotCategorical):
        found = np.argmax(values, axis=-1)
        known = np.all(values == np.eye(number)[found])
        expected = f"one-hot rows of {number} classes"
    else:
        found = np.nan_to_num(values).astype(int)
        known = np.all((values == found) & (found >= 0) & (found < number))
        expected = f"integers from 0 to {number - 1}"
    if not known:
        raise ValueError(
            f"`reliability` expects targets that are classes, {expected}. Received: "
            f"values from {np.min(values)} to {np.max(values)}. Give the labels; leave "
            "out rows without one."
        )
    return found
