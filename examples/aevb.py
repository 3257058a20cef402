"""Auto-Encoding Variational Bayes: the bound against the number of training samples.

    python examples/aevb.py --data-dir PATH
    python examples/aevb.py --data-dir PATH --budget quick

Kingma and Welling, 2013, https://arxiv.org/abs/1312.6114, figures 2 and 3: one hidden
layer of tanh, 500 units and a Bernoulli decoder for binarized MNIST, 200 units and a
Gaussian decoder with sigmoid means for Frey faces, batches of 100. The paper shows
plots only, and trains with Adagrad; here it is Adam at 1e-3. The marginal likelihood
is that of a model with 100 units and 3 latents, by importance sampling. There are few
faces, so they train for ten times as many epochs. They are frames of a film, so the
test faces, a random tenth, resemble some training faces.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from matplotlib.figure import Figure

import datasets
import networks
import reproduction
import tfp_vae as tv
from pixels import observe

BATCH, DRAWS = 100, 1000
EPOCHS = {reproduction.QUICK: 8, reproduction.FULL: 60}
FACES = 10  # times as many epochs as MNIST, because there are so few faces
SIZES: dict[str, tuple[int, ...]] = {
    "binarized_mnist": (3, 5, 10, 20),
    "freyfaces": (2, 5, 10, 20),
}
SMALL = "3 latents, 100 units"
TITLES = {"binarized_mnist": "MNIST, Bernoulli", "freyfaces": "Frey faces, Gaussian"}


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains a model for each number of latents, plots and writes the bounds."""
    args = reproduction.parse(__doc__, "aevb", argv, EPOCHS, trainings=trainings)
    training = f"{args.epochs} epochs; {FACES * args.epochs} for Frey faces"
    title = "Auto-Encoding Variational Bayes"
    report = reproduction.Report("aevb", title, args, training)
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, 4)
    for row, name in zip(axes, SIZES, strict=True):
        images = datasets.load(name, args.data_dir, args.seed)
        if args.quick:
            images = datasets.few(images, 1000, 200)
        likelihood = "bernoulli" if images.levels == 2 else "normal"
        x, test = (
            observe(part, [args.seed, i], images.levels, likelihood).numpy()
            for i, part in enumerate((images.train, images.test))
        )
        epochs = args.epochs * (FACES if name == "freyfaces" else 1)

        for axis, size in zip(row, sizes_of(name, args), strict=False):
            what = f"{TITLES[name]}, {size} latents"
            history = report.part(what, bounds, report, name, size, x, test, epochs)
            seen = len(x) * np.arange(1, epochs + 1)
            axis.plot(seen, history["elbo"], label="training")
            axis.plot(seen, history["val_elbo"], "--", label="test")
            low = np.percentile(history["val_elbo"], 5)
            high = max(history["elbo"] + history["val_elbo"])
            margin = 0.05 * (high - low)
            axis.set(ylim=(low - margin, high + margin), xscale="log")
            axis.set(
                title=f"{TITLES[name]},\n{size} latents", xlabel="training samples"
            )
        row[0].set_ylabel("bound, nats")
        row[0].legend()
        if likelihood == "bernoulli":
            report.part(SMALL, estimate, report, x, test)
    report.picture("bounds", figure)
    report.write()
    return report


def sizes_of(name: str, args: argparse.Namespace) -> tuple[int, ...]:
    """The numbers of latents of a data set."""
    sizes = SIZES[name]
    return sizes[:1] if args.quick else sizes


def trainings(args: argparse.Namespace) -> list[str]:
    """The names of all trainings."""
    names = [
        f"{TITLES[name]}, {size} latents"
        for name in SIZES
        for size in sizes_of(name, args)
    ]
    return [*names, SMALL]


def bounds(
    report: reproduction.Report,
    name: str,
    size: int,
    x: np.ndarray,
    test: np.ndarray,
    epochs: int,
) -> dict[str, Any]:
    """Trains a model, adds its bounds, and returns those of each epoch."""
    vae = build(name, size, x, 500 if name == "binarized_mnist" else 200)
    what = f"{TITLES[name]}, {size} latents"
    if report.args.quick:
        report.add(f"untrained bound, {what}", vae.elbo(test, 5).mean())
    history = train(report, what, vae, x, test, epochs)
    seen, new = (vae.elbo(part, 5).mean() for part in (x[: len(test)], test))
    report.add(f"test bound, {what}, nats", new)
    report.add(f"training minus test bound, {what}, nats", seen - new)
    return history


def estimate(report: reproduction.Report, x: np.ndarray, test: np.ndarray) -> None:
    """Trains the small model and adds its marginal likelihood."""
    args = report.args
    vae = build("binarized_mnist", 3, x, 100)
    train(report, SMALL, vae, x, test, args.epochs)
    draws = 50 if args.quick else DRAWS
    for part, values in (("training", x[:1000]), ("test", test[:1000])):
        found = vae.log_prob(values, draws).mean()
        report.add(f"log p(x), {part}, {SMALL}, nats", found)


def train(
    report: reproduction.Report,
    what: str,
    vae: tv.VAE,
    x: np.ndarray,
    test: np.ndarray,
    epochs: int,
) -> dict[str, Any]:
    """Trains, and returns the bounds of each epoch."""
    vae.compile(keras.optimizers.Adam(1e-3))
    options = {"batch_size": BATCH, "epochs": epochs, "verbose": 0}
    history = report.fit(what, vae, x, validation_data=(test,), **options).history
    return {name: history[name] for name in ("elbo", "val_elbo")}


def build(name: str, size: int, x: np.ndarray, units: int) -> tv.VAE:
    """One hidden layer on either side."""
    shape = x.shape[1:]
    encoder = networks.encoder(shape, [units], "tanh", tv.IndependentNormal(size))
    if name == "binarized_mnist":
        likelihood = tv.IndependentBernoulli(shape)
        decoder: Any = networks.decoder(size, [units], "tanh", likelihood)
    else:
        z = keras.Input((size,))
        h = keras.layers.Dense(units, activation="tanh")(z)
        pixels = int(np.prod(shape))
        loc = keras.layers.Dense(pixels, activation="sigmoid")(h)
        raw = keras.layers.Dense(pixels)(h)
        both = keras.layers.Concatenate()([loc, raw])
        # Without a minimum, pixels equal in all images would get a scale of 0.
        decoder = keras.Model(z, tv.IndependentNormal(shape, scale_floor=0.01)(both))
    return tv.VAE(encoder, decoder, tv.StandardNormal(size))


if __name__ == "__main__":
    main()
