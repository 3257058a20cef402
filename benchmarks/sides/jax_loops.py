"""Loops over batches for the two sides on JAX: one compiled scan, or compiled steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cases import Case

Step = Callable[[Any, jax.Array, jax.Array], Any]


def shuffled(key: jax.Array, num: int, case: Case) -> jax.Array:
    """Shuffled rows of an epoch's full batches; the remaining rows are left out.

    Args:
        key: Random key of the order.
        num: Number of rows.
        case: The model; it sets the batch size.

    Returns:
        Array of shape `(steps, batch)`.
    """
    return ordered(jax.random.permutation(key, num), case)


def ordered(rows: jax.Array, case: Case) -> jax.Array:
    """Rows in order as full batches; the remaining rows are left out.

    Args:
        rows: Rows, of shape `(n,)`.
        case: The model; it sets the batch size.

    Returns:
        Array of shape `(steps, batch)`.
    """
    steps = len(rows) // case.batch
    return rows[: steps * case.batch].reshape(steps, case.batch)


def loop(step: Step, case: Case, donate: bool) -> Step:
    """Compiles a loop over batches from a step.

    For dense layers a scan is fastest. XLA on a CPU computes convolutions several times
    slower inside a loop than outside, so their loop is in Python.

    Args:
        step: From state, data and the rows of a batch to state and loss.
        case: The model; it says which networks are used.
        donate: Whether the buffers of the old state may be reused.

    Returns:
        Function from state, data and the rows of all batches to state and mean loss.
    """
    donated = (0,) if donate else ()

    def scan(state: Any, x: jax.Array, batches: jax.Array) -> Any:
        state, losses = jax.lax.scan(lambda s, rows: step(s, x, rows), state, batches)
        return state, losses.mean()

    if case.network == "mlp":
        return jax.jit(scan, donate_argnums=donated)
    compiled = jax.jit(step, donate_argnums=donated)

    def python(state: Any, x: jax.Array, batches: jax.Array) -> Any:
        losses = []
        for rows in batches:
            state, loss = compiled(state, x, rows)
            losses.append(loss)
        return state, jnp.stack(losses).mean()

    return python
