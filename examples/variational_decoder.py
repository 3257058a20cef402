"""Random weights in the decoder of a VAE, beside point weights, on few images.

    python examples/variational_decoder.py --data-dir PATH
    python examples/variational_decoder.py --data-dir PATH --budget quick

Appendix F of Kingma and Welling, Auto-Encoding Variational Bayes, 2014,
https://arxiv.org/abs/1312.6114: the weights of the decoder have a prior and a
posterior. Here both are normal, and the scale of the prior is learned for each kernel
and bias. The networks are 784-200-20 and back, the data the first 100, 1,000 and 10,000
images of the static binarized MNIST, with the same number of steps for each. Is there
less overfitting than with point weights, at the last epoch, and at the epoch that is
best on the validation images? The posterior starts near a point, and its KL takes
thousands of steps to fall: the best epoch of few images is before that.
"""

import argparse
import dataclasses
import itertools
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

LATENT, HIDDEN, BATCH = 20, 200, 100
SIZES = {reproduction.QUICK: (100,), reproduction.FULL: (100, 1000, 10000)}
# Of the largest set; the others have as many steps.
EPOCHS = {reproduction.QUICK: 100, reproduction.FULL: 60}
PLACES = {reproduction.QUICK: 4, reproduction.FULL: 24}
BOUND_DRAWS = 5
REASON = (
    "the reference is the same VAE with point weights, trained here; smaller sets "
    "train for as many steps as the largest, and so for more epochs"
)
POINT, RANDOM = "point weights", "random weights"
COLOURS = {POINT: "#d55e00", RANDOM: "#0072b2"}  # of Okabe and Ito


