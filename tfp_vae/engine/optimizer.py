"""Which optimizer a model has, and when it can be built before the first step."""

from typing import Any

import keras

from tfp_vae.keras_internals import nested_layers


def build_optimizer(model: Any) -> None:
    """Builds a model's optimizer, if the first step will train what there is now.

    It stays unbuilt while a layer has no variables yet, which Keras does not ask of a
    model with a `build` of its own, and if `train_step` is the user's, which may train
    others. Then the first step builds it.

    Args:
        model: A Keras model.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("adam", loss="mse")
        >>> build_optimizer(model)
        >>> model.optimizer.built
        True
    """
    optimizer = getattr(model, "optimizer", None)
    step = getattr(model.train_step, "__module__", "").split(".")[0]
    if (
        isinstance(optimizer, keras.optimizers.Optimizer)
        and not optimizer.built
        and step in ("keras", __name__.split(".")[0])
        and all(layer.built for layer in nested_layers(model))
    ):
        with model.distribute_strategy.scope():
            optimizer.build(model.trainable_variables)


def classes_of(optimizer: Any) -> list[str]:
    """The classes of an optimizer and of those inside it.

    Args:
        optimizer: A Keras optimizer, or `None`.

    Returns:
        Their registered names; an empty list for `None`.

    Example:
        >>> classes_of(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()))
        ['LossScaleOptimizer', 'SGD']
    """
    found = []
    while optimizer is not None:
        found.append(keras.saving.get_registered_name(type(optimizer)))
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return found
