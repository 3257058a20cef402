"""Few labels: nearest neighbours among the latents of a VAE trained without them (M1).

    python examples/m1_knn.py --data-dir PATH
    python examples/m1_knn.py --data-dir PATH --budget quick

Kingma et al., Semi-supervised Learning with Deep Generative Models, 2014 (M1), with the
posteriors and the table of Davidson et al., 2018, https://arxiv.org/abs/1804.00891. The
class of a test image comes from the 5 nearest latent means of 100, 600 or 1000 labelled
images: by distance for the normal, by angle on the sphere.
"""

import argparse
import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier

import datasets
import reproduction
from hyperspherical_vae import FISHER, NORMAL, build, name
from pixels import batches

LABELS, NEIGHBOURS, REPEATS, BATCH = (100, 600, 1000), 5, 20, 64
EPOCHS = {reproduction.QUICK: 4, reproduction.FULL: 10}
# Accuracy in % by dimension, for each number of labels, as slide 11 of
# raphaelrubrice/HVAE quotes table 2 of the paper.
PUBLISHED = {
    NORMAL: {2: (72.6, 80.8, 81.7), 5: (81.8, 90.9, 92.0), 10: (75.7, 88.4, 90.2)},
    FISHER: {2: (77.9, 84.9, 85.6), 5: (87.5, 92.8, 93.4), 10: (80.6, 91.2, 92.8)},
}
SOURCE = "Davidson et al., table 2"
BUDGET = "{epochs} epochs of Adam at 1e-3, 5 neighbours: the source has neither number"


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains, classifies, plots and writes the result."""
    args = reproduction.parse(__doc__, "m1_knn", argv, EPOCHS, trainings=trainings)
    report = reproduction.Report("m1_knn", "M1 with k-NN on latents", args)
    images = datasets.load("mnist", args.data_dir, args.seed)
    if args.quick:
        images = datasets.few(images, 2000, 500)

    def trained(kind: str, size: int) -> list[float]:
        vae = build(kind, size, images.train.shape[1:])
        if args.quick:
            scores = accuracies(vae, images, args.seed)
            report.add(f"untrained %, {kind}, {LABELS[0]} labels", scores[0])
        vae.compile(keras.optimizers.Adam(1e-3))
        train = batches(images, "bernoulli", BATCH, args.seed)
        report.fit(name(kind, size), vae, train, epochs=args.epochs, verbose=2)
        found = accuracies(vae, images, args.seed)
        for i, labels in enumerate(LABELS):
            report.add(
                f"accuracy, %, d = {size}, {kind}, {labels} labels",
                found[i],
                PUBLISHED[kind][size][i],
                SOURCE,
                tolerance=1.0,
                reason=BUDGET.format(epochs=args.epochs),
                budget="not stated",
            )
        return found

    found = {}
    for kind, size in models(args):
        found[kind, size] = report.part(name(kind, size), trained, kind, size)
    report.picture("accuracies", bars(found))
    report.write()
    return report


def models(args: argparse.Namespace) -> list[tuple[str, int]]:
    """The kind of posterior and the dimension of each model."""
    sizes = (5,) if args.quick else (2, 5, 10)
    return [(kind, size) for size in sizes for kind in (NORMAL, FISHER)]


def trainings(args: argparse.Namespace) -> list[str]:
    """The names of all trainings."""
    return [name(*model) for model in models(args)]


def accuracies(vae: keras.Model, images: datasets.Images, seed: int) -> list[float]:
    """Accuracy in percent, the mean over random choices of the labelled images."""
    train, test = (
        np.asarray(vae.encode(np.asarray(part, "float32") / 255).mean())
        for part in (images.train, images.test)
    )
    if images.train_labels is None or images.test_labels is None:
        raise ValueError("M1 expects labelled images. Received: none. Use MNIST.")
    rng = np.random.default_rng(seed)
    metric = "cosine" if vae.prior.name.startswith("spherical") else "euclidean"
    means = []
    for labels in LABELS:
        scores = []
        for _ in range(REPEATS):
            rows = balanced(images.train_labels, labels, rng)
            classifier = KNeighborsClassifier(NEIGHBOURS, metric=metric)
            classifier.fit(train[rows], images.train_labels[rows])
            scores.append(classifier.score(test, images.test_labels))
        means.append(100 * float(np.mean(scores)))
    return means


def balanced(classes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of `count` examples, the same number of each class."""
    kinds = np.unique(classes)
    of_each = count // len(kinds)
    rows = [np.flatnonzero(classes == kind) for kind in kinds]
    return np.concatenate([rng.choice(row, of_each, replace=False) for row in rows])


def bars(found: dict[tuple[str, int], list[float]]) -> Figure:
    """The accuracies, grouped by the number of labels."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(found)
    for i, ((kind, size), values) in enumerate(found.items()):
        places = np.arange(len(LABELS)) + i * width
        axes.bar(places, values, width, label=f"{kind}, d = {size}")
    axes.set_xticks(np.arange(len(LABELS)) + 0.4 - width / 2, map(str, LABELS))
    axes.set(xlabel="labels", ylabel="accuracy, %", ylim=(40, 100))
    figure.legend(ncols=3, fontsize="small", loc="outside upper center")
    return figure


if __name__ == "__main__":
    main()
