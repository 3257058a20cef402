"""The limit that no side can beat: the matrix products of its steps, nothing else.

These are the layers of the networks without biases and activations, forward and
backward, without the gradient for x. No loss, no noise, no Adam, no shuffling. The
gradient that flows back is the output itself. With a constant one, TensorFlow and XLA
would skip the last forward product, because no gradient of the weights would need it.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cases import Case
from benchmarks.sides.keras_networks import decoder_layers, encoder_layers

GRAPH, XLA, LOOP = "TensorFlow graph", "TensorFlow XLA", ", one program"


class Limit:
    """The products of a case's steps, in several ways.

    NumPy; TensorFlow and XLA, with a call for each step and with all steps of
    an epoch in a loop inside one program, like `VAE.fit`.

    Args:
        case: The model.
        x: Images.
    """

    def __init__(self, case: Case, x: np.ndarray) -> None:
        steps = max(len(x) // case.batch, 1)
        self.examples = steps * case.batch
        x = np.resize(x, (steps, case.batch, *case.shape))  # a small set has no batch
        batches, self._products = tf.constant(x), _numpy_products(case)
        products, variables = _graph(case)
        one = batches[0]
        self._step = {
            way: tf.function(lambda: products(one), jit_compile=way == XLA)
            for way in (GRAPH, XLA)
        }
        # XLA computes convolutions many times slower in a loop.
        looped = (GRAPH, XLA) if case.network == "mlp" else (GRAPH,)
        self._epoch = {
            way + LOOP: tf.function(
                lambda: _loop(products, batches, variables), jit_compile=way == XLA
            )
            for way in looped
        }
        numpy = ["NumPy"] if case.network == "mlp" else []
        self.ways = [*numpy, *self._step, *self._epoch]
        self._steps = steps

    def run(self, way: str, epochs: int) -> None:
        """Does the multiplications of some epochs of training.

        Args:
            way: One of `ways`.
            epochs: How many.
        """
        if way in self._epoch:
            for _ in range(epochs):
                self._epoch[way]()
            return
        for _ in range(epochs * self._steps):
            if way == "NumPy":
                for a, b in self._products:
                    a @ b
            else:
                self._step[way]()


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


def _graph(case: Case) -> tuple[Any, list[Any]]:
    """A function from a batch to the gradients of all weights, and the weights."""
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

    def products(x: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            z = encoder(x)[:, : case.latent]
            logits = decoder(tf.tile(z, [case.draws, 1]))
        return tape.gradient(logits, variables, output_gradients=logits)

    return products, variables


def _loop(products: Any, batches: tf.Tensor, variables: list[Any]) -> Any:
    """The products of all batches; returns those of the last one."""
    return tf.while_loop(
        lambda i, _: i < len(batches),
        lambda i, _: (i + 1, products(batches[i])),
        (tf.constant(0), [tf.zeros(variable.shape) for variable in variables]),
        parallel_iterations=1,
    )[1]
