"""tfp_vae's layers in a `tv.Model`, and its `fit` on an array."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import tfp_vae as tv
from benchmarks.cases import Case
from benchmarks.sides.keras_data import fit
from benchmarks.sides.tfp_vae_model import jit_compile, networks


class Layers:
    """See `benchmarks.sides.Side`."""

    def __init__(self, case: Case, x: np.ndarray) -> None:
        self._encoder, self._model = _models(case)
        self._model.compile(
            keras.optimizers.Adam(case.learning_rate),
            loss=tv.NegativeLogLikelihood(),
            jit_compile=jit_compile(case),
        )
        self.examples = len(x)
        self._x, self._batch = keras.ops.convert_to_tensor(x), case.batch

    def train(self, epochs: int) -> float:
        """Trains with `fit`."""
        options = {"epochs": epochs, "batch_size": self._batch, "verbose": 0}
        history = self._model.fit(self._x, self._x, **options).history
        return float(history["loss"][-1])

    def evaluate(self) -> float:
        """Evaluates with `evaluate`."""
        options = {"batch_size": self._batch, "verbose": 0, "return_dict": True}
        return float(self._model.evaluate(self._x, self._x, **options)["loss"])

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


def prepare(case: Case, x: np.ndarray, seed: int) -> Callable[[int], float]:
    """Builds the model; see `benchmarks.sides.prepare`.

    Args:
        case: The model.
        x: Images.
        seed: Seed.

    Returns:
        Function that takes the number of epochs.
    """
    keras.utils.set_random_seed(seed)
    _, model = _models(case)

    def compile_and_fit(epochs: int) -> float:
        model.compile(
            keras.optimizers.Adam(case.learning_rate), loss=tv.NegativeLogLikelihood()
        )
        return fit(model, x, x, epochs=epochs, batch=case.batch)

    return compile_and_fit


def _models(case: Case) -> tuple[Any, Any]:
    """The encoder with its KL, and the whole model."""
    encoder, decoder = networks(case)
    encoder.add(tv.KLDivergenceAddLoss(tv.StandardNormal(case.latent)))
    inputs = keras.Input(case.shape)
    return encoder, tv.Model(inputs, decoder(encoder(inputs)))
