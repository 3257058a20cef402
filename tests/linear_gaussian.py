"""The model whose log p(x) is closed form: x = W z + b + noise, z standard normal."""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

import tfp_vae as tv

tfd = tfp.distributions

D, X, SCALE = 2, 4, 0.7
_RNG = np.random.default_rng(3)
W = _RNG.normal(size=(X, D))
B = _RNG.normal(size=X)
PRECISION = np.eye(D) + W.T @ W / SCALE**2
COVARIANCE = np.linalg.inv(PRECISION)


def data(n, rng):
    z = rng.normal(size=(n, D))
    x = z @ W.T + B + SCALE * rng.normal(size=(n, X))
    return x.astype("float32")


def log_evidence(x):
    marginal = W @ W.T + SCALE**2 * np.eye(X)
    return stats.multivariate_normal(B, marginal).logpdf(x)


def posterior_mean(x):
    return (np.asarray(x, "float64") - B) @ W @ COVARIANCE / SCALE**2


def kl_to_the_posterior(loc, scale, x):
    """KL(N(loc, diag scale^2) || p(z | x)), nats for each example."""
    away = loc - posterior_mean(x)
    trace = (np.diag(PRECISION) * scale**2).sum(-1)
    square = np.einsum("ni,ij,nj->n", away, PRECISION, away)
    determinants = -np.linalg.slogdet(COVARIANCE)[1] + 2 * np.log(scale).sum(-1)
    return 0.5 * (trace + square - D - determinants)


def decoder():
    network = keras.Sequential(
        [
            keras.Input((D,)),
            keras.layers.Dense(X),
            tv.IndependentNormal(X, scale=SCALE),
        ]
    )
    network.layers[0].set_weights([W.T, B])
    return network


@keras.saving.register_keras_serializable("tests")
def exact_posterior(loc):
    factor = tf.constant(np.linalg.cholesky(COVARIANCE), tf.float32)
    return tfd.MultivariateNormalTriL(loc, factor)


def exact_encoder():
    network = keras.Sequential(
        [
            keras.Input((X,)),
            keras.layers.Dense(D),
            tv.DistributionLambda(exact_posterior),
        ]
    )
    kernel = W @ COVARIANCE / SCALE**2
    network.layers[0].set_weights([kernel, -B @ kernel])
    return network


def rough_encoder():
    """Diagonal, too wide, and beside the posterior's mean."""
    network = keras.Sequential(
        [
            keras.Input((X,)),
            keras.layers.Dense(2 * D),
            tv.IndependentNormal(D),
        ]
    )
    kernel = W @ COVARIANCE / SCALE**2
    loc_bias = -B @ kernel + [0.2, -0.1]
    raw_scale = np.log(np.expm1([0.45, 0.4]))
    network.layers[0].set_weights(
        [np.hstack([0.9 * kernel, np.zeros((X, D))]), np.hstack([loc_bias, raw_scale])]
    )
    return network


def vae(encoder=None, objective=None, learning_rate=1.0):
    model = tv.VAE(
        encoder or rough_encoder(), decoder(), tv.StandardNormal(D), objective
    )
    model.compile(keras.optimizers.SGD(learning_rate))
    return model


def gradient(model, x):
    """The gradient of the loss, as what a step of SGD with rate 1 subtracts."""
    before = [w.numpy() for w in model.trainable_weights]
    model.train_on_batch(x)
    after = [w.numpy() for w in model.trainable_weights]
    for weight, value in zip(model.trainable_weights, before, strict=True):
        weight.assign(value)
    return np.concatenate([(b - a).ravel() for b, a in zip(before, after, strict=True)])
