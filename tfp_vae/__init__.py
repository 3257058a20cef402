"""TFP distributions as Keras 3 layer outputs, and the VAEs made of them."""

from tfp_vae import disentanglement as disentanglement
from tfp_vae import distributions as distributions
from tfp_vae import evaluation as evaluation
from tfp_vae import plots as plots
from tfp_vae.callbacks.collapse_alarm import CollapseAlarm
from tfp_vae.callbacks.kl_warmup import KLWarmup
from tfp_vae.callbacks.nan_guard import NaNGuard
from tfp_vae.callbacks.vae_tensorboard import VAETensorBoard
from tfp_vae.distribution_tensor import DistributionTensor
from tfp_vae.engine.checkpoint import Checkpoint
from tfp_vae.engine.model import Model, Sequential
from tfp_vae.environment import check_keras, show_versions
from tfp_vae.kl.layer import KLDivergenceAddLoss, KLDivergenceRegularizer
from tfp_vae.kl.prior import prior_distribution
from tfp_vae.layers.autoregressive_network import AutoregressiveNetwork
from tfp_vae.layers.autoregressive_transform import AutoregressiveTransform
from tfp_vae.layers.blockwise import Blockwise
from tfp_vae.layers.blockwise_initializer import BlockwiseInitializer
from tfp_vae.layers.counts import IndependentNegativeBinomial, IndependentPoisson
from tfp_vae.layers.direction_and_norm import DirectionAndNorm
from tfp_vae.layers.distribution_lambda import DistributionLambda
from tfp_vae.layers.distribution_layer import DistributionLayer
from tfp_vae.layers.flow import Flow
from tfp_vae.layers.independent_bernoulli import IndependentBernoulli
from tfp_vae.layers.independent_categorical import IndependentCategorical
from tfp_vae.layers.independent_continuous_bernoulli import (
    IndependentContinuousBernoulli,
)
from tfp_vae.layers.independent_student_t import IndependentStudentT
from tfp_vae.layers.independent_truncated_normal import IndependentTruncatedNormal
from tfp_vae.layers.location_scale import (
    IndependentLaplace,
    IndependentLogistic,
    IndependentNormal,
)
from tfp_vae.layers.mixture_same_family import (
    MixtureLogistic,
    MixtureNormal,
    MixtureSameFamily,
)
from tfp_vae.layers.multinomial import DirichletMultinomial, Multinomial
from tfp_vae.layers.multivariate_normal_diag import MultivariateNormalDiag
from tfp_vae.layers.multivariate_normal_tril import MultivariateNormalTriL
from tfp_vae.layers.one_hot_categorical import (
    CategoricalMixtureOfOneHotCategorical,
    OneHotCategorical,
)
from tfp_vae.layers.positive import IndependentGamma, IndependentLogNormal
from tfp_vae.layers.quantized_logistic import QuantizedLogistic
from tfp_vae.layers.relaxed import IndependentRelaxedBernoulli, RelaxedOneHotCategorical
from tfp_vae.layers.spherical import PowerSpherical, VonMisesFisher
from tfp_vae.layers.statistic import Statistic
from tfp_vae.layers.unit_interval import IndependentBeta, IndependentKumaraswamy
from tfp_vae.layers.variable_layer import VariableLayer
from tfp_vae.layers.variational_gaussian_process import VariationalGaussianProcess
from tfp_vae.losses import NegativeLogLikelihood
from tfp_vae.metrics import ActiveUnits, LogLikelihood
from tfp_vae.models.vae import VAE
from tfp_vae.objectives import ELBO, ImportanceWeightedBound, RenyiBound
from tfp_vae.prediction.evaluate import evaluate_predictive
from tfp_vae.prediction.export import export_predictive
from tfp_vae.prediction.predictive import predictive
from tfp_vae.priors.autoregressive_prior import AutoregressivePrior
from tfp_vae.priors.flow_prior import FlowPrior
from tfp_vae.priors.learned_normal import LearnedNormal
from tfp_vae.priors.mixture_prior import MixturePrior
from tfp_vae.priors.spherical_uniform import SphericalUniform
from tfp_vae.priors.standard_normal import StandardNormal
from tfp_vae.priors.uniform_direction_and_norm import UniformDirectionAndNorm
from tfp_vae.priors.vamp_prior import VampPrior
from tfp_vae.scores.crps import CRPS
from tfp_vae.scores.energy_score import EnergyScore
from tfp_vae.scores.intervals import Coverage, IntervalScore
from tfp_vae.table import Table
from tfp_vae.values import check_values
from tfp_vae.weights.convolution import (
    Convolution1DFlipout,
    Convolution1DReparameterization,
    Convolution2DFlipout,
    Convolution2DReparameterization,
    Convolution3DFlipout,
    Convolution3DReparameterization,
)
from tfp_vae.weights.dense import (
    DenseFlipout,
    DenseLocalReparameterization,
    DenseReparameterization,
)
from tfp_vae.weights.dense_variational import DenseVariational
from tfp_vae.weights.parameters import (
    default_loc_scale_fn,
    default_mean_field_normal_fn,
    default_multivariate_normal_fn,
)
from tfp_vae.weights.variational import Variational
from tfp_vae.weights.weight_norm import WeightNorm

