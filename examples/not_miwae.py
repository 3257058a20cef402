"""not-MIWAE on red wine: large values are missing, and the model learns so.

    python examples/not_miwae.py --data-dir PATH
    python examples/not_miwae.py --data-dir PATH --budget quick

Ipsen, Mattei and Frellsen, 2021, https://arxiv.org/abs/2006.12871: in the first five of
the eleven standardised columns every value above the mean is missing. A model of what
is observed fills in values below the mean. With a model of the mask, a logistic
regression of each entry on its own value, the VAE learns from the mask that missing
values are large. Both are trained here, with the same linear decoder, beside
scikit-learn's `IterativeImputer` (a form of MICE) and the means. The figures are root
mean squared errors of the missing entries, in standard deviations; there is no
published one for red wine.
"""

import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from matplotlib.figure import Figure
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.preprocessing import StandardScaler

import datasets
import reproduction
import tfp_vae as tv
import uci_regression

tfd = tfp.distributions

HIDDEN, DRAWS, BATCH = 128, 20, 16
EPOCHS = {reproduction.QUICK: 25, reproduction.FULL: 200}
WITH_MASK = {"MIWAE": False, "not-MIWAE": True}


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains both models, imputes, plots and writes the result."""
    args = reproduction.parse(
        __doc__, "not_miwae", argv, EPOCHS, trainings=lambda args: [*WITH_MASK]
    )
    training = f"{args.epochs:,} epochs, on the rows that are imputed"
    report = reproduction.Report("not_miwae", "not-MIWAE, red wine", args, training)
    path = datasets.find(
        uci_regression.FILE, args.data_dir, "UCI regression sets", uci_regression.HOW
    )
    with np.load(path) as archive:
        x = StandardScaler().fit_transform(archive["wine_x"]).astype("float32")
    gaps = x > x.mean(axis=0)
    gaps[:, x.shape[1] // 2 :] = False
    holes = np.where(gaps, np.float32(np.nan), x)

    means = np.broadcast_to(np.nanmean(holes, axis=0), x.shape)
    filled = {"the means of the columns": means}
    imputer = IterativeImputer(max_iter=100, random_state=args.seed)
    filled["scikit-learn's IterativeImputer"] = imputer.fit_transform(holes)

    def trained(name: str) -> np.ndarray:
        vae = build(x.shape[1], WITH_MASK[name])
        vae.compile(keras.optimizers.Adam(1e-3))
        options = {"batch_size": BATCH, "epochs": args.epochs, "verbose": 0}
        report.fit(name, vae, holes, **options)
        return vae.impute(holes, 300 if args.quick else 10_000, seed=args.seed)

    for name in WITH_MASK:
        filled[name] = np.asarray(report.part(name, trained, name), "float32")
    for name, values in filled.items():
        error = np.sqrt(np.mean(np.square(values - x)[gaps]))
        what = f"root mean squared error of missing entries, {name}"
        report.add(what, error, higher_is_better=False)
    report.picture("imputed", scatter(x, filled, gaps))
    report.write()
    return report


def build(features: int, with_mask: bool) -> tv.VAE:
    """A network of two layers, and a linear decoder."""
    latent = features - 1
    layers = keras.layers
    return tv.VAE(
        keras.Sequential(
            [
                keras.Input((features,)),
                layers.Dense(HIDDEN, "tanh"),
                layers.Dense(HIDDEN, "tanh"),
                layers.Dense(tv.IndependentNormal.params_size(latent)),
                tv.IndependentNormal(latent),
            ]
        ),
        linear_decoder(latent, features),
        tv.StandardNormal(latent),
        objective=tv.ImportanceWeightedBound(DRAWS),
        missing="nan",
        missing_model=mask_model(features) if with_mask else None,
    )


def linear_decoder(latent: int, features: int) -> Any:
    """A normal distribution, its mean linear in z, with one trained scale."""
    z = keras.Input((latent,))
    loc = keras.layers.Dense(features)(z)
    return keras.Model(z, tv.DistributionLambda(normal)([loc, tv.VariableLayer(1)(z)]))


def normal(parts: Any) -> Any:
    """The distribution of a mean and a raw scale."""
    loc, raw = parts
    return tfd.Independent(tfd.Normal(loc, 0.01 + tf.nn.softplus(raw)), 1)


def mask_model(features: int) -> Any:
    """The logit of an observed entry is linear in its own value."""
    return keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.EinsumDense("bd,d->bd", features, bias_axes="d"),
            tv.IndependentBernoulli(features),
        ]
    )


def scatter(x: np.ndarray, filled: dict[str, np.ndarray], gaps: np.ndarray) -> Figure:
    """Imputed against true values of the missing entries, for each method."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    all_axes = figure.subplots(1, len(filled), sharex=True, sharey=True)
    ends = (-2.0, 5.0)
    for ax, (name, values) in zip(all_axes, filled.items(), strict=True):
        ax.plot(x[gaps], values[gaps], ".", markersize=2, alpha=0.3, color="#0072B2")
        ax.plot(ends, ends, color="#D55E00", linewidth=1)
        ax.set_xlim(*ends)
        ax.set_ylim(*ends)
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("true value, standard deviations")
    all_axes[0].set_ylabel("imputed, standard deviations")
    return figure


if __name__ == "__main__":
    main()
