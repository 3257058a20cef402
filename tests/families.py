"""The table of layers that one contract is checked for."""

from typing import Any, NamedTuple

import numpy as np
import reference
import tensorflow_probability as tfp
from scipy import stats

import tfp_vae as tv

tfd = tfp.distributions


class Family(NamedTuple):
    make: Any  # layer from keyword arguments
    width: int
    event: tuple
    values: Any  # rng, shape -> values in the support
    log_prob: Any  # parameters, values, event -> NumPy log-density
    theirs: Any = None  # parameters -> what tfp.layers makes of them
    statistic: str = "mean"  # of those that the law has
    xla_draws: bool = True  # whether TFP can draw it in a compiled function


def reals(rng, shape):
    return rng.normal(size=shape).astype("float32")


def bits(rng, shape):
    return rng.integers(0, 2, shape).astype("float32")


def counts(rng, shape):
    return rng.integers(0, 6, shape).astype("float32")


def one_hot(rng, shape):
    return np.eye(shape[-1], dtype="float32")[rng.integers(0, shape[-1], shape[:-1])]


def positives(rng, shape):
    return rng.gamma(2.0, 1.0, shape).astype("float32")


def fractions(rng, shape):
    return rng.uniform(0.02, 0.98, shape).astype("float32")


def directions(rng, shape):
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype("float32")


def vectors(rng, shape):
    return (directions(rng, shape) * rng.uniform(2, 40, (*shape[:-1], 1))).astype("f4")


def log_simplex(rng, shape):
    return np.log(rng.dirichlet(np.ones(shape[-1]), shape[:-1])).astype("float32")


def sixes(rng, shape):
    return rng.multinomial(6, np.ones(shape[-1]) / shape[-1], shape[:-1]).astype(
        "float32"
    )


def wide_cauchys(parameters):
    loc = parameters[..., :3]
    return tfd.Independent(tfd.Cauchy(loc, 2.0), 1)


def cauchy(parameters, x, event):
    return stats.cauchy.logpdf(x, parameters[:, :3], 2.0).sum(-1)


