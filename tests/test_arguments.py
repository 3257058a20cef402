"""Every argument of every public class, with values of every kind.

The tables say which values an argument takes; every other one must be refused by an
error of ours, in three parts: what was expected, what came, what to do.
"""

import ast
import functools
import inspect
import pathlib
import re

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv
from tfp_vae.checks import LARGEST
from tfp_vae.serialization import deserialize_distribution

tfd = tfp.distributions


def a_function(shape=(), *args, **kwargs):
    return tf.zeros(shape)


VALUES = {
    "None": None,
    "True": True,
    "False": False,
    "np.True_": np.True_,
    "0": 0,
    "1": 1,
    "2": 2,
    "-1": -1,
    "int64": np.int64(2),
    "2**40": 2**40,
    "10**400": 10**400,
    "0.5": 0.5,
    "1.5": 1.5,
    "-0.5": -0.5,
    "float32": np.float32(0.5),
    "nan": float("nan"),
    "inf": float("inf"),
    "1j": 1j,
    "''": "",
    "'yes'": "yes",
    "'1'": "1",
    "b'x'": b"x",
    "[]": [],
    "[1,2]": [1, 2],
    "array": np.array([1, 2]),
    "{}": {},
    "{1}": {1},
    "object": object(),
    "function": a_function,
}


def of(names):
    return frozenset(names.split())


NOTHING, NONE, FUNCTIONS = of(""), of("None"), of("function")
BOOLEANS = of("True False np.True_")
POSITIVE_INTEGERS = of("1 2 int64")
FROM_2 = of("2 int64")
NATURALS = POSITIVE_INTEGERS | of("0")
SEEDS = NONE | NATURALS
POSITIVE = POSITIVE_INTEGERS | of("0.5 1.5 float32 2**40")
NOT_NEGATIVE = POSITIVE | of("0")
NUMBERS = NOT_NEGATIVE | of("-1 -0.5")
LISTS = of("[1,2] array")
SHAPES = POSITIVE_INTEGERS | LISTS | of("[]")
PATHS = of("'yes' '1'")

LAYER = {"convert_to_tensor_fn": FUNCTIONS, "validate_args": BOOLEANS, "seed": SEEDS}
VECTOR = {**LAYER, "event_size": POSITIVE_INTEGERS}
INDEPENDENT = {**LAYER, "event_shape": SHAPES, "parameters_axis": NONE | of("-1")}
SCALED = {**INDEPENDENT, "scale_floor": POSITIVE}
LOCATION_SCALE = {**SCALED, "scale": NONE | POSITIVE}
FLOORED = {**INDEPENDENT, "concentration_floor": POSITIVE}
COUNTS = {**INDEPENDENT, "zero_inflated": BOOLEANS}
SPHERICAL = {
    **LAYER,
    "event_size": FROM_2,
    "concentration": NONE | NOT_NEGATIVE,
    "concentration_floor": NOT_NEGATIVE,
}
TOTAL = {**VECTOR, "total_count": POSITIVE_INTEGERS}
MIXTURE = {
    **LAYER,
    "num_components": POSITIVE_INTEGERS,
    "event_shape": SHAPES,
    "scale_floor": POSITIVE,
}
RELAXED = {
    **LAYER,
    "temperature": POSITIVE | FUNCTIONS,
    "straight_through": BOOLEANS,
}
FLOW = {
    "transform": NOTHING,
    "num_transforms": POSITIVE_INTEGERS,
    "hidden_units": LISTS | of("[]"),
    "activation": NONE | FUNCTIONS,
    "num_bins": FROM_2,
}
KL = {
    "distribution_b": FUNCTIONS,
    "use_exact_kl": NONE | BOOLEANS,
    "test_points_reduce_axis": NONE | NATURALS | LISTS | of("-1 2**40 10**400 []"),
    "test_points_fn": NONE | FUNCTIONS,
    "weight": NONE | NOT_NEGATIVE | FUNCTIONS,
    "num_samples": NONE | POSITIVE_INTEGERS,
    "free_bits": NONE | POSITIVE | FUNCTIONS,
    "free_bits_per": NOTHING,
    "capacity": NONE | NOT_NEGATIVE | FUNCTIONS,
}
KERAS_OBJECT = NONE | FUNCTIONS
RANDOM_LINEAR = {
    "activation": KERAS_OBJECT,
    **{
        f"{part}_{name}_fn": NONE | FUNCTIONS
        for part in ("kernel", "bias")
        for name in ("posterior", "prior", "divergence")
    },
    "kernel_posterior_fn": FUNCTIONS,
    "kernel_posterior_tensor_fn": FUNCTIONS,
    "bias_posterior_tensor_fn": FUNCTIONS,
    "seed": SEEDS,
}
SCORE = {"num_samples": FROM_2, "seed": SEEDS}


