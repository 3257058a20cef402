"""Split conformal prediction: intervals with coverage, whatever the model's errors."""

import math
from typing import Any

import numpy as np

from tfp_vae.checks import choice, probability
from tfp_vae.entries import quantile_of_entries
from tfp_vae.evaluation.checks import checked_distribution, checked_prediction
from tfp_vae.kl.closed_forms import family_name
from tfp_vae.scores.intervals import central_interval
from tfp_vae.summaries import summary


def conformal_intervals(
    p_calibration: Any,
    y_calibration: Any,
    p_test: Any,
    level: float = 0.9,
    method: str = "quantile",
) -> tuple[np.ndarray, np.ndarray]:
    r"""Intervals with a coverage of at least `level`, even if the model is wrong.

    If calibration and test examples are exchangeable, then for each entry

    .. math:: P(l \le y \le u) \ge \mathrm{level}

    on average over calibration sets and test examples. With the central interval
    (l(x), u(x)) of the prediction, `method="quantile"` is conformalized quantile
    regression, and `"scaled"` has residuals in units of the standard deviation s(x):

    .. math::

        \text{quantile:} \quad \mathrm{score} &= \max(l(x) - y, \, y - u(x)) \\
        \mathrm{interval} &= (l(x) - Q, \, u(x) + Q) \\[1ex]
        \text{scaled:} \quad \mathrm{score} &= |y - m(x)| / s(x) \\
        \mathrm{interval} &= (m(x) - Q \, s(x), \, m(x) + Q \, s(x))

    with m(x) the median and Q the ceil((n + 1) level)-th smallest of n scores, of each
    entry of the event by itself.

    Reference:
        Romano, Patterson and Candes, Conformalized quantile regression, 2019.
        https://arxiv.org/abs/1905.03222

        Lei et al., Distribution-free predictive inference for regression, 2018.
        https://arxiv.org/abs/1604.04173

    Args:
        p_calibration: A distribution of batch shape `(n,)`, for examples that the model
            was not trained on.
        y_calibration: Their targets.
        p_test: A distribution of batch shape `(m,)`, with the same event.
        level: The probability.
        method: `"quantile"` or `"scaled"`.

    Returns:
        Lower and upper ends, arrays of shape `(m, *event_shape)`. They are infinite if
        n is too small: below `level / (1 - level)`.

    Raises:
        ValueError: If one is not a distribution of such a batch shape with entries of a
            known distribution function, the shape of the targets does not fit, `level`
            is not between 0 and 1, the method is unknown, or a standard deviation that
            it needs is 0, infinite or NaN.

    Example:
        >>> p = tfd.Normal(tf.zeros(9), 0.1)  # much too narrow
        >>> y = np.arange(-4.0, 5.0)
        >>> low, high = conformal_intervals(p, y, tfd.Normal(tf.zeros(1), 0.1), 0.8)
        >>> low.round(3), high.round(3)  # the 8th of 9 scores
        (array([-4.], dtype=float32), array([4.], dtype=float32))
    """
    caller = "conformal_intervals"
    level = probability(level, "level", caller)
    method = choice(method, ("quantile", "scaled"), "method", caller)
    p, y = checked_prediction(p_calibration, y_calibration, caller)
    test = checked_distribution(p_test, caller)
    if not (
        p.batch_shape.rank == test.batch_shape.rank == 1
        and p.event_shape == test.event_shape
    ):
        raise ValueError(
            f"`{caller}` expects predictions of batch shapes (n,) and (m,) with one "
            f"event shape. Received: {family_name(p)} of batch shape "
            f"{p.batch_shape} and event shape {p.event_shape}, and {family_name(test)} "
            f"of {test.batch_shape} and {test.event_shape}. Make the entries of an "
            "example an event, with `tfd.Independent`."
        )
    y = np.asarray(y)
    if method == "quantile":
        low, high = (np.asarray(end) for end in central_interval(p, level))
        scores = np.maximum(low - y, y - high)
        low, high = (np.asarray(end) for end in central_interval(test, level))
        spread = np.ones_like(low)
    else:
        scores = abs(y - _median(p)) / _spread(p)
        low = high = _median(test)
        spread = _spread(test)
    rank = math.ceil((len(y) + 1) * level - 1e-9)
    if rank > len(y):
        width = np.full(scores.shape[1:], np.inf, scores.dtype)
    else:
        width = np.sort(scores, axis=0)[rank - 1]
    return low - width * spread, high + width * spread


def _median(p: Any) -> np.ndarray:
    return np.asarray(quantile_of_entries(p, 0.5))


def _spread(p: Any) -> np.ndarray:
    spread = np.asarray(summary(p, "stddev"))
    if not np.all((spread > 0) & np.isfinite(spread)):
        raise ValueError(
            "`conformal_intervals` with method='scaled' expects positive, finite "
            f"standard deviations. Received: {family_name(p)}, with one of "
            f"{spread[~((spread > 0) & np.isfinite(spread))][0]}. Use "
            "method='quantile'."
        )
    return np.broadcast_to(spread, tuple(p.batch_shape) + tuple(p.event_shape))
