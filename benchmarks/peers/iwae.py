"""Importance-weighted autoencoders in PyTorch: see examples/iwae.py.

    python -m benchmarks.peers.iwae --data-dir PATH

Its options are those of the example.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

import datasets
import reproduction
from benchmarks.peers import PEER
from benchmarks.peers.training import adam, fit, glorot, grey, load, observed, shuffled
from benchmarks.peers.vae import VAE, dense, normal, standard_normal

LATENT, HIDDEN, BATCH = 50, [200, 200], 100
EPOCHS = {reproduction.QUICK: 12, reproduction.FULL: 20}
DRAWS = (1, 5, 50)


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains a model for each k, compares log p(x) and writes the result."""
    args = reproduction.parse(
        __doc__,
        "iwae",
        argv,
        EPOCHS,
        trainings=lambda args: [*map(name, DRAWS)],
        side=PEER,
    )
    report = reproduction.Report("iwae", "Importance-weighted autoencoders", args)
    images = load("mnist", args)
    if args.quick:
        images = datasets.few(images, 2000, 200)
    draws = 500 if args.quick else 5000
    x, (test,) = grey(images), observed(images.levels, args.seed, images.test)
    steps = args.epochs * math.ceil(len(x) / BATCH)

    def trained(k: int) -> float:
        vae = build(x)
        if args.quick and k == min(DRAWS):
            before = -vae.log_prob(test, draws).mean()
            report.add("untrained -log p(x), nats", before)
        optimizer = adam(vae, 1e-3, eps=1e-4)
        fit(
            vae,
            lambda batch, step: -vae.bound(batch, k).mean(),
            shuffled(x, BATCH, binarize=True),
            optimizer,
            args.epochs,
            args.progress,
            name(k),
            scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        )
        found = -vae.log_prob(test, draws).mean()
        what = f"-log p(x), k = {k}, nats, {draws} draws"
        report.add(what, found, higher_is_better=False)
        return float(found)

    found = {k: report.part(name(k), trained, k) for k in DRAWS}
    for fewer, more in ((1, 5), (5, 50)):
        what = f"gain of k = {more} over k = {fewer}, nats"
        report.add(what, found[fewer] - found[more])
    report.write()
    return report


def name(k: int) -> str:
    """The name of a training."""
    return f"k = {k}"


def build(x: torch.Tensor) -> VAE:
    """784-200-200-50 and back; the logits start at those of the mean image."""
    vae = VAE(
        dense([784, *HIDDEN, 2 * LATENT], nn.Tanh),
        normal,
        dense([LATENT, *HIDDEN, 784], nn.Tanh),
        standard_normal(LATENT),
    )
    glorot(vae)
    with torch.no_grad():
        last = [part for part in vae.decoder.modules() if isinstance(part, nn.Linear)]
        last[-1].bias.copy_(x.mean(0).clamp(0.001, 0.999).logit())
    return vae


if __name__ == "__main__":
    main()