class Kernel(keras.layers.Layer):
    @property
    def kernel(self):
        return tfp.math.psd_kernels.ExponentiatedQuadratic()


def dense_variational(**given):
    others = {"make_posterior_fn": a_function, "make_prior_fn": a_function}
    return tv.DenseVariational(**{"units": 2, **others, **given})


def network(width, *layers):
    return keras.Sequential([keras.Input((width,)), *layers])


@functools.cache
def encoder():
    return network(8, keras.layers.Dense(6), tv.IndependentNormal(3))


@functools.cache
def decoder():
    return network(3, keras.layers.Dense(8), tv.IndependentBernoulli(8))


def vae(**given):
    others = {"prior": tv.StandardNormal(3)}
    return tv.VAE(
        **{"encoder": encoder(), "decoder": decoder(), **others, **given},
    )


def warmup(**given):
    return (
        tv.KLWarmup(**given)
        if "steps" in given
        else tv.KLWarmup(**{"epochs": 9} | given)
    )


def made(cls, **others):
    return lambda **given: cls(**{**others, **given})


def independent(cls, arguments=INDEPENDENT):
    return made(cls, event_shape=(2, 3)), arguments


def vector(cls, arguments=VECTOR, **others):
    return made(cls, event_size=3, **others), arguments


X = np.eye(8, dtype="float32")

