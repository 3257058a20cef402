"""Multilayer perceptrons that end in distributions, for the reproductions."""

from collections.abc import Sequence
from typing import Any

import keras


def encoder(
    shape: tuple[int, ...],
    hidden: Sequence[int],
    activation: str,
    posterior: Any,
    **options: Any,
) -> keras.Sequential:
    """From images to q(z | x).

    Args:
        shape: Of an image.
        hidden: Widths of the hidden layers.
        activation: Their activation.
        posterior: A distribution layer.
        **options: Passed to the layer that puts out its parameters.

    Returns:
        The network.
    """
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            *(keras.layers.Dense(width, activation=activation) for width in hidden),
            keras.layers.Dense(posterior.parameters_width, **options),
            posterior,
        ]
    )


def decoder(
    latent_size: int,
    hidden: Sequence[int],
    activation: str,
    likelihood: Any,
    **options: Any,
) -> keras.Sequential:
    """From latents to p(x | z).

    Args:
        latent_size: Coordinates of z.
        hidden: Widths of the hidden layers.
        activation: Their activation.
        likelihood: A distribution layer.
        **options: Passed to the layer that puts out its parameters.

    Returns:
        The network.
    """
    return keras.Sequential(
        [
            keras.Input((latent_size,)),
            *(keras.layers.Dense(width, activation=activation) for width in hidden),
            keras.layers.Dense(likelihood.parameters_width, **options),
            likelihood,
        ]
    )
