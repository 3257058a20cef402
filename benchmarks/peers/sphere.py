"""Laws on the sphere for PyTorch, whose distributions have none.

Davidson et al., 2018, https://arxiv.org/abs/1804.00891, and De Cao and Aziz, 2020,
https://arxiv.org/abs/2006.04437.
"""

import math
from typing import Any, ClassVar

import torch
from scipy import special
from torch.distributions import Beta, Distribution, constraints
from torch.distributions.kl import register_kl
from torch.nn import functional

SMALL = 1e-10  # Lower bound of 1 - (loc . z)^2, whose root has no gradient at 0.


class _Ratio(torch.autograd.Function):
    """A(k) = I_{m/2}(k) / I_{m/2 - 1}(k), the mean of loc . z, in float64."""

    @staticmethod
    def forward(context: Any, k: torch.Tensor, m: int) -> torch.Tensor:
        values = k.detach().double().numpy()
        ratio = torch.from_numpy(
            special.ive(m / 2, values) / special.ive(m / 2 - 1, values)
        )
        context.save_for_backward(k, ratio)
        context.m = m
        return ratio.to(k.dtype)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        k, ratio = context.saved_tensors
        slope = 1 - ratio**2 - (context.m - 1) / k.double() * ratio
        return gradients[0] * slope.to(k.dtype), None


class _LogNormalizer(torch.autograd.Function):
    """log C(k), where the density is C(k) exp(k loc . z), in float64."""

    @staticmethod
    def forward(context: Any, k: torch.Tensor, m: int) -> torch.Tensor:
        order, values = m / 2 - 1, k.detach().double().numpy()
        scaled = special.ive(order, values)
        context.save_for_backward(
            k, torch.from_numpy(special.ive(order + 1, values) / scaled)
        )
        log_bessel = torch.from_numpy(scaled).log() + k.double()
        found = order * k.double().log() - m / 2 * math.log(2 * math.pi) - log_bessel
        return found.to(k.dtype)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        k, ratio = context.saved_tensors
        return -gradients[0] * ratio.to(k.dtype), None


def log_area(m: int) -> float:
    """The logarithm of the area of the unit sphere in m dimensions."""
    return math.log(2) + m / 2 * math.log(math.pi) - math.lgamma(m / 2)


class SphericalUniform(Distribution):
    """The uniform law on the unit sphere.

    Args:
        size: Number of coordinates.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, size: int) -> None:
        super().__init__(event_shape=torch.Size([size]), validate_args=False)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """The constant log density."""
        return torch.full(value.shape[:-1], -log_area(self.event_shape[0]))


class _AroundLoc(Distribution):
    """A law of z whose density depends on loc . z alone.

    Args:
        loc: Unit vectors.
        concentration: Positive numbers, of shape `(..., 1)`.
    """

    arg_constraints: ClassVar = {"concentration": constraints.positive}
    has_rsample = True

    def __init__(self, loc: torch.Tensor, concentration: torch.Tensor) -> None:
        self.loc, self.concentration = loc, concentration
        shape = loc.shape
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.event_shape[0]

    @property
    def mode(self) -> torch.Tensor:
        """The direction."""
        return self.loc

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        """Draws loc . z, then the direction of the rest, around the first axis."""
        shape = self._extended_shape(sample_shape)
        along = self._along((*shape[:-1], 1))
        rest = functional.normalize(torch.randn(*shape[:-1], self.size - 1), dim=-1)
        across = (1 - along**2).clamp(SMALL).sqrt()
        z = torch.cat([along, across * rest], -1)
        # A reflection takes the first axis to loc.
        axis = torch.zeros(self.size)
        axis[0] = 1.0
        normal = functional.normalize(axis - self.loc, dim=-1)
        return z - 2 * (z * normal).sum(-1, keepdim=True) * normal

    def _along(self, shape: tuple[int, ...]) -> torch.Tensor:
        raise NotImplementedError


class VonMisesFisher(_AroundLoc):
    """C(k) exp(k loc . z), by Ulrich's and Wood's rejection.

    The gradient of a draw leaves the rejection out, as other PyTorch code does, so it
    is biased in the concentration.
    """

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """The log density."""
        k = self.concentration
        return (k * (self.loc * value).sum(-1, keepdim=True) + self.log_normalizer)[
            ..., 0
        ]

    @property
    def log_normalizer(self) -> torch.Tensor:
        """Log C(k)."""
        return _LogNormalizer.apply(self.concentration, self.size)

    def _along(self, shape: tuple[int, ...]) -> torch.Tensor:
        n = self.size - 1
        k = self.concentration.expand(shape)
        b = n / (2 * k + (4 * k**2 + n**2).sqrt())
        a = (n + 2 * k + (4 * k**2 + n**2).sqrt()) / 4
        d = 4 * a * b / (1 + b) - n * math.log(n)
        proposal = Beta(n / 2, n / 2)
        drawn = torch.empty(shape)
        left = torch.ones(shape, dtype=torch.bool)
        with torch.no_grad():
            while left.any():
                e = proposal.sample(shape)
                t = 2 * a * b / (1 - (1 - b) * e)
                taken = left & (n * t.log() - t + d >= torch.rand(shape).log())
                drawn[taken] = e[taken]
                left &= ~taken
        return (1 - (1 + b) * drawn) / (1 - (1 - b) * drawn)


class PowerSpherical(_AroundLoc):
    """C(k) (1 + loc . z)^k."""

    def _beta(self) -> tuple[torch.Tensor, float]:
        half = (self.size - 1) / 2
        return half + self.concentration, half

    def _along(self, shape: tuple[int, ...]) -> torch.Tensor:
        a, b = self._beta()
        return 2 * Beta(a.expand(shape), torch.tensor(b)).rsample() - 1

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """The log density."""
        cosine = (self.loc * value).sum(-1, keepdim=True)
        return (self.log_normalizer + self.concentration * cosine.log1p())[..., 0]

    @property
    def log_normalizer(self) -> torch.Tensor:
        """Log C(k)."""
        a, b = self._beta()
        return -(
            (a + b) * math.log(2)
            + a.lgamma()
            - (a + b).lgamma()
            + b * math.log(math.pi)
        )

    def entropy(self) -> torch.Tensor:
        """In nats."""
        a, b = self._beta()
        log_part = math.log(2) + a.digamma() - (a + b).digamma()
        return -(self.log_normalizer + self.concentration * log_part)[..., 0]


@register_kl(VonMisesFisher, SphericalUniform)
def _fisher_uniform(q: VonMisesFisher, p: SphericalUniform) -> torch.Tensor:
    k = q.concentration
    kl = k * _Ratio.apply(k, q.size) + q.log_normalizer + log_area(q.size)
    return kl[..., 0]


@register_kl(PowerSpherical, SphericalUniform)
def _power_uniform(q: PowerSpherical, p: SphericalUniform) -> torch.Tensor:
    return log_area(q.size) - q.entropy()
