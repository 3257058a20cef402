"""Trains a variational autoencoder on images, draws what it learned, and saves it.

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
    "mixture": lambda size, network, k: tv.MixturePrior(size, k),
    "vamp": lambda size, network, k: tv.VampPrior(network, k, activation="sigmoid"),
    "flow": lambda size, network, k: tv.FlowPrior(size),
    "sphere": lambda size, network, k: tv.SphericalUniform(size),
}
# Latent size, epochs, batch size and likelihood, where the command line gives none.
DEFAULTS = {
    "digits": (2, 150, 16, "bernoulli"),
    "freyfaces": (20, 100, 32, "normal"),
    "others": (20, 20, 128, "bernoulli"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, evaluates, draws, saves and checks."""
    args = _parse(argv)
    print("device:", ", ".join(_gpus()) or f"CPU ({os.cpu_count()} threads)")
    if args.mixed_precision:
        keras.config.set_dtype_policy("mixed_bfloat16")
    keras.utils.set_random_seed(args.seed)
    images = datasets.load(args.dataset, args.data_dir, args.seed)
    print("data:", describe(images, args.likelihood))

    encoder, decoder, prior = build(args, images)
    vae = keras.Model(encoder.inputs[0], decoder(encoder.outputs[0]))
    vae.compile(
        "adam",
        loss=tv.NegativeLogLikelihood(),
        metrics=[tv.LogLikelihood(negative=True)],
        jit_compile=args.jit,
    )
    train = batches(args, images)
    tv.check_values(train, decoder.layers[-1])
    vae.fit(train, epochs=args.epochs, shuffle=False)

    x = observe(images.test, [args.seed, 1], images.levels, args.likelihood).numpy()
    draws = math.ceil(10_000 / len(x))
    test = tf.data.Dataset.from_tensor_slices((x, x)).batch(500).repeat(draws)
    elbo = -vae.evaluate(test, verbose=0, return_dict=True)["loss"]
    count = f"({len(x)} images, {draws} draw{'s' * (draws > 1)} each)"
    print(f"held-out ELBO: {elbo:.2f} nats per image {count}")
    if args.likelihood != "bernoulli":
        bits = math.log2(images.levels) - elbo / x[0].size / math.log(2)
        print(f"that is a density: {bits:.3f} bits per dimension of the images")

    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "latent.png").unlink(missing_ok=True)  # of a run with other options
    figures = pictures(encoder, decoder, prior, images, x)
    for name, figure in figures.items():
        figure.savefig(args.output / name, dpi=150)
    check_saved(vae, x[:100], args.output)
    print(f"wrote {', '.join(figures)}, vae.keras and served/ to {args.output}")


def build(
    args: argparse.Namespace, images: datasets.Images
) -> tuple[keras.Model, keras.Model, Any]:
    """Makes the encoder with its KL, the decoder, and the prior p(z)."""
    shape, latent_size = images.train.shape[1:], args.latent_size
    posterior, likelihood = POSTERIORS[args.posterior], LIKELIHOODS[args.likelihood]
    network = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            keras.layers.Dense(400, activation="relu"),
            keras.layers.Dense(posterior.params_size(latent_size)),
            posterior(latent_size),
        ]
    )
    prior = PRIORS[args.prior](latent_size, network, args.components)
    encoder = keras.Sequential([network, tv.KLDivergenceAddLoss(prior)])
    last = keras.layers.Dense(likelihood.params_size(shape))
    decoder = keras.Sequential(
        [
            keras.Input((latent_size,)),
            keras.layers.Dense(400, activation="relu"),
            last,
            likelihood(shape, convert_to_tensor_fn="mean"),
        ]
    )
    # Training then starts from the average image.
    x = (images.train.reshape(len(images.train), -1) + 0.5) / images.levels
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1 / images.levels
    if args.likelihood == "bernoulli":
        last.bias.assign(np.log(mean / (1 - mean)))
    else:
        last.bias.assign(np.concatenate([mean, np.log(np.expm1(scale))]))
    return encoder, decoder, prior


def describe(images: datasets.Images, likelihood: str) -> str:
    """Says in a line what the images are and how the likelihood sees them."""
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


def observe(pixels: Any, seed: Any, levels: int, likelihood: str) -> tf.Tensor:
    """Turns pixels into values that the likelihood can have, with noise if needed."""
    grey = tf.cast(pixels, tf.float32)
    if levels == 2:
        return grey
    noise = tf.random.stateless_uniform(tf.shape(grey), seed)
    if likelihood == "bernoulli":
        return tf.cast(noise < grey / (levels - 1), tf.float32)
    return (grey + noise) / levels


