"""Grey pixels as 256 values: a softmax compared with a discretised logistic.

    python examples/grey_pixels.py --data-dir PATH
    python examples/grey_pixels.py --data-dir PATH --budget quick

Frey faces, 28 x 20 pixels of 256 levels: the categorical likelihood of van den Oord et
al., Pixel Recurrent Neural Networks, 2016, https://arxiv.org/abs/1601.06759, and the
discretised logistic of Kingma et al., Improved Variational Inference with Inverse
Autoregressive Flow, 2016, https://arxiv.org/abs/1606.04934. The decoder outputs 16
features of each pixel, and one layer, shared by all pixels, maps them to parameters.
Figures are bits per dimension of held-out faces, from the bound and from importance
sampling. The reference is a histogram of each pixel, without z. The faces are
frames of a film, so the test faces, a random tenth, resemble some training faces.
"""

import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import datasets
import networks
import reproduction
import tfp_vae as tv

LATENT, HIDDEN, FEATURES, BATCH, DRAWS = 20, 200, 16, 50, 500
EPOCHS = {reproduction.QUICK: 20, reproduction.FULL: 300}
LIKELIHOODS: dict[str, Any] = {
    "categorical": tv.IndependentCategorical,
    "discretised logistic": tv.QuantizedLogistic,
}


def main(argv: Sequence[str] | None = None) -> reproduction.Report:
    """Trains with each likelihood, evaluates, plots and writes the result."""
    args = reproduction.parse(
        __doc__, "grey_pixels", argv, EPOCHS, trainings=lambda args: [*LIKELIHOODS]
    )
    report = reproduction.Report("grey_pixels", "Grey pixels as 256 values", args)
    images = datasets.load("freyfaces", args.data_dir, args.seed)
    if args.quick:
        images = datasets.few(images, 200, 30)
    x, test = (part.astype("float32") for part in (images.train, images.test))
    per_dimension = np.log(2) * test[0].size
    draws = 50 if args.quick else DRAWS
    reference = (counted(images), "a histogram of each pixel, without z")

    def trained(kind: str) -> None:
        vae = build(kind, x)
        if args.quick:
            before = -vae.elbo(test, 1).mean() / per_dimension
            report.add(f"untrained bits per dimension, {kind}", before)
        steps = args.epochs * -(-len(x) // BATCH)
        rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
        vae.compile(keras.optimizers.Adam(rate))
        options = {"batch_size": BATCH, "epochs": args.epochs, "verbose": 2}
        report.fit(kind, vae, x, **options)
        for name, values in {
            "of the bound": vae.elbo(test, 5),
            f"of log p(x), {draws} draws": vae.log_prob(test, draws),
        }.items():
            report.add(
                f"bits per dimension {name}, {kind}",
                -values.mean() / per_dimension,
                *reference,
                higher_is_better=False,
            )
        shown = tv.plots.plot_reconstructions(vae, test[:20])
        report.picture(f"reconstructions {kind}", shown)
        report.picture(f"samples {kind}", tv.plots.plot_samples(vae, 50, seed=0))

    for kind in LIKELIHOODS:
        report.part(kind, trained, kind)
    report.write()
    return report


def counted(images: datasets.Images) -> float:
    """Bits per dimension of a categorical for each pixel, from smoothed counts."""
    levels = np.arange(images.levels)
    counts = sum((face == levels).astype("float64") for face in images.train)
    probs = (counts + 1 / images.levels) / (len(images.train) + 1)
    found = np.take_along_axis(probs[None], images.test.astype("int64"), axis=-1)
    return float(-np.log2(found).mean())


def build(kind: str, x: np.ndarray) -> tv.VAE:
    """The VAE of a likelihood; pixels enter as numbers between -1 and 1."""
    shape = x.shape[1:]
    image, z = keras.Input(shape), keras.Input((LATENT,))
    posterior = tv.IndependentNormal(LATENT)
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    encode = networks.encoder(shape, [HIDDEN, HIDDEN], "relu", posterior)

    likelihood = LIKELIHOODS[kind](shape, parameters_axis=-1)
    channels = likelihood.parameters_width // int(np.prod(shape))
    h = keras.layers.Dense(HIDDEN, activation="relu")(z)
    h = keras.layers.Dense(FEATURES * int(np.prod(shape)), activation="relu")(h)
    h = keras.layers.Reshape((*shape[:-1], shape[-1] * FEATURES))(h)
    p = likelihood(keras.layers.Dense(shape[-1] * channels)(h))
    return tv.VAE(
        keras.Model(image, encode(scaled)), keras.Model(z, p), tv.StandardNormal(LATENT)
    )


if __name__ == "__main__":
    main()
