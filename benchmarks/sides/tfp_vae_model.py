"""tfp_vae: `VAE.fit` on an array, with the settings that nobody has to set."""

from typing import Any

import keras
import numpy as np

import tfp_vae as tv
from benchmarks.cases import Case
from benchmarks.sides.keras_networks import decoder_layers, encoder_layers

# See "Speed" in docs/vae.md.
SETTLED = 8192


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


def model(case: Case, together: int = 1) -> Any:
    """The compiled `tv.VAE` of a case.

    Args:
        case: The model.
        together: How many batches make one step of Adam.

    Returns:
        The VAE.
    """
    objective = None if case.draws == 1 else tv.ImportanceWeightedBound(case.draws)
    vae = tv.VAE(*networks(case), tv.StandardNormal(case.latent), objective=objective)
    accumulated = together if together > 1 else None
    vae.compile(
        keras.optimizers.Adam(
            case.learning_rate, gradient_accumulation_steps=accumulated
        )
    )
    return vae


class VAEFit:
    """See `benchmarks.sides.Side`."""

    def __init__(self, case: Case, x: np.ndarray) -> None:
        self.vae, self._is_conv = model(case), case.network == "conv"
        self.examples = len(x)
        self._x, self._batch = keras.ops.convert_to_tensor(x), case.batch

    def train(self, epochs: int) -> float:
        """Trains with `fit`."""
        options = {"epochs": epochs, "batch_size": self._batch, "verbose": 0}
        history = self.vae.fit(self._x, **options).history
        return float(history["loss"][-1])

    def evaluate(self) -> float:
        """Evaluates with `evaluate`."""
        options = {"batch_size": self._batch, "verbose": 0, "return_dict": True}
        return float(self.vae.evaluate(self._x, **options)["loss"])

    def encode(self) -> np.ndarray:
        """Encodes with `encode`, all at once."""
        return np.asarray(self.vae.encode(self._x).mean())

    def settle(self) -> None:
        """Evaluates until batches are computed side by side, where they will be."""
        if self._is_conv:  # XLA does not compile it for a CPU.
            return
        for _ in range(SETTLED // max(1, self.examples // self._batch) + 2):
            self.evaluate()


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
