"""Hyperspherical VAEs in PyTorch: see examples/hyperspherical_vae.py.

    python -m benchmarks.peers.hyperspherical_vae --data-dir PATH --dimensions 10

Its options are those of the example.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.distributions import Distribution
from torch.nn import functional

import datasets
import few_labels
import reproduction
from benchmarks.peers import PEER
from benchmarks.peers.sphere import PowerSpherical, SphericalUniform, VonMisesFisher
from benchmarks.peers.training import (
    adam,
    fit,
    flat,
    glorot,
    grey,
    load,
    observed,
    shuffled,
)
from benchmarks.peers.vae import VAE, dense, normal, standard_normal

HIDDEN, BATCH, DRAWS = [256, 128], 64, 500
EPOCHS = {reproduction.QUICK: 4, reproduction.FULL: 250}
WARM_UP, PATIENCE = 0.2, 50
NORMAL, FISHER, POWER = "normal", "von Mises-Fisher", "power spherical"
KINDS = (NORMAL, FISHER, POWER)
LABELS = (100, 600, 1000)


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains a model for each dimension and posterior, and writes the result."""

    def options(parser: argparse.ArgumentParser) -> None:
        dimensions = "default 2 5 10 20; quick 2"
        parser.add_argument("--dimensions", nargs="+", type=int, help=dimensions)

    args = reproduction.parse(
        __doc__, "hyperspherical_vae", argv, EPOCHS, options, trainings, PEER
    )
    report = reproduction.Report("hyperspherical_vae", "Hyperspherical VAE", args)
    images = load("mnist", args)
    if args.quick:
        images = datasets.few(images, 2000, 200)
    count = len(images.train) // 10
    held_out = images.train[-count:]
    every = grey(images)
    x = every[:-count]
    parts = x, every[-count:], flat(images.test) / (images.levels - 1)
    of_training, of_test = images.classes()
    classes = [*np.split(of_training, [len(x)]), of_test]
    test, valid = observed(images.levels, args.seed, images.test, held_out)

    def trained(kind: str, size: int) -> None:
        warm_up = WARM_UP * args.epochs * math.ceil(len(x) / BATCH)
        vae = build(kind, size)
        if args.quick:
            before = vae.log_prob(test, DRAWS).mean()
            report.add(f"untrained log p(x), d = {size}, {kind}", before)
        fit(
            vae,
            lambda batch, step: -vae.elbo(batch, min(1.0, step / warm_up)).mean(),
            shuffled(x, BATCH, binarize=True),
            adam(vae, 1e-3),
            args.epochs,
            args.progress,
            name(kind, size),
            validate=lambda: -vae.mean_elbo(valid),
            start=int(WARM_UP * args.epochs),
            patience=PATIENCE,
        )
        found = vae.log_prob(test, DRAWS).mean()
        report.add(f"log p(x), d = {size}, {kind}, nats", found)
        with torch.inference_mode():
            known, chosen, asked = (
                few_labels.Codes(vae.posterior(part).mode.numpy(), classes_of_part)
                for part, classes_of_part in zip(parts, classes, strict=True)
            )
        metric = "euclidean" if kind == NORMAL else "cosine"
        for labels in LABELS[:1] if args.quick else LABELS:
            score = few_labels.accuracy(known, chosen, asked, labels, metric, args.seed)
            report.add(f"accuracy, %, d = {size}, {kind}, {labels} labels", score)

    for size in sizes(args):
        for kind in KINDS:
            report.part(name(kind, size), trained, kind, size)
    report.write()
    return report


def sizes(args: argparse.Namespace) -> tuple[int, ...]:
    """The dimensions."""
    return tuple(args.dimensions or ((2,) if args.quick else (2, 5, 10, 20)))


def name(kind: str, size: int) -> str:
    """The name of a training."""
    return f"d = {size}, {kind}"


def trainings(args: argparse.Namespace) -> list[str]:
    """The names of all trainings."""
    return [name(kind, size) for size in sizes(args) for kind in KINDS]


def build(kind: str, size: int) -> VAE:
    """784-256-128 and back, with ReLU."""
    coordinates = size if kind == NORMAL else size + 1
    width = 2 * size if kind == NORMAL else coordinates + 1
    laws = {NORMAL: normal, FISHER: fisher, POWER: power}
    vae = VAE(
        dense([784, *HIDDEN, width], nn.ReLU),
        laws[kind],
        dense([coordinates, *HIDDEN[::-1], 784], nn.ReLU),
        standard_normal(size) if kind == NORMAL else SphericalUniform(coordinates),
    )
    glorot(vae)
    return vae


def fisher(parameters: torch.Tensor) -> Distribution:
    """A von Mises-Fisher law, whose concentration is above 1."""
    return VonMisesFisher(*directed(parameters))


def power(parameters: torch.Tensor) -> Distribution:
    """A power spherical law, whose concentration is above 1."""
    return PowerSpherical(*directed(parameters))


def directed(parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A unit vector, and 1 + softplus of the last number."""
    loc = functional.normalize(parameters[..., :-1], dim=-1)
    return loc, 1 + functional.softplus(parameters[..., -1:])


if __name__ == "__main__":
    main()
