"""tfp_vae's layers in a plain Keras model, and Keras' `fit`."""

import keras
import numpy as np

import tfp_vae as tv
from benchmarks.cases import Case
from benchmarks.sides.keras_data import STEPS_PER_EXECUTION, batches
from benchmarks.sides.tfp_vae_model import networks


class Layers:
    """See `benchmarks.sides.Side`."""

    def __init__(self, case: Case, x: np.ndarray) -> None:
        self._encoder, decoder = networks(case)
        self._encoder.add(tv.KLDivergenceAddLoss(tv.StandardNormal(case.latent)))
        inputs = keras.Input(case.shape)
        self._model = keras.Model(inputs, decoder(self._encoder(inputs)))
        self._model.compile(
            keras.optimizers.Adam(case.learning_rate),
            loss=tv.NegativeLogLikelihood(),
            jit_compile=True,
            steps_per_execution=STEPS_PER_EXECUTION,
        )
        self.examples = len(x)
        self._x = x
        self._shuffled = batches(x, case.batch, shuffle=True, pairs=True)
        self._ordered = batches(x, case.batch, shuffle=False, pairs=True)

    def train(self, epochs: int) -> float:
        """Trains with `fit`."""
        options = {"epochs": epochs, "shuffle": False, "verbose": 0}
        return float(self._model.fit(self._shuffled, **options).history["loss"][-1])

    def evaluate(self) -> float:
        """Evaluates with `evaluate`."""
        found = self._model.evaluate(self._ordered, verbose=0, return_dict=True)
        return float(found["loss"])

    def encode(self) -> np.ndarray:
        """Encodes with a call of the encoder, all at once."""
        return np.asarray(self._encoder(self._x).mean())


def build(case: Case, x: np.ndarray, seed: int) -> Layers:
    """Builds the side.

    Args:
        case: The model.
        x: Images.
        seed: Seed.

    Returns:
        The side.
    """
    keras.utils.set_random_seed(seed)
    return Layers(case, x)
