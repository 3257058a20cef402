"""Figures of predictions: their calibration, and bands over an input."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfp_vae.checks import integer, probability
from tfp_vae.entries import quantile_of_entries
from tfp_vae.evaluation.calibration import is_of_classes, pit, reliability
from tfp_vae.evaluation.checks import checked_distribution, checked_prediction
from tfp_vae.plots.figure import BLUE, VERMILION, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_calibration(
    p: Any, y: Any, bins: int = 10, seed: int | None = None
) -> "Figure":
    """Draws the frequencies of predicted events, and a histogram of the predictions.

    For classes: the reliability diagram, and how often each confidence was given. For
    numbers: how often y is below each of 49 quantiles, and the histogram of the
    probability integral transforms, which is flat for a calibrated prediction. Each
    frequency of a calibrated prediction lies in its grey band with a probability of
    about 95 %.

    Args:
        p: A distribution for each example, such as `model(x)`.
        y: The targets, of shape `batch_shape + event_shape`.
        bins: Number of bins of confidence, or of the histogram for numbers, at least 2.
        seed: Integer for the randomised transforms of counts.

    Returns:
        A figure.

    Raises:
        ValueError: As in `tv.evaluation.reliability`.
        ImportError: If matplotlib is not installed.

    Example:
        >>> p = tfd.Normal(tf.zeros(50), 1.0)
        >>> figure = plot_calibration(p, p.sample(seed=1), bins=5)
        >>> [axes.get_xlabel() for axes in figure.axes]
        ['level of the quantile', 'probability integral transform F(y)']
    """
    bins = integer(bins, "bins", "plot_calibration", minimum=2)
    p, values = checked_prediction(p, y, "plot_calibration")
    classes = is_of_classes(p)
    found = reliability(p, values, bins if classes else 50, seed)
    figure = new_figure(7.2, 3.4)
    left, right = figure.subplots(1, 2)
    grid = found.predicted if classes else np.linspace(0, 1, 101)
    counts = found.counts if classes else found.counts[0]
    # Chance: binomial frequencies, as normal ones.
    chance = 1.96 * np.sqrt(grid * (1 - grid) / counts)
    left.plot([0, 1], [0, 1], color="0.4", linewidth=1, linestyle="--")
    band: dict[str, Any] = {"color": "0.85", "linewidth": 0, "label": "95 % of chance"}
    left.fill_between(
        grid, np.maximum(grid - chance, 0), np.minimum(grid + chance, 1), **band
    )
    style: dict[str, Any] = {"marker": "o"} if classes else {}
    left.plot(found.predicted, found.observed, color=BLUE, label="observed", **style)
    left.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    left.legend(frameon=False, loc="upper left")
    if classes:
        left.set(xlabel="confidence", ylabel="frequency of right classes")
        right.bar(found.predicted, found.counts, width=0.8 / bins, color=BLUE)
        right.set(xlim=(0, 1), xlabel="confidence", ylabel="number of predictions")
        return figure
    left.set(xlabel="level of the quantile", ylabel="frequency of y below it")
    u = np.ravel(pit(p, values, seed))
    spread = 1.96 * np.sqrt(bins / len(u) * (1 - 1 / bins))
    right.axhspan(max(0, 1 - spread), 1 + spread, color="0.85", linewidth=0)
    right.axhline(1, color="0.4", linewidth=1, linestyle="--")
    right.hist(u, bins, range=(0, 1), density=True, color=BLUE, alpha=0.8, rwidth=0.92)
    right.set(
        xlim=(0, 1), xlabel="probability integral transform F(y)", ylabel="density"
    )
    return figure


def plot_predictive(
    x: Any, p: Any, y: Any = None, levels: Sequence[float] = (0.5, 0.9)
) -> "Figure":
    """Draws the median and central intervals of a prediction over an input.

    Args:
        x: Inputs of shape `(n,)` or `(n, 1)`, in any order.
        p: The distributions predicted for them, `model(x)`, each of one number.
        y: Targets of `x`, drawn as points.
        levels: Probabilities of the intervals.

    Returns:
        A figure.

    Raises:
        ValueError: If a shape does not fit, a level is not between 0 and 1, or the
            distributions have no known distribution function.
        ImportError: If matplotlib is not installed.

    Example:
        >>> x = np.linspace(0.0, 1.0, 20)
        >>> figure = plot_predictive(x, tfd.Normal(np.sin(x), 0.1), levels=[0.8])
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['80 % interval', 'median']
    """
    levels = sorted(
        (probability(level, "level", "plot_predictive") for level in np.ravel(levels)),
        reverse=True,
    )
    p = checked_distribution(p, "plot_predictive")
    shape = tuple(p.batch_shape) + tuple(p.event_shape)
    x = np.asarray(x)
    if x.size != len(x) or shape not in ((len(x),), (len(x), 1)):
        raise ValueError(
            "`plot_predictive` expects inputs of shape (n,) or (n, 1), and as many "
            f"distributions of one number. Received: x.shape={x.shape}, and a "
            f"prediction of batch and event shape {shape}. Draw one input at a time, "
            "with the others fixed."
        )
    order = np.argsort(np.ravel(x), kind="stable")
    across = np.ravel(x)[order]

    def ordered(level: float) -> np.ndarray:
        return np.ravel(quantile_of_entries(p, level))[order]

    figure = new_figure(6.4, 4.0)
    axes = figure.subplots()
    shades = np.linspace(0.18, 0.45, len(levels)) if len(levels) > 1 else [0.3]
    for level, shade in zip(levels, shades, strict=True):
        axes.fill_between(
            across,
            ordered((1 - level) / 2),
            ordered((1 + level) / 2),
            color=BLUE,
            alpha=shade,
            linewidth=0,
            label=f"{100 * level:g} % interval",
        )
    axes.plot(across, ordered(0.5), color=BLUE, label="median")
    if y is not None:
        values = np.ravel(checked_prediction(p, y, "plot_predictive")[1])[order]
        style: dict[str, Any] = {
            "s": 12,
            "color": VERMILION,
            "edgecolors": "none",
            "zorder": 3,
        }
        axes.scatter(across, values, label="y", **style)
    axes.set(xlabel="x", ylabel="y")
    axes.margins(x=0)
    # Above the axes, where it covers no data.
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1)}
    axes.legend(ncols=len(levels) + 2, frameon=False, **place)
    return figure
