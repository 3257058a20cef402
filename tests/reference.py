"""Log-densities and divergences in NumPy and SciPy: slow, obvious, and not ours."""

import numpy as np
from scipy import special, stats


def softplus(x):
    return np.logaddexp(0.0, x)


def loc_scale_parts(parameters, event):
    loc, raw = np.split(np.asarray(parameters, np.float64), 2, axis=-1)
    shape = (*loc.shape[:-1], *event)
    return loc.reshape(shape), np.maximum(softplus(raw), 1e-5).reshape(shape)


def over_event(values, event):
    return values.sum(axis=tuple(range(values.ndim - len(event), values.ndim)))


def normal(parameters, x, event):
    loc, scale = loc_scale_parts(parameters, event)
    return over_event(stats.norm.logpdf(x, loc, scale), event)


def logistic(parameters, x, event):
    loc, scale = loc_scale_parts(parameters, event)
    return over_event(stats.logistic.logpdf(x, loc, scale), event)


def bernoulli(parameters, x, event):
    logits = np.asarray(parameters, np.float64).reshape(x.shape)
    return over_event(stats.bernoulli.logpmf(x, special.expit(logits)), event)


def poisson(parameters, x, event):
    rate = np.exp(np.asarray(parameters, np.float64)).reshape(x.shape)
    return over_event(stats.poisson.logpmf(x, rate), event)


def cholesky(raw, d):
    """Fills as `tfp.math.fill_triangular` documents: a clockwise spiral of entries."""
    raw = np.asarray(raw, np.float64)
    entries = np.concatenate([raw[d:], raw[::-1]]).reshape(d, d)
    lower = np.tril(entries, -1)
    return lower + np.diag(softplus(np.diag(entries)) + 1e-5)


def multivariate_normal(parameters, x, event):
    (d,) = event
    rows = []
    for row, value in zip(parameters, x, strict=True):
        factor = cholesky(row[d:], d)
        law = stats.multivariate_normal(row[:d], factor @ factor.T)
        rows.append(law.logpdf(value))
    return np.array(rows)


def categorical(parameters, x, event):
    logits = np.asarray(parameters, np.float64)
    return (special.log_softmax(logits, axis=-1) * x).sum(-1)


def mixture(component, num_components):
    def log_density(parameters, x, event):
        parameters = np.asarray(parameters, np.float64)
        weights = special.log_softmax(parameters[:, :num_components], axis=-1)
        rest = parameters[:, num_components:]
        parts = np.split(rest, num_components, axis=-1)
        terms = [
            weights[:, k] + component(parts[k], x, event) for k in range(num_components)
        ]
        return special.logsumexp(terms, axis=0)

    return log_density


def kl_normal_standard(loc, scale):
    """KL(N(loc, scale^2) || N(0, 1)), summed over the last axis."""
    return 0.5 * (loc**2 + scale**2 - 1 - 2 * np.log(scale)).sum(-1)


def kl_gaussians(loc_q, cov_q, loc_p, cov_p):
    """KL between two multivariate normals."""
    inverse = np.linalg.inv(cov_p)
    difference = loc_p - loc_q
    return 0.5 * (
        np.trace(inverse @ cov_q)
        + difference @ inverse @ difference
        - len(loc_q)
        + np.linalg.slogdet(cov_p)[1]
        - np.linalg.slogdet(cov_q)[1]
    )
