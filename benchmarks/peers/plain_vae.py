"""The VAE of the pythae benchmark in PyTorch: see examples/plain_vae.py.

    python -m benchmarks.peers.plain_vae --data-dir PATH

Its options are those of the example.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal

import datasets
import reproduction
from benchmarks.peers import PEER
from benchmarks.peers.training import fit, flat, load, shuffled
from benchmarks.peers.vae import VAE, dense, standard_normal

LATENT, HIDDEN, BATCH, DRAWS = 40, 400, 100, 200
EPOCHS = {reproduction.QUICK: 10, reproduction.FULL: 500}
LOWER_AT, FACTOR = (200, 350, 500, 750, 1000), 10 ** (-1 / 5)


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains, evaluates and writes the result."""
    args = reproduction.parse(__doc__, "plain_vae", argv, EPOCHS, side=PEER)
    report = reproduction.Report("plain_vae", "VAE of the pythae benchmark", args)
    images = load("binarized_mnist", args)
    if args.quick:
        images = datasets.few(images, 2000, 200)
    x, valid, test = map(flat, (images.train, images.valid, images.test))

    def trained() -> None:
        vae = build()
        if args.quick:
            before = -vae.log_prob(test, DRAWS).mean()
            report.add("untrained -log p(x), nats", before)
        rate = 1e-3 if args.quick else 1e-4
        optimizer = torch.optim.Adam(vae.parameters(), rate, fused=True)
        steps = -(-len(x) // BATCH)
        lower_at = [] if args.quick else [epoch * steps for epoch in LOWER_AT]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, lower_at, FACTOR)
        fit(
            vae,
            lambda batch, step: -vae.elbo(batch).mean(),
            shuffled(x, BATCH),
            optimizer,
            args.epochs,
            args.progress,
            scheduler=scheduler,
            validate=lambda: -vae.mean_elbo(valid),
        )
        found = -vae.log_prob(test, DRAWS).mean()
        report.add(f"-log p(x), nats, {DRAWS} draws", found, higher_is_better=False)
        report.add("-ELBO, nats", -vae.mean_elbo(test, 10), higher_is_better=False)

    report.part(reproduction.TRAINING, trained)
    report.write()
    return report


def build() -> VAE:
    """784-400-40 and back, with ReLU."""
    return VAE(
        dense([784, HIDDEN, 2 * LATENT], nn.ReLU),
        of_log_variances,
        dense([LATENT, HIDDEN, 784], nn.ReLU),
        standard_normal(LATENT),
    )


def of_log_variances(parameters: torch.Tensor) -> Distribution:
    """Independent normal laws from locs and log variances."""
    loc, log_variance = parameters.chunk(2, -1)
    return Independent(Normal(loc, (log_variance / 2).exp()), 1)


if __name__ == "__main__":
    main()
