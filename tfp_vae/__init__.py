"""TFP distributions as Keras 3 layer outputs, and the VAEs made of them."""

from tfp_vae.distribution_tensor import DistributionTensor
from tfp_vae.layers.distribution_lambda import DistributionLambda
from tfp_vae.layers.distribution_layer import DistributionLayer
from tfp_vae.layers.independent_bernoulli import IndependentBernoulli
from tfp_vae.layers.independent_poisson import IndependentPoisson
from tfp_vae.layers.kl_divergence import KLDivergenceAddLoss, KLDivergenceRegularizer
from tfp_vae.layers.location_scale import IndependentLogistic, IndependentNormal
from tfp_vae.layers.mixture_same_family import (
    MixtureLogistic,
    MixtureNormal,
    MixtureSameFamily,
)
from tfp_vae.layers.multivariate_normal_tril import MultivariateNormalTriL
from tfp_vae.layers.one_hot_categorical import (
    CategoricalMixtureOfOneHotCategorical,
    OneHotCategorical,
)
from tfp_vae.layers.variable_layer import VariableLayer
from tfp_vae.losses import LogLikelihood, NegativeLogLikelihood
from tfp_vae.priors.prior import prior_distribution
from tfp_vae.priors.standard_normal import StandardNormal
from tfp_vae.support import check_values

__version__ = "0.1.0"

__all__ = [
    "CategoricalMixtureOfOneHotCategorical",
    "DistributionLambda",
    "DistributionLayer",
    "DistributionTensor",
    "IndependentBernoulli",
    "IndependentLogistic",
    "IndependentNormal",
    "IndependentPoisson",
    "KLDivergenceAddLoss",
    "KLDivergenceRegularizer",
    "LogLikelihood",
    "MixtureLogistic",
    "MixtureNormal",
    "MixtureSameFamily",
    "MultivariateNormalTriL",
    "NegativeLogLikelihood",
    "OneHotCategorical",
    "StandardNormal",
    "VariableLayer",
    "check_values",
    "prior_distribution",
]
