"""Nearest neighbours among latents in PyTorch and scikit-learn: see examples/m1_knn.py.

    python -m benchmarks.peers.m1_knn --data-dir PATH

Its options are those of the example.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

import datasets
import reproduction
from benchmarks.peers import PEER
from benchmarks.peers.hyperspherical_vae import BATCH, FISHER, NORMAL, build, name
from benchmarks.peers.training import adam, fit, flat, grey, load, shuffled
from benchmarks.peers.vae import VAE

LABELS, NEIGHBOURS, REPEATS = (100, 600, 1000), 5, 20
EPOCHS = {reproduction.QUICK: 4, reproduction.FULL: 10}


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains, classifies and writes the result."""
    args = reproduction.parse(
        __doc__, "m1_knn", argv, EPOCHS, trainings=trainings, side=PEER
    )
    report = reproduction.Report("m1_knn", "M1 with k-NN on latents", args)
    images = load("mnist", args)
    if args.quick:
        images = datasets.few(images, 2000, 500)
    x, test = grey(images), flat(images.test) / (images.levels - 1)

    def trained(kind: str, size: int) -> None:
        vae = build(kind, size)

        def scores() -> list[float]:
            classes = (images.train_labels, images.test_labels)
            return accuracies(vae, (x, test), classes, args.seed, kind)

        if args.quick:
            report.add(f"untrained %, {kind}, {LABELS[0]} labels", scores()[0])
        fit(
            vae,
            lambda batch, step: -vae.elbo(batch).mean(),
            shuffled(x, BATCH, binarize=True),
            adam(vae, 1e-3),
            args.epochs,
            args.progress,
            name(kind, size),
        )
        for labels, score in zip(LABELS, scores(), strict=True):
            report.add(f"accuracy, %, d = {size}, {kind}, {labels} labels", score)

    for kind, size in models(args):
        report.part(name(kind, size), trained, kind, size)
    report.write()
    return report


def models(args: argparse.Namespace) -> list[tuple[str, int]]:
    """The kind of posterior and the dimension of each model."""
    sizes = (5,) if args.quick else (2, 5, 10)
    return [(kind, size) for size in sizes for kind in (NORMAL, FISHER)]


def trainings(args: argparse.Namespace) -> list[str]:
    """The names of all trainings."""
    return [name(*model) for model in models(args)]


def accuracies(
    vae: VAE,
    images: tuple[torch.Tensor, torch.Tensor],
    classes: tuple[Any, Any],
    seed: int,
    kind: str,
) -> list[float]:
    """Accuracies of nearest neighbours among few labelled images.

    Args:
        vae: The model.
        images: Training and test images.
        classes: Their classes.
        seed: Seed of the choice of the labelled images, equally many of each class.
        kind: The kind of posterior.

    Returns:
        Percent for each number of labels, the mean over choices.
    """
    with torch.inference_mode():
        train, test = (vae.posterior(part).mode.numpy() for part in images)
    metric = "euclidean" if kind == NORMAL else "cosine"
    found = []
    draws = np.random.default_rng([seed, 1])
    for labels in LABELS:
        scores = []
        for _ in range(REPEATS):
            order = draws.permutation(len(train))
            ordered = classes[0][order]
            each = [order[ordered == k][: labels // 10] for k in range(10)]
            rows = np.concatenate(each)
            classifier = KNeighborsClassifier(NEIGHBOURS, metric=metric)
            classifier.fit(train[rows], classes[0][rows])
            scores.append(classifier.score(test, classes[1]))
        found.append(100 * float(np.mean(scores)))
    return found


if __name__ == "__main__":
    main()