# How each class is made, and which of the values each of its arguments takes.
TABLE = {
    tv.ActiveUnits: (made(tv.ActiveUnits), {"threshold": POSITIVE}),
    tv.AutoregressiveNetwork: (
        made(tv.AutoregressiveNetwork, params=2),
        {
            "params": POSITIVE_INTEGERS,
            "event_shape": NONE | POSITIVE_INTEGERS,
            "hidden_units": LISTS | of("[]"),
            "input_order": LISTS,
            "hidden_degrees": NOTHING,
            "activation": KERAS_OBJECT,
            "use_bias": BOOLEANS,
            "kernel_initializer": FUNCTIONS,
            "seed": SEEDS,
            "output_initializer": KERAS_OBJECT,
        },
    ),
    tv.AutoregressivePrior: (
        made(tv.AutoregressivePrior, event_shape=(4, 3)),
        {"event_shape": LISTS, "units": POSITIVE_INTEGERS},
    ),
    tv.AutoregressiveTransform: (
        lambda **given: tv.AutoregressiveTransform(
            **{"made": tv.AutoregressiveNetwork(2), **given}
        ),
        {**LAYER, "made": NOTHING},
    ),
    tv.Blockwise: (
        lambda **given: tv.Blockwise(**{"layers": [tv.IndependentNormal(3)], **given}),
        {**LAYER, "layers": NOTHING},
    ),
    tv.CategoricalMixtureOfOneHotCategorical: vector(
        tv.CategoricalMixtureOfOneHotCategorical,
        {**VECTOR, "num_components": POSITIVE_INTEGERS, "sample_dtype": NONE},
        num_components=2,
    ),
    tv.Checkpoint: (
        made(tv.Checkpoint, filepath="last.weights.h5"),
        {
            "filepath": NOTHING,
            "save_freq": POSITIVE_INTEGERS,
            "delete_checkpoint": BOOLEANS,
            "callbacks": NONE | of("[]"),
        },
    ),
    tv.CollapseAlarm: (
        made(tv.CollapseAlarm, x=np.zeros([300, 2])),
        {
            "x": of("array"),
            "y": NONE,
            "patience": POSITIVE_INTEGERS,
            "threshold": POSITIVE - of("2**40"),
        },
    ),
    tv.DirectionAndNorm: vector(
        tv.DirectionAndNorm,
        {
            **LAYER,
            "event_size": FROM_2,
            "concentration": POSITIVE,
            "max_norm": POSITIVE,
            "norm_width": POSITIVE - of("2**40"),
        },
    ),
    tv.DirichletMultinomial: vector(tv.DirichletMultinomial, TOTAL, total_count=5),
    tv.DistributionLambda: (
        made(tv.DistributionLambda, make_distribution_fn=a_function),
        {**LAYER, "make_distribution_fn": FUNCTIONS},
    ),
    tv.DistributionLayer: (
        made(tv.DistributionLayer),
        {**LAYER, "event_shape": SHAPES},
    ),
    tv.DistributionTensor: (
        made(tv.DistributionTensor, distribution=tfd.Normal(0.0, 1.0)),
        {"distribution": NOTHING, "convert_to_tensor_fn": FUNCTIONS},
    ),
    tv.ELBO: (
        made(tv.ELBO),
        {
            "num_samples": POSITIVE_INTEGERS,
            "beta": NOT_NEGATIVE | FUNCTIONS,
            "gradient": NOTHING,
            **{name: KL[name] for name in ("use_exact_kl", "free_bits")},
            **{name: KL[name] for name in ("free_bits_per", "capacity")},
            "latents": NOTHING,
        },
    ),
    tv.Flow: (made(tv.Flow), {**LAYER, **FLOW}),
    tv.FlowPrior: (
        made(tv.FlowPrior, event_size=3),
        {**FLOW, "event_size": POSITIVE_INTEGERS},
    ),
    tv.ImportanceWeightedBound: (
        made(tv.ImportanceWeightedBound),
        {"num_samples": POSITIVE_INTEGERS, "gradient": NOTHING},
    ),
    tv.IndependentBernoulli: independent(
        tv.IndependentBernoulli, {**INDEPENDENT, "sample_dtype": NONE}
    ),
    tv.IndependentBeta: independent(tv.IndependentBeta, FLOORED),
    tv.IndependentCategorical: independent(
        tv.IndependentCategorical, {**INDEPENDENT, "num_categories": FROM_2}
    ),
    tv.IndependentContinuousBernoulli: independent(tv.IndependentContinuousBernoulli),
    tv.IndependentGamma: independent(tv.IndependentGamma, FLOORED),
    tv.IndependentKumaraswamy: independent(tv.IndependentKumaraswamy, FLOORED),
    tv.IndependentLaplace: independent(tv.IndependentLaplace, LOCATION_SCALE),
    tv.IndependentLogNormal: independent(tv.IndependentLogNormal),
    tv.IndependentLogistic: independent(tv.IndependentLogistic, LOCATION_SCALE),
    tv.IndependentNegativeBinomial: independent(tv.IndependentNegativeBinomial, COUNTS),
    tv.IndependentNormal: independent(tv.IndependentNormal, LOCATION_SCALE),
    tv.IndependentPoisson: independent(tv.IndependentPoisson, COUNTS),
    tv.IndependentRelaxedBernoulli: (
        made(tv.IndependentRelaxedBernoulli, event_shape=3, temperature=0.5),
        {**RELAXED, "event_shape": SHAPES},
    ),
    tv.IndependentStudentT: independent(
        tv.IndependentStudentT, {**SCALED, "df": NONE | POSITIVE}
    ),
    tv.IndependentTruncatedNormal: independent(
        tv.IndependentTruncatedNormal,
        {
            **INDEPENDENT,
            "low": of("0 -1 0.5 -0.5 float32"),  # below 1, the default of `high`
            "high": POSITIVE,
            "scale_floor": NONE | POSITIVE,
        },
    ),
    tv.KLDivergenceAddLoss: (
        made(tv.KLDivergenceAddLoss, distribution_b=tfd.Normal(0.0, 1.0)),
        KL,
    ),
    tv.KLDivergenceRegularizer: (
        made(tv.KLDivergenceRegularizer, distribution_b=tfd.Normal(0.0, 1.0)),
        KL,
    ),
    tv.KLWarmup: (
        warmup,
        {
            "epochs": POSITIVE,
            "steps": POSITIVE_INTEGERS,
            "schedule": NOTHING,
            "start": of("0 0.5 float32"),
            "cycles": POSITIVE_INTEGERS,
            "ratio": of("1 0.5 float32"),
            "weights": BOOLEANS,
        },
    ),
    tv.Convolution1DFlipout: (
        made(tv.Convolution1DFlipout, filters=2, kernel_size=2),
        RANDOM_LINEAR,
    ),
    tv.Convolution2DFlipout: (
        made(tv.Convolution2DFlipout, filters=2, kernel_size=2),
        RANDOM_LINEAR,
    ),
    tv.Convolution3DFlipout: (
        made(tv.Convolution3DFlipout, filters=2, kernel_size=2),
        RANDOM_LINEAR,
    ),
    tv.Convolution1DReparameterization: (
        made(tv.Convolution1DReparameterization, filters=2, kernel_size=2),
        RANDOM_LINEAR,
    ),
    tv.Convolution2DReparameterization: (
        made(tv.Convolution2DReparameterization, filters=2, kernel_size=2),
        RANDOM_LINEAR,
    ),
    tv.Convolution3DReparameterization: (
        made(tv.Convolution3DReparameterization, filters=2, kernel_size=2),
        RANDOM_LINEAR,
    ),
    tv.DenseFlipout: (
        made(tv.DenseFlipout, units=2),
        {**RANDOM_LINEAR, "units": POSITIVE_INTEGERS},
    ),
    tv.DenseLocalReparameterization: (
        made(tv.DenseLocalReparameterization, units=2),
        {**RANDOM_LINEAR, "units": POSITIVE_INTEGERS},
    ),
    tv.DenseReparameterization: (
        made(tv.DenseReparameterization, units=2),
        {**RANDOM_LINEAR, "units": POSITIVE_INTEGERS},
    ),
    tv.DenseVariational: (
        dense_variational,
        {
            "units": POSITIVE_INTEGERS,
            "make_posterior_fn": FUNCTIONS,
            "make_prior_fn": FUNCTIONS,
            "kl_weight": NONE | NOT_NEGATIVE,
            "kl_use_exact": BOOLEANS,
            "activation": KERAS_OBJECT,
            "use_bias": BOOLEANS,
            "seed": SEEDS,
        },
    ),
    tv.Variational: (
        lambda **given: tv.Variational(**{"layer": keras.layers.Dense(2)} | given),
        {
            "layer": NOTHING,
            "posterior": NOTHING,
            "prior": FUNCTIONS,
            "initial_scale": POSITIVE,
            "seed": SEEDS,
        },
    ),
    tv.WeightNorm: (
        lambda **given: tv.WeightNorm(**{"layer": keras.layers.Dense(2)} | given),
        {"layer": NOTHING, "data_init": BOOLEANS},
    ),
    tv.BlockwiseInitializer: (
        made(tv.BlockwiseInitializer, initializers=["zeros"], sizes=[2]),
        {"initializers": NOTHING, "sizes": NOTHING, "validate_args": BOOLEANS},
    ),
    tv.CRPS: (tv.CRPS, SCORE),
    tv.EnergyScore: (tv.EnergyScore, SCORE),
    tv.Coverage: (tv.Coverage, {"level": of("0.5 float32")}),
    tv.IntervalScore: (tv.IntervalScore, {"level": of("0.5 float32")}),
    tv.VariationalGaussianProcess: (
        lambda **given: tv.VariationalGaussianProcess(
            **{"num_inducing_points": 3, "kernel_provider": Kernel()} | given
        ),
        {
            **LAYER,
            "num_inducing_points": POSITIVE_INTEGERS,
            "kernel_provider": NOTHING,
            "event_shape": POSITIVE_INTEGERS,
            "inducing_index_points_initializer": KERAS_OBJECT,
            "unconstrained_observation_noise_variance_initializer": KERAS_OBJECT,
            "variational_inducing_observations_scale_initializer": KERAS_OBJECT,
            "mean_fn": NONE | FUNCTIONS,
            "jitter": NOT_NEGATIVE,
        },
    ),
    tv.LearnedNormal: (
        made(tv.LearnedNormal, event_size=3),
        {"event_size": POSITIVE_INTEGERS, "covariance": NOTHING},
    ),
    tv.LogLikelihood: (
        made(tv.LogLikelihood),
        {"negative": BOOLEANS, "draw_axes": NATURALS},
    ),
    tv.MixtureLogistic: (
        made(tv.MixtureLogistic, num_components=2, event_shape=3),
        MIXTURE,
    ),
    tv.MixtureNormal: (
        made(tv.MixtureNormal, num_components=2, event_shape=3),
        MIXTURE,
    ),
    tv.MixturePrior: (
        made(tv.MixturePrior, event_size=3, num_components=2),
        {
            "event_size": POSITIVE_INTEGERS,
            "num_components": POSITIVE_INTEGERS,
            "seed": SEEDS,
        },
    ),
    tv.MixtureSameFamily: (
        lambda **given: tv.MixtureSameFamily(
            **{
                "num_components": 2,
                "component_layer": tv.IndependentNormal(3),
                **given,
            }
        ),
        {
            **LAYER,
            "num_components": POSITIVE_INTEGERS,
            "component_layer": NOTHING,
            "reparameterize": BOOLEANS,
        },
    ),
    tv.Model: (made(tv.Model), {}),
    tv.Multinomial: vector(tv.Multinomial, TOTAL, total_count=5),
    tv.MultivariateNormalDiag: vector(
        tv.MultivariateNormalDiag, {**VECTOR, "scale_floor": POSITIVE}
    ),
    tv.MultivariateNormalTriL: vector(
        tv.MultivariateNormalTriL, {**VECTOR, "scale_floor": POSITIVE}
    ),
    tv.NaNGuard: (
        made(tv.NaNGuard),
        {"x": NONE | of("array"), "every": NONE | POSITIVE_INTEGERS},
    ),
    tv.NegativeLogLikelihood: (
        made(tv.NegativeLogLikelihood),
        {"draw_axes": NATURALS},
    ),
    tv.OneHotCategorical: vector(
        tv.OneHotCategorical, {**VECTOR, "sample_dtype": NONE}
    ),
    tv.PowerSpherical: vector(tv.PowerSpherical, SPHERICAL),
    tv.QuantizedLogistic: independent(
        tv.QuantizedLogistic,
        {
            **INDEPENDENT,
            "num_components": POSITIVE_INTEGERS,
            "low": NATURALS | of("-1"),
            "high": POSITIVE_INTEGERS,  # above 0, the default of `low`
        },
    ),
    tv.RelaxedOneHotCategorical: vector(
        tv.RelaxedOneHotCategorical,
        {**RELAXED, "event_size": FROM_2},
        temperature=0.5,
    ),
    tv.RenyiBound: (
        made(tv.RenyiBound),
        {
            "alpha": NUMBERS | of("inf"),
            "num_samples": POSITIVE_INTEGERS,
            "gradient": NOTHING,
        },
    ),
    tv.Sequential: (made(tv.Sequential), {}),
    tv.SphericalUniform: (
        made(tv.SphericalUniform, event_size=3),
        {"event_size": FROM_2},
    ),
    tv.StandardNormal: (
        made(tv.StandardNormal, event_shape=3),
        {"event_shape": SHAPES},
    ),
    tv.Table: (
        made(tv.Table, frame=pd.DataFrame({"a": [0.5, 1.5, 2.5]})),
        {"frame": NOTHING, "kinds": NONE | of("{}")},
    ),
    tv.Statistic: (made(tv.Statistic), {"statistic": NOTHING, "seed": SEEDS}),
    tv.UniformDirectionAndNorm: (
        made(tv.UniformDirectionAndNorm, event_size=3),
        {"event_size": FROM_2, "max_norm": POSITIVE},
    ),
    tv.VAE: (
        vae,
        {
            "encoder": NOTHING,
            "decoder": NOTHING,
            "prior": FUNCTIONS,
            "objective": NONE,
            "conditional": BOOLEANS,
            "target": NONE | of("'' 'yes' '1'"),
            "missing": NONE | NUMBERS,
            # Without `missing` the rest is refused.
            "missing_fill": NONE,
            "missing_input": of("False"),
            "missing_model": NONE,
            # The rest needs a classifier: see test_labels.py.
            **dict.fromkeys(("classifier", "label_prior", "alpha"), NONE),
        },
    ),
    tv.VAETensorBoard: (
        made(tv.VAETensorBoard, log_dir="logs", x=np.zeros([2, 3])),
        {
            "log_dir": PATHS,
            "x": of("array"),
            "y": NONE | of("array"),
            "labels": NONE | LISTS,
            "every": POSITIVE_INTEGERS,
            "num_images": POSITIVE_INTEGERS,
        },
    ),
    tv.VampPrior: (
        lambda **given: tv.VampPrior(
            **{"encoder": encoder(), "num_components": 2, **given}
        ),
        {
            "encoder": NOTHING,
            "num_components": POSITIVE_INTEGERS,
            "input_shape": NONE | SHAPES,
            "activation": KERAS_OBJECT,
            "initializer": FUNCTIONS,
        },
    ),
    tv.VariableLayer: (
        made(tv.VariableLayer, shape=2),
        {
            "shape": SHAPES,
            "activation": KERAS_OBJECT,
            "initializer": FUNCTIONS,
            "regularizer": KERAS_OBJECT,
            "constraint": KERAS_OBJECT,
        },
    ),
    tv.VonMisesFisher: vector(tv.VonMisesFisher, SPHERICAL),
}

