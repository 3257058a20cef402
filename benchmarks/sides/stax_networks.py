"""The networks for the two sides on JAX, in its small library `stax`."""

from typing import Any

import jax
from jax.example_libraries import stax

from benchmarks.cases import Case

Network = tuple[Any, Any]


def encoder(case: Case) -> Network:
    """From x to the mean and the logarithm of the variance of q(z|x).

    Args:
        case: The model.

    Returns:
        Functions `init(key, shape)` and `apply(parameters, x)`.
    """
    width = 2 * case.latent
    if case.network == "mlp":
        return stax.serial(stax.Dense(case.hidden), stax.Relu, stax.Dense(width))
    first, second = case.filters
    return stax.serial(
        stax.Conv(first, (3, 3), (2, 2), "SAME"),
        stax.Relu,
        stax.Conv(second, (3, 3), (2, 2), "SAME"),
        stax.Relu,
        stax.Flatten,
        stax.Dense(width),
    )


def decoder(case: Case) -> Network:
    """From z to the logits of the pixels, flat.

    Args:
        case: The model.

    Returns:
        Functions `init(key, shape)` and `apply(parameters, z)`.
    """
    if case.network == "mlp":
        return stax.serial(stax.Dense(case.hidden), stax.Relu, stax.Dense(case.pixels))
    height, width, channels = case.small
    first, second = case.filters
    return stax.serial(
        stax.Dense(height * width * channels),
        stax.Relu,
        _reshape(case.small),
        stax.ConvTranspose(second, (3, 3), (2, 2), "SAME"),
        stax.Relu,
        stax.ConvTranspose(first, (3, 3), (2, 2), "SAME"),
        stax.Relu,
        stax.Conv(1, (3, 3), (1, 1), "SAME"),
        stax.Flatten,
    )


def _reshape(shape: tuple[int, ...]) -> Network:
    def init(key: jax.Array, given: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
        return (given[0], *shape), ()

    def apply(parameters: Any, inputs: jax.Array, **kwargs: Any) -> jax.Array:
        return inputs.reshape(-1, *shape)

    return init, apply
