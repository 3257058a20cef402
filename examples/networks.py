"""Networks that several reproductions share."""

from collections.abc import Callable, Sequence
from typing import Any

import keras


def encoder(
    shape: tuple[int, ...],
    hidden: Sequence[int],
    activation: str,
    posterior: Any,
    width: int | None = None,
    **options: Any,
) -> keras.Sequential:
    """From images to q(z | x).

    Args:
        shape: Shape of an image.
        hidden: Widths of the hidden layers.
        activation: Their activation.
        posterior: A distribution layer.
        width: How many parameters it takes, if it does not say so itself.
        **options: Passed to the layer that outputs its parameters.

    Returns:
        The network.
    """
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Flatten(),
            *(keras.layers.Dense(width, activation=activation) for width in hidden),
            keras.layers.Dense(width or posterior.parameters_width, **options),
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
        **options: Passed to the layer that outputs its parameters.

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


def redraw(networks: Sequence[keras.Sequential], law: Callable[[int], Any]) -> None:
    """Draws the initial weights of dense layers again, also their biases.

    Args:
        networks: The networks.
        law: Function from the number of a layer's inputs to an initializer.
    """
    for network in networks:
        for layer in network.layers:
            if isinstance(layer, keras.layers.Dense):
                for weight in layer.weights:
                    weight.assign(law(layer.kernel.shape[0])(weight.shape))


def of_frames(x: Any, filters: int, units: int) -> Any:
    """A vector for each frame, from convolutions shared by all frames.

    Args:
        x: Sequences of images, shape `(batch, steps, height, width, colours)`.
        filters: Number of filters of each convolution.
        units: Coordinates of a vector.

    Returns:
        A tensor of shape `(batch, steps, units)`.
    """
    steps, *image = x.shape[1:]
    h = keras.ops.reshape(x, (-1, *image))
    for _ in range(3):
        h = keras.layers.Conv2D(filters, 3, 2, "same", activation="leaky_relu")(h)
    h = keras.layers.Dense(units, "leaky_relu")(keras.layers.Flatten()(h))
    return keras.ops.reshape(h, (-1, steps, units))