__version__ = "0.1.0"

check_keras()


__all__ = [
    "CRPS",
    "ELBO",
    "VAE",
    "ActiveUnits",
    "AutoregressiveNetwork",
    "AutoregressivePrior",
    "AutoregressiveTransform",
    "Blockwise",
    "BlockwiseInitializer",
    "CategoricalMixtureOfOneHotCategorical",
    "Checkpoint",
    "CollapseAlarm",
    "Convolution1DFlipout",
    "Convolution1DReparameterization",
    "Convolution2DFlipout",
    "Convolution2DReparameterization",
    "Convolution3DFlipout",
    "Convolution3DReparameterization",
    "Coverage",
    "DenseFlipout",
    "DenseLocalReparameterization",
    "DenseReparameterization",
    "DenseVariational",
    "DirectionAndNorm",
    "DirichletMultinomial",
    "DistributionLambda",
    "DistributionLayer",
    "DistributionTensor",
    "EnergyScore",
    "Flow",
    "FlowPrior",
    "ImportanceWeightedBound",
    "IndependentBernoulli",
    "IndependentBeta",
    "IndependentCategorical",
    "IndependentContinuousBernoulli",
    "IndependentGamma",
    "IndependentKumaraswamy",
    "IndependentLaplace",
    "IndependentLogNormal",
    "IndependentLogistic",
    "IndependentNegativeBinomial",
    "IndependentNormal",
    "IndependentPoisson",
    "IndependentRelaxedBernoulli",
    "IndependentStudentT",
    "IndependentTruncatedNormal",
    "IntervalScore",
    "KLDivergenceAddLoss",
    "KLDivergenceRegularizer",
    "KLWarmup",
    "LearnedNormal",
    "LogLikelihood",
    "MixtureLogistic",
    "MixtureNormal",
    "MixturePrior",
    "MixtureSameFamily",
    "Model",
    "Multinomial",
    "MultivariateNormalDiag",
    "MultivariateNormalTriL",
    "NaNGuard",
    "NegativeLogLikelihood",
    "OneHotCategorical",
    "PowerSpherical",
    "QuantizedLogistic",
    "RelaxedOneHotCategorical",
    "RenyiBound",
    "Sequential",
    "SphericalUniform",
    "StandardNormal",
    "Statistic",
    "Table",
    "UniformDirectionAndNorm",
    "VAETensorBoard",
    "VampPrior",
    "VariableLayer",
    "Variational",
    "VariationalGaussianProcess",
    "VonMisesFisher",
    "WeightNorm",
    "check_values",
    "default_loc_scale_fn",
    "default_mean_field_normal_fn",
    "default_multivariate_normal_fn",
    "evaluate_predictive",
    "export_predictive",
    "predictive",
    "prior_distribution",
    "show_versions",
]