# Arguments that Keras checks, and the seed of a draw, which TFP does.
LEFT_OUT = {
    **{cls: {"name", "dtype", "trainable"} for cls in TABLE},
    tv.NegativeLogLikelihood: {"name", "reduction"},
    tv.DistributionTensor: {"seed"},
    **{
        cls: {
            *("name", "dtype", "trainable", "activity_regularizer", "reduction"),
            *("filters", "kernel_size", "strides", "padding", "data_format"),
            "dilation_rate",
        }
        for cls, (_, arguments) in TABLE.items()
        if "kernel_posterior_fn" in arguments
        or cls in (tv.DenseVariational, tv.CRPS, tv.EnergyScore)
    },
}

# What the methods of a VAE take; only what they refuse is tried here.
PREDICTED = {"x": NOTHING, "y": NONE, "batch_size": NONE | POSITIVE_INTEGERS}
ESTIMATED = {
    **PREDICTED,
    "num_samples": POSITIVE_INTEGERS,
    "seed": SEEDS,
    "verbose": of("0 1 2 True False np.True_ int64"),
}
METHODS = {
    "generate": (
        {"n": 2},
        {
            "n": POSITIVE_INTEGERS,
            "y": NONE,
            "seed": SEEDS,
            "temperature": POSITIVE,
            "statistics": NONE,
        },
    ),
    "log_prob": ({"x": X, "num_samples": 2}, {**ESTIMATED, "given": NONE}),
    "impute": (
        {"x": np.where(X, X, np.nan), "num_samples": 2},
        {**ESTIMATED, "draws": NONE | POSITIVE_INTEGERS},
    ),
    "elbo": ({"x": X}, ESTIMATED),
    "encode": ({"x": X}, {"x": NOTHING, "y": NONE}),
    "decode": ({"z": X[:, :3]}, {"z": NOTHING, "y": NONE}),
    "reconstruct": ({"x": X}, PREDICTED),
    "predict": ({"x": X}, {**PREDICTED, "statistics": NONE}),
    "traverse": (
        {},
        {
            "x": NONE,
            "dimensions": NONE | LISTS,
            "values": NONE | LISTS,
            "y": NONE,
            "statistics": NONE,
        },
    ),
    "interpolate": (
        {"start": X, "end": X},
        {
            "start": NOTHING,
            "end": NOTHING,
            "num_steps": FROM_2,
            "y": NONE,
            "statistics": NONE,
        },
    ),
    "export": ({"filepath": "/tmp/unused"}, {"filepath": PATHS}),
}
# Arguments of these methods that go to Keras.
OF_KERAS = {
    "predict": {"verbose", "steps", "callbacks"},
    "export": {"format", "kwargs"},
}


