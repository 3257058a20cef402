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


def laplace(parameters, x, event):
    loc, scale = loc_scale_parts(parameters, event)
    return over_event(stats.laplace.logpdf(x, loc, scale), event)


def parts(parameters, count, event):
    pieces = np.split(np.asarray(parameters, np.float64), count, axis=-1)
    return [piece.reshape(*piece.shape[:-1], *event) for piece in pieces]


def student_t(parameters, x, event):
    loc, scale, df = parts(parameters, 3, event)
    log_pdf = stats.t.logpdf(x, 1 + softplus(df), loc, softplus(scale))
    return over_event(log_pdf, event)


def log_normal(parameters, x, event):
    loc, scale = parts(parameters, 2, event)
    log_pdf = stats.lognorm.logpdf(x, softplus(scale), scale=np.exp(loc))
    return over_event(log_pdf, event)


def gamma(parameters, x, event):
    concentration, rate = map(softplus, parts(parameters, 2, event))
    concentration = np.maximum(concentration, 0.25)
    log_pdf = stats.gamma.logpdf(x, concentration, scale=1 / rate)
    return over_event(log_pdf, event)


def beta(parameters, x, event):
    a, b = (1 + softplus(raw) for raw in parts(parameters, 2, event))
    return over_event(stats.beta.logpdf(x, a, b), event)


def kumaraswamy(parameters, x, event):
    a, b = (1 + softplus(raw) for raw in parts(parameters, 2, event))
    x = np.asarray(x, np.float64)
    log_pdf = np.log(a * b) + (a - 1) * np.log(x) + (b - 1) * np.log1p(-(x**a))
    return over_event(log_pdf, event)


def truncated_normal(parameters, x, event):
    loc, raw = parts(parameters, 2, event)
    scale = np.maximum(softplus(raw), 1e-3)
    loc = np.clip(loc, 0 - 30 * scale, 1 + 30 * scale)
    ends = (0 - loc) / scale, (1 - loc) / scale
    return over_event(stats.truncnorm.logpdf(x, *ends, loc, scale), event)


def continuous_bernoulli(parameters, x, event):
    logits = np.asarray(parameters, np.float64).reshape(x.shape)
    # The density is exp(logits x) over its integral from 0 to 1.
    return over_event(logits * x - np.log(np.expm1(logits) / logits), event)


def categories(parameters, x, event):
    logits = np.asarray(parameters, np.float64).reshape(*x.shape, -1)
    log_probs = special.log_softmax(logits, axis=-1)
    index = x.astype(int)[..., None]
    return over_event(np.take_along_axis(log_probs, index, -1)[..., 0], event)


def quantized_logistics(parameters, x, event, low=0, high=5):
    loc, raw, logits = parts(parameters, 3, (*event, 2))
    half = (high - low) / 2
    law = stats.logistic(low + half + half * loc, half * softplus(raw))
    x = np.asarray(x, np.float64)[..., None]
    below = np.where(x == low, 0.0, law.cdf(x - 0.5))
    above = np.where(x == high, 1.0, law.cdf(x + 0.5))
    weights = special.softmax(logits, axis=-1)
    return over_event(np.log((weights * (above - below)).sum(-1)), event)


def zero_inflated_negative_binomial(parameters, x, event):
    total, logits, extra = parts(parameters, 3, event)
    pmf = stats.nbinom.pmf(x, softplus(total), special.expit(-logits))
    zeros = special.expit(extra)
    return over_event(np.log(zeros * (x == 0) + (1 - zeros) * pmf), event)


def multinomial(parameters, x, event):
    probs = special.softmax(np.asarray(parameters, np.float64), axis=-1)
    return stats.multinomial.logpmf(x, int(x[0].sum()), probs)


def dirichlet_multinomial(parameters, x, event):
    alphas = softplus(np.asarray(parameters, np.float64))
    counts = x.astype(int)
    return stats.dirichlet_multinomial.logpmf(counts, alphas, counts.sum(-1))


def relaxed_bernoulli(parameters, x, event):
    logits = np.asarray(parameters, np.float64).reshape(x.shape)
    return over_event(stats.logistic.logpdf(x, logits / 0.5, 1 / 0.5), event)


def relaxed_one_hot(parameters, x, event):
    """Maddison et al., 2017, equation 24, in the logarithms of the simplex."""
    logits, x = np.asarray(parameters, np.float64), np.asarray(x, np.float64)
    n, temperature = x.shape[-1], 0.5
    terms = logits - temperature * x
    constant = special.gammaln(n) + (n - 1) * np.log(temperature)
    return constant + terms.sum(-1) - n * special.logsumexp(terms, axis=-1)


def blockwise(parameters, x, event):
    first = normal(parameters[:, :4], x[:, :2], (2,))
    return first + laplace(parameters[:, 4:], x[:, 2:], (2,))


def direction_and_concentration(parameters):
    parameters = np.asarray(parameters, np.float64)
    direction = parameters[:, :-1]
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    return direction, 1 + softplus(parameters[:, -1])


def von_mises_fisher(parameters, x, event):
    rows = zip(*direction_and_concentration(parameters), x, strict=True)
    return np.array([stats.vonmises_fisher(m, k).logpdf(v) for m, k, v in rows])


def direction_and_norm(parameters, x, event):
    """Of concentration 5 and norms from min(|raw|, 1) to 49 more."""
    x, parameters = np.asarray(x, "float64"), np.asarray(parameters, "float64")
    r, length = (np.linalg.norm(v, axis=-1, keepdims=True) for v in (x, parameters))
    rows = zip(parameters / length, x / r, strict=True)
    log_direction = [stats.vonmises_fisher(m, 5.0).logpdf(v) for m, v in rows]
    return np.array(log_direction) - np.log(49.0) - (x.shape[-1] - 1) * np.log(r[:, 0])


def power_spherical(parameters, x, event):
    """De Cao and Aziz, 2020: (1 + mu.x)^k over its integral, a beta function in t."""
    direction, k = direction_and_concentration(parameters)
    b = (x.shape[-1] - 1) / 2
    log_sphere = np.log(2) + b * np.log(np.pi) - special.gammaln(b)
    log_integral = (2 * b + k - 1) * np.log(2) + special.betaln(b + k, b)
    t = (direction * x).sum(-1)
    return k * np.log1p(t) - log_sphere - log_integral


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
