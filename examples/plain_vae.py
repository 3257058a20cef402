"""The VAE of the pythae benchmark: 784-400-40 on the static binarized MNIST.

    python examples/plain_vae.py --data-dir PATH
    python examples/plain_vae.py --data-dir PATH --budget quick

Chadebec et al., Pythae, 2022, https://arxiv.org/abs/2206.08309: batches of 100, Adam at
1e-4, lowered in steps, 500 epochs; the epoch best on the validation images is kept.
Initial weights and Adam's epsilon are those of PyTorch, the posterior is given by its
log variance. The figure is -log p(x) of the test images, estimated with 200 draws for
each.
"""

import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import datasets
import networks
import reproduction
import tfp_vae as tv

tfd = tfp.distributions

LATENT, HIDDEN, BATCH, DRAWS = 40, 400, 100, 200
EPOCHS = {reproduction.QUICK: 10, reproduction.FULL: 500}
LOWER_AT = (200, 350, 500, 750, 1000)  # epochs that multiply the rate by 10^(-1/5)
SOURCE = "pythae, examples/scripts/reproducibility"
WORSE = (
    "the peer, a PyTorch loop of the stated configuration, ends at the same figure, so "
    "that the published one seems to be of another configuration"
)


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains, evaluates, plots and writes the result."""
    args = reproduction.parse(__doc__, "plain_vae", argv, EPOCHS)
    report = reproduction.Report("plain_vae", "VAE of the pythae benchmark", args)
    images = datasets.load("binarized_mnist", args.data_dir, args.seed)
    if args.quick:
        images = datasets.few(images, 2000, 200)
    parts = (images.train, images.valid, images.test)
    x, valid, test = (np.asarray(part, "float32") for part in parts)

    vae = build(x.shape[1:])
    steps = -(-len(x) // BATCH)
    rate = keras.optimizers.schedules.PiecewiseConstantDecay(
        [epoch * steps for epoch in LOWER_AT],
        [1e-4 * 10 ** (-i / 5) for i in range(len(LOWER_AT) + 1)],
    )
    vae.compile(keras.optimizers.Adam(1e-3 if args.quick else rate, epsilon=1e-8))
    if args.quick:
        report.add("untrained -log p(x), nats", -vae.log_prob(test, DRAWS).mean())
    best = keras.callbacks.EarlyStopping(
        "val_loss", patience=args.epochs, restore_best_weights=True
    )
    report.fit(
        reproduction.TRAINING,
        vae,
        x,
        batch_size=BATCH,
        epochs=args.epochs,
        validation_data=(valid,),
        callbacks=[best],
        verbose=2,
    )

    report.add(
        f"-log p(x), nats, {DRAWS} draws",
        -vae.log_prob(test, DRAWS).mean(),
        reference=89.78,
        source=SOURCE,
        tolerance=0.3,
        higher_is_better=False,
        reason="" if args.quick else WORSE,
        budget="500 epochs",
    )
    found = -vae.elbo(test, 10).mean()
    report.add("-ELBO, nats", found, tolerance=0.3, higher_is_better=False)
    report.picture("samples", tv.plots.plot_samples(vae, 100, seed=0))
    report.write()
    return report


def build(shape: tuple[int, ...]) -> tv.VAE:
    """784-400-40 and back, with ReLU."""
    posterior, likelihood = (
        tv.DistributionLambda(normal),
        tv.IndependentBernoulli(shape),
    )
    encoder = networks.encoder(shape, [HIDDEN], "relu", posterior, 2 * LATENT)
    decoder = networks.decoder(LATENT, [HIDDEN], "relu", likelihood)
    networks.redraw([encoder, decoder], of_pytorch)
    return tv.VAE(encoder, decoder, tv.StandardNormal(LATENT))


def normal(parameters: Any) -> Any:
    """The normal distribution of a mean and a log variance."""
    loc, log_variance = tf.split(parameters, 2, axis=-1)
    return tfd.Independent(tfd.Normal(loc, tf.exp(log_variance / 2)), 1)


def of_pytorch(inputs: int) -> keras.initializers.Initializer:
    """The law of all weights of `torch.nn.Linear`, also of the biases."""
    return keras.initializers.RandomUniform(-(inputs**-0.5), inputs**-0.5)


if __name__ == "__main__":
    main()
