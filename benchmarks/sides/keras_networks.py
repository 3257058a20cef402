"""The networks for Keras 2 and 3, up to the distributions."""

from typing import Any

from benchmarks.cases import Case


def encoder_layers(
    keras: Any, case: Case, width: int, linear: bool = False
) -> list[Any]:
    """Layers from x to the parameters of q(z|x).

    Args:
        keras: The module `keras` or `tf_keras`.
        case: The model.
        width: Number of parameters.
        linear: Whether to leave out biases and activations.

    Returns:
        The layers, without an input.
    """
    made = _Layers(keras, linear)
    if case.network == "mlp":
        return [*made.hidden(case), made.dense(width, last=True)]
    first, second = case.filters
    return [
        made.conv("Conv2D", first),
        made.conv("Conv2D", second),
        keras.layers.Flatten(),
        made.dense(width, last=True),
    ]


def decoder_layers(keras: Any, case: Case, linear: bool = False) -> list[Any]:
    """Layers from z to the logits of the pixels, flat.

    Args:
        keras: The module `keras` or `tf_keras`.
        case: The model.
        linear: Whether to leave out biases and activations.

    Returns:
        The layers, without an input.
    """
    made = _Layers(keras, linear)
    if case.network == "mlp":
        return [*made.hidden(case), made.dense(case.pixels, last=True)]
    height, width, channels = case.small
    first, second = case.filters
    return [
        made.dense(height * width * channels),
        keras.layers.Reshape(case.small),
        made.conv("Conv2DTranspose", second),
        made.conv("Conv2DTranspose", first),
        made.conv("Conv2D", 1, strides=1, last=True),
        keras.layers.Flatten(),
    ]


class _Layers:
    def __init__(self, keras: Any, linear: bool) -> None:
        self._layers = keras.layers
        self._linear = linear

    def hidden(self, case: Case) -> list[Any]:
        dropout = case.dropout and not self._linear
        dropped = [self._layers.Dropout(case.dropout)] if dropout else []
        return [self.dense(case.hidden), *dropped]

    def dense(self, units: int, last: bool = False) -> Any:
        return self._layers.Dense(units, **self._options(last))

    def conv(
        self, kind: str, filters: int, strides: int = 2, last: bool = False
    ) -> Any:
        return getattr(self._layers, kind)(
            filters, 3, strides=strides, padding="same", **self._options(last)
        )

    def _options(self, last: bool) -> dict[str, Any]:
        if self._linear:
            return {"use_bias": False}
        return {"activation": None if last else "relu"}