def batches(args: argparse.Namespace, images: datasets.Images) -> tf.data.Dataset:
    """Shuffled batches (x, x), with other noise in every batch of every epoch."""
    pixels = tf.constant(images.train)
    rows = tf.data.Dataset.range(len(pixels)).shuffle(len(pixels), seed=args.seed)
    seeds = tf.data.Dataset.random(args.seed, rerandomize_each_iteration=True).batch(2)

    def make(rows: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = observe(tf.gather(pixels, rows), seed, images.levels, args.likelihood)
        return x, x

    pairs = tf.data.Dataset.zip(rows.batch(args.batch_size), seeds)
    return pairs.map(make, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)


def pictures(
    encoder: keras.Model,
    decoder: keras.Model,
    prior: Any,
    images: datasets.Images,
    x: np.ndarray,
) -> dict[str, Figure]:
    """Draws reconstructions, samples and, where it is a plane, the latent space."""
    z = encoder(x).mode()
    rows = {"test images": images.test[:12] / (images.levels - 1)}
    if images.levels > 2 and np.isin(x, (0, 1)).all():
        rows["binarized: what the model sees"] = x[:12]
    rows["reconstructions"] = decoder(z[:12]).mean().numpy()
    figures = {"reconstructions.png": Figure((9, 1.1 * len(rows)), layout="tight")}
    subplots = figures["reconstructions.png"].subplots(len(rows))
    for axes, title in zip(subplots, rows, strict=True):
        _show(axes, title, rows[title], columns=12)

    z_new = tv.prior_distribution(prior).sample(100, seed=0)
    samples = decoder(z_new).mean().numpy()
    figures["samples.png"] = Figure((6, 6.3), layout="tight")
    axes = figures["samples.png"].subplots()
    _show(axes, "means of p(x|z), z drawn from the prior", samples, columns=10)

    if z.shape[-1] == 2:
        figures["latent.png"] = Figure((6, 5.5), layout="tight")
        axes = figures["latent.png"].subplots()
        axes.set(title="modes of q(z|x), test images", xlabel="z[0]", ylabel="z[1]")
        labels = images.test_labels
        style: Any = {} if labels is None else {"c": labels, "cmap": "tab10"}
        points = axes.scatter(z[:, 0], z[:, 1], **{"s": 10, **style})
        if labels is not None:
            legend = points.legend_elements()
            axes.legend(*legend, loc="upper left", bbox_to_anchor=(1, 1))
    return figures


def _show(axes: Any, title: str, images: np.ndarray, columns: int) -> None:
    """Draws images side by side as one picture."""
    framed = np.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)), constant_values=1)
    _, height, width = framed.shape
    grid = framed.reshape(-1, columns, height, width).swapaxes(1, 2)
    axes.imshow(grid.reshape(-1, columns * width), cmap="gray", vmin=0, vmax=1)
    axes.set_title(title)
    axes.axis("off")


def check_saved(vae: keras.Model, x: np.ndarray, output: pathlib.Path) -> None:
    """Saves and exports the model, loads both, and compares them on x."""
    vae.save(output / "vae.keras")
    vae.export(output / "served", verbose=False)
    loaded = keras.models.load_model(output / "vae.keras")
    served = tf.saved_model.load(output / "served")
    # First what needs a draw of z: all three go on from the saved state of the seeds.
    ours, of_loaded, of_served = map(np.asarray, (vae(x), loaded(x), served.serve(x)))
    encoded, decoded = _modes(vae, x)
    encoded_again, decoded_again = _modes(loaded, x)
    # bfloat16, with its 8 bits, and TF32 round otherwise in eager than in fused code.
    exact = not _gpus() and keras.config.dtype_policy().name == "float32"
    tolerance = 1e-5 if exact else 5e-2
    for name, error in {
        "vae.keras, encoder mode": encoded_again - encoded,
        "vae.keras, decoder mean": decoded_again - decoded,
        "vae.keras, same draw of z": of_loaded - ours,
        "served, same draw of z": of_served - ours,
    }.items():
        difference = abs(error).max()
        print(f"{name}: max abs difference {difference:.1e}, at most {tolerance:.0e}")
        if not difference <= tolerance:
            raise RuntimeError(
                f"The saved model is expected to agree within {tolerance}. Received: a "
                f"difference of {difference} in {name}. Please report it as a bug."
            )


def _modes(vae: keras.Model, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Modes of q(z|x), and means of p(x|z) at that z."""
    *_, divergence, decoder = vae.layers
    z = keras.Model(vae.inputs[0], divergence.output)(x).mode()
    return z.numpy(), decoder(z).mean().numpy()


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
    add("--components", type=_positive, default=100, help=components)
    add("--latent-size", type=_positive, help="default 20; digits 2, which is drawn")
    add("--epochs", type=_positive, help="default 20; digits 150, freyfaces 100")
    add("--batch-size", type=_positive, help="default 128; digits 16, freyfaces 32")
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


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(
            f"expects a positive integer. Received: {text!r}. Give 1 or more."
        )
    return int(text)


if __name__ == "__main__":
    main()
