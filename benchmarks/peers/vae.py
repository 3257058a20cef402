"""A VAE of binary images in PyTorch, and its bounds."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal
from torch.distributions.kl import kl_divergence
from torch.nn import functional

ROWS = 2_000  # Images decoded at once by `log_prob`, but at least all draws of one.
Law = Callable[[torch.Tensor], Distribution]


class VAE(nn.Module):
    """Networks, a law of z given parameters, and a prior.

    Args:
        encoder: From flat images to the parameters of q(z|x).
        posterior: From these parameters to q(z|x).
        decoder: From z to the logits of flat images.
        prior: p(z).
    """

    def __init__(
        self,
        encoder: nn.Module,
        posterior: Law,
        decoder: nn.Module,
        prior: Distribution,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self._posterior, self.prior = posterior, prior

    def posterior(self, x: torch.Tensor) -> Distribution:
        """q(z|x)."""
        return self._posterior(self.encoder(x))

    def likelihood(self, z: torch.Tensor) -> Distribution:
        """p(x|z)."""
        return Independent(Bernoulli(logits=self.decoder(z)), 1)

    def elbo(self, x: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
        """E_q log p(x|z) - weight KL(q(z|x) || p(z)), one draw and the closed KL."""
        q = self.posterior(x)
        kl = kl_divergence(q, self.prior)
        return self.likelihood(q.rsample()).log_prob(x) - weight * kl

    def kl(self, x: torch.Tensor) -> torch.Tensor:
        """KL(q(z|x) || p(z))."""
        return kl_divergence(self.posterior(x), self.prior)

    def log_weights(self, x: torch.Tensor, draws: int) -> torch.Tensor:
        """Log p(x, z) - log q(z|x) of draws of z, of shape `(draws, len(x))`."""
        q = self.posterior(x)
        z = q.rsample((draws,))
        log_joint = self.likelihood(z).log_prob(x) + self.prior.log_prob(z)
        return log_joint - q.log_prob(z)

    def bound(self, x: torch.Tensor, draws: int) -> torch.Tensor:
        """Log mean_k p(x, z_k) / q(z_k|x), the importance-weighted bound."""
        return self.log_weights(x, draws).logsumexp(0) - math.log(draws)

    @torch.inference_mode()
    def log_prob(self, x: torch.Tensor, draws: int) -> torch.Tensor:
        """Log p(x) by importance sampling."""
        parts = x.split(max(1, ROWS // draws))
        return torch.cat([self.bound(part, draws) for part in parts])

    @torch.inference_mode()
    def mean_kl(self, x: torch.Tensor) -> float:
        """The KL, as a mean over images."""
        return float(torch.cat([self.kl(part) for part in x.split(1000)]).mean())

    @torch.inference_mode()
    def mean_elbo(self, x: torch.Tensor, draws: int = 1) -> float:
        """The ELBO, as a mean over images and draws."""
        parts = x.split(1000)
        sums = [self.elbo(part).sum() for part in parts for _ in range(draws)]
        return float(sum(sums)) / (len(x) * draws)


def normal(parameters: torch.Tensor) -> Distribution:
    """Independent normal laws from locs and raw scales."""
    loc, raw = parameters.chunk(2, -1)
    return Independent(Normal(loc, functional.softplus(raw)), 1)


def standard_normal(size: int) -> Distribution:
    """The prior N(0, I)."""
    return Independent(Normal(torch.zeros(size), torch.ones(size)), 1)


def dense(sizes: list[int], activation: type[nn.Module]) -> nn.Sequential:
    """Dense layers of given sizes, with an activation after each but the last.

    Args:
        sizes: Size of the input and of each layer.
        activation: Its class.

    Returns:
        The network.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])
