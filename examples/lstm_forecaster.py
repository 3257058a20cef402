"""An LSTM with random weights: forecasts with bands, whose coverage is measured.

    python examples/lstm_forecaster.py
    python examples/lstm_forecaster.py --budget quick

From 40 values an LSTM of 16 units predicts mean and scale of each of the next 10. Its
weights are draws from a posterior: `tv.Variational(keras.layers.LSTM(16))`. The bands
of 50 and 90 % are quantiles of `tv.predictive`. The same network with point weights is
trained for comparison. Both train on the beginning of a series, keep the weights with
the least loss on the part after it, and are measured on the end. The series are

- `eeg`, a real one: 10 s of an electroencephalogram, 4 channels at 80 Hz, each in units
  of its standard deviation; `eeg.dat` of matplotlib.
- `seasonal`, a generated one, of which the predictive distribution of every step is
  known: a period of 24 h in mean and noise, and an autoregressive process,

      y[t] = sin(2 pi t / 24) + u[t],    u[t] = 0.8 u[t-1] + s[t] e[t],
      s[t] = 0.2 + 0.1 cos(2 pi t / 24),    e[t] ~ N(0, 1)
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow_probability as tfp
from matplotlib import cbook
from matplotlib.figure import Figure

import reproduction
import tfp_vae as tv

tfd = tfp.distributions

WINDOW, STEPS, UNITS, BATCH, DRAWS = 40, 10, 16, 64, 100
EPOCHS = {reproduction.QUICK: 5, reproduction.FULL: 150}
TAILS, BANDS = (0.05, 0.25, 0.5, 0.75, 0.95), (50, 90)
RANDOM, POINT, TRUE = "random weights", "point weights", "true distribution"
# Okabe and Ito's colours, told apart by people who are colour-blind.
COLOURS = {RANDOM: "#0072B2", POINT: "#D55E00", TRUE: "#000000"}
STYLES = {RANDOM: "-", POINT: "--", TRUE: ":"}
AUTOREGRESSION, PERIOD = 0.8, 24
REASONS = {
    "seasonal": "learned from 2,000 values, where the true distribution is given",
    "eeg": (
        "the waves of the last 2.5 s are larger than those of the first 6 s, with "
        "standard deviations of 1.17 and 0.91"
    ),
}


@dataclasses.dataclass(frozen=True)
class Series:
    """A series in three parts: the first trains, the second stops, the last tests.

    Args:
        name: Its name.
        values: Array of shape `(times, channels)`.
        ends: Where the first and the second part end.
        rate: Values in a unit of time.
        labels: Of time and of values, with units.
        law: Means and standard deviations of the predictive distribution at each time,
            of shape `(times, STEPS)`, where they are known.
    """

    name: str
    values: np.ndarray
    ends: tuple[int, int]
    rate: float
    labels: tuple[str, str]
    law: tuple[np.ndarray, np.ndarray] | None = None

    def windows(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows whose targets are in a part, in order of time for each channel.

        Args:
            part: 0, 1 or 2.

        Returns:
            x of shape `(n, WINDOW, 1)` and y of shape `(n, STEPS)`, float32.
        """
        whole = np.lib.stride_tricks.sliding_window_view(
            self.values, WINDOW + STEPS, axis=0
        )
        times = self.times(part)
        chosen = whole[times - WINDOW].swapaxes(0, 1).astype("float32")
        rows = chosen.reshape(-1, WINDOW + STEPS)
        return rows[:, :WINDOW, None], rows[:, WINDOW:]

    def times(self, part: int) -> np.ndarray:
        """The time of the first target of each window of a part."""
        bounds = (WINDOW, *self.ends, len(self.values))
        return np.arange(bounds[part], bounds[part + 1] - STEPS + 1)

    def true(self) -> Any:
        """The predictive distributions of the windows of the last part."""
        if self.law is None:
            return None
        loc, scale = (a[self.times(2)].astype("float32") for a in self.law)
        return tfd.Independent(tfd.Normal(loc, scale), 1)


def eeg(channels: int) -> Series:
    """An electroencephalogram, of which the first channels are used."""
    path = cbook.get_sample_data("eeg.dat", asfileobj=False)
    values = np.fromfile(path, "float64").reshape(800, 4)[:, :channels]
    return Series("eeg", values, (480, 600), 80.0, ("time, s", "signal, std. dev."))