def is_ours(error):
    parts = r"expects .*Received: .*\S\. \S"
    return re.search(parts, str(error), re.DOTALL) is not None


def wrong(call, argument, takes, with_taken=True):
    """What is not as in the table."""
    assert takes <= set(VALUES)
    for name, value in VALUES.items():
        if name in takes and not with_taken:
            continue
        try:
            call(**{argument: value})
        except (TypeError, ValueError) as error:
            if name in takes:
                yield f"{argument}={name} is refused: {error}"
            elif not is_ours(error):
                yield f"{argument}={name}, {type(error).__name__}: {error}"
        except Exception as error:
            yield f"{argument}={name}, {type(error).__name__}: {error}"
        else:
            if name not in takes:
                yield f"{argument}={name} is taken"


def named(function):
    parameters = inspect.signature(function).parameters.values()
    several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return {p.name for p in parameters if p.kind not in several} - {"self"}


def arguments_of(cls):
    """The arguments of a class and of those that it passes keywords to."""
    found = set()
    for base in cls.__mro__:
        if base.__module__.startswith("tfp_vae") and "__init__" in vars(base):
            found |= named(base.__init__)
    # What a subclass gives to its base itself.
    inner = {"event_shape", "constant_jacobian"} - named(cls)
    return found - inner - LEFT_OUT[cls]


