"""TFP's convolutional VAE in PyTorch: see examples/conv_vae.py.

    python -m benchmarks.peers.conv_vae --data-dir PATH

Its options are those of the example.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.distributions import Distribution, MultivariateNormal
from torch.nn import functional

import datasets
import reproduction
from benchmarks.peers import PEER
from benchmarks.peers.training import adam, fit, flat, glorot, load, shuffled
from benchmarks.peers.vae import VAE

LATENT, FILTERS, BATCH, CORNER, SLOPE = 16, 32, 32, 7, 0.2
EPOCHS = {reproduction.QUICK: 2, reproduction.FULL: 32}


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains, evaluates and writes the result."""
    args = reproduction.parse(__doc__, "conv_vae", argv, EPOCHS, side=PEER)
    report = reproduction.Report("conv_vae", "TFP's convolutional VAE", args)
    images = load("binarized_mnist", args)
    if args.quick:
        images = datasets.few(images, 1000, 100)
    x, test = map(flat, (images.train, images.test))
    steps = args.epochs * math.ceil(len(x) / BATCH)

    def trained() -> None:
        vae = build().to(memory_format=torch.channels_last)
        if args.quick:
            report.add("untrained -ELBO, nats", -vae.mean_elbo(test))
        optimizer = adam(vae, 1e-3)
        fit(
            vae,
            lambda batch, step: -vae.elbo(batch).mean(),
            shuffled(x, BATCH),
            optimizer,
            args.epochs,
            args.progress,
            scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        )
        found = -vae.mean_elbo(test, 5)
        report.add("test -ELBO, nats", found, higher_is_better=False)
        report.add("test KL, nats", vae.mean_kl(test))

    report.part(reproduction.TRAINING, trained)
    report.write()
    return report


def build() -> VAE:
    """Convolutions down to one position, and back."""
    layers: list[nn.Module] = [Rescaling(), nn.Unflatten(1, (1, 28, 28))]
    channels = 1
    for filters, stride in ((1, 1), (1, 2), (2, 1), (2, 2)):
        convolution = nn.Conv2d(channels, filters * FILTERS, 5, stride, padding=2)
        layers += [convolution, nn.LeakyReLU(SLOPE)]
        channels = filters * FILTERS
    width = LATENT + LATENT * (LATENT + 1) // 2
    encoder = nn.Sequential(
        *layers,
        nn.Conv2d(channels, 4 * LATENT, CORNER),
        nn.LeakyReLU(SLOPE),
        nn.Flatten(),
        nn.Linear(4 * LATENT, width),
    )

    layers = [nn.Unflatten(-1, (LATENT, 1, 1))]
    layers += [nn.ConvTranspose2d(LATENT, 2 * FILTERS, CORNER), nn.LeakyReLU(SLOPE)]
    channels = 2 * FILTERS
    for filters, stride in ((2, 1), (2, 2), (1, 1), (1, 2), (1, 1)):
        layers += [
            nn.ConvTranspose2d(
                channels, filters * FILTERS, 5, stride, 2, output_padding=stride - 1
            ),
            nn.LeakyReLU(SLOPE),
        ]
        channels = filters * FILTERS
    decoder = nn.Sequential(*layers, nn.Conv2d(channels, 1, 5, padding=2), nn.Flatten())
    prior = MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT))
    vae = VAE(encoder, full, decoder, prior)
    glorot(vae)
    return vae


def full(parameters: torch.Tensor) -> Distribution:
    """A normal law with any covariance: locs, then the rows of a triangle."""
    loc, raw = parameters.split([LATENT, parameters.shape[-1] - LATENT], -1)
    triangle = torch.zeros(*loc.shape, LATENT)
    rows, columns = torch.tril_indices(LATENT, LATENT)
    triangle[..., rows, columns] = raw
    diagonal = functional.softplus(triangle.diagonal(dim1=-2, dim2=-1))
    return MultivariateNormal(
        loc, scale_tril=triangle.tril(-1) + torch.diag_embed(diagonal)
    )


class Rescaling(nn.Module):
    """From [0, 1] to [-1, 1]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """2 x - 1."""
        return 2 * x - 1


if __name__ == "__main__":
    main()
