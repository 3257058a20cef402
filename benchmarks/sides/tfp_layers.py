"""tf_keras + tfp.layers: the code of Keras 2 users, compiled with XLA."""

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

from benchmarks.cases import Case
from benchmarks.sides.keras_data import STEPS_PER_EXECUTION, batches
from benchmarks.sides.keras_networks import decoder_layers, encoder_layers

tfd, tfpl = tfp.distributions, tfp.layers

# Half, as the KL counts twice: tfp.layers adds the regularizer in addition to Keras. It
# is a sum over the batch, which Keras divides by the batch size.
KL_WEIGHT = 0.5


class LegacyLayers:
    """See `benchmarks.sides.Side`."""

    def __init__(self, case: Case, x: np.ndarray) -> None:
        prior = tfd.Independent(tfd.Normal(tf.zeros(case.latent), 1.0), 1)
        width = tfpl.IndependentNormal.params_size(case.latent)
        kl = tfpl.KLDivergenceRegularizer(prior, use_exact_kl=True, weight=KL_WEIGHT)
        self._encoder = tf_keras.Sequential(
            [
                tf_keras.Input(case.shape),
                *encoder_layers(tf_keras, case, width),
                tfpl.IndependentNormal(case.latent, activity_regularizer=kl),
            ]
        )
        decoder = tf_keras.Sequential(
            [
                tf_keras.Input((case.latent,)),
                *decoder_layers(tf_keras, case),
                tfpl.IndependentBernoulli(case.shape, tfd.Bernoulli.logits),
            ]
        )
        inputs = self._encoder.inputs
        self._model = tf_keras.Model(inputs, decoder(self._encoder.outputs[0]))
        self._model.compile(
            tf_keras.optimizers.Adam(case.learning_rate),
            loss=lambda x, p: -p.log_prob(x),
            jit_compile=not case.dropout,
            steps_per_execution=STEPS_PER_EXECUTION,
        )
        self.examples = len(x)
        self._x = x
        self._shuffled = batches(x, case.batch, shuffle=True, pairs=True)
        self._ordered = batches(x, case.batch, shuffle=False, pairs=True)

    def train(self, epochs: int) -> float:
        """Trains with `fit`."""
        history = self._model.fit(self._shuffled, epochs=epochs, verbose=0).history
        return float(history["loss"][-1])

    def evaluate(self) -> float:
        """Evaluates with `evaluate`."""
        found = self._model.evaluate(self._ordered, verbose=0, return_dict=True)
        return float(found["loss"])

    def encode(self) -> np.ndarray:
        """Encodes with a call of the encoder, all at once."""
        return np.asarray(self._encoder(self._x).mean())


def build(case: Case, x: np.ndarray, seed: int) -> LegacyLayers:
    """Builds the side.

    Args:
        case: The model.
        x: Images.
        seed: Seed.

    Returns:
        The side.
    """
    tf_keras.utils.set_random_seed(seed)
    return LegacyLayers(case, x)
