"""JAX + optax: an epoch is one compiled scan over shuffled batches, state donated.

A compiled step has one shape: the rest of the division by the batch is left out, other
rows in every epoch. Of convolutions the steps alone are compiled.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cases import Case
from benchmarks.sides import stax_networks
from benchmarks.sides.jax_loops import loop, ordered, shuffled


class Scan:
    """See `benchmarks.sides.Side`."""

    def __init__(self, case: Case, x: np.ndarray, seed: int) -> None:
        self._case = case
        init_encoder, self._encoder = stax_networks.encoder(case)
        init_decoder, self._decoder = stax_networks.decoder(case)
        keys = jax.random.split(jax.random.key(seed), 4)
        parameters = (
            init_encoder(keys[0], (-1, *case.shape))[1],
            init_decoder(keys[1], (-1, case.latent))[1],
        )
        self._adam = optax.adam(case.learning_rate)
        self._state = (parameters, self._adam.init(parameters), keys[2])
        self._key = keys[3]
        self._x = jnp.asarray(x)
        self._ordered = ordered(jnp.arange(len(x)), case)
        self.examples = self._ordered.size
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
        """Goes over batches in order."""
        parameters, _, key = self._state
        return float(self._pass((parameters, key), self._x, self._ordered)[1])

    def encode(self) -> np.ndarray:
        """Encodes all at once."""
        return np.asarray(self._means(self._state[0], self._x))

    def _step(self, state: Any, x: jax.Array, rows: jax.Array) -> Any:
        parameters, adam, key = state
        key, draw = jax.random.split(key)
        loss, gradients = jax.value_and_grad(self._loss)(parameters, x[rows], draw)
        updates, adam = self._adam.update(gradients, adam, parameters)
        return (optax.apply_updates(parameters, updates), adam, key), loss

    def _test_step(self, state: Any, x: jax.Array, rows: jax.Array) -> Any:
        parameters, key = state
        key, draw = jax.random.split(key)
        return (parameters, key), self._loss(parameters, x[rows], draw)

    def _means_of(self, parameters: Any, x: jax.Array) -> jax.Array:
        return self._encoder(parameters[0], x)[:, : self._case.latent]

    def _loss(self, parameters: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        k = self._case.draws
        mean, log_variance = jnp.split(self._encoder(parameters[0], x), 2, axis=-1)
        noise = jax.random.normal(key, (k, *mean.shape))
        z = mean + jnp.exp(0.5 * log_variance) * noise
        logits = self._decoder(parameters[1], z.reshape(-1, self._case.latent))
        pixels = x.reshape(len(x), -1)
        logits = logits.reshape(k, *pixels.shape)
        nll = (jax.nn.softplus(logits) - pixels * logits).sum(-1)
        if k == 1:
            inside = 1 + log_variance - mean**2 - jnp.exp(log_variance)
            return (nll[0] - 0.5 * inside.sum(-1)).mean()
        log_ratio = 0.5 * (noise**2 + log_variance - z**2).sum(-1)
        bounds = jax.nn.logsumexp(log_ratio - nll, axis=0) - math.log(k)
        return -bounds.mean()


def build(case: Case, x: np.ndarray, seed: int) -> Scan:
    """Builds the side.

    Args:
        case: The model.
        x: Images.
        seed: Seed.

    Returns:
        The side.
    """
    return Scan(case, x, seed)
