"""NumPyro's example of a VAE: 784-400-50, softplus, dynamically binarized MNIST.

    python examples/numpyro_vae.py --data-dir PATH
    python examples/numpyro_vae.py --data-dir PATH --budget quick

github.com/pyro-ppl/numpyro, examples/vae.py: 15 epochs in batches of 128, Adam at 1e-3,
every batch binarized anew. Initial weights are N(0, 0.01^2), the posterior is given by
its log scale. It publishes no figure; the reference is a run of that file with NumPyro
0.22.0 on two CPU cores.
"""

import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
import tensorflow_probability as tfp

import datasets
import networks
import reproduction
import tfp_vae as tv
from pixels import batches, observe

tfd = tfp.distributions

LATENT, HIDDEN, BATCH = 50, 400, 128
EPOCHS = {reproduction.QUICK: 5, reproduction.FULL: 15}


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains, evaluates, plots and writes the result."""
    args = reproduction.parse(__doc__, "numpyro_vae", argv, EPOCHS)
    report = reproduction.Report("numpyro_vae", "NumPyro's example", args)
    images = datasets.load("mnist", args.data_dir, args.seed)
    if args.quick:
        images = datasets.few(images, 2000, 500)
    test = observe(images.test, [args.seed, 1], images.levels, "bernoulli").numpy()

    vae = build(images.train.shape[1:])
    vae.compile(keras.optimizers.Adam(1e-3))
    if args.quick:
        report.add("untrained -ELBO, nats", -vae.elbo(test, 1).mean())
    train = batches(images, "bernoulli", BATCH, args.seed)
    report.fit(reproduction.TRAINING, vae, train, epochs=args.epochs, verbose=2)

    report.add(
        f"test -ELBO after {args.epochs} epochs, nats",
        -vae.elbo(test, 1).mean(),
        reference=101.59,
        source="NumPyro 0.22.0, run here",
        budget="15 epochs",
        tolerance=0.5,
        higher_is_better=False,
    )
    report.picture("reconstructions", tv.plots.plot_reconstructions(vae, test[:20]))
    report.write()
    return report


def build(shape: tuple[int, ...]) -> tv.VAE:
    """784-400-50 and back, with softplus."""
    posterior, likelihood = (
        tv.DistributionLambda(normal),
        tv.IndependentBernoulli(shape),
    )
    encoder = networks.encoder(shape, [HIDDEN], "softplus", posterior, 2 * LATENT)
    decoder = networks.decoder(LATENT, [HIDDEN], "softplus", likelihood)
    small = keras.initializers.RandomNormal
    networks.redraw([encoder, decoder], lambda inputs: small(stddev=0.01))
    return tv.VAE(encoder, decoder, tv.StandardNormal(LATENT))


def normal(parameters: Any) -> Any:
    """The normal distribution of a mean and a log scale."""
    loc, log_scale = tf.split(parameters, 2, axis=-1)
    return tfd.Independent(tfd.Normal(loc, tf.exp(log_scale)), 1)


if __name__ == "__main__":
    main()
