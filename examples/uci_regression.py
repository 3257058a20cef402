"""Regression on six UCI data sets: ensembles, random weights and dropout.

    python examples/uci_regression.py --data-dir PATH
    python examples/uci_regression.py --data-dir PATH --budget quick

The 20 splits of Hernandez-Lobato and Adams, https://arxiv.org/abs/1502.05336: 90 % of
the rows train, 10 % test. One hidden layer of 50 ReLU units; x and y are standardised
by the training rows, and the figures are in the units of y.

- Deep ensembles (Lakshminarayanan et al., 2017, https://arxiv.org/abs/1612.01474): 5
  networks that predict mean and scale; 40 epochs in batches of 100. The NLL is that of
  their mixture; the paper's is that of a normal with its mean and variance. No
  adversarial training. Of 0.01, 0.03 and 0.1, Adam's rate 0.01 had the best NLL on a
  fifth of the training rows of the first split of four sets.
- Mean-field variational inference: the same network of `tv.DenseFlipout`, with the
  prior N(0, 1) on each weight and 50 draws of the weights.
- Monte Carlo dropout (Gal and Ghahramani, 2016, https://arxiv.org/abs/1506.02142): one
  noise for all rows, dropout also on x, 50 draws. Rate and noise are those with the
  best NLL on a fifth of the training rows of the first split, for all splits, some of
  whose test rows are among them; the reference, DropoutUncertaintyExps, chooses on
  each split, decays the weights and trains for 4,000 epochs.

The last two train for 200 epochs, and for 50 on the two sets of over 8,000 rows.
"""

import argparse
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow_probability as tfp
from matplotlib.figure import Figure

import datasets
import reproduction
import tfp_vae as tv

tfd = tfp.distributions

FILE = "uci.npz"
HOW = (
    "The sets are those of the UCI Machine Learning Repository, https://archive.ics.uci"
    ".edu: Concrete Compressive Strength, Energy Efficiency (heating load), Combined "
    "Cycle Power Plant, Wine Quality (red), Yacht Hydrodynamics; and kin8nm of OpenML. "
    "The splits are in github.com/yaringal/DropoutUncertaintyExps. For each NAME save "
    "NAME_x (rows, features), NAME_y (rows,) and NAME_test (splits, rows), True for "
    "test rows, with numpy.savez."
)
HIDDEN, BATCH, MEMBERS, DRAWS = 50, 100, 5, 50
# Epochs of the other methods for one of the ensembles; a quarter of it on large sets.
LONGER, LARGE = 5, ("kin8nm", "power")  # sets of over 8,000 rows
EPOCHS = {reproduction.QUICK: 10, reproduction.FULL: 40}
SPLITS = 20
ENSEMBLE, VARIATIONAL, DROPOUT = "ensemble of 5", "variational", "dropout"
METHODS = (ENSEMBLE, VARIATIONAL, DROPOUT)
RATES = (0.005, 0.01, 0.05, 0.1)
NOISES = tuple(np.geomspace(0.03, 1.0, 12).astype("float32"))  # of a standardised y
# RMSE and NLL of each method.
PUBLISHED = {
    "concrete": {ENSEMBLE: (6.03, 3.06), DROPOUT: (4.826, 2.937)},
    "energy": {ENSEMBLE: (2.09, 1.38), DROPOUT: (0.539, 1.212)},
    "kin8nm": {ENSEMBLE: (0.09, -1.20), DROPOUT: (0.079, -1.136)},
    "power": {ENSEMBLE: (4.11, 2.79), DROPOUT: (4.014, 2.808)},
    "wine": {ENSEMBLE: (0.64, 0.94), DROPOUT: (0.622, 0.928)},
    "yacht": {ENSEMBLE: (1.58, 1.18), DROPOUT: (0.666, 1.250)},
}
SOURCES = {
    ENSEMBLE: "Lakshminarayanan et al., table 1",
    DROPOUT: "DropoutUncertaintyExps, mean of 20 splits",
}
THEIRS = {ENSEMBLE: "40 epochs", DROPOUT: "4,000 epochs"}
REASONS = {
    ENSEMBLE: (
        "the NLL is that of the mixture, where the paper's is that of a normal with "
        "its mean and variance; no adversarial training; Adam at 0.01, chosen on "
        "training rows of the first split, some of which are test rows of others"
    ),
    DROPOUT: (
        "200 epochs, 50 on kin8nm and power, 50 draws, one rate and noise for all "
        "splits, chosen on training rows of the first, some of which are test rows of "
        "others, where the reference has 4,000 epochs, 10,000 draws and a choice on "
        "each split"
    ),
}


