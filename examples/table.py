"""Imputes and generates rows of a table with numbers, counts and a category.

    python examples/table.py

The wines of scikit-learn: 178 rows with 11 measurements, two columns of integers and
the cultivar. A fifth of the entries is taken out at random and imputed: measurements
and integers by their expectation, the cultivar by the most probable one. The errors of
the entries that were taken out, in the units of the columns, are shown beside those of
the column's mean or most frequent value, and of scikit-learn's `IterativeImputer` on
the same array. It takes about a minute on two CPU cores.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd
from sklearn.datasets import load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

import tfp_vae as tv
from reproduction import positive

CULTIVAR, MISSING = "cultivar", 0.2
LATENT, UNITS, BATCH = 4, 64, 32
NAMES = ("most common", "IterativeImputer", "VAE")


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Trains, imputes, generates, and returns the errors of each column."""
    args = parse(argv)
    keras.utils.set_random_seed(args.seed)
    truth = wines()
    holes = np.random.default_rng(args.seed).uniform(size=truth.shape) < MISSING
    frame = truth.mask(holes)

    table = tv.Table(frame)
    x = table.to_array(frame)
    vae = build(table)
    vae.compile(keras.optimizers.Adam(3e-3))
    vae.fit(x, batch_size=BATCH, epochs=args.epochs, verbose=0)
    imputed = table.to_frame(vae.impute(x, args.draws, seed=args.seed, verbose=0))

    others = [common(frame), with_scikit_learn(table, x, args.seed)]
    found = [errors(f, truth, holes) for f in (*others, imputed)]
    result = pd.DataFrame(dict(zip(NAMES, found, strict=True)))
    print("Root mean squared error; for the cultivar the share of wrong ones:")
    print(result.to_string(float_format="{:.3f}".format))
    print("\nNew rows:")
    print(table.to_frame(vae.generate(5, statistics="sample", seed=args.seed)).T)
    return result


def wines() -> pd.DataFrame:
    """The table, with dtypes that can have missing integers."""
    data = load_wine(as_frame=True)
    frame = data.frame.drop(columns="target")
    frame[CULTIVAR] = data.target_names[data.target]
    return frame.convert_dtypes()


def build(table: tv.Table) -> tv.VAE:
    """A VAE for the rows of the array."""
    likelihood, dense = table.likelihood(), keras.layers.Dense
    return tv.VAE(
        keras.Sequential(
            [
                keras.Input((table.width,)),
                table.normalization(),
                dense(UNITS, activation="relu"),
                dense(tv.IndependentNormal.params_size(LATENT)),
                tv.IndependentNormal(LATENT),
            ]
        ),
        keras.Sequential(
            [
                keras.Input((LATENT,)),
                dense(UNITS, activation="relu"),
                dense(
                    likelihood.parameters_width,
                    bias_initializer=table.bias_initializer(),
                ),
                likelihood,
            ]
        ),
        tv.StandardNormal(LATENT),
        missing="nan",
        missing_fill="learned",
    )


def common(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame filled with means, and with the most frequent cultivar."""
    numbers = frame.drop(columns=CULTIVAR).astype("float64")
    filled = numbers.fillna(numbers.mean())
    return filled.assign(cultivar=frame[CULTIVAR].fillna(frame[CULTIVAR].mode()[0]))


def with_scikit_learn(table: tv.Table, x: np.ndarray, seed: int) -> pd.DataFrame:
    """The frame filled by linear regressions of each entry on the others.

    The first entry of a one-hot vector is 1 minus the others, which would tie all of
    them to their means: it is left out and computed.
    """
    place = table.slices[CULTIVAR]
    rest = np.delete(x, place.start, axis=1)
    filled = IterativeImputer(max_iter=50, random_state=seed).fit_transform(rest)
    others = filled[:, place.start : place.stop - 1]
    scores = np.column_stack([1 - others.sum(axis=1), others])
    one_hot = np.eye(scores.shape[1])[scores.argmax(axis=1)]
    filled = np.insert(filled, place.start, 0.0, axis=1)
    filled[:, place] = one_hot
    return table.to_frame(filled)


def errors(filled: pd.DataFrame, truth: pd.DataFrame, holes: np.ndarray) -> pd.Series:
    """The error of each column's entries that were taken out."""
    found = {}
    for name, out in zip(truth, holes.T, strict=True):
        pair = filled[name].to_numpy()[out], truth[name].to_numpy()[out]
        if name == CULTIVAR:
            found[name] = np.mean(pair[0] != pair[1])
        else:
            difference = np.subtract(*pair, dtype="float64")
            found[name] = np.sqrt(np.mean(difference**2))
    return pd.Series(found)


def parse(argv: Sequence[str] | None) -> Any:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--epochs", type=positive, default=150, help="default 150")
    add("--draws", type=positive, default=2000, help="of each row, default 2000")
    add("--seed", type=int, default=0, help="default 0")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
