"""What no side can beat: the matrix products of its steps and nothing else.

The layers of the networks without biases and activations, forward and backward; the
first has no gradient with respect to x. No loss, no noise, no Adam, no data.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cases import Case
from benchmarks.sides.keras_networks import decoder_layers, encoder_layers

WAYS = ("NumPy", "TensorFlow graph", "TensorFlow XLA")


class Limit:
    """The products of a case's steps, in several ways.

    Args:
        case: The model.
        x: Images.
    """

    def __init__(self, case: Case, x: np.ndarray) -> None:
        self.ways = [way for way in WAYS if case.network == "mlp" or way != "NumPy"]
        self._steps = len(x) // case.batch
        self.examples = self._steps * case.batch
        self._case = case
        self._products = _numpy_products(case)
        x = np.resize(x, (case.batch, *case.shape))  # a small set has no whole batch
        graph = _graph(case, tf.constant(x))
        self._compiled = {
            "TensorFlow graph": tf.function(graph),
            "TensorFlow XLA": tf.function(graph, jit_compile=True),
        }

    def run(self, way: str, epochs: int) -> None:
        """Multiplies as often as training for some epochs does.

        Args:
            way: One of `ways`.
            epochs: How many.
        """
        for _ in range(epochs * max(self._steps, 1)):
            if way == "NumPy":
                for a, b in self._products:
                    a @ b
            else:
                self._compiled[way]()


def _numpy_products(case: Case) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    inner, outer = case.batch, case.batch * case.draws
    layers = [
        (inner, case.pixels, case.hidden),
        (inner, case.hidden, 2 * case.latent),
        (outer, case.latent, case.hidden),
        (outer, case.hidden, case.pixels),
    ]
    products = []
    for number, (rows, before, after) in enumerate(layers):
        x, weights, gradient = (
            rng.standard_normal(shape).astype(np.float32)
            for shape in ((rows, before), (before, after), (rows, after))
        )
        products += [(x, weights), (x.T, gradient)]
        if number:
            products.append((gradient, weights.T))
    return products


def _graph(case: Case, x: tf.Tensor) -> Any:
    """A function without arguments that returns the gradients of all weights."""
    encoder = keras.Sequential(
        [
            keras.Input(case.shape),
            *encoder_layers(keras, case, 2 * case.latent, linear=True),
        ]
    )
    decoder = keras.Sequential(
        [
            keras.Input((case.latent,)),
            *decoder_layers(keras, case, linear=True),
        ]
    )
    weights = [*encoder.trainable_weights, *decoder.trainable_weights]
    variables = [weight.value for weight in weights]
    upstream = tf.random.normal([case.batch * case.draws, case.pixels])

    def products() -> Any:
        with tf.GradientTape() as tape:
            z = encoder(x)[:, : case.latent]
            logits = decoder(tf.tile(z, [case.draws, 1]))
        return tape.gradient(logits, variables, output_gradients=upstream)

    return products
