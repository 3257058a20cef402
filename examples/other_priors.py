"""Priors that are not Gaussian, with posteriors of a different family.

    python examples/other_priors.py --data-dir PATH
    python examples/other_priors.py --data-dir PATH --budget quick

Two latents of dynamically binarized MNIST: a Student-t prior with a normal posterior,
and a Beta(2, 1) prior on the unit square with a truncated normal one. Neither pair has
a closed-form KL, so it is estimated from the draws of z that the decoder gets. The
estimate is compared with a numerical integral of SciPy's densities.
"""

import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow_probability as tfp
from matplotlib.figure import Figure
from scipy import stats

import datasets
import networks
import reproduction
import tfp_vae as tv
from pixels import batches, observe

tfd = tfp.distributions

LATENT, HIDDEN, BATCH, DRAWS, PASSES = 2, (400,), 128, 500, 10
DEGREES_OF_FREEDOM, TAIL = 3.0, 1e-9
EPOCHS = {reproduction.QUICK: 6, reproduction.FULL: 20}
STUDENT, BETA = "Student-t", "Beta(2, 1)"


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains with each prior, checks the KL, plots the latents, writes the result."""
    args = reproduction.parse(
        __doc__, "other_priors", argv, EPOCHS, trainings=lambda args: [STUDENT, BETA]
    )
    report = reproduction.Report("other_priors", "Student-t and Beta priors", args)
    images = datasets.load("mnist", args.data_dir, args.seed)
    if args.quick:
        images = datasets.few(images, 2000, 500)
    test = observe(images.test, [args.seed, 1], images.levels, "bernoulli").numpy()

    def trained(kind: str) -> None:
        vae = build(kind, images.train.shape[1:])
        vae.compile(keras.optimizers.Adam(1e-3))
        if args.quick:
            before = vae.elbo(test, 1).mean()
            report.add(f"untrained ELBO, {kind}, nats", before)
        train = batches(images, "bernoulli", BATCH, args.seed)
        report.fit(kind, vae, train, epochs=args.epochs, verbose=2)
        report.add(f"ELBO, {kind} prior, nats", vae.elbo(test, 5).mean())
        report.add(f"log p(x), {kind} prior, nats", vae.log_prob(test, DRAWS).mean())
        # Each evaluation has a new draw of z for each image.
        rates = [tv.evaluation.rate_distortion(vae, test).rate for _ in range(PASSES)]
        exact = integral(kind, vae.encode(test).distribution).mean()
        report.add(f"KL by Monte Carlo, {kind} prior, nats", np.mean(rates))
        report.add(f"KL by an integral, {kind} prior, nats", exact)
        report.add(
            f"difference of the two, {kind} prior, standard errors",
            abs(np.mean(rates) - exact) / stats.sem(rates),
            reference=0.0,
            source="exact: the two are equal",
            tolerance=4.0,
            higher_is_better=False,
        )
        report.picture(f"latents {kind}", latents(kind, vae, test, images.test_labels))
        report.picture(f"samples {kind}", tv.plots.plot_samples(vae, 100, seed=0))

    for kind in (STUDENT, BETA):
        report.part(kind, trained, kind)
    report.write()
    return report


def build(kind: str, shape: tuple[int, ...]) -> tv.VAE:
    """The VAE with a prior that is a plain TFP distribution."""
    posterior: Any = tv.IndependentNormal(LATENT)
    prior = tfd.Sample(tfd.StudentT(DEGREES_OF_FREEDOM, 0.0, 1.0), LATENT)
    if kind == BETA:
        posterior = tv.IndependentTruncatedNormal(LATENT)
        prior = tfd.Sample(tfd.Beta(2.0, 1.0), LATENT)
    return tv.VAE(
        networks.encoder(shape, HIDDEN, "relu", posterior),
        networks.decoder(LATENT, HIDDEN, "relu", tv.IndependentBernoulli(shape)),
        prior,
    )


def integral(kind: str, posterior: Any) -> np.ndarray:
    """The KL of each posterior: an integral for each coordinate, without draws.

    Gauss-Legendre nodes avoid the end points, where a beta's log p is infinite.
    """
    loc, scale = (
        np.asarray(parameter, "float64")[..., None]
        for parameter in (posterior.loc, posterior.scale)
    )
    prior = prior_of(kind)
    q: Any = stats.norm(loc, scale)
    if kind == BETA:
        q = stats.truncnorm(-loc / scale, (1 - loc) / scale, loc, scale)
    low, high = q.ppf(TAIL), q.ppf(1 - TAIL)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    z = low + (high - low) * (1 + nodes) / 2
    log_q = q.logpdf(z)
    values = np.exp(log_q) * (log_q - prior.logpdf(z)) * (high - low) / 2
    return (values @ weights).sum(axis=-1)


def prior_of(kind: str) -> Any:
    """The prior of one coordinate as a SciPy distribution."""
    return stats.t(DEGREES_OF_FREEDOM) if kind == STUDENT else stats.beta(2, 1)


def latents(kind: str, vae: tv.VAE, test: np.ndarray, labels: Any) -> Figure:
    """The centers of the posteriors, over contours of the prior's density."""
    figure = tv.plots.plot_latents(vae, test, labels)
    axes = figure.axes[0]
    grid = [np.linspace(*ends, 201) for ends in (axes.get_xlim(), axes.get_ylim())]
    density = [prior_of(kind).pdf(z) for z in grid]
    axes.contour(*grid, np.outer(density[1], density[0]), colors="grey", alpha=0.6)
    axes.set_title(f"centers of q(z | x) over the {kind} prior")
    return figure


if __name__ == "__main__":
    main()
