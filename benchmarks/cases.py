"""The models that every side trains, and the training images."""

import dataclasses
import pathlib
import sys

import numpy as np

SIDE_LENGTH = 28
REAL = "binarized_mnist"
HELD_OUT = 0.1


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and how it is trained: Bernoulli pixels, Gaussian latents, Adam.

    Args:
        name: Its name on the command line and in the table.
        network: `"mlp"`, one hidden layer on either side, or `"conv"`, two convolutions
            of stride 2 on either side.
        batch: Size of a batch.
        latent: Dimensions of z.
        hidden: Units of the hidden layers of the MLP.
        filters: Channels of the convolutions, in the order of the encoder.
        dropout: Rate of dropout after the hidden layers of the MLP.
        draws: 1 for the ELBO with its closed KL, k for the importance-weighted bound.
        examples: Number of images in an epoch, unless the command line sets it.
        learning_rate: Learning rate of Adam.
    """

    name: str
    network: str = "mlp"
    batch: int = 128
    latent: int = 20
    hidden: int = 400
    filters: tuple[int, int] = (32, 64)
    dropout: float = 0.0
    draws: int = 1
    examples: int = 20_000
    learning_rate: float = 1e-3

    @property
    def pixels(self) -> int:
        """Number of Bernoulli variables of an image."""
        return SIDE_LENGTH**2

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image: flat for the MLP, with one channel for convolutions."""
        flat = self.network == "mlp"
        return (self.pixels,) if flat else (SIDE_LENGTH, SIDE_LENGTH, 1)

    @property
    def small(self) -> tuple[int, int, int]:
        """Shape of the output of the encoder's last convolution."""
        return (SIDE_LENGTH // 4, SIDE_LENGTH // 4, self.filters[1])

    def describe(self) -> str:
        """The model in a few words."""
        filters = "/".join(map(str, self.filters))
        inner = (
            f"MLP {self.pixels}-{self.hidden}-{self.latent}"
            if self.network == "mlp"
            else f"convolutions of {filters} filters, z of {self.latent}"
        )
        if self.dropout:
            inner += f", dropout of {self.dropout}"
        bound = "ELBO" if self.draws == 1 else f"IWAE of {self.draws} draws"
        return f"{inner}, {bound}, batch {self.batch}"


CASES = {
    case.name: case
    for case in (
        Case("mlp"),
        Case("mlp-1024", batch=1024),
        Case("dropout", dropout=0.2),
        Case("conv", network="conv", latent=16, examples=2_000),
        Case("iwae", draws=5),
    )
}


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the binary images come from; each process loads them itself.

    Args:
        examples: How many; `None` for as many as the case says.
        directory: Directory of the static binarized MNIST; `None` for synthetic images.
        seed: Seed of the synthetic images.
    """

    examples: int | None = None
    directory: str | None = None
    seed: int = 0

    def count(self, case: Case) -> int:
        """Number of images for a case."""
        return self.examples or case.examples

    def describe(self) -> str:
        """Which images they are, for the table."""
        if self.directory:
            return "static binarized MNIST"
        return f"synthetic binary images (seed {self.seed})"

    def load(self, case: Case) -> np.ndarray:
        """The images of a case.

        Args:
            case: The model; it sets their shape and, by default, their number.

        Returns:
            Array of shape `(n, *case.shape)`, float32, of zeros and ones.

        Raises:
            ValueError: If the data set has fewer.
        """
        num = self.count(case)
        x = _real(self.directory) if self.directory else _synthetic(num, self.seed)
        if len(x) < num:
            raise ValueError(
                f"The benchmark expects {num} images. Received: the {len(x)} of "
                f"{REAL!r}. Give a smaller --examples."
            )
        return x[:num].reshape(-1, *case.shape).astype(np.float32)


def split(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Splits off the last tenth for validation, as Keras' `validation_split` does.

    Args:
        x: Images.

    Returns:
        The rows to train on and the last tenth, both views.
    """
    rows = int(len(x) * (1 - HELD_OUT))
    return x[:rows], x[rows:]


def _real(directory: str) -> np.ndarray:
    # The examples read the same files; they are scripts, not a package.
    path = str(pathlib.Path(__file__).parents[1] / "examples")
    if path not in sys.path:
        sys.path.append(path)
    import datasets

    return datasets.load(REAL, directory).train


def _synthetic(num: int, seed: int) -> np.ndarray:
    """Draws pixels whose logits are sums of a few smooth waves, randomly weighted."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(0.0, np.pi, SIDE_LENGTH)
    waves = np.cos(np.outer(np.arange(4), grid))
    templates = np.einsum("ia,jb->ijab", waves, waves).reshape(16, -1)[1:]
    logits = 2.0 * rng.standard_normal((num, len(templates))) @ templates
    return rng.random(logits.shape) < 1.0 / (1.0 + np.exp(-logits))