FAMILIES = {
    "DistributionLambda": Family(
        lambda **kw: tv.DistributionLambda(wide_cauchys, **kw), 3, (3,), reals, cauchy
    ),
    "IndependentNormal": Family(
        lambda **kw: tv.IndependentNormal((2, 3), **kw),
        12,
        (2, 3),
        reals,
        reference.normal,
        lambda p: tfp.layers.IndependentNormal.new(p, (2, 3)),
    ),
    "IndependentLogistic": Family(
        lambda **kw: tv.IndependentLogistic([3], **kw),
        6,
        (3,),
        reals,
        reference.logistic,
        lambda p: tfp.layers.IndependentLogistic.new(p, [3]),
    ),
    "IndependentBernoulli": Family(
        lambda **kw: tv.IndependentBernoulli((2, 2, 1), **kw),
        4,
        (2, 2, 1),
        bits,
        reference.bernoulli,
        lambda p: tfp.layers.IndependentBernoulli.new(p, (2, 2, 1)),
    ),
    "IndependentPoisson": Family(
        lambda **kw: tv.IndependentPoisson(3, **kw),
        3,
        (3,),
        counts,
        reference.poisson,
        lambda p: tfp.layers.IndependentPoisson.new(p, 3),
    ),
    "MultivariateNormalTriL": Family(
        lambda **kw: tv.MultivariateNormalTriL(3, **kw),
        9,
        (3,),
        reals,
        reference.multivariate_normal,
        lambda p: tfp.layers.MultivariateNormalTriL.new(p, 3),
    ),
    "OneHotCategorical": Family(
        lambda **kw: tv.OneHotCategorical(4, **kw),
        4,
        (4,),
        one_hot,
        reference.categorical,
        lambda p: tfp.layers.OneHotCategorical.new(p, 4),
    ),
    "CategoricalMixtureOfOneHotCategorical": Family(
        lambda **kw: tv.CategoricalMixtureOfOneHotCategorical(4, 2, **kw),
        10,
        (4,),
        one_hot,
        reference.mixture(reference.categorical, 2),
        lambda p: tfp.layers.CategoricalMixtureOfOneHotCategorical.new(p, 4, 2),
    ),
    "MixtureSameFamily": Family(
        lambda **kw: tv.MixtureSameFamily(2, tv.IndependentLogistic(3), **kw),
        14,
        (3,),
        reals,
        reference.mixture(reference.logistic, 2),
        lambda p: tfp.layers.MixtureLogistic.new(p, 2, 3),
    ),
    "MixtureNormal": Family(
        lambda **kw: tv.MixtureNormal(2, 3, **kw),
        14,
        (3,),
        reals,
        reference.mixture(reference.normal, 2),
        lambda p: tfp.layers.MixtureNormal.new(p, 2, 3),
    ),
    "MixtureLogistic": Family(
        lambda **kw: tv.MixtureLogistic(2, 3, **kw),
        14,
        (3,),
        reals,
        reference.mixture(reference.logistic, 2),
        lambda p: tfp.layers.MixtureLogistic.new(p, 2, 3),
    ),
    "IndependentLaplace": Family(
        lambda **kw: tv.IndependentLaplace(3, **kw), 6, (3,), reals, reference.laplace
    ),
    "IndependentStudentT": Family(
        lambda **kw: tv.IndependentStudentT(3, **kw),
        9,
        (3,),
        reals,
        reference.student_t,
    ),
    "IndependentLogNormal": Family(
        lambda **kw: tv.IndependentLogNormal(3, **kw),
        6,
        (3,),
        positives,
        reference.log_normal,
    ),
    "IndependentGamma": Family(
        lambda **kw: tv.IndependentGamma(3, **kw), 6, (3,), positives, reference.gamma
    ),
    "IndependentBeta": Family(
        lambda **kw: tv.IndependentBeta(3, **kw), 6, (3,), fractions, reference.beta
    ),
    "IndependentKumaraswamy": Family(
        lambda **kw: tv.IndependentKumaraswamy((3, 1), **kw),
        6,
        (3, 1),
        fractions,
        reference.kumaraswamy,
    ),
    "IndependentTruncatedNormal": Family(
        lambda **kw: tv.IndependentTruncatedNormal(3, **kw),
        6,
        (3,),
        fractions,
        reference.truncated_normal,
    ),
    "IndependentContinuousBernoulli": Family(
        lambda **kw: tv.IndependentContinuousBernoulli(3, **kw),
        3,
        (3,),
        fractions,
        reference.continuous_bernoulli,
    ),
    "IndependentCategorical": Family(
        lambda **kw: tv.IndependentCategorical((2, 2), num_categories=6, **kw),
        24,
        (2, 2),
        counts,
        reference.categories,
    ),
    "QuantizedLogistic": Family(
        lambda **kw: tv.QuantizedLogistic(3, num_components=2, low=0, high=5, **kw),
        18,
        (3,),
        counts,
        reference.quantized_logistics,
    ),
    "IndependentNegativeBinomial": Family(
        lambda **kw: tv.IndependentNegativeBinomial(3, zero_inflated=True, **kw),
        9,
        (3,),
        counts,
        reference.zero_inflated_negative_binomial,
        xla_draws=False,
    ),
    "Multinomial": Family(
        lambda **kw: tv.Multinomial(3, total_count=6, **kw),
        3,
        (3,),
        sixes,
        reference.multinomial,
    ),
    "DirichletMultinomial": Family(
        lambda **kw: tv.DirichletMultinomial(3, total_count=6, **kw),
        3,
        (3,),
        sixes,
        reference.dirichlet_multinomial,
    ),
    "MultivariateNormalDiag": Family(
        lambda **kw: tv.MultivariateNormalDiag(3, **kw),
        6,
        (3,),
        reals,
        reference.normal,
    ),
    "IndependentRelaxedBernoulli": Family(
        lambda **kw: tv.IndependentRelaxedBernoulli(3, 0.5, **kw),
        3,
        (3,),
        reals,
        reference.relaxed_bernoulli,
    ),
    "RelaxedOneHotCategorical": Family(
        lambda **kw: tv.RelaxedOneHotCategorical(3, 0.5, **kw),
        3,
        (3,),
        log_simplex,
        reference.relaxed_one_hot,
        statistic="sample",
    ),
    "Blockwise": Family(
        lambda **kw: tv.Blockwise(
            [tv.IndependentNormal(2), tv.IndependentLaplace(2)], **kw
        ),
        8,
        (4,),
        reals,
        reference.blockwise,
    ),
    "PowerSpherical": Family(
        lambda **kw: tv.PowerSpherical(3, **kw),
        4,
        (3,),
        directions,
        reference.power_spherical,
    ),
    "VonMisesFisher": Family(
        lambda **kw: tv.VonMisesFisher(3, **kw),
        4,
        (3,),
        directions,
        reference.von_mises_fisher,
    ),
    "DirectionAndNorm": Family(
        lambda **kw: tv.DirectionAndNorm(
            3, concentration=5.0, max_norm=50.0, norm_width=49.0, **kw
        ),
        3,
        (3,),
        vectors,
        reference.direction_and_norm,
    ),
}


def extremes(width, batch=5):
    """Patterns of network outputs that have gone wild."""
    rng = np.random.default_rng(0)
    shape = (batch, width)
    return {
        f"{name} {size:g}": size * pattern
        for size in (1e4, 1e8)
        for name, pattern in {
            "plus": np.ones(shape),
            "minus": -np.ones(shape),
            "signs": rng.choice([-1.0, 1.0], shape),
            "normal": rng.normal(size=shape),
            "first": np.eye(width)[0] * np.ones(shape),
            "last": -np.eye(width)[-1] * np.ones(shape),
        }.items()
    }
