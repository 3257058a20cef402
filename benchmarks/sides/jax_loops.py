"""How the two sides on JAX go over batches: one compiled scan, or compiled steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cases import Case

Step = Callable[[Any, jax.Array, jax.Array], Any]


def shuffled(key: jax.Array, num: int, case: Case) -> jax.Array:
    """Rows of the batches of an epoch, without the rest of the division.

    Args:
        key: Key of their order.
        num: How many rows there are.
        case: Says the size of a batch.

    Returns:
        Array of shape `(steps, batch)`.
    """
    return ordered(jax.random.permutation(key, num), case)


def ordered(rows: jax.Array, case: Case) -> jax.Array:
    """Rows as batches, without the rest of the division.

    Args:
        rows: Rows, of shape `(n,)`.
        case: Says the size of a batch.

    Returns:
        Array of shape `(steps, batch)`.
    """
    steps = len(rows) // case.batch
    return rows[: steps * case.batch].reshape(steps, case.batch)


def loop(step: Step, case: Case, donate: bool) -> Step:
    """Compiles what goes over batches with a step.

    Of dense layers a scan is fastest. Of convolutions XLA has several times slower code
    on a CPU inside of a loop than outside, so that their loop is Python's.

    Args:
        step: From state, data and the rows of a batch to state and loss.
        case: Says which networks they are.
        donate: Whether the state given is used up.

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