Prediction = Callable[["Split", int], Any]


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains on every split, compares, plots and writes the result."""
    args = reproduction.parse(
        __doc__, "uci_regression", argv, EPOCHS, trainings=trainings
    )
    epochs = trainings(args).values()
    trained = f"{min(epochs)} to {max(epochs)} epochs, mean of the splits"
    report = reproduction.Report("uci_regression", "UCI regression", args, trained)
    path = datasets.find(FILE, args.data_dir, "UCI regression sets", HOW)
    found: dict[tuple[str, str], np.ndarray] = {}
    with np.load(path) as archive:
        for name in names(args):
            splits = [
                Split(archive[f"{name}_x"], archive[f"{name}_y"], test)
                for test in archive[f"{name}_test"][: 2 if args.quick else None]
            ]
            keras.utils.set_random_seed(args.seed)
            if args.quick:
                p = tv.predictive(members(splits[0]), splits[0].test[0])
                untrained = splits[0].scores(p)[1]
                report.add(f"untrained NLL, nats, {name}", untrained)
            rates = RATES[1:3] if args.quick else RATES
            for method in METHODS:
                scores = scores_of(report, name, method, splits, rates)
                found[name, method] = scores
                add(report, name, method, scores)
    report.picture("scores", dots(found))
    report.write()
    return report


def names(args: argparse.Namespace) -> list[str]:
    """The names of the sets."""
    return ["concrete"] if args.quick else [*PUBLISHED]


def trainings(args: argparse.Namespace) -> dict[str, int]:
    """The names of all trainings, and the epochs of each."""
    splits = range(2 if args.quick else SPLITS)
    return {
        part_of(name, method, i): epochs_of(name, method, args)
        for name in names(args)
        for method in METHODS
        for i in splits
    }


def epochs_of(name: str, method: str, args: argparse.Namespace) -> int:
    """The epochs of a method: ensembles have few, and large sets a quarter."""
    if method == ENSEMBLE:
        return args.epochs
    return round(args.epochs * (LONGER / 4 if name in LARGE else LONGER))


def part_of(name: str, method: str, split: int) -> str:
    """The name of the training on a split."""
    return f"{name}, {method}, split {split + 1}"


class Split:
    """Training and test rows, standardised by the training rows.

    Args:
        x: All inputs, of shape `(rows, features)`.
        y: All targets, of shape `(rows,)`.
        test: Which rows test.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, test: np.ndarray) -> None:
        y = y[:, None]
        self._scale = float(y[~test].std())
        pair = [(a - a[~test].mean(0)) / _spread(a[~test]) for a in (x, y)]
        x, y = (a.astype("float32") for a in pair)
        self.train, self.test = (x[~test], y[~test]), (x[test], y[test])

    def scores(self, p: Any) -> tuple[float, float, float]:
        """RMSE, NLL and CRPS of the test rows, in the units of y."""
        y = self.test[1]
        error = np.sqrt(np.mean(np.square(p.mean() - y)))
        nll = -np.mean(p.log_prob(y)) + np.log(self._scale)
        crps = tv.evaluation.crps(p, y)
        return error * self._scale, nll, crps * self._scale


def _spread(array: np.ndarray) -> np.ndarray:
    """The standard deviation of each column, 1 if it is 0."""
    found = array.std(0)
    return np.where(found > 0, found, 1.0)


class Trainer:
    """One compiled model that is trained many times, each time from new weights.

    Args:
        build: Function that makes the model.
        rate: Learning rate of Adam.
    """

    def __init__(self, build: Callable[[], Any], rate: Any) -> None:
        self._build, self.model = build, build()
        loss = tv.NegativeLogLikelihood()
        self.model.compile(keras.optimizers.Adam(rate), loss)
        self.model.optimizer.build(self.model.trainable_variables)
        self._state = [v.numpy() for v in self.model.optimizer.variables]

    def fit(self, x: np.ndarray, y: np.ndarray, epochs: int) -> Any:
        """Trains the model from new weights and seeds, and returns it."""
        pair = variables(self.model), variables(self._build())
        for variable, new in zip(*pair, strict=True):
            variable.assign(new)
        for variable, start in zip(
            self.model.optimizer.variables, self._state, strict=True
        ):
            variable.assign(start)
        self.model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
        return self.model


