"""The sides of the comparison: one file each, behind one interface."""

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from benchmarks.cases import Case

REFERENCE = "tfp_vae"


class Side(Protocol):
    """A model of one library with its data, made by `build(case, x, seed)`.

    `examples` is the number of images processed in an epoch: a scan over full batches
    leaves out the rows that do not fill a batch.
    """

    examples: int

    def train(self, epochs: int) -> float:
        """Trains on reshuffled data; returns the mean loss of the last epoch."""

    def evaluate(self) -> float:
        """The mean loss over the data, batch by batch, without training."""

    def encode(self) -> np.ndarray:
        """The means of q(z|x) of all the data, shape `(n, latent)`."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known about a side without importing its packages.

    Args:
        title: Its name in the table.
        module: Its module in `benchmarks.sides`.
        packages: Packages that it needs and tfp_vae does not.
        without: Cases in which it cannot take part, by name, and why.
    """

    title: str
    module: str
    packages: tuple[str, ...] = ()
    without: dict[str, str] = dataclasses.field(default_factory=dict)

    def reason(self, case: Case) -> str | None:
        """Why this side cannot take part in a case, or `None` if it can."""
        gone = [name for name in self.packages if not importlib.util.find_spec(name)]
        if gone:
            return f"missing: {', '.join(gone)}"
        asked = {"iwae": case.draws > 1, "dropout": case.dropout > 0}
        reasons = (self.without.get(name) for name, is_in in asked.items() if is_in)
        return next(filter(None, reasons), None)


_NO_IWAE = {"iwae": "-: layers have one draw, no importance-weighted bound"}
_NO_DROPOUT = {"dropout": "-: the networks of this side have no dropout"}

SIDES = {
    REFERENCE: Entry("tfp_vae, `VAE.fit`", "tfp_vae_model"),
    "tfp_vae_layers": Entry(
        "tfp_vae, layers (`tv.Model`)", "tfp_vae_layers", without=_NO_IWAE
    ),
    "tfp_layers": Entry(
        "tf_keras + tfp.layers", "tfp_layers", ("tf_keras",), without=_NO_IWAE
    ),
    "keras": Entry("Keras by hand", "keras_by_hand"),
    "pytorch": Entry("PyTorch eager", "pytorch", ("torch",)),
    "jax": Entry("JAX + optax", "jax_optax", ("jax", "optax"), _NO_DROPOUT),
    "numpyro": Entry("NumPyro, SVI", "numpyro_svi", ("jax", "numpyro"), _NO_DROPOUT),
}


def build(name: str, case: Case, x: np.ndarray, seed: int = 0) -> Side:
    """Builds a side: the model, its optimizer and the data in the form it needs.

    Args:
        name: One of `SIDES`.
        case: The model.
        x: Images of shape `(n, *case.shape)`.
        seed: Seed of weights, shuffling and draws.

    Returns:
        The side, ready to train; nothing is compiled yet.
    """
    module: Any = importlib.import_module(f"{__name__}.{SIDES[name].module}")
    return module.build(case, x, seed)


def prepare(
    name: str, case: Case, x: np.ndarray, seed: int = 0, **settings: Any
) -> Callable[[int], float]:
    """Builds the model of a side without compiling it or using the data.

    Args:
        name: One of `SIDES` whose module has `prepare(case, x, seed)`.
        case: The model.
        x: Images of shape `(n, *case.shape)`; the last tenth is for validation.
        seed: Seed of weights, shuffling and draws.
        **settings: Arguments of `compile`, if the side has them.

    Returns:
        Function that compiles the model, fits it for some epochs, evaluates it after
        each, and returns the last validation loss.
    """
    module: Any = importlib.import_module(f"{__name__}.{SIDES[name].module}")
    return module.prepare(case, x, seed, **settings)
