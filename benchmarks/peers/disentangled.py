"""The disentangled sequential autoencoder in PyTorch: see examples/disentangled.py.

    python -m benchmarks.peers.disentangled --data-dir PATH

There is no judge: the figures are the ELBO and its KLs.
"""

import argparse
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal
from torch.distributions.kl import kl_divergence
from torch.nn import functional

import reproduction
import sprites
from benchmarks.peers import PEER
from benchmarks.peers.training import adam, fit, glorot
from benchmarks.peers.vae import normal, standard_normal

STATIC, DYNAMIC, UNITS, FILTERS, BATCH, RATE, SLOPE = 256, 32, 128, 32, 16, 2e-3, 0.2
EPOCHS = {reproduction.QUICK: 5, reproduction.FULL: 8}
START, WARM_UP = 0.01, 2 / 3  # First weight of the KL; part of training until it is 1.
FACTORISED, FULL = "factorised q", "full q"


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains and evaluates two models, and writes the result."""
    args = reproduction.parse(
        __doc__, "disentangled", argv, EPOCHS, trainings=kinds, side=PEER
    )
    title = "Disentangled Sequential Autoencoder"
    report = reproduction.Report("disentangled", title, args)
    data = sprites.load(args.data_dir)
    if args.quick:
        data = data.few(20, 5)
    steps = args.epochs * math.ceil(len(data.train) / BATCH)

    def trained(kind: str) -> None:
        model = Autoencoder(data.shape, kind)
        if args.quick:
            untrained = evaluated(model, data)[0]
            report.add(f"untrained ELBO without the constant, {kind}, nats", untrained)
        optimizer = adam(model, RATE)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

        def batches() -> Iterator[torch.Tensor]:
            for rows in torch.randperm(len(data.train)).split(BATCH):
                yield torch.from_numpy(data.compose(data.train[rows.numpy()]))

        def loss(x: torch.Tensor, step: int) -> torch.Tensor:
            epoch = step * args.epochs // steps
            weight = START ** max(0.0, 1 - epoch / (WARM_UP * args.epochs))
            nll, kl_f, kl_z = model.terms(x)
            return (nll + weight * (kl_f + kl_z)).mean()

        fit(
            model,
            loss,
            batches,
            optimizer,
            args.epochs,
            args.progress,
            kind,
            scheduler=scheduler,
        )
        names = ("test ELBO without the constant", "KL of f", "KL of z")
        for what, value in zip(names, evaluated(model, data), strict=True):
            report.add(f"{what}, {kind}, nats", value)

    for kind in kinds(args):
        report.part(kind, trained, kind)
    report.write()
    return report


def kinds(args: argparse.Namespace) -> tuple[str, ...]:
    """The posteriors of z."""
    return (FULL,) if args.quick else (FACTORISED, FULL)


class Autoencoder(nn.Module):
    """The networks of q(f|x), q(z|x, f), p(z) and p(x|f, z).

    Args:
        shape: Shape of a sequence: frames, height, width, colours.
        kind: `FACTORISED` or `FULL`.
    """

    def __init__(self, shape: tuple[int, ...], kind: str) -> None:
        super().__init__()
        _, height, width, colours = shape
        small = (FILTERS, height // 8, width // 8)
        pixels = math.prod(small)
        leaky = nn.LeakyReLU(SLOPE)
        layers: list[nn.Module] = []
        for channels in (colours, FILTERS, FILTERS):
            layers += [nn.Conv2d(channels, FILTERS, 3, 2, padding=1), leaky]
        self.frames = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(pixels, 2 * UNITS), leaky
        )
        two_ways = {"batch_first": True, "bidirectional": True}
        self.whole = nn.LSTM(2 * UNITS, UNITS, **two_ways)
        self.static = nn.Linear(2 * UNITS, 2 * STATIC)
        self.is_full = kind == FULL
        if self.is_full:
            self.both_ways = nn.LSTM(2 * UNITS + STATIC, UNITS, **two_ways)
            self.recurrent = nn.RNN(2 * UNITS, UNITS, batch_first=True)
        else:
            self.of_frame = nn.Sequential(nn.Linear(2 * UNITS, UNITS), leaky)
        self.dynamic = nn.Linear(UNITS, 2 * DYNAMIC)
        self.prior = nn.LSTM(DYNAMIC, UNITS, batch_first=True)
        self.prior_heads = nn.Linear(UNITS, 2 * DYNAMIC)
        layers = []
        for _ in range(2):
            layers += [transposed(FILTERS), leaky]
        self.decoder = nn.Sequential(
            nn.Linear(STATIC + DYNAMIC, 2 * UNITS),
            leaky,
            nn.Linear(2 * UNITS, pixels),
            leaky,
            nn.Unflatten(1, small),
            *layers,
            transposed(colours),
        )
        glorot(self)

    def terms(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """-log p(x|f, z) without the constant, KL of f, KL of z, of one draw each."""
        count, steps = x.shape[:2]
        v = self.frames(x.flatten(0, 1).movedim(-1, 1)).unflatten(0, (count, steps))
        forward, backward = self.whole(v)[0].chunk(2, -1)
        ends = torch.cat([forward[:, -1], backward[:, 0]], -1)
        q_f = normal(self.static(ends))
        f = q_f.rsample()
        each = f[:, None].expand(-1, steps, -1)
        if self.is_full:
            h = self.recurrent(self.both_ways(torch.cat([v, each], -1))[0])[0]
        else:
            h = self.of_frame(v)
        q_z = self._of_steps(self.dynamic(h))
        z = q_z.rsample()
        before = functional.pad(z[:, :-1], (0, 0, 1, 0))
        p_z = self._of_steps(self.prior_heads(self.prior(before)[0]))
        drawn = torch.cat([z, each], -1).flatten(0, 1)
        mean = self.decoder(drawn).movedim(1, -1).unflatten(0, (count, steps))
        nll = (x - mean).square().flatten(1).sum(-1) / 2
        kl_f = kl_divergence(q_f, standard_normal(STATIC))
        return nll, kl_f, kl_divergence(q_z, p_z)

    @staticmethod
    def _of_steps(raw: torch.Tensor) -> Distribution:
        loc, raw = raw.chunk(2, -1)
        return Independent(Normal(loc, functional.softplus(raw)), 2)


def transposed(channels: int) -> nn.Module:
    """A convolution that doubles height and width."""
    return nn.ConvTranspose2d(FILTERS, channels, 3, 2, 1, output_padding=1)


@torch.inference_mode()
def evaluated(model: Autoencoder, data: sprites.Sprites) -> tuple[float, float, float]:
    """The ELBO of the test sequences without the constant, and its KLs of f and z."""
    parts = []
    for first in range(0, len(data.test), BATCH):
        x = torch.from_numpy(data.compose(data.test[first : first + BATCH]))
        parts.append(torch.stack(model.terms(x)))
    nll, kl_f, kl_z = torch.cat(parts, -1).mean(-1).tolist()
    return -nll - kl_f - kl_z, kl_f, kl_z


if __name__ == "__main__":
    main()