def variables(model: Any) -> list[Any]:
    """The weights, and the states of the random generators."""
    metrics = {id(variable) for variable in model.metrics_variables}
    return [v for v in model.variables if id(v) not in metrics]


def network(features: int, dense: Any) -> Any:
    """A network that predicts mean and scale of y."""
    return tv.Sequential(
        [
            keras.Input((features,)),
            dense(HIDDEN, activation="relu"),
            dense(tv.IndependentNormal.params_size(1)),
            tv.IndependentNormal(1),
        ]
    )


def network_with_dropout(features: int, rate: float) -> Any:
    """A network that predicts the mean; the noise is a weight that is not trained."""
    x = keras.Input((features,))
    h = keras.layers.Dropout(rate)(x)
    h = keras.layers.Dense(HIDDEN, activation="relu")(h)
    mean = keras.layers.Dense(1)(keras.layers.Dropout(rate)(h))
    noise = tv.VariableLayer(1, initializer="ones", trainable=False, name="noise")(x)
    return tv.Model(x, tv.DistributionLambda(normal)([mean, noise]))


def normal(parts: Any) -> Any:
    """The distribution of a mean and a noise."""
    mean, noise = parts
    return tfd.Independent(tfd.Normal(mean, noise), 1)


def members(split: Split) -> list[Any]:
    """The networks of an ensemble."""
    features = split.train[0].shape[1]
    return [network(features, keras.layers.Dense) for _ in range(MEMBERS)]


def scores_of(
    report: reproduction.Report,
    name: str,
    method: str,
    splits: list[Split],
    rates: Sequence[float],
) -> np.ndarray:
    """The scores of a method: an array of shape `(splits, scores)`."""
    epochs = epochs_of(name, method, report.args)
    if method == DROPOUT:
        predict = by_dropout(report, name, splits, epochs, rates)
    else:
        make = {ENSEMBLE: by_ensembles, VARIATIONAL: by_random_weights}[method]
        predict = make(splits, epochs)

    def scores(split: Split, seed: int) -> tuple[float, float, float]:
        return split.scores(predict(split, seed))

    found = []
    for i, split in enumerate(splits):
        # A split has the same seed in all sets, and other splits have others.
        (number,) = np.random.SeedSequence([report.args.seed, i]).generate_state(1)
        seed = int(number) // 4  # TensorFlow's seeds are below 2^31.
        found.append(report.part(part_of(name, method, i), scores, split, seed))
    return np.array(found)


def by_ensembles(splits: list[Split], epochs: int) -> Prediction:
    """Predictions of 5 networks, each from other initial weights."""

    @functools.cache
    def made() -> tuple[list[Any], Trainer]:
        features = splits[0].train[0].shape[1]
        build = functools.partial(network, features, keras.layers.Dense)
        return members(splits[0]), Trainer(build, 0.01)

    def predict(split: Split, seed: int) -> Any:
        ensemble, trainer = made()
        for i, member in enumerate(ensemble):
            keras.utils.set_random_seed(seed + i)
            trained = trainer.fit(*split.train, epochs)
            member.set_weights(trained.get_weights())
        return tv.predictive(ensemble, split.test[0])

    return predict


def by_random_weights(splits: list[Split], epochs: int) -> Prediction:
    """Predictions averaged over a posterior of the weights."""

    @functools.cache
    def made() -> Trainer:
        x = splits[0].train[0]
        build = functools.partial(network, x.shape[1], tv.DenseFlipout)
        return Trainer(build, decay(x, epochs))

    def predict(split: Split, seed: int) -> Any:
        trainer = made()
        keras.utils.set_random_seed(seed)
        model = trainer.fit(*split.train, epochs)
        return tv.predictive(model, split.test[0], DRAWS, seed)

    return predict


