"""Importance-weighted autoencoders with k = 1, 5, 50 on dynamically binarized MNIST.

    python examples/iwae.py --data-dir PATH
    python examples/iwae.py --data-dir PATH --budget quick

Burda et al., Importance Weighted Autoencoders, 2015, https://arxiv.org/abs/1509.00519,
one stochastic layer: 784-200-200-50 and back with tanh; pixel biases start at the
means; every batch is binarized anew. log p(x) is estimated with 5,000 draws. A picture
has it against the epochs, with 500 draws, beside published values of longer training.
"""

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
from pixels import batches, observe

LATENT, HIDDEN, BATCH = 50, (200, 200), 100
EPOCHS = {reproduction.QUICK: 12, reproduction.FULL: 20}
PUBLISHED = {1: 86.76, 5: 85.54, 50: 84.78}  # -log p(x) by k
SOURCE = "Burda et al., as nbip/IWAE quotes it, 5000 draws"
THEIRS = "3,280 epochs in batches of 20"
# -log p(x) by the number of epochs. The first is abdulfatir/IWAE-tensorflow, which has
# 400,000 batches of 100.
LONGER = {667: {1: 90.26, 5: 88.49, 50: 87.34}, 3280: PUBLISHED}
BUDGET = (
    "here {epochs} epochs of 60,000 images in batches of 100, with Adam's learning "
    "rate lowered from 1e-3 to 0 by a cosine schedule; the paper's code has 3,280 "
    "epochs of 59,600 images in batches of 20, and lowers the rate in eight stages"
)


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains a model for each k, compares log p(x) and writes the result."""
    args = reproduction.parse(
        __doc__, "iwae", argv, EPOCHS, trainings=lambda args: [*map(name, PUBLISHED)]
    )
    report = reproduction.Report("iwae", "Importance-weighted autoencoders", args)
    images = datasets.load("mnist", args.data_dir, args.seed)
    if args.quick:
        images = datasets.few(images, 2000, 200)
    draws = 500 if args.quick else 5000
    test = observe(images.test, [args.seed, 1], images.levels, "bernoulli").numpy()
    steps = args.epochs * -(-len(images.train) // BATCH)
    shown = sorted({max(1, args.epochs // 2**i) for i in range(5)})

    def trained(k: int) -> tuple[float, list[float]]:
        vae = build(images.train / (images.levels - 1), k)
        if args.quick and k == min(PUBLISHED):
            before = -vae.log_prob(test, draws).mean()
            report.add("untrained -log p(x), nats", before)
        rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
        vae.compile(keras.optimizers.Adam(rate, epsilon=1e-4))
        train = batches(images, "bernoulli", BATCH, args.seed)

        def end(epoch: int, logs: Any) -> None:
            if epoch + 1 in shown:
                values = vae.log_prob(test, draws // 10, seed=args.seed, verbose=0)
                logs["test_nll"] = -values.mean()

        watch = keras.callbacks.LambdaCallback(on_epoch_end=end)
        options = {"epochs": args.epochs, "callbacks": [watch], "verbose": 2}
        history = report.fit(name(k), vae, train, **options).history
        found = -vae.log_prob(test, draws).mean()
        report.add(
            f"-log p(x), k = {k}, nats, {draws} draws",
            found,
            PUBLISHED[k],
            SOURCE,
            tolerance=0.5,
            higher_is_better=False,
            reason=BUDGET.format(epochs=args.epochs),
            budget=THEIRS,
        )
        report.picture(f"samples k = {k}", tv.plots.plot_samples(vae, 100, seed=0))
        return found, history["test_nll"]

    parts = {k: report.part(name(k), trained, k) for k in PUBLISHED}
    found = {k: value for k, (value, _) in parts.items()}
    for fewer, more in ((1, 5), (5, 50)):
        report.add(
            f"gain of k = {more} over k = {fewer}, nats",
            found[fewer] - found[more],
            PUBLISHED[fewer] - PUBLISHED[more],
            SOURCE,
            tolerance=0.3,
            reason=BUDGET.format(epochs=args.epochs),
            budget=THEIRS,
        )
    report.picture("draws", by_draws(found))
    report.picture("epochs", by_epochs(shown, {k: v for k, (_, v) in parts.items()}))
    report.write()
    return report


def name(k: int) -> str:
    """The name of a training."""
    return f"k = {k}"


def build(x: np.ndarray, k: int) -> tv.VAE:
    """Two hidden layers on either side, and the bound of k draws."""
    shape = x.shape[1:]
    likelihood = tv.IndependentBernoulli(shape)
    mean = np.clip(x.mean(axis=0).ravel(), 0.001, 0.999)
    logits = keras.initializers.Constant(np.log(mean / (1 - mean)))
    return tv.VAE(
        networks.encoder(shape, HIDDEN, "tanh", tv.IndependentNormal(LATENT)),
        networks.decoder(LATENT, HIDDEN, "tanh", likelihood, bias_initializer=logits),
        tv.StandardNormal(LATENT),
        tv.ImportanceWeightedBound(k),
    )


def by_draws(found: dict[int, float]) -> Figure:
    """-log p(x) against k."""
    figure = Figure(figsize=(4.5, 3), layout="constrained")
    axes = figure.subplots()
    for label, values in {"here": found, "published": PUBLISHED}.items():
        axes.plot(list(values), list(values.values()), "o-", label=label)
    axes.set(xscale="log", xlabel="k", ylabel="-log p(x) of test images, nats")
    axes.legend()
    return figure


def by_epochs(epochs: list[int], found: dict[int, list[float]]) -> Figure:
    """-log p(x) against the epochs, with the published values of longer training."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for k, values in found.items():
        (line,) = axes.plot(epochs, values, "o-", label=f"k = {k}")
        published = [values[k] for values in LONGER.values()]
        axes.plot([*LONGER], published, "x:", color=line.get_color())
    axes.plot([], [], "x:", color="0.5", label="published")
    axes.set(xscale="log", xlabel="epochs", ylabel="-log p(x) of test images, nats")
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
