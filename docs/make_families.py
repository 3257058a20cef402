"""Writes docs/families.md: what each family can do, as it turns out when tried.

    python docs/make_families.py

`tests/test_families_page.py` runs the same trials and compares.
"""

import os
import pathlib
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.draws import draw
from tfp_vae.kl.divergence import kl_divergence

tfd = tfp.distributions

PAGE = pathlib.Path(__file__).with_name("families.md")
D, BATCH, DRAWS = 50, 4, 200

FAMILIES: dict[str, Any] = {
    "IndependentNormal": lambda: tv.IndependentNormal(D),
    "MultivariateNormalDiag": lambda: tv.MultivariateNormalDiag(D),
    "MultivariateNormalTriL": lambda: tv.MultivariateNormalTriL(D),
    "IndependentLaplace": lambda: tv.IndependentLaplace(D),
    "IndependentLogistic": lambda: tv.IndependentLogistic(D),
    "IndependentStudentT": lambda: tv.IndependentStudentT(D),
    "IndependentLogNormal": lambda: tv.IndependentLogNormal(D),
    "IndependentGamma": lambda: tv.IndependentGamma(D),
    "IndependentBeta": lambda: tv.IndependentBeta(D),
    "IndependentKumaraswamy": lambda: tv.IndependentKumaraswamy(D),
    "IndependentTruncatedNormal": lambda: tv.IndependentTruncatedNormal(D),
    "IndependentBernoulli": lambda: tv.IndependentBernoulli(D),
    "IndependentContinuousBernoulli": lambda: tv.IndependentContinuousBernoulli(D),
    "IndependentCategorical": lambda: tv.IndependentCategorical(D),
    "QuantizedLogistic": lambda: tv.QuantizedLogistic(D),
    "QuantizedLogistic, 5 components": lambda: tv.QuantizedLogistic(
        D, num_components=5
    ),
    "IndependentPoisson": lambda: tv.IndependentPoisson(D),
    "IndependentPoisson, zero-inflated": lambda: tv.IndependentPoisson(
        D, zero_inflated=True
    ),
    "IndependentNegativeBinomial": lambda: tv.IndependentNegativeBinomial(D),
    "IndependentNegativeBinomial, zero-inflated": (
        lambda: tv.IndependentNegativeBinomial(D, zero_inflated=True)
    ),
    "Multinomial": lambda: tv.Multinomial(D, total_count=100),
    "DirichletMultinomial": lambda: tv.DirichletMultinomial(D, total_count=100),
    "OneHotCategorical": lambda: tv.OneHotCategorical(D),
    "CategoricalMixtureOfOneHotCategorical": (
        lambda: tv.CategoricalMixtureOfOneHotCategorical(D, 3)
    ),
    "RelaxedOneHotCategorical, temperature 0.1": (
        lambda: tv.RelaxedOneHotCategorical(D, 0.1)
    ),
    "IndependentRelaxedBernoulli, temperature 0.1": (
        lambda: tv.IndependentRelaxedBernoulli(D, 0.1)
    ),
    "RelaxedOneHotCategorical, straight-through": (
        lambda: tv.RelaxedOneHotCategorical(D, 0.1, straight_through=True)
    ),
    "IndependentRelaxedBernoulli, straight-through": (
        lambda: tv.IndependentRelaxedBernoulli(D, 0.1, straight_through=True)
    ),
    "PowerSpherical": lambda: tv.PowerSpherical(D),
    "VonMisesFisher": lambda: tv.VonMisesFisher(D),
    "DirectionAndNorm": lambda: tv.DirectionAndNorm(D),
    "MixtureNormal": lambda: tv.MixtureNormal(3, D),
    "MixtureLogistic": lambda: tv.MixtureLogistic(3, D),
    "MixtureSameFamily, reparameterize": lambda: tv.MixtureSameFamily(
        3, tv.IndependentNormal(D), reparameterize=True
    ),
    "Blockwise, normal and power spherical": lambda: tv.Blockwise(
        [tv.IndependentNormal(D // 2), tv.PowerSpherical(D // 2)]
    ),
    **{
        f"Flow, {kind}": lambda kind=kind: _Flow(kind)
        for kind in ("maf", "iaf", "realnvp", "spline")
    },
}
PRIORS: dict[str, Any] = {
    "`StandardNormal`": lambda: tv.StandardNormal(D)(),
    "normal with full covariance": lambda: tv.LearnedNormal(D, covariance="full")(),
    "Laplace": lambda: tfd.Sample(tfd.Laplace(0.0, 1.0), D),
    "Student-t": lambda: tfd.Sample(tfd.StudentT(3.0, 0.0, 1.0), D),
    "gamma": lambda: tfd.Sample(tfd.Gamma(2.0, 1.0), D),
    "beta": lambda: tfd.Sample(tfd.Beta(2.0, 1.0), D),
    "uniform": lambda: tfd.Sample(tfd.Uniform(), D),
    "`SphericalUniform`": lambda: tv.SphericalUniform(D)(),
    "von Mises-Fisher": lambda: tv.distributions.VonMisesFisher(
        np.eye(D, dtype="float32")[0], 3.0
    ),
    "`UniformDirectionAndNorm`": lambda: tv.UniformDirectionAndNorm(D)(),
    "mixture": lambda: tv.MixturePrior(D, num_components=3)(),
    "normal and spherical blocks": lambda: tfd.Blockwise(
        [
            tfd.Sample(tfd.Normal(0.0, 1.0), D // 2),
            tfd.SphericalUniform(D // 2),
        ]
    ),
}


class _Flow:
    """A flow over independent normals, with the two members that a row needs."""

    def __init__(self, kind: str) -> None:
        self._base, self._flow = tv.IndependentNormal(D), tv.Flow(kind)
        self._flow.build((None, D))
        self.parameters_width = self._base.parameters_width

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        base = unwrap(self._base.make_distribution(parameters))
        return self._flow.transform_distribution(base)


class Row(NamedTuple):
    """What one family can do."""

    family: str
    reparameterised: bool
    xla_likelihood: bool
    xla_draws: bool
    finite: bool
    closed_kl: list[str]

    def __str__(self) -> str:
        """The row in Markdown."""
        marks = [
            "yes" if mark else "no"
            for mark in (
                self.reparameterised,
                self.xla_likelihood,
                self.xla_draws,
                self.finite,
            )
        ]
        return f"| {' | '.join([self.family, *marks, ', '.join(self.closed_kl)])} |"


def row(family: str) -> Row:
    """Tries a family.

    Args:
        family: A key of `FAMILIES`.

    Returns:
        Its row.
    """
    make, parameters = _family(family)
    p = make(parameters)
    values = tf.stop_gradient(p.sample(seed=(1, 2)))
    return Row(
        family,
        _reparameterised(make, parameters),
        _compiles(lambda x: _likelihood(make, x, values), parameters),
        _compiles(lambda x: _draws(make, x), parameters),
        _finite(make, parameters, values),
        _closed_kls(make, parameters),
    )


def _family(family: str) -> tuple[Callable[[tf.Tensor], Any], tf.Tensor]:
    layer = FAMILIES[family]()
    parameters = np.random.default_rng(0).normal(size=(BATCH, layer.parameters_width))

    def make(x: tf.Tensor) -> Any:
        return unwrap(layer.make_distribution(x))

    return make, tf.constant(parameters, tf.float32)


def _likelihood(make: Any, parameters: tf.Tensor, values: tf.Tensor) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        loss = make(parameters).log_prob(values)
    return loss, tape.gradient(loss, parameters)


def _draws(make: Any, parameters: tf.Tensor, count: int = 1) -> Any:
    """Draws, their log-densities, and the gradient of both where there is one."""
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        p = make(parameters)
        z, log_prob = draw(p, count, seed=(3, 4))
        log_prob = p.log_prob(tf.identity(z)) if log_prob is None else log_prob
        loss = tf.reduce_sum(log_prob) + tf.reduce_sum(tf.cast(z, tf.float32))
    gradient = tape.gradient(loss, parameters)
    return z, log_prob, tf.zeros([]) if gradient is None else gradient


def _reparameterised(make: Any, parameters: tf.Tensor) -> bool:
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        p = make(parameters)
        z = p.sample(seed=(3, 4))
    declared = p.reparameterization_type == tfd.FULLY_REPARAMETERIZED
    return declared and tape.gradient(z, parameters) is not None


def _compiles(function: Any, parameters: tf.Tensor) -> bool:
    try:
        tf.function(function, jit_compile=True)(parameters)
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
        return False
    return True


def _finite(make: Any, parameters: tf.Tensor, values: tf.Tensor) -> bool:
    results = [*_likelihood(make, parameters, values), *_draws(make, parameters, DRAWS)]
    return all(np.isfinite(result).all() for result in results)


def _closed_kls(make: Any, parameters: tf.Tensor) -> list[str]:
    q = make(parameters)
    priors = {"its own family": lambda: make(parameters[:1] + 0.3), **PRIORS}
    return [name for name, prior in priors.items() if _closed(q, prior())]


def _closed(q: Any, p: Any) -> bool:
    try:
        kl = kl_divergence(q, p, use_exact_kl=True)
    except ValueError as error:
        if "of one dtype" in str(error):
            raise
        return False
    return bool(np.isfinite(kl).all())


def page() -> str:
    """The page as it should be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = "\n".join(str(row(family)) for family in FAMILIES)
    return TEMPLATE.format(rows=rows, priors=", ".join(PRIORS), d=D, draws=DRAWS)


TEMPLATE = """\
# Families

What the distribution of each layer can do, written by `python docs/make_families.py`,
which tries it: {d} coordinates or categories, float32, parameters drawn from N(0, 1).

| layer | reparameterised | XLA likelihood | XLA draws | finite | closed KL to |
|---|---|---|---|---|---|
{rows}

- *Reparameterised*: draws have gradients, and the family can be a posterior. The tests
  compare them with those of the mean and variance, where TFP knows these.
- *XLA*: compiles with `jit_compile=True`, gradients included. A likelihood is never
  drawn in training, so that one without compiled draws still trains under XLA: convert
  it with `"mean"`.
- *Finite*: the log-density of a draw, those of {draws} more draws, and all gradients.
- *Closed KL to*: what `use_exact_kl=True` accepts, among the distributions tried: the
  family's own, {priors}.
  For every other pair on one support the KL is estimated by Monte Carlo.

`DistributionLambda` takes any other distribution of TFP, and can do what that can.
`AutoregressiveTransform` is a `Flow` of kind maf with a network of one's own.
"""

if __name__ == "__main__":
    PAGE.write_text(page())
