"""tfp_vae: `VAE.fit` on an array.

To measure speed it uses XLA, like the sides on JAX; by default it decides by the number
of steps. To measure the time to a result it uses the defaults.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import tfp_vae as tv
from benchmarks.cases import Case
from benchmarks.sides.keras_data import fit
from benchmarks.sides.keras_networks import decoder_layers, encoder_layers


def networks(case: Case) -> tuple[Any, Any]:
    """Encoder and decoder that end in the distributions of tfp_vae; softplus scales.

    Args:
        case: The model.

    Returns:
        The two, as `keras.Sequential`.
    """
    width = tv.IndependentNormal.params_size(case.latent)
    encoder = keras.Sequential(
        [
            keras.Input(case.shape),
            *encoder_layers(keras, case, width),
            tv.IndependentNormal(case.latent),
        ]
    )
    decoder = keras.Sequential(
        [
            keras.Input((case.latent,)),
            *decoder_layers(keras, case),
            tv.IndependentBernoulli(case.shape),
        ]
    )
    return encoder, decoder


def jit_compile(case: Case) -> bool | str:
    """XLA, except for convolutions and dropout, which it computes slowly on a CPU.

    Args:
        case: The model.

    Returns:
        The argument for `compile`.
    """
    return True if case.network == "mlp" and not case.dropout else "auto"


def model(case: Case, together: int = 1) -> Any:
    """The compiled `tv.VAE` of a case.

    Args:
        case: The model.
        together: Number of batches in one step of Adam.

    Returns:
        The VAE.
    """
    vae = _vae(case)
    accumulated = together if together > 1 else None
    vae.compile(
        keras.optimizers.Adam(
            case.learning_rate, gradient_accumulation_steps=accumulated
        ),
        jit_compile=jit_compile(case),
    )
    return vae


class VAEFit:
    """See `benchmarks.sides.Side`."""

    def __init__(self, case: Case, x: np.ndarray) -> None:
        self._vae = model(case)
        self.examples = len(x)
        self._x, self._batch = keras.ops.convert_to_tensor(x), case.batch

    def train(self, epochs: int) -> float:
        """Trains with `fit`."""
        options = {"epochs": epochs, "batch_size": self._batch, "verbose": 0}
        history = self._vae.fit(self._x, **options).history
        return float(history["loss"][-1])

    def evaluate(self) -> float:
        """Evaluates with `evaluate`."""
        options = {"batch_size": self._batch, "verbose": 0, "return_dict": True}
        return float(self._vae.evaluate(self._x, **options)["loss"])

    def encode(self) -> np.ndarray:
        """Encodes with `encode`, all at once."""
        return np.asarray(self._vae.encode(self._x).mean())


def build(case: Case, x: np.ndarray, seed: int) -> VAEFit:
    """Builds the side.

    Args:
        case: The model.
        x: Images.
        seed: Seed.

    Returns:
        The side.
    """
    keras.utils.set_random_seed(seed)
    return VAEFit(case, x)


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
    vae = _vae(case)

    def compile_and_fit(epochs: int) -> float:
        vae.compile(keras.optimizers.Adam(case.learning_rate))
        return fit(vae, x, epochs=epochs, batch=case.batch)

    return compile_and_fit


def _vae(case: Case) -> Any:
    objective = None if case.draws == 1 else tv.ImportanceWeightedBound(case.draws)
    prior = tv.StandardNormal(case.latent)
    return tv.VAE(*networks(case), prior, objective=objective)
