"""Scores of predictions for given targets."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfp_vae.checks import integer, optional_seed, probability
from tfp_vae.evaluation.checks import checked_prediction
from tfp_vae.scores.crps import crps_of_entries
from tfp_vae.scores.energy_score import energy_score as energy_score_of
from tfp_vae.scores.intervals import central_interval, score_of_interval
from tfp_vae.seeds import Seeds


def crps(p: Any, y: Any, num_samples: int = 100, seed: int | None = None) -> float:
    r"""The mean continuous ranked probability score, in the units of y:

    .. math::

        \mathrm{CRPS}(F, y) &= \int (F(x) - \mathbf{1}\{y \le x\})^2 \, dx \\
        &= \mathrm{E}|X - y| - \tfrac{1}{2} \mathrm{E}|X - X'|

    with X and X' independent draws from F, over all examples and entries of the event;
    smaller is better. In closed form where `tv.CRPS` has one, otherwise from draws,
    without bias.

    Reference:
        Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation,
        2007. https://doi.org/10.1198/016214506000001437

    Args:
        p: A distribution for each example, such as `model(x)`.
        y: The targets, of shape `batch_shape + event_shape`; (n,) and (n, 1) are the
            same.
        num_samples: Number of draws where there is no closed form, at least 2.
        seed: Integer for the draws; `None` for one derived from
            `keras.utils.set_random_seed`.

    Returns:
        A number.

    Raises:
        ValueError: If `p` is not a distribution, the shape of `y` does not fit, it has
            a NaN, or an argument is wrong.

    Example:
        >>> round(crps(tfd.Normal(tf.zeros(2), 1.0), [0.0, 0.0]), 4)
        0.2337
    """
    p, values = checked_prediction(p, y, "crps")
    num_samples = integer(num_samples, "num_samples", "crps", minimum=2)
    seeds = Seeds(optional_seed(seed, "crps"))
    return _mean(crps_of_entries(p, values, num_samples, seeds.next))


def energy_score(
    p: Any, y: Any, num_samples: int = 100, seed: int | None = None
) -> float:
    r"""The mean energy score of whole events, from draws, without bias:

    .. math::

        \mathrm{ES}(P, y) = \mathrm{E}\|X - y\| - \tfrac{1}{2} \mathrm{E}\|X - X'\|

    with X and X' independent draws from P and the Euclidean norm over the event.

    Reference:
        Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation,
        2007. https://doi.org/10.1198/016214506000001437

    Args:
        p: As in `crps`.
        y: As in `crps`.
        num_samples: Number of draws, at least 2.
        seed: As in `crps`.

    Returns:
        A number, in the units of y.

    Raises:
        ValueError: As in `crps`.

    Example:
        >>> energy_score(tfd.VectorDeterministic([[3.0, 4.0]]), [[0.0, 0.0]])
        5.0
    """
    p, values = checked_prediction(p, y, "energy_score")
    num_samples = integer(num_samples, "num_samples", "energy_score", minimum=2)
    seed_of_draws = Seeds(optional_seed(seed, "energy_score")).next()
    return _mean(energy_score_of(p, values, num_samples, seed_of_draws))


def interval_score(p: Any, y: Any, level: float = 0.9) -> float:
    r"""The mean score of the central intervals, in the units of y:

    .. math::

        (u - l) + \frac{2}{a} \max(l - y, 0) + \frac{2}{a} \max(y - u, 0), \quad
        a = 1 - \mathrm{level}

    with l and u the quantiles at a/2 and 1 - a/2; smaller is better.

    Reference:
        Gneiting and Raftery, Strictly proper scoring rules, prediction, and estimation,
        2007. https://doi.org/10.1198/016214506000001437

    Args:
        p: As in `crps`, with entries whose distribution function is known.
        y: As in `crps`.
        level: The probability of the intervals.

    Returns:
        A number.

    Raises:
        ValueError: As in `crps`, if `level` is not between 0 and 1, or the entries have
            no known distribution function.

    Example:
        >>> interval_score(tfd.Uniform([0.0], 4.0), [0.0], level=0.5)
        6.0
    """
    level = probability(level, "level", "interval_score")
    p, values = checked_prediction(p, y, "interval_score")
    return _mean(score_of_interval(*central_interval(p, level), values, level))


def _mean(scores: tf.Tensor) -> float:
    return float(np.mean(np.asarray(scores, "float64")))
