"""Small VAEs of every kind, for the tests of `tv.VAE`."""

import keras
import models
import numpy as np

import tfp_vae as tv

LATENT, PIXELS = models.LATENT, models.PIXELS
CLASSES = 4


def encoder(layer=tv.IndependentNormal, conversion="sample", *after):
    return keras.Sequential(
        [
            keras.Input(PIXELS),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(layer.params_size(LATENT)),
            layer(LATENT, convert_to_tensor_fn=conversion),
            *after,
        ],
        name="encoder",
    )


def vae(compiled=True, jit_compile=False, q=None, p=None, prior=None, **options):
    model = tv.VAE(
        q or encoder(),
        p or models.decoder(),
        prior or tv.StandardNormal(LATENT),
        **options,
    )
    if compiled:
        model.compile("adam", jit_compile=jit_compile)
    return model


def labels(n):
    return np.eye(CLASSES, dtype="float32")[np.arange(n) % CLASSES]


def conditional(**options):
    x, y = keras.Input(PIXELS), keras.Input((CLASSES,))
    h = keras.layers.concatenate([keras.layers.Flatten()(x), y])
    h = keras.layers.Dense(16, activation="relu")(h)
    q = keras.Model([x, y], tv.IndependentNormal(LATENT)(keras.layers.Dense(6)(h)))
    z, y = keras.Input((LATENT,)), keras.Input((CLASSES,))
    h = keras.layers.Dense(64)(keras.layers.concatenate([z, y]))
    p = keras.Model([z, y], tv.IndependentBernoulli(PIXELS)(h))
    prior = keras.Sequential(
        [
            keras.Input((CLASSES,)),
            keras.layers.Dense(2 * LATENT),
            tv.IndependentNormal(LATENT),
        ]
    )
    return vae(q=q, p=p, prior=prior, conditional=True, **options)


def of_a_dictionary(**options):
    x = keras.Input(PIXELS, name="image")
    y = keras.Input((CLASSES,), name="label")
    h = keras.layers.concatenate([keras.layers.Flatten()(x), y])
    q = tv.IndependentNormal(LATENT)(keras.layers.Dense(2 * LATENT)(h))
    return vae(q=keras.Model({"image": x, "label": y}, q), **options)


def convolutional(**options):
    q = keras.Sequential(
        [
            keras.Input(PIXELS),
            keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(2 * LATENT),
            tv.IndependentNormal(LATENT),
        ]
    )
    p = keras.Sequential(
        [
            keras.Input((LATENT,)),
            keras.layers.Dense(4 * 4 * 2, activation="relu"),
            keras.layers.Reshape((4, 4, 2)),
            keras.layers.Conv2DTranspose(1, 3, strides=2, padding="same"),
            keras.layers.Flatten(),
            tv.IndependentBernoulli(PIXELS),
        ]
    )
    return vae(q=q, p=p, **options)


def vamp(**options):
    q = encoder()
    return vae(q=q, prior=tv.VampPrior(q, num_components=5), **options)


def spherical(**options):
    return vae(
        q=encoder(tv.PowerSpherical), prior=tv.SphericalUniform(LATENT), **options
    )


def with_flow(**options):
    flow = tv.Flow("maf", num_transforms=1, hidden_units=(8,))
    return vae(q=encoder(tv.IndependentNormal, "sample", flow), **options)


KINDS = {
    "plain": vae,
    "conditional": conditional,
    "dictionary": lambda **options: of_a_dictionary(target="image", **options),
    "convolutional iwae": lambda **options: convolutional(
        objective=tv.ImportanceWeightedBound(3, "dreg"), **options
    ),
    "vamp": vamp,
    "spherical": spherical,
    "flow posterior and prior": lambda **options: with_flow(
        prior=tv.FlowPrior(LATENT, num_transforms=1, hidden_units=(8,)), **options
    ),
    "mixture": lambda **options: vae(
        prior=tv.MixturePrior(LATENT, num_components=3), **options
    ),
    "beta": lambda **options: vae(objective=tv.ELBO(beta=4.0), **options),
    "missing": lambda **options: vae(missing="nan", **options),
}
# Those whose data, objective, latents and targets differ most; the rest are slow.
OFTEN = ("conditional", "dictionary", "convolutional iwae", "spherical", "missing")


def inputs(kind, n=64):
    """x, and y or `None`, for a model of a kind."""
    x = models.digits(n)
    if kind == "missing":
        x[::2, 2:4] = np.nan
    if kind == "dictionary":
        return {"image": x, "label": labels(n)}, None
    return x, labels(n) if kind == "conditional" else None
