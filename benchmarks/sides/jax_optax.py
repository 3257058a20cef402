"""JAX + optax: an epoch is one compiled scan over shuffled batches, state donated.

A compiled step has one shape, so rows that do not fill a batch are left out, other ones
in every epoch. With convolutions only the steps are compiled.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cases import Case, split
from benchmarks.sides import stax_networks
from benchmarks.sides.jax_loops import loop, ordered, shuffled


class Trainer:
    """The networks, their optimizer and the functions to compile.

    Args:
        case: The model.
        seed: Seed.
    """

    def __init__(self, case: Case, seed: int) -> None:
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
        self._shuffled = jax.jit(shuffled, static_argnames=("num", "case"))
        self._epoch = loop(self._step, case, donate=True)
        self._pass = loop(self._test_step, case, donate=False)
        self._means = jax.jit(self._means_of)

    def epoch(self, x: jax.Array) -> jax.Array:
        """Trains on a new permutation of the rows.

        Args:
            x: Images.

        Returns:
            The mean loss.
        """
        self._key, key = jax.random.split(self._key)
        rows = self._shuffled(key, num=len(x), case=self._case)
        self._state, loss = self._epoch(self._state, x, rows)
        return loss

    def mean_loss(self, x: jax.Array, rows: jax.Array) -> jax.Array:
        """Computes the loss over batches.

        Args:
            x: Images.
            rows: Row numbers of each batch, shape `(steps, batch)`.

        Returns:
            The mean loss.
        """
        parameters, _, key = self._state
        return self._pass((parameters, key), x, rows)[1]

    def means(self, x: jax.Array) -> jax.Array:
        """Encodes all at once.

        Args:
            x: Images.

        Returns:
            The means of q(z|x).
        """
        return self._means(self._state[0], x)

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


class Scan:
    """See `benchmarks.sides.Side`."""

    def __init__(self, case: Case, x: np.ndarray, seed: int) -> None:
        self._trainer = Trainer(case, seed)
        self._x = jnp.asarray(x)
        self._ordered = ordered(jnp.arange(len(x)), case)
        self.examples = self._ordered.size

    def train(self, epochs: int) -> float:
        """Runs the compiled epoch."""
        return float([self._trainer.epoch(self._x) for _ in range(epochs)][-1])

    def evaluate(self) -> float:
        """Goes over batches in order."""
        return float(self._trainer.mean_loss(self._x, self._ordered))

    def encode(self) -> np.ndarray:
        """Encodes all at once."""
        return np.asarray(self._trainer.means(self._x))


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


def prepare(case: Case, x: np.ndarray, seed: int) -> Callable[[int], float]:
    """Builds the model and its Adam; see `benchmarks.sides.prepare`.

    Args:
        case: The model.
        x: Images.
        seed: Seed.

    Returns:
        Function that takes the number of epochs.
    """
    trainer = Trainer(case, seed)

    def fit(epochs: int) -> float:
        trained, held_out = map(jnp.asarray, split(x))
        rows = jnp.arange(len(held_out)).reshape(-1, _batch(len(held_out), case))
        history = []
        for _ in range(epochs):
            loss = trainer.epoch(trained)
            history.append([float(loss), float(trainer.mean_loss(held_out, rows))])
        return history[-1][1]

    return fit


def _batch(num: int, case: Case) -> int:
    """The largest batch size that leaves no row out."""
    return max(size for size in range(1, case.batch + 1) if num % size == 0)