def seasonal(sizes: tuple[int, int, int], seed: int) -> Series:
    """A generated series, and its predictive distributions.

    Args:
        sizes: Lengths of the three parts.
        seed: Seed of the noise.

    Returns:
        The series.
    """
    start = WINDOW + PERIOD
    count = start + sum(sizes)
    times = np.arange(-start, count + STEPS)
    angle = 2 * np.pi * times / PERIOD
    season, scale = np.sin(angle), 0.2 + 0.1 * np.cos(angle)
    noise = scale * np.random.default_rng(seed).normal(size=len(times))
    u = np.zeros(len(times))
    for t in range(1, len(times)):
        u[t] = AUTOREGRESSION * u[t - 1] + noise[t]
    # At time t all values before t are known.
    loc, variance = np.zeros((2, len(times) - STEPS, STEPS))
    for t in range(1, len(loc)):
        mean, spread = u[t - 1], 0.0
        for h in range(STEPS):
            mean = AUTOREGRESSION * mean
            spread = AUTOREGRESSION**2 * spread + scale[t + h] ** 2
            loc[t, h], variance[t, h] = season[t + h] + mean, spread
    kept = slice(start, start + count)  # without the values near the first, which is 0
    ends = (start + sizes[0], start + sizes[0] + sizes[1])
    values = (season + u)[kept, None]
    law = loc[kept], np.sqrt(variance[kept])
    return Series("seasonal", values, ends, 1.0, ("time, h", "value"), law)


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains on each series, measures, plots and writes the result."""
    args = reproduction.parse(
        __doc__,
        "lstm_forecaster",
        argv,
        EPOCHS,
        trainings=lambda args: [f"{s}, {k}" for s in REASONS for k in (POINT, RANDOM)],
    )
    training = (
        f"at most {args.epochs} epochs, until {patience(args.epochs)} without gain"
    )
    report = reproduction.Report("lstm_forecaster", "LSTM forecaster", args, training)
    sizes = (400, 100, 100) if args.quick else (2000, 500, 2000)
    draws = 5 if args.quick else DRAWS
    found: dict[str, tuple[Series, dict[str, np.ndarray]]] = {}
    for series in (seasonal(sizes, args.seed), eeg(1 if args.quick else 4)):
        true = series.true()
        predictions = {} if true is None else {TRUE: true}
        for kind in (POINT, RANDOM):
            keras.utils.set_random_seed(args.seed)
            model = build(kind)
            if args.quick and not found:
                before = crps(predicted(model, kind, series, draws), series)
                report.add(f"untrained CRPS, {series.name}, {kind}", before)
            train(report, f"{series.name}, {kind}", model, series)
            predictions[kind] = predicted(model, kind, series, draws)
        levels = {kind: quantiles(p) for kind, p in predictions.items()}
        for kind, p in predictions.items():
            add_coverage(report, series, kind, levels[kind])
            add_scores(report, series, kind, p, true)
        found[series.name] = (series, levels)
    report.picture("bands", bands(found))
    report.write()
    return report


def build(kind: str) -> Any:
    """An LSTM that predicts means and scales of the next values."""
    lstm, head = keras.layers.LSTM(UNITS), tv.IndependentNormal.params_size(STEPS)
    if kind == RANDOM:
        layers = [tv.Variational(lstm, prior="normal"), tv.DenseFlipout(head)]
    else:
        layers = [lstm, keras.layers.Dense(head)]
    start = keras.Input((WINDOW, 1))
    return tv.Sequential([start, *layers, tv.IndependentNormal(STEPS)])


def patience(epochs: int) -> int:
    """After how many epochs without gain training stops."""
    return max(epochs // 5, 5)


def train(report: reproduction.Report, name: str, model: Any, series: Series) -> None:
    """Trains, and keeps the weights with the least loss on the second part."""
    model.compile(keras.optimizers.Adam(5e-3), loss=tv.NegativeLogLikelihood())
    epochs, (x, y) = report.args.epochs, series.windows(0)
    stop = keras.callbacks.EarlyStopping(
        patience=patience(epochs), restore_best_weights=True
    )
    report.fit(
        name,
        model,
        x,
        y=y,
        batch_size=BATCH,
        epochs=epochs,
        validation_data=series.windows(1),
        callbacks=[stop],
        verbose=2,
    )


def predicted(model: Any, kind: str, series: Series, draws: int) -> Any:
    """The predictive distribution of all windows of the last part."""
    x, _ = series.windows(2)
    return tv.predictive(model, x, draws, 0, verbose=0) if kind == RANDOM else model(x)


def quantiles(p: Any) -> np.ndarray:
    """Quantiles of each value: an array of shape `(TAILS, n, STEPS)`."""
    # TFP has no quantiles of `Independent`: these are those of its normals.
    of_one = p if hasattr(p, "number_of_draws") else p.distribution
    return np.stack([of_one.quantile(tail) for tail in TAILS])


def covered(levels: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Percentages of y in the bands: an array of shape `(BANDS, STEPS)`."""
    low, lower, _, upper, high = levels
    pairs = ((lower, upper), (low, high))
    return np.stack([100 * ((a <= y) & (y <= b)).mean(0) for a, b in pairs])