@dataclasses.dataclass
class Course:
    """The course of a training; for random weights `best` also has their scales.

    Args:
        epochs: When the bounds were computed.
        train: ELBO of the training images, nats.
        valid: ELBO of the validation images, nats.
        weights_kl: KL of the weights, nats; 0 for point weights.
        best: The weights that are best on the validation images.
        kl_of_best: KL of the weights then, nats.
    """

    epochs: list[int] = dataclasses.field(default_factory=list)
    train: list[float] = dataclasses.field(default_factory=list)
    valid: list[float] = dataclasses.field(default_factory=list)
    weights_kl: list[float] = dataclasses.field(default_factory=list)
    best: Any = None
    kl_of_best: float = 0.0


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains with each kind of weights on each set, compares, and writes the result."""
    args = reproduction.parse(
        __doc__, "variational_decoder", argv, EPOCHS, trainings=trainings
    )
    sizes = SIZES[args.budget]
    report = reproduction.Report(
        "variational_decoder",
        "Random decoder weights",
        args,
        f"{args.epochs} epochs of {max(sizes):,} images",
    )
    images = datasets.load("binarized_mnist", args.data_dir, args.seed)
    few = datasets.few(images, max(sizes), 200 if args.quick else 2000)
    parts = (few.train, few.valid, few.test)
    x, valid, test = (np.asarray(part, "float32") for part in parts)
    steps = args.epochs * max(sizes) // BATCH
    draws = 20 if args.quick else 200
    if args.quick:
        vae = build(RANDOM, x.shape[1:])
        report.add(
            "untrained log p(x), nats", vae.log_prob(test, draws, verbose=0).mean()
        )

    def trained(size: int, kind: str) -> tuple[dict[str, Any], dict[str, float]]:
        print(name(size, kind))
        vae = build(kind, x.shape[1:])
        vae.compile(keras.optimizers.Adam(1e-3))
        epochs = steps * BATCH // size
        course = train(report, name(size, kind), vae, x[:size], valid[:1000], epochs)
        found = figures(vae, course, test, draws)
        course.best = None
        return dataclasses.asdict(course), found

    courses = {}
    for size in sizes:
        found = {}
        for kind in (POINT, RANDOM):
            course, found[kind] = report.part(name(size, kind), trained, size, kind)
            courses[size, kind] = Course(**course)
        for what, value in found[RANDOM].items():
            report.add(
                f"{what}, {size:,} images",
                value,
                found[POINT][what],
                "point weights, trained here",
                higher_is_better="minus" not in what,
                reason=REASON,
                budget="the same epochs",
            )
        course = courses[size, RANDOM]
        ends = {"": course.weights_kl[-1], " at the best epoch": course.kl_of_best}
        for when, kl in ends.items():
            what = f"KL of the weights{when}, {size:,} images, nats"
            report.add(what, kl)
            report.add(f"{what} an image", kl / size)
    report.picture("held-out bound", curves(courses))
    report.write()
    return report


def name(size: int, kind: str) -> str:
    """The name of a training."""
    return f"{size:,} images, {kind}"


def trainings(args: argparse.Namespace) -> list[str]:
    """The names of all trainings."""
    return [name(size, kind) for size in SIZES[args.budget] for kind in (POINT, RANDOM)]


def build(kind: str, shape: tuple[int, ...]) -> tv.VAE:
    """784-200-20 and back, with ReLU."""
    posterior, likelihood = tv.IndependentNormal(LATENT), tv.IndependentBernoulli(shape)
    decoder: Any = networks.decoder(LATENT, [HIDDEN], "relu", likelihood)
    if kind == RANDOM:
        random = tv.Variational(decoder, prior="normal", initial_scale=1e-3)
        decoder = keras.Sequential([keras.Input((LATENT,)), random])
    return tv.VAE(
        networks.encoder(shape, [HIDDEN], "relu", posterior),
        decoder,
        tv.StandardNormal(LATENT),
    )


def figures(
    vae: tv.VAE, course: Course, test: np.ndarray, draws: int
) -> dict[str, float]:
    """The bound and log p(x) of the test images, at the end and at the best epoch."""
    bound = vae.elbo(test, BOUND_DRAWS).mean()
    found = {
        "training minus test ELBO, nats": course.train[-1] - bound,
        "test ELBO, nats": bound,
        "test log p(x), nats": vae.log_prob(test, draws, verbose=0).mean(),
    }
    vae.set_weights(course.best)
    return {
        **found,
        "best epoch": course.epochs[int(np.argmax(course.valid))],
        "test ELBO at the best epoch, nats": vae.elbo(test, BOUND_DRAWS).mean(),
        "test log p(x) at the best epoch, nats": vae.log_prob(
            test, draws, verbose=0
        ).mean(),
    }


def train(
    report: reproduction.Report,
    name: str,
    vae: tv.VAE,
    x: np.ndarray,
    valid: np.ndarray,
    epochs: int,
) -> Course:
    """Trains, and computes the bounds at epochs that are spaced logarithmically."""
    course, places = Course(), PLACES[report.args.budget]
    ends = np.unique(np.geomspace(1, epochs, places).round().astype(int)).tolist()
    for begin, end in itertools.pairwise([0, *ends]):
        options = {"batch_size": BATCH, "initial_epoch": begin, "verbose": 0}
        what = f"{name}, to epoch {end}"
        history = report.fit(what, vae, x, epochs=end, **options).history
        course.epochs.append(end)
        course.train.append(vae.elbo(x[: len(valid)], BOUND_DRAWS).mean())
        course.valid.append(vae.elbo(valid, BOUND_DRAWS).mean())
        course.weights_kl.append(history.get("weights_kl", [0.0])[-1])
        print(
            f"epoch {end}: ELBO {course.train[-1]:.2f}, validation "
            f"{course.valid[-1]:.2f}, KL of the weights {course.weights_kl[-1]:.0f}",
            flush=True,
        )
        if course.valid[-1] == max(course.valid):
            course.best = vae.get_weights()
            course.kl_of_best = course.weights_kl[-1]
    return course


def curves(courses: dict[tuple[int, str], Course]) -> Figure:
    """The bound of validation and training images against epochs, for each set."""
    sizes = list(dict.fromkeys(size for size, _ in courses))
    figure = Figure(figsize=(4 * len(sizes), 3.6), layout="constrained")
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for (size, kind), course in courses.items():
        axes = panels[sizes.index(size)]
        style = {"color": COLOURS[kind], "label": f"{kind}, validation"}
        axes.plot(course.epochs, course.valid, "o-", markersize=3, **style)
        style["label"] = f"{kind}, training"
        axes.plot(course.epochs, course.train, "--", **style)
        axes.set(xscale="log", xlabel="epochs", title=f"{size:,} images")
    top = max(max(course.train) for course in courses.values())
    panels[0].set(ylabel="ELBO, nats per image", ylim=(-260, top + 5))
    panels[0].legend(fontsize="small")
    return figure


if __name__ == "__main__":
    main()
