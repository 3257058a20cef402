"""NumPyro's example of a VAE: 784-400-50, softplus, dynamically binarized MNIST.

    python examples/numpyro_vae.py --data-dir PATH
    python examples/numpyro_vae.py --data-dir PATH --budget quick

github.com/pyro-ppl/numpyro, examples/vae.py: 15 epochs in batches of 128, Adam at 1e-3,
every batch binarized anew. It publishes no figure; the reference is a run of
that file with NumPyro 0.22.0 on two CPU cores.
"""

import os
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

import datasets
import networks
import reproduction
import tfp_vae as tv
from pixels import batches, observe

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

    shape = images.train.shape[1:]
    posterior, likelihood = tv.IndependentNormal(LATENT), tv.IndependentBernoulli(shape)
    vae = tv.VAE(
        networks.encoder(shape, [HIDDEN], "softplus", posterior),
        networks.decoder(LATENT, [HIDDEN], "softplus", likelihood),
        tv.StandardNormal(LATENT),
    )
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


if __name__ == "__main__":
    main()