def add_coverage(
    report: reproduction.Report, series: Series, kind: str, levels: np.ndarray
) -> None:
    """Adds how many values of the last part are in the bands."""
    shares = covered(levels, series.windows(2)[1])
    for band, share in zip(BANDS, shares, strict=True):
        for steps, value in (("1 step", share[0]), (f"{STEPS} steps", share.mean())):
            report.add(
                f"% in the {band} % band, {series.name}, {steps}, {kind}",
                value,
                band,
                "nominal level",
                tolerance=2.0,
                reason="" if kind == TRUE else REASONS[series.name],
            )


def add_scores(
    report: reproduction.Report, series: Series, kind: str, p: Any, true: Any
) -> None:
    """Adds CRPS and NLL, next to those of the true distribution."""
    for name, score in {"CRPS": crps, "NLL of a value, nats": nll}.items():
        known: dict[str, Any] = {}
        if true is not None and kind != TRUE:
            known = {
                "reference": score(true, series),
                "source": TRUE,
                "reason": REASONS[series.name],
            }
        report.add(
            f"{name}, {series.name}, {STEPS} steps, {kind}",
            score(p, series),
            higher_is_better=False,
            **known,
        )


def crps(p: Any, series: Series) -> float:
    """The mean CRPS of a value of the last part, in its units."""
    return tv.evaluation.crps(p, series.windows(2)[1])


def nll(p: Any, series: Series) -> float:
    """The negative log-density of the next values, divided by their number."""
    return float(-np.mean(p.log_prob(series.windows(2)[1])) / STEPS)


def bands(found: dict[str, tuple[Series, dict[str, np.ndarray]]]) -> Figure:
    """One step ahead, several steps ahead, and the coverage of each step."""
    figure = Figure(figsize=(13, 3.6 * len(found)), layout="constrained")
    rows = figure.subplots(len(found), 3, squeeze=False)
    for axes, (series, levels) in zip(rows, found.values(), strict=True):
        _one_step(axes[0], series, levels[RANDOM])
        _several_steps(axes[1], series, levels)
        _coverage(axes[2], series, levels)
    return figure


def _one_step(ax: Any, series: Series, levels: np.ndarray) -> None:
    shown = min(len(series.times(2)), 120)
    times = series.times(2)[:shown] / series.rate
    y = series.windows(2)[1][:shown, 0]
    low, lower, middle, upper, high = levels[:, :shown, 0]
    style = {"color": COLOURS[RANDOM], "lw": 0}
    ax.fill_between(times, low, high, alpha=0.25, label="90 %", **style)
    ax.fill_between(times, lower, upper, alpha=0.5, label="50 %", **style)
    ax.plot(times, middle, color=COLOURS[RANDOM], lw=1, label="median")
    ax.plot(times, y, "k.", ms=3, label="observed")
    bottom, top = min(y.min(), low.min()), max(y.max(), high.max())
    room = 0.15 * (top - bottom)  # for the legend
    ax.set(xlabel=series.labels[0], ylabel=series.labels[1], ylim=(bottom - room, top))
    ax.set_title(f"{series.name}, 1 step ahead, {RANDOM}")
    ax.legend(fontsize="small", ncols=4, loc="lower center")


def _several_steps(ax: Any, series: Series, levels: dict[str, np.ndarray]) -> None:
    origin = 60
    start = series.times(2)[origin]
    past = np.arange(start - WINDOW // 2, start)
    future = (start + np.arange(STEPS)) / series.rate
    ax.plot(past / series.rate, series.values[past, 0], "k-", lw=0.8)
    ax.plot(future, series.windows(2)[1][origin], "k.", ms=5, label="observed")
    for kind, whole in levels.items():
        low, _, middle, _, high = whole[:, origin]
        style = {"color": COLOURS[kind], "linestyle": STYLES[kind]}
        ax.plot(future, middle, lw=1, label=kind, **style)
        ax.plot(future, low, lw=1.5, **style)
        ax.plot(future, high, lw=1.5, **style)
    ax.set(xlabel=series.labels[0], ylabel=series.labels[1])
    ax.set_title(f"{series.name}, median and 90 % band")
    ax.legend(fontsize="small", loc="best")


def _coverage(ax: Any, series: Series, levels: dict[str, np.ndarray]) -> None:
    y = series.windows(2)[1]
    for kind, whole in levels.items():
        style = {"color": COLOURS[kind], "linestyle": STYLES[kind], "marker": "."}
        lines = ax.plot(np.arange(1, STEPS + 1), covered(whole, y).T, **style)
        lines[0].set_label(kind)
    for band in BANDS:
        ax.axhline(band, color="grey", lw=0.8)
    ax.set(xlabel="steps ahead", ylabel="values in the band, %", ylim=(0, 100))
    ax.set_title(f"{series.name}, 50 and 90 % bands")
    ax.legend(fontsize="small", loc="lower left")


if __name__ == "__main__":
    main()