def by_dropout(
    report: reproduction.Report,
    name: str,
    splits: list[Split],
    epochs: int,
    rates: Sequence[float],
) -> Prediction:
    """Predictions averaged over the units that are left out."""
    x, y = splits[0].train
    held = np.random.default_rng(0).permutation(len(x)) < len(x) // 5

    @functools.cache
    def made(rate: float) -> Trainer:
        build = functools.partial(network_with_dropout, x.shape[1], rate)
        return Trainer(build, decay(x, epochs))

    def chosen() -> tuple[float, float]:
        tried = []
        for rate in rates:
            made(rate)
            keras.utils.set_random_seed(report.args.seed)
            model = made(rate).fit(x[~held], y[~held], epochs)
            for noise in NOISES:
                p = with_noise(model, x[held], noise)
                tried.append((np.mean(p.log_prob(y[held])), rate, noise))
        _, rate, noise = max(tried, key=lambda row: row[0])
        return rate, noise

    rate, noise = report.part(f"{name}, {DROPOUT}, rate and noise", chosen)
    print(f"dropout {rate}, noise {noise:.3f}", flush=True)

    def predict(split: Split, seed: int) -> Any:
        trainer = made(rate)
        keras.utils.set_random_seed(seed)
        return with_noise(trainer.fit(*split.train, epochs), split.test[0], noise)

    return predict


def with_noise(model: Any, x: np.ndarray, noise: float) -> Any:
    """The prediction of a network with dropout for a standard deviation of y."""
    model.get_layer("noise").set_weights([np.array([noise])])
    return tv.predictive(model, x, DRAWS, seed=0, training=True)


def decay(x: np.ndarray, epochs: int) -> Any:
    """A learning rate that falls from 0.01 to 0."""
    steps = epochs * -(-len(x) // BATCH)
    return keras.optimizers.schedules.CosineDecay(0.01, steps)


def add(
    report: reproduction.Report, name: str, method: str, scores: np.ndarray
) -> None:
    """Adds the mean of each score over the splits, and its standard error."""
    published = PUBLISHED[name].get(method, ())
    errors = standard_errors(scores)
    for i, score in enumerate(("RMSE", "NLL, nats", "CRPS")):
        known: dict[str, Any] = {}
        if i < len(published):
            known = {
                "reference": published[i],
                "source": SOURCES[method],
                "reason": REASONS[method],
                "budget": THEIRS[method],
            }
        report.add(
            f"{score}, {name}, {method} (standard error {errors[i]:.3f})",
            scores[:, i].mean(),
            higher_is_better=False,
            **known,
        )


def standard_errors(scores: np.ndarray) -> np.ndarray:
    """Standard errors of the means over the splits."""
    return scores.std(0, ddof=1) / np.sqrt(len(scores))


def dots(found: dict[tuple[str, str], np.ndarray]) -> Figure:
    """NLL and RMSE with standard errors, next to what was published."""
    names = list(dict.fromkeys(name for name, _ in found))
    figure = Figure(figsize=(2.2 * len(names) + 1, 5), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False)
    # Okabe and Ito's colours, told apart by people who are colour-blind.
    styles = {
        ENSEMBLE: ("#0072B2", "o"),
        VARIATIONAL: ("#D55E00", "s"),
        DROPOUT: ("#009E73", "^"),
    }
    for column, name in enumerate(names):
        for row, label in enumerate(("RMSE, units of y", "NLL, nats")):
            ax = axes[row, column]
            for place, (method, (colour, marker)) in enumerate(styles.items()):
                scores = found[name, method]
                mean, error = scores.mean(0)[row], standard_errors(scores)[row]
                shape = {"color": colour, "marker": marker, "linestyle": "none"}
                ax.errorbar(place, mean, error, capsize=3, **shape)
                if method in PUBLISHED[name]:
                    level = PUBLISHED[name][method][row]
                    ax.plot(place + 0.25, level, markerfacecolor="none", **shape)
            labels = [""] * len(styles) if row == 0 else list(styles)
            ax.set_xticks(range(len(styles)), labels, rotation=30, ha="right")
            ax.set_xlim(-0.5, len(styles) - 0.3)
            ax.set_title(name if row == 0 else "")
            if column == 0:
                ax.set_ylabel(label)
    figure.suptitle("Mean of the splits and standard error (filled), published (open)")
    return figure


if __name__ == "__main__":
    main()
