"""`keras.Model` and `keras.Sequential` with the compiled `fit`."""

from typing import Any

import keras

from tfp_vae.engine.fit import CompiledFit
from tfp_vae.keras_internals import Functional, functional_arguments


@keras.saving.register_keras_serializable("tfp_vae")
class Model(CompiledFit, keras.Model):
    """`keras.Model` whose `fit` and `evaluate` run many steps in one program.

    Call it or subclass it like `keras.Model`::

        model = tv.Model(inputs, outputs)

        class MyModel(tv.Model):
            ...

    A drop-in replacement: constructors, `compile`, `fit`, `evaluate`, `predict`,
    callbacks, custom steps, saving and export work as in Keras. `.weights.h5` files and
    `set_weights` exchange weights with Keras' models; a whole model in one `.h5` file
    is not supported. `compile` documents the automatic choices.

    Args:
        *args: As in `keras.Model`.
        **kwargs: As there.

    Example:
        >>> x = keras.Input((8,))
        >>> p = tv.IndependentNormal(1)(keras.layers.Dense(2)(x))
        >>> model = Model(x, p)
        >>> model.compile("adam", loss=lambda y, p: -p.log_prob(y))
        >>> history = model.fit(np.eye(8), np.ones(8), verbose=0)
        >>> model(np.eye(8)).mean().shape
        TensorShape([8, 1])
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Makes a functional model if the arguments are those of one."""
        if cls is Model and functional_arguments(args, kwargs):
            cls = FunctionalModel
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if functional_arguments(args, kwargs) and not isinstance(self, Functional):
            _make_functional(type(self))
        super().__init__(*args, **kwargs)


@keras.saving.register_keras_serializable("tfp_vae")
class FunctionalModel(Model, Functional):
    """The class of `tv.Model(inputs, outputs)`.

    Args:
        *args: As in `keras.Model`.
        **kwargs: As there.

    Example:
        >>> x = keras.Input((8,))
        >>> type(tv.Model(x, keras.layers.Dense(2)(x))).__name__
        'FunctionalModel'
    """


@keras.saving.register_keras_serializable("tfp_vae")
class Sequential(CompiledFit, keras.Sequential):
    """`keras.Sequential` whose `fit` and `evaluate` run many steps in one program.

    Args:
        *args: As in `keras.Sequential`.
        **kwargs: As there.

    Example:
        >>> model = Sequential([keras.Input((8,)), keras.layers.Dense(2)])
        >>> model.compile("adam", loss="mse")
        >>> sorted(model.fit(np.eye(8), np.ones((8, 2)), verbose=0).history)
        ['loss']
    """


def _make_functional(cls: type) -> type:
    """Makes a subclass functional, as Keras does, but stops at `tv.Model`.

    Keras would permanently replace the bases of `tv.Model` itself, after which no other
    subclass could be made.
    """
    cls.__bases__ = tuple(
        FunctionalModel
        if base is Model
        else _make_functional(base)
        if issubclass(base, Model)
        else base
        for base in cls.__bases__
    )
    return cls
