"""NumPyro: `SVI` over batches in a compiled loop, as in its own example of a VAE.

Like that example it uses full batches only. With convolutions only the steps are
compiled.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, RenyiELBO, TraceMeanField_ELBO

from benchmarks.cases import Case
from benchmarks.sides import stax_networks
from benchmarks.sides.jax_loops import loop, ordered, shuffled


class Inference:
    """See `benchmarks.sides.Side`."""

    def __init__(self, case: Case, x: np.ndarray, seed: int) -> None:
        self._case = case
        self._networks = (stax_networks.encoder(case), stax_networks.decoder(case))
        iwae = case.draws > 1
        self._svi = SVI(
            self._model,
            self._guide,
            numpyro.optim.Adam(case.learning_rate),
            RenyiELBO(0.0, case.draws) if iwae else TraceMeanField_ELBO(),
        )
        self._x = jnp.asarray(x)
        self._ordered = ordered(jnp.arange(len(x)), case)
        self.examples = self._ordered.size
        init, self._key = jax.random.split(jax.random.key(seed))
        self._state = jax.jit(self._svi.init)(init, self._x[: case.batch])
        self._shuffled = jax.jit(lambda key: shuffled(key, len(x), case))
        self._epoch = loop(self._step, case, donate=True)
        self._pass = loop(self._test_step, case, donate=False)
        self._means = jax.jit(self._means_of)

    def train(self, epochs: int) -> float:
        """Runs the compiled epoch."""
        loss: Any = 0.0
        for _ in range(epochs):
            self._key, key = jax.random.split(self._key)
            rows = self._shuffled(key)
            self._state, loss = self._epoch(self._state, self._x, rows)
        return float(loss)

    def evaluate(self) -> float:
        """Runs `svi.evaluate` over batches in order."""
        return float(self._pass(self._state, self._x, self._ordered)[1])

    def encode(self) -> np.ndarray:
        """Encodes all at once."""
        return np.asarray(self._means(self._state, self._x))

    def _model(self, x: jax.Array) -> None:
        shape = (-1, self._case.latent)
        decode = numpyro.module("decoder", self._networks[1], shape)
        with numpyro.plate("batch", len(x)):
            law = dist.Normal(jnp.zeros(self._case.latent), 1.0).to_event(1)
            z = numpyro.sample("z", law)
            pixels = dist.Bernoulli(logits=decode(z)).to_event(1)
            numpyro.sample("x", pixels, obs=x.reshape(len(x), -1))

    def _guide(self, x: jax.Array) -> None:
        encode = numpyro.module("encoder", self._networks[0], (-1, *self._case.shape))
        mean, log_variance = jnp.split(encode(x), 2, axis=-1)
        with numpyro.plate("batch", len(x)):
            law = dist.Normal(mean, jnp.exp(0.5 * log_variance)).to_event(1)
            numpyro.sample("z", law)

    def _step(self, state: Any, x: jax.Array, rows: jax.Array) -> Any:
        state, loss = self._svi.update(state, x[rows])
        return state, loss / self._case.batch

    def _test_step(self, state: Any, x: jax.Array, rows: jax.Array) -> Any:
        return state, self._svi.evaluate(state, x[rows]) / self._case.batch

    def _means_of(self, state: Any, x: jax.Array) -> jax.Array:
        parameters = self._svi.get_params(state)["encoder$params"]
        return self._networks[0][1](parameters, x)[:, : self._case.latent]


def build(case: Case, x: np.ndarray, seed: int) -> Inference:
    """Builds the side.

    Args:
        case: The model.
        x: Images.
        seed: Seed.

    Returns:
        The side.
    """
    return Inference(case, x, seed)