def test_the_table_has_every_public_class():
    public = {getattr(tv, name) for name in tv.__all__}
    assert set(TABLE) == {thing for thing in public if isinstance(thing, type)}


@pytest.mark.parametrize(
    "cls",
    TABLE,
    ids=lambda cls: cls.__name__,
)
def test_arguments_take_what_the_table_says(cls):
    make, arguments = TABLE[cls]
    assert set(arguments) == arguments_of(cls)
    make()
    found = [f for name, takes in arguments.items() for f in wrong(make, name, takes)]
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def model():
    return vae(missing="nan")


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_a_vae_refuse_the_rest(method, model):
    others, arguments = METHODS[method]
    call = getattr(model, method)
    assert set(arguments) == named(call) - OF_KERAS.get(method, set())

    def with_others(**given):
        return call(**{**others, **given})

    found = [
        problem
        for name, takes in arguments.items()
        for problem in wrong(with_others, name, takes, with_taken=False)
    ]
    assert not found, "\n".join(found)


def two_inputs():
    x, y = keras.Input((8,)), keras.Input((4,))
    h = keras.layers.Dense(6)(keras.layers.concatenate([x, y]))
    return keras.Model([x, y], tv.IndependentNormal(3)(h))


def compiled(**given):
    model = vae(**given)
    model.compile("adam")
    return model


