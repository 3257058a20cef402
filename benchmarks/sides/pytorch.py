"""PyTorch, eager: tensors in memory, batches by index, a fused Adam."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.cases import Case, split


def networks(case: Case) -> tuple[nn.Module, nn.Module]:
    """Encoder to mean and log-variance, and decoder to logits.

    Args:
        case: The model.

    Returns:
        The two.
    """
    width = 2 * case.latent
    if case.network == "mlp":
        return (
            nn.Sequential(
                nn.Linear(case.pixels, case.hidden),
                nn.ReLU(),
                nn.Dropout(case.dropout),
                nn.Linear(case.hidden, width),
            ),
            nn.Sequential(
                nn.Linear(case.latent, case.hidden),
                nn.ReLU(),
                nn.Dropout(case.dropout),
                nn.Linear(case.hidden, case.pixels),
            ),
        )
    first, second = case.filters
    height, across, channels = case.small
    flat = height * across * channels
    encoder = nn.Sequential(
        nn.Conv2d(1, first, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, width),
    )
    decoder = nn.Sequential(
        nn.Linear(case.latent, flat),
        nn.ReLU(),
        nn.Unflatten(1, (channels, height, across)),
        nn.ConvTranspose2d(second, second, 3, stride=2, padding=1, output_padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(second, first, 3, stride=2, padding=1, output_padding=1),
        nn.ReLU(),
        nn.Conv2d(first, 1, 3, padding=1),
        nn.Flatten(),
    )
    return encoder, decoder


class Trainer:
    """The networks and their optimizer.

    Args:
        case: The model.
    """

    def __init__(self, case: Case) -> None:
        self._encoder, self._decoder = networks(case)
        self._networks = nn.ModuleList([self._encoder, self._decoder])
        parameters = self._networks.parameters()
        self._adam = torch.optim.Adam(parameters, lr=case.learning_rate, fused=True)
        self._case = case

    def tensor(self, x: np.ndarray) -> torch.Tensor:
        """Images in the shape that the networks take, without a copy.

        Args:
            x: Images.

        Returns:
            The tensor.
        """
        # With one channel (n, 28, 28, 1) and (n, 1, 28, 28) have the same memory.
        flat, shape = self._case.network == "mlp", self._case.shape
        return torch.from_numpy(x).reshape(-1, *(shape if flat else (1, *shape[:2])))

    def epoch(self, x: torch.Tensor) -> float:
        """Trains on a new permutation of the rows.

        Args:
            x: Images.

        Returns:
            The mean loss.
        """
        self._networks.train()
        total = torch.zeros(())
        for rows in torch.randperm(len(x)).split(self._case.batch):
            self._adam.zero_grad(set_to_none=True)
            loss = self._loss(x[rows])
            loss.backward()
            self._adam.step()
            total += loss.detach() * len(rows)
        return total.item() / len(x)

    @torch.inference_mode()
    def mean_loss(self, x: torch.Tensor) -> float:
        """Sums the losses of the batches in order.

        Args:
            x: Images.

        Returns:
            The mean loss.
        """
        self._networks.eval()
        total = torch.zeros(())
        for batch in x.split(self._case.batch):
            total += self._loss(batch) * len(batch)
        return total.item() / len(x)

    @torch.inference_mode()
    def means(self, x: torch.Tensor) -> np.ndarray:
        """Encodes all at once.

        Args:
            x: Images.

        Returns:
            The means of q(z|x).
        """
        self._networks.eval()
        return self._encoder(x)[:, : self._case.latent].numpy()

    def _loss(self, x: torch.Tensor) -> torch.Tensor:
        k = self._case.draws
        mean, log_variance = self._encoder(x).chunk(2, dim=-1)
        noise = torch.randn(k, *mean.shape)
        z = mean + torch.exp(0.5 * log_variance) * noise
        logits = self._decoder(z.reshape(-1, self._case.latent))
        pixels = x.flatten(1)
        if k == 1:
            nll = functional.binary_cross_entropy_with_logits(
                logits, pixels, reduction="sum"
            )
            kl = -0.5 * torch.sum(1 + log_variance - mean**2 - log_variance.exp())
            return (nll + kl) / len(x)
        logits = logits.view(k, *pixels.shape)
        nll = functional.binary_cross_entropy_with_logits(
            logits, pixels.expand_as(logits), reduction="none"
        ).sum(-1)
        log_ratio = 0.5 * (noise**2 + log_variance - z**2).sum(-1)
        return (math.log(k) - torch.logsumexp(log_ratio - nll, dim=0)).mean()


class Eager:
    """See `benchmarks.sides.Side`."""

    def __init__(self, case: Case, x: np.ndarray) -> None:
        self._trainer = Trainer(case)
        self._x = self._trainer.tensor(x)
        self.examples = len(x)

    def train(self, epochs: int) -> float:
        """Trains."""
        return [self._trainer.epoch(self._x) for _ in range(epochs)][-1]

    def evaluate(self) -> float:
        """Goes over batches in order."""
        return self._trainer.mean_loss(self._x)

    def encode(self) -> np.ndarray:
        """Encodes all at once."""
        return self._trainer.means(self._x)


def build(case: Case, x: np.ndarray, seed: int) -> Eager:
    """Builds the side.

    Args:
        case: The model.
        x: Images.
        seed: Seed.

    Returns:
        The side.
    """
    torch.manual_seed(seed)
    return Eager(case, x)


def prepare(case: Case, x: np.ndarray, seed: int) -> Callable[[int], float]:
    """Builds the model and its Adam; see `benchmarks.sides.prepare`.

    Args:
        case: The model.
        x: Images.
        seed: Seed.

    Returns:
        Function that takes the number of epochs.
    """
    torch.manual_seed(seed)
    trainer = Trainer(case)

    def fit(epochs: int) -> float:
        trained, held_out = map(trainer.tensor, split(x))
        history = [
            (trainer.epoch(trained), trainer.mean_loss(held_out)) for _ in range(epochs)
        ]
        return history[-1][1]

    return fit
