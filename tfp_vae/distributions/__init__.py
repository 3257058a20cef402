"""Distributions that TFP lacks, or has with worse gradients, precision or speed."""

from tfp_vae.distributions.bernoulli import Bernoulli
from tfp_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from tfp_vae.distributions.counts import (
    DirichletMultinomial,
    NegativeBinomial,
    Poisson,
)
from tfp_vae.distributions.direction_and_norm import DirectionAndNorm
from tfp_vae.distributions.power_spherical import PowerSpherical
from tfp_vae.distributions.quantized_logistic import QuantizedLogistic
from tfp_vae.distributions.straight_through import (
    StraightThroughBernoulli,
    StraightThroughOneHotCategorical,
)
from tfp_vae.distributions.truncated_normal import TruncatedNormal
from tfp_vae.distributions.unit_interval import Beta, Kumaraswamy
from tfp_vae.distributions.von_mises_fisher import VonMisesFisher

__all__ = [
    "Bernoulli",
    "Beta",
    "ContinuousBernoulli",
    "DirectionAndNorm",
    "DirichletMultinomial",
    "Kumaraswamy",
    "NegativeBinomial",
    "Poisson",
    "PowerSpherical",
    "QuantizedLogistic",
    "StraightThroughBernoulli",
    "StraightThroughOneHotCategorical",
    "TruncatedNormal",
    "VonMisesFisher",
]