CONFIG = {"tfp.distributions": "Normal", "parameters": {"loc": 0.0, "scale": 1.0}}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: vae().compile("adam", objective=tv.ELBO()),
            r"Received: objective=.*give it to `VAE\(objective=",
        ),
        (
            lambda: compiled(encoder=two_inputs()).fit(X, X[:, :4], verbose=0),
            r"network's 2 inputs. Received: one array.*conditional=True",
        ),
        (lambda: vae(encoder=two_inputs()).encode(X), "conditional=True"),
        (lambda: vae().generate(LARGEST + 1), "below 2.*Received: n=2147.*in pieces"),
        (
            lambda: tv.MixtureSameFamily.params_size(4, tv.IndependentNormal(3)),
            r"Received: a layer, IndependentNormal\(.*parameters_width`, which is 6",
        ),
        (
            lambda: tv.IndependentNormal(3)(tf.zeros([5, 6], tf.int32)),
            "floating-point dtype. Received: parameters.dtype=int32. Cast",
        ),
        (
            lambda: tv.OneHotCategorical(3)(keras.Input((3,), dtype="int64")),
            "floating-point dtype. Received: parameters.dtype=int64. Cast",
        ),
        *[
            (
                lambda hostile=hostile: deserialize_distribution(CONFIG | hostile),
                "config of a distribution.*Received: .*Save it again",
            )
            for hostile in (
                {"parameters": [1.0, 2.0]},
                {"parameters": "loc"},
                {"parameters": {"where": 0.0}},
                {"parameters": {"loc": {"array": [0.0], "dtype": "yes"}, "scale": 1.0}},
            )
        ],
        (
            lambda: tv.check_values(np.full([5, 3], 12.5), tv.QuantizedLogistic(3)),
            r"can draw. Received: values from 12.5.*round them, `np.round",
        ),
        (
            lambda: tv.IndependentPoisson.params_size(3, zero_inflated="yes"),
            "`zero_inflated` to be True or False. Received: zero_inflated='yes'. Give",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert is_ours(caught.value)


def test_a_loaded_seed_and_a_dtype_of_numpy_are_taken():
    layer = tv.OneHotCategorical(3, sample_dtype=np.dtype("int32"), seed=LARGEST)
    again = tv.OneHotCategorical.from_config(layer.get_config())
    assert (again.sample_dtype, again.seed) == ("int32", LARGEST)


def test_warnings_do_not_read_like_errors():
    package = pathlib.Path(tv.__file__).parent
    texts = [
        ast.unparse(call.args[0])
        for path in package.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "warnings.warn"
    ]
    assert len(texts) > 5
    assert not [text for text in texts if "Received" in text or "expects" in text]
