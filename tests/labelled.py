"""A linear-Gaussian model with classes, whose bound is a sum in closed form.

p(x | z, y) = N(W z + b + U[y], s^2), p(z) = N(0, 1), q(y | x) = softmax(V x + v).
"""

import keras
import linear_gaussian as linear
import numpy as np
import tensorflow_probability as tfp
from scipy import special, stats

import tfp_vae as tv

tfd = tfp.distributions

K, X, D = 3, linear.X, linear.D
_RNG = np.random.default_rng(8)
U = 1.5 * _RNG.normal(size=(K, X))
V, V0 = 0.4 * _RNG.normal(size=(X, K)), np.array([0.2, 0.0, -0.1])
GAIN = linear.W @ linear.COVARIANCE / linear.SCALE**2
# So narrow that the noise of the draws hardly matters.
NARROW = np.array([0.01, 0.02])
LOC_BIAS = -linear.B @ GAIN + [0.2, -0.1]


def data(n, seed=0):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, K, n)
    return linear.data(n, rng) + U[classes].astype("float32"), classes.astype("int32")


def hidden(classes, share=0.5):
    """The labels, of which the last are not known."""
    shown = classes.copy()
    shown[round(len(shown) * (1 - share)) :] = -1
    return shown


def decoder():
    z, y = keras.Input((D,)), keras.Input((K,))
    loc = keras.layers.Dense(X)(keras.layers.concatenate([z, y]))
    network = keras.Model([z, y], tv.IndependentNormal(X, scale=linear.SCALE)(loc))
    network.set_weights([np.vstack([linear.W.T, U]), linear.B])
    return network


def exact_encoder():
    x, y = keras.Input((X,)), keras.Input((K,))
    loc = keras.layers.Dense(D)(keras.layers.concatenate([x, y]))
    q = tv.DistributionLambda(linear.exact_posterior)(loc)
    network = keras.Model([x, y], q)
    network.set_weights([np.vstack([GAIN, -U @ GAIN]), -linear.B @ GAIN])
    return network


def rough_encoder():
    """Narrow, and beside the posterior's mean."""
    x, y = keras.Input((X,)), keras.Input((K,))
    h = keras.layers.Dense(2 * D)(keras.layers.concatenate([x, y]))
    network = keras.Model([x, y], tv.IndependentNormal(D)(h))
    kernel = np.vstack([0.9 * GAIN, -0.8 * U @ GAIN])
    bias = np.hstack([LOC_BIAS, np.log(np.expm1(NARROW))])
    network.set_weights([np.hstack([kernel, np.zeros_like(kernel)]), bias])
    return network


def classifier(last=None):
    network = keras.Sequential(
        [keras.Input((X,)), keras.layers.Dense(K), last or tv.OneHotCategorical(K)]
    )
    network.set_weights([V, V0])
    return network


def vae(encoder=None, compiled=True, jit_compile=False, **options):
    model = tv.VAE(
        encoder or rough_encoder(),
        decoder(),
        tv.StandardNormal(D),
        **{"classifier": classifier(), **options},
    )
    if compiled:
        model.compile(keras.optimizers.SGD(1.0), jit_compile=jit_compile)
    return model


def log_q(x, v=V, v0=V0):
    return special.log_softmax(np.asarray(x, "float64") @ v + v0, axis=-1)


def log_evidence(x):
    """log p(x | y), of shape (n, K)."""
    marginal = linear.W @ linear.W.T + linear.SCALE**2 * np.eye(X)
    each = [stats.multivariate_normal(linear.B + u, marginal).logpdf(x) for u in U]
    return np.stack(each, axis=-1)


def terms(x):
    """-E_q[log p(x | z, y)] and KL(q(z | x, y) || p(z)), of each coordinate."""
    x = np.asarray(x, "float64")[:, None]
    loc = 0.9 * x @ GAIN - 0.8 * (U @ GAIN)[None] + LOC_BIAS
    mean = loc @ linear.W.T + linear.B + U
    noise = np.sum(linear.W**2 * NARROW**2) / linear.SCALE**2 / 2
    nll = -stats.norm(mean, linear.SCALE).logpdf(x).sum(-1) + noise
    kl = (loc**2 + NARROW**2 - 1) / 2 - np.log(NARROW)
    return nll, kl


def bound(x, labels, prior=None, alpha=1.0, cost=None, v=V, v0=V0, weights=None):
    """Loss, nll, kl and their parts by an exhaustive sum over the classes."""
    log_p = np.log(np.full(K, 1 / K) if prior is None else prior)
    nll, kl = terms(x)
    posterior = log_q(x, v, v0)
    known = labels >= 0
    share = np.where(known[:, None], np.eye(K)[labels], np.exp(posterior))
    weights = np.ones(len(x)) if weights is None else weights
    label_cost = np.where(
        known,
        -log_p[labels],
        np.sum(np.exp(posterior) * (posterior - log_p), axis=-1),
    )
    surprise = np.where(known, -posterior[np.arange(len(x)), labels], 0.0)
    if cost is None:
        of_z = np.sum(share * kl.sum(-1), axis=-1)
    else:  # of the mean KL of the batch
        w = (weights[:, None] * share)[..., None]
        of_z = cost(np.sum(w * kl, axis=(0, 1)) / weights.sum())
    of_x = np.sum(share * nll, axis=-1)
    losses = of_x + of_z + label_cost + alpha * surprise
    return {
        "loss": np.mean(weights * losses),
        "nll": of_x.mean(),
        "kl": np.mean(np.sum(share * kl.sum(-1), axis=-1) + label_cost),
        "classification_loss": surprise[known].mean() if known.any() else np.nan,
        "accuracy": np.mean(posterior.argmax(-1)[known] == labels[known])
        if known.any()
        else np.nan,
        "rows": losses,
    }
