"""Trains a variational autoencoder on images, plots what it learned, and saves it.

    python examples/train_vae.py
    python examples/train_vae.py --dataset binarized_mnist --data-dir PATH

The first takes about a minute on two CPU cores and needs no files.
"""

import argparse
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from matplotlib.figure import Figure

import datasets
import tfp_vae as tv
from pixels import batches, observe
from reproduction import positive

tfd = tfp.distributions

LIKELIHOODS: dict[str, Any] = {
    "bernoulli": tv.IndependentBernoulli,
    "normal": tv.IndependentNormal,
    "logistic": tv.IndependentLogistic,
}
ON_THE_SPHERE: dict[str, Any] = {
    "power-spherical": tv.PowerSpherical,
    "von-mises-fisher": tv.VonMisesFisher,
}
POSTERIORS: dict[str, Any] = {
    "normal": tv.IndependentNormal,
    "tril": tv.MultivariateNormalTriL,
    **ON_THE_SPHERE,
}
PRIORS: dict[str, Any] = {
    "standard": lambda size, network, k: tv.StandardNormal(size),
    "learned": lambda size, network, k: tv.LearnedNormal(size),
    "laplace": lambda size, network, k: tfd.Sample(tfd.Laplace(0.0, 1.0), size),
    "mixture": lambda size, network, k: tv.MixturePrior(size, num_components=k),
    "vamp": lambda size, network, k: tv.VampPrior(network, num_components=k),
    "flow": lambda size, network, k: tv.FlowPrior(size),
    "sphere": lambda size, network, k: tv.SphericalUniform(size),
}
# Default latent size, epochs, batch size and likelihood of each data set.
DEFAULTS = {
    "digits": (2, 150, 16, "bernoulli"),
    "freyfaces": (20, 100, 32, "normal"),
    "others": (20, 20, 128, "bernoulli"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, evaluates, plots, saves and checks."""
    args = _parse(argv)
    print("device:", ", ".join(_gpus()) or f"CPU ({os.cpu_count()} threads)")
    if args.mixed_precision:
        keras.config.set_dtype_policy("mixed_bfloat16")
    keras.utils.set_random_seed(args.seed)
    images = datasets.load(args.dataset, args.data_dir, args.seed)
    print("data:", describe(images, args.likelihood))

    vae = build(args, images)
    vae.compile("adam", jit_compile="auto" if args.jit else False)
    callbacks = [tv.NaNGuard()]
    if args.warm_up:
        callbacks.append(tv.KLWarmup(epochs=args.warm_up))
    train = batches(images, args.likelihood, args.batch_size, args.seed)
    vae.fit(train, epochs=args.epochs, callbacks=callbacks)

    x = observe(images.test, [args.seed, 1], images.levels, args.likelihood).numpy()
    draws = math.ceil(10_000 / len(x))
    elbo = vae.elbo(x, draws).mean()
    count = f"({len(x)} images, {draws} draw{'s' * (draws > 1)} each)"
    print(f"held-out ELBO: {elbo:.2f} nats per image {count}")
    if args.samples:
        log_prob = vae.log_prob(x, args.samples).mean()
        print(f"held-out log p(x): {log_prob:.2f}, from {args.samples} draws each")
    if args.likelihood != "bernoulli":
        bits = math.log2(images.levels) - elbo / x[0].size / math.log(2)
        print(f"that is a density: {bits:.3f} bits per dimension of the images")

    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "latent.png").unlink(missing_ok=True)  # of a run with other options
    figures = pictures(vae, images, x)
    for name, figure in figures.items():
        figure.savefig(args.output / name, dpi=150)
    check_saved(vae, x[:100], args.output)
    print(f"wrote {', '.join(figures)}, vae.keras and served/ to {args.output}")


def build(args: argparse.Namespace, images: datasets.Images) -> tv.VAE:
    """Makes the encoder, the decoder and the prior p(z)."""
    shape, latent_size = images.train.shape[1:], args.latent_size
    posterior, likelihood = POSTERIORS[args.posterior], LIKELIHOODS[args.likelihood]
    encoder = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(400, activation="relu"),
            keras.layers.Dense(posterior.params_size(latent_size)),
            posterior(latent_size),
        ]
    )
    last = keras.layers.Dense(likelihood.params_size(shape))
    decoder = keras.Sequential(
        [
            keras.Input((latent_size,)),
            keras.layers.Dense(400, activation="relu"),
            last,
            likelihood(shape),
        ]
    )
    # Training then starts from the average image.
    x = (images.train.reshape(len(images.train), -1) + 0.5) / images.levels
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1 / images.levels
    if args.likelihood == "bernoulli":
        last.bias.assign(np.log(mean / (1 - mean)))
    else:
        last.bias.assign(np.concatenate([mean, np.log(np.expm1(scale))]))
    prior = PRIORS[args.prior](latent_size, encoder, args.components)
    if args.prior == "vamp":  # starts at training images, as in the paper
        few = np.resize(images.train, (args.components, *shape))
        prior.pseudo_inputs.constant.assign(few / (images.levels - 1))
    objective: Any = tv.ELBO(beta=args.beta)
    if args.iwae:
        objective = tv.ImportanceWeightedBound(args.iwae, gradient="dreg")
    return tv.VAE(encoder, decoder, prior, objective)


def describe(images: datasets.Images, likelihood: str) -> str:
    """Describes in a line the images and how the likelihood models them."""
    if images.levels == 2 and likelihood != "bernoulli":
        raise ValueError(
            f"The likelihood {likelihood!r} expects grey images. Received: the black "
            f"and white images of {images.name!r}. Use --likelihood bernoulli, or "
            "another --dataset."
        )
    how = "binarized: a pixel is a draw with its grey value as probability"
    if images.levels == 2:
        how = "used as they are"
    elif likelihood != "bernoulli":
        how = f"dequantized: (pixel + uniform noise) / {images.levels}"
    height, width = images.train.shape[1:3]
    return (
        f"{images.name}, {len(images.train)} training and {len(images.test)} test "
        f"images of {height} x {width} pixels, {images.levels} levels, {how}"
    )


def pictures(vae: tv.VAE, images: datasets.Images, x: np.ndarray) -> dict[str, Figure]:
    """Plots reconstructions, samples and, if it is a plane, the latent space."""
    figures = {
        "reconstructions.png": tv.plots.plot_reconstructions(vae, x[:24]),
        "samples.png": tv.plots.plot_samples(vae, 100, seed=0),
        "traversals.png": tv.plots.plot_traversals(vae, x[:1]),
    }
    if vae.encode(x[:1]).event_shape == (2,):
        latent = tv.plots.plot_latents(vae, x, images.test_labels)
        figures["latent.png"] = latent
    return figures


def check_saved(vae: tv.VAE, x: np.ndarray, output: pathlib.Path) -> None:
    """Saves and exports the model, loads both, and compares them on x."""
    vae.save(output / "vae.keras")
    vae.export(output / "served")
    loaded = keras.models.load_model(output / "vae.keras")
    served = tf.saved_model.load(output / "served")
    z = vae.encode(x).sample(seed=0)
    # bfloat16 (8 bits) and TF32 round differently in eager and in fused code.
    exact = not _gpus() and keras.config.dtype_policy().name == "float32"
    tolerance = 1e-5 if exact else 5e-2
    images = vae.reconstruct(x)
    for name, error in {
        "vae.keras, reconstruct": loaded.reconstruct(x) - images,
        "vae.keras, generate": loaded.generate(9, seed=1) - vae.generate(9, seed=1),
        "served, reconstruct": served.reconstruct(x).numpy() - images,
        "served, decode": served.decode(z).numpy() - vae.decode(z).mean().numpy(),
    }.items():
        difference = abs(error).max()
        print(f"{name}: max abs difference {difference:.1e}, at most {tolerance:.0e}")
        if not difference <= tolerance:
            raise RuntimeError(
                f"The saved model is expected to agree within {tolerance}. Received: a "
                f"difference of {difference} in {name}. Please report it as a bug."
            )


def _gpus() -> list[str]:
    gpus = tf.config.list_physical_devices("GPU")
    details = map(tf.config.experimental.get_device_details, gpus)
    return [detail.get("device_name", "GPU") for detail in details]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", choices=datasets.NAMES, default="digits", help="default digits")
    add("--data-dir", help=f"directory of the files; {datasets.VARIABLE} does the same")
    add("--likelihood", choices=LIKELIHOODS, help="default bernoulli; freyfaces normal")
    add("--posterior", choices=POSTERIORS, default="normal", help="default normal")
    prior = "default standard; of the spherical posteriors sphere"
    add("--prior", choices=PRIORS, help=prior)
    components = "of the mixture and vamp priors, default 100"
    add("--components", type=positive, default=100, help=components)
    beta = "weight of the KL, default 1"
    add("--beta", type=float, default=1.0, help=beta)
    iwae = "draws of the importance-weighted bound, in place of the ELBO"
    add("--iwae", type=positive, metavar="K", help=iwae)
    warm_up = "epochs in which the weight of the KL grows, default none"
    add("--warm-up", type=positive, metavar="EPOCHS", help=warm_up)
    samples = "draws for log p(x) of each test image, default 100; 0 for none"
    add("--samples", type=int, default=100, help=samples)
    add("--latent-size", type=positive, help="default 20; digits 2, which is drawn")
    add("--epochs", type=positive, help="default 20; digits 150, freyfaces 100")
    add("--batch-size", type=positive, help="default 128; digits 16, freyfaces 32")
    add("--seed", type=int, default=0, help="default 0; same seed, same history")
    add("--output", type=pathlib.Path, help="default output/DATASET")
    jit = "default --jit, XLA: faster but for the first step"
    add("--jit", action=argparse.BooleanOptionalAction, default=True, help=jit)
    add("--mixed-precision", action="store_true", help="compute in bfloat16")
    args = parser.parse_args(argv)
    names = ("latent_size", "epochs", "batch_size", "likelihood")
    defaults = DEFAULTS.get(args.dataset, DEFAULTS["others"])
    for name, default in zip(names, defaults, strict=True):
        setattr(args, name, getattr(args, name) or default)
    spherical = args.posterior in ON_THE_SPHERE
    args.prior = args.prior or ("sphere" if spherical else "standard")
    args.output = args.output or pathlib.Path("output") / args.dataset
    return args


if __name__ == "__main__":
    main()
