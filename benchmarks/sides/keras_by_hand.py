"""Keras 3 by hand: a `Sampling` layer and a `train_step`, like the VAE of keras.io.

To measure speed it uses XLA, except for dropout, and the fastest input pipeline, which
that example does not show. To measure the time to a result it is fitted on arrays, as
in that example.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.cases import Case
from benchmarks.sides.keras_data import STEPS_PER_EXECUTION, batches, fit
from benchmarks.sides.keras_networks import decoder_layers, encoder_layers


class Sampling(keras.layers.Layer):
    """Draws z from a normal given by its mean and the logarithm of its variance."""

    def __init__(self, draws: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.draws = draws
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs: Any) -> Any:
        """Returns draws of shape `(draws, batch, latent)`."""
        mean, log_variance = inputs
        shape = (self.draws, *tf.unstack(tf.shape(mean)))
        noise = keras.random.normal(shape, seed=self.seed_generator)
        return mean + tf.exp(0.5 * log_variance) * noise


class HandWrittenVAE(keras.Model):
    """The model of keras.io's example, also with the importance-weighted bound."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self._case = case
        self.encoder = keras.Sequential(
            [
                keras.Input(case.shape),
                *encoder_layers(keras, case, 2 * case.latent),
            ]
        )
        self.sampling = Sampling(case.draws)
        self.decoder = keras.Sequential(
            [
                keras.Input((case.latent,)),
                *decoder_layers(keras, case),
            ]
        )
        self.loss_tracker = keras.metrics.Mean("loss")
        self.built = True

    @property
    def metrics(self) -> list[Any]:
        """The metrics that `fit` shows and resets."""
        return [self.loss_tracker]

    def call(self, x: Any) -> Any:
        """The mean of q(z|x)."""
        return self.encoder(x)[:, : self._case.latent]

    def losses_of(self, x: Any, training: bool) -> Any:
        """Minus the bound of each example."""
        parameters = self.encoder(x, training=training)
        mean, log_variance = tf.split(parameters, 2, axis=-1)
        z = self.sampling([mean, log_variance])
        latent, k = self._case.latent, self._case.draws
        size = self._case.pixels
        logits = self.decoder(tf.reshape(z, [-1, latent]), training=training)
        logits = tf.reshape(logits, [k, -1, size])
        pixels = tf.broadcast_to(tf.reshape(x, [1, -1, size]), tf.shape(logits))
        entropies = tf.nn.sigmoid_cross_entropy_with_logits(pixels, logits)
        nll = tf.reduce_sum(entropies, axis=-1)
        if k == 1:
            inside = 1 + log_variance - mean**2 - tf.exp(log_variance)
            return nll[0] - 0.5 * tf.reduce_sum(inside, axis=-1)
        standard = (z - mean) ** 2 * tf.exp(-log_variance) + log_variance
        log_ratio = 0.5 * tf.reduce_sum(standard - z**2, axis=-1)
        return math.log(k) - tf.reduce_logsumexp(log_ratio - nll, axis=0)

    def train_step(self, x: Any) -> dict[str, Any]:
        """A step of Adam."""
        with tf.GradientTape() as tape:
            losses = self.losses_of(x, training=True)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_weights, strict=True)
        )
        self.loss_tracker.update_state(losses)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, x: Any) -> dict[str, Any]:
        """The loss alone."""
        self.loss_tracker.update_state(self.losses_of(x, training=False))
        return {"loss": self.loss_tracker.result()}


class HandWritten:
    """See `benchmarks.sides.Side`."""

    def __init__(self, case: Case, x: np.ndarray) -> None:
        self._model = HandWrittenVAE(case)
        self._model.compile(
            keras.optimizers.Adam(case.learning_rate),
            jit_compile=not case.dropout,
            steps_per_execution=STEPS_PER_EXECUTION,
        )
        self.examples = len(x)
        self._x = x
        self._shuffled = batches(x, case.batch, shuffle=True, pairs=False)
        self._ordered = batches(x, case.batch, shuffle=False, pairs=False)

    def train(self, epochs: int) -> float:
        """Trains with `fit`."""
        options = {"epochs": epochs, "shuffle": False, "verbose": 0}
        return float(self._model.fit(self._shuffled, **options).history["loss"][-1])

    def evaluate(self) -> float:
        """Evaluates with `evaluate`."""
        found = self._model.evaluate(self._ordered, verbose=0, return_dict=True)
        return float(found["loss"])

    def encode(self) -> np.ndarray:
        """Encodes with a call, all at once."""
        return np.asarray(self._model(self._x))


def build(case: Case, x: np.ndarray, seed: int) -> HandWritten:
    """Builds the side.

    Args:
        case: The model.
        x: Images.
        seed: Seed.

    Returns:
        The side.
    """
    keras.utils.set_random_seed(seed)
    return HandWritten(case, x)


def prepare(
    case: Case,
    x: np.ndarray,
    seed: int,
    jit_compile: Any = "auto",
    steps_per_execution: int = 1,
) -> Callable[[int], float]:
    """Builds the model; see `benchmarks.sides.prepare`.

    Args:
        case: The model.
        x: Images.
        seed: Seed.
        jit_compile: As in `compile`.
        steps_per_execution: As in `compile`.

    Returns:
        Function that takes the number of epochs.
    """
    keras.utils.set_random_seed(seed)
    model = HandWrittenVAE(case)

    def compile_and_fit(epochs: int) -> float:
        model.compile(
            keras.optimizers.Adam(case.learning_rate),
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
        )
        return fit(model, x, epochs=epochs, batch=case.batch)

    return compile_and_fit


def chooses_xla(case: Case) -> bool:
    """Whether `jit_compile="auto"` means XLA here.

    Args:
        case: The model.

    Returns:
        What Keras decides.
    """
    model = HandWrittenVAE(case)
    model.compile()
    return bool(model.jit_compile)
