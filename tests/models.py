"""Small models that several test files train."""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import tfp_vae as tv

LATENT = 3
PIXELS = (8, 8, 1)


def digits(n=160):
    """Black-and-white images that scikit-learn carries."""
    return (load_digits().images[:n, ..., None] > 7).astype("float32")


def encoder(posterior=tv.IndependentNormal, prior=None, conversion="sample", **kl):
    return keras.Sequential(
        [
            keras.Input(PIXELS),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(posterior.params_size(LATENT)),
            posterior(LATENT, convert_to_tensor_fn=conversion),
            tv.KLDivergenceAddLoss(prior or tv.StandardNormal(LATENT), **kl),
        ],
        name="encoder",
    )


def decoder():
    return keras.Sequential(
        [
            keras.Input((LATENT,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(tv.IndependentBernoulli.params_size(PIXELS)),
            tv.IndependentBernoulli(PIXELS, convert_to_tensor_fn="mean"),
        ],
        name="decoder",
    )


def vae(compiled=True, jit_compile=False, **options):
    q = encoder(**options)
    model = keras.Model(q.inputs[0], decoder()(q.outputs[0]))
    if compiled:
        model.compile(
            "adam",
            loss=tv.NegativeLogLikelihood(),
            metrics=[tv.LogLikelihood(negative=True)],
            jit_compile=jit_compile,
        )
    return model


def learned_prior():
    return keras.Sequential(
        [
            tv.VariableLayer(tv.IndependentNormal.params_size(LATENT)),
            tv.IndependentNormal(LATENT),
        ],
        name="prior",
    )


def renewing(model):
    """A function that returns a model as it is now: what it has compiled stays."""
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    values = [variable.numpy() for variable in variables]

    def renewed():
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return model

    return renewed


def answer_of_lite_rt(path, x):
    """What a LiteRT interpreter computes from one input."""
    interpreter = tf.lite.Interpreter(model_path=str(path))
    given = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(given, x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given, x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
